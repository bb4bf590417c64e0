"""The widget of chapter 1, without a browser."""

import re

import pytest

from gptlib.extras.widgets.tokenizer import MOST_BOXES, Characters, TokenBoxes
from gptlib.tokenizer import BPETokenizer, gpt2_encoding

OURS = BPETokenizer.train("the old prince and the old princess", 262)


def boxes(text: str = "the princess") -> TokenBoxes:
    encoders = {"characters": Characters(), "ours": OURS, "GPT-2": gpt2_encoding()}
    return TokenBoxes(encoders, text)


def byte_signs(widget: TokenBoxes) -> str:
    return " ".join(re.findall(r">([0-9a-f]{2})</span>", widget.boxes.value))


def test_switching_the_tokenizer_changes_tokens_boxes_and_counts() -> None:
    widget = boxes()
    assert len(widget.tokens) == 12
    assert "12 tokens for 12 characters (12 bytes), 1.00 bytes per token" in widget.readout.value
    widget.kind.value = "GPT-2"
    assert widget.tokens == [(1169, b"the"), (21752, b" princess")]
    assert widget.bytes_per_token == 6
    assert "2 tokens for 12 characters (12 bytes), 6.00 bytes" in widget.readout.value
    assert "·princess" in widget.boxes.value
    assert "21752" in widget.boxes.value
    assert byte_signs(widget) == "74 68 65 20 70 72 69 6e 63 65 73 73"
    widget.kind.value = "ours"
    assert [i for i, _ in widget.tokens] == OURS.encode("the princess")


def test_typing_changes_the_boxes() -> None:
    widget = boxes()
    widget.text.value = "a b"
    assert [token for _, token in widget.tokens] == [b"a", b" ", b"b"]
    assert widget.boxes.value.count("title='token") == 3


def test_no_text_is_no_error() -> None:
    widget = boxes("")
    assert widget.tokens == []
    assert widget.bytes_per_token == 0
    assert "Type something" in widget.readout.value


def test_a_lone_surrogate_is_explained_and_not_a_crash() -> None:
    widget = boxes()
    for kind in ("characters", "ours"):
        widget.kind.value = kind
        widget.text.value = "a"
        widget.text.value = "\ud83d"
        assert widget.tokens == []
        assert "surrogate" in widget.readout.value


def test_parts_of_characters_are_shown_as_bytes() -> None:
    widget = boxes("🙂")
    assert "1 token for 1 character (4 bytes), 4.00 bytes per token" in widget.readout.value
    widget.kind.value = "GPT-2"
    assert [token for _, token in widget.tokens] == [b"\xf0\x9f", b"\x99\x82"]
    assert r"\xf0\x9f<" in widget.boxes.value
    assert r"\x99\x82<" in widget.boxes.value


def test_a_bracket_joins_the_bytes_of_a_character_also_across_tokens() -> None:
    widget = boxes("é🙂")
    for kind in ("characters", "GPT-2"):
        widget.kind.value = kind
        assert byte_signs(widget) == "c3 a9 f0 9f 99 82"
        edges = re.findall(r"border-width: 0 (\d)px 1px (\d)px", widget.boxes.value)
        assert [left for _, left in edges] == ["1", "0", "1", "0", "0", "0"]
        assert [right for right, _ in edges] == ["0", "1", "0", "0", "0", "1"]


def test_the_text_is_escaped_and_special_tokens_are_plain_text() -> None:
    text = "<script>alert('x')</script><|endoftext|>&amp;"
    for kind in ("characters", "ours", "GPT-2"):
        widget = boxes(text)
        widget.kind.value = kind
        assert b"".join(token for _, token in widget.tokens).decode() == text
        assert "<script" not in widget.boxes.value
        assert 50256 not in [i for i, _ in widget.tokens]
        assert set(re.findall(r"</?(\w+)", widget.boxes.value)) == {"div", "span", "b", "br"}


def test_a_long_text_is_counted_whole_and_drawn_in_part() -> None:
    widget = boxes("a" * 1000)
    assert widget.boxes.value.count("title='token") == MOST_BOXES
    assert "1,000 tokens" in widget.readout.value
    assert "600 more follow" in widget.readout.value


def test_without_tokenizers_it_shows_characters_and_gpt2() -> None:
    assert list(TokenBoxes().encoders) == ["characters", "GPT-2"]
    assert repr(TokenBoxes()).startswith("TokenBoxes: type a text")
    with pytest.raises(ValueError, match="encoders is empty; pass at least one"):
        TokenBoxes({})
