"""Word-region attention: DAMSM (AttnGAN), GLoRIA, and the local term of what builds on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import Direction, Reduction
from ..ops import Block, check, equal_blocks, matmul
from ..ranks import GlobalBatch, Group, collective, given, size_of
from ..ranks.facts import Fact
from .common import cleaned, engine_options, reduced_empty, upcast
from .score_contrast import Columns, columns_at_a_time
from .tokens import both_there
from .weights import NOWHERE, Counted, direction_weights

OverWords: TypeAlias = Literal["sum", "mean"]
EPS = 1e-8  # the least product of norms in a cosine, that of the official codes


@collective
def word_region_loss(
    regions: Tensor,
    words: Tensor,
    *,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    class_ids: Tensor | None = None,
    gamma1: float | Tensor = 4.0,
    gamma2: float | Tensor = 5.0,
    gamma3: float | Tensor = 10.0,
    over_words: bool = True,
    reduce: OverWords = "sum",
    direction: Direction = "sum",
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    group: Group = None,
) -> Tensor:
    """DAMSM and GLoRIA: images and texts must find each other by the regions that words attend to.

        S = gamma3 * word_region_scores(regions, words),   L_i = CE(S_i., i) + CE(S_.i, i)

    Args:
        regions: (N, R, D), features of image regions, of any norm whose square is finite.
        words: (N, T, D); those of text i belong to image i.
        region_mask: (N, R) bool, True = there. A missing region takes no part, may hold anything, and gets no gradient.
            A pair with an empty side has loss 0, does not count in the mean, and is no candidate.
        word_mask: (N, T) bool, likewise.
        class_ids: Integers, (N,), the class of each pair: another pair of the same class is no candidate.
        gamma1: Sharpness of the attention over regions; a float or a 0-dim tensor.
        gamma2: Sharpness of the log-sum-exp over words; a float or a 0-dim tensor.
        gamma3: Multiplies the scores: 10 is a temperature of 0.1. A float or a 0-dim tensor.
        over_words: True: a softmax over the words of the text comes before the one over regions, as in both official
            codes. The formulas of the papers differ: GLoRIA's has none.
        reduce: "sum" over words, or "mean": GLoRIA's aggregation of that name.
        direction: "sum" (both official codes) or "mean" of both directions; "rows": image -> texts; "cols": text ->
            images.
        reduction: "mean" or "sum" over pairs, or "none": (N,).
        memory_budget: Bytes up to which scores of words with regions stay for the backward pass; default 64 MiB. Beyond
            it, 64 MiB are made at a time (one text's, if they are more), and again in the backward pass; neither the N
            N R T scores nor the N N T D contexts are held. A graph (torch.compile, torch.export) holds them.
        group: None: this process only. "world", a process group, or distributed.Ranks: candidates come from all ranks;
            words travel. T must be equal on all ranks.

    Returns: float32 (float64 for float64 features), nats. Computed in float32.
    Cost: 4 R T N²D FLOP forward, twice that backward, and the forward pass again where the scores are not held.

    Example:
        >>> regions, words = torch.randn(4, 49, 16), torch.randn(4, 7, 16)
        >>> loss = word_region_loss(regions, words, class_ids=torch.tensor([0, 1, 1, 2]))

    Source: Xu et al. 2018 (AttnGAN), https://arxiv.org/abs/1711.10485, eq. 7 to 13, official code words_loss; Huang et
    al. 2021 (GLoRIA), official code local_loss.
    """
    engine = engine_options(reduction, memory_budget, "auto", group)
    row, col = direction_weights(direction)
    gammas = checked(regions, words, gamma1, gamma2, over_words, reduce)
    scale = check.scalar("gamma3", gamma3, device=regions.device)
    n = regions.shape[0]
    if words.shape[0] != n:
        raise ValueError(f"words must have shape ({n}, T, D), one text for each image, got {tuple(words.shape)}")
    region_mask, word_mask = masks(regions, words, region_mask, word_mask)
    if class_ids is not None:
        class_ids = check.ids("class_ids", class_ids, n, regions.device)
    here = both_there(regions, words, region_mask, word_mask)
    facts: dict[str, Fact | int] = dict(class_ids=given(class_ids), over_words=over_words, words=size_of(words, 1))
    facts |= dict(word_mask=given(word_mask), region_mask=given(region_mask), regions=regions.shape[1] > 0)
    batch = GlobalBatch.of(engine.ranks, n, facts=lambda: facts)
    if batch.total == 0:
        return reduced_empty(0, reduction, regions, words, *gammas, scale)
    columns = Columns(
        batch.offset, batch.total, here, None if here is None else batch.gather(here.byte()).bool(), class_ids,
        None if class_ids is None else batch.gather(class_ids), both=col > 0.0,
    )  # fmt: skip
    regions, words = wide(regions, words, region_mask, word_mask)
    words = batch.gather(words)
    word_mask = None if word_mask is None else batch.gather(word_mask.byte()).bool()
    whole = [regions, *(check.as_tensor("gamma", x, words) for x in (*gammas, scale))]

    def scores(block: Block, rows: Sequence[Tensor], cols: Sequence[Tensor]) -> Tensor:
        own = None if word_mask is None else block.rows(word_mask)
        return rows[3] * of_block(rows[0], cols[0], region_mask, own, rows[1], rows[2], over_words, reduce)

    each = bytes_of_a_text(whole[0], words)
    width = columns_at_a_time(words, batch.total, each, engine.memory_budget)
    found = columns.of(scores, equal_blocks(batch.total, width), width is None, whole, [words])
    return Counted(None, here).reduced(batch, columns.losses(found, row, col, batch), reduction)


def word_region_scores(
    regions: Tensor,
    words: Tensor,
    *,
    region_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    gamma1: float | Tensor = 4.0,
    gamma2: float | Tensor = 5.0,
    over_words: bool = True,
    reduce: OverWords = "sum",
) -> Tensor:
    """How well every text fits every image: each word is compared with the regions that it attends to.

        a_tr = softmax over words t of <v_r, w_t>        with over_words; else <v_r, w_t> itself
        c_t = sum_r softmax_r(gamma1 a_tr) v_r
        score = log sum_t e^(gamma2 cos(c_t, w_t)),      "mean": minus log T

    Args:
        regions: (N, R, D), float32 | bfloat16 | float16 | float64. Products with words decide the attention, so norms
            matter.
        words: (M, T, D), likewise.
        region_mask: (N, R) bool, True = there. A missing region takes no part, may hold anything, and gets no gradient.
        word_mask: (M, T) bool, likewise.
        gamma1: Sharpness of the attention over regions; a float or a 0-dim tensor.
        gamma2: Sharpness of the log-sum-exp over words; a float or a 0-dim tensor.
        over_words: True: a softmax over the words of the text comes before the one over regions, as in both official
            codes. The formulas of the papers differ: GLoRIA's has none.
        reduce: "sum" over words, or "mean": GLoRIA's aggregation of that name.

    Returns: (N, M), float32 (float64 for float64 features). A pair with an empty side scores 0. Holds N M T (3 R + 2 D)
    numbers for the backward pass; word_region_loss does not.

    Example:
        >>> word_region_scores(torch.randn(3, 9, 16), torch.randn(4, 5, 16)).shape
        torch.Size([3, 4])

    Source: Xu et al. 2018 (AttnGAN), https://arxiv.org/abs/1711.10485, eq. 7 to 10; Huang et al. 2021 (GLoRIA),
    official code.
    """
    gammas = checked(regions, words, gamma1, gamma2, over_words, reduce)
    region_mask, word_mask = masks(regions, words, region_mask, word_mask)
    v, w = wide(regions, words, region_mask, word_mask)
    first, second = (check.as_tensor("gamma", x, w) for x in gammas)
    found = of_block(v, w, region_mask, word_mask, first, second, over_words, reduce)
    some = [None if mask is None else mask.any(1) for mask in (region_mask, word_mask)]
    if 0 in (*v.shape[1:2], *w.shape[1:2]):
        return found * 0.0
    found = found if some[0] is None else torch.where(some[0][:, None], found, 0.0)
    return found if some[1] is None else torch.where(some[1], found, 0.0)


def checked(
    regions: Tensor, words: Tensor, gamma1: float | Tensor, gamma2: float | Tensor, over_words: bool, reduce: OverWords
) -> tuple[float | Tensor, float | Tensor]:
    """gamma1 and gamma2."""
    check.same_width("words", check.features("words", words, ndim=3), "regions",
                     check.features("regions", regions, ndim=3))  # fmt: skip
    check.same_device("words", words, regions.device)
    check.choice("reduce", reduce, get_args(OverWords))
    if not isinstance(over_words, bool):
        raise TypeError(f"over_words must be a bool, got {type(over_words).__name__}")
    return tuple(check.scalar(f"gamma{i}", x, device=words.device) for i, x in ((1, gamma1), (2, gamma2)))  # type: ignore[return-value]


def masks(
    regions: Tensor, words: Tensor, region_mask: Tensor | None, word_mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    if region_mask is not None:
        region_mask = check.bool_mask("region_mask", region_mask, tuple(regions.shape[:2]), regions.device)
    if word_mask is not None:
        word_mask = check.bool_mask("word_mask", word_mask, tuple(words.shape[:2]), words.device)
    return region_mask, word_mask


def wide(regions: Tensor, words: Tensor, region_mask: Tensor | None, word_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """In one type, that of the statistics, zeros for what is not there."""
    dtype = torch.promote_types(regions.dtype, words.dtype)
    x, y = check.as_type(regions, dtype), check.as_type(words, dtype)
    return upcast(cleaned(x, region_mask)), upcast(cleaned(y, word_mask))


def of_block(
    regions: Tensor, words: Tensor, region_mask: Tensor | None, word_mask: Tensor | None, gamma1: Tensor,
    gamma2: Tensor, over_words: bool, reduce: OverWords,
) -> Tensor:  # fmt: skip
    """word_region_scores of checked arguments, of one type; finite for sides that have nothing."""
    (n, r, d), (m, t, _) = regions.shape, words.shape
    attention = matmul(regions.reshape(n * r, d), words.reshape(m * t, d).T).view(n, r, m, t)
    if over_words:
        if word_mask is not None:
            attention = torch.where(word_mask, attention, NOWHERE)
        attention = attention.softmax(3)
    attention = gamma1 * attention.flatten(2).transpose(1, 2)  # (n, m t, r)
    if region_mask is not None:
        attention = torch.where(region_mask[:, None], attention, NOWHERE)
    context = matmul(attention.softmax(2), regions).view(n, m, t, d)
    lengths = torch.linalg.vector_norm(context, dim=3) * torch.linalg.vector_norm(words, dim=2)
    lengths = lengths.masked_fill(lengths == 0.0, torch.inf).clamp_min(EPS)  # the cosine with a zero vector is constant
    cosine = gamma2 * ((context * words).sum(3) / lengths)
    if word_mask is not None:
        cosine = torch.where(word_mask, cosine, NOWHERE)
    value: Tensor = cosine.logsumexp(2) if t else cosine.sum(2)
    if reduce == "mean":
        count = words.new_full((m,), max(t, 1)) if word_mask is None else word_mask.sum(1).clamp_min(1).to(value.dtype)
        value = value - count.log()
    return value


def bytes_of_a_text(regions: Tensor, words: Tensor) -> int:
    """What of_block makes for one text, with what autograd keeps of it."""
    n, r, d = regions.shape
    return int(n * words.shape[1] * (4 * r + 3 * d) * regions.element_size())
