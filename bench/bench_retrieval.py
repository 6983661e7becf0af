"""Retrieval on large galleries: over the matrix products of the scores alone, and peak memory beside the inputs.

CPU time of one thread, two sides in turn. Products: all scores in blocks of 128 rows, none of them kept. Goals: `topk`
1.3 of the products, 200 MB; `ranks` 200 MB.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import lines
from bench_products import Products
from bench_small import compared_in, one_thread, unit_rows  # noqa: F401
from contrastile.benchmark.memory import Usage, in_fresh_process, resident_peak
from contrastile.retrieval import ranks, topk

K, D, OF_PRODUCTS, PEAK_MB = 10, 256, 1.3, 200
TOPK, RANKS = (10_000, 100_000), (50_000, 50_000)  # queries, gallery


def features(n: int, m: int) -> tuple[Tensor, Tensor]:
    query, gallery = (unit_rows(size, D, dtype=torch.float32).detach() for size in (n, m))
    return query, gallery


def products(query: Tensor, gallery: Tensor) -> None:
    for rows in query.split(128):
        rows @ gallery.T


def best(query: Tensor, gallery: Tensor) -> None:
    topk(query, gallery, K)


def recall(query: Tensor, gallery: Tensor) -> None:
    (ranks(query, gallery) <= K).float().mean()


def peak(function: str, n: int, m: int) -> Usage:
    """In a fresh process."""
    torch.set_num_threads(1)
    run, sizes = {"topk": best, "ranks": recall}[function], features(n, m)
    run(*features(64, 128))
    return resident_peak(lambda: run(*sizes))


def bench_topk(benchmark, settings, one_thread) -> None:  # noqa: F811
    measured(benchmark, settings, "topk", best, *TOPK)


def bench_recall(benchmark, settings, one_thread) -> None:  # noqa: F811
    measured(benchmark, settings, "ranks", recall, *RANKS)


def measured(benchmark, settings, name, run, n: int, m: int) -> None:
    pair, problem = features(n, m), dict(function=name, n=n, m=m, d=D, dtype="float32")
    if name == "topk":
        ours, plain = (Products(partial(step, *pair)) for step in (run, products))
        compared_in("retrieval", settings, "products", ours, plain, [], OF_PRODUCTS, 2, **problem)
    held = round(in_fresh_process(peak, name, n, m).peak_bytes / 1e6)
    lines.append(settings.out, "retrieval", **problem, peak_mb=held, goal=PEAK_MB)
    print(f"{problem}  peak {held} MB (goal {PEAK_MB})")
    benchmark.pedantic(partial(run, *(x[:100] for x in pair)), rounds=1)
