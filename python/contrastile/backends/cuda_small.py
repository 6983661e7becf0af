"""A small problem on the cuda backend: one crossing launches all kernels between the products. What calls of one kind
have in common is in the struct that they pack, before the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..spec import Score
from .base import WEIGHTS, SmallLoss, SmallWeights, named
from .native_block import GRAD_TYPES
from .native_small import operand_fields
from .native_struct import packer
from .products import feature_gradients, float_product
from .small import NO_EXTRAS, given_names, gradients_in_order, taken
from .underflow import bound_of, power_of_two

WEIGHT_FIELDS = ("row.weight", "row.positive_weight", "col.weight", "col.positive_weight")
# of the rows' scale, the columns', the rows' bias, the columns', as record.inputs has them
SUMS = ("row.grad_score_sum", "col.grad_score_sum", "row.grad_sum", "col.grad_sum")


class SmallCall(SmallLoss):
    """Calls that differ in numbers and addresses alone. Weights that are numbers become vectors once: on torch's
    current stream, on which all calls must be made."""

    def __init__(self, backend: Any, args: Any, weights: SmallWeights, needs: Sequence[bool]) -> None:
        self.backend, self.needs, self.square, self.device = backend, tuple(needs), args.square, args.a.device
        self.names = names = given_names(args, weights)
        _, self.ways = taken(args, args.compute, names, weights)
        self.n, self.m, self.one_scale = args.n, args.m, args.scale.dim() == 0
        self.narrow = args.compute == torch.float16 and args.score == Score.DOT
        self.own_scales, self.width = args.own_scales, -(-args.m // backend.padding) * backend.padding
        kind = args.compute if self.narrow or args.compute == torch.bfloat16 else torch.float32
        self.grad_type = None if kind == torch.float32 else kind  # None: score gradients take the place of scores
        self.sums = tuple(name for name, need in zip(SUMS, wanted_sums(needs, args.square), strict=True) if need)
        self.numbers = {
            name: x for name, x in zip(WEIGHTS, weights, strict=True) if not (x is None or isinstance(x, Tensor))
        }
        self.constants = [
            torch.full((self.m if name.startswith("col") else self.n,), x, dtype=torch.float32, device=self.device)
            for name, x in self.numbers.items()
        ]
        shapes = {name: named(args, weights, NO_EXTRAS, name).shape for name in names}
        self.lay_out(args, shapes, kind)

    def lay_out(self, args: Any, shapes: dict[str, torch.Size], kind: torch.dtype) -> None:
        """The struct, and where tensors go in it."""
        directions, plane = shapes["blocks"][0] if len(shapes.get("blocks", ())) == 3 else 1, self.n * self.width
        fixed = {
            "directions": directions, "n": self.n, "m": self.m, "keep": args.keep, "positives": args.positives,
            "reduce": args.reduce, "keep_positives": args.keep_positives, "split": args.split,
            "own_scales": args.own_scales, "cross_entropy": args.cross_entropy, "row.on": True, "col.on": args.cols,
            "score_stride": self.width, "score_direction": plane, "grad_stride": self.width, "grad_direction": plane,
            "grad_type": GRAD_TYPES[kind],
        }  # fmt: skip
        numbers, operands = operand_fields(args)
        fixed |= numbers
        of_weights = dict(zip(WEIGHTS, WEIGHT_FIELDS, strict=True))
        operands |= {of_weights[name]: name for name in self.names if name in of_weights}
        self.operands = [self.names.index(name) for name in operands.values()]
        self.known = [x.data_ptr() for x in self.constants]
        fields = ("device", "stream", "workspace", "row_scale", "scores", "grad", "factor", "loss", *operands)
        fields = (*fields, *(of_weights[name] for name in self.numbers), *self.sums)
        module = self.backend.module
        self.pack = packer(module, "Block", fields, tuple(fixed.items()))
        self.workspace = module.small_call_workspace(self.pack(0, 0, *[16] * (len(fields) - 2)))

    def of_tensors(self, given: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        given = [x if way is None else way(x) for x, way in zip(given, self.ways, strict=True)]
        a, b, scale = given[0], given[0 if self.square else 1], given[1 if self.square else 2]
        factor = self.factor(dict(zip(self.names, given, strict=True)), a) if self.narrow else None
        row_scale = scale.expand(self.n).contiguous() if self.one_scale else scale
        scores = self.scores(a, b)
        grad = scores if self.grad_type is None else torch.empty(scores.shape, dtype=self.grad_type, device=self.device)
        loss = torch.empty((), dtype=torch.float32, device=self.device)
        sums = {
            name: torch.empty(self.n if name.startswith("row") else self.m, dtype=torch.float32, device=self.device)
            for name in self.sums
        }
        self.backend.launch_packed(
            self.pack, self.workspace, self.device, row_scale.data_ptr(), scores.data_ptr(), grad.data_ptr(),
            0 if factor is None else factor.data_ptr(), loss.data_ptr(), *[given[k].data_ptr() for k in self.operands],
            *self.known, *[x.data_ptr() for x in sums.values()],
        )  # fmt: skip
        if self.width > self.m:
            grad = grad[..., : self.m]
        rows, cols = feature_gradients(a, b, grad, self.needs[0], self.needs[-1], self.square)
        totals = [*map(sums.get, SUMS)]
        if (total := totals[0]) is not None and self.one_scale:
            totals[0] = total.sum()
        return loss, gradients_in_order(rows, totals, cols, self.square, factor)

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        """(n, width), or a matrix for each direction."""
        if b.dim() == 2 and self.width == self.m:
            return float_product(a, b.T)
        found: Tensor = self.backend.products([(a, direction) for direction in (b if b.dim() == 3 else b[None])], None)
        return found

    def factor(self, given: dict[str, Tensor], a: Tensor) -> Tensor:
        weights: list[Any] = [given.get(name, self.numbers.get(name)) for name in WEIGHTS]
        return power_of_two(bound_of(weights, [given["scale"]], [given.get("col_scale")], self.own_scales, a))


def wanted_sums(needs: Sequence[bool], square: bool) -> list[bool]:
    """A bias of the rows of a square call is that of the columns as well."""
    *first, row_bias, col_bias = needs[1:5]
    return [*first, row_bias, row_bias if square else col_bias]
