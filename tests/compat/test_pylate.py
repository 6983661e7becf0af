"""pylate's scores: the package's own functions, and its losses with ours as score_metric."""

import warnings
from functools import partial

import pytest
import torch

from contrastile import maxsim
from contrastile.compat import pylate as ours
from contrastile.testing import Case
from support.pairing import assert_agreement
from support.standins import load

from .dropins import assert_same_signature
from .token_models import TokenModel, columns, mask, tokens, trained

pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def scores():
    return load("pylate.scores", ("pylate",))


@pytest.fixture(scope="module")
def losses():
    with warnings.catch_warnings():  # it imports sentence-transformers by older paths
        warnings.simplefilter("ignore", DeprecationWarning)
        return load("pylate.losses", ("pylate",))


def weighed(function, weights, *x, **options):
    return (function(*x, **options) * weights).sum()


def assert_same_scores(function, other, *x, **options):
    weights = torch.linspace(-1.0, 2.0, function(*x, **options).numel()).view(function(*x, **options).shape)
    assert_agreement(
        partial(weighed, function, weights, **options), partial(weighed, other, weights, **options), Case(x, {}, 10.0)
    )


@pytest.mark.parametrize("shift", [0.3, -3.0])  # also where all scores are negative, and padding wins the maximum
@pytest.mark.parametrize("masks", [None, torch.bool, torch.float64])
def test_scores(scores, shift, masks):
    q, d, own = tokens(3, 4, 6), tokens(5, 7, 6, seed=1, shift=shift), tokens(3, 2, 7, 6, seed=2, shift=shift)
    groups = tokens(5, 2, 7, 6, seed=3, shift=shift)
    for name, x in (("colbert_scores", d), ("colbert_kd_scores", own), ("ColBERTScores", groups)):
        options = {}
        if masks is not None:
            options = {"queries_mask": mask(3, 4).to(masks), "documents_mask": mask(*x.shape[:-1]).to(masks)}
        function, other = (getattr(m, name) for m in (ours, scores))
        if name == "ColBERTScores":
            function, other = function().__call__, other().__call__
        assert_same_signature(function, other)
        assert_same_scores(function, other, q, x, **options)
    assert_same_signature(ours.colbert_scores_pairwise, scores.colbert_scores_pairwise)
    assert_same_scores(ours.colbert_scores_pairwise, scores.colbert_scores_pairwise, q, d[:3])


def test_a_masked_token_counts_as_0_in_the_maximum():
    q, d = tokens(2, 3, 6, shift=3.0), tokens(2, 4, 6, seed=1, shift=-3.0)
    there = torch.tensor([[True, True, False, False], [True] * 4])
    found, left_out = ours.colbert_scores(q, d, documents_mask=there), maxsim(q, d, document_mask=there)
    assert (left_out < 0.0).all()
    assert (found[:, 0] == 0.0).all()
    torch.testing.assert_close(found[:, 1], left_out[:, 1])


def test_lists_and_arrays(scores):
    q, d = tokens(3, 4, 6), tokens(3, 5, 6, seed=1)
    ragged = [x[: 2 + i] for i, x in enumerate(d)]
    true = scores.colbert_scores_pairwise(q, ragged)
    torch.testing.assert_close(ours.colbert_scores_pairwise(list(q), ragged), true)
    torch.testing.assert_close(ours.colbert_scores(q.numpy(), list(d.numpy())), scores.colbert_scores(q, d))


def test_other_kernels_are_refused(monkeypatch):
    q, d = tokens(2, 3, 6), tokens(2, 4, 6, seed=1)
    for name in ("flash", "lik"):
        with pytest.raises(ValueError, match=f"backend '{name}' is another package's kernel"):
            ours.colbert_scores(q, d, backend=name)
    low = q.float(), d.float()
    torch.testing.assert_close(ours.colbert_scores(*low, backend="torch"), ours.colbert_scores(*low, backend="cpu"))
    monkeypatch.setenv("PYLATE_SCORES_BACKEND", "flash")
    with pytest.raises(ValueError, match="flash"):
        ours.ColBERTScores()(q, d[:, None])
    monkeypatch.setenv("PYLATE_SCORES_BACKEND", "fast")
    with pytest.raises(ValueError, match="backend must be"):
        ours.colbert_kd_scores(q, d[:, None])
    with pytest.raises(ValueError, match=r"masks must have the shape of tokens, \(2, 4\)"):
        ours.colbert_scores(q, d, documents_mask=mask(2, 3), backend="auto")
    with pytest.raises(ValueError, match="documents_embeddings"):
        ours.ColBERTScores()(q, d)


@pytest.mark.parametrize(
    "name, options",
    [
        ("Contrastive", {}),
        ("Contrastive", {"size_average": False, "temperature": 0.5, "score_mini_batch_size": 3}),
        ("CachedContrastive", {"mini_batch_size": 2, "score_mini_batch_size": 3, "temperature": 0.5}),
        ("Distillation", {}),
        ("Distillation", {"size_average": False, "normalize_scores": False}),
    ],
    ids=str,
)
def test_losses_with_our_scores_train_alike(losses, name, options):
    labels = ()
    if name == "Distillation":
        labels = (torch.tensor([[1.0, 0.2], [0.3, 2.0], [0.5, 0.4], [0.0, 1.0]], dtype=torch.float64),)

    def run(score):
        model = TokenModel()
        metric = {} if score is None else {"score_metric": score}
        loss = getattr(losses, name)(model, **metric, **options)

        def of(features, *labels):
            if labels:  # documents of all queries in one column
                first, *more = features
                joined = {k: torch.stack([x[k] for x in more], 1).flatten(0, 1) for k in first}
                features = [first, joined]
            return loss(features, *labels)

        return trained(of, model, *labels)

    score = ours.colbert_kd_scores if name == "Distillation" else ours.ColBERTScores()
    for found, true in zip(run(score), run(None), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-12)
    assert columns()[0]["input_ids"].shape == (4, 3)


def test_half_precision_scores_are_float32():
    q, d = tokens(3, 4, 6), tokens(5, 7, 6, seed=1)
    found = ours.colbert_scores(q.bfloat16(), d.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ours.colbert_scores(q.bfloat16().float(), d.bfloat16().float()))
    assert ours.colbert_scores(q[:0], d).shape == (0, 5)
    assert ours.ColBERTScores()(q, d[:0, None]).shape == (3, 0)
