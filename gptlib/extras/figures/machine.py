"""Where we are: the whole machine in one strip, with the part of a chapter lit."""

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
    "gpt2": {"attention", "mlp", "logits"},
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
