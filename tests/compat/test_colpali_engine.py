"""colpali-engine's losses, of tokens and of single embeddings, against the package's own."""

import inspect
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contrastile.compat import colpali_engine as ours
from contrastile.testing import Case
from support.pairing import assert_agreement
from support.standins import load

from .dropins import assert_module, assert_same_signature, assert_saves_rows
from .group_formulas import groups
from .token_models import tokens

LATE = ("ColbertLoss", "ColbertPairwiseCELoss", "ColbertSigmoidLoss")
LATE_NEGATIVE = ("ColbertNegativeCELoss", "ColbertPairwiseNegativeCELoss")
SINGLE = ("BiEncoderLoss", "BiPairedEncoderLoss", "BiPairwiseCELoss", "BiSigmoidLoss")
SINGLE_NEGATIVE = ("BiNegativeCELoss", "BiPairwiseNegativeCELoss")
T = 0.2
# the threshold is chosen so that some negatives of these batches are above it and some below
FILTER = {"pos_aware_negative_filtering": True, "filter_threshold": 0.6, "filter_factor": 0.7}


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch):
    """Else the package looks for kernels, and with them imports all of its models."""
    monkeypatch.setenv("COLPALI_SCORES_BACKEND", "torch")


@pytest.fixture(scope="module")
def peer():
    parts = [
        load(f"colpali_engine.loss.{kind}_losses", ("colpali_engine",)) for kind in ("late_interaction", "bi_encoder")
    ]
    return SimpleNamespace(**vars(parts[0]), **{k: v for k, v in vars(parts[1]).items() if k.startswith("Bi")})


def padded(*shape, seed):
    """Tokens of which the last of every second item is padding."""
    x = tokens(*shape, seed=seed, shift=1.0)
    x.view(-1, *shape[-2:])[::2, -1] = 0.0
    return x


def late(n=4, m=4):
    return padded(n, 3, 6, seed=0), padded(m, 5, 6, seed=1), padded(n, 2, 4, 6, seed=2)


def padding_stays(loss, offset):
    """As models have it, tokens of zeros are constants: of equal maxima the package's amax gives each a share."""
    return lambda *x: loss(*(part * (part.detach() != 0) for part in x), offset=offset)


def single(n=5, m=5):
    q, p = groups(n=n, size=3, d=6)
    p = p.view(n, 3, 6)
    d = torch.cat(
        [F.normalize(torch.randn(m - n, 6, generator=torch.Generator().manual_seed(9)).double(), dim=1), p[:, 0]]
    )
    return q, d, p[:, 1:].contiguous()


@pytest.mark.filterwarnings("ignore:normalised scores leave")
@pytest.mark.parametrize(
    "options", [{}, {"use_smooth_max": True, "tau": 0.3}, FILTER], ids=["plain", "smooth", "filter"]
)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", LATE + LATE_NEGATIVE)
def test_late_interaction(peer, name, normalize, options):
    options = {"temperature": T, "normalize_scores": normalize, **options}
    offset = 0 if name == "ColbertSigmoidLoss" else 2
    q, d, negatives = late(m=4 if offset == 0 else 7)
    given = (q, d, negatives) if name in LATE_NEGATIVE else (q, d)
    for more in ({}, {"in_batch_term_weight": 0.0}) if name in LATE_NEGATIVE else ({},):
        losses = [getattr(module, name)(**options, **more) for module in (ours, peer)]
        assert_agreement(*(padding_stays(loss, offset) for loss in losses), Case(given, {}, 10.0))


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("name", SINGLE + SINGLE_NEGATIVE)
def test_single_embeddings(peer, name, filtered):
    if filtered and name == "BiPairwiseNegativeCELoss":
        return  # the package has no filter there
    options = {"temperature": T, **(FILTER if filtered else {})}
    offset = {"BiEncoderLoss": 2, "BiSigmoidLoss": 5, "BiNegativeCELoss": 2}.get(name, 0)
    q, d, negatives = single(m=5 + offset)
    given = (q, d, negatives) if name in SINGLE_NEGATIVE else (q, d)
    for more in ({}, {"in_batch_term_weight": 0.0}) if name in SINGLE_NEGATIVE else ({},):
        losses = [getattr(module, name)(**options, **more) for module in (ours, peer)]
        if filtered:
            open_ended = [type(losses[1])(**{**options, "pos_aware_negative_filtering": False}, **more)]
            assert more or not torch.allclose(losses[1](*given, offset=offset), open_ended[0](*given, offset=offset))
        assert_agreement(*(partial(loss, offset=offset) for loss in losses), Case(given, {}, 10.0))


@pytest.mark.parametrize("name", LATE + LATE_NEGATIVE + SINGLE + SINGLE_NEGATIVE)
def test_signatures_and_modules(peer, name):
    mine, theirs = getattr(ours, name), getattr(peer, name)
    assert_same_signature(mine, theirs)
    their = inspect.signature(theirs.forward).parameters
    assert list(inspect.signature(mine.forward).parameters) == list(their)
    assert_module(mine())


@pytest.mark.parametrize("name", ["ColbertLoss", "ColbertPairwiseCELoss", "BiEncoderLoss", "BiSigmoidLoss"])
def test_training(peer, name):
    """Steps of a small encoder, the same with either package's loss, and the loss falls."""

    def losses(module):
        torch.manual_seed(0)
        model, loss, found = nn.Linear(6, 6).double(), getattr(module, name)(temperature=1.0), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        x = late()[:2] if name in LATE else single()[:2]
        for _ in range(4):
            value = loss(*(F.normalize(model(part), dim=-1) for part in x))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            found.append(value.detach())
        assert found[-1] < found[0]
        return torch.stack(found)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.testing.assert_close(losses(ours), losses(peer), rtol=1e-9, atol=0.0)


