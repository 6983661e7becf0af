"""pair_reduce with second operands, dense in float64, written from the docstrings of Targets and Score "gated"."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import contrastile
from contrastile import Targets, pair_loss, pair_reduce
from contrastile.backends.base import Backend
from contrastile.testing import EPS

LEAVES = ("a", "b", "rows", "cols", "scale", "target_scale")
NAMES = ("s", "targets", "target_lse", "target_entropy", "target_loss")  # of PairStats, after "row" or "col"
KINDS = ("softmax", "affine", "gated")
# how many roundings of the largest logit may meet in a number, or of the number itself: a sum of weights is larger
ROUNDINGS = 16.0


@dataclass(frozen=True)
class Problem:
    """Tensors of a call; targets or a gate from `rows` and `cols`."""

    a: Tensor
    b: Tensor
    rows: Tensor
    cols: Tensor
    scale: Tensor  # () or (N,)
    target_scale: Tensor  # () or (N,); of a gate unused
    map: str = "softmax"  # "gated": a gate
    bias: float = 0.0
    share: float = 1.0
    keep: Tensor | None = None  # (N, M) bool
    low: Tensor | None = None  # (N,) of rows
    options: tuple[tuple[str, Any], ...] = ()  # of pair_reduce: what says the same as `keep` and `low`

    def leaves(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in LEAVES if name != "target_scale" or self.map != "gated"}

    def cuda(self) -> Problem:
        """Without rules, there."""
        return replace(self, **{name: getattr(self, name).cuda() for name in LEAVES})

    def to(self, dtype: torch.dtype) -> Problem:
        """With features of this type and new leaves."""
        new = {
            name: x.detach().to(dtype if x.dim() == 2 else stat(dtype)).clone().requires_grad_()
            for name, x in self.leaves().items()
        }
        return replace(self, **new)


def stat(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def problem(n: int, m: int, d: int, width: int, *, map: str = "softmax", by_row: bool = False, **given: Any) -> Problem:
    """Random unit-like features; affine weights are positive."""
    generator = torch.Generator().manual_seed(1000 * n + 10 * m + d)

    def draw(rows: int, columns: int) -> Tensor:
        return torch.nn.functional.normalize(
            torch.randn(rows, columns, generator=generator, dtype=torch.float64), dim=1
        )

    rows, cols = draw(n, width), draw(m, width)
    if map == "gated":
        rows, cols = rows.square() + 0.01, cols.square() + 0.01
    scales = torch.rand(2, n if by_row else 1, generator=generator, dtype=torch.float64)
    scale, target_scale = 5.0 + 5.0 * scales[0], (0.5 if map == "affine" else 8.0) * (0.5 + 0.5 * scales[1])
    if not by_row:
        scale, target_scale = scale[0], target_scale[0]
    bias = 0.5 if map == "affine" else 0.0
    return Problem(draw(n, d), draw(m, d), rows, cols, scale, target_scale, map, bias, **given)


def across(x: Tensor) -> Tensor:
    return x.unsqueeze(1) if x.dim() else x


def dense(p: Problem) -> dict[str, Tensor]:
    """The statistics by their names in PairStats; differentiable."""
    dots = p.a @ p.b.T
    second = p.rows @ p.cols.T
    if p.map == "gated":
        dots, second = dots / second.sqrt(), None
    z = across(p.scale) * dots
    keep = torch.ones_like(z, dtype=torch.bool) if p.keep is None else p.keep
    positive = torch.eye(*z.shape, dtype=torch.bool, device=z.device)
    found = {}
    for side, dim in (("row", 1), ("col", 0)):
        kept = keep & (z > p.low[:, None]) if side == "row" and p.low is not None else keep
        found[f"{side}s"] = z.masked_fill(~kept, -torch.inf).logsumexp(dim)
        if second is not None:
            t = across(p.target_scale) * second + p.bias
            lse = found[f"{side}s"]
            found |= {f"{side}_{name}": x for name, x in target_of(p, z, t, kept, positive, lse, dim).items()}
    return found


def target_of(
    p: Problem, z: Tensor, t: Tensor, kept: Tensor, positive: Tensor, lse: Tensor, dim: int
) -> dict[str, Tensor]:
    own, z, some = (z * positive).sum(dim), z.masked_fill(~kept, 0.0), kept.any(dim, keepdim=True)
    if p.map == "affine":
        weights = t.masked_fill(~kept, 0.0)
        total = weights.sum(dim)
        given = (total > 0) & total.isfinite()
        mean = torch.where(given, (weights * z).sum(dim) / torch.where(given, total, 1.0), own)
        return {"targets": p.share * mean + (1 - p.share) * own, "target_lse": total, "target_loss": lse - mean}
    logits = torch.where(some, t.masked_fill(~kept, -torch.inf), 0.0)
    q = torch.where(kept, logits.softmax(dim), 0.0)
    total = torch.where(some.squeeze(dim), logits.logsumexp(dim), -torch.inf)
    log_q = torch.where(kept, logits.log_softmax(dim), 0.0)
    mean = (q * z).sum(dim)
    return {
        "targets": p.share * mean + (1 - p.share) * own,
        "target_lse": total,
        "target_entropy": -(q * log_q).sum(dim),
        "target_loss": torch.where(some.squeeze(dim), lse - mean, 0.0),
    }


def weights_of(values: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device) for name, x in values.items()
    }


def weighed(values: dict[str, Tensor], weights: dict[str, Tensor]) -> Tensor:
    """An item that keeps nothing contributes 0."""
    terms = [
        torch.where(x == -torch.inf, 0.0, x).double() @ weights[name] for name, x in values.items() if name in weights
    ]
    return sum(terms[1:], terms[0])


def call_options(p: Problem, blocks: int, **options: Any) -> dict[str, Any]:
    cols = list(p.cols.tensor_split(blocks)) if blocks > 1 else p.cols
    positive = {"positives": "same_index"} if p.map == "affine" or p.share < 1.0 else {}
    if p.map == "gated":
        second = {"score": "gated", "gate": (p.rows, cols)}
    else:
        second = {"targets": Targets(p.rows, cols, p.target_scale, p.map, p.bias, p.share)}
    return {"scale": p.scale, "cols": True} | second | positive | dict(p.options) | options


def engine(p: Problem, blocks: int = 1, **options: Any) -> dict[str, Tensor]:
    b = list(p.b.tensor_split(blocks)) if blocks > 1 else p.b
    found = pair_reduce(p.a, b, **call_options(p, blocks, **options))
    names = [f"{side}s" if name == "s" else f"{side}_{name}" for side in ("row", "col") for name in NAMES]
    return {name: x for name in names if (x := getattr(found, name)) is not None}


def engine_loss(p: Problem, weights: dict[str, Tensor], blocks: int = 1, **options: Any) -> Tensor:
    """pair_loss of the statistics that it can weigh."""
    b = list(p.b.tensor_split(blocks)) if blocks > 1 else p.b
    kind = stat(p.a.dtype)
    named = {f"{name[:-1]}_weight": w.to(kind) for name, w in weights.items() if name[:-1] in WEIGHED}
    return pair_loss(p.a, b, **named, **call_options(p, blocks, **options))


WEIGHED = ("row", "col", "row_target", "col_target")


def gradients(value: Tensor, p: Problem) -> dict[str, Tensor]:
    leaves = p.leaves()
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(leaves.items(), found, strict=True)}


def check(p: Problem, dtype: torch.dtype = torch.float32, blocks: int = 1, **options: Any) -> None:
    """Values and every gradient of pair_reduce and pair_loss against the dense float64 truth."""
    mine = p.to(dtype)
    truth = mine.to(torch.float64)  # on the very values that are multiplied
    values = dense(truth)
    weights, found = weights_of(values), engine(mine, blocks, **options)
    assert found.keys() == values.keys()
    largest = largest_logit(truth)
    for name, x in found.items():
        assert x.dtype == stat(dtype)
        infinite = values[name].isinf()
        assert torch.equal(x[infinite].double(), values[name][infinite]), name
        error = ((x.double() - values[name]) / values[name].abs().clamp_min(largest))[~infinite].abs()
        assert not len(error) or error.max() <= ROUNDINGS * EPS[stat(dtype)], (name, error.max())
    compare(gradients(weighed(found, weights), mine), gradients(weighed(values, weights), truth), dtype, largest)
    loss, wanted = engine_loss(mine, weights, blocks, **options), weighed(dense(truth), part_of(weights))
    size = sum(w.abs().sum() for w in weights.values())
    assert (loss.double() - wanted).abs() <= ROUNDINGS * EPS[stat(dtype)] * largest * size
    compare(gradients(loss, mine), gradients(wanted, truth), dtype, largest)


def part_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: w for name, w in weights.items() if name[:-1] in WEIGHED}


def largest_logit(p: Problem) -> float:
    with torch.no_grad():
        logits = [across(p.scale) * (p.a @ p.b.T), across(p.target_scale) * (p.rows @ p.cols.T)]
    return 1.0 + max((x.abs().max().item() for x in logits if x.numel()), default=0.0)


def compare(found: dict[str, Tensor], truth: dict[str, Tensor], dtype: torch.dtype, largest: float) -> None:
    """Norms of errors: a slope is off by a rounding of its logit, and, of features, by one of its own type."""
    for name, x in found.items():
        limit = ROUNDINGS * EPS[stat(dtype)] * largest + 2 * EPS[x.dtype]
        if x.dim() == 2:
            limit += 2 * EPS[dtype]
        error, size = (x.double() - truth[name]).norm().item(), truth[name].norm().item()
        # all but those of features sum terms of either sign, of about 1
        allowed = limit * (size + (1e-3 if name in ("a", "b") else 1.0))
        assert error <= allowed, f"d{name}: error {error:.2g} of {size:.2g}, allowed {allowed:.2g}"


def serves(backend: Backend) -> bool:
    here = backend.unavailable() or backend.why_not(torch.device("cpu"), torch.float32)
    return backend.takes_second and here is None


BACKENDS = [b.name for b in contrastile.backends.BACKENDS if serves(b)]
