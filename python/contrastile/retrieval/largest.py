"""The k best of a gallery for every query."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..literals import Keep
from ..ops import stat_dtype, tiles
from ..ops.record import needs_of
from ..ops.rules import PerBlock
from ..ops.stream import Tile
from ..ranks import Group, collective
from ..spec import PairCall
from .candidates import Candidates, Gallery, RetrievalScore, count
from .values import differentiable

COLUMNS = 16384  # of a tile; more where each row keeps many
GROUP = 64  # columns of which first the largest alone is looked at


class TopK(NamedTuple):
    """What `topk` found, best first.

    Args:
        values: (N, k); -inf where there is no candidate left.
        indices: (N, k) int64; -1 there.

    Example:
        >>> found = topk(torch.eye(3), torch.eye(3), 1)
        >>> found.indices[:, 0].tolist()
        [0, 1, 2]
    """

    values: Tensor  # (N, k), -inf where there is no candidate left
    indices: Tensor  # (N, k) int64, -1 there


@collective
def topk(
    query: Tensor,
    gallery: Gallery,
    k: int,
    *,
    score: RetrievalScore = "dot",
    keep: Keep = "all",
    row_ids: Tensor | None = None,
    col_ids: PerBlock | None = None,
    row_groups: Tensor | None = None,
    col_groups: PerBlock | None = None,
    row_labels: Tensor | None = None,
    col_labels: PerBlock | None = None,
    partner: Tensor | None = None,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    col_bias: Tensor | None = None,
    mask: Tensor | None = None,
    group: Group = None,
) -> TopK:
    """The k best candidates of every query, without the N x M matrix of scores.

        s_ij = <query_i, gallery_j> + col_bias_j,      values_i = the k largest kept s_ij, best first

    Equal scores come in the order of their index, and of those that compete for the last place the lowest index is
    taken; NaN is larger than every number and passes low and high. Where fewer than k candidates are left, the rest is
    -inf with index -1.

    Args:
        query: (N, D), float32 | bfloat16 | float16 | float64; not normalized here.
        gallery: (M, D); several tensors are blocks joined in order. None: the queries among themselves, where no item
            is its own candidate. With another score, the tensors (M, D) whose matched rows are the tuples.
        k: >= 1, also more than M.
        score: "dot"; or a score that is small for a good match, with its sign changed: "volume", -volume(query_i, x_j,
            y_j, ...) as in gram_volume_matrix; "area", minus the area of the triangle query_i, x_j, y_j;
            "squared_area", -2 area^2, the logit of triangle_loss.
        keep: Which pairs are candidates: "all", a test, or a tuple of tests, as in pair_reduce.
        row_ids, col_ids: (N,), (M,) integers, for "same_id" and "other_id".
        row_groups, col_groups: (N,), (M,) integers, for "same_group" and "other_group".
        row_labels, col_labels: (N, L), (M, L) bool, for "shared_label" and "no_shared_label".
        partner: (N,) or (N, P) integers, columns by index, for "partner" and "no_partner"; -1: none.
        low, high: A number or one per query, (N,): candidates have low < s <= high. No gradient.
        col_bias: (M,), added to the scores of "dot".
        mask: (N, M) bool, True = may be a candidate.
        group: None: this process only. "world", a process group, or distributed.Ranks: query and gallery are this
            rank's share; candidates come from all ranks, and indices count through all ranks.

    Returns: TopK(values, indices), (N, k). Values are float32 (float64 for float64 features) and have a gradient, also
    to col_bias, in only the pairs that were found; it is added up in a fixed order.

    Raises: ValueError, TypeError: k is not an int >= 1; what pair_reduce refuses.

    Cost: 2 N M D FLOP (a volume of t tensors t times, an area 2 times that), O(N k + (N + M) D) memory. Scores of half
    precision are float32 products.

    Example:
        >>> query, gallery = torch.eye(3), torch.eye(3)[[2, 0, 1]]
        >>> topk(query, gallery, 1).indices[:, 0].tolist()
        [1, 2, 0]
    """
    wanted = Candidates(
        query, gallery, score, keep, row_ids, col_ids, row_groups, col_groups, row_labels, col_labels, partner, low,
        high, col_bias, mask, group,
    )  # fmt: skip
    return best(wanted, k)


def best(wanted: Candidates, k: int, keys: Callable[[Tile], Tensor] = Tile.logits) -> TopK:
    """keys: What of a tile is compared, -inf where there is no candidate."""
    count("k", k)
    pairs, stream = wanted.stream()
    found = Largest(stream.call, k, keys)
    stream.visit(found.see)
    values, index = found.values, found.index.masked_fill_(found.values == -torch.inf, -1)
    if any(needs_of(stream.args)):
        values = differentiable(pairs, stream, index, values)
    return TopK(values, index)


class Largest:
    """The best of the columns that were seen so far."""

    def __init__(
        self, call: PairCall, k: int, keys: Callable[[Tile], Tensor], dtype: torch.dtype | None = None
    ) -> None:
        """dtype: of the keys; None: of scores."""
        self.keys = keys
        n, device = len(call.rows), call.rows.features.device
        self.k, self.width = k, max(COLUMNS, 4 * k)
        self.values = torch.full((n, k), -torch.inf, dtype=dtype or stat_dtype(call.dtype), device=device)
        self.index = torch.full((n, k), -1, device=device)

    def see(self, call: PairCall) -> None:
        for tile in tiles(call, self.width):
            values, index = top(self.keys(tile), self.k)
            values = torch.cat([self.values[tile.rows], values], 1)
            index, order = torch.cat([self.index[tile.rows], index + tile.start], 1).sort(1)
            values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
            self.values[tile.rows] = values[:, : self.k]
            self.index[tile.rows] = index.gather(1, order[:, : self.k])


def numbers(tile: Tile) -> Tensor:
    """Scores, of which one that is NaN is no candidate."""
    z = tile.logits()
    return z.masked_fill_(z.isnan(), -torch.inf)


def top(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, or all, in any order; of equal ones that compete for the last place the first."""
    m = z.shape[1]
    values, index = unordered(z, min(k + 1, m))
    if m <= k:
        return values, index
    last, following = values[:, k - 1], values[:, k]
    tied = ((last == following) & (last != -torch.inf)) | following.isnan()
    values, index = values[:, :k], index[:, :k]
    if (rows := tied.nonzero()[:, 0]).numel():
        values, index = values.clone(), index.clone()
        values[rows], index[rows] = first_of_equal(z[rows], last[rows].unsqueeze(1), k)
    return values, index


