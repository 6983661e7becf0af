"""Time and memory against the batch, both logarithmic; a package has one colour everywhere.

matplotlib is imported where it is used: it is an optional package. Backgrounds are transparent and texts are grey, so
that a figure can be read on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .record import OK, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {  # package: colour, marker
    "contrastile": ("#1c7ed6", "o"),
    "dense torch": ("#868e96", "s"),
    "torch.compile": ("#b08900", "D"),
    "torch": ("#a0703c", "P"),
    "open_clip": ("#e8590c", "^"),
    "sentence-transformers": ("#d6336c", "v"),
    "lightly": ("#37a24a", "<"),
    "pytorch-metric-learning": ("#ae3ec9", ">"),
    "info-nce-pytorch": ("#0c9baf", "p"),
    "infonce": ("#e8890c", "h"),
    "symile": ("#e03131", "X"),
    "GRAM (official)": ("#7950f2", "d"),
    "Multi-View-CL (official)": ("#f06595", "*"),
    "memeff": ("#e64980", "1"),
    "siglip-kernel": ("#f08c00", "2"),
    "inf-cl": ("#4263eb", "3"),
    "liger-kernel": ("#66a80f", "4"),
    "cut-cross-entropy": ("#9c36b5", "+"),
}
OTHER = ("#868e96", "x")
DASHES = ("-", "--", ":", "-.")  # candidates of one package
GREY = "#808488"
PANELS: tuple[tuple[str, Callable[[Record], float | None]], ...] = (
    ("time of a step (ms)", lambda r: r.ms),
    ("peak memory beyond the inputs (MB)", lambda r: r.peak_bytes and r.peak_bytes / 1e6),
)


def save(groups: dict[str, Sequence[Record]], path: Path) -> None:
    """A column of panels, two for each title, narrow enough for a phone; the file's ending says the format."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # one file for one set of figures: ids in it come from a salt, not from chance
    with rc_context({"svg.hashsalt": "contrastile", "svg.fonttype": "none", "font.family": "sans-serif"}):
        count = len(groups) * len(PANELS)
        figure = Figure(figsize=(5.4, 3.3 * count + 1.0), dpi=110, layout="constrained")  # no display, no pyplot
        FigureCanvasAgg(figure)
        panels = iter(figure.subplots(count, 1, squeeze=False)[:, 0])
        for title, records in groups.items():
            for label, figure_of in PANELS:
                draw(next(panels), f"{title}\n{label}", series(records, figure_of))
        legend(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None)


Series = dict[tuple[str, str], list[tuple[int, float]]]  # (package, candidate): points


def series(records: Sequence[Record], figure_of: Callable[[Record], float | None]) -> Series:
    found: Series = {}
    for record in records:
        value = figure_of(record)
        if record.outcome == OK and value:
            found.setdefault((record.package, record.candidate), []).append((record.n, value))
    return {name: sorted(points) for name, points in found.items()}


def draw(panel: Axes, title: str, lines: Series) -> None:
    drawn: dict[str, int] = {}
    for (package, candidate), points in lines.items():
        color, marker = STYLES.get(package, OTHER)
        index = drawn[package] = drawn.get(package, -1) + 1
        panel.plot(
            *zip(*points, strict=True), color=color, marker=marker, markersize=5, label=candidate,
            linewidth=2.2 if package == "contrastile" else 1.4, linestyle=DASHES[index % len(DASHES)],
        )  # fmt: skip
    panel.set_title(title, fontsize=10, color=GREY)
    scale(panel, sorted({n for points in lines.values() for n, _ in points}))


def scale(panel: Axes, ticks: list[int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize=9)
    panel.xaxis.set_minor_locator(NullLocator())
    low, high = panel.get_ylim()
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300.0 * low else (1.0,)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("batch N", color=GREY)
    panel.grid(color=GREY, alpha=0.25, linewidth=0.6)
    panel.tick_params(which="both", color=GREY, labelcolor=GREY)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["bottom", "left"]].set_color(GREY)


def legend(figure: Figure) -> None:
    entries = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        entries.update(dict(zip(labels, handles, strict=True)))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9,
        handlelength=3.5, labelcolor=GREY,
    )  # fmt: skip
