"""InfoNCE: the softmax contrastive loss of matched pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..literals import BackendName, Direction, Reduction
from ..ops import check
from ..ranks import GlobalBatch, Group, collective, given
from .blocks import Block
from .candidates import (
    check_direction,
    check_in_batch,
    extra_columns,
    further_sides,
    log_probs,
    matched_keys,
    promoted,
    refuse_together,
    smoothing_share,
    softmax_groups,
    softmax_ids,
)
from .common import (
    check_gathered,
    cleaned,
    engine_options,
    inverse,
    is_per_row,
    reduced_empty,
    unit,
)
from .in_batch import InBatch, given_report
from .matryoshka import Matryoshka, prefix_facts
from .private import Candidates, lists_of, prepared, private_candidates
from .softmax import Softmax, softmax_loss
from .weights import Counted


@collective
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    key_temperature: float | Tensor | None = None,
    negatives: Tensor | None = None,
    hard_negatives: Tensor | Candidates | None = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    negative_groups: Tensor | None = None,
    key_log_prob: Tensor | None = None,
    negative_log_prob: Tensor | None = None,
    positive_log_prob: bool = True,
    false_negative_margin: float | None = None,
    relative_margin: float | None = None,
    num_hard: int | None = None,
    in_batch: bool = True,
    query_query: bool = False,
    key_key: bool = False,
    key_query: bool = False,
    label_smoothing: float = 0.0,
    symmetric: bool = False,
    direction: Direction = "mean",
    detach_keys: bool = False,
    key_offset: int = 0,
    matryoshka: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    report: InBatch | None = None,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """InfoNCE: every query must find its own key among all keys of the batch and any further negatives.

        L_i = log sum_j e^{z_ij} - z_ii,    z_ij = <q_i, k_j> / temperature,
        j over [key | negatives | hard_negatives_i]

    Args:
        query, key: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows expected, or normalize=True. key
            may have more rows, see key_offset.
        temperature: > 0; float, 0-dim tensor or (N,) tensor, one per pair. Dimensionless, divides the similarity.
        key_temperature: That of the key -> query direction, where it is another one: float, 0-dim tensor or (N,), one
            per matched key. Needs symmetric=True. Both directions are one pass all the same, but not with
            matryoshka or the blocks of query_query, key_key and key_query.
        negatives: Columns shared by all queries (a queue, other documents), (M, D).
        hard_negatives: Private columns of each query, (N, K, D); or Candidates: lists of any length, rows of a bank by
            index, a bias. Holds N K logits.
        query_ids, key_ids, negative_ids: Integers, (N,), one per row of key, (M,). A column with the row's id is no
            negative of that row (its own positive stays). key_ids default to query_ids; negatives without ids are
            always kept.
        query_groups, key_groups, negative_groups: Integers, (N,), one per row of key, (M,): only candidates of the
            query's group are its negatives (clusters of an earlier stage of training). key_groups default to
            query_groups; negatives must have theirs, hard_negatives have none. Not with label_smoothing.
        key_log_prob, negative_log_prob: Logarithms of the probability (or expected count) with which each row of key
            and of negatives was sampled: subtracted from its logit, the positive's, too, so that the softmax is that
            over all candidates there are (sampled softmax, logQ correction). Finite, no gradient. Neither for
            hard_negatives nor in the key -> query direction, where they would cancel. Not with label_smoothing or
            false_negative_margin.
        positive_log_prob: False leaves the positive's own logit as it is; mean and sum then cost as much as "none".
        false_negative_margin: Drops columns of key and negatives with <q_i, k_j> > <q_i, k_i> + margin (similarity
            units). No gradient flows through the decision; ties are decided at rounding error.
        relative_margin: The same with <q_i, k_j> > <q_i, k_i> - relative_margin |<q_i, k_i>|: a share of the positive's
            similarity. With both, the lower limit holds.
        num_hard: K >= 1: of the negatives that ids and margin leave each row, the K largest count, and those that equal
            the last of them (to rounding); the positive always does. No gradient flows through the choice, which costs
            one more product of all pairs (two with symmetric=True, where each key has its K queries) and O(N K) memory.
            Not with hard_negatives, label_smoothing or log-probabilities.
        in_batch: False: negatives and hard_negatives alone are candidates, no other key of the batch (MoCo). Not with
            symmetric, label_smoothing, further keys or what keys have: ids, groups, log-probabilities.
        query_query, key_key, key_query: True adds to the sum of pair i, j != i, the other queries e^{<q_i, q_j> /
            temperature}, the other keys as its key sees them, e^{<k_i, k_j> / temperature}, or the other queries as its
            key sees them, e^{<k_i, q_j> / temperature}. All rows of key are other keys; negatives are not. Ids (of
            queries, of keys), groups and margins hold here, too, and with symmetric=True both directions have the same
            more terms; key_query is not for it. Each costs 4 (key_query 8) N^2 D FLOP, query -> key then 8. Not with
            label_smoothing, log-probabilities, num_hard or in_batch=False.
        label_smoothing: In [0, 1): that share of the target is spread over all candidates of the row, as in
            torch.nn.functional.cross_entropy. Not with ids or margin.
        symmetric: Query -> key and key -> query, from one pass; the extra negatives belong to the queries.
        direction: What symmetric=True makes of both: their "mean" or "sum"; or "rows", query -> key alone, or "cols",
            key -> query alone. What is not wanted is not computed.
        detach_keys: Candidates get no gradient, the positive neither: with symmetric=True, each direction gives
            gradient to its anchors only, in two passes (8 N^2 D FLOP together).
        key_offset: key is (M, D), M >= N, and the key of query i is its row key_offset + i: keys of this process's
            queries among keys gathered from elsewhere. The others are candidates, with symmetric=True no anchors. Not
            with group, which gathers by itself.
        matryoshka: Widths of prefixes of the features, like (64, 128, 256): the sum of the losses of all prefixes,
            weighted by matryoshka_weights (numbers, default 1 each). normalize=True makes every prefix unit rows; a
            prefix of a unit row is none. On the backends cpu and torch the scores of all prefixes come from one
            product: widths that double take about 1.5 times the time of one loss. There is a pass for each prefix with
            group, hard_negatives, label_smoothing, a margin, positive_log_prob=False or reduction="none", and on other
            backends.
        weights: (N,) >= 0, what each pair counts: w_i L_i, "mean" divides their sum by sum w_i (0 where that is 0). No
            gradient.
        present: (N,) bool: a pair of which a side is missing takes no part and is no candidate; what its features hold
            does not matter, their gradient is 0. "mean" is over those that are present.
        report: A contrastile.metrics.InBatch, which the call fills with its in-batch recall and the like. Not with
            matryoshka.
        reduction: "mean" | "sum" over rows, or "none": (N,).
        memory_budget, backend, group: As in pair_reduce / pair_loss. With a group, log-probabilities, weights and
            present are those of this rank's own items.

    Returns: float32 (float64 for float64 inputs), nats. An empty batch gives 0.

    Source: van den Oord et al. 2018, arXiv 1807.03748, eq. 4; margin as in the Qwen3-Embedding report,
    arXiv 2506.05176, relative as in NV-Retriever, arXiv 2407.15831; in_batch=False: He et al. 2020 (MoCo), arXiv
    1911.05722; num_hard: Wang and Liu 2021, arXiv 2012.09740, eq. 9; log-probabilities: Bengio and Senecal 2008
    (sampled softmax), Yi et al. 2019; temperatures per item: Qiu et al. 2023 (iSogCLR), arXiv 2305.11965; groups: Zhang
    et al. 2024 (MCL), arXiv 2402.11816; query_query, key_key, key_query: Li et al. 2023 (GTE), arXiv 2308.03281, eq. 5
    (all of them), the first two in the Qwen3-Embedding report; prefixes: Kusupati et al. 2022 (MRL), arXiv 2205.13147.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    check.same_width("key", check.features("key", key), "query", check.features("query", query))
    check.same_device("key", key, query.device)
    check_gathered(query, "key", key, key_offset, group)
    counted, n = Counted.of(weights, present, query), query.shape[0]
    prefixes = None
    if matryoshka is not None or matryoshka_weights is not None:
        prefixes = Matryoshka.of(matryoshka, matryoshka_weights, query.shape[1], normalize)
    normalize = bool(normalize) and prefixes is None  # else prefix by prefix
    check_direction(direction, symmetric, "key_temperature", key_temperature)
    scale = inverse(temperature, query, n, present=counted.present)
    key_scale = None
    if key_temperature is not None:
        key_scale = inverse(key_temperature, query, n, "key_temperature", counted.present)
    negatives = None if negatives is None else extra_columns("negatives", negatives, query)
    if hard_negatives is not None:
        hard_negatives = private_candidates("hard_negatives", hard_negatives, query)
    smoothing = smoothing_share(label_smoothing)
    if in_batch is not True:
        check_in_batch(
            in_batch, hard_negatives if negatives is None else negatives, symmetric, dict(
                key_ids=key_ids, key_groups=key_groups, key_log_prob=key_log_prob, label_smoothing=smoothing or None,
                query_ids=query_ids if negative_ids is None else None, key_offset=key_offset or None,
            ),
        )  # fmt: skip
    query, key, negatives, hard_negatives = promoted(query, key, negatives, hard_negatives)
    query_ids, key_ids, negative_ids = softmax_ids(query, key, query_ids, key_ids, negative_ids, negatives)
    margin: float | Tensor | None = false_negative_margin
    if margin is not None:
        margin = check.scalar("false_negative_margin", margin, device=query.device)
    relative: float | Tensor | None = relative_margin
    if relative is not None:
        relative = check.scalar("relative_margin", relative, device=query.device)
    groups = softmax_groups(query, key, query_groups, key_groups, negative_groups, negatives)
    key_log_prob, negative_log_prob = log_probs(key, key_log_prob, negatives, negative_log_prob)
    sides = None
    if not (query_query is key_key is key_query is False):
        sides = further_sides(
            query_query, key_key, key_query, symmetric, in_batch, dict(
                label_smoothing=smoothing or None, key_log_prob=key_log_prob, negative_log_prob=negative_log_prob,
                num_hard=num_hard,
            ),
        )  # fmt: skip
    refuse_together(
        direction, positive_log_prob, label_smoothing=smoothing or None, query_ids=query_ids, query_groups=groups[0],
        key_log_prob=key_log_prob, false_negative_margin=relative if margin is None else margin,
        negative_log_prob=negative_log_prob, negatives=negatives, hard_negatives=hard_negatives, num_hard=num_hard,
    )  # fmt: skip
    if not in_batch and key.shape[0] != n:
        raise ValueError(f"key must have {n} rows with in_batch=False, got {key.shape[0]}: others would have no effect")
    own, others = matched_keys(Block(key, key_ids, key_log_prob, groups[1]), n, key_offset)
    further = len(others)
    if negatives is not None:
        others.append(Block(negatives, negative_ids, negative_log_prob, groups[2]))
    if normalize:
        others = [replace(x, features=unit(x.features, True)) for x in others]
    if sides is not None:
        sides = replace(sides, further=others[:further])
    query, key = (
        unit(cleaned(query, counted.present), normalize),
        unit(cleaned(own.features, counted.present), normalize),
    )
    if hard_negatives is not None:
        hard_negatives = prepared(hard_negatives, counted.present, normalize)
    if report is not None:
        report = given_report(report, prefixes, in_batch)
    batch = GlobalBatch.of(
        engine.ranks, n, sum(x.features.shape[0] for x in others),
        lambda: dict(
            **counted.facts(), negatives=given(negatives), hard_negatives=lists_of(hard_negatives),
            query_ids=given(query_ids), query_groups=given(query_groups), false_negative_margin=given(margin),
            symmetric=symmetric,
            label_smoothing=given(smoothing or None), key_temperature=given(key_scale), detach_keys=bool(detach_keys),
            num_hard=num_hard or 0, key_log_prob=given(key_log_prob), negative_log_prob=given(negative_log_prob),
            positive_log_prob=positive_log_prob, relative_margin=given(relative), in_batch=in_batch,
            query_query=query_query, key_key=key_key, key_query=key_query, report=given(report),
            **prefix_facts(prefixes),
        ),
    )  # fmt: skip
    if batch.total == 0:
        blocks = [x.features for x in others]
        hard = hard_negatives.features if isinstance(hard_negatives, Candidates) else hard_negatives
        return reduced_empty(0, reduction, query, key, scale, key_scale, *blocks, hard)
    problem = Softmax(
        batch, engine, query, key, scale, counted, others, hard_negatives, query_ids, own.ids, groups[0], own.groups,
        margin, smoothing, own.log_prob, not positive_log_prob, num_hard=num_hard,
        relative_margin=relative, in_batch=in_batch, prefixes=prefixes, report=report, sides=sides,
    )  # fmt: skip
    if key_scale is None and is_per_row(temperature, batch):
        key_scale = scale
    return softmax_loss(problem, reduction, direction, symmetric, key_scale, detach_keys)
