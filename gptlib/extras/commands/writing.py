"""The commands `generate` and `chat`: text from a model, shown while it is written."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlib.extras.commands.base import (
    CommandParser,
    add_model_options,
    command_parser,
    find_device,
    note,
)
from gptlib.extras.options import Options, number, read_options, whole

if TYPE_CHECKING:  # PyTorch waits
    from gptlib.generation import Step
    from gptlib.gpt2 import GPT
    from gptlib.instructions import PromptForm

__all__ = ["chat_parser", "generate_parser"]

_END_KEYS = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"

_GENERATE = """\
Go on from the beginning of a text. The text is shown while it is written."""

_GENERATE_EPILOG = """\
examples:
  python -m gptlib generate --prompt "Well, Prince," --temperature 0.8 --seed 1
  echo "Natasha" | python -m gptlib generate --top-p 0.9 --stop "\\n\\n"
  python -m gptlib generate --model runs --prompt "Pierre" --beams 4

exit status: 0 if the text is complete, 2 if a value can't be used, 130 if Ctrl-C cut the text.
"""

_CHAT = """\
Write in turns with a language model. It is no assistant: you write the beginning of a text or a
line of speech, and it goes on from the whole conversation so far, as far as its context reaches.

A model that was tuned on instructions (chapter 9) keeps the form of its prompts in its folder. With
such a model, each line is an instruction, and what stands after " | " is what it is about."""

_CHAT_EPILOG = f"""\
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


# The options of generate and chat


def generate_parser() -> CommandParser:
    """Make the parser of `generate`."""
    parser, groups = _writing_parser(
        "generate", _generate, _GENERATE, _GENERATE_EPILOG, "[--prompt TEXT] "
    )
    _add_prompt_options(groups["the beginning"])
    beams = "beam search, instead of choosing token by token"
    _add_beam_options(parser.add_argument_group(beams))
    return parser


def chat_parser() -> CommandParser:
    """Make the parser of `chat`."""
    parser, _ = _writing_parser("chat", _chat, _CHAT, _CHAT_EPILOG)
    _add_memory_option(parser.add_argument_group("a tuned model"))
    return parser


def _writing_parser(
    name: str,
    work: Callable[[argparse.Namespace], int],
    description: str,
    examples: str,
    usage: str = "",
) -> tuple[CommandParser, dict[str, argparse._ArgumentGroup]]:
    """Make the parser of a command that writes text, and the groups of its options."""
    parser = command_parser(name, work, description, examples, f"{usage}[option ...]")
    sampling = read_options("gptlib.generation", "Sampling")
    parser.set_defaults(command=name, sampling=sampling)
    names = ["the beginning"] * bool(usage) + ["the model", "length"]
    groups = {group: parser.add_argument_group(group) for group in names}
    add_model_options(groups["the model"], "a model, or of chapter 5's runs")
    groups["the model"].add_argument(
        "--compile",
        action="store_true",
        help="compile the writing of a token first, which takes up to half a minute and a C++ "
        "compiler; for long texts of a large model on a CPU",
    )
    _add_length_options(groups["length"])
    choice = parser.add_argument_group(
        "choosing the next token",
        "Applied in this order: penalties, temperature, top-k, top-p, min-p.",
    )
    sampling.add_to(choice)
    choice.add_argument(
        "--seed",
        type=whole(0, 2**63 - 1),
        metavar="N",
        help="0 or more; the same seed and options give the same text (default: another each time)",
    )
    return parser, groups


def _add_prompt_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prompt",
        metavar="TEXT",
        help="how the text begins; - reads it from standard input, which is also the default "
        "where something is piped in (one line break at its end is left out)",
    )
    group.add_argument("--hide-prompt", action="store_true", help="show only what the model writes")


def _add_beam_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--beams",
        type=whole(1),
        metavar="N",
        help="search for the most probable text, keeping the N best beginnings at each step, "
        "1 or more; it is shown when it is complete (default: off)",
    )
    group.add_argument(
        "--length-penalty",
        type=number,
        metavar="X",
        help="with --beams: above 1 favours longer texts, below 1 shorter ones (default: 1.0)",
    )


def _add_memory_option(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--remember",
        type=whole(0),
        metavar="N",
        help="let it see its last N questions and answers again, 0 or more (default: 0, as it was "
        "tuned); it takes the likeliest token each time unless you choose otherwise above",
    )


