"""What puts the losses into open_clip's training: release 3.3.0 makes a loss of its arguments, main a task with one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from torch import nn

from ...literals import BackendName
from .losses import ClipLoss, CoCaLoss, DistillClipLoss, GenLipLoss
from .siglip import SigLipLoss

Task = TypeVar("Task", bound=nn.Module)
GENERATIVE = ("genlip", "genlap")  # models of captions alone, by parts of their names
FLAGS = ("local_loss", "gather_with_grad", "cache_labels", "rank", "world_size")
OWN = (ClipLoss, CoCaLoss, DistillClipLoss, GenLipLoss, SigLipLoss)
KINDS: dict[str, type[nn.Module]] = {x.__name__: x for x in (ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss)}


def create_loss(args: Any, *, backend: BackendName = "auto", memory_budget: int | None = None) -> nn.Module:
    """The loss open_clip.create_loss makes of the training script's arguments, by the same rules."""
    engine: dict[str, Any] = {"backend": backend, "memory_budget": memory_budget}
    ranks = {"rank": args.rank, "world_size": args.world_size}
    model, horovod = args.model.lower(), getattr(args, "horovod", False)  # main has no such argument
    common = {
        "local_loss": args.local_loss, "gather_with_grad": args.gather_with_grad, "cache_labels": caches_labels(args),
        **ranks, "use_horovod": horovod, **engine,
    }  # fmt: skip
    if args.distill:
        return DistillClipLoss(**common)
    if "coca" in model:
        return CoCaLoss(args.coca_caption_loss_weight, args.coca_contrastive_loss_weight, **common)
    if any(name in model for name in GENERATIVE):
        return GenLipLoss()
    if args.siglip:
        if horovod:
            raise NotImplementedError("horovod is not supported with siglip, in open_clip neither")
        return SigLipLoss(**ranks, dist_impl=args.loss_dist_impl, **engine)
    return ClipLoss(**common)


def caches_labels(args: Any) -> bool:
    """As main decides it; without effect here."""
    compiled = getattr(args, "torchcompile", False)
    return not (compiled and getattr(args, "torchcompile_strategy", None) in ("task", "step"))


def create_task(
    args: Any,
    model: nn.Module,
    dist_model: nn.Module | None = None,
    naflex_data_config: Any = None,
    *,
    backend: BackendName = "auto",
    memory_budget: int | None = None,
) -> nn.Module:
    """The training task open_clip.create_task makes of the same arguments, with its loss fused. For main alone."""
    package = import_module("open_clip")
    if not hasattr(package, "create_task"):
        version = getattr(package, "__version__", "of this version")
        raise RuntimeError(f"open_clip {version} has no training tasks: use create_loss, as its training does")
    task: nn.Module = package.create_task(args, model, dist_model, naflex_data_config)
    return fuse_task(task, backend=backend, memory_budget=memory_budget)


def fuse_task(task: Task, *, backend: BackendName = "auto", memory_budget: int | None = None) -> Task:
    """Replaces the loss of one of open_clip's training tasks by the drop-in with the same settings, in place.

    A loss that is given to a task, CLIPTask(model, loss=ClipLoss(..)), has to name rank, world_size, local_loss and
    gather_with_grad itself: the task hands its own to no loss but the one it makes. This takes them from that one.

    Args:
        task: CLIPTask, SigLIPTask, CoCaTask, DistillCLIPTask, CLAPTask or a class derived from one.
        backend, memory_budget: As in clip_loss.

    Raises: ValueError for a task without a loss, or whose loss is neither open_clip's own nor a drop-in's.
    """
    name = type(task).__name__
    loss = getattr(task, "loss", None)
    if not isinstance(loss, nn.Module):
        raise ValueError(f"this {name} has no loss to replace: its model computes one itself, or it only evaluates")
    if not isinstance(loss, OWN):
        task.loss = fused(name, loss, {"backend": backend, "memory_budget": memory_budget})
    return task


def fused(task: str, loss: Any, engine: dict[str, Any]) -> nn.Module:
    """The drop-in with the settings of one of open_clip's own losses."""
    cls = type(loss)
    if cls.__name__ not in KINDS or cls.__module__ != "open_clip.loss":
        known, given = ", ".join(KINDS), f"{cls.__module__}.{cls.__name__}"
        raise ValueError(f"the loss of this {task} must be one of open_clip's {known}, got {given}")
    kind: Callable[..., nn.Module] = KINDS[cls.__name__]
    if cls.__name__ == "SigLipLoss":
        names = ("cache_labels", "rank", "world_size", "dist_impl")
        return kind(
            **{name: getattr(loss, name) for name in names}, chunk_size=getattr(loss, "chunk_size", 0), **engine
        )
    settings = {name: getattr(loss, name) for name in FLAGS} | engine
    if cls.__name__ == "CoCaLoss":
        settings |= {name: getattr(loss, name) for name in ("caption_loss_weight", "clip_loss_weight")}
        settings["pad_id"] = loss.caption_loss.ignore_index
    return kind(**settings, use_horovod=getattr(loss, "use_horovod", False))


def use_in(program: Any, *, backend: BackendName = "auto", memory_budget: int | None = None) -> tuple[str, ...]:
    """Has open_clip's training program, or one that is written like it, take its losses from here.

        import open_clip_train.main as program
        use_in(program)
        program.main(sys.argv[1:])

    Args:
        program: A module that calls create_task or create_loss by that name, as the one above does in main and in
            3.3.0. Its names are set; open_clip itself stays as it is.
        backend, memory_budget: As in clip_loss.

    Returns: The names that were set. Raises: ValueError where there are none, so that nothing would be replaced.
    """
    makers: dict[str, Callable[..., nn.Module]] = {"create_loss": create_loss, "create_task": create_task}
    found = tuple(name for name in makers if hasattr(program, name))
    if not found:
        raise ValueError(
            f"{getattr(program, '__name__', program)} calls neither create_loss nor create_task of open_clip: "
            "nothing in it can be replaced"
        )
    engine: dict[str, Any] = {"backend": backend, "memory_budget": memory_budget}
    for name in found:
        setattr(program, name, partial(makers[name], **engine))
    return found
