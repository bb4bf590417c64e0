"""Run commands in this process, through pipes, and at a terminal."""

import io
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gptlib.extras.cli import main

PATIENCE = 300.0
"""How long to wait for another process, in seconds; a busy machine starts PyTorch slowly."""


POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C in another way")

LAUNCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have switched it off
if sys.stdin.isatty():
    import fcntl, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # this terminal's Ctrl-C goes to this process
from gptlib.__main__ import main
raise SystemExit(main())
"""


def pipe_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def call(*words: object) -> int:
    """Run a command in this process; return its status."""
    return main([str(word) for word in words])


def short_text(folder: Path) -> Path:
    """Write a text that is long enough to train on for a few steps."""
    place = folder / "book.txt"
    place.write_text("It was a dark and stormy night. " * 60, encoding="utf-8")
    return place


def written(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(rf"python -m gptlib {words[0]}( [a-z]+)?: error: ", err), err
    assert err.endswith(" (see --help)\n")
    assert err.count("\n") == 1, "more than one line"
    return err


class Talk:
    """A running command: what it wrote so far, and what to wait for."""

    def __init__(self, process: subprocess.Popen[bytes], out: int) -> None:
        self.process, self.out, self.seen = process, out, b""

    def wait_for(self, is_there: str | int) -> str:
        """Read until a text, or so many more bytes, came; return what was read."""
        begin, end = len(self.seen), time.monotonic() + PATIENCE
        while True:
            new = self.seen[begin:]
            if len(new) >= is_there if isinstance(is_there, int) else is_there.encode() in new:
                return new.decode(errors="replace")
            ready, _, _ = select.select([self.out], [], [], max(0, end - time.monotonic()))
            assert ready, f"waited for {is_there!r}, saw {self.seen[-500:]!r}"
            piece = os.read(self.out, 65536)
            assert piece, f"it ended, waiting for {is_there!r}: {self.seen[-500:]!r}"
            self.seen += piece

    def press_ctrl_c_until(self, is_there: str) -> None:
        """Press Ctrl-C, and again: Python's readline misses one that comes before it listens."""
        begin, end = len(self.seen), time.monotonic() + PATIENCE
        while is_there.encode() not in self.seen[begin:]:
            assert time.monotonic() < end, f"waited for {is_there!r}, saw {self.seen[-500:]!r}"
            os.write(self.out, b"\x03")
            while (
                select.select([self.out], [], [], 5)[0]
                and is_there.encode() not in self.seen[begin:]
            ):
                self.seen += os.read(self.out, 65536)


@contextmanager
def talk(*words: object) -> Iterator[Talk]:
    """Start a command with pipes for its input and output."""
    command = [sys.executable, "-c", LAUNCH, *map(str, words)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            yield Talk(process, process.stdout.fileno())
        finally:
            process.kill()


@contextmanager
def talk_at_terminal(*words: object) -> Iterator[Talk]:
    """Start a command at a terminal of its own, where it is written to as by a keyboard."""
    command = [sys.executable, "-c", LAUNCH, *map(str, words)]
    keyboard, terminal = os.openpty()
    if sys.platform != "win32":
        import termios

        termios.tcsetwinsize(terminal, (24, 100))  # else a progress bar has no room
    with subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env=os.environ | {"TERM": "dumb"},
    ) as process:
        os.close(terminal)
        try:
            yield Talk(process, keyboard)
        finally:
            process.kill()
            os.close(keyboard)
