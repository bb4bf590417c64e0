"""Models, tokenizers, messages, instructions and texts as they are found in the wild.

Each case makes its input itself and is either read, and is then what its maker says it is, or is
named for what it is, with a way on that is followed. `python tests/test_wild.py` prints them all.
"""

# ruff: noqa: E501  (a case is a line)

import contextlib
import csv
import gzip
import io
import json
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tf_table import write_checkpoint
from tiny_gpt2 import (
    CONFIG,
    TEXT,
    TOKENIZER,
    assert_same_logits,
    greedy,
    their_greedy,
    tiny,
    transformers_model,
)
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers import GPT2Tokenizer as TheirTokenizer

from gptlib.extras.cli import main as command_line
from gptlib.extras.fast import fast
from gptlib.extras.fast.onednn import OneDNNLinear, swap_linears
from gptlib.extras.formats.records import read_messages, read_questions
from gptlib.extras.models import load_model
from gptlib.extras.texts import find_texts, named_tokenizer, read_documents
from gptlib.extras.tokens import cut_long_words
from gptlib.generation import Sampling, generate
from gptlib.gpt2 import GPT
from gptlib.instructions import add_lora, lora_layers
from gptlib.scaling import processes
from gptlib.tokenizer import BPETokenizer, end_of_text, gpt2_encoding, train_bpe, vocabulary_size
from gptlib.training import TrainingConfig, TrainingState, save_checkpoint, train
from gptlib.weights import gpt2_view, save_gpt2

TEXTS = (
    "the prince said",
    "",
    " so  the\n\nprincess, café “1812”!",
    "xyz\tthat",
    "Ünïcødé 日本 🙂",
)
Make = Callable[[Path], Any]
CASES: list[Any] = []
LFS = b"version https://git-lfs.github.com/spec/v1\noid"


def case(kind: str, name: str, make: Make, said: str = "") -> None:
    """Add a case: it is read, unless it is to be refused in words that match `said`."""
    CASES.append(pytest.param(make, said, id=f"{kind}: {name}"))


# Tokenizers: the folder is made, and read as transformers reads it


def library(kind: str = "bpe", **options: Any) -> Any:
    """Train a tokenizer of the `tokenizers` library on a few words."""
    model, trainer = {
        "bpe": (models.BPE, trainers.BpeTrainer),
        "wordpiece": (models.WordPiece, trainers.WordPieceTrainer),
        "unigram": (models.Unigram, trainers.UnigramTrainer),
        "wordlevel": (models.WordLevel, trainers.WordLevelTrainer),
    }[kind]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    before = options.pop("pre", pre_tokenizers.ByteLevel(add_prefix_space=False))
    after = options.pop("decoder", decoders.ByteLevel())
    model_options = {"unk_token": "[UNK]"} if kind in ("wordpiece", "wordlevel") else {}
    made = tokenizers.Tokenizer(model(**model_options | options.pop("model", {})))
    made.normalizer = options.pop("normalizer", None)
    made.pre_tokenizer, made.decoder = before, after
    special = options.pop("special", ["<|endoftext|>"])
    special += ["[UNK]"] if kind in ("wordpiece", "wordlevel") else []
    if kind in ("bpe", "unigram"):
        options.setdefault("initial_alphabet", alphabet)
    size = options.pop("size", 300)
    training = trainer(vocab_size=size, special_tokens=special, show_progress=False, **options)
    made.train_from_iterator([TEXT] * 3, training)
    return made


def with_model(folder: Path, n_rows: int, seed: int = 3, **config: Any) -> Path:
    """Put a model of transformers beside a tokenizer."""
    model = transformers_model(replace(CONFIG, vocab_size=n_rows), seed)
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    return folder


def compare(folder: Path, theirs: Any, n_rows: int | None = None) -> None:
    """See that ids, text, logits and greedy text are those of transformers."""
    n_rows = len(theirs) if n_rows is None else n_rows
    with_model(folder, n_rows)
    model, ours = load_model(folder)
    assert vocabulary_size(ours) == n_rows == model.config.vocab_size
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids), text
        plain = theirs.encode(text, add_special_tokens=False)
        assert ours.encode_ordinary(text) == plain, text
    reference = GPT2LMHeadModel.from_pretrained(folder).eval()
    assert_same_logits(model, reference)
    assert greedy(model, [5, 6, 7], 9) == their_greedy(reference, [5, 6, 7], 9)
    save_gpt2(model, ours, folder / "again")  # and it comes back as it came
    again, same = load_model(folder / "again")
    assert vocabulary_size(same) == n_rows
    assert [same.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert_same_logits(again, reference)


def one_file(folder: Path, **options: Any) -> None:
    """Only tokenizer.json."""
    folder.mkdir()
    made = library(**options)
    made.save(str(folder / "tokenizer.json"))
    compare(folder, PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")))


def extended(folder: Path, *tokens: Any, special: bool = False, **options: Any) -> None:
    """A tokenizer to which tokens were added, saved by transformers."""
    made = PreTrainedTokenizerFast(tokenizer_object=library(**options))
    made.add_tokens(list(tokens), special_tokens=special)
    made.save_pretrained(folder)
    text = " the " + " prince ".join(map(str, tokens))
    compare(folder, made)
    _, ours = load_model(folder)
    expected = made.encode(text)
    assert (
        ours.encode(text, allowed_special=set(map(str, tokens)) if special else set()) == expected
    )


def two_files(folder: Path, special: list[str], **beside: Any) -> None:
    """What ByteLevelBPETokenizer.save_model writes, and JSON files beside it."""
    folder.mkdir()
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([TEXT] * 3, 300, special_tokens=special, show_progress=False)
    made.save_model(str(folder))
    for name, values in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    theirs = TheirTokenizer.from_pretrained(folder)
    compare(folder, theirs, len(theirs))


# fmt: off
BYTES = pre_tokenizers.ByteLevel
case("tokenizer", "special tokens first", lambda f: two_files(f, ["<s>", "<pad>"]))
case("tokenizer", "special tokens first, the end among them", lambda f: two_files(f, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))
case("tokenizer", "the end token first", lambda f: two_files(f, ["<|endoftext|>"]))
case("tokenizer", "the end token in the middle", lambda f: two_files(f, ["<s>", "<|endoftext|>", "<pad>"]))
case("tokenizer", "no special token", lambda f: two_files(f, []))
case("tokenizer", "vocab.json beside added_tokens.json", lambda f: two_files(f, ["<|endoftext|>"], added_tokens={"[NAME]": 300, "covid": 301}))
case("tokenizer", "vocab.json beside special_tokens_map.json", lambda f: two_files(f, ["<s>", "</s>"], special_tokens_map={"eos_token": "</s>", "bos_token": "<s>", "unk_token": "</s>"}))
case("tokenizer", "special_tokens_map.json of objects", lambda f: two_files(f, ["<s>", "</s>"], special_tokens_map={"eos_token": {"content": "</s>", "lstrip": False, "rstrip": False, "normalized": True, "single_word": False}}))
case("tokenizer", "add_prefix_space in its configuration", lambda f: two_files(f, ["<|endoftext|>"], tokenizer_config={"add_prefix_space": True}))
case("tokenizer", "added_tokens_decoder in its configuration", lambda f: two_files(f, ["<|endoftext|>"], tokenizer_config={"added_tokens_decoder": {"300": {"content": "<x>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": True}}}))
case("tokenizer", "additional_special_tokens", lambda f: two_files(f, ["<|endoftext|>"], tokenizer_config={"additional_special_tokens": ["<u>", "<a>"]}))
case("tokenizer", "a pad token that was added", lambda f: two_files(f, ["<|endoftext|>"], tokenizer_config={"pad_token": "[PAD]"}))
case("tokenizer", "tokenizer.json alone", one_file)
case("tokenizer", "tokenizer.json with the end token in the middle", lambda f: one_file(f, special=["<a>", "<|endoftext|>", "<b>"]))
case("tokenizer", "tokenizer.json without an end token", lambda f: one_file(f, special=[]))
case("tokenizer", "add_prefix_space", lambda f: one_file(f, pre=BYTES(add_prefix_space=True)))
case("tokenizer", "use_regex: false", lambda f: one_file(f, pre=BYTES(add_prefix_space=False, use_regex=False)))
case("tokenizer", "dropout 0", lambda f: one_file(f, model={"dropout": 0.0}))
case("tokenizer", "ignore_merges", lambda f: one_file(f, model={"ignore_merges": True}))
case("tokenizer", "fuse_unk", lambda f: one_file(f, model={"unk_token": "<|endoftext|>", "fuse_unk": True}))
case("tokenizer", "digits one by one", lambda f: one_file(f, pre=pre_tokenizers.Sequence([pre_tokenizers.Digits(True), BYTES(add_prefix_space=False)])))
case("tokenizer", "another pattern of words", lambda f: one_file(f, pre=pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(r"\w+|\W"), "isolated"), BYTES(False, use_regex=False)])))
case("tokenizer", "punctuation apart", lambda f: one_file(f, pre=pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), BYTES(False)])))
case("tokenizer", "normalizer NFC", lambda f: one_file(f, normalizer=normalizers.NFC()))
case("tokenizer", "normalizer NFKC and lower case", lambda f: one_file(f, normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])))
case("tokenizer", "normalizer that strips accents", lambda f: one_file(f, normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])))
case("tokenizer", "Metaspace", lambda f: one_file(f, pre=pre_tokenizers.Metaspace(), decoder=decoders.Metaspace()))
case("tokenizer", "Metaspace with byte fallback", lambda f: one_file(f, pre=pre_tokenizers.Metaspace(), decoder=decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]), model={"byte_fallback": True}))
case("tokenizer", "WordPiece", lambda f: one_file(f, kind="wordpiece", pre=pre_tokenizers.BertPreTokenizer(), decoder=decoders.WordPiece()))
case("tokenizer", "Unigram", lambda f: one_file(f, kind="unigram", pre=pre_tokenizers.Metaspace(), decoder=decoders.Metaspace(), special=["<|endoftext|>", "<unk>"], unk_token="<unk>"))
case("tokenizer", "whole words", lambda f: one_file(f, kind="wordlevel", pre=pre_tokenizers.Whitespace(), decoder=None))
case("tokenizer", "added plain tokens", lambda f: extended(f, "covid", "omicron"))
case("tokenizer", "an added plain token with a space and an accent", lambda f: extended(f, "café 19", "über"))
case("tokenizer", "added bracketed tokens", lambda f: extended(f, "[NAME]", "{x}", "<1>"))
case("tokenizer", "added special tokens", lambda f: extended(f, "<|user|>", "<|bot|>", special=True))
case("tokenizer", "an added token that eats spaces", lambda f: extended(f, AddedToken("<x>", lstrip=True, rstrip=True)))
case("tokenizer", "an added token of single words", lambda f: extended(f, AddedToken("said", single_word=True)))
# fmt: on
def with_template(folder: Path) -> None:
    folder.mkdir()
    made = library(special=["<s>", "</s>", "<|endoftext|>"])
    around = [("<s>", made.token_to_id("<s>")), ("</s>", made.token_to_id("</s>"))]
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=around)
    made.save(str(folder / "tokenizer.json"))
    compare(folder, PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")))


def with_limits(folder: Path) -> None:
    folder.mkdir()
    made = library()
    made.enable_truncation(3)
    made.enable_padding(length=9)
    made.save(str(folder / "tokenizer.json"))
    _, ours = load_model(with_model(folder, made.get_vocab_size()))
    made.no_truncation()
    made.no_padding()
    assert ours.encode(TEXT) == made.encode(TEXT).ids


def with_dropout(folder: Path) -> None:
    folder.mkdir()
    made = library(model={"dropout": 0.5})
    made.save(str(folder / "tokenizer.json"))
    _, ours = load_model(with_model(folder, made.get_vocab_size()))
    made.model.dropout = None
    for _ in range(9):
        assert ours.encode(TEXT) == made.encode(TEXT).ids


def with_vocab_txt(folder: Path) -> None:
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "prince", "##ss", "s", "##aid"]
    (folder / "vocab.txt").write_text("\n".join(words))
    theirs = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"))
    _, ours = load_model(with_model(folder, len(words), eos_token_id=None))
    assert ours.encode("The princess said") == theirs.encode("The princess said").ids
    assert ours.decode([5, 6, 7, 8, 9]) == "the princess said"
    assert end_of_text(ours) == {3}


