"""`classify` sorts messages as the library does, and makes classifiers of files of records."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import pipe_in, refusal, written
from safetensors.torch import load_file

from gptlib.classification import load_classifier, predict_probabilities
from gptlib.extras.models import load_model
from gptlib.extras.runs import JsonLines
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer
from gptlib.weights import save_gpt2

GOOD = [f"ham\tsee you at {hour} by the {place}" for hour in range(9) for place in ("gate", "sea")]
BAD = [f"spam\twin {sum_}00 pounds now {word}" for sum_ in range(9) for word in ("call", "text")]
MESSAGES = ["see you at 5", "win pounds now"]
PLAN = ["--frozen", "nothing", "--n-epochs", 8, "--learning-rate", 0.01]
PLAN += ["--head-learning-rate", 0.01]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = BPETokenizer.train("\n".join(GOOD + BAD), 280)
    config = GPTConfig(vocab_size=280, context_length=32, n_layer=1, n_head=2, n_embd=16)
    save_gpt2(GPT(config, torch.Generator().manual_seed(0)), tokenizer, place)
    return place


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "records.tsv"
    words = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six"}
    text = "\n".join([*GOOD, *BAD, "no tab"]) + "\n"
    for digit, word in words.items():  # numbers alone don't make two messages different
        text = text.replace(digit, f"{word} ")
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def classifier(model: Path, records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gptlib.extras.cli import main

    place = tmp_path_factory.mktemp("classifiers") / "filter"
    words = ["classify", "--train", records, "--save", place, "--model", model, *PLAN]
    assert main([str(word) for word in words]) == 0
    return place


def test_a_classifier_is_made_of_records_and_judged_on_others(
    model: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gptlib.extras.cli import main

    words = ["classify", "--train", records, "--save", tmp_path / "c", "--model", model]
    assert main([str(word) for word in [*words, "--n-epochs", 1]]) == 0
    out = capsys.readouterr().out
    assert "records to learn from" in out
    assert "epoch 1: loss" in out
    assert "messages that it never saw are sorted rightly" in out
    assert "  spam: precision" in out
    assert "left out:      1: line 37: no tab between label and text" in out
    assert "holds a model; name another folder" in refusal(capsys, *words)


def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(
    model: Path,
    records: Path,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gptlib.extras.cli import main

    place = tmp_path / "filter"
    words = ["classify", "--train", records, "--save", place, "--model", model, *PLAN]
    assert "holds nothing to resume" in refusal(capsys, *words, "--resume")
    write, n_written = JsonLines.write, []

    def stop(log: JsonLines, record: dict[str, Any]) -> None:
        write(log, record)
        n_written.append(1)
        if len(n_written) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "write", stop)
        assert main([str(word) for word in words]) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err
    assert "add --resume" in refusal(capsys, *words)
    with pytest.raises(SystemExit):
        main([str(word) for word in [*words, "--resume", "--seed", 1]])
    assert "is of another plan or other records" in capsys.readouterr().err
    with pytest.raises(ValueError, match="of a classifier that was stopped; finish it with"):
        load_model(place)
    assert main([str(word) for word in [*words, "--resume"]]) == 0
    assert "epoch 3:" not in (out := capsys.readouterr().out)
    assert "epoch 4:" in out
    for name in ("model.safetensors", "head.safetensors"):
        tensors, others = load_file(place / name), load_file(classifier / name)
        assert all(torch.equal(tensors[key], others[key]) for key in others)
    steps = [line["step"] for line in JsonLines.read(place / "log.jsonl")]
    assert steps == [line["step"] for line in JsonLines.read(classifier / "log.jsonl")]
    assert not (place / "checkpoint.pt").exists()


def test_each_message_gets_a_line_from_arguments_a_file_and_standard_input(
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("classify", "--model", classifier)
    lines = written(capsys, *words, *MESSAGES)
    loaded = load_classifier(classifier)
    expected = predict_probabilities(loaded, MESSAGES)
    for line, message, row in zip(lines.splitlines(), MESSAGES, expected, strict=True):
        label, probability, text = line.split("\t")
        assert label == loaded.labels[int(row.argmax())]
        assert float(probability) == pytest.approx(row.max().item(), abs=1e-3)
        assert text == message
    assert [line.split("\t")[0] for line in lines.splitlines()] == ["ham", "spam"]
    file = tmp_path / "m.txt"
    file.write_bytes("\ufeff".encode() + "\r\n\n".join(MESSAGES).encode())
    assert written(capsys, *words, "--file", file) == lines
    pipe_in(monkeypatch, "\n".join(MESSAGES).encode())
    assert written(capsys, *words) == lines
    first = json.loads(written(capsys, *words, "--json", MESSAGES[0]))
    assert first["label"] == "ham"
    assert sum(first["probabilities"].values()) == pytest.approx(1)


def test_a_message_beyond_the_context_is_cut_and_that_is_said(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gptlib.extras.cli import main

    assert main(["classify", "--model", str(classifier), "see you " * 60]) == 0
    assert "note: only the first 32 tokens are read of 'see you" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hello"], "name a classifier with --model DIR; one is made with --train"),
        (["--model", ".", "hello"], ". is no classifier; one is made with --train"),
        (["--model", ".", "a", "--file", "b"], "give messages or --file, not both"),
        (["--model", ".", "--file", "b"], "there is no file 'b'; name one that is there"),
        (["--save", "x", "hello"], "--save belongs to --train; add the file of records"),
        (["--resume", "hello"], "--resume belongs to --train; add the file of records"),
        (["--n-epochs", "2", "hello"], "--n-epochs belongs to --train; add the file"),
        (["--train", "x"], "--train needs a place for the classifier; add --save DIR"),
        (["--train", "x", "--save", __file__], "can't be a folder; name a new one"),
        (["--train", "x", "--save", "y", "hello"], "--train makes a classifier; sort messages"),
        (["--train", "x", "--save", "y"], "there is no file 'x'; name one that is there"),
        (["--train", "x", "--delimiter", "ab"], "'ab' is no character; write one, or tab"),
        (
            ["--train", "x", "--save", "y", "--n-epochs", "0"],
            "--n-epochs is 0; it must be a whole number, at",
        ),
        (
            ["--train", "x", "--frozen", "ice"],
            "--frozen: 'ice' can't be used; write all, all but the last block or nothing",
        ),
    ],
)
def test_bad_values_of_classify_are_told_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe_in(monkeypatch, b"")
    assert message in refusal(capsys, "classify", *words)


def test_a_model_without_a_head_is_no_classifier(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no head.safetensors" in refusal(capsys, "classify", "--model", model, "hello")
