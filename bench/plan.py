"""plan.py: what `make bench` measures, the most wanted first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from contrastile.benchmark.problem import BOTH, FORWARD, Problem
from contrastile.catalog import CATALOG
from packages import PEERS
from suite import __name__ as SUITE
from suite import names_on

D = 512
HEADLINE = [
    ("clip_loss", "default"), ("siglip_loss", "default"), ("info_nce", "default"), ("nt_xent", "default"),
    ("gram_loss", "default"), ("symile_loss", "drawn"), ("mv_infonce", "default"), ("sup_con", "ten classes"),
]  # fmt: skip
CUBIC = ("symile_loss", "n_squared")  # its work grows with N^3
TO_COMPILE = HEADLINE[:4]  # a compilation takes seconds for each shape
CARDS = [(card.name, "default") for card in CATALOG]
SMALLER = [(x, "default") for x in ("late_interaction_info_nce", "word_region_loss", "hydra_loss")]  # dense: huge
APART = (*HEADLINE, *SMALLER, CUBIC)
OTHERS = [x for x in dict.fromkeys([*PEERS, *CARDS, ("gram_loss", "four")]) if x not in APART]
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
WIDTHS = (128, 1024)  # beside 512


@dataclass(frozen=True)
class Entry:
    """A problem of the plan, and what is done beside timing our backends, the dense form and the packages."""

    problem: Problem
    memory: bool = True
    dropins: bool = True
    compiled: bool = False

    @property
    def names(self) -> list[str]:
        return names_on(self.problem, dropins=self.dropins, compile=self.compiled)


def whole() -> Iterator[Entry]:
    """In the order in which the time is spent. Memory is measured once for each type, with gradients and at one D."""
    yield from series(HEADLINE, (1024,), FP32)
    yield from series(HEADLINE, (1024,), FP32, mode=FORWARD, memory=False, dropins=False)
    yield from series(OTHERS, (1024,), FP32)
    yield from series(SMALLER, (256,), FP32)
    yield from series(SMALLER, (256,), FP32, mode=FORWARD, memory=False, dropins=False)
    yield from series(HEADLINE, (64, 256), FP32)
    yield from series(HEADLINE, (1024,), BF16)
    yield from series(HEADLINE, (4096,), FP32, dropins=False)
    yield from series(OTHERS, (1024,), FP32, mode=FORWARD, memory=False, dropins=False)
    yield from series(HEADLINE, (1024,), FP16, dropins=False)
    for d in WIDTHS:
        yield from series(HEADLINE, (1024,), FP32, d, memory=False, dropins=False)
    for dtype in (BF16, FP16):
        yield from series(OTHERS, (1024,), dtype, dropins=False)
        yield from series(SMALLER, (256,), dtype, dropins=False)
    yield from series([CUBIC], (64,), FP32)
    yield from series(TO_COMPILE, (1024, 4096), FP32, compiled=True)
    yield from series(HEADLINE[:1], (16_384,), FP32, dropins=False)


def series(
    losses: list[tuple[str, str]],
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    d: int = D,
    mode: str = BOTH,
    **more: bool,
) -> Iterator[Entry]:
    for loss, variant in losses:
        for n in sizes:
            yield Entry(Problem(loss, n, d, dtype, mode, variant, suite=SUITE), **more)
