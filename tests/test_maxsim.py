"""maxsim and its kin against float64, value and gradients, with padding, without, and one after the other."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import maxsim, maxsim_candidates, modality_maxsim, reference
from contrastile.catalog import Case
from support.loss_cases import DTYPES, id_of
from support.memory import needs_linux, peak_bytes
from support.pairing import assert_agreement
from support.segments import token_mask, tokens

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
SOFT = {"lse": 3.0, "softmax_mean": 5.0}
by_reduce = pytest.mark.parametrize("document_reduce", ["max", *SOFT])


def soft(document_reduce: str) -> dict[str, object]:
    """Options; the sharpness is a tensor, which `assert_agreement` differentiates."""
    if document_reduce == "max":
        return {}
    return {"document_reduce": document_reduce, "sharpness": torch.tensor(SOFT[document_reduce])}


def scores_of(function, masked_documents: Tensor | None):
    """Scores with a number in place of -inf, whose weighted sum would be no number."""

    def scores(*args, **kwargs):
        found = function(*args, **kwargs)
        return found if masked_documents is None else found.masked_fill(~masked_documents.any(1), 3.0)

    return scores


@by_dtype
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("masks", ["none", "queries", "documents", "both"])
def test_maxsim_equals_its_reference(dtype, reduce, masks):
    for n, t, m, u, d in ((3, 5, 4, 7, 8), (1, 1, 1, 1, 1), (7, 32, 9, 40, 24)):
        kwargs = {"reduce": reduce, "normalize": dtype in (torch.float32, torch.float64)}
        if masks in ("queries", "both"):
            kwargs["query_mask"] = token_mask(n, t, 1)
        if masks in ("documents", "both"):
            kwargs["document_mask"] = token_mask(m, u, 2)
        pair = [scores_of(f, kwargs.get("document_mask")) for f in (maxsim, reference.maxsim)]
        case = Case((tokens(n, t, d, 3).to(dtype), tokens(m, u, d, 4).to(dtype)), kwargs, float(t))
        assert_agreement(*pair, case)


def test_documents_and_queries_without_tokens():
    q, d = tokens(3, 4, 5, 1), tokens(2, 6, 5, 2)
    query_mask, document_mask = torch.ones(3, 4).bool(), torch.ones(2, 6).bool()
    query_mask[1], document_mask[0] = False, False
    for reduce in ("sum", "mean"):
        masks = {"query_mask": query_mask, "document_mask": document_mask, "reduce": reduce}
        found = maxsim(q, d, **masks)
        torch.testing.assert_close(found, reference.maxsim(q, d, **masks))
        assert torch.equal(found[1], torch.zeros(2).double())
        assert (found[[0, 2], 0] == -torch.inf).all()
    for n, t, m, u in ((0, 4, 2, 6), (3, 0, 2, 6), (3, 4, 0, 6), (3, 4, 2, 0), (3, 0, 2, 0)):
        q, d = torch.randn(n, t, 5, requires_grad=True), torch.randn(m, u, 5, requires_grad=True)
        for reduce in ("sum", "mean"):
            found = maxsim(q, d, reduce=reduce)
            torch.testing.assert_close(found, reference.maxsim(q, d, reduce=reduce))
            found.sum().backward()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("normalize", [False, True])
@by_reduce
def test_padding_has_no_effect(document_reduce, value, normalize):
    """Its numbers reach neither scores nor gradients, and it gets none."""
    masks = {"query_mask": token_mask(5, 6, 1), "document_mask": token_mask(4, 9, 2)}
    clean = tokens(5, 6, 8, 3).float(), tokens(4, 9, 8, 4).float()
    dirty = [torch.where(m.unsqueeze(2), x, value) for x, m in zip(clean, masks.values(), strict=True)]
    grads = []
    for pair in (clean, dirty):
        leaves = [x.clone().requires_grad_() for x in pair]
        scores = maxsim(*leaves, **masks, normalize=normalize, document_reduce=document_reduce)
        loss = F.cross_entropy(scores[[0, 2, 3]], torch.tensor([0, 2, 3]))
        grads.append(torch.autograd.grad(loss, leaves))
    for x, y, mask in zip(*grads, masks.values(), strict=True):
        assert torch.equal(x, y) and x.isfinite().all() and (x[~mask] == 0).all() and (x[mask] != 0).any()


def test_maxsim_refuses_what_it_cannot_mean():
    q, d = torch.randn(3, 4, 5), torch.randn(2, 6, 5)
    for message, args, options in (
        (r"queries must have shape \(N, K, D\), got \(4, 5\)", (q[0], d), {}),
        ("documents must have the width of queries, 5, got 4", (q, d[:, :, :4]), {}),
        ("documents must be on cpu like the features, got meta", (q, d.to("meta")), {}),
        (r"query_mask must have shape \(3, 4\), got \(3, 5\)", (q, d), {"query_mask": torch.ones(3, 5).bool()}),
        (r"document_mask must be a bool tensor", (q, d), {"document_mask": torch.ones(2, 6)}),
        ("reduce must be one of 'sum', 'mean', got 'max'", (q, d), {"reduce": "max"}),
        ("reduce must be one of 'max', 'lse', 'softmax_mean', got 'sum'", (q, d), {"document_reduce": "sum"}),
        ("sharpness needs reduce='lse'", (q, d), {"sharpness": 2.0}),
        (
            r"query_offsets must be offsets from 0 to 12 that do not decrease, got \[0, 13\]",
            (q.flatten(0, 1), d),
            {"query_offsets": torch.tensor([0, 13])},
        ),
        (
            r"document_offsets must be offsets from 0 to 12 that do not decrease, got \[0, 5, 4\]",
            (q, d.flatten(0, 1)),
            {"document_offsets": torch.tensor([0, 5, 4])},
        ),
        (r"documents must have shape \(N, D\), got \(2, 6, 5\)", (q, d), {"document_offsets": torch.tensor([0, 12])}),
        (
            r"document_mask must have shape \(12,\), got \(2, 6\)",
            (q, d.flatten(0, 1)),
            {"document_offsets": torch.tensor([0, 12]), "document_mask": torch.ones(2, 6).bool()},
        ),
        (
            r"document_offsets must have shape \(S \+ 1,\), got \(0,\)",
            (q, d.flatten(0, 1)),
            {"document_offsets": torch.zeros(0, dtype=torch.int64)},
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            maxsim(*args, **options)
    with pytest.raises(ValueError, match="reduce must be 'sum' or 'mean'"):
        reference.maxsim(q, d, reduce="max")


@by_reduce
@by_dtype
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_soft_scores_equal_their_reference(document_reduce, reduce, dtype):
    """Also the gradient of the sharpness."""
    masks = {"query_mask": token_mask(6, 5, 1), "document_mask": token_mask(4, 9, 2)}
    pair = [scores_of(f, masks["document_mask"]) for f in (maxsim, reference.maxsim)]
    kwargs = {**masks, **soft(document_reduce), "reduce": reduce}
    case = Case((tokens(6, 5, 8, 3).to(dtype), tokens(4, 9, 8, 4).to(dtype)), kwargs, 25.0)
    assert_agreement(*pair, case)


def packed(x: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """The first tokens of each item, one item after the other, and where they begin."""
    rows = torch.cat([item[:k] for item, k in zip(x, lengths, strict=True)])
    return rows, F.pad(torch.tensor(lengths).cumsum(0), (1, 0))


@by_reduce
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_packed_items_score_as_padded_ones(document_reduce, reduce):
    q, d = tokens(4, 6, 8, 1), tokens(5, 9, 8, 2)
    of_queries, of_documents = [6, 0, 3, 1], [4, 9, 0, 1, 7]
    masks = [torch.arange(x.shape[1]) < torch.tensor(k)[:, None] for x, k in ((q, of_queries), (d, of_documents))]
    options = {**soft(document_reduce), "reduce": reduce}
    weights = torch.randn(4, 5, dtype=torch.float64)

    def outcome(scores: Tensor, *leaves: Tensor) -> list[Tensor]:
        kept = scores.masked_fill(scores == -torch.inf, 0.0)
        return [scores.detach(), *torch.autograd.grad((kept * weights).sum(), leaves)]

    q, d = q.requires_grad_(), d.requires_grad_()
    padded = outcome(maxsim(q, d, query_mask=masks[0], document_mask=masks[1], **options), q, d)
    rows, row_offsets = packed(q.detach(), of_queries)
    cols, col_offsets = packed(d.detach(), of_documents)
    rows, cols = rows.requires_grad_(), cols.requires_grad_()
    scores = maxsim(rows, cols, query_offsets=row_offsets, document_offsets=col_offsets, **options)
    found = outcome(scores, rows, cols)
    expected = [padded[0], packed(padded[1], of_queries)[0], packed(padded[2], of_documents)[0]]
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)
    dense = reference.maxsim(rows, cols, query_offsets=row_offsets, document_offsets=col_offsets, **options)
    torch.testing.assert_close(dense, scores)
    half = maxsim(q, cols, query_mask=masks[0], document_offsets=col_offsets, **options)
    torch.testing.assert_close(half, padded[0])
    # tokens that a mask drops, and those outside all items
    mask = torch.rand(len(cols)) < 0.5
    dropped = maxsim(q, cols, document_offsets=col_offsets, document_mask=mask, **options)
    kept = [int(part.sum()) for part in mask.split(of_documents)]
    fewer = maxsim(q, cols[mask], document_offsets=F.pad(torch.tensor(kept).cumsum(0), (1, 0)), **options)
    torch.testing.assert_close(dropped, fewer)
    outside = maxsim(rows, cols, query_offsets=row_offsets[1:], document_offsets=col_offsets[1:-1], **options)
    torch.testing.assert_close(outside, scores[1:, 1:-1])


@by_reduce
@by_dtype
def test_candidates_equal_their_reference(document_reduce, dtype):
    """A candidate that is all padding, a query that is, K = 1, which is pairs, and no candidate."""
    for n, t, k, u in ((3, 5, 4, 7), (4, 3, 1, 6), (1, 1, 1, 1)):
        query_mask, document_mask = token_mask(n, t, 1), token_mask(n * k, u, 2).view(n, k, u)
        kwargs = {**soft(document_reduce), "query_mask": query_mask, "document_mask": document_mask}
        documents = tokens(n * k, u, 8, 4).view(n, k, u, 8)
        none = ~document_mask.any(2)

        def scores(f, *args, none=none, **kwargs):
            return f(*args, **kwargs).masked_fill(none, 3.0)

        case = Case((tokens(n, t, 8, 3).to(dtype), documents.to(dtype)), kwargs, 5.0 * t)
        assert_agreement(partial(scores, maxsim_candidates), partial(scores, reference.maxsim_candidates), case)
    for n, t, k, u in ((0, 3, 2, 4), (3, 0, 2, 4), (3, 2, 0, 4), (3, 2, 2, 0)):
        q, d = torch.randn(n, t, 5, requires_grad=True), torch.randn(n, k, u, 5, requires_grad=True)
        found = maxsim_candidates(q, d, **soft(document_reduce))
        torch.testing.assert_close(found, reference.maxsim_candidates(q, d, **soft(document_reduce)))
        found.sum().backward()


@by_reduce
def test_candidates_are_the_diagonal_of_all(document_reduce):
    q, d = tokens(4, 5, 8, 1).float(), tokens(12, 7, 8, 2).float().view(4, 3, 7, 8)
    options = soft(document_reduce)
    every = maxsim(q, d.flatten(0, 1), **options).view(4, 4, 3)
    torch.testing.assert_close(maxsim_candidates(q, d, **options), every.diagonal().T)
    lengths = [3, 7, 0, 1, 5, 2, 7, 7, 4, 1, 6, 2]
    cols, offsets = packed(d.flatten(0, 1), lengths)
    mask = (torch.arange(7) < torch.tensor(lengths)[:, None]).view(4, 3, 7)
    cols.requires_grad_(), d.requires_grad_()
    found = maxsim_candidates(q, cols, document_offsets=offsets, **options)
    torch.testing.assert_close(reference.maxsim_candidates(q, cols, document_offsets=offsets, **options), found)
    expected = maxsim_candidates(q, d, document_mask=mask, **options)
    torch.testing.assert_close(found, expected)
    found, expected = (x.masked_fill(x == -torch.inf, 0.0).square().sum() for x in (found, expected))
    (left,), (right,) = torch.autograd.grad(found, cols), torch.autograd.grad(expected, d)
    torch.testing.assert_close(left, packed(right.flatten(0, 1), lengths)[0])


def test_candidates_refuse_what_they_cannot_mean():
    q, d = torch.randn(3, 4, 5), torch.randn(3, 2, 6, 5)
    for message, args, options in (
        (r"documents must have shape \(N, K, L, D\), got \(3, 6, 5\)", (q, d[:, 0]), {}),
        (r"documents must be those of 3 queries, got \(2, 2, 6, 5\)", (q, d[:2]), {}),
        (r"document_mask must have shape \(3, 2, 6\), got \(3, 2\)", (q, d), {"document_mask": d[..., 0, 0] > 0}),
        ("document_offsets must be of equally many documents for 3 queries, got 4", (q, d.flatten(0, 2)),
            {"document_offsets": torch.tensor([0, 1, 2, 3, 4])}),
        ("documents must have the width of queries, 5, got 4", (q, d[..., :4]), {}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            maxsim_candidates(*args, **options)


@by_reduce
@by_dtype
def test_modalities_equal_their_reference(document_reduce, dtype):
    """In any order, with padding of either sign and modalities that are missing."""
    g = torch.Generator().manual_seed(5)
    kinds = torch.randint(-1, 4, (5, 9), generator=g)
    kinds[0], kinds[1] = 1, -1
    present = torch.stack([(kinds == s).any(1) for s in range(3)], 1)

    def scores(f, q, d, **kwargs):
        return f(q, d, kinds, 3, **kwargs).masked_fill(~present, 3.0)

    kwargs = {**soft(document_reduce), "query_mask": token_mask(4, 5, 1)}
    case = Case((tokens(4, 5, 8, 3).to(dtype), tokens(5, 9, 8, 4).to(dtype)), kwargs, 25.0)
    assert_agreement(partial(scores, modality_maxsim), partial(scores, reference.modality_maxsim), case)
    q, d = tokens(4, 5, 8, 3), tokens(5, 9, 8, 4)
    found = modality_maxsim(q, d, kinds, 3, **soft(document_reduce))
    assert torch.equal(found == -torch.inf, ~present.expand(4, 5, 3))
    empty = modality_maxsim(q, d[:0], kinds[:0], 3)
    assert empty.shape == (4, 0, 3)


def test_modalities_refuse_what_they_cannot_mean():
    q, d, kinds = torch.randn(3, 4, 5), torch.randn(2, 6, 5), torch.zeros(2, 6, dtype=torch.int64)
    for message, modalities, count in (
        (r"modalities must have shape \(2, 6\), got \(2, 5\)", kinds[:, :5], 2),
        ("modalities must be int64, .* got torch.float32", kinds.float(), 2),
        ("num_modalities must be an int >= 1, got 0", kinds, 0),
        ("num_modalities must be an int >= 1, got True", kinds, True),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            modality_maxsim(q, d, modalities, count)


# ---- what others compute


def pylate_scores(queries: Tensor, documents: Tensor, documents_mask: Tensor | None = None) -> Tensor:
    """pylate's colbert_scores, restated: padding of documents multiplies scores by 0."""
    scores = torch.einsum("ash,bth->abst", queries, documents)
    if documents_mask is not None:
        scores = scores * documents_mask[None, :, None]
    return scores.max(axis=-1).values.sum(axis=-1)


