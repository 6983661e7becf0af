"""segment_max and maxsim against float64, value and gradients, on every backend that a CPU can stand for.

Features are small multiples of 1/8, so that every type holds them and scores are exact: values must be equal, and equal
scores are many, of which the first must be found. test_gpu.py and interpreted.py run the checks, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import opcheck

from contrastile import BackendUnsupported, backends, maxsim, reference, segment_reduce
from contrastile.backends import base, torch_segments
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.catalog import Case
from contrastile.ops import segments as op
from contrastile.spec import Limits
from contrastile.testing import EPS
from support.loss_cases import DTYPES, id_of
from support.memory import needs_linux, peak_bytes, saved_bytes
from support.operators import TRANSFORMS, Recorder
from support.oracle import ROUNDINGS, within
from support.pairing import assert_agreement
from support.segments import (
    RAGGED,
    Problem,
    check,
    check_dropped_columns,
    check_equal_columns,
    check_minus_infinity,
    check_nan_and_infinity,
    check_the_first_nan,
    exact,
    largest,
    outcome,
    problem,
    token_mask,
    tokens,
)

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=id_of)


# ---- every backend on a CPU: torch, and the CUDA kernel by loops over its threads


@pytest.fixture(params=["torch", "cuda"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
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
                check(problem(n, RAGGED[name], d, dtype, masked, extra), backend)


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


@pytest.mark.parametrize("n, columns, d", [(0, 6, 4), (5, 0, 4), (0, 0, 4), (5, 6, 0), (1, 6, 1)], ids=str)
def test_empty_sides(backend, n, columns, d):
    for bounds in ([0, columns], [0, 0, columns, columns]):
        check(problem(n, bounds, d), backend)
    check(Problem(exact(n, d), exact(columns, d), 3), backend)


@by_dtype
def test_several_chunks(backend, dtype, monkeypatch):
    """Of rows, forward and backward."""
    if not runs(backend, dtype):
        return
    few = Limits(workspace=4 * 197 * 70, max_chunk=4096, square_chunk=1)
    monkeypatch.setattr(op, "CPU_LIMITS", few)
    for cls in (TorchBackend, type(backends.BACKENDS[0])):
        monkeypatch.setattr(cls, "limits", lambda self, device: few)
    assert len(list(base.row_chunks(few, 300, 197))) > 3
    check(problem(300, RAGGED["primes"], 9, dtype, True), backend)


def test_layouts_and_mixed_types(backend):
    x = problem(9, RAGGED["ragged"], 8)
    apart = replace(x, rows=torch.stack([x.rows, x.rows], 2)[:, :, 0], cols=x.cols.T.contiguous().T)
    check(apart, backend)
    check(replace(x, segments=x.segments.to(torch.int32)), backend)
    for bits in (torch.rand(68) < 0.6, torch.rand(67, 2) < 0.6):  # neither aligned nor side by side
        masked = problem(9, [0, 20, 44, 64], 8, extra=3)
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
    truth = largest(rows.double() @ cols.double().T, bounds, None)
    size = (rows.double().abs() @ cols.double().abs().T).amax()
    found = segment_reduce(rows, cols, torch.tensor(bounds), backend=backend)
    within("values", found, truth, (ROUNDINGS * EPS[torch.float32] * size).expand(truth.shape))


# ---- numbers that are not finite


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_stay_in_their_segment(backend, value):
    check_nan_and_infinity(backend, value)


def test_the_first_nan_gets_the_gradient(backend):
    check_the_first_nan(backend)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_the_mask_drops_does_no_harm(backend, value):
    check_dropped_columns(backend, value)


def test_scores_of_minus_infinity_are_as_none(backend):
    check_minus_infinity(backend)


@pytest.mark.parametrize("weight", [1e-7, 1.0, 1e7])
def test_float16_score_gradients_neither_underflow_nor_overflow(backend, weight):
    x = problem(20, RAGGED["ragged"], 8, torch.float16)
    weights = torch.linspace(0.5, 1.5, 120).view(20, 6)
    rows = x.rows.clone().requires_grad_()
    values = segment_reduce(rows, x.cols, x.segments, backend=backend)
    ((values * weights * weight).sum() / weight).backward()
    _, expected, _ = outcome(replace(x, rows=x.rows.float(), cols=x.cols.float()), "torch", weights)
    assert (rows.grad - expected).norm() < 2.0**-10 * expected.norm()


# ---- inside PyTorch


def test_no_grad_and_constant_inputs(backend):
    x = problem(5, RAGGED["ragged"], 4)
    rows, cols = x.rows.clone().requires_grad_(), x.cols.clone().requires_grad_()
    with torch.no_grad():
        values = segment_reduce(rows, cols, x.segments, backend=backend)
    assert not values.requires_grad
    both = torch.autograd.grad(segment_reduce(rows, cols, x.segments, backend=backend).sum(), (rows, cols))
    (left,) = torch.autograd.grad(segment_reduce(rows, x.cols, x.segments, backend=backend).sum(), rows)
    (right,) = torch.autograd.grad(segment_reduce(x.rows, cols, x.segments, backend=backend).sum(), cols)
    assert torch.equal(left, both[0]) and torch.equal(right, both[1])


def test_two_backward_passes_and_two_runs_give_equal_bits(backend, monkeypatch):
    g = torch.Generator().manual_seed(3)
    rows, cols = (torch.randn(n, 24, generator=g, requires_grad=True) for n in (70, 197))
    offsets = torch.tensor(RAGGED["primes"])
    values = segment_reduce(rows, cols, offsets, backend=backend)
    first = torch.autograd.grad(values.square().sum(), (rows, cols), retain_graph=True)
    again = torch.autograd.grad(values.square().sum(), (rows, cols))
    monkeypatch.setenv("CONTRASTILE_HOST_ORDER", "reverse")  # the kernel's blocks and threads
    other = segment_reduce(rows, cols, offsets, backend=backend)
    assert torch.equal(values, other)
    third = torch.autograd.grad(other.square().sum(), (rows, cols))
    for x, y, z in zip(first, again, third, strict=True):
        assert torch.equal(x, y) and torch.equal(x, z)


def test_double_backward_is_refused(backend):
    x = problem(5, RAGGED["ragged"], 4)
    for name in ("rows", "cols"):
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
        for dtype in (torch.float32, torch.bfloat16):
            for masked in (False, True):
                x = problem(5, RAGGED["ragged"], 4, dtype, masked)
                outcome(x, backend, torch.ones(5, 6))
        rows = x.rows.clone().requires_grad_()
        segment_reduce(rows, x.cols, 67, backend=backend).sum().backward()
    assert {func._opname for func, _ in recorder.calls} == {"segment_max", "segment_max_backward"}
    for func, args in recorder.calls:
        opcheck(func, torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), args))


@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_meta_tensors_have_the_shapes_of_real_ones(dtype):
    x = problem(5, RAGGED["ragged"], 4, dtype, True)
    real, meta = (outcome(y, "auto", torch.ones(5, 6, device=y.rows.device)) for y in (x, x.to("meta")))
    assert [(t.shape, t.dtype) for t in real] == [(t.shape, t.dtype) for t in meta]


def test_autocast_changes_nothing(backend):
    x, weights = problem(20, RAGGED["ragged"], 8), torch.ones(20, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(x, backend, weights)
    assert all(torch.equal(t, y) for t, y in zip(found, outcome(x, backend, weights), strict=True))


# ---- memory


def test_what_is_saved_is_one_number_per_value():
    rows, cols = (torch.randn(n, 16, requires_grad=True) for n in (500, 4000))
    used = saved_bytes(lambda a, b: segment_reduce(a, b, 40), rows, cols)
    assert used <= 500 * 100 * 4


@needs_linux
def test_the_peak_is_far_below_the_scores():
    """Blocks of the workspace's size, whatever the number of rows, and three numbers per value."""
    for segments in ("40", "torch.arange(0, n + 1, 40)"):
        call = f"contrastile.segment_reduce(x, y, {segments}, backend='torch').sum()"
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


