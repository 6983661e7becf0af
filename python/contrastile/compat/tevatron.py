"""Training losses of tevatron (texttron/tevatron, dd06310). The package itself is not imported.

    L_i = log sum_j e^{<q_i, p_j> / temperature} - <q_i, p_gi> / temperature,      passages (N g, D)

`patch(model)` replaces the loss of an EncoderModel; the two classes are for `GradCacheTrainer`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..literals import BackendName, Reduction
from ..ops import EngineOptions
from . import grad_cache
from .groups import contrast, inverse_number
from .instance import InstancePatch, written_in
from .ranks import ranks_of

# what a model may not have otherwise: the loss is theirs
METHODS = ("forward", "compute_similarity", "compute_loss", "_dist_gather_tensor")


class SimpleContrastiveLoss(grad_cache.SimpleContrastiveLoss):
    """Cross-entropy of each row of x over all rows of y, of which as many belong to each row of x, its own first."""

    def __init__(self, *, memory_budget: int | None = None, backend: BackendName = "auto") -> None:
        super().__init__(memory_budget=memory_budget, backend=backend)
        self.target_per_qry = None  # what y has


class DistributedContrastiveLoss(grad_cache.DistributedContrastiveLoss):
    """The same of the rows of all W processes, times W with scale_loss; n_target has no effect, as in the package."""

    def __init__(
        self,
        n_target: int = 0,
        scale_loss: bool = True,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(memory_budget=memory_budget, backend=backend)
        self.target_per_qry = None
        self.scale_loss = scale_loss

    def __call__(self, x: Tensor, y: Tensor, target: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
        loss = super().__call__(x, y, target, reduction)
        return loss * float(self.ranks.size) if self.scale_loss and self.ranks is not None else loss


def contrastive_loss(
    q_reps: Tensor,
    p_reps: Tensor,
    temperature: float = 1.0,
    *,
    is_ddp: bool = False,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """What EncoderModel.forward computes of queries (N, D) and passages (N g, D); float32 (float64 for float64).

    is_ddp: W times the loss of the rows of all W processes of the default group, with the gradient of this one's.
    """
    ranks = ranks_of() if is_ddp else None
    loss = contrast(
        q_reps, p_reps, scale=inverse_number(temperature, q_reps), memory_budget=memory_budget, backend=backend,
        group=ranks, names=("q_reps", "p_reps"),
    )  # fmt: skip
    return loss if ranks is None else loss * float(ranks.size)


def patch(model: Any, *, memory_budget: int | None = None, backend: BackendName = "auto") -> InstancePatch:
    """Lets this EncoderModel compute its training loss without the scores of all pairs; undo() of what is returned
    takes it back.

    In training the output's `scores` is then None; with several processes q_reps and p_reps are this one's.
    DistilTevatronTrainer reads the scores: leave its model as it is.
    """
    EngineOptions.of(memory_budget, backend)
    written_in("tevatron", model, METHODS)
    return InstancePatch(model, {"forward": partial(forward, model, memory_budget, backend)})


def forward(model: Any, memory_budget: int | None, backend: BackendName, query: Any = None, passage: Any = None) -> Any:
    """EncoderModel.forward."""
    original = type(model).forward
    if not (model.training and query and passage):
        return original(model, query=query, passage=passage)
    q_reps, p_reps = model.encode_query(query), model.encode_passage(passage)
    loss = contrastive_loss(
        q_reps, p_reps, model.temperature, is_ddp=model.is_ddp, memory_budget=memory_budget, backend=backend
    )
    return original.__globals__["EncoderOutput"](loss=loss, scores=None, q_reps=q_reps, p_reps=p_reps)