def pylate_pairs(queries: Tensor, documents: Tensor) -> Tensor:
    """pylate's colbert_scores_pairwise, restated: of one query with one document."""
    return torch.stack([(q @ d.T).max(axis=-1).values.sum() for q, d in zip(queries, documents, strict=True)])


def pylate_kd_scores(queries: Tensor, documents: Tensor) -> Tensor:
    """pylate's colbert_kd_scores, restated: of a query with documents of its own."""
    return torch.einsum("ash,abth->abst", queries, documents).max(axis=-1).values.sum(axis=-1)


def test_scores_of_pylate():
    q, d = tokens(3, 5, 8, 1), tokens(12, 7, 8, 2)
    torch.testing.assert_close(maxsim(q, d), pylate_scores(q, d))
    own = d.view(3, 4, 7, 8)
    torch.testing.assert_close(maxsim_candidates(q, own), pylate_kd_scores(q, own))
    torch.testing.assert_close(maxsim_candidates(q, own[:, :1]).squeeze(1), pylate_pairs(q, own[:, 0]))
    # its padding raises maxima below 0 to 0: that is one more token, of zeros
    mask = token_mask(12, 7, 3)
    padded, theirs = torch.cat([d, torch.zeros(12, 1, 8)], 1), pylate_scores(q, d, mask.double())
    zeros = torch.cat([mask, ~mask.all(1, keepdim=True)], 1)
    torch.testing.assert_close(maxsim(q, padded, document_mask=zeros), theirs)


