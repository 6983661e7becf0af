"""pytorch-metric-learning's reducers of pairs, for terms that are known as sums over rows."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning import reducers
from pytorch_metric_learning.reducers import per_anchor_reducer
from torch import Tensor


def already_reduced(value: Tensor) -> dict[str, dict[str, Any]]:
    return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}


def acting_reducer(reducer: Any) -> Any:
    """The reducer of the loss itself, beside one of a regularizer."""
    if type(reducer) is not reducers.MultipleReducers:
        return reducer
    return reducer.reducers["loss"] if "loss" in reducer.reducers else reducer.default_reducer


def is_per_anchor(reducer: Any) -> bool:
    default = per_anchor_reducer.aggregation_func
    return type(reducer) is reducers.PerAnchorReducer and reducer.aggregation_func is default


def takes_row_sums(reducer: Any) -> bool:
    """Whether a reducer of pairs needs no more than the sum and number of each row's terms."""
    linear = (reducers.MeanReducer, reducers.SumReducer, reducers.ClassWeightedReducer)
    return type(reducer) in linear or is_per_anchor(reducer)


def of_row_sums(reducer: Any, sums: Tensor, counts: Tensor, embeddings: Tensor, labels: Tensor | None) -> Any:
    """What the reducer makes of all terms, from their sum and number in each row."""
    if is_per_anchor(reducer):
        rows = torch.arange(sums.shape[0], device=sums.device)
        terms = {"losses": sums / counts.clamp_min(1), "indices": rows, "reduction_type": "element"}
        return reducer.reducer({"loss": terms}, embeddings, labels)
    if type(reducer) is reducers.SumReducer:
        return sums.sum()
    if type(reducer) is reducers.ClassWeightedReducer:
        sums = sums * reducer.weights.to(sums)[labels]
    return sums.sum() / counts.sum()


def per_row(terms: Tensor, rows: Tensor, cols: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Sum and number of each row's terms; of a pair that is listed twice, one counts."""
    width = int(cols.max()) + 1
    pair, inverse_index = torch.unique(rows * width + cols, return_inverse=True)
    first = torch.empty_like(pair).scatter_(0, inverse_index, torch.arange(len(terms), device=terms.device))
    chosen = rows[first]
    ones = torch.ones_like(terms[first])
    return terms.new_zeros(n).index_add(0, chosen, terms[first]), terms.new_zeros(n).index_add(0, chosen, ones)