def ends_with(folder: Path, eos: str, expected: str | None = None, **config: Any) -> None:
    """The token that ends a text is found, and greedy text ends there as in transformers."""
    made = PreTrainedTokenizerFast(tokenizer_object=library(special=["<s>", "</s>", "<|im_end|>"]))
    if eos:
        made.eos_token = eos
    made.save_pretrained(folder)
    with_model(folder, len(made), **config)
    model, ours = load_model(folder)
    assert end_of_text(ours) == {made.convert_tokens_to_ids(expected or eos)}
    [stop] = end_of_text(ours)
    reference = GPT2LMHeadModel.from_pretrained(folder).eval()
    prompt = their_greedy(reference, [5], 3)
    written = list(generate(model, prompt, 9, Sampling(temperature=0), end_tokens={stop}))
    theirs = reference.generate(
        torch.tensor([prompt]), max_new_tokens=9, do_sample=False, eos_token_id=stop, pad_token_id=0
    )
    assert written[: theirs.size(1) - 4] == theirs[0, 4:].tolist()[: len(written)]


def gpt2_again(folder: Path) -> None:
    """GPT-2's own vocabulary as tokenizer.json is GPT-2's own tokenizer."""
    folder.mkdir()
    BPETokenizer(gpt2_merges()).save(folder)
    TheirTokenizer.from_pretrained(folder).save_pretrained(folder / "new")
    assert not (folder / "new" / "vocab.json").exists()
    _, ours = load_model(with_model(folder / "new", 50257))
    assert type(ours) is type(gpt2_encoding())


def gpt2_merges() -> Any:
    from gptlib.tokenizer import read_gpt2_ranks, recover_merges

    return recover_merges(read_gpt2_ranks())


def cut_merges(folder: Path, n_lines: int) -> Path:
    save_gpt2(tiny(), TOKENIZER, folder)
    lines = (folder / "merges.txt").read_text().splitlines()
    (folder / "merges.txt").write_text("\n".join(lines[:-n_lines]) + "\n")
    return folder


def changed(folder: Path, file: str, content: str | bytes | None) -> Path:
    """A whole folder of which one file is another, or gone."""
    save_gpt2(tiny(), TOKENIZER, folder)
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        path = folder / file
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def appended(folder: Path, file: str, content: str) -> Path:
    save_gpt2(tiny(), TOKENIZER, folder)
    with open(folder / file, "a") as there:
        there.write(content)
    return folder


def in_utf_16(folder: Path) -> None:
    """As a shell of Windows writes what a command prints."""
    folder.mkdir()
    made = library()
    (folder / "tokenizer.json").write_text(made.to_str(), encoding="utf-16")
    _, ours = load_model(with_model(folder, made.get_vocab_size()))
    assert ours.encode(TEXT) == made.encode(TEXT).ids


def only(folder: Path, file: str, content: str = "x") -> Path:
    """A folder whose tokenizer is only this file."""
    save_gpt2(tiny(), TOKENIZER, folder)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / file).write_text(content)
    return folder


# fmt: off
case("tokenizer", "a template that adds tokens", with_template)
case("tokenizer", "truncation and padding are for training", with_limits)
case("tokenizer", "dropout is for training", with_dropout)
case("tokenizer", "vocab.txt of BERT", with_vocab_txt)
case("tokenizer", "the end token is named by its configuration", lambda f: ends_with(f, "<|im_end|>"))
case("tokenizer", "the end token is named by the model's", lambda f: ends_with(f, "", "<|im_end|>", eos_token_id=2))
case("tokenizer", "the end token is known by its name", lambda f: ends_with(f, "", "</s>", eos_token_id=None))
case("tokenizer", "GPT-2's own as tokenizer.json", gpt2_again)
case("tokenizer", "merges.txt lacks its last line", lambda f: cut_merges(f, 1), r"no line of merges.txt makes its token .*cut off")
case("tokenizer", "merges.txt lacks nine lines", lambda f: cut_merges(f, 9), r"no line of merges.txt makes its token .*cut off")
case("tokenizer", "vocab.json is cut off", lambda f: changed(f, "vocab.json", '{"a": 1,'), r"vocab.json is damaged: its 8 bytes of JSON")
case("tokenizer", "merges.txt is gone", lambda f: changed(f, "merges.txt", None), r"has no merges.txt; a model's folder holds")
case("tokenizer", "another model's tokenizer", lambda f: changed(f, "vocab.json", "{}"), r"merges.txt|vocab.json")
case("tokenizer", "a pointer of Git LFS", lambda f: changed(f, "tokenizer.json", LFS), r"tokenizer.json is a Git LFS pointer")
case("tokenizer", "tokenizer.json in UTF-16", in_utf_16)
case("tokenizer", "merges.txt with a broken line", lambda f: appended(f, "merges.txt", "a b c\n"), r"vocab.json with merges.txt is not the file of a tokenizer .* reads")
case("tokenizer", "SentencePiece alone", lambda f: only(f, "spiece.model"), r"spiece.model, a file of SentencePiece; write it as tokenizer.json")
case("tokenizer", "another program's tokenizer.json", lambda f: only(f, "tokenizer.json", '{"config": {}}'), r"not the file of a tokenizer that the tokenizers library .* reads")
case("tokenizer", "no tokenizer", lambda f: only(f, "notes.txt"), r"has no vocab.json; a model's folder holds")
# fmt: on
# Folders and checkpoints


def same(folder: Path, theirs: Any, n_tokens: int | None = None, made: Path | None = None) -> None:
    """See that logits and greedy text are those of transformers, as far as there are tokens."""
    model, tokenizer = load_model(made or folder)
    n = n_tokens or model.config.vocab_size
    assert vocabulary_size(tokenizer) == model.config.vocab_size
    tokens = torch.arange(10)[None] * 7 % n
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens)[..., :n], theirs(tokens).logits[..., :n], rtol=0, atol=2e-5
        )
        assert n == model.config.vocab_size or model(tokens)[..., n:].max() == -float("inf")
    if n == model.config.vocab_size:
        assert greedy(model, [5, 6, 7], 9) == their_greedy(theirs, [5, 6, 7], 9)


