"""contrastile.compat.open_clip against open_clip: values, gradients, memory."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contrastile.compat import open_clip as ours
from contrastile.ops import pair
from contrastile.testing import Case, compare
from support.memory import saved_bytes
from support.pairing import Pairing, assert_agreement
from support.standins import load
from support.views import BACKENDS, BACKENDS_AND_DTYPES, LONG, SHAPES, two_views, unit_rows

pytestmark = pytest.mark.peers
CLASSES = ("ClipLoss", "SigLipLoss", "CoCaLoss", "DistillClipLoss")
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def peer():
    return load("open_clip.loss", shells=("open_clip",))


def call(module, name, image, text, *scalars, backend=None, part=None, options=(), **named):
    """A loss of the module `ours` or `peer()`; part: which of several losses."""
    engine = {} if backend is None else {"backend": backend}
    value = getattr(module(), name)(**dict(options), **engine)(image, text, *scalars, **named)
    return value if part is None else value[part]


def pairing(name, **fixed):
    return partial(call, lambda: ours, name, **fixed), partial(call, peer, name, **fixed)


def case(n, d, dtype, *scalars, **named):
    features = (x.to(dtype) for x in two_views(n, d))
    return Case((*features, *map(torch.tensor, scalars)), named, sum(map(abs, scalars)))


def distill_case(n, d, dtype, scale, teacher_width=7, teacher_scale=20.0):
    teacher = {
        f"dist_{name}_features": F.normalize(x.roll(1, 0), dim=-1).to(dtype)
        for name, x in zip(("image", "text"), two_views(n, teacher_width), strict=True)
    }
    named = {**teacher, "dist_logit_scale": torch.tensor(teacher_scale)}
    return replace(case(n, d, dtype, scale, **named), magnitude=max(scale, teacher_scale))


# ---- values and gradients


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 200.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_clip_loss(n, d, scale, dtype, backend):
    assert_agreement(*pairing("ClipLoss"), case(n, d, dtype, scale), backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_clip_loss_with_a_bias(scale, dtype, backend):
    assert_agreement(*pairing("ClipLoss"), case(33, 16, dtype, scale, -10.0), backend=backend)


def test_a_bias_of_clip_loss_gets_a_gradient_of_zero():
    """Not none: DistributedDataParallel waits for the gradients of all parameters."""
    bias = torch.tensor(-10.0, requires_grad=True)
    ours.ClipLoss()(*two_views(9, 5), 10.0, bias).backward()
    assert bias.grad == 0


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, -10.0), (1.0, 0.5)])
@pytest.mark.parametrize(("n", "d"), [(1, 4), *SHAPES])
def test_siglip_loss(n, d, scale, bias, dtype, backend):
    assert_agreement(*pairing("SigLipLoss"), case(n, d, dtype, scale, bias), backend=backend)


@BACKENDS
def test_siglip_loss_without_a_bias(backend):
    fixed = pairing("SigLipLoss", logit_bias=None)
    assert_agreement(*fixed, case(33, 16, torch.float32, 10.0), backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.5), (2.0, 0.0), (0.0, 3.0)])
def test_coca_loss(weights, part, dtype, backend):
    n, length, words = 17, 5, 11
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(n, length, words, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, words, (n, length), generator=generator)
    options = {"caption_loss_weight": weights[0], "clip_loss_weight": weights[1], "pad_id": 3}
    images, texts, scale = case(n, 6, dtype, 14.0).args
    problem = Case((images, texts, logits, labels, scale), {}, 14.0)
    if part == 0 and not weights[1]:
        found = call(lambda: ours, "CoCaLoss", *problem.args, options=options)[0]
        true = call(peer, "CoCaLoss", *problem.args, options=options)[0]
        assert torch.equal(found, true) and found.dtype == true.dtype
    elif part == 1 and not weights[0]:
        assert call(lambda: ours, "CoCaLoss", *problem.args, options=options)[1] == 0
    else:
        grads = {"part": part, "options": options}
        used = partial(summed_parts, part)
        assert_agreement(*(partial(used, f) for f in pairing("CoCaLoss", **grads)), problem, backend=backend)


def summed_parts(part, function, image, text, logits, labels, scale, **named):
    """Every argument takes part, so that all have gradients to compare."""
    rest = (image.sum() + text.sum() + scale) * 0 if part == 1 else logits.sum() * 0
    return function(image, text, logits, labels, scale, **named) + rest


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize(("n", "d"), [(1, 4), *SHAPES])
def test_distill_clip_loss(n, d, scale, part, dtype, backend):
    """Teachers of another width."""
    found, true = (partial(frozen_teacher, f) for f in pairing("DistillClipLoss", part=part))
    assert_agreement(found, true, distill_case(n, d, dtype, scale), backend=backend)


def frozen_teacher(function, *args, **named):
    return function(*args, **{n: x.detach() if n.startswith("dist_") else x for n, x in named.items()})


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_gradients_reach_a_teacher_that_trains_along(n, d, scale, dtype, backend):
    """Its score gradients are p (r - z), so the rounding of its logits is multiplied by the student's."""
    problem = distill_case(n, d, dtype, scale)
    problem = replace(problem, magnitude=(20.0 * 20.0 * (1.5 * scale + 5.0)) ** 0.5)
    assert_agreement(*pairing("DistillClipLoss", part=1), problem, backend=backend)


