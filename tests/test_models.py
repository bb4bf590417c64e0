"""A model comes back from its folder as it was saved, and a faulty folder is named."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptlib.embeddings import split_tokens
from gptlib.extras import models
from gptlib.extras.datasets import bundled
from gptlib.extras.models import load_model, model_folder, save_model
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer
from gptlib.training import TrainingConfig, TrainingState, bits_per_byte, evaluate, save_checkpoint

WORDS = "the prince said that the princess had said so to the prince " * 3
TOKENIZER = BPETokenizer.train(WORDS, 270)
CONFIG = GPTConfig(vocab_size=270, context_length=16, n_layer=2, n_head=2, n_embd=8)


def tiny() -> GPT:
    return GPT(CONFIG, torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny(), TOKENIZER, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    save_checkpoint(place / "war-and-peace.pt", TrainingState.start(tiny(), TrainingConfig(10)))
    TOKENIZER.save(place / "war-and-peace-tokenizer")
    return place


def test_a_model_comes_back_from_its_folder_rounded_to_float16(folder: Path) -> None:
    model, tokenizer = load_model(folder)
    assert model.config == CONFIG
    assert not model.training
    for name, tensor in tiny().state_dict().items():
        back = model.state_dict()[name]
        assert back.dtype == torch.float32
        assert torch.equal(back, tensor.half().float()), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.encode(WORDS) == TOKENIZER.encode(WORDS)


def test_the_runs_folder_of_chapter_5_is_read_exactly(runs: Path) -> None:
    model, tokenizer = load_model(str(runs))
    assert not model.training
    for name, tensor in tiny().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert tokenizer.merges == TOKENIZER.merges


def test_loading_leaves_the_global_random_numbers_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bias", [True, False])
def test_other_architectures_come_back_too(tmp_path: Path, bias: bool) -> None:
    config = GPTConfig(270, 16, 1, 2, 8, bias=bias, positions="sinusoidal")
    save_model(GPT(config), TOKENIZER, tmp_path)
    assert load_model(tmp_path)[0].config == config


def test_saving_leaves_four_readable_files_and_replaces_older_ones(folder: Path) -> None:
    other = GPT(CONFIG, torch.Generator().manual_seed(1))
    save_model(other, TOKENIZER, folder)
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1, "one of the files has other permissions"
    weight = load_model(folder)[0].embed.token_embedding.weight
    assert torch.equal(weight, other.embed.token_embedding.weight.half().float())


def test_a_failed_save_leaves_the_older_model_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(models, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(GPT(CONFIG), TOKENIZER, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_float16_cannot_hold_is_not_saved(tmp_path: Path) -> None:
    for value in (1e6, float("nan")):
        model = tiny()
        with torch.no_grad():
            model.ln_f.weight[3] = value
        with pytest.raises(ValueError, match=r"ln_f\.weight holds a value that float16 can't"):
            save_model(model, TOKENIZER, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_of_another_size_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"257 tokens and the model 270 \(vocab_size\); pass"):
        save_model(tiny(), BPETokenizer([]), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Which model


def test_without_a_folder_the_environment_variable_names_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLIB_MODEL", str(folder))
    assert model_folder() == folder
    assert load_model()[0].config == CONFIG
    monkeypatch.setenv("GPTLIB_MODEL", str(folder / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        load_model()


def test_the_shipped_model_is_found_in_a_clone_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "gptlib"
    package.mkdir(parents=True)
    monkeypatch.delenv("GPTLIB_MODEL", raising=False)
    monkeypatch.setattr("gptlib.tokenizer.__file__", str(package / "tokenizer.py"))
    with pytest.raises(FileNotFoundError, match=r"peace/model\.safetensors is neither"):
        load_model()
    for home in (package / "data", package.parent / "data"):
        save_model(tiny(), TOKENIZER, home / "models" / "war-and-peace")
        assert model_folder() == home / "models" / "war-and-peace"
        assert load_model()[0].config == CONFIG


def test_the_shipped_model_knows_the_book_and_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPTLIB_MODEL", raising=False)
    folder = model_folder()
    assert folder.parts[-3:] == ("data", "models", "war-and-peace")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30_000_000
    model, tokenizer = load_model()
    stand_in = bundled("stand-in-war-and-peace.txt")
    assert stand_in is not None
    text = stand_in.read_text(encoding="utf-8-sig")[:8000]  # prose in the book's manner
    tokens = tokenizer.encode(text)
    loss = evaluate(model, torch.tensor(tokens), name="stand-in")
    untrained = evaluate(GPT(model.config), torch.tensor(tokens), name="stand-in")
    n_bytes = len(text.encode())
    assert bits_per_byte(loss, len(tokens), n_bytes) < 2.2
    assert loss < untrained - 2


# Faulty folders


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*nowhere'; name one that"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {file}; a model's folder holds vocab"):
        load_model(folder)


def test_an_empty_folder_and_a_run_without_its_tokenizer_say_what_is_missing(
    tmp_path: Path, runs: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no vocab\.json; a model's folder holds"):
        load_model(tmp_path)
    shutil.rmtree(runs / "war-and-peace-tokenizer")
    with pytest.raises(FileNotFoundError, match=r"has no vocab\.json; save the run's tokenizer"):
        load_model(runs)


def test_two_checkpoints_in_one_folder_are_not_chosen_between(runs: Path) -> None:
    shutil.copy(runs / "war-and-peace.pt", runs / "anna-karenina.pt")
    assert load_model(runs)[0].config == CONFIG  # one of them has no tokenizer
    TOKENIZER.save(runs / "anna-karenina-tokenizer")
    with pytest.raises(ValueError, match=r"2 checkpoints \(anna-karenina.pt, war-and-peace.pt\)"):
        load_model(runs)


def test_a_vocabulary_of_another_model_is_refused(folder: Path, runs: Path) -> None:
    BPETokenizer([]).save(folder)
    BPETokenizer([]).save(runs / "war-and-peace-tokenizer")
    for place in (folder, runs):
        with pytest.raises(ValueError, match=r"has 257 tokens and the model 270 .*mixes the files"):
            load_model(place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "does not hold exactly the fields of GPTConfig: bias"),
        ('{"n_layer": 2}', "does not hold exactly the fields of GPTConfig: bias"),
        (json.dumps(vars(CONFIG) | {"model_type": "bert"}), "GPTConfig: model_type missing or unk"),
        (json.dumps(vars(CONFIG) | {"n_head": 3}), "n_embd 8 is not divisible by n_head 3"),
        (json.dumps(vars(CONFIG) | {"n_layer": None}), "n_layer is None; it must be a whole"),
        (json.dumps(vars(CONFIG) | {"dropout": "much"}), "config.json: '<=' not supported"),
    ],
)
def test_a_faulty_configuration_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_weights_of_another_size_are_named_five_at_most(folder: Path) -> None:
    wider = json.dumps(vars(CONFIG) | {"n_embd": 16})
    (folder / "config.json").write_text(wider)
    message = r"blocks\.0\.attn\.proj\.bias is \(8,\), not \(16,\); .*, and 23 more; copy"
    with pytest.raises(ValueError, match=message) as caught:
        load_model(folder)
    assert str(caught.value).count("not (") == 5


def test_missing_and_unknown_weights_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("ln_f.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head\.weight is \(8,\), not part of the model") as e:
        load_model(folder)
    assert "ln_f.weight is missing, not (8,)" in str(e.value)


def lie_about_the_header(content: bytes) -> bytes:
    return struct.pack("<Q", 10**15) + content[8:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-100],
        lambda content: content[:50],
        lambda content: b"",
        lambda content: b"x" * len(content),
        lambda content: content.replace(b'"F16"', b'"F61"'),
        lie_about_the_header,
    ],
    ids=["cut off", "cut in the header", "empty", "noise", "unknown type", "lying header"],
)
def test_damaged_weights_are_refused(folder: Path, damage: Any) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    size = file.stat().st_size
    with pytest.raises(ValueError, match=f"model.safetensors is damaged: its {size} bytes are not"):
        load_model(folder)


class Burglar:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_code_in_it_is_refused_and_the_code_not_run(
    folder: Path, runs: Path, tmp_path: Path
) -> None:
    burglar = Burglar(tmp_path / "broken in")
    torch.save({"training_config": burglar}, runs / "war-and-peace.pt")
    with pytest.raises(ValueError, match="it was refused and no code in it was run"):
        load_model(runs)
    (folder / "model.safetensors").write_bytes(pickle.dumps(burglar))
    with pytest.raises(ValueError, match="is damaged"):
        load_model(folder)
    assert not burglar.mark.exists()


def test_a_model_can_be_trained_on_after_loading(folder: Path) -> None:
    model, tokenizer = load_model(folder)
    tokens, _ = split_tokens(torch.tensor(tokenizer.encode(WORDS)))
    loss = model(tokens[None, :8]).square().mean()
    loss.backward()
    assert model.ln_f.weight.grad is not None
