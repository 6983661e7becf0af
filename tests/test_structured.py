"""Losses of prototypes, parts, blocks, margins and groups against the official codes, restated; what is refused."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import contrastile
from contrastile import (
    block_info_nce,
    clip_loss,
    cma_loss,
    global_local_info_nce,
    info_nce,
    m3el_loss,
    margin_info_nce,
    prototype_loss,
    reference,
)
from support import exact
from support.exact import same
from support.refusals import refuses

N, D, M = 9, 6, 14
G = torch.Generator().manual_seed(3)
unit_rows = partial(exact.unit_rows, G)
X, Y, QUEUE = unit_rows(N, D), unit_rows(N, D), unit_rows(M, D)
OWN = torch.arange(N)
TAU = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)


# ---- prototypes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_prototypes_are_a_linear_classifier(smoothing):
    """MMRL: class names at scale 100; torch's own cross entropy. Some classes have no item."""
    names, labels = unit_rows(12, D), torch.arange(N) % 4
    expected = F.cross_entropy(100.0 * X @ names.T, labels, label_smoothing=smoothing)
    same(prototype_loss(X, names, labels, temperature=0.01, label_smoothing=smoothing), expected, X, names)
    expected = F.cross_entropy(X @ names.T / TAU, labels, label_smoothing=smoothing, reduction="none")
    found = prototype_loss(X, names, labels, temperature=TAU, label_smoothing=smoothing, reduction="none")
    same(found, expected, X, names, TAU)


def test_prompts_of_each_image():
    """GOPro: (N, C, D) prototypes, normalised, times the exponential of CLIP's parameter."""
    prompts, labels = unit_rows(N, 5, D), torch.arange(N) % 5
    scale = torch.tensor(math.log(20.0), dtype=torch.float64, requires_grad=True)
    logits = torch.stack([scale.exp() * x @ t.T for x, t in zip(X, prompts, strict=True)])
    found = prototype_loss(X, prompts, labels, temperature=(-scale).exp())
    same(found, F.cross_entropy(logits, labels), X, prompts, scale)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_converged_classifier_keeps_its_digits(backend, reduction):
    """A float32 log-sum-exp less its positive has none at a loss of 1e-7."""
    names = torch.eye(24)[:20]
    x = F.normalize(names + 0.05 * torch.randn(20, 24, generator=G), dim=1)
    options = {"temperature": 0.05, "reduction": reduction}
    found = prototype_loss(x, names, torch.arange(20), backend=backend, **options)
    true = reference.prototype_loss(x.double(), names.double(), torch.arange(20), **options)
    assert 1e-9 < true.max() < 1e-5
    torch.testing.assert_close(found.double(), true, rtol=2e-5, atol=0.0)


def test_labels_of_classes_that_are_not_there_are_named():
    names = QUEUE.detach()
    for bad in (-1, M):
        labels = OWN.clone()
        labels[4] = bad
        for prototypes, count in ((names, M), (unit_rows(N, M, D), M)):
            with refuses(ValueError, rf"^labels must lie in \[0, C = {count}\)"):
                prototype_loss(X, prototypes, labels)
        here = OWN != 4
        kept = prototype_loss(X, names, labels, present=here)
        torch.testing.assert_close(kept, prototype_loss(X[here], names, labels[here]))


BAD_PROTOTYPES = [
    (QUEUE[0], ValueError, r"^prototypes must have shape \(C, D\) or \(9, C, D\), got \(6,\)"),
    (QUEUE[None], ValueError, r"^prototypes must have shape \(C, D\) or \(9, C, D\), got \(1, 14, 6\)"),
    (QUEUE[:, :3], ValueError, "^prototypes must have the width of x, 6, got 3"),
    (QUEUE.long(), TypeError, "^prototypes must be float32"),
    (QUEUE.to("meta"), ValueError, "^prototypes must be on cpu"),
    ([1.0], TypeError, "^prototypes must be a torch.Tensor"),
]


@pytest.mark.parametrize("bad, error, message", BAD_PROTOTYPES, ids=[x[2][12:60] for x in BAD_PROTOTYPES])
def test_bad_prototypes(bad, error, message):
    with refuses(error, message):
        prototype_loss(X, bad, OWN)


# ---- parts (TCL)


