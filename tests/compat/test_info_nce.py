"""The drop-in for info-nce-pytorch against the package itself."""

import copy
import pickle
from functools import partial

import pytest
import torch

from contrastile.compat import info_nce as ours
from contrastile.testing import Case, compare
from support.pairing import Pairing, assert_agreement
from support.views import BACKENDS_AND_DTYPES, LONG, free_rows, two_view_case, two_views

from .digits import assert_same_training, batches, encoder, largest_tensor, trained

peer = pytest.importorskip("info_nce", reason="info-nce-pytorch is missing", exc_type=ImportError)
pytestmark = pytest.mark.peers

SHAPES = [(1, 3), (2, 1), (17, 5), (131, 40)]
MODES = {  # extra candidates of n rows of width d, and how they are meant
    "in_batch": lambda n, d: ({}, {}),
    "unpaired": lambda n, d: ({"negative_keys": free_rows(23, d, seed=5)}, {}),
    "paired": lambda n, d: ({"negative_keys": free_rows(n, 7, d, seed=6)}, {"negative_mode": "paired"}),
    "no_negatives": lambda n, d: ({"negative_keys": torch.zeros(0, d)}, {}),
    "no_paired_negatives": lambda n, d: ({"negative_keys": torch.zeros(n, 0, d)}, {"negative_mode": "paired"}),
}


def call(module, **options):
    """The module's class, made and called anew."""

    def loss(query, positive_key, negative_keys=None, *, temperature, reduction="mean", **engine):
        criterion = module.InfoNCE(temperature, reduction, **options, **engine)
        return criterion(query, positive_key, negative_keys)

    return loss


def pairing(mode, n, d, dtype, temperature):
    tensors, options = MODES[mode](n, d)
    return call(ours, **options), call(peer, **options), two_view_case(n, d, dtype, temperature, **tensors)


@BACKENDS_AND_DTYPES
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.005])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_values_and_all_gradients_equal_the_package(n, d, mode, temperature, dtype, backend):
    mine, theirs, case = pairing(mode, n, d, dtype, temperature)
    if n <= 2 or mode.startswith("no"):  # losses of 0: nothing would be off by a part in a thousand
        found = compare(Pairing(mine, theirs), case, backend=backend)
        assert found.ok, found.detail
    else:
        assert_agreement(mine, theirs, case, backend=backend)


