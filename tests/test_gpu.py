"""What only a GPU can show: every backend there against float64, streams, devices, CUDA graphs, memory, TF32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import contrastile
from contrastile import backends, driver, pair_loss, pair_reduce
from contrastile.backends import base, measured, native
from contrastile.catalog import CATALOG, Case, LossCard
from contrastile.replay import CACHES
from contrastile.spec import Limits
from contrastile.testing import compare
from support import distances, segments, targets
from support.cases import EXTRAS, lacking, make_call
from support.loss_cases import call, default, differentiable, every_loss, every_variant, id_of, leaves, make, moved
from support.oracle import Call, check, engine, oracle, upstream
from support.oracle import compare as compare_results
from support.rules import KEEPS, POSITIVES, REDUCES, SUMS, TESTS

pytestmark = pytest.mark.gpu

BACKENDS = ("torch", "triton", "cuda")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
CONJUNCTION = {
    "keep": ("other_group", "no_shared_label", "lower_order"), "positives": ("same_group", "shared_label"),
    "keep_positives": True,
}  # fmt: skip
WAITS = ("pmrl_loss",)  # eigenvalues are looked at on the host, see test_no_sync.WAITS

on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
on_every_reduce = pytest.mark.parametrize("reduce", REDUCES)
every_waitless_loss = pytest.mark.parametrize("card", [x for x in CATALOG if x.name not in WAITS], ids=id_of)


@pytest.fixture(autouse=True)
def context() -> Iterator[None]:
    """An illegal access breaks the process for good: under pytest-xdist a new one takes over the tests that follow."""
    yield
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(13)
        pytest.exit(f"the CUDA context is lost: {error}", returncode=13)


def engine_options(card: LossCard, backend: str) -> dict[str, Any]:
    if not card.gemm and backend != "torch":
        pytest.skip("no pairs, no backend")
    return {"backend": backend} if card.gemm else {}


def assert_right(card: LossCard, case: Case, **options: Any) -> None:
    found = compare(card, moved(case), **options)
    assert found.ok, found.detail


def pairs(n: int, d: int, dtype: torch.dtype = torch.float32, device: str = "cuda") -> list[Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    x = [F.normalize(torch.randn(n, d, generator=generator), dim=1) for _ in range(2)]
    return [y.to(device, dtype).requires_grad_() for y in x]


def outcome(card: LossCard, case: Case, **options: Any) -> list[Tensor]:
    """Value and gradients of a copy of the case."""
    case = differentiable(case)
    value = call(card, case, **options)
    value.sum().backward()
    return [value.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves(case))]


def assert_equal_bits(first: list[Tensor], second: list[Tensor]) -> None:
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)


def refuse(*_: Any) -> Any:
    raise AssertionError("another was asked")


@on_every_backend
def test_the_backend_can_run_here(backend):
    assert contrastile.available_backends()[backend] is None


@on_every_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
def test_a_named_backend_does_the_work_itself(backend, dtype, monkeypatch):
    for other in backends.BACKENDS:
        if other.name != backend:
            for name in ("stats", "score_grad"):
                monkeypatch.setattr(type(other), name, refuse)
    x, y = pairs(70, 16, dtype)
    contrastile.clip_loss(x, y, 10.0, backend=backend).backward()
    pair_reduce(x, y, cols=True, backend=backend).rows.sum().backward()


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_a_named_backend_that_cannot_run_says_so(backend):
    for x in (torch.randn(5, 4), torch.randn(5, 4, device="cuda", dtype=torch.float64)):
        with pytest.raises(backends.BackendUnsupported):
            contrastile.info_nce(x, x, backend=backend)


# ---- the engine against float64


@on_every_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@on_every_reduce
@pytest.mark.parametrize("keep", KEEPS)
def test_every_reduce_and_keep(backend, dtype, reduce, keep):
    """All scales, biases, thresholds, a mask and two column blocks at once; more than one tile either way."""
    positives = {} if reduce == "max" else {"positives": POSITIVES[KEEPS.index(keep) % 4], "keep_positives": True}
    options = {"keep": keep, "reduce": reduce, "cols": True} | positives
    check(make_call(150, 290, 72, dtype, *EXTRAS, blocks=2, **options), device="cuda", backend=backend)


@on_every_backend
@pytest.mark.parametrize("name", TESTS)
def test_every_test(backend, name):
    """Alone, in either rule."""
    for role in ("keep", "positives"):
        some = make_call(150, 290, 72, torch.bfloat16, blocks=2, cols=True, **{role: name})
        check(some, device="cuda", backend=backend)


@on_every_backend
@on_every_reduce
def test_conjunctions(backend, reduce):
    rules = {"keep": CONJUNCTION["keep"]} if reduce == "max" else CONJUNCTION
    for dtype in (torch.float32, torch.bfloat16):
        some = make_call(150, 290, 72, dtype, *EXTRAS, blocks=2, cols=True, reduce=reduce, **rules)
        check(some, device="cuda", backend=backend)


@on_every_backend
@pytest.mark.parametrize("name", ["same_id", "other_id", "same_group", "other_group", "shared_label"])
@pytest.mark.parametrize("block", [0, 1])
def test_a_column_block_without_ids_groups_or_labels(backend, name, block):
    some = make_call(150, 290, 24, torch.bfloat16, blocks=2, cols=True, keep=name, positives=name)
    check(lacking(some, block), device="cuda", backend=backend)


@on_every_backend
@on_every_reduce
@pytest.mark.parametrize("cols", [False, True])
def test_bare_calls(backend, reduce, cols):
    for dtype in FLOATS:
        check(make_call(140, 270, 64, dtype, reduce=reduce, cols=cols), device="cuda", backend=backend)


@on_every_backend
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("reduce", SUMS)
def test_every_positives(backend, reduce, positives):
    for keep_positives in (False, True):
        options = {"reduce": reduce, "positives": positives, "keep_positives": keep_positives, "keep": "other_id"}
        some = make_call(134, 266, 24, torch.bfloat16, "row_high", cols=keep_positives, **options)
        check(some, device="cuda", backend=backend)


@on_every_backend
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("reduce", ["lse", "softplus"])
def test_every_extra_alone(backend, reduce, extra):
    options = {"reduce": reduce, "cols": True}
    check(make_call(135, 166, 40, torch.bfloat16, extra, **options), device="cuda", backend=backend)


SHAPES = (
    (1, 1, 1),
    (1, 7, 3),
    (7, 1, 3),
    (5, 6, 0),
    (0, 5, 4),
    (5, 0, 4),
    (33, 65, 33),
    (257, 129, 64),
    (700, 1301, 72),
)


@on_every_backend
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ragged_shapes(backend, shape):
    for dtype in (torch.float32, torch.bfloat16):
        options = {"cols": True, "positives": "same_index"}
        check(make_call(*shape, dtype, *EXTRAS, **options), device="cuda", backend=backend)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of rows, and columns beyond the workspace."""
    monkeypatch.setattr(base, "SMALL_PAIRS", -1)
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 128 * 256, 256, 128, 128))


