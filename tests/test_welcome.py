import pytest

from gptlib.extras.checks import welcome as checks
from gptlib.extras.widgets.welcome import NextWord


def test_the_slider_moves_the_border_between_context_and_target() -> None:
    widget = NextWord("so it <goes>")
    assert (widget.context, widget.target) == (["so"], "it")
    widget.known.value = 2
    assert (widget.context, widget.target) == (["so", "it"], "<goes>")
    assert "<b>?</b>" in widget.line.value


def test_the_next_word_shows_on_request_and_hides_after_a_move() -> None:
    widget = NextWord("so it <goes>")
    widget.known.value = 2
    widget.reveal.value = True
    assert "<b>&lt;goes&gt;</b>" in widget.line.value
    widget.known.value = 1
    assert not widget.reveal.value
    assert "<b>?</b>" in widget.line.value


def test_one_word_is_no_sentence_to_guess() -> None:
    with pytest.raises(ValueError, match="pass at least two words"):
        NextWord("so")


Pairs = list[tuple[list[str], str]]


def right(words: list[str]) -> Pairs:
    return [(words[:n], words[n]) for n in range(1, len(words))]


def too_many(words: list[str]) -> Pairs:
    return [*right(words), (words, "")]


def too_early(words: list[str]) -> Pairs:
    return [(words[:n], words[n - 1]) for n in range(1, len(words))]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda words: None, "Not done yet"),
        (right, "Correct"),
        (too_many, "One pair too many"),
        (too_early, "one word too early"),
        (lambda words: [], "Not yet"),
    ],
)
def test_the_check_names_the_mistake(
    function: "type[object]", says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.next_words(function)  # type: ignore[arg-type]
    assert says in capsys.readouterr().out
