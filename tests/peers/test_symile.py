"""symile_loss and mip_similarity against the authors' package symile.

It draws its permutations from torch's global generator, anchor by anchor, as symile_loss does without a generator:
equal seeds give equal permutations. Its `n_squared` holds N^(k-1) products of width D, so sizes are small.
"""

from functools import partial

import pytest
import torch

from contrastile import mip_similarity, symile_loss
from support.pairing import assert_agreement
from support.standins import load
from support.symile_cases import case, seeded
from support.views import BACKENDS_AND_DTYPES, free_rows

pytestmark = pytest.mark.peers

SCALES = pytest.mark.parametrize("scale", [14.3, 100.0])


def peer(*modalities, negatives, logit_scale):
    return load("symile").Symile(negatives)(list(modalities), logit_scale)


@BACKENDS_AND_DTYPES
@SCALES
@pytest.mark.parametrize(("k", "n", "d"), [(3, 2, 3), (3, 24, 16), (4, 9, 5), (5, 5, 8)])
def test_all_tuples_equal_the_peers(k, n, d, scale, dtype, backend):
    ours, theirs = (partial(function, negatives="n_squared") for function in (symile_loss, peer))
    assert_agreement(ours, theirs, case(k, n, d, dtype, scale), backend=backend)


@BACKENDS_AND_DTYPES
@SCALES
@pytest.mark.parametrize(("k", "n", "d"), [(2, 17, 5), (3, 2, 3), (3, 64, 16), (3, 300, 40), (4, 33, 8)])
def test_shuffled_tuples_equal_the_peers_for_equal_seeds(k, n, d, scale, dtype, backend):
    ours, theirs = (seeded(partial(function, negatives="n")) for function in (symile_loss, peer))
    assert_agreement(ours, theirs, case(k, n, d, dtype, scale), backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("negatives", ["n", "n_squared"])
def test_features_that_are_not_unit_equal_the_peers(negatives, dtype, backend):
    """Their models normalise by LayerNorm, so that logits reach hundreds at scale 1."""
    ours, theirs = (seeded(partial(function, negatives=negatives)) for function in (symile_loss, peer))
    assert_agreement(ours, theirs, case(3, 20, 64, dtype, 1.0, radius=8.0), backend=backend)


@pytest.mark.parametrize("shapes", [((7, 5), (7, 5)), ((5,), (5,)), ((7, 5),), ((7, 5), (7, 5), (7, 5))], ids=str)
def test_scores_equal_the_peers(shapes):
    candidates = free_rows(9, 5, seed=1)
    queries = [
        free_rows(*shape, seed=2 + i) if len(shape) == 2 else free_rows(1, 5, seed=2)[0]
        for i, shape in enumerate(shapes)
    ]
    expected = load("symile").MIPSimilarity()(candidates, queries)
    torch.testing.assert_close(mip_similarity(candidates, queries), expected, rtol=1e-14, atol=1e-14)
