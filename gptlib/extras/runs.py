"""The folder of a training run: what is in it, how it begins and how it goes on.

config.yaml     all that decides what the run learns
tokenizer/      GPT-2's two files, vocab.json and merges.txt
tokens.bin      the texts as tokens, with a description beside it (not of prepared texts)
checkpoint.pt   the run itself; under torchrun the folder checkpoints/
log.jsonl       a line of JSON for each report
model/          in the end, the model in GPT-2's layout
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlib.embeddings import check_stream, split_tokens
from gptlib.extras.commands.base import load_tokenizer, note
from gptlib.extras.commands.preparing import TOKENS_FILE, is_prepared, keep_tokenizer, prepare
from gptlib.extras.commands.tokenizing import say_empty, train_tokenizer
from gptlib.extras.run_config import START_STD, RunConfig, to_yaml
from gptlib.extras.texts import Text, find_text, find_texts
from gptlib.extras.tokens import open_tokens
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer, Tokenizer, end_of_text, whole_file
from gptlib.training import TrainingConfig

__all__ = [
    "CHECKPOINT",
    "CHECKPOINTS",
    "CONFIG",
    "LOG",
    "MODEL",
    "Run",
    "begin_run",
    "checkpoint_step",
    "open_run",
    "with_absolute_texts",
]

CONFIG, LOG, MODEL = "config.yaml", "log.jsonl", "model"
CHECKPOINT, CHECKPOINTS = "checkpoint.pt", "checkpoints"
_PARTS = (CONFIG, LOG, MODEL, CHECKPOINT, CHECKPOINTS, "tokenizer", "tensorboard", "wandb")
_FILES = (TOKENS_FILE, TOKENS_FILE + ".json", "wandb-id.txt")


@dataclass(frozen=True)
class Run:
    """A run that is ready to take steps."""

    folder: Path
    """Where everything is."""
    config: RunConfig
    """What it learns, with the vocabulary size of its tokenizer."""
    tokenizer: Tokenizer
    """Ours or tiktoken's."""
    train_tokens: Tensor
    """Shape (n,), mapped from a file."""
    validation_tokens: Tensor
    """Shape (m,), mapped from a file."""

    @property
    def plan(self) -> TrainingConfig:
        """The plan as chapter 5 takes it."""
        return TrainingConfig(**vars(self.config.training))

    def start_model(self) -> GPT:
        """Draw the starting weights, the same ones each time."""
        seed = self.plan.seed
        torch.manual_seed(seed)  # dropout draws from PyTorch's own generator
        sizes = GPTConfig(**vars(self.config.model))
        model = GPT(sizes, torch.Generator().manual_seed(seed))
        if self.config.start_std != START_STD:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 2 and parameter.requires_grad:
                        parameter.mul_(self.config.start_std / START_STD)
        return model

    def validation_bytes(self) -> int:
        """Count the bytes that the predicted tokens of the validation part stand for."""
        ends = end_of_text(self.tokenizer)
        tokens = [token for token in self.validation_tokens[1:].tolist() if token not in ends]
        return max(1, len(self.tokenizer.decode_bytes(tokens)))


