"""A backend of seven methods, written here from the description of a block alone: what `backends.base.Backend` asks for
is enough for losses, gradients, chunks and shortcuts that are not there."""

import pytest
import torch

import contrastile
from contrastile import backends, reference
from contrastile.backends.base import Backend
from contrastile.monoid import SideStats
from contrastile.spec import Limits, PairTest, Reduce, ScoreGradients


class ToyBackend(Backend):
    """Dense tiles; log-sum-exp and softplus of dot products, rules by index, id and partner."""

    name = "toy"

    def unavailable(self):
        return None

    def why_not(self, device, dtype):
        return None if device.type == "cpu" else f"features are on {device}, it needs cpu"

    def limits(self, device):
        return Limits(workspace=4 * 8 * 16, max_chunk=8, square_chunk=8, min_chunk=4)

    def compute_dtype(self, dtype, device):
        return dtype

    def accumulate(self, out, x, y):
        out += x @ y

    def stats(self, block):
        z, kept, positive = pairs(block)
        columns = side(block, z.T, kept.T, positive.T) if block.both_sides else None
        return side(block, z, kept, positive), columns

    def score_grad(self, block, needs):
        z, kept, positive = pairs(block)
        grad = slopes(block, block.row, z, kept, positive)
        if block.both_sides:
            grad = grad + slopes(block, block.col, z.T, kept.T, positive.T).T
        scale, score = block.row.scale[:, None], block.row.features @ block.col.features.T
        return ScoreGradients(
            (grad * scale)[None], row_bias=grad.sum(1), col_bias=grad.sum(0), row_scale=(grad * score).sum(1)
        )


def pairs(block):
    """z, and which pairs are kept and positive, (n, m)."""
    row, col, spec = block.row, block.col, block.spec
    z = row.scale[:, None] * (row.features @ col.features.T)
    z = z if row.bias is None else z + row.bias[:, None]
    numbers = col.origin + torch.arange(len(col))
    same_index = (row.origin + torch.arange(len(row)))[:, None] == numbers
    partner = torch.zeros_like(same_index) if row.partner is None else (row.partner[:, :, None] == numbers).any(1)
    same_id = same_index if row.ids is None else row.ids[:, None] == col.ids
    facts = {
        PairTest.SAME_INDEX: same_index, PairTest.OTHER_INDEX: ~same_index,
        PairTest.SAME_ID: same_id, PairTest.OTHER_ID: ~same_id,
        PairTest.PARTNER: partner, PairTest.NO_PARTNER: ~partner,
    }  # fmt: skip
    kept, positive = passing(spec.keep, facts), passing(spec.positives, facts) & bool(spec.positives)
    return z, kept | (positive & spec.keep_positives), positive


def passing(rule, facts):
    """Which pairs pass every test of a rule."""
    asked = [holds for test, holds in facts.items() if rule & test]
    return torch.stack(asked).all(0) if asked else torch.ones_like(facts[PairTest.SAME_INDEX])


def side(block, z, kept, positive):
    if block.spec.reduce == Reduce.LSE:
        z_kept = z.masked_fill(~kept, -torch.inf)
        peak = z_kept.amax(1)
        total = (z_kept - peak.clamp_min(-1e30)[:, None]).exp().sum(1)
        return SideStats(peak=peak, total=total, positive=(z * positive).sum(1))
    softplus = torch.nn.functional.softplus
    return SideStats(total=(softplus(z) * kept).sum(1), positive=(softplus(-z) * positive).sum(1))


def slopes(block, item, z, kept, positive):
    if block.spec.reduce == Reduce.LSE:
        own = (z - item.stat.sum(1).clamp_min(-1e30)[:, None]).exp().masked_fill(~kept, 0.0)
        of_positive = torch.ones_like(z)
    else:
        own, of_positive = torch.sigmoid(z) * kept, -torch.sigmoid(-z)
    grad = item.weight[:, None] * own
    return grad if item.positive_weight is None else grad + item.positive_weight[:, None] * of_positive * positive


LOSSES = {
    "clip_loss": lambda module, x, y, s: module.clip_loss(x, y, s),
    "info_nce": lambda module, x, y, s: module.info_nce(x, y, temperature=1 / s),
    "nt_xent": lambda module, x, y, s: module.nt_xent(x, y, temperature=1 / s),
    "siglip_loss": lambda module, x, y, s: module.siglip_loss(x, y, s, -2.0),
    "clip_loss none": lambda module, x, y, s: module.clip_loss(x, y, s, reduction="none").square().sum(),
}


def outcome(module, name, rows):
    g = torch.Generator().manual_seed(rows)
    x, y = torch.nn.functional.normalize(torch.randn(2, rows, 5, generator=g, dtype=torch.float64), dim=2)
    leaves = [x.requires_grad_(), y.requires_grad_(), torch.tensor(7.0, dtype=torch.float64, requires_grad=True)]
    value = LOSSES[name](module, *leaves)
    return [value, *torch.autograd.grad(value, leaves)]


@pytest.mark.parametrize("rows", [1, 3, 29])
@pytest.mark.parametrize("name", LOSSES)
def test_seven_methods_are_a_backend(name, rows, monkeypatch):
    """One block, and many: chunks of 8 rows."""
    assert len(Backend.__abstractmethods__) == 7
    monkeypatch.setattr(backends, "BACKENDS", (ToyBackend(),))
    assert backends.select("auto", torch.device("cpu"), torch.float64, 1).name == "toy"
    torch.testing.assert_close(outcome(contrastile, name, rows), outcome(reference, name, rows), rtol=1e-12, atol=1e-13)


def test_a_missing_sum_is_no_zero(monkeypatch):
    """ToyBackend has no gradient of a column's scale."""
    monkeypatch.setattr(backends, "BACKENDS", (ToyBackend(),))
    x, scale = torch.randn(6, 5, dtype=torch.float64), torch.ones(6, dtype=torch.float64, requires_grad=True)
    with pytest.raises(AssertionError, match="toy: score_grad was asked for col_scale"):
        contrastile.pair_loss(x, x.clone(), col_scale=scale)


def test_a_backend_without_a_method_cannot_be_made():
    incomplete = type("Incomplete", (ToyBackend,), {"score_grad": Backend.score_grad})
    with pytest.raises(TypeError, match="score_grad"):
        incomplete()