def test_auto_takes_torch_on_a_cpu_and_cpu_is_refused(monkeypatch):
    x = problem(5, RAGGED["ragged"], 4)
    with pytest.raises(BackendUnsupported, match=r"'cpu' has no segment_max; torch, triton, cuda have"):
        segment_reduce(x.rows, x.cols, x.segments, backend="cpu")
    calls = []
    monkeypatch.setattr(TorchBackend, "segments", lambda self: lambda *_: calls.append(1))
    segment_reduce(x.rows, x.cols, x.segments)
    assert calls == [1]


def refuse_to_run(*_):
    raise AssertionError("another backend did the work")


def test_a_named_backend_does_the_work_itself(backend, monkeypatch):
    for other in backends.BACKENDS:
        if other.name not in (backend, "cpu"):
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
    f"cols must have at most {2**30} rows": (ROWS.to("meta"), COLS[:1].to("meta").expand(2**30 + 1, 4), 1),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    rows, cols, segments, *mask = WRONG[message]
    with pytest.raises((TypeError, ValueError), match=message):
        segment_reduce(rows, cols, segments, mask=mask[0] if mask else None)
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'cpu'"):
        segment_reduce(ROWS, COLS, 3, backend="numpy")


# ---- a kernel with an error

SEGMENT, MAXIMUM = "cuda/segment_max.cu", "cuda/maximum.h"
MUTANTS = {
    "first of equals": (SEGMENT, "y.arg < arg", "y.arg > arg"),
    "head": (SEGMENT, "j + c >= begin && ", ""),
    "tail": (SEGMENT, "j + c < end && ", ""),
    "mask": (SEGMENT, "&& kept.v[c]", "&& kept.v[0]"),
    "lanes": (SEGMENT, "k < LANES; ++k", "k < LANES - 1; ++k"),
    "strip": (SEGMENT, "at.x % strips * SEGMENTS", "at.x % strips"),
    "row": (SEGMENT, "row * x.stride", "row * (x.stride - 4)"),
    "NaN": (MAXIMUM, "x > y || (x != x && y == y)", "x > y"),
}


