"""How time and memory grow with the batch: the slope on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from .record import Record

PAGES = 4 << 20  # bytes; below, what a process happens to hold decides the peak


def exponent(points: Mapping[int, float], largest: int = 3) -> float | None:
    """a of y ~ N^a by least squares over the largest sizes, where constant costs count least; None: below 2 points."""
    known = sorted((n, y) for n, y in points.items() if y > 0)[-largest:]
    if len(known) < 2:
        return None
    x, y = [math.log(n) for n, _ in known], [math.log(value) for _, value in known]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def exponents(records: Iterable[Record]) -> tuple[float | None, float | None]:
    """a, b of time ~ N^a and memory ~ N^b, of one candidate's records."""
    found = list(records)
    time = exponent({x.n: x.ms for x in found if x.ms})
    return time, exponent({x.n: float(x.peak_bytes) for x in found if x.peak_bytes and x.peak_bytes > PAGES})


def forecast(points: Mapping[int, float], n: int) -> float:
    """y at n from the two nearest sizes below; quadratic growth where it cannot be told."""
    known = sorted(points)[-2:]
    grown = exponent({x: points[x] for x in known})
    power = min(max(2.0 if grown is None else grown, 1.0), 4.0)
    return points[known[-1]] * math.pow(n / known[-1], power)
