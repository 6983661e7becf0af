"""Scores of multi-vector encoders: sentence-transformers' own, and its losses with ours as similarity_fct."""

from functools import partial

import pytest
import torch

from contrastile.testing import Case
from support.pairing import assert_agreement

from .dropins import assert_same_signature
from .token_models import TokenModel, columns, mask, tokens, trained

pytest.importorskip("sentence_transformers")

from sentence_transformers.multi_vector_encoder import losses  # isort: skip
from sentence_transformers.multi_vector_encoder import scoring as peer  # isort: skip
from sentence_transformers.util.misc import similarity_fct_name  # isort: skip
from contrastile.compat.sentence_transformers import multi_vector as ours  # isort: skip

ALL = ("colbert_scores", "mean_colbert_scores", "xtr_scores")
KD = ("colbert_kd_scores", "mean_colbert_kd_scores", "xtr_kd_scores")
PAIRS = ("colbert_scores_pairwise", "mean_colbert_scores_pairwise", "xtr_scores_pairwise")


def options_of(name, masks, shape):
    found = {"top_k": 7} if "xtr" in name else {}
    if masks is None:
        return found
    return found | {"queries_mask": mask(4, 3, seed=5).to(masks), "documents_mask": mask(*shape).to(masks)}


@pytest.mark.parametrize("masks", [None, torch.bool, torch.float32])
@pytest.mark.parametrize("name", ALL + KD + PAIRS)
def test_scores(name, masks):
    """The package's sums are float32: near them in value, and in the gradient of a sum."""
    shape = (4, 5) if name in PAIRS else (4, 2, 5)
    q, d = tokens(4, 3, 6, shift=-1.0).float(), tokens(*shape, 6, seed=1).float()
    if masks is None:  # then this is padding
        q[1, 2] = d.view(-1, 5, 6)[::2, -1] = 0.0
    function, other = (getattr(module, name) for module in (ours, peer))
    assert_same_signature(function, other)
    assert similarity_fct_name(function) == similarity_fct_name(other)
    options = options_of(name, masks, shape)
    weights, results = None, []
    for score in (function, other):
        leaves = [x.clone().requires_grad_() for x in (q, d)]
        value = score(*leaves, **options)
        weights = torch.linspace(-1.0, 2.0, value.numel()).view(value.shape) if weights is None else weights
        results.append((value.detach(), *torch.autograd.grad((value * weights).sum(), leaves)))
    for found, true in zip(*results, strict=True):
        torch.testing.assert_close(found, true, rtol=2e-5, atol=2e-6)


def test_a_document_without_tokens_scores_as_there():
    q, d = tokens(4, 3, 6).float(), tokens(4, 2, 5, 6, seed=1).float()
    there = mask(4, 2, 5)
    there[1, 1] = False
    for name in (*ALL, *KD):
        found, true = (getattr(module, name)(q, d, documents_mask=there) for module in (ours, peer))
        assert (found < -1e8).any()
        torch.testing.assert_close(found, true, msg=name)


def test_lists_of_items_of_different_lengths():
    q, d = tokens(4, 3, 6).float(), tokens(4, 5, 6, seed=1).float()
    ragged = [x[: 2 + i] for i, x in enumerate(d)]
    for name in PAIRS[:2]:
        found, true = (getattr(module, name)(list(q), ragged) for module in (ours, peer))
        torch.testing.assert_close(found, true)
    torch.testing.assert_close(ours.colbert_scores(q.numpy(), d.numpy()[:, None]), peer.colbert_scores(q, d[:, None]))
    assert ours.colbert_scores(q.double(), d.double()[:, None]).dtype == torch.float64


def test_classes_of_xtr():
    q, d = tokens(4, 3, 6).float(), tokens(4, 2, 5, 6, seed=1).float()
    for name in ("XTRScores", "XTRKDScores"):
        found, true = (getattr(module, name)(6) for module in (ours, peer))
        assert found.get_config_dict() == true.get_config_dict() and similarity_fct_name(found) == similarity_fct_name(
            true
        )
        torch.testing.assert_close(found(q, d), true(q, d))


def test_wrong_use_is_refused():
    q, d = tokens(4, 3, 6), tokens(4, 5, 6, seed=1)
    with pytest.raises(ValueError, match="documents_embeddings must have shape"):
        ours.colbert_scores(q, d)
    with pytest.raises(ValueError, match=r"documents_mask must have shape \(4, 1, 5\), got \(4, 5\)"):
        ours.colbert_scores(q, d[:, None], documents_mask=mask(4, 5))
    with pytest.raises(ValueError, match="chunk_elements must be > 0, got 0"):
        ours.colbert_scores(q, d[:, None], chunk_elements=0)
    with pytest.raises(ValueError, match="top_k must be >= 1"):
        ours.xtr_scores(q, d[:, None], top_k=0)
    with pytest.raises(ValueError, match="documents_embeddings must be those of 2 queries, got those of 4"):
        ours.xtr_kd_scores(q[:2], d[:, None])  # 4 columns, which two queries could share


LABELS = torch.tensor([[1.0, 0.2], [0.3, 2.0], [0.5, 0.4], [0.0, 1.0]])
LOSSES = [
    ("MultiVectorMultipleNegativesRankingLoss", "colbert_scores", {}),
    ("MultiVectorMultipleNegativesRankingLoss", "mean_colbert_scores", {"scale": 3.0, "score_mini_batch_size": 3}),
    ("MultiVectorMultipleNegativesRankingLoss", "xtr_scores", {"mini_batch_size": 3}),
    ("CachedMultiVectorMultipleNegativesRankingLoss", "colbert_scores", {"mini_batch_size": 2, "scale": 2.0}),
    ("MultiVectorDistillKLDivLoss", "colbert_kd_scores", {"temperature": 0.5}),
    ("MultiVectorMarginMSELoss", "colbert_scores_pairwise", {}),
]


@pytest.mark.parametrize("name, score, options", LOSSES, ids=str)
def test_losses_with_our_scores_train_alike(name, score, options):
    labels = (LABELS,) if "Negatives" not in name else ()

    def run(module):
        model = TokenModel(dtype=torch.float32)
        return trained(getattr(losses, name)(model, similarity_fct=getattr(module, score), **options), model, *labels)

    for found, true in zip(run(ours), run(peer), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-5)
    assert len(columns()) == 3


def test_scores_are_exact_in_float64():
    """The package rounds to float32; this is its formula."""

    def dense(q, d, there):
        z = torch.einsum("qtd,mnud->qmntu", q, d).masked_fill(~there[None, :, :, None], -torch.inf)
        return (z.amax(-1).sum(-1).flatten(1) * torch.arange(8.0)).sum()

    q, d, there = tokens(4, 3, 6), tokens(4, 2, 5, 6, seed=1), mask(4, 2, 5)
    loss = partial(ours.colbert_scores, documents_mask=there)
    assert_agreement(
        lambda q, d: (loss(q, d) * torch.arange(8.0)).sum(), partial(dense, there=there), Case((q, d), {}, 50.0)
    )