def in_batch_g2l_loss(local, whole, temp, attention_mask=None):
    """The official function, which masks by adding 10000."""
    n, count, dim = local.shape
    u_p = torch.matmul(local, whole.unsqueeze(2)).unsqueeze(2) / temp
    if attention_mask is not None:
        kept = attention_mask.unsqueeze(2).unsqueeze(3)
        u_p = kept * u_p + 10000.0 * (1 - kept)
    u_n = (whole @ local.reshape(-1, dim).T / temp).reshape(n, 1, n, count).permute(0, 2, 3, 1)
    n_mask = 1 - torch.eye(n)[:, :, None, None]
    u_n = n_mask * u_n - 10000.0 * (1 - n_mask)
    if attention_mask is not None:
        kept = attention_mask.unsqueeze(0).unsqueeze(3).expand(n, -1, -1, -1)
        u_n = kept * u_n - 10000.0 * (1 - kept)
    u_n = u_n.reshape(n, n * count, 1).unsqueeze(1).expand(-1, count, -1, -1)
    log_p = F.log_softmax(torch.cat([u_p, u_n], dim=2), dim=2)[:, :, 0].squeeze(2)
    if attention_mask is None:
        return -log_p.mean()
    return (torch.sum(-log_p, dim=1) / torch.sum(attention_mask, dim=1)).mean()


def test_tcl():
    local = unit_rows(N, 4, D)
    same(global_local_info_nce(X, local, temperature=TAU), in_batch_g2l_loss(local, X, TAU), X, local, TAU)
    mask = torch.rand(N, 4, generator=G) < 0.6
    mask[:, 0] = True  # every caption has a token: the official code divides by their number
    spoilt = torch.where(mask[:, :, None], local, torch.nan)
    expected = in_batch_g2l_loss(local, X, TAU, mask.double())
    same(global_local_info_nce(X, spoilt, mask, temperature=TAU), expected, X, local, TAU)


def test_an_item_without_parts_is_not_counted():
    local, mask = unit_rows(N, 3, D), torch.rand(N, 3, generator=G) < 0.7
    mask[4] = False
    x = X.detach().clone()
    x[4] = torch.nan
    others = OWN != 4
    expected = global_local_info_nce(x[others], local[others], mask[others])
    torch.testing.assert_close(global_local_info_nce(x, local, mask), expected)
    rows = global_local_info_nce(x, local, mask, reduction="none")
    assert rows[4] == 0.0 and (rows[others] > 0.0).all()
    assert global_local_info_nce(X, local[:, :0]) == 0.0


BAD_PARTS = [
    ({"local_features": X}, ValueError, r"^local_features must have shape \(N, K, D\), got \(9, 6\)"),
    ({"local_features": X[:3, None]}, ValueError, r"^local_features must have shape \(9, L, D\), got \(3, 1, 6\)"),
    ({"local_features": X[:, None, :3]}, ValueError, "^local_features must have the width of global_features, 6"),
    ({"local_features": X[:, None].to("meta")}, ValueError, "^local_features must be on cpu"),
    ({"global_features": X[:, None]}, ValueError, r"^global_features must have shape \(N, D\)"),
    ({"mask": torch.ones(N, 2)}, TypeError, "^mask must be a bool"),
    ({"mask": torch.ones(N, 3, dtype=torch.bool)}, ValueError, r"^mask must have shape \(9, 2\), got \(9, 3\)"),
]


@pytest.mark.parametrize("given, error, message", BAD_PARTS, ids=[x[2][:50] for x in BAD_PARTS])
def test_bad_parts(given, error, message):
    with refuses(error, message):
        global_local_info_nce(**{"global_features": X, "local_features": torch.stack([X, Y], 1), **given})


# ---- blocks (TACT, TeminAL)


@pytest.mark.parametrize("same_pair, cross", [(1.0, 1.0), (2.0, 0.5), (0.0, 1.0)])
def test_tact(same_pair, cross):
    """Two blocks, alpha a matrix of one block's size, torch's weighted mean."""
    x, y = unit_rows(8, D), unit_rows(8, D)
    alpha = torch.full((4, 4), cross, dtype=torch.float64).fill_diagonal_(same_pair)
    weight = torch.tensor([1.0] * 4 + [0.6] * 4, dtype=torch.float64)
    logits = 3.0 * x @ y.T
    shift = torch.zeros(8, 8, dtype=torch.float64)
    shift[4:, :4] = shift[:4, 4:] = (alpha + 1e-8).log()
    targets = torch.arange(8)
    expected = F.cross_entropy(logits + shift, targets, weight=weight)
    expected = expected + F.cross_entropy(logits.T + shift, targets, weight=weight)
    found = block_info_nce(
        x, y, 2, temperature=1 / 3.0, same_pair_weight=same_pair + 1e-8, other_block_weight=cross + 1e-8, weights=weight
    )
    same(found, expected, x, y)


