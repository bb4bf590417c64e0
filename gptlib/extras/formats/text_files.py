"""Bytes that should be a text: named for what they are, and decoded whole or not at all."""

import codecs
import re
import sys
from pathlib import Path

KINDS = {
    b"\x1f\x8b": "compressed with gzip; unpack it with gunzip",
    b"BZh": "compressed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "compressed with xz; unpack it with unxz",
    b"(\xb5/\xfd": "compressed with zstd; unpack it with unzstd",
    b"7z\xbc\xaf": "packed with 7-Zip; unpack it",
    b"Rar!": "packed with RAR; unpack it",
    b"%PDF": "a PDF; save its text with pdftotext, or copy it out of a viewer",
    b"{\\rtf": "rich text (RTF); save it as plain text",
    b"\xd0\xcf\x11\xe0": "an old file of Word or Excel; save it as plain text or CSV",
    b"PAR1": "Parquet; save it as CSV with pandas: read_parquet(FILE).to_csv(NEW)",
    b"SQLite format 3": "a database of SQLite; export what you need as CSV",
    b"%!PS": "PostScript; save its text with ps2ascii",
    b"\x89PNG": "a picture; name a text",
    b"GIF8": "a picture; name a text",
    b"\xff\xd8\xff": "a picture; name a text",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
}
"""What files begin with that are no plain text, what they are, and what makes a text of them."""

PARTS = {
    b"word/": "a Word document (docx); save it as plain text",
    b"xl/": "an Excel file (xlsx); save it as CSV",
    b"opendocument": "an OpenDocument file; save it as plain text or CSV",
    b"epub": "an e-book (EPUB); save its text with a program such as Calibre",
}
"""What the packed files hold that office programs write."""

ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16 without a mark",
    "utf-16-be": "UTF-16 without a mark",
    "utf-32": "UTF-32",
    "cp1252": "Windows-1252",
    "latin-1": "Latin-1",
}
"""Encodings by Python's names for them."""

_MARKS = (*KINDS, b"PK\x03\x04", codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
ODD_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:(?i:<(?:[?]xml|!--|!doctype|html|head|body|table))|"
    + b"|".join(map(re.escape, _MARKS))
    + rb")"
)
"""How files begin that `decode` may refuse, or read as something other than UTF-8."""


_LATIN = re.compile(rb"[A-Za-z]+")
_FOREIGN = re.compile(rb"[\x80-\xff]{4,}")
_CONTROL = re.compile("[\0-\x08\x0e-\x1f\ufffd]")


def check_kind(name: str, start: bytes) -> None:
    """Refuse what is plainly no text, by its first bytes (ValueError)."""
    page = start.removeprefix(codecs.BOM_UTF8).lstrip()
    kind = next((kind for mark, kind in KINDS.items() if page.startswith(mark)), "")
    if start.startswith(b"PK\x03\x04"):
        kind = next((what for mark, what in PARTS.items() if mark in start), "a ZIP; unpack it")
    page = page.lower()
    is_page = page.startswith((b"<?xml", b"<!--", b"<!doctype")) and b"<html" in page
    if page.startswith(b"<?xml"):
        kind = "XML; save the text in it as plain text, or name it with --encoding utf-8"
    if is_page or page.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<table")):
        kind = "a web page (HTML); save its text from a browser, or name it with --encoding utf-8"
    if kind:
        raise ValueError(f"{name} is {kind}")


def check_file(path: Path) -> None:
    """Name what lies in the place of a model's file, if it is plainly something else."""
    with open(path, "rb") as file:
        start = file.read(100).lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull`")
    if start.lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(
            f"{path} is a web page, not the file itself; download the file behind its link"
        )


def guess_encoding(content: bytes) -> str:
    """Name the likely encoding of bytes; "" if they are of another script than ours, or no text."""
    for mark, name in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")):
        if content.startswith(mark):
            return name
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # In UTF-16, every other byte of a text in Latin letters, of its spaces at least, is zero.
    some = content[:100_000]
    zeros = [some[start::2].count(0) for start in (0, 1)]
    if max(zeros) > len(some) // 20 and max(zeros) > 5 * min(zeros):
        name = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
        if not _CONTROL.search(some.decode(name, "replace")[:1000]):
            return name
    if 0 in some:
        return ""
    try:
        content.decode()
    except UnicodeDecodeError:
        pass
    else:
        return "utf-8"
    # Accents stand alone among Latin letters, the letters of other scripts beside each other.
    n_foreign, n_latin = (sum(map(len, part.findall(some))) for part in (_FOREIGN, _LATIN))
    if n_foreign > max(8, n_latin // 2):
        return ""
    # Latin-1 has nothing but control characters where Windows has quotes and dashes.
    windows = any(0x80 <= byte < 0xA0 for byte in some)
    return "cp1252" if windows else "latin-1"


def decode(name: str, content: bytes, encoding: str | None = None) -> str:
    """Turn the bytes of a file into text; a byte order mark is left out.

    Args:
        name: What messages call it.
        content: All of it.
        encoding: What it was written in; None expects UTF-8.

    Raises:
        ValueError: If it is no text, or in another encoding; the message names the likely one, and
            the option that reads it.
    """
    if encoding is None:
        check_kind(name, content[:4096])
    try:
        text = content.decode(encoding or "utf-8").removeprefix("\ufeff")
        if encoding is None and (zero := content[:100_000].find(0)) >= 0:  # zeros are UTF-8, too
            raise UnicodeDecodeError("utf-8", content, zero, zero + 1, "")
        return text
    except LookupError:
        known = ", ".join(ENCODINGS)
        raise ValueError(f"there is no encoding {encoding!r}; try one of {known}") from None
    except UnicodeDecodeError as error:
        if encoding is None and (whole := join_surrogates(content)):
            return whole
        place, byte = error.start, content[error.start]
        raise ValueError(
            f"{name} is no {ENCODINGS.get(encoding or 'utf-8', encoding)} text: byte {place} is "
            f"0x{byte:02x}; {way_to_read(content, encoding or 'utf-8')}"
        ) from None


def way_to_read(content: bytes, tried: str = "utf-8") -> str:
    """Say which option reads bytes that are not in the encoding that was tried."""
    likely = guess_encoding(content)
    if likely == tried:
        likely = "latin-1"
    if likely:
        return f"it looks like {ENCODINGS[likely]}: add --encoding {likely}"
    if 0 in content[:100_000]:
        return (
            "it looks like no text at all, as bytes of zero are in programs, pictures and packed "
            "files; if it is one, add --encoding utf-8"
        )
    return (
        "most of its letters are not Latin ones: add --encoding with what it was written in, such "
        "as cp1251 or koi8-r (Cyrillic), gb18030 or big5 (Chinese), shift_jis (Japanese)"
    )


def join_surrogates(content: bytes) -> str:
    """Read UTF-8 in which emoji were written as two halves; "" if that isn't what is wrong."""
    if 0 in content:
        return ""
    try:
        halves = content.decode("utf-8-sig", "surrogatepass")
        return halves.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return ""


def read_whole(name: str, encoding: str | None = None) -> str:
    """Read a file, or with "-" all of standard input, as a text; see `decode`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no text, or in another encoding.
    """
    if name == "-":
        is_real = hasattr(sys.stdin, "buffer")
        content = sys.stdin.buffer.read() if is_real else sys.stdin.read().encode()
        return decode("standard input", content, encoding)
    path = Path(name).expanduser()
    if path.is_dir():
        raise ValueError(f"{name} is a folder; name one file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {name!r}; name one that is there")
    return decode(name, path.read_bytes(), encoding)
