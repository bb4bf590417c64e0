"""A training run: all that decides what it learns, and its folder.

config.yaml     all that decides what the run learns
tokenizer/      GPT-2's two files, vocab.json and merges.txt
tokens.bin      the texts as tokens, with a description beside it (not of prepared texts)
checkpoint.pt   the run itself
log.jsonl       a line of JSON for each report, and for each change of the plan
records.jsonl   of a run that learns answers, its records
loss.svg        in the end, a picture of the losses
model/          in the end, the model in GPT-2's layout (a variant is in checkpoint.pt alone)
"""

import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml

from gptlib.embeddings import check_stream, split_tokens
from gptlib.extras.fast.onednn import onednn_pays
from gptlib.extras.formats.hub import RELEASES
from gptlib.extras.formats.records import read_questions
from gptlib.extras.formats.tokenizer_files import fit_tokenizer
from gptlib.extras.models import load_model
from gptlib.extras.optimizers import OPTIMIZERS
from gptlib.extras.options import suggestion
from gptlib.extras.terminal import note, read_text
from gptlib.extras.texts import TOKENS_FILE, Text, find_texts, is_prepared, prepare
from gptlib.extras.tokens import open_tokens
from gptlib.extras.variants import DEFAULTS, VariantConfig, build
from gptlib.gpt2 import GPT, GPTConfig, check_fields
from gptlib.instructions import (
    ALPACA,
    CHAT,
    Example,
    LoRAConfig,
    add_lora,
    encode_records,
)
from gptlib.tokenizer import Tokenizer, end_of_text, vocabulary_size, whole_file
from gptlib.training import TrainingConfig, load_checkpoint

DEFAULT_CONFIG = "war-and-peace-cpu"
"""The ready configuration that is used when none is named."""

_CONFIGS = Path(str(files("gptlib.extras") / "configs"))
READY_CONFIGS = {file.stem: file for file in sorted(_CONFIGS.glob("*.yaml"))}
"""The configurations that come with the package, by name."""

FINE_TUNE = "fine-tune"
"""The one that is used instead where a run begins with a model."""

START_STD = 0.02
"""What `gptlib.gpt2` draws weights with, after GPT-2."""

ADAMW = "adamw"
"""The optimizer of runs that name none."""

CONFIG, CHECKPOINT, LOG, MODEL = "config.yaml", "checkpoint.pt", "log.jsonl", "model"
RECORDS, PICTURE = "records.jsonl", "loss.svg"
_FILES = (
    *(CHECKPOINT, LOG, RECORDS, PICTURE),
    *(TOKENS_FILE, TOKENS_FILE + ".json", "wandb-id.txt"),
)
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
    """Train, to train one of model.vocab_size tokens on the texts, or wordpiece, unigram, word or
    char for one of another kind; gpt2 for GPT-2's own, novels for the shipped model's; or a
    tokenizer's folder. Prepared tokens have theirs."""
    validation_fraction: float = 0.1
    """Share of the tokens, at the end, that is kept to judge by."""
    encoding: str = ""
    """What the texts were written in, such as latin-1, cp1252 or utf-16; UTF-8 if empty."""
    read_special: bool = False
    """Read <|endoftext|> and <|startoftext|> inside of lines as borders of documents."""
    fields: tuple[str, ...] = ()
    """Names of the parts of records, such as [instruction=KEY, input=KEY, output=KEY]."""


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
    init: str = ""
    """The model that it begins with, which brings its sizes and its tokenizer: a folder, or gpt2
    and its larger sizes."""
    lora: LoRAConfig | None = None
    """Train a low-rank addition to the matrices, and nothing else."""
    form: str = ""
    """The form of the prompts if the texts are records of questions and answers."""
    optimizer: str = ADAMW
    """What takes the steps, a name in `OPTIMIZERS`."""
    onednn: bool | None = None
    """Multiply in oneDNN, on a CPU in float32; None leaves it to a measurement when it begins."""

    def __post_init__(self) -> None:
        plan, is_share = self.training, 0 < self.data.validation_fraction < 1
        check_fields(self.data, {"validation_fraction": ("between 0 and 1", is_share)})
        check_fields(self, {"start_std": ("above 0 and at most 100", 0 < self.start_std <= 100)})
        sizes = {"n_layer": 10_000, "n_embd": 1_000_000, "d_ff": 10_000_000}
        for name, most in sizes.items():  # above, it takes hours to say that memory is too small
            fits = (getattr(self.model, name) or 0) <= most
            check_fields(self.model, {name: (f"at most {most}", fits)})
        named = ("one of " + ", ".join(OPTIMIZERS), self.optimizer in OPTIMIZERS)
        check_fields(self, {"optimizer": named})
        rules = {
            "weight_decay": ("from 0 to 100", 0 <= plan.weight_decay <= 100),
            "betas": ("two numbers from 0 to below 1", all(0 <= beta < 1 for beta in plan.betas)),
            "seed": ("from 0 to 9223372036854775807", 0 <= plan.seed < 2**63),
        }
        check_fields(plan, rules)


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "model": VariantConfig,
    "training": TrainingConfig,
    "lora": LoRAConfig,
}
"""The parts of a configuration, by their names in YAML."""


