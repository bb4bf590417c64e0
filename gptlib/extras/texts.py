"""Read training data: any text file, or a folder of them, as documents.

A file is a document. Where a line holds nothing but <|endoftext|>, as in many published data sets,
the file is several documents. Line ends become single newline characters, and a byte order mark at
the beginning of a file is left out.
"""

import codecs
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["COURSE_TEXTS", "END_OF_DOCUMENT", "Text", "find_text", "find_texts"]

END_OF_DOCUMENT = "<|endoftext|>"
"""A line with this alone ends a document inside a file; the token of this name goes there."""

COURSE_TEXTS = ("war-and-peace",)
"""Names that stand for a text of the course instead of a file; it is fetched if need be."""

ELSEWHERE = {
    "tiny-shakespeare.txt": "https://raw.githubusercontent.com/karpathy/char-rnn/"
    "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
}
"""Where a file that a ready configuration names can be had; it is never fetched unasked."""

_SMALL = 100_000
"""Files of fewer bytes are looked into to see whether they hold more than white space."""


@dataclass(frozen=True)
class Text:
    """A file, all files of a folder, or a text of the course."""

    name: str
    """What it was called by."""
    files: tuple[Path, ...] = ()
    """Its files, in order; none for a text of the course."""
    empty: tuple[Path, ...] = ()
    """Files that hold nothing but white space and are left out."""

    @property
    def n_bytes(self) -> int:
        """Bytes to read, 0 if that is not known before."""
        return sum(file.stat().st_size for file in self.files)

    def documents(self, advance: Callable[[int], object] = lambda _: None) -> Iterator[str]:
        """Read the documents one by one.

        Args:
            advance: Called with the number of bytes that were read since the last call.

        Yields:
            Documents that hold more than white space.

        Raises:
            ValueError: If a file is no UTF-8 text; the message names the file and the byte.
        """
        if not self.files:
            yield _read_course_text()
        for file in self.files:
            yield from _read_documents(file, advance)


def find_texts(names: Sequence[str], pattern: str = "*.txt") -> list[Text]:
    """Find the texts that somebody named, and see that there is something in them.

    Args:
        names: Files, folders, or names of `COURSE_TEXTS`.
        pattern: Which files of a folder, and of the folders in it, are its texts.

    Returns:
        A text for each name.

    Raises:
        FileNotFoundError: If one is not there, with what can be done about it.
        ValueError: If one is no file, or holds nothing.
    """
    return [find_text(name, pattern) for name in names]


def find_text(name: str, pattern: str = "*.txt") -> Text:
    """Find one text; see `find_texts`.

    Args:
        name: A file, a folder, or a name of `COURSE_TEXTS`.
        pattern: Which files of a folder, and of the folders in it, are its texts.

    Returns:
        The text.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no file, or holds nothing.
    """
    if not name.strip():
        raise ValueError("a text's name is empty; name a file or a folder")
    path = Path(name).expanduser()
    if not path.exists():
        if name in COURSE_TEXTS:
            return Text(name)
        path = _find_copy(name)
    if path.is_dir():
        found = sorted(file for file in path.rglob(pattern) if _is_text(file, path))
        if not found:
            raise ValueError(
                f"the folder {name} holds no file {pattern}; name the files themselves, or say "
                "which files are texts with another pattern"
            )
    elif path.is_file():
        found = [path]
    else:
        raise ValueError(f"{name} is neither a file nor a folder; save the text to a file first")
    empty = tuple(file for file in found if _is_empty(file))
    if len(empty) == len(found):
        raise ValueError(f"{name} is empty; name a text with something in it")
    return Text(name, tuple(file for file in found if file not in empty), empty)


def _find_copy(name: str) -> Path:
    """Look for a file that is not here where the course keeps data, without the network."""
    from gptlib.extras.datasets import data_folder

    mirror = os.environ.get("GPTLIB_DATA_MIRROR", "").strip()
    folders = [data_folder(), *([Path(mirror).expanduser()] if mirror else [])]
    for folder in folders * (Path(name).name == name):
        if (folder / name).is_file():
            return folder / name
    way_out = f"name one that is there ({COURSE_TEXTS[0]} stands for the course's novel)"
    if name in ELSEWHERE:
        way_out = f"save {ELSEWHERE[name]} under this name, or name a text that you have"
    raise FileNotFoundError(f"there is no file or folder {name!r}; {way_out}")


@cache
def _read_course_text() -> str:
    """Read War and Peace; a download, and a stand-in in its place, are told on standard error."""
    from gptlib.extras.datasets import DATA_SETS, state, war_and_peace

    if state("war-and-peace") == "absent":
        size = DATA_SETS["war-and-peace"].size / 1e6
        print(f"note: War and Peace is fetched once ({size:.1f} MB)", file=sys.stderr)
    with redirect_stdout(sys.stderr):  # standard output is for results
        return war_and_peace()


def _is_text(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    ours = file.name in ("merges.txt", "made-by.txt")  # of the tokenizer of a run or of tokens
    return file.is_file() and not hidden and not ours


def _is_empty(file: Path) -> bool:
    size = file.stat().st_size
    return not size or (size < _SMALL and not file.read_bytes().strip(codecs.BOM_UTF8 + b" \r\n\t"))


def _read_documents(file: Path, advance: Callable[[int], object]) -> Iterator[str]:
    """Read a file line by line, so that one of many documents need not fit into memory."""
    lines: list[str] = []
    with open(file, "rb") as content:
        place = 0
        for raw in content:
            try:
                line = raw.decode("utf-8-sig" if place == 0 else "utf-8")
            except UnicodeDecodeError as error:
                start = place + error.start
                raise ValueError(_no_utf8(file, start, raw[error.start], raw[:2])) from None
            place += len(raw)
            advance(len(raw))
            if line.rstrip() == END_OF_DOCUMENT:
                yield from _join(lines)
                lines = []
            else:
                lines.append(line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line)
    yield from _join(lines)


def _join(lines: Sequence[str]) -> Iterator[str]:
    document = "".join(lines)
    if document.strip():
        yield document


def _no_utf8(file: Path, place: int, byte: int, start: bytes) -> str:
    kind = "it looks like UTF-16; " if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
    return (
        f"{file} is no UTF-8 text: byte {place} is 0x{byte:02x}; {kind}save it as UTF-8, "
        "or leave it out"
    )
