"""`tokenizer` and `data`: any text goes in, tokens come out, and nothing is lost on the way."""

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from command_line import pipe_in, refusal, written

from gptlib.extras import texts
from gptlib.extras.cli import main
from gptlib.extras.datasets import DATA_SETS, DataSet
from gptlib.extras.models import load_model
from gptlib.extras.texts import TOKENS_FILE, find_texts, named_tokenizer, read_documents
from gptlib.extras.tokens import open_tokens, prepare_tokens
from gptlib.tokenizer import BPETokenizer, Tokenizer, end_of_text, gpt2_encoding
from gptlib.weights import read_tokenizer

ODD = "Hé\r\n <|endoftext|>\x00 x\u2028\n\n".encode()
"""Line ends of two kinds, the name of a special token, no character that may be lost."""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    place = tmp_path / "book.txt"
    place.write_text("the prince said that the princess had said so\n" * 30, encoding="utf-8")
    return place


def files(folder: Path, **contents: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.txt").write_bytes(content)
    return folder


def bytes_out(monkeypatch: pytest.MonkeyPatch, *words: object) -> bytes:
    out = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="utf-8"))
        assert main([str(word) for word in words]) == 0
        sys.stdout.flush()
        return out.getvalue()


# texts


def test_a_folder_s_files_are_documents_in_order_and_a_file_may_hold_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files(
        tmp_path / "f",
        b=b"second\r\nline\r\n<|endoftext|>\r\n\n<|endoftext|>\nthird <|endoftext|>\n",
        a=b"\xef\xbb\xbffirst",
        empty=b"",
        blank=b" \n\t\n",
    )
    (folder / "deep").mkdir()
    files(folder / "deep", c=b"fourth")
    (folder / ".hidden.txt").write_bytes(b"not this")
    (folder / "other.md").write_bytes(b"nor this")
    [text] = find_texts([str(folder)])
    documents = list(read_documents([text]))
    assert documents == ["first", "second\nline\n", "third <|endoftext|>\n", "fourth"]
    said = capsys.readouterr().err
    assert said.startswith("note: 2 empty files are left out: ")
    assert said.index("blank.txt") < said.index("empty.txt")
    [text] = find_texts([str(folder)], "*.md")
    assert list(read_documents([text])) == ["nor this"]


