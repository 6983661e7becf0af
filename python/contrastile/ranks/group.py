"""Which processes compute a loss together, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.distributed as dist

Group: TypeAlias = "dist.ProcessGroup | Ranks | Literal['world'] | None"
WORLD: Literal["world"] = "world"  # the default group of torch.distributed, whatever it is at the time of a call
Strategy: TypeAlias = Literal["auto", "gather", "ring"]
STRATEGIES = get_args(Strategy)
GATHER_BYTES = 1 << 30  # "auto": what the gathered columns and the float32 gradient of them may take on a rank


@dataclass(frozen=True)
class Ranks:
    """The ranks of a process group that compute one loss of their global batch: the `group` argument of every loss.

    Args:
        group: "world": all ranks, the default group of torch.distributed at the time of a call; or a process group.
            None is "world": what torch.distributed.group.WORLD is before init_process_group.
        strategy: How columns meet the rows of other ranks, with equal results:
            "gather": one all-gather of the columns, one reduce-scatter of their gradients; O(N D) memory per rank.
            "ring": one rank's columns at a time, passed on from rank to rank while they are computed with; O(N D / W)
            memory per rank.
            "auto": "gather" where what it holds is at most 1 GiB, else "ring".
        replicated_negatives: The `negatives` of a loss (column blocks after the first) are the same on every rank, as
            a queue is, and stay there. False: every rank brings its own, and they are negatives of all ranks' rows.
    """

    group: dist.ProcessGroup | Literal["world"] | None = WORLD
    strategy: Strategy = "auto"
    replicated_negatives: bool = False

    def __post_init__(self) -> None:
        check_group(self.group, "a process group", "'world'")
        object.__setattr__(self, "group", WORLD if self.group is None else self.group)
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(map(repr, STRATEGIES))}, got {self.strategy!r}")

    def __repr__(self) -> str:
        more = f", replicated_negatives={self.replicated_negatives}"
        return f"Ranks(group={group_text(self.group)}, strategy={self.strategy!r}{more})"

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """As torch.distributed takes it: None is the default group."""
        return None if isinstance(self.group, str) else self.group

    @property
    def size(self) -> int:
        return dist.get_world_size(self.process_group)

    @property
    def rank(self) -> int:
        """Of this process, within the group."""
        return dist.get_rank(self.process_group)

    def rings(self, size: int) -> bool:
        """Whether columns travel; size: bytes the gathered columns and their gradients would take."""
        return self.strategy == "ring" or (self.strategy == "auto" and size > GATHER_BYTES)

    def check_device(self, device: torch.device) -> None:
        if device.type == "cpu" and dist.get_backend_config(self.process_group) in ("nccl", "cuda:nccl"):
            raise ValueError("features must be on a GPU with a group of NCCL alone, got cpu")

    def control_device(self) -> torch.device:
        """Where small messages between the hosts lie: on the CPU if the group has a backend for it, so that no device
        is waited for."""
        config = dist.get_backend_config(self.process_group)
        if "cpu:" in config or config in ("gloo", "mpi"):
            return torch.device("cpu")
        accelerator = torch.accelerator.current_accelerator()
        return torch.device("cpu" if accelerator is None else accelerator.type)


def check_group(group: object, *kinds: str) -> None:
    """kinds: what is taken beside None."""
    if isinstance(group, int) and group == dist.GroupMember.NON_GROUP_MEMBER:  # what new_group gives to others
        raise ValueError("group must be one that this process belongs to")
    if isinstance(group, str) and group != WORLD:
        raise ValueError(f"group must be {', '.join(kinds)} or None, got {group!r}")
    if not (group is None or isinstance(group, str) or (dist.is_available() and isinstance(group, dist.ProcessGroup))):
        raise TypeError(f"group must be {', '.join(kinds)} or None, got {type(group).__name__}")


def resolve(group: Group) -> Ranks | None:
    """The ranks that a `group` argument stands for, at the time of a call; None: this process alone."""
    if group is None:
        return None
    if not isinstance(group, Ranks):
        check_group(group, "a process group", "'world'", "distributed.Ranks")
        group = Ranks(group)
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("group needs torch.distributed.init_process_group(), which was not called")
    if group.rank < 0:
        raise ValueError("group must be one that this process belongs to")
    return group


def group_text(group: Group) -> str:
    """For a module's repr: a process group by its name, which is that of torch.distributed, and its size."""
    if dist.is_available() and isinstance(group, dist.ProcessGroup):
        return f"<ProcessGroup {group.group_name!r} of {group.size()} ranks>"
    return repr(group)
