"""The figures of the chapter on the model, judged by the data that they draw."""

from typing import Any

import pytest
import torch

from gptlib.extras.figures import Picture
from gptlib.extras.figures import gpt2 as figures
from gptlib.extras.widgets.gpt2 import PRESETS


def axes(picture: Picture) -> list[Any]:
    return list(picture.figure.axes)  # their data has many types


def texts(picture: Picture) -> list[str]:
    return [text.get_text() for ax in axes(picture) for text in ax.texts]


def drawn(ax: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


def test_rows_are_labelled_by_their_spread_before_and_after() -> None:
    stream = torch.tensor([[0.1, -0.1], [10.0, -10.0]])
    picture = figures.before_and_after(stream, stream.sign())
    before, after = (
        [label.get_text() for label in ax.get_yticklabels()] for ax in axes(picture)[:2]
    )
    assert (before, after) == (["σ = 0.1", "σ = 10.0"], ["σ = 1.0", "σ = 1.0"])
    assert "from 0.1 to 10.0" in picture.alt


def test_activation_functions_are_drawn_where_they_are_lowest() -> None:
    x = torch.linspace(-4, 4, 81)
    picture = figures.activations(x, {"GELU": torch.nn.functional.gelu(x), "ReLU": x.relu()})
    assert drawn(axes(picture)[0])["ReLU"][0] == 0
    assert "GELU is lowest at -0.80 with -0.17" in picture.alt


def test_the_stream_grows_along_its_line() -> None:
    picture = figures.stream_growth({"scaled": [1.0, 2.0], "not scaled": [1.0, 8.0]})
    assert [list(line.get_ydata()) for line in axes(picture)[0].lines] == [[1, 2], [1, 8]]
    assert "not scaled from 1.00 to 8.00" in picture.alt


def test_six_curves_stand_in_two_frames_with_the_plateau() -> None:
    norms = ("before", "after", "none")
    losses = {(way, norm): [3.0] * 12 for way in ("added", "replaced") for norm in norms}
    losses["added", "before"] = [5.0] * 2 + [2.0] * 10
    picture = figures.six_ways(losses, plateau=3.2)
    left, right = (drawn(ax) for ax in axes(picture))
    assert left["norm before"] == pytest.approx([2.6, 2.0])
    assert right["no norm"] == pytest.approx([3.0, 3.0])
    assert 3.2 in [values[0] for values in left.values()]
    assert "added, before: 2.00" in picture.alt


def test_the_likeliest_tokens_are_bars_with_their_percent() -> None:
    picture = figures.likeliest([" a", "b"], [0.75, 0.25], "It was")
    assert texts(picture) == ["75 %", "25 %"]
    assert "“ a” 75 %, “b” 25 %" in picture.alt


@pytest.mark.parametrize("name", PRESETS)
def test_the_architecture_names_every_part_with_its_size(name: str) -> None:
    config = PRESETS[name]
    picture = figures.architecture(config)
    said = " ".join(texts(picture))
    for part in ("ln_1", "ln_2", "ln_f", "GELU", "tokens (B, T)", "logits (B, T, V)"):
        assert part in said
    assert f"qkv: {config.n_embd} to {3 * config.n_embd:,}" in said
    assert f"head: {config.n_embd} to {config.vocab_size:,}" in said
    assert f"block {config.n_layer - 1}" in said
    assert f"{config.n_layer} blocks" in picture.alt
