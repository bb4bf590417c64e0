"""The widget of chapter 6: a playground that shows how a distribution becomes text.

`generation.js` draws in the browser what `generation_writer.py` computes with `gptlib.generation`'s
own functions; the static picture is drawn by `generation_picture.py`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import torch
import traitlets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from gptlib.extras.plots import style
from gptlib.extras.widgets.attention import SHARED
from gptlib.extras.widgets.generation_picture import SHADES, draw_panel
from gptlib.extras.widgets.generation_writer import (
    Writer,
    Written,
    count_in_words,
    describe_stages,
    entropy_in_words,
    percent,
    pieces,
    short_name,
    shown_text,
    spell,
)
from gptlib.generation import Sampling, generate_text
from gptlib.gpt2 import GPT
from gptlib.tokenizer import Tokenizer, end_of_text

HERE = Path(__file__).parent
SECONDS_PER_DRAWING = 0.08
"""While it writes, the browser is told no more often, however fast the model is."""
DEFAULT = Sampling(temperature=0.8, top_k=10, top_p=0.9)
"""Settings at the start: each changes something among the tokens that have a bar."""


class SamplingView(anywidget.AnyWidget):
    """The text, the bars, the beams and the entropy in the browser; clicks come as messages."""

    _esm = SHARED + (HERE / "generation.js").read_text(encoding="utf-8")
    _css = HERE / "generation.css"
    panels = traitlets.List().tag(sync=True)
    shades = traitlets.List([list(shade) for shade in SHADES]).tag(sync=True)
    summary = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Bool(False).tag(sync=True)
    state = traitlets.Unicode("ready").tag(sync=True)


RANGES = {
    "repetition_penalty": (0, 2, 0.05),
    "frequency_penalty": (-2, 2, 0.1),
    "presence_penalty": (-2, 2, 0.1),
    "temperature": (0, 3, 0.05),
    "top_p": (0, 1, 0.01),
    "min_p": (0, 1, 0.01),
}
"""Fields of `Sampling` that get a slider: its ends and its step. Others get a box for a number."""


class Settings(widgets.VBox):
    """The knobs of one column: a strategy, and a control for every field of `Sampling`."""

    def __init__(self, sampling: Sampling) -> None:
        looks = {"description_width": "82px"}
        greedy = sampling.temperature == 0
        self.strategy = widgets.Dropdown(
            options=["sample", "greedy", "beam search"],
            value="greedy" if greedy else "sample",
            description="strategy",
            style=looks,
        )
        self.kind, self.knobs = type(sampling), dict[str, Any]()
        for field in fields(sampling):
            value, name = getattr(sampling, field.name), short_name(field.name)
            if field.default is None:
                knob = widgets.IntText(value or 0, description=f"{name} (0: off)", style=looks)
            elif field.name in RANGES:
                low, high, step = RANGES[field.name]
                value = field.default if greedy and field.name == "temperature" else value
                knob = widgets.FloatSlider(
                    value, min=low, max=high, step=step, description=name, style=looks
                )
            else:
                knob = widgets.FloatText(value, description=name, style=looks)
            self.knobs[field.name] = knob
            setattr(self, field.name, knob)
        self.n_beams = widgets.IntSlider(4, 1, 8, description="beams", style=looks)
        self.controls = [self.strategy, *self.knobs.values(), self.n_beams]
        self.title = widgets.HTML()
        box = widgets.Box(self.controls, layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([self.title, box])
        self.strategy.observe(self._enable, "value")
        self._enable()

    def _turnable(self) -> list[str]:
        """Name the knobs that this strategy heeds: greedy ends with the best token anyway."""
        if self.strategy.value == "beam search":
            return []
        everything = self.strategy.value == "sample"
        return [f.name for f in fields(self.kind) if everything or f.metadata["counts"]]

    def _values(self) -> dict[str, Any]:
        """What the knobs say, by field; those that the strategy doesn't heed are left out."""
        values: dict[str, Any] = {"temperature": 0.0} if self.strategy.value == "greedy" else {}
        for name in self._turnable():
            value = self.knobs[name].value
            values[name] = round(value, 10) if isinstance(value, float) else value or None
        return values

    @property
    def sampling(self) -> Sampling:
        """What the knobs say; the library's own error if it can't be."""
        return self.kind(**self._values())

    @property
    def words(self) -> str:
        """The settings that are not at their defaults, in short."""
        if self.strategy.value == "beam search":
            return f"beam search, {self.n_beams.value} beams"
        values, default = self._values(), self.kind()
        said = [
            f"{short_name(name)} {values[name]:g}"
            for name in self._turnable()
            if values[name] != getattr(default, name)
        ]
        return ", ".join([self.strategy.value, *said])

    def lay_out(self, title: str, narrow: bool) -> None:
        """Name the column, and fit the knobs into its width."""
        self.title.value = f"<b>{title}</b>" if title else ""
        self.title.layout.display = None if title else "none"
        self.layout.width = "50%" if narrow else "100%"
        for control in self.controls:
            control.layout.width = "96%" if narrow else "244px"

    def _enable(self, _: Any = None) -> None:
        for name, knob in self.knobs.items():
            knob.disabled = name not in self._turnable()
        self.n_beams.disabled = self.strategy.value != "beam search"


