"""The reader's own copies of the chapters, which no update touches."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from notebook_files import NOTEBOOKS, chapters, is_folded, optional, read, tags

lab = SimpleNamespace(**runpy.run_path(str(NOTEBOOKS / "lab.py")))


def test_every_chapter_is_copied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.main([], tmp_path / "work") == 0
    copies = sorted((tmp_path / "work").iterdir())
    assert [copy.name for copy in copies] == [book.name for book in [*chapters(), *optional()]]
    assert capsys.readouterr().out.count("is new in work/") == len(copies)
    copies[3].write_text("my own work", encoding="utf-8")
    copies[4].unlink()
    assert lab.main([], tmp_path / "work") == 0
    assert copies[3].read_text(encoding="utf-8") == "my own work"
    assert capsys.readouterr().out == f"{copies[4].name} is new in work/\n"


def test_a_copy_hides_what_is_to_be_predicted_and_keeps_the_answers_folded(tmp_path: Path) -> None:
    chapter = next(path for path in chapters() if path.stem == "03_attention")
    book, copy = read(chapter), read(lab.copy_chapter(chapter, tmp_path))
    predicted = [n for n, cell in enumerate(book.cells) if is_folded(cell, "outputs_hidden")]
    assert predicted
    for number, (cell, copied) in enumerate(zip(book.cells, copy.cells, strict=True)):
        assert copied["source"] == cell["source"]
        assert tags(copied) == tags(cell)
        assert is_folded(copied) == is_folded(cell)
        if number in predicted:
            assert copied["outputs"] == []
            assert not is_folded(copied, "outputs_hidden")  # else the answer would stay folded
        else:
            assert copied.get("outputs") == cell.get("outputs")


def test_a_fresh_copy_sets_the_old_ones_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "03_attention.ipynb"
    for text in ("first", "second"):
        copy.write_text(text, encoding="utf-8")
        assert lab.main(["--fresh", "3"], tmp_path) == 0
        assert json.loads(copy.read_text(encoding="utf-8"))["cells"]
    assert (tmp_path / "03_attention.old-1.ipynb").read_text(encoding="utf-8") == "first"
    assert (tmp_path / "03_attention.old-2.ipynb").read_text(encoding="utf-8") == "second"
    assert "03_attention.ipynb is now 03_attention.old-2.ipynb" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 3


def test_a_fresh_copy_needs_no_old_one(tmp_path: Path) -> None:
    assert lab.main(["--fresh", "03"], tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["03_attention.ipynb"]


def test_a_chapter_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.main(["--fresh", "99"], tmp_path) == 1
    assert "there is no chapter '99'; pass its number, such as 03" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
