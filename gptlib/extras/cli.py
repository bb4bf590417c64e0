"""The command line: `python -m gptlib COMMAND ...`, installed as `gptlib` too.

Each command is a module of `gptlib.extras.commands`, named after it, with a function `parser`. It
is imported when it is called, because PyTorch takes seconds to import.
"""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from gptlib.extras.interrupt import last_words, ways_on
from gptlib.extras.options import CommandParser

COMMANDS = {
    "tokenizer": "train a tokenizer; turn text into tokens and back",
    "data": "turn texts of any size into a file of tokens",
    "train": "train a model on your own texts, from nothing or from a model; stop and go on",
    "tune": "teach a model to answer, from your own questions and answers",
    "info": "say what a model is made of, and what it costs",
    "runs": "list what was trained, and how far it came",
    "plot": "draw the losses of runs",
    "evaluate": "measure how well a model predicts texts",
    "generate": "go on from the beginning of a text",
    "chat": "write in turns with a model",
    "classify": "sort messages with a classifier, or train one",
    "convert": "write a model in another form",
    "doctor": "examine this machine: can it run the course, and if not, what helps?",
}
"""What each command is for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and say how it went.

    Args:
        arguments: The words after `python -m gptlib`; those of this process if None.

    Returns:
        The exit status: 0 if all is well, 1 if the doctor found a problem, 130 if Ctrl-C
        stopped it, 141 if nobody reads its output any more.

    Raises:
        SystemExit: With status 2 and one line that says what to do if a command or a value can't
            be used, 0 after `--help` and `--version`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = "gptlib" if Path(sys.argv[0]).stem == "gptlib" else "python -m gptlib"
    if not words or words[0] not in COMMANDS:
        everything = CommandParser(program, description="The course's command line.")
        everything.add_argument(
            "--version", action="version", version=f"gptlib {version('gptlib')}"
        )
        for name, purpose in COMMANDS.items():
            everything.add_command(name, None, purpose)
        everything.parse_args(words[:1])
    if int(os.environ.get("RANK", 0)):  # of several processes, the first speaks
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a "?" where a console can't spell a letter
    ways_on.clear()
    try:
        module = import_module(f"gptlib.extras.commands.{words[0]}")
        parser: CommandParser = module.parser(f"{program} {words[0]}")
        wishes = parser.read(words[1:])
        parser = wishes.parser  # its own, of a command of this command
        status: int = wishes.work(wishes)
        sys.stdout.flush()  # fails here, not at Python's end
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return 141
    except KeyboardInterrupt:
        sys.stderr.write(last_words())
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        parser.error(str(error))  # ends the program
        raise
