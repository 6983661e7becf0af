"""Small batches on a GPU that is not there: the CPU time of what the host does in a step, ours on `triton` over plain
torch, forward and backward.

Triton compiles for an H100 and launches nothing (contrastile.benchmark.ahead). Tensors lie on the CPU, where torch's
own operations do their small work, on both sides; what a driver takes for a launch is on neither. Ratios are printed
after the run; the goal is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import pytest
import torch
from torch import Tensor

N, D = 64, 64
LOSSES = ["clip", "info_nce", "siglip", "nt_xent", "sup_con"]


@cache
def install() -> None:
    """For the whole process, and for good."""
    from contrastile.backends import products
    from contrastile.benchmark import ahead
    from contrastile.ops import autograd

    torch.set_num_threads(1)
    ahead.install(ahead.Device())
    # a CPU has no product of halves into float32: one of halves in its place, as many operations
    add, product = products.add_float_product, products.float_product
    products.add_float_product = lambda out, x, y: add(out, x, y) if x.dtype == out.dtype else torch.mm(x, y)
    products.float_product = lambda x, y: product(x, y) if x.dtype == torch.float32 else widened(torch.mm(x, y))
    autograd.is_one = lambda gout: False  # whether an upstream gradient is 1 is not asked of a GPU


def widened(x: Tensor) -> Tensor:
    """Only in type: what a product into float32 writes to."""
    return torch.empty(x.shape)


def steps(loss: str, a: Tensor, b: Tensor, scale: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Ours and plain torch, of the same tensors."""
    import contrastile
    import eager

    labels, like = torch.arange(len(a)) // 2, lambda: scale.to(a.dtype)
    ours = {
        "clip": lambda: contrastile.clip_loss(a, b, scale, backend="triton"),
        "info_nce": lambda: contrastile.info_nce(a, b, temperature=scale, backend="triton"),
        "siglip": lambda: contrastile.siglip_loss(a, b, scale, -10.0, backend="triton"),
        "nt_xent": lambda: contrastile.nt_xent(a, b, temperature=scale, backend="triton"),
        "sup_con": lambda: contrastile.sup_con([a, b], labels, temperature=scale, backend="triton"),
    }
    bias = torch.tensor(-10.0, dtype=a.dtype)
    plain = {
        "clip": lambda: eager.clip(a, b, like()),
        "info_nce": lambda: eager.info_nce(a, b, temperature=like()),
        "siglip": lambda: eager.siglip(a, b, like(), bias),
        "nt_xent": lambda: eager.nt_xent(a, b, temperature=like()),
        "sup_con": lambda: eager.sup_con(torch.cat([a, b]), torch.cat([labels, labels]), like()),
    }
    return ours[loss], plain[loss]


def host_times(loss: str, dtype: torch.dtype) -> tuple[float, float]:
    """Microseconds of a step of each."""
    from bench_small import in_turn, unit_rows

    install()
    a, b = (unit_rows(N, D, dtype=dtype) for _ in range(2))
    scale = torch.tensor(10.0, requires_grad=True)
    return in_turn(*steps(loss, a, b, scale), [a, b, scale])


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """Where the device is installed that is not there."""
    pytest.importorskip("triton")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda x: str(x).removeprefix("torch."))
def bench_small_gpu(benchmark, process, loss: str, dtype: torch.dtype) -> None:
    found = benchmark.pedantic(lambda: process.submit(host_times, loss, dtype).result(), rounds=1)
    one, other = found
    benchmark.group = f"{loss} {dtype} on the host"
    benchmark.extra_info.update(ours=one, eager=other, ratio=one / other, goal=1.0)
    print(f"{loss:<12}{str(dtype)[6:]:<9}{one:>9.0f}{other:>9.0f} us  {one / other:.2f} (goal 1)")
