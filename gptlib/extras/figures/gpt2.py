"""Figures of the chapter on the model."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib import colors as mpl_colors
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from gptlib.extras.figures import Picture, canvas
from gptlib.extras.plots import COLORS, heatmap
from gptlib.gpt2 import GPTConfig


def before_and_after(stream: Tensor, normal: Tensor) -> Picture:
    """Draw vectors (T, C) and what layer normalisation makes of them, in the same colours."""
    figure, axes = canvas(8.6, 2.6, 1, 2)
    top = 3.0
    spreads = [x.std(-1, unbiased=False) for x in (stream, normal)]
    for ax, x, spread, title in zip(
        axes, (stream, normal), spreads, ("before", "after"), strict=True
    ):
        rows = [f"σ = {s:.1f}" for s in spread]
        image = heatmap(ax, x, rows=rows, limits=(-top, top), cmap="PuOr")
        ax.set_title(title, pad=8)
    figure.colorbar(image, ax=axes, shrink=0.8, extend="both")
    before, after = spreads
    alt = (
        f"{len(stream)} tokens with {stream.size(1)} channels as coloured cells. Before, the "
        f"standard deviation of a row goes from {before[0]:.1f} to {before[-1]:.1f}; after, from "
        f"{after.min():.1f} to {after.max():.1f}, and the pattern of every row can be seen."
    )
    return Picture(figure, alt, "The pattern in each row stays. The difference in size goes.")


def activations(x: Tensor, curves: Mapping[str, Tensor]) -> Picture:
    """Draw activation functions over x."""
    figure, ax = canvas(5.6, 2.9)
    ends = []
    for (name, y), color, line in zip(curves.items(), COLORS, ("-", "--", ":"), strict=False):
        ax.plot(x, y, line, color=color, label=name)
        at = x[y.argmin()]
        ends.append(f"{name} is lowest at {at:.2f} with {y.min():.2f}")
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel="x", xlim=(x[0].item(), x[-1].item()), ylim=(-0.5, 3))
    ax.legend()
    alt = f"Curves from {x[0]:.0f} to {x[-1]:.0f}: {'; '.join(ends)}."
    return Picture(figure, alt, "GELU dips below zero and comes back: a smooth ReLU.")


def stream_growth(sizes: Mapping[str, Sequence[float]]) -> Picture:
    """Draw the stream's standard deviation after each block."""
    figure, ax = canvas(7, 2.9)
    ends = []
    for (name, values), color in zip(sizes.items(), COLORS, strict=False):
        blocks = len(values) - 1
        ax.plot(values, "o-", color=color, markersize=4)
        ax.text(blocks + 0.3, values[-1], name, color=color, va="center")
        ends.append(f"{name} from {values[0]:.2f} to {values[-1]:.2f}")
    ax.set(xlabel="blocks passed", ylabel="standard deviation", ylim=(0, None))
    ax.set(xlim=(0, blocks * 1.25), xticks=range(0, blocks + 1, max(1, blocks // 6)))
    alt = f"The stream's standard deviation after 0 to {blocks} blocks: {'; '.join(ends)}."
    return Picture(figure, alt, "Both lines climb. The scaled one stays far lower.")


def six_ways(losses: Mapping[tuple[str, str], Sequence[float]], plateau: float) -> Picture:
    """Draw the loss over the steps, residual left and no residual right, a line for each norm.

    Args:
        losses: Each step's loss, by "added" or "replaced" and by the norm.
        plateau: The loss of one who knows only how frequent each symbol is.
    """
    figure, axes = canvas(9, 3.2, 1, 2, sharey=True)
    norms = list(dict.fromkeys(norm for _, norm in losses))
    ends = []
    titles = {"added": "results are added", "replaced": "results replace the stream"}
    labels = {"before": "norm before", "after": "norm after", "none": "no norm"}
    for ax, way in zip(axes, titles, strict=True):
        for norm, color, line in zip(norms, COLORS, ("-", "--", ":"), strict=False):
            smooth = torch.tensor(losses[way, norm]).unfold(0, 10, 2).mean(-1)
            ax.plot(
                torch.arange(len(smooth)) * 2 + 10, smooth, line, color=color, label=labels[norm]
            )
            ends.append(f"{way}, {norm}: {smooth[-1]:.2f}")
        ax.axhline(plateau, color="0.6", lw=1, zorder=0)
        ax.set(xlabel="step", title=titles[way])
    axes[0].text(10, plateau - 0.03, "letters by frequency alone", color="0.4", va="top", size=9)
    axes[0].set_ylabel("mean loss of ten steps, nats")
    axes[1].legend()
    alt = f"Six curves of the loss, mean of the last ten steps: {'; '.join(ends)}."
    caption = "One goes below the grey line: added, with the norm before."
    return Picture(figure, alt, caption)


def likeliest(tokens: Sequence[str], probabilities: Sequence[float], text: str) -> Picture:
    """Draw the likeliest next tokens of a text as bars."""
    figure, ax = canvas(5.6, 0.3 * len(tokens) + 0.6)
    shares = [100 * p for p in probabilities]
    ax.barh(range(len(tokens)), shares, color=COLORS[0])
    for row, share in enumerate(shares):
        ax.text(share + 0.5, row, f"{share:.0f} %", va="center")
    ax.set_yticks(range(len(tokens)), labels=[token.replace(" ", "·") for token in tokens])
    ax.set(xticks=[], xlim=(0, 1.2 * max(shares)), ylim=(len(tokens) - 0.5, -0.5))
    ax.tick_params(length=0)
    ax.spines["bottom"].set_visible(False)
    pairs = ", ".join(f"“{t}” {s:.0f} %" for t, s in zip(tokens, shares, strict=True))
    alt = f"Bars of the likeliest tokens after “{text}”: {pairs}."
    return Picture(figure, alt, f"The model's favourites after “{text}”")


def architecture(config: GPTConfig) -> Picture:
    """Draw the whole model with the shape of what flows, and one block opened up beside it."""
    figure, ax = canvas(8.6, 6.6)
    ax.set(xlim=(0, 10), ylim=(-0.6, 10.4))
    ax.axis("off")
    v, t, c, h = config.vocab_size, config.context_length, config.n_embd, config.n_head
    _column(ax, config)
    _box(ax, 4.6, 0.75, 5.2, 8.9, "", "0.97")
    ax.text(7.6, 9.3, "inside one block", fontsize=10.5, style="italic")
    ax.plot([2.9, 4.6], [5.0, 0.75], color="0.75", linewidth=1, linestyle=":")
    ax.plot([2.9, 4.6], [5.7, 9.65], color="0.75", linewidth=1, linestyle=":")
    thick = {"arrowstyle": "-|>", "lw": 3, "color": "0.45"}
    ax.annotate("", (5.4, 9.6), (5.4, 0.4), arrowprops=thick)
    ax.text(5.05, 5.0, "residual stream (B, T, C)", rotation=90, ha="center", va="center", size=9)
    hidden = config.hidden_size
    attention = [
        ("ln_1", "(B, T, C)", COLORS[4]),
        (f"qkv: {c} to {3 * c:,}", f"3 × (B, {h}, T, {config.head_size})", COLORS[0]),
        ("attend, causal", f"(B, {h}, T, {config.head_size})", COLORS[0]),
        (f"proj: {c} to {c}", "(B, T, C)", COLORS[0]),
    ]
    mlp = [
        ("ln_2", "(B, T, C)", COLORS[4]),
        (f"expand: {c} to {hidden:,}", f"(B, T, {hidden:,})", COLORS[2]),
        ("GELU", f"(B, T, {hidden:,})", COLORS[2]),
        (f"proj: {hidden:,} to {c}", "(B, T, C)", COLORS[2]),
    ]
    _branch(ax, 1.0, "attention", attention)
    _branch(ax, 5.2, "MLP", mlp)
    ax.text(0.1, -0.45, f"B batch   T up to {t:,} positions   C = {c}   V = {v:,}", fontsize=9)
    alt = (
        f"The model as a column of boxes, bottom to top: tokens (B, T); token and position "
        f"embedding, added, (B, T, {c}); {config.n_layer} blocks; ln_f; the head, {c} to {v:,}, "
        f"with the table of the tokens; logits (B, T, V). Beside it one block: the residual stream "
        f"runs straight up; attention (ln_1, qkv {c} to {3 * c}, attend with {h} heads of "
        f"{config.head_size}, proj) branches off and is added, then the MLP (ln_2, expand {c} to "
        f"{hidden}, GELU, proj) branches off and is added."
    )
    caption = "The grey arrow is never cut: each part reads a copy of it and adds its result."
    return Picture(figure, alt, caption)


def _column(ax: Axes, config: GPTConfig) -> None:
    v, c, n = config.vocab_size, config.n_embd, config.n_layer
    rows = [
        (0.9, "token_embedding\n+ position_embedding", COLORS[3], "(B, T, C)"),
        (2.7, "block 0", COLORS[5], "(B, T, C)"),
        (3.8, "block 1", COLORS[5], ""),
        (5.0, f"block {n - 1}", COLORS[5], "(B, T, C)"),
        (6.5, "ln_f", COLORS[4], "(B, T, C)"),
        (7.8, f"head: {c} to {v:,}\ntoken_embedding's table", COLORS[3], ""),
    ]
    ax.text(1.6, 0.0, "tokens (B, T)", ha="center", va="center", fontsize=10)
    previous = 0.2
    for y, text, color, shape in rows:
        height = 1.0 if "\n" in text else 0.7
        if text == f"block {n - 1}" and n > 2:
            ax.text(1.6, (previous + y) / 2, "⋮", fontsize=16, ha="center", va="center")
        else:
            _arrow(ax, (1.6, previous), (1.6, y))
        _box(ax, 0.3, y, 2.6, height, text, color)
        previous = y + height
        if shape:
            ax.text(1.75, previous + 0.24, shape, fontsize=9, va="center")
    _arrow(ax, (1.6, previous), (1.6, 9.5))
    ax.text(1.6, 9.75, "logits (B, T, V)", ha="center", va="center", fontsize=10)


def _branch(ax: Axes, bottom: float, name: str, steps: list[tuple[str, str, str]]) -> None:
    """Draw what reads the stream at `bottom` and adds its result to it further up."""
    x, top = 6.2, bottom + 0.5 + 0.76 * len(steps)
    ax.plot([5.4, 7.2, 7.2], [bottom, bottom, bottom + 0.3], color="0.3", linewidth=1.2)
    ax.text(8.3, bottom, name, fontsize=10.5, va="center", weight="bold")
    for i, (text, shape, color) in enumerate(steps):
        y = bottom + 0.3 + 0.76 * i
        _box(ax, x, y, 2.0, 0.52, text, color)
        ax.text(8.3, y + 0.26, shape, fontsize=9, va="center")
        end = y + 0.76 if i < len(steps) - 1 else top
        ax.plot([7.2, 7.2], [y + 0.52, end], color="0.3", linewidth=1.2)
    _arrow(ax, (7.2, top), (5.62, top))
    ax.text(5.4, top, "+", fontsize=13, ha="center", va="center",
            bbox={"boxstyle": "circle,pad=0.12", "fc": "w", "ec": "0.3"})  # fmt: skip


def _box(ax: Axes, x: float, y: float, w: float, h: float, text: str, color: str) -> None:
    empty = not text
    box = FancyBboxPatch(
        (x, y), w, h, boxstyle="round,pad=0,rounding_size=0.12", linewidth=1,
        facecolor=color if empty else (*mpl_colors.to_rgb(color), 0.3),
        edgecolor="0.8" if empty else color, zorder=0 if empty else 2,
    )  # fmt: skip
    ax.add_patch(box)
    ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=9, zorder=3)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "lw": 1.2, "color": "0.3", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)