@BACKENDS
def test_distillation_of_a_rectangle_of_odd_sizes(backend):
    for part in (0, 1):
        found, true = (partial(frozen_teacher, f) for f in pairing("DistillClipLoss", part=part))
        assert_agreement(found, true, distill_case(131, 24, torch.float32, 30.0), backend=backend)


@BACKENDS
def test_a_student_equal_to_its_teacher_learns_nothing(backend):
    """Both parts of the gradient cancel pair by pair, to the rounding of a probability."""
    image, text = (x.float().requires_grad_() for x in two_views(64, 16))
    loss = ours.DistillClipLoss(backend=backend)
    _, distill = loss(image, text, 50.0, image.detach(), text.detach(), 50.0)
    distill.backward()
    assert max(image.grad.abs().max(), text.grad.abs().max()) < 50.0 / 64 * 2**-22


def distilled(module, features, scale, trains):
    """The distillation loss and its gradients, those of the teacher too if it trains."""
    leaves = [x.clone().requires_grad_(i < 2 or trains) for i, x in enumerate(features)]
    scales = [torch.tensor(scale, dtype=features[0].dtype, requires_grad=i == 0 or trains) for i in range(2)]
    value = module.DistillClipLoss()(*leaves[:2], scales[0], *leaves[2:], scales[1])[1]
    return value.detach(), torch.autograd.grad(value, [x for x in (*leaves, *scales) if x.requires_grad])


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("apart", [0.0, 0.02])
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0, 3.0])
def test_near_its_teacher_a_student_has_a_loss_of_more_than_rounding(noise, apart, trains):
    """Losses down to 1e-18 at scale 100, as exact as open_clip's own in float32: no differences of logits' sums."""
    image, text = unit_rows(64, 32, seed=1), unit_rows(64, 32, seed=2)
    text = F.normalize(image + noise * text, dim=-1)
    teacher = (F.normalize(x + apart * unit_rows(64, 32, seed=i + 3), dim=-1) for i, x in enumerate((image, text)))
    features = [x.float() for x in (image, text, *teacher)]
    truth, true_grads = distilled(peer(), [x.double() for x in features], 100.0, trains)
    twin, twin_grads = distilled(peer(), features, 100.0, trains)
    found, grads = distilled(ours, features, 100.0, trains)
    assert found >= 0
    assert (found - truth).abs() <= 4 * (twin - truth).abs() + 8 * 2**-23 * truth
    for grad, twin_grad, true in zip(grads, twin_grads, true_grads, strict=True):
        assert (grad - true).abs().max() <= 4 * (twin_grad - true).abs().max() + 8 * 2**-23 * true.abs().max()


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("double", ["student", "teacher"])
def test_students_and_teachers_of_different_types(double, trains):
    """As open_clip: the contrastive loss in the student's type, the distillation loss in the wider one."""
    types = [torch.float64 if (i < 2) == (double == "student") else torch.float32 for i in range(4)]
    features = (*two_views(33, 8), *(x.roll(1, 0) for x in two_views(33, 6)))
    results = []
    for module in (ours, peer()):
        leaves = [x.to(t).requires_grad_(i < 2 or trains) for i, (x, t) in enumerate(zip(features, types, strict=True))]
        values = module.DistillClipLoss()(*leaves[:2], 9.0, *leaves[2:], 4.0)
        sum(values).backward()
        results.append((*values, *(x.grad for x in leaves if x.requires_grad)))
    for x, y in zip(*results, strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=4e-6, atol=1e-7)


