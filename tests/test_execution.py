"""How the engine runs: determinism, threads, instruction sets, input layouts, nothing changed in place."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import contrastile
from contrastile import pair_loss, pair_reduce
from contrastile.backends import native
from support import targets
from support.cases import EXTRAS, make_call
from support.combinations import by_default, each_once
from support.oracle import check, engine, engine_loss, upstream
from support.rules import REDUCES
from support.targets import KINDS

BACKENDS = ("torch", "cpu")
on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
on_every_reduce = pytest.mark.parametrize("reduce", REDUCES)


def runs(call, **options):
    """What pair_reduce and pair_loss return and their gradients, as one flat list."""
    weights = upstream(call)
    results = [engine(call, weights, **options)]
    if call.options.get("reduce") != "max":
        results.append(engine_loss(call, weights, **options))
    return [x for result in results for x in (*result.values.values(), *result.grads.values())]


def assert_equal_bits(first, second):
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)


# ---- determinism and threads


@pytest.mark.unpoisoned
@pytest.mark.parametrize(
    "backend, reduce, cols, memory_budget",
    each_once(list(itertools.product(BACKENDS, REDUCES)), list(itertools.product((False, True), (None, 10**6)))),
)
def test_two_runs_give_equal_bits(backend, reduce, cols, memory_budget, two_threads):
    for m in (330, None):
        call = make_call(300, m, 40, torch.float32, "row_bias", reduce=reduce, cols=cols)
        options = {"backend": backend, "memory_budget": memory_budget}
        assert_equal_bits(runs(call, **options), runs(call, **options))


@pytest.mark.parametrize("dtype, m", [(torch.float32, 530), (torch.bfloat16, 530), (torch.bfloat16, None)])
def test_it_does_not_matter_which_thread_takes_what(dtype, m, two_threads):
    """More threads than cores take shares in another order every time. The products are ours, too."""
    torch.set_num_threads(5)
    call = make_call(700, m, 130, dtype, "row_bias", cols=True, positives="same_id")
    first = runs(call, backend="cpu", memory_budget=0)
    for _ in range(20):
        assert_equal_bits(first, runs(call, backend="cpu", memory_budget=0))


@pytest.mark.parametrize("kind", KINDS)
def test_nor_with_second_operands(kind, two_threads):
    torch.set_num_threads(5)
    p = targets.problem(400, 330, 20, 12, map=kind).to(torch.float32)
    weights = targets.weights_of(targets.dense(p))

    def run():
        values = targets.engine(p, backend="cpu", memory_budget=0)
        return [*values.values(), *targets.gradients(targets.weighed(values, weights), p).values()]

    first = run()
    for _ in range(10):
        assert_equal_bits(first, run())


@on_every_reduce
@on_every_backend
def test_two_threads_are_right(backend, reduce, two_threads):
    positives = {} if reduce == "max" else {"positives": "same_index"}
    for m in (330, None):
        options = {"reduce": reduce, "cols": True} | (positives if m else {})
        check(make_call(300, m, 20, torch.bfloat16, "row_bias", **options), backend=backend)


def python(code, **environment):
    folders = (Path(contrastile.__file__).parents[1], Path(__file__).parent)
    path = os.pathsep.join(map(str, folders))
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout.split()


GRID = """
import itertools, torch
from support import distances, targets
from support.cases import EXTRAS, make_call
from support import targets
from support.targets import KINDS
from support.oracle import check
from contrastile.backends import native
torch.set_num_threads(THREADS)
dtypes = (torch.float32, torch.bfloat16)
for shape, dtype, reduce in itertools.product(SHAPES, dtypes, ("lse", "softplus", "relu", "max")):
    for extras in ((), EXTRAS):
        positives = None if reduce == "max" else "same_index"
        options = {"reduce": reduce, "positives": positives, "cols": True}
        check(make_call(*shape, dtype, *extras, **options), backend="cpu")
for score, dtype in itertools.product(distances.SCORES, dtypes):
    distances.check(distances.problem(37, 300, 17, 3, dtype, False), score, False, backend="cpu")
for kind, dtype in itertools.product(targets.KINDS, dtypes):
    targets.check(targets.problem(37, 300, 17, 9, map=kind), dtype, backend="cpu")
print(native.cpu.isa())
"""
needs_cpu_module = pytest.mark.skipif(native.cpu is None, reason="the cpu module is not built")


def grid(threads, *shapes):
    return GRID.replace("THREADS", str(threads)).replace("SHAPES", str(shapes))


@needs_cpu_module
# every other test runs the newest
@pytest.mark.parametrize(
    "isa", by_default([] if native.cpu is None else native.cpu.supported_isas(), "generic", "avx2")
)
def test_every_instruction_set_is_right(isa):
    code = grid(1, (1, 1, 1), (13, 70, 19), (40, 300, 33))
    assert python(code, CONTRASTILE_CPU_ISA=isa) == [isa]


@needs_cpu_module
@pytest.mark.parametrize(
    "limit", by_default(({"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}), {"OMP_THREAD_LIMIT": "1"}), ids=str
)
def test_fewer_threads_than_asked_for(limit):
    """OpenMP may start fewer threads than requested; their share of the rows is done all the same."""
    assert python(grid(2, (300, 330, 20)), **limit)


FLUSH = """
import torch
from support.cases import make_call
from support import targets
from support.targets import KINDS
from support.oracle import check
from dataclasses import replace
torch.set_flush_denormal(True)
for dtype in (torch.float32, torch.bfloat16):
    call = make_call(40, 70, 20, dtype, positives="same_index", cols=True)
    a, b = call.a.clone(), call.b[0].clone()
    a[:, 1::2], b[:, ::3] = 0.0, 0.0
    for backend in ("torch", "cpu"):
        check(replace(call, a=a, b=(b,)), backend=backend)
