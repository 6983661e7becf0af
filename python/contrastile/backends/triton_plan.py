"""What small calls of one kind have in common, and the launches of one such call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..spec import Gradients, Needs, PairBlock, PairSpec, Score, Side
from .base import score_grad_dtype
from .products import set_products
from .small import gradients_in_order
from .triton_fused import add_gradients, fits_fused
from .triton_kernel import Kernel
from .triton_launch import Launch, operand_names, tuples
from .triton_merge import number_dtype, parts_of
from .underflow import bound_of, power_of_two

# numbers of an item that come with its finished statistic, in the order of triton_kernels.merge.Finish and of
# triton_kernels.rules.Upstream
SLOPES = {"slope": 1, "positive_slope": 1}
SLOPES_APART = {"positive_stat": 2, "positive_stat_slope": 1}
COPIED_PAIRS = 1 << 18  # pairs beyond which tiles are copied by descriptors: each costs the host as much as a launch
ALONE = 4  # programs whose work one does: it also adds up, where several need two operations more
SUMS = ("RowScaleGrad", "ColScaleGrad", "RowBiasGrad", "ColBiasGrad")  # as record.inputs has them, after the rows


class Given(NamedTuple):
    """A call's tensors as the kernels take them."""

    a: Tensor  # (n, d)
    b: Tensor  # (m, d) or (directions, m, d)
    row: Any  # triton_kernels.rules.Operands
    col: Any
    mask: Tensor | None
    weights: list[Tensor | float | None]  # of rows, of their sums over positives, of columns and of theirs

    def block(self, spec: PairSpec) -> PairBlock:
        """With scale as it is given."""
        row, col = (
            Side(x, on=on, **{name: getattr(given, name) for name in operand_names()})
            for x, given, on in ((self.a, self.row, True), (self.b, self.col, spec.cols))
        )
        return PairBlock(spec, row, col, None if self.mask is None else self.mask.view(torch.bool))


