"""Symile: the multilinear inner product (MIP) of k modalities as the score of a k-tuple."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Generator, Tensor

from ._dense import Scalar, reduce_rows, unit


def symile_loss(
    *modalities: Tensor,
    logit_scale: Scalar,
    negatives: str = "n",
    generator: Generator | None = None,
    permutations: Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Mean over the k modalities, each as the anchor that must tell its own tuple from the negatives.

        loss_i = mean_m ( -z_(i, .., i) + log sum_t e^{z_t} ),    z_t = logit_scale sum_d prod_l x_l[t_l, d]

    "n": t runs over the true tuple and, for every j != i, anchor row i with row pi_ml(j) of every other
    modality l; "n_squared": over all tuples with t_m = i. permutations[m, j]: pi of the j-th modality
    other than m, (k, k - 1, N); drawn from `generator` where it is not given.

    Source: Saporta et al. 2024 (arXiv 2411.01053); rajesh-lab/symile @d12e2c8, symile/loss.py `Symile`.
    """
    batches = [unit(x, normalize) for x in modalities]
    if negatives == "n_squared":
        rows = _all_tuples(batches, logit_scale)
    elif negatives == "n":
        rows = _shuffled_tuples(batches, logit_scale, permutations, generator)
    else:
        raise ValueError(f"negatives must be 'n' or 'n_squared', got {negatives!r}")
    return reduce_rows(rows, reduction, weights)


def _all_tuples(batches: list[Tensor], scale: Scalar) -> Tensor:
    """All N^k logits; every anchor reads them along its own axis."""
    k = len(batches)
    labelled = [part for axis, x in enumerate(batches) for part in (x, [axis, k])]  # axis k: features, summed
    logits = scale * torch.einsum(*labelled, list(range(k)))
    index = torch.arange(len(batches[0]), device=batches[0].device)
    true = logits[(index,) * k]
    per_anchor = [logits.movedim(axis, 0).flatten(1).logsumexp(dim=1) - true for axis in range(k)]
    return torch.stack(per_anchor).mean(dim=0)


def _shuffled_tuples(
    batches: list[Tensor], scale: Scalar, permutations: Tensor | None, generator: Generator | None
) -> Tensor:
    """One N x N matrix of logits per anchor, its diagonal replaced by the true tuples."""
    n = len(batches[0])
    true = scale * _product(batches).sum(dim=1)
    diagonal = torch.eye(n, dtype=torch.bool, device=true.device)
    losses = []
    for m, anchor in enumerate(batches):
        shuffled = []
        for j, other in enumerate(batches[:m] + batches[m + 1 :]):
            order = torch.randperm(n, generator=generator) if permutations is None else permutations[m, j]
            shuffled.append(other[order.to(other.device)])
        logits = torch.where(diagonal, true, scale * anchor @ _product(shuffled).T)
        losses.append(logits.logsumexp(dim=1) - true)
    return torch.stack(losses).mean(dim=0)


def _product(factors: Sequence[Tensor]) -> Tensor:
    return reduce(torch.mul, factors)


def mip_similarity(candidates: Tensor, queries: Sequence[Tensor], *, logit_scale: Scalar = 1.0) -> Tensor:
    """Scores of every candidate for every query tuple, (N, Nc); (1, Nc) if all queries are vectors.

        s_ij = logit_scale sum_d c_j[d] prod_l q_l[i, d]

    Source: Saporta et al. 2024 (arXiv 2411.01053); symile/similarity.py `MIPSimilarity`.
    """
    rows = _product([torch.atleast_2d(x) for x in queries])
    return logit_scale * torch.einsum("id,jd->ij", rows, candidates)
