"""The cuda backend's kernels on the host: every rule, index and sum of them, but no device."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from support.rules import KEEPS, POSITIVES

pytest.importorskip("pybind11", reason="the build requirements are not installed")

from contrastile import backends, driver, pair_reduce, row_lse
from contrastile.backends import base
from contrastile.backends.cuda import uncovered
from contrastile.backends.native_block import describe, set_grad, weighted_side
from contrastile.backends.native_struct import struct_of
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.ops import record
from contrastile.replay import CACHES
from contrastile.spec import NO_TEST, Limits, PairSpec, PairTest, Reduce, Score, Target
from contrastile.testing import check_card
from support import cuda_host, distances, launches
from support.blocks import APART, agree, all_of, apart, close, nan_in, numbers, random_block, statistics
from support.cases import EXTRAS, make_call
from support.combinations import by_default, each_once, in_turn
from support.loss_cases import PAIR_LOSSES, id_of
from support.oracle import check, engine_loss, upstream

pytestmark = pytest.mark.skipif(cuda_host.compiler() is None, reason="needs g++ on Linux")

SHAPES = [(1, 1), (7, 5), (65, 131), (130, 257), (3, 1030), (64, 128), (129, 3)]  # edges of quads, lanes and tiles
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "SMALL_PAIRS", -1)
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 72 * 96, 72, 72, 32))


@pytest.mark.parametrize(
    "archs, capability, runs",
    [
        ("80;90;100", (8, 0), True),
        ("80;90;100", (8, 6), True),  # same generation, newer
        ("80;90;100", (9, 0), True),
        ("80;90;100", (12, 0), True),  # by PTX
        ("80;90;100", (7, 5), False),
        ("90", (8, 0), False),
        ("86", (8, 0), False),  # same generation, older
        ("90a", (10, 0), True),
        ("80;100", (9, 0), False),  # PTX is that of 100
    ],
)
def test_kernels_for_other_devices_are_refused_with_a_reason(archs, capability, runs):
    reason = uncovered(archs, capability)
    assert (reason is None) == runs
    assert runs or (archs in reason and ".".join(map(str, capability)) in reason)


# ---- tiles against tiles in torch


ONE_TEST = [test for test in PairTest if test != PairTest.KEPT]
RULES = [
    NO_TEST,
    *ONE_TEST,
    PairTest.OTHER_INDEX | PairTest.OTHER_ID,
    PairTest.SAME_GROUP | PairTest.LOWER_ORDER | PairTest.NO_SHARED_LABEL,
]
POSITIVE_RULES = [NO_TEST, *ONE_TEST, PairTest.KEPT, PairTest.SAME_ID | PairTest.OTHER_INDEX]


@pytest.mark.parametrize(
    "reduce, keep, positives",
    each_once(list(itertools.product(Reduce, RULES)), POSITIVE_RULES),
    ids=lambda x: x.name.lower() if isinstance(x, Reduce) else str(record.words_of(x, None)),
)
def test_every_reduce_keep_positives_score_and_side(request, host, monkeypatch, reduce, keep, positives):
    """By default with extras or without, with positives kept or not, in turn."""
    rules = list(enumerate(itertools.product(Score, (False, True), (False, True), (False, True))))
    if not request.config.getoption("--run-slow"):
        rules = rules[(int(keep).bit_length() + reduce) % 4 :: 4]
    for index, (score, both, extras, keep_positives) in rules:
        tiles = 1 if PairSpec(score=score).biased else 1 + index % 3
        spec = PairSpec(reduce, keep, positives, keep_positives, both, False, score, index % 2 == 0)
        n, m = SHAPES[(index + int(keep)) % len(SHAPES)]
        block = random_block(spec, n, m, tiles, extras, both)
        cuda_host.check_tiles(host, monkeypatch, block, index % 3)


@pytest.mark.parametrize("name", APART)
def test_positives_apart_and_counts(host, monkeypatch, name):
    for layout in range(3):
        cuda_host.check_tiles(host, monkeypatch, apart(name), layout)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reduce", list(Reduce), ids=lambda x: x.name.lower())
def test_nan_and_infinity_pass_as_in_torch(host, reduce, value):
    block = nan_in(random_block(PairSpec(reduce, cols=True), 70, 150, 1, False, True), value)
    close(numbers(host, block), numbers(TorchBackend(), block))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["index", "index, all rules", "ids"])
def test_nan_and_infinity_with_positives_apart(host, name, value):
    """Statistics: a pair whose slope is 0 adds 0 to gradients, in torch NaN where its score is infinite."""
    block = nan_in(apart(name), value)
    close(statistics(host, block), statistics(TorchBackend(), block))


@pytest.mark.parametrize("layout", range(3))
@pytest.mark.parametrize("kind", [*Score, Target.SOFTMAX, Target.AFFINE], ids=lambda x: x.name.lower())
def test_score_gradients_in_place_and_in_half_precision(host, kind, layout):
    """The same numbers as apart, rounded once, float16 after the factor; nothing beside them is written."""
    spec = PairSpec(cols=True, **{"target" if isinstance(kind, Target) else "score": kind})
    block = random_block(spec, 67, 133, 1 if spec.biased else 3, True, True)
    scores = cuda_host.memory_for_scores(len(block.operands), 67, 133, layout)
    block.scores = scores
    host.stats(block)
    apart = host.score_grad(block, all_of(spec)).grad
    halves = [(torch.float16, 2.0**k) for k in (-9, 12, 40)]  # subnormal, ordinary and infinite numbers
    for dtype, factor in [(torch.float32, None), (torch.bfloat16, None), *halves]:
        room = torch.full((scores.numel() + 33,), 7.0, dtype=dtype)
        first = 16 + (layout == 2)
        target = room[first : first + scores.numel()].view_as(scores)
        if dtype == torch.float32:
            target.copy_(scores)
        x = describe(host.module, replace(block, scores=target) if dtype == torch.float32 else block)
        x.row, x.col = (weighted_side(host.module, side, True, None, None) for side in (block.row, block.col))
        scaled = None if factor is None else torch.tensor(factor)
        set_grad(x, target, scaled)
        padding = target[:, :, 133:].clone()
        host.module.score_grad(x)
        assert torch.equal(target[:, :, :133], (apart * (factor or 1.0)).to(dtype))
        assert torch.equal(target[:, :, 133:].nan_to_num(1.0), padding.nan_to_num(1.0))
        assert (room[:first] == 7).all() and (room[first + scores.numel() :] == 7).all()


# ---- the backend behind the engine, against the float64 oracle


@pytest.mark.parametrize("reduce", ["lse", "softplus", "relu", "max"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
@pytest.mark.parametrize("turn", by_default(range(2 * len(POSITIVES)), 0))
def test_engine_with_every_keep_and_positives(installed, dtype, reduce, turn):
    others = list(itertools.product(POSITIVES, (False, True)))
    for keep, (positives, keep_positives) in in_turn(KEEPS, others, turn):
        options = {"reduce": reduce, "keep": keep, "cols": True, "keep_positives": keep_positives}
        options |= {} if reduce == "max" else {"positives": positives}
        for blocks in (1, 2) if dtype == torch.float32 else (1 + keep_positives,):  # one: pair_loss does all at once
            check(make_call(37, 53, 19, dtype, *EXTRAS, blocks=blocks, **options), backend="cuda")


@pytest.mark.parametrize("reduce", ["lse", "softplus", "relu", "max"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
def test_engine_ragged_and_empty_shapes(installed, dtype, reduce):
    options = {"reduce": reduce, "cols": True} | ({} if reduce == "max" else {"positives": "same_index"})
    for shape in [(0, 5, 4), (5, 0, 4), (0, 0, 0), (1, 1, 0), (1, 7, 3), (65, 63, 2), (97, 131, 7), (131, 300, 33)]:
        for extras in ((), EXTRAS):
            check(make_call(*shape, dtype, *extras, **options), backend="cuda")


@pytest.mark.parametrize("budget", [0, 30_000, 1 << 30])
@pytest.mark.parametrize("m", [210, None])
@pytest.mark.parametrize("turn", by_default(range(4), 0))
def test_engine_in_many_pieces(installed, pieces, m, budget, turn):
    """Square calls, chunks of rows, split columns, scores saved for all, some or no blocks."""
    for keep, (cols, dtype) in in_turn(KEEPS, list(itertools.product((False, True), DTYPES[:2])), turn):
        call = make_call(150, m, 6, dtype, *EXTRAS[:4], keep=keep, positives="same_id", cols=cols)
        check(call, backend="cuda", memory_budget=budget)


@pytest.mark.parametrize("tiles, offset", [(1, True), (1, False), (2, True), (3, False), (4, True)])
@pytest.mark.parametrize("score", distances.SCORES)
def test_engine_with_every_score(installed, score, tiles, offset):
    for dtype, (n, m, d) in itertools.product(DTYPES, ((1, 9, 1), (13, 33, 5), (37, 300, 16))):
        problem = distances.problem(n, m, d, tiles, dtype, offset)
        distances.check(problem, score, offset, backend="cuda")


@pytest.mark.parametrize("card, dtype", each_once(PAIR_LOSSES, DTYPES), ids=id_of)
def test_losses_of_the_catalog(installed, card, dtype):
    for n, d in ((5, 17), (70, 12)):
        found = check_card(card, "cuda", dtype, n, d)
        assert found.ok, found.detail


def test_kept_scores_serve_a_second_backward_pass(installed):
    """Score gradients may overwrite only scores that nobody kept."""
    a, b = torch.randn(40, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    value = row_lse(a, b, backend="cuda", memory_budget=10**6).sum()
    first = torch.autograd.grad(value, (a, b), retain_graph=True)
    again = torch.autograd.grad(value, (a, b))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_the_executor_is_what_ran(installed, monkeypatch):
    calls = []
    run = installed.module.stats
    monkeypatch.setattr(installed.module, "stats", lambda x: (calls.append(x.n), run(x)))
    pair_reduce(torch.ones(3, 2), torch.ones(4, 2), backend="cuda")
    assert calls == [3]


@pytest.mark.parametrize("keep, m", [("all", 210), ("other_index", None)])
def test_small_calls_are_done_at_once(installed, monkeypatch, keep, m):
    """To within rounding like the steps apart, which begin beyond the limit."""
    call = make_call(
        150, m, 6, torch.float32, *EXTRAS[: 7 if m else 4], keep=keep, positives="same_id", cols=m is not None
    )
    ran, run = [], installed.module.small_call
    struct, _ = struct_of(installed.module, "Block")

    def recorded(x):
        block = struct.from_buffer_copy(x)
        ran.append((block.n, block.m))
        run(x)

    monkeypatch.setattr(installed.module, "small_call", recorded)
    found = []
    for limit in (150 * (m or 150), 150 * (m or 150) - 1):
        monkeypatch.setattr(base, "SMALL_PAIRS", limit)
        found.append(engine_loss(call, upstream(call), backend="cuda"))
    assert ran == [(150, m or 150)]
    for name, x in (found[0].values | found[0].grads).items():
        torch.testing.assert_close(x, (found[1].values | found[1].grads)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", launches.LOSSES)
def test_small_batches_take_no_more_launches_than_eager_code(installed, monkeypatch, name):
    """One crossing launches all kernels: statistics of rows (and columns, and the strips of columns joined), finish,
    score gradients, their sums by row."""
    counter, run = launches.Launches(), installed.module.small_call
    monkeypatch.setattr(installed.module, "small_call", lambda x: counter.kernel("small_call", run, x))
    before = installed.launched()
    found = launches.count(launches.LOSSES[name], counter, rows=150, backend="cuda")
    kernels = installed.launched() - before
    eager = launches.count(launches.EAGER[name], launches.Launches())
    assert found.count("small_call") == 1
    assert len(found) - 1 + kernels == launches.documented(name, "cuda"), (found, kernels)
    # of nt_xent eight make what is the same in all calls: recorded ones do without
    assert len(found) - 1 + kernels <= len(eager) + 8 * (name == "nt_xent"), (found, kernels, eager)


@pytest.mark.parametrize("n, m, whole", [(4096, 4096, True), (4096, 4097, False), (1 << 22, 4, False), (0, 5, False)])
def test_what_is_done_at_once(n, m, whole):
    """Not a few columns against millions of rows, whose strips no grid has room for."""
    a, b = (torch.empty(k, 1, device="meta") for k in (n, m))
    args = record.Arguments(a, [b], torch.ones(()))
    assert base.fits_at_once(args, [1.0, None, None, None], base.SmallExtras()) == whole
    assert base.SMALL_ITEMS // 64 < cuda_host.LARGEST_GRID


@pytest.mark.parametrize("name", launches.LOSSES)
def test_launches_of_the_torch_backend_are_as_documented(name):
    found = launches.count(launches.LOSSES[name], launches.Launches(), backend="torch")
    assert len(found) == launches.documented(name, "torch"), found


# ---- a kernel with an error


def check_everything(reduce: str, **options: object) -> None:
    CACHES.clear()  # of another backend
    if reduce != "max":
        options = {"positives": "same_index"} | options
    for extras in ((), EXTRAS):
        call = make_call(70, 140, 5, torch.float32, *extras, reduce=reduce, cols=True, **options)
        check(call, backend="cuda")


FUNCTORS, RULES, PAIR, PARTIAL = "common/functors.h", "common/rules.h", "cuda/pair.h", "cuda/partial_stats.h"
STATS, SCORE_GRAD, SMALL_CALL = "cuda/stats.cu", "cuda/score_grad.cu", "cuda/small_call.cu"
FINISH = "common/finish.h"
MUTANTS = {
    "softplus": (FUNCTORS, "vmax(z, V{}) + log1p_unit", "vmax(z, V{}) - log1p_unit", {"reduce": "softplus"}),
    "softplus slope": (FUNCTORS, "vreciprocal(e + 1.f)", "vreciprocal(e + 2.f)", {"reduce": "softplus"}),
    "relu": (FUNCTORS, "return vmax(V{}, z);", "return z;", {"reduce": "relu"}),
    "relu slope": (FUNCTORS, "V{} + 1.f, vselect_positive(-z, V{}, z)", "V{} + 1.f, V{} + 1.f", {"reduce": "relu"}),
    "lse slope": (FUNCTORS, "vexp((z - peak) - log_total)", "vexp(z - peak)", {"reduce": "lse"}),
    "diagonal": (RULES, "(diagonal + rows <= 0", "(diagonal <= 0", {"reduce": "lse"}),
    "mask": (PAIR, "x.mask[i * x.mask_stride + j]", "x.mask[i * x.mask_stride]", {"reduce": "lse"}),
    "strip": (STATS, "first = at.y * TILE_ROWS", "first = at.x * TILE_ROWS", {"reduce": "max"}),
    "merge": (STATS, "k < count; k += heads", "k + heads < count; k += heads", {"reduce": "softplus"}),
    "side": (STATS, "pair, x.col, j + c", "pair, x.row, i", {"reduce": "lse"}),
    "row sum": (SCORE_GRAD, "sum(s.row[k][r], LANES, 1)", "sum(s.row[k][r], LANES - 1, 1)", {"reduce": "lse"}),
    "finish": (FINISH, "2 * i + 1] = second", "2 * i + 1] = -second", {"reduce": "lse"}),
    "loss": (FINISH, "(double)positive_weight * side.positive[i]", "(double)positive_weight", {"reduce": "relu"}),
    "join": (SMALL_CALL, "k < count; k += heads", "k + heads < count; k += heads", {"reduce": "softplus"}),
    "workspace": (FINISH, "weight, take<float>(at, 2 * count)", "weight, take<float>(at, count)", {"reduce": "lse"}),
    "positives apart": (
        FINISH,
        "(double)to.positive_stat[2 * i] + to",
        "(double)to.positive_stat[2 * i] - to",
        {"reduce": "lse", "positives": "same_id"},
    ),
    "their slopes": (
        FINISH,
        "2 * i] = side.positive_peak[i]",
        "2 * i] = 0.f",
        {"reduce": "lse", "positives": "same_id"},
    ),
}


ONE_OF_EACH_FILE = ("lse slope", "mask", "strip", "row sum", "join", "positives apart")


@pytest.mark.parametrize("name", by_default(MUTANTS, *ONE_OF_EACH_FILE))
def test_an_error_in_a_kernel_is_seen(name, host, host_folder, tmp_path, monkeypatch):
    *edit, options = MUTANTS[name]
    monkeypatch.setattr(backends, "BACKENDS", (host,))
    check_everything(**options)
    mutant = cuda_host.mutated(tuple(edit), host_folder, tmp_path)
    monkeypatch.setattr(backends, "BACKENDS", (mutant,))
    with pytest.raises(AssertionError, match=r"times the budget|not finite|for tensor"):
        check_everything(**options)


SPLIT_MUTANTS = {  # and the blocks in which it is seen
    "others": (PAIR, "!(x.split && mark.positive) && ", "", "ids"),
    "dropped positives": (PAIR, "mark.positive && !dropped(x, z, mark, side, k)", "mark.positive", "some are dropped"),
    "marks": (PAIR, "x.split && rule.positive ? rule.drop_from_positives : rule.drop", "rule.drop", "ids"),
    "slope": (SCORE_GRAD, "return side.positive_stat_weight[k] *", "return", "ids"),
    "columns' slopes": (SCORE_GRAD, "positive_grad<R>(x, x.col, col, of_col, pair.mark, share, j)", "0.f", "ids"),
    "positives": (PARTIAL, "apart.add(p.z);", "", "index"),
    "their join": (PARTIAL, "apart.merge(y.apart);", "", "index"),
    "their count": (PARTIAL, "++kept_positives;", "", "index"),
    "count of pairs": (
        PARTIAL, "kept += in_statistic(x, p.z, p.mark, side, k)", "kept += !p.mark.drop", "counts of sums"
    ),
    "count of positives": (PARTIAL, "positives += p.mark.positive", "positives += !p.mark.drop", "counts"),
    "strips": (PARTIAL, "visit(kept, p.counts.kept)", "visit(kept, p.counts.positives)", "counts"),
    "partner": (PAIR, "found |= x.partner[k] == x.col_origin + j", "found |= x.partner[k] == j", "partners"),
    "rows' scale": (PAIR, "row.scale, x.own_scales ? 1.f : col.scale", "row.scale, col.scale", "own scales"),
    "columns' scale": (PAIR, "affine(x.own_scales ? 1.f : row.scale", "affine(row.scale", "own scales"),
    "columns' z": (SCORE_GRAD, "pair.z = of_col;", "", "own scales"),
    "sum of the rows' scale": (SCORE_GRAD, "(x.own_scales ? 1.f : col.scale)", "col.scale", "own scales"),
    "sum of the columns' scale": (SCORE_GRAD, "x.own_scales ? times_s(other) :", "", "own scales"),
    "products of own scales": (SCORE_GRAD, "+ other * col.scale :", ":", "own scales"),
    "columns' positives": (SCORE_GRAD, "x.col, col, of_col, ", "x.col, col, of_row, ", "own scales, sums"),
    "shares add up": (PAIR, "found += x.share[k]", "found = x.share[k]", "partners"),
    "slopes' share": (SCORE_GRAD, "share = share_of(x, i, j)", "share = 1.f", "partners"),
}  # fmt: skip


@pytest.mark.parametrize("name", by_default(SPLIT_MUTANTS, "count of pairs", "shares add up"))
def test_an_error_with_positives_apart_or_counts_is_seen(name, host, host_folder, tmp_path):
    *edit, kind = SPLIT_MUTANTS[name]
    block = apart(kind)
    agree(numbers(host, block), block)
    found = numbers(cuda_host.mutated(tuple(edit), host_folder, tmp_path), block)
    with pytest.raises(AssertionError, match=r"^(row|col|grad)(\b|_)"):
        agree(found, block)
