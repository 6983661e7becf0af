"""InfoNCE of late interaction: ColBERT, FILIP, CLaMR, XTR, the queries of a Q-Former; teachers of scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..literals import BackendName, Direction, Reduction, SegmentReduceName
from ..ops import EngineOptions, Statistics, check
from ..ranks import GlobalBatch, Group, collective, given, size_of
from ..ranks.facts import Fact
from .candidates import smoothing_share
from .common import added, engine_options, inverse, reduced_empty
from .late_arguments import Lesson, ScoreLoss, Scoring, checked_tokens, refuse_alone, refuse_together
from .score_contrast import Apart, Columns
from .token_documents import Documents, LateScores, documents_of, of_all_ranks, only_inside
from .tokens import OverTokens, both, there, tokens_of
from .weights import NOWHERE, Counted, direction_weights
from .xtr import checked_top_k, retrieval_limits


@collective
def late_interaction_info_nce(
    queries: Tensor,
    documents: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    document_offsets: Tensor | None = None,
    modalities: Tensor | None = None,
    num_modalities: int | None = None,
    hard_negatives: Tensor | None = None,
    hard_negative_mask: Tensor | None = None,
    hard_positives: Tensor | None = None,
    hard_positive_mask: Tensor | None = None,
    query_ids: Tensor | None = None,
    document_ids: Tensor | None = None,
    teacher_scores: Tensor | None = None,
    teacher_loss: ScoreLoss = "kl",
    teacher_temperature: float | Tensor = 1.0,
    teacher_weight: float | Tensor = 1.0,
    label_smoothing: float = 0.0,
    direction: Direction = "rows",
    reduce: OverTokens = "sum",
    document_reduce: SegmentReduceName = "max",
    sharpness: float | Tensor = 1.0,
    top_k: int | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int | None = None,
    backend: BackendName = "auto",
    group: Group = None,
) -> Tensor:
    """InfoNCE over late interaction: every query must find its document by the scores of their tokens.

        L_i = log sum_j e^{z_ij} - z_ii,   z_ij = s_ij / temperature,   s = maxsim(queries, documents, ...)
        j over [documents | hard_negatives_i]

    Args:
        queries: (N, T, D), token embeddings, float32 | bfloat16 | float16 | float64; unit, or set normalize=True.
        documents: (M, U, D), M >= N: document i belongs to query i, those from N on are further negatives. Or (N, K, U,
            D): K documents of each query alone, of which the first is its own; there are no other candidates.
        temperature: > 0, a float or a 0-dim tensor. 1 for sums over many query tokens (ColBERT), 0.02 to 0.07 for
            means.
        query_mask: (N, T) bool, True = a token. Padding may hold anything. A query without tokens, or whose own
            document has none, has loss 0, does not count in the mean, and is no candidate.
        document_mask: (M, U) or (N, K, U) bool, True = a token. A document without tokens is no candidate.
        document_offsets: (M + 1,): documents are packed, (all tokens, D), without padding.
        modalities, num_modalities: (M, U) integers, the modality of every document token (see modality_maxsim), and how
            many there are: s_ij is the score of the document's best modality. They replace document_mask.
        hard_negatives: (N, K, U', D), documents of each query alone.
        hard_negative_mask: (N, K, U') bool, True = a token.
        hard_positives: (N, P, U', D): positives in place of document i, which is then no candidate of query i. L_i is
            the mean over them, each against the negatives only.
        hard_positive_mask: (N, P, U') bool, True = a token.
        query_ids, document_ids: Integers, (N,) and (M,): another document with the query's id is no candidate.
            document_ids default to query_ids where M = N.
        teacher_scores: Scores of a teacher, (N, candidates): those of documents (of all ranks), then of hard_negatives;
            no gradient. Then the loss is (1 - teacher_weight) L_i + teacher_weight D_i.
        teacher_loss: D_i over the candidates of query i, with p_i the softmax of the teacher's scores: "kl", KL(p_i ||
            softmax z_i); "ce", its cross-entropy; "mse", the mean of (z_ij - t_ij)².
        teacher_temperature: > 0, divides teacher_scores; a float or a 0-dim tensor.
        teacher_weight: The share of D_i, a float or a 0-dim tensor. With 1 the contrast is not in the loss, and
            label_smoothing is refused.
        label_smoothing: In [0, 1): spreads this share of the target over the candidates, as
            torch.nn.functional.cross_entropy does.
        direction: "rows": query -> documents. "cols": document i -> queries, where hard negatives do not count. "mean"
            or "sum" of both.
        reduce: "sum" or "mean" over query tokens.
        document_reduce: Over document tokens: "max", "lse", or "softmax_mean", as `segment_reduce` defines them.
        sharpness: Of "lse" and "softmax_mean": a number or a 0-dim tensor, which may be learned.
        top_k: XTR: scores are xtr_scores(queries, documents, top_k), over all documents. reduce, document_reduce,
            modalities, and documents of each query alone must then keep their defaults.
        normalize: Scale token embeddings to unit length first.
        reduction: "mean" or "sum" over queries, or "none": (N,).
        memory_budget: Bytes up to which scores of query tokens with documents (8 N T M) stay for the backward pass;
            default 64 MiB. Beyond it, blocks of documents are scored one after the other, and again in the backward
            pass; not even the N M scores are held. A graph (torch.compile, torch.export) holds all.
        backend: "auto", "cpu", "torch", "triton", or "cuda". "auto" takes the first that can run; a named backend
            raises BackendUnsupported instead of falling back.
        group: None: this process only. "world", a process group, or distributed.Ranks: documents come from all ranks,
            and travel. U must be equal on all ranks.

    Returns: float32 (float64 for float64 features), nats.
    Cost: 6 N T M U D FLOP forward and backward, 8 in blocks.

    Example:
        >>> queries, documents = torch.randn(4, 5, 16), torch.randn(8, 9, 16)
        >>> loss = late_interaction_info_nce(queries, documents, normalize=True)

    Source: Khattab and Zaharia 2020 (ColBERT), https://arxiv.org/abs/2004.12832; Yao et al. 2022 (FILIP),
    https://arxiv.org/abs/2111.07783, eq. 1 to 5; Li et al. 2023 (BLIP-2), https://arxiv.org/abs/2301.12597; Lee et al.
    2023 (XTR), https://arxiv.org/abs/2304.01982; Wan et al. 2025 (CLaMR), https://arxiv.org/abs/2506.06144.
    Distillation: Santhanam et al. 2022 (ColBERTv2), https://arxiv.org/abs/2112.01488.
    """
    engine = engine_options(reduction, memory_budget, backend, group)
    row, col = direction_weights(direction)
    own = isinstance(documents, Tensor) and documents.dim() == 4
    checked_tokens(queries, documents, own, document_offsets is not None, query_mask)
    scale, smoothing = inverse(temperature, queries), smoothing_share(label_smoothing)
    how = Scoring(queries, query_mask, scale, reduce, document_reduce, sharpness, normalize, backend)
    top_k = None if top_k is None else checked_top_k(top_k)
    refuse_alone("hard_negatives", hard_negatives, {"hard_negative_mask": hard_negative_mask})
    refuse_alone("hard_positives", hard_positives, {"hard_positive_mask": hard_positive_mask})
    refuse_alone("query_ids", query_ids, {"document_ids": document_ids})
    options: dict[str, object] = dict(
        document_offsets=document_offsets, modalities=modalities, hard_negatives=hard_negatives
    )
    options |= dict(hard_positives=hard_positives, query_ids=query_ids, top_k=top_k)
    refuse_together(own, how, direction, smoothing, teacher_scores, teacher_weight, document_mask, options)
    lesson = Lesson.of(teacher_scores, teacher_loss, teacher_temperature, teacher_weight, queries)
    facts: dict[str, Fact | int] = {name: given(x) for name, x in options.items()}
    facts |= dict(query_mask=given(query_mask), document_mask=given(document_mask), teacher=given(teacher_scores))
    facts |= dict(tokens=0 if document_offsets is not None else size_of(documents, -2), top_k=top_k or 0)
    problem = Problem(how, Columns(0, 1, smoothing=smoothing, both=col > 0.0), lesson, there(queries, query_mask))
    if own:
        batch = GlobalBatch.of(engine.ranks, queries.shape[0], facts=lambda: facts)
        problem.meet_own(documents, document_mask)
    else:
        problem.negatives = how.apart("hard_negative", hard_negatives, hard_negative_mask)
        problem.positives = how.apart("hard_positive", hard_positives, hard_positive_mask)
        mine = documents_of(documents, document_mask, document_offsets, modalities, num_modalities, normalize)
        batch = problem.meet(mine, paired_ids(mine, queries, query_ids, document_ids), top_k, engine, facts)
    if batch.total == 0:
        return reduced_empty(0, reduction, queries, documents, scale)
    return Counted(None, problem.here).reduced(batch, problem.rows(row, col, batch), reduction)


@dataclass
class Problem:
    """Queries and what they are to find."""

    how: Scoring
    columns: Columns
    lesson: Lesson | None
    here: Tensor | None  # (N,): which queries take part; None: all
    negatives: Apart | None = None
    positives: Apart | None = None
    found: Statistics | None = None

    def meet_own(self, documents: Tensor, mask: Tensor | None) -> None:
        """Documents of each query alone, the first of which is its own."""
        every = self.how.apart("document", documents, mask)
        assert every is not None
        first, self.negatives = every.logits[:, :1], Apart(every.logits[:, 1:], every.here[:, 1:])
        self.here = both(self.here, None if mask is None and documents.shape[2] else every.here[:, 0])
        self.teach()
        sums = [first[:, 0], first[:, 0], torch.ones_like(first[:, 0])]
        if self.columns.teacher is not None:
            sums.append(self.columns.teacher.term(first, every.here[:, :1], 0, 1))
        self.found = Statistics(torch.full_like(sums[0], NOWHERE), torch.stack(sums, 1), first.new_zeros(1, 0))

    def meet(
        self, mine: Documents, ids: tuple[Tensor, Tensor] | None, top_k: int | None, engine: EngineOptions,
        facts: Mapping[str, Fact | int],
    ) -> GlobalBatch:  # fmt: skip
        """The documents of all ranks."""
        queries = tokens_of("queries", self.how.queries, self.how.mask, None, self.how.normalize)
        if mine.count < queries.items:
            raise ValueError(f"documents must be those of {queries.items} queries, or more, got {mine.count}")
        if engine.ranks is not None:
            if isinstance(mine.tokens.segments, Tensor):
                engine.ranks.refuse_promise("packed documents")
            mine = only_inside(mine)
        sizes = [queries.items, mine.count, mine.tokens.items, mine.tokens.features.shape[0]]
        batch, each, parts, tokens = GlobalBatch.several(engine.ranks, sizes, lambda: facts, queries.items)
        documents = of_all_ranks(mine, parts, tokens)
        columns = self.columns
        columns.first, columns.total, columns.cols_here = each.offset, each.total, documents.here()
        if ids is not None:
            columns.row_ids, columns.col_ids = ids[0], each.gather(ids[1])
        if self.positives is not None:
            self.here = both(self.here, self.positives.here.any(1))
        elif columns.cols_here is not None:
            self.here = both(self.here, columns.cols_here[each.offset : each.offset + queries.items])
        columns.rows_here = self.here
        self.teach()
        if batch.total:
            limits = None if top_k is None else retrieval_limits(queries.features, documents.tokens, top_k)
            scores = LateScores(queries, documents, columns.cols_here, self.how, limits)
            blocks, held = documents.blocks(queries.features.shape[0], engine.memory_budget)
            self.found = columns.of(scores.logits, blocks, held, scores.whole(), [documents.tokens.features])
        return batch

    def teach(self) -> None:
        if self.lesson is not None:
            self.columns.teacher = self.lesson.teacher(self.columns, self.negatives, self.here)

    def rows(self, row: float, col: float, batch: GlobalBatch) -> Tensor:
        """The loss of each query."""
        assert self.found is not None
        sides = []
        if row:
            contrast = self.columns.row_losses(self.found, self.negatives, self.positives)
            if self.lesson is not None:
                contrast = self.lesson.blended(contrast, self.columns.taught_rows(self.found, self.negatives))
            sides.append(row * contrast)
        if col:
            sides.append(col * self.columns.column_losses(self.found, batch))
        return added(sides)


def paired_ids(
    documents: Documents, queries: Tensor, query_ids: Tensor | None, document_ids: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    if query_ids is None:
        return None
    rows = check.ids("query_ids", query_ids, queries.shape[0], queries.device)
    if document_ids is None:
        if documents.count != queries.shape[0]:
            raise ValueError(
                f"document_ids must be given for {documents.count} documents of {queries.shape[0]} queries"
            )
        return rows, rows
    return rows, check.ids("document_ids", document_ids, documents.count, queries.device)
