"""One error in a rule or a coefficient of the torch and cpu backends is seen by the oracle. tests/test_cuda_host.py,
test_cuda_second.py and interpreted_tiles.py do the same for the kernels of GPUs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from contrastile import backends
from contrastile.backends import cpu, torch_pairs, torch_rules
from support import distances, targets
from support.cases import EXTRAS, make_call
from support.combinations import by_default
from support.cuda_host import compiler, edited, execute, includes, loaded
from support.oracle import Call, check

ROOT = Path(__file__).resolve().parents[1]
FAULT = r"times the budget|not finite|for tensor|^(row|col)_"
CALLS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "index": ((), {"keep": "other_index", "positives": "same_index"}),
    "ids": ((), {"keep": "other_id", "positives": "same_id"}),
    "groups": ((), {"keep": "other_group", "positives": "same_group"}),
    "labels": ((), {"keep": "no_shared_label", "positives": "shared_label"}),
    "order": ((), {"keep": "lower_order"}),
    "partners": ((), {"keep": "no_partner", "positives": "partner"}),
    "limits": (EXTRAS, {"positives": "same_id", "keep_positives": True}),
    "apart": (EXTRAS[4:], {"positives": "same_id", "split": True, "counts": True}),
    "one apart": ((), {"positives": "same_index"}),
    "own scales": (EXTRAS[:2], {"keep": "other_index", "positives": "same_id", "own_scales": True}),
    "own scales, near": (EXTRAS[1:2], {"keep": "other_index", "own_scales": True}),  # one base would serve a tile
    "own scales, sums": (EXTRAS[:2], {"reduce": "softplus", "positives": "same_id", "own_scales": True}),
    "own scales, limits": (EXTRAS, {"positives": "same_id", "own_scales": True, "counts": True}),
}


def problem(name: str) -> Call:
    extras, options = CALLS[name]
    blocks = 1 if name == "one apart" else 2  # a small call is one block
    return make_call(21, 43, 6, torch.float32, *extras, blocks=blocks, cols=True, **options)


TORCH: dict[str, tuple[str, str, str]] = {
    "index": ("z.diagonal(self.shift).fill_(-torch.inf)", "pass", "index"),
    "shift": ("self.shift = block.row.origin - block.col.origin", "self.shift = 0", "index"),
    "ids": ("equal(row.ids, col.ids)", "equal(row.ids, col.ids).T.reshape(len(row), -1)", "ids"),
    "groups": ("equal(row.groups, col.groups)", "equal(row.ids, col.ids)", "groups"),
    "labels": ("none |= (x[:, None] & y) != 0", "none = (x[:, None] & y) != 0", "labels"),
    "order": ("col.order < row.order[:, None]", "col.order <= row.order[:, None]", "order"),
    "partners": ("place = row.partner - col.origin", "place = row.partner", "partners"),
    "shares": ("terms * self.share", "terms", "partners"),
    "slopes of shares": ("weight * self.share", "weight", "partners"),
    "low": ("self.z <= side.low", "self.z < -side.low", "limits"),
    "high": ("self.z > side.high", "self.z > -side.high", "limits"),
    "kept positives": ("outside &= ~self.positive", "pass", "limits"),
    "mask": ("~block.mask if drop is None", "None if drop is None", "limits"),
    "others": ("self.drop, self.drop_from_positives = joined(self.drop, self.positive),",
               "self.drop, self.drop_from_positives = self.drop,", "apart"),
    "counts": ("whole - drop.sum(dim)", "whole", "apart"),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_an_error_in_plain_torch_is_seen(name, monkeypatch):
    old, new, call = TORCH[name]
    check(problem(call), backend="torch")
    source = Path(torch_rules.__file__).read_text()
    assert old in source
    mutant = ModuleType(torch_rules.__name__)
    mutant.__package__ = torch_rules.__package__
    exec(compile(source.replace(old, new), name, "exec"), mutant.__dict__)
    monkeypatch.setattr(torch_pairs, "rules_of", mutant.rules_of)
    with pytest.raises(AssertionError, match=FAULT):
        check(problem(call), backend="torch")


SHARED, OF_PAIRS, STATS = "common/rules.h", "cpu/rules.inc", "cpu/stats.inc"
SCORE_GRAD, ENTROPY = "cpu/score_grad.inc", "common/cross_entropy.h"
NATIVE: dict[str, tuple[str, str, str, str]] = {
    "index": (OF_PAIRS, "lanes() == (int32_t)diagonal", "lanes() == 0", "index"),
    "ids": (OF_PAIRS, "equal(x.row_ids, c.ids, i, j)", "equal(x.row_ids, c.ids, 0, j)", "ids"),
    "groups": (OF_PAIRS, "equal(x.row_groups, c.groups, i, j)", "IVec{}", "groups"),
    "labels": (OF_PAIRS, "both |= words", "both = words", "labels"),
    "order": (OF_PAIRS, "words(cols + j) < row[i]", "words(cols + j) <= row[i]", "order"),
    "partners": (OF_PAIRS, "x.partner[i * x.partners + k] - x.col_origin", "x.partner[i * x.partners + k]", "partners"),
    "partners of a tile": (SHARED, "k < (i + rows) * x.partners", "k < i * x.partners + 1", "partners"),
    "shares": (STATS, "F::positive_term(z) * share", "F::positive_term(z)", "partners"),
    "slopes of shares": (SCORE_GRAD, "vselect(rule.positive, shares(x, i, column), Vec{})", "splat(1.f)", "partners"),
    "low": (OF_PAIRS, "(z <= limits.low)", "(z <= -limits.low)", "limits"),
    "high": (OF_PAIRS, "(z > limits.high)", "(z > -limits.high)", "limits"),
    "kept positives": (OF_PAIRS, "x.keep_positives ? beyond & ~r.positive : beyond", "beyond", "limits"),
    "mask": (OF_PAIRS, "x.mask + i * x.mask_stride + j", "x.mask + j", "limits"),
    "others": (SHARED, "B(drop | positive)", "drop", "apart"),
    "positives": (OF_PAIRS, "outside(x, z, r, limits) | r.drop_from_positives", "r.drop_from_positives", "apart"),
    "columns' positives": (STATS, "same ? zr_positive : zc_positive", "zr_positive", "apart"),
    "their slopes": (SCORE_GRAD, "return splat(x.row.positive_stat_weight[i]) *", "return splat(1.f) *", "apart"),
    "their columns' slopes": (SCORE_GRAD, "load(c.positive_stat_weight + j) *", "load(c.weight + j) *", "apart"),
    "counts": (STATS, "row.kept -= ~(beyond | rule.drop)", "row.kept -= ~rule.drop", "apart"),
    "columns' counts": (STATS, "count_columns(part.kept, t.j + j, ~(beyond_column | rule.drop))", "", "apart"),
    "rows' scale": (OF_PAIRS, "c.scale && !x.own_scales", "c.scale", "own scales"),
    "columns' scale": (OF_PAIRS, "s * load(c.scale + j)", "s", "own scales"),
    "columns' z": (STATS, "!two_logits(x) && (t.plain", "(t.plain", "own scales"),
    "columns' z apart": (STATS, "(limited(x) || x.own_scales)", "limited(x)", "own scales"),
    "columns' limits": (
        STATS, "outside(x, of_col, rule, col_limits", "outside(x, z, rule, col_limits", "own scales, limits"
    ),
    "columns' terms": (STATS, "+ positives(of_col))", "+ positives(z))", "own scales"),
    "one base": (SCORE_GRAD, "if (two_logits(x)) return false;", "", "own scales, near"),
    "rows' slopes": (SCORE_GRAD, "g * x.row_scale[i] + g_col *", "(g + g_col) * x.row_scale[i] + 0.f *", "own scales"),
    "sum of the rows' scale": (SCORE_GRAD, "sum += times_s(g);", "sum += times_s(g + g_col);", "own scales"),
    "sum of the columns' scale": (SCORE_GRAD, "+ times_s(g_col))", "+ times_s(g + g_col))", "own scales"),
    "columns' positives' slopes": (SCORE_GRAD, "F::positive_slope(of_col)", "F::positive_slope(z)", "own scales, sums"),
    "one positive": (ENTROPY, "(double)positive_weight + weight - of_others", "(double)positive_weight", "one apart"),
    "its others": (ENTROPY, "weight == 0.f ? 0.0 : weight * share, rest", "weight, rest", "one apart"),
}  # fmt: skip


TARGETS, FUNCTORS, SCORES, COLUMNS = "cpu/targets.inc", "common/functors.h", "cpu/scores.inc", "cpu/columns.inc"
SECOND: dict[str, tuple[str, str, str, str]] = {
    "peak": (TARGETS, "to.target_peak[k] = top", "to.target_peak[k] = base + 1.f", "softmax"),
    "total": (TARGETS, "own.total * of_own + other.total", "own.total + other.total", "softmax"),
    "sum of z": (TARGETS, "moved(own.z_peak, z_peak)) * of_own", "moved(own.z_peak, z_peak))", "softmax"),
    "moved sum of z": (TARGETS, "own.z + own.total * moved(own.z_peak, z_peak)", "own.z", "softmax"),
    "moved sum of t": (TARGETS, "own.t + own.total * moved(own.peak, top)", "own.t", "softmax"),
    "columns' sums": (TARGETS, "(load(to) + old_total * by) * rescale + sum", "load(to) * rescale + sum", "softmax"),
    "columns' total": (TARGETS, "old_total * rescale + total", "old_total + total", "softmax"),
    "columns' peak": (TARGETS, "store(part.target_peak + column, peak)", "", "softmax"),
    "weights": (TARGETS, "x.row.weights[i] += hsum(total)", "x.row.weights[i] = hsum(total)", "affine"),
    "weighted": (TARGETS, "x.row.weights[i] * moved(before, z_top) + hsum(of_z)", "hsum(of_z)", "affine"),
    "columns' weighted": (TARGETS, "+ load(weights) * z_moved + of_z", "+ of_z", "affine"),
    "columns' weights": (TARGETS, "out.weights[j] += part.weights[j]", "", "affine"),
    "scale": (TARGETS, "x.second_scale ? u * x.second_scale[i] : u", "u", "softmax"),
    "bias": (TARGETS, "x.second_bias ? t + x.second_bias[i] : t", "t", "affine"),
    "dropped": (TARGETS, "vselect(dropped, splat(MASKED), t)", "t", "dropped"),
    "dropped slopes": (TARGETS, "vselect(dropped, Vec{}, PairWeight<T>::weight(t, side.peak, side.log_total))",
                       "PairWeight<T>::weight(t, side.peak, side.log_total)", "dropped"),
    "dropped by columns": (SCORE_GRAD, "of_col, kept, logit", "of_col, of_col, logit", "limits"),
    "q": (FUNCTORS, "vexp((t - peak) - log_total); }\n  template <class V> CT_HD static V slope(V q",
          "vexp(t - peak); }\n  template <class V> CT_HD static V slope(V q", "softmax"),
    "q in dz": (TARGETS, "weight * (p - q) + (weight + side.mean) * q", "weight * p", "softmax"),
    "rest of q in dz": (TARGETS, "weight * (p - q) + (weight + side.mean) * q", "weight * (p - q)", "softmax"),
    "weights in dz": (TARGETS, "weight * p + side.mean * q", "weight * p", "affine"),
    "peak of z in dt": (TARGETS, "z - side.z_peak", "z", "softmax"),
    "z in dt": (FUNCTORS, "q * (mean * z + logit * t + offset)", "q * (logit * t + offset)", "softmax"),
    "t in dt": (FUNCTORS, "q * (mean * z + logit * t + offset)", "q * (mean * z + offset)", "softmax"),
    "offset in dt": (FUNCTORS, "q * (mean * z + logit * t + offset)", "q * (mean * z + logit * t)", "softmax"),
    "z in affine dt": (FUNCTORS, "return mean * z + offset", "return offset", "affine"),
    "offset in affine dt": (FUNCTORS, "return mean * z + offset", "return mean * z", "affine"),
    "columns' dt": (TARGETS, "some(c.logit_weight)", "Vec{}", "softmax"),
    "columns' q": (COLUMNS, "unzip(at, x.col.target_stat", "unzip(at, x.col.stat", "softmax"),
    "du": (SCORE_GRAD, "x.second_scale ? of_t * x.second_scale[i] : of_t", "of_t", "softmax"),
    "sum of dt u": (SCORE_GRAD, "of_t * second_product(x, t, r, j))", "of_t)", "softmax"),
    "gate": (SCORES, "load(t.dots + r * t.dot_stride + j) * inverse_gate(x, t, r, j)",
             "load(t.dots + r * t.dot_stride + j)", "gated"),
    "gate's slope": (SCORE_GRAD, "grad * inverse)", "grad)", "gated"),
    "slope of the gate": (FUNCTORS, "-0.5f * s * inverse * inverse", "-0.5f * s * inverse", "gated"),
}  # fmt: skip
SECOND_FAULT = r"allowed|\('(row|col)_?"


def second_problem(name: str) -> targets.Problem:
    if name in targets.KINDS:
        return targets.problem(21, 150, 6, 5, map=name)  # tiles of one block of columns join
    ids, low = torch.arange(43) % 5, torch.linspace(-6.0, 2.0, 21)
    keep, options = ids[:21, None] != ids, {"keep": "other_id", "row_ids": ids[:21], "col_ids": ids}
    if name == "dropped":
        return targets.problem(21, 43, 6, 5, keep=keep, options=tuple(options.items()))
    options["row_low"] = low
    return targets.problem(21, 43, 6, 5, keep=keep, low=low.double(), options=tuple(options.items()))


@pytest.fixture(scope="module")
def bindings(tmp_path_factory):
    """What no edit touches, compiled once."""
    if compiler() is None:
        pytest.skip("needs g++")
    path = tmp_path_factory.mktemp("bindings") / "bind.o"
    compile_native("cpu/bind.cpp", ROOT / "csrc", path)
    return path


def compile_native(name: str, tree: Path, out: Path) -> None:
    flags = ["-std=c++17", "-O0", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-Wno-psabi"]
    execute([str(compiler()), *flags, *includes(tree), "-c", str(tree / name), "-o", str(out)])


def built(folder: Path, bindings: Path, edit: tuple[str, str, str]) -> ModuleType:
    compile_native("cpu/kernel_generic.cpp", edited(folder, edit), folder / "kernel.o")
    library = folder / "_cpu.so"
    execute([str(compiler()), "-shared", "-fopenmp", str(bindings), str(folder / "kernel.o"), "-o", str(library)])
    return loaded(library)


def use(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.native, "cpu", module)
    monkeypatch.setattr(backends, "BACKENDS", (cpu.CpuBackend(),))


@pytest.mark.parametrize("name", by_default(NATIVE, "partners of a tile", "one positive"))
def test_an_error_in_a_cpu_kernel_is_seen(name, bindings, tmp_path, monkeypatch):
    *edit, call = NATIVE[name]
    use(built(tmp_path, bindings, (edit[0], edit[1], edit[2])), monkeypatch)
    monkeypatch.setattr(cpu.CpuBackend, "small_stats", lambda *_: None)  # columns have other places in blocks
    with pytest.raises(AssertionError, match=FAULT):
        check(problem(call), backend="cpu")


SMALL_CALL, SMALL_BLOCKS = "cpu/small_call.inc", "cpu/small_blocks.inc"
SMALL = {
    "other directions": (SMALL_BLOCKS, "direction * block.m * x.d * element_size", "0 * element_size", "flats"),
    "their gradients": (SMALL_BLOCKS, "block.grad + direction * block.m * x.d", "block.grad", "flats"),
    "their sum": (SMALL_BLOCKS, "x.threads, add)", "x.threads, k > 0)", "flats"),
    "statistics": (SMALL_CALL, "row.positive_stat = w.row_positive_stat", "row.positive_stat = w.row_stat", "apart"),
    "columns": (SMALL_CALL, "set_weights(p.x.col, p.x.m)", "set_weights(p.x.col, 1)", "apart"),
}
SMALL_FAULT = rf"{FAULT}|are not close|^\('(d|row|col)"


@pytest.mark.parametrize("name", by_default(SMALL, "their sum"))
def test_an_error_in_a_small_call_is_seen(name, bindings, tmp_path, monkeypatch):
    *edit, call = SMALL[name]
    use(built(tmp_path, bindings, (edit[0], edit[1], edit[2])), monkeypatch)
    with pytest.raises(AssertionError, match=SMALL_FAULT):
        if call == "flats":
            distances.check(distances.problem(13, 33, 5, 3, torch.float32, False), "distance", False, backend="cpu")
        else:
            check(problem(call), backend="cpu")


@pytest.mark.parametrize("name", by_default(SECOND, "columns' sums", "slope of the gate"))
def test_an_error_with_second_operands_in_a_cpu_kernel_is_seen(name, bindings, tmp_path, monkeypatch):
    *edit, kind = SECOND[name]
    use(built(tmp_path, bindings, (edit[0], edit[1], edit[2])), monkeypatch)
    with pytest.raises(AssertionError, match=SECOND_FAULT):
        targets.check(second_problem(kind), backend="cpu")
