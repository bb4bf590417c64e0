"""The page of promises is true: its quick commands print what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import POSIX
from notebook_files import ROOT

PAGE = (ROOT / "tests" / "promises.md").read_text(encoding="utf-8")
SMALL = (
    "--training.steps 3 --training.warmup-steps 1 --training.batch-size 2 --device cpu "
    "--model.vocab-size 300 --model.context-length 16 --model.n-embd 16 --model.n-layer 1 "
    "--model.n-head 2"
)


def quick_promises() -> dict[str, str]:
    sections = re.findall(r"^## ([^\n]+)\n\n```\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    return {title: block for title, block in sections if "(needs the " not in title}


@pytest.mark.skipif(not POSIX, reason="the page is written for a shell of Linux or macOS")
@pytest.mark.parametrize("title", quick_promises())
def test_a_promise_is_kept(title: str, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_bytes((ROOT / "data/stand-in-war-and-peace.txt").read_bytes()[:20_000])
    here = {"BOOK": "book.txt", "SMALL": SMALL, "PYTHONPATH": str(ROOT)}
    here["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    n_checked, shown = 0, ""
    for line in quick_promises()[title].splitlines():
        if line.startswith("> "):
            assert " ".join(line[2:].split()) in shown, f"{line} is not in:\n{shown}"
            n_checked += 1
            continue
        run = subprocess.run(
            line, shell=True, cwd=tmp_path, env=os.environ | here, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        shown = " ".join((run.stdout + run.stderr).split())
    assert n_checked


def test_each_section_but_the_last_has_a_command() -> None:
    *kept, missing = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert missing == "Not kept yet"
    assert len(kept) == len(re.findall(r"^```\npython |^```\nhead ", PAGE, re.MULTILINE))
    assert len(quick_promises()) >= 7
