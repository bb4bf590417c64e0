"""Describe a training run completely, as options and as YAML from the same dataclasses.

`data` is a `DataConfig`, `model` a `gptlib.gpt2.GPTConfig`, `training` a
`gptlib.training.TrainingConfig`. The latter two are read from their source, because PyTorch takes
seconds to import; so is the first, for its descriptions. Parsing is jsonargparse's.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import jsonargparse
import yaml

from gptlib.extras.commands.base import end_with_error, suggestion
from gptlib.extras.options import Options, read_options

__all__ = [
    "DEFAULT_CONFIG",
    "DataConfig",
    "RunConfig",
    "RunParser",
    "ready_configs",
    "sections",
    "to_yaml",
]

DEFAULT_CONFIG = "war-and-peace-cpu"
"""The ready configuration that is used when none is named."""

START_STD = 0.02


@dataclass(frozen=True)
class DataConfig:
    """Say what to learn from.

    Raises:
        ValueError: If the share for validation is not between 0 and 1.
    """

    texts: tuple[str, ...] = ()
    """Text files, folders of them, one folder of prepared tokens, or war-and-peace."""
    pattern: str = "*.txt"
    """Which files of a folder, and of the folders in it, are texts."""
    tokenizer: str = "train"
    """Train, to train one of model.vocab_size tokens on the texts; gpt2 for GPT-2's own; or a
    folder with vocab.json and merges.txt. Prepared tokens have theirs."""
    validation_fraction: float = 0.1
    """Share of the tokens, at the end, that is kept to judge by."""

    def __post_init__(self) -> None:
        """Refuse a share that leaves one part empty."""
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; it must be between 0 and 1"
            )


@dataclass(frozen=True)
class RunConfig:
    """All that decides what a run learns."""

    data: DataConfig
    """What to learn from."""
    model: Any
    """The sizes; it has the fields of `gptlib.gpt2.GPTConfig`."""
    training: Any
    """The plan; it has the fields of `gptlib.training.TrainingConfig`."""
    start_std: float = START_STD
    """Standard deviation of the starting weights; chapter 5 tells why narrow models want more."""

    def values(self) -> dict[str, Any]:
        """The configuration as plain values, as YAML has them."""
        values = asdict(self)
        for section in ("data", "model", "training"):
            for name, value in values[section].items():
                values[section][name] = list(value) if isinstance(value, tuple) else value
        return values


def sections() -> dict[str, Options]:
    """Read the three parts of a configuration from their source."""
    return {
        "data": read_options("gptlib.extras.run_config", "DataConfig"),
        "model": read_options("gptlib.gpt2", "GPTConfig"),
        "training": read_options("gptlib.training", "TrainingConfig"),
    }


def ready_configs() -> dict[str, Path]:
    """List the configurations that come with the package, by name."""
    folder = Path(str(files("gptlib.extras") / "configs"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def to_yaml(config: RunConfig) -> str:
    """Write a configuration as YAML that `--config` reads."""
    return yaml.safe_dump(config.values(), sort_keys=False, allow_unicode=True)


class _Help(argparse.RawDescriptionHelpFormatter, jsonargparse.DefaultHelpFormatter):
    """Help as the other commands have it: one spelling of each option, defaults in our words."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar)
        short = [word for word in action.option_strings if not word.startswith("--")]
        names = ", ".join([*short, action.option_strings[len(short)]])
        return names if action.nargs == 0 or action.metavar is None else f"{names} {action.metavar}"


