"""Softmax losses over tokens, blocks of a batch and both modalities."""

import torch
from torch import Tensor

from ._dense import Scalar, direction_weights, masked_logsumexp, of_present, reduce_rows, unit


def global_local_info_nce(
    global_features: Tensor,
    local_features: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: Scalar = 0.07,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Each part of an item against the parts of all other items, seen from the item as a whole.

        loss_i = mean_l -log( e^{z_iil} / (e^{z_iil} + sum_{j != i, m} e^{z_ijm}) ),   z_ijm = <g_i, p_jm> / temperature

    global (N,D), local (N,L,D), mask (N,L): parts that are there. An item that has none is not counted.

    Source: TCL, Yang et al. 2022 (arXiv 2202.10401); official code uta-smile/TCL @74a3e4f, models/model_pretrain.py:
    in_batch_g2l_loss.
    """
    n, count = local_features.shape[:2]
    if mask is None:
        mask = torch.ones(n, count, dtype=torch.bool, device=local_features.device)
    there = mask.any(dim=1)
    local = torch.where(mask[:, :, None], local_features, torch.zeros_like(local_features))
    whole, local = unit(global_features[there], normalize), unit(local[there], normalize)
    scores = torch.einsum("id,jmd->ijm", whole, local) / temperature
    same = torch.eye(len(whole), dtype=torch.bool, device=whole.device)
    negatives = (~same[:, :, None] & mask[there][None]).expand(scores.shape)
    others = masked_logsumexp(scores.flatten(1), negatives.flatten(1))
    own = scores[same]
    each = torch.logaddexp(own, others[:, None]) - own
    rows = (each * mask[there]).sum(dim=1) / mask[there].sum(dim=1)
    return reduce_rows(rows, reduction, weights, there)


def block_info_nce(
    x: Tensor,
    y: Tensor,
    blocks: int,
    *,
    same_pair_weight: float = 1.0,
    other_block_weight: float = 1.0,
    temperature: Scalar = 1.0,
    direction: str = "sum",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropies of rows and columns of matched pairs, with the logarithm of a weight added to every score.

        weight 1 within a block of N / blocks rows; elsewhere same_pair_weight for the same place in its block,
        other_block_weight for all others

    Source: TACT, Bagad et al. 2023 (arXiv 2301.02074); official code bpiyush/TestOfTime @d6149a4,
    losses/weighted_contrastive.py; TeminAL, Sinha et al. 2024 (arXiv 2408.09269).
    """
    x, y = unit(x, normalize), unit(y, normalize)
    size = max(len(x) // blocks, 1)
    row = torch.arange(len(x), device=x.device)
    same_block = row[:, None] // size == row // size
    same_pair = row[:, None] % size == row % size
    weight = torch.where(same_pair, same_pair_weight * x.new_ones(()), other_block_weight * x.new_ones(()))
    logits = x @ y.T / temperature + torch.where(same_block, torch.ones_like(weight), weight).log()
    first, second = direction_weights(direction)
    losses = -first * logits.log_softmax(1).diagonal() - second * logits.log_softmax(0).diagonal()
    return reduce_rows(losses, reduction, weights)


def m3el_loss(
    x: Tensor,
    y: Tensor,
    *,
    temperature: Scalar = 0.07,
    intra_scale: Scalar = 0.8,
    inter_scale: Scalar = 1.0,
    direction: str = "mean",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of each row's partner among both sides.

        logits = [ inter_scale x y^T | intra_scale x x^T, on the diagonal 0 ] / temperature;   the same of y

    Source: M3EL, Hu et al. 2024 (arXiv 2412.10440); official code zhiweihu1103/MEL-M3EL @9b99c42,
    utils/contrastive_loss.py: WeightedContrastiveLoss.
    """
    x, y = (unit(of_present(z, present), normalize) for z in (x, y))
    other = 1 - torch.eye(len(x), dtype=x.dtype, device=x.device)
    losses = torch.zeros_like(x[:, 0])
    for weight, own, partner in zip(direction_weights(direction), (x, y), (y, x), strict=True):
        logits = torch.cat([inter_scale * own @ partner.T, intra_scale * own @ own.T * other], dim=1) / temperature
        losses = losses - weight * logits.log_softmax(1)[:, : len(x)].diagonal()
    return reduce_rows(losses, reduction, weights, present)
