"""What the commands share: parsers whose errors are one line, and options of several commands."""

from __future__ import annotations

import argparse
import difflib
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # PyTorch waits
    from collections.abc import Iterator

    import torch

    from gptlib.tokenizer import Tokenizer

__all__ = [
    "TOKENIZERS",
    "CommandParser",
    "add_device_option",
    "add_model_options",
    "add_tokenizer_options",
    "command_parser",
    "commas",
    "device_name",
    "end_with_error",
    "find_device",
    "forgiving_output",
    "load_tokenizer",
    "new_folder",
    "note",
    "print_json",
    "program",
    "progress",
    "quoted",
    "read_standard_input",
    "suggestion",
    "table",
]

TOKENIZERS = "gpt2 for GPT-2's own, or a folder with vocab.json and merges.txt"


def program() -> str:
    """Say how this program was called, so that what it tells you to type works.

    Returns:
        "gptlib" if that is what was typed, else "python -m gptlib".
    """
    return "gptlib" if Path(sys.argv[0]).stem == "gptlib" else "python -m gptlib"


def quoted(path: Path) -> str:
    """Write a path so that it can be pasted into a terminal."""
    return f'"{path}"' if " " in str(path) else str(path)


def end_with_error(command: str, message: str) -> NoReturn:
    """End with status 2 and one line that says what is wrong.

    Args:
        command: The words that name the command, such as "python -m gptlib train".
        message: What is wrong, and what to do.

    Raises:
        SystemExit: Always.
    """
    sys.stderr.write(f"{command}: error: {' '.join(message.split())} (see --help)\n")
    raise SystemExit(2)


