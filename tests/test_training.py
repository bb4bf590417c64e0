"""Chapter 5's module: losses, schedule, optimizer, runs, checkpoints and everything refused."""

import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.embeddings import random_batch, split_tokens
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.training import (
    Draw,
    Report,
    TrainingConfig,
    TrainingState,
    accumulate_gradients,
    bits_per_byte,
    draw_windows,
    evaluate,
    learning_rate_at,
    load_checkpoint,
    make_optimizer,
    next_token_loss,
    perplexity,
    restore,
    run_steps,
    save_checkpoint,
    take_step,
    train,
)

SIZES = GPTConfig(vocab_size=20, context_length=8, n_layer=2, n_head=2, n_embd=16)
CONFIG = TrainingConfig(
    n_steps=20, batch_size=3, warmup_steps=4, report_every=4, evaluate_every=10, save_every=8
)


def new_model(seed: int = 0, **changes: Any) -> GPT:
    return GPT(replace(SIZES, **changes), torch.Generator().manual_seed(seed))


def text(n: int = 500) -> Tensor:
    return torch.randint(20, (n,), generator=torch.Generator().manual_seed(1))


def windows() -> Draw:
    return partial(draw_windows, text())


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def without_times(reports: list[Report]) -> list[Report]:
    return [replace(report, tokens_per_second=0.0, seconds=0.0) for report in reports]


# What a loss means.


def test_perplexity_of_a_model_that_knows_nothing_is_the_vocabulary() -> None:
    assert perplexity(math.log(4096)) == pytest.approx(4096)
    assert perplexity(0.0) == 1.0


def test_bits_per_byte_do_not_depend_on_how_a_text_is_cut() -> None:
    total = 500.0  # nats for the whole text
    assert bits_per_byte(total / 100, 100, 400) == pytest.approx(bits_per_byte(total / 50, 50, 400))
    assert bits_per_byte(math.log(2), 8, 1) == pytest.approx(8.0)


@pytest.mark.parametrize("n", [9, 10, 16, 17, 18, 100, 137])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_evaluation_counts_each_token_once(n: int, batch_size: int) -> None:
    model, tokens = new_model(), text(n)
    total, seen = 0.0, 0
    for start in range(0, n - 1, 8):  # by hand, window by window
        window = tokens[start : start + 9]
        logits = model(window[None, :-1])[0]
        total += F.cross_entropy(logits, window[1:], reduction="sum").item()
        seen += len(window) - 1
    assert seen == n - 1
    assert evaluate(model, tokens, batch_size) == pytest.approx(total / seen, abs=1e-5)


def test_evaluation_turns_dropout_off_and_restores_the_mode() -> None:
    model = new_model(dropout=0.5)
    model.train()
    assert evaluate(model, text()) == evaluate(model, text())
    assert model.training
    model.eval()
    evaluate(model, text())
    assert not model.training


def test_evaluation_of_less_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="the text to evaluate: 8 tokens give no window of 8"):
        evaluate(new_model(), text(8))


# The plan.


def test_the_learning_rate_rises_falls_and_ends() -> None:
    config = TrainingConfig(
        n_steps=101, warmup_steps=10, max_learning_rate=1.0, min_learning_rate=0.1
    )
    rates = [learning_rate_at(step, config) for step in range(120)]
    assert rates[:11] == pytest.approx([*(n / 10 for n in range(1, 11)), 1.0])
    assert all(a > b for a, b in pairwise(rates[10:101]))
    assert rates[55] == pytest.approx(0.55)  # half-way
    assert rates[100:] == [0.1] * 20


def test_the_learning_rate_without_warm_up_starts_at_the_top() -> None:
    config = TrainingConfig(n_steps=3, max_learning_rate=1.0)
    assert [learning_rate_at(step, config) for step in range(3)] == pytest.approx([1.0, 0.5, 0.0])
    assert learning_rate_at(0, TrainingConfig(n_steps=1)) == 0.0