class SamplingPlayground(widgets.VBox):
    """Write token by token, and see what each setting does to the bars of the next one.

    Each control is an attribute; `first` and `second` hold those of a column, by the names of the
    fields of `Sampling`. In Python, `choose` does what a click on an alternative does, and `wait`
    waits for a run.

    A run writes in a thread of its own, so the kernel hears Stop at once, and also while a cell
    works. The token at place i of the text takes the i-th number of the seed's sequence: the same
    seed and settings write the same text as `generate_text`, in both columns and after Undo.

    Args:
        sampling: Settings of the first column.
        compare: Settings of a second column; None shows one column.
        n_tokens: Tokens to write at once, so that there is something to look at.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        prompt: str = "The prince",
        sampling: Sampling = DEFAULT,
        seed: int = 0,
        *,
        compare: Sampling | None = None,
        n_tokens: int = 12,
    ) -> None:
        self._lock = threading.RLock()
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self.model, self.tokenizer = model, tokenizer
        self.end_tokens = end_of_text(tokenizer)
        self.state = "ready"
        self._said = self._problem = ""
        self._next_drawing = 0.0
        self._writers = [Writer(model, ids) for ids in [self._encode(prompt)] * 2]
        self._places: list[int | None] = [None, None]
        self._panels: list[dict[str, Any] | None] = [None, None]
        self._history: list[Any] = []
        self._prompt_used = prompt
        self._make_controls(prompt, sampling, compare, seed)
        top = widgets.HBox([self.seed, self.count, self.pace, self.compare])
        top.layout.flex_flow = "row wrap"
        both = widgets.HBox(self._settings)
        buttons = widgets.HBox([self.step, self.run, self.stop, self.undo, self.restart])
        buttons.layout.flex_flow = "row wrap"
        super().__init__([self.prompt, top, both, buttons, self.view])
        self.add_class("sampling-playground")
        self._lay_out()
        for _ in range(n_tokens):
            with self._undoable():
                self._advance()
        self._listen()
        self._show()

    def __repr__(self) -> str:
        return "SamplingPlayground: write token by token, see what each setting does to the bars"

    @property
    def tokens(self) -> list[int]:
        """The tokens that the first column has written after the prompt."""
        return self._writers[0].new_tokens

    @property
    def written(self) -> tuple[Written, ...]:
        """The first column's tokens, with their probabilities and entropies."""
        return self._writers[0].written

    @property
    def text(self) -> str:
        """What the first column has written after the prompt."""
        return self.texts[0]

    @property
    def texts(self) -> list[str]:
        """What each column has written after the prompt."""
        return ["".join(pieces(self.tokenizer, writer.new_tokens)) for writer in self._active]

    @property
    def summary(self) -> str:
        """The read-out: what was done last, and what comes next; or why it can't be done."""
        return str(self.view.summary)

    def choose(self, token: int, place: int | None = None, column: int = 0) -> None:
        """Write a token of one's own choice, and go on from there.

        Args:
            place: Where in the text, counted from 0; what stood there and after it is cut off
                (Undo brings it back). The end by default.
            column: 0, or 1 for the second.
        """
        self._halt_and_wait()
        with self._trying(), self._undoable():
            self._check_column(column)
            if not 0 <= token < self.model.config.vocab_size:
                raise ValueError(f"token {token} is none; ids go from 0 to the vocabulary's end")
            writer = self._writers[column]
            at = len(writer.written) if place is None else place
            if not 0 <= at <= len(writer.written):
                raise ValueError(f"place {at} is not in the text of {len(writer.written)} tokens")
            writer.cut(at)
            writer.write(token, self._settings[column].sampling, "by hand")
            self._said = f"You wrote {self._quoted(token)}."

    def choose_beam(self, number: int, column: int = 0) -> None:
        """Make one beam the text; the search begins anew from there."""
        self._halt_and_wait()
        with self._trying(), self._undoable():
            self._check_column(column)
            writer = self._writers[column]
            if writer.search is None or not 0 <= number < len(writer.search.beams):
                raise ValueError(f"there is no beam {number}; press Step to search")
            writer.take(writer.search, number)
            writer.search = None
            self._said = f"Beam {number + 1} is the text now."

    def look(self, place: int | None, column: int = 0) -> None:
        """Show the bars at a place of the text, counted from 0; None for the next token."""
        with self._trying():
            self._check_column(column)
            there = place is not None and 0 <= place < len(self._writers[column].written)
            self._places[column] = place if there else None
            self._said = ""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of a run; say whether it has ended."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def close(self) -> None:
        """End a run and take the widget off the page."""
        self._halt_and_wait()
        super().close()

    def picture(self) -> Figure:
        """Draw the state: the bars of each stage, the text in colours, the entropy."""
        style()
        panels = self.view.panels
        figure = plt.figure(figsize=(9, 6.2 * len(panels)))
        parts: Any = figure.subfigures(len(panels), 1, squeeze=False)
        for part, panel in zip(parts[:, 0], panels, strict=True):
            draw_panel(part, panel, self._prompt_used)
        return figure

    def _make_controls(
        self, prompt: str, sampling: Sampling, compare: Sampling | None, seed: int
    ) -> None:
        looks: Any = {"style": {"description_width": "100px"}, "layout": {"width": "98%"}}
        self.prompt = widgets.Text(prompt, description="prompt", continuous_update=False, **looks)
        number: Any = partial(widgets.BoundedIntText, **looks | {"layout": {"width": "190px"}})
        self.seed = number(seed, 0, 2**31, description="seed")
        self.count = number(40, 1, 10_000, description="tokens per Run")
        self.pace = number(15, 1, 1000, description="tokens per s")
        wide = {"width": "180px"}
        self.compare = widgets.ToggleButton(
            compare is not None, description="Compare two settings", icon="columns", layout=wide
        )
        self.first, self.second = Settings(sampling), Settings(compare or type(sampling)())
        self._settings = [self.first, self.second]
        button: Any = partial(widgets.Button, layout={"width": "100px"})
        self.step = button(description="Step", icon="step-forward", tooltip="Write one token")
        self.run = button(description="Run", icon="play", tooltip="Write on")
        self.stop = button(description="Stop", icon="stop", disabled=True)
        self.undo = button(description="Undo", icon="undo", tooltip="Take back the last action")
        self.restart = button(
            description="Back to the prompt", icon="fast-backward", tooltip="Undo brings it back"
        )
        self.restart.layout.width = "180px"
        self.view = SamplingView()

    def _listen(self) -> None:
        self.step.on_click(lambda _: self._step())
        self.run.on_click(lambda _: self._run())
        self.stop.on_click(lambda _: self._halt.set())
        self.undo.on_click(lambda _: self._undo())
        self.restart.on_click(lambda _: self._restart())
        self.prompt.observe(lambda _: self._new_prompt(), "value")
        self.seed.observe(lambda _: self._changed(), "value")
        self.compare.observe(lambda _: self._compare(), "value")
        for settings in self._settings:
            for control in settings.controls:
                control.observe(lambda _: self._changed(), "value")
        self.view.on_msg(self._hear)

    def _hear(self, _: Any, message: Any, __: Any) -> None:
        """Do what a click in the browser asks for."""
        match message:
            case {"do": "choose", "panel": column, "token": token, "place": place}:
                self.choose(token, place, column)
            case {"do": "beam", "panel": column, "beam": number}:
                self.choose_beam(number, column)
            case {"do": "look", "panel": column, "place": place}:
                self.look(place, column)

    # What the buttons and controls do.

    def _step(self) -> None:
        self._halt_and_wait()
        with self._trying(), self._undoable():
            if not self._advance():
                raise ValueError("the text has ended; press Undo or choose another token to go on")
            last = [writer.written[-1] for writer in self._active]
            said = [f"{self._quoted(written.token)} ({self._chance(written)})" for written in last]
            self._said = f"Wrote {' and '.join(said)}."

    def _run(self) -> None:
        self._halt_and_wait()
        with self._trying():
            for settings in self._settings[: len(self._active)]:
                _ = settings.sampling  # an error now rather than in the thread
            self._start(self._keep_writing, self.count.value)

    def _start(self, work: Callable[[int], None], n: int) -> None:
        """Begin to write in a thread; `_halt` ends it before its next token."""
        self._halt.clear()
        self._set_state("writing")
        self._thread = threading.Thread(target=self._work, args=(work, n), daemon=True)
        self._thread.start()

    def _work(self, work: Callable[[int], None], n: int) -> None:
        self._said = self._problem = ""
        self._next_drawing = 0.0
        try:
            work(n)
        except Exception as error:  # also of the model: nothing is lost, and the reader is told
            self._problem = str(error)
        with self._lock:
            self._set_state("stopped" if self._halt.is_set() else "ready")
            self._show()

    def _keep_writing(self, n: int) -> None:
        for number in range(n):
            begin = time.perf_counter()
            with self._lock:
                if self._halt.is_set():
                    break
                with self._undoable():
                    wrote = self._advance()
                if not wrote:
                    self._said = "The text has ended."
                    return
                self._said = f"Wrote {number + 1} tokens of {n}."
                self._show_soon()
            if self._halt.wait(max(0.002, 1 / self.pace.value - time.perf_counter() + begin)):
                break
        if self._halt.is_set():
            self._said = f"Stopped. {self._said}"

    def _catch_up(self, n: int) -> None:
        """Write in the second column until it is as long as the first."""
        for _ in range(n):
            with self._lock:
                if self._halt.is_set() or not self._advance(only=1):
                    break
                self._show_soon()
        self._said = "Both columns start from the same prompt and seed."

    def _undo(self) -> None:
        self._halt_and_wait()
        with self._trying():
            if not self._history:
                raise ValueError("there is nothing to undo; press Step or Run to write")
            self._restore(self._history.pop())
            self.prompt.value = self._prompt_used
            self._said = "Undone."

    def _restart(self) -> None:
        self._halt_and_wait()
        with self._trying(), self._undoable():
            for writer in self._writers:
                writer.cut(0)
            self._said = "Back to the prompt."

    def _new_prompt(self) -> None:
        if self.prompt.value == self._prompt_used:
            return
        self._halt_and_wait()
        with self._trying(), self._undoable():
            ids = self._encode(self.prompt.value)
            for writer in self._writers:
                writer.cut(0)
                writer.prompt = tuple(ids)
            self._prompt_used = self.prompt.value
            self._said = "A new prompt."

    def _compare(self) -> None:
        self._halt_and_wait()
        self._lay_out()
        with self._trying():
            self._said = ""
            if self.compare.value:
                with self._undoable():
                    self._writers[1].cut(0)
                if self.written:
                    self._start(self._catch_up, len(self.written))

    def _changed(self) -> None:
        """A knob was turned: show its effect, or (while it writes) let the next token show it."""
        if self.state != "writing":
            self._said = ""
            with self._trying():
                pass  # shows it

    # What they are made of.

    @property
    def _active(self) -> list[Writer]:
        return self._writers[: 1 + self.compare.value]

    def _check_column(self, column: int) -> None:
        if not 0 <= column < len(self._active):
            raise ValueError(f"column {column} is not shown; press Compare for a second one")

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """Do something under the lock, and show it; an error goes to the read-out."""
        with self._lock:
            self._problem = ""
            try:
                yield
            except Exception as error:  # a click has no cell to show it in
                self._problem = str(error)
            if self.state != "writing":
                self._show()

    def _halt_and_wait(self) -> None:
        self._halt.set()
        if self._thread is not threading.current_thread():
            self.wait()

    @contextmanager
    def _undoable(self) -> Iterator[None]:
        """Change the texts in a way that Undo takes back; after an error they are as before."""
        before = self._state()
        try:
            yield
        except Exception:
            self._restore(before)
            raise
        if self._state() != before:
            self._history.append(before)
            self._places = [None, None]

    def _state(self) -> Any:
        states = [(writer.prompt, writer.written, writer.search) for writer in self._writers]
        return self._prompt_used, states

    def _restore(self, before: Any) -> None:
        self._prompt_used, states = before
        for writer, state in zip(self._writers, states, strict=True):
            writer.prompt, writer.written, writer.search = state
        self._places = [None, None]

    def _advance(self, only: int | None = None) -> bool:
        """Write a token in each column that has not ended; say whether any could."""
        wrote = False
        for number, writer in enumerate(self._active):
            if only not in (None, number) or self._has_ended(writer):
                continue
            settings = self._settings[number]
            if settings.strategy.value == "beam search":
                writer.grow_beams(settings.n_beams.value, next(iter(self.end_tokens), None))
            else:
                writer.search = None
                writer.step(settings.sampling, self._uniform(len(writer.written)))
            wrote = True
        return wrote

    def _has_ended(self, writer: Writer) -> bool:
        return bool(writer.written) and writer.written[-1].token in self.end_tokens

    def _uniform(self, place: int) -> float:
        """Return the number at a place of the seed's sequence, as `generate` takes them."""
        generator = torch.Generator().manual_seed(self.seed.value)
        return float(torch.rand(place + 1, generator=generator)[place])

    def _encode(self, prompt: str) -> list[int]:
        """Turn the prompt into tokens; `generate_text` itself says what is wrong with it."""
        generate_text(self.model, self.tokenizer, prompt, 0)
        return list(self.tokenizer.encode_ordinary(prompt))

    # What is shown.

    def _lay_out(self) -> None:
        two = self.compare.value
        self.second.layout.display = None if two else "none"
        self.first.lay_out("A" if two else "", two)
        self.second.lay_out("B" if two else "", two)

    def _set_state(self, state: str) -> None:
        self.state = state
        self.run.disabled = state == "writing"
        self.stop.disabled = state != "writing"

    def _show_soon(self) -> None:
        """Show the state, unless it was shown a moment ago."""
        now = time.perf_counter()
        if now >= self._next_drawing:
            self._next_drawing = now + SECONDS_PER_DRAWING
            self._show()

    def _show(self) -> None:
        """Send the state to the browser; with bad settings, the text and the model's own bars."""
        problem = self._problem
        for number, (writer, settings) in enumerate(
            zip(self._active, self._settings, strict=False)
        ):
            try:
                self._panels[number] = self._panel(number, writer, settings.sampling)
            except Exception as error:  # of the settings, or of the model
                column = f"{'AB'[number]}: " if self.compare.value else ""
                problem = problem or column + str(error)
                with suppress(ArithmeticError, ValueError):
                    self._panels[number] = self._panel(number, writer, settings.kind())
        with self.view.hold_sync():
            self.view.panels = [panel for panel in self._panels[: len(self._active)] if panel]
            self.view.problem = bool(problem)
            self.view.state = self.state
            self.view.summary = f"Not possible: {problem}" if problem else self._sentence()
        self.undo.disabled = not self._history

    def _sentence(self) -> str:
        if self.state == "writing":  # one sentence for the whole run: it is read aloud
            return "Writing; Stop ends it after the present token."
        said = [self._said] if self._said else []
        for name, panel in zip("AB", self.view.panels, strict=False):
            two = self.compare.value  # then each column says for itself what comes next
            said.append(f"{name}: {panel['count']}" if two else f"{panel['count']} {panel['next']}")
        return " ".join(said)

    def _panel(self, number: int, writer: Writer, sampling: Sampling) -> dict[str, Any]:
        """Collect what the browser draws of a column."""
        settings, place = self._settings[number], self._places[number]
        n, ended = len(writer.written), self._has_ended(writer)
        if place is None:
            place = n - 1 if ended else n
        steps = writer.stages(place, sampling)
        present = writer.written[place].token if place < n else None
        bars = describe_stages(steps, sampling, present, self._spell)
        texts = pieces(self.tokenizer, writer.new_tokens)
        tokens = [
            [shown_text(piece), self._spell(w.token), round(w.probability, 4), self._about(w), hand]
            for piece, w in zip(texts, writer.written, strict=False)
            for hand in [w.how == "by hand"]
        ]
        entropies = [[round(w.entropy, 3), round(w.kept_entropy, 3)] for w in writer.written]
        if place == n:
            entropies.append([round(value, 3) for value in bars["entropies"]])
        search = writer.search if settings.strategy.value == "beam search" else None
        beams = [
            [shown_text("".join(pieces(self.tokenizer, beam.tokens))), round(beam.score, 3)]
            for beam in (search.beams if search else ())
        ]
        heading = f"The next token, number {n + 1}"
        if present is not None:
            heading = f"Token {place + 1}, {self._quoted(present)}: what it was chosen from"
        return {
            "title": f"{'AB'[number]}: {settings.words}" if self.compare.value else "",
            "prompt": self._prompt_used,
            "tokens": tokens,
            "place": place,
            "ended": ended,
            "heading": heading,
            "stages": bars["stages"],
            "rows": bars["rows"],
            "beams": beams,
            "entropy": entropies,
            "entropySaid": entropy_in_words(entropies),
            "count": count_in_words(writer.written),
            "next": self._next_in_words(bars, place == n),
        }

    def _next_in_words(self, bars: dict[str, Any], at_end: bool) -> str:
        model, after = bars["entropies"]
        last = bars["stages"][-1]
        said = f"{'Next token' if at_end else 'At the marked place'}: entropy {model:.2f} nats"
        if any(stage["active"] for stage in bars["stages"][1:]):
            said += f", {after:.2f} after the filters"
        if last["left"] < self.model.config.vocab_size:
            said += f"; {last['left']:,} of {self.model.config.vocab_size:,} tokens left"
        best = max(bars["rows"], key=lambda row: row["values"][-1][1])
        return f"{said}; likeliest “{best['label']}” {percent(best['values'][-1][1])}."

    def _spell(self, token: int) -> str:
        return spell(self.tokenizer.decode_bytes([token]))

    def _quoted(self, token: int) -> str:
        return f"“{self._spell(token)}”"

    def _chance(self, written: Written) -> str:
        model, after = percent(written.probability), percent(written.kept)
        if not written.kept:
            after = "cut by the filters"
        elif model != after:
            after = f"{after} after the filters"
        return f"the model gave it {model}" + (f", {after}" if model != after else "")

    def _about(self, written: Written) -> str:
        return (
            f"{self._quoted(written.token)}: {self._chance(written)}; entropy "
            f"{written.entropy:.2f} nats; {written.how}"
        )
