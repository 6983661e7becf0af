"""Structs of the native modules, laid out as the compiler says: filled here by name, copied by the native call."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, TypeAlias

Field: TypeAlias = "tuple[str, str | Layout, int, int]"  # name, letter of `struct` or a struct, offset, count
Layout: TypeAlias = "tuple[bytes, tuple[Field, ...]]"  # a fresh struct's bytes, its fields

TYPES: dict[str, type[Any]] = {
    "?": ctypes.c_bool,
    "i": ctypes.c_int32,
    "q": ctypes.c_int64,
    "f": ctypes.c_float,
    "P": ctypes.c_void_p,
}


def new(module: Any, name: str) -> Any:
    """The module's struct of this name with its initial values; common/pairs.h, cpu/block.h and cuda/api.h in csrc
    document the fields. No other attribute can be set."""
    struct, fresh = struct_of(module, name)
    return struct.from_buffer_copy(fresh)


@cache
def struct_of(module: Any, name: str) -> tuple[type[ctypes.Structure], bytes]:
    layout: Layout = module.structs[name]
    return made(layout), layout[0]


@cache
def made(layout: Layout) -> type[ctypes.Structure]:
    """One class for each layout, so that a struct fits where it is a field of another."""
    fresh, fields = layout
    types = {name: made(kind) if isinstance(kind, tuple) else TYPES[kind] for name, kind, *_ in fields}
    listed = [(name, types[name] * count if count > 1 else types[name]) for name, _, _, count in fields]
    struct = type("Struct", (ctypes.Structure,), {"__slots__": (), "_fields_": listed})
    offsets = [getattr(struct, name).offset for name, *_ in fields]
    if offsets != [offset for *_, offset, _ in fields] or ctypes.sizeof(struct) != len(fresh):
        raise ImportError(f"the native module and ctypes disagree on the layout of {[name for name, *_ in fields]}")
    return struct
