"""Put answers in the place of a chapter's stubs, as a reader would who gets everything right."""

import ast
import copy

from notebook_files import Cell, Notebook, code_cells, tags

Definition = ast.FunctionDef | ast.ClassDef


def definitions(cell: Cell) -> dict[str, Definition]:
    """Return the functions and classes that a cell defines, by name."""
    body = ast.parse(cell["source"]).body
    return {node.name: node for node in body if isinstance(node, Definition)}


def with_answers(book: Notebook, solutions: Notebook) -> Notebook:
    """Replace each stub by its answer: the next definition of its name, else the solutions' one.

    Promoted cells between a stub and its answer come along: they define what the answer calls.

    Raises:
        LookupError: If a stub has no answer.
    """
    answered = copy.deepcopy(book)
    cells = code_cells(answered)
    for number, cell in enumerate(cells):
        if "task" not in tags(cell):
            continue
        lines = cell["source"].splitlines()
        for name, stub in reversed(definitions(cell).items()):
            below = code_cells(book)[number + 1 :]
            found = [c for c in [*below, *code_cells(solutions)] if name in definitions(c)]
            if not found:
                raise LookupError(f"{name} has no answer")
            answer = ast.get_source_segment(found[0]["source"], definitions(found[0])[name])
            assert answer is not None
            between = below[: below.index(found[0])] if found[0] in below else []
            helpers = [c["source"] for c in between if "promote" in tags(c)]
            written = "\n\n\n".join([*helpers, answer])
            lines[stub.lineno - 1 : stub.end_lineno] = written.splitlines()
        cell["source"] = "\n".join(lines)
    return answered
