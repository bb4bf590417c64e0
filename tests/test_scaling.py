"""Chapter 10's module: what a step keeps, the loss in chunks, several processes, checkpoints."""

import copy
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from parallel_worker import PLAN, new_model, text
from torch import Tensor, nn

from gptlib.embeddings import random_batch
from gptlib.extras.launch import launch
from gptlib.gpt2 import (
    GPT,
    GPT2_SMALL,
    GPT2_XL,
    GPTConfig,
    count_parameters,
    flops_per_token,
    memory_bytes,
)
from gptlib.scaling import (
    ChunkedCrossEntropy,
    Machine,
    activation_bytes,
    any_process,
    checkpoint_activations,
    chunked_loss,
    model_flops_utilization,
    parallel_step,
    processes,
    regroup,
    train_in_parallel,
)
from gptlib.training import (
    Loss,
    Report,
    accumulate_gradients,
    load_checkpoint,
    next_token_loss,
    train,
)

WORKER = Path(__file__).with_name("parallel_worker.py")


# Where time and memory go.


def test_utilization_is_the_share_of_the_peak() -> None:
    peak = flops_per_token(GPT2_SMALL)["training"] * 1000.0
    assert model_flops_utilization(GPT2_SMALL, 250.0, peak) == pytest.approx(0.25)
    shorter = model_flops_utilization(GPT2_SMALL, 250.0, peak, context_length=16)
    assert shorter < 0.25


def test_kept_bytes_count_each_piece_of_memory_once_and_no_weights() -> None:
    layer, x = nn.Linear(8, 8), torch.ones(4, 8)
    assert activation_bytes(layer, lambda: layer(x).sum()) == x.nbytes
    assert activation_bytes(layer, lambda: layer(x).sum() + layer(x).sum()) == x.nbytes


# Activation checkpointing.


def gradients(model: GPT, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    model.zero_grad()
    next_token_loss(model, inputs, targets).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_checkpointing_keeps_less_and_changes_no_gradient_and_no_name() -> None:
    sizes = GPTConfig(vocab_size=20, context_length=32, n_layer=4, n_head=2, n_embd=32)
    model = GPT(sizes, torch.Generator().manual_seed(0))
    inputs, targets = random_batch(text(), 4, 32, torch.Generator().manual_seed(0))
    names, modules = list(model.state_dict()), [name for name, _ in model.named_modules()]
    before = gradients(model, inputs, targets)
    kept = activation_bytes(model, lambda: next_token_loss(model, inputs, targets))
    checkpoint_activations(model)
    checkpoint_activations(model)  # a second call changes nothing
    after = gradients(model, inputs, targets)
    assert all(map(torch.equal, before, after))
    assert activation_bytes(model, lambda: next_token_loss(model, inputs, targets)) < kept / 3
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_modules()] == modules
    copied = copy.deepcopy(model)
    copied.load_state_dict(model.state_dict(), assign=True)
    assert all(map(torch.equal, gradients(copied, inputs, targets), before))
    assert copied.head.weight is copied.embed.token_embedding.weight


def test_checkpointing_draws_the_same_dropout_twice() -> None:
    sizes = GPTConfig(20, 8, n_layer=2, n_head=2, n_embd=16, dropout=0.5)
    grads = []
    for wrap in (False, True):
        model = GPT(sizes, torch.Generator().manual_seed(0)).train()
        if wrap:
            checkpoint_activations(model)
        torch.manual_seed(5)
        grads.append(gradients(model, text()[None, :8], text()[None, 1:9]))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*grads, strict=True))


# The loss in chunks.


def whole_loss(x: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, table).float(), targets)