def test_the_cosine_is_pytorchs() -> None:
    config = TrainingConfig(n_steps=31, max_learning_rate=0.5, min_learning_rate=0.05)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.05)
    for step in range(31):
        assert learning_rate_at(step, config) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


WRONG_PLANS: list[tuple[dict[str, Any], str]] = [
    ({"n_steps": 0}, "n_steps is 0; it must be a whole number of at least 1"),
    ({"batch_size": 0}, "batch_size is 0; it must be a whole number of at least 1"),
    ({"accumulation_steps": -1}, "accumulation_steps is -1; it must be a whole number"),
    ({"warmup_steps": 20}, "warmup_steps is 20; it must be from 0 to n_steps - 1"),
    ({"max_learning_rate": 0.0}, "max_learning_rate is 0.0; it must be above 0"),
    ({"max_learning_rate": math.nan}, "max_learning_rate is nan; it must be above 0"),
    ({"min_learning_rate": 1.0}, "min_learning_rate is 1.0; it must be from 0 to max_learning"),
    ({"max_gradient_norm": 0.0}, "max_gradient_norm is 0.0; it must be above 0"),
    ({"precision": "float16"}, "precision is 'float16'; it must be float32 or bfloat16"),
    ({"report_every": 0}, "report_every is 0; it must be a whole number of at least 1"),
    ({"evaluate_every": 0}, "evaluate_every is 0; it must be a whole number of at least 1"),
    ({"save_every": 0}, "save_every is 0; it must be a whole number of at least 1"),
    ({"n_steps": 1e2}, "n_steps is 100.0; it must be a whole number"),
    ({"warmup_steps": 0.1}, "warmup_steps is 0.1; it must be from 0 to n_steps"),
    ({"report_every": 10.0}, "report_every is 10.0; it must be a whole number"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_PLANS)
def test_a_plan_that_cannot_be_run_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_decay": -0.1}, "Invalid weight_decay value: -0.1"),
        ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
    ],
)
def test_what_adamw_refuses_is_refused_before_the_first_step(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(new_model(), text(), None, replace(CONFIG, **change))


# One step.


def test_weight_decay_is_for_matrices_only_and_fixed_tables_are_left_out() -> None:
    model = new_model(positions="sinusoidal")
    decayed, others = make_optimizer(model, CONFIG).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert all(p is not model.embed.position_embedding.weight for p in decayed["params"])


def test_the_fused_optimizer_equals_the_plain_one() -> None:
    fused, plain = new_model(), new_model()
    optimizers = [
        make_optimizer(fused, CONFIG),
        torch.optim.AdamW(
            plain.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0, foreach=False
        ),
    ]
    optimizers[0].param_groups[0]["weight_decay"] = 0.0
    assert optimizers[0].param_groups[0]["fused"]
    tokens = text(27).view(3, 9)
    for _ in range(3):
        for model, optimizer in zip((fused, plain), optimizers, strict=True):
            accumulate_gradients(model, [(tokens[:, :-1], tokens[:, 1:])])
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_fresh_models_loss_is_that_of_guessing() -> None:
    inputs, targets = random_batch(text(), 40, 8, torch.Generator().manual_seed(3))
    model = new_model()
    loss = next_token_loss(model, inputs, targets)
    assert loss.item() == pytest.approx(math.log(20), abs=0.05)
    by_hand = -model(inputs).log_softmax(-1).gather(-1, targets[..., None]).mean()
    torch.testing.assert_close(loss, by_hand)


def test_gradients_in_bfloat16_are_near_and_the_loss_is_not_rounded_itself() -> None:
    batch = random_batch(text(), 4, 8, torch.Generator().manual_seed(3))
    exact, low = new_model(), new_model()
    losses = [
        accumulate_gradients(exact, [batch]),
        accumulate_gradients(low, [batch], precision="bfloat16"),
    ]
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], atol=0.01, rtol=0)
    assert losses[1] != losses[1].bfloat16().float()
    for a, b in zip(low.parameters(), exact.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert not torch.equal(a.grad, b.grad)
        assert (a.grad - b.grad).norm() < 0.05 * b.grad.norm()


def test_another_loss_takes_what_its_draw_gives() -> None:
    """One step on sums of squares: the loop knows nothing of tokens."""
    model = nn.Linear(2, 1, bias=False)
    state = TrainingState.start(model, replace(CONFIG, accumulation_steps=2, weight_decay=0.0))
    before = model.weight.detach().clone()

    def draw(state: TrainingState) -> list[tuple[Tensor, Tensor, Tensor]]:
        state.n_tokens += 5
        return [(torch.ones(3, 2), torch.ones(3, 1), torch.tensor(k)) for k in (1.0, 3.0)]

    def loss(model: nn.Module, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return weight * F.mse_loss(model(x), y)

    found, _ = take_step(state, draw, loss)
    assert found.item() == pytest.approx(2 * (before.sum().item() - 1) ** 2)  # the mean of 1 and 3
    assert (state.step, state.n_tokens) == (1, 5)
    assert not torch.equal(model.weight, before)


def test_a_group_with_a_scale_learns_at_its_own_rate() -> None:
    state = TrainingState.start(new_model(), CONFIG)
    state.optimizer.param_groups[1]["scale"] = 10.0
    take_step(state, windows(), next_token_loss)
    rate = learning_rate_at(0, CONFIG)
    assert [group["lr"] for group in state.optimizer.param_groups] == [rate, 10 * rate]


def test_accumulated_gradients_equal_those_of_one_big_batch() -> None:
    big, small = new_model(), new_model()
    inputs, targets = random_batch(text(), 12, 8, torch.Generator().manual_seed(3))
    loss = accumulate_gradients(big, [(inputs, targets)])
    parts = list(zip(inputs.split(3), targets.split(3), strict=True))
    assert accumulate_gradients(small, parts).item() == pytest.approx(loss.item(), abs=1e-6)
    for a, b in zip(big.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_accumulation_trains_like_a_big_batch() -> None:
    big, small = new_model(), new_model()
    list(train(big, text(), None, replace(CONFIG, batch_size=12)))
    list(train(small, text(), None, replace(CONFIG, batch_size=3, accumulation_steps=4)))
    # 4 draws of 3 are the same starts as 1 draw of 12
    for a, b in zip(big.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)


def test_a_long_gradient_is_cut_to_length() -> None:
    model = new_model()
    config = replace(CONFIG, max_gradient_norm=0.01, betas=(0.0, 0.0), weight_decay=0.0)
    state = TrainingState.start(model, config)
    lengths: list[float] = []

    def note(*_: object) -> None:
        lengths.append(math.hypot(*(float(p.grad.norm()) for p in model.parameters())))  # type: ignore[union-attr]

    state.optimizer.register_step_pre_hook(note)
    _, norm = take_step(state, windows(), next_token_loss)
    assert norm.item() > 0.01
    assert lengths == [pytest.approx(0.01, rel=1e-3)]


def test_a_step_forgets_its_gradients_and_counts() -> None:
    state = TrainingState.start(new_model(), CONFIG)
    take_step(state, windows(), next_token_loss)
    assert all(p.grad is None for p in state.model.parameters())
    assert (state.step, state.n_tokens) == (1, 3 * 8)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_bfloat16_trains_nearly_as_float32_and_keeps_float32_weights(device: str) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        model = new_model().to(device)
        *_, last = train(model, text(), text(), replace(CONFIG, precision=precision))
        losses.append(last.validation_loss)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]


# A run.


def test_one_batch_can_be_learnt_by_heart() -> None:
    model = new_model()
    config = TrainingConfig(n_steps=150, max_learning_rate=1e-2)
    *_, last = train(model, text(9), None, config)
    assert last.loss < 0.05


def test_reports_come_at_every_multiple_and_evaluations_too() -> None:
    reports = list(train(new_model(), text(), text(50), CONFIG))
    assert [report.step for report in reports] == [4, 8, 10, 12, 16, 20]
    evaluated = [report.step for report in reports if report.validation_loss is not None]
    assert evaluated == [10, 20]
    assert [r.learning_rate for r in reports] == [
        learning_rate_at(r.step - 1, CONFIG) for r in reports
    ]
    assert all(report.tokens_per_second > 0 for report in reports)
    assert all(a.seconds < b.seconds for a, b in pairwise(reports))


def test_a_report_averages_the_losses_since_the_last() -> None:
    fine = list(train(new_model(), text(), None, replace(CONFIG, report_every=1)))
    coarse = list(train(new_model(), text(), None, replace(CONFIG, report_every=20, save_every=20)))
    expected = sum(r.loss for r in fine if r.step > 10) / 10
    assert coarse[-1].loss == pytest.approx(expected)


def test_the_same_plan_gives_the_same_run_and_another_seed_another() -> None:
    runs = [list(train(new_model(), text(), text(), CONFIG)) for _ in range(2)]
    assert without_times(runs[0]) == without_times(runs[1])
    other = list(train(new_model(), text(), text(), replace(CONFIG, seed=1)))
    assert other[-1].loss != runs[0][-1].loss


def test_nothing_happens_before_the_first_report_is_asked_for() -> None:
    model = new_model()
    train(model, text(), None, CONFIG)
    assert same(model, new_model())


def test_the_model_is_in_evaluation_mode_at_reports_and_in_training_mode_in_steps() -> None:
    model, modes = new_model(dropout=0.3), []

    def loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
        modes.append(model.training)
        return next_token_loss(model, inputs, targets)

    for _ in train(model, text(), None, CONFIG, loss=loss):
        assert not model.training
    assert modes == [True] * 20


def test_what_varies_in_the_loop_is_called_when_it_is_due(tmp_path: Path) -> None:
    """The seams that other callers use: step, score, save and gather."""
    state, saved = TrainingState.start(nn.Linear(1, 1), CONFIG), []

    def step(state: TrainingState) -> tuple[Tensor, Tensor]:
        state.step += 1
        state.n_tokens += 7
        return torch.tensor(float(state.step)), torch.tensor(1.0)

    reports = list(
        run_steps(
            state,
            step,
            lambda: 0.25,
            tmp_path / "a",
            save=lambda path, state: saved.append((path.name, state.step)),
            gather=lambda values: values * torch.tensor([[2.0], [1.0]]),
        )
    )
    assert [r.loss for r in reports] == [5.0, 13.0, 19.0, 23.0, 29.0, 37.0]  # twice the means
    assert [r.validation_loss for r in reports] == [None, None, 0.25, None, None, 0.25]
    assert saved == [("a", 8), ("a", 16), ("a", 20)]


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int32])
def test_tokens_of_any_width_train_and_are_judged_alike(dtype: torch.dtype) -> None:
    """Files of tokens are mapped as they are stored, in two or four bytes each."""
    runs, models = [], [new_model(), new_model()]
    for model, tokens in zip(models, (text(), text().to(dtype)), strict=True):
        left, right = split_tokens(tokens)
        runs.append(without_times(list(train(model, left, right, CONFIG))))
        runs[-1].append(evaluate(model, right, batch_size=3))  # type: ignore[arg-type]
        inputs, targets = draw_windows(tokens, TrainingState.start(model, CONFIG))[0]
        assert inputs.dtype == targets.dtype == torch.int64
    assert runs[0] == runs[1]
    assert same(*models)


