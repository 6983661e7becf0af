"""The arguments of losses of pairs, checked: candidates, ids, log-probabilities, and what has no meaning together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import Direction
from ..ops import check
from .blocks import Block, Sides
from .private import Candidates
from .weights import constant, direction_weights


def check_direction(direction: Direction, symmetric: bool, name: str, key_factor: float | Tensor | None) -> None:
    """name: of the factor of the key -> query direction."""
    _, col = direction_weights(direction, symmetric)
    if key_factor is not None and not col:
        raise ValueError(f"{name} must be None without the key -> query direction: it would have no effect")


def refuse_together(
    direction: Direction,
    positive_log_prob: bool,
    *,
    label_smoothing: float | None,
    false_negative_margin: float | Tensor | None,
    query_ids: Tensor | None,
    query_groups: Tensor | None,
    key_log_prob: Tensor | None,
    negative_log_prob: Tensor | None,
    negatives: Tensor | None,
    hard_negatives: Tensor | Candidates | None,
    num_hard: int | None,
) -> None:
    """What has no meaning together; None: not given."""
    corrected = key_log_prob is not None or negative_log_prob is not None
    if num_hard is not None:
        if isinstance(num_hard, bool) or not isinstance(num_hard, (int, torch.SymInt)):
            raise TypeError(f"num_hard must be an int or None, got {type(num_hard).__name__}")
        if num_hard < 1:
            raise ValueError(f"num_hard must be >= 1, got {num_hard}")
        if corrected or label_smoothing is not None or hard_negatives is not None:
            raise ValueError("num_hard cannot be combined with hard_negatives, label_smoothing or log-probabilities")
    if label_smoothing is not None and (query_ids is not None or false_negative_margin is not None):
        raise ValueError("label_smoothing cannot be combined with ids or margins")
    if label_smoothing is not None and query_groups is not None:
        raise ValueError("label_smoothing cannot be combined with query_groups: it is spread over all candidates")
    if corrected and (label_smoothing is not None or false_negative_margin is not None):
        raise ValueError("key_log_prob and negative_log_prob cannot be combined with label_smoothing or a margin")
    if not isinstance(positive_log_prob, bool):
        raise TypeError(f"positive_log_prob must be a bool, got {type(positive_log_prob).__name__}")
    if not positive_log_prob and key_log_prob is None:
        raise ValueError("positive_log_prob must be True without key_log_prob: it would have no effect")
    if direction != "cols":
        return
    of_queries = dict(
        negatives=negatives, hard_negatives=hard_negatives, key_log_prob=key_log_prob,
        negative_log_prob=negative_log_prob,
    )  # fmt: skip
    for name, value in of_queries.items():
        if value is not None:
            raise ValueError(f"{name} must be None with direction='cols': it matters to query -> key alone")


def further_sides(
    query_query: bool, key_key: bool, key_query: bool, symmetric: bool, in_batch: bool, without: dict[str, object]
) -> Sides | None:
    """None: no similarities beside those of queries to keys. without: what has no meaning with others, None: not
    given."""
    asked = {"query_query": query_query, "key_key": key_key, "key_query": key_query}
    for name, flag in asked.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool, got {type(flag).__name__}")
    names = [name for name, flag in asked.items() if flag]
    if not names:
        return None
    if key_query and symmetric:
        raise ValueError("key_query must be False with symmetric=True: key -> query has a softmax of its own")
    if not in_batch:
        raise ValueError(f"{names[0]} must be False with in_batch=False: no other pair of the batch has candidates")
    for name, value in without.items():
        if value is not None:
            raise ValueError(f"{names[0]} cannot be combined with {name}")
    return Sides(query_query, key_key, key_query)


def check_in_batch(in_batch: bool, others: object, symmetric: bool, of_keys: dict[str, object]) -> None:
    """others: candidates that are no keys of the batch, or None; of_keys: arguments that matter to the other keys."""
    if not isinstance(in_batch, bool):
        raise TypeError(f"in_batch must be a bool, got {type(in_batch).__name__}")
    if in_batch:
        return
    if others is None:
        raise ValueError("in_batch must be True without negatives: there would be no candidates")
    if symmetric:
        raise ValueError("in_batch must be True with symmetric=True: a key's candidates are the queries of the batch")
    for name, value in of_keys.items():
        if value is not None:
            absent = "None" if isinstance(value, Tensor) else "left out"
            raise ValueError(f"{name} must be {absent} with in_batch=False: it would have no effect")


def log_probs(
    key: Tensor, key_log_prob: Tensor | None, negatives: Tensor | None, negative_log_prob: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Those of keys and of negatives, checked."""
    if key_log_prob is not None:
        key_log_prob = constant("key_log_prob", key_log_prob, key.shape[0], key)
    if negative_log_prob is not None:
        if negatives is None:
            raise ValueError("negative_log_prob must be None without negatives: it would have no effect")
        negative_log_prob = constant("negative_log_prob", negative_log_prob, negatives.shape[0], key)
    return key_log_prob, negative_log_prob


