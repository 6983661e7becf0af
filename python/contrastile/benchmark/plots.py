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
PANEL, SIZE = (5.4, 3.3), 12  # inches; points: a page of 400 pixels shows it at 0.7 of this
PANELS: tuple[tuple[str, Callable[[Record], float | None]], ...] = (
    ("time (ms)", lambda r: r.ms),
    ("peak memory (MB)", lambda r: r.peak_bytes and r.peak_bytes / 1e6),
)


def save(groups: dict[str, Sequence[Record]], path: Path) -> None:
    """Time above memory, for each title and its records; the file's ending says the format."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # one file for one set of figures: ids in it come from a salt, not from chance
    options = {"svg.hashsalt": "contrastile", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": SIZE}
    with rc_context(options):
        width, height = PANEL
        figure = Figure((width * len(groups), height * len(PANELS)), dpi=110, layout="constrained")  # no pyplot
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(PANELS), len(groups), squeeze=False)
        for column, (title, records) in zip(grid.T, groups.items(), strict=True):
            for panel, (label, figure_of) in zip(column, PANELS, strict=True):
                draw(panel, label, series(records, figure_of))
            column[0].set_title(title, fontsize=SIZE + 1, color=GREY)
            column[-1].set_xlabel("batch N", color=GREY)
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


def draw(panel: Axes, label: str, lines: Series) -> None:
    drawn: dict[str, int] = {}
    for (package, candidate), points in lines.items():
        color, marker = STYLES.get(package, OTHER)
        index = drawn[package] = drawn.get(package, -1) + 1
        panel.plot(
            *zip(*points, strict=True), color=color, marker=marker, markersize=6, label=candidate,
            linewidth=2.2 if package == "contrastile" else 1.4, linestyle=DASHES[index % len(DASHES)],
        )  # fmt: skip
    panel.set_ylabel(label, color=GREY)
    scale(panel, sorted({n for points in lines.values() for n, _ in points}))


def scale(panel: Axes, ticks: list[int]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(ticks, [f"{n:,}" for n in ticks])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
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
        entries.values(), entries.keys(), loc="outside lower center", ncols=2 * len(figure.axes) // len(PANELS),
        frameon=False, fontsize=SIZE, handlelength=2.5, labelcolor=GREY,
    )  # fmt: skip
