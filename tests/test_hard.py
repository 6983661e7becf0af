"""Hard negatives: the largest alone (num_hard), or all by weights (hardness)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import contrastile
from contrastile import debiased_info_nce, debiased_nt_xent, info_nce, pair_reduce
from contrastile.ops import EngineOptions, Pairs, hardest, stream
from contrastile.ops.arguments import arguments
from contrastile.ops.record import packed
from support.launch import gather_from
from support.memory import needs_linux, peak_bytes
from support.refusals import refuses

N, M, D, K = 9, 40, 6, 7
G = torch.Generator().manual_seed(2)
BACKENDS = pytest.mark.parametrize("backend", ["torch", "cpu"])


def unit_rows(*shape):
    return F.normalize(torch.randn(*shape, generator=G, dtype=torch.float64), dim=-1).requires_grad_()


QUERY, KEY, BANK = unit_rows(N, D), unit_rows(N, D), unit_rows(M, D)
TAU = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
EVERY_QUERY = torch.zeros(N, dtype=torch.int64)  # equal ids: the keys of the batch are no negatives


def same(value, expected, *leaves):
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(x, leaves, retain_graph=True) for x in (value, expected)]
    for found, true in zip(*grads, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-10, atol=1e-13)


# ---- num_hard


def hard_contrastive(count):
    """Equation 9, on raw exponentials: of each anchor's similarities with the bank the `count` largest."""
    positive = torch.exp((QUERY * KEY).sum(1) / TAU)
    similarity = QUERY @ BANK.T
    threshold = similarity.detach().topk(count, dim=1).values[:, -1:]
    kept = torch.where(similarity >= threshold, torch.exp(similarity / TAU), 0.0)
    return -torch.log(positive / (kept.sum(1) + positive)).mean()


@pytest.mark.parametrize("count", [1, K, M - 1])
def test_the_hardest_of_a_bank(count):
    found = info_nce(QUERY, KEY, negatives=BANK, query_ids=EVERY_QUERY, temperature=TAU, num_hard=count)
    same(found, hard_contrastive(count), QUERY, KEY, BANK, TAU)


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"negatives": BANK}], ids=str)
@pytest.mark.parametrize("count", [N + M - 1, 1 << 40])
def test_no_more_negatives_than_that_are_all_of_them(options, count):
    same(info_nce(QUERY, KEY, num_hard=count, **options), info_nce(QUERY, KEY, **options), QUERY, KEY)


@pytest.mark.parametrize("count", [1, 3])
def test_others_get_no_gradient(count):
    query, bank = QUERY[:1].detach(), BANK.detach().clone().requires_grad_()
    info_nce(query, KEY[:1].detach(), negatives=bank, num_hard=count).backward()
    hardest_of_all = (query @ bank.T).topk(count).indices[0].sort().values
    assert torch.equal(bank.grad.any(dim=1).nonzero()[:, 0], hardest_of_all)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@BACKENDS
