"""contrastile.compat.inf_cl against the formula of the package inf_cl, and that against its kernels (kernels.py)."""

import inspect

import pytest
import torch

from contrastile.compat import inf_cl
from contrastile.testing import Case
from support.pairing import assert_agreement
from support.standins import load
from support.views import BACKENDS_AND_DTYPES, unit_rows

from .dropins import assert_kernels_agree, assert_same_signature, assert_saves_rows, assert_trains_alike
from .kernel_formulas import cal_flash_loss as formula

pytestmark = pytest.mark.peers
NAMES = pytest.mark.parametrize("name", ["cal_flash_loss", "cal_ring_loss", "cal_inf_loss"])


def pair_case(n, m, d, dtype, scale, labels):
    key = unit_rows(m, d, seed=m)
    rows = torch.arange(n) if labels is None else labels
    query = torch.nn.functional.normalize(key[rows] + 1.5 * unit_rows(n, d, seed=n + 1), dim=1)
    return Case((query.to(dtype), key.to(dtype)), {"scale": torch.tensor(scale)}, scale)


def theirs(name, labels):
    def loss(q, k, scale):
        rows = formula(q, k, labels, scale)
        return rows if name == "cal_flash_loss" else rows.mean()

    return loss


def ours(name, labels):
    return lambda q, k, scale, **options: getattr(inf_cl, name)(q, k, labels, scale, **options)


@pytest.mark.slow  # the packages are of one version, and the tests below hold the drop-in against the formulas
@pytest.mark.interpret
def test_the_formula_is_what_the_packages_kernels_compute():
    assert_kernels_agree("inf_cl")


@NAMES
def test_signatures_are_theirs(name):
    assert_same_signature(getattr(inf_cl, name), getattr(load("inf_cl"), name))


@BACKENDS_AND_DTYPES
@NAMES
@pytest.mark.parametrize("scale", [1.0, 14.3, 200.0])
@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 3), (17, 17, 32), (20, 33, 5)])
def test_values_and_gradients_are_theirs(n, m, d, scale, name, dtype, backend):
    case = pair_case(n, m, d, dtype, scale, None)
    assert_agreement(ours(name, None), theirs(name, None), case, backend=backend)


@BACKENDS_AND_DTYPES
@NAMES
@pytest.mark.parametrize(("n", "m", "d"), [(17, 17, 32), (20, 7, 5), (7, 40, 16)])
def test_labels_choose_the_positive(n, m, d, name, dtype, backend):
    """Any row of k, several queries the same one, counted from the end where negative."""
    labels = torch.randint(0, m, (n,), generator=torch.Generator().manual_seed(n))
    case = pair_case(n, m, d, dtype, 20.0, labels)
    assert_agreement(ours(name, labels - m), theirs(name, labels), case, backend=backend)
    assert_agreement(ours(name, labels.int()), theirs(name, labels), case, backend=backend)


def test_a_scale_per_query():
    q, k = pair_case(9, 9, 4, torch.float64, 1.0, None).args
    scale = torch.linspace(1.0, 20.0, 9, dtype=torch.float64).unsqueeze(1).requires_grad_()
    other = scale.detach().clone().requires_grad_()
    found, expected = inf_cl.cal_flash_loss(q, k, scale=scale), formula(q, k, scale=other)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), y)[0] for x, y in ((found, scale), (expected, other))))


def test_without_a_scale_and_with_a_number():
    q, k = pair_case(9, 9, 4, torch.float64, 1.0, None).args
    torch.testing.assert_close(inf_cl.cal_inf_loss(q, k), formula(q, k).mean())
    torch.testing.assert_close(inf_cl.cal_inf_loss(q, k, scale=3), formula(q, k, scale=3.0).mean())
    torch.testing.assert_close(inf_cl.cal_inf_loss(q, k, head_dim=2), formula(q, k).mean())


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_training_as_in_the_packages_readme(symmetric):
    """The mean of both directions; a width that its view by head_dim would refuse."""

    def of(loss):
        def both(features, log_scale):
            q, k = features
            first = loss(q, k, log_scale.exp())
            return 0.5 * (first + loss(k, q, log_scale.exp())) if symmetric else first

        return both

    pair = [of(f("cal_inf_loss", None)) for f in (ours, theirs)]
    assert_trains_alike(*pair, 2, torch.float64, 1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_losses_of_unrounded_logits(dtype):
    q, k = (x.to(dtype) for x in pair_case(40, 40, 64, torch.float64, 1.0, None).args)
    true = formula(q.double(), k.double(), scale=50.0)
    found = inf_cl.cal_flash_loss(q, k, scale=50.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=1e-4)


def test_batches_without_queries():
    q, k = torch.zeros(0, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    assert inf_cl.cal_flash_loss(q, k).shape == (0,)
    value = inf_cl.cal_inf_loss(q, k)
    value.backward()
    assert value == 0 and k.grad.eq(0).all()


def test_wrong_arguments_are_named():
    q, k = torch.randn(5, 4), torch.randn(3, 4)
    for call, error, message in [
        (lambda: inf_cl.cal_inf_loss(q, k), ValueError, "k must have at least as many rows as q without labels, 5"),
        (lambda: inf_cl.cal_inf_loss(q, k[:, :3]), ValueError, "k must have the width of q"),
        (lambda: inf_cl.cal_inf_loss(q, k, torch.zeros(4).long()), ValueError, "labels must have shape"),
        (lambda: inf_cl.cal_inf_loss(q, k, torch.zeros(5)), TypeError, "labels must be int64"),
        (lambda: inf_cl.cal_inf_loss(q, k, torch.full((5,), 3)), IndexError, "out of bounds"),
        (lambda: inf_cl.cal_inf_loss(q, q, scale=torch.ones(4)), ValueError, "scale must have one element or shape"),
        (lambda: inf_cl.cal_inf_loss(q, q, head_dim=0), ValueError, "head_dim must be a positive int"),
        (lambda: inf_cl.cal_inf_loss(q, q, backend="gpu"), ValueError, "backend"),
    ]:
        with pytest.raises(error, match=message):
            call()


@NAMES
def test_nothing_of_the_size_of_all_pairs_is_kept(name, monkeypatch):
    loss = getattr(inf_cl, name)
    assert_saves_rows(
        lambda q, k: loss(q, k, scale=5.0).sum(), lambda n: [torch.randn(n, 16), torch.randn(n, 16)], monkeypatch
    )


def test_the_default_of_head_dim_is_kept():
    assert inspect.signature(inf_cl.cal_inf_loss).parameters["head_dim"].default == 256
