"""GPT-2's files are read and written exactly, damaged ones are named, mistakes are found."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import numpy as np
import pytest
import tiktoken
import torch
import torch.nn.functional as F
from huggingface_hub.errors import LocalEntryNotFoundError
from notebook_files import ROOT
from safetensors.torch import load_file, save_file
from tf_table import MAGIC, block, entry, message, sign, table, varint, write_checkpoint
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from gptlib import weights
from gptlib.generation import Sampling, generate
from gptlib.gpt2 import (
    GPT,
    GPT2_LARGE,
    GPT2_MEDIUM,
    GPT2_SMALL,
    GPT2_XL,
    GPTConfig,
    attention_maps,
)
from gptlib.instructions import add_lora
from gptlib.tokenizer import BPETokenizer, gpt2_encoding
from gptlib.weights import (
    VOCABULARY_SHA256,
    StoredTensor,
    activations,
    check_extents,
    compare_stages,
    crc32c,
    first_divergence,
    head_scores,
    layout,
    load_gpt2,
    logit_lens,
    read_block,
    read_checkpoint,
    read_header,
    read_message,
    read_table,
    read_varint,
    save_gpt2,
    skip_tables,
)

GOLDEN = Path(__file__).parent / "golden"
TEXT = "the prince said that the princess had said so to the prince, and “that” was 1812! "
TOKENIZER = BPETokenizer.train(TEXT, 270)
CONFIG = GPTConfig(vocab_size=270, context_length=16, n_layer=2, n_head=2, n_embd=8)


def tiny(config: GPTConfig = CONFIG, seed: int = 0) -> GPT:
    """A model whose norms and biases are no longer at 1 and 0, where mistakes don't show."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens_for(model: GPT, n_tokens: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, (2, n_tokens), generator=generator)


def assert_same_weights(one: GPT, other: GPT) -> None:
    state = other.state_dict()
    assert state.keys() == one.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def transformers_model(config: GPTConfig = CONFIG, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    sizes = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        bos_token_id=config.vocab_size - 1,
        eos_token_id=config.vocab_size - 1,
    )
    model: Any = GPT2LMHeadModel(sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def assert_same_logits(ours: GPT, theirs: Any, n_tokens: int = 12) -> None:
    tokens = tokens_for(ours, n_tokens)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)


def greedy(model: GPT, prompt: list[int], n_tokens: int) -> list[int]:
    return prompt + list(generate(model, prompt, n_tokens, Sampling(temperature=0)))


def their_greedy(model: Any, prompt: list[int], n_tokens: int) -> list[int]:
    written = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=n_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    ids: list[int] = written[0].tolist()
    return ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_gpt2(tiny(), TOKENIZER, tmp_path / "tiny")
    return tmp_path / "tiny"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a folder and write them again."""
    tensors = dict(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rewrite_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value != "gone"}))


def write_raw(path: Path, header: Any, data: bytes, length: int | None = None) -> None:
    """Write a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


# The table of names


@pytest.mark.parametrize("config", [GPT2_SMALL, GPT2_MEDIUM, GPT2_LARGE, GPT2_XL, CONFIG])
def test_the_table_names_every_tensor_of_transformers_gpt2_and_of_ours(config: GPTConfig) -> None:
    with torch.device("meta"):
        sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
        lengths = {"vocab_size": config.vocab_size, "n_positions": config.context_length}
        theirs = GPT2LMHeadModel(GPT2Config(**sizes, **lengths)).state_dict()
        ours = GPT(config).state_dict()
    theirs.pop("lm_head.weight")
    places = layout(config)
    shapes = {n.removeprefix("transformer."): tuple(t.shape) for n, t in theirs.items()}
    assert {name: place.shape for name, place in places.items()} == shapes
    turned = {p.ours: p.shape[::-1] if p.turned else p.shape for p in places.values()}
    assert turned == {name: tuple(tensor.shape) for name, tensor in ours.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [({"positions": "sinusoidal"}, "positions='sinusoidal'"), ({"bias": False}, "bias=False")],
)
def test_what_gpt2_has_no_place_for_is_not_saved(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model = GPT(replace(CONFIG, **change))
    with pytest.raises(ValueError, match=f"{said}.*no place in GPT-2's layout"):
        save_gpt2(model, TOKENIZER, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# There and back


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, n_layer=12, n_head=1), replace(CONFIG, n_embd=6, n_head=3)],
    ids=["2 layers", "12 layers", "3 heads"],
)
def test_a_saved_model_comes_back_bit_by_bit(config: GPTConfig, seed: int, tmp_path: Path) -> None:
    model = tiny(config, seed)
    save_gpt2(model, TOKENIZER, tmp_path)
    back, tokenizer = load_gpt2(tmp_path)
    assert_same_weights(model, back)
    assert back.config == config
    assert not back.training
    assert all(p.requires_grad and p.is_contiguous() for p in back.parameters())
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.tokens == TOKENIZER.tokens
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json", "merges.txt", "model.safetensors", "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip


def test_the_loaded_weights_are_a_copy_that_training_can_change(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    model, _ = load_gpt2(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_the_bytes_are_rounded_once_and_loaded_as_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny()
    save_gpt2(model, TOKENIZER, tmp_path, dtype=dtype)
    back, _ = load_gpt2(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.to(dtype).float(), back.state_dict()[name]), name
    assert load_gpt2(tmp_path, dtype=dtype)[0].ln_f.weight.dtype == dtype
    n_values = sum(p.numel() for p in model.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < 2 * n_values + 5000


def test_the_safetensors_library_reads_our_file_and_we_read_its_file(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    header = read_header(folder / "model.safetensors")
    assert tensors.keys() == header.keys() == layout(CONFIG).keys()
    for name, tensor in tensors.items():
        assert torch.equal(header[name].read(), tensor)
    save_file(tensors, folder / "model.safetensors")
    assert_same_weights(load_gpt2(folder)[0], tiny())


def test_transformers_opens_our_folder_with_the_same_ids_logits_and_text(folder: Path) -> None:
    theirs, report = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    theirs.eval()
    ours, _ = load_gpt2(folder)
    assert_same_logits(ours, theirs)
    their_tokenizer = GPT2TokenizerFast.from_pretrained(folder)
    for text in (TEXT, "", " 3 \n\n Ünï\u3000😀 'll", "x<|endoftext|>y"):
        ids = TOKENIZER.encode(text, allowed_special={"<|endoftext|>"})
        assert their_tokenizer.encode(text) == ids
        assert their_tokenizer.decode(ids) == TOKENIZER.decode(ids) == text
    assert their_tokenizer.eos_token_id == theirs.config.eos_token_id == 269
    prompt = TOKENIZER.encode("the prince")
    assert greedy(ours, prompt, 8) == their_greedy(theirs, prompt, 8)


def test_transformers_knows_every_special_token_of_ours(tmp_path: Path) -> None:
    names = ("<|endoftext|>", "<|user|>", "<|model|>")
    tokenizer = BPETokenizer(TOKENIZER.merges, names)
    save_gpt2(tiny(replace(CONFIG, vocab_size=272)), tokenizer, tmp_path)
    theirs = GPT2TokenizerFast.from_pretrained(tmp_path)
    text = "<|user|>the prince<|model|>said<|endoftext|>"
    assert theirs.encode(text) == tokenizer.encode(text, allowed_special=names)
    assert load_gpt2(tmp_path)[1].encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("shard_size", ["1GB", "8KB"])
def test_we_open_what_transformers_saves_whole_or_in_shards(
    shard_size: str, tmp_path: Path
) -> None:
    theirs = transformers_model()
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if shard_size == "1GB" else 2)
    TOKENIZER.save(tmp_path)
    ours, _ = load_gpt2(str(tmp_path))
    assert_same_logits(ours, theirs)
    assert greedy(ours, [5, 6, 7], 9) == their_greedy(theirs, [5, 6, 7], 9)
    assert ours.config == replace(CONFIG, dropout=0.1)
    save_gpt2(ours, TOKENIZER, tmp_path / "again")
    assert_same_logits(ours, GPT2LMHeadModel.from_pretrained(tmp_path / "again").eval())


def test_the_tokenizer_that_transformers_saves_is_read(folder: Path) -> None:
    theirs = GPT2TokenizerFast.from_pretrained(folder)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / file).unlink()
    theirs.save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()
    tokenizer = load_gpt2(folder)[1]
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.tokens == TOKENIZER.tokens
    assert tokenizer.merges == TOKENIZER.merges


def test_gpt2s_own_tokenizer_is_written_as_openai_did_and_comes_back_as_tiktokens(
    tmp_path: Path,
) -> None:
    config = replace(CONFIG, vocab_size=50257, n_embd=2, n_layer=1)
    save_gpt2(GPT(config), gpt2_encoding(), tmp_path)
    for name, sha256 in VOCABULARY_SHA256.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == sha256
    tokenizer = load_gpt2(tmp_path)[1]
    assert isinstance(tokenizer, tiktoken.Encoding)
    assert tokenizer.encode("War and Peace") == [13195, 290, 12689]
    theirs = GPT2TokenizerFast.from_pretrained(tmp_path)
    assert theirs.encode(TEXT) == tokenizer.encode(TEXT)
    for file in ("vocab.json", "merges.txt"):
        (tmp_path / file).unlink()
    theirs.save_pretrained(tmp_path)  # tokenizer.json
    assert isinstance(load_gpt2(tmp_path)[1], tiktoken.Encoding)


def notebook_function(name: str) -> Any:
    """Take a function out of chapter 7, with all that its cell defines."""
    book = json.loads((ROOT / "notebooks" / "07_weights.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    source = next(source for source in sources if f"\ndef {name}(" in source)
    names: dict[str, Any] = {**vars(weights), "GPT2LMHeadModel": GPT2LMHeadModel}
    exec(source.split("\n\n\nassert ")[0], names)
    return names[name]


def test_a_model_of_the_size_of_gpt2_goes_both_ways(tmp_path: Path) -> None:
    ours = GPT(GPT2_SMALL, torch.Generator().manual_seed(0)).eval()
    save_gpt2(ours, gpt2_encoding(), tmp_path / "ours")
    assert (tmp_path / "ours" / "model.safetensors").stat().st_size < 497_800_000
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    assert_same_logits(ours, theirs, n_tokens=8)
    proof = notebook_function("prove")(tmp_path / "ours")  # the chapter's recipe, 1,024 tokens
    assert len(proof) == 63
    assert max(difference.error for difference in proof) <= 1e-5
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="200MB")
    shutil.copy(tmp_path / "ours" / "vocab.json", tmp_path / "theirs")
    shutil.copy(tmp_path / "ours" / "merges.txt", tmp_path / "theirs")
    shutil.rmtree(tmp_path / "ours")
    back, tokenizer = load_gpt2(tmp_path / "theirs")
    assert_same_weights(ours, back)
    assert isinstance(tokenizer, tiktoken.Encoding)
    shutil.rmtree(tmp_path / "theirs")


# Files of all ages


def add_old_buffers(tensors: dict[str, Tensor]) -> None:
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def add_prefix(tensors: dict[str, Tensor]) -> None:
    for name in list(tensors):
        tensors[f"transformer.{name}"] = tensors.pop(name)


def add_head(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()


@pytest.mark.parametrize(
    "changes",
    [
        [add_old_buffers],
        [add_prefix],
        [add_head],
        [add_old_buffers, add_prefix],
        [add_head, add_old_buffers],
    ],
)
def test_files_of_older_versions_give_the_same_model(
    changes: list[Callable[[dict[str, Tensor]], object]], folder: Path
) -> None:
    for change in changes:
        rewrite(folder, change)
    assert_same_weights(load_gpt2(folder)[0], tiny())


def untie(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["wte.weight"] + 1


def shorten_head(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["wte.weight"][:-1].clone()


def double_a_name(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.ln_f.bias"] = tensors["ln_f.bias"].clone()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (untie, "lm_head.weight is not wte.weight"),
        (shorten_head, "lm_head.weight is not wte.weight"),
        (double_a_name, "both ln_f.bias and transformer.ln_f.bias"),
        (lambda t: t.pop("ln_f.bias"), "1 missing: ln_f.bias; copy"),
        (lambda t: t.update(x=torch.ones(1)), "1 unexpected: x; copy"),
        (
            lambda t: t.update({"wpe.weight": torch.ones(15, 8)}),
            r"1 of another shape: wpe.weight \(15, 8\) instead of \(16, 8\)",
        ),
        (
            lambda t: t.update({"h.0.attn.c_attn.weight": torch.ones(24, 8)}),
            r"h.0.attn.c_attn.weight \(24, 8\) instead of \(8, 24\)",
        ),
        (
            lambda t: t.update({"ln_f.bias": torch.ones(8, dtype=torch.int64)}),
            "1 not floats: ln_f.bias",
        ),
        (lambda t: [t.pop(n) for n in list(t)[5:]], r"2[0-9] missing: [^,]*(, [^,]*){4}, \.\.\.;"),
        (
            lambda t: t.update({f"y{i}": torch.ones(1) for i in range(7)}),
            r"7 unexpected: y0, .*y4, ",
        ),
        (lambda t: t.clear(), "holds 0 tensors|2 layers but holds"),
    ],
)
def test_tensors_that_are_not_the_models_are_named(
    change: Callable[[dict[str, Tensor]], object], said: str, folder: Path
) -> None:
    rewrite(folder, change)
    with pytest.raises(ValueError, match=said):
        load_gpt2(folder)


# Bad configuration and vocabulary


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "model_type 'llama' where GPT-2 has 'gpt2'"),
        ({"model_type": "gone"}, "model_type None"),
        ({"activation_function": "gelu"}, "activation_function 'gelu' where GPT-2 has 'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06"),
        ({"scale_attn_weights": False}, "scale_attn_weights False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False"),
        ({"n_inner": 100}, "n_inner 100, not 32"),
        ({"n_inner": {}}, "n_inner {}, not 32"),
        ({"n_embd": "gone"}, "lacks n_embd"),
        ({"n_head": 3}, "not divisible by n_head 3"),
        ({"n_layer": "2"}, "n_layer is '2'"),
        ({"n_layer": 10**9}, "announces 1000000000 layers but holds 28 tensors"),
        ({"n_layer": 3}, "12 missing: h.2.attn.c_attn.bias"),
        ({"vocab_size": 10**18}, r"wte.weight \(270, 8\) instead of \(1000000000000000000, 8\)"),
        ({"n_embd": 10**15}, "28 of another shape"),
        ({"resid_pdrop": "x"}, "config.json: "),
        ({"resid_pdrop": 1.5}, "dropout is 1.5"),
    ],
)
def test_a_configuration_of_something_else_is_refused(
    changes: dict[str, Any], said: str, folder: Path
) -> None:
    rewrite_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=said):
        load_gpt2(folder)


def test_names_of_the_same_activation_are_understood(folder: Path) -> None:
    rewrite_json(folder / "config.json", activation_function="gelu_pytorch_tanh", n_inner=32)
    load_gpt2(folder)


@pytest.mark.parametrize("file", ["config.json", "vocab.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes of JSON can't be read"),
        (b'{"model_type": "gp', "18 bytes of JSON can't be read"),
        (b"\xff\xfe\x00", "can't be read"),
        (b"[" * 200_000, "can't be read"),
        (b"[1, 2]", "its JSON is a list"),
    ],
)
def test_json_that_is_cut_off_or_hostile_is_refused(
    file: str, content: bytes, said: str, folder: Path
) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is damaged.*{said}"):
        load_gpt2(folder)


def test_a_file_of_gigabytes_in_place_of_a_small_one_is_not_read(folder: Path) -> None:
    with open(folder / "config.json", "wb") as file:
        file.truncate(2**40)  # takes no space on the disk
    with pytest.raises(ValueError, match="1099511627776 bytes are far too many"):
        load_gpt2(folder)


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt", "model.safetensors"])
def test_a_missing_file_is_named(file: str, folder: Path) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {file}"):
        load_gpt2(folder)


def test_a_folder_that_is_not_there_is_named_with_the_choices() -> None:
    with pytest.raises(
        FileNotFoundError, match="no folder 'gpt-2'; pass one, or one of gpt2, gpt2-"
    ):
        load_gpt2("gpt-2")


def test_a_vocabulary_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    other = BPETokenizer.train(TEXT, 269)
    with pytest.raises(ValueError, match=r"tokenizer has 269 tokens and the model 270"):
        save_gpt2(tiny(), other, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    other.save(folder)
    with pytest.raises(ValueError, match=r"tokenizer has 269 tokens and the model 270"):
        load_gpt2(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": 3}, "not the file of a tokenizer"),
        ({"added_tokens": [1]}, "not the file of a tokenizer"),
        ({"normalizer": {"type": "NFC"}}, "cuts texts in another way"),
        ({"pre_tokenizer": {"type": "Metaspace", "add_prefix_space": False}}, "another way"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(
    changes: dict[str, Any], said: str, folder: Path
) -> None:
    GPT2TokenizerFast.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.json").unlink()
    rewrite_json(folder / "tokenizer.json", **changes)
    with pytest.raises(ValueError, match=said):
        load_gpt2(folder)


def test_an_encoding_that_gpt2s_files_cannot_hold_is_refused(tmp_path: Path) -> None:
    other = tiktoken.Encoding(
        "mine", pat_str=r"\S+", mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={},
    )  # fmt: skip
    with pytest.raises(ValueError, match="tiktoken's 'mine'"):
        save_gpt2(tiny(replace(CONFIG, vocab_size=256)), other, tmp_path)
    assert not list(tmp_path.iterdir())


# Bad safetensors files


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("bomb-went-off",))


def test_a_pickle_is_never_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(
        ValueError, match=r"only as pytorch_model.bin, a pickle, which can run code"
    ):
        load_gpt2(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        load_gpt2(folder)
    assert not (folder / "bomb-went-off").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.999])
def test_a_download_that_broke_off_is_refused(share: float, folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: its .* copy, download"):
        load_gpt2(folder)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "n_bytes", "said"),
    [
        ({"a": F32}, 7, "describes 8 bytes of numbers, it holds 7"),
        ({"a": F32}, 9, "describes 8 bytes of numbers, it holds 9"),
        ({"a": F32, "b": F32}, 16, "the bytes of b overlap another tensor's"),
        ({"a": F32 | {"data_offsets": [8, 16]}}, 8, "a ends at byte"),
        ({"a": F32 | {"shape": [3]}}, 8, "entry of 'a' contradicts itself"),
        ({"a": F32 | {"shape": [2**62, 4]}}, 8, "contradicts itself"),
        ({"a": F32 | {"shape": [-2]}}, 8, "contradicts itself"),
        ({"a": F32 | {"shape": "2"}}, 8, "contradicts itself"),
        ({"a": F32 | {"shape": [True, 2]}}, 8, "contradicts itself"),
        ({"a": F32 | {"shape": [1] * 9 + [2]}}, 8, "contradicts itself"),
        ({"a": F32 | {"dtype": "F3"}}, 8, "contradicts itself"),
        ({"a": F32 | {"dtype": ["F32"]}}, 8, "contradicts itself"),
        ({"a": F32 | {"data_offsets": [8, 0]}}, 8, "contradicts itself"),
        ({"a": F32 | {"data_offsets": [-8, 0]}}, 8, "contradicts itself"),
        ({"a": F32 | {"data_offsets": [0, 2**64]}}, 8, "contradicts itself"),
        ({"a": F32 | {"data_offsets": [0]}}, 8, "contradicts itself"),
        ({"a": 7}, 8, "contradicts itself"),
        ([F32], 8, "its JSON is a list"),
        (b"[" * 50_000, 8, "can't be read"),
        (b"\xff{}", 0, "can't be read"),
        (b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), 8, "a name stands twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F32"}}', 8, "a name stands twice"),
        ({"a": F32, "__metadata__": 5}, 8, "__metadata__"),
    ],
)
def test_a_header_that_lies_is_refused(header: Any, n_bytes: int, said: str, folder: Path) -> None:
    write_raw(folder / "model.safetensors", header, bytes(n_bytes))
    with pytest.raises(ValueError, match=f"model.safetensors is damaged: .*{said}"):
        load_gpt2(folder)


