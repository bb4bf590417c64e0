"""The widget of chapter 5: a board that shows a run while it goes on, and can hold or end it."""

import html
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as widgets
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gptlib.extras.plots import COLORS, png, style

SHARE_FOR_DRAWING = 0.02
"""Drawing may take this share of a run's time, so it slows the run by no more."""
QUANTITIES = {"learning_rate": ".5f", "gradient_norm": ".2f", "tokens_per_second": ",.0f"}
"""What is shown beside the losses, if reports have it, and how it is written."""


class TrainingBoard(widgets.VBox):
    """Watch a run: loss against baselines, learning rate, gradient norm, speed, time left, text.

    Show the board, then call `run` with the reports of a run. Any iterable of objects with `step`
    and `loss` will do; other quantities are shown if they are there. The buttons act at the next
    report; `state` is "ready", "running", "paused", "stopped", "finished" or "failed".

    JupyterLab hands clicks to the kernel on a side channel (a subshell) while the cell that calls
    `run` is busy. In a front end without subshells, interrupt the kernel instead of Stop.

    Args:
        n_steps: Steps of the whole run, to tell the time left; None if it isn't known.
        baselines: Losses to compare with, in nats per token, by name.
        sample: Called without arguments from time to time; returns text to show.
        sample_every: Steps from one sample to the next.

    Example:
        >>> from types import SimpleNamespace
        >>> board = TrainingBoard(n_steps=3)
        >>> reports = board.run(SimpleNamespace(step=s, loss=3.0 / s) for s in (1, 2, 3))
        >>> board.state, len(reports)
        ('finished', 3)
    """

    def __init__(
        self,
        n_steps: int | None = None,
        baselines: Mapping[str, float] | None = None,
        sample: Callable[[], str] | None = None,
        sample_every: int = 500,
    ) -> None:
        if (n_steps is not None and n_steps < 1) or sample_every < 1:
            raise ValueError(
                f"n_steps is {n_steps} and sample_every {sample_every}; both must be at least 1"
            )
        self.n_steps, self.baselines, self.sample = n_steps, dict(baselines or {}), sample
        self.sample_every, self.state = sample_every, "ready"
        self._forget()
        icons = {"Pause": "pause", "Resume": "play", "Stop": "stop"}
        self.pause, self.resume, self.stop = (
            widgets.Button(description=name, icon=icon, disabled=True)
            for name, icon in icons.items()
        )
        for button in (self.pause, self.resume, self.stop):
            button.on_click(lambda clicked: self._request(clicked.description.lower()))
        self.readout = widgets.HTML()
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.text = widgets.HTML()
        buttons = widgets.HBox([self.pause, self.resume, self.stop])
        super().__init__([buttons, self.readout, self.image, self.text])
        self._say()
        self._draw()

    def __repr__(self) -> str:
        return "TrainingBoard: watch a run; pause, resume or stop it"

    def _forget(self) -> None:
        self.reports: list[Any] = []
        self.samples: dict[int, str] = {}
        self.seconds = self.seconds_drawing = self._next_drawing = self._next_sentence = 0.0
        self._ask = ""

    def run(self, reports: Iterable[Any]) -> list[Any]:
        """Show reports one by one, and return them; Stop closes `train(...)`, which then saves."""
        self._forget()
        self._enter("running")
        stream, begin = iter(reports), time.perf_counter()
        try:
            for report in stream:
                self.seconds += time.perf_counter() - begin
                self._take(report)
                if self._is_to_stop():
                    getattr(stream, "close", lambda: None)()
                    break
                begin = time.perf_counter()
            self._enter("stopped" if self._ask == "stop" else "finished")
        except BaseException:
            self._enter("failed")
            raise
        finally:
            self._draw()
        return self.reports

    def picture(self) -> Figure:
        """Draw what was reported so far, one panel for each quantity that was."""
        style()
        there = [name for name in QUANTITIES if any(_has(r, name) for r in self.reports)]
        if not there:
            figure, ax = plt.subplots(figsize=(8.4, 3.4))
            self._draw_loss(ax)
            return figure
        layout: list[Any] = [["loss"] * len(there), ["loss"] * len(there), there]
        figure, axes = plt.subplot_mosaic(layout, figsize=(8.4, 5.4))
        self._draw_loss(axes["loss"])
        for name, color in zip(there, COLORS[1:], strict=False):
            ax = axes[name]
            ax.plot(*_points(self.reports, name), color=color, linewidth=1.2)
            ax.set(title=name.replace("_", " "), xlabel="optimizer step")
            ax.set_ylim(bottom=0)
        return figure

    def _draw_loss(self, ax: Axes) -> None:
        steps, losses = _points(self.reports, "loss")
        last = max(self.n_steps or 1, *steps, 1)
        for (name, value), color in zip(self.baselines.items(), COLORS[1:] * 9, strict=False):
            ax.axhline(value, color=color, linestyle="--", linewidth=1.2)
            ax.text(last, value, f"{name} {value:.2f}", color=color, va="bottom", ha="right")
        ax.plot(steps, losses, color=COLORS[0], linewidth=1.2, label="training batches")
        steps, losses = _points(self.reports, "validation_loss")
        if steps:
            ax.plot(steps, losses, "o-", color="k", markersize=4, label="validation")
        ax.set(xlabel="optimizer step", ylabel="loss (nats per token)", title="Loss")
        ax.set_xlim(0, last * 1.01)
        if self.reports:
            ax.legend(loc="lower left")

    def _take(self, report: Any) -> None:
        self.reports.append(report)
        before = self.reports[-2].step if len(self.reports) > 1 else 0
        if self.sample and report.step // self.sample_every > before // self.sample_every:
            self.samples[report.step] = self.sample()
            text = html.escape(self.samples[report.step]).replace("\n", "<br>")
            self.text.value = f"<p><b>Text after step {report.step:,}:</b> {text}</p>"
        if self.seconds + self.seconds_drawing >= self._next_sentence:
            self._say()
            self._next_sentence = self.seconds + self.seconds_drawing + 0.5
        if self.seconds >= self._next_drawing:
            cost = self._draw()
            self._next_drawing = self.seconds + max(1.0, cost / SHARE_FOR_DRAWING)

    def _draw(self) -> float:
        begin = time.perf_counter()
        self.image.value = png(self.picture())
        cost = time.perf_counter() - begin
        self.seconds_drawing += cost
        return cost

    def _say(self) -> None:
        self.readout.value = f"<p aria-live='polite'>{html.escape(self._sentence())}</p>"

    def _sentence(self) -> str:
        if not self.reports:
            return f"The run is {self.state}."
        report = self.reports[-1]
        of = f" of {self.n_steps:,}" if self.n_steps else ""
        parts = [f"Step {report.step:,}{of} ({self.state}): training loss {report.loss:.3f}"]
        checked = [r for r in self.reports if _has(r, "validation_loss")]
        if checked:
            parts.append(f"validation loss {checked[-1].validation_loss:.3f}")
        below = [name for name, value in self.baselines.items() if report.loss < value]
        if below:
            parts.append(f"below {' and '.join(below)}")
        for name, form in QUANTITIES.items():
            if _has(report, name):
                parts.append(f"{name.replace('_', ' ')} {getattr(report, name):{form}}")
        left = self.seconds_left
        if left is not None and self.state in ("running", "paused"):
            parts.append(f"about {left:,.0f} s left")
        return ", ".join(parts) + "."

    @property
    def seconds_left(self) -> float | None:
        """The time that the steps left will take at the pace so far; None if it isn't known."""
        if not self.n_steps or len(self.reports) < 2:
            return None
        first, last = self.reports[0].step, self.reports[-1].step
        done = last - first if first > self.n_steps / 2 else last  # resumed: some were not ours
        return self.seconds / max(1, done) * max(0, self.n_steps - last)

    def _request(self, what: str) -> None:
        """Note what a button asks for; the loop in `run` acts on it."""
        if self.state in ("running", "paused"):
            self._ask = what

    def _is_to_stop(self) -> bool:
        """Wait while paused, and say whether Stop was pressed."""
        if self._ask == "pause":
            self._enter("paused")
            self._draw()
            while self._ask == "pause":
                time.sleep(0.05)
            if self._ask == "resume":
                self._enter("running")
        return self._ask == "stop"

    def _enter(self, state: str) -> None:
        self.state = state
        self.pause.disabled = state != "running"
        self.resume.disabled = state != "paused"
        self.stop.disabled = state not in ("running", "paused")
        self._say()


def _has(report: Any, name: str) -> bool:
    return getattr(report, name, None) is not None


def _points(reports: list[Any], name: str) -> tuple[list[int], list[float]]:
    there = [report for report in reports if _has(report, name)]
    return [report.step for report in there], [getattr(report, name) for report in there]
