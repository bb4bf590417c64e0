"""Run the command line: `python -m gptlib train`, `generate`, `evaluate` and others."""

import signal
import sys

from gptlib.extras.interrupt import end_at_once


def main() -> int:
    """Run the command that was typed; from here on, Ctrl-C ends in one line."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end_at_once)
    from gptlib.extras.cli import main as command_line

    try:
        return command_line()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done, and Python takes a moment


if __name__ == "__main__":
    sys.exit(main())