def test_teminal_has_three_blocks_and_is_one_softmax_by_default():
    x, y = unit_rows(N, D), unit_rows(N, D)
    logits = 2.0 * x @ y.T
    same(block_info_nce(x, y, 3, temperature=0.5), F.cross_entropy(logits, OWN) + F.cross_entropy(logits.T, OWN), x, y)
    pair, block = OWN % 3, OWN // 3
    weight = torch.where(pair[:, None] == pair, 3.0, 0.5).where(block[:, None] != block, 1.0).double()
    logits = logits + weight.log()
    expected = F.cross_entropy(logits, OWN) + F.cross_entropy(logits.T, OWN)
    options = {"temperature": 0.5, "same_pair_weight": 3.0, "other_block_weight": 0.5}
    same(block_info_nce(x, y, 3, **options), expected, x, y)


def test_blocks_of_weight_0_are_losses_of_their_own():
    rows = block_info_nce(X, Y, 3, same_pair_weight=0.0, other_block_weight=0.0, direction="rows", reduction="none")
    expected = [info_nce(X[k : k + 3], Y[k : k + 3], temperature=1.0, reduction="none") for k in (0, 3, 6)]
    torch.testing.assert_close(rows, torch.cat(expected))
    alone = block_info_nce(X, Y, N, same_pair_weight=0.0, reduction="none")
    assert not alone.any()
    (grad,) = torch.autograd.grad(alone.sum(), X)
    assert not grad.any()


BAD_BLOCKS = [
    ({"blocks": 0}, ValueError, "^blocks must be an int >= 1, got 0"),
    ({"blocks": 3.0}, ValueError, "^blocks must be an int >= 1, got 3.0"),
    ({"blocks": True}, ValueError, "^blocks must be an int >= 1, got True"),
    ({"blocks": 2}, ValueError, "^x must have a multiple of blocks = 2 rows, got 9"),
    ({"same_pair_weight": -1.0}, ValueError, "^same_pair_weight must be a number >= 0, got -1.0"),
    ({"other_block_weight": torch.ones(())}, ValueError, "^other_block_weight must be a number >= 0"),
    ({"weights": torch.ones(3)}, ValueError, r"^weights must have shape \(9,\), got \(3,\)"),
]


@pytest.mark.parametrize("given, error, message", BAD_BLOCKS, ids=[x[2] for x in BAD_BLOCKS])
def test_bad_blocks(given, error, message):
    with refuses(error, message):
        block_info_nce(X, Y, **{"blocks": 3, **given})


# ---- both sides as candidates (M3EL)


def test_m3el_multiplies_the_diagonal_by_zero():
    """WeightedContrastiveLoss, which normalises, divides by 0.03 and leaves e^0 in the denominator."""
    entity, mention = 2.0 * X, 3.0 * Y
    e, m = F.normalize(entity, dim=1), F.normalize(mention, dim=1)
    mask = 1 - torch.eye(N, dtype=torch.float64)
    target = torch.cat([torch.eye(N), torch.zeros(N, N)], dim=1).double()
    losses = []
    for own, other in ((e, m), (m, e)):
        logits = torch.cat([1.0 * own @ other.T / 0.03, 0.8 * (own @ own.T / 0.03) * mask], dim=1)
        losses.append(-torch.log((F.softmax(logits, dim=1) * target).sum(1)))
    expected = (losses[0].mean() + losses[1].mean()) / 2
    same(m3el_loss(entity, mention, temperature=0.03, normalize=True), expected, X, Y)


# ---- margins (InterCLR) and less of the log-sum-exp (CMA)


def interclr(q, k, queue, margin, kind, tau):
    """Margin and contrastive head of the official code."""
    cosine, negative = (q * k).sum(1, keepdim=True), q @ queue.T
    phi = cosine - margin
    if kind == "arc":
        phi = cosine * math.cos(margin) - torch.sqrt((1.0 - cosine**2).clamp(0, 1)) * math.sin(margin)
        if margin < 0:
            phi = torch.where(cosine < math.cos(margin), phi, cosine + math.sin(margin) * margin)
        else:
            line = cosine - math.sin(math.pi - margin) * margin
            phi = torch.where(cosine > math.cos(math.pi - margin), phi, line)
    return F.cross_entropy(torch.cat([phi, negative], dim=1) / tau, torch.zeros(len(q), dtype=torch.int64))


