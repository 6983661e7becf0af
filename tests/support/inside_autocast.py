"""Gradients of a backward pass inside an autocast region, against those of one outside of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

REGIONS = (torch.bfloat16, torch.float16)


def assert_backward_is_the_same_inside(
    function: Callable[[], Tensor], leaves: Sequence[Tensor], forwards: tuple[bool, ...] = (True, False)
) -> None:
    """Equal bits, with the forward pass inside the region (True) and outside of it (False)."""
    for region in REGIONS:
        for forward in forwards:
            with torch.autocast("cpu", region, enabled=forward):
                value = function()
            expected = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
            with torch.autocast("cpu", region):
                found = torch.autograd.grad(value, leaves, allow_unused=True)
            assert any(x is not None and x.any() for x in expected)
            for place, (x, y) in enumerate(zip(found, expected, strict=True)):
                assert (x is None and y is None) or torch.equal(x, y), (region, forward, place)
