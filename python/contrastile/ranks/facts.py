"""What all ranks must agree on, and how a value reads to those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fact:
    """One value of a call, which must be equal on all ranks."""

    code: int  # what travels
    show: Callable[[int], str]  # any rank's code, in words
    of_arguments: bool = False  # better told by the names of the user's arguments, see agreement.Call


def fact(value: Fact | int) -> Fact:
    """Numbers and bools read as they are."""
    if isinstance(value, Fact):
        return value
    return Fact(int(value), (lambda code: str(bool(code))) if isinstance(value, bool) else str)


def given(value: object) -> Fact:
    """Whether an optional argument is there."""
    return Fact(value is not None, lambda code: "given" if code else "not given")


def one_of(value: object, options: Sequence[Any]) -> Fact:
    """Which of the options it is."""
    return Fact(list(options).index(value), lambda code: repr(options[code]))


def size_of(value: Any, dim: int) -> Fact:
    """The size of an optional tensor in one dimension."""
    return Fact(-1 if value is None else int(value.shape[dim]), lambda code: "not given" if code < 0 else str(code))


def some_of(names: Sequence[str], flags: Sequence[bool], of_arguments: bool = False) -> Fact:
    """Which of the names are flagged."""
    code = sum(flag << place for place, flag in enumerate(flags))
    return Fact(code, lambda code: listed([n for place, n in enumerate(names) if code >> place & 1]), of_arguments)


def listed(names: Sequence[str]) -> str:
    return " and ".join(names) or "none"