@pytest.mark.parametrize("length", [17, 2**31, 2**63, 2**64 - 1])
def test_a_header_that_announces_more_than_the_file_holds_is_not_allocated(
    length: int, folder: Path
) -> None:
    write_raw(folder / "model.safetensors", b"{}", bytes(14), length)
    with pytest.raises(ValueError, match=f"its 24 bytes can't hold the header of {length}"):
        load_gpt2(folder)


@pytest.fixture
def shards(folder: Path) -> Path:
    """A model cut into files; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(3):
        part = names[number::3]
        save_file({name: tensors[name] for name in part}, folder / f"part-{number}.safetensors")
        weight_map |= dict.fromkeys(part, f"part-{number}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def test_shards_give_the_same_model(shards: Path) -> None:
    assert_same_weights(load_gpt2(shards.parent)[0], tiny())


@pytest.mark.parametrize(
    ("name", "file", "error", "said"),
    [
        ("wte.weight", "part-9.safetensors", FileNotFoundError, "has no part-9.safetensors, which"),
        ("wte.weight", "../part-0.safetensors", ValueError, "a file of this folder"),
        ("wte.weight", "/etc/passwd", ValueError, "a file of this folder"),
        ("wte.weight", "a\0b", ValueError, "a file of this folder"),
        ("wte.weight", ["part-0.safetensors"], ValueError, "a file of this folder"),
        ("wte.weight", "part-1.safetensors", ValueError, "not what the files hold .wte.weight in"),
        ("absent", "part-0.safetensors", ValueError, "1 of its entries .*absent in part-0"),
        ("wte.weight", "gone", ValueError, "1 of its entries are not what the files hold"),
    ],
)
def test_an_index_that_is_not_the_shards_is_refused(
    name: str, file: Any, error: type[Exception], said: str, shards: Path
) -> None:
    weight_map = json.loads(shards.read_bytes())["weight_map"] | {name: file}
    if file == "gone":
        del weight_map[name]
    shards.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(error, match=said):
        load_gpt2(shards.parent)


@pytest.mark.parametrize("values", [{}, {"weight_map": {}}, {"weight_map": [1]}])
def test_an_index_without_files_is_refused(values: Any, shards: Path) -> None:
    shards.write_text(json.dumps(values))
    with pytest.raises(ValueError, match='"weight_map" does not give each tensor a file'):
        load_gpt2(shards.parent)


# Saving never leaves half a model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_a_value_that_float16_cannot_hold_is_named_and_nothing_is_written(
    value: float, folder: Path
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    model = tiny()
    with torch.no_grad():
        model.blocks[1].mlp.proj.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"blocks.1.mlp.proj.weight holds a value"):
        save_gpt2(model, TOKENIZER, folder, dtype=torch.float16)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/model can't be written .*choose another folder"):
        save_gpt2(tiny(), TOKENIZER, tmp_path / "file" / "model")


def test_a_disk_that_fills_up_leaves_the_old_model_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(weights, "write_safetensors", full)
    with pytest.raises(OSError, match=r"can't be written .No space left"):
        save_gpt2(tiny(seed=1), TOKENIZER, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def stop_before(
    stop: int, done: list[str], folder: Path, name: str, real: Callable[..., Any]
) -> Any:
    """Let the first `stop` changes of a folder happen, and note them; the next is interrupted."""

    def step(*arguments: Any, **options: Any) -> Any:
        if Path(arguments[-1]).parent == folder:
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(name)
        return real(*arguments, **options)

    return step


@pytest.mark.parametrize("first", [True, False])
def test_a_save_that_is_interrupted_anywhere_leaves_no_mixture_of_two_models(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, other = tiny(seed=1), tiny(seed=2), BPETokenizer.train(TEXT[::-1], 270)
    steps = ["unlink"] * 4 + ["replace"] * 5  # every call that changes the folder, in order
    for stop in range(len(steps) + 1):
        folder = tmp_path / str(stop)
        if not first:
            save_gpt2(old, TOKENIZER, folder)
        done: list[str] = []
        interrupt = partial(stop_before, stop, done, folder)
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", interrupt("replace", os.replace))
            patch.setattr(Path, "unlink", interrupt("unlink", Path.unlink))
            if stop < len(steps):
                with pytest.raises(KeyboardInterrupt):
                    save_gpt2(new, other, folder)
            else:
                save_gpt2(new, other, folder)
        assert done == steps[:stop]
        if stop == len(steps):
            assert_same_weights(load_gpt2(folder)[0], new)
        elif stop == 0 and not first:
            assert_same_weights(load_gpt2(folder)[0], old)
        else:
            with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
                load_gpt2(folder)
            if (folder / "model.safetensors").exists():  # others may guess the configuration
                fresh = load_file(folder / "model.safetensors")["ln_f.bias"].equal(new.ln_f.bias)
                words = BPETokenizer.load(folder).merges
                assert words == (other if fresh else TOKENIZER).merges
        save_gpt2(new, other, folder)  # and the next save mends it
        assert_same_weights(load_gpt2(folder)[0], new)


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> str:  # root may write anywhere, so the system plays along
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", forbidden)
    with pytest.raises(PermissionError, match=r"can't be written .Permission denied.; choose"):
        save_gpt2(tiny(), TOKENIZER, tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_of_another_tokenizer_are_not_left_to_be_read_first(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"another model's tokenizer.json; choose an empty folder"):
        save_gpt2(tiny(), TOKENIZER, folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_only_floats_of_16_and_32_bits_are_written(dtype: torch.dtype, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"dtype is {dtype}; choose"):
        save_gpt2(tiny(), TOKENIZER, tmp_path / "new", dtype=dtype)


# OpenAI's TensorFlow checkpoint


def slow_crc32c(data: bytes) -> int:
    """The definition: one byte after the other, one bit after the other."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_is_that_of_rfc_3720(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


