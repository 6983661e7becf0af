"""PMRL beyond the tests of every loss: known spectra, degenerate ones, small singular values, signs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

import contrastile
from contrastile import pmrl_loss, reference, singular_alignment
from contrastile.catalog import CATALOG, Case
from contrastile.losses.pmrl import spectrum
from contrastile.testing import compare
from support.loss_cases import id_of, usable

FULL = (torch.float32, torch.float64)
CARD = next(card for card in CATALOG if card.name == "pmrl_loss")
on_full_precision = pytest.mark.parametrize("backend, dtype", usable("cpu", FULL), ids=id_of)


def modalities(n, d, k, noise=0.5, dtype=torch.float32):
    """Unit rows that resemble each other by sample."""
    g = torch.Generator().manual_seed(100 * n + 10 * d + k)
    first = torch.randn(n, d, generator=g, dtype=torch.float64)
    others = [first + noise * torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(k - 1)]
    return [F.normalize(x, dim=1).to(dtype) for x in (first, *others)]


def spectral(values, n=4, d=7):
    """Modalities with given singular values, and their leading directions (n, d), float64.

    All entries of the first right singular vector are positive, so the directions need no sign.
    """
    g = torch.Generator().manual_seed(0)
    k = len(values)
    u = torch.linalg.qr(torch.randn(n, d, k, generator=g, dtype=torch.float64))[0]
    w = torch.linalg.qr(torch.cat([torch.ones(k, 1), torch.randn(k, k - 1, generator=g)], 1).double())[0]
    w = w * w[:, :1].sum().sign()
    z = u * torch.tensor(values, dtype=torch.float64) @ w.T
    return list(z.unbind(2)), u[:, :, 0]


def gradients(function, tensors, dtype, **options):
    leaves = [x.to(dtype).requires_grad_() for x in tensors]
    value = function(*leaves, **options)
    return value.detach(), torch.autograd.grad(value.sum(), leaves)


@on_full_precision
@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("n, d", [(17, 12), (40, 3)])
def test_any_number_of_modalities_in_any_width(backend, dtype, k, n, d):
    """With D < k there are only D singular values."""
    temperatures = {"singular_temperature": torch.tensor(0.07), "instance_temperature": torch.tensor(0.2)}
    case = Case(tuple(modalities(n, d, k, dtype=dtype)), temperatures, k / 0.07)
    if d >= k or dtype == torch.float64:  # plain float32 loses the solver's null space, the reference is no twin
        result = compare(CARD, case, backend=backend)
        assert result.ok, result.detail


@pytest.mark.parametrize("values", [(1.5, 0.6), (1.7, 0.2, 0.1), (1.9, 0.5, 0.5, 1e-3), (2.0, 1e-4, 1e-5, 0.0, 0.0)])
@pytest.mark.parametrize("function", [pmrl_loss, reference.pmrl_loss])
def test_known_spectra_give_the_formula(function, values):
    z, u = spectral(values)
    found = function(*z, singular_temperature=0.5, instance_temperature=0.3, reduction="none")
    intra = math.log(sum(math.exp((s - values[0]) / 0.5) for s in values))
    inter = [math.log(sum(math.exp((float(x @ y) - 1) / 0.3) for y in u)) for x in u]
    torch.testing.assert_close(found, intra + torch.tensor(inter, dtype=torch.float64), rtol=0.0, atol=1e-7)
    torch.testing.assert_close(singular_alignment(*z).item(), values[0])


def test_derivatives_of_the_references():
    z = [2.0 * x.requires_grad_() for x in modalities(5, 6, 3, dtype=torch.float64)]
    t = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.4, 0.7)]

    def loss(first, second, *x):
        options = {"singular_temperature": first, "instance_temperature": second, "normalize": True}
        return reference.pmrl_loss(*x, reduction="none", **options)

    assert gradcheck(loss, (*t, *z))
    assert gradcheck(lambda *x: reference.singular_alignment(*x, normalize=True), z)


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("temperature", [0.05, 0.005])
def test_small_singular_values_keep_their_digits(noise, temperature):
    """Of float32 features: their squares, eigenvalues of 1e-12 next to 4, need float64 on the way."""
    z = modalities(64, 32, 4, noise)
    options = {"singular_temperature": temperature, "reduction": "none"}
    found, grads = gradients(pmrl_loss, z, torch.float32, **options)
    true, true_grads = gradients(reference.pmrl_loss, z, torch.float64, **options)
    torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=2e-6 * true.abs().max().item())
    largest = max(g.abs().max().item() for g in true_grads)
    for x, y in zip(grads, true_grads, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=5e-6 * largest)


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3])
def test_gradients_near_a_double_leading_value(gap):
    """They grow with 1 / gap and are right as long as float32 features resolve the gap."""
    z, _ = spectral((1.0 + gap, 1.0, 0.3))
    z = [x.float() for x in z]
    _, found = gradients(pmrl_loss, z, torch.float32)
    _, true = gradients(reference.pmrl_loss, z, torch.float64)
    largest = max(g.abs().max().item() for g in true)
    for x, y in zip(found, true, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=0.0, atol=2e-5 * largest)


@pytest.mark.parametrize("dtype", FULL, ids=id_of)
def test_the_factor_of_a_small_gap_is_bounded(dtype):
    """1 / g becomes g / (g^2 + e^2); the modalities are Hadamard rows, so that the gap of 2^-21 is exact."""
    h = torch.ones(1, 1)
    for _ in range(3):
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    scales = (1.0 + 2.0**-22, 1.0, 0.5)
    z = [s * h.roll(i, 0)[:5] for i, s in enumerate(scales)]
    _, found = gradients(pmrl_loss, z, dtype, instance_temperature=8.0)
    _, true = gradients(reference.pmrl_loss, z, torch.float64, instance_temperature=8.0)
    gap, e = 2.0**-21, 8 * torch.finfo(dtype).eps
    ratio = found[0].norm().item() / true[0].norm().item()
    assert ratio == pytest.approx(gap**2 / (gap**2 + e**2), rel=0.02)


DEGENERATE = {
    "orthogonal": lambda: [torch.eye(8)[i : i + 4] for i in range(3)],
    "equal": lambda: modalities(6, 8, 2)[:1] * 3,
    "two of three equal": lambda: [modalities(6, 8, 2)[i] for i in (0, 1, 0)],
    "opposite": lambda: [sign * modalities(6, 8, 2)[0] for sign in (1, -1)],
    "zero": lambda: [torch.zeros(5, 8)] * 3,
    "one sample zero": lambda: [torch.cat([torch.zeros(1, 8), x]) for x in modalities(6, 8, 3)],
    "one modality zero": lambda: [*modalities(6, 8, 2), torch.zeros(6, 8)],
    "equal samples": lambda: [x.expand(6, 8) for x in modalities(1, 8, 3)],
    "tiny": lambda: [1e-18 * x for x in modalities(6, 8, 3)],
}


@pytest.mark.parametrize("name", DEGENERATE)
@on_full_precision
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_degenerate_spectra_have_finite_values_and_gradients(name, backend, dtype, reduction):
    z = DEGENERATE[name]()
    value, grads = gradients(pmrl_loss, z, dtype, backend=backend, reduction=reduction)
    assert value.isfinite().all()
    bound = 1e3 / max(min(x.norm(dim=1).max().item() for x in z if x.any()) if any(x.any() for x in z) else 1.0, 1e-30)
    assert all(g.isfinite().all() and g.abs().max() <= bound for g in grads)


def test_exactly_equal_modalities_have_no_singular_value_but_one():
    """sqrt(k) and zeros, and no gradient through the zeros."""
    x = modalities(6, 8, 2)[0]
    value, grads = gradients(pmrl_loss, [x] * 3, torch.float32, instance_temperature=1e-3, reduction="none")
    expected = math.log1p(2 * math.exp(-math.sqrt(3) / 0.05))
    torch.testing.assert_close(value, torch.full((6,), expected), rtol=1e-4, atol=1e-18)
    assert all(g.abs().max() < 1e-10 for g in grads)


@pytest.mark.parametrize("dtype", FULL, ids=id_of)
@pytest.mark.parametrize("name", ["equal", "two of three equal", "opposite", "one modality zero", "tiny"])
def test_rounding_noise_counts_as_zero(name, dtype):
    z = torch.stack([x.to(dtype) for x in DEGENERATE[name]()], 1)
    zeros = {"equal": 2, "tiny": 0}.get(name, 1)
    assert ((spectrum(z)[0] == 0).sum(1) == zeros).all()


def test_a_sample_of_zeros_takes_and_gives_no_gradient():
    z = DEGENERATE["one sample zero"]()
    _, grads = gradients(pmrl_loss, z, torch.float32)
    assert all(not g[0].any() and g[1:].any() for g in grads)


def test_one_sample_has_the_singular_term_alone():
    z, _ = spectral((1.4, 0.3), n=1)
    value, grads = gradients(pmrl_loss, z, torch.float64, reduction="none")
    torch.testing.assert_close(value.item(), math.log1p(math.exp((0.3 - 1.4) / 0.05)), rtol=1e-9, atol=0.0)
    assert all(g.isfinite().all() and g.any() for g in grads)


def test_in_one_dimension_there_is_one_singular_value():
    z = [torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[1.0], [-3.0], [0.1]])]
    found = pmrl_loss(*z, instance_temperature=1.0, reduction="none")  # u = 1, -1, 1
    same, other = math.log(2 + math.exp(-2)), math.log(1 + 2 * math.exp(-2))
    torch.testing.assert_close(found, torch.tensor([same, other, same]))


# ---- the sign of u


@pytest.mark.parametrize("function", [pmrl_loss, reference.pmrl_loss])
def test_the_sign_of_the_solver_does_not_matter(function, monkeypatch):
    z = modalities(9, 8, 3, dtype=torch.float64)
    expected = gradients(function, z, torch.float64)
    eigh, svd = torch.linalg.eigh, torch.linalg.svd
    flips = torch.tensor([1.0, -1.0, -1.0] * 3, dtype=torch.float64)[:, None, None]

    def flipped_eigh(x):
        values, vectors = eigh(x)
        return values, vectors * flips

    def flipped_svd(x, **options):
        u, s, w = svd(x, **options)
        return u * flips, s, w * flips

    monkeypatch.setattr(torch.linalg, "eigh", flipped_eigh)
    monkeypatch.setattr(torch.linalg, "svd", flipped_svd)
    found = gradients(function, z, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def official(z, flips):
    """The published code's two terms, with the solver's signs made explicit."""
    u, s, _ = torch.linalg.svd(torch.stack(z, dim=-1), full_matrices=True)
    lead = u[:, :, 0] * flips[:, None]
    intra = F.cross_entropy(s / 0.05, torch.zeros(len(s), dtype=torch.long))
    return intra + F.cross_entropy(lead @ lead.T / 0.1, torch.arange(len(s)))


def test_the_official_value_changes_with_a_sign_that_means_nothing():
    z = modalities(9, 8, 3, noise=1.0, dtype=torch.float64)
    u = torch.linalg.svd(torch.stack(z, dim=-1))[0][:, :, 0]
    right = (u * sum(z)).sum(1).sign()
    values = [official(z, right * flip) for flip in (torch.ones(9), torch.tensor([1.0, -1.0, 1.0] * 3))]
    assert abs(values[0] - values[1]) > 1e-4
    torch.testing.assert_close(pmrl_loss(*z), values[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", [pmrl_loss, reference.pmrl_loss])
def test_leading_directions_point_to_the_mean_of_their_modalities(function):
    """Two samples along +x and -x are opposite, whatever their modalities' signs and number: the loss is small."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    small = math.log1p(math.exp(-2 / 0.5)) + math.log1p(math.exp(-math.sqrt(2) / 0.05))
    found = function(x, x, instance_temperature=0.5)
    torch.testing.assert_close(found.item(), small, rtol=1e-7, atol=0.0)


