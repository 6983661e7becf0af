"""Measure the fastest tiles and backends on this GPU, once, for backend="auto" to use from then on."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastile import pair_loss
from contrastile.backends import BACKENDS, measured, reason
from contrastile.backends.triton_device import architecture
from contrastile.benchmark.precision import tf32
from contrastile.cli.tune_ahead import Ahead, Task, here
from contrastile.cli.tune_measure import agree, poisoned, seconds_of
from contrastile.literals import BackendName, Keep
from contrastile.ops.basis import basis

Run = Callable[[], list[Tensor]]  # the value and every gradient
Clock = Callable[[Run, torch.device], float]

_KINDS = {"half": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32}
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
_TILE_ROWS, _FEATURES = 8192, 768
_BASIS_ROWS = 16384
_FUSED_TYPES, _FUSED_FEATURES = (torch.bfloat16, torch.float16), (32, 64, 128, 256)
_TILES_SHARE = 0.65  # of the time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, help="file for the results (default: where the package looks for them)")
    parser.add_argument(
        "--minutes", type=float, default=8, help="time limit (default: 8): two thirds for tiles, the rest for backends"
    )
    parser.add_argument("--skip-tiles", action="store_true", help="measure only backends")


def run(options: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        print("tune: torch finds no GPU, and CPUs need no tuning")
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    path = options.output or measured.user_file()
    usable = [backend.name for backend in BACKENDS if reason(backend, device, torch.bfloat16) is None]
    begun, seconds = time.monotonic(), 60 * options.minutes
    for_tiles, end = begun + _TILES_SHARE * seconds, begun + seconds
    steps: list[tuple[str, Callable[[], Any]]] = []
    if "triton" in usable and not options.skip_tiles:
        steps.append(("tiles", lambda: tiles(device, _TILE_ROWS, measure, for_tiles)))
        steps.append(("fused", lambda: fused(device, _TILE_ROWS, entry_of(device), measure)))
    if "cuda" in usable:
        steps.append(("basis", lambda: basis_maker(device, _BASIS_ROWS, entry_of(device), measure)))
    steps.append(("dispatch", lambda: dispatch(device, _DTYPES, _SIZES, measure, end)))
    for name, step in steps:  # written after each: a kernel that breaks the device must not take all with it
        entry_of(device)[name] = step()
        write(path, device)
    return 0


def entry_of(device: torch.device) -> dict[str, Any]:
    """What is known of the device, which the backends use from the moment it changes."""
    entry = measured.table().setdefault(measured.device_name(device), {})
    entry["triton"] = measured.triton_version()
    return entry


def write(path: Path, device: torch.device) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = measured.read(path) | {measured.device_name(device): entry_of(device)}
    path.write_text(json.dumps(table, indent=1) + "\n")
    print(f"written: {path}")


def measure(function: Run, device: torch.device) -> float:
    """Median seconds of a call, all its kernels included; the device is timed, not the host."""
    with torch.cuda.device(device):
        function()
        return seconds_of(function)


def checked(function: Run) -> list[Tensor]:
    """What it gives in memory that held no number."""
    with poisoned():
        return function()


def problem(
    n: int, dtype: torch.dtype, device: torch.device, backend: BackendName, weight: int = 1, features: int = _FEATURES
) -> Run:
    """Row and column softmax over n pairs, each with its positive, and the gradient of the scale. weight: of the
    epilogue, as in triton_kernels/config.py; 0 and 4 are the loss without gradients, 2 a sum instead of a softmax, 3
    compares ids, from 4 on epilogues are lean: there is no bias."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (n, min(features, n))
    a, b = (F.normalize(torch.randn(shape, generator=generator, device=device), dim=1).to(dtype) for _ in range(2))
    scale = torch.tensor(20.0, device=device)
    keeps: dict[int, Keep] = {3: "other_id", 4: "other_index", 5: "other_index"}
    ids = torch.arange(n, device=device) // 2 if weight == 3 else None
    bias, wanted = None if weight > 3 else torch.zeros(n, device=device), weight not in (0, 4)

    def call() -> list[Tensor]:
        leaves = [x.detach().requires_grad_(wanted) for x in (a, b, scale)]
        loss = pair_loss(
            *leaves[:2],
            scale=leaves[2],
            reduce="softplus" if weight == 2 else "lse",
            positives="same_index",
            cols=True,
            row_positive_weight=-1.0,
            col_weight=1.0,
            col_positive_weight=-1.0,
            keep=keeps.get(weight, "all"),
            row_ids=ids,
            col_ids=ids,
            col_bias=bias,
            backend=backend,
        )
        if wanted:
            loss.backward()
        return [loss.detach(), *(x.grad for x in leaves if x.grad is not None)]

    return call


