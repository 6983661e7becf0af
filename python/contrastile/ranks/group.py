"""Which processes compute a loss together, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

Group: TypeAlias = "dist.ProcessGroup | DeviceMesh | Ranks | Literal['world'] | None"
WORLD: Literal["world"] = "world"  # the default group of torch.distributed, whatever it is at the time of a call
Strategy: TypeAlias = Literal["auto", "gather", "ring"]
STRATEGIES = get_args(Strategy)
GATHER_BYTES = 1 << 30  # "auto": what the gathered columns and the float32 gradient of them may take on a rank


@dataclass(frozen=True)
class Ranks:
    """The ranks of a process group that compute one loss of their global batch: the `group` argument of every loss.

    Args:
        group: "world": all ranks, the default group of torch.distributed at the time of a call; or a process group; or
            a DeviceMesh of one dimension. None is "world": what torch.distributed.group.WORLD is before
            init_process_group.
        strategy: How columns meet the rows of other ranks, with equal results:
            "gather": one all-gather of the columns, one reduce-scatter of their gradients; O(N D) memory per rank.
            "ring": one rank's columns at a time, passed on from rank to rank while they are computed with; O(N D / W)
            memory per rank.
            "auto": "gather" where what it holds is at most 1 GiB, else "ring".
        replicated_negatives: The `negatives` of a loss (column blocks after the first) are the same on every rank, as
            a queue is, and stay there. False: every rank brings its own, and they are negatives of all ranks' rows.
        sizes: A promise that saves the exchange of sizes and options before each call: the number of items of every
            rank, one or more each, in the order of ranks. torch.compile needs it for one graph. Whatever else ranks
            bring (views, keys, negatives, padded tokens) is the same multiple of the items on all ranks or, where all
            sizes are equal, as many on each; options and which tensors require gradients are equal, too. A rank refuses
            a promise that its own tensors break. What it cannot see makes the others wait or compute another loss, and
            a rank that fails cannot tell them. None: ranks compare first.

    Example:
        >>> even = Ranks(sizes=[256] * 8)  # drop the last, smaller batch
        >>> last = Ranks(sizes=[256, 256, 256, 90])
    """

    group: dist.ProcessGroup | DeviceMesh | Literal["world"] | None = WORLD
    strategy: Strategy = "auto"
    replicated_negatives: bool = False
    sizes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_group(self.group, "a process group", "a DeviceMesh", "'world'")
        group = group_of(self.group) if isinstance(self.group, DeviceMesh) else self.group
        object.__setattr__(self, "group", WORLD if group is None else group)
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(map(repr, STRATEGIES))}, got {self.strategy!r}")
        if self.sizes is not None:
            object.__setattr__(self, "sizes", promise(self.sizes))

    def __repr__(self) -> str:
        more = f", replicated_negatives={self.replicated_negatives}"
        more += "" if self.sizes is None else f", sizes={self.sizes}"
        return f"Ranks(group={group_text(self.group)}, strategy={self.strategy!r}{more})"

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """As torch.distributed takes it: None is the default group."""
        assert not isinstance(self.group, DeviceMesh)  # __post_init__ has taken its group
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

    def promised(self, counts: Sequence[int]) -> list[list[int]]:
        """What every rank has, from `sizes` and what this one has."""
        assert self.sizes is not None
        own = self.sizes[self.rank]
        equal = all(size == own for size in self.sizes)  # no set: it would bind a graph to these sizes
        found = []
        for place, count in enumerate(counts):
            if count % own == 0:
                found.append([count // own * size for size in self.sizes])
            elif place and (equal or self.replicated_negatives):
                found.append([count] * len(self.sizes))
            else:
                raise ValueError(
                    f"sizes of group promise {own} items on rank {self.rank}, got {count}, which is no multiple"
                )
        return [list(each) for each in zip(*found, strict=True)]

    def check_items(self, count: int) -> None:
        """Refuses a promise that this rank sees broken."""
        if self.sizes is not None and count != self.sizes[self.rank]:
            raise ValueError(f"sizes of group promise {self.sizes[self.rank]} items on rank {self.rank}, got {count}")

    def refuse_promise(self, what: str) -> None:
        """Of something whose numbers no multiple of the items says."""
        if self.sizes is not None:
            raise ValueError(f"sizes of group must be None with {what}: ranks must compare how many they have")

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


def promise(sizes: Sequence[int]) -> tuple[int, ...]:
    if isinstance(sizes, (str, torch.Tensor)) or not isinstance(sizes, Sequence):
        raise TypeError(f"sizes must be a sequence of ints, one for each rank, got {type(sizes).__name__}")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"sizes must be ints, got {type(size).__name__}")
        if size < 1:
            raise ValueError(f"sizes must be >= 1, got {size}: a rank without items cannot tell what the others bring")
    return tuple(sizes)


def group_of(mesh: DeviceMesh) -> dist.ProcessGroup:
    """Of a mesh of one dimension."""
    if mesh.ndim != 1:
        names = mesh.mesh_dim_names or ()
        raise ValueError(
            f"group must be a DeviceMesh of one dimension, got {mesh.ndim} dimensions"
            + (f" ({', '.join(names)}): choose that of data parallelism, as mesh[{names[0]!r}]" if names else "")
        )
    return mesh.get_group()


def check_group(group: object, *kinds: str) -> None:
    """kinds: what is taken beside None."""
    if isinstance(group, int) and group == dist.GroupMember.NON_GROUP_MEMBER:  # what new_group gives to others
        raise ValueError("group must be one that this process belongs to")
    if isinstance(group, str) and group != WORLD:
        raise ValueError(f"group must be {', '.join(kinds)} or None, got {group!r}")
    if not (
        group is None
        or isinstance(group, (str, DeviceMesh))
        or (dist.is_available() and isinstance(group, dist.ProcessGroup))
    ):
        raise TypeError(f"group must be {', '.join(kinds)} or None, got {type(group).__name__}")


def resolve(group: Group) -> Ranks | None:
    """The ranks that a `group` argument stands for, at the time of a call; None: this process alone."""
    if group is None:
        return None
    if not isinstance(group, Ranks):
        check_group(group, "a process group", "a DeviceMesh", "'world'", "distributed.Ranks")
        group = Ranks(group)
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("group needs torch.distributed.init_process_group(), which was not called")
    if group.rank < 0:
        raise ValueError("group must be one that this process belongs to")
    if group.sizes is not None and len(group.sizes) != group.size:
        raise ValueError(f"sizes must have a number for each of the {group.size} ranks, got {len(group.sizes)}")
    return group


def group_text(group: Group) -> str:
    """For a module's repr: a process group by its name, which is that of torch.distributed, and its size."""
    if dist.is_available() and isinstance(group, dist.ProcessGroup):
        return f"<ProcessGroup {group.group_name!r} of {group.size()} ranks>"
    return repr(group)
