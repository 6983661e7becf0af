"""What losses with a state for every sample have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..literals import BackendName
from ..ops import EngineOptions, check, plain_loss, stat_dtype
from ..ranks import GlobalBatch, Group, collective
from .base import OWN, LossModule, Own
from .common import feature_pair, zero
from .global_contrast import Step, cross_modal, two_views
from .sample_state import SampleState, Visits, mixed

BUDGET = 64 << 20  # bytes of scores held while a loss runs, unless told otherwise: as clip_loss holds them


class GlobalContrast(LossModule):
    """What all of them have in common. Subclasses say what temperatures are, and which number the loss is.

    The state is `state`, a module with float32 numbers of every sample: `state["log_mean"]`, log u, (2, samples) of
    images and texts ((1, samples) with unimodal=True), and for individual temperatures `state["temperature"]` and the
    averages of their gradients.
    """

    temperature: float | None  # None: learned

    def __init__(
        self,
        samples: int,
        gamma: float,
        gamma_epochs: int,
        normalize: bool,
        memory_budget: int | None,
        backend: BackendName,
        group: Group,
        *,
        unimodal: bool = False,
        include_positive: bool = False,
        warm_start: bool = True,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """numbers: further ones of every sample, and where they start."""
        if unimodal and include_positive:
            raise ValueError("include_positive must be False with unimodal=True: it has no such form")
        super().__init__()
        self.unimodal, self.include_positive, self.warm_start = unimodal, include_positive, warm_start
        self.gamma, self.gamma_epochs = fraction("gamma", gamma), count("gamma_epochs", gamma_epochs)
        self.samples, self.normalize, self.memory_budget = samples, normalize, memory_budget
        self.backend, self.group = backend, group
        self.state = SampleState(samples, 1 if self.unimodal else 2, log_mean=-math.inf, **(numbers or {}))

    @property
    def epoch(self) -> int:
        """Of training, from 0; part of the state_dict. Schedules follow it."""
        return int(self.state["epoch"])

    def set_epoch(self, epoch: int) -> None:
        """To be called where an epoch begins, as for DistributedSampler."""
        self.state["epoch"].fill_(count("epoch", epoch))

    def gamma_now(self) -> float:
        """The share of the new estimate in this epoch: gamma, to which gamma_epochs epochs lead down from 1 along half
        a cosine."""
        if self.epoch >= self.gamma_epochs:
            return self.gamma
        return self.gamma + (1.0 - self.gamma) * 0.5 * (1.0 + math.cos(math.pi * self.epoch / self.gamma_epochs))

    def forward(
        self, image_features: Tensor, text_features: Tensor, index: Tensor, *, group: Group | Own = OWN
    ) -> Tensor:
        """The loss of a batch of pairs; in training mode the state moves on.

        Args:
            image_features, text_features: (N, D), float32 | bfloat16 | float16 | float64, unit rows expected, or
                normalize=True. With unimodal=True two views of the same images.
            index: (N,) integers from 0 to samples - 1, on any device: which samples these are. One that comes twice
                (samplers pad) is two rows of the batch, and one visit with the mean of both.
            group: The ranks that compute the loss together, instead of the module's.

        Returns: float32 (float64 for float64 features), 0-dim. One sample (of all ranks together) has no negatives: 0,
        and the state stays.
        """
        if torch.compiler.is_exporting():
            raise RuntimeError(f"contrastile: {type(self).__name__} cannot be exported: its state would stand still")
        group = self.group if group is OWN else group
        if torch.compiler.is_compiling():  # a backward pass within a forward pass cannot be traced
            loss: Tensor = torch.compiler.disable(stateful_loss)(
                self, image_features, text_features, index, group=group
            )
            return loss
        return stateful_loss(self, image_features, text_features, index, group=group)

    if TYPE_CHECKING:  # torch says that a call takes and returns anything
        __call__ = forward

    @property
    def individual(self) -> bool:
        """Whether every sample has its temperature."""
        return "temperature" in self.state.tensors

    def temperatures(self, index: Tensor, like: Tensor) -> Tensor:
        """In the type of the statistics: one number (0-dim), or (sides, N)."""
        if self.individual:
            return self.state.of("temperature", index, like.new_empty(0, dtype=stat_dtype(like.dtype)))
        value = self.needed("temperature", OWN)
        return check.as_tensor("temperature", value, like).to(stat_dtype(like.dtype))

    def share(self, batch: GlobalBatch) -> float:
        """Of an item in the loss, whose value and gradients are proportional to it."""
        return batch.weight("mean")

    def row_factor(self, temperature: Tensor) -> Tensor:
        """How much a row's log-sum-exp is worth: its temperature makes a gradient of w p for each score."""
        return temperature

    def result(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """The loss, and its gradient with respect to a learned temperature: sum of the scores, each with its gradient,
        as the official codes have it."""
        return (torch.stack(step.scale_slopes) / step.temperature).sum(), None

    def move(self, visits: Visits, slope: Tensor) -> None:
        """Individual temperatures against their gradients, (sides, B)."""

    def slope(self, step: Step) -> Tensor:
        """d/dt of t log u + t rho, for samples of individual temperature, (sides, N)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return self.shown(signature(type(self)).parameters)


@collective
def stateful_loss(
    module: GlobalContrast, image_features: Tensor, text_features: Tensor, index: Tensor, *, group: Group
) -> Tensor:
    """Nothing of the state is written before all else is done."""
    check.no_transforms()
    budget = BUDGET if module.memory_budget is None else module.memory_budget
    engine, state = EngineOptions.of(budget, module.backend, group), module.state
    x, y = feature_pair("image_features", image_features, "text_features", text_features, module.normalize)
    index, temperature = state.checked(index, x), module.temperatures(state.checked(index, x), x)
    batch = GlobalBatch.of(
        engine.ranks, x.shape[0], facts=lambda: dict(samples=module.samples, training=module.training)
    )
    if batch.total <= 1:
        return zero(x, y, temperature)
    constant = temperature.detach()
    if module.unimodal:
        anchors = two_views(x, y, constant, batch, engine)
    else:
        anchors = cross_modal(x, y, constant, module.include_positive, batch, engine)
    old = state.of("log_mean", index, anchors.log_mean)
    average = mixed(old, anchors.log_mean, module.gamma_now(), module.warm_start)
    step = Step.of(anchors, constant, average, module.share(batch), module.row_factor(constant))
    value, slope = module.result(step)
    if module.training:
        remember(module, step, index, batch)
    wanted, grads = [f for f in (x, y) if f.requires_grad], step.feature_slopes
    if slope is not None and temperature.requires_grad:
        wanted, grads = [*wanted, temperature], [*grads, slope]
    if not (torch.is_grad_enabled() and wanted):
        return value
    loss: Tensor = plain_loss(lambda: (value, grads, []), wanted)
    return loss


@torch.no_grad()
def remember(module: GlobalContrast, step: Step, index: Tensor, batch: GlobalBatch) -> None:
    """The visits of this batch, of all ranks."""
    sides, state = len(module.state["log_mean"]), module.state
    means = step.anchors.log_mean
    values = [means if sides == 2 else means.logsumexp(0, keepdim=True) - math.log(2.0)]
    if module.individual:
        values.append(module.slope(step))
    visits, found = state.visits(index, torch.cat(values), batch)
    mean = visits.log_mean(found[:sides])
    old = state.of("log_mean", visits.index, mean)
    state.write("log_mean", visits, mixed(old, mean, module.gamma_now(), module.warm_start))
    if module.individual:
        module.move(visits, visits.mean(found[sides:]))


def fraction(name: str, x: float, *, or_zero: bool = False) -> float:
    """From 0 to 1; 0 itself where it is allowed."""
    value = float(check.scalar(name, x, positive=not or_zero))
    check.share(name, value)
    return value


def bounded(name: str, x: float, low: float, high: float) -> tuple[float, float, float]:
    """Three positive numbers in their order: a start and its bounds t_min and t_max."""
    value, least, most = (
        float(check.scalar(n, v, positive=True)) for n, v in ((name, x), ("t_min", low), ("t_max", high))
    )
    if not least <= value <= most:
        raise ValueError(f"{name} must be between t_min = {least:g} and t_max = {most:g}, got {value:g}")
    return value, least, most


def count(name: str, x: int) -> int:
    if isinstance(x, bool) or not isinstance(x, int) or x < 0:
        raise ValueError(f"{name} must be an int >= 0, got {x!r}")
    return x
