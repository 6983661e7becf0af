"""segment_reduce against float64, value and gradients, on every backend that a CPU can stand for.

Features are small multiples of 1/8, so that every type holds them and scores are exact: values must be equal, and equal
scores are many, of which the first must be found. test_gpu.py and interpreted.py run the checks, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch.library import opcheck

from contrastile import BackendUnsupported, backends, segment_reduce
from contrastile.backends import cpu_segments, native, native_block, segments, torch_segments
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.ops.segments import REDUCES
from contrastile.replay import CACHES
from contrastile.spec import Limits
from contrastile.testing import EPS
from support.loss_cases import DTYPES, id_of
from support.memory import needs_linux, peak_bytes, saved_bytes
from support.operators import TRANSFORMS, Recorder
from support.oracle import ROUNDINGS, within
from support.segments import (
    HOW,
    MORE,
    RAGGED,
    Problem,
    check,
    check_dropped_columns,
    check_equal_columns,
    check_minus_infinity,
    check_nan_and_infinity,
    check_the_first_nan,
    dense,
    exact,
    how,
    outcome,
    problem,
)

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=id_of)


# ---- every backend on a CPU: torch, cpu, and the CUDA kernels by loops over their threads


@pytest.fixture(params=["torch", "cpu", "cuda"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "cpu" and native.cpu is None:
        pytest.skip("the compiled module is not installed")
    if request.param == "cuda":
        pytest.importorskip("pybind11", reason="the build requirements are not installed")
        from support import cuda_host

        if cuda_host.compiler() is None:
            pytest.skip("needs g++ on Linux")
        monkeypatch.setattr(backends, "BACKENDS", (request.getfixturevalue("host"), TorchBackend()))
    yield request.param


def runs(backend: str, dtype: torch.dtype) -> bool:
    return dtype != torch.float64 or backend == "torch"


@by_dtype
@pytest.mark.parametrize("name", RAGGED)
def test_ragged_segments(backend, name, dtype):
    if runs(backend, dtype):
        for n, d, extra in ((5, 7, 0), (1, 1, 2), (70, 16, 11)):
            for masked in (False, True):
                for way in HOW:
                    check(how(problem(n, RAGGED[name], d, dtype, masked, extra), way), backend)


@pytest.mark.parametrize("way", MORE)
def test_sharpness_large_and_small(backend, way):
    """Also 0, the mean, and below, where small scores weigh more."""
    for name in ("ragged", "one long"):
        check(how(problem(11, RAGGED[name], 7, masked=True), way), backend)
    if backend == "torch":
        check(how(problem(11, RAGGED["ragged"], 7, torch.float64), way), backend)


@by_dtype
def test_segments_of_one_length(backend, dtype):
    """The same numbers as from offsets."""
    if not runs(backend, dtype):
        return
    for length, count in ((1, 9), (4, 6), (7, 5), (33, 2), (32, 70)):
        for masked in (False, True):
            x = problem(6, [length * s for s in range(count + 1)], 5, dtype, masked)
            check(replace(x, segments=length), backend)
            weights = torch.ones(6, count)
            pairs = zip(
                outcome(replace(x, segments=length), backend, weights), outcome(x, backend, weights), strict=True
            )
            assert all(torch.equal(found, same) for found, same in pairs)
            for way in ("lse", "softmax_mean"):
                check(how(replace(x, segments=length), way), backend)


@pytest.mark.parametrize("n, columns, d", [(0, 6, 4), (5, 0, 4), (0, 0, 4), (5, 6, 0), (1, 6, 1)], ids=str)
def test_empty_sides(backend, n, columns, d):
    for way in HOW:
        for bounds in ([0, columns], [0, 0, columns, columns]):
            check(how(problem(n, bounds, d), way), backend)
        check(how(Problem(exact(n, d), exact(columns, d), 3), way), backend)


@by_dtype
def test_several_chunks(backend, dtype, monkeypatch):
    """Of rows, forward and backward."""
    if not runs(backend, dtype):
        return
    few = Limits(workspace=4 * 197 * 70, max_chunk=4096, square_chunk=1)
    for cls in (TorchBackend, type(backends.BACKENDS[0])):
        monkeypatch.setattr(cls, "limits", lambda self, device: few)
    monkeypatch.setattr(cpu_segments, "GRADIENT_BYTES", few.workspace)
    monkeypatch.setattr(cpu_segments, "GRADIENT_ROWS", 64)
    assert len(list(segments.row_chunks(few, 300, 197))) > 3
    for way in HOW:
        check(how(problem(300, RAGGED["primes"], 9, dtype, True), way), backend)


def test_shares_of_several_threads_change_no_bit(two_threads):
    """Many segments of few rows and few segments of many; the same bits as of one thread."""
    if native.cpu is None:
        pytest.skip("the compiled module is not installed")
    g = torch.Generator().manual_seed(2)
    for n, count in ((3, 900), (700, 5)):
        rows, cols = torch.randn(n, 64, generator=g), torch.randn(count * 20, 64, generator=g)
        for way in HOW:
            x = how(Problem(rows, cols, 20), way)
            assert native_block.threads_for(n * count * 20 * 64) == 2
            found = outcome(x, "cpu", torch.ones(n, count))
            torch.set_num_threads(1)
            alone = outcome(x, "cpu", torch.ones(n, count))
            torch.set_num_threads(2)
            # products of score gradients are torch's, which may sum otherwise
            same = torch.equal if x.reduce == "max" else partial(torch.allclose, rtol=1e-5, atol=1e-5)
            assert torch.equal(found[0], alone[0]) and all(map(same, found[1:], alone[1:]))


def test_layouts_and_mixed_types(backend):
    x = problem(9, RAGGED["ragged"], 8)
    apart = replace(x, rows=torch.stack([x.rows, x.rows], 2)[:, :, 0], cols=x.cols.T.contiguous().T)
    for way in HOW:
        check(how(apart, way), backend)
    check(replace(x, segments=x.segments.to(torch.int32)), backend)
    for bits in (torch.rand(68) < 0.6, torch.rand(67, 2) < 0.6):  # neither aligned nor side by side
        masked = problem(9, [0, 20, 44, 64], 8, extra=3)
        for way in ("max", "softmax_mean"):
            masked = how(masked, way)
            check(replace(masked, mask=bits[1:] if bits.dim() == 1 else bits[:, 1]), backend)
            check(replace(masked, cols=masked.cols[:64], mask=bits[1:65] if bits.dim() == 1 else bits[:64, 1]), backend)
    values = segment_reduce(x.rows.bfloat16(), x.cols, x.segments, backend=backend)
    assert values.dtype == torch.float32
    assert torch.equal(values, segment_reduce(x.rows, x.cols, x.segments, backend=backend))
    same = segment_reduce(x.cols, x.cols, x.segments, backend=backend)
    assert torch.equal(same, segment_reduce(x.cols, x.cols.clone(), x.segments, backend=backend))


def test_of_equal_columns_the_first_gets_the_gradient(backend):
    check_equal_columns(backend)


def test_real_numbers_are_as_exact_as_their_products(backend):
    g = torch.Generator().manual_seed(0)
    rows, cols = (torch.randn(n, 96, generator=g) for n in (40, 300))
    bounds = [0, 7, 100, 300]
    truth = dense(Problem(rows, cols, torch.tensor(bounds)), rows.double() @ cols.double().T, 1.0)
    size = (rows.double().abs() @ cols.double().abs().T).amax()
    found = segment_reduce(rows, cols, torch.tensor(bounds), backend=backend)
    within("values", found, truth, (ROUNDINGS * EPS[torch.float32] * size).expand(truth.shape))


# ---- numbers that are not finite


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_stay_in_their_segment(backend, value):
    for way in HOW:
        check_nan_and_infinity(backend, value, way)


def test_the_first_nan_gets_the_gradient(backend):
    check_the_first_nan(backend)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_the_mask_drops_does_no_harm(backend, value):
    for way in HOW:
        check_dropped_columns(backend, value, way)


def test_scores_of_minus_infinity_are_as_none(backend):
    check_minus_infinity(backend)


@pytest.mark.parametrize("weight", [1e-7, 1.0, 1e7])
@pytest.mark.parametrize("way", HOW)
def test_float16_score_gradients_neither_underflow_nor_overflow(backend, weight, way):
    x = how(problem(20, RAGGED["ragged"], 8, torch.float16), way)
    weights = torch.linspace(0.5, 1.5, 120).view(20, 6)
    rows = x.rows.clone().requires_grad_()
    values = segment_reduce(
        rows, x.cols, x.segments, backend=backend, reduce=x.reduce, sharpness=x.sharpness, keep_argmax=x.keep_argmax
    )
    ((values * weights * weight).sum() / weight).backward()
    expected = outcome(replace(x, rows=x.rows.float(), cols=x.cols.float()), "torch", weights)[1]
    assert (rows.grad - expected).norm() < 2.0**-9 * expected.norm()


# ---- inside PyTorch


def test_no_grad_and_constant_inputs(backend):
    x = problem(5, RAGGED["ragged"], 4)
    rows, cols = x.rows.clone().requires_grad_(), x.cols.clone().requires_grad_()
    with torch.no_grad():
        values = segment_reduce(rows, cols, x.segments, backend=backend)
    assert not values.requires_grad
    for reduce in REDUCES:
        call = partial(segment_reduce, segments=x.segments, backend=backend, reduce=reduce)
        both = torch.autograd.grad(call(rows, cols).sum(), (rows, cols))
        (left,) = torch.autograd.grad(call(rows, x.cols).sum(), rows)
        (right,) = torch.autograd.grad(call(x.rows, cols).sum(), cols)
        assert torch.equal(left, both[0]) and torch.equal(right, both[1])
        if reduce != "max":
            sharpness = torch.tensor(2.0, requires_grad=True)
            call(x.rows, x.cols, sharpness=sharpness).sum().backward()
            assert sharpness.grad.isfinite() and sharpness.grad != 0


def test_two_backward_passes_and_two_runs_give_equal_bits(backend, monkeypatch):
    g = torch.Generator().manual_seed(3)
    rows, cols = (torch.randn(n, 24, generator=g, requires_grad=True) for n in (70, 197))
    offsets = torch.tensor(RAGGED["primes"])
    for reduce in REDUCES:
        monkeypatch.delenv("CONTRASTILE_HOST_ORDER", raising=False)
        values = segment_reduce(rows, cols, offsets, backend=backend, reduce=reduce)
        first = torch.autograd.grad(values.square().sum(), (rows, cols), retain_graph=True)
        again = torch.autograd.grad(values.square().sum(), (rows, cols))
        monkeypatch.setenv("CONTRASTILE_HOST_ORDER", "reverse")  # the kernel's blocks and threads
        other = segment_reduce(rows, cols, offsets, backend=backend, reduce=reduce)
        assert torch.equal(values, other)
        third = torch.autograd.grad(other.square().sum(), (rows, cols))
        for x, y, z in zip(first, again, third, strict=True):
            assert torch.equal(x, y) and torch.equal(x, z)


def test_double_backward_is_refused(backend):
    x = problem(5, RAGGED["ragged"], 4)
    for name, way in product(("rows", "cols"), HOW):
        x = how(x, way)
        leaf = getattr(x, name).clone().requires_grad_()
        values = segment_reduce(**(vars(x) | {name: leaf}), backend=backend)
        (grad,) = torch.autograd.grad(values.sum(), leaf, create_graph=True)
        (plain,) = torch.autograd.grad(segment_reduce(**(vars(x) | {name: leaf}), backend=backend).sum(), leaf)
        assert torch.equal(grad, plain)
        with pytest.raises(RuntimeError, match="double backward"):
            grad.sum().backward()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_function_transforms_are_refused(transform):
    x = problem(5, RAGGED["ragged"], 4)
    with pytest.raises(RuntimeError, match=r"torch\.func transforms .* are not supported"):
        TRANSFORMS[transform](lambda rows: segment_reduce(rows, x.cols, x.segments).sum(), x.rows)


def test_operators_pass_opcheck(backend):
    with Recorder() as recorder:
        for (dtype, masked), way in product(((torch.float32, True), (torch.bfloat16, False)), HOW):
            x = how(problem(5, RAGGED["ragged"], 4, dtype, masked), way)
            outcome(x, backend, torch.ones(5, 6))
        rows = x.rows.clone().requires_grad_()
        segment_reduce(rows, x.cols, 67, backend=backend).sum().backward()
    named = {func._opname for func, _ in recorder.calls}
    assert named == {f"segment_{kind}{end}" for kind in ("maxima", "softmax") for end in ("", "_backward")}
    for func, args in recorder.calls:
        opcheck(func, torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), args))


@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
@pytest.mark.parametrize("way", HOW)
def test_meta_tensors_have_the_shapes_of_real_ones(dtype, way):
    x = how(problem(5, RAGGED["ragged"], 4, dtype, True), way)
    real, meta = (outcome(y, "auto", torch.ones(5, 6, device=y.rows.device)) for y in (x, x.to("meta")))
    assert [(t.shape, t.dtype) for t in real] == [(t.shape, t.dtype) for t in meta]


def test_autocast_changes_nothing(backend):
    weights = torch.ones(20, 6)
    for way in HOW:
        x = how(problem(20, RAGGED["ragged"], 8), way)
        with torch.autocast("cpu", torch.bfloat16):
            found = outcome(x, backend, weights)
        assert all(torch.equal(t, y) for t, y in zip(found, outcome(x, backend, weights), strict=True))


# ---- memory


@pytest.mark.parametrize("way, numbers", [("max", 1), ("recomputed", 0), ("softmax_mean", 2)])
def test_what_is_saved_of_each_value(way, numbers):
    rows, cols = (torch.randn(n, 16, requires_grad=True) for n in (500, 4000))
    reduce, sharpness, keep_argmax = HOW[way]
    options = {"reduce": reduce, "sharpness": sharpness, "keep_argmax": keep_argmax}
    used = saved_bytes(lambda a, b: segment_reduce(a, b, 40, **options), rows, cols)
    assert 4 * numbers * 500 * 100 <= used <= 4 * numbers * 500 * 100 + 1000  # and offsets


@pytest.mark.slow  # those of maxsim run by default
@needs_linux
def test_the_peak_is_far_below_the_scores():
    """Blocks of the workspace's size, whatever the number of rows, and three numbers per value."""
    for pieces, more in (("40", ""), ("torch.arange(0, n + 1, 800)", ", reduce='lse'")):
        call = f"contrastile.segment_reduce(x, y, {pieces}, backend='torch'{more}).sum()"
        assert peak_bytes(call, rows=8000) < 8000 * 8000 * 4 / 3
    assert peak_bytes("(x @ y.T).view(n, -1, 40).amax(2).sum()", rows=4000) > 4000 * 4000 * 4


