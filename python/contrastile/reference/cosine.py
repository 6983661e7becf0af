"""The cosine of matched rows."""

from torch import Tensor

from ._dense import reduce_rows, unit


def cosine_loss(
    x: Tensor,
    y: Tensor,
    *,
    form: str = "distance",
    detach_target: bool = False,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos(x_i, y_i), or -cos ("negative"), or 2 - 2 cos ("squared"), of every row that mask leaves.

    x, y: (N, D) or (N, L, D); mask, weights and the rows of "none": (N,) or (N, L).

    Source: Chen and He 2020 (arXiv 2011.10566), Eq. 1; Grill et al. 2020 (arXiv 2006.07733), Eq. 2;
    torch.nn.CosineEmbeddingLoss of matched rows, with the mean over valid tokens: FUSION, fusion_llama.py.
    """
    shape = x.shape[:-1]
    x, y = x.flatten(0, -2), (y.detach() if detach_target else y).flatten(0, -2)
    mask, weights = (None if z is None else z.flatten() for z in (mask, weights))
    if mask is not None:
        x, y = x[mask], y[mask]
    cosine = (unit(x, True) * unit(y, True)).sum(dim=1)
    rows = {"distance": 1 - cosine, "negative": -cosine, "squared": 2 - 2 * cosine}[form]
    value = reduce_rows(rows, reduction, weights, mask)
    return value.reshape(shape) if reduction == "none" else value
