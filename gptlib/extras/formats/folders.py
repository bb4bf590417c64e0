"""Models of other programs and other ages: prefixes, masks, shards, pickles, paddings, wrappers.

Whatever a file calls its tensors and however it lays them out, here they get GPT-2's names and
layout, and `gptlib.weights.build_model` does the rest.
"""

import argparse
import math
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiktoken
import torch
from torch import Tensor, nn

from gptlib.classification import TextClassifier
from gptlib.extras.formats.tensorflow import read_checkpoint
from gptlib.extras.formats.text_files import check_file
from gptlib.extras.formats.tokenizer_files import (
    LibraryTokenizer,
    fit_tokenizer,
    from_characters,
    read_any_tokenizer,
)
from gptlib.generation import check_vocabulary
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import Tokenizer, gpt2_encoding, vocabulary_size
from gptlib.weights import (
    NAMES,
    TRANSPOSED,
    build_model,
    damaged,
    read_config,
    read_json,
    read_shapes,
    read_tensor,
    require_files,
)


class Stored(NamedTuple):
    """A tensor in a file: its shape is known, its numbers are read on request."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def load_folder(
    folder: Path, dtype: torch.dtype, file: Path | None = None
) -> tuple[GPT, Tokenizer]:
    """Load a model and its tokenizer from a folder of any program for GPT-2.

    Args:
        folder: Of `save_gpt2`, of transformers, or of OpenAI's release of 2019 and what is tuned
            from it.
        file: Which of its files has the weights, if there are several.
    """
    index = find_checkpoint(folder)
    if file is None and index and not (folder / "config.json").is_file():
        file = index
    if file and file.suffix == ".index":
        config = read_hparams(folder)
        stored = {name: Stored(t.shape, t.read) for name, t in read_checkpoint(file).items()}
        tensors = name_as_gpt2(stored, file)
    else:
        path = folder / "config.json"
        if not path.is_file() and (others := _other_files(folder)):
            raise FileNotFoundError(f"{folder} has no config.json{others}")
        require_files(folder, [path.name])
        config = _read_sizes(path)
        tensors = find_tensors(folder, file)
    if "score.weight" in tensors:
        raise ValueError(
            f"{folder} holds a classifier of {tensors['score.weight'].shape[0]} classes "
            "(score.weight), not a model that writes; make it one of ours: python -m gptlib "
            f"convert {folder} FOLDER, and then python -m gptlib classify --model FOLDER"
        )
    return build(config, tensors, read_any_tokenizer(folder, config.vocab_size), dtype)


def build(
    config: GPTConfig, tensors: dict[str, Stored], tokenizer: Tokenizer, dtype: torch.dtype
) -> tuple[GPT, Tokenizer]:
    """Build a model of tensors with GPT-2's names; what its tokenizer lacks is never written."""
    head, table = tensors.pop("lm_head.weight", None), tensors.get("wte.weight")
    if head and not table:  # the two are one, and some programs keep it by this name
        tensors["wte.weight"] = head
    if head and table:  # transformers, too, believes the numbers, whatever config.json says
        same = torch.equal(head.read().float(), table.read().float())
        config = replace(config, tie_weights=same)
        tensors |= {} if same else {"lm_head.weight": head}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    model = build_model(config, shapes, lambda name: tensors[name].read(), dtype)
    check_vocabulary(tokenizer, model)
    hide_tokens(model, tokenizer)
    return model, tokenizer


def hide_tokens(model: GPT, tokenizer: Tokenizer) -> None:
    """Let a padded model never draw an id that its tokenizer has no token for."""
    if isinstance(tokenizer, tiktoken.Encoding):  # maybe padded by `fit_tokenizer`
        n_tokens = tokenizer.eot_token + 1
    else:
        n_tokens = getattr(tokenizer, "n_tokens", tokenizer.vocab_size)
    if n_tokens < model.config.vocab_size:
        model.head.register_forward_hook(partial(_hide_from, n_tokens))


def _hide_from(n_tokens: int, _layer: nn.Module, _inputs: Any, logits: Tensor) -> Tensor:
    hidden = logits.new_full((*logits.shape[:-1], logits.size(-1) - n_tokens), -math.inf)
    return torch.cat([logits[..., :n_tokens], hidden], dim=-1)  # (B, T, V)


