"""The stages, in order, with their limits and files; what the losses are run at."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS = 300.0  # of everything
LEAST_TESTS = 15.0  # seconds; with fewer left the tests are not begun
TESTS = 250
LOG = "log.txt"
DTYPES = ("bfloat16", "float16", "float32")
SMALL = (512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Stage:
    """name: of the module here with `run(look)`. needs: background jobs that it waits for, within its limit."""

    name: str
    file: str
    seconds: float
    needs: tuple[str, ...] = ()


STAGES = (
    Stage("toolchain", "machine.jsonl", 20.0),
    Stage("ceilings", "machine.jsonl", 25.0),
    Stage("right", "right.jsonl", 65.0, ("build", "kernels")),
    Stage("losses", "losses.jsonl", 45.0),
    Stage("levers", "levers.jsonl", 35.0),
    Stage("counters", "counters.jsonl", 35.0),
    Stage("small", "compare.jsonl", 30.0),
    Stage("peers", "compare.jsonl", 25.0, ("wheels",)),
    Stage("tests", "tests.jsonl", 600.0, ("basis",)),  # what is left
)


@dataclass(frozen=True)
class Workload:
    """A loss at full size. name, variant: of the catalog. checked: batches held against the reference, done at once and
    in steps; that of GRAM decomposes a matrix for every pair, which takes long."""

    name: str
    n: int
    d: int
    variant: str = "default"
    checked: tuple[int, int] = (1_000, 5_003)


WORKLOADS = (
    Workload("clip_loss", 65_536, 768),
    Workload("siglip_loss", 65_536, 768),
    Workload("nt_xent", 32_768, 768),
    Workload("gram_loss", 16_384, 512, "four", (1_000, 2_503)),
)
