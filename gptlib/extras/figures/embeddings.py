"""The figures of the chapter on embeddings: vectors in orange and violet, windows in blue."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from torch import Tensor

from gptlib.extras.figures import Picture, canvas, plain
from gptlib.extras.plots import COLORS, heatmap


def draw_vectors(ax: Axes, rows: Tensor, labels: list[str] | None = None) -> AxesImage:
    """Draw vectors, (n, C), one in each row: violet is positive, orange negative, white zero."""
    limit = rows.abs().max().item()
    return heatmap(ax, rows, rows=labels, limits=(-limit, limit), cmap="PuOr")


def text_to_vectors(pieces: Sequence[str], tokens: Tensor, table: Tensor) -> Picture:
    """Draw the pieces of a text, their ids (T,), and the first channels of their rows (V, C)."""
    figure, ax = canvas(9, 0.3 * len(pieces) + 0.6)
    channels = 24
    labels = [
        f"{piece.replace(' ', '·')}  {token:>6,}"
        for piece, token in zip(pieces, tokens.tolist(), strict=True)
    ]
    draw_vectors(ax, table[tokens][:, :channels], labels)
    ax.tick_params(axis="y", labelfontfamily="monospace")
    ax.set_title(f"the first {channels} of {table.size(1)} numbers", pad=8)
    said = ", ".join(" ".join(label.split()) for label in labels)
    alt = f"A row of coloured cells for each piece of the text and its id: {said}."
    caption = (
        "A piece, its id, its vector: violet is above 0, orange below. The model sees no more."
    )
    return Picture(figure, alt, caption)


def word_map(words: Mapping[str, Sequence[str]], vectors: Tensor) -> Picture:
    """Draw words where two directions put them, the two in which they differ most.

    Args:
        words: The words of each group.
        vectors: Their vectors, (n, C), in the same order.
    """
    figure, ax = canvas(8, 4)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    unit = unit - unit.mean(0)
    places = unit @ torch.linalg.svd(unit, full_matrices=False).Vh[:2].T  # (n, 2)
    said, start = [], 0
    for (name, group), color in zip(words.items(), COLORS, strict=False):
        here = places[start : start + len(group)]
        start += len(group)
        ax.scatter(*here.T, s=14, color=color)
        x, y = here.mean(0).tolist()
        said.append(f"{name} around ({x:.1f}, {y:.1f})")
        # Labels in a column beside the group, in the order of its points, so that none overlap.
        ax.text(here[:, 0].max() + 0.1, y + 0.21, name, color=color, weight="bold")
        for place, i in enumerate(here[:, 1].argsort(descending=True).tolist()):
            at = (here[:, 0].max().item() + 0.1, y + 0.07 * (2 - place))
            line = {"arrowstyle": "-", "color": color, "lw": 0.5}
            ax.annotate(group[i], here[i].tolist(), at, color=color, va="center", arrowprops=line)
    ax.set_axis_off()
    ax.margins(x=0.16, y=0.15)
    alt = f"Words as points in a plane. Each group has its own region: {'; '.join(said)}."
    caption = "Each colour is a kind of word, and has a region of its own. Nobody told the model."
    return Picture(figure, alt, caption)


def one_hot_product(one_hot: Tensor, table: Tensor, words: Sequence[str]) -> Picture:
    """Draw one-hot rows (T, V) times a table (V, C), with what each picks framed.

    Args:
        one_hot: The rows.
        table: The table.
        words: What the V rows of the table stand for.
    """
    size, channels = table.shape
    product, tokens = one_hot @ table, one_hot.argmax(dim=1).tolist()
    colors = dict(zip(dict.fromkeys(tokens), COLORS, strict=False))
    figure, ax = canvas(9, 0.34 * size + 0.7)
    middle = 1.2 + size / 2

    def draw(rows: Tensor, left: float, title: str, ids: Sequence[int], faint: float) -> None:
        """Draw rows of numbers; ids are the tokens that they belong to, faint is a grey number."""
        top = middle - len(rows) / 2
        ax.text(left, top - 0.25, title, va="bottom")
        for y, (token, row) in enumerate(zip(ids, rows.tolist(), strict=True)):
            color = colors.get(token)
            ax.text(left - 0.2, top + y + 0.5, words[token], ha="right", va="center")
            edge, width = (color, 2.2) if color else ("0.8", 0.8)
            ax.add_patch(Rectangle((left, top + y), len(row), 1, fill=False, ec=edge, lw=width))
            for x, value in enumerate(row):
                ink = color if color and value != faint else "0.6"
                at = (left + x + 0.5, top + y + 0.5)
                ax.text(*at, f"{value:.0f}", ha="center", va="center", color=ink)

    place = 2.6
    draw(one_hot, place, "one-hot rows (T, V)", tokens, 0)
    ax.text(place + size + 0.6, middle, "×", ha="center", va="center", size=14)
    place += size + 3.4
    draw(table, place, "table (V, C)", range(size), math.inf)
    ax.text(place + channels + 0.6, middle, "=", ha="center", va="center", size=14)
    place += channels + 3.4
    draw(product, place, "vectors (T, C)", tokens, math.inf)
    plain(ax, place + channels + 1.6, size + 1.4)
    picked = ", ".join(
        f"“{words[token]}” gives {', '.join(f'{v:.0f}' for v in row)}"
        for token, row in zip(tokens, product.tolist(), strict=True)
    )
    alt = (
        f"{len(tokens)} one-hot rows times a table of {size} rows and {channels} columns, and the "
        f"product: {picked}."
    )
    return Picture(figure, alt, "A single 1 picks a single row: follow one colour.")


def windows_cut(pieces: Sequence[str], context_length: int, stride: int) -> Picture:
    """Draw where the windows of a text lie, and the last target of each."""
    figure, ax = canvas(9, 2.2)
    starts = range(0, len(pieces) - context_length, stride)
    texts = [piece.replace(" ", "·") for piece in pieces]
    lefts = [0.0]
    for text in texts:
        lefts.append(lefts[-1] + 0.13 * len(text) + 0.12)
    for text, left, right in zip(texts, lefts, lefts[1:], strict=False):
        ax.text((left + right) / 2, 0.2, text, family="monospace", ha="center", va="center")
    last_targets = []
    for row, start in enumerate(starts, start=1):
        y, end = 0.42 * row + 0.1, start + context_length
        ax.text(-0.1, y + 0.14, f"window {row - 1}", ha="right", va="center")
        for first, last, color in ((start, end, COLORS[0]), (end, end + 1, COLORS[4])):
            width = lefts[last] - lefts[first] - 0.04
            ax.add_patch(Rectangle((lefts[first], y), width, 0.28, fc=color, ec="none"))
        last_targets.append(f"“{texts[end]}”")
    plain(ax, lefts[-1], 0.42 * len(starts) + 0.55)
    ax.set_xlim(-1.2, lefts[-1])
    alt = (
        f"{len(starts)} windows of {context_length} pieces over {len(pieces)} pieces, each "
        f"{stride} after the one before. Their last targets: {', '.join(last_targets)}."
    )
    caption = "Blue: the inputs of a window. Orange: the one piece more that its last target needs."
    return Picture(figure, alt, caption)


def positions_learned(trained: Tensor, fresh: Tensor) -> Picture:
    """Draw how alike the first positions of a table (T, C) are, before training and after."""
    figure, axes = canvas(9, 3.7, 1, 2)
    said = []
    for ax, table, name in zip(axes, (fresh, trained), ("random", "trained"), strict=True):
        unit = torch.nn.functional.normalize(table[:64], dim=1)
        similar = unit @ unit.T
        image = heatmap(ax, similar, limits=(-1, 1), cmap="PuOr", columns_at="bottom")
        ax.set_box_aspect(1)
        for ticks in (ax.set_xticks, ax.set_yticks):
            ticks([0, 20, 40, 63], labels=["0", "20", "40", "63"])
        ax.set(title=f"cosine of positions, {name}", xlabel="position", ylabel="position")
        near, far = (similar.diagonal(apart)[1:].mean() for apart in (1, 16))
        said.append(f"{name}: {near:z.1f} between neighbours on average, {far:z.1f} 16 apart")
    figure.colorbar(image, ax=axes, ticks=[-1, 0, 1], shrink=0.8)
    alt = f"The cosines of 64 positions with each other. {'; '.join(said)}."
    caption = "Violet is alike, white has nothing in common. After training, neighbours are alike."
    return Picture(figure, alt, caption)


def what_and_where(tokens: Tensor, positions: Tensor, pieces: Sequence[str]) -> Picture:
    """Draw token vectors, position vectors and their sums, (n, C) each, first channels only.

    Args:
        tokens: The rows of the tokens.
        positions: The rows of their positions.
        pieces: What the rows stand for.
    """
    figure, axes = canvas(9, 0.32 * len(pieces) + 0.9, 1, 3)
    parts = (tokens[:, :16], positions[:, :16], (tokens + positions)[:, :16])
    limit = max(part.abs().max().item() for part in parts)
    labels = [piece.replace(" ", "·") for piece in pieces]
    for ax, part, title in zip(axes, parts, ("what", "+  where", "=  both"), strict=True):
        names = labels if part is parts[0] else None
        heatmap(ax, part, rows=names, limits=(-limit, limit), cmap="PuOr")
        ax.set_title(title, pad=8)
    apart = [(rows[0] - rows[-1]).norm() for rows in (tokens, tokens + positions)]
    alt = (
        f"Three tables of {len(pieces)} rows: the vectors of {', '.join(labels)}, those of their "
        f"positions, and the sums. The first and the last row are {apart[0]:.2f} apart in the "
        f"first table, {apart[1]:.2f} in the last."
    )
    caption = "Violet is above 0, orange below. The outer rows are one token. Their sums differ."
    return Picture(figure, alt, caption)


def waves(table: Tensor, learned: Tensor, channels: Sequence[int] = (0, 6, 12)) -> Picture:
    """Draw some columns of a sinusoidal table (T, C), and how alike positions are in it.

    Args:
        table: Sines and cosines.
        learned: A trained table with as many rows or more.
        channels: The columns to draw.
    """
    figure, (left, right) = canvas(9, 3, 1, 2)
    said = []
    for row, (channel, color) in enumerate(zip(channels, COLORS, strict=False)):
        turn = 2 * math.pi * 10_000 ** (channel / table.size(1))
        left.plot(table[:, channel] - 2.6 * row, color=color)
        left.text(len(table), -2.6 * row, f" channel\n {channel}", color=color, va="center", size=9)
        said.append(f"channel {channel} turns once in {turn:.1f} positions")
    left.set(xlabel="position", yticks=[], xlim=(0, 1.2 * len(table)))
    at = len(table) // 2
    for rows, name, color in ((table, "sinusoidal", COLORS[2]), (learned, "learned", COLORS[1])):
        near = torch.cosine_similarity(rows[: len(table)], rows[at : at + 1])
        right.plot(near, color=color, label=name)
    right.set(xlabel="position", ylabel=f"cosine with position {at}", ylim=(None, 1.1))
    right.legend(loc="upper left")
    alt = (
        f"Left, sine waves: {'; '.join(said)}. Right, the cosine of position {at} with the others "
        "falls off, alike on both sides for the sinusoidal table, with bumps for the learned one."
    )
    caption = "Left: fast hands and slow hands. Right: both kinds of table know who is near."
    return Picture(figure, alt, caption)
