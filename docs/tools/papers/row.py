"""What docs/papers.md says of a paper: its title, and what the package offers of it."""

from dataclasses import dataclass, replace
from inspect import cleandoc
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["exact", "building block", "no objective", "not yet"]


@dataclass(frozen=True)
class Offer:
    """One thing that a paper asks for."""

    status: Status
    what: str
    call: str = ""  # code that leaves its result in `loss`; its other names are what the caller has
    test: str = ""  # the test that runs this very code, file::function
    part: str = ""  # tells the offers of one paper apart
    key: str = ""  # of the paper and the part: what a test asks for


@dataclass(frozen=True)
class Paper:
    key: str  # its number, or the name of a work that is not one of the 73
    name: str  # the method, as the field calls it
    title: str
    arxiv: str  # "": no preprint known
    offers: tuple[Offer, ...]


def paper(key: str, name: str, title: str, arxiv: str, *offers: Offer) -> Paper:
    keyed = tuple(replace(x, key=f"{key} {x.part}".strip()) for x in offers)
    return Paper(key, name, title, arxiv, keyed)


def exact(what: str, call: str, test: str, part: str = "") -> Offer:
    """The paper's formula, or its official code's, value and gradients."""
    return Offer("exact", what, cleandoc(call), test, part)


def block(what: str, call: str, test: str, part: str = "") -> Offer:
    """A part under a neutral name: the paper's own formula is not public, or was not read."""
    return Offer("building block", what, cleandoc(call), test, part)


def not_yet(what: str) -> Offer:
    return Offer("not yet", what)


def no_objective(what: str) -> Offer:
    """One sentence that says what the paper is instead."""
    return Offer("no objective", what)
