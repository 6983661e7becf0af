"""The stages, in order, with their limits and files; what the losses are run at."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS = 300.0  # of everything
LEAST_TESTS = 40.0  # seconds; with fewer left the tests are not begun
TESTS = 250
LOG = "log.txt"
KEPT_BUDGET = 9 << 30  # bytes, for the exponentials of the first workload
DTYPES = ("bfloat16", "float16", "float32")
SMALL = (512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Stage:
    """name: of the module here with `run(look)`. needs: background jobs that it waits for, for half of its limit
    and what no later stage may want."""

    name: str
    file: str
    seconds: float
    needs: tuple[str, ...] = ()


COMPILED = ("build", "kernels")  # free where they are done: objects and kernels are kept

STAGES = (
    Stage("toolchain", "machine.jsonl", 20.0),
    Stage("ceilings", "machine.jsonl", 25.0),
    Stage("right", "right.jsonl", 65.0, COMPILED),
    Stage("losses", "losses.jsonl", 40.0, COMPILED),
    Stage("levers", "levers.jsonl", 30.0, COMPILED),
    Stage("counters", "counters.jsonl", 35.0, COMPILED),
    Stage("small", "compare.jsonl", 25.0, COMPILED),
    Stage("peers", "compare.jsonl", 20.0, (*COMPILED, "wheels")),
    Stage("tests", "tests.jsonl", 600.0, (*COMPILED, "basis")),  # what is left
)


@dataclass(frozen=True)
class Workload:
    """A loss at full size. name, variant: of the catalog. checked: (rows, features) of the batches held against the
    reference, done at once and in steps; that of GRAM keeps vectors for every pair, so few features fit the memory."""

    name: str
    n: int
    d: int
    variant: str = "default"
    checked: tuple[tuple[int, int], tuple[int, int]] = ((1_000, 768), (5_003, 768))


WORKLOADS = (
    Workload("clip_loss", 65_536, 768),
    Workload("siglip_loss", 65_536, 768),
    Workload("nt_xent", 32_768, 768),
    Workload("gram_loss", 16_384, 512, "four", ((1_000, 512), (2_503, 128))),
)
