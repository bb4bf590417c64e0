"""`train`: the same run by options and by YAML, stopped and resumed, kept and shown."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import PATIENCE, POSIX, refusal, talk_at_terminal, written
from test_compiled import needs_compiler

from gptlib import training
from gptlib.embeddings import split_tokens
from gptlib.extras import datasets, run_logs, runs, texts
from gptlib.extras.cli import main
from gptlib.extras.commands import train as command
from gptlib.extras.fast import fast
from gptlib.extras.models import load_model
from gptlib.extras.runs import READY_CONFIGS, SECTIONS, JsonLines, RunConfig, to_yaml
from gptlib.generation import Sampling, generate
from gptlib.gpt2 import GPT, GPTConfig, count_parameters
from gptlib.scaling import chunked_loss
from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, find_data, gpt2_encoding
from gptlib.training import TrainingConfig, load_checkpoint, train
from gptlib.weights import load_gpt2

N_STEPS = 12
TINY = (
    *("--training.steps", N_STEPS, "--training.warmup-steps", 2, "--training.batch-size", 2),
    *("--training.evaluate-every", 6, "--training.save-every", 4, "--device", "cpu"),
    *("--model.vocab-size", 300, "--model.context-length", 16, "--model.n-embd", 16),
    *("--model.n-layer", 1, "--model.n-head", 2, "--model.dropout", 0.1),
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts") / "book.txt"
    place.write_bytes(find_data("stand-in-war-and-peace.txt").read_bytes()[:8000])
    return place


@pytest.fixture(scope="module")
def run(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run that was never stopped; nobody may change it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert call("train", book, *TINY, "--folder", folder) == 0
    return folder


def call(*words: object) -> int:
    return main([str(word) for word in words])


def parse(*words: object) -> RunConfig:
    parsed = command.parser("python -m gptlib train").read([str(word) for word in words])
    config: RunConfig = parsed.run
    return config


def stopped(*_: Any) -> None:
    raise KeyboardInterrupt


def killed_at(step: int) -> Callable[..., Any]:
    take = training.take_step

    def take_until(state: Any, *rest: Any, **named: Any) -> Any:
        if state.step == step:
            raise KeyboardInterrupt
        return take(state, *rest, **named)

    return take_until


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoint.pt")["model"]
    return model


def losses(folder: Path) -> list[tuple[int, float, float | None]]:
    lines = JsonLines.read(folder / "log.jsonl")
    return [(line["step"], line["loss"], line["validation_loss"]) for line in lines]


# The configuration


@pytest.mark.parametrize("name", READY_CONFIGS)
def test_a_ready_configuration_is_valid_and_says_what_it_needs(name: str) -> None:
    config = parse("--config", name)
    sizes = GPTConfig(**vars(config.model))
    assert TrainingConfig(**vars(config.training)).n_steps > 0
    assert count_parameters(sizes)["total"] < 130_000_000
    comment = READY_CONFIGS[name].read_text(encoding="utf-8").partition("data:")[0]
    assert comment.startswith("# ")
    assert "fetched" in comment or "Name the text" in comment


def test_gpt2_s_configuration_is_gpt2_s() -> None:
    config = parse("--config", "gpt2-124M")
    assert count_parameters(GPTConfig(**vars(config.model)))["total"] == 124_439_808
    assert config.data.tokenizer == "gpt2"


def test_options_change_a_configuration_in_each_spelling_and_yaml_gives_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spelled = [
        parse("--config", "war-and-peace-cpu", option, 500)
        for option in ("--training.steps", "--training.n-steps", "--training.n_steps")
    ]
    assert spelled[0] == spelled[1] == spelled[2]
    assert spelled[0].training.n_steps == 500
    words = ("--config", "war-and-peace-cpu", "--training.betas", "[0.8,0.95]", "--start-std", 0.1)
    printed = written(capsys, "train", *words, "--training.steps=500", "--print-config")
    (tmp_path / "my.yaml").write_text(printed, encoding="utf-8")
    assert parse("--config", tmp_path / "my.yaml") == parse(*words, "--training.steps", 500)
    assert printed == to_yaml(parse("--config", tmp_path / "my.yaml"))
    values = yaml.safe_load(printed)
    assert values["training"]["betas"] == [0.8, 0.95]
    assert values["start_std"] == 0.1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--onednn", "book.txt"), True),
        (("--onednn", "false", "book.txt"), False),
        (("--onednn=null", "book.txt"), None),
        (("book.txt", "--onednn"), True),
    ],
)
def test_a_switch_takes_a_value_and_never_a_text(words: tuple[str, ...], expected: object) -> None:
    config = parse(*words)
    assert config.onednn is expected
    assert config.data.texts == ("book.txt",)


@pytest.mark.parametrize("option", ["--read-special", "--data.read-special", "--model.bias"])
def test_a_field_that_is_true_or_false_never_takes_a_text(option: str) -> None:
    config = parse(option, "book.txt", "--model.tie-weights", "FALSE", "--model.qkv-bias")
    assert config.data.texts == ("book.txt",)
    assert config.data.read_special == option.endswith("special")
    assert (config.model.bias, config.model.tie_weights, config.model.qkv_bias) == (1, 0, 1)


def test_help_shows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call("train", "--help")
    said = capsys.readouterr().out
    for section, made_by in SECTIONS.items():
        for field in fields(made_by):
            assert f"  --{section}.{field.name.replace('_', '-')} " in said
    assert "(default: 0.003)" in said
    assert all(len(line) <= 100 for line in said.splitlines())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to learn from; name a text, such as my-book.txt, or a conf"),
        (["nowhere.txt"], "there is no file or folder 'nowhere.txt'; name one that is there"),
        (["--config", "gpt2-124M"], "there is no text to learn from; name files or folders"),
        (["wikitext-2"], "wikitext-2-valid and wikitext-2-test are known, to judge by"),
        (["--config", "novels-cpu"], "'library'; let python data/models/make_library.py of the"),
        (
            ["--config", "war-and-peace"],
            "or one of fine-tune, gpt2-124M, novels-cpu, novels-gpu, tiny",
        ),
        (["--config", "war-and-peace"], "did you mean war-and-peace-cpu?"),
        (
            ["BOOK", "--training.steps", "x"],
            "--training.n-steps: 'x' can't be used; write a whole number",
        ),
        (
            ["BOOK", "--training.steps", "0"],
            "--training.n-steps is 0; it must be a whole number of",
        ),
        (["BOOK", "--training.betas", "[1]"], "write two numbers like [0.9, 0.95]"),
        (
            ["BOOK", "--training.precision", "int8"],
            "'int8' can't be used; write float32 or bfloat16",
        ),
        (["BOOK", "--training.stops", "5"], "--training.stops; did you mean --training.steps?"),
        (["BOOK", "--training.warmup-steps", "4500"], "--training.warmup-steps is 4500; it must"),
        (["BOOK", "--training.max-learning-rate", "inf"], "is inf; it must be above 0 and finite"),
        (["BOOK", "--training.weight-decay", "nan"], "is nan; it must be from 0 to 100"),
        (["BOOK", "--training.betas", "[1, 0.9]"], "it must be two numbers from 0 to below 1"),
        (["BOOK", "--training.seed", "-1"], "--training.seed is -1; it must be from 0 to 92233"),
        (["BOOK", "--start-std", "inf"], "--start-std is inf; it must be above 0 and at most 100"),
        (
            ["BOOK", "--model.n-layer", "99999999"],
            "--model.n-layer is 99999999; it must be at most",
        ),
        (
            ["BOOK", "--model.n-embd", "8000000000"],
            "--model.n-embd is 8000000000; it must be at most",
        ),
        (["BOOK", "--model.d-ff", "8000000000"], "--model.d-ff is 8000000000; it must be at most"),
        (["BOOK", "--lora.alpha", "inf"], "--lora.alpha is inf; it must be above 0 and finite"),
        (
            ["BOOK", "--model.n-head", "3"],
            "--model.n-embd is 128; it must be divisible by --model.n-head",
        ),
        (
            ["BOOK", "--model.bias", "no"],
            "--model.bias: 'no' can't be used; write true or false",
        ),
        (
            ["BOOK", "--model.bias=maybe"],
            "--model.bias: 'maybe' can't be used; write true or false",
        ),
        (["BOOK", "--data.validation-fraction", "1"], "--data.validation-fraction is 1.0; it must"),
        (["BOOK", "--start-std", "0"], "--start-std is 0.0; it must be above 0"),
        (["BOOK", "--model.vocab-size", "99999"], "needs more text: this one is enough for"),
        (
            ["BOOK", "--model.vocab-size", "300", "--model.context-length", "9999"],
            "give no window of",
        ),
        (["BOOK", "--data.tokenizer", "nowhere"], "there is no tokenizer 'nowhere'; name gpt2"),
        (["BOOK", "--device", "gpu"], "--device is 'gpu'; use cpu, cuda, cuda:N"),
        (["BOOK", "--wandb", "maybe"], "argument --wandb: invalid choice: 'maybe' (choose from"),
        (["BOOK", "--strategy", "ddp"], "--strategy is for several processes; start them with"),
        (["BOOK", "--resume", "--overwrite"], "--resume goes on and --overwrite begins anew"),
        (
            ["BOOK", "--device", "cpu", "BOOK"],
            "belongs to no option; leave it out, or put texts side",
        ),
        (["BOOK", "--resume"], "holds no run, so there is nothing to resume; leave --resume out"),
        ([""], "a text's name is empty; name a file or a folder"),
        (["BOOK", "--folder", ""], "--folder is empty; name the run's folder, or leave it out"),
        (["BOOK", "--folder", "BOOK"], "holds something that is no run"),
        (["BOOK", "--fold", "x"], "there is no option --fold; did you mean --folder?"),
        (["--resume"], "--resume needs to know which run goes on; add --folder DIR"),
        (["BOOK", "--folder", "."], ". holds something that is no run; name another folder"),
    ],
)
def test_bad_values_of_train_are_told_in_one_line_and_leave_nothing(
    words: list[str],
    message: str,
    book: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", "")
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    (tmp_path / "mine").write_text("keep me")
    said = refusal(capsys, "train", *[str(book) if word == "BOOK" else word for word in words])
    assert message in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "mine"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training:\n  n_steps: many\n",
            "--training.n-steps: 'many' can't be used; write a whole number",
        ),
        (
            "training:\n  n_step: 5\n",
            "'training.n_step', which is none of its fields; did you mean training.n_steps?",
        ),
        ("data: [", "bad.yaml is no YAML (while parsing a flow node"),
        ("\x00", "bad.yaml is no YAML (unacceptable character"),
        ("", "bad.yaml is no configuration: data, model and training have fields below them"),
        ("5", "print one that works with --print-config"),
        ("training: 5", "bad.yaml is no configuration"),
        ("model:\n  n_layer: 2\n", "the following arguments are required: --training.n-steps"),
    ],
)
def test_a_bad_yaml_file_is_told_in_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert message in refusal(capsys, "train", "--config", tmp_path / "bad.yaml")


# A run


def test_a_run_learns_what_the_library_learns(run: Path, book: Path) -> None:
    text = book.read_text(encoding="utf-8")
    tokenizer = BPETokenizer.train(text, 300)
    tokens = [*tokenizer.encode(text), tokenizer.special_tokens[END_OF_TEXT]]
    learn, judge = split_tokens(torch.tensor(tokens))
    torch.manual_seed(0)
    model = GPT(GPTConfig(300, 16, 1, 2, 16, 0.1), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(0.05 / 0.02)
    plan = TrainingConfig(
        N_STEPS, 2, warmup_steps=2, report_every=1, evaluate_every=6, save_every=4
    )
    reports = list(train(model, learn, judge, plan, loss=chunked_loss))
    assert losses(run) == [(r.step, r.loss, r.validation_loss) for r in reports]
    loaded, words = load_gpt2(run / "model")
    assert isinstance(words, BPETokenizer)
    assert words.merges == tokenizer.merges
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert set(os.listdir(run)) == {
        *("config.yaml", "tokenizer", "tokens.bin", "tokens.bin.json"),
        *("checkpoint.pt", "log.jsonl", "model", "loss.svg"),
    }
    last = JsonLines.read(run / "log.jsonl")[-1]
    n_bytes = len(tokenizer.decode(judge[1:-1].tolist()).encode())
    bits = training.bits_per_byte(last["validation_loss"], len(judge) - 1, n_bytes)
    assert last["bits_per_byte"] == pytest.approx(bits)


def test_the_run_s_yaml_reproduces_it(run: Path, tmp_path: Path) -> None:
    config = parse("--config", run / "config.yaml")
    assert config.model.vocab_size == 300
    again = tmp_path / "again"
    assert call("train", "--config", run / "config.yaml", "--folder", again) == 0
    assert losses(again) == losses(run)


def test_a_run_is_never_replaced_without_being_told(
    run: Path, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "checkpoint.pt").read_bytes()
    said = refusal(capsys, "train", book, *TINY, "--folder", run)
    assert "holds a run already; go on with --resume, name another folder with --folder, or" in said
    said = refusal(capsys, "train", book, *TINY, "--training.seed", 5, "--folder", run, "--resume")
    assert "was begun with training.seed 0, not 5; leave --training.seed out to go on" in said
    assert call("train", book, *TINY, "--folder", run, "--resume") == 0
    assert "is complete: 12 steps are done" in capsys.readouterr().err
    assert (run / "checkpoint.pt").read_bytes() == before


def test_overwrite_replaces_a_run_and_nothing_else(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLIB_RUNS", str(tmp_path / "my-runs"))
    assert call("train", book, *TINY) == 0
    folder = tmp_path / "my-runs" / "book"
    (folder / "notes.txt").write_text("mine")
    assert call("train", book, *TINY, "--training.seed", 1, "--overwrite") == 0
    assert (folder / "notes.txt").read_text() == "mine"
    assert parse("--config", folder / "config.yaml").training.seed == 1
    capsys.readouterr()
    wrong = refusal(capsys, "train", book, *TINY, "--overwrite", "--device", "cuda:99")
    assert "PyTorch sees" in wrong
    assert (folder / "model" / "model.safetensors").is_file()  # refused before it was replaced
    for name in ("shutil.rmtree", "gptlib.extras.runs.whole_file"):  # in the deletion, behind it
        with monkeypatch.context() as patch:
            patch.setattr(name, stopped)
            assert call("train", book, *TINY, "--overwrite") == 130
    assert call("train", book, *TINY, "--overwrite") == 0
    capsys.readouterr()
    (folder / "config.yaml").unlink()
    assert "holds something that is no run" in refusal(
        capsys, "train", book, *TINY, "--overwrite", "--folder", folder
    )


@pytest.mark.parametrize("is_restart", [False, True])
def test_a_killed_run_goes_on_to_the_bit(
    is_restart: bool, run: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at step 7, after the checkpoint of step 4, with half a line in the log."""
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", killed_at(7))
        assert call("train", book, *TINY, "--folder", folder) == 130
    assert [step for step, *_ in losses(folder)] == [1, 2, 3, 4, 5, 6, 7]
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"step": 8, "lo')
    model, _ = load_model(folder)
    assert model.config.vocab_size == 300
    if is_restart:  # torchrun calls the same words again
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        assert call("train", book, *TINY, "--overwrite", "--folder", folder) == 0
    else:
        assert call("train", "--resume", "--folder", folder, "--device", "cpu") == 0
    assert losses(folder) == losses(run)
    for name, value in weights(run).items():
        assert torch.equal(value, weights(folder)[name]), name
    seconds = [line["seconds"] for line in JsonLines.read(folder / "log.jsonl")]
    assert seconds == sorted(seconds)


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> Iterator[int]:
        raise KeyboardInterrupt

    folder = tmp_path / "early"
    with monkeypatch.context() as patch:
        patch.setattr(texts, "prepare_tokens", killed)
        assert call("train", book, *TINY, "--folder", folder) == 130
    assert "stopped; no step is saved. Go on with: python -m gptlib train --resume --folder" in (
        capsys.readouterr().err
    )
    assert "has no checkpoint yet; go on with" in refusal(
        capsys, "generate", "--model", folder, "--prompt", "x"
    )
    assert call("train", book, *TINY, "--folder", folder) == 0
    assert len(losses(folder)) == N_STEPS


