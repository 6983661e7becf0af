"""Tile sizes per architecture and type, in one place; no autotuning.

Chosen by reasoning and by what compiles without spills (tests/test_triton_compile.py); none has been timed on a device.
The epilogue of `stats` and `coeff` holds about four tile-sized float32 values at once, so a thread gets 32 to 64
accumulators, and `coeff`, which holds more, the smaller tile. float32 products without TF32 run on the ordinary cores:
small tiles.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    rows: int
    cols: int
    depth: int  # of the features, per step
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


@dataclass(frozen=True)
class Tiles:
    """Tile of each kernel and kind of product: "half" (bfloat16, float16), "tf32", "ieee" (float32 as it is)."""

    stats: dict[str, Tile]
    coeff: dict[str, Tile]


SMALL = Tile(64, 64, 32, 4, 2)

TABLE = {
    "sm_80": Tiles(  # A100: 163 KiB of shared memory, mma.sync
        stats={"half": Tile(128, 128, 64, 8, 3), "tf32": Tile(64, 128, 32, 8, 3), "ieee": SMALL},
        coeff={"half": Tile(64, 128, 64, 8, 3), "tf32": Tile(64, 64, 32, 4, 3), "ieee": SMALL},
    ),
    "sm_86": Tiles(  # consumer Ampere and Ada, sm_86 and sm_89: 99 KiB
        stats={"half": Tile(128, 128, 32, 8, 3), "tf32": Tile(64, 64, 32, 4, 3), "ieee": SMALL},
        coeff={"half": Tile(64, 128, 32, 8, 3), "tf32": Tile(64, 64, 32, 4, 3), "ieee": SMALL},
    ),
    "sm_90": Tiles(  # H100, H200: 227 KiB, wgmma wants 64 rows per group of four warps
        stats={"half": Tile(128, 128, 64, 8, 4), "tf32": Tile(128, 128, 32, 8, 3), "ieee": SMALL},
        coeff={"half": Tile(128, 128, 64, 8, 4), "tf32": Tile(128, 64, 32, 8, 3), "ieee": SMALL},
    ),
    "sm_100": Tiles(  # B200: 227 KiB, tcgen05 keeps its accumulator in tensor memory
        stats={"half": Tile(128, 128, 64, 8, 4), "tf32": Tile(128, 128, 32, 8, 3), "ieee": SMALL},
        coeff={"half": Tile(128, 128, 64, 8, 4), "tf32": Tile(128, 64, 32, 8, 3), "ieee": SMALL},
    ),
    "sm_120": Tiles(  # consumer Blackwell: 99 KiB, mma.sync
        stats={"half": Tile(128, 128, 32, 8, 3), "tf32": Tile(64, 64, 32, 4, 3), "ieee": SMALL},
        coeff={"half": Tile(64, 128, 32, 8, 3), "tf32": Tile(64, 64, 32, 4, 3), "ieee": SMALL},
    ),
    "gfx942": Tiles(  # MI300: 64 KiB of shared memory, waves of 64 threads
        stats={"half": Tile(128, 128, 32, 4, 2), "ieee": SMALL},
        coeff={"half": Tile(128, 64, 32, 4, 2), "ieee": SMALL},
    ),
}
INTERPRETER = Tile(32, 64, 32, 4, 1)


def architecture(capability: tuple[int, int]) -> str:
    """The newest entry that is not newer than a CUDA device."""
    number = 10 * capability[0] + capability[1]
    known = [int(name[3:]) for name in TABLE if name.startswith("sm_")]
    return f"sm_{max(x for x in known if x <= max(number, min(known)))}"


def tile(kernel: str, arch: str, kind: str) -> Tile:
    """arch: a key of TABLE; kind: see Tiles."""
    tiles = TABLE[arch]
    return (tiles.stats if kernel == "stats" else tiles.coeff)[kind]
