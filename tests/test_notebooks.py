"""Every stored notebook has the form of the course, and each check of it can fail."""

import json
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_files import (
    NOTEBOOKS,
    ROOT,
    Notebook,
    chapters,
    module_path,
    normalize,
    optional,
    public_names,
    read,
    run,
    solutions,
    stem,
    taught_stems,
)
from notebook_form import (
    LARGER,
    LIMITS,
    REWRITTEN,
    early_name_complaints,
    exercise_titles,
    figure_complaints,
    form_complaints,
    load,
    load_complaints,
    number_complaints,
    rhythm_complaints,
    significant_digits,
    task_complaints,
)
from refresh_notebooks import refresh

SOURCED: dict[str, dict[str, str]] = json.loads(
    (ROOT / "tests" / "sourced_facts.json").read_text(encoding="utf-8")
)


def name_of(path: Path) -> str:
    return path.relative_to(NOTEBOOKS).with_suffix("").as_posix()


every_notebook = pytest.mark.parametrize(
    "path", [*chapters(), *solutions(), *optional()], ids=name_of
)
every_chapter = pytest.mark.parametrize("path", chapters()[1:], ids=name_of)
every_rewritten = pytest.mark.parametrize(
    "path", [path for path in chapters() if stem(path) in REWRITTEN], ids=name_of
)


@every_notebook
def test_the_stored_form_is_clean(path: Path) -> None:
    nbformat.validate(read(path))
    assert list(form_complaints(read(path))) == []


@every_notebook
def test_normalising_again_changes_nothing(path: Path) -> None:
    again = read(path)
    normalize(again)
    assert again == read(path)


@every_notebook
def test_every_figure_is_described_in_words(path: Path) -> None:
    assert list(figure_complaints(read(path))) == []


@every_notebook
def test_every_number_in_the_prose_stands_in_an_output(path: Path) -> None:
    facts, rewritten = SOURCED.get(path.stem, {}), stem(path) in REWRITTEN
    assert list(number_complaints(read(path), facts, rewritten)) == []


@every_notebook
def test_no_name_of_a_later_chapter_is_used(path: Path) -> None:
    if stem(path) == "welcome" or path in optional():
        return  # the welcome page is the map of all chapters, and the others follow them
    stems = taught_stems()
    here = stems.index(stem(path)) + 1
    sources = {name: module_path(name).read_text(encoding="utf-8") for name in stems}
    earlier = {name for module in stems[:here] for name in public_names(sources[module])}
    later = {module: sources[module] for module in stems[here:]}
    assert list(early_name_complaints(read(path), earlier, later)) == []


@every_chapter
def test_a_chapter_links_the_card_of_letters(path: Path) -> None:
    assert "](../notebooks/symbols.md)" in "".join(cell["source"] for cell in read(path).cells[:5])
    assert (ROOT / "notebooks" / "symbols.md").is_file()


@every_chapter
def test_a_chapter_has_the_rhythm_of_the_course(path: Path) -> None:
    assert list(rhythm_complaints(read(path), stem(path) in REWRITTEN)) == []


@pytest.mark.parametrize(
    "path", [path for path in chapters() if stem(path) in ("welcome", *REWRITTEN)], ids=name_of
)
def test_a_rewritten_chapter_is_one_sitting(path: Path) -> None:
    assert list(load_complaints(read(path), stem(path))) == []


@every_rewritten
def test_a_rewritten_chapter_lets_its_reader_write_and_predict(path: Path) -> None:
    assert list(task_complaints(read(path))) == []


@every_chapter
def test_every_exercise_has_its_solution(path: Path) -> None:
    assert exercise_titles(read(NOTEBOOKS / "solutions" / path.name)) == exercise_titles(read(path))


def test_sourced_facts_belong_to_notebooks_and_name_a_source() -> None:
    assert set(SOURCED) <= {path.stem for path in chapters()}
    assert all(len(source) > 10 for facts in SOURCED.values() for source in facts.values())


# The checks themselves: a good small notebook passes, and each single fault is found.