def _add_length_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-new-tokens",
        type=whole(0),
        metavar="N",
        default=100,
        help="write at most N tokens, 0 or more (default: 100)",
    )
    group.add_argument(
        "--min-new-tokens",
        type=whole(0),
        metavar="N",
        default=0,
        help="do not let the model end its text before N tokens, 0 or more (default: 0)",
    )
    group.add_argument(
        "--stop",
        type=_unescape,
        metavar="TEXT",
        action="append",
        default=[],
        help=r"stop before this text; \n stands for a line break; may be given several times",
    )


def _unescape(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the text is empty; write the text to stop before")
    return text.replace("\\n", "\n").replace("\\t", "\t")


# What generate and chat do


class _Writer:
    """A model, its tokenizer and the wishes of the command line."""

    def __init__(self, arguments: argparse.Namespace, sampling: dict[str, Any]) -> None:
        import torch

        from gptlib.extras.models import default_model, load_model
        from gptlib.generation import Sampling

        self.arguments, self.sampling = arguments, Sampling(**sampling)
        device = find_device(arguments.device)
        wanted = arguments.model or default_model()
        self.name, self.wanted = Path(wanted).name, wanted
        model, self.tokenizer = load_model(wanted)
        self.model, self.step = _fast(model.to(device), arguments.compile)
        self.context_length = self.model.config.context_length
        self.generator = torch.Generator()  # on the CPU: the same text on every device
        if arguments.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(arguments.seed)

    def write(self, prompt: str) -> Generator[str, None, None]:
        """Go on from a prompt; bad values are refused at the call."""
        from gptlib.generation import generate_text

        return generate_text(
            self.model,
            self.tokenizer,
            prompt,
            self.arguments.max_new_tokens,
            self.sampling,
            stop=self.arguments.stop,
            min_new_tokens=self.arguments.min_new_tokens,
            generator=self.generator,
            step=self.step,
        )

    def reply(self, prompt: Sequence[int]) -> Generator[str, None, None]:
        """Answer a prompt of tokens, which may hold the ends of earlier answers."""
        from gptlib.generation import TextStream, generate, stream_text
        from gptlib.tokenizer import end_of_text

        ends = end_of_text(self.tokenizer)
        tokens = generate(
            self.model,
            prompt,
            self.arguments.max_new_tokens,
            self.sampling,
            min_new_tokens=self.arguments.min_new_tokens,
            end_tokens=ends,
            generator=self.generator,
            step=self.step,
        )
        return stream_text(tokens, TextStream(self.tokenizer, self.arguments.stop), ends)

    def search(self, prompt: str) -> Iterator[str]:
        """Find the text that beam search thinks best, in one piece."""
        from gptlib.generation import beam_search
        from gptlib.tokenizer import END_OF_TEXT, end_of_text

        penalty = self.arguments.length_penalty
        beams = beam_search(
            self.model,
            self.tokenizer.encode_ordinary(prompt),
            self.arguments.beams,
            self.arguments.max_new_tokens,
            length_penalty=1.0 if penalty is None else penalty,
            end_token=next(iter(end_of_text(self.tokenizer)), None),
        )
        text = self.tokenizer.decode(beams[0].tokens).removesuffix(END_OF_TEXT)
        end = min([len(text), *(text.find(stop) for stop in self.arguments.stop if stop in text)])
        return iter([text[:end]])

    def last_part(self, text: str) -> str:
        """Cut a text from the front until the model's context holds it."""
        tokens = self.tokenizer.encode_ordinary(text)
        while len(tokens) > self.context_length:
            text = self.tokenizer.decode(tokens[-self.context_length :]).lstrip("\ufffd")
            tokens = self.tokenizer.encode_ordinary(text)  # cut elsewhere, it may have more tokens
        return text


def _fast(model: GPT, compile: bool) -> tuple[GPT, Step | None]:
    """Make a model fast; a machine that can't compile is told of in one line."""
    from gptlib.extras.fast import fast

    if compile:
        note("compiling ...")
    try:
        return fast(model, compile)
    except RuntimeError as error:
        raise ValueError(f"leave out --compile: {error}") from error


def _generate(arguments: argparse.Namespace) -> int:
    options = _check(arguments)
    prompt = _read_prompt(arguments)
    writer = _Writer(arguments, options)
    used = writer.last_part(prompt)
    if used != prompt:
        note(
            f"the prompt is longer than the model's context of {writer.context_length} "
            f"tokens; it goes on from the last {len(used)} characters"
        )
    pieces = writer.search(used) if arguments.beams else writer.write(used)
    if not arguments.hide_prompt:
        print(prompt, end="", flush=True)
    _, is_whole = _show(pieces)
    return 0 if is_whole else 130


def _check(arguments: argparse.Namespace) -> dict[str, Any]:
    """Find what can be refused before PyTorch is there; return the options of Sampling."""
    options: Options = arguments.sampling
    given = options.given(arguments)
    if arguments.min_new_tokens > arguments.max_new_tokens:
        raise ValueError(
            f"min_new_tokens is {arguments.min_new_tokens}, above max_new_tokens "
            f"{arguments.max_new_tokens}; lower one or raise the other"
        )
    if arguments.command == "generate" and arguments.beams is not None:
        if arguments.compile:
            raise ValueError("--compile is for texts that are written token by token; leave it out")
        more = {"seed": arguments.seed, "min_new_tokens": arguments.min_new_tokens or None}
        clash = [name for name, value in (given | more).items() if value is not None]
        if clash:
            raise ValueError(
                f"--beams searches and takes no --{clash[0].replace('_', '-')}; leave it out"
            )
    elif arguments.command == "generate" and arguments.length_penalty is not None:
        raise ValueError("--length-penalty belongs to beam search; add --beams 4, or leave it out")
    return given


def _read_prompt(arguments: argparse.Namespace) -> str:
    prompt: str | None = arguments.prompt
    if prompt is None and sys.stdin.isatty():
        raise ValueError('the text has no beginning; add --prompt "It was", or pipe a text in')
    if prompt in (None, "-"):
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="strict")
        try:
            prompt = sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"standard input is no UTF-8 text (byte {error.start}); convert it first"
            ) from None
    if not prompt:
        raise ValueError('the prompt is empty; write how the text begins, such as "It was"')
    return prompt


