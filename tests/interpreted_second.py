"""Tests of second operands in the Triton kernels, in Triton's interpreter; test_interpreted_second.py runs them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from contrastile import spec, triton_kernels
from contrastile.backends import triton_device, triton_launch
from contrastile.backends.torch_tiles import TorchBackend
from contrastile.backends.triton import TritonBackend
from contrastile.spec import Needs, Score, Target
from contrastile.triton_kernels import config, functors, merge, pair, second, tiles
from support import targets
from support.blocks import SECOND, agree, all_of, apart, close, nan_in, numbers, statistics
from support.combinations import by_default, each_once

KINDS = ("softmax", "affine", "gated")


def check(block):
    agree(numbers(TritonBackend(), block), block)


@pytest.mark.parametrize("name", by_default(SECOND, "softmax, all rules", "affine, all rules", "gated sums"))
def test_tiles(name):
    check(apart(name))


@pytest.mark.parametrize(
    "kind, dtype, blocks, sizes",
    each_once(KINDS, (torch.float32, torch.float16, torch.bfloat16), (1, 2), [[7, 11, 5, 3], [34, 40, 9, 40]]),
    ids=str,
)
def test_losses(kind, dtype, blocks, sizes):
    """Through the engine: every gradient, rows and columns, scales of items, more than one tile and block."""
    targets.check(targets.problem(*sizes, map=kind, by_row=True), dtype, blocks, backend="triton")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns_that_keep_nothing(kind):
    keep = torch.ones(5, 6, dtype=torch.bool)
    keep[2], keep[:, 4] = False, False
    targets.check(targets.problem(5, 6, 4, 3, map=kind, keep=keep, options=(("mask", keep),)), backend="triton")


@pytest.mark.parametrize(
    "kind, widths, persistent",
    each_once(KINDS, ([8, 16], [9, 8], [40, 9]), (False, True)),
    ids=str,
)
def test_tensor_descriptors(kind, widths, persistent, monkeypatch):
    """The path of sm_90 and newer. Either pair of operands whose rows do not begin at multiples of 16 bytes is read by
    pointers."""
    copied = {}

    def watched(x):
        copied.setdefault(x.shape[-1], set()).add(triton_device.copyable(x))
        return triton_device.copyable(x)

    monkeypatch.setattr(triton_launch, "copies_tensors", lambda device, kind: True)
    monkeypatch.setattr(triton_launch, "copyable", watched)
    tile = replace(config.INTERPRETER, per_processor=int(persistent))
    monkeypatch.setattr(triton_launch, "tile_for", lambda *_: tile)
    targets.check(targets.problem(34, 66, *widths, map=kind), torch.float16, backend="triton")
    assert copied == {width: {width % 8 == 0} for width in widths}


@pytest.mark.parametrize("name", ["softmax", "affine", "gated"])
def test_frozen_operands_have_no_plane(name):
    """The others' score gradients are the same, bit for bit."""
    block = apart(name)
    frozen = TritonBackend().score_grad(block, Needs(True, [True], row_scale=True))
    trained = TritonBackend().score_grad(block, all_of(block.spec))
    assert len(frozen.grad) == 1 and len(trained.grad) == 2 and frozen.second_scale is None
    assert torch.equal(frozen.grad[0], trained.grad[0]) and torch.equal(frozen.row_scale, trained.row_scale)


@pytest.mark.parametrize("side", ["row", "col"])
def test_the_target_of_one_side(side):
    block = apart("softmax")
    getattr(block, side).mean_weight = None
    check(block)


def test_a_target_without_the_mean_of_its_logits():
    block = apart("softmax")
    block.row.logit_weight = block.col.logit_weight = None
    check(block)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", by_default(("softmax, all rules", "affine", "gated"), "softmax, all rules"))
def test_numbers_that_are_not_finite(name, value):
    block = nan_in(apart(name), value)
    close(numbers(TritonBackend(), block), numbers(TorchBackend(), block))