class RunParser(jsonargparse.ArgumentParser):
    """Read a `RunConfig` from options and YAML; errors are one line."""

    def __init__(self, **more: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, print_config=None, **more)

    def add_config_options(self) -> None:
        """Add `--config`, `--start-std` and an option for each field of the three parts."""
        self.add_argument(
            "--config",
            action="config",
            metavar="NAME",
            help=f"a ready configuration ({', '.join(ready_configs())}) or a YAML file; options "
            f"after it change it (default: {DEFAULT_CONFIG})",
        )
        for section, options in sections().items():
            title = {"data": "what to learn from", "training": "the plan"}.get(section, section)
            group = self.add_argument_group(f"{title} ({section} in YAML)")
            for field in fields(options.made_by):
                default = None if field.default is MISSING else field.default
                has = "" if default is None else f" (default: {_show(default)})"
                group.add_argument(
                    *_spellings(section, field.name),
                    type=field.type,
                    default=default,
                    metavar=_metavar(field.type),
                    help=(options.help[field.name] + has).replace("%", "%%"),
                )
        group = self.add_argument_group("the start")
        group.add_argument(
            "--start-std",
            type=float,
            default=START_STD,
            metavar="X",
            help="standard deviation of the starting weights; narrow models want more than GPT-2's "
            f"(default: {START_STD})",
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with status 2 and one line."""
        del ex
        end_with_error(self.prog, self.reword(message))

    def reword(self, message: str) -> str:
        """Say in our words what jsonargparse found."""
        keys = [action.dest for action in self._actions if action.option_strings]
        if match := re.search(r'[kK]ey "([\w.]+)":.*Got value: (.*)', message, re.DOTALL):
            key, value = match[1], match[2].strip().splitlines()[0]
            return f"{_option(key)} is {value!r}; write {self._rule(key)}"
        if match := re.search(r"(?i)unrecognized arguments: (\S+)", message):
            word = match[1]
            known = list(self._option_string_actions)
            if not word.startswith("-"):
                return f"{word!r} is no option; put a name with blanks in quotes"
            return f"there is no option {word}{suggestion(word.partition('=')[0], known)}"
        if match := re.search(r"Option '([\w.]+)' is not accepted", message):
            return f"the configuration has {match[1]!r}, which is none of its fields" + suggestion(
                match[1], keys
            )
        return message

    def with_options(self, message: str) -> str:
        """Put options' names in the place of fields' in a message of the library."""
        for section, options in sections().items():
            for field in fields(options.made_by):
                if "_" in field.name:
                    option = _option(f"{section}.{field.name}")
                    message = re.sub(rf"(?<![\w.-]){field.name}\b", option, message)
        return message

    def _rule(self, key: str) -> str:
        kinds = {
            f"{section}.{field.name}": field.type
            for section, options in sections().items()
            for field in fields(options.made_by)
        }
        choices = [str(action.metavar) for action in self._actions if action.dest == key]
        if key not in kinds and "|" in "".join(choices):
            return choices[0].replace("|", " or ")
        kind = kinds.get(key, float)
        if get_origin(kind) is Literal:
            return " or ".join(map(str, get_args(kind)))
        rules: dict[Any, str] = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "a text",
        }
        is_numbers = "float" in str(kind)
        return rules.get(kind, "two numbers like [0.9, 0.95]" if is_numbers else "a list like [a]")

    def read(self, words: Sequence[str]) -> tuple[RunConfig, jsonargparse.Namespace]:
        """Understand words, and the YAML that they name.

        Args:
            words: What was typed after the command.

        Returns:
            The configuration, and all that was parsed.
        """
        words = list(words)
        named = [i for i, word in enumerate(words) if word.partition("=")[0] == "--config"]
        if not named:
            words = ["--config", str(ready_configs()[DEFAULT_CONFIG]), *words]
        for i in named:
            if words[i] == "--config" and i + 1 < len(words):
                words[i + 1] = self._find_config(words[i + 1])
            elif words[i] != "--config":
                words[i] = "--config=" + self._find_config(words[i].partition("=")[2])
        words = [re.sub(r"^(--.*=)?inf$", r"\1.inf", word) for word in words]  # as YAML has it
        parsed = self.parse_args(words)
        return self._build(parsed), parsed

    def _find_config(self, name: str) -> str:
        ready = ready_configs()
        if Path(name).expanduser().is_file():
            self._check_yaml(Path(name).expanduser())
            return str(Path(name).expanduser())
        if name not in ready:
            self.error(
                f"--config is {name!r}; name a YAML file, or one of {', '.join(ready)}"
                + suggestion(name, ready)
            )
        return str(ready[name])

    def _check_yaml(self, file: Path) -> None:
        """Refuse a file that is no configuration by its name; jsonargparse does not say it."""
        way_out = "print one that works with --print-config"
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            reason = re.sub(r' *in "<.*?>",', " at", str(error))
            self.error(f"{file} is no YAML ({reason}); mend it, or {way_out}")
        parts = [values.get(name, {}) for name in sections()] if isinstance(values, dict) else []
        if not parts or not all(isinstance(part, dict) for part in parts):
            self.error(
                f"{file} is no configuration: data, model and training have fields below them; "
                f"{way_out}"
            )

    def _build(self, parsed: jsonargparse.Namespace) -> RunConfig:
        parts = {}
        for section, options in sections().items():
            values: Mapping[str, Any] = vars(parsed[section])
            for name, value in values.items():
                if value is None:
                    self.error(f"{section}.{name} is missing; add {_option(f'{section}.{name}')}")
            try:
                parts[section] = options.made_by(**values)
            except ValueError as error:
                self.error(_with_options(str(error), section, list(values)))
        if not 0 < parsed.start_std < float("inf"):
            self.error(f"--start-std is {parsed.start_std}; it must be above 0")
        texts = getattr(parsed, "text", None) or parts["data"].texts
        data = DataConfig(**{**asdict(parts["data"]), "texts": tuple(texts)})
        return RunConfig(data, parts["model"], parts["training"], parsed.start_std)


def _spellings(section: str, name: str) -> list[str]:
    """Spell an option: --training.n-steps, also --training.steps and with underscores."""
    names = [name, name.removeprefix("n_")]
    spelled = [f"--{section}.{one}" for name in names for one in (name.replace("_", "-"), name)]
    return list(dict.fromkeys(spelled))


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _with_options(message: str, section: str, names: Sequence[str]) -> str:
    """Put the options' names in the place of the fields' in an error of a dataclass."""
    found = sorted(names, key=len, reverse=True)
    pattern = rf"(?<![\w.-])({'|'.join(found)})\b(?= is |,? (?!is )| ?-|$|;)"
    first = rf"^({'|'.join(found)})\b"
    message = re.sub(first, lambda match: _option(f"{section}.{match[1]}"), message)
    return re.sub(
        pattern,
        lambda match: _option(f"{section}.{match[1]}") if "_" in match[1] else match[1],
        message,
    )


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "NAME"
    return {int: "N", float: "X", str: "NAME", bool: "true|false"}.get(kind, "[A,B]")


def _show(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return f"[{','.join(map(str, default))}]"
    return str(default)
