"""The command `tokenizer`: train one, turn text into tokens, turn tokens into text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gptlib.extras.commands.base import (
    CommandParser,
    add_tokenizer_options,
    command_parser,
    commas,
    load_tokenizer,
    new_folder,
    note,
    progress,
    read_standard_input,
)
from gptlib.extras.options import whole
from gptlib.extras.texts import Text, find_texts

if TYPE_CHECKING:  # PyTorch waits
    from gptlib.tokenizer import BPETokenizer

__all__ = ["add_text_options", "say_empty", "tokenizer_parser", "train_tokenizer"]

_TRAIN = """\
Train a byte-pair tokenizer on texts. It is written in GPT-2's two files, vocab.json and merges.txt.
Any UTF-8 text file will do, and folders of them."""

_ENCODE = """\
Turn a text into token ids, one line of numbers. Every byte counts, the last line break too, and
`tokenizer decode` gives the same bytes back."""

_DECODE = """\
Turn token ids into the text that they stand for. The ids are numbers with white space or commas
between them."""

_EXAMPLES = """\
examples:
  python -m gptlib tokenizer train book.txt notes/ --vocab-size 2000 --save my-tokenizer
  python -m gptlib tokenizer encode --tokenizer my-tokenizer book.txt > ids.txt
  echo "Hello" | python -m gptlib tokenizer encode | python -m gptlib tokenizer decode

exit status: 0 if it is done, 2 if a value can't be used, 130 if Ctrl-C stopped it.
"""


def tokenizer_parser() -> CommandParser:
    """Make the parser of `tokenizer` and its three commands."""
    purpose = "Train a tokenizer; turn text into tokens and back."
    parser = command_parser("tokenizer", None, purpose, _EXAMPLES)
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=CommandParser)
    train = command_parser("tokenizer train", _train, _TRAIN, among=commands)
    add_text_options(train)
    train.add_argument(
        "--vocab-size",
        type=whole(257),
        metavar="N",
        default=4096,
        help="number of tokens, 257 or more (default: 4096)",
    )
    train.add_argument(
        "--save",
        type=new_folder,
        metavar="DIR",
        required=True,
        help="folder to write vocab.json and merges.txt to",
    )
    train.add_argument("--overwrite", action="store_true", help="replace a tokenizer that is there")
    for name, work, text in (("encode", _encode, _ENCODE), ("decode", _decode, _DECODE)):
        command = command_parser(f"tokenizer {name}", work, text, among=commands)
        what = "text file" if name == "encode" else "file of token ids"
        command.add_argument(
            "file", nargs="?", default="-", metavar="FILE", help=f"{what} (default: standard input)"
        )
        add_tokenizer_options(command.add_argument_group("the tokenizer"))
        if name == "encode":
            command.add_argument(
                "--special",
                action="store_true",
                help="read <|endoftext|> in the text as the token of this name, not as a text",
            )
    return parser


def add_text_options(parser: CommandParser, pattern: str = "--pattern") -> None:
    """Add the texts, and which files of a folder they are.

    Args:
        parser: Where to add them.
        pattern: The option's name.
    """
    parser.add_argument(
        "texts",
        nargs="+",
        metavar="TEXT",
        help="a text file, a folder of text files, or war-and-peace, the course's novel",
    )
    parser.add_argument(
        pattern,
        metavar="GLOB",
        default="*.txt",
        help="which files of a folder, and of folders in it, are texts (default: *.txt)",
    )


def say_empty(texts: Iterable[Text]) -> None:
    """Say which files were left out because nothing is in them."""
    empty = [str(file) for text in texts for file in text.empty]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        are = "files are" if len(empty) > 1 else "file is"
        note(f"{len(empty)} empty {are} left out: {', '.join(empty[:3])}{more}")


def train_tokenizer(texts: Iterable[Text], vocab_size: int) -> BPETokenizer:
    """Train a tokenizer on texts, with a bar while they are read.

    Args:
        texts: The texts.
        vocab_size: Number of tokens.

    Returns:
        The tokenizer.

    Raises:
        ValueError: If a file is no text, or the texts are too short for so many tokens.
    """
    from gptlib.tokenizer import BPETokenizer

    texts = list(texts)
    with progress(sum(text.n_bytes for text in texts), "tokenizer", "B") as advance:

        def documents() -> Iterator[str]:
            for text in texts:
                yield from text.documents(advance)

        return BPETokenizer.train(documents(), vocab_size)


def _train(arguments: argparse.Namespace) -> int:
    texts = find_texts(arguments.texts, arguments.pattern)
    folder: Path = arguments.save
    if (folder / "merges.txt").exists() and not arguments.overwrite:
        raise ValueError(f"{folder} holds a tokenizer; name another folder, or add --overwrite")
    say_empty(texts)
    tokenizer = train_tokenizer(texts, arguments.vocab_size)
    tokenizer.save(folder)
    print(f"saved {commas(tokenizer.vocab_size)} tokens to {folder}")
    return 0


def _read(file: str) -> str:
    """Read a file or standard input as UTF-8, to the byte."""
    if file == "-":
        return read_standard_input()
    try:
        return Path(file).expanduser().read_bytes().decode()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no file {file!r}; name one, or leave it out to read standard input"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is no UTF-8 text: byte {error.start} is "
            f"0x{error.object[error.start]:02x}; save it as UTF-8"
        ) from None


def _encode(arguments: argparse.Namespace) -> int:
    from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, end_of_text

    tokenizer = load_tokenizer(arguments.tokenizer)
    text = _read(arguments.file)
    special = {END_OF_TEXT} if arguments.special else set()
    if special and not end_of_text(tokenizer):
        raise ValueError(f"--special: {arguments.tokenizer} has no token {END_OF_TEXT}; leave it")
    if isinstance(tokenizer, BPETokenizer):
        tokens = tokenizer.encode(text, special)
    else:
        tokens = tokenizer.encode(text, allowed_special=special, disallowed_special=())
    print(*tokens)
    return 0


def _decode(arguments: argparse.Namespace) -> int:
    from gptlib.tokenizer import BPETokenizer

    tokenizer = load_tokenizer(arguments.tokenizer)
    words = _read(arguments.file).replace(",", " ").split()
    n_tokens = tokenizer.vocab_size if isinstance(tokenizer, BPETokenizer) else tokenizer.n_vocab
    for word in words:
        if not (word.isdecimal() and word.isascii() and int(word) < n_tokens):
            raise ValueError(
                f"{word!r} is no token id; {arguments.tokenizer} has the ids 0 to {n_tokens - 1}"
            )
    sys.stdout.flush()
    tokens = [int(word) for word in words]
    sys.stdout.buffer.write(tokenizer.decode_bytes(tokens))
    sys.stdout.buffer.flush()
    return 0
