"""lightly 1.6.0: NTXentLoss, DCLLoss and DCLWLoss. Subclasses: arguments, memory bank and weights stay lightly's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from lightly.loss import dcl_loss, ntx_ent_loss
from torch import Tensor

from ..literals import BackendName
from ..losses.common import feature_pair, inverse, reduced_empty, upcast
from ..losses.two_views import other_view_loss
from ..ops import EngineOptions, Pairs, no_autocast, pair_stats
from ..ranks import GlobalBatch, Group, collective
from .candidates import shared_negatives
from .common import autocast_feature
from .ranks import ranks_of

WeightFn = Callable[[Tensor, Tensor], Tensor]


class NTXentLoss(ntx_ent_loss.NTXentLoss):
    """forward(out0, out1): SimCLR's loss of two views (N, D), or with a memory bank MoCo's, where out0 are the queries.

    The bank reads and writes as lightly's: out1 is queued when out0 requires grad, after the negatives are read.
    Returns float32 (float64 for float64 features).
    """

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(temperature, memory_bank_size, gather_distributed)
        self.backend = backend
        self.memory_budget = memory_budget

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        joint = self.gather_distributed and not self.memory_bank.size[0]  # a bank's negatives are this rank's
        return self.contrast(out0, out1, group=ranks_of() if joint else None)

    @collective
    def contrast(self, out0: Tensor, out1: Tensor, *, group: Group) -> Tensor:
        engine = EngineOptions.of(self.memory_budget, self.backend, group)
        out0, out1 = feature_pair("out0", out0, "out1", out1, normalize=True)
        scale = inverse(self.temperature, out0)
        out1, bank = self.memory_bank(out1, update=out0.requires_grad)
        batch = GlobalBatch.of(engine.ranks, out0.shape[0])
        if batch.total == 0:
            return reduced_empty(0, "mean", out0, out1, scale)
        if bank is None:
            x, image = both_views(out0, out1, batch)
            return other_view_loss(autocast_feature(x), image, scale, "mean", batch, engine)
        negatives = bank.T.to(out0)  # lightly hands out (D, size)
        rows = shared_negatives(out0, out1, negatives, scale, backend=self.backend, memory_budget=self.memory_budget)
        return rows.mean()


class DCLLoss(dcl_loss.DCLLoss):
    """forward(out0, out1): the decoupled loss of two views (N, D), the positive weighted by weight_fn if one is given.

    weight_fn gets unit rows, once in either order, and returns one weight per row; gradient passes through it.
    Returns float32 (float64 for float64 features). A single pair has no negatives: 0, where lightly gives -inf.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weight_fn: WeightFn | None = None,
        gather_distributed: bool = False,
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(temperature, weight_fn, gather_distributed)
        self.backend = backend
        self.memory_budget = memory_budget

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        return self.contrast(out0, out1, group=ranks_of() if self.gather_distributed else None)

    @collective
    def contrast(self, out0: Tensor, out1: Tensor, *, group: Group) -> Tensor:
        engine = EngineOptions.of(self.memory_budget, self.backend, group)
        out0, out1 = feature_pair("out0", out0, "out1", out1, normalize=True)
        scale, batch = inverse(self.temperature, out0), GlobalBatch.of(engine.ranks, out0.shape[0])
        if batch.total <= 1:
            return reduced_empty(0, "mean", out0, out1, scale)
        x, image = both_views(out0, out1, batch)
        x = autocast_feature(x)
        if not self.weight_fn:
            return other_view_loss(x, image, scale, "mean", batch, engine, decoupled=True)
        engine.compute_dtype, x = x.dtype, upcast(x)
        pairs = Pairs(x, scale=scale, keep="other_id", positives="same_id", row_ids=image)
        stats = pair_stats(pairs, engine)
        assert stats.row_positives is not None
        weights = [row_weights(self.weight_fn, *views) for views in ((out0, out1), (out1, out0))]
        return batch.reduced(stats.rows - torch.cat(weights) * stats.row_positives, "mean")


class DCLWLoss(DCLLoss):
    """DCLLoss with lightly's von Mises-Fisher weights, through which no gradient passes (contrastile.dclw lets it)."""

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float = 0.5,
        gather_distributed: bool = False,
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        weight_fn = partial(dcl_loss.negative_mises_fisher_weights, sigma=sigma)
        super().__init__(temperature, weight_fn, gather_distributed, backend=backend, memory_budget=memory_budget)


def both_views(out0: Tensor, out1: Tensor, batch: GlobalBatch) -> tuple[Tensor, Tensor]:
    """The 2N rows [out0; out1] and the image each belongs to."""
    with no_autocast(out0):  # in a float16 region, torch.cat refuses bfloat16
        return torch.cat([out0, out1]), batch.index(out0.device).repeat(2)


def row_weights(weight_fn: WeightFn, x: Tensor, y: Tensor) -> Tensor:
    """One weight per row, in the type of the statistics."""
    weight = upcast(torch.as_tensor(weight_fn(x, y), device=x.device))
    if weight.numel() != 1 and weight.shape != x.shape[:1]:
        raise ValueError(f"weight_fn must return shape ({x.shape[0]},), got {tuple(weight.shape)}")
    return weight.reshape(-1).expand(x.shape[0])
