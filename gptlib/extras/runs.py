"""A training run: all that decides what it learns, and its folder.

config.yaml     all that decides what the run learns
tokenizer/      GPT-2's two files, vocab.json and merges.txt
tokens.bin      the texts as tokens, with a description beside it (not of prepared texts)
checkpoint.pt   the run itself
log.jsonl       a line of JSON for each report
model/          in the end, the model in GPT-2's layout
"""

import json
import math
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gptlib.embeddings import check_stream, split_tokens
from gptlib.extras.options import suggestion
from gptlib.extras.terminal import note
from gptlib.extras.texts import TOKENS_FILE, Text, find_texts, is_prepared, prepare
from gptlib.extras.tokens import open_tokens
from gptlib.gpt2 import GPT, GPTConfig, check_fields
from gptlib.tokenizer import Tokenizer, end_of_text, vocabulary_size, whole_file
from gptlib.training import TrainingConfig, load_checkpoint

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "DEFAULT_CONFIG",
    "LOG",
    "MODEL",
    "READY_CONFIGS",
    "SECTIONS",
    "START_STD",
    "DataConfig",
    "JsonLines",
    "Run",
    "RunConfig",
    "begin_run",
    "checkpoint_step",
    "find_run_texts",
    "open_run",
    "read_config",
    "to_yaml",
]

DEFAULT_CONFIG = "war-and-peace-cpu"
"""The ready configuration that is used when none is named."""

_CONFIGS = Path(str(files("gptlib.extras") / "configs"))
READY_CONFIGS = {file.stem: file for file in sorted(_CONFIGS.glob("*.yaml"))}
"""The configurations that come with the package, by name."""

START_STD = 0.02
"""What `gptlib.gpt2` draws weights with, after GPT-2."""

CONFIG, CHECKPOINT, LOG, MODEL = "config.yaml", "checkpoint.pt", "log.jsonl", "model"
_FILES = (CONFIG, CHECKPOINT, LOG, TOKENS_FILE, TOKENS_FILE + ".json", "wandb-id.txt")
_FOLDERS = (MODEL, "tokenizer", "tensorboard", "wandb", "checkpoints")  # the last: of older runs


# What a run learns


@dataclass(frozen=True)
class DataConfig:
    """Say what to learn from."""

    texts: tuple[str, ...] = ()
    """Text files, folders of them, one folder of prepared tokens, or a text of the course."""
    pattern: str = "*.txt"
    """Which files of a folder, and of the folders in it, are texts."""
    tokenizer: str = "train"
    """Train, to train one of model.vocab_size tokens on the texts; gpt2 for GPT-2's own, novels
    for the shipped model's; or a folder with vocab.json and merges.txt. Prepared tokens have
    theirs."""
    validation_fraction: float = 0.1
    """Share of the tokens, at the end, that is kept to judge by."""


@dataclass(frozen=True)
class RunConfig:
    """All that decides what a run learns."""

    data: DataConfig
    """What to learn from."""
    model: GPTConfig
    """The sizes."""
    training: TrainingConfig
    """The plan."""
    start_std: float = START_STD
    """Standard deviation of the starting weights; narrow models want more than GPT-2's."""

    def __post_init__(self) -> None:
        is_share = 0 < self.data.validation_fraction < 1
        check_fields(self.data, {"validation_fraction": ("between 0 and 1", is_share)})
        check_fields(self, {"start_std": ("above 0", 0 < self.start_std < math.inf)})


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "model": GPTConfig,
    "training": TrainingConfig,
}
"""The parts of a configuration, by their names in YAML."""


def to_yaml(config: RunConfig) -> str:
    """Write a configuration as YAML that `--config` reads."""
    values = json.loads(json.dumps(asdict(config)))  # makes lists of tuples
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def read_config(name: str) -> list[str]:
    """Read a configuration as the options that it stands for.

    Args:
        name: A YAML file, or one of `READY_CONFIGS`.

    Returns:
        Words of a command, such as "--training.n_steps=500".

    Raises:
        ValueError: If there is none, or it is none.
    """
    file = Path(name).expanduser()
    if not file.is_file():
        if name not in READY_CONFIGS:
            raise ValueError(
                f"--config is {name!r}; name a YAML file, or one of {', '.join(READY_CONFIGS)}"
                + suggestion(name, READY_CONFIGS)
            )
        file = READY_CONFIGS[name]
    way_out = "print one that works with --print-config"
    try:
        parts = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = re.sub(r' *in "<.*?>",', " at", str(error))
        raise ValueError(f"{file} is no YAML ({reason}); fix it, or {way_out}") from None
    if not isinstance(parts, dict) or not all(isinstance(parts.get(s, {}), dict) for s in SECTIONS):
        raise ValueError(
            f"{file} is no configuration: data, model and training have fields below them; "
            f"{way_out}"
        )
    known = [f"{part}.{field.name}" for part, kind in SECTIONS.items() for field in fields(kind)]
    words = []
    for part, values in parts.items():
        for field, value in (values if isinstance(values, dict) else {"": values}).items():
            key = f"{part}.{field}".rstrip(".")
            if key not in (*known, "start_std"):
                close = suggestion(key, known)
                raise ValueError(f"{file} has {key!r}, which is none of its fields{close}")
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            words.append(f"--{key.replace('_', '-')}={text}")
    return words


