"""A rank's columns as tensors that can travel, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..spec import Side

NUMBERS = ("scale", "bias", "threshold", "weight", "positive_weight")


@dataclass(frozen=True)
class Form:
    """What the tensors of a shard hold: the same on every rank."""

    directions: int
    flat: bool  # one tile as (n, d), not (1, n, d)
    numbers: tuple[str, ...]
    stat: bool
    ids: bool
    on: bool


def form_of(side: Side) -> Form:
    numbers = tuple(name for name in NUMBERS if getattr(side, name) is not None)
    return Form(
        len(side.directions), side.features.dim() == 2, numbers, side.stat is not None, side.ids is not None, side.on
    )


def pack(sides: Sequence[Side], form: Form) -> list[Tensor]:
    """The column blocks of a rank, one after the other: features (m, directions d), numbers (m, v), ids (m,)."""
    tensors = [joined([x.directions.movedim(0, 1).flatten(1) for x in sides])]
    if form.numbers or form.stat:
        tensors.append(joined([numbers_of(x, form) for x in sides]))
    if form.ids:
        tensors.append(joined([x.ids for x in sides if x.ids is not None]))
    return tensors


def numbers_of(side: Side, form: Form) -> Tensor:
    columns = [getattr(side, name) for name in form.numbers]
    return torch.stack([*columns, *(side.stat.unbind(1) if side.stat is not None else ())], 1)


def unpack(tensors: Sequence[Tensor], form: Form, blocks: Sequence[tuple[int, int]]) -> list[Side]:
    """The sides of a shard from their (origin, rows)."""
    sides, start = [], 0
    for origin, rows in blocks:
        part = slice(start, start + rows)
        features = tensors[0][part]
        if not form.flat:
            features = features.unflatten(1, (form.directions, -1)).movedim(1, 0).contiguous()
        side = Side(features, origin, on=form.on, ids=tensors[-1][part] if form.ids else None)
        if form.numbers or form.stat:
            side = with_numbers(side, tensors[1][part], form)
        sides.append(side)
        start += rows
    return sides


def with_numbers(side: Side, numbers: Tensor, form: Form) -> Side:
    count = len(form.numbers)
    values = {name: x.contiguous() for name, x in zip(form.numbers, numbers[:, :count].unbind(1), strict=True)}
    stat = numbers[:, count:].contiguous() if form.stat else None
    return replace(side, **values, stat=stat)  # type: ignore[arg-type]


def joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