def renamed(folder: Path, prefix: str = "", **options: Any) -> None:
    """A model whose tensors are kept under other names."""
    theirs = transformers_model()
    theirs.save_pretrained(folder)
    TOKENIZER.save(folder)
    path = folder / "model.safetensors"
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    if options.get("masks"):
        for layer in range(2):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    if options.get("head"):
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    if options.get("only_head"):
        tensors["lm_head.weight"] = tensors.pop("wte.weight")
    if options.get("more"):
        tensors["v_head.summary.weight"] = torch.ones(1, 8)
        tensors["multiple_choice_head.summary.weight"] = torch.ones(1, 8)
    dtype = options.get("dtype", torch.float32)
    tensors = {prefix + name: t.to(dtype).contiguous() for name, t in tensors.items()}
    path.unlink()
    file = options.get("file", "model.safetensors")
    if options.get("n_shards"):
        index: dict[str, str] = {}
        for number in range(options["n_shards"]):
            shard = f"pytorch_model-{number}.bin"
            part = dict(list(tensors.items())[number :: options["n_shards"]])
            torch.save(part, folder / shard)
            index |= dict.fromkeys(part, shard)
        (folder / f"{file}.index.json").write_text(json.dumps({"weight_map": index}))
    elif file.endswith(".safetensors"):
        save_file(tensors, folder / file)
    else:
        wrapped = {options["key"]: tensors, "epoch": 3} if "key" in options else tensors
        torch.save(wrapped, folder / file, _use_new_zipfile_serialization=not options.get("old"))
    reference = theirs.to(dtype).float()
    same(folder, reference, made=folder / file if options.get("by_file") else None)


def sharded(folder: Path) -> None:
    theirs = transformers_model()
    theirs.save_pretrained(folder, max_shard_size="8KB")
    TOKENIZER.save(folder)
    same(folder, theirs)


def padded(folder: Path, n_rows: int, tokenizer: Any = TOKENIZER, n_tokens: int = 270) -> None:
    """A model with more rows than its tokenizer has tokens never writes the others."""
    theirs = transformers_model(replace(CONFIG, vocab_size=n_rows))
    with torch.no_grad():  # the likeliest tokens would be those that don't exist
        theirs.transformer.wte.weight[n_tokens:] *= 9
    theirs.save_pretrained(folder)
    tokenizer.save(folder)
    same(folder, theirs, n_tokens)
    model, ours = load_model(folder)
    assert ours.encode(TEXT) == tokenizer.encode(TEXT)
    drawn = generate(model, [5], 200, Sampling(temperature=2.0), generator=torch.Generator())
    assert max(drawn) < n_tokens
    quick, small = fast(model)[0], fast(model, int8=True)[0]
    for twin in (quick, small):
        swap_linears(twin, OneDNNLinear)
        assert max(generate(twin, [5], 20, Sampling(temperature=2.0))) < n_tokens
    save_gpt2(model, ours, folder / "again")
    before, after = (load_file(f / "model.safetensors") for f in (folder, folder / "again"))
    assert torch.equal(before["transformer.wte.weight"], after["wte.weight"])
    assert (folder / "vocab.json").read_bytes() == (folder / "again/vocab.json").read_bytes()


def larger_tokenizer(folder: Path) -> None:
    """A token was added, and the model was not yet resized for it."""
    made = PreTrainedTokenizerFast(tokenizer_object=library())
    n_rows = len(made)
    made.add_special_tokens({"pad_token": "[PAD]"})
    made.save_pretrained(folder)
    with_model(folder, n_rows)
    _, ours = load_model(folder)
    assert vocabulary_size(ours) == n_rows < len(made)
    assert ours.encode(TEXT) == made.encode(TEXT)
    same(folder, GPT2LMHeadModel.from_pretrained(folder).eval())


