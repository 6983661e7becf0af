"""NeMo Automodel's losses against its own file, and passages in groups as its recipe has them."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contrastile.compat import nemo_automodel
from support.pairing import assert_agreement

from .group_formulas import groups
from .group_models import TEMPERATURE as T
from .group_models import case, doubled, nemo, steps


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
    with pytest.raises(ValueError, match="student_queries must have shape"):
        nemo_automodel.infonce_distill_loss(q[0], d, q, d)
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
