"""The table of other packages in bench/: every adapter gives the value and gradients of the loss it stands beside."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from contrastile.benchmark.measure import Meter
from contrastile.benchmark.problem import BOTH, MODES, Problem
from contrastile.catalog import CATALOG
from support.combinations import by_default

BENCH = str(Path(__file__).resolve().parents[1] / "bench")
NAMES = ("suite", "packages", "eager", "plan")

pytestmark = pytest.mark.peers

sys.path.insert(0, BENCH)
try:
    suite, packages, eager, plan = (importlib.import_module(name) for name in NAMES)
finally:
    sys.path.remove(BENCH)


FIRST = {loss: (loss, variant) for loss, variant in reversed(packages.PEERS)}  # the first variant of every loss


@pytest.mark.parametrize("mode", by_default(MODES, BOTH))
@pytest.mark.parametrize("key", by_default(packages.PEERS, *FIRST.values()), ids=" ".join)
def test_every_candidate_beside_a_package_is_right(key: tuple[str, str], mode: str) -> None:
    problem = Problem(key[0], 24, 16, torch.float32, mode, key[1], suite="suite")
    found = Meter(seconds=0.001).measure(problem, suite.names_on(problem))
    wrong = {x.candidate: x.why for x in found if x.outcome not in ("ok", "skipped")}
    assert not wrong
    missing = [x.why for x in found if x.outcome == "skipped" and x.package != "contrastile"]
    assert all("missing" in why or "cannot be imported" in why or "has no" in why for why in missing)


@pytest.mark.parametrize("key", [x for x in eager.FASTER if x not in FIRST.values()], ids=" ".join)
def test_the_dense_form_beside_no_package_is_the_reference(key: tuple[str, str]) -> None:
    problem = Problem(key[0], 24, 16, torch.float32, variant=key[1], suite="suite")
    (found,) = Meter(seconds=0.001).measure(problem, ["dense"])
    assert found.outcome == "ok", found.why


def test_a_package_that_is_missing_is_skipped_with_its_drop_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "info_nce", None)
    problem = Problem("info_nce", 24, 16, torch.float32, variant="unpaired", suite="suite")
    found: dict[str, Any] = {x.candidate: x for x in Meter(seconds=0.001).measure(problem, suite.names_on(problem))}
    name = "info-nce-pytorch InfoNCE, unpaired"
    assert {found[x].outcome for x in (name, f"drop-in for {name}")} == {"skipped"}
    assert "info_nce cannot be imported" in found[name].why and found["dense"].outcome == "ok"


def test_the_plan_has_every_loss_size_width_type_and_mode() -> None:
    """Each loss forward alone and with its gradients, in three types; the headline losses at all sizes and widths."""
    problems = {x.problem for x in plan.whole()}
    both = [x for x in problems if x.mode == BOTH]
    for name in ["clip_loss", *(card.name for card in CATALOG)]:
        mine = [x for x in both if x.loss == name]
        assert {x.mode for x in problems if x.loss == name} == set(MODES), name
        assert {x.dtype for x in mine} == {torch.float32, torch.bfloat16, torch.float16}, name
    for key in plan.HEADLINE:
        mine = [x for x in both if (x.loss, x.variant) == key]
        assert {x.n for x in mine} >= {64, 256, 1024, 4096} and {x.d for x in mine} == {128, 512, 1024}
    assert {(x.loss, x.variant) for x in both} >= set(packages.PEERS)
    measured = [x.problem for x in plan.whole() if x.memory]
    assert {x.loss for x in measured} == {card.name for card in CATALOG}
    assert all(x.mode == BOTH and x.d == plan.D for x in measured)
