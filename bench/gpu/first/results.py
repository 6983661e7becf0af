"""Results as lines of JSON, written out one by one: what was measured stays, whatever happens next."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
ABOUT_STAGES = ("stage", "host")  # items that are no results


class Results:
    def __init__(self, path: Path, stage: str, device: str) -> None:
        self.path, self.stage, self.device = path, stage, device
        self.begun = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def add(self, **values: Any) -> None:
        record = {"stage": self.stage, "device": self.device, "at": round(time.monotonic() - self.begun, 2), **values}
        line = json.dumps(record, default=str) + "\n"
        with self.path.open("a") as file:  # in one write: several processes may add to one file
            file.write(line)
        sys.stdout.write(line)
        sys.stdout.flush()


def read(paths: Iterable[Path]) -> list[Record]:
    """A line that a killed process left unfinished is left out."""
    found = []
    for path in paths:
        for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def described(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
