"""Losses of mixed items against the official codes, restated; points between others; what is refused."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

import contrastile
from contrastile import m2_mix, mixup_info_nce, slerp
from support import exact
from support.exact import same
from support.loss_cases import DTYPES, id_of
from support.refusals import refuses

N, D = 10, 6
G = torch.Generator().manual_seed(7)
unit_rows = partial(exact.unit_rows, G)
X, Y = unit_rows(N, D), unit_rows(N, D)
FLIPPED = torch.arange(N).flip(0)


def shares(n=N):
    return torch.rand(n, generator=G, dtype=torch.float64)


# ---- M3CoL


def mixco_nce(mixed, fixed, perm, betas, temp=0.1):
    """The official function; assignment overwrites the diagonal where a permutation has a fixed point."""
    mixed, fixed = F.normalize(mixed, dim=-1), F.normalize(fixed, dim=-1)
    similarity = (mixed @ fixed.T) / temp
    probs = torch.diag(betas)
    probs[torch.arange(len(mixed)), perm] = 1 - betas
    rows = -(similarity.log_softmax(-1) * probs).sum(-1).mean()
    columns = -(similarity.T.log_softmax(-1) * probs.T).sum(-1).mean()
    return (rows + columns) / 2


def mixed_items(perm):
    """Half of the items are mixed; the others have the share 1."""
    betas = torch.where(torch.arange(N) % 2 == 0, shares(), 1.0)
    return betas[:, None] * X + (1 - betas[:, None]) * X[perm], betas


WITHOUT, WITH = torch.arange(N).roll(3), torch.tensor([0, 2, 1, 3, 5, 4, 7, 6, 8, 9])


@pytest.mark.parametrize("fixed_points", ["add", "overwrite"])
def test_m3co(fixed_points):
    mixed, betas = mixed_items(WITHOUT)
    found = mixup_info_nce(mixed, Y, WITHOUT, betas, normalize=True, fixed_points=fixed_points)
    same(found, mixco_nce(mixed, Y, WITHOUT, betas), X, Y)


def test_m3co_with_fixed_points_as_its_code_has_it():
    mixed, betas = mixed_items(WITH)
    found = mixup_info_nce(mixed, Y, WITH, betas, normalize=True, fixed_points="overwrite")
    same(found, mixco_nce(mixed, Y, WITH, betas), X, Y)
    rows = mixup_info_nce(
        mixed, Y, WITH, betas, normalize=True, fixed_points="overwrite", direction="rows", reduction="none"
    )
    dropped = (torch.arange(N) == WITH) & (betas == 1.0)  # neither mixed nor moved: no target
    assert dropped.any() and not rows[dropped].any() and (rows[~dropped] > 0.0).all()


def test_fixed_points_are_one_target_by_default():
    mixed, betas = mixed_items(WITH)
    logits = F.normalize(mixed, dim=1) @ F.normalize(Y, dim=1).T / 0.1
    target = torch.diag(betas).index_put((torch.arange(N), WITH), 1 - betas, accumulate=True)
    assert (target.sum(1) == 1.0).all()
    expected = (F.cross_entropy(logits, target) - (target * logits.log_softmax(0)).sum() / N) / 2
    same(mixup_info_nce(mixed, Y, WITH, betas, normalize=True), expected, X, Y)


# ---- geodesic mixup


def sph_inter(a, b, s):
    """The official function."""
    theta = torch.acos((a * b).sum(dim=1)).view(a.shape[0], 1)
    return torch.sin(s * theta) / torch.sin(theta) * a + torch.sin((1 - s) * theta) / torch.sin(theta) * b


def clip_of(logits, targets):
    """The official clip_loss: targets need not add up to 1."""
    rows = -(targets * logits.log_softmax(-1)).sum(1)
    return ((rows - (targets.T * logits.T.log_softmax(-1)).sum(1)) / 2.0).mean()


def three_mixtures(x, y, lam, tau, original_neg):
    """V-, L- and VL-Mix of main.py."""
    eye = torch.eye(len(x), dtype=x.dtype)
    flipped, plain = eye.flip(0), x @ y.T
    mixed_x, mixed_y = sph_inter(x, x.flip(0), lam), sph_inter(y, y.flip(0), lam)
    found = []
    for logits, target in (
        (mixed_x @ y.T, lam * eye + (1 - lam) * flipped), (x @ mixed_y.T, lam * eye + (1 - lam) * flipped),
        (mixed_x @ mixed_y.T, eye + flipped),
    ):  # fmt: skip
        cross = eye + flipped
        logits = logits * cross + plain * (1 - cross) if original_neg else logits
        found.append(clip_of(logits / tau, target))
    return found


@pytest.mark.parametrize("original_neg", [False, True])
def test_v_l_and_vl_mix(original_neg):
    lam, tau = 0.3, 0.05
    mixed = [slerp(z, z.flip(0), lam) for z in (X, Y)]
    before = [{"unmixed": X}, {"unmixed": Y}, {"unmixed": X, "unmixed_clean": Y}] if original_neg else [{}, {}, {}]
    found = [
        mixup_info_nce(mixed[0], Y, FLIPPED, lam, temperature=tau, **before[0]),
        mixup_info_nce(mixed[1], X, FLIPPED, lam, temperature=tau, **before[1]),
        mixup_info_nce(*mixed, FLIPPED, torch.ones(N, 2), temperature=tau, **before[2]),
    ]
    for ours, theirs in zip(found, three_mixtures(X, Y, lam, tau, original_neg), strict=True):
        same(ours, theirs, X, Y)


def test_the_centre_of_an_odd_batch():
    """Its own mirror image: the official slerp is not a number there; with original_neg it counts twice, less the
    unmixed score. Here it is one target."""
    x, y = X[:9].detach().requires_grad_(), Y[:9].detach().requires_grad_()
    lam, flipped = 0.3, torch.arange(9).flip(0)
    mixed = slerp(x, x.flip(0), lam)
    torch.testing.assert_close(mixed[4], x[4], rtol=1e-14, atol=1e-14)
    assert sph_inter(x, x.flip(0), lam)[4].isnan().any() or not torch.equal(mixed[4], x[4])
    eye = torch.eye(9, dtype=torch.float64)
    target, cross = lam * eye + (1 - lam) * eye.flip(0), (eye + eye.flip(0)).bool()
    plain = clip_of(mixed @ y.T / 0.05, target)
    same(mixup_info_nce(mixed, y, flipped, lam, temperature=0.05), plain, x, y)
    kept = clip_of(torch.where(cross, mixed @ y.T, x @ y.T) / 0.05, target)
    same(mixup_info_nce(mixed, y, flipped, lam, temperature=0.05, unmixed=x), kept, x, y)


def test_m2_mix():
    """clip_loss2 of main.py: a sum of both sides, the matched pair in place of its own mixture."""
    lam, tau, eye = 0.4, 0.07, torch.eye(N, dtype=torch.float64)
    between = sph_inter(X, Y, lam)
    expected = 0.0
    for anchor in (X, Y):
        logits = X @ Y.T * eye + anchor @ between.T * (1 - eye)
        expected = expected + F.cross_entropy(logits / tau, torch.arange(N))
    same(m2_mix(X, Y, lam, temperature=tau), expected, X, Y)
    same(m2_mix(X, Y, lam, temperature=tau, direction="mean"), expected / 2, X, Y)


# ---- any partners and shares

share_of_one = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))


@st.composite
def mixtures(draw):
    n = draw(st.integers(1, 7))
    partner = draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
    own = draw(st.lists(share_of_one, min_size=n, max_size=n))
    share = torch.tensor(own, dtype=torch.float64)
    if draw(st.booleans()):
        share = torch.stack([share, torch.tensor(draw(st.lists(share_of_one, min_size=n, max_size=n))).double()], 1)
    return torch.tensor(partner), share


@given(
    mixtures(), st.sampled_from(["add", "overwrite"]), st.sampled_from(["mean", "rows", "cols"]), st.booleans(),
    st.sampled_from(["mean", "none"]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_partners_and_shares(mixture, fixed_points, direction, unmixed, reduction):
    partner, share = mixture
    n = len(partner)
    x, y, u = (unit_rows(n, D) for _ in range(3))
    options = {"fixed_points": fixed_points, "direction": direction, "reduction": reduction}
    options |= {"unmixed": u, "unmixed_clean": x} if unmixed else {}
    args = (x, y, partner, share)
    found, expected = mixup_info_nce(*args, **options), contrastile.reference.mixup_info_nce(*args, **options)
    same(found, expected, *((x, y, u) if unmixed else (x, y)))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_an_item_that_is_not_mixed_keeps_the_digits_of_a_converged_model(backend, reduction):
    """A float32 log-sum-exp less its positive has none at a loss of 1e-7."""
    x = torch.eye(24)[:20]
    y = F.normalize(x + 0.05 * torch.randn(20, 24, generator=G), dim=1)
    args = (x, y, torch.arange(20).roll(1), 1.0)
    found = mixup_info_nce(*args, temperature=0.05, reduction=reduction, backend=backend)
    wide = (x.double(), y.double(), *args[2:])
    true = contrastile.reference.mixup_info_nce(*wide, temperature=0.05, reduction=reduction)
    assert 1e-9 < true.max() < 1e-5
    torch.testing.assert_close(found.double(), true, rtol=2e-5, atol=0.0)


# ---- slerp


@given(st.floats(0.0, math.pi - 1e-3), st.floats(0.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_a_share_of_the_arc(angle, share):
    x = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    found = slerp(x, torch.tensor([[1.0, 0.0]], dtype=torch.float64), share)
    expected = torch.tensor([[math.cos(share * angle), math.sin(share * angle)]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


def test_slerp_is_the_official_one_between():
    share = shares()
    same(slerp(X, Y, share), sph_inter(X, Y, share[:, None]), X, Y)
    same(slerp(X, Y, 0.3), sph_inter(X, Y, 0.3), X, Y)


def true_slerp(x, y, share, upstream):
    """Value and both gradients of <upstream, slerp>, the factors and their derivatives by the cosine in 60 digits."""
    factors, slopes = [], []
    for cosine in (x * y).sum(1).tolist():
        angle, parts = mp.acos(mp.mpf(cosine)), (mp.mpf(share), 1 - mp.mpf(share))
        ratio = [mp.sin(p * angle) / mp.sin(angle) for p in parts]
        factors.append([float(mp.re(r)) for r in ratio])  # a cosine may be rounded to above 1
        slopes.append([
            float(mp.re((r * mp.cos(angle) - p * mp.cos(p * angle)) / mp.sin(angle) ** 2))
            for r, p in zip(ratio, parts, strict=True)
        ])  # fmt: skip
    (f, g), (df, dg) = (torch.tensor(z, dtype=torch.float64).T.unsqueeze(2) for z in (factors, slopes))
    by_cosine = df * (x * upstream).sum(1, keepdim=True) + dg * (y * upstream).sum(1, keepdim=True)
    return f * x + g * y, f * upstream + by_cosine * y, g * upstream + by_cosine * x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_angles_keep_their_digits(dtype):
    """On both sides of the place where a series takes over."""
    distance = torch.logspace(-6, 0, 31, dtype=torch.float64)[:, None]
    x, z, upstream = (F.normalize(torch.randn(31, D, generator=G, dtype=torch.float64), dim=1) for _ in range(3))
    y = F.normalize(x + distance * z, dim=1)
    x, y = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
    value = slerp(x, y, 0.3)
    found = (value, *torch.autograd.grad((value * upstream.to(dtype)).sum(), (x, y)))
    with mp.workdps(60):
        truth = true_slerp(x.detach().double(), y.detach().double(), 0.3, upstream)
    for ours, true in zip(found, truth, strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=0.0, atol=1e-13 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_equal_opposite_and_missing_points(dtype, share):
    """There is no shortest arc between opposite points; gradients of all are finite."""
    y = F.normalize(torch.randn(4, D, generator=G, dtype=torch.float64), dim=1).to(dtype)
    x = torch.stack([y[0], -y[1], -y[2], torch.zeros_like(y[3])])
    x[2, 0] += 1e-2
    x, y = x.requires_grad_(), y.requires_grad_()
    found = slerp(x, y, share)
    assert found.dtype == dtype and found.isfinite().all() and found.norm(dim=1).max() < 1.1
    torch.testing.assert_close(found[0], y[0], rtol=2e-2, atol=2e-2)
    if dtype in (torch.float32, torch.float64):  # half-precision rows are not of length 1
        torch.testing.assert_close(found[1], share * x[1] + (1 - share) * y[1])
    found.sum().backward()
    assert x.grad.isfinite().all() and y.grad.isfinite().all()


# ---- what is refused

BAD = {
    r"partner must lie in \[0, 10\)": {"partner": torch.full((N,), -1)},
    r"partner must lie in \[0, 10\) ": {"partner": torch.full((N,), N)},
    r"partner must have shape \(10,\), got \(3,\)": {"partner": FLIPPED[:3]},
    "share must be between 0 and 1": {"share": 1.5},
    "share must be between 0 and 1 ": {"share": torch.full((N,), -0.1)},
    "share must be a number": {"share": torch.ones(3)},
    r"share must have shape \(10,\) or \(10, 2\), got \(10, 3\)": {"share": torch.ones(N, 3)},
    "share must be finite and >= 0": {"share": -torch.ones(N, 2)},
    "share must not require grad": {"share": torch.ones(N, requires_grad=True)},
    "share must not require grad ": {"share": torch.ones(N, 2, requires_grad=True)},
    "fixed_points must be one of 'add', 'overwrite', got 'drop'": {"fixed_points": "drop"},
    "unmixed_clean must be None without unmixed": {"unmixed_clean": Y},
    "unmixed must have the shape of mixed": {"unmixed": Y[:3]},
    "unmixed_clean must have the shape of mixed": {"unmixed": X, "unmixed_clean": Y[:3]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_of_mixup_info_nce_are_named(message):
    arguments = {"mixed": X, "clean": Y, "partner": FLIPPED, "share": 0.5, **BAD[message]}
    with refuses(ValueError, f"^{message.rstrip()}"):
        mixup_info_nce(**arguments)


def test_shares_of_the_wrong_type_are_named():
    for share in (torch.ones(N, 2, dtype=torch.int64), torch.ones(N, dtype=torch.int64), "half"):
        with refuses(TypeError, "^share must be"):
            mixup_info_nce(X, Y, FLIPPED, share)
    for loss in (m2_mix, slerp):
        with refuses(ValueError, "^share must"):
            loss(X, Y, 2.0)
