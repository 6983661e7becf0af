"""Scores that a bank of queries normalises, against galleries in which a few hubs are everybody's neighbour."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import check, row_lse
from ..ranks import Group, collective
from .candidates import count
from .largest import TopK, topk
from .transport import positive


@collective
def inverted_softmax_bias(gallery: Tensor, bank: Tensor, *, beta: float = 20.0, group: Group = None) -> Tensor:
    """The inverted softmax as a bias of each gallery item, (M,): pass it as col_bias to `topk` and `ranks`.

        bias_j = -1 / beta log sum_b e^(beta <bank_b, gallery_j>)

    Then <q_i, g_j> + bias_j orders like e^(beta <q_i, g_j>) / sum_b e^(beta <bank_b, g_j>), a softmax over queries.
    DBNorm's dual form multiplies two of these, of a bank of queries and a bank of gallery items: its bias is (beta_1
    bias_1 + beta_2 bias_2) / (beta_1 + beta_2).

    Args:
        gallery: (M, D).
        bank: (B, D), queries, of training or of the test itself; B >= 1.
        beta: > 0; 20 in the official code.
        group: None: this process only. "world", a process group, or distributed.Ranks: gallery and bank are this rank's
            share.

    Returns: (M,), float32 (float64 for float64 features). No gradient.
    Cost: 2 M B D FLOP.

    Example:
        >>> gallery, query = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=2)
        >>> found = topk(query, gallery, 1, col_bias=inverted_softmax_bias(gallery, query))

    Source: Smith et al. 2017 (inverted softmax), https://arxiv.org/abs/1702.03859; Wang et al. 2023 (DBNorm),
    https://arxiv.org/abs/2310.11612, official code yimuwangcs/Better_Cross_Modal_Retrieval, DBNorm/dbnorm.py.
    """
    scale = positive("beta", beta)
    gallery, bank = (check.features(n, x).detach() for n, x in (("gallery", gallery), ("bank", bank)))
    check.same_width("bank", bank, "gallery", gallery)
    if group is None and not bank.shape[0]:
        raise ValueError("bank must hold at least one query, got none")
    with torch.no_grad():
        return -row_lse(gallery, bank, scale=scale, group=group) / scale


def querybank_topk(query: Tensor, gallery: Tensor, bank: Tensor, k: int, *, beta: float = 20.0, hubs: int = 1) -> TopK:
    """QBNorm, the dynamic inverted softmax: it applies only to queries whose best item is a hub of the bank.

        s'_ij = <q_i, g_j> + bias_j   if the first of i is among the `hubs` first of some query of the bank
        s'_ij = <q_i, g_j>            else

    Args:
        query: (N, D).
        gallery: (M, D).
        bank: (B, D), B >= 1.
        k: >= 1.
        beta: > 0, the sharpness of `inverted_softmax_bias`, which gives the bias.
        hubs: >= 1.

    Returns: TopK of s'; biases have no gradient.
    Cost: 4 N M D + 4 B M D FLOP.

    Example:
        >>> gallery, query = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=2)
        >>> found = querybank_topk(query, gallery, query, 3)

    Source: Bogolin et al. 2022 (QB-Norm), https://arxiv.org/abs/2112.12777.
    """
    count("hubs", hubs)
    bias = inverted_softmax_bias(gallery, bank, beta=beta)
    plain = topk(query, gallery, k)
    active = torch.isin(plain.indices[:, 0], topk(bank, gallery, hubs).indices) & (plain.indices[:, 0] >= 0)
    values, indices = plain.values.clone(), plain.indices.clone()
    found = topk(query[active], gallery, k, col_bias=bias)
    values[active], indices[active] = found.values, found.indices
    return TopK(values, indices)
