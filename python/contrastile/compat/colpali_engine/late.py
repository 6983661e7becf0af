"""Losses of late interaction: queries (B, T, D) and documents (C, U, D), padded with zeros, which score 0."""

from __future__ import annotations

import warnings
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...literals import BackendName
from ...ops import check, softplus
from ..token_scores import of_all, of_own
from .options import Loss, alone, checked_batch, checked_pairs, mean, mixed, own_documents, weight_of_batch


class ColbertModule(Loss):
    """Options of all: normalize_scores: divided by the query's tokens; a warning says where they then leave [0, 1] by
    more than norm_tol. use_smooth_max: tau log sum e^(score / tau) over document tokens in the place of the maximum.
    """

    def __init__(
        self,
        max_batch_size: int = 1024,
        tau: float = 0.1,
        norm_tol: float = 1e-3,
        filter_threshold: float = 0.95,
        filter_factor: float = 0.5,
        *,
        temperature: float = 1.0,
        normalize_scores: bool = True,
        use_smooth_max: bool = False,
        pos_aware_negative_filtering: bool = False,
        backend: BackendName = "auto",
    ) -> None:
        filtering = pos_aware_negative_filtering
        super().__init__(temperature, filtering, filter_threshold, filter_factor, None, backend)
        check.scalar("tau", tau, positive=True)
        self.tau = tau
        self.norm_tol = norm_tol
        self.normalize_scores = normalize_scores
        self.use_smooth_max = use_smooth_max

    def scores(self, queries: Tensor, documents: Tensor, own: bool = False) -> Tensor:
        """(B, C) of all documents, (B, N) of own ones (B, N, U, D), (B,) of the one of each index, (B, U, D)."""
        score = of_own if own else of_all
        if self.use_smooth_max:
            found = score(queries, documents, document_reduce="lse", sharpness=1.0 / self.tau, backend=self.backend)
        else:
            found = score(queries, documents, backend=self.backend)
        if not self.normalize_scores:
            return found
        lengths = (queries[:, :, 0] != 0).sum(1)
        found = found / (lengths if found.dim() == 1 else lengths.unsqueeze(1))
        if check.plain(found) and found.numel():
            least, most = (float(x) for x in found.detach().aminmax())
            if least < -self.norm_tol or most > 1.0 + self.norm_tol:
                warnings.warn(f"normalised scores leave [0, 1]: they go from {least:.4f} to {most:.4f}", stacklevel=3)
        return found

    def in_batch(self, queries: Tensor, documents: Tensor, offset: int) -> tuple[Tensor, Tensor]:
        """Scores (B, C), filtered if asked, and the column of each positive."""
        own = checked_batch(queries, documents, offset, 3)
        return self.filtered(self.scores(queries, documents), own), own

    def pairs(self, queries: Tensor, documents: Tensor, negatives: Tensor, offset: int) -> Tensor:
        """The mean of log(1 + e^((negative - positive) / temperature)) over each query's own negatives (B, N, U, D)."""
        checked_pairs(queries, documents, negatives, 3)
        own_documents(queries, documents, offset)
        positive = self.scores(queries, documents[offset : offset + queries.shape[0]], own=True)
        negative = self.scores(queries, negatives, own=True)
        return mean(softplus((negative - positive.unsqueeze(1)) / self.temperature))


class ColbertLoss(ColbertModule):
    """Cross-entropy of each query's own document among all."""

    def __init__(
        self,
        temperature: float = 0.02,
        normalize_scores: bool = True,
        use_smooth_max: bool = False,
        pos_aware_negative_filtering: bool = False,
        max_batch_size: int = 1024,
        tau: float = 0.1,
        norm_tol: float = 1e-3,
        filter_threshold: float = 0.95,
        filter_factor: float = 0.5,
        *,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            max_batch_size, tau, norm_tol, filter_threshold, filter_factor, temperature=temperature,
            normalize_scores=normalize_scores, use_smooth_max=use_smooth_max,
            pos_aware_negative_filtering=pos_aware_negative_filtering, backend=backend,
        )  # fmt: skip

    def forward(self, query_embeddings: Tensor, doc_embeddings: Tensor, offset: int = 0) -> Tensor:
        """offset: the number of the first query's document, where documents have been gathered."""
        scores, own = self.in_batch(query_embeddings, doc_embeddings, offset)
        return mean(F.cross_entropy(scores / self.temperature, own, reduction="none"))


