"""Run notebooks from top to bottom and store them in the form that the tests ask for.

    python tests/refresh_notebooks.py                               all of them
    python tests/refresh_notebooks.py notebooks/03_attention.ipynb  one
    python tests/refresh_notebooks.py --form-only NOTEBOOK          without running it

A notebook that fails stays as it was, and the error says which cell.
"""

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError
from notebook_files import chapters, normalize, optional, read, run, solutions


def refresh(path: Path, *, execute: bool = True) -> None:
    """Run one notebook, normalise it, and put it in place of the old one when all went well."""
    book = read(path)
    for cell in book.cells:
        cell["metadata"].pop("execution", None)
    if execute:
        run(book, path.parent)
    normalize(book)
    nbformat.validate(book)
    draft = path.with_suffix(".ipynb.part")
    nbformat.write(book, draft)
    draft.replace(path)


def main() -> int:
    """Refresh the notebooks named on the command line, or all; return the number that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all, if none is named")
    parser.add_argument("--form-only", action="store_true", help="normalise without running")
    arguments = parser.parse_args()
    failures = 0
    for path in arguments.notebooks or [*chapters(), *solutions(), *optional()]:
        start = time.perf_counter()
        try:
            refresh(path, execute=not arguments.form_only)
        except CellExecutionError as error:
            failures += 1
            print(f"{path.name}: not refreshed\n{error}", file=sys.stderr)
        else:
            print(f"{path.name}: {time.perf_counter() - start:.0f} s")
    return failures


if __name__ == "__main__":
    sys.exit(main())
