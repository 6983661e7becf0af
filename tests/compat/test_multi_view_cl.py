"""contrastile.compat.multi_view_cl against the official formulas, restated (pakoromilas/Multi-View-CL @c26ae77).

The repository is no package; support/official_views.py has its losses of all views, the rest stands here. They form
e^s, so temperatures stay where that is finite.
"""

import inspect
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from contrastile.compat import multi_view_cl as compat
from contrastile.testing import Case
from support import official_views as official
from support.pairing import assert_agreement
from support.views import BACKENDS_AND_DTYPES

from .dropins import DTYPES, assert_module, assert_saves_rows, assert_trains_alike

pytestmark = pytest.mark.peers

SIGNATURES = {
    "NTXent": "tau=1.0, multiplier=2, pwe=False, average=False, mv=False, distributed=False",
    "NTXentHPS": "tau=1.0, gpu=None, multiplier=2, distributed=False",
    "MVINFONCE": "tau=1.0, multiplier=2, distributed=False",
    "CL_1": "tau=1.0, multiplier=2, distributed=False",
    "MVDHEL": "tau=0.2, multiplier=2, distributed=False, pwe=False, average=False",
    "CL_2": "tau=0.2, multiplier=2, distributed=False, pwe=False, average=False",
    "PVCLoss": "tau=0.2, multiplier=2, distributed=False, method='geometric'",
}


def nt_xent_hps(views, tau, gpu=None):
    z = views.flatten(0, 1)
    return official.dhel(*z.chunk(2), temperature=tau), 0


def mv_infonce(views, tau):
    return official.mv_infonce(views, temperature=tau), 0


def pairs_of_dhel(views, tau, pwe, average):
    if pwe:
        pairs = combinations(views, 2)
    else:
        pairs = [(v, F.normalize(official.others(views, i), dim=1)) for i, v in enumerate(views)]
    return torch.stack([official.dhel(*pair, temperature=tau) for pair in pairs]).mean()


def mv_dhel(views, tau, pwe=False, average=False):
    if pwe or average:
        return pairs_of_dhel(views, tau, pwe, average), 0
    return official.mv_dhel(views, temperature=tau), 0


def positives_of_views(views, tau):
    e = torch.einsum("knd,mnd->kmn", views, views).div(tau).exp()
    return (e * (1 - torch.eye(len(views), dtype=e.dtype))[..., None]).sum(1)


def cl_1(views, tau):
    across = [torch.exp(v @ torch.cat([views[:i], views[i + 1 :]]).flatten(0, 1).T / tau) for i, v in enumerate(views)]
    return torch.stack(across).sum(2).log().mean() - positives_of_views(views, tau).log().mean(), 0


def cl_2(views, tau, pwe=False, average=False):
    if pwe or average:
        return pairs_of_dhel(views, tau, pwe, average), 0
    energy = torch.stack([official.off_diagonal_sums(v, tau) for v in views]).log().sum(0)
    return (energy - positives_of_views(views, tau).log()).mean(), 0


def pvc(views, tau, method="geometric"):
    if method == "arithmetic":
        losses = official.pvc_losses(views, tau)
        return (losses.logsumexp(1) - torch.tensor(views.shape[1], dtype=losses.dtype).log()).mean(), 0
    return official.pvc_geometric(views, temperature=tau), 0


OFFICIAL = {
    "NTXent": official.nt_xent, "NTXentHPS": nt_xent_hps, "MVINFONCE": mv_infonce, "CL_1": cl_1, "MVDHEL": mv_dhel,
    "CL_2": cl_2, "PVCLoss": pvc,
}  # fmt: skip
BOTH = [{}, {"pwe": True}, {"average": True}, {"pwe": True, "average": True}]
OPTIONS = {
    "NTXent": [*BOTH, {"mv": True}], "NTXentHPS": [{}, {"gpu": 0}], "MVINFONCE": [{}], "CL_1": [{}], "MVDHEL": BOTH,
    "CL_2": BOTH, "PVCLoss": [{}, {"method": "arithmetic"}],
}  # fmt: skip
EVERY = pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, every in OPTIONS.items() for options in every], ids=str
)


def rows(n, d, k, seed=0):
    """(k n, d), of other lengths than 1: the classes normalise."""
    generator = torch.Generator().manual_seed(100 * n + 10 * d + k + seed)
    common = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z = torch.cat([common + torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(k)])
    return z / z.norm(dim=1, keepdim=True) * (1.0 + torch.rand(k * n, 1, generator=generator, dtype=torch.float64))


def functions(name, options, k, tau):
    def ours(z, backend="auto"):
        return getattr(compat, name)(tau=tau, multiplier=k, **options, backend=backend)(z)[0]

    def theirs(z):
        return OFFICIAL[name](F.normalize(z, dim=1).unflatten(0, (k, -1)), tau, **options)[0]

    return ours, theirs


