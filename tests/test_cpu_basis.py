"""The native kernel of orthonormal bases on a CPU, against the same in torch."""

from __future__ import annotations

import pytest
import torch

from contrastile import backends
from contrastile.backends import native
from contrastile.ops import basis as ops_basis

pytestmark = pytest.mark.skipif(native.cpu is None, reason="the cpu module is not built")


def vectors(t, n, d, dtype, seed=0):
    """Among them: zeros, a vector in the span of those before it, nearly parallel ones, an infinite one."""
    x = torch.randn(t, n, d, generator=torch.Generator().manual_seed(seed))
    x[0, 1] = 0.0
    if t > 1:
        x[1, 2] = -2.0 * x[0, 2]
        x[1, 3] = x[0, 3] + 1e-3 * x[1, 3]
    if t > 2:
        x[2, 4] = x[0, 4] + x[1, 4]
    return list(x.to(dtype))


def both(monkeypatch, function):
    """By the kernel, then in torch."""
    found = function()
    with monkeypatch.context() as patch:
        patch.setattr(backends, "select_bases", lambda given: None)
        return found, function()


@pytest.mark.parametrize("t, n, d", [(1, 5, 3), (2, 130, 512), (3, 7, 19), (8, 6, 33), (3, 5, 2), (2, 5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_the_operation(monkeypatch, t, n, d, dtype):
    given, grads = vectors(t, n, d, dtype), torch.Generator().manual_seed(1)
    count = max(t - 1, 1)
    up = torch.randn(count, n, d, generator=grads), torch.randn(t, n, generator=grads)
    assert backends.select_bases(given) is not None
    found, right = both(monkeypatch, lambda: ops_basis.basis_forward(given, count, torch.float32))
    # a direction is its residual's rounding over its length: 1e-3 is the shortest here
    limits = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-3, "atol": 2e-4}
    for x, y in zip(found, right, strict=True):
        torch.testing.assert_close(x, y, **limits)
    found, right = both(monkeypatch, lambda: ops_basis.basis_backward(given, *up))
    for x, y in zip(found, right, strict=True):
        assert x.dtype == dtype
        size = y.float().norm(dim=1, keepdim=True)
        share = 1e-5 if dtype == torch.float32 else 2**-7
        assert bool(((x.float() - y.float()).abs() <= share * size + 1e-6).all())


def test_threads_change_no_bits(two_threads):
    given = vectors(3, 400, 96, torch.float32)
    found = ops_basis.basis_forward(given, 2, torch.float32)
    torch.set_num_threads(1)
    for x, y in zip(found, ops_basis.basis_forward(given, 2, torch.float32), strict=True):
        assert torch.equal(x, y)


def test_what_the_kernel_does_not_take_is_done_in_torch():
    assert backends.select_bases(vectors(2, 5, 4, torch.float64)) is None
    assert backends.select_bases(vectors(native.cpu.largest_basis + 1, 5, 4, torch.float32)) is None


def test_no_samples():
    given = [torch.empty(0, 4), torch.empty(0, 4)]
    directions, lengths = ops_basis.basis_forward(given, 1, torch.float32)
    assert directions.shape == (1, 0, 4) and lengths.shape == (2, 0)
