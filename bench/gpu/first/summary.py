"""What was found, on a page, and what to do with the next ten minutes. Plain Python: it must not fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .advice import advice
from .results import ABOUT_STAGES, Record, described

MOST = 11_500  # characters: the end of a command's output that is kept elsewhere is 12,000
Outcome = tuple[str, str, float]  # stage, what became of it, seconds


def text(records: Sequence[Record], outcomes: Sequence[Outcome], seconds: float) -> str:
    parts = [
        "stages: " + ", ".join(f"{name} {status} {took:.0f} s" for name, status, took in outcomes),
        f"{seconds:.0f} s in all",
    ]
    for section in (machine, rates, right, losses, levers, counters, small, peers, tests):
        try:
            parts += section(of(records, section.__name__))
        except Exception as error:  # a record of a form that nobody foresaw
            parts.append(f"{section.__name__}: {described(error)}")
    try:
        todo = advice(records, outcomes)
    except Exception as error:
        todo = [f"no advice: {described(error)}"]
    end = ["next ten minutes:", *(f"  {number}. {line}" for number, line in enumerate(todo, 1))]
    tail = "\n".join(end)[: MOST // 2]
    dry = "DRY: nothing was launched, numbers mean nothing\n" * any(x["device"] == "dry" for x in records)
    return f"\n==== summary\n{dry}{chr(10).join(parts)[: MOST - len(tail)]}\n{tail}\n"


STAGES = {"machine": ("toolchain", "kernels", "jobs"), "rates": ("ceilings",)}


def of(records: Iterable[Record], section: str) -> list[Record]:
    wanted = STAGES.get(section, (section,))
    return [x for x in records if x["stage"] in wanted and x.get("item") not in ABOUT_STAGES]


def bad(x: Record) -> str:
    return f"{x.get('outcome')}: {x.get('why') or x.get('detail') or ''}"[:140]


def ok(x: Record) -> bool:
    return x.get("outcome") == "ok"


def machine(found: list[Record]) -> list[str]:
    lines = []
    for x in found:
        if x.get("item") == "versions" and ok(x):
            lines.append(f"python {x['python']}, torch {x['torch']}, triton {x['triton']}, {x['cores']} cores")
        elif x.get("item") == "device" and ok(x):
            lines.append(f"{x['name']}, {x['processors']} multiprocessors, {x['gigabytes']:.0f} GB")
        elif "item" in x and not ok(x):
            lines.append(f"  {x['item']}: {bad(x)}")
    jobs = [x for x in found if "job" in x]
    if jobs:
        seconds = sum(x.get("seconds", 0.0) for x in jobs)
        lines.append(f"kernels compiled ahead: {sum(map(ok, jobs))} of {len(jobs)} jobs, {seconds:.0f} s of processes")
        lines += [f"  {x['job']}: {bad(x)}" for x in jobs if not ok(x)][:5]
        spills = [f"{x['job']} {k[0]} {k[2]} bytes" for x in jobs for k in x.get("kernels", ()) if k[2]]
        lines += ["  spills: " + "; ".join(spills)[:400]] if spills else []
    return lines


def rates(found: list[Record]) -> list[str]:
    lines = ["ceilings:"]
    for x in found:
        name = x["item"] + (f" {x['rows']} rows" if "rows" in x else "")
        if not ok(x):
            lines.append(f"  {name}: {bad(x)}")
        elif "tb_s" in x:
            lines.append(f"  {name}: {x['tb_s']:.2f} TB/s")
        elif "tflops" in x:
            lines.append(f"  {name}: {x['tflops']:.0f} TFLOP/s")
        else:
            lines.append(
                f"  {name}: {'yes' if x['in_place'] else 'no'}, {x['megabytes']:.0f} MB, error {x['error']:.1e}"
            )
    return lines


def right(found: list[Record]) -> list[str]:
    lines = ["right or wrong:"]
    for backend in dict.fromkeys(x.get("backend") for x in found):
        mine = [x for x in found if x.get("backend") == backend]
        lines.append(f"  {backend}: " + ", ".join(f"{n} {name}" for name, n in Counter(map(outcome, mine)).items()))
        wrong = [x for x in mine if outcome(x) in ("wrong", "failed", "out of memory")]
        lines += [f"    {x['loss']} {x['dtype']} N={x['n']}: {bad(x)}" for x in wrong[:8]]
    return lines


def outcome(x: Record) -> str:
    return str(x.get("outcome"))


def losses(found: list[Record]) -> list[str]:
    lines = ["losses at full size, forward and backward:"]
    for x in found:
        name = f"  {x['loss']} {x['backend']}" + ", exponentials kept" * bool(x.get("kept"))
        if not ok(x):
            lines.append(f"{name}: {bad(x)}")
            continue
        lines.append(f"{name}: {x['ms']:.2f} ms, {x['tflops']:.0f} TFLOP/s, {x['megabytes']:.0f} MB")
        if "predicted" in x:
            lines.append(f"    {expected(x['predicted'])}")
        lines += [f"    {k['ms']:9.3f} ms {k['calls']:4d} x {k['name'][:60]}" for k in x.get("kernels", ())[:6]]
    return lines


def expected(x: Record) -> str:
    """What the model predicted."""
    times = [(name, *seconds) for name, seconds in x.items() if name != "device"]
    said = [f"{name} {low:.1f} to {high:.1f}" for name, low, high in times if high > 0]
    return f"predicted for an {x['device']}, ms: {', '.join(said)}"


def levers(found: list[Record]) -> list[str]:
    lines = ["one chunk of 4096 x 65536, D = 768:"]
    for x in found:
        said = f"{x['ms']:.3f} ms, {x['tflops']:.0f} TFLOP/s" if "ms" in x else bad(x)
        lines.append(f"  {x['kernel']}, {x['lever']}: {said}{'' if ok(x) else ' ' + outcome(x).upper()}")
    return lines


SHOWN = (
    "Duration", "Compute (SM) Throughput", "Memory Throughput", "L2 Cache Throughput", "DRAM Throughput",
    "Issued Warp Per Scheduler", "No Eligible", "Achieved Occupancy", "Registers Per Thread", "L2 Hit Rate",
)  # fmt: skip


def counters(found: list[Record]) -> list[str]:
    lines = ["ncu:"]
    for x in found:
        if "metrics" in x:
            lines.append(
                f"  {x['kernel'][:40]}: " + "; ".join(f"{n} {x['metrics'][n]}" for n in SHOWN if n in x["metrics"])
            )
        elif not ok(x):
            lines.append(f"  {x['item']}: {bad(x)}")
    return lines


def small(found: list[Record]) -> list[str]:
    lines = ["small batches, us (plain, graph):"]
    for loss, n in dict.fromkeys((x["loss"], x["n"]) for x in found):
        cells = {(x["candidate"], x["way"]): x for x in found if (x["loss"], x["n"]) == (loss, n)}
        said = [
            f"{name} {cell(cells.get((name, 'plain')))}, {cell(cells.get((name, 'graph')))}"
            for name in ("triton", "eager")
        ]
        lines.append(f"  {loss} N={n}: " + "; ".join(said))
    return lines


def cell(x: Record | None) -> str:
    return "-" if x is None else f"{x['us']:.0f}" if ok(x) else outcome(x)


def peers(found: list[Record]) -> list[str]:
    said = [f"  {x['loss']}, {x['candidate']}: " + (f"{x['ms']:.2f} ms" if ok(x) else bad(x)) for x in found]
    return ["other packages:", *said]


def tests(found: list[Record]) -> list[str]:
    done = [x for x in found if "test" in x]
    lines = [f"tests: {dict(Counter(map(outcome, done)))}"]
    return lines + [f"  {x['test'][:90]}: {(x.get('why') or '')[-160:]}" for x in done if x["outcome"] == "failed"][:10]