@pytest.mark.parametrize("name", ["training", "validation"])
def test_a_split_shorter_than_a_window_is_refused(name: str) -> None:
    parts = {"training": text(), "validation": text()} | {name: text(8)}
    message = f"the {name} split: 8 tokens give no window of 8 .*pass more"
    with pytest.raises(ValueError, match=message):
        train(new_model(), parts["training"], parts["validation"], CONFIG)


@pytest.mark.parametrize("name", ["training", "validation"])
@pytest.mark.parametrize("wrong", [text().tolist(), text().float(), text()[None]])
def test_a_split_that_is_no_flat_stream_is_refused_before_the_first_step(
    wrong: Any, name: str
) -> None:
    parts = {"training": text(), "validation": text()} | {name: wrong}
    with pytest.raises(ValueError, match=f"the {name} split: pass one flat tensor of ids, not"):
        train(new_model(), parts["training"], parts["validation"], CONFIG)


def test_gradients_that_an_interrupted_step_left_play_no_part() -> None:
    fresh, used = new_model(), new_model()
    next_token_loss(used, text()[None, :8], text()[None, 1:9]).backward()
    runs = [without_times(list(train(model, text(), None, CONFIG))) for model in (fresh, used)]
    assert runs[0] == runs[1]


def test_evaluation_restores_the_mode_after_an_error_and_sums_half_precision_exactly() -> None:
    model = new_model().train()
    with pytest.raises(ValueError, match="token id"):
        evaluate(model, text() + 5)
    assert model.training
    low, long = new_model(vocab_size=2000).bfloat16(), text(20_000)
    assert evaluate(low, long, batch_size=1) == pytest.approx(evaluate(low, long, 500), rel=1e-4)


