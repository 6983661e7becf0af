"""The Triton kernels compile for GPUs that are not there, within what those GPUs have. Nothing here runs a kernel."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):  # it would replace the compiler when the kernels are imported
    pytest.skip("needs TRITON_INTERPRET unset", allow_module_level=True)

from contrastile.backends import triton_segments
from contrastile.spec import PairSpec, PairTest, Reduce, Target
from contrastile.triton_kernels import config
from contrastile.triton_kernels.config import FUSED, TABLE, Tile, architecture, fused_tile
from support import aot, machine_code
from support.combinations import by_default

pytestmark = pytest.mark.aot

EVERY = [
    (arch, kind, kernel, variant)
    for arch, kinds in TABLE.items()
    for kind in kinds
    for kernel in ("stats", "score_grad")
    for variant in aot.VARIANTS
    if (kernel, variant) != ("score_grad", "max")  # its backward is plain torch
]
QUICK = [
    *((arch, "half", "score_grad", "everything") for arch in ("sm_80", "sm_90", "sm_100", "gfx942")),
    ("sm_90", "half", "stats", "distance"),
    ("sm_90", "half", "score_grad", "tests"),
    ("sm_90", "half", "score_grad", "split"),
    ("sm_90", "half", "score_grad", "own scales"),
    ("sm_90", "half", "score_grad", "partners"),
    ("sm_80", "tf32", "score_grad", "siglip"),
    ("sm_90", "half", "score_grad", "softmax"),
    ("sm_90", "half", "stats", "gated"),
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """A cached binary would be no proof that this source compiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def cases():
    return [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id="-".join(case)) for case in EVERY]


@pytest.mark.parametrize("arch, kind, kernel, variant", cases())
def test_compiles_within_the_device(arch, kind, kernel, variant):
    """No spills, shared memory and registers within the limits, products on the tensor cores."""
    found = aot.build(kernel, arch, kind, aot.VARIANTS[variant])
    assert not list(found.faults(arch, kind)), found


LEAN = {"stats": (27, 46), "score_grad": (22, 26)}  # instructions a pair: of a tile without an edge, of all code
COLUMN_SUMS = 10  # more of all code, where several rows may have one partner, whose column adds them up


def lean_faults(kernel, variant, tile=None):
    """What a lean kernel on sm_90 must not be."""
    tile = tile or aot.tile_of(kernel, "sm_90", "half", aot.VARIANTS[variant])
    found = aot.build(kernel, "sm_90", "half", aot.VARIANTS[variant], tile)
    yield from found.faults("sm_90", "half")
    inner, static = LEAN[kernel]
    way, a_pair = machine_code.way(found.code), tile.warps * machine_code.WARP / (tile.rows * tile.cols)
    if way.per_pair(tile.rows, tile.cols, tile.warps) > inner:
        yield f"takes {way.per_pair(tile.rows, tile.cols, tile.warps):.1f} instructions a pair"
    if way.static * a_pair > static + (COLUMN_SUMS if variant == "nt_xent" else 0):
        yield f"is {way.static * a_pair:.1f} instructions a pair long"
    if found.programs(tile.warps) < 2:
        yield "leaves a multiprocessor to one program"
    widths = re.findall(r"HGMMA\.64x(\d+)x16", found.code)
    if not widths or min(map(int, widths)) < 128:
        yield f"multiplies {min(map(int, widths), default=0)} columns at a time"


@pytest.mark.parametrize("kernel", LEAN)
@pytest.mark.parametrize("variant", by_default(("clip", "info_nce", "nt_xent", "prototypes"), "clip"))
def test_a_tile_that_no_rule_concerns_takes_few_instructions(kernel, variant):
    assert not list(lean_faults(kernel, variant))


def test_the_gate_notices_kernels_that_are_not_lean():
    """One with a bias, which is general, in a tile that is as wrong as can be."""
    found = list(lean_faults("score_grad", "biased", Tile(64, 64, 64, 4, 8, registers=64)))
    for what in ("spills", "takes", "long", "one program", "64 columns"):
        assert any(what in fault for fault in found), (what, found)


