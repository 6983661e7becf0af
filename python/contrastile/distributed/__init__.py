"""Losses of the global batch of all ranks of a process group, and the backward pass of batches that do not fit at once.

Every loss takes `group`: a process group of torch.distributed, a DeviceMesh of one dimension, or `Ranks` for more say.
Each rank gives its own rows, also as a DTensor with Shard(0); every row meets the candidates of all ranks.

- Value: a rank returns W / N times the sum over its own rows ("sum": W times), for equal batches the mean over its own
  rows. The mean over ranks is the loss of the global batch.
- Gradients: those of features are summed over ranks and come back to their owner. So the mean over ranks of the
  gradients of parameters, which DistributedDataParallel and FSDP take, is the gradient of the global loss, that of a
  scale, temperature or bias included.
- "none" returns the losses of this rank's rows; whatever ranks make of them is added up over ranks in backward.
- Every rank must call the same losses in the same order, and run backward if one does: a rank without rows too, with
  tensors of 0 rows. Ranks may have different numbers of rows.
- A rank whose arguments are refused, or that gives another type or number of features, raises on all ranks (RankError
  or ValueError). A rank that dies, or does not come, raises RankError on the others after the timeout of the group at
  the latest.
- torch.compile: these calls are a part of the graph where `Ranks(sizes=...)` promises how many rows each rank has; else
  they run outside of it (a graph break).
"""

from __future__ import annotations

from ..ranks import RankError, Ranks
from .cached import cached_backward

__all__ = ["RankError", "Ranks", "cached_backward"]