def to_yaml(config: RunConfig) -> str:
    """Write a configuration as YAML that `--config` reads."""
    values = json.loads(json.dumps(asdict(config)))  # makes lists of tuples
    silent = (None, "", START_STD, ADAMW)
    values = {name: value for name, value in values.items() if value not in silent}
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
            if key not in (*known, "start_std", "init", "form", "optimizer", "onednn"):
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
    train_part: Any
    """What it learns: tokens of shape (n,), mapped from a file, or examples."""
    validation_part: Any
    """What it is judged by, of the same kind."""
    step: int = 0
    """Steps that are done."""

    def start_model(self) -> GPT:
        """Draw or load the starting weights, the same ones each time."""
        config, seed = self.config, self.config.training.seed
        torch.manual_seed(seed)  # dropout draws from PyTorch's own generator
        generator = torch.Generator().manual_seed(seed)
        model = build(config.model, generator)
        if config.init and not self.step:  # later, the checkpoint holds all of it
            begun, weights = load_model(config.init)[0].state_dict(), model.state_dict()
            # where the context is shorter than the model's, only the first positions are needed
            model.load_state_dict({name: begun[name][: len(w)] for name, w in weights.items()})
        elif config.start_std != START_STD:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 2:
                        parameter.mul_(config.start_std / START_STD)
        return add_lora(model, config.lora, generator) if config.lora else model

    @cached_property
    def validation_size(self) -> tuple[int, int]:
        """Tokens of the validation part that are predicted, and the bytes they stand for."""
        if self.config.form:
            tokens = [token for example in self.validation_part for token in example.response]
        else:
            tokens = self.validation_part[1:].tolist()
        ends = end_of_text(self.tokenizer)
        text = self.tokenizer.decode_bytes([token for token in tokens if token not in ends])
        return len(tokens), max(1, len(text))


def want_run(
    folder: Path, config: RunConfig, device: torch.device, goes_on: bool, overwrite: bool
) -> tuple[Run, dict[str, Any]]:
    """Begin a run, or open the one that goes on.

    Args:
        folder: The run's.
        config: What is wanted.
        device: Where it will learn.
        goes_on: Whether a run that is there goes on; a part of its plan may be another from now.
        overwrite: Whether a run that is there is replaced.

    Returns:
        The run, and what changes in its plan: by the field's name, what it was and what it is.

    Raises:
        ValueError: If the folder, the texts or the configuration don't allow it.
    """
    is_there, is_learnt = (folder / CONFIG).is_file(), (folder / CHECKPOINT).exists()
    if any(folder.glob("checkpoints/step-*")) and not is_learnt and not overwrite:
        raise ValueError(
            f"{folder} is a run that an older gptlib began; finish it there, or add --overwrite"
        )
    if goes_on and not is_there:
        raise ValueError(
            f"{folder} holds no run, so there is nothing to resume; leave --resume out, "
            "or name the run's folder with --folder"
        )
    for draft in folder.glob(".*.part"):  # a kill left it behind
        draft.unlink()
    if not (goes_on and is_learnt):
        return _begin_run(folder, config, device, overwrite), {}
    step, changes = checkpoint_step(folder) or 0, _changes(folder, config)
    if config.training.n_steps < step:
        raise ValueError(
            f"{folder} has done {step} steps, and n_steps is {config.training.n_steps}; ask for "
            "more, or leave it out"
        )
    if changes and step < config.training.n_steps:  # else no step is taken by the new plan
        with whole_file(folder / CONFIG) as draft:
            draft.write_text(to_yaml(config), encoding="utf-8")
    return open_run(folder, config), changes