def test_crc32c_of_any_length_is_that_of_the_definition() -> None:
    data = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8)
    for length in (*range(1, 40), 255, 256, 257, 1000):
        assert crc32c(data[:length]) == slow_crc32c(data[:length].tobytes()), length
    assert crc32c(data[: (1 << 18) + 77]) == slow_crc32c(data[: (1 << 18) + 77].tobytes())
    assert len(skip_tables(3)) == 4


def test_varints_are_read_to_their_end_and_no_further() -> None:
    for number in (0, 1, 127, 128, 300, 2**32, 2**64 - 1):
        spelled = varint(number)
        assert read_varint(b"x" + spelled + b"y", 1) == (number, 1 + len(spelled))
    with pytest.raises(ValueError, match="bytes 1 to 2 were expected in 1 bytes"):
        read_varint(b"\x80", 0)
    with pytest.raises(ValueError, match="does not end within 10 bytes"):
        read_varint(b"\x80" * 11, 0)


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x08", b"\x0b", b"\x35\x01\x02"])
def test_a_message_that_is_not_whole_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected in|unknown kind 3"):
        read_message(data)


@pytest.mark.parametrize("name", ["tf-tiny", "tf-shards"])
def test_checkpoints_of_real_tensorflow_give_the_numbers_that_went_in(name: str) -> None:
    tensors = read_checkpoint(GOLDEN / name / "model.ckpt.index")
    model, tokenizer = load_gpt2(GOLDEN / name)
    state = model.state_dict()
    places = layout(model.config)
    expected = np.load(GOLDEN / name / "expected.npz")
    assert len(expected.files) == len(tensors) == len(state) == 52
    for openai in expected.files:
        place = places[weights.openai_name(openai)]
        value = torch.from_numpy(expected[openai]).squeeze(0)
        assert torch.equal(state[place.ours], value.T if place.turned else value), openai
    assert {t.path.name for t in tensors.values()} == {
        f.name for f in (GOLDEN / name).glob("*.data*")
    }
    assert tokenizer.encode("the prince") == [256, 68, 220, 79, 81, 260, 259]


