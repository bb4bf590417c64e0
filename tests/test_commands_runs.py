"""Runs that go on with another plan, begin with a model, learn answers, are listed and drawn."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refusal, written
from test_commands_train import N_STEPS, TINY, book, call, killed_at, losses, parse, weights

from gptlib import training
from gptlib.extras.chat import load_form
from gptlib.extras.models import SHIPPED, load_model
from gptlib.extras.runs import JsonLines
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer
from gptlib.training import learning_rate_at, load_checkpoint
from gptlib.weights import load_gpt2, save_gpt2

__all__ = ["book"]
PLAN = ("--training.steps", 6, "--training.batch-size", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def run(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run; nobody may change it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert call("train", book, *TINY, "--folder", folder) == 0
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = BPETokenizer.train("the prince said that the princess had said so " * 3, 270)
    config = GPTConfig(vocab_size=270, context_length=32, n_layer=1, n_head=2, n_embd=16)
    save_gpt2(GPT(config, torch.Generator().manual_seed(0)), tokenizer, place)
    return place


# Going on with another plan


def test_a_finished_run_goes_on_with_more_steps_and_another_plan(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    assert call("train", book, *TINY, "--folder", folder) == 0
    more = (
        *("--training.steps", 16, "--training.max-learning-rate", 1e-3),
        *("--training.batch-size", 3, "--training.report-every", 2),
    )
    capsys.readouterr()
    assert call("train", "--resume", "--folder", folder, *more, "--device", "cpu") == 0
    err = capsys.readouterr().err
    assert "from step 12 on" in err
    assert "note: n_steps was 12 and is 16 from here on" in err
    lines = JsonLines.read(folder / "log.jsonl")
    [(place, change)] = [(i, line) for i, line in enumerate(lines) if "changed" in line]
    assert change["step"] == lines[place - 1]["step"] == N_STEPS
    assert change["changed"]["batch_size"] == [2, 3]
    plan = parse("--config", folder / "config.yaml").training
    assert (plan.n_steps, plan.batch_size, plan.max_learning_rate) == (16, 3, 1e-3)
    assert [line["step"] for line in lines[place + 1 :]] == [14, 16]
    assert lines[-2]["learning_rate"] == learning_rate_at(13, plan)
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 16
    loaded, _ = load_model(folder)
    assert torch.equal(loaded.state_dict()["ln_f.weight"], weights(folder)["ln_f.weight"])
    assert call("train", "--resume", "--folder", folder, "--training.report-every", 7) == 0
    assert "is complete: 16 steps are done" in capsys.readouterr().err
    assert parse("--config", folder / "config.yaml").training == plan  # no step followed another
    said = refusal(capsys, "train", "--resume", "--folder", folder, "--training.steps", 5)
    assert "has done 16 steps, and --training.n-steps is 5; ask for more, or leave it out" in said
    said = refusal(capsys, "train", "--resume", "--folder", folder, "--model.n-layer", 2)
    assert "was begun with model.n_layer 1, not 2; leave --model.n-layer out to go on" in said


def test_after_a_nan_the_advice_leads_on(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate is too high from step 5 on, after the checkpoint of step 4."""
    folder, take = tmp_path / "r", training.take_step

    def burst(state: Any, *rest: Any, **named: Any) -> Any:
        if state.step == 5 and state.config.max_learning_rate > 0.01:
            with torch.no_grad():
                state.model.ln_f.weight.fill_(float("nan"))
        return take(state, *rest, **named)

    monkeypatch.setattr(training, "take_step", burst)
    words = (*TINY, "--training.max-learning-rate", 0.02, "--folder", folder)
    with pytest.raises(SystemExit):
        call("train", book, *words)
    err = capsys.readouterr().err
    [advice] = re.findall(r"go on from step 4 with: python -m gptlib (.*), or begin anew", err)
    assert "--training.max-learning-rate 0.002" in advice
    assert call(*advice.split(), "--device", "cpu") == 0
    assert [step for step, *_ in losses_only(folder)] == list(range(1, N_STEPS + 1))


