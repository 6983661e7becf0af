"""Counts machine instructions of a compiled kernel on the way that a tile without an edge takes.

That way is the shortest through the kernel's branches: blocks for edges and for the diagonal are jumped over. It passes
all loops with tensor-core instructions, whose own instructions are left out: they belong to the products. Every other
loop counts once, a subroutine not at all.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SHORT = 32  # instructions: a jump over fewer is a store that some threads do not take, and counts as not taken
WARP = 32  # threads
TENSOR = re.compile(r"HGMMA|HMMA|UTC\w*MMA")
LINE = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z]\w*(?:\.\w+)*)\s*(.*)")
LABEL = re.compile(r"(\.L_x_\d+)")


class Instruction(NamedTuple):
    guard: str | None
    name: str
    operands: str

    @property
    def conditional(self) -> bool:
        return self.guard is not None or "," in self.operands


class Code(NamedTuple):
    instructions: list[Instruction]
    labels: dict[str, int]  # places in the list

    def target(self, at: int) -> int | None:
        """Where the instruction may jump to."""
        found = self.instructions[at]
        label = LABEL.search(found.operands) if found.name.split(".")[0] == "BRA" else None
        return None if label is None else self.labels[label[1]]

    def next(self, at: int) -> Iterator[int]:
        """What may follow an instruction."""
        found, target = self.instructions[at], self.target(at)
        name = found.name.split(".")[0]
        jumps = name in ("EXIT", "RET", "BRA") and not found.conditional
        if target is not None and (jumps or not at < target <= at + SHORT):
            yield target
        if not jumps:
            yield at + 1

    def shortest(self, start: int, end: int | None) -> list[int]:
        """The instructions from `start` to before `end`, or to the end of the kernel: an exit that only some take is
        passed where another follows."""
        reached, before, queue = {start: 0}, {start: start}, [(0, start)]
        exits = []
        while queue:
            length, at = heapq.heappop(queue)
            if at == end:
                return path(before, at)[:-1]
            found = self.instructions[at]
            if found.name == "EXIT":
                exits.append((found.conditional, length, at))
            for new in self.next(at):
                if length + 1 < reached.get(new, length + 2):
                    reached[new], before[new] = length + 1, at
                    heapq.heappush(queue, (length + 1, new))
        if end is not None or not exits:
            raise ValueError("no way leads there")
        return path(before, min(exits)[2])

    def product_loops(self) -> list[tuple[int, int]]:
        """(first, last) of the innermost loops around tensor-core instructions, in their order."""
        jumps = [(self.target(at), at) for at in range(len(self.instructions))]
        loops = [(target, at) for target, at in jumps if target is not None and target < at]
        found = set()
        for at, x in enumerate(self.instructions):
            if TENSOR.match(x.name):
                around = [loop for loop in loops if loop[0] <= at <= loop[1]]
                found.add(min(around, key=lambda loop: loop[1] - loop[0], default=(at, at)))
        return sorted(found)


def path(before: dict[int, int], at: int) -> list[int]:
    found = [at]
    while before[at] != at:
        at = before[at]
        found.append(at)
    return found[::-1]


@dataclass(frozen=True)
class Way:
    """Instructions by name, without their suffixes."""

    before: Counter[str]  # the first product
    after: Counter[str]  # it, those of products left out
    static: int  # all of the kernel after the first product, on this way or not

    def per_pair(self, rows: int, cols: int, warps: int, *names: str) -> float:
        """Instructions after the first product, of these names or of all, that a pair of the tile costs."""
        count = sum(self.after[name] for name in names) if names else sum(self.after.values())
        return count * warps * WARP / (rows * cols)


def parsed(text: str) -> Code:
    """Of what nvdisasm -c prints."""
    instructions, labels = [], {}
    for line in text.splitlines():
        if found := LINE.match(line):
            instructions.append(Instruction(*found.groups()))
        elif (label := LABEL.match(line)) and line.rstrip().endswith(":"):
            labels[label[1]] = len(instructions)
    return Code(instructions, labels)


def way(text: str) -> Way:
    code = parsed(text)
    loops = code.product_loops()
    if not loops:
        raise ValueError("no tensor-core instructions")
    before = code.shortest(0, loops[0][0])
    after: list[int] = []
    for (_, last), following in zip(loops, [*loops[1:], (None, None)], strict=True):
        after += code.shortest(last + 1, following[0])

    def counted(places: list[int]) -> Counter[str]:
        return Counter(code.instructions[at].name.split(".")[0] for at in places)

    products = sum(last - first + 1 for first, last in loops[1:])
    return Way(counted(before), counted(after), len(code.instructions) - loops[0][1] - 1 - products)
