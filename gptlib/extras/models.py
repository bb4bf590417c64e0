"""Read and write trained models: the one that travels with the course, and your own.

A folder of a model holds the weights (`model.safetensors`, float16), what they are the weights
of (`config.json`, the fields of `GPTConfig`) and the tokenizer (`vocab.json`, `merges.txt`).
The folder that chapter 5 trains into is understood too: `NAME.pt` beside `NAME-tokenizer`.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer, find_data
from gptlib.training import load_checkpoint

__all__ = ["SHIPPED", "load_model", "model_folder", "save_model"]

SHIPPED = "war-and-peace"
"""Name of the model that travels with the course, in data/models."""

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_FILES = ("vocab.json", "merges.txt", _CONFIG, _WEIGHTS)

Parts = tuple[GPTConfig, dict[str, Tensor], BPETokenizer]


def load_model(folder: str | Path | None = None) -> tuple[GPT, BPETokenizer]:
    """Read a trained model and its tokenizer.

    Args:
        folder: One that `save_model` wrote, or chapter 5's runs folder; None reads the folder
            that `model_folder` finds.

    Returns:
        The model on the CPU, in float32 and in evaluation mode, and its tokenizer.

    Raises:
        FileNotFoundError: If the folder or one of its files is not there.
        ValueError: If a file is damaged, could run code, or does not fit the others.
    """
    place = model_folder() if folder is None else Path(folder).expanduser()
    if not place.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(place)!r}; name one that holds a model ({_WEIGHTS} and its "
            "other files), or chapter 5's runs folder"
        )
    runs = sorted(place.glob("*.pt"))
    trained_here = runs and not (place / _CONFIG).exists() and not (place / _WEIGHTS).exists()
    config, tensors, tokenizer = _read_run(runs) if trained_here else _read_folder(place)
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size} "
            f"(vocab_size); {place} mixes the files of two models: copy or save both again"
        )
    return _build(config, tensors, place), tokenizer


def save_model(model: GPT, tokenizer: BPETokenizer, folder: str | Path) -> None:
    """Write a model and its tokenizer as one folder that `load_model` reads.

    The files are written whole under other names and then moved to theirs, the weights last.
    The weights are stored in float16, which keeps three to four digits of each.

    Args:
        model: The model, on any device.
        tokenizer: The tokenizer whose ids it was trained on.
        folder: Where to write; it is made if it is not there.

    Raises:
        ValueError: If the two do not belong together, or a weight is infinite, not a number, or
            too large for float16.
    """
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
            f"{model.config.vocab_size} (vocab_size); pass the tokenizer it was trained with"
        )
    tensors = {name: tensor.half().cpu() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{name} holds a value that float16 can't: infinite, not a number, or above "
                "65504; train anew with a lower max_learning_rate"
            )
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as name:
        draft = Path(name)
        tokenizer.save(draft)
        (draft / _CONFIG).write_text(json.dumps(asdict(model.config), indent=2) + "\n")
        save_file(tensors, draft / _WEIGHTS)
        (draft / _WEIGHTS).chmod((draft / _CONFIG).stat().st_mode)  # safetensors hides it
        for file in _FILES:
            os.replace(draft / file, folder / file)


def model_folder() -> Path:
    """Name the folder of the model that is used when none is named.

    Returns:
        What the environment variable `GPTLIB_MODEL` names, else the folder that travels with
        the course: `data/models/war-and-peace` in a clone or in the installed package.

    Raises:
        FileNotFoundError: If the shipped model is not there.
    """
    chosen = os.environ.get("GPTLIB_MODEL", "").strip()
    if chosen:
        return Path(chosen).expanduser()
    return find_data(f"models/{SHIPPED}/{_WEIGHTS}").parent


def _require(folder: Path, files: Sequence[str], reason: str) -> None:
    for file in files:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} has no {file}; {reason}")


def _read_folder(folder: Path) -> Parts:
    """Read what `save_model` wrote."""
    _require(folder, _FILES, f"a model's folder holds {', '.join(_FILES)}")
    config = _read_config(folder / _CONFIG)
    return config, _read_weights(folder / _WEIGHTS), BPETokenizer.load(folder)


def _read_run(runs: Sequence[Path]) -> Parts:
    """Read the checkpoint and the tokenizer of a runs folder."""
    words_of = {run: run.with_name(f"{run.stem}-tokenizer") for run in runs}
    whole = [run for run in runs if words_of[run].is_dir()]
    if len(whole) > 1:
        raise ValueError(
            f"{runs[0].parent} has {len(whole)} checkpoints ({', '.join(run.name for run in whole)}"
            "); move the one you mean, and its tokenizer, to a folder of their own"
        )
    run = whole[0] if whole else runs[0]
    words = words_of[run]
    _require(words, _FILES[:2], "save the run's tokenizer there, as chapter 5 does")
    checkpoint = load_checkpoint(run)
    config = _make_config(checkpoint["model_config"], run)
    return config, checkpoint["model"], BPETokenizer.load(words)


def _read_config(path: Path) -> GPTConfig:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy or save it again") from error
    return _make_config(content, path)


def _make_config(content: object, path: Path) -> GPTConfig:
    """Build a configuration from what a file holds, and name what is wrong with it."""
    names = {field.name for field in fields(GPTConfig)}
    if not isinstance(content, dict) or set(content) != names:
        given = set(content) if isinstance(content, dict) else set()
        odd = ", ".join(sorted(names ^ given))
        raise ValueError(
            f"{path} does not hold exactly the fields of GPTConfig: {odd} missing or unknown"
        )
    try:
        return GPTConfig(**content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file that can hold nothing but tensors, as float32."""
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged: its {path.stat().st_size} bytes are not a whole safetensors file "
            f"({error}); copy or save it again"
        ) from error


def _build(config: GPTConfig, tensors: dict[str, Tensor], folder: Path) -> GPT:
    """Put tensors into a model; the starting weights are never drawn."""
    with torch.device("meta"):
        model = GPT(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [
        f"{name} is {found.get(name, 'missing')}, not {expected.get(name, 'part of the model')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" * (len(wrong) > 5)
        raise ValueError(
            f"the weights in {folder} are not those of its configuration: "
            f"{'; '.join(wrong[:5])}{more}; copy or save all files of the model again"
        )
    model.load_state_dict(tensors, assign=True)
    return model.eval()
