"""Kill commands with signal 9 at random moments: `python tests/kills.py [KILLS]`.

Each command is killed and started again until it is done, over and over, and what it made in the
end must be what it makes when nobody kills it: to the bit, and nothing lost behind the last report.
A fork of this process runs each command, so that PyTorch is imported once.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from notebook_files import ROOT

from gptlib.extras.cli import main as command_line
from gptlib.extras.runs import JsonLines
from gptlib.training import load_checkpoint

SAVE_EVERY = 5
PLAN = (
    "--training.steps 60 --training.batch-size 2 --training.report-every 1 --device cpu "
    f"--training.evaluate-every 20 --training.save-every {SAVE_EVERY} --model.vocab-size 400 "
    "--model.context-length 16 --model.n-embd 16 --model.n-layer 1 --model.n-head 2"
)


def start(words: str) -> int:
    """Run a command in a fork, silently; return its process id."""
    process = os.fork()
    if not process:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        status = 1
        try:
            status = command_line(words.split())
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            os._exit(status)
    return process


def until_done(words: str, longest: float, look: Callable[[], None]) -> int:
    """Start a command and kill it, again and again, until it is done; return how many kills."""
    for kills in range(10_000):
        process = start(words)
        end = time.monotonic() + random.uniform(0, longest)
        while time.monotonic() < end:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                assert status == 0, f"{words} ends with {os.waitstatus_to_exitcode(status)}"
                return kills
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        look()
    raise AssertionError(f"{words} is never done")


def look_at_run(seen: list[int]) -> None:
    """See that what a run kept is whole, never goes back, and does not run before its log."""
    kept, log = Path("killed", "checkpoint.pt"), Path("killed", "log.jsonl")
    step = int(load_checkpoint(kept)["step"]) if kept.exists() else 0
    assert step >= max(seen, default=0), "a checkpoint was lost"
    seen.append(step)
    steps = [line["step"] for line in JsonLines.read(log)] if log.exists() else []
    holes = {*range(1, max(steps, default=0))} - {*steps}
    # a checkpoint is written a moment before its report, and a kill may fall between the two
    assert all(hole % SAVE_EVERY == 0 for hole in holes), "the log has a hole"
    assert step <= max(steps, default=0) + 1, "reports were lost"
    # the same words begin where nothing was learnt; else they go on, as under torchrun
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1" if step else "0"


def try_command(name: str, n_kills: int) -> int:
    """Kill one command so many times; return how many kills there were."""
    total = 0
    while total < n_kills:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            text = (ROOT / "data" / "stand-in-war-and-peace.txt").read_text(encoding="utf-8")
            Path("book.txt").write_text(text[:60_000], encoding="utf-8")
            words = {
                "train": f"train book.txt {PLAN} --folder FOLDER",
                "data": "data prepare book.txt --tokenizer train --vocab-size 400 --save FOLDER",
                "tokenizer": "tokenizer train book.txt --vocab-size 400 --overwrite --save FOLDER",
            }[name]
            os.environ["TORCHELASTIC_RESTART_COUNT"] = "0"
            begin = time.monotonic()
            _, status = os.waitpid(start(words.replace("FOLDER", "whole")), 0)
            assert status == 0
            seconds = time.monotonic() - begin
            killed = words.replace("FOLDER", "killed")
            total += until_done(killed, seconds, partial(look_at_run, []))
            for whole in Path("whole").rglob("*"):
                other = Path("killed", whole.relative_to("whole"))
                if whole.suffix in (".json", ".txt", ".bin", ".safetensors"):
                    assert whole.read_bytes() == other.read_bytes(), f"{other} differs"
            if name == "train":
                ours, theirs = (load_checkpoint(f"{x}/checkpoint.pt") for x in ("whole", "killed"))
                for key, value in ours["model"].items():
                    assert torch.equal(value, theirs["model"][key]), f"{key} differs"
            os.chdir(ROOT)
    return total


def main() -> None:
    """Try the three commands."""
    torch.set_num_threads(1)  # a fork has no other threads
    n_kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for name in ("train", "data", "tokenizer"):
        print(f"{name}: nothing was lost in {try_command(name, n_kills)} kills", flush=True)


if __name__ == "__main__":
    main()
