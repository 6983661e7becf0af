"""The native CPU module: addresses in, nothing checked but enumerations. Built from csrc/cpu."""

from typing_extensions import Buffer

from .backends.native_struct import Layout

structs: dict[
    str, Layout
]  # Side, Block, SmallCall and its parts: documented in csrc/common/pairs.h and csrc/cpu/block.h
enumerations: dict[str, str]  # Reduce: "kLse, kSoftplus, ..."
traits: list[dict[str, bool]]  # what every reduce keeps, see spec.TRAITS

def isa() -> str: ...
def supported_isas() -> list[str]: ...
def native_bf16() -> bool: ...
def column_padding() -> int: ...
def packed_bytes(m: int, d: int, dtype: int) -> int: ...
def pack(b: int, m: int, d: int, dtype: int, out: int, threads: int) -> None: ...
def use_large_pages(data: int, bytes: int) -> None: ...

most_slices: int  # Blocks of one call

# Blocks, a SmallCall: structs in memory, as native_struct.new makes them
def stats(blocks: list[Buffer]) -> None: ...
def score_grad(blocks: list[Buffer]) -> None: ...
def small_call(problem: Buffer) -> None: ...

# SegmentScores
def segment_maxima(scores: Buffer) -> None: ...
def segment_softmax(scores: Buffer) -> None: ...
def segment_score_grad(scores: Buffer) -> None: ...
def segment_max_gradients(scores: Buffer) -> None: ...

largest_basis: int  # vectors of a sample

# vectors, grads: addresses of float32 (samples, d), grads for the gradient: directions and lengths are then given
def basis(
    vectors: list[int],
    grads: list[int],
    samples: int,
    d: int,
    exact: bool,
    count: int,
    directions: int,
    lengths: int,
    threads: int,
) -> None: ...
def gemm(
    a: int,
    a_row: int,
    a_col: int,
    b: int,
    b_row: int,
    b_col: int,
    c: int,
    c_row: int,
    m: int,
    n: int,
    k: int,
    dtype: int,
    threads: int,
    add: bool,
) -> None: ...
