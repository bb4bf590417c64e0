"""Run the command line: `python -m gptlib train`, `generate`, `evaluate` and others."""

import sys

from gptlib.extras.cli import main

if __name__ == "__main__":
    sys.exit(main())