# ---- tiles


def tiles(device: torch.device, n: int, clock: Clock, limit: float) -> dict[str, list[list[int]]]:
    """For each kind of product the fastest tiles, weight by weight: those of lower weight are in use by then."""
    from contrastile.triton_kernels import config

    arch = architecture(device)
    found: dict[str, list[list[int]]] = entry_of(device).setdefault("tiles", {})
    kinds = [kind for kind in _KINDS if arch is not None and kind in config.TABLE[arch]]
    own = {kind: [config.tile(arch, kind, weight).numbers() for weight in range(config.TUNED)] for kind in kinds}
    with compiler(device, limit) as ahead:
        if ahead is not None:
            ask_for_fused(ahead)  # first: what has not begun when tiles are done is not compiled
            ask_for_tiles(ahead, own, {kind: config.candidates(arch, kind) for kind in kinds})
        for kind in kinds:
            found[kind] = list(own[kind])
            with tf32(kind == "tf32"):
                for weight in range(config.TUNED):
                    call = problem(n, _KINDS[kind], device, "triton", weight)
                    candidates = config.candidates(arch, kind)
                    usable = candidates if ahead is None else without_faults(ahead, kind, weight, candidates)
                    choose(found[kind], weight, usable, call, device, clock, kind, limit)
    return found


def compiler(device: torch.device, limit: float) -> AbstractContextManager[Ahead | None]:
    """Compiling ahead is written for CUDA: elsewhere a tile is compiled when it is timed."""
    return nullcontext() if device.type != "cuda" or torch.version.hip else Ahead(here(device), limit)


def ask_for_tiles(ahead: Ahead, own: dict[str, list[list[int]]], candidates: dict[str, list[list[int]]]) -> None:
    for kind, tiles in own.items():
        for weight in range(len(tiles)):
            for candidate in candidates[kind]:
                chosen = [*tiles[:weight], candidate, *tiles[weight + 1 :]]
                task = Task(kind, _KINDS[kind], weight, _FEATURES, {"tiles": {kind: chosen}})
                ahead.ask((kind, weight, *candidate), task)


def ask_for_fused(ahead: Ahead) -> None:
    for dtype in _FUSED_TYPES:
        for weight in (1, 3):
            for features in _FUSED_FEATURES:
                entry = {"fused": {str(dtype).removeprefix("torch."): [features, features]}}
                ahead.ask(("fused", dtype, weight, features), Task("half", dtype, weight, features, entry))


def without_faults(ahead: Ahead, kind: str, weight: int, candidates: Iterable[list[int]]) -> Iterable[list[int]]:
    """Those that compile within the device, without spills."""
    for candidate in candidates:
        fault = ahead.fault((kind, weight, *candidate), kind)
        if fault is None:
            yield candidate
        else:
            print(f"{kind} weight {weight} {candidate}: {fault}")


def choose(
    chosen: list[list[int]],
    weight: int,
    candidates: Iterable[list[int]],
    call: Run,
    device: torch.device,
    clock: Clock,
    kind: str,
    limit: float,
) -> None:
    """Puts the fastest candidate that gives what the table's own tile gives at chosen[weight]; tries none after
    `limit` (seconds of time.monotonic)."""
    best, truth, least = chosen[weight], checked(call), clock(call, device)
    for candidate in candidates:
        if time.monotonic() > limit:
            break
        chosen[weight] = candidate
        try:
            right = agree(checked(call), truth)
            seconds = clock(call, device)
        except Exception as error:  # too much shared memory, or the compiler gives up: Triton has no common base
            print(f"{kind} weight {weight} {candidate}: {type(error).__name__}")
            continue
        print(f"{kind} weight {weight} {candidate}: {1e3 * seconds:.3f} ms{'' if right else ', WRONG'}")
        if right and seconds < least:
            best, least = candidate, seconds
    chosen[weight] = best
    print(f"{kind} weight {weight}: takes {best}, {1e3 * least:.3f} ms")


