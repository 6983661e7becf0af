"""Compiles the Triton kernels for GPUs that are not there, and reads back what the code costs."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from contrastile.backends import triton_launch, triton_segments
from contrastile.spec import NO_TEST, PairBlock, PairSpec, PairTest, Reduce, Score, Side, Target
from contrastile.triton_kernels import config, fused, merge, pair, segments
from contrastile.triton_kernels.rules import Numbers, Operands, Upstream

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
KIB = 1024
SHARED_LIMIT = {"sm_80": 163, "sm_86": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64}  # KiB per block
REGISTERS = {"gfx942": 512}  # per thread; 255 on CUDA
TENSOR_CORES = {"sm_90": r"HGMMA", "sm_100": r"UTC\w*MMA", "gfx942": r"v_mfma"}  # else mma.sync
CAPPED = 64  # bytes per thread that a cap on registers may cost, in blocks of code that few tiles enter
SPILLS = {"ieee": 32}  # bytes per thread: ptxas spills a little there with registers to spare, for more warps at a time
NEW = {"sm_100": 64, "sm_120": 80}  # more bytes with compilers from the time when these were new: seen with Triton 3.6
TYPES = {"half": "*bf16", "tf32": "*fp32", "ieee": "*fp32"}

# the rest is a multiple of 16 as in a real launch
UNSPECIALISED = (
    "n", "m", "row_origin", "col_origin", "directions", "count", "label_words", "parts", "row_parts",
    "col_parts", "shift", "others", "partners",
)  # fmt: skip
SIDES = ("Row", "Col")
NOTHING = torch.empty(1, 1)  # what is given
TUPLES: dict[str, Any] = {  # arguments that are tuples, see field_name
    "Row": Operands, "Col": Operands, "RowUpstream": Upstream, "ColUpstream": Upstream,
    "Nothing": Upstream,
    "RowOut": Numbers, "ColOut": Numbers, "From": Numbers, "Out": Numbers,
    "RowFrom": Numbers, "ColFrom": Numbers, "RowTo": merge.Finish, "ColTo": merge.Finish,
}  # fmt: skip
INTEGERS = (*UNSPECIALISED, "d", "second_d", "mask_stride", "grad_stride", "b_direction", "grad_direction")
INTEGER_ENDS = (
    "Ids",
    "Groups",
    "Labels",
    "Order",
    "Arg",
    "Offsets",
    "Kept",
    "Positives",
    "Partner",
)  # of names of pointers
COMPARED, WIDE = (tuple(map(str.capitalize, names)) for names in (triton_launch.COMPARED, triton_launch.WIDE))


@dataclass(frozen=True)
class Variant:
    """One loss's constants, and which of the optional tensors it gives."""

    given: tuple[str, ...] = ()
    reduce: Reduce = Reduce.LSE
    keep: PairTest = NO_TEST
    positives: PairTest = NO_TEST
    keep_positives: bool = False
    rows: bool = True
    cols: bool = True
    score: Score = Score.DOT
    split: bool = False
    counts: bool = False
    target: Target = Target.NONE
    own_scales: bool = False
    offset: bool = True

    def spec(self) -> PairSpec:
        return PairSpec(
            self.reduce, self.keep, self.positives, self.keep_positives, self.cols,
            score=self.score, split=self.split, counts=self.counts, target=self.target, own_scales=self.own_scales,
            offset=self.offset,
        )  # fmt: skip

    def sums(self) -> bool:
        return self.reduce in (Reduce.SOFTPLUS, Reduce.RELU)

    def rule_level(self) -> int:
        """As backends.triton decides it."""
        if any(x.endswith(WIDE) for x in self.given):
            return 2
        return int(not self.spec().biased or any(x.endswith((*COMPARED, "Mask")) for x in self.given))

    def block(self) -> PairBlock:
        """A block with what is given, as far as the backend asks for it."""
        names = [field.name for field in fields(Side)[1:]]
        row, col = (
            Side(NOTHING, **{name: NOTHING for name in names if place + camel(name) in self.given}) for place in SIDES
        )
        return PairBlock(self.spec(), row, col, NOTHING if "Mask" in self.given else None)

    def lean(self) -> bool:
        return triton_launch.is_lean(self.block())

    def swapped(self) -> Variant:
        """Rows are the columns of the user, as the fused kernel takes them for their gradient."""
        other = {"Row": "Col", "Col": "Row"}
        given = tuple(other.get(name[:3], name[:3]) + name[3:] for name in self.given)
        return replace(self, given=given, rows=self.cols, cols=self.rows)


