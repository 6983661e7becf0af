"""Any combination of the options of info_nce that is not refused, against the dense reference in float64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from contrastile import info_nce, reference
from contrastile.catalog import CONSTANTS

SEEDS = 600
CHUNK = 60  # seeds of one test


def draw(seed: int) -> tuple[list[Tensor], dict[str, Any]]:
    """Queries and keys, and some of the options."""
    choose, g = random.Random(seed), torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    n, d, more = choose.choice([1, 2, 3, 7]), choose.choice([1, 3, 5]), choose.choice([0, 0, 1, 4])
    m = n + more
    options: dict[str, Any] = {"reduction": choose.choice(["mean", "sum", "none"])}
    for share, found in (
        (0.5, {"symmetric": True, "direction": choose.choice(["mean", "sum", "rows", "cols"])}),
        (0.4, {"temperature": normal(n).abs() + 0.3}), (0.2, {"key_temperature": normal(n).abs() + 0.3}),
        (0.3, {"negatives": normal(3, d)}), (0.2, {"hard_negatives": normal(n, 2, d)}),
        (0.3, {name: torch.randint(0, 3, (size,), generator=g) for name, size in (("query_ids", n), ("key_ids", m))}),
        (0.3, {"key_log_prob": normal(m), "positive_log_prob": choose.random() < 0.5}),
        (0.2, {"negative_log_prob": normal(3)}), (0.2, {"label_smoothing": 0.2}), (0.2, {"false_negative_margin": 0.3}),
        (0.3, {"detach_keys": True}), (0.4, {"weights": normal(n).abs()}), (0.3, {"normalize": True}),
        (0.4, {"present": torch.arange(n) != choose.randrange(1, n + 1)}), (float(more), {"key_offset": more // 2}),
    ):  # fmt: skip
        if choose.random() < share:
            options |= found
    return [normal(n, d), normal(m, d)], options


def outcome(function: Any, features: list[Tensor], options: dict[str, Any], **engine: Any) -> list[Tensor]:
    """Value and gradients, 0 where there is none."""

    def fresh(name: str, x: Any) -> Any:
        wanted = isinstance(x, Tensor) and x.is_floating_point() and name not in CONSTANTS
        return x.clone().requires_grad_() if wanted else x

    pair, named = [fresh("", x) for x in features], {name: fresh(name, x) for name, x in options.items()}
    value = function(*pair, **named, **engine)
    leaves = [x for x in (*pair, *named.values()) if isinstance(x, Tensor) and x.requires_grad]
    weight = torch.linspace(0.5, 1.5, value.numel() + 1, dtype=torch.float64)[1:].reshape(value.shape)
    grads = torch.autograd.grad((value * weight).sum(), leaves, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True))]


@pytest.mark.parametrize(
    "start", [pytest.param(k, marks=pytest.mark.slow if k > CHUNK else ()) for k in range(0, SEEDS, CHUNK)]
)
def test_options_of_info_nce_go_together(start):
    compared = 0
    for seed in range(start, start + CHUNK):
        features, options = draw(seed)
        try:
            found = outcome(info_nce, features, options, backend="torch")
        except ValueError:
            continue
        compared += 1
        for x, y in zip(found, outcome(reference.info_nce, features, options), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-9, msg=lambda text, seed=seed: f"seed {seed}: {text}")
    assert compared > CHUNK / 3
