"""What `generate` and `chat` share: the options of a text that is written, and its writing."""

import argparse
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import torch

from gptlib.extras.commands.base import add_model
from gptlib.extras.device import best_device
from gptlib.extras.fast import fast
from gptlib.extras.interrupt import raising
from gptlib.extras.models import default_model, load_model
from gptlib.extras.options import CommandParser, whole
from gptlib.extras.terminal import note
from gptlib.generation import Sampling, generate, stream_text
from gptlib.tokenizer import end_of_text


def writing_parser(
    prog: str,
    work: Callable[[argparse.Namespace], int],
    description: str,
    examples: str,
    usage: str = "",
) -> CommandParser:
    """Make the parser of a command that writes text, with the options of all such commands."""
    parser = CommandParser(
        prog, work, examples, description=description, usage=f"%(prog)s {usage}[option ...]"
    )
    model = parser.add_argument_group("the model")
    add_model(model, "a model, or of chapter 5's runs")
    model.add_argument(
        "--compile",
        action="store_true",
        help="compile the writing of a token first, which takes up to half a minute, on a CPU a "
        "C++ compiler and on a GPU Triton; for long texts of a large model",
    )
    length = parser.add_argument_group("length")
    length.add_argument(
        "--max-new-tokens",
        type=whole(0),
        metavar="N",
        default=100,
        help="write at most N tokens, 0 or more (default: 100)",
    )
    length.add_argument(
        "--min-new-tokens",
        type=whole(0),
        metavar="N",
        default=0,
        help="do not let the model end its text before N tokens, 0 or more (default: 0)",
    )
    length.add_argument(
        "--stop",
        type=unescape,
        metavar="TEXT",
        action="append",
        default=[],
        help=r"stop before this text; \n stands for a line break; may be given several times",
    )
    choosing = parser.add_fields(
        Sampling, "choosing the next token", description="Applied in this order."
    )
    choosing.add_argument(
        "--seed",
        type=whole(0, 2**63 - 1),
        metavar="N",
        help="0 or more; the same seed and options give the same text (default: another each time)",
    )
    return parser


def unescape(text: str) -> str:
    r"""Read the value of `--stop`, where \n and \t stand for a line break and a tab."""
    if not text:
        raise argparse.ArgumentTypeError("the text is empty; write the text to stop before")
    return text.replace("\\n", "\n").replace("\\t", "\t")


class Writer:
    """A model, its tokenizer and the wishes of the command line."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.sampling = Sampling(**arguments.given[Sampling])
        if arguments.min_new_tokens > arguments.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {arguments.min_new_tokens}, above max_new_tokens "
                f"{arguments.max_new_tokens}; lower one or raise the other"
            )
        self.wanted = arguments.model or default_model()
        self.name = Path(self.wanted).name
        model, self.tokenizer = load_model(self.wanted)
        self.context_length = model.config.context_length
        if arguments.compile:
            note("compiling ...")
        try:
            self.model, self.step = fast(model.to(best_device(arguments.device)), arguments.compile)
        except RuntimeError as error:
            raise ValueError(f"leave out --compile: {error}") from error
        self.generator = torch.Generator()  # on the CPU: the same text on every device
        if arguments.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(arguments.seed)

    def write(self, prompt: Sequence[int]) -> Generator[str, None, None]:
        """Go on from tokens, which may hold the ends of earlier texts; show what comes."""
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
        return stream_text(tokens, self.tokenizer, self.arguments.stop, ends)

    def last_part(self, text: str) -> str:
        """Cut a text from the front until the model's context holds it."""
        tokens = self.tokenizer.encode_ordinary(text)
        while len(tokens) > self.context_length:
            text = self.tokenizer.decode(tokens[-self.context_length :]).lstrip("\ufffd")
            tokens = self.tokenizer.encode_ordinary(text)  # cut elsewhere, it may have more tokens
        return text


def show(pieces: Iterator[str]) -> tuple[str, bool]:
    """Show a text while it is written.

    Returns:
        The text, and whether it is whole: False if Ctrl-C stopped it.
    """
    text, is_whole = "", True
    try:
        with raising():
            for piece in pieces:
                text += piece
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        is_whole = False
    print(flush=True)
    return text, is_whole
