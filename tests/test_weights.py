"""GPT-2's files are read and written exactly, damaged ones are named, mistakes are found."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch
import torch.nn.functional as F
from notebook_files import ROOT
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_gpt2 import (
    CONFIG,
    GOLDEN,
    TEXT,
    TOKENIZER,
    assert_same_logits,
    assert_same_weights,
    greedy,
    rewrite_json,
    their_greedy,
    tiny,
    tokens_for,
)
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from gptlib import weights
from gptlib.attention import Mix
from gptlib.extras.models import load_model
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
    activations,
    compare_stages,
    first_divergence,
    gpt2_view,
    head_scores,
    layout,
    load_gpt2,
    logit_lens,
    read_json,
    read_shapes,
    save_gpt2,
)

Load = Callable[[Path], tuple[GPT, Any]]


@pytest.fixture(params=[load_gpt2, load_model], ids=["load_gpt2", "load_model"])
def load(request: pytest.FixtureRequest) -> Load:
    """The chapter's loader, and the door to all formats: both refuse in the same words."""
    opened: Load = request.param
    return opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_gpt2(tiny(), TOKENIZER, tmp_path / "tiny")
    return tmp_path / "tiny"


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
    theirs.pop("lm_head.weight")
    shapes = {n.removeprefix("transformer."): tuple(t.shape) for n, t in theirs.items()}
    assert layout(config) == shapes


def test_a_view_is_the_models_own_memory() -> None:
    model = tiny()
    views = gpt2_view(model)
    assert sum(view.numel() for view in views.values()) == sum(
        parameter.numel() for parameter in model.parameters()
    )
    views["h.1.mlp.c_fc.weight"][3, 5] = 7
    views["wte.weight"][2, 1] = 9
    assert model.blocks[1].mlp.expand.weight[5, 3] == 7
    assert model.head.weight[2, 1] == 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positions": "sinusoidal"}, r"wpe.weight missing instead of \(16, 8\)"),
        ({"bias": False}, "h.0.attn.c_attn.bias missing .* and 8 more"),
    ],
)
def test_what_gpt2_has_no_place_for_is_not_saved(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model = GPT(replace(CONFIG, **change))
    with pytest.raises(ValueError, match=f"no place for this model: {said}.*learn positions"):
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


def test_the_file_holds_gpt2s_names_and_no_output_layer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    views = gpt2_view(tiny())
    assert tensors.keys() == views.keys()
    assert all(torch.equal(views[name], tensor) for name, tensor in tensors.items())
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
    assert isinstance(load_model(tmp_path)[1], tiktoken.Encoding)


def notebook_function(name: str) -> Any:
    """Take a function out of chapter 7, with all that its cell defines."""
    book = json.loads((ROOT / "notebooks" / "07_weights.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    source = next(source for source in sources if f"\ndef {name}(" in source)
    names: dict[str, Any] = {**vars(weights), "GPT2LMHeadModel": GPT2LMHeadModel}
    names["load_model"] = load_model
    exec(source.split("\n\n\nassert ")[0], names)
    return names[name]


def test_a_model_of_the_size_of_gpt2_is_that_of_transformers(tmp_path: Path) -> None:
    ours = GPT(GPT2_SMALL, torch.Generator().manual_seed(0)).eval()
    save_gpt2(ours, gpt2_encoding(), tmp_path / "ours")
    assert (tmp_path / "ours" / "model.safetensors").stat().st_size < 497_800_000
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    assert_same_logits(ours, theirs, n_tokens=8)
    proof = notebook_function("prove")(tmp_path / "ours")  # the chapter's recipe, 1,024 tokens
    assert len(proof) == 63
    assert max(difference.error for difference in proof) <= 1e-5
    back, tokenizer = load_gpt2(tmp_path / "ours")
    assert_same_weights(ours, back)
    assert isinstance(tokenizer, tiktoken.Encoding)


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
        ({"tie_word_embeddings": False}, r"lm_head.weight missing instead of \(270, 8\)"),
        ({"tie_word_embeddings": "no"}, "tie_weights is 'no'"),
        ({"n_inner": 100}, r"h.0.mlp.c_fc.weight \(8, 32\) instead of \(8, 100\)"),
        ({"n_inner": 10**30}, "h.0.mlp.c_fc.weight"),
        ({"n_inner": {}}, "d_ff is {}; it must be a whole number"),
        ({"n_embd": "gone"}, "it lacks 'n_embd'"),
        ({"n_head": 3}, "must be divisible by n_head, 3"),
        ({"n_layer": "2"}, "n_layer is '2'"),
        ({"n_layer": 10**9}, "28 tensors can't be 1000000000 layers"),
        ({"n_layer": 3}, r"h.2.attn.c_attn.bias missing instead of .* and 7 more"),
        ({"vocab_size": 10**18}, r"wte.weight \(270, 8\) instead of \(1000000000000000000, 8\)"),
        ({"n_embd": 10**15}, r"config.json: h.0.mlp.* wpe.weight \(16, 8\) instead of \(16, 1000"),
        ({"resid_pdrop": "x"}, "config.json: "),
        ({"resid_pdrop": 1.5}, "dropout is 1.5"),
    ],
)
def test_a_configuration_of_something_else_is_refused(
    changes: dict[str, Any], said: str, folder: Path, load: Load
) -> None:
    rewrite_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=said):
        load(folder)


def test_names_of_the_same_activation_are_understood(folder: Path, load: Load) -> None:
    rewrite_json(folder / "config.json", activation_function="gelu_pytorch_tanh", n_inner=32)
    load(folder)


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
    file: str, content: bytes, said: str, folder: Path, load: Load
) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is damaged.*{said}"):
        load(folder)