"""


def test_flushing_denormals_does_not_touch_pairs_of_bfloat16():
    """Two bfloat16 of which one is 0 look like a denormal float32; they are no number."""
    python(FLUSH)


# ---- layouts of the inputs


def transposed(x):
    return x.t().contiguous().t() if x.dim() == 2 else strided(x)


def strided(x):
    wide = x.new_zeros([2 * size for size in x.shape])
    view = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    return view.copy_(x)


def offset(x):
    return torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape)


def negated(x):
    """A lazily negated view, as the imaginary part of a conjugate is."""
    if x.dtype not in (torch.float32, torch.float64):
        return x
    return torch.complex(torch.zeros_like(x), -x).conj().imag


@pytest.mark.parametrize("layout", [transposed, strided, offset, negated])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@on_every_backend
def test_any_layout_gives_the_same_bits(backend, dtype, layout):
    for reduce in REDUCES:
        options = {"reduce": reduce, "keep": "other_id", "cols": True}
        call = make_call(40, 70, 19, dtype, *EXTRAS, **options)
        other = replace(
            call,
            a=layout(call.a),
            b=tuple(layout(x) for x in call.b),
            options={
                name: layout(x) if isinstance(x, torch.Tensor) and x.dim() else x for name, x in call.options.items()
            },
        )
        assert_equal_bits(runs(other, backend=backend), runs(call, backend=backend))


@on_every_backend
def test_expanded_inputs(backend):
    """Stride 0: one row shown many times."""
    row, scale = torch.randn(1, 9, generator=torch.Generator()), torch.tensor([2.0])
    call = make_call(40, 70, 9, positives="same_index", keep="other_id", cols=True)
    views = {"scale": scale.expand(40), "mask": torch.ones(1, 1, dtype=torch.bool).expand(40, 70)}
    views["row_ids"] = torch.zeros(1, dtype=torch.int64).expand(40)
    call = replace(call, a=row.expand(40, 9), options=call.options | views)
    copies = {name: x.clone() for name, x in views.items()}
    copied = replace(call, a=call.a.clone(), options=call.options | copies)
    assert_equal_bits(runs(call, backend=backend), runs(copied, backend=backend))


@on_every_backend
def test_upstream_gradients_of_any_layout(backend):
    call = make_call(40, 70, 9, cols=True)
    grads = []
    for weights in (torch.ones(()).expand(40), torch.ones(80)[::2], torch.ones(40)):
        a = call.a.clone().requires_grad_()
        pair_reduce(a, call.b, cols=True, backend=backend).rows.backward(weights)
        grads.append(a.grad)
    assert torch.equal(grads[0], grads[2]) and torch.equal(grads[1], grads[2])


@pytest.mark.parametrize("memory_budget", [None, 10**6])
@on_every_reduce
@on_every_backend
def test_inputs_are_never_changed(backend, reduce, memory_budget):
    call = make_call(40, 70, 9, torch.float32, *EXTRAS, blocks=2, reduce=reduce, cols=True)
    weights = upstream(call)
    tensors = [call.a, *call.b, *weights.values()]
    tensors += [x for x in call.options.values() if isinstance(x, torch.Tensor)]
    before = [(x.clone(), x._version) for x in tensors]
    for function in (engine,) if reduce == "max" else (engine, engine_loss):
        function(call, weights, backend=backend, memory_budget=memory_budget)
    for x, (copy, version) in zip(tensors, before, strict=True):
        assert torch.equal(x, copy) and x._version == version


@on_every_backend
def test_autocast_does_not_reach_into_the_engine(backend):
    call = make_call(40, 70, 33, positives="same_index", cols=True)
    expected = runs(call, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal_bits(runs(call, backend=backend), expected)


@on_every_backend
def test_nothing_is_recorded_without_grad(backend):
    call = make_call(40, 70, 9, positives="same_index", cols=True)
    expected = runs(call, backend=backend)
    leaves = {"a": call.a.clone().requires_grad_(), "b": call.b, **call.options}
    with torch.no_grad():
        found = pair_reduce(**leaves, backend=backend)
        loss = pair_loss(**leaves, backend=backend)
    assert not any(x is not None and x.requires_grad for x in (*found, loss))
    assert torch.equal(found.rows, expected[0])


# ---- numbers as callers have them


@pytest.mark.parametrize(
    "number", [np.float32(14.5), np.float64(14.5), np.int64(14), 14], ids=lambda x: type(x).__name__
)
def test_numpy_scalars_are_numbers(number):
    x = torch.randn(5, 4)
    assert torch.equal(contrastile.clip_loss(x, x, number), contrastile.clip_loss(x, x, float(number)))


def test_a_number_on_the_cpu_goes_with_features_elsewhere():
    """As x * torch.tensor(2.0) does; with its gradient."""
    x, scale = torch.randn(5, 4, device="meta"), torch.tensor(14.5, requires_grad=True)
    for loss in (
        contrastile.clip_loss(x, x, scale),
        contrastile.siglip_loss(x, x, scale, torch.tensor(-10.0)),
        contrastile.info_nce(x, x, temperature=scale),
        contrastile.pair_loss(x, x, scale=scale),
    ):
        assert loss.device.type == "meta" and loss.requires_grad
    with pytest.raises(ValueError, match="scale must be on meta"):
        contrastile.pair_loss(x, x, scale=torch.ones(5))
