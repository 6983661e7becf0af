"""Counts what a GPU would be told to do: operations of torch and kernels of our own, but for views and empty memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import contrastile
from contrastile.ops import library

NONE = set(
    "alias as_strided detach diagonal empty empty_like empty_strided expand narrow new_empty numpy_T permute "
    "promote_types select slice split split_with_sizes squeeze t transpose unbind unsqueeze view _unsafe_view".split()
)


class Launches(TorchDispatchMode):
    """names: of operations and kernels, in order. Inside a kernel (`kernel`) nothing counts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        if name == "pair_loss":
            with self:
                return library.pair_loss(*args)
        result = func(*args, **(kwargs or {}))
        moved = name not in ("to", "contiguous") or result.data_ptr() != args[0].data_ptr()
        if not self.inside and name not in NONE and moved:
            self.names.append(name)
        return result

    def kernel(self, name: str, run: Any, *args: Any, **kwargs: Any) -> Any:
        self.names.append(name)
        self.inside = True
        try:
            return run(*args, **kwargs)
        finally:
            self.inside = False


def documented(loss: str, backend: str) -> int:
    """The figure in docs/performance.md."""
    text = (Path(__file__).parents[2] / "docs/performance.md").read_text()
    rows = [[x.strip(" `") for x in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    header = next(row for row in rows if row[1:] == ["eager", "triton", "cuda", "torch"])
    found = next(row for row in rows[rows.index(header) :] if row[0] == loss)
    return int(found[header.index(backend)])


def eager_clip(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    logits, target = scale * x @ y.T, torch.arange(len(x))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def eager_info_nce(x: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
    return F.cross_entropy(x @ y.T / temperature, torch.arange(len(x)))


def eager_siglip(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return -F.logsigmoid((2 * torch.eye(len(x)) - 1) * (scale * x @ y.T - 10.0)).sum() / len(x)


def eager_nt_xent(x: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
    n, z = len(x), torch.cat([x, y])
    logits = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


def eager_sup_con(x: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
    n, z = len(x), torch.cat([x, y])
    itself, labels = torch.eye(2 * n, dtype=torch.bool), (torch.arange(2 * n) % n) // 2
    positive = (labels[:, None] == labels) & ~itself
    logits = z @ z.T / temperature
    log_p = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    return -((log_p * positive).sum(1) / positive.sum(1)).mean()


def sup_con(x: Tensor, y: Tensor, temperature: Tensor, **options: Any) -> Tensor:
    return contrastile.sup_con([x, y], torch.arange(len(x)) // 2, temperature=temperature, **options)


LOSSES = {
    "clip_loss": lambda x, y, s, **options: contrastile.clip_loss(x, y, s, **options),
    "info_nce": lambda x, y, t, **options: contrastile.info_nce(x, y, temperature=t, **options),
    "siglip_loss": lambda x, y, s, **options: contrastile.siglip_loss(x, y, s, -10.0, **options),
    "nt_xent": lambda x, y, t, **options: contrastile.nt_xent(x, y, temperature=t, **options),
    "sup_con": sup_con,
}
EAGER = {
    "clip_loss": eager_clip, "info_nce": eager_info_nce, "siglip_loss": eager_siglip, "nt_xent": eager_nt_xent,
    "sup_con": eager_sup_con,
}  # fmt: skip


def count(loss: Any, counter: Launches, rows: int = 24, **options: Any) -> list[str]:
    """The names of a forward and a backward pass."""
    x, y = (F.normalize(torch.randn(rows, 8), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor(10.0, requires_grad=True)
    with counter:
        loss(x, y, scale, **options).backward()
    assert x.grad is not None and y.grad is not None and scale.grad is not None
    return counter.names
