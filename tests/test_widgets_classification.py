"""The widget of chapter 8, without a browser."""

from typing import Any

import pytest
import torch
from matplotlib import pyplot as plt

from gptlib.classification import TextClassifier, leave_one_out, predict_probabilities
from gptlib.extras.widgets.classification import MessageLens, text_vectors
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer

SIZES = GPTConfig(vocab_size=257, context_length=48, n_layer=2, n_head=2, n_embd=16)
EXAMPLES = ["WIN £9 <now>", "see you at 8"]
KNOWN = [("ham", "see you at 9"), ("spam", "WIN £5 <now>"), ("ham", "lunch?")]


def classifier(max_tokens: int | None = 40) -> TextClassifier:
    draw = torch.Generator().manual_seed(0)
    model = GPT(SIZES, draw)
    reader = TextClassifier(model, BPETokenizer([]), ["ham", "spam"], max_tokens, generator=draw)
    reader.head.weight.data *= 100  # sure of itself, so that tokens matter
    return reader.eval()


def lens(max_tokens: int | None = 40) -> MessageLens:
    return MessageLens(classifier(max_tokens), EXAMPLES, KNOWN)


def test_the_first_example_is_judged_at_once() -> None:
    shown, reader = lens(), classifier()
    p = predict_probabilities(reader, EXAMPLES[:1])[0]
    assert shown.result["probability"] == pytest.approx(p[1].item(), abs=1e-5)
    assert shown.result["label"] == reader.labels[int(p.argmax())]
    assert shown.result["words"] == leave_one_out(reader, EXAMPLES[0], "spam")
    assert bytes(shown.image.value).startswith(b"\x89PNG")
    assert repr(shown) == (
        "MessageLens: type or pick a message, see what each word does to its probability"
    )
    assert plt.get_fignums() == []


def test_picking_and_typing_both_judge() -> None:
    shown = lens()
    first = shown.result
    shown.pick.value = EXAMPLES[1]
    assert shown.message.value == EXAMPLES[1]
    assert shown.result != first
    shown.message.value = "lunch?"
    assert [word for word, _ in shown.result["words"]] == ["lunch?"]
    assert shown.result["nearest"][0][1:] == ("ham", "lunch?")
    assert shown.result["nearest"][0][0] == pytest.approx(1, abs=1e-5)
    assert len(shown.result["nearest"]) == 3
    assert shown.pick.value is None
    shown.pick.value = EXAMPLES[1]  # again, after typing
    assert shown.message.value == EXAMPLES[1]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_each_prefix_has_the_probability_of_a_text_that_ends_there(pooling: Any) -> None:
    reader, text = classifier(), "see you at 8"
    reader.pooling = pooling
    shown = MessageLens(reader, [text])
    prefixes = predict_probabilities(reader, ["see", "see you", "see you at", text])
    assert shown.result["prefixes"] == pytest.approx(prefixes[:, 1].tolist(), abs=1e-5)


def test_the_other_label_turns_every_sign() -> None:
    shown = lens()
    before = shown.result
    shown.label.value = "ham"
    assert shown.result["probability"] == pytest.approx(1 - before["probability"], abs=1e-5)
    assert [c for _, c in shown.result["words"]] == pytest.approx(
        [-c for _, c in before["words"]], abs=1e-5
    )
    assert shown.result["label"] == before["label"]


def test_the_words_say_what_the_picture_shows() -> None:
    shown = lens()
    p = shown.result["probability"]
    assert f"the probability of spam is {p:.3f}" in shown.readout.value
    assert "aria-live" in shown.readout.value
    strongest = max(shown.result["words"], key=lambda pair: pair[1])
    assert f"({strongest[1]:+.3f})" in shown.sentence
    assert shown.colored.value.count("<span") == len(shown.result["words"])
    assert "Nearest known messages" in shown.nearest.value


def test_a_message_is_shown_as_text_and_never_as_html() -> None:
    shown = lens()
    shown.message.value = "<b>$x$ & </b>"
    for part in (shown.colored.value, shown.nearest.value, shown.readout.value):
        assert "<b>" not in part
        assert "<now>" not in part
    assert "&lt;" in shown.colored.value


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_message_is_told_and_the_next_one_judged(text: str) -> None:
    shown = lens()
    shown.message.value = "x"
    shown.message.value = text
    assert shown.result == {}
    assert "is empty" in shown.problem
    assert shown.sentence == shown.problem
    assert "role='alert'" in shown.readout.value
    shown.message.value = "back"
    assert shown.problem == ""
    assert shown.result


def test_a_long_message_is_cut_or_refused_and_says_so() -> None:
    shown = lens()
    shown.message.value = "x" * 45
    assert shown.result["cut"] == 5
    assert "The last 5 tokens are not read." in shown.sentence
    strict = lens(None)
    strict.message.value = "x" * 50
    assert "50 of 48 tokens" in strict.problem


def test_pieces_of_a_character_and_lines_do_no_harm() -> None:
    shown = lens()
    for text in ("☺", "a\nb", "$", "x", "a\tb", "€ $ _ ^ \\frac"):
        shown.message.value = text
        assert shown.problem == ""
        assert len(shown.result["prefixes"]) == len(text.split())


def test_without_known_messages_there_is_no_table() -> None:
    shown = MessageLens(classifier(), ["one"])
    assert shown.result["nearest"] == []
    assert shown.nearest.value == ""
    assert shown.label.value == "spam"


def test_what_can_not_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no example"):
        MessageLens(classifier(), [])
    with pytest.raises(ValueError, match="is empty"):
        MessageLens(classifier(), [" "])


def test_the_picture_has_a_bar_and_a_point_for_each_word() -> None:
    shown = lens()
    figure = shown.picture()
    bars, line = figure.axes
    assert len(bars.patches) == len(shown.result["words"])
    points: Any = line.lines[0].get_xydata()
    assert len(points) == len(shown.result["words"])
    labels = [tick.get_text() for tick in line.get_xticklabels()]
    assert labels == ["WIN", "£9", "<now>"]
    plt.close(figure)


def test_the_nearest_text_is_the_text_itself() -> None:
    texts = [f"{word} {n}" for n in range(20) for word in ("see you at", "WIN £")]
    vectors = text_vectors(classifier(), texts)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(40))
    assert (vectors @ vectors.T).argmax(-1).tolist() == list(range(40))
    same = torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:2])
    assert float(vectors[0] @ vectors[1]) == pytest.approx(same.item(), abs=1e-6)
    assert text_vectors(classifier(), []).shape == (0, 16)
