"""Losses with soft targets against the official codes, restated; what they refuse; what stays exact."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import Targets, clip_distill_loss, cwcl_loss, distill_info_nce, hydra_loss, pair_reduce, softclip_loss
from support import exact
from support.exact import same
from support.refusals import refuses

N, M, D, T = 9, 21, 8, 6
G = torch.Generator().manual_seed(5)


unit_rows = partial(exact.unit_rows, G)


def near(x, noise=0.4):
    return F.normalize(x.detach() + noise * torch.randn(x.shape, generator=G, dtype=torch.float64), dim=-1)


IMAGE, TEXT = unit_rows(N, D), unit_rows(N, D)
MOMENTUM_IMAGE, MOMENTUM_TEXT = near(IMAGE), near(TEXT)
IMAGE_QUEUE, TEXT_QUEUE = unit_rows(M, D).detach(), unit_rows(M, D).detach()
TAU = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)


def albef(alpha, ids=None, queue_ids=None):
    """The two contrastive losses of ALBEF's forward, pre-training and (with ids) retrieval."""
    images = torch.cat([MOMENTUM_IMAGE.T, IMAGE_QUEUE.T], dim=1)
    texts = torch.cat([MOMENTUM_TEXT.T, TEXT_QUEUE.T], dim=1)
    with torch.no_grad():
        positive = torch.zeros(N, N + M, dtype=torch.float64)
        if ids is None:
            positive.fill_diagonal_(1)
        else:
            every = torch.cat([ids, queue_ids])
            positive = (ids.view(-1, 1) == every.view(1, -1)).double()
            positive /= positive.sum(1, keepdim=True)
        i2t = alpha * F.softmax(MOMENTUM_IMAGE @ texts / TAU, dim=1) + (1 - alpha) * positive
        t2i = alpha * F.softmax(MOMENTUM_TEXT @ images / TAU, dim=1) + (1 - alpha) * positive
    loss_i2t = -torch.sum(F.log_softmax(IMAGE @ texts / TAU, dim=1) * i2t, dim=1).mean()
    loss_t2i = -torch.sum(F.log_softmax(TEXT @ images / TAU, dim=1) * t2i, dim=1).mean()
    return (loss_i2t + loss_t2i) / 2


@pytest.mark.parametrize("alpha", [0.4, 0.0, 1.0, torch.tensor(0.15, dtype=torch.float64)])
def test_albef(alpha):
    options = {"temperature": TAU, "alpha": alpha}
    found = distill_info_nce(IMAGE, MOMENTUM_TEXT, MOMENTUM_IMAGE, negatives=TEXT_QUEUE, **options)
    found = (found + distill_info_nce(TEXT, MOMENTUM_IMAGE, MOMENTUM_TEXT, negatives=IMAGE_QUEUE, **options)) / 2
    same(found, albef(alpha), IMAGE, TEXT, TAU)


def test_albef_retrieval_with_ids_over_the_queue():
    ids, queue_ids = torch.arange(N) // 2, torch.arange(M) % 7
    queue_ids[3:6] = -100  # the queue's places that nobody has filled yet
    options = {"temperature": TAU, "query_ids": ids, "negative_ids": queue_ids}
    found = distill_info_nce(IMAGE, MOMENTUM_TEXT, MOMENTUM_IMAGE, negatives=TEXT_QUEUE, **options)
    found = (found + distill_info_nce(TEXT, MOMENTUM_IMAGE, MOMENTUM_TEXT, negatives=IMAGE_QUEUE, **options)) / 2
    same(found, albef(0.4, ids, queue_ids), IMAGE, TEXT, TAU)


def test_tcl_is_four_such_losses_two_of_them_hard():
    """Cross-modal with soft targets, intra-modal with hard ones, all against the momentum keys and the queue."""
    images, texts = torch.cat([MOMENTUM_IMAGE, IMAGE_QUEUE]), torch.cat([MOMENTUM_TEXT, TEXT_QUEUE])
    own = torch.arange(N)
    hard = [F.cross_entropy(x @ keys.T / TAU, own) for x, keys in ((IMAGE, images), (TEXT, texts))]
    expected = (2 * albef(0.4) + sum(hard)) / 4
    options = {"temperature": TAU}
    found = [
        distill_info_nce(IMAGE, MOMENTUM_TEXT, MOMENTUM_IMAGE, negatives=TEXT_QUEUE, **options),
        distill_info_nce(TEXT, MOMENTUM_IMAGE, MOMENTUM_TEXT, negatives=IMAGE_QUEUE, **options),
        contrastile.info_nce(IMAGE, MOMENTUM_IMAGE, negatives=IMAGE_QUEUE, **options),
        contrastile.info_nce(TEXT, MOMENTUM_TEXT, negatives=TEXT_QUEUE, **options),
    ]
    same(sum(found) / 4, expected, IMAGE, TEXT, TAU)


