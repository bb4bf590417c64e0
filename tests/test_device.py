"""The device is chosen as documented, on machines that the tests only pretend to have."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional

from gptlib.extras import device as module
from gptlib.extras.device import TOLERANCE, agrees_with_cpu, best_device


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend to have a number of CUDA cards and Apple graphics that differ by an amount."""

    def pretend(cards: int = 0, mps: bool = False, differs: float | Exception = 0.0) -> None:
        def difference(device: torch.device | str) -> float:
            assert str(device) == "mps", "only Apple's graphics are checked before use"
            if isinstance(differs, Exception):
                raise differs
            return differs

        monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(module, "agrees_with_cpu", difference)

    monkeypatch.delenv("GPTLIB_DEVICE", raising=False)
    return pretend


def test_without_a_card_it_is_the_cpu(machine: Callable[..., None]) -> None:
    machine()
    assert best_device() == torch.device("cpu")


def test_cuda_comes_before_mps(machine: Callable[..., None]) -> None:
    machine(cards=1, mps=True)
    assert best_device() == torch.device("cuda")


def test_mps_is_taken_when_it_agrees_with_the_cpu(machine: Callable[..., None]) -> None:
    machine(mps=True, differs=1e-6)
    assert best_device() == torch.device("mps")


@pytest.mark.parametrize(
    "differs",
    [0.5, float("inf"), RuntimeError("placeholder storage"), NotImplementedError("no such op")],
)
def test_mps_is_left_when_it_computes_wrongly_or_not_at_all(
    machine: Callable[..., None], differs: float | Exception
) -> None:
    machine(mps=True, differs=differs)
    assert best_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps", " CPU "])
def test_the_environment_variable_overrides_the_choice(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    machine(cards=2, mps=True)
    monkeypatch.setenv("GPTLIB_DEVICE", name)
    assert best_device() == torch.device(name.strip().lower())


def test_an_empty_variable_counts_as_unset(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setenv("GPTLIB_DEVICE", "")
    assert best_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:0", "meta"])
def test_an_unknown_device_is_refused_with_the_allowed_ones(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    machine(cards=1, mps=True)
    monkeypatch.setenv("GPTLIB_DEVICE", name)
    with pytest.raises(ValueError, match=f"GPTLIB_DEVICE is '{name}'; use cpu, cuda, .* unset it"):
        best_device()


@pytest.mark.parametrize(("name", "cards"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 2)])
def test_a_card_that_is_not_there_is_refused_with_a_way_out(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str, cards: int
) -> None:
    machine(cards=cards)
    monkeypatch.setenv("GPTLIB_DEVICE", name)
    with pytest.raises(ValueError, match=f"'{name}', but PyTorch sees {cards} CUDA .* unset it"):
        best_device()


def test_mps_on_another_machine_is_refused_with_a_way_out(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setenv("GPTLIB_DEVICE", "mps")
    with pytest.raises(ValueError, match=r"'mps', but PyTorch sees no Apple .* unset it"):
        best_device()


def test_the_cpu_agrees_with_itself_exactly() -> None:
    assert agrees_with_cpu("cpu") == 0.0


def test_the_best_device_of_this_machine_agrees_with_its_cpu() -> None:
    assert agrees_with_cpu(best_device()) <= TOLERANCE


@pytest.mark.parametrize(
    "operation", ["embedding", "layer_norm", "linear", "scaled_dot_product_attention", "gelu"]
)
def test_a_device_that_gets_one_operation_wrong_is_noticed(
    monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    right = module._forward(torch.device("cpu"))
    exact = getattr(functional, operation)

    def slightly_wrong(*args: Any, **options: Any) -> torch.Tensor:
        values: torch.Tensor = exact(*args, **options)
        return values + 0.05 * values.roll(1, dims=-1)

    monkeypatch.setattr(functional, operation, slightly_wrong)
    wrong = module._forward(torch.device("cpu"))
    monkeypatch.setattr(functional, operation, exact)
    answers = iter([wrong, right])
    monkeypatch.setattr(module, "_forward", lambda device: next(answers))
    assert agrees_with_cpu("mps") > TOLERANCE


def test_a_value_that_is_no_number_counts_as_infinitely_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([torch.tensor([0.0, float("nan")]), torch.zeros(2)])
    monkeypatch.setattr(module, "_forward", lambda device: next(answers))
    assert agrees_with_cpu("mps") == float("inf")


def test_the_check_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    agrees_with_cpu("cpu")
    assert torch.equal(before, torch.get_rng_state())
