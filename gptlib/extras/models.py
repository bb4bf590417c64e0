"""The one door to trained models: the course's own, GPT-2, your runs, other people's files."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from gptlib.extras.formats.folders import load_folder, read_any_tokenizer
from gptlib.extras.formats.hub import RELEASES, find_release
from gptlib.generation import check_vocabulary
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.instructions import LoRAConfig, add_lora, lora_layers, merge_lora
from gptlib.tokenizer import BPETokenizer, Tokenizer, find_data, gpt2_encoding
from gptlib.training import load_checkpoint

__all__ = [
    "MADE_BY",
    "SHIPPED",
    "default_model",
    "find_shipped",
    "load_model",
    "load_run_tokenizer",
]

SHIPPED = "novels"
"""Name of the model that travels with the course, in data/models."""

MADE_BY = "made-by.txt"
"""In a run's tokenizer folder: what it was asked for as; GPT-2's own tokenizer is not copied."""


def load_model(
    model: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> tuple[GPT, Tokenizer]:
    """Load a trained model and its tokenizer.

    Args:
        model: "novels", which travels with the course; "gpt2" (124M), "gpt2-medium" (355M),
            "gpt2-large" (774M) or "gpt2-xl" (1558M), which are fetched once; or a folder: of
            `save_gpt2`, of transformers (also cut into shards), of OpenAI's release (which
            `gptlib.extras.formats.openai_release` fetches), chapter 5's runs folder (`NAME.pt`
            beside `NAME-tokenizer`), or of a run of `python -m gptlib train`, complete or stopped.
            "./gpt2" is a folder. None loads `default_model()`.
        dtype: What the weights become, however they are stored.

    Returns:
        The model, on the CPU and in evaluation mode, and the tokenizer: GPT-2's own as tiktoken's
        `Encoding`, any other as a `BPETokenizer`.

    Raises:
        ConnectionError: If GPT-2 is not on this machine and can't be fetched.
        FileNotFoundError: If the folder or one of its files is not there.
        ValueError: If a file is damaged, could run code, or does not fit the others.

    Example:
        >>> load_model("my-model")
        Traceback (most recent call last):
        FileNotFoundError: there is no folder 'my-model'; pass one, or one of novels, gpt2,
        gpt2-medium, gpt2-large, gpt2-xl
    """
    wanted = default_model() if model is None else model
    if wanted == SHIPPED:
        return load_folder(find_shipped(), dtype)
    if isinstance(wanted, str) and wanted in RELEASES:
        return load_folder(find_release(wanted), dtype)
    folder = Path(wanted).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(wanted)!r}; pass one, or one of "
            + ", ".join([SHIPPED, *RELEASES])
        )
    if (folder / "config.json").exists():
        return load_folder(folder, dtype)
    if (folder / "config.yaml").is_file():
        return _load_trained(folder, dtype)
    runs = sorted(folder.glob("*.pt"))
    return _load_run(runs, dtype) if runs else load_folder(folder, dtype)


def default_model() -> str:
    """Name the model that is used when none is named.

    Returns:
        What the environment variable `GPTLIB_MODEL` names: a folder, or a size of GPT-2 such as
        "gpt2"; else the folder of the model that travels with the course.

    Raises:
        FileNotFoundError: If the shipped model is not there.
    """
    chosen = os.environ.get("GPTLIB_MODEL", "").strip()
    return chosen or str(find_shipped())


def find_shipped() -> Path:
    """Find the folder of the model that travels with the course, in a clone or a wheel."""
    return find_data(f"models/{SHIPPED}/model.safetensors").parent


def _load_run(runs: Sequence[Path], dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    """Load the checkpoint and the tokenizer of a runs folder."""
    words_of = {run: run.with_name(f"{run.stem}-tokenizer") for run in runs}
    whole = [run for run in runs if words_of[run].is_dir()]
    if len(whole) > 1:
        raise ValueError(
            f"{runs[0].parent} has {len(whole)} checkpoints ({', '.join(run.name for run in whole)}"
            "); move the one you mean, and its tokenizer, to a folder of their own"
        )
    run = whole[0] if whole else runs[0]
    for file in ("vocab.json", "merges.txt"):
        if not (words_of[run] / file).is_file():
            raise FileNotFoundError(
                f"{words_of[run]} has no {file}; save the run's tokenizer there, as chapter 5 does"
            )
    return _load_checkpoint(run, BPETokenizer.load(words_of[run]), dtype)


def load_run_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer from the folder `tokenizer` of a run, or from a model's folder.

    Returns:
        GPT-2's own as tiktoken's, any other as ours.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If its files are damaged.
    """
    is_gpt2 = (folder / MADE_BY).is_file() and not (folder / "vocab.json").is_file()
    return gpt2_encoding() if is_gpt2 else read_any_tokenizer(folder)


def _load_trained(folder: Path, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    """Load from a run of `train`: the model if it is complete, else the last checkpoint."""
    if (folder / "model" / "config.json").is_file():
        return load_folder(folder / "model", dtype)
    if (folder / "checkpoint.pt").is_file():
        tokenizer = load_run_tokenizer(folder / "tokenizer")
        return _load_checkpoint(folder / "checkpoint.pt", tokenizer, dtype)
    raise FileNotFoundError(
        f"{folder} is a run that has no checkpoint yet; go on with "
        f"python -m gptlib train --resume --folder {folder}"
    )


def _load_checkpoint(run: Path, tokenizer: Tokenizer, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    """Build the model that a checkpoint holds."""
    checkpoint = load_checkpoint(run)
    try:
        with torch.device("meta"):  # the starting weights are never drawn
            model = _with_lora(GPT(GPTConfig(**checkpoint["model_config"])), run.parent)
        model.load_state_dict(checkpoint["model"], assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{run}: the weights are not those of its configuration ({error}); train anew"
        ) from error
    check_vocabulary(tokenizer, model)
    if lora_layers(model):
        merge_lora(model)
    return model.to(dtype).eval(), tokenizer


def _with_lora(model: GPT, folder: Path) -> GPT:
    """Give a model the low-rank additions that its run's configuration asks for, if any."""
    config = folder / "config.yaml"
    values = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if not (lora := values.get("lora")):
        return model
    return add_lora(model, LoRAConfig(**lora | {"projections": tuple(lora["projections"])}))
