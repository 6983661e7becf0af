"""Queries and keys of two sets, with any number of positives each: by ids or by label sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from ..literals import BackendName, Direction, PositiveForm, Reduction, TestName
from ..ops import EngineOptions, Pairs, check
from ..ranks import GlobalBatch, Group, collective, given
from .candidates import extra_columns, promoted
from .common import engine_options, inverse, reduced_empty, unit
from .positives import Anchors, ManyPositives, counted_positives, equal_ids, turned_pairs, with_features
from .weights import direction_weights, item_weights

FORMS = get_args(PositiveForm)


@collective
def multi_positive(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    *,
    query_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
    negative_labels: Tensor | None = None,
    negative_groups: Tensor | None = None,
    form: PositiveForm = "out",
    per_pair: bool = False,
    temperature: float | Tensor = 0.07,
    direction: Direction = "mean",
    detach_keys: bool = False,
    weights: Tensor | None = None,
    key_weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Every query must find all its positives among the keys, and every key among the queries: SupCon of two sets.

        z_ij = <q_i, k_j> / temperature,   P(i) positives of i,  N(i) its negatives, A(i) both
        "out"   L_i = log sum_{A(i)} e^{z_ij} - 1/|P(i)| sum_{P(i)} z_ip
        "in"    L_i = log sum_{A(i)} e^{z_ij} - log sum_{P(i)} e^{z_ip}
        "each"  L_i = 1/|P(i)| sum_{p in P(i)} log(1 + sum_{N(i)} e^{z_ij - z_ip})

    In "out" and "each" all positives must be near; in "in" one is enough. In "each" positives never compete with each
    other.

    Args:
        query, key: (N, D), (M, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True.
        query_ids, key_ids: Integers, (N,), (M,): equal ids are positives. key_ids default to query_ids where M = N.
        query_labels, key_labels: Label sets, (N, L), (M, L) bool: sets that overlap are positives. If you give ids as
            well, ids name pairs to leave out: a pair with equal ids that shares no label is not a negative.
        query_groups, key_groups: Integers, (N,), (M,): only keys in the query's group are negatives. Positives may be
            in any group.
        negatives: Further keys of the queries that are not anchors, (K, D), such as a queue. Without gradient they cost
            none.
        negative_ids, negative_labels, negative_groups: Ids, label sets, and groups of negatives, (K,), (K, L), (K,).
            Those that match a query are its positives too. Without ids or labels they are positives of no query. Groups
            are required with query_groups.
        form: "out" | "in" | "each".
        per_pair: True: an anchor counts once per positive, so that the mean of "out" and "each" is the mean over all
            positive pairs.
        temperature: > 0, a float or a 0-dim tensor with gradient. Dimensionless; divides the similarity.
        direction: "mean" or "sum" of the two means (or sums) over queries and over keys; "rows": queries -> keys only;
            "cols": keys -> queries only.
        detach_keys: Candidates, including the positive, get no gradient: each direction trains only its anchors.
        weights, key_weights: (N,), (M,) >= 0, no gradient. The weight of each query and of each key as an anchor:
            "mean" divides by their sum.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" over the anchors that have a positive (0 if none has one), "sum", or "none": (N,) of queries,
            (M,) of keys, or with both directions (N + M,), queries first. An anchor without a positive has value 0 and
            no gradient.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            and every rank must make the call. A rank may have different numbers of queries and keys.

    Returns: float32 (float64 for float64 features), nats.
    Cost: 8 N M D FLOP forward and backward for both directions (6 where the scores fit memory_budget), 6 for one;
    "each" costs 20 and 14.

    Example:
        >>> query, key = torch.randn(4, 16), torch.randn(12, 16)  # three captions of each image
        >>> query_ids = torch.arange(4)
        >>> key_ids = query_ids.repeat_interleave(3)
        >>> loss = multi_positive(query, key, query_ids, key_ids, normalize=True)

    Source: "out": Yang et al. 2022 (UniCL), https://arxiv.org/abs/2204.03610; Khosla et al. 2020 (SupCon),
    https://arxiv.org/abs/2004.11362, eq. 2. "in": eq. 3 there, which adds log |P(i)|. "each": pytorch-metric-learning
    NTXentLoss; Wu et al. 2024 (SimLAP), https://arxiv.org/abs/2410.18200.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.choice("form", form, FORMS)
    row, col = direction_weights(direction)
    query, key, negatives = features(query, key, negatives, normalize)
    blocks = [key] if negatives is None else [key, negatives]
    matches = Matches.of(
        query, blocks, ids=(query_ids, key_ids, negative_ids), labels=(query_labels, key_labels, negative_labels),
        groups=(query_groups, key_groups, negative_groups),
    )  # fmt: skip
    idle = {"key_weights": key_weights} if not col else {"weights": weights, "negatives": negatives} if not row else {}
    for name, value in idle.items():
        if value is not None:
            raise ValueError(f"{name} must be None with direction={direction!r}: it would have no effect")
    each = [
        None if x is None else item_weights(name, x, like.shape[0], like)
        for name, x, like in (("weights", weights, query), ("key_weights", key_weights, key))
    ]
    scale = inverse(temperature, query)
    batches = GlobalBatch.several(
        engine.ranks, [query.shape[0], *(x.shape[0] for x in blocks)],
        lambda: dict(
            weights=given(weights), key_weights=given(key_weights), query_ids=given(query_ids),
            query_labels=given(query_labels), query_groups=given(query_groups), detach_keys=bool(detach_keys),
            per_pair=bool(per_pair), negatives=given(negatives), negative_ids=given(negative_ids),
        ),
        query.shape[0],
    )  # fmt: skip
    if batches[0].total == 0 or sum(x.total for x in batches[1:]) == 0:
        size = sum(batch.n for batch, wanted in zip(batches, (row, col), strict=False) if wanted)
        return reduced_empty(size, reduction, query, *blocks, scale)
    pairs = matches.pairs(query, blocks, scale, cols=col > 0.0)
    counts = matches.counts(pairs, batches, engine)
    sides = [
        Anchors.of(count, batch, reduction, query, own, bool(per_pair)).times(wanted)
        if wanted and count is not None
        else None
        for wanted, count, batch, own in zip((row, col), counts, batches[:2], each, strict=True)
    ]
    return two_directions(pairs, form, engine, sides, reduction, detach_keys)


def two_directions(
    pairs: Pairs, form: PositiveForm, engine: EngineOptions, sides: Sequence[Anchors | None], reduction: Reduction,
    detach_keys: bool,
) -> Tensor:  # fmt: skip
    """Of rows and of columns, as far as they are anchors: from one pass, unless candidates are frozen."""
    row, col = sides
    if row is not None and col is not None and not detach_keys:
        return ManyPositives(pairs, form, engine, row, col).loss(reduction)
    values = []
    for anchors, turn in ((row, False), (col, True)):
        if anchors is not None:
            own = turned_pairs(pairs) if turn else pairs
            own = with_features(own, Tensor.detach, rows=False) if detach_keys else own
            values.append(ManyPositives(own, form, replace(engine), anchors).loss(reduction))
    if len(values) == 1:
        return values[0]
    return torch.cat(values) if reduction == "none" else values[0] + values[1]


def features(
    query: Tensor, key: Tensor, negatives: Tensor | None, normalize: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Checked, of one type, unit-norm if asked."""
    check.same_width("key", check.features("key", key), "query", check.features("query", query))
    check.same_device("key", key, query.device)
    extra = None if negatives is None else extra_columns("negatives", negatives, query)
    query, key, extra, _ = promoted(query, key, extra, None)
    return unit(query, normalize), unit(key, normalize), None if extra is None else unit(extra, normalize)


