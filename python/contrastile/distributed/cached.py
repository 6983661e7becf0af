"""The backward pass of batches that do not fit at once: features are encoded in pieces, and once more for gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ..ops import no_autocast
from .observed import Observed
from .outputs import Column
from .saved_state import RandomState

__all__ = ["cached_backward"]

Encoder = Callable[[Any], Any]


def cached_backward(
    encoders: Encoder | Sequence[Encoder],
    batches: Sequence[Sequence[Any]],
    loss: Callable[..., Tensor],
    *,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """The backward pass of a loss over more rows than the encoders can take at once, with the exact gradient.

    Encodes every piece without a graph, forms the loss and its gradients with respect to the features once, encodes
    every piece again with the same random numbers and buffers, and sends its gradient through. It needs the memory of
    one piece's graph and two forward passes. Batch statistics are those of a piece; running statistics and other
    buffers move once. Backward passes run outside of autocast, forward passes where the caller is.

    Ranks: DistributedDataParallel and fully_shard modules that encoders call, directly or from any function or module,
    average gradients once, after the last piece: those of the loss too, where it uses their parameters. Not within
    no_sync() or after set_requires_gradient_sync(False). Every rank must call the same ones in the same order. Ranks
    may have different numbers of pieces with DistributedDataParallel, not with fully_shard or SyncBatchNorm, which
    wait for the other ranks in every piece. All gradients of fully_shard parameters are on each rank until then.

    Args:
        encoders: One per modality or view, piece -> features: a tensor of one row for each row of the piece, or tuples,
            lists and dicts of such tensors. A single one encodes all.
        batches: For each modality or view the pieces of its batch, in order: tensors, or what the encoder takes.
        loss: Called with the features of every modality, in the structure that its encoder returns, pieces joined along
            dim 0; e.g. lambda a, b: contrastile.clip_loss(a, b, scale, group=group). Where pieces differ in other sizes
            they are filled up at the end, with zeros or False, to the largest. Parameters of the loss get their
            gradients.
        scaler: Multiplies the loss before its backward pass, for float16.

    Returns: The loss, detached. Gradients are added to those of the parameters, as by backward().

    Raises, before a gradient is touched, on all ranks:
        ValueError: DistributedDataParallel with static_graph, mixed_precision or delay_all_reduce_named_params, or with
            parameters that were frozen or unfrozen after it was made (named); ranks that do not do the same.
        TypeError: Modules that synchronise gradients in another way; outputs that cannot be joined.
        RankError: An encoder failed on another rank.

    Source: Gao et al. 2021 (GradCache), arXiv 2101.06983, section 3.2.
    """
    every = [encoders] * len(batches) if callable(encoders) else list(encoders)
    if len(every) != len(batches) or not batches:
        raise ValueError(f"encoders and batches must be as many, at least one, got {len(every)} and {len(batches)}")
    if not all(len(pieces) for pieces in batches):
        raise ValueError("batches must hold at least one piece for each encoder")
    with ExitStack() as quiet:
        observed = Observed([len(pieces) for pieces in batches], quiet)
        states: list[RandomState] = []
        columns = _encode(every, batches, observed, states)
        value = loss(*(column.join() for column in columns))
        _backward([value if scaler is None else scaler.scale(value)], [None])
        quiet.callback(observed.buffers.restore_last)
        _send_through(every, batches, columns, observed, states)
    for module in observed.modules:
        if module.averages:
            module.synchronise()
    return value.detach()


def _encode(
    encoders: Sequence[Encoder], batches: Sequence[Sequence[Any]], observed: Observed, states: list[RandomState]
) -> list[Column]:
    columns = [Column() for _ in batches]
    with observed.watching(encoders), torch.no_grad():
        for encoder, pieces, column in zip(encoders, batches, columns, strict=True):
            for piece in pieces:
                states.append(RandomState())
                observed.buffers.begin_piece()
                column.add(encoder(piece))
                observed.buffers.end_piece()
    return columns


def _send_through(
    encoders: Sequence[Encoder],
    batches: Sequence[Sequence[Any]],
    columns: Sequence[Column],
    observed: Observed,
    states: Sequence[RandomState],
) -> None:
    first = 0  # of the column's pieces among all
    for encoder, pieces, column in zip(encoders, batches, columns, strict=True):
        for number, piece in enumerate(pieces if column.reached else ()):
            observed.buffers.restore_piece(first + number)
            with states[first + number], torch.enable_grad():
                again = encoder(piece)
            tensors, grads = column.gradients(number, again)
            if tensors:  # not of a frozen encoder
                _backward(tensors, grads)
        first += len(pieces)


def _backward(tensors: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    with no_autocast(tensors[0]):  # gradients in the precision of the forward pass, which the caller chooses
        torch.autograd.backward(tensors, grads)
