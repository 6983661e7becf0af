"""The recordings of a function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from .guard import guarded
from .recorder import RECORDER, Recorder

MOST_KINDS = 256  # of one function's calls
Call = Callable[..., Any]


class Kind(NamedTuple):
    """What is known of calls of a kind."""

    recorded: Call | None  # of the tensors and generators in the arguments; None: nothing can be


class Cache:
    """Calls of a function, from the third of a kind on by what the second was seen to do."""

    def __init__(self, function: Call) -> None:
        self.function = function
        self.kinds: dict[Hashable, Kind | None] = {}  # None: seen once

    def __call__(self, kind: Hashable, inputs: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
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


# not beside the functions, as attributes or in closures: torch.export would have to hold them in graphs
CACHES: dict[Call, Cache] = {}


def recorded_call(function: Call, general: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """function(*args, **kwargs). general: the same, of arguments of any kind."""
    if RECORDER.get() is not None or (found := guarded(args, kwargs)) is None:
        return general(*args, **kwargs)
    cache = CACHES.get(function)
    if cache is None:
        cache = CACHES[function] = Cache(function)
    return cache(*found, args, kwargs)
