"""Find a trained model: the one that travels with the course, GPT-2, or your own.

A model's folder has the layout that `gptlib.weights` reads and writes. The folder that chapter 5
trains into is understood too: `NAME.pt` beside `NAME-tokenizer`; and so is the folder of a run of
`python -m gptlib train`, complete or stopped.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer, Tokenizer, find_data, gpt2_encoding
from gptlib.training import load_checkpoint
from gptlib.weights import RELEASES, check_vocabulary, load_gpt2, read_tokenizer

__all__ = ["MADE_BY", "SHIPPED", "default_model", "kept_tokenizer", "load_model"]

SHIPPED = "war-and-peace"
"""Name of the model that travels with the course, in data/models."""

MADE_BY = "made-by.txt"
"""In a run's tokenizer folder: what it was asked for as; GPT-2's own tokenizer is not copied."""


def load_model(model: str | Path | None = None) -> tuple[GPT, Tokenizer]:
    """Load a trained model and its tokenizer.

    Args:
        model: A size of GPT-2 as `load_gpt2` knows it, a model's folder, chapter 5's runs
            folder, or the folder of a run of `train`; None loads the one that `default_model`
            names.

    Returns:
        The model on the CPU, in float32 and in evaluation mode, and its tokenizer.

    Raises:
        ConnectionError: If GPT-2 is not on this machine and can't be fetched.
        FileNotFoundError: If the folder or one of its files is not there.
        ValueError: If a file is damaged, could run code, or does not fit the others.
    """
    wanted = default_model() if model is None else model
    if str(wanted) in RELEASES:
        return load_gpt2(wanted)
    folder = Path(wanted).expanduser()
    if (folder / "config.yaml").is_file() and not (folder / "config.json").exists():
        return _load_trained(folder)
    runs = sorted(folder.glob("*.pt"))
    trained_here = runs and not (folder / "config.json").exists()
    return _load_run(runs) if trained_here else load_gpt2(folder)


def default_model() -> str:
    """Name the model that is used when none is named.

    Returns:
        What the environment variable `GPTLIB_MODEL` names: a folder, or a size of GPT-2 such as
        "gpt2"; else the folder of the model that travels with the course:
        `data/models/war-and-peace` in a clone or in the installed package.

    Raises:
        FileNotFoundError: If the shipped model is not there.
    """
    chosen = os.environ.get("GPTLIB_MODEL", "").strip()
    return chosen or str(find_data(f"models/{SHIPPED}/model.safetensors").parent)


def _load_run(runs: Sequence[Path]) -> tuple[GPT, Tokenizer]:
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
    return _load_checkpoint(run, BPETokenizer.load(words_of[run]))


def kept_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a model's folder, or of the folder `tokenizer` of a run.

    Args:
        folder: The folder.

    Returns:
        GPT-2's own as tiktoken's, any other as ours.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If its files are damaged.
    """
    is_gpt2 = (folder / MADE_BY).is_file() and not (folder / "vocab.json").is_file()
    return gpt2_encoding() if is_gpt2 else read_tokenizer(folder)


def _load_trained(folder: Path) -> tuple[GPT, Tokenizer]:
    """Load from a run of `train`: the model if it is complete, else the last checkpoint."""
    if (folder / "model" / "config.json").is_file():
        return load_gpt2(folder / "model")
    if (folder / "checkpoint.pt").is_file():
        return _load_checkpoint(folder / "checkpoint.pt", kept_tokenizer(folder / "tokenizer"))
    if (folder / "checkpoints").is_dir():
        from gptlib.scaling import load_together as load_parts

        return load_parts(folder / "checkpoints"), kept_tokenizer(folder / "tokenizer")
    raise FileNotFoundError(
        f"{folder} is a run that has no checkpoint yet; go on with "
        f"python -m gptlib train --resume --folder {folder}"
    )


def _load_checkpoint(run: Path, tokenizer: Tokenizer) -> tuple[GPT, Tokenizer]:
    """Build the model that a checkpoint holds."""
    checkpoint = load_checkpoint(run)
    try:
        with torch.device("meta"):  # the starting weights are never drawn
            model = GPT(GPTConfig(**checkpoint["model_config"]))
        model.load_state_dict(checkpoint["model"], assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{run}: the weights are not those of its configuration ({error}); train anew"
        ) from error
    check_vocabulary(tokenizer, model.config)
    return model.eval(), tokenizer