def good_book() -> Notebook:
    alt = "A line that rises from 1 to 2 while x goes from 0 to 1."
    figure = new_output(
        "display_data",
        data={"image/png": "aGk=", "text/plain": f"Figure: {alt}"},
        metadata={"image/png": {"alt": alt}},
    )
    book = new_notebook(
        cells=[
            new_markdown_cell("# A title"),
            new_code_cell("print(12345)", outputs=[new_output("stream", text="12345\n")]),
            new_code_cell("show(figure, text)", outputs=[figure]),
        ]
    )
    normalize(book)
    return book


Check = Callable[[Notebook], Iterator[str]]
Fault = Callable[[Any], object]


def stderr(book: Any) -> None:
    book.cells[1].outputs = [new_output("stream", name="stderr", text="oh")]


def printed(text: str) -> Fault:
    def change(book: Any) -> None:
        book.cells[1].outputs[0]["text"] = text

    return change


def error(book: Any) -> None:
    book.cells[1].outputs = [new_output("error", ename="E", evalue="", traceback=[])]


def widget_view(book: Any) -> None:
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "ab"}}
    book.cells[1].outputs = [new_output("display_data", data=view)]


def ignored(book: Any) -> None:
    book.cells[1].metadata["tags"] = ["nbval-ignore-output"]


FORM_FAULTS: dict[str, Fault] = {
    "metadata": lambda book: book.metadata.update(widgets={}),
    "same id": lambda book: book.cells[1].update(id=book.cells[2]["id"]),
    "execution count None": lambda book: book.cells[1].update(execution_count=None),
    "execution count 7": lambda book: book.cells[1].update(execution_count=7),
    "is empty": lambda book: book.cells[1].update(source=" "),
    "nbval-skip": lambda book: book.cells[1].metadata.update(tags=["nbval-skip"]),
    "collapsed": lambda book: book.cells[1].metadata.update(collapsed=True),
    "stderr": stderr,
    "an error is left": error,
    "widget": widget_view,
    "absolute path": printed("/home/me/x.txt"),
    "left in the outputs: 'C:": printed(r"C:\Users\me"),
    "memory address": printed("<object at 0x7f3a12bc>"),
    "progress bar": printed("50%|#####     | 5/10"),
    "warning": printed("UserWarning: careful"),
    "asserts nothing": ignored,
    "remote image": lambda book: book.cells[0].update(source="![x](https://example.org/x.png)"),
}


def test_a_good_notebook_has_no_complaint() -> None:
    book = good_book()
    assert list(form_complaints(book)) == list(figure_complaints(book)) == []


@pytest.mark.parametrize("expected", FORM_FAULTS)
def test_each_fault_of_form_is_found(expected: str) -> None:
    book = good_book()
    FORM_FAULTS[expected](book)
    complaints = list(form_complaints(book))
    words = expected.replace("'", "")
    assert any(words in complaint.replace("'", "") for complaint in complaints), complaints


@pytest.mark.parametrize(
    "metadata", [{}, {"image/png": {"alt": "too short"}}, {"image/png": {"alt": "x" * 50}}]
)
def test_a_figure_without_its_description_is_found(metadata: dict[str, Any]) -> None:
    book = good_book()
    book.cells[2].outputs[0]["metadata"] = nbformat.from_dict(metadata)
    assert len(list(figure_complaints(book))) == 1


def test_a_number_that_no_output_shows_is_found() -> None:
    book = good_book()
    book.cells[0]["source"] = (
        "It printed 12,345, or 12345; about 12 or 0.01; see [2](http://x/123)."
    )
    assert list(number_complaints(book)) == []
    book.cells[0]["source"] = "## 10.1 The number of a section"
    assert list(number_complaints(book)) == []
    book.cells[0]["source"] = "It printed 12,346 this time."
    assert len(list(number_complaints(book))) == 1
    assert list(number_complaints(book, {"12,346": "a source"})) == []


def test_in_a_rewritten_chapter_two_digits_stand_in_their_section() -> None:
    book = good_book()
    book.cells[0]["source"] = (
        "About 12,345: 5 or 20 of them in 25 minutes, as `f(17)` and section 3.2 say."
    )
    assert list(number_complaints(book, rewritten=True)) == []
    book.cells[0]["source"] = "It took 52 rounds."
    assert list(number_complaints(book)) == []
    assert len(list(number_complaints(book, rewritten=True))) == 1
    assert list(number_complaints(book, {"52": "a source"}, rewritten=True)) == []
    book.cells[0]["source"] = "It printed 12,345."
    book.cells.insert(1, new_markdown_cell("## 1.2 Another section"))
    assert len(list(number_complaints(book, rewritten=True))) == 1


