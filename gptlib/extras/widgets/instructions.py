"""Chapter 9: a chat box that streams, and one question put to two models side by side."""

import html
import textwrap
import threading
from collections.abc import Callable, Generator, Sequence
from itertools import zip_longest
from typing import Any

import ipywidgets as widgets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from gptlib.extras.chat import answer, fit_prompt, remember
from gptlib.extras.fast import fast
from gptlib.extras.plots import COLORS, style
from gptlib.generation import Sampling
from gptlib.gpt2 import GPT
from gptlib.instructions import PromptForm
from gptlib.tokenizer import Tokenizer


class _Asker(widgets.VBox):
    """A question, buttons to send it and to stop, and a thread that writes the answer.

    The thread lets the kernel hear Stop at once, also while a cell works.
    """

    def __init__(
        self, tokenizer: Tokenizer, form: PromptForm, max_new_tokens: int, sampling: Sampling | None
    ) -> None:
        self.tokenizer, self.form = tokenizer, form
        self.max_new_tokens, self.sampling = max_new_tokens, sampling
        self.problem = ""
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        looks: Any = {"style": {"description_width": "90px"}, "layout": {"width": "95%"}}
        self.instruction = widgets.Text(description="Instruction", **looks)
        self.input = widgets.Text(
            description="Input", placeholder="what it is about; may stay empty", **looks
        )
        self.send = widgets.Button(description="Send", icon="paper-plane")
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.status = widgets.HTML()
        super().__init__()
        self.send.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self._halt.set())

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self._thread is not None and self._thread.is_alive()

    def ask(self, instruction: str, input: str = "") -> None:
        """Write a question into the fields, send it, and wait for the whole answer."""
        self.instruction.value, self.input.value = instruction, input
        self._start()
        self.wait()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the answer is written, or for so many seconds."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _start(self) -> None:
        if self.busy:
            return
        self._halt.clear()
        try:
            work = self._prepare(self.instruction.value, self.input.value)
        except ValueError as error:
            self.problem = str(error)
            self._say(f"Not sent: {error}.")
            return
        self.problem = ""
        self.send.disabled, self.stop.disabled = True, False
        self._say("Writing …")
        self._thread = threading.Thread(target=self._write, args=(work,), daemon=True)
        self._thread.start()

    def _write(self, work: Callable[[], str]) -> None:
        try:
            said = work()
        except Exception as error:  # shown where the reader looks, not in the kernel's log
            self.problem = str(error)
            said = f"Stopped by an error: {error}"
        self.send.disabled, self.stop.disabled = False, True
        self._say(said)

    def _prepare(self, instruction: str, input: str) -> Callable[[], str]:
        """Check a question; return what writes the answer and says how it went."""
        raise NotImplementedError

    def _answer(self, model: GPT, prompt: Sequence[int]) -> Generator[str, None, None]:
        twin, step = fast(model)  # made anew each time: the model may have changed since
        return answer(twin, self.tokenizer, prompt, self.max_new_tokens, self.sampling, step=step)

    def _say(self, text: str) -> None:
        self.status.value = f"<p role='status' aria-live='polite'>{html.escape(text)}</p>"

    def _ending(self, cut: str) -> str:
        said = "Stopped by you." if self._halt.is_set() else "Done."
        if cut:
            said += f" The last {len(cut)} characters of the question had no place and were cut."
        return said