@BACKENDS
@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_batches_of_several_chunks(name, backend):
    scalars = (20.0, -10.0) if name == "SigLipLoss" else (20.0,)
    assert_agreement(*pairing(name), case(*LONG, torch.float32, *scalars), backend=backend)


@HALF
@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss", "DistillClipLoss"])
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_half_precision_is_as_exact_as_float32_on_the_same_values(scale, name, dtype):
    """Truth is open_clip in float64 on the rounded features; open_clip itself rounds its logits to their type."""
    scalars = (scale, -10.0) if name == "SigLipLoss" else (scale,)
    problem = case(64, 24, dtype, *scalars)
    fixed = {}
    if name == "DistillClipLoss":
        problem, fixed = distill_case(64, 24, dtype, scale), {"part": 1}
    found, true = (partial(frozen_teacher, f) for f in pairing(name, **fixed))
    result = compare(Pairing(found, true), problem)
    assert result.ok, result.detail


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss", "DistillClipLoss"])
def test_under_autocast_features_are_rounded_and_logits_are_not(name):
    args = [x.float().requires_grad_() for x in two_views(48, 16)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in args]
    rest = (20.0, -10.0) if name == "SigLipLoss" else (20.0,)
    teacher = [x.float() for x in two_views(48, 8)] if name == "DistillClipLoss" else []
    last = (30.0,) if teacher else ()
    loss = getattr(ours, name)()

    def total(value):
        return value if isinstance(value, torch.Tensor) else sum(value)

    with torch.autocast("cpu", torch.bfloat16):
        value = total(loss(*args, *rest, *teacher, *last))
    expected = total(loss(*rounded, *rest, *(x.bfloat16() for x in teacher), *last))
    value.backward()
    expected.backward()
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    for x, y in zip(args, rounded, strict=True):
        assert x.grad.dtype == torch.float32 and torch.equal(x.grad, y.grad.float())


# ---- memory


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss", "DistillClipLoss"])
def test_nothing_of_the_size_of_the_logits_is_kept(name, monkeypatch):
    monkeypatch.setattr(pair, "STATS_BUDGET", 0)
    used = {}
    for module in (ours, peer()):
        for n in (512, 1024):
            image, text = (x.float().requires_grad_() for x in two_views(n, 16))
            extra = {"SigLipLoss": (-9.0,), "DistillClipLoss": (image.detach(), text.detach(), 5.0)}.get(name, ())
            total = nn.Identity() if name != "DistillClipLoss" else sum
            leaves = (image, text, *(x for x in extra if isinstance(x, torch.Tensor)))
            loss = getattr(module, name)()
            used[module, n] = saved_bytes(lambda *_, a=(image, text, 9.0, *extra), f=loss, t=total: t(f(*a)), *leaves)
    assert used[ours, 1024] <= 2 * used[ours, 512] + 4096 and used[ours, 1024] <= 12 * 1024 * 16 * 4
    assert used[peer(), 1024] >= 1024 * 1024 * 4  # the measure sees logits where there are some
