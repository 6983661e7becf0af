"""Kernel contrastive losses: the official formulas, their conventions, and points that coincide."""

import math

import pytest
import torch
import torch.nn.functional as F

from contrastile import cua, kcl, reference, uniformity
from contrastile.catalog import Case
from contrastile.losses import KCL
from support.loss_cases import id_of, usable
from support.pairing import assert_agreement

FULL = usable("cpu", (torch.float32, torch.float64))
on_full_precision = pytest.mark.parametrize("backend, dtype", FULL, ids=id_of)
on_every_backend = pytest.mark.parametrize("backend", [name for name, dtype in FULL if dtype == torch.float32])
KERNELS = ("gaussian", "log", "imq", "riesz", "gaussian_riesz")
on_every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def unit_pair(n, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return F.normalize(x, dim=1), F.normalize(x + 0.7 * noise, dim=1)


# ---- the official code: pakoromilas/DHEL-KCL @dc5a477, losses.py KCL and utils.py, restated


def official_energy(x, kernel, t):
    d = torch.pdist(x)
    if kernel == "gaussian":
        return d.pow(2).mul(-t).exp().mean()
    if kernel == "log":
        return -0.5 * torch.log(t * d.pow(2) + 1).mean()
    if kernel == "imq":
        return (t / (t**2 + d.pow(2)).sqrt()).mean()
    return (-d.pow(-t) if t < 0 else d.pow(-t)).mean()


def official_alignment(x, y, kernel, t):
    d = (x - y).norm(dim=1)
    if kernel == "gaussian":
        return d.pow(2).mul(-t).exp().mean()
    if kernel == "log":
        return -torch.log(t * d.pow(2) + 1).mean()
    if kernel == "imq":
        return (t / (t**2 + d.pow(2)).sqrt()).mean()
    return (-d.pow(-t) if t < 0 else d.pow(-t)).mean()


def official_kcl(x, y, *, kernel, t, gamma):
    """One number t for every kernel; the positives of gaussian_riesz always take 2."""
    if kernel == "gaussian_riesz":
        energy = official_energy(x, "riesz", t) + official_energy(y, "riesz", t)
        return -2 * official_alignment(x, y, "gaussian", 2.0) + gamma * energy
    energy = official_energy(x, kernel, t) + official_energy(y, kernel, t)
    return -2 * official_alignment(x, y, kernel, t) + gamma * energy


def with_t_as_exponent(x, y, *, kernel, t, gamma, **options):
    """kcl called with the official code's one number."""
    if kernel == "gaussian_riesz":
        return kcl(x, y, kernel=kernel, s=t, gamma=gamma, **options)
    return kcl(x, y, kernel=kernel, **{"s" if kernel == "riesz" else "t": t}, gamma=gamma, **options)


@on_every_kernel
@pytest.mark.parametrize("t", [2.0, 0.5, 3.0, -1.0])
@pytest.mark.parametrize("n", [2, 13, 40])
@on_full_precision
def test_the_official_formula(kernel, t, n, backend, dtype):
    if t < 0 and "riesz" not in kernel:
        pytest.skip("a length or its inverse square")
    x, y = (z.to(dtype) for z in unit_pair(n, 6))
    sensitivity = 8.0
    if "riesz" in kernel:  # a rounding of d^2 counts by its share of the smallest
        closest = min(float(d.min()) for d in (torch.pdist(x), torch.pdist(y), (x - y).norm(dim=1)))
        sensitivity = max(8.0, 2 * abs(t) / closest**2)
    case = Case((x, y), {"kernel": kernel, "t": t, "gamma": torch.tensor(16.0)}, sensitivity)
    assert_agreement(with_t_as_exponent, official_kcl, case, backend=backend)


@on_every_kernel
def test_defaults_are_the_official_ones(kernel):
    x, y = unit_pair(9, 5)
    torch.testing.assert_close(kcl(x, y, kernel=kernel), official_kcl(x, y, kernel=kernel, t=2.0, gamma=16.0))
    torch.testing.assert_close(KCL(kernel)(2.0 * x, y, normalize=True), kcl(x, y, kernel=kernel))


def test_the_gaussian_energy_is_the_exponential_of_uniformity():
    x, y = unit_pair(11, 5)
    energies = uniformity(x, t=1.5).exp() + uniformity(y, t=1.5).exp()
    found = kcl(x, y, t=1.5, gamma=3.0) - kcl(x, y, t=1.5, gamma=0.0)
    torch.testing.assert_close(found, 3.0 * energies)


@pytest.mark.parametrize("distance", [0.0, 3e-4, 0.3])
@pytest.mark.parametrize("norm", [1.0, 100.0])
def test_exponents_of_distances_are_right_to_the_rounding_of_norms_and_have_no_floor(norm, distance):
    """The stated bound, and gradients of pairs that a floor of 2^-20 of their squared norms would have set to 0."""
    g = torch.Generator().manual_seed(0)
    x = (
        F.normalize(torch.randn(1, 32, generator=g), dim=1) * norm
        + distance * torch.randn(20, 32, generator=g) / 32**0.5
    )
    x.requires_grad_()
    wide = x.detach().double().requires_grad_()
    value, truth = uniformity(x), reference.uniformity(wide)
    (grad,), (true_grad,) = torch.autograd.grad(value, x), torch.autograd.grad(truth, wide)
    bound = 2.0 * 2.0 * x.square().sum(1).max() * 2.0**-22
    assert abs(value - truth) <= bound
    if norm == 1.0 and distance > 0.0:
        assert (grad - true_grad).norm() < 1e-3 * true_grad.norm()


def test_the_gradient_of_the_width():
    x, y = unit_pair(11, 5)
    for kernel in ("gaussian", "log", "imq"):
        t, twin = (torch.tensor(1.3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        kcl(x, y, kernel=kernel, t=t).backward()
        reference.kcl(x, y, kernel=kernel, t=twin).backward()
        torch.testing.assert_close(t.grad, twin.grad, rtol=1e-12, atol=1e-12)


# ---- points that coincide, few points


@on_every_kernel
@on_every_backend
def test_duplicates_are_finite(kernel, backend):
    """Equal rows and equal positives. The formula of riesz is infinite there; its distances have a floor."""
    x, y = (z.float() for z in unit_pair(9, 5))
    x[4] = x[2]
    y[7] = x[7]
    x.requires_grad_()
    value = kcl(x, y, kernel=kernel, backend=backend)
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    truth = reference.kcl(x.detach().double(), y.double(), kernel=kernel)
    if kernel in ("gaussian", "log", "imq"):
        torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=1e-6)
    else:
        assert truth.isinf() or truth.isnan()


@on_every_backend
def test_the_floor_of_riesz(backend):
    """Two equal unit rows count as 2^-9.5 apart, and positives likewise."""
    x = F.normalize(torch.ones(2, 4), dim=1)
    floor = 2.0**-20 * 2.0
    energy = kcl(x, -x, kernel="gaussian_riesz", s=2.0, gamma=1.0, backend=backend) / 2.0
    assert energy.item() == pytest.approx(1.0 / floor, rel=1e-4)
    alignment = -0.5 * kcl(x, x.clone(), kernel="riesz", s=1.0, gamma=0.0, backend=backend)
    assert alignment.item() == pytest.approx(floor**-0.5, rel=1e-4)


@on_every_kernel
@on_every_backend
def test_one_pair_is_alignment_alone_and_none_is_zero(kernel, backend):
    x, y = (z.float().requires_grad_() for z in unit_pair(1, 5))
    value = kcl(x, y, kernel=kernel, backend=backend)
    torch.testing.assert_close(value, -2.0 * official_alignment(x, y, kernel.partition("_")[0], 2.0))
    value.backward()
    assert x.grad.isfinite().all()
    empty = torch.zeros(0, 5, requires_grad=True)
    nothing = kcl(empty, empty, kernel=kernel, backend=backend)
    assert torch.equal(nothing, torch.zeros(()))
    nothing.backward()


@on_every_backend
def test_far_points_underflow_to_their_limit(backend):
    x, y = (1e4 * z.float() for z in unit_pair(9, 5))
    assert torch.equal(kcl(x, y, backend=backend), torch.zeros(()))
    far = kcl(x, y, kernel="log", backend=backend).double()
    torch.testing.assert_close(far, reference.kcl(x.double(), y.double(), kernel="log"), rtol=1e-5, atol=0.0)


# ---- types and arguments


@pytest.mark.parametrize("number", [torch.float64, torch.float16, torch.bfloat16], ids=id_of)
@on_every_kernel
def test_a_parameter_of_another_type_does_not_decide_the_type(kernel, number):
    x, y = (z.float() for z in unit_pair(9, 5))
    found = kcl(x, y, kernel=kernel, t=torch.tensor(1.5, dtype=number), gamma=torch.tensor(4.0, dtype=number))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kcl(x, y, kernel=kernel, t=1.5, gamma=4.0))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_unknown_kernels_and_exponents(n):
    x = torch.ones(n, 3)
    for value in ("laplace", None, 3):
        with pytest.raises(ValueError, match=rf"^kernel must be one of 'gaussian', .*, got {value!r}"):
            kcl(x, x, kernel=value)
    for value in (0, 0.0, torch.tensor(2.0)):
        with pytest.raises(ValueError, match=r"^s must be a number other than 0, got"):
            kcl(x, x, kernel="riesz", s=value)
    for value, error in (("2", TypeError), (True, TypeError), (math.nan, ValueError), (math.inf, ValueError)):
        with pytest.raises(error, match=r"^s must be"):
            kcl(x, x, s=value)
    with pytest.raises(ValueError, match="kernel must be"):
        reference.kcl(x, x, kernel="laplace")


# ---- points of any norm, and far from 0


def dense_uniformity(x: torch.Tensor, t: float) -> torch.Tensor:
    """By differences of points, which lose no digit."""
    square = (x[:, None] - x).square().sum(2)
    return (-t * square).masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf).logsumexp((0, 1))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("name", ["uniformity", "cua", "kcl"])
