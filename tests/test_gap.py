"""CUA, CUAXU and the metrics of the gap between two modalities."""

import math

import pytest
import torch
import torch.nn.functional as F

import contrastile
from contrastile import alignment, clip_loss, cua, cuaxu, metrics, uniformity
from contrastile.catalog import Case
from support.loss_cases import id_of, usable
from support.pairing import assert_agreement
from support.refusals import refuses

FULL = usable("cpu", (torch.float32, torch.float64))
on_full_precision = pytest.mark.parametrize("backend, dtype", FULL, ids=id_of)


def unit_pair(n, d, seed=0, noise=0.7):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return F.normalize(x, dim=1), F.normalize(x + noise * y, dim=1)


# ---- losses: abrar-fahim/contrastive-gap @8c1a17b, clips/hf_clip.py, restated


def official(x, y, logit_scale, cross=False):
    logits, target = logit_scale * x @ y.T, torch.arange(len(x))
    value = 0.5 * F.cross_entropy(logits, target) + 0.5 * F.cross_entropy(logits.T, target)
    for z in (x, y):
        value = value + 0.5 * torch.pdist(z).pow(2).mul(-2).exp().mean().log()
    value = value + (x - y).norm(dim=1).pow(2).mean()
    if cross:
        squared = (x[:, None] - y).norm(dim=2).pow(2)
        value = value + squared[~torch.eye(len(x), dtype=torch.bool)].mul(-2).exp().mean().log()
    return value


@pytest.mark.parametrize("loss, cross", [(cua, False), (cuaxu, True)], ids=["cua", "cuaxu"])
@pytest.mark.parametrize("scale", [5.0, 100.0])
@pytest.mark.parametrize("n", [2, 17])
@on_full_precision
def test_the_official_formula(loss, cross, scale, n, backend, dtype):
    case = Case((*(z.to(dtype) for z in unit_pair(n, 6)), torch.tensor(scale)), {}, scale)
    assert_agreement(loss, lambda *args: official(*args, cross), case, backend=backend)


def test_the_paper_keeps_the_scale_at_100():
    x, y = unit_pair(9, 5)
    torch.testing.assert_close(cuaxu(x, y), official(x, y, 100.0, cross=True))


@pytest.mark.parametrize("name", ["clip", "uniformity", "alignment", "cross_uniformity"])
def test_each_weight_belongs_to_its_term(name):
    x, y = unit_pair(9, 5)
    terms = {
        "clip": clip_loss(x, y, 20.0),
        "uniformity": 0.5 * (uniformity(x, t=3.0) + uniformity(y, t=3.0)),
        "alignment": alignment(x, y),
        "cross_uniformity": uniformity(x, y, t=3.0),
    }
    weights = {f"{term}_weight": 0.0 for term in terms} | {f"{name}_weight": 0.7}
    torch.testing.assert_close(cuaxu(x, y, 20.0, t=3.0, **weights), 0.7 * terms[name])
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    cuaxu(x, y, 20.0, t=3.0, **weights | {f"{name}_weight": weight}).backward()
    torch.testing.assert_close(weight.grad, terms[name])


def test_terms_of_weight_zero_are_not_computed():
    """Nor can they spoil the loss: a scale that overflows is not looked at."""
    x, y = (z.float() for z in unit_pair(9, 5))
    assert cua(x, y, 1e38, clip_weight=0.0).isfinite()


@pytest.mark.parametrize("loss", [cua, cuaxu])
def test_one_pair_is_alignment_alone_and_none_is_zero(loss):
    x, y = (z.float().requires_grad_() for z in unit_pair(1, 5))
    torch.testing.assert_close(loss(x, y), alignment(x, y))
    loss(x, y).backward()
    empty, scale = torch.zeros(0, 5, requires_grad=True), torch.tensor(9.0, requires_grad=True)
    nothing = loss(empty, empty, scale)
    nothing.backward()
    assert torch.equal(nothing, torch.zeros(())) and torch.equal(scale.grad, torch.zeros(()))


