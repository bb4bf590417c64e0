"""The command `doctor`."""

import argparse

from gptlib.extras.commands.base import CommandParser, command_parser

__all__ = ["doctor_parser"]


def doctor_parser() -> CommandParser:
    """Make the parser of `doctor`."""
    purpose = "Examine this machine: can it run the course, and if not, what helps?"
    end = "exit status: 0 if all is well, 1 if a problem was found.\n"
    return command_parser("doctor", _doctor, purpose, end)


def _doctor(_: argparse.Namespace) -> int:
    from gptlib.extras.doctor import examine, report

    findings = examine()
    print(report(findings))
    return int(any(finding.status == "problem" for finding in findings))
