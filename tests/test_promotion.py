"""Every chapter's promoted cells are its module, and the comparison itself can fail."""

from pathlib import Path

import pytest
from notebook_files import ROOT, chapters, module_path, read, stem, taught_stems
from promotion import promoted_source, promotion_diff

MODULE = '''
"""A module."""
import math

LIMIT = 3

def double(x: int) -> int:
    """Double x.

    Args:
        x: Any number.
    """
    return 2 * x  # a comment

class Counter:
    """Count."""

    start: int = 0
    """Where to begin."""
'''

NOTEBOOK = '''
LIMIT = 3
def double(x: int) -> int:
    """Double x."""
    return (2 *
            x)
class Counter:
    start: int = 0
'''


@pytest.mark.parametrize("path", chapters()[1:], ids=lambda path: path.stem)
def test_the_promoted_cells_are_the_module(path: Path) -> None:
    module = module_path(stem(path)).read_text(encoding="utf-8")
    difference = promotion_diff(promoted_source(read(path)), module, stem(path))
    assert not difference, f"{path.name} and its module differ:\n{difference}"


def test_every_taught_module_has_a_chapter_and_every_chapter_a_module() -> None:
    modules = {path.stem for path in (ROOT / "gptlib").glob("*.py")}
    assert modules - {"__init__", "__main__"} == set(taught_stems())


def test_docstrings_comments_imports_and_layout_may_differ() -> None:
    assert promotion_diff(NOTEBOOK, MODULE, "m") == ""


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        ("LIMIT = 3\n", "", "+LIMIT = 3"),
        ("LIMIT = 3", "LIMIT = 4", "-LIMIT = 4"),
        ("2 *", "3 *", "-    return 3 * x"),
        ("x: int", "x: float", "-def double(x: float) -> int:"),
        ("start: int = 0", "start: int = 1", "-    start: int = 1"),
        ("class Counter", "class Tally", "-class Tally:"),
        ("LIMIT = 3", "LIMIT = 3\nEXTRA = 1", "-EXTRA = 1"),
    ],
)
def test_a_change_in_the_notebook_is_shown(before: str, after: str, seen: str) -> None:
    assert before in NOTEBOOK
    assert seen in promotion_diff(NOTEBOOK.replace(before, after, 1), MODULE, "m").splitlines()


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        ("LIMIT = 3\n", "", "-LIMIT = 3"),
        ("return 2 * x", "return x + x", "+    return x + x"),
        (
            "LIMIT = 3",
            "LIMIT = 3\n\ndef extra() -> None:\n    return None",
            "+def extra() -> None:",
        ),
        ("    start: int = 0", "    start: int = 0\n    step: int = 1", "+    step: int = 1"),
    ],
)
def test_a_change_in_the_module_is_shown(before: str, after: str, seen: str) -> None:
    assert before in MODULE
    assert seen in promotion_diff(NOTEBOOK, MODULE.replace(before, after, 1), "m").splitlines()


def test_another_order_is_shown() -> None:
    head, tail = NOTEBOOK.split("class Counter")
    reordered = "class Counter" + tail + head
    assert promotion_diff(reordered, MODULE, "m")
    assert promotion_diff(NOTEBOOK, MODULE.replace("LIMIT = 3\n", "") + "\nLIMIT = 3\n", "m")
