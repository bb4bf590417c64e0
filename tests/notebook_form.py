"""The form that every stored notebook has; each check returns its complaints, in words.

nbval compares outputs. What it doesn't see is here: counts, ids, tags, leftovers of a run, rhythm,
descriptions of figures, numbers in the prose, and names that come too early.
"""

import ast
import re
from collections.abc import Iterable, Iterator

from notebook_files import (
    Cell,
    Notebook,
    code_cells,
    markdown_cells,
    output_text,
    public_names,
    tags,
)

TAGS = {"promote", "real-data", "nbval-ignore-output", "raises-exception"}
LEFTOVERS = {
    "an absolute path": r"(?<![\w.:/~])/(?:home|root|tmp|usr|opt|var|work|Users|mnt)/\w|[A-Z]:\\\w",
    "a memory address": r"\b0x[0-9a-f]{6,}",
    "a progress bar": r"\r|it/s\b|s/it\b|\|[█▏▎▍▌▋▊▉#]+ *\|",
    "a warning": r"\b\w*Warning:",
}
NUMBER = re.compile(r"(?<![\w.,])\d+(?:[,_ ]\d{3})*(?:\.\d+)?(?![\w]*_)")


def form_complaints(book: Notebook) -> Iterator[str]:
    """Check what a notebook stores: metadata, ids, counts, tags, outputs."""
    if set(book.metadata) != {"kernelspec"}:
        yield f"notebook metadata {sorted(book.metadata)}: keep kernelspec alone"
    ids = [cell["id"] for cell in book.cells]
    if len(set(ids)) < len(ids):
        yield "two cells have the same id"
    for number, cell in enumerate(code_cells(book), start=1):
        where = f"code cell {number}"
        if cell["execution_count"] != number:
            yield f"{where} has execution count {cell['execution_count']}"
        if not cell["source"].strip():
            yield f"{where} is empty"
        yield from (f"{where}: {text}" for text in _output_complaints(cell))
    for cell in book.cells:
        if set(cell["metadata"]) - {"tags"} or set(tags(cell)) - TAGS:
            yield f"cell {cell['id']} has metadata {dict(cell['metadata'])}"
        if re.search(r"!\[[^\]]*\]\(https?:|<img[^>]+https?:", cell["source"]):
            yield f"cell {cell['id']} has a remote image"
    yield from _ignored_without_assertion(code_cells(book))


def _output_complaints(cell: Cell) -> Iterator[str]:
    for output in cell["outputs"]:
        if output.get("name") == "stderr":
            yield "stderr is left in the outputs"
        if output["output_type"] == "error" and "raises-exception" not in tags(cell):
            yield "an error is left in the outputs without the tag raises-exception"
        if any("widget" in kind for kind in output.get("data", {})):
            yield "a widget's view is left in the outputs"
    for name, pattern in LEFTOVERS.items():
        if found := re.search(pattern, output_text(cell)):
            yield f"{name} is left in the outputs: {found.group()!r}"


def _ignored_without_assertion(cells: list[Cell]) -> Iterator[str]:
    following = [*cells[1:], {"source": ""}]
    for number, (cell, after) in enumerate(zip(cells, following, strict=True), start=1):
        if "nbval-ignore-output" in tags(cell) and "assert " not in after["source"]:
            yield f"code cell {number} ignores its output and the next cell asserts nothing"


def figure_complaints(book: Notebook) -> Iterator[str]:
    """Check that each figure is described in words, for readers who can't see it."""
    for number, cell in enumerate(code_cells(book), start=1):
        for output in cell["outputs"]:
            if "image/png" not in output.get("data", {}):
                continue
            alt = output["metadata"].get("image/png", {}).get("alt", "")
            if len(alt) < 40 or alt not in output["data"].get("text/plain", ""):
                yield f"code cell {number} has a figure without a description; use plots.show"


