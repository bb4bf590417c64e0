"""Run the command line: `python -m gptlib doctor`, `generate` or `chat`."""

import sys

from gptlib.extras.cli import main

if __name__ == "__main__":
    sys.exit(main())
