"""Training data: any text file, or a folder of them, as documents, and those as tokens.

A file is a document. Where a line holds nothing but <|endoftext|>, as in many published data sets,
the file is several documents. Line ends become single newline characters, and a byte order mark at
the beginning of a file is left out.
"""

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from gptlib.extras.datasets import DATA_SETS, course_text, data_folder, state
from gptlib.extras.formats.text_files import ODD_START, decode, join_surrogates, way_to_read
from gptlib.extras.formats.tokenizer_files import KINDS, train_library_tokenizer
from gptlib.extras.models import MADE_BY, SHIPPED, find_shipped, load_run_tokenizer
from gptlib.extras.terminal import note
from gptlib.extras.tokens import cut_long_words, open_tokens, prepare_tokens, quick
from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer, gpt2_encoding, whole_file

COURSE_TEXTS = [name for name, record in DATA_SETS.items() if record.clean]
"""Names that stand for a text of the course instead of a file; it is fetched if need be."""

TOKENIZERS = f"gpt2 for GPT-2's own, {SHIPPED}, or a tokenizer's folder"

TOKENS_FILE = "tokens.bin"
"""The file of tokens in a prepared folder; its description and `tokenizer/` stand beside it."""

ELSEWHERE = {
    "wikitext-2": "its training part isn't fetched: save "
    "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/"
    "word_language_model/data/wikitext-2/train.txt and name that file; wikitext-2-valid and "
    "wikitext-2-test are known, to judge by",
    "library": "let python data/models/make_library.py of the course's repository fetch it",
}
"""How texts that ready configurations name can be had; they are never fetched unasked."""

SPECIAL = re.compile(r"<\|(?:endoftext|startoftext)\|>")
"""What stands between documents in published data sets; inside of a line it may be anything."""

_BLANK = codecs.BOM_UTF8 + b" \r\n\t"
_SMALL = 100_000
"""Files up to so many bytes are looked into to see whether they hold more than white space."""


@dataclass(frozen=True)
class Text:
    """A file, all files of a folder, or a text of the course."""

    name: str
    """What it was called by."""
    place: Path | None = None
    """The file or the folder; None for a text of the course."""
    files: tuple[Path, ...] = ()
    """Its files, in order."""
    encoding: str | None = None
    """What they were written in; None expects UTF-8."""
    read_special: bool = False
    """Whether `SPECIAL` ends a document inside of a line, too."""


def find_texts(
    names: Sequence[str],
    pattern: str = "*.txt",
    encoding: str | None = None,
    read_special: bool = False,
) -> list[Text]:
    """Find the texts that somebody named; a note says which files are empty and left out.

    Args:
        names: Files, folders, or names of `COURSE_TEXTS`.
        pattern: Which files of a folder, and of the folders in it, are its texts.
        encoding: What they were written in; None expects UTF-8.
        read_special: Whether `SPECIAL` ends a document inside of a line, too.

    Returns:
        A text for each name.

    Raises:
        FileNotFoundError: If one is not there, with what can be done about it.
        ValueError: If one is no file, or holds nothing.
    """
    texts: list[Text] = []
    empty: list[str] = []
    for name in names:
        if not name.strip():
            raise ValueError("a text's name is empty; name a file or a folder")
        path = Path(name).expanduser()
        if not path.exists():
            if name in COURSE_TEXTS:
                texts.append(Text(name))
                continue
            path = _find_copy(name)
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.rglob(pattern) if _is_text(file, path))
            if not found:
                raise ValueError(
                    f"the folder {name} holds no file {pattern}; name the files themselves, or say "
                    "which files are texts with another pattern"
                )
        elif not path.is_file():
            raise ValueError(
                f"{name} is neither a file nor a folder; save the text to a file first"
            )
        full = [f for f in found if f.stat().st_size > _SMALL or f.read_bytes().strip(_BLANK)]
        if not full:
            raise ValueError(f"{name} is empty; name a text with something in it")
        empty += [str(file) for file in found if file not in full]
        texts.append(Text(name, path, tuple(full), encoding, read_special))
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        are = "files are" if len(empty) > 1 else "file is"
        note(f"{len(empty)} empty {are} left out: {', '.join(empty[:3])}{more}")
    return texts


