"""Second operands of pairs: targets from a teacher's similarities, gates of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..literals import TargetMap
from ..spec import Target
from . import check

MAPS = {"softmax": Target.SOFTMAX, "affine": Target.AFFINE}


@dataclass(frozen=True)
class Targets:
    """Soft targets of pairs from a second similarity, for pair_reduce and pair_loss.

        t_ij = scale_i <rows_i, cols_j> + bias
        q_ij = e^t_ij / sum_j e^t_ij ("softmax"),   t_ij / sum_j t_ij ("affine"),   over the kept j
        row_targets_i = sum_j p_ij z_ij,   p = share q + (1 - share) (the positives)

    so that `rows - row_targets` is the cross-entropy of row i with target p. With cols=True the target of column j uses
    the same t over its kept rows; a direction with other operands is a call of its own. Gradients reach rows, cols, and
    scale if they require them; a frozen teacher costs only its products.

    Args:
        rows, cols: (N, T), (M, T), any width T; cols like b, in several blocks where b has several.
        scale: A float, a 0-dim tensor, or (N,) per row: the teacher's inverse temperature, or the slope of affine
            weights, which must not be negative.
        map: "softmax" | "affine". An item whose affine weights have no positive, finite sum has only the positives as
            target, so you must give positives.
        bias: Added to t, for "affine": `Targets(x, x, scale=.5, bias=.5, map="affine")` weights a pair by (1 + cos) /
            2.
        share: The share of q in p, from 0 to 1: a float, a 0-dim tensor, or (N,) per row (not with cols=True). Below 1
            you must give positives; the sum over an item's positives counts, as in row_positives.

    Example:
        >>> x, y, teacher_x, teacher_y = (torch.nn.functional.normalize(torch.randn(8, 16), dim=1) for _ in range(4))
        >>> stats = pair_reduce(x, y, scale=20.0, targets=Targets(teacher_x, teacher_y, scale=20.0))
        >>> loss = (stats.rows - stats.row_targets).mean()
    """

    rows: Tensor
    cols: Tensor | Sequence[Tensor]
    scale: float | Tensor = 1.0
    map: TargetMap = "softmax"
    bias: float = 0.0
    share: float | Tensor = 1.0


class Second(NamedTuple):
    """Second operands, checked: fields of record.Arguments."""

    second_a: Tensor
    second_blocks: list[Tensor]
    second_scale: Tensor | None = None
    second_bias: Tensor | None = None
    target: int = 0


def target_operands(targets: Targets, a: Tensor, blocks: Sequence[Tensor], positives: bool, cols: bool) -> Second:
    """blocks: the columns of the pairs."""
    if not isinstance(targets, Targets):
        raise TypeError(f"targets must be contrastile.Targets, got {type(targets).__name__}")
    kind = MAPS[check.choice("targets.map", targets.map, tuple(MAPS))]
    rows, columns = second_features("targets.rows", targets.rows, "targets.cols", targets.cols, a, blocks)
    bias = check.scalar("targets.bias", targets.bias)
    if kind == Target.AFFINE and not positives:
        raise ValueError(
            "targets.map='affine' needs positives, as positives='same_index': the target of rows whose weights have no "
            "positive sum"
        )
    if kind == Target.SOFTMAX and (isinstance(bias, Tensor) or bias != 0.0):
        raise ValueError("targets.bias must be 0 with map='softmax': it would have no effect")
    _check_share(targets.share, a, positives, cols)
    return Second(rows, columns, _scale(targets.scale, a, kind), _bias(bias, kind, a), int(kind))


def gate_operands(gate: tuple[Tensor, Tensor | Sequence[Tensor]], a: Tensor, blocks: Sequence[Tensor]) -> Second:
    if not isinstance(gate, tuple) or len(gate) != 2:
        raise TypeError("gate must be a pair (rows, cols) of features")
    return Second(*second_features("gate[0]", gate[0], "gate[1]", gate[1], a, blocks))


def second_features(
    row_name: str, rows: Tensor, col_name: str, cols: Tensor | Sequence[Tensor], a: Tensor, blocks: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Rows and column blocks beside those of the pairs."""
    check.features(row_name, rows)
    check.same_device(row_name, rows, a.device)
    if rows.shape[0] != a.shape[0]:
        raise ValueError(f"{row_name} must have the {a.shape[0]} rows of a, got {rows.shape[0]}")
    if not isinstance(cols, (Tensor, list, tuple)):
        raise TypeError(f"{col_name} must be a tensor or a list of tensors, got {type(cols).__name__}")
    given = [cols] if isinstance(cols, Tensor) else list(cols)
    if len(given) != len(blocks):
        raise ValueError(f"{col_name} must have as many blocks as b, {len(blocks)}, got {len(given)}")
    for index, (x, block) in enumerate(zip(given, blocks, strict=True)):
        name = col_name if len(given) == 1 else f"{col_name}[{index}]"
        check.features(name, x)
        check.same_device(name, x, a.device)
        check.same_width(name, x, row_name, rows)
        if x.shape[0] != block.shape[-2]:
            raise ValueError(f"{name} must have the {block.shape[-2]} columns of b, got {x.shape[0]}")
    return rows, given


def _scale(scale: float | Tensor, a: Tensor, kind: Target) -> Tensor:
    if check.is_vector("targets.scale", scale, a.shape[0]):
        value: float | Tensor = check.vector("targets.scale", scale, a.shape[0], a.device)
    else:
        value = check.scalar("targets.scale", scale)
    if kind == Target.AFFINE:
        message = "targets.scale must not be negative with map='affine': weights would be negative"
        if isinstance(value, Tensor):
            check.condition(message, ~(value < 0))
        elif value < 0:
            raise ValueError(f"{message}, got {value}")
    return check.as_tensor("targets.scale", value, a)


def _bias(bias: float | Tensor, kind: Target, a: Tensor) -> Tensor | None:
    return check.as_tensor("targets.bias", bias, a).detach() if kind == Target.AFFINE else None


def _check_share(share: float | Tensor, a: Tensor, positives: bool, cols: bool) -> None:
    if check.is_vector("targets.share", share, a.shape[0]):
        if cols:
            raise ValueError("targets.share must be one number with cols=True")
        share = check.vector("targets.share", share, a.shape[0], a.device)
    else:
        share = check.scalar("targets.share", share)
    check.share("targets.share", share)
    if not positives and (isinstance(share, Tensor) or share < 1.0):
        raise ValueError("targets.share must be 1 without positives: the rest of the target would be missing")
