"""The rules of a call, as users write them, and their operands: checked, and in the form that kernels compare."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..literals import Keep, Positives
from ..spec import NO_TEST, PARTNER_TESTS, READERS, PairTest
from . import check
from .record import TESTS

PerBlock = Tensor | Sequence[Tensor | None]  # of columns: all blocks' in one tensor, or one for each block
CONTRADICTIONS = (
    ("same_index", "other_index"), ("same_id", "other_id"), ("same_group", "other_group"),
    ("shared_label", "no_shared_label"), ("partner", "no_partner"),
)  # fmt: skip
KEEPABLE = {name: test for name, test in TESTS.items() if name != "kept"}
ANY_OPERAND = reduce(or_, map(int, READERS.values()))
ONE = {"all": NO_TEST, **KEEPABLE}  # what keep may be as one word
WORD = 64  # labels of an int64
MOST_BLOCKS = 62  # whose lack of an operand is a bit of an int64


class Operand(NamedTuple):
    """What a test compares."""

    row: Tensor | None = None
    col: Tensor | None = None  # None with a row: the rows'
    without: int = 0  # column blocks that have none: a bit for each


def keep_rule(keep: Keep) -> int:
    if isinstance(keep, str) and keep in ONE:
        return ONE[keep]
    return tests("keep", keep, ONE if isinstance(keep, str) else KEEPABLE)


def positives_rule(positives: Positives | None, square: bool) -> int:
    """square: b is a, where an item is never its own positive."""
    if positives is None:
        return NO_TEST
    known = isinstance(positives, str) and positives in TESTS
    found = TESTS[str(positives)] if known else tests("positives", positives, TESTS)
    if found & PairTest.KEPT:
        if found != PairTest.KEPT:
            raise ValueError(f"positives='kept' stands alone, got {positives!r}: name its tests in keep")
        return found
    if square and found & PairTest.SAME_INDEX:
        raise ValueError("positives='same_index' needs b: for b=None an item is never its own positive")
    return found | PairTest.OTHER_INDEX if square else found


# of every two tests that contradict each other the first, whose bit is the one before the other's
FIRST = sum(TESTS[one] for one, _ in CONTRADICTIONS)
assert 2 * FIRST == sum(TESTS[other] for _, other in CONTRADICTIONS)


def excludes(keep: int, positives: int) -> bool:
    """Whether no pair is both kept and positive, seen from the rules."""
    return bool(2 * (keep & FIRST) & positives or 2 * (positives & FIRST) & keep)


def tests(name: str, rule: str | tuple[str, ...], known: dict[str, int]) -> int:
    """The conjunction that one name or a tuple of names is."""
    if isinstance(rule, list):
        raise TypeError(f"{name} must be a word or a tuple of words, got {rule!r}")
    names = rule if isinstance(rule, tuple) else (rule,)
    if not names:
        raise ValueError(f"{name} must name at least one test, got an empty tuple")
    found = NO_TEST
    for word in names:
        check.choice(name, word, tuple(known))
        found |= known[word]
    for one, other in CONTRADICTIONS:
        if one in names and other in names:
            raise ValueError(f"{name} must not name both {one} and {other}: no pair passes both")
    return found


def operands(
    given: Any, rules: int, n: int, blocks: Sequence[Tensor], square: bool, device: torch.device
) -> dict[str, Operand]:
    """Every operand there is, by its name. given: has row_<name> and col_<name>. square: b is a."""
    found: dict[str, Operand] = {}
    if not rules & ANY_OPERAND and (
        given.row_ids
        is given.col_ids
        is given.row_groups
        is given.col_groups
        is given.row_labels
        is given.col_labels
        is given.row_order
        is given.col_order
        is None
    ):  # in one look: most calls have none
        return found
    for name, readers in READERS.items():
        row, col = getattr(given, f"row_{name}"), getattr(given, f"col_{name}")
        if row is None and col is None:
            if rules & readers:
                rule = f"keep={given.keep!r}, positives={given.positives!r}"
                missing = f"row_{name}" if square else f"row_{name} and col_{name}"
                raise ValueError(f"{rule} compare {name}: {missing} must be given")
            continue
        if not rules & readers:
            what = f"a keep or positives rule that compares {name}"
            raise ValueError(f"row_{name}, col_{name} must not be given without {what}: it would have no effect")
        if square and col is not None:
            raise ValueError(f"col_{name} must be None for b=None: columns are the rows and have row_{name}")
        if row is None or (col is None and not square):
            raise ValueError(f"row_{name} and col_{name} must be given together")
        if name == "order":
            same_kind(name, row, col)
        found[name] = Operand(prepared(f"row_{name}", name, row, n, device))
        if not square and not (col is row and n == sum(block.shape[-2] for block in blocks)):
            found[name] = columns(name, found[name].row, col, blocks, device)
    return found


def columns(name: str, row: Tensor | None, col: PerBlock, blocks: Sequence[Tensor], device: torch.device) -> Operand:
    """The operand with that of its columns, given for all blocks at once or block by block."""
    whole, sizes = f"col_{name}", [block.shape[-2] for block in blocks]
    if isinstance(col, Tensor):
        return Operand(row, matching(whole, name, row, prepared(whole, name, col, sum(sizes), device)))
    if not isinstance(col, (list, tuple)) or name == "order":
        wanted = "a tensor" if name == "order" else "a tensor or a list of tensors"
        raise TypeError(f"{whole} must be {wanted}, got {type(col).__name__}")
    if len(col) != len(blocks):
        raise ValueError(f"{whole} must have an entry for each of the {len(blocks)} blocks of b, got {len(col)}")
    parts = [
        None if x is None else prepared(f"{whole}[{k}]", name, x, size, device)
        for k, (x, size) in enumerate(zip(col, sizes, strict=True))
    ]
    assert row is not None
    for k, x in enumerate(parts):
        if x is not None:
            matching(f"{whole}[{k}]", name, row, x)
    filled = [row.new_zeros(size, *row.shape[1:]) if x is None else x for x, size in zip(parts, sizes, strict=True)]
    without = sum(1 << k for k, x in enumerate(parts) if x is None)
    if without.bit_length() > MOST_BLOCKS:
        raise ValueError(f"{whole} may be None for the first {MOST_BLOCKS} blocks of b alone, got {len(col)} blocks")
    return Operand(row, torch.cat(filled), without)


def partners(
    pairs: Any, keep: int, positives: int, n: int, m: int | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """partner and share as (n, count). m: columns; None: of all ranks, not known yet."""
    partner, share = pairs.partner, pairs.share
    if share is not None and (partner is None or not positives & PairTest.PARTNER):
        raise ValueError("share must not be given without positives='partner': it would have no effect")
    if not (keep | positives) & PARTNER_TESTS:
        if partner is not None:
            raise ValueError(
                "partner must not be given without a keep or positives rule that names it: it would have no effect"
            )
        return None, None
    if partner is None:
        raise ValueError("partner must be given with a rule that names it")
    partner = by_row("partner", partner, n, device)
    if partner.dtype.is_floating_point or partner.dtype == torch.bool:
        raise TypeError(f"partner must be a tensor of integers, got {partner.dtype}")
    partner = partner.long().contiguous()
    inside = partner >= -1
    check.condition(
        lambda: f"partner must lie in [-1, {'number of columns' if m is None else m}), -1 for none",
        inside if m is None else inside & (partner < m),
    )
    if share is None:
        return partner, None
    share = by_row("share", share, n, device)
    if not share.dtype.is_floating_point:
        raise TypeError(f"share must be floating point, got {share.dtype}")
    if share.shape != partner.shape:
        raise ValueError(f"share must have the shape of partner, {tuple(partner.shape)}, got {tuple(share.shape)}")
    if share.requires_grad:
        raise ValueError("share must not require grad: it has no gradient")
    return partner, share


def by_row(name: str, x: Any, n: int, device: torch.device) -> Tensor:
    """(n,) or (n, count) as (n, count)."""
    given = check.tensor(name, x)
    if given.dim() not in (1, 2) or given.shape[0] != n or given.shape[-1] == 0 < n:
        raise ValueError(f"{name} must have shape ({n},) or ({n}, count), got {tuple(given.shape)}")
    check.same_device(name, given, device)
    return given if given.dim() == 2 else given.unsqueeze(1)


def same_kind(name: str, row: Any, col: Any) -> None:
    """Integers and floating numbers have keys of their own."""
    if isinstance(row, Tensor) and isinstance(col, Tensor) and row.is_floating_point() != col.is_floating_point():
        raise TypeError(f"row_{name} and col_{name} must both be integers or both floating point")


def matching(full: str, name: str, row: Tensor | None, col: Tensor) -> Tensor:
    """The columns' operand, with as many words as the rows'."""
    assert row is not None
    if row.shape[1:] != col.shape[1:]:
        counts = [f"more than {WORD * (x.shape[1] - 1)}" for x in (col, row)]
        raise ValueError(f"{full} must have as many labels as row_{name}: {counts[0]} against {counts[1]}")
    return col


def prepared(full: str, name: str, x: Any, size: int, device: torch.device) -> Tensor:
    if name == "labels":
        return label_words(full, x, size, device)
    return order_keys(full, x, size, device) if name == "order" else check.ids(full, x, size, device)


def label_words(name: str, x: Any, size: int, device: torch.device) -> Tensor:
    """(size, L) bool as (size, words) int64, label l the bit l mod 64 of word l div 64."""
    given = check.label_sets(name, x, size, device)
    count = max(-(-given.shape[1] // WORD), 1)
    padded = given.new_zeros(size, count * WORD)
    padded[:, : given.shape[1]] = given
    bits = torch.ones((), dtype=torch.int64, device=device) << torch.arange(WORD, device=device)
    return (padded.view(size, count, WORD) * bits).sum(2)


def order_keys(name: str, x: Any, size: int, device: torch.device) -> Tensor:
    """int64 that compare as x does: integers as they are, floating numbers by their bits."""
    given = check.tensor(name, x)
    if not given.dtype.is_floating_point:
        return check.ids(name, given, size, device)
    numbers = check.vector(name, given, size, device).detach().double() + 0.0  # -0 becomes 0
    check.condition(f"{name} must not hold NaN", ~numbers.isnan())
    bits = numbers.view(torch.int64)
    return bits ^ ((bits >> 63) & torch.iinfo(torch.int64).max)  # of negative numbers more bits are less
