"""Exponentials kept in bfloat16 from statistics to score gradients, in Triton's interpreter: test_interpreted_kept.py
runs these. Features are float32 here; on a GPU they are bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton._C.libtriton import ir
from triton.runtime import interpreter

from contrastile import clip_loss, driver, info_nce, pair_loss, pair_reduce
from contrastile.backends import base, triton_kept
from contrastile.backends import triton as backend_module
from contrastile.spec import Limits, PairBlock, PairCall, PairSpec, PairTest, Side
from contrastile.triton_kernels import kept

ROUNDING = 2.0**-9  # of bfloat16, half a step
ALL = 1 << 30  # bytes
N = 150


@pytest.fixture(autouse=True)
def in_steps(monkeypatch):
    """Blocks of several tiles, several blocks, float32 features in the place of bfloat16 ones, and numbers that are
    rounded to bfloat16 as GPUs do it: the interpreter cuts their digits off."""
    convert, nearest = interpreter._convert_float, ir.ROUNDING_MODE.RTNE
    rounded = lambda x, source, target, mode: convert(x, source, target, nearest if mode is None else mode)  # noqa: E731
    monkeypatch.setattr(interpreter, "_convert_float", rounded)
    monkeypatch.setattr(base, "SMALL_PAIRS", -1)
    monkeypatch.setattr(triton_kept, "KINDS", (torch.float32,))
    monkeypatch.setattr(backend_module.TritonBackend, "granularity", 32)
    monkeypatch.setattr(backend_module.TritonBackend, "pair_bytes", lambda self, call: 4)
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 64 * 128, 64, 64, 32))


@pytest.fixture
def counted(monkeypatch):
    """Pairs whose exponentials were kept, and of which those were used."""
    counts = {"kept": 0, "used": 0}
    stats_tiles, score_grad = triton_kept.stats_tiles, triton_kept.score_grad

    def stats(block):
        counts["kept"] += len(block.row) * len(block.col)
        return stats_tiles(block)

    def gradients(block, needs):
        counts["used"] += len(block.row) * len(block.col)
        return score_grad(block, needs)

    monkeypatch.setattr(backend_module, "kept_stats_tiles", stats)
    monkeypatch.setattr(backend_module, "kept_score_grad", gradients)
    return counts


def rows_of(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator), dim=1)


def gradients(loss, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


def assert_right(ours, dense, *inputs: Tensor, factor: float = 1.0) -> None:
    """The value exactly, gradients up to the rounding of score gradients and of what was kept. factor: of terms that
    cancel, as the sum of absolute values over that of values."""
    found, grads = gradients(ours, *inputs)
    truth, true_grads = gradients(dense, *[x.double() for x in inputs])
    torch.testing.assert_close(found.double(), truth, rtol=2e-6, atol=1e-6)
    for x, y in zip(grads, true_grads, strict=True):
        assert x.isfinite().all()
        assert (x.double() - y).norm() <= factor * 2 * ROUNDING * y.norm(), (x, y)


def dense_clip(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    z, target = scale * a @ b.T, torch.arange(len(a))
    return (F.cross_entropy(z, target) + F.cross_entropy(z.T, target)) / 2


@pytest.mark.parametrize("scale", [20.0, -3.0])
def test_clip(scale, counted):
    """Blocks with and without a diagonal and edges; the gradient of the scale from what is kept."""
    a, b = rows_of(N, 12, 0), rows_of(N, 12, 1)
    ours = lambda x, y, s: clip_loss(x, y, s, backend="triton", memory_budget=ALL)  # noqa: E731
    assert_right(ours, dense_clip, a, b, torch.tensor(scale))
    assert counted == {"kept": N * N, "used": N * N}


def test_columns_that_are_the_rows(counted):
    a = rows_of(N, 9, 0)
    assert_right(
        lambda x, t: pair_loss(x, scale=t, keep="other_index", backend="triton", memory_budget=ALL),
        lambda x, t: (t * x @ x.T).fill_diagonal_(-torch.inf).logsumexp(1).sum(),
        a, torch.tensor(5.0), factor=2.0,
    )  # fmt: skip
    assert counted["used"] > N * N / 2


def test_rows_alone_and_more_columns(counted):
    a, b, more = rows_of(N, 8, 0), rows_of(N, 8, 1), rows_of(90, 8, 2)

    def dense(x, y, w):
        return F.cross_entropy(5.0 * x @ torch.cat([y, w]).T, torch.arange(N))

    def ours(x, y, w):
        return info_nce(x, y, temperature=0.2, negatives=w, backend="triton", memory_budget=ALL)

    assert_right(ours, dense, a, b, more)
    assert counted["used"] == N * (N + 90)


def test_a_budget_for_some_of_the_blocks(counted):
    a, b = rows_of(N, 12, 0), rows_of(N, 12, 1)
    some = 2 * 32 * triton_kept.kept_width(N)
    ours = lambda x, y, s: clip_loss(x, y, s, backend="triton", memory_budget=some)  # noqa: E731
    assert_right(ours, dense_clip, a, b, torch.tensor(20.0))
    assert counted == {"kept": 32 * N, "used": 32 * N}


def test_a_column_far_below_a_rows_peak(counted):
    """e^(z - peak) of the column's pairs is 0 in bfloat16: they are multiplied again."""
    a, b = rows_of(128, 8, 0), rows_of(128, 8, 1)
    b[100:] = -a[:28]
    ours = lambda x, y: pair_loss(x, y, scale=150.0, cols=True, col_weight=1.0, backend="triton", memory_budget=ALL)  # noqa: E731
    dense = lambda x, y: (150.0 * x @ y.T).logsumexp(1).sum() + (150.0 * x @ y.T).logsumexp(0).sum()  # noqa: E731
    assert_right(lambda x, y: ours(x, y), dense, a, b)
    assert counted["used"] == 128 * 128


