"""Writes python/contrastile/losses/modules.py: each loss as an nn.Module, from its function's signature and docstring.

    python packaging/generate_modules.py          # after a change of a signature, a docstring, or TWINS
    python packaging/generate_modules.py --check  # fails where the file is not what it would write

An argument of a function is an input where its type is one of INPUTS: forward takes it. All others are options: the
constructor keeps them, and forward takes them for one call. What a signature cannot say is in TWINS.
"""

import argparse
import ast
import doctest
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LOSSES = Path(__file__).parents[1] / "python/contrastile/losses"
TARGET = LOSSES / "modules.py"
CANDIDATES = ("Tensor | Candidates", "Tensor | Candidates | None")
INPUTS = ("Tensor", "Tensor | None", *CANDIDATES, "Generator | None", "Share", "Views")


@dataclass(frozen=True)
class Learned:
    """The factor that a module can learn."""

    name: str
    switch: str  # the constructor's argument that asks for it
    start: str = ""  # where the constructor is given none
    offset: str = ""  # what is learned beside it, of any sign
    offset_start: str = ""


@dataclass(frozen=True)
class Twin:
    """A module, and what its function's signature does not say."""

    name: str
    function: str
    family: str  # the function's file
    by_place: tuple[str, ...] = ("temperature",)  # options that the constructor also takes by place
    learned: Learned | None = None


TEMPERATURE = Learned("temperature", "learnable_temperature")
SCALE = Learned("logit_scale", "learnable_scale", "1.0 / 0.07")
BOUNDS = {"temperature": "the largest 1 / temperature", "logit_scale": "the largest value"}
SCALE_AND_BIAS = Learned("logit_scale", "learnable", "10.0", "logit_bias", "-10.0")

