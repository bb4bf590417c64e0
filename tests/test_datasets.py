"""Data is found, checked and cleaned; every fault ends in a message and leaves no half file."""

import errno
import hashlib
import io
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pooch
import pytest
import requests

from gptlib.extras import datasets
from gptlib.extras.datasets import DATA_SETS, DataSet
from gptlib.tokenizer import find_data

BOOK = (
    "\ufeffWAR AND PEACE\r\n\r\n    CONTENTS\r\n\r\n    BOOK ONE: 1805\r\n\r\n"
    "BOOK ONE: 1805\r\n\r\nCHAPTER I\r\n\r\n“Well, Prince,” – said she.\r\n"
    + "And so on.\r\n" * 5000
    + "The end.\r\n\r\n\r\nEnd of the Project Gutenberg EBook of War and Peace\r\nLicence\r\n"
).encode()


@dataclass
class Site:
    """A web server on this machine: what it holds, and what was asked of it."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut: bool = False
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append(self.path)
            content = here.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if here.cut else content)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield here
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, no mirror, and no memory of hosts that could not be reached."""
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("GPTLIB_DATA_MIRROR", raising=False)
    monkeypatch.setattr(datasets, "_unreachable", {})
    return tmp_path / "data"


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DataSet]:
    """Replace War and Peace's record by a small book at the given addresses."""

    def change(*addresses: str, content: bytes = BOOK, **changes: Any) -> DataSet:
        record = replace(
            DATA_SETS["war-and-peace"],
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            addresses=addresses,
            **changes,
        )
        monkeypatch.setitem(DATA_SETS, "war-and-peace", record)
        return record

    return change


def nothing_left(folder: Path) -> bool:
    return not folder.is_dir() or not list(folder.iterdir())


def error_of(name: str = "war-and-peace") -> str:
    with pytest.raises(FileNotFoundError) as caught:
        datasets.fetch(name)
    return str(caught.value)


# What the readers get


