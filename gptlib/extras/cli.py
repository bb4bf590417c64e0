"""The command line: `python -m gptlib COMMAND ...`, installed as `gptlib` too.

PyTorch takes seconds to import, so it waits until the words of the command are understood.
Each command is a module of `gptlib.extras.commands`, imported when it is called.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from gptlib.extras.commands.base import CommandParser, forgiving_output, program

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "tokenizer": ("train a tokenizer; turn text into tokens and back", "tokenizing"),
    "data": ("turn texts of any size into a file of tokens", "preparing"),
    "train": ("train a model on your own texts; stop and go on", "training"),
    "evaluate": ("measure how well a model predicts texts", "evaluating"),
    "generate": ("go on from the beginning of a text", "writing"),
    "chat": ("write in turns with a model", "writing"),
    "classify": ("sort messages with a classifier, or train one", "classifying"),
    "doctor": ("examine this machine: can it run the course, and if not, what helps?", "doctor"),
}
"""For each command what it is for, and its module, which has a function `COMMAND_parser`."""


class Command(Protocol):
    """What a module's function `COMMAND_parser` returns."""

    def run(self, words: Sequence[str]) -> int:
        """Do what the words say and return the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and say how it went.

    Args:
        arguments: the words after `python -m gptlib`; those of this process if None.

    Returns:
        The exit status: 0 if all is well, 1 if the doctor found a problem, 130 if Ctrl-C
        stopped it, 141 if nobody reads its output any more.

    Raises:
        SystemExit: with status 2 and one line that says what to do if a command or a value can't
            be used, 0 after `--help`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in COMMANDS:
        _list_commands().parse_args(words[:1])
    command = _find(words[0])
    forgiving_output()
    try:
        status = command.run(words[1:])
        sys.stdout.flush()  # fails here, not at Python's end
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return 141
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _find(name: str) -> Command:
    module = import_module(f"gptlib.extras.commands.{COMMANDS[name][1]}")
    return cast(Command, getattr(module, f"{name}_parser")())


def _list_commands() -> argparse.ArgumentParser:
    """Make the parser that says which commands there are, and refuses all others."""
    parser = argparse.ArgumentParser(
        prog=program(), description="What serves the course from the command line."
    )
    commands = parser.add_subparsers(
        dest="command", metavar="command", required=True, parser_class=CommandParser
    )
    for name, (purpose, _) in COMMANDS.items():
        commands.add_parser(name, help=purpose)
    return parser
