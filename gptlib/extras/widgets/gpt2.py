"""Chapter 4: a widget that shows what a model would cost."""

from functools import partial
from typing import Any

import ipywidgets as widgets
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gptlib.extras.figures import Picture, canvas
from gptlib.extras.plots import COLORS, png
from gptlib.gpt2 import (
    GPT2_LARGE,
    GPT2_MEDIUM,
    GPT2_SMALL,
    GPT2_XL,
    GPTConfig,
    count_parameters,
    flops_per_token,
    memory_bytes,
)

COURSE_SMALL = GPTConfig(vocab_size=4096, context_length=128, n_layer=2, n_head=4, n_embd=128)
"""A model small enough to train on a laptop's processor in minutes."""

PRESETS = {
    "this course's small one": COURSE_SMALL,
    "GPT-2 small": GPT2_SMALL,
    "GPT-2 medium": GPT2_MEDIUM,
    "GPT-2 large": GPT2_LARGE,
    "GPT-2 XL": GPT2_XL,
}
OWN = "my own"
_RATES = [
    ("a laptop's processor, 10¹¹", 1e11),
    ("one GPU, 10¹⁴", 1e14),
    ("64 GPUs, 6.4·10¹⁵", 6.4e15),
    (OWN, None),
]


class SizeExplorer(widgets.VBox):
    """Choose the sizes of a model; see its parameters, its memory and the time to train it.

    Controls: `preset`; `sizes`, by the names of a configuration; `batch` (sequences at once);
    `tokens` (to train on); `rate` (operations per second), and `machine`, which fills in usual
    ones. Results: `result`, empty while the sizes don't fit, and `problem`, which then says why.

    Example:
        >>> explorer = SizeExplorer()
        >>> explorer.preset.value = "GPT-2 XL"
        >>> explorer.result["parameters"]["total"]
        1557611200
    """

    def __init__(self) -> None:
        labels = {"description_width": "100px"}
        wide = widgets.Layout(width="430px")
        common = {"style": labels, "layout": wide, "continuous_update": False}
        self.preset = widgets.Dropdown(
            options=[*PRESETS, OWN], value="GPT-2 small", description="Preset", style=labels
        )
        slider, small = widgets.IntSlider, GPT2_SMALL
        field: Any = partial(widgets.BoundedIntText, style=labels)
        self.sizes = {
            "n_layer": slider(small.n_layer, 1, 48, description="Layers", **common),
            "n_head": slider(small.n_head, 1, 32, description="Heads", **common),
            "n_embd": slider(small.n_embd, 8, 4096, 8, description="Width", **common),
            "vocab_size": field(small.vocab_size, 2, 300_000, description="Vocabulary"),
            "context_length": field(small.context_length, 1, 131_072, description="Context"),
        }
        self.batch = field(8, 1, 100_000, description="Batch")
        self.tokens = widgets.FloatText(1e10, description="Train on tokens", style=labels)
        self.machine = widgets.Dropdown(
            options=_RATES, value=1e14, description="Machine", style=labels
        )
        self.rate = widgets.FloatText(self.machine.value, description="FLOP/s", style=labels)
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.readout = widgets.HTML()
        self.result: dict[str, Any] = {}
        self.problem = ""
        left = [self.sizes[name] for name in ("n_layer", "n_head", "n_embd")]
        right = [self.sizes["vocab_size"], self.sizes["context_length"], self.batch]
        columns = [
            widgets.VBox([self.preset, *left]),
            widgets.VBox([*right, self.tokens, self.machine, self.rate]),
        ]
        super().__init__([widgets.HBox(columns), self.image, self.readout])
        self._busy = False
        self.preset.observe(self._choose_preset, names="value")
        self.machine.observe(self._choose_machine, names="value")
        for control in (*self.sizes.values(), self.batch, self.tokens, self.rate):
            control.observe(self._update, names="value")
        self._update()

    def __repr__(self) -> str:
        return "SizeExplorer: choose a model's sizes, see its parameters, memory and time to train"

    def picture(self) -> Picture:
        """Draw what the controls say now, for readers without a kernel."""
        caption = "The size explorer: parameters by part, and memory by what it is for."
        return Picture(self._draw(), self._sentence() if self.result else self.problem, caption)

    def _draw(self) -> Figure:
        """Draw parameters by part and memory by purpose; an empty frame with the problem if any."""
        if self.problem:
            figure, ax = canvas(8.6, 1.2)
            ax.axis("off")
            ax.text(0, 0.5, "These sizes don't make a model (see below).", color=COLORS[1])
            return figure
        figure, axes = canvas(8.6, 2.7, 1, 2, width_ratios=[1, 1.15])
        parts = {p: n for p, n in self.result["parameters"].items() if p != "total"}
        _bars(axes[0], parts, "Parameters", "")
        memory = dict(self.result["memory"])
        memory["keys and values\n(writing only)"] = memory.pop("keys and values")
        _bars(axes[1], memory, f"Memory, float32, batch {self.batch.value}", "B")
        return figure

    def _choose_preset(self, _: Any) -> None:
        if self.preset.value != OWN:
            self._busy = True
            for name, control in self.sizes.items():
                control.value = getattr(PRESETS[self.preset.value], name)
            self._busy = False
            self._update()

    def _choose_machine(self, _: Any) -> None:
        if self.machine.value is not None:
            self.rate.value = self.machine.value

    def _update(self, _: Any = None) -> None:
        if self._busy:
            return
        self._busy = True
        self._name_choices()
        self._busy = False
        try:
            self.result, self.problem = self._compute(), ""
        except ValueError as error:
            self.result, self.problem = {}, str(error)
        self.image.value = png(self._draw())
        text = self._sentence() if self.result else f"<b>These sizes don't fit:</b> {self.problem}."
        self.readout.value = f"<p aria-live='polite'>{text}</p>"

    def _name_choices(self) -> None:
        """Show "my own" as soon as the sizes or the rate are no longer those of a choice."""
        sizes = {name: control.value for name, control in self.sizes.items()}
        chosen = PRESETS.get(self.preset.value)
        if chosen and any(getattr(chosen, name) != size for name, size in sizes.items()):
            self.preset.value = OWN
        if self.machine.value not in (None, self.rate.value):
            self.machine.value = None

    def _compute(self) -> dict[str, Any]:
        config = GPTConfig(**{name: control.value for name, control in self.sizes.items()})
        for name, value in (("tokens", self.tokens.value), ("FLOP/s", self.rate.value)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value:g}; it must be a number above 0")
        memory = memory_bytes(config, self.batch.value * config.context_length)
        flops = flops_per_token(config)
        return {
            "parameters": count_parameters(config),
            "memory": memory,
            "inference_bytes": memory["weights"] + memory["keys and values"],
            "training_bytes": sum(memory.values()) - memory["keys and values"],
            "flops": flops,
            "training_seconds": flops["training"] * self.tokens.value / self.rate.value,
        }

    def _sentence(self) -> str:
        result = self.result
        parameters, memory = result["parameters"], result["memory"]
        parts = {part: count for part, count in parameters.items() if part != "total"}
        largest = max(parts, key=lambda part: parts[part])
        return (
            f"{parameters['total']:,} parameters; the largest part is {largest} with "
            f"{parts[largest] / parameters['total']:.0%}. Inference needs "
            f"{readable(result['inference_bytes'], 'B')} (weights "
            f"{readable(memory['weights'], 'B')}, keys and values "
            f"{readable(memory['keys and values'], 'B')}), training "
            f"{readable(result['training_bytes'], 'B')}. One token costs "
            f"{readable(result['flops']['forward'], 'FLOP')} forward and "
            f"{readable(result['flops']['training'], 'FLOP')} in training; "
            f"{readable(self.tokens.value)} tokens at {readable(self.rate.value, 'FLOP/s')} take "
            f"{duration(result['training_seconds'])}, if the machine keeps that rate."
        )


def readable(number: float, unit: str = "") -> str:
    """Write a number with three digits and a prefix: 497759232, "B" becomes "498 MB"."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g} {prefix}{unit}".strip()
    return f"{number:.3g} {unit}".strip()


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it: 200000 becomes "2.3 days"."""
    for size, unit in ((31_557_600, "years"), (86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.2g} seconds"


def _bars(ax: Axes, values: dict[str, int], title: str, unit: str) -> None:
    names, top = list(values)[::-1], max(values.values())
    ax.barh(names, [values[name] for name in names], color=COLORS[0])
    for row, name in enumerate(names):
        ax.text(values[name] + 0.02 * top, row, readable(values[name], unit), va="center")
    ax.set(title=title, xlim=(0, 1.3 * top), xticks=[])
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(length=0)
