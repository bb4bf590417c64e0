"""Count what the package weighs, so that it stays small: `python tests/house.py`.

Lines of code are those that hold something besides comments and docstrings. Validation is every
line of an `if` that ends in `raise`, of a handler of exceptions, of `__post_init__`, and every call
of a function that does nothing but raise.
"""

import ast
import inspect
import io
import sys
import tempfile
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from notebook_files import ROOT, module_path, public_names, taught_stems

PACKAGE = ROOT / "gptlib"


@dataclass(frozen=True)
class Weight:
    """What one module, or all of them, weigh in lines."""

    code: int = 0
    names: int = 0
    validation: int = 0
    docstrings: int = 0
    comments: int = 0

    def __add__(self, other: "Weight") -> "Weight":
        return Weight(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def docstring_lines(tree: ast.AST) -> set[int]:
    """Find the lines of strings that stand alone."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def code_lines(source: str) -> set[int]:
    """Find the lines that hold code."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENCODING, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(source))


def _span(node: ast.stmt | ast.ExceptHandler | ast.Expr) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def checkers(sources: list[str]) -> set[str]:
    """Name the functions that do nothing but raise: `check_...` and `require_...`."""
    return {
        node.name
        for source in sources
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("check_", "require_"))
    }


def validation_lines(source: str, helpers: set[str]) -> set[int]:
    """Find the lines that only refuse."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
            lines.update(range(node.lineno, (node.body[-1].end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.ExceptHandler):
            passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            lines.update([] if passes_on else _span(node))
        elif isinstance(node, ast.FunctionDef):
            if node.name == "__post_init__":
                lines.update(_span(node))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            is_check = getattr(node.value.func, "id", "") in helpers
            lines.update(_span(node) if is_check else [])
    return lines & code_lines(source)


def weigh(source: str, helpers: set[str]) -> Weight:
    """Weigh one module."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return Weight(
        code=len(code_lines(source)),
        names=len(public_names(source)),
        validation=len(validation_lines(source, helpers)),
        docstrings=len(docstring_lines(ast.parse(source))),
        comments=sum(
            token.type == tokenize.COMMENT and not token.string.startswith(("# type:", "# noqa"))
            for token in tokens
        ),
    )


FORBIDDEN: dict[str, Callable[[ast.AST], bool]] = {
    "__class__ =": lambda node: (
        isinstance(node, ast.Assign)
        and any(getattr(target, "attr", "") == "__class__" for target in node.targets)
    ),
    "singledispatch": lambda node: isinstance(node, ast.alias) and node.name == "singledispatch",
    "patched forward": lambda node: (
        isinstance(node, ast.Assign)
        and any(
            isinstance(target, ast.Attribute) and target.attr == "forward"
            for target in node.targets
        )
    ),
    "tensor subclass": lambda node: (
        isinstance(node, ast.ClassDef)
        and any(getattr(base, "id", "") == "Tensor" for base in node.bases)
    ),
    "exec": lambda node: isinstance(node, ast.Call) and getattr(node.func, "id", "") == "exec",
}
"""What makes a class something else behind its reader's back."""


def tricks_in(source: str) -> Iterator[tuple[str, int]]:
    """Find such places, as pairs of what and the line."""
    for node in ast.walk(ast.parse(source)):
        for name, is_it in FORBIDDEN.items():
            if is_it(node):
                yield name, getattr(node, "lineno", 0)


def taught_weights() -> dict[str, Weight]:
    """Weigh every taught module."""
    sources = {stem: module_path(stem).read_text(encoding="utf-8") for stem in taught_stems()}
    helpers = checkers(list(sources.values()))
    return {stem: weigh(source, helpers) for stem, source in sources.items()}


def functions_called(work: Callable[[], Any], until: str = "") -> set[tuple[str, str]]:
    """Run something and note the package's own functions that it enters, as (file, name).

    Bodies of modules and classes, and comprehensions, don't count.
    """
    called: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        file, name = Path(frame.f_code.co_filename), frame.f_code.co_qualname
        is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # a class's body is none
        is_ours = PACKAGE in file.parents and "<" not in name.rsplit(".", 1)[-1]
        if event == "call" and is_function and is_ours:
            called.add((str(file.relative_to(ROOT)), name))
            if name == until:
                sys.setprofile(None)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


def first_piece() -> set[tuple[str, str]]:
    """Note what `generate_text` calls until its first piece of text."""
    import torch

    from gptlib.extras.models import load_model
    from gptlib.generation import Sampling, generate_text

    model, tokenizer = load_model()
    plain, seeded = Sampling(), torch.Generator().manual_seed(0)
    return functions_called(
        lambda: next(generate_text(model, tokenizer, "The", 5, plain, generator=seeded))
    )


def first_step() -> set[tuple[str, str]]:
    """Note what the command `train` calls until its first step on a text of one's own."""
    from gptlib.extras.cli import main
    from gptlib.extras.commands import train  # noqa: F401  (its imports don't count)

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "my-book.txt")
        text.write_text("It was a dark and stormy night. " * 400, encoding="utf-8")
        plan = ["--training.steps=1", "--training.warmup-steps=0", "--model.context-length=16"]
        plan += ["--model.vocab-size=270", "--model.n-layer=1", "--training.batch-size=2"]
        words = ["train", str(text), "--folder", str(Path(folder, "run")), *plan]
        words += ["--model.n-embd=16", "--model.n-head=2", "--device=cpu"]
        return functions_called(lambda: main(words), until="take_step")


def main() -> None:
    """Print the figures of the whole house."""
    print(f"{'module':<16}{'code':>6}{'names':>7}{'checks':>8}{'docs':>6}{'comments':>10}")
    weights = taught_weights()
    for stem, found in weights.items():
        counts = f"{found.code:>6}{found.names:>7}{found.validation:>8}{found.docstrings:>6}"
        print(f"{stem:<16}{counts}{found.comments:>10}")
    total = sum(weights.values(), Weight())
    print(f"taught: {total.code} lines of code, {total.names} public names")
    print(f"validation: {total.validation / total.code:.1%}")
    print(f"docstrings: {100 * total.docstrings / total.code:.0f} lines per 100 of code")
    print(f"comments: {total.comments}, {100 * total.comments / total.code:.1f} per 100")
    files = [file for file in PACKAGE.rglob("*") if file.suffix in {".py", ".js", ".yaml"}]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    print(f"lines of gptlib in all: {sum(len(text.splitlines()) for text in texts.values())}")
    for file, text in texts.items():
        if file.suffix == ".py" and "checks" not in file.parts:
            for name, line in tricks_in(text):
                print(f"trick: {name} in {file.relative_to(ROOT)}:{line}")
    if "--calls" in sys.argv:
        print(f"generate_text to its first piece: {len(first_piece())} functions")
        step = first_step()
        where = {file for file, _ in step}
        print(f"train to its first step: {len(step)} functions in {len(where)} files")


if __name__ == "__main__":
    main()
