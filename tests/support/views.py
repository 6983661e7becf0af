"""Rows and two views to compare with other packages on, and the backends that are compared."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import info_nce
from contrastile.testing import Case

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
