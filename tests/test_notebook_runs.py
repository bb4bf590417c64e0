"""pytest runs a notebook's cells, compares their outputs, and fails when one differs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from notebook_files import NOTEBOOKS, ROOT
from refresh_notebooks import refresh

SOURCES = [
    ("x = 3\nprint(x)", []),
    ("print(x + 1)", []),
    ("from gptlib.extras.datasets import war_and_peace\ntext = war_and_peace()", ["real-data"]),
    ("print(x + 2)", ["nbval-ignore-output"]),
    ("assert x == 3", []),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one refreshed notebook, on a machine without the data and a network."""
    for name in ("GPTLIB_DATA_MIRROR", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    shutil.copy(NOTEBOOKS / "conftest.py", tmp_path)
    cells = [new_code_cell(source, metadata={"tags": tags}) for source, tags in SOURCES]
    nbformat.write(new_notebook(cells=cells), tmp_path / "book.ipynb")
    refresh(tmp_path / "book.ipynb")
    return tmp_path


def pytest_on(folder: Path, *options: str) -> str:
    settings = [
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(folder),
        "-p",
        "no:cacheprovider",
    ]
    command = [sys.executable, "-m", "pytest", *settings, "--color=no", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ)
    return done.stdout + done.stderr


def change_output(folder: Path, cell: int, text: str) -> None:
    book = nbformat.read(folder / "book.ipynb", as_version=4)
    book.cells[cell].outputs = [nbformat.v4.new_output("stream", text=text)]
    nbformat.write(book, folder / "book.ipynb")


def test_a_notebook_whose_outputs_hold_passes(folder: Path) -> None:
    assert "5 passed" in pytest_on(folder, "book.ipynb")


def test_a_changed_output_fails_unless_its_tag_frees_it(folder: Path) -> None:
    change_output(folder, 1, "5\n")
    change_output(folder, 2, "Call me Ishmael.\n")
    change_output(folder, 3, "6\n")
    printed = pytest_on(folder, "book.ipynb")
    assert "1 failed, 4 passed" in printed
    assert "mismatch 'stdout'" in printed
    assert "cells tagged real-data that were run on a stand-in, not compared: 1" in printed


def test_a_cell_alone_runs_the_cells_above_it_first(folder: Path) -> None:
    assert "1 passed" in pytest_on(folder, "book.ipynb::Cell 4")


def test_the_first_failure_stops_the_run_on_request(folder: Path) -> None:
    change_output(folder, 0, "2\n")
    assert "1 failed in" in pytest_on(folder, "book.ipynb", "-x")


def test_a_picture_is_compared_by_its_description_and_not_by_its_bytes(folder: Path) -> None:
    show = """from IPython.display import HTML
HTML('<img alt="A line." src="data:image/png;base64,aGk+/w==">')"""
    picture = [new_code_cell(show), new_code_cell(show)]
    nbformat.write(new_notebook(cells=picture), folder / "pictures.ipynb")
    refresh(folder / "pictures.ipynb")
    book = nbformat.read(folder / "pictures.ipynb", as_version=4)
    for cell, old, new in zip(book.cells, ("aGk+/w==", "A line"), ("b3Ro", "No line"), strict=True):
        data = cell.outputs[0]["data"]
        data["text/html"] = data["text/html"].replace(old, new)
    nbformat.write(book, folder / "pictures.ipynb")
    assert "1 failed, 1 passed" in pytest_on(folder, "pictures.ipynb")
