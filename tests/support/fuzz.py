"""Random calls of every loss of the catalog against its float64 reference: `make fuzz CASES=100000 SEED=1`.

A call is drawn from a seed: loss, one or two of the catalog's variants together, batch, features, type, backend,
memory_budget, reduction, layout in memory, and rows out of the ordinary. One that is further from the reference than
the error budget of contrastile.testing is shrunk: each part is made simpler for as long as the call still fails. The
smallest one found is printed as Python that repeats it.
"""

from __future__ import annotations

import argparse
import inspect
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import groupby, islice
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile.backends import BackendUnsupported
from contrastile.catalog import CATALOG, Case, LossCard
from contrastile.testing import comparable, compare, references
from support.pairing import Pairing

CARDS = {card.name: card for card in CATALOG}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
HALVES = ("bfloat16", "float16")
LARGEST = 70  # batch
# of many thousand calls some add up roundings that the budget takes to cancel; a fault is beyond it by tens
SLACK = 2.0
SHARE = 500  # calls a process draws at a time


def strided(x: Tensor) -> Tensor:
    return torch.stack([x, x.detach()], -1)[..., 0]


def padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, 3))[..., :-3]


def transposed(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x, "strided": strided, "padded": padded, "transposed": transposed
}  # fmt: skip


def zero(x: Tensor) -> None:
    x[..., 0, :] = 0.0


def small(x: Tensor) -> None:
    x[..., 0, :] *= 2.0**-12


def equal(x: Tensor) -> None:
    x[..., -1, :] = x[..., 0, :]


def opposite(x: Tensor) -> None:
    x[..., -1, :] = -x[..., 0, :]