def test_hycd_of_clip_refine():
    """Dots that are not normalised, the one-hot target blended with the teacher's, torch's own divergence."""
    student = [3.0 * x for x in (IMAGE, TEXT)]
    teacher = [2.5 * x for x in (MOMENTUM_IMAGE, MOMENTUM_TEXT)]
    blend, temperature = 0.5, 1.0

    def direction(logits, taught):
        target = blend * torch.eye(N, dtype=torch.float64) + (1 - blend) * (taught / temperature).softmax(1)
        return F.kl_div((logits / temperature).log_softmax(1), target, reduction="batchmean") * temperature**2

    logits, taught = student[0] @ student[1].T, teacher[0] @ teacher[1].T
    expected = 0.5 * (direction(logits, taught) + direction(logits.T, taught.T))
    found = clip_distill_loss(*student, *teacher, 1.0 / temperature, alpha=1.0 - blend, teacher_loss="kl")
    same(found, expected, IMAGE, TEXT)


def test_mod_x_replaces_wrong_rows_by_the_students_own():
    """A row of the old similarities whose largest is not on the diagonal becomes the new row: its divergence is 0."""
    wrong_text = near(MOMENTUM_IMAGE, 1.2 / D**0.5)
    old = MOMENTUM_IMAGE @ wrong_text.T
    new = IMAGE @ TEXT.T

    def direction(old, new):
        right = old.argmax(1) == torch.arange(N)
        aligned = torch.where(right[:, None], old, new)
        return F.kl_div(new.log_softmax(1), aligned.softmax(1), reduction="sum"), right

    (rows, right), (columns, right_too) = direction(old, new), direction(old.T, new.T)
    assert 0 < right.sum() < N and 0 < right_too.sum() < N
    found = clip_distill_loss(
        IMAGE, TEXT, MOMENTUM_IMAGE, wrong_text, 1.0, 1.0, teacher_loss="kl", filter_wrong=True, reduction="sum"
    )
    same(found, (rows + columns) / 2, IMAGE, TEXT)


def test_soft_labels_of_mpuc_are_targets_without_the_rows_own_index():
    """Weights are a softmax over B labels, repeated for both views, less the row's own index, over their sum + 1."""
    views = 2
    labels = (torch.rand(N, 4, generator=G, dtype=torch.float64) > 0.5).double()
    labels[:, 0] = 1.0
    labels = F.normalize(labels, p=1, dim=-1)
    x, y = unit_rows(views * N, D), unit_rows(views * N, D)
    mask = F.softmax(labels @ labels.T / 0.01, dim=-1).repeat(views, views)
    logits, other = x @ y.T / 0.07, 1.0 - torch.eye(views * N, dtype=torch.float64)
    mask = mask * other
    log_prob = logits - torch.log((logits.exp() * other).sum(1, keepdim=True))
    expected = -((mask * log_prob).sum(1) / (mask.sum(1) + 1)).mean()

    tiled = labels.repeat(views, 1)
    stats = pair_reduce(x, y, scale=1 / 0.07, keep="other_index", targets=Targets(tiled, tiled, 1 / 0.01))
    own = tiled.square().sum(1) / 0.01
    share = 2.0 / (1.0 + (stats.row_target_lse - own).exp())  # the row's own weight, of B labels
    found = ((2.0 - share) * stats.row_target_loss / (3.0 - share)).mean()
    same(found, expected, x, y)


def test_softclip_of_m3col_takes_one_target_for_both_directions():
    def soft_clip(a, b, temperature=0.125):
        target = F.softmax(b @ b.T / temperature, dim=1)
        per_a, per_b = a @ b.T / temperature, b @ a.T / temperature
        return (F.cross_entropy(per_a, target) + F.cross_entropy(per_b, target)) / 2

    same(softclip_loss(IMAGE, TEXT), soft_clip(IMAGE, TEXT), IMAGE, TEXT)


def test_cwcl_normalises_by_rows_and_adds_the_plain_direction():
    frozen = near(IMAGE)
    weights = (frozen @ frozen.T) / 2 + 0.5
    logits = 20.0 * frozen @ TEXT.T
    soft = -((weights * logits.log_softmax(1)).sum(1) / weights.sum(1)).mean()
    same(cwcl_loss(frozen, TEXT, 20.0), soft + F.cross_entropy(logits.T, torch.arange(N)), TEXT)


