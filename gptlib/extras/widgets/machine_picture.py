"""The machine's static picture: the way of one token through a model, for readers without Python.

It needs nothing of the widget but its numbers, so it can be drawn for any trace.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gptlib.extras.figures import Picture
from gptlib.extras.figures.attention import draw_causal
from gptlib.extras.plots import COLORS, style


def draw_way(machine: Any) -> Picture:
    """Draw a `SentenceMachine`'s followed token at each stage, the open one's title in orange."""
    style()
    trace, facts = machine.trace, machine.facts
    follow, block, head = machine.follow, machine.block, machine.head
    labels, word = facts["labels"], facts["labels"][follow]
    vectors = (trace.token_vectors + trace.position_vectors)[:, :24]
    row, lengths = trace.weights[block, head, follow], trace.stream[:, follow].norm(dim=-1)
    units, fired = facts["units"][block][follow], trace.hidden[block, follow]
    names = facts["next"][follow][:6]
    chances = trace.logits[follow].softmax(-1).topk(len(names)).values
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=[0.9, 1.25, 0.8, 0.9, 1])
    most = vectors.abs().quantile(0.98).item()
    axes[0].imshow(vectors.numpy(), cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
    axes[0].set_yticks(range(len(labels)), labels=labels, size=7.5)
    axes[0].set_xticks([])
    draw_causal(axes[1], trace.weights[block, head])
    for ax in axes[:2]:
        ax.axhspan(follow - 0.5, follow + 0.5, fill=False, ec=COLORS[1], lw=1.6)
    bars(axes[2], fired[units], [f"neuron {unit}" for unit in units], ".1f")
    stream = ["start", *(f"block {n}" for n in range(len(trace.q)))]
    bars(axes[3], lengths[::2], stream, ".1f")
    bars(axes[4], chances, names, ".0%")
    titles = {
        "vectors": "tokens and vectors",
        "attention": f"attention: who looks at whom\n(block {block}, head {head})",
        "mlp": f"MLP of block {block}:\nstrongest neurons",
        "stream": "length of the vector",
        "next": "next token",
    }
    for ax, (stage, title) in zip(axes, titles.items(), strict=True):
        lit = stage == machine.stage or (stage, machine.stage) == ("vectors", "tokens")
        color, weight = (COLORS[1], "bold") if lit else ("black", "normal")
        ax.set_title(title, color=color, weight=weight, loc="center")
    looks = [f"“{labels[key]}” {row[key]:.2f}" for key in row.topk(min(3, follow + 1)).indices]
    says = [
        f"“{name}” {100 * p:.0f} %" for name, p in zip(names[:3], chances.tolist(), strict=False)
    ]
    alt = (
        f"The sentence “{machine.text}” in {len(labels)} tokens; “{word}”, token {follow} with id "
        f"{trace.ids[follow]}, is followed. In block {block} head {head} looks at "
        f"{', '.join(looks)}; in the MLP neuron {units[0]} is strongest. The vector grows from "
        f"length {lengths[0]:.1f} to {lengths[-1]:.1f}. Next may come {', '.join(says)}."
    )
    caption = f"“{word}”, framed, on its way from left to right. Grey is forbidden."
    return Picture(figure, alt, caption)


def bars(ax: Axes, values: Tensor, names: list[str], form: str) -> None:
    """Draw bars from the top down, each with its name and its number."""
    numbers = values.tolist()
    ax.barh(range(len(names)), numbers, color=COLORS[0])
    ax.set_yticks(range(len(names)), labels=names, size=8.5)
    ax.set(xlim=(0, 1.35 * max(numbers)), ylim=(len(names) - 0.4, -0.6), xticks=[])
    ax.tick_params(length=0)
    ax.spines["bottom"].set_visible(False)
    for place, number in enumerate(numbers):
        ax.text(number, place, f" {number:{form}}", va="center", size=8.5)