def begin_run(folder: Path, config: RunConfig, overwrite: bool = False) -> Run:
    """Make the folder of a new run, with its tokenizer and tokens.

    Args:
        folder: Where; it may be there already if it is empty.
        config: What to learn.
        overwrite: Whether to delete the run that is there.

    Returns:
        The run.

    Raises:
        ValueError: If something is there already, or the texts can't be used.
    """
    texts = _find(config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite or not (folder / CONFIG).is_file():
            raise ValueError(_occupied(folder))
        _delete(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = with_absolute_texts(config)
    with whole_file(folder / CONFIG) as draft:
        draft.write_text(to_yaml(config), encoding="utf-8")
    try:
        return _load(folder, config, texts)
    except (ValueError, OSError):
        # nothing was learnt yet, so the corrected command finds the place free
        _delete(folder)
        with suppress(OSError):  # files that are somebody's own stay
            folder.rmdir()
        raise


def open_run(folder: Path, config: RunConfig) -> Run:
    """Open the folder of a run, and finish the preparation if it was broken off.

    Args:
        folder: The run's.
        config: What its config.yaml says.

    Returns:
        The run.

    Raises:
        ValueError: If its files don't belong together.
    """
    return _load(folder, config, [] if _is_complete(folder) else _find(config))


def _find(config: RunConfig) -> list[Text]:
    """Find the texts; none if they are prepared tokens."""
    names = config.data.texts
    if not names:
        raise ValueError(
            "there is no text to learn from; name files or folders: train my-book.txt ..."
        )
    if any(is_prepared(name) for name in names):
        if len(names) > 1:
            raise ValueError(
                f"{len(names)} texts are named, and one is a folder of prepared tokens; name that "
                "alone, or prepare all of them together"
            )
        return []
    texts = find_texts(names, config.data.pattern)
    say_empty(texts)
    return texts


def _load(folder: Path, config: RunConfig, texts: Sequence[Text]) -> Run:
    """Make or load the tokenizer and the tokens."""
    data, size = config.data, config.model.vocab_size
    own, source = data.tokenizer == "train", folder
    if len(data.texts) == 1 and is_prepared(data.texts[0]):
        source = Path(data.texts[0])
        tokenizer = keep_tokenizer(folder, str(source), lambda: load_tokenizer(str(source)))
    else:
        tokenizer = keep_tokenizer(
            folder,
            f"train {size}" if own else data.tokenizer,
            lambda: train_tokenizer(texts, size) if own else load_tokenizer(data.tokenizer),
        )
        if texts:
            prepare(texts, tokenizer, folder)
    tokens = open_tokens(source / TOKENS_FILE)
    n_tokens = tokenizer.vocab_size if isinstance(tokenizer, BPETokenizer) else tokenizer.n_vocab
    if n_tokens != size:
        note(f"model.vocab_size is {n_tokens}, as the tokenizer has, not {size}")
        config = replace(config, model=replace(config.model, vocab_size=n_tokens))
        with whole_file(folder / CONFIG) as draft:
            draft.write_text(to_yaml(config), encoding="utf-8")
    train_tokens, validation_tokens = split_tokens(tokens, data.validation_fraction)
    for part, name in ((train_tokens, "training"), (validation_tokens, "validation")):
        check_stream(part, config.model.context_length, f"the {name} split")
    return Run(folder, config, tokenizer, train_tokens, validation_tokens)


def _is_complete(folder: Path) -> bool:
    try:
        open_tokens(folder / TOKENS_FILE)
    except (ValueError, FileNotFoundError):
        return False
    return True


def with_absolute_texts(config: RunConfig) -> RunConfig:
    """Name the texts so that they are found from any folder."""
    absolute = tuple(_absolute(name) for name in config.data.texts)
    return replace(config, data=replace(config.data, texts=absolute))


def _absolute(name: str) -> str:
    """Make a name good from any folder; the name of a course's text stays."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    files = find_text(name).files
    return str(files[0].resolve()) if files else name


def _occupied(folder: Path) -> str:
    if not (folder / CONFIG).is_file():
        return f"{folder} holds something that is no run; name another folder with --folder"
    return (
        f"{folder} holds a run already; go on with --resume, name another folder with --folder, or "
        "replace it with --overwrite"
    )


def _delete(folder: Path) -> None:
    """Delete a run, and nothing else that somebody may have put there."""
    for name in (*_PARTS, *_FILES):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def checkpoint_step(folder: Path) -> int | None:
    """Say how far a run's checkpoint is, None without one."""
    from gptlib.scaling import checkpoints_in, newest_checkpoint
    from gptlib.training import load_checkpoint

    if (folder / CHECKPOINT).is_file():
        step: Any = load_checkpoint(folder / CHECKPOINT)["step"]
        return int(step)
    if (folder / CHECKPOINTS).is_dir() and checkpoints_in(folder / CHECKPOINTS):
        return int(newest_checkpoint(folder / CHECKPOINTS)[0].name.rpartition("-")[2])
    return None
