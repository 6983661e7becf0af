"""A plugin of pytest: the native CPU module of the file CONTRASTILE_RECORDED stands for the installed one, and what
its kernels are given and leave behind is written to the file CONTRASTILE_CALLS, for another machine to repeat
(replay.cpp).

A record, little-endian: kernel, structs, bytes of a struct, pointers, regions, halves (int32 each); the structs; for
each pointer its place in them, its region and its distance from the region's start (int64); for each region its type
(0 bytes, 1 float32, 2 bfloat16) and size (int64), its bytes before the call and after it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import struct
import sys
from collections import Counter
from typing import Any

import torch

KERNELS = ("stats", "score_grad", "small_call", "segment_maxima", "segment_softmax", "segment_score_grad",
           "segment_max_gradients", "gemm", "pack", "basis")  # fmt: skip
STRUCTS = {"stats": "Block", "score_grad": "Block", "small_call": "SmallCall"}  # of the others: SegmentScores
# of kernels that take no struct: the words that are addresses
POINTERS = {"gemm": (0, 3, 6), "pack": (0, 4), "basis": (*range(16), 22, 23)}
TYPES = {torch.float32: 1, torch.bfloat16: 2}
LARGEST = 1 << 19  # bytes of a record
EACH = 3  # calls of a kernel that are kept of a test

spec = importlib.util.spec_from_file_location("contrastile._cpu", os.environ["CONTRASTILE_RECORDED"])
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["contrastile._cpu"] = module

file = open(os.environ["CONTRASTILE_CALLS"], "wb")
seen: dict[tuple[int, int], int] = {}  # (first byte, size) and type of the memory whose address was asked for
kept: Counter[str] = Counter()
written: Counter[str] = Counter()
data_ptr = torch.Tensor.data_ptr


def watched_data_ptr(x: torch.Tensor) -> int:
    if x.device.type == "cpu" and x.numel():
        storage = x.untyped_storage()
        start, size = storage.data_ptr(), storage.nbytes()
        for other in [(first, length) for first, length in seen if first < start + size and start < first + length]:
            del seen[other]  # memory that was given back
        seen[start, size] = TYPES.get(x.dtype, 0)
    return data_ptr(x)


torch.Tensor.data_ptr = watched_data_ptr  # type: ignore[method-assign]


def pointers(layout: Any, start: int = 0) -> list[int]:
    """Places of a struct's addresses."""
    found = []
    for _, kind, offset, count in layout[1]:
        if isinstance(kind, tuple):
            found += pointers(kind, start + offset)
        elif kind == "P":
            found += [start + offset + 8 * i for i in range(count)]
    return found


def described(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[bytes], list[int]]:
    """The call's structs, and the places of addresses in them."""
    if name in POINTERS:
        words = (*args, *kwargs.values()) if name != "basis" else basis_words(*args)
        return [struct.pack(f"<{len(words)}q", *words)], [8 * i for i in POINTERS[name]]
    structs = args[0] if name in ("stats", "score_grad") else args
    raw = [bytes(x) for x in structs]
    places = pointers(module.structs[STRUCTS.get(name, "SegmentScores")])
    return raw, [i * len(raw[0]) + place for i in range(len(raw)) for place in places]


def basis_words(vectors: list[int], grads: list[int], *rest: int) -> tuple[int, ...]:
    """Room for as many as there can be, how many there are, and the rest."""
    padded = [x + [0] * (module.largest_basis - len(x)) for x in (vectors, grads)]
    return (*padded[0], *padded[1], len(vectors), len(grads), *rest)


def recorded(name: str, kernel: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        structs, places = described(name, args, kwargs)
        raw, memory = b"".join(structs), sorted(seen.items())
        relocations, regions = [], {}
        for place in places:
            (address,) = struct.unpack_from("<Q", raw, place)
            owner = next((x for x in memory if x[0][0] <= address < x[0][0] + x[0][1]), None)
            if owner is not None:
                number = regions.setdefault(owner, len(regions))
                relocations.append((place, number, address - owner[0][0]))
            elif address:
                return kernel(*args, **kwargs)  # memory of unknown size
        if kept[name] >= EACH or sum(size for (_, size), _ in regions) > LARGEST:
            return kernel(*args, **kwargs)
        before = [ctypes.string_at(start, size) for (start, size), _ in regions]
        result = kernel(*args, **kwargs)
        halves = any(kind == 2 for _, kind in regions)
        header = (KERNELS.index(name), len(structs), len(structs[0]), len(relocations), len(regions), halves)
        file.write(struct.pack("<6i", *header) + raw)
        file.writelines(struct.pack("<3q", *x) for x in relocations)
        for ((start, size), kind), old in zip(regions, before, strict=True):
            file.write(struct.pack("<2q", kind, size) + old + ctypes.string_at(start, size))
        kept[name] += 1
        written[name] += 1
        return result

    return call


for name in KERNELS:
    setattr(module, name, recorded(name, getattr(module, name)))


def pytest_runtest_setup() -> None:
    kept.clear()
    seen.clear()


def pytest_sessionfinish() -> None:
    file.close()
    print(f"\nrecorded: {dict(written)}")
