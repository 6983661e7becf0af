"""A row of the catalog is enough: the suite's tests of losses take a loss written here, and find what is wrong with
others like it. All of them run in one process of its own, into which support/toy_loss.py brings the rows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.interpreter import WITHOUT
from support.toy_loss import FAULTS

TESTS = Path(__file__).parent
NAMES = "losses loss_gradients memory compile no_sync errors autocast zero_rows operators export tracing".split()
FILES = [f"test_{name}.py" for name in NAMES]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(file, test): outcome."""
    path = tmp_path_factory.mktemp("toy") / "outcomes.json"
    command = [sys.executable, "-m", "pytest", "-q", *WITHOUT, "-p", "support.toy_loss", "--run-slow"]
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "TOY_OUTCOMES": str(path)}
    command += [str(TESTS / name) for name in FILES]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout[-5000:] + done.stderr[-2000:]  # faults are found
    found = {}
    for name, outcome in json.loads(path.read_text()).items():
        file, _, test = name.partition("::")
        found[Path(file).name, test] = outcome
    return found


def about(outcomes, loss):
    return {key: outcome for key, outcome in outcomes.items() if loss in re.split(r"[\[\]-]", key[1])}


@pytest.mark.parametrize("file", FILES)
def test_a_new_row_is_tested(outcomes, file):
    own = {key: outcome for key, outcome in about(outcomes, "toy").items() if key[0] == file}
    assert "passed" in own.values()
    assert [key for key, outcome in own.items() if outcome == "failed"] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(outcomes, fault):
    """By the test that FAULTS names, the only one that is run on it."""
    assert "failed" in about(outcomes, fault).values()
