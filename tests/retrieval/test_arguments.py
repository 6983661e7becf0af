"""Every argument of every function does something: with another value the result changes, or the call is refused."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import retrieval

N, M, D = 8, 20, 5
G = torch.Generator().manual_seed(21)
X, Y, Z = (F.normalize(torch.randn(size, D, generator=G), dim=1) for size in (N, M, M))
ROW_IDS, COL_IDS = torch.arange(N) % 3, torch.arange(M) % 4
ROW_LABELS, COL_LABELS = (torch.rand(size, 4, generator=G) < 0.5 for size in (N, M))
IDS = {"keep": "other_id", "row_ids": ROW_IDS, "col_ids": COL_IDS}
GROUPS = {"keep": "same_group", "row_groups": ROW_IDS, "col_groups": COL_IDS}
LABELS = {"keep": "shared_label", "row_labels": ROW_LABELS, "col_labels": COL_LABELS}
PARTNER = {"keep": "no_partner", "partner": torch.arange(3 * N).view(N, 3) % M}

# of an argument: others that it needs, and another value
RULES: dict[str, tuple[dict[str, Any], Any]] = {
    "score": ({}, "volume"),
    "keep": (IDS, "same_id"),
    "row_ids": (IDS, ROW_IDS.flip(0)), "col_ids": (IDS, COL_IDS.flip(0)),
    "row_groups": (GROUPS, ROW_IDS.flip(0)), "col_groups": (GROUPS, COL_IDS.flip(0)),
    "row_labels": (LABELS, ~ROW_LABELS), "col_labels": (LABELS, ~COL_LABELS),
    "partner": (PARTNER, PARTNER["partner"].flip(0)),
    "low": ({}, 0.5), "high": ({}, 0.2), "col_bias": ({}, torch.linspace(0.0, 2.0, M)),
    "mask": ({}, torch.rand(N, M, generator=G) < 0.4),
}  # fmt: skip
DRAWN = {"generator": lambda: torch.Generator().manual_seed(1)}
OTHER = {"generator": ({}, lambda: torch.Generator().manual_seed(2)), "replacement": ({"k": 15}, True)}
POOL = {"choice": "random", "pool": 8, **DRAWN}
BASE: dict[str, dict[str, Any]] = {
    "topk": {"query": X, "gallery": Y, "k": 3},
    "ranks": {"query": X, "gallery": Y},
    "sample_negatives": {"query": X, "key": Y, "k": 4, **DRAWN},
    "semi_hard_negatives": {"query": X, "bank": Y, "k": 3, "pool": 8, **DRAWN},
    "mine_hard_negatives": {"query": X, "corpus": Y, "positives": torch.arange(N), "k": 3},
    "knn_graph": {"x": 2.0 * Y.cumsum(0), "k": 3},
    "kmeans_assign": {"x": Y, "centers": X},
    "invgc": {"gallery": Y, "bank": X, "rate": 0.5},
    "local_adj": {"gallery": Y, "bank": X, "rate": 0.5, "k": 3},
    "inverted_softmax_bias": {"gallery": Y, "bank": X},
    "querybank_topk": {"query": X, "gallery": Y, "bank": Z, "k": 3},
    "topk_repulsion_loss": {"x": Y, "k": 4},
    "sinkhorn_potentials": {"a": X, "b": Y},
    "swapped_prediction_loss": {"images": [X, Y[:N]], "texts": [Z[:N], Y[-N:]], "logit_scale": 5.0},
    "triangle_area_matrix": {"anchor": X, "x": Y, "y": Z},
}
MATTERS: dict[str, dict[str, tuple[dict[str, Any], Any]]] = {
    "topk": RULES | {"k": ({}, 4)},
    "ranks": RULES | {"positives": (IDS | {"keep": "all", "positives": "same_id"}, "other_id")}
    | {"each": (PARTNER | {"keep": "all", "positives": "partner"}, True), "score": ({}, "volume")},
    "sample_negatives": RULES | OTHER | {"k": ({}, 5), "temperature": ({}, 0.2), "floor": ({"k": 15}, 0.5)},
    "semi_hard_negatives": {x: RULES[x] for x in ("keep", "row_ids", "col_ids")} | OTHER
    | {"replacement": ({"k": 6}, True), "k": ({}, 2), "pool": ({}, 5)},
    "mine_hard_negatives": {
        "positives": ({}, torch.arange(N).flip(0) + 5), "k": ({}, 2),
        "row_ids": ({"col_ids": COL_IDS, "row_ids": ROW_IDS}, ROW_IDS.flip(0)),
        "col_ids": ({"row_ids": ROW_IDS, "col_ids": COL_IDS}, COL_IDS.flip(0)),
        "margin": ({}, 0.1), "margin_of": ({"margin": 0.4, "margin_of": "absolute"}, "relative"),
        "low": ({}, 0.5), "high": ({}, 0.2), "skip": ({}, 2), "pool": (POOL, 12),
        "choice": ({"pool": 8, "choice": "top"}, "random"), "generator": (POOL, OTHER["generator"][1]),
        "mask": RULES["mask"],
    },
    "knn_graph": {"k": ({}, 2), "normalize": ({}, False), "scaling": ({}, "none")},
    "kmeans_assign": {},
    "invgc": {"rate": ({}, 0.7)},
    "local_adj": {"rate": ({}, 0.7), "k": ({}, 2)},
    "inverted_softmax_bias": {"beta": ({}, 5.0)},
    "querybank_topk": {"k": ({}, 2), "beta": ({}, 5.0), "hubs": ({}, 15)},
    "topk_repulsion_loss": {
        "k": ({}, 3), "below": ({}, 0.1), "temperature": ({}, 0.5), "fill": ({"below": 0.3}, True)
    },
    "sinkhorn_potentials": {"eps": ({}, 0.1), "iterations": ({}, 1)},
    "swapped_prediction_loss": {
        "logit_scale": ({}, 6.0), "eps": ({}, 0.1), "iterations": ({}, 1), "detach_keys": ({}, True)
    },
    "triangle_area_matrix": {},
}  # fmt: skip
FUNCTIONS = {name: x for name in retrieval.__all__ if inspect.isfunction(x := getattr(retrieval, name))}


def outcome(name: str, given: dict[str, Any]) -> list[Tensor]:
    """Values, and gradients of the features."""
    given = {key: x() if callable(x) else x for key, x in given.items()}
    if given.get("score", "dot") != "dot":
        given["gallery" if "gallery" in given else "key"] = (Y, Z)
    lists = {key: [v.clone().requires_grad_() for v in x] for key, x in given.items() if isinstance(x, list)}
    found = FUNCTIONS[name](**(given | lists))
    parts = list(found) if isinstance(found, tuple) else [found.to_dense()]
    leaves = [x for several in lists.values() for x in several]
    grads = torch.autograd.grad(parts[0], leaves) if leaves else ()
    return [*(x.detach() for x in parts), *grads]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_known(name):
    names = {x for x in inspect.signature(FUNCTIONS[name]).parameters if x != "group"}  # group: with several ranks
    assert names == {*BASE[name], *MATTERS[name]}


@pytest.mark.parametrize("name, argument", [(name, x) for name, found in MATTERS.items() for x in found])
def test_another_value_changes_the_result(name, argument):
    where, other = MATTERS[name][argument]
    first = outcome(name, BASE[name] | where)
    second = outcome(name, BASE[name] | where | {argument: other})
    assert len(first) == len(second)
    assert any(x.shape != y.shape or not torch.equal(x, y) for x, y in zip(first, second, strict=True))
