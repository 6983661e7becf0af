"""GRAM's volume functions and the contrastive loss of its training code (github ispamm/GRAM, revision b70c5c2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..literals import BackendName
from ..losses.volume import gram_loss
from ..losses.volume_computation import (
    volume_computation,
    volume_computation3,
    volume_computation4,
    volume_computation5,
)
from ..ops import check
from .ranks import ranks_of

__all__ = [
    "GramLoss",
    "volume_computation",
    "volume_computation3",
    "volume_computation4",
    "volume_computation5",
    "volume_loss",
]


def volume_loss(
    language: Tensor,
    *inputs: Tensor,
    contra_temp: float | Tensor = 0.07,
    label_smoothing: float = 0.1,
    gather_with_grad: bool = False,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """The loss that GRAM's model forms of its volumes, in one call and without any N x N matrix.

        volume  = volume_computation(language, all inputs) / contra_temp
        volumeT = volume_computation(all languages, inputs).T / contra_temp
        L = 1/2 [ CE(-volume, own index) + CE(-volumeT, own index) ],     both with label_smoothing

    "All" are those of every process of torch.distributed's default group, where there is one, and own index counts
    through them. The mean over processes of values and gradients is that of the global batch.

    Args:
        language: The anchors, (N, D), unit rows. inputs: the other modalities, one or more, (N, D) each.
        contra_temp: Divides the volumes; number or 0-dim tensor with gradient. Must stay > 0: nothing clamps it.
        label_smoothing: As in torch.nn.functional.cross_entropy; the official code has 0.1.
        gather_with_grad: False is the official code, also on one device: its gather detaches the candidates, so that
            each direction gives gradient to its queries only. True: the gradient of the value, in one pass not two.
        memory_budget, backend: As in contrastile.gram_loss.

    Returns: a scalar, float32 (float64 for float64 features).
    """
    check.scalar("contra_temp", contra_temp, positive=True)
    return gram_loss(
        language, *inputs, temperature=contra_temp, label_smoothing=label_smoothing, detach_keys=not gather_with_grad,
        memory_budget=memory_budget, backend=backend, group=ranks_of(),
    )  # fmt: skip


class GramLoss(nn.Module):
    """volume_loss as a module that owns `contra_temp`, a parameter under the name it has in the official model.

    forward(language, *inputs). Options as in volume_loss.
    """

    def __init__(
        self,
        contra_temp: float = 0.07,
        label_smoothing: float = 0.1,
        *,
        gather_with_grad: bool = False,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__()
        start = check.scalar("contra_temp", contra_temp, positive=True)
        self.contra_temp = nn.Parameter(torch.tensor(float(start)))
        self.label_smoothing = label_smoothing
        self.gather_with_grad = gather_with_grad
        self.memory_budget = memory_budget
        self.backend = backend

    def forward(self, language: Tensor, *inputs: Tensor) -> Tensor:
        return volume_loss(
            language, *inputs, contra_temp=self.contra_temp, label_smoothing=self.label_smoothing,
            gather_with_grad=self.gather_with_grad, memory_budget=self.memory_budget, backend=self.backend,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}, gather_with_grad={self.gather_with_grad}"
