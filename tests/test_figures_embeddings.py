"""The figures of the chapter on embeddings, judged by the data that they draw."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from gptlib.embeddings import sinusoidal_positions
from gptlib.extras.figures import Picture
from gptlib.extras.figures import embeddings as figures


def axes(picture: Picture) -> list[Any]:
    return list(picture.figure.axes)  # their data has many types


def texts(picture: Picture) -> list[str]:
    return [text.get_text() for ax in axes(picture) for text in ax.texts]


def drawn(ax: Any) -> torch.Tensor:
    return torch.tensor(ax.images[0].get_array().filled())


def random_table(rows: int, channels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))


def test_each_piece_of_a_text_has_its_id_and_the_start_of_its_row() -> None:
    table = random_table(1500, 30)
    picture = figures.text_to_vectors(["Pierre", " had"], torch.tensor([1403, 7]), table)
    (ax,) = axes(picture)
    torch.testing.assert_close(drawn(ax), table[[1403, 7]][:, :24].double())
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "Pierre   1,403",
        "·had       7",
    ]
    assert "Pierre 1,403, ·had 7." in picture.alt


def test_words_lie_where_they_differ_most() -> None:
    here, there = torch.eye(8)[0], torch.eye(8)[1]
    vectors = torch.stack([here, here + 0.1 * there, there, there + 0.1 * here])
    picture = figures.word_map({"cities": ["Rome", "Bonn"], "colours": ["red", "blue"]}, vectors)
    cities, colours = (points.get_offsets() for points in axes(picture)[0].collections)
    assert abs(cities[0][0] - cities[1][0]) < 0.3 < abs(cities[0][0] - colours[0][0])
    assert {"cities", "Rome", "Bonn", "colours", "red", "blue"} == set(texts(picture))
    assert "cities around (" in picture.alt


def test_one_hot_rows_pick_the_framed_rows_of_the_table() -> None:
    table = torch.tensor([[2.0, 7], [1, 5], [3, 0]])
    one_hot = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 1, 0]])
    picture = figures.one_hot_product(one_hot, table, ["a", "b", "c"])
    numbers = [int(text) for text in texts(picture) if text.isdigit()]
    assert numbers == [0, 1, 0, 1, 0, 0, 0, 1, 0, 2, 7, 1, 5, 3, 0, 1, 5, 2, 7, 1, 5]
    assert {"×", "="} <= set(texts(picture))
    assert picture.alt.endswith("“b” gives 1, 5, “a” gives 2, 7, “b” gives 1, 5.")
    frames = [p for p in axes(picture)[0].patches if p.get_width() == 2 and p.get_height() == 1]
    thick = [frame.get_linewidth() > 1 for frame in frames]
    assert thick == [True, True, False, True, True, True]  # of the table, then of the product


def test_windows_lie_over_their_pieces() -> None:
    pieces = ["one", " two", " three", " four", " five", " six", " seven"]
    picture = figures.windows_cut(pieces, context_length=2, stride=2)
    (ax,) = axes(picture)
    inputs, last = ax.patches[::2], ax.patches[1::2]
    assert len(inputs) == len(last) == 3  # 0 to 2, 2 to 4, 4 to 6
    for first, second in pairwise(inputs):
        assert second.get_x() > first.get_x() + first.get_width()
    for window, target in zip(inputs, last, strict=True):
        assert target.get_x() > window.get_x() + window.get_width()
    assert picture.alt.endswith("Their last targets: “·three”, “·five”, “·seven”.")


def test_neighbours_are_alike_in_a_trained_table_of_positions_only() -> None:
    trained = random_table(80, 6).cumsum(0)
    picture = figures.positions_learned(trained, random_table(80, 6, seed=1))
    fresh, after = (drawn(ax) for ax in axes(picture)[:2])
    assert fresh.shape == after.shape == (64, 64)
    assert after.diagonal().tolist() == pytest.approx([1] * 64)
    assert fresh.diagonal(1).mean() < 0.2 < after.diagonal(1).mean()
    assert f"trained: {after.diagonal(1)[1:].mean():.1f} between neighbours" in picture.alt


def test_what_and_where_add_up() -> None:
    tokens, positions = random_table(3, 20), random_table(3, 20, seed=1)
    tokens[2] = tokens[0]
    picture = figures.what_and_where(tokens, positions, ["·had", "·been", "·had"])
    what, where, both = (drawn(ax) for ax in axes(picture))
    torch.testing.assert_close(what + where, both, atol=1e-6, rtol=0)
    assert torch.equal(what[0], what[2])
    apart = (positions[0] - positions[2]).norm()
    assert f"are 0.00 apart in the first table, {apart:.2f} in the last" in picture.alt


def test_waves_are_the_columns_of_the_table() -> None:
    table = sinusoidal_positions(40, 16)
    picture = figures.waves(table, random_table(50, 16), channels=(0, 4))
    left, right = axes(picture)
    assert left.lines[0].get_ydata().tolist() == pytest.approx(table[:, 0].tolist())
    assert left.lines[1].get_ydata().tolist() == pytest.approx((table[:, 4] - 2.6).tolist())
    assert "channel 0 turns once in 6.3 positions; channel 4 turns once in 62.8" in picture.alt
    sinusoidal, learned = (torch.tensor(line.get_ydata()) for line in right.lines)
    assert sinusoidal[20] == pytest.approx(1) == learned[20]
    assert sinusoidal[18] == pytest.approx(sinusoidal[22].item(), abs=1e-4)
    assert len(learned) == 40
