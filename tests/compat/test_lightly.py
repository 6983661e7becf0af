"""The drop-ins for lightly against lightly itself.

lightly imports torchvision, which its losses do not use: where it is missing, lightly_modules.py does without.
"""

import copy
import importlib
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile.testing import Case, compare
from support.lightly_modules import lightly_importable, lightly_losses
from support.pairing import Pairing, assert_agreement
from support.views import BACKENDS_AND_DTYPES, LONG_VIEWS, two_view_case, two_views

from .digits import assert_same_training, batches, encoder, largest_tensor, trained

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),  # lightly's weights of DCLWLoss
]
SHAPES = [(2, 1), (17, 5), (64, 64), (131, 40)]
NAMES = ["NTXentLoss", "DCLLoss", "DCLWLoss"]


@pytest.fixture(scope="module")
def both():
    """The losses of lightly and ours."""
    with lightly_importable():
        yield SimpleNamespace(
            theirs=SimpleNamespace(**lightly_losses(*NAMES)), ours=importlib.import_module("contrastile.compat.lightly")
        )


def call(module, name, **options):
    """A loss made and called anew."""

    def loss(out0, out1, *, temperature, **engine):
        return getattr(module, name)(temperature, **options, **engine)(out0, out1)

    return loss


def pair(both, name, **options):
    return call(both.ours, name, **options), call(both.theirs, name, **options)


def distance_weights(x, y):
    """Weights with a gradient, that depend on which view comes first."""
    return 1.0 + (x - 0.5 * y)[:, 0].square()


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.005])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_values_and_all_gradients_equal_lightly(both, n, d, name, temperature, dtype, backend):
    case = two_view_case(n, d, dtype, temperature)
    if n > 2:
        assert_agreement(*pair(both, name), case, backend=backend)
    else:
        found = compare(Pairing(*pair(both, name)), case, backend=backend)
        assert found.ok, found.detail


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_several_chunks_equal_lightly(both, name):
    assert_agreement(*pair(both, name), two_view_case(*LONG_VIEWS, torch.float32, 0.05))


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_sigma_equals_lightly(both, sigma, dtype, backend):
    assert_agreement(*pair(both, "DCLWLoss", sigma=sigma), two_view_case(33, 16, dtype, 0.1), backend=backend)


@BACKENDS_AND_DTYPES
def test_weight_functions_equal_lightly_with_their_gradient(both, dtype, backend):
    options = {"weight_fn": distance_weights}
    assert_agreement(*pair(both, "DCLLoss", **options), two_view_case(33, 16, dtype, 0.1), backend=backend)


def test_weights_may_be_one_number(both):
    options = {"weight_fn": lambda x, y: torch.tensor(0.7, dtype=x.dtype)}
    assert_agreement(*pair(both, "DCLLoss", **options), two_view_case(33, 16, torch.float32, 0.1))
    with pytest.raises(ValueError, match="weight_fn"):
        both.ours.DCLLoss(weight_fn=lambda x, y: x)(*two_views(5, 4))


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("temperature", [0.5, 0.07, 0.01])
@pytest.mark.parametrize(("n", "size", "d"), [(1, 4, 3), (17, 40, 5), (131, 200, 40)])
def test_a_memory_bank_equals_lightly(both, n, size, d, temperature, dtype, backend):
    def seeded(module):
        def loss(out0, out1, *, temperature, **engine):
            torch.manual_seed(7)
            criterion = module.NTXentLoss(temperature, (size, d), **engine)
            return criterion.to(out0.dtype)(out0, out1)

        return loss

    case = two_view_case(n, d, dtype, temperature)
    assert_agreement(seeded(both.ours), seeded(both.theirs), case, backend=backend)


