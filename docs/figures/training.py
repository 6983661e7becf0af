"""A training run with the dense loss and with this package's, from the committed lines of bench/parity.py."""

import json
from pathlib import Path

from matplotlib import pyplot as plt

from palette import INK, PULL, PUSH, THIRD

LINES = Path(__file__).parents[2] / "bench/results/parity/cpu-zen4.jsonl"
EACH = 10
COLOURS = {"dense": INK, "dense, rows permuted": THIRD, "contrastile.clip_loss": PULL}


def parity() -> plt.Figure:
    runs = {}
    for line in LINES.read_text().splitlines():
        run = json.loads(line)
        runs.setdefault(run["dtype"], {})[run["loss"]] = run["values"]
    figure, (curve, *panels) = plt.subplots(1, 3, figsize=(8.5, 2.9), layout="constrained")
    for loss, dash in (("dense", "-"), ("contrastile.clip_loss", (0, (4, 4)))):
        curve.plot(runs["float32"][loss], color=(INK if loss == "dense" else PUSH), linestyle=dash, label=loss)
    curve.set(title="loss, float32", xlabel="step", ylim=(0, None))
    curve.legend(fontsize=8)
    for panel, (dtype, found) in zip(panels, runs.items(), strict=True):
        for loss, values in found.items():
            if loss != "dense":
                off = [abs(x - y) for x, y in zip(values, found["dense"], strict=True)]
                worst = [max(off[step : step + EACH]) for step in range(0, len(off), EACH)]
                panel.semilogy(range(0, len(off), EACH), worst, color=COLOURS[loss], label=loss)
        panel.set(title=f"largest difference from dense\nof {EACH} steps, {dtype}", xlabel="step")
    panels[1].legend(fontsize=8, loc="lower right")
    return figure
