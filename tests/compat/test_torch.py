"""The drop-in for torch's coming InfoNCELoss against torch, where it has one already, or else against its formula."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F

from contrastile.compat import torch as ours
from contrastile.testing import compare
from support.pairing import Pairing, assert_agreement
from support.views import BACKENDS_AND_DTYPES, free_rows, two_view_case


def formula(query, positive_key, negative_keys=None, temperature=0.07, reduction="mean"):
    """As the pull request has it: logits, and their cross entropy."""
    query, positive_key = F.normalize(query, dim=1), F.normalize(positive_key, dim=1)
    if negative_keys is None:
        logits, target = query @ positive_key.T, torch.arange(len(query))
    else:
        own = (query * positive_key).sum(1, keepdim=True)
        logits, target = (
            torch.cat([own, query @ F.normalize(negative_keys, dim=1).T], 1),
            torch.zeros(len(query)).long(),
        )
    return F.cross_entropy(logits / temperature, target, reduction=reduction)


TRUTH = getattr(F, "info_nce_loss", formula)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize(("n", "m", "d"), [(17, None, 5), (33, 20, 16), (2, 1, 1)])
def test_values_and_all_gradients_equal_the_formula(n, m, d, dtype, backend):
    negatives = {} if m is None else {"negative_keys": free_rows(m, d, seed=5)}
    case = two_view_case(n, d, dtype, 0.07, **negatives)
    if d == 1:  # losses of 0
        found = compare(Pairing(ours.info_nce_loss, TRUTH), case, backend=backend)
        assert found.ok, found.detail
    else:
        assert_agreement(ours.info_nce_loss, TRUTH, case, backend=backend)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_function_and_module_take_the_proposals_positions(reduction):
    query, key, negatives = free_rows(8, 5, seed=1), free_rows(8, 5, seed=2), free_rows(4, 5, seed=3)
    for rest in ((), (negatives,)):
        true = formula(query, key, *(rest or (None,)), 0.2, reduction)
        found = ours.info_nce_loss(query, key, *(rest or (None,)), 0.2, reduction)
        module = ours.InfoNCELoss(0.2, reduction)
        for other in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            torch.testing.assert_close(other(query, key, *rest), true)
        torch.testing.assert_close(found, true)
    torch.testing.assert_close(ours.InfoNCELoss()(query, key), formula(query, key))
    assert module.state_dict() == {} and repr(module) == "InfoNCELoss()"
    for name, taken in (("info_nce_loss", ours.info_nce_loss), ("InfoNCELoss", ours.InfoNCELoss.__init__)):
        shared = [p.name for p in inspect.signature(taken).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        assert shared[-2:] == ["temperature", "reduction"], name


def test_wrong_arguments_are_named():
    x = torch.randn(4, 3)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature must be finite and > 0"):
            ours.InfoNCELoss(temperature)(x, x)
    for arguments, name in (((x[0], x), "query"), ((x, x[:2]), "positive_key"), ((x, x, x[:, :2]), "negative_keys")):
        with pytest.raises(ValueError, match=name):
            ours.info_nce_loss(*arguments)
    with pytest.raises(ValueError, match="reduction"):
        ours.info_nce_loss(x, x, reduction="bogus")
    assert ours.info_nce_loss(x[:0], x[:0]) == 0 and ours.info_nce_loss(x[:1], x[:1]) == 0


@pytest.mark.slow
def test_compiled_without_a_graph_break():
    query, key = (free_rows(6, 4, seed=s).float().requires_grad_() for s in (1, 2))
    results = []
    for function in (ours.InfoNCELoss(), torch.compile(ours.InfoNCELoss(), backend="aot_eager", fullgraph=True)):
        value = function(query, key)
        results.append((value, *torch.autograd.grad(value, (query, key))))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y)