# Checkpoints.


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("stop_at", [4, 8, 12])
def test_a_resumed_run_equals_an_uninterrupted_one(
    dropout: float, stop_at: int, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    torch.manual_seed(5)
    whole = new_model(dropout=dropout)
    expected = list(train(whole, text(), text(), CONFIG))

    torch.manual_seed(5)
    first = []
    run = train(new_model(dropout=dropout), text(), text(), CONFIG, checkpoint=path)
    for report in run:
        first.append(report)
        if report.step == stop_at:
            break
    run.close()
    torch.manual_seed(99)  # a new process would have another state
    torch.rand(7)
    again = new_model(seed=8, dropout=dropout)
    rest = list(train(again, text(), text(), CONFIG, checkpoint=path, resume=True))
    assert without_times([*first, *rest]) == without_times(expected)
    assert same(again, whole)


def test_a_finished_run_resumes_to_nothing_more(tmp_path: Path) -> None:
    path, model = tmp_path / "run.pt", new_model()
    list(train(model, text(), None, CONFIG, checkpoint=path))
    again = new_model(seed=4)
    assert list(train(again, text(), None, CONFIG, checkpoint=path, resume=True)) == []
    assert same(again, model)


def test_a_checkpoint_holds_plain_configurations_from_which_the_model_is_built(
    tmp_path: Path,
) -> None:
    path, model = tmp_path / "deep" / "er" / "run.pt", new_model()
    list(train(model, text(), None, CONFIG, checkpoint=path))
    checkpoint = load_checkpoint(path)
    assert checkpoint["step"] == 20
    assert checkpoint["training_config"] == asdict(CONFIG)
    again = GPT(GPTConfig(**checkpoint["model_config"]))
    again.load_state_dict(checkpoint["model"])
    assert same(again, model)
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]


