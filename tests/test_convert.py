"""Models change their form by one command, and stay what they are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refusal, written
from test_wild import adapters, classifier, nanogpt, renamed, with_bomb
from tiny_gpt2 import CONFIG, TEXT, TOKENIZER, assert_same_logits, assert_same_weights, tiny
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from gptlib.classification import encode_texts, load_classifier, pad_batch
from gptlib.extras.commands.convert import as_gpt2
from gptlib.extras.models import load_model
from gptlib.gpt2 import GPT
from gptlib.tokenizer import vocabulary_size
from gptlib.weights import save_gpt2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_gpt2(tiny(), TOKENIZER, tmp_path / "tiny")
    return tmp_path / "tiny"


def convert(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    return written(capsys, "convert", *words)


@pytest.mark.parametrize("form", ["gpt2", "sharded", "nanogpt"])
def test_every_form_gives_the_same_model_back(
    form: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    said = convert(capsys, folder, there, "--to", form, "--shard-size", "4KB")
    assert "parameters in float32 are in" in said
    if form == "sharded":
        assert len(list(there.glob("*.safetensors"))) > 1
        assert_same_logits(tiny(), GPT2LMHeadModel.from_pretrained(there).eval())
    convert(capsys, there, back)
    model, tokenizer = load_model(back)
    assert_same_weights(model, tiny())
    assert tokenizer.encode(TEXT) == TOKENIZER.encode(TEXT)


def test_what_nanogpt_is_given_has_its_names_and_layout(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(capsys, folder, tmp_path / "ours", "--to", "nanogpt")
    nanogpt(tmp_path / "theirs", prefix="")
    ours, theirs = (
        torch.load(tmp_path / name / "ckpt.pt", weights_only=True) for name in ("ours", "theirs")
    )
    assert {n: t.shape for n, t in ours["model"].items()} == {
        n: t.shape for n, t in theirs["model"].items()
    }
    assert ours["model_args"].keys() == theirs["model_args"].keys()


@pytest.mark.parametrize("by_file", [False, True])
def test_nanogpts_padded_checkpoint_keeps_its_rows_and_draws_no_padding(
    by_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = nanogpt(tmp_path / "out", n_rows=50304)
    convert(capsys, source / "ckpt.pt" if by_file else source, tmp_path / "new")
    model, tokenizer = load_model(tmp_path / "new")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "new").eval()
    assert (
        theirs.config.vocab_size == model.config.vocab_size == vocabulary_size(tokenizer) == 50304
    )
    assert torch.isinf(model(torch.arange(9)[None])[..., 50257:]).all()


def test_a_pickle_becomes_safetensors_and_half_the_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed(tmp_path / "old", "transformer.", file="pytorch_model.bin")
    convert(capsys, tmp_path / "old", tmp_path / "new", "--dtype", "bfloat16")
    assert json.loads((tmp_path / "new/config.json").read_text())["dtype"] == "bfloat16"
    old, new = (load_model(tmp_path / name)[0] for name in ("old", "new"))
    for one, other in zip(old.parameters(), new.parameters(), strict=True):
        assert torch.equal(one.bfloat16().float(), other)
    bomb = with_bomb(tmp_path / "bomb")
    assert "no code in it was run" in refusal(capsys, "convert", bomb, tmp_path / "x")


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": False},
        {"qkv_bias": False},
        {"bias": False, "qkv_bias": True},
        {"positions": "sinusoidal", "d_ff": 20, "tie_weights": False},
    ],
)
def test_what_gpt2s_layout_lacks_is_put_into_values(changes: dict[str, Any]) -> None:
    model = GPT(replace(CONFIG, **changes), torch.Generator().manual_seed(0)).eval()
    tokens = torch.arange(12)[None]
    assert torch.equal(as_gpt2(model)(tokens), model(tokens))
    assert as_gpt2(tiny()).config == CONFIG


def test_a_classifier_of_transformers_becomes_ours_and_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = classifier(tmp_path / "theirs", n_labels=3)
    assert "class 0, class 1, class 2" in convert(capsys, folder, tmp_path / "ours")
    assert "class 0" in convert(capsys, folder / "model.safetensors", tmp_path / "by-its-file")
    ours = load_classifier(tmp_path / "ours")
    theirs = GPT2ForSequenceClassification.from_pretrained(folder).eval()
    for text in ("the prince said", "so"):
        rows, _ = encode_texts(ours, [text])
        with torch.no_grad():
            scores = ours(*pad_batch(rows))
            torch.testing.assert_close(scores, theirs(rows[0][None]).logits, rtol=0, atol=1e-5)
    lines = written(capsys, "classify", "--model", tmp_path / "ours", "the prince")
    assert lines.startswith("class ")
    said = refusal(capsys, "convert", folder, tmp_path / "x", "--to", "nanogpt")
    assert "a classifier has one form only" in said


@pytest.mark.parametrize("changes", [{"tie_weights": False}, {"d_ff": 20}])
def test_what_nanogpt_has_no_place_for_is_said_and_goes_another_way(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny(replace(CONFIG, **changes))
    save_gpt2(model, TOKENIZER, tmp_path / "mine")
    said = refusal(capsys, "convert", tmp_path / "mine", tmp_path / "x", "--to", "nanogpt")
    assert "leave out --to nanogpt" in said
    convert(capsys, tmp_path / "mine", tmp_path / "x")
    assert_same_weights(load_model(tmp_path / "x")[0], model)


def test_adapters_are_put_into_the_model_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapters(tmp_path / "a", "somebody/gpt2-large")
    said = refusal(capsys, "convert", folder, tmp_path / "b")
    assert "--base DIR" in said
    convert(capsys, folder, tmp_path / "b", "--base", tmp_path / "a" / "base")
    right = load_model(adapters(tmp_path / "c"))[0]
    assert_same_weights(load_model(tmp_path / "b")[0], right)


def test_a_size_that_is_none_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("convert", folder, tmp_path / "x", "--to", "sharded", "--shard-size", "big")
    assert "'big' is no size; write one like 500MB" in refusal(capsys, *words)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_not_empty_is_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not empty; name a new folder" in refusal(capsys, "convert", folder, folder)
