"""LibAUC's global contrastive losses, GCLoss_v1, GCLoss_v2 and GCLoss (libauc 2.0.1). LibAUC need not be installed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..literals import BackendName
from ..losses import ISogCLR, SogCLR
from ..losses.remembering import GlobalContrast, count, fraction
from ..ops import check
from ..ranks import GlobalBatch, Group

SCHEDULES = ("constant", "cosine")
SCHEMES = ("global_constant", "individual_learnable", "global_learnable")
Temperatures = tuple[Tensor, Tensor] | None  # means over the batch, of images and of texts


class ByRow(SogCLR):
    """SogCLR with its temperature once for each row: across ranks the value is then that of a rank's own rows."""

    def temperatures(self, index: Tensor, like: Tensor) -> Tensor:
        return super().temperatures(index, like).expand(len(self.state["log_mean"]), len(index))


class Undivided(GlobalContrast):
    """GCLoss_v2 does not divide by the number of negatives, and halves the sum of both sides."""

    def share(self, batch: GlobalBatch) -> float:
        return super().share(batch) * (batch.total - 1) / 2.0


class UndividedSogCLR(Undivided, SogCLR):
    pass


class UndividedByRow(Undivided, ByRow):
    pass


class UndividedISogCLR(Undivided, ISogCLR):
    def temperatures(self, index: Tensor, like: Tensor) -> Tensor:
        self.used = super().temperatures(index, like)  # of the last batch, which GCLoss_v2 returns the means of
        return self.used


