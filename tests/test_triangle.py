"""TRIANGLE: areas and their loss against float64 on every backend, near and at area 0."""

import math
from fractions import Fraction

import pytest
import torch
from torch.autograd import gradcheck

import contrastile
from contrastile import reference
from contrastile.catalog import Case
from contrastile.testing import compare
from support.combinations import each_once
from support.loss_cases import id_of, usable
from support.pairing import Pairing
from support.volume_cases import gradients, matched, modalities, official_area, official_loss

FULL = (torch.float32, torch.float64)
HALF = (torch.bfloat16, torch.float16)
BACKENDS = [name for name, _ in usable("cpu", (torch.float32,))]
on_full_precision = pytest.mark.parametrize("backend, dtype", usable("cpu", FULL), ids=id_of)
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)


def areas(anchor, x, y):
    """(n, m) areas of all pairs."""
    return (
        reference.gram_volume((anchor[:, None] - x).flatten(0, 1), (anchor[:, None] - y).flatten(0, 1)).view(
            len(anchor), len(x)
        )
        / 2
    )


def loss_case(tensors, dtype, temperature=0.07, **options):
    """A call of triangle_loss; the budget is that of the pairs off the diagonal.

    An area is half the side xy times the height of the anchor over it; one rounding of a squared height moves it as in
    volume_cases.conditioning. Squared areas are polynomials, and as exact as their largest terms.
    """
    side = torch.linalg.vector_norm(tensors[2] - tensors[1], dim=1)
    height = 2 * areas(*tensors) / side.clamp_min(1e-300)
    lengths = max(x.norm(dim=1).max().item() for x in tensors if len(x))
    pairs = height[~matched(*height.shape, options.get("key_offset", 0))]
    lowest = pairs.min().item() if pairs.numel() else 1.0
    magnitude = 4 * side.max().item() ** 2 * lengths**2 / temperature
    if not options.get("squared", True):
        magnitude = 4 * lengths**2 * max(side.max().item() / (lowest * temperature), 1 / lowest**2, 1 / temperature)
    kwargs = {"temperature": torch.tensor(temperature, dtype=torch.float64), **options}
    if dtype != torch.float64:
        kwargs["temperature"] = kwargs["temperature"].float()
    return Case(tuple(x.to(dtype) for x in tensors), kwargs, magnitude)


def assert_right(tensors, dtype, temperature=0.07, reductions=("mean", "none"), backend="auto", **options):
    pairing = Pairing(contrastile.triangle_loss, reference.triangle_loss)
    for reduction in reductions:
        case = loss_case(tensors, dtype, temperature, **options)
        result = compare(pairing, case, backend=backend, reduction=reduction)
        assert result.ok, f"{reduction}: {result.detail}"


# ---- the reference


def exact_square(a, x, y):
    """|u|^2 |w|^2 - <u, w>^2 in rational numbers."""
    u, w = ([Fraction(p) - Fraction(q) for p, q in zip(a, b, strict=True)] for b in (x, y))
    dot = lambda p, q: sum(s * t for s, t in zip(p, q, strict=True))  # noqa: E731
    return dot(u, u) * dot(w, w) - dot(u, w) ** 2


@pytest.mark.parametrize("noise", [1.0, 1e-3, 1e-7])
def test_the_reference_area_is_that_of_exact_arithmetic(noise):
    tensors = modalities(4, 6, 3, noise)
    found = reference.area(*tensors)
    for i, value in enumerate(found.tolist()):
        exact = math.sqrt(exact_square(*(x[i].tolist() for x in tensors))) / 2
        assert value == pytest.approx(exact, rel=1e-12)


LOOPS = {
    "plain": {"label_smoothing": 0.0},
    "smoothing": {},
    "roots": {"squared": False},
    "one way": {"symmetric": False},
    "gathered": {"key_offset": 2, "keys": 9},
    "gathered roots one way": {"key_offset": 4, "keys": 9, "symmetric": False, "squared": False},
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_reference_loss_equals_its_loop(name):
    options = dict(LOOPS[name])
    tensors = modalities(5, 6, 3, keys=options.pop("keys", None))
    rows = [x.tolist() for x in tensors]
    smoothing, offset = options.get("label_smoothing", 0.1), options.get("key_offset", 0)

    def logit(i, j):
        square = exact_square(rows[0][i], rows[1][j], rows[2][j])
        return -float(square / 2 if options.get("squared", True) else math.sqrt(square) / 2) / 0.3

    def cross_entropy(logits, own):
        total = math.log(sum(map(math.exp, logits)))
        return (1 - smoothing) * (total - own) + smoothing * sum(total - z for z in logits) / len(logits)

    expected = []
    for i in range(5):
        own = logit(i, i + offset)
        loss = cross_entropy([logit(i, j) for j in range(len(rows[1]))], own)
        if options.get("symmetric", True):
            loss = (loss + cross_entropy([logit(r, i + offset) for r in range(5)], own)) / 2
        expected.append(loss)
    found = reference.triangle_loss(*tensors, temperature=0.3, reduction="none", **options)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOOPS)
