"""Turn the fields of a dataclass into options of a command, one source of truth for both."""

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

__all__ = ["Options", "number", "read_options", "whole"]


@dataclass(frozen=True)
class Options:
    """A dataclass read from its source alone, so that a command starts without PyTorch."""

    made_by: type[Any]
    """The dataclass: it has the checks of the real one, and is not the same object."""
    help: dict[str, str]
    """What stands under each field, by the field's name."""

    def add_to(self, parser: argparse._ArgumentGroup) -> None:
        """Add an option for each field; one that is not given is None.

        What follows "; None " in a field's description is what happens without the option.

        Args:
            parser: The group of options to add to.
        """
        for field in fields(self.made_by):
            text, _, without = self.help[field.name].partition("; None ")
            parser.add_argument(
                "--" + field.name.replace("_", "-"),
                **_reader(field.type),
                help=f"{text} (default: {without or field.default})".replace("%", "%%"),
            )

    def given(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Collect the fields that were given on the command line, checked by the dataclass.

        Args:
            arguments: What the parser returned.

        Returns:
            The values by the fields' names.

        Raises:
            ValueError: If the dataclass refuses a value.
        """
        values = {field.name: getattr(arguments, field.name) for field in fields(self.made_by)}
        values = {name: value for name, value in values.items() if value is not None}
        self.made_by(**values)
        return values


@cache
def read_options(module: str, name: str) -> Options:
    """Read a dataclass from its module's source without running the module.

    Only the class runs, after those of the module's imports that are Python's own; so its
    checks may use nothing else of the module.

    Args:
        module: Full name of the module, such as "gptlib.generation".
        name: Name of the dataclass.

    Returns:
        The dataclass and its fields' descriptions.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"there is no module {module}; install the package again")
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    [definition] = [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]
    light = [node for node in body if _is_light(node)]
    namespace: dict[str, Any] = {"__name__": module}
    code = ast.Module([*light, *_imported_choices(body), definition], type_ignores=[])
    exec(compile(code, spec.origin, "exec"), namespace)
    texts = {
        line.target.id: _as_help(str(text.value.value))
        for line, text in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    return Options(namespace[name], texts)


def _as_help(description: str) -> str:
    """Write a description as help is written: one line, small first letter, no full stop."""
    description = " ".join(description.split()).rstrip(".")
    return description[:1].lower() + description[1:]


def _is_light(node: ast.stmt) -> bool:
    """Whether a statement imports from Python's own library, or names the choices of a field."""
    if isinstance(node, ast.ImportFrom):
        return str(node.module).partition(".")[0] in sys.stdlib_module_names
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
        return isinstance(node.value.value, ast.Name) and node.value.value.id == "Literal"
    return isinstance(node, ast.Import) and all(
        alias.name.partition(".")[0] in sys.stdlib_module_names for alias in node.names
    )


def _imported_choices(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Find the choices of fields, `Name = Literal[...]`, that come from other modules of ours."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gptlib."):
            spec, names = find_spec(str(node.module)), {alias.name for alias in node.names}
            source = Path(str(spec and spec.origin)).read_text(encoding="utf-8")
            for line in ast.parse(source).body:
                if isinstance(line, ast.Assign) and _is_light(line):
                    targets = {getattr(name, "id", "") for name in line.targets}
                    found += [line] * (targets <= names)
    return [ast.parse("from typing import Literal").body[0], *found] if found else []


def _reader(kind: Any) -> dict[str, Any]:
    """What argparse needs to know of a field's type."""
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind), "metavar": "NAME", "type": str}
    is_whole = "int" in str(kind)
    return {"type": whole() if is_whole else number, "metavar": "N" if is_whole else "X"}


def number(text: str) -> float:
    """Read the value of an option as a number.

    Args:
        text: What was typed.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write one like 0.8") from None


def whole(least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    """Make a reader of whole numbers within bounds.

    Args:
        least: The smallest that is allowed, if any.
        most: The largest that is allowed, if any.

    Returns:
        A function for argparse's `type`.
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            message = f"{text!r} is no whole number; write one like 40"
            raise argparse.ArgumentTypeError(message) from None
        if least is not None and value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; write {least} or more")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{value} is too large; write {most} or less")
        return value

    return read
