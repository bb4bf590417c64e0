"""The command line: `python -m gptlib doctor`."""

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and say how it went.

    Args:
        arguments: the words after `python -m gptlib`; those of this process if None.

    Returns:
        The exit status: 0 if all is well, 1 if a problem was found.

    Raises:
        SystemExit: with status 2 if the words name no command, 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gptlib", description="What serves the course from the command line."
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    purpose = "examine this machine: can it run the course, and if not, what helps?"
    commands.add_parser("doctor", help=purpose, description=purpose)
    parser.parse_args(arguments)
    return _doctor()


def _doctor() -> int:
    from gptlib.extras.doctor import examine, report

    findings = examine()
    encoding = sys.stdout.encoding or "utf-8"  # a folder's name may not fit a Windows console
    print(report(findings).encode(encoding, "replace").decode(encoding))
    return int(any(finding.status == "problem" for finding in findings))
