"""The rules of the engine by their public names, as tests combine them."""

from typing import get_args

import torch

from contrastile.literals import TestName

TESTS = get_args(TestName)
KEEPS = ("all", *TESTS, ("other_index", "other_id"))
POSITIVES = (None, "same_index", "same_id", "shared_label", "kept")
SUMS = ("lse", "softplus", "relu")
REDUCES = (*SUMS, "max")
SQUARE = [("other_index", "same_id"), ("same_id", "kept"), ("all", None)]  # of b = a: keep and positives
TYPED_KEEPS = [*((torch.float32, k) for k in KEEPS), (torch.float16, "all"), (torch.float16, "same_id")]