def test_the_head_stays_tied_to_the_table_when_a_run_is_resumed(tmp_path: Path) -> None:
    path, model = tmp_path / "run.pt", new_model(seed=3)
    next(run := train(new_model(), text(), None, CONFIG, checkpoint=path))
    run.close()
    for report in train(model, text(), None, CONFIG, checkpoint=path, resume=True):
        assert model.head.weight is model.embed.token_embedding.weight, report
    again = GPT(SIZES)
    again.load_state_dict(load_checkpoint(path)["model"], assign=True)
    assert again.head.weight is again.embed.token_embedding.weight
    assert same(again, model)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_checkpoint_that_names_the_table_once_goes_on_as_well(
    positions: str, tmp_path: Path
) -> None:
    """The first edition's files hold no head.weight, and say nothing of scales."""
    path, whole = tmp_path / "run.pt", new_model(positions=positions)
    expected = list(train(whole, text(), None, CONFIG))
    run = train(new_model(positions=positions), text(), None, CONFIG, checkpoint=path)
    first = [next(run), next(run)]
    run.close()
    checkpoint = load_checkpoint(path)
    del checkpoint["model"]["head.weight"]
    torch.save(checkpoint, path)
    model = new_model(seed=4, positions=positions)
    rest = list(train(model, text(), None, CONFIG, checkpoint=path, resume=True))
    assert without_times([*first, *rest]) == without_times(expected)
    assert model.head.weight is model.embed.token_embedding.weight
    assert same(model, whole)


