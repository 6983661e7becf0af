"""Losses of trainers whose passages come in groups: GradCache, tevatron, FlagEmbedding, NeMo Automodel, ms-swift."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contrastile.compat import flag_embedding, grad_cache, ms_swift, nemo_automodel, tevatron
from contrastile.testing import Case
from support.pairing import assert_agreement

from .dropins import assert_saves_rows
from .group_formulas import contrast, grouped_rows, groups, infonce
from .group_models import TEMPERATURE as T
from .group_models import doubled, embedder, encoder_model, nemo


def case(*tensors, size=10.0, **named):
    return Case(tensors, named, size)


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


def steps(model, loss, count=4):
    """Losses of a few steps of training."""
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.02), []
    for _ in range(count):
        value = loss(model, *groups())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.detach())
    assert found[-1] < found[0]
    return torch.stack(found)


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


# ---- NeMo Automodel


def with_hard(d=8, k=3, seed=0):
    q, p = groups(size=k + 1, d=d, seed=seed)
    p = p.view(7, k + 1, d)
    return 3.0 * q, 2.0 * p[:, 0].contiguous(), p[:, 1:].contiguous()


MASK = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 1, 1]])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("direction", ["q2d", "d2q", "symmetric"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_nemo(direction, normalize, mask):
    options = {"direction": direction, "normalize": normalize, "hard_negatives_mask": mask}
    ours, theirs = (partial(module.infonce_loss, **options) for module in (nemo_automodel, nemo()))
    given = case(*with_hard(), temperature=torch.tensor(0.2 if normalize else 2.0))
    assert_agreement(ours, theirs, given)
    if direction == "q2d":
        alone = {"use_in_batch_negatives": False}
        assert_agreement(partial(ours, **alone), partial(theirs, **alone), given)


@pytest.mark.parametrize("divergence", ["kl", "ce", "mse"])
@pytest.mark.parametrize("direction", ["q2d", "symmetric"])
def test_distillation_of_nemo(divergence, direction, monkeypatch):
    monkeypatch.setattr("contrastile.compat.row_blocks.MIN_ROWS", 3)
    q, d, hard = with_hard()
    teacher = [x + 0.3 for x in with_hard(d=5, seed=4)]
    options = {"direction": direction, "divergence": divergence, "hard_negatives_mask": MASK}

    def loss(module, q, d, hard, temperature, **more):
        more |= {"memory_budget": 0} if module is nemo_automodel else {}
        return module.infonce_distill_loss(
            q, d, *teacher[:2], hard, teacher[2], temperature=temperature, **options, **more
        )

    found, true = partial(loss, nemo_automodel), partial(loss, doubled(nemo()))
    given = case(q, d, hard, torch.tensor(0.3))
    assert_agreement(found, true, given)
    if direction == "q2d":
        alone = {"use_in_batch_negatives": False}
        assert_agreement(partial(found, **alone), partial(true, **alone), given)


def test_modules_of_nemo():
    q, d, hard = with_hard()
    for options in ({}, {"learnable_temperature": True, "temperature": 0.2, "direction": "symmetric"}):
        ours, theirs = nemo_automodel.InfoNCELoss(**options), nemo().InfoNCELoss(**options)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        ours.load_state_dict(theirs.state_dict())
        found, true = (loss(q.float(), d.float(), hard.float(), MASK) for loss in (ours, theirs))
        torch.testing.assert_close(found, true)
        if ours.log_inv_tau is not None:
            found, true = (torch.autograd.grad(x, m.log_inv_tau)[0] for x, m in ((found, ours), (true, theirs)))
            torch.testing.assert_close(found, true)
    x = [*with_hard()[:2], *with_hard(5)[:2]]
    ours, theirs = (m.InfoNCEDistillLoss(0.3, divergence="mse") for m in (nemo_automodel, nemo()))
    torch.testing.assert_close(ours(*x).float(), theirs(*x))


def test_nemo_trains_alike():
    def losses(module):
        torch.manual_seed(1)
        loss, encoder = module.InfoNCELoss(learnable_temperature=True), nn.Linear(8, 6)
        model = nn.ModuleList([encoder, loss])
        return steps(model, lambda m, q, p: loss(*(encoder(x.float()) for x in (q, p[::3]))))

    torch.testing.assert_close(losses(nemo_automodel), losses(nemo()), rtol=1e-4, atol=1e-5)


def test_nemo_refuses_what_has_no_candidates():
    q, d, hard = with_hard()
    loss = nemo_automodel.infonce_loss
    for options in ({}, {"hard_negatives": hard, "direction": "d2q"}):
        with pytest.raises(ValueError, match="use_in_batch_negatives=False needs hard_negatives and direction='q2d'"):
            loss(q, d, use_in_batch_negatives=False, **options)
    with pytest.raises(ValueError, match="hard_negatives_mask must have shape"):
        loss(q, d, hard_negatives_mask=MASK)
    with pytest.raises(ValueError, match="direction must be"):
        loss(q, d, direction="both")
    with pytest.raises(ValueError, match="teacher_hard_negatives must be given with student_hard_negatives"):
        nemo_automodel.infonce_distill_loss(q, d, q, d, hard)
    with pytest.raises(ValueError, match="teacher_hard_negatives must be 3 for each query, got 2"):
        nemo_automodel.infonce_distill_loss(q, d, q, d, hard, hard[:, :2])


IDS = torch.tensor([0, 1, 2, 3, 0, 4, 5, 5, 6, 0, 7, 8, 9, 1, 2, 3, 3, 3, 10, 11, 0])


@pytest.mark.parametrize("ids", [None, IDS])
def test_passages_of_nemos_recipe(ids):
    def recipe(q, p):
        scores, own = q @ p.T / T, torch.arange(7) * 3
        if ids is not None:
            same = (ids == ids[own][:, None]) & (torch.arange(21) != own[:, None])
            scores = scores.masked_fill(same, torch.finfo(scores.dtype).min)
        return F.cross_entropy(scores, own)

    def alone(q, p):
        return F.cross_entropy((q[:, None] * p.view(7, 3, -1)).sum(2) / T, torch.zeros(7, dtype=torch.int64))

    loss = partial(nemo_automodel.grouped_loss, n_passages=3, temperature=T)
    assert_agreement(partial(loss, passage_doc_ids=ids), recipe, case(*groups()))
    assert_agreement(partial(loss, in_batch_negatives=False), alone, case(*groups()))
    with pytest.raises(ValueError, match="key must have 2 rows for each of query, got 3"):
        nemo_automodel.grouped_loss(*groups(), 2)
    with pytest.raises(ValueError, match="preserve_grad and passage_doc_ids need in_batch_negatives=True"):
        loss(*groups(), in_batch_negatives=False, passage_doc_ids=IDS)


# ---- ms-swift

EQUAL = torch.tensor([1, 0, 0] * 5)
RAGGED = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1])
SWIFT = [
    {}, {"batch": False}, {"margin": 0.05}, {"qq": True}, {"dd": True}, {"qq": True, "dd": True, "margin": 0.0},
]  # fmt: skip


def swift(monkeypatch, t=T, batch=True, margin=None, qq=False, dd=False, hard=None, **engine):
    values = {
        "TEMPERATURE": t, "USE_BATCH": batch, "MASK_FAKE_NEGATIVE": margin is not None, "FAKE_NEG_MARGIN": margin,
        "INCLUDE_QQ": qq, "INCLUDE_DD": dd, "HARD_NEGATIVES": hard,
    }  # fmt: skip
    for name, value in values.items():
        if value is not None:
            monkeypatch.setenv(f"INFONCE_{name}", str(value))
    loss = ms_swift.InfonceLoss(**engine)
    return lambda rows, labels: loss({"last_hidden_state": rows}, labels)


@pytest.mark.parametrize("options", SWIFT, ids=str)
@pytest.mark.parametrize("labels", [EQUAL, RAGGED], ids=["equal", "ragged"])
def test_ms_swift(options, labels, monkeypatch):
    loss = swift(monkeypatch, **options)
    assert_agreement(
        lambda x: loss(x, labels), lambda x: infonce(x, labels, **options), case(grouped_rows(labels, noise=0.7))
    )


def test_hard_negatives_of_ms_swift_are_cut_and_drawn_again(monkeypatch):
    labels = torch.tensor([1, 0, 0, 0, 1, 0, 1, 0, 0])
    rows, loss = grouped_rows(labels), swift(monkeypatch, hard=2)
    np.random.seed(3)
    again = 5 + 2 + int(np.random.choice([0], size=1)[0])  # the row that the second group has twice
    picked = rows[[0, 1, 2, 3, 5, 6, 7, again, 8, 9, 10, 11]]
    np.random.seed(3)
    true = infonce(picked, torch.tensor([1, 0, 0] * 3))
    torch.testing.assert_close(loss(rows, labels), true)
    with pytest.raises(ValueError, match="every query must have a hard negative"):
        loss(rows[:2], torch.tensor([1]))


def test_ms_swift_refuses_what_would_have_no_effect(monkeypatch):
    rows = grouped_rows(EQUAL)
    with pytest.raises(ValueError, match="INFONCE_INCLUDE_QQ must not be set with INFONCE_USE_BATCH=False"):
        swift(monkeypatch, batch=False, qq=True)(rows, EQUAL)
    monkeypatch.setenv("INFONCE_USE_BATCH", "True")
    for labels in (EQUAL[:-1], torch.cat([EQUAL[1:], EQUAL[:1]])):
        with pytest.raises(ValueError, match="labels must be 1 and then 0"):
            swift(monkeypatch)(rows, labels)
    with pytest.raises(ValueError, match="INFONCE_FAKE_NEG_MARGIN must be >= 0"):
        swift(monkeypatch, margin=-0.1)(rows, EQUAL)
    with pytest.raises(ValueError, match="INFONCE_USE_BATCH must be true or false"):
        swift(monkeypatch, batch="perhaps")(rows, EQUAL)
    trainer = type("Trainer", (type("BaseMegatronTrainer", (), {}),), {})()
    with pytest.raises(NotImplementedError, match="Megatron"):
        ms_swift.InfonceLoss(None, trainer)


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
