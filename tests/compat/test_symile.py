"""contrastile.compat.symile against the package symile."""

import copy
import pickle

import pytest
import torch

from contrastile.compat.symile import MIPSimilarity, Symile
from support.memory import saved_bytes
from support.pairing import assert_agreement
from support.standins import load
from support.symile_cases import case, seeded
from support.views import BACKENDS_AND_DTYPES

from .dropins import DTYPES, assert_same_signature, assert_saves_rows, assert_trains_alike, correlated

pytestmark = pytest.mark.peers
SIZES = [(3, 12, 16), (4, 5, 3)]
SAMPLINGS = pytest.mark.parametrize("negatives", ["n", "n_squared"])


def ours(*modalities, negatives, logit_scale, backend="auto"):
    return Symile(negatives, backend=backend)(list(modalities), logit_scale)


def peer(*modalities, negatives, logit_scale):
    return load("symile").Symile(negatives)(list(modalities), logit_scale)


def test_signatures_are_theirs():
    package = load("symile")
    assert_same_signature(Symile, package.Symile)
    assert_same_signature(MIPSimilarity, package.MIPSimilarity)
    for name in ("forward", "__call__"):
        assert_same_signature(getattr(Symile, name), getattr(package.Symile, name))
        assert_same_signature(getattr(MIPSimilarity, name), getattr(package.MIPSimilarity, name))


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize(
    ("negatives", "k", "n", "d"),
    [("n", 2, 7, 5), *(("n", k, n, d) for k, n, d in SIZES), *(("n_squared", k, n, d) for k, n, d in SIZES)],
)  # the package's n_squared needs two modalities beside the anchor
def test_values_and_gradients_are_theirs(negatives, k, n, d, scale, dtype, backend):
    found, expected = (seeded(lambda *x, f=f, **o: f(*x, negatives=negatives, **o)) for f in (ours, peer))
    assert_agreement(found, expected, case(k, n, d, dtype, scale), backend=backend)


@SAMPLINGS
def test_random_numbers_are_drawn_as_there(negatives):
    """The state after a call is the same, so everything drawn later in the script is, too; and twice is not once."""
    states, values = [], []
    for function in (ours, peer):
        torch.manual_seed(11)
        x = correlated([(9, 6)] * 3)
        values.append([function(*x, negatives=negatives, logit_scale=5.0) for _ in range(2)])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    torch.testing.assert_close(*values)
    assert (values[0][0] == values[0][1]) == (negatives == "n_squared")


def test_scores_are_theirs():
    candidates, a, b = correlated([(9, 5), (7, 5), (7, 5)])
    for queries in ([a, b], [a], [a[0], b[0]]):
        before = [x.clone() for x in queries]
        found = MIPSimilarity()(candidates, queries)
        torch.testing.assert_close(found, load("symile").MIPSimilarity()(candidates, queries), rtol=1e-14, atol=1e-14)
        assert all(torch.equal(x, y) for x, y in zip(queries, before, strict=True))


@DTYPES
@SAMPLINGS
def test_a_training_is_theirs(negatives, dtype, rtol):
    def with_scale(function):
        return lambda features, log_scale: function(*features, negatives=negatives, logit_scale=log_scale.exp())

    assert_trains_alike(with_scale(ours), with_scale(peer), 3, dtype, rtol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_a_float32_loss_nearer_to_the_truth(dtype):
    x = [f.to(dtype) for f in correlated([(40, 16)] * 3)]
    true, found, theirs = (
        seeded(f)(*(y.to(t) for y in x), negatives="n", logit_scale=0.3)
        for f, t in ((peer, torch.float64), (ours, dtype), (peer, dtype))
    )
    assert found.dtype == torch.float32 and theirs.dtype == dtype
    assert (found - true).abs() < 1e-4 * true < (theirs - true).abs()


def test_objects_can_be_copied_and_changed():
    loss = Symile("n_squared", backend="torch")
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert (twin.negative_sampling, twin.backend, repr(twin)) == ("n_squared", "torch", repr(loss))
    loss.negative_sampling = "n"
    x = correlated([(8, 4)] * 3)
    torch.manual_seed(0)
    found = loss(x, 2.0)
    torch.manual_seed(0)
    torch.testing.assert_close(found, peer(*x, negatives="n", logit_scale=2.0))
    loss.negative_sampling = "all"
    with pytest.raises(ValueError, match="negative_sampling"):
        loss(x, 2.0)


def test_one_item_and_none():
    for n in (0, 1):
        x = [f.requires_grad_() for f in correlated([(n, 4)] * 3)]
        value = Symile()(x, 2.0)
        value.backward()
        assert value == 0 and all(torch.equal(f.grad, torch.zeros_like(f)) for f in x)


def test_wrong_arguments_are_named():
    x = correlated([(6, 4)] * 3)
    with pytest.raises(ValueError, match="negative_sampling must be 'n' or 'n_squared', got 'all'"):
        Symile("all")
    with pytest.raises(TypeError, match="representations must be a list"):
        Symile()(torch.stack(x), 1.0)
    with pytest.raises(ValueError, match="at least two"):
        Symile()(x[:1], 1.0)
    with pytest.raises(ValueError, match="must have the shape of"):
        Symile()([x[0], x[1][:3]], 1.0)
    with pytest.raises(ValueError, match="backend"):
        Symile(backend="gpu")(x, 1.0)


@SAMPLINGS
def test_nothing_of_the_size_of_all_pairs_is_kept(negatives, monkeypatch):
    if negatives == "n":
        assert_saves_rows(lambda *x: Symile()(x, 2.0), lambda n: correlated([(n, 16)] * 3, torch.float32), monkeypatch)
    else:  # N^2 D floats in the package: 67 MB
        x = [f.requires_grad_() for f in correlated([(256, 16)] * 3, torch.float32)]
        assert saved_bytes(lambda *x: Symile("n_squared")(x, 2.0), *x) < 256 * 256 * 4


def test_the_comparison_sees_a_wrong_loss():
    """Draws in another order are another loss, which the budget of this file notices."""
    found = seeded(lambda *x, **o: ours(*reversed(x), negatives="n", **o))
    expected = seeded(lambda *x, **o: peer(*x, negatives="n", **o))
    with pytest.raises(AssertionError):
        assert_agreement(found, expected, case(3, 12, 16, torch.float64, 5.0))
