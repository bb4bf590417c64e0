"""Ctrl-C at any moment: one line, status 130, and nothing that was kept is lost."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ways_on: list[Callable[[], str]] = []
"""What the running command says about how to go on."""


def last_words() -> str:
    """Word the one line that is said at the end."""
    said = ["stopped"]
    with suppress(Exception):  # whatever is half done, the end comes
        said += [way_on() for way_on in ways_on]
    return "\n" * sys.stderr.isatty() + "; ".join(said) + "\n"


def end_at_once(*_: object) -> None:
    """Say the line and end this process: for `signal.signal`.

    No exception is raised: one that comes while PyTorch is imported, while an object is deleted or
    while Python ends would show a traceback, get lost or crash.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with suppress(Exception):
            sys.stdout.flush()
        os.write(2, last_words().encode(errors="replace"))
    finally:
        os._exit(130)


@contextmanager
def raising() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt again, for a caller that goes on after it."""
    before = signal.getsignal(signal.SIGINT)
    if before is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if before is end_at_once:
            signal.signal(signal.SIGINT, before)
