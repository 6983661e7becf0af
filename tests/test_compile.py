"""torch.compile: one graph, no compilation per batch size or temperature, the numbers of eager mode."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

import contrastile
from contrastile.catalog import CATALOG
from support.combinations import by_default
from support.loss_cases import differentiable, every_variant, id_of, leaves, make

AUTOMATIC = ("sup_con",)  # also compiled as torch does unasked; info_nce is "guarded" below
# of each kind of operator one; info_nce is "smoothed" below
DYNAMIC = (
    "sup_con", "siglip_loss", "clip_loss", "multi_positive", "distill_info_nce", "gram_loss", "symile_loss",
    "triangle_loss", "uniformity", "linear_cross_entropy", "late_interaction_info_nce", "barlow_twins_loss",
)  # fmt: skip
WIDTH = 7
SIZES = (13, 18, 31)  # nothing that a case makes of the first has the width: torch would take equal sizes for one


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def results(function, args, kwargs, inputs):
    value = function(*args, **kwargs)
    return value.detach(), *torch.autograd.grad(value, inputs, allow_unused=True)


def check(function, batches, backend, dynamic):
    """The numbers of eager mode on every batch, (args, kwargs, leaves), and no compilation after the first few."""
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=dynamic)
    counts = []
    for batch in batches:
        for x, y in zip(results(compiled, *batch), results(function, *batch), strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5 * max(y.abs().max().item(), 1.0))
        counts.append(counter.frame_count)
    settled = 0 if dynamic else 1  # by default torch compiles for one size, then once for any
    assert counts[settled:] == counts[settled:][:1] * len(counts[settled:]), f"graphs compiled so far: {counts}"


# ---- losses of the catalog


def check_card(card, variant, backend="aot_eager", dynamic=None):
    cases = [differentiable(make(card, variant, n, WIDTH)) for n in SIZES]
    check(card.function, [(case.args, case.kwargs, leaves(case)) for case in cases], backend, dynamic)


@pytest.mark.parametrize("card", by_default(CATALOG, *(x for x in CATALOG if x.name in DYNAMIC)), ids=id_of)
def test_one_dynamic_graph_serves_every_size_from_the_first(card):
    check_card(card, next(iter(card.variants)), dynamic=True)


@pytest.mark.parametrize("card", by_default(CATALOG, *(x for x in CATALOG if x.name in AUTOMATIC)), ids=id_of)
def test_one_graph_serves_every_size(card):
    """By default torch compiles for the first size, then for any."""
    check_card(card, next(iter(card.variants)))


@pytest.mark.slow
@every_variant
def test_one_graph_of_every_variant_serves_every_size(card, variant):
    check_card(card, variant)


@pytest.mark.parametrize("card", by_default(CATALOG, CATALOG[0]), ids=id_of)
def test_the_default_compiler_agrees(card):
    check_card(card, next(iter(card.variants)), "inductor", dynamic=True)


# ---- other functions, of two views and a temperature


def labels(x):
    return torch.arange(x.shape[0]) // 2


def tokens(x, y):
    return torch.stack([x, y], 1), torch.stack([y, x, x + y], 1)


def smoothed(x, y, t):
    return contrastile.info_nce(x, y, temperature=t, negatives=y[:3], hard_negatives=x[:, None], label_smoothing=0.1)


def guarded(x, y, t):
    options = {"query_ids": labels(x), "key_ids": labels(y), "false_negative_margin": 0.1, "normalize": True}
    return contrastile.info_nce(x, y, temperature=t, negatives=y[:3], symmetric=True, **options)


def engine(x, y, t):
    stats = contrastile.pair_reduce(x, [y, y[:4]], scale=1 / t, positives="same_index", cols=True, memory_budget=4096)
    return sum(x.square().mean() for x in stats if x is not None)


CALLS = {
    "view averages": lambda x, y, t: contrastile.pairwise_aggregate(
        [x, y, x + y], contrastile.nt_xent, mode="average", temperature=t
    ),
    "views in a list": lambda x, y, t: contrastile.mv_infonce([x, y, x + y], temperature=t),
    "maxsim": lambda x, y, t: contrastile.maxsim(*tokens(x, y), document_mask=tokens(x, y)[1][..., 0] > -1).mean() / t,
    "segment_reduce, soft": lambda x, y, t: contrastile.segment_reduce(
        x, y, labels(y), reduce="lse", sharpness=t
    ).mean(),
    "maxsim, packed": lambda x, y, t: contrastile.maxsim(
        x, y, query_offsets=labels(x), document_offsets=labels(y), document_reduce="softmax_mean", sharpness=t
    ).mean(),
    "maxsim_candidates": lambda x, y, t: contrastile.maxsim_candidates(x.unsqueeze(1), y[:, None, None]).mean() / t,
    "segment_reduce": lambda x, y, t: contrastile.segment_reduce(x, y, labels(y), mask=y[:, 0] > -1.0).mean() / t,
    "a number": lambda x, y, t: contrastile.nt_xent(x, y, temperature=0.1) * t,
    "rows": lambda x, y, t: contrastile.info_nce(x, y, temperature=t, symmetric=True, reduction="none").square().mean(),
    "itself": lambda x, y, t: contrastile.info_nce(x, x, temperature=t) + contrastile.siglip_loss(y, y, 1 / t),
    "smoothed": smoothed,
    "guarded": guarded,
    "engine": engine,
    "maximum": lambda x, y, t: contrastile.pair_reduce(x, y, scale=1 / t, reduce="max", cols=True).rows.mean(),
}

SOME = ("smoothed", "engine", "maximum", "segment_reduce, soft", "maxsim, packed")


def check_call(name, dynamic):
    batches = []
    for step, n in enumerate(SIZES):
        generator = torch.Generator().manual_seed(n)
        x, y = (F.normalize(torch.randn(n, WIDTH, generator=generator), dim=-1).requires_grad_() for _ in range(2))
        given = (x, y, torch.tensor(0.1 + 0.05 * step, requires_grad=True))
        batches.append((given, {}, given))
    check(CALLS[name], batches, "aot_eager", dynamic)


@pytest.mark.parametrize("name", by_default(CALLS, "guarded"))
def test_one_graph_of_other_functions_serves_every_size(name):
    check_call(name, None)


@pytest.mark.parametrize("name", by_default(CALLS, *SOME))
def test_one_dynamic_graph_of_other_functions_serves_every_size(name):
    check_call(name, True)


# ---- what else is compiled


def test_no_gradient_compiles_too():
    compiled = torch.compile(contrastile.clip_loss, backend="aot_eager", fullgraph=True)
    x, y = torch.randn(2, 20, WIDTH).unbind()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, y, 3.0), contrastile.clip_loss(x, y, 3.0))


def test_modules_compile_with_their_parameter():
    module = contrastile.InfoNCE(learnable_temperature=True, symmetric=True)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x, y = torch.randn(2, 20, WIDTH).unbind()
    value = compiled(x, y)
    torch.testing.assert_close(value, module(x, y))
    value.backward()
    assert module.log_temperature.grad.abs() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=id_of)
def test_other_types_compile(dtype):
    compiled = torch.compile(contrastile.nt_xent, backend="aot_eager", fullgraph=True)
    x, y = torch.randn(2, 20, WIDTH).to(dtype).unbind()
    torch.testing.assert_close(compiled(x, y, temperature=0.5), contrastile.nt_xent(x, y, temperature=0.5))


def test_bad_input_is_refused_while_compiling():
    compiled = torch.compile(contrastile.info_nce, backend="aot_eager")
    with pytest.raises(ValueError, match=r"key must have at least N \+ key_offset = 5 rows"):
        compiled(torch.randn(5, WIDTH), torch.randn(4, WIDTH))
