"""Candidates of a pair beside the keys of other pairs: those of its own side."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._dense import Scalar


class Side(NamedTuple):
    """Items of one side, with ids and groups or None."""

    features: Tensor
    ids: Tensor | None
    groups: Tensor | None


def with_sides(
    logits: Tensor,
    removed: Tensor,
    queries: Side,
    keys: Side,
    offset: int,
    temperature: Scalar,
    asked: tuple[bool, bool, bool],
    margins: tuple[float | None, float | None],
    frozen: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Logits and what is removed of them, with <q_i, q_j>, <k_o, k_j> and <k_o, q_j>, o = i + offset, as asked. The own
    index is removed, an equal id, another group, and what is above <q_i, k_o> by more than a margin. frozen: whether
    queries and keys as anchors have no gradient; where one has none, no candidate has one."""
    n = len(queries.features)
    own = Side(*(None if x is None else x[offset : offset + n] for x in (keys.features, keys.ids, keys.groups)))  # type: ignore[arg-type]
    positive = (queries.features * own.features).sum(1, keepdim=True)
    absolute, relative = margins
    index = torch.arange(n, device=logits.device)[:, None]
    blocks = ((queries, queries, 0, frozen[0]), (own, keys, offset, frozen[1]), (own, queries, 0, frozen[1]))
    for wanted, (rows, columns, first, fixed) in zip(asked, blocks, strict=True):
        if not wanted:
            continue
        x, y = (rows.features.detach() if fixed else rows.features), columns.features
        similarity = x @ (y.detach() if any(frozen) else y).T
        dropped = index + first == torch.arange(len(y), device=y.device)
        if rows.ids is not None and columns.ids is not None:
            dropped = dropped | (rows.ids[:, None] == columns.ids)
        if rows.groups is not None and columns.groups is not None:
            dropped = dropped | (rows.groups[:, None] != columns.groups)
        if absolute is not None:
            dropped = dropped | (similarity > positive + absolute)
        if relative is not None:
            dropped = dropped | (similarity > positive - relative * positive.abs())
        scale = temperature[:, None] if isinstance(temperature, Tensor) and temperature.dim() else temperature
        logits, removed = torch.cat([logits, similarity / scale], 1), torch.cat([removed, dropped], 1)
    return logits, removed
