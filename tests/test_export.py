"""Graphs of any batch size: torch.export in both modes and make_fx give the reference's values at other sizes."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

import contrastile
from contrastile.catalog import CATALOG
from support.combinations import by_default
from support.loss_cases import call, default, each_tensor, every_family, every_variant, id_of, make

TRACED, LATER = 16, 24
MOST = 100_000  # far beyond the batches whose scores are saved for the backward pass: no size may be a limit


class Call(nn.Module):
    """A loss with the numbers and names of a case; forward takes its tensors."""

    def __init__(self, card, case):
        super().__init__()
        self.card, self.options = card, {k: v for k, v in case.kwargs.items() if not isinstance(v, Tensor)}

    def forward(self, args, kwargs):
        return self.card.function(*args, **kwargs, **self.options)


def tensors(case):
    return case.args, {name: x for name, x in case.kwargs.items() if isinstance(x, Tensor)}


def dynamic(case):
    """The batch is one symbol, the number of further negatives another."""
    n, m = (torch.export.Dim(name, min=2, max=MOST) for name in "nm")
    sizes = {TRACED: n, TRACED // 2 + 3: m, case.versions * TRACED: case.versions * n}
    return tree_map(lambda x: {i: sizes[s] for i, s in enumerate(x.shape) if s in sizes}, tensors(case))


def expected(card, case):
    """The dense reference in float64."""
    wide = each_tensor(case, Tensor.double)
    return card.reference(*wide.args, **wide.kwargs).float()


def check_export(card, variant, strict):
    case, later = make(card, variant, TRACED, 7), make(card, variant, LATER, 7)
    module = Call(card, case)
    program = torch.export.export(module, tensors(case), dynamic_shapes=dynamic(case), strict=strict)
    found = program.run_decompositions().module()(*tensors(later))
    torch.testing.assert_close(found, expected(card, later), rtol=1e-4, atol=1e-5)
    # a graph has operators where eager mode does a small call of these at once: the same but for rounding
    at_once = card.name == "mv_infonce" or "hard_negatives" in case.kwargs
    right = module(*tensors(later))
    assert torch.allclose(found, right, rtol=2e-6, atol=0.0) if at_once else torch.equal(found, right)


HEADLINE = ("clip_loss", "info_nce", "siglip_loss", "sup_con", "gram_loss", "mv_infonce", "symile_loss", "kcl")


@pytest.mark.parametrize("card", by_default(CATALOG, *[card for card in CATALOG if card.name in HEADLINE]), ids=id_of)
def test_an_exported_loss_serves_other_batches(card):
    check_export(card, next(iter(card.variants)), strict=False)


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_every_variant_exports(card, variant, strict):
    check_export(card, variant, strict)


@pytest.mark.parametrize("name", ["clip_loss", "mv_infonce"])
def test_strict_export_serves_other_batches(name):
    card = next(card for card in CATALOG if card.name == name)
    check_export(card, next(iter(card.variants)), strict=True)


def test_a_module_exports_with_what_it_learns():
    module = contrastile.losses.ClipLoss(learnable_scale=True, reduction="none")
    x, y = torch.randn(2, TRACED, 7).unbind()
    n = torch.export.Dim("n", min=2, max=MOST)
    program = torch.export.export(module, (x, y), dynamic_shapes={"image_features": {0: n}, "text_features": {0: n}})
    a, b = torch.randn(2, LATER, 7).unbind()
    assert torch.equal(program.module()(a, b), module(a, b))


def test_a_module_that_draws_exports():
    module = contrastile.losses.Symile(logit_scale=3.0)
    n = torch.export.Dim("n", min=2, max=MOST)
    program = torch.export.export(
        module, tuple(torch.randn(3, TRACED, 7)), dynamic_shapes={"modalities": ({0: n},) * 3}
    ).module()
    later = torch.randn(3, LATER, 7)
    for _ in range(2):  # of torch's overloads with and without a generator, one binds the graph to its size
        torch.manual_seed(1)
        found = program(*later)
        torch.manual_seed(1)
        assert torch.equal(found, module(*later))


@pytest.mark.parametrize(
    "module",
    [contrastile.losses.ClipLoss(learnable_scale=True), contrastile.losses.MVInfoNCE(), contrastile.losses.GramLoss()],
    ids=lambda module: type(module).__name__,
)
def test_a_gradient_is_never_silently_missing_from_an_exported_graph(module):
    """The graph holds operators without this package's autograd functions."""
    x, y = torch.randn(2, TRACED, 7).unbind()
    args = ([x, y],) if isinstance(module, contrastile.losses.MVInfoNCE) else (x, y)
    program = torch.export.export(module, args)
    x.requires_grad_()
    value = program.module()(*args)
    assert torch.equal(value, module(*args))
    with pytest.raises(RuntimeError, match=r"contrastile: an operator by itself.*has no gradient"):
        (value + x.square().sum()).backward()