def test_the_book_comes_without_mark_contents_windows_line_ends_and_licence(
    site: Site, offer: Callable[..., DataSet]
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    text = datasets.war_and_peace()
    assert text.startswith("BOOK ONE: 1805\n\nCHAPTER I\n\n“Well, Prince,” – said she.\n")
    assert text.endswith("And so on.\nThe end.\n")
    assert "\r" not in text
    assert "\ufeff" not in text
    assert "CONTENTS" not in text


def test_messages_come_as_pairs_of_label_and_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "ham\tSee you\tat six\nspam\t£100 – WIN\x85now\n".encode()
    put(folder, "sms-spam", content, monkeypatch)
    assert datasets.sms_spam() == [("ham", "See you\tat six"), ("spam", "£100 – WIN\x85now")]


def test_instructions_come_as_dictionaries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'[{"instruction": "Add.", "input": "1 2", "output": "3"}]'
    put(folder, "alpaca", content, monkeypatch)
    assert datasets.alpaca() == [{"instruction": "Add.", "input": "1 2", "output": "3"}]


def put(folder: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    record = replace(DATA_SETS[name], size=len(content), sha256=sha256, addresses=())
    monkeypatch.setitem(DATA_SETS, name, record)
    folder.mkdir()
    (folder / record.file).write_bytes(content)


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_record_is_complete_and_names_at_least_two_hosts(name: str) -> None:
    record = DATA_SETS[name]
    hosts = {address.split("/")[2] for address in record.addresses}
    assert record.name == name
    assert len(hosts) >= 2
    assert all(address.startswith("https://") for address in record.addresses)
    assert len(bytes.fromhex(record.sha256)) == 32
    assert record.licence
    with pytest.raises(FrozenInstanceError):
        record.size = 0  # type: ignore[misc]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    for function in (datasets.fetch, datasets.is_real, datasets.state):
        with pytest.raises(ValueError, match="unknown data set 'bible'; choose one of war-and-pea"):
            function("bible")


# Where it is looked for


def test_it_is_downloaded_once_and_then_found_offline(
    site: Site, offer: Callable[..., DataSet], folder: Path
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    assert datasets.state("war-and-peace") == "absent"
    first = datasets.fetch("war-and-peace")
    assert first == folder / "war-and-peace.txt"
    assert datasets.fetch("war-and-peace").read_bytes() == BOOK
    assert site.asked == ["/book"]
    assert datasets.state("war-and-peace") == "ready"
    assert [file.name for file in folder.iterdir()] == ["war-and-peace.txt"]


def test_addresses_are_tried_in_order_until_one_has_the_right_bytes(
    site: Site, offer: Callable[..., DataSet], folder: Path
) -> None:
    site.files |= {"/wrong": BOOK[::-1], "/right": BOOK, "/last": BOOK}
    offer(*(f"{site.address}/{path}" for path in ("missing", "wrong", "right", "last")))
    assert datasets.fetch("war-and-peace").read_bytes() == BOOK
    assert site.asked == ["/missing", "/wrong", "/right"]


def test_a_member_of_a_zip_is_taken_out_and_checked(
    site: Site, offer: Callable[..., DataSet], folder: Path
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as inside:
        inside.writestr("readme", "other")
        inside.writestr("book.txt", BOOK)
    site.files |= {"/books.zip": archive.getvalue(), "/not.zip": b"PK no"}
    address = f"{site.address}/books.zip"
    offer(f"{site.address}/not.zip#book.txt", f"{address}#absent", f"{address}#readme")
    assert error_of().count("sent other contents than expected") == 1
    assert nothing_left(folder)
    offer(f"{address}#book.txt")
    assert datasets.fetch("war-and-peace").read_bytes() == BOOK


@pytest.mark.parametrize("form", ["path", "file address", "http address", "http address/"])
def test_the_mirror_is_tried_first_whatever_its_form(
    form: str,
    site: Site,
    offer: Callable[..., DataSet],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror = tmp_path / "mir ror"
    mirror.mkdir()
    (mirror / "war-and-peace.txt").write_bytes(BOOK)
    site.files["/m/war-and-peace.txt"] = BOOK
    value = {
        "path": str(mirror),
        "file address": mirror.as_uri(),
        "http address": f"{site.address}/m",
        "http address/": f"{site.address}/m/",
    }[form]
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", value)
    offer(f"{site.address}/book")
    assert datasets.state("war-and-peace") == ("mirror" if "http" not in form else "absent")
    assert datasets.fetch("war-and-peace") == folder / "war-and-peace.txt"
    assert "/book" not in site.asked
    assert datasets.state("war-and-peace") == "ready"


def test_the_data_folder_is_the_checkout_s_or_the_user_s_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPTLIB_DATA")
    assert datasets.data_folder() == Path(__file__).resolve().parents[1] / "data"
    monkeypatch.setattr(datasets, "_COURSE", tmp_path)
    assert datasets.data_folder() == Path(pooch.os_cache("gptlib"))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_progress_bar_is_drawn_only_in_a_terminal(
    terminal: bool, site: Site, offer: Callable[..., DataSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", screen)
    datasets.fetch("war-and-peace")
    assert ("100%" in screen.getvalue()) == terminal
    if not terminal:
        assert screen.getvalue() == ""


def test_nothing_is_printed_or_logged_when_the_real_data_is_had(
    site: Site, offer: Callable[..., DataSet], capfd: pytest.CaptureFixture[str]
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/missing", f"{site.address}/book")
    datasets.war_and_peace()
    assert datasets.is_real("war-and-peace")
    assert capfd.readouterr() == ("", "")


# What goes wrong


def test_without_network_the_stand_in_is_used_and_announced(
    offer: Callable[..., DataSet],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer("http://127.0.0.1:9/book")
    (tmp_path / "stand-in-war-and-peace.txt").write_text("\nOur own prose.\n\n")
    monkeypatch.setattr(datasets, "find_data", lambda name: tmp_path / name)
    assert datasets.war_and_peace() == "Our own prose.\n"
    said = capsys.readouterr().out
    assert "STAND-IN IN USE" in said
    assert "127.0.0.1:9: no connection" in said
    assert "save http://127.0.0.1:9/book" in said
    assert str(folder / "war-and-peace.txt") in said
    assert "GPTLIB_DATA_MIRROR" in said
    assert not datasets.is_real("war-and-peace")
    assert capsys.readouterr().out == ""


def test_without_network_the_messages_written_for_the_course_are_used_and_announced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = replace(DATA_SETS["sms-spam"], addresses=("http://127.0.0.1:9/spam",))
    monkeypatch.setitem(DATA_SETS, "sms-spam", record)
    messages = datasets.sms_spam()
    assert {label for label, _ in messages} == {"ham", "spam"}
    assert len(messages) >= 300
    said = capsys.readouterr().out
    assert said.startswith("STAND-IN IN USE: SMSSpamCollection cannot be had")
    assert "(stand-in-sms-spam.tsv, " in said
    assert str(folder / "SMSSpamCollection") in said
    assert not datasets.is_real("sms-spam")
    assert nothing_left(folder)


def test_the_instructions_of_the_course_need_no_network_and_no_folder(folder: Path) -> None:
    records = datasets.instructions()
    assert len(records) == 217
    assert {tuple(record) for record in records} == {("instruction", "input", "output", "task")}
    assert nothing_left(folder)


def test_the_course_s_own_stand_in_is_there_and_long_enough() -> None:
    assert find_data("stand-in-war-and-peace.txt").stat().st_size >= 60_000


def test_without_network_and_stand_in_the_error_says_which_file_to_put_where(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = replace(DATA_SETS["alpaca"], addresses=("http://127.0.0.1:9/alpaca",))
    monkeypatch.setitem(DATA_SETS, "alpaca", record)
    with pytest.raises(FileNotFoundError) as caught:
        datasets.alpaca()
    said = str(caught.value)
    assert said.startswith("alpaca-gpt4-1k.json (999 records of Alpaca GPT-4, 0.9 MB) is not here")
    assert "127.0.0.1:9: no connection" in said
    assert f"put it here: {folder / 'alpaca-gpt4-1k.json'}" in said
    assert "set GPTLIB_DATA_MIRROR to a folder or address that holds alpaca-gpt4-1k.json" in said
    assert not datasets.is_real("alpaca")
    assert nothing_left(folder)


def test_a_host_that_cannot_be_reached_is_not_tried_again_at_once(
    site: Site, offer: Callable[..., DataSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Silent:
        def __init__(self, **options: Any) -> None:
            calls.append(options)

        def __call__(self, *_: Any) -> None:
            raise requests.ConnectTimeout("timed out")

    offer("http://silent/a", "http://silent/b")
    monkeypatch.setattr(pooch, "HTTPDownloader", Silent)
    said = error_of()
    assert "silent: no answer in time" in said
    assert "silent: could not be reached a moment ago" in said
    assert "moment ago" in error_of()
    assert len(calls) == 1
    assert calls[0]["timeout"] == (datasets.CONNECT_SECONDS, datasets.READ_SECONDS)
    later = time.monotonic() + datasets.REST_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    error_of()
    assert len(calls) == 2


def test_other_bytes_than_expected_are_thrown_away(
    site: Site, offer: Callable[..., DataSet], folder: Path
) -> None:
    site.files["/book"] = BOOK[:-1] + b"?"
    offer(f"{site.address}/book")
    said = error_of()
    assert f"{site.address[7:]}: sent other contents than expected (sha256 differs)" in said
    assert nothing_left(folder)


def test_a_connection_cut_in_the_middle_leaves_nothing(
    site: Site, offer: Callable[..., DataSet], folder: Path
) -> None:
    site.files["/book"] = BOOK
    site.cut = True
    offer(f"{site.address}/book")
    assert "the connection broke off in the middle of the file" in error_of()
    assert nothing_left(folder)
    site.cut = False
    datasets._unreachable.clear()
    assert datasets.fetch("war-and-peace").read_bytes() == BOOK


def test_an_interrupted_download_leaves_nothing(
    offer: Callable[..., DataSet], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(url: str, output: str, _: Any) -> None:
        Path(output).write_bytes(BOOK[:100])
        raise KeyboardInterrupt

    offer("http://127.0.0.1:9/book")
    monkeypatch.setattr(datasets, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        datasets.fetch("war-and-peace")
    assert nothing_left(folder)


def test_a_full_disk_is_named_and_leaves_nothing(
    offer: Callable[..., DataSet], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(url: str, output: str, _: Any) -> None:
        Path(output).write_bytes(BOOK[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    offer("http://a/book", "http://b/book")
    monkeypatch.setattr(datasets, "_download", full)
    said = error_of()
    assert f"{folder}: no space left on the disk; free some, or set GPTLIB_DATA" in said
    assert said.count("no space left") == 1
    assert nothing_left(folder)


def test_a_folder_that_cannot_be_written_is_named(
    site: Site, offer: Callable[..., DataSet], folder: Path
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    folder.write_text("a file where the folder should be")
    said = error_of()
    assert f"{folder}: cannot write there" in said
    assert "set GPTLIB_DATA to a folder you may write to" in said
    assert folder.read_text() == "a file where the folder should be"


def test_a_read_only_folder_is_named(
    site: Site, offer: Callable[..., DataSet], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    refuse_writing(monkeypatch)
    assert f"{folder}: cannot write there" in error_of()


def refuse_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make temporary files impossible, as in a read-only folder (root ignores permissions)."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)


def test_with_a_read_only_folder_the_mirror_is_read_where_it_is(
    offer: Callable[..., DataSet], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer("http://127.0.0.1:9/book")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "war-and-peace.txt").write_bytes(BOOK)
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", str(tmp_path / "mirror"))
    refuse_writing(monkeypatch)
    assert datasets.fetch("war-and-peace") == tmp_path / "mirror" / "war-and-peace.txt"
    assert datasets.is_real("war-and-peace")
    assert nothing_left(folder)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda mirror: None,
        lambda mirror: mirror.mkdir(),
        lambda mirror: (mirror.mkdir(), (mirror / "war-and-peace.txt").write_bytes(b"other")),
    ],
)
def test_a_mirror_folder_that_fails_gives_way_to_the_addresses_and_is_named(
    prepare: Callable[[Path], Any],
    site: Site,
    offer: Callable[..., DataSet],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(tmp_path / "mirror")
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", str(tmp_path / "mirror"))
    offer(f"{site.address}/book")
    said = error_of()
    assert f"mirror {tmp_path / 'mirror'}: holds no war-and-peace.txt with the right" in said
    assert "answered 404" in said
    site.files["/book"] = BOOK
    assert datasets.fetch("war-and-peace") == folder / "war-and-peace.txt"


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        ("SITE/absent", "answered 404"),
        ("http://127.0.0.1:9/m", "127.0.0.1:9: no connection"),
        ("http://", "Invalid URL"),
        ("ftp://host/m", "mirror ftp:/host/m: holds no war-and-peace.txt"),
    ],
)
def test_a_wrong_mirror_address_gives_way_to_the_addresses_and_is_named(
    mirror: str,
    reason: str,
    site: Site,
    offer: Callable[..., DataSet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", mirror.replace("SITE", site.address))
    offer(f"{site.address}/book")
    assert reason in error_of()
    site.files["/book"] = BOOK
    assert datasets.fetch("war-and-peace").read_bytes() == BOOK


@pytest.mark.parametrize("content", [b"my own edition", BOOK[:-1] + b"?", b""])
def test_a_users_own_file_is_named_and_left_alone(
    content: bytes, site: Site, offer: Callable[..., DataSet], folder: Path
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    folder.mkdir()
    own = folder / "war-and-peace.txt"
    own.write_bytes(content)
    for read in (datasets.war_and_peace, lambda: datasets.fetch("war-and-peace")):
        with pytest.raises(ValueError, match=r"is not the war-and-peace.txt .* left as it is"):
            read()
    assert not datasets.is_real("war-and-peace")
    assert datasets.state("war-and-peace") == "wrong"
    assert own.read_bytes() == content
    assert site.asked == []
    own.rename(folder / "mine.txt")
    assert datasets.fetch("war-and-peace").read_bytes() == BOOK


def test_a_file_that_may_not_be_read_is_named(
    offer: Callable[..., DataSet], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer()
    folder.mkdir()
    (folder / "war-and-peace.txt").write_bytes(BOOK)

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"war-and-peace.txt that .*: it can't be read, or its"):
        datasets.fetch("war-and-peace")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_what_is_downloaded_can_be_read_by_everyone_on_the_machine(
    site: Site, offer: Callable[..., DataSet]
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    assert datasets.fetch("war-and-peace").stat().st_mode & 0o777 == 0o644


def test_a_folder_in_the_file_s_place_is_named(offer: Callable[..., DataSet], folder: Path) -> None:
    offer()
    (folder / "war-and-peace.txt").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"war-and-peace.txt that .*: it can't be read, or its"):
        datasets.fetch("war-and-peace")


def test_a_file_that_another_process_puts_there_meanwhile_is_taken(
    site: Site, offer: Callable[..., DataSet], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    folder.mkdir(parents=True)

    def look_and_lose(path: Path, _: DataSet) -> bool:
        path.write_bytes(BOOK)  # a moment after the look
        return False

    monkeypatch.setattr(datasets, "_matches", look_and_lose)
    monkeypatch.delenv("GPTLIB_DATA_MIRROR", raising=False)
    assert datasets.fetch("war-and-peace").read_bytes() == BOOK


def test_two_downloads_at_once_both_end_well(
    site: Site, offer: Callable[..., DataSet], folder: Path
) -> None:
    site.files["/book"] = BOOK
    offer(f"{site.address}/book")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(datasets.fetch("war-and-peace")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [folder / "war-and-peace.txt"] * 4
    assert [file.name for file in folder.iterdir()] == ["war-and-peace.txt"]
    assert found[0].read_bytes() == BOOK


# The real files, where they are at hand


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a data set whose real file is on this machine."""
    monkeypatch.undo()
    name = str(request.param)
    if datasets.state(name) not in ("ready", "mirror"):
        pytest.skip(f"the real {DATA_SETS[name].file} is not at hand")
    return name


@pytest.mark.parametrize("real", ["war-and-peace"], indirect=True)
def test_the_real_book_runs_from_its_first_heading_to_its_last_sentence(real: str) -> None:
    text = datasets.war_and_peace()
    assert text.startswith("BOOK ONE: 1805\n")
    assert text.endswith("a dependence of which we are not\nconscious.\n")
    assert len(text) == 3_201_614
    assert "Gutenberg" not in text


@pytest.mark.parametrize("real", ["sms-spam"], indirect=True)
def test_the_real_messages_are_4827_ham_and_747_spam(real: str) -> None:
    labels = [label for label, _ in datasets.sms_spam()]
    assert (len(labels), labels.count("ham"), labels.count("spam")) == (5574, 4827, 747)


@pytest.mark.parametrize("real", ["alpaca"], indirect=True)
def test_the_real_instructions_are_999_records_of_three_fields(real: str) -> None:
    records = datasets.alpaca()
    assert len(records) == 999
    assert {tuple(record) for record in records} == {("instruction", "input", "output")}


# The page that describes the data


@pytest.mark.parametrize(
    "file",
    [
        "gpt2.tiktoken",
        "stand-in-war-and-peace.txt",
        "stand-in-sms-spam.tsv",
        "instructions.json",
    ],
)
def test_the_data_page_describes_the_files_of_the_repository(file: str) -> None:
    path = Path(__file__).resolve().parents[1] / "data" / file
    page = path.with_name("README.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{file}` "))
    assert f" {path.stat().st_size:,} " in row
    assert hashlib.sha256(path.read_bytes()).hexdigest() in row