def test_scores_of_pylate_itself():
    scores = pytest.importorskip("pylate.scores")
    q, d = tokens(3, 5, 8, 1).float(), tokens(12, 7, 8, 2).float()
    torch.testing.assert_close(maxsim(q, d), scores.colbert_scores(q, d))
    own = d.view(3, 4, 7, 8)
    torch.testing.assert_close(maxsim_candidates(q, own), scores.colbert_kd_scores(q, own))


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_scores_of_sentence_transformers(reduce):
    util = pytest.importorskip("sentence_transformers.util", reason="sentence-transformers is not installed")
    if not hasattr(util, "maxsim"):
        pytest.skip("sentence-transformers before 6 has no scores of token sets")
    theirs = util.maxsim if reduce == "sum" else util.mean_maxsim
    q, d = (x.float().requires_grad_() for x in (tokens(3, 5, 8, 1), tokens(4, 7, 8, 2)))
    masks = [x | (torch.arange(x.shape[1]) == 0) for x in (token_mask(3, 5, 1), token_mask(4, 7, 2))]  # no empty one
    ours = maxsim(q, d, query_mask=masks[0], document_mask=masks[1], reduce=reduce)
    expected = theirs(q, d, a_mask=masks[0], b_mask=masks[1])
    torch.testing.assert_close(ours, expected)
    for x, y in zip(*(torch.autograd.grad(z.square().sum(), (q, d)) for z in (ours, expected)), strict=True):
        torch.testing.assert_close(x, y)


