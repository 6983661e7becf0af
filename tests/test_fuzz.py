"""Random calls of every loss against its reference; `make fuzz` makes more of them."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from contrastile.catalog import CATALOG, LossCard
from support import fuzz

CASES, SEED = 1000, 26


def test_random_calls_equal_their_references():
    found = fuzz.several(range(SEED * 10**6, SEED * 10**6 + CASES), largest=9)
    assert not found.failed, fuzz.report(found, verbose=False)
    assert len(found.compared) == len(CATALOG) and sum(found.compared.values()) > 0.85 * CASES


def test_a_wrong_loss_is_found_and_shrunk(monkeypatch):
    """Of a fault in float32, with more than four pairs, the smallest call that shows it is reported."""
    card = next(card for card in CATALOG if card.name == "clip_loss")

    def wrong(image, *args, **options):
        value = card.function(image, *args, **options)
        return value * (1.0 + 1e-3 * (len(image) > 4)) if image.dtype == torch.float32 else value

    class Wrong(LossCard):
        function = staticmethod(wrong)

    monkeypatch.setitem(fuzz.CARDS, "clip_loss", Wrong(**{x.name: getattr(card, x.name) for x in fields(card)}))
    calls = (fuzz.draw(seed) for seed in range(4000))
    failed = next(x for x in calls if x.loss == "clip_loss" and fuzz.check(x).failed)
    smallest = fuzz.shrink(failed)
    assert smallest == fuzz.Call("clip_loss", next(iter(card.variants)), n=5, d=smallest.d, seed=failed.seed)
    assert smallest.d <= 3 and str(smallest) in fuzz.report(fuzz.Tally(failed=[failed]), verbose=False)


def test_a_call_is_repeated_from_its_text():
    call = fuzz.draw(7)
    again = eval(str(call), {"Call": fuzz.Call})
    assert again == call and fuzz.check(again) == fuzz.check(call)
    assert fuzz.check(replace(call, variant=next(iter(call.card.variants)), also="")).worst <= 1.0