@pytest.mark.parametrize("kind, margin", [("cos", -0.5), ("cos", 0.3), ("arc", 0.4), ("arc", -0.7), ("arc", 2.5)])
def test_margin_nce(kind, margin):
    """Pairs at angles from 0.2 to 3, so that some of an arc go on as a line."""
    angle = torch.linspace(0.2, 3.0, N, dtype=torch.float64)[:, None]
    across = F.normalize(Y.detach() - (X * Y).sum(1, keepdim=True).detach() * X.detach(), dim=1)
    key = (angle.cos() * X.detach() + angle.sin() * across).requires_grad_()
    found = margin_info_nce(X, key, margin=margin, kind=kind, negatives=QUEUE, in_batch=False, temperature=TAU)
    same(found, interclr(X, key, QUEUE, margin, kind, TAU), X, key, QUEUE, TAU)


def test_without_a_margin_it_is_info_nce():
    for options in ({"symmetric": True}, {"negatives": QUEUE, "query_ids": OWN // 2}):
        for kind in ("cos", "arc"):
            found = margin_info_nce(X, Y, margin=0.0, kind=kind, temperature=TAU, **options)
            same(found, info_nce(X, Y, temperature=TAU, **options), X, Y, TAU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("margin", [0.4, -0.4])
def test_gradients_of_an_arc_are_finite_at_both_ends(margin, dtype):
    x = torch.eye(4, dtype=dtype).requires_grad_()
    y = torch.diag(torch.tensor([1.0, -1.0, 1.0, -1.0])).to(dtype).requires_grad_()
    rows = margin_info_nce(x, y, margin=margin, kind="arc", reduction="none", temperature=1.0)
    rows.sum().backward()
    assert rows.isfinite().all() and x.grad.isfinite().all() and y.grad.isfinite().all()
    turned = [math.cos(margin), -1.0 - margin * math.sin(margin)]
    turned = turned if margin > 0 else [1.0 - margin * math.sin(abs(margin)), math.cos(math.pi + margin)]
    expected = torch.tensor([math.log(1.0 + 3.0 * math.exp(-c)) for c in turned] * 2)
    torch.testing.assert_close(rows.float(), expected, rtol=1e-5, atol=1e-5)


BAD_MARGINS = [
    ({"margin": float("nan")}, ValueError, "^margin must be finite, got nan"),
    ({"margin": "0.1"}, TypeError, "^margin must be a number"),
    ({"margin": torch.tensor(0.1)}, TypeError, "^margin must be a number, got Tensor"),
    ({"margin": 4.0, "kind": "arc"}, ValueError, r"^margin must lie in \[-pi, pi\] with kind='arc', got 4.0"),
    ({"kind": "tan"}, ValueError, "^kind must be one of 'cos', 'arc', got 'tan'"),
    ({"in_batch": 1}, TypeError, "^in_batch must be a bool, got int"),
    ({"in_batch": False}, ValueError, "^in_batch must be True without negatives"),
    ({"in_batch": False, "negatives": QUEUE, "symmetric": True}, ValueError, "^in_batch must be True with symmetric"),
    ({"in_batch": False, "negatives": QUEUE, "query_ids": OWN}, ValueError, "^query_ids must be None with in_batch"),
    ({"in_batch": False, "negatives": QUEUE, "query_ids": OWN, "key_ids": OWN}, ValueError, "^key_ids must be None"),
    (
        {"negatives": QUEUE, "symmetric": True, "direction": "cols"},
        ValueError,
        "^negatives must be None with direction",
    ),
    ({"direction": "cols"}, ValueError, "^direction must be 'mean' without symmetric=True"),
    ({"negative_ids": torch.arange(M)}, ValueError, "^negative_ids need negatives"),
]


@pytest.mark.parametrize("given, error, message", BAD_MARGINS, ids=[x[2][:50] for x in BAD_MARGINS])
def test_bad_margins(given, error, message):
    with refuses(error, message):
        margin_info_nce(X, Y, **{"margin": 0.1, **given})


def test_a_module_without_a_margin_says_so():
    with refuses(TypeError, "^margin must be given: to forward, or to the constructor of MarginInfoNCE"):
        contrastile.MarginInfoNCE()(X, Y)
    with refuses(TypeError, "^lam must be given: to forward, or to the constructor of CMALoss"):
        contrastile.CMALoss()(X, Y, 5.0)
    found = contrastile.MarginInfoNCE(0.2)(X, Y, margin=0.1)
    assert torch.equal(found, margin_info_nce(X, Y, margin=0.1))


def test_cma_as_its_training_loop_has_it():
    scale, lam = torch.tensor(12.0, dtype=torch.float64, requires_grad=True), 0.3
    image, text = scale * X @ Y.T, scale * Y @ X.T
    of_text, of_image = -torch.logsumexp(text, dim=1), -torch.logsumexp(image, dim=1)
    expected = (F.cross_entropy(text, OWN) + lam * of_text.mean()) / 2
    expected = expected + (F.cross_entropy(image, OWN) + lam * of_image.mean()) / 2
    same(cma_loss(X, Y, scale, lam=lam), expected, X, Y, scale)
    same(cma_loss(X, Y, scale, lam=lam, reduction="none").mean(), expected, X, Y, scale)
    same(cma_loss(X, Y, scale, lam=0.0), clip_loss(X, Y, scale), X, Y, scale)
    for bad in (-0.1, 1.5, torch.tensor(0.5)):
        with refuses(ValueError, r"^lam must be a number in \[0, 1\]"):
            cma_loss(X, Y, scale, lam=bad)


# ---- negatives within a group (MCL)


def test_groups_are_batches_of_their_own():
    """The official sampler draws every batch from one cluster; here clusters share a batch."""
    groups = torch.tensor([0, 1, 0, 2, 1, 0, 2, 2, 1])
    parts = [clip_loss(X[groups == k], Y[groups == k], 9.0, reduction="sum") for k in range(3)]
    same(clip_loss(X, Y, 9.0, image_groups=groups), sum(parts) / N, X, Y)
    parts = [info_nce(X[groups == k], Y[groups == k], reduction="sum") for k in range(3)]
    same(info_nce(X, Y, query_groups=groups), sum(parts) / N, X, Y)


small_ids = st.lists(st.integers(-1, 2), min_size=N, max_size=N).map(torch.tensor)


@given(
    small_ids, small_ids, st.none() | small_ids, st.none() | small_ids,
    st.none() | st.lists(st.booleans(), min_size=N, max_size=N).map(torch.tensor),
    st.lists(st.integers(-1, 2), min_size=M, max_size=M).map(torch.tensor), st.booleans(),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_groups_ids_and_missing_items(groups, key_groups, ids, key_ids, present, negative_groups, apart):
    """apart: each direction in a pass of its own."""
    options = {"query_groups": groups, "key_groups": key_groups, "query_ids": ids, "present": present}
    options |= {"key_ids": key_ids if ids is not None else None, "temperature": TAU, "symmetric": True}
    options |= {"negatives": QUEUE, "negative_groups": negative_groups, "key_temperature": 0.1 if apart else None}
    same(info_nce(X, Y, **options), reference.info_nce(X, Y, **options), X, Y, QUEUE, TAU)


def test_an_extreme_group_is_a_group_like_any_other():
    """present= needs no number of its own among groups."""
    groups = torch.tensor([2**63 - 1, -(2**63), -1])[OWN % 3]
    options = {"image_groups": groups, "present": OWN != 2}
    same(clip_loss(X, Y, 9.0, **options), reference.clip_loss(X, Y, 9.0, **options), X, Y)


BAD_GROUPS = [
    ({"key_groups": OWN}, "^key_groups need query_groups"),
    ({"negatives": QUEUE, "negative_groups": torch.arange(M)}, "^negative_groups need query_groups"),
    ({"query_groups": OWN, "negative_groups": torch.arange(M)}, "^negative_groups need negatives"),
    ({"query_groups": OWN, "negatives": QUEUE}, "^query_groups need negative_groups where there are negatives"),
    ({"query_groups": OWN, "label_smoothing": 0.1}, "^label_smoothing cannot be combined with query_groups"),
    ({"query_groups": OWN[:3]}, r"^query_groups must have shape \(9,\), got \(3,\)"),
    ({"key": torch.cat([Y, Y]), "query_groups": OWN}, "^query_groups need key_groups where there are 18 keys"),
]


@pytest.mark.parametrize("given, message", BAD_GROUPS, ids=[x[1] for x in BAD_GROUPS])
def test_bad_groups(given, message):
    with refuses(ValueError, message):
        info_nce(**{"query": X, "key": Y, **given})


def test_bad_groups_of_clip_loss():
    with refuses(ValueError, "^text_groups need image_groups"):
        clip_loss(X, Y, 9.0, text_groups=OWN)
    with refuses(ValueError, "^label_smoothing cannot be combined with image_groups"):
        clip_loss(X, Y, 9.0, image_groups=OWN, label_smoothing=0.1)
