"""The check of other packages' tests: the plugin puts drop-ins in place, and an unlisted difference fails."""

import pytest

from . import check
from .packages import PACKAGES

MODULE = """
import torch

class InfoNCE(torch.nn.Module):
    def forward(self, query, positive_key):
        return torch.tensor(7.0)

def info_nce(query, positive_key):
    return torch.tensor(7.0)

made_by = InfoNCE
"""
FILE = """
import pytest, torch
from info_nce import InfoNCE, info_nce, made_by
x = torch.randn(4, 3)

def test_value(): assert InfoNCE()(x, x) == 7
@pytest.mark.parametrize("n", [1, 2])
def test_function(n): assert info_nce(x, x) == 7
def test_finite(): assert made_by()(x, x).isfinite()
def test_apart(): assert InfoNCE.__name__ == "InfoNCE"
def test_alone(): assert InfoNCE.__module__ == "another"
"""
VALUE, FUNCTION = "tests/test_loss.py::test_value", "tests/test_loss.py::test_function"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Of a package's tests, without the drop-ins, as they would be, and with them, as they are."""
    package, checkout = PACKAGES["info-nce-pytorch"], tmp_path_factory.mktemp("info-nce-pytorch")
    for place, text in (
        ("info_nce/__init__.py", MODULE),
        ("tests/test_loss.py", FILE),
        ("tests/test_other.py", "1 / 0"),
    ):
        (checkout / place).parent.mkdir(exist_ok=True)
        (checkout / place).write_text(text)
    assert package.checkout(checkout) == checkout
    linked = checkout.parent / "links"
    linked.mkdir(exist_ok=True)
    (linked / package.folder).symlink_to(checkout)
    assert package.checkout(linked) == checkout.resolve()
    ok, broken = {"outcome": "passed", "message": ""}, {"outcome": "failed", "message": "not a module of this name"}
    with_them = check.run(package, checkout, replace=True)
    return [{test: broken if test.endswith("test_alone") else ok for test in with_them}, with_them]


def test_a_drop_in_is_where_the_class_was(outcomes):
    ended = {test.rpartition("::")[2]: (x["outcome"], x["called"]) for test, x in outcomes[1].items()}
    assert ended == {
        "test_value": ("failed", True),
        "test_function[1]": ("failed", True),
        "test_function[2]": ("failed", True),
        "test_finite": ("passed", True),  # also where the package gave it another name
        "test_apart": ("passed", False),
        "test_alone": ("failed", False),
    }


@pytest.mark.parametrize("known", [(), (FUNCTION,), (FUNCTION, VALUE, "tests/test_loss.py::test_apart")])
def test_differences_that_are_not_listed_fail(outcomes, known, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(check.DIFFERENCES, "info-nce-pytorch", dict.fromkeys(known, "on purpose"))
    result = check.compared("info-nce-pytorch", *outcomes)
    differ = {VALUE, f"{FUNCTION}[1]", f"{FUNCTION}[2]"}
    listed = {test for test in differ if test.partition("[")[0] in known}
    assert set(result.listed) == listed and set(result.unknown) == differ - listed
    assert (result.tests, result.called, result.alone.total()) == (6, 4, 1)
    assert result.equal == [x for x in known if x.endswith("test_apart")]
    checkout = tmp_path / "info_nce"
    checkout.mkdir()
    (checkout / "__init__.py").touch()
    ran = iter(outcomes)
    monkeypatch.setattr(check, "run", lambda *_: next(ran))
    assert check.main([str(tmp_path)]) == (len(known) < 3)
    said = capsys.readouterr().out
    assert said.count("NOT LISTED") == len(differ - listed) and said.count("listed: on purpose") == len(listed)


def test_a_test_that_only_one_run_has_is_a_difference():
    ok, broken = {"outcome": "passed", "message": ""}, {"outcome": "failed", "message": "gone"}
    assert check.compared("lightly", {"a": ok}, {}).unknown == {"a": "was not run"}
    assert check.compared("lightly", {}, {"file": broken}).unknown == {"file": "gone"}


def test_a_folder_without_checkouts_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        check.main([str(tmp_path)])
    assert "clone one" in capsys.readouterr().err
