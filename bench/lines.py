"""lines.py: results that are no Records of the benchmark of losses, as lines of JSON in a folder of their own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contrastile.benchmark.machine import machine


def append(out: Path, folder: str, **figures: Any) -> None:
    """To the file of this name in the folder beside it, with what it was measured on."""
    path = out.parent / folder / out.name
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {name: x for name, x in asdict(machine("cpu")).items() if x is not None}
    with path.open("a") as file:
        file.write(json.dumps({**figures, **known}) + "\n")


def read(results: Path, folder: str) -> list[dict[str, Any]]:
    """All lines of the folder in the folder of results."""
    return [json.loads(x) for path in sorted((results / folder).glob("*.jsonl")) for x in path.read_text().splitlines()]
