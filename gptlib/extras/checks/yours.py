"""What a reader wrote and a check found right, kept so that a later chapter can build on it."""

import ast
import importlib
import inspect
import linecache
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F

from gptlib.gpt2 import GPT, GPTConfig


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


def recall(chapter: str, name: str) -> Any:
    """Return the reader's own definition, or None if none was kept.

    It sees the chapter's other kept parts, and of its module what the reader did not write.
    """
    if not (folder(chapter) / f"{name}.py").is_file():
        return None
    names = {**vars(importlib.import_module(f"gptlib.{chapter}")), "__name__": "yours"}
    for path in sorted(folder(chapter).glob("*.py")):
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names[name]


PARTS = {
    "embeddings": ("InputEmbedding",),
    "attention": ("CausalSelfAttention",),
    "gpt2": ("MLP", "Block", "initialize", "GPT"),
}
"""What the model is built of, by the chapter in which the reader writes it."""


def assemble() -> tuple[Any, dict[str, bool]]:
    """Return the class GPT built from what the reader wrote, and which parts are the reader's.

    What was not kept is taken from gptlib; all is, if the reader's parts don't run together.
    """
    names: dict[str, Any] = {"__name__": "yours", "gelu": partial(F.gelu, approximate="tanh")}
    for chapter in PARTS:
        names |= {
            name: value
            for name, value in vars(importlib.import_module(f"gptlib.{chapter}")).items()
            if not name.startswith("__")
        }
    parts: dict[str, bool] = {}
    for chapter, wanted in PARTS.items():
        kept = {path.stem: path for path in sorted(folder(chapter).glob("*.py"))}
        for path in kept.values():
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
        for name in wanted:
            parts[name] = name in kept
            if name not in kept:  # once more, so that it sees the reader's other parts
                exec(inspect.getsource(names[name]), names)
    for name in ("InputEmbedding", "CausalSelfAttention"):
        if parts[name]:
            names[name] = _fitted(names[name])
    try:
        names["GPT"](GPTConfig(9, 4, 1, 1, 4))(torch.tensor([[1, 2]]))
    except Exception as error:  # a part may use what another cell of the notebook defined
        print(f"The answers take the place of your parts, which raise {error!r}.")
        return GPT, dict.fromkeys(parts, False)
    return names["GPT"], parts


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
