"""Losses of token sets beyond what every catalog row gets: official codes restated in float64, documents by blocks,
padding, empty items, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import contrastile
from contrastile import (
    fdt_loss,
    late_interaction_info_nce,
    maxsim,
    maxsim_candidates,
    reference,
    word_region_loss,
    xtr_scores,
)
from contrastile.losses import score_contrast
from support.memory import needs_linux, peak_bytes
from support.refusals import refuses

N, M, T, U, D, K = 5, 7, 3, 4, 6, 2
IDS, DOCUMENT_IDS = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 1, 1, 2, 0, 1, 5])
EACH = torch.arange(N)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=-1).requires_grad_()


def some(*shape: int, seed: int = 0) -> Tensor:
    """A mask in which one item has nothing, and the first three have something."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[:3, ..., 0] = True
    mask[-1] = False
    return mask


def same(found: Tensor, expected: Tensor, *inputs: Tensor, tol: float = 1e-11) -> None:
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)
    grads = [torch.autograd.grad(x.sum(), inputs, allow_unused=True) for x in (found, expected)]
    for x, y, like in zip(*grads, inputs, strict=True):
        x, y = (torch.zeros_like(like) if g is None else g for g in (x, y))
        torch.testing.assert_close(x, y, rtol=tol, atol=tol)


# ---- official codes


def colbert_scores(q: Tensor, d: Tensor, q_mask: Tensor, d_mask: Tensor) -> Tensor:
    """pylate: padding is multiplied by 0, so that it is a token of score 0."""
    scores = torch.einsum("ash,bth->abst", q, d) * q_mask[:, None, :, None] * d_mask[None, :, None]
    return scores.max(-1).values.sum(-1)


@pytest.mark.parametrize("padded", [False, True])
def test_pylate_s_contrastive_loss(padded):
    """Where maxima are positive its padding changes nothing; else zeros as tokens are what it has."""
    q, positive, negative = tokens(N, T), tokens(N, U, seed=1), tokens(N, U, seed=2)
    masks = [torch.ones(N, x.shape[1], dtype=torch.bool) for x in (q, positive, negative)]
    if padded:
        masks[1], masks[2] = some(N, U), some(N, U, seed=3)
    scores = [colbert_scores(q, d, masks[0], mask) for d, mask in zip((positive, negative), masks[1:], strict=True)]
    expected = F.cross_entropy(torch.cat(scores, 1) / 0.5, EACH)
    documents, mask = torch.cat([positive, negative]), torch.cat(masks[1:])
    if padded:
        documents = documents * mask[..., None]
    same(late_interaction_info_nce(q, documents, temperature=0.5), expected, q, positive, negative)


