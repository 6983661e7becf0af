"""memeff's losses of whole features: CLIP, LiT, Qwen3, and Qwen3 with locked documents."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ...literals import BackendName
from ...losses.clip import clip_loss
from ...losses.common import feature_pair, reduced_empty, unit, upcast
from ...losses.contrastive import info_nce
from ...ops import check
from ...ranks import GlobalBatch
from ..common import gradient_scaled
from .terms import Qwen3, class_prior, debiased_clip, share, smoothing_of_pairs


class Loss(nn.Module):
    """The options all classes share.

    Args:
        temperature: Divides the similarities; a number, as in the package: it is not learned.
        normalized_inputs: True: features are unit rows already.
        stable: True, the package's default: the loss's gradient is multiplied by sqrt(batch * temperature). The value
            stays. Training with it needs another learning rate for every batch size; False is the true gradient.
        tau_plus: Probability that a negative shares its row's class, in [0, 1): corrects the sum over negatives as in
            arXiv 2007.00224. forward takes another one, a number or one per row.
        label_smoothing: In [0, 1): that share of the target is spread over all candidates.
        memory_budget, backend: As in contrastile.pair_reduce.
    """

    renormalize = False  # whether rows are cut and so must be normalised in any case

    def __init__(
        self,
        temperature: float,
        normalized_inputs: bool,
        stable: bool,
        tau_plus: float,
        label_smoothing: float,
        memory_budget: int | None,
        backend: BackendName,
    ) -> None:
        super().__init__()
        check.scalar("temperature", temperature, positive=True)
        if isinstance(temperature, Tensor):
            raise TypeError("temperature must be a number, got a torch.Tensor: it has no gradient here")
        self.temperature = temperature
        self.normalized_inputs = normalized_inputs
        self.stable = stable
        self.tau_plus = share("tau_plus", tau_plus)
        self.label_smoothing = share("label_smoothing", label_smoothing)
        self.memory_budget = memory_budget
        self.backend = backend

    @property
    def engine(self) -> dict[str, Any]:
        return {"memory_budget": self.memory_budget, "backend": self.backend}

    def pair(self, x_name: str, x: Tensor, y_name: str, y: Tensor) -> tuple[Tensor, Tensor]:
        """Two batches of equal shape, as unit rows of one type."""
        return feature_pair(x_name, x, y_name, y, self.normalize)

    @property
    def normalize(self) -> bool:
        return self.renormalize or not self.normalized_inputs

    def batch(self, n: int) -> GlobalBatch:
        """The rows whose mean the loss is; this process has n of them."""
        return GlobalBatch.of(None, n)

    def finished(self, loss: Tensor, batch: GlobalBatch) -> Tensor:
        """The share of this process in the mean over all rows."""
        loss = loss / len(batch.sizes)
        return gradient_scaled(loss, math.sqrt(batch.total * self.temperature)) if self.stable else loss

    def extra_repr(self) -> str:
        names = ("temperature", "normalized_inputs", "stable", "tau_plus", "label_smoothing")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class MemoryEfficientCLIPLoss(Loss):
    """The mean of both directions' cross-entropies; both sides get a gradient. Options as in Loss."""

    both = True

    def __init__(
        self,
        temperature: float = 0.07,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(temperature, normalized_inputs, stable, tau_plus, label_smoothing, memory_budget, backend)

    def forward(self, image_features: Tensor, text_features: Tensor, tau_plus: float | Tensor | None = None) -> Tensor:
        """(N, D) each; a scalar, float32 (float64 for float64 features)."""
        x, y = self.pair("image_features", image_features, "text_features", text_features)
        return self.contrast(x, y, tau_plus)

    def contrast(self, x: Tensor, y: Tensor, tau_plus: float | Tensor | None) -> Tensor:
        batch, scale, smoothing = self.batch(len(x)), 1.0 / self.temperature, self.label_smoothing
        prior = class_prior(self.tau_plus, tau_plus, len(x), x.device)
        if prior is None:
            options: dict[str, Any] = {"label_smoothing": smoothing, "group": batch.ranks, **self.engine}
            if self.both:
                loss = clip_loss(x, y, scale, **options)
            else:
                loss = info_nce(x, y, temperature=self.temperature, **options)
        elif batch.total <= 1:  # no negative whose sum could be corrected
            loss = reduced_empty(batch.n, "mean", x, y)
        else:
            rows = debiased_clip(
                upcast(x), upcast(y), scale, prior, self.both, batch, compute_dtype=x.dtype, **self.engine
            )
            loss = batch.reduced(rows, "mean")
            if smoothing:
                loss = loss + smoothing * smoothing_of_pairs(x, y, scale, batch)
        return self.finished(loss, batch)


class MemoryEfficientLiTLoss(MemoryEfficientCLIPLoss):
    """Text -> image alone, with the images locked: they get no gradient. The texts come first, as in the package."""

    both = False

    def forward(  # type: ignore[override]  # the package's names and order
        self, text_features: Tensor, image_features: Tensor, tau_plus: float | Tensor | None = None
    ) -> Tensor:
        x, y = self.pair("text_features", text_features, "image_features", image_features)
        return self.contrast(x, y.detach(), tau_plus)


class StableMemoryEfficientCLIPLoss(MemoryEfficientCLIPLoss):
    """MemoryEfficientCLIPLoss(stable=True), the package's older name for it."""

    def __init__(
        self,
        temperature: float = 0.07,
        normalized_inputs: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(temperature, normalized_inputs, memory_budget=memory_budget, backend=backend)


class StableMemoryEfficientLiTLoss(MemoryEfficientLiTLoss):
    """MemoryEfficientLiTLoss(stable=True), the package's older name for it."""

    def __init__(
        self,
        temperature: float = 0.07,
        normalized_inputs: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(temperature, normalized_inputs, memory_budget=memory_budget, backend=backend)


class MemoryEfficientQwen3Loss(Loss):
    """Query -> document cross-entropy of Qwen3-Embedding; both sides get a gradient.

    Args:
        margin: >= 0. Negatives with a similarity above the positive's + margin are taken for positives and dropped; no
            gradient flows through that decision. 2 and more drop nothing.
        use_qq_negatives, use_dd_negatives: The other queries, and of the row's document the other documents, are
            negatives too.
        The rest as in Loss. tau_plus and label_smoothing count dropped negatives.
    """

    locked = False  # documents and hard negatives without gradient

    def __init__(
        self,
        temperature: float = 0.07,
        margin: float = 0.1,
        use_qq_negatives: bool = False,
        use_dd_negatives: bool = False,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(temperature, normalized_inputs, stable, tau_plus, label_smoothing, memory_budget, backend)
        if not margin >= 0.0:
            raise ValueError(f"margin must be >= 0, got {margin}: below, the package drops the positive itself")
        self.margin = float(margin)
        self.use_qq_negatives = use_qq_negatives
        self.use_dd_negatives = use_dd_negatives

    def forward(
        self,
        query_features: Tensor,
        doc_features: Tensor,
        hard_negative_features: Tensor | None = None,
        tau_plus: float | Tensor | None = None,
    ) -> Tensor:
        """(N, D), (N, D) and (N, K, D); a scalar, float32 (float64 for float64 features)."""
        q, d = self.pair("query_features", query_features, "doc_features", doc_features)
        h = hard_negative_features
        if h is not None:
            check.features("hard_negative_features", h, ndim=3)
            if h.shape[0] != len(q) or h.shape[2] != q.shape[1]:
                raise ValueError(
                    f"hard_negative_features must have shape ({len(q)}, K, {q.shape[1]}), got {tuple(h.shape)}"
                )
            check.same_device("hard_negative_features", h, q.device)
            h = unit(h, self.normalize)
        return self.contrast(q, d, h, tau_plus)

    def contrast(self, q: Tensor, d: Tensor, h: Tensor | None, tau_plus: float | Tensor | None) -> Tensor:
        batch, prior = self.batch(len(q)), class_prior(self.tau_plus, tau_plus, len(q), q.device)
        if self.locked:
            d, h = d.detach(), None if h is None else h.detach()
        if batch.total == 0:
            return reduced_empty(0, "mean", q, d, h)
        # gradients of all parts meet in float32 and are rounded once
        compute = q.dtype
        q, d, h = upcast(q), upcast(d), None if h is None else upcast(h)
        flags = self.use_qq_negatives, self.use_dd_negatives
        problem = Qwen3(batch, q, d, h, 1.0 / self.temperature, self.margin, *flags)
        if problem.count == 0:
            return self.finished(reduced_empty(0, "mean", q, d, h), batch)
        rows = problem.rows(prior, self.label_smoothing, compute_dtype=compute, **self.engine)
        return self.finished(batch.reduced(rows, "mean"), batch)

    def extra_repr(self) -> str:
        names = ("margin", "use_qq_negatives", "use_dd_negatives")
        return ", ".join([super().extra_repr(), *(f"{name}={getattr(self, name)}" for name in names)])


class MemoryEfficientLiTQwen3Loss(MemoryEfficientQwen3Loss):
    """MemoryEfficientQwen3Loss with documents and hard negatives locked: only queries get a gradient."""

    locked = True

    def __init__(
        self,
        temperature: float = 0.07,
        margin: float = 0.1,
        use_qq_negatives: bool = False,
        normalized_inputs: bool = False,
        stable: bool = True,
        tau_plus: float = 0.0,
        label_smoothing: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            temperature, margin, use_qq_negatives, False, normalized_inputs, stable, tau_plus, label_smoothing,
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