def in_chunks(x: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = ChunkedCrossEntropy.apply(x, table, targets)  # type: ignore[no-untyped-call]
    return loss


def assert_close(ours: Tensor, right: Tensor, low: bool, terms: float = 0.0) -> None:
    """Compare as vectors: within rounding of float32, or of bfloat16's 8 bits.

    `terms` is the length of what was added up: where it cancels, its rounding is left.
    """
    off, length = (ours - right).norm().item(), right.norm().item()
    assert off <= (2e-2 if low else 1e-5) * length + (2**-8 if low else 1e-6) * terms + 1e-7


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1300), st.integers(1, 200), st.integers(1, 20), st.booleans(), st.booleans())
def test_value_and_gradients_are_those_of_the_whole_loss(
    n: int, n_tokens: int, channels: int, low: bool, frozen: bool
) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, channels, generator=generator)
    table = torch.randn(n_tokens, channels, generator=generator)
    targets = torch.randint(n_tokens, (n,), generator=generator)
    found = []
    for compute in (in_chunks, whole_loss):
        a, b = x.clone().requires_grad_(), table.clone().requires_grad_(not frozen)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = compute(a, b, targets) / 3  # as one of three passes
        loss.backward()
        assert (b.grad is None) == frozen
        found.append([value for value in (loss.detach(), a.grad, b.grad) if value is not None])
    terms = [0.0, table[targets].norm().item() / (3 * n), x.norm().item() / (3 * n)]
    for ours, right, added in zip(*found, terms[: len(found[0])], strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, right, low, added)