def test_equal_negatives_stay_together(backend, dtype):
    """Four times the same column across the limit, and rows of zeros, to which all columns are equal."""
    if backend == "cpu" and dtype == torch.float64:
        pytest.skip("has no float64")
    query, bank = QUERY.detach().clone().to(dtype), BANK.detach().repeat(4, 1).to(dtype)
    query[3] = 0.0
    bank[:, -1] *= 1.5
    key = KEY.detach().to(dtype)
    given = {"negatives": bank, "query_ids": EVERY_QUERY, "temperature": 0.3, "backend": backend, "reduction": "none"}
    losses = [info_nce(query, key, num_hard=count, **given) for count in (5, 6, 7, 8)]
    for found in losses[:-1]:
        assert torch.equal(found, losses[-1])
    wide = [x.double() for x in (query, key, bank)]
    logits = wide[0] @ wide[2].T / 0.3
    logits = logits.masked_fill(logits < logits.topk(8).values[:, -1:] - 1e-6, -torch.inf)
    expected = F.softplus(logits.logsumexp(1) - (wide[0] * wide[1]).sum(1) / 0.3)
    torch.testing.assert_close(losses[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_many_blocks_of_columns_and_rows(monkeypatch):
    options = {"negatives": BANK, "num_hard": K, "symmetric": True, "false_negative_margin": 0.2}
    whole = info_nce(QUERY, KEY, **options)
    monkeypatch.setattr(hardest, "COLUMNS", 3)
    monkeypatch.setattr(stream, "COPIES", 1 << 17)  # one or two rows
    same(info_nce(QUERY, KEY, **options), whole, QUERY, KEY, BANK)


def of_ranks(rank):
    """Rows of this rank, with a bank that every rank brings a part of."""
    own, bank = slice(*((0, 2), (2, 2), (2, N))[rank]), slice(*((0, 5), (5, M), (M, M))[rank])
    given = {"negatives": BANK[bank].detach(), "temperature": 0.3, "reduction": "none", "group": "world"}
    return [info_nce(QUERY[own].detach(), KEY[own].detach(), num_hard=count, **given) for count in (4, 1000)]


@pytest.mark.dist
def test_the_hardest_of_all_ranks():
    found = [torch.cat(rows) for rows in zip(*gather_from(3, of_ranks), strict=True)]
    for rows, count in zip(found, (4, 1000), strict=True):
        given = {"negatives": BANK, "temperature": 0.3, "reduction": "none"}
        torch.testing.assert_close(rows, info_nce(QUERY, KEY, num_hard=count, **given).detach())


def test_the_operator_passes_opcheck():
    args = arguments(Pairs(QUERY.detach(), [KEY.detach(), BANK.detach()], keep="other_index"), EngineOptions())
    opcheck(torch.ops.contrastile.hardest.default, (*packed(args), 3), test_utils=("test_schema", "test_faketensor"))


@needs_linux
def test_scores_of_all_pairs_are_not_held():
    pairs = "contrastile.ops.Pairs(x, y, keep='other_index')"
    call = f"(contrastile.ops.hardest_limit({pairs}, 20, contrastile.ops.EngineOptions()).sum() + x.sum())"
    assert peak_bytes(call, rows=6000) < 6000 * 6000 * 4


@pytest.mark.parametrize("n", [0, 1])
def test_few_queries(n):
    value = info_nce(QUERY[:n], KEY[:n], num_hard=2)
    assert value == 0
    torch.autograd.grad(value, [QUERY, KEY])
    with_bank = info_nce(QUERY[:n], KEY[:n], negatives=BANK[:n], num_hard=2)
    torch.testing.assert_close(with_bank, info_nce(QUERY[:n], KEY[:n], negatives=BANK[:n]))


@pytest.mark.parametrize("row, column", [(2, None), (None, 5)])
def test_nan_is_not_lost(row, column):
    query, key = QUERY.detach().clone(), KEY.detach().clone()
    if row is not None:
        query[row, 1] = torch.nan
    if column is not None:
        key[column, 1] = torch.nan
    found = info_nce(query, key, num_hard=2, reduction="none").isnan()
    assert torch.equal(found, torch.arange(N) == row) if column is None else found.all()


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"num_hard": 0}, ValueError, "^num_hard must be >= 1, got 0"),
        ({"num_hard": True}, TypeError, "^num_hard must be an int or None, got bool"),
        ({"num_hard": 2.0}, TypeError, "^num_hard must be an int or None, got float"),
        ({"num_hard": 2, "label_smoothing": 0.1}, ValueError, "^num_hard cannot be combined"),
        ({"num_hard": 2, "hard_negatives": unit_rows(N, 2, D)}, ValueError, "^num_hard cannot be combined"),
        ({"num_hard": 2, "key_log_prob": torch.zeros(N)}, ValueError, "^num_hard cannot be combined"),
    ],
)
def test_what_has_no_meaning_is_refused(options, error, message):
    with refuses(error, message):
        info_nce(QUERY.detach(), KEY.detach(), **options)


def test_hard_simple_is_a_composition():
    """Equation 3 of the same K: the positive's similarity against lambda times the sum of the K largest."""
    weight, similarity = 0.1, QUERY @ BANK.T
    expected = (weight * similarity.topk(K, dim=1).values.sum(1) - (QUERY * KEY).sum(1)).mean()

    limit = torch.cat([(x @ BANK.T).topk(K + 1).values[:, -2:].mean(1) for x in QUERY.split(4)]).detach()
    largest = pair_reduce(QUERY, BANK, row_bias=-limit, reduce="relu").rows + K * limit
    same((weight * largest - (QUERY * KEY).sum(1)).mean(), expected, QUERY, KEY, BANK)


