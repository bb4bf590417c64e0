"""The command `train`: from text files to a model's folder, with a stop at any time."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from gptlib.extras.commands.base import commas, device_name, find_device, note, program, quoted
from gptlib.extras.run_config import RunConfig, RunParser, to_yaml
from gptlib.extras.run_logs import JsonLines, Log, TensorBoard, WeightsAndBiases, check_installed

if TYPE_CHECKING:  # PyTorch waits
    import torch

    from gptlib.extras.runs import Run
    from gptlib.training import Report

__all__ = ["TrainCommand", "train_parser"]

_TRAIN = """\
Train a model on texts: any UTF-8 text file, a folder of them, or a folder of prepared tokens. The
run keeps all it needs in a folder of its own, and in the end the model in GPT-2's layout is there.
Ctrl-C goes on to the next report (--training.report-every), writes a checkpoint and says how to
go on; a second one ends at once.

Fields of the configuration are options, such as --training.n-steps 500; the n- of a number may be
left out, so --training.steps 500 is the same. Later options win over --config."""

_EXAMPLES = """\
examples:
  python -m gptlib train my-book.txt
  python -m gptlib train my-book.txt notes/ --training.steps 2000 --folder runs/mine
  python -m gptlib train --config war-and-peace-cpu --training.steps 500
  python -m gptlib train --resume --folder runs/mine
  python -m gptlib train --config war-and-peace-cpu --print-config > my.yaml
  torchrun --nproc-per-node 2 -m gptlib train my-book.txt --strategy fsdp

