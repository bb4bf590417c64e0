"""Optimizers: equal to PyTorch's or to their equations, and resumed like any other."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from command_line import call, refusal, short_text
from torch import Tensor, nn

from gptlib.extras.optimizers import OPTIMIZERS, lion, muon, plain_adamw, sgd, weight_groups
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.training import TrainingConfig, load_checkpoint, make_optimizer, train

SIZES = GPTConfig(vocab_size=20, context_length=8, n_layer=2, n_head=2, n_embd=16)
CONFIG = TrainingConfig(
    n_steps=20, batch_size=3, warmup_steps=4, report_every=4, save_every=8, max_learning_rate=1e-2
)
Make = Callable[[nn.Module, TrainingConfig], torch.optim.Optimizer]
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9")
MAKERS = [
    pytest.param(make, id=name, marks=[needs_muon] if name == "muon" else [])
    for name, make in {**OPTIMIZERS, "by hand": plain_adamw}.items()
]


def new_model(seed: int = 0, dropout: float = 0.0) -> GPT:
    return GPT(replace(SIZES, dropout=dropout), torch.Generator().manual_seed(seed))


def text(n: int = 500) -> Tensor:
    return torch.randint(20, (n,), generator=torch.Generator().manual_seed(1))


def test_adamw_by_hand_is_pytorchs() -> None:
    ours, theirs = new_model(), new_model()
    optimizers = [plain_adamw(ours, CONFIG), make_optimizer(theirs, CONFIG)]
    generator = torch.Generator().manual_seed(2)
    for step in range(20):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = 10.0 ** (step % 5 - 3) * torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_sgd_sums_gradients_and_decay() -> None:
    model = nn.Linear(2, 1, bias=False)
    start = model.weight.detach().clone()
    optimizer = sgd(model, replace(CONFIG, betas=(0.5, 0.0), weight_decay=0.1))
    first = torch.tensor([[1.0, -2.0]])
    for _ in range(2):
        model.weight.grad = first.clone()
        optimizer.step()
    pull = first + 0.1 * start
    then = start - 0.01 * pull
    expected = then - 0.01 * (0.5 * pull + first + 0.1 * then)
    torch.testing.assert_close(model.weight.detach(), expected)


def test_a_step_of_lion_is_as_long_as_its_rate_and_its_sign_is_a_means() -> None:
    model = nn.Linear(3, 1, bias=False)
    start = model.weight.detach().clone()
    optimizer = lion(model, replace(CONFIG, betas=(0.9, 0.5), weight_decay=0.0))
    for gradient in ([[1.0, -0.001, 3.0]], [[1.0, -0.001, -20.0]]):
        model.weight.grad = torch.tensor(gradient)
        optimizer.step()
    # the mean is then half the first gradient: 0.9 · 1.5 - 0.1 · 20 is below 0
    expected = start + 0.01 * torch.tensor([[-2.0, 2.0, 0.0]])
    torch.testing.assert_close(model.weight.detach(), expected)


@needs_muon
def test_muon_moves_the_blocks_matrices_and_adamw_the_rest() -> None:
    model = new_model()
    matrices, decayed, others = muon(model, CONFIG).param_groups
    inside = {id(p) for p in model.blocks[0].parameters() if p.dim() == 2}
    assert {id(p) for p in matrices["params"]} > inside
    assert len(matrices["params"]) == 2 * 4
    assert {id(p) for p in decayed["params"]} == {id(p) for p in model.embed.parameters()}
    n_parts = len(matrices["params"]) + len(decayed["params"]) + len(others["params"])
    assert n_parts == len(list(model.parameters()))
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


@needs_muon
def test_all_directions_of_muons_step_are_equally_long() -> None:
    model = new_model()
    optimizer, weight = muon(model, replace(CONFIG, weight_decay=0.0)), model.blocks[0].mlp.expand
    before = weight.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    lengths = torch.linalg.svdvals(weight.weight.detach() - before)
    assert lengths.max() < 2 * lengths.min()
    assert torch.linalg.svdvals(weight.weight.grad).max() > 2 * lengths.max()


def test_a_pytorch_without_muon_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match=r"has no Muon; install 2\.9 or newer, or choose adamw"):
        train(new_model(), text(), None, CONFIG, optimizer=muon)


@pytest.mark.parametrize("make", MAKERS)
def test_biases_and_norms_are_not_decayed(make: Make) -> None:
    groups = make(new_model(), CONFIG).param_groups
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].dim() == 2 else 0.0)
    assert [len(group["params"]) for group in weight_groups(new_model(), CONFIG)] == [10, 18]


@pytest.mark.parametrize("make", MAKERS)
def test_all_learn_at_the_plans_rate_from_a_gradient_that_was_cut(make: Make) -> None:
    model, rates = new_model(), []

    def noting(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
        optimizer = make(model, config)

        def note(*_: object) -> None:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            assert math.hypot(*(float(gradient.norm()) for gradient in gradients)) < 0.1001
            rates.append({group["lr"] for group in optimizer.param_groups})

        optimizer.register_step_pre_hook(note)
        return optimizer

    config = replace(CONFIG, report_every=1, max_gradient_norm=0.1)
    reports = list(train(model, text(), None, config, optimizer=noting))
    assert rates == [{report.learning_rate} for report in reports]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("stop_at", [4, 12])
def test_a_resumed_run_equals_an_uninterrupted_one(
    make: Make, stop_at: int, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    torch.manual_seed(5)
    whole = new_model(dropout=0.1)
    list(train(whole, text(), None, CONFIG, optimizer=make))
    torch.manual_seed(5)
    run = train(new_model(dropout=0.1), text(), None, CONFIG, optimizer=make, checkpoint=path)
    for report in run:
        if report.step == stop_at:
            break
    run.close()
    torch.manual_seed(99)
    again = new_model(seed=8, dropout=0.1)
    list(train(again, text(), None, CONFIG, optimizer=make, checkpoint=path, resume=True))
    for a, b in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_going_on_with_another_optimizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    list(train(new_model(), text(), None, CONFIG, checkpoint=path))
    message = "optimizer is 'AdamW' in the checkpoint and 'Lion' in this run; use the checkpoint's"
    with pytest.raises(ValueError, match=message):
        train(new_model(), text(), None, CONFIG, optimizer=lion, checkpoint=path, resume=True)


def test_a_checkpoint_that_names_no_optimizer_is_adamws(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    next(run := train(new_model(), text(), None, CONFIG, checkpoint=path))
    run.close()
    checkpoint = load_checkpoint(path)
    del checkpoint["optimizer_kind"]
    torch.save(checkpoint, path)
    *_, last = train(new_model(), text(), None, CONFIG, checkpoint=path, resume=True)
    assert last.step == 20
    with pytest.raises(ValueError, match="optimizer is 'AdamW' in the checkpoint and 'SGD'"):
        train(new_model(), text(), None, CONFIG, optimizer=sgd, checkpoint=path, resume=True)


# By the command.

TINY = (
    *("--training.warmup-steps", 2, "--training.batch-size", 2, "--device", "cpu"),
    *("--model.vocab-size", 270, "--model.context-length", 16, "--model.n-embd", 16),
    *("--model.n-layer", 1, "--model.n-head", 2),
)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return short_text(tmp_path)


@pytest.mark.parametrize("name", [each.id for each in MAKERS[:-1] if not each.marks] + ["muon"])
def test_a_run_keeps_its_optimizer(
    name: str, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        assert "has no Muon" in refusal(capsys, "train", book, *TINY, "--optimizer", name)
        return
    folder = tmp_path / "run"
    words = ("train", book, *TINY, "--training.steps", 4, "--folder", folder)
    assert call(*words, "--optimizer", name) == 0
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert saved.get("optimizer", "adamw") == name
    kind = load_checkpoint(folder / "checkpoint.pt")["optimizer_kind"]
    assert kind.lower().startswith(name)
    assert call("train", "--resume", "--folder", folder, "--training.steps", 6) == 0
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 6
    other = "lion" if name == "sgd" else "sgd"
    capsys.readouterr()
    said = refusal(capsys, "train", "--resume", "--folder", folder, "--optimizer", other)
    assert f"was begun with optimizer '{name}', not '{other}'; leave --optimizer out" in said


def test_a_wrong_name_gets_the_known_ones(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "train", book, "--optimizer", "adam")
    assert re.search("'adam' .*adamw.*sgd.*lion.*muon", said)
    plan = tmp_path / "plan.yaml"
    plan.write_text("optimizer: adam\ntraining: {n_steps: 3}\n", encoding="utf-8")
    said = refusal(capsys, "train", book, "--config", plan)
    assert re.search("'adam' .*adamw.*sgd.*lion.*muon", said)
