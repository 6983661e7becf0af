"""Global orthogonal regularisation: similarities within a column should have mean 0 and second moment 1 / D."""

from __future__ import annotations

import torch
from sentence_transformers.sentence_transformer import losses as peer
from sentence_transformers.util import cos_sim
from torch import Tensor

from ...losses.common import reduced_empty, unit, upcast
from ...ops import check, matmul, no_autocast
from .cited import cited
from .ranking import Similarity, similarity_kind


@cited
class GlobalOrthogonalRegularizationLoss(peer.GlobalOrthogonalRegularizationLoss):
    """Both moments from sums of rows and a D x D product, where the package holds the N x N similarities.

    sum_{i != j} z_ij = |sum_i x_i|^2 - sum_i |x_i|^2,    sum_{i != j} z_ij^2 = |X^T X|^2 - sum_i |x_i|^4
    """

    def __init__(
        self,
        model: object,
        similarity_fct: Similarity = cos_sim,
        mean_weight: float | None = 1.0,
        second_moment_weight: float | None = 1.0,
        aggregation: str = "mean",
    ) -> None:
        similarity_kind(similarity_fct)
        super().__init__(model, similarity_fct, mean_weight, second_moment_weight, aggregation)

    def compute_gor(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """The mean's and the second moment's term of rows (N, D), N > D or not: the smaller product is formed."""
        n, d = check.features("embeddings", embeddings).shape
        with no_autocast(embeddings):
            x = upcast(unit(embeddings, similarity_kind(self.similarity_fct) == "cosine"))
            if n == 0:
                return reduced_empty(0, "mean", x), reduced_empty(0, "mean", x)
            pairs, lengths = max(n * (n - 1), 1), x.square().sum(1)
            mean = (x.sum(0).square().sum() - lengths.sum()) / pairs
            product = matmul(x.T, x) if d < n else matmul(x, x.T)
            second = (product.square().sum() - lengths.square().sum()) / pairs
            return mean.square(), torch.relu(second - 1.0 / d)
