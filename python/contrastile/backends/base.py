"""What a backend is: two tile functions, one product, an honest answer to whether it can run, and its shortcuts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..monoid import SideStats, stat_dtype
from ..spec import Gradients, Limits, Needs, Packed, PairBlock, PairCall, Score, ScoreGradients
from .segments import SegmentReduces

CPU_LIMITS = Limits(workspace=32 << 20, max_chunk=768, square_chunk=384, kept_chunk=32)  # measured on CPUs
GPU_CHUNK = 4096  # rows on a GPU whose multiprocessors are not known, and of segments
# A block of p rows and q columns adds (p + q, d) products to float32 gradients, 8 bytes read and written for 2 p or 2 q
# operations each: from 2048 on the moves cost less than the products on an H100, which has 200 to 300 operations for a
# byte. Reasoned, not measured.
GPU_LEAST_CHUNK = 2048

SMALL_PAIRS = 1 << 24  # pairs of a call that is done at once on a GPU: its small operations would cost more than chunks
SMALL_ITEMS = 1 << 16  # rows and columns of such a call: beyond, one side is so short that chunks cost less memory

SmallWeights = Sequence[Tensor | float | None]


class SmallExtras(NamedTuple):
    """What a small call may have that the general way has not."""

    private: Tensor | None = None  # (n, count, d) columns of each row alone, in the rows' log-sum-exp
    # rows i, i + n / sets, .. are one item: the log-sum-exp of their others and that of their kept positives, which
    # have statistics of their own, enter weight * softplus(others - positives)
    sets: int = 1


class SmallLoss(ABC):
    """Calls that differ from the one it was made for in the numbers and places of their tensors alone: it returns the
    weighted sum and the wanted gradients, float32."""

    # of the tensors: fields of the record, "private", and of WEIGHTS; "blocks", "blocks 1", "blocks 2", ..: the blocks
    names: tuple[str, ...]

    def __call__(self, args: Any, weights: SmallWeights, extras: SmallExtras) -> tuple[Tensor, list[Tensor]]:
        """Of a record, its weights, and its extras."""
        return self.of_tensors([named(args, weights, extras, name) for name in self.names])

    @abstractmethod
    def of_tensors(self, given: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """given: as `names`. Whoever has those need not restore a record."""


WEIGHTS = ("row_weight", "row_positive_weight", "col_weight", "col_positive_weight")  # names of SmallWeights


def block_names(args: Any) -> list[str]:
    return [f"blocks {index}" if index else "blocks" for index in range(len(args.blocks))]


def named(args: Any, weights: SmallWeights, extras: SmallExtras, name: str) -> Any:
    """What SmallLoss.names calls so."""
    if name in WEIGHTS:
        return weights[WEIGHTS.index(name)]
    if name == "private":
        return extras.private
    return args.blocks[int(name[6:] or 0)] if name.startswith("blocks") else getattr(args, name)


# Adds the gradients of a block of any size, from finished statistics, to the accumulators; in a square call as both
# sides, to the rows'.
FusedGradients = Callable[[PairBlock, Gradients], None]


class SmallStats(NamedTuple):
    """The two halves of a small vector-mode call. Whoever offers one takes what the other leaves."""

    # record, bytes of scores that may be kept: what library.stats returns
    stats: Callable[[Any, int], tuple[Tensor, ...]]
    # record, finished statistics in parts of rows and columns and those of their kept positives, kept scores, gradients
    # as library.upstream_of takes them of rows and of columns, needs: the wanted gradients, float32
    gradients: Callable[
        [Any, Sequence[Tensor], Tensor, Sequence[Tensor | None], Sequence[Tensor | None], Sequence[bool]], list[Tensor]
    ]


class Bases(NamedTuple):
    """Orthonormal bases of small sets of vectors and their gradients, as ops/basis.py defines them."""

    forward: Callable[[Sequence[Tensor], Tensor, Tensor], None]  # vectors; writes directions and lengths
    # vectors, gradients of directions and lengths; writes those of the vectors
    backward: Callable[[Sequence[Tensor], Tensor, Tensor, Sequence[Tensor]], None]


class BackendUnsupported(RuntimeError):
    """The backend you named cannot run this call; the message gives a reason for every backend.

    Example:
        >>> try:
        ...     clip_loss(torch.randn(4, 8), torch.randn(4, 8), 10.0, backend="cuda")
        ... except BackendUnsupported as error:
        ...     print("refused")
        refused
    """


class Backend(ABC):
    """A way to compute tiles: seven methods to write. The others are shortcuts, which return the function that does the
    work at hand in one go, or None."""

    name: ClassVar[str]
    granularity: int = 1  # chunk sizes are multiples of it
    padding: int = 1  # score columns are padded to a multiple of it
    saves_scores: ClassVar[bool] = (
        False  # stats writes the scores that it computes to block.scores, for score_grad to read
    )
    takes_second: ClassVar[bool] = False  # it multiplies second operands (PairSpec.second)
    writes_halves: ClassVar[bool] = False  # score_grad writes float16 score gradients times block.factor
    sums_with_score_grad: ClassVar[bool] = (
        False  # score_grad can return a sum's statistics: one product per pair, not two
    )
    most_slices: int = 0  # blocks that slice_stats and slice_score_grad take at once

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why the backend cannot run on this machine at all; None if it can."""

    @abstractmethod
    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why the backend cannot run features of this device and dtype; None if it can."""

    @abstractmethod
    def limits(self, device: torch.device) -> Limits:
        """How much at once."""

    @abstractmethod
    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The type features are converted to, once, before the sweeps (exact: wider or equal)."""

    @abstractmethod
    def stats(self, block: PairBlock) -> tuple[SideStats, SideStats | None]:
        """Partial statistics of the block's rows and, where block.col.on, of its columns."""

    @abstractmethod
    def score_grad(self, block: PairBlock, needs: Needs) -> ScoreGradients:
        """dL/d<a, b> of the block from the finished statistics and their upstream gradients."""

    @abstractmethod
    def accumulate(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        """out (p, d) += x (p, q) @ y (q, d), accumulated in out's type (float32 or float64)."""

    # ---- defaults

    def prepare(self, features: Tensor) -> Packed | None:
        """Columns in the layout the tile functions want, made once per call."""
        return None

    def memory(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """For saved scores, without content."""
        return torch.empty(size, dtype=dtype, device=device)

    def pair_bytes(self, call: PairCall) -> int:
        """What a product of a pair of a block takes of the workspace."""
        return 4

    def saved_dtype(self, call: PairCall) -> torch.dtype | None:
        """Of what stats leaves in block.scores for score_grad, where a call has room for it; None: nothing."""
        return stat_dtype(call.dtype) if self.saves_scores else None

    def saved_width(self, columns: int) -> int:
        """Of a row of block.scores."""
        return -(-columns // self.padding) * self.padding

    def put(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        """out (p, d) = x (p, q) @ y (q, d), whatever it holds, as `accumulate`."""
        self.accumulate(out.zero_(), x, y)

    def narrow(self, call: PairCall) -> bool:
        """Whether score gradients must be scaled against underflow (PairCall.factor). The slopes of a distance and of
        second operands have no bound that would tell the factor: their score gradients stay float32."""
        bounded = call.spec.score == Score.DOT and not call.spec.second
        return self.writes_halves and call.dtype == torch.float16 and bounded

    # ---- slices: blocks of the same pairs whose features are one slice of the items' features after the other. The raw
    # products of a block are then those of its prefix of the features, the sums of the products of all blocks up to it;
    # scores, if they are kept, are these. Its score gradients, of the features of its slice, are the sums of those of
    # all prefixes that hold the slice, of all blocks from it on. For one product, Score.DOT, and without a factor.

    def slice_stats(self, blocks: Sequence[PairBlock]) -> list[tuple[SideStats, SideStats | None]]:
        """`stats` of each prefix."""
        raise NotImplementedError

    def slice_score_grad(self, blocks: Sequence[PairBlock], needs: Needs) -> list[ScoreGradients]:
        """`score_grad` of each prefix, but for the sums in grad. Only the last block may have kept scores."""
        raise NotImplementedError

    # ---- shortcuts

    def small_loss(
        self, args: Any, weights: SmallWeights, needs: Sequence[bool], extras: SmallExtras
    ) -> SmallLoss | None:
        """For a scalar-mode call so small that to describe it would cost more than the work. args: its record,
        ops.record.Arguments; weights: of rows, of their sums over positives, of columns and of theirs; needs: which
        gradients, in the order of record.inputs, that of private columns last."""
        return None

    def small_stats(self, args: Any) -> SmallStats | None:
        """For a vector-mode call so small, without second operands or a maximum. The answer depends on types and shapes
        alone: the forward pass and the backward pass ask."""
        return None

    def gradients(self, call: PairCall) -> FusedGradients | None:
        """For gradients that should not come from score gradients in memory."""
        return None

    def segments(self) -> SegmentReduces | None:
        """Reduces over segments of columns."""
        return None

    def bases(self, vectors: Sequence[Tensor]) -> Bases | None:
        """Bases of these vectors by a kernel; torch's operations make the others."""
        return None


def fits_at_once(args: Any, weights: SmallWeights, extras: SmallExtras) -> bool:
    """Whether a scalar-mode call is small enough to be done at once on a GPU. Not with float16 slopes that are known
    late: the weights, much larger, would choose the factor against underflow."""
    if extras.private is not None or extras.sets > 1 or len(args.blocks) > 1:
        return False
    n, m = args.n, args.m
    directions = 1 if args.square or args.blocks[0].dim() == 2 else args.blocks[0].shape[0]
    if (
        n + m > SMALL_ITEMS
        or not 0 < directions * n * m <= SMALL_PAIRS
        or (args.split and args.compute == torch.float16)
    ):
        return False
    return weights[2] is not None or not args.cols  # columns that weigh nothing have no slopes


@cache
def multiprocessors(device: torch.device) -> int:
    """0: nothing to fill. Of a device without kernels, which stands for a GPU, those of an H100."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return 132 if device.type == "meta" else 0


def gpu_limits(device: torch.device, workspace: int) -> Limits:
    """Blocks whose output products fill the device."""
    return Limits(
        workspace, GPU_CHUNK, GPU_CHUNK // 2, min_chunk=GPU_LEAST_CHUNK, processors=multiprocessors(device)
    )  # fmt: skip


def score_grad_dtype(block: PairBlock) -> torch.dtype:
    """What those backends write: bfloat16 as it is, float16 with a factor, else float32."""
    dtype = block.row.features.dtype
    return dtype if dtype == torch.bfloat16 or block.factor is not None else torch.float32
