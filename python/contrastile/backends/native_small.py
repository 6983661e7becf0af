"""Fields of native structs from the record of a small call's arguments."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import Tensor

from ..spec import READERS
from .small import numbers

# what most calls have none of: fields of the record and where they go
NUMBERS = {
    "row_bias": "row_bias", "col_bias": "col_bias", "col_scale": "col_scale",
    "share": "share", "row_low": "row.low", "row_high": "row.high", "col_low": "col.low",
    "col_high": "col.high",
}  # fmt: skip
given_numbers = attrgetter(*NUMBERS)
given_operands = attrgetter(*(f"row_{name}" for name in READERS), "partner", "mask")


def set_numbers(values: dict[str, Any], args: Any, prefix: str = "") -> list[Tensor]:
    alive = []
    for name, x in zip(NUMBERS, given_numbers(args), strict=True):
        if x is not None:
            alive.append(x := numbers(x))
            values[prefix + NUMBERS[name]] = x.data_ptr()
            if args.square and name == "row_bias":
                values[f"{prefix}col_bias"] = x.data_ptr()
    return alive


def set_operands(values: dict[str, Any], args: Any, prefix: str = "") -> list[Tensor]:
    """What tests of pairs compare, and the mask."""
    *rows, partner, mask = given_operands(args)
    for name, row in zip(READERS, rows, strict=True):
        if row is not None:
            own = getattr(args, f"col_{name}")
            values[f"{prefix}row_{name}"] = row.data_ptr()
            values[f"{prefix}col_{name}"] = row.data_ptr() if own is None else own.data_ptr()
    if rows[2] is not None:
        values[f"{prefix}label_words"] = rows[2].shape[1]
    if partner is not None:
        values[f"{prefix}partner"], values[f"{prefix}partners"] = partner.data_ptr(), partner.shape[1]
    if mask is None:
        return []
    mask = mask.contiguous()
    values[f"{prefix}mask"], values[f"{prefix}mask_stride"] = mask.data_ptr(), mask.stride(0)
    return [mask]


def address_fields(args: Any) -> dict[str, str]:
    """Which field of the record each address comes from, of one block of columns."""
    there = {name for name, x in zip(NUMBERS, given_numbers(args), strict=True) if x is not None}
    found = {field: name for name, field in NUMBERS.items() if name in there}
    if args.square and "row_bias" in there:
        found["col_bias"] = "row_bias"
    *rows, partner, mask = given_operands(args)
    for name, row in zip(READERS, rows, strict=True):
        if row is not None:
            found[f"row_{name}"] = f"row_{name}"
            if not getattr(args, f"without_{name}", 0):
                found[f"col_{name}"] = f"row_{name}" if getattr(args, f"col_{name}") is None else f"col_{name}"
    return found | {name: name for name, x in (("partner", partner), ("mask", mask)) if x is not None}
