"""Word-region attention, dense: one image and one text at a time, as the formulas are written."""

import torch
from torch import Tensor

from ._dense import Scalar, direction_weights, reduce_rows


def word_region_scores(
    regions: Tensor,
    words: Tensor,
    *,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    gamma1: Scalar = 4.0,
    gamma2: Scalar = 5.0,
    over_words: bool = True,
    reduce: str = "sum",
) -> Tensor:
    """(N, M): log sum_t exp(gamma2 cos(c_t, w_t)), c_t = sum_r softmax_r(gamma1 softmax_t <v_r, w_t>) v_r; 0 where a
    side has nothing.

    Source: Xu et al. 2018 (AttnGAN), arXiv 1711.10485, eq. 7 to 10.
    """
    rows = []
    for i, image in enumerate(regions):
        v = image if region_mask is None else image[region_mask[i]]
        row = []
        for j, text in enumerate(words):
            w = text if word_mask is None else text[word_mask[j]]
            if not len(v) or not len(w):
                row.append((v.sum() + w.sum()) * 0.0)
                continue
            products = w @ v.T  # (words, regions)
            attention = torch.softmax(products, dim=0) if over_words else products
            context = torch.softmax(gamma1 * attention, dim=1) @ v
            lengths = context.norm(dim=1) * w.norm(dim=1)
            lengths = lengths.masked_fill(lengths == 0.0, torch.inf).clamp_min(1e-8)
            cosine = (context * w).sum(1) / lengths
            value = torch.exp(gamma2 * cosine)
            row.append(torch.log(value.sum() if reduce == "sum" else value.mean()))
        rows.append(torch.stack(row) if row else image.new_zeros(0))
    return torch.stack(rows) if rows else regions.new_zeros(0, len(words))


def word_region_loss(
    regions: Tensor,
    words: Tensor,
    *,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    class_ids: Tensor | None = None,
    gamma1: Scalar = 4.0,
    gamma2: Scalar = 5.0,
    gamma3: Scalar = 10.0,
    over_words: bool = True,
    reduce: str = "sum",
    direction: str = "sum",
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropies of gamma3 times the scores, each image with its text and each text with its image. Other pairs of
    the same class and pairs of which a side has nothing are no candidates; the latter have no loss.

    Source: Xu et al. 2018 (AttnGAN), arXiv 1711.10485, eq. 11 to 13.
    """
    n = len(regions)
    if n == 0:
        return reduce_rows((regions.sum() + words.sum()) * 0.0 * regions.new_ones(0), reduction)
    scores = gamma3 * word_region_scores(
        regions, words, region_mask=region_mask, word_mask=word_mask, gamma1=gamma1, gamma2=gamma2,
        over_words=over_words, reduce=reduce,
    )  # fmt: skip
    here = torch.ones(n, dtype=torch.bool, device=regions.device)
    for x, mask in ((regions, region_mask), (words, word_mask)):
        here &= mask.any(dim=1) if mask is not None else torch.full_like(here, x.shape[1] > 0)
    same = torch.eye(n, dtype=torch.bool, device=regions.device)
    keep = here[None] & here[:, None]
    if class_ids is not None:
        keep &= same | (class_ids[:, None] != class_ids[None])
    scores = scores.masked_fill(~keep, -torch.inf)[here][:, here]
    row, col = direction_weights(direction)
    own = scores.diagonal()
    rows = row * (scores.logsumexp(dim=1) - own) + col * (scores.logsumexp(dim=0) - own)
    return reduce_rows(rows, reduction, present=here)
