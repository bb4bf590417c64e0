"""The command `doctor`."""

import argparse
from dataclasses import asdict

from gptlib.extras import doctor
from gptlib.extras.commands.base import add_json
from gptlib.extras.options import CommandParser
from gptlib.extras.terminal import print_json


def parser(prog: str) -> CommandParser:
    """Make the parser of `doctor`."""
    parser = CommandParser(
        prog,
        _doctor,
        "exit status: 0 if all is well, 1 if a problem was found, 130 if Ctrl-C stopped it.\n",
        description="Examine this machine: can it run the course, and if not, what helps?",
    )
    add_json(parser)
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    findings = doctor.examine()
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print(doctor.report(findings))
    return int(any(finding.status == "problem" for finding in findings))
