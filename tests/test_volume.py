"""GRAM: volumes and their loss against float64 on every backend, near and at volume 0, with missing modalities.

What float32 allows is in volume_cases.conditioning: volumes of pairs come from dot products, those of matched tuples
keep their digits down to 1e-6 and below.
"""

import math
from fractions import Fraction

import pytest
import torch
from torch.autograd import gradcheck

import contrastile
from contrastile import reference
from contrastile.catalog import Case
from contrastile.testing import compare
from support.combinations import by_default
from support.loss_cases import id_of, usable
from support.pairing import Pairing
from support.volume_cases import (
    KS,
    conditioning,
    gradients,
    known,
    loss_case,
    matched,
    modalities,
    official_loss,
    official_volume,
)

FULL = (torch.float32, torch.float64)
HALF = (torch.bfloat16, torch.float16)
BACKENDS = [name for name, _ in usable("cpu", (torch.float32,))]
on_full_precision = pytest.mark.parametrize("backend, dtype", usable("cpu", FULL), ids=id_of)
on_half_precision = pytest.mark.parametrize("backend, dtype", usable("cpu", HALF), ids=id_of)
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
for_every_k = pytest.mark.parametrize("k", KS)


def volume_pairing():
    return Pairing(contrastile.gram_volume, reference.gram_volume)


def loss_pairing():
    return Pairing(contrastile.gram_loss, reference.gram_loss)


def assert_right(tensors, dtype, temperature=0.07, reductions=("mean", "none"), backend="auto", **options):
    """gram_loss against the reference: value and every gradient, that of the temperature too."""
    case = loss_case(tensors, dtype, temperature, **options)
    if dtype != torch.float64:
        case.kwargs["temperature"] = case.kwargs["temperature"].float()
    for reduction in reductions:
        result = compare(loss_pairing(), case, backend=backend, reduction=reduction)
        assert result.ok, f"{reduction}: {result.detail}"


# ---- the reference


def exact_volume(vectors):
    """sqrt of the Gram determinant, in rational numbers up to the root."""
    rows = [[Fraction(x) for x in v.tolist()] for v in vectors]
    gram = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    return math.sqrt(determinant(gram))


def determinant(matrix):
    if not matrix:
        return Fraction(1)
    return sum(
        (-1) ** j * matrix[0][j] * determinant([row[:j] + row[j + 1 :] for row in matrix[1:]])
        for j in range(len(matrix))
    )


@for_every_k
@pytest.mark.parametrize("noise", [1.0, 1e-3, 1e-7])
def test_the_reference_is_the_root_of_the_exact_determinant(k, noise):
    tensors = modalities(3, 6, k, noise)
    found = reference.gram_volume(*tensors)
    for i, volume in enumerate(found.tolist()):
        assert volume == pytest.approx(exact_volume([x[i] for x in tensors]), rel=1e-14 / noise + 1e-14)
    matrix = reference.gram_volume_matrix(*tensors)
    for i in range(3):
        for j in range(3):
            exact = exact_volume([tensors[0][i], *(x[j] for x in tensors[1:])])
            assert matrix[i, j].item() == pytest.approx(exact, rel=1e-14 / noise + 1e-14)


@for_every_k
def test_the_reference_has_the_gradient_of_the_singular_values(k):
    """The volume is their product, and their derivatives have no denominators."""
    tensors = modalities(5, 9, k, noise=0.1)
    _, found = gradients(reference.gram_volume, tensors)
    _, expected = gradients(lambda *x: torch.linalg.svdvals(torch.stack(x, 2)).prod(1), tensors)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def loop_gram_loss(tensors, temperature, smoothing, symmetric, offset, present):
    """Row losses from exact volumes, one pair at a time."""
    n, m, k = len(tensors[0]), len(tensors[1]), len(tensors)
    has = present.tolist() if present is not None else [[True] * k for _ in range(max(n, m))]
    counts = [row[0] and any(row[1:]) for row in has]

    def logit(i, j):
        vectors = [tensors[0][i], *(tensors[r][j] for r in range(1, k) if has[j][r])]
        return -exact_volume(vectors) / temperature

    def cross_entropy(logits, own):
        total = math.log(sum(map(math.exp, logits)))
        return (1 - smoothing) * (total - own) + smoothing * sum(total - z for z in logits) / len(logits)

    rows = []
    for i in range(n):
        if not counts[i]:
            rows.append(0.0)
            continue
        own = logit(i, i + offset)
        loss = cross_entropy([logit(i, j) for j in range(m) if counts[j]], own)
        if symmetric:
            loss = (loss + cross_entropy([logit(x, i + offset) for x in range(n) if counts[x]], own)) / 2
        rows.append(loss)
    return rows, sum(counts[:n])


PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
LOOPS = {
    "plain": {"label_smoothing": 0.0},
    "smoothing": {},
    "one way": {"symmetric": False},
    "gathered": {"key_offset": 2, "keys": 9},
    "gathered one way": {"key_offset": 4, "keys": 9, "symmetric": False, "label_smoothing": 0.2},
    "missing": {"present": PRESENT},
    "missing one way": {"present": PRESENT, "symmetric": False, "label_smoothing": 0.0},
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_reference_loss_equals_its_loop(name):
    options = dict(LOOPS[name])
    tensors = modalities(5, 6, 3, keys=options.pop("keys", None))
    arguments = {"label_smoothing": 0.1, "symmetric": True, "key_offset": 0, "present": None, **options}
    expected, count = loop_gram_loss(tensors, 0.3, *arguments.values())
    found = reference.gram_loss(*tensors, temperature=0.3, reduction="none", **options)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    for reduction, value in (("sum", sum(expected)), ("mean", sum(expected) / count)):
        assert reference.gram_loss(*tensors, temperature=0.3, reduction=reduction, **options).item() == pytest.approx(
            value, rel=1e-12
        )


@pytest.mark.parametrize("name", LOOPS)
def test_derivatives_of_the_reference_loss(name):
    options = dict(LOOPS[name])
    tensors = [x.requires_grad_() for x in modalities(5, 6, 3, keys=options.pop("keys", None))]
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(t, *x):
        return reference.gram_loss(*x, temperature=t, reduction="none", normalize=True, **options)

    assert gradcheck(loss, (temperature, *tensors))


# ---- matched volumes


@for_every_k
@pytest.mark.parametrize("dtype", (*FULL, *HALF), ids=id_of)
@pytest.mark.parametrize("n, d", [(1, 7), (33, 16), (70, 5)])
def test_matched_volumes_and_gradients(k, dtype, n, d):
    case = Case(tuple(x.to(dtype) for x in modalities(n, d, k)))
    result = compare(volume_pairing(), case)
    assert result.ok, result.detail


KNOWN = [
    (k, tuple([2.0**-e] * (k - 1))) for k, e in ((2, 7), (2, 17), (2, 20), (2, 22), (3, 4), (3, 8), (3, 10), (3, 11))
]
KNOWN += [(4, (2.0**-5, 2.0**-7, 2.0**-8)), (4, (2.0**-1, 2.0**-1, 2.0**-20)), (3, (0.5, 2.0**-21))]
KNOWN += [(5, (2.0**-5,) * 4), (5, (0.5, 2.0**-3, 2.0**-4, 2.0**-15)), (5, (2.0**-20, 0.5, 1.0, 1.0))]


@pytest.mark.parametrize("k, epsilons", KNOWN, ids=lambda x: str(x) if isinstance(x, int) else f"{math.prod(x):.0e}")
def test_volumes_near_alignment_keep_their_digits(k, epsilons):
    """Volumes of 1e-2 to 1e-7, known by construction, of tuples that float32 represents exactly."""
    volume = math.prod(epsilons)
    exact = known(epsilons, n=5)
    torch.testing.assert_close(reference.gram_volume(*exact), torch.full((5,), volume).double(), rtol=1e-8, atol=0.0)
    tensors = [x.float() for x in exact]
    assert all(torch.equal(x.double(), y) for x, y in zip(tensors, exact, strict=True))
    found, grads = gradients(contrastile.gram_volume, tensors)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((5,), volume), rtol=1e-5, atol=0.0)
    _, true = gradients(reference.gram_volume, exact)
    for x, y in zip(grads, true, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=0.0, atol=1e-4 * y.abs().max().item() + 1e-7)


@for_every_k
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("dtype", FULL, ids=id_of)
def test_random_near_aligned_volumes(k, noise, dtype):
    tensors = [x.float().to(dtype) for x in modalities(40, 32, k, noise)]
    found, grads = gradients(contrastile.gram_volume, tensors)
    true, true_grads = gradients(reference.gram_volume, [x.double() for x in tensors])
    torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=1e-12)
    largest = max(g.abs().max().item() for g in true_grads)
    for x, y in zip(grads, true_grads, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=0.0, atol=1e-4 * largest)


@for_every_k
@pytest.mark.parametrize("noise", [1.5, 1e-2, 1e-6, 1e-9, 0.0])
@pytest.mark.parametrize("dtype", FULL, ids=id_of)
def test_the_gradient_is_bounded_by_the_product_of_the_other_norms(k, noise, dtype):
    """The derivative along a vector is its height's, at most 1, times the base of the others."""
    tensors = [x.to(dtype) for x in modalities(40, 32, k, noise)]
    _, grads = gradients(contrastile.gram_volume, tensors)
    for g in grads:
        assert g.isfinite().all()
        assert (g.norm(dim=1) <= 1.001).all()


