"""The attention maps without a browser: set a control, read what is shown."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from gptlib.extras.widgets import attention as module
from gptlib.extras.widgets.attention import AttentionMaps, entropies, visible
from gptlib.gpt2 import GPT, GPTConfig, attention_maps

WORDS = ["the", "cat", "sat", "on", "the", "mat"]


def random_weights(*shape: int) -> Tensor:
    scores = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(shape[-1], shape[-1], dtype=torch.bool).tril()
    return scores.masked_fill(~mask, -math.inf).softmax(-1)


@pytest.fixture
def maps() -> AttentionMaps:
    return AttentionMaps(WORDS, random_weights(2, 3, 6, 6))


@pytest.fixture
def model() -> GPT:
    config = GPTConfig(
        vocab_size=128, context_length=80, n_layer=2, n_head=2, n_embd=8, dropout=0.5
    )
    return GPT(config, torch.Generator().manual_seed(0))


class Letters:
    def encode(self, text: str) -> list[int]:
        if not text.isascii():
            raise ValueError(f"{text!r} has letters that this tokenizer doesn't know")
        return [ord(letter) for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))


LETTERS: Any = Letters()


def test_the_controls_choose_the_row(maps: AttentionMaps) -> None:
    maps.layer.value, maps.head.value, maps.query.value = 1, 2, 3
    assert maps.row == maps.weights[1, 2, 3].tolist()
    assert sum(maps.row) == pytest.approx(1)
    assert maps.summary.startswith('Layer 1, head 2: "on" looks at ')


def test_the_summary_names_the_three_heaviest_words_in_order(maps: AttentionMaps) -> None:
    maps.query.value = 4
    best = sorted(enumerate(maps.row), key=lambda pair: -pair[1])[:3]
    names = ["itself" if key == 4 else f'"{WORDS[key]}"' for key, _ in best]
    said = ", ".join(f"{name} {weight:.2f}" for name, (_, weight) in zip(names, best, strict=True))
    assert f'"the" looks at {said}.' in maps.summary


def test_a_move_in_the_browser_moves_the_controls(maps: AttentionMaps) -> None:
    maps.map.query, maps.map.head = 2, 1
    assert (maps.query.value, maps.head.value) == (2, 1)
    assert maps.summary.startswith('Layer 0, head 1: "sat" looks at')


def test_the_browser_gets_the_chosen_layer_alone_rounded(maps: AttentionMaps) -> None:
    maps.layer.value = 1
    sent = maps.map.weights
    assert [len(head) for head in sent] == [6, 6, 6]
    for head, rows in enumerate(sent):
        for query, row in enumerate(rows):
            padded = torch.tensor(row + [0.0] * (6 - len(row)))
            assert torch.allclose(padded, maps.weights[1, head, query], atol=6e-4)
    assert maps.map.layer == 1
    assert len(sent[0][0]) == 1  # zeros above the diagonal are left out


def test_tokens_and_weights_reach_the_browser_in_one_message(maps: AttentionMaps) -> None:
    messages: list[set[str]] = []
    maps.map.send_state = lambda key=None: messages.append(set(key))
    maps._set(["a", "b"], random_weights(1, 1, 2, 2))
    assert any({"tokens", "weights"} <= message for message in messages)


def test_entropy_is_said_in_nats_and_against_the_maximum() -> None:
    even = torch.ones(4, 4).tril() / torch.arange(1, 5)[:, None]
    sharp = torch.eye(4)
    maps = AttentionMaps(list("abcd"), torch.stack((even, sharp)))
    most = sum(math.log(n) for n in range(1, 5)) / 4
    assert maps.most == pytest.approx(most)
    assert maps.entropy == pytest.approx(most)
    assert f"Entropy of the head {most:.2f} nats of at most {most:.2f} (100 %)." in maps.summary
    maps.head.value = 1
    assert maps.entropy == 0
    assert "Entropy of the head 0.00 nats" in maps.summary
    assert maps.map.spread == pytest.approx([1, 0])


def test_weights_without_a_mask_may_spread_over_every_word() -> None:
    maps = AttentionMaps(list("abc"), torch.full((3, 3), 1 / 3))
    assert maps.most == pytest.approx(math.log(3))
    assert len(maps.map.weights[0][0]) == 3


def test_entropy_agrees_with_torch_and_takes_zeros() -> None:
    weights = torch.rand(2, 5, 7).softmax(-1)
    expected = torch.distributions.Categorical(weights).entropy().mean(-1)
    assert torch.allclose(entropies(weights), expected, atol=1e-6)
    assert entropies(torch.eye(3)).item() == 0


def test_one_word_alone_is_shown() -> None:
    maps = AttentionMaps(["a"], torch.ones(1, 1))
    assert maps.query.disabled
    assert maps.head.disabled
    assert "looks at itself 1.00" in maps.summary
    plt.close(maps.picture())


@pytest.mark.parametrize("shape", [(3, 3), (1, 1, 6, 5), (1, 1, 1, 6, 6), (6,)])
def test_weights_that_do_not_fit_the_tokens_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"6 tokens and weights of shape .* don't belong together"):
        AttentionMaps(WORDS, torch.ones(shape))


def test_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="0 tokens"):
        AttentionMaps([], torch.ones(1, 1, 0, 0))


def test_a_model_shows_its_own_maps_without_dropout_and_keeps_its_mode(model: GPT) -> None:
    model.train()
    tokens = torch.tensor([5, 6, 7])
    maps = AttentionMaps.of(model, tokens, ["a", "b", "c"])
    assert model.training
    model.eval()
    expected = attention_maps(model, tokens[None])[:, 0]
    assert torch.allclose(maps.weights, expected)
    assert maps.tokens == ["a", "b", "c"]
    assert maps.text not in maps.children


def test_without_labels_the_ids_are_shown(model: GPT) -> None:
    assert AttentionMaps.of(model, torch.tensor([[5, 6]])).tokens == ["5", "6"]


def test_a_reader_types_a_text(model: GPT) -> None:
    maps = AttentionMaps.of(model, tokenizer=LETTERS, text="so it goes")
    assert maps.text in maps.children
    assert maps.tokens == ["s", "o", "·", "i", "t", "·", "g", "o", "e", "s"]
    maps.query.value, maps.head.value = 9, 1
    maps.text.value = "so"
    assert maps.tokens == ["s", "o"]
    assert maps.query.value == maps.query.max == 1
    assert maps.summary.startswith('Layer 0, head 1: "o" looks at')
    maps.text.value = "longer than before"
    assert maps.query.value == maps.query.max == 17


def test_a_text_that_cannot_be_read_is_explained_and_the_map_stays(model: GPT) -> None:
    maps = AttentionMaps.of(model, torch.tensor([97, 98]), tokenizer=LETTERS)
    assert maps.text.value == "ab"
    maps.text.value = ""
    assert "type at least one word" in maps.message.value
    maps.text.value = "<é>"
    assert "&lt;é&gt;" in maps.message.value
    assert maps.tokens == ["a", "b"]
    maps.text.value = "abc"
    assert maps.message.value == ""
    assert maps.tokens == ["a", "b", "c"]


def test_a_long_text_is_cut_to_what_can_be_shown(model: GPT) -> None:
    maps = AttentionMaps.of(model, tokenizer=LETTERS, text="x" * 500)
    assert len(maps.tokens) == module.LONGEST


def test_a_model_with_nothing_to_show_is_refused(model: GPT) -> None:
    with pytest.raises(ValueError, match="pass tokens, or a tokenizer and a text"):
        AttentionMaps.of(model)


def test_the_largest_map_is_a_small_message() -> None:
    maps = AttentionMaps(["w"] * 64, random_weights(12, 12, 64, 64))
    numbers = sum(len(row) for head in maps.map.weights for row in head)
    assert numbers <= 12 * 64 * 65 / 2
    figure = maps.picture()
    assert len(figure.subfigs) == 2
    plt.close(figure)


def test_the_picture_shows_the_state(maps: AttentionMaps) -> None:
    maps.head.value, maps.query.value = 1, 2
    figure: Any = maps.picture()
    big, bars = figure.subfigs[0].axes
    assert torch.allclose(torch.tensor(big.images[0].get_array().filled()), maps.weights[0, 1])
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(maps.row)
    assert "what “sat” looks at" in (bars.get_title(), bars.get_title(loc="left"))
    titles = [small.get_title() for small in figure.subfigs[1].axes if small.images]
    assert [title.split(":")[0] for title in titles] == ["head 0", "head 1", "head 2"]
    plt.close(figure)


def test_spaces_and_line_ends_can_be_seen() -> None:
    assert [visible(t) for t in (" the", "\n", "a\tb", "\r\n", "")] == [
        "·the",
        "⏎",
        "a⇥b",
        "␍⏎",
        "∅",
    ]


def test_the_script_and_its_style_travel_with_the_package() -> None:
    for name in ("shared.js", "attention.js", "attention.css"):
        text = (module.HERE / name).read_text(encoding="utf-8")
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text


def test_the_output_of_the_cell_is_always_the_same(maps: AttentionMaps) -> None:
    assert repr(maps) == "AttentionMaps: choose a layer, a head and a word, see what it looks at"
