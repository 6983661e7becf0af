"""The common arguments of pair_reduce and pair_loss: as they come, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..literals import Keep, Positives, ReduceName, ScoreName
from ..spec import ONE_WAY, PARTNER_TESTS, PairTest
from . import check
from .options import EngineOptions
from .record import REDUCES, SCORES, Arguments
from .rules import Operand, PerBlock, excludes, keep_rule, operands, partners, positives_rule
from .second import Second, Targets, gate_operands, target_operands

REDUCE_NAMES, SCORE_NAMES = tuple(REDUCES), tuple(SCORES)


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
    keep: Keep = "all"
    row_ids: Tensor | None = None
    col_ids: PerBlock | None = None
    row_groups: Tensor | None = None
    col_groups: PerBlock | None = None
    row_labels: Tensor | None = None
    col_labels: PerBlock | None = None
    row_order: Tensor | None = None
    col_order: Tensor | None = None
    partner: Tensor | None = None
    share: Tensor | None = None
    row_low: Tensor | None = None
    row_high: Tensor | None = None
    col_low: Tensor | None = None
    col_high: Tensor | None = None
    mask: Tensor | None = None
    positives: Positives | None = None
    keep_positives: bool = False
    cols: bool = False
    score: ScoreName = "dot"
    offset: bool = True
    split: bool = False
    counts: bool = False
    targets: Targets | None = None
    gate: tuple[Tensor, Tensor | Sequence[Tensor]] | None = None
    own_scales: bool = False
    mutual: bool = False  # for b=None: whoever has a partner is that one's, as nobody checks


def arguments(
    pairs: Pairs, engine: EngineOptions, cross_entropy: bool = False, positive_weights: bool = False
) -> Arguments:
    """Checks everything, once. positive_weights: of a weighted sum in which sums over positives have a weight."""
    check.no_transforms()
    a, b = check.features("a", pairs.a), pairs.b
    device, score = a.device, pairs.score
    check.choice("reduce", pairs.reduce, REDUCE_NAMES)
    check.choice("score", score, SCORE_NAMES)
    blocks = _blocks(a, b, directions=score not in ("dot", "gated"))
    _check_score(pairs)
    n, m = a.shape[0], blocks[0].shape[-2] if len(blocks) == 1 else sum(x.shape[-2] for x in blocks)
    keep, positives = keep_rule(pairs.keep), positives_rule(pairs.positives, b is None)
    _check_positives(pairs, keep, positives, cross_entropy)
    found = operands(pairs, keep | positives, n, blocks, b is None, device)
    scale = _scale(pairs.scale, a)
    one_way = (
        (keep | positives) & (ONE_WAY & ~PARTNER_TESTS if pairs.mutual else ONE_WAY)
        or pairs.targets is not None
        or pairs.gate is not None
    )
    square = b is None and not one_way and _symmetric(scale, pairs)
    second = None
    if pairs.targets is not None or pairs.gate is not None or score == "gated":
        second = _second(pairs, a, blocks)
    partner, share = partners(pairs, keep, positives, n, m if engine.ranks is None else None, device)
    mask = pairs.mask
    if mask is not None:  # across ranks it has the columns of all
        mask = check.bool_mask("mask", mask, (n, m if engine.ranks is None else None), device)
    a, blocks, second = _promote(a, blocks, second)
    args = Arguments(
        a, [] if square else blocks, scale, partner=partner, share=share, mask=mask, reduce=int(REDUCES[pairs.reduce]),
        keep=int(keep), positives=int(positives), keep_positives=bool(pairs.keep_positives),
        cross_entropy=cross_entropy, cols=bool(pairs.cols) and not square, square=square, score=int(SCORES[score]),
        offset=bool(pairs.offset),
        split=bool(pairs.split) or (positive_weights and _apart(pairs, keep, positives, cross_entropy)),
        counts=bool(pairs.counts), own_scales=bool(pairs.own_scales) and _own_scales(pairs),
        compute=_compute_dtype(engine.compute_dtype, a), backend=engine.backend,
    )  # fmt: skip
    if second is not None:
        for name, value in second._asdict().items():
            setattr(args, name, value)
    if found:
        _set_operands(args, found, pairs.row_order)
    if not _no_vectors(pairs):
        _set_vectors(args, pairs, n, m, device)
    return args


def _second(pairs: Pairs, a: Tensor, blocks: list[Tensor]) -> Second | None:
    if (pairs.gate is None) == (pairs.score == "gated"):
        raise ValueError("gate must be given with score='gated', and with no other score")
    if pairs.gate is not None:
        if pairs.targets is not None or pairs.reduce == "max":
            raise ValueError("gate must not be combined with targets or reduce='max'")
        return gate_operands(pairs.gate, a, blocks)
    if pairs.targets is None:
        return None
    if pairs.reduce != "lse" or pairs.score != "dot" or pairs.split:
        raise ValueError("targets need reduce='lse', score='dot' and split=False")
    return target_operands(pairs.targets, a, blocks, pairs.positives is not None, pairs.cols)


def _set_operands(args: Arguments, found: Mapping[str, Operand], order: Tensor | None) -> None:
    for name, operand in found.items():
        setattr(args, f"row_{name}", operand.row)
        setattr(args, f"col_{name}", operand.col)
        if name != "order":
            setattr(args, f"without_{name}", operand.without)
    args.float_order = isinstance(order, Tensor) and order.is_floating_point()


def _no_vectors(pairs: Pairs) -> bool:
    """In one look: most calls have none."""
    return (
        pairs.col_scale is pairs.row_bias is pairs.col_bias is pairs.row_low is pairs.row_high is pairs.col_low
        is pairs.col_high is None
    )  # fmt: skip


def _set_vectors(args: Arguments, pairs: Pairs, n: int, m: int, device: torch.device) -> None:
    """What is one number for each row or column."""
    vectors: dict[str, Tensor | None] = {}
    for name in VECTORS:
        x = getattr(pairs, name)
        vectors[name] = None if x is None else check.vector(name, x, n if name.startswith("row") else m, device)
    for name, x in (vectors | _limits(vectors, pairs.cols)).items():
        setattr(args, name, x)
    if args.square:
        args.col_bias = None


VECTORS = ("col_scale", "row_bias", "col_bias", "row_low", "row_high", "col_low", "col_high")


def _check_positives(pairs: Pairs, keep: int, positives: int, cross_entropy: bool) -> None:
    named = _named(positives)
    if pairs.keep_positives and not named:
        raise ValueError(
            "keep_positives must not be given without positives that keep does not name: it would have no effect"
        )
    if pairs.split and (pairs.reduce != "lse" or not named):
        raise ValueError("split needs reduce='lse' and positives that keep does not name, as positives='same_id'")
    if not cross_entropy:
        return
    if pairs.targets is not None:
        raise ValueError("targets must not be combined with cross_entropy=True")
    out = pairs.split or not (pairs.keep_positives or not excludes(keep, positives))
    if pairs.reduce != "lse" or not named or not out:
        raise ValueError(
            "cross_entropy needs reduce='lse' and positives that keep leaves out, as positives='same_index' and "
            "keep='other_index' do: the statistic is that of the others"
        )


def _apart(pairs: Pairs, keep: int, positives: int, cross_entropy: bool) -> bool:
    """Whether some positives may be in the statistic: their two slopes nearly cancel in a converged model, so they are
    computed apart from the others'."""
    kept = pairs.keep_positives or not excludes(keep, positives)
    return _named(positives) and kept and pairs.reduce == "lse" and not cross_entropy and pairs.targets is None


