"""Orthonormal bases of small sets of vectors, one set per sample: what a volume and a distance from a flat need.

Gram-Schmidt on the vectors themselves, twice, in float64 (float32 for half-precision vectors, and where a device has no
float64), some samples at a time. Determinants of Gram matrices lose all digits near alignment, which is where
contrastive training ends: their rounding is 1e-7 of 1, the squared volume of aligned modalities far below.
torch.linalg.qr is as exact, but runs a batch as one factorisation after the other on CPUs and launches kernels per
sample on GPUs.

On a CPU the native kernel (csrc/cpu/basis.inc) does the same for all but float64 vectors. On a CUDA device the
compiled kernels (csrc/cuda/basis.cu) do, where they are installed and the set is small enough for them. They multiply
in float64, too, which consumer GPUs do at 1/64 of their float32 rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..monoid import stat_dtype, widest_dtype
from ..replay import as_one_step
from . import check
from .autograd import forward_only, once, run
from .library import LIB, TAGS, no_autocast, register

CHUNK = 128  # samples at a time on a CPU: a few megabytes in float64
DEVICE_BYTES = 256 << 20  # of vectors at a time elsewhere, where many small kernels cost more than memory does
DEVICE_CHUNK = 32768  # samples: batched solvers take at most 65535 matrices at once
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
    check.no_transforms()
    found: tuple[Tensor, Tensor] = as_one_step(BasisFunction.apply, count, *vectors)
    return found


def exact_dtype(x: Tensor) -> torch.dtype:
    """float32 for half precision: unit vectors that differ in one of its digits leave residuals far above rounding."""
    half = x.dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if half else widest_dtype(x)


def chunks(vectors: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """The vectors of some samples at a time, (n, t, d)."""
    step = chunk_size(vectors)
    for start in range(0, vectors[0].shape[0], step):
        part = slice(start, start + step)
        yield part, torch.stack([x[part].to(exact_dtype(x)) for x in vectors], 1)


def chunk_size(vectors: Sequence[Tensor]) -> int:
    first = vectors[0]
    if first.device.type == "cpu":
        return CHUNK
    sample = len(vectors) * first.shape[1] * exact_dtype(first).itemsize
    return max(CHUNK, min(DEVICE_BYTES // max(sample, 1), DEVICE_CHUNK))


def gram_schmidt(x: Tensor) -> tuple[Tensor, Tensor]:
    """Directions (n, t, d) and lengths (n, t, 1)."""
    directions, lengths = torch.zeros_like(x), x.new_zeros(*x.shape[:2], 1)
    negligible = NEGLIGIBLE * torch.finfo(x.dtype).eps * x.norm(dim=2, keepdim=True)
    negligible = torch.where(negligible == torch.inf, -1.0, negligible)  # overflow is no linear dependence
    for s in range(x.shape[1]):
        residual, done = x[:, s : s + 1], directions[:, :s]
        for _ in range(2 if s else 0):  # once leaves the rounding of large projections in a small residual
            residual = torch.baddbmm(residual, torch.bmm(residual, done.mT), done, alpha=-1)
        length = residual.norm(dim=2, keepdim=True)
        length = torch.where(length <= negligible[:, s : s + 1], 0.0, length)
        torch.mul(residual, torch.where(length == 0, 0.0, length.reciprocal()), out=directions[:, s : s + 1])
        lengths[:, s : s + 1] = length
    return directions, lengths


def basis_forward(vectors: Sequence[Tensor], count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    like = vectors[0]
    directions = torch.empty(count, *like.shape, dtype=dtype, device=like.device)
    lengths = torch.empty(len(vectors), like.shape[0], dtype=dtype, device=like.device)
    if (kernels := backends.select_bases(vectors)) is not None:
        kernels.forward(vectors, directions, lengths)
        return directions, lengths
    with no_autocast(like):
        for part, x in chunks(vectors):
            found, residual = gram_schmidt(x)
            directions[:, part] = found[:, :count].transpose(0, 1)
            lengths[:, part] = residual.squeeze(2).T
    return directions, lengths


def basis_backward(vectors: Sequence[Tensor], grad_directions: Tensor, grad_lengths: Tensor) -> list[Tensor]:
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in vectors]
    if (kernels := backends.select_bases(vectors)) is not None:
        kernels.backward(vectors, grad_directions, grad_lengths, grads)
        return grads
    with no_autocast(vectors[0]):
        for part, x in chunks(vectors):
            upstream = grad_directions[:, part].transpose(0, 1).to(x.dtype), grad_lengths[:, part].T.to(x.dtype)
            for grad, value in zip(grads, chunk_gradient(x, *upstream).unbind(1), strict=True):
                grad[part] = value
    return grads


def chunk_gradient(x: Tensor, grad_directions: Tensor, grad_lengths: Tensor) -> Tensor:
    """The backward pass of a QR factorisation. X = L E, with C symmetric:

    grad X = L^-T (grad E + C E),   C_ss = L_ss grad L_ss - <grad E_s, E_s>,   C_su = -<grad E_s, E_u> for s > u
    """
    count = grad_directions.shape[1]
    directions, lengths = gram_schmidt(x)
    lower = x.new_zeros(x.shape[0], x.shape[1], x.shape[1])
    lower[:, :count] = -torch.bmm(grad_directions, directions.mT).tril()
    symmetric = lower + lower.tril(-1).mT + torch.diag_embed(lengths.squeeze(2) * grad_lengths)
    none = lengths == 0  # such a vector has no direction and gets no gradient
    factor = torch.bmm(x, directions.mT).tril(-1) + torch.diag_embed(torch.where(none, 1.0, lengths).squeeze(2))
    inverse = torch.linalg.solve_triangular(factor.mT, torch.diag_embed((~none).squeeze(2).to(x.dtype)), upper=True)
    return torch.baddbmm(torch.bmm(inverse @ symmetric, directions), inverse[:, :, :count], grad_directions)


class BasisFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *vectors: Tensor) -> tuple[Tensor, Tensor]:
        dtype = stat_dtype(vectors[0].dtype)
        ctx.save_for_backward(*vectors)
        output: tuple[Tensor, Tensor] = run("basis", basis_forward, vectors[0], vectors, count, dtype)
        return output

    @staticmethod
    def backward(ctx: Any, grad_directions: Tensor, grad_lengths: Tensor) -> tuple[Any, ...]:
        return (None, *once(vector_gradients, grad_directions, grad_lengths, *ctx.saved_tensors))


def vector_gradients(grad_directions: Tensor, grad_lengths: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
    if check.plain_gradients(vectors[0], (grad_directions, grad_lengths)):
        return tuple(basis_backward(vectors, grad_directions, grad_lengths))
    return tuple(torch.ops.contrastile.basis_backward.default(vectors, grad_directions, grad_lengths))


def fake_basis(vectors: Sequence[Tensor], count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = vectors[0]
    return x.new_empty((count, *x.shape), dtype=dtype), x.new_empty((len(vectors), x.shape[0]), dtype=dtype)


def fake_basis_backward(vectors: Sequence[Tensor], *grads: Tensor) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in vectors]


for name, implementation, fake in (
    ("basis", basis_forward, fake_basis),
    ("basis_backward", basis_backward, fake_basis_backward),
):
    register(name, implementation, fake)
forward_only("basis")