@pytest.mark.parametrize(
    ("number", "digits"),
    [("100", 1), ("1,024", 4), ("0.02", 1), ("0.020", 2), ("4.57", 3), ("50257", 5), ("10.0", 3)],
)
def test_significant_digits_are_those_that_a_number_claims(number: str, digits: int) -> None:
    assert significant_digits(number) == digits


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("code", "model = GPT(3)"),
        ("code", "from gptlib.gpt2 import GPT"),
        ("code", "from gptlib import gpt2"),
        ("code", "import gptlib.gpt2"),
        ("code", "from gptlib.extras.widgets.gpt2 import X"),
        ("code", "z.attention_maps(3)"),
        ("markdown", "Later `GPT` will do this."),
        ("markdown", "It moves to `gptlib.gpt2`."),
    ],
)
def test_a_name_that_comes_too_early_is_found(kind: str, source: str) -> None:
    later = {"gpt2": "class GPT: ...\ndef attention_maps(): ...\ndef block(): ..."}
    fine = [new_code_cell("block = 1\nmask = causal_mask"), new_markdown_cell("GPT and `block`")]
    assert list(early_name_complaints(new_notebook(cells=fine), {"causal_mask"}, later)) == []
    cell = new_code_cell(source) if kind == "code" else new_markdown_cell(source)
    assert list(early_name_complaints(new_notebook(cells=[cell]), set(), later))
    assert not list(early_name_complaints(new_notebook(cells=[cell]), {"GPT"}, {}))


def rhythmic_book() -> Notebook:
    start = [new_code_cell("import gptlib.extras.widgets"), new_markdown_cell("Some words.")]
    exercises = [f"### Exercise {n} ★ (5 min)\n<summary>Hint</summary>" for n in (1, 2, 3)]
    return new_notebook(cells=[*start, *map(new_markdown_cell, exercises)])


RHYTHM_FAULTS: dict[str, Fault] = {
    "exercises; a chapter": lambda book: book.cells.pop(),
    "no folded hint": lambda book: book.cells[-1].update(source="### Exercise 3 ★"),
    "five links": lambda book: book.cells[1].update(source="[a](https://b) " * 6),
    "no widget": lambda book: book.cells[0].update(source="x = 1"),
}


@pytest.mark.parametrize("expected", RHYTHM_FAULTS)
def test_each_fault_of_rhythm_is_found(expected: str) -> None:
    book = rhythmic_book()
    assert list(rhythm_complaints(book)) == []
    RHYTHM_FAULTS[expected](book)
    assert any(expected in complaint for complaint in rhythm_complaints(book))


def book_with_a_task() -> Notebook:
    unfinished = new_output("stream", text="Not written yet: f returns nothing.\n")
    fold = {"jupyter": {"outputs_hidden": True}}
    stub = "def f(x):\n    ...\n\n\nchecks.f(f)"
    return new_notebook(
        cells=[
            new_code_cell('machine("attention")'),
            new_markdown_cell("A **term**. **Predict**: what is 1 + 1?"),
            new_code_cell("print(1 + 1)", metadata=fold),
            new_markdown_cell("### Your turn ★ 5 minutes"),
            new_code_cell(stub, metadata={"tags": ["task"]}, outputs=[unfinished]),
            new_markdown_cell("<summary>A hint</summary>"),
            new_code_cell("def f(x):\n    return x", metadata={"jupyter": {"source_hidden": True}}),
        ]
    )


TASK_FAULTS: dict[str, Fault] = {
    "where we are": lambda book: book.cells.pop(0),
    "to a prediction is not folded": lambda book: book.cells[2].metadata.clear(),
    "nothing is predicted": lambda book: book.cells[1].update(source="What is 1 + 1?"),
    "end by its check": lambda book: book.cells[4].update(source="def f(x):\n    ..."),
    "isn't told so": lambda book: book.cells[4].outputs.clear(),
    "without its ★": lambda book: book.cells[3].update(source="### Your turn"),
    "folded hint": lambda book: book.cells[5].update(source="No hint."),
}


@pytest.mark.parametrize("expected", TASK_FAULTS)
def test_each_fault_of_a_task_is_found(expected: str) -> None:
    book = book_with_a_task()
    assert list(task_complaints(book)) == []
    TASK_FAULTS[expected](book)
    assert any(expected in complaint for complaint in task_complaints(book))


