"""A pytest plugin that adds a loss to the catalog, as a new family file, its reference and a row would; and beside it
losses with one fault each, of which only the test that must find the fault is kept.

The outcomes go to the file that the environment variable TOY_OUTCOMES names.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import catalog, losses, reference
from contrastile.catalog import LossCard
from contrastile.catalog.cases import pair
from contrastile.literals import BackendName, Reduction
from contrastile.losses.common import engine_options, feature_pair, inverse, reduced_empty
from contrastile.ops import Pairs, pair_stats
from contrastile.ranks import GlobalBatch, Group, collective
from contrastile.reference._dense import masked_logsumexp, reduce_rows, unit

# ---- the family file


@collective
def toy(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.2,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """L_i = log sum_{j != i} e^{z_ij} - z_ii,  z_ij = <z1_i, z2_j> / temperature."""
    engine = engine_options(reduction, memory_budget, backend, group)
    z1, z2 = feature_pair("z1", z1, "z2", z2, normalize)
    scale, batch = inverse(temperature, z1), GlobalBatch.of(engine.ranks, z1.shape[0])
    if batch.total <= 1:
        return reduced_empty(z1.shape[0], reduction, z1, z2, scale)
    stats = pair_stats(Pairs(z1, z2, scale, keep="other_index", positives="same_index"), engine)
    assert stats.row_positives is not None
    return batch.reduced(stats.rows - stats.row_positives, reduction)


# ---- the reference


def dense_toy(
    z1: Tensor, z2: Tensor, *, temperature: float | Tensor = 0.2, normalize: bool = False, reduction: str = "mean"
) -> Tensor:
    z = unit(z1, normalize) @ unit(z2, normalize).T / temperature
    if len(z) <= 1:
        return reduce_rows(0.0 * z.sum(1), reduction)
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    return reduce_rows(masked_logsumexp(z, others) - z.diagonal(), reduction)


# ---- losses with a fault, and who must find it

Loss = Callable[..., Tensor]
FAULTS: dict[str, str] = {}
FAULTY: dict[str, Loss] = {}


def found_by(test: str) -> Callable[[Loss], Loss]:
    def add(loss: Loss) -> Loss:
        name = f"toy_{loss.__name__}"
        FAULTS[name], FAULTY[name] = test, functools.wraps(toy)(loss)
        FAULTY[name].__name__ = name
        return loss

    return add


@found_by("test_value_and_gradients_equal_the_reference")
def forgets_a_gradient(z1: Tensor, z2: Tensor, **options: Any) -> Tensor:
    return toy(z1, z2.detach(), **options) + 0.0 * z2.sum()


@found_by("test_half_precision_equals_the_reference")
def rounds_its_value(z1: Tensor, z2: Tensor, **options: Any) -> Tensor:
    value = toy(z1, z2, **options)
    return value.to(z1.dtype).to(value.dtype)


@found_by("test_reductions_equal_the_reference")
def sums_no_rows(z1: Tensor, z2: Tensor, *, reduction: str = "mean", **options: Any) -> Tensor:
    return toy(z1, z2, reduction="mean" if reduction == "sum" else reduction, **options)


@found_by("test_an_empty_batch_is_zero_with_zero_gradients")
def divides_by_nothing(z1: Tensor, z2: Tensor, **options: Any) -> Tensor:
    return toy(z1, z2, **options) if len(z1) else (z1.sum() + z2.sum()) / len(z1)


@found_by("test_inputs_are_not_changed")
def writes_into_its_input(z1: Tensor, z2: Tensor, **options: Any) -> Tensor:
    value = toy(z1, z2, **options)
    z1.detach().mul_(2.0)
    return value


@found_by("test_a_loss_saves_rows_not_pairs")
def holds_all_pairs(z1: Tensor, z2: Tensor, *, backend: str = "auto", **options: Any) -> Tensor:
    return dense_toy(z1, z2, **options)


@found_by("test_one_dynamic_graph_serves_every_size_from_the_first")
def compiles_for_every_size(z1: Tensor, z2: Tensor, **options: Any) -> Tensor:
    return toy(z1, z2, **options) * (len(z1) / math.exp(math.log(len(z1))))


@found_by("test_no_loss_waits_for_the_device")
def waits_for_the_device(z1: Tensor, z2: Tensor, **options: Any) -> Tensor:
    value = toy(z1, z2, **options)
    return value if float(value.detach().sum()) else value.clone()


@found_by("test_autocast_changes_nothing")
def follows_autocast(z1: Tensor, z2: Tensor, **options: Any) -> Tensor:
    return toy(z1, z2 @ torch.eye(z2.shape[1], dtype=z2.dtype, device=z2.device), **options)


@found_by("test_the_gradient_of_a_row_of_zeros_is_zero")
def divides_by_a_length(z1: Tensor, z2: Tensor, *, normalize: bool = False, **options: Any) -> Tensor:
    return toy(F.normalize(z1), F.normalize(z2), **options) if normalize else toy(z1, z2, **options)


@found_by("test_unknown_choices")
def takes_any_word(z1: Tensor, z2: Tensor, *, reduction: Any = "mean", **options: Any) -> Tensor:
    return toy(z1, z2, reduction=reduction if reduction in ("sum", "none") else "mean", **options)


# ---- the rows


def add_to_the_catalog(name: str, loss: Loss) -> None:
    setattr(losses, name, loss)
    setattr(reference, name, dense_toy)
    variants = {"default": pair(0.2), "low temperature": pair(0.005), "normalize": pair(0.2, normalize=True)}
    card = LossCard(name, "tests", "arXiv 0000.00000", "none", 6, variants if loss is toy else {"default": pair(0.2)})
    catalog.CATALOG = (*catalog.CATALOG, card)


# ---- the run


def pytest_configure() -> None:
    for name, loss in {"toy": toy, **FAULTY}.items():
        add_to_the_catalog(name, loss)


def loss_of(item: pytest.Item) -> str | None:
    """The toy that a test is about."""
    given = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    names = {x.name if isinstance(x, LossCard) else x for x in given if isinstance(x, LossCard | str)}
    return next(iter(names & {"toy", *FAULTS}), None)


def is_wanted(item: pytest.Item) -> bool:
    """Of the new row what runs by default, but for kernels that would have to be compiled, and one graph of
    torch.compile; of a fault its test, which by default the first loss of a module may stand for."""
    loss = loss_of(item)
    if loss == "toy":
        by_default = item.get_closest_marker("slow") is None or item.name == "test_one_graph_serves_every_size[toy]"
        return by_default and item.callspec.params.get("backend") != "cuda"
    return loss is not None and item.name.startswith(f"{FAULTS[loss]}[")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = filter(is_wanted, items)


OUTCOMES: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        OUTCOMES[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    Path(os.environ["TOY_OUTCOMES"]).write_text(json.dumps(OUTCOMES))