def test_hydra_as_its_code_shifts_logits_by_their_mean():
    """Of every row; the shift cancels in log(e^l + others) - l."""
    gate = torch.rand(N, D, generator=G, dtype=torch.float64).requires_grad_()
    labels, partners = torch.arange(N) % 4, torch.arange(N) % 3
    z = F.normalize(IMAGE[:, None] * gate[:, None], dim=-1)
    k = F.normalize(IMAGE[None] * gate[:, None], dim=-1)
    logits = 10.0 * (z * k).sum(-1)
    logits = logits - logits.mean(1, keepdim=True)
    own, positive = labels[:, None] == labels, partners[:, None] == labels
    others = (logits.exp() * ~(own | positive)).sum(1, keepdim=True)
    expected = (((logits.exp() + others).log() - logits) * positive).sum() / positive.sum()
    same(hydra_loss(IMAGE, gate, labels, partners), expected, IMAGE, gate)


@pytest.mark.parametrize("factor", [2.0**-6, 2.0**11])
def test_squares_of_gated_keys_stay_in_the_range_of_float16(factor):
    generator = torch.Generator().manual_seed(6)
    x, gate = torch.randn(12, 8, generator=generator).half(), torch.rand(12, 8, generator=generator).half()
    labels, partners = torch.arange(12) % 4, torch.arange(12) % 3
    found, expected = (hydra_loss(y, gate, labels, partners) for y in (x * factor, x))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0.0)


# ---- numerics


def distances(delta, dtype):
    """A student that is `delta` away from its teacher, of which half-precision features hold what they can."""
    g = torch.Generator().manual_seed(0)
    teacher = [F.normalize(torch.randn(256, 128, generator=g), dim=1) for _ in range(2)]
    student = [F.normalize(x + delta * torch.randn(x.shape, generator=g) / 128**0.5, dim=1) for x in teacher]
    return [x.to(dtype) for x in (*student, *teacher)]


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_near_the_teacher_bfloat16_gradients_keep_their_digits(backend):
    """Probabilities and targets are subtracted before they are rounded: rounded apart, the error would be above 0.1."""
    features = distances(0.006, torch.bfloat16)
    leaves = [x.clone().requires_grad_() for x in features[:2]]
    clip_distill_loss(*leaves, *features[2:], 20.0, 20.0, backend=backend).backward()
    exact = [x.double() for x in features]
    truth = [x.requires_grad_() for x in exact[:2]]
    logits, taught = 20.0 * truth[0] @ truth[1].T, 20.0 * exact[2] @ exact[3].T
    kl = F.kl_div(logits.log_softmax(1), taught.softmax(1), reduction="batchmean")
    assert 1e-5 < kl < 2e-4
    contrastile.reference.clip_distill_loss(*truth, *exact[2:], 20.0, 20.0).backward()
    for x, true in zip(leaves, truth, strict=True):
        # the gradient itself is a bfloat16 tensor
        assert (x.grad.double() - true.grad).norm() <= 3e-3 * true.grad.norm()


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_divergence_is_as_exact_as_its_logits(backend):
    features = distances(0.02, torch.float32)
    found = clip_distill_loss(*features, 20.0, 20.0, teacher_loss="kl", reduction="none", backend=backend)
    exact = [x.double() for x in features]
    truth = contrastile.reference.clip_distill_loss(*exact, 20.0, 20.0, teacher_loss="kl", reduction="none")
    assert (found - truth).abs().max() <= 4 * 2.0**-24 * 20.0


# ---- what is refused


BAD = {
    "teacher_query": {"teacher_query": IMAGE[:3].detach()},
    "teacher_key": {"teacher_key": IMAGE[:3].detach()},
    "teacher_negatives must be given": {"teacher_key": IMAGE.detach(), "negatives": TEXT_QUEUE},
    "alpha must be between": {"alpha": 1.5},
    "alpha must be finite": {"alpha": float("nan")},
    "alpha must not require grad": {"alpha": torch.tensor(0.5, requires_grad=True)},
    "teacher_loss must be one of": {"teacher_loss": "mse"},
    "teacher_loss must be 'ce' with query_ids": {"teacher_loss": "kl", "query_ids": torch.arange(N)},
    "negative_ids need": {"negative_ids": torch.arange(M)},
    "teacher_temperature must be finite and > 0": {"teacher_temperature": 0.0},
    "teacher_query must have the width of key": {"teacher_query": unit_rows(N, T).detach()},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_of_distill_info_nce_are_named(message):
    given = {"query": IMAGE, "key": MOMENTUM_TEXT, "teacher_query": MOMENTUM_IMAGE, **BAD[message]}
    with refuses(ValueError, message):
        distill_info_nce(**given)