class CommandParser(argparse.ArgumentParser):
    """A parser of one command, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line; fields' names become options' names."""
        if message.endswith("expected one argument"):
            message += "; one that begins with - is written --option=VALUE"
        for action in self._actions:
            name = action.dest  # a field's name: at the beginning, or anywhere if it has a _
            if action.option_strings and name != "help":
                pattern = rf"^{name}(?= is )" + rf"|(?<![\w-]){name}\b" * ("_" in name)
                message = re.sub(pattern, action.option_strings[-1], message)
        end_with_error(self.prog, re.sub(r"\bor None\b", "or leave it out", message))

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """End because of words that are no options."""
        word = next((word for word in words if word.startswith("-")), words[0])
        name, known = word.partition("=")[0], self._option_string_actions
        if name.startswith("--"):
            self.error(f"there is no option {word}{suggestion(name, known)}")
        if word.startswith("-"):
            self.error(f"there is no option {word}")
        self.error(f"{word!r} is no option; put a text of several words in quotes")

    def run(self, words: Sequence[str]) -> int:
        """Understand the words after the command's name, and do what they say.

        Args:
            words: The words.

        Returns:
            The exit status.
        """
        known, unknown = self.parse_known_args(words)
        chosen: CommandParser = known.parser
        if unknown:
            chosen.refuse(unknown)
        try:
            return int(known.work(known))
        except (ValueError, OSError, FloatingPointError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            chosen.error(str(error))


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say what somebody may have meant.

    Args:
        name: What was typed.
        known: What can be typed.

    Returns:
        "; did you mean ...?", empty if nothing is like it.
    """
    options = list(known)
    ends = tuple(mark + name.lstrip("-") for mark in ".-")
    close = [o for o in options if o.startswith(name) or o.endswith(ends)]
    close += difflib.get_close_matches(name, options)
    return f"; did you mean {close[0]}?" if close else ""


def command_parser(
    name: str,
    work: Callable[[argparse.Namespace], int] | None,
    description: str,
    examples: str = "",
    usage: str | None = None,
    among: argparse._SubParsersAction[CommandParser] | None = None,
) -> CommandParser:
    """Make the parser of a command, or of a command's command.

    Args:
        name: The command, such as "generate"; "tokenizer train" for a command's command.
        work: What to do with what was parsed; None if there are commands below it.
        description: What it is for; the first sentence also stands in the list of commands.
        examples: What stands at the end of the help.
        usage: What is shown as usage, after the name.
        among: The commands that it is one of.

    Returns:
        The parser.
    """
    whole = f"{program()} {name}"
    more: dict[str, Any] = {
        "prog": whole,
        "description": description,
        "epilog": examples.replace("python -m gptlib", program()),
        "usage": usage and f"{whole} {usage}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
    if among is None:
        parser = CommandParser(**more)
    else:
        line = " ".join(description.partition(".")[0].split())
        parser = among.add_parser(name.split()[-1], help=line[:1].lower() + line[1:], **more)
    if work is not None:
        parser.set_defaults(work=work, parser=parser)
    return parser


# Options that several commands have


def add_model_options(group: argparse._ArgumentGroup, which: str = "a model") -> None:
    """Add `--model` and `--device`.

    Args:
        group: Where to add them.
        which: What the folder holds.
    """
    group.add_argument(
        "--model",
        type=_model,
        metavar="DIR",
        help=f"folder of {which}, or of a training run, or gpt2, gpt2-medium, gpt2-large, gpt2-xl "
        "(default: what the environment variable GPTLIB_MODEL names, else the model that comes "
        "with the course)",
    )
    add_device_option(group)


def add_device_option(group: argparse._ArgumentGroup) -> None:
    """Add `--device`."""
    group.add_argument(
        "--device",
        type=device_name,
        metavar="NAME",
        help="cpu, cuda, cuda:N or mps (default: the best that this machine has)",
    )


def add_tokenizer_options(group: argparse._ArgumentGroup) -> None:
    """Add `--tokenizer`, of texts that are turned into tokens or back."""
    group.add_argument(
        "--tokenizer",
        metavar="NAME",
        default="gpt2",
        help=f"{TOKENIZERS} (default: gpt2)",
    )


def _model(text: str) -> str | Path:
    if re.fullmatch("gpt2(-medium|-large|-xl)?", text):
        return text
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(
            f"there is no folder {text!r}; name one that holds a model, or gpt2, or leave it out"
        )
    return folder


def new_folder(text: str) -> Path:
    """Read the value of `--save`."""
    folder = Path(text).expanduser()
    if not text.strip() or (folder.exists() and not folder.is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r} can't be a folder; name a new one")
    return folder


def device_name(text: str) -> str:
    """Read the value of `--device`."""
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no device; write cpu, cuda, cuda:N with a card's number N, or mps"
        )
    return text


def find_device(name: str | None) -> torch.device:
    """Turn the value of `--device` into a device of this machine.

    Args:
        name: The value, None for the best device.

    Returns:
        The device.
    """
    from gptlib.extras.device import best_device, chosen_device

    return chosen_device(name, "--device") if name else best_device()


def load_tokenizer(name: str) -> Tokenizer:
    """Find a tokenizer by its name.

    Args:
        name: "gpt2", or a folder: of a tokenizer, of a model or of a training run.

    Returns:
        GPT-2's own as tiktoken's, any other as ours.

    Raises:
        FileNotFoundError: If there is no such folder, or it holds no tokenizer.
        ValueError: If its files are damaged.
    """
    from gptlib.extras.models import load_run_tokenizer
    from gptlib.tokenizer import gpt2_encoding

    if name == "gpt2":
        return gpt2_encoding()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no tokenizer {name!r}; name {TOKENIZERS}")
    inside = folder / "tokenizer"
    return load_run_tokenizer(inside if inside.is_dir() else folder)


# What goes in and out


def read_standard_input() -> str:
    """Read all of standard input as UTF-8, to the byte.

    Returns:
        The text.

    Raises:
        ValueError: If it is no UTF-8, with the byte where it stops being so.
    """
    content = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"standard input is no UTF-8 text (byte {error.start}); convert it first"
        ) from None


def note(text: str) -> None:
    """Say something that is no result, on standard error."""
    print(f"note: {text}", file=sys.stderr, flush=True)


@contextmanager
def progress(total: int, what: str, unit: str) -> Iterator[Callable[[int], object]]:
    """Show a bar at a terminal while a long work is done.

    Args:
        total: How much is to be done.
        what: What is done, such as "reading".
        unit: What is counted; "B" for bytes.

    Yields:
        A function to call with how much more is done.
    """
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True, leave=False, disable=quiet)
    with bar:
        yield bar.update


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Set a table for a terminal: the first column to the left, figures to the right.

    Args:
        head: The columns' names.
        rows: What stands in them.

    Returns:
        Lines without a line break at the end.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in (head, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def commas(value: float, digits: int = 0) -> str:
    """Write a number with commas between thousands."""
    return f"{value:,.{digits}f}"


def print_json(value: object) -> None:
    """Write a result as JSON on one line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def forgiving_output() -> None:
    """Let a console that can't spell every letter show a question mark instead."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
