"""Comparison of a loss with its float64 reference by an error budget taken from data, not from flat tolerances.

Truth is the reference in float64 on the very values the loss gets (after their rounding to the input type). The twin is
the same reference in float32. A result is right when it is as close to the truth as the twin, within a factor and two
roundings that no implementation avoids: of the result to its own type, and of logits, which changes every e^z by the
relative amount eps * |z| and so a score gradient of size scale / N by that part, also where score gradients cancel:

    error <= 2 * (twin error + eps(result type) * max |truth| + eps(float32) * largest |z| *
             max(max |truth|, scale / N)) + smallest number

For features max |truth| is taken over all of them: score gradients are rounded once to the input type, for all of them.
Where the loss derives what it multiplies from the features (Case.derived), half precision rounds that too: the twin
error then includes what one more rounding of the features does to the reference, in the worst of four draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .catalog import Case, LossCard

EPS = {
    torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11
}  # fmt: skip
HALF = (torch.bfloat16, torch.float16)
SMALLEST = {  # results below are lost to underflow, in float32 also inside the kernels (e^z below e^-87.3 is 0)
    torch.float64: 2.0**-1022, torch.float32: 2.0**-126, torch.bfloat16: 2.0**-126, torch.float16: 2.0**-24
}  # fmt: skip


@dataclass(frozen=True)
class CheckResult:
    """Errors relative to their budgets; 1 is the limit."""

    worst: float
    ok: bool
    detail: str  # the quantity with the worst ratio, its error and its budget


@dataclass(frozen=True)
class Outcome:
    """A value and the gradient of every floating-point tensor argument."""

    value: Tensor
    grads: dict[str, Tensor]


def largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def error_budget(twin_error: float, size: float, dtype: torch.dtype, magnitude: float, score_gradient: float) -> float:
    """The formula above for a result of type `dtype`: size is max |truth|, magnitude the largest |z|,
    score gradient scale / N."""
    low = EPS[torch.float64 if dtype == torch.float64 else torch.float32]
    rounding = EPS[dtype] * size + low * magnitude * max(size, score_gradient)
    return 2.0 * (twin_error + rounding) + SMALLEST[dtype] * max(magnitude, 1.0)


def run(function: Callable[..., Tensor], case: Case, convert: Callable[[Tensor], Tensor], **extra: Any) -> Outcome:
    """Calls function on converted copies of the case's arguments and differentiates a fixed weighting of the result."""
    leaves: dict[str, Tensor] = {}

    def prepare(name: str, x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            return x
        own = convert(x).detach().clone()
        if not case.constant(int(name) if name.isdigit() else name):
            leaves[name] = own.requires_grad_()
        return own

    args = [prepare(str(i), x) for i, x in enumerate(case.args)]
    kwargs = {name: prepare(name, x) for name, x in case.kwargs.items()}
    value = function(*args, **kwargs, **extra)
    weight = torch.linspace(0.5, 1.5, max(value.numel(), 1), dtype=value.dtype, device=value.device)[: value.numel()]
    (value * weight.reshape(value.shape)).sum().backward()
    grads = {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in leaves.items()}
    return Outcome(value.detach(), grads)


def compare(
    card: LossCard, case: Case, expected: tuple[Outcome, Outcome] | None = None, /, **extra: Any
) -> CheckResult:
    """The loss against its reference, value and every gradient. `extra`: backend, memory_budget, reduction.

    expected: of `references`, where several calls share it.
    """
    shared = {name: x for name, x in extra.items() if name == "reduction"}
    return judge(case, outcome(card, case, **extra), expected or references(card, case, **shared), **shared)


def outcome(card: LossCard, case: Case, **extra: Any) -> Outcome:
    """What the loss gives. `extra` as for `compare`."""
    double = dtypes(case)[0] == torch.float64
    return run(card.function, case, lambda x: x.double() if double else x, **extra)


def judge(case: Case, found: Outcome, expected: tuple[Outcome, Outcome], reduction: str = "mean") -> CheckResult:
    """What was found against what `references` gave, value and every gradient."""
    low = dtypes(case)[1]
    truth, twin = expected
    n = max(case.n, 1)
    share = 1.0 if reduction != "mean" else 1.0 / n  # weight of one row
    total = 1.0 if found.value.dim() else n * share  # weight of the rows behind one value
    feature_size = max(largest(g) for g in truth.grads.values() if g.dim() >= 2)
    # float64 has no lower-precision twin to measure: some roundings, more for longer sums, stand for its error
    unmeasured = EPS[torch.float64] * (8.0 + math.sqrt(n)) if low == torch.float64 else 0.0
    value_sizes = (low, largest(truth.value), case.magnitude, total)
    checks = [ratio("value", found.value, truth.value, twin.value, value_sizes, unmeasured)]
    for name, grad in found.grads.items():
        true = truth.grads[name]
        if grad.dim() >= 2:  # unit rows: score gradients of features are at most scale * (weight of a row)
            sizes = (grad.dtype, feature_size, case.magnitude, case.magnitude * share)
        else:  # summed over pairs: terms are z / parameter, times a softmax weight
            smallest = float(argument(case, name).abs().min()) if true.numel() else 1.0
            every = 1.0 if grad.dim() else n * share
            sizes = (grad.dtype, largest(true), case.magnitude, every * case.magnitude / max(smallest, 1e-30))
        checks.append(ratio(f"d{name}", grad, true, twin.grads[name], sizes, unmeasured))
    worst, detail = max(checks, key=lambda check: check[0])
    return CheckResult(worst, worst <= 1.0, detail)


def references(card: LossCard, case: Case, **shared: Any) -> tuple[Outcome, Outcome]:
    """What the reference gives in float64, and in the precision that the loss computes in. `shared`: reduction."""
    dtype, low = dtypes(case)
    truth = run(card.reference, case, Tensor.double, **shared)
    twin = truth if low == torch.float64 else run(card.reference, case, lambda x: x.to(low), **shared)
    if case.derived and dtype in HALF:
        rough = [run(card.reference, case, partial(roughened, dtype, seed), **shared) for seed in range(4)]
        twin = further(truth, twin, rough)
    return truth, twin


def dtypes(case: Case) -> tuple[torch.dtype, torch.dtype]:
    """Of the features, and of the arithmetic."""
    dtype = next(x.dtype for x in case.args if isinstance(x, Tensor))
    return dtype, torch.float64 if dtype == torch.float64 else torch.float32


def roughened(dtype: torch.dtype, seed: int, x: Tensor) -> Tensor:
    """Features in float64, each off by up to one more rounding to `dtype`."""
    noise = 2.0 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device) - 1.0
    return x.double() * (1.0 + EPS[dtype] * noise) if x.dim() > 1 else x.double()


