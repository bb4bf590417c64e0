"""The figures of the chapter on the tokenizer, judged by the data that they draw."""

from typing import Any

import pytest
from matplotlib.patches import FancyBboxPatch

from gptlib.extras.figures import Picture
from gptlib.extras.figures import tokenizer as figures
from gptlib.extras.plots import png

SMILE = [(5, b"a"), (6, b" \xf0\x9f"), (7, b"\x99\x82!")]


def axes(picture: Picture) -> Any:
    return picture.figure.axes[0]


def texts(picture: Picture) -> list[str]:
    return [text.get_text() for text in axes(picture).texts]


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (b" \n\t", "·⏎⇥"),
        (b"\x00", r"\x00"),
        ("\u200b".encode(), r"\u200b"),
        ("\u0301".encode(), "◌\u0301"),
        (b"caf\xc3", r"caf\xc3"),
    ],
)
def test_what_cant_be_seen_is_made_visible(token: bytes, shown: str) -> None:
    assert figures.visible(token) == shown


def test_every_token_is_a_box_with_its_id() -> None:
    picture = figures.token_boxes({"ours": SMILE, "all": SMILE[:1]}, "Look.")
    assert texts(picture) == [
        *("ours: 3", "a", "5", r"·\xf0\x9f", "6", r"\x99\x82!", "7", "all: 1", "a", "5")
    ]
    assert sum(isinstance(patch, FancyBboxPatch) for patch in axes(picture).patches) == 4
    assert "ours, 3: a ·" in picture.alt
    assert not axes(picture).lines


def test_a_bracket_joins_the_bytes_of_a_character_and_stays_open_where_a_token_ends() -> None:
    picture = figures.token_boxes({"ours": SMILE}, "Look.", show_bytes=True)
    assert [text for text in texts(picture) if len(text) == 2] == [
        *("61", "20", "f0", "9f", "99", "82", "21")
    ]
    edges = [line for line in axes(picture).lines if len(set(line.get_xdata())) == 1]
    assert len(edges) == 2 * len("a 🙂!")  # each character begins once and ends once
    assert figures.character_ends([b"\xf0\x9f", b"\x99\x82!"])[1] == [
        *((False, False), (False, True), (True, True))
    ]


def test_a_long_text_goes_on_in_the_next_line_and_none_is_drawn() -> None:
    many = figures.token_boxes({"ours": [(i, b"word") for i in range(60)]}, "Look.")
    tops = {patch.get_y() for patch in axes(many).patches}
    assert len(tops) > 2
    assert max(p.get_x() + p.get_width() for p in axes(many).patches) <= figures.WIDTH
    assert png(figures.token_boxes({"none": []}, "Look.").figure).startswith(b"\x89PNG")
    assert png(figures.token_boxes({"$": [(1, b"$x$")]}, "Look.").figure).startswith(b"\x89PNG")


def test_brackets_span_the_bytes_of_each_character() -> None:
    picture = figures.bytes_of("aé🙂")
    assert texts(picture)[:-1] == ["97", "a", "195", "169", "é", "240", "159", "153", "130"]
    widths = [
        round(max(x) - min(x) + 0.24) for x in (line.get_xdata() for line in axes(picture).lines)
    ]
    assert widths == [1, 2, 4]
    assert "é 2, 🙂 4." in picture.alt
    assert picture.caption.endswith("one byte. U+1F642 is 🙂.")


def test_unknown_words_are_drawn_on_plain_axes() -> None:
    picture = figures.unknown_words([250, 1000, 4000], [0.3, 0.2, 0.02])
    assert axes(picture).get_xscale() == "linear"
    assert axes(picture).lines[0].get_ydata() == pytest.approx([30, 20, 2])
    assert texts(picture) == ["30 %", "2 %"]
    assert "from 30 % with 250 words to 2 % with 4,000" in picture.alt


def test_each_merge_is_a_row_that_is_as_long_as_the_text() -> None:
    steps = {"bytes": [b"a", b"a", b"b"], "merge a, a": [b"aa", b"b"]}
    picture = figures.merge_steps(steps)
    assert texts(picture) == ["a", "a", "b", "aa", "b"]
    assert [label.get_text() for label in axes(picture).get_yticklabels()] == [
        *("bytes: 3", "merge a, a: 2")
    ]
    assert "merge a, a, aa b." in picture.alt


def test_compression_is_drawn_beside_gpt2s() -> None:
    picture = figures.compression([257, 1024, 4096], [1.0, 2.5, 3.66], (50257, 3.86))
    ours, gpt2 = axes(picture).lines
    assert ours.get_ydata().tolist() == [1.0, 2.5, 3.66]
    assert (gpt2.get_xdata(), gpt2.get_ydata()) == ([50257], [3.86])
    assert "3.66 with 4,096; GPT-2's 50,257 give 3.86" in picture.alt


def test_each_language_has_a_bar_for_each_tokenizer() -> None:
    counts = {"English": {"ours": 20, "GPT-2's": 16}, "Russian": {"ours": 168, "GPT-2's": 99}}
    picture = figures.scripts(counts)
    assert [bar.get_width() for bar in axes(picture).patches] == [20, 168, 16, 99]
    assert "Russian ours 168, GPT-2's 99" in picture.alt