def test_a_run_that_holds_only_a_part_saves_and_restores_what_was_gathered(
    tmp_path: Path,
) -> None:
    """Several processes write the same file as one: what they bring is saved and handed back."""
    path, whole, part = tmp_path / "run.pt", new_model(seed=1), new_model(seed=2)
    states = [TrainingState.start(model, CONFIG) for model in (whole, part)]
    take_step(states[0], windows(), next_token_loss)
    gathered = (whole.state_dict(), states[0].optimizer.state_dict())
    save_checkpoint(path, states[1], gathered)
    seen = []

    def load(state: TrainingState, checkpoint: dict[str, Any]) -> None:
        seen.append(state)
        state.model.load_state_dict(checkpoint["model"])

    states[1].step = 5
    restore(states[1], load_checkpoint(path), load)
    assert seen == [states[1]]
    assert states[1].step == 0
    assert same(part, whole)
    other = TrainingState.start(new_model(), replace(CONFIG, seed=9))
    with pytest.raises(ValueError, match="seed is 0 in the checkpoint and 9 in this"):
        restore(other, load_checkpoint(path), load)
    assert len(seen) == 1


def test_checkpoints_are_saved_on_schedule_and_at_the_end(tmp_path: Path) -> None:
    path, steps = tmp_path / "run.pt", []
    for _ in train(new_model(), text(), None, CONFIG, checkpoint=path):
        steps.append(load_checkpoint(path)["step"] if path.exists() else None)
    assert steps == [None, 8, 8, 8, 16, 20]


def test_a_save_that_fails_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = tmp_path / "run.pt", TrainingState.start(new_model(), CONFIG)
    save_checkpoint(path, state)
    take_step(state, windows(), next_token_loss)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, state)
    assert load_checkpoint(path)["step"] == 0


