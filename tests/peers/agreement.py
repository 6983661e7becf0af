"""A loss against the same loss of another package, within the error budget of contrastile.testing.

The other package takes the place of the reference: run in float64 it is the truth, run in float32 it is the twin.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import info_nce
from contrastile.testing import Case, compare

Loss = Callable[..., Tensor]

SHAPES = ((2, 3), (17, 5), (64, 64), (131, 40))  # (N, D)
LONG = (1100, 24)  # more rows than one chunk of the driver, whether the loss has N rows or 2N
BACKENDS = pytest.mark.parametrize("backend", ["torch", "cpu"])
BACKENDS_AND_DTYPES = pytest.mark.parametrize(
    ("backend", "dtype"), [("torch", torch.float32), ("torch", torch.float64), ("cpu", torch.float32)]
)  # the cpu backend has no float64


@dataclass(frozen=True)
class Pairing:
    """What `compare` reads of a loss card."""

    function: Loss
    reference: Loss


def assert_agreement(ours: Loss, peer: Loss, case: Case, **options) -> None:
    """Value and the gradient of every tensor agree, and the budget would notice one part in a thousand."""
    pairing = Pairing(ours, peer)
    found = compare(pairing, case, **options)
    assert found.ok, found.detail
    if len(case.args[0]) > 2:  # one or two pairs may be told apart so well that loss and gradients are 0 to all digits
        off = replace(pairing, function=lambda *args, **named: 1.001 * ours(*args, **named))
        assert not compare(off, case, **options).ok, "the budget hides an error of one part in a thousand"


def rows(*shape: int, seed: int, dtype: torch.dtype = torch.float32, norms: bool = False) -> Tensor:
    """Unit rows; norms: of length 1 to 2, for losses that normalise (the budget of features holds from length 1 on)."""
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)
    if norms:
        x = x * (1.0 + torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64))
    return x.to(dtype)


def two_views(n: int, d: int, dtype: torch.dtype, norms: bool = False) -> tuple[Tensor, Tensor]:
    """Pairs with a cosine of about 0.45: at every temperature some negatives compete, so gradients do not vanish."""
    x, noise = rows(n, d, seed=n + d, dtype=torch.float64), rows(n, d, seed=n + d + 1, dtype=torch.float64)
    lengths = rows(2 * n, 1, seed=n, dtype=torch.float64, norms=norms).abs()
    return (x * lengths[:n]).to(dtype), (F.normalize(x + 2.0 * noise, dim=-1) * lengths[n:]).to(dtype)


def two_view_case(n: int, d: int, dtype: torch.dtype, temperature: float, **tensors: Tensor) -> Case:
    """Rows that are not normalised, a temperature with a gradient, and any further tensors."""
    named = {"temperature": torch.tensor(temperature), **tensors}
    return Case(two_views(n, d, dtype, norms=True), named, 1.0 / temperature)


def without_in_batch_keys(query: Tensor, key: Tensor, **options) -> Tensor:
    """info_nce whose negatives are the given ones alone: as all ids are equal, no key is another query's negative."""
    return info_nce(query, key, query_ids=torch.zeros(len(query), dtype=torch.long), **options)
