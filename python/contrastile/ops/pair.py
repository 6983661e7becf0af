"""The engine for losses of one's own: pair_reduce, row_lse, pair_loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends import backend_names
from ..spec import Keep, Positives, Reduce
from . import autograd, check

LOSS_BUDGET = 64 << 20  # bytes of scores pair_loss may hold while it runs, unless told otherwise

REDUCES = {"lse": Reduce.LSE, "softplus": Reduce.SOFTPLUS, "relu": Reduce.RELU, "max": Reduce.MAX}
KEEPS = {
    "all": Keep.ALL,
    "not_same_index": Keep.NOT_SAME_INDEX,
    "not_same_id": Keep.NOT_SAME_ID,
    "same_id": Keep.SAME_ID,
}
POSITIVES = {None: Positives.NONE, "same_index": Positives.SAME_INDEX, "same_id": Positives.SAME_ID}


class PairStats(NamedTuple):
    """Statistics of pair_reduce, float32 (float64 for float64 features); None where not asked for."""

    rows: Tensor  # (N,) reduce over the kept columns of each row
    cols: Tensor | None  # (M,) reduce over the kept rows of each column
    row_positives: Tensor | None  # (N,) sum over the positive pairs of each row
    col_positives: Tensor | None  # (M,)


def pair_reduce(
    a: Tensor,
    b: Tensor | Sequence[Tensor] | None = None,
    *,
    scale: float | Tensor = 1.0,
    col_scale: Tensor | None = None,
    row_bias: Tensor | None = None,
    col_bias: Tensor | None = None,
    reduce: str = "lse",
    keep: str = "all",
    row_ids: Tensor | None = None,
    col_ids: Tensor | None = None,
    row_threshold: Tensor | None = None,
    col_threshold: Tensor | None = None,
    mask: Tensor | None = None,
    positives: str | None = None,
    keep_positives: bool = False,
    cols: bool = False,
    memory_budget: int | None = None,
    compute_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> PairStats:
    """Reduces all pairs of rows and columns to one number per row (and per column) without holding the N x M scores.

        z_ij = scale_i * col_scale_j * <a_i, b_j> + row_bias_i + col_bias_j
        rows_i = reduce over the kept j of z_ij,      cols_j = reduce over the kept i of z_ij

    with reduce "lse" log sum e^z, "softplus" sum log(1 + e^z), "relu" sum max(z, 0), "max" max z. What is linear in the
    scores needs no pairs, except the sum over positives: it is computed in the same tiles so that in bfloat16 it
    cancels
    against the statistic's gradient before rounding, not after.

    Args:
        a: Rows, (N, D), float32 | bfloat16 | float16 | float64.
        b: Columns, (M, D); several tensors are column blocks joined in order (shared negatives, queues: a block that
        needs
            no gradient costs none); None means a itself (each unordered pair is computed once).
        scale: Multiplies the score: float, 0-dim tensor or (N,) per row. Dimensionless.
        col_scale: (M,) per column. row_bias, col_bias: (N,), (M,), added to z (nats for "lse").
        reduce: "lse" | "softplus" | "relu" | "max".
        keep: "all" | "not_same_index" (drop i == j) | "not_same_id" | "same_id" (integer ids compared per pair).
        row_ids, col_ids: (N,), (M,) integers; for b=None only row_ids.
        row_threshold, col_threshold: (N,), (M,): a pair with z above it is dropped from that row's / column's
        statistic.
            No gradient.
        mask: (N, M) bool, True = keep; holds N x M bytes, the one input that does.
        positives: None | "same_index" | "same_id": which pairs are summed into row_positives / col_positives: sum of z
            ("softplus": sum of log(1 + e^-z)), whether kept or not. For b=None an item is never its own positive.
        keep_positives: Positives stay in the statistic whatever keep, thresholds and mask say.
        cols: Also reduce columns, from the same pass.
        memory_budget: Bytes of scores kept from forward for backward; None or 0 recomputes them (8 instead of 6 N M D
            FLOP). Not for "max".
        compute_dtype: The type features are rounded to and multiplied in; default their own. Gradients keep the
        features'
            type: float32 copies of bfloat16 values lose nothing in the product and get unrounded gradients.
        backend: "auto" | "cpu" | "torch". A named backend never falls back: it raises BackendUnsupported.

    Returns:
        PairStats. A row that keeps nothing gives -inf ("lse", "max") or 0.

    Gradients: a, b, scale, col_scale, row_bias, col_bias; once (double backward raises; "max" is plain torch there).
    Cost: forward 2, backward 6 N M D FLOP; O((N + M) D) memory. b=None: half of both.
    """
    args, square = _arguments(
        a, b, scale, col_scale, row_bias, col_bias, reduce, keep, row_ids, col_ids, row_threshold, col_threshold, mask,
        positives, keep_positives, cols, compute_dtype, backend,
    )  # fmt: skip
    budget = check.budget(memory_budget) or 0
    if reduce == "max":
        if positives is not None:
            raise ValueError("reduce='max' sums no positives; for pairs by index use (a * b).sum(1)")
        rows, columns = _maximum(args, cols and not square)
        return PairStats(rows, rows if cols and square else columns, None, None)
    rows, columns, row_positive, col_positive, *_ = autograd.stats(args, budget)
    if cols and square:  # z is symmetric: the column statistics are the row statistics
        columns, col_positive = rows, row_positive
    some = positives is not None
    return PairStats(
        rows, columns if cols else None, row_positive if some else None, col_positive if some and cols else None
    )


def row_lse(
    a: Tensor, b: Tensor | Sequence[Tensor] | None = None, *, scale: float | Tensor = 1.0, **options: Any
) -> Tensor:
    """log sum_j e^z_ij over the kept columns of every row, (N,); see pair_reduce for z and the options."""
    return pair_reduce(a, b, scale=scale, reduce="lse", **options).rows


def pair_loss(
    a: Tensor,
    b: Tensor | Sequence[Tensor] | None = None,
    *,
    row_weight: float | Tensor = 1.0,
    row_positive_weight: float | Tensor = 0.0,
    col_weight: float | Tensor = 0.0,
    col_positive_weight: float | Tensor = 0.0,
    scale: float | Tensor = 1.0,
    col_scale: Tensor | None = None,
    row_bias: Tensor | None = None,
    col_bias: Tensor | None = None,
    reduce: str = "lse",
    keep: str = "all",
    row_ids: Tensor | None = None,
    col_ids: Tensor | None = None,
    row_threshold: Tensor | None = None,
    col_threshold: Tensor | None = None,
    mask: Tensor | None = None,
    positives: str | None = None,
    keep_positives: bool = False,
    cols: bool = False,
    memory_budget: int | None = None,
    compute_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """A weighted sum of the statistics of pair_reduce, with the gradients formed in the forward sweep.

        L = sum_i row_weight_i rows_i + row_positive_weight_i row_positives_i + the same over columns

    The weights must be known beforehand (numbers or tensors without gradient, e.g. 1/N): that is what lets the
    scores of
    a chunk serve loss and gradients at once, 6 N M D FLOP instead of 8. A row that keeps nothing contributes 0.
    With cols=True the columns are complete only after the last row: scores are kept while they fit memory_budget
    (default 64 MiB, released before the call returns) and recomputed beyond it.

    Args: row_weight, row_positive_weight (N,) or float; col_weight, col_positive_weight (M,) or float, used with
        cols=True. The rest as in pair_reduce; reduce="max" is not offered here.

    Returns: 0-dim float32 (float64 for float64 features).
    """
    if reduce == "max":
        raise ValueError("reduce='max' has no scalar mode; use pair_reduce")
    args, square = _arguments(
        a, b, scale, col_scale, row_bias, col_bias, reduce, keep, row_ids, col_ids, row_threshold, col_threshold, mask,
        positives, keep_positives, cols, compute_dtype, backend,
    )  # fmt: skip
    n = a.shape[0]
    m = n if square else sum(x.shape[0] for x in args[1])
    like = args[0]
    row = _weight("row_weight", row_weight, n, like)
    col = _weight("col_weight", col_weight, m, like) if cols else None
    row_positive = col_positive = None
    if positives is not None:
        row_positive = _weight("row_positive_weight", row_positive_weight, n, like)
        col_positive = _weight("col_positive_weight", col_positive_weight, m, like) if cols else None
    if square and col is not None:  # z is symmetric: column weights act on the same statistics
        row, col = row + col, None
        if row_positive is not None and col_positive is not None:
            row_positive, col_positive = row_positive + col_positive, None
    given = check.budget(memory_budget)
    needs = _needs(args)
    return autograd.loss(args, (row, row_positive, col, col_positive, LOSS_BUDGET if given is None else given), needs)


def _weight(name: str, x: float | Tensor, size: int, like: Tensor) -> Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if isinstance(x, Tensor):
        if x.requires_grad:
            raise ValueError(f"{name} must not require grad: pair_loss forms gradients before it is differentiated")
        return check.vector(name, x, size, like.device).to(dtype).contiguous()
    return torch.full((size,), float(check.scalar(name, x)), dtype=dtype, device=like.device)


def _needs(args: Sequence[Any]) -> list[bool]:
    """Which gradients pair_loss must form, in the order of library.needed."""
    if not torch.is_grad_enabled():
        return [False] * (5 + len(args[1]))
    a, blocks, scale, col_scale, row_bias, col_bias = args[:6]
    return [x is not None and x.requires_grad for x in (a, scale, col_scale, row_bias, col_bias, *blocks)]


def _arguments(
    a: Tensor,
    b: Tensor | Sequence[Tensor] | None,
    scale: float | Tensor,
    col_scale: Tensor | None,
    row_bias: Tensor | None,
    col_bias: Tensor | None,
    reduce: str,
    keep: str,
    row_ids: Tensor | None,
    col_ids: Tensor | None,
    row_threshold: Tensor | None,
    col_threshold: Tensor | None,
    mask: Tensor | None,
    positives: str | None,
    keep_positives: bool,
    cols: bool,
    compute_dtype: torch.dtype | None,
    backend: str,
) -> tuple[tuple[Any, ...], bool]:
    """Checks everything once and returns the operators' common arguments, and whether the call is square."""
    _refuse_transforms()
    a = check.features("a", a)
    device = a.device
    check.choice("backend", backend, ("auto", *backend_names()))
    check.choice("reduce", reduce, tuple(REDUCES))
    check.choice("keep", keep, tuple(KEEPS))
    if positives not in POSITIVES:
        raise ValueError(f"positives must be None, 'same_index' or 'same_id', got {positives!r}")
    blocks = _blocks(a, b)
    n, m = a.shape[0], sum(x.shape[0] for x in blocks)
    if isinstance(scale, Tensor) and scale.dim() == 1 and scale.shape[0] == n:
        scale = check.vector("scale", scale, n, device)
    else:
        scale = as_tensor(check.scalar("scale", scale), a)
    if b is None and col_ids is None:
        col_ids = row_ids
    if (row_ids is None) != (col_ids is None):
        raise ValueError("row_ids and col_ids must be given together")
    if row_ids is None and ("id" in keep or positives == "same_id"):
        raise ValueError(f"keep={keep!r}, positives={positives!r} compare ids: row_ids and col_ids must be given")
    if row_ids is not None and col_ids is not None:
        row_ids, col_ids = check.ids("row_ids", row_ids, n, device), check.ids("col_ids", col_ids, m, device)
    thresholds = (row_threshold, col_threshold) if cols else (col_threshold,)
    square = b is None and _symmetric(scale, row_bias, col_bias, (col_scale, mask, *thresholds))
    optional = {
        "col_scale": (col_scale, m), "row_bias": (row_bias, n), "col_bias": (col_bias, m),
        "row_threshold": (row_threshold, n), "col_threshold": (col_threshold, m),
    }  # fmt: skip
    vectors = {name: None if x is None else check.vector(name, x, size, device) for name, (x, size) in optional.items()}
    if mask is not None:
        mask = check.bool_mask("mask", mask, n, m, device)
    a, blocks = _promote(a, blocks)
    return (
        a, [] if square else blocks, scale, vectors["col_scale"], vectors["row_bias"], vectors["col_bias"], row_ids,
        col_ids,
        _detached(vectors["row_threshold"]), _detached(vectors["col_threshold"]), mask,
        int(REDUCES[reduce]), int(KEEPS[keep]), int(POSITIVES[positives]), bool(keep_positives), bool(cols) and not
        square,
        square, _compute_dtype(compute_dtype, a), backend,
    ), square  # fmt: skip


