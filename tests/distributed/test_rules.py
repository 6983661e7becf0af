"""Rules of pairs, masks and maxima across ranks against one process: values and gradients, uneven and empty ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from contrastile import pair_loss, pair_reduce
from contrastile.distributed import Ranks
from support.cases import EXTRAS, make_call
from support.launch import gather_from
from support.oracle import Call, differentiated, with_leaves

pytestmark = pytest.mark.dist
WORLD = 3
ROWS, COLUMNS, QUEUE = (5, 0, 4), (3, 6, 0), (2, 1, 2)
OF_ROWS = (
    "row_ids",
    "row_groups",
    "row_labels",
    "row_order",
    "row_low",
    "row_high",
    "row_bias",
    "scale",
    "partner",
    "share",
)
OF_COLUMNS = ("col_ids", "col_groups", "col_labels", "col_order", "col_low", "col_high", "col_bias", "col_scale")
RULES: dict[str, dict[str, Any]] = {
    "indices": {"keep": "other_index", "positives": "same_index"},
    "ids and groups": {
        "keep": ("other_id", "same_group"), "positives": ("same_id", "other_group"), "keep_positives": True,
    },
    "labels": {"keep": ("no_shared_label", "other_index"), "positives": "shared_label"},
    "order": {"keep": "lower_order", "positives": "kept"},
    "cross entropy": {"keep": ("other_index", "other_id"), "positives": ("same_id", "other_group")},
    "maximum": {"reduce": "max", "keep": ("other_index", "other_id"), "counts": True},
    "positives apart": {"keep": "other_index", "positives": "same_id", "split": True, "counts": True},
    "partners": {"keep": "no_partner", "positives": ("partner", "other_index")},
    "sum": {"reduce": "softplus", "keep": "no_shared_label", "positives": ("shared_label", "other_index")},
    "own scales": {"keep": "other_index", "positives": "same_id", "split": True, "own_scales": True},
    "own scales, maximum": {"reduce": "max", "keep": "other_index", "own_scales": True},
}  # fmt: skip


def problem(rule: str, square: bool, seed: int = 3) -> Call:
    n = sum(ROWS)
    if square:
        options = dict(RULES[rule])
        if options.get("positives") == "same_index":
            options.pop("positives")
        return make_call(n, None, 6, torch.float64, "row_bias", cols=True, seed=seed, **options)
    m = sum(COLUMNS) + sum(QUEUE)
    call = make_call(n, m, 6, torch.float64, *EXTRAS, cols=True, seed=seed, **RULES[rule])
    assert call.b is not None
    b = torch.cat(call.b).split([sum(COLUMNS), sum(QUEUE)])
    return Call(call.a, b, call.options)


def own(x: Tensor, sizes: tuple[int, ...], rank: int) -> Tensor:
    return x.split(list(sizes))[rank]


def share(call: Call, rank: int) -> tuple[Call, Tensor]:
    """This rank's part of a call, and the places of its columns among all."""
    rows = own(torch.arange(sum(ROWS)), ROWS, rank)
    first, more = torch.arange(sum(COLUMNS)), sum(COLUMNS) + torch.arange(sum(QUEUE))
    places = torch.cat([own(first, COLUMNS, rank), own(more, QUEUE, rank)])
    options = dict(call.options)
    for name in OF_ROWS:
        if isinstance(x := options.get(name), Tensor) and x.dim():
            options[name] = x[rows]
    for name in OF_COLUMNS:
        if call.b is not None and isinstance(x := options.get(name), Tensor):
            options[name] = x[places]
    if "mask" in options:
        options["mask"] = options["mask"][rows]
    b = None if call.b is None else (own(call.b[0], COLUMNS, rank), own(call.b[1], QUEUE, rank))
    return Call(call.a[rows], b, options), rows if call.b is None else places


def difference(rule: str, square: bool, strategy: str, rank: int, scalar: bool) -> float:
    """The largest difference of this rank's statistics and gradients from those of one process."""
    call = problem(rule, square)
    part, places = share(call, rank)
    rows = own(torch.arange(sum(ROWS)), ROWS, rank)
    found, leaves = run(part, rows, places, scalar, group=Ranks(strategy=strategy))
    truth, true = run(call, torch.arange(sum(ROWS)), torch.arange(sum(COLUMNS) + sum(QUEUE)), scalar)
    errors = [0.0]
    if not scalar:
        for name, x in truth.items():
            here = x[places] if name.startswith("col") else x[rows]
            errors.append(float((found[name] - here).nan_to_num(0.0, 9e9, 0.0).abs().sum()))
    for name, grad in true.items():
        if name.startswith("b["):
            sizes = COLUMNS if name == "b[0]" else QUEUE
            here = own(torch.arange(sum(sizes)), sizes, rank)
        else:
            here = rows if name in ("a", *OF_ROWS) else places
        if grad.dim():
            errors.append(float((leaves[name] - grad[here]).abs().sum()))
    return max(errors)


