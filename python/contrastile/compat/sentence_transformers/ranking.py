"""Ranking losses: in-batch negatives in all directions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from sentence_transformers.sentence_transformer import losses as peer
from sentence_transformers.util import cos_sim, dot_score, pytorch_cos_sim
from torch import Tensor

from ...literals import BackendName
from ...losses.common import unit
from ...ops import EngineOptions, no_autocast
from ...ranks import Group, collective
from ..columns import embedding_columns, joined, product_dtype, propagated
from ..ranking import ranking_loss
from ..ranks import ranks_of
from .cited import cited

Similarity = Callable[[Tensor, Tensor], Tensor]
SIMILARITIES: dict[Any, str] = {cos_sim: "cosine", pytorch_cos_sim: "cosine", dot_score: "dot"}
SYMMETRIC = ("query_to_doc", "doc_to_query")


def similarity_kind(similarity_fct: Similarity) -> str:
    """ "cosine" or "dot"; also for the method model.similarity, by the name the model has for it."""
    kind = SIMILARITIES.get(similarity_fct)
    if getattr(similarity_fct, "__name__", "") == "similarity":
        kind = getattr(getattr(similarity_fct, "__self__", None), "similarity_fn_name", kind)
    if kind not in ("cosine", "dot"):
        raise ValueError(
            "similarity_fct must be cos_sim or dot_score of sentence_transformers.util, or model.similarity of a model "
            f"with one of the two: the fused loss is made of matrix products, got {kind or similarity_fct!r}"
        )
    return str(kind)


@cited
class MultipleNegativesRankingLoss(peer.MultipleNegativesRankingLoss):
    """In-batch negatives, all directions, partitions and hardness modes, without the matrices of scores.

    backend, memory_budget: as in contrastile.pair_reduce.
    """

    memory_budget: int | None = None
    backend: BackendName = "auto"

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        gather_across_devices: bool = False,
        directions: tuple[str, ...] = ("query_to_doc",),
        partition_mode: str = "joint",
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        similarity_kind(similarity_fct)
        EngineOptions.of(memory_budget, backend)
        arguments: tuple[Any, ...] = (
            model, scale, similarity_fct, gather_across_devices, directions, partition_mode, hardness_mode,
            hardness_strength,
        )  # fmt: skip
        super().__init__(*arguments)
        self.memory_budget = memory_budget
        self.backend = backend

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any = None) -> Tensor:
        return self.contrast(embeddings, group=ranks_of() if self.gather_across_devices else None)

    @collective
    def contrast(self, embeddings: list[Tensor], *, group: Group) -> Tensor:
        queries, *documents = embedding_columns(embeddings)
        dtype = product_dtype(queries)
        with no_autocast(queries):
            if similarity_kind(self.similarity_fct) == "cosine":
                queries, *documents = (unit(x, True) for x in (queries, *documents))
            # options are read at every call, like the package does: they may be assigned
            engine = EngineOptions.of(self.memory_budget, self.backend, group, dtype)
            return ranking_loss(
                queries, documents, self.scale, engine, directions=self.directions,
                partition_mode=self.partition_mode, hardness_mode=self.hardness_mode,
                hardness_strength=self.hardness_strength,
            )  # fmt: skip


@cited
class MultipleNegativesSymmetricRankingLoss(MultipleNegativesRankingLoss):
    """MultipleNegativesRankingLoss of queries -> documents and documents -> queries; deprecated in the package."""

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        gather_across_devices: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        warn_of_symmetric_class("MultipleNegativesSymmetricRankingLoss", "MultipleNegativesRankingLoss")
        super().__init__(
            model, scale, similarity_fct, gather_across_devices, SYMMETRIC, "per_direction",
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip


def warn_of_symmetric_class(name: str, instead: str) -> None:
    """As the package does where one of its own two classes is made."""
    warnings.warn(
        f"{name} is deprecated in sentence-transformers, use {instead} with directions={SYMMETRIC} and "
        "partition_mode='per_direction'",
        DeprecationWarning,
        stacklevel=3,
    )


@cited
class CachedMultipleNegativesRankingLoss(peer.CachedMultipleNegativesRankingLoss):
    """GradCache with the loss stage in one fused pass; mini-batches bound the memory of the encoder alone."""

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        directions: tuple[str, ...] = ("query_to_doc",),
        partition_mode: str = "joint",
        show_progress_bar: bool = False,
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            model,
            mini_batch_size=mini_batch_size,
            mini_batch_num_tokens=mini_batch_num_tokens,
            show_progress_bar=show_progress_bar,
        )
        self.loss = MultipleNegativesRankingLoss(  # where the package reads and writes all options of the loss stage
            model, scale, similarity_fct, gather_across_devices, directions, partition_mode, hardness_mode,
            hardness_strength, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        loss: Tensor = self.loss.compute_loss_from_embeddings([joined(column) for column in reps], labels)
        return propagated(loss, with_backward)


@cited
class CachedMultipleNegativesSymmetricRankingLoss(CachedMultipleNegativesRankingLoss):
    """CachedMultipleNegativesRankingLoss in both directions; deprecated in the package."""

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        show_progress_bar: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        warn_of_symmetric_class("CachedMultipleNegativesSymmetricRankingLoss", "CachedMultipleNegativesRankingLoss")
        super().__init__(
            model, scale, similarity_fct, mini_batch_size, mini_batch_num_tokens, gather_across_devices, SYMMETRIC,
            "per_direction", show_progress_bar, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
