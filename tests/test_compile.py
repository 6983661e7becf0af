"""torch.compile: one graph, no compilation per batch size or temperature, the numbers of eager mode."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

import contrastile
from support.combinations import by_default
from support.loss_cases import id_of


def labels(x):
    return torch.arange(x.shape[0]) // 2


def shuffled(x, y, t):
    orders = torch.stack([torch.arange(x.shape[0]).roll(step + 1) for step in range(6)]).view(3, 2, -1)
    return contrastile.symile_loss(x, y, x + y, logit_scale=1 / t, permutations=orders)


def tokens(x, y):
    return torch.stack([x, y], 1), torch.stack([y, x, x + y], 1)


def smoothed(x, y, t):
    return contrastile.info_nce(x, y, temperature=t, negatives=y[:3], hard_negatives=x[:, None], label_smoothing=0.1)


def guarded(x, y, t):
    options = {"query_ids": labels(x), "key_ids": labels(y), "false_negative_margin": 0.1, "normalize": True}
    return contrastile.info_nce(x, y, temperature=t, negatives=y[:3], symmetric=True, **options)


def engine(x, y, t):
    stats = contrastile.pair_reduce(x, [y, y[:4]], scale=1 / t, positives="same_index", cols=True, memory_budget=4096)
    return sum(x.square().mean() for x in stats)


CALLS = {
    "info_nce": lambda x, y, t: contrastile.info_nce(x, y, temperature=t),
    "clip_loss": lambda x, y, t: contrastile.clip_loss(x, y, 1 / t),
    "siglip_loss": lambda x, y, t: contrastile.siglip_loss(x, y, 1 / t, -t),
    "nt_xent": lambda x, y, t: contrastile.nt_xent(x, y, temperature=t),
    "sup_con": lambda x, y, t: contrastile.sup_con(x, labels(x), temperature=t),
    "debiased_info_nce": lambda x, y, t: contrastile.debiased_info_nce(x, y, temperature=t),
    "debiased_nt_xent": lambda x, y, t: contrastile.debiased_nt_xent(x, y, temperature=t),
    "dcl": lambda x, y, t: contrastile.dcl(x, y, temperature=t),
    "dclw": lambda x, y, t: contrastile.dclw(x, y, temperature=t),
    "dhel": lambda x, y, t: contrastile.dhel(x, y, temperature=t),
    "mv_infonce": lambda x, y, t: contrastile.mv_infonce([x, y, x + y], temperature=t),
    "mv_infonce across": lambda x, y, t: contrastile.mv_infonce([x, y, x + y], temperature=t, negatives="cross_view"),
    "mv_dhel": lambda x, y, t: contrastile.mv_dhel(torch.stack([x, y, x + y]), temperature=t),
    "pvc": lambda x, y, t: contrastile.pvc((x, y, x + y), temperature=t),
    "view averages": lambda x, y, t: contrastile.pairwise_aggregate(
        [x, y, x + y], contrastile.nt_xent, mode="average", temperature=t
    ),
    "symile_loss": shuffled,
    "symile n_squared": lambda x, y, t: contrastile.symile_loss(x, y, x + y, logit_scale=1 / t, negatives="n_squared"),
    "kcl": lambda x, y, t: contrastile.kcl(x, y, t=1 / t),
    "kcl log": lambda x, y, t: contrastile.kcl(x, y, kernel="log", t=1 / t, gamma=t),
    "kcl imq": lambda x, y, t: contrastile.kcl(x, y, kernel="imq", t=1 / t),
    "kcl riesz": lambda x, y, t: contrastile.kcl(x, y, kernel="gaussian_riesz", t=1 / t, s=-1.0),
    "cuaxu": lambda x, y, t: contrastile.cuaxu(x, y, 1 / t, t=1 / t),
    "uniformity": lambda x, y, t: contrastile.uniformity(x, t=1 / t),
    "alignment": lambda x, y, t: contrastile.alignment(x, y) * t,
    "uniformity of two": lambda x, y, t: contrastile.uniformity(x, y, t=1 / t),
    "maxsim": lambda x, y, t: contrastile.maxsim(*tokens(x, y), document_mask=tokens(x, y)[1][..., 0] > -1).mean() / t,
    "segment_max": lambda x, y, t: contrastile.segment_max(x, y, labels(y), mask=y[:, 0] > -1.0).mean() / t,
    "a number": lambda x, y, t: contrastile.nt_xent(x, y, temperature=0.1) * t,
    "rows": lambda x, y, t: contrastile.info_nce(x, y, temperature=t, symmetric=True, reduction="none").square().mean(),
    "itself": lambda x, y, t: contrastile.info_nce(x, x, temperature=t) + contrastile.siglip_loss(y, y, 1 / t),
    "smoothed": smoothed,
    "guarded": guarded,
    "engine": engine,
    "maximum": lambda x, y, t: contrastile.pair_reduce(x, y, scale=1 / t, reduce="max", cols=True).rows.mean(),
}
SIZES = (11, 14, 23)  # none equals the width: torch would take equal sizes for one
WIDTH = 8


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def results(function, n, temperature):
    generator = torch.Generator().manual_seed(n)
    x, y = (F.normalize(torch.randn(n, WIDTH, generator=generator), dim=-1).requires_grad_() for _ in range(2))
    t = torch.tensor(temperature, requires_grad=True)
    value = function(x, y, t)
    return value.detach(), *torch.autograd.grad(value, (x, y, t), allow_unused=True)


def check(name, backend, dynamic):
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(CALLS[name], backend=counter, fullgraph=True, dynamic=dynamic)
    counts = []
    for step, n in enumerate(SIZES):
        temperature = 0.1 + 0.05 * step
        found, expected = results(compiled, n, temperature), results(CALLS[name], n, temperature)
        for x, y in zip(found, expected, strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5 * max(y.abs().max().item(), 1.0))
        counts.append(counter.frame_count)
    settled = 0 if dynamic else 1  # by default torch compiles for one size, then once for any
    assert counts[settled:] == counts[settled:][:1] * len(counts[settled:]), f"graphs compiled so far: {counts}"


VARIANTS = {"kcl log", "kcl imq", "kcl riesz", "mv_infonce across", "view averages", "uniformity of two", "itself"}


@pytest.mark.parametrize("name", by_default(CALLS, *(CALLS.keys() - VARIANTS)))
def test_one_graph_serves_every_size(name):
    check(name, "aot_eager", None)


@pytest.mark.parametrize("name", by_default(CALLS, "info_nce", "sup_con", "debiased_nt_xent", "uniformity", "guarded"))
def test_one_dynamic_graph_serves_every_size_from_the_first(name):
    check(name, "aot_eager", True)


@pytest.mark.parametrize("name", by_default(CALLS, "info_nce"))
def test_the_default_compiler_agrees(name):
    check(name, "inductor", None)


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
    with pytest.raises(ValueError, match="key must have the shape of query"):
        compiled(torch.randn(4, WIDTH), torch.randn(5, WIDTH))
