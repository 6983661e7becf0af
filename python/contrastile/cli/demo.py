"""Train on real handwritten digits with fourteen objectives, and measure memory against the dense form.

Each scan gives four views: left half, right half, a crop, and a map of stroke directions. One small
encoder per view learns a common space. Retrieval is then tested on held-out scans. A second part
compares losses of three views at once (see demo_views).
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from contrastile.cli import demo_data, demo_train, demo_views, memory_probe
from contrastile.cli.demo_train import Outcome, Trainer
from contrastile.cli.demo_views import ViewsOutcome
from contrastile.cli.memory_probe import Series
from contrastile.cli.table import format_table

_PACKAGES = ("sklearn.datasets", "matplotlib.figure", "rich.progress")
_HELD_OUT = 360
_CLEARLY = 5  # a loss must retrieve this many times better than chance
_TABLE_KEY = """
before, after   given one view, another view of the same scan is found first (mean over 12 pairs)
left to right   the same for the right half given the left half, after training
same digit      that right half at least shows the same digit (sup_con learns digits, not scans)
seconds         training time on one thread
"""
_VIEWS_KEY = """
before, after   the third view of a scan, given the other two, is found first (mean over which is missing)
left half etc.  the same if that view is the missing one, after training
Each loss finds with its own score: volume, product of three, sums of cosines. Temperatures are round numbers that suit
each loss, so this shows that all work, not which is best.
"""


@dataclass(frozen=True)
class _Sizes:
    epochs: int
    memory_points: dict[str, tuple[int, ...]]


_FULL = _Sizes(
    epochs=25,
    memory_points={
        "dense": (1024, 2048, 4096, 8192),
        "contrastile": (1024, 2048, 4096, 8192, 16384, 32768),
    },
)
_QUICK = _Sizes(epochs=6, memory_points={"dense": (1024, 4096), "contrastile": (1024, 8192)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("contrastile-demo"),
        help="folder for the figures (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=_positive,
        help=f"epochs per loss (default: {_FULL.epochs}, quick {_QUICK.epochs})",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights, and batches (default: 0)")
    parser.add_argument("--quick", action="store_true", help="fewer epochs and smaller batches in memory.png")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def run(options: argparse.Namespace) -> int:
    problem = _missing_package()
    if problem:
        print(
            f"The demo needs more packages ({problem}). Run: pip install contrastile[demo]",
            file=sys.stderr,
        )
        return 2
    sizes = _QUICK if options.quick else _FULL
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = _make_trainer(options.epochs or sizes.epochs, options.seed)
    outcomes = _train_all(trainer)
    passed = _report_recall(outcomes)
    views_outcomes = _train_three_views(trainer)
    passed &= _report_three_views(views_outcomes)
    measured = _measure_memory(sizes.memory_points)
    _save_figures(outcomes, views_outcomes, measured, options.out)
    return 0 if passed else 1


def _missing_package() -> str | None:
    try:
        for name in _PACKAGES:
            importlib.import_module(name)
    except ImportError as error:
        return str(error)
    return None


def _make_trainer(epochs: int, seed: int) -> Trainer:
    generator = torch.Generator().manual_seed(seed)
    train, held_out = demo_data.split_scans(demo_data.load_scans(), _HELD_OUT, generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoders = demo_train.Encoders(demo_data.make_views(train.images))
    print(f"{len(train)} scans to train on, {len(held_out)} held out, {epochs} epochs per loss")
    return Trainer(train, held_out, encoders, epochs, seed)


def _train_all(trainer: Trainer) -> list[Outcome]:
    objectives = demo_train.make_objectives()
    with _one_thread(), _progress("training", len(objectives) * trainer.steps) as advance:
        return [trainer.fit(name, objective, partial(advance, name)) for name, objective in objectives.items()]


def _train_three_views(trainer: Trainer) -> list[ViewsOutcome]:
    trainer, objectives = demo_views.three_view_trainer(trainer), demo_views.make_objectives(trainer.seed)
    with _one_thread(), _progress("three views", len(objectives) * trainer.steps) as advance:
        return [
            demo_views.fit(trainer, name, objective, partial(advance, name)) for name, objective in objectives.items()
        ]


def _report_recall(outcomes: Sequence[Outcome]) -> bool:
    """Print the table of results; whether every loss clearly beats chance."""
    chance = 1 / _HELD_OUT
    headers = ["loss", "before", "after", "/ chance", "left to right", "same digit", "seconds"]
    rows = [
        [
            outcome.name,
            f"{outcome.before.same_scan:.2%}",
            f"{outcome.after.same_scan:.2%}",
            f"{outcome.after.same_scan / chance:.0f}x",
            f"{outcome.after.left_to_right:.2%}",
            f"{outcome.after.same_digit:.1%}",
            f"{outcome.seconds:.1f}",
        ]
        for outcome in outcomes
    ]
    print(f"\nrecall@1 among {_HELD_OUT} held-out scans (chance {chance:.2%})\n")
    print(format_table(headers, rows, "<>>>>>>"))
    print(_TABLE_KEY)
    return _clearly_above_chance({o.name: o.after.same_scan for o in outcomes})


def _report_three_views(outcomes: Sequence[ViewsOutcome]) -> bool:
    """Print the table of three-view results; whether every loss clearly beats chance."""
    print(f"\nthree views: recall@1 among {_HELD_OUT} held-out scans (chance {1 / _HELD_OUT:.2%})\n")
    print(demo_views.results_table(outcomes))
    print(_VIEWS_KEY)
    return _clearly_above_chance({o.name: o.mean for o in outcomes})


def _clearly_above_chance(recall: dict[str, float]) -> bool:
    weak = [name for name, found in recall.items() if found <= _CLEARLY / _HELD_OUT]
    if weak:
        print(f"FAILED: not above {_CLEARLY}x chance: {', '.join(weak)}")
    return not weak


def _measure_memory(points: dict[str, tuple[int, ...]]) -> dict[str, Series]:
    measured: dict[str, Series] = {implementation: {} for implementation in points}
    with _progress("memory", sum(map(len, points.values()))) as advance:
        for implementation, all_rows in points.items():
            for rows in all_rows:
                try:
                    measured[implementation][rows] = memory_probe.measure(implementation, rows)
                except memory_probe.ProbeError as error:
                    print(f"memory of {implementation} at N = {rows} not measured: {error}")
                advance(f"{implementation}, N = {rows}")
    return measured


def _save_figures(
    outcomes: Sequence[Outcome],
    views_outcomes: Sequence[ViewsOutcome],
    measured: dict[str, Series],
    folder: Path,
) -> None:
    from contrastile.cli import demo_plots

    losses, views, memory = folder / "losses.png", folder / "views.png", folder / "memory.png"
    demo_plots.save_losses(outcomes, 1 / _HELD_OUT, losses)
    print(f"\nwrote {losses.resolve()}")
    demo_plots.save_views(views_outcomes, 1 / _HELD_OUT, views)
    print(f"wrote {views.resolve()}")
    if any(measured.values()):
        demo_plots.save_memory(measured, memory)
        print(f"wrote {memory.resolve()}")


@contextmanager
def _one_thread() -> Iterator[None]:
    # so small a batch gains nothing from threads, and loses much where other jobs use the cores
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar; call the yielded function with the part just done to advance it."""
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task(title, total=total)
        yield lambda part: bar.update(task, advance=1, description=f"{title}: {part}")
        bar.update(task, description=title)
