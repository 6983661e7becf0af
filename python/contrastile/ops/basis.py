"""Orthonormal bases of small sets of vectors, one set per sample: what a volume and a distance from a flat need.

Gram-Schmidt on the vectors themselves, twice, in float64 (float32 where a device has no float64), a few hundred samples
at a time. Determinants of Gram matrices lose all digits near alignment, which is where contrastive training ends: their
rounding is 1e-7 of 1, the squared volume of aligned modalities far below. torch.linalg.qr is as exact, but runs a
batch as one factorisation after the other on CPUs and launches kernels per sample on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import NO_DOUBLE_BACKWARD
from .library import LIB, TAGS, no_autocast

CHUNK = 256  # samples at a time: a few megabytes in float64
NEGLIGIBLE = 8.0  # roundings of a vector below which its residual is none: it lies in the span of those before it

LIB.define("basis(Tensor[] vectors, int count, ScalarType dtype) -> (Tensor, Tensor)", tags=TAGS)
LIB.define(
    "basis_backward(Tensor[] vectors, Tensor grad_directions, Tensor grad_lengths) -> Tensor[]",
    tags=TAGS,
)


def basis(vectors: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Gram-Schmidt of t vectors per sample: the first `count` directions and all residual lengths.

        r_s = x_s - sum_{u < s} <x_s, e_u> e_u,   length_s = |r_s|,   e_s = r_s / length_s   (0 where the length is 0)

    The volume of x_0 .. x_{t-1} is the product of the lengths; its gradient is bounded by the volume of the others
    and 0 in the directions of a vector that lies in the span of those before it.

    Args: vectors: t tensors (M, D) of one type. Returns: directions (count, M, D) and lengths (t, M), float32 (float64
    for float64 vectors).
    """
    directions, lengths = BasisFunction.apply(count, *vectors)  # type: ignore[no-untyped-call]
    return directions, lengths


def exact_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def chunks(vectors: Sequence[Tensor]) -> Iterator[tuple[slice, list[Tensor]]]:
    for start in range(0, vectors[0].shape[0], CHUNK):
        part = slice(start, start + CHUNK)
        yield part, [x[part].to(exact_dtype(x)) for x in vectors]


def gram_schmidt(vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Directions (t, n, d) and lengths (t, n)."""
    directions = torch.zeros(len(vectors), *vectors[0].shape, dtype=vectors[0].dtype, device=vectors[0].device)
    lengths = []
    for s, x in enumerate(vectors):
        done, residual = directions[:s], x
        for _ in range(2 if s else 0):  # once leaves the rounding of large projections in a small residual
            residual = residual - ((done * residual).sum(-1, keepdim=True) * done).sum(0)
        whole, length = x.norm(dim=1), residual.norm(dim=1)
        length = torch.where(length <= NEGLIGIBLE * torch.finfo(x.dtype).eps * whole, 0.0, length)
        directions[s] = residual * inverse_or_zero(length).unsqueeze(1)
        lengths.append(length)
    return directions, torch.stack(lengths)


def inverse_or_zero(length: Tensor) -> Tensor:
    return torch.where(length == 0, 0.0, length.reciprocal())


def basis_forward(vectors: Sequence[Tensor], count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    m, d = vectors[0].shape
    like = vectors[0]
    directions = torch.empty(count, m, d, dtype=dtype, device=like.device)
    lengths = torch.empty(len(vectors), m, dtype=dtype, device=like.device)
    with no_autocast(like):
        for part, given in chunks(vectors):
            found, residual = gram_schmidt(given)
            directions[:, part] = found[:count]
            lengths[:, part] = residual
    return directions, lengths


def basis_backward(vectors: Sequence[Tensor], grad_directions: Tensor, grad_lengths: Tensor) -> list[Tensor]:
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in vectors]
    with no_autocast(vectors[0]):
        for part, given in chunks(vectors):
            directions, lengths = gram_schmidt(given)
            upstream = grad_directions[:, part].to(directions.dtype), grad_lengths[:, part].to(directions.dtype)
            for grad, value in zip(grads, chunk_gradient(given, directions, lengths, *upstream), strict=True):
                grad[part] = value
    return grads


def chunk_gradient(
    vectors: list[Tensor], directions: Tensor, lengths: Tensor, grad_directions: Tensor, grad_lengths: Tensor
) -> list[Tensor]:
    """The backward pass of a QR factorisation. X = L E, with C symmetric:

    grad X = L^-T (grad E + C E),   C_ss = L_ss grad L_ss - <grad E_s, E_s>,   C_su = -<grad E_s, E_u> for s > u
    """
    count, t = len(grad_directions), len(vectors)
    inner = torch.einsum("snd,und->nsu", grad_directions, directions).tril()
    lower = torch.zeros(inner.shape[0], t, t, dtype=inner.dtype, device=inner.device)
    lower[:, :count] = -inner
    symmetric = lower + lower.tril(-1).mT + torch.diag_embed((lengths * grad_lengths).T)
    right = torch.einsum("nsu,und->snd", symmetric, directions)
    right[:count] += grad_directions
    inverse, grads = inverse_or_zero(lengths), list(right)
    for s in reversed(range(t)):  # a vector of length 0 has no direction and gets no gradient
        grads[s] = grads[s] * inverse[s].unsqueeze(1)
        for u in range(s):
            grads[u] = grads[u] - (vectors[s] * directions[u]).sum(1, keepdim=True) * grads[s]
    return grads


class BasisFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *vectors: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if vectors[0].dtype == torch.float64 else torch.float32
        ctx.save_for_backward(*vectors)
        output: tuple[Tensor, Tensor] = torch.ops.contrastile.basis.default(vectors, count, dtype)
        return output

    @staticmethod
    def backward(ctx: Any, grad_directions: Tensor, grad_lengths: Tensor) -> tuple[Any, ...]:
        return (None, *BasisBackward.apply(grad_directions, grad_lengths, *ctx.saved_tensors))  # type: ignore[no-untyped-call]


class BasisBackward(torch.autograd.Function):
    """A function of its own so that differentiating it raises; it would be silently wrong otherwise."""

    @staticmethod
    def forward(ctx: Any, grad_directions: Tensor, grad_lengths: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.contrastile.basis_backward.default(vectors, grad_directions, grad_lengths))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(NO_DOUBLE_BACKWARD)


def fake_basis(vectors: Sequence[Tensor], count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = vectors[0]
    return x.new_empty((count, *x.shape), dtype=dtype), x.new_empty((len(vectors), x.shape[0]), dtype=dtype)


def fake_basis_backward(vectors: Sequence[Tensor], *grads: Tensor) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in vectors]


for name, implementation, fake in (
    ("basis", basis_forward, fake_basis),
    ("basis_backward", basis_backward, fake_basis_backward),
):
    LIB.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"contrastile::{name}", fake, lib=LIB)