def differences(folder: Path, config: str) -> dict[str, Any]:
    """Compare a run's configuration with another one in YAML, field by field.

    Returns:
        By names such as "training.seed", the values of the two where they differ; None where one
        has none.
    """
    texts = (read_text(str(folder / CONFIG)), config)
    silent = {"optimizer": ADAMW, "onednn": False} | {
        f"model.{name}": value for name, value in DEFAULTS.items()
    }
    saved, other = (silent | _flat(text) for text in texts)
    sections = {name.partition(".")[0] for name in saved}
    pairs = {name: [saved.get(name), other.get(name)] for name in saved | other}
    return {
        name: pair
        for name, pair in pairs.items()
        # a field that is younger than the run had its default then
        if pair[0] != pair[1] and (name in saved or name.partition(".")[0] not in sections)
    }


def _flat(config: str) -> dict[str, Any]:
    """Read a configuration with one name for each value."""
    values = {}
    for part, value in yaml.safe_load(config).items():
        for field, single in (value if isinstance(value, dict) else {"": value}).items():
            values[f"{part}.{field}".rstrip(".")] = single
    return values


MAY_CHANGE = {"onednn", *(f"training.{field.name}" for field in fields(TrainingConfig))} - {
    *("training.weight_decay", "training.betas", "training.seed")
}
"""What a run may be told anew when it goes on."""


