"""Values and gradients of the measured losses in high precision, some rows at a time: what a candidate must agree with.

Dense, written from the losses' definitions, independent of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE, BIAS, TEMPERATURE = 14.3, -10.0, 0.5
VOLUME_TEMPERATURE, SMOOTHING = 0.07, 0.1
CHUNK_BYTES = 1 << 30  # of one matrix of a chunk's scores

Parts = Iterator[Tensor]


def chunks(n: int, m: int, like: Tensor) -> Iterator[slice]:
    rows = max(1, min(n, CHUNK_BYTES // (like.element_size() * m)))
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def positions(part: slice, like: Tensor) -> Tensor:
    return torch.arange(part.start, part.stop, device=like.device)


def clip(image: Tensor, text: Tensor) -> Parts:
    n = len(image)
    for a, b in ((image, text), (text, image)):
        for part in chunks(n, n, image):
            yield F.cross_entropy(SCALE * a[part] @ b.T, positions(part, a), reduction="sum") / (2 * n)


def siglip(image: Tensor, text: Tensor) -> Parts:
    n = len(image)
    for part in chunks(n, n, image):
        logits = SCALE * image[part] @ text.T + BIAS
        own = logits.gather(1, positions(part, image)[:, None])
        yield (F.softplus(logits, threshold=1e3).sum() - own.sum()) / n


def nt_xent(z1: Tensor, z2: Tensor) -> Parts:
    x, n = torch.cat([z1, z2]), len(z1)
    for part in chunks(2 * n, 2 * n, x):
        own = positions(part, x)
        logits = (x[part] @ x.T / TEMPERATURE).scatter(1, own[:, None], -torch.inf)
        yield F.cross_entropy(logits, (own + n) % (2 * n), reduction="sum") / (2 * n)


def gram(anchor: Tensor, *others: Tensor) -> Parts:
    """Volume from the Schur complement of the others' Gram matrix C: det C (|a|^2 - d^T C^-1 d), d_r = <a, m_r>."""
    n, stacked = len(anchor), torch.stack(others, 1)
    for by_row in (True, False):
        for part in chunks(n, n * len(others), anchor):
            a, m = (anchor[part], stacked) if by_row else (anchor, stacked[part])
            inner = m @ m.mT
            d = torch.stack([a @ x.T for x in m.unbind(1)], -1)
            rest = (a * a).sum(1)[:, None] - torch.einsum("ijr,jrs,ijs->ij", d, torch.linalg.inv(inner), d)
            volumes = (torch.det(inner) * rest).clamp_min(1e-30).sqrt()
            logits = -(volumes if by_row else volumes.T) / VOLUME_TEMPERATURE
            own = positions(part, a)
            yield F.cross_entropy(logits, own, label_smoothing=SMOOTHING, reduction="sum") / (2 * n)


LOSSES: dict[str, Callable[..., Parts]] = {"clip": clip, "siglip": siglip, "nt_xent": nt_xent, "gram": gram}


def truth(loss: str, features: Sequence[Tensor], dtype: torch.dtype) -> tuple[float, list[Tensor]]:
    """Value and gradient of every feature tensor; each part is differentiated at once, so that one chunk lives."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in features]
    value = 0.0
    for part in LOSSES[loss](*leaves):
        value += float(part.detach())
        part.backward()
    return value, [x.grad for x in leaves if x.grad is not None]


def error(value: float, grads: Sequence[Tensor], true: tuple[float, list[Tensor]]) -> float:
    """The largest relative error of value and gradients; NaN where anything is not finite."""
    errors = [abs(value - true[0]) / max(abs(true[0]), 1e-3)]
    for found, exact in zip(grads, true[1], strict=True):
        errors.append(float((found.to(exact.dtype) - exact).norm() / exact.norm()))
    return float("nan") if any(x != x for x in errors) else max(errors)