class Averaging(nn.Module):
    """What both have in common: moving averages of every sample, and the schedule of gamma."""

    averages: GlobalContrast

    def __init__(self, N: int, tau: float, gamma: float, gamma_schedule: str, gamma_decay_epochs: int) -> None:
        super().__init__()
        if count("N", N) == 0:
            raise ValueError("N must be above 0")
        check.scalar("tau", tau, positive=True)
        check.choice("gamma_schedule", gamma_schedule, SCHEDULES)
        if gamma_schedule == "cosine" and count("gamma_decay_epochs", gamma_decay_epochs) == 0:
            raise ValueError("gamma_decay_epochs must be above 0 with gamma_schedule='cosine'")
        self.gamma_schedule, self.gamma_decay_epochs = gamma_schedule, gamma_decay_epochs
        self.gamma_min, self.gamma = fraction("gamma", gamma), 1.0

    def adjust_gamma(self, epoch: int) -> None:
        """To be called where an epoch begins. "constant": 1 in epoch 0, then gamma; "cosine": half a cosine from 1 to
        gamma, over gamma_decay_epochs epochs."""
        epoch = count("epoch", epoch)
        if self.gamma_schedule == "constant":
            self.gamma = self.gamma_min if epoch else 1.0
            return
        part = 0.5 * (1.0 + math.cos(math.pi * min(epoch / self.gamma_decay_epochs, 1.0)))
        self.gamma = self.gamma_min + (1.0 - self.gamma_min) * part

    def averaged(self, x: Tensor, y: Tensor, index: Tensor, group: Group) -> Tensor:
        """In the first epoch of a constant gamma, a sample's average begins with its first estimate; later at 0."""
        first = self.gamma_schedule == "constant" and self.gamma > self.gamma_min
        self.averages.warm_start = first
        self.averages.gamma = self.gamma_min if first else self.gamma
        return self.averages(x, y, index, group=group)

    def learned(self, side: int) -> Tensor:
        if not self.averages.individual:
            raise AttributeError  # nn.Module words it: there is no such attribute, as in the package
        return self.averages.state["temperature"][side, :, None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also from checkpoints with LibAUC's class, which saves nothing: averages then stay as they are."""
        if not any(name.startswith(prefix) for name in state_dict):
            state_dict.update(self.state_dict(prefix=prefix))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class GCLoss_v1(Averaging):
    """Two views of images: SogCLR's steps, with enable_isogclr those of iSogCLR (RGCL), as libauc's GCLoss_v1.

        loss_fn = GCLoss_v1(N=len(data), tau=0.1)
        loss_fn(hidden1, hidden2, index).backward()

    For the formulas see contrastile.SogCLR and ISogCLR with unimodal=True.

    Args:
        N: Number of samples of the data set. tau: temperature, or where temperatures start.
        gamma: Share of the new estimate, in (0, 1].
        eps: No effect: averages are kept as logs, and not bounded from below.
        device: No effect: the features decide. Averages follow .to().
        distributed: The views of all ranks of the default group are negatives.
        tau_min, tau_max, rho, eta, beta: Of enable_isogclr.
        gamma_schedule: "constant" | "cosine". gamma_decay_epochs: see adjust_gamma.
        backend, memory_budget: As in contrastile.nt_xent.

    forward(hidden1, hidden2, index): (N, D) each, any length; (N,) integers. Returns the loss, float32 (float64 for
    float64 features), 0-dim.

    Source: Optimization-AI/LibAUC, libauc/losses/contrastive.py; Yuan et al. 2022, arXiv 2202.12387; Qiu et al. 2023,
    arXiv 2305.11965.
    """

    def __init__(
        self,
        N: int = 100000,
        tau: float = 0.1,
        gamma: float = 0.9,
        eps: float = 1e-8,
        device: torch.device | str | None = None,
        distributed: bool = False,
        enable_isogclr: bool = False,
        tau_min: float = 0.05,
        tau_max: float = 0.7,
        rho: float = 0.3,
        eta: float = 0.01,
        beta: float = 0.9,
        gamma_schedule: str = "constant",
        gamma_decay_epochs: int = -1,
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(N, tau, gamma, gamma_schedule, gamma_decay_epochs)
        self.N, self.tau, self.eps, self.device = N, tau, eps, device
        self.distributed, self.enable_isogclr = distributed, enable_isogclr
        options: dict[str, Any] = {
            "unimodal": True, "normalize": True, "temperature": tau, "backend": backend, "memory_budget": memory_budget,
        }  # fmt: skip
        if enable_isogclr:
            self.averages = ISogCLR(N, t_min=tau_min, t_max=tau_max, rho=rho, eta=eta, beta=beta, clip=None, **options)
        else:
            self.averages = (ByRow if distributed else SogCLR)(N, **options)

    def forward(self, hidden1: Tensor, hidden2: Tensor, index: Tensor) -> Tensor:
        check.same_shape("hidden2", check.features("hidden2", hidden2), "hidden1", check.features("hidden1", hidden1))
        return self.averaged(hidden1, hidden2, index, "world" if self.distributed else None)

    @property
    def u(self) -> Tensor:
        """The averages, (N, 1)."""
        return self.averages.state["log_mean"][0, :, None].exp()

    @property
    def learnable_tau(self) -> Tensor:
        """The temperatures of enable_isogclr, (N, 1)."""
        return self.learned(0)


class GCLoss_v2(Averaging):
    """Images and texts: SogCLR's steps, or iSogCLR's with a temperature for every sample, as libauc's GCLoss_v2.

        loss_fn = GCLoss_v2(N=len(data), tau=0.01)
        loss, _ = loss_fn(image_features, text_features, index)
        loss.backward()

    For the formulas see contrastile.SogCLR and ISogCLR; value and gradients are (B - 1) / 2 times theirs, with the
    number B of pairs of all ranks.

    Args:
        N: Number of samples of the data set. tau: temperature, or where temperatures start.
        gamma: Share of the new estimate, in (0, 1].
        cache_labels: No effect: there are none.
        rank, world_size, distributed: distributed=True: the features of all ranks of the default group, whose size and
            rank these must be.
        temperature_scheme: "global_constant" | "individual_learnable". enable_isogclr=True: the latter.
        tau_min, tau_max, rho, eta, beta: Of individual temperatures.
        gamma_schedule: "constant" | "cosine". gamma_decay_epochs: see adjust_gamma.
        backend, memory_budget: As in contrastile.clip_loss.

    forward(image_features, text_features, index): (N, D) each, unit rows expected; (N,) integers. Returns the loss, as
    GCLoss_v1's, and the mean temperatures of images and of texts before this step, None where they are fixed.

    Raises: NotImplementedError for temperature_scheme="global_learnable", whose gradient is not that of a log.
    ValueError for world_size above 1 without distributed.

    Source: as GCLoss_v1.
    """

    def __init__(
        self,
        N: int = 1000000,
        tau: float = 0.01,
        gamma: float = 0.9,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        distributed: bool = False,
        temperature_scheme: str = "global_constant",
        tau_min: float = 0.005,
        tau_max: float = 0.05,
        rho: float = 6.0,
        eta: float = 0.01,
        beta: float = 0.9,
        gamma_schedule: str = "constant",
        gamma_decay_epochs: int = -1,
        *,
        enable_isogclr: bool = False,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(N, tau, gamma, gamma_schedule, gamma_decay_epochs)
        check.choice("temperature_scheme", temperature_scheme, SCHEMES)
        scheme = "individual_learnable" if enable_isogclr else temperature_scheme
        if scheme == "global_learnable":
            raise NotImplementedError(
                "temperature_scheme='global_learnable' is not supported: contrastile.FastCLIP(version='v3') learns one "
                "temperature for all"
            )
        if world_size > 1 and not distributed:
            raise ValueError(
                "distributed must be True with world_size above 1: one rank's batch would be compared alone"
            )
        self.tau, self.cache_labels, self.rank, self.world_size = tau, cache_labels, rank, world_size
        self.distributed, self.temperature_scheme = distributed, scheme
        options: dict[str, Any] = {"temperature": tau, "backend": backend, "memory_budget": memory_budget}
        if scheme == "individual_learnable":
            self.averages = UndividedISogCLR(
                N, t_min=tau_min, t_max=tau_max, rho=rho, eta=eta, beta=beta, clip=None, **options
            )
        else:
            self.averages = (UndividedByRow if distributed else UndividedSogCLR)(N, **options)

    @property
    def group(self) -> Group:
        if not self.distributed:
            return None
        ready = distributed.is_available() and distributed.is_initialized()
        there = (distributed.get_world_size(), distributed.get_rank()) if ready else (self.world_size, self.rank)
        if (self.world_size, self.rank) != there:
            raise ValueError(
                f"world_size and rank must be those of the process group, {there[0]} and {there[1]}, "
                f"got {self.world_size} and {self.rank}"
            )
        return "world"

    def forward(self, image_features: Tensor, text_features: Tensor, index: Tensor) -> tuple[Tensor, Temperatures]:
        loss = self.averaged(image_features, text_features, index, self.group)
        if not isinstance(self.averages, UndividedISogCLR):
            return loss, None
        images, texts = self.averages.used.mean(1).unbind()
        return loss, (images, texts)

    @property
    def learnable_tau_img(self) -> Tensor:
        """The temperatures of images, (N, 1)."""
        return self.learned(0)

    @property
    def learnable_tau_txt(self) -> Tensor:
        """The temperatures of texts, (N, 1)."""
        return self.learned(1)


class GCLoss(nn.Module):
    """GCLoss_v1 with mode="unimodal", GCLoss_v2 with "bimodal"; further arguments are theirs."""

    def __init__(self, mode: str = "unimodal", **kwargs: Any) -> None:
        super().__init__()
        check.choice("mode", mode, ("unimodal", "bimodal"))
        self.mode = mode
        made: Callable[..., Averaging] = GCLoss_v1 if mode == "unimodal" else GCLoss_v2
        self.loss_fn = made(**kwargs)

    def forward(self, hidden1: Tensor, hidden2: Tensor, index: Tensor) -> Any:
        return self.loss_fn(hidden1, hidden2, index)

    def adjust_gamma(self, epoch: int) -> None:
        self.loss_fn.adjust_gamma(epoch)