def test_derivatives_of_the_reference_loss(name):
    options = dict(LOOPS[name])
    tensors = [x.requires_grad_() for x in modalities(5, 6, 3, keys=options.pop("keys", None))]
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(t, *x):
        return reference.triangle_loss(*x, temperature=t, reduction="none", normalize=True, **options)

    assert gradcheck(loss, (temperature, *tensors))


# ---- areas


@pytest.mark.parametrize("dtype", (*FULL, *HALF), ids=id_of)
@pytest.mark.parametrize("n, d", [(1, 7), (33, 16), (20, 2)])
def test_areas_and_gradients(dtype, n, d):
    case = Case(tuple(x.to(dtype) for x in modalities(n, d, 3)))
    result = compare(Pairing(contrastile.area, reference.area), case)
    assert result.ok, result.detail
    assert contrastile.area(*case.args).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_an_area_by_hand():
    a, x, y = torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 5.0]])
    assert contrastile.area(a, x, y).item() == pytest.approx(6.0)
    for corners in ((x, y, a), (y, a, x), (a, y, x)):
        assert contrastile.area(*corners).item() == pytest.approx(6.0)


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("dtype", FULL, ids=id_of)
def test_areas_near_alignment_keep_their_digits(noise, dtype):
    """Small triangles of float32 corners: differences of near equals are exact."""
    tensors = [x.float().to(dtype) for x in modalities(40, 32, 3, noise)]
    found, grads = gradients(contrastile.area, tensors)
    true, true_grads = gradients(reference.area, [x.double() for x in tensors])
    torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=0.0)
    for g, right in zip(grads, true_grads, strict=True):
        torch.testing.assert_close(g.double(), right, rtol=0.0, atol=1e-4 * right.abs().max().item())


def test_thin_triangles_keep_their_digits():
    """The third corner next to the line through the others; known areas, exact in float32."""
    for height in (2.0**-7, 2.0**-13, 2.0**-20):
        a, x, y = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.5, height, 0.5]])[:, None]
        found, grads = gradients(contrastile.area, (a, x, y))
        torch.testing.assert_close(found, torch.tensor([height * 2**0.5 / 2]), rtol=1e-5, atol=0.0)
        assert all(g.abs().max() <= 1.0 for g in grads)


