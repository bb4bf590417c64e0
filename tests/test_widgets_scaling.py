"""Chapter 10's widget without a browser: controls in, figures and words out."""

import pytest
from matplotlib import pyplot as plt

from gptlib.extras.widgets.scaling import StepPlanner


def test_the_fixed_example_is_there_at_once() -> None:
    planner = StepPlanner()
    assert repr(planner) == "StepPlanner: plan a training step on many devices"
    assert bytes(planner.image.value[:4]) == b"\x89PNG"
    assert "GPT-2 XL, fsdp, 64 devices, 524,288 tokens per step" in planner.readout.value
    assert planner.cost is not None


def test_more_devices_take_less_time_until_the_step_waits() -> None:
    planner = StepPlanner()
    planner.strategy.value = "ddp"
    assert planner.limit is not None
    seconds = []
    for n in (1, 64, 256, 512):
        planner.devices.value = n
        if planner.cost is not None:
            assert (planner.cost.seconds > planner.cost.compute) == (n >= planner.limit)
            seconds.append(planner.cost.seconds)
    assert seconds[0] > 50 * min(seconds)


def test_each_control_changes_what_it_says() -> None:
    planner = StepPlanner()
    before = planner.cost
    assert before is not None

    def now() -> tuple[float, float, float]:
        assert planner.cost is not None
        return planner.cost.compute, planner.cost.communication, planner.cost.memory

    compute, communication, memory = now()
    planner.between.value = 100
    assert now()[1] == pytest.approx(communication / 2)
    planner.speed.value = 800
    assert now()[0] == pytest.approx(compute / 2)
    planner.at_once.value = 1
    assert now()[1] == pytest.approx(communication / 2 * 17 / 3)  # 8 passes instead of 1
    assert now()[2] > memory  # fewer activations, but the gradient is held whole
    planner.at_once.value = 16
    planner.checkpointed.value = False
    assert now()[0] == pytest.approx(compute / 2 * 3 / 4)
    assert now()[2] > memory
    planner.batch.value = 2**20
    assert now()[0] == pytest.approx(compute * 3 / 4)
    planner.devices.value = 8
    fast = now()[1]
    planner.inside.value = 200
    assert now()[1] == pytest.approx(2 * fast)
    planner.model.value = "GPT-2"
    assert now()[0] < compute
    assert "GPT-2, fsdp, 8 devices" in planner.readout.value
    assert "more than its 80" not in planner.sentence
    planner.model.value, planner.strategy.value = "7 billion", "ddp"
    assert "GB on each device, more than its 80" in planner.sentence


def test_a_batch_too_small_to_share_is_told() -> None:
    planner = StepPlanner()
    planner.batch.value, planner.devices.value = 2**13, 1024
    assert planner.cost is None
    assert "raise the batch" in planner.sentence
    plt.close(planner.picture())


def test_without_a_limit_it_says_so() -> None:
    planner = StepPlanner()
    planner.strategy.value, planner.between.value, planner.batch.value = "ddp", 400, 2**23
    assert planner.limit is None
    assert "never waits" in planner.sentence
