"""Margins over all k-tuples of k batches (Symile's O(N^(k-1)) negatives), streamed with O(k N D) memory.

One sweep over the N^k scores serves all k anchors. The tuples are cut into slabs: one choice of rows (t_3 .. t_k) of
the modalities after the second makes N rows x1 * x3[t_3] * .. * xk[t_k] against the N columns x2, an ordinary block of
the driver. Its row statistics belong to anchor 1, its column statistics to anchor 2, and its total to the index t_m of
every further anchor m. Backward recomputes a slab: with H = dL/d(rows of the slab), dx1 += H * prod_m x_m[t_m] and
dx_m[t_m] += column sums of H * x1 * (the other factors). 8 N^k D FLOP forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import driver
from ..backends import select
from ..monoid import SideStats, finish, merge, neutral, stat_dtype
from ..replay import as_one_step
from ..spec import Needs, PairCall, PairSpec, PairTest, Reduce, Side, Upstream
from . import check
from .autograd import forward_only, once, run
from .library import LIB, TAGS, converted, no_autocast, register

# The true tuple is left out of the statistic and summed apart: margins then need no difference of near-equal numbers
SPEC = PairSpec(Reduce.LSE, PairTest.OTHER_ID, PairTest.SAME_ID, cols=True)
GROUP_ROWS = 4096  # rows of small slabs that share a call of the driver, so that calls do not dominate
GROUP_BYTES = 8 << 20  # of their features

LIB.define(
    "tuple_margins(Tensor[] modalities, Tensor scale, str backend, SymInt budget) -> "
    "(Tensor margins, Tensor parts, Tensor scores)",
    tags=TAGS,
)
LIB.define(
    "tuple_margins_backward(Tensor[] modalities, Tensor scale, str backend, Tensor parts, Tensor scores, "
    "Tensor weight, bool[] needs) -> Tensor[]",
    tags=TAGS,
)


def tuple_margins(modalities: Sequence[Tensor], scale: Tensor, *, memory_budget: int, backend: str) -> Tensor:
    """How far the tuples that share one row with a true tuple outweigh it, (k, N), differentiable once.

        margin[m, i] = log sum_{t: t_m = i, t not (i, .., i)} e^{z_t} - z_(i, .., i)
        z_t = scale sum_d prod_l x_l[t_l, d]

    Args:
        modalities: k >= 2 batches (N, D) of one type, float32 or float64, N >= 1.
        scale: 0-dim. memory_budget: bytes of scores saved from forward for backward (6 instead of 8 N^k D FLOP).

    Returns: (k, N), float32 or float64; -inf for N = 1, which has no other tuple.
    """
    check.no_transforms()
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (scale, *modalities))
    # torch.compile cannot trace a tensor that is given twice
    different = [x.view_as(x) for x in modalities]
    margins: Tensor = as_one_step(MarginsFunction.apply, backend, memory_budget if wanted else 0, scale, *different)
    return margins


# ---- autograd -------------------------------------------------------------------------------------------------------


class MarginsFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: str, budget: int, scale: Tensor, *modalities: Tensor) -> Tensor:
        output = run("tuple_margins", margins_forward, modalities[0], list(modalities), scale, backend, budget)
        margins, parts, scores = output
        ctx.backend = backend
        ctx.save_for_backward(parts, scores, scale, *modalities)
        return margins  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Any, ...]:
        needs = list(ctx.needs_input_grad[2:])
        grads = iter(once(partial(margin_gradients, ctx.backend, needs), weight, *ctx.saved_tensors))
        return (None, None, *(next(grads) if need else None for need in needs))


def margin_gradients(backend: str, needs: list[bool], *tensors: Tensor) -> tuple[Tensor, ...]:
    weight, parts, scores, scale, *modalities = tensors
    backward = torch.ops.contrastile.tuple_margins_backward.default
    return tuple(backward(modalities, scale, backend, parts, scores, weight, needs))


# ---- slabs ----------------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """Some slabs, stacked as rows of one call."""

    call: PairCall
    indices: list[Tensor]  # per modality after the second: the row it brings to each slab, (G,)
    factors: list[Tensor]  # those rows, (G, D)
    product: Tensor  # of the factors, (G, D)


class Sweep:
    """The slabs of one operator call, in an order that depends on shapes alone."""

    def __init__(self, modalities: Sequence[Tensor], scale: Tensor, backend: str) -> None:
        self.first, second, *self.others = modalities
        self.n, self.dtype = self.first.shape[0], self.first.dtype
        self.backend = select(backend, self.first.device, self.dtype, self.n**2)
        self.kind = self.backend.compute_dtype(self.dtype, self.first.device)
        self.scale = scale.to(stat_dtype(self.dtype))
        self.own = torch.arange(self.n, device=self.first.device)
        cols = Side(converted(second, self.dtype, self.kind), ids=self.own)
        cols.prepared = self.backend.prepare(cols.features)
        self.columns = [cols]

    def groups(self) -> Iterator[Group]:
        slabs, size = self.n ** len(self.others), group_slabs(self.n, self.first.shape[1])
        for start in range(0, slabs, size):
            yield self.group(torch.arange(start, min(start + size, slabs), device=self.own.device))

    def group(self, slab: Tensor) -> Group:
        """slab: numbers whose digits in base N are the index tuple."""
        indices = [slab // self.n**power % self.n for power in range(len(self.others))]
        factors = [x[index] for x, index in zip(self.others, indices, strict=True)]
        product = product_of(factors, self.first.new_ones(len(slab), self.first.shape[1]))
        rows = (self.first * product[:, None]).flatten(0, 1)
        ids = self.own.expand(len(slab), -1)
        for index in indices:
            ids = torch.where(ids == index[:, None], ids, -1)
        side = Side(
            converted(rows, self.dtype, self.kind), scale=self.scale.expand(len(rows)).contiguous(), ids=ids.flatten()
        )
        return Group(PairCall(SPEC, side, list(self.columns)), indices, factors, product)

    def hits(self, index: Tensor) -> Tensor:
        """(N, G): whether the slab brings this row."""
        return self.own[:, None] == index


def group_slabs(n: int, d: int) -> int:
    """Slabs per call."""
    return max(min(GROUP_ROWS, GROUP_BYTES // (4 * max(d, 1))) // n, 1)


def score_numbers(n: int, k: int, padding: int) -> int:
    """Scores of all tuples, as a backend lays them out."""
    slabs: int = n ** (k - 2)
    return slabs * n * (n + padding)


def product_of(factors: Sequence[Tensor], one: Tensor) -> Tensor:
    for x in factors:
        one = one * x
    return one


# ---- statistics -----------------------------------------------------------------------------------------------------


def margins_forward(
    modalities: Sequence[Tensor], scale: Tensor, backend: str, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    with no_autocast(modalities[0]):
        sweep = Sweep(modalities, scale, backend)
        buffer = new_buffer(sweep, budget)
        store = driver.ScoreStore(buffer if len(buffer) else None)
        stats = [neutral(SPEC.numbers, sweep.first, sweep.n) for _ in modalities]
        for group in sweep.groups():
            sides = driver.statistics(driver.Plan(group.call, sweep.backend), store)
            found = by_anchor(sweep, group, sides.rows.result(), sides.cols[0].result())
            stats = [merge(x, y) for x, y in zip(stats, found, strict=True)]
        buffer[store.used :].zero_()  # an output holds no uninitialised memory
        positive = stats[0].positive
        assert positive is not None
        parts = torch.stack([finish(x) for x in stats])
        return parts[..., 0] - positive + parts[..., 1], parts, buffer


def new_buffer(sweep: Sweep, budget: int) -> Tensor:
    dtype = sweep.scale.dtype
    size = (
        min(budget // dtype.itemsize, score_numbers(sweep.n, len(sweep.others) + 2, sweep.backend.padding))
        if sweep.backend.saves_scores
        else 0
    )
    return torch.empty(size, dtype=dtype, device=sweep.own.device)


def by_anchor(sweep: Sweep, group: Group, rows: SideStats, cols: SideStats) -> list[SideStats]:
    """A group's share in the statistics of every anchor."""
    assert rows.peak is not None and rows.total is not None and rows.positive is not None
    peak, total = rows.peak.view(-1, sweep.n), rows.total.view(-1, sweep.n)
    first = joined(peak, total, 0)
    first.positive = rows.positive.view(-1, sweep.n).sum(0)
    slabs = joined(peak, total, 1)
    assert slabs.peak is not None and slabs.total is not None
    stats = [first, cols]
    for index in group.indices:
        here = sweep.hits(index)
        stats.append(joined(torch.where(here, slabs.peak, -torch.inf), torch.where(here, slabs.total, 0.0), 1))
    return stats


