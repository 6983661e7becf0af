"""The common arguments of pair_reduce and pair_loss, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..spec import Test
from . import check
from .record import REDUCES, SCORES, Arguments
from .rules import SYMMETRIC, Operand, Rule, keep_rule, operands, positives_rule


def arguments(
    a: Tensor,
    b: Tensor | Sequence[Tensor] | None,
    *,
    scale: float | Tensor,
    col_scale: Tensor | None,
    row_bias: Tensor | None,
    col_bias: Tensor | None,
    reduce: str,
    keep: Rule,
    row_low: Tensor | None,
    row_high: Tensor | None,
    col_low: Tensor | None,
    col_high: Tensor | None,
    mask: Tensor | None,
    positives: Rule | None,
    keep_positives: bool,
    cross_entropy: bool,
    cols: bool,
    score: str,
    offset: bool,
    compute_dtype: torch.dtype | None,
    backend: str,
    alone: bool,
    **compared: Any,
) -> Arguments:
    """Checks everything, once. alone: without other ranks. compared: the operands of rules, row_ids to col_order."""
    check.no_transforms()
    a = check.features("a", a)
    device = a.device
    check.backend(backend)
    check.choice("reduce", reduce, tuple(REDUCES))
    check.choice("score", score, tuple(SCORES))
    blocks = _blocks(a, b, directions=score != "dot")
    _check_score(score, offset, b, row_bias, col_bias, reduce)
    n, m = a.shape[0], sum(x.shape[-2] for x in blocks)
    kept, positive = keep_rule(keep), positives_rule(positives, b is None)
    found = operands(kept | positive, n, blocks, b is None, device, **compared)
    if keep_positives and (not positive or positive & Test.KEPT):
        raise ValueError(
            "keep_positives must not be given without positives that keep does not name: it would have no effect"
        )
    if cross_entropy and (reduce != "lse" or not positive or positive & Test.KEPT or keep_positives):
        raise ValueError(
            "cross_entropy needs reduce='lse' and positives that are not kept: the statistic is that of the others"
        )
    scale = _scale(scale, a)
    optional = {
        "col_scale": (col_scale, m), "row_bias": (row_bias, n), "col_bias": (col_bias, m),
        "row_low": (row_low, n), "row_high": (row_high, n), "col_low": (col_low, m), "col_high": (col_high, m),
    }  # fmt: skip
    vectors = {name: None if x is None else check.vector(name, x, size, device) for name, (x, size) in optional.items()}
    _check_limits(vectors, cols)
    if mask is not None:
        mask = check.bool_mask("mask", mask, (n, m if alone else None), device)
    limits = [vectors[name] for name in ("row_low", "row_high", "col_low", "col_high")] if cols else []
    square = b is None and not (kept | positive) & ~SYMMETRIC
    square = square and _symmetric(scale, row_bias, col_bias, (col_scale, mask, *limits))
    a, blocks = _promote(a, blocks)
    none = Operand()
    return Arguments(
        a=a, blocks=[] if square else blocks, scale=scale, col_scale=vectors["col_scale"],
        row_bias=vectors["row_bias"], col_bias=None if square else vectors["col_bias"],
        row_ids=found.get("ids", none).row, col_ids=found.get("ids", none).col,
        row_groups=found.get("groups", none).row, col_groups=found.get("groups", none).col,
        row_labels=found.get("labels", none).row, col_labels=found.get("labels", none).col,
        row_order=found.get("order", none).row, col_order=found.get("order", none).col,
        row_low=_detached(vectors["row_low"]), row_high=_detached(vectors["row_high"]),
        col_low=_detached(vectors["col_low"]), col_high=_detached(vectors["col_high"]), mask=mask,
        reduce=int(REDUCES[reduce]), keep=int(kept), positives=int(positive),
        without_ids=found.get("ids", none).without, without_groups=found.get("groups", none).without,
        without_labels=found.get("labels", none).without,
        keep_positives=bool(keep_positives), cross_entropy=bool(cross_entropy),
        cols=bool(cols) and not square, square=square,
        score=int(SCORES[score]), offset=bool(offset), compute=_compute_dtype(compute_dtype, a), backend=backend,
    )  # fmt: skip


def _scale(scale: float | Tensor, a: Tensor) -> Tensor:
    if check.is_vector("scale", scale, a.shape[0]):
        return check.vector("scale", scale, a.shape[0], a.device)
    return as_tensor("scale", check.scalar("scale", scale), a)


def _check_limits(vectors: dict[str, Tensor | None], cols: bool) -> None:
    for side in ("row", "col"):
        low, high = vectors[f"{side}_low"], vectors[f"{side}_high"]
        if side == "col" and not cols and (low is not None or high is not None):
            name = "col_high" if low is None else "col_low"
            raise ValueError(f"{name} must not be given without cols=True: it would have no effect")
        if low is not None and high is not None:
            check.condition(f"{side}_low must not be above {side}_high", ~(low > high))


def _symmetric(
    scale: Tensor, row_bias: Tensor | None, col_bias: Tensor | None, others: tuple[Tensor | None, ...]
) -> bool:
    """Whether z_ij = z_ji for b=None, so that half of the pairs are enough."""
    return scale.dim() == 0 and row_bias is col_bias and all(x is None for x in others)


def _check_score(
    score: str,
    offset: bool,
    b: Tensor | Sequence[Tensor] | None,
    row_bias: Tensor | None,
    col_bias: Tensor | None,
    reduce: str,
) -> None:
    if score == "dot":
        if not offset:
            raise ValueError("offset must be True with score='dot': it would have no effect")
        return
    if row_bias is None:
        raise ValueError(f"row_bias must be given with score={score!r}: it holds the squared norms of the rows")
    if offset and col_bias is None:
        raise ValueError(f"col_bias must be given with score={score!r}: it holds the squared norms of the points")
    if b is None and not offset:
        raise ValueError("offset must be True for b=None: rows as directions of each other have no meaning")
    if reduce == "max":
        raise ValueError(f"reduce='max' must not be combined with score={score!r}: it is offered for 'dot' alone")


def _blocks(a: Tensor, b: Tensor | Sequence[Tensor] | None, directions: bool) -> list[Tensor]:
    if b is not None and not isinstance(b, (Tensor, list, tuple)):
        raise TypeError(f"b must be a tensor, a list of tensors or None, got {type(b).__name__}")
    given = [a] if b is None else [b] if isinstance(b, Tensor) else list(b)
    for index, block in enumerate(given):
        name = "b" if len(given) == 1 else f"b[{index}]"
        check.features(name, block, ndim=3 if directions and isinstance(block, Tensor) and block.dim() == 3 else 2)
        if block.shape[:-2] != given[0].shape[:-2]:
            raise ValueError(f"{name} must be like b[0], {tuple(given[0].shape)}, got {tuple(block.shape)}")
        if block.dim() == 3 and block.shape[0] == 0:
            raise ValueError(f"{name} must hold at least one tile, got {tuple(block.shape)}")
        check.same_width(name, block, "a", a)
        check.same_device(name, block, a.device)
    if not given:
        raise ValueError("b must hold at least one block of columns, got an empty sequence")
    return given


def _promote(a: Tensor, blocks: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    dtype = a.dtype
    for block in blocks:
        dtype = torch.promote_types(dtype, block.dtype)
    a = a.to(dtype)
    # torch.compile cannot trace a tensor that is given twice
    return a, [block.view_as(block) if block is a else block.to(dtype) for block in blocks]


def _compute_dtype(compute_dtype: torch.dtype | None, a: Tensor) -> torch.dtype:
    if compute_dtype is None:
        return a.dtype
    if compute_dtype not in check.FEATURE_DTYPES or (a.dtype == torch.float64) != (compute_dtype == torch.float64):
        raise ValueError(
            f"compute_dtype must be float32, bfloat16 or float16 (float64 for float64 features), got {compute_dtype}"
        )
    return compute_dtype


def as_tensor(name: str, x: float | Tensor, like: Tensor) -> Tensor:
    """A number as a 0-dim tensor of the statistic's type; tensors pass unchanged, with their gradient."""
    if isinstance(x, Tensor):
        return check.beside(name, x, like.device)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.full((), x, dtype=dtype, device=like.device)  # torch.tensor would copy from the host and wait


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()
