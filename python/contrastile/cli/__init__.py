"""Command line: ``python -m contrastile info | demo | selftest | bench | tune``.

Losses never print; these commands do. Each command module offers ``add_arguments(parser)`` and
``run(options) -> exit code``.
"""

import argparse
from collections.abc import Sequence

import contrastile
from contrastile.cli import bench, demo, info, selftest, tune

__all__ = ["main"]

_COMMANDS = {"info": info, "demo": demo, "selftest": selftest, "bench": bench, "tune": tune}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 a check failed, 2 cannot run. Without one: help."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.run is None:
        parser.print_help()
        return 0
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="contrastile", description="Contrastive losses without the N x N matrix.")
    parser.add_argument("--version", action="version", version=contrastile.__version__)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
