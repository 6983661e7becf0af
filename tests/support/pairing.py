"""A loss against another formula or another package's, within the error budget of contrastile.testing.

The other one takes the place of the reference: run in float64 it is the truth, in float32 the twin. So a value or
gradient may be as wrong as the other is in float32, and no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from contrastile.catalog import Case
from contrastile.testing import CheckResult, Outcome, judge, outcome, references


@dataclass(frozen=True)
class Pairing:
    """What compare reads of a loss card: another formula takes the place of the reference."""

    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]


def off(x: Outcome) -> Outcome:
    """As a loss would give it that is off by one part in a thousand."""
    return Outcome(1.001 * x.value, {name: 1.001 * grad for name, grad in x.grads.items()})


def agreement(
    loss: Callable[..., Tensor], truth: Callable[..., Tensor], case: Case, **options: Any
) -> tuple[CheckResult, CheckResult]:
    """The loss against the other formula, and the same if it were off by one part in a thousand."""
    pairing = Pairing(loss, truth)
    shared = {name: x for name, x in options.items() if name == "reduction"}
    found, expected = outcome(pairing, case, **options), references(pairing, case, **shared)
    return judge(case, found, expected, **shared), judge(case, off(found), expected, **shared)


def assert_agreement(loss: Callable[..., Tensor], truth: Callable[..., Tensor], case: Case, **options: Any) -> None:
    """Value and every gradient within the budget, which would notice one part in a thousand."""
    found, wrong = agreement(loss, truth, case, **options)
    assert found.ok, found.detail
    if case.n > 2:  # one or two pairs may have a loss of 0 to all digits: nothing is off
        assert not wrong.ok, "the budget hides one part in a thousand"
