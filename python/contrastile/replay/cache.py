"""The recordings of a function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple
from weakref import WeakSet

from .guard import guarded
from .recorder import RECORDER, Recorder

MOST_KINDS = 256  # of one function's calls
Call = Callable[..., Any]


class Kind(NamedTuple):
    """What is known of calls of a kind."""

    recorded: Call | None  # of the tensors and generators in the arguments; None: nothing can be


class Cache:
    """Calls of a function, from the third of a kind on by what the second was seen to do.

    general: the function, for calls that are not recorded.
    """

    every: ClassVar[WeakSet[Cache]] = WeakSet()

    def __init__(self, function: Call, general: Call) -> None:
        self.function, self.general = function, general
        self.kinds: dict[Hashable, Kind | None] = {}  # None: seen once
        self.every.add(self)

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if RECORDER.get() is not None or (found := guarded(args, kwargs)) is None:
            return self.general(*args, **kwargs)
        kind, inputs = found
        known = self.kinds.get(kind)
        if known is not None:
            return self.function(*args, **kwargs) if known.recorded is None else known.recorded(*inputs)
        if kind in self.kinds:
            return self.record(kind, inputs, args, kwargs)
        if len(self.kinds) >= MOST_KINDS:  # a number that changes from call to call makes a kind each time
            self.kinds.clear()
        self.kinds[kind] = None
        return self.function(*args, **kwargs)

    def record(self, kind: Hashable, inputs: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        recorder = Recorder(inputs)
        token = RECORDER.set(recorder)
        try:
            with recorder:
                value = self.function(*args, **kwargs)
        finally:
            RECORDER.reset(token)
        self.kinds[kind] = Kind(recorder.function(value))
        return value