# ---- the metric


@pytest.mark.parametrize("dtype", FULL, ids=id_of)
def test_singular_alignment_is_the_mean_largest_singular_value(dtype):
    z = modalities(20, 8, 4)
    found, grads = gradients(singular_alignment, z, dtype)
    true, true_grads = gradients(reference.singular_alignment, z, torch.float64)
    assert found.dtype == dtype and 1.0 <= found <= 2.0
    torch.testing.assert_close(found.double(), true, rtol=1e-7, atol=0.0)
    torch.testing.assert_close([g.double() for g in grads], list(true_grads), rtol=1e-5, atol=1e-8)


def test_singular_alignment_goes_from_orthogonal_to_equal():
    assert singular_alignment(*DEGENERATE["orthogonal"]()).item() == pytest.approx(1.0)
    assert singular_alignment(*DEGENERATE["equal"]()).item() == pytest.approx(math.sqrt(3))
    assert singular_alignment(*(2 * x for x in DEGENERATE["equal"]()), normalize=True).item() == pytest.approx(3**0.5)
    assert singular_alignment(torch.zeros(0, 4), torch.zeros(0, 4)) == 0


# ---- inputs


@pytest.mark.parametrize("function", [pmrl_loss, singular_alignment])
def test_bad_modalities_are_named(function):
    x = torch.randn(4, 3)
    for bad, error, message in [
        ((), ValueError, "modalities must be at least two tensors, got 0"),
        ((x,), ValueError, "modalities must be at least two tensors, got 1"),
        ((x, x[0]), ValueError, r"modalities\[1\] must have shape \(N, D\), got \(3,\)"),
        ((x, x, x[:3]), ValueError, r"modalities\[2\] must have the shape of modalities\[0\], \(4, 3\), got \(3, 3\)"),
        ((x, [1.0]), TypeError, r"modalities\[1\] must be a torch.Tensor, got list"),
        ((x.long(), x), TypeError, r"modalities\[0\] must be float32, .*got torch.int64"),
        ((x, x.to("meta")), ValueError, r"modalities\[1\] must be on cpu .*got meta"),
    ]:
        with pytest.raises(error, match=message):
            function(*bad)


