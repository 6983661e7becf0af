"""own_scales: a scale of its own for the statistics of each side, against the dense oracle of support.oracle."""

import pytest
import torch

from contrastile import driver, info_nce, pair_loss, pair_reduce, row_lse
from contrastile.backends import cpu_small, torch_pairs, torch_tiles
from contrastile.backends.torch_pairs import of_score
from contrastile.losses import softmax
from contrastile.spec import Limits
from support.cases import BACKEND_DTYPES, EXTRAS, make_call
from support.combinations import crossed, each_once
from support.oracle import check
from support.rules import KEEPS, POSITIVES, REDUCES

BACKENDS = ("torch", "cpu")
SCALES = ("row_scale", "col_scale")
SHAPES = [(1, 1, 1), (1, 7, 3), (7, 1, 3), (5, 6, 0), (0, 5, 4), (5, 0, 4), (31, 37, 41), (65, 63, 2), (25, 511, 3)]


def name(value):
    return str(value).removeprefix("torch.")


def own(n, m, d, dtype=torch.float32, *extras, **options):
    return make_call(n, m, d, dtype, *SCALES, *extras, cols=True, own_scales=True, **options)


def positives_of(reduce, positives):
    return {} if reduce == "max" else {"positives": positives}


@pytest.mark.parametrize(
    "backend, dtype, reduce, keep, positives", each_once(crossed(BACKEND_DTYPES, REDUCES), KEEPS, POSITIVES), ids=name
)
def test_every_reduce_and_rule(backend, dtype, reduce, keep, positives):
    """With biases, thresholds on both z, a mask and two column blocks at once."""
    for extras in ((), [x for x in EXTRAS if x not in SCALES]):
        options = {"reduce": reduce, "keep": keep, "keep_positives": bool(extras)} | positives_of(reduce, positives)
        check(own(37, 53, 19, dtype, *extras, blocks=2, **options), backend=backend)


