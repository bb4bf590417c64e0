"""The size explorer shows the right bill, and says in words what does not fit."""

import pytest
from matplotlib import pyplot as plt

from gptlib.extras.widgets.gpt2 import (
    COURSE_SMALL,
    OWN,
    PRESETS,
    SizeExplorer,
    duration,
    readable,
)
from gptlib.gpt2 import GPT2_SMALL, GPTConfig, count_parameters, flops_per_token, memory_bytes

PNG = b"\x89PNG"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_shows_its_own_bill(name: str) -> None:
    explorer = SizeExplorer()
    explorer.preset.value = name
    config = PRESETS[name]
    memory = memory_bytes(config, 8 * config.context_length)
    assert explorer.preset.value == name
    assert explorer.result["parameters"] == count_parameters(config)
    assert explorer.result["memory"] == memory
    assert explorer.result["flops"] == flops_per_token(config)
    assert explorer.result["inference_bytes"] == memory["weights"] + memory["keys and values"]
    kept = sum(memory.values()) - memory["keys and values"]
    assert explorer.result["training_bytes"] == kept
    assert f"{count_parameters(config)['total']:,} parameters" in explorer.readout.value


def test_a_changed_size_becomes_a_model_of_my_own() -> None:
    explorer = SizeExplorer()
    before = bytes(explorer.image.value)
    explorer.sizes["n_layer"].value = 6
    assert explorer.preset.value == OWN
    assert explorer.result["parameters"] == count_parameters(GPTConfig(n_layer=6))
    assert bytes(explorer.image.value).startswith(PNG)
    assert bytes(explorer.image.value) != before


def test_each_size_reaches_the_result() -> None:
    explorer = SizeExplorer()
    explorer.preset.value = "this course's small one"
    totals = {explorer.result["parameters"]["total"]}
    for name, value in (("vocab_size", 5000), ("context_length", 256), ("n_embd", 256)):
        explorer.sizes[name].value = value
        totals.add(explorer.result["parameters"]["total"])
    assert len(totals) == 4
    assert count_parameters(COURSE_SMALL)["total"] in totals


def test_heads_that_do_not_divide_the_width_are_explained() -> None:
    explorer = SizeExplorer()
    explorer.sizes["n_head"].value = 11
    assert explorer.result == {}
    assert "n_embd is 768; it must be divisible by n_head, 11" in explorer.problem
    assert explorer.problem in explorer.readout.value
    assert bytes(explorer.image.value).startswith(PNG)
    explorer.sizes["n_head"].value = 8
    assert explorer.problem == ""
    assert explorer.result["parameters"]["total"] == count_parameters(GPT2_SMALL)["total"]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_or_a_number_of_tokens_that_cannot_be_is_explained(value: float) -> None:
    explorer = SizeExplorer()
    explorer.rate.value = value
    assert "FLOP/s is" in explorer.problem
    explorer.rate.value = 1e14
    explorer.tokens.value = value
    assert "tokens is" in explorer.problem
    assert "must be a number above 0" in explorer.readout.value


def test_twice_the_rate_is_half_the_time() -> None:
    explorer = SizeExplorer()
    slow = explorer.result["training_seconds"]
    explorer.rate.value = 2e14
    assert explorer.result["training_seconds"] == pytest.approx(slow / 2)
    assert explorer.machine.value is None
    explorer.machine.value = 1e11
    assert explorer.rate.value == 1e11
    assert explorer.result["training_seconds"] == pytest.approx(slow * 1e3)


def test_a_bigger_batch_needs_more_memory_but_no_more_parameters() -> None:
    explorer = SizeExplorer()
    before = dict(explorer.result)
    explorer.batch.value = 16
    assert explorer.result["parameters"] == before["parameters"]
    assert explorer.result["memory"]["activations"] == 2 * before["memory"]["activations"]


def test_the_picture_and_the_name_are_there_without_a_browser() -> None:
    explorer = SizeExplorer()
    picture = explorer.picture()
    assert picture.figure.axes[0].get_title("left") == "Parameters"
    assert "124,439,808 parameters; the largest part is mlp with 46%" in picture.alt
    plt.close(picture.figure)
    assert repr(explorer).startswith("SizeExplorer: ")
    assert "object at" not in repr(explorer)


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [(497_759_232, "B", "498 MB"), (12, "", "12"), (999.9e9, "FLOP", "1 TFLOP"), (0, "B", "0 B")],
)
def test_numbers_are_readable(number: float, unit: str, text: str) -> None:
    assert readable(number, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 seconds"), (200_000, "2.3 days"), (7200, "2.0 hours"), (1e9, "31.7 years")],
)
def test_times_have_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
