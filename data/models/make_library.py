"""Make the library that the shipped model has read: 129 novels and stories as plain text.

    python data/models/make_library.py

Every book of books.tsv is fetched once, as Standard Ebooks (CC0) published it at one commit, and
turned into a text file in the data folder's `library/`; Treasure Island, which no training sees,
lies beside that folder. A text counts only if its sha256 is the recorded one. A mirror
(GPTLIB_DATA_MIRROR) may hold library/library.tar.xz, all texts in one file.

    gptlib train --config novels-cpu
    gptlib evaluate robert-louis-stevenson_treasure-island.txt --model runs/novels-cpu
"""

import csv
import hashlib
import os
import re
import sys
import tarfile
import textwrap
import unicodedata
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pooch
from tqdm import tqdm

from gptlib.extras.datasets import data_folder
from gptlib.tokenizer import whole_file

HELD_OUT = "robert-louis-stevenson_treasure-island"
LIST = Path(__file__).with_name("books.tsv")
ADDRESS = "https://codeload.github.com/standardebooks/{repository}/zip/{commit}"

XHTML, OPF = "{http://www.w3.org/1999/xhtml}", "{http://www.idpf.org/2007/opf}"
EPUB_TYPE = "{http://www.idpf.org/2007/ops}type"
BLOCKS = re.compile(
    "article|blockquote|body|caption|d[dlt]|div|figure|footer|h[1-6]|header|hgroup|hr|li|ol|p|section|"
    "table|tbody|t[dhr]|tfoot|thead|ul"
)
LEFT_OUT = {"noteref", "epigraph", "dedication", "z3998:drama", "z3998:dramatis-personae"}
CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2060\u200a\u200b\u200e\u00ad\ufeff", ""),  # joiners and hair spaces
        **dict.fromkeys("\u00a0\u2009\u202f", " "),  # other spaces
        **dict.fromkeys("\u2011\u2012\u2013", "-"),  # hyphens and short dashes
        "\u2e3a": "——",
        "\u2e3b": "———",
        "\u2026": "...",  # War and Peace, in the edition of chapter 1, has no sign of its own
    }
)


def tag(element: ET.Element) -> str:
    """Name an element, "" for a comment."""
    return element.tag.removeprefix(XHTML) if isinstance(element.tag, str) else ""


def types(element: ET.Element) -> set[str]:
    """Read what an element is for."""
    return set(element.get(EPUB_TYPE, "").split())


def inline(element: ET.Element) -> str:
    """Read the text of an element, a vertical tab for each line break."""
    if tag(element) == "br":
        return "\v"
    if tag(element) in ("", "img") or types(element) & LEFT_OUT:
        return ""
    return (element.text or "") + "".join(inline(child) + (child.tail or "") for child in element)


def tidy(text: str) -> str:
    """Make blanks single, and characters those of War and Peace."""
    lines = unicodedata.normalize("NFC", text.translate(CHARACTERS)).split("\v")
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


def heading(element: ET.Element, in_chapter: bool) -> str:
    """Write capitals, and CHAPTER before a bare number, as in War and Peace."""
    text = tidy(inline(element)).replace("\n", " ").upper()
    return f"CHAPTER {text}" if in_chapter and re.fullmatch("[IVXLC]+", text) else text


def paragraphs_of(element: ET.Element, in_chapter: bool = False) -> Iterator[str]:
    """Give the paragraphs of a block element in reading order; some are empty."""
    name = tag(element)
    if name in ("", "figure") or types(element) & LEFT_OUT:
        return
    if name in ("section", "article"):
        in_chapter = "chapter" in types(element)
    if name == "hr":
        yield "* * *"
    elif name == "hgroup":
        yield ": ".join(filter(None, (heading(child, in_chapter) for child in element)))
    elif re.fullmatch("h[1-6]", name):
        yield heading(element, in_chapter)
    elif name == "tr":
        yield tidy(" ".join(inline(cell) for cell in element))
    else:
        run = element.text or ""
        for child in element:
            if BLOCKS.fullmatch(tag(child)):
                yield tidy(run)
                yield from paragraphs_of(child, in_chapter)
                run = child.tail or ""
            else:
                run += inline(child) + (child.tail or "")
        yield tidy(run)


def make_text(read: Callable[[str], bytes]) -> str:
    """Make the text of one book.

    Args:
        read: Gives the content of a file of its src/epub.

    Returns:
        The chapters in reading order, lines of at most 74 characters where blanks allow it, one
        empty line between paragraphs. Title pages, notes, pictures and the like are left out.
    """
    package = ET.fromstring(read("content.opf"))
    files = {item.get("id"): item.get("href") for item in package.iter(f"{OPF}item")}
    paragraphs: list[str] = []
    for item in package.iter(f"{OPF}itemref"):
        body = ET.fromstring(read(str(files[item.get("idref")]))).find(f"{XHTML}body")
        assert body is not None
        if "bodymatter" in types(body) or types(body[0]) & {"chapter", "prologue", "epilogue"}:
            paragraphs += filter(None, paragraphs_of(body))
    wrap = partial(textwrap.fill, width=74, break_long_words=False, break_on_hyphens=False)
    wrapped = ("\n".join(map(wrap, paragraph.split("\n"))) for paragraph in paragraphs)
    return "\n\n".join(wrapped) + "\n"


def fetch_text(repository: str, commit: str) -> str:
    """Fetch a book as it was at one commit and make its text."""
    address = ADDRESS.format(repository=repository, commit=commit)
    archive = pooch.retrieve(address, known_hash=None, path=pooch.os_cache("gptlib") / "books")
    with zipfile.ZipFile(archive) as inside:
        root = inside.namelist()[0].split("/")[0]
        text = make_text(lambda name: inside.read(f"{root}/src/epub/{name}"))
    Path(archive).unlink()  # pictures and fonts are most of it
    return text


def library() -> dict[str, str]:
    """Read the library; what is not on this machine yet is fetched.

    Returns:
        The text of each book, by the name of its repository, in the order of the list.

    Raises:
        ValueError: If a text is not the recorded one.
    """
    mirror = Path(os.environ.get("GPTLIB_DATA_MIRROR") or ".", "library", "library.tar.xz")
    packed: dict[str, bytes] = {}
    if mirror.is_file():
        with tarfile.open(mirror) as tar:
            members = ((member.name, tar.extractfile(member)) for member in tar)
            packed = {name.removesuffix(".txt"): file.read() for name, file in members if file}
    texts = {}
    with LIST.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in tqdm(rows, "library", unit="book", disable=bool(packed)):
        name = row["repository"]
        path = data_folder() / ("" if name == HELD_OUT else "library") / f"{name}.txt"
        if name in packed:
            content = packed[name]
        elif path.is_file():
            content = path.read_bytes()
        else:
            content = fetch_text(name, row["commit"]).encode()
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            raise ValueError(f"{name} is not the recorded text; delete {path} and try again")
        if not path.is_file():
            with whole_file(path) as draft:
                draft.write_bytes(content)
        texts[name] = content.decode()
    return texts


if __name__ == "__main__":
    pooch.get_logger().setLevel("WARNING")
    try:
        books = library()
    except (OSError, ValueError) as error:  # of the network too
        sys.exit(f"{error}\nWhat has come stays here; the same command goes on.")
    n_bytes = sum(len(text.encode()) for text in books.values())
    print(f"{len(books)} books, {n_bytes:,} bytes, in {data_folder()}")
