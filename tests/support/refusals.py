"""Small inputs to spoil, and how a refusal of them must read."""

from __future__ import annotations

import pytest
import torch

N, D = 6, 4
X, Y = torch.randn(2, N, D, generator=torch.Generator().manual_seed(0)).unbind()
IDS = torch.arange(N)


def refuses(error: type[Exception], *words: str) -> pytest.RaisesExc:
    """Expects `error` with every word in its message."""
    return pytest.raises(error, match="".join(f"(?=.*{word})" for word in words))