@on_every_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("budget", [0, 10**6])
def test_many_chunks_and_column_blocks(backend, dtype, budget, small_chunks):
    options = {"positives": "same_index", "cols": True}
    some = make_call(600, 1100, 40, dtype, *EXTRAS, blocks=2, **options)
    check(some, device="cuda", backend=backend, memory_budget=budget)


@on_every_backend
@on_every_reduce
@pytest.mark.parametrize(
    "keep, positives",
    [("other_index", "same_id"), ("same_id", "kept"), ("all", None), ("other_group", "shared_label")],
)
def test_square_calls(backend, reduce, keep, positives, small_chunks):
    options = {"reduce": reduce, "keep": keep} | ({} if reduce == "max" else {"positives": positives})
    check(make_call(500, None, 40, torch.bfloat16, **options), device="cuda", backend=backend)


@on_every_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("tiles, offset", [(1, True), (1, False), (3, True), (2, False)])
@pytest.mark.parametrize("score", distances.SCORES)
def test_distances_from_flats(backend, dtype, score, tiles, offset):
    x = distances.problem(137, 270, 40, tiles, dtype, offset)
    distances.check({name: y.cuda() for name, y in x.items()}, score, offset, backend=backend)


@on_every_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("kind", ["softmax", "affine", "gated"])
def test_second_operands(backend, dtype, kind):
    targets.check(targets.problem(137, 270, 40, 24, map=kind, by_row=True).cuda(), dtype, blocks=2, backend=backend)