def test_an_unfinished_run_of_several_processes_of_the_first_edition_is_not_begun_anew(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "older"
    assert call("train", book, *TINY, "--folder", folder) == 0
    (folder / "checkpoint.pt").unlink()
    (folder / "checkpoints" / "step-4").mkdir(parents=True)
    capsys.readouterr()
    for words in (["train", book, *TINY], ["train", "--resume"]):
        assert "that an older gptlib began" in refusal(capsys, *words, "--folder", folder)
    assert call("train", book, *TINY, "--folder", folder, "--overwrite") == 0
    assert not (folder / "checkpoints").exists()


def test_prepared_tokens_and_gpt2_s_tokenizer_are_learnt_from(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared, folder = tmp_path / "prepared", tmp_path / "run"
    written(capsys, "data", "prepare", book, "--save", prepared)
    small = ("--model.n-embd", 2, "--training.steps", 3, "--training.warmup-steps", 1)
    assert call("train", prepared, *TINY, *small, "--folder", folder) == 0
    err = capsys.readouterr().err
    assert "note: model.vocab_size is 50257, as the tokenizer has, not 300" in err
    assert not (folder / "tokens.bin").exists()
    assert parse("--config", folder / "config.yaml").model.vocab_size == 50257
    _, tokenizer = load_model(folder)
    assert tokenizer.encode("War and Peace") == gpt2_encoding().encode("War and Peace")
    said = refusal(capsys, "train", prepared, book, "--folder", tmp_path / "2")
    assert "one is a folder of prepared tokens; name that alone" in said


def test_a_run_of_prepared_tokens_goes_on_with_the_words_that_began_it(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, folder = tmp_path / "prepared", tmp_path / "run"
    options = ("--tokenizer", "train", "--vocab-size", 290)
    written(capsys, "data", "prepare", book, *options, "--save", prepared)
    assert call("train", prepared, *TINY, "--folder", folder) == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # as torchrun calls them again
    assert call("train", prepared, *TINY, "--folder", folder) == 0


@pytest.mark.parametrize("option", ["--checkpoint-activations", "--onednn"])
def test_blocks_that_are_computed_in_another_way_learn_the_same(
    book: Path, tmp_path: Path, option: str
) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    words = ("train", book, *TINY, "--model.n-embd", 256, "--folder")  # oneDNN takes large matrices
    assert call(*words, plain, "--onednn=false") == 0
    with torch.autograd.profiler.profile() as profile:
        assert call(*words, other, option) == 0
    calls = {event.key: event.count for event in profile.key_averages()}
    if option == "--onednn":  # the MLP's two layers, three products each, and the loss's two
        assert calls["mkldnn::_linear_pointwise"] >= N_STEPS * (2 * 3 + 2)
    for ours, theirs in zip(losses(other), losses(plain), strict=True):
        assert ours[1] == pytest.approx(theirs[1], rel=1e-5)


def test_what_multiplies_is_measured_once_and_kept(
    book: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def config(folder: Path) -> dict[str, Any]:
        kept: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return kept

    measured = list[int]()

    def pays(sizes: GPTConfig) -> bool:
        measured.append(sizes.n_embd)
        return True

    monkeypatch.setattr(runs, "onednn_pays", pays)
    words, folder = ("train", book, *TINY, "--folder"), tmp_path / "r"
    assert call(*words, folder) == 0
    said = "matrices are multiplied in oneDNN; with --onednn=false they are not"
    assert said in capsys.readouterr().err
    assert config(folder)["onednn"] is True
    resumed = ("train", "--resume", "--folder", folder, "--device", "cpu", "--training.steps")
    assert call(*resumed, N_STEPS + 1) == 0
    assert said in capsys.readouterr().err
    assert call(*resumed, N_STEPS + 2, "--onednn=false") == 0
    told = capsys.readouterr().err
    assert "onednn was True and is False from here on" in told
    assert said not in told
    assert config(folder)["onednn"] is False
    assert measured == [16]

    (tmp_path / "anew.yaml").write_text("onednn: null\n")
    both = ("--config", "war-and-peace-cpu", "--config", tmp_path / "anew.yaml")
    assert parse(*both).onednn is None
    half = tmp_path / "half"  # PyTorch multiplies those in oneDNN anyway
    assert call(*words, half, "--training.precision", "bfloat16") == 0
    assert config(half)["onednn"] is False
    asked = tmp_path / "asked"
    assert call(*words, asked, "--onednn") == 0
    assert config(asked)["onednn"] is True
    assert measured == [16]


@needs_compiler
def test_a_compiled_step_learns_the_same_and_says_when_it_pays(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", book, *TINY, "--model.dropout", 0)  # with it, other values are dropped
    plain, compiled, both = (tmp_path / name for name in ("plain", "compiled", "both"))
    assert call(*words, "--folder", plain) == 0
    assert call(*words, "--folder", compiled, "--compile") == 0
    assert call(*words, "--folder", both, "--compile", "--onednn") == 0
    for folder in (compiled, both):
        for ours, theirs in zip(losses(folder), losses(plain), strict=True):
            assert ours[1] == pytest.approx(theirs[1], rel=1e-5)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"compiled in \d+ s; a step is (no shorter here|\S+ ms shorter: that)", said)


def test_compiling_is_for_one_process(
    book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--compile is for one process" in refusal(capsys, "train", book, *TINY, "--compile")


def test_the_course_s_novel_is_told_when_it_is_fetched_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_from_address", lambda *_: "no network")
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", "")
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    texts._read_course_text.cache_clear()
    words = ("tokenizer", "train", "war-and-peace", "--vocab-size", 300, "--save", tmp_path / "t")
    assert call(*words) == 0
    texts._read_course_text.cache_clear()
    out, err = capsys.readouterr()
    assert out == f"saved 300 tokens to {tmp_path / 't'}\n"
    assert "note: War and Peace is fetched once (3.4 MB)" in err
    assert "STAND-IN IN USE" in err


def test_too_many_passes_over_a_short_text_are_told(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("the prince said that the princess had said so\n" * 40)
    words = (*TINY, "--model.vocab-size", 270, "--training.steps", 2000, "--folder", tmp_path / "r")
    monkeypatch.setattr(command, "train", lambda *_, **__: iter(()))
    monkeypatch.setattr(command, "_follow", lambda *_: 2000)
    monkeypatch.setattr(command, "_save", lambda *_: None)
    assert call("train", short, *words) == 0
    assert "times is learnt by heart; --training.steps" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_in_one_line(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--training.max-learning-rate", 1e30, "--training.max-gradient-norm", "inf")
    assert call("train", book, *TINY, "--folder", tmp_path / "a") == 0
    with pytest.raises(SystemExit) as caught:
        call("train", book, *TINY, *words, "--folder", tmp_path / "b")
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "lower the learning rate" in err
    assert "begin anew with the same command and --training.max-learning-rate 0.01" in err
    lower = ("--training.max-learning-rate", 0.01, "--folder", tmp_path / "b")
    assert call("train", book, *TINY, *words, *lower) == 0, "no flag is needed"


def test_too_little_memory_is_told_with_the_way_out(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(training, "take_step", full)
    with pytest.raises(SystemExit):
        call("train", book, *TINY, "--folder", tmp_path / "r")
    assert (
        "memory for a step; lower the model's sizes, or lower --training.batch-size"
        in capsys.readouterr().err
    )


# Ctrl-C at a terminal


@POSIX
def test_ctrl_c_keeps_the_step_and_the_run_goes_on_to_the_bit(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by the keyboard in a process of its own, resumed here."""
    folder, whole = tmp_path / "stopped", tmp_path / "whole"
    words = (*TINY, "--training.steps", 300, "--training.save-every", 300)
    with talk_at_terminal("train", book, *words, "--folder", folder) as talk:
        talk.wait_for("tokens/s")
        os.write(talk.out, b"\x03")
        assert "stopping at the next report; Ctrl-C again ends at once" in talk.wait_for("unsaved")
        said = talk.wait_for(f"train --resume --folder {folder}")
        assert "stopped after step" in said
        assert "300 [" in said, "the bar shows how many steps there are"
        assert talk.process.wait(PATIENCE) == 130
        assert b"Traceback" not in talk.seen
    step = load_checkpoint(folder / "checkpoint.pt")["step"]
    assert 0 < step < 300
    assert [line[0] for line in losses(folder)] == list(range(1, step + 1))
    with torch.random.fork_rng():
        torch.set_num_threads(torch.get_num_threads())
        assert call("train", "--resume", "--folder", folder, "--device", "cpu") == 0
    assert call("train", book, *words, "--folder", whole) == 0
    assert f"from step {step} on" in capsys.readouterr().err
    assert losses(folder) == losses(whole)


@POSIX
def test_a_second_ctrl_c_ends_at_once(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    slow = ("--training.steps", 100_000, "--training.report-every", 100_000)
    more = ("--training.evaluate-every", 100_000, "--training.save-every", 100_000)
    with talk_at_terminal("train", book, *TINY, *slow, *more, "--folder", folder) as talk:
        talk.wait_for("100000 [")
        os.write(talk.out, b"\x03")
        talk.wait_for("unsaved")
        os.write(talk.out, b"\x03")
        talk.wait_for("stopped; no step is saved. Go on with")
        assert talk.process.wait(PATIENCE) == 130
        assert b"Traceback" not in talk.seen


# Several processes


def torchrun(*words: object) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "--standalone", "-m", "gptlib", "train", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_under_torchrun_two_processes_learn_the_same_and_one_speaks(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, alone = tmp_path / "two", tmp_path / "one"
    words = (*TINY, "--model.dropout", 0)
    said = torchrun(book, *words, "--folder", folder, "--strategy", "fsdp")
    assert said.count("parameters learn on") == said.count("the model is in") == 1
    assert call("train", book, *words, "--folder", alone) == 0
    for ours, theirs in zip(losses(folder), losses(alone), strict=True):
        assert ours[:2] == pytest.approx(theirs[:2], rel=1e-4)
        assert (ours[2] or 0) == pytest.approx(theirs[2] or 0, rel=1e-4)
    assert load_model(folder)[0].config == load_model(alone)[0].config
    assert call("train", "--resume", "--folder", folder, "--device", "cpu") == 0
    assert "is complete: 12 steps are done" in capsys.readouterr().err


def test_a_run_that_was_begun_alone_goes_on_under_torchrun(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, alone = tmp_path / "two", tmp_path / "one"
    words = (*TINY, "--model.dropout", 0)
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", killed_at(7))
        assert call("train", book, *words, "--folder", folder) == 130
    torchrun("--resume", "--folder", folder)
    assert call("train", book, *words, "--folder", alone) == 0
    for ours, theirs in zip(losses(folder), losses(alone), strict=True):
        assert ours[:2] == pytest.approx(theirs[:2], rel=1e-4)


# TensorBoard and Weights & Biases


def test_tensorboard_gets_the_curves(book: Path, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    program = (
        "import sys\n"
        "from gptlib.extras.cli import main\n"
        "assert main(sys.argv[2:]) == 0\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "read = EventAccumulator(sys.argv[1])\n"
        "read.Reload()\n"
        "import json\n"
        "print(json.dumps({n: [(p.step, p.value) for p in read.Scalars(n)]\n"
        "                  for n in read.Tags()['scalars']}))\n"
    )
    words = ["train", book, *TINY, "--folder", folder, "--tensorboard"]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "tensorboard"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    curves = json.loads(done.stdout)
    assert [step for step, _ in curves["loss"]] == list(range(1, N_STEPS + 1))
    assert [value for _, value in curves["loss"]] == pytest.approx([row[1] for row in losses(run)])
    assert [step for step, _ in curves["bits_per_byte"]] == [6, 12]


def test_weights_and_biases_keeps_the_curves_offline_and_says_what_online_lacks(
    book: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "r"
    quiet = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false"}
    program = (
        "import sys\n"
        "from gptlib.extras.cli import main\n"
        "try:\n"
        "    main([*sys.argv[1:], 'online'])\n"
        "except SystemExit as error:\n"
        "    assert error.code == 2\n"
        "assert main([*sys.argv[1:], 'offline']) == 0\n"
    )
    words = ["train", book, *TINY, "--folder", folder, "--wandb"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env=os.environ | quiet,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train: error: Weights & Biases can't begin" in done.stderr
    assert "write --wandb offline, and send it later" in done.stderr
    [kept] = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert b"bits_per_byte" in kept.read_bytes()
    assert len(losses(folder)) == N_STEPS


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_package_that_is_not_installed_is_told_with_the_way_to_get_it(
    package: str,
    book: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_logs, "find_spec", lambda _: None)
    words = [f"--{package}", *(["offline"] * (package == "wandb"))]
    said = refusal(capsys, "train", book, *TINY, "--folder", tmp_path / "r", *words)
    assert f"which is not installed; run python -m pip install {package}, or leave" in said
    assert not (tmp_path / "r").exists()


def test_a_signal_that_ends_processes_writes_a_checkpoint_too(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = training.take_step

    def told(state: Any, *rest: Any, **named: Any) -> Any:
        if state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(state, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", told)
        assert call("train", book, *TINY, "--folder", tmp_path / "r") == 128 + signal.SIGTERM
    assert load_checkpoint(tmp_path / "r" / "checkpoint.pt")["step"] == 6
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_output_layer_of_its_own_and_a_narrow_mlp_go_all_the_way(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant = ("--model.tie-weights", "false", "--model.d-ff", 20, "--model.qkv-bias", "false")
    folder = tmp_path / "run"
    assert call("train", book, *TINY, *variant, "--folder", folder) == 0
    assert "biases of zero" in capsys.readouterr().err
    (written_model, _), (run_model, _) = load_gpt2(folder / "model"), load_model(folder)
    config = run_model.config
    assert (config.tie_weights, config.d_ff) == (False, 20)
    assert not any(block.attn.qkv.bias.any() for block in run_model.blocks)
    tokens = torch.arange(16)[None]
    assert torch.equal(written_model(tokens), run_model(tokens))
    quick_model, step = fast(run_model)
    prompt, greedily = [5, 6, 7], Sampling(temperature=0)
    written = list(generate(run_model, prompt, 10, greedily))
    assert list(generate(quick_model, prompt, 10, greedily, step=step)) == written
    longer = ("--resume", "--training.steps", N_STEPS + 2, "--device", "cpu")
    assert call("train", *longer, "--folder", folder) == 0
    assert not torch.equal(load_model(folder)[0].head.weight, run_model.head.weight)
