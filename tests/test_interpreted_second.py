"""The tests of interpreted_second.py. A file of its own, so that processes share out what takes minutes."""

from __future__ import annotations

import pytest

from support import interpreter

pytest.importorskip("triton")
pytestmark = pytest.mark.interpret


def test_in_the_interpreter(request):
    interpreter.run("interpreted_second.py", request.config.getoption("--run-slow"))
