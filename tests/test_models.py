"""The default model is found, chapter 5's runs are read, and a faulty folder is named."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from gptlib.embeddings import split_tokens
from gptlib.extras.datasets import is_real, war_and_peace
from gptlib.extras.models import SHIPPED, default_model, load_model
from gptlib.generation import Sampling, generate
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer, find_data
from gptlib.training import TrainingConfig, TrainingState, bits_per_byte, evaluate, save_checkpoint
from gptlib.weights import save_gpt2

WORDS = "the prince said that the princess had said so to the prince " * 3
TOKENIZER = BPETokenizer.train(WORDS, 270)
GREEDY = Sampling(temperature=0)
CONFIG = GPTConfig(vocab_size=270, context_length=16, n_layer=2, n_head=2, n_embd=8)


def tiny() -> GPT:
    return GPT(CONFIG, torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_gpt2(tiny(), TOKENIZER, tmp_path / "tiny", torch.float16)
    return tmp_path / "tiny"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    save_checkpoint(place / "war-and-peace.pt", TrainingState.start(tiny(), TrainingConfig(10)))
    TOKENIZER.save(place / "war-and-peace-tokenizer")
    return place


def test_a_folder_in_gpt2s_layout_is_read_rounded_to_float16(folder: Path) -> None:
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
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.merges == TOKENIZER.merges


def test_weights_become_what_is_asked_for(folder: Path, runs: Path) -> None:
    for place in (folder, runs):
        model, _ = load_model(place, torch.bfloat16)
        assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
        assert model.head.weight is model.embed.token_embedding.weight


def test_loading_leaves_the_global_random_numbers_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


# Which model


def test_without_a_folder_the_environment_variable_names_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLIB_MODEL", str(folder))
    assert default_model() == str(folder)
    assert load_model()[0].config == CONFIG
    monkeypatch.setenv("GPTLIB_MODEL", str(folder / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        load_model()


def test_the_environment_variable_may_name_a_size_of_gpt2(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLIB_MODEL", "gpt2")
    asked: list[str | Path | None] = []
    monkeypatch.setattr("gptlib.extras.models.find_release", lambda name: asked.append(name))
    monkeypatch.setattr("gptlib.extras.models.load_folder", lambda place, _: asked.append(place))
    load_model()
    load_model("gpt2-xl")
    load_model(folder)
    assert asked == ["gpt2", None, "gpt2-xl", None, folder]


def test_the_shipped_model_is_found_in_a_clone_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "gptlib"
    package.mkdir(parents=True)
    monkeypatch.delenv("GPTLIB_MODEL", raising=False)
    monkeypatch.setattr("gptlib.tokenizer.__file__", str(package / "tokenizer.py"))
    with pytest.raises(FileNotFoundError, match=r"novels/model\.safetensors is neither"):
        load_model()
    for home in (package / "data", package.parent / "data"):
        save_gpt2(tiny(), TOKENIZER, home / "models" / SHIPPED)
        assert default_model() == str(home / "models" / SHIPPED)
        assert load_model()[0].config == CONFIG


def test_the_shipped_model_knows_the_book_and_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPTLIB_MODEL", raising=False)
    folder = Path(default_model())
    assert folder.parts[-3:] == ("data", "models", "novels")
    monkeypatch.setenv("GPTLIB_MODEL", "gpt2")
    model, tokenizer = load_model("novels")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30_000_000
    stand_in = find_data("stand-in-war-and-peace.txt")
    text = stand_in.read_text(encoding="utf-8-sig")[:8000]  # prose in the book's manner
    tokens = tokenizer.encode(text)
    loss = evaluate(model, torch.tensor(tokens))
    untrained = evaluate(GPT(model.config), torch.tensor(tokens))
    n_bytes = len(text.encode())
    assert bits_per_byte(loss, len(tokens), n_bytes) < 1.7
    assert loss < untrained - 2


def test_transformers_opens_the_shipped_model_and_writes_the_same() -> None:
    folder = find_data(f"models/{SHIPPED}/config.json").parent
    ours, tokenizer = load_model(folder)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer = transformers.GPT2TokenizerFast.from_pretrained(folder)
    text = "“Well, Prince, so Genoa and Lucca are now just family estates of the Buonapartes."
    tokens = tokenizer.encode(text)
    assert their_tokenizer(text)["input_ids"] == tokens
    prompt = torch.tensor([tokens])
    with torch.no_grad():
        assert torch.allclose(ours(prompt), theirs(prompt).logits, atol=1e-4)
    written = theirs.generate(prompt, max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert written[0, len(tokens) :].tolist() == list(generate(ours, tokens, 20, GREEDY))


def test_the_shipped_model_tells_how_it_was_trained_and_how_well_it_does() -> None:
    folder = find_data(f"models/{SHIPPED}/config.json").parent
    record = json.loads((folder / "config.json").read_text())["training"]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    bits = record["copying"]["last_tenth"]
    assert bits < 1.36
    assert f"| {bits + 1e-9:.3f} |" in readme
    assert f"| {record['steps']:,} |" in readme
    if is_real("war-and-peace"):
        model, tokenizer = load_model(folder)
        _, text = split_tokens(torch.tensor(tokenizer.encode(war_and_peace())))
        part = text[: 20 * 256 + 1]
        n_bytes = len(tokenizer.decode_bytes(part.tolist()))
        assert abs(bits_per_byte(evaluate(model, part), len(part) - 1, n_bytes) - bits) < 0.1


# Faulty folders


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*nowhere'; pass one, or"):
        load_model(tmp_path / "nowhere")


def test_an_empty_folder_and_a_run_without_its_tokenizer_say_what_is_missing(
    tmp_path: Path, runs: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; a model's folder holds"):
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
        with pytest.raises(ValueError, match=r"has 257 tokens and the model 270"):
            load_model(place)


def test_a_run_whose_weights_are_of_another_size_is_refused(runs: Path) -> None:
    file = runs / "war-and-peace.pt"
    content = torch.load(file, weights_only=True)
    content["model_config"]["n_embd"] = 16
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"peace\.pt: the weights are not those of its config"):
        load_model(runs)


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
    with pytest.raises(ValueError, match="no code in it was run"):
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
