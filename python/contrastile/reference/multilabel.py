"""Pairs with learned soft labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dense import Scalar, unit


def multilabel_contrastive(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    *,
    logit_scale: Scalar = 1.0 / 0.07,
    form: str = "wbce",
    normalize: bool = False,
) -> Tensor:
    """The forms of RepBlend's MultilabelContrastiveLoss, of logits Z and dense labels S.

    Source: zhangxin-xd/RepBlend src/similarity_mining.py; Xu et al. 2024 (LoRS, arXiv 2406.07529).
    """
    logits = logit_scale * unit(x, normalize) @ unit(y, normalize).T
    p = logits.sigmoid()
    if form == "wbce":
        terms = -labels * (p + 1e-6).log() - (1.0 - labels) * (1.0 - p + 1e-6).log()
        positive = (labels > 0.5).to(terms.dtype).detach()
        negative = 1.0 - positive
        means = [(terms * part).sum() / (part.sum() + 1e-6) for part in (positive, negative)]
        return (means[0] + means[1]) / 2.0
    if form == "bce":
        return F.binary_cross_entropy_with_logits(logits, labels)
    if form == "mse":
        return F.mse_loss(p, labels)
    losses = []
    for z, s in ((logits, labels), (logits.T, labels.T)):
        log_p = z.log_softmax(dim=1)
        if form == "kl":
            losses.append(F.kl_div(log_p, (10.0 * s).softmax(dim=1), reduction="batchmean") / len(s))
        else:
            share = s / (s.sum(dim=1, keepdim=True) + 1e-6) if form == "cwcl" else s
            losses.append(-(share * log_p).sum(dim=1).mean())
    return torch.stack(losses).mean()
