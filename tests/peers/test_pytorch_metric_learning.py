"""sup_con, nt_xent and info_nce against pytorch-metric-learning (PML), which normalises by default.

Where the packages mean different things:
- NTXentLoss has a term for every positive pair, with that positive and the negatives in its
  denominator; the denominators of sup_con hold all positives. Here every anchor of NTXentLoss has
  exactly one positive, where that makes no difference.
- NTXentLoss takes log(p + smallest normal number), so that a pair's loss stops at 87 (float64: 708)
  and its gradient vanishes. Temperatures of 0.05 and more stay far below.
- SupConLoss averages the rows with a loss above 0, sup_con the rows with a positive. They differ
  where a row's only positive takes all the probability, and the loss rounds to 0. With one positive
  for every row, MeanReducer makes PML average them all.
- A batch without any negative gives 0 in PML, and the value of its formula here.
"""

from functools import partial

import pytest
import torch

from contrastile import info_nce, nt_xent, sup_con
from contrastile.testing import Case
from support.pairing import assert_agreement
from support.standins import load
from support.views import BACKENDS, BACKENDS_AND_DTYPES, LONG, free_rows, two_view_case, two_views

pytestmark = pytest.mark.peers

SMALL_SHAPES = ((2, 3), (17, 5), (40, 64))  # PML's NTXentLoss holds (2N)^3 numbers
ONE_POSITIVE = pytest.mark.parametrize(
    ("name", "temperature"),
    [("NTXentLoss", 0.5), ("NTXentLoss", 0.05), ("SupConLoss", 0.1), ("SupConLoss", 0.01)],
)


def pml(kind, name, *args, **options):
    return getattr(load(f"pytorch_metric_learning.{kind}"), name)(*args, **options)


def peer_sup_con(features, labels, *, temperature):
    """Features of shape (V, N, D) are V N rows with the labels of their samples."""
    labels = labels.repeat(features[..., 0, 0].numel())
    return pml("losses", "SupConLoss", temperature)(features.flatten(end_dim=-2), labels)


def peer_two_views(z1, z2, *, temperature, name, symmetric, **options):
    """Between all 2N rows, or (not symmetric) from the first view to the second."""
    loss = pml("losses", name, temperature, reducer=pml("reducers", "MeanReducer"), **options)
    return pml("losses", "SelfSupervisedLoss", loss, symmetric)(z1, z2)


def labelled_case(shape, classes, dtype, temperature):
    generator = torch.Generator().manual_seed(shape[0])
    labels = torch.randint(0, classes, shape[-2:-1], generator=generator)
    features = free_rows(*shape, seed=classes).to(dtype)
    return Case((features, labels), {"temperature": torch.tensor(temperature)}, 1 / temperature)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])
@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        pytest.param((17, 5), 4, id="few"),
        pytest.param((64, 64), 2, id="two_classes"),
        pytest.param((131, 40), 100, id="rows_without_positive"),
        pytest.param((2, 33, 16), 9, id="two_views"),
        pytest.param((3, 20, 7), 1000, id="three_views"),
    ],
)
def test_sup_con_equals_pml(shape, classes, temperature, dtype, backend):
    case = labelled_case(shape, classes, dtype, temperature)
    assert_agreement(partial(sup_con, normalize=True), peer_sup_con, case, backend=backend)


@BACKENDS
def test_sup_con_of_several_chunks_equals_pml(backend):
    case = labelled_case(LONG, 50, torch.float32, 0.05)
    assert_agreement(partial(sup_con, normalize=True), peer_sup_con, case, backend=backend)


@BACKENDS_AND_DTYPES
@ONE_POSITIVE
@pytest.mark.parametrize(("n", "d"), SMALL_SHAPES)
def test_nt_xent_equals_pml_where_anchors_have_one_positive(n, d, name, temperature, dtype, backend):
    peer = partial(peer_two_views, name=name, symmetric=True)
    case = two_view_case(n, d, dtype, temperature)
    assert_agreement(partial(nt_xent, normalize=True), peer, case, backend=backend)


@BACKENDS_AND_DTYPES
@ONE_POSITIVE
@pytest.mark.parametrize(("n", "d"), SMALL_SHAPES)
def test_info_nce_equals_pml_from_one_view_to_the_other(n, d, name, temperature, dtype, backend):
    peer = partial(peer_two_views, name=name, symmetric=False)
    case = two_view_case(n, d, dtype, temperature)
    assert_agreement(partial(info_nce, normalize=True), peer, case, backend=backend)


@BACKENDS
def test_nt_xent_of_unit_rows_equals_pml_without_normalisation(backend):
    distance = pml("distances", "DotProductSimilarity", normalize_embeddings=False)
    peer = partial(peer_two_views, name="NTXentLoss", symmetric=True, distance=distance)
    views = tuple(x.float() for x in two_views(33, 16))
    case = Case(views, {"temperature": torch.tensor(0.1)}, 10.0)
    assert_agreement(nt_xent, peer, case, backend=backend)