@on_every_backend
@on_every_reduce
def test_nan_stays_nan_and_stays_alone(backend, reduce):
    a, b = torch.randn(140, 8, device="cuda", requires_grad=True), torch.randn(270, 8, device="cuda")
    with torch.no_grad():
        a[5, 3] = torch.nan
    others = torch.arange(140, device="cuda") != 5
    rows = pair_reduce(a, b, reduce=reduce, backend=backend).rows
    rows[others].sum().backward()
    assert rows[5].isnan() and rows[others].isfinite().all()
    assert a.grad is not None and a.grad[others].isfinite().all()


# ---- maxima over segments


@on_every_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("name", segments.RAGGED)
def test_maxima_over_ragged_segments(backend, dtype, name):
    for n, d, extra in ((5, 7, 0), (150, 72, 11)):
        problem = segments.problem(n, segments.RAGGED[name], d, dtype, d == 72, extra)
        segments.check(problem, backend, "cuda")


@on_every_backend
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
def test_maxima_over_segments_of_one_length(backend, dtype):
    """Short, of a tile's width and longer; more rows than a chunk."""
    for n, length, count in ((6, 1, 9), (140, 32, 70), (5003, 128, 20), (9, 700, 3)):
        problem = segments.problem(n, [length * s for s in range(count + 1)], 24, dtype, n == 140)
        segments.check(replace(problem, segments=length), backend, "cuda")


def test_maxima_in_float64():
    problem = segments.problem(150, segments.RAGGED["primes"], 40, torch.float64, True)
    segments.check(problem, "torch", "cuda")


@on_every_backend
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_maxima_that_are_not_finite(backend, value):
    x = segments.problem(40, segments.RAGGED["primes"], 6)
    x.rows[3, 2], x.cols[12, 1], x.cols[100, 4] = value, value, value
    truth = segments.largest(x.rows @ x.cols.T, x.bounds(), None)
    found = contrastile.segment_reduce(x.rows.cuda(), x.cols.cuda(), x.segments.cuda(), backend=backend).cpu()
    torch.testing.assert_close(found, truth, rtol=0.0, atol=0.0, equal_nan=True)


@on_every_backend
@pytest.mark.parametrize("bounds", [[0, 40, 20, 60], [-5, 30, 2**40], [100, 90, 80]], ids=str)
def test_offsets_that_lead_nowhere_do_no_harm(backend, bounds):
    """They are not looked at, but nothing else in memory is read or written."""
    rows, cols = (torch.randn(n, 16, device="cuda", requires_grad=True) for n in (70, 60))
    values = contrastile.segment_reduce(rows, cols, torch.tensor(bounds, device="cuda"), backend=backend)
    values.sum().backward()
    torch.cuda.synchronize()


def token_problem() -> tuple[list[Tensor], dict[str, Tensor]]:
    """Queries and documents with padding."""
    q, d = (segments.tokens(n, length, 64, n).float() for n, length in ((40, 32), (60, 100)))
    masks = {
        "query_mask": segments.token_mask(40, 32, 1),
        "document_mask": segments.token_mask(60, 100, 2),
    }
    return [x.cuda().requires_grad_() for x in (q, d)], {name: x.cuda() for name, x in masks.items()}


@on_every_backend
@pytest.mark.unpoisoned
def test_maxsim_does_not_wait_and_gives_equal_bits(backend):
    tensors, masks = token_problem()

    def step() -> list[Tensor]:
        scores = contrastile.maxsim(*tensors, **masks, backend=backend)
        loss = F.cross_entropy(scores[2:], torch.arange(2, 40, device="cuda"))
        return [scores.detach(), *torch.autograd.grad(loss, tensors)]

    first = step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_equal_bits(first, again)
    reference = contrastile.reference.maxsim(*(x.double() for x in tensors), **masks)
    torch.testing.assert_close(first[0].double(), reference, rtol=1e-5, atol=1e-5)


@on_every_backend
@pytest.mark.unpoisoned
def test_the_peak_of_maxsim_is_far_below_the_scores(backend):
    """64 queries of 32 tokens, 1024 documents of 512: the scores take 4.3 GB."""
    q, d = (torch.randn(*shape, 64, device="cuda", dtype=torch.bfloat16) for shape in ((64, 32), (1024, 512)))
    q.requires_grad_(), d.requires_grad_()
    contrastile.maxsim(q, d, backend=backend).sum().backward()
    q.grad = d.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contrastile.maxsim(q, d, backend=backend).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 64 * 32 * 1024 * 512 * 4 / 2


