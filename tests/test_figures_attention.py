"""The figures of the chapter on attention, judged by the data that they draw."""

import math
import re
from typing import Any

import pytest
import torch

from gptlib.attention import attend, causal_mask
from gptlib.extras.figures import Picture, canvas
from gptlib.extras.figures import attention as figures
from gptlib.extras.figures.machine import LIT, machine

WORDS = ["so", "it", "goes"]
WEIGHTS = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.125, 0.375]])


def axes(picture: Picture) -> list[Any]:
    return list(picture.figure.axes)  # their data has many types


def texts(picture: Picture) -> list[str]:
    return [text.get_text() for ax in axes(picture) for text in ax.texts]


def test_a_picture_is_an_image_with_its_description_and_a_caption() -> None:
    figure, _ = canvas(4, 2)
    shown = Picture(figure, 'Scores < 3 & a "word".', "Look & see.")._repr_mimebundle_()
    assert shown["text/plain"] == 'Figure: Scores < 3 & a "word".'
    assert '<img alt="Scores &lt; 3 &amp; a &quot;word&quot;." width="320"' in shown["text/html"]
    assert "<figcaption>Look &amp; see.</figcaption>" in shown["text/html"]
    assert re.search(r'src="data:image/png;base64,iVBOR[\w+/=]+"', shown["text/html"])


@pytest.mark.parametrize("chapter", LIT)
def test_the_machine_lights_the_part_of_its_chapter(chapter: str) -> None:
    picture = machine(chapter, n_layer=12)
    bold = [text for text in axes(picture)[0].texts if text.get_weight() == "bold"]
    assert len(bold) == len(LIT[chapter])
    assert "block, 12 times" in texts(picture)
    assert all(text.get_text() in picture.alt.split("Lit: ")[1] for text in bold)


def test_words_are_a_table_of_their_numbers() -> None:
    x = torch.tensor([[0.0, 2], [3, 1], [1, 0]])
    picture = figures.word_table(x, WORDS, ["thing", "action"])
    assert texts(picture) == ["0", "2", "3", "1", "1", "0"]
    assert "it 3, 1" in picture.alt


def test_scores_stand_beside_the_weights_made_of_them() -> None:
    scores = torch.tensor([[4.0, 0, 0], [0, 9, 0], [0, 7, 5]])
    picture = figures.scores_and_weights(scores, scores.softmax(-1), WORDS)
    left, right = (ax.images[0].get_array() for ax in axes(picture))
    assert torch.equal(torch.tensor(left), scores.double())
    torch.testing.assert_close(torch.tensor(right), scores.softmax(-1).double())
    assert "goes at it" in picture.alt


def test_undivided_scores_saturate_and_divided_ones_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    products = {d: math.sqrt(d) * torch.randn(160, generator=generator) for d in (4, 1024)}
    largest, slopes = axes(figures.saturation(products))
    divided, undivided = (line.get_ydata() for line in largest.lines)
    assert undivided[1] > 0.9 > 0.4 > divided[1]
    assert slopes.lines[1].get_ydata()[1] < 0.2


def test_forbidden_cells_are_not_drawn_as_zero() -> None:
    picture = figures.causal_map(WEIGHTS, WORDS)
    drawn = axes(picture)[0].images[0].get_array()
    assert drawn.mask.tolist() == (~causal_mask(3)).tolist() or math.isnan(drawn[0, 1])
    assert texts(picture) == ["1.00", "0.25", "0.75", "0.50", "0.12", "0.38"]


def test_a_text_is_shaded_by_what_one_token_takes() -> None:
    tokens = ["So", "·it", "·go", "es", "·on"]
    picture = figures.looks_back(tokens, torch.tensor([0.01, 0.2, 0.79, 0, 0]), 3)
    assert texts(picture) == ["So", "it", "0.20", "go", "0.79", "es", "on"]
    assert picture.alt.endswith("From “es” the largest weights go to “go” 0.79 and “it” 0.20.")


def test_a_right_head_has_one_colour_and_every_word() -> None:
    picture = figures.heads_reshape(torch.arange(18).view(3, 6), n_head=2)
    ax = axes(picture)[0]
    cells = [text.get_text() for text in ax.texts if re.fullmatch(r"[a-c]\d", text.get_text())]
    assert cells[18:27] == ["a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2"]
    assert cells[36:45] == ["a0", "a1", "a2", "a3", "a4", "a5", "b0", "b1", "b2"]
    colors = [patch.get_facecolor() for patch in ax.patches[:54]]
    assert len(set(colors[18:27])) == len(set(colors[27:36])) == 1
    assert len(set(colors[36:45])) == 2


def test_heads_are_compared_by_loss_and_by_distance() -> None:
    losses = {1: [1.0] * 30, 2: [0.5] * 30}
    picture = figures.heads_compared(losses, {1: torch.tensor([0.1, 0.3]), 2: torch.zeros(2)})
    left, right = axes(picture)
    assert [line.get_ydata()[0] for line in left.lines] == [1.0, 0.5]
    assert right.lines[0].get_ydata().tolist() == pytest.approx([10, 30])
    assert "1 head: loss 1.00, wrong far apart 30 %" in picture.alt


def test_maps_stand_side_by_side_with_their_entropies() -> None:
    _, even = attend(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, 1), causal_mask(3))
    maps = {"before": even[None], "after": torch.eye(3)[None]}
    picture = figures.maps_compared(maps, WORDS)
    assert [ax.get_title(loc="left") for ax in axes(picture)] == [
        "head 0 before",
        "head 0 after",
    ]
    assert "head 0 before, entropy 0.6 nats; head 0 after, entropy 0.0 nats" in picture.alt


def test_all_heads_of_a_model_are_drawn_and_some_marked() -> None:
    weights = WEIGHTS.expand(2, 3, 3, 3)
    picture = figures.all_heads(weights, {(1, 2): "subject"})
    assert len(axes(picture)) == 6
    titles = [ax.get_title(loc="center") for ax in axes(picture)]
    assert titles[-1] == "2 subject"
    assert "later tokens, 6 heads give more than 0.3 of their weight to the first" in picture.alt


def test_what_is_kept_for_the_backward_pass_is_counted_once() -> None:
    both = 3 * 8 * 256 * 64 * 4 / 2**20  # q, k and v are parts of one tensor
    assert figures.kept_mebibytes(lambda q, k, v: q * k, 256) == both
    assert figures.kept_mebibytes(lambda q, k, v: (q * k).exp(), 256) == both + both / 3


def test_memory_is_drawn_over_the_number_of_words() -> None:
    picture = figures.kept_memory([64, 128], {"by hand": [1.0, 4.0], "fused": [1.0, 2.0]})
    hand, fused = axes(picture)[0].lines
    assert (list(hand.get_ydata()), list(fused.get_ydata())) == ([1, 4], [1, 2])
    assert texts(picture) == ["by hand", "fused"]
