"""transformers' CLIP and SigLIP models with their loss fused: patch(model), undo(model). transformers is not imported.

A patched model that is asked for its loss (return_loss=True) computes it without logits, and leaves those out of its
output. Everything else is as before: docs/dropins/transformers.md.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from torch import distributed, nn
from torch.nn.utils.parametrize import is_parametrized

from ..literals import BackendName
from ..losses.in_batch import InBatch
from ..ops import check
from ..ranks import Group, resolve
from .transformers_families import FAMILIES, Family, euclidean_norm

BASE = "_contrastile_base"  # of the classes made here: the class they were made from
MARK = "_contrastile_patch"  # of the instances: a Fusion, from their patch. Without it the classes do nothing
Self = TypeVar("Self", bound="Patch")


@dataclass(eq=False)
class Fusion:
    """What a patched instance's forward hands to its loss. Copies and pickles have no report: nobody could read it."""

    backend: BackendName
    memory_budget: int | None
    group: Group = None
    report: InBatch | None = None

    def options(self) -> dict[str, Any]:
        given = {"report": self.report} if self.report is not None else {}  # not every loss takes one
        return {"backend": self.backend, "memory_budget": self.memory_budget, "group": self.group, **given}

    def __deepcopy__(self, memo: dict[int, Any]) -> Fusion:
        return Fusion(self.backend, self.memory_budget, self.group)

    def __reduce__(self) -> tuple[Any, ...]:
        return Fusion, (self.backend, self.memory_budget, self.group)


def patch(
    model: nn.Module,
    *,
    group: Group = None,
    report: InBatch | None = None,
    backend: BackendName = "auto",
    memory_budget: int | None = None,
) -> Patch:
    """Fuses the loss of every CLIP- or SigLIP-type model in `model`, of these instances alone.

    Their class becomes a subclass of the same name, whose forward computes a requested loss without logits. Parameters,
    buffers, state_dict and type checks are unaffected; copies and pickles stay patched, undo() takes them back.

    Args:
        model: A model of transformers, or a module that holds some.
        group: Whose rows are candidates, as in clip_loss: "world", a process group or Ranks. Every rank has to ask for
            its loss as often as the others. None: this process's alone, as in transformers.
        report: A contrastile.metrics.InBatch that every loss fills with in-batch accuracy: recall of images (audio)
            among texts, key_recall of texts. For one model with a softmax loss; of CLAP's two, the first.
        backend, memory_budget: As in clip_loss.

    Returns: A handle that names what was replaced and undoes it: call undo(), or use it in a `with`.
    """
    check.backend(backend)
    check.budget(memory_budget)
    if distributed.is_available() and distributed.is_initialized():
        resolve(group)  # else the first loss says what is wrong with it
    found = {path: module for path, module in model.named_modules() if known_class(type(module)) is not None}
    if not found:
        raise ValueError(
            f"nothing to patch in {type(model).__name__}: it holds none of transformers' {', '.join(sorted(FAMILIES))}"
        )
    if report is not None:
        reportable(report, found)
    made = {path: fused_class(patchable(module)) for path, module in found.items()}
    return Patch(found, made, Fusion(backend, memory_budget, group, report))


def reportable(report: InBatch, found: dict[str, nn.Module]) -> None:
    """Refuses a report that would be overwritten, or never written."""
    if not isinstance(report, InBatch):
        raise TypeError(f"report must be a contrastile.metrics.InBatch, got {type(report).__name__}")
    if len(found) > 1:
        raise ValueError(f"report must be None with several models, each would overwrite it: {', '.join(found)}")
    (module,) = found.values()
    if not family_of(type(module)).loss.reports:
        raise ValueError(f"report must be None with {type(module).__name__}: its loss has no softmax to report on")


def undo(model: nn.Module) -> list[str]:
    """Gives all patched instances in `model` their own forward back: also copies, which no handle knows.

    Returns: Their paths; none where nothing is patched.
    """
    found = {path: module for path, module in model.named_modules() if hasattr(type(module), BASE)}
    restore(list(found.values()))
    return list(found)


class Patch:
    """What patch() replaced, by path in the model: `replaced`. undo() gives the instances their own forward back."""

    def __init__(self, modules: dict[str, nn.Module], made: dict[str, type[nn.Module]], fusion: Fusion) -> None:
        self.modules = modules
        self.fusion = fusion
        self.replaced = {path: describe(type(module)) for path, module in modules.items()}
        for path, module in modules.items():
            module.__class__ = made[path]
            setattr(module, MARK, fusion)

    def undo(self) -> None:
        """Of this patch alone: it does nothing to instances that were taken back before, or patched anew since."""
        restore([module for module in self.modules.values() if vars(module).get(MARK) is self.fusion])

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        lines = (f"{path or 'model'}: {text}" for path, text in self.replaced.items())
        return f"Patch({'; '.join(lines)})"


def known_class(cls: type) -> type | None:
    """The class of transformers, own or inherited, that FAMILIES knows."""
    for base in cls.__mro__:
        if base.__name__ in FAMILIES and base.__module__.startswith("transformers.") and BASE not in vars(base):
            return base
    return None


def family_of(cls: type) -> Family:
    known = known_class(cls)
    assert known is not None
    return FAMILIES[known.__name__]


def describe(cls: type) -> str:
    known = known_class(cls)
    assert known is not None
    return f"loss of {known.__name__}.forward by contrastile.{family_of(cls).loss.name}"