def _symmetric(
    scale: Tensor, row_bias: Tensor | None, col_bias: Tensor | None, others: tuple[Tensor | None, ...]
) -> bool:
    """Whether z_ij = z_ji for b=None, so that half of the pairs are enough."""
    return scale.dim() == 0 and row_bias is col_bias and all(x is None for x in others)


def _blocks(a: Tensor, b: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    given = [a] if b is None else [b] if isinstance(b, Tensor) else list(b)
    for index, block in enumerate(given):
        name = "b" if len(given) == 1 else f"b[{index}]"
        check.features(name, block)
        check.same_width(name, block, "a", a)
        check.same_device(name, block, a.device)
    if not given:
        raise ValueError("b must hold at least one block of columns, got an empty sequence")
    return given


def _promote(a: Tensor, blocks: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    dtype = a.dtype
    for block in blocks:
        dtype = torch.promote_types(dtype, block.dtype)
    return a.to(dtype), [block.to(dtype) for block in blocks]


def _compute_dtype(compute_dtype: torch.dtype | None, a: Tensor) -> torch.dtype:
    if compute_dtype is None:
        return a.dtype
    if compute_dtype not in check.FEATURE_DTYPES or (a.dtype == torch.float64) != (compute_dtype == torch.float64):
        raise ValueError(
            f"compute_dtype must be float32, bfloat16 or float16 (float64 for float64 features), got {compute_dtype}"
        )
    return compute_dtype


def as_tensor(x: float | Tensor, like: Tensor) -> Tensor:
    """A number as a 0-dim tensor of the statistic's type; tensors pass unchanged, with their gradient."""
    if isinstance(x, Tensor):
        check.same_device("scale", x, like.device)
        return x
    return torch.tensor(x, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32, device=like.device)


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def _refuse_transforms() -> None:
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "contrastile: torch.func transforms (grad, vmap, jvp, ...) are not supported by the fused operators; "
            "contrastile.reference has the same losses in plain torch"
        )


def _maximum(args: tuple[Any, ...], cols: bool) -> tuple[Tensor, Tensor | None]:
    """The maximum is z at the saved argmax: ordinary torch, so autograd needs no second sweep over pairs."""
    a, blocks, scale, col_scale, row_bias, col_bias, *_ = args
    with torch.no_grad():
        *_, row_arg, col_arg, _ = torch.ops.contrastile.pair_stats.default(*args, 0)
    b = torch.cat(blocks) if blocks else a
    every = torch.arange(a.shape[0], device=a.device), torch.arange(b.shape[0], device=a.device)

    def z_at(i: Tensor, j: Tensor, found: Tensor) -> Tensor:
        z = (a[i].to(found_dtype) * b[j].to(found_dtype)).sum(1) * (scale[i] if scale.dim() else scale)
        for vector, index in ((col_scale, j),):
            z = z if vector is None else z * vector[index]
        for vector, index in ((row_bias, i), (col_bias, j)):
            z = z if vector is None else z + vector[index]
        return torch.where(found < 0, -torch.inf, z)

    found_dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    rows = z_at(every[0], row_arg.clamp_min(0), row_arg) if b.shape[0] else a.new_full(a.shape[:1], -torch.inf)
    if not cols:
        return rows, None
    return rows, z_at(col_arg.clamp_min(0), every[1], col_arg) if a.shape[0] else b.new_full(b.shape[:1], -torch.inf)
