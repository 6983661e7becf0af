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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # now: a default of its functions is the group that is there when it is imported
import torch.multiprocessing as mp

TIMEOUT = timedelta(seconds=60)
PATIENCE = 600.0  # seconds after which a process that says nothing counts as gone


class Processes:
    """Processes that wait for work: as many as the largest world so far had ranks. lost: one of them is gone, or its
    function raised."""

    def __init__(self) -> None:
        self.lost = False
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []

    def start(self, rank: int) -> None:
        context = mp.get_context("spawn")
        here, there = context.Pipe()
        self.processes.append(context.Process(target=serve, args=(rank, there), daemon=True))
        self.processes[-1].start()
        there.close()  # so that the pipe ends with the process
        self.pipes.append(here)

    def run(
        self, world: int, timeout: timedelta, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> list[Any]:
        for rank in range(len(self.processes), world):
            self.start(rank)
        pipes = self.pipes[:world]
        with tempfile.TemporaryDirectory() as folder:
            for pipe in pipes:
                pipe.send((sys.path, folder, world, timeout, pickle.dumps((function, arguments))))
            return list(map(self.answer, pipes))

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


kept: list[Processes] = []


def gather_from(
    world: int, function: Callable[..., Any], *arguments: Any, timeout: timedelta = TIMEOUT, new: bool = False
) -> list[Any]:
    """function(rank, *arguments) in `world` processes of one default group; an exception is returned as its text. A
    process that is gone without a word returns None."""
    processes = Processes() if new or not kept else kept.pop()
    found = processes.run(world, timeout, function, arguments)
    if new or processes.lost:
        processes.end()
    else:
        kept.append(processes)
    return found


@contextmanager
def own_processes() -> Iterator[Callable[..., list[Any]]]:
    """`gather_from` in processes of their own for several calls, as where they need another environment."""
    processes = Processes()
    try:
        yield lambda world, function, *arguments: processes.run(world, TIMEOUT, function, arguments)
    finally:
        processes.end()


def serve(rank: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    while True:
        try:
            sys.path[:], folder, world, timeout, work = pipe.recv()
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
