"""Matched tuples of modalities for the tests of GRAM and TRIANGLE, and how exact float32 can be on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import reference
from contrastile.catalog import Case
from contrastile.testing import EPS

KS = (2, 3, 4, 5)


def modalities(n: int, d: int, k: int, noise: float = 1.5, keys: int | None = None, seed: int = 0) -> list[Tensor]:
    """Anchor (n, d) and k-1 others (keys or n, d): float64 unit rows that resemble each other by sample."""
    g = torch.Generator().manual_seed(10_000 * seed + 100 * n + 10 * d + k)
    m = n if keys is None else keys
    common = torch.randn(m, d, generator=g, dtype=torch.float64)
    first = common[:n] if m >= n else torch.randn(n, d, generator=g, dtype=torch.float64)
    others = [common + noise * torch.randn(m, d, generator=g, dtype=torch.float64) for _ in range(k - 1)]
    return [F.normalize(x, dim=1) for x in (first, *others)]


def heights(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of all pairs: height of the anchor over the other modalities (n, m), and volume of these, the base, (m,)."""
    base = reference.gram_volume(*tensors[1:])
    return reference.gram_volume_matrix(*tensors) / base.clamp_min(1e-300), base


def matched(n: int, m: int, key_offset: int = 0) -> Tensor:
    """(n, m) bool: the anchors' own tuples."""
    return torch.eye(n, m, dtype=torch.bool).roll(key_offset, 1)


def conditioning(
    tensors: Sequence[Tensor], temperature: float, apart: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> float:
    """The largest factor by which one rounding moves a logit, or a score gradient relatively; not of pairs set `apart`.

    A squared height of size 1 that is wrong by eps makes its root h wrong by eps / 2h, and 1 / h relatively by
    eps / 2h^2. In half precision the bases of the other modalities are rounded to their type, which moves dot products
    by independent roundings of D numbers.
    """
    height, base = heights(tensors)
    pairs = height if apart is None else height[~apart]
    lowest = pairs.min().item() if pairs.numel() else 1.0
    largest = base.max().item() if base.numel() else 1.0
    factor = len(tensors) * max(largest / (lowest * temperature), 1.0 / lowest**2, 1.0 / temperature)
    if dtype not in (torch.bfloat16, torch.float16):
        return factor
    roundings = EPS[dtype] / EPS[torch.float32] / math.sqrt(tensors[0].shape[1])
    return factor + roundings * max(largest / lowest, 1.0) / temperature


def loss_case(tensors: Sequence[Tensor], dtype: torch.dtype, temperature: float = 0.07, **options: Any) -> Case:
    """A call of gram_loss; the budget is that of the pairs off the diagonal, matched volumes have none to spare."""
    apart = matched(len(tensors[0]), len(tensors[1]), options.get("key_offset", 0))
    kwargs = {"temperature": torch.tensor(temperature, dtype=torch.float64), **options}
    return Case(tuple(x.to(dtype) for x in tensors), kwargs, conditioning(tensors, temperature, apart, dtype))


def known(epsilons: Sequence[float], n: int = 1) -> list[Tensor]:
    """k tuples of volume prod(epsilons), exactly, that float32 represents exactly: m_r = a + epsilon_r q_r.

    a and the q_r are the rows of a Hadamard matrix over 4, another choice of them for every sample. epsilons: powers
    of two, not below 2^-22.
    """
    h = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    rows = [(h / 4).roll(i, 0)[: len(epsilons) + 1] for i in range(n)]
    anchor = torch.stack([row[0] for row in rows])
    return [anchor, *(anchor + e * torch.stack([row[r + 1] for row in rows]) for r, e in enumerate(epsilons))]


def gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], **options: Any
) -> tuple[Tensor, list[Tensor]]:
    """Value and gradient of the sum for every tensor, zeros where there is none."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    value = function(*leaves, **options)
    found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    return value.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def official_volume(language: Tensor, *inputs: Tensor) -> Tensor:
    """The formula of GRAM's code, in few lines: sqrt |det| in float32 of every pair's Gram matrix."""
    n, m = len(language), len(inputs[0])
    vectors = [language[:, None].expand(n, m, -1), *(x.expand(n, m, -1) for x in inputs)]
    gram = torch.stack([torch.stack([(x * y).sum(-1) for y in vectors], -1) for x in vectors], -1)
    return torch.det(gram.float()).abs().sqrt()


def official_area(language: Tensor, video: Tensor, audio: Tensor) -> Tensor:
    """The training logit of TRIANGLE's code: differences of all pairs, no root."""
    u, w = language[:, None] - video, language[:, None] - audio
    return ((u * u).sum(2) * (w * w).sum(2) - (u * w).sum(2) ** 2) / 2


def official_loss(score: Callable[..., Tensor], tensors: Sequence[Tensor], gathered: bool) -> Tensor:
    """The published training step on one device (gathered: what goes through the gather loses its gradient)."""
    anchor, *others = tensors
    cut = torch.Tensor.detach if gathered else torch.Tensor.clone
    target = torch.arange(len(anchor))
    to_anchor = -score(anchor, *map(cut, others)) / 0.07
    to_data = -score(cut(anchor), *others).T / 0.07
    return sum(F.cross_entropy(z, target, label_smoothing=0.1) for z in (to_anchor, to_data)) / 2