def load_their_classifier(source: Path) -> TextClassifier | None:
    """Load a classifier of transformers as one of ours; None if a folder or file is of another.

    Its head reads the last token's state and has no bias, so ours gets one of zeros.
    """
    folder, file = (source, None) if source.is_dir() else (source.parent, source)
    if file and file.suffix not in (".safetensors", ".bin"):
        return None
    if not (folder / "config.json").is_file() or (folder / "head.safetensors").is_file():
        return None
    config, tensors = _read_sizes(folder / "config.json"), find_tensors(folder, file)
    config = replace(config, tie_weights=True)  # it has no output layer, whatever is said of one
    if not (head := tensors.pop("score.weight", None)):
        return None
    tokenizer = read_any_tokenizer(folder, config.vocab_size)
    model, tokenizer = build(config, tensors, tokenizer, torch.float32)
    named = read_json(folder / "config.json").get("id2label") or {}
    labels = [str(named.get(str(i), f"LABEL_{i}")) for i in range(head.shape[0])]
    classifier = TextClassifier(model, tokenizer, labels, config.context_length)
    with torch.no_grad():
        classifier.head.weight.copy_(head.read())
        classifier.head.bias.zero_()
    return classifier.eval()


# Sizes


def read_hparams(folder: Path) -> GPTConfig:
    """Read the sizes of OpenAI's release of 2019, which says nothing of what it computes."""
    path = folder / "hparams.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no hparams.json, which says the sizes of a checkpoint of TensorFlow; "
            "copy it from the model that was tuned"
        )
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


def _read_sizes(path: Path) -> GPTConfig:
    check_file(path)
    if "quantization_config" in read_json(path):
        raise ValueError(
            f"{path.parent} has its weights in fewer bits (quantization_config); write them whole "
            "with transformers: model.dequantize(), then model.save_pretrained(FOLDER)"
        )
    return read_config(path)


# Names and layout

WRAPPERS = re.compile(
    r"^((_orig_mod|_fsdp_wrapped_module|module|model|transformer|pretrained_model)\.)+"
)
"""What torch.compile, DDP, FSDP, Lightning, transformers and trl put before a tensor's name."""

MODEL_PARTS = re.compile(r"(wte|wpe|h\.\d+|ln_f|lm_head|embed|blocks)\.")
"""How GPT-2's tensors are called, or this course's."""

LEFT_OUT = re.compile(r"h\.\d+\.attn\.(masked_)?bias|(multiple_choice_head|v_head)\..*")
"""The causal mask, which old versions saved with every layer, and heads beside that for words."""


def bare_name(name: str) -> str:
    """Give a tensor the name that it had before programs wrapped its model.

    Example:
        >>> bare_name("module._orig_mod.transformer.h.0.ln_1.weight")
        'h.0.ln_1.weight'
    """
    return WRAPPERS.sub("", name)


def name_as_gpt2(tensors: Mapping[str, Stored], path: Path) -> dict[str, Stored]:
    """Give tensors GPT-2's names and layout.

    Wrappers' prefixes are dropped. Matrices that are kept as (out, in), as nanoGPT and this course
    do it, are transposed. Biases that a whole model lacks are zeros, which compute the same.
    """
    named: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        short = bare_name(name)
        for ours, theirs in NAMES.items():
            short = short.replace(ours, theirs)
        short = "lm_head.weight" if short == "head.weight" else short
        if short in named:
            raise damaged(path, f"{short} is there twice, maybe with a prefix")
        if not LEFT_OUT.fullmatch(short):
            named[short] = tensor
    first = [tensor.shape for name, tensor in named.items() if name.endswith("c_attn.weight")]
    if first and all(len(shape) == 2 and shape[0] == 3 * shape[1] for shape in first):
        for name in [name for name in named if name.endswith(TRANSPOSED)]:
            named[name] = Stored(named[name].shape[::-1], partial(_transposed, named[name].read))
    if not any(name.endswith("bias") for name in named):
        for name, (shape, _) in list(named.items()):
            if name not in ("wte.weight", "wpe.weight", "lm_head.weight"):
                zeros = partial(torch.zeros, *shape[-1:])
                named[name.removesuffix("weight") + "bias"] = Stored(shape[-1:], zeros)
    return named