def test_converged_pairs_keep_their_digits(counted):
    """Positives never come from what is kept."""
    a = torch.eye(160)
    b = a + 1e-2 * rows_of(160, 160, 1)
    ours = lambda x, y, s: clip_loss(x, y, s, backend="triton", memory_budget=ALL)  # noqa: E731
    _, grads = gradients(ours, a, b, torch.tensor(14.0))
    _, truth = gradients(dense_clip, a.double(), b.double(), torch.tensor(14.0).double())
    for x, y in zip(grads, truth, strict=True):
        assert (x - y).norm() <= 4 * ROUNDING * y.norm()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_row_and_the_columns(bad):
    a, b = rows_of(N, 8, 0), rows_of(N, 8, 1)
    a[110, 3] = bad
    loss = lambda x, y: pair_loss(x, y, scale=3.0, backend="triton", memory_budget=ALL)  # noqa: E731
    _, (of_a, _) = gradients(loss, a, b)
    rest = torch.arange(N) != 110
    assert of_a[110].isnan().all() and of_a[rest].isfinite().all()
    _, (other, _) = gradients(lambda x, y: (3.0 * x @ y.T).logsumexp(1)[rest].sum(), a, b)
    torch.testing.assert_close(of_a[rest], other[rest], rtol=0.0, atol=0.05)


@pytest.mark.parametrize("scale", [0.0, 1e-3])
def test_small_scales_have_a_gradient(scale):
    """Of logits that are nearly equal what is kept has no scores."""
    a, b = rows_of(130, 8, 0), rows_of(130, 8, 1)
    ours = lambda x, y, s: clip_loss(x, y, s, backend="triton", memory_budget=ALL)  # noqa: E731
    assert_right(ours, dense_clip, a, b, torch.tensor(scale))


# ---- where it does not apply


def saved(dtype: torch.dtype = torch.float32, **options) -> torch.dtype | None:
    spec = PairSpec(**({"cols": True} | options))
    call = PairCall(spec, Side(torch.zeros(4, 2, dtype=dtype)), [Side(torch.zeros(4, 2, dtype=dtype))])
    return backend_module.TritonBackend().saved_dtype(call)


def test_only_bfloat16_and_lean_calls_are_kept(monkeypatch):
    assert saved() == torch.bfloat16 and saved(positives=PairTest.SAME_INDEX) == torch.bfloat16
    assert saved(keep=PairTest.SAME_ID) is None and saved(counts=True) is None
    monkeypatch.undo()
    assert [saved(x) for x in (torch.bfloat16, torch.float16, torch.float32)] == [torch.bfloat16, None, None]


def test_the_budget_is_of_no_use_to_pair_reduce_and_other_rules(counted):
    a, b = rows_of(200, 8, 0).requires_grad_(), rows_of(200, 8, 1)
    pair_reduce(a, b, scale=2.0, backend="triton", memory_budget=ALL).rows.sum().backward()
    ids = torch.arange(200) // 2
    loss = pair_loss(a, b, keep="other_id", row_ids=ids, col_ids=ids, backend="triton", memory_budget=ALL)
    loss.backward()
    assert counted == {"kept": 0, "used": 0}


def test_what_is_kept_fits_the_budget_and_holds_its_peaks():
    asked = PairCall(PairSpec(cols=True), Side(torch.zeros(200, 8)), [Side(torch.zeros(333, 8))])
    plan = driver.Plan(asked, backend_module.TritonBackend())
    for budget in (0, 10_000, 100_000, ALL):
        buffer = plan.scores_within(budget)
        store = driver.ScoreStore(buffer)
        taken = [x for x in (store.next(plan, step) for step in plan.steps()) if x is not None]
        assert sum(x.nbytes for x in taken) <= (0 if buffer is None else buffer.nbytes) <= budget
        assert buffer is None or sum(x.nbytes for x in taken) == buffer.nbytes
    assert len(taken) == len(list(plan.steps())) and buffer.nbytes < 1.2 * 2 * 200 * 333
    saved = torch.zeros(1, 200, triton_kept.kept_width(333), dtype=torch.bfloat16)
    found = triton_kept.kept(PairBlock(asked.spec, asked.rows, asked.blocks[0], scores=saved))
    assert found["Peaks"].shape[1] >= -(-333 // triton_kept.LEAST_COLS) and found["Peaks"].dtype == torch.float32
    assert found["Peaks"].data_ptr() >= saved.data_ptr() + 2 * 333


def test_the_reach_leaves_room_above_the_smallest_number():
    assert kept.REACH.value < -torch.tensor(torch.finfo(torch.bfloat16).tiny).log() - 16
