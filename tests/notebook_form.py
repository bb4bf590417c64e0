"""The form that every stored notebook has; each check returns its complaints, in words.

nbval compares outputs. What it doesn't see is here: counts, ids, tags, leftovers of a run, rhythm,
descriptions of figures, numbers in the prose, and names that come too early.
"""

import ast
import html
import re
from collections.abc import Iterable, Iterator

from notebook_files import (
    FOLDS,
    Cell,
    Notebook,
    code_cells,
    is_folded,
    markdown_cells,
    output_text,
    public_names,
    tags,
)

TAGS = {"promote", "task", "real-data", "nbval-ignore-output", "raises-exception"}
LEFTOVERS = {
    "an absolute path": r"(?<![\w.:/~])/(?:home|root|tmp|usr|opt|var|work|Users|mnt)/\w|[A-Z]:\\\w",
    "a memory address": r"\b0x[0-9a-f]{6,}",
    "a progress bar": r"\r|it/s\b|s/it\b|\|[█▏▎▍▌▋▊▉#]+ *\|",
    "a warning": r"\b\w*Warning:",
}
REWRITTEN = ("tokenizer", "embeddings", "attention", "gpt2")
"""Chapters of the second edition: their reader writes the core, and their load is limited."""
LIMITS = {
    "words": 2800,
    "visible code lines": 250,
    "new terms": 12,
    "folded lines besides promoted ones": 40,
    "tasks": 12,
    "promoted lines": 180,
    "promoted names": 14,
}
"""The most of each that a rewritten chapter may have; rather less of everything."""
LARGER = {
    "tokenizer": {"promoted lines": 320, "promoted names": 23},
    "gpt2": {"promoted lines": 220, "promoted names": 16},
}
"""Where a chapter may have more: the tokenizer is many small parts, on which all others stand, and
the model has its sizes and its bill."""
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
        folds = cell["metadata"].get("jupyter", {})
        known = not set(cell["metadata"]) - {"tags", "jupyter"} and not set(folds) - set(FOLDS)
        if not known or set(tags(cell)) - TAGS:
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
            data = output.get("data", {})
            alts = [output.get("metadata", {}).get("image/png", {}).get("alt", "")]
            if "<img" in data.get("text/html", ""):
                alts = re.findall(r'<img(?: alt="([^"]*)")?', data["text/html"])
            elif "image/png" not in data:
                continue
            if any(len(a) < 40 or html.unescape(a) not in data.get("text/plain", "") for a in alts):
                yield f"code cell {number} has a figure without a description; use a Picture"


def rhythm_complaints(book: Notebook, rewritten: bool = False) -> Iterator[str]:
    """Check what every chapter has: exercises with hints, few links, a widget."""
    text = "\n".join(cell["source"] for cell in markdown_cells(book))
    exercises = exercise_titles(book)
    low, high = (1, 2) if rewritten else (3, 5)
    if not low <= len(exercises) <= high:
        yield f"{len(exercises)} exercises; a chapter has {low} to {high}"
    if text.count("<summary>") < len(exercises):
        yield "an exercise has no folded hint"
    if len(re.findall(r"\]\(https?:", text)) > 5:
        yield "more than five links"
    if "gptlib.extras.widgets" not in "\n".join(cell["source"] for cell in code_cells(book)):
        yield "no widget"


def load(book: Notebook) -> dict[str, int]:
    """Count what a chapter asks of its reader; the keys are those of `LIMITS`.

    The first cell imports: folded, it asks nothing.
    """
    text = "\n".join(cell["source"] for cell in markdown_cells(book))
    cells = code_cells(book)
    promoted = "\n".join(cell["source"] for cell in cells if "promote" in tags(cell))
    others = [cell for cell in cells if "promote" not in tags(cell)]
    terms = set(re.findall(r"\*\*(.+?)\*\*", text)) - {"Predict"}
    return {
        "words": len(text.split()),
        "visible code lines": sum(_lines(c["source"]) for c in others if not is_folded(c)),
        "new terms": len(terms),
        "folded lines besides promoted ones": sum(
            _lines(c["source"]) for c in others if is_folded(c) and c is not cells[0]
        ),
        "tasks": sum("task" in tags(cell) for cell in cells),
        "promoted lines": _lines(promoted),
        "promoted names": len(public_names(promoted)),
    }