@pytest.mark.parametrize("name", ["singular_temperature", "instance_temperature"])
def test_bad_temperatures_are_named(name):
    for bad, error in ((0.0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error, match=f"^{name} must be"):
            pmrl_loss(*modalities(4, 3, 2), **{name: bad})
    with pytest.raises(ValueError, match=f"^{name} must be"):
        pmrl_loss(*modalities(4, 3, 2), **{name: torch.ones(4)})


def test_mixed_types_and_strides_are_taken():
    a, b, c = modalities(12, 8, 3)
    strided = torch.stack([a, b], 1)[:, 0], b.T.contiguous().T
    assert torch.equal(pmrl_loss(*strided, c), pmrl_loss(a, b, c))
    assert torch.equal(pmrl_loss(a, b.bfloat16()), pmrl_loss(a, b.bfloat16().float()))


def test_a_nan_spoils_its_own_row_and_every_pair_with_it():
    z = modalities(5, 8, 3)
    z[1][2, 3] = torch.nan
    assert pmrl_loss(*z, reduction="none").isnan().all()
    assert singular_alignment(*z).isnan()


def test_second_derivatives_are_refused():
    """The eigenvectors are constants in the graph: only first derivatives are right."""
    x = [torch.nn.functional.normalize(torch.randn(4, 6).double(), dim=1).requires_grad_() for _ in range(3)]
    for function in (contrastile.singular_alignment, lambda *y: contrastile.pmrl_loss(*(v[:1] for v in y))):
        grads = torch.autograd.grad(function(*x), x, create_graph=True)
        with pytest.raises(RuntimeError, match="double backward"):
            sum(g.square().sum() for g in grads).backward()


def test_two_opposite_modalities_have_a_stable_sign():
    """Their leading direction is orthogonal to their mean: the first modality decides, not rounding."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.nn.functional.normalize(torch.randn(64, 16, generator=g), dim=1) for _ in range(2))
    base = contrastile.pmrl_loss(x, y)
    for _ in range(4):
        moved = contrastile.pmrl_loss(x + 1e-7 * torch.randn(64, 16, generator=g), y)
        torch.testing.assert_close(moved, base, rtol=1e-4, atol=1e-5)