@pytest.mark.parametrize("norm, shift", [(1.0, 0.0), (100.0, 0.0), (1e4, 0.0), (0.01, 1.0), (1.0, 100.0)])
def test_gradients_are_those_of_differences_whatever_the_norm(name, norm, shift, backend):
    """At most four times the error of dense differences in float32."""
    g = torch.Generator().manual_seed(3)
    points = torch.nn.functional.normalize(torch.randn(9, 8, generator=g), dim=1) * norm + shift
    t = 2.0 / max(norm * norm, 1.0) if name == "kcl" else 2.0  # e^-t d^2 itself, not its logarithm

    def ours(x):
        if name == "uniformity":
            return uniformity(x, t=t, backend=backend)
        if name == "cua":
            only = {"clip_weight": 0.0, "alignment_weight": 0.0}
            return cua(x, x.detach() + 0.0 * x, 10.0, t=t, backend=backend, **only)
        return kcl(x, x.detach(), t=t, gamma=1.0, backend=backend)

    def dense(x):  # but for a factor
        value = dense_uniformity(x, t)
        return value.exp() if name == "kcl" else value

    def gradient(function, dtype):
        x = points.to(dtype).requires_grad_()
        grad = torch.autograd.grad(function(x), x)[0].double()
        return grad / grad.norm()

    truth = gradient(dense, torch.float64)
    error, twin = ((gradient(f, torch.float32) - truth).norm() for f in (ours, dense))
    assert error <= 4 * max(twin, 2.0**-24)
