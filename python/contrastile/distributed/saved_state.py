"""What a forward pass changes beside its output, kept so that a piece can be encoded again from where it began."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Buffers", "RandomState"]

Place = tuple[nn.Module, str]
Contents = tuple[Tensor | None, Tensor | None]  # the tensor in its place, and a copy of what it held


class RandomState:
    """The state of torch's generators now; within it they go back to it, after it to what they were."""

    def __init__(self) -> None:
        self.then = states()

    def __enter__(self) -> None:
        self.now = states()
        set_states(self.then)

    def __exit__(self, *error: Any) -> None:
        set_states(self.now)


def states() -> tuple[Tensor, Tensor | None]:
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state() if used else None


def set_states(states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1])


class Buffers:
    """Buffers of modules (batch statistics, vectors of a spectral norm, queues) before each piece and after the last.

    All are copied once, when their module is first met; from piece to piece only those that have changed before.
    """

    def __init__(self) -> None:
        self.first: dict[Place, Contents] = {}
        self.versions: dict[Place, tuple[int, int]] = {}
        self.changing: set[Place] = set()
        self.pieces: list[dict[Place, Contents]] = []

    def hold(self, module: nn.Module) -> None:
        for name, buffer in module._buffers.items():
            self.first[module, name] = (buffer, copied(buffer))
            self.versions[module, name] = version(buffer)

    def begin_piece(self) -> None:
        self.pieces.append(self.contents())

    def end_piece(self) -> None:
        steady = [place for place in self.first if place not in self.changing]
        moved = {place for place in steady if version(in_place(place)) != self.versions[place]}
        # kernels of batch statistics write without a new version
        suspects = [place for place in steady if place not in moved and comparable(in_place(place))]
        self.changing |= moved | different([(place, in_place(place), self.first[place][1]) for place in suspects])

    def end(self) -> None:
        self.last = self.contents()
        self.first = {place: self.first[place] for place in self.changing}

    def contents(self) -> dict[Place, Contents]:
        return {place: (in_place(place), copied(in_place(place))) for place in self.changing}

    def restore_piece(self, number: int) -> None:
        restore({**self.first, **self.pieces[number]})

    def restore_last(self) -> None:
        restore(self.last)


def in_place(place: Place) -> Tensor | None:
    module, name = place
    return module._buffers.get(name)


def copied(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.clone()


def version(buffer: Tensor | None) -> tuple[int, int]:
    return id(buffer), 0 if buffer is None or buffer.is_inference() else buffer._version


def comparable(buffer: Tensor | None) -> bool:
    return type(buffer) is Tensor and buffer.layout is torch.strided and buffer.numel() > 0


def different(pairs: list[tuple[Place, Any, Any]]) -> set[Place]:
    """Places whose two tensors differ in a bit; a device is waited for once."""
    flags: dict[torch.device, list[Tensor]] = {}
    places: dict[torch.device, list[Place]] = {}
    for place, x, y in pairs:
        flags.setdefault(x.device, []).append((as_bytes(x) != as_bytes(y)).any())
        places.setdefault(x.device, []).append(place)
    return {
        place
        for device in flags
        for place, flag in zip(places[device], torch.stack(flags[device]).tolist(), strict=True)
        if flag
    }


def as_bytes(x: Tensor) -> Tensor:
    return x.resolve_conj().reshape(-1).view(torch.uint8)


@torch.no_grad()
def restore(contents: dict[Place, Contents]) -> None:
    for (module, name), (buffer, held) in contents.items():
        module._buffers[name] = buffer
        if buffer is not None and held is not None:
            buffer.copy_(held)
