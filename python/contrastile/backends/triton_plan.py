"""What small calls of one kind have in common, and the launches of one such call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..spec import Gradients, Needs, PairBlock, Score
from .base import WEIGHTS, score_grad_dtype
from .products import feature_gradients
from .small import gradients_in_order
from .triton_device import on_device
from .triton_fused import add_gradients, fits_fused
from .triton_given import Given, Room, Setting
from .triton_kernel import Kernel, active_driver, undisturbed
from .triton_launch import Features, Launch, tuples
from .triton_merge import number_dtype, parts_of
from .triton_script import Code, Script
from .underflow import bound_of, power_of_two

# numbers of an item that come with its finished statistic, in the order of triton_kernels.merge.Finish and of
# triton_kernels.rules.Upstream
SLOPES = {"slope": 1, "positive_slope": 1}
SLOPES_APART = {"positive_stat": 2, "positive_stat_slope": 1}
COPIED_PAIRS = 1 << 18  # pairs beyond which tiles are copied by descriptors: each costs the host as much as a launch
ALONE = 4  # programs whose work one does: it also adds up, where several need two operations more
SUMS = ("RowScaleGrad", "ColScaleGrad", "RowBiasGrad", "ColBiasGrad")  # as record.inputs has them, after the rows

Result = tuple[Tensor, list[Tensor]]  # the weighted sum, the wanted gradients in the order of record.inputs


class Plan:
    """The kernels of a kind of call, and where they leave what."""

    def __init__(self, setting: Setting, given: Given) -> None:
        from ..triton_kernels import pair

        spec, needs = setting.spec, setting.needs
        block, wanted = given.block(spec), any(needs)
        self.setting, self.spec, self.device, self.room = setting, spec, given.a.device, Room()
        self.narrow = given.a.dtype == torch.float16 and spec.score == Score.DOT
        self.late = wanted and spec.reduce.traits.additive  # sums come with score gradients: one product per pair
        self.fused = wanted and not self.late and fits_fused(given.a, block)
        apart = SLOPES_APART if spec.split else {}
        self.slopes = SLOPES | apart if setting.cross_entropy or spec.split else {}
        wants = dict(zip(SUMS, needs[1:5], strict=True))
        if spec.square:
            wants["ColBiasGrad"] = wants["RowBiasGrad"]
        self.sums: dict[str, tuple[int, ...]] = {name: () for name, need in wants.items() if need}
        self.stats = self.score_grad = None
        self.script: Callable[..., Result] | None = None
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
        self.total = ((), torch.float32) if self.programs == 1 else ((self.programs,), torch.float64)
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
        self.grad_shape, self.m = (*block.col.features.shape[:-2], n, width), m
        self.grad_dtype = block.row.features.dtype if self.narrow else score_grad_dtype(block)
        self.grad_bytes = prod(self.grad_shape) * self.grad_dtype.itemsize
        shapes = {"Row": (launch.col_tiles, n), "Col": (launch.row_tiles, m)}
        self.sums = {name: self.parts_shape(name, shapes[name[:3]]) for name in self.sums}

    def parts_shape(self, name: str, shape: tuple[int, int]) -> tuple[int, ...]:
        """Of partial sums; one for each item is what is handed out."""
        return shape[1:] if shape[0] == 1 and not self.of_one(name) else shape

    # ---- a call

    def __call__(self, given: Sequence[Tensor], places: Sequence[int], numbers: Sequence[float | None]) -> Result:
        """places: addresses of the tensors."""
        run, index = self.script, self.device.index
        if run is None or not undisturbed(self.kernels):
            with on_device(self.device):
                return self.run(self.setting.given(given, numbers))
        active = active_driver()
        current = active.get_current_device()
        if index is None or index == current:
            return run(given, places, numbers, active.get_current_stream(current))
        with on_device(self.device):
            return run(given, places, numbers, active.get_current_stream(index))

    def run(self, given: Given) -> Result:
        """By launches of Triton's own, which look at every argument. Once they are compiled, the script takes their
        place."""
        total, room = self.empty(*self.total), self.room.vectors(self.empty((self.room.size,), torch.uint8))
        factor = self.factor(given) if self.narrow else None
        parts = {name: self.empty(shape) for name, shape in self.sums.items()}
        grad = None if self.score_grad is None else self.empty(self.grad_shape, self.grad_dtype)
        made = parts | {"Sum": total, "Grad": grad, "Factor": factor}
        for kernel, values in self.launches(given, room, made, lambda x: x.arguments(given.a, given.b)):
            kernel(values)
        if self.fused:
            return self.value(total), self.by_fused(given, factor, self.upstream(given, room))
        if all(kernel.direct for kernel in self.kernels):
            self.script = self.written()
        if grad is None:
            return self.value(total), []
        found = [*map(parts.get, SUMS)]
        return self.value(total), self.gradients(given.a, given.b, grad[..., : self.m], found, factor)

    def launches(
        self, given: Given, room: dict[Any, Any], made: dict[str, Any], features: Callable[[Features], dict[str, Any]]
    ) -> Iterator[tuple[Kernel, dict[str, Any]]]:
        """The kernels in order, with their arguments. made: what else they write to or read."""
        types, found = tuples(), {}
        for place, names in self.places.items():
            found[place] = types.numbers(*map(room.get, names))
        block = {"Row": given.row, "Col": given.col, "Mask": given.mask}
        out = {f"{place}Out": x for place, x in found.items()}
        upstream, grads = self.upstream(given, room), {x: made[x] for x in (*self.sums, "Grad", "Factor")}
        finish = {f"{place}From": x for place, x in found.items()} | {"Sum": made["Sum"]}
        for place, weights in zip(found, (given.weights[:2], given.weights[2:]), strict=False):
            slopes = [room[place, name] for name in self.slopes]
            finish[f"{place}To"] = types.finish(room[place, "stat"], *weights, *slopes)
        if self.stats is not None:
            yield self.stats, block | out | features(self.stats_features)
        if self.late and self.score_grad is not None:
            yield self.score_grad, block | out | upstream | grads | features(self.features)
        yield self.finish, finish
        if not self.late and self.score_grad is not None:
            yield self.score_grad, block | upstream | grads | features(self.features)

    def upstream(self, given: Given, room: dict[Any, Any]) -> dict[str, Any]:
        """What slopes are made of, of each side."""
        types, sides = tuples(), {"Row": given.weights[:2], "Col": given.weights[2:]}
        if self.late:
            return {f"{place}Upstream": types.upstream(None, *weights) for place, weights in sides.items()}
        found = {}
        for place in self.places:
            slopes = [room[place, name] for name in self.slopes]
            found[f"{place}Upstream"] = types.upstream(room[place, "stat"], *(slopes or sides[place]))
        return found

    def written(self) -> Callable[..., Result]:
        """`run` as a script."""
        names, script = (
            self.setting.names,
            Script("given, places, numbers, stream", device=self.device, empty=torch.empty),
        )
        at = {name: number for number, name in enumerate(names)}
        script.unpack([f"x{k}" for k in at.values()], "given")
        script.unpack([f"p{k}" for k in at.values()], "places")
        script.unpack([f"w{k}" for k in range(len(WEIGHTS))], "numbers")
        x, y = (f"x{at.get(name, at['a'])}" for name in ("a", "blocks"))
        weights = [Code(f"w{k}") if there else None for k, there in enumerate(self.setting.weighed)]
        given = self.setting.given([Code(f"p{k}") for k in at.values()], weights)

        def made(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Code:
            script.add(f"{name} = empty({shape}, dtype={script.text(dtype)}, device=device)")
            return Code(f"{name}.data_ptr()")

        def features(how: Features) -> dict[str, Any]:
            if not how.tma:
                return {"A": given.a, "B": given.b}
            script.add(f"described = {script.text(how.arguments)}({x}, {y})")
            return {name: Code(f"described['{name}']") for name in "AB"}

        values: dict[str, Any] = {"Factor": None, "Grad": Code("memory")}
        values["Sum"] = made("total", *self.total)
        for name, shape in self.sums.items():
            values[name] = made(name, shape, torch.float32)
        kind, start = (torch.uint8, 0) if self.score_grad is None else (self.grad_dtype, self.grad_bytes)
        script.add(f"memory = {made('piece', ((start + self.room.size) // kind.itemsize,), kind)}")
        if self.narrow:
            script.add(f"factor = {script.text(self.factor)}({script.text(self.setting.given)}(given, numbers))")
            values["Factor"] = Code("factor.data_ptr()")
        for kernel, arguments in self.launches(given, self.room.code(start), values, features):
            script.add(kernel.code(script, arguments))
        value = f"{script.text(self.value)}(total)" if self.programs > 1 else "total"
        if self.score_grad is None:
            script.add(f"return {value}, []")
        else:
            strides = torch.empty(self.grad_shape, device="meta").stride()
            script.add(f"grad = piece.as_strided({(*self.grad_shape[:-1], self.m)}, {tuple(strides)})")
            sums = ", ".join(name if name in self.sums else "None" for name in SUMS)
            factor = "factor" if self.narrow else None
            script.add(f"return {value}, {script.text(self.gradients)}({x}, {y}, grad, ({sums}), {factor})")
        return script.function()

    def gradients(
        self, a: Tensor, b: Tensor, grad: Tensor, parts: Sequence[Tensor | None], factor: Tensor | None
    ) -> list[Tensor]:
        """The wanted ones, by score gradients in memory. parts: as SUMS."""
        needs, square = self.setting.needs, self.spec.square
        rows, cols = feature_gradients(a, b, grad, needs[0], needs[-1], square)
        totals = [x if x is None else self.whole(x, name) for x, name in zip(parts, SUMS, strict=True)]
        return gradients_in_order(rows, totals, cols, square, factor)

    def by_fused(self, given: Given, factor: Tensor | None, upstream: dict[str, Any]) -> list[Tensor]:
        """The same without score gradients in memory."""
        (a, b, *_), device, spec = given, given.a.device, self.spec
        block, needs = given.block(spec), self.setting.needs
        for name, found in upstream.items():
            side = block.row if name == "RowUpstream" else block.col
            for field, x in found._asdict().items():
                setattr(side, field, torch.full((len(side),), x, device=device) if isinstance(x, float) else x)
        block.factor = factor
        if self.setting.one_scale:
            block.row.scale = given.row.scale.expand(len(a)).contiguous()

        def zeros(need: bool, like: Tensor, *shape: int) -> Tensor | None:
            return torch.zeros(shape or like.shape, dtype=torch.float32, device=device) if need else None

        n, m = len(a), len(b)
        rows, cols = zeros(needs[0], a), None if spec.square else zeros(needs[-1], b)
        sums = {name: zeros(name in self.sums, a, n if name[:3] == "Row" else m) for name in SUMS}
        row_scale, col_scale, row_bias, col_bias = sums.values()
        add_gradients(block, Gradients(rows, [cols], row_scale, col_scale, row_bias, col_bias))
        totals = [x.sum() if x is not None and self.of_one(name) else x for name, x in sums.items()]
        return gradients_in_order(rows, totals, cols, spec.square, factor)

    def whole(self, parts: Tensor, name: str) -> Tensor:
        """The gradient that these partial sums make up."""
        if self.of_one(name):
            return parts.sum()
        return parts if parts.dim() == 1 else parts.sum(0)

    def of_one(self, name: str) -> bool:
        """Whether all items have one number."""
        return self.setting.one_scale and name == "RowScaleGrad"

    def factor(self, given: Given) -> Tensor:
        return power_of_two(
            bound_of(given.weights, [given.row.scale], [given.col.scale], self.spec.own_scales, given.a)
        )

    def value(self, total: Tensor) -> Tensor:
        return total if self.programs == 1 else total.sum().float()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)
