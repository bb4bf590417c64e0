"""Fetch the course's public data sets once, check them, and hand them over clean.

A data set is looked for in this order, and the first one with the right sha256 is used:

1. the data folder: `data/` in a checkout of the course, else your cache folder for
   `gptlib`; the environment variable `GPTLIB_DATA` names another one;
2. the mirror: `GPTLIB_DATA_MIRROR`, a folder or an address that holds the same files;
3. the addresses in the record of the data set, one after the other;
4. for War and Peace and for the spam messages, a short stand-in of our own that travels with
   the course; using it is announced.

What is found in 2 or 3 is copied to 1, so this happens once. A file reaches its name only
when it is complete and checked; whatever goes wrong, no part of a file stays behind.

`instructions` reads a set of our own, which travels with the course and needs none of this.
"""

import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urlsplit
from urllib.request import url2pathname

import pooch
import requests

from gptlib.tokenizer import find_data

CONNECT_SECONDS, READ_SECONDS = 5.0, 20.0
"""How long to wait for a connection, and for the next bytes in the middle of a file."""
REST_SECONDS = 60.0
"""How long a host that could not be reached is left alone."""

_COURSE = Path(__file__).resolve().parents[2]
_unreachable: dict[str, float] = {}  # host -> when it could not be reached, monotonic seconds


@dataclass(frozen=True)
class DataSet:
    """Record of one public data set: what it is, where it is, and how to know it."""

    name: str
    """Name in this course, such as `war-and-peace`."""
    title: str
    """What it is, for a sentence."""
    file: str
    """File name in the data folder and in a mirror."""
    size: int
    """Size of the file in bytes."""
    sha256: str
    """Hash of the file's bytes, 64 hexadecimal digits."""
    addresses: tuple[str, ...]
    """Where to get it, tried in order; `archive.zip#member` names a file inside a zip."""
    licence: str
    """Terms under which its publisher offers it."""
    stand_in: str = ""
    """File of our own used when nothing else can be had, if there is one."""
    clean: Callable[[str], str] | None = None
    """Of a text to learn from or to judge by: takes the text itself out of the file's content."""
    in_chapters: bool = True
    """Whether a chapter needs it, and the doctor looks for it."""


def _clean_book(text: str) -> str:
    """Keep the book from its first heading, after the contents, to its last sentence."""
    text = text.replace("\r\n", "\n")
    start = re.search(r"^BOOK ONE: 1805$", text, re.MULTILINE)  # indented in the contents
    end = re.search(r"^End of the Project Gutenberg", text, re.MULTILINE)
    return text[start.start() if start else 0 : end.start() if end else len(text)]


_BOOK_PLACE = "enerrio/jax-transformer{at}e00617e4555a0dc4d64d819307f917206aeec31c"
_SPAM_PLACE = "ia4legos/MachineLearning{at}4287de2d8a05727f41bb949f2bd187e8becc7e3e"
_ALPACA_PLACE = "hiyouga/LLaMA-Factory{at}ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30"
_PLAYS_PLACE = "karpathy/char-rnn{at}6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
_WIKITEXT_PLACE = "pytorch/examples{at}77f55b912142e11fcfdf5b530231fb9c52f181e8"


def _git_addresses(place: str, path: str) -> tuple[str, str]:
    """Two hosts that serve one file of one commit, so always the same bytes."""
    return (
        f"https://raw.githubusercontent.com/{place.format(at='/')}/{path}",
        f"https://cdn.jsdelivr.net/gh/{place.format(at='@')}/{path}",
    )