def _show(pieces: Iterator[str]) -> tuple[str, bool]:
    """Show a text while it is written.

    Returns:
        The text, and whether it is whole: False if Ctrl-C stopped it.
    """
    text, is_whole = "", True
    try:
        for piece in pieces:
            text += piece
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        is_whole = False
    print(flush=True)
    return text, is_whole


class _Text:
    """A conversation with a model that goes on from a text."""

    def __init__(self, writer: _Writer) -> None:
        self.writer, self.text = writer, ""
        writer.write("\n").close()  # what is refused is refused now, not after the first line
        self.greeting = (
            f"{writer.name} is a language model: it goes on from all that you and it wrote, "
            f"as far as its {writer.context_length} tokens reach.\nEnter alone: go on."
        )

    def clear(self) -> None:
        self.text = ""

    def take(self, line: str) -> None:
        self.text += "\n\n" * bool(self.text and line) + line
        if self.text:
            self.text += _show(self.writer.write(self.writer.last_part(self.text)))[0]


class _Questions:
    """A conversation with a model that was tuned to answer questions in a form."""

    def __init__(self, writer: _Writer, form: PromptForm) -> None:
        self.writer, self.form = writer, form
        self.turns: list[dict[str, str]] = []
        writer.reply(writer.tokenizer.encode_ordinary("\n")).close()
        n_seen = writer.arguments.remember or 0
        self.greeting = (
            f"{writer.name} was tuned to answer in the form {form.name!r}; it sees each question "
            + (f"with the last {n_seen} before it" if n_seen else "alone")
            + ".\nAn instruction, or: an instruction | what it is about."
        )

    def clear(self) -> None:
        self.turns.clear()

    def take(self, line: str) -> None:
        from gptlib.extras.chat import fit_prompt, remember

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
            note = f"(the last {len(cut)} characters of the question had no place and were cut)"
            print(note, file=sys.stderr)
        earlier = self.turns[-arguments.remember :] if arguments.remember else []
        prompt, _ = remember(prompt, earlier, self.writer.tokenizer, self.form, room)
        text, _ = _show(self.writer.reply(prompt))
        self.turns.append({"instruction": instruction, "input": about, "output": text.strip()})


def _open(arguments: argparse.Namespace) -> _Text | _Questions:
    """Begin a conversation of the kind that the model is made for."""
    given = _check(arguments)
    writer = _Writer(arguments, given)
    from gptlib.extras.chat import load_form
    from gptlib.generation import Sampling
    from gptlib.weights import RELEASES

    form = None if str(writer.wanted) in RELEASES else load_form(writer.wanted)
    if form is None:
        if arguments.remember is not None:
            raise ValueError(
                f"--remember is for a tuned model, and {writer.name} names no form of its prompts; "
                "leave it out"
            )
        return _Text(writer)
    if not given:
        writer.sampling = Sampling(temperature=0)
    return _Questions(writer, form)


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
            line = input("> " if at_terminal else "")
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
