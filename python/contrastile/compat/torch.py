"""torch's coming torch.nn.functional.info_nce_loss and torch.nn.InfoNCELoss, as pull request 195380 proposes them."""

from __future__ import annotations

from torch import Tensor, nn

from ..literals import BackendName, Reduction
from . import info_nce


def info_nce_loss(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    reduction: Reduction = "mean",
    *,
    backend: BackendName = "auto",
    memory_budget: int | None = None,
) -> Tensor:
    """InfoNCE of unit rows, from queries to keys: against the keys of the batch, or against negative_keys instead.

        L_i = -log( e^{s_ii / temperature} / sum_j e^{s_ij / temperature} ),    s_ij = <query_i, key_j>

    j over the keys of the batch or, with negative_keys, over the query's own key and these. For both directions take
    the mean of two calls, or `contrastile.clip_loss`, which multiplies the rows once.

    Args:
        query, positive_key: (N, D), any length: rows are normalised.
        negative_keys: (M, D), shared by all queries; None: the other keys of the batch.
        temperature: > 0 and finite; float, or a tensor with one element, with gradient.
        reduction: "mean" | "sum" | "none": (N,).
        backend, memory_budget: As in contrastile.info_nce.

    Returns: float32 (float64 for float64 rows). An empty batch gives 0.
    Raises: ValueError, TypeError: shapes, types or devices disagree, a temperature that is not finite and > 0.

    Example:
        >>> loss = info_nce_loss(torch.randn(8, 16), torch.randn(8, 16), torch.randn(64, 16), temperature=0.07)
    """
    return info_nce.info_nce(
        query, positive_key, negative_keys, temperature, reduction, backend=backend, memory_budget=memory_budget
    )


class InfoNCELoss(nn.Module):
    """Module twin of info_nce_loss; forward(query, positive_key, negative_keys=None)."""

    def __init__(
        self,
        temperature: float | Tensor = 0.07,
        reduction: Reduction = "mean",
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction
        self.backend = backend
        self.memory_budget = memory_budget

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        return info_nce_loss(
            query, positive_key, negative_keys, self.temperature, self.reduction, backend=self.backend,
            memory_budget=self.memory_budget,
        )  # fmt: skip
