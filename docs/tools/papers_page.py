"""Writes docs/papers.md from the table in docs/tools/papers.

python docs/tools/papers_page.py            # writes the page
python docs/tools/papers_page.py --check    # fails where the page is not what it would write
"""

import argparse
import sys
from pathlib import Path

from papers import GROUPS
from papers.page import page

PAGE = Path(__file__).parents[1] / "papers.md"


def main() -> None:
    parser = argparse.ArgumentParser(description="writes docs/papers.md from the table in docs/tools/papers")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the page is stale")
    text = page(GROUPS)
    if not parser.parse_args().check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit(f"{PAGE} is stale: run python docs/tools/papers_page.py")


if __name__ == "__main__":
    main()
