"""siglip_kernel's functions and modules (`siglip_kernel` 0.1.2), on any device.

The package has one loss in many kernels, each with its own knobs. Here one engine serves them all: chunk sizes, tiles
and autotune are checked and change nothing. float8 products are an approximation that is not offered: use_fp8 raises.
siglip_kernel_plus.py has the losses with several positives per row.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from ..literals import BackendName
from ..losses.common import upcast
from ..losses.sigmoid import siglip_loss
from ..ops import check, matmul
from .ranks import stated_ranks
from .siglip_kernel_plus import DistributedSigLIPPlusLoss, SigLIPPlusLoss, fused_siglip_plus_loss

__all__ = [
    "DistributedSigLIPLoss",
    "DistributedSigLIPPlusLoss",
    "SigLIPPlusLoss",
    "chunked_siglip_loss",
    "fully_fused_siglip_loss",
    "fused_chunked_bf16_pipelined_siglip_loss",
    "fused_chunked_bf16_siglip_loss",
    "fused_chunked_epilogue_siglip_loss",
    "fused_siglip_loss",
    "fused_siglip_plus_loss",
    "fused_siglip_v2_loss",
    "hopper_fused_siglip_loss",
    "siglip_loss_reference",
]

KERNELS = (
    "hopper", "fused", "fused_v2", "chunked", "chunked_bf16", "chunked_bf16_pipelined", "chunked_epilogue"
)  # fmt: skip
FP8_KERNELS = ("chunked_bf16_fp8", "chunked_epilogue_fp8")
ColumnStrategy: TypeAlias = Literal["ring", "gather", "local"]


def fused_siglip_loss(
    img_features: Tensor,
    txt_features: Tensor,
    log_temperature: float | Tensor,
    bias: float | Tensor,
    use_fp8: bool = False,
    backend: str = "auto",
    *,
    memory_budget: int | None = None,
) -> Tensor:
    """SigLIP, sum over all pairs / N, of L2-normalised features.

        L = 1/N sum_ij log(1 + e^{-y_ij z_ij}),   z_ij = e^log_temperature <img_i, txt_j> + bias,
        y_ij = 1 if i = j, else -1

    Args:
        img_features, txt_features: (N, D), not normalised here.
        log_temperature: The logarithm of the multiplier; bias: added to the logits. Numbers or 0-dim tensors.
        use_fp8: Must be False.
        backend: One of ours ("auto", "cpu", "torch", ..) or a kernel's name in the package ("hopper", "chunked_bf16",
            ..), which means "auto"; its "reference" is the dense formula, with N x N logits.
        memory_budget: As in contrastile.siglip_loss.

    Returns: float32 (float64 for float64 features), whatever the features' type.
    """
    refuse_fp8(use_fp8)
    if backend == "reference":
        return siglip_loss_reference(img_features, txt_features, exponential(log_temperature), bias)
    if backend in FP8_KERNELS:
        raise NotImplementedError(f"backend={backend!r} multiplies in float8, which is not offered")
    own = cast(BackendName, "auto" if backend in KERNELS else backend)
    return fused_chunked_bf16_siglip_loss(
        img_features, txt_features, log_temperature, bias, memory_budget=memory_budget, backend=own
    )


def fused_chunked_bf16_siglip_loss(
    img_features: Tensor,
    txt_features: Tensor,
    log_temperature: float | Tensor,
    bias: float | Tensor,
    chunk_size: int = 0,
    use_fp8: bool = False,
    diag_offset: int | None = 0,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """fused_siglip_loss where text i + diag_offset is image i's; None: no pair of this block is matched."""
    refuse_fp8(use_fp8)
    knob("chunk_size", chunk_size)
    options: dict[str, Any] = {"memory_budget": memory_budget, "backend": backend}
    if diag_offset != 0:
        index = torch.arange(check.features("img_features", img_features).shape[0], device=img_features.device)
        if diag_offset is None:
            options |= {"image_labels": -1 - index, "text_labels": index}
        else:
            knob("diag_offset", diag_offset)
            options |= {"image_labels": index + diag_offset, "text_labels": index}
    return siglip_loss(img_features, txt_features, exponential(log_temperature), bias, **options)


