"""GradCache, tevatron and FlagEmbedding, whose passages come in groups, and what holds for all such losses."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from contrastile.compat import flag_embedding, grad_cache, nemo_automodel, tevatron
from support.pairing import assert_agreement

from .dropins import assert_saves_rows
from .group_formulas import contrast, groups
from .group_models import TEMPERATURE as T
from .group_models import case, embedder, encoder_model, steps, swift

# ---- GradCache and tevatron


@pytest.mark.parametrize("size", [1, 3])
def test_grad_cache(size):
    q, p = (4.0 * x for x in groups(size=size))
    for reduction in ("mean", "sum", "none"):
        loss = partial(grad_cache.SimpleContrastiveLoss(size - 1), reduction=reduction)
        weights = torch.arange(1.0, 8.0)

        def weighed(f, *x, weights=weights):
            return (f(*x) * weights).sum()

        assert_agreement(partial(weighed, loss), partial(weighed, partial(contrast, reduction=reduction)), case(q, p))
    closure = grad_cache.ContrastiveLossWithQueryClosure(size - 1)
    assert_agreement(lambda q, p: closure(p, query_closure=lambda: q), contrast, case(q, p))


def test_targets_of_grad_cache():
    q, p = (4.0 * x for x in groups())
    target = torch.tensor([2, 2, 0, 20, 7, 8, 1])
    loss = grad_cache.SimpleContrastiveLoss()
    assert_agreement(partial(loss, target=target), partial(contrast, target=target), case(q, p))
    with pytest.raises(ValueError, match=r"target must lie in \[0, 21\)"):
        loss(q, p, target + 10)


def test_grad_cache_refuses_what_it_cannot_take():
    q, p = groups()
    with pytest.raises(ValueError, match="y must have 2 rows for each of x, got 3"):
        grad_cache.SimpleContrastiveLoss(1)(q, p)
    with pytest.raises(ValueError, match="y must have as many rows, one or more, for each of 7 x, got 20"):
        grad_cache.SimpleContrastiveLoss(2)(q, p[:-1])
    with pytest.raises(ValueError, match="reduction"):
        grad_cache.SimpleContrastiveLoss(2)(q, p, reduction="median")
    with pytest.raises(RuntimeError, match="init_process_group"):
        grad_cache.DistributedContrastiveLoss()
    closure = grad_cache.ContrastiveLossWithQueryClosure(2)
    for given in ((p,), (q, p, p)):
        with pytest.raises(ValueError, match=r"query_closure|one or two"):
            closure(*given)


def test_a_patched_tevatron_model_trains_alike():
    model = encoder_model()
    twin = copy.deepcopy(model)

    def loss(model, q, p):
        return model(query={"x": q}, passage={"x": p}).loss

    patch = tevatron.patch(model)
    torch.testing.assert_close(steps(model, loss), steps(twin, loss), rtol=1e-10, atol=0.0)
    assert model(query={"x": groups()[0]}, passage={"x": groups()[1]}).scores is None
    assert model(query={"x": groups()[0]}).q_reps.shape == (7, 6)  # to encode
    assert model.eval()(query={"x": groups()[0]}, passage={"x": groups()[1]}).scores.shape == (7, 21)
    with pytest.raises(ValueError, match="forward of this EncoderModel is wrapped or patched already"):
        tevatron.patch(model)
    copied = copy.deepcopy(model)
    assert copied.forward.args[0] is copied
    patch.undo()
    assert "forward" not in vars(model)
    assert "forward" in vars(copied)


def test_tevatron_models_with_a_loss_of_their_own_are_refused():
    model = encoder_model()

    class Other(type(model)):
        def compute_similarity(self, q, p):
            return -torch.cdist(q, p)

    model.__class__ = Other
    with pytest.raises(ValueError, match=r"Other.compute_similarity is not tevatron's own"):
        tevatron.patch(model)


def test_tevatron_classes():
    q, p = (4.0 * x for x in groups())
    assert_agreement(tevatron.SimpleContrastiveLoss(), contrast, case(q, p))
    assert_agreement(
        partial(tevatron.contrastive_loss, temperature=T), partial(contrast, temperature=T), case(q, p, size=40.0)
    )
    with pytest.raises(TypeError, match="temperature must be a number"):
        tevatron.contrastive_loss(q, p, torch.tensor(T))


# ---- FlagEmbedding


TEACHER = torch.linspace(-2.0, 3.0, 21, dtype=torch.float64).view(7, 3)[:, [1, 0, 2]].softmax(1)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("kind", [None, "kl_div", "m3_kd_loss"])
def test_flag_embedding(alone, kind):
    q, p = groups()
    targets, own = None if kind is None else TEACHER, {"kd_loss_type": kind or "kl_div"}
    loss = partial(flag_embedding.group_loss, teacher_targets=targets, temperature=T, no_in_batch_neg_flag=alone, **own)
    if alone and kind == "m3_kd_loss":
        with pytest.raises(ValueError, match="kd_loss_type must be 'kl_div' with no_in_batch_neg_flag"):
            loss(q, p)
        return
    model = embedder(**own)
    theirs = model._compute_no_in_batch_neg_loss if alone else model._compute_in_batch_neg_loss
    assert_agreement(loss, lambda q, p: theirs(q, p, targets)[1], case(q, p))


@pytest.mark.parametrize("options", [{}, {"use_mrl": True, "mrl_dims": [4, 6]}, {"kd_loss_type": "m3_kd_loss"}])
def test_a_patched_embedder_trains_alike(options):
    model, twin = embedder(**options), embedder(**options)

    def loss(model, q, p):
        scores = TEACHER.flatten().tolist() if "kd_loss_type" in options else None
        return model(q, p, teacher_scores=scores).loss.double()

    with flag_embedding.patch(model) as patch:
        assert "_compute_in_batch_neg_loss" in repr(patch)
        torch.testing.assert_close(steps(model, loss), steps(twin, loss), rtol=1e-6, atol=0.0)
        assert len(pickle.dumps(patch.methods["_compute_in_batch_neg_loss"].func)) > 0
    assert not [name for name in vars(model) if name.startswith("_compute")]


def test_embedders_with_other_scores_are_refused():
    model = embedder()
    type(model).compute_score.__module__ = "somewhere"
    with pytest.raises(ValueError, match=r"Embedder.compute_score is not FlagEmbedding's own"):
        flag_embedding.patch(model)
    model = embedder()
    model.unified_finetuning = True
    with pytest.raises(ValueError, match="unified_finetuning must be False"):
        flag_embedding.patch(model)
    model.unified_finetuning = False
    flag_embedding.patch(model)
    with pytest.raises(ValueError, match="compute_score_func must be compute_dense_score"):
        model._compute_in_batch_neg_loss(*groups(), compute_score_func=model.compute_score)
    with pytest.raises(ValueError, match=r"teacher_targets must have shape \(7, 3\), got \(3, 7\)"):
        flag_embedding.group_loss(*groups(), TEACHER.T)


@pytest.mark.parametrize("name", ["GradCache", "ms-swift"])
def test_training(name, monkeypatch):
    ours = every_loss(monkeypatch, rows=7)[name]

    def theirs(q, p):
        return contrast(q, p, temperature=1.0 if name == "GradCache" else T)

    def values(loss):
        torch.manual_seed(2)
        return steps(nn.Linear(8, 6).double(), lambda model, q, p: loss(model(q), model(p)))

    torch.testing.assert_close(values(ours), values(theirs), rtol=1e-10, atol=0.0)


# ---- all of them


def every_loss(monkeypatch, rows=4):
    labels = torch.tensor([1, 0, 0] * rows)

    def with_queries(q, p):
        return torch.cat([q[:, None], p.view(len(q), 3, p.shape[1])], 1).flatten(0, 1)

    return {
        "GradCache": grad_cache.SimpleContrastiveLoss(2),
        "tevatron": tevatron.SimpleContrastiveLoss(),
        "FlagEmbedding": flag_embedding.group_loss,
        "FlagEmbedding m3": lambda q, p: flag_embedding.group_loss(
            q, p, torch.full((len(q), 3), 1 / 3), kd_loss_type="m3_kd_loss"
        ),
        "NeMo groups": lambda q, p: nemo_automodel.grouped_loss(q, p, 3),
        "NeMo": lambda q, p: nemo_automodel.infonce_loss(q, p[::3]),
        "NeMo distillation": lambda q, p: nemo_automodel.infonce_distill_loss(q, p[::3], p[::3], q),
        "ms-swift": lambda q, p: swift(monkeypatch)(with_queries(q, p), labels[: 3 * len(q)]),
    }


def test_edges_of_all(monkeypatch):
    q, p = (x.float() for x in groups(n=4))
    for name, loss in every_loss(monkeypatch).items():
        empty = [x[:0].clone().requires_grad_() for x in (q, p)]
        value = loss(*empty)
        value.backward()
        assert value == 0.0 and value.dtype == torch.float32, name
        one = loss(q[:1], p[:3])
        assert one.isfinite(), name
        half = [x.bfloat16().requires_grad_() for x in (q, p)]
        value = loss(*half)
        value.backward()
        assert value.dtype == torch.float32 and half[0].grad.dtype == torch.bfloat16, name
        torch.testing.assert_close(value, loss(*(x.detach().float() for x in half)), rtol=1e-2, atol=1e-3, msg=name)
        with torch.no_grad():
            torch.testing.assert_close(loss(q.T.contiguous().T, p), loss(q, p), msg=name)
        with pytest.raises((ValueError, TypeError)):
            loss(q.long(), p.long())


@pytest.mark.parametrize("name", ["GradCache", "FlagEmbedding m3", "NeMo groups", "ms-swift"])
def test_memory_grows_with_rows(name, monkeypatch):
    g = torch.Generator().manual_seed(0)

    def batch(n):
        return [torch.randn(rows, 8, generator=g) for rows in (n, 3 * n)]

    assert_saves_rows(every_loss(monkeypatch, rows=1024)[name], batch, monkeypatch)