def _transposed(read: Callable[[], Tensor]) -> Tensor:
    return read().T


# Where the tensors are


def find_checkpoint(folder: Path) -> Path | None:
    """Find the index of a folder's TensorFlow checkpoint: the one it names, else the last."""
    state = folder / "checkpoint"  # a text of TensorFlow's: model_checkpoint_path: "model-1000"
    if state.is_file():
        text = state.read_bytes()[:10_000].decode("utf-8", "replace")
        named = re.search(r'^model_checkpoint_path: "(?:.*[\\/])?([\w.-]+)"', text, re.MULTILINE)
        if named and (folder / f"{named[1]}.index").is_file():
            return folder / f"{named[1]}.index"
    found = sorted(folder.glob("*.index"), key=lambda path: (len(path.name), path.name))
    return found[-1] if found else None


def find_tensors(folder: Path, file: Path | None = None) -> dict[str, Stored]:
    """Find a model's tensors, by GPT-2's names, in one file of its folder or whichever has them."""
    usual = ("model.safetensors", "pytorch_model.bin")
    names = [name + end for name in usual for end in ("", ".index.json")]
    whole = sorted(path.name for path in folder.glob("*.safetensors"))
    pickles = sorted(path.name for path in folder.glob("*.bin") if path.name != "training_args.bin")
    for found in (whole, pickles):
        names += found if len(found) == 1 else []
    there = [folder / name for name in names if (folder / name).is_file()]
    path = file or (there[0] if there else None)
    if path is None:
        raise FileNotFoundError(
            f"{folder} has no model.safetensors{_other_files(folder)}; name a folder with weights "
            "in it"
        )
    files = _read_index(path) if path.suffix == ".json" else [path.name]
    tensors: dict[str, Stored] = {}
    for part in (folder / name for name in files):
        if part.suffix == ".safetensors":
            check_file(part)
            for name, shape in read_shapes(part).items():
                tensors[name] = Stored(shape, partial(read_tensor, part, name))
        else:
            tensors |= _tensors_of(read_pickle(part), part)
    return name_as_gpt2(tensors, path)


def _other_files(folder: Path) -> str:
    programs = {"tf_model.h5": "TensorFlow's Keras", "flax_model.msgpack": "Flax"}
    programs |= {"model.onnx": "ONNX", "*.gguf": "llama.cpp"}
    for pattern, program in programs.items():
        for path in folder.glob(pattern):
            return (
                f", only {path.name}, which is of {program}; load it with transformers where it "
                "was made, and write it again by model.save_pretrained(FOLDER)"
            )
    return ""


def _read_index(index: Path) -> list[str]:
    """List the files that a model was cut into, when they agree with the index's "weight_map"."""
    weight_map = read_json(index).get("weight_map")
    weight_map = weight_map if isinstance(weight_map, dict) else {}
    named = list(weight_map.values())
    # No slash: an index must not make us read a file outside its folder.
    if not named or not all(isinstance(f, str) and re.fullmatch(r"[\w.-]{1,99}", f) for f in named):
        raise damaged(index, 'its "weight_map" does not give each tensor a file of this folder')
    files = sorted(set(named))
    require_files(index.parent, files)
    if index.name.startswith("model.safetensors"):  # a pickle's shards are not opened twice
        held = {(name, file) for file in files for name in read_shapes(index.parent / file)}
        if odd := sorted(held ^ set(weight_map.items())):
            names = ", ".join(f"{name} in {file}" for name, file in odd[:5])
            reason = f"{len(odd)} of its entries are not what the files hold ({names})"
            raise damaged(index, reason)
    return files


# Pickles: PyTorch's files, opened with weights_only, which lets no code in


