"""One parser for all commands: options from dataclasses, errors in one line."""

import argparse
import ast
import difflib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import yaml

EXIT_STATUS = (
    "exit status: 0 if it is done, 2 if a value can't be used, 130 if Ctrl-C stopped it, 141 if\n"
    "nobody reads its output any more.\n"
)

TRUE_OR_FALSE = "[true|false]"
"""The metavar of an option that is true if it stands alone."""

_METAVARS: dict[Any, str] = {int: "N", float: "X", bool: TRUE_OR_FALSE, tuple: "[A,B]"}
_TRUTHS = ("true", "false", "null", "yes", "no", "on", "off", "0", "1")


def quoted(path: Path) -> str:
    """Write a path so that it can be pasted into a terminal."""
    return f'"{path}"' if " " in str(path) else str(path)


class CommandParser(argparse.ArgumentParser):
    """A parser of one command.

    Args:
        prog: The command's words, such as "python -m gptlib generate".
        work: What to do with what was parsed; it returns the exit status.
        examples: What stands at the end of the help.

    Attributes:
        program: How the program was called, so that what it tells you to type works.
    """

    def __init__(
        self,
        prog: str,
        work: Callable[[argparse.Namespace], int] | None = None,
        examples: str = "",
        **more: Any,
    ) -> None:
        self.program = prog.partition("gptlib")[0] + "gptlib"
        # every help says what the status means, where its examples don't
        epilog = examples if "exit status" in examples else f"{examples}\n{EXIT_STATUS}".lstrip()
        super().__init__(
            prog=prog,
            epilog=epilog.replace("python -m gptlib", self.program),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **more,
        )
        self.spellings: dict[str, str] = {}
        self.prefixes: dict[type[Any], str] = {}
        self._commands: argparse._SubParsersAction[CommandParser] | None = None
        if work:
            self.set_defaults(work=work, parser=self)

    def add_command(
        self,
        name: str,
        work: Callable[[argparse.Namespace], int] | None,
        description: str,
        examples: str = "",
    ) -> "CommandParser":
        """Add a command of this command, such as `train` of `tokenizer`.

        Args:
            name: The word.
            work: What it does.
            description: What it is for; its first sentence stands in the list of commands.
            examples: What stands at the end of its help.

        Returns:
            Its parser.
        """
        if self._commands is None:
            self._commands = self.add_subparsers(metavar="command", required=True)
        line = " ".join(description.partition(".")[0].split())
        return self._commands.add_parser(
            name,
            prog=f"{self.prog} {name}",
            help=line[:1].lower() + line[1:],
            description=description,
            work=work,
            examples=examples,
        )

    def add_fields(
        self, made_by: type[Any], title: str, prefix: str = "", description: str | None = None
    ) -> argparse._ArgumentGroup:
        """Add an option for each field of a dataclass, in their order.

        What follows "; None " in a field's description is what happens without the option.

        Args:
            made_by: The dataclass.
            title: What the help calls its options.
            prefix: What stands before each name, such as "model.".
            description: What the help says of all of them.

        Returns:
            The group, for more options.
        """
        group = self.add_argument_group(title, description)
        self.prefixes[made_by] = prefix
        texts, kinds = descriptions(made_by), get_type_hints(made_by)
        for field in fields(made_by):
            text, _, without = texts[field.name].partition("; None ")
            if field.default is not MISSING:
                default = without or json.dumps(field.default).strip('"')
                text += f" (default: {default})"
            dest, kind = prefix + field.name, kinds[field.name]
            if is_optional := type(None) in get_args(kind):
                kind, _ = get_args(kind)
            option = "--" + dest.replace("_", "-")
            group.add_argument(
                option,
                dest=dest,
                default=argparse.SUPPRESS,
                required=field.default is MISSING,
                type=partial(_read, kind=kind, is_optional=is_optional),
                metavar=_METAVARS.get(get_origin(kind) or kind, "NAME"),
                help=text.replace("%", "%%"),
            )
            for name in (field.name, field.name.removeprefix("n_")):
                self.spellings[f"--{prefix}{name}"] = option
                self.spellings[f"--{prefix}{name.replace('_', '-')}"] = option
        return group

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Understand words; what can't be understood ends the program.

        Args:
            words: What was typed after the command.

        Returns:
            The options by their names; under `given`, for each dataclass whose fields are options,
            those that were typed.
        """
        names = [word.partition("=") for word in words]
        words = ["".join((self.spellings.get(name, name), *rest)) for name, *rest in names]
        actions = [action for action in self._actions if action.metavar == TRUE_OR_FALSE]
        switches = {option for action in actions for option in action.option_strings}
        words = [  # a text that follows is no value
            word + "=true" * (word in switches and follower.lower() not in _TRUTHS)
            for word, follower in pairwise([*words, ""])
        ]
        known, unknown = self.parse_known_args(words)
        if unknown:
            parser: CommandParser = known.parser
            word = next((word for word in unknown if word.startswith("-")), unknown[0])
            if not word.startswith("-"):
                way_out = "leave it out, or put texts side by side and the words of one in quotes"
                if "--prompt" in parser._option_string_actions:
                    way_out = 'write --prompt "TEXT", with its words in quotes'
                parser.error(f"{word!r} belongs to no option; {way_out}")
            options = [*parser._option_string_actions, *parser.spellings]
            parser.error(f"there is no option {word}{suggestion(word.partition('=')[0], options)}")
        known.given = {
            made_by: {
                field.name: vars(known)[prefix + field.name]
                for field in fields(made_by)
                if prefix + field.name in known
            }
            for made_by, prefix in self.prefixes.items()
        }
        return known

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line; fields' names become options' names."""
        if message.endswith("expected one argument"):
            message += "; one that begins with - is written --option=VALUE"
        for action in self._actions:
            name = action.dest.rpartition(".")[2]  # at the beginning, or anywhere if it has a _
            if action.option_strings and name != "help":
                pattern = rf"^{name}(?= is )" + rf"|(?<![\w.-]){name}\b" * ("_" in name)
                message = re.sub(pattern, action.option_strings[-1], message)
        message = re.sub(r"^argument (\S+): (?=\1 )", "", message)
        message = re.sub(r"\bor None\b", "or leave it out", " ".join(message.split()))
        sys.stderr.write(f"{self.prog}: error: {message} (see --help)\n")
        raise SystemExit(2)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say what somebody may have meant: "; did you mean ...?", or nothing."""
    options = list(known)
    ends = tuple(mark + name.lstrip("-") for mark in ".-")
    close = [o for o in options if o.startswith(name) or o.endswith(ends)]
    close += difflib.get_close_matches(name, options)
    return f"; did you mean {close[0]}?" if close else ""


def descriptions(made_by: type[Any]) -> dict[str, str]:
    """Read what stands under each field of a dataclass and its bases, as help is written.

    Args:
        made_by: The dataclass.

    Returns:
        By the field's name, one line with a small first letter and no full stop.
    """
    texts = {}
    for base in made_by.__mro__[-2::-1]:  # all but object, the oldest first
        [definition] = ast.parse(inspect.getsource(base)).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for line, below in pairwise(body):
            if not (isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr)):
                continue
            text = " ".join(str(ast.literal_eval(below.value)).split()).rstrip(".")
            texts[ast.unparse(line.target)] = text[:1].lower() + text[1:]
    return texts


def number(text: str) -> float:
    """Read the value of an option as a number."""
    return _read(text, float)


def truth(text: str) -> bool | None:
    """Read the value of an option as true, false or null."""
    value: bool | None = _read(text, bool, is_optional=True)
    return value


def whole(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """Make a reader of whole numbers within bounds, both allowed, for argparse's `type`."""

    def read(text: str) -> int:
        value: int = _read(text, int)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; write {least} or more")
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is too large; write {most} or less")
        return value

    return read


def _read(text: str, kind: Any, is_optional: bool = False) -> Any:
    """Read the value of an option as a type of a dataclass's field."""
    choices, rule = get_args(kind), "another"
    if is_optional and text == "null":  # as YAML writes None
        return None
    try:
        if kind is bool:
            rule = "true or false"
            return {"true": True, "false": False}[text.lower()]
        if get_origin(kind) is Literal:
            rule = f"{', '.join(choices[:-1])} or {choices[-1]}"
            return choices[choices.index(text)]
        if get_origin(kind) is not tuple:
            rule = "a whole number like 40" if kind is int else "a number like 0.8"
            return kind(text)
        is_texts = ... in choices
        rule = "a list like [a, b]" if is_texts else "two numbers like [0.9, 0.95]"
        values = yaml.safe_load(text)
        if is_texts and isinstance(values, str):
            values = values.split(",")  # typed without brackets
        values = values.split(",") if isinstance(values, str) else values
        kinds = choices[:1] * len(values) if is_texts else choices
        return tuple(kind(value) for kind, value in zip(kinds, values, strict=True))
    except (KeyError, TypeError, ValueError, yaml.YAMLError):
        raise argparse.ArgumentTypeError(f"{text!r} can't be used; write {rule}") from None