@pytest.mark.parametrize("min_max", [False, True])
def test_pylate_s_distillation(min_max):
    """By default it scales the scores of each query to [0, 1] first: a few lines more."""
    q, d = tokens(N, T), tokens(N, K + 1, U, seed=1)
    labels = torch.randn(N, K + 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def of(scores: Tensor) -> Tensor:
        if min_max:
            low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
            scores = (scores - low) / (high - low + 1e-8)
        loss = torch.nn.KLDivLoss(reduction="batchmean", log_target=True)
        return loss(F.log_softmax(scores, -1), F.log_softmax(labels, -1))

    expected = of(torch.einsum("ash,abth->abst", q, d).max(-1).values.sum(-1))
    found = of(maxsim_candidates(q, d)) if min_max else late_interaction_info_nce(q, d, teacher_scores=labels)
    same(found, expected, q, d)


def test_pylate_itself():
    losses = pytest.importorskip("pylate.losses")
    scores = pytest.importorskip("pylate.scores")
    q, d = tokens(N, T), tokens(N, U, seed=1)
    assert losses.Contrastive
    torch.testing.assert_close(scores.colbert_scores(q, d), maxsim(q, d))


def official_xtr(q: Tensor, d: Tensor, d_mask: Tensor, k: int) -> Tensor:
    """PrimeQA's and pylate's: zeros for what is not retrieved; without their rounding to float16 before the choice."""
    scores = (q.flatten(0, 1) @ d.flatten(0, 1).T).view(*q.shape[:2], *d.shape[:2])
    every = scores.masked_fill(~d_mask, -99999.0).flatten(2)
    mask = torch.zeros_like(every, dtype=torch.bool).scatter_(-1, every.topk(k, -1).indices, True)
    best = (every * mask).view_as(scores).max(-1).values
    return best.sum(1) / (best > 0).double().sum(1).clamp_min(1e-3)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_official_xtr(k):
    """Products are positive, as those that are retrieved are in practice."""
    q, d, mask = (x.detach().abs().requires_grad_() for x in (tokens(N, T), tokens(M, U, seed=1))), some(M, U), None
    (q, d), mask = q, d
    expected = official_xtr(q, d, mask, k)
    same(xtr_scores(q, d, k, document_mask=mask), expected, q, d)
    assert (expected == 0).any()  # some documents have nothing retrieved


def func_attention(query: Tensor, context: Tensor, gamma1: float) -> tuple[Tensor, Tensor]:
    """AttnGAN's: query (B, D, T), context (B, D, R)."""
    attention = torch.bmm(context.transpose(1, 2), query).softmax(2)
    attention = (attention.transpose(1, 2) * gamma1).softmax(2)
    return torch.bmm(context, attention.transpose(1, 2)), attention


@pytest.mark.parametrize("classes", [False, True])
def test_words_loss_of_attn_gan(classes):
    """Caption by caption, with the batch's images; other pairs of a class are masked. GLoRIA's local_loss is the same
    without classes."""
    regions, words, lengths = 2.0 * tokens(N, 9), 2.0 * tokens(N, U, seed=1), [4, 2, 3, 1, 4]
    columns = []
    for i, length in enumerate(lengths):
        word = words[i, :length].T.unsqueeze(0).repeat(N, 1, 1)
        context, _ = func_attention(word, regions.transpose(1, 2), 4.0)
        similarity = F.cosine_similarity(word.transpose(1, 2), context.transpose(1, 2), 2, 1e-8)
        columns.append((similarity * 5.0).exp().sum(1).log())
    scores = torch.stack(columns, 1) * 10.0
    if classes:
        scores = scores.masked_fill((IDS[:, None] == IDS) & ~torch.eye(N, dtype=torch.bool), -torch.inf)
    expected = F.cross_entropy(scores, EACH) + F.cross_entropy(scores.T, EACH)
    mask = torch.arange(U) < torch.tensor(lengths)[:, None]
    found = word_region_loss(regions, words, word_mask=mask, class_ids=IDS if classes else None)
    same(found, expected, regions, words)


def test_the_official_fdt():
    """Scores of padding are multiplied by 0; codes are not normalised; its own sparsemax."""
    image, text = 3.0 * tokens(N, U), 3.0 * tokens(N, T, seed=1)
    codebook, mask = (2.0 * tokens(11, seed=2)).detach().requires_grad_(), some(N, T)
    mask[-1, 0] = True

    def query_model(x: Tensor, pad: Tensor | None) -> Tensor:
        inner = torch.matmul(x, codebook.T) / D**0.5
        inner = inner if pad is None else inner * pad[..., None]
        inner = (inner / 0.3).max(1).values
        ordered = inner.sort(1, descending=True).values
        bound = 1 + torch.arange(1, 12) * ordered
        size = (bound > ordered.cumsum(1)).sum(1, keepdim=True)
        tau = (torch.where(torch.arange(11) < size, ordered, 0.0).sum(1, keepdim=True) - 1) / size
        features = (inner - tau).clamp_min(0) @ codebook
        return features / (features.norm(dim=-1, keepdim=True) + 1e-10)

    logits = 7.0 * query_model(image, None) @ query_model(text, mask).T
    expected = 0.5 * (F.cross_entropy(logits, EACH) + F.cross_entropy(logits.T, EACH))
    found = fdt_loss(image, text, codebook, 7.0, text_mask=mask, temperature=0.3, padding="zero")
    same(found, expected, image, text, codebook, tol=1e-8)  # its norm is 1e-10 too large


def test_filip_is_two_calls():
    image, text = tokens(N, U), tokens(N, T, seed=1)
    products = torch.einsum("nud,mtd->nmut", image, text) / 0.07
    rows, cols = products.amax(3).mean(2), products.amax(2).mean(2)
    expected = 0.5 * (F.cross_entropy(rows, EACH) + F.cross_entropy(cols.T, EACH))
    options = {"temperature": 0.07, "reduce": "mean"}
    found = late_interaction_info_nce(image, text, **options) + late_interaction_info_nce(text, image, **options)
    same(0.5 * found, expected, image, text)


# ---- documents by blocks

VARIANTS = {
    "both": {"direction": "mean", "query_ids": IDS, "document_ids": DOCUMENT_IDS},
    "smoothed": {"direction": "sum", "label_smoothing": 0.2},
    "soft": {"document_reduce": "lse", "sharpness": 3.0},
    "retrieved": {"top_k": 3},
    "modalities": {"modalities": torch.arange(U).expand(M, U) % 3 - 1, "num_modalities": 2},
    "hard": {"hard_negatives": tokens(N, K, U, seed=5).detach(), "hard_positives": tokens(N, K, U, seed=6).detach()},
    "teacher": {"teacher_scores": torch.linspace(-2, 2, N * M, dtype=torch.float64).view(N, M), "teacher_loss": "ce"},
    "mse": {"teacher_scores": torch.linspace(-2, 2, N * M).double().view(N, M), "teacher_loss": "mse"},
}


@pytest.fixture
def few_columns(monkeypatch):
    """Blocks of two documents."""
    monkeypatch.setattr(score_contrast, "WORKSPACE", 8 * N * T * 2)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_blocks_of_documents_change_nothing(options, few_columns):
    q, d = tokens(N, T), tokens(M, U, seed=1)
    masks = {"query_mask": some(N, T)}
    if "modalities" not in options:
        masks["document_mask"] = some(M, U, seed=4)
    found = late_interaction_info_nce(q, d, memory_budget=0, **options, **masks)
    same(found, reference.late_interaction_info_nce(q, d, **options, **masks), q, d)


@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("budget", [0, None])
def test_packed_documents(budget, top_k, few_columns):
    q, d, mask = tokens(N, T), tokens(M, U, seed=1), some(M, U)
    offsets = F.pad(mask.sum(1).cumsum(0), (1, 0))
    found = late_interaction_info_nce(
        q, d[mask], document_offsets=offsets, top_k=top_k, direction="mean", memory_budget=budget
    )
    expected = reference.late_interaction_info_nce(q, d, document_mask=mask, top_k=top_k, direction="mean")
    same(found, expected, q, d)


def test_blocks_of_texts_change_nothing(monkeypatch):
    monkeypatch.setattr(score_contrast, "WORKSPACE", 1)
    v, w, gamma = 2.0 * tokens(N, U), 2.0 * tokens(N, T, seed=1), torch.tensor(4.0, dtype=torch.float64)
    options = {"word_mask": some(N, T), "gamma1": gamma.requires_grad_(), "class_ids": IDS, "reduction": "none"}
    found = word_region_loss(v, w, memory_budget=0, **options)
    same(found, reference.word_region_loss(v, w, **options), v, w, gamma)


def test_gradients_of_blocks_in_half_precision_are_rounded_once(few_columns):
    """Those of queries, which every block adds to, but for what each block's own product rounds."""
    q, d = (x.detach().bfloat16() for x in (tokens(N, T), tokens(40, U, seed=1)))
    leaf, wide = q.clone().requires_grad_(), q.double().requires_grad_()
    late_interaction_info_nce(leaf, d, memory_budget=0).backward()
    reference.late_interaction_info_nce(wide, d.double()).backward()
    error = (leaf.grad.double() - wide.grad).abs().max()
    assert error <= 2.0**-8 * wide.grad.abs().max()


def test_blocks_are_differentiated_once(few_columns):
    q, d = tokens(N, T), tokens(M, U, seed=1)
    loss = late_interaction_info_nce(q, d, memory_budget=0)
    (grad,) = torch.autograd.grad(loss, q, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grad.sum().backward()


LATE = "late_interaction_info_nce(x.view(-1, 8, 64), y.view(-1, 8, 64), direction='mean', memory_budget={})"
WORDS = "word_region_loss(x.view(-1, 8, 64), y.view(-1, 8, 64), memory_budget={})"


@needs_linux
@pytest.mark.parametrize(
    "call, rows, each",
    [(LATE, 3072, 8 * 3072), pytest.param(WORDS, 512, 4 * 512 * 8 * 8, marks=pytest.mark.slow)],
    ids=["late", "words"],
)
def test_the_peak_is_a_block_s(call, rows, each):
    """A fraction of the scores, which take `each` bytes a document and are held where the budget says so."""
    few = "(setattr(contrastile.losses.score_contrast, 'WORKSPACE', 1 << 20), contrastile.{})[1]"
    whole = each * rows // 8
    assert peak_bytes(few.format(call.format(1 << 40)), rows=rows) > whole
    assert peak_bytes(few.format(call.format(0)), rows=rows) < (0.8 if call == LATE else 0.3) * whole


# ---- padding, empty items


def spoilt(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[..., None], x, torch.nan).detach().requires_grad_()


def test_padding_may_hold_anything():
    q_mask, d_mask, own_mask = some(N, T), some(M, U, seed=1), some(N, K, U, seed=2)
    q, d, own = tokens(N, T), tokens(M, U, seed=1), tokens(N, K, U, seed=2)
    options = {"query_mask": q_mask, "document_mask": d_mask, "hard_negative_mask": own_mask, "direction": "mean"}
    expected = late_interaction_info_nce(q, d, hard_negatives=own, **options)
    bad = [spoilt(x, mask) for x, mask in ((q, q_mask), (d, d_mask), (own, own_mask))]
    found = late_interaction_info_nce(bad[0], bad[1], hard_negatives=bad[2], **options)
    torch.testing.assert_close(found, expected)
    found.backward()
    for x, mask in zip(bad, (q_mask, d_mask, own_mask), strict=True):
        assert x.grad.isfinite().all() and not x.grad[~mask].any()
    for loss, names in ((word_region_loss, ("region_mask", "word_mask")), (fdt_loss, ("image_mask", "text_mask"))):
        more = () if loss is word_region_loss else (tokens(9, seed=3), 5.0)
        masks = dict(zip(names, (some(M, U, seed=1), some(M, U, seed=2)), strict=True))
        x, y = tokens(M, U), tokens(M, U, seed=4)
        bad = [spoilt(z, mask) for z, mask in zip((x, y), masks.values(), strict=True)]
        value = loss(*bad, *more, **masks)
        torch.testing.assert_close(value, loss(x, y, *more, **masks))
        value.backward()
        assert all(z.grad.isfinite().all() for z in bad)


def test_nothing_to_score():
    """Items without tokens take no part; a batch of them is 0, with zero gradients."""
    for shape in ((N, 0), (N, T)):
        q, d = tokens(*shape), tokens(N, U, seed=1)
        mask = torch.zeros(shape, dtype=torch.bool)
        for options in ({}, {"direction": "mean", "memory_budget": 0}, {"top_k": 2}):
            assert late_interaction_info_nce(q, d, query_mask=mask, **options) == 0
            if shape[1] == 0:
                loss = late_interaction_info_nce(d, q, temperature=0.1, **options)
                loss.backward()
                assert loss == 0 and not d.grad.any()
        for loss in (word_region_loss, lambda x, y: fdt_loss(x, y, tokens(9), 5.0)):
            if shape[1] == 0:
                assert loss(q, d) == 0
    assert late_interaction_info_nce(tokens(0, T), tokens(0, U)) == 0


def test_a_query_alone():
    """N = 1 has no negatives."""
    for options in ({}, {"direction": "mean"}, {"top_k": 1}, {"document_reduce": "softmax_mean"}):
        assert late_interaction_info_nce(tokens(1, T), tokens(1, U), **options) == 0
    assert word_region_loss(tokens(1, U), tokens(1, T)) == 0


def test_ties_of_duplicated_documents():
    """All that equal the last one retrieved are retrieved."""
    q, d = tokens(2, T), tokens(1, U, seed=1).repeat(3, 1, 1)
    torch.testing.assert_close(xtr_scores(q, d, 1), reference.xtr_scores(q, d, 3))


# ---- refusals

Q, DOCS, OWN = tokens(N, T), tokens(M, U), tokens(N, K, U)
REFUSED = {
    "queries of two dimensions": ((Q[:, 0], DOCS), {}, "^queries must have shape"),
    "documents of two dimensions": ((Q, DOCS[:, 0]), {}, "^documents must have shape"),
    "widths": ((Q, DOCS[..., :3]), {}, "^documents must have the width of queries"),
    "few documents": ((Q, DOCS[:3]), {}, "^documents must be those of 5 queries, or more, got 3"),
    "query mask": ((Q, DOCS), {"query_mask": some(N, U)}, "^query_mask must have shape"),
    "document mask": ((Q, DOCS), {"document_mask": some(N, U)}, "^document_mask must have shape"),
    "offsets": ((Q, DOCS[0]), {"document_offsets": torch.tensor([0, 9, 3])}, "^document_offsets"),
    "a mask alone": ((Q, DOCS), {"hard_negative_mask": some(N, K, U)}, "^hard_negative_mask needs hard_negatives"),
    "ids alone": ((Q, DOCS), {"document_ids": DOCUMENT_IDS}, "^document_ids needs query_ids"),
    "ids of queries alone": ((Q, DOCS), {"query_ids": IDS}, "^document_ids must be given for 7 documents"),
    "hard negatives": ((Q, DOCS), {"hard_negatives": OWN[:2]}, "^hard_negatives must have shape"),
    "their direction": ((Q, DOCS), {"hard_negatives": OWN, "direction": "cols"}, "^hard_negatives must be None"),
    "own documents": ((Q, OWN), {"top_k": 2}, "^documents of each query alone.* cannot be combined with top_k"),
    "their direction, too": ((Q, OWN), {"direction": "mean"}, "^documents of each query alone.* direction='mean'"),
    "a teacher": ((Q, DOCS), {"teacher_scores": Q[:, :, 0]}, "^teacher_scores must have a column for each of 7"),
    "a teacher's direction": (
        (Q, DOCS), {"teacher_scores": Q[:, :, 0], "direction": "mean"}, "^teacher_scores and hard_positives need"
    ),
    "no teacher": ((Q, DOCS), {"teacher_loss": "ce"}, "^teacher_loss needs teacher_scores"),
    "a weight alone": ((Q, DOCS), {"teacher_weight": 0.5}, "^teacher_weight needs teacher_scores"),
    "one modality": ((Q, DOCS), {"num_modalities": 2}, "^modalities and num_modalities must be given together"),
    "modalities with a mask": (
        (Q, DOCS), {"modalities": torch.zeros(M, U).long(), "num_modalities": 1, "document_mask": some(M, U)},
        "^modalities cannot be combined with document_mask",
    ),
    "positives and smoothing": (
        (Q, DOCS), {"hard_positives": OWN, "label_smoothing": 0.1}, "^hard_positives cannot be combined"
    ),
    "top_k and a mean": ((Q, DOCS), {"top_k": 2, "reduce": "mean"}, "^top_k needs reduce='sum'"),
    "top_k of 0": ((Q, DOCS), {"top_k": 0}, "^top_k must be >= 1, got 0"),
    "top_k and hard negatives": ((Q, DOCS), {"top_k": 2, "hard_negatives": OWN}, "^top_k cannot be combined"),
    "a sharpness of maxima": ((Q, DOCS), {"sharpness": 2.0}, "^sharpness needs"),
}  # fmt: skip


@pytest.mark.parametrize("args, options, words", REFUSED.values(), ids=REFUSED)
def test_refusals(args, options, words):
    with refuses(ValueError, words):
        late_interaction_info_nce(*args, **options)


def test_refusals_of_words_and_codes():
    v, w = tokens(N, U), tokens(N, T)
    for args, options, words in (
        ((v, w[:3]), {}, r"^words must have shape \(5, T, D\)"),
        ((v, w[..., :2]), {}, "^words must have the width of regions"),
        ((v, w), {"word_mask": some(N, U)}, "^word_mask must have shape"),
        ((v, w), {"class_ids": IDS[:2]}, "^class_ids must have shape"),
        ((v, w), {"reduce": "max"}, "^reduce must be one of"),
    ):
        with refuses(ValueError, words):
            word_region_loss(*args, **options)
    for args, options, words in (
        ((v, w, tokens(9)[:, :3]), {}, "^codebook must have the width"),
        ((v, w, tokens(9)), {"text_mask": some(N, U)}, "^mask must have shape"),
        ((v, w, tokens(9)), {"pool": "lse"}, "^pool must be one of"),
        ((v, w, tokens(9)), {"temperature": 0.0}, "^temperature must be"),
    ):
        with refuses(ValueError, words):
            contrastile.fdt_loss(*args, 5.0, **options)
    with refuses(TypeError, "^top_k must be an int"):
        xtr_scores(Q, DOCS, 2.0)


# ---- what no item has


def small_norms(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.mark.parametrize("value", [torch.nan, 1e5])
def test_a_token_of_no_document_decides_nothing_of_what_is_retrieved(value):
    q, d, offsets = small_norms(2, 3, 64), small_norms(41, 64), torch.arange(41)
    plain = xtr_scores(q, d, 1, document_offsets=offsets)
    d[40] = value
    assert torch.equal(xtr_scores(q, d, 1, document_offsets=offsets), plain)


def test_a_long_document_token_takes_no_others_along():
    q, d = small_norms(2, 3, 64), small_norms(40, 1, 64)
    d[7] *= 1e5
    found = (xtr_scores(q, d, 5) != 0).sum(1)
    assert torch.equal(found, (xtr_scores(q.double(), d.double(), 5) != 0).sum(1)) and found.max() <= 15


def test_top_k_beyond_all_tokens_retrieves_all():
    q, d = small_norms(2, 3, 8), small_norms(5, 2, 8)
    assert torch.equal(xtr_scores(q, d, 10**9), xtr_scores(q, d, 10))


@pytest.mark.parametrize("memory_budget", [None, 0])
def test_tokens_outside_of_offsets_may_hold_anything(memory_budget):
    q, d = small_norms(2, 3, 8).requires_grad_(), small_norms(9, 8)
    d[8] = torch.nan
    options = dict(document_offsets=torch.tensor([0, 4, 8]), memory_budget=memory_budget)
    for backend in ("torch", "auto"):
        loss = late_interaction_info_nce(q, d, backend=backend, **options)
        assert torch.autograd.grad(loss, q)[0].isfinite().all()


@pytest.mark.parametrize("lost", ["query", "document", "all documents"])
@pytest.mark.parametrize("teacher_loss", ["kl", "ce", "mse"])
def test_a_teacher_s_scores_of_queries_that_are_not_counted(lost, teacher_loss):
    q, d = small_norms(3, 4, 8).requires_grad_(), small_norms(3, 5, 8)
    teacher = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    queries, documents = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool)
    if lost == "query":
        queries[2], teacher[2] = False, torch.nan
    elif lost == "document":
        documents[2], teacher[2] = False, -torch.inf
    else:
        documents[:] = False
    t = torch.tensor(0.1, requires_grad=True)
    loss = late_interaction_info_nce(
        q, d, temperature=t, query_mask=queries, document_mask=documents, teacher_scores=teacher,
        teacher_loss=teacher_loss,
    )  # fmt: skip
    assert loss.isfinite() and all(x.isfinite().all() for x in torch.autograd.grad(loss, (q, t)))


def test_a_teacher_that_is_nan_gives_a_nan_loss():
    q, d = small_norms(3, 4, 8), small_norms(3, 5, 8)
    for teacher_loss in ("kl", "ce", "mse"):
        scores = torch.full((3, 3), torch.nan)
        assert late_interaction_info_nce(q, d, teacher_scores=scores, teacher_loss=teacher_loss).isnan()


def test_label_smoothing_beside_a_teacher_alone_is_refused():
    q, d, scores = small_norms(3, 4, 8), small_norms(3, 5, 8), torch.randn(3, 3)
    with pytest.raises(ValueError, match="label_smoothing needs teacher_weight"):
        late_interaction_info_nce(q, d, teacher_scores=scores, label_smoothing=0.1)
    found = [
        late_interaction_info_nce(q, d, teacher_scores=scores, teacher_weight=0.5, label_smoothing=x)
        for x in (0.0, 0.5)
    ]
    assert found[0] != found[1]