# ---- the fused kernel


def fused(device: torch.device, n: int, entry: dict[str, Any], clock: Clock) -> dict[str, list[int]]:
    """For each type, with few and with many rules, up to how many features the fused kernel is right and faster than
    two kernels."""
    entry["fused"] = {}
    return {
        str(dtype).removeprefix("torch."): [widest(device, n, dtype, weight, entry, clock) for weight in (1, 3)]
        for dtype in _FUSED_TYPES
    }


def widest(device: torch.device, n: int, dtype: torch.dtype, weight: int, entry: dict[str, Any], clock: Clock) -> int:
    """-1 if it is not faster with the fewest features."""
    most, name = -1, str(dtype).removeprefix("torch.")
    for features in _FUSED_FEATURES:
        call, found = problem(n, dtype, device, "triton", weight, features), []
        for limit in (-1, features):
            entry["fused"][name] = [limit, limit]
            try:
                found.append((checked(call), clock(call, device)))
            except Exception as error:  # too much shared memory, or the compiler gives up: Triton has no common base
                print(f"{dtype} weight {weight} {features} features: {type(error).__name__}")
                return most
        (truth, slow), (value, seconds) = found
        print(f"{dtype} weight {weight} {features} features: {1e3 * slow:.3f} ms, fused {1e3 * seconds:.3f} ms")
        if not agree(value, truth) or seconds >= slow:
            return most
        most = features
    return most


# ---- bases of matched tuples


def basis_maker(device: torch.device, n: int, entry: dict[str, Any], clock: Clock) -> str:
    """ "cuda" if the compiled kernels give what torch's operations give, and faster."""
    vectors = [F.normalize(torch.randn(n, 512, device=device), dim=1) for _ in range(3)]
    found = {}
    for maker in ("torch", "cuda"):
        entry["basis"] = maker
        found[maker] = checked(lambda: basis_results(vectors)), clock(lambda: basis_results(vectors), device)
        print(f"bases by {maker}: {1e3 * found[maker][1]:.3f} ms")
    (truth, slow), (value, seconds) = found["torch"], found["cuda"]
    return "cuda" if agree(value, truth) and seconds < slow else "torch"


def basis_results(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Directions, lengths and the gradients of a number that depends on all of them."""
    leaves = [x.detach().requires_grad_() for x in vectors]
    directions, lengths = basis(leaves, len(leaves))
    value = (directions.sum(0) ** 2).sum() + lengths.sum()
    value.backward()
    return [directions.detach(), lengths.detach(), *(x.grad for x in leaves if x.grad is not None)]


# ---- backends


def dispatch(
    device: torch.device, dtypes: Sequence[torch.dtype], sizes: Sequence[int], clock: Clock, limit: float
) -> dict[str, list[list[int | str | None]]]:
    """For each type the fastest backend up to each size; the last one has no limit."""
    return {str(dtype).removeprefix("torch."): ranges(device, dtype, sizes, clock, limit) for dtype in dtypes}


def ranges(
    device: torch.device, dtype: torch.dtype, sizes: Sequence[int], clock: Clock, limit: float
) -> list[list[int | str | None]]:
    """After `limit` (seconds of time.monotonic) no size but the first is measured."""
    found: list[list[int | str | None]] = []
    usable = [backend.name for backend in BACKENDS if reason(backend, device, dtype) is None]
    for n in sizes:
        if found and time.monotonic() > limit:
            break
        seconds = {name: clock(problem(n, dtype, device, cast(BackendName, name)), device) for name in usable}
        print(f"{dtype} {n} x {n}:", *(f"{name} {1e3 * x:.3f} ms" for name, x in seconds.items()))
        fastest = min(seconds, key=lambda name: seconds[name])
        if found and found[-1][1] == fastest:
            found.pop()
        found.append([n * n, fastest])
    found[-1][0] = None
    return found