def chunked_siglip_loss(
    img_features: Tensor,
    txt_features: Tensor,
    log_temperature: float | Tensor,
    bias: float | Tensor,
    chunk_size: int = 256,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """fused_siglip_loss."""
    return fused_chunked_bf16_siglip_loss(
        img_features, txt_features, log_temperature, bias, chunk_size, memory_budget=memory_budget, backend=backend
    )


def fused_chunked_bf16_pipelined_siglip_loss(
    img: Tensor,
    txt: Tensor,
    log_temp: float | Tensor,
    bias: float | Tensor,
    chunk_size: int = 1024,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """fused_siglip_loss."""
    return chunked_siglip_loss(img, txt, log_temp, bias, chunk_size, memory_budget=memory_budget, backend=backend)


def fused_chunked_epilogue_siglip_loss(
    img_features: Tensor,
    txt_features: Tensor,
    log_temperature: float | Tensor,
    bias: float | Tensor,
    chunk_size: int = 1024,
    use_fp8: bool = False,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """fused_siglip_loss."""
    refuse_fp8(use_fp8)
    return chunked_siglip_loss(
        img_features, txt_features, log_temperature, bias, chunk_size, memory_budget=memory_budget, backend=backend
    )


def fully_fused_siglip_loss(
    img_features: Tensor,
    txt_features: Tensor,
    log_temperature: float | Tensor,
    bias: float | Tensor,
    autotune: bool = True,
    block_i: int = 32,
    block_j: int = 64,
    block_d: int = 64,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """fused_siglip_loss."""
    for name, value in (("block_i", block_i), ("block_j", block_j), ("block_d", block_d)):
        knob(name, value)
    return chunked_siglip_loss(
        img_features, txt_features, log_temperature, bias, memory_budget=memory_budget, backend=backend
    )


def hopper_fused_siglip_loss(
    img_features: Tensor,
    txt_features: Tensor,
    log_temperature: float | Tensor,
    bias: float | Tensor,
    use_fp8: bool = False,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """fused_siglip_loss."""
    refuse_fp8(use_fp8)
    return chunked_siglip_loss(
        img_features, txt_features, log_temperature, bias, memory_budget=memory_budget, backend=backend
    )


def fused_siglip_v2_loss(
    img: Tensor,
    txt: Tensor,
    log_temp: float | Tensor,
    bias: float | Tensor,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """fused_siglip_loss."""
    return chunked_siglip_loss(img, txt, log_temp, bias, memory_budget=memory_budget, backend=backend)


def siglip_loss_reference(
    img_features: Tensor, txt_features: Tensor, temperature: float | Tensor, bias: float | Tensor
) -> Tensor:
    """The dense formula, with N x N logits, differentiable any number of times; `temperature` is the multiplier."""
    logits = temperature * matmul(upcast(img_features), upcast(txt_features).T) + bias
    matched = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return -F.logsigmoid(torch.where(matched, logits, -logits)).sum() / max(len(logits), 1)


class DistributedSigLIPLoss(nn.Module):
    """fused_siglip_loss with the arguments of open_clip: forward(image_features, text_features, logit_scale,
    logit_bias=None), the scale already exponentiated. strategy: "ring" | "gather", as in contrastile.distributed.Ranks,
    or "local": this rank's texts alone.
    """

    def __init__(
        self,
        chunk_size: int = 0,
        strategy: ColumnStrategy = "ring",
        rank: int = 0,
        world_size: int = 1,
        process_group: distributed.ProcessGroup | None = None,
        overlap: bool = True,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__()
        self.chunk_size = knob("chunk_size", chunk_size)
        check.choice("strategy", strategy, get_args(ColumnStrategy))
        self.strategy = strategy
        self.rank = rank
        self.world_size = world_size
        self.process_group = process_group
        self.overlap = overlap
        self.memory_budget = memory_budget
        self.backend = backend

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
    ) -> Tensor:
        ranks = None
        if self.strategy != "local":
            ranks = stated_ranks(self.world_size, self.rank, self.process_group, self.strategy)
        options: dict[str, Any] = {"memory_budget": self.memory_budget, "backend": self.backend, "group": ranks}
        return siglip_loss(image_features, text_features, logit_scale, logit_bias, **options)

    def extra_repr(self) -> str:
        return f"strategy={self.strategy!r}, rank={self.rank}, world_size={self.world_size}"


def exponential(log_temperature: float | Tensor) -> float | Tensor:
    value = check.scalar("log_temperature", log_temperature)
    return upcast(value).exp() if isinstance(value, Tensor) else math.exp(value)


def knob(name: str, value: Any) -> int:
    """A size that steers a kernel of the package's: of the right type, and without effect."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return value


def refuse_fp8(use_fp8: bool) -> None:
    if use_fp8:
        raise NotImplementedError("use_fp8=True multiplies in float8, which is not offered")
