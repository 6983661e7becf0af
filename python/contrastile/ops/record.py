"""The one record of a call's arguments. A new option of the engine is one field here, and what it means in the kernels.

Everything that hands arguments on is derived from the fields: the operators' schema, autograd's split into tensors and
the rest, the gradients a call may want, what ranks must agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor

from ..literals import ReduceName, ScoreName
from ..spec import Gradients, Needs, PairSpec, PairTest, Reduce, Score, Target

# the enumerations of spec by the words that arguments take
REDUCES = {name: Reduce[name.upper()] for name in get_args(ReduceName)}
TESTS = {test.name.lower(): int(test) for test in PairTest}
SCORES = {name: Score[name.upper()] for name in get_args(ScoreName)}
TARGETS = {target.name.lower(): target for target in Target}


def words_of(rule: int, empty: str | None) -> str:
    """A rule as the user writes it; empty: one without tests."""
    names = [name for name, test in TESTS.items() if rule & test]
    return repr((names[0] if len(names) == 1 else tuple(names)) if names else empty)


class Option(NamedTuple):
    """What a field is to those that hand it on."""

    schema: str  # its type in the operators' schema
    grad: str = ""  # the field of spec.Gradients that has its gradient
    names: Mapping[Any, int] | None = None  # public names of its numbers
    rule: bool = False  # its bits are tests
    agreed: bool = False  # all ranks must give the same; of a tensor: all or none


@dataclass(slots=True)  # not frozen, which would cost 2 us a call
class Arguments:
    """Checked arguments of pair_reduce and pair_loss."""

    a: Annotated[Tensor, Option("Tensor", grad="a")]
    blocks: Annotated[list[Tensor], Option("Tensor[]", grad="blocks")]  # of columns; empty in a square call
    scale: Annotated[Tensor, Option("Tensor", grad="row_scale")]  # 0-dim, or one per row
    col_scale: Annotated[Tensor | None, Option("Tensor?", grad="col_scale", agreed=True)] = None
    # in a square call it acts on both sides
    row_bias: Annotated[Tensor | None, Option("Tensor?", grad="row_bias", agreed=True)] = None
    col_bias: Annotated[Tensor | None, Option("Tensor?", grad="col_bias", agreed=True)] = None
    # operands of rules. Those of columns are None where they are the rows': torch.compile cannot trace a tensor that is
    # given twice
    row_ids: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None
    col_ids: Annotated[Tensor | None, Option("Tensor?")] = None
    row_groups: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None
    col_groups: Annotated[Tensor | None, Option("Tensor?")] = None
    row_labels: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None  # (N, words) int64
    col_labels: Annotated[Tensor | None, Option("Tensor?")] = None
    row_order: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None  # int64
    col_order: Annotated[Tensor | None, Option("Tensor?")] = None
    partner: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None  # (N, count) int64
    share: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None
    row_low: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None
    row_high: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None
    col_low: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None
    col_high: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None
    mask: Annotated[Tensor | None, Option("Tensor?")] = None
    # second operands, see spec.Target and Score.GATED; second_blocks: as many as blocks, or none
    second_a: Annotated[Tensor | None, Option("Tensor?", grad="second_a", agreed=True)] = None
    second_blocks: Annotated[list[Tensor], Option("Tensor[]", grad="second_blocks")] = field(default_factory=list)
    second_scale: Annotated[Tensor | None, Option("Tensor?", grad="second_scale", agreed=True)] = None
    second_bias: Annotated[Tensor | None, Option("Tensor?", agreed=True)] = None
    reduce: Annotated[int, Option("int", names=REDUCES, agreed=True)] = 0
    keep: Annotated[int, Option("int", rule=True, agreed=True)] = 0  # bits of PairTest
    positives: Annotated[int, Option("int", rule=True, agreed=True)] = 0  # no bits: no positives
    # column blocks without ids, groups, labels: a bit for each block. Their places in col_ids hold zeros.
    without_ids: Annotated[int, Option("int", agreed=True)] = 0
    without_groups: Annotated[int, Option("int", agreed=True)] = 0
    without_labels: Annotated[int, Option("int", agreed=True)] = 0
    # row_order and col_order stand for floating numbers
    float_order: Annotated[bool, Option("bool", agreed=True)] = False
    keep_positives: Annotated[bool, Option("bool", agreed=True)] = False
    cross_entropy: Annotated[bool, Option("bool", agreed=True)] = False  # of pair_loss alone
    cols: Annotated[bool, Option("bool", agreed=True)] = False
    square: Annotated[bool, Option("bool", agreed=True)] = False  # b is a and z symmetric
    score: Annotated[int, Option("int", names=SCORES, agreed=True)] = 0
    offset: Annotated[bool, Option("bool", agreed=True)] = True
    target: Annotated[int, Option("int", names=TARGETS, agreed=True)] = 0
    split: Annotated[bool, Option("bool", agreed=True)] = False  # see spec.PairSpec, as the next
    counts: Annotated[bool, Option("bool", agreed=True)] = False
    own_scales: Annotated[bool, Option("bool", agreed=True)] = False
    # of pair_loss: the sum over these prefixes of the features, in ascending order, with their weights. scale and
    # col_scale then have a row for each prefix: (P, N), (P, M)
    prefixes: Annotated[list[int], Option("int[]")] = field(default_factory=list)
    prefix_weights: Annotated[list[float], Option("float[]")] = field(default_factory=list)
    report: Annotated[bool, Option("bool", agreed=True)] = False  # of pair_loss: its statistics come back, too
    compute: Annotated[torch.dtype, Option("ScalarType")] = torch.float32  # the type features are multiplied in
    backend: Annotated[str, Option("str")] = "auto"

    @property
    def n(self) -> int:
        return self.a.shape[0]

    @property
    def second(self) -> bool:
        """Whether pairs have second operands."""
        return self.second_a is not None

    @property
    def m(self) -> int:
        if self.square:
            return self.n
        return self.blocks[0].shape[-2] if len(self.blocks) == 1 else sum(block.shape[-2] for block in self.blocks)

    @property
    def spec(self) -> PairSpec:
        return PairSpec(
            Reduce(self.reduce), self.keep, self.positives, self.keep_positives, self.cols, self.square,
            Score(self.score), self.offset, self.split, self.counts, Target(self.target), self.own_scales,
        )  # fmt: skip


FIELDS: dict[str, Option] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Arguments, include_extras=True).items()
}
COUNT = len(FIELDS)  # every operator takes the fields first, then arguments of its own
SCHEMA = ", ".join(f"{x.schema} {name}" for name, x in FIELDS.items())
SINGLE = [name for name, x in FIELDS.items() if x.schema in ("Tensor", "Tensor?")]
STATIC = [name for name, x in FIELDS.items() if not x.schema.startswith("Tensor")]
# what has a gradient, without the lists, which come last: the order of `needs` and of flat gradients
GRADS = {name: x.grad for name, x in FIELDS.items() if x.grad and name in SINGLE}
GRAD_PLACES = [SINGLE.index(name) for name in GRADS]
SPREAD_PLACES = [list(GRADS).index(name) if name in GRADS else None for name in SINGLE]


def reader(names: Sequence[str], *rest: str) -> Callable[[Arguments], tuple[Any, ...]]:
    """A function that returns the fields. Generated: it runs several times in a small call, where a loop over names
    would be felt, and torch.compile does not trace operator.attrgetter."""
    reads = [f"r.{name}" for name in names] + [f"*r.{name}" for name in rest]
    function: Callable[[Arguments], tuple[Any, ...]] = eval(f"lambda r: ({', '.join(reads)},)")
    return function


def maker() -> Callable[[Sequence[Any], Sequence[Any]], Arguments]:
    """The way back from `statics` and `tensors`, generated for the same reason."""
    parts = {name: f"tensors[{k}]" for k, name in enumerate(SINGLE)}
    parts |= {name: f"statics[{k}]" for k, name in enumerate(STATIC)}
    target, score, first = STATIC.index("target"), STATIC.index("score"), len(SINGLE)
    # both lists are as long where pairs have second operands
    middle = (
        f"{first} + (len(tensors) - {first}) // (2 if statics[{target}] or statics[{score}] == {Score.GATED:d} else 1)"
    )
    parts |= {"blocks": f"list(tensors[{first} : {middle}])", "second_blocks": f"list(tensors[{middle} :])"}
    source = ", ".join(f"{name}={parts[name]}" for name in FIELDS)
    function: Callable[[Sequence[Any], Sequence[Any]], Arguments] = eval(
        f"lambda statics, tensors: Arguments({source})", {"Arguments": Arguments, "list": list, "len": len}
    )
    return function


def distinct(given: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Without a tensor that is given twice, which torch.compile cannot trace."""
    found: list[Tensor | None] = []
    for x in given:
        found.append(x.view_as(x) if x is not None and any(x is y for y in found) else x)
    return found


