"""Second derivatives, of dot products reduced to log-sum-exps or sums of softplus.

The gradient of a reduction, in a direction v, is a sum over pairs: of dL/dz, which depends on z, on statistics and on
upstream gradients, times the change of z along v. The engine differentiates the statistics; with these as arguments,
what is left is to differentiate that sum. Autograd does so in chunks of rows of plain torch: a chunk's pairs are all
that is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..backends.base import SmallExtras
from ..backends.torch_functors import FUNCTORS
from ..backends.torch_pairs import across, affine
from ..backends.torch_rules import Masks, sides_of
from ..monoid import log_add, softplus, stat_dtype
from ..spec import PairBlock, Reduce, Score, Side
from . import library, record
from .record import Arguments

CHUNK = 1 << 18  # pairs differentiated at once; about 20 matrices of them are held


def offered(args: Arguments) -> bool:
    """Whether gradients of such a call may be differentiated."""
    return args.score == Score.DOT and args.second_a is None and args.reduce in (Reduce.LSE, Reduce.SOFTPLUS)


@dataclass
class Vectors:
    """A side's tensors that may be differentiated, and in the same fields their directions or gradients."""

    features: Tensor | None = None  # (n, d)
    scale: Tensor | None = None  # (n,), as the rest
    bias: Tensor | None = None
    stat: Tensor | None = None
    positive_stat: Tensor | None = None
    weight: Tensor | None = None
    positive_weight: Tensor | None = None
    positive_stat_weight: Tensor | None = None

    def slice(self, start: int, stop: int) -> Vectors:
        return Vectors(*(None if x is None else x[start:stop] for x in self.all()))

    def all(self) -> list[Tensor | None]:
        return [getattr(self, x.name) for x in fields(self)]

    def leaves(self) -> Vectors:
        return Vectors(*(None if x is None else x.detach().requires_grad_() for x in self.all()))

    def zeros(self) -> Vectors:
        return Vectors(*(None if x is None else torch.zeros_like(x) for x in self.all()))


@dataclass
class Call:
    """What a gradient is a function of."""

    args: Arguments  # not square
    rows: Vectors
    cols: Vectors  # of all columns
    sides: tuple[Side, list[Side]] = field(init=False)  # what the rules read

    def __post_init__(self) -> None:
        call, _ = library.build_call(replace(self.args, backend="torch"))
        self.sides = call.rows, call.blocks


def unfolded(args: Arguments) -> Arguments:
    """A square call with its columns given, which have no statistics of their own."""
    if not args.square:
        return args
    return replace(args, blocks=[args.a], square=False, cols=False, col_bias=args.row_bias)


