"""The command `doctor`."""

import argparse

from gptlib.extras import doctor
from gptlib.extras.options import CommandParser

__all__ = ["parser"]


def parser(prog: str) -> CommandParser:
    """Make the parser of `doctor`."""
    return CommandParser(
        prog,
        _doctor,
        "exit status: 0 if all is well, 1 if a problem was found.\n",
        description="Examine this machine: can it run the course, and if not, what helps?",
    )


def _doctor(_: argparse.Namespace) -> int:
    findings = doctor.examine()
    print(doctor.report(findings))
    return int(any(finding.status == "problem" for finding in findings))
