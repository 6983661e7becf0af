"""info_nce against info-nce-pytorch, which always normalises its rows.

There, negative_keys replace the keys of the batch: a query meets its own key and the negatives
only. Here, `negatives` and `hard_negatives` come on top, and equal ids take the batch's keys away.
"""

from functools import partial

import pytest
import torch

from contrastile import info_nce
from support.pairing import assert_agreement
from support.standins import load
from support.views import BACKENDS, BACKENDS_AND_DTYPES, LONG, SHAPES, free_rows, two_view_case, without_in_batch_keys

pytestmark = pytest.mark.peers

TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])
ours = partial(info_nce, normalize=True)
ours_without_in_batch_keys = partial(without_in_batch_keys, normalize=True)


def peer_in_batch(query, key, **options):
    return load("info_nce").info_nce(query, key, **options)


def peer_unpaired(query, key, *, negatives, **options):
    return load("info_nce").info_nce(query, key, negatives, negative_mode="unpaired", **options)


def peer_paired(query, key, *, hard_negatives, **options):
    return load("info_nce").info_nce(query, key, hard_negatives, negative_mode="paired", **options)


def peer_with_everything(query, key, *, negatives, **options):
    """Given the other keys of the batch and the negatives, copied out for every query."""
    n, d = query.shape
    other_keys = key.expand(n, n, d)[~torch.eye(n, dtype=torch.bool)].view(n, n - 1, d)
    columns = torch.cat([other_keys, negatives.expand(n, *negatives.shape)], dim=1)
    return peer_paired(query, key, hard_negatives=columns, **options)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_in_batch_info_nce_equals_the_peer(n, d, temperature, dtype, backend):
    assert_agreement(ours, peer_in_batch, two_view_case(n, d, dtype, temperature), backend=backend)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize(("n", "m", "d"), [(2, 1, 3), (17, 40, 5), (131, 30, 40)])
def test_unpaired_negatives_are_negatives_without_the_batch(n, m, d, temperature, dtype, backend):
    case = two_view_case(n, d, dtype, temperature, negatives=free_rows(m, d, seed=m))
    assert_agreement(ours_without_in_batch_keys, peer_unpaired, case, backend=backend)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize(("n", "k", "d"), [(2, 1, 3), (17, 4, 5), (131, 3, 40)])
def test_paired_negatives_are_hard_negatives_without_the_batch(n, k, d, temperature, dtype, backend):
    case = two_view_case(n, d, dtype, temperature, hard_negatives=free_rows(n, k, d, seed=k))
    assert_agreement(ours_without_in_batch_keys, peer_paired, case, backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize(("n", "m", "d"), [(2, 1, 3), (33, 20, 16)])
def test_negatives_beside_the_batch_equal_the_peer_given_all_columns(n, m, d, dtype, backend):
    case = two_view_case(n, d, dtype, 0.1, negatives=free_rows(m, d, seed=m))
    assert_agreement(ours, peer_with_everything, case, backend=backend)


@BACKENDS
def test_batches_of_several_chunks_equal_the_peer(backend):
    case = two_view_case(*LONG, torch.float32, 0.05)
    assert_agreement(ours, peer_in_batch, case, backend=backend)


@BACKENDS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_equal_the_peers(reduction, backend):
    case = two_view_case(33, 16, torch.float32, 0.1)
    assert_agreement(ours, peer_in_batch, case, backend=backend, reduction=reduction)
