"""Documents of tokens as columns of scores: of all ranks, by blocks, each in one or several parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import Block, check, equal_blocks, segment_reduce
from ..ranks import GlobalBatch
from .late_arguments import Scoring
from .score_contrast import columns_at_a_time
from .tokens import Tokens, by_modality, over_tokens, tokens_of
from .xtr import scores_above


@dataclass
class Documents:
    """All documents that a query meets, their tokens one after the other."""

    tokens: Tokens
    parts: int = 1  # segments of each document, of which the best one is its score

    @property
    def count(self) -> int:
        return self.tokens.items // self.parts

    def here(self) -> Tensor | None:
        """(M,): which documents have a token; None: all."""
        segments, mask = self.tokens.segments, self.tokens.mask
        if not isinstance(segments, Tensor):
            return None if mask is None else mask.view(-1, segments).any(1)
        ends = segments
        if mask is not None:
            before = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.cumsum(0)])
            ends = before[segments]
        return (ends.diff() > 0).view(-1, self.parts).any(1)

    def blocks(self, rows: int, budget: int | None) -> tuple[list[Block], bool]:
        """As many documents at a time as the budget has room for the scores of `rows` query tokens with them: values
        and columns, eight bytes each; and whether these stay for the backward pass."""
        segments = self.tokens.segments
        each = columns_at_a_time(self.tokens.features, self.count, 8 * rows * self.parts, budget)
        blocks = equal_blocks(self.count, each, 1 if isinstance(segments, Tensor) else segments)
        if isinstance(segments, Tensor) and (each is None or segments.device.type != "cpu"):
            every = self.tokens.features.shape[0]  # to look at offsets would wait for the device
            blocks = [x._replace(first=0, last=every) for x in blocks]
        elif isinstance(segments, Tensor):
            bounds = segments[:: self.parts].tolist()
            blocks = [x._replace(first=bounds[x.start], last=bounds[x.stop]) for x in blocks]
        return blocks, each is None

    def part(self, block: Block, features: Tensor) -> Tokens:
        """The documents of a block, of whose tokens these are the features."""
        mask, segments = self.tokens.mask, self.tokens.segments
        items = (block.stop - block.start) * self.parts
        if isinstance(segments, Tensor):
            start = block.start * self.parts
            segments = segments[start : start + items + 1] - block.first
        return Tokens(features, None if mask is None else block.rows(mask), segments, items)


@dataclass
class LateScores:
    """How queries and documents are scored."""

    queries: Tokens
    documents: Documents
    here: Tensor | None  # (M,): which documents have a token
    how: Scoring
    limits: Tensor | None  # of XTR

    def whole(self) -> list[Tensor]:
        """What all blocks need that may require gradients."""
        learned = [self.how.sharpness] if isinstance(self.how.sharpness, Tensor) else []
        return [self.queries.features, check.as_tensor("scale", self.how.scale, self.queries.features), *learned]

    def logits(self, block: Block, whole: Sequence[Tensor], cut: Sequence[Tensor]) -> Tensor:
        """(N, documents of the block); 0 for a document without tokens, which has no score."""
        queries, documents = self.queries._replace(features=whole[0]), self.documents.part(block, cut[0])
        if self.limits is not None:
            scores = scores_above(queries, documents, self.limits, self.how.backend)
        else:
            best = segment_reduce(
                queries.features, documents.features, documents.segments, mask=documents.mask,
                reduce=self.how.document_reduce, sharpness=whole[2] if len(whole) > 2 else self.how.sharpness,
                backend=self.how.backend,
            )  # fmt: skip
            scores = over_tokens(best, queries, self.how.reduce)
            if self.documents.parts > 1:
                scores = scores.unflatten(1, (-1, self.documents.parts)).max(2).values
        if self.here is not None:
            scores = torch.where(block.columns(self.here), scores, 0.0)
        return scores * whole[1]


def documents_of(
    documents: Tensor, mask: Tensor | None, offsets: Tensor | None, modalities: Tensor | None, count: int | None,
    normalize: bool,
) -> Documents:  # fmt: skip
    """This rank's, from the arguments of a loss."""
    if (modalities is None) != (count is None):
        raise ValueError("modalities and num_modalities must be given together")
    if modalities is None or count is None:
        return Documents(tokens_of("documents", documents, mask, offsets, normalize))
    return Documents(by_modality(documents, modalities, count, normalize), count)


def of_all_ranks(mine: Documents, parts: GlobalBatch, tokens: GlobalBatch) -> Documents:
    """Those of every rank, in the order of ranks. parts, tokens: how many segments and tokens each has."""
    if parts.ranks is None:
        return mine
    mask, segments = mine.tokens.mask, mine.tokens.segments
    if isinstance(segments, Tensor):
        lengths = parts.gather(segments.diff())
        segments = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    if mask is not None:
        mask = tokens.gather(mask.byte()).bool()
    return Documents(Tokens(tokens.gather(mine.tokens.features), mask, segments, parts.total), mine.parts)


def only_inside(documents: Documents) -> Documents:
    """Without what lies before the first and after the last document of packed ones, which is read on the host."""
    tokens = documents.tokens
    if not isinstance(tokens.segments, Tensor):
        return documents
    first, last = tokens.segments[[0, -1]].tolist()
    mask = None if tokens.mask is None else tokens.mask[first:last]
    inside = Tokens(tokens.features[first:last], mask, tokens.segments - first, tokens.items)
    return Documents(inside, documents.parts)
