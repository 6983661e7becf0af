"""nt_xent, dcl, dclw and info_nce with a queue against lightly, which always normalises its rows.

lightly takes pairs that do not count out of its logits, and so does this package. The code that
lightly's DCL follows (raminnakhli/Decoupled-Contrastive-Learning) adds log(1e-45) = -103.6 to them,
which low temperatures let back into the sum: at those it is neither.
"""

import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from contrastile import dcl, dclw, nt_xent
from support.pairing import assert_agreement
from support.standins import load
from support.views import (
    BACKENDS,
    BACKENDS_AND_DTYPES,
    LONG_VIEWS,
    SHAPES,
    free_rows,
    two_view_case,
    without_in_batch_keys,
)

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),  # DCLWLoss' weights
]
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])
SHELLS = ("lightly.loss", "lightly.models", "lightly.models.modules")


def peer_nt_xent(z1, z2, *, temperature, **options):
    return load("lightly.loss.ntx_ent_loss", SHELLS).NTXentLoss(temperature, **options)(z1, z2)


def peer_dcl(z1, z2, *, temperature, **options):
    """Half of both directions' means over N rows together, which is the mean over the 2N rows."""
    return load("lightly.loss.dcl_loss", SHELLS).DCLLoss(temperature, **options)(z1, z2)


def peer_dclw(z1, z2, *, temperature, sigma):
    return load("lightly.loss.dcl_loss", SHELLS).DCLWLoss(temperature, sigma)(z1, z2)


def weights(x1, x2, sigma):
    """The weights of DCLW for unit rows, (N,), with their gradient."""
    return 2 - len(x1) * torch.softmax((x1 * x2).sum(dim=1) / sigma, dim=0)


PAIRINGS = pytest.mark.parametrize(
    ("ours", "peer"),
    [pytest.param(nt_xent, peer_nt_xent, id="nt_xent"), pytest.param(dcl, peer_dcl, id="dcl")],
)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@PAIRINGS
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_nt_xent_and_dcl_equal_lightly(n, d, ours, peer, temperature, dtype, backend):
    case = two_view_case(n, d, dtype, temperature)
    assert_agreement(partial(ours, normalize=True), peer, case, backend=backend)


@BACKENDS
@PAIRINGS
def test_batches_of_several_chunks_equal_lightly(ours, peer, backend):
    case = two_view_case(*LONG_VIEWS, torch.float32, 0.05)
    assert_agreement(partial(ours, normalize=True), peer, case, backend=backend)


@BACKENDS
@PAIRINGS
def test_sums_are_2n_times_lightlys_means(ours, peer, backend):
    def times_2n(z1, z2, **options):
        return 2 * len(z1) * peer(z1, z2, **options)

    summed = partial(ours, normalize=True, reduction="sum")
    assert_agreement(summed, times_2n, two_view_case(33, 16, torch.float32, 0.1), backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_dclw_equals_lightlys_dcl_with_weights_that_pass_gradient(n, d, sigma, dtype, backend):
    ours = partial(dclw, normalize=True, sigma=sigma)
    peer = partial(peer_dcl, weight_fn=partial(weights, sigma=sigma))
    assert_agreement(ours, peer, two_view_case(n, d, dtype, 0.1), backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_dclw_equals_lightlys_dclw_plus_the_gradient_of_its_weights(n, d, sigma, dtype, backend):
    """lightly detaches the weights; the code it follows, and dclw, pass gradient through them."""

    def peer(z1, z2, *, temperature):
        x1, x2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        weight, positive = weights(x1, x2, sigma), (x1 * x2).sum(dim=1) / temperature
        gradient_only = (weight - weight.detach()) * positive.detach()
        return peer_dclw(z1, z2, temperature=temperature, sigma=sigma) - gradient_only.mean()

    ours = partial(dclw, normalize=True, sigma=sigma)
    assert_agreement(ours, peer, two_view_case(n, d, dtype, 0.1), backend=backend)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize(("n", "m", "d"), [(2, 3, 3), (17, 40, 5), (131, 200, 40)])
def test_info_nce_with_a_queue_equals_lightlys_memory_bank(n, m, d, temperature, dtype, backend):
    """A bank turns NTXentLoss into MoCo's loss: one direction, against earlier keys alone."""

    def peer(query, key, *, temperature, queue):
        module = load("lightly.loss.ntx_ent_loss", SHELLS)
        loss = module.NTXentLoss(temperature, memory_bank_size=(m, d)).to(query.dtype)
        loss(queue, queue)  # fills the bank; a batch's own keys are queued after the bank is read
        return loss(query, key)

    def ours(query, key, *, queue, **options):
        negatives = queue.detach()  # no gradient reaches a queue
        return without_in_batch_keys(query, key, negatives=negatives, normalize=True, **options)

    case = two_view_case(n, d, dtype, temperature, queue=free_rows(m, d, seed=m))
    assert_agreement(ours, peer, case, backend=backend)


def test_shells_and_stand_ins_are_gone_after_an_import():
    load("lightly.loss.ntx_ent_loss", SHELLS)
    assert "lightly.loss" not in sys.modules or hasattr(sys.modules["lightly.loss"], "NTXentLoss")
    assert "torchvision" not in sys.modules or hasattr(sys.modules["torchvision"], "__version__")
