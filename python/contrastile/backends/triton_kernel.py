"""Kernels that are launched again and again with arguments that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from .triton_script import Script


class Kernel:
    """A Triton kernel with its grid and all arguments but tensors, for calls whose tensors are alike: given or not, of
    one type, aligned to 16 bytes or not; one number for all where they are.

    The first launch is Triton's own, which looks at every argument to find or compile what is to be launched: that
    takes longer than the rest of a small call. The others hand its launcher what Triton would.
    """

    def __init__(
        self, function: Any, grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]
    ) -> None:
        self.function, self.grid, self.options = function, (*grid, 1, 1)[:3], options
        self.arguments = {name: arguments.get(name) for name in function.arg_names}  # in the kernel's order
        self.compiled: Any = None

    @property
    def direct(self) -> bool:
        """Whether the next launch is one of the others, which also take addresses in the place of tensors."""
        return self.compiled is not None and not self.function.pre_run_hooks

    def __call__(self, given: dict[str, Any]) -> None:
        """given: the rest of the arguments."""
        values = self.arguments | given
        if self.direct:
            self.launch(tuple(values.values()))
            return
        found = self.function[self.grid](**values, **self.options)
        # nothing in the interpreter; what another thread still compiles cannot be launched
        self.compiled = found if hasattr(found, "__getitem__") else None

    def launch(self, values: tuple[Any, ...]) -> None:
        """As `compiled[grid](*values)` does it, less what is for those who watch launches."""
        compiled, (runtime, driver) = self.compiled, of_triton()
        if watched(runtime.launch_enter_hook) or watched(runtime.launch_exit_hook):
            compiled[self.grid](*values)
            return
        active = driver.active
        stream = active.get_current_stream(active.get_current_device())
        compiled.run(*self.grid, stream, compiled.function, compiled.packed_metadata, None, None, None, *values)

    def code(self, script: Script, given: dict[str, Any]) -> str:
        """A launch as a line of the script, when `undisturbed` has said so. given: as in a call, code among it."""
        compiled = self.compiled
        run, function, metadata = map(script.name, (compiled.run, compiled.function, compiled.packed_metadata))
        script.name(compiled)  # as long as it lives, so does the function
        values = ", ".join(script.text(x) for x in (self.arguments | given).values())
        return f"{run}{self.grid}".rstrip(")") + f", stream, {function}, {metadata}, None, None, None, {values})"


def undisturbed(kernels: Sequence[Kernel]) -> bool:
    """Whether nobody watches launches, and nothing of Triton's is to run before them."""
    runtime = of_triton()[0]
    if watched(runtime.launch_enter_hook) or watched(runtime.launch_exit_hook):
        return False
    return not any([kernel.function.pre_run_hooks for kernel in kernels])


def active_driver() -> Any:
    return of_triton()[1].active


def watched(hook: Any) -> bool:
    """None, or a chain of hooks."""
    return hook is not None and bool(getattr(hook, "calls", True))


@cache
def of_triton() -> tuple[Any, Any]:
    """Its settings for launches, and what holds the driver."""
    from triton import knobs
    from triton.runtime import driver

    return knobs.runtime, driver