@pytest.mark.parametrize("name", ["softmax", "affine", "gated"])
def test_a_second_operand_that_is_not_finite_stays_with_its_row(name):
    block = apart(name)
    block.row.second[3, 1] = torch.nan
    found, truth = (statistics(backend, block) for backend in (TritonBackend(), TorchBackend()))
    for key, x in truth.items():
        if key.startswith("row") and key != "row peak":  # a NaN is in the total
            assert found[key].isnan().equal(x.isnan()), key


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_give_equal_bits(kind):
    found = [numbers(TritonBackend(), apart_again(kind)) for _ in range(2)]
    assert all(torch.equal(x, found[1][name]) for name, x in found[0].items())


def apart_again(name):
    torch.manual_seed(0)
    return apart(name)


def test_constants_equal_those_of_the_specification():
    assert functors.NO_GATE.value == spec.NO_GATE
    assert (functors.SOFTMAX.value, functors.AFFINE.value) == (Target.SOFTMAX, Target.AFFINE)
    biased = [score for score in Score if spec.PairSpec(score=score).biased]
    assert functors.BIASED.value == sum(1 << score for score in biased)


# ---- mutations

# name: module, what is edited, the edit, the block that shows it
MUTANTS: dict[str, tuple[ModuleType, str, str, str]] = {
    "gate": (second, "floor = inverse_gate(u)", "floor = inverse_gate(x)", "gated"),
    "no gate": (functors, "tl.where(u <= NO_GATE, 0.0, tl.rsqrt(u))", "tl.rsqrt(u)", "gated"),
    "slope of the gate": (functors, "-0.5 * s", "-s", "gated"),
    "power of the gate": (functors, "(inverse * inverse)", "inverse", "gated"),
    "gated slope": (pair, "grad *= floor", "pass", "gated"),
    "scale of t": (second, "t *= vector(Row.second_scale, i, n, 1)", "pass", "softmax"),
    "bias of t": (second, "t += vector(Row.second_bias, i, n, 1)", "pass", "affine"),
    "largest t": (second, 'tl.where(drop | (t != t), float("-inf"), t)', "t", "softmax of rows"),
    "dropped weights": (second, "tl.where(drop, 0.0, tl.exp(t))", "tl.where(t != t, 0.0, tl.exp(t))", "softmax"),
    "weights above their peak": (second, "t -= across(tl.where(top", "t -= 0.5 * across(tl.where(top", "softmax"),
    "their z": (second, "e * (z - base)", "e * t", "softmax"),
    "their z above its peak": (second, "e * (z - base)", "e * z", "softmax"),
    "their t": (second, "drop, 0.0, e * t)", "drop, 0.0, e * z)", "softmax"),
    "affine weights": (second, "tl.sum(tl.where(drop, 0.0, t), AXIS)", "tl.sum(t, AXIS)", "affine"),
    "their sum with z": (second, "t * (z - base)", "t", "affine"),
    "their sum with z above its peak": (second, "t * (z - base)", "t * z", "affine"),
    "p in dz": (second, "tl.exp(z - across(log_total, AXIS)) - q", "-q", "softmax"),
    "total of p": (second, "tl.exp(z - across(log_total, AXIS))", "tl.exp(z)", "softmax"),
    "q beside p": (second, "across(log_total, AXIS)) - q)", "across(log_total, AXIS)))", "softmax"),
    "rest of q": (second, "across(weight + mean, AXIS) * q", "across(mean, AXIS) * q", "softmax"),
    "mean in the rest": (second, "across(weight + mean, AXIS) * q", "across(weight, AXIS) * q", "softmax"),
    "dropped slope": (second, "return tl.where(drop, 0.0, g), tl", "return g, tl", "softmax of rows"),
    "affine q in dz": (second, "tl.where(drop, 0.0, mean * t)", "tl.where(drop, 0.0, mean)", "affine"),
    "dropped affine q": (second, "tl.where(drop, 0.0, mean * t)", "mean * t", "affine of rows"),
    "total of q": (second, "tl.exp(t - across(log_weights, AXIS))", "tl.exp(t)", "softmax"),
    "peak of p and z": (second, "    z -= across(peak, AXIS)", "    pass", "softmax"),
    "peak of q and t": (second, "    t -= across(top, AXIS)", "    pass", "softmax"),
    "peak of z in dt": (second, "across(mean, AXIS) * z", "across(mean, AXIS) * (z + across(peak, AXIS))", "softmax"),
    "peak of t in dt": (second, "AXIS) * t\n", "AXIS) * (t + across(top, AXIS))\n", "softmax"),
    "peak of z in affine dt": (second, "(z - across(peak, AXIS))", "z", "affine"),
    "dt of the mean": (second, "of_t = across(mean, AXIS) * z", "of_t = across(mean, AXIS) * t", "softmax"),
    "offset": (second, "AXIS) * z + vector(Upstream.mean_offset, index, count, AXIS)", "AXIS) * z", "softmax"),
    "affine offset": (second, "AXIS)) + vector(Upstream.mean_offset, index, count, AXIS)", "AXIS))", "affine"),
    "dt of its logits": (second, "vector(Upstream.logit_weight, index, count, AXIS) * t", "0.0", "softmax"),
    "q in dt": (second, "q * of_t", "of_t", "softmax"),
    "dropped dt": (second, "tl.where(drop, 0.0, q * of_t)", "q * of_t", "softmax of rows"),
    "dropped affine dt": (second, "tl.where(drop, 0.0, of_t)", "of_t", "affine of rows"),
    "slopes of columns": (second, "g += of_col\n", "pass\n", "softmax"),
    "dt of columns": (second, "of_t += of_col_t", "pass", "affine"),
    "scale of dt": (pair, "of_u *= vector(Row.second_scale, i, n, 1)", "pass", "affine"),
    "dscale": (pair, "tl.where(valid, of_u * u, 0.0)", "of_u", "softmax"),
    "joined z": (merge, "        From.target_z,", "        From.target_t,", "softmax"),
    "joined t": (merge, "        From.target_t, From", "        From.target_z, From", "softmax"),
    "joined weights": (merge, "store_sums(From.weights,", "store_sums(From.weighted,", "affine"),
    "joined sum": (merge, "        From.weighted, From", "        From.weights, From", "affine"),
    "moved": (merge, "PARTS, 0.0) * by", "PARTS, 0.0) * 0.0", "softmax of rows"),
    "moved z": (merge, "From.target_total, From.peak, base,", "From.target_total, From.peak, peak,", "softmax of rows"),
    "moved t": (merge, "From.target_peak, peak, From.target", "From.peak, base, From.target", "softmax of rows"),
    "moved sum": (merge, "From.weighted, From.weights,", "From.weighted, From.weighted,", "affine of rows"),
    "moved sums rescaled": (merge, "numbers *= tl.exp(", "numbers += 0.0 * tl.exp(", "softmax of rows"),
    "rescaled": (merge, "numbers * tl.exp(peaks - base[None, :])", "numbers", "softmax of rows"),
}  # fmt: skip
USERS = (pair, second, merge, tiles)


def edited(module: ModuleType, old: str, new: str, folder: Path) -> ModuleType:
    """The module with one edit in its source, from a file, where Triton reads it."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(old) == 1, old
    path = folder / "mutant.py"
    path.write_text(source.replace(old, new))
    found = importlib.util.spec_from_file_location(module.__name__, path)
    assert found is not None and found.loader is not None
    mutant = importlib.util.module_from_spec(found)
    found.loader.exec_module(mutant)
    return mutant


@cache
def unmutated(name):
    """Once for all mutants of a block."""
    block = apart(name)
    check(block)
    return block


@pytest.mark.parametrize("name", MUTANTS)
def test_an_error_is_seen(name, monkeypatch, tmp_path):
    module, old, new, kind = MUTANTS[name]
    block, mutant = unmutated(kind), edited(module, old, new, tmp_path)
    monkeypatch.setattr(triton_kernels, module.__name__.rpartition(".")[2], mutant)
    for user in USERS:
        for function in [x for x in vars(user) if x in vars(mutant) and vars(user)[x] is vars(module).get(x)]:
            monkeypatch.setattr(user, function, getattr(mutant, function))
    with pytest.raises(AssertionError, match=r"^(row|col|grad|second_scale)\b"):
        check(block)
