"""What Python and the native modules state twice: layouts of structs, numbers of enumerations, traits of reduces."""

from __future__ import annotations

import ast
import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contrastile import backends, spec
from contrastile.backends import cpu_small, cpu_small_stats, native
from contrastile.backends.native_struct import leaves, new, packer
from contrastile.monoid import NUMBERS

MODULES = [pytest.param(name, id=name) for name in ("cpu", "host")]  # host: the CUDA sources compiled for the CPU
STRUCTS = {"cpu": ("Side", "Block", "SmallCall"), "host": ("Side", "Block", "VectorSets", "ScoreSegments")}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "cpu":
        if native.cpu is None:
            pytest.skip("the compiled module is not installed")
        yield native.cpu
        return
    pytest.importorskip("pybind11", reason="the build requirements are not installed")
    cuda_host = pytest.importorskip("support.cuda_host")
    if cuda_host.compiler() is None:
        pytest.skip("needs g++ on Linux")
    yield request.getfixturevalue("host").module


def fields(struct: Any) -> Iterator[tuple[Any, str]]:
    """(struct, name) of every number, those of structs inside it included."""
    for name, kind in struct._fields_:
        if issubclass(kind, ctypes.Structure):
            yield from fields(getattr(struct, name))
        else:
            yield struct, name


def test_traits_are_those_of_the_functors(module):
    assert module.traits == [spec.TRAITS[reduce]._asdict() for reduce in spec.Reduce]
    assert len(spec.TRAITS) == len(spec.Reduce)


@pytest.mark.parametrize("name", ["Reduce", "Score", "Target"])
def test_enumerations_have_the_same_names_and_numbers(module, name):
    compiled = [re.sub(r"(?<!^)([A-Z])", r"_\1", word[1:]).upper() for word in module.enumerations[name].split(", ")]
    assert compiled == [number.name for number in getattr(spec, name)]
    assert [int(number) for number in getattr(spec, name)] == list(range(len(compiled)))


def test_tests_have_the_same_names_and_bits(module):
    words = module.enumerations["Test"].split(", ")
    compiled = [re.sub(r"(?<!^)([A-Z])", r"_\1", word[1:]).upper() for word in words]
    assert {name: 1 << place for place, name in enumerate(compiled)} == {
        test.name: test.value for test in spec.PairTest
    }


def test_structs_start_with_their_initial_values(module):
    block = new(module, "Block")
    given = {name: getattr(struct, name) for struct, name in fields(block) if getattr(struct, name)}
    own = {"threads": 1} if "threads" in dir(block) else {}
    assert given == {"directions": 1, "offset": True, **own}


def test_fields_hold_all_bits(module):
    block = new(module, "Block")
    block.n, block.mask, block.row_origin, block.offset, block.floor = 2**62, 2**63 + 1, -1, False, 0.25
    block.row.high = 2**48
    assert (block.n, block.mask, block.row_origin, block.offset, block.floor) == (2**62, 2**63 + 1, -1, False, 0.25)
    assert block.row.high == 2**48 and block.col.high is None
    with pytest.raises(AttributeError):
        block.unknown = 1
    with pytest.raises(TypeError):
        block.n = 0.5


def test_every_field_has_a_value_in_python(module, request):
    """One line per field says where it comes from."""
    sources = [path.read_text() for path in Path(backends.__file__).parent.glob("*.py")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    assigned = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    assigned |= {
        node.value.attr for node in nodes if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute)
    }
    assigned |= set(NUMBERS)  # of a side, by setattr
    for packing in (cpu_small, cpu_small_stats):  # places of values in a packed struct
        words = [
            x.value for x in ast.walk(ast.parse(Path(packing.__file__).read_text())) if isinstance(x, ast.Constant)
        ]
        assigned |= {x.rpartition(".")[2] for x in words if isinstance(x, str)}
    for struct in STRUCTS[request.node.callspec.params["module"]]:
        assert {name for _, name in fields(new(module, struct))} <= assigned


def stats(module, block):
    """Of one block; the CPU module takes a list of slices."""
    module.stats([block] if module is native.cpu else block)


def test_a_list_of_slices_is_neither_empty_nor_too_long():
    if native.cpu is None:
        pytest.skip("the compiled module is not installed")
    for count in (0, native.cpu.most_slices + 1):
        with pytest.raises(ValueError, match="slices"):
            native.cpu.stats([new(native.cpu, "Block")] * count)


def test_numbers_beyond_the_enumerations_are_refused(module):
    """The kernels would take them for others."""
    names = {"reduce", "keep", "positives", "score", "target", "grad_type", "dtype"}
    for name in names & set(dir(new(module, "Block"))):
        for number in (9999, -1):
            block = new(module, "Block")
            setattr(block, name, number)
            with pytest.raises(ValueError, match=f"^{name} has no number {number}$"):
                stats(module, block)
    if "SmallCall" in module.structs:
        whole = new(module, "SmallCall")
        whole.block.keep = 9999
        with pytest.raises(ValueError, match=r"^keep has no number 9999$"):
            module.small_call(whole)


def test_another_struct_is_refused(module):
    for wrong in (new(module, "Side"), b""):
        with pytest.raises(TypeError, match="another struct was expected"):
            stats(module, wrong)
    with pytest.raises(TypeError):
        module.stats(1)


def test_a_packed_struct_is_the_one_that_is_filled_by_name(module):
    """Whatever the order of the fields given; what is not given has its initial value."""
    filled = new(module, "Block")
    filled.n, filled.row.on, filled.keep, filled.mask, filled.floor = 7, True, 5, 2**63 + 1, 0.25
    names = ("floor", "row.on", "mask", "n", "keep")
    assert packer(module, "Block", names)(0.25, True, 2**63 + 1, 7, 5) == bytes(filled)
    assert packer(module, "Block", ())() == bytes(new(module, "Block"))
    places = [offset for _, _, offset in leaves(module.structs["Block"])]
    assert places == sorted(places)
    with pytest.raises(KeyError, match="unknown"):
        packer(module, "Block", ("unknown",))
