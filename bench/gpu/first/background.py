"""Forked processes that end with this one, and jobs made of them."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from processes import die_with_parent

from .results import Results

GRACE = 1.0  # seconds from the limit to the kill
PAUSE = 0.05  # seconds between two looks at what runs
STOPS = (signal.SIGTERM, signal.SIGINT)
WHY = 600  # characters of a log that say why something failed


class Process:
    """A function in a forked process group, its output in the log."""

    def __init__(self, log: Path, function: Callable[..., None], *arguments: Any) -> None:
        self.process = get_context("fork").Process(target=forked, args=(log, function, *arguments))
        self.process.start()

    def wait(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> int | None:
        """The exit status; None where the time was up. Nothing of it is left then, whatever happens."""
        until = time.monotonic() + max(seconds, PAUSE)
        try:
            while self.running() and time.monotonic() < until:
                meanwhile()
                self.process.join(PAUSE)
            return self.process.exitcode
        finally:
            self.end(signal.SIGTERM if self.running() else signal.SIGKILL)

    def end(self, first: signal.Signals) -> None:
        pid = self.process.pid
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, first)
        if first != signal.SIGKILL:
            self.process.join(GRACE)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            self.process.kill()  # also one that has no group of its own yet
            self.process.join(GRACE)

    def running(self) -> bool:
        return self.process.exitcode is None


def forked(log: Path, function: Callable[..., None], *arguments: Any) -> None:
    for number in STOPS:  # the runner's own are not for this process
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    die_with_parent()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):  # of the processes that it starts, too
        os.dup2(file, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Job:
    """A background job, in one process or several. Their output is apart until it ends, so that its end is its own."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log, self.begun = name, log, time.monotonic()
        self.processes: list[Process] = []
        self.over = False

    def running(self) -> bool:
        return any(process.running() for process in self.processes)

    def finish(self, results: Results, log: Path) -> None:
        """Ends what still runs; adds a record, and the output to the log."""
        if self.over:
            return
        self.over, cut = True, self.running()
        statuses = [process.wait(0.0) for process in self.processes]
        output = self.log.read_text(errors="replace") if self.log.exists() else ""
        with log.open("a") as file:
            file.write(output)
        outcome = "cut" if cut else "failed" if any(statuses) else "ok"
        why = {} if outcome == "ok" else {"why": " ".join(output.split())[-WHY:]}
        seconds = round(time.monotonic() - self.begun, 2)
        results.add(item=self.name, outcome=outcome, seconds=seconds, **why)
