"""clip_loss and siglip_loss against open_clip.

Both take features that are normalised already, and the exponentiated scale.
"""

from functools import partial

import pytest
import torch

from contrastile import clip_loss, siglip_loss
from contrastile.testing import Case
from support.pairing import assert_agreement
from support.standins import load
from support.views import BACKENDS, BACKENDS_AND_DTYPES, LONG, SHAPES, two_views

pytestmark = pytest.mark.peers


def open_clip_loss():
    return load("open_clip.loss", shells=("open_clip",))


def peer_clip_loss(image, text, logit_scale, **options):
    return open_clip_loss().ClipLoss()(image, text, logit_scale, **options)


def peer_siglip_loss(image, text, logit_scale, logit_bias=None):
    return open_clip_loss().SigLipLoss()(image, text, logit_scale, logit_bias)


PAIRINGS = pytest.mark.parametrize(
    ("ours", "peer"),
    [
        pytest.param(clip_loss, peer_clip_loss, id="clip_loss"),
        pytest.param(siglip_loss, peer_siglip_loss, id="siglip_loss"),
    ],
)


def case(n, d, dtype, *scalars):
    features = (x.to(dtype) for x in two_views(n, d))
    return Case((*features, *map(torch.tensor, scalars)), {}, sum(map(abs, scalars)))


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_clip_loss_equals_open_clip(n, d, scale, dtype, backend):
    assert_agreement(clip_loss, peer_clip_loss, case(n, d, dtype, scale), backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, -10.0), (1.0, 0.5)])
@pytest.mark.parametrize(("n", "d"), [(1, 4), *SHAPES])
def test_siglip_loss_equals_open_clip(n, d, scale, bias, dtype, backend):
    assert_agreement(siglip_loss, peer_siglip_loss, case(n, d, dtype, scale, bias), backend=backend)


@BACKENDS_AND_DTYPES
def test_siglip_loss_without_bias_equals_open_clip(dtype, backend):
    assert_agreement(siglip_loss, peer_siglip_loss, case(33, 16, dtype, 10.0), backend=backend)


@BACKENDS
def test_a_bias_in_open_clips_clip_loss_changes_nothing(backend):
    """ClipLoss adds logit_bias to every logit of its softmaxes; clip_loss has no such argument."""
    peer = partial(peer_clip_loss, logit_bias=-10.0)
    assert_agreement(clip_loss, peer, case(33, 16, torch.float32, 10.0), backend=backend)


@BACKENDS
@PAIRINGS
def test_batches_of_several_chunks_equal_open_clip(ours, peer, backend):
    assert_agreement(ours, peer, case(*LONG, torch.float32, 20.0), backend=backend)


@BACKENDS
@PAIRINGS
def test_sums_are_n_times_open_clips_losses(ours, peer, backend):
    """open_clip has the mean over rows only; SigLIP's is the sum over all pairs divided by N."""

    def times_n(image, *others):
        return len(image) * peer(image, *others)

    summed = partial(ours, reduction="sum")
    assert_agreement(summed, times_n, case(33, 16, torch.float32, 10.0), backend=backend)
