"""Who computes a loss: this package on each backend, eager and compiled torch, other packages where they are there.

A candidate is made for one problem's features and returns the loss; one that cannot run here raises Skip with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import contrastile
import eager
from truth import BIAS, SCALE, TEMPERATURE, VOLUME_TEMPERATURE

Loss = Callable[..., Tensor]
BACKENDS = ("triton", "cuda", "torch")


class Skip(Exception):
    """Why a candidate does not run on this machine."""


class Parameters:
    """Scale and bias, learned as in training: their gradients are part of what is timed."""

    def __init__(self, device: str) -> None:
        self.scale = torch.tensor(SCALE, device=device, requires_grad=True)
        self.bias = torch.tensor(BIAS, device=device, requires_grad=True)
        self.log_scale = torch.tensor(math.log(SCALE), device=device, requires_grad=True)

    def leaves(self) -> list[Tensor]:
        return [self.scale, self.bias, self.log_scale]


def ours(loss: str, backend: str, p: Parameters) -> Loss:
    reason = contrastile.available_backends()[backend]
    if reason is not None:
        raise Skip(reason)
    calls: dict[str, Loss] = {
        "clip": lambda a, b: contrastile.clip_loss(a, b, p.scale, backend=backend),
        "siglip": lambda a, b: contrastile.siglip_loss(a, b, p.scale, p.bias, backend=backend),
        "nt_xent": lambda a, b: contrastile.nt_xent(a, b, temperature=TEMPERATURE, backend=backend),
        "gram": lambda *x: contrastile.gram_loss(*x, temperature=VOLUME_TEMPERATURE, backend=backend),
    }
    return calls[loss]


def dense(loss: str, p: Parameters) -> Loss:
    calls: dict[str, Loss] = {
        "clip": lambda a, b: eager.clip(a, b, p.scale),
        "siglip": lambda a, b: eager.siglip(a, b, p.scale, p.bias),
        "nt_xent": lambda a, b: eager.nt_xent(a, b, TEMPERATURE),
    }
    return calls[loss]


def compiled(loss: str, p: Parameters) -> Loss:
    torch._dynamo.reset()  # every shape anew, none refused for being one too many
    return torch.compile(dense(loss, p), dynamic=False)


def package(name: str) -> Any:
    try:
        return import_module(name)
    except Exception as error:  # also packages that fail while they look for a driver
        raise Skip(f"{name} cannot be imported: {error}") from error


def both_ways(one: Loss, scale: float) -> Loss:
    """A loss of one direction, called twice, as its users do for CLIP."""

    def loss(a: Tensor, b: Tensor) -> Tensor:
        own = torch.arange(len(a), device=a.device)
        return (one(a * scale, b, own) + one(b * scale, a, own)) / 2

    return loss


def memeff(p: Parameters) -> Loss:
    return package("memeff.clip_loss").MemoryEfficientCLIPLoss(1.0 / SCALE, normalized_inputs=True, stable=False)


def inf_cl(p: Parameters) -> Loss:
    loss = package("inf_cl").cal_inf_loss
    return both_ways(lambda a, b, own: loss(a, b, labels=own), SCALE)


def liger(p: Parameters) -> Loss:
    loss = package("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()
    return both_ways(lambda a, b, own: loss(b, a, own), SCALE)


def linear_cross_entropy(p: Parameters) -> Loss:
    if not hasattr(F, "linear_cross_entropy"):
        raise Skip(f"torch {torch.__version__} has no F.linear_cross_entropy")
    return both_ways(F.linear_cross_entropy, SCALE)


def open_clip(p: Parameters) -> Loss:
    loss = package("open_clip.loss").ClipLoss()
    return lambda a, b: loss(a, b, p.scale)


def open_clip_siglip(p: Parameters) -> Loss:
    loss = package("open_clip.loss").SigLipLoss()
    return lambda a, b: loss(a, b, p.scale, p.bias)


def siglip_kernel(p: Parameters) -> Loss:
    loss = package("siglip_kernel").fused_siglip_loss
    return lambda a, b: loss(a, b, p.log_scale, p.bias)


PEERS: dict[str, dict[str, Callable[[Parameters], Loss]]] = {
    "clip": {
        "memeff": memeff,
        "liger_kernel, twice": liger,
        "F.linear_cross_entropy, twice": linear_cross_entropy,
        "inf_cl, twice": inf_cl,
        "open_clip": open_clip,
    },
    "siglip": {"siglip_kernel": siglip_kernel, "open_clip": open_clip_siglip},
}