class Room:
    """Memory for many vectors in one piece, which costs less than piece by piece. Each begins at a multiple of 16
    bytes."""

    def __init__(self) -> None:
        self.size = 0
        self.offsets: dict[tuple[str, str], int] = {}
        self.types: dict[tuple[str, str], tuple[int, torch.dtype]] = {}

    def add(self, place: str, name: str, size: int, dtype: torch.dtype) -> None:
        self.offsets[place, name], self.types[place, name] = self.size, (size, dtype)
        self.size += -(-size * dtype.itemsize // 16) * 16

    def vectors(self, memory: Tensor) -> dict[tuple[str, str], Tensor]:
        parts = {at: memory[(start := self.offsets[at]) : start + n * t.itemsize] for at, (n, t) in self.types.items()}
        return {at: x.view(self.types[at][1]) for at, x in parts.items()}

    def addresses(self, memory: Tensor) -> dict[tuple[str, str], int]:
        start = memory.data_ptr()
        return {at: start + offset for at, offset in self.offsets.items()}


class Plan:
    """The kernels of a kind of call, and where they leave what."""

    def __init__(self, given: Given, args: Any, needs: Sequence[bool]) -> None:
        from ..triton_kernels import pair

        spec = args.spec
        block, wanted = given.block(spec), any(needs)
        self.spec, self.one_scale, self.needs, self.room = spec, args.scale.dim() == 0, tuple(needs), Room()
        self.narrow = given.a.dtype == torch.float16 and spec.score == Score.DOT
        self.late = wanted and spec.reduce.traits.additive  # sums come with score gradients: one product per pair
        self.fused = wanted and not self.late and fits_fused(given.a, block)
        apart = SLOPES_APART if spec.split else {}
        self.slopes = SLOPES | apart if args.cross_entropy or spec.split else {}
        wants = dict(zip(SUMS, needs[1:5], strict=True))
        if spec.square:
            wants["ColBiasGrad"] = wants["RowBiasGrad"]
        self.sums: dict[str, tuple[int, ...]] = {name: () for name, need in wants.items() if need}
        self.stats = self.score_grad = None
        copies = len(block.row) * len(block.col) > COPIED_PAIRS
        if not self.late:
            writer = Launch(block, copies=copies)
            self.stats, self.stats_features = writer.kernel(pair.stats, {}), writer.features
        if wanted and not self.fused:
            launch = Launch(block, Needs(False, [], stats=self.late), copies)
            writer = launch if self.late else writer
            self.plan_score_grad(block, launch)
        self.plan_finish(block, writer)
        self.kernels = [x for x in (self.stats, self.score_grad, self.finish) if x is not None]

    def plan_finish(self, block: PairBlock, writer: Launch) -> None:
        """What the tiles of this launch write of each side, and how it becomes a weighted sum."""
        from ..triton_kernels import merge

        types = tuples()
        self.places: dict[str, list[tuple[str, str] | None]] = {}
        parts = {"Row": writer.col_tiles} | ({"Col": writer.row_tiles} if writer.cols else {})
        items = {"Row": len(block.row), "Col": len(block.col)}
        for place, count in parts.items():
            written = parts_of(self.spec, count)
            for name, rows in written.items():
                self.room.add(place, name, rows * items[place], number_dtype(name))
            for name, size in {"stat": 2, **self.slopes}.items():
                self.room.add(place, name, size * items[place], torch.float32)
            self.places[place] = [(place, name) if name in written else None for name in types.numbers._fields]
        programs = -(-max(items.values()) // merge.ITEMS)
        self.programs = programs if programs > ALONE else 1
        fixed = {
            "row_parts": parts["Row"], "col_parts": parts.get("Col", 0), "n": items["Row"], "m": items["Col"],
            "ColFrom": types.numbers(), "ColTo": types.finish(), "POSITIVES": int(self.spec.positives),
            "SHARES": block.row.share is not None, "PARTS": merge.PARTS, "ITEMS": merge.ITEMS,
        }  # fmt: skip
        self.finish = Kernel(merge.finish, (self.programs,), fixed, {"num_warps": merge.WARPS})

    def plan_score_grad(self, block: PairBlock, launch: Launch) -> None:
        from ..triton_kernels import pair

        types = tuples()
        n, m = len(block.row), len(block.col)
        width = -(-m // 16) * 16  # rows begin at multiples of 16 bytes
        fixed = {"grad_stride": width, "grad_direction": n * width, "SecondGrad": None, "SecondScaleGrad": None}
        fixed |= {"RowOut": types.numbers(), "ColOut": types.numbers(), "ColUpstream": types.upstream()}
        fixed["Nothing"] = types.upstream()
        self.score_grad, self.features = launch.kernel(pair.score_grad, fixed), launch.features
        self.grad_shape, self.m = (*block.col.features.shape[:-2], n, width), m if m < width else None
        self.grad_dtype = block.row.features.dtype if self.narrow else score_grad_dtype(block)
        shapes = {"Row": (launch.col_tiles, n), "Col": (launch.row_tiles, m)}
        self.sums = {name: shapes[name[:3]] for name in self.sums}

    # ---- a call

    def run(self, given: Given) -> tuple[Tensor, list[Tensor]]:
        types = tuples()
        memory = torch.empty(self.room.size, dtype=torch.uint8, device=given.a.device)
        direct = not self.fused and all(kernel.direct for kernel in self.kernels)
        room: dict[Any, Any] = self.room.addresses(memory) if direct else self.room.vectors(memory)
        found = {place: types.numbers(*map(room.get, names)) for place, names in self.places.items()}
        block = {"Row": given.row, "Col": given.col, "Mask": given.mask}
        out = {f"{place}Out": x for place, x in found.items()}
        if self.late:
            weights = {
                "RowUpstream": types.upstream(None, *given.weights[:2]),
                "ColUpstream": types.upstream(None, *given.weights[2:]),
            }
            grads = self.gradients(given, block | out | weights)
            return self.weighed(given, room, found)[0], grads
        assert self.stats is not None
        self.stats(block | out | self.stats_features.arguments(given.a, given.b))
        value, upstream = self.weighed(given, room, found)
        if self.score_grad is not None:
            return value, self.gradients(given, block | upstream)
        return value, self.by_fused(given, upstream) if self.fused else []

    def weighed(self, given: Given, room: dict[Any, Any], found: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The weighted sum of the finished statistics, and each side's Upstream."""
        types, device = tuples(), given.a.device
        arguments, upstream = {}, {}
        for place, weights in zip(found, (given.weights[:2], given.weights[2:]), strict=False):
            stat, slopes = room[place, "stat"], [room[place, name] for name in self.slopes]
            arguments[f"{place}From"] = found[place]
            arguments[f"{place}To"] = types.finish(stat, *weights, *slopes)
            upstream[f"{place}Upstream"] = types.upstream(stat, *(slopes or weights))
        one = self.programs == 1
        total = torch.empty(() if one else self.programs, dtype=torch.float32 if one else torch.float64, device=device)
        self.finish(arguments | {"Sum": total})
        return total if one else total.sum().float(), upstream

    def gradients(self, given: Given, arguments: dict[str, Any]) -> list[Tensor]:
        """The wanted ones, in the order of record.inputs, by score gradients in memory."""
        assert self.score_grad is not None
        (a, b, *_), device = given, given.a.device
        factor = self.factor(given) if self.narrow else None
        grad = torch.empty(self.grad_shape, dtype=self.grad_dtype, device=device)
        sums = {name: torch.empty(size, dtype=torch.float32, device=device) for name, size in self.sums.items()}
        self.score_grad(arguments | self.features.arguments(a, b) | sums | {"Grad": grad, "Factor": factor})
        rows = torch.empty(a.shape, dtype=torch.float32, device=device) if self.needs[0] else None
        cols = rows
        if not self.spec.square:
            cols = torch.empty(b.shape, dtype=torch.float32, device=device) if self.needs[-1] else None
        if rows is not None or cols is not None:
            set_products(a, b, grad if self.m is None else grad[..., : self.m], rows, cols)
        totals = [None if (parts := sums.get(name)) is None else self.total(name, parts) for name in SUMS]
        return gradients_in_order(rows, totals, cols, self.spec.square, factor)

    def by_fused(self, given: Given, upstream: dict[str, Any]) -> list[Tensor]:
        """The same without score gradients in memory."""
        (a, b, *_), device, spec = given, given.a.device, self.spec
        block, factor = given.block(spec), self.factor(given) if self.narrow else None
        for name, found in upstream.items():
            side = block.row if name == "RowUpstream" else block.col
            for field, x in found._asdict().items():
                setattr(side, field, torch.full((len(side),), x, device=device) if isinstance(x, float) else x)
        block.factor = factor
        if self.one_scale:
            block.row.scale = given.row.scale.expand(len(a)).contiguous()

        def zeros(need: bool, like: Tensor, *shape: int) -> Tensor | None:
            return torch.zeros(shape or like.shape, dtype=torch.float32, device=device) if need else None

        n, m = len(a), len(b)
        rows, cols = zeros(self.needs[0], a), None if spec.square else zeros(self.needs[-1], b)
        sums = {name: zeros(name in self.sums, a, n if name[:3] == "Row" else m) for name in SUMS}
        row_scale, col_scale, row_bias, col_bias = sums.values()
        add_gradients(block, Gradients(rows, [cols], row_scale, col_scale, row_bias, col_bias))
        totals = [x.sum() if x is not None and self.of_one(name) else x for name, x in sums.items()]
        return gradients_in_order(rows, totals, cols, spec.square, factor)

    def total(self, name: str, parts: Tensor) -> Tensor:
        if self.of_one(name):
            return parts.sum()
        return parts[0] if len(parts) == 1 else parts.sum(0)

    def of_one(self, name: str) -> bool:
        """Whether all items have one number."""
        return self.one_scale and name == "RowScaleGrad"

    def factor(self, given: Given) -> Tensor:
        return power_of_two(
            bound_of(given.weights, [given.row.scale], [given.col.scale], self.spec.own_scales, given.a)
        )
