"""What a stage is given: the device or what stands for it, sizes, its results; and how it measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from contrastile.cli.tune_measure import seconds_of

from .results import Results, described

DRY_ROWS = 64  # a multiple of 16, for which the kernels are specialised like for the real sizes
WARM_SECONDS, WARM_ROWS = 0.4, 8192  # products that bring the clocks to where load keeps them


@dataclass(frozen=True)
class Look:
    results: Results
    capability: tuple[int, int] = (9, 0)
    dry: bool = False  # nothing is launched: numbers mean nothing
    tiny: bool = False  # as little as shows that all of it works

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    def rows(self, n: int) -> int:
        return min(n, DRY_ROWS) if self.dry else n

    def some(self, choices: Any) -> Any:
        """All of them, or the first."""
        return choices[:1] if self.tiny else choices

    def warm_up(self) -> None:
        """Before anything is timed: an idle device has slow clocks."""
        if self.dry:
            return
        x = torch.ones(WARM_ROWS, WARM_ROWS, dtype=torch.bfloat16, device=self.device)
        end = time.monotonic() + WARM_SECONDS
        while time.monotonic() < end:
            for _ in range(10):
                x @ x
            torch.cuda.synchronize()

    def attempt(self, what: Callable[[], dict[str, Any]], **names: Any) -> dict[str, Any] | None:
        """Adds what it measured, or why it could not be. None: it failed."""
        try:
            found = {"outcome": "ok"} | what()
        except Exception as error:  # the next measurement may still work
            self.results.add(**names, outcome=outcome_of(error), why=described(error))
            return None
        self.results.add(**names, **found)
        return found


def outcome_of(error: Exception) -> str:
    skipped = type(error).__name__ in ("Skip", "BackendUnsupported")
    return "skipped" if skipped else "out of memory" if isinstance(error, torch.OutOfMemoryError) else "failed"


def milliseconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """Median over `repeats` samples, each long enough that the host's first launch does not count."""
    call()
    return 1e3 * seconds_of(call, repeats)


def peak_megabytes(call: Callable[[], Any]) -> float:
    """Beyond what is allocated before, which must hold no gradients that the call lets go of."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def graphed(call: Callable[[], Any]) -> Callable[[], None]:
    """Replays the call's kernels."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