def losses_only(folder: Path) -> list[tuple[int, float]]:
    lines = JsonLines.read(folder / "log.jsonl")
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_where_nothing_was_learnt_another_plan_needs_no_flag_and_keeps_what_was_prepared(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r"
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", killed_at(2))
        assert call("train", book, *TINY, "--folder", folder) == 130
    words = folder / "tokenizer" / "vocab.json"
    before = words.stat().st_mtime_ns
    (folder / ".checkpoint.pt.1.part").write_bytes(b"half")
    more = ("--model.n-layer", 2, "--training.seed", 3)
    assert call("train", book, *TINY, *more, "--folder", folder) == 0
    assert words.stat().st_mtime_ns == before
    assert not list(folder.glob(".*.part"))
    assert parse("--config", folder / "config.yaml").model.n_layer == 2
    assert len(losses(folder)) == N_STEPS


# Defaults that depend on the run


@pytest.mark.parametrize("steps", [1, 2, 97, 4500, 9000])
def test_a_ready_plan_is_shortened_with_the_steps(steps: int) -> None:
    config = parse("book.txt", "--training.steps", steps).training
    share = min(1, steps / 4500)
    assert config.warmup_steps == round(200 * share)
    assert config.evaluate_every == max(1, round(750 * share))
    assert config.save_every == max(1, round(500 * share))
    typed = parse("book.txt", "--training.n_steps", steps, "--training.save-every", 9).training
    assert typed.save_every == 9


# What GPT-2's layout can't hold


@pytest.mark.parametrize("odd", [("--model.bias", "false"), ("--model.positions", "sinusoidal")])
def test_a_model_that_is_none_of_gpt2_s_is_trained_to_the_end_and_writes(
    odd: tuple[str, str], book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    assert call("train", book, *TINY, *odd, "--folder", folder) == 0
    err = capsys.readouterr().err
    assert "note: in GPT-2's layout, biases of zero or a table of positions will be added" in err
    ours, tokens = load_gpt2(folder / "model")[0], torch.arange(12)[None]
    checkpoint = load_checkpoint(folder / "checkpoint.pt")
    theirs = GPT(GPTConfig(**checkpoint["model_config"])).eval()
    theirs.load_state_dict(checkpoint["model"])
    assert torch.allclose(ours(tokens), theirs(tokens), atol=1e-6)
    assert call("train", "--resume", "--folder", folder) == 0
    assert "is complete" in capsys.readouterr().err


# Beginning with a model


@pytest.mark.parametrize("lora", [(), ("--lora",), ("--lora.rank", 2)])
def test_a_model_goes_on_with_a_text_with_its_tokenizer_and_its_sizes(
    lora: tuple[Any, ...],
    book: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, whole = tmp_path / "r", tmp_path / "whole"
    words = ("train", book, "--init", model, *PLAN, *lora, "--model.context-length", 16)
    words += ("--training.save-every", 2)
    assert call(*words, "--folder", whole) == 0
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", killed_at(3))
        assert call(*words, "--folder", folder) == 130
    begun, _ = load_model(model)
    stopped, _ = load_model(folder)  # a run that is not complete
    assert stopped.config.context_length == 16
    assert call("train", "--resume", "--folder", folder, "--device", "cpu") == 0
    assert losses(folder) == losses(whole)
    tuned, tokenizer = load_gpt2(folder / "model")
    assert tokenizer.encode_ordinary("prince") == load_model(model)[1].encode_ordinary("prince")
    moved = (tuned.blocks[0].attn.qkv.weight - begun.blocks[0].attn.qkv.weight).abs()
    assert 0 < moved.max() < 0.1
    assert torch.equal(tuned.head.weight, begun.head.weight) == bool(lora)


def test_what_a_model_brings_along_can_t_be_chosen(
    book: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in (
        ("--model.n-layer", 2),
        ("--start-std", 0.1),
        ("--data.tokenizer", "gpt2"),
    ):
        said = refusal(capsys, "train", book, "--init", model, option, value)
        assert f"{option} is for a model that begins from nothing; leave it out, or leave" in said


def test_the_shipped_model_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    printed = written(capsys, "train", "x.txt", "--init", SHIPPED, "--print-config")
    assert f"models/{SHIPPED}" in printed
    assert "n_steps: 300" in printed


# Learning answers


@pytest.fixture
def records(tmp_path: Path) -> Path:
    file = tmp_path / "records.jsonl"
    words = ["prince", "princess", "said", "so", "that", "had"] * 3
    lines = [{"instruction": "say", "input": word, "output": word} for word in words]
    lines.append({"instruction": "say " * 40, "output": "too long"})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def test_a_run_of_a_text_is_none_for_tune(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", book, *TINY, "--start-std", 0.02, "--folder", tmp_path / "r") == 0
    capsys.readouterr()
    said = refusal(capsys, "tune", "--resume", "--folder", tmp_path / "r")
    assert "is for train; write train instead of tune" in said
    said = refusal(capsys, "tune", book, "--config", "war-and-peace-cpu")
    assert "is for train; write train instead of tune" in said


@pytest.mark.parametrize("lora", [(), ("--lora",)])
def test_tune_learns_answers_and_goes_on_to_the_bit(
    lora: tuple[str, ...],
    records: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, whole = tmp_path / "r", tmp_path / "whole"
    words = ("tune", records, "--model", model, *PLAN, *lora, "--training.save-every", 2)
    assert call(*words, "--folder", whole) == 0
    err = capsys.readouterr().err
    assert "note: records: 19" in err
    assert "note: 1 records are left out; the prompt of record 19, 1" in err
    assert "16 answers to learn from, 2 to judge by" in err
    with monkeypatch.context() as patch:
        patch.setattr("gptlib.instructions.take_step", killed_at(3))
        assert call(*words, "--folder", folder) == 130
    records.unlink()  # the run has its own copy
    assert call("tune", "--resume", "--folder", folder, "--device", "cpu") == 0
    assert losses(folder) == losses(whole)
    assert losses(folder)[-1][2] is not None
    form = load_form(folder / "model")
    assert form is not None
    assert form.name == "chat"
    capsys.readouterr()
    said = refusal(capsys, "train", "--resume", "--folder", folder)
    assert "is for tune; write tune instead of train" in said
    assert call("tune", "--resume", "--folder", folder) == 0
    assert "is complete: 6 steps are done" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ""),
        ("no json", ""),
        ("[1]", ""),
        ('{"ask": "a", "say": "b"}', "say it with --fields instruction=KEY,output=KEY"),
    ],
)
def test_a_file_without_records_is_told_in_one_line(
    text: str, message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(text)
    words = ("tune", tmp_path / "r.json", "--model", model, "--folder", tmp_path / "r")
    assert message in refusal(capsys, *words)
    assert not (tmp_path / "r").exists()


def test_one_record_is_too_few(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text('{"instruction": "a", "output": "b"}')
    with pytest.raises(SystemExit):
        call("tune", tmp_path / "r.json", "--model", model, "--folder", tmp_path / "r")
    assert "1 records are too few; 2 is the least, 100 a beginning" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


# Runs listed and drawn


def test_runs_are_listed_and_sorted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = written(capsys, "runs", run.parent).splitlines()
    assert lines[0].split()[:3] == ["run", "when", "text"]
    assert "book.txt" in lines[1]
    assert "12 of 12" in lines[1]
    assert lines[1].endswith("complete")
    empty = run.parent / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    monkeypatch.setenv("GPTLIB_RUNS", str(run.parent))
    for order in ("when", "run", "parameters", "steps", "loss"):
        assert written(capsys, "runs", "--sort", order)
    found = json.loads(written(capsys, "runs", "--sort", "loss", "--json"))
    assert [(each["state"], each["steps"]) for each in found] == [("complete", 12), ("empty", 0)]
    assert found[0]["loss"] == min(row[2] for row in losses(run) if row[2])
    monkeypatch.setenv("GPTLIB_RUNS", str(tmp_path / "none"))
    assert "there is no folder" in refusal(capsys, "runs")


@pytest.mark.parametrize("name", ["p.svg", "p.png", "p.html"])
def test_runs_are_drawn_with_what_differs_in_the_legend(
    name: str, run: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert call("train", book, *TINY, "--training.seed", 7, "--folder", other) == 0
    assert (other / "loss.svg").read_bytes().startswith(b"<?xml")
    written(capsys, "plot", run, other, "--save", tmp_path / name)
    drawn = (tmp_path / name).read_bytes()
    if name == "p.png":
        assert drawn.startswith(b"\x89PNG")
    else:
        text = drawn.decode()
        assert "other (seed 7)" in text
        assert "whole (seed 0)" in text
        addresses = re.findall(r"(?:src|href)=\"(https?:[^\"]*)", text)
        assert not addresses, "it needs a network"
    curves = json.loads(written(capsys, "plot", run, "--json"))
    assert curves[str(run)]["loss"][0] == [1, losses(run)[0][1]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere holds no run; name a folder that train made"),
        (["RUN", "--save", "x.gif"], "end the name in .png, .svg or .html"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_bad_values_of_plot_are_told_in_one_line(
    words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "plot", *[str(run) if word == "RUN" else word for word in words])
    assert message in said