ZERO = {
    "all equal": lambda a, b, c: (a, a, a),
    "anchor and one equal": lambda a, b, c: (a, b, a),
    "others equal": lambda a, b, c: (a, b, b),
    "opposite": lambda a, b, c: (a, -a, b),
    "two equal": lambda a, b, c: (a, a),
    "two opposite": lambda a, b, c: (a, -a),
    "a multiple": lambda a, b, c: (a, b, 0.5 * b),
    "zero anchor": lambda a, b, c: (0 * a, b, c),
    "zero modality": lambda a, b, c: (a, 0 * b, c),
    "all zero": lambda a, b, c: (0 * a, 0 * b, 0 * c),
    "four, two equal": lambda a, b, c: (a, b, c, b),
}


@pytest.mark.parametrize("name", ZERO)
@pytest.mark.parametrize("dtype", (*FULL, torch.bfloat16), ids=id_of)
def test_dependent_modalities_have_volume_zero_and_a_finite_gradient(name, dtype):
    """A kink, like that of |x| at 0: any bounded value will do as the gradient."""
    tensors = ZERO[name](*(x.to(dtype) for x in modalities(9, 16, 3)))
    found, grads = gradients(contrastile.gram_volume, tensors)
    assert (found >= 0).all()
    assert (found <= 1e-7 if dtype == torch.float64 else found <= 1e-6).all()
    for g in grads:
        assert g.isfinite().all()
        assert (g.float().norm(dim=1) <= 1.01).all()


def test_exactly_duplicated_rows_of_the_axes_have_volume_exactly_zero():
    a, b = torch.eye(8)[:4], torch.eye(8)[4:]
    for tensors in ((a, a), (a, a, b), (a, b, a, b), (a, a, a, a, a)):
        assert torch.equal(contrastile.gram_volume(*tensors), torch.zeros(4))


@for_every_k
def test_fewer_dimensions_than_modalities_have_no_volume(k):
    for d in range(1, k):
        tensors = [torch.randn(6, d) for _ in range(k)]
        found, grads = gradients(contrastile.gram_volume, tensors)
        assert (found.abs() <= 1e-6).all()
        assert all(g.isfinite().all() for g in grads)


def test_volumes_ignore_the_order_and_the_signs_of_modalities():
    a, b, c = (x.float() for x in modalities(9, 16, 3, noise=0.3))
    expected = contrastile.gram_volume(a, b, c)
    for tensors in ((c, a, b), (b, a, c), (-a, b, c), (a, -b, -c)):
        torch.testing.assert_close(contrastile.gram_volume(*tensors), expected, rtol=1e-5, atol=0.0)


