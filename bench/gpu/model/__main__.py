"""python -m model [--count] [--write]: what docs/performance.md says of blocks, kernels and times to expect.

Without options it compares the page with what counts.json and the package give, and fails where they differ. --count
compiles the kernels and counts them anew (Triton, no GPU); --write renews the page. Needs bench/gpu, bench and tests on
PYTHONPATH.
"""

from __future__ import annotations

import argparse
import sys

from . import counts, tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.count:
        counts.store(counts.compiled())
    known, text = counts.stored(), tables.PAGE.read_text()
    if given.write:
        tables.PAGE.write_text(text := tables.rewritten(text, known))
    wrong = tables.differing(text, known)
    print("\n\n".join(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