DATA_SETS: dict[str, DataSet] = {
    record.name: record
    for record in (
        DataSet(
            name="war-and-peace",
            title="War and Peace, Project Gutenberg's text 2600",
            file="war-and-peace.txt",
            size=3_358_881,
            sha256="fef5d84055533ae89c5df8f8334f5bcf9110a5d36e0a01f0e587b847c9d5444e",
            addresses=_git_addresses(_BOOK_PLACE, "war-and-peace.txt"),
            licence="public domain in the USA",
            stand_in="stand-in-war-and-peace.txt",
            clean=_clean_book,
        ),
        DataSet(
            name="sms-spam",
            title="the SMS Spam Collection of the UCI repository",
            file="SMSSpamCollection",
            size=477_907,
            sha256="7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
            addresses=(
                *_git_addresses(_SPAM_PLACE, "data/SMSSpamCollection"),
                "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
                "#SMSSpamCollection",
            ),
            licence="CC BY 4.0",
            stand_in="stand-in-sms-spam.tsv",
        ),
        DataSet(
            name="alpaca",
            title="999 records of Alpaca GPT-4",
            file="alpaca-gpt4-1k.json",
            size=859_893,
            sha256="bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318",
            addresses=_git_addresses(_ALPACA_PLACE, "data/alpaca_en_demo.json"),
            licence="CC BY-NC 4.0",
        ),
        DataSet(
            name="tiny-shakespeare",
            title="40,000 lines of Shakespeare, the usual small corpus",
            file="tiny-shakespeare.txt",
            size=1_115_394,
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            addresses=_git_addresses(_PLAYS_PLACE, "data/tinyshakespeare/input.txt"),
            licence="public domain",
            clean=str,
            in_chapters=False,
        ),
        *(
            DataSet(
                name=f"wikitext-2-{part}",
                title=f"WikiText-2, its {part} part, to judge by",
                file=f"wikitext-2/{part}.txt",
                size=size,
                sha256=sha256,
                addresses=_git_addresses(
                    _WIKITEXT_PLACE, f"word_language_model/data/wikitext-2/{part}.txt"
                ),
                licence="CC BY-SA 3.0",
                clean=str,
                in_chapters=False,
            )
            for part, size, sha256 in (
                (
                    *("valid", 1_121_681),
                    "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                ),
                (
                    *("test", 1_256_449),
                    "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
                ),
            )
        ),
    )
}
"""Every data set of the course by its name."""


def war_and_peace() -> str:
    """Read War and Peace from its first heading to its last sentence; see `course_text`."""
    return course_text("war-and-peace")


def course_text(name: str) -> str:
    """Read a text of the course, without the mark, headers and licence of its file.

    Without the file, a short stand-in is returned and announced.

    Args:
        name: A key of `DATA_SETS` whose record has a function `clean`.

    Raises:
        ValueError: If a file with other contents stands in its place.
    """
    record = DATA_SETS[name]
    path, real = _find_or_stand_in(record)
    text = path.read_text(encoding="utf-8-sig")
    return (record.clean(text) if real and record.clean else text).strip() + "\n"


def sms_spam() -> list[tuple[str, str]]:
    """Read the SMS Spam Collection; without it, a few hundred messages of our own, announced.

    Returns:
        Pairs (label, message), 5,574 of them in the collection; the label is "ham" or "spam".
    """
    path, _ = _find_or_stand_in(DATA_SETS["sms-spam"])
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = (line.split("\t", 1) for line in lines if line)
    return [(label, message) for label, message in pairs]


def alpaca() -> list[dict[str, str]]:
    """Read the sample of Alpaca GPT-4 instructions; see `fetch` for what can go wrong.

    Returns:
        999 records with the keys "instruction", "input" (may be empty) and "output".
    """
    records: list[dict[str, str]] = json.loads(fetch("alpaca").read_text(encoding="utf-8"))
    return records


def instructions() -> list[dict[str, str]]:
    """Read the instructions written by hand for this course.

    Returns:
        Records with the keys "instruction", "input" (may be empty), "output" and "task", which is
        "free": no program can compute the answer, as it can those of `gptlib.extras.questions`.
    """
    text = find_data("instructions.json").read_text(encoding="utf-8")
    records: list[dict[str, str]] = json.loads(text)
    return records


def fetch(name: str) -> Path:
    """Get the real file of a data set, from this machine or from the internet.

    Raises:
        ValueError: If the name is unknown, or a file with other contents stands in its place.
        FileNotFoundError: If it cannot be had; the message says which file to put where.
    """
    record = _record(name)
    path, reasons = _find(record)
    if path is None:
        raise FileNotFoundError(
            f"{record.file} ({record.title}, {record.size / 1e6:.1f} MB) is not here and cannot "
            f"be fetched.\n{_ways_out(record, reasons)}"
        )
    return path


def is_real(name: str) -> bool:
    """Tell whether the real data would be used, without a word about a stand-in.

    The data set is fetched if it is not there yet, so a True stays true offline.
    """
    record = _record(name)
    try:
        return _find(record)[0] is not None
    except ValueError:
        return False


def state(name: str) -> str:
    """Look where a data set is on this machine, without the network.

    Returns:
        "ready", "mirror" (in the mirror's folder), "wrong" (another file stands in its place) or
        "absent".
    """
    record = _record(name)
    place = data_folder() / record.file
    if _matches(place, record):
        return "ready"
    if os.path.lexists(place):
        return "wrong"
    mirror = find_mirror()
    at_hand = isinstance(mirror, Path) and _matches(mirror / record.file, record)
    return "mirror" if at_hand else "absent"


def data_folder() -> Path:
    """Name the folder in which downloads are kept, which may not exist yet."""
    if chosen := os.environ.get("GPTLIB_DATA"):
        return Path(chosen).expanduser().absolute()
    if (_COURSE / "pyproject.toml").is_file() and (_COURSE / "data").is_dir():
        return _COURSE / "data"
    return Path(pooch.os_cache("gptlib"))


def _record(name: str) -> DataSet:
    if name not in DATA_SETS:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def _matches(path: Path, record: DataSet) -> bool:
    """Whether the file is there with the recorded size and hash."""
    with suppress(OSError):
        if path.stat().st_size == record.size:
            return hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256
    return False


def _find(record: DataSet) -> tuple[Path | None, list[str]]:
    """Get the real file if it can be had, else None and why each place failed."""
    place = data_folder() / record.file
    was_there = os.path.lexists(place)  # asked first: another process may be about to put it there
    if _matches(place, record):
        return place, []
    if was_there:
        raise ValueError(
            f"{place} is not the {record.file} that this course uses: it can't be read, or its "
            "size or sha256 differs. It was left as it is. Give it another name if it is your own "
            "edition, delete it if it is a damaged download, and run this again"
        )
    reasons: list[str] = []
    mirror, addresses = find_mirror(), list(record.addresses)
    if isinstance(mirror, Path):
        original = mirror / record.file
        if _matches(original, record):
            try:
                _retrieve(record, str(original), place)
            except (OSError, ValueError):  # nothing can be written: read it where it is
                return original, []
            return place, []
        reasons.append(f"mirror {mirror}: holds no {record.file} with the right sha256")
    elif mirror:
        addresses.insert(0, f"{mirror.rstrip('/')}/{record.file}")
    for address in addresses:
        if reason := _from_address(record, address, place):
            reasons.append(reason)
        else:
            return place, []
    return None, list(dict.fromkeys(reasons))


def _find_or_stand_in(record: DataSet) -> tuple[Path, bool]:
    """Get the real file and True, or announce its stand-in and get that and False."""
    if not record.stand_in:
        return fetch(record.name), True
    path, reasons = _find(record)
    if path is not None:
        return path, True
    stand_in = find_data(record.stand_in)
    print(
        f"STAND-IN IN USE: {record.file} cannot be had, so a small file written for this\n"
        f"course takes its place ({stand_in.name}, {stand_in.stat().st_size / 1e3:.0f} kB).\n"
        "Everything runs, but numbers and samples differ from those that the course shows.\n"
        f"{_ways_out(record, reasons)}"
    )
    return stand_in, False


def find_mirror() -> Path | str:
    """The mirror: a folder, an address, or an empty string if there is none."""
    mirror = os.environ.get("GPTLIB_DATA_MIRROR", "").strip()
    if not mirror or mirror.startswith(("http://", "https://")):
        return mirror
    if mirror.startswith("file:"):
        return Path(url2pathname(urlsplit(mirror).path))
    return Path(mirror).expanduser()


def _from_address(record: DataSet, address: str, place: Path) -> str:
    """Download into the data folder, and say why if it fails."""
    host = urlsplit(address).netloc or address
    now = time.monotonic()
    if now - _unreachable.get(host, -REST_SECONDS) < REST_SECONDS:
        return f"{host}: could not be reached a moment ago"
    try:
        _retrieve(record, address, place)
    except (requests.ConnectionError, requests.Timeout) as error:
        _unreachable[host] = now
        return f"{host}: {_why(error)}"
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        local = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
        return f"{place.parent if local else host}: {_why(error)}"
    return ""


def _retrieve(record: DataSet, source: str, place: Path) -> None:
    """Let pooch write to a temporary file, check its hash and move it to its place."""
    pooch.get_logger().setLevel(logging.CRITICAL)  # its log names folders of this machine
    pooch.retrieve(
        source, f"sha256:{record.sha256}", place.name, place.parent, downloader=_download
    )
    with suppress(OSError):
        place.chmod(0o644)  # a temporary file is readable for its owner only; this data is public


def _download(source: str, output: str, _: Any) -> None:
    """Copy a file, or what is at an address, or one member of the zip that is there."""
    if not source.startswith("http"):
        shutil.copyfile(source, output)
        return
    address, member = urldefrag(source)
    bar = sys.stderr is not None and sys.stderr.isatty()
    get = pooch.HTTPDownloader(progressbar=bar, timeout=(CONNECT_SECONDS, READ_SECONDS))
    if not member:
        get(address, output, None)
        return
    archive = io.BytesIO()
    get(address, archive, None)
    with zipfile.ZipFile(archive) as inside:
        Path(output).write_bytes(inside.read(member))


def _why(error: Exception) -> str:
    """Say in plain words why a download failed."""
    text = str(error)
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"answered {error.response.status_code} {error.response.reason}"
    if "IncompleteRead" in text or "Connection broken" in text:
        return "the connection broke off in the middle of the file"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, zipfile.BadZipFile | KeyError) or "does not match the known hash" in text:
        return "sent other contents than expected (sha256 differs)"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left on the disk; free some, or set GPTLIB_DATA to another folder"
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        reason = error.strerror or type(error).__name__
        return f"cannot write there ({reason}); set GPTLIB_DATA to a folder you may write to"
    return text or type(error).__name__


def _ways_out(record: DataSet, reasons: list[str]) -> str:
    tried = "".join(f"  - {reason}\n" for reason in reasons)
    return (
        f"What was tried:\n{tried}"
        "Any one of these helps; then run this again:\n"
        f"  - connect to the internet (a host is tried again after {REST_SECONDS:.0f} seconds);\n"
        f"  - on another machine, save {record.addresses[0]}\n"
        f"    and put it here: {data_folder() / record.file}\n"
        f"  - set GPTLIB_DATA_MIRROR to a folder or address that holds {record.file}."
    )