def patchable(module: nn.Module) -> Any:
    """The module's class, if its forward is the one its family describes."""
    if hasattr(module, MARK):
        raise ValueError(
            f"{type(module).__name__} is patched already: undo that first, by its handle or by "
            "contrastile.compat.transformers.undo(model)"
        )
    cls = original_class(module)  # type(patched)(config) is of a class made here, but not patched
    known = known_class(cls)
    assert known is not None
    if is_parametrized(module):
        raise ValueError(
            f"this {cls.__name__} has parametrized tensors of its own, which could not be taken off a patched model: "
            "patch it before they are parametrized"
        )
    if "forward" in vars(module):
        raise ValueError(
            f"forward of this {cls.__name__} is wrapped, which hides a patch: patch it before it is wrapped"
        )
    forward = vars(known)["forward"]
    if inspect.getattr_static(cls, "forward") is not forward:
        raise ValueError(
            f"{cls.__name__} has a forward of its own, not {known.__name__}'s: its loss cannot be replaced"
        )
    strange = differences(FAMILIES[known.__name__], forward)
    if strange:
        raise ValueError(f"{known.__name__}.forward of this version of transformers is not known: {strange}")
    return cls


def differences(family: Family, forward: Any) -> str:
    """What a forward does otherwise than its family says: other versions of transformers have other forwards."""
    names = inspect.unwrap(forward).__code__.co_names
    parameters = inspect.signature(forward).parameters.values()
    named = {x.name for x in parameters if x.kind is not x.VAR_KEYWORD} - {"self"}
    missing, unknown = family.names() - {*names, *named}, named - family.known()
    texts = (("makes no use of", missing), ("takes", unknown))
    return " and ".join(f"it {text} {', '.join(sorted(some))}" for text, some in texts if some)


def restore(modules: list[nn.Module]) -> None:
    """All of them, or none and an error."""
    bases = [original_class(module) for module in modules]
    for module, base in zip(modules, bases, strict=True):
        module.__class__ = base
        vars(module).pop(MARK, None)


def original_class(module: nn.Module) -> type[nn.Module]:
    cls = type(module)
    base: type[nn.Module] = vars(cls).get(BASE, cls)
    if base is cls and hasattr(cls, BASE):
        raise RuntimeError(f"the class of this {cls.__name__} was changed after patch(): undo that change first")
    return base


@functools.cache  # equal models share a class, so that torch.compile need not compile anew for each
def fused_class(base: Any) -> type[nn.Module]:
    known = known_class(base)
    assert known is not None
    fused = FusedForward(FAMILIES[known.__name__], known)
    original = base.forward

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # not after undo(), when a wrapper (accelerate's) still calls this; nor in new models of a patched one's class
        patched = hasattr(self, MARK)
        call = fused.call(args, kwargs) if patched else None
        return original(self, *args, **kwargs) if call is None else fused(self, call)

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
        """The class made here cannot be found by its name: pickles and copies make it again."""
        whole: Any = base.__reduce_ex__(self, max(protocol, 2))
        return (unpickled, (base,), *whole[2:])

    names = {"forward": forward, "__reduce_ex__": reduce, BASE: base}
    names |= {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    made: type[nn.Module] = types.new_class(base.__name__, (base,), exec_body=lambda space: space.update(names))
    return made


def unpickled(base: Any) -> nn.Module:
    cls = fused_class(base)
    return cls.__new__(cls)


class FusedForward:
    """A class's forward with return_loss=True: its encoders, its normalisation, its output, and a fused loss."""

    def __init__(self, family: Family, known: type) -> None:
        self.family = family
        module = sys.modules[known.__module__]
        self.output = getattr(module, family.output or known.__name__.removesuffix("Model") + "Output")
        self.norm = getattr(module, "_get_vector_norm", euclidean_norm)
        parameters = list(inspect.signature(vars(known)["forward"]).parameters.values())[1:]
        self.defaults = {x.name: x.default for x in parameters if x.kind is not x.VAR_KEYWORD}
        self.positional = tuple(self.defaults)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """All arguments by name; None where the original forward shall answer: no loss, no pairs, a wrong call."""
        named = dict(zip(self.positional, args, strict=False))
        if len(args) > len(self.positional) or any(name in kwargs for name in named):
            return None
        call = {**self.defaults, **named, **kwargs}
        text, other = self.arguments(call)
        if not call["return_loss"] or not given(text) or not given(other):
            return None
        return call

    def arguments(self, call: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The text encoder's and the other encoder's."""
        text, other = {}, {}
        for name, value in call.items():
            if name == "return_dict":  # also where forward does not name it
                continue
            to_text, to_other = self.family.route(name, named=name in self.defaults)
            if to_text:
                text[name] = value
            if to_other:
                other[name] = value
        return text, other

    def __call__(self, model: nn.Module, call: dict[str, Any]) -> Any:
        config: Any = model.config
        if call.get("output_segmentation") or (
            call.get("output_segmentation", False) is None and config.output_segmentation
        ):
            raise NotImplementedError("output_segmentation=True needs all logits: ask for it without return_loss")
        family, fusion = self.family, getattr(model, MARK)
        text_arguments, other_arguments = self.arguments(call)
        other_output, other = family.other.embed(model, other_arguments, self.norm)
        text_output, text = family.text.embed(model, text_arguments, self.norm)
        output = self.output(
            loss=family.loss.of(model, text, other, **fusion.options()),
            **{"text_embeds": text, f"{family.other.name}_embeds": other},
            **{family.text.output: text_output, family.other.output: other_output},
        )
        return_dict = call.get("return_dict")
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def given(arguments: dict[str, Any]) -> bool:
    return any(hasattr(x, "shape") for x in arguments.values())