Given = tuple[Tensor | None, Tensor | None, Tensor | None]  # an argument of queries, of keys and of negatives


@dataclass
class Operand:
    """What rules compare: of rows, and of every block of columns, of which some have none."""

    row: Tensor
    cols: list[Tensor | None]

    @staticmethod
    def of(name: str, values: Given, query: Tensor, blocks: list[Tensor]) -> Operand | None:
        names = [f"{side}_{name}" for side in ("query", "key", "negative")]
        row, key, extra = values
        if extra is not None and len(blocks) == 1:
            raise ValueError(f"{names[2]} need negatives")
        if row is None:
            for other, value in zip(names[1:], values[1:], strict=True):
                if value is not None:
                    raise ValueError(f"{other} need {names[0]}")
            return None
        prepared = check.label_sets if name == "labels" else check.ids
        device, n, m = query.device, query.shape[0], blocks[0].shape[0]
        if key is None and m != n:
            raise ValueError(f"{names[0]} need {names[1]} where there are {m} keys for {n} queries")
        row = prepared(names[0], row, n, device)
        cols: list[Tensor | None] = [row if key is None else prepared(names[1], key, m, device)]
        if len(blocks) > 1:
            cols.append(None if extra is None else prepared(names[2], extra, blocks[1].shape[0], device))
        for other, x in zip(names[1:], cols, strict=False):
            if x is not None and name == "labels":
                check.same_width(other, x, names[0], row)
        return Operand(row, cols)


@dataclass
class Matches:
    """Which pairs are positives, and which of the others are negatives."""

    ids: Operand | None
    labels: Operand | None
    groups: Operand | None

    @staticmethod
    def of(query: Tensor, blocks: list[Tensor], *, ids: Given, labels: Given, groups: Given) -> Matches:
        found = Matches(
            Operand.of("ids", ids, query, blocks), Operand.of("labels", labels, query, blocks),
            Operand.of("groups", groups, query, blocks),
        )  # fmt: skip
        if found.ids is None and found.labels is None:
            raise ValueError("query_ids or query_labels must be given: they say which pairs are positives")
        if found.groups is not None and len(blocks) > 1 and found.groups.cols[1] is None:
            raise ValueError("negative_groups must be given with negatives and query_groups")
        return found

    def pairs(self, query: Tensor, blocks: list[Tensor], scale: float | Tensor, cols: bool) -> Pairs:
        both = self.ids is not None and self.labels is not None
        tests: list[TestName] = ["other_id"] if both else []
        if self.groups is not None:
            tests.append("same_group")
        pairs = Pairs(
            query, blocks, scale, keep=tuple(tests) or "all", cols=cols,
            positives=("same_id" if self.labels is None else "shared_label",),
        )  # fmt: skip
        for name in ("ids", "labels", "groups"):
            if (operand := getattr(self, name)) is not None:
                setattr(pairs, f"row_{name}", operand.row)
                setattr(pairs, f"col_{name}", operand.cols)
        return pairs

    def counts(self, pairs: Pairs, batches: list[GlobalBatch], engine: EngineOptions) -> tuple[Tensor, Tensor | None]:
        """Positives of each query and, where keys are anchors, of each key."""
        if self.labels is not None or self.ids is None:
            of_rows, of_cols = counted_positives(pairs, engine)
            return of_rows, None if of_cols is None else of_cols[: batches[1].n]
        queries, keys, *extra = batches
        row, (key, *more) = self.ids.row, self.ids.cols
        assert key is not None
        count = equal_ids(row, keys.gather(key))
        for ids, batch in zip(more, extra, strict=True):
            if ids is not None:
                count = count + equal_ids(row, batch.gather_negatives(ids))
        return count, equal_ids(key, queries.gather(row)) if pairs.cols else None
