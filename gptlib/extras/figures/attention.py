"""Figures of the chapter on attention: weights are blue, forbidden cells grey."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from gptlib.extras.figures import Picture, canvas, plain
from gptlib.extras.plots import COLORS, heatmap
from gptlib.scaling import activation_bytes


def word_table(x: Tensor, words: list[str], channels: list[str]) -> Picture:
    """Draw vectors of words, (T, C), with their numbers."""
    figure, ax = canvas(5, 2.6)
    heatmap(ax, x, rows=words, columns=channels, values=".0f", cmap="Blues")
    ax.tick_params(axis="x", rotation=0)
    rows = [
        f"{word} {', '.join(f'{v:.0f}' for v in row)}" for word, row in zip(words, x, strict=True)
    ]
    alt = f"A table of words and channels ({', '.join(channels)}): {'; '.join(rows)}."
    return Picture(figure, alt, "One row for each word: its vector.")


def scores_and_weights(scores: Tensor, weights: Tensor, words: list[str]) -> Picture:
    """Draw scores and the weights that the softmax makes of them, (T, S) each."""
    figure, (left, right) = canvas(9, 3.6, 1, 2)
    heatmap(left, scores, rows=words, columns=words, values=".0f", cmap="Blues")
    heatmap(right, weights, rows=words, columns=words, values=".2f", limits=(0, 1), cmap="Blues")
    for ax, title in ((left, "scores"), (right, "weights")):
        ax.set_title(title, pad=12)
    best = [words[i] for i in weights.argmax(-1).tolist()]
    pairs = ", ".join(f"{word} at {key}" for word, key in zip(words, best, strict=True))
    alt = (
        f"Two grids, a query in each row, a key in each column. Left the scores, up to "
        f"{scores.max():.0f}, right the weights. Each row's largest weight: {pairs}."
    )
    caption = "The scores mirror at the diagonal. The weights don't: each row sums to 1 by itself."
    return Picture(figure, alt, caption)


def saturation(products: Mapping[int, Tensor]) -> Picture:
    """Draw what large scores do to the softmax: dot products by the number of channels, D."""
    figure, axes = canvas(9, 3, 1, 2)
    sizes = list(products)
    ends = []
    for name, color, power in (("divided by √D", COLORS[0], 0.5), ("not divided", COLORS[1], 0)):
        rows = [(products[d] / d**power).view(-1, 16).softmax(-1) for d in sizes]
        largest = [w.amax(-1).mean().item() for w in rows]
        slopes = [(w * (1 - w)).sum(-1).mean().item() for w in rows]
        for ax, values in zip(axes, (largest, slopes), strict=True):
            ax.plot(sizes, values, "o-", color=color)
            ax.text(1300, values[-1], name, color=color, va="center")
        ends.append(f"{name}, {largest[-1]:.1f} and {slopes[-1]:.1f}")
    for ax, title in zip(axes, ("largest weight", "sum of slopes w (1 − w)"), strict=True):
        ax.set(xscale="log", ylim=(0, 1.05), xlim=(3.5, 9000), xlabel="channels D", title=title)
        ax.set_xticks(sizes, labels=sizes)
        ax.minorticks_off()
    alt = (
        f"The largest of 16 weights, and the softmax's slopes, over D from {sizes[0]} to "
        f"{sizes[-1]}. At the end: {'; '.join(ends)}."
    )
    caption = (
        "Without the division one key takes all, and the slopes, which training needs, vanish."
    )
    return Picture(figure, alt, caption)


def draw_causal(
    ax: Axes, weights: Tensor, words: list[str] | None = None, values: str | None = None
) -> AxesImage:
    """Draw causal weights (T, T): blue, from 0 to 1, and grey where looking is forbidden."""
    seen = weights.masked_fill(torch.ones_like(weights).triu(1).bool(), math.nan)
    ax.set_facecolor("0.85")
    return heatmap(ax, seen, rows=words, columns=words, values=values, limits=(0, 1), cmap="Blues")


def causal_map(weights: Tensor, words: list[str]) -> Picture:
    """Draw the causal weights (T, T) of a few words, with their numbers."""
    figure, ax = canvas(5.4, 3.2)
    draw_causal(ax, weights, words, ".2f")
    rows = [
        f"{words[t]} {', '.join(f'{w:.2f}' for w in weights[t, : t + 1])}"
        for t in range(len(words))
    ]
    alt = f"A lower triangle of weights, grey above the diagonal. Row by row: {'; '.join(rows)}."
    return Picture(figure, alt, "Grey is forbidden. Each row sums to 1 over what it may see.")


def looks_back(tokens: Sequence[str], weights: Tensor, query: int) -> Picture:
    """Shade a text by what one token takes from each: weights (T,) of the token `query`."""
    figure, ax = canvas(9, 1.9)
    blues = colormaps["Blues"]
    x, y, size = 0.0, 0.0, 0.108
    for t, (token, weight) in enumerate(zip(tokens, weights.tolist(), strict=True)):
        text = token.strip(" ·")
        x += 0.09 * (text != token)
        if x > 7.4 and text != token:  # a line ends between two words
            x, y = 0.0, y + 0.75
        width = size * len(text)
        ink = "white" if weight > 0.5 else "0.6" if t > query else "black"
        box = {"boxstyle": "square,pad=0.12", "fc": blues(weight) if t <= query else "white"}
        box |= {"ec": COLORS[1] if t == query else "none", "lw": 2}
        ax.text(x, y, text, family="monospace", size=12.5, color=ink, bbox=box)
        if weight >= 0.03 and t <= query:
            ax.text(x + width / 2, y + 0.3, f"{weight:.2f}", ha="center", size=9, color=COLORS[0])
        x += width + 0.015
    plain(ax, 8.8, y + 0.45)
    ax.set_ylim(y + 0.45, -0.35)
    best = weights[: query + 1].topk(2)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    names = " and ".join(f"“{tokens[t].strip(' ·')}” {w:.2f}" for t, w in pairs)
    word = tokens[query].strip(" ·")
    text = "".join(tokens).replace("·", " ")
    alt = f"The text “{text}” From “{word}” the largest weights go to {names}."
    caption = f"“{word}”, framed, takes most from the darkest pieces; what comes after it is grey."
    return Picture(figure, alt, caption)


def heads_reshape(x: Tensor, n_head: int) -> Picture:
    """Draw how the channels of x are cut into heads, rightly and wrongly, with the shapes.

    Args:
        x: The numbers from 0 on, shape (T, C).
        n_head: Heads, H.
    """
    figure, ax = canvas(9, 4.4)
    length, channels = x.shape
    size, side = channels // n_head, 0.62
    cut = x.unflatten(-1, (n_head, size)).transpose(0, 1)  # (H, T, D)
    wrong = x.reshape(n_head, length, size)

    def table(rows: Tensor, left: float, top: float, title: str) -> None:
        ax.text(left, top - 0.12, title, va="bottom")
        for t, row in enumerate(rows.tolist()):
            for c, number in enumerate(row):
                word, channel = divmod(int(number), channels)
                color = (COLORS[5], COLORS[4], COLORS[3])[channel // size % 3]
                at = (left + side * c, top + side * t)
                ax.add_patch(Rectangle(at, side, side, fc=color, ec="white"))
                middle = (at[0] + side / 2, at[1] + side / 2)
                ax.text(*middle, f"{'abcdef'[word]}{channel}", ha="center", va="center", size=9.5)

    table(x, 0.1, 1.4, f"x: (T, C) = ({length}, {channels})")
    for heads, left in ((cut, 5.3), (wrong, 9.3)):
        for h, head in enumerate(heads):
            table(head, left, 1.4 + h * (side * length + 0.65), f"head {h}: (T, D)")
    ax.text(5.3, 0.35, "what we need", va="center", ha="left")
    ax.text(9.3, 0.35, "x.view(H, T, D): wrong", va="center", color=COLORS[1])
    ax.annotate("", (5.0, 2.3), (4.1, 2.3), arrowprops={"arrowstyle": "-|>", "color": "0.4"})
    plain(ax, 12.6, 1.0 + n_head * (side * length + 0.65))
    alt = (
        f"Left a table of {length} words, a to {'abcdef'[length - 1]}, with {channels} channels "
        f"each. In the middle it is cut: each of {n_head} heads has {size} channels of every word. "
        f"Right, the same numbers viewed as (H, T, D): head 0 has all channels of the first words "
        "and none of the last."
    )
    caption = "A letter is a word, a colour is a head. A right head has every word and one colour."
    return Picture(figure, alt, caption)


def heads_compared(losses: Mapping[int, Sequence[float]], wrong: Mapping[int, Tensor]) -> Picture:
    """Draw training and mistakes by the number of heads.

    Args:
        losses: Each step's loss in nats, by the number of heads.
        wrong: The share of wrong answers by the distance of the two names, 1, 2, and so on.
    """
    figure, (left, right) = canvas(9, 3.4, 1, 2)
    ends = []
    for color, width, n_head in zip(COLORS, (2, 5, 1.5), losses, strict=False):
        smooth = torch.tensor(losses[n_head]).unfold(0, 15, 5).mean(-1)
        name = f"{n_head} head{'s' * (n_head > 1)}"
        left.semilogy(torch.arange(len(smooth)) * 5 + 7, smooth, color=color, lw=width, label=name)
        distances = range(1, len(wrong[n_head]) + 1)
        right.plot(distances, 100 * wrong[n_head], "o-", color=color, lw=width, label=name)
        far = 100 * wrong[n_head][-1]
        ends.append(f"{name}: loss {smooth[-1]:.2f}, wrong far apart {far:.0f} %")
    left.set(xlabel="step", ylabel="loss, nats per answer", ylim=(1e-5, 2))
    right.set(xlabel="distance of the two names, in words", ylabel="wrong answers, %")
    for ax in (left, right):
        ax.legend()
    alt = (
        f"Loss over the steps, and wrong answers over the distance. In the end, {'; '.join(ends)}."
    )
    return Picture(figure, alt, "One head errs most where the two names are far apart.")


def maps_compared(maps: Mapping[str, Tensor], words: list[str]) -> Picture:
    """Draw one row of heads for each title: causal weights, (H, T, T)."""
    n_head = len(next(iter(maps.values())))
    figure, axes = canvas(4.5 * n_head, 4.2 * len(maps), len(maps), n_head, squeeze=False)
    said = []
    for row, (title, weights) in zip(axes, maps.items(), strict=True):
        for h, ax in enumerate(row):
            draw_causal(ax, weights[h], words)
            ax.tick_params(axis="x", rotation=90)
            entropy = torch.special.entr(weights[h]).sum(-1).mean()
            ax.set_title(f"head {h} {title}", pad=10)
            said.append(f"head {h} {title}, entropy {entropy:.1f} nats")
    alt = f"Maps of one sentence, a query in each row: {'; '.join(said)}."
    caption = (
        "After training nearly every row has one dark cell: one head finds people, one places."
    )
    return Picture(figure, alt, caption)


def all_heads(weights: Tensor, marked: Mapping[tuple[int, int], str]) -> Picture:
    """Draw a model's causal maps in small, (L, H, T, T), some of them marked with a word."""
    n_layer, n_head = weights.shape[:2]
    figure, axes = canvas(9, 1.45 * n_layer, n_layer, n_head, squeeze=False)
    for layer, row in enumerate(axes):
        row[0].set_ylabel(f"layer {layer}")
        for head, ax in enumerate(row):
            draw_causal(ax, weights[layer, head])
            ax.set_box_aspect(1)
            name = marked.get((layer, head), "")
            ax.set_title(
                f"{head} {name}", loc="center", fontsize=9, color=COLORS[1] if name else "k"
            )
            if name:
                ax.spines[:].set(visible=True, color=COLORS[1], linewidth=2)
    first = (weights[:, :, 1:, 0].mean(-1) > 0.3).sum()
    names = ", ".join(f"{name} (layer {a}, head {b})" for (a, b), name in marked.items())
    alt = (
        f"Small maps of {n_layer} layers with {n_head} heads each. Marked: {names}. Averaged over "
        f"the later tokens, {first} heads give more than 0.3 of their weight to the first."
    )
    caption = (
        "A dark diagonal just below the edge: the token before. A dark left column: the first "
        "token. Single dark cells: something about the words."
    )
    return Picture(figure, alt, caption)


def kept_mebibytes(function: Callable[..., Tensor], n: int) -> float:
    """Count what attention over n words, 8 heads of 64, keeps for the backward pass, in MiB."""
    q, k, v = torch.randn(3, 1, 8, n, 64, requires_grad=True)
    return activation_bytes(nn.Module(), lambda: function(q, k, v)) / 2**20


def kept_memory(lengths: Sequence[int], kept: Mapping[str, Sequence[float]]) -> Picture:
    """Draw the MiB that each way keeps for the backward pass over the number of words."""
    figure, ax = canvas(7, 2.8)
    for color, (name, values) in zip(COLORS[1::-1], kept.items(), strict=True):
        ax.plot(lengths, values, "o-", color=color)
        ax.text(lengths[-1] * 1.03, values[-1], name, color=color, va="center")
    ax.set(xlim=(0, lengths[-1] * 1.25), xlabel="words T", ylabel="kept for backward, MiB")
    ends = ", ".join(f"{name} {values[-1]:.0f} MiB" for name, values in kept.items())
    alt = f"Memory over the number of words up to {lengths[-1]}: {ends}."
    return Picture(figure, alt, "By hand the memory grows with T², fused with T.")
