"""Second operands in the cuda backend's kernels, on the host: tiles against tiles in torch, the engine against the
dense oracle, and kernels with an error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("pybind11", reason="the build requirements are not installed")

from contrastile import driver
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.spec import NO_TEST, Limits, Needs, PairBlock, PairSpec, PairTest, Reduce, Score, Target
from support import cuda_host, targets
from support.blocks import SECOND, agree, all_of, apart, close, nan_in, numbers, random_block, statistics
from support.combinations import by_default, each_once
from support.targets import check, problem

pytestmark = pytest.mark.skipif(cuda_host.compiler() is None, reason="needs g++ on Linux")

KINDS = ("softmax", "affine", "gated")
each_kind = pytest.mark.parametrize("kind", KINDS)
SHAPES = [(1, 1), (7, 5), (65, 131), (130, 257), (3, 1030), (129, 3)]  # edges of quads, lanes and tiles
RULES = [test for test in PairTest if test != PairTest.KEPT]


def wide(name: str) -> PairBlock:
    """More than one strip of rows and of columns."""
    spec, extras, *_ = SECOND[name]
    return random_block(spec, 67, 131, 1, extras, both=spec.cols)


# ---- tiles


@pytest.mark.parametrize("name", SECOND)
def test_tiles(host, monkeypatch, name):
    """Score gradients beside the scores and in their place, in any order of threads."""
    for layout, block in enumerate((apart(name), wide(name), wide(name))):
        cuda_host.check_tiles(host, monkeypatch, block, layout)


@pytest.mark.parametrize(
    "keep, target", each_once(RULES, (Target.SOFTMAX, Target.AFFINE)), ids=lambda x: x.name.lower()
)
def test_rules_and_shapes(host, monkeypatch, keep, target):
    for index, shape in enumerate(SHAPES):
        spec = PairSpec(keep=keep, cols=index % 2 == 0, counts=index > 2, target=target)
        block = random_block(spec, *shape, 1, extras=index % 3 == 0, both=spec.cols)
        cuda_host.check_tiles(host, monkeypatch, block, index % 3)


@each_kind
def test_frozen_operands_have_no_plane(host, kind):
    """The others' score gradients are the same, bit for bit."""
    block = wide(kind)
    trained = host.score_grad(block, all_of(block.spec))
    frozen = host.score_grad(block, Needs(True, [True], row_scale=True))
    assert len(frozen.grad) == 1 and len(trained.grad) == 2 and frozen.second_scale is None
    assert torch.equal(frozen.grad[0], trained.grad[0]) and torch.equal(frozen.row_scale, trained.row_scale)


@pytest.mark.parametrize("side", ["row", "col"])
def test_the_target_of_one_side(host, side):
    block = wide("softmax")
    getattr(block, side).mean_weight = None
    agree(numbers(host, block), block)


def test_a_target_without_the_mean_of_its_logits(host):
    block = wide("softmax")
    block.row.logit_weight = block.col.logit_weight = None
    agree(numbers(host, block), block)


def test_equal_probabilities_cancel(host):
    """To exactly 0, each side by itself: what is left of a converged student's gradients is not rounding."""
    block = random_block(PairSpec(cols=True, target=Target.SOFTMAX), 67, 131, 1, extras=False, both=True)
    for side in (block.row, block.col):
        side.second, side.bias = side.features.view(-1, side.features.shape[-1]), None
        side.mean_weight, side.target_stat = -side.weight, side.stat
    block.row.second_scale = None
    grad, _ = host.score_grad(block, all_of(block.spec)).grad
    assert grad.count_nonzero() == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", SECOND)
def test_nan_and_infinity_pass_as_in_torch(host, name, value):
    """With rules or a gate statistics alone: a pair whose slope is 0 adds 0 to gradients, in torch NaN where its score
    is not finite."""
    block = nan_in(wide(name), value)
    partial = block.mask is not None or block.spec.keep or block.spec.score == Score.GATED
    seen = statistics if partial else numbers
    close(seen(host, block), seen(TorchBackend(), block))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["softmax", "affine", "gated"])
def test_a_dropped_pair_adds_nothing_whatever_its_products(host, kind, value):
    """A row and a column that no side keeps, of which neither operand is finite."""
    spec = replace(SECOND[kind][0], positives=NO_TEST)
    block = random_block(spec, 70, 133, 1, extras=False, both=True)
    block.mask = torch.ones(70, 133, dtype=torch.bool)
    block.mask[5], block.mask[:, 9] = False, False
    truth = numbers(host, block)
    for side, item in ((block.row, 5), (block.col, 9)):
        side.features[..., item, :], side.second[item] = value, value
    for name, x in numbers(host, block).items():
        assert torch.equal(x, truth[name]), name


