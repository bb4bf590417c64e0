"""The command `runs`: a table of what was trained, and how far it came."""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import yaml

from gptlib.extras.commands.base import add_json
from gptlib.extras.options import CommandParser
from gptlib.extras.runs import CHECKPOINT, CONFIG, LOG, SECTIONS, JsonLines
from gptlib.extras.terminal import print_json, table
from gptlib.gpt2 import count_parameters

_RUNS = """\
List the training runs in a folder: when a run last wrote something, its text, its parameters, its
steps, its best loss on the part that it is judged by, and whether it is complete."""

_EXAMPLES = """\
examples:
  python -m gptlib runs
  python -m gptlib runs runs/ experiments/ --sort loss
"""

_ORDERS = ("when", "run", "parameters", "steps", "loss")


def parser(prog: str) -> CommandParser:
    """Make the parser of `runs`."""
    parser = CommandParser(prog, _runs, _EXAMPLES, description=_RUNS)
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="where runs are, or a run itself (default: runs/, or what GPTLIB_RUNS names)",
    )
    parser.add_argument(
        "--sort",
        choices=_ORDERS,
        default="when",
        metavar="NAME",
        help=f"{', '.join(_ORDERS)} (default: when, the latest first)",
    )
    add_json(parser)
    return parser


def _describe(folder: Path) -> dict[str, Any]:
    """Describe one run, by the names that --json prints."""
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    log, n_steps = folder / LOG, config["training"]["n_steps"]
    lines = [x for x in JsonLines.read(log) if "loss" in x] if log.is_file() else []
    judged = [x["validation_loss"] for x in lines if x["validation_loss"] is not None]
    step = lines[-1]["step"] if lines else 0
    state = "complete" if step >= n_steps else "stopped" if lines else "empty"
    if state == "stopped" and not (folder / CHECKPOINT).is_file():
        state = "no checkpoint"
    return {
        "run": str(folder),
        "when": (log if lines else folder / CONFIG).stat().st_mtime,
        "text": ", ".join(Path(text).name for text in config["data"]["texts"]),
        "parameters": count_parameters(SECTIONS["model"](**config["model"]))["total"],
        "steps": step,
        "of": n_steps,
        "loss": min(judged, default=None),
        "state": state,
    }


def _runs(arguments: argparse.Namespace) -> int:
    places = arguments.folders or [Path(os.environ.get("GPTLIB_RUNS", "runs")).expanduser()]
    if missing := [place for place in places if not place.is_dir()]:
        raise ValueError(f"there is no folder {str(missing[0])!r}; name one that holds runs")
    files = [
        file for place in places for depth in ("", "*/") for file in place.glob(depth + CONFIG)
    ]
    found = [_describe(file.parent) for file in files]
    key = arguments.sort
    found.sort(key=lambda run: (run[key] is None, -run[key] if key == "when" else run[key]))
    if arguments.json:
        print_json(found)
        return 0
    head = ("run", "when", "text", "parameters", "steps", "best loss", "state")
    rows = [
        (
            *(run["run"], time.strftime("%Y-%m-%d %H:%M", time.localtime(run["when"]))),
            *(run["text"], f"{run['parameters']:,}", f"{run['steps']:,} of {run['of']:,}"),
            *("-" if run["loss"] is None else f"{run['loss']:.4f}", run["state"]),
        )
        for run in found
    ]
    print(table(head, rows))
    return 0