@pytest.mark.parametrize("number", [torch.float64, torch.float16], ids=id_of)
def test_parameters_of_another_type_do_not_decide_the_type(number):
    x, y = (z.float() for z in unit_pair(9, 5))
    found = cuaxu(x, y, torch.tensor(8.0, dtype=number), uniformity_weight=torch.tensor(0.5, dtype=number))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cuaxu(x, y, 8.0, uniformity_weight=0.5))


def test_the_gap_closes():
    """What the losses are for: two cones that clip_loss leaves apart come together."""

    def trained(loss):
        g = torch.Generator().manual_seed(0)
        base = torch.randn(64, 8, generator=g)
        image, text = ((base + 4.0 * torch.eye(8)[i]).requires_grad_() for i in range(2))
        optimizer = torch.optim.Adam([image, text], lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            loss(image, text, 100.0, normalize=True).backward()
            optimizer.step()
        return image.detach(), text.detach()

    plain, closed = trained(clip_loss), trained(cuaxu)
    assert metrics.centroid_distance(*closed) < 0.6 * metrics.centroid_distance(*plain)
    assert metrics.positive_cosine(*closed) > metrics.positive_cosine(*plain) + 0.1


# ---- metrics


def test_distance_and_cosine_of_centroids():
    axes = torch.eye(4, dtype=torch.float64)
    x, y = axes[[0, 0]] * torch.tensor([[1.0], [7.0]]), axes[[0, 1]]  # lengths do not count
    assert metrics.centroid_distance(x, y).item() == pytest.approx(math.sqrt(0.5))
    assert metrics.centroid_cosine(x, y).item() == pytest.approx(math.sqrt(0.5))
    assert metrics.positive_cosine(x, y).item() == pytest.approx(0.5)
    assert metrics.centroid_distance(x, -x).item() == pytest.approx(2.0)
    assert metrics.centroid_cosine(x, -x).item() == pytest.approx(-1.0)
    assert metrics.positive_cosine(x, -x).item() == pytest.approx(-1.0)
    both = torch.stack([axes[0], -axes[0]])
    assert metrics.centroid_cosine(both, y) == 0.0  # a centroid of 0 has no direction
    assert metrics.centroid_distance(x, x) == 0.0


def test_separable_sets_have_accuracy_one():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200, 16, generator=g).unbind()
    shift = 20.0 * torch.eye(16)[0]
    assert metrics.linear_separability(x + shift, y - shift) == 1.0
    assert metrics.linear_separability(x - shift, y + shift, train_fraction=0.01) == 1.0


def test_equal_sets_have_accuracy_one_half():
    x = torch.randn(100, 16)
    assert metrics.linear_separability(x, x.clone()) == 0.5


def test_equal_distributions_are_near_one_half():
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 2000, 8, generator=g).unbind()
    assert abs(metrics.linear_separability(x, y) - 0.5) < 0.04


def test_the_accuracy_is_that_of_pairs_not_fitted_on():
    """In 300 dimensions any 40 points can be told apart; that says nothing about the others."""
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(2, 100, 300, generator=g).unbind()
    assert 0.3 < metrics.linear_separability(x, y, penalty=1e-3) < 0.7


def test_overlapping_sets_have_the_accuracy_of_the_best_plane():
    """One direction separates weakly: the accuracy is the share of points on their own side of the plane."""
    g = torch.Generator().manual_seed(2)
    side = torch.tensor([1.0, 0.0, 0.0])
    points = F.normalize(torch.randn(4000, 3, generator=g), dim=1)
    x, y = F.normalize(points - 0.5 * side, dim=1), F.normalize(points + 0.5 * side, dim=1)
    accuracy = metrics.linear_separability(x, y, train_fraction=0.5)
    expected = ((x[:, 0] < 0).float().mean() + (y[:, 0] > 0).float().mean()) / 2
    assert accuracy == pytest.approx(expected.item(), abs=0.03)