@BACKENDS_AND_DTYPES
@EVERY
@pytest.mark.parametrize(("n", "d", "k", "tau"), [(3, 2, 2, 0.5), (17, 5, 3, 0.1), (12, 16, 4, 0.2)])
def test_values_and_gradients_are_theirs(n, d, k, tau, name, options, dtype, backend):
    n += n * k % 2  # some halve the rows, whatever k is
    case = Case((rows(n, d, k).to(dtype),), {}, 1 / tau)
    assert_agreement(*functions(name, options, k, tau), case, backend=backend)


@pytest.mark.parametrize("options", OPTIONS["NTXent"], ids=str)
@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_second_result_is_the_accuracy_or_0(k, options):
    hits = []
    for seed in range(5):
        z = rows(4, 6, k, seed)
        accuracy = compat.NTXent(0.3, k, **options)(z)[1]
        expected = official.nt_xent(F.normalize(z, dim=1).unflatten(0, (k, -1)), 0.3, **options)[1]
        assert accuracy.dtype == torch.float32 and not accuracy.requires_grad
        torch.testing.assert_close(accuracy, expected)
        hits.append(accuracy.mean())
    assert 0 < sum(hits) < len(hits)
    for name in SIGNATURES.keys() - {"NTXent"}:
        assert getattr(compat, name)(multiplier=k)(z)[1] == 0


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_theirs(name):
    cls = getattr(compat, name)
    own = [p for p in inspect.signature(cls).parameters.values() if p.kind != inspect.Parameter.KEYWORD_ONLY]
    assert ", ".join(f"{p.name}={p.default!r}" for p in own) == SIGNATURES[name]
    first = next(iter(inspect.signature(cls.forward).parameters.values()))
    assert first.name == "self" and "z" in inspect.signature(cls.forward).parameters
    assert_module(cls())


def test_modules_show_their_options():
    assert repr(compat.PVCLoss()) == "PVCLoss(tau=0.2, multiplier=2, distributed=False, method='geometric')"
    assert "pwe=True" in repr(compat.MVDHEL(pwe=True)) and "mv=True" in repr(compat.NTXent(mv=True))


@DTYPES
@EVERY
def test_a_training_is_theirs(name, options, dtype, rtol):
    ours, theirs = functions(name, options, 4, 0.5)

    def of(loss):
        return lambda features, _: loss(torch.cat(features))

    assert_trains_alike(of(ours), of(theirs), 4, dtype, rtol)


def test_temperatures_where_theirs_overflow():
    z = rows(16, 8, 4).float()
    for name, options in ((name, options) for name, every in OPTIONS.items() for options in every):
        ours, theirs = functions(name, options, 4, 0.005)
        leaf = z.clone().requires_grad_()
        value = ours(leaf)
        value.backward()
        assert value.isfinite() and leaf.grad.isfinite().all(), name
        if name in ("MVINFONCE", "MVDHEL", "CL_1") and not options:
            assert not theirs(z).isfinite()


@EVERY
def test_small_batches_have_finite_gradients(name, options):
    """One instance has no negative: 0 where theirs is -inf. The ablations keep the part that needs none."""
    for n in (0, 1):
        leaf = rows(n, 5, 2).requires_grad_()
        value = getattr(compat, name)(multiplier=2, **options)(leaf)[0]
        value.backward()
        assert value == 0 or (n == 1 and name.startswith("CL_"))
        assert value.isfinite() and leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@EVERY
def test_half_precision_gives_a_float32_loss(name, options, dtype):
    z = rows(32, 16, 4)
    ours, theirs = functions(name, options, 4, 0.2)
    loss = ours(z.to(dtype))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), theirs(z), rtol=0.02, atol=0.02)


def test_distributed_works_alone():
    z = rows(8, 4, 2)
    for name in SIGNATURES:
        cls = getattr(compat, name)
        assert torch.equal(cls(distributed=True)(z)[0], cls()(z)[0])


def test_wrong_arguments_are_named():
    for call, message in [
        (lambda: compat.MVDHEL(tau=0.0), "tau must be finite and > 0"),
        (lambda: compat.MVDHEL(multiplier=1), "multiplier must be an int >= 2"),
        (lambda: compat.PVCLoss(method="harmonic"), "method must be one of 'geometric', 'arithmetic'"),
        (lambda: compat.MVINFONCE(multiplier=3)(rows(5, 4, 2)), "z must have a number of rows that 3 divides, got 10"),
        (lambda: compat.NTXentHPS()(rows(1, 4, 3)), "z must have a number of rows that 2 divides, got 3"),
        (lambda: compat.MVINFONCE()(rows(5, 4, 2)[0]), "z must have shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@EVERY
def test_nothing_of_the_size_of_all_pairs_is_kept(name, options, monkeypatch):
    loss = getattr(compat, name)(multiplier=2, **options)
    assert_saves_rows(lambda z: loss(z)[0], lambda n: [rows(n // 2, 16, 2).float()], monkeypatch)
