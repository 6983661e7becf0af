"""Small batches on a GPU that is not there: the CPU time of what the host does in a step, ours over plain torch,
forward and backward.

`triton`: Triton compiles for an H100 and launches nothing (contrastile.benchmark.ahead). `cuda`: the kernels' sources
are compiled by the C++ compiler, with launches that do nothing (needs g++ and pybind11; half a minute to build): the
crossing from Python, the struct and the host's code around launches are in, the runtime's own work for a launch is not.
Tensors lie on the CPU, where torch's own operations do their small work, on both sides; what a driver takes for a
launch is on neither. Ratios are printed after the run; the goal is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lines
from bench_small import in_turn, one_thread, unit_rows  # noqa: F401  a fixture

N, D = 64, 64
LOSSES = ["clip", "info_nce", "siglip", "nt_xent", "sup_con"]
GOAL = 1.0
# of csrc, so that a launch does nothing
NO_KERNELS = ("cuda/host_executor.h", "for (int64_t k = 0; k < x * y; ++k) {", "for (int64_t k = 0; k < 0; ++k) {")


@cache
def install(library: Path | None = None) -> None:
    """For the whole process, and for good. library: the cuda backend's module; None: triton."""
    from contrastile import backends
    from contrastile.backends import cuda_small, products
    from contrastile.benchmark import ahead
    from contrastile.ops import autograd

    torch.set_num_threads(1)
    if library is None:
        ahead.install(ahead.Device())
    else:
        from support import cuda_host

        backends.BACKENDS = (cuda_host.HostBackend(cuda_host.loaded(library)), *backends.BACKENDS[-1:])
    # a CPU has no product of halves into float32: one of halves in its place, as many operations
    add, product, put = products.add_float_product, products.float_product, products.set_float_product
    products.add_float_product = lambda out, x, y: add(out, x, y) if x.dtype == out.dtype else torch.mm(x, y)
    products.set_float_product = lambda out, x, y: put(out, x, y) if x.dtype == out.dtype else torch.mm(x, y)
    products.float_product = lambda x, y: product(x, y) if x.dtype == torch.float32 else widened(torch.mm(x, y))
    cuda_small.float_product = products.float_product
    autograd.is_one = lambda gout: False  # whether an upstream gradient is 1 is not asked of a GPU


def widened(x: Tensor) -> Tensor:
    """Only in type: what a product into float32 writes to."""
    return torch.empty(x.shape)


def steps(
    loss: str, a: Tensor, b: Tensor, scale: Tensor, backend: str = "triton"
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Ours and plain torch, of the same tensors."""
    import contrastile
    import eager

    labels, like = torch.arange(len(a)) // 2, lambda: scale.to(a.dtype)
    ours = {
        "clip": lambda: contrastile.clip_loss(a, b, scale, backend=backend),
        "info_nce": lambda: contrastile.info_nce(a, b, temperature=scale, backend=backend),
        "siglip": lambda: contrastile.siglip_loss(a, b, scale, -10.0, backend=backend),
        "nt_xent": lambda: contrastile.nt_xent(a, b, temperature=scale, backend=backend),
        "sup_con": lambda: contrastile.sup_con([a, b], labels, temperature=scale, backend=backend),
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


def host_times(loss: str, dtype: torch.dtype, library: Path | None) -> tuple[float, float]:
    """Microseconds of a step of each."""
    install(library)
    a, b = (unit_rows(N, D, dtype=dtype) for _ in range(2))
    scale = torch.tensor(10.0, requires_grad=True)
    backend = "triton" if library is None else "cuda"
    return in_turn(*steps(loss, a, b, scale, backend), [a, b, scale])


Times = Callable[[str, torch.dtype], tuple[float, float]]


@pytest.fixture(scope="module", params=["triton", "cuda"])
def times(request, tmp_path_factory) -> Iterator[tuple[str, Times]]:
    """The backend, and its times in a process of its own, where the device is installed that is not there."""
    library = None
    if request.param == "triton":
        pytest.importorskip("triton")
    else:
        pytest.importorskip("pybind11")
        from support import cuda_host

        if cuda_host.compiler() is None:
            pytest.skip("needs g++ on Linux")
        library = Path(cuda_host.build(tmp_path_factory.mktemp("no_kernels"), NO_KERNELS).__file__)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield request.param, lambda loss, dtype: pool.submit(host_times, loss, dtype, library).result()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda x: str(x).removeprefix("torch."))
def bench_small_gpu(benchmark, settings, one_thread, times, loss: str, dtype: torch.dtype) -> None:  # noqa: F811
    backend, run = times
    one, other = benchmark.pedantic(lambda: run(loss, dtype), rounds=1)
    benchmark.group = f"{loss} {dtype} on the host"
    kind = str(dtype).removeprefix("torch.")
    figures = dict(ours=round(one), eager=round(other), ratio=round(one / other, 2), goal=GOAL)  # microseconds
    benchmark.extra_info.update(figures)
    lines.append(settings.out, "small_gpu", loss=loss, backend=backend, n=N, d=D, dtype=kind, **figures)
    print(f"{backend:<8}{loss:<12}{kind:<9}{one:>9.0f}{other:>9.0f} us  {one / other:.2f} (goal {GOAL:.0f})")
