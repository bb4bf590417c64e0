"""The widget of chapter 2, without a browser."""

import pytest
import torch
from matplotlib import pyplot as plt
from torch.nn.functional import cosine_similarity

from gptlib.embeddings import sinusoidal_positions
from gptlib.extras.widgets.embeddings import PositionWaves


def learned_table() -> torch.Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


def test_the_picture_is_a_png_and_no_figure_stays_open() -> None:
    waves = PositionWaves(n_positions=16, n_embd=8, position=5)
    assert bytes(waves.image.value).startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_moving_the_position_changes_picture_vector_and_sentence() -> None:
    waves = PositionWaves(n_positions=16, n_embd=8, position=5)
    before = waves.image.value
    waves.position.value = 6
    assert waves.image.value != before
    assert torch.equal(waves.vector, sinusoidal_positions(16, 8)[6])
    assert "Position 6 in the sinusoidal table" in waves.readout.value


def test_moving_the_pair_changes_picture_and_wavelength() -> None:
    waves = PositionWaves(n_positions=16, n_embd=8, position=5, pair=0)
    assert "turn once in 6.3 positions" in waves.readout.value
    before = waves.image.value
    waves.pair.value = 2
    assert "turn once in 628.3 positions" in waves.readout.value
    assert "channel 4 is" in waves.readout.value
    assert waves.image.value != before


def test_similarity_is_the_cosine_with_every_position() -> None:
    waves = PositionWaves(learned_table(), position=3, pair=1)
    waves.kind.value = "learned"
    expected = cosine_similarity(learned_table(), learned_table()[3:4])
    torch.testing.assert_close(waves.similarity, expected)
    assert "in the learned table" in waves.readout.value
    assert "turn once" not in waves.readout.value


def test_the_sentence_names_the_nearest_and_the_farthest() -> None:
    table = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.2], [0.0, 1.0]])
    waves = PositionWaves(table, position=0, pair=0)
    waves.kind.value = "learned"
    assert "Most like it is position 1" in waves.readout.value
    assert "least like it position 2" in waves.readout.value


def test_waves_alone_offer_one_kind_and_a_table_two() -> None:
    assert list(PositionWaves(n_positions=8, n_embd=4, position=0, pair=0).kind.options) == [
        "sinusoidal"
    ]
    both = PositionWaves(learned_table(), position=0)
    assert list(both.kind.options) == ["sinusoidal", "learned"]
    assert both.position.max == 15
    assert both.pair.max == 3


@pytest.mark.parametrize("position", [0, 1, 8, 14, 15])
def test_every_position_can_be_drawn(position: int) -> None:
    waves = PositionWaves(learned_table(), position=position)
    assert len(waves.picture().axes) == 5
    plt.close("all")


def test_a_trainable_parameter_can_be_shown() -> None:
    waves = PositionWaves(torch.nn.Embedding(16, 8).weight, position=2)
    waves.kind.value = "learned"
    assert not waves.vector.requires_grad


def test_the_text_form_is_fixed() -> None:
    assert repr(PositionWaves(n_positions=32, n_embd=8)) == (
        "PositionWaves: pick a position and a channel pair, see waves and similarities"
    )


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (torch.zeros(4), r"the table has shape \(4,\); pass \(positions, channels\)"),
        (torch.zeros(4, 3), r"shape \(4, 3\).* an even number of channels"),
        (torch.zeros(1, 4), r"2 positions or more"),
        (torch.full((4, 4), float("nan")), "numbers that are not finite"),
    ],
)
def test_a_table_that_cannot_be_shown_is_refused(table: torch.Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PositionWaves(table)


def test_a_choice_outside_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"position is 16; choose one of 0\.\.15"):
        PositionWaves(learned_table(), position=16)
    with pytest.raises(ValueError, match=r"pair is 4; choose one of 0\.\.3"):
        PositionWaves(learned_table(), position=0, pair=4)