def test_a_folder_s_tokenizers_are_no_texts(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--tokenizer", "train", "--vocab-size", 270)
    for _ in range(2):  # the second time the first one's files are in the folder
        written(capsys, "data", "prepare", tmp_path, *options, "--save", tmp_path / "prepared")
    [text] = find_texts([str(tmp_path)])
    assert text.files == (book,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"ok\n" * 5000 + b"a\xff",
            "byte 15001 is 0xff; it looks like Latin-1: add --encoding latin-1, save",
        ),
        (b"\xff\xfea\x00", "byte 0 is 0xff; it looks like UTF-16: add --encoding utf-16"),
        (b"cut \xe2\x82", "byte 4 is 0xe2"),
        (b"", "bad.txt is empty; name a text with something in it"),
    ],
)
def test_a_text_that_is_none_is_named_with_the_byte(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = files(tmp_path, bad=content) / "bad.txt"
    words = ("data", "prepare", file, "--save", tmp_path / "p")
    assert message in refusal(capsys, *words)
    assert str(tmp_path) in refusal(capsys, "tokenizer", "train", file, "--save", tmp_path / "t")


def test_a_text_that_is_not_there_is_refused_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", "")
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    words = ("--save", tmp_path / "t")
    said = refusal(capsys, "tokenizer", "train", "nowhere.txt", *words)
    assert "there is no file or folder 'nowhere.txt'; name one that is there" in said
    said = refusal(capsys, "tokenizer", "train", "wikitext-2", *words)
    assert "wikitext-2/train.txt and name that file; wikitext-2-valid and wikitext-2-t" in said
    said = refusal(capsys, "tokenizer", "train", files(tmp_path / "e"), *words)
    assert "holds no file *.txt; name the files themselves" in said
    assert not (tmp_path / "t").exists()
    files(tmp_path / "mirror")
    (tmp_path / "mirror" / "plays.txt").write_bytes(b"First Citizen")
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", str(tmp_path / "mirror"))
    [text] = find_texts(["plays.txt"])
    assert list(read_documents([text])) == ["First Citizen"]
    said = refusal(capsys, "tokenizer", "train", "library", *words)
    assert "'library'; let python data/models/make_library.py of the course's rep" in said
    files(tmp_path / "library", b=b"A novel.", a=b"A story.")
    [text] = find_texts(["library"])
    assert list(read_documents([text])) == ["A story.", "A novel."]
    assert named_tokenizer("novels").encode("Natasha") == load_model("novels")[1].encode("Natasha")


def test_a_text_of_the_course_is_its_record_and_nothing_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"A fable.\nThe licence."
    record = DataSet(
        name="fable",
        title="a fable",
        file="fable.txt",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        addresses=(),
        licence="none",
        clean=lambda text: text.partition("The licence")[0],
    )
    monkeypatch.setitem(DATA_SETS, "fable", record)
    monkeypatch.setattr(texts, "COURSE_TEXTS", [*texts.COURSE_TEXTS, "fable"])
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    (tmp_path / "fable.txt").write_bytes(content)
    [text] = find_texts(["fable"])
    assert list(read_documents([text])) == ["A fable.\n"]
    written(capsys, "data", "prepare", "fable", "--save", tmp_path / "p")
    assert texts.COURSE_TEXTS[:1] == ["war-and-peace"]


@pytest.mark.parametrize("name", ["tiny-shakespeare", "wikitext-2-valid", "wikitext-2-test"])
def test_a_corpus_is_known_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = DATA_SETS[name]
    mirror = os.environ.get("GPTLIB_DATA_MIRROR", "")
    if not (Path(mirror) / record.file).is_file():
        pytest.skip(f"{record.file} is not at hand")
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    [text] = read_documents(find_texts([name]))
    kept = (tmp_path / record.file).read_text(encoding="utf-8")
    assert text.strip() == kept.strip()
    assert len(kept.encode()) == record.size


# tokenizer


def test_tokenizer_train_writes_what_the_library_learns(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("tokenizer", "train", book, book, "--vocab-size", 275, "--save", tmp_path / "t")
    assert written(capsys, *words) == f"saved 275 tokens to {tmp_path / 't'}\n"
    ours = BPETokenizer.train(book.read_text() * 2, 275)
    assert BPETokenizer.load(tmp_path / "t").merges == ours.merges
    assert "holds a tokenizer; name another folder, or add --overwrite" in refusal(capsys, *words)
    written(capsys, *words, "--overwrite")


def test_a_terminal_is_told_how_far_a_tokenizer_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "dna.txt"
    place.write_text("ACGGTCATTAGC" * 25_000)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert (
        main(["tokenizer", "train", str(place), "--vocab-size", "270", "--save", str(tmp_path)])
        == 0
    )
    told = capsys.readouterr().err
    assert "tokenizer:   0%" in told
    assert told.endswith("note: all texts are read; 270 tokens are made of them\n")


@pytest.mark.parametrize("special", [(), ("--special",)])
@pytest.mark.parametrize("own", [True, False])
def test_encode_and_decode_give_every_byte_back(
    own: bool,
    special: tuple[str, ...],
    book: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice: tuple[object, ...] = ()
    if own:
        BPETokenizer.train(book.read_text(), 270).save(tmp_path / "t")
        choice = ("--tokenizer", tmp_path / "t")
    (tmp_path / "odd").write_bytes(ODD)
    from_file = bytes_out(monkeypatch, "tokenizer", "encode", tmp_path / "odd", *choice, *special)
    pipe_in(monkeypatch, ODD)
    ids = bytes_out(monkeypatch, "tokenizer", "encode", *choice, *special)
    assert ids == from_file
    [end] = end_of_text(read_tokenizer(tmp_path / "t") if own else gpt2_encoding())
    assert (str(end).encode() in ids.split()) == bool(special)
    pipe_in(monkeypatch, ids.replace(b" ", b", "))
    assert bytes_out(monkeypatch, "tokenizer", "decode", *choice) == ODD


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["decode"], b"5 50257", "'50257' is no token id; gpt2 has the ids 0 to 50256"),
        (["decode"], b"5 -1", "'-1' is no token id"),
        (["decode"], b"5 x", "'x' is no token id"),
        (["encode"], b"a\xff", "standard input is no UTF-8 text (byte 1); convert it first"),
        (["encode", "nowhere"], b"", "there is no file 'nowhere'; name one that is there"),
        (["encode", "--tokenizer", "nowhere"], b"", "there is no tokenizer 'nowhere'; name gpt2"),
        (["encode", "--tokenizer", "."], b"", "has no vocab.json"),
        (["encode", "--sp"], b"", "there is no option --sp; did you mean --special?"),
        (["train", "x", "--save", "y", "--vocab-size", "9"], b"", "--vocab-size=9 is below 257"),
        (["train", "x", "--save", ""], b"", "--save: '' can't be a folder; name a new one"),
        (["train", "x"], b"", "the following arguments are required: --save"),
        (["guess"], b"", "invalid choice: 'guess' (choose from 'train', 'encode', 'decode')"),
    ],
)
def test_bad_values_of_tokenizer_are_told_in_one_line(
    words: list[str],
    content: bytes,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("to be or not to be", encoding="utf-8")
    pipe_in(monkeypatch, content)
    assert message in refusal(capsys, "tokenizer", *words)


# data


def test_prepared_tokens_are_the_documents_with_the_end_token_behind_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files(tmp_path / "f", a=b"one prince", b=b"two\n<|endoftext|>\nthree\n", c=b"")
    assert main(["data", "prepare", str(folder), "--save", str(tmp_path / "p")]) == 0
    out, err = capsys.readouterr()
    assert out == f"9 tokens in {tmp_path / 'p'}, whole and checked\n"
    assert err == f"note: 1 empty file is left out: {folder / 'c.txt'}\n"
    tokens = open_tokens(tmp_path / "p" / TOKENS_FILE).tolist()
    end = "<|endoftext|>"
    assert gpt2_encoding().decode(tokens) == f"one prince{end}two\n{end}three\n{end}"


def test_a_preparation_goes_on_after_a_kill_and_refuses_other_words(
    book: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = files(tmp_path / "f", a=b"one one one", b=b"two two two", c=b"three")
    words = ["data", "prepare", folder, "--tokenizer", "train", "--vocab-size", 260]
    whole, part = [*words, "--save", tmp_path / "1"], [*words, "--save", tmp_path / "2"]
    written(capsys, *whole)
    with monkeypatch.context() as patch:

        def killed(texts: Iterable[str], tokenizer: Tokenizer, path: Path) -> Iterator[int]:
            yield next(prepare_tokens(texts, tokenizer, path, save_every=1))
            raise KeyboardInterrupt

        patch.setattr(texts, "prepare_tokens", killed)
        assert main([str(word) for word in part]) == 130
    assert "stopped; the same command goes on where it was" in capsys.readouterr().err
    name = tmp_path / "2" / TOKENS_FILE
    assert json.loads(name.with_name(name.name + ".json").read_text())["complete"] is False
    assert refusal(capsys, "train", tmp_path / "2", "--folder", tmp_path / "r").count("broken off")
    written(capsys, *part)
    assert name.read_bytes() == (tmp_path / "1" / TOKENS_FILE).read_bytes()
    said = refusal(capsys, *part[:4], "gpt2", "--save", tmp_path / "2")
    assert "was begun with the tokenizer 'train 260', not 'gpt2'; name another folder" in said
    said = refusal(capsys, *part[:2], book, *part[3:])
    assert "other" in said
    assert "--vocab-size belongs to a new tokenizer; add --tokenizer train" in refusal(
        capsys, "data", "prepare", book, "--vocab-size", 300, "--save", tmp_path / "3"
    )
