"""Each rewritten chapter, with every stub answered, runs to its end, and each check says right."""

from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook
from notebook_answers import with_answers
from notebook_files import NOTEBOOKS, chapters, code_cells, output_text, read, run, stem, tags
from notebook_form import REWRITTEN

from gptlib.extras.checks import yours

rewritten = [path for path in chapters() if stem(path) in REWRITTEN]
STUB = "def double(x):\n    ...\n\n\nprint(double(2))"
ANSWER = "def double(x):\n    return 2 * x"


def task(source: str) -> dict[str, object]:
    return new_code_cell(source, metadata={"tags": ["task"]})


def test_every_rewritten_chapter_is_there() -> None:
    assert len(rewritten) == len(REWRITTEN)


@pytest.mark.parametrize("path", rewritten, ids=lambda path: path.stem)
def test_every_check_says_right_when_its_stub_is_answered(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = with_answers(read(path), read(NOTEBOOKS / "solutions" / path.name))
    run(book, tmp_path)
    for cell in code_cells(book):
        if "task" in tags(cell):
            assert output_text(cell).count("Correct: ") == cell["source"].count("\nchecks.")
    monkeypatch.chdir(tmp_path)  # the answers were kept, and can be built on
    kept = [file.stem for file in yours.folder(stem(path)).glob("*.py")]
    assert all(yours.recall(stem(path), name) for name in kept)
    assert len(kept) >= 4


def test_a_stub_takes_its_answer_from_the_cells_below_it_or_from_the_solutions() -> None:
    below = new_notebook(cells=[task(STUB), new_code_cell(ANSWER)])
    alone = new_notebook(cells=[task(STUB)])
    solutions = new_notebook(cells=[new_code_cell(ANSWER)])
    for book in (with_answers(below, new_notebook()), with_answers(alone, solutions)):
        assert book.cells[0]["source"] == f"{ANSWER}\n\n\nprint(double(2))"
    assert alone.cells[0]["source"] == STUB


def test_promoted_cells_above_an_answer_come_along() -> None:
    above = new_code_cell("def helper(x): ...", metadata={"tags": ["promote"]})
    cells = [task(STUB), new_code_cell("x = 1"), above, new_code_cell(ANSWER)]
    answered = with_answers(new_notebook(cells=cells), new_notebook())
    assert answered.cells[0]["source"] == f"def helper(x): ...\n\n\n{ANSWER}\n\n\nprint(double(2))"


def test_a_stub_without_an_answer_is_found() -> None:
    with pytest.raises(LookupError, match="double has no answer"):
        with_answers(new_notebook(cells=[task(STUB)]), new_notebook())
