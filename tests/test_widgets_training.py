"""The widget of chapter 5, without a browser: its buttons act on real runs."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib import pyplot as plt

from gptlib.extras.widgets import training as module
from gptlib.extras.widgets.training import TrainingBoard
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.training import TrainingConfig, load_checkpoint, train


def reports(n: int, act: dict[int, Callable[[], object]] | None = None) -> Iterator[Any]:
    """Yield objects with step and loss alone; before some steps, do something else."""
    for step in range(1, n + 1):
        (act or {}).get(step, lambda: None)()
        yield SimpleNamespace(step=step, loss=5 / step)


def small_run(checkpoint: Path | None = None, n_steps: int = 40) -> Iterator[Any]:
    sizes = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=1, n_embd=8)
    model = GPT(sizes, torch.Generator().manual_seed(0))
    tokens = torch.arange(400) % 10
    config = TrainingConfig(n_steps=n_steps, report_every=2, evaluate_every=10, batch_size=2)
    return train(model, tokens, tokens[:50], config, checkpoint=checkpoint)


def test_a_new_board_shows_a_picture_and_waits() -> None:
    board = TrainingBoard(baselines={"uniform": 2.3})
    assert bytes(board.image.value).startswith(b"\x89PNG")
    assert all(button.disabled for button in (board.pause, board.resume, board.stop))
    assert "ready" in board.readout.value
    assert repr(board) == "TrainingBoard: watch a run; pause, resume or stop it"
    assert plt.get_fignums() == []


def test_a_run_of_our_own_is_shown_whole() -> None:
    board = TrainingBoard(n_steps=40, baselines={"uniform": 2.3}, sample=lambda: "a < b")
    shown = board.run(small_run())
    assert board.state == "finished"
    assert [report.step for report in shown] == list(range(2, 41, 2))
    assert "Step 40 of 40 (finished): training loss" in board.readout.value
    for words in ("validation loss", "learning rate", "gradient norm", "tokens per second"):
        assert words in board.readout.value
    titles = [ax.get_title(loc="left") for ax in board.picture().axes]
    assert titles == ["Loss", "learning rate", "gradient norm", "tokens per second"]
    plt.close("all")


def test_any_objects_with_step_and_loss_will_do() -> None:
    board = TrainingBoard()
    assert len(board.run(reports(5))) == 5
    assert "Step 5 (finished): training loss 1.000." in board.readout.value
    assert len(board.picture().axes) == 1
    plt.close("all")
    assert len(board.run([SimpleNamespace(step=1, loss=2.0)])) == 1


def test_stop_ends_the_run_at_the_next_report_and_lets_it_save(tmp_path: Path) -> None:
    board = TrainingBoard(sample=lambda: board.stop.click() or "stopped here", sample_every=20)
    shown = board.run(small_run(tmp_path / "run.pt"))
    assert board.state == "stopped"
    assert shown[-1].step == 20
    assert load_checkpoint(tmp_path / "run.pt")["step"] == 20
    assert board.stop.disabled


def test_pause_holds_the_run_until_resume() -> None:
    board = TrainingBoard(n_steps=6)
    seen: list[int] = []

    def watch() -> None:
        while board.state != "paused":
            time.sleep(0.01)
        seen.append(board.reports[-1].step)
        time.sleep(0.3)
        seen.append(board.reports[-1].step)
        assert (board.pause.disabled, board.resume.disabled) == (True, False)
        board.resume.click()

    watcher = threading.Thread(target=watch)
    watcher.start()
    shown = board.run(reports(6, {3: board.pause.click}))
    watcher.join()
    assert seen == [3, 3]
    assert [report.step for report in shown] == [1, 2, 3, 4, 5, 6]
    assert board.state == "finished"
    assert board.seconds < 0.3  # a pause doesn't count


def test_stop_ends_a_paused_run() -> None:
    board = TrainingBoard()

    def watch() -> None:
        while board.state != "paused":
            time.sleep(0.01)
        board.stop.click()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert len(board.run(reports(6, {2: board.pause.click}))) == 2
    watcher.join()
    assert board.state == "stopped"


def test_buttons_do_nothing_before_and_after_a_run() -> None:
    board = TrainingBoard()
    board.stop.click()
    assert len(board.run(reports(3))) == 3
    board.pause.click()
    assert board.state == "finished"


def test_samples_come_at_their_steps_and_are_escaped() -> None:
    board = TrainingBoard(sample=lambda: "<b>wild</b>\ntext", sample_every=2)
    board.run(reports(5))
    assert list(board.samples) == [2, 4]
    assert "Text after step 4:" in board.text.value
    assert "&lt;b&gt;wild&lt;/b&gt;<br>text" in board.text.value


def test_the_baselines_that_are_beaten_are_named() -> None:
    board = TrainingBoard(baselines={"uniform": 8.3, "bigram": 0.1})
    board.run(reports(2))
    assert "below uniform" in board.readout.value
    assert "bigram" not in board.readout.value


def test_time_left_follows_the_pace() -> None:
    board = TrainingBoard(n_steps=100)
    board.seconds = 10.0
    board.reports = [SimpleNamespace(step=step, loss=1.0) for step in (10, 20)]
    assert board.seconds_left == pytest.approx(40.0)
    board.reports = [SimpleNamespace(step=step, loss=1.0) for step in (80, 90)]
    assert board.seconds_left == pytest.approx(10.0)
    assert TrainingBoard().seconds_left is None


def test_a_run_that_fails_is_shown_as_failed() -> None:
    board = TrainingBoard()

    def broken() -> Iterator[Any]:
        yield from reports(2)
        raise FloatingPointError("the loss is nan at step 3")

    with pytest.raises(FloatingPointError, match="step 3"):
        board.run(broken())
    assert board.state == "failed"
    assert len(board.reports) == 2


def test_drawing_takes_a_small_share_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    board = TrainingBoard()
    drawn = 0

    def draw() -> float:
        nonlocal drawn
        drawn += 1
        return 0.1  # seconds, as if

    monkeypatch.setattr(board, "_draw", draw)
    board.state = "running"
    for second in range(100):
        board.seconds = float(second)
        board._take(SimpleNamespace(step=second + 1, loss=1.0))
    assert drawn == 20
    assert drawn * 0.1 / 100 <= module.SHARE_FOR_DRAWING


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"sample_every": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="both must be at least 1"):
        TrainingBoard(**wrong)
