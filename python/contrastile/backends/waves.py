"""How well matrix products fill a GPU, and blocks of pairs whose output products fill it.

A product is cut into tiles of its result. A device works on as many tiles at a time as it has multiprocessors, and what
the last of these waves leaves idle is lost: 4096 rows of 768 features are 96 tiles of 128 x 256, which keep 73 % of 132
multiprocessors busy; 5632 rows are 132 tiles. The tiles are a model of cuBLAS on tensor cores. Reasoned, not measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

TILE_ROWS, TILE_COLS = 128, 256
FLOP_PER_BYTE = 240  # what an H100 computes in bfloat16 while it moves a byte
FLOP_PER_PAIR = (
    1200  # the same while `stats` and `score_grad` of the triton backend do all but the products: 50 instructions
)
HALF, FLOAT = 2, 4  # bytes of a number that is multiplied, and of a gradient
MOST_WAVES, PARTS = 32, (1, 2, 3, 4)  # of the sizes that are looked at
TOLERANCE = 1.03  # blocks of all columns are taken where they cost at most so many times the least
WORTH = 0.03  # twice the memory must save 2 %


class Product(NamedTuple):
    """(rows, depth) times (depth, cols), `times` of them."""

    rows: int
    cols: int
    depth: int
    times: int = 1

    @property
    def flop(self) -> int:
        return 2 * self.rows * self.cols * self.depth * self.times

    def waves(self, processors: int) -> int:
        return -(-(-(-self.rows // TILE_ROWS) * -(-self.cols // TILE_COLS)) // processors)

    def wave_flop(self, processors: int) -> int:
        """Operations that the device could do meanwhile."""
        width = min(TILE_COLS, -(-self.cols // 16) * 16)
        return 2 * self.waves(processors) * processors * TILE_ROWS * width * self.depth * self.times

    def cost(self, processors: int) -> int:
        """The same, or what it could do while the operands are read, where that takes longer."""
        read = HALF * self.depth * (self.rows + self.cols) * self.times
        return max(self.wave_flop(processors), FLOP_PER_BYTE * read)


def fill(products: Iterable[Product], processors: int) -> float:
    """The share of a device's operations that does the work of these products."""
    done = possible = 0
    for product in products:
        done += product.flop
        possible += product.wave_flop(processors)
    return done / possible if possible else 1.0


class Pairs(NamedTuple):
    """All pairs of a call. square: columns are the rows, each unordered pair is visited once."""

    rows: int
    cols: int
    features: int
    square: bool = False


class Block(NamedTuple):
    rows: int
    cols: int


def parts(size: int, step: int) -> list[tuple[int, int]]:
    """(size, how many): of pieces of `step`, and of the rest."""
    whole, rest = divmod(size, step)
    return [(step, whole)] * (whole > 0) + [(rest, 1)] * (rest > 0)


def output_products(pairs: Pairs, block: Block) -> list[Product]:
    """Those of all blocks: of rows, dA = G B, and of columns, dB = G^T A."""
    n, m, d, square = pairs
    found = []
    for start in range(0, n, block.rows) if square else ():
        rows = min(block.rows, n - start)
        found.append(Product(rows, d, rows, 2))  # with itself, as rows and as columns
        for cols, count in parts(n - start - rows, block.cols):
            found += both(rows, cols, d, count)
    for rows, row_count in () if square else parts(n, block.rows):
        for cols, col_count in parts(m, block.cols):
            found += both(rows, cols, d, row_count * col_count)
    return found


def both(rows: int, cols: int, d: int, count: int) -> list[Product]:
    return [Product(rows, d, cols, count), Product(cols, d, rows, count)]


def cost(pairs: Pairs, block: Block, processors: int) -> int:
    """Of a call's scores, formed twice, of its output products and of the float32 sums that blocks add them to."""
    products = output_products(pairs, block)
    visited = sum(x.rows * x.depth * x.times for x in products) // 2
    moved = sum(2 * FLOAT * x.rows * x.cols * x.times for x in products)
    return (
        (4 * pairs.features + FLOP_PER_PAIR) * visited
        + sum(x.cost(processors) for x in products)
        + FLOP_PER_BYTE * moved
    )


@lru_cache(256)
def best_block(pairs: Pairs, fit: int, least: int, whole: bool, processors: int) -> Block:
    """The block of at most `fit` pairs that costs least, where columns are split and memory is spent only if that pays.
    whole: never split. Rows are at least `least`, and all are taken where they are fewer; they and columns that are
    split are multiples of TILE_ROWS."""
    found: list[tuple[int, Block]] = []
    for rows in sorted(heights(pairs, fit, least, processors)):
        cols = width(pairs.cols, fit // rows)
        if cols < pairs.cols and (whole or cols < least) and found:
            break
        block = Block(rows, pairs.cols if whole else cols)
        found.append((cost(pairs, block, processors), block))
    limit = TOLERANCE * min(found)[0]
    splits = min(-(-pairs.cols // block.cols) for spent, block in found if spent <= limit)

    def weighed(entry: tuple[int, Block]) -> float:
        spent, block = entry
        return float(spent * (block.rows * block.cols) ** WORTH)

    return min((x for x in found if -(-pairs.cols // x[1].cols) == splits), key=weighed)[1]


def heights(pairs: Pairs, fit: int, least: int, processors: int) -> set[int]:
    """Rows that are worth a look: those of full waves or of a part of one, and as many as fit with all columns or with
    a part of them."""
    across = -(-pairs.features // TILE_COLS)
    found = {wave * processors // across * TILE_ROWS for wave in range(1, MOST_WAVES + 1)}
    found |= {processors // (across * part) * TILE_ROWS for part in PARTS}
    found |= {fit // -(-pairs.cols // part) for part in PARTS}
    most = max(-(-pairs.rows // TILE_ROWS), 1) * TILE_ROWS
    return {min(max(rows // TILE_ROWS * TILE_ROWS, least), most) for rows in found | {least, most}}


def width(cols: int, fit: int) -> int:
    """Columns of equal blocks, of at most `fit`."""
    if fit >= cols:
        return cols
    blocks = -(-cols // max(fit // TILE_ROWS * TILE_ROWS, TILE_ROWS))
    return -(-cols // (blocks * TILE_ROWS)) * TILE_ROWS
