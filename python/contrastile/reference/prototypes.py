"""Cross entropy against prototypes of classes."""

import torch
from torch import Tensor

from ._dense import Scalar, of_present, reduce_rows, unit


def prototype_loss(
    x: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar = 0.07,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax over classes of <x_i, w_c> / temperature at the item's label.

    prototypes (C,D), or (N,C,D): w_ic. With label_smoothing e the target is 1-e at the label plus e/C everywhere.

    Source: Zhai and Wu 2019 (arXiv 1811.12649); GOPro (arXiv 2308.11605), official code mainaksingha01/GOPro
    @e284586, trainers/gopro.py.
    """
    prototypes = of_present(prototypes, present) if prototypes.dim() == 3 else prototypes
    x, labels, temperature = (of_present(z, present) for z in (x, labels, temperature))
    x, prototypes = unit(x, normalize), unit(prototypes, normalize)
    similarity = x @ prototypes.T if prototypes.dim() == 2 else torch.einsum("nd,ncd->nc", x, prototypes)
    column = temperature[:, None] if isinstance(temperature, Tensor) and temperature.dim() == 1 else temperature
    log_p = (similarity / column).log_softmax(dim=1)
    losses = -(1 - label_smoothing) * log_p.gather(1, labels[:, None])[:, 0]
    if label_smoothing:
        losses = losses - label_smoothing * log_p.mean(dim=1)
    return reduce_rows(losses, reduction, weights, present)
