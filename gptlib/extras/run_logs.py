"""Keep what a run reports: as JSON lines always, for TensorBoard or Weights & Biases on wish."""

import json
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

__all__ = ["JsonLines", "Log", "TensorBoard", "WeightsAndBiases", "check_installed"]

Record = Mapping[str, Any]

PACKAGES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}


def check_installed(package: Literal["tensorboard", "wandb"]) -> None:
    """Refuse a wish for a package that is not there.

    Args:
        package: The package that `import` takes.

    Raises:
        ValueError: If it is not installed.
    """
    if find_spec(package) is None:
        raise ValueError(
            f"--{package} needs {PACKAGES[package]}, which is not installed; run "
            f"python -m pip install {package}, or leave the option out (log.jsonl is always kept)"
        )


class Log(Protocol):
    """Where records go."""

    def write(self, record: Record) -> None:
        """Keep the record of one report."""

    def close(self) -> None:
        """Write what is not written yet."""


class JsonLines:
    """Write each record as a line of JSON, at once.

    Args:
        path: The file; lines are added to it.
        step: The step that the run goes on from: lines of later steps, and a line that a kill cut
            off, are taken out, because those steps are done again.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        kept = [line for line in self.read(path) if line["step"] <= step]
        self.seconds = float(kept[-1]["seconds"]) if kept else 0.0
        draft = path.with_name(path.name + ".part")
        draft.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(draft, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed in close)

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Read the lines that are whole."""
        if not path.exists():
            return []
        lines = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # cut off by a kill; nothing whole can follow
        return lines

    def write(self, record: Record) -> None:
        """Add a line; "seconds" goes on from the lines before."""
        whole = {**record, "seconds": round(self.seconds + record["seconds"], 3)}
        self._file.write(json.dumps({**whole, "time": round(time.time(), 3)}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _numbers(record: Record) -> dict[str, float]:
    return {
        name: value
        for name, value in record.items()
        if name not in ("step", "seconds") and value is not None
    }


class TensorBoard:
    """Write curves that `tensorboard --logdir FOLDER` shows."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # curves of steps that are done again are hidden from here on
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, record: Record) -> None:
        """Add a point to each curve."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class WeightsAndBiases:
    """Send curves to Weights & Biases, or keep them for `wandb sync`."""

    def __init__(
        self, folder: Path, mode: Literal["online", "offline"], config: Record, name: str
    ) -> None:
        import wandb

        mark = folder / "wandb-id.txt"
        if not mark.exists():
            mark.write_text(uuid4().hex[:8] + "\n", encoding="utf-8")
        settings = wandb.Settings(console="off", silent=True)
        try:
            self._run = wandb.init(
                project="gptlib",
                name=name,
                id=mark.read_text(encoding="utf-8").strip(),
                resume="allow" if mode == "online" else None,
                dir=folder,
                mode=mode,
                config=dict(config),
                settings=settings,
            )
        except (wandb.errors.Error, OSError) as error:
            raise ValueError(
                f"Weights & Biases can't begin ({' '.join(str(error).split())[:200]}); write "
                "--wandb offline, and send it later with: wandb sync"
            ) from error

    def write(self, record: Record) -> None:
        """Add a point to each curve."""
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        """Write what is not written yet."""
        self._run.finish()
