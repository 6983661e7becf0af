"""The kernels of ops/basis.py on the host against its torch code: values, gradients, dependent vectors, infinities.

On a GPU the last test compares the two there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

pytest.importorskip("pybind11", reason="the build requirements are not installed")

from contrastile import backends, gram_loss, gram_volume, reference
from contrastile.backends import measured, native_struct
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.catalog import Case
from contrastile.ops import basis as op
from contrastile.ops.basis import basis
from contrastile.replay import CACHES
from contrastile.testing import EPS, compare, largest
from support import cuda_host
from support.combinations import by_default, each_once
from support.cuda_host import HostBackend
from support.pairing import Pairing
from support.volume_cases import loss_case, modalities

pytestmark = pytest.mark.skipif(cuda_host.compiler() is None, reason="needs g++ on Linux")

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WIDTHS = (1, 2, 7, 31, 64, 129, 256, 512)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))


@pytest.fixture
def installed(host: HostBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostBackend]:
    monkeypatch.setattr(backends, "BACKENDS", (TorchBackend(), host))
    yield host


def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (TorchBackend(),))


# ---- sets of vectors


def vectors(size: int, samples: int, width: int, dtype: torch.dtype, noise: float = 0.5, seed: int = 0) -> list[Tensor]:
    """Vectors that resemble each other by sample: residuals are about `noise`, but where there are too many vectors."""
    g = torch.Generator().manual_seed(seed + 1000 * size + width)
    common = torch.randn(samples, width, generator=g, dtype=torch.float64)
    return [(common + noise * torch.randn(samples, width, generator=g, dtype=torch.float64)).to(dtype)
            for _ in range(size)]  # fmt: skip


def laid_out(x: Tensor, layout: int) -> Tensor:
    """The same numbers: contiguous; rows that start anywhere; rows with a gap; columns with gaps; columns first."""
    n, d = x.shape
    if layout == 1:
        return torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(n, d)
    if layout == 2:
        return torch.cat([x, x.new_full((n, 16), torch.nan)], 1)[:, :d]
    if layout == 3:
        return torch.stack([x, torch.full_like(x, torch.nan)], 2)[:, :, 0]
    return x.T.contiguous().T if layout == 4 else x


def upstream(count: int, xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A weight of either sign for every number that basis returns."""
    g = torch.Generator().manual_seed(5)
    n, d = xs[0].shape
    shapes = ((count, n, d), (len(xs), n))
    return tuple(torch.randn(s, generator=g, dtype=torch.float64) for s in shapes)  # type: ignore[return-value]


def outcome(xs: Sequence[Tensor], count: int, weights: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
    """Directions, lengths, and the gradients of the vectors."""
    leaves = [x.detach().to(x.device).requires_grad_() for x in xs]
    found = basis(leaves, count)
    weights = upstream(count, xs) if weights is None else weights
    grads = torch.autograd.grad(found, leaves, [w.to(x) for w, x in zip(weights, found, strict=True)])
    return [*(x.detach() for x in found), *grads]


def agree(found: list[Tensor], twin: list[Tensor], truth: list[Tensor]) -> None:
    """At most four times the error of the torch code, and eight roundings of the largest number."""
    for index, (x, y, true) in enumerate(zip(found, twin, truth, strict=True)):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert x.isfinite().all()
        limit = 4 * largest(y.double() - true) + 8 * EPS[x.dtype] * max(largest(true), 1.0)
        error = largest(x.double() - true)
        assert error <= limit, f"output {index}: error {error:.3g}, limit {limit:.3g}"


def compare_with_torch(monkeypatch: pytest.MonkeyPatch, host: HostBackend, xs: list[Tensor], count: int) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (TorchBackend(), host))
    found = outcome(xs, count)
    monkeypatch.setenv("CONTRASTILE_HOST_ORDER", "reverse")  # the order of threads and blocks changes no bit
    assert all(torch.equal(x, y) for x, y in zip(found, outcome(xs, count), strict=True))
    monkeypatch.delenv("CONTRASTILE_HOST_ORDER")
    plain_torch(monkeypatch)
    agree(found, outcome(xs, count), outcome([x.double() for x in xs], count))


