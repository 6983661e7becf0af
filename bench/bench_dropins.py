"""Drop-ins against the losses they stand in for: time in one process, peak memory in processes of their own.

Every ratio comes from runs in turn inside one process (measure.interleaved). A case is refused when its value is wrong.
Losses that are not installed are skipped: requirements-compat.txt has them. The kernels that need a GPU are not here.
"""

from __future__ import annotations

import pytest

from bench_figures import DTYPES, refuse_wrong_value
from dropins import DROPINS, LEARNED, peak_of
from measure import in_fresh_process, interleaved, step

D = 256
CASES = [(name, n) for name, dropin in DROPINS.items() for n in dropin.sizes]
PRELOAD = ("contrastile", "pytorch_metric_learning.losses", "sentence_transformers.sentence_transformer.losses")


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name, n", CASES)
def bench_dropin(benchmark, name: str, n: int, kind: str) -> None:
    """D = 256, forward and backward: ours over theirs; below 1 we are faster."""
    dropin = DROPINS[name]
    theirs, ours = dropin.make()
    inputs = dropin.draw(n, D, DTYPES[kind])
    refuse_wrong_value(ours(*inputs), theirs(*inputs), DTYPES[kind])
    runs = [step(lambda loss=loss: loss(*inputs), [*inputs, *LEARNED]) for loss in (theirs, ours)]
    other, own = interleaved(runs, rounds=15 if n == min(dropin.sizes) else 2)
    benchmark.group = f"dropins {kind} N={n} D={D}"
    benchmark.extra_info["ours_over_theirs"] = round(own / other, 2)
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
