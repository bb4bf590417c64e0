"""What other programs and other ages wrote opens as it should, and damaged files are named."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from huggingface_hub.errors import LocalEntryNotFoundError
from notebook_files import ROOT
from safetensors.torch import load_file, save_file
from tf_table import MAGIC, block, entry, message, sign, table, varint, write_checkpoint
from tiny_gpt2 import (
    CONFIG,
    GOLDEN,
    TEXT,
    TOKENIZER,
    assert_same_logits,
    assert_same_weights,
    greedy,
    rewrite,
    rewrite_json,
    their_greedy,
    tiny,
    transformers_model,
)
from torch import Tensor
from transformers import GPT2LMHeadModel, GPT2TokenizerFast

from gptlib import weights
from gptlib.extras.formats import hub as releases
from gptlib.extras.formats import openai_release
from gptlib.extras.formats.tensorflow import (
    StoredTensor,
    check_extents,
    crc32c,
    openai_name,
    read_block,
    read_checkpoint,
    read_message,
    read_table,
    read_varint,
    skip_tables,
)
from gptlib.extras.models import load_model
from gptlib.gpt2 import GPT, GPT2_SMALL, GPTConfig
from gptlib.tokenizer import BPETokenizer, gpt2_encoding
from gptlib.weights import gpt2_view, save_gpt2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_gpt2(tiny(), TOKENIZER, tmp_path / "tiny")
    return tmp_path / "tiny"


# Folders of transformers


@pytest.mark.parametrize("shard_size", ["1GB", "8KB"])
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, d_ff=20, tie_weights=False)])
def test_we_open_what_transformers_saves_whole_or_in_shards(
    shard_size: str, config: GPTConfig, tmp_path: Path
) -> None:
    theirs = transformers_model(config)
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) == 1) == (shard_size == "1GB")
    TOKENIZER.save(tmp_path)
    ours, _ = load_model(str(tmp_path))
    assert_same_logits(ours, theirs)
    assert greedy(ours, [5, 6, 7], 9) == their_greedy(theirs, [5, 6, 7], 9)
    assert ours.config == replace(config, dropout=0.1)
    save_gpt2(ours, TOKENIZER, tmp_path / "again")
    assert_same_logits(ours, GPT2LMHeadModel.from_pretrained(tmp_path / "again").eval())


def test_shards_of_the_size_of_gpt2_are_opened(tmp_path: Path) -> None:
    ours = GPT(GPT2_SMALL, torch.Generator().manual_seed(0)).eval()
    save_gpt2(ours, gpt2_encoding(), tmp_path / "ours")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="200MB")
    shutil.copy(tmp_path / "ours" / "vocab.json", tmp_path / "theirs")
    shutil.copy(tmp_path / "ours" / "merges.txt", tmp_path / "theirs")
    shutil.rmtree(tmp_path / "ours")
    back, tokenizer = load_model(tmp_path / "theirs")
    assert_same_weights(ours, back)
    assert isinstance(tokenizer, tiktoken.Encoding)
    shutil.rmtree(tmp_path / "theirs")


def test_the_tokenizer_that_transformers_saves_is_read(folder: Path) -> None:
    theirs = GPT2TokenizerFast.from_pretrained(folder)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / file).unlink()
    theirs.save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()
    tokenizer = load_model(folder)[1]
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.tokens == TOKENIZER.tokens
    assert tokenizer.encode(TEXT) == TOKENIZER.encode(TEXT)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": 3},
        {"added_tokens": [1]},
        {"pre_tokenizer": {"type": "Metaspace", "add_prefix_space": False}},
        {
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}
            | {"continuing_subword_prefix": "##"}
        },  # the library panics
    ],
)
def test_what_is_no_tokenizer_is_refused(changes: dict[str, Any], folder: Path) -> None:
    GPT2TokenizerFast.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.json").unlink()
    rewrite_json(folder / "tokenizer.json", **changes)
    with pytest.raises(ValueError, match="not the file of a tokenizer that the tokenizers library"):
        load_model(folder)


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
    assert_same_weights(load_model(folder)[0], tiny())


def untie(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["wte.weight"] + 1


def test_an_output_layer_that_differs_is_believed_as_transformers_does(folder: Path) -> None:
    rewrite(folder, untie)
    ours, _ = load_model(folder)
    assert ours.config == replace(CONFIG, tie_weights=False)
    assert_same_logits(ours, GPT2LMHeadModel.from_pretrained(folder).eval())


def shorten_head(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["wte.weight"][:-1].clone()


def double_a_name(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.ln_f.bias"] = tensors["ln_f.bias"].clone()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shorten_head, r"lm_head.weight \(269, 8\) instead of \(270, 8\)"),
        (double_a_name, "ln_f.bias is there twice, maybe with a prefix"),
        (
            lambda t: t.pop("ln_f.bias"),
            r"config.json: ln_f.bias missing instead of \(8,\); take",
        ),
        (
            lambda t: t.update(x=torch.ones(1)),
            r"config.json: x \(1,\) instead of nothing; take",
        ),
        (
            lambda t: t.update({"wpe.weight": torch.ones(15, 8)}),
            r"config.json: wpe.weight \(15, 8\) instead of \(16, 8\)",
        ),
        (
            lambda t: t.update({"h.0.attn.c_attn.weight": torch.ones(24, 8)}),
            r"h.0.attn.c_attn.weight \(24, 8\) instead of \(8, 24\)",
        ),
        (
            lambda t: t.update({f"y{i}": torch.ones(1) for i in range(7)}),
            r"config.json: y0 .*, y4 \(1,\) instead of nothing and 2 more",
        ),
        (lambda t: t.clear(), r"config.json: .*wpe.weight missing instead of \(16, 8\)"),
    ],
)
def test_tensors_that_are_not_the_models_are_named(
    change: Callable[[dict[str, Tensor]], object], said: str, folder: Path
) -> None:
    rewrite(folder, change)
    with pytest.raises(ValueError, match=said):
        load_model(folder)


# Pickles and shards


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
        load_model(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        load_model(folder)
    assert not (folder / "bomb-went-off").exists()


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
    assert_same_weights(load_model(shards.parent)[0], tiny())


@pytest.mark.parametrize(
    ("name", "file", "error", "said"),
    [
        (
            "wte.weight",
            "part-9.safetensors",
            FileNotFoundError,
            "has no part-9.safetensors; a model",
        ),
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
        load_model(shards.parent)


@pytest.mark.parametrize("values", [{}, {"weight_map": {}}, {"weight_map": [1]}])
def test_an_index_without_files_is_refused(values: Any, shards: Path) -> None:
    shards.write_text(json.dumps(values))
    with pytest.raises(ValueError, match='"weight_map" does not give each tensor a file'):
        load_model(shards.parent)


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
    model, tokenizer = load_model(GOLDEN / name)
    views = gpt2_view(model)
    expected = np.load(GOLDEN / name / "expected.npz")
    assert len(expected.files) == len(tensors) == len(views) == 52
    for openai in expected.files:
        value = torch.from_numpy(expected[openai]).squeeze(0)
        assert torch.equal(views[openai_name(openai)], value), openai
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
            load_model(folder)
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
        load_model(folder)
    data.unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {data.name}, where model/"):
        load_model(folder)
    (folder / "hparams.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no hparams"):
        load_model(folder)
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
    with pytest.raises(
        ValueError, match=r"h\.4\.attn\.c_attn\.bias missing instead of \(24,\).* and 7 more"
    ):
        load_model(folder)
    rewrite_json(folder / "hparams.json", n_layer=4, n_ctx="gone")
    with pytest.raises(ValueError, match=r"hparams.json is damaged: it lacks .n_ctx"):
        load_model(folder)


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
    first = StoredTensor("first", path, torch.float32, (2,), 0, 0)
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
        self.send_header("X-Repo-Commit", releases.RELEASES["gpt2"][0])
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
    revision = releases.RELEASES["gpt2"][0]
    known = {name: sha256[name] for name in ("config.json", "model.safetensors")}
    monkeypatch.setitem(releases.RELEASES, "gpt2", (revision, known))
    vocabulary = {name: sha256[name] for name in ("vocab.json", "merges.txt")}
    for module in (weights, releases):
        monkeypatch.setattr(module, "VOCABULARY_SHA256", vocabulary)
    address = f"http://127.0.0.1:{server.server_port}"
    cache = tmp_path / "cache"
    monkeypatch.setattr(releases, "HUB", address)
    monkeypatch.setattr(openai_release, "ADDRESS", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("GPTLIB_DATA_MIRROR", raising=False)
    load = partial(huggingface_hub.hf_hub_download, cache_dir=cache)
    look = partial(huggingface_hub.try_to_load_from_cache, cache_dir=cache)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", load)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    monkeypatch.setattr(weights, "gpt2_encoding", lambda: TOKENIZER)
    yield address
    server.shutdown()
    server.server_close()
    thread.join()


def test_gpt2_is_fetched_once_and_then_comes_from_the_cache(hub: str) -> None:
    model, tokenizer = load_model("gpt2")
    assert_same_weights(model, tiny())
    assert tokenizer is TOKENIZER
    fetched = [what for what, _ in Hub.requests if what.startswith("GET")]
    assert sorted(fetched) == [f"GET {name}" for name in sorted(weights.MODEL_FILES)]
    Hub.requests.clear()
    assert_same_weights(load_model("gpt2")[0], tiny())
    assert not Hub.requests


def test_the_cache_under_the_old_name_is_used(hub: str, tmp_path: Path) -> None:
    load_model("gpt2")
    cache = tmp_path / "cache"
    (cache / "models--openai-community--gpt2").rename(cache / "models--gpt2")
    Hub.requests.clear()
    load_model("gpt2")
    assert not Hub.requests


def test_a_download_that_breaks_off_is_taken_up_again(hub: str) -> None:
    Hub.break_off = {"model.safetensors": 3000}
    if int(huggingface_hub.__version__.split(".")[0]) < 2:  # it leaves it to the next call
        with suppress(ConnectionError):
            load_model("gpt2")
    assert_same_weights(load_model("gpt2")[0], tiny())
    assert [what for what, _ in Hub.requests].count("GET model.safetensors") == 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json"])
def test_another_file_than_the_published_one_is_refused(name: str, hub: str) -> None:
    content = bytearray(Hub.files[name])
    content[-2] ^= 1
    Hub.files[name] = bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is not the published file: its sha256.*delete"):
        load_model("gpt2")


def test_without_the_network_the_message_says_what_to_put_where(
    hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    said = (
        r"gpt2 is not on this machine and could not be fetched from 127.*put "
        r"config.json, model.safetensors, vocab.json, merges.txt from https://huggingface.co/"
        r"openai-community/gpt2/tree/607a30d783dfa663caf39e06633721c8d4cfcd7e into a folder"
    )
    with pytest.raises(ConnectionError, match=said):
        load_model("gpt2")


def test_a_file_that_the_hub_does_not_have_is_told_in_the_same_way(hub: str) -> None:
    del Hub.files["merges.txt"]
    with pytest.raises(ConnectionError, match="gpt2 is not on this machine and could not"):
        load_model("gpt2")


def test_without_the_hub_openais_files_are_fetched_and_then_kept(
    hub: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(releases, "HUB", "http://127.0.0.1:9")
    monkeypatch.setattr(openai_release, "ADDRESS", hub)
    monkeypatch.setattr(releases, "VOCABULARY_SHA256", {})
    source = GOLDEN / "tf-tiny"
    Hub.files = {name: (source / name).read_bytes() for name in openai_release.OPENAI_FILES}
    for _ in range(2):
        assert_same_weights(load_model("gpt2")[0], load_model(source)[0])
    fetched = [what for what, _ in Hub.requests]
    assert sorted(fetched) == [f"GET {name}" for name in sorted(openai_release.OPENAI_FILES)]
    said = capsys.readouterr().err
    assert "gpt2 can't be had from 127.0.0.1:9: no connection" in said
    assert f"gpt2 is from {hub.removeprefix('http://')}, and lies in" in said


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_a_mirror_is_asked_before_others(
    kind: str, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "HUB", "http://127.0.0.1:9")
    (tmp_path / "mirror/gpt2").mkdir(parents=True)
    for name, content in Hub.files.items():
        (tmp_path / "mirror/gpt2" / name).write_bytes(content)
    place = str(tmp_path / "mirror") if kind == "folder" else hub
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", place)
    for _ in range(2):
        assert_same_weights(load_model("gpt2")[0], tiny())
    fetched = [what for what, _ in Hub.requests]
    names = weights.MODEL_FILES if kind == "address" else ()
    assert sorted(fetched) == [f"GET {name}" for name in sorted(names)]


def test_hosts_that_cannot_be_reached_are_given_up_in_seconds(
    hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "HUB", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="could not be fetched from"):
        load_model("gpt2")
    assert time.monotonic() - began < 20  # the hub's own tries alone take longer


def test_openais_release_is_fetched_and_a_broken_download_goes_on(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert_same_weights(load_model(place)[0], load_model(source)[0])
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
    assert_same_weights(load_model(Path("gpt2"))[0], tiny())