def test_a_real_index_of_several_blocks_and_other_types_is_read() -> None:
    index = GOLDEN / "tf-blocks" / "model.ckpt.index"
    content = index.read_bytes()
    _, position = read_varint(content[-48:], 0)
    _, position = read_varint(content[-48:], position)
    assert len(list(read_block(content, content[-48 + position : -8]))) == 2
    tensors = list(read_checkpoint(index).values())
    assert len(tensors) == 330
    kinds = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
    for number, tensor in enumerate(tensors):
        assert tensor.dtype == kinds[number % 4]
        assert tensor.read().tolist() == [number % 100, number % 100 + 1]


@pytest.mark.parametrize("block_size", [1, 50, 1000, 10**9])
def test_a_table_of_any_number_of_blocks_gives_its_keys_back(block_size: int) -> None:
    dice = np.random.default_rng(block_size)
    keys = {bytes(dice.integers(97, 99, dice.integers(1, 12))) for _ in range(300)}
    pairs = [(key, bytes(dice.integers(0, 256, dice.integers(0, 9)))) for key in sorted(keys)]
    assert list(read_table(table(pairs, block_size)).items()) == pairs


def copy_golden(name: str, tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / name, tmp_path / name)
    return tmp_path / name


def test_a_changed_byte_in_the_data_is_refused_with_the_tensors_name(tmp_path: Path) -> None:
    folder = copy_golden("tf-shards", tmp_path)
    tensors = read_checkpoint(folder / "model.ckpt.index")
    for name, tensor in tensors.items():
        content = bytearray(tensor.path.read_bytes())
        content[tensor.start + tensor.n_bytes // 2] ^= 4
        tensor.path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"tensor model/\S+ in {tensor.path.name} is damaged"):
            tensor.read()
        with pytest.raises(ValueError, match=re.escape(tensors[name].name)):
            load_gpt2(folder)
        content[tensor.start + tensor.n_bytes // 2] ^= 4
        tensor.path.write_bytes(content)


def test_a_changed_byte_in_the_index_is_refused_unless_nothing_reads_it(tmp_path: Path) -> None:
    folder = copy_golden("tf-tiny", tmp_path)
    index = folder / "model.ckpt.index"
    content, right = index.read_bytes(), read_checkpoint(index)
    unseen = []
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        index.write_bytes(changed)
        try:
            assert read_checkpoint(index) == right
            unseen.append(position)
        except ValueError as error:
            assert "model.ckpt.index is damaged" in str(error)  # noqa: PT017
    footer = len(content) - 48
    first, position = read_varint(content[footer:], 0)  # the unused block, and its handle
    size, position = read_varint(content[footer:], position)
    unused = {*range(first, first + size + 5), *range(footer, len(content) - 8)}
    assert set(unseen) <= unused
    assert len(unseen) < 60


def test_a_part_of_a_checkpoint_that_is_missing_or_cut_off_is_named(tmp_path: Path) -> None:
    folder = copy_golden("tf-shards", tmp_path)
    data = folder / "model.ckpt.data-00001-of-00003"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{data.name} is damaged: model/\S+ ends at byte"):
        load_gpt2(folder)
    data.unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {data.name}, where model/"):
        load_gpt2(folder)
    (folder / "hparams.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no hparams"):
        load_gpt2(folder)
    index = (GOLDEN / "tf-shards" / "model.ckpt.index").read_bytes()
    for size in (0, 20, 48, len(index) // 2, len(index) - 1):
        (folder / "model.ckpt.index").write_bytes(index[:size])
        with pytest.raises(ValueError, match=r"model.ckpt.index is damaged: (bytes|its last 8)"):
            read_checkpoint(folder / "model.ckpt.index")


ONE = np.ones((1, 2, 3), np.float32)
HEADER = (b"", message([(1, 1)]))


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(b"a", entry(ONE, 0))], "can't be 24 bytes of file 0"),
        ([(b"", message([(1, 1), (2, 1)])), (b"a", entry(ONE, 0))], "big-endian"),
        ([HEADER, (b"b", entry(ONE, 0)), (b"a", entry(ONE, 24))], "keys are not in order"),
        ([HEADER, (b"a", entry(ONE, 0)), (b"a", entry(ONE, 24))], "keys are not in order"),
        ([HEADER, (b"a/g", entry(ONE, 0)), (b"a/w", entry(ONE, 24))], "two of its tensors"),
        ([HEADER, (b"a", entry(ONE, 0)), (b"b", entry(ONE, 12))], "bytes of b overlap"),
        ([HEADER, (b"a", entry(ONE, 10**15))], "a ends at byte 1000000000000024, the file at 48"),
        ([HEADER, (b"a", entry(ONE, 0, shard=1))], "bytes of file 1"),
        ([HEADER, (b"a", entry(ONE.astype(np.int32), 0))], r"not a whole tensor of floats .*3\)"),
        ([HEADER, (b"a", entry(ONE, 0, extra=[(7, b"x")]))], "not a whole tensor of floats"),
        ([HEADER, (b"a", entry(ONE, 0, extra=[(5, 25)]))], "can't be 25 bytes"),
        ([HEADER, (b"a", entry(ONE.reshape([1] * 7 + [2, 3]), 0))], "not a whole tensor"),
        ([HEADER, (b"a", b"\x12\x7f")], "were expected in"),
        ([HEADER, (b"a" * 1001, entry(ONE, 0))], "more than 1000 bytes"),
    ],
)
def test_an_index_that_lies_is_refused(
    pairs: list[tuple[bytes, bytes]], said: str, tmp_path: Path
) -> None:
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(ONE.tobytes() * 2)
    index = tmp_path / "model.ckpt.index"
    index.write_bytes(table(pairs))
    with pytest.raises(ValueError, match=f"is damaged: .*{said}"):
        read_checkpoint(index)


