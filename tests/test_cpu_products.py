"""The products of the CPU module, which add to float32: whatever the shape, the layout and the threads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from contrastile.backends import native
from contrastile.backends.cpu import FEWEST_COLUMNS, CpuBackend
from contrastile.testing import EPS

pytestmark = pytest.mark.skipif(native.cpu is None, reason="the cpu module is not built")
SHAPES = {
    "one": (1, 1, 1),
    "strips, panels and passes that end early": (131, 133, 521),
    "more of k than is packed at a time": (5, 3, 66001),
    "wide, too": (13, 2100, 1601),
    "no rows": (0, 5, 7),
    "no columns": (5, 0, 7),
    "nothing to add": (5, 7, 0),
}


def draw(rows: int, columns: int, dtype: torch.dtype, transposed: bool, seed: int) -> Tensor:
    shape = (columns, rows) if transposed else (rows, columns)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.T if transposed else x


def added(x: Tensor, y: Tensor, start: Tensor, threads: int) -> Tensor:
    """start + x y, by the kernel, into rows that lie apart."""
    (m, k), n = x.shape, y.shape[1]
    out = torch.empty(m, n + 3).copy_(torch.nn.functional.pad(start, (0, 3)))
    native.cpu.gemm(
        a=x.data_ptr(), a_row=x.stride(0), a_col=x.stride(1), b=y.data_ptr(), b_row=y.stride(1), b_col=y.stride(0),
        c=out.data_ptr(), c_row=n + 3, m=m, n=n, k=k, dtype=int(x.dtype == torch.bfloat16), threads=threads,
        add=True,
    )  # fmt: skip
    assert not out[:, n:].any()
    return out[:, :n]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_and_layout(name: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not native.cpu.native_bf16():
        pytest.skip("bfloat16 is widened here")
    m, n, k = SHAPES[name]
    for across, down in ((False, False), (True, False), (False, True)):
        x, y, start = draw(m, k, dtype, across, 0), draw(k, n, dtype, down, 1), torch.ones(m, n)
        found = added(x, y, start, 1)
        size = x.double().abs() @ y.double().abs() + 1.0
        error = (found.double() - (x.double() @ y.double() + 1.0)).abs() / size
        assert not error.numel() or error.max() <= 4 * EPS[torch.float32] * max(k, 1) ** 0.5
        assert torch.equal(found, added(x, y, start, 3))


@pytest.mark.parametrize("columns, fast, ours", [(-1, True, False), (0, True, True), (0, False, False)])
def test_which_float32_products_are_ours(columns: int, fast: bool, ours: bool, monkeypatch) -> None:
    """Those of few columns are torch's, and all where our kernels were not measured."""
    x, y = draw(150, 90, torch.float32, True, 0), draw(90, FEWEST_COLUMNS + columns, torch.float32, False, 1)
    calls, backend, found = [], CpuBackend(), torch.zeros(150, y.shape[1])
    assert backend.fast_products == (native.cpu.isa() != "generic")
    monkeypatch.setattr(backend, "fast_products", fast)
    monkeypatch.setattr(backend, "module", SimpleNamespace(gemm=lambda *given: calls.append(native.cpu.gemm(*given))))
    backend.accumulate(found, x, y)
    assert len(calls) == ours
    right = (x.double() @ y.double()).float()
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-4)
    backend.put(found.fill_(torch.nan), x, y)  # whatever it holds
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-4)
