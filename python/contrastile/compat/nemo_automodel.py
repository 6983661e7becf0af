"""NeMo Automodel's losses of retrieval models (`nemo-automodel` 0.7.0). The package itself is not needed.

`infonce_loss`, `infonce_distill_loss`, `InfoNCELoss` and `InfoNCEDistillLoss` have the names and arguments of
nemo_automodel.components.loss.infonce; `grouped_loss` is what the recipe for bi-encoders computes of passages (N g, D).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..literals import BackendName
from ..losses import info_nce
from ..losses.common import unit
from ..losses.private import Candidates
from ..ops import check
from ..ranks import Group, Ranks, collective
from .common import autocast_features
from .groups import Grouped, group_size, inverse_number, own_logits
from .nemo_distill import DIVERGENCES, Side, distilled
from .ranks import joint_gradient, mean_value, ranks_of

DIRECTIONS = ("q2d", "d2q", "symmetric")
Temperature = float | Tensor


@collective
def infonce_loss(
    queries: Tensor,
    documents: Tensor,
    hard_negatives: Tensor | None = None,
    hard_negatives_mask: Tensor | None = None,
    temperature: Temperature = 0.05,
    direction: str = "q2d",
    use_in_batch_negatives: bool = True,
    normalize: bool = True,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """Cross-entropy of each query's own document, a scalar: float32 (float64 for float64 embeddings).

    Args:
        queries, documents: (N, D) each.
        hard_negatives: (N, K, D), of each query alone. hard_negatives_mask: (N, K), 0 for padding.
        temperature: > 0; float or 0-dim tensor with gradient.
        direction: "q2d"; "d2q", in which hard negatives have no part; "symmetric": the mean of both.
        use_in_batch_negatives: False: hard negatives alone are candidates, with "q2d".
        normalize: Unit rows first.
        memory_budget, backend: As in contrastile.pair_reduce. group: as in contrastile.info_nce.
    """
    check_call(queries, hard_negatives, hard_negatives_mask, direction, use_in_batch_negatives, "hard_negatives")
    check.same_shape("documents", check.features("documents", documents), "queries", queries)
    hard = None
    if hard_negatives is not None and direction != "d2q":
        hard = own_candidates(unit(hard_negatives, normalize), hard_negatives_mask)
    queries, documents = autocast_features(unit(queries, normalize), unit(documents, normalize))
    return info_nce(
        queries, documents, temperature=temperature, hard_negatives=hard, in_batch=use_in_batch_negatives,
        symmetric=direction != "q2d", direction="cols" if direction == "d2q" else "mean", memory_budget=memory_budget,
        backend=backend, group=group,
    )  # fmt: skip


def check_call(
    queries: Tensor, hard: Tensor | None, mask: Tensor | None, direction: str, in_batch: bool, name: str
) -> None:
    check.choice("direction", direction, DIRECTIONS)
    n, k = check.features(name.replace("hard_negatives", "queries"), queries).shape[0], 0
    if hard is not None:
        k = check.features(name, hard, ndim=3).shape[1]
    if mask is not None and (hard is None or check.tensor("hard_negatives_mask", mask).shape != (n, k)):
        raise ValueError(f"hard_negatives_mask must have shape ({n}, {k}) and be given with {name} alone")
    if not in_batch and (hard is None or direction != "q2d"):
        raise ValueError(
            f"use_in_batch_negatives=False needs {name} and direction='q2d': else there are no candidates, "
            f"got direction={direction!r}"
        )


def own_candidates(features: Tensor, mask: Tensor | None) -> Candidates:
    (features,) = autocast_features(features)
    return Candidates(features, None if mask is None else mask.to(features.device) != 0)


@collective
def infonce_distill_loss(
    student_queries: Tensor,
    student_documents: Tensor,
    teacher_queries: Tensor,
    teacher_documents: Tensor,
    student_hard_negatives: Tensor | None = None,
    teacher_hard_negatives: Tensor | None = None,
    hard_negatives_mask: Tensor | None = None,
    temperature: Temperature = 0.05,
    direction: str = "q2d",
    use_in_batch_negatives: bool = True,
    normalize: bool = True,
    divergence: str = "kl",
    *,
    memory_budget: int | None = None,
    group: Group = None,
) -> Tensor:
    """Divergence of the student's softmax over the candidates of `infonce_loss` from the teacher's, a scalar.

        "kl": sum_j p_j log(p_j / s_j),   "ce": - sum_j p_j log s_j,   "mse": sum_j (s_j - p_j)^2,   mean over queries

    Args:
        student_queries, ..: (N, D), (N, D), (N, T), (N, T), (N, K, D), (N, K, T); the teacher's get no gradient.
        memory_budget: Bytes of scores that are held at a time, of a block of queries; default 64 MiB.
        All others: see infonce_loss.

    Formed block by block of queries in the forward pass; differentiable once.
    """
    name = "student_hard_negatives"
    check_call(student_queries, student_hard_negatives, hard_negatives_mask, direction, use_in_batch_negatives, name)
    check.choice("divergence", divergence, DIVERGENCES)
    if (student_hard_negatives is None) != (teacher_hard_negatives is None):
        raise ValueError(f"teacher_hard_negatives must be given with {name}, and only with it")
    sides = (
        Side.of("student", student_queries, student_documents, student_hard_negatives, normalize),
        Side.of("teacher", teacher_queries, teacher_documents, teacher_hard_negatives, normalize).fixed(),
    )
    mask = None if hard_negatives_mask is None else hard_negatives_mask.to(student_queries.device) != 0
    return distilled(
        *sides, mask, temperature, direction, use_in_batch_negatives, divergence, memory_budget, group=group
    )


def grouped_loss(
    query: Tensor,
    key: Tensor,
    n_passages: int,
    *,
    temperature: float = 1.0,
    in_batch_negatives: bool = True,
    preserve_grad: bool = False,
    passage_doc_ids: Tensor | None = None,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """The loss of TrainBiEncoderRecipe of queries (N, D) and passages (N n_passages, D), each query's own first.

    Args:
        temperature: Divides the scores; the recipe divides them where the model normalises.
        in_batch_negatives: `do_distributed_inbatch_negative`: candidates are the passages of all processes of the
            default group, and the loss is the mean over this one's queries. False: each query's own passages alone.
        preserve_grad: `not detach_distributed_inbatch_negatives`: passages of other processes get a gradient, too.
        passage_doc_ids: (N n_passages,), another passage with the id of a query's own is no candidate of it.
        memory_budget, backend: As in contrastile.pair_reduce.
    """
    scale = inverse_number(temperature, query)
    if in_batch_negatives:
        return among_all(
            query, key, n_passages, scale, passage_doc_ids, preserve_grad, memory_budget, backend, group=ranks_of()
        )
    if preserve_grad or passage_doc_ids is not None:
        raise ValueError("preserve_grad and passage_doc_ids need in_batch_negatives=True: no effect")
    if group_size(query, key, ("query", "key")) != n_passages and query.shape[0]:
        raise ValueError(f"key must have {n_passages} rows for each of query, got {key.shape[0] // query.shape[0]}")
    own = own_logits(query, key, n_passages, scale)
    return -own.log_softmax(1)[:, 0].sum() / max(query.shape[0], 1)


@collective
def among_all(
    query: Tensor, key: Tensor, size: int, scale: float, ids: Tensor | None, preserve_grad: bool,
    memory_budget: int | None, backend: BackendName, *, group: Ranks | None,
) -> Tensor:  # fmt: skip
    problem = Grouped.of(
        query, key, None, scale, memory_budget, backend, group, names=("query", "key"), size=size, ids=ids
    )
    return (problem if preserve_grad else problem.with_others_fixed()).loss()


class InfoNCELoss(nn.Module):
    """Module of infonce_loss. With learnable_temperature its temperature is exp(-log_inv_tau).

    cross_device_negatives: in a default group the batch is that of all processes, and so is the loss on each of them.
    """

    def __init__(
        self,
        temperature: float = 0.05,
        learnable_temperature: bool = False,
        direction: str = "q2d",
        use_in_batch_negatives: bool = True,
        normalize: bool = True,
        cross_device_negatives: bool = True,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__()
        check.scalar("temperature", temperature, positive=True)
        self.direction = direction
        self.use_in_batch_negatives = use_in_batch_negatives
        self.normalize = normalize
        self.cross_device_negatives = cross_device_negatives
        self.learnable_temperature = learnable_temperature
        self.memory_budget = memory_budget
        self.backend = backend
        self.register_buffer("tau", torch.tensor(float(temperature)), persistent=not learnable_temperature)
        start = torch.tensor(math.log(1.0 / temperature))
        self.log_inv_tau = nn.Parameter(start) if learnable_temperature else None

    def current_temperature(self) -> Tensor:
        if self.log_inv_tau is not None:
            return torch.exp(-self.log_inv_tau)
        assert isinstance(self.tau, Tensor)
        return self.tau

    def forward(
        self,
        queries: Tensor,
        documents: Tensor,
        hard_negatives: Tensor | None = None,
        hard_negatives_mask: Tensor | None = None,
    ) -> Tensor:
        ranks = ranks_of() if self.cross_device_negatives and self.use_in_batch_negatives else None
        temperature = self.current_temperature()
        loss = infonce_loss(
            queries, documents, hard_negatives, hard_negatives_mask,
            joint_gradient(temperature, ranks, 1.0 / ranks.size) if ranks is not None else temperature,
            self.direction, self.use_in_batch_negatives, self.normalize, memory_budget=self.memory_budget,
            backend=self.backend, group=ranks,
        )  # fmt: skip
        return mean_value(loss, ranks)


class InfoNCEDistillLoss(nn.Module):
    """Module of infonce_distill_loss; cross_device_negatives as in InfoNCELoss."""

    def __init__(
        self,
        temperature: float = 0.05,
        direction: str = "q2d",
        use_in_batch_negatives: bool = True,
        normalize: bool = True,
        divergence: str = "kl",
        cross_device_negatives: bool = True,
        *,
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        check.scalar("temperature", temperature, positive=True)
        self.temperature = temperature
        self.direction = direction
        self.use_in_batch_negatives = use_in_batch_negatives
        self.normalize = normalize
        self.divergence = divergence
        self.cross_device_negatives = cross_device_negatives
        self.memory_budget = memory_budget

    def forward(
        self,
        student_queries: Tensor,
        student_documents: Tensor,
        teacher_queries: Tensor,
        teacher_documents: Tensor,
        student_hard_negatives: Tensor | None = None,
        teacher_hard_negatives: Tensor | None = None,
        hard_negatives_mask: Tensor | None = None,
    ) -> Tensor:
        ranks = ranks_of() if self.cross_device_negatives and self.use_in_batch_negatives else None
        loss = infonce_distill_loss(
            student_queries, student_documents, teacher_queries, teacher_documents, student_hard_negatives,
            teacher_hard_negatives, hard_negatives_mask, self.temperature, self.direction,
            self.use_in_batch_negatives, self.normalize, self.divergence, memory_budget=self.memory_budget,
            group=ranks,
        )  # fmt: skip
        return mean_value(loss, ranks)
