"""Drop-ins against the losses they stand in for: time in one process, peak memory in processes of their own.

Every ratio comes from runs in turn inside one process (measure.interleaved). A case is refused when its value is wrong.
Losses that are not installed are skipped: requirements-compat.txt has them. The kernels that need a GPU are not here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from bench_figures import DTYPES, refuse_wrong_value
from dropins import DROPINS, LEARNED, Loss, peak_of
from measure import in_fresh_process, interleaved, step

D = 256
CASES = [(name, n) for name, dropin in DROPINS.items() for n in dropin.sizes]
PRELOAD = ("contrastile", "pytorch_metric_learning.losses", "sentence_transformers.sentence_transformer.losses")


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name, n", CASES)
def bench_dropin(benchmark, name: str, n: int, kind: str) -> None:
    """D = 256, forward and backward: ours over theirs; below 1 we are faster.

    At the larger size a run takes seconds: one of each, warmed up on few rows.
    """
    dropin, small = DROPINS[name], n == min(DROPINS[name].sizes)
    values: dict[int, Tensor] = {}

    def run(which: int, loss: Loss, inputs: list[Tensor]) -> Callable[[], None]:
        def value() -> Tensor:
            found = loss(*inputs)
            values[which] = found.detach()
            return found

        return step(value, [*inputs, *LEARNED])

    losses = dropin.make()
    for rows, rounds in (64, 1), (n, 9 if small else 1):
        inputs = dropin.draw(rows, D, DTYPES[kind])
        runs = [run(which, loss, inputs) for which, loss in enumerate(losses)]
        theirs, ours = interleaved(runs, rounds, warm_up=small)
        refuse_wrong_value(values[1], values[0], DTYPES[kind])
    benchmark.group = f"dropins {kind} N={n} D={D}"
    benchmark.extra_info["ours_over_theirs"] = round(ours / theirs, 2)
    benchmark.pedantic(runs[1], rounds=1)


@pytest.mark.parametrize("name, n", CASES)
def bench_dropin_peak_memory(benchmark, name: str, n: int) -> None:
    """D = 256, float32, fresh processes: peak memory beyond the inputs."""
    DROPINS[name].make()  # skips where theirs is missing
    benchmark.group = f"dropins peak memory N={n} D={D} fp32"

    def measured(which: int) -> float:
        return round(in_fresh_process(peak_of, name, which, n, D, DTYPES["fp32"], preload=PRELOAD) / 1e6, 1)

    benchmark.extra_info["peak_mb_theirs"] = measured(0)
    benchmark.extra_info["peak_mb_ours"] = benchmark.pedantic(measured, args=(1,), rounds=1)