class ChatBox(_Asker):
    """Talk with a tuned model: its answers appear while they are written, and can be stopped.

    In Python, `ask` sends a question and waits. Results: `turns` (a dictionary for each, with
    "instruction", "input" and "output"), `n_seen` (earlier turns that went with the last question)
    and `problem` (why a question was not sent).

    Args:
        form: The form that the model was tuned with.
        remembered: Earlier turns that it sees again; a model that was tuned on single questions
            answers best with 0.
        max_new_tokens: Where an answer is cut off, below the context length.
        sampling: The likeliest token each time if None.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        form: PromptForm,
        remembered: int = 0,
        max_new_tokens: int = 60,
        sampling: Sampling | None = None,
    ) -> None:
        if not 0 < max_new_tokens < model.config.context_length:
            raise ValueError(
                f"max_new_tokens is {max_new_tokens}; choose from 1 to "
                f"{model.config.context_length - 1}, so that a question fits into the context too"
            )
        super().__init__(tokenizer, form, max_new_tokens, sampling)
        self.model = model
        self.turns: list[dict[str, str]] = []
        self.n_seen = 0
        self.remembered = widgets.BoundedIntText(
            remembered, 0, 50, description="Earlier turns", style={"description_width": "90px"}
        )
        self.clear = widgets.Button(description="Clear", icon="trash")
        self.clear.on_click(lambda _: self._forget())
        self.conversation = widgets.HTML()
        buttons = widgets.HBox([self.send, self.stop, self.clear, self.remembered])
        buttons.layout.flex_flow = "row wrap"
        self.children = [self.conversation, self.instruction, self.input, buttons, self.status]
        self._show()
        self._say("Write an instruction and press Send.")

    def __repr__(self) -> str:
        return "ChatBox: write an instruction, see the answer while it is written, stop it"

    def picture(self) -> Figure:
        """Draw the conversation so far."""
        texts = [(_question(turn), turn["output"]) for turn in self.turns]
        return _draw_pairs(texts or [("no question yet", "")], ("you", "the model"))

    def _prepare(self, instruction: str, input: str) -> Callable[[], str]:
        room = self.model.config.context_length - self.max_new_tokens
        prompt, cut = fit_prompt(instruction, input, self.tokenizer, self.form, room)
        earlier = self.turns[max(0, len(self.turns) - self.remembered.value) :]
        tokens, self.n_seen = remember(prompt, earlier, self.tokenizer, self.form, room)
        pieces = self._answer(self.model, tokens)
        turn = {"instruction": instruction.strip(), "input": input.strip(), "output": ""}

        def work() -> str:
            self.turns.append(turn)
            for piece in pieces:
                turn["output"] += piece
                self._show()
                if self._halt.is_set():
                    break
            turn["output"] = turn["output"].strip()
            self._show()
            self.instruction.value = self.input.value = ""
            return self._ending(cut)

        return work

    def _forget(self) -> None:
        if not self.busy:
            self.turns.clear()
            self._show()
            self._say("Forgotten. Write an instruction and press Send.")

    def _show(self) -> None:
        rows = [
            f"<p><b>You:</b> {_as_html(_question(turn))}</p>"
            f"<p><b>Model:</b> {_as_html(turn['output'])}</p>"
            for turn in self.turns
        ]
        self.conversation.value = f"<div role='log' aria-label='Conversation'>{''.join(rows)}</div>"


class SideBySide(_Asker):
    """Put one question to two models, and watch both answers grow.

    In Python, `ask` sends a question and waits. Results: `texts` (both answers) and `problem`.

    Args:
        models: Two models by the names to show, with one tokenizer.
        instruction: The first question, which is answered at once.
    """

    def __init__(
        self,
        models: dict[str, GPT],
        tokenizer: Tokenizer,
        form: PromptForm,
        instruction: str,
        input: str = "",
        max_new_tokens: int = 40,
        sampling: Sampling | None = None,
    ) -> None:
        if len(models) != 2:
            raise ValueError(f"there are {len(models)} models; pass two, by the names to show")
        super().__init__(tokenizer, form, max_new_tokens, sampling)
        self.models = models
        self.texts = dict.fromkeys(models, "")
        self._asked = ""
        half = {"width": "50%", "padding": "0 8px"}
        self.columns = {name: widgets.HTML(layout=half) for name in models}
        buttons = widgets.HBox([self.send, self.stop])
        both = widgets.HBox([*self.columns.values()])
        self.children = [self.instruction, self.input, buttons, both, self.status]
        self.ask(instruction, input)
        if self.problem:
            raise ValueError(self.problem)

    def __repr__(self) -> str:
        return "SideBySide: put one question to two models, watch both answers"

    def picture(self) -> Figure:
        """Draw both answers to the last question."""
        title = f"Asked: {self._asked}"
        return _draw_pairs([tuple(self.texts.values())], tuple(self.texts), title)

    def _prepare(self, instruction: str, input: str) -> Callable[[], str]:
        room = min(model.config.context_length for model in self.models.values())
        room -= self.max_new_tokens
        prompt, cut = fit_prompt(instruction, input, self.tokenizer, self.form, room)
        streams = [self._answer(model, prompt) for model in self.models.values()]

        def work() -> str:
            self._asked = _question({"instruction": instruction, "input": input})
            self.texts = dict.fromkeys(self.models, "")
            self._show()
            for pieces in zip_longest(*streams, fillvalue=""):
                for name, piece in zip(self.models, pieces, strict=True):
                    self.texts[name] += piece
                self._show()
                if self._halt.is_set():
                    break
            self.texts = {name: text.strip() for name, text in self.texts.items()}
            self._show()
            return self._ending(cut)

        return work

    def _show(self) -> None:
        for name, text in self.texts.items():
            self.columns[name].value = (
                f"<div role='region' aria-label='{html.escape(name, quote=True)}'>"
                f"<b>{html.escape(name)}</b><p>{_as_html(text)}</p></div>"
            )


def _question(turn: dict[str, str]) -> str:
    return " | ".join(part.strip() for part in (turn["instruction"], turn["input"]) if part.strip())


def _as_html(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _draw_pairs(
    pairs: Sequence[tuple[str, ...]], heads: tuple[str, ...], title: str = ""
) -> Figure:
    style()
    rows = [[textwrap.wrap(text[:400], 46) or ["(nothing)"] for text in pair] for pair in pairs]
    heights = [max(map(len, row)) + 0.8 for row in rows]
    total = sum(heights) + 1.6
    figure, ax = plt.subplots(figsize=(8.4, 0.35 + 0.21 * total))
    ax.set(xlim=(0, 2), ylim=(total, 0), title=title)
    ax.axis("off")
    for column, (head, color) in enumerate(zip(heads, COLORS, strict=False)):
        ax.text(column + 0.02, 0.8, head, color=color, weight="bold", va="center")
    y = 1.6
    for row, height in zip(rows, heights, strict=True):
        ax.axhline(y - 0.1, color="0.8", linewidth=0.8)
        for column, lines in enumerate(row):
            ax.text(column + 0.02, y + 0.2, "\n".join(lines), va="top", parse_math=False)
        y += height
    return figure
