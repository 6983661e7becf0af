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
        query, key: Pairs, (N, D), float32 | bfloat16 | float16 | float64; unit rows, or set normalize=True. key may
            have more rows than query: see key_offset.
        temperature: > 0: a float, a 0-dim tensor, or (N,), one per pair. Dimensionless; divides the similarity.
        key_temperature: The temperature of the key -> query direction, if it differs: a float, a 0-dim tensor, or (N,),
            one per matched key. Needs symmetric=True. Both directions still take one pass, except with matryoshka,
            query_query, key_key, or key_query.
        negatives: Columns that all queries share (a queue, other documents), (M, D).
        hard_negatives: Private columns of each query, (N, K, D), or Candidates: lists of any length, rows of a bank by
            index, a bias. Holds N K logits.
        query_ids, key_ids, negative_ids: Integers, (N,), one per row of key, (M,). A column with the row's id is not a
            negative of that row; the row's own positive stays. key_ids default to query_ids. Negatives without ids
            always count.
        query_groups, key_groups, negative_groups: Integers, (N,), one per row of key, (M,). Only candidates in the
            query's group are its negatives (for example, clusters from an earlier stage of training). key_groups
            default to query_groups; negatives must have groups, hard_negatives have none. Not with label_smoothing.
        key_log_prob, negative_log_prob: Log of the probability (or expected count) with which each row of key and of
            negatives was sampled. It is subtracted from the logit, the positive's too, so that the softmax estimates
            the one over all candidates (sampled softmax, logQ correction). Finite, no gradient. Does not apply to
            hard_negatives, nor to the key -> query direction, where it would cancel. Not with label_smoothing or
            false_negative_margin.
        positive_log_prob: False leaves the positive's own logit uncorrected; "mean" and "sum" then cost as much as
            "none".
        false_negative_margin: Drops columns of key and negatives with <q_i, k_j> > <q_i, k_i> + margin, in units of
            similarity. No gradient flows through the decision; rounding decides ties.
        relative_margin: Drops columns with <q_i, k_j> > <q_i, k_i> - relative_margin |<q_i, k_i>|: a fraction of the
            positive's similarity. With both margins, the lower limit applies.
        num_hard: K >= 1: of the negatives that ids and margin leave, only the K largest of each row count, plus any
            that tie with the last of them (to rounding). The positive always counts. No gradient flows through the
            choice, which costs one more product of all pairs (two with symmetric=True, where each key has its own K
            queries) and O(N K) memory. Not with hard_negatives, label_smoothing, or log-probabilities.
        in_batch: False: only negatives and hard_negatives are candidates, not the other keys of the batch (MoCo). Not
            with symmetric, label_smoothing, query_query, key_key, key_query, or ids, groups, or log-probabilities of
            keys.
        query_query, key_key, key_query: True adds terms to the sum of pair i, over j != i: the other queries e^{<q_i,
            q_j> / temperature}; the other keys as its key sees them, e^{<k_i, k_j> / temperature}; the other queries as
            its key sees them, e^{<k_i, q_j> / temperature}. All rows of key count as other keys; negatives do not. Ids,
            groups, and margins apply here too. With symmetric=True both directions get the same extra terms; key_query
            does not allow it. Each costs 4 (key_query 8) N^2 D FLOP, and query -> key then costs 8. Not with
            label_smoothing, log-probabilities, num_hard, or in_batch=False.
        label_smoothing: In [0, 1): spreads this share of the target over all candidates of the row, as
            torch.nn.functional.cross_entropy does. Not with ids or a margin.
        symmetric: Adds the key -> query direction, from the same pass. Extra negatives belong to the queries only.
        direction: What symmetric=True returns: the "mean" or "sum" of both directions, "rows" (query -> key only), or
            "cols" (key -> query only). A direction you leave out is not computed.
        detach_keys: Candidates, including the positive, get no gradient. With symmetric=True each direction trains only
            its anchors, in two passes (8 N^2 D FLOP together).
        key_offset: With key (M, D), M >= N, the key of query i is row key_offset + i: this process's keys within keys
            gathered from elsewhere. The other rows are candidates; with symmetric=True they are not anchors. Not with
            group, which gathers by itself.
        matryoshka: Widths of prefixes of the features, such as (64, 128, 256): the loss is the weighted sum over all
            prefixes. normalize=True makes every prefix a unit row; a prefix of a unit row is not one by itself. On the
            backends cpu and torch one product serves all prefixes: widths that double take about 1.5 times as long as
            one loss. Other backends, and group, hard_negatives, label_smoothing, margins, positive_log_prob=False, and
            reduction="none", take one pass per prefix.
        matryoshka_weights: A number per prefix; default 1 each.
        weights: (N,) >= 0, no gradient. The weight of each pair: "mean" is sum w L / sum w (0 where sum w is 0).
        present: (N,) bool. A pair with a missing side (False) takes no part and is no candidate; its features may hold
            anything and get gradient 0. "mean" covers the others.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        report: A contrastile.metrics.InBatch, which the call fills with in-batch recall and similar statistics. Not
            with matryoshka.
        reduction: "mean" or "sum" over rows, or "none": (N,).
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call. Log-probabilities, weights, and present are those of this
            rank's own items.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 6 N (N + M) D FLOP forward and backward; symmetric 8 (6 where the scores fit memory_budget).

    Example:
        >>> query, key = torch.randn(2, 8, 16)
        >>> queue = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
        >>> ids = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])  # the first two are the same item
        >>> loss = info_nce(query, key, temperature=0.1, negatives=queue, query_ids=ids, normalize=True)

    Source: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4. Margin: Qwen3-Embedding,
    https://arxiv.org/abs/2506.05176; relative margin: NV-Retriever, https://arxiv.org/abs/2407.15831. in_batch=False:
    He et al. 2020 (MoCo), https://arxiv.org/abs/1911.05722. num_hard: Wang and Liu 2021,
    https://arxiv.org/abs/2012.09740, eq. 9. Log-probabilities: Bengio and Senecal 2008 (sampled softmax), Yi et al.
    2019. Temperatures per item: Qiu et al. 2023 (iSogCLR), https://arxiv.org/abs/2305.11965. Groups: Zhang et al. 2024
    (MCL), https://arxiv.org/abs/2402.11816. query_query, key_key, key_query: Li et al. 2023 (GTE),
    https://arxiv.org/abs/2308.03281, eq. 5 (all three); Qwen3-Embedding (the first two). Prefixes: Kusupati et al. 2022
    (MRL), https://arxiv.org/abs/2205.13147.
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
