"""What the pieces of a batch are encoded to: joined for the loss, and its gradients cut back to pieces."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # knows tuples, dicts, named tuples, and the outputs of transformers

__all__ = ["Column"]

CONSTANTS = (type(None), bool, int, float, str, Enum)  # what an output may hold beside tensors, equal in every piece


class Column:
    """The outputs of one encoder, piece after piece. `leaves` are the parts of an output that are not containers, in
    order."""

    def __init__(self) -> None:
        self.pieces: list[list[Any]] = []
        self.structure: Any = None
        self.names: list[str] = []

    def add(self, output: Any) -> None:
        paths, structure = pytree.tree_flatten_with_path(output)
        if self.structure is None:
            self.structure, self.names = structure, [pytree.keystr(path) for path, _ in paths]
        elif structure != self.structure:
            raise TypeError(f"encoders must return the same structure for every piece, got {structure} after others")
        self.pieces.append([leaf for _, leaf in paths])

    def join(self) -> Any:
        """The output of the whole batch, of leaves that collect gradients; the pieces' own tensors are released."""
        self.shapes: list[list[Any]] = [
            [x.shape if isinstance(x, Tensor) else None for x in piece] for piece in self.pieces
        ]
        self.leaves = [
            joined(parts, name) for parts, name in zip(zip(*self.pieces, strict=True), self.names, strict=True)
        ]
        self.pieces = []
        return pytree.tree_unflatten(self.leaves, self.structure)

    @property
    def reached(self) -> bool:
        """Whether the loss has a gradient with respect to any of it."""
        return any(isinstance(x, Tensor) and x.grad is not None for x in self.leaves)

    def gradients(self, number: int, again: Any) -> tuple[list[Tensor], list[Tensor]]:
        """The leaves of a piece that was encoded again with a graph, and the gradient of each."""
        outputs, structure = pytree.tree_flatten(again)
        shapes = [x.shape if isinstance(x, Tensor) else None for x in outputs]
        if structure != self.structure or shapes != self.shapes[number]:
            raise RuntimeError(
                "an encoder must return the same shapes when it encodes a piece again, got "
                f"{list(map(as_tuple, shapes))} after {list(map(as_tuple, self.shapes[number]))}"
            )
        tensors, grads = [], []
        for place, output in enumerate(outputs):
            whole = self.leaves[place]
            if isinstance(output, Tensor) and output.requires_grad and whole.grad is not None:
                start = sum(shape[place][0] for shape in self.shapes[:number])
                grad = whole.grad[start : start + len(output)]
                tensors.append(output)
                grads.append(grad[tuple(slice(size) for size in output.shape)])
        return tensors, grads


def as_tuple(shape: torch.Size | None) -> tuple[int, ...] | None:
    return None if shape is None else tuple(shape)


def joined(parts: Sequence[Any], name: str) -> Any:
    """Rows one after the other, other sizes filled up with zeros (False) at their end to the largest."""
    first = parts[0]
    if not isinstance(first, Tensor):
        if not isinstance(first, CONSTANTS):
            where = f"{type(first).__name__} at {name or 'the output'}"
            raise TypeError(f"encoders must return tensors, or tuples, lists and dicts of tensors, got a {where}")
        if any(isinstance(part, Tensor) or (part is not first and part != first) for part in parts):
            raise TypeError(f"encoders must return tensors, or the same for every piece, got {parts!r} at {name}")
        return first
    if not all(isinstance(part, Tensor) and part.dim() == first.dim() for part in parts) or first.dim() == 0:
        raise TypeError(
            f"encoders must return tensors with one row for each row of the piece at {name or 'the output'}, got "
            f"{[as_tuple(x.shape) if isinstance(x, Tensor) else x for x in parts]}"
        )
    if len({part.shape[1:] for part in parts}) == 1:
        whole = torch.cat(tuple(parts))
    else:
        whole = padded(parts)
    return whole.requires_grad_(whole.is_floating_point() or whole.is_complex())


def padded(parts: Sequence[Tensor]) -> Tensor:
    widest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    whole = parts[0].new_zeros((sum(len(part) for part in parts), *widest))
    start = 0
    for part in parts:
        whole[start : start + len(part)][tuple(slice(size) for size in part.shape)] = part
        start += len(part)
    return whole
