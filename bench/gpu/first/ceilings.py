"""What the device can do at most: copies, large products, and products with the shapes of the losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contrastile.backends import products

from .look import Look, milliseconds, peak_megabytes

CHUNKS = (2048, 4096, 5632, 8192)  # rows of a chunk of score gradients
COLUMNS, FEATURES = 65_536, 768
SQUARE = 8192
COPIED = 1 << 32  # bytes


def run(look: Look) -> None:
    look.warm_up()
    look.attempt(lambda: copies(look), item="copy")
    look.attempt(lambda: square(look), item="square product", n=SQUARE)
    look.attempt(lambda: scores(look), item="scores", rows=4096)
    for rows in look.some(CHUNKS):
        for name in ("dA", "dA added", "dB added"):
            look.attempt(lambda rows=rows, name=name: of_chunk(look, name, rows), item=name, rows=rows)
    look.attempt(lambda: in_place(look), item="adds in place")


def copies(look: Look) -> dict[str, Any]:
    x = torch.empty(COPIED // 4 if not look.dry else 1024, device=look.device)
    y = torch.empty_like(x)
    ms = milliseconds(lambda: y.copy_(x))
    return {"ms": ms, "tb_s": 2 * x.nbytes / ms / 1e9}


def random(look: Look, *shape: int) -> Tensor:
    return torch.randn([look.rows(n) for n in shape], device=look.device).to(torch.bfloat16)


def rate(ms: float, *sizes: int) -> dict[str, Any]:
    return {"ms": ms, "tflops": 2 * sizes[0] * sizes[1] * sizes[2] / ms / 1e9}


def square(look: Look) -> dict[str, Any]:
    x, y = random(look, SQUARE, SQUARE), random(look, SQUARE, SQUARE)
    return rate(milliseconds(lambda: x @ y), SQUARE, SQUARE, SQUARE)


def scores(look: Look) -> dict[str, Any]:
    """bfloat16 out: what the products inside `stats` and `score_grad` could reach at most."""
    x, y = random(look, 4096, FEATURES), random(look, COLUMNS, FEATURES)
    return rate(milliseconds(lambda: x @ y.T), 4096, COLUMNS, FEATURES)


def of_chunk(look: Look, name: str, rows: int) -> dict[str, Any]:
    """The output products of a chunk of score gradients, into float32: dA is its own, dB is added to by every chunk."""
    g = random(look, rows, COLUMNS)
    of_rows = name.startswith("dA")
    out = torch.zeros(g.shape[0 if of_rows else 1], look.rows(FEATURES), device=look.device)
    x, y = (g, random(look, COLUMNS, FEATURES)) if of_rows else (g.T, random(look, rows, FEATURES))
    product = products.add_float_product if name.endswith("added") else products.set_float_product
    return rate(milliseconds(lambda: product(out, x, y)), rows, COLUMNS, FEATURES)


def in_place(look: Look) -> dict[str, Any]:
    """Whether products of halves are added to a float32 matrix rightly, and without a second one."""
    g, x = random(look, 4096, 4096), random(look, 4096, FEATURES)
    out = torch.randn(g.shape[0], x.shape[1], device=look.device)
    truth = out.double() + g.double() @ x.double()
    megabytes = peak_megabytes(lambda: products.add_float_product(out, g, x))
    error = ((out - truth).norm() / truth.norm()).item()
    there = products.writes_in_place(torch.device(look.device))
    return {
        "outcome": "ok" if error < 1e-4 else "wrong", "error": error, "operators": there,
        "megabytes": megabytes, "in_place": megabytes < out.nbytes / 2e6,
    }  # fmt: skip
