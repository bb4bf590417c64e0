"""Ctrl-C at any moment ends a command with status 130 and one line."""

from pathlib import Path

import pytest
from command_line import POSIX
from interrupts import commands, press_ctrl_c


@POSIX
@pytest.mark.parametrize("command", ["train", "generate"])
@pytest.mark.parametrize("seconds", [0, 0.3, 1, 2, 4, 8])
def test_ctrl_c_at_any_moment_ends_in_one_line(
    command: str, seconds: float, tmp_path: Path
) -> None:
    assert press_ctrl_c(commands(tmp_path)[command], seconds, tmp_path) == ""
