"""The welcome page: the model that writes, the map, and the check of its one task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_model import BYTES, END, small

from gptlib.extras.checks import welcome as checks
from gptlib.extras.figures.machine import course_map
from gptlib.extras.widgets.welcome import N_BARS, NextToken

SO_IT = BYTES.encode("so it")


@pytest.fixture
def widget() -> NextToken:
    return NextToken(small(), BYTES, "so it")


def test_the_bars_are_those_of_the_model_after_the_temperature(widget: NextToken) -> None:
    widget.temperature.value = 0.5
    with torch.no_grad():
        expected = (widget.model(torch.tensor([SO_IT]))[0, -1] / 0.5).softmax(dim=-1)
    torch.testing.assert_close(widget.probabilities(), expected)
    assert widget.bars.value.count("<tr>") == N_BARS
    assert f"<td>{expected.max():.0%}</td>" in widget.bars.value


def test_at_temperature_0_the_longest_bar_is_all(widget: NextToken) -> None:
    best = int(widget.probabilities().argmax())
    widget.temperature.value = 0
    assert widget.probabilities()[best] == 1
    widget.one.click()
    assert widget.tokens == [*SO_IT, best]


def test_what_is_written_is_appended_and_what_is_typed_is_read(widget: NextToken) -> None:
    widget.many.click()
    assert len(widget.tokens) == len(SO_IT) + 20
    assert widget.tokens[:5] == SO_IT
    before = widget.bars.value
    widget.text.value = "Natásha"
    assert widget.tokens == BYTES.encode("Natásha")
    assert widget.bars.value != before


def test_half_a_character_waits_for_its_other_half(widget: NextToken) -> None:
    widget.text.value = ""
    both = [*BYTES.encode("é"), END]  # the last: what the bars show in the end

    def certain() -> torch.Tensor:
        return torch.eye(END + 1)[both[len(widget.tokens)]]

    widget.probabilities = certain  # type: ignore[method-assign]
    widget.write(2)
    assert widget.text.value == "é"


def test_an_empty_text_and_one_beyond_the_context_can_go_on(widget: NextToken) -> None:
    for text in ("", "so it goes " * 50):
        widget.text.value = text
        assert widget.probabilities().sum() == pytest.approx(1)


def test_the_map_names_every_chapter() -> None:
    picture = course_map()
    texts = [text.get_text() for text in picture.figure.axes[0].texts]
    for chapter in range(1, 11):
        assert any(text.startswith(f"{chapter}  ") for text in texts)
        assert str(chapter) in picture.alt


def growing(words: list[str], copied: bool = False) -> list[tuple[list[str], str]]:
    """Append to one list, and hand it out each time, as it is or as a copy."""
    seen, pairs = words[:1], []
    for word in words[1:]:
        pairs.append((list(seen) if copied else seen, word))
        seen.append(word)
    return pairs


def found_by_value(words: list[str]) -> list[tuple[list[str], str]]:
    return [(words[: words.index(word)], word) for word in words[1:]]


def found_by_a_dictionary(words: list[str]) -> list[tuple[list[str], str]]:
    places = {word: place for place, word in enumerate(words)}
    return [(words[: places[word]], word) for word in words[1:]]


def each_word_once(words: list[str]) -> list[tuple[list[str], str]]:
    words = list(dict.fromkeys(words))
    return [(words[:n], words[n]) for n in range(1, len(words))]


ANSWERS: dict[str, Callable[[list[str]], Any]] = {
    "Not written yet": lambda words: None,
    "Correct: ": lambda words: [(words[:n], words[n]) for n in range(1, len(words))],
    "Correct: 3 words": lambda w: tuple((tuple(w[:-n]), w[-n]) for n in range(len(w) - 1, 0, -1)),
    "but in a generator; list(...)": lambda w: ((w[:n], w[n]) for n in range(1, len(w))),
    "but in a zip": lambda words: zip((words[:n] for n in range(1, 9)), words[1:], strict=False),
    "before the first word": lambda words: [(words[:n], words[n]) for n in range(len(words))],
    "after the last word": lambda words: [
        (words[:n], (*words, "")[n]) for n in range(1, len(words) + 1)
    ],
    "contains its own answer": lambda w: [(w[: n + 1], w[n]) for n in range(len(w))],
    "after ['so'] comes 'it'": lambda w: [(w[:n], w[n - 1]) for n in range(1, len(w))],
    "your beginning contains": lambda w: [(w[: i + 1], w[i]) for i in range(1, len(w))],
    "are one list, changed later; copy it": growing,
    "Correct: 3 words give 2 pairs": lambda words: growing(words, copied=True),
    "gets the same beginning both times": found_by_value,
    "go through the places, not the words": found_by_a_dictionary,
    "but next_words(['so', 'it', 'is', 'so', 'it']) is not": each_word_once,
    "right for three words": lambda words: [(["so"], "it"), (["so", "it"], "goes")],
    "It prints; return the result instead.": lambda words: print(words),
    "(words, word), not 3": lambda words: 3,
    "'goes' is missing": lambda words: [(words[:n], words[n]) for n in range(1, len(words) - 1)],
    "changes the list of words": lambda words: [words.pop()],
    "a list of pairs": lambda words: [1, 2],
    "raised IndexError": lambda words: words[9],
    "is [(['so'], 'it'), (['so', 'it'], 'goes')], not []": lambda words: [],
}


@pytest.mark.parametrize("expected", ANSWERS)
def test_the_check_names_the_mistake(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.next_words(ANSWERS[expected])
    assert expected in capsys.readouterr().out


def test_a_right_answer_of_a_chapter_without_a_module_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "def next_words(words):\n    return [(words[:n], words[n]) for n in range(1, len(words))]"
    )
    path, names = tmp_path / "cell.py", {"__name__": "__main__"}
    path.write_text(source)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    exec(compile(source, str(path), "exec"), names)
    checks.next_words(names["next_words"])
    assert capsys.readouterr().out.endswith("Kept in work/yours.\n")
    assert (tmp_path / "work" / "yours" / "welcome" / "next_words.py").is_file()