def joined(peak: Tensor, total: Tensor, dim: int) -> SideStats:
    """Partial log-sum-exps merged along a dimension."""
    top = peak.amax(dim)
    base = torch.where(top == -torch.inf, 0.0, top).unsqueeze(dim)
    return SideStats(top, (total * (peak - base).exp()).sum(dim), None, None)


# ---- gradients ------------------------------------------------------------------------------------------------------


def margins_backward(
    modalities: Sequence[Tensor], scale: Tensor, backend: str, parts: Tensor, scores: Tensor, weight: Tensor,
    needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    with no_autocast(modalities[0]):
        sweep = Sweep(modalities, scale, backend)
        store = driver.ScoreStore(scores if len(scores) else None)
        parts = torch.where(parts == -torch.inf, 0.0, parts)  # without other tuples no score gradient reads it
        need_scale, *need = needs
        sums = [torch.zeros_like(x) if wanted else None for x, wanted in zip(modalities, need, strict=True)]
        scale_sum = torch.zeros_like(sweep.scale)
        wants = Needs(need[0] or any(need[2:]), [need[1]], row_scale=need_scale)
        for group in sweep.groups():
            give_weights(sweep, group, parts, weight)
            found = driver.gradients(driver.Plan(group.call, sweep.backend), wants, store)
            if found.row_scale is not None:
                scale_sum += found.row_scale.sum()
            add_group(sweep, group, found.a, found.blocks[0], sums)
        return ([scale_sum.to(scale.dtype)] if need_scale else []) + [x for x in sums if x is not None]


def give_weights(sweep: Sweep, group: Group, parts: Tensor, weight: Tensor) -> None:
    """Statistics and upstream gradients of both sides.

    The anchors after the second have one statistic per slab, so they join the rows': sum_m w_m e^(z - u_m) is
    w e^(z - u) with u the smallest of the u_m, which no z of the row exceeds, and w = sum_m w_m e^(u - u_m).
    """
    call, slabs = group.call, len(group.product)
    stat, folded = parts[0].expand(slabs, -1, -1), weight[0].expand(slabs, -1)
    for m, index in enumerate(group.indices, start=2):
        other, more = parts[m, index][:, None], weight[m, index][:, None]
        above = (stat - other).sum(2)
        stat = torch.where((above <= 0).unsqueeze(2), stat, other)
        folded = folded * above.neg().clamp_max(0).exp() + more * above.clamp_max(0).exp()
    positive = weight.sum(0).neg().expand(slabs, -1)
    vectors = (x.flatten(0, 1).contiguous() for x in (stat, folded, positive))
    driver.attach(call, Upstream(*vectors), Upstream(parts[1].contiguous(), weight[1].contiguous()))


def add_group(sweep: Sweep, group: Group, rows: Tensor | None, cols: Tensor | None, sums: list[Tensor | None]) -> None:
    """Adds a group's gradients: of its stacked rows, taken apart into their factors, and of its columns."""
    first, second, *others = sums
    if second is not None and cols is not None:
        second += cols
    if rows is None:
        return
    rows = rows.view(len(group.product), *sweep.first.shape)
    if any(x is not None for x in others):
        of_product = (rows * sweep.first).sum(1)
        for m, total in enumerate(others):
            if total is not None:
                rest = group.factors[:m] + group.factors[m + 1 :]
                # a product with zeros and ones, not an indexed addition: its order is fixed on every device
                total.addmm_(sweep.hits(group.indices[m]).to(total.dtype), product_of(rest, of_product))
    if first is not None:
        first += rows.mul_(group.product[:, None]).sum(0)


# ---- registration ---------------------------------------------------------------------------------------------------


def fake_forward(modalities: Sequence[Tensor], scale: Tensor, backend: str, budget: int) -> tuple[Tensor, ...]:
    first, k = modalities[0], len(modalities)
    n, dtype = first.shape[0], stat_dtype(first.dtype)
    chosen = select(backend, first.device, first.dtype, n * n)
    every = score_numbers(n, k, chosen.padding)
    size = torch.sym_min(budget // dtype.itemsize, every) if budget > 0 and chosen.saves_scores else 0
    return (
        first.new_empty((k, n), dtype=dtype), first.new_empty((k, n, 2), dtype=dtype),
        first.new_empty((size,), dtype=dtype),
    )  # fmt: skip


def fake_backward(modalities: Sequence[Tensor], scale: Tensor, *rest: Any) -> list[Tensor]:
    return [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for x, need in zip((scale, *modalities), rest[-1], strict=True)
        if need
    ]


def _register() -> None:
    for name, implementation, fake in (
        ("tuple_margins", margins_forward, fake_forward),
        ("tuple_margins_backward", margins_backward, fake_backward),
    ):
        register(name, implementation, fake)


_register()
forward_only("tuple_margins")