@pytest.mark.parametrize("n, m, d, backend", each_once(crossed(SHAPES, BACKENDS)))
def test_shapes(backend, n, m, d):
    for reduce in ("lse", "softplus"):
        check(own(n, m, d, positives="same_index", keep="other_index", reduce=reduce), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_are_the_rows(backend):
    """b=None: z of rows and of columns differ, so that no pair serves both ways."""
    check(own(70, None, 9, positives="same_id", keep="other_index"), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_many_pieces(backend, monkeypatch):
    monkeypatch.setattr(driver.plan, "limits", lambda *_: Limits(4 * 64 * 96, 64, 64, 32))
    monkeypatch.setattr(cpu_small, "SMALL_PAIRS", 0)
    for budget in (0, 10_000, 1 << 20):
        call = own(200, 333, 6, torch.float32, blocks=3, keep="other_id", positives="same_index")
        check(call, backend=backend, memory_budget=budget)


@pytest.mark.parametrize("backend", BACKENDS)
def test_positives_apart_and_counts(backend):
    for extras in ((), ("row_high", "col_low", "mask")):
        for positives in ("same_index", "same_id"):
            check(own(40, 60, 8, torch.float32, *extras, positives=positives, split=True, counts=True), backend=backend)


MUTANTS = {  # a function and what takes its place, on the torch backend
    "scales of a side": (torch_pairs, "scales", lambda block, dim: [block.row.scale[:, None], block.col.scale]),
    "z of columns": (torch_pairs, "own_scales", lambda block: False),
    "slopes of columns": (torch_tiles, "own_scales", lambda block: False),
    "sums of scales": (
        torch_pairs,
        "of_score_by_sides",
        lambda block, s, g, of_cols, *x: of_score(block, s, g + of_cols, *x),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_an_error_is_seen(name, monkeypatch):
    call = own(20, 30, 6, keep="other_index", positives="same_index")
    monkeypatch.setattr(*MUTANTS[name])
    with pytest.raises(AssertionError, match="times the budget"):
        check(call, backend="torch")


@pytest.mark.parametrize("call", [pair_reduce, pair_loss])
def test_what_has_no_effect_or_does_not_fit_is_refused(call):
    x, scale = torch.randn(4, 3), torch.ones(4)
    for options in ({"cols": True}, {"col_scale": scale}, {"col_scale": scale, "cols": False}):
        with pytest.raises(ValueError, match=r"^own_scales must not be given without "):
            call(x, x.clone(), scale=scale, own_scales=True, **options)
    with pytest.raises(ValueError, match=r"^col_scale must have shape \(4,\), got \(3,\)"):
        call(x, x.clone(), scale=scale, col_scale=torch.ones(3), cols=True, own_scales=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'own_scales'"):
        row_lse(x, own_scales=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [0.0, -3.0, torch.nan, torch.inf])
def test_a_scale_of_one_side_is_not_seen_by_the_other(backend, value):
    """Of any value: no pair of a row enters the columns through the row's scale, nor the other way round."""
    call = own(20, 30, 6)
    bad = call.options | {"scale": call.options["scale"].clone().index_fill_(0, torch.tensor(3), value)}
    found, right = (pair_reduce(call.a, call.b, backend=backend, **x) for x in (bad, call.options))
    assert torch.equal(found.cols, right.cols)
    assert torch.equal(found.rows[4:], right.rows[4:]) and not torch.equal(found.rows[3], right.rows[3])


def test_on_the_meta_device_and_compiled():
    """Shapes without values; a compiled call has the bits of an eager one."""
    call = own(20, 30, 6, keep="other_index", positives="same_index")
    meta = call.to("meta")
    assert pair_reduce(meta.a, meta.b, **meta.options).cols.shape == (30,)

    def loss(a, b):
        stats = pair_reduce(a, b, **call.options)
        return (stats.rows - stats.row_positives).sum() + (stats.cols - stats.col_positives).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(call.a, call.b[0]), loss(call.a, call.b[0]))


def features(n, d, g):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1).requires_grad_()


OPTIONS = {
    "plain": {},
    "negatives and ids": {"query_ids": torch.arange(12) // 2, "negatives": 5},
    "margins": {"false_negative_margin": 0.1, "relative_margin": 0.4},
    "hardest": {"num_hard": 3, "query_groups": torch.arange(12) % 3},
    "smoothing": {"label_smoothing": 0.2, "negatives": 5},
    "private": {"hard_negatives": 4},
    "logQ": {"key_log_prob": torch.linspace(-2.0, 0.0, 12)},
    "prefixes": {"matryoshka": (2, 5)},
}


OF_QUERIES = {"negatives": (), "hard_negatives": (12,), "key_log_prob": None}  # of query -> key alone


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_both_directions_are_the_sum_of_each(options, reduction, monkeypatch):
    """info_nce with other temperatures in each direction: one pass equals a call for each, all gradients too."""
    g = torch.Generator().manual_seed(5)
    query, key = features(12, 6, g), features(12, 6, g)
    temperatures = [(torch.rand(12, generator=g, dtype=torch.float64) * 0.3 + 0.1).requires_grad_() for _ in range(2)]
    for name, shape in OF_QUERIES.items():
        if shape is not None and name in options:
            options = options | {name: torch.randn(*shape, options[name], 6, generator=g, dtype=torch.float64)}
    leaves = [query, key, *temperatures]

    def value(direction):
        given = options | ({} if direction == "rows" else {"key_temperature": temperatures[1]})
        if direction == "cols":
            given = {name: x for name, x in given.items() if name not in OF_QUERIES}
        loss = info_nce(
            query, key, symmetric=True, reduction=reduction, temperature=temperatures[0], direction=direction, **given
        )
        return (loss * torch.linspace(0.5, 1.5, loss.numel(), dtype=torch.float64).view(loss.shape)).sum()

    apart, calls = value("rows") + value("cols"), []
    for name in ("pair_stats", "weighted_sum"):
        plain = getattr(softmax, name)
        monkeypatch.setattr(softmax, name, lambda *x, plain=plain: calls.append(plain) or plain(*x))
    together = value("sum")
    assert len(calls) == 1 or "matryoshka" in options  # prefixes take a pass for each direction
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
    for x, y in zip(torch.autograd.grad(together, leaves), torch.autograd.grad(apart, leaves), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)
