"""Modalities for the tests against the package symile."""

import torch

from contrastile.catalog import Case

from .views import unit_rows


def case(k, n, d, dtype, scale, radius=1.0):
    """Modalities that resemble each other, so that the true tuples stand out."""
    common = unit_rows(n, d, seed=n)
    rows = [(radius * (common + 0.5 * unit_rows(n, d, seed=n + 1 + m))).to(dtype) for m in range(k)]
    magnitude = scale * torch.stack(rows).double().prod(0).abs().sum(1).max().item()
    return Case(tuple(rows), {"logit_scale": torch.tensor(scale)}, magnitude)


def seeded(function):
    """The function after the same draws, however often it is called."""

    def loss(*modalities, **options):
        torch.manual_seed(7)
        return function(*modalities, **options)

    return loss
