"""What was measured on GPUs: the fastest backend for a size, and the fastest tiles of the Triton kernels.

Two tables of one form are read, once, when a loss first meets a GPU: measured.json beside this file, and over it the
user's own, which `python -m contrastile tune` writes for the GPU it runs on. By name of the device:

    {
        "dispatch": {dtype: [[pairs, backend], ...]}, "basis": "cuda" or "torch",
        "fused": {dtype: [features, features]},
        "tiles": {kind: [[rows, cols, depth, warps, stages, ...], ...]}, "triton": version
    }

dispatch: ascending; backend="auto" takes the first entry whose number of pairs (rows times columns) is not exceeded;
null has no limit. basis: who makes the bases of matched tuples (ops/basis.py); without an entry torch does. fused: up
to how many features the fused kernel (triton_kernels/fused.py) is faster, with few and with many rules. tiles: the
fields of triton_kernels.config.Tile, one for each weight of the epilogue. These two hold for the Triton named beside
them.
"""

from __future__ import annotations

import json
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

Table = dict[str, dict[str, Any]]
OWN = Path(__file__).with_name("measured.json")


def user_file() -> Path:
    """$CONTRASTILE_TUNING, else contrastile/tuning.json in the user's cache folder."""
    given = os.environ.get("CONTRASTILE_TUNING")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "contrastile" / "tuning.json"


def read(path: Path) -> Table:
    """The table of a file; none where there is no file."""
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RuntimeError(f"contrastile: the table of measurements {path} cannot be read ({error})") from error
    if not isinstance(table, dict):
        raise RuntimeError(f"contrastile: the table of measurements {path} is a {type(table).__name__}, not an object")
    return table


@cache
def table() -> Table:
    return read(OWN) | read(user_file())


@cache
def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def of_device(device: torch.device) -> dict[str, Any]:
    return table().get(device_name(device), {})


def fastest_backend(device: torch.device, dtype: torch.dtype, pairs: int) -> str | None:
    """The name of the backend that was fastest for so many pairs; None where nothing was measured."""
    entries = of_device(device).get("dispatch", {}).get(str(dtype).removeprefix("torch."), ())
    return next((backend for limit, backend in entries if limit is None or pairs <= limit), None)


def fastest_basis(device: torch.device) -> str | None:
    name: str | None = of_device(device).get("basis")
    return name


def of_triton(device: torch.device) -> dict[str, Any]:
    """What was measured with this Triton: another one may need more registers for the same tile."""
    entry = of_device(device)
    return entry if entry.get("triton") == triton_version() else {}


def fastest_tile(device: torch.device, kind: str, weight: int) -> list[int] | None:
    """rows, cols, depth, warps, stages, per_processor; None where nothing was measured."""
    tiles = of_triton(device).get("tiles", {}).get(kind, ())
    return tiles[weight] if weight < len(tiles) else None


def fused_features(device: torch.device, dtype: torch.dtype, many_rules: bool) -> int:
    """Up to how many features the fused kernel is faster; -1 where it was not measured to be."""
    few, many = of_triton(device).get("fused", {}).get(str(dtype).removeprefix("torch."), (-1, -1))
    return int(many if many_rules else few)


@cache
def triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None