def run(
    call: Call, rows: Tensor, columns: Tensor, scalar: bool, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Statistics and gradients, with weights that depend on an item's place among all."""
    call, leaves = with_leaves(call)
    m = len(call.a) if call.b is None else sum(map(len, call.b))
    weights = {"row": rows.double().cos(), "col": columns[:m].double().sin()}
    if scalar:
        given = {f"{side}_weight": w for side, w in weights.items()}
        if call.options.get("positives"):
            given |= {f"{side}_positive_weight": w + 1 for side, w in weights.items()}
        cross_entropy = call.options["keep"] == RULES["cross entropy"]["keep"]
        own = {name: x for name, x in call.options.items() if name not in ("split", "counts")}
        value = pair_loss(call.a, call.b, **given, **own, **options, cross_entropy=cross_entropy)
        return {}, differentiated([value], [torch.ones_like(value)], leaves)
    stats = pair_reduce(call.a, call.b, **call.options, **options)
    found = {name: x for name, x in stats._asdict().items() if x is not None}
    gouts = [weights[name[:3]] for name in found]
    return {k: x.detach() for k, x in found.items()}, differentiated(found.values(), gouts, leaves)


def worker(rank: int) -> dict[str, float]:
    found = {}
    for rule, options in RULES.items():
        modes = (True,) if rule == "cross entropy" else (False,) if options.get("reduce") == "max" else (False, True)
        for square in (False,) if "own_scales" in options else (False, True):
            for strategy in ("gather", "ring"):
                for mode in modes:
                    kind = f"{rule}, {'b=None' if square else 'b'}, {strategy}, {'loss' if mode else 'statistics'}"
                    found[kind] = difference(rule, square, strategy, rank, mode)
    return found


def refused(rank: int) -> list[str]:
    a, frozen = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    order = torch.arange(2) if rank else torch.arange(2.0)
    found = []
    for options in (
        {"mask": torch.ones(2, 2, dtype=torch.bool)},
        {"reduce": "max", "b": frozen.requires_grad_(rank == 0)},
        {"keep": "lower_order", "row_order": order, "col_order": order},
    ):
        try:
            pair_reduce(a, options.pop("b", a), **options, group=Ranks())
            found.append("")
        except ValueError as error:
            found.append(str(error))
    return found


def unknown(rank: int) -> dict[str, bool]:
    """NaN on one rank reaches every column's maximum, and a rank may use only one of the two statistics."""
    a, b = (torch.randn(3, 4, generator=torch.Generator().manual_seed(9 + rank)) for _ in range(2))
    found = {}
    for strategy in ("gather", "ring"):
        spoilt = a.clone()
        spoilt[1, 0] = torch.nan if rank == 1 else 0.0
        cols = pair_reduce(spoilt, b, cols=True, reduce="max", group=Ranks(strategy=strategy)).cols
        found[f"{strategy} NaN"] = bool(cols.isnan().all())
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        stats = pair_reduce(x, y, cols=True, reduce="max", group=Ranks(strategy=strategy))
        (stats.rows.sum() + (stats.cols.sum() if rank else 0.0)).backward()
        found[f"{strategy} gradients"] = bool(x.grad.isfinite().all() and y.grad.isfinite().all())
    return found


def test_every_rule_across_ranks():
    for found in gather_from(WORLD, worker):
        assert isinstance(found, dict), found
        wrong = {kind: error for kind, error in found.items() if not error < 1e-10}
        assert not wrong


def test_what_ranks_must_agree_on():
    for found in gather_from(WORLD, refused):
        assert isinstance(found, list), found
        assert found[0] == "mask must have the columns of all ranks, 6, got (2, 2)"
        assert "arguments that require gradients" in found[1]
        assert "type of row_order (floating or not)" in found[2]


def test_maxima_meet_everywhere():
    for found in gather_from(WORLD, unknown):
        assert isinstance(found, dict), found
        assert all(found.values()), found
