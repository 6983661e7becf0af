"""The tests of interpreted_functors.py, interpreted_lean.py and interpreted_tiles.py. A file of its own, so that
processes share out what takes minutes."""

from __future__ import annotations

import pytest

from support import interpreter

pytest.importorskip("triton")
pytestmark = pytest.mark.interpret


def test_in_the_interpreter(request):
    for name in ("interpreted_functors.py", "interpreted_lean.py", "interpreted_tiles.py"):
        interpreter.run(name, request.config.getoption("--run-slow"))
