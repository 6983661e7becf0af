"""Fields of native structs from the record of a small call's arguments."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch

from ..spec import FLOOR, READERS, Score

# what most calls have none of: fields of the record and where they go
NUMBERS = {
    "row_bias": "row_bias", "col_bias": "col_bias", "col_scale": "col_scale",
    "share": "share", "row_low": "row.low", "row_high": "row.high", "col_low": "col.low",
    "col_high": "col.high",
}  # fmt: skip
given_numbers = attrgetter(*NUMBERS)
given_operands = attrgetter(*(f"row_{name}" for name in READERS), "partner", "mask")


def operand_fields(args: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What pairs are made of and compared by: numbers that all calls of a kind have in common, and which field of the
    record each address comes from. Columns have none of what one block of them, all there are, is without. In
    distances, biases are squared norms."""
    one = len(args.blocks) == 1
    there = {name for name, x in zip(NUMBERS, given_numbers(args), strict=True) if x is not None}
    places = {field: name for name, field in NUMBERS.items() if name in there}
    if args.square and "row_bias" in there:
        places["col_bias"] = "row_bias"
    *rows, partner, mask = given_operands(args)
    for name, row in zip(READERS, rows, strict=True):
        if row is not None:
            places[f"row_{name}"] = f"row_{name}"
            if not (one and getattr(args, f"without_{name}", False)):
                places[f"col_{name}"] = f"row_{name}" if getattr(args, f"col_{name}") is None else f"col_{name}"
    fixed: dict[str, Any] = {}
    if args.row_labels is not None:
        fixed["label_words"] = args.row_labels.shape[1]
    if partner is not None:
        places["partner"], fixed["partners"] = "partner", partner.shape[1]
    if mask is not None:
        places["mask"], fixed["mask_stride"] = "mask", mask.shape[1]
    if args.score != Score.DOT:
        fixed |= {"score": args.score, "offset": args.offset, "floor": FLOOR[torch.float32]}
        places = {field.replace("_bias", "_norm"): name for field, name in places.items()}
    return fixed, places
