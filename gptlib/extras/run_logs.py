"""Send what a run reports to TensorBoard or Weights & Biases."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

PACKAGES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}


def check_installed(package: Literal["tensorboard", "wandb"]) -> None:
    """Refuse a wish for a package that is not installed."""
    if find_spec(package) is None:
        raise ValueError(
            f"--{package} needs {PACKAGES[package]}, which is not installed; run "
            f"python -m pip install {package}, or leave the option out (log.jsonl is always kept)"
        )


class Log(Protocol):
    """Where records go."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Keep the record of one report."""

    def close(self) -> None:
        """Write what is not written yet."""


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
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

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a point to each curve."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class WeightsAndBiases:
    """Send curves to Weights & Biases, or keep them for `wandb sync`."""

    def __init__(
        self, folder: Path, mode: Literal["online", "offline"], config: Mapping[str, Any], name: str
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
                dir=str(folder),
                mode=mode,
                config=dict(config),
                settings=settings,
            )
        except (wandb.errors.Error, OSError) as error:
            raise ValueError(
                f"Weights & Biases can't begin ({' '.join(str(error).split())[:200]}); write "
                "--wandb offline, and send it later with: wandb sync"
            ) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a point to each curve."""
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        """Write what is not written yet."""
        self._run.finish()