def test_a_file_of_gigabytes_in_place_of_a_small_one_is_not_read(folder: Path, load: Load) -> None:
    with open(folder / "config.json", "wb") as file:
        file.truncate(2**40)  # takes no space on the disk
    with pytest.raises(ValueError, match="67108864 bytes of JSON can't be read"):
        load(folder)


@pytest.mark.parametrize("file", ["config.json", "vocab.json", "merges.txt", "model.safetensors"])
def test_a_missing_file_is_named(file: str, folder: Path, load: Load) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {file}"):
        load(folder)


def test_a_vocabulary_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    other = BPETokenizer.train(TEXT, 269)
    with pytest.raises(ValueError, match=r"tokenizer has 269 tokens and the model 270"):
        save_gpt2(tiny(), other, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    other.save(folder)
    with pytest.raises(ValueError, match=r"tokenizer has 269 tokens and the model 270"):
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


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.999])
def test_a_download_that_broke_off_is_refused(share: float, folder: Path, load: Load) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: .*; copy, download"):
        load(folder)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": F32, "b": F32},  # two tensors in one place
        {"a": F32 | {"data_offsets": [8, 16]}},
        {"a": F32 | {"shape": [2**62, 4]}},
        {"a": F32 | {"dtype": "F3"}},
        b"[" * 50_000,
        b"\xff{}",
        {"a": F32, "__metadata__": 5},
    ],
    ids=["overlap", "beyond", "overflow", "kind", "nested", "utf-8", "metadata"],
)
def test_a_header_that_lies_is_refused(header: Any, folder: Path, load: Load) -> None:
    write_raw(folder / "model.safetensors", header, bytes(8))
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: .*; copy"):
        load(folder)


@pytest.mark.parametrize("length", [17, 2**31, 2**63, 2**64 - 1])
def test_a_header_that_announces_more_than_the_file_holds_is_not_allocated(
    length: int, folder: Path, load: Load
) -> None:
    write_raw(folder / "model.safetensors", b"{}", bytes(14), length)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: .*header"):
        load(folder)


def test_of_a_name_that_stands_twice_only_the_last_counts_and_no_byte_is_read_twice(
    tmp_path: Path,
) -> None:
    """Why duplicate names need no check of ours: they can't make two tensors of one."""
    first, last = (json.dumps(F32 | {"shape": shape}) for shape in ([2], [1, 2]))
    write_raw(tmp_path / "a", f'{{"a": {first}, "a": {last}}}'.encode(), bytes(8))
    assert read_shapes(tmp_path / "a") == {"a": (1, 2)}  # as Python's json has it
    later = json.dumps(F32 | {"data_offsets": [8, 16]})
    write_raw(tmp_path / "a", f'{{"a": {first}, "a": {later}}}'.encode(), bytes(16))
    with pytest.raises(ValueError, match="is damaged"):  # bytes 0 to 8 are now nobody's
        read_shapes(tmp_path / "a")


# Saving never leaves half a model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_a_value_that_float16_cannot_hold_is_named_and_nothing_is_written(
    value: float, folder: Path
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    model = tiny()
    with torch.no_grad():
        model.blocks[1].mlp.proj.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"h.1.mlp.c_proj.weight holds a value"):
        save_gpt2(model, TOKENIZER, folder, dtype=torch.float16)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/model can't be written .*choose another folder"):
        save_gpt2(tiny(), TOKENIZER, tmp_path / "file" / "model")


