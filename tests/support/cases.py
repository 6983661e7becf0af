"""Calls to try: random features with any choice of scales, biases, ids, thresholds and mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .oracle import Call, logits

BACKEND_DTYPES = [
    *(("torch", dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)),
    *(("cpu", dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
]
EXTRAS = (
    "row_scale",
    "col_scale",
    "row_bias",
    "col_bias",
    "row_low",
    "row_high",
    "col_low",
    "col_high",
    "mask",
)


def make_call(
    n: int,
    m: int | None,
    d: int,
    dtype: torch.dtype = torch.float32,
    *extras: str,
    blocks: int = 1,
    scale: float = 4.0,
    seed: int = 0,
    constant: Iterable[str] = (),
    **options: Any,
) -> Call:
    """Random features with the extras asked for; m=None: b is a. Ids repeat.

    What the other options make useless is left out, as it would be refused.

    For reduce="relu" features, scales and biases are small multiples of powers of two, so that z
    is exact in float32 and its sign does not depend on rounding.
    """
    g = torch.Generator().manual_seed(seed)
    grid, columns = options.get("reduce") == "relu", n if m is None else m
    stat = torch.float64 if dtype == torch.float64 else torch.float32
    a = features(n, d, grid, g).to(dtype)
    b = None if m is None else features(m, d, grid, g).to(dtype).tensor_split(blocks)
    options["scale"] = torch.tensor(scale, dtype=stat)
    if "row_scale" in extras:
        options["scale"] = factors(n, 2.0, 9.0, grid, g).to(stat)
    if "col_scale" in extras:
        options["col_scale"] = factors(columns, 0.5, 2.0, grid, g).to(stat)
    for name, size in (("row_bias", n), ("col_bias", columns)):
        if name in extras:
            bias = torch.rand(size, generator=g, dtype=torch.float64) * 4 - 2
            options[name] = ((bias * 4).round() / 4 if grid else bias).to(stat)
    options |= operands(options, n, m, g)
    if "mask" in extras:
        options["mask"] = torch.rand(n, columns, generator=g) < 0.7
    if options.get("positives") in (None, "kept"):
        options.pop("keep_positives", None)
    if not options.get("cols"):
        extras = tuple(name for name in extras if name not in ("col_low", "col_high"))
    return with_thresholds(Call(a, b, options, frozenset(constant)), extras)


def tests_of(options: dict[str, Any]) -> set[str]:
    """Names of all tests that the rules of a call name."""
    return {test for rule in ("keep", "positives") for test in names_of(options.get(rule))}


def names_of(rule: Any) -> tuple[str, ...]:
    return (rule,) if isinstance(rule, str) else rule or ()


def operands(options: dict[str, Any], n: int, m: int | None, g: Generator) -> dict[str, Tensor]:
    """What the tests compare. Labels need two words; many orders are equal."""
    kinds = {test.rpartition("_")[2] for test in tests_of(options)}
    draws = {
        "id": ("ids", lambda size: torch.randint(0, n // 3 + 1, (size,), generator=g)),
        "group": ("groups", lambda size: torch.randint(-2, 2, (size,), generator=g)),
        "label": ("labels", lambda size: torch.rand(size, 70, generator=g) < 0.07),
        "order": ("order", lambda size: torch.randint(-5, 5, (size,), generator=g) / 8),
    }
    found = {}
    for kind, (name, draw) in draws.items():
        if kind in kinds:
            found[f"row_{name}"] = draw(n)
            if m is not None:
                found[f"col_{name}"] = draw(m)
    if "partner" in kinds:
        found["partner"] = torch.randint(-1, n if m is None else m, (n, 3), generator=g)
        found["partner"][: n // 2, 1] = found["partner"][: n // 2, 0]  # named twice
        if "partner" in names_of(options.get("positives")):
            found["share"] = torch.rand(n, 3, generator=g) + 0.1
    return found


def features(rows: int, d: int, grid: bool, g: Generator) -> Tensor:
    x = torch.randn(rows, d, generator=g)
    return (x * 2).round() / 4 if grid else F.normalize(x, dim=1) if d > 1 else x  # no equal rows


def factors(size: int, low: float, high: float, grid: bool, g: Generator) -> Tensor:
    x = low + (high - low) * torch.rand(size, generator=g, dtype=torch.float64)
    return x.log2().round().exp2() if grid else x


def with_thresholds(call: Call, extras: Iterable[str]) -> Call:
    rows, cols = logits(call.double())
    limits = {}
    for side, x in (("row", rows), ("col", cols.T)):
        for name, limit in ((f"{side}_low", -between(-x)), (f"{side}_high", between(x))):
            if name in extras:
                limits[name] = limit.to(call.stat_dtype())
        if f"{side}_low" in limits and f"{side}_high" in limits:
            limits[f"{side}_low"] = torch.minimum(limits[f"{side}_low"], limits[f"{side}_high"])
    return replace(call, options=call.options | limits)


def between(z: Tensor) -> Tensor:
    """One threshold per row, in the widest gap of its upper half: rounding moves no pair across."""
    if z.shape[1] < 2:
        return z.new_full((z.shape[0],), 1e3)
    upper = z.sort(1).values[:, z.shape[1] // 2 - 1 :]
    widest = upper.diff(dim=1).argmax(1, keepdim=True)
    return (upper.gather(1, widest) + upper.gather(1, widest + 1)).squeeze(1) / 2


def lacking(call: Call, block: int) -> Call:
    """The call with this column block lacking what it may lack."""
    found = dict(call.options)
    assert call.b is not None
    for name in ("ids", "groups", "labels"):
        if f"col_{name}" in found:
            parts = found[f"col_{name}"].split([len(b) for b in call.b])
            found[f"col_{name}"] = [None if k == block else part for k, part in enumerate(parts)]
    return replace(call, options=found)
