"""What one object or module has, replaced and given back: for packages whose models compute their loss themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

Self = TypeVar("Self", bound="InstancePatch")


class InstancePatch:
    """What patch() replaced. undo() gives the object its class's methods back; it is also a context manager."""

    def __init__(self, target: Any, methods: Mapping[str, Callable[..., Any]], replace: bool = False) -> None:
        """replace: the target, a module, has these names itself."""
        for name, method in methods.items():
            if (name in vars(target)) != replace or vars(target).get(name) is method:
                state = "missing" if replace and name not in vars(target) else "wrapped or patched already"
                raise ValueError(f"{name} of this {type(target).__name__} is {state}")
        self.target = target
        self.methods = methods
        self.before = {name: vars(target)[name] for name in methods} if replace else {}
        for name, method in methods.items():
            setattr(target, name, method)

    def undo(self) -> None:
        """Of this patch alone: what has been replaced since stays."""
        for name, method in self.methods.items():
            if vars(self.target).get(name) is not method:
                continue
            if name in self.before:
                setattr(self.target, name, self.before[name])
            else:
                delattr(self.target, name)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"InstancePatch({type(self.target).__name__}: {', '.join(self.methods)})"


def written_in(package: str, target: Any, methods: Iterable[str]) -> None:
    """Refuses an object whose methods are not that package's: another score or loss would be replaced, too."""
    for name in methods:
        found = inspect.unwrap(getattr(type(target), name, None) or type(None))
        if not f"{getattr(found, '__module__', '')}.".startswith(f"{package}."):
            raise ValueError(f"{type(target).__name__}.{name} is not {package}'s own: its loss cannot be replaced")
