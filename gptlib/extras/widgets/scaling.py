"""The widget of chapter 10: plan a training step on machines that you don't have."""

import html
from typing import Any

import ipywidgets as widgets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from gptlib.extras.plots import COLORS, png, style
from gptlib.gpt2 import GPT2_LARGE, GPT2_MEDIUM, GPT2_SMALL, GPT2_XL, GPTConfig
from gptlib.scaling import Machine, StepCost, parallel_step

MODELS = {
    "GPT-2": GPT2_SMALL,
    "GPT-2 medium": GPT2_MEDIUM,
    "GPT-2 large": GPT2_LARGE,
    "GPT-2 XL": GPT2_XL,
    "7 billion": GPTConfig(context_length=2048, n_layer=32, n_head=32, n_embd=4096),
}
STRATEGIES = ("ddp", "fsdp", "tensor")
COUNTS = [2**power for power in range(11)]
MEMORY = 80e9  # bytes per device


class StepPlanner(widgets.VBox):
    """Turn devices, batch and bandwidth, and see time, memory, and where it stops scaling.

    Controls: `model`, `strategy`, `devices`, `batch` (tokens per step), `at_once` (windows per
    pass and device), `speed` (trillion operations per second of a device), `inside` and `between`
    (GB/s within a machine of 8, and from one to another), `checkpointed`. Results: `cost`, None
    if the batch is too small to be shared, and `limit`, the first number of devices at which the
    step waits for what is sent.

    Example:
        >>> planner = StepPlanner()
        >>> planner.devices.value = 1
        >>> planner.cost.communication
        0.0
    """

    def __init__(self) -> None:
        self.model = widgets.Dropdown(options=list(MODELS), value="GPT-2 XL", description="Model")
        self.strategy = widgets.Dropdown(options=STRATEGIES, value="fsdp", description="Strategy")
        self.devices = widgets.SelectionSlider(options=COUNTS, value=64, description="Devices")
        sizes = [(f"{2**power:,}", 2**power) for power in range(13, 24)]
        self.batch = widgets.SelectionSlider(options=sizes, value=2**19, description="Batch")
        self.at_once = widgets.SelectionSlider(
            options=[2**power for power in range(7)], value=16, description="At once"
        )
        self.speed = _slider("Tera-op/s", 400, 10, 1000, 10)
        self.inside = _slider("Inside GB/s", 400, 10, 900, 10)
        self.between = _slider("Between GB/s", 50, 1, 400, 1)
        self.checkpointed = widgets.Checkbox(value=True, description="Checkpoint activations")
        self.readout = widgets.HTML()
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.cost: StepCost | None = None
        self.limit: int | None = None
        rows = [
            widgets.HBox([self.model, self.strategy, self.checkpointed]),
            widgets.HBox([self.devices, self.batch, self.at_once]),
            widgets.HBox([self.speed, self.inside, self.between]),
        ]
        super().__init__([*rows, self.readout, self.image])
        for row in rows:
            for control in row.children:
                control.observe(lambda _: self._update(), names="value")
        self._update()

    def __repr__(self) -> str:
        return "StepPlanner: plan a training step on many devices"

    def _cost(self, n: int, strategy: Any) -> StepCost | None:
        speed, inside, between = self.speed.value, self.inside.value, self.between.value
        machine = Machine(flops=speed * 1e12, inside=inside * 1e9, between=between * 1e9)
        config, batch = MODELS[self.model.value], self.batch.value
        options = (self.at_once.value, self.checkpointed.value)
        try:
            return parallel_step(config, machine, n, batch, strategy, *options)
        except ValueError:  # less than a window for each
            return None

    def _update(self) -> None:
        strategy = self.strategy.value
        self.cost = self._cost(self.devices.value, strategy)
        costs = {n: self._cost(n, strategy) for n in COUNTS}
        waits = (n for n, c in costs.items() if c is not None and c.seconds > c.compute)
        self.limit = next(waits, None)
        self.readout.value = f"<p aria-live='polite'>{html.escape(self.sentence)}</p>"
        self.image.value = png(self.picture())

    @property
    def sentence(self) -> str:
        """What the picture shows, in words."""
        n, batch = self.devices.value, self.batch.value
        what = f"{self.model.value}, {self.strategy.value}, {n} devices, {batch:,} tokens per step"
        if self.cost is None:
            return f"{what}: less than one window for each device; raise the batch."
        cost = self.cost
        limit = "up to 1,024 devices it never waits for what is sent"
        if self.limit is not None:
            limit = f"from {self.limit:,} devices on it waits for what is sent"
        fits = "" if cost.memory <= MEMORY else f", more than its {MEMORY / 1e9:.0f}"
        return (
            f"{what}: {_seconds(cost.compute)} of computing, {_seconds(cost.communication)} of "
            f"sending, {_seconds(cost.seconds)} per step, {batch / cost.seconds:,.0f} tokens per "
            f"second; {cost.memory / 1e9:.1f} GB on each device{fits}; {limit}."
        )

    def picture(self) -> Figure:
        """Draw seconds per step and memory against the number of devices, for each strategy."""
        style()
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.8, 3.2))
        for color, strategy in zip(COLORS, STRATEGIES, strict=False):
            pairs = [(n, self._cost(n, strategy)) for n in COUNTS]
            there = [(n, cost) for n, cost in pairs if cost is not None]
            chosen = strategy == self.strategy.value
            options: Any = {"color": color, "lw": 2.6 if chosen else 1.1, "label": strategy}
            counts = [n for n, _ in there]
            left.plot(counts, [cost.seconds for _, cost in there], **options)
            right.plot(counts, [cost.memory / 1e9 for _, cost in there], **options)
        if self.cost is not None:
            left.plot(self.devices.value, self.cost.seconds, "ko", ms=7)
            right.plot(self.devices.value, self.cost.memory / 1e9, "ko", ms=7)
        right.axhline(MEMORY / 1e9, color="0.5", ls="--", lw=1)
        right.text(1, MEMORY / 1e9, f"a device's {MEMORY / 1e9:.0f} GB", fontsize=9, va="bottom")
        left.set(xscale="log", yscale="log", xlabel="devices", ylabel="seconds per step")
        right.set(xscale="log", yscale="log", xlabel="devices", ylabel="GB per device")
        left.legend(fontsize=9)
        return figure


def _slider(name: str, *range: int) -> Any:
    """Make a slider; its range is value, least, most and step."""
    style = {"description_width": "initial"}
    return widgets.IntSlider(*range, description=name, continuous_update=False, style=style)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{1e3 * value:.1f} ms"