# ---- memory


OURS = "contrastile.maxsim(q, d, {})"
DENSE = {
    "max": "z.max(3).values", "lse": "(9.0 * z).logsumexp(3)", "softmax_mean": "((9.0 * z).softmax(3) * z).sum(3)",
}  # fmt: skip
# 64 queries of 32 tokens, 64 documents of 180
CALL = """(lambda q, d: {}.logsumexp(1).sum())(
    x[:2048].view(-1, min(32, n // 5), 64), y.view(-1, min(180, n), 64)
)"""


@needs_linux
@pytest.mark.parametrize(
    "document_reduce, keep_argmax",
    [("max", True), *(pytest.param(*x, marks=pytest.mark.slow) for x in (("max", False), ("lse", True)))],
)
def test_the_peak_is_a_tenth_of_the_dense_one(document_reduce, keep_argmax):
    options = f"document_reduce='{document_reduce}', keep_argmax={keep_argmax}"
    dense = f"(lambda z: {DENSE[document_reduce]})(torch.einsum('ntd,mud->nmtu', q, d)).sum(2)"
    ours, theirs = (peak_bytes(CALL.format(x), rows=11520) for x in (OURS.format(options), dense))
    assert ours < theirs / 10


# ---- padding of every kind


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("document_reduce", ["max", "lse", "softmax_mean"])
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_padding_among_modalities_and_outside_of_offsets_may_hold_anything(normalize, document_reduce, backend):
    q, d = tokens(2, 3, 8, 1), tokens(2, 3, 8, 2)
    kinds, options = torch.tensor([[0, 1, -1], [0, 1, 1]]), dict(document_reduce=document_reduce, backend=backend)
    found = []
    for value in (0.5, torch.nan):
        x, y = q.clone().requires_grad_(), d.clone()
        y[0, 2] = value
        y.requires_grad_()
        score = modality_maxsim(x, y, kinds, 2, normalize=normalize, **options)
        flat, offsets = torch.cat([y[0, 2:], y[1], y[0, 2:]]), torch.tensor([1, 2, 4])
        packed = maxsim(x, flat, document_offsets=offsets, normalize=normalize, **options)
        turned = maxsim(flat, x, query_offsets=offsets, normalize=normalize, **options)
        grads = torch.autograd.grad(score.sum() + packed.sin().sum() + turned.cos().sum(), (x, y))
        found.append([score, packed, turned, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not found[0][-1][0, 2].any()
