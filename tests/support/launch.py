"""Runs one function in processes that talk over gloo, and collects what each returns.

The processes stay for the next call, because starting one takes seconds: it imports torch. Each call has a process
group of its own. A call that needs new processes (it ends them, measures their memory, or they read the environment
when they start) says so.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = timedelta(seconds=60)
PATIENCE = 600.0  # seconds after which a process that says nothing counts as gone


class Processes:
    """`world` processes that wait for work. lost: one of them is gone, or its function raised."""

    def __init__(self, world: int) -> None:
        self.lost = False
        self.pipes: list[Connection] = []
        self.processes = []
        context = mp.get_context("spawn")
        for rank in range(world):
            here, there = context.Pipe()
            self.processes.append(context.Process(target=serve, args=(rank, world, there), daemon=True))
            self.processes[-1].start()
            there.close()  # so that the pipe ends with the process
            self.pipes.append(here)

    def run(self, timeout: timedelta, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
        with tempfile.TemporaryDirectory() as folder:
            for pipe in self.pipes:
                pipe.send((sys.path, folder, timeout, pickle.dumps((function, arguments))))
            return list(map(self.answer, self.pipes))

    def answer(self, pipe: Connection) -> Any:
        try:
            raised, found = pipe.recv() if pipe.poll(PATIENCE) else (True, None)
        except (EOFError, ConnectionError):
            raised, found = True, None
        self.lost |= raised
        return found

    def end(self) -> None:
        for process in self.processes:
            process.kill()


kept: dict[int, Processes] = {}


def gather_from(
    world: int, function: Callable[..., Any], *arguments: Any, timeout: timedelta = TIMEOUT, new: bool = False
) -> list[Any]:
    """function(rank, *arguments) in `world` processes of one default group; an exception is returned as its text. A
    process that is gone without a word returns None."""
    processes = Processes(world) if new or world not in kept else kept.pop(world)
    found = processes.run(timeout, function, arguments)
    if new or processes.lost:
        processes.end()
    else:
        kept[world] = processes
    return found


def serve(rank: int, world: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    while True:
        try:
            sys.path[:], folder, timeout, work = pipe.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timeout)
        raised = False
        try:
            function, arguments = pickle.loads(work)
            found = function(rank, *arguments)
        except Exception:
            raised, found = True, traceback.format_exc()
        dist.destroy_process_group()  # before the caller hears of it and takes the store away
        pipe.send((raised, found))
