"""The tests of interpreted_kept.py."""

from __future__ import annotations

import pytest

from support import interpreter

pytest.importorskip("triton")
pytestmark = pytest.mark.interpret


def test_in_the_interpreter(request):
    interpreter.run("interpreted_kept.py", request.config.getoption("--run-slow"))