# Its folder


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
    step: int = 0
    """Steps that are done."""

    def start_model(self) -> GPT:
        """Draw the starting weights, the same ones each time."""
        seed = self.config.training.seed
        torch.manual_seed(seed)  # dropout draws from PyTorch's own generator
        model = GPT(self.config.model, torch.Generator().manual_seed(seed))
        if self.config.start_std != START_STD:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 2:
                        parameter.mul_(self.config.start_std / START_STD)
        return model

    @cached_property
    def validation_bytes(self) -> int:
        """Bytes that the predicted tokens of the validation part stand for."""
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
    config, texts = find_run_texts(config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / CONFIG).is_file():
            raise ValueError(
                f"{folder} holds something that is no run; name another folder with --folder"
            )
        if not overwrite:
            raise ValueError(
                f"{folder} holds a run already; go on with --resume, name another folder with "
                "--folder, or replace it with --overwrite"
            )
        _delete(folder)
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
    texts: list[Text] = []
    try:
        open_tokens(folder / TOKENS_FILE)
    except (ValueError, FileNotFoundError):
        _, texts = find_run_texts(config)
    return _load(folder, config, texts, checkpoint_step(folder) or 0)


def find_run_texts(config: RunConfig) -> tuple[RunConfig, list[Text]]:
    """Find a run's texts.

    Args:
        config: Names them.

    Returns:
        The configuration, whose texts are now found from any folder, and the texts; none if they
        are prepared tokens.

    Raises:
        ValueError: If there is none, or prepared tokens are not alone.
    """
    names = config.data.texts
    texts: list[Text] = []
    if not names:
        raise ValueError(
            "there is no text to learn from; name files or folders: train my-book.txt ..."
        )
    if not any(map(is_prepared, names)):
        texts = find_texts(names, config.data.pattern)
        places = [text.place for text in texts]
    elif len(names) == 1:
        places = [Path(names[0]).expanduser()]
    else:
        raise ValueError(
            f"{len(names)} texts are named, and one is a folder of prepared tokens; name that "
            "alone, or prepare all of them together"
        )
    pairs = zip(names, places, strict=True)
    absolute = tuple(str(place.resolve()) if place else name for name, place in pairs)
    return replace(config, data=replace(config.data, texts=absolute)), texts


def _load(folder: Path, config: RunConfig, texts: list[Text], step: int = 0) -> Run:
    """Make or load the tokenizer and the tokens."""
    data, size, source = config.data, config.model.vocab_size, folder
    if is_prepared(data.texts[0]):
        source = Path(data.texts[0])
        tokenizer = prepare(folder, str(source))
    else:
        tokenizer = prepare(folder, data.tokenizer, texts, size)
    tokens = open_tokens(source / TOKENS_FILE)
    n_tokens = vocabulary_size(tokenizer)
    if n_tokens != size:
        note(f"model.vocab_size is {n_tokens}, as the tokenizer has, not {size}")
        config = replace(config, model=replace(config.model, vocab_size=n_tokens))
        with whole_file(folder / CONFIG) as draft:
            draft.write_text(to_yaml(config), encoding="utf-8")
    train_tokens, validation_tokens = split_tokens(tokens, data.validation_fraction)
    for part, name in ((train_tokens, "training"), (validation_tokens, "validation")):
        check_stream(part, config.model.context_length, f"the {name} split")
    return Run(folder, config, tokenizer, train_tokens, validation_tokens, step)


def _delete(folder: Path) -> None:
    """Delete a run, and nothing else that somebody may have put there."""
    for name in (*_FILES, *_FOLDERS):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def checkpoint_step(folder: Path) -> int | None:
    """Say how far a run's checkpoint is, None without one."""
    file = folder / CHECKPOINT
    return int(load_checkpoint(file)["step"]) if file.is_file() else None


class JsonLines:
    """Write each record as a line of JSON, at once.

    Args:
        path: The file; lines are added to it.
        step: The step that the run goes on from: lines of later steps, and a line that a kill cut
            off, are taken out, because those steps are done again.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        before = self.read(path) if path.exists() else []
        kept = [line for line in before if line["step"] <= step]
        self.seconds = float(kept[-1]["seconds"]) if kept else 0.0
        with whole_file(path) as draft:
            draft.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed in close)

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Read the lines that are whole."""
        lines: list[dict[str, Any]] = []
        with suppress(ValueError):  # cut off by a kill: nothing can follow
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                lines.append(json.loads(line))
        return lines

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line; "seconds" goes on from the lines before."""
        whole = {**record, "seconds": round(self.seconds + record["seconds"], 3)}
        self._file.write(json.dumps({**whole, "time": round(time.time(), 3)}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