def of_both(*names: str) -> tuple[str, ...]:
    return tuple(f"{place}{name}" for place in SIDES for name in names)


OF_TARGET = (
    "RowScale", "RowScaleGrad", "RowSecondScale", *of_both("PositiveWeight", "TargetStat", "MeanWeight", "MeanOffset"),
)  # fmt: skip
OF_SECOND = (*of_both("LogitWeight"), "SecondGrad", "SecondScaleGrad")  # where their gradients are wanted
VARIANTS = {
    "clip": Variant(
        ("RowScale", "RowPositiveWeight", "ColPositiveWeight", "RowScaleGrad"),
        keep=PairTest.OTHER_INDEX, positives=PairTest.SAME_INDEX,
    ),
    "biased": Variant(
        ("RowScale", "ColBias", "RowPositiveWeight", "ColPositiveWeight", "RowScaleGrad", "ColBiasGrad"),
        positives=PairTest.SAME_INDEX,
    ),
    "info_nce": Variant(
        ("RowScale", "RowPositiveWeight", "RowScaleGrad"), keep=PairTest.OTHER_INDEX, positives=PairTest.SAME_INDEX,
        cols=False,
    ),
    "nt_xent": Variant(
        ("RowScale", "RowPartner", "RowPartners", "RowPositiveWeight", "ColPositiveWeight", "RowScaleGrad"),
        keep=PairTest.OTHER_INDEX | PairTest.NO_PARTNER, positives=PairTest.PARTNER,
    ),
    "prototypes": Variant(
        ("RowScale", "RowPartner", "RowPartners", "RowPositiveWeight", "RowScaleGrad"),
        keep=PairTest.NO_PARTNER, positives=PairTest.PARTNER, cols=False,
    ),
    "own scales": Variant(
        of_both("Scale", "PositiveWeight", "ScaleGrad"), keep=PairTest.OTHER_INDEX, positives=PairTest.SAME_INDEX,
        own_scales=True,
    ),
    "siglip": Variant(
        ("RowScale", "RowBias", "RowPositiveWeight", "RowScaleGrad", "RowBiasGrad"), Reduce.SOFTPLUS,
        PairTest.OTHER_INDEX, PairTest.SAME_INDEX, cols=False,
    ),
    "relu": Variant(("RowScale", "RowBias", "ColBias", "RowIds", "ColIds"), Reduce.RELU, PairTest.OTHER_ID),
    "everything": Variant(
        (*of_both("Scale", "Bias", "Ids", "High", "PositiveWeight", "BiasGrad", "ScaleGrad"), "Mask"),
        keep=PairTest.OTHER_INDEX | PairTest.OTHER_ID, positives=PairTest.SAME_ID | PairTest.OTHER_INDEX,
        keep_positives=True,
    ),
    "tests": Variant(
        of_both("Scale", "Groups", "Labels", "Order", "Low", "PositiveWeight", "ScaleGrad"),
        keep=PairTest.OTHER_GROUP | PairTest.NO_SHARED_LABEL | PairTest.LOWER_ORDER,
        positives=PairTest.SAME_GROUP | PairTest.SHARED_LABEL,
        keep_positives=True,
    ),
    "distance": Variant(
        ("RowScale", "ColScale", "RowBias", "ColBias", "RowBiasGrad", "ColBiasGrad", "RowScaleGrad"),
        score=Score.DISTANCE, positives=PairTest.KEPT,
    ),
    "gram": Variant(
        ("RowScale", "ColScale", "RowBias", *of_both("PositiveWeight", "ScaleGrad"), "RowBiasGrad"),
        keep=PairTest.OTHER_INDEX, positives=PairTest.KEPT, score=Score.DISTANCE, offset=False,
    ),
    "max": Variant(("RowScale", "RowIds", "ColIds"), Reduce.MAX, PairTest.SAME_ID),
    "split": Variant(
        ("RowScale", *of_both("PositiveWeight", "PositiveStat", "PositiveStatWeight"), "RowScaleGrad"),
        positives=PairTest.SAME_INDEX, split=True,
    ),
    "partners": Variant(
        (
            *("RowScale", "RowPartner", "RowPartners", "RowScaleGrad"),
            *of_both("PositiveWeight", "PositiveStat", "PositiveStatWeight"),
        ),
        keep=PairTest.OTHER_INDEX, positives=PairTest.PARTNER, split=True,
    ),
    "shares": Variant(
        ("RowScale", "RowPartner", "RowPartners", "RowShare", *of_both("PositiveWeight"), "RowScaleGrad"),
        keep=PairTest.NO_PARTNER, positives=PairTest.PARTNER, keep_positives=True,
    ),
    "split, shares": Variant(
        (
            *("RowScale", "RowPartner", "RowPartners", "RowShare", "RowScaleGrad"),
            *of_both("PositiveWeight", "PositiveStat", "PositiveStatWeight"),
        ),
        keep=PairTest.OTHER_INDEX, positives=PairTest.PARTNER, split=True,
    ),
    "counts": Variant(("RowScale",), positives=PairTest.SAME_INDEX, counts=True),
    "split, everything": Variant(
        (
            *of_both("Scale", "Bias", "Ids", "High", "PositiveWeight", "PositiveStat", "PositiveStatWeight"),
            *of_both("BiasGrad", "ScaleGrad"), "Mask",
        ),
        keep=PairTest.OTHER_INDEX, positives=PairTest.SAME_ID, keep_positives=True, split=True, counts=True,
    ),
    "softmax": Variant((*OF_TARGET, *OF_SECOND), positives=PairTest.SAME_INDEX, target=Target.SOFTMAX),
    "softmax, frozen": Variant(OF_TARGET, positives=PairTest.SAME_INDEX, target=Target.SOFTMAX),
    "softmax, everything": Variant(
        (*OF_TARGET, *OF_SECOND, *of_both("Bias", "Ids", "High", "BiasGrad", "ScaleGrad"), "ColScale", "Mask"),
        keep=PairTest.OTHER_INDEX | PairTest.OTHER_ID, positives=PairTest.SAME_ID | PairTest.OTHER_INDEX,
        keep_positives=True, counts=True, target=Target.SOFTMAX,
    ),
    "affine": Variant(
        (*OF_TARGET, "RowSecondBias", *OF_SECOND), positives=PairTest.SAME_INDEX, target=Target.AFFINE
    ),
    "gated": Variant(
        ("RowScale", *of_both("PositiveWeight"), "RowScaleGrad", "SecondGrad"),
        positives=PairTest.SAME_INDEX, score=Score.GATED,
    ),
    "gated, everything": Variant(
        (*of_both("Scale", "Bias", "Ids", "High", "PositiveWeight", "BiasGrad", "ScaleGrad"), "Mask", "SecondGrad"),
        Reduce.SOFTPLUS, PairTest.OTHER_INDEX | PairTest.OTHER_ID, PairTest.SAME_ID | PairTest.OTHER_INDEX,
        keep_positives=True, counts=True, score=Score.GATED,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Usage:
    registers: int
    stack: int  # bytes per thread: spills
    shared: int  # bytes per block; Triton does not hold it against the device
    tensor_cores: int  # instructions
    copies: int  # instructions of the tensor copy engine
    negations: int  # in PTX, of float32: what a difference leaves that is contracted with a product
    code: str = field(repr=False)  # disassembled
    capped: bool = False  # registers are

    def programs(self, warps: int) -> int:
        """How many fit a multiprocessor of sm_90 at a time."""
        registers = -(-self.registers // 8) * 8 * 32 * warps
        return min((64 * KIB) // registers, 228 * KIB // (self.shared + KIB))

    def faults(self, arch: str, kind: str) -> Iterable[str]:
        recent = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
        allowed = CAPPED if self.capped else SPILLS.get(kind, 0)
        if self.stack > allowed + (0 if recent else NEW.get(arch, 0)):
            yield f"spills {self.stack} bytes"
        if self.shared > SHARED_LIMIT[arch] * KIB:
            yield f"needs {self.shared} bytes of shared memory"
        if self.registers > REGISTERS.get(arch, 255):
            yield f"needs {self.registers} registers"
        if kind != "ieee" and not self.tensor_cores:
            yield "does not use tensor cores"
        if config.has_tma(arch, kind) and not self.copies:
            yield "does not use the copy engine"


def build(kernel: str, arch: str, kind: str, variant: Variant, tile: config.Tile | None = None) -> Usage:
    """The kernel with the table's tile, or another; the fused one needs it."""
    tile = tile or tile_of(kernel, arch, kind, variant)
    second = variant.spec().second
    function = fused.fused if kernel == "fused" else getattr(pair, kernel)
    given = given_to(function, variant)
    constants = constants_of(variant, kind, tile, config.has_tma(arch, kind)) | absent(function, given)
    constants |= {} if second else {"second_d": None, "SECOND_TMA": False}
    constants = {name: x for name, x in constants.items() if name in function.arg_names}
    return compiled(function, arch, kind, constants, tile, given)


def tile_of(kernel: str, arch: str, kind: str, variant: Variant) -> config.Tile:
    """As the backend chooses it from the table."""
    return config.tile(arch, kind, triton_launch.weight_of(variant.block(), kernel == "score_grad", variant.sums()))


def build_segments(what: str, arch: str, kind: str, average: int, masked: bool) -> Usage:
    """Maxima over segments of so many columns, the statistic of soft reduces, or its score gradients."""
    tile = triton_segments.narrowed(config.tile(arch, kind, triton_segments.WEIGHTS[what]), average)
    constants = tile_constants(kind, tile, config.has_tma(arch, kind)) | ({} if masked else {"Mask": None})
    absent = triton_segments.OPTIONAL[what]
    function = segments.score_grad if what == "score_grad" else segments.reduce
    return compiled(function, arch, kind, constants | dict.fromkeys(absent), tile)


def compiled(
    function: Any, arch: str, kind: str, constants: dict[str, Any], tile: config.Tile, given: Iterable[str] = ()
) -> Usage:
    """given: the pointers that are not None."""
    types = types_of(function, kind, given)
    if constants["TMA"]:
        element = TYPES[kind][1:]
        types["A"] = f"tensordesc<{element}[{tile.rows}, {tile.depth}]>"
        types["B"] = f"tensordesc<{element}[{'' if function is fused.fused else '1, '}{tile.cols}, {tile.depth}]>"
        types |= {f"Second{x}": types[x] for x in "AB"}
    options = tile.options() | {"enable_fp_fusion": True}  # its default changes in Triton 3.10
    return replace(compiled_with(function, arch, types, constants, options), capped=tile.registers > 0)


def compiled_with(
    function: Any, arch: str, types: dict[str, Any], constants: dict[str, Any], options: dict[str, Any]
) -> Usage:
    signature = {name: "constexpr" if name in constants else types[name] for name in function.arg_names}
    paths = dict(leaves(signature))
    aligned = [path for path, type in paths.items() if type[0] in "*i" and path[-1] not in UNSPECIALISED]
    attributes = {place(function, path): [["tt.divisibility", 16]] for path in aligned}
    values = {place(function, (name,)): x for name, x in constants.items()}
    values |= {place(function, path): None for path, type in paths.items() if path[1:] and type == "constexpr"}
    source = ASTSource(function, signature, values, attributes)
    return usage(triton.compile(source, target=target(arch), options=options), arch)


def types_of(function: Any, kind: str, given: Iterable[str]) -> dict[str, Any]:
    """Of the arguments; fields of tuples that are not given are constants."""
    types: dict[str, Any] = {}
    for name in function.arg_names:
        if name in TUPLES:
            fields = {field: field_name(name, field) for field in TUPLES[name]._fields}
            kinds = {field: type_of(x, kind) if x in given else "constexpr" for field, x in fields.items()}
            types[name] = TUPLES[name](**kinds)
        else:
            types[name] = type_of(name, kind)
    return types


def field_name(argument: str, field: str) -> str:
    """RowStat of RowUpstream.stat, PeakOut of Out.peak."""
    side, end = argument[:3] if argument.startswith(SIDES) else "", "Out" if argument == "Out" else ""
    return side + camel(field) + end


def camel(field: str) -> str:
    return "".join(map(str.capitalize, field.split("_")))


def leaves(signature: dict[str, Any]) -> Iterable[tuple[tuple[str, ...], str]]:
    """(argument,) or (argument, field), and the type."""
    for name, kind in signature.items():
        if name in TUPLES:
            yield from (((name, field), x) for field, x in kind._asdict().items())
        else:
            yield (name,), kind


def place(function: Any, path: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers by which Triton knows an argument or a field of one."""
    return (function.arg_names.index(path[0]), *(TUPLES[path[0]]._fields.index(field) for field in path[1:]))


def build_merge(arch: str, spec: PairSpec, finished: bool) -> Usage:
    """The kernel that joins partial statistics; finished: of both sides, with a weighed sum, as a whole call wants
    it."""
    function = merge.finish if finished else merge.merge
    numbers = set(map(camel, spec.numbers))
    slopes = {"Slope", "PositiveSlope"} if spec.reduce == Reduce.LSE else set()  # of a cross entropy
    apart = {"PositiveStat", "PositiveStatSlope"} if spec.split else set()
    weighed = {"Stat", "Weight", "PositiveWeight"} | slopes | apart
    if finished:
        given = set(of_both(*numbers, *weighed)) | {"Sum"}
    else:
        given = numbers | {f"{name}Out" for name in numbers}
    constants = absent(function, given) | {
        "POSITIVES": int(spec.positives), "PARTS": merge.PARTS, "ITEMS": merge.ITEMS
    } | ({"SHARES": False} if finished else {})  # fmt: skip
    return compiled_with(function, arch, types_of(function, "", given), constants, {"num_warps": merge.WARPS})


def constants_of(variant: Variant, kind: str, tile: config.Tile, tma: bool) -> dict[str, Any]:
    return {
        "REDUCE": int(variant.reduce), "KEEP": int(variant.keep), "POSITIVES": int(variant.positives),
        "KEEP_POSITIVES": variant.keep_positives, "SPLIT": variant.split, "OWN_SCALES": variant.own_scales,
        "SCORE": int(variant.score), "OFFSET": int(variant.offset), "LEAN": variant.lean(),
        "TARGET": int(variant.target), "SECOND_TMA": tma, "SECOND_EVEN": True,
        "COLS": variant.cols, "PERSISTENT": tile.per_processor > 0, "WIDTH": tile.depth,
    } | tile_constants(kind, tile, tma)  # fmt: skip


def tile_constants(kind: str, tile: config.Tile, tma: bool) -> dict[str, Any]:
    return {
        "TMA": tma, "EVEN": True, "PRECISION": "tf32" if kind == "tf32" else "ieee",
        "TILE_ROWS": tile.rows, "TILE_COLS": tile.cols, "DEPTH": tile.depth,
    }  # fmt: skip


def given_to(function: Any, variant: Variant) -> set[str]:
    """The kernel's pointers, also those in tuples, that this variant has."""
    stats = set(map(camel, variant.spec().numbers))
    of_side = stats if function is pair.stats else {"Stat", "Weight"} | (stats if variant.sums() else set())
    places = [place for place, on in (("Row", variant.rows), ("Col", variant.cols)) if on]
    features = {"A", "B", "SecondA", "SecondB"} if variant.spec().second else {"A", "B"}
    return features | {"Grad", "RowGrad", *variant.given} | {f"{place}{name}" for place in places for name in of_side}


def absent(function: Any, given: Iterable[str]) -> dict[str, None]:
    """Pointers that are not given, but for those in tuples."""
    pointers = [name for name in function.arg_names if name[0].isupper() and (len(name) == 1 or not name.isupper())]
    return {name: None for name in pointers if name not in given and name not in TUPLES}


def type_of(name: str, kind: str) -> str:
    if name in ("A", "B", "Grad", "SecondA", "SecondB", "SecondGrad"):
        return TYPES[kind]
    if name in INTEGERS or name.endswith("Partners"):
        return "i64" if name.endswith("_tile") else "i32"
    special = {"Args": "*i32", "Mask": "*u8", "Sum": "*fp64"}
    integers = name.removesuffix("Out").endswith(INTEGER_ENDS)
    return special.get(name, "*i64" if integers else "*fp32")


def target(arch: str) -> GPUTarget:
    return GPUTarget("cuda", int(arch[3:]), 32) if arch.startswith("sm_") else GPUTarget("hip", arch, 64)


def usage(built: Any, arch: str) -> Usage:
    if "amdgcn" in built.asm:
        text = built.asm["amdgcn"]
        registers, stack = (number(rf"\.{x}:\s+(\d+)", text) for x in ("vgpr_count", "private_segment_fixed_size"))
        stack += number(r"\.vgpr_spill_count:\s+(\d+)", text)
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(built.asm["cubin"])
            file.flush()
            report, text = tool("cuobjdump", "-res-usage", file.name), tool("nvdisasm", "-c", file.name)
        registers, stack = number(r"REG:(\d+)", report), number(r"STACK:(\d+)", report)
        stack = max(stack, 4 * len(re.findall(r"\bSTL\b", text)))
    found = re.findall(TENSOR_CORES.get(arch, r"\bHMMA"), text)
    copies, negations = re.findall(r"\bUTMALDG", text), re.findall(r"\bneg\.f32", built.asm.get("ptx", ""))
    return Usage(registers, stack, built.metadata.shared, len(found), len(copies), len(negations), text)


def tool(name: str, *arguments: str) -> str:
    done = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, pattern
    return int(found[1])