@pytest.mark.parametrize("mode", ["in_batch", "unpaired", "paired"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_equal_the_package(reduction, mode):
    mine, theirs, case = pairing(mode, 33, 16, torch.float32, 0.1)
    assert_agreement(mine, theirs, case, reduction=reduction)


@pytest.mark.parametrize("mode", ["in_batch", "unpaired"])
def test_batches_of_several_chunks_equal_the_package(mode):
    assert_agreement(*pairing(mode, *LONG, torch.float32, 0.05))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["in_batch", "unpaired", "paired"])
def test_half_precision_is_as_exact_as_rows_rounded_once(mode, dtype):
    mine, theirs, case = pairing(mode, 33, 16, dtype, 0.1)
    case = Case(case.args, case.kwargs, case.magnitude, derived=True)
    found = compare(Pairing(mine, theirs), case)
    assert found.ok, found.detail


@pytest.mark.parametrize("mode", ["in_batch", "unpaired", "paired"])
def test_function_and_class_take_the_packages_positions(mode):
    tensors, options = MODES[mode](6, 3)
    x, y, negatives = *two_views(6, 3), tensors.get("negative_keys")
    by_position = (x, y, negatives, 0.3, "sum", options.get("negative_mode", "unpaired"))
    torch.testing.assert_close(ours.info_nce(*by_position), peer.info_nce(*by_position), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        ours.InfoNCE(*by_position[3:])(query=x, positive_key=y, negative_keys=negatives),
        peer.InfoNCE(*by_position[3:])(query=x, positive_key=y, negative_keys=negatives), rtol=1e-13, atol=0,
    )  # fmt: skip


def test_zero_rows_duplicates_and_strided_rows_equal_the_package():
    x, y = (torch.stack([z, z], 1)[:, 0] for z in two_views(12, 6))
    y[3], y[5] = 0.0, y[4]
    assert not y.is_contiguous()
    torch.testing.assert_close(ours.info_nce(x, y), peer.info_nce(x, y), rtol=1e-13, atol=0)


def test_nan_reaches_the_loss():
    x, y = two_views(5, 4)
    x[2, 1] = torch.nan
    assert ours.info_nce(x, y).isnan()
    assert ours.info_nce(x, y, y).isnan()


def test_under_autocast_the_loss_is_float32_and_nearer_to_the_truth_than_bfloat16_logits():
    x, y = (z.bfloat16() for z in two_views(64, 32))
    truth = peer.info_nce(x.double(), y.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, rounded = ours.info_nce(x, y), peer.info_nce(x, y)
    assert found.dtype == torch.float32
    assert (found - truth).abs() <= (rounded - truth).abs() + 2e-3 * truth


def test_an_empty_batch_gives_zero_where_the_package_gives_nan():
    x = torch.zeros(0, 4, requires_grad=True)
    for negatives in (None, torch.zeros(3, 4)):
        loss = ours.info_nce(x, x, negatives)
        assert loss.item() == 0.0
        loss.backward()
        assert x.grad.shape == (0, 4)


@pytest.mark.parametrize(
    ("args", "options", "error", "word"),
    [
        ((torch.zeros(3), torch.zeros(3, 2)), {}, ValueError, "query"),
        ((torch.zeros(3, 2), torch.zeros(4, 2)), {}, ValueError, "positive_key"),
        ((torch.zeros(3, 2), torch.zeros(3, 1)), {}, ValueError, "positive_key"),
        ((torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(4, 1)), {}, ValueError, "negative_keys"),
        ((torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 4, 2)), {}, ValueError, "negative_keys"),
        (
            (torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(4, 4, 2)),
            {"negative_mode": "paired"}, ValueError, "negative_keys",
        ),
        ((torch.zeros(3, 2), torch.zeros(3, 2)), {"negative_mode": "both"}, ValueError, "negative_mode"),
        ((torch.zeros(3, 2), torch.zeros(3, 2)), {"reduction": "max"}, ValueError, "reduction"),
        ((torch.zeros(3, 2), torch.zeros(3, 2)), {"temperature": 0.0}, ValueError, "temperature"),
        ((torch.zeros(3, 2), torch.zeros(3, 2)), {"temperature": torch.ones(3)}, ValueError, "temperature"),
        ((torch.zeros(3, 2).long(), torch.zeros(3, 2)), {}, TypeError, "query"),
        ((torch.zeros(3, 2), torch.zeros(3, 2)), {"backend": "gpu"}, ValueError, "backend"),
        ((torch.zeros(3, 2), torch.zeros(3, 2)), {"memory_budget": -1}, ValueError, "memory_budget"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(args, options, error, word):
    with pytest.raises(error, match=word):
        ours.info_nce(*args, **options)


def test_the_module_copies_pickles_and_shows_its_options():
    criterion = ours.InfoNCE(0.2, "sum", "paired")
    assert repr(criterion) == "InfoNCE(temperature=0.2, reduction='sum', negative_mode='paired')"
    assert criterion.state_dict() == {}
    x, y = two_views(5, 4)
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert twin(x, y).item() == criterion(x, y).item()


def test_compiled_no_grad_and_repeated_backward():
    x, y = (z.float().requires_grad_() for z in two_views(9, 4))
    loss = ours.info_nce(x, y, y)
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * first, rtol=0, atol=0)
    with torch.no_grad():
        assert ours.info_nce(x, y, y).item() == loss.item()
    compiled = torch.compile(ours.InfoNCE(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y, y), loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["in_batch", "unpaired"])
def test_nothing_holds_n_times_n(mode):
    n = 1500
    x, y = (z.float() for z in two_views(n, 8))
    negatives = () if mode == "in_batch" else (y.flip(0),)
    assert largest_tensor(partial(ours.info_nce, memory_budget=0), x, y, *negatives) < n * n / 16
    assert largest_tensor(peer.info_nce, x, y, *negatives) >= n * n


@pytest.mark.parametrize("mode", ["in_batch", "unpaired", "paired"])
def test_a_training_on_digits_equals_the_packages_step_by_step(mode):
    def train(module, dtype):
        criterion = module.InfoNCE(0.2, negative_mode="paired" if mode == "paired" else "unpaired")

        def losses(model):
            for x, _, first, second in batches(dtype):
                others = {
                    "in_batch": None, "unpaired": model(x.roll(1, 0)),
                    "paired": torch.stack([model(x.roll(k, 0)) for k in (1, 2, 3)], 1),
                }[mode]  # fmt: skip
                yield criterion(model(first), model(second), others)

        return trained(encoder(dtype), losses)

    assert_same_training(train, ours, peer)
