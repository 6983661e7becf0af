"""Float64 values and gradients against a restatement of a paper's code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def same(value: Tensor, expected: Tensor, *leaves: Tensor) -> None:
    """Both, and the gradients of all leaves, are equal to float64's rounding."""
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    grads = [torch.autograd.grad(x.sum(), leaves, retain_graph=True) for x in (value, expected)]
    for found, true in zip(*grads, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-10, atol=1e-13)


def unit_rows(g: torch.Generator, *shape: int) -> Tensor:
    """Leaves of unit rows, float64."""
    return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1).requires_grad_()
