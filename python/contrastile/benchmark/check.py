"""Whether a candidate computes the loss: against float64, before any of its times may be reported.

The truth is the dense reference in float64 up to Workload.dense_rows. Beyond, where it would hold N x N matrices of
float64, it is the package's plain torch backend in float64, which must agree with the reference at dense_rows first.
The value is compared at the measured size, values and gradients of all features at the largest size that takes no more
than CHECK_FLOP. This package's own results are also held there (at most at dense_rows) to the error budget of
contrastile.testing, gradients of scale, temperature and bias included. Both modes and all candidates share one truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile.catalog import Case, LossCard
from contrastile.testing import HALF, comparable, compare

from .precision import tf32
from .problem import BOTH, Problem, is_features, leaves
from .suite import Candidate, Loss

CHECK_FLOP = {"cpu": 2e9, "cuda": 1e14}
LIMIT = {"float64": 1e-9, "float32": 1e-4, "tf32": 1e-2, "bfloat16": 1e-2, "float16": 1e-2}  # relative, this package
OTHERS = 5.0  # others round logits to half precision, which costs them that much
TWINS = 1e-9  # the torch backend and the reference, both in float64
FAST_DOUBLE = (
    (8, 0),
    (9, 0),
    (10, 0),
)  # capabilities with float64 units; elsewhere float32, beyond dense_rows


class Refused(Exception):
    """The result is wrong."""


@dataclass(frozen=True)
class Found:
    value: float
    grads: tuple[Tensor, ...]  # of the features


def found(loss: Loss, case: Case, dtype: torch.dtype | None, backward: bool) -> Found:
    """dtype: of the computation, if not the case's."""

    def converted(x: Any) -> Any:
        return x.to(dtype) if dtype and isinstance(x, Tensor) and x.dtype.is_floating_point else x

    kwargs = {name: converted(x) for name, x in case.kwargs.items()}
    case = replace(case, args=tuple(map(converted, case.args)), kwargs=kwargs)
    args, kwargs = leaves(case) if backward else (list(case.args), case.kwargs)
    with torch.set_grad_enabled(backward):
        value = loss(*args, **kwargs)
    if backward:
        value.backward()
    features = [x for x in args if is_features(x)]
    grads = tuple(torch.zeros_like(x) if x.grad is None else x.grad for x in features) if backward else ()
    return Found(float(value.detach()), grads)


def across(result: Found, case: Case) -> Found:
    """Without the part of the gradients along the rows."""
    rows = [F.normalize(x.double(), dim=-1) for x in case.args if is_features(x)]
    grads = [g.double() - (g * x).sum(-1, keepdim=True) * x for g, x in zip(result.grads, rows, strict=False)]
    return Found(result.value, tuple(grads))


def error(result: Found, true: Found) -> float:
    """The largest relative error of value and gradients; NaN where anything is not finite."""
    errors = [abs(result.value - true.value) / max(abs(true.value), 1e-3)]
    for grad, exact in zip(result.grads, true.grads, strict=True):
        errors.append(float((grad.to(exact.dtype) - exact).norm() / exact.norm().clamp_min(1e-30)))
    return max(errors) if all(map(math.isfinite, errors)) else math.nan


def truth(problem: Problem, backward: bool) -> Found:
    return truth_of(replace(problem, mode=BOTH), backward)


@lru_cache(maxsize=4)
def truth_of(problem: Problem, backward: bool) -> Found:
    workload, case = problem.workload, problem.case(0)
    if problem.n <= workload.dense_rows:
        return found(workload.reference, case, torch.float64, backward)
    twins_agree(problem.at(workload.dense_rows))
    with tf32(False):
        return found(partial(workload.function, backend="torch"), case, exact_type(problem.device), backward)


def exact_type(device: str) -> torch.dtype:
    slow = device == "cuda" and torch.cuda.get_device_capability() not in FAST_DOUBLE
    return torch.float32 if slow else torch.float64


@cache
def twins_agree(problem: Problem) -> None:
    case = problem.case(0)
    chunked = partial(problem.workload.function, backend="torch")
    dense, other = (found(x, case, torch.float64, True) for x in (problem.workload.reference, chunked))
    if not error(other, dense) <= TWINS:
        raise Refused(f"the float64 truth differs from the reference by {error(other, dense):.1e}")


def checked_n(problem: Problem) -> int:
    n = problem.n
    while n > 64 and 12.0 * problem.k * problem.at(n).rows ** 2 * problem.d > CHECK_FLOP[problem.device]:
        n //= 2
    return n


def check(problem: Problem, candidate: Candidate) -> tuple[float, int]:
    """(relative error, batch at which gradients were compared). Raises: Refused: it is too large."""
    small = problem.at(checked_n(problem))
    case, true = small.case(0), truth(small, problem.backward)
    result = found(candidate.make(small), case, None, problem.backward)
    worst = error(across(result, case), across(true, case)) if candidate.normalizes else error(result, true)
    if small != problem and not math.isnan(worst):
        whole = found(candidate.make(problem), problem.case(0), None, False)
        worst = max(worst, error(whole, truth(problem, False)), key=lambda x: (math.isnan(x), x))
    limit = LIMIT[problem.type] * (1.0 if candidate.ours else OTHERS)
    if not worst <= limit:
        raise Refused(f"relative error {worst:.1e}, at most {limit:.0e}")
    if candidate.budget and not problem.tf32:
        within_budget(replace(small.at(min(small.n, problem.workload.dense_rows)), mode=BOTH), candidate)
    return worst, small.n


@cache
def within_budget(problem: Problem, candidate: Candidate) -> None:
    case = problem.case(0)
    if problem.dtype in HALF and (problem.workload.normalizes or not comparable(case, problem.n)):
        return
    pairing = SimpleNamespace(function=candidate.make(problem), reference=problem.workload.reference)
    result = compare(cast(LossCard, pairing), case)
    if not result.ok:
        raise Refused(f"beyond the error budget at N = {problem.n}: {result.detail}")
