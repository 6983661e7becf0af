"""A loss against another formula or another package's, within the error budget of contrastile.testing.

The other one takes the place of the reference: run in float64 it is the truth, in float32 the twin. So a value or
gradient may be as wrong as the other is in float32, and no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from contrastile.catalog import Case
from contrastile.testing import compare


@dataclass(frozen=True)
class Pairing:
    """What compare reads of a loss card: another formula takes the place of the reference."""

    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]


def assert_agreement(loss: Callable[..., Tensor], truth: Callable[..., Tensor], case: Case, **options: Any) -> None:
    """Value and every gradient within the budget, which would notice one part in a thousand."""
    found = compare(Pairing(loss, truth), case, **options)
    assert found.ok, found.detail
    if case.n > 2:  # one or two pairs may have a loss of 0 to all digits: nothing is off
        off = Pairing(lambda *x, **named: 1.001 * loss(*x, **named), truth)
        assert not compare(off, case, **options).ok, "the budget hides one part in a thousand"
