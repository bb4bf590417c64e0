"""The welcome page: the model that writes, the map, and the check of its one task."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from byte_model import BYTES, END, small

from gptlib.extras.checks import welcome as checks
from gptlib.extras.figures.machine import course_map
from gptlib.extras.widgets.welcome import N_BARS, Writer

SO_IT = BYTES.encode("so it")


@pytest.fixture
def writer() -> Writer:
    return Writer(small(), BYTES, "so it")


def test_the_bars_are_those_of_the_model_after_the_temperature(writer: Writer) -> None:
    writer.temperature.value = 0.5
    with torch.no_grad():
        expected = (writer.model(torch.tensor([SO_IT]))[0, -1] / 0.5).softmax(dim=-1)
    torch.testing.assert_close(writer.probabilities(), expected)
    assert writer.bars.value.count("<tr>") == N_BARS
    assert f"<td>{expected.max():.0%}</td>" in writer.bars.value


def test_at_temperature_0_the_longest_bar_is_all(writer: Writer) -> None:
    best = int(writer.probabilities().argmax())
    writer.temperature.value = 0
    assert writer.probabilities()[best] == 1
    writer.one.click()
    assert writer.tokens == [*SO_IT, best]


def test_what_is_written_is_appended_and_what_is_typed_is_read(writer: Writer) -> None:
    writer.many.click()
    assert len(writer.tokens) == len(SO_IT) + 20
    assert writer.tokens[:5] == SO_IT
    before = writer.bars.value
    writer.text.value = "Natásha"
    assert writer.tokens == BYTES.encode("Natásha")
    assert writer.bars.value != before


def test_half_a_character_waits_for_its_other_half(writer: Writer) -> None:
    writer.text.value = ""
    both = [*BYTES.encode("é"), END]  # the last: what the bars show in the end

    def certain() -> torch.Tensor:
        return torch.eye(END + 1)[both[len(writer.tokens)]]

    writer.probabilities = certain  # type: ignore[method-assign]
    writer.write(2)
    assert writer.text.value == "é"


def test_an_empty_text_and_one_beyond_the_context_can_go_on(writer: Writer) -> None:
    for text in ("", "so it goes " * 50):
        writer.text.value = text
        assert writer.probabilities().sum() == pytest.approx(1)


def test_the_map_names_every_chapter() -> None:
    picture = course_map()
    texts = [text.get_text() for text in picture.figure.axes[0].texts]
    for chapter in range(1, 11):
        assert any(text.startswith(f"{chapter}  ") for text in texts)
        assert str(chapter) in picture.alt


ANSWERS: dict[str, Callable[[list[str]], Any]] = {
    "Not written yet": lambda words: None,
    "Correct: ": lambda words: [(words[:n], words[n]) for n in range(1, len(words))],
    "Correct: 3 words": lambda words: [(tuple(words[:-n]), words[-n]) for n in (2, 1)],
    "before the first word": lambda words: [(words[:n], words[n]) for n in range(len(words))],
    "after the last word": lambda words: [
        (words[:n], (*words, "")[n]) for n in range(1, len(words) + 1)
    ],
    "one word too early": lambda words: [(words[:n], words[n - 1]) for n in range(1, len(words))],
    "'goes' is missing": lambda words: [(words[:n], words[n]) for n in range(1, len(words) - 1)],
    "changes the list of words": lambda words: [words.pop()],
    "a list of pairs": lambda words: [1, 2],
    "raised IndexError": lambda words: words[9],
    "gave [], expected": lambda words: [],
}


@pytest.mark.parametrize("expected", ANSWERS)
def test_the_check_names_the_mistake(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.next_words(ANSWERS[expected])
    assert expected in capsys.readouterr().out
