"""The drop-in for infonce against the package itself."""

import copy
import pickle

import pytest
import torch

from contrastile.compat import infonce as ours
from contrastile.testing import Case, compare
from support.pairing import Pairing, assert_agreement
from support.views import BACKENDS_AND_DTYPES, LONG_VIEWS, free_rows, two_views

from .digits import assert_same_training, batches, encoder, largest_tensor, trained

peer = pytest.importorskip("infonce", reason="infonce is missing", exc_type=ImportError)
pytestmark = pytest.mark.peers

SHAPES = [(1, 3), (2, 1), (17, 5), (65, 40)]


def simclr(module):
    return lambda features, *, temperature, **engine: module.InfoNCE(temperature, **engine)(features)


def supervised(module):
    def loss(features, target, *, temperature, **engine):
        return module.SupervisedInfoNCE(temperature, **engine)(features, target)

    return loss


def views_case(n, d, dtype, temperature):
    return Case((torch.cat(two_views(n, d)).to(dtype),), {"temperature": torch.tensor(temperature)}, 1 / temperature)


def labelled_case(n, d, classes, dtype, temperature, kind=torch.int64):
    target = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(n)).to(kind)
    rows = free_rows(n, d, seed=classes).to(dtype)
    return Case((rows, target), {"temperature": torch.tensor(temperature)}, 1 / temperature)


def assert_close(mine, theirs, case, **options):
    """Like assert_agreement, for cases whose loss may be 0 to all digits."""
    found = compare(Pairing(mine, theirs), case, **options)
    assert found.ok, found.detail


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.005])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_simclr_equals_the_package(n, d, temperature, dtype, backend):
    check = assert_agreement if n > 2 else assert_close
    check(simclr(ours), simclr(peer), views_case(n, d, dtype, temperature), backend=backend)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("temperature", [0.5, 0.07, 0.005])
@pytest.mark.parametrize(
    ("n", "d", "classes"),
    [
        pytest.param(1, 3, 1, id="one_row"),
        pytest.param(17, 5, 4, id="few"),
        pytest.param(40, 1, 3, id="one_column"),
        pytest.param(64, 64, 2, id="two_classes"),
        pytest.param(131, 40, 1000, id="hardly_any_positives"),
        pytest.param(31, 16, 1, id="no_negatives"),
    ],
)
def test_supervised_equals_the_package(n, d, classes, temperature, dtype, backend):
    check = assert_agreement if n > 2 else assert_close
    check(supervised(ours), supervised(peer), labelled_case(n, d, classes, dtype, temperature), backend=backend)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.float32, torch.bool])
def test_targets_of_other_types_equal_the_package(kind):
    assert_agreement(
        supervised(ours), supervised(peer), labelled_case(33, 8, 2, torch.float64, 0.1, kind), backend="torch"
    )


def test_batches_of_several_chunks_equal_the_package():
    n, d = LONG_VIEWS
    assert_agreement(simclr(ours), simclr(peer), views_case(n, d, torch.float32, 0.05))
    assert_agreement(supervised(ours), supervised(peer), labelled_case(2 * n, d, 300, torch.float32, 0.05))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_exact_as_rows_rounded_once(dtype):
    for pair, case in (
        ((simclr(ours), simclr(peer)), views_case(33, 16, dtype, 0.1)),
        ((supervised(ours), supervised(peer)), labelled_case(65, 16, 5, dtype, 0.1)),
    ):
        assert_close(*pair, Case(case.args, case.kwargs, case.magnitude, derived=True))


def test_duplicates_zero_rows_and_strided_rows_equal_the_package():
    x = torch.stack([torch.cat(two_views(6, 5))] * 2, 1)[:, 0]
    x[3], x[5] = 0.0, x[4]
    target = torch.tensor([0, 0, 1, 1, 2, 2]).repeat(2)
    torch.testing.assert_close(ours.InfoNCE()(x), peer.InfoNCE()(x), rtol=1e-13, atol=0)
    found, expected = (module.SupervisedInfoNCE()(x, target) for module in (ours, peer))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_nan_reaches_the_loss():
    x = torch.cat(two_views(5, 4))
    x[2, 1] = torch.nan
    assert ours.InfoNCE()(x).isnan()
    assert ours.SupervisedInfoNCE()(x, torch.arange(10) // 2).isnan()


def test_supervised_is_kept_and_has_no_effect_as_in_the_package():
    case = labelled_case(20, 6, 4, torch.float64, 0.1)
    values = [module.SupervisedInfoNCE(0.1, flag)(*case.args) for module in (ours, peer) for flag in (False, True)]
    assert values[0] == values[1]
    assert values[2] == values[3]


def test_an_empty_batch_gives_zero_where_the_package_gives_nan():
    x = torch.zeros(0, 4, requires_grad=True)
    for loss in (ours.InfoNCE()(x), ours.SupervisedInfoNCE()(x, torch.zeros(0).long())):
        assert loss.item() == 0.0
        loss.backward()
        assert x.grad.shape == (0, 4)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ours.InfoNCE()(torch.zeros(3, 2)), "features"),
        (lambda: ours.InfoNCE()(torch.zeros(4)), "features"),
        (lambda: ours.InfoNCE(0.0)(torch.zeros(4, 2)), "temperature"),
        (lambda: ours.InfoNCE(backend="gpu")(torch.zeros(4, 2)), "backend"),
        (lambda: ours.SupervisedInfoNCE()(torch.zeros(4, 2), torch.zeros(3).long()), "target"),
        (lambda: ours.SupervisedInfoNCE()(torch.zeros(4, 2), torch.zeros(4, 1).long()), "target"),
        (lambda: ours.SupervisedInfoNCE(memory_budget=-1)(torch.zeros(4, 2), torch.zeros(4).long()), "memory_budget"),
    ],
)
def test_wrong_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_modules_copy_pickle_and_show_their_options():
    x, target = torch.cat(two_views(5, 4)), torch.arange(10) // 3
    assert repr(ours.InfoNCE(0.2)) == "InfoNCE(temperature=0.2)"
    assert repr(ours.SupervisedInfoNCE()) == "SupervisedInfoNCE(temperature=0.07, supervised=False)"
    for criterion, args in ((ours.InfoNCE(0.2), (x,)), (ours.SupervisedInfoNCE(), (x, target))):
        assert criterion.state_dict() == {}
        for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
            assert twin(*args).item() == criterion(*args).item()


def test_nothing_holds_n_times_n():
    n = 1500
    x, target = torch.cat(two_views(n // 2, 8)).float(), torch.arange(n) % 7
    assert largest_tensor(ours.InfoNCE(memory_budget=0), x) < n * n / 16
    assert largest_tensor(lambda z: ours.SupervisedInfoNCE(memory_budget=0)(z, target), x) < n * n / 16
    assert largest_tensor(lambda z: peer.SupervisedInfoNCE()(z, target), x) >= n * n


@pytest.mark.parametrize("name", ["InfoNCE", "SupervisedInfoNCE"])
def test_a_training_on_digits_equals_the_packages_step_by_step(name):
    def train(module, dtype):
        criterion = getattr(module, name)()

        def losses(model):
            for x, digit, first, second in batches(dtype):
                views = (torch.cat([model(first), model(second)]),) if name == "InfoNCE" else (model(x), digit)
                yield criterion(*views)

        return trained(encoder(dtype), losses)

    assert_same_training(train, ours, peer)