# ---- the backend behind the engine, against the float64 oracle


@each_kind
@pytest.mark.parametrize(
    "sizes", [(7, 11, 5, 3), (1, 1, 1, 1), (9, 1, 2, 4), (61, 140, 16, 33), (13, 300, 8, 8)], ids=str
)
def test_values_and_gradients(installed, kind, sizes):
    check(problem(*sizes, map=kind, by_row=sizes[0] == 7), backend="cuda")


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda x: str(x).removeprefix("torch."))
def test_halves(installed, kind, dtype):
    check(problem(24, 140, 16, 8, map=kind), dtype, backend="cuda")


@each_kind
@pytest.mark.parametrize("budget", [0, 40_000, 1 << 30])
def test_many_pieces(installed, monkeypatch, kind, budget):
    """Chunks of rows, split columns, scores saved for all, some or no blocks."""
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 72 * 96, 72, 72, 32))
    check(problem(100, 210, 8, 5, map=kind, by_row=True), blocks=2, memory_budget=budget, backend="cuda")


@pytest.mark.parametrize("kind", ["softmax", "affine"])
def test_shares_rules_and_thresholds(installed, kind):
    n, m = 12, 17
    ids = torch.arange(m) % 5
    low = torch.linspace(-6.0, 2.0, n)
    options = {"keep": "other_id", "row_ids": ids[:n], "col_ids": ids, "row_low": low}
    rules = {"keep": ids[:n, None] != ids, "low": low.double(), "options": tuple(options.items())}
    check(problem(n, m, 8, 5, map=kind, share=0.4, **rules), backend="cuda")


@each_kind
def test_rows_and_columns_that_keep_nothing(installed, kind):
    keep = torch.ones(5, 6, dtype=torch.bool)
    keep[2], keep[:, 4] = False, False
    check(problem(5, 6, 4, 3, map=kind, keep=keep, options=(("mask", keep),)), backend="cuda")


@pytest.mark.parametrize("reduce", ["softplus", "relu"])
def test_gated_sums(host, monkeypatch, reduce):
    """A pair whose gate is 0 has score 0."""
    spec = PairSpec(Reduce[reduce.upper()], positives=PairTest.SAME_INDEX, cols=True, score=Score.GATED)
    block = random_block(spec, 65, 131, 1, True, True)
    found = numbers(host, block)
    agree(found, block)
    assert found["grad"][:, 32].count_nonzero() == 0  # the row without a gate