@pytest.mark.slow
@pytest.mark.skipif("CONTRASTILE_OLDER_TRITON" not in os.environ, reason="needs a folder with an older Triton")
def test_lean_kernels_with_an_older_triton():
    """In a process of its own: pip install --no-deps --target FOLDER triton==3.6.0, CONTRASTILE_OLDER_TRITON=FOLDER."""
    folder = os.environ["CONTRASTILE_OLDER_TRITON"]
    check = [sys.executable, "-m", "pytest", __file__, "-q", "--run-slow", "-k", "few_instructions or not_lean"]
    done = subprocess.run(check, env=os.environ | {"PYTHONPATH": folder}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("arch", by_default(TABLE, "sm_90"))
@pytest.mark.parametrize("reduce, finished", [("LSE", False), ("LSE", True), ("RELU", True), ("MAX", False)])
@pytest.mark.parametrize("positives", by_default(("SAME_INDEX", "SAME_ID"), "SAME_INDEX"))
def test_partial_results_are_joined_in_registers(arch, reduce, finished, positives):
    check_merge(arch, PairSpec(Reduce[reduce], positives=PairTest[positives]), finished)


@pytest.mark.parametrize("arch", by_default(TABLE, "sm_90"))
@pytest.mark.parametrize("positives", by_default(("SAME_INDEX", "SAME_ID"), "SAME_ID"))
def test_statistics_of_positives_and_counts_are_joined_in_registers(arch, positives):
    spec = PairSpec(positives=PairTest[positives], split=True, counts=True)
    check_merge(arch, spec, False)
    check_merge(arch, replace(spec, counts=False), True)


@pytest.mark.parametrize("kernel", by_default(("stats", "score_grad"), "score_grad"))
def test_logits_are_rounded_before_their_peaks_are_subtracted(kernel):
    """A largest logit less its peak is 0 only then, and equal probabilities cancel."""
    assert not aot.build(kernel, "sm_90", "half", aot.VARIANTS["softmax"]).negations


@pytest.mark.parametrize("arch", by_default(TABLE, "sm_90"))
@pytest.mark.parametrize("target", by_default((Target.SOFTMAX, Target.AFFINE), Target.SOFTMAX))
def test_statistics_of_targets_are_joined_in_registers(arch, target):
    check_merge(arch, PairSpec(positives=PairTest.SAME_INDEX, counts=True, target=target), False)


def check_merge(arch, spec, finished):
    found = aot.build_merge(arch, spec, finished)
    assert not list(found.faults(arch, "ieee")) and found.stack == 0, found


SEGMENTS_QUICK = [
    ("sm_80", 128, "max"), ("sm_80", 32, "softmax"), ("sm_90", 32, "max"), ("sm_90", 128, "score_grad"),
    ("sm_100", 128, "softmax"), ("gfx942", 32, "score_grad"),
]  # fmt: skip


def segment_cases():
    """Segments of one tile's width and more, and shorter ones."""
    for arch, kinds in TABLE.items():
        for kind, average, what in itertools.product(kinds, (128, 32), triton_segments.WEIGHTS):
            marks = () if kind == "half" and (arch, average, what) in SEGMENTS_QUICK else pytest.mark.slow
            yield pytest.param(arch, kind, average, what, marks=marks, id=f"{arch}-{kind}-{average}-{what}")


@pytest.mark.parametrize("arch, kind, average, what", list(segment_cases()))
def test_reduces_over_segments_compile_within_the_device(arch, kind, average, what):
    found = aot.build_segments(what, arch, kind, average, masked=average == 128)
    assert not list(found.faults(arch, kind)), found


def variant_tile(arch, features, variant):
    shares = any(name.endswith("Share") for name in variant.given)
    return fused_tile(arch, "half", features, variant.rule_level(), variant.split, shares)


FUSED_CASES = [
    (arch, features, variant, owner)
    for arch, tiles in FUSED.items()
    for variant in ("clip", "siglip", "relu", "everything", "tests", "split", "split, everything", "partners", "shares")
    for features in (tile.depth for tile in tiles[aot.VARIANTS[variant].rule_level()])
    if variant_tile(arch, features, aot.VARIANTS[variant]) is not None
    for owner in ("rows", "columns")
]
FUSED_QUICK = [("sm_80", 64, "clip", "rows"), ("sm_90", 128, "siglip", "columns"), ("gfx942", 64, "relu", "rows")]


@pytest.mark.parametrize(
    "arch, features, variant, owner",
    [
        pytest.param(*x, marks=() if x in FUSED_QUICK else pytest.mark.slow, id="-".join(map(str, x)))
        for x in FUSED_CASES
    ],
)
def test_the_fused_kernel_compiles_within_the_device(arch, features, variant, owner):
    chosen = aot.VARIANTS[variant] if owner == "rows" else aot.VARIANTS[variant].swapped()
    found = aot.build("fused", arch, "half", chosen, variant_tile(arch, features, chosen))
    assert not list(found.faults(arch, "half")), found


@pytest.mark.parametrize("features, depth", [(0, 16), (1, 16), (17, 32), (64, 64), (65, 128), (256, 256), (257, None)])
def test_the_fused_kernel_takes_all_features_at_once(features, depth):
    for rules in (0, 1):
        tile = fused_tile("sm_90", "half", features, rules)
        assert (tile and tile.depth) == depth
    assert fused_tile("sm_90", "ieee", 8, 0) is None


def test_every_architecture_has_fused_tiles_in_order():
    assert FUSED.keys() == TABLE.keys()
    for tiles in (tiles for levels in FUSED.values() for tiles in levels):
        depths = [tile.depth for tile in tiles]
        assert depths == sorted(set(depths)) and depths[0] >= 16


def test_the_gate_notices_a_tile_that_is_too_large():
    found = aot.build("score_grad", "sm_90", "half", aot.VARIANTS["clip"], Tile(128, 128, 64, 4, 8))
    faults = " ".join(found.faults("sm_90", "half"))
    assert "spills" in faults and "shared memory" in faults


def test_the_gate_notices_products_without_tensor_cores():
    found = aot.build("stats", "sm_80", "ieee", aot.VARIANTS["max"])
    assert list(found.faults("sm_80", "tf32")) == ["does not use tensor cores"]


@pytest.mark.parametrize("kernel", by_default(("stats", "score_grad"), "score_grad"))
def test_persistent_programs_compile_within_the_device(kernel):
    """Off in the table until they are measured to pay; the tuning command tries them where they may."""
    tile = config.tile("sm_100", "half", 2 * (kernel == "score_grad"))
    found = aot.build(kernel, "sm_100", "half", aot.VARIANTS["clip"], replace(tile, stages=3, per_processor=1))
    assert not list(found.faults("sm_100", "half")), found


def test_the_gate_notices_copies_without_the_copy_engine():
    found = aot.build("stats", "sm_80", "half", aot.VARIANTS["max"])
    assert "does not use the copy engine" in list(found.faults("sm_90", "half"))


def test_quick_cases_are_cases():
    assert set(QUICK) <= set(EVERY) and set(FUSED_QUICK) <= set(FUSED_CASES)


@pytest.mark.parametrize(
    "capability, name",
    [
        ((7, 5), "sm_80"),
        ((8, 0), "sm_80"),
        ((8, 9), "sm_86"),
        ((9, 0), "sm_90"),
        ((10, 3), "sm_100"),
        ((12, 1), "sm_120"),
    ],
)
def test_a_device_takes_the_newest_entry_that_is_not_newer(capability, name):
    assert architecture(capability) == name


DIRECT = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs
from triton.runtime.jit import JITFunction
from triton.tools import tensor_descriptor
from contrastile import clip_loss
from contrastile.benchmark import ahead
from contrastile.ops import library

kernels = ahead.install(ahead.Device())
looked, launched = [], []
run, call = JITFunction.run, ahead.Launcher.__call__
JITFunction.run = lambda self, *args, **options: (looked.append(self.__name__), run(self, *args, **options))[1]
ahead.Launcher.__call__ = lambda self, *args: launched.append(args)
x, y = (torch.rand(48, 16).requires_grad_() for _ in range(2))
scale = torch.tensor(10.0, requires_grad=True)
for _ in range(3):
    clip_loss(x, y, scale, backend="triton").backward()
names = ["stats", "finish", "score_grad"]
assert looked == [kernel.name for kernel in kernels] == names, (looked, kernels)
first, *others = (launched[at : at + 3] for at in (0, 3, 6))
for step in others:
    for given, expected in zip(step, first, strict=True):
        assert given[:3] == expected[:3] and len(given) == len(expected)
        for one, other in zip(given[9:], expected[9:], strict=True):  # after grid, stream, function, metadata and hooks
            assert (one is None) == (other is None) and isinstance(one, tuple) == isinstance(other, tuple)
            assert not isinstance(other, (int, str)) or one == other

# what a graph would hold of a step: work in memory of torch's own, nothing that the host must wait for or make anew
class Captured(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if name == "pair_loss":
            with self:
                return library.pair_loss(*args)
        assert name not in ("_local_scalar_dense", "item", "equal", "nonzero", "_pin_memory", "pin_memory"), name
        found = func(*args, **(kwargs or {}))
        for tensor in [*args, *(found if isinstance(found, (tuple, list)) else [found])]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                memory[storage.data_ptr()] = storage  # held, so that no address is given out again
        return found

def described(*args, **options):
    raise AssertionError("a descriptor is made on the host")

def addresses(given):
    for value in given:
        if isinstance(value, tuple):
            yield from addresses(value)
        elif isinstance(value, torch.Tensor) or (isinstance(value, int) and value > 2**32):
            yield value if isinstance(value, int) else value.data_ptr()

memory = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in (x, y, scale)}
tensor_descriptor.TensorDescriptor.__post_init__ = described
launched.clear()
with Captured():
    clip_loss(x, y, scale, backend="triton").backward()
places = [(start, start + len(storage)) for start, storage in memory.items()]
used = [address for given in launched for address in addresses(given[9:])]
assert len(launched) == 3 and len(used) > 20
assert all(any(start <= address < stop for start, stop in places) for address in used)

# who watches launches sees all of them
seen = []
hook = lambda metadata: seen.append(metadata.get()["name"])
chain = knobs.runtime.launch_enter_hook
chain.add(hook) if hasattr(chain, "add") else setattr(knobs.runtime, "launch_enter_hook", hook)
ahead.Launcher.__call__ = lambda self, *args: args[7](args[6])
clip_loss(x, y, scale, backend="triton")
assert seen == names, seen
"""


def test_kernels_of_a_small_call_are_looked_for_once():
    """The second step hands Triton's launchers what Triton itself handed them in the first, and a graph can hold it."""
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", DIRECT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
