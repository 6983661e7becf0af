"""The sigmoid pair loss (SigLIP)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..literals import BackendName, Keep, Reduction, TestName
from ..ops import Pairs, Weights, check, pair_stats, stat_dtype, weighted_sum
from ..ranks import GlobalBatch, Group, collective, given
from .candidates import pair_ids
from .common import engine_options, feature_pair, reduced_empty
from .weights import Counted, keep_present


@collective
def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    image_labels: Tensor | None = None,
    text_labels: Tensor | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """SigLIP: every image-text pair is a binary classification, matched or not.

        L = 1/N sum_ij log(1 + e^{-y_ij z_ij}),   z_ij = logit_scale <image_i, text_j> + logit_bias,
        y_ij = +1 if matched else -1; pairs of equal index are matched

    Args:
        image_features, text_features: (N, D), unit rows, or set normalize=True.
        logit_scale: Multiplies the similarity (already exponentiated): a float or a 0-dim tensor with gradient.
        logit_bias: A float or a 0-dim tensor with gradient; None is 0.
        image_labels, text_labels: (N,) integers. Pairs with equal labels match, and no others do. text_labels default
            to image_labels.
        image_ids, text_ids: (N,) integers. A pair with equal ids is not a negative: it matches if its index is equal,
            and is left out of the sum otherwise. text_ids default to image_ids. Not with labels.
        weights: (N,) >= 0, no gradient. The weight of each image's sum over its pairs; "mean" divides by sum w.
        present: (N,) bool. An item with a missing side (False) is left out with all its pairs; its features may hold
            anything and get gradient 0.
        normalize: Scale rows to unit length first. A row of zeros stays zero and gets gradient 0.
        reduction: "mean" divides the sum over all pairs by N (by the sum of the weights, or by the number of items that
            are present), "sum" does not divide, "none": (N,), the sum per image.
        memory_budget: Bytes of scores to keep from forward to backward; what does not fit is computed again. None: up
            to 64 MiB (16 MiB where the result is not a scalar); 0: keep none.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks,
            in rank order, and every rank must make the call.

    Returns: float32 (float64 for float64 features), nats. An empty batch gives 0.
    Cost: 6 N^2 D FLOP forward and backward.

    Example:
        >>> image_features, text_features = torch.randn(2, 8, 16)
        >>> loss = siglip_loss(image_features, text_features, 10.0, -10.0, normalize=True)

    Source: Zhai et al. 2023, https://arxiv.org/abs/2303.15343, algorithm 1; open_clip SigLipLoss.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    counted = Counted.of(weights, present, check.features("image_features", image_features))
    image, text = feature_pair(
        "image_features", image_features, "text_features", text_features, normalize, counted.present
    )
    ids = pair_ids(image, "image_ids", image_ids, "text_ids", text_ids)
    labels = pair_ids(image, "image_labels", image_labels, "text_labels", text_labels)
    if image_ids is not None and image_labels is not None:
        raise ValueError("image_ids must be None with image_labels: labels say of every pair whether it is matched")
    scale = check.scalar("logit_scale", logit_scale, device=image.device)
    bias = row_bias(logit_bias, image)
    batch = GlobalBatch.of(
        engine.ranks,
        image.shape[0],
        facts=lambda: dict(**counted.facts(), image_labels=given(image_labels), image_ids=given(image_ids)),
    )
    if batch.total == 0:
        return reduced_empty(0, reduction, image, text, scale, bias)
    keep, positives, (row_ids, col_ids) = pair_rules(ids, labels)
    pairs = Pairs(
        image, text, scale, row_bias=bias, reduce="softplus", keep=keep, positives=positives, row_ids=row_ids,
        col_ids=col_ids,
    )  # fmt: skip
    keep_present(pairs, counted.present, [counted.present])
    if counted.present is not None:
        pairs.positives = (positives, "same_group")
    if reduction == "none":
        stats = pair_stats(pairs, engine)
        assert stats.row_positives is not None
        return counted.reduced(batch, stats.rows + stats.row_positives, reduction)
    weight = counted.weight(batch, reduction, image)
    return weighted_sum(pairs, Weights(weight, weight), engine)


Ids = tuple[Tensor | None, Tensor | None]


def pair_rules(ids: Ids, labels: Ids) -> tuple[Keep, TestName, Ids]:
    """Which pairs are negatives, which are positives, and what of rows and columns tells them."""
    if labels[0] is not None:
        return "other_id", "same_id", labels
    return "other_index" if ids[0] is None else ("other_index", "other_id"), "same_index", ids


def row_bias(logit_bias: float | Tensor | None, image: Tensor) -> Tensor | None:
    if logit_bias is None:
        return None
    bias = check.scalar("logit_bias", logit_bias, device=image.device)
    if isinstance(bias, Tensor):
        return bias.expand(image.shape[0])
    return torch.full((image.shape[0],), bias, dtype=stat_dtype(image.dtype), device=image.device)
