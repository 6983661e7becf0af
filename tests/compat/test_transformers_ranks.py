"""patch(model, group=..) across processes, and patch(model, report=..)."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist

from contrastile.compat.transformers import patch, undo
from contrastile.distributed import Ranks
from contrastile.metrics import InBatch
from support.launch import gather_from

from .tiny_models import batch, outcome, tiny

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
PARTS = {2: (4, 2), 3: (1, 3, 2)}  # items of each rank, of 6
NAMES = ("CLIPModel", "SiglipModel", "ClapModel")


def on_a_rank(rank, sizes, names):
    """Gradients of each model, meant over ranks as data parallelism does, and the recall it reported."""
    found = {}
    for name in names:
        model, start = tiny(name).double().eval(), sum(sizes[:rank])  # batch norms see one rank
        given = {
            n: (x.double() if x.is_floating_point() else x)[start : start + sizes[rank]] for n, x in batch(name).items()
        }
        report = None if name == "SiglipModel" else InBatch()
        ranks = dist.new_group() if name == "ClapModel" else "world"
        patch(model, group=Ranks(ranks, "ring") if name == "CLIPModel" else ranks, report=report)
        _, grads = outcome(copy.deepcopy(model), given)  # a copy has the group, and no report
        seen = report is not None and report.recall is not None
        output, _ = outcome(model, given)
        for grad in (*grads.values(), output.loss.detach_()):
            dist.all_reduce(grad)
            grad /= len(sizes)
        found[name] = output.loss, grads, seen, report
    return found


@pytest.mark.slow  # each process imports transformers
@pytest.mark.dist
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_learn_from_the_global_batch(world):
    """Uneven parts of a batch have, in the mean, the unpatched model's loss and gradients of the whole batch. A report
    is of all ranks."""
    names = NAMES if world == 2 else NAMES[:1]
    ranks = gather_from(world, on_a_rank, PARTS[world], names)
    for name in names:
        model = tiny(name).double().eval()
        given = {n: x.double() if x.is_floating_point() else x for n, x in batch(name).items()}
        true, grads = outcome(model, given)
        logits = true["logits_per_text" if name == "ClapModel" else "logits_per_image"].detach()
        for result in ranks:
            assert isinstance(result, dict), result
            loss, found, seen, report = result[name]
            torch.testing.assert_close(loss, true.loss.detach(), rtol=1e-11, atol=1e-12)
            assert found.keys() == grads.keys() and not seen
            for key, grad in grads.items():
                torch.testing.assert_close(found[key], grad, rtol=1e-8, atol=1e-11)
            if report is not None:
                assert report.recall == (logits.argmax(1) == torch.arange(len(logits))).double().mean()


def test_a_report_has_the_accuracy_that_the_logits_would_give():
    model, given, report = tiny("CLIPModel"), batch("CLIPModel"), InBatch()
    logits = model(**given).logits_per_image.detach()
    with patch(model, report=report):
        model(**given)
        assert report.recall is None  # no loss was asked for
        with torch.no_grad():
            model(**given, return_loss=True)
        for found, z in ((report.recall, logits), (report.key_recall, logits.T)):
            assert found == (z.argmax(1) == torch.arange(len(z))).float().mean()
        torch.testing.assert_close(report.probability, logits.softmax(1).diag().mean())
        found, text = report.recall, pickle.dumps(model)
        for other in (copy.deepcopy(model), pickle.loads(text)):
            other(**given, return_loss=True)
            undo(other)
        assert report.recall is found  # copies report to nobody
    report.clear()
    model(**given, return_loss=True)
    assert report.recall is None


def test_reports_that_nobody_could_read_are_refused():
    several = torch.nn.ModuleList([tiny("CLIPModel"), tiny("CLIPModel", seed=1)])
    with pytest.raises(ValueError, match="report must be None with several models, each would overwrite it: 0, 1"):
        patch(several, report=InBatch())
    with pytest.raises(ValueError, match="report must be None with SiglipModel: its loss has no softmax"):
        patch(tiny("SiglipModel"), report=InBatch())
    with pytest.raises(TypeError, match=r"report must be a contrastile\.metrics.InBatch, got bool"):
        patch(tiny("CLIPModel"), report=True)
    model = tiny("CLIPModel")
    with patch(model, group="world"), pytest.raises(ValueError, match=r"group needs .*init_process_group"):
        model(**batch("CLIPModel"), return_loss=True)
