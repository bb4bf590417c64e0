"""The static picture of the sampling playground."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes

from gptlib.extras.plots import COLORS
from gptlib.extras.widgets.generation_writer import percent

SHADES = [
    (0.5, "≥ 50 %", "#f7fbff", "#111"),
    (0.2, "20–50 %", "#c6dbef", "#111"),
    (0.05, "5–20 %", "#7fb8dc", "#111"),
    (0.01, "1–5 %", "#2171b5", "#fff"),
    (0.0, "< 1 %", "#08306b", "#fff"),
]
"""Least probability, its name, background and ink: one hue, the darker the less expected."""


def draw_panel(part: Any, panel: dict[str, Any], prompt: str) -> None:
    """Draw a column of the playground into a part of a figure."""
    if panel["title"]:
        part.suptitle(panel["title"], fontsize=11)
    top, middle, bottom = part.subfigures(3, 1, height_ratios=[3.1, 1.4, 1.7])
    numbers = [number for number, stage in enumerate(panel["stages"]) if stage["active"]]
    axes = top.subplots(1, max(3, len(numbers)), sharey=True, squeeze=False)[0]
    for ax in axes[len(numbers) :]:
        ax.axis("off")
    before = numbers[0]
    for ax, number in zip(axes, numbers, strict=False):
        _draw_stage(ax, panel, before, number)
        before = number
    _draw_text(middle.subplots(), prompt, panel)
    _draw_entropy(bottom.subplots(), panel)


def _draw_stage(ax: Axes, panel: dict[str, Any], before: int, number: int) -> None:
    rows, stage = panel["rows"], panel["stages"][number]
    most = max(value[1] for row in rows for value in row["values"])
    for y, row in enumerate(rows):
        (old_logit, old), (logit, p) = row["values"][before], row["values"][number]
        ax.barh(y, min(old, p), color=COLORS[0])
        if logit is None:
            if old_logit is not None:
                ax.barh(y, old, facecolor="w", edgecolor=COLORS[1], hatch="////")
                ax.text(old + 0.03 * most, y, "cut", color=COLORS[1], va="center", fontsize=9)
            continue
        if p > old:
            ax.barh(y, p - old, left=old, color=COLORS[5])
        elif p < old:
            ax.barh(y, old - p, left=p, color="0.8")
        ax.text(max(p, old) + 0.03 * most, y, percent(p), va="center", fontsize=9)
    ax.set(xlim=(0, 1.45 * most), ylim=(len(rows) - 0.4, -0.6), xlabel="probability")
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= min(1, 1.45 * most)])
    ax.set_yticks(range(len(rows)), labels=[row["label"] for row in rows])
    left = f": {stage['left']:,} left" if stage["cuts"] else ""
    ax.set_title(f"{stage['name']}\n{stage['note']}{left}", fontsize=9.5)
    ax.tick_params(axis="y", length=0)


def _draw_text(ax: Axes, prompt: str, panel: dict[str, Any]) -> None:
    """Write the end of the text in its colours, in lines of a font with letters of one width."""
    width, most = 122, 6
    runs = [(prompt, "none", "#555")]
    for shown, _, p, *_ in panel["tokens"]:
        _, _, background, ink = next(shade for shade in SHADES if p >= shade[0])
        runs.append((shown, background, ink))
    placed, line, column = [], 0, 0
    for shown, background, ink in runs:
        for number, piece in enumerate(_chunks(shown, width)):
            if number or column + len(piece) > width:
                line, column = line + 1, 0
            placed.append((line, column, piece, background, ink))
            column += len(piece)
    for at, column, piece, background, ink in placed:
        y = at - max(0, line + 1 - most)
        box = {"facecolor": background, "edgecolor": "none", "pad": 0.6}
        words: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": 8.4, "va": "top"}
        if y >= 0 and piece:
            ax.text(column / width, 0.97 - y / most, piece, color=ink, bbox=box, **words)
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    part = "The end of the text" if line >= most else "The text"
    ax.set_title(f"{part}; the darker, the less probable by the model", fontsize=9.5)


def _chunks(text: str, width: int) -> Iterable[str]:
    for line in text.split("\n"):
        for start in range(0, max(1, len(line)), width):
            yield line[start : start + width]


def _draw_entropy(ax: Axes, panel: dict[str, Any]) -> None:
    names = ["the model's", "after the filters"]
    for number, (name, look) in enumerate(zip(names, ["-", "--"], strict=True)):
        values = [pair[number] for pair in panel["entropy"]]
        ax.plot(values, "o" + look, markersize=3, color=COLORS[number], label=name)
    ax.set(xlabel="tokens written", ylabel="entropy (nats)", ylim=(0, None))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