def check_everything() -> None:
    for name in ("ragged", "one long", "primes", "many short"):
        for masked in (False, True):
            check(problem(9, RAGGED[name], 5, masked=masked), "cuda")
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


# ---- maxsim


def scores_of(function, masked_documents: Tensor | None):
    """Scores with a number in place of -inf, whose weighted sum would be no number."""

    def scores(*args, **kwargs):
        found = function(*args, **kwargs)
        return found if masked_documents is None else found.masked_fill(~masked_documents.any(1), 3.0)

    return scores


@by_dtype
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("masks", ["none", "queries", "documents", "both"])
def test_maxsim_equals_its_reference(backend, dtype, reduce, masks):
    if not runs(backend, dtype):
        return
    for n, t, m, u, d in ((3, 5, 4, 7, 8), (1, 1, 1, 1, 1), (7, 32, 9, 40, 24)):
        kwargs = {"reduce": reduce, "normalize": dtype in (torch.float32, torch.float64)}
        if masks in ("queries", "both"):
            kwargs["query_mask"] = token_mask(n, t, 1)
        if masks in ("documents", "both"):
            kwargs["document_mask"] = token_mask(m, u, 2)
        pair = [scores_of(f, kwargs.get("document_mask")) for f in (maxsim, reference.maxsim)]
        case = Case((tokens(n, t, d, 3).to(dtype), tokens(m, u, d, 4).to(dtype)), kwargs, float(t))
        assert_agreement(*pair, case, backend=backend)


def test_documents_and_queries_without_tokens():
    q, d = tokens(3, 4, 5, 1), tokens(2, 6, 5, 2)
    query_mask, document_mask = torch.ones(3, 4).bool(), torch.ones(2, 6).bool()
    query_mask[1], document_mask[0] = False, False
    for reduce in ("sum", "mean"):
        masks = {"query_mask": query_mask, "document_mask": document_mask, "reduce": reduce}
        found = maxsim(q, d, **masks)
        torch.testing.assert_close(found, reference.maxsim(q, d, **masks))
        assert torch.equal(found[1], torch.zeros(2).double())
        assert (found[[0, 2], 0] == -torch.inf).all()
    for n, t, m, u in ((0, 4, 2, 6), (3, 0, 2, 6), (3, 4, 0, 6), (3, 4, 2, 0), (3, 0, 2, 0)):
        q, d = torch.randn(n, t, 5, requires_grad=True), torch.randn(m, u, 5, requires_grad=True)
        for reduce in ("sum", "mean"):
            found = maxsim(q, d, reduce=reduce)
            torch.testing.assert_close(found, reference.maxsim(q, d, reduce=reduce))
            found.sum().backward()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("normalize", [False, True])
def test_padding_has_no_effect(backend, value, normalize):
    """Its numbers reach neither scores nor gradients, and it gets none."""
    masks = {"query_mask": token_mask(5, 6, 1), "document_mask": token_mask(4, 9, 2)}
    clean = tokens(5, 6, 8, 3).float(), tokens(4, 9, 8, 4).float()
    dirty = [torch.where(m.unsqueeze(2), x, value) for x, m in zip(clean, masks.values(), strict=True)]
    grads = []
    for pair in (clean, dirty):
        leaves = [x.clone().requires_grad_() for x in pair]
        scores = maxsim(*leaves, **masks, normalize=normalize, backend=backend)
        loss = F.cross_entropy(scores[[0, 2, 3]], torch.tensor([0, 2, 3]))
        grads.append(torch.autograd.grad(loss, leaves))
    for x, y, mask in zip(*grads, masks.values(), strict=True):
        assert torch.equal(x, y) and x.isfinite().all() and (x[~mask] == 0).all() and (x[mask] != 0).any()


def test_maxsim_refuses_what_it_cannot_mean():
    q, d = torch.randn(3, 4, 5), torch.randn(2, 6, 5)
    for message, args, options in (
        (r"queries must have shape \(N, K, D\), got \(4, 5\)", (q[0], d), {}),
        ("documents must have the width of queries, 5, got 4", (q, d[:, :, :4]), {}),
        ("documents must be on cpu like the features, got meta", (q, d.to("meta")), {}),
        (r"query_mask must have shape \(3, 4\), got \(3, 5\)", (q, d), {"query_mask": torch.ones(3, 5).bool()}),
        (r"document_mask must be a bool tensor", (q, d), {"document_mask": torch.ones(2, 6)}),
        ("reduce must be one of 'sum', 'mean', got 'max'", (q, d), {"reduce": "max"}),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            maxsim(*args, **options)
    with pytest.raises(ValueError, match="reduce must be 'sum' or 'mean'"):
        reference.maxsim(q, d, reduce="max")
