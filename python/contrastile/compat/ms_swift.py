"""ms-swift's InfonceLoss (`ms-swift` 4.6.0), for `swift.loss.loss_map["infonce"]`. The package itself is not imported.

    L_i = log(sum_j e^{<q_i, d_j> / t} + sum_{j != i} e^{<q_i, q_j> / t} + sum_{j != i} e^{<d_i, d_j> / t})
          - <q_i, d_i> / t

The second and third sum are options. Rows come as groups, [query, its document, its hard negatives], and labels say
where each document is.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..literals import BackendName
from ..losses.common import private_dots, reduced_empty, upcast
from ..losses.weights import NOWHERE
from ..ops import EngineOptions, Pairs, check, log_add, pair_stats, softplus
from ..ranks import Ranks, collective
from .common import autocast_features
from .groups import Grouped
from .ranks import mean_value, ranks_of

TRUE, FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")


def flag(name: str, default: str) -> bool:
    text = os.environ.get(name, default).lower()
    if text not in TRUE + FALSE:
        raise ValueError(f"{name} must be true or false, got {text!r}")
    return text in TRUE


def number(name: str, default: str, kind: type[int] | type[float] = float) -> Any:
    text = os.environ.get(name, default)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} must be {'an int' if kind is int else 'a number'}, got {text!r}") from None


@dataclass(frozen=True)
class Options:
    """The package's environment variables, which are read at every call."""

    temperature: float
    use_batch: bool
    hard_negatives: int | None
    mask_fake_negative: bool
    fake_neg_margin: float
    include_qq: bool
    include_dd: bool

    @staticmethod
    def read() -> Options:
        hard = "INFONCE_HARD_NEGATIVES"
        return Options(
            number("INFONCE_TEMPERATURE", "0.1"), flag("INFONCE_USE_BATCH", "True"),
            number(hard, "", int) if hard in os.environ else None, flag("INFONCE_MASK_FAKE_NEGATIVE", "False"),
            number("INFONCE_FAKE_NEG_MARGIN", "0.1"), flag("INFONCE_INCLUDE_QQ", "False"),
            flag("INFONCE_INCLUDE_DD", "False"),
        )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ValueError(f"INFONCE_TEMPERATURE must be > 0, got {self.temperature}")
        if self.hard_negatives is not None and self.hard_negatives < 0:
            raise ValueError(f"INFONCE_HARD_NEGATIVES must be >= 0, got {self.hard_negatives}")
        if self.mask_fake_negative and not self.fake_neg_margin >= 0.0:
            raise ValueError(
                f"INFONCE_FAKE_NEG_MARGIN must be >= 0, got {self.fake_neg_margin}: below, a query's own document is "
                "dropped"
            )
        further = ("mask_fake_negative", "include_qq", "include_dd")
        idle = [f"INFONCE_{name.upper()}" for name in further if getattr(self, name)]
        if idle and not self.use_batch:
            raise ValueError(f"{' and '.join(idle)} must not be set with INFONCE_USE_BATCH=False: no effect")


class InfonceLoss:
    """What `loss_type: infonce` computes. Options are the package's environment variables INFONCE_*.

    args, trainer: as the package makes a loss; what they hold does not matter here, but a Megatron trainer is refused.
    memory_budget, backend: as in contrastile.pair_reduce.
    """

    def __init__(
        self, args: Any = None, trainer: Any = None, *, memory_budget: int | None = None, backend: BackendName = "auto"
    ) -> None:
        if any(cls.__name__ == "BaseMegatronTrainer" for cls in type(trainer).__mro__):
            raise NotImplementedError("trainer must not be a Megatron trainer: its data-parallel group is another one")
        EngineOptions.of(memory_budget, backend)
        self.args = args
        self.trainer = trainer
        self.is_megatron = False
        self.engine: dict[str, Any] = {"memory_budget": memory_budget, "backend": backend}

    def __call__(self, outputs: Any, labels: Tensor, **kwargs: Any) -> Tensor:
        """outputs["last_hidden_state"]: (R, D) rows of all groups. labels: 1 for each document that belongs to a query,
        0 for each hard negative; queries have none. A scalar, float32 (float64 for float64 rows)."""
        options = Options.read()
        ranks = ranks_of() if options.use_batch else None
        if ranks is not None:
            refuse_sequence_parallel()
        loss = in_groups(outputs["last_hidden_state"], labels, options, self.engine, group=ranks)
        return mean_value(loss, ranks)


def refuse_sequence_parallel() -> None:
    """Its ranks have the same rows, which would be gathered several times."""
    package = sys.modules.get("swift.sequence_parallel")
    if getattr(getattr(package, "sequence_parallel", None), "dp_group", None) is not None:
        raise NotImplementedError("sequence_parallel_size must be 1: the default group has ranks with the same rows")