def _changes(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Find out what a run is told anew, and refuse what it can't be told."""
    found = differences(folder, to_yaml(config))
    if "data.texts" in found:
        config, _ = find_run_texts(config)
        found = differences(folder, to_yaml(config))
    if config.data.tokenizer != "train" or is_prepared(config.data.texts[0]):
        found.pop("model.vocab_size", None)  # it is the tokenizer's, and that was made elsewhere
    for name, (saved, wanted) in found.items():
        if name not in MAY_CHANGE:
            option = "--" + name.replace("_", "-")
            raise ValueError(
                f"{folder} was begun with {name} {saved!r}, not {wanted!r}; leave {option} out to "
                "go on, or begin another run with another --folder"
            )
    return {name.removeprefix("training."): pair for name, pair in found.items()}


def with_start(config: RunConfig) -> RunConfig:
    """Take over the sizes and the tokenizer of the model that a run begins with."""
    theirs = load_model(config.init)[0].config
    length = min(theirs.context_length, config.model.context_length)
    sizes = replace(theirs, context_length=length, dropout=config.model.dropout)
    if config.form and isinstance(sizes, VariantConfig):
        raise ValueError(
            f"{config.init} is a variant of GPT-2, which chat can't open; take another"
        )
    is_release = config.init in RELEASES
    init = config.init if is_release else str(Path(config.init).expanduser().resolve())
    data = replace(config.data, tokenizer="gpt2" if is_release else init)
    return replace(config, init=init, model=sizes, data=data)


def _begin_run(folder: Path, config: RunConfig, device: torch.device, overwrite: bool) -> Run:
    """Make the folder of a new run, with its tokenizer and tokens."""
    config, texts = find_run_texts(with_start(config) if config.init else config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / CONFIG).is_file():
            raise ValueError(
                f"{folder} holds something that is no run; name another folder with --folder"
            )
        if (folder / CHECKPOINT).exists() and not overwrite:
            raise ValueError(
                f"{folder} holds a run already; go on with --resume, name another folder with "
                "--folder, or replace it with --overwrite"
            )
        changed = differences(folder, to_yaml(config))
        if overwrite or any(n.startswith("data") or n == "model.vocab_size" for n in changed):
            _delete(folder)  # else what was prepared is used
    with whole_file(folder / CONFIG) as draft:
        draft.write_text(to_yaml(config), encoding="utf-8")
    try:
        run = _load(folder, config, texts)
    except (ValueError, OSError):
        # nothing was learnt yet, so the corrected command finds the place free
        _delete(folder)
        (folder / CONFIG).unlink()
        with suppress(OSError):  # files that are somebody's own stay
            folder.rmdir()
        raise
    if run.config.onednn is None:  # now that the tokenizer has said how large the vocabulary is
        could = device.type == "cpu" and config.training.precision == "float32"
        run = replace(
            run, config=replace(run.config, onednn=could and onednn_pays(run.config.model))
        )
        with whole_file(folder / CONFIG) as draft:
            draft.write_text(to_yaml(run.config), encoding="utf-8")
    return run


def open_run(folder: Path, config: RunConfig) -> Run:
    """Open the folder of a run, and finish the preparation if it was broken off."""
    texts: list[Text] = []
    try:
        if not config.form:
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
    places: list[Path | None]
    if not names:
        raise ValueError(
            "there is no text to learn from; name files or folders: train my-book.txt ..."
        )
    if config.form:
        places = [Path(names[0]).expanduser()]
    elif not any(map(is_prepared, names)):
        data = config.data
        texts = find_texts(names, data.pattern, data.encoding or None, data.read_special)
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
    if config.form:
        tokenizer = fit_tokenizer(prepare(folder, data.tokenizer), size)
        return Run(folder, config, tokenizer, *_read_examples(folder, config, tokenizer), step)
    if is_prepared(data.texts[0]):
        source = Path(data.texts[0])
        tokenizer = prepare(folder, str(source))
    else:
        tokenizer = prepare(folder, data.tokenizer, texts, size)
    tokens = open_tokens(source / TOKENS_FILE)
    if config.init:  # a model may have more rows than its tokenizer has tokens
        tokenizer = fit_tokenizer(tokenizer, size)
    n_tokens = vocabulary_size(tokenizer)
    if n_tokens != size and config.init:
        raise ValueError(
            f"{source} has {n_tokens} tokens, and the model that the run begins with {size}; "
            "prepare the texts with that model's tokenizer"
        )
    if n_tokens != size:
        note(f"model.vocab_size is {n_tokens}, as the tokenizer has, not {size}")
        config = replace(config, model=replace(config.model, vocab_size=n_tokens))
        with whole_file(folder / CONFIG) as draft:
            draft.write_text(to_yaml(config), encoding="utf-8")
    train_tokens, validation_tokens = split_tokens(tokens, data.validation_fraction)
    for part, name in ((train_tokens, "training"), (validation_tokens, "validation")):
        check_stream(part, config.model.context_length, f"the {name} split")
    return Run(folder, config, tokenizer, train_tokens, validation_tokens, step)


FORMS = {form.name: form for form in (CHAT, ALPACA)}
"""Forms of prompts, by name."""


def _read_examples(
    folder: Path, config: RunConfig, tokenizer: Tokenizer
) -> tuple[list[Example], list[Example]]:
    """Read the records into the run's folder, encode them, and keep a share to judge by."""
    copy, examples, broken = folder / RECORDS, list[Example](), list[str]()
    if not copy.exists():
        data = config.data
        fields = dict(name.partition("=")[::2] for name in data.fields)
        questions = read_questions(data.texts[0], data.encoding or None, fields, True)
        records = questions.records
        for what, said in questions.understood:
            note(f"{what}: {said}")
        with whole_file(copy) as draft:
            draft.write_text("".join(map(_json_line, records)), encoding="utf-8")
    for number, line in enumerate(read_text(str(copy)).splitlines(), start=1):
        try:
            form, length = FORMS[config.form], config.model.context_length
            examples += encode_records([json.loads(line)], tokenizer, form, length)
        except ValueError as error:
            broken.append(f"{error}".replace("record 0", f"record {number}"))
    if broken:
        note(f"{len(broken)} records are left out; {broken[0]}")
    if n_cut := sum(example.n_cut > 0 for example in examples):
        note(f"{n_cut} answers are longer than the context and lose their ends")
    generator = torch.Generator().manual_seed(config.training.seed)
    order = torch.randperm(len(examples), generator=generator).tolist()
    n_judged = max(1, round(len(order) * config.data.validation_fraction))
    if n_judged >= len(order):
        raise ValueError(f"{len(order)} records are too few; 2 is the least, 100 a beginning")
    shuffled = [examples[i] for i in order]
    return shuffled[n_judged:], shuffled[:n_judged]


def _json_line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _delete(folder: Path) -> None:
    """Delete what a run has made, and nothing else that somebody may have put there.

    config.yaml stays: by it, what a kill leaves is known as a run.
    """
    for path in (folder / name for name in (*_FILES, *_FOLDERS)):
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
        changes: What changes in the plan from there on; it gets a line of its own.
    """

    def __init__(
        self, path: Path, step: int = 0, changes: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        before = self.read(path) if path.exists() else []
        kept = [line for line in before if line["step"] <= step]
        self.seconds = float(kept[-1]["seconds"]) if kept else 0.0
        with whole_file(path) as draft:
            draft.write_text("".join(map(_json_line, kept)), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed in close)
        if changes:
            self.write({"step": step, "seconds": 0.0, "changed": changes})

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
        self._file.write(_json_line({**whole, "time": round(time.time(), 3)}))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
