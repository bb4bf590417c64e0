"""The command `tokenizer`: train one, turn text into tokens, turn tokens into text."""

import argparse
import sys
from pathlib import Path

from gptlib.extras.commands.base import add_json, add_special, add_texts, new_folder
from gptlib.extras.formats.tokenizer_files import FILES, KINDS
from gptlib.extras.options import CommandParser, whole
from gptlib.extras.terminal import print_json, read_text
from gptlib.extras.texts import TOKENIZERS, find_texts, named_tokenizer, train_tokenizer
from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, end_of_text, vocabulary_size

_TRAIN = """\
Train a tokenizer on texts. Byte pairs are written in GPT-2's two files, vocab.json and merges.txt,
the other kinds in the tokenizers library's tokenizer.json. Any UTF-8 text file will do, and folders
of them."""

_ENCODE = """\
Turn a text into token ids, one line of numbers. Every byte counts, the last line break too, and
`tokenizer decode` gives the same bytes back."""

_DECODE = """\
Turn token ids into the text that they stand for. The ids are numbers with white space or commas
between them."""

_EXAMPLES = """\
examples:
  python -m gptlib tokenizer train book.txt notes/ --vocab-size 2000 --save my-tokenizer
  python -m gptlib tokenizer train chats/ --special "<|user|>" --special "<|pad|>" --save mine
  python -m gptlib tokenizer encode --tokenizer my-tokenizer book.txt > ids.txt
  echo "Hello" | python -m gptlib tokenizer encode | python -m gptlib tokenizer decode
"""


def parser(prog: str) -> CommandParser:
    """Make the parser of `tokenizer` and its three commands."""
    purpose = "Train a tokenizer; turn text into tokens and back."
    parser = CommandParser(prog, None, _EXAMPLES, description=purpose)
    train = parser.add_command("train", _train, _TRAIN, _EXAMPLES)
    add_texts(train)
    train.add_argument(
        "--vocab-size",
        type=whole(2),
        metavar="N",
        default=4096,
        help="number of tokens; of byte pairs 257 or more (default: 4096)",
    )
    train.add_argument(
        "--kind",
        choices=("bpe", *KINDS),
        default="bpe",
        help="byte pairs as GPT-2's, BERT's WordPiece, SentencePiece's Unigram, whole words, or "
        "single characters (default: bpe)",
    )
    train.add_argument(
        "--save", type=new_folder, metavar="DIR", required=True, help="folder to write it to"
    )
    add_special(train, "besides <|endoftext|>")
    train.add_argument("--overwrite", action="store_true", help="replace a tokenizer that is there")
    encode = parser.add_command("encode", _encode, _ENCODE, _EXAMPLES)
    decode = parser.add_command("decode", _decode, _DECODE, _EXAMPLES)
    for command, what in ((encode, "text file"), (decode, "file of token ids")):
        command.add_argument(
            "file", nargs="?", default="-", metavar="FILE", help=f"{what} (default: standard input)"
        )
        command.add_argument(
            "--tokenizer", metavar="NAME", default="gpt2", help=f"{TOKENIZERS} (default: gpt2)"
        )
    encode.add_argument(
        "--special",
        "--read-special",
        action="store_true",
        help="read <|endoftext|> in the text as the token of this name, not as a text",
    )
    for command in (train, encode):
        add_json(command)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.save)
    texts = find_texts(
        arguments.texts, arguments.pattern, arguments.encoding, arguments.read_special
    )
    there = [folder / name for name in FILES if (folder / name).is_file()]
    if there and not arguments.overwrite:
        raise ValueError(f"{folder} holds a tokenizer; name another folder, or add --overwrite")
    special = (END_OF_TEXT, *arguments.special)
    tokenizer = train_tokenizer(texts, arguments.kind, arguments.vocab_size, special)
    tokenizer.save(folder)
    new = ("vocab.json", "merges.txt") if arguments.kind == "bpe" else ("tokenizer.json",)
    for path in there:
        if path.name not in new:  # another kind's, and some would be read before these
            path.unlink()
    if arguments.json:
        print_json({"folder": str(folder), "tokens": tokenizer.vocab_size})
    else:
        print(f"saved {tokenizer.vocab_size:,} tokens to {folder}")
    return 0


def _encode(arguments: argparse.Namespace) -> int:
    tokenizer, text = named_tokenizer(arguments.tokenizer), read_text(arguments.file)
    special = {END_OF_TEXT} if arguments.special else set()
    if special and not end_of_text(tokenizer):
        raise ValueError(f"--special: {arguments.tokenizer} has no token {END_OF_TEXT}; leave it")
    if isinstance(tokenizer, BPETokenizer):
        tokens = tokenizer.encode(text, special)
    else:
        tokens = tokenizer.encode(text, allowed_special=special, disallowed_special=())
    print_json(tokens) if arguments.json else print(*tokens)
    return 0


def _decode(arguments: argparse.Namespace) -> int:
    tokenizer = named_tokenizer(arguments.tokenizer)
    words, n_tokens = (
        read_text(arguments.file).replace(",", " ").split(),
        vocabulary_size(tokenizer),
    )
    for word in words:
        if not (word.isdecimal() and word.isascii() and int(word) < n_tokens):
            raise ValueError(
                f"{word!r} is no token id; {arguments.tokenizer} has the ids 0 to {n_tokens - 1}"
            )
    sys.stdout.flush()
    sys.stdout.buffer.write(tokenizer.decode_bytes([int(word) for word in words]))
    sys.stdout.buffer.flush()
    return 0
