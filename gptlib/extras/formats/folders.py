"""Model folders of other programs and other ages: prefixes, masks, shards, tokenizer.json.

What differs from GPT-2's layout as `gptlib.weights` has it is put right here, in one place each.
"""

import json
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gptlib.extras.formats.tensorflow import read_checkpoint
from gptlib.generation import check_vocabulary
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import Tokenizer
from gptlib.weights import (
    build_model,
    damaged,
    read_config,
    read_json,
    read_shapes,
    read_tensor,
    read_tokenizer,
    require_files,
)

__all__ = ["find_tensors", "load_folder", "read_any_tokenizer"]


class Stored(NamedTuple):
    """A tensor in a file: its shape is known, its numbers are read on request."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def load_folder(folder: Path, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    """Load a model and its tokenizer from a folder of any program for GPT-2.

    Args:
        folder: Of `save_gpt2`, of transformers, or of OpenAI's release of 2019.
        dtype: What the weights become, however they are stored.

    Returns:
        As `gptlib.weights.load_gpt2`.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged, is another model's or could run code.
    """
    if (folder / "model.ckpt.index").is_file():
        config = read_hparams(folder)
        checkpoint = read_checkpoint(folder / "model.ckpt.index")
        tensors = {name: Stored(tensor.shape, tensor.read) for name, tensor in checkpoint.items()}
    else:
        require_files(folder, ["config.json"])
        config = read_config(folder / "config.json")
        tensors = find_tensors(folder)
    head, table = tensors.pop("lm_head.weight", None), tensors.get("wte.weight")
    if head and table and not _is_equal(head, table):
        raise ValueError(
            "lm_head.weight is not wte.weight: the model has an output layer of its own, which "
            "GPT-2 and this course's GPT don't have; use a model with tied embeddings"
        )
    tokenizer = read_any_tokenizer(folder)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    model = build_model(config, shapes, lambda name: tensors[name].read(), dtype)
    check_vocabulary(tokenizer, model)
    return model, tokenizer


def _is_equal(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same numbers."""
    return one.shape == other.shape and torch.equal(one.read().float(), other.read().float())


def read_hparams(folder: Path) -> GPTConfig:
    """Read the sizes of OpenAI's release of 2019, which says nothing of what it computes."""
    require_files(folder, ["hparams.json"])
    path = folder / "hparams.json"
    values = read_json(path)
    try:
        return GPTConfig(
            vocab_size=values["n_vocab"],
            context_length=values["n_ctx"],
            n_layer=values["n_layer"],
            n_head=values["n_head"],
            n_embd=values["n_embd"],
        )
    except KeyError as error:
        raise damaged(path, f"it lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def find_tensors(folder: Path) -> dict[str, Stored]:
    """Find a model's tensors in the files of its folder, and never open a pickle.

    A prefix "transformer." is dropped. So are `attn.bias` and `attn.masked_bias`, the causal mask
    that older versions of transformers saved with every layer.

    Returns:
        By GPT-2's name of today.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If there is only a pickle, or a file is damaged.
    """
    index = folder / "model.safetensors.index.json"
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif index.is_file():
        files = _read_index(index)
    elif pickles:
        raise ValueError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which can run code when it "
            "is opened, so it was left alone; get the model's model.safetensors instead"
        )
    else:
        raise FileNotFoundError(
            f"{folder} has no model.safetensors; name a folder with weights in it"
        )
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, shape in read_shapes(folder / file).items():
            short = name.removeprefix("transformer.")
            if short in tensors:
                raise damaged(folder / file, f"{short} is there twice, maybe with a prefix")
            if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", short):
                tensors[short] = Stored(shape, partial(read_tensor, folder / file, name))
    return tensors


def _read_index(index: Path) -> list[str]:
    """List the files that a model was cut into, when the index and the files agree.

    Args:
        index: The file model.safetensors.index.json, whose "weight_map" names each tensor's file.
    """
    weight_map = read_json(index).get("weight_map")
    weight_map = weight_map if isinstance(weight_map, dict) else {}
    named = list(weight_map.values())
    # No slash: an index must not make us read a file outside its folder.
    if not named or not all(isinstance(f, str) and re.fullmatch(r"[\w.-]{1,99}", f) for f in named):
        raise damaged(index, 'its "weight_map" does not give each tensor a file of this folder')
    files = sorted(set(named))
    require_files(index.parent, files)
    held = {(name, file) for file in files for name in read_shapes(index.parent / file)}
    if odd := sorted(held ^ set(weight_map.items())):
        names = ", ".join(f"{name} in {file}" for name, file in odd[:5])
        raise damaged(index, f"{len(odd)} of its entries are not what the files hold ({names})")
    return files


def read_any_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder of any age.

    Args:
        folder: With vocab.json and merges.txt, with OpenAI's encoder.json and vocab.bpe, or with
            tokenizer.json.

    Returns:
        GPT-2's own as tiktoken's `Encoding`, any other as a `BPETokenizer`.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged, or the files do not belong together.
    """
    if (folder / "encoder.json").is_file():
        require_files(folder, ["vocab.bpe"])
        read_json(folder / "encoder.json")  # says so if it is damaged
        contents = [(folder / name).read_bytes() for name in ("encoder.json", "vocab.bpe")]
    elif (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        contents = _split_tokenizer(folder / "tokenizer.json")
    else:
        require_files(folder, ["vocab.json", "merges.txt"])
        return read_tokenizer(folder)
    with tempfile.TemporaryDirectory() as draft:
        for name, content in zip(("vocab.json", "merges.txt"), contents, strict=True):
            Path(draft, name).write_bytes(content)
        return read_tokenizer(Path(draft))


def _split_tokenizer(path: Path) -> list[bytes]:
    """Write what tokenizer.json of newer transformers holds as vocab.json and merges.txt."""
    values = read_json(path)
    try:
        model, cutter = values["model"], values["pre_tokenizer"]
        kinds = (model["type"], cutter["type"], cutter["add_prefix_space"], values["normalizer"])
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        added = {token["content"]: token["id"] for token in values["added_tokens"]}
        ids = dict(sorted({**model["vocab"], **added}.items(), key=lambda item: item[1]))
    except (AttributeError, KeyError, TypeError) as error:
        raise damaged(path, f"it is not the file of a tokenizer ({error!r})") from error
    if kinds != ("BPE", "ByteLevel", False, None):
        raise ValueError(
            f"{path} describes a tokenizer of the kind {kinds}, which cuts texts in another way "
            "than GPT-2's; use a model with GPT-2's kind of tokenizer"
        )
    lines = "".join(f"{pair}\n" for pair in ["#version: 0.2", *pairs])
    return [json.dumps(ids).encode(), lines.encode()]
