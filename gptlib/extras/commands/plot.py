"""The command `plot`: the loss curves of runs in one picture."""

import argparse
import html
import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from gptlib.extras.commands.base import add_json
from gptlib.extras.options import CommandParser
from gptlib.extras.runs import CONFIG, LOG, PICTURE, JsonLines, differences
from gptlib.extras.terminal import print_json, read_text
from gptlib.tokenizer import whole_file

_PLOT = """\
Draw the losses of runs in one picture: on the text that they learn from as a thin line, on the
other part as a thick one. The legend says in which fields the runs differ."""

_EXAMPLES = """\
examples:
  python -m gptlib plot runs/my-book
  python -m gptlib plot runs/one runs/two --save losses.html
"""

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
_MOST_POINTS = 500


def parser(prog: str) -> CommandParser:
    """Make the parser of `plot`."""
    parser = CommandParser(prog, _plot, _EXAMPLES, description=_PLOT)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="the picture: .png, .svg, or .html for a page that needs no network "
        f"(default: {PICTURE} in the first run's folder)",
    )
    add_json(parser, "print the curves as JSON, and draw nothing")
    return parser


def draw_runs(folders: Sequence[Path], file: Path) -> None:
    """Draw runs into a file whose name ends in .png, .svg or .html.

    Raises:
        ValueError: If a run has no losses yet, or the name ends in something else.
    """
    kind = file.suffix.removeprefix(".")
    if kind not in ("png", "svg", "html"):
        raise ValueError(f"--save is {str(file)!r}; end the name in .png, .svg or .html")
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes, curves, names = figure.subplots(), list(map(_curves, folders)), _labels(folders)
    for number, ((learnt, judged), name) in enumerate(zip(curves, names, strict=True)):
        color, every = COLORS[number % len(COLORS)], 1 + len(learnt) // _MOST_POINTS
        groups = [learnt[i : i + every] for i in range(0, len(learnt), every)]
        losses = [sum(loss for _, loss in group) / len(group) for group in groups]
        axes.plot([group[-1][0] for group in groups], losses, color=color, lw=0.8, alpha=0.6)
        judged, short = judged or learnt[-1:], textwrap.shorten(name, 80, placeholder=" ...")
        axes.plot(*zip(*judged, strict=True), "o-", color=color, ms=3, label=short)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="thick: on the other part")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):  # letters stay letters, for readers and searches
        figure.savefig(picture, format="svg" if kind == "html" else kind, dpi=150)
    with whole_file(file) as draft:
        draft.write_bytes(
            _page(picture.getvalue(), names, curves) if kind == "html" else picture.getvalue()
        )


def _curves(folder: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Read a run's losses: those of training and those of validation, each with its step."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no run; name a folder that train made")
    lines = JsonLines.read(folder / LOG) if (folder / LOG).is_file() else []
    lines = [line for line in lines if "loss" in line]
    if not lines:
        raise ValueError(f"{folder} has no losses yet; let it take some steps first")
    judged = [line for line in lines if line["validation_loss"] is not None]
    return (
        [(line["step"], line["loss"]) for line in lines],
        [(line["step"], line["validation_loss"]) for line in judged],
    )


def _labels(folders: Sequence[Path]) -> list[str]:
    """Name each run, and say in what it differs from the others."""
    first = read_text(str(folders[0] / CONFIG))
    found: list[dict[str, Any]] = [differences(folder, first) for folder in folders]
    own = {name: pair[1] for each in found for name, pair in each.items()}
    labels = []
    for folder, each in zip(folders, found, strict=True):
        values = {name: each[name][0] if name in each else own[name] for name in own}
        said = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in values.items())
        labels.append(f"{folder.name} ({said})" if said else folder.name)
    return labels


def _page(svg: bytes, names: Sequence[str], curves: Sequence[tuple[Any, Any]]) -> bytes:
    """Write one page with the picture and a table of the last losses."""
    rows = [
        f"<tr><td>{html.escape(name)}<td>{learnt[-1][0]:,}<td>{learnt[-1][1]:.4f}"
        f"<td>{min(loss for _, loss in judged or learnt):.4f}"
        for name, (learnt, judged) in zip(names, curves, strict=True)
    ]
    picture = re.sub(r"(?s)^.*?(?=<svg )", "", svg.decode())
    return (
        '<!doctype html><meta charset="utf-8"><title>Losses</title><style>'
        "body{font:15px sans-serif}svg{max-width:100%;height:auto}"
        "td,th{padding:2px 12px;text-align:left}</style>"
        f"{picture}<table><tr><th>run<th>steps<th>loss<th>best loss{''.join(rows)}</table>\n"
    ).encode()


def _plot(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json(
            {
                str(f): dict(zip(("loss", "validation_loss"), _curves(f), strict=True))
                for f in arguments.runs
            }
        )
        return 0
    file = arguments.save or arguments.runs[0] / PICTURE
    draw_runs(arguments.runs, file)
    print(f"the picture is {file}")
    return 0
