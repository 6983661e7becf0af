"""Kernels that are launched again and again with arguments that are alike."""

from __future__ import annotations

from typing import Any


class Kernel:
    """A Triton kernel with its grid and all arguments but tensors, for calls whose tensors are alike: given or not, of
    one type, aligned to 16 bytes or not; one number for all where they are.

    The first launch is Triton's own, which looks at every argument to find or compile what is to be launched: that
    takes longer than the rest of a small call. The others launch what the first one did.
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
            self.compiled[self.grid](*values.values())
            return
        found = self.function[self.grid](**values, **self.options)
        # nothing in the interpreter; what another thread still compiles cannot be launched
        self.compiled = found if hasattr(found, "__getitem__") else None