def further(truth: Outcome, twin: Outcome, rough: Sequence[Outcome]) -> Outcome:
    """Off from the truth by as much as the twin and the worst of the rough outcomes are off together."""

    def together(true: Tensor, x: Tensor, others: list[Tensor]) -> Tensor:
        return true + (x.double() - true).abs() + torch.stack([(y - true).abs() for y in others]).amax(0)

    grads = {name: together(g, twin.grads[name], [x.grads[name] for x in rough]) for name, g in truth.grads.items()}
    return Outcome(together(truth.value, twin.value, [x.value for x in rough]), grads)


def argument(case: Case, name: str) -> Any:
    return case.args[int(name)] if name.isdigit() else case.kwargs[name]


def ratio(
    name: str,
    found: Tensor,
    truth: Tensor,
    twin: Tensor,
    sizes: tuple[torch.dtype, float, float, float],
    unmeasured: float,
) -> tuple[float, str]:
    """Error over budget; infinite for a wrong shape or a value that is not finite."""
    if found.shape != truth.shape or not torch.isfinite(found).all():
        return float("inf"), f"{name}: shape {tuple(found.shape)}, finite {bool(torch.isfinite(found).all())}"
    error = largest(found.double() - truth)
    dtype, size, magnitude, score_gradient = sizes
    twin_error = largest(twin.double() - truth) + unmeasured * size
    budget = error_budget(twin_error, size, dtype, magnitude, score_gradient)
    if not math.isfinite(budget):
        return float("inf"), f"{name}: the float32 twin is not finite"
    return error / budget, f"{name}: error {error:.1e}, budget {budget:.1e}"


def comparable(case: Case, n: int) -> bool:
    """Whether a half-precision case has a budget: normalize rounds unit rows to the input type, which the reference
    does not; and with one row the true gradient is 0, so that only the rounding of score gradients is left to see."""
    mixed = {"label_smoothing", "hard_negatives"} & set(case.kwargs)
    return not case.kwargs.get("normalize") and not (n == 1 and mixed)


def check_card(card: LossCard, backend: str, dtype: torch.dtype, n: int, d: int) -> CheckResult:
    """The worst of all variants of a loss on one backend, type and size."""
    worst = CheckResult(0.0, True, "")
    for index, (variant, maker) in enumerate(card.variants.items()):
        generator = torch.Generator().manual_seed(1000 * n + 10 * d + index)
        extra = {"backend": backend} if card.gemm else {}
        case = maker(n, d, generator, dtype)
        if dtype in HALF and not comparable(case, n):
            continue
        result = compare(card, case, **extra)
        if not result.worst < worst.worst:
            worst = CheckResult(result.worst, result.ok, f"{variant}: {result.detail}")
    return worst