def _lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def load_complaints(book: Notebook, chapter: str = "") -> Iterator[str]:
    """Check that a chapter asks no more than one sitting."""
    limits = LIMITS | LARGER.get(chapter, {})
    for name, count in load(book).items():
        if count > limits[name]:
            yield f"{count} {name}; at most {limits[name]}"


def task_complaints(book: Notebook) -> Iterator[str]:
    """Check that a task is an unfinished stub with its check, and that predictions stay hidden."""
    cells = [*book.cells, None]
    if not any("machine(" in cell["source"] for cell in code_cells(book)[:1]):
        yield "the first code cell doesn't draw where we are: machine(...)"
    for before, cell, after in zip([None, *cells], cells, cells[1:], strict=False):
        source, start = cell["source"], cell["source"][:40]
        around = [c["source"] for c in (before, after) if c and c["cell_type"] == "markdown"]
        if cell["cell_type"] == "markdown" and "**Predict**" in source:
            if not after or not is_folded(after, "outputs_hidden"):
                yield f"the answer to a prediction is not folded: {source[-40:]}"
        elif is_folded(cell, "outputs_hidden") and not any("**Predict**" in t for t in around[:1]):
            yield f"outputs are folded and nothing is predicted: {start}"
        if "task" not in tags(cell):
            continue
        checks = re.findall(r"(?m)^checks\.\w+\(.*\)$", source)
        if not checks or not source.endswith(checks[-1]):
            yield f"a task doesn't end by its check: {start}"
        if output_text(cell).count("Not written yet") != len(checks):
            yield f"an unfinished stub isn't told so by each of its checks: {start}"
        if not any("★" in t for t in around[:1]) or not any("<summary>" in t for t in around):
            yield f"a task without its ★ before it, or without a folded hint: {start}"


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


def number_complaints(
    book: Notebook, sourced: Iterable[str] = (), rewritten: bool = False
) -> Iterator[str]:
    """Check that each exact number in the prose stands in an output or in code.

    A number may round one that stands there; three digits make it exact. In a rewritten chapter
    two do, and it stands in the same section. Links, places in books, minutes and years are no
    figures.
    """
    parts = _sections(book) if rewritten else [book.cells]
    for cells in parts:
        known = {_value(number) for number in sourced}
        for cell in cells:
            if cell["cell_type"] == "code":
                text = output_text(cell) + "\n" + cell["source"]
                known.update(_value(number) for number in _numbers(text))
        for cell in cells:
            if cell["cell_type"] == "code":
                continue
            for number in _numbers(_figures_of(cell["source"])):
                places = len(number.partition(".")[2])
                if significant_digits(number) >= (2 if rewritten else 3) and not any(
                    round(value, places) == _value(number) for value in known
                ):
                    yield f"{number} stands in the prose but in no output: …{cell['source'][:60]}…"


def _sections(book: Notebook) -> list[list[Cell]]:
    """Cut a notebook where a chapter, a section or an exercise begins."""
    parts: list[list[Cell]] = [[]]
    for cell in book.cells:
        if cell["cell_type"] == "markdown" and re.match("##? ", cell["source"]):
            parts.append([])
        parts[-1].append(cell)
    return parts


def _figures_of(text: str) -> str:
    """Take out of a text the numbers that are no figures."""
    no_figures = (
        r"\[[^\]]*\]\([^)]*\)|<[^>]+>|`[^`]*`",
        r"(?m)^#+ \d+\.\d+ ",  # the number of a section
        r"\bsection \d+(?:\.\d+)*|\b\d+ minutes",
        r"\b(?:1[5-9]|20)\d\d\b(?=\)|,? [a-z])",
    )
    for pattern in no_figures:
        text = re.sub(pattern, " ", text)
    return text.replace("{,}", ",").replace("\u202f", "").replace("\u00a0", "")


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


_SERVING = ("extras.widgets.", "extras.checks.", "extras.figures.")


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
