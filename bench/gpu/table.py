"""The short table of a file of figures. Plain Python: the process that starts the others imports nothing else."""

from __future__ import annotations

from typing import Any

HEADER = ("", "ms", "TFLOP/s", "of GEMM", "of chunk", "peak MB", "error")


def lines(records: list[dict[str, Any]]) -> list[str]:
    if not records:
        return ["no figures"]
    first = records[0]
    about = f"{first['device']}, driver {first['driver']}, torch {first['torch']}, triton {first['triton']}"
    out, problem = [about, "{:<30}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}".format(*HEADER)], None
    for record in records:
        if title(record) != problem:
            problem = title(record)
            out.append(problem)
        out.append(line(record))
    return out


def title(r: dict[str, Any]) -> str:
    variant = "" if r["variant"] == "default" else f" ({r['variant']})"
    return f"{r['loss']}{variant} N={r['n']} D={r['d']} {r['dtype']} {r['mode']}"


def line(r: dict[str, Any]) -> str:
    name = f"  {r['candidate']:<28}"
    if r["ms"] is None:
        return f"{name}{r['outcome']}: {r['why'] or ''}".rstrip(": ").replace("\n", " ")[:110]
    peak = "-" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 1e6:.0f}"
    share = f"{r['tflops']:>9.4g}{r['of_gemm']:>9.1%}{r['of_chunk_gemm']:>9.1%}"
    return f"{name}{r['ms']:>10.4g}{share}{peak:>9}{r['error']:>9.0e}"
