"""Items of several tokens each: which of them have any."""

from __future__ import annotations

import torch
from torch import Tensor


def there(tokens: Tensor, mask: Tensor | None) -> Tensor | None:
    """(N,): which items of tokens (N, L, D) have one; None: all."""
    if tokens.shape[1] == 0:
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    return None if mask is None else mask.any(1)


def both_there(x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> Tensor | None:
    """(N,): which pairs have a token on both sides; None: all."""
    return both(there(x, x_mask), there(y, y_mask))


def both(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return y if x is None else x if y is None else x & y