def test_a_disk_that_fills_up_leaves_the_old_model_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_tensors: Any, path: Path, _metadata: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match=r"can't be written .No space left"):
        save_gpt2(tiny(seed=1), TOKENIZER, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def stop_before(
    stop: int, done: list[str], folder: Path, name: str, real: Callable[..., Any]
) -> Any:
    """Let the first `stop` changes of a folder happen, and note them; the next is interrupted."""

    def step(*arguments: Any, **options: Any) -> Any:
        place = Path(arguments[-1])
        if place.parent == folder and place.name[0] != ".":
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
    # Every call that changes the folder, in order: three files of the old model leave, four come.
    steps = ["unlink"] * 3 * (not first) + ["replace"] * 4
    for stop in range(len(steps) + 1):
        folder = tmp_path / str(stop)
        if not first:
            save_gpt2(old, TOKENIZER, folder, beside=["head.safetensors"])
            (folder / "head.safetensors").write_bytes(b"of the old model")
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
        assert not list(folder.glob(".*"))
        if (folder / "head.safetensors").exists() and stop > 0:
            assert stop == 1  # its config.json has left, so nothing opens it
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

    monkeypatch.setattr(Path, "write_text", forbidden)
    with pytest.raises(OSError, match=r"can't be written .*Permission denied.; choose"):
        save_gpt2(tiny(), TOKENIZER, tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_of_another_tokenizer_are_not_left_to_be_read_first(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"another model's tokenizer.json; choose an empty folder"):
        save_gpt2(tiny(), TOKENIZER, folder)


def test_files_beside_a_model_are_listed_and_leave_with_it(tmp_path: Path) -> None:
    save_gpt2(tiny(), TOKENIZER, tmp_path, beside=["head.safetensors", "notes.json"])
    assert read_json(tmp_path / "config.json")["beside"] == ["head.safetensors", "notes.json"]
    for name in ("head.safetensors", "other.txt"):
        (tmp_path / name).write_text("x")
    load_gpt2(tmp_path)
    save_gpt2(tiny(), TOKENIZER, tmp_path)
    assert read_json(tmp_path / "config.json")["beside"] == []
    assert not (tmp_path / "head.safetensors").exists()
    assert (tmp_path / "other.txt").exists()


@pytest.mark.parametrize(
    "listed", [["../victim", "sub/file", 5, None], "victim", {"a": 1}, None, 7, "gone"]
)
def test_what_a_strange_config_lists_as_beside_does_no_harm(listed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_gpt2(tiny(), TOKENIZER, folder)
    (folder / "sub").mkdir()
    for victim in (tmp_path / "victim", folder / "sub" / "file", folder / "other"):
        victim.write_text("x")
    rewrite_json(folder / "config.json", beside=listed)
    save_gpt2(tiny(seed=1), TOKENIZER, folder)
    assert_same_weights(load_gpt2(folder)[0], tiny(seed=1))
    for victim in (tmp_path / "victim", folder / "sub" / "file", folder / "other"):
        assert victim.exists()


def test_whoever_may_read_the_configuration_may_read_the_weights(folder: Path) -> None:
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_a_damaged_folder_can_be_saved_to(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"{")
    save_gpt2(tiny(seed=1), TOKENIZER, folder)
    assert_same_weights(load_gpt2(folder)[0], tiny(seed=1))


def test_layers_that_gpt2_does_not_have_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing instead of .*put back what was added"):
        save_gpt2(add_lora(tiny()), TOKENIZER, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_only_floats_of_16_and_32_bits_are_written(dtype: torch.dtype, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"dtype is {dtype}; choose"):
        save_gpt2(tiny(), TOKENIZER, tmp_path / "new", dtype=dtype)


# Where two models part


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """What transformers computed, see golden/make_gpt2_reference.py."""
    return load_file(GOLDEN / "hf-tiny" / "activations.safetensors")


def golden_model() -> GPT:
    return load_model(GOLDEN / "hf-tiny")[0]


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


def square_matrix_not_transposed(model: GPT) -> None:
    proj = model.blocks[2].attn.proj
    proj.weight.data = proj.weight.data.T.contiguous()


def forgotten_bias(model: GPT) -> None:
    model.blocks[0].mlp.proj.bias.data.zero_()


def shifted_positions(model: GPT) -> None:
    model.embed.position_embedding.weight.data = model.embed.position_embedding.weight.roll(1, 0)


def forgotten_last_norm(model: GPT) -> None:
    model.unembed = lambda x: model.head(x)  # type: ignore[method-assign]


def forgotten_residual(model: GPT) -> None:
    block_1 = model.blocks[1]

    def forward(x: Tensor, mix: Mix | None = None) -> Tensor:
        x = block_1.attn(block_1.ln_1(x), mix)
        return x + block_1.mlp(block_1.ln_2(x))

    vars(block_1)["forward"] = forward


def no_causal_mask(model: GPT) -> None:
    attn = model.blocks[1].attn
    right = attn.forward
    vars(attn)["forward"] = lambda x, _mix: right(x, F.scaled_dot_product_attention)


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
        (square_matrix_not_transposed, "blocks.2.attn"),
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
    with pytest.raises(
        ValueError, match=r"embed: \(2, 5, 16\) here, \(2, 14, 16\) in the reference"
    ):
        first_divergence(model, reference, tokens[:, :5])
    with pytest.raises(ValueError, match=r"no stage of this model, only \['h.0'\]"):
        compare_stages(model, {"h.0": torch.ones(1)}, tokens)
    some = compare_stages(model, {"blocks.1": reference["blocks.1"]}, tokens)
    assert [d.stage for d in some] == ["blocks.1"]


def test_recording_leaves_no_hook_behind(reference: dict[str, Tensor]) -> None:
    model = golden_model()
    with pytest.raises(ValueError, match="tokens: pass int64 ids"):
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
