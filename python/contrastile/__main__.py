"""``python -m contrastile``: see ``contrastile.cli``."""

from contrastile.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
