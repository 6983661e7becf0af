"""The features of all processes, for code that multiplies them out."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ranks import GlobalBatch
from ..ranks import stated_ranks


def gather_features(
    image_features: Tensor,
    text_features: Tensor,
    local_loss: bool = False,
    gather_with_grad: bool = False,
    rank: int = 0,
    world_size: int = 1,
    use_horovod: bool = False,
) -> tuple[Tensor, Tensor]:
    """The features of all processes, (sum of N, D) each: for code that multiplies them out; the losses do not.

    gather_with_grad: gradients are summed over processes and returned to the owner. Otherwise gathered features have
    none, but with local_loss=False this process's own rows among them.
    """
    refuse_horovod(use_horovod and world_size > 1)
    ranks = stated_ranks(world_size, rank)
    if ranks is None:
        return image_features, text_features
    batch = GlobalBatch.of(ranks, image_features.shape[0])

    def gathered(x: Tensor) -> Tensor:
        if gather_with_grad:
            return batch.gather(x)
        others = batch.gather(x.detach())
        if local_loss:
            return others
        return torch.cat([others[: batch.offset], x, others[batch.offset + batch.n :]])

    return gathered(image_features), gathered(text_features)


def refuse_horovod(used: bool) -> None:
    if used:
        raise NotImplementedError("use_horovod=True with several processes is not supported: only torch.distributed is")
