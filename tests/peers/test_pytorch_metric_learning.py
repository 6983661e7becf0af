"""sup_con, nt_xent and info_nce against pytorch-metric-learning (PML), which normalises by default.

Where the packages mean different things:
- NTXentLoss has one term per positive pair, with that positive and the negatives in its denominator; sup_con keeps all
  positives there. They are compared where every anchor has exactly one positive, and the question does not arise.
- NTXentLoss takes log(p + smallest normal number): a pair stops at a loss of 87 (708 in float64) and loses its gradient.
  The cases stay below.
- SupConLoss averages rows with a loss above 0, sup_con rows with a positive. They differ where a row's only positive
  takes all the probability, and its loss rounds to 0.
- A batch without any negative gives 0 in PML; here it has its formula's value.
"""

from functools import partial

import pytest
import torch

from contrastile import info_nce, nt_xent, sup_con
from contrastile.testing import Case

from .agreement import BACKENDS, BACKENDS_AND_DTYPES, SHAPES, assert_agreement, rows, two_view_case, two_views
from .standins import load

pytestmark = pytest.mark.peers
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])


def pml_loss(name, *args, **options):
    return getattr(load("pytorch_metric_learning.losses"), name)(*args, **options)


def peer_sup_con(features, labels, *, temperature):
    """(N, V, D) features are N V rows with their sample's label."""
    labels = labels.repeat_interleave(features[0, ..., 0].numel())
    return pml_loss("SupConLoss", temperature)(features.flatten(end_dim=-2), labels)


def peer_two_views(name, symmetric):
    """A loss between two views: of all 2N rows (symmetric), or from the first view to the second."""

    def peer(z1, z2, *, temperature):
        return pml_loss("SelfSupervisedLoss", pml_loss(name, temperature), symmetric)(z1, z2)

    return peer


def labelled_case(shape, classes, dtype, temperature):
    generator = torch.Generator().manual_seed(shape[0])
    labels = torch.randint(0, classes, shape[:1], generator=generator)
    features = rows(*shape, seed=classes, dtype=dtype, norms=True)
    return Case((features, labels), {"temperature": torch.tensor(temperature)}, 1.0 / temperature)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize(
    ("shape", "classes"),
    [((17, 5), 4), ((64, 64), 2), ((131, 40), 100), ((1100, 24), 50), ((33, 2, 16), 9), ((20, 3, 7), 1000)],
    ids=["few", "two_classes", "rows_without_positive", "several_chunks", "views", "views_alone"],
)
def test_sup_con_equals_pml(shape, classes, temperature, dtype, backend):
    case = labelled_case(shape, classes, dtype, temperature)
    assert_agreement(partial(sup_con, normalize=True), peer_sup_con, case, backend=backend)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
@pytest.mark.parametrize(("n", "d"), SHAPES[:3])  # PML's NTXentLoss holds (2N)^3 numbers
def test_nt_xent_equals_pml_with_one_positive_per_anchor(n, d, name, temperature, dtype, backend):
    ours = partial(nt_xent, normalize=True)
    case = two_view_case(n, d, dtype, temperature)
    assert_agreement(ours, peer_two_views(name, symmetric=True), case, backend=backend)


@BACKENDS_AND_DTYPES
@TEMPERATURES
@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
@pytest.mark.parametrize(("n", "d"), SHAPES[:3])
def test_info_nce_equals_pml_from_one_view_to_the_other(n, d, name, temperature, dtype, backend):
    ours = partial(info_nce, normalize=True)
    case = two_view_case(n, d, dtype, temperature)
    assert_agreement(ours, peer_two_views(name, symmetric=False), case, backend=backend)


@BACKENDS
def test_nt_xent_of_unit_rows_equals_pml_without_its_normalisation(backend):
    def peer(z1, z2, *, temperature):
        dot = load("pytorch_metric_learning.distances").DotProductSimilarity(normalize_embeddings=False)
        loss = pml_loss("NTXentLoss", temperature, distance=dot)
        return pml_loss("SelfSupervisedLoss", loss)(z1, z2)

    case = Case(two_views(33, 16, torch.float32), {"temperature": torch.tensor(0.1)}, 10.0)
    assert_agreement(nt_xent, peer, case, backend=backend)
