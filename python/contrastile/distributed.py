"""Losses of the joint batch of all ranks of a process group, and the backward pass of batches that do not fit at once.

Every loss takes `group`: a process group of torch.distributed, or `Ranks` for more say. Each rank gives its own rows;
every row meets the candidates of all ranks.

- Value: a rank returns W / N times the sum over its own rows ("sum": W times), for equal batches the mean over its own
  rows. The mean over ranks is the loss of the joint batch.
- Gradients: those of features are summed over ranks and come back to their owner. So the mean over ranks of the
  gradients of parameters, which DistributedDataParallel and FSDP take, is the gradient of the joint loss, that of a
  scale, temperature or bias included.
- "none" returns the losses of this rank's rows; whatever ranks make of them is added up over ranks in backward.
- Every rank must call the same losses in the same order, and run backward if one does: a rank without rows too, with
  tensors of 0 rows. Ranks may have different numbers of rows.
- A rank whose arguments are refused, or that gives another type or number of features, raises on all ranks (RankError
  or ValueError). A rank that dies, or does not come, raises RankError on the others after the timeout of the group at
  the latest.
- torch.compile: these calls run outside of the compiled graph (a graph break).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

from .ranks import RankError, Ranks

__all__ = ["RankError", "Ranks", "cached_backward"]

Encoder = Callable[[Any], Tensor]


def cached_backward(
    encoders: Encoder | Sequence[Encoder],
    batches: Sequence[Sequence[Any]],
    loss: Callable[..., Tensor],
    *,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """The backward pass of a loss over more rows than the encoders can take at once, with the exact gradient.

    Encodes every piece without a graph, forms the loss and its gradients with respect to the features once, encodes
    every piece again with the same random numbers, and sends its gradient through. It needs the memory of one piece's
    graph and two forward passes; batch statistics are those of a piece. Modules that synchronise gradients (`no_sync`:
    DistributedDataParallel; `set_requires_gradient_sync`: FSDP2) do so in the backward pass of their last piece only.

    Args:
        encoders: One module per modality or view, piece -> features (rows, D); a single one encodes all. Modules that
            synchronise gradients must be given themselves, not in a function.
        batches: For each modality or view the pieces of its batch, in order: tensors, or what the encoder takes.
        loss: Called with the joined features of every modality; e.g.
            lambda a, b: contrastile.clip_loss(a, b, scale, group=group). Parameters of the loss get their gradients.
        scaler: Multiplies the loss before its backward pass, for float16.

    Returns: The loss, detached. Gradients are added to those of the parameters, as by backward().

    Source: Gao et al. 2021 (GradCache), arXiv 2101.06983, section 3.2.
    """
    every = [encoders] * len(batches) if callable(encoders) else list(encoders)
    if len(every) != len(batches) or not batches:
        raise ValueError(f"encoders and batches must be as many, at least one, got {len(every)} and {len(batches)}")
    if not all(len(pieces) for pieces in batches):
        raise ValueError("batches must hold at least one piece for each encoder")
    states: list[list[_RandomState]] = []
    features: list[Tensor] = []
    with torch.no_grad():
        for encoder, pieces in zip(every, batches, strict=True):
            states.append([])
            encoded = []
            for piece in pieces:
                states[-1].append(_RandomState())
                encoded.append(encoder(piece))
            features.append(torch.cat(encoded))
    leaves = [x.detach().requires_grad_() for x in features]
    value = loss(*leaves)
    (value if scaler is None else scaler.scale(value)).backward()
    _send_through(every, batches, leaves, states)
    return value.detach()


def _send_through(
    encoders: Sequence[Encoder],
    batches: Sequence[Sequence[Any]],
    leaves: Sequence[Tensor],
    states: Sequence[Sequence[_RandomState]],
) -> None:
    last = {id(encoder): index for index, encoder in enumerate(encoders)}
    for index, (encoder, pieces, leaf) in enumerate(zip(encoders, batches, leaves, strict=True)):
        start = 0
        for number, (piece, state) in enumerate(zip(pieces, states[index], strict=True)):
            final = last[id(encoder)] == index and number + 1 == len(pieces)
            with ExitStack() as stack:
                stack.enter_context(nullcontext() if final else _without_sync(encoder, stack))
                with state:
                    again = encoder(piece)
                grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                if again.requires_grad:  # not of a frozen encoder
                    again.backward(grad[start : start + len(again)])
            start += len(again)


def _without_sync(encoder: Any, stack: ExitStack) -> AbstractContextManager[Any]:
    """In it, the module adds up gradients on its own rank."""
    if hasattr(encoder, "no_sync"):
        context: AbstractContextManager[Any] = encoder.no_sync()
        return context
    if hasattr(encoder, "set_requires_gradient_sync"):
        encoder.set_requires_gradient_sync(False)
        stack.callback(encoder.set_requires_gradient_sync, True)
    return nullcontext()


class _RandomState:
    """The state of torch's generators now; within it they go back to it, after it to what they were."""

    def __init__(self) -> None:
        self.then = _states()

    def __enter__(self) -> None:
        self.now = _states()
        _set_states(self.then)

    def __exit__(self, *error: Any) -> None:
        _set_states(self.now)


def _states() -> tuple[Tensor, Tensor | None]:
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state() if used else None


def _set_states(states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1])
