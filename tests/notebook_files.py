"""Where the notebooks and the taught modules are, and how to read and run them.

`notebooks/03_attention.ipynb` teaches `gptlib/attention.py`: the stem is the map, and the numbers
are the order. Every check of the notebooks, and the script that refreshes them, starts here.
"""

import ast
import hashlib
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"

FOLDS = ("source_hidden", "outputs_hidden")
"""What JupyterLab folds: the code of a cell, and what it printed."""

Cell = dict[str, Any]
Notebook = Any  # nbformat's NotebookNode: a dict whose keys are attributes too


def chapters() -> list[Path]:
    """List the chapters in the order in which they are read, the welcome page first."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def solutions() -> list[Path]:
    """List the notebooks with the solutions of the exercises."""
    return sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))


def optional() -> list[Path]:
    """List the notebooks that belong to no chapter."""
    return sorted((NOTEBOOKS / "optional").glob("*.ipynb"))


def stem(path: Path) -> str:
    """Return the name that a chapter shares with its module: "attention" of 03_attention.ipynb."""
    return path.stem.split("_", 1)[1]


def taught_stems() -> list[str]:
    """List the taught modules in the order of their chapters."""
    return [stem(path) for path in chapters() if stem(path) != "welcome"]


def module_path(name: str) -> Path:
    """Return the file of a taught module."""
    return ROOT / "gptlib" / f"{name}.py"


def read(path: Path) -> Notebook:
    """Read a notebook in format 4."""
    return nbformat.read(path, as_version=4)


def tags(cell: Cell) -> list[str]:
    """Return the tags of a cell."""
    return list(cell["metadata"].get("tags", []))


def is_folded(cell: Cell, what: str = "source_hidden") -> bool:
    """Say whether JupyterLab shows only the first line of a cell's code, or of its outputs."""
    return bool(cell["metadata"].get("jupyter", {}).get(what))


def code_cells(book: Notebook) -> list[Cell]:
    """Return the code cells in order."""
    return [cell for cell in book.cells if cell["cell_type"] == "code"]


def markdown_cells(book: Notebook) -> list[Cell]:
    """Return the Markdown cells in order."""
    return [cell for cell in book.cells if cell["cell_type"] == "markdown"]


def output_text(cell: Cell) -> str:
    """Return all text that stands in the outputs of a code cell."""
    pieces = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        pieces += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
        pieces += [output.get("evalue", "")]
    return re.sub(r"(?<=;base64,)[\w+/=]+", "", "\n".join(pieces))  # pictures are no text


def public_names(source: str) -> list[str]:
    """List the functions, classes and constants that a module defines at its top level."""
    names: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_")]


def run(book: Notebook, folder: Path) -> None:
    """Execute all cells in order, in the folder of the notebook; an error stops at its cell."""
    NotebookClient(
        book, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


def normalize(book: Notebook) -> None:
    """Keep what readers and tests need, drop what changes from run to run.

    Cell ids follow from the cells' text, so an insertion changes no other id; a widget's view,
    useless without a kernel, leaves only the text that names it.
    """
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = nbformat.from_dict({"kernelspec": spec})
    book.nbformat, book.nbformat_minor = 4, 5
    seen: set[str] = set()
    count = 0
    for cell in book.cells:
        folded = {name: True for name in FOLDS if cell["metadata"].get("jupyter", {}).get(name)}
        kept = {"tags": tags(cell), "jupyter": folded}
        cell["metadata"] = nbformat.from_dict(
            {name: value for name, value in kept.items() if value}
        )
        cell["source"] = cell["source"].rstrip()
        digest = hashlib.sha256(f"{cell['cell_type']}\n{cell['source']}".encode()).hexdigest()
        length = next(n for n in range(8, 64) if digest[:n] not in seen)
        cell["id"] = digest[:length]
        seen.add(cell["id"])
        cell.pop("attachments", None)
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"] = count
            cell["outputs"] = _normalize_outputs(cell["outputs"], count)


def _normalize_outputs(outputs: list[Any], count: int) -> list[Any]:
    kept: list[Any] = []
    for output in outputs:
        if output["output_type"] == "stream" and kept and kept[-1].get("name") == output["name"]:
            kept[-1]["text"] += output["text"]
            continue
        if output["output_type"] in ("display_data", "execute_result"):
            output["data"].pop("application/vnd.jupyter.widget-view+json", None)
            alt = output["metadata"].get("image/png", {}).get("alt")
            picture = {"image/png": {"alt": alt}} if alt else {}
            output["metadata"] = nbformat.from_dict(picture)
        if output["output_type"] == "execute_result":
            output["execution_count"] = count
        kept.append(output)
    return kept
