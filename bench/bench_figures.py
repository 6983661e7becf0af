"""The package's figures: time against the limit set by torch's own matrix products and against eager code; peak memory.

Every ratio comes from runs in turn inside one process (measure.interleaved). A case is refused when its value is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import contrastile
import eager
from measure import interleaved, limit_seconds, peak_extra_bytes, products, step, unit

SCALE, BIAS = torch.tensor(14.3, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Pair = Callable[[Tensor, Tensor], Tensor]

# name: (ours, eager, GEMMs of N^2 D FLOP per forward and backward, rows the loss works on per input row)
LOSSES: dict[str, tuple[Pair, Pair, int, int]] = {
    "clip": (lambda a, b: contrastile.clip_loss(a, b, SCALE), lambda a, b: eager.clip(a, b, SCALE), 8, 1),
    "siglip": (
        lambda a, b: contrastile.siglip_loss(a, b, SCALE, BIAS),
        lambda a, b: eager.siglip(a, b, SCALE, BIAS),
        6,
        1,
    ),
    "info_nce": (
        lambda a, b: contrastile.info_nce(a, b, temperature=0.07),
        lambda a, b: eager.info_nce(a, b, 0.07),
        6,
        1,
    ),
    "nt_xent": (
        lambda a, b: contrastile.nt_xent(a, b, temperature=0.5),
        lambda a, b: eager.nt_xent(a, b, 0.5),
        4,
        2,
    ),
    "uniformity": (lambda a, b: contrastile.uniformity(a), lambda a, b: eager.uniformity(a), 4, 1),
}


def refuse_wrong_value(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    """Eager bfloat16 rounds logits, so it agrees only to that; float32 must agree to float32."""
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", LOSSES)
def bench_against_gemm_limit(benchmark, name: str, kind: str) -> None:
    """N = 8192 rows in the matrix, D = 512: time over (GEMMs * N^2 D FLOP at torch's own rate for the chunk shapes)."""
    ours, _, gemms, factor = LOSSES[name]
    rows, d, dtype = 8192, 512, DTYPES[kind]
    a, b = (unit(rows // factor, d, dtype) for _ in range(2))
    run = step(lambda: ours(a, b), [a, b, SCALE, BIAS])
    own, limit = interleaved([run, products(rows, d, dtype)], rounds=5)
    benchmark.group = f"{kind} rows=8192 D=512"
    benchmark.extra_info["over_gemm_limit"] = round(own / limit_seconds(limit, rows, rows, gemms), 3)
    benchmark.pedantic(run, rounds=1)


@pytest.mark.parametrize("kind", DTYPES)
def bench_clip_against_eager(benchmark, kind: str) -> None:
    """N = 8192, D = 512: how many times faster than two logit matrices and two cross-entropies."""
    ours, theirs, _, _ = LOSSES["clip"]
    a, b = (unit(8192, 512, DTYPES[kind]) for _ in range(2))
    refuse_wrong_value(ours(a, b), theirs(a, b), DTYPES[kind])
    leaves = [a, b, SCALE]
    run = step(lambda: ours(a, b), leaves)
    own, other = interleaved([run, step(lambda: theirs(a, b), leaves)], rounds=3)
    benchmark.group = f"{kind} rows=8192 D=512"
    benchmark.extra_info["eager_over_ours"] = round(other / own, 2)
    benchmark.pedantic(run, rounds=1)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("n", [64, 256, 1024])
@pytest.mark.parametrize("name", ["clip", "siglip", "info_nce", "nt_xent"])
def bench_small(benchmark, name: str, n: int, kind: str) -> None:
    """Small batches, D = 512: ours over eager; below 1 we are faster."""
    ours, theirs, _, _ = LOSSES[name]
    a, b = (unit(n, 512, DTYPES[kind]) for _ in range(2))
    refuse_wrong_value(ours(a, b), theirs(a, b), DTYPES[kind])
    leaves = [a, b, SCALE, BIAS]
    run = step(lambda: ours(a, b), leaves)
    own, other = interleaved([run, step(lambda: theirs(a, b), leaves)], rounds=300 if n < 1024 else 30)
    benchmark.group = f"small {kind} D=512"
    benchmark.extra_info["ours_over_eager"] = round(own / other, 2)
    benchmark.pedantic(run, rounds=3)


@pytest.mark.parametrize("loss", ["clip", "nt_xent", "eager_clip"])
def bench_peak_memory(benchmark, loss: str) -> None:
    """N = 16,384, D = 256, float32, fresh process: peak memory beyond the inputs."""
    benchmark.group = "peak memory N=16384 D=256 fp32"
    peak = benchmark.pedantic(peak_extra_bytes, args=(loss, 16_384, 256, "float32"), rounds=1)
    benchmark.extra_info["peak_extra_mb"] = round(peak / 1e6, 1)
