"""Attention maps to walk through: which words each word looks at, head by head.

The map itself is drawn in the browser by `attention.js`; everything it says in words is made
here, and so is the static picture.
"""

import html
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import anywidget
import ipywidgets as widgets
import numpy as np
import torch
import traitlets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from gptlib.extras.plots import COLORS
from gptlib.gpt2 import GPT, attention_maps
from gptlib.tokenizer import Tokenizer

HERE = Path(__file__).parent
SHARED = (HERE / "shared.js").read_text(encoding="utf-8")
LONGEST = 64
"""Tokens that a map still shows readably; of a longer text the first are taken."""

Reader = Callable[[str], tuple[Sequence[str], Tensor]]
"""Turns a text into tokens and their weights, shape (L, H, T, T)."""


class AttentionMap(anywidget.AnyWidget):
    """One layer's maps in the browser; clicks and arrow keys change `head` and `query`."""

    _esm = SHARED + (HERE / "attention.js").read_text(encoding="utf-8")
    _css = HERE / "attention.css"
    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    weights = traitlets.List().tag(sync=True)
    spread = traitlets.List(traitlets.Float()).tag(sync=True)
    summary = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)


class AttentionMaps(widgets.VBox):
    """Show what each word looks at: choose a layer, a head and a query word, counted from 0.

    Args:
        tokens: The words, or the tokens as texts: T of them.
        weights: Attention weights, shape (L, H, T, T), (H, T, T) or (T, T); rows sum to 1.
        read: Makes tokens and weights of a text that the reader types; None leaves the field out.
        text: The text that stands in the field at the start.

    Example:
        >>> maps = AttentionMaps(["so", "it"], torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
        >>> maps.summary
        'Layer 0, head 0: "it" looks at itself 0.75, "so" 0.25. Entropy of the head 0.28 nats of
        at most 0.35 (81 %).'
    """

    def __init__(
        self,
        tokens: Sequence[str],
        weights: Tensor,
        *,
        read: Reader | None = None,
        text: str = "",
    ) -> None:
        self.map = AttentionMap()
        style = {"description_width": "48px"}
        slider = {"style": style, "min": 0, "max": 0}
        self.layer = widgets.IntSlider(description="layer", **slider)
        self.head = widgets.IntSlider(description="head", **slider)
        self.query = widgets.IntSlider(description="query", **slider)
        self.text = widgets.Text(text, description="text", continuous_update=False, style=style)
        self.text.layout.width = "95%"
        self.message = widgets.HTML()
        self._read = read
        self.weights = torch.ones(1, 1, 1, 1)  # (L, H, T, T)
        self._moving = False
        self._set(tokens, weights)
        for name in ("layer", "head", "query"):
            traitlets.link((getattr(self, name), "value"), (self.map, name))
            getattr(self, name).observe(self._move, "value")
        self.text.observe(self._type, "value")
        controls = widgets.HBox([self.layer, self.head, self.query])
        controls.layout.flex_flow = "row wrap"
        own_text = [self.text, self.message] if read else []
        super().__init__([*own_text, controls, self.map])
        self.add_class("attention-maps")

    @classmethod
    def of(
        cls,
        model: GPT,
        tokens: Tensor | None = None,
        labels: Sequence[str] | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        text: str | None = None,
    ) -> Self:
        """Show the maps of a model for given tokens, or for any text if there is a tokenizer.

        Args:
            tokens: Token ids, shape (T,) or (1, T); not needed with a tokenizer and a text.
            labels: Their texts; taken from the tokenizer, else the ids themselves.
            tokenizer: With it the reader can type a text.
        """

        def read(text: str) -> tuple[Sequence[str], Tensor]:
            assert tokenizer is not None
            ids = list(tokenizer.encode(text))[: min(LONGEST, model.config.context_length)]
            if not ids:
                raise ValueError("the text is empty; type at least one word")
            return [tokenizer.decode([i]) for i in ids], weights_of(model, torch.tensor([ids]))

        if tokenizer is not None and text is not None:
            return cls(*read(text), read=read, text=text)
        if tokens is None:
            raise ValueError("nothing to show; pass tokens, or a tokenizer and a text")
        ids = tokens.flatten().tolist()
        weights = weights_of(model, tokens.view(1, -1))
        if tokenizer is None:
            return cls(labels or list(map(str, ids)), weights)
        labels = labels or [tokenizer.decode([i]) for i in ids]
        return cls(labels, weights, read=read, text=tokenizer.decode(ids))

    def __repr__(self) -> str:
        return "AttentionMaps: choose a layer, a head and a word, see what it looks at"

    @property
    def tokens(self) -> list[str]:
        """The words that are shown."""
        return list(self.map.tokens)

    @property
    def row(self) -> list[float]:
        """The weights of the chosen query over the words; they sum to 1."""
        return self.weights[self.layer.value, self.head.value, self.query.value].tolist()

    @property
    def entropy(self) -> float:
        """The chosen head's entropy in nats, averaged over the queries."""
        return float(entropies(self.weights)[self.layer.value, self.head.value])

    @property
    def most(self) -> float:
        """The entropy in nats of a head that spreads its weights evenly over all it may see."""
        n = len(self.map.tokens)
        if self.weights.triu(1).any():  # not causal: each query sees every word
            return math.log(n)
        return sum(math.log(t) for t in range(1, n + 1)) / n

    @property
    def summary(self) -> str:
        """The state in words."""
        return str(self.map.summary)

    def picture(self) -> Figure:
        """Draw the state as a figure: the map, the chosen row, and all heads in small."""
        layer, head, query = self.layer.value, self.head.value, self.query.value
        words, maps = self.tokens, self.weights[layer].numpy()
        per_line = min(6, max(4, len(maps)))
        lines = math.ceil(len(maps) / per_line)
        n = len(words)
        figure = plt.figure(figsize=(9, 4.2 + 1.6 * lines))
        top, bottom = cast(Any, figure.subfigures(2, 1, height_ratios=[4.2, 1.6 * lines]))
        ax, bars = top.subplots(1, 2, width_ratios=[1.15, 1])
        ax.imshow(maps[head], vmin=0, vmax=1, cmap="Blues")
        ax.add_patch(Rectangle((-0.5, query - 0.5), n, 1, fill=False, ec=COLORS[1], lw=2.2))
        shown = words if n <= 24 else []
        ax.set_xticks(range(len(shown)), labels=shown, rotation=90)
        ax.set_yticks(range(len(shown)), labels=shown)
        ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        ax.set(xlabel="looked at (key)", ylabel="looking (query)")
        bars.barh(range(n), self.row, color=COLORS[0])
        bars.set_yticks(range(len(shown)), labels=shown)
        bars.set(xlim=(0, 1), ylim=(n - 0.5, -0.5), xlabel="weight")
        bars.set_title(f"what “{words[query]}” looks at")
        grid = bottom.subplots(lines, per_line, squeeze=False).flatten()
        for number, small in enumerate(grid):
            small.set_axis_off()
            if number < len(maps):
                small.imshow(maps[number], vmin=0, vmax=1, cmap="Blues")
                share = self.map.spread[number]
                small.set_title(f"head {number}: {100 * share:.0f} %", loc="center", fontsize=9.5)
        bottom.suptitle(f"all heads of layer {layer}: entropy as a share of the maximum", size=10.5)
        return figure

    def _set(self, tokens: Sequence[str], weights: Tensor) -> None:
        weights = weights.detach().float().cpu()
        weights = weights[(None,) * (4 - weights.dim())]
        if not tokens or weights.dim() != 4 or weights.shape[2:] != (len(tokens), len(tokens)):
            raise ValueError(
                f"{len(tokens)} tokens and weights of shape {tuple(weights.shape)} don't belong "
                "together; pass weights of shape (layers, heads, tokens, tokens)"
            )
        self._moving = True  # one drawing at the end
        self.weights = weights
        sliders = (self.layer, self.head, self.query)
        with self.map.hold_sync():
            self.map.tokens = [visible(token) for token in tokens]
            for slider, count in zip(sliders, weights.shape, strict=False):
                slider.max, slider.disabled = count - 1, count == 1
            self.query.value = len(tokens) - 1
            self._moving = False
            self._send_layer()

    def _send_layer(self) -> None:
        maps = self.weights[self.layer.value]
        with self.map.hold_sync():
            rounded = maps.double().round(decimals=3).numpy()  # zeros at the end are left out
            self.map.weights = [[np.trim_zeros(row, "b").tolist() for row in h] for h in rounded]
            most = max(self.most, 1e-9)
            self.map.spread = [round(float(e) / most, 4) for e in entropies(maps)]
            self._say()

    def _move(self, change: dict[str, Any]) -> None:
        if self._moving:
            return
        if change["owner"] is self.layer:
            self._send_layer()
        else:
            self._say()

    def _say(self) -> None:
        query, words = self.query.value, self.tokens
        best = sorted(enumerate(self.row), key=lambda pair: -pair[1])[:3]
        looks = [
            ("itself" if key == query else f'"{words[key]}"') + f" {weight:.2f}"
            for key, weight in best
            if weight >= 0.005
        ]
        share = 100 * self.entropy / self.most if self.most else 0.0
        self.map.summary = (
            f"Layer {self.layer.value}, head {self.head.value}: "
            f'"{words[query]}" looks at {", ".join(looks)}. Entropy of the head '
            f"{self.entropy:.2f} nats of at most {self.most:.2f} ({share:.0f} %)."
        )

    def _type(self, _: object) -> None:
        if self._read is None:
            return
        try:
            self._set(*self._read(self.text.value))
        except (ValueError, KeyError) as error:
            self.message.value = f'<span class="attention-message">{html.escape(str(error))}</span>'
        else:
            self.message.value = ""


@contextmanager
def evaluating(model: GPT) -> Iterator[torch.device]:
    """Switch dropout and gradients off for a while; gives the device that the model is on."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model.embed.token_embedding.weight.device
    finally:
        model.train(training)


def weights_of(model: GPT, tokens: Tensor) -> Tensor:
    """Return a model's weights for one sequence (1, T), shape (L, H, T, T), without dropout."""
    with evaluating(model) as device:
        return attention_maps(model, tokens.to(device))[:, 0]  # (L, H, T, T)


def entropies(weights: Tensor) -> Tensor:
    """Return the entropy in nats of each row of weights (..., T, S), averaged over T."""
    return torch.special.entr(weights).sum(-1).mean(-1)


def visible(token: str) -> str:
    """Spell a token so that spaces and line ends can be seen."""
    shown = token.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥")
    return shown.replace(" ", "·") or "∅"