# ---- choices of the torch backend


def test_without_reading_offsets_the_same_maxima_are_found():
    """all_at_once is for devices where reading offsets would wait; it needs none of their own to be tried."""
    for name, bounds in RAGGED.items():
        if len(bounds) == 1:
            continue
        scores = exact(bounds[-1] + 5, 9)
        scores[::7, 2], scores[::5, 3], scores[:, 4] = torch.nan, -torch.inf, -torch.inf
        for z in (scores, scores.double()):
            best, at = torch_segments.all_at_once(z, torch.tensor(bounds))
            expected, there = torch_segments.slice_by_slice(z, torch.tensor(bounds))
            torch.testing.assert_close(best, expected, rtol=0.0, atol=0.0, equal_nan=True, msg=name)
            some = expected != -torch.inf
            assert torch.equal(at[some].long(), there[some]), name


@pytest.mark.slow
def test_places_beyond_what_float32_counts():
    scores = torch.zeros(2**24 + 2, 1)
    scores[2**24 + 1] = 1.0
    _, at = torch_segments.all_at_once(scores, torch.tensor([0, len(scores)]))
    assert at.item() == 2**24 + 1


def test_auto_takes_cpu_where_it_can(monkeypatch):
    if native.cpu is None:
        pytest.skip("the compiled module is not installed")
    x = problem(5, RAGGED["ragged"], 4)
    calls = []
    monkeypatch.setattr(cpu_segments.CpuSegments, "maxima", lambda *args: calls.append("cpu"))
    monkeypatch.setattr(torch_segments.TorchSegments, "maxima", lambda *args: calls.append("torch"))
    segment_reduce(x.rows, x.cols, x.segments)
    segment_reduce(x.rows.double(), x.cols, x.segments)
    assert calls == ["cpu", "torch"]