TWINS = (
    Twin("InfoNCE", "info_nce", "contrastive", learned=TEMPERATURE),
    Twin("ClipLoss", "clip_loss", "clip", ("logit_scale",), SCALE),
    Twin("DistillInfoNCE", "distill_info_nce", "distill", learned=TEMPERATURE),
    Twin("ClipDistillLoss", "clip_distill_loss", "distill", ("logit_scale",), SCALE),
    Twin("SoftClipLoss", "softclip_loss", "similarity", learned=TEMPERATURE),
    Twin("CWCL", "cwcl_loss", "similarity", ("logit_scale",), SCALE),
    Twin("HydraLoss", "hydra_loss", "gated", ("logit_scale",), SCALE),
    Twin("MarginInfoNCE", "margin_info_nce", "margin", ("margin", "temperature"), TEMPERATURE),
    Twin("CMALoss", "cma_loss", "margin", ("logit_scale",), SCALE),
    Twin("MixupInfoNCE", "mixup_info_nce", "mixup", learned=TEMPERATURE),
    Twin("M2Mix", "m2_mix", "mixup", learned=TEMPERATURE),
    Twin("PrototypeLoss", "prototype_loss", "prototypes", learned=TEMPERATURE),
    Twin("GlobalLocalInfoNCE", "global_local_info_nce", "structured", learned=TEMPERATURE),
    Twin("BlockInfoNCE", "block_info_nce", "structured", ("blocks",), TEMPERATURE),
    Twin("M3ELLoss", "m3el_loss", "structured", learned=TEMPERATURE),
    Twin("LateInteractionInfoNCE", "late_interaction_info_nce", "late_info_nce", learned=TEMPERATURE),
    Twin("WordRegionLoss", "word_region_loss", "word_region", ("gamma1", "gamma2", "gamma3")),
    Twin("FDTLoss", "fdt_loss", "fdt", ("logit_scale",), SCALE),
    Twin("GroupedInfoNCE", "grouped_info_nce", "grouped", learned=TEMPERATURE),
    Twin("GroupedMarginLoss", "grouped_margin_loss", "grouped", ("margin", "temperature")),
    Twin("NTXent", "nt_xent", "two_views", learned=TEMPERATURE),
    Twin("SigLipLoss", "siglip_loss", "sigmoid", ("logit_scale", "logit_bias"), SCALE_AND_BIAS),
    Twin("DebiasedInfoNCE", "debiased_info_nce", "debiased", ("temperature", "tau_plus")),
    Twin("DebiasedNTXent", "debiased_nt_xent", "debiased", ("temperature", "tau_plus")),
    Twin("SupCon", "sup_con", "supervised", learned=TEMPERATURE),
    Twin("MultiPositive", "multi_positive", "multi_positive", learned=TEMPERATURE),
    Twin("MILNCE", "mil_nce", "mil_nce", learned=TEMPERATURE),
    Twin("DCL", "dcl", "decoupled"),
    Twin("DCLW", "dclw", "decoupled", ("temperature", "sigma")),
    Twin("DHEL", "dhel", "decoupled"),
    Twin("MVInfoNCE", "mv_infonce", "multiview", learned=TEMPERATURE),
    Twin("MVDHEL", "mv_dhel", "multiview", learned=TEMPERATURE),
    Twin("PVC", "pvc", "multiview"),
    Twin("KCL", "kcl", "kernel", ("kernel",)),
    Twin("CUA", "cua", "gap", ("logit_scale",)),
    Twin("CUAXU", "cuaxu", "gap", ("logit_scale",)),
    Twin("Uniformity", "uniformity", "uniform", ("t",)),
    Twin("Alignment", "alignment", "uniform", ("alpha",)),
    Twin("JointEntropy", "joint_entropy", "uniform", ("t",)),
    Twin("BarlowTwinsLoss", "barlow_twins_loss", "decorrelation", ("off_diagonal_weight",)),
    Twin("InModalConsistency", "in_modal_consistency", "decorrelation", ()),
    Twin("CrossModalConsistency", "cross_modal_consistency", "decorrelation", ()),
    Twin("CosineLoss", "cosine_loss", "cosine", ("form",)),
    Twin("MultiviewClipLoss", "multiview_clip_loss", "multiview_clip", ("logit_scale",), SCALE),
    Twin("LinearCrossEntropy", "linear_cross_entropy", "vocabulary", ("ignore_index",)),
    Twin("DinoLoss", "dino_loss", "dino", ("student_temperature", "teacher_temperature")),
    Twin("GramLoss", "gram_loss", "volume", learned=TEMPERATURE),
    Twin("TriangleLoss", "triangle_loss", "triangle", learned=TEMPERATURE),
    Twin("PMRL", "pmrl_loss", "pmrl", ("singular_temperature", "instance_temperature")),
    Twin("Symile", "symile_loss", "symile", ("negatives",), SCALE),
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """An argument of a function, as it is written there."""

    name: str
    kind: str  # "place", "many" (*name), "name"
    type: str
    default: str  # "": none

    @property
    def is_input(self) -> bool:
        return self.type in INPUTS

    @property
    def written(self) -> str:
        default = f" = {self.default}" if self.default else ""
        return f"{'*' if self.kind == 'many' else ''}{self.name}: {self.type}{default}"


@dataclass(frozen=True)
class Family:
    """A file of functions."""

    name: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse((LOSSES / f"{self.name}.py").read_text())

    def function(self, name: str) -> ast.FunctionDef:
        return next(x for x in self.tree.body if isinstance(x, ast.FunctionDef) and x.name == name)

    def signature(self, function: str) -> list[Parameter]:
        found = self.function(function).args
        defaults: list[ast.expr | None] = [None] * (len(found.args) - len(found.defaults))
        place = [*zip(found.args, [*defaults, *found.defaults], strict=True)]
        parameters = [self.parameter(arg, "place", default) for arg, default in place]
        if found.vararg is not None:
            parameters.append(self.parameter(found.vararg, "many", None))
        named = zip(found.kwonlyargs, found.kw_defaults, strict=True)
        return [*parameters, *(self.parameter(arg, "name", default) for arg, default in named)]

    def parameter(self, arg: ast.arg, kind: str, default: ast.expr | None) -> Parameter:
        assert arg.annotation is not None, f"{self.name}: {arg.arg} has no type"
        return Parameter(arg.arg, kind, ast.unparse(arg.annotation), "" if default is None else ast.unparse(default))

    def source(self, name: str) -> str:
        """From where modules.py imports a name that this file uses."""
        for statement in self.tree.body:
            if isinstance(statement, ast.ImportFrom) and name in {alias.name for alias in statement.names}:
                return "." * statement.level + (statement.module or "")
        return f".{self.name}"


class Documentation:
    """What a function's docstring says, in parts."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.name = function.name
        self.text = ast.get_docstring(function) or ""

    @cached_property
    def arguments(self) -> dict[str, str]:
        """The text of each entry of Args, by its names as they stand there: "x, y"."""
        section = re.search(r"^Args:\n((?: {4}.*\n|\n(?= {8}))*)", self.text + "\n", re.MULTILINE)
        assert section is not None, self.name
        entries = re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE)
        return {names: " ".join(text.split()) for names, text in entries}

    def of(self, names: Iterable[str]) -> Iterator[str]:
        """Entries of Args for these names alone."""
        wanted = set(names)
        for together, text in self.arguments.items():
            if kept := [name for name in together.split(", ") if name in wanted]:
                yield entry(", ".join(kept), text)

    @cached_property
    def example(self) -> tuple[list[str], ast.Call]:
        """The statements before the call of the function, and the call."""
        before: list[str] = []
        for shown in doctest.DocTestParser().get_examples(self.text):
            for node in ast.walk(ast.parse(shown.source)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == self.name:
                    return before, node
            before.append(shown.source.rstrip())
        raise ValueError(f"the example of {self.name} does not call it")


class Module:
    """The text of one class."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.family = Family(twin.family)
        self.said = Documentation(self.family.function(twin.function))
        self.parameters = self.family.signature(twin.function)
        self.inputs = [p for p in self.parameters if p.is_input]
        self.options = [p for p in self.parameters if not p.is_input]

    def imports(self) -> Iterator[tuple[str, str]]:
        """(module, name) of all that the class needs."""
        yield f".{self.twin.family}", self.twin.function
        for parameter in self.parameters:
            for node in ast.walk(ast.parse(parameter.type)):
                if isinstance(node, ast.Name) and node.id not in ("float", "int", "bool", "str"):
                    yield self.family.source(node.id), node.id

    def text(self) -> str:
        return "\n".join([
            f"class {self.twin.name}(LossModule):", indented(self.documentation()), "",
            f"    function = staticmethod({self.twin.function})", "",
            f"    def __init__(self, {', '.join(self.constructor())}) -> None:",
            indented(self.documentation_of_options(), 8), *indented_lines(self.construction(), 8), "",
            f"    def forward(self, {', '.join(self.taken())}) -> Tensor:",
            indented(self.documentation_of_forward(), 8),
            f"        return {self.twin.function}({', '.join(self.passed())})", "",
            "    if TYPE_CHECKING:  # torch says that a call takes and returns anything", "        __call__ = forward",
        ])  # fmt: skip

    def documentation(self) -> str:
        tensors = ", ".join("*" * (p.kind == "many") + p.name for p in self.inputs if p.kind != "name")
        named = [p.name for p in self.inputs if p.kind == "name"]
        takes = f"forward takes {tensors}{', and by name ' + ', '.join(named) if named else ''}. "
        takes += "An option that you pass to forward holds for that call only."
        parts = [f"`{self.twin.function}` as a module that keeps its options.", wrapped(takes)]
        parts += [*map(wrapped, self.requirements()), *map(wrapped, self.learning()), "\n".join(self.example())]
        return docstring("\n\n".join(parts))

    def example(self) -> Iterator[str]:
        """That of the function: inputs go to forward, options to the constructor."""
        before, call = self.said.example
        learned = self.twin.learned
        drawn = (learned.name, learned.offset) if learned else ()
        given, options = [], [f"{learned.switch}=True"] if learned else []
        places = [p for p in self.parameters if p.kind != "name"]
        for place, value in enumerate(call.args):
            parameter = places[min(place, len(places) - 1)]
            if parameter.is_input:
                given.append(ast.unparse(value))
            elif parameter.name not in drawn:
                options.append(f"{parameter.name}={ast.unparse(value)}")
        inputs = {p.name for p in self.inputs}
        for keyword in call.keywords:
            if keyword.arg not in drawn:
                (given if keyword.arg in inputs else options).append(ast.unparse(keyword))
        yield "Example:"
        statements = [*before, f"criterion = {self.twin.name}({', '.join(options)})"]
        for statement in [*statements, f"loss = criterion({', '.join(given)})"]:
            first, *rest = statement.replace("'", '"').split("\n")
            yield f"    >>> {first}"
            yield from (f"    ... {line}" for line in rest)

    def requirements(self) -> Iterator[str]:
        learned = self.twin.learned
        names = [p.name for p in self.options if not p.default and (learned is None or learned.name != p.name)]
        if names:
            yield f"Give {' and '.join(names)} to forward if the module has none."

    def learning(self) -> Iterator[str]:
        learned = self.twin.learned
        if learned is None:
            return
        missing = any(p.name == learned.name and not p.default for p in self.options)
        need = f" Otherwise give a {learned.name} to forward if the module has none." if missing else ""
        also = f" and {learned.offset} is a parameter" if learned.offset else ""
        yield (
            f"With {learned.switch}=True, {learned.name} is the exponential of the parameter log_{learned.name}{also}; "
            f"do not pass {'them' if also else 'it'} to forward then.{need}"
        )

    def documentation_of_options(self) -> str:
        learned = self.twin.learned
        drawn = (learned.name, learned.offset) if learned else ()
        lines = [*self.documentation_of_learning(), *self.said.of(p.name for p in self.options if p.name not in drawn)]
        return docstring("\n".join([f"The options of `{self.twin.function}`.", "", "Args:", *lines]))

    def documentation_of_learning(self) -> Iterator[str]:
        learned = self.twin.learned
        if learned is None:
            return
        starts = {learned.name: learned.start} | ({learned.offset: learned.offset_start} if learned.offset else {})
        for name, first in starts.items():
            yield entry(name, f"Fixed, or where learning starts{f' (None: {first})' if first else ''}.")
        parameters = f"log_{learned.name}" + (f" and {learned.offset}" if learned.offset else "")
        yield entry(learned.switch, f"True: learn {parameters}.")
        yield entry(
            "max_scale",
            f"For a learned {learned.name}: {BOUNDS[learned.name]} (CLIP: 100). forward clamps the parameter in place, "
            "as CLIP does after a step.",
        )

    def documentation_of_forward(self) -> str:
        text = f"`{self.twin.function}` of these inputs. An option holds for this call only; see the constructor."
        return docstring("\n".join([text, "", "Args:", *self.said.of(p.name for p in self.inputs)]))

    def constructor(self) -> Iterator[str]:
        options, learned = {p.name: p for p in self.options}, self.twin.learned
        yield from [kept(options.pop(name)) for name in self.twin.by_place]
        yield "*"
        if learned is not None:
            yield from [kept(options.pop(name)) for name in (learned.name,) if name in options]
            yield f"{learned.switch}: bool = False"
            yield "max_scale: float | None = None"
        yield from map(kept, options.values())

    def construction(self) -> Iterator[str]:
        yield "super().__init__()"
        learned = self.twin.learned
        for option in self.options:
            if learned is None or option.name not in (learned.name, learned.offset):
                yield f"self.{option.name} = {option.name}"
            elif option.name == learned.name:
                yield f"self.{option.name} = None if {learned.switch} else {option.name}"
        if learned is None:
            return
        yield f"self.bound(max_scale, {learned.switch}={learned.switch})"
        yield f"if {learned.switch}:"
        yield f'    self.learn("{learned.name}", {start(learned.name, learned.start)})'
        if learned.offset:
            yield f'    self.learn_offset("{learned.offset}", {start(learned.offset, learned.offset_start)})'
            yield "else:"
            yield f"    self.{learned.offset}: float | Tensor | None = {learned.offset}"

    def taken(self) -> Iterator[str]:
        named = False
        for p in self.parameters:
            if p.kind == "name" and not named and not any(q.kind == "many" for q in self.parameters):
                yield "*"
            named = named or p.kind == "name"
            yield p.written if p.is_input else f"{p.name}: {or_own(p.type)} = OWN"

    def passed(self) -> Iterator[str]:
        learned = self.twin.learned
        for p in self.parameters:
            if p.is_input:
                yield {"place": p.name, "many": f"*{p.name}", "name": f"{p.name}={p.name}"}[p.kind]
            elif learned and p.name in (learned.name, learned.offset):
                yield f'{p.name}=self.{"factor" if "None" in p.type else "needed"}("{p.name}", {p.name})'
            elif not p.default:
                yield f'{p.name}=self.required("{p.name}", {p.name})'
            else:
                yield f"{p.name}=self.{p.name} if {p.name} is OWN else {p.name}"


def kept(option: Parameter) -> str:
    """An option as the constructor takes it: a tensor in its place would not follow the module."""
    parts = [part for part in option.type.split(" | ") if part != "Tensor"]
    if not option.default and "None" not in parts:  # it may be left to forward
        parts.append("None")
    return f"{option.name}: {' | '.join(parts)} = {option.default or 'None'}"


def or_own(kind: str) -> str:
    """The type of an option for one call; None comes last, as ruff wants it."""
    return kind.removesuffix(" | None") + " | Own" + " | None" * kind.endswith(" | None")


def start(name: str, default: str) -> str:
    return f"{default} if {name} is None else {name}" if default else name


def docstring(text: str) -> str:
    return f'"""{text}\n"""' if "\n" in text else f'"""{text}"""'


def entry(names: str, text: str) -> str:
    """Of Args, in a method."""
    fill = textwrap.TextWrapper(112, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    return fill.fill(f"{names}: {text}")


def wrapped(text: str) -> str:
    return textwrap.fill(text, 116, break_long_words=False)


def indented(text: str, by: int = 4) -> str:
    return textwrap.indent(text, " " * by)


def indented_lines(lines: Iterator[str], by: int) -> Iterator[str]:
    return (" " * by + line for line in lines)


def generated() -> str:
    modules = [Module(twin) for twin in TWINS]
    imports = {("typing", "TYPE_CHECKING"), ("torch", "Tensor"), *((".base", x) for x in ("OWN", "LossModule", "Own"))}
    imports |= {pair for module in modules for pair in module.imports()}
    text = [
        '"""The losses as modules. packaging/generate_modules.py makes this file from the functions\' signatures."""',
        "from __future__ import annotations",
        *(f"from {source} import {name}" for source, name in sorted(imports)),
        *(module.text() for module in modules),
    ]
    return formatted("\n\n".join(text))


def formatted(text: str) -> str:
    for command in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="writes losses/modules.py from the functions' signatures")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the file is stale")
    text = generated()
    if not parser.parse_args().check:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.exit(f"{TARGET} is stale: run python packaging/generate_modules.py")


if __name__ == "__main__":
    main()
