"""`make compat-peers`: runs other packages' tests with and without the drop-ins, and fails where a difference is not
listed in differences.py."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .differences import DIFFERENCES
from .packages import PACKAGES, Package

TESTS = Path(__file__).parents[1]
Outcomes = dict[str, dict[str, Any]]


@dataclass
class Result:
    """What the drop-ins change in one package's tests: names, and what the test says."""

    tests: int = 0
    called: int = 0
    alone: Counter[str] = field(default_factory=Counter)  # why tests do not pass without the drop-ins
    listed: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    equal: list[str] = field(default_factory=list)  # listed, but as without the drop-ins


def compared(package: str, without: Outcomes, with_them: Outcomes) -> Result:
    result, found = Result(tests=len(without)), set()
    for test, before in without.items():
        after = with_them.get(test, {"outcome": "missing", "message": "was not run"})
        result.called += bool(after.get("called"))
        if before["outcome"] != "passed":
            result.alone[before["message"]] += 1
            continue
        key = listed(package, test)
        if after["outcome"] == "passed":
            continue
        found.add(key)
        (result.unknown if key is None else result.listed)[test] = after["message"]
    ran = {test.partition("::")[0] for test in without}
    result.equal = [x for x in DIFFERENCES.get(package, {}) if x not in found and x.partition("::")[0] in ran]
    result.unknown |= {test: x["message"] for test, x in with_them.items() if test not in without}
    return result


def listed(package: str, test: str) -> str | None:
    """The key of differences.py that a test falls under."""
    return next(
        (key for key in DIFFERENCES.get(package, {}) if test == key or test.startswith((f"{key}[", f"{key}::"))), None
    )


def run(package: Package, checkout: Path, replace: bool) -> Outcomes:
    """Each test of the package's, in a process of its own for all of them."""
    files = [str(path) for path in package.files(checkout)]
    if not files:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        outcomes, settings = Path(folder) / "outcomes.json", Path(folder) / "pytest.ini"
        settings.write_text("[pytest]\n")  # not the package's own, which may ask for other plugins
        paths = [str(checkout / package.source), str(checkout), str(TESTS), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "pytest", "-p", "borrowed.plugin", "-p", "no:cacheprovider", "-q", *files]
        command += ["-c", str(settings), "--rootdir", str(checkout), "--package", package.folder]
        command += ["--outcomes", str(outcomes), *(["--replace"] if replace else [])]
        added = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))} | dict(package.environment)
        done = subprocess.run(
            command, cwd=checkout, env=os.environ | added, capture_output=True, text=True, check=False
        )
        if not outcomes.exists():
            raise RuntimeError(f"{package.folder}'s tests did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        found: Outcomes = json.loads(outcomes.read_text())
        return found


def report(package: str, result: Result) -> str:
    lines = [
        f"{package}: {result.tests} tests, of which {result.called} call a drop-in; {result.alone.total()} do not pass "
        f"without them; {len(result.listed)} differ as listed, {len(result.unknown)} otherwise"
    ]
    lines += [f"  {count} do not pass without them: {message}" for message, count in result.alone.most_common(5)]
    for test, message in result.listed.items():
        key = listed(package, test)
        assert key is not None
        lines += [f"  {test}", f"    listed: {DIFFERENCES[package][key]}", f"    here: {message}"]
    for test, message in result.unknown.items():
        lines += [f"  {test}", f"    NOT LISTED: {message}"]
    return "\n".join([*lines, *(f"  listed, but equal: {key}" for key in result.equal)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="borrowed.check", description=__doc__)
    parser.add_argument("peers", type=Path, help="a folder of checkouts of their repositories, or one of them")
    given = parser.parse_args(arguments)
    there = {name: package.checkout(given.peers.resolve()) for name, package in PACKAGES.items()}
    if not any(there.values()):
        known = ", ".join(package.repository for package in PACKAGES.values())
        parser.error(
            f"{given.peers} has no checkout of {known}. Wheels and source distributions have no tests: clone one"
        )
    wrong = 0
    for name, checkout in there.items():
        if checkout is None:
            print(f"{name}: no checkout in {given.peers}")
            continue
        both = [run(PACKAGES[name], checkout, replace) for replace in (False, True)]
        result = compared(name, *both)
        print(report(name, result), flush=True)
        wrong += len(result.unknown)
    print(f"{wrong} differences that are not listed" if wrong else "no difference that is not listed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
