"""The `cuda` backend: scores by cuBLAS through torch, then CUDA C++ epilogues over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..monoid import SideStats
from ..spec import Limits, Needs, PairBlock, ScoreGradients
from . import cuda_basis, native
from .base import (
    Backend,
    Bases,
    SmallExtras,
    SmallLoss,
    SmallWeights,
    fits_at_once,
    gpu_limits,
    score_grad_dtype,
)
from .cuda_segments import CudaSegments
from .cuda_small import SmallCall
from .native_block import (
    describe,
    new_stats,
    score_gradients,
    set_grad,
    set_scores,
    set_weighted_sides,
)
from .products import add_float_product, set_float_product

DRIVER_TOO_OLD = 35  # cudaErrorInsufficientDriver: also what the runtime says where there is no driver


class CudaBackend(Backend):
    """float32 scores of a chunk lie in memory; `stats` reads them, `score_grad` turns them into score gradients."""

    name = "cuda"
    granularity = 8
    padding = 8  # rows of scores and of bfloat16 score gradients start at multiples of 16 bytes
    saves_scores = True
    takes_second = True
    writes_halves = True

    def __init__(self) -> None:
        self.module: Any = native.cuda

    def unavailable(self) -> str | None:
        if self.module is None:
            return f"the compiled module is not installed ({native.import_errors['_cuda']})"
        return no_device(self.module) or self.other_architecture(torch.device("cuda", torch.cuda.current_device()))

    def other_architecture(self, device: torch.device) -> str | None:
        """Why the compiled kernels cannot run on the GPU."""
        return uncovered(self.module.archs, torch.cuda.get_device_capability(device)) if self.module else None

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cuda":
            return f"features are on {device}, it needs cuda"
        if torch.version.hip is not None:
            return "this torch is built for ROCm, it needs CUDA"
        if dtype == torch.float64:
            return "it computes in float32; float64 features need the torch backend"
        return self.other_architecture(device)

    def limits(self, device: torch.device) -> Limits:
        # more than the second-level cache: blocks whose scores fit it leave two thirds of the multiprocessors idle in
        # one of the output products, and add to the gradients three times as often
        return gpu_limits(device, 512 << 20)

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        return dtype

    def segments(self) -> CudaSegments:
        return CudaSegments(self)

    def bases(self, vectors: Sequence[Tensor]) -> Bases | None:
        """For every type of features, whatever backend serves the pairs."""
        if not cuda_basis.takes(self, vectors):
            return None
        return Bases(partial(cuda_basis.forward, self), partial(cuda_basis.backward, self))

    def small_loss(
        self, args: Any, weights: SmallWeights, needs: Sequence[bool], extras: SmallExtras
    ) -> SmallLoss | None:
        if not any(needs) or not fits_at_once(args, weights, extras):
            return None
        return SmallCall(self, args, weights, needs)

    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        add_float_product(out, x, y)

    def put(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        set_float_product(out, x, y)

    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        x = describe(self.module, block)
        scores = self.scores(x, block, block.scores)
        row, x.row = new_stats(self.module, block, block.row)
        col = None
        if block.both_sides:
            col, x.col = new_stats(self.module, block, block.col)
        self.launch(self.module.stats, self.module.stats_workspace, x, scores)
        return row, col

    def score_grad(self, block: PairBlock, needs: Needs) -> ScoreGradients:
        x = describe(self.module, block)
        # saved scores may be read again by another backward pass; those made here become the score gradients
        scores = block.scores if block.scores is not None else self.scores(x, block, None)
        planes = len(block.col.directions) + needs.second
        result = score_gradients(block, needs, self.place_grad(x, block, scores, planes))
        set_weighted_sides(self.module, x, block, result)
        assert not block.spec.reduce.traits.arg  # differentiated as a gather, never by tiles
        self.launch(self.module.score_grad, self.module.score_grad_workspace, x, scores)
        return result

    def place_grad(self, x: Any, block: PairBlock, scores: Tensor, planes: int) -> Tensor:
        """Memory for the gradients of the first products: that of scores which nobody keeps, where the type is
        theirs."""
        kind = score_grad_dtype(block)
        in_place = block.scores is None and kind == torch.float32
        grad = scores[:planes]
        if not in_place:
            grad = torch.empty(grad.shape, dtype=kind, device=scores.device)
        set_grad(x, grad, block.factor)
        return grad[:, :, : len(block.col)]

    def products(self, operands: Sequence[tuple[Tensor, Tensor]], out: Tensor | None) -> Tensor:
        """The raw products of rows and columns in float32, into `out` or new memory."""
        n, m = (len(x) for x in operands[0])
        if out is None:
            width = -(-m // self.padding) * self.padding
            device = operands[0][0].device
            out = torch.empty(len(operands), n, width, dtype=torch.float32, device=device)
        for (row, col), to in zip(operands, out[:, :, :m], strict=True):
            set_float_product(to, row, col.T)
        return out

    def scores(self, x: Any, block: PairBlock, out: Tensor | None) -> Tensor:
        """The products of a block, which x is told of."""
        found = self.products(block.operands, out)
        set_scores(x, found)
        return found

    def launch(self, function: Any, workspace_bytes: Any, x: Any, scores: Tensor) -> None:
        """Runs on torch's current stream, on which torch also orders the reuse of the workspace's memory."""
        workspace = torch.empty(workspace_bytes(x), dtype=torch.uint8, device=scores.device)
        x.workspace = workspace.data_ptr()
        x.device, x.stream = self.place(scores.device)
        function(x)

    def launch_packed(self, pack: Callable[..., bytes], size: int, device: torch.device, *addresses: int) -> None:
        """A small call, in the same way. pack: of the place, a workspace of this size, and the addresses."""
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        self.module.small_call(pack(*self.place(device), workspace.data_ptr(), *addresses))

    def place(self, device: torch.device) -> tuple[int, int]:
        """Device index and the address of the current stream."""
        index = torch.cuda.current_device() if device.index is None else device.index
        return index, torch._C._cuda_getCurrentRawStream(index)


@cache
def uncovered(archs: str, capability: tuple[int, int]) -> str | None:
    """Machine code runs on devices of its own generation that are not older; that of the newest comes with PTX, which
    newer generations compile."""
    compiled = sorted(divmod(int(arch.rstrip("af")), 10) for arch in archs.split(";"))
    same = any(arch[0] == capability[0] and arch <= capability for arch in compiled)
    if same or capability > compiled[-1]:
        return None
    return f"its kernels were compiled for {archs}, the device has compute capability {'.'.join(map(str, capability))}"


@cache
def no_device(module: Any) -> str | None:
    """Asked once, and not at import: the question starts the driver."""
    count, code, name = module.device_count()
    if count:
        return None if torch.cuda.is_available() else "torch finds no CUDA device (torch.cuda.is_available() is False)"
    if code == DRIVER_TOO_OLD:
        runtime, driver = module.versions()
        need = f"{runtime // 1000}.{runtime % 1000 // 10}"
        found = f"one for CUDA {driver // 1000}.{driver % 1000 // 10}" if driver else "none"
        return f"it needs a driver for CUDA {need} and found {found} ({name})"
    return f"there is no CUDA device ({name})"