# ---- make_fx


def flat(card, case, differentiated=False):
    """A function of all tensors of the case, one by one, and those tensors."""
    args, named = tensors(case)

    def function(*xs):
        if differentiated:
            xs = (xs[0].detach().requires_grad_(), *xs[1:])
        value = Call(card, case)(xs[: len(args)], dict(zip(named, xs[len(args) :], strict=True)))
        return torch.autograd.grad(value, xs[0])[0] if differentiated else value

    return function, (*args, *named.values())


@every_family
@pytest.mark.parametrize("mode", ["fake", pytest.param("real", marks=pytest.mark.slow)])
def test_make_fx_records_a_loss(card, mode):
    case = default(card)
    function, given = flat(card, case)
    assert torch.equal(make_fx(function, tracing_mode=mode)(*given)(*given), call(card, case))


@every_family
def test_make_fx_with_symbols_serves_other_batches(card):
    (function, given), later = flat(card, default(card, TRACED, 7)), default(card, LATER, 7)
    graph = make_fx(function, tracing_mode="symbolic")(*given)
    torch.testing.assert_close(graph(*flat(card, later)[1]), expected(card, later), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["nt_xent", "mv_infonce", "gram_loss", "kcl"])
def test_make_fx_records_gradients(name):
    card = next(card for card in CATALOG if card.name == name)
    (function, given), later = flat(card, default(card, TRACED, 7), True), default(card, LATER, 7)
    graph = make_fx(function, tracing_mode="symbolic")(*given)
    wide = each_tensor(later, Tensor.double)
    first = wide.args[0].requires_grad_()
    (true,) = torch.autograd.grad(card.reference(*wide.args, **wide.kwargs), first)
    torch.testing.assert_close(graph(*flat(card, later)[1]).double(), true, rtol=1e-4, atol=1e-5)


# ---- numbers that come from sizes

NUMBERS = {
    "temperature": lambda x, y: contrastile.info_nce(x, y, temperature=1 / x.shape[0]),
    "scale": lambda x, y: contrastile.pair_loss(x, y, scale=x.shape[0]),
    "weight": lambda x, y: contrastile.pair_loss(x, y, row_weight=2 / x.shape[0], cols=True, col_weight=x.shape[0]),
    "logit_bias": lambda x, y: contrastile.siglip_loss(x, y, 10.0, -x.shape[0] / 4),
    "memory_budget": lambda x, y: contrastile.pair_reduce(x, y, memory_budget=4 * x.shape[0]).rows.sum(),
    "segments": lambda x, y: contrastile.segment_reduce(x, y, y.shape[0] // 2).sum(),
    "t": lambda x, y: contrastile.kcl(x, y, t=x.shape[0] / 8, gamma=x.shape[0]),
    "label_smoothing": lambda x, y: contrastile.clip_loss(x, y, 5.0, label_smoothing=1 / x.shape[0]),
    "tau_plus": lambda x, y: contrastile.debiased_info_nce(x, y, tau_plus=1 / x.shape[0]),
    "margin": lambda x, y: contrastile.info_nce(x, y, false_negative_margin=1 / x.shape[0]),
}


@pytest.mark.parametrize("function", NUMBERS.values(), ids=NUMBERS)
def test_a_number_may_be_a_size_of_the_graph(function):
    traced, later = torch.randn(2, TRACED, 7), torch.randn(2, LATER, 7)
    graph = make_fx(function, tracing_mode="symbolic")(*traced.unbind())
    torch.testing.assert_close(graph(*later.unbind()), function(*later.unbind()))


@pytest.mark.parametrize("function", NUMBERS.values(), ids=NUMBERS)
def test_a_number_may_be_a_size_of_an_exported_program(function):
    class Model(nn.Module):
        def forward(self, x, y):
            return function(x, y)

    traced, later = torch.randn(2, TRACED, 7), torch.randn(2, LATER, 7)
    n = 2 * torch.export.Dim("half", min=3, max=MOST)
    program = torch.export.export(Model(), tuple(traced.unbind()), dynamic_shapes=({0: n}, {0: n}))
    torch.testing.assert_close(program.module()(*later.unbind()), function(*later.unbind()))