# ---- values and gradients


@pytest.mark.parametrize("size, dtype", each_once(range(1, 7), DTYPES), ids=lambda x: str(x).removeprefix("torch."))
def test_values_and_gradients(host, monkeypatch, size, dtype):
    """Where more vectors than dimensions make the last ones dependent, too; every layout and number of directions."""
    for index, width in list(enumerate(WIDTHS))[size % 2 :: 2]:
        samples = (1, 40, 0, 9)[index % 4]
        xs = vectors(size, samples, width, dtype)
        mixed = [laid_out(x, (index + s) % 5) for s, x in enumerate(xs)]
        compare_with_torch(monkeypatch, host, mixed, (index + size) % (size + 1))


@by_dtype
def test_all_rows_at_16_bytes_and_none(host, monkeypatch, dtype):
    """The same bits by vector access and by single numbers."""
    xs = vectors(4, 40, 64, dtype)
    monkeypatch.setattr(backends, "BACKENDS", (host,))
    found = outcome(xs, 3)
    for layout in range(1, 5):
        again = outcome([laid_out(x, layout) for x in xs], 3)
        assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    compare_with_torch(monkeypatch, host, xs, 3)


def test_a_vector_shared_by_all_samples(host, monkeypatch):
    """Rows with stride 0."""
    first, second = vectors(2, 30, 20, torch.float32)
    compare_with_torch(monkeypatch, host, [first[:1].expand(30, 20), second], 2)


@by_dtype
@pytest.mark.parametrize("noise", [1e-2, 1e-5, 1e-9])
def test_nearly_dependent_vectors(host, monkeypatch, dtype, noise):
    """Down to residuals of one rounding of the vectors, which magnify the rounding of projections."""
    xs = [(x / x.norm(dim=1, keepdim=True)).to(dtype) for x in vectors(4, 50, 96, torch.float64, noise)]
    monkeypatch.setattr(backends, "BACKENDS", (host,))
    found = outcome(xs, 0)
    plain_torch(monkeypatch)
    twin, truth = outcome(xs, 0), outcome([x.double() for x in xs], 0)
    assert torch.equal(found[1] == 0, twin[1] == 0)
    rounding = torch.finfo(op.exact_dtype(xs[0])).eps / max(noise, EPS[dtype])
    torch.testing.assert_close(found[1], twin[1], rtol=64 * rounding + 2 * EPS[found[1].dtype], atol=0.0)
    if dtype != torch.float64:
        agree(found, twin, truth)
    for x, y in zip(found[2:], truth[2:], strict=True) if dtype == torch.float64 else ():
        torch.testing.assert_close(x, y, rtol=0.0, atol=512 * rounding * largest(y))


@by_dtype
def test_directions_are_orthonormal_however_near_the_vectors_are(installed, dtype):
    """Once is not enough for this: the second round removes what the first leaves of large projections."""
    for noise in (1.0, 1e-3, 1e-6):
        xs = vectors(5, 20, 64, dtype, noise)
        directions, lengths = basis(xs, 5)
        e = directions.double().transpose(0, 1)
        gram, there = e @ e.mT, (lengths > 0).double().T
        allowed = 16 * max(EPS[directions.dtype], EPS[torch.float32] if dtype in DTYPES[1:3] else 0.0)
        torch.testing.assert_close(gram, torch.diag_embed(there), rtol=0.0, atol=allowed)


# ---- dependence, zeros, infinities, NaN


