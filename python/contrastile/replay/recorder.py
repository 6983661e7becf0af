"""Records what a call does to tensors, as a function of the tensors in its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# what may be asked of a tensor without looking at its numbers: guard.py has it, or what it follows from
ASKED = {
    getattr(Tensor, name).__get__
    for name in (
        "device", "dtype", "is_cpu", "is_cuda", "is_meta", "is_nested", "layout", "ndim", "requires_grad", "shape"
    )
} | {
    getattr(Tensor, name)
    for name in ("__len__", "dim", "element_size", "is_contiguous", "is_floating_point", "numel", "size", "stride")
}  # fmt: skip
# functions whose result is as long as numbers say
LONG_BY_NUMBERS = {
    "arange", "argwhere", "bincount", "masked_select", "nonzero", "one_hot", "unique", "unique_consecutive"
}  # fmt: skip
NUMBERS = (bool, int, float, list)  # what is read of constants is one of these
MOST_BYTES = 1 << 17  # of constants that a recording keeps
MOST_NUMBERS = 1 << 20  # of a tensor: while a call is recorded, all that it makes stays in memory
MOST_PAIRS = 1 << 20  # of one step
Call = Callable[..., Any]


class Step(NamedTuple):
    function: Call
    args: Sequence[Any]
    kwargs: dict[str, Any]
    outputs: Any  # a tensor or several
    always: bool  # also where nobody needs the outputs


class Recorder(TorchFunctionMode):
    """Follows a call. It gives up where the call does what could be different in another call of its kind: reads a
    number from a tensor, changes a tensor in place, takes one from elsewhere."""

    def __init__(self, inputs: Sequence[Tensor | Generator]) -> None:
        super().__init__()
        self.inputs = list(inputs)
        self.names = {id(x): f"x{index}" for index, x in enumerate(inputs)}
        self.constants: dict[str, Tensor] = {}  # made of no input
        self.steps: list[Step] = []
        self.done = False  # or given up
        self.worth = False  # whether a step of ours has been recorded
        self.modes, self.random = modes(), random_states(self.inputs)

    def __torch_function__(self, func: Call, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.done or func in ASKED:
            return func(*args, **kwargs)
        return self.follow(func, args, kwargs)

    def follow(self, function: Call, args: Sequence[Any], kwargs: dict[str, Any], ours: bool = False) -> Any:
        """function(*args, **kwargs), and a step of it. ours: it may return None, see as_one_step."""
        self.done = True  # nothing inside is a step, and an error that is caught is the end
        leaves = tree_leaves((args, kwargs))
        given = [x for x in leaves if isinstance(x, Tensor)]
        before, random_before = states_of(given), self.random
        outputs = function(*args, **kwargs)
        self.random = random_states(self.inputs)
        # operations of another mode, as in a function with its own derivative, are not what they are to autograd
        changed = before is None or before != states_of(given) or modes() != self.modes
        hidden = any(map(self.is_hidden, leaves)) or any(map(self.varies, deciding(function, args, given)))
        random = not all(map(torch.equal, random_before, self.random))
        self.done = False
        if not given and not isinstance(outputs, Tensor):  # a question about types
            return outputs
        if changed or hidden:
            self.give_up()
        else:
            check = ours and outputs is None
            self.add(Step(function, args, kwargs, () if check else outputs, check or random), given)
        return outputs

    def is_hidden(self, x: Any) -> bool:
        """Whether x, an argument of a function, holds what differs from call to call and no step replaces."""
        if isinstance(x, slice):
            return any(isinstance(place, Tensor) for place in (x.start, x.stop, x.step))
        return isinstance(x, Generator) and id(x) not in self.names

    def varies(self, x: Tensor) -> bool:
        """Whether another call of the kind may have other numbers in x."""
        return self.names.get(id(x)) not in self.constants

    def add(self, step: Step, given: Sequence[Tensor]) -> None:
        made = [step.outputs] if isinstance(step.outputs, Tensor) else step.outputs
        several = isinstance(made, (list, tuple)) and all(isinstance(x, Tensor) for x in made)
        constant = not step.always and not any(map(self.varies, given))
        # a number that is read of constants is the same in every call; what changes memory needs its place
        read = constant and isinstance(made, NUMBERS) and step.function is not Tensor.data_ptr
        large = several and any(x.numel() > MOST_NUMBERS for x in made)
        if large or not all(id(x) in self.names for x in given) or not (several or read):
            self.give_up()
        elif several:
            self.keep(step, made, constant and not any(x.requires_grad for x in made))

    def keep(self, step: Step, made: Sequence[Tensor], constant: bool) -> None:
        new = list({id(x): x for x in made if id(x) not in self.names}.values())  # one may come twice
        for x in new:
            self.names[id(x)] = name = f"{'c' if constant else 't'}{len(self.names)}"
            if constant:
                self.constants[name] = x
        if step.always or (new and not constant):
            self.steps.append(step)  # which keeps its tensors alive, so that no other gets their id

    def give_up(self) -> None:
        self.done = True
        self.steps.clear()  # and the memory of their tensors
        self.constants.clear()

    def apart(self, make: Call) -> Any:
        before, self.done = self.done, True
        found = make()
        self.done = before
        return found

    def one_step(self, call: Call, args: Sequence[Any], pairs: int) -> Any:
        if pairs > MOST_PAIRS:
            self.give_up()
        if self.done:
            return call(*args)
        outputs = self.follow(call, args, {}, ours=True)
        self.worth |= outputs is not None
        return outputs

    def function(self, value: Any) -> Call | None:
        """What was recorded, of the tensors in the arguments; None: it cannot be told."""
        name = self.names.get(id(value), "")
        if self.done or not self.worth or not name.startswith("t"):
            return None
        return self.compiled(name)

    def compiled(self, result: str) -> Call | None:
        """The steps that the result needs, as Python: a loop over them would cost as much as they do."""
        needed, lines, known = {result}, [f"return {result}"], dict[str, Any]()
        for step in reversed(self.steps):
            made = tree_leaves(step.outputs)
            targets = [self.names[id(x)] for x in made]
            # what autograd saves must be the same in every call: torch.utils.checkpoint counts it
            if not (step.always or any(x.requires_grad for x in made) or needed.intersection(targets)):
                continue
            function = bound(known, step.function)
            given = [self.expression(x, known, needed) for x in step.args]
            given += [f"{key}={self.expression(x, known, needed)}" for key, x in step.kwargs.items()]
            left = f"{targets[0]} = " if isinstance(step.outputs, Tensor) else "".join(f"{x}, " for x in targets) + "= "
            lines.append(f"{left if targets else ''}{function}({', '.join(given)})")
        kept = {name: x for name, x in self.constants.items() if name in needed}
        if sum(x.nbytes for x in kept.values()) > MOST_BYTES:
            return None
        head = ", ".join(f"x{index}" for index in range(len(self.inputs)))
        found: dict[str, Call] = {}
        exec("\n    ".join([f"def recorded({head}):", *reversed(lines)]), known | kept, found)
        return found["recorded"]

    def expression(self, x: Any, known: dict[str, Any], needed: set[str]) -> str:
        """x in the source, whose names are added to both."""
        if id(x) in self.names:  # a tensor, or a generator in the arguments
            needed.add(name := self.names[id(x)])
            return name
        if type(x) in (list, tuple) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(x)):
            inner = "".join(f"{self.expression(each, known, needed)}, " for each in x)
            return f"[{inner}]" if type(x) is list else f"({inner})"
        return bound(known, x)


def states_of(tensors: Sequence[Tensor]) -> list[tuple[int, bool]] | None:
    """Which change with each change in place; None: of tensors of inference mode nobody counts them."""
    return None if any(x.is_inference() for x in tensors) else [(x._version, x.requires_grad) for x in tensors]


def deciding(function: Call, args: Sequence[Any], given: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors among the arguments whose numbers decide how long the result is."""
    name = getattr(function, "__name__", "")
    if name == "__getitem__":
        return [x for x in given[1:] if x.dtype in (torch.bool, torch.uint8)]
    if name in ("repeat_interleave", "where"):  # of one argument they are other functions
        return given if len(args) == 1 else given[1:] if name == "repeat_interleave" else ()
    return given if name in LONG_BY_NUMBERS else ()


def modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch._C._is_any_autocast_enabled()


def random_states(args: Sequence[Any]) -> list[Tensor]:
    """Of torch's own generators and those among args. Random numbers are drawn anew in every call."""
    devices = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    own = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, range(devices))]
    return own + [x.get_state() for x in args if isinstance(x, Generator)]


def bound(known: dict[str, Any], x: Any) -> str:
    """A name for x."""
    known[name := f"k{len(known)}"] = x
    return name


RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def as_one_step(call: Call, *args: Any, pairs: int = 0) -> Any:
    """call(*args), which a recording has as one step, whatever happens inside: it may depend on what guard.py lists and
    on the tensors among args alone. It returns tensors, or None: then it is a check that every call makes. A step of
    more than MOST_PAIRS pairs is not recorded."""
    recorder = None if torch.compiler.is_compiling() else RECORDER.get()
    return call(*args) if recorder is None else recorder.one_step(call, args, pairs)


def made_apart(make: Call) -> Any:
    """make(), into which a recording does not look: what it returns depends on what guard.py lists alone."""
    recorder = RECORDER.get()
    return make() if recorder is None else recorder.apart(make)