def test_kept_scores_serve_a_second_backward_pass(installed):
    """Score gradients may overwrite only products that nobody kept."""
    p = problem(40, 50, 8, 5).to(torch.float32)
    value = sum(x.sum() for x in targets.engine(p, backend="cuda", memory_budget=10**6).values())
    leaves = list(p.leaves().values())
    first, again = (torch.autograd.grad(value, leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


# ---- a kernel with an error


FUNCTORS = "common/functors.h"
PAIR, PARTIAL, STATS, SCORE_GRAD = "cuda/pair.h", "cuda/partial_stats.h", "cuda/stats.cu", "cuda/score_grad.cu"
MUTANTS = {  # and the blocks in which it is seen
    "gate": (PAIR, "1.f / vsqrt(gate.v[c])", "1.f / gate.v[c]", "gated"),
    "no gate": (PAIR, "gate.v[c] <= x.floor ? 0.f : ", "", "gated"),
    "scale of logits": (PAIR, "x.second_scale ? x.second_scale[i] : 1.f", "1.f", "softmax"),
    "bias of logits": (PAIR, "x.second_bias ? x.second_bias[i] : 0.f", "0.f", "affine"),
    "product": (STATS, "t = dots(x, x.directions,", "t = dots(x, 0,", "affine"),
    "softmax": (PARTIAL, "affine ? t : vexp(t - base)", "vexp(t - base)", "affine"),
    "total": (PARTIAL, "total += w;", "total += 1.f;", "affine"),
    "mean of z": (PARTIAL, "of_z += w * (z", "of_z += w * (t", "softmax"),
    "mean of t": (PARTIAL, "of_t += w * (t", "of_t += w * (z", "softmax"),
    "z above its peak": (PARTIAL, "(z - finite_part(rise.to))", "z", "softmax"),
    "affine z above its peak": (PARTIAL, "(z - finite_part(rise.to))", "z", "affine"),
    "t above its peak": (PARTIAL, "of_t += w * (t - base)", "of_t += w * t", "softmax"),
    "moved sum of z": (PARTIAL, "of_z += total * z.by();", "", "softmax"),
    "moved sum of t": (PARTIAL, "of_t += total * Rise{peak, top}.by();", "", "softmax"),
    "moved affine sum": (PARTIAL, "of_z += total * z.by();", "", "affine"),
    "moved from nothing": (PARTIAL, "from == -INFINITY ? 0.f : ", "", "affine"),
    "rescaled total": (PARTIAL, "    total *= factor;", "", "softmax"),
    "rescaled sum of z": (PARTIAL, "of_z *= factor;", "", "softmax"),
    "rescaled sum of t": (PARTIAL, "of_t *= factor;", "", "softmax"),
    "moved where joined": (PARTIAL, "    raise(own, top);", "raise(Rise{0.f, 0.f}, top);", "affine"),
    "moved where joined, the other": (PARTIAL, "y.raise(other, top);", "y.raise(Rise{0.f, 0.f}, top);", "softmax"),
    "joined means": (PARTIAL, "of_z += y.of_z;", "", "affine"),
    "dropped pairs": (PARTIAL, "if (in_statistic(x, p.z, p.mark, side, k)) target", "target", "softmax, all rules"),
    "counts": (PARTIAL, "counts.add(x, p, side, k);\n    if (in", "if (in", "softmax, all rules"),
    "strips": (PARTIAL, "visit(target_z, p.target.of_z)", "visit(target_z, p.target.of_t)", "softmax"),
    "affine weight": (SCORE_GRAD, "it.weight * p + mean * q", "it.weight * p + q", "affine"),
    "difference": (SCORE_GRAD, "it.weight * (p - q)", "it.weight * p", "softmax"),
    "rest": (SCORE_GRAD, "(it.weight + mean) * q", "mean * q", "softmax"),
    "peak": (FUNCTORS, "(t - peak) - log_total", "t - log_total", "softmax"),
    "log total": (FUNCTORS, "(t - peak) - log_total", "t - peak", "softmax"),
    "slope of t": (FUNCTORS, "return mean * z + offset", "return offset", "affine"),
    "softmax slope of t": (FUNCTORS, "return q * (mean * z + logit", "return q * (logit", "softmax"),
    "softmax slope": (FUNCTORS, "return q * (mean", "return (mean", "softmax"),
    "peak of z": (SCORE_GRAD, "pair.z - it.peak", "pair.z", "affine"),
    "peak of t": (SCORE_GRAD, "pair.t - target.peak", "pair.t", "softmax"),
    "slope of the logits": (SCORE_GRAD, "side.logit_weight ? side.logit_weight[k] : 0.f", "0.f", "softmax"),
    "offset": (SCORE_GRAD, "logit, side.mean_offset[k]", "logit, 0.f", "affine"),
    "kind": (SCORE_GRAD, "x.target == Target::kAffine", "false", "affine"),
    "sides' dropped pairs": (SCORE_GRAD, "kept && side.mean_weight", "side.mean_weight", "softmax, all rules"),
    "columns' side": (SCORE_GRAD, "x.col, col, col_target", "x.col, col, row_target", "softmax"),
    "columns' target": (SCORE_GRAD, "cols.target[TARGET ? c : 0]", "cols.target[0]", "affine"),
    "scale of the product": (SCORE_GRAD, "of_t * logits.scale", "of_t", "softmax"),
    "gradient of the scale": (SCORE_GRAD, "of_t * u.v[c]", "of_t * pair.t", "affine"),
    "slope of the gate": (SCORE_GRAD, "-0.5f * of_dot", "0.5f * of_dot", "gated"),
    "score in it": (SCORE_GRAD, "* score.s.v[c] * score.slope.v[c];", "* score.slope.v[c];", "gated"),
    "bias of gated scores": (SCORE_GRAD, "DOT || !function ? both", "DOT ? both", "gated"),
}  # fmt: skip


@pytest.mark.parametrize("name", by_default(MUTANTS, "moved sum of z", "difference"))
def test_an_error_in_a_kernel_is_seen(name, host, host_folder, tmp_path):
    *edit, kind = MUTANTS[name]
    block = wide(kind)
    agree(numbers(host, block), block)
    found = numbers(cuda_host.mutated(tuple(edit), host_folder, tmp_path), block)
    with pytest.raises(AssertionError, match=r"^(row|col|grad|second)"):
        agree(found, block)
