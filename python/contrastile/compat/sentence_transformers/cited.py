"""Classes under the name of the package's own that they stand in for: its model cards cite a loss by its module."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def cited(cls: Class) -> Class:
    """Puts a class in the module of the package's class of that name; instances are pickled by where it really is."""
    home = cls.__module__
    peers = import_module("sentence_transformers.sentence_transformer.losses")
    cls.__module__ = getattr(peers, cls.__name__).__module__

    def reduce(self: Any, protocol: int) -> tuple[Any, ...]:
        parts: Any = object.__reduce_ex__(self, max(protocol, 2))
        if type(self) is not cls:  # a class of the user's is found where it says
            return tuple(parts)
        return (unpickled, (home, cls.__name__), *parts[2:])

    setattr(cls, "__reduce_ex__", reduce)  # noqa: B010
    return cls


def unpickled(home: str, name: str) -> Any:
    cls = getattr(import_module(home), name)
    return cls.__new__(cls)