class ColbertPairwiseCELoss(ColbertLoss):
    """log(1 + e^((hardest negative - positive) / temperature))."""

    def __init__(
        self,
        temperature: float = 1.0,
        normalize_scores: bool = True,
        use_smooth_max: bool = False,
        pos_aware_negative_filtering: bool = False,
        max_batch_size: int = 1024,
        tau: float = 0.1,
        norm_tol: float = 1e-3,
        filter_threshold: float = 0.95,
        filter_factor: float = 0.5,
        *,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            temperature, normalize_scores, use_smooth_max, pos_aware_negative_filtering, max_batch_size, tau, norm_tol,
            filter_threshold, filter_factor, backend=backend,
        )  # fmt: skip

    def forward(self, query_embeddings: Tensor, doc_embeddings: Tensor, offset: int = 0) -> Tensor:
        scores, own = self.in_batch(query_embeddings, doc_embeddings, offset)
        if scores.shape[1] < 2:
            raise ValueError(f"doc_embeddings must be 2 or more, got {scores.shape[1]}: there is no negative")
        own = own.unsqueeze(1)
        hardest = scores.scatter(1, own, -torch.inf).amax(1)
        return mean(softplus((hardest - scores.gather(1, own).squeeze(1)) / self.temperature))


class ColbertSigmoidLoss(ColbertLoss):
    """log(1 + e^(score / temperature)) of negatives, log(1 + e^(-score / temperature)) of positives, over all pairs."""

    def forward(self, query_embeddings: Tensor, doc_embeddings: Tensor, offset: int = 0) -> Tensor:
        alone("ColbertSigmoidLoss", query_embeddings, doc_embeddings, offset)
        scores, _ = self.in_batch(query_embeddings, doc_embeddings, offset)
        sign = 1.0 - 2.0 * torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
        return mean(softplus(sign * scores / self.temperature))


class ColbertNegativeCELoss(ColbertLoss):
    """Each query's own negatives, and with weight in_batch_term_weight the loss `inner` in the batch."""

    inner: type[ColbertLoss] = ColbertLoss

    def __init__(
        self,
        temperature: float = 0.02,
        normalize_scores: bool = True,
        use_smooth_max: bool = False,
        pos_aware_negative_filtering: bool = False,
        in_batch_term_weight: float = 0.5,
        max_batch_size: int = 1024,
        tau: float = 0.1,
        norm_tol: float = 1e-3,
        filter_threshold: float = 0.95,
        filter_factor: float = 0.5,
        *,
        backend: BackendName = "auto",
    ) -> None:
        options = (
            temperature, normalize_scores, use_smooth_max, pos_aware_negative_filtering, max_batch_size, tau, norm_tol,
            filter_threshold, filter_factor,
        )  # fmt: skip
        super().__init__(*options, backend=backend)
        self.in_batch_term_weight = weight_of_batch(in_batch_term_weight)
        self.inner_loss = self.inner(*options, backend=backend)

    def forward(  # type: ignore[override]  # the package's arguments
        self, query_embeddings: Tensor, doc_embeddings: Tensor, neg_doc_embeddings: Tensor, offset: int = 0
    ) -> Tensor:
        loss = self.pairs(query_embeddings, doc_embeddings, neg_doc_embeddings, offset)
        in_batch = partial(self.inner_loss, query_embeddings, doc_embeddings, offset)
        return mixed(loss, in_batch, self.in_batch_term_weight)


class ColbertPairwiseNegativeCELoss(ColbertNegativeCELoss):
    """ColbertNegativeCELoss with ColbertPairwiseCELoss in the batch."""

    inner = ColbertPairwiseCELoss