def _named(positives: int) -> bool:
    """Whether there are positives, by tests of their own."""
    return bool(positives) and not positives & PairTest.KEPT


def _scale(scale: float | Tensor, a: Tensor) -> Tensor:
    if check.is_vector("scale", scale, a.shape[0]):
        return check.vector("scale", scale, a.shape[0], a.device)
    return check.as_tensor("scale", check.scalar("scale", scale), a)


def _own_scales(pairs: Pairs) -> bool:
    if pairs.col_scale is None or not pairs.cols:
        raise ValueError("own_scales must not be given without col_scale and cols=True: it would have no effect")
    return True


def _limits(vectors: dict[str, Tensor | None], cols: bool) -> dict[str, Tensor | None]:
    """low and high of both sides, checked; they have no gradient."""
    for side in ("row", "col"):
        low, high = vectors[f"{side}_low"], vectors[f"{side}_high"]
        if side == "col" and not cols and (low is not None or high is not None):
            name = "col_high" if low is None else "col_low"
            raise ValueError(f"{name} must not be given without cols=True: it would have no effect")
        if low is not None and high is not None:
            check.condition(f"{side}_low must not be above {side}_high", ~(low > high))
    names = ("row_low", "row_high", "col_low", "col_high")
    return {name: _detached(vectors[name]) for name in names}


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def _symmetric(scale: Tensor, pairs: Pairs) -> bool:
    """Whether z_ij = z_ji for b=None, so that half of the pairs are enough."""
    if scale.dim() or pairs.row_bias is not pairs.col_bias or pairs.col_scale is not None or pairs.mask is not None:
        return False
    return not pairs.cols or all(x is None for x in (pairs.row_low, pairs.row_high, pairs.col_low, pairs.col_high))


def _check_score(pairs: Pairs) -> None:
    score = pairs.score
    if score in ("dot", "gated"):
        if not pairs.offset:
            raise ValueError(f"offset must be True with score={score!r}: it would have no effect")
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


def _promote(a: Tensor, blocks: list[Tensor], second: Second | None) -> tuple[Tensor, list[Tensor], Second | None]:
    dtype = a.dtype
    for x in blocks if second is None else [*blocks, second.second_a, *second.second_blocks]:
        dtype = dtype if x.dtype == dtype else torch.promote_types(dtype, x.dtype)
    if second is not None:
        same = [check.as_type(x, dtype) for x in second.second_blocks]
        second = second._replace(second_a=check.as_type(second.second_a, dtype), second_blocks=same)
    a = check.as_type(a, dtype)
    # torch.compile cannot trace a tensor that is given twice
    return a, [block.view_as(block) if block is a else check.as_type(block, dtype) for block in blocks], second


def _compute_dtype(compute_dtype: torch.dtype | None, a: Tensor) -> torch.dtype:
    if compute_dtype is None:
        return a.dtype
    if compute_dtype not in check.FEATURE_DTYPES or (a.dtype == torch.float64) != (compute_dtype == torch.float64):
        raise ValueError(
            f"compute_dtype must be float32, bfloat16 or float16 (float64 for float64 features), got {compute_dtype}"
        )
    return compute_dtype
