"""Fields of native structs from the record of a small call's arguments."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from ..spec import READERS

# what most calls have none of: fields of the record and where they go
NUMBERS = {
    "row_bias": "row_bias", "col_bias": "col_bias", "col_scale": "col_scale",
    "share": "share", "row_low": "row.low", "row_high": "row.high", "col_low": "col.low",
    "col_high": "col.high",
}  # fmt: skip
given_numbers = attrgetter(*NUMBERS)
given_operands = attrgetter(*(f"row_{name}" for name in READERS), "partner", "mask")


def address_fields(args: Any) -> dict[str, str]:
    """Which field of the record each address comes from. Columns have none of what one block of them, all there are,
    is without."""
    one = len(args.blocks) == 1
    there = {name for name, x in zip(NUMBERS, given_numbers(args), strict=True) if x is not None}
    found = {field: name for name, field in NUMBERS.items() if name in there}
    if args.square and "row_bias" in there:
        found["col_bias"] = "row_bias"
    *rows, partner, mask = given_operands(args)
    for name, row in zip(READERS, rows, strict=True):
        if row is not None:
            found[f"row_{name}"] = f"row_{name}"
            if not (one and getattr(args, f"without_{name}", False)):
                found[f"col_{name}"] = f"row_{name}" if getattr(args, f"col_{name}") is None else f"col_{name}"
    return found | {name: name for name, x in (("partner", partner), ("mask", mask)) if x is not None}
