"""Records what a call does to tensors, as a function of the tensors in its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# what may be asked of a tensor without looking at its numbers: guard.py has it, or what it follows from
ASKED = {
    getattr(Tensor, name).__get__
    for name in ("device", "dtype", "is_cpu", "is_cuda", "is_meta", "is_nested", "layout", "ndim", "requires_grad", "shape")
} | {
    getattr(Tensor, name)
    for name in ("__len__", "dim", "element_size", "is_contiguous", "is_floating_point", "numel", "size", "stride")
}  # fmt: skip
MOST_BYTES = 1 << 20  # of what a recording keeps
Call = Callable[..., Any]


class Step(NamedTuple):
    function: Call
    args: Sequence[Any]
    kwargs: dict[str, Any]
    outputs: Any  # a tensor or several


class Recorder(TorchFunctionMode):
    """Follows a call. It gives up where the call does what could be different in another call of its kind: reads a
    number from a tensor, changes a tensor in place, takes one from elsewhere."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = list(tensors)
        self.names = {id(x): f"x{index}" for index, x in enumerate(tensors)}
        self.constants: dict[str, Tensor] = {}  # made of no input
        self.steps: list[Step] = []
        self.done = False  # or given up
        self.engine = False  # whether the engine has run
        self.states = torch.get_rng_state()

    def __torch_function__(self, func: Call, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.done or func in ASKED:
            return func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        versions = versions_of(given)
        outputs = func(*args, **kwargs)
        if not given and not isinstance(outputs, Tensor):  # a question about types
            return outputs
        if versions is None or versions != versions_of(given):
            self.done = True
        else:
            self.add(Step(func, args, kwargs, outputs), given)
        return outputs

    def add(self, step: Step, given: Sequence[Tensor]) -> None:
        made = [step.outputs] if isinstance(step.outputs, Tensor) else step.outputs
        known = all(id(x) in self.names for x in given)
        constant = known and all(self.names[id(x)] in self.constants for x in given)
        if not isinstance(made, (list, tuple)) or not all(isinstance(x, Tensor) for x in made):
            self.done = not constant  # a number that is the same in every call
        elif not known:
            self.done = True
        elif new := [x for x in made if id(x) not in self.names]:
            constant = constant and not any(x.requires_grad for x in made)
            for x in new:
                self.names[id(x)] = name = f"{'c' if constant else 't'}{len(self.names)}"
                if constant:
                    self.constants[name] = x
            if not constant:
                self.steps.append(step)  # which keeps its tensors alive, so that no other gets their id

    def one_step(self, build: Callable[[], Call | None], tensors: Sequence[Tensor | None]) -> Any:
        before, self.done = self.done, True  # nothing inside is a step
        call = build()
        outputs = None if call is None else call(*tensors)
        self.done = before
        if not before and call is not None:
            self.engine = True
            self.add(Step(call, tensors, {}, outputs), [x for x in tensors if x is not None])
        return outputs

    def function(self, value: Any) -> Call | None:
        """What was recorded, of the tensors in the arguments; None: it cannot be told."""
        name = self.names.get(id(value), "")
        random = not torch.equal(self.states, torch.get_rng_state())
        if self.done or not self.engine or not name.startswith("t") or random:
            return None
        return self.compiled(name)

    def compiled(self, result: str) -> Call | None:
        """The steps that the result needs, as Python: a loop over them would cost as much as they do."""
        needed, lines, known = {result}, [f"return {result}"], dict[str, Any]()
        for step in reversed(self.steps):
            targets = [self.names[id(x)] for x in tree_leaves(step.outputs)]
            if not needed.intersection(targets):
                continue
            function = bound(known, step.function)
            given = [self.expression(x, known, needed) for x in step.args]
            given += [f"{key}={self.expression(x, known, needed)}" for key, x in step.kwargs.items()]
            left = targets[0] if isinstance(step.outputs, Tensor) else f"({', '.join(targets)},)"
            lines.append(f"{left} = {function}({', '.join(given)})")
        kept = {name: x for name, x in self.constants.items() if name in needed}
        if sum(x.nbytes for x in kept.values()) > MOST_BYTES:
            return None
        head = ", ".join(f"x{index}" for index in range(len(self.inputs)))
        exec("\n    ".join([f"def recorded({head}):", *reversed(lines)]), known | kept, found := {})
        return found["recorded"]

    def expression(self, x: Any, known: dict[str, Any], needed: set[str]) -> str:
        """x in the source, whose names are added to both."""
        if isinstance(x, Tensor):
            needed.add(name := self.names[id(x)])
            return name
        if type(x) in (list, tuple) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(x)):
            inner = "".join(f"{self.expression(each, known, needed)}, " for each in x)
            return f"[{inner}]" if type(x) is list else f"({inner})"
        return bound(known, x)


def versions_of(tensors: Sequence[Tensor]) -> list[int] | None:
    """Which change with each change in place; None: of tensors of inference mode nobody counts them."""
    return None if any(x.is_inference() for x in tensors) else [x._version for x in tensors]


def bound(known: dict[str, Any], x: Any) -> str:
    """A name for x."""
    known[name := f"k{len(known)}"] = x
    return name


RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def as_one_step(build: Callable[[], Call | None], *tensors: Tensor | None) -> Any:
    """What `build` returns, called with tensors; None where it returns None. A recording has it as one step, whatever
    it does inside: it may depend on what guard.py lists and on these tensors alone."""
    recorder = RECORDER.get()
    if recorder is not None:
        return recorder.one_step(build, tensors)
    call = build()
    return None if call is None else call(*tensors)
