"""The command `data`: texts of any size into a file of tokens that training maps into memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gptlib.extras.commands.base import (
    TOKENIZERS,
    CommandParser,
    command_parser,
    commas,
    load_tokenizer,
    new_folder,
    progress,
)
from gptlib.extras.commands.tokenizing import add_text_options, say_empty, train_tokenizer
from gptlib.extras.options import whole
from gptlib.extras.texts import Text, find_texts

if TYPE_CHECKING:  # PyTorch waits
    from gptlib.tokenizer import Tokenizer

__all__ = ["TOKENS_FILE", "data_parser", "is_prepared", "keep_tokenizer", "prepare"]

TOKENS_FILE = "tokens.bin"
"""The file of tokens in a prepared folder; its description and `tokenizer/` stand beside it."""

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

exit status: 0 if it is done, 2 if a value can't be used, 130 if Ctrl-C stopped it.
"""


def data_parser() -> CommandParser:
    """Make the parser of `data` and its one command."""
    purpose = "Turn texts of any size into a file of tokens."
    parser = command_parser("data", None, purpose, _EXAMPLES)
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=CommandParser)
    command = command_parser("data prepare", _prepare, _PREPARE, _EXAMPLES, among=commands)
    add_text_options(command)
    command.add_argument(
        "--tokenizer",
        metavar="NAME",
        default="gpt2",
        help=f"train, to train one on the texts; {TOKENIZERS} (default: gpt2)",
    )
    command.add_argument(
        "--vocab-size",
        type=whole(257),
        metavar="N",
        help="with --tokenizer train: number of tokens, 257 or more (default: 4096)",
    )
    command.add_argument(
        "--save", type=new_folder, metavar="DIR", required=True, help="folder to write to"
    )
    return parser


def is_prepared(name: str) -> bool:
    """Whether a folder was written by `data prepare`."""
    return (Path(name).expanduser() / TOKENS_FILE).is_file()


def keep_tokenizer(folder: Path, name: str, make: Callable[[], Tokenizer]) -> Tokenizer:
    """Make the tokenizer of a folder, or load the one that an earlier call left there.

    Args:
        folder: A prepared folder or a run's; the tokenizer goes to `tokenizer/` in it.
        name: What somebody called the tokenizer; noted in the folder, and compared.
        make: Makes the tokenizer.

    Returns:
        The tokenizer.

    Raises:
        ValueError: If the folder's tokenizer was asked for by another name.
    """
    from gptlib.extras.models import MADE_BY, kept_tokenizer
    from gptlib.tokenizer import BPETokenizer

    place, file = folder / "tokenizer", folder / "tokenizer" / MADE_BY
    if file.is_file():
        before = file.read_text(encoding="utf-8").strip()
        if before != name:
            raise ValueError(
                f"{folder} was begun with the tokenizer {before!r}, not {name!r}; name another "
                "folder, or delete it"
            )
        return kept_tokenizer(place)
    tokenizer = make()
    place.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, BPETokenizer):
        tokenizer.save(place)
    file.write_text(name + "\n", encoding="utf-8")  # the last: with it the folder is whole
    return tokenizer


def prepare(texts: Sequence[Text], tokenizer: Tokenizer, folder: Path) -> int:
    """Write the tokens of texts, with a bar; what was broken off goes on.

    Args:
        texts: The texts, the same ones each time.
        tokenizer: The tokenizer.
        folder: Where `TOKENS_FILE` goes.

    Returns:
        The number of tokens.

    Raises:
        ValueError: If it was begun with other texts or another tokenizer, or a text is none.
    """
    from gptlib.extras.tokens import open_tokens, prepare_tokens

    path = folder / TOKENS_FILE
    with progress(sum(text.n_bytes for text in texts), "tokens", "B") as advance:

        def documents() -> Iterator[str]:
            for text in texts:
                yield from text.documents(advance)

        for _ in prepare_tokens(documents(), tokenizer, path):
            pass  # each document moves the bar
    return len(open_tokens(path, verify=True))


def _prepare(arguments: argparse.Namespace) -> int:
    try:
        return _prepare_all(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command goes on where it was\n")
        return 130


def _prepare_all(arguments: argparse.Namespace) -> int:
    texts = find_texts(arguments.texts, arguments.pattern)
    own, size = arguments.tokenizer == "train", arguments.vocab_size or 4096
    if arguments.vocab_size and not own:
        raise ValueError("--vocab-size belongs to a new tokenizer; add --tokenizer train")
    folder: Path = arguments.save
    say_empty(texts)
    tokenizer = keep_tokenizer(
        folder,
        f"train {size}" if own else arguments.tokenizer,
        lambda: train_tokenizer(texts, size) if own else load_tokenizer(arguments.tokenizer),
    )
    n_tokens = prepare(texts, tokenizer, folder)
    print(f"{commas(n_tokens)} tokens in {folder}, whole and checked")
    return 0
