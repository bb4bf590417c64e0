"""The command `generate`: a text that goes on from a beginning, shown while it is written."""

import argparse
import sys
from collections.abc import Iterator

from gptlib.extras.commands.base import add_json
from gptlib.extras.commands.writing import Writer, show, writing_parser
from gptlib.extras.options import CommandParser, number, whole
from gptlib.extras.terminal import note, print_json, read_text
from gptlib.generation import Sampling, beam_search
from gptlib.tokenizer import END_OF_TEXT, end_of_text

_GENERATE = """\
Go on from the beginning of a text. The text is shown while it is written."""

_EXAMPLES = """\
examples:
  python -m gptlib generate --prompt "Well, Prince," --temperature 0.8 --seed 1
  echo "Natasha" | python -m gptlib generate --top-p 0.9 --stop "\\n\\n"
  python -m gptlib generate --model runs --prompt "Pierre" --beams 4
  python -m gptlib generate --max-new-tokens 60
"""


def parser(prog: str) -> CommandParser:
    """Make the parser of `generate`."""
    parser = writing_parser(prog, _generate, _GENERATE, _EXAMPLES, "[--prompt TEXT] ")
    beginning = parser.add_argument_group("the beginning")
    beginning.add_argument(
        "--prompt",
        metavar="TEXT",
        help="how the text begins; - reads it from standard input, which is also the default "
        "where something is piped in (one line break at its end is left out); without one, the "
        "model begins a text of its own",
    )
    beginning.add_argument(
        "--hide-prompt", action="store_true", help="show only what the model writes"
    )
    add_json(beginning, "print the prompt and the text as JSON, when it is complete")
    search = parser.add_argument_group("beam search, instead of choosing token by token")
    search.add_argument(
        "--beams",
        type=whole(1, 1000),
        metavar="N",
        help="search for the most probable text, keeping the N best beginnings at each step, "
        "1 to 1000; it is shown when it is complete (default: off)",
    )
    search.add_argument(
        "--length-penalty",
        type=number,
        metavar="X",
        help="with --beams: above 1 favours longer texts, below 1 shorter ones (default: 1.0)",
    )
    return parser


def _generate(arguments: argparse.Namespace) -> int:
    _check_search(arguments)
    prompt = _read_prompt(arguments)
    writer = Writer(arguments)
    used = writer.last_part(prompt)
    if used != prompt:
        note(
            f"the prompt is longer than the model's context of {writer.context_length} "
            f"tokens; it goes on from the last {len(used)} characters"
        )
    # A text from nothing begins where another one ended.
    tokens = writer.tokenizer.encode_ordinary(used) or sorted(end_of_text(writer.tokenizer))[:1]
    if not tokens:
        raise ValueError(
            f"{writer.name} has no token to begin a text with; write how it begins with --prompt"
        )
    pieces = _search(writer, tokens) if arguments.beams else writer.write(tokens)
    if arguments.json:
        print_json({"prompt": prompt, "text": "".join(pieces)})
        return 0
    if not arguments.hide_prompt:
        print(prompt, end="", flush=True)
    _, is_whole = show(pieces)
    return 0 if is_whole else 130


def _check_search(arguments: argparse.Namespace) -> None:
    """Refuse options that don't go with beam search, or only with it."""
    if arguments.beams is None:
        if arguments.length_penalty is not None:
            raise ValueError(
                "--length-penalty belongs to beam search; add --beams 4, or leave it out"
            )
        return
    penalty = arguments.length_penalty
    if penalty is not None and not -10 <= penalty <= 10:
        raise ValueError(f"length_penalty is {penalty}; it must be from -10 to 10")
    if arguments.compile:
        raise ValueError("--compile is for texts that are written token by token; leave it out")
    clash = [*arguments.given[Sampling]]
    clash += [name for name in ("seed", "min_new_tokens") if getattr(arguments, name)]
    if clash:
        raise ValueError(
            f"--beams searches and takes no --{clash[0].replace('_', '-')}; leave it out"
        )


def _read_prompt(arguments: argparse.Namespace) -> str:
    prompt: str | None = arguments.prompt
    if prompt == "-" or (prompt is None and sys.stdin and not sys.stdin.isatty()):
        prompt = read_text("-").replace("\r\n", "\n").removesuffix("\n")
    return prompt or ""


def _search(writer: Writer, prompt: list[int]) -> Iterator[str]:
    """Find the text that beam search thinks best, in one piece."""
    wishes = writer.arguments
    penalty = wishes.length_penalty
    beams = beam_search(
        writer.model,
        prompt,
        wishes.beams,
        wishes.max_new_tokens,
        length_penalty=1.0 if penalty is None else penalty,
        end_token=next(iter(end_of_text(writer.tokenizer)), None),
    )
    text = writer.tokenizer.decode(beams[0].tokens).removesuffix(END_OF_TEXT)
    return iter(
        [text[: min([len(text), *(text.find(stop) for stop in wishes.stop if stop in text)])]]
    )