SAVER = """
import sys, torch
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.training import TrainingConfig, TrainingState, save_checkpoint
sizes = GPTConfig(vocab_size=2000, context_length=8, n_layer=2, n_head=2, n_embd=64)
state = TrainingState.start(GPT(sizes), TrainingConfig(n_steps=10))
while True:
    save_checkpoint(sys.argv[1], state)
    state.step += 1
    print(state.step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path, chance, steps = tmp_path / "run.pt", random.Random(0), []
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()  # the first one is written
            time.sleep(chance.uniform(0.0, 0.15))
            process.kill()
            assert process.wait() in (-getattr(signal, "SIGKILL", 9), 1)
        steps.append(load_checkpoint(path)["step"])
    assert min(steps) >= 0


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, TrainingState.start(new_model(), CONFIG))
    os.truncate(path, int(path.stat().st_size * share))
    message = r"run\.pt is no checkpoint: cut off, or .*; use a copy"
    with pytest.raises(ValueError, match=message):
        train(new_model(), text(), None, CONFIG, checkpoint=path, resume=True)


class Code:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.witness), "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, witness = tmp_path / "bad.pt", tmp_path / "witness"
    for write in (
        lambda: torch.save({"model": Code(witness)}, path),
        lambda: path.write_bytes(pickle.dumps({"model": Code(witness)}, protocol=2)),
    ):
        write()
        with pytest.raises(
            ValueError,
            match=r"bad\.pt is no checkpoint: .* more than tensors .*no code in it was",
        ):
            load_checkpoint(path)
        assert not witness.exists()


def test_a_file_that_is_no_run_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt holds no training run; pass a file"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 3}, "n_layer is 2 in the checkpoint and 3 in this run; use"),
        (
            {"dropout": 0.1},
            "dropout is 0.0 in the checkpoint and 0.1 in this run; use",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, TrainingState.start(new_model(), CONFIG))
    with pytest.raises(ValueError, match=message):
        train(new_model(**change), text(), None, CONFIG, checkpoint=path, resume=True)


def test_a_checkpoint_of_another_seed_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, TrainingState.start(new_model(seed=1), CONFIG))
    state = TrainingState.start(new_model(), replace(CONFIG, seed=3))
    with pytest.raises(ValueError, match="seed is 0 in the checkpoint and 3 in this run; use the"):
        restore(state, load_checkpoint(path))
    assert same(state.model, new_model())


def test_a_finished_run_goes_on_with_more_steps_other_rates_and_batches(tmp_path: Path) -> None:
    path, plan = tmp_path / "run.pt", replace(CONFIG, n_steps=4, warmup_steps=1)
    list(train(new_model(), text(), None, plan, checkpoint=path))
    more = replace(plan, n_steps=6, max_learning_rate=1e-4, batch_size=3, report_every=1)
    reports = train(new_model(seed=9), text(), None, more, checkpoint=path, resume=True)
    assert [(r.step, r.learning_rate) for r in reports] == [
        (step + 1, learning_rate_at(step, more)) for step in (4, 5)
    ]


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint is a folder, .*; pass a file in it: .*run"):
        train(new_model(), text(), None, CONFIG, checkpoint=tmp_path)


@pytest.mark.parametrize("content", [b"hello world\n", b"{}", b"\x80\x02hello", b"PK\x03\x04"])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pt is no checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


def test_resuming_needs_a_path_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume is True without a checkpoint; pass checkpoint="):
        train(new_model(), text(), None, CONFIG, resume=True)
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        train(new_model(), text(), None, CONFIG, checkpoint=tmp_path / "none.pt", resume=True)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    path, model = tmp_path / "run.pt", new_model()
    run = train(model, text(), None, CONFIG, checkpoint=path)
    assert [next(run).step for _ in range(2)] == [4, 8]
    good = load_checkpoint(path)
    with torch.no_grad():
        model.ln_f.weight.fill_(math.nan)
    message = r"^loss nan at step 9; .*run\.pt keeps the last good"
    with pytest.raises(FloatingPointError, match=message):
        next(run)
    kept = load_checkpoint(path)
    assert kept["step"] == 8
    assert all(torch.equal(kept["model"][name], good["model"][name]) for name in good["model"])


def test_a_validation_loss_that_is_no_number_stops_the_run_and_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    monkeypatch.setattr("gptlib.training.evaluate", lambda *_: math.nan)
    run = train(new_model(), text(), text(), CONFIG, checkpoint=path)
    assert [next(run).step for _ in range(2)] == [4, 8]
    message = r"validation loss nan at step 10; .*run\.pt keeps the last"
    with pytest.raises(FloatingPointError, match=message):
        next(run)
    assert load_checkpoint(path)["step"] == 8


def test_an_infinite_gradient_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    path, model = tmp_path / "run.pt", new_model()
    run = train(model, text(), None, replace(CONFIG, report_every=1), checkpoint=path)
    next(run)
    model.ln_f.weight.register_hook(lambda gradient: gradient * math.inf)
    message = "gradient norm (inf|nan) at step 2; there is no checkpoint"
    with pytest.raises(FloatingPointError, match=message):
        list(run)
    assert not path.exists()


def test_closing_saves_and_breaking_off_without_a_path_saves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    run = train(new_model(), text(), None, CONFIG, checkpoint=path)
    next(run)
    run.close()
    assert load_checkpoint(path)["step"] == 4
    run = train(new_model(), text(), None, CONFIG)
    next(run)
    run.close()
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
