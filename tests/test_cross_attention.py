"""cross_attention_scores against one pair at a time in float64, value and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from contrastile import cross_attention_scores, reference
from contrastile.losses import score_contrast
from support.memory import saved_bytes

MASKS = ("query_mask", "key_mask")


def problem(n: int, m: int, t: int, u: int, masked: bool = True) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(n + 10 * m + t)
    shapes = {
        "items": (n, 6),
        "queries": (n, t, 4),
        "keys": (m, u, 4),
        "values": (m, u, 6),
        "gain": (6,),
        "shift": (6,),
    }
    found = {name: 2.0 * torch.randn(s, generator=g, dtype=torch.float64) for name, s in shapes.items()}
    if masked:
        found["query_mask"] = torch.rand(n, t, generator=g) < 0.7
        found["key_mask"] = torch.rand(m, u, generator=g) < 0.7
    return found


def outcome(function: Any, tensors: dict[str, Tensor], **options: Any) -> list[Tensor]:
    leaves = {name: x.detach().clone().requires_grad_(name not in MASKS) for name, x in tensors.items()}
    value = function(**leaves, **options)
    weights = torch.arange(value.numel(), dtype=value.dtype).view(value.shape).cos()
    wanted = [x for name, x in leaves.items() if name not in MASKS]
    grads = torch.autograd.grad((weights * value).sum(), wanted, allow_unused=True, materialize_grads=True)
    return [value.detach(), *grads]


@pytest.mark.parametrize("shape", [(4, 5, 3, 7), (1, 1, 1, 1), (3, 0, 2, 2), (0, 3, 2, 2), (3, 4, 0, 2), (3, 4, 2, 0)])
@pytest.mark.parametrize("memory_budget", [None, 0])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients(monkeypatch, shape, memory_budget, masked):
    monkeypatch.setattr(score_contrast, "WORKSPACE", 1)  # beyond the budget one item at a time
    tensors = problem(*shape, masked)
    found = outcome(cross_attention_scores, tensors, memory_budget=memory_budget)
    if 0 in shape:
        assert found[0].shape == shape[:2] and all((x == 0).all() for x in found)
        return
    for x, y in zip(found, outcome(reference.cross_attention_scores, tensors), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_padding_may_hold_anything():
    tensors = problem(4, 5, 3, 7)
    plain = outcome(cross_attention_scores, tensors)
    for name, mask in (("queries", "query_mask"), ("keys", "key_mask"), ("values", "key_mask")):
        tensors[name] = tensors[name].masked_fill(~tensors[mask][..., None], torch.nan)
    assert all(torch.equal(x, y) for x, y in zip(plain, outcome(cross_attention_scores, tensors), strict=True))


def test_second_derivatives_also_by_blocks(monkeypatch):
    monkeypatch.setattr(score_contrast, "WORKSPACE", 1)
    tensors = problem(2, 3, 2, 2, masked=False)
    inputs = tuple(x.requires_grad_() for x in tensors.values())
    for budget in (None, 0):
        assert torch.autograd.gradgradcheck(
            lambda *x, budget=budget: cross_attention_scores(
                **dict(zip(tensors, x, strict=True)), memory_budget=budget
            ),
            inputs,
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    tensors = {name: x if name in MASKS else x.to(dtype) for name, x in problem(4, 5, 3, 7).items()}
    wide = {name: x if name in MASKS else x.float() for name, x in tensors.items()}
    found = cross_attention_scores(**tensors)
    assert found.dtype == torch.float32 and torch.equal(found, cross_attention_scores(**wide))


def test_beyond_the_budget_nothing_of_pairs_is_saved():
    tensors = {name: x.float().requires_grad_() for name, x in problem(32, 32, 16, 16, masked=False).items()}
    held = [saved_bytes(lambda *x, b=b: cross_attention_scores(*x, memory_budget=b), *list(tensors.values())[:4])
            for b in (None, 0)]  # fmt: skip
    assert held[0] > 32 * 32 * 16 * 16 * 4 and held[1] < held[0] / 10


@pytest.mark.parametrize(
    "change, message",
    [
        ({"queries": torch.ones(3, 3, 4)}, "queries must be those of 4 items"),
        ({"keys": torch.ones(5, 7, 3)}, "keys must have"),
        ({"values": torch.ones(5, 7, 5)}, "values must have"),
        ({"values": torch.ones(5, 6, 6)}, "values must have the shape"),
        ({"items": torch.ones(4)}, "items must have"),
        ({"gain": torch.ones(5)}, "gain must have shape"),
        ({"query_mask": torch.ones(4, 2, dtype=torch.bool)}, "query_mask must have shape"),
        ({"eps": 0.0}, "eps must be"),
        ({"memory_budget": -1}, "memory_budget must be"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    tensors: dict[str, Any] = {name: x if name in MASKS else x.float() for name, x in problem(4, 5, 3, 7).items()}
    with pytest.raises(ValueError, match=message):
        cross_attention_scores(**(tensors | change))