def test_a_backend_without_them_leaves_them_to_torch(monkeypatch):
    x = problem(5, RAGGED["ragged"], 4)
    monkeypatch.setattr(type(backends.select("cpu", x.rows.device, x.rows.dtype, 1)), "segments", lambda self: None)
    with pytest.raises(BackendUnsupported, match=r"'cpu' has no segment_reduce; torch, triton, cuda have"):
        segment_reduce(x.rows, x.cols, x.segments, backend="cpu")
    assert torch.equal(
        segment_reduce(x.rows, x.cols, x.segments), segment_reduce(x.rows, x.cols, x.segments, backend="torch")
    )


def refuse_to_run(*_):
    raise AssertionError("another backend did the work")


def test_a_named_backend_does_the_work_itself(backend, monkeypatch):
    for other in backends.BACKENDS:
        if other.name != backend:
            monkeypatch.setattr(type(other), "segments", lambda self: refuse_to_run)
    check(problem(5, RAGGED["ragged"], 4), backend)


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_named_backend_that_cannot_run_says_so(name):
    with pytest.raises(BackendUnsupported, match="it needs cuda"):
        segment_reduce(exact(3, 4), exact(6, 4), 3, backend=name)


# ---- errors

ROWS, COLS = exact(5, 4), exact(12, 4)
WRONG = {
    "rows must be a torch.Tensor, got list": ([[1.0]], COLS, 3),
    r"rows must have shape \(N, D\), got \(5,\)": (ROWS[:, 0], COLS, 3),
    "cols must be float32, bfloat16, float16 or float64, got torch.int64": (ROWS, COLS.long(), 3),
    "cols must have the width of rows, 4, got 3": (ROWS, COLS[:, :3], 3),
    "cols must be on cpu like the features, got meta": (ROWS, COLS.to("meta"), 3),
    "segments must be >= 1 and divide the 12 columns, got 5": (ROWS, COLS, 5),
    "segments must be >= 1 and divide the 12 columns, got 0": (ROWS, COLS, 0),
    "segments must be a tensor of offsets or an int, got bool": (ROWS, COLS, True),
    "segments must be a tensor of offsets or an int, got list": (ROWS, COLS, [0, 12]),
    "segments must be int64, .* got torch.float32": (ROWS, COLS, torch.tensor([0.0, 12.0])),
    r"segments must have shape \(S \+ 1,\), got \(0,\)": (ROWS, COLS, torch.zeros(0, dtype=torch.int64)),
    r"segments must have shape \(S \+ 1,\), got \(1, 2\)": (ROWS, COLS, torch.tensor([[0, 12]])),
    r"offsets from 0 to 12 that do not decrease, got \[0, 13\]": (ROWS, COLS, torch.tensor([0, 13])),
    r"offsets from 0 to 12 that do not decrease, got \[-1, 12\]": (ROWS, COLS, torch.tensor([-1, 12])),
    r"offsets from 0 to 12 that do not decrease, got \[0, 5, 4\]": (ROWS, COLS, torch.tensor([0, 5, 4])),
    "segments must be on cpu like the features, got meta": (ROWS, COLS, torch.tensor([0, 12]).to("meta")),
    r"mask must be a bool tensor \(True = keep\), got torch.int64": (ROWS, COLS, 3, torch.ones(12).long()),
    r"mask must have shape \(12,\), got \(5,\)": (ROWS, COLS, 3, torch.ones(5).bool()),
    "reduce must be one of 'max', 'lse', 'softmax_mean', got 'sum'": (ROWS, COLS, 3, None, {"reduce": "sum"}),
    "sharpness needs reduce='lse' or 'softmax_mean', got reduce='max'": (ROWS, COLS, 3, None, {"sharpness": 2.0}),
    "sharpness must be finite and > 0, got 0.0": (ROWS, COLS, 3, None, {"reduce": "lse", "sharpness": 0.0}),
    "sharpness must be finite and > 0, got -1": (ROWS, COLS, 3, None, {"reduce": "lse", "sharpness": -1}),
    "sharpness must be > 0": (ROWS, COLS, 3, None, {"reduce": "lse", "sharpness": torch.tensor(0.0)}),
    "sharpness must be finite, got nan": (ROWS, COLS, 3, None, {"reduce": "softmax_mean", "sharpness": float("nan")}),
    "sharpness must be a number or a tensor with one element": (
        ROWS, COLS, 3, None, {"reduce": "lse", "sharpness": torch.ones(5)}),
    "keep_argmax=False needs reduce='max', got reduce='lse'": (
        ROWS, COLS, 3, None, {"reduce": "lse", "keep_argmax": False}),
    "keep_argmax must be a bool, got int": (ROWS, COLS, 3, None, {"keep_argmax": 1}),
    f"cols must have at most {2**30} rows": (ROWS.to("meta"), COLS[:1].to("meta").expand(2**30 + 1, 4), 1),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    rows, cols, segments, *more = WRONG[message]
    with pytest.raises((TypeError, ValueError), match=message):
        segment_reduce(rows, cols, segments, mask=more[0] if more else None, **(more[1] if more[1:] else {}))
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'cpu'"):
        segment_reduce(ROWS, COLS, 3, backend="numpy")


# ---- a kernel with an error

SEGMENT, MAXIMUM = "cuda/segments.cu", "cuda/maximum.h"
MUTANTS = {
    "first of equals": (SEGMENT, "y.arg < arg", "y.arg > arg"),
    "head": (SEGMENT, "j + c >= begin && ", ""),
    "tail": (SEGMENT, "j + c < end && ", ""),
    "mask": (SEGMENT, "&& flags.v[c]", "&& flags.v[0]"),
    "lanes": (SEGMENT, "k < LANES; ++k) state", "k < LANES - 1; ++k) state"),
    "strip": (SEGMENT, "at.x % strips * SEGMENTS", "at.x % strips"),
    "row": (SEGMENT, "x.scores + row * x.stride", "x.scores + row * (x.stride - 4)"),
    "rescaling": (SEGMENT, "weighted *= old", "weighted *= 1.f"),
    "peaks that meet": (SEGMENT, "else y.raise(peak)", "else y.peak = peak"),
    "before the first": (SEGMENT, "own.segment ? begin : 0", "begin"),
    "behind the last": (SEGMENT, "own.segment + 1 < x.count ? end : x.stride", "end"),
    "slope": (SEGMENT, "slope * apart + constant : constant", "slope * quad.z.v[c] + constant : constant"),
    "variance": (SEGMENT, "p * apart * apart", "p * apart"),
    "NaN": (MAXIMUM, "x > y || (x != x && y == y)", "x > y"),
}


def check_everything() -> None:
    CACHES.clear()  # of another backend
    for name in ("ragged", "one long", "primes", "many short"):
        for masked in (False, True):
            for way in ("max", "softmax_mean"):
                check(how(problem(9, RAGGED[name], 5, masked=masked, extra=5), way), "cuda")
    check(how(problem(9, RAGGED["columns before the first"], 5, extra=5), "lse"), "cuda")
    check_nan_and_infinity("cuda", torch.nan)


@pytest.mark.parametrize("name", MUTANTS)
def test_an_error_in_the_kernel_is_seen(name, tmp_path, monkeypatch, request):
    cuda_host = pytest.importorskip("support.cuda_host")
    if cuda_host.compiler() is None:
        pytest.skip("needs g++ on Linux")
    monkeypatch.setattr(backends, "BACKENDS", (request.getfixturevalue("host"),))
    check_everything()
    built = request.getfixturevalue("host_folder")
    mutant = cuda_host.HostBackend(cuda_host.rebuild(tmp_path, MUTANTS[name], built, [SEGMENT]))
    monkeypatch.setattr(backends, "BACKENDS", (mutant,))
    with pytest.raises(AssertionError):
        check_everything()


def test_a_narrow_sharpness_gets_a_gradient_that_is_rounded_once():
    x, y = (torch.randn(4, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    grads = []
    for dtype in (torch.bfloat16, torch.float64):
        sharpness = torch.tensor(128.0, dtype=dtype, requires_grad=True)
        values = segment_reduce(x.to(torch.promote_types(x.dtype, dtype)), y, 4, reduce="lse", sharpness=sharpness)
        grads.append(torch.autograd.grad(values.sum(), sharpness)[0].double())
    torch.testing.assert_close(grads[0], grads[1], rtol=2**-8, atol=0.0)