def rhythm_complaints(book: Notebook) -> Iterator[str]:
    """Check what every chapter has: exercises with hints, few links, a widget."""
    text = "\n".join(cell["source"] for cell in markdown_cells(book))
    exercises = exercise_titles(book)
    if not 3 <= len(exercises) <= 5:
        yield f"{len(exercises)} exercises; a chapter has 3 to 5"
    if text.count("<summary>") < len(exercises):
        yield "an exercise has no folded hint"
    if len(re.findall(r"\]\(https?:", text)) > 5:
        yield "more than five links"
    if "gptlib.extras.widgets" not in "\n".join(cell["source"] for cell in code_cells(book)):
        yield "no widget"


def exercise_titles(book: Notebook) -> list[str]:
    """List the headings of the exercises, without their stars and minutes."""
    lines = "\n".join(cell["source"] for cell in markdown_cells(book)).splitlines()
    found = (re.match(r"#+\s+(Exercise \d+)\b", line) for line in lines)
    return [match.group(1) for match in found if match]


def significant_digits(number: str) -> int:
    """Count the digits that a number claims to know: 0.020 has two, 1,500 has two."""
    whole, _, fraction = number.replace(",", "").replace("_", "").replace(" ", "").partition(".")
    digits = (whole + fraction).lstrip("0")
    return len(digits if fraction else digits.rstrip("0"))


def _numbers(text: str) -> list[str]:
    return [match.group() for match in NUMBER.finditer(text)]


def _value(number: str) -> float:
    return float(re.sub("[,_ ]", "", number))


def number_complaints(book: Notebook, sourced: Iterable[str] = ()) -> Iterator[str]:
    """Check that each exact number in the prose stands in an output or in code.

    A number may round one that stands there. Links, and years in brackets, are no figures.
    """
    known = {_value(number) for number in sourced}
    for cell in code_cells(book):
        known.update(_value(number) for number in _numbers(output_text(cell)))
        known.update(_value(number) for number in _numbers(cell["source"]))
    for cell in markdown_cells(book):
        text = re.sub(r"\[[^\]]*\]\([^)]*\)|<[^>]+>", " ", cell["source"])
        text = re.sub(r"(?m)^#+ \d+\.\d+ ", " ", text)  # the number of a section
        text = re.sub(r"\b(?:1[5-9]|20)\d\d\b(?=\)|,? [a-z])", " ", text)
        text = text.replace("{,}", ",").replace("\u202f", "").replace("\u00a0", "")
        for number in _numbers(text):
            places = len(number.partition(".")[2])
            if significant_digits(number) >= 3 and not any(
                round(value, places) == _value(number) for value in known
            ):
                yield f"{number} stands in the prose but in no output: …{cell['source'][:60]}…"


def early_name_complaints(
    book: Notebook, earlier: set[str], later: dict[str, str]
) -> Iterator[str]:
    """Check that no chapter uses or names what a later chapter brings.

    Args:
        book: The notebook.
        earlier: The names that this chapter and those before it define.
        later: For each later module, its source.
    """
    names = {
        name: module
        for module, source in later.items()
        for name in public_names(source)
        if name not in earlier and re.search(r"[A-Z_]", name)
    }
    modules = {f"gptlib.{prefix}{module}" for module in later for prefix in ("", *_SERVING)}
    for cell in book.cells:
        if cell["cell_type"] == "code":
            used, imported = _used_names(cell["source"])
        else:
            quoted = " ".join(re.findall(r"`([^`]+)`", cell["source"]))
            used, imported = set(re.findall(r"\w+", quoted)), set(re.findall(r"[\w.]+", quoted))
        for name in sorted(used & set(names)):
            yield f"{name} of gptlib.{names[name]} comes too early: …{cell['source'][:60]}…"
        for module in sorted(imported & modules):
            yield f"{module} comes too early: …{cell['source'][:60]}…"


_SERVING = ("extras.widgets.", "extras.checks.")


def _used_names(source: str) -> tuple[set[str], set[str]]:
    used: set[str] = set()
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            used.update(alias.name for alias in node.names)
            imported.add(node.module)
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
    return used, imported