def static(statics: Sequence[Any], name: str) -> Any:
    """The field of `statics`."""
    return statics[STATIC.index(name)]


packed = reader(list(FIELDS))  # as operators take them
tensors = reader(SINGLE, "blocks", "second_blocks")  # every tensor: autograd must see each as an argument of its own
statics = reader(STATIC)  # the rest
inputs = reader(list(GRADS), "blocks", "second_blocks")  # what may want a gradient
restored = maker()


def needs_of(args: Arguments) -> list[bool]:
    """Which gradients are wanted, in the order of `inputs`."""
    if not torch.is_grad_enabled():
        return [False] * count_inputs(args)
    return [x is not None and x.requires_grad for x in inputs(args)]


def wanted_inputs(args: Arguments, needs: Sequence[bool]) -> list[Tensor]:
    return [x for x, need in zip(inputs(args), needs, strict=True) if need]


def count_inputs(args: Arguments) -> int:
    return len(GRADS) + len(args.blocks) + len(args.second_blocks)


def with_inputs(args: Arguments, needs: Sequence[bool], wanted: Sequence[Tensor]) -> Arguments:
    """The record with others for `wanted_inputs`."""
    flat = iter(wanted)
    every = [next(flat) if need else x for x, need in zip(inputs(args), needs, strict=False)]
    middle = len(GRADS) + len(args.blocks)
    named: dict[str, Any] = dict(zip(GRADS, every, strict=False))
    return replace(args, **named, blocks=every[len(GRADS) : middle], second_blocks=every[middle:])


