"""The training loss of FlagEmbedding's embedders (`FlagEmbedding` 1.4.2). The package itself is not imported.

    L_i = log sum_j e^{z_ij} - z_i,gi,      z_ij = <q_i, p_j> / temperature,      passages (N g, D)

`patch(model)` replaces the loss of a model; `group_loss` is that loss of representations.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..literals import BackendName
from ..losses.common import reduced_empty
from ..ops import EngineOptions, check
from ..ranks import Ranks, collective
from .groups import Grouped, contrast, group_size, inverse_number, own_logits
from .instance import InstancePatch, written_in
from .ranks import mean_value, ranks_of

KINDS = ("kl_div", "m3_kd_loss")
METHODS = (
    "forward", "compute_loss", "compute_score", "_compute_similarity", "distill_loss", "get_local_score",
    "compute_local_score", "_compute_no_in_batch_neg_loss", "_compute_in_batch_neg_loss",
    "_compute_cross_device_neg_loss",
)  # fmt: skip


def group_loss(
    q_reps: Tensor,
    p_reps: Tensor,
    teacher_targets: Tensor | None = None,
    *,
    temperature: float = 1.0,
    kd_loss_type: str = "kl_div",
    no_in_batch_neg_flag: bool = False,
    negatives_cross_device: bool = False,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """The loss of queries (N, D) and passages (N g, D), a scalar: float32 (float64 for float64 representations).

    Args:
        teacher_targets: (N, g), what a teacher makes of each query's own passages, as probabilities; no gradient.
        temperature: > 0, a number.
        kd_loss_type: With a teacher, "kl_div": the loss and, of each query's own passages, the cross-entropy of the
            teacher's probabilities and the softmax. "m3_kd_loss": instead of the loss the sum over own passages of
            probability times cross-entropy, against what comes after it and the passages of others.
        no_in_batch_neg_flag: Each query meets its own passages alone; then "kl_div" alone.
        negatives_cross_device: Rows of all processes of the default group are in the loss, which each of them gets,
            with the gradient of its own rows. "kl_div"'s cross-entropies are of this process's queries.
        memory_budget, backend: As in contrastile.pair_reduce.
    """
    ranks = ranks_of() if negatives_cross_device and not no_in_batch_neg_flag else None
    engine: dict[str, Any] = {"memory_budget": memory_budget, "backend": backend}
    scale = inverse_number(temperature, q_reps)
    return of_group(q_reps, p_reps, teacher_targets, scale, kd_loss_type, no_in_batch_neg_flag, engine, group=ranks)


@collective
def of_group(
    q_reps: Tensor, p_reps: Tensor, targets: Tensor | None, scale: float, kind: str, alone: bool,
    engine: dict[str, Any], *, group: Ranks | None,
) -> Tensor:  # fmt: skip
    check.choice("kd_loss_type", kind, KINDS)
    size = group_size(q_reps, p_reps, ("q_reps", "p_reps"))
    if targets is not None and not q_reps.shape[0]:
        size = check.tensor("teacher_targets", targets).shape[-1]  # groups of nothing have any size
    if targets is None:
        return local(q_reps, p_reps, size, scale)[0] if alone else everywhere(q_reps, p_reps, scale, engine, group)
    shape = (q_reps.shape[0], size)
    if check.tensor("teacher_targets", targets).shape != shape:
        raise ValueError(f"teacher_targets must have shape {shape}, got {tuple(targets.shape)}")
    if kind == "m3_kd_loss":
        if alone:
            raise ValueError("kd_loss_type must be 'kl_div' with no_in_batch_neg_flag: 'm3_kd_loss' is of all passages")
        return in_turn(q_reps, p_reps, size, targets.detach(), scale, engine, group)
    loss, own = local(q_reps, p_reps, size, scale)
    if not alone:
        loss = everywhere(q_reps, p_reps, scale, engine, group)
    return loss - mean((own * targets.detach()).sum(1))


def local(q_reps: Tensor, p_reps: Tensor, size: int, scale: float) -> tuple[Tensor, Tensor]:
    """The loss of queries that meet their own passages alone, and the logarithms of their softmax, (N, g)."""
    own = own_logits(q_reps, p_reps, size, scale).log_softmax(1)
    return -mean(own[:, 0]) if size else reduced_empty(0, "mean", q_reps, p_reps), own


def everywhere(q_reps: Tensor, p_reps: Tensor, scale: float, engine: dict[str, Any], group: Ranks | None) -> Tensor:
    return contrast(q_reps, p_reps, scale=scale, group=group, **engine)


def mean(rows: Tensor) -> Tensor:
    """0 of nothing."""
    return rows.sum() / max(rows.shape[0], 1)


def in_turn(
    q_reps: Tensor, p_reps: Tensor, size: int, targets: Tensor, scale: float, engine: dict[str, Any],
    group: Ranks | None,
) -> Tensor:  # fmt: skip
    """Every rank has the loss of all, and the gradient of its own rows."""
    problem = Grouped.of(q_reps, p_reps, None, scale, **engine, group=group).of_all()
    if problem.batch.total == 0:
        return reduced_empty(0, "mean", q_reps, p_reps)
    return mean_value(problem.batch.reduced(problem.in_turn(size, targets), "mean"), group)


def patch(model: Any, *, memory_budget: int | None = None, backend: BackendName = "auto") -> InstancePatch:
    """Lets this embedder compute its loss without the scores of all pairs; undo() of what is returned takes it back.

    For the embedders of FlagEmbedding.finetune.embedder, with use_mrl, a teacher and negatives_cross_device as they are
    set; of the M3 embedder with unified_finetuning=False, for its other scores are sums of three kinds.
    """
    EngineOptions.of(memory_budget, backend)
    written_in("FlagEmbedding", model, METHODS)
    refuse_unified(model)
    names = {"no_in_batch_neg": (True, False), "in_batch_neg": (False, False), "cross_device_neg": (False, True)}
    made = {name: partial(of_model, model, memory_budget, backend, *flags) for name, flags in names.items()}
    return InstancePatch(model, {f"_compute_{name}_loss": method for name, method in made.items()})


def refuse_unified(model: Any) -> None:
    if getattr(model, "unified_finetuning", False):
        raise ValueError("unified_finetuning must be False: sparse and token scores are not made of one dot product")


def of_model(
    model: Any, memory_budget: int | None, backend: BackendName, alone: bool, everywhere: bool, q_reps: Tensor,
    p_reps: Tensor, teacher_targets: Tensor | None = None, compute_score_func: Any = None, **options: Any,
) -> tuple[None, Tensor]:  # fmt: skip
    """A method that gives scores, which are not made, and the loss."""
    refuse_unified(model)
    if options or getattr(compute_score_func, "__name__", "compute_dense_score") != "compute_dense_score":
        raise ValueError("compute_score_func must be compute_dense_score: other scores are not made of one dot product")
    return None, group_loss(
        q_reps, p_reps, teacher_targets, temperature=model.temperature, kd_loss_type=model.kd_loss_type,
        no_in_batch_neg_flag=alone, negatives_cross_device=everywhere, memory_budget=memory_budget, backend=backend,
    )  # fmt: skip
