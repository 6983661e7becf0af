archs: str  # compiled in, e.g. "80;90;100"

# (count, error code, error name); never raises
def device_count() -> tuple[int, int, str]: ...

# (runtime linked in, newest runtime the driver serves, 0 without one), e.g. (13000, 0)
def versions() -> tuple[int, int]: ...

# (name, (major, minor), total memory in bytes, multiprocessors); RuntimeError with CUDA's reason
def device_properties(device: int) -> tuple[str, tuple[int, int], int, int]: ...
def error_name(code: int) -> str: ...
def error_string(code: int) -> str: ...

class Side:  # csrc/common/pairs.h documents every field of Side and Block
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
    directions: int
    n: int
    m: int
    row_origin: int
    col_origin: int
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
    workspace: int
    loss: int
    stream: int
    device: int

# bytes of device memory that stats, score_grad or small_call of this block needs at block.workspace
def stats_workspace(block: Block) -> int: ...
def score_grad_workspace(block: Block) -> int: ...
def small_call_workspace(block: Block) -> int: ...

# launched on block.stream of block.device; RuntimeError with the kernel's name and CUDA's reason
def stats(block: Block) -> None: ...
def score_grad(block: Block) -> None: ...
def small_call(block: Block) -> None: ...

largest_set: int  # vectors per sample that basis takes
largest_width: int  # numbers per vector

class VectorSets:  # csrc/cuda/api.h documents every field
    type: int
    count: int
    samples: int
    width: int
    directions: int
    lengths: int
    stream: int
    device: int

    # one more vector of every sample; grad: 0 where it is not written
    def add(self, vector: int, stride: int, grad: int) -> None: ...

# Gram-Schmidt of every sample's vectors, and its gradient; launched like stats and score_grad
def basis(sets: VectorSets) -> None: ...
def basis_backward(sets: VectorSets) -> None: ...

class ScoreSegments:  # csrc/cuda/api.h documents every field
    rows: int
    stride: int
    count: int
    scores: int
    offsets: int
    mask: int
    values: int
    args: int
    stream: int
    device: int

# largest scores and their columns; launched like stats and score_grad
def segment_max(segments: ScoreSegments) -> None: ...
