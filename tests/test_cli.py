"""The command line says what it is told to, and its exit status can be relied on."""

import runpy
import subprocess
import sys
from collections.abc import Sequence

import pytest

from gptlib.extras import doctor
from gptlib.extras.cli import main
from gptlib.extras.doctor import Finding


def pretend(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: list(findings))


@pytest.mark.parametrize(("status", "expected"), [("ok", 0), ("note", 0), ("problem", 1)])
def test_the_doctor_s_exit_status_tells_whether_there_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: doctor.Status,
    expected: int,
) -> None:
    pretend(monkeypatch, Finding("disk", status, "0.1 GB free", "free 2 GB"))
    assert main(["doctor"]) == expected
    assert "0.1 GB free" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nurse"], ["doctor", "--fast"]])
def test_words_that_are_no_command_are_refused_with_the_usage(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: python -m gptlib" in capsys.readouterr().err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "doctor" in capsys.readouterr().out


def test_the_module_runs_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Finding("disk", "problem", "0.1 GB free", "free 2 GB"))
    monkeypatch.setattr(sys, "argv", ["gptlib", "doctor"])
    monkeypatch.delitem(sys.modules, "gptlib.__main__", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("gptlib", run_name="__main__")
    assert caught.value.code == 1


def test_a_folder_that_the_console_cannot_spell_is_no_reason_to_fail() -> None:
    program = (
        "from gptlib.extras import cli, doctor\n"
        "doctor.examine = lambda: [doctor.Finding('disk', 'ok', '1 GB free at /\\u0444')]\n"
        "raise SystemExit(cli.main(['doctor']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        env={"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 GB free at /?" in done.stdout
