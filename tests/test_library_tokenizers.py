"""WordPiece and Unigram, trained by the `tokenizers` library, are used like our own."""

import json
from pathlib import Path

import pytest
from command_line import refusal, written
from tiny_gpt2 import TEXT
from transformers import PreTrainedTokenizerFast

from gptlib.extras.formats.tokenizer_files import KINDS, UNKNOWN, train_library_tokenizer
from gptlib.extras.models import load_model
from gptlib.extras.texts import named_tokenizer
from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, WordTokenizer


def longest_match(word: str, tokens: set[str]) -> list[str]:
    """Cut a word as BERT does: always the longest token that comes next."""
    pieces: list[str] = []
    while word:
        mark = "##" if pieces else ""
        end = next(n for n in range(len(word), 0, -1) if mark + word[:n] in tokens)
        pieces.append(mark + word[:end])
        word = word[end:]
    return pieces


def test_wordpiece_cuts_by_the_longest_match() -> None:
    tokenizer = train_library_tokenizer([TEXT], "wordpiece", 60)
    names = {str(tokenizer.library.id_to_token(i)) for i in range(tokenizer.vocab_size)}
    for word in ("prince", "princess", "princes", "that", "hats", "said"):
        ids = tokenizer.encode(word)
        assert [tokenizer.library.id_to_token(i) for i in ids] == longest_match(word, names)


def test_unigram_finds_the_likeliest_cut() -> None:
    tokenizer = train_library_tokenizer([TEXT], "unigram", 40)
    scores = dict(json.loads(tokenizer.library.to_str())["model"]["vocab"])

    def best(text: str) -> float:
        cuts = [scores[text[:n]] + best(text[n:]) for n in range(1, len(text) + 1)
                if text[:n] in scores]  # fmt: skip
        return max(cuts, default=0.0 if not text else -1e9)

    text = "the princess said"
    ids = tokenizer.encode(text)
    names = [str(tokenizer.library.id_to_token(i)) for i in ids]
    assert "".join(names) == text.replace(" ", "▁")
    assert sum(scores[name] for name in names) == pytest.approx(best(text.replace(" ", "▁")))


@pytest.mark.parametrize(("kind", "characters"), [("word", False), ("char", True)])
def test_words_and_characters_are_those_of_chapter_1(kind: str, characters: bool) -> None:
    ours = WordTokenizer.build_vocab(TEXT, characters=characters)
    theirs = train_library_tokenizer([TEXT], kind, 99)
    known = set(ours.itos[2:])
    assert {theirs.library.id_to_token(i) for i in range(2, theirs.vocab_size)} == known
    text = "the prince, the hare and 1812!"
    pieces = [part if part in known else UNKNOWN for part in ours.split(text, characters)]
    assert [theirs.library.id_to_token(i) for i in theirs.encode(text)] == pieces


def test_characters_of_a_text_come_back_as_they_were() -> None:
    tokenizer = train_library_tokenizer([TEXT + "\n\t"], "char", 99)
    text = "the  prince\n\tsaid!"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_trains_one_of_its_own_and_goes_on(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(TEXT * 40, encoding="utf-8")
    sizes = ("--model.context-length", 16, "--model.n-embd", 16, "--model.n-layer", 1)
    plan = ("--training.steps", 2, "--training.batch-size", 2, "--model.n-head", 2)
    options = ("--data.tokenizer", kind, "--model.vocab-size", 40, "--device", "cpu")
    written(capsys, "train", text, *options, *sizes, *plan, "--folder", run)
    written(capsys, "train", "--resume", "--training.steps", 4, "--device", "cpu", "--folder", run)
    model, tokenizer = load_model(run)
    assert isinstance(tokenizer, BPETokenizer)
    assert model.config.vocab_size == tokenizer.vocab_size <= 40
    assert load_model(run / "model")[1].encode("said so") == tokenizer.encode("said so")


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_trained_one_is_saved_read_and_trained_with(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 40, encoding="utf-8")
    folder = tmp_path / kind
    options = ("--kind", kind, "--vocab-size", 45, "--special", "<|pad|>", "--save", folder)
    written(capsys, "tokenizer", "train", text, *options)
    tokenizer = named_tokenizer(str(folder))
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.special_tokens == {UNKNOWN: 0, END_OF_TEXT: 1, "<|pad|>": 2}
    ids = tokenizer.encode(f"the prince ☃<|pad|>{END_OF_TEXT}", {"<|pad|>", END_OF_TEXT})
    assert ids[-3:] == [0, 2, 1]
    assert tokenizer.decode(ids[:-3]).strip() == "the prince"
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert theirs.encode("so the princess said") == tokenizer.encode("so the princess said")


def test_another_kind_takes_the_place_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, folder = tmp_path / "text.txt", tmp_path / "mine"
    text.write_text(TEXT * 40, encoding="utf-8")
    words = ("tokenizer", "train", text, "--save", folder)
    written(capsys, *words, "--kind", "unigram", "--vocab-size", 45)
    assert "--overwrite" in refusal(capsys, *words, "--vocab-size", 260)
    written(capsys, *words, "--vocab-size", 260, "--overwrite")
    assert sorted(path.name for path in folder.iterdir()) == ["merges.txt", "vocab.json"]
    assert BPETokenizer.load(folder).vocab_size == 260
    tokenizer = named_tokenizer(str(folder))
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.vocab_size == 260


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
@pytest.mark.parametrize(
    ("text", "size", "said"), [("abcdefgh" * 9, 5, "enough|below"), ("\n", 99, "empty|no text")]
)
def test_what_gives_no_tokenizer_is_refused(
    kind: str, text: str, size: int, said: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "text.txt").write_text(text)
    words = ("--kind", kind, "--vocab-size", size, "--save", tmp_path / "x")
    message = refusal(capsys, "tokenizer", "train", tmp_path / "text.txt", *words)
    assert any(part in message for part in said.split("|")), message
