"""What the examples share beside their subject: options, progress, the verdict and the picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rival:
    """What a trained model is compared with; margin: by how much it must be better, None where it is only printed."""

    name: str
    value: float
    margin: float | None = None


def options(description: str, *, steps: int, batch_size: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=steps, help="default: %(default)s; 0 shows the metric fail")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and batches (default: 0)")
    parser.add_argument("--plot", type=Path, help="write loss and result to this file (.svg, .png)")
    return parser


def progress(step: int, steps: int, loss: float) -> None:
    """Prints about five lines of a whole training."""
    if (step + 1) % max(1, steps // 5) == 0:
        print(f"step {step + 1:4d}   loss {loss:.3f}", flush=True)


def verdict(metric: str, value: float, rivals: Sequence[Rival]) -> int:
    """Prints how the model did; the exit code of the script: 0 if it beats every rival by its margin, else 1."""
    passed = True
    print(f"\n{metric}: {value:.1%}")
    for rival in rivals:
        line = f"  {rival.name:<44} {rival.value:6.1%}   better by {100 * (value - rival.value):5.1f} points"
        if rival.margin is not None:
            enough = value - rival.value >= rival.margin
            passed &= enough
            line += f", margin {100 * rival.margin:.0f}: {'reached' if enough else 'MISSED'}"
        print(line)
    print("PASSED" if passed else "FAILED")
    return 0 if passed else 1


def save_plot(path: Path, metric: str, value: float, rivals: Sequence[Rival], losses: Sequence[float]) -> None:
    """The training loss, and the metric beside its rivals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    curve, bars = figure.subplots(1, 2)
    curve.plot(losses, color="#2166ac")
    curve.set(xlabel="step", ylabel="loss")
    names = ["trained", *(rival.name for rival in rivals)]
    values = [100 * x for x in (value, *(rival.value for rival in rivals))]
    drawn = bars.barh(names, values, color=["#2166ac", *["#bbbbbb"] * len(rivals)])
    bars.bar_label(drawn, fmt="%.1f", padding=3)
    bars.invert_yaxis()
    bars.set(xlabel=f"{metric} (%)", xlim=(0, 1.15 * max(values)))
    for panel in (curve, bars):
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