def test_scores_in_the_place_of_the_packages(peer, monkeypatch):
    module = load("colpali_engine.loss.late_interaction_losses", ("colpali_engine",))
    q, d, negatives = late()
    loss = module.ColbertNegativeCELoss(temperature=T, normalize_scores=False)
    true, before = loss(q, d, negatives), module.maxsim_kd
    with ours.patch(module):
        assert module.maxsim_inbatch is ours.maxsim_inbatch and module.maxsim_kd is ours.maxsim_kd
        torch.testing.assert_close(loss(q, d, negatives), true)
        with pytest.raises(ValueError, match="maxsim_inbatch of this module is wrapped or patched already"):
            ours.patch(module)
        monkeypatch.setenv("COLPALI_SCORES_BACKEND", "lik")
        with pytest.raises(ValueError, match="COLPALI_SCORES_BACKEND must be one of"):
            loss(q, d, negatives)
    assert module.maxsim_kd is before


def test_wrong_use_is_refused():
    q, d, negatives = single(m=7)
    for name, documents, offset in (("BiEncoderLoss", d, 3), ("BiNegativeCELoss", d, -1), ("ColbertLoss", None, 1)):
        given = late()[:2] if documents is None else (q, documents, negatives)[: 3 if "Negative" in name else 2]
        with pytest.raises(ValueError, match="offset must be an int from 0 to"):
            getattr(ours, name)()(*given, offset=offset)
    with pytest.raises(ValueError, match="doc_embeddings must be those of 5 queries or more, got 4"):
        ours.BiEncoderLoss()(q, d[:4])
    with pytest.raises(ValueError, match="the package does not look at it"):
        ours.BiPairwiseCELoss()(q, d, offset=2)
    with pytest.raises(ValueError, match="BiPairedEncoderLoss takes as many documents as queries"):
        ours.BiPairedEncoderLoss()(q, d)
    with pytest.raises(ValueError, match="ColbertSigmoidLoss takes as many documents as queries"):
        ours.ColbertSigmoidLoss()(*late(m=7)[:2], offset=2)
    with pytest.raises(ValueError, match="doc_embeddings and offset must be multiples of 5 queries"):
        ours.BiSigmoidLoss()(q, d, offset=1)
    for options in ({"temperature": 0.0}, {"filter_factor": 0.0, "pos_aware_negative_filtering": True}):
        with pytest.raises(ValueError, match="|".join(options)):
            ours.BiEncoderLoss(**options)
    with pytest.raises(ValueError, match=r"in_batch_term_weight must be from 0 to 1, got 1\.5"):
        ours.ColbertNegativeCELoss(in_batch_term_weight=1.5)
    for loss, given in ((ours.ColbertPairwiseCELoss(), late()[:2]), (ours.BiPairwiseCELoss(), (q, d))):
        with pytest.raises(ValueError, match="there is no negative"):
            loss(*(x[:1] for x in given))


@pytest.mark.parametrize(
    ("name", "given"),
    [("BiNegativeCELoss", single()), ("ColbertPairwiseNegativeCELoss", late())],
    ids=["Bi", "Colbert"],
)
def test_refusals_name_what_the_package_names(name, given):
    q, d, negatives = given
    loss = getattr(ours, name)()
    for wrong, message in (
        ((q[..., :-1], d, negatives), "doc_embeddings must have the width of query_embeddings"),
        ((q, d, negatives[..., :-1]), "neg_doc_embeddings must have the width of query_embeddings"),
        ((q, d, negatives[:1]), f"neg_doc_embeddings must be those of {len(q)} queries"),
        ((q[0], d, negatives), "query_embeddings must have shape"),
        ((q, d.long(), negatives), "doc_embeddings must be float32"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            loss(*wrong)
    with pytest.raises(TypeError, match=r"query_embeddings must be a torch\.Tensor, got str"):
        ours.BiPairedEncoderLoss()("q", d)


def test_scores_that_leave_their_range_are_told():
    q, d, _ = late()
    with pytest.warns(UserWarning, match=r"normalised scores leave \[0, 1\]: they go from"):
        ours.ColbertLoss()(3.0 * q, d)


def test_edges():
    q, d, _ = single()
    for name in SINGLE[:2] + SINGLE[3:]:
        loss = getattr(ours, name)()
        assert loss(q[:0], d[:0]) == 0.0
        value = loss(q.bfloat16(), d.bfloat16())
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(q.bfloat16().float(), d.bfloat16().float()), rtol=1e-3, atol=1e-3)
        assert loss(q[:1], d[:1]).isfinite()
    assert ours.ColbertLoss()(*(x[:0] for x in late()[:2])) == 0.0


@pytest.mark.parametrize("name", ["BiEncoderLoss", "BiPairedEncoderLoss", "BiPairwiseCELoss", "BiSigmoidLoss"])
def test_memory_grows_with_rows(name, monkeypatch):
    options = {} if name == "BiPairedEncoderLoss" else FILTER
    g = torch.Generator().manual_seed(0)

    def batch(n):
        return [F.normalize(torch.randn(n, 8, generator=g), dim=1) for _ in range(2)]

    assert_saves_rows(getattr(ours, name)(**options), batch, monkeypatch)
