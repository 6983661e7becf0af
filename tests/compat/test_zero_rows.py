"""A row of zeros in drop-ins of packages that normalise: gradient 0, where theirs is 1 / eps times a row's."""

import pytest
import torch

from .calls import NORMALISING, Given

ZERO = 3


@pytest.mark.parametrize("name", NORMALISING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_gradient_of_a_row_of_zeros_is_zero(name, dtype):
    given = Given.made(dtype)
    given.x[ZERO] = 0.0
    given.hard[ZERO, 1] = 0.0
    leaves = [x.requires_grad_() for x in given.leaves()]
    value = NORMALISING[name](given)
    value.backward()
    grads = [x.grad for x in leaves if x.grad is not None]
    assert value.isfinite() and all(g.isfinite().all() and g.abs().max() < 1e3 for g in grads)
    assert given.x.grad.any() and not given.x.grad[ZERO].any()
    assert given.hard.grad is None or not given.hard.grad[ZERO, 1].any()
