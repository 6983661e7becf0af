"""Python written for calls of one kind: what a launch needs again and again is in its source, so that a call looks for
nothing and joins nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Code(str):
    """An expression, in the place of its value."""


class Script:
    """The source of a function, line by line."""

    def __init__(self, parameters: str, **known: Any) -> None:
        """known: what its lines call by these names."""
        self.known, self.lines = dict(known), [f"def run({parameters}):"]

    def add(self, line: str) -> None:
        self.lines.append(line)

    def unpack(self, names: Sequence[str], source: str) -> None:
        if names:
            self.add(f"{''.join(f'{name}, ' for name in names)}= {source}")

    def text(self, x: Any) -> str:
        """x in the source: Code as it is, also within tuples, which become plain ones; all else by a name."""
        if isinstance(x, Code):
            return x
        if isinstance(x, tuple):
            return f"({''.join(f'{self.text(each)}, ' for each in x)})"
        if x is None or type(x) in (int, bool):
            return repr(x)
        return self.name(x)

    def name(self, x: Any) -> str:
        self.known[name := f"k{len(self.known)}"] = x
        return name

    def function(self) -> Callable[..., Any]:
        found: dict[str, Callable[..., Any]] = {}
        exec("\n    ".join(self.lines), self.known, found)
        return found["run"]