def test_blocks_that_nothing_can_be_read_from_are_refused() -> None:
    with pytest.raises(ValueError, match="is compressed"):
        read_table(table([(b"a", b"1")], kind=1))
    for content in (b"\0", b"\xff\xff\xff\xff\0", b"\x05\x01\x00x" + b"\0\0\0\0\x01\0\0\0" + b"\0"):
        block_of_that = sign(content)
        handle = varint(0) + varint(len(content) - 1)
        with pytest.raises(ValueError, match="were expected in"):
            list(read_block(block_of_that, handle))
    with pytest.raises(ValueError, match="not those of a sorted-string table"):
        read_table(bytes(48))
    far = (varint(2**60) + varint(2**60)) * 2
    with pytest.raises(ValueError, match="were expected in 48 bytes"):
        read_table(far.ljust(40, b"\0") + MAGIC)


def test_an_index_that_leads_to_one_block_again_and_again_ends(tmp_path: Path) -> None:
    part = block([(b"k%04d" % number, b"") for number in range(1000)])
    handle = varint(0) + varint(len(part) - 5)
    index = block([(b"x%06d" % number, handle) for number in range(100_000)])
    unused = part + index
    footer = handle + varint(len(part)) + varint(len(index) - 5)
    with pytest.raises(ValueError, match="keys are not in order"):
        read_table(unused + footer.ljust(40, b"\0") + MAGIC)


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    folder = copy_golden("tf-tiny", tmp_path)
    rewrite_json(folder / "hparams.json", n_layer=5)
    with pytest.raises(ValueError, match=r"12 missing: h\.4\."):
        load_gpt2(folder)
    rewrite_json(folder / "hparams.json", n_layer=4, n_ctx="gone")
    with pytest.raises(ValueError, match=r"hparams.json lacks n_ctx"):
        load_gpt2(folder)


def test_our_writer_of_checkpoints_agrees_with_tensorflow(tmp_path: Path) -> None:
    expected = np.load(GOLDEN / "tf-tiny" / "expected.npz")
    arrays = {name: expected[name] for name in expected.files}
    index = write_checkpoint(tmp_path, arrays)
    ours, theirs = read_checkpoint(index), read_checkpoint(GOLDEN / "tf-tiny" / "model.ckpt.index")
    assert ours.keys() == theirs.keys()
    assert {n: t.checksum for n, t in ours.items()} == {n: t.checksum for n, t in theirs.items()}


def test_extents_may_touch_but_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(16))
    first = StoredTensor("first", path, torch.float32, (2,), 0)
    check_extents([replace(first, start=8), first])
    with pytest.raises(ValueError, match="overlap"):
        check_extents([first, replace(first, start=7)])


# Damaged files of any kind


