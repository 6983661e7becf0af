"""The demo's three figures. matplotlib is imported where used: it is an optional package."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contrastile.cli.demo_train import Outcome
from contrastile.cli.demo_views import VIEWS, ViewsOutcome
from contrastile.cli.memory_probe import FEATURES, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY = "#2166ac", "#d95f02", "#666666"
_BAR_COLORS = ("#2166ac", "#5aae61", "#d95f02", "#9970ab", "#878787")
_COLUMNS = 5
_MIB = 2**20


def save_losses(outcomes: Sequence[Outcome], chance: float, path: Path) -> None:
    """One small panel per loss: training loss against epoch."""
    rows = math.ceil(len(outcomes) / _COLUMNS)
    figure = _new_figure(width=13.0, height=2.6 * rows + 0.9)
    figure.suptitle(
        "Training loss, mean over all pairs of views of the handwritten digits\n"
        f"recall@1: held-out scans, untrained → trained (chance {chance:.2%})",
        fontsize=12,
    )
    axes = figure.subplots(rows, _COLUMNS, sharex=True, squeeze=False)
    for position, panel in enumerate(axes.flat):
        if position < len(outcomes):
            _draw_curve(panel, outcomes[position])
        else:
            panel.set_visible(False)
    for panel in axes[:, 0]:
        panel.set_ylabel("loss")
    for panel in axes[-1]:
        panel.set_xlabel("epoch")
    figure.savefig(path)


def _draw_curve(panel: "Axes", outcome: Outcome) -> None:
    epochs = range(1, len(outcome.curve) + 1)
    panel.plot(epochs, outcome.curve, color=_BLUE, linewidth=1.8)
    panel.set_title(outcome.name, fontsize=11, fontweight="bold")
    panel.text(
        0.96,
        0.93,
        f"recall@1\n{outcome.before.same_scan:.1%} → {outcome.after.same_scan:.1%}",
        transform=panel.transAxes,
        horizontalalignment="right",
        verticalalignment="top",
        color=_GREY,
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )
    _tidy(panel)


def save_views(outcomes: Sequence[ViewsOutcome], chance: float, path: Path) -> None:
    """Recall of the missing view as bars: a group per view, a colour per loss."""
    figure = _new_figure(width=8.5, height=4.8)
    panel = figure.subplots()
    width = 0.8 / len(outcomes)
    for index, outcome in enumerate(outcomes):
        places = [group + (index - (len(outcomes) - 1) / 2) * width for group in range(len(VIEWS))]
        heights = [100 * outcome.after[name] for name in VIEWS]
        color = _BAR_COLORS[index % len(_BAR_COLORS)]
        bars = panel.bar(places, heights, 0.92 * width, color=color, label=outcome.name)
        panel.bar_label(bars, fmt="%.0f", padding=2, fontsize=8, color=_GREY)
    panel.axhline(100 * chance, color="black", linewidth=1.0, linestyle="--", label=f"chance, {chance:.2%}")
    panel.set_xticks(range(len(VIEWS)), [f"find the {name}" for name in VIEWS])
    panel.set_ylim(0, 108)
    panel.set_ylabel("recall@1 (%)")
    panel.set_title(
        "Three views of held-out handwritten digits: the third from the other two\n"
        "one seed, round temperatures: shows that each loss learns, not which is best",
        fontsize=11,
    )
    _tidy(panel)
    figure.legend(loc="outside lower center", ncols=len(outcomes) + 1, frameon=False, fontsize=9)
    figure.savefig(path)


def save_memory(measured: dict[str, Series], path: Path) -> None:
    """Peak extra memory against batch size, both logarithmic, one line per implementation."""
    figure = _new_figure(width=7.5, height=5.0)
    panel = figure.subplots()
    styles = {
        "dense": (_ORANGE, "s", "dense: N × N logits in PyTorch"),
        "contrastile": (_BLUE, "o", "contrastile.clip_loss"),
    }
    for implementation, series in measured.items():
        color, marker, label = styles[implementation]
        sizes = [peak / _MIB for peak in series.values()]
        panel.plot(list(series), sizes, color=color, marker=marker, linewidth=1.8, label=label)
        _label_last_point(panel, series, color)
    _scale_memory_axes(panel, sorted({rows for series in measured.values() for rows in series}))
    panel.set_title(
        "Memory of one CLIP loss, forward and backward\n"
        f"CPU, float32, {FEATURES} features; peak beyond the inputs, gradients included",
        fontsize=11,
    )
    panel.legend(loc="upper left", frameon=False)
    figure.savefig(path)


def _label_last_point(panel: "Axes", series: Series, color: str) -> None:
    for rows, peak in list(series.items())[-1:]:  # none where nothing could be measured
        panel.annotate(
            f"{peak / _MIB:,.0f} MiB",
            (rows, peak / _MIB),
            xytext=(8, -4),
            textcoords="offset points",
            color=color,
        )


def _scale_memory_axes(panel: "Axes", ticks: list[int]) -> None:
    from matplotlib.ticker import LogLocator

    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.set_xticks(ticks, [f"{rows:,}" for rows in ticks])
    panel.minorticks_off()
    panel.yaxis.set_major_formatter(lambda mebibytes, _: f"{mebibytes:,g}")
    panel.margins(x=0.14)  # room for the last labels
    panel.set_xlabel("batch size N (pairs)")
    panel.set_ylabel("peak extra memory (MiB)")
    _tidy(panel)


def _new_figure(width: float, height: float) -> "Figure":
    # a Figure of its own, not pyplot: no display and no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _tidy(panel: "Axes") -> None:
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
