"""The command `data`: texts of any size into a file of tokens that training maps into memory."""

import argparse
from pathlib import Path

from gptlib.extras.commands.base import add_json, add_texts, new_folder
from gptlib.extras.formats.tokenizer_files import KINDS
from gptlib.extras.interrupt import ways_on
from gptlib.extras.options import CommandParser, whole
from gptlib.extras.terminal import print_json
from gptlib.extras.texts import TOKENIZERS, TOKENS_FILE, find_texts, prepare
from gptlib.extras.tokens import open_tokens

_PREPARE = """\
Turn texts into tokens once, in a file that training maps into memory, however large it is.
Documents are files, or what stands between lines of <|endoftext|> in them; the end-of-text token
follows each. A preparation that was broken off goes on with the same command. What is written is
read once more and checked."""

_EXAMPLES = """\
examples:
  python -m gptlib data prepare books/ --save prepared
  python -m gptlib data prepare stories.txt --tokenizer train --vocab-size 8000 --save prepared
  python -m gptlib train prepared --config gpt2-124M
"""


def parser(prog: str) -> CommandParser:
    """Make the parser of `data` and its one command."""
    parser = CommandParser(
        prog, None, _EXAMPLES, description="Turn texts of any size into a file of tokens."
    )
    command = parser.add_command("prepare", _prepare, _PREPARE, _EXAMPLES)
    add_texts(command)
    command.add_argument(
        "--tokenizer",
        metavar="NAME",
        default="gpt2",
        help=f"train, to train one on the texts, or {', '.join(KINDS)} for one of another kind; "
        f"{TOKENIZERS} (default: gpt2)",
    )
    command.add_argument(
        "--vocab-size",
        type=whole(2),
        metavar="N",
        help="of a tokenizer that is trained: number of tokens, with train 257 or more (default: "
        "4096)",
    )
    command.add_argument(
        "--save", type=new_folder, metavar="DIR", required=True, help="folder to write to"
    )
    add_json(command)
    return parser


def _prepare(arguments: argparse.Namespace) -> int:
    name, size, folder = arguments.tokenizer, arguments.vocab_size, Path(arguments.save)
    if size and name not in ("train", *KINDS):
        raise ValueError("--vocab-size belongs to a new tokenizer; add --tokenizer train")
    texts = find_texts(
        arguments.texts, arguments.pattern, arguments.encoding, arguments.read_special
    )
    ways_on.append(lambda: "the same command goes on where it was")
    prepare(folder, name, texts, size or 4096)
    n_tokens = len(open_tokens(folder / TOKENS_FILE))
    if arguments.json:
        print_json({"folder": str(folder), "tokens": n_tokens})
    else:
        print(f"{n_tokens:,} tokens in {folder}, whole and checked")
    return 0
