"""InfoNCE of late interaction, dense: one query and one document at a time."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ._dense import Scalar, direction_weights, reduce_rows, unit
from .late import every_token, of_queries, over_tokens


def apart(documents: Tensor, mask: Tensor | None, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Documents one by one, and which of their tokens are there. offsets: of packed ones, (all tokens, D)."""
    if offsets is None:
        return documents, every_token(documents, mask)
    ends = offsets.tolist()
    spans = list(pairwise(ends))
    kept = every_token(documents, mask)
    tokens = pad_sequence([documents[a:b] for a, b in spans], batch_first=True)
    return tokens, pad_sequence([kept[a:b] for a, b in spans], batch_first=True)


def xtr_scores(
    queries: Tensor,
    documents: Tensor,
    top_k: int,
    *,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
    document_offsets: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """(N, M): the mean over the query tokens that retrieve a token of the document of the largest of its products; 0
    where none does. A query token retrieves the top_k document tokens with the largest products.

    Source: Lee et al. 2023 (XTR), arXiv 2304.01982, eq. 3.
    """
    documents, tokens = apart(documents, document_mask, document_offsets)
    products = torch.einsum("ntd,mud->ntmu", unit(queries, normalize), unit(documents, normalize))
    products = products.masked_fill(~tokens, -torch.inf)
    every = products.flatten(2)
    if every.shape[2] == 0:
        return products.sum((1, 3))
    last = every.sort(dim=2, descending=True).values[..., min(top_k, every.shape[2]) - 1]
    retrieved = (products >= last[:, :, None, None]) & tokens
    retrieved &= every_token(queries, query_mask)[:, :, None, None]
    some = retrieved.any(3)
    best = products.masked_fill(~retrieved, -torch.inf).amax(3)
    return torch.where(some, best, torch.zeros_like(best)).sum(1) / some.sum(1).clamp_min(1)


def late_interaction_info_nce(
    queries: Tensor,
    documents: Tensor,
    *,
    temperature: Scalar = 1.0,
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
    teacher_loss: str = "kl",
    teacher_temperature: Scalar = 1.0,
    teacher_weight: Scalar = 1.0,
    label_smoothing: float = 0.0,
    direction: str = "rows",
    reduce: str = "sum",
    document_reduce: str = "max",
    sharpness: Scalar = 1.0,
    top_k: int | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropies of a query's document among its candidates: the documents of the batch (or, (N, K, U, D), its own
    alone, the first of which is to be found), then its hard negatives. With hard positives: the mean over them, each
    against the negatives. With a teacher: that, blended with the distance of the softmax from the teacher's.

    Source: Khattab and Zaharia 2020, arXiv 2004.12832; Santhanam et al. 2022, arXiv 2112.01488, section 3.2.
    """
    documents, d_mask = apart(documents, document_mask, document_offsets)
    n, own = len(queries), documents.dim() == 4
    q, q_mask = unit(queries, normalize), every_token(queries, query_mask)

    def pair(i: int, tokens: Tensor, mask: Tensor) -> Tensor:
        best = over_tokens(q[i] @ unit(tokens, normalize).T, mask, document_reduce, sharpness)
        return of_queries(best[None], q_mask[i][None], reduce)[0]

    def matrix(found: Callable[[int, int], Tensor], columns: int) -> Tensor:
        rows = [torch.stack([found(i, j) for j in range(columns)]) if columns else q[i, :0, 0] for i in range(n)]
        return torch.stack(rows) if rows else (queries.sum() + documents.sum()) * queries.new_zeros(0, columns)

    def of_own(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        here = mask.any(2)
        scores = matrix(lambda i, k: pair(i, x[i, k], mask[i, k]), x.shape[1])
        return torch.where(here, scores, torch.zeros_like(scores)) / temperature, here

    if modalities is not None:
        assert num_modalities is not None
        d_mask = (modalities >= 0) & (modalities < num_modalities)
        kinds = modalities

        def score(i: int, j: int) -> Tensor:
            every = [pair(i, documents[j], kinds[j] == s) for s in range(num_modalities)]
            return torch.stack(every).max()
    else:

        def score(i: int, j: int) -> Tensor:
            return pair(i, documents[j], d_mask[j])

    if own:
        logits, kept = of_own(documents, d_mask)
        eye = torch.arange(kept.shape[1], device=kept.device).expand(n, -1) == 0
    else:
        if top_k is None:
            scores = matrix(score, len(documents))
        else:
            scores = xtr_scores(
                queries, documents, top_k, query_mask=query_mask, document_mask=d_mask, normalize=normalize
            )
        here = d_mask.any(1)
        logits = torch.where(here, scores, torch.zeros_like(scores)) / temperature
        kept = here.expand(n, -1).clone()
        eye = torch.eye(n, len(documents), dtype=torch.bool, device=queries.device)
        if query_ids is not None:
            others = query_ids if document_ids is None else document_ids
            kept &= eye | (query_ids[:, None] != others[None])
    query_here = q_mask.any(1)
    columns, column_kept, column_own = logits, kept & query_here[:, None], eye
    if hard_negatives is not None:
        more, more_here = of_own(hard_negatives, every_token(hard_negatives, hard_negative_mask))
        logits, kept = torch.cat([logits, more], 1), torch.cat([kept, more_here], 1)
        eye = torch.cat([eye, torch.zeros_like(more_here)], 1)
    if hard_positives is not None:
        positive, positive_here = of_own(hard_positives, every_token(hard_positives, hard_positive_mask))
    else:
        positive, positive_here = (x.masked_select(eye).view(n, 1) for x in (logits, kept & eye))
    present = query_here & positive_here.any(1)
    row, col = direction_weights(direction)
    rows = torch.zeros(n, dtype=logits.dtype, device=logits.device)
    negative = torch.where(kept & ~eye, logits, torch.full_like(logits, -torch.inf))
    if row:
        each = torch.cat([positive.unsqueeze(2), negative.unsqueeze(1).expand(-1, positive.shape[1], -1)], 2)
        losses = torch.where(positive_here, each.logsumexp(2) - positive, torch.zeros_like(positive))
        contrast = losses.sum(1) / positive_here.sum(1).clamp_min(1)
        every = torch.where(kept, logits, torch.full_like(logits, -torch.inf)).logsumexp(1)
        zeros = torch.zeros_like(logits)
        if label_smoothing:
            mean = torch.where(kept, logits, zeros).sum(1) / kept.sum(1).clamp_min(1)
            contrast = (1 - label_smoothing) * contrast + label_smoothing * (every - mean)
        if teacher_scores is not None:
            t = torch.where(kept, teacher_scores / teacher_temperature, torch.full_like(logits, -torch.inf))
            log_p = t.log_softmax(1)
            p = torch.where(kept, log_p.exp(), zeros)
            if teacher_loss == "mse":
                taught = torch.where(kept, logits - t, zeros).square().sum(1) / kept.sum(1).clamp_min(1)
            else:
                taught = every - (p * logits).sum(1)
                if teacher_loss == "kl":
                    taught = taught + torch.where(p > 0, p * log_p, zeros).sum(1)
            contrast = (1 - teacher_weight) * contrast + teacher_weight * taught
        rows = rows + row * contrast
    if col:
        kept_columns = (column_kept & present[:, None]) | (column_own & present[:, None])
        z = torch.where(kept_columns, columns, torch.full_like(columns, -torch.inf))
        every = z[:, :n].logsumexp(0)
        losses = every - columns.diagonal()
        if label_smoothing:
            mean = torch.where(kept_columns, columns, torch.zeros_like(columns)).sum(0)[:n]
            mean = mean / kept_columns.sum(0)[:n].clamp_min(1)
            losses = (1 - label_smoothing) * losses + label_smoothing * (every - mean)
        rows = rows + col * losses
    return reduce_rows(rows[present], reduction, present=present)