def call_of(args: Arguments, statistics: Sequence[Tensor | None], row: Sequence[Any], col: Sequence[Any]) -> Call:
    """row, col: upstream gradients as library.upstream_of takes them."""
    args, dtype = unfolded(args), stat_dtype(args.a.dtype)

    def wide(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(dtype)

    columns = torch.cat(args.blocks) if len(args.blocks) > 1 else args.blocks[0]
    lse = args.reduce == Reduce.LSE
    stat = [x if lse else None for x in statistics]
    rows = Vectors(
        wide(args.a), wide(args.scale.expand(args.n)), wide(args.row_bias), stat[0], stat[2], wide(row[0]),
        wide(row[1]) if args.positives else None, wide(row[2]),
    )  # fmt: skip
    cols = Vectors(wide(columns), wide(args.col_scale), wide(args.col_bias))
    if args.cols:
        cols.stat, cols.positive_stat, cols.weight = stat[1], stat[3], wide(col[0])
        cols.positive_weight, cols.positive_stat_weight = wide(col[1]) if args.positives else None, wide(col[2])
    return Call(args, rows, cols)


def derivatives(call: Call, rows: Vectors, cols: Vectors) -> tuple[Vectors, Vectors]:
    """Of the gradient along (rows, cols), in all that the gradient is a function of."""
    every, of_rows, of_cols = call.cols.leaves(), call.rows.zeros(), call.cols.zeros()
    step = max(1, CHUNK // max(call.args.m, 1))
    for start in range(0, call.args.n, step):
        stop = min(start + step, call.args.n)
        own = call.rows.slice(start, stop).leaves()
        with torch.enable_grad():
            total = along(call, own, every, rows.slice(start, stop), cols, start)
        wanted = [x for x in (*own.all(), *every.all()) if x is not None]
        found = iter(torch.autograd.grad(total, wanted, allow_unused=True))
        targets = [x for x in (*of_rows.slice(start, stop).all(), *of_cols.all()) if x is not None]
        for target, grad in zip(targets, found, strict=True):
            if grad is not None:
                target += grad
    return of_rows, of_cols


def along(call: Call, own: Vectors, every: Vectors, rows: Vectors, cols: Vectors, start: int) -> Tensor:
    """The gradient's component along (rows, cols), of some rows."""
    side, blocks = call.sides
    assert own.features is not None
    total, first = own.features.new_zeros(()), 0
    for block in blocks:
        last = first + len(block)
        part, others = side.slice(start, start + len(own.features)), every.slice(first, last)
        row, col = replace(part, scale=own.scale, bias=own.bias), replace(block, scale=others.scale, bias=others.bias)
        mask = None if call.args.mask is None else call.args.mask[start : start + len(row), first:last]
        pairs = PairBlock(call.args.spec, row, col, mask)
        total = total + of_pairs(pairs, own, others, rows, cols.slice(first, last))
        first = last
    return total


def of_pairs(block: PairBlock, row: Vectors, col: Vectors, row_way: Vectors, col_way: Vectors) -> Tensor:
    assert row.features is not None and col.features is not None
    dots, total = row.features @ col.features.T, row.features.new_zeros(())
    for sides in sides_of_one_z(block, row, col):
        dim = sides[0][0][1]
        of_z = change(dots, *seen(block, dim, row, col), *seen(block, dim, row_way, col_way))
        total = total + (slopes(block, affine(block, dots, dim), sides) * of_z).sum()
    return total


Sided = tuple[tuple[Side, int], Vectors]  # a side as torch_rules.sides_of has it, and what may be differentiated


def sides_of_one_z(block: PairBlock, row: Vectors, col: Vectors) -> list[list[Sided]]:
    """The sides that have a statistic, those that see the same z together."""
    sides = list(zip(sides_of(block), (row, col), strict=False))
    return [[side] for side in sides] if block.spec.own_scales else [sides]


def seen(block: PairBlock, dim: int, row: Vectors, col: Vectors) -> tuple[Vectors, Vectors]:
    """As the statistics along dim see them: without the scale that is not theirs."""
    if not block.spec.own_scales:
        return row, col
    return (row, replace(col, scale=None)) if dim else (replace(row, scale=None), col)


def change(dots: Tensor, row: Vectors, col: Vectors, row_way: Vectors, col_way: Vectors) -> Tensor:
    """Of z along the directions."""
    assert row.features is not None and col.features is not None
    by_row, by_col = across(row.scale, 1), across(col.scale, 0)
    rows, cols = [], []
    if row_way.features is not None:
        rows, cols = [row_way.features], [col.features]
    if col_way.features is not None:
        rows, cols = [*rows, row.features], [*cols, col_way.features]
    found = torch.cat(rows, 1) @ torch.cat(cols, 1).T if rows else torch.zeros_like(dots)
    found = times(times(found, by_row), by_col)
    for way, other in ((across(row_way.scale, 1), by_col), (across(col_way.scale, 0), by_row)):
        found = found if way is None else found + times(dots * way, other)
    for bias in (across(row_way.bias, 1), col_way.bias):
        found = found if bias is None else found + bias
    return found


def times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


def slopes(block: PairBlock, z: Tensor, sides: Sequence[Sided]) -> Tensor:
    """dL/dz, as TorchBackend.score_grad has it, of tensors that are differentiated."""
    rules, functor = Masks(block, z.detach()), FUNCTORS[block.spec.reduce]
    found = torch.zeros_like(z)
    for (side, dim), x in sides:
        for positives, stat, weight in (False, x.stat, x.weight), (True, x.positive_stat, x.positive_stat_weight):
            if weight is not None:
                drop = rules.drops(side, dim, positives)
                kept = z if drop is None else z.masked_fill(drop, -torch.inf)
                slope = softmax_share(kept, stat, dim) if functor.slope is None else functor.slope(kept)
                found = found + slope * weight.unsqueeze(dim)
        if x.positive_weight is not None and rules.positive is not None:
            slope = z.new_ones(()) if functor.positive_slope is None else functor.positive_slope(z)
            slope = slope if rules.share is None else slope * rules.share
            found = found + torch.where(rules.positive, slope * x.positive_weight.unsqueeze(dim), 0.0)
    return found


def softmax_share(z: Tensor, stat: Tensor | None, dim: int) -> Tensor:
    """e^(z - stat). What a float32 of the statistic, which is float64, leaves is subtracted last."""
    assert stat is not None
    some = torch.where(stat == -torch.inf, 0.0, stat)
    base = some.detach().to(z.dtype)
    return ((z - base.unsqueeze(dim)) - (some - base.to(some.dtype)).to(z.dtype).unsqueeze(dim)).exp()


STATISTICS = 4  # of rows and columns, of positives of rows and of columns; float64, None: there is none


def second_gradients(
    statics: tuple[Any, ...], needs: list[bool], count: int, *tensors: Tensor | None
) -> tuple[Tensor | None, ...]:
    """tensors: gradients of the gradients, as many as needs are true; the statistics; `count` upstream gradients of
    rows and of columns; the tensors of the record. Returned: gradients of all but the first."""
    ways, rest = tensors[: sum(needs)], tensors[sum(needs) :]
    statistics, row, col, given = (
        rest[:STATISTICS], rest[STATISTICS : STATISTICS + count], rest[STATISTICS + count : STATISTICS + 2 * count],
        rest[STATISTICS + 2 * count :],
    )  # fmt: skip
    args = record.restored(statics, given)
    with torch.no_grad(), library.no_autocast(args.a):
        call = call_of(args, statistics, row, col)
        rows, cols = derivatives(call, *directions(args, call, ways, needs))
        flat = [x for x, need in zip(of_inputs(args, rows, cols), needs, strict=True) if need and x is not None]
        inputs = record.wanted_inputs(args, needs)
    none = [None] * (count - 3)
    return (
        rows.stat, cols.stat, rows.positive_stat, cols.positive_stat,
        rows.weight, rows.positive_weight, rows.positive_stat_weight, *none,
        cols.weight, cols.positive_weight, cols.positive_stat_weight, *none,
        *record.by_tensor([x.to(y.dtype) for x, y in zip(flat, inputs, strict=True)], needs),
    )  # fmt: skip


def directions(
    args: Arguments, call: Call, ways: Sequence[Tensor | None], needs: Sequence[bool]
) -> tuple[Vectors, Vectors]:
    """The directions of rows and columns, from one for each input that is needed."""
    flat, dtype = iter(ways), stat_dtype(args.a.dtype)
    every = [next(flat) if need else None for need in needs]
    every = [None if x is None else x.to(dtype) for x in every]
    named = dict(zip(record.GRADS, every, strict=False))
    scale, blocks = named["scale"], every[len(record.GRADS) :]
    rows = Vectors(named["a"], None if scale is None else scale.expand(args.n), named["row_bias"])
    if args.square:
        return rows, Vectors(named["a"], named["col_scale"], named["row_bias"])
    if all(x is None for x in blocks):
        return rows, Vectors(None, named["col_scale"], named["col_bias"])
    of_blocks = [x.new_zeros(x.shape).to(dtype) if y is None else y for x, y in zip(args.blocks, blocks, strict=True)]
    return rows, Vectors(torch.cat(of_blocks), named["col_scale"], named["col_bias"])


def of_inputs(args: Arguments, rows: Vectors, cols: Vectors) -> list[Tensor | None]:
    """The gradients in the order of record.inputs."""
    assert rows.features is not None and rows.scale is not None and cols.features is not None
    scale = rows.scale if args.scale.dim() else rows.scale.sum()
    named: dict[str, Tensor | None] = {
        "a": rows.features, "scale": scale, "col_scale": cols.scale, "row_bias": rows.bias, "col_bias": cols.bias
    }  # fmt: skip
    blocks: Sequence[Tensor] = ()
    if args.square:
        named |= {"a": rows.features + cols.features, "col_bias": None}
        if rows.bias is not None and cols.bias is not None:
            named["row_bias"] = rows.bias + cols.bias
    else:
        blocks = cols.features.split([len(x) for x in args.blocks])
    return [*(named.get(name) for name in record.GRADS), *blocks]


def each_prefix(args: Arguments) -> Iterator[tuple[float, Arguments]]:
    """The call of each prefix and its weight; without prefixes the call."""
    if not args.prefixes:
        yield 1.0, args
    for index, (end, weight) in enumerate(zip(args.prefixes, args.prefix_weights, strict=True)):
        yield weight, replace(
            args, a=args.a[:, :end], blocks=[x[:, :end] for x in args.blocks], scale=args.scale[index],
            col_scale=None if args.col_scale is None else args.col_scale[index], prefixes=[], prefix_weights=[],
        )  # fmt: skip


def weighed(args: Arguments, weights: Sequence[Any], extras: SmallExtras, found: Sequence[Tensor]) -> Tensor:
    """The value of driver.value.weighed, float64, from statistics as autograd.public_outputs returns them."""
    rows, cols, *positives = found
    if extras.private is not None:
        own = torch.einsum("nd,nkd->nk", args.a.to(rows.dtype), extras.private.to(rows.dtype))
        rows = log_add(rows, (args.scale.reshape(-1, 1) * own).logsumexp(1))
    value = of_side(args, extras.sets, rows, positives[0 : 2 + args.split : 2], weights[0], weights[1])
    if weights[2] is None:
        return value
    return value + of_side(args, extras.sets, cols, positives[1 : 3 + args.split : 2], weights[2], weights[3])


def of_side(
    args: Arguments, sets: int, stat: Tensor, positives: Sequence[Tensor], weight: Any, positive_weight: Any
) -> Tensor:
    """positives: their sum and, where they are apart, their log-sum-exp."""
    term = stat
    if args.split:
        others, own = (reduce(log_add, x.view(sets, -1).unbind()) for x in (stat, positives[1]))
        kept = own != -torch.inf
        margin = torch.where(kept, others, -torch.inf) - torch.where(kept, own, 0.0)
        term = softplus(margin) if sets > 1 or args.cross_entropy else log_add(own, others)
        weight = weight[: len(term)] if isinstance(weight, Tensor) else weight
    elif args.cross_entropy:
        term = softplus(torch.where(stat == -torch.inf, stat, stat - positives[0]))
    value: Tensor = (weight * term.masked_fill(term == -torch.inf, 0.0)).sum()
    return value if positive_weight is None else value + (positive_weight * positives[0]).sum()