def test_a_memory_bank_is_written_and_kept_as_lightlys(both):
    """Also past its end, and not by queries without gradient."""
    criteria = []
    for module in (both.ours, both.theirs):
        torch.manual_seed(7)
        criteria.append(module.NTXentLoss(memory_bank_size=(40, 6)).double())
    generator = torch.Generator().manual_seed(1)
    for step in range(8):
        x, y = torch.randn(2, 11, 6, generator=generator, dtype=torch.float64)
        x.requires_grad_(step != 3)
        values = [criterion(x, y) for criterion in criteria]
        torch.testing.assert_close(*values, rtol=1e-13, atol=0)
        (mine, theirs) = (dict(criterion.named_buffers()) for criterion in criteria)
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["NTXentLoss", "DCLLoss"])
def test_half_precision_is_as_exact_as_rows_rounded_once(both, name, dtype):
    case = two_view_case(33, 16, dtype, 0.1)
    found = compare(Pairing(*pair(both, name)), Case(case.args, case.kwargs, case.magnitude, derived=True))
    assert found.ok, found.detail


@pytest.mark.parametrize("name", [*NAMES, "bank"])
def test_under_autocast_the_loss_is_float32_and_nearer_to_the_truth_than_bfloat16_logits(both, name):
    x, y = (z.bfloat16() for z in two_views(64, 32))

    def value(module, *views):
        torch.manual_seed(7)
        if name == "bank":
            return module.NTXentLoss(0.1, (50, 32)).to(views[0].dtype)(*views)
        return getattr(module, name)(0.1)(*views)

    truth = value(both.theirs, x.double(), y.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, rounded = value(both.ours, x, y), value(both.theirs, x, y)
    assert found.dtype == torch.float32
    assert (found - truth).abs() <= (rounded - truth).abs() + 4e-3 * truth.abs()


@pytest.mark.parametrize(
    ("name", "function"),
    [("NTXentLoss", contrastile.nt_xent), ("DCLLoss", contrastile.dcl), ("DCLWLoss", contrastile.dclw)],
)
def test_under_autocast_rows_are_multiplied_in_its_type(both, name, function):
    x, y = (z.float() for z in two_views(20, 8))
    rows = [F.normalize(z, dim=1).bfloat16() for z in (x, y)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = getattr(both.ours, name)(0.1)(x, y)
    if name == "DCLWLoss":  # weights come from the rows before they are rounded
        assert found.item() == pytest.approx(function(*rows, temperature=0.1).item(), rel=2e-3)
        assert found.item() != getattr(both.ours, name)(0.1)(x, y).item()
    else:
        assert found.item() == pytest.approx(function(*rows, temperature=0.1).item(), rel=1e-6)


def test_gathering_in_one_process_equals_lightly(both):
    for name in NAMES:
        assert_agreement(*pair(both, name, gather_distributed=True), two_view_case(9, 4, torch.float32, 0.1))


def test_zero_rows_duplicates_and_strided_rows_equal_lightly(both):
    x, y = (torch.stack([z, z], 1)[:, 0] for z in two_views(12, 6))
    y[3], y[5], y[7] = 0.0, y[4], x[7]
    for name in NAMES:
        mine, theirs = pair(both, name)
        found, expected = mine(x, y, temperature=0.1), theirs(x, y, temperature=0.1)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_nan_reaches_the_loss(both):
    x, y = two_views(5, 4)
    x[2, 1] = torch.nan
    for name in NAMES:
        assert pair(both, name)[0](x, y, temperature=0.1).isnan()


def test_batches_without_negatives_give_zero(both):
    """lightly gives -inf for DCL of one pair, and raises or gives NaN for none."""
    for name in NAMES:
        for n in (0, 1):
            x = torch.ones(n, 4, requires_grad=True)
            loss = getattr(both.ours, name)()(x, torch.ones(n, 4))
            loss.backward()
            assert loss.item() == 0.0
            assert not x.grad.any()


def test_wrong_arguments_are_named(both):
    x = torch.zeros(5, 4)
    for name in NAMES:
        criterion = getattr(both.ours, name)
        for args in ((x, x[:4]), (x, x[:, :3]), (x[0], x[0])):
            with pytest.raises(ValueError, match=r"out[01]"):
                criterion()(*args)
        for wrong in ({"backend": "gpu"}, {"memory_budget": -1}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                criterion(**wrong)(x, x)
        with pytest.raises(ValueError, match="temperature"):
            criterion(-0.1)(x, x)
    for make in (lambda: both.ours.NTXentLoss(0.0), lambda: both.ours.NTXentLoss(memory_bank_size=10)):
        with pytest.raises(ValueError, match=r"temperature|memory bank|Memory bank"):  # lightly's own
            make()


def test_modules_are_lightlys_in_class_text_and_state(both):
    bank = {"memory_bank_size": (10, 4)}
    for name, options in (("NTXentLoss", {}), ("NTXentLoss", bank), ("DCLLoss", {}), ("DCLWLoss", {})):
        mine, theirs = (getattr(module, name)(**options) for module in (both.ours, both.theirs))
        assert isinstance(mine, getattr(both.theirs, "DCLLoss" if name == "DCLWLoss" else name))
        assert repr(mine) == repr(theirs)
        assert mine.state_dict() == theirs.state_dict() == {}
        for twin in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
            assert twin(*two_views(5, 4)).item() == copy.deepcopy(mine)(*two_views(5, 4)).item()


def test_no_grad_repeated_backward_and_compilation(both):
    x, y = (z.float().requires_grad_() for z in two_views(9, 4))
    for name in ("NTXentLoss", "DCLLoss"):
        criterion = getattr(both.ours, name)()
        x.grad = None
        loss = criterion(x, y)
        loss.backward(retain_graph=True)
        first = x.grad.clone()
        loss.backward()
        torch.testing.assert_close(x.grad, 2 * first, rtol=0, atol=0)
        with torch.no_grad():
            torch.testing.assert_close(criterion(x, y), loss, rtol=1e-6, atol=0)
    compiled = torch.compile(both.ours.NTXentLoss(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), both.ours.NTXentLoss()(x, y), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*NAMES, "bank", "weights"])
def test_nothing_holds_n_times_n(both, name):
    n = 750
    x, y = (z.float() for z in two_views(n, 8))

    def loss(module, **engine):
        if name == "bank":
            return module.NTXentLoss(memory_bank_size=(2000, 8), **engine)
        if name == "weights":
            return module.DCLLoss(weight_fn=distance_weights, **engine)
        return getattr(module, name)(**engine)

    assert largest_tensor(loss(both.ours, memory_budget=0), x, y) < n * n / 16
    assert largest_tensor(loss(both.theirs), x, y) >= n * n


@pytest.mark.parametrize("name", NAMES)
def test_a_training_on_digits_equals_lightlys_step_by_step(both, name):
    def train(module, dtype):
        criterion = getattr(module, name)()
        return trained(
            encoder(dtype),
            lambda model: (criterion(model(x0), model(x1)) for _, _, x0, x1 in batches(dtype)),
        )

    assert_same_training(train, both.ours, both.theirs)


def test_a_training_with_a_momentum_encoder_and_a_bank_equals_lightlys_step_by_step(both):
    """MoCo: keys come from a slow copy of the encoder, negatives from the bank."""

    def train(module, dtype):
        torch.manual_seed(11)
        criterion = module.NTXentLoss(temperature=0.2, memory_bank_size=(192, 24)).to(dtype)
        slow = encoder(dtype)

        def losses(model):
            for _, _, x0, x1 in batches(dtype, steps=30):
                with torch.no_grad():
                    for kept, moved in zip(slow.parameters(), model.parameters(), strict=True):
                        kept.lerp_(moved, 0.1)
                    keys = slow(x1)
                yield criterion(model(x0), keys)

        return trained(encoder(dtype), losses)

    assert_same_training(train, both.ours, both.theirs, warm_up=4)  # until the bank holds no random rows


def test_the_detached_weights_are_lightlys_not_those_of_dclw(both):
    """contrastile.dclw lets gradient through its weights; the drop-in must not."""
    x, y = two_views(20, 6)
    grads = []
    for loss in (both.ours.DCLWLoss(), both.theirs.DCLWLoss(), lambda a, b: contrastile.dclw(a, b, normalize=True)):
        z = x.clone().requires_grad_()
        loss(z, y).backward()
        grads.append(F.normalize(z.grad, dim=1))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-12)
    assert (grads[0] - grads[2]).abs().max() > 1e-3