def grads_of(model: GPT, loss: Loss, low: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    batches = [random_batch(text(), 3, 8, generator) for _ in range(2)]
    model.zero_grad()
    total = accumulate_gradients(model, batches, loss, "bfloat16" if low else "float32")
    return [total, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("frozen", [[], ["head"], ["head", "embed", "ln_f", "blocks.1.mlp"]])
def test_a_model_learns_the_same_from_it(low: bool, frozen: list[str]) -> None:
    model = new_model()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    ours, right = (grads_of(model, loss, low) for loss in (chunked_loss, next_token_loss))
    assert len(ours) == len(right)
    for a, b in zip(ours, right, strict=True):
        assert_close(a, b, low)


def test_it_keeps_gradients_in_place_of_logits_and_refuses_a_second_derivative() -> None:
    x = torch.randn(2000, 16, requires_grad=True)
    table, targets = nn.Parameter(torch.randn(1000, 16)), torch.randint(1000, (2000,))
    holder = nn.ParameterList([table, x])
    assert activation_bytes(holder, lambda: whole_loss(x, table, targets)) >= 2000 * 1000 * 4
    kept = activation_bytes(holder, lambda: in_chunks(x, table, targets))
    assert kept <= (2000 + 1024) * 16 * 4
    (gradient,) = torch.autograd.grad(in_chunks(x, table, targets) ** 2, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# Several processes.


def test_what_needs_processes_says_so() -> None:
    with pytest.raises(ValueError, match=r"no processes have joined; call this inside `with pro"):
        train_in_parallel(new_model(), text(), None, PLAN)
    with pytest.raises(ValueError, match="kind is 'gpu'; choose 'cpu' or 'cuda', or None"):
        processes("gpu").__enter__()  # type: ignore[arg-type]


def assert_equal_runs(ours: list[Report], theirs: list[Report]) -> None:
    assert [report.step for report in ours] == [report.step for report in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)
        assert (a.validation_loss is None) == (b.validation_loss is None)
        if a.validation_loss is not None:
            assert a.validation_loss == pytest.approx(b.validation_loss, rel=1e-5)


@pytest.fixture(scope="module")
def single() -> tuple[GPT, list[Report]]:
    model = new_model()
    return model, list(train(model, text(), text(101), PLAN))


def run_together(**options: Any) -> list[Report]:
    """Train in this one process as one of a group does."""
    with processes("cpu"):
        return list(train_in_parallel(new_model(), text(), text(101), PLAN, **options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the worker in two processes, after chapter 5's loop took two steps."""
    folder = tmp_path_factory.mktemp("parallel")
    run = train(new_model(), text(), text(101), PLAN, checkpoint=folder / "chain.pt")
    assert next(run).step == 2
    run.close()
    launch(WORKER, str(folder))
    return folder


def results(folder: Path, name: str) -> Any:
    return json.loads((folder / "results.json").read_text())[name]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(
    folder: Path, single: tuple[GPT, list[Report]], strategy: str
) -> None:
    model, reports = single
    assert_equal_runs([Report(**row) for row in results(folder, strategy)], reports)
    theirs = new_model()
    theirs.load_state_dict(load_checkpoint(folder / f"{strategy}.pt")["model"], strict=True)
    for ours, weight in zip(theirs.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_of_a_group_trains_as_one_alone(
    single: tuple[GPT, list[Report]], strategy: str
) -> None:
    assert_equal_runs(run_together(strategy=strategy), single[1])


def test_on_the_cpu_fsdp_works_where_a_card_is_too(single: tuple[GPT, list[Report]]) -> None:
    with patch("torch._C._get_accelerator", return_value=torch.device("cuda")):
        assert_equal_runs(run_together(strategy="fsdp"), single[1])


def test_a_run_moves_from_one_process_to_two_and_back(
    folder: Path, single: tuple[GPT, list[Report]], tmp_path: Path
) -> None:
    chain = [Report(**row) for row in results(folder, "chain")]  # two with DDP, two with FSDP
    assert_equal_runs(chain, single[1][1:3])
    assert load_checkpoint(folder / "chain.pt")["step"] == 6
    for name, strategy in (("a", None), ("b", "ddp"), ("c", "fsdp")):  # and now one
        options: dict[str, Any] = {"checkpoint": tmp_path / name, "resume": True}
        shutil.copy(folder / "chain.pt", tmp_path / name)
        if strategy:
            reports = run_together(strategy=strategy, **options)
        else:
            reports = list(train(new_model(), text(), text(101), PLAN, **options))
        assert_equal_runs(reports, single[1][3:])


def test_a_file_of_two_processes_holds_what_one_of_chapter_5_holds(
    folder: Path, tmp_path: Path
) -> None:
    list(train(new_model(), text(), text(101), PLAN, checkpoint=tmp_path / "a.pt"))
    ours, theirs = load_checkpoint(tmp_path / "a.pt"), load_checkpoint(folder / "fsdp.pt")
    assert ours.keys() == theirs.keys()
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    assert ours["model"].keys() - theirs["model"].keys() == {"head.weight"}  # the same table
    for number, values in ours["optimizer"]["state"].items():
        for name, value in values.items():
            assert theirs["optimizer"]["state"][number][name].shape == value.shape
    size = (folder / "fsdp.pt").stat().st_size
    assert size == pytest.approx((tmp_path / "a.pt").stat().st_size, rel=0.02)


def test_the_head_stays_tied_in_all_processes(folder: Path) -> None:
    assert results(folder, "tied") == [True] * 4


def test_a_validation_loss_of_nan_stops_all_processes_and_keeps_the_checkpoint(
    folder: Path,
) -> None:
    for strategy in ("ddp", "fsdp"):
        said = results(folder, f"nan {strategy}")  # by each process
        assert len(said) == 2
        assert all("validation loss nan at step 8" in s for s in said)
        kept = load_checkpoint(folder / f"nan-{strategy}.pt")
        assert kept["step"] == 4
        assert all(weight.isfinite().all() for weight in kept["model"].values())


def test_a_batch_that_two_processes_cannot_share_is_refused(folder: Path) -> None:
    said = results(folder, "odd batch")
    assert said == "batch_size 3 for 2 processes; pass a multiple of 2"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"config": replace(PLAN, seed=7)}, ValueError, "seed is 0 in the checkpoint and 7"),
        ({"checkpoint": "none.pt"}, FileNotFoundError, "none.pt"),
        ({"checkpoint": None}, ValueError, "pass checkpoint=PATH"),
        ({"checkpoint": "."}, ValueError, "checkpoint is a folder"),
        ({"strategy": "both"}, ValueError, "choose 'ddp' or 'fsdp'"),
        ({"train_tokens": text(8)}, ValueError, "the training split: 8 tokens give no window"),
        ({"validation_tokens": text(8)}, ValueError, "the validation split: 8 tokens"),
    ],
)
def test_a_call_that_cannot_be_meant_is_refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    call: dict[str, Any] = {"train_tokens": text(), "validation_tokens": None, "config": PLAN}
    with processes("cpu"), pytest.raises(error, match=message):
        train_in_parallel(
            new_model(), **{**call, "checkpoint": "ddp.pt", "resume": True, **changes}
        )


def test_a_vote_of_one_process_is_its_own() -> None:
    with processes("cpu"):
        assert any_process(True)
        assert not any_process(False)


DYING = """
import os, signal, sys
import torch
from pathlib import Path
from parallel_worker import PLAN, new_model, text
from gptlib.scaling import processes, train_in_parallel
import torch.distributed as dist

with processes("cpu"):
    attempt, saved = os.environ["TORCHELASTIC_RESTART_COUNT"], Path(sys.argv[1])
    run = train_in_parallel(new_model(), text(), None, PLAN, strategy="fsdp", checkpoint=saved,
                            resume=saved.exists())
    for report in run:
        if dist.get_rank() == 0:
            print("report", attempt, report.step, report.loss, flush=True)
        dist.barrier()
        if (report.step, dist.get_rank(), attempt) == (6, 1, "0"):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_costs_the_steps_since_the_last_checkpoint_and_nothing_else(
    single: tuple[GPT, list[Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(WORKER.parent), *sys.path]))
    (tmp_path / "dying.py").write_text(DYING)
    said = launch(tmp_path / "dying.py", str(tmp_path / "run.pt"), max_restarts=1)
    reports = [line for line in said.splitlines() if line.startswith("report ")]  # torch talks too
    rows = [report.split()[1:] for report in reports]
    assert [(row[0], int(row[1])) for row in rows] == [
        ("0", 2),
        ("0", 4),
        ("0", 6),
        ("1", 6),
        ("1", 8),
    ]
    expected = {report.step: report.loss for report in single[1]}
    for _, step, loss in rows:
        assert float(loss) == pytest.approx(expected[int(step)], rel=1e-5)


def test_a_launch_that_fails_or_hangs_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('no luck')")
    with pytest.raises(RuntimeError, match="no luck"):
        launch(script)
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(RuntimeError, match="did not end within 4 s"):
        launch(script, timeout=4)


# A block cut in two.


def test_regrouped_rows_come_back() -> None:
    rows = torch.randn(24, 5)
    for n in (1, 2, 4):
        assert torch.equal(regroup(regroup(rows, 3, n), n, 3), rows)


def test_two_halves_of_each_block_train_as_the_whole_does(folder: Path) -> None:
    found = json.loads((folder / "results.json").read_text())["tensor"]
    assert len(found["losses"]) == 4
    for halves, whole in found["losses"]:
        assert halves == pytest.approx(whole, rel=1e-5)
    assert found["difference"] < 1e-6
    assert found["refused"].startswith("2 processes can't share 1 heads")


# What a step would cost.

MACHINE = Machine(flops=4e14, inside=4e11, between=5e10)


def test_one_device_sends_nothing() -> None:
    for strategy in ("ddp", "fsdp", "tensor"):
        cost = parallel_step(GPT2_SMALL, MACHINE, 1, 2**15, strategy)
        assert cost.sent == cost.communication == 0
        assert cost.seconds == cost.compute
        assert cost.compute == pytest.approx(
            flops_per_token(GPT2_SMALL)["training"] * 2**15 / MACHINE.flops
        )


def test_volumes_are_those_of_the_literature() -> None:
    n, tokens = 8, 2**19
    weights = count_parameters(GPT2_SMALL)["total"] * 2  # bytes in bfloat16
    ring = (n - 1) / n
    options: dict[str, Any] = {"windows_at_once": tokens // 8 // 1024}
    assert parallel_step(GPT2_SMALL, MACHINE, n, tokens, "ddp").sent == pytest.approx(
        2 * ring * weights
    )
    assert parallel_step(GPT2_SMALL, MACHINE, n, tokens, "fsdp", **options).sent == pytest.approx(
        3 * ring * weights
    )
    assert parallel_step(GPT2_SMALL, MACHINE, n, tokens, "fsdp", 8).sent == pytest.approx(
        (2 * 8 + 1) * ring * weights
    )
    assert parallel_step(GPT2_SMALL, MACHINE, n, tokens, "tensor").sent == pytest.approx(
        12 * 4 * 2 * ring * tokens * 768 * 2
    )


def test_shards_take_a_share_of_the_memory_and_other_machines_are_slower() -> None:
    one = parallel_step(GPT2_SMALL, MACHINE, 1, 2**19, "ddp")
    ddp = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "ddp")
    fsdp = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "fsdp", 64)
    full = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "ddp", 64)
    passes = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "fsdp")
    far = parallel_step(GPT2_SMALL, MACHINE, 16, 2**19, "ddp")
    assert ddp.memory == one.memory
    total = count_parameters(GPT2_SMALL)["total"]
    assert full.memory - fsdp.memory == pytest.approx(7 / 8 * 16 * total)
    assert one.memory - passes.memory == pytest.approx(7 / 8 * 12 * total)  # a whole gradient
    assert ddp.compute == pytest.approx(one.compute / 8)
    assert far.communication > 8 * ddp.communication
    again = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "fsdp", 64, checkpointed=True)
    assert again.compute == pytest.approx(4 / 3 * fsdp.compute)
    assert again.memory < fsdp.memory


def test_ddp_can_send_in_the_backward_pass_alone() -> None:
    at_once = 2**19 // 128 // 1024
    for checkpointed, share in ((False, 2 / 3), (True, 3 / 4)):
        cost = parallel_step(GPT2_XL, MACHINE, 128, 2**19, "ddp", at_once, checkpointed)
        waits = cost.communication - share * cost.compute
        assert waits > 0
        assert cost.seconds == pytest.approx(cost.compute + waits)
    # With several passes, the gradients travel in the last one.
    passes = parallel_step(GPT2_XL, MACHINE, 128, 2**19, "ddp", 1, True)
    assert passes.seconds == pytest.approx(cost.seconds + 0.75 * 0.75 * cost.compute)
    sharded = parallel_step(GPT2_XL, MACHINE, 128, 2**19, "fsdp", at_once, True)
    assert sharded.seconds == max(sharded.compute, sharded.communication)
    # Without computing again, R / W tokens for each device are where the two are equal.
    enough = int(MACHINE.flops / MACHINE.between)
    for n_tokens, is_late in ((enough * 0.8, True), (enough * 1.2, False)):
        cost = parallel_step(GPT2_XL, MACHINE, 1024, int(n_tokens) * 1024, "ddp", 64)
        assert (cost.seconds > cost.compute) == is_late


def test_what_is_kept_for_the_backward_pass_is_what_the_estimate_says() -> None:
    sizes = GPTConfig(vocab_size=50, context_length=64, n_layer=3, n_head=2, n_embd=64)
    model = GPT(sizes, torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (4, 64))

    def loss() -> Tensor:
        return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_activations(model)
        cost = parallel_step(sizes, MACHINE, 1, 256, "ddp", 4, checkpointed)
        held = memory_bytes(sizes)
        state = held["weights"] + held["gradients"] + held["optimizer"]
        peak = 16 * 64 * 256 * 4 if checkpointed else 0  # one block at a time, computed again
        assert activation_bytes(model, loss) + peak == pytest.approx(
            2 * (cost.memory - state), rel=0.1
        )


@pytest.mark.parametrize("checkpointed", [False, True])
def test_tensor_parallel_cuts_the_logits_and_what_a_block_keeps(checkpointed: bool) -> None:
    one, four = (
        parallel_step(GPT2_SMALL, MACHINE, n, 2**15, "tensor", 1, checkpointed) for n in (1, 4)
    )
    held = memory_bytes(GPT2_SMALL)
    state = held["weights"] + held["gradients"] + held["optimizer"]
    # Queries, keys, values and the heads' results; the MLP's before and after GELU.
    cut = (1 if checkpointed else 12) * (4 * 768 + 2 * 3072) + 50_257
    assert one.memory - four.memory == pytest.approx(3 / 4 * (state + 2 * 1024 * cut))


@pytest.mark.parametrize(
    ("n", "at_once", "rule"),
    [
        (0, 1, "n_devices=0, windows_at_once=1: choose at least 1 of each"),
        (1, 0, "n_devices=1, windows_at_once=0: choose at least 1 of each"),
        (4, 1, "2048 tokens are no window of 1024 for each of 4 devices; raise batch_tokens"),
    ],
)
def test_a_step_that_cannot_be_is_refused(n: int, at_once: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parallel_step(GPT2_SMALL, MACHINE, n, 2048, "ddp", at_once)