def read_pickle(path: Path) -> Any:
    """Read a file of torch.save that holds tensors and plain values; more is never run."""
    check_file(path)
    # What training programs put beside the weights, and what can't run anything.
    harmless: list[Any] = [argparse.Namespace, np.dtype, type(np.dtype("f4")), type(np.dtype("f8"))]
    harmless += [type(np.dtype("i8")), np._core.multiarray.scalar]  # type: ignore[attr-defined]
    try:
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of other ages, which are read or not
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has many of them for a broken file
        if isinstance(error, pickle.UnpicklingError) and "nsupported" in str(error):
            raise ValueError(
                f"{path.parent} has its weights only as {path.name}, a pickle, which can run code "
                "when it is opened, and this one holds more than tensors and plain values; no code "
                "in it was run. Save the weights alone where it was made, with "
                "torch.save(model.state_dict(), FILE) or as model.safetensors"
            ) from error
        raise damaged(path, f"it is cut off, or no file of torch.save ({error!r:.200})") from error


def _tensors_of(content: Any, path: Path) -> dict[str, Stored]:
    """Find the state dictionary in what a pickle held, which may lie beside other things."""
    keys = ("model", "state_dict", "model_state_dict", "module")
    places = [content.get(key) for key in keys] if isinstance(content, dict) else []
    for found in [content, *places]:
        if isinstance(found, dict) and any(isinstance(value, Tensor) for value in found.values()):
            tensors = {str(n): value for n, value in found.items() if isinstance(value, Tensor)}
            if any(MODEL_PARTS.match(bare_name(name)) for name in tensors):
                return {n: Stored(tuple(t.shape), t.detach) for n, t in tensors.items()}
    held = sorted(map(str, content))[:5] if isinstance(content, dict) else type(content).__name__
    raise ValueError(f"{path} holds no weights of a GPT-2, only {held}; name a file that does")


def load_pickled(
    path: Path, content: Any, find_tokenizer: Callable[[], Tokenizer | None], dtype: torch.dtype
) -> tuple[GPT, Tokenizer]:
    """Load a checkpoint of nanoGPT or of a program that keeps its sizes in the same way.

    nanoGPT computes GELU exactly, GPT-2 and this course by tanh: logits differ by about 0.001.

    Args:
        path: Of the file.
        content: What `read_pickle` found in it.
        find_tokenizer: Gives the tokenizer that lies beside it; GPT-2's is taken if it gives none.
    """
    tensors = name_as_gpt2(_tensors_of(content, path), path)
    beside = path.with_name("config.json")
    sizes = content.get("model_args") if isinstance(content, dict) else None
    if isinstance(sizes, dict):
        try:
            names = ("vocab_size", "n_layer", "n_head", "n_embd")
            some = {name: sizes[name] for name in names}
            config = GPTConfig(context_length=sizes["block_size"], **some)
        except (KeyError, ValueError) as error:
            raise damaged(path, f"its model_args are no model's ({error})") from error
    elif beside.is_file():
        config = _read_sizes(beside)
    else:
        raise ValueError(
            f"{path} holds weights and not their number of heads, which the shapes don't tell; put "
            "the model's config.json beside it"
        )
    tokenizer = find_tokenizer() or _read_meta(path.with_name("meta.pkl"))
    if tokenizer is None:
        tokenizer = fit_tokenizer(gpt2_encoding(), config.vocab_size)
        if vocabulary_size(tokenizer) != config.vocab_size:
            raise ValueError(
                f"{path} has {config.vocab_size} tokens, not GPT-2's 50257, and no tokenizer lies "
                "beside it; put its files there: vocab.json and merges.txt, tokenizer.json, or "
                "nanoGPT's meta.pkl of the same data"
            )
    return build(config, tensors, fit_tokenizer(tokenizer, config.vocab_size), dtype)


class _PlainUnpickler(pickle.Unpickler):
    """Read a pickle of dictionaries, texts and numbers."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"it asks for {module}.{name}, which could run code; nothing was run")


def _read_meta(path: Path) -> LibraryTokenizer | None:
    """Read the characters and their ids from nanoGPT's meta.pkl, if it is there."""
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            ids = _PlainUnpickler(file).load()["stoi"]
        return from_characters({str(text): int(i) for text, i in ids.items()})
    except Exception as error:  # pickle has many of them for a broken file
        raise damaged(path, error) from error
