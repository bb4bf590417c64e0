"""The widget of chapter 2: positions as waves, as vectors, and how alike they are."""

from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gptlib.embeddings import sinusoidal_positions
from gptlib.extras.plots import COLORS, heatmap, png, style


class PositionWaves(widgets.VBox):
    """Pick a position and a pair of channels; see the waves, the vector and what it resembles.

    Controls: `position` and `pair` (sliders; arrow keys move them when they have the focus) and
    `kind` (buttons: the sinusoidal table or the learned one). Results: `vector`, `similarity`
    and the sentence in `readout`.

    Args:
        learned: A table of positions to set beside the waves, shape (T, C), C even: trained,
            random, or any other. Without one, the widget shows waves only.
        n_positions: Rows of the waves, T, if no table is given; at least 2.
        n_embd: Channels of the waves, C, if no table is given; even.

    Raises:
        ValueError: If the table is not a matrix of finite numbers with 2 rows or more and an
            even number of channels, or if `position` or `pair` is not in it.

    Example:
        >>> waves = PositionWaves(n_positions=32, n_embd=16)
        >>> waves.position.value = 10
        >>> int(waves.similarity.argmax())
        10
    """

    def __init__(
        self,
        learned: Tensor | None = None,
        *,
        n_positions: int = 64,
        n_embd: int = 32,
        position: int = 20,
        pair: int = 3,
    ) -> None:
        if learned is not None:
            learned = _checked(learned)
            n_positions, n_embd = learned.shape
        self.tables = {"sinusoidal": sinusoidal_positions(n_positions, n_embd)}
        if learned is not None:
            self.tables["learned"] = learned
        _check_choice("position", position, n_positions)
        _check_choice("pair", pair, n_embd // 2)
        wide = widgets.Layout(width="520px")
        labels = {"description_width": "110px"}
        self.kind = widgets.ToggleButtons(options=list(self.tables), description="Table")
        self.position = widgets.IntSlider(
            position, 0, n_positions - 1, description="Position", layout=wide, style=labels
        )
        self.pair = widgets.IntSlider(
            pair, 0, n_embd // 2 - 1, description="Channel pair", layout=wide, style=labels
        )
        self.readout = widgets.HTML()
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        super().__init__([self.kind, self.position, self.pair, self.image, self.readout])
        for control in (self.kind, self.position, self.pair):
            control.observe(self._update, names="value")
        self._update()

    def __repr__(self) -> str:
        return "PositionWaves: pick a position and a channel pair, see waves and similarities"

    @property
    def table(self) -> Tensor:
        """The table that is shown, shape (T, C)."""
        return self.tables[self.kind.value]

    @property
    def vector(self) -> Tensor:
        """The vector of the picked position, shape (C,)."""
        return self.table[self.position.value]

    @property
    def similarity(self) -> Tensor:
        """The cosine similarity of the picked position with each position, shape (T,)."""
        return self._similarities()[self.position.value]

    def picture(self) -> Figure:
        """Draw the waves of the pair, the position's vector, and the similarities."""
        style()
        figure, axes = plt.subplots(2, 2, figsize=(8.6, 5.6), width_ratios=[1.25, 1])
        self._draw_waves(axes[0, 0])
        self._draw_matrix(axes[0, 1])
        self._draw_vector(axes[1, 0])
        self._draw_row(axes[1, 1])
        return figure

    def _similarities(self) -> Tensor:
        rows = torch.nn.functional.normalize(self.table, dim=1)
        return rows @ rows.T  # (T, T)

    def _update(self, _: Any = None) -> None:
        self.image.value = png(self.picture())
        self.readout.value = f"<p aria-live='polite'>{self._sentence()}</p>"

    def _sentence(self) -> str:
        t, pair, similarity = self.position.value, self.pair.value, self.similarity
        others = similarity.clone()
        others[t] = -torch.inf
        near, far = int(others.argmax()), int(similarity.argmin())
        first, second = (float(self.vector[2 * pair + i]) for i in (0, 1))
        wave = ""
        if self.kind.value == "sinusoidal":
            length = 2 * torch.pi * 10_000 ** (2 * pair / self.table.size(1))
            wave = f" These two waves turn once in {length:,.1f} positions."
        return (
            f"Position {t} in the {self.kind.value} table: channel {2 * pair} is {first:.2f}, "
            f"channel {2 * pair + 1} is {second:.2f}.{wave} Most like it is position {near} "
            f"(similarity {float(similarity[near]):.2f}), least like it position {far} "
            f"({float(similarity[far]):.2f})."
        )

    def _draw_waves(self, ax: Axes) -> None:
        t, first = self.position.value, 2 * self.pair.value
        names = ("sine", "cosine") if self.kind.value == "sinusoidal" else ("first", "second")
        pair = self.table[:, first : first + 2].numpy()
        limit = 1.08 * float(self.table.abs().max())
        ends = pair[-1].clip(-0.8 * limit, 0.8 * limit)  # labels stay off the frame
        if (gap := 0.37 * limit - abs(ends[1] - ends[0])) > 0:  # and off each other
            ends += (gap / 2 if ends[1] > ends[0] else -gap / 2) * np.array([-1, 1])
        for i, (name, color) in enumerate(zip(names, COLORS, strict=False)):
            ax.plot(pair[:, i], color=color)
            ax.plot(t, pair[t, i], "o", color=color, markersize=8)
            label = f"{name} {first + i}"
            ax.text(len(pair) + 1, ends[i], label, color=color, va="center", fontsize=9)
        ax.axvline(t, color="0.6", linewidth=1)
        ax.set_ylim(-limit, limit)
        ax.set(title=f"Channels {first} and {first + 1}", xlabel="position", ylabel="value")

    def _draw_vector(self, ax: Axes) -> None:
        vector, first = self.vector, 2 * self.pair.value
        colors = ["0.7"] * len(vector)
        colors[first], colors[first + 1] = COLORS[0], COLORS[1]
        ax.bar(range(len(vector)), vector.numpy(), color=colors)
        limit = 1.08 * float(self.table.abs().max())
        ax.set(ylim=(-limit, limit), xlabel="channel", ylabel="value")
        ax.set_title(f"Vector of position {self.position.value}")

    def _draw_matrix(self, ax: Axes) -> None:
        t = self.position.value
        image = heatmap(ax, self._similarities(), limits=(-1, 1), cmap="PuOr")
        ax.figure.colorbar(image, ax=ax, shrink=0.85, ticks=[-1, 0, 1])
        ax.add_patch(Rectangle((-0.5, t - 0.5), len(self.table), 1, fill=False, edgecolor="k"))
        last = len(self.table) - 1
        ticks = sorted({0, t, last} if min(t, last - t) > last / 8 else {t, last if t < 9 else 0})
        ax.set_yticks(ticks, labels=[str(tick) for tick in ticks])
        ax.set_xticks([0, last], labels=["0", str(last)])
        ax.tick_params(labelbottom=True, labeltop=False)
        ax.set(title="Similarity of all positions", ylabel="position", xlabel="position")

    def _draw_row(self, ax: Axes) -> None:
        t, similarity = self.position.value, self.similarity
        ax.plot(similarity.numpy(), color=COLORS[2])
        ax.plot(t, 1, "o", color=COLORS[2], markersize=8)
        ax.axhline(0, color="0.6", linewidth=1)
        ax.set(ylim=(-1.08, 1.15), xlabel="position", ylabel="cosine similarity")
        ax.set_title(f"Similarity with position {t}")


def _checked(table: Tensor) -> Tensor:
    table = table.detach().float().cpu()
    if table.dim() != 2 or table.size(0) < 2 or table.size(1) < 2 or table.size(1) % 2:
        raise ValueError(
            f"the table has shape {tuple(table.shape)}; pass (positions, channels) with 2 "
            "positions or more and an even number of channels"
        )
    if not bool(table.isfinite().all()):
        raise ValueError("the table holds numbers that are not finite; pass one without them")
    return table


def _check_choice(name: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise ValueError(f"{name} is {value}; choose one of 0..{count - 1}")