@dataclass(frozen=True)
class Groups:
    """Which row is what; integers on the rows' device."""

    queries: Tensor  # (N,)
    documents: Tensor  # (M,) in order of their queries
    starts: Tensor  # (N + 1,): documents starts_i to starts_{i+1} are query i's, its own first

    @staticmethod
    def of(rows: Tensor, labels: Tensor) -> Groups:
        labels = check.tensor("labels", labels).flatten().to(rows.device)
        first = labels.nonzero().squeeze(1)
        if rows.shape[0] != labels.shape[0] + first.shape[0] or (first.shape[0] and int(first[0])):
            raise ValueError(
                f"labels must be 1 and then 0 for each hard negative, of every query: {labels.shape[0]} labels, "
                f"{first.shape[0]} of them not 0, do not fit {rows.shape[0]} rows"
            )
        starts = torch.cat([first, first.new_tensor([labels.shape[0]])])
        count = torch.arange(first.shape[0], device=rows.device)
        kind = torch.ones(rows.shape[0], dtype=torch.bool, device=rows.device)
        kind[first + count] = False
        return Groups(first + count, kind.nonzero().squeeze(1), starts)

    def with_hard(self, count: int | None) -> Groups:
        """Of each query so many hard negatives: the first ones, or all and some of them again, drawn by numpy's random
        state as in the package."""
        if count is None:
            return self
        parts = self.documents.tensor_split(self.starts[1:-1].cpu()) if self.queries.shape[0] else ()
        documents = torch.cat([self.documents[:0], *(chosen(x, count) for x in parts)])
        starts = (count + 1) * torch.arange(len(parts) + 1, device=documents.device)
        return Groups(self.queries, documents, starts)

    def padded(self) -> tuple[Tensor, Tensor]:
        """(N, g) documents of each query, and which of them there are."""
        length = self.starts.diff()
        place = torch.arange(int(length.max()) if length.shape[0] else 1, device=length.device)
        here = place < length[:, None]
        at = torch.where(here, self.starts[:-1, None] + place, 0)
        return self.documents[at] if self.documents.shape[0] else at, here


def chosen(documents: Tensor, count: int) -> Tensor:
    import numpy as np

    there = documents.shape[0] - 1
    if there < 1:
        raise ValueError("every query must have a hard negative with INFONCE_HARD_NEGATIVES")
    if there >= count:
        return documents[: count + 1]
    again = 1 + np.random.choice(list(range(there)), size=count - there, replace=True)
    return torch.cat([documents, documents[torch.as_tensor(again, device=documents.device)]])


@collective
def in_groups(
    last_hidden_state: Tensor, labels: Tensor, options: Options, engine: dict[str, Any], *, group: Ranks | None
) -> Tensor:
    rows = check.features("last_hidden_state", last_hidden_state)
    groups = Groups.of(rows, labels).with_hard(options.hard_negatives)
    queries, documents = rows[groups.queries], rows[groups.documents]
    if not options.use_batch:
        return alone(queries, rows, groups, 1.0 / options.temperature)
    problem = Grouped.of(queries, documents, groups.starts[:-1], 1.0 / options.temperature, **engine, group=group)
    if problem.batch.total == 0:
        return reduced_empty(0, "mean", rows)
    if not (options.mask_fake_negative or options.include_qq or options.include_dd):
        return problem.loss()
    limit = problem.limit(options.fake_neg_margin) if options.mask_fake_negative else None
    found = pair_stats(problem.candidates(high=limit), problem.engine)
    parts = [found.rows]
    if options.include_qq:
        pairs = Pairs(problem.queries, scale=problem.scale, keep="other_index", row_high=limit)
        parts.append(pair_stats(pairs, problem.engine).rows)
    if options.include_dd:  # the threshold does not hold here
        parts.append(pair_stats(problem.candidates(problem.own_passages()), problem.engine).rows)
    assert found.row_positives is not None
    return problem.batch.reduced(softplus(reduce(log_add, parts) - found.row_positives), "mean")


def alone(queries: Tensor, rows: Tensor, groups: Groups, scale: float) -> Tensor:
    """Each query against its own documents."""
    at, here = groups.padded()
    if not queries.shape[0]:
        return reduced_empty(0, "mean", rows)
    queries, documents = autocast_features(queries, rows[at])
    logits = torch.where(here, scale * private_dots(upcast(queries), upcast(documents)), NOWHERE)
    return -logits.log_softmax(1)[:, 0].mean()
