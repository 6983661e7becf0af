"""A loss against another formula, within the error budget of contrastile.testing."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from contrastile.catalog import Case
from contrastile.testing import compare


@dataclass(frozen=True)
class Pairing:
    """What compare reads of a loss card: another formula takes the place of the reference."""

    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]


def assert_agreement(loss: Callable[..., Tensor], truth: Callable[..., Tensor], case: Case, **options: str) -> None:
    """Value and every gradient within the budget, which would notice one part in a thousand."""
    found = compare(Pairing(loss, truth), case, **options)
    assert found.ok, found.detail
    assert not compare(Pairing(lambda *x, **named: 1.001 * loss(*x, **named), truth), case, **options).ok
