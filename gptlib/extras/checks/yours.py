"""What a reader wrote and a check found right, kept so that a later chapter can build on it."""

import ast
import builtins
import importlib
import inspect
import linecache
import math
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.gpt2 import GPTConfig

IMPORTED: dict[str, Any] = {"math": math, "torch": torch, "nn": nn, "F": F, "Tensor": Tensor}
"""What the chapters import at their top."""


def folder(chapter: str) -> Path:
    """Say where a chapter's parts are kept: in work/yours of the course that we are in."""
    here = Path.cwd()
    course = next(
        (above for above in (here, *here.parents) if (above / "notebooks").is_dir()), here
    )
    return course / "work" / "yours" / chapter


def keep(chapter: str, answer: Any) -> bool:
    """Keep the cell that defines a function or class; what is not from a notebook is left alone.

    Definitions, imports and assignments of the cell are kept, calls are not.
    """
    if getattr(answer, "__module__", "") != "__main__":
        return False
    methods = vars(answer).values() if isinstance(answer, type) else [answer]
    code = next((m.__code__ for m in methods if isinstance(m, FunctionType)), None)
    cell = "".join(linecache.getlines(code.co_filename)) if code else ""
    body = [node for node in ast.parse(cell).body if not isinstance(node, ast.Expr)]
    if answer.__name__ not in [getattr(node, "name", "") for node in body]:
        return False
    path = folder(chapter) / f"{answer.__name__}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(map(ast.unparse, body)) + "\n", encoding="utf-8")
    return True


def from_other_cells(chapter: str, answer: Any) -> list[str]:
    """List the names that a part of the model takes from other cells, where nobody finds them."""
    if answer.__name__ not in PARTS.get(chapter, ()):
        return []
    tree = ast.parse(_parts(chapter)[answer.__name__].read_text(encoding="utf-8"))
    module = importlib.import_module(f"gptlib.{chapter}")
    known = {*vars(module), *vars(builtins), *_parts(chapter), *IMPORTED}
    used: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used[node.id] = None
        elif isinstance(node, ast.alias):
            known.add(node.asname or node.name.partition(".")[0])
        else:
            known |= {str(getattr(node, word, "")) for word in ("id", "arg", "name")}
    return [name for name in used if name not in known]


def _parts(chapter: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder(chapter).glob("*.py"))}


def _define(path: Path, names: dict[str, Any]) -> None:
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)


def recall(chapter: str, name: str) -> Any:
    """Return the reader's own definition, or None if none was kept.

    It sees the chapter's other kept parts, and of its module what the reader did not write.
    """
    parts = _parts(chapter)
    if name not in parts:
        return None
    names = IMPORTED | vars(importlib.import_module(f"gptlib.{chapter}")) | {"__name__": "yours"}
    for path in parts.values():
        with suppress(Exception):  # what can't run alone may not be needed
            _define(path, names)
    _define(parts[name], names)
    return names[name]


PARTS = {
    "embeddings": ("InputEmbedding",),
    "attention": ("CausalSelfAttention",),
    "gpt2": ("MLP", "Block", "initialize", "GPT"),
}
"""What the model is built of, by the chapter in which the reader writes it."""


def assemble() -> tuple[Any, dict[str, bool]]:
    """Return the class GPT built from what the reader wrote, and which parts are the reader's.

    What was not kept is taken from gptlib, and so is a part that doesn't run with the others.
    """
    own: list[str] = []
    for chapter, wanted in PARTS.items():
        for name in (name for name in wanted if name in _parts(chapter)):
            try:
                _build([*own, name])
            except Exception as error:  # it may use what another cell of the notebook defined
                print(f"The answer takes the place of your {name}, which raises {error!r}.")
            else:
                own.append(name)
    return _build(own), {name: name in own for wanted in PARTS.values() for name in wanted}


def _build(own: Collection[str]) -> Any:
    """Define the class GPT with these parts of the reader's, and see that it runs."""
    names = IMPORTED | {"__name__": "yours", "gelu": partial(F.gelu, approximate="tanh")}
    modules = {chapter: vars(importlib.import_module(f"gptlib.{chapter}")) for chapter in PARTS}
    for module in modules.values():
        names |= {name: value for name, value in module.items() if not name.startswith("__")}
    for chapter, wanted in PARTS.items():
        parts = _parts(chapter)
        for name in parts.keys() - {*wanted}:
            with suppress(Exception):  # what can't run alone may not be needed
                _define(parts[name], names)
        for name in wanted:
            if name in own:
                _define(parts[name], names)
            else:  # once more, so that it sees the reader's other parts
                exec(inspect.getsource(modules[chapter][name]), names)
            if name in own and name in ("InputEmbedding", "CausalSelfAttention"):
                names[name] = _fitted(names[name])
    names["GPT"](GPTConfig(9, 4, 1, 1, 4))(torch.tensor([[1, 2]]))
    return names["GPT"]


def _fitted(kind: Any) -> Any:
    """Make a class take arguments that the reader's does without, such as a kind of positions."""
    known = inspect.signature(kind).parameters

    class Fitted(kind):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **more: Any) -> None:
            more = {name: value for name, value in more.items() if name in known}
            super().__init__(*arguments[: len(known)], **more)

        def forward(self, x: Any, more: Any = None) -> Any:
            return super().forward(x) if more is None else super().forward(x, more)

    return Fitted
