"""What the commands read from a terminal or a pipe, and write to it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path


def read_text(name: str) -> str:
    """Read a file, or with "-" all of standard input, as UTF-8, to the byte.

    Args:
        name: The file.

    Returns:
        The text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no UTF-8, with the byte where it stops being so.
    """
    try:
        if name != "-":
            return Path(name).expanduser().read_bytes().decode()
        is_real = hasattr(sys.stdin, "buffer")
        return (sys.stdin.buffer.read() if is_real else sys.stdin.read().encode()).decode()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {name!r}; name one that is there") from None
    except UnicodeDecodeError as error:
        what = "standard input" if name == "-" else name
        raise ValueError(
            f"{what} is no UTF-8 text (byte {error.start}); convert it first"
        ) from None


def note(text: str) -> None:
    """Say something that is no result, on standard error."""
    print(f"note: {text}", file=sys.stderr, flush=True)


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


def print_json(value: object) -> None:
    """Write a result as JSON on one line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