# ---- the fused kernel, as if it had been measured to be faster


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"triton": measured.triton_version(), "fused": {"bfloat16": [256, 256], "float16": [256, 256]}}
    monkeypatch.setattr(measured, "table", lambda: {measured.device_name(torch.device("cuda")): entry})
    monkeypatch.setattr(
        type(backends.select("triton", torch.device("cuda"), torch.half, 1)), "score_grad_tiles", refuse
    )


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=id_of)
@pytest.mark.parametrize("d", [1, 8, 40, 64, 200, 256])
@pytest.mark.parametrize("reduce", SUMS)
def test_fused_gradients(dtype, d, reduce, fused):
    """Bare with few rows, whose columns many programs share; with everything at once; square."""
    extras = {"positives": "same_index", "keep": "other_id", "keep_positives": True}
    for some in (
        make_call(140, 2100, d, dtype, "row_scale", reduce=reduce, cols=True, positives="same_index"),
        make_call(600, 290, d, dtype, *EXTRAS, blocks=2, reduce=reduce, cols=True, **extras),
        make_call(500, None, d, dtype, reduce=reduce, keep="other_index", positives="same_id"),
    ):
        check_gradients(some)


@pytest.mark.parametrize("d", [40, 128])  # the tiles for such rules take no more everywhere
@pytest.mark.parametrize("reduce", SUMS)
def test_fused_gradients_of_conjunctions(d, reduce, fused):
    some = make_call(600, 290, d, torch.bfloat16, *EXTRAS, blocks=2, reduce=reduce, cols=True, **CONJUNCTION)
    check_gradients(some)
    check_gradients(lacking(some, 1))


def check_gradients(some: Call) -> None:
    weights = upstream(some)
    truth, limit = oracle(some, weights)
    given = {name: x.to("cuda") for name, x in weights.items()}
    compare_results(some, engine(some.to("cuda"), given, backend="triton").cpu(), truth, limit)


@pytest.mark.unpoisoned
def test_fused_gradients_have_equal_bits(fused):
    card = next(x for x in CATALOG if x.name == "clip_loss")
    case = moved(default(card, 900, 40, torch.bfloat16))
    assert_equal_bits(outcome(card, case, backend="triton"), outcome(card, case, backend="triton"))


# ---- the losses against their references


@every_variant
@on_every_backend
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=id_of)
def test_every_loss_equals_its_reference(card, variant, backend, dtype):
    case = make(card, variant, 150, 24, dtype)
    if case.kwargs.get("normalize") and dtype != torch.float32:
        pytest.skip("rounds the unit rows to the input type, which the reference does not")
    assert_right(card, case, **engine_options(card, backend))


@every_loss
@on_every_backend
def test_every_loss_in_float16(card, backend):
    assert_right(card, default(card, 150, 24, torch.float16), **engine_options(card, backend))


@every_loss
@pytest.mark.parametrize("n, d", [(1, 7), (2, 3), (33, 16)])
def test_float64_on_the_torch_backend(card, n, d):
    assert_right(card, default(card, n, d, torch.float64), **engine_options(card, "torch"))


@on_every_backend
@pytest.mark.parametrize("name", ["clip_loss", "siglip_loss", "nt_xent", "info_nce", "uniformity"])
def test_batches_beyond_a_chunk(name, backend):
    """Chunks of the size the backend chooses for itself."""
    card = next(x for x in CATALOG if x.name == name)
    assert_right(card, default(card, 5003, 72, torch.bfloat16), backend=backend)


# ---- streams, devices, graphs


@on_every_backend
@pytest.mark.unpoisoned
def test_a_side_stream(backend):
    """The inputs appear on the side stream, late: work on another stream would read zeros."""
    x, y = pairs(700, 64)
    expected = outcome_of_clip(x, y, backend)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        late = [torch.zeros_like(z) for z in (x, y)]
        torch.cuda._sleep(100_000_000)
        for z, source in zip(late, (x, y), strict=True):
            z.copy_(source.detach())
        found = outcome_of_clip(*late, backend)
    torch.cuda.synchronize()
    assert_equal_bits(found, expected)