def first_of_equal(z: Tensor, last: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of rows in which more than these are at least `last`, the smallest of them."""
    above = torch.where(last.isnan(), False, (z > last) | z.isnan())
    equal = (z == last) | (z.isnan() & last.isnan())
    left = k - above.sum(1, keepdim=True)
    index = (above | (equal & (equal.cumsum(1) <= left))).nonzero()[:, 1].view(-1, k)
    return z.gather(1, index), index


def unordered(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk. Where rows are long first that of the groups' largest: in the k best groups are the k best."""
    groups = z.shape[1] // GROUP
    if groups < 2 * k:
        found = z.topk(k, sorted=True)
        return found.values, found.indices
    whole = z[:, : groups * GROUP].unflatten(1, (groups, GROUP))
    place = whole.amax(2).topk(k, sorted=False).indices
    candidates = whole.gather(1, place.unsqueeze(2).expand(-1, -1, GROUP)).flatten(1)
    found = torch.cat([candidates, z[:, groups * GROUP :]], 1).topk(k, sorted=True)
    within, inside = found.indices, found.indices < k * GROUP
    first = place.gather(1, (within // GROUP).clamp_max(k - 1)) * GROUP + within % GROUP
    return found.values, torch.where(inside, first, within - k * GROUP + groups * GROUP)
