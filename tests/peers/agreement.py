"""A loss against another package's, within the error budget of contrastile.testing.

The other package takes the place of the reference: run in float64 it is the truth, in float32 the
twin. So a value or gradient may be as wrong as the other package is in float32, and no more.
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
# More rows than a chunk of the driver has. Compared in float32 only: the float64 budget of eight
# roundings does not grow with the length of sums.
LONG = (1100, 24)
LONG_VIEWS = (550, 24)  # likewise, for losses with 2N rows

BACKENDS = pytest.mark.parametrize("backend", ["torch", "cpu"])
BACKENDS_AND_DTYPES = pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        pytest.param("torch", torch.float32, id="torch-float32"),
        pytest.param("torch", torch.float64, id="torch-float64"),
        pytest.param("cpu", torch.float32, id="cpu-float32"),  # cpu has no float64
    ],
)


@dataclass(frozen=True)
class Pairing:
    """What `compare` reads of a loss card."""

    function: Loss
    reference: Loss


def assert_agreement(ours: Loss, peer: Loss, case: Case, **options) -> None:
    """Value and all gradients agree, by a budget that would notice one part in a thousand."""
    pairing = Pairing(ours, peer)
    found = compare(pairing, case, **options)
    assert found.ok, found.detail
    if len(case.args[0]) > 2:  # one or two pairs may have a loss of 0 to all digits: nothing is off
        off = replace(pairing, function=lambda *args, **named: 1.001 * ours(*args, **named))
        assert not compare(off, case, **options).ok, "the budget hides one part in a thousand"


def unit_rows(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def free_rows(*shape: int, seed: int) -> Tensor:
    """Rows of length 1 to 2, for losses that normalise: the budget holds from length 1 on."""
    generator = torch.Generator().manual_seed(seed + 1)
    lengths = 1.0 + torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64)
    return lengths * unit_rows(*shape, seed=seed)


def two_views(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Unit rows with a cosine of about 0.45, so that negatives compete at every temperature."""
    x = unit_rows(n, d, seed=n)
    return x, F.normalize(x + 2.0 * unit_rows(n, d, seed=n + 1), dim=-1)


def two_view_case(n: int, d: int, dtype: torch.dtype, temperature: float, **tensors: Tensor) -> Case:
    """Two views of free length, a temperature with a gradient, and any further tensors."""
    lengths = free_rows(2 * n, 1, seed=n).abs()
    views = [(x * s).to(dtype) for x, s in zip(two_views(n, d), lengths.split(n), strict=True)]
    named = {name: x.to(dtype) for name, x in tensors.items()}
    return Case(tuple(views), {"temperature": torch.tensor(temperature), **named}, 1 / temperature)


def without_in_batch_keys(query: Tensor, key: Tensor, **options) -> Tensor:
    """info_nce with the given negatives alone: keys with the query's id are no negatives."""
    return info_nce(query, key, query_ids=torch.zeros(len(query), dtype=torch.long), **options)
