"""contrastile.compat.gram against the computation of GRAM's training code, restated (ispamm/GRAM @b70c5c2).

The repository is no package. Its loss is inline code in model/gram.py, lines 449 to 482; its gather on one device is
the identity without gradient (utils/distributed.py, concat_all_gather).
"""

import inspect

import pytest
import torch
import torch.nn.functional as F

from contrastile.compat import gram
from contrastile.testing import Case
from support.pairing import assert_agreement
from support.views import BACKENDS_AND_DTYPES
from support.volume_cases import conditioning, matched, modalities, official_volume

from .dropins import DTYPES, assert_module, assert_saves_rows, assert_trains_alike

pytestmark = pytest.mark.peers


def volume(*tensors):
    """Of all pairs, from determinants in the features' type (the code's are float32: its truth needs float64)."""
    n, m = len(tensors[0]), len(tensors[1])
    rows = [tensors[0][:, None].expand(n, m, -1), *(x.expand(n, m, -1) for x in tensors[1:])]
    dots = torch.stack([torch.stack([(x * y).sum(-1) for y in rows], -1) for x in rows], -1)
    return torch.det(dots).abs().sqrt()


def training_code(*tensors, contra_temp=0.07, label_smoothing=0.1, gather_with_grad=False):
    cut = torch.clone if gather_with_grad else torch.detach
    language, inputs = tensors[0], tensors[1:]
    forward = volume(language, *map(cut, inputs)) / contra_temp
    backward = volume(cut(language), *inputs).T / contra_temp
    target = torch.arange(len(language))
    return sum(F.cross_entropy(-z, target, label_smoothing=label_smoothing) for z in (forward, backward)) / 2


def loss_case(tensors, dtype, temperature, **options):
    apart = matched(len(tensors[0]), len(tensors[0]))
    magnitude = conditioning(tensors, temperature, apart, dtype)
    return Case(tuple(x.to(dtype) for x in tensors), {"contra_temp": torch.tensor(temperature), **options}, magnitude)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("gather_with_grad", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.1, 0.0, 0.3])
@pytest.mark.parametrize(("n", "d", "k"), [(3, 7, 2), (17, 12, 3), (24, 16, 4), (11, 32, 5)])
def test_the_loss_is_that_of_the_training_code(n, d, k, label_smoothing, gather_with_grad, dtype, backend):
    options = {"label_smoothing": label_smoothing, "gather_with_grad": gather_with_grad}
    case = loss_case(modalities(n, d, k), dtype, 0.07, **options)
    assert_agreement(gram.volume_loss, training_code, case, backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("temperature", [0.5, 0.02])
def test_the_gradient_of_contra_temp_is_that_of_the_training_code(temperature, dtype, backend):
    case = loss_case(modalities(20, 16, 3, seed=3), dtype, temperature)
    assert_agreement(gram.volume_loss, training_code, case, backend=backend)


def test_each_direction_gives_gradient_to_its_queries_only():
    """The gather of the code has no gradient even on one device; with it, gradients are others."""
    grads = []
    for gather_with_grad in (False, True):
        leaves = [x.requires_grad_() for x in modalities(12, 16, 3)]
        gram.volume_loss(*leaves, gather_with_grad=gather_with_grad).backward()
        grads.append([x.grad for x in leaves])
    for half, whole in zip(*grads, strict=True):
        assert (half - whole).abs().max() > 0.1 * whole.abs().max()


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_volumes_are_the_codes(k):
    tensors = [x.float() for x in modalities(6, 12, k, keys=11)]
    expected = official_volume(*tensors)
    torch.testing.assert_close(gram.volume_computation(*tensors), expected, rtol=1e-5, atol=0.0)
    if k > 2:
        function = getattr(gram, f"volume_computation{k}")
        torch.testing.assert_close(function(*tensors), expected, rtol=1e-5, atol=0.0)
        names = ["language", "video", "audio", "subtitles", "depth"][:k]
        assert list(inspect.signature(function).parameters) == names


@DTYPES
def test_a_training_is_that_of_the_training_code(dtype, rtol):
    def model(loss):
        return lambda features, temp: loss(*features, contra_temp=0.07 * temp)

    assert_trains_alike(model(gram.volume_loss), model(training_code), 3, dtype, rtol)


def test_the_module_learns_contra_temp_under_its_name():
    loss = gram.GramLoss(0.1, label_smoothing=0.2)
    assert_module(loss, {"contra_temp"})
    tensors = [x.float() for x in modalities(9, 8, 3)]
    loss(*tensors).backward()
    temp = torch.tensor(0.1, requires_grad=True)
    expected = gram.volume_loss(*tensors, contra_temp=temp, label_smoothing=0.2)
    expected.backward()
    assert torch.equal(loss(*tensors), expected) and torch.equal(loss.contra_temp.grad, temp.grad)
    assert repr(loss) == "GramLoss(label_smoothing=0.2, gather_with_grad=False)"
    assert gram.GramLoss().contra_temp == torch.tensor(0.07)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_a_float32_loss(dtype):
    tensors = modalities(32, 64, 3)
    loss = gram.volume_loss(*(x.to(dtype) for x in tensors))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), training_code(*tensors), rtol=0.01, atol=0.0)


def test_aligned_tuples_have_finite_gradients_where_the_codes_are_not():
    x = torch.eye(8)[:4]
    for function, finite in ((training_code, False), (gram.volume_loss, True)):
        leaves = [x.clone().requires_grad_() for _ in range(3)]
        function(*leaves).backward()
        assert all(f.grad.isfinite().all() for f in leaves) == finite


def test_small_batches():
    for n in (0, 1):
        leaves = [x.requires_grad_() for x in modalities(n, 5, 3)]
        value = gram.volume_loss(*leaves)
        value.backward()
        torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-12)
        assert all(x.grad.abs().sum() < 1e-12 for x in leaves)


def test_wrong_arguments_are_named():
    x = modalities(4, 5, 3)
    for call, message in [
        (lambda: gram.volume_loss(x[0]), "others must be at least one tensor"),
        (lambda: gram.volume_loss(*x, label_smoothing=1.0), "label_smoothing"),
        (lambda: gram.volume_loss(*x, contra_temp=0.0), "contra_temp must be finite and > 0"),
        (lambda: gram.GramLoss(-1.0), "contra_temp must be finite and > 0, got -1.0"),
        (lambda: gram.volume_loss(x[0], x[1][:, :3]), "must have the width of"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("gather_with_grad", [False, True])
def test_nothing_of_the_size_of_all_pairs_is_kept(gather_with_grad, monkeypatch):
    assert_saves_rows(
        lambda *x: gram.volume_loss(*x, gather_with_grad=gather_with_grad),
        lambda n: [x.float() for x in modalities(n, 16, 3)],
        monkeypatch,
    )