def test_the_fit_is_the_minimum():
    g = torch.Generator().manual_seed(3)
    x, y = (F.normalize(torch.randn(60, 5, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    fitted = metrics.embedding.fit_logistic(x, y, 1.0).requires_grad_()
    z, label = torch.cat([x, y]), torch.cat([-torch.ones(60), torch.ones(60)]).double()
    loss = F.softplus(-label * (z @ fitted[:-1] + fitted[-1])).sum() + 0.5 * fitted[:-1].square().sum()
    loss.backward()
    assert fitted.grad.abs().max() < 1e-3 and fitted.detach().norm() > 0.1


def test_separability_is_repeatable_and_takes_a_generator():
    x, y = unit_pair(200, 4, noise=3.0)
    assert metrics.linear_separability(x, y) == metrics.linear_separability(x, y)
    found = {metrics.linear_separability(x, y, generator=torch.Generator().manual_seed(i)) for i in range(5)}
    assert len(found) > 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_separability_of_what_is_not_finite(value):
    x, y = unit_pair(20, 4)
    undefined = x.clone()
    undefined[2, 1] = value
    for name, given in (("x", (undefined, y)), ("y", (x, undefined))):
        with refuses(ValueError, name, "finite"):
            metrics.linear_separability(*given)


def test_metrics_work_wherever_gradients_are_off():
    x, y = unit_pair(50, 4)
    expected = metrics.linear_separability(x, y)
    with torch.no_grad():
        assert metrics.linear_separability(x, y) == expected
    with torch.inference_mode():
        a, b = x + 0.0, y + 0.0
        assert metrics.linear_separability(a, b) == expected
    assert metrics.linear_separability(x.requires_grad_(), y) == expected


def test_effective_rank():
    assert metrics.effective_rank(torch.eye(7)).item() == pytest.approx(7.0)
    assert metrics.effective_rank(3.0 * torch.eye(7)[:, :4]).item() == pytest.approx(4.0)
    line = torch.outer(torch.arange(1.0, 9.0), torch.ones(5)).double()
    assert metrics.effective_rank(line).item() == pytest.approx(1.0)
    sigma = torch.tensor([3.0, 1.0], dtype=torch.float64)
    p = [0.75, 0.25]
    expected = math.exp(-sum(q * math.log(q) for q in p))
    assert metrics.effective_rank(torch.diag(sigma)).item() == pytest.approx(expected)
    assert metrics.effective_rank(torch.zeros(4, 3)) == 0.0
    assert metrics.effective_rank(torch.zeros(0, 3)) == 0.0


def test_half_precision_is_computed_in_float32():
    x, y = (z.bfloat16() for z in unit_pair(50, 4))
    for name in ("centroid_distance", "centroid_cosine", "positive_cosine"):
        metric = getattr(metrics, name)
        assert metric(x, y).dtype == torch.float32
        torch.testing.assert_close(metric(x, y), metric(x.float(), y.float()))
    torch.testing.assert_close(metrics.effective_rank(x), metrics.effective_rank(x.float()))


@pytest.mark.parametrize("name", ["centroid_distance", "centroid_cosine", "positive_cosine", "linear_separability"])
def test_bad_sets(name):
    metric, x = getattr(metrics, name), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"^y must have the shape of x, \(4, 3\), got \(5, 3\)"):
        metric(x, torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"^x must have shape \(N, D\), got \(3,\)"):
        metric(x[0], x)
    with pytest.raises(TypeError, match=r"^y must be float32.*got torch.int64"):
        metric(x, x.long())
    least = 2 if name == "linear_separability" else 1
    with pytest.raises(ValueError, match=rf"^x must have at least {least} rows, got {least - 1}"):
        metric(x[: least - 1], x[: least - 1])


@pytest.mark.parametrize("option, value", [("train_fraction", 0.0), ("train_fraction", 1.0), ("penalty", -1.0)])
def test_bad_options_of_separability(option, value):
    with pytest.raises(ValueError, match=rf"^{option} must be a number .*, got {value}"):
        metrics.linear_separability(torch.ones(4, 3), torch.ones(4, 3), **{option: value})


def test_metrics_are_a_module_of_the_package():
    assert contrastile.metrics is metrics
    assert not set(metrics.__all__) & set(contrastile.losses.__all__)