def nanogpt(place: Path, tokenizer: Any = None, bias: bool = True, **options: Any) -> Path:
    """A checkpoint as nanoGPT's train.py saves it; returns the file."""
    config = replace(CONFIG, vocab_size=options.get("n_rows", 270))
    model = tiny(config)
    views = dict(gpt2_view(model))
    if not bias:
        views = {n: torch.zeros_like(v) if n.endswith("bias") else v for n, v in views.items()}
        for name, view in gpt2_view(model).items():
            view.copy_(views[name])
        views = {n: v for n, v in views.items() if not n.endswith("bias")}
    state = {}
    for name, view in views.items():
        is_matrix = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        state[f"transformer.{name}"] = (view.T if is_matrix else view).contiguous()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 16, "dropout": 0.0}
    content = {
        "model": {options.get("prefix", "_orig_mod.") + name: t for name, t in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": sizes | {"bias": bias, "vocab_size": config.vocab_size},
        "iter_num": 3,
        "best_val_loss": options.get("loss", torch.tensor(1.5)),
        "config": {"dataset": "novels"},
    }
    place.mkdir(exist_ok=True)
    torch.save(content, place / "ckpt.pt")
    if tokenizer is not None:
        tokenizer.save(place)
    save_gpt2(model, TOKENIZER if config.vocab_size == 270 else padded_gpt2(), place / "right")
    return place


def padded_gpt2() -> Any:
    from gptlib.extras.formats.tokenizer_files import fit_tokenizer

    return fit_tokenizer(gpt2_encoding(), 50304)


def read_nanogpt(place: Path, tokenizer: Any = None, by_file: bool = False, **options: Any) -> None:
    nanogpt(place, tokenizer, **options)
    theirs = GPT2LMHeadModel.from_pretrained(place / "right").eval()
    shutil.rmtree(place / "right")
    n_tokens = 50257 if options.get("n_rows") == 50304 else None
    same(place, theirs, n_tokens, made=place / "ckpt.pt" if by_file else None)


def characters(place: Path) -> None:
    """nanoGPT's own data of single characters, with their ids in meta.pkl."""
    import pickle

    letters = sorted(set(TEXT))
    ids = {letter: i for i, letter in enumerate(letters)}
    content = {"vocab_size": len(ids), "stoi": ids, "itos": dict(enumerate(letters))}
    nanogpt(place)
    file = torch.load(place / "ckpt.pt", weights_only=True)
    for name in ("_orig_mod.transformer.wte.weight", "_orig_mod.lm_head.weight"):
        file["model"][name] = file["model"]["_orig_mod.transformer.wte.weight"][: len(ids)]
    file["model_args"]["vocab_size"] = len(ids)
    torch.save(file, place / "ckpt.pt")
    (place / "meta.pkl").write_bytes(pickle.dumps(content))
    shutil.rmtree(place / "right")
    model, ours = load_model(place)
    assert ours.encode(TEXT) == [ids[letter] for letter in TEXT]
    assert ours.decode(ours.encode(TEXT)) == TEXT
    assert vocabulary_size(ours) == len(ids) == model.config.vocab_size


class Bomb:
    """Something that would run when it is read."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("bomb-went-off"),))


def with_bomb(folder: Path, file: str = "pytorch_model.bin") -> Path:
    save_gpt2(tiny(), TOKENIZER, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"wte.weight": torch.ones(3), "x": Bomb()}, folder / file)
    return folder


def tensorflow(folder: Path, steps: tuple[int, ...], named: int | None = None, **more: Any) -> None:
    """What gpt-2-simple saves: model-1000.index and so on, and which one is the newest."""
    theirs = transformers_model()
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in theirs.transformer.state_dict().items():
        short = re.sub(r"^h\.(\d+)\.", r"h\1.", name).replace(".", "/")
        short = short.removesuffix("/weight") if short.startswith("w") else short
        short = re.sub(r"/weight$", "/g" if "ln_" in short else "/w", short)
        arrays["model/" + re.sub(r"/bias$", "/b", short)] = tensor.numpy()
    if more.get("optimizer"):
        arrays |= {name + "/Adam": array * 0 for name, array in arrays.items()}
        arrays["beta1_power"] = np.ones((), np.float32)
    for step in steps:
        scale = np.float32(1 if step == (named or max(steps)) else 0)
        write_checkpoint(folder, {n: np.ascontiguousarray(a * scale) for n, a in arrays.items()})
        for path in folder.glob("model.ckpt.*"):
            path.rename(folder / path.name.replace("model.ckpt", f"model-{step}"))
    if named:
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "model-{named}"\n')
    sizes = {"n_vocab": 270, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2}
    (folder / "hparams.json").write_text(json.dumps(sizes))
    TOKENIZER.save(folder)
    (folder / "vocab.json").rename(folder / "encoder.json")
    (folder / "merges.txt").rename(folder / "vocab.bpe")
    same(folder, theirs, made=folder / more["made"] if "made" in more else None)


def run_of_ours(folder: Path, prefix: str = "", by_file: bool = False) -> None:
    """A checkpoint of a run, of a model that was wrapped perhaps."""
    model = tiny()
    state = TrainingState.start(model, TrainingConfig(10))
    save_checkpoint(folder / "novel.pt", state)
    if prefix:
        content = torch.load(folder / "novel.pt", weights_only=True)
        content["model"] = {prefix + name: t for name, t in content["model"].items()}
        torch.save(content, folder / "novel.pt")
    TOKENIZER.save(folder / "novel-tokenizer")
    back, _ = load_model(folder / "novel.pt" if by_file else folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


def in_parallel(folder: Path, wrap: Callable[[GPT], Any] = lambda model: model) -> None:
    """A model in DDP, in a group of one process."""
    with processes("cpu"):
        wrapped(folder, lambda model: DistributedDataParallel(wrap(model)))


def wrapped(folder: Path, wrap: Callable[[GPT], Any]) -> None:
    """A wrapped model is trained, resumed, saved and given adapters like the model in it."""
    warnings.filterwarnings("ignore", "The .grad attribute")  # of torch.compile about itself
    tokens, plan = torch.arange(200) % 270, TrainingConfig(4, batch_size=2, save_every=2)
    plain, inside = tiny().train(), tiny().train()
    live = wrap(inside)
    run = train(live, tokens, tokens[:50], plan, checkpoint=folder / "novel.pt")
    losses = [report.loss for report in run]
    assert losses == [report.loss for report in train(plain, tokens, tokens[:50], plan)]
    longer = replace(plan, n_steps=6)
    for again in (tiny(), wrap(tiny())):
        [*train(again, tokens, None, longer, checkpoint=folder / "novel.pt", resume=True)]
        TOKENIZER.save(folder / "novel-tokenizer")
        assert load_model(folder)[0].config == CONFIG
    save_gpt2(live, TOKENIZER, folder / "model")
    for one, other in zip(
        load_model(folder / "model")[0].parameters(), inside.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert len(lora_layers(add_lora(live))) == len(lora_layers(inside)) == 4


def run_begun_with(folder: Path, tokenizer: Any) -> None:
    """A run begins with a model that has more rows than tokens, and keeps both."""
    place = folder / "model"
    place.mkdir(parents=True)
    if tokenizer:
        tokenizer.save(place)
    else:
        library(pre=pre_tokenizers.Metaspace(), decoder=decoders.Metaspace()).save(
            str(place / "tokenizer.json")
        )
    with_model(place, 320)
    (folder / "book.txt").write_text(TEXT * 30)
    run, model = folder / "run", folder / "run" / "model"
    words = [
        "train",
        folder / "book.txt",
        "--init",
        place,
        "--folder",
        run,
        "--training.n-steps",
        2,
    ]
    again = ["train", "--resume", "--folder", run, "--training.n-steps", 3]
    write = ["generate", "--model", model, "--prompt", "the", "--max-new-tokens", 3]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        for call in (words, again, write):
            assert command_line([str(word) for word in call]) == 0, call
    assert "the" in out.getvalue()
    tuned, ours = load_model(model)
    assert tuned.config.vocab_size == vocabulary_size(ours) == 320
    assert ours.encode(TEXT) == load_model(place)[1].encode(TEXT)


def adapters(folder: Path, base: str | None = None, **changes: Any) -> Path:
    """Adapters as PEFT saves them, for a model in the folder `base` beside them."""
    place = folder / "base"
    save_gpt2(tiny(), TOKENIZER, place)
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for layer, (part, n_in, n_out) in [(0, ("attn.c_attn", 8, 24)), (1, ("mlp.c_fc", 8, 32))]:
        name = f"base_model.model.transformer.h.{layer}.{part}"
        parts[f"{name}.lora_A.weight"] = torch.randn(4, n_in, generator=generator)
        parts[f"{name}.lora_B.weight"] = torch.randn(n_out, 4, generator=generator)
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "fan_in_fan_out": True}
    values |= {"base_model_name_or_path": base or str(place)} | changes
    (folder / "adapters").mkdir()
    save_file(parts, folder / "adapters" / "adapter_model.safetensors")
    (folder / "adapters" / "adapter_config.json").write_text(json.dumps(values))
    return folder / "adapters"


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def with_config(folder: Path) -> Path:
    """Adapters beside the configuration of their model, which isn't there."""
    made = adapters(folder, "somebody/gpt2-large")
    shutil.copy(folder / "base" / "config.json", made)
    return made


def merged_adapters(folder: Path, as_pickle: bool = False, **changes: Any) -> None:
    made = adapters(folder, **changes)
    theirs = GPT2LMHeadModel.from_pretrained(folder / "base").eval()
    parts = load_file(made / "adapter_model.safetensors")
    for name in [name for name in parts if ".lora_A." in name]:
        place = name.removeprefix("base_model.model.").partition(".lora_A")[0]
        scale = 8 / 4 ** (0.5 if changes.get("use_rslora") else 1)
        with torch.no_grad():
            change = scale * (parts[name.replace("_A.", "_B.")] @ parts[name]).T
            theirs.get_submodule(place).weight += change
    if as_pickle:
        torch.save(parts, made / "adapter_model.bin")
        (made / "adapter_model.safetensors").unlink()
    same(made, theirs)
    same(made, theirs, made=made / "adapter_config.json")


def our_adapters(folder: Path) -> Path:
    from gptlib.extras.adapters import save_adapters
    from gptlib.instructions import add_lora

    folder.mkdir()
    save_adapters(add_lora(tiny()), folder / "adapters.safetensors")
    return folder


def classifier(folder: Path, n_labels: int = 2) -> Path:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    sizes = GPT2Config(
        vocab_size=270, n_positions=16, n_layer=2, n_head=2, n_embd=8, pad_token_id=0
    )
    sizes.id2label = {i: f"class {i}" for i in range(n_labels)}
    sizes.label2id = {f"class {i}": i for i in range(n_labels)}
    model: Any = GPT2ForSequenceClassification(sizes)
    model.save_pretrained(folder)
    TOKENIZER.save(folder)
    return folder


def config_says(folder: Path, **changes: Any) -> Path:
    save_gpt2(tiny(), TOKENIZER, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def instead(folder: Path, file: str, content: bytes = b"x") -> Path:
    """A folder that has another file in the place of its weights."""
    save_gpt2(tiny(), TOKENIZER, folder)
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(content)
    return folder


def replaced(folder: Path, file: str, content: bytes) -> Path:
    (folder / file).write_bytes(content)
    return folder


def without_sizes(folder: Path) -> Path:
    tensorflow(folder, (7,))
    return without(folder, "hparams.json")


def adapted(folder: Path) -> None:
    """Adapters of a compiled model are those of the model in it, and go into another."""
    from gptlib.extras.adapters import load_adapters, save_adapters

    folder.mkdir()
    live: Any = torch.compile(add_lora(tiny()), backend="eager")
    save_adapters(live, folder / "adapters.safetensors")
    again: Any = torch.compile(tiny(), backend="eager")
    for model in (tiny(), again):
        load_adapters(model, folder / "adapters.safetensors")
        assert len(lora_layers(model)) == 4


def inside(folder: Path, place: str = "checkpoint-500") -> Path:
    save_gpt2(tiny(), TOKENIZER, folder / place)
    return folder


def lacks(folder: Path, name: str) -> Path:
    save_gpt2(tiny(), TOKENIZER, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    return folder


# fmt: off
case("folder", "of transformers, in shards", sharded)
for wrapper in ["transformer.", "_orig_mod.", "module.", "module._orig_mod.transformer.", "_orig_mod.module.transformer.", "model.transformer.", "pretrained_model.transformer."]:
    case("folder", f"tensors named {wrapper}...", partial(renamed, prefix=wrapper))
case("folder", "masks of old versions", lambda f: renamed(f, masks=True))
case("folder", "masks of old versions in a wrapper", lambda f: renamed(f, "module.", masks=True))
case("folder", "a head beside the table", lambda f: renamed(f, head=True))
case("folder", "the table under the head's name", lambda f: renamed(f, only_head=True))
case("folder", "heads for other tasks beside it", lambda f: renamed(f, more=True))
case("folder", "float16", lambda f: renamed(f, dtype=torch.float16))
case("folder", "bfloat16", lambda f: renamed(f, dtype=torch.bfloat16))
case("folder", "float64", lambda f: renamed(f, dtype=torch.float64))
case("folder", "pytorch_model.bin alone", lambda f: renamed(f, "transformer.", file="pytorch_model.bin"))
case("folder", "pytorch_model.bin of an old PyTorch", lambda f: renamed(f, file="pytorch_model.bin", old=True))
case("folder", "pytorch_model.bin in shards", lambda f: renamed(f, file="pytorch_model.bin", n_shards=3))
case("folder", "pytorch_model.bin in bfloat16", lambda f: renamed(f, file="pytorch_model.bin", dtype=torch.bfloat16))
case("folder", "weights under a name of their own", lambda f: renamed(f, file="mine.safetensors"))
case("folder", "a .pt of Lightning, its config.json beside it", lambda f: renamed(f, "model.transformer.", file="last.ckpt", key="state_dict", by_file=True))
case("folder", "a state dictionary, its config.json beside it", lambda f: renamed(f, file="weights.pth", by_file=True))
case("folder", "model_state_dict", lambda f: renamed(f, "module.", file="epoch3.pt", key="model_state_dict", by_file=True))
case("folder", "one file of weights is named", lambda f: renamed(f, by_file=True))
case("folder", "rows padded to a multiple of 64", lambda f: padded(f, 320))
case("folder", "rows padded to a multiple of 8", lambda f: padded(f, 272))
case("folder", "one row more than tokens", lambda f: padded(f, 271))
case("folder", "GPT-2's 50,304 rows for 50,257 tokens", lambda f: padded(f, 50304, BPETokenizer(gpt2_merges()), 50257))
case("folder", "a tokenizer one larger than the model", larger_tokenizer)
case("folder", "nanoGPT", lambda f: read_nanogpt(f, TOKENIZER))
case("folder", "nanoGPT, by its file", lambda f: read_nanogpt(f, TOKENIZER, by_file=True))
case("folder", "nanoGPT without bias", lambda f: read_nanogpt(f, TOKENIZER, bias=False))
case("folder", "nanoGPT, not compiled", lambda f: read_nanogpt(f, TOKENIZER, prefix=""))
case("folder", "nanoGPT, of several processes", lambda f: read_nanogpt(f, TOKENIZER, prefix="module._orig_mod."))
case("folder", "nanoGPT with GPT-2's padded vocabulary", lambda f: read_nanogpt(f, n_rows=50304))
case("folder", "nanoGPT with a number of numpy in it", lambda f: read_nanogpt(f, TOKENIZER, loss=np.float64(1.5)))
case("folder", "nanoGPT with characters", characters)
case("folder", "nanoGPT without a tokenizer", nanogpt, r"has 270 tokens, not GPT-2's 50257, and no tokenizer lies beside it; put")
case("folder", "gpt-2-simple", lambda f: tensorflow(f, (1000,)))
case("folder", "gpt-2-simple, the newest of several", lambda f: tensorflow(f, (200, 1000)))
case("folder", "gpt-2-simple, the one that its note names", lambda f: tensorflow(f, (200, 1000), named=200))
case("folder", "gpt-2-simple, by its index", lambda f: tensorflow(f, (7,), made="model-7.index"))
case("folder", "gpt-2-simple, by its name", lambda f: tensorflow(f, (7,), made="model-7"))
case("folder", "gpt-2-simple with an optimizer", lambda f: tensorflow(f, (7,), optimizer=True))
case("folder", "a run of ours", run_of_ours)
case("folder", "a checkpoint of ours", lambda f: run_of_ours(f, by_file=True))
case("folder", "a checkpoint of ours, of a compiled model", lambda f: run_of_ours(f, "_orig_mod."))
case("folder", "a checkpoint of ours, of DDP", lambda f: run_of_ours(f, "module."))
case("run", "begun with a padded model, stopped, extended, and heard", lambda f: run_begun_with(f, TOKENIZER))
case("run", "begun with a padded model and another library's tokenizer", lambda f: run_begun_with(f, None))
case("model", "of torch.compile, alive", lambda f: wrapped(f, partial(torch.compile, backend="eager")))
case("model", "of DDP, alive", in_parallel)
case("model", "of DDP and torch.compile, alive", lambda f: in_parallel(f, lambda model: torch.compile(model, backend="eager")))
case("folder", "adapters of PEFT and their model", merged_adapters)
case("folder", "adapters of PEFT, rank-stabilised", lambda f: merged_adapters(f, use_rslora=True))
case("folder", "adapters of PEFT without their model", lambda f: adapters(f, "somebody/gpt2-large"), r"adapters of PEFT alone, and their model is not here .* convert .* --base DIR")
case("folder", "adapters of PEFT in a pickle", lambda f: merged_adapters(f, as_pickle=True))
case("folder", "adapters of PEFT beside their model's configuration", with_config, r"adapters of PEFT alone, and their model is not here .* convert .* --base DIR")
case("folder", "adapters of PEFT that name no model", lambda f: adapters(f, base_model_name_or_path=None), r"adapters of PEFT alone, .*its base_model_name_or_path names none.* --base DIR")
case("folder", "adapters of PEFT of several scales", lambda f: adapters(f, alpha_pattern={"c_fc": 16}), r"can't be added .* all of one scale.*merge_and_unload")
case("folder", "adapters of PEFT whose weights are gone", lambda f: without(adapters(f), "adapter_model.safetensors"), r"has no adapter_model.safetensors beside adapter_config.json; copy it")
case("folder", "adapters of PEFT that are a pointer of Git LFS", lambda f: replaced(adapters(f), "adapter_model.safetensors", LFS), r"adapter_model.safetensors is a Git LFS pointer")
case("folder", "adapters of PEFT that are more than LoRA", lambda f: adapters(f, use_dora=True), r"can't be added .* more than LoRA's two matrices")
case("folder", "adapters of ours alone", our_adapters, r"holds adapters alone; load the model that they were trained for")
case("folder", "a classifier of transformers", classifier, r"^FOLDER holds a classifier of 2 classes .*python -m gptlib convert FOLDER FOLDER, and then")
case("model", "of torch.compile, with adapters", adapted)
case("folder", "a pointer of Git LFS in the place of a checkpoint", lambda f: instead(f, "ckpt.pt", LFS) / "ckpt.pt", r"ckpt.pt is a Git LFS pointer")
case("folder", "a web page in the place of a checkpoint", lambda f: instead(f, "ckpt.pt", b"<!DOCTYPE html>") / "ckpt.pt", r"ckpt.pt is a web page, not the file itself")
case("folder", "a pointer of Git LFS in the place of a configuration", lambda f: changed(f, "config.json", LFS), r"config.json is a Git LFS pointer")
case("folder", "weights of llama.cpp alone", lambda f: without(instead(f, "model.Q4.gguf"), "config.json"), r"has no config.json, only model.Q4.gguf, which is of llama.cpp")
case("folder", "gpt-2-simple without its sizes", without_sizes, r"has no hparams.json, which says the sizes of a checkpoint of TensorFlow; copy it")
case("folder", "a cache of Hugging Face's", lambda f: inside(f, "snapshots/a1b2"), r"holds no model itself; name one of its folders: snapshots/a1b2")
case("folder", "a pickle with code in it", with_bomb, r"only as pytorch_model.bin, a pickle, which can run code .* no code in it was run")
case("folder", "a checkpoint with code in it", lambda f: with_bomb(f, "x.pt") / "x.pt", r"no code in it was run")
case("folder", "a pickle that is cut off", lambda f: instead(f, "pytorch_model.bin", b"PK\x03\x04abc"), r"pytorch_model.bin is damaged: it is cut off")
case("folder", "a pointer of Git LFS", lambda f: instead(f, "model.safetensors", LFS), r"is a Git LFS pointer, not the file itself; run `git lfs pull`")
case("folder", "a web page in the place of weights", lambda f: instead(f, "pytorch_model.bin", b"<!DOCTYPE html><html>"), r"is a web page, not the file itself")
case("folder", "weights of Keras", lambda f: instead(f, "tf_model.h5"), r"only tf_model.h5, which is of TensorFlow's Keras")
case("folder", "weights of Flax", lambda f: instead(f, "flax_model.msgpack"), r"only flax_model.msgpack, which is of Flax")
case("folder", "weights of llama.cpp", lambda f: instead(f, "model.Q4.gguf"), r"only model.Q4.gguf, which is of llama.cpp")
case("folder", "a file of llama.cpp", lambda f: instead(f, "model.gguf", b"GGUF") / "model.gguf", r"no file of weights that can be read; name a model's folder")
case("folder", "a text in the place of a model", lambda f: instead(f, "book.txt", b"Well, Prince") / "book.txt", r"no file of weights that can be read")
case("folder", "a folder of folders", inside, r"holds no model itself; name one of its folders: checkpoint-500")
case("folder", "no weights", lambda f: changed(f, "model.safetensors", None), r"has no model.safetensors; name a folder with weights")
case("folder", "no configuration", lambda f: changed(f, "config.json", None), r"has no config.json; a model's folder holds")
case("folder", "another architecture", lambda f: config_says(f, model_type="llama"), r"model_type 'llama' where GPT-2 has 'gpt2'")
case("folder", "another activation", lambda f: config_says(f, activation_function="relu"), r"activation_function 'relu' where GPT-2 has")
case("folder", "weights in fewer bits", lambda f: config_says(f, quantization_config={"load_in_8bit": True}), r"weights in fewer bits .*model.dequantize\(\)")
case("folder", "a tensor is missing", lambda f: lacks(f, "h.1.ln_2.bias"), r"h.1.ln_2.bias missing instead of \(8,\)")
# fmt: on
# Messages and instructions: what a file holds, and the records that come of it

HAM, SPAM = ("ham", "Hi, are you there?"), ("spam", 'WIN "1,000" now')
MORE = [("ham", "See you"), ("spam", "Call me now"), ("ham", "I said ok")]
ALL = [HAM, SPAM, *MORE]


def stored(place: Path, content: str | bytes, suffix: str = "txt") -> str:
    """Write a file; returns its name."""
    place.mkdir(exist_ok=True)
    path = place / f"records.{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def table(delimiter: str, rows: Any, quoting: Any = csv.QUOTE_MINIMAL, end: str = "\n") -> str:
    """Write rows as CSV."""
    lines, escape = io.StringIO(), "\\" if quoting == csv.QUOTE_NONE else None
    csv.writer(
        lines, delimiter=delimiter, quoting=quoting, lineterminator=end, escapechar=escape
    ).writerows(rows)
    return lines.getvalue()


def messages(place: Path, content: str | bytes, expected: Any = ALL, **options: Any) -> None:
    """A file of messages is read."""
    found = read_messages(stored(place, content), **options)
    assert found.records == expected
    assert [name for name, _ in found.understood][:4] == ["form", "rows", "columns", "classes"]


def refused(
    place: Path, content: str | bytes, suffix: str = "txt", **options: Any
) -> Callable[[], Any]:
    file = stored(place, content, suffix)
    return lambda: read_messages(file, **options)


def left_out(place: Path, content: str | bytes, skipped: dict[int, str], n_kept: int) -> None:
    found = read_messages(stored(place, content))
    assert found.skipped == skipped
    assert len(found.records) == n_kept


def encoded(place: Path, encoding: str, mark: bool = True) -> None:
    """Refused by default, and the option that the message names reads all of it."""
    rows = (
        [*ALL, ("ham", "£5 – “naïve” café")]
        if "utf" in encoding or encoding == "cp1252"
        else [*ALL, ("ham", "£5 naïve café")]
    )
    file = stored(place, table(",", rows).encode(encoding))
    with pytest.raises(ValueError, match="add --encoding") as caught:
        read_messages(file)
    option = str(caught.value).rpartition("--encoding ")[2]
    assert read_messages(file, encoding=option).records == rows


def without_mark(place: Path, encoding: str) -> None:
    """Letters of the first 128 alone are UTF-8 too, with zeros between them."""
    file = stored(place, table(",", ALL).encode(encoding))
    with pytest.raises(ValueError, match=f"UTF-16 without a mark: add --encoding {encoding}$"):
        read_messages(file)
    assert read_messages(file, encoding=encoding).records == ALL


def joined(place: Path, content: str, expected: Any, n_joined: int) -> None:
    """A delimiter inside of a text without quotes takes nothing from it."""
    found = read_messages(stored(place, content))
    assert found.records == expected
    assert dict(found.understood)["joined again"].startswith(f"{n_joined}: line ")


def repeated(place: Path) -> None:
    found = read_messages(stored(place, "ham\tHi\nspam\tWin 5\nspam\twin 7!\nham\thi\n"))
    assert found.records == [("ham", "Hi"), ("spam", "Win 5")]
    assert found.repeats == ["line 2 'Win 5' and line 3 'win 7!'", "line 1 'Hi' and line 4 'hi'"]
    assert dict(found.understood)["repeated"].startswith("2: line 2 'Win 5'")


def contradictory(place: Path) -> Any:
    lines = [f"ham\tsay {c} so\nspam\tSay {c} so!" for c in "abcde"]
    file = stored(place, "\n".join([*lines, "ham\tyes", "spam\tno"]))
    assert read_messages(file, skip_contradictions=True).records == [("ham", "yes"), ("spam", "no")]
    return lambda: read_messages(file)


BREAK = [HAM, ("spam", 'two\nlines, "so"'), *MORE]
KAGGLE = "v1,v2,,,\n" + "".join(f'{a},"{b.replace(chr(34), chr(34) * 2)}",,,\n' for a, b in ALL)
OBJECTS = [{"label": a, "text": b} for a, b in ALL]
OTHERS = [{"id": i, "Category": a, "Message": b} for i, (a, b) in enumerate(ALL)]


# fmt: off
case("messages", "a label, a tab and a text", lambda f: messages(f, table("\t", ALL, csv.QUOTE_NONE).replace("\\", "")))
case("messages", "a tab between, header v1 and v2", lambda f: messages(f, "v1\tv2\n" + "".join(f"{a}\t{b}\n" for a, b in ALL)))
case("messages", "a header of other words", lambda f: messages(f, "kind\twords\n" + "".join(f"{a}\t{b}\n" for a, b in ALL)))
case("messages", "quotes of the writers' own", lambda f: messages(f, 'ham\t"Hi" she said\nspam\t"WIN\nham\tok "so\n', [("ham", '"Hi" she said'), ("spam", '"WIN'), ("ham", 'ok "so')]))
case("messages", "CSV", lambda f: messages(f, table(",", ALL)))
case("messages", "CSV, all in quotes", lambda f: messages(f, table(",", ALL, csv.QUOTE_ALL)))
case("messages", "CSV with quoted line breaks", lambda f: messages(f, table(",", BREAK), BREAK))
case("messages", "TSV with quoted line breaks", lambda f: messages(f, table("\t", BREAK), BREAK))
case("messages", "TSV, all in quotes", lambda f: messages(f, table("\t", ALL, csv.QUOTE_ALL)))
case("messages", "TSV with doubled quotes", lambda f: messages(f, table("\t", ALL)))
case("messages", "semicolons", lambda f: messages(f, table(";", ALL)))
case("messages", "bars", lambda f: messages(f, table("|", ALL)))
case("messages", "a delimiter of one's own", lambda f: messages(f, "".join(f"{a}^{b}\n" for a, b in ALL), delimiter="^"))
case("messages", "Kaggle's: a header and surplus empty columns", lambda f: messages(f, KAGGLE))
case("messages", "CR and LF", lambda f: messages(f, table(",", ALL, end="\r\n")))
case("messages", "CR alone", lambda f: messages(f, table(",", ALL, end="\r")))
case("messages", "a byte order mark", lambda f: messages(f, b"\xef\xbb\xbf" + table(",", [("label", "text"), *ALL]).encode()))
case("messages", "the text first", lambda f: messages(f, table(",", [(b, a) for a, b in ALL])))
case("messages", "the text first, with a header", lambda f: messages(f, table(",", [("Message", "Category"), *((b, a) for a, b in ALL)])))
case("messages", "a number for each row", lambda f: messages(f, table(",", [("id", "class", "tweet"), *((str(i), a, b) for i, (a, b) in enumerate(ALL))])))
case("messages", "a number for each row, without a header", lambda f: messages(f, table(",", [(str(i), a, b) for i, (a, b) in enumerate(ALL)])))
case("messages", "columns by their names", lambda f: messages(f, table(",", [("body", "text", "tag"), *((b, "x", a) for a, b in ALL)]), label_column="tag", text_column="body"))
case("messages", "columns by their numbers", lambda f: messages(f, table(",", [(b, "x", a) for a, b in ALL]), label_column="3", text_column="1"))
case("messages", "classes that are numbers", lambda f: messages(f, table(",", [("text", "label"), *((b, str(int(a == "spam"))) for a, b in ALL)]), [(str(int(a == "spam")), b) for a, b in ALL]))
case("messages", "JSON", lambda f: messages(f, json.dumps(OBJECTS)))
case("messages", "JSON lines", lambda f: messages(f, "\n".join(map(json.dumps, OBJECTS))))
case("messages", "JSON lines with an empty line", lambda f: messages(f, "\n\n".join(map(json.dumps, OBJECTS)) + "\n"))
case("messages", "JSON with other names", lambda f: messages(f, json.dumps(OTHERS)))
case("messages", "JSON of splits", lambda f: messages(f, json.dumps({"train": OBJECTS[:3], "test": OBJECTS[3:]})))
case("messages", "JSON of columns", lambda f: messages(f, json.dumps({"label": [a for a, _ in ALL], "text": [b for _, b in ALL]})))
case("messages", "JSON of pandas", lambda f: messages(f, json.dumps({"label": {str(i): a for i, (a, _) in enumerate(ALL)}, "text": {str(i): b for i, (_, b) in enumerate(ALL)}})))
case("messages", "JSON with a list under a name", lambda f: messages(f, json.dumps({"version": 1, "data": OBJECTS})))
case("messages", "JSON with classes that are numbers", lambda f: messages(f, json.dumps([{"label": int(a == "spam"), "text": b} for a, b in ALL]), [(str(int(a == "spam")), b) for a, b in ALL]))
for encoding in ("latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
    case("messages", f"in {encoding}", partial(encoded, encoding=encoding))
for encoding in ("utf-16-le", "utf-16-be"):
    case("messages", f"English in {encoding} without a mark", partial(without_mark, encoding=encoding))
case("messages", "in Windows' Cyrillic", lambda f: refused(f, "ham\tПривет, как дела\nspam\tКупи сейчас\n".encode("cp1251")), r"most of its letters are not Latin ones: add --encoding .*cp1251")
case("messages", "in Windows' Cyrillic, by its name", lambda f: messages(f, "ham\tПривет\nspam\tКупи\nham\tда\n".encode("cp1251"), [("ham", "Привет"), ("spam", "Купи"), ("ham", "да")], encoding="cp1251"))
case("messages", "commas in texts without quotes", lambda f: joined(f, "".join(f"{a},{b}\n" for a, b in [*ALL, ("ham", "a, b, c"), ("spam", "so")]), [*ALL, ("ham", "a, b, c"), ("spam", "so")], 3))
case("messages", "a tab in a text", lambda f: joined(f, "ham\tHi\tthere\nspam\tWin\nham\tok\n", [("ham", "Hi\tthere"), ("spam", "Win"), ("ham", "ok")], 1))
case("messages", "Kaggle's: the rest of a text in a column without a name", lambda f: joined(f, 'v1,v2,,,\nham,Hi,,,\nspam,"Win",more, and so,\nham,ok,,,\nspam,now,,,\n', [("ham", "Hi"), ("spam", "Win,more, and so"), ("ham", "ok"), ("spam", "now")], 1))
case("messages", "the text first, commas in one without quotes", lambda f: left_out(f, "text,label\nHi,ham\nWin, now,spam\nok,ham\n", {3: "it has 3 columns instead of 2; put quotes around its text"}, 2))
case("messages", "blanks before quotes", lambda f: messages(f, 'ham, "Hi, are you there?"\nspam, "WIN ""1,000"" now"\nham, "See you"\nspam, "Call me now"\nham, "I said ok"\n'))
case("messages", "quotes inside with a backslash", lambda f: messages(f, table(",", ALL).replace('""', '\\"')))
case("messages", "fastText's labels", lambda f: messages(f, "".join(f"__label__{a} {b}\n" for a, b in ALL)))
case("messages", "Excel's sep=;", lambda f: messages(f, "sep=;\r\n" + table(";", [("label", "text"), *ALL], end="\r\n")))
case("messages", "semicolons and quoted line breaks in UTF-16", lambda f: messages(f, table(";", [("label", "text"), *BREAK]).encode("utf-16"), BREAK, encoding="utf-16"))
case("messages", "R's header, which has no name for the rows' numbers", lambda f: messages(f, table("\t", [("label", "text"), *((str(i), a, b) for i, (a, b) in enumerate(ALL, start=1))], csv.QUOTE_ALL)))
case("messages", "a header of names with blanks", lambda f: messages(f, table(",", [("Email Text", "Email Type"), *((b, a) for a, b in ALL)])))
case("messages", "a header of other words above few lines, by its names", lambda f: messages(f, "kind,words\nham,Hi\nspam,Win\n", [("ham", "Hi"), ("spam", "Win")], label_column="kind", text_column="words"))
case("messages", "a header alone", lambda f: refused(f, "label,text\n"), r"holds no record: only 2 columns \(label, text\) are named")
case("messages", "blanks behind classes", lambda f: messages(f, "ham \tHi\nspam\tWin\nham\tSo\nspam \tnow\n", [("ham", "Hi"), ("spam", "Win"), ("ham", "So"), ("spam", "now")]))
case("messages", "one class alone", lambda f: messages(f, "ham\tHi\nham\tyou\nham\tso\n", [("ham", "Hi"), ("ham", "you"), ("ham", "so")]))
case("messages", "JSON of splits in an object", lambda f: messages(f, json.dumps({"data": {"train": OBJECTS[:3], "test": OBJECTS[3:]}})))
case("messages", "JSON of texts by their class", lambda f: refused(f, json.dumps({"ham": ["Hi", "ok"], "spam": ["Win", "now"]})), r"has 2 columns \(ham, spam\), and needs one of classes and one of texts")
case("messages", "JSON of classes by their text", lambda f: refused(f, json.dumps({b: a for a, b in ALL})), r"has 5 columns .* needs one of classes and one of texts")
case("messages", "conversations", lambda f: refused(f, json.dumps([{"conversations": []}])), r"or learn to answer from it: python -m gptlib tune")
case("messages", "a web page's table", lambda f: refused(f, "<table><tr><td>ham</td></tr></table>"), r"is a web page \(HTML\)")
case("messages", "half an emoji", lambda f: left_out(f, '[{"label": "a", "text": "\\ud83d"}, {"label": "a", "text": "x"}]', {1: r"the text has half an emoji (\ud800 to \udfff alone), which is no character"}, 1))
case("messages", "repeats", repeated)
case("messages", "contradictions", contradictory, r"5 texts come with two classes: line 1 'say a so' and line 2 'Say a so!' are 'ham' and 'spam'; line 3.*; line 5.*; \.\.\.; correct them, or leave them all out with --skip-contradictions")
case("messages", "lines without a text", lambda f: left_out(f, "ham\tHi\nham\t\nspam\tWin\nspam\n\tx\n", {2: "the text is empty", 4: "no tab between label and text", 5: "the label is empty"}, 2))
case("messages", "nan as a text", lambda f: left_out(f, '[{"label": "a", "text": NaN}, {"label": "a", "text": "x"}, {"label": null, "text": "y"}]', {1: "the text is nan, not a text", 3: "the label is empty"}, 1))
case("messages", "nothing in the file", lambda f: refused(f, " \n"), r"is empty; name a file with records")
case("messages", "an empty list", lambda f: refused(f, "[]"), r"holds no record; name a file with records")
case("messages", "one column", lambda f: refused(f, "Hi\nthere\nyou"), r"has 1 column \(1\), and needs one of classes and one of texts; name them with --label-column")
case("messages", "a column that isn't there", lambda f: refused(f, table(",", ALL), label_column="kind"), r"has no column 'kind'; it has 2 columns \(1, 2\)")
case("messages", "a broken line of JSON", lambda f: refused(f, '{"label": "a", "text": "x"}\n{"label": "b"', "jsonl"), r"line 2 of .* is no JSON")
case("messages", "JSON that is cut off", lambda f: refused(f, '[{"label": "a"', "json"), r"is no JSON .*; repair it there")
case("messages", "a list of texts", lambda f: refused(f, '["a", "b"]'), r'record 1 of .* is .*a.*, not an object with names')
case("messages", "gzip", lambda f: refused(f, gzip.compress(b"ham\tHi")), r"is compressed with gzip; unpack it with gunzip")
case("messages", "Parquet", lambda f: refused(f, b"PAR1\x15\x04"), r"is Parquet; save it as CSV with pandas")
case("messages", "Excel", lambda f: refused(f, b"PK\x03\x04....xl/workbook.xml"), r"is an Excel file \(xlsx\); save it as CSV")
case("messages", "an encoding that isn't there", lambda f: refused(f, "ham\tHi", encoding="latin-9000"), r"there is no encoding 'latin-9000'; try one of utf-8")
# fmt: on


def instructions(
    place: Path, content: Any, expected: Any = None, suffix: str = "json", **options: Any
) -> None:
    """A file of instructions is read."""
    text = content if isinstance(content, str) else json.dumps(content)
    found = read_questions(stored(place, text, suffix), **options)
    assert found.records == (
        expected
        or [
            {"instruction": "Add.", "output": "3", "input": "1 2"},
            {"instruction": "Say yes.", "output": "yes"},
        ]
    )
    assert dict(found.understood)["records"] == str(len(found.records))


def unclear(place: Path, content: Any, suffix: str = "json", **options: Any) -> Callable[[], Any]:
    is_file = isinstance(content, str | bytes)
    file = stored(place, content if is_file else json.dumps(content), suffix)
    return lambda: read_questions(file, **options)


ADD = {"instruction": "Add.", "input": "1 2", "output": "3"}
YES = {"instruction": "Say yes.", "input": "", "output": "yes"}
TWO = [ADD, YES]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SAID = [{"instruction": "Hi", "output": "Hello"}]
CODE = "    def f():\n        return 1\n"


def names(*keys: str) -> list[dict[str, str]]:
    return [dict(zip(keys, record.values(), strict=True)) for record in TWO]


# fmt: off
case("instructions", "JSON", lambda f: instructions(f, TWO))
case("instructions", "JSON lines", lambda f: instructions(f, "\n".join(map(json.dumps, TWO)), suffix="jsonl"))
case("instructions", "one record alone", lambda f: instructions(f, YES, [{"instruction": "Say yes.", "output": "yes"}]))
case("instructions", "splits", lambda f: instructions(f, {"train": [ADD], "test": [YES]}))
case("instructions", "columns", lambda f: instructions(f, {name: [r[name] for r in TWO] for name in ADD}))
case("instructions", "CSV", lambda f: instructions(f, table(",", [tuple(ADD), *(tuple(r.values()) for r in TWO)]), suffix="csv"))
case("instructions", "TSV", lambda f: instructions(f, table("\t", [tuple(ADD), *(tuple(r.values()) for r in TWO)]), suffix="tsv"))
case("instructions", "prompt, context and completion", lambda f: instructions(f, names("prompt", "context", "completion")))
case("instructions", "Dolly's names", lambda f: instructions(f, names("instruction", "context", "response")))
case("instructions", "question and answer", lambda f: instructions(f, [{"question": "Say yes.", "answer": "yes"}], [{"instruction": "Say yes.", "output": "yes"}]))
case("instructions", "input and output", lambda f: instructions(f, [{"input": "Say yes.", "output": "yes"}], [{"instruction": "Say yes.", "output": "yes"}]))
case("instructions", "names of one's own", lambda f: instructions(f, names("was", "dazu", "antwort"), fields={"instruction": "was", "input": "dazu", "output": "antwort"}))
case("instructions", "messages", lambda f: instructions(f, [{"messages": TALK}], SAID))
case("instructions", "messages of one conversation", lambda f: instructions(f, {"messages": TALK}, SAID))
case("instructions", "messages with a system", lambda f: instructions(f, [{"messages": [{"role": "system", "content": "Be kind."}, *TALK]}], [{"instruction": "Be kind.\n\nHi", "output": "Hello"}]))
case("instructions", "messages of several turns", lambda f: instructions(f, [{"messages": [*TALK, *TALK]}], SAID * 2))
case("instructions", "messages of parts", lambda f: instructions(f, [{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, TALK[1]]}], SAID))
case("instructions", "the rows of a viewer of data sets", lambda f: instructions(f, {"features": [{"name": "instruction"}], "rows": [{"row_idx": i, "row": r, "truncated_cells": []} for i, r in enumerate(TWO)]}))
case("instructions", "ShareGPT's conversations", lambda f: instructions(f, [{"id": "x", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}], SAID))
case("instructions", "an answer's own indentation", lambda f: instructions(f, [{"instruction": "Code.", "output": CODE}], [{"instruction": "Code.", "output": CODE}]))
case("instructions", "an answer that is a number", lambda f: instructions(f, [{"instruction": "Add.", "input": "1 2", "output": 3}, YES]))
case("instructions", "an input that is null", lambda f: instructions(f, [ADD, YES | {"input": None}]))
case("instructions", "an emoji in two halves", lambda f: instructions(f, '[{"instruction": "Hi", "output": "\\ud83d\\ude42"}]', [{"instruction": "Hi", "output": "🙂"}]))
case("instructions", "splits of columns", lambda f: instructions(f, {n: {k: [r[k]] for k in ADD} for n, r in (("train", ADD), ("test", YES))}))
case("instructions", "names of one's own in other letters", lambda f: instructions(f, names("Was", "Dazu", "Antwort"), fields={"instruction": "was", "input": "dazu", "output": "antwort"}))
case("instructions", "semicolons and quoted line breaks", lambda f: instructions(f, table(";", [("instruction", "output"), ("Hi", CODE), ("a; b", "c")]), [{"instruction": "Hi", "output": CODE}, {"instruction": "a; b", "output": "c"}], suffix="csv"))
case("instructions", "commas in an answer without quotes", lambda f: unclear(f, "instruction,output\nHi,Yes, you\nHo,Ya\n", "csv"), r"line 2: it has 3 columns instead of 2; put quotes around its text")
case("instructions", "turns of other keys", lambda f: unclear(f, [{"conversations": [{"speaker": "human", "says": "Hi"}]}]), r"record 1: .* a turn has role and content, or from and value, and its first is speaker, says")
case("instructions", "a conversation that is a text", lambda f: unclear(f, [{"messages": TALK}, {"messages": "Hi"}]), r"record 2: its conversation has no question .* its first is '\"Hi\"'")
case("instructions", "JSON lines in UTF-16 without a mark", lambda f: unclear(f, "\n".join(map(json.dumps, TWO)).encode("utf-16-le"), "jsonl"), r"UTF-16 without a mark: add --encoding utf-16-le")
case("instructions", "null", lambda f: unclear(f, "null"), r"record 1 of .* is 'null', not an object with names")
case("instructions", "half an emoji", lambda f: unclear(f, '[{"instruction": "Hi", "output": "\\ud83d"}]'), r"record 1: the output has half an emoji")
case("instructions", "a missing output", lambda f: unclear(f, [ADD, {"instruction": "Say yes."}]), r"1 of 2 records .* record 2: the output is empty \(keys: instruction, input, output\); .*leave them out with skip_broken=True")
case("instructions", "outputs that are lists", lambda f: unclear(f, [ADD | {"output": ["3"]}]), r"record 1: the output is .*3.*, not a text")
case("instructions", "unknown names", lambda f: unclear(f, [{"was": "x", "antwort": "y"}]), r"record 1 of .* has the keys was, antwort, .*--fields instruction=KEY,output=KEY")
case("instructions", "a name that isn't there", lambda f: unclear(f, TWO, fields={"output": "answer"}), r"has no column 'answer'")
case("instructions", "texts without questions", lambda f: unclear(f, [{"text": "Once"}]), r"has the keys text, and it isn't clear")
case("instructions", "a conversation without an answer", lambda f: unclear(f, [{"messages": TALK[:1]}]), r"record 1: its conversation has no question with an answer")
case("instructions", "an empty list", lambda f: unclear(f, "[]"), r"holds no record")
case("instructions", "a list of numbers", lambda f: unclear(f, "[1, 2]"), r"record 1 of .* is '1', not an object")
case("instructions", "JSON without an end", lambda f: unclear(f, "[" * 100_000), r"JSON inside JSON without an end|is no JSON")
# fmt: on


# Texts


def documents(
    place: Path, content: bytes, expected: list[str] | None = None, **options: Any
) -> Callable[[], Any]:
    """A file is read as documents."""
    file = stored(place, content)
    if expected is not None:
        assert list(read_documents(find_texts([file], **options))) == expected
    return lambda: list(read_documents(find_texts([file], **options)))


def text(place: Path, content: bytes | str, expected: list[str], **options: Any) -> None:
    documents(place, content.encode() if isinstance(content, str) else content, expected, **options)


def text_in(place: Path, encoding: str) -> None:
    """Refused by default, and the option that the message names reads all of it."""
    prose = "“Well, Prince,” – naïve café.\n" * 3 if encoding != "latin-1" else "naïve café.\n" * 3
    read = documents(place, prose.encode(encoding))
    with pytest.raises(ValueError, match="add --encoding") as caught:
        read()
    option = str(caught.value).rpartition("--encoding ")[2].partition(",")[0]
    documents(place, prose.encode(encoding), [prose], encoding=option)


def english_in(place: Path, encoding: str) -> None:
    """Letters of the first 128 alone are UTF-8 too, with zeros between them."""
    prose = "Well, Prince, so Genoa\n" * 3
    with pytest.raises(ValueError, match=f"UTF-16 without a mark: add --encoding {encoding}"):
        documents(place, prose.encode(encoding))()
    documents(place, prose.encode(encoding), [prose], encoding=encoding)


def noted(place: Path) -> None:
    """Marks inside of lines are counted, and the option reads them."""
    content = b"one<|endoftext|>two\n<|endoftext|>\n<|startoftext|>three<|endoftext|>\n"
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        text(place, content, ["one<|endoftext|>two\n", "<|startoftext|>three<|endoftext|>\n"])
    assert "inside of lines, 3 times; they are plain text: add --read-special" in error.getvalue()
    text(place, content, ["one", "two\n", "three"], read_special=True)


def long_word(place: Path) -> None:
    """300,000 letters in one word are cut at once, as the slow way would cut them."""
    dice = np.random.default_rng(0)
    slow = TOKENIZER
    TOKENIZER.save(place)
    quick = named_tokenizer(str(place))
    short = "".join(dice.choice(list("the prince"), 700))
    assert quick.encode_ordinary(short) == slow.encode_ordinary(short)
    for letters in ("a b", " ", "'", "1", "é", "日本"):
        assert quick.encode_ordinary(letters * 600) == slow.encode_ordinary(letters * 600)
    start = time.process_time()
    assert quick.decode(quick.encode_ordinary("prince" * 50_000)) == "prince" * 50_000
    assert time.process_time() - start < 5


def dna(place: Path) -> None:
    """A tokenizer of one line of DNA is trained within seconds."""
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 300_000))
    pieces = list(cut_long_words([letters]))
    assert "".join(pieces) == letters
    start = time.process_time()
    assert len(train_bpe(pieces, 400)) == 143
    assert time.process_time() - start < 15


# fmt: off
case("text", "UTF-8 with a mark", lambda f: text(f, b"\xef\xbb\xbfHi\n", ["Hi\n"]))
case("text", "CR and LF", lambda f: text(f, "one\r\ntwo\r\n", ["one\ntwo\n"]))
case("text", "marks on lines of their own", lambda f: text(f, "one\n<|endoftext|>\ntwo", ["one\n", "two"]))
case("text", "marks inside of lines", noted)
case("text", "an emoji in two halves", lambda f: text(f, b"ok \xed\xa0\xbd\xed\xb9\x82\n", ["ok 🙂\n"]))
for encoding in ("latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be"):
    case("text", f"in {encoding}", partial(text_in, encoding=encoding))
for encoding in ("utf-16-le", "utf-16-be"):
    case("text", f"English in {encoding} without a mark", partial(english_in, encoding=encoding))
case("text", "in Windows-1252, more marks than letters", lambda f: documents(f, "“é” – €5 – “à”\n".encode("cp1252") * 9), r"it looks like Windows-1252: add --encoding cp1252")
case("text", "in Cyrillic of Unix", lambda f: documents(f, "Ну, князь, Генуя и Лукка".encode("koi8-r")), r"most of its letters are not Latin ones: add --encoding .*koi8-r")
case("text", "in Japanese of Windows", lambda f: documents(f, "吾輩は猫である。名前はまだ無い。".encode("shift_jis")), r"most of its letters are not Latin ones: add --encoding .*shift_jis")
case("text", "an archive of tar", lambda f: documents(f, b"book.txt" + bytes(92) + b"0000644" + bytes(400)), r"it looks like no text at all, as bytes of zero are in programs")
case("text", "an archive of 7-Zip", lambda f: documents(f, b"7z\xbc\xaf'\x1c"), r"is packed with 7-Zip; unpack it")
case("text", "XML", lambda f: documents(f, b"<?xml version='1.0'?>\n<FictionBook>"), r"is XML; save the text in it as plain text")
case("text", "XHTML", lambda f: documents(f, b"\xef\xbb\xbf<?xml version='1.0'?>\n<!DOCTYPE html>\n<html>"), r"is a web page \(HTML\)")
case("text", "HTML behind a comment", lambda f: documents(f, b"<!-- saved -->\n<html>"), r"is a web page \(HTML\)")
case("text", "PDF behind an empty line", lambda f: documents(f, b"\n%PDF-1.7\n"), r"is a PDF; save its text")
case("text", "half a character", lambda f: documents(f, "é".encode()[:1]), r"is no UTF-8 text: byte 0 is 0xc3; it looks like Latin-1: add --encoding latin-1, save it as UTF-8")
case("text", "gzip", lambda f: documents(f, gzip.compress(b"Once upon")), r"is compressed with gzip; unpack it with gunzip")
case("text", "docx", lambda f: documents(f, b"PK\x03\x04" + b"." * 99 + b"word/document.xml"), r"is a Word document \(docx\); save it as plain text")
case("text", "an e-book", lambda f: documents(f, b"PK\x03\x04mimetypeapplication/epub+zip"), r"is an e-book \(EPUB\)")
case("text", "a ZIP", lambda f: documents(f, b"PK\x03\x04book.txt"), r"is a ZIP; unpack it")
case("text", "PDF", lambda f: documents(f, b"%PDF-1.7\n"), r"is a PDF; save its text with pdftotext")
case("text", "HTML", lambda f: documents(f, b"\n<!DOCTYPE html>\n<html>"), r"is a web page \(HTML\); save its text from a browser")
case("text", "rich text", lambda f: documents(f, b"{\\rtf1\\ansi"), r"is rich text \(RTF\)")
case("text", "a picture", lambda f: documents(f, b"\x89PNG\r\n"), r"is a picture; name a text")
case("text", "a word of 300,000 letters", long_word)
case("text", "300,000 letters of DNA to train on", dna)
# fmt: on


# The judge of all cases


@pytest.mark.parametrize(("make", "said"), CASES)
def test_what_is_found_in_the_wild_is_read_or_named(make: Make, said: str, tmp_path: Path) -> None:
    judge(make, said, tmp_path / "place")


def judge(make: Make, said: str, place: Path) -> str:
    """Make the input of a case, and see what becomes of it; returns that in words."""
    made = make(place)
    if not said:
        return "read" if made is None else str(made)
    work = made if callable(made) else partial(load_model, made)
    with pytest.raises((ValueError, OSError)) as caught:
        work()
    message = " ".join(str(caught.value).split()).replace(str(place), "FOLDER")
    assert re.search(said, message), message
    return message


def main() -> int:
    """Print every case with what happens."""
    transformers.utils.logging.disable_progress_bar()
    n_failed = 0
    for number, param in enumerate(CASES, start=1):
        if not all(word in str(param.id) for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                make, said = param.values
                result = judge(make, said, Path(folder, "place"))
            except BaseException:
                n_failed, result = n_failed + 1, "FAILED: " + traceback.format_exc(limit=-3)
        print(f"{number:4d}  {param.id}\n      {result}", flush=True)
    print(f"{len(CASES) - n_failed} of {len(CASES)} are read, or named for what they are")
    return n_failed > 0


if __name__ == "__main__":
    sys.exit(main())
