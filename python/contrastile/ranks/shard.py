"""A rank's columns as tensors that can travel, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..spec import NUMBERS, PARTS, READERS, Side


@dataclass(frozen=True)
class Form:
    """What the tensors of a shard hold: the same on every rank."""

    directions: int
    flat: bool  # one direction as (n, d), not (1, n, d)
    numbers: tuple[str, ...]
    parts: tuple[str, ...]  # statistics in parts
    words: tuple[tuple[str, int, int], ...]  # operands of rules: name, words of an item, blocks that have it as bits
    on: bool
    kinds: int  # column blocks of a rank
    second: bool  # there are second operands


def form_of(sides: Sequence[Side]) -> Form:
    first = sides[0]
    numbers = tuple(name for name in NUMBERS if getattr(first, name) is not None)
    words = []
    for name in READERS:
        there = [getattr(side, name) for side in sides]
        if given := [x for x in there if x is not None]:
            blocks = sum(1 << place for place, x in enumerate(there) if x is not None)
            words.append((name, 1 if given[0].dim() == 1 else given[0].shape[1], blocks))
    parts = tuple(name for name in PARTS if getattr(first, name) is not None)
    second = first.second is not None
    return Form(
        len(first.directions), first.features.dim() == 2, numbers, parts, tuple(words), first.on, len(sides), second
    )  # fmt: skip


def pack(sides: Sequence[Side], form: Form) -> list[Tensor]:
    """The column blocks of a rank, one after the other: features (m, directions d), second operands (m, d'), numbers
    (m, v), words (m, w)."""
    tensors = [joined([x.directions.movedim(0, 1).flatten(1) for x in sides])]
    if form.second:
        tensors.append(joined([x.second for x in sides if x.second is not None]))
    if form.numbers or form.parts:
        tensors.append(joined([numbers_of(x, form) for x in sides]))
    if form.words:
        tensors.append(joined([words_of(x, form) for x in sides]))
    return tensors


def numbers_of(side: Side, form: Form) -> Tensor:
    columns = [getattr(side, name) for name in form.numbers]
    return torch.stack([*columns, *(x for name in form.parts for x in getattr(side, name).unbind(1))], 1)


def words_of(side: Side, form: Form) -> Tensor:
    def words(name: str, width: int) -> Tensor:
        x: Tensor | None = getattr(side, name)
        return side.features.new_zeros(len(side), width, dtype=torch.int64) if x is None else x.view(len(side), width)

    return torch.cat([words(name, width) for name, width, _ in form.words], 1)


def unpack(tensors: Sequence[Tensor], form: Form, blocks: Sequence[tuple[int, int]]) -> list[Side]:
    """The sides of a shard from their (origin, rows); of several ranks' shards, one after the other."""
    sides, start, kinds = [], 0, form.kinds
    for place, (origin, rows) in enumerate(blocks):
        part = slice(start, start + rows)
        features = tensors[0][part]
        if not form.flat:
            features = features.unflatten(1, (form.directions, -1)).movedim(1, 0).contiguous()
        side = Side(features, origin, on=form.on, second=tensors[1][part] if form.second else None)
        if form.numbers or form.parts:
            side = with_numbers(side, tensors[1 + form.second][part], form)
        if form.words:
            side = with_words(side, tensors[-1][part], form, place % kinds)
        sides.append(side)
        start += rows
    return sides


def with_words(side: Side, words: Tensor, form: Form, place: int) -> Side:
    """place: of the side among the blocks of a rank."""
    parts = words.split([width for _, width, _ in form.words], 1)
    values = {
        name: (x if name == "labels" else x[:, 0]).contiguous()
        for (name, _, there), x in zip(form.words, parts, strict=True)
        if there >> place & 1
    }
    return replace(side, **values)


def with_numbers(side: Side, numbers: Tensor, form: Form) -> Side:
    count = len(form.numbers)
    values = {name: x.contiguous() for name, x in zip(form.numbers, numbers[:, :count].unbind(1), strict=True)}
    values |= {name: x.contiguous() for name, x in zip(form.parts, numbers[:, count:].split(2, 1), strict=False)}
    return replace(side, **values)  # type: ignore[arg-type]


def joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