def tensor_needs(flags: Sequence[bool]) -> list[bool]:
    """`needs` from a flag for each of `tensors`."""
    return [*[flags[place] for place in GRAD_PLACES], *flags[len(SINGLE) :]]


def by_tensor(grads: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Flat gradients, as many as needs are true, spread over `tensors`."""
    flat = iter(grads)
    spread = [next(flat) if need else None for need in needs]
    return (*[None if place is None else spread[place] for place in SPREAD_PLACES], *spread[len(GRADS) :])


def needed(args: Arguments, needs: Sequence[bool]) -> Needs:
    found = dict(zip(GRADS.values(), needs, strict=False))
    if args.square:
        found["col_bias"] = found["row_bias"]
    middle = len(GRADS) + len(args.blocks)
    return Needs(**found, blocks=list(needs[len(GRADS) : middle]), second_blocks=list(needs[middle:]))


def flat_gradients(args: Arguments, grads: Gradients) -> list[Tensor]:
    """The gradients that are there, in the order of `inputs`, that of a scale summed to its own shape."""
    found = {name: getattr(grads, name) for name in GRADS.values()}
    if args.square and grads.row_bias is not None and grads.col_bias is not None:
        found |= {"row_bias": grads.row_bias + grads.col_bias, "col_bias": None}
    for name, scale in (("row_scale", args.scale), ("second_scale", args.second_scale)):
        if found[name] is not None and scale is not None and scale.dim() == 0:
            found[name] = found[name].sum()
    return [x for x in [*found.values(), *grads.blocks, *grads.second_blocks] if x is not None]
