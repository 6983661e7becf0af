"""The rules of the engine by their public names, as tests combine them."""

from typing import get_args

import torch

from contrastile.literals import TestName

from .combinations import One

TESTS = get_args(TestName)
KEEPS = ("all", *TESTS, One(("other_index", "other_id")))
POSITIVES = (None, "same_index", "same_id", "shared_label", "kept")
SUMS = ("lse", "softplus", "relu")
REDUCES = (*SUMS, "max")
LIMITS = ("row_low", "row_high", "col_low", "col_high")
SQUARE = [  # of b = a: keep and positives
    ("other_index", "same_id"), ("same_id", "kept"), ("all", None), ("other_group", "shared_label"),
    ("lower_order", "lower_order"),
]  # fmt: skip
SOME_KEEPS = ("all", "other_index", "same_id", KEEPS[-1])
TYPED_KEEPS = [*((torch.float32, k) for k in SOME_KEEPS), (torch.float16, "all"), (torch.float16, "same_id")]
CONJUNCTIONS = [  # keep and positives
    (("other_group", "no_shared_label", "lower_order"), ("same_group", "shared_label")),
    ("other_id", ("same_index", "same_id")),  # one positive a row, in one tile
    (("same_id", "same_group"), ("other_id", "lower_order")),
    ("no_partner", "partner"),
]