def test_20000_damaged_files_bring_out_only_our_own_errors() -> None:
    cases = os.environ.get("FUZZ_CASES", "20000")
    script = Path(__file__).parent / "fuzz_weights.py"
    done = subprocess.run(
        [sys.executable, str(script), "--cases", cases, "--seed", "4"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{script.parent}"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{cases} cases, seed 4" in done.stdout
    for kind in ("weights", "shard", "config", "checkpoint's index, checksums ignored"):
        assert f"{kind}: refused" in done.stdout
        assert f"{kind}: loaded" in done.stdout


# Where two models part


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """What transformers computed, see golden/make_gpt2_reference.py."""
    return load_file(GOLDEN / "hf-tiny" / "activations.safetensors")


def golden_model() -> GPT:
    return load_gpt2(GOLDEN / "hf-tiny")[0]


def test_the_golden_model_equals_transformers_at_every_stage(reference: dict[str, Tensor]) -> None:
    model = golden_model()
    tokens = reference["tokens"]
    differences = compare_stages(model, reference, tokens)
    assert [d.stage for d in differences] == list(activations(model, tokens))
    assert len(differences) == 3 * 5 + 3
    assert all(d.error < 1e-6 for d in differences)
    assert first_divergence(model, reference, tokens) is None
    torch.testing.assert_close(model(tokens), reference["logits"], rtol=0, atol=1e-5)
    written = reference["greedy"].tolist()
    assert greedy(model, written[:4], len(written) - 4) == written


def exact_gelu(model: GPT) -> None:
    mlp = model.blocks[1].mlp
    mlp.forward = lambda x: mlp.proj(F.gelu(mlp.expand(x)))  # type: ignore[method-assign]


def wrong_epsilon(model: GPT) -> None:
    model.blocks[2].ln_1.eps = 1e-3


def swapped_norms(model: GPT) -> None:
    one, other = model.blocks[1], model.blocks[2]
    one.ln_2, other.ln_2 = other.ln_2, one.ln_2


def swapped_query_and_key(model: GPT) -> None:
    for parameter in (model.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.bias):
        query, key, value = parameter.detach().chunk(3)
        parameter.data = torch.cat([key, query, value])


def square_matrix_not_turned(model: GPT) -> None:
    proj = model.blocks[2].attn.proj
    proj.weight.data = proj.weight.data.T.contiguous()


def forgotten_bias(model: GPT) -> None:
    model.blocks[0].mlp.proj.bias.data.zero_()


def shifted_positions(model: GPT) -> None:
    model.embed.position_embedding.weight.data = model.embed.position_embedding.weight.roll(1, 0)


def forgotten_last_norm(model: GPT) -> None:
    model.unembed = lambda x: F.linear(  # type: ignore[method-assign]
        x, model.embed.token_embedding.weight
    )


def forgotten_residual(model: GPT) -> None:
    block_1 = model.blocks[1]

    def forward(x: Tensor) -> Tensor:
        x = block_1.attn(block_1.ln_1(x))
        return x + block_1.mlp(block_1.ln_2(x))

    block_1.forward = forward  # type: ignore[method-assign]


def no_causal_mask(model: GPT) -> None:
    attn = model.blocks[1].attn

    def forward(x: Tensor) -> Tensor:
        return attn.merge(F.scaled_dot_product_attention(*attn.project(x)))

    attn.forward = forward  # type: ignore[method-assign]


def interleaved_heads(model: GPT) -> None:
    qkv = model.blocks[0].attn.qkv
    qkv.weight.data = qkv.weight.data.unflatten(0, (3, 2, 8)).transpose(0, 1).flatten(0, 2)


@pytest.mark.parametrize(
    ("mistake", "stage"),
    [
        (exact_gelu, "blocks.1.mlp"),
        (wrong_epsilon, "blocks.2.ln_1"),
        (swapped_norms, "blocks.1.ln_2"),
        (swapped_query_and_key, "blocks.0.attn"),
        (square_matrix_not_turned, "blocks.2.attn"),
        (forgotten_bias, "blocks.0.mlp"),
        (shifted_positions, "embed"),
        (forgotten_residual, "blocks.1.ln_2"),
        (no_causal_mask, "blocks.1.attn"),
        (interleaved_heads, "blocks.0.attn"),
        (forgotten_last_norm, "logits"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_first_wrong_stage_is_found(
    mistake: Callable[[GPT], None], stage: str, reference: dict[str, Tensor]
) -> None:
    model, right = golden_model(), golden_model()
    mistake(model)
    tokens = reference["tokens"]
    for known in (reference, right):
        found = first_divergence(model, known, tokens)
        assert found is not None
        assert found.stage == stage
        assert found.error > 1e-5
        batch, position, channel = found.position
        one = activations(model, tokens)[stage][batch, position, channel]
        other = activations(right, tokens)[stage][batch, position, channel]
        assert found.largest == pytest.approx(float((one - other).abs()), rel=1e-3)


def test_gpt2s_epsilon_on_a_real_scale_is_told_from_rounding() -> None:
    right = GPT(replace(CONFIG, n_embd=64), torch.Generator().manual_seed(0)).eval()
    wrong = GPT(right.config, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for model in (right, wrong):
            model.embed.token_embedding.weight.mul_(7)  # 0.14, as in the trained GPT-2
    for block_of_wrong in wrong.blocks:
        block_of_wrong.ln_1.eps = 1e-6
    found = first_divergence(wrong, right, tokens_for(right))
    assert found is not None
    assert found.stage == "blocks.0.ln_1"


def test_a_stage_that_is_not_a_number_diverges(reference: dict[str, Tensor]) -> None:
    model = golden_model()
    model.blocks[0].ln_2.bias.data[3] = float("nan")
    found = first_divergence(model, reference, reference["tokens"])
    assert found is not None
    assert found.stage == "blocks.0.ln_2"


def test_stages_that_cannot_be_compared_are_refused(reference: dict[str, Tensor]) -> None:
    model, tokens = golden_model(), reference["tokens"]
    with pytest.raises(ValueError, match=r"embed has shape \(2, 5, 16\) and \(2, 14, 16\)"):
        first_divergence(model, reference, tokens[:, :5])
    with pytest.raises(ValueError, match=r"no stage of this model, only \['h.0'\]"):
        compare_stages(model, {"h.0": torch.ones(1)}, tokens)
    some = compare_stages(model, {"blocks.1": reference["blocks.1"]}, tokens)
    assert [d.stage for d in some] == ["blocks.1"]


def test_recording_leaves_no_hook_behind(reference: dict[str, Tensor]) -> None:
    model = golden_model()
    with pytest.raises(ValueError, match="tokens have shape"):
        activations(model, reference["tokens"][0])
    activations(model, reference["tokens"])
    assert not any(module._forward_hooks for module in model.modules())


# A look inside


def test_heads_with_a_known_habit_get_the_score_1() -> None:
    n, period = 12, 6
    maps = torch.zeros(1, 1, 3, n, n)
    rows = torch.arange(1, n)
    maps[0, 0, 0, rows, rows - 1] = 1
    maps[0, 0, 1, :, 0] = 1
    rows = torch.arange(period, n)
    maps[0, 0, 2, rows, rows - period + 1] = 1
    scores = head_scores(maps, period)
    assert list(scores) == ["previous token", "first token", "induction"]
    table_of_scores = torch.stack(list(scores.values()))[:, 0]  # (habits, H)
    assert torch.equal(table_of_scores.diagonal(), torch.ones(3))
    assert (table_of_scores - torch.eye(3)).abs().max() <= 1 / 11 + 1e-6


def test_an_untrained_head_spreads_its_attention() -> None:
    model = GPT(replace(CONFIG, n_layer=3), torch.Generator().manual_seed(0)).eval()
    tokens = torch.arange(8).repeat(2)[None]
    scores = head_scores(attention_maps(model, tokens), period=8)
    assert all(score.shape == (3, 2) for score in scores.values())
    assert all(float(score.max()) < 0.4 for score in scores.values())


@pytest.mark.parametrize("period", [1, 4, 9])
def test_a_period_that_leaves_nothing_to_repeat_is_refused(period: int) -> None:
    with pytest.raises(ValueError, match=f"period is {period}; choose 2 to 3"):
        head_scores(torch.ones(1, 1, 1, 4, 4), period)


def test_the_lens_ends_with_the_models_own_logits() -> None:
    model = tiny()
    tokens = tokens_for(model)
    lens = logit_lens(model, tokens)
    assert lens.shape == (3, 2, 12, 270)
    torch.testing.assert_close(lens[-1], model(tokens))
    torch.testing.assert_close(lens[0], model.unembed(model.embed(tokens)))


# Fetching: a small hub of our own stands in for the real one


class Hub(BaseHTTPRequestHandler):
    """Serve files as huggingface.co and OpenAI's bucket do, and break off on request."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[tuple[str, str]]] = []
    break_off: ClassVar[dict[str, int]] = {}

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def answer(self, with_content: bool) -> None:
        name = self.path.rsplit("/", 1)[-1]
        span = self.headers.get("Range", "")
        self.requests.append((f"{self.command} {name}", span))
        if name not in self.files:
            self.send_error(404)
            return
        content = self.files[name]
        start = int(span.removeprefix("bytes=").removesuffix("-") or 0)
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if span:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", weights.RELEASES["gpt2"][0])
        self.end_headers()
        if with_content:
            stop = self.break_off.pop(name, len(content))
            self.wfile.write(content[start:stop])


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that offers a tiny model as "gpt2"; yields its address."""
    Hub.files = {file.name: file.read_bytes() for file in folder.iterdir()}
    Hub.requests, Hub.break_off = [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in Hub.files.items()}
    revision = weights.RELEASES["gpt2"][0]
    known = {name: sha256[name] for name in ("config.json", "model.safetensors")}
    monkeypatch.setitem(weights.RELEASES, "gpt2", (revision, known))
    vocabulary = {name: sha256[name] for name in ("vocab.json", "merges.txt")}
    monkeypatch.setattr(weights, "VOCABULARY_SHA256", vocabulary)
    address = f"http://127.0.0.1:{server.server_port}"
    cache = tmp_path / "cache"
    load = partial(huggingface_hub.hf_hub_download, endpoint=address, cache_dir=cache)
    look = partial(huggingface_hub.try_to_load_from_cache, cache_dir=cache)
    monkeypatch.setattr(weights, "hf_hub_download", load)
    monkeypatch.setattr(weights, "try_to_load_from_cache", look)
    monkeypatch.setattr(weights, "gpt2_encoding", lambda: TOKENIZER)
    yield address
    server.shutdown()
    server.server_close()
    thread.join()


def test_gpt2_is_fetched_once_and_then_comes_from_the_cache(hub: str) -> None:
    model, tokenizer = load_gpt2("gpt2")
    assert_same_weights(model, tiny())
    assert tokenizer is TOKENIZER
    fetched = [what for what, _ in Hub.requests if what.startswith("GET")]
    assert sorted(fetched) == [f"GET {name}" for name in sorted(weights.MODEL_FILES)]
    Hub.requests.clear()
    assert_same_weights(load_gpt2()[0], tiny())
    assert not Hub.requests


def test_the_cache_under_the_old_name_is_used(hub: str, tmp_path: Path) -> None:
    load_gpt2("gpt2")
    cache = tmp_path / "cache"
    (cache / "models--openai-community--gpt2").rename(cache / "models--gpt2")
    Hub.requests.clear()
    load_gpt2("gpt2")
    assert not Hub.requests


def test_a_download_that_breaks_off_is_taken_up_again(hub: str) -> None:
    Hub.break_off = {"model.safetensors": 3000}
    assert_same_weights(load_gpt2("gpt2")[0], tiny())
    assert [what for what, _ in Hub.requests].count("GET model.safetensors") == 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json"])
def test_another_file_than_the_published_one_is_refused(name: str, hub: str) -> None:
    content = bytearray(Hub.files[name])
    content[-2] ^= 1
    Hub.files[name] = bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is not the published file: its sha256.*delete"):
        load_gpt2("gpt2")


def test_without_the_network_the_message_says_what_to_put_where(
    hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(weights, "hf_hub_download", unreachable)
    said = (
        r"gpt2 is not on this machine and could not be fetched .LocalEntryNotFoundError.*put "
        r"vocab.json, merges.txt, model.safetensors, config.json from https://huggingface.co/"
        r"openai-community/gpt2/tree/607a30d783dfa663caf39e06633721c8d4cfcd7e into a folder"
    )
    with pytest.raises(ConnectionError, match=said):
        load_gpt2("gpt2")


def test_a_file_that_the_hub_does_not_have_is_told_in_the_same_way(hub: str) -> None:
    del Hub.files["merges.txt"]
    with pytest.raises(ConnectionError, match="gpt2 is not on this machine and could not"):
        load_gpt2("gpt2")


def test_openais_release_is_fetched_and_a_broken_download_goes_on(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptlib.extras import openai_release

    monkeypatch.setattr(openai_release, "ADDRESS", hub)
    source = GOLDEN / "tf-tiny"
    Hub.files = {name: (source / name).read_bytes() for name in openai_release.OPENAI_FILES}
    data = "model.ckpt.data-00000-of-00001"
    Hub.break_off = {data: 10_000}
    with pytest.raises(ConnectionError, match=rf"{data} (broke off after|could not be fetched)"):
        openai_release.download_openai("124M", tmp_path / "new")
    assert not (tmp_path / "new" / data).exists()
    assert (tmp_path / "new" / f"{data}.part").stat().st_size == 10_000
    place = openai_release.download_openai("124M", tmp_path / "new")
    assert Hub.requests[-1] == (f"GET {data}", "bytes=10000-")
    assert_same_weights(load_gpt2(place)[0], load_gpt2(source)[0])
    del Hub.files["vocab.bpe"]
    (place / "vocab.bpe").unlink()
    with pytest.raises(ConnectionError, match=r"vocab.bpe could not be fetched .*or save http"):
        openai_release.download_openai("124M", place)
    with pytest.raises(ValueError, match="size is '125M'; choose"):
        openai_release.download_openai("125M", place)


def test_a_path_named_like_a_release_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_gpt2(tiny(), TOKENIZER, "gpt2")
    assert_same_weights(load_gpt2(Path("gpt2"))[0], tiny())


def test_adapters_and_strange_tokenizers_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="if they are adapters, call merge_lora first"):
        save_gpt2(add_lora(tiny()), TOKENIZER, tmp_path)
    with pytest.raises(ValueError, match=r"'gpt2' is no BPETokenizer and no tiktoken\.Encoding"):
        save_gpt2(tiny(), "gpt2", tmp_path)  # type: ignore[arg-type]
