"""Starts processes that talk over gloo, runs one function in all of them, collects what each returns."""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = timedelta(seconds=60)


def gather_from(world: int, function: Callable[..., Any], *arguments: Any, timeout: timedelta = TIMEOUT) -> list[Any]:
    """function(rank, *arguments) in `world` processes of one default group; an exception is returned as its text. A
    process that is gone without a word returns None."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("spawn")
        processes = [
            context.Process(target=run, args=(rank, world, folder, timeout, function, arguments))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(600)
            if process.is_alive():
                process.kill()
        return [read(Path(folder, str(rank))) for rank in range(world)]


def read(path: Path) -> Any:
    return pickle.loads(path.read_bytes()) if path.exists() else None


def run(rank: int, world: int, folder: str, timeout: timedelta, function: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timeout)
    try:
        found = function(rank, *arguments)
    except Exception:
        found = traceback.format_exc()
    Path(folder, str(rank)).write_bytes(pickle.dumps(found))
    dist.destroy_process_group()
