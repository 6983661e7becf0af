"""Figures of the losses over tuples and several views: against the dense official formulation, the limit, and memory.

Every ratio comes from runs in turn inside one process (measure.interleaved). A case is refused when its value is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import contrastile
import eager
import official_views
from bench_figures import DTYPES, refuse_wrong_value
from measure import interleaved, limit_seconds, peak_extra_bytes, products, step, unit

SCALE = torch.tensor(14.3, requires_grad=True)
Loss = Callable[..., Tensor]

VIEWS: dict[str, tuple[Loss, Loss]] = {
    "mv_infonce": (contrastile.mv_infonce, official_views.mv_infonce),
    "mv_dhel": (contrastile.mv_dhel, official_views.mv_dhel),
}


@pytest.mark.parametrize("kind", DTYPES)
def bench_gram_against_gemm_limit(benchmark, kind: str) -> None:
    """k = 4, N = 2048, D = 512: time over 8 (k - 1) N^2 D FLOP at torch's own rate for the chunk shapes."""
    n, d, k = 2048, 512, 4
    x = [unit(n, d, DTYPES[kind]) for _ in range(k)]
    run = step(lambda: contrastile.gram_loss(*x), x)
    own, limit = interleaved([run, products(n, d, DTYPES[kind])], rounds=9)
    benchmark.group = f"gram {kind} k=4 N=2048 D=512"
    benchmark.extra_info["over_gemm_limit"] = round(own / limit_seconds(limit, n, n, 8 * (k - 1)), 3)
    benchmark.pedantic(run, rounds=1)


@pytest.mark.parametrize("matrices", [1, 2])
def bench_gram_against_dense(benchmark, matrices: int) -> None:
    """k = 4, N = 2048, D = 512, float32: how many times faster than one determinant per pair, with one matrix for both
    directions, or with one for each, as the official training code has it."""
    x = [unit(2048, 512, torch.float32) for _ in range(4)]

    def dense() -> Tensor:
        return eager.gram(*x, temperature=0.07, matrices=matrices)

    refuse_wrong_value(contrastile.gram_loss(*x), dense(), torch.float32)
    run = step(lambda: contrastile.gram_loss(*x), x)
    own, other = interleaved([run, step(dense, x)], rounds=3)
    benchmark.group = "gram fp32 k=4 N=2048 D=512"
    benchmark.extra_info["dense_over_ours"] = round(other / own, 1)
    benchmark.pedantic(run, rounds=1)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", VIEWS)
def bench_views_against_dense(benchmark, name: str, kind: str) -> None:
    """k = 4, N = 2048, D = 256: how many times faster than the official code, on whole matrices of exponentials."""
    ours, theirs = VIEWS[name]
    views = unit(4 * 2048, 256, DTYPES[kind]).detach().view(4, 2048, 256).requires_grad_()
    refuse_wrong_value(ours(views, temperature=0.5), theirs(views, temperature=0.5), DTYPES[kind])
    run = step(lambda: ours(views, temperature=0.5), [views])
    own, other = interleaved([run, step(lambda: theirs(views, temperature=0.5), [views])], rounds=5)
    benchmark.group = f"views {kind} k=4 N=2048 D=256"
    benchmark.extra_info["dense_over_ours"] = round(other / own, 2)
    benchmark.pedantic(run, rounds=1)


def bench_symile_against_dense(benchmark) -> None:
    """n_squared, k = 3, N = 512, D = 256, float32: how many times faster than N^2 x D products per anchor."""
    x = [unit(512, 256, torch.float32) for _ in range(3)]

    def ours() -> Tensor:
        return contrastile.symile_loss(*x, logit_scale=SCALE, negatives="n_squared")

    def dense() -> Tensor:
        return eager.symile_n_squared(*x, scale=SCALE)

    refuse_wrong_value(ours(), dense(), torch.float32)
    run = step(ours, [*x, SCALE])
    own, other = interleaved([run, step(dense, [*x, SCALE])], rounds=2)
    benchmark.group = "symile n_squared fp32 k=3 N=512 D=256"
    benchmark.extra_info["dense_over_ours"] = round(other / own, 2)
    benchmark.pedantic(run, rounds=1)


@pytest.mark.parametrize(
    "loss, n, d", [("gram", 2048, 512), ("eager_gram", 2048, 512), ("symile", 512, 256), ("eager_symile", 512, 256)]
)
def bench_peak_memory_of_tuples(benchmark, loss: str, n: int, d: int) -> None:
    """float32, fresh process: peak memory beyond the inputs."""
    benchmark.group = f"peak memory N={n} D={d} fp32"
    peak = benchmark.pedantic(peak_extra_bytes, args=(loss, n, d, "float32"), rounds=1)
    benchmark.extra_info["peak_extra_mb"] = round(peak / 1e6, 1)