def same_numbers(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert torch.equal(x == 0, y == 0) or tolerance > 1e-3


DEPENDENT = {
    "equal": lambda a, b, c: (a, a.clone(), b),
    "multiples": lambda a, b, c: (a, -2 * a, b),
    "in a plane": lambda a, b, c: (a, b, a + b),
    "first is zero": lambda a, b, c: (0 * a, b, c),
    "middle is zero": lambda a, b, c: (a, 0 * b, c),
    "last is zero": lambda a, b, c: (a, b, 0 * c),
    "all are zero": lambda a, b, c: (0 * a, 0 * b, 0 * c),
    "all are equal": lambda a, b, c: (a, a.clone(), a.clone()),
    "zero, then equal": lambda a, b, c: (0 * a, b, b.clone()),
}


@by_dtype
@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_vectors_have_no_length_and_no_gradient(host, monkeypatch, name, dtype):
    g = torch.Generator().manual_seed(1)
    base = [torch.randint(-8, 9, (30, 24), generator=g).to(dtype) for _ in range(3)]  # sums are exact
    xs = list(DEPENDENT[name](*base))
    monkeypatch.setattr(backends, "BACKENDS", (host,))
    found = outcome(xs, 3)
    plain_torch(monkeypatch)
    expected = outcome(xs, 3)
    tolerance = {torch.bfloat16: 1.6e-2, torch.float16: 2e-3, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert torch.equal(found[1] == 0, expected[1] == 0) and (expected[1] == 0).any()
    same_numbers(found[:2], expected[:2], 1e-5)
    for x, y in zip(found[2:], expected[2:], strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * largest(y))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@by_dtype
def test_nan_and_infinity_pass_as_in_torch(host, monkeypatch, dtype, value):
    """Every position among the vectors, with as many samples untouched beside them."""
    xs = vectors(3, 8, 21, dtype)
    for s, sample in itertools.product(range(3), (1, 4)):
        xs[s][sample + s, 5 * s] = value
    for count in (0, 2, 3):
        monkeypatch.setattr(backends, "BACKENDS", (host,))
        found = outcome(xs, count)
        plain_torch(monkeypatch)
        for x, y in zip(found, outcome(xs, count), strict=True):
            torch.testing.assert_close(x, y, equal_nan=True, rtol=4 * EPS[x.dtype] + 1e-5, atol=4 * EPS[x.dtype] + 1e-5)


@pytest.mark.parametrize("dtype, size", [(torch.bfloat16, 1e30), (torch.float64, 1e200)], ids=str)
def test_overflow_is_no_dependence(host, monkeypatch, dtype, size):
    x = torch.full((1, 4), size, dtype=dtype)
    xs = [x, x * torch.tensor([1.0, -1.0, 1.0, -1.0]).to(dtype), x]
    monkeypatch.setattr(backends, "BACKENDS", (host,))
    found = basis(xs, 3)
    plain_torch(monkeypatch)
    torch.testing.assert_close(found, basis(xs, 3), equal_nan=True)
    assert not (found[1] == 0).any()


# ---- half precision, number by number


def test_every_float16_and_bfloat16_is_read(installed):
    """One vector of one number: its length is its size."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)[:, None]
    for dtype in (torch.float16, torch.bfloat16):
        x = every.view(dtype)
        wide = x.float().abs()[:, 0]
        normal = ~((wide > 1e18) & wide.isfinite()) & ~((wide < 1e-15) & (wide > 0))  # squares within float32
        torch.testing.assert_close(basis([x], 0)[1][0][normal], wide[normal], rtol=0.0, atol=0.0, equal_nan=True)


def test_float16_and_bfloat16_gradients_are_rounded_as_in_torch(installed):
    """One vector, 1: its gradient is that of its length, rounded once."""
    g = torch.Generator().manual_seed(2)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=g).to(torch.int32)
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    between = (halves + torch.nextafter(halves.half(), torch.tensor(torch.inf).half()).float()) / 2  # ties
    edges = torch.tensor([65519.996, 65520.0, -65520.0, 2**-25, -(2**-25), 2**-14, 2**-14 - 2**-25])
    weights = torch.cat([bits.view(torch.float32), halves, between, edges])[None]
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.ones(weights.shape[1], 1, dtype=dtype, requires_grad=True)
        (grad,) = torch.autograd.grad(basis([x], 0)[1], x, weights)
        torch.testing.assert_close(grad[:, 0], weights[0].to(dtype), rtol=0.0, atol=0.0, equal_nan=True)


# ---- behind the losses


def test_the_kernels_are_what_ran(installed, monkeypatch):
    calls = []
    for name in ("basis", "basis_backward"):
        run = getattr(installed.module, name)
        monkeypatch.setattr(installed.module, name, lambda x, n=name, f=run: (calls.append((n, x.samples)), f(x)))
    outcome(vectors(3, 9, 4, torch.float32), 2)
    assert calls == [("basis", 9), ("basis_backward", 9)]


def test_larger_sets_are_left_to_torch(installed, monkeypatch):
    monkeypatch.setattr(installed.module, "basis", None)
    size = installed.module.largest_set + 1
    found = outcome(vectors(size, 9, 40, torch.float32), 2)
    plain_torch(monkeypatch)
    assert all(torch.equal(x, y) for x, y in zip(found, outcome(vectors(size, 9, 40, torch.float32), 2), strict=True))
    sets = native_struct.new(installed.module, "VectorSets")
    for field in (sets.vector, sets.stride, sets.grad):
        assert len(field) == size - 1
        with pytest.raises(IndexError):
            field[size - 1] = 0


def test_a_module_built_without_these_kernels_leaves_all_to_torch(installed, monkeypatch):
    expected = outcome(vectors(3, 9, 40, torch.float32), 2)
    for name in ("basis", "basis_backward"):
        monkeypatch.delattr(installed.module, name)
    found = outcome(vectors(3, 9, 40, torch.float32), 2)
    plain_torch(monkeypatch)
    assert all(torch.equal(x, y) for x, y in zip(found, outcome(vectors(3, 9, 40, torch.float32), 2), strict=True))
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(found, expected, strict=True))


@by_dtype
@pytest.mark.parametrize("k", (2, 3, 5))
def test_gram_volume_and_loss(installed, k, dtype):
    tensors = modalities(33, 20, k)
    volume = compare(Pairing(gram_volume, reference.gram_volume), Case(tuple(x.to(dtype) for x in tensors), {}, 10.0))
    assert volume.ok, volume.detail
    case = loss_case(tensors, dtype)
    if dtype != torch.float64:
        case.kwargs["temperature"] = case.kwargs["temperature"].float()
    loss = compare(Pairing(gram_loss, reference.gram_loss), case)
    assert loss.ok, loss.detail


def test_double_backward_is_refused(installed):
    xs = [x.requires_grad_() for x in vectors(2, 4, 6, torch.float32)]
    (grad,) = torch.autograd.grad(basis(xs, 1)[1].sum(), xs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grad.sum().backward()


# ---- chunks of the torch code


def test_chunks_suit_the_device(monkeypatch):
    """128 samples on a CPU; elsewhere by bytes, at least as many, and fewer than batched solvers refuse."""

    def size(samples: int, width: int, device: str, dtype: torch.dtype = torch.float32) -> int:
        return op.chunk_size([torch.empty(samples, width, dtype=dtype, device=device)] * 4)

    assert size(10, 512, "cpu") == 128
    assert size(10, 512, "meta") == (256 << 20) // (4 * 512 * 8)
    assert size(10, 512, "meta", torch.bfloat16) == 32768
    assert size(10, 0, "meta") == 32768
    assert size(10, 10**8, "meta") == 128


# ---- a kernel with an error


BASIS, ELEMENT = "cuda/basis.cu", "cuda/element.h"
PHASES = "else if constexpr (R == 0) invert(at, s);\n    else if constexpr (R == 1) combine(at, s);"
MUTANTS = {
    "tail": (BASIS, "? x.width - k : WIDTH", "? x.width - k - 1 : WIDTH"),
    "race": (
        BASIS,
        PHASES,
        "else if constexpr (R == 0) invert(at, s), combine(at, s);\n    else if constexpr (R == 1);",
    ),
}
MORE_MUTANTS = {
    "float16": (ELEMENT, "0xfff + (size >> 13 & 1)", "0x1000"),
    "which round": (BASIS, "s.projection[round][index][u]", "s.projection[0][index][u]"),
    "lanes": (BASIS, "k < LANES; k += 4", "k < LANES - 4; k += 4"),
    "no direction": (BASIS, "i == column && s.length[i] != A(0)", "i == column"),
    "negligible": (BASIS, "constexpr double NEGLIGIBLE = 8.0", "constexpr double NEGLIGIBLE = 0.0"),
    "one round": (BASIS, "remove(s, u, e[u], e, 2)", "remove(s, u, e[u], e, 1)"),
    "element": (BASIS, "vfma(-projection, e[u][c], r[c])", "vfma(-projection, e[u][0], r[c])"),
    "overflow": (BASIS, "limit == A(INFINITY) ? A(-1) : limit", "limit"),
    "upper triangle": (BASIS, "-s.projection[0][k][i], s.inverse_factor[k]", "-s.projection[0][k][i], s.mix[k]"),
    "diagonal": (BASIS, "return s == u ? vfma", "return s < u ? vfma"),
    "direction's place": (BASIS, "(s * x.samples + sample) * x.width", "(s * x.samples + sample) * (x.width - 1)"),
    "length's place": (BASIS, "[column * this->x.samples + at.x]", "[column + at.x]"),
}


def check_everything(host: HostBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    CACHES.clear()  # of another backend
    for dtype in (torch.float32, torch.float16):
        for size, samples, width, count in ((4, 5, 130, 3), (3, 4, 64, 0), (2, 3, 31, 2)):
            compare_with_torch(monkeypatch, host, vectors(size, samples, width, dtype), count)
    test_dependent_vectors_have_no_length_and_no_gradient(host, monkeypatch, "in a plane", torch.float32)
    test_overflow_is_no_dependence(host, monkeypatch, torch.float64, 1e200)
    monkeypatch.setattr(backends, "BACKENDS", (host,))
    test_directions_are_orthonormal_however_near_the_vectors_are(host, torch.float64)
    test_float16_and_bfloat16_gradients_are_rounded_as_in_torch(host)


@pytest.mark.parametrize("name", by_default([*MUTANTS, *MORE_MUTANTS], *MUTANTS))
def test_an_error_in_a_kernel_is_seen(name, host_folder, host, tmp_path, monkeypatch):
    edit = {**MUTANTS, **MORE_MUTANTS}[name]
    touched = [BASIS] if edit[0] == BASIS else [BASIS, "cuda/score_grad.cu"]
    mutant = HostBackend(cuda_host.rebuild(tmp_path, edit, host_folder, touched))
    with pytest.raises(AssertionError):
        check_everything(mutant, monkeypatch)


def test_the_kernels_without_an_error_pass_it(host, monkeypatch):
    check_everything(host, monkeypatch)


# ---- on a GPU


@pytest.mark.gpu
@by_dtype
def test_on_a_gpu_the_kernels_equal_the_torch_code(monkeypatch, dtype):
    device = torch.device("cuda")
    monkeypatch.setattr(measured, "fastest_basis", lambda device: "cuda")
    if backends.select_bases([torch.empty(1, 1, device=device)]) is None:
        pytest.skip(f"no compiled kernels: {backends.available_backends()['cuda']}")
    for size, samples, width in ((1, 3, 1), (2, 1000, 31), (4, 5000, 512), (6, 777, 129), (3, 0, 8), (5, 70_000, 16)):
        xs = [x.to(device) for x in vectors(size, samples, width, dtype)]
        for count in (0, size - 1, size):
            weights = tuple(w.to(device) for w in upstream(count, xs))
            with monkeypatch.context() as patch:
                found, again = outcome(xs, count, weights), outcome(xs, count, weights)
                assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
                plain_torch(patch)
                twin, truth = outcome(xs, count, weights), outcome([x.double() for x in xs], count, weights)
            agree(found, twin, truth)
