"""The command `chat`: a text that a person and a model write in turns."""

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gptlib.extras.chat import fit_prompt, load_form, remember
from gptlib.extras.commands.writing import Writer, show, writing_parser
from gptlib.extras.formats.hub import RELEASES
from gptlib.extras.interrupt import raising
from gptlib.extras.options import CommandParser, whole
from gptlib.extras.runs import MODEL
from gptlib.generation import Sampling
from gptlib.instructions import PromptForm, Record

_END_KEYS = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"

_CHAT = """\
Write in turns with a language model. It is no assistant: you write the beginning of a text or a
line of speech, and it goes on from the whole conversation so far, as far as its context reaches.

A model that was tuned on instructions (chapter 9) keeps the form of its prompts in its folder. With
such a model, each line is an instruction, and what stands after " | " is what it is about."""

_EXAMPLES = f"""\
in the conversation:
  a line of text   begins a new paragraph; the model goes on from its last word
  an empty line    lets the model go on where it stopped
  do this | text   with a tuned model: an instruction, and what it is about if anything
  /clear           forgets the conversation
  Ctrl-C           stops the text and gives you the turn
  {_END_KEYS:<16} ends the conversation

examples:
  python -m gptlib chat --temperature 0.8 --top-p 0.95 --max-new-tokens 60 --stop "\\n\\n"
  python -m gptlib chat --model runs/tuned
"""


def parser(prog: str) -> CommandParser:
    """Make the parser of `chat`."""
    parser = writing_parser(prog, _chat, _CHAT, _EXAMPLES)
    parser.add_argument_group("a tuned model").add_argument(
        "--remember",
        type=whole(0),
        metavar="N",
        help="let it see its last N questions and answers again, 0 or more (default: 0, as it was "
        "tuned); it takes the likeliest token each time unless you choose otherwise above",
    )
    return parser


def _say(pieces: Iterator[str]) -> str:
    """Print what the model says, with its name before it at a terminal; return it."""
    print("GPT: " * sys.stdin.isatty(), end="", flush=True)
    return show(pieces)[0]


class _Text:
    """A conversation with a model that goes on from a text."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.text = writer, ""
        self.greeting = (
            f"{writer.name} is a language model and was not tuned to answer: it goes on from all "
            f"that you and it wrote, as far as its {writer.context_length} tokens reach.\n"
            "Enter alone: go on."
        )

    def clear(self) -> None:
        self.text = ""

    def take(self, line: str) -> None:
        self.text += "\n\n" * bool(self.text and line) + line
        if self.text:
            used = self.writer.last_part(self.text)
            self.text += _say(self.writer.write(self.writer.tokenizer.encode_ordinary(used)))


class _Questions:
    """A conversation with a model that was tuned to answer questions in a form."""

    def __init__(self, writer: Writer, form: PromptForm) -> None:
        self.writer, self.form = writer, form
        self.turns: list[Record] = []
        if not writer.arguments.given[Sampling]:
            writer.sampling = Sampling(temperature=0)
        n_seen = writer.arguments.remember or 0
        self.greeting = (
            f"{writer.name} was tuned to answer in the form {form.name!r}; it sees each question "
            + (f"with the last {n_seen} before it" if n_seen else "alone")
            + ".\nAn instruction, or: an instruction | what it is about."
        )

    def clear(self) -> None:
        self.turns.clear()

    def take(self, line: str) -> None:
        if not line.strip():
            return
        instruction, _, about = (part.strip() for part in line.partition("|"))
        length, arguments = self.writer.context_length, self.writer.arguments
        room = max(length - arguments.max_new_tokens, length // 2)
        try:
            prompt, cut = fit_prompt(instruction, about, self.writer.tokenizer, self.form, room)
        except ValueError as error:
            print(f"({error})", file=sys.stderr)
            return
        if cut:
            said = f"(the last {len(cut)} characters of the question had no place and were cut)"
            print(said, file=sys.stderr)
        earlier = self.turns[-arguments.remember :] if arguments.remember else []
        prompt, _ = remember(prompt, earlier, self.writer.tokenizer, self.form, room)
        pieces = enumerate(self.writer.write(prompt))  # the first one begins with a space
        text = _say(piece if number else piece.lstrip() for number, piece in pieces)
        self.turns.append({"instruction": instruction, "input": about, "output": text.strip()})


def _open(arguments: argparse.Namespace) -> _Text | _Questions:
    """Begin a conversation of the kind that the model is made for."""
    writer = Writer(arguments)
    writer.write(writer.tokenizer.encode_ordinary("\n")).close()  # what is refused is refused now
    places = (Path(writer.wanted), Path(writer.wanted, MODEL))  # a model's folder, or a run's
    forms = () if str(writer.wanted) in RELEASES else map(load_form, places)
    form = next(filter(None, forms), None)
    if form is not None:
        return _Questions(writer, form)
    if arguments.remember is not None:
        raise ValueError(
            f"--remember is for a tuned model, and {writer.name} names no form of its prompts; "
            "leave it out"
        )
    return _Text(writer)


def _chat(arguments: argparse.Namespace) -> int:
    conversation = _open(arguments)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    with suppress(ImportError):
        import readline  # noqa: F401  (arrow keys and earlier lines, where Python has it)
    print(
        f"{conversation.greeting} /clear: forget. Ctrl-C: stop the text. {_END_KEYS}: end.",
        file=sys.stderr,
    )
    at_terminal = sys.stdin.isatty()
    while True:
        try:
            with raising():
                line = input("You: " if at_terminal else "")
                if line.strip() == "/clear":
                    conversation.clear()
                    print("(forgotten)", file=sys.stderr)
                else:
                    conversation.take(line)
        except EOFError:
            print(end="\n" * at_terminal)
            return 0
        except KeyboardInterrupt:  # at the prompt, or a second time
            print(f"\n({_END_KEYS} ends the conversation)", file=sys.stderr)