FLAT = {
    "one point": lambda a, x, y: (a, a, a),
    "anchor on x": lambda a, x, y: (a, a, y),
    "anchor on y": lambda a, x, y: (a, x, a),
    "x on y": lambda a, x, y: (a, x, x),
    "collinear": lambda a, x, y: (a, x, 2 * x - a),
    "all zero": lambda a, x, y: (0 * a, 0 * x, 0 * y),
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("dtype", FULL, ids=id_of)
def test_flat_triangles_have_no_area_and_a_finite_gradient(name, dtype):
    tensors = FLAT[name](*(x.to(dtype) for x in modalities(9, 16, 3)))
    found, grads = gradients(contrastile.area, tensors)
    assert (found >= 0).all() and (found <= 1e-6).all()
    for g in grads:
        assert g.isfinite().all()
        assert (g.norm(dim=1) <= 2.0).all()


def test_in_one_dimension_all_triangles_are_flat():
    found, grads = gradients(contrastile.area, [torch.randn(5, 1) for _ in range(3)])
    assert (found <= 1e-6).all()
    assert all(g.isfinite().all() for g in grads)


# ---- the loss


@on_full_precision
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("n, d", [(2, 7), (17, 12), (33, 16)])
def test_loss_and_gradients(n, d, squared, backend, dtype):
    assert_right(modalities(n, d, 3), dtype, backend=backend, squared=squared)


OPTIONS = {
    "no smoothing": {"label_smoothing": 0.0},
    "one way": {"symmetric": False},
    "one way, no smoothing": {"symmetric": False, "label_smoothing": 0.0},
    "detached": {"detach_keys": True},
    "detached one way": {"detach_keys": True, "symmetric": False},
    "temperature 1": {"temperature": 1.0},
    "temperature 0.005": {"temperature": 0.005},
    "normalize": {"normalize": True},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("squared", [True, False])
@on_full_precision
def test_options(name, squared, backend, dtype):
    assert_right(modalities(19, 12, 3), dtype, backend=backend, squared=squared, **OPTIONS[name])


@on_every_backend
def test_sums(backend):
    assert_right(modalities(19, 12, 3), torch.float32, reductions=("sum",), backend=backend)


@on_full_precision
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("offset", [0, 5, 8])
def test_gathered_keys(offset, squared, backend, dtype):
    anchor, x, y = modalities(17, 12, 3)
    tensors = [anchor[offset : offset + 9], x, y]
    assert_right(tensors, dtype, backend=backend, key_offset=offset, squared=squared)
    assert_right(tensors, dtype, backend=backend, key_offset=offset, squared=squared, symmetric=False)


@pytest.mark.parametrize("backend, squared", each_once(BACKENDS, (True, False)))
def test_batches_of_many_chunks(squared, backend, two_threads):
    assert_right(modalities(530, 20, 3), torch.float32, reductions=("mean",), backend=backend, squared=squared)


@pytest.mark.parametrize("budget", [0, 1, 700_000, 1 << 40])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@on_every_backend
def test_any_memory_budget_is_right(budget, reduction, backend):
    case = loss_case(modalities(270, 12, 3), torch.float32)
    pairing = Pairing(contrastile.triangle_loss, reference.triangle_loss)
    result = compare(pairing, case, backend=backend, memory_budget=budget, reduction=reduction)
    assert result.ok, result.detail


@on_every_backend
@pytest.mark.parametrize("length", [0.1, 3.0])
def test_corners_of_any_length(length, backend):
    """Areas are those of differences: nothing assumes unit rows."""
    assert_right([length * x for x in modalities(19, 12, 3)], torch.float32, backend=backend)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", [*FLAT, "duplicated samples", "one sample, many times"])
@on_full_precision
def test_flat_triangles_give_finite_losses(name, backend, dtype, reduction, squared):
    """Also off the diagonal: a batch that holds a sample twice."""
    a, x, y = modalities(9, 16, 3)
    if name in FLAT:
        tensors = FLAT[name](a, x, y)
    elif name == "duplicated samples":
        tensors = [torch.cat([v, v]) for v in (a, a, a)]
    else:
        tensors = [v[:1].expand(9, 16) for v in (a, a, y)]
    tensors = [v.to(dtype) for v in tensors]
    options = {"reduction": reduction, "squared": squared}
    value, grads = gradients(contrastile.triangle_loss, tensors, backend=backend, **options)
    assert all(g.isfinite().all() and g.abs().max() <= 4 * len(g) / 0.07 for g in grads)
    noise = torch.finfo(dtype).eps * 64 if squared else 8 * torch.finfo(dtype).eps ** 0.5
    true = reference.triangle_loss(*(v.double() for v in tensors), **options)
    torch.testing.assert_close(value.double(), true, rtol=0.0, atol=noise / 0.07)


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("squared", [True, False])
@on_full_precision
def test_aligned_batches(noise, squared, backend, dtype):
    """Small matched triangles, thin triangles of all other pairs."""
    tensors = [x.float().to(dtype) for x in modalities(24, 32, 3, noise)]
    value, grads = gradients(contrastile.triangle_loss, tensors, backend=backend, squared=squared)
    true, true_grads = gradients(reference.triangle_loss, [x.double() for x in tensors], squared=squared)
    torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=1e-5)
    largest = max(g.abs().max().item() for g in true_grads)
    for found, right in zip(grads, true_grads, strict=True):
        torch.testing.assert_close(found.double(), right, rtol=0.0, atol=1e-3 * largest)


@on_every_backend
def test_detached_keys_get_their_gradient_from_their_own_direction(backend):
    tensors = [x.float() for x in modalities(9, 12, 3)]
    options = {"detach_keys": True, "backend": backend}
    _, one_way = gradients(contrastile.triangle_loss, tensors, symmetric=False, **options)
    assert one_way[0].any() and not one_way[1].any() and not one_way[2].any()
    both, two_way = gradients(contrastile.triangle_loss, tensors, **options)
    torch.testing.assert_close(two_way[0], one_way[0] / 2, rtol=1e-4, atol=1e-5)
    assert two_way[1].any() and two_way[2].any()
    torch.testing.assert_close(both, contrastile.triangle_loss(*tensors, backend=backend), rtol=1e-5, atol=1e-5)


# ---- batches of all kinds


@on_every_backend
def test_one_sample_has_nothing_to_contrast(backend):
    value, grads = gradients(contrastile.triangle_loss, [x.float() for x in modalities(1, 8, 3)], backend=backend)
    assert value.abs() <= 1e-6
    assert all(g.abs().max() <= 1e-5 for g in grads)


@on_every_backend
def test_one_dimension_has_no_areas(backend):
    value, grads = gradients(contrastile.triangle_loss, [torch.randn(7, 1) for _ in range(3)], backend=backend)
    assert value.item() == pytest.approx(math.log(7), abs=1e-3)
    assert all(g.isfinite().all() for g in grads)


@on_every_backend
def test_strides_do_not_matter(backend):
    a, b, c = (x.float() for x in modalities(9, 12, 3))
    strided = [torch.stack([a, b, c], 1)[:, 0], b.T.contiguous().T, torch.cat([c, c], 1)[:, :12]]
    assert not any(x.is_contiguous() for x in strided)
    expected = gradients(contrastile.triangle_loss, [a, b, c], backend=backend)
    found = gradients(contrastile.triangle_loss, strided, backend=backend)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-6)


