"""SigLIP+: pairs of one group are positives, weighted by one over the number of them (`siglip_kernel` 0.1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..literals import BackendName
from ..losses.common import paired_dot, reduced_empty, unit, upcast
from ..losses.sigmoid import row_bias
from ..ops import check, no_autocast, pair_loss
from ..ranks import GlobalBatch, Group, Ranks, collective
from .ranks import stated_ranks

SCALES = (math.log(0.01), math.log(100.0))  # the modules clamp their scale to this, in logarithms


class WrongIds(ValueError, AssertionError):
    """What this package raises for ids of a wrong length or device, and what siglip_kernel does."""


@dataclass
class Groups:
    """Whose pairs are positives, as numbers 0 .. count - 1, and what they weigh.

    All pairs of a group have one weight: k_i is the number of its texts and k'_j that of its images.
    """

    images: GlobalBatch
    texts: GlobalBatch
    img: Tensor  # (N,)
    txt: Tensor  # (M,)
    count: int
    matches: Tensor  # (N,) texts in each image's group
    weights: Tensor  # (N,) of each image's positive pairs, in the type of the statistics
    pairs: Tensor  # 0-dim, number of positive pairs of all ranks


@collective
def groups(
    img: Tensor,
    txt: Tensor,
    img_gid: Tensor | None,
    txt_gid: Tensor | None,
    num_groups: int | None,
    symmetric: bool,
    *,
    group: Group = None,
) -> Groups:
    """With num_groups, ids are taken as they are; without, they are counted, which waits for the device."""
    ids = []
    for name, given, x in (("img_gid", img_gid, img), ("txt_gid", txt_gid, txt)):
        here = torch.arange(len(x), device=x.device) if given is None else given
        try:
            ids.append(check.ids(name, here, len(x), x.device))
        except ValueError as wrong:
            raise WrongIds(*wrong.args) from None
    batches = GlobalBatch.of(group, len(img), facts=lambda: dict(symmetric=symmetric)), GlobalBatch.of(group, len(txt))
    rows, cols = (batch.gather(x) for batch, x in zip(batches, ids, strict=True))
    if num_groups is None:
        found, inverse = torch.unique(torch.cat([rows, cols]), return_inverse=True)
        rows, cols = inverse.split([len(rows), len(cols)])
        num_groups = len(found)
    elif rows.device.type == "cpu":  # on another device, looking would stop it
        joined = torch.cat([rows, cols])
        if joined.numel() and (joined.min() < 0 or joined.max() >= num_groups):
            raise ValueError(
                f"num_groups must be above every id of img_gid and txt_gid, none negative, got {num_groups}"
            )
    texts, images = (x.new_zeros(num_groups).index_add(0, x, torch.ones_like(x)) for x in (cols, rows))
    own_rows, own_cols = (x[b.offset : b.offset + b.n] for x, b in zip((rows, cols), batches, strict=True))
    dtype = upcast(img.new_empty(0)).dtype
    share = share_of(texts, dtype)
    share = 0.5 * (share + share_of(images, dtype)) if symmetric else share
    return Groups(*batches, own_rows, own_cols, num_groups, texts[own_rows], share[own_rows], texts[rows].sum())


def share_of(count: Tensor, dtype: torch.dtype) -> Tensor:
    return count.clamp_min(1).to(dtype).reciprocal()


def fused_siglip_plus_loss(
    img_features: Tensor,
    txt_features: Tensor,
    log_temperature: float | Tensor,
    bias: float | Tensor,
    img_gid: Tensor | None = None,
    txt_gid: Tensor | None = None,
    symmetric: bool = True,
    soft_label: bool = False,
    chunk_size: int = 0,
    num_groups: int | None = None,
    *,
    memory_budget: int | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """SigLIP with several positives per row: pairs of one group, each weighted by one over their number.

        L = 1/NM [ sum_{other group} log(1 + e^z_ij) + sum_{same group} w_ij log(1 + e^-z_ij) ]
        w_ij = 1/2 (1 / k_i + 1 / k'_j),    z_ij = e^log_temperature <img_i, txt_j> + bias
        soft_label:  L = 1/NM sum_ij [ log(1 + e^z_ij) - w_ij z_ij ],    w_ij = 0 for other groups

    k_i is the number of texts in image i's group, k'_j that of images in text j's.

    Args:
        img_features (N, D), txt_features (M, D): unit rows.
        log_temperature, bias: As in fused_siglip_loss.
        img_gid (N,), txt_gid (M,): integers; default 0, 1, ..
        symmetric: False: w_ij = 1 / k_i.
        soft_label: Weights are targets, instead of weights of the positives.
        chunk_size: No effect here.
        num_groups: Above every id; spares the device the wait for their number.
        memory_budget, backend: As in contrastile.pair_loss.

    Returns: float32 (float64 for float64 features). Cost: 6 N M D FLOP forward and backward.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be an int, got {type(chunk_size).__name__}")
    check.features("img_features", img_features)
    check.same_width("txt_features", check.features("txt_features", txt_features), "img_features", img_features)
    check.same_device("txt_features", txt_features, img_features.device)
    found = groups(img_features, txt_features, img_gid, txt_gid, num_groups, symmetric)
    options = {"memory_budget": memory_budget, "backend": backend}
    return plus_loss(img_features, txt_features, log_temperature, bias, found, soft_label, **options)


def plus_loss(
    img: Tensor,
    txt: Tensor,
    log_temperature: float | Tensor,
    bias: float | Tensor,
    found: Groups,
    soft_label: bool,
    **engine: Any,
) -> Tensor:
    """The share of this rank's images: W times their part of the global sum."""
    value = check.scalar("log_temperature", log_temperature, device=img.device)
    scale = upcast(value).exp() if isinstance(value, Tensor) else math.exp(value)
    bias = check.scalar("bias", bias, device=img.device)
    if found.images.total * found.texts.total == 0:
        return reduced_empty(0, "mean", img, txt, scale, bias)
    dtype = torch.promote_types(img.dtype, txt.dtype)
    if soft_label:  # the engine's and the linear term's gradients meet in float32 and are rounded once
        engine["compute_dtype"] = dtype
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
    img, txt = img.to(dtype), txt.to(dtype)
    norm = found.images.weight("mean") / found.texts.total
    loss = pair_loss(
        img, txt, scale=scale, row_bias=row_bias(bias, img), reduce="softplus", keep="other_id",
        positives="same_id", row_ids=found.img, col_ids=found.txt, row_weight=norm,
        row_positive_weight=norm if soft_label else norm * found.weights, group=found.images.ranks, **engine,
    )  # fmt: skip
    if not soft_label:
        return loss
    dots, count = missing_mass(img, txt, found)
    return loss + norm * (scale * dots + bias * count).to(loss.dtype)


def missing_mass(img: Tensor, txt: Tensor, found: Groups) -> tuple[Tensor, Tensor]:
    """sum_{same group} (1 - w_ij) <img_i, txt_j> and sum_{same group} (1 - w_ij): sums over groups, not over pairs."""
    left = 1.0 - found.weights.to(img.dtype)
    with no_autocast(img):
        texts = found.texts.sum(txt.new_zeros(found.count, txt.shape[1]).index_add(0, found.txt, txt))
        return (left * paired_dot(img, texts[found.img])).sum(), (left * found.matches).sum()


class SigLIPPlusLoss(nn.Module):
    """fused_siglip_plus_loss of features normalised here, with a scale and a bias of its own.

    forward([img, txt], img_gid=None, txt_gid=None) -> {"total_loss", "logit_scale", "n_positives"}. Parameters
    `logit_scale`, the logarithm of the multiplier, from log(1 / temperature) and clamped to [0.01, 100], and
    `logit_bias`, a buffer with use_bias=False. soft_weighting=False without soft_label is refused, as there.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        symmetric: bool = True,
        use_bias: bool = True,
        bias_init: float = 0.0,
        soft_weighting: bool = True,
        soft_label: bool = False,
        chunk_size: int = 0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__()
        if not soft_weighting and not soft_label:
            raise NotImplementedError(
                "soft_weighting=False without soft_label=True is not offered, as in siglip_kernel"
            )
        self.num_groups: int | None = None
        self.symmetric = symmetric
        self.soft_label = soft_label
        self.chunk_size = chunk_size
        self.memory_budget = memory_budget
        self.backend = backend
        self.logit_scale = nn.Parameter(torch.log(torch.tensor(1.0 / temperature)))
        start = torch.tensor(float(bias_init) if use_bias else 0.0)
        self.logit_bias: Tensor
        if use_bias:
            self.logit_bias = nn.Parameter(start)
        else:
            self.register_buffer("logit_bias", start)

    @property
    def ranks(self) -> Ranks | None:
        return None

    def forward(
        self, embeddings: Sequence[Tensor], img_gid: Tensor | None = None, txt_gid: Tensor | None = None
    ) -> dict[str, Tensor]:
        img, txt = embeddings
        check.features("embeddings[0]", img)
        check.same_width("embeddings[1]", check.features("embeddings[1]", txt), "embeddings[0]", img)
        img, txt = unit(img, True), unit(txt, True)
        scale = self.logit_scale.clamp(*SCALES)
        found = groups(img, txt, img_gid, txt_gid, self.num_groups, self.symmetric, group=self.ranks)
        options = {"memory_budget": self.memory_budget, "backend": self.backend}
        loss = plus_loss(img, txt, scale, self.logit_bias, found, self.soft_label, **options)
        return {"total_loss": loss, "logit_scale": scale.exp().detach(), "n_positives": found.pairs}

    def extra_repr(self) -> str:
        return f"symmetric={self.symmetric}, soft_label={self.soft_label}"


class DistributedSigLIPPlusLoss(SigLIPPlusLoss):
    """SigLIPPlusLoss over the images and texts of all ranks. forward([img, txt], img_gid, txt_gid).

    Equal ids on different ranks are one group. Every rank has the share of its own images; n_positives counts all.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        symmetric: bool = True,
        use_bias: bool = True,
        bias_init: float = 0.0,
        soft_label: bool = False,
        chunk_size: int = 0,
        num_groups: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        process_group: distributed.ProcessGroup | None = None,
        overlap: bool = True,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            temperature, symmetric, use_bias, bias_init, True, soft_label, chunk_size, memory_budget=memory_budget,
            backend=backend,
        )  # fmt: skip
        self.num_groups = num_groups
        self.rank = rank
        self.world_size = world_size
        self.process_group = process_group
        self.overlap = overlap

    @property
    def ranks(self) -> Ranks | None:
        return stated_ranks(self.world_size, self.rank, self.process_group)

    def forward(  # type: ignore[override]  # the package asks for the ids here
        self, embeddings: Sequence[Tensor], img_gid: Tensor, txt_gid: Tensor
    ) -> dict[str, Tensor]:
        return super().forward(embeddings, img_gid, txt_gid)
