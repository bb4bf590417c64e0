"""The whole machine: as a map of the chapters, and as a strip with a chapter's part lit."""

from functools import partial

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from gptlib.extras.figures import Picture, canvas, plain
from gptlib.extras.plots import COLORS

PARTS = {
    "tokenizer": (0.9, "tokens"),
    "embeddings": (2.6, "vectors"),
    "attention": (4.75, "attention"),
    "mlp": (6.55, "MLP"),
    "logits": (8.6, "logits"),
    "generation": (10.3, "next token"),
}
"""Each box: where its middle stands, and its label."""

LIT = {
    "tokenizer": {"tokenizer"},
    "embeddings": {"embeddings"},
    "attention": {"attention"},
    "gpt2": {"mlp", "logits"},
    "training": {"embeddings", "attention", "mlp", "logits"},
    "generation": {"generation"},
}
"""What is lit in which chapter."""


def machine(chapter: str, n_layer: int = 6) -> Picture:
    """Draw the way from a text to its next token, with the part of a chapter lit."""
    figure, ax = canvas(9, 1.5)
    plain(ax, 11.3, 1.75)
    block = FancyBboxPatch((3.72, 0.38), 3.86, 1.24, boxstyle="round,pad=0.08", fc="0.96", ec="0.6")
    ax.add_patch(block)
    ax.text(5.65, 0.22, f"block, {n_layer} times", ha="center", va="bottom", color="0.35")
    middles = [middle for middle, _ in PARTS.values()]
    for left, right in zip([-0.15, *middles], [*middles, 11.25], strict=True):
        ax.add_patch(
            FancyArrowPatch((left, 1), (right, 1), arrowstyle="-|>", mutation_scale=9, color="0.5")
        )
    for name, (middle, label) in PARTS.items():
        lit = name in LIT[chapter]
        fill, edge, width = (COLORS[4], "black", 1.6) if lit else ("white", "0.6", 0.8)
        corner, style = (middle - 0.62, 0.7), "round,pad=0.06"
        ax.add_patch(FancyBboxPatch(corner, 1.24, 0.6, style, fc=fill, ec=edge, lw=width))
        ax.text(middle, 1, label, ha="center", va="center", weight="bold" if lit else "normal")
    lit_labels = [label for name, (_, label) in PARTS.items() if name in LIT[chapter]]
    alt = (
        "The machine from left to right: tokens, vectors, then a block with attention and MLP, "
        f"{n_layer} times, then logits and the next token. Lit: {', '.join(lit_labels)}."
    )
    return Picture(figure, alt, "You are here.")


CHAPTERS = {
    "tokenizer": 1,
    "embeddings": 2,
    "attention": 3,
    "mlp": 4,
    "logits": 4,
    "generation": 6,
}
"""The chapter of each part."""

AROUND = (
    (4.4, 0.3, "5  training: a book says what\ncame next, every number learns"),
    (7.9, 0.3, "7  weights: OpenAI's numbers in,\nyours out, as files"),
    (1.5, 4.3, "8  classification:\nis it spam?"),
    (5.65, 4.3, "9  instructions:\nanswer a question"),
    (9.8, 4.3, "10  scaling: the same\non many machines"),
)
"""What is done with the machine: where it stands, and what it says."""


def course_map() -> Picture:
    """Draw the whole machine with the number of the chapter in which each part is built."""
    figure, ax = canvas(9, 3.7)
    plain(ax, 11.3, 4.65)
    box = partial(FancyBboxPatch, boxstyle="round,pad=0.08", ec="0.6")
    arrow = partial(FancyArrowPatch, arrowstyle="-|>", mutation_scale=9, color="0.5")
    ax.add_patch(box((3.72, 1.62), 3.86, 1.26, fc="0.95"))
    ax.text(5.65, 1.6, "4  block, 6 times", ha="center", va="top", color="0.35")
    middles = [middle for middle, _ in PARTS.values()]
    for left, right in zip([-0.85, *middles], middles, strict=False):
        ax.add_patch(arrow((left + 0.7, 2.4), (right - 0.7, 2.4)))
    ax.plot([10.3, 10.3, 0.9], [2.78, 3.35, 3.35], color="0.5", lw=1)
    ax.add_patch(arrow((0.9, 3.35), (0.9, 2.74), shrinkA=0))
    ax.text(5.65, 3.3, "append the token, read on", ha="center", va="bottom", color="0.35")
    for name, (middle, label) in PARTS.items():
        ax.add_patch(box((middle - 0.66, 2.1), 1.32, 0.6, fc="white"))
        ax.text(middle, 2.4, f"{CHAPTERS[name]}  {label}", ha="center", va="center")
    for x, y, label in AROUND:
        ax.text(x, y, label, ha="center", va="center", color=COLORS[0])
    ax.add_patch(box((1.82, 1.32), 7.56, 1.62, fc="none", ls="--", ec=COLORS[0]))  # all numbers
    for x, end in ((4.4, 4.9), (7.9, 6.9)):
        ax.add_patch(arrow((x, 0.7), (end, 1.28), color=COLORS[0]))
    alt = (
        "The machine, with the number of the chapter that builds each part. From left to right: "
        "1 tokens, 2 vectors, then the block of chapter 4 with 3 attention and an MLP, 6 times, "
        "then 4 logits and 6 the next token, which is appended and read on. Above, with arrows to "
        "a frame round 2, 3 and 4: 5 training and 7 weights, which fill it with numbers. Below: "
        "8 classification, 9 instructions and 10 scaling, which use it."
    )
    return Picture(figure, alt, "Each number is a chapter.")