def test_the_load_of_a_chapter_is_counted() -> None:
    assert load(book_with_a_task()) == {
        "words": 16,
        "visible code lines": 5,
        "new terms": 1,
        "folded lines besides promoted ones": 2,
        "tasks": 1,
        "promoted lines": 0,
        "promoted names": 0,
    }


def test_imports_that_are_folded_ask_nothing() -> None:
    book = book_with_a_task()
    before = load(book)
    first = next(cell for cell in book.cells if cell["cell_type"] == "code")
    first["metadata"]["jupyter"] = {"source_hidden": True}
    after = load(book)
    assert after["visible code lines"] < before["visible code lines"]
    assert after["folded lines besides promoted ones"] == 2


@pytest.mark.parametrize("name", LIMITS)
def test_too_much_of_anything_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    book = book_with_a_task()
    book.cells.append(new_code_cell("X = 1", metadata={"tags": ["promote"]}))
    assert list(load_complaints(book)) == []
    monkeypatch.setitem(LIMITS, name, 0)
    assert [name in complaint for complaint in load_complaints(book)] == [True]


def test_a_chapter_may_have_more_where_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "tasks", 0)
    monkeypatch.setitem(LARGER, "attention", {"tasks": 1})
    assert list(load_complaints(book_with_a_task(), "attention")) == []
    assert list(load_complaints(book_with_a_task(), "gpt2")) == ["1 tasks; at most 0"]


def test_a_picture_in_html_needs_its_description_too() -> None:
    alt = "A line that rises from 1 to 2 while x goes from 0 to 1 & “more”."
    book = good_book()
    book.cells[2].outputs[0]["data"] = data = nbformat.from_dict(
        {
            "text/html": f'<figure><img alt="{escape(alt)}" src=""></figure>',
            "text/plain": f"F: {alt}",
        }
    )
    assert list(figure_complaints(book)) == []
    data["text/html"] = '<figure><img src=""></figure>'
    assert len(list(figure_complaints(book))) == 1


def test_the_bytes_of_a_picture_are_no_numbers_of_an_output() -> None:
    book = good_book()
    html = '<img src="data:image/png;base64,ab+12346/root=">'
    book.cells[1].outputs = [new_output("display_data", data={"text/html": html})]
    book.cells[0]["source"] = "It printed 12,346 this time."
    assert len(list(number_complaints(book))) == 1
    assert not any("path" in complaint for complaint in form_complaints(book))


def test_the_normal_form_keeps_what_is_folded() -> None:
    book = book_with_a_task()
    book.cells[2].metadata["jupyter"]["more"] = True
    assert any("metadata" in complaint for complaint in form_complaints(book))
    normalize(book)
    assert book.cells[2].metadata == {"jupyter": {"outputs_hidden": True}}
    assert not any("metadata" in complaint for complaint in form_complaints(book))


def test_the_normal_form_keeps_alt_texts_and_drops_the_rest() -> None:
    book = good_book()
    book.cells[1].metadata["collapsed"] = True
    book.cells[1].outputs.append(new_output("stream", text="more\n"))
    book.cells[1].execution_count = None
    book.metadata["widgets"] = {}
    normalize(book)
    assert list(form_complaints(book)) == list(figure_complaints(book)) == []
    assert book.cells[1].outputs[0].text == "12345\nmore\n"


def test_ids_follow_the_text_and_not_the_place() -> None:
    book, longer = good_book(), good_book()
    longer.cells.insert(0, new_markdown_cell("First"))
    longer.cells.append(new_markdown_cell("First"))
    normalize(longer)
    ids = [cell["id"] for cell in longer.cells]
    assert ids[1:4] == [cell["id"] for cell in book.cells]
    assert len(set(ids)) == len(ids)


def test_a_notebook_that_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "bad.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        refresh(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_refreshed_notebook_is_in_normal_form(tmp_path: Path) -> None:
    path = tmp_path / "good.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("print(2)\n3")]), path)
    refresh(path)
    book = read(path)
    assert list(form_complaints(book)) == []
    assert [output.output_type for output in book.cells[0].outputs] == ["stream", "execute_result"]
    run(book, tmp_path)