def _find_copy(name: str) -> Path:
    """Look for a text that is not here where the course keeps data, without the network."""
    mirror = os.environ.get("GPTLIB_DATA_MIRROR", "").strip()
    folders = [data_folder(), *([Path(mirror).expanduser()] if mirror else [])]
    for folder in folders * (Path(name).name == name):
        if (folder / name).is_file() or any((folder / name).glob("*.txt")):
            return folder / name
    way_out = f"name one that is there ({COURSE_TEXTS[0]} stands for the course's novel)"
    if name in ELSEWHERE:
        way_out = f"{ELSEWHERE[name]}, or name a text that you have"
    raise FileNotFoundError(f"there is no file or folder {name!r}; {way_out}")


@cache
def _read_course_text(name: str) -> str:
    """Read a text of the course; a download, and a stand-in in its place, are told."""
    record = DATA_SETS[name]
    if state(name) == "absent":
        title = record.title.partition(",")[0]
        note(f"{title} is fetched once ({record.size / 1e6:.1f} MB)")
    with redirect_stdout(sys.stderr):  # standard output is for results
        return course_text(name)


def _is_text(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    ours = file.name in ("merges.txt", MADE_BY)  # of the tokenizer of a run or of tokens
    return file.is_file() and not hidden and not ours


def read_documents(texts: Sequence[Text], what: str = "") -> Iterator[str]:
    """Read the documents of texts one by one, line by line: not all need fit into memory.

    Args:
        texts: The texts.
        what: What they are read for, such as "tokens": a bar at a terminal says it.

    Yields:
        Documents that hold more than white space.

    Raises:
        ValueError: If a file is no UTF-8 text; the message names the file and the byte.
    """
    n_bytes = sum(file.stat().st_size for text in texts for file in text.files)
    quiet = not (what and sys.stderr.isatty())
    with tqdm(
        total=n_bytes, desc=what, unit="B", unit_scale=True, leave=False, disable=quiet
    ) as bar:
        for text in texts:
            if not text.files:
                yield _read_course_text(text.name)
            for file in text.files:
                n_special, lines = 0, list[str]()
                for line in chain(_read_lines(file, bar.update, text.encoding), [END_OF_TEXT]):
                    if line.rstrip() != END_OF_TEXT:
                        n_special += len(SPECIAL.findall(line))
                        lines.append(line)
                        continue
                    document, lines = "".join(lines), []
                    parts = SPECIAL.split(document) if text.read_special else [document]
                    yield from (part for part in parts if part.strip())
                if n_special and not text.read_special and what != "tokenizer":
                    note(
                        f"{file} has <|endoftext|> or <|startoftext|> inside of lines, "
                        f"{n_special:,} times; they are plain text: add --read-special to read "
                        "them as borders of documents"
                    )


def _read_lines(
    file: Path, advance: Callable[[int], object], encoding: str | None
) -> Iterator[str]:
    """Read lines, each with one newline character at its end."""
    place = 0
    with open(file, "rb") as content:
        start = content.read(100_000)
        if encoding or b"\0" in start or ODD_START.match(start):
            for line in decode(str(file), start + content.read(), encoding).splitlines(True):
                yield line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line
            advance(file.stat().st_size)
            return
        content.seek(0)
        for raw in content:
            try:
                line = raw.decode("utf-8-sig" if place == 0 else "utf-8")
            except UnicodeDecodeError as error:
                if not (line := join_surrogates(raw)):
                    content.seek(max(0, place - 1000))  # what is around it says what it may be
                    raise ValueError(
                        f"{file} is no UTF-8 text: byte {place + error.start} is "
                        f"0x{raw[error.start]:02x}; {way_to_read(content.read(100_000))}, save it "
                        "as UTF-8, or leave it out"
                    ) from None
            place += len(raw)
            advance(len(raw))
            yield line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line


# Texts as tokens


def is_prepared(name: str) -> bool:
    """Whether a folder was written by `data prepare`."""
    return (Path(name).expanduser() / TOKENS_FILE).is_file()


def named_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer by its name.

    Args:
        name: "gpt2", "novels", or a folder: of a tokenizer, of a model or of a training run.

    Returns:
        GPT-2's own as tiktoken's, any other as ours.

    Raises:
        FileNotFoundError: If there is no such folder, or it holds no tokenizer.
        ValueError: If its files are damaged.
    """
    if name == "gpt2":
        return gpt2_encoding()
    folder = find_shipped() if name == SHIPPED else Path(name).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no tokenizer {name!r}; name {TOKENIZERS}")
    inside = folder / "tokenizer"
    return load_run_tokenizer(inside if inside.is_dir() else folder)


def train_tokenizer(
    texts: Sequence[Text], kind: str, vocab_size: int, special: Sequence[str] = (END_OF_TEXT,)
) -> BPETokenizer:
    """Train a tokenizer on texts.

    Args:
        texts: What to count; of words of thousands of letters, nearly all of it.
        kind: "bpe", or one of `KINDS`.
        vocab_size: Number of tokens, the special ones included.
        special: Names of special tokens.

    Raises:
        ValueError: If the size is too small for the kind, or a name or a text can't be used.
    """

    def read() -> Iterator[str]:
        yield from cut_long_words(read_documents(texts, "tokenizer"))
        if sys.stderr.isatty():  # the bar has come to its end, the work has not
            note(f"all texts are read; {vocab_size:,} tokens are made of them")

    documents = read()
    if kind == "bpe":
        return BPETokenizer.train(documents, vocab_size, special)
    return train_library_tokenizer(documents, kind, vocab_size, special)


def prepare(folder: Path, name: str, texts: Sequence[Text] = (), vocab_size: int = 0) -> Tokenizer:
    """Give a folder its tokenizer and its tokens; what was begun goes on.

    Args:
        folder: Gets `tokenizer/` and, if there are texts, `TOKENS_FILE`.
        name: What `named_tokenizer` takes, or "train" or one of `KINDS` to train one; it is noted
            in the folder, and another name is refused from then on.
        texts: What to train on and to turn into tokens, the same ones each time.
        vocab_size: Number of tokens to train.

    Returns:
        The tokenizer.

    Raises:
        ValueError: If the folder was begun with another tokenizer or other texts, or a text is
            none.
    """
    asked = f"train {vocab_size}" if name == "train" else name
    place, mark = folder / "tokenizer", folder / "tokenizer" / MADE_BY
    before = mark.read_text(encoding="utf-8").strip() if mark.is_file() else asked
    if before != asked:
        raise ValueError(
            f"{folder} was begun with the tokenizer {before!r}, not {asked!r}; name another "
            "folder, or delete it"
        )
    tokenizer: Tokenizer
    if mark.is_file():
        tokenizer = load_run_tokenizer(place)
    else:
        if name in ("train", *KINDS):
            tokenizer = train_tokenizer(texts, name.replace("train", "bpe"), vocab_size)
        else:
            tokenizer = named_tokenizer(name)
        if isinstance(tokenizer, BPETokenizer):
            tokenizer.save(place)
        with whole_file(mark) as draft:  # the last: with it the tokenizer is whole
            draft.write_text(asked + "\n", encoding="utf-8")
        tokenizer = quick(tokenizer)
    if texts:
        for _ in prepare_tokens(read_documents(texts, "tokens"), tokenizer, folder / TOKENS_FILE):
            pass  # each document moves the bar
        open_tokens(folder / TOKENS_FILE, verify=True)
    return tokenizer
