"""report=: in-batch recall and the like from the statistics of a loss."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor

import contrastile
from contrastile.metrics import InBatch
from support.combinations import by_default
from support.launch import gather_from
from support.loss_cases import id_of, usable
from support.refusals import refuses

N, D, EXTRA, SCALE = 37, 8, 11, 6.0


def unit_rows(seed: int, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)


X = unit_rows(0, N, D)
Y = torch.nn.functional.normalize(X + 0.9 * unit_rows(1, N, D), dim=1)
Y[5] = Y[4]  # a duplicate: neither finds its own
NEGATIVES, HARD = unit_rows(2, EXTRA, D), unit_rows(3, N, 3, D)
IDS = torch.arange(N) // 2
SOME = torch.arange(N) % 5 > 0
LOG_PROB = -1.0 - torch.arange(N) % 3


def dense(z: Tensor, offset: int = 0, dropped: Tensor | None = None, present: Tensor | None = None) -> list[float]:
    """The three fields of rows of logits (n, m) whose own columns begin at an offset."""
    rows = torch.arange(len(z))
    own = rows + offset
    dropped = torch.zeros_like(z, dtype=torch.bool) if dropped is None else dropped.clone()
    dropped[rows, own] = False
    z = z.masked_fill(dropped, -torch.inf)
    others = z.clone()
    others[rows, own] = -torch.inf
    peak, positive = others.amax(1), z[rows, own]
    there = torch.ones(len(z), dtype=torch.bool) if present is None else present
    some = there & (peak > -torch.inf)
    found = (positive > peak)[there].double().mean(), z.softmax(1)[rows, own][there].mean(), peak[some].mean()
    return [x.item() for x in found]


def told(report: InBatch) -> list[float | None]:
    assert all(x is None or (x.dim() == 0 and not x.requires_grad) for x in vars(report).values())
    return [None if x is None else x.item() for x in vars(report).values()]


def check(report: InBatch, rows: list[float] | None, columns: list[float] | None, tolerance: float = 1e-12) -> None:
    agree(told(report), [*(rows or [None] * 3), *(columns or [None] * 3)], tolerance)


def agree(found: list[float | None], wanted: list[float | None], tolerance: float = 1e-12) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one == other or one == pytest.approx(other, rel=tolerance)


SAME = (IDS[:, None] == IDS) & ~torch.eye(N, dtype=torch.bool)
Z = SCALE * X @ Y.T


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("normalize", [False, True])
def test_both_directions(reduction, normalize):
    report = InBatch()
    contrastile.clip_loss(
        3.0 * X if normalize else X, Y, SCALE, normalize=normalize, reduction=reduction, report=report
    )
    assert 0 < told(report)[0] < 1
    check(report, dense(Z), dense(Z.T))


OPTIONS = {
    "rows": ({"direction": "rows"}, None, (True, False)),
    "columns": ({"direction": "cols"}, None, (False, True)),
    "ids": ({"image_ids": IDS}, SAME, (True, True)),
    "smoothing": ({"label_smoothing": 0.1}, None, (True, True)),
    "two passes": ({"detach_keys": True}, None, (True, True)),
    "weights": ({"weights": torch.rand(N)}, None, (True, True)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    options, dropped, (rows, columns) = OPTIONS[name]
    report = InBatch()
    contrastile.clip_loss(X, Y, SCALE, report=report, **options)
    check(report, dense(Z, dropped=dropped) if rows else None, dense(Z.T, dropped=dropped) if columns else None)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_those_that_are_there(reduction):
    x = torch.where(SOME[:, None], X, torch.nan)
    report, gone = InBatch(), ~SOME.expand(N, N)
    contrastile.clip_loss(x, Y, SCALE, present=SOME, report=report, reduction=reduction)
    check(report, dense(Z, 0, gone, SOME), dense(Z.T, 0, gone, SOME))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_queues_private_negatives_and_sampled_keys(reduction):
    report, options = InBatch(), {"temperature": 1 / SCALE, "reduction": reduction}
    z = SCALE * torch.cat([X @ Y.T, X @ NEGATIVES.T, torch.einsum("nd,nkd->nk", X, HARD)], 1)
    contrastile.info_nce(X, Y, negatives=NEGATIVES, hard_negatives=HARD, report=report, **options)
    check(report, dense(z), None)
    contrastile.info_nce(X, Y, negatives=NEGATIVES, symmetric=True, report=report, **options)
    check(report, dense(z[:, :-3]), dense(Z.T))
    contrastile.info_nce(X, Y, key_log_prob=LOG_PROB.double(), report=report, **options)
    check(report, dense(Z - LOG_PROB), None)
    spared = Z - LOG_PROB + torch.diag(LOG_PROB.double())
    contrastile.info_nce(X, Y, key_log_prob=LOG_PROB.double(), positive_log_prob=False, report=report, **options)
    check(report, dense(spared), None)


def test_keys_that_were_gathered():
    report, keys = InBatch(), torch.cat([NEGATIVES, Y])
    contrastile.info_nce(X, keys, temperature=1 / SCALE, key_offset=EXTRA, symmetric=True, report=report)
    z = SCALE * X @ keys.T
    check(report, dense(z, EXTRA), dense(Z.T))


@pytest.mark.parametrize("backend, dtype", usable("cpu"), ids=id_of)
@pytest.mark.parametrize("direction", ["mean", "rows"])
def test_backends_and_many_blocks(backend, dtype, direction):
    n = 900  # of rows more than one chunk
    x = torch.nn.functional.normalize(unit_rows(4, n, D), dim=1).to(dtype)
    y = torch.nn.functional.normalize(x.double() + 0.7 * unit_rows(5, n, D), dim=1).to(dtype)
    report = InBatch()
    loss = contrastile.clip_loss(
        x.requires_grad_(), y.requires_grad_(), SCALE, direction=direction, backend=backend, report=report
    )
    loss.backward()
    z = SCALE * (x.double() @ y.double().T).detach()
    columns = dense(z.T) if direction == "mean" else None
    check(report, dense(z), columns, 1e-12 if dtype == torch.float64 else 1e-5)


def test_neither_value_nor_gradients_change():
    found = []
    for report in (None, InBatch()):
        x, y, scale = X.clone().requires_grad_(), Y.clone().requires_grad_(), torch.tensor(SCALE).requires_grad_()
        loss = contrastile.clip_loss(x, y, scale, report=report)
        loss.backward()
        found.append([loss.detach(), x.grad, y.grad, scale.grad])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_entropy_by_the_gradient_of_the_scale():
    """As the documentation says."""
    scale = torch.tensor(SCALE, dtype=torch.float64).requires_grad_()
    loss = contrastile.clip_loss(X, Y, scale)
    loss.backward()
    entropies = [torch.distributions.Categorical(logits=z).entropy().mean() for z in (Z, Z.T)]
    assert (loss - scale * scale.grad).item() == pytest.approx(sum(entropies).item() / 2)


def test_converged_models():
    report = InBatch()
    contrastile.clip_loss(X[:4], X[:4], 100.0, report=report)
    assert told(report)[0] == 1 and told(report)[1] == pytest.approx(1.0)


def test_a_pair_without_others():
    report = InBatch()
    contrastile.clip_loss(X[:1], Y[:1], SCALE, report=report)
    assert told(report) == [1.0, 1.0, -torch.inf] * 2


def test_an_empty_batch_and_a_call_that_computes_less_leave_nothing_behind():
    report = InBatch()
    contrastile.clip_loss(X, Y, SCALE, report=report)
    contrastile.clip_loss(X, Y, SCALE, report=report, direction="cols")
    assert told(report)[:3] == [None] * 3 and None not in told(report)[3:]
    contrastile.clip_loss(X[:0], Y[:0], SCALE, report=report)
    assert told(report) == [None] * 6


def test_what_is_not_a_number_is_seen():
    report, x = InBatch(), X.clone()
    x[3, 3] = torch.nan
    contrastile.clip_loss(x, Y, SCALE, report=report)
    assert torch.stack([*vars(report).values()])[[1, 2]].isnan().all()


@pytest.mark.parametrize("dynamic", by_default((False, True), False))
def test_compiled(dynamic):
    report, found = InBatch(), []

    def loss(x, y):
        return contrastile.clip_loss(x, y, SCALE, report=report)

    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)):
        x, y = (v.float().clone().requires_grad_() for v in (X, Y))
        function(x, y).backward()
        found.append(told(report))
    assert found[0] == found[1]


def test_modules():
    report = InBatch()
    module = contrastile.ClipLoss(SCALE, report=report)
    for x in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        x(X, Y)
        assert x.report.recall == report.recall
    module(X, Y, report=None)
    assert "report=InBatch(" in repr(module)


@pytest.mark.parametrize("loss", [partial(contrastile.clip_loss, logit_scale=SCALE), contrastile.info_nce])
def test_bad_reports(loss):
    with refuses(TypeError, "^report must be a contrastile.metrics.InBatch, got dict"):
        loss(X, Y, report={})
    with refuses(ValueError, "^report must be None with matryoshka"):
        loss(X, Y, report=InBatch(), matryoshka=(4, 8))


# ---- across ranks

SIZES = (N - 4, 0, 4)  # of rows on each rank
STRATEGIES = ("gather", "ring")


def on_a_rank(rank: int) -> list[list[float | None]]:
    """What a rank is told, by strategy and reduction."""
    start = sum(SIZES[:rank])
    here, found = slice(start, start + SIZES[rank]), []
    for strategy in STRATEGIES:
        group = contrastile.distributed.Ranks("world", strategy)
        for options in ({}, {"direction": "rows"}, {"reduction": "none"}, {"present": SOME[here]}):
            report, (x, y) = InBatch(), (v[here].clone().requires_grad_() for v in (X, Y))
            contrastile.clip_loss(x, y, SCALE, group=group, report=report, **options).sum().backward()
            found.append(told(report))
    return found


def test_ranks_are_told_of_the_joint_batch():
    expected = []
    for options in ({}, {"direction": "rows"}, {"reduction": "none"}, {"present": SOME}):
        contrastile.clip_loss(X, Y, SCALE, report=(report := InBatch()), **options)
        expected.append(told(report))
    for found in gather_from(len(SIZES), on_a_rank):
        for one, other in zip(found, expected * len(STRATEGIES), strict=True):
            agree(one, other)
