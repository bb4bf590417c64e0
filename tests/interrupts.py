"""Press Ctrl-C at many moments of every command: `python tests/interrupts.py [MOMENTS] [COMMAND]`.

Each must end with status 130 and one line, or with 0 if it was done already.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from notebook_files import ROOT

LAUNCH = """
import os, signal
from gptlib.extras.interrupt import end_at_once
signal.signal(signal.SIGINT, end_at_once)  # as the command line does in its first lines
os.write(2, b"#")
from gptlib.__main__ import main
raise SystemExit(main())
"""


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "GPTLIB_RUNS": str(folder / "runs")}


def press_ctrl_c(words: list[str], seconds: float, folder: Path) -> str:
    """Start a command, press Ctrl-C some seconds later; return what is wrong, "" if nothing."""
    for made in ("filter", "copy"):  # classify and convert have no --overwrite
        shutil.rmtree(folder / made, ignore_errors=True)
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(folder),
    ) as process:
        assert process.stderr is not None
        process.stderr.read(1)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, err = (part.decode(errors="replace") for part in process.communicate(timeout=300))
    lines = [line for line in err.splitlines() if line.startswith("stopped")]
    is_cut = words[0] == "generate" and out.endswith("\n") and not err  # the text's own line
    if process.returncode == 0 or (process.returncode == 130 and (len(lines) == 1 or is_cut)):
        return "" if "Traceback" not in err and "Exception" not in err else err
    return f"status {process.returncode}: {err[-2000:]}"


def commands(folder: Path) -> dict[str, list[str]]:
    """Prepare a folder, and name a call of every command that takes a while."""
    text = (ROOT / "data" / "stand-in-war-and-peace.txt").read_text(encoding="utf-8")
    (folder / "book.txt").write_text(text[:200_000], encoding="utf-8")
    pairs = [("ham", f"see you at the {word}") for word in text.split()[:400]]
    pairs += [("spam", f"win a prize {word} now") for word in text.split()[:400]]
    (folder / "messages.tsv").write_text("\n".join(map("\t".join, pairs)), encoding="utf-8")
    records = str(ROOT / "data" / "instructions.json")
    whole = "train book.txt --folder runs/whole --training.steps 5 --training.report-every 1"
    subprocess.run(
        [sys.executable, "-c", LAUNCH, *whole.split()],
        cwd=folder,
        env=_environment(folder),
        check=True,
    )
    calls = {
        "tokenizer": "tokenizer train book.txt --vocab-size 2000 --save tokens --overwrite",
        "data": "data prepare book.txt --tokenizer train --vocab-size 2000 --save prepared",
        "train": "train book.txt --overwrite --training.steps 400",
        "tune": f"tune {records} --overwrite --training.steps 100",
        "runs": "runs .",
        "plot": "plot runs/whole",
        "evaluate": "evaluate book.txt",
        "generate": "generate --max-new-tokens 1000 --prompt The",
        "chat": "chat",
        "classify": "classify --train messages.tsv --save filter",
        "doctor": "doctor",
        "info": "info novels",
        "convert": "convert novels copy",
    }
    return {name: words.split() for name, words in calls.items()}


def main() -> int:
    """Try all commands; return how many ends were wrong."""
    n_moments = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    n_wrong = 0
    with tempfile.TemporaryDirectory() as name:
        for command, words in commands(Path(name)).items():
            if sys.argv[2:] and command not in sys.argv[2:]:
                continue
            begin = time.monotonic()
            press_ctrl_c(words, 0 if command == "chat" else 8, Path(name))
            length = min(8.0, time.monotonic() - begin)
            ends = [
                press_ctrl_c(words, length * moment / n_moments, Path(name))
                for moment in range(n_moments)
            ]
            wrong = [end for end in ends if end]
            n_wrong += len(wrong)
            print(f"{command}: {n_moments - len(wrong)} of {n_moments} are right", *wrong[:1])
    return n_wrong


if __name__ == "__main__":
    sys.exit(main())