# ---- hardness


def hcl(out_1, out_2, tau_plus, beta):
    """The official criterion, estimator "hard", as it is written: raw exponentials, masks."""
    n = len(out_1)
    out = torch.cat([out_1, out_2])
    neg = torch.exp(out @ out.T / TAU)
    mask = torch.ones(n, 2 * n, dtype=torch.bool)
    for i in range(n):
        mask[i, i] = mask[i, i + n] = False
    neg = neg.masked_select(mask.repeat(2, 1)).view(2 * n, -1)
    pos = torch.exp((out_1 * out_2).sum(1) / TAU).repeat(2)
    count = 2 * n - 2
    importance = (beta * neg.log()).exp()
    reweighted = (importance * neg).sum(1) / importance.mean(1)
    total = (-tau_plus * count * pos + reweighted) / (1 - tau_plus)
    return -torch.log(pos / (pos + torch.clamp(total, min=count * torch.exp(-1 / TAU.detach()).item()))).mean()


@pytest.mark.parametrize("tau_plus", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_hcl(tau_plus, beta):
    found = debiased_nt_xent(QUERY, KEY, temperature=TAU, tau_plus=tau_plus, hardness=beta)
    same(found, hcl(QUERY, KEY, tau_plus, beta), QUERY, KEY, TAU)


def test_hcl_of_queries_and_keys():
    similarity = QUERY @ KEY.T / TAU
    negative = similarity.masked_select(~torch.eye(N, dtype=torch.bool)).view(N, N - 1).exp()
    weights = negative**2 / (negative**2).mean(1, keepdim=True)
    positive = similarity.diagonal().exp()
    total = ((weights * negative).sum(1) - (N - 1) * 0.02 * positive) / 0.98
    expected = -torch.log(positive / (positive + total)).mean()
    same(debiased_info_nce(QUERY, KEY, temperature=TAU, tau_plus=0.02, hardness=2.0), expected, QUERY, KEY, TAU)


@pytest.mark.parametrize("loss", [debiased_info_nce, debiased_nt_xent])
def test_no_hardness_is_the_debiased_loss(loss):
    assert torch.equal(loss(QUERY, KEY, hardness=0.0), loss(QUERY, KEY))
    small = loss(QUERY, KEY, temperature=TAU, hardness=1e-9)
    torch.testing.assert_close(small, loss(QUERY, KEY, temperature=TAU), rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("loss", [debiased_info_nce, debiased_nt_xent])
def test_hardness_at_low_temperatures(loss):
    """e^{(1 + beta) / 0.005} is far beyond any type: everything stays in logarithms."""
    x, y = (z.detach().float().requires_grad_() for z in (QUERY, KEY))
    value = loss(x, y, temperature=0.005, hardness=4.0)
    value.backward()
    truth = loss(x.detach().double(), y.detach().double(), temperature=0.005, hardness=4.0)
    torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=1e-5)
    assert x.grad.isfinite().all() and y.grad.isfinite().all()


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("loss", [debiased_info_nce, debiased_nt_xent])
def test_hardness_without_negatives(loss, n):
    value = loss(QUERY[:n], KEY[:n], hardness=1.0)
    assert value == 0
    assert not any(g.any() for g in torch.autograd.grad(value, [QUERY, KEY]))


@pytest.mark.parametrize("value, error", [(-0.1, ValueError), (torch.tensor(1.0), ValueError), ("1", TypeError)])
def test_bad_hardness(value, error):
    for loss in (debiased_info_nce, debiased_nt_xent):
        with refuses(error, "^hardness must be"):
            loss(QUERY, KEY, hardness=value)


def test_modules_have_both():
    assert torch.equal(contrastile.InfoNCE(num_hard=3)(QUERY, KEY), info_nce(QUERY, KEY, num_hard=3))
    assert torch.equal(contrastile.DebiasedNTXent(hardness=1.0)(QUERY, KEY), debiased_nt_xent(QUERY, KEY, hardness=1.0))