ROWS: dict[str, Callable[[Tensor], None]] = {
    "ordinary": lambda x: None, "zero": zero, "small": small, "equal": equal, "opposite": opposite
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """Everything that makes a call, in the order in which it is shrunk; the defaults are the simplest."""

    loss: str
    variant: str
    also: str = ""  # another variant, whose options come on top
    rows: str = "ordinary"
    layout: str = "contiguous"
    memory_budget: int | None = None
    reduction: str = "mean"
    dtype: str = "float32"
    backend: str = "torch"
    n: int = 1
    d: int = 1
    seed: int = 0

    @property
    def card(self) -> LossCard:
        return CARDS[self.loss]

    @property
    def options(self) -> dict[str, Any]:
        """Those that are no part of the case."""
        options: dict[str, Any] = {"backend": self.backend} if self.card.gemm else {}
        if self.memory_budget is not None:
            options["memory_budget"] = self.memory_budget
        if self.reduction != "mean":
            options["reduction"] = self.reduction
        return options


@dataclass(frozen=True)
class Result:
    """worst: error over budget. refused: why the loss does not take the call, whose reference it is not compared with
    then."""

    worst: float = 0.0
    detail: str = ""
    refused: str = ""

    @property
    def failed(self) -> bool:
        return not self.worst <= SLACK


# ---- a call


@cache
def takes(loss: str) -> frozenset[str]:
    return frozenset(inspect.signature(CARDS[loss].function).parameters)


def draw(seed: int, largest: int = LARGEST) -> Call:
    choose = random.Random(seed)
    card = choose.choice(CATALOG)
    variants = list(card.variants)
    options: dict[str, Any] = {}
    if choose.random() < 0.4:
        options["also"] = choose.choice(["", *variants])
    if choose.random() < 0.3:
        options["rows"] = choose.choice(list(ROWS))
    if choose.random() < 0.4:
        options["layout"] = choose.choice(list(LAYOUTS))
    if "memory_budget" in takes(card.name) and choose.random() < 0.4:
        options["memory_budget"] = choose.choice([0, 1000, 20_000, 1 << 30])
    if "reduction" in takes(card.name):
        options["reduction"] = choose.choice(["mean", "mean", "sum", "none"])
    options["dtype"] = choose.choice(["float32"] * 4 + ["bfloat16", "float16", "float64"])
    options["backend"] = "cpu" if card.gemm and options["dtype"] != "float64" and choose.random() < 0.6 else "torch"
    n = choose.choice([1, 2, 3, choose.randint(4, 20), choose.randint(4, 20), choose.randint(20, LARGEST)])
    drawn = Call(card.name, choose.choice(variants), **options, n=min(n, largest), d=choose.randint(1, 24), seed=seed)
    if ambiguous(drawn):  # most of them are not with these
        drawn = replace(drawn, rows="ordinary", n=max(drawn.n, 2), d=max(drawn.d, 4))
    return drawn


def make(call: Call) -> Case:
    """The arguments. Raises: ValueError: the catalog has no such batch."""
    case = variant_of(call, call.variant)
    if call.also:
        case = together(case, variant_of(call, call.also))
    for x in case.args:
        if isinstance(x, Tensor) and x.dim() > 1 and x.is_floating_point():
            ROWS[call.rows](x)
    return case


def together(case: Case, other: Case) -> Case:
    """The case with options of another one besides its own."""
    return replace(
        case,
        kwargs={**other.kwargs, **case.kwargs},
        magnitude=case.magnitude + other.magnitude,
        derived=case.derived or other.derived,
        frozen=(*case.frozen, *(x for x in other.frozen if isinstance(x, str))),
    )


def ambiguous(call: Call) -> str:
    """Why the reference does not tell what is right; "" if it does."""
    parallel = call.d < 4 or call.rows in ("equal", "opposite")
    if call.dtype in HALVES and (parallel or call.n == 1 or "riesz" in call.variant + call.also):
        return "score gradients that cancel are rounded before they do"
    if call.dtype == "float64" and call.loss in ("mixup_info_nce", "m2_mix") and parallel:
        return "the angle of rows that are nearly parallel has fewer digits"
    if call.loss in ("late_interaction_info_nce", "fdt_loss") and (call.d < 3 or call.rows != "ordinary"):
        return "equal scores: any of them is the largest"
    if call.loss == "pmrl_loss" and call.rows == "zero":
        return "an item of zeros has no leading direction"
    return ""


def variant_of(call: Call, variant: str) -> Case:
    generator = torch.Generator().manual_seed(call.seed)
    return call.card.variants[variant](call.n, call.d, generator, DTYPES[call.dtype])


def fits(x: Tensor, dtype: torch.dtype) -> bool:
    return bool((x.abs() <= torch.finfo(dtype).max).all())


def check(call: Call) -> Result:
    if why := ambiguous(call):
        return Result(refused=why)
    shared = {"reduction": call.reduction} if call.reduction != "mean" else {}
    try:
        case = make(call)
        if call.dtype in HALVES and not comparable(case, call.n):
            return Result(refused="no budget")
        expected = references(call.card, case, **shared)
    except (
        ValueError,
        RuntimeError,
        IndexError,
        TypeError,
        ArithmeticError,
    ) as error:  # two variants that do not go together
        return Result(refused=f"no reference: {error}")
    if not all(fits(x, DTYPES[call.dtype]) for outcome in expected for x in (outcome.value, *outcome.grads.values())):
        return Result(refused="the reference is not finite")
    lay = LAYOUTS[call.layout]

    def function(*args: Any, **kwargs: Any) -> Tensor:
        laid = [lay(x) if isinstance(x, Tensor) and x.dim() > 1 and x.is_floating_point() else x for x in args]
        return call.card.function(*laid, **kwargs)

    try:
        result = compare(Pairing(function, call.card.reference), case, expected, **call.options)
    except (ValueError, TypeError, BackendUnsupported, NotImplementedError) as error:
        return Result(refused=f"{type(error).__name__}: {error}")
    except Exception as error:
        return Result(float("inf"), f"{type(error).__name__}: {error}")
    return Result(result.worst, result.detail)


# ---- the smallest call that still fails


def simpler(call: Call) -> Iterator[Call]:
    """Calls with one part simpler, the simplest first."""
    for part in fields(Call):
        name, value = part.name, getattr(call, part.name)
        if name in ("n", "d"):
            yield from (
                replace(call, **{name: x}) for x in dict.fromkeys([1, 2, 3, value // 2, value - 1]) if 0 < x < value
            )
        elif name == "variant":
            first = next(iter(call.card.variants))
            yield from (replace(call, variant=x, also="") for x in (first, call.also) if x and x != value)
        elif name not in ("loss", "seed") and value != part.default:
            yield replace(call, **{name: part.default})


def shrink(call: Call, fails: Callable[[Call], bool] = lambda call: check(call).failed) -> Call:
    for smaller in simpler(call):
        if fails(smaller):
            return shrink(smaller, fails)
    return call


# ---- many calls


@dataclass
class Tally:
    """compared: calls by loss. refused: calls by reason. failed: the calls."""

    compared: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: list[Call] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.compared += other.compared
        self.refused += other.refused
        self.failed += other.failed


def several(seeds: range, largest: int = LARGEST) -> Tally:
    """The calls of these seeds, with batches that are no larger."""
    torch.set_num_threads(1)
    found = Tally()
    for call in (draw(seed, largest) for seed in seeds):
        result = check(call)
        if result.refused:
            found.refused[f"{call.loss}: {result.refused[:100]}"] += 1
            continue
        found.compared[call.loss] += 1
        if result.failed:
            found.failed.append(call)
    return found


def shares(cases: int, seed: int) -> Iterator[range]:
    """Seeds of so many calls, in the shares of processes."""
    first = seed * 10**9
    for start in range(first, first + cases, SHARE):
        yield range(start, min(start + SHARE, first + cases))


def report(tally: Tally, verbose: bool) -> str:
    lines = [f"{sum(tally.compared.values())} calls of {len(tally.compared)} losses compared with their references"]
    lines[0] += f", {sum(tally.refused.values())} refused or without a reference, {len(tally.failed)} wrong"
    if verbose:
        lines += [f"{count:7} {reason}" for reason, count in tally.refused.most_common()]
    smallest: dict[str, Call] = {}
    for loss, calls in groupby(sorted(tally.failed, key=lambda x: x.loss), key=lambda x: x.loss):
        smallest[loss] = min((shrink(x) for x in islice(calls, 3)), key=lambda x: (x.n * x.d, x.n))
    for call in smallest.values():
        lines += ["", f"{check(call).detail}", f"    {call}"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--verbose", "-v", action="store_true", help="also why calls were refused")
    options = parser.parse_args()
    tally = Tally()
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for done, found in enumerate(pool.map(several, shares(options.cases, options.seed)), 1):
            tally.add(found)
            so_far = f"{min(done * SHARE, options.cases)} of {options.cases}, {len(tally.failed)} wrong"
            print(f"\r{so_far}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(report(tally, options.verbose))
    return bool(tally.failed)


if __name__ == "__main__":
    sys.exit(main())
