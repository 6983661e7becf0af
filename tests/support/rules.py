"""The rules of the engine by their public names, as tests combine them."""

import torch

from contrastile.spec import Keep

KEEPS = tuple(keep.name.lower() for keep in Keep)
POSITIVES = (None, "same_index", "same_id", "kept")
SUMS = ("lse", "softplus", "relu")
REDUCES = (*SUMS, "max")
SQUARE = [("not_same_index", "same_id"), ("same_id", "kept"), ("all", None)]  # of b = a: keep and positives
TYPED_KEEPS = [*((torch.float32, k) for k in KEEPS), (torch.float16, "all"), (torch.float16, "same_id")]
