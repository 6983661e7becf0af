"""The native CPU module: addresses in, nothing checked. Built from csrc/cpu; common/pairs.h and cpu/block.h
document every field."""

class Side:
    on: bool
    threshold: int
    peak: int
    total: int
    positive: int
    arg: int
    stat: int
    weight: int
    positive_weight: int
    grad_sum: int
    grad_score_sum: int

class Block:
    a: int
    b: int
    directions: int
    b_direction: int
    n: int
    m: int
    d: int
    row_origin: int
    col_origin: int
    dtype: int
    row_scale: int
    col_scale: int
    row_bias: int
    col_bias: int
    score: int
    offset: bool
    floor: float
    row_norm: int
    col_norm: int
    row_ids: int
    col_ids: int
    mask: int
    mask_stride: int
    keep: int
    positives: int
    keep_positives: bool
    same: bool
    reduce: int
    row: Side
    col: Side
    scores: int
    score_stride: int
    score_direction: int
    grad: int
    grad_stride: int
    grad_direction: int
    grad_type: int
    factor: int
    threads: int

class SmallCall:
    block: Block
    row_weight: int
    row_positive_weight: int
    col_weight: int
    col_positive_weight: int
    grad_a: int
    grad_b: int

def isa() -> str: ...
def supported_isas() -> list[str]: ...
def native_bf16() -> bool: ...
def column_padding() -> int: ...
def packed_bytes(m: int, d: int, dtype: int) -> int: ...
def pack(b: int, m: int, d: int, dtype: int, out: int, threads: int) -> None: ...
def stats(block: Block) -> None: ...
def score_grad(block: Block) -> None: ...
def small_call(problem: SmallCall) -> float: ...
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
) -> None: ...