def test_a_nan_gives_a_nan_loss():
    for place in range(3):
        tensors = [x.float() for x in modalities(5, 8, 3)]
        tensors[place][3, 2] = torch.nan
        assert contrastile.triangle_loss(*tensors).isnan()
        assert contrastile.area(*tensors).isnan().tolist() == [False, False, False, True, False]


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
BAD = {
    "a vector": ((X[0], X, X), {}, ValueError, "anchor"),
    "integers": ((X, X.long(), X), {}, TypeError, r"\bx\b"),
    "a list": ((X, X, [1.0]), {}, TypeError, r"\by\b"),
    "width": ((X, X[:, :3], X[:, :3]), {}, ValueError, r"\bx\b"),
    "two lengths": ((X, X, X[:5]), {}, ValueError, r"\by\b"),
    "too few keys": ((X, X[:5], X[:5]), {}, ValueError, r"\bx\b|key_offset"),
    "offset beyond the keys": ((X[:3], X, X), {"key_offset": 4}, ValueError, "key_offset"),
    "negative offset": ((X[:3], X, X), {"key_offset": -1}, ValueError, "key_offset"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    args, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        contrastile.triangle_loss(*args, **options)


# ---- the official code


def test_the_official_logit_is_twice_the_squared_area():
    tensors = modalities(7, 12, 3)
    torch.testing.assert_close(official_area(*tensors), 2 * areas(*tensors).square(), rtol=1e-12, atol=1e-12)
    matched_areas = official_area(*tensors).diagonal()
    torch.testing.assert_close(2 * contrastile.area(*tensors).square(), matched_areas, rtol=1e-12, atol=1e-12)


@on_every_backend
@pytest.mark.parametrize("gathered_keys", [True, False])
def test_the_official_step_is_reproduced(gathered_keys, backend):
    """Its gather takes the gradient of the other side even on one device: detach_keys."""
    tensors = [x.float() for x in modalities(12, 16, 3)]
    value, grads = gradients(contrastile.triangle_loss, tensors, detach_keys=gathered_keys, backend=backend)
    expected, true = gradients(lambda *x: official_loss(official_area, x, gathered_keys), tensors)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads, true, rtol=1e-3, atol=1e-4)


def test_official_areas_near_alignment_lose_their_digits():
    """U V - W^2 in float32, at angles of 1e-6 between the sides, is noise, negative for many."""
    g = torch.Generator().manual_seed(0)
    a, x, t = (torch.randn(200, 64, generator=g) for _ in range(3))
    y = a + 1.5 * (x - a) + 1e-6 * t
    square = official_area(a, x, y).diagonal()
    assert 0.2 < (square < 0).float().mean() < 0.8
    true = reference.area(a.double(), x.double(), y.double())
    noise = (a - x).norm(dim=1) * (a - y).norm(dim=1) * torch.finfo(torch.float32).eps  # of the differences
    assert ((contrastile.area(a, x, y) - true).abs() <= noise).all()
    assert square.abs().sqrt().median() > 50 * noise.median()


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-6])
def test_the_area_keeps_its_digits_when_two_corners_meet(distance):
    """Aligned modalities far from the anchor: every order of the corners."""
    g = torch.Generator().manual_seed(5)
    a, x = (torch.nn.functional.normalize(torch.randn(20, 32, generator=g), dim=1) for _ in range(2))
    y = x + distance * torch.nn.functional.normalize(torch.randn(20, 32, generator=g), dim=1)
    u, w = x.double() - y.double(), a.double() - y.double()
    along = (u * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True)
    truth = 0.5 * (u - along * w).norm(dim=1) * w.norm(dim=1)
    for corners in ((a, x, y), (x, y, a), (y, a, x)):
        torch.testing.assert_close(contrastile.area(*corners).double(), truth, rtol=1e-6, atol=0.0)
