"""Autograd over the operators of library.py.

torch.autograd.Function, not register_autograd: the latter walks every argument as a tree once an operator takes a list
of tensors, which costs more than a whole small loss. Functions take (statics, *tensors) of a record, so that autograd
sees every tensor as an argument of its own. Backward passes that twice.py does not differentiate refuse to be: the
result would be silently wrong. So do operators that are called by themselves, as the graphs of torch.export do: such a
graph has none of these Functions, and what it left out would be silently missing from the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ..backends.base import WEIGHTS, SmallExtras, SmallLoss, block_names
from ..monoid import TargetStats, joined_parts, widest_dtype
from ..replay import as_one_step, made_apart
from . import check, library, record
from . import twice as second_derivatives
from .check import as_type, plain
from .library import LIB, NO_EXTRAS
from .record import Arguments


class Once(torch.autograd.Function):
    """A function of tensors that refuses to be differentiated: its derivative would be silently wrong."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(NO_DOUBLE_BACKWARD)


def once(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """function(*tensors) in a backward pass. Grad mode is on for create_graph=True; only then may somebody
    differentiate the result."""
    if not torch.is_grad_enabled():
        return function(*tensors)
    outputs: tuple[Tensor, ...] = Once.apply(function, *tensors)  # type: ignore[no-untyped-call]
    return outputs


class Twice(torch.autograd.Function):
    """A function of tensors that are constant, whose value is the gradient of a call: differentiated once by
    `second.second_gradients`, in the other tensors."""

    @staticmethod
    def forward(
        ctx: Any, values: Callable[[], tuple[Tensor, ...]], statics: tuple[Any, ...], needs: list[bool],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.second = partial(second_derivatives.second_gradients, statics, needs, GRADIENTS)
        ctx.save_for_backward(*tensors)
        return values()

    @staticmethod
    def backward(ctx: Any, *gouts: Tensor) -> Any:
        return (None, None, None, *once(ctx.second, *gouts, *ctx.saved_tensors))


def twice(
    values: Callable[..., tuple[Tensor, ...]], statics: tuple[Any, ...], needs: list[bool],
    row: Sequence[Tensor | None], col: Sequence[Tensor | None], tensors: Sequence[Tensor | None],
    *inputs: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """values(*inputs), the gradients of a call, in a backward pass that may be differentiated where that is offered."""
    if not torch.is_grad_enabled():
        return values(*inputs)
    args = record.restored(statics, tensors)
    if not second_derivatives.offered(args):
        return once(values, *inputs)
    again = stats(args, 0, exact=True)
    statistics = [again[0], again[1] if args.cols and not args.square else None, None, None]
    if args.split:
        statistics[2:] = [again[4], again[5] if statistics[1] is not None else None]
    found: tuple[Tensor, ...] = Twice.apply(  # type: ignore[no-untyped-call]
        lambda: values(*inputs), statics, needs, *statistics, *row, *col, *tensors
    )
    return found


class StatsFunction(torch.autograd.Function):
    """Vector mode; see `public_outputs`."""

    @staticmethod
    def forward(
        ctx: Any, statics: tuple[Any, ...], budget: int, exact: bool, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        args = record.restored(statics, tensors)
        *found, scores = run_record("pair_stats", library.stats, args, budget)
        ctx.statics = statics
        ctx.save_for_backward(*tensors, *saved_statistics(found), scores)
        return public_outputs(ctx, args, found, exact)

    @staticmethod
    def backward(ctx: Any, *gouts: Tensor) -> tuple[Any, ...]:
        *tensors, scores = ctx.saved_tensors
        needs = record.tensor_needs(ctx.needs_input_grad[3:])
        known, tensors = tensors[-SAVED:], tensors[:-SAVED]
        row, col = side_gradients(ctx.statics, gouts)
        values, inputs = partial(stats_gradients, ctx.statics, needs), (*known, scores, *row, *col, *tensors)
        grads = twice(values, ctx.statics, needs, row, col, tensors, *inputs)
        return (None, None, None, *record.by_tensor(grads, needs))


def public_outputs(ctx: Any, args: Arguments, found: Sequence[Tensor], exact: bool) -> tuple[Tensor, ...]:
    """Row and column statistics, row and column sums over positives. With split also the statistics of kept positives,
    then the largest z in the statistics; with a target TargetStats.outputs, then which are given; with split or
    counts the integers. From `found`, a tensor for each side of library.outputs_of."""
    row_parts, col_parts, row_positive, col_positive, row_positive_parts, col_positive_parts, *rest = found
    row_target, col_target, *integers = rest
    outputs = [joined_parts(row_parts, exact), joined_parts(col_parts, exact)]
    outputs += [x.to(widest_dtype(x)) if exact else x for x in (row_positive, col_positive)]
    constant: list[Tensor] = []
    if args.split:
        outputs += [joined_parts(row_positive_parts, exact), joined_parts(col_positive_parts, exact)]
        constant += [row_parts[:, 0].clone(), col_parts[:, 0].clone()]
    if args.target:
        sides = TargetStats.of(row_target), TargetStats.of(col_target)
        numbers = [x.outputs(stat, exact) for x, stat in zip(sides, (row_parts, col_parts), strict=True)]
        outputs += [x for both in zip(*numbers, strict=True) for x in both]
        constant += [x.given for x in sides]
    if args.split or args.counts:
        constant += integers
    ctx.mark_non_differentiable(*constant)
    return (*outputs, *constant)


SAVED = 6  # of saved_statistics
GRADIENTS = 7  # of each side, see library.upstream_of


def saved_statistics(found: Sequence[Tensor]) -> list[Tensor]:
    """What the second sweep needs of library.outputs_of: all but sums and integers."""
    return [*found[:2], *found[4:8]]


def side_gradients(
    statics: tuple[Any, ...], gouts: Sequence[Tensor]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The gradients of `public_outputs` of rows and of columns, as library.upstream_of takes them."""
    split, target = (record.static(statics, name) for name in ("split", "target"))
    count = 4 + 2 * bool(split) + 8 * bool(target)
    both = []
    for side in (0, 1):
        own: list[Tensor | None] = [*gouts[side:count:2]]
        own[2:2] = [] if split else [None]
        both.append(own + [None] * (GRADIENTS - len(own)))
    return both[0], both[1]


def stats_gradients(statics: tuple[Any, ...], needs: list[bool], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    parts, rest = tensors[: SAVED + 1], tensors[SAVED + 1 :]
    row, col, inputs = rest[:GRADIENTS], rest[GRADIENTS : 2 * GRADIENTS], rest[2 * GRADIENTS :]
    args = record.restored(statics, inputs)
    given: tuple[Any, ...] = (*parts, list(row), list(col), needs)
    if check.plain_gradients(args.a, (*row, *col)):
        return tuple(library.stats_backward(args, *given))
    return tuple(torch.ops.contrastile.pair_stats_backward.default(*record.packed(args), *given))


class LossFunction(torch.autograd.Function):
    """Scalar mode: forward forms the loss and its gradients, backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, statics: tuple[Any, ...], needs: list[bool], more: tuple[Any, ...], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        args = record.restored(statics, tensors)
        loss, grads, reports = run_loss(args, more, needs)
        ctx.needs = needs
        ctx.save_for_backward(*grads, *record.wanted_inputs(args, needs))
        ctx.mark_non_differentiable(*reports)
        return (loss, *reports)

    @staticmethod
    def backward(ctx: Any, gout: Tensor, *others: Tensor) -> tuple[Any, ...]:
        return (None, None, None, *record.by_tensor(once(scaled, gout, *ctx.saved_tensors), ctx.needs))


Run = Callable[[], library.Loss]  # the value of a loss, the wanted gradients, and reports
# the same value of other tensors, which may be differentiated twice; None: it may not
Again = Callable[[Sequence[Tensor]], Tensor | None]


class PlainLoss(torch.autograd.Function):
    """LossFunction where nobody watches operators: arguments pass as they are, and autograd sees those tensors alone
    that want a gradient."""

    @staticmethod
    def forward(ctx: Any, run: Run, again: Again | None, *wanted: Tensor) -> Any:
        loss, grads, reports = run()
        ctx.again = again
        ctx.save_for_backward(*grads, *wanted)
        if not reports:
            return loss
        ctx.mark_non_differentiable(*reports)
        return (loss, *reports)

    @staticmethod
    def backward(ctx: Any, gout: Tensor, *others: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        half = len(saved) // 2
        if is_one(gout):
            return (None, None, *map(as_type, saved[:half], [x.dtype for x in saved[half:]]))
        if not torch.is_grad_enabled():
            return (None, None, *scaled(gout, *saved))
        # one tensor may be two inputs: the gradient of either must not pass through the other
        inputs = [x.view_as(x) for x in saved[half:]]
        if ctx.again is None or (value := ctx.again(inputs)) is None:
            return (None, None, *once(scaled, gout, *saved))
        with torch.no_grad():
            known = scaled(gout, *saved)
        ways = torch.autograd.grad(value, inputs, gout.to(value.dtype), create_graph=True)
        return (None, None, *(Known.apply(x, way) for x, way in zip(known, ways, strict=True)))  # type: ignore[no-untyped-call]


# apply without its look for transforms, which check.no_transforms has refused
apply_plain_loss: Callable[..., Any] = super(torch.autograd.Function, PlainLoss).apply


class Known(torch.autograd.Function):
    """A value, with the derivative of another way to it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, way: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> Any:
        return None, gout


def plain_loss(run: Run, wanted: Sequence[Tensor], again: Again | None = None) -> Any:
    """The loss of `run`, differentiable with the gradients that it returns, of `wanted`; with reports, if there are.
    again: None: once."""
    return apply_plain_loss(run, again, *wanted)


class LossCall:
    """Differentiable calls of scalar mode of one kind, of all their tensors: the record's, private columns, weights.
    It keeps none of them.

    run: a SmallLoss, or a function of the record, the weights and SmallExtras of a call.
    """

    def __init__(
        self, run: Callable[..., Any], args: Arguments, weights: Sequence[Any],
        needs: list[bool], extras: SmallExtras = NO_EXTRAS,
    ) -> None:  # fmt: skip
        self.run, self.statics, self.needs, self.sets = run, record.statics(args), needs, extras.sets
        self.small = run if isinstance(run, SmallLoss) else None
        self.numbers = [None if isinstance(x, Tensor) else x for x in weights]
        first = len(record.SINGLE)  # of blocks
        inputs = (*record.GRAD_PLACES, *range(first, first + len(args.blocks) + len(args.second_blocks)))
        self.wanted = [*compress((*inputs, -len(weights) - 1), needs)]  # places among the tensors; private columns last
        if self.small:
            places = {name: place for place, name in enumerate((*record.SINGLE, *block_names(args)))}
            places |= {name: place - len(weights) for place, name in enumerate(("private", *WEIGHTS), -1)}
            self.taken = itemgetter(*(places[name] for name in self.small.names))

    @staticmethod
    def tensors(args: Arguments, weights: Sequence[Any], extras: SmallExtras = NO_EXTRAS) -> list[Tensor | None]:
        return [*record.tensors(args), extras.private, *(x if isinstance(x, Tensor) else None for x in weights)]

    def __call__(self, *tensors: Tensor | None) -> Any:
        if self.wanted:
            wanted: list[Any] = [*map(tensors.__getitem__, self.wanted)]
            return plain_loss(partial(self.value, tensors), wanted, partial(self.again, tensors))
        value, _, reports = self.value(tensors)
        return (value, *reports) if reports else value

    def value(self, tensors: Sequence[Any]) -> library.Loss:
        if self.small is None:
            args, weights, extras = self.restored(tensors)
            found: library.Loss = self.run(args, weights, extras)
            return found
        given = self.taken(tensors)
        if not torch._C._is_any_autocast_enabled():  # or a context would cost a microsecond
            return (*self.small.of_tensors(given), [])
        with library.no_autocast(tensors[0]):
            return (*self.small.of_tensors(given), [])

    def again(self, tensors: Sequence[Any], wanted: Sequence[Tensor]) -> Tensor | None:
        args, weights, extras = self.restored(tensors)
        return of_statistics(args, weights, self.needs, extras, wanted)

    def restored(self, tensors: Sequence[Any]) -> tuple[Arguments, list[Any], SmallExtras]:
        count = len(self.numbers)
        *rest, private = tensors[:-count]
        weights = [x if y is None else y for x, y in zip(self.numbers, tensors[-count:], strict=True)]
        return record.restored(self.statics, rest), weights, SmallExtras(private, self.sets)


def small_loss(args: Arguments, weights: Sequence[Any], needs: list[bool], extras: SmallExtras) -> Tensor | None:
    """Differentiable library.small_loss; None: it is no small call."""
    if extras.private is not None:
        needs = [*needs, torch.is_grad_enabled() and extras.private.requires_grad]
    run = made_apart(partial(library.small_loss, args, weights, needs, extras))
    if run is None:
        return None
    call, tensors = LossCall(run, args, weights, needs, extras), LossCall.tensors(args, weights, extras)
    value: Tensor = as_one_step(call, *tensors)
    return value


def is_one(gout: Tensor) -> bool:
    """Whether gradients are what was saved, and this is their last use: the graph is not kept."""
    if torch.is_grad_enabled() or torch._C._autograd._get_current_graph_task_keep_graph():
        return False
    watched = type(gout) is not Tensor or torch._C._len_torch_dispatch_stack() or check.transformed()
    return gout.device.type == "cpu" and not watched and gout.item() == 1.0


def scaled(gout: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    """gout * gradients in float32, then the cast: a loss scaler's factor arrives before float16 can underflow.

    `saved` holds the gradients, then the inputs they belong to: arguments, so that the result requires grad in `once`.
    """
    half = len(saved) // 2
    grads = saved[:half]
    if torch.compiler.is_compiling() or check.transformed() or torch._C._functorch.is_legacy_batchedtensor(gout):
        products: Sequence[Tensor] = [g * gout for g in grads]
    else:
        products = torch._foreach_mul(grads, gout)  # one launch on a GPU
    pairs = zip(products, saved[half:], strict=True)
    return tuple([g if g.dtype == x.dtype else g.to(x.dtype) for g, x in pairs])


NO_DOUBLE_BACKWARD = (
    "contrastile: double backward (create_graph=True) is not supported here: only gradients of dot products with "
    "log-sum-exps or softplus may be differentiated, once and within one process; contrastile.reference has the same "
    "losses in plain torch, differentiable any number of times"
)


class FirstOrder(torch.autograd.Function):
    """The identity, for what is right up to first derivatives: its gradient refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> Any:
        return once(lambda g: (g.view_as(g),), gout)[0]


def first_order(x: Tensor) -> Tensor:
    """x, which may be differentiated once."""
    value: Tensor = as_one_step(FirstOrder.apply, x)
    return value


def tensors_of(args: Arguments) -> Sequence[Tensor | None]:
    given = record.tensors(args)
    return record.distinct(given) if torch.compiler.is_compiling() else given


def stats(args: Arguments, budget: int, exact: bool) -> tuple[Tensor, ...]:
    """Differentiable pair_stats."""
    inputs, statics = tensors_of(args), record.statics(args)
    # a product of sizes would bind a graph to them
    pairs = args.n * args.m if plain(args.a) else 0
    outputs: tuple[Tensor, ...] = as_one_step(StatsFunction.apply, statics, budget, exact, *inputs, pairs=pairs)
    return outputs


def loss(args: Arguments, weights: library.LossWeights, budget: int, needs: list[bool]) -> Any:
    """Differentiable pair_loss; with args.report, the loss and the reports, which have no gradient."""
    if plain(args.a):
        if (small := small_loss(args, weights, needs, NO_EXTRAS)) is not None:
            return small
        call = LossCall(partial(library.whole_loss, budget, needs), args, weights, needs)
        return as_one_step(call, *LossCall.tensors(args, weights), pairs=args.n * args.m)
    given = (library.weight_tensors(args, weights), budget)  # operators take tensors alone
    if any(needs):
        value, *reports = LossFunction.apply(record.statics(args), needs, given, *tensors_of(args))  # type: ignore[no-untyped-call]
    else:
        value, _, reports = run_loss(args, given, needs)
    return (value, *reports) if args.report else value


def of_statistics(
    args: Arguments, weights: Sequence[Any], needs: list[bool], extras: SmallExtras, wanted: Sequence[Tensor]
) -> Tensor | None:
    """The loss of `loss` or `small_loss` with these inputs, from statistics that may be differentiated twice; None:
    these may not."""
    if not second_derivatives.offered(args):
        return None
    if len(needs) > record.count_inputs(args) and needs[-1]:
        *wanted, private = wanted
        extras = extras._replace(private=private)
    args = record.with_inputs(args, needs, wanted)
    parts = [
        weight * second_derivatives.weighed(own, weights, extras, stats(own, 0, exact=True))
        for weight, own in second_derivatives.each_prefix(args)
    ]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def run_loss(args: Arguments, more: tuple[Any, ...], needs: list[bool]) -> library.Loss:
    return run_record("pair_loss", library.loss, args, *more, needs)  # type: ignore[no-any-return]


def run(operator: str, implementation: Callable[..., Any], like: Tensor, *args: Any) -> Any:
    """The operator, or its implementation at once where nobody watches operators: small losses feel the difference."""
    return implementation(*args) if plain(like) else getattr(torch.ops.contrastile, operator).default(*args)


def run_record(operator: str, implementation: Callable[..., Any], args: Arguments, *others: Any) -> Any:
    """`run` of an operator that takes the fields of a record."""
    if plain(args.a):
        return implementation(args, *others)
    return getattr(torch.ops.contrastile, operator).default(*record.packed(args), *others)


NO_GRADIENT = (
    "contrastile: an operator by itself, as in a graph of torch.export, has no gradient; for training call the loss, "
    "torch.compile it, or export the same loss from contrastile.reference"
)


class ForwardOnly(torch.autograd.Function):
    """The identity on outputs; its gradient, which depends on `inputs`, refuses to be formed."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gouts: Tensor) -> Any:
        raise RuntimeError(NO_GRADIENT)


def forward_only(name: str) -> None:
    """Makes gradients of an operator that no Function of this package calls an error."""
    operator = getattr(torch.ops.contrastile, name).default

    def kernel(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            outputs = operator(*args)
        inputs = [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.requires_grad]
        if not inputs or not torch.is_grad_enabled():
            return outputs
        leaves, spec = tree_flatten(outputs)
        return tree_unflatten(ForwardOnly.apply(len(leaves), *leaves, *inputs), spec)  # type: ignore[no-untyped-call]

    LIB.impl(name, kernel, "Autograd")


for name in ("pair_stats", "pair_loss"):
    forward_only(name)
