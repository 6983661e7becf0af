"""infonce 0.3: InfoNCE (SimCLR) and SupervisedInfoNCE. Cosine similarities; the package itself is not needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..literals import BackendName
from ..losses.common import inverse, reduced_empty, unit, upcast
from ..losses.two_views import other_view_loss
from ..ops import EngineOptions, Pairs, check, pair_stats, softplus
from ..ranks import GlobalBatch
from .common import autocast_feature
from .labels import integer_ids


class InfoNCE(nn.Module):
    """SimCLR's loss of features (2B, D): rows i and i + B are two views of one image; rows are normalised."""

    def __init__(
        self, temperature: float | Tensor = 0.5, *, backend: BackendName = "auto", memory_budget: int | None = None
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.backend = backend
        self.memory_budget = memory_budget

    def forward(self, features: Tensor) -> Tensor:
        """Returns: float32 (float64 for float64 features), the mean over the 2B rows; an empty batch gives 0."""
        engine = EngineOptions.of(self.memory_budget, self.backend)
        x = unit(check.features("features", features), True)
        if x.shape[0] % 2:
            raise ValueError(f"features must have shape (2B, D), both views of B images, got {tuple(features.shape)}")
        scale = inverse(self.temperature, x)
        if x.shape[0] == 0:
            return reduced_empty(0, "mean", x, scale)
        image = torch.arange(x.shape[0] // 2, device=x.device).repeat(2)
        batch = GlobalBatch.of(None, len(x) // 2)
        return other_view_loss(autocast_feature(x), image, scale, "mean", batch, engine)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


class SupervisedInfoNCE(nn.Module):
    """Rows of the same target against rows of other targets, each sum with e^0 for the row itself:

        L_i = log(1 + sum_{n: other target} e^{z_in}) - log(1 + sum_{p != i: same target} e^{z_ip}),
        z_ij = cos(x_i, x_j) / temperature

    `supervised` is kept and has no effect, as in the package: the target alone says what is positive.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.07,
        supervised: bool = False,
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.supervised = supervised
        self.backend = backend
        self.memory_budget = memory_budget

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """features (N, D), target (N,) of any type. Returns: float32 (float64 for float64 features), the mean."""
        engine = EngineOptions.of(self.memory_budget, self.backend)
        x = unit(check.features("features", features), True)
        ids = check.ids("target", integer_ids("target", target), x.shape[0], x.device)
        scale = inverse(self.temperature, x)
        if x.shape[0] == 0:
            return reduced_empty(0, "mean", x, scale)
        x = autocast_feature(x)
        engine.compute_dtype, x = x.dtype, upcast(x)
        others = pair_stats(Pairs(x, scale=scale, keep="other_id", row_ids=ids), engine)
        # nothing passes the threshold but positives, and with b=None no row is its own
        nothing = x.new_full((x.shape[0],), -torch.inf)
        alike = Pairs(x, scale=scale, row_high=nothing, positives="same_id", keep_positives=True, row_ids=ids)
        return (softplus(others.rows) - softplus(pair_stats(alike, engine).rows)).mean()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, supervised={self.supervised}"
