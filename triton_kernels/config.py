"""Tile sizes per architecture and type, in one place; no autotuning.

Chosen by reasoning and by what compiles without spills (tests/test_triton_compile.py); none has been timed on a device.
The epilogues hold several tile-sized float32 values at once, so a tile belongs to a weight of the epilogue: 1 for
`score_grad`, 1 more where that also stores statistics, where `stats` stores more numbers than peaks and totals, or
where columns have another z than rows, 2 more for ids, groups, labels, an order, limits, a mask or distances. float32
products without TF32 run on the ordinary cores: small tiles.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace


@dataclass(frozen=True)
class Tile:
    rows: int
    cols: int
    depth: int  # of the features, per step
    warps: int
    stages: int
    per_processor: int = 0  # programs per multiprocessor that share out the tiles (persistent); 0: a program per tile
    registers: int = 0  # of a thread, at most; 0: as many as the compiler likes

    def programs(self, tiles: int, processors: int) -> int:
        return min(tiles, self.per_processor * processors) if self.per_processor else tiles

    def numbers(self) -> list[int]:
        return list(astuple(self))

    def options(self) -> dict[str, int]:
        options = {"num_warps": self.warps, "num_stages": self.stages}
        return options | {"maxnreg": self.registers} if self.registers else options


SMALL = (Tile(64, 64, 32, 8, 2), *(Tile(32, 64, 32, 4, 2),) * 3)
SMALL_TF32 = (Tile(64, 64, 32, 4, 3), Tile(64, 64, 32, 4, 3), *(Tile(64, 64, 32, 8, 3),) * 2)
SHORT = (Tile(128, 128, 32, 8, 3), *(Tile(64, 128, 32, 8, 3),) * 2, Tile(64, 64, 32, 8, 3))
# architecture: kind of product: tiles for epilogues of weight 0 to 3.
# Kinds: "half" (bfloat16, float16), "tf32", "ieee" (float32 as it is)
TABLE = {
    "sm_80": {  # A100: 163 KiB of shared memory, mma.sync
        "half": (Tile(128, 128, 32, 8, 4), *(Tile(64, 128, 64, 8, 3),) * 2, Tile(64, 64, 64, 8, 3)),
        "tf32": (Tile(64, 128, 32, 8, 3), *(Tile(64, 64, 32, 4, 3),) * 2, Tile(64, 64, 32, 8, 3)),
        "ieee": SMALL,
    },
    "sm_86": {  # consumer Ampere and Ada (sm_89): 99 KiB
        "half": (*SHORT[:2], SHORT[3], SHORT[3]),
        "tf32": SMALL_TF32,
        "ieee": SMALL,
    },
    "sm_90": {  # H100, H200: 227 KiB; wgmma takes 64 rows per group of four warps
        "half": (*(Tile(64, 128, 64, 4, 3),) * 2, Tile(64, 128, 64, 8, 4), Tile(64, 64, 64, 8, 4)),
        "tf32": SHORT,
        "ieee": SMALL,
    },
    "sm_100": {  # B200: 227 KiB; tcgen05 keeps its accumulator in tensor memory
        "half": (Tile(128, 128, 64, 8, 4), Tile(64, 128, 64, 8, 4), *(Tile(64, 64, 64, 8, 4),) * 2),
        "tf32": (*SHORT[:2], SHORT[3], SHORT[3]),
        "ieee": SMALL,
    },
    "sm_120": {  # consumer Blackwell: 99 KiB
        "half": (*SHORT[:2], SHORT[3], SHORT[3]),
        "tf32": SMALL_TF32,
        "ieee": SMALL,
    },
    "gfx942": {  # MI300: 64 KiB, waves of 64 threads
        "half": (Tile(128, 128, 32, 4, 2), *(Tile(128, 64, 32, 4, 2),) * 3),
        "ieee": (*(Tile(64, 64, 32, 8, 2),) * 3, Tile(64, 64, 16, 8, 2)),
    },
}  # fmt: skip
# the same of lean epilogues (lean.py): `stats`, `score_grad`, both where positives take more
LEAN = {arch: {kind: (*tiles[:2], tiles[1]) for kind, tiles in kinds.items()} for arch, kinds in TABLE.items()}
LEAN["sm_90"]["half"] = (
    Tile(128, 128, 64, 8, 3, registers=128),
    Tile(64, 128, 64, 4, 3, registers=168),
    Tile(64, 128, 64, 4, 3, registers=255),
)
# `stats` and `score_grad` of kept.py, halves: a tile more in registers, of what is stored or loaded; not persistent
KEPT = {arch: (Tile(64, 128, 64, 8, 3), Tile(64, 64, 64, 8, 3)) for arch in TABLE if arch.startswith("sm_")}
KEPT["sm_90"] = Tile(64, 128, 64, 4, 3), Tile(64, 128, 64, 4, 3)
# the same with second operands, which take an accumulator more: `stats`, `score_grad`, then both with many rules
_SECOND = {
    "half": (Tile(64, 128, 64, 8, 3), *(Tile(64, 64, 64, 8, 3),) * 3),
    "tf32": (Tile(64, 64, 32, 8, 3),) * 4,
    "ieee": (*(Tile(32, 64, 32, 4, 2),) * 2, *(Tile(32, 64, 32, 8, 2),) * 2),
}
# registers: without a limit the compiler spills a little on these to keep within 128
_SECOND_CONSUMER = _SECOND | {
    "half": (Tile(64, 128, 64, 8, 3), *(Tile(64, 64, 64, 8, 3, registers=255),) * 3),
    "tf32": (Tile(64, 64, 32, 8, 3, registers=255),) * 4,
}
SECOND = {arch: _SECOND for arch in TABLE} | {
    "sm_86": _SECOND_CONSUMER,
    "sm_120": _SECOND_CONSUMER,
    "gfx942": {
        "half": (Tile(64, 64, 32, 4, 2),) * 4,
        "ieee": (Tile(64, 64, 16, 8, 2), *(Tile(64, 32, 16, 4, 2),) * 3),
    },
}
# the same of lean epilogues of distances: `stats`, `score_grad`
DISTANCES = {arch: {kind: tiles[2:] for kind, tiles in kinds.items()} for arch, kinds in TABLE.items()}
DISTANCES["sm_90"]["half"] = (Tile(64, 128, 64, 4, 3), Tile(64, 128, 64, 4, 3, registers=255))
# warps: registers of a thread with which two programs of 8 warps, or three of 4, share the 65,536 of a multiprocessor
MORE_PROGRAMS = {8: 128, 4: 168}
INTERPRETER = Tile(32, 64, 32, 4, 1)
# architecture: tiles of the fused kernel for rules of level 0 to 2 (backends/triton_launch.py). `depth` is the
# largest number of features: a step takes all of them, and their gradient, rows times depth in float32, stays in
# registers. Halves only.
FUSED = {
    "sm_80": (
        (Tile(128, 32, 64, 8, 3), Tile(128, 32, 128, 8, 3), Tile(64, 32, 256, 8, 3)),
        (Tile(128, 32, 64, 8, 3), Tile(64, 32, 128, 8, 2), Tile(32, 32, 256, 4, 3)),
        (Tile(64, 32, 64, 8, 3), Tile(64, 32, 128, 8, 2), Tile(32, 32, 256, 4, 3)),
    ),
    "sm_86": (
        (Tile(128, 32, 64, 8, 3), Tile(128, 32, 128, 8, 3), Tile(64, 64, 256, 8, 2)),
        (Tile(128, 32, 64, 8, 3), Tile(64, 64, 128, 8, 2), Tile(64, 16, 256, 8, 2)),
        (Tile(64, 32, 64, 8, 3), Tile(64, 32, 128, 8, 2), Tile(64, 16, 256, 8, 2)),
    ),
    "sm_90": (
        (Tile(128, 64, 64, 8, 3), Tile(128, 32, 128, 8, 3), Tile(128, 32, 256, 8, 2)),
        (Tile(128, 32, 64, 8, 3), Tile(128, 32, 128, 8, 3), Tile(64, 16, 256, 4, 1)),
        (Tile(64, 32, 64, 8, 3), Tile(64, 32, 128, 8, 3)),  # 256 features would spill
    ),
    "sm_100": (
        (Tile(128, 64, 64, 8, 2), Tile(128, 64, 128, 8, 2), Tile(64, 64, 256, 8, 2)),
        (Tile(128, 32, 64, 8, 1), Tile(128, 32, 128, 8, 3), Tile(64, 64, 256, 8, 2)),
        (Tile(64, 32, 64, 8, 1), Tile(64, 32, 128, 8, 3), Tile(64, 32, 256, 8, 2)),
    ),
    "sm_120": (
        (Tile(128, 32, 64, 8, 3), Tile(64, 64, 128, 8, 2), Tile(64, 32, 256, 8, 1)),
        (Tile(64, 32, 64, 8, 3), Tile(64, 32, 128, 8, 1), Tile(64, 32, 256, 8, 1)),
        (Tile(64, 16, 64, 8, 3), Tile(64, 32, 128, 8, 1), Tile(64, 16, 256, 8, 1)),
    ),
    "gfx942": (
        (Tile(64, 64, 64, 4, 3), Tile(64, 64, 128, 4, 3), Tile(64, 64, 256, 4, 2)),
        *((Tile(64, 32, 64, 4, 1), Tile(64, 32, 128, 4, 1), Tile(64, 32, 256, 4, 1)),) * 2,
    ),
}
SPLIT_FEATURES = {"sm_86": 128, "sm_120": 64}  # with positives apart more would spill
FUSED_INTERPRETER = Tile(32, 64, 256, 4, 1)


def weight_of(score_grad: bool, more_numbers: bool, many_rules: bool, second: bool = False, lean: bool = False) -> int:
    """4 to 6 are those of lean epilogues, from 7 on those of kernels with second operands."""
    if lean:
        return 6 if more_numbers else 4 + score_grad
    return 7 + score_grad + 2 * many_rules if second else min(score_grad + more_numbers + 2 * many_rules, 3)


TUNED = 7  # weights that are tuned: all but those with second operands and of distances
OF_DISTANCES = 11


def architecture(capability: tuple[int, int]) -> str:
    """The newest entry that is not newer than a CUDA device."""
    number = 10 * capability[0] + capability[1]
    known = [int(name[3:]) for name in TABLE if name.startswith("sm_")]
    return f"sm_{max(x for x in known if x <= max(number, min(known)))}"


def has_tma(arch: str, kind: str) -> bool:
    """Whether tensor descriptors pay: where hardware copies them (elsewhere Triton makes worse pointers of them) for
    tensor cores, which read shared memory. Products on the ordinary cores would spill."""
    return arch.startswith("sm_") and int(arch[3:]) >= 90 and kind != "ieee"


def tile(arch: str, kind: str, weight: int) -> Tile:
    return (*TABLE[arch][kind], *LEAN[arch][kind], *SECOND[arch][kind], *DISTANCES[arch][kind])[weight]


def fused_tile(
    arch: str | None, kind: str, features: int, rules: int, split: bool = False, shares: bool = False
) -> Tile | None:
    """The first that is deep enough, its depth cut to the features, rounded up; None where there is none. arch None:
    the interpreter. split: positives are apart, which takes registers as rules do; with shares it would spill."""
    tiles = (FUSED_INTERPRETER,) if arch is None else FUSED[arch][max(rules, split)] if kind == "half" else ()
    depth = max(16, 1 << (features - 1).bit_length())  # what tl.dot needs
    if split and arch is not None and (shares or depth > SPLIT_FEATURES.get(arch, depth)):
        return None
    return next((replace(tile, depth=depth) for tile in tiles if depth <= tile.depth), None)


def candidates(arch: str, kind: str) -> list[list[int]]:
    """Tiles worth timing on a device: the table's own shapes and their neighbours, also with so few registers that one
    more program fits a multiprocessor. Some of them spill: `tune` compiles before it times. Persistent ones where the
    accumulator has memory of its own: elsewhere the next product would need registers beside the epilogue's, and
    another program in their place does the same."""
    shapes = {(x.rows, x.cols) for x in (*TABLE[arch][kind], *LEAN[arch][kind])}
    shapes |= {(64, 64), (64, 128), (128, 64), (128, 128)} | ({(128, 256), (64, 256)} if kind == "half" else set())
    depths = sorted({x.depth for x in TABLE[arch][kind]})
    found = [
        Tile(rows, cols, depth, warps, stages, per_processor, registers)
        for rows, cols in sorted(shapes)
        for depth in depths
        for warps in (4, 8)
        for stages in (3, 4)
        for per_processor, registers in (
            (0, 0),
            *((1, 0),) * (arch == "sm_100"),
            *((0, MORE_PROGRAMS[warps]),) * arch.startswith("sm_"),
        )
        if 512 * warps <= rows * cols <= 4096 * warps  # accumulators: 16 to 128 registers a thread
    ]
    return [x.numbers() for x in found]
