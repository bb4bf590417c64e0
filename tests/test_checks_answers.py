"""What all checks share: an endless answer is stopped, and a long verdict is cut."""

import signal
import threading
import time
from typing import Any

import pytest

from gptlib.extras.checks import answers
from gptlib.extras.checks.answers import Answer, run, says


@says
def check(answer: Answer) -> str:
    return f"Correct: {run(answer, hints={'loop ever end': 'Go on by one.'})}"


def endless() -> Any:
    while True:
        try:
            [1][2]
        except Exception:
            continue


def growing() -> Any:
    words = []
    while True:
        words.append(" " * 1000)


def without_end() -> Any:
    while True:
        yield 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SECONDS", 0.3)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM")
def test_a_loop_without_an_end_is_stopped(
    impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    check(endless)
    said = "Not yet: endless was stopped after 0.3 seconds. Does its loop ever end?\n"
    assert capsys.readouterr().out == said + "Go on by one.\n"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM")
def test_what_never_ends_is_stopped_while_it_is_read_too(
    impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    says(lambda answer: str(max(run(answer))))(without_end)
    assert "Not yet: your code was stopped after 0.3 seconds." in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM")
def test_a_list_without_an_end_is_stopped_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answers, "MEGABYTES", 50)
    check(growing)
    assert "growing was stopped at 50 MB. Does a list grow" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM")
def test_a_timer_that_ran_before_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rang.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        check(lambda: 3)
        time.sleep(0.4)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rang == [signal.SIGALRM]


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_without_alarms_or_in_a_thread_a_check_runs_without_a_limit(
    in_a_thread: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if in_a_thread:
        thread = threading.Thread(target=check, args=[lambda: 3])
        thread.start()
        thread.join()
    else:
        monkeypatch.delattr(signal, "SIGALRM", raising=False)
        check(lambda: 3)
    assert capsys.readouterr().out == "Correct: 3\n"


def test_a_long_line_is_cut_and_its_end_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    check(lambda: ["aa"] * 1000)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Correct: ['aa', ")
    assert " … " in line
    assert line.endswith("'aa']")
    assert len(line) < 300
