"""Losses of the catalog as test parameters, and calls of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from contrastile import backends
from contrastile.catalog import CATALOG, Case, LossCard

from .combinations import by_default, crossed

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, torch.float64, *HALF)


def usable(device: str, dtypes: tuple[torch.dtype, ...] = DTYPES) -> list[tuple[str, torch.dtype]]:
    """Every backend that can run on the device, with each type it takes."""
    pairs = [(backend, dtype) for backend in backends.BACKENDS for dtype in dtypes]
    return [(b.name, dtype) for b, dtype in pairs if backends.reason(b, torch.device(device), dtype) is None]


def id_of(value: Any) -> str | None:
    return value.name if isinstance(value, LossCard) else str(value).removeprefix("torch.") if value else None


VARIANTS = [(card, variant) for card in CATALOG for variant in card.variants]
every_variant = pytest.mark.parametrize("card, variant", VARIANTS, ids=id_of)


def every_variant_once(names: str, *axes: Sequence[Any]) -> pytest.MarkDecorator:
    """The first variant of every loss with all combinations of the other parameters, the others with one each; the
    rest with --run-slow."""
    chosen, combinations = [], crossed(*axes)
    for place, (card, variant) in enumerate(VARIANTS):
        first = variant == next(iter(card.variants))
        for index, combination in enumerate(combinations):
            quick = first or index == place % len(combinations)
            chosen.append(pytest.param(card, variant, *combination, marks=() if quick else pytest.mark.slow))
    return pytest.mark.parametrize(f"card, variant, {names}", chosen, ids=id_of)


every_loss = pytest.mark.parametrize("card", CATALOG, ids=id_of)
# made of the parts of another loss of their family, which stands for them where a test is dear
RELATED = ("clip_distill_loss", "cwcl_loss", "debiased_nt_xent", "dclw", "cuaxu", "alignment")
RELATED += ("cross_modal_consistency",)
every_family = pytest.mark.parametrize(
    "card", by_default(CATALOG, *(card for card in CATALOG if card.name not in RELATED)), ids=id_of
)
every_pair_loss = pytest.mark.parametrize("card", [card for card in CATALOG if card.gemm], ids=id_of)


def make(card: LossCard, variant: str, n: int, d: int, dtype: torch.dtype = torch.float32) -> Case:
    generator = torch.Generator().manual_seed(100 * n + d)
    return card.variants[variant](n, d, generator, dtype)


def takes(card: LossCard, option: str) -> bool:
    return option in inspect.signature(card.function).parameters


def default(card: LossCard, n: int = 12, d: int = 8, dtype: torch.dtype = torch.float32) -> Case:
    return make(card, next(iter(card.variants)), n, d, dtype)


def each_tensor(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    """The case with every floating-point tensor replaced."""

    def changed(x: Any) -> Any:
        return change(x) if isinstance(x, Tensor) and x.is_floating_point() else x

    kwargs = {name: changed(x) for name, x in case.kwargs.items()}
    return replace(case, args=tuple(map(changed, case.args)), kwargs=kwargs)


def moved(case: Case, device: str = "cuda") -> Case:
    """The case on another device."""

    def there(x: Any) -> Any:
        return x.to(device) if isinstance(x, Tensor) else x

    kwargs = {name: there(x) for name, x in case.kwargs.items()}
    return replace(case, args=tuple(map(there, case.args)), kwargs=kwargs)


def emptied(case: Case) -> Case:
    """The case with no items: features without rows, labels and permutations without entries."""

    def cut(x: Any) -> Any:
        return x[..., :0] if isinstance(x, Tensor) and x.dtype == torch.int64 else x

    case = each_tensor(case, lambda x: x[..., :0, :] if x.dim() > 1 else x)
    kwargs = {name: cut(x) for name, x in case.kwargs.items()}
    return replace(case, args=tuple(map(cut, case.args)), kwargs=kwargs)


def required(case: Case) -> dict[str, Any]:
    """Keyword arguments that a call cannot do without, or would draw at random."""
    return {name: case.kwargs[name] for name in ("logit_scale", "permutations") if name in case.kwargs}


def leaves(case: Case, of_items: bool = False) -> list[Tensor]:
    """The tensors of a case that take a gradient; of_items: but for those that all items share."""
    given = [*enumerate(case.args), *case.kwargs.items()]
    found = [x for name, x in given if not case.constant(name) and not (of_items and name in case.shared)]
    return [x for x in found if isinstance(x, Tensor) and x.is_floating_point()]


def differentiable(case: Case) -> Case:
    made = each_tensor(case, lambda x: x.detach().clone().requires_grad_())

    def held(argument: int | str, x: Any) -> Any:
        return x.detach() if case.constant(argument) and isinstance(x, Tensor) else x

    args = tuple(held(place, x) for place, x in enumerate(made.args))
    return replace(made, args=args, kwargs={name: held(name, x) for name, x in made.kwargs.items()})


def call(card: LossCard, case: Case, **options: Any) -> Tensor:
    return card.function(*case.args, **case.kwargs, **options)


def gradients(card: LossCard, case: Case, upstream: float = 1.0, **options: Any) -> list[Tensor]:
    """Gradients of every leaf of a differentiable copy of the case."""
    case = differentiable(case)
    (call(card, case, **options).sum() * upstream).backward()
    return [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves(case)]


def rows_of(card: LossCard, case: Case) -> int:
    """Length of reduction="none"."""
    return call(card, case, reduction="none").numel()
