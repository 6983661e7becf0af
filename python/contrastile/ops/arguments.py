"""The common arguments of pair_reduce and pair_loss: as they come, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from ..literals import KeepName, PositivesName, ReduceName, ScoreName
from . import check
from .options import EngineOptions
from .record import KEEPS, POSITIVES, REDUCES, SCORES, Arguments


@dataclass(slots=True)  # not frozen, which would cost 2 us a call
class Pairs:
    """What is asked of which pairs, not yet checked: the arguments of pair_reduce by their names there."""

    a: Tensor
    b: Tensor | Sequence[Tensor] | None = None
    scale: float | Tensor = 1.0
    col_scale: Tensor | None = None
    row_bias: Tensor | None = None
    col_bias: Tensor | None = None
    reduce: ReduceName = "lse"
    keep: KeepName = "all"
    row_ids: Tensor | None = None
    col_ids: Tensor | None = None
    row_threshold: Tensor | None = None
    col_threshold: Tensor | None = None
    mask: Tensor | None = None
    positives: PositivesName | None = None
    keep_positives: bool = False
    cols: bool = False
    score: ScoreName = "dot"
    offset: bool = True


def arguments(pairs: Pairs, engine: EngineOptions) -> Arguments:
    """Checks everything, once."""
    check.no_transforms()
    a, b = check.features("a", pairs.a), pairs.b
    device, keep, positives, score = a.device, pairs.keep, pairs.positives, pairs.score
    row_ids, col_ids, mask = pairs.row_ids, pairs.col_ids, pairs.mask
    check.choice("reduce", pairs.reduce, tuple(REDUCES))
    check.choice("keep", keep, tuple(KEEPS))
    if positives is not None:
        check.choice("positives", positives, get_args(PositivesName))
    check.choice("score", score, tuple(SCORES))
    blocks = _blocks(a, b, directions=score != "dot")
    _check_score(pairs)
    n, m = a.shape[0], sum(x.shape[-2] for x in blocks)
    scale: float | Tensor = pairs.scale
    if check.is_vector("scale", scale, n):
        scale = check.vector("scale", scale, n, device)
    else:
        scale = as_tensor("scale", check.scalar("scale", scale), a)
    if b is None:
        if col_ids is not None:
            raise ValueError("col_ids must be None for b=None: columns are the rows and have row_ids")
        if positives == "same_index":
            raise ValueError("positives='same_index' needs b: for b=None an item is never its own positive")
        col_ids = row_ids
    _refuse_unused(
        {
            "row_ids, col_ids": row_ids,
            "col_threshold": pairs.col_threshold,
            "keep_positives": pairs.keep_positives or None,
        },
        {
            "row_ids, col_ids": keep.endswith("_id") or positives == "same_id",
            "col_threshold": pairs.cols,
            "keep_positives": positives not in (None, "kept"),
        },
    )
    if (row_ids is None) != (col_ids is None):
        raise ValueError("row_ids and col_ids must be given together")
    if row_ids is None and (keep.endswith("_id") or positives == "same_id"):
        raise ValueError(f"keep={keep!r}, positives={positives!r} compare ids: row_ids and col_ids must be given")
    if row_ids is not None and col_ids is not None:
        row_ids, col_ids = check.ids("row_ids", row_ids, n, device), check.ids("col_ids", col_ids, m, device)
    square = b is None and _symmetric(scale, pairs)
    optional = {
        "col_scale": (pairs.col_scale, m), "row_bias": (pairs.row_bias, n), "col_bias": (pairs.col_bias, m),
        "row_threshold": (pairs.row_threshold, n), "col_threshold": (pairs.col_threshold, m),
    }  # fmt: skip
    vectors = {name: None if x is None else check.vector(name, x, size, device) for name, (x, size) in optional.items()}
    if mask is not None:
        mask = check.bool_mask("mask", mask, (n, m), device)
    if col_ids is row_ids:
        col_ids = None
    a, blocks = _promote(a, blocks)
    return Arguments(
        a=a, blocks=[] if square else blocks, scale=scale, col_scale=vectors["col_scale"],
        row_bias=vectors["row_bias"], col_bias=None if square else vectors["col_bias"],
        row_ids=row_ids, col_ids=col_ids, row_threshold=_detached(vectors["row_threshold"]),
        col_threshold=_detached(vectors["col_threshold"]), mask=mask,
        reduce=int(REDUCES[pairs.reduce]), keep=int(KEEPS[keep]), positives=int(POSITIVES[positives]),
        keep_positives=bool(pairs.keep_positives), cols=bool(pairs.cols) and not square, same=b is None, square=square,
        score=int(SCORES[score]), offset=bool(pairs.offset), compute=_compute_dtype(engine.compute_dtype, a),
        backend=engine.backend,
    )  # fmt: skip


def _symmetric(scale: Tensor, pairs: Pairs) -> bool:
    """Whether z_ij = z_ji for b=None, so that half of the pairs are enough."""
    if scale.dim() or pairs.row_bias is not pairs.col_bias or pairs.col_scale is not None or pairs.mask is not None:
        return False
    return not pairs.cols or (pairs.row_threshold is None and pairs.col_threshold is None)


def _check_score(pairs: Pairs) -> None:
    score = pairs.score
    if score == "dot":
        if not pairs.offset:
            raise ValueError("offset must be True with score='dot': it would have no effect")
        return
    if pairs.row_bias is None:
        raise ValueError(f"row_bias must be given with score={score!r}: it holds the squared norms of the rows")
    if pairs.offset and pairs.col_bias is None:
        raise ValueError(f"col_bias must be given with score={score!r}: it holds the squared norms of the points")
    if pairs.b is None and not pairs.offset:
        raise ValueError("offset must be True for b=None: rows as directions of each other have no meaning")
    if pairs.reduce == "max":
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


def _refuse_unused(given: dict[str, Any], useful: dict[str, Any]) -> None:
    """An argument that nothing would read is a mistake of the caller's, not something to ignore."""
    needs = {
        "row_ids, col_ids": "a keep or positives rule that compares ids",
        "col_threshold": "cols=True",
        "keep_positives": "positives by index or id",
    }
    for name, value in given.items():
        if value is not None and not useful[name]:
            raise ValueError(f"{name} must not be given without {needs[name]}: it would have no effect")