def matched_keys(every: Block, n: int, key_offset: int) -> tuple[Block, list[Block]]:
    """The n keys from key_offset on, and those before and after them: views, no copies."""
    if every.features.shape[0] == n:
        return every, []
    # slices, not a split: its backward is torch.cat, which autocast breaks
    before, after = every.part(0, key_offset), every.part(key_offset + n, every.features.shape[0])
    return every.part(key_offset, key_offset + n), [x for x in (before, after) if x.features.shape[0]]


def promoted(
    query: Tensor, key: Tensor, negatives: Tensor | None, hard: Tensor | Candidates | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | Candidates | None]:
    """All features in one type, as torch promotes them. Candidates keep theirs, which decides nothing."""
    dtype = torch.promote_types(query.dtype, key.dtype)
    for extra in (negatives, hard):
        dtype = torch.promote_types(dtype, extra.dtype) if isinstance(extra, Tensor) else dtype
    negatives = None if negatives is None else check.as_type(negatives, dtype)
    hard = check.as_type(hard, dtype) if isinstance(hard, Tensor) else hard
    return check.as_type(query, dtype), check.as_type(key, dtype), negatives, hard


def smoothing_share(label_smoothing: float) -> float:
    value = check.scalar("label_smoothing", label_smoothing)
    if isinstance(value, Tensor) or not 0.0 <= value < 1.0:
        raise ValueError(f"label_smoothing must be a number in [0, 1), got {label_smoothing}")
    return value


def extra_columns(name: str, x: Tensor, query: Tensor) -> Tensor:
    check.same_width(name, check.features(name, x), "query", query)
    check.same_device(name, x, query.device)
    return x


def pair_ids(
    x: Tensor, row_name: str, row_ids: Tensor | None, col_name: str, col_ids: Tensor | None, m: int | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Ids of the rows of x and of m columns (None: as many); (None, None) without row_ids."""
    if row_ids is None:
        if col_ids is not None:
            raise ValueError(f"{col_name} need {row_name}")
        return None, None
    n = x.shape[0]
    rows, m = check.ids(row_name, row_ids, n, x.device), n if m is None else m
    if col_ids is None and m != n:
        raise ValueError(f"{row_name} need {col_name} where there are {m} keys for {n} queries")
    return rows, rows if col_ids is None else check.ids(col_name, col_ids, m, x.device)


def softmax_ids(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    negative_ids: Tensor | None,
    negatives: Tensor | None,
    kind: str = "ids",
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Ids of queries, keys and negatives, checked; none without query_ids. kind: what the arguments are called."""
    row_name = f"query_{kind}"
    if negative_ids is not None and (negatives is None or query_ids is None):
        raise ValueError(f"negative_{kind} need {'negatives' if negatives is None else row_name}")
    rows, cols = pair_ids(query, row_name, query_ids, f"key_{kind}", key_ids, key.shape[0])
    if negative_ids is not None and negatives is not None:
        negative_ids = check.ids(f"negative_{kind}", negative_ids, negatives.shape[0], query.device)
    return rows, cols, negative_ids


def softmax_groups(
    query: Tensor,
    key: Tensor,
    query_groups: Tensor | None,
    key_groups: Tensor | None,
    negative_groups: Tensor | None,
    negatives: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Groups of queries, keys and negatives, checked; none without query_groups. Of a candidate without a group nobody
    could say whether it counts."""
    if query_groups is key_groups is negative_groups is None:
        return None, None, None
    if query_groups is not None and negatives is not None and negative_groups is None:
        raise ValueError("query_groups need negative_groups where there are negatives")
    return softmax_ids(query, key, query_groups, key_groups, negative_groups, negatives, "groups")