def test_the_volume_of_two_is_the_sine_and_blind_to_the_sign():
    """k = 2: opposite vectors count as aligned, which a loss of volumes cannot tell from equal ones."""
    a, b = (x.float() for x in modalities(9, 16, 2))
    cosine = (a * b).double().sum(1)
    torch.testing.assert_close(contrastile.gram_volume(a, b).double(), (1 - cosine**2).sqrt(), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(contrastile.gram_volume(a, -b), contrastile.gram_volume(a, b))
    assert (contrastile.gram_volume(a, -a) <= 1e-6).all()
    same, opposite = contrastile.gram_loss(a, a), contrastile.gram_loss(a, -a)
    torch.testing.assert_close(same, opposite, rtol=1e-6, atol=1e-6)


@for_every_k
def test_volumes_scale_with_each_modality(k):
    tensors = [x.float() for x in modalities(9, 16, k)]
    expected = contrastile.gram_volume(*tensors)
    scaled = [1000.0 * tensors[0], *tensors[1:-1], 2.0**-10 * tensors[-1]]
    torch.testing.assert_close(contrastile.gram_volume(*scaled), expected * 1000 / 1024, rtol=1e-5, atol=0.0)


@for_every_k
@pytest.mark.parametrize("dtype", FULL, ids=id_of)
def test_the_matrix_of_volumes(k, dtype):
    tensors = modalities(6, 12, k, keys=11)
    case = Case(tuple(x.to(dtype) for x in tensors), {}, conditioning(tensors, 1.0))
    result = compare(Pairing(contrastile.gram_volume_matrix, reference.gram_volume_matrix), case)
    assert result.ok, result.detail
    value = contrastile.gram_volume_matrix(*case.args)
    assert value.shape == (6, 11) and value.dtype == dtype


def test_volumes_of_no_samples():
    x = torch.zeros(0, 5, requires_grad=True)
    for function, shape in ((contrastile.gram_volume, (0,)), (contrastile.gram_volume_matrix, (0, 0))):
        value = function(x, x, x)
        assert value.shape == shape
        value.sum().backward()
    assert contrastile.gram_volume_matrix(x, torch.ones(3, 5)).shape == (0, 3)
    assert contrastile.gram_volume_matrix(torch.ones(3, 5), x).shape == (3, 0)


def test_half_precision_volumes_are_float32():
    tensors = [x.bfloat16() for x in modalities(9, 16, 3)]
    for function in (contrastile.gram_volume, contrastile.gram_volume_matrix):
        value, grads = gradients(function, tensors)
        assert value.dtype == torch.float32
        assert all(g.dtype == torch.bfloat16 for g in grads)


def test_a_nan_makes_its_own_volumes_nan():
    a, b, c = (x.float() for x in modalities(5, 8, 3))
    b[2, 1] = torch.nan
    assert contrastile.gram_volume(a, b, c).isnan().tolist() == [False, False, True, False, False]
    assert contrastile.gram_volume_matrix(a, b, c).isnan().any(0).tolist() == [False, False, True, False, False]


# ---- the loss


@for_every_k
@on_full_precision
@pytest.mark.parametrize("n, d", [(2, 7), (17, 12), (33, 16)])
def test_loss_and_gradients(k, backend, dtype, n, d):
    assert_right(modalities(n, d, k), dtype, backend=backend)


@for_every_k
@on_half_precision
@pytest.mark.parametrize("n, d", [(5, 17), (48, 24)])
def test_half_precision(k, backend, dtype, n, d):
    assert_right([x.to(dtype).double() for x in modalities(n, d, k)], dtype, backend=backend)


OPTIONS = {
    "no smoothing": {"label_smoothing": 0.0},
    "one way": {"symmetric": False},
    "one way, no smoothing": {"symmetric": False, "label_smoothing": 0.0},
    "half smoothed": {"label_smoothing": 0.5},
    "detached": {"detach_keys": True},
    "detached one way": {"detach_keys": True, "symmetric": False},
    "temperature 1": {"temperature": 1.0},
    "temperature 0.005": {"temperature": 0.005},
    "temperature 0.005, no smoothing": {"temperature": 0.005, "label_smoothing": 0.0},
    "normalize": {"normalize": True},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("k", [2, 3, 4])
@on_full_precision
def test_options(name, k, backend, dtype):
    assert_right(modalities(19, 12, k), dtype, backend=backend, **OPTIONS[name])


@pytest.mark.parametrize("name", ["no smoothing", "one way", "detached"])
@on_every_backend
def test_sums(name, backend):
    assert_right(modalities(19, 12, 3), torch.float32, reductions=("sum",), backend=backend, **OPTIONS[name])


@for_every_k
@on_full_precision
@pytest.mark.parametrize("offset", [0, 5, 8])
def test_gathered_keys(k, backend, dtype, offset):
    """More columns than anchors; the anchors' own start at key_offset."""
    tensors = gathered(9, 17, k, offset)
    assert_right(tensors, dtype, backend=backend, key_offset=offset)
    assert_right(tensors, dtype, backend=backend, key_offset=offset, symmetric=False, label_smoothing=0.0)


def gathered(n, m, k, offset):
    """n anchors that belong to the others' rows from offset on."""
    anchor, *others = modalities(m, 12, k)
    return [anchor[offset : offset + n], *others]


@on_every_backend
def test_gathered_parts_add_up_to_the_whole_batch(backend):
    """Two ranks' anchor -> data directions are the rows of the whole."""
    anchor, *others = (x.float() for x in modalities(16, 12, 3))
    options = {"symmetric": False, "reduction": "none", "backend": backend}
    whole = contrastile.gram_loss(anchor, *others, **options)
    parts = [contrastile.gram_loss(anchor[i : i + 8], *others, key_offset=i, **options) for i in (0, 8)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", by_default(BACKENDS, "cpu"))
def test_batches_of_many_chunks(backend, two_threads):
    assert_right(modalities(530, 20, 3), torch.float32, backend=backend)


@pytest.mark.parametrize("budget", [0, 1, 700_000, 1 << 40])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@on_every_backend
def test_any_memory_budget_is_right(budget, reduction, backend):
    case = loss_case(modalities(270, 12, 3), torch.float32)
    result = compare(loss_pairing(), case, backend=backend, memory_budget=budget, reduction=reduction)
    assert result.ok, result.detail


@on_full_precision
def test_the_gradient_of_a_learned_temperature(backend, dtype):
    tensors = [x.to(dtype) for x in modalities(19, 12, 3)]
    t = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(reference.gram_loss(*(x.double() for x in tensors), temperature=t), t)
    for parameter in (t.detach().to(dtype), t.detach().to(dtype).reshape(1)):
        parameter.requires_grad_()
        (found,) = torch.autograd.grad(
            contrastile.gram_loss(*tensors, temperature=parameter, backend=backend), parameter
        )
        assert found.shape == parameter.shape
        torch.testing.assert_close(found.double().reshape(()), expected, rtol=1e-4, atol=0.0)


@on_every_backend
def test_detached_keys_get_their_gradient_from_their_own_direction(backend):
    tensors = [x.float() for x in modalities(9, 12, 3)]
    options = {"detach_keys": True, "backend": backend}
    value, one_way = gradients(contrastile.gram_loss, tensors, symmetric=False, **options)
    assert one_way[0].any() and not one_way[1].any() and not one_way[2].any()
    both, two_way = gradients(contrastile.gram_loss, tensors, **options)
    torch.testing.assert_close(two_way[0], one_way[0] / 2, rtol=1e-4, atol=1e-5)
    assert two_way[1].any() and two_way[2].any()
    torch.testing.assert_close(both, contrastile.gram_loss(*tensors, backend=backend), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(value, contrastile.gram_loss(*tensors, symmetric=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", [*ZERO, "duplicated samples", "one sample, many times"])
@on_full_precision
def test_dependent_modalities_give_finite_losses(name, backend, dtype, reduction):
    """Also where pairs off the diagonal have volume 0: a batch that holds a sample twice."""
    a, b, c = modalities(9, 16, 3)
    if name in ZERO:
        tensors = ZERO[name](a, b, c)
    elif name == "duplicated samples":
        tensors = [torch.cat([x, x]) for x in (a, a, a)]
    else:
        tensors = [x[:1].expand(9, 16) for x in (a, a, b)]
    tensors = [x.to(dtype) for x in tensors]
    value, grads = gradients(contrastile.gram_loss, tensors, backend=backend, reduction=reduction)
    assert value.isfinite().all()
    assert all(g.isfinite().all() and g.abs().max() <= 2 * len(g) / 0.07 for g in grads)
    noise = 8 * torch.finfo(dtype).eps ** 0.5 / 0.07  # of a height of 0: the root of some roundings
    true = reference.gram_loss(*(x.double() for x in tensors), reduction=reduction)
    torch.testing.assert_close(value.double(), true, rtol=0.0, atol=noise)


@for_every_k
@pytest.mark.parametrize("noise", [1e-1, 1e-2, 1e-4, 1e-6])
@on_full_precision
def test_aligned_batches(k, noise, backend, dtype):
    """As a trained model's: small bases, heights of any size. The loss is right to the rounding of squared heights."""
    tensors = [x.float().to(dtype) for x in modalities(24, 32, k, noise)]
    value, grads = gradients(contrastile.gram_loss, tensors, backend=backend)
    wide = [x.double() for x in tensors]
    true, true_grads = gradients(reference.gram_loss, wide)
    allowed = torch.finfo(dtype).eps * conditioning(wide, 0.07, matched(24, 24))
    torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=4 * allowed)
    largest = max(g.abs().max().item() for g in true_grads)
    for x, y in zip(grads, true_grads, strict=True):
        assert x.isfinite().all() and x.abs().max() <= 2 / 0.07
        torch.testing.assert_close(x.double(), y, rtol=0.0, atol=(1e-3 + 4 * allowed) * largest)


@on_every_backend
def test_matched_volumes_in_the_loss_keep_their_digits(backend):
    """Two samples far apart, k = 2: the positive logits are -V / temperature with V near 1e-6, known exactly."""
    anchor, other = (x.float() for x in known((2.0**-20,), n=2))
    temperature = 2.0**-17
    rows = contrastile.gram_loss(
        anchor, other, temperature=temperature, label_smoothing=0.0, reduction="none", backend=backend
    )
    # the other candidate is at volume 1: e^(-2^17); the loss is 0, and the gradient too
    assert torch.equal(rows, torch.zeros(2))
    smoothed = contrastile.gram_loss(anchor, other, temperature=temperature, reduction="none", backend=backend)
    expected = 0.05 * (1.0 - 2.0**-20) / temperature  # the share of the candidate that is wrong
    torch.testing.assert_close(smoothed, torch.full((2,), expected), rtol=1e-5, atol=0.0)


# ---- missing modalities


def with_missing(n, d, k, seed=0, garbage=None):
    """Modalities, a mask that leaves every kind of sample, and the modalities with garbage where the mask says so."""
    tensors = modalities(n, d, k)
    g = torch.Generator().manual_seed(seed)
    present = torch.rand(n, k, generator=g) < 0.7
    present[0], present[1, 0], present[2] = True, False, torch.arange(k) == 0
    present[3] = torch.arange(k) < 2
    if garbage is not None:
        tensors = [x.clone().masked_fill_(~present[:, [m]], garbage) for m, x in enumerate(tensors)]
    return tensors, present


def present_case(n, d, k, dtype, garbage, **options):
    tensors, present = with_missing(n, d, k)
    case = loss_case(tensors, dtype, present=present, **options)
    spoilt, _ = with_missing(n, d, k, garbage=garbage)
    if dtype != torch.float64:
        case.kwargs["temperature"] = case.kwargs["temperature"].float()
    return Case(tuple(x.to(dtype) for x in spoilt), case.kwargs, case.magnitude), present


@for_every_k
@on_full_precision
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_missing_modalities(k, backend, dtype, garbage, reduction):
    case, present = present_case(19, 12, k, dtype, garbage)
    result = compare(loss_pairing(), case, backend=backend, reduction=reduction)
    assert result.ok, result.detail
    _, grads = gradients(contrastile.gram_loss, case.args, present=present, backend=backend, reduction=reduction)
    for m, g in enumerate(grads):
        assert not g[~present[:, m]].any(), "a gradient for what is missing"


@pytest.mark.parametrize(
    "options", [{"symmetric": False}, {"detach_keys": True}, {"label_smoothing": 0.0}, {"normalize": True}], ids=str
)
@on_full_precision
def test_missing_modalities_with_options(options, backend, dtype):
    case, _ = present_case(19, 12, 3, dtype, math.nan, **options)
    result = compare(loss_pairing(), case, backend=backend)
    assert result.ok, result.detail


@pytest.mark.parametrize("dtype", HALF, ids=id_of)
def test_missing_modalities_in_half_precision(dtype):
    tensors, present = with_missing(24, 16, 3)
    tensors = [x.to(dtype).double() for x in tensors]
    case = loss_case(tensors, dtype, present=present)
    case.kwargs["temperature"] = case.kwargs["temperature"].float()
    result = compare(loss_pairing(), case)
    assert result.ok, result.detail


@on_every_backend
def test_a_mask_of_all_present_changes_nothing(backend):
    tensors = [x.float() for x in modalities(9, 12, 3)]
    options = {"reduction": "none", "backend": backend}
    found = contrastile.gram_loss(*tensors, present=torch.ones(9, 3, dtype=torch.bool), **options)
    torch.testing.assert_close(found, contrastile.gram_loss(*tensors, **options), rtol=1e-5, atol=1e-5)


@on_every_backend
def test_samples_without_a_tuple_take_no_part(backend):
    """As if they were not in the batch."""
    tensors = [x.float() for x in modalities(9, 12, 3)]
    present = torch.ones(9, 3, dtype=torch.bool)
    present[4, 0], present[7, 1:] = False, False
    rest = (torch.arange(9) != 4) & (torch.arange(9) != 7)
    options = {"backend": backend, "reduction": "none"}
    found = contrastile.gram_loss(*tensors, present=present, **options)
    assert found[4] == found[7] == 0
    torch.testing.assert_close(
        found[rest], contrastile.gram_loss(*(x[rest] for x in tensors), **options), rtol=1e-5, atol=1e-5
    )
    mean = contrastile.gram_loss(*tensors, present=present, backend=backend)
    torch.testing.assert_close(mean, found.sum() / 7, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@on_every_backend
def test_nothing_present_is_zero_with_zero_gradients(backend, reduction):
    for present in ([0, 0, 0], [1, 0, 0], [0, 1, 1]):
        mask = torch.tensor([present] * 4).bool()
        tensors = [torch.where(mask[:, [m]], x.float(), torch.nan) for m, x in enumerate(modalities(4, 6, 3))]
        value, grads = gradients(contrastile.gram_loss, tensors, present=mask, backend=backend, reduction=reduction)
        assert torch.equal(value, torch.zeros(4 if reduction == "none" else ()))
        assert not any(g.any() for g in grads)


@on_every_backend
def test_one_sample_present(backend):
    tensors, _ = with_missing(4, 8, 3)
    present = torch.tensor([[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0]]).bool()
    value, grads = gradients(contrastile.gram_loss, [x.float() for x in tensors], present=present, backend=backend)
    assert value.abs() <= 1e-6
    assert all(g.abs().max() <= 1e-5 for g in grads)


# ---- batches of all kinds


@on_every_backend
@pytest.mark.parametrize("k", [2, 4])
def test_one_sample_has_nothing_to_contrast(backend, k):
    tensors = [x.float() for x in modalities(1, 8, k)]
    value, grads = gradients(contrastile.gram_loss, tensors, backend=backend)
    assert value.abs() <= 1e-6
    assert all(g.abs().max() <= 1e-5 for g in grads)


@on_every_backend
@pytest.mark.parametrize("k", [2, 3, 5])
def test_one_dimension_has_no_volumes(backend, k):
    """All logits are 0, but for the noise of determinants: log N."""
    value, grads = gradients(contrastile.gram_loss, [torch.ones(7, 1)] * k, backend=backend)
    assert value.item() == pytest.approx(math.log(7), abs=0.05)
    assert all(g.isfinite().all() for g in grads)


@on_every_backend
def test_strides_do_not_matter(backend):
    a, b, c = (x.float() for x in modalities(9, 12, 3))
    strided = [torch.stack([a, b, c], 1)[:, 0], b.T.contiguous().T, torch.cat([c, c], 1)[:, :12]]
    assert not any(x.is_contiguous() for x in strided)
    expected = gradients(contrastile.gram_loss, [a, b, c], backend=backend)
    torch.testing.assert_close(
        gradients(contrastile.gram_loss, strided, backend=backend), expected, rtol=1e-6, atol=1e-6
    )


def test_a_nan_gives_a_nan_loss():
    for place in range(3):
        tensors = [x.float() for x in modalities(5, 8, 3)]
        tensors[place][3, 2] = torch.nan
        assert contrastile.gram_loss(*tensors).isnan()


def test_large_features_stay_finite():
    tensors = [1000.0 * x.float() for x in modalities(9, 12, 3)]
    value, grads = gradients(contrastile.gram_loss, tensors)
    assert value.isfinite() and all(g.isfinite().all() for g in grads)


# ---- bad input

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
BAD = {
    "no other": ((X,), {}, ValueError, "others"),
    "a vector": ((X[0], X), {}, ValueError, "anchor"),
    "integers": ((X, X.long()), {}, TypeError, r"others\[0\]"),
    "a list": ((X, X, [1.0]), {}, TypeError, r"others\[1\]"),
    "width": ((X, X[:, :3]), {}, ValueError, r"others\[0\]"),
    "others of two lengths": ((X, X, X[:5]), {}, ValueError, r"others\[1\]"),
    "too few keys": ((X, X[:5], X[:5]), {}, ValueError, "others|key_offset"),
    "offset beyond the keys": ((X[:3], X), {"key_offset": 4}, ValueError, "key_offset"),
    "negative offset": ((X[:3], X), {"key_offset": -1}, ValueError, "key_offset"),
    "offset of another type": ((X[:3], X), {"key_offset": 1.5}, (TypeError, ValueError), "key_offset"),
    "device": ((X, X.to("meta")), {}, ValueError, r"others\[0\]"),
    "mask of another shape": ((X, X), {"present": torch.ones(6, 3, dtype=torch.bool)}, ValueError, "present"),
    "mask of another type": ((X, X), {"present": torch.ones(6, 2)}, TypeError, "present"),
    "mask and gathered keys": ((X[:3], X), {"present": torch.ones(3, 2, dtype=torch.bool)}, ValueError, "present"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    args, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        contrastile.gram_loss(*args, **options)


def test_bad_modalities_of_volumes_are_named():
    for function in (contrastile.gram_volume, contrastile.gram_volume_matrix):
        with pytest.raises(ValueError, match=r"modalities|anchor|others"):
            function(X[0], X[0])
        with pytest.raises(TypeError, match=r"modalities\[1\]|others\[0\]"):
            function(X, X.long())
        with pytest.raises(ValueError, match=r"modalities\[1\]|others\[0\]"):
            function(X, X[:, :3])
    with pytest.raises(ValueError, match=r"modalities\[2\]"):
        contrastile.gram_volume(X, X, X[:5])


# ---- names and defects of the official code

DROP_INS = {
    "volume_computation3": ("language", "video", "audio"),
    "volume_computation4": ("language", "video", "audio", "subtitles"),
    "volume_computation5": ("language", "video", "audio", "subtitles", "depth"),
}


@for_every_k
def test_drop_ins_compute_the_official_formula(k):
    tensors = [x.float() for x in modalities(6, 12, k, keys=11)]
    found, grads = gradients(contrastile.volume_computation, tensors)
    expected, true_grads = gradients(official_volume, tensors)
    assert found.shape == (6, 11) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(grads, true_grads, rtol=1e-3, atol=1e-4)
    right = reference.gram_volume_matrix(*(x.double() for x in tensors))
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("name", DROP_INS)
def test_drop_ins_of_a_fixed_number_take_the_official_names(name):
    function, names = getattr(contrastile, name), DROP_INS[name]
    tensors = [x.float() for x in modalities(6, 12, len(names))]
    named = dict(zip(names, tensors, strict=True))
    assert torch.equal(function(**named), contrastile.volume_computation(*tensors))
    assert torch.equal(function(*tensors), contrastile.volume_computation(*tensors))


def test_drop_ins_take_every_type_and_return_float32():
    for dtype in (torch.float64, *HALF):
        tensors = [x.to(dtype) for x in modalities(6, 12, 3)]
        found = contrastile.volume_computation3(*tensors)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, official_volume(*tensors), rtol=1e-2, atol=1e-2)


def test_drop_ins_name_bad_arguments():
    f = contrastile.volume_computation
    for args, error, message in [
        ((X,), ValueError, "^inputs must be at least one tensor, got none"),
        ((X[0], X), ValueError, "^language must have shape"),
        ((X, X[0]), ValueError, r"^inputs\[0\] must have shape"),
        ((X, X, X[:3]), ValueError, r"^inputs\[1\] must have the shape of inputs\[0\], \(6, 4\), got \(3, 4\)"),
        ((X, X[:, :3]), ValueError, r"^inputs\[0\] must have the width of language, 4, got 3"),
        ((X, X.double()), TypeError, r"^inputs\[0\] must have the dtype of language, torch.float32, got torch.float64"),
        ((X, X.to("meta")), ValueError, r"^inputs\[0\] must be on cpu"),
        ((X, X.long()), TypeError, r"^inputs\[0\] must be float32"),
    ]:
        with pytest.raises(error, match=message):
            f(*args)


def test_the_official_gradient_is_nan_at_volume_zero_and_ours_is_finite():
    a, b = torch.eye(8)[:3], torch.eye(8)[3:6]
    for function in (official_volume, contrastile.volume_computation):
        value, grads = gradients(function, (a, a, b))
        assert value.diagonal().eq(0).all()
        assert any(g.isnan().any() for g in grads)
    for function in (contrastile.gram_volume, contrastile.gram_volume_matrix, contrastile.gram_loss):
        _, grads = gradients(function, (a, a, b))
        assert all(g.isfinite().all() for g in grads)


def test_official_determinants_near_alignment_are_noise_of_either_sign():
    """|det| hides that many are negative; the volumes that come out are 100 times too large."""
    tensors = [x.float() for x in modalities(200, 512, 3, noise=1e-5)]
    gram = torch.stack([torch.stack([(x * y).sum(1) for y in tensors], -1) for x in tensors], -1)
    assert 0.2 < (torch.det(gram) < 0).float().mean() < 0.8
    true = reference.gram_volume(*(x.double() for x in tensors))
    noise = torch.det(gram).abs().sqrt().median()
    assert true.max() < 1e-9 / 0.5 and noise > 100 * true.max()
    drop_in = contrastile.volume_computation3(*tensors).diagonal()
    assert (drop_in > 0).float().mean() > 0.75 and drop_in.median() > 100 * true.max()
    torch.testing.assert_close(contrastile.gram_volume(*tensors).double(), true, rtol=1e-5, atol=0.0)


@on_every_backend
def test_the_official_gather_takes_the_gradient_of_the_other_side_even_on_one_device(backend):
    """Reproduced by detach_keys; the README's form, with every gradient, is the default."""
    tensors = modalities(12, 16, 3)
    ours = [x.float() for x in tensors]
    results = {}
    for gathered_keys in (True, False):
        value, grads = gradients(contrastile.gram_loss, ours, detach_keys=gathered_keys, backend=backend)
        expected, true = gradients(lambda *x: official_loss(official_volume, x, gathered_keys), ours)  # noqa: B023
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grads, true, rtol=1e-3, atol=1e-3)
        results[gathered_keys] = grads
    assert any((x - y).abs().max() > 0.1 * y.abs().max() for x, y in zip(results[True], results[False], strict=True))


def test_dependent_vectors_have_volume_exactly_zero():
    """Their residual is rounding; a direction made of it would be noise."""
    x = torch.nn.functional.normalize(torch.randn(50, 33, generator=torch.Generator().manual_seed(3)), dim=1)
    assert torch.equal(contrastile.gram_volume(x, x), torch.zeros(50))
    assert torch.equal(contrastile.gram_volume(x, -2 * x, x.flip(0)), torch.zeros(50))


def test_overflow_is_not_alignment():
    x = torch.full((1, 4), 1e30).bfloat16()
    assert not contrastile.gram_volume(x, x * torch.tensor([1.0, -1.0, 1.0, -1.0]).bfloat16()).isfinite().any()


def test_the_matrix_of_volumes_is_formed_in_float32_under_autocast():
    x = [torch.nn.functional.normalize(torch.randn(5, 16), dim=1) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastile.gram_volume_matrix(*x)
    assert torch.equal(found, contrastile.gram_volume_matrix(*x))
