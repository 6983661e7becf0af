"""nt_xent, dcl, dclw and info_nce with a queue against lightly, which always normalises its rows.

lightly takes pairs that do not count out of its logits, as this package does. The code that its DCL follows
(raminnakhli/Decoupled-Contrastive-Learning) adds log(1e-45) = -103.6 to them instead, which a temperature below about
0.02 brings back into the sum; it is therefore no peer here.
"""

import sys
from functools import partial
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from contrastile import dcl, dclw, nt_xent

from .agreement import (
    BACKENDS,
    BACKENDS_AND_DTYPES,
    LONG,
    SHAPES,
    assert_agreement,
    rows,
    two_view_case,
    without_in_batch_keys,
)
from .standins import load

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),  # lightly's weights of DCLW
]
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])


def lightly_loss(name):
    return load(f"lightly.loss.{name}", shells=("lightly.loss", "lightly.models", "lightly.models.modules"))


def peer_nt_xent(z1, z2, *, temperature):
    return lightly_loss("ntx_ent_loss").NTXentLoss(temperature)(z1, z2)


def peer_dcl(z1, z2, *, temperature, weight_fn=None):
    """Half the sum of both directions' means over N rows: the mean over the 2N rows."""
    return lightly_loss("dcl_loss").DCLLoss(temperature, weight_fn)(z1, z2)


def peer_dclw(z1, z2, *, temperature, sigma=0.5):
    return lightly_loss("dcl_loss").DCLWLoss(temperature, sigma)(z1, z2)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize(("n", "d"), [*SHAPES, LONG])
def test_nt_xent_equals_lightly(n, d, temperature, dtype, backend):
    ours = partial(nt_xent, normalize=True)
    assert_agreement(ours, peer_nt_xent, two_view_case(n, d, dtype, temperature), backend=backend)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize(("n", "d"), [*SHAPES, LONG])
def test_dcl_equals_lightly(n, d, temperature, dtype, backend):
    ours = partial(dcl, normalize=True)
    assert_agreement(ours, peer_dcl, two_view_case(n, d, dtype, temperature), backend=backend)


@BACKENDS
@pytest.mark.parametrize(("ours", "peer"), [(nt_xent, peer_nt_xent), (dcl, peer_dcl)], ids=["nt_xent", "dcl"])
def test_sums_are_2n_times_lightlys_means(ours, peer, backend):
    def times_2n(z1, z2, **options):
        return 2 * len(z1) * peer(z1, z2, **options)

    case = two_view_case(33, 16, torch.float32, 0.1)
    assert_agreement(partial(ours, normalize=True, reduction="sum"), times_2n, case, backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_dclw_equals_lightlys_dcl_with_differentiable_weights(n, d, sigma, dtype, backend):
    def weight(z1, z2):
        return 2 - len(z1) * torch.softmax((z1 * z2).sum(dim=1) / sigma, dim=0)

    ours = partial(dclw, normalize=True, sigma=sigma)
    peer = partial(peer_dcl, weight_fn=weight)
    assert_agreement(ours, peer, two_view_case(n, d, dtype, 0.1), backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_dclw_equals_lightlys_dclw_plus_the_gradient_of_its_weights(n, d, sigma, dtype, backend):
    """lightly detaches the weights; the code it follows, and dclw, let the gradient through."""

    def peer(z1, z2, *, temperature):
        positive = (F.normalize(z1, dim=1) * F.normalize(z2, dim=1)).sum(dim=1)
        weight = 2 - len(z1) * torch.softmax(positive / sigma, dim=0)
        no_value = (weight - weight.detach()) * (positive / temperature).detach()
        return peer_dclw(z1, z2, temperature=temperature, sigma=sigma) - no_value.mean()

    ours = partial(dclw, normalize=True, sigma=sigma)
    assert_agreement(ours, peer, two_view_case(n, d, dtype, 0.1), backend=backend)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize(("n", "m", "d"), [(2, 3, 3), (17, 40, 5), (131, 200, 40)])
def test_info_nce_with_a_queue_equals_lightlys_memory_bank(n, m, d, temperature, dtype, backend):
    """With a bank, NTXentLoss is MoCo's loss: one direction, and earlier keys without gradient instead of the batch's."""

    def peer(query, key, *, temperature, queue):
        loss = lightly_loss("ntx_ent_loss").NTXentLoss(temperature, (m, d)).to(query.dtype)
        loss(queue, queue)  # a first batch that fills the bank; the next batch is queued after its negatives are read
        return loss(query, key)

    def ours(query, key, *, queue, **options):
        return without_in_batch_keys(query, key, negatives=queue.detach(), normalize=True, **options)

    case = two_view_case(n, d, dtype, temperature, queue=rows(m, d, seed=m, dtype=dtype, norms=True))
    assert_agreement(ours, peer, case, backend=backend)


def test_stand_ins_are_gone_after_the_import():
    lightly_loss("ntx_ent_loss")
    assert "lightly.loss" not in sys.modules
    assert "torchvision" not in sys.modules or find_spec("torchvision").origin
