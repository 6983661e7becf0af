"""NeMo Automodel's listwise distillation on embeddings, block of queries by block of queries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..losses.common import inverse, private_dots, reduced_empty, unit, upcast
from ..losses.soft_targets import same_items
from ..losses.weights import NOWHERE
from ..ops import check, matmul
from ..ops.pair import LOSS_BUDGET
from ..ranks import GlobalBatch, Group, given, one_of, size_of
from ..ranks.facts import Fact
from .row_blocks import sum_of_blocks

DIVERGENCES = ("kl", "ce", "mse")


@dataclass(frozen=True)
class Side:
    """The student's or the teacher's embeddings, in the type of the statistics."""

    queries: Tensor  # (N, D)
    documents: Tensor  # (N, D)
    hard: Tensor  # (N, K, D), K = 0 where there are none

    @staticmethod
    def of(name: str, queries: Tensor, documents: Tensor, hard: Tensor | None, normalize: bool) -> Side:
        first, second, third = (f"{name}_{kind}" for kind in ("queries", "documents", "hard_negatives"))
        check.features(first, queries)
        check.same_shape(second, check.features(second, documents), first, queries)
        check.same_device(second, documents, queries.device)
        n, d = queries.shape
        if hard is None:
            hard = queries.new_zeros(n, 0, d)
        elif check.features(third, hard, ndim=3).shape[0] != n or hard.shape[2] != d:
            raise ValueError(f"{third} must have shape ({n}, K, {d}), got {tuple(hard.shape)}")
        return Side(*(unit(upcast(x), normalize) for x in (queries, documents, hard)))

    def fixed(self) -> Side:
        return Side(self.queries.detach(), self.documents.detach(), self.hard.detach())

    def turned(self) -> Side:
        """Documents looking for queries, which have no hard negatives."""
        return Side(self.documents, self.queries, self.hard[:, :0])


def distilled(
    student: Side, teacher: Side, mask: Tensor | None, temperature: float | Tensor, direction: str, in_batch: bool,
    divergence: str, memory_budget: int | None, *, group: Group,
) -> Tensor:  # fmt: skip
    same_items("teacher_queries", teacher.queries, student.queries)
    if teacher.hard.shape[1] != student.hard.shape[1]:
        raise ValueError(
            f"teacher_hard_negatives must be {student.hard.shape[1]} for each query, got {teacher.hard.shape[1]}"
        )
    scale, n = inverse(temperature, student.queries), student.queries.shape[0]
    facts: dict[str, Fact | int] = dict(
        divergence=one_of(divergence, DIVERGENCES), hard=size_of(student.hard, 1), mask=given(mask),
        width=student.queries.shape[1], teacher_width=teacher.queries.shape[1],
    )  # fmt: skip
    batch = GlobalBatch.of(group, n, facts=lambda: facts)
    if batch.total == 0:
        return reduced_empty(0, "mean", student.queries, student.documents, student.hard, scale)
    parts = []
    if direction != "d2q":
        parts.append(one_way(student, teacher, mask, scale, in_batch, divergence, memory_budget, batch))
    if direction != "q2d":
        sides = student.turned(), teacher.turned()
        parts.append(one_way(*sides, None, scale, in_batch, divergence, memory_budget, batch))
    return torch.stack(parts).mean()


def one_way(
    student: Side, teacher: Side, mask: Tensor | None, scale: float | Tensor, in_batch: bool, divergence: str,
    memory_budget: int | None, batch: GlobalBatch,
) -> Tensor:  # fmt: skip
    """The mean over queries."""
    columns = batch.gather(student.documents) if in_batch else student.documents
    fixed = replace(teacher, documents=batch.gather(teacher.documents) if in_batch else teacher.documents)
    scale = torch.as_tensor(scale, dtype=columns.dtype, device=columns.device)

    def share(start: int, stop: int, queries: Tensor, documents: Tensor, hard: Tensor, factor: Tensor) -> Tensor:
        here = slice(start, stop)
        kept = None if mask is None else mask[here]
        z = factor * scores(Side(queries, documents, hard), here, in_batch)
        with torch.no_grad():
            t = factor * scores(fixed, here, in_batch)
        return divergences(masked(z, kept), masked(t, kept), divergence).sum() * batch.weight("mean")

    budget = LOSS_BUDGET if memory_budget is None else memory_budget
    rows = budget // (4 * max(len(columns) if in_batch else 1, 1))
    value: Tensor = sum_of_blocks(share, batch.n, rows, student.queries, columns, student.hard, scale)
    return value


def scores(side: Side, here: slice, in_batch: bool) -> Tensor:
    """(rows, candidates): documents, or the own one alone, then hard negatives."""
    queries = side.queries[here]
    if in_batch:
        found = matmul(queries, side.documents.T)
    else:
        found = (queries * side.documents[here]).sum(1, keepdim=True)
    return torch.cat([found, private_dots(queries, side.hard[here])], 1)


def masked(z: Tensor, kept: Tensor | None) -> Tensor:
    """Hard negatives, the last columns, that are padding have no weight."""
    if kept is None:
        return z
    first = z[:, : z.shape[1] - kept.shape[1]]
    return torch.cat([first, torch.where(kept, z[:, first.shape[1] :], NOWHERE)], 1)


def divergences(z: Tensor, t: Tensor, kind: str) -> Tensor:
    """Of each row. A candidate without weight is 0 * NOWHERE, which is a number."""
    if kind == "mse":
        return (z.softmax(1) - t.softmax(1)).square().sum(1)
    log_s, log_p = z.log_softmax(1), t.log_softmax(1)
    return (log_p.exp() * ((log_p - log_s) if kind == "kl" else -log_s)).sum(1)
