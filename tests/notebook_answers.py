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
            places = [*code_cells(book)[number + 1 :], *code_cells(solutions)]
            found = [place for place in places if name in definitions(place)]
            if not found:
                raise LookupError(f"{name} has no answer")
            answer = ast.get_source_segment(found[0]["source"], definitions(found[0])[name])
            assert answer is not None
            lines[stub.lineno - 1 : stub.end_lineno] = answer.splitlines()
        cell["source"] = "\n".join(lines)
    return answered
