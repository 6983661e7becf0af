"""comparisons.py: ours beside the others on the same problem: the summary of the page, and where we lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contrastile.benchmark.problem import BOTH, FORWARD
from contrastile.benchmark.record import OK, Record
from contrastile.benchmark.suite import DENSE
from suite import DROPIN
from tables import cell, grouped, loss_of, machine_of, percent, table

NOISE_BYTES = 1 << 20  # differences of peak memory below are pages that a process happens to hold
PLAIN = ("dense torch", "torch.compile")  # no packages of losses

HOW_TO_READ = """
"x 2.1" means that the other takes 2.1 times our time; "memory x 3" that it takes 3 times our peak memory. Below 1 we
lose, and the number is **bold**. Memory is left out where it was not measured or the difference is below 1 MB.
"of the limit" is explained under [How it was measured](#how-it-was-measured).
"""


@dataclass(frozen=True)
class Comparison:
    """Another candidate beside ours on one problem."""

    ours: Record
    other: Record

    @property
    def time(self) -> float:
        """Theirs over ours: below 1 we lose."""
        return (self.other.ms or 0.0) / (self.ours.ms or 1.0)

    @property
    def memory(self) -> float | None:
        """Theirs over ours; None where either was not measured or nothing but noise is between them."""
        mine, theirs = self.ours.peak_bytes, self.other.peak_bytes
        if mine is None or theirs is None or abs(mine - theirs) < NOISE_BYTES:
            return None
        return max(theirs, 0) / max(mine, 1)

    @property
    def lost(self) -> bool:
        return self.time < 1.0 or (self.memory is not None and self.memory < 1.0)

    def text(self) -> str:
        return times(self.time) + ("" if self.memory is None else f", memory {times(self.memory)}")


def comparisons(problem: Sequence[Record]) -> list[Comparison]:
    """Every other candidate against our fastest backend, and every package against its drop-in."""
    timed = {x.candidate: x for x in problem if x.outcome == OK and x.ms}
    mine, others = ours(problem), [x for x in timed.values() if x.package != "contrastile"]
    found = [Comparison(mine, x) for x in others] if mine else []
    dropins = [(timed.get(DROPIN + x.candidate), x) for x in others]
    return found + [Comparison(dropin, x) for dropin, x in dropins if dropin is not None]


def ours(problem: Sequence[Record]) -> Record | None:
    """The fastest backend."""
    mine = [x for x in problem if x.candidate.startswith("contrastile ") and x.outcome == OK and x.ms]
    return min(mine, key=lambda x: x.ms or 0.0, default=None)


def against(problem: Sequence[Record], wanted: Callable[[Record], bool]) -> Comparison | None:
    """Our fastest backend and the fastest of the wanted candidates."""
    mine, others = ours(problem), [x for x in problem if x.outcome == OK and x.ms and wanted(x)]
    return Comparison(mine, min(others, key=lambda x: x.ms or 0.0)) if mine and others else None


def dense(r: Record) -> bool:
    return r.candidate == DENSE


def package(r: Record) -> bool:
    return r.package not in ("contrastile", *PLAIN)


def times(ratio: float) -> str:
    """Round, and bold where that is below 1."""
    text = f"x {ratio:.1f}" if ratio < 9.95 else f"x {ratio:.0f}"
    return f"**{text}**" if ratio < 0.95 else text


# ---- the summary


Setting = tuple[int, int, str]  # N, D, type


def setting(r: Record) -> Setting:
    return r.n, r.d, r.dtype


def summary(records: Sequence[Record]) -> str:
    by_machine = grouped(records, machine_of)
    return "\n".join([f"## Summary\n{HOW_TO_READ}", *(of_machine(name, x) for name, x in by_machine.items())])


def of_machine(machine: str, records: Sequence[Record]) -> str:
    both = [x for x in records if x.mode == BOTH]
    (n, d, dtype), _ = Counter(map(setting, both or records)).most_common(1)[0]
    parts = [f"### {machine}: N = {n:,}, D = {d}, {dtype}\n\n{usual_table(records, (n, d, dtype))}"]
    views: list[tuple[str, Callable[[Record], bool], Callable[[Record], str]]] = [
        ("batch", lambda x: (x.d, x.dtype) == (d, dtype), lambda x: f"N = {x.n:,}"),
        ("width", lambda x: (x.n, x.dtype) == (n, dtype), lambda x: f"D = {x.d:,}"),
        ("type", lambda x: (x.n, x.d) == (n, d), lambda x: x.dtype),
    ]
    for name, chosen, column in views:
        text = view([x for x in both if chosen(x)], column)
        parts += [f"By {name}, forward and backward, against plain torch:\n\n{text}"] if text else []
    return "\n".join(parts)


def usual_table(records: Sequence[Record], usual: Setting) -> str:
    """A row for each loss, in the setting that most were measured in; where a loss was not, in the first it has."""
    rows = []
    for name, of_loss in grouped(records, loss_of).items():
        settings = grouped(of_loss, setting)
        chosen = usual if usual in settings else next(iter(settings))
        loss = name if chosen == usual else f"{name}, N = {chosen[0]:,}, D = {chosen[1]}, {chosen[2]}"
        modes = grouped(settings[chosen], lambda x: x.mode)
        both, mine = modes.get(BOTH, []), ours(modes.get(BOTH, []))
        best = against(both, package)
        cells = [shown(against(both, dense)), shown(against(modes.get(FORWARD, []), dense))]
        peer = f"{best.other.candidate}: {best.text()}" if best else ""
        rows.append([loss, cell(mine), percent(mine.of_chunk_gemm) if mine else "", *cells, peer])
    heads = ["loss", "ours", "of the limit", "against plain torch", "forward alone", "against the fastest package"]
    return table(heads, rows)


def view(records: Sequence[Record], column: Callable[[Record], str]) -> str:
    """Losses by what `column` says, where a loss has more than one; empty where none has."""
    order = sorted(records, key=lambda x: (x.n, x.d))
    columns = list(dict.fromkeys(map(column, order)))
    rows = []
    for loss, found in grouped(records, loss_of).items():
        cells = grouped(found, column)
        texts = [shown(against(cells.get(x, []), dense)) for x in columns]
        if sum(map(bool, texts)) > 1:
            rows.append([loss, *texts])
    return table(["loss", *columns], rows) if rows else ""


def shown(found: Comparison | None) -> str:
    return found.text() if found else ""


# ---- where we lose


def lost_section(records: Sequence[Record]) -> str:
    every = [x for problem in grouped(records, lambda x: x.problem).values() for x in comparisons(problem)]
    lost = [x for x in every if x.lost]
    text = (
        "## Where we lose\n\n"
        f"Of {len(every)} comparisons, these {len(lost)} have another candidate that is faster, or smaller by over a "
        "megabyte, than the\nfastest backend of this package (for a package with a drop-in, also: than the drop-in). "
        "Numbers are theirs over ours; below 1 we lose.\n\n"
    )
    rows = [
        [
            loss_of(x.ours), f"{x.ours.n:,}", str(x.ours.d), x.ours.dtype, x.ours.mode, x.other.candidate,
            x.ours.candidate, marked(x.time), "" if x.memory is None else marked(x.memory),
        ]
        for x in lost
    ]  # fmt: skip
    return text + table(["loss", "N", "D", "type", "mode", "theirs", "ours", "time", "memory"], rows)


def marked(ratio: float) -> str:
    return f"**{ratio:.2f}**" if ratio < 1.0 else f"{ratio:.2f}"
