"""Structs of the native modules, laid out as the compiler says: filled here by name, copied by the native call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from struct import Struct, calcsize
from typing import Any, TypeAlias

KINDS = 512  # of structs, whose packers are kept
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


@lru_cache(KINDS)
def packer(
    module: Any, name: str, given: tuple[str, ...], fixed: tuple[tuple[str, Any], ...] = ()
) -> Callable[..., bytes]:
    """A function of the fields `given`, dotted where they are of a struct inside, that returns the struct's bytes, in
    which all other fields have their initial values, or those in `fixed`.

    One call of `struct.pack`: to fill fields by name takes as long as a small problem.
    """
    fresh, _ = layout = module.structs[name]
    if fixed:
        fresh = packer(module, name, tuple(field for field, _ in fixed))(*(x for _, x in fixed))
    places = {field: (letter, offset) for field, letter, offset in leaves(layout)}
    form, end = "=", 0
    values: list[str] = []
    known: dict[str, Any] = {}
    for number, field in sorted(enumerate(given), key=lambda x: places[x[1]][1]):
        letter, offset = places[field]
        if offset > end:  # what lies between is the same in every call
            known[f"fixed{end}"] = fresh[end:offset]
            form, values = f"{form}{offset - end}s", [*values, f"fixed{end}"]
        form, values, end = form + letter, [*values, f"x{number}"], offset + calcsize(f"={letter}")
    form, values = f"{form}{len(fresh) - end}s", [*values, "rest"]
    known |= {"rest": fresh[end:], "pack": Struct(form).pack}
    arguments = ", ".join(f"x{number}" for number in range(len(given)))
    function: Callable[..., bytes] = eval(f"lambda {arguments}: pack({', '.join(values)})", known)
    return function


def leaves(layout: Layout, before: str = "", start: int = 0) -> Iterator[tuple[str, str, int]]:
    """(dotted name, letter of `struct` with a standard size, offset) of every number."""
    for name, kind, offset, _ in layout[1]:
        if isinstance(kind, tuple):
            yield from leaves(kind, f"{before}{name}.", start + offset)
        else:
            yield before + name, "Q" if kind == "P" else kind, start + offset
