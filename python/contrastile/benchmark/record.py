"""One measured candidate as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .machine import Machine

OK, SKIPPED, REFUSED, FAILED = "ok", "skipped", "refused", "failed"
NO_MEMORY, NO_TIME = "out of memory", "no time left"


@dataclass(frozen=True)
class Record:
    """A candidate on a problem; what was not measured is None."""

    loss: str
    variant: str
    mode: str  # "forward+backward" | "forward"
    n: int  # the size of the batch
    d: int
    k: int  # tensors of features, modalities or views
    dtype: str  # of the features; "tf32": float32 with products of that precision
    candidate: str
    package: str
    version: str | None  # of the package
    backend: str | None  # of contrastile
    outcome: str
    machine: Machine
    why: str | None = None  # of any other outcome than "ok"
    ms: float | None = None  # median
    samples: int | None = None
    tflops: float | None = None  # of the operations that the package's default method needs, for every candidate
    gemm_tflops: float | None = None  # of a large square matrix product, in the same turns
    of_gemm: float | None = None
    of_chunk_gemm: float | None = None  # of products with the shapes that the package's blocks have
    peak_bytes: int | None = None  # beyond the inputs
    error: float | None = None  # the largest relative error of value and feature gradients
    checked_n: int | None = None  # the batch on which it was found

    @property
    def problem(self) -> tuple[Any, ...]:
        """Equal for candidates that were measured side by side."""
        machine = self.machine
        return (self.loss, self.variant, self.mode, self.dtype, self.d, self.k, self.n, machine.device, machine.threads)

    @property
    def series(self) -> tuple[Any, ...]:
        """Equal for one candidate at all sizes."""
        return (*self.problem[:6], *self.problem[7:], self.candidate)

    def line(self) -> str:
        everything = asdict(self)
        return json.dumps(everything | everything.pop("machine"))


def parse(line: str) -> Record:
    """Raises: ValueError: not a record."""
    values = json.loads(line)
    try:
        machine = Machine(**{x.name: values.pop(x.name) for x in fields(Machine)})
        return Record(machine=machine, **values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a record of a benchmark: {line[:80]}") from error


def read(path: Path) -> list[Record]:
    """The last record of each candidate on each problem, in the order of the file; none if there is no file. One that
    says that no time was left replaces no other."""
    found: dict[tuple[Any, ...], Record] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        r = parse(line)
        key = (*r.problem, r.candidate)
        if r.outcome != NO_TIME or key not in found:
            found[key] = r
    return list(found.values())


def append(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(record.line() + "\n" for record in records)