exit status: 0 if the run is complete, 2 if a value can't be used, 130 if Ctrl-C stopped it.
"""


def train_parser() -> TrainCommand:
    """Make the command `train`."""
    return TrainCommand()


class TrainCommand:
    """The command: its parser is jsonargparse's, because its options are also YAML."""

    def __init__(self) -> None:
        self.parser = RunParser(
            prog=f"{program()} train",
            usage=f"{program()} train [TEXT ...] [--config NAME] [option ...]",
            description=_TRAIN,
            epilog=_EXAMPLES.replace("python -m gptlib", program()),
        )
        add = self.parser.add_argument
        add("text", nargs="*", metavar="TEXT", help="text files, folders, or prepared tokens")
        self.parser.add_config_options()
        add("--print-config", action="store_true", help="print the configuration as YAML and end")
        group = self.parser.add_argument_group("the run")
        group.add_argument(
            "--folder",
            metavar="DIR",
            help="the run's folder (default: in runs/ or GPTLIB_RUNS, named like the first text or "
            "the configuration)",
        )
        group.add_argument("--resume", action="store_true", help="go on where the run stopped")
        group.add_argument("--overwrite", action="store_true", help="replace the run that is there")
        group.add_argument(
            "--device",
            metavar="NAME",
            help="cpu, cuda, cuda:N or mps (default: the best that this machine has)",
        )
        group.add_argument(
            "--tensorboard", action="store_true", help="also write curves for TensorBoard"
        )
        group.add_argument(
            "--wandb",
            type=Literal["online", "offline"],
            metavar="online|offline",
            help="also send curves to Weights & Biases, or keep them for wandb sync",
        )
        group.add_argument(
            "--strategy",
            type=Literal["ddp", "fsdp"],
            metavar="ddp|fsdp",
            help="under torchrun: each process holds the whole model, or its share (default: ddp)",
        )
        group.add_argument(
            "--checkpoint-activations",
            action="store_true",
            help="less memory for more time: compute blocks again instead of keeping them",
        )
        group.add_argument(
            "--onednn",
            action="store_true",
            help="on a CPU in float32: multiply with oneDNN, on some CPUs in half the time",
        )

    def run(self, words: Sequence[str]) -> int:
        """Train as the words say.

        Args:
            words: The words after `train`.

        Returns:
            The exit status.
        """
        if _rank():
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (one voice)
        config, parsed = self.parser.read(words)
        if parsed.print_config:
            print(to_yaml(config), end="")
            return 0
        try:
            return _without_memory_errors(_Training(config, parsed, list(words), self.parser).go)
        except (ValueError, OSError, FloatingPointError, ArgumentTypeError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            self.parser.error(self.parser.with_options(str(error)))


def _without_memory_errors(work: Callable[[], int]) -> int:
    """Turn PyTorch's error for want of memory into one that says what to do."""
    try:
        return work()
    except RuntimeError as error:
        text = str(error)
        if "out of memory" not in text and "can't allocate memory" not in text:
            raise
        raise ValueError(
            "there is not enough memory for a step; lower --training.batch-size and raise "
            "--training.accumulation-steps as much, or add --checkpoint-activations"
        ) from error


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


class _Stop:
    """Let Ctrl-C wait until the step is done; a second one interrupts as usual."""

    def __init__(self) -> None:
        self.asked = 0
        self._is_parallel = "WORLD_SIZE" in os.environ
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        # torchrun ends the others by SIGTERM when one process was killed: no step can be finished
        for number in [signal.SIGINT] + [signal.SIGTERM] * (not self._is_parallel):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            if not self._is_parallel:  # torchrun passes on what the terminal has sent already
                raise KeyboardInterrupt
            return
        self.asked = number
        sys.stderr.write("\nstopping at the next report; Ctrl-C again ends at once, unsaved\n")


class _Training:
    """One call of the command."""

    def __init__(self, config: RunConfig, wishes: Any, words: list[str], parser: RunParser) -> None:
        self.config, self.wishes, self.parser = config, wishes, parser
        has_config = any(word.partition("=")[0] == "--config" for word in words)
        if not wishes.resume and not (wishes.text or has_config):
            raise ValueError(
                "there is nothing to learn from; name a text, such as my-book.txt, or a "
                "configuration, such as --config war-and-peace-cpu"
            )
        self.is_parallel = "WORLD_SIZE" in os.environ
        # torchrun calls the same words again when a process was killed: they go on, then
        self.goes_on = wishes.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
        if wishes.strategy and not self.is_parallel:
            raise ValueError("--strategy is for several processes; start them with torchrun")
        if wishes.resume and wishes.overwrite:
            raise ValueError("--resume goes on and --overwrite begins anew; leave one of them out")
        if wishes.device:
            device_name(wishes.device)
        for package in ("tensorboard", "wandb"):
            if getattr(wishes, package):
                check_installed(package)
        self.is_described = bool(wishes.text) or has_config or _has_fields(words)
        self.folder = self._find_folder(words)

    def _find_folder(self, words: Sequence[str]) -> Path:
        if self.wishes.folder == "":
            raise ValueError("--folder is empty; name the run's folder, or leave it out")
        if self.wishes.folder:
            return Path(self.wishes.folder).expanduser()
        if not self.is_described:
            raise ValueError("--resume needs to know which run goes on; add --folder DIR")
        name = Path(self.wishes.text[0]).resolve().stem if self.wishes.text else ""
        if not name:
            named = [
                w.partition("=")[2] or words[i + 1]
                for i, w in enumerate(words)
                if w.partition("=")[0] == "--config"
            ]
            name = Path(named[-1]).stem if named else self.config.data.texts[0]
        return Path(os.environ.get("GPTLIB_RUNS", "runs")).expanduser() / name

    def go(self) -> int:
        """Prepare, train, save."""
        try:
            if not self.is_parallel:
                device = find_device(self.wishes.device)  # refused before a run is replaced
                return self._train(self._open(), device)
            return self._train_in_parallel()
        except KeyboardInterrupt:
            sys.stderr.write(f"\nended at once; {self._how_to_go_on()}\n")
            return 130

    def _train_in_parallel(self) -> int:
        import torch.distributed as dist

        from gptlib.scaling import processes

        kind: Any = (self.wishes.device or "").partition(":")[0] or None
        with processes(kind) as device:
            run = self._open() if not _rank() else None
            dist.barrier()  # the first process prepares, the others find it done
            return self._train(run or self._open(again=True), device)

    def _open(self, again: bool = False) -> Run:
        from gptlib.extras.runs import CONFIG, begin_run, checkpoint_step, open_run

        is_there = (self.folder / CONFIG).is_file()
        is_begun = is_there and checkpoint_step(self.folder) is None  # nothing is learnt yet
        if not (self.goes_on or again or (is_begun and not self.wishes.overwrite)):
            return begin_run(self.folder, self.config, self.wishes.overwrite)
        if not is_there:
            raise ValueError(
                f"{self.folder} holds no run, so there is nothing to resume; leave --resume out, "
                "or name the run's folder with --folder"
            )
        parser = RunParser(prog=self.parser.prog)
        parser.add_config_options()
        saved, _ = parser.read(["--config", str(self.folder / CONFIG)])
        if self.is_described and not again:
            _compare(self.config, saved, self.folder)
        return open_run(self.folder, saved)

    def _train(self, run: Run, device: torch.device) -> int:
        from gptlib.extras.runs import MODEL, checkpoint_step

        begin = checkpoint_step(self.folder) or 0
        if (self.folder / MODEL / "config.json").is_file() and begin == run.plan.n_steps:
            print(f"{self.folder} is complete: {begin} steps are done", file=sys.stderr)
            return 0
        model = run.start_model().to(device)
        if self.wishes.checkpoint_activations:
            from gptlib.scaling import checkpoint_activations

            checkpoint_activations(model)
        if self.wishes.onednn:
            from gptlib.extras.fast.onednn import multiply_in_onednn

            multiply_in_onednn(model)
        self._say_beginning(run, device, begin)
        reports = self._reports(run, model, begin > 0)
        with ExitStack() as closing, _Stop() as stop:
            logs = self._open_logs(run, begin)
            for log in logs:
                closing.callback(log.close)
            step = self._follow(run, reports, logs, stop, begin)
        if stop.asked:
            sys.stderr.write(
                f"stopped after step {step} of {run.plan.n_steps}; {self._how_to_go_on()}\n"
            )
            return 128 + stop.asked
        self._save(run, model)
        return 0

    def _reports(self, run: Run, model: Any, resume: bool) -> Generator[Report, None, None]:
        """Begin to train, or to go on."""
        from gptlib.extras.runs import CHECKPOINT, CHECKPOINTS

        tokens = run.train_tokens, run.validation_tokens
        if not self.is_parallel:
            from gptlib.training import train

            place = self.folder / CHECKPOINT
            if resume and not place.is_file():
                raise ValueError(f"{self.folder} is a run of torchrun; go on with torchrun")
            return train(model, *tokens, run.plan, checkpoint=place, resume=resume)
        from gptlib.scaling import train_in_parallel

        if resume and (self.folder / CHECKPOINT).is_file():
            raise ValueError(f"{self.folder} is a run of one process; go on without torchrun")
        return train_in_parallel(
            model,
            *tokens,
            run.plan,
            strategy=self.wishes.strategy or "ddp",
            checkpoint=self.folder / CHECKPOINTS,
            resume=resume,
        )

    def _follow(
        self,
        run: Run,
        reports: Generator[Report, None, None],
        logs: Sequence[Log],
        stop: _Stop,
        begin: int,
    ) -> int:
        """Take the reports, show and keep them, until the end or Ctrl-C; return the last step."""
        from tqdm import tqdm

        from gptlib.training import bits_per_byte

        n_bytes, n_tokens = run.validation_bytes(), len(run.validation_tokens) - 1
        n_steps, step = run.plan.n_steps, begin
        quiet = _rank() > 0 or not sys.stderr.isatty()
        bar = tqdm(total=n_steps, initial=begin, unit="step", disable=quiet, dynamic_ncols=True)
        with bar:
            for report in reports:
                record, step = asdict(report), report.step
                if report.validation_loss is not None:
                    bits = bits_per_byte(report.validation_loss, n_tokens, n_bytes)
                    record["bits_per_byte"] = bits
                    bar.write(
                        f"step {step}: loss {report.loss:.3f}, on the other part "
                        f"{report.validation_loss:.3f}, {bits:.3f} bits per byte",
                        file=sys.stderr,
                    )
                for log in logs:
                    log.write(record)
                bar.update(step - bar.n)
                speed = commas(report.tokens_per_second)
                bar.set_postfix_str(f"loss {report.loss:.3f}, {speed} tokens/s", refresh=False)
                if self._is_stopped(stop) and step < n_steps:
                    reports.close()  # writes the checkpoint
                    break
            else:
                stop.asked = 0  # all steps are done
        return step

    def _is_stopped(self, stop: _Stop) -> bool:
        if not self.is_parallel:
            return bool(stop.asked)
        from gptlib.scaling import any_process

        if any_process(bool(stop.asked)) and not stop.asked:
            stop.asked = int(signal.SIGINT)
        return bool(stop.asked)

    def _open_logs(self, run: Run, begin: int) -> list[Log]:
        from gptlib.extras.runs import LOG

        if _rank():
            return []
        logs: list[Log] = [JsonLines(self.folder / LOG, begin)]
        if self.wishes.tensorboard:
            logs.append(TensorBoard(self.folder / "tensorboard", begin))
        if self.wishes.wandb:
            name, values = self.folder.name, run.config.values()
            logs.append(WeightsAndBiases(self.folder, self.wishes.wandb, values, name))
        return logs

    def _say_beginning(self, run: Run, device: torch.device, begin: int) -> None:
        from gptlib.gpt2 import GPTConfig, count_parameters

        plan, sizes = run.plan, GPTConfig(**vars(run.config.model))
        step_tokens = plan.batch_size * plan.accumulation_steps * sizes.context_length
        passes = plan.n_steps * step_tokens / len(run.train_tokens)
        sys.stderr.write(
            f"{self.folder}: {commas(count_parameters(sizes)['total'])} parameters on {device}, "
            f"{commas(len(run.train_tokens))} tokens to learn from, "
            f"{commas(len(run.validation_tokens))} to judge by, "
            f"{plan.n_steps} steps ({passes:.1f} passes)"
            + (f", from step {begin} on\n" if begin else "\n")
        )
        if passes > 20:
            enough = max(1, round(plan.n_steps * 10 / passes))
            note(
                f"a text that is read {passes:.0f} times is learnt by heart; "
                f"--training.steps {enough} are 10 passes"
            )

    def _save(self, run: Run, model: Any) -> None:
        """Write the model in GPT-2's layout, and say what can be done with it."""
        from gptlib.extras.runs import CHECKPOINTS, MODEL
        from gptlib.weights import save_gpt2

        if _rank():
            return
        if self.is_parallel:
            from gptlib.scaling import load_together

            model = load_together(self.folder / CHECKPOINTS)
        place = self.folder / MODEL
        save_gpt2(model.eval(), run.tokenizer, place)
        print(f"the model is in {place}; let it write: ", file=sys.stderr, end="")
        print(f'{program()} generate --model {quoted(place)} --prompt "The"', file=sys.stderr)

    def _how_to_go_on(self) -> str:
        from gptlib.extras.runs import CONFIG, checkpoint_step

        if not (self.folder / CONFIG).is_file():
            return "nothing was begun yet; the same command begins"
        step = checkpoint_step(self.folder)
        kept = f"a checkpoint of step {step} is in {self.folder}" if step else "no step is saved"
        torchrun = "torchrun ... -m gptlib" if self.is_parallel else program()
        return f"{kept}. Go on with: {torchrun} train --resume --folder {quoted(self.folder)}"


def _has_fields(words: Sequence[str]) -> bool:
    """Whether words set a field of the configuration."""
    starts = ("--data.", "--model.", "--training.", "--start")
    return any(word.startswith(starts) for word in words)


def _compare(wanted: RunConfig, saved: RunConfig, folder: Path) -> None:
    """Refuse to go on with a run that was asked for in other words than it was begun with."""
    from gptlib.extras.commands.preparing import is_prepared
    from gptlib.extras.runs import with_absolute_texts

    new, old = with_absolute_texts(wanted).values(), saved.values()
    for section, values in new.items():
        if not isinstance(values, dict):
            values, old_values = {"": values}, {"": old[section]}
        else:
            old_values = old[section]
        for name, value in values.items():
            made_elsewhere = old["data"]["tokenizer"] != "train"
            made_elsewhere |= any(map(is_prepared, old["data"]["texts"]))
            follows = name == "vocab_size" and made_elsewhere
            if old_values[name] != value and not follows:
                key = f"{section}.{name}".rstrip(".")
                raise ValueError(
                    f"{folder} was begun with {key} {old_values[name]!r}, not {value!r}; go on "
                    f"with {program()} train --resume --folder {quoted(folder)}, or begin another "
                    "run with another --folder"
                )
