"""Cross-entropies over a vocabulary and over prototypes against torch and DINO's official code, restated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contrastile import dino_loss, linear_cross_entropy
from support.memory import needs_linux, peak_bytes, saved_bytes
from support.refusals import refuses

B, T, D, V, K = 3, 4, 6, 13, 10
G = torch.Generator().manual_seed(8)


def rows(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64).requires_grad_()


HIDDEN, WEIGHT, BIAS = rows(B, T, D), rows(V, D), rows(V)
LABELS = torch.randint(1, V, (B, T), generator=G)
LABELS[0, 2:] = LABELS[2, 1:] = 0  # padding
BACKENDS = pytest.mark.parametrize("backend", ["torch", "cpu"])


def same(value, expected, *leaves):
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(x, leaves, retain_graph=True) for x in (value, expected)]
    for found, true in zip(*grads, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-12)


# ---- captions


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("biased", [False, True])
def test_captions(biased, smoothing):
    """CoCaLoss: logits of texts without their last token, labels without their first, padding ignored."""
    bias = BIAS if biased else None
    logits = F.linear(HIDDEN, WEIGHT, bias)
    expected = torch.nn.CrossEntropyLoss(ignore_index=0, label_smoothing=smoothing)(logits.permute(0, 2, 1), LABELS)
    found = linear_cross_entropy(HIDDEN, WEIGHT, LABELS, bias=bias, ignore_index=0, label_smoothing=smoothing)
    same(found, expected, HIDDEN, WEIGHT, *([BIAS] if biased else []))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_other_reductions(reduction):
    expected = F.cross_entropy(F.linear(HIDDEN, WEIGHT).permute(0, 2, 1), LABELS, ignore_index=0, reduction=reduction)
    found = linear_cross_entropy(HIDDEN, WEIGHT, LABELS, ignore_index=0, reduction=reduction)
    assert found.shape == expected.shape
    same(found.square().sum(), expected.square().sum(), HIDDEN, WEIGHT)


def test_weights_of_tokens():
    weights = torch.rand(B, T, generator=G, dtype=torch.float64)
    each = F.cross_entropy(F.linear(HIDDEN, WEIGHT).permute(0, 2, 1), LABELS, ignore_index=0, reduction="none")
    expected = (weights * each).sum() / weights[LABELS != 0].sum()
    same(linear_cross_entropy(HIDDEN, WEIGHT, LABELS, ignore_index=0, weights=weights), expected, HIDDEN, WEIGHT)


@BACKENDS
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_padding_holds_does_not_matter(backend, reduction):
    results = []
    for value in (0.0, torch.nan, torch.inf):
        h = torch.where((LABELS == 0)[:, :, None], value, HIDDEN.detach()).float().requires_grad_()
        w = WEIGHT.detach().float().requires_grad_()
        loss = linear_cross_entropy(h, w, LABELS, ignore_index=0, backend=backend, reduction=reduction)
        loss.sum().backward()
        results.append([loss, h.grad, w.grad])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_only_padding(reduction):
    value = linear_cross_entropy(HIDDEN, WEIGHT, torch.full((B, T), -100), reduction=reduction)
    assert value == 0
    assert not any(g.any() for g in torch.autograd.grad(value, [HIDDEN, WEIGHT]))


def test_a_learned_caption_keeps_its_digits():
    hidden, weight = (20.0 * WEIGHT.detach()[:5]).float(), WEIGHT.detach().float()
    each = linear_cross_entropy(hidden, weight, torch.arange(5), reduction="none")
    logits = hidden.double() @ weight.double().T
    truth = (logits.fill_diagonal_(-torch.inf).logsumexp(1) - (hidden.double() * weight[:5].double()).sum(1)).exp()
    assert truth.min() < 1e-15
    torch.testing.assert_close(each.double()[truth < 1e-4], truth[truth < 1e-4], rtol=1e-3, atol=0.0)


def test_logits_are_not_saved():
    h, w = torch.randn(600, 16, requires_grad=True), torch.randn(5000, 16, requires_grad=True)
    used = saved_bytes(lambda h, w: linear_cross_entropy(h, w, torch.zeros(600, dtype=torch.int64)), h, w)
    assert used < 3 * (h.nbytes + w.nbytes)


@needs_linux
def test_logits_are_not_held():
    call = "contrastile.linear_cross_entropy(x, y, torch.arange(len(x)), backend='cpu', memory_budget=0)"
    assert peak_bytes(call, rows=6000) < 6000 * 6000 * 4 / 2


def test_bad_captions():
    for change, error, message in (
        ({"labels": LABELS[:2]}, ValueError, r"^labels must have shape \(3, 4\), got \(2, 4\)"),
        ({"labels": LABELS.float()}, TypeError, "^labels must be int64"),
        ({"labels": LABELS + V}, ValueError, "^labels must be rows of weight, or ignore_index"),
        ({"labels": LABELS - 7}, ValueError, "^labels must be rows of weight"),
        ({"weight": WEIGHT[:, :3]}, ValueError, "^weight must have the width of hidden, 6, got 3"),
        ({"bias": 1.0, "label_smoothing": 0.1}, TypeError, "^bias must be a torch.Tensor, got float"),
        (
            {"bias": BIAS[:4], "hidden": HIDDEN[:0], "labels": LABELS[:0]},
            ValueError,
            r"^bias must have shape \(13,\), got \(4,\)",
        ),
        ({"ignore_index": 0.0}, TypeError, "^ignore_index must be an int, got float"),
        ({"weights": torch.ones(B)}, ValueError, r"^weights must have shape \(3, 4\)"),
        ({"label_smoothing": 1.0}, ValueError, r"^label_smoothing must be a number in \[0, 1\)"),
    ):
        with refuses(error, message):
            linear_cross_entropy(**{"hidden": HIDDEN, "weight": WEIGHT, "labels": LABELS} | change)


# ---- DINO

STUDENT, TEACHER = rows(4, B, D), rows(2, B, D + 2)
HEAD, TEACHER_HEAD, CENTER = rows(K, D), rows(K, D + 2), rows(K)
SHARP = {"student_temperature": 0.5, "teacher_temperature": 0.3}


def official_dino(student_output, teacher_output, center, ncrops, student_temp=0.5, teacher_temp=0.3):
    """DINOLoss.forward; outputs are those of all crops, one after the other."""
    student_out = (student_output / student_temp).chunk(ncrops)
    teacher_out = F.softmax((teacher_output - center) / teacher_temp, dim=-1).detach().chunk(2)
    total, terms = 0, 0
    for iq, q in enumerate(teacher_out):
        for v in range(len(student_out)):
            if v == iq:
                continue
            total += torch.sum(-q * F.log_softmax(student_out[v], dim=-1), dim=-1).mean()
            terms += 1
    return total / terms


def test_dino_of_several_crops():
    logits, targets = STUDENT @ HEAD.T, TEACHER @ TEACHER_HEAD.T
    expected = official_dino(logits.flatten(0, 1), targets.flatten(0, 1), CENTER, 4)
    same(dino_loss(STUDENT, TEACHER, HEAD, TEACHER_HEAD, center=CENTER, **SHARP), expected, STUDENT, HEAD)
    same(dino_loss(logits, targets, center=CENTER, **SHARP), expected, STUDENT, HEAD)


def test_dino_of_masked_patches():
    """One teacher row for each student row (TIPS, iBOT), some of them masked."""
    patches, targets, masked = STUDENT[0] @ HEAD.T, TEACHER[0] @ TEACHER_HEAD.T, torch.tensor([True, False, True])
    q = F.softmax((targets - CENTER) / 0.3, dim=-1).detach()
    expected = torch.sum(-q * F.log_softmax(patches / 0.5, dim=-1), dim=-1)[masked].mean()
    given = {"center": CENTER, "present": masked, **SHARP}
    same(dino_loss(patches, targets, **given), expected, STUDENT, HEAD)
    same(dino_loss(STUDENT[0], TEACHER[0], HEAD, TEACHER_HEAD, **given), expected, STUDENT, HEAD)


def test_the_teacher_is_a_constant():
    value = dino_loss(STUDENT, TEACHER, HEAD, TEACHER_HEAD, center=CENTER)
    found = torch.autograd.grad(value, [TEACHER, TEACHER_HEAD, CENTER], allow_unused=True)
    assert found == (None, None, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BACKENDS
def test_the_centre_is_not_rounded_to_half_precision(dtype, backend):
    """Divided by 0.04, a rounding of a centre of 3 to bfloat16 would be 0.15 nats."""
    s, t, w, u = (x.detach().to(dtype) for x in (STUDENT[0], TEACHER[0], HEAD, TEACHER_HEAD))
    center = (3.0 + 0.1 * CENTER.detach()).float()
    found = dino_loss(s, t, w, u, center=center, backend=backend)
    truth = dino_loss(*(x.double() for x in (s, t, w, u)), center=center.double())
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)


def test_bad_dino():
    for args, given, message in (
        ((STUDENT, TEACHER, HEAD), {}, "^prototypes and teacher_prototypes must be given together"),
        ((STUDENT, TEACHER), {}, "^teacher must have the shape of student"),
        ((STUDENT, TEACHER[:, :2], HEAD, TEACHER_HEAD), {}, "^teacher must have the 3 items of student, got 2"),
        ((STUDENT, TEACHER, HEAD[:4], TEACHER_HEAD), {}, "^teacher_prototypes must have 4 rows, got 10"),
        ((STUDENT, TEACHER, HEAD, TEACHER_HEAD), {"center": CENTER[:4]}, r"^center must have shape \(10,\)"),
        ((STUDENT[:1], TEACHER[:1], HEAD, TEACHER_HEAD), {}, "^student must have a view that is not teacher's"),
        ((STUDENT, TEACHER[0], HEAD, TEACHER_HEAD), {}, r"^teacher must have shape \(N, K, D\)"),
    ):
        with refuses(ValueError, message):
            dino_loss(*args, **given)
    with refuses(ValueError, "^teacher_temperature must be finite and > 0"):
        dino_loss(STUDENT, STUDENT, teacher_temperature=0.0)