def outcome_of_clip(x: Tensor, y: Tensor, backend: str) -> list[Tensor]:
    x, y = (z.detach().clone().requires_grad_() for z in (x, y))
    value = contrastile.clip_loss(x, y, 14.3, backend=backend)
    value.backward()
    return [value.detach(), x.grad, y.grad]


@on_every_backend
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one(backend):
    with torch.cuda.device(0):
        there = outcome_of_clip(*pairs(300, 40, device="cuda:1"), backend)
        here = outcome_of_clip(*pairs(300, 40, device="cuda:0"), backend)
    assert all(x.device.index == 1 for x in there)
    for x, y in zip(there, here, strict=True):
        torch.testing.assert_close(x.cpu(), y.cpu(), rtol=1e-5, atol=1e-6)


@every_waitless_loss
@on_every_backend
@pytest.mark.unpoisoned
def test_a_graph_of_forward_and_backward(card, backend):
    """Captured on one batch, replayed on another."""
    options = engine_options(card, backend)
    static, other = (differentiable(moved(default(card, n, 24))) for n in (150, 150))
    with torch.no_grad():
        for x in leaves(other):
            x.copy_(x.flip(0) if x.dim() else x * 1.1)
    expected = outcome(card, other, **options)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call(card, static, **options).backward()
    torch.cuda.current_stream().wait_stream(side)
    for x in leaves(static):
        x.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = call(card, static, **options)
        value.backward()
    with torch.no_grad():
        for x, source in zip(leaves(static), leaves(other), strict=True):
            x.copy_(source)
    graph.replay()
    grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves(static)]
    for x, y in zip([value.detach(), *grads], expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@on_every_backend
@pytest.mark.parametrize("name", ["clip_loss", "info_nce", "siglip_loss", "nt_xent", "sup_con", "gram_loss"])
def test_recorded_calls_are_the_calls_as_written(name, backend):
    """From the third of a kind on; on two streams, of which each has its own recording."""
    card = next(card for card in CATALOG if card.name == name)
    written = SimpleNamespace(function=card.function.__wrapped__)
    streams = torch.cuda.current_stream(), torch.cuda.Stream()
    for seed in range(8):
        make_case = next(iter(card.variants.values()))
        case = moved(make_case(150, 24, torch.Generator().manual_seed(seed), torch.float32))
        torch.cuda.synchronize()
        with torch.cuda.stream(streams[seed % 2]):
            found, right = (outcome(x, case, backend=backend) for x in (card, written))
        torch.cuda.synchronize()
        assert_equal_bits(found, right)
    kinds = CACHES[written.function].kinds.values()
    assert sum(kind is not None and kind.recorded is not None for kind in kinds) == 2


@every_waitless_loss
@on_every_backend
@pytest.mark.unpoisoned
def test_nothing_waits_for_the_gpu(card, backend):
    case, options = differentiable(moved(default(card, 150, 24))), engine_options(card, backend)
    call(card, case, **options).backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(card, case, **options).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_every_backend
@pytest.mark.unpoisoned
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("name", ["clip_loss", "nt_xent", "siglip_loss", "gram_loss", "info_nce"])
def test_two_runs_give_equal_bits(name, backend, dtype):
    card = next(x for x in CATALOG if x.name == name)
    case = moved(default(card, 900, 40, dtype))
    assert_equal_bits(outcome(card, case, backend=backend), outcome(card, case, backend=backend))


# ---- modes of torch


@on_every_backend
def test_no_grad(backend):
    x, y = pairs(300, 40)
    with torch.no_grad():
        value = contrastile.clip_loss(x, y, 14.3, backend=backend)
    assert not value.requires_grad
    torch.testing.assert_close(value, contrastile.clip_loss(x, y, 14.3, backend=backend).detach())


@on_every_backend
@pytest.mark.parametrize("name", ["clip_loss", "info_nce", "nt_xent", "gram_loss"])
def test_compiled_with_inductor(name, backend):
    card = next(x for x in CATALOG if x.name == name)
    compiled = torch.compile(card.function, fullgraph=True)
    for n in (130, 150):
        case = moved(default(card, n, 24))
        found = outcome(replace_function(card, compiled), case, backend=backend)
        for x, y in zip(found, outcome(card, case, backend=backend), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def replace_function(card: LossCard, function: Any) -> Any:
    class Replaced:
        pass

    Replaced.function = staticmethod(function)  # type: ignore[attr-defined]
    return Replaced


@on_every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=id_of)
def test_autocast_does_not_reach_into_the_engine(backend, dtype):
    x, y = pairs(300, 40)
    expected = outcome_of_clip(x, y, backend)
    with torch.autocast("cuda", dtype):
        found = outcome_of_clip(x, y, backend)
    assert_equal_bits(found, expected)


@on_every_backend
def test_double_backward_raises(backend):
    x, y = pairs(130, 16)
    value = contrastile.info_nce(x, y, backend=backend)
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grad.sum().backward()


@on_every_backend
@pytest.mark.skipif(torch.cuda.is_available() and torch.version.hip is not None, reason="TF32 is NVIDIA's")
def test_tf32_only_where_torch_allows_it(backend):
    """Off by default; the switch must be seen to work, or this would prove nothing."""
    x, y = pairs(600, 256)
    truth = (x.double() @ y.double().T * 50.0).logsumexp(1)

    def error() -> float:
        return (pair_reduce(x, y, scale=50.0, backend=backend).rows - truth).abs().max().item()

    exact = error()
    assert exact < 1e-4
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert error() > 4 * exact
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


# ---- memory and size


@on_every_backend
@pytest.mark.unpoisoned
def test_the_peak_is_far_below_the_matrix(backend):
    n = 32768
    x, y = pairs(n, 64, torch.bfloat16)
    contrastile.clip_loss(x, y, 14.3, backend=backend).backward()
    x.grad = y.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contrastile.clip_loss(x, y, 14.3, backend=backend).backward()
    assert torch.cuda.max_memory_allocated() - before < n * n * 4 / 4


@on_every_backend
@pytest.mark.unpoisoned
def test_more_pairs_than_a_32_bit_index_counts(backend):
    """2^31 pairs and more: rows and columns at the far end are right."""
    n, m = 2100, 1 << 20
    generator = torch.Generator("cuda").manual_seed(0)
    a, b = (torch.randn(k, 16, generator=generator, device="cuda", dtype=torch.bfloat16) for k in (n, m))
    found = pair_reduce(a, b, scale=0.5, cols=True, backend=backend)
    rows = (0.5 * a[-50:].double() @ b.double().T).logsumexp(1)
    cols = (0.5 * a.double() @ b[-50:].double().T).logsumexp(0)
    torch.testing.assert_close(found.rows[-50:].double(), rows, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.cols[-50:].double(), cols, rtol=1e-5, atol=1e-5)


# ---- a small selection for compute-sanitizer, which slows kernels down by tens


@pytest.mark.unpoisoned  # poison is a write, which initcheck would take for the kernel's
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=id_of)
@pytest.mark.parametrize("reduce", ["lse", "max"])
def test_sanitized(backend, dtype, reduce):
    positives = {} if reduce == "max" else {"positives": "same_id"}
    options = {"reduce": reduce, "keep": "other_index", "cols": True} | positives
    for blocks in (1, 2):  # at once, and in steps
        check(make_call(67, 131, 20, dtype, *EXTRAS, blocks=blocks, **options), device="cuda", backend=backend)


@pytest.mark.unpoisoned
def test_sanitized_fused_gradients(fused):
    check_gradients(make_call(67, 131, 20, torch.bfloat16, *EXTRAS, cols=True, positives="same_id"))


@pytest.mark.unpoisoned
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_sanitized_maxima_over_segments(backend):
    problem = segments.problem(67, segments.RAGGED["ragged"], 20, torch.bfloat16, True, 3)
    segments.check(problem, backend, "cuda")


@pytest.mark.unpoisoned
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_sanitized_distances_and_squares(backend):
    x = {name: y.cuda() for name, y in distances.problem(37, 70, 20, 3, torch.bfloat16, True).items()}
    distances.check(x, "distance", True, backend=backend)
    check(make_call(150, None, 20, torch.bfloat16, positives="kept"), device="cuda", backend=backend)


def test_the_cuda_module_was_built_for_this_gpu():
    assert native.cuda is not None, native.import_errors
    major, minor = torch.cuda.get_device_capability()
    assert any(x.rstrip("af") == f"{major}{minor}" for x in native.cuda.archs.split(";")), native.cuda.archs
    value = pair_loss(*pairs(9, 4), backend="cuda")
    assert value.isfinite()
