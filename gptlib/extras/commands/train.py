"""The command `train`: from text files to a model's folder, with a stop at any time."""

import argparse
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from gptlib.extras.commands.base import DEVICE
from gptlib.extras.device import best_device
from gptlib.extras.fast.onednn import multiply_in_onednn
from gptlib.extras.models import load_model
from gptlib.extras.options import CommandParser, quoted
from gptlib.extras.run_logs import Log, TensorBoard, WeightsAndBiases, check_installed
from gptlib.extras.runs import (
    CHECKPOINT,
    CONFIG,
    DEFAULT_CONFIG,
    LOG,
    MODEL,
    READY_CONFIGS,
    SECTIONS,
    START_STD,
    JsonLines,
    Run,
    RunConfig,
    begin_run,
    checkpoint_step,
    find_run_texts,
    open_run,
    read_config,
    to_yaml,
)
from gptlib.extras.terminal import note
from gptlib.extras.texts import is_prepared
from gptlib.gpt2 import GPT
from gptlib.scaling import (
    any_process,
    checkpoint_activations,
    chunked_loss,
    processes,
    train_in_parallel,
)
from gptlib.training import Report, bits_per_byte, train
from gptlib.weights import save_gpt2

__all__ = ["TrainParser", "parser"]

_TRAIN = """\
Train a model on texts: any UTF-8 text file, a folder of them, or a folder of prepared tokens. The
run keeps all it needs in a folder of its own, and in the end the model in GPT-2's layout is there.
Ctrl-C goes on to the next report (--training.report-every), writes a checkpoint and says how to
go on; a second one ends at once.

Fields of the configuration are options, such as --training.n-steps 500; the n- of a number may be
left out, so --training.steps 500 is the same. Options win over --config."""

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


class TrainParser(CommandParser):
    """A parser that reads a configuration's options before those typed, into a `RunConfig`."""

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Understand words; where none names a configuration, it is a resumed run's or our own."""
        first = CommandParser(self.prog, add_help=False)
        first.add_argument("--config", action="append")
        try:
            names = first.parse_known_args(words)[0].config
            options = [word for name in names or [DEFAULT_CONFIG] for word in read_config(name)]
            known = super().read([*options, *words])
            if known.resume and not names:
                saved = _folder(known) / CONFIG
                if saved.is_file():
                    known = super().read([*read_config(str(saved)), *words])
            parts = {part: kind(**known.given[kind]) for part, kind in SECTIONS.items()}
            if known.text:
                parts["data"] = replace(parts["data"], texts=tuple(known.text))
            known.run = RunConfig(**parts, start_std=known.start_std)
        except ValueError as error:
            self.error(str(error))
        return known


def parser(prog: str) -> TrainParser:
    """Make the parser of `train`."""
    usage = "%(prog)s [TEXT ...] [--config NAME] [option ...]"
    parser = TrainParser(prog, _train, _EXAMPLES, description=_TRAIN, usage=usage)
    parser.add_argument(
        "text", nargs="*", metavar="TEXT", help="text files, folders, or prepared tokens"
    )
    parser.add_argument(
        "--config",
        action="append",
        metavar="NAME",
        help=f"a ready configuration ({', '.join(READY_CONFIGS)}) or a YAML file "
        f"(default: {DEFAULT_CONFIG})",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration as YAML and end"
    )
    titles = {"data": "what to learn from", "training": "the plan"}
    for section, made_by in SECTIONS.items():
        title = f"{titles.get(section, section)} ({section} in YAML)"
        parser.add_fields(made_by, title, f"{section}.")
    parser.add_argument_group("the start").add_argument(
        "--start-std",
        type=float,
        default=START_STD,
        metavar="X",
        help="standard deviation of the starting weights; narrow models want more than GPT-2's "
        f"(default: {START_STD})",
    )
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--folder",
        metavar="DIR",
        help="the run's folder (default: in runs/ or GPTLIB_RUNS, named like the first text or "
        "the configuration)",
    )
    run.add_argument("--resume", action="store_true", help="go on where the run stopped")
    run.add_argument("--overwrite", action="store_true", help="replace the run that is there")
    run.add_argument("--device", metavar="NAME", help=DEVICE)
    run.add_argument("--tensorboard", action="store_true", help="also write curves for TensorBoard")
    run.add_argument(
        "--wandb",
        choices=("online", "offline"),
        metavar="online|offline",
        help="also send curves to Weights & Biases, or keep them for wandb sync",
    )
    run.add_argument(
        "--strategy",
        choices=("ddp", "fsdp"),
        metavar="ddp|fsdp",
        help="under torchrun: each process holds the whole model, or its share (default: ddp)",
    )
    run.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="less memory for more time: compute blocks again instead of keeping them",
    )
    run.add_argument(
        "--onednn",
        action="store_true",
        help="on a CPU in float32: multiply with oneDNN, on some CPUs in half the time",
    )
    return parser


def _train(arguments: argparse.Namespace) -> int:
    if arguments.print_config:
        print(to_yaml(arguments.run), end="")
        return 0
    is_parallel = "WORLD_SIZE" in os.environ
    if arguments.strategy and not is_parallel:
        raise ValueError("--strategy is for several processes; start them with torchrun")
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume goes on and --overwrite begins anew; leave one of them out")
    for package in ("tensorboard", "wandb"):
        if getattr(arguments, package):
            check_installed(package)
    folder = _folder(arguments)
    try:
        if not is_parallel:
            device = best_device(arguments.device)  # refused before a run is replaced
            return _learn(_open(arguments, folder), device, arguments)
        kind: Any = (arguments.device or "").partition(":")[0] or None
        with processes(kind) as device:
            run = None if dist.get_rank() else _open(arguments, folder)
            dist.barrier()  # the first process prepares, the others find it done
            run = run or open_run(
                folder, arguments.parser.read(["--config", f"{folder / CONFIG}"]).run
            )
            return _learn(run, device, arguments)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nended at once; {_how_to_go_on(folder, arguments)}\n")
        return 130
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise ValueError(
            "there is not enough memory for a step; lower --training.batch-size and raise "
            "--training.accumulation-steps as much, or add --checkpoint-activations"
        ) from error


def _folder(arguments: argparse.Namespace) -> Path:
    """Say where the run is or will be."""
    if arguments.folder:
        return Path(arguments.folder).expanduser()
    if arguments.folder == "":
        raise ValueError("--folder is empty; name the run's folder, or leave it out")
    named = [*arguments.text[:1], *(arguments.config or [])[-1:]]
    if not named and arguments.resume:
        raise ValueError("--resume needs to know which run goes on; add --folder DIR")
    if not named:
        raise ValueError(
            "there is nothing to learn from; name a text, such as my-book.txt, or a "
            "configuration, such as --config war-and-peace-cpu"
        )
    return Path(os.environ.get("GPTLIB_RUNS", "runs")).expanduser() / Path(named[0]).resolve().stem


def _open(arguments: argparse.Namespace, folder: Path) -> Run:
    """Begin a run, or open the one that goes on."""
    config: RunConfig = arguments.run
    # torchrun calls the same words again when a process was killed: they go on, then
    goes_on = arguments.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    is_there = (folder / CONFIG).is_file()
    is_empty = is_there and not (folder / CHECKPOINT).exists()  # nothing is learnt yet
    if is_empty and any(folder.glob("checkpoints/step-*")) and not arguments.overwrite:
        raise ValueError(
            f"{folder} is a run that an older gptlib began; finish it there, or add --overwrite"
        )
    if not goes_on and (arguments.overwrite or not is_empty):
        return begin_run(folder, config, arguments.overwrite)
    if not is_there:
        raise ValueError(
            f"{folder} holds no run, so there is nothing to resume; leave --resume out, "
            "or name the run's folder with --folder"
        )
    saved = arguments.parser.read(["--config", f"{folder / CONFIG}"]).run
    if config != saved:
        config, _ = find_run_texts(config)
        if saved.data.tokenizer != "train" or any(map(is_prepared, saved.data.texts)):
            vocab_size = saved.model.vocab_size  # as the tokenizer has, that was made elsewhere
            config = replace(config, model=replace(config.model, vocab_size=vocab_size))
        how = f"{arguments.parser.prog} --resume --folder {quoted(folder)}"
        _compare(asdict(config), asdict(saved), f"{folder} was begun with", how)
    return open_run(folder, saved)


def _compare(wanted: dict[str, Any], saved: dict[str, Any], begun: str, how: str) -> None:
    """Refuse to go on with a run that was asked for in other words than it was begun with."""
    for name, value in wanted.items():
        if isinstance(value, dict):
            _compare(value, saved[name], f"{begun} {name}.", how)
        elif value != saved[name]:
            raise ValueError(
                f"{begun}{name} {saved[name]!r}, not {value!r}; go on with {how}, or begin another "
                "run with another --folder"
            )


def _learn(run: Run, device: torch.device, arguments: argparse.Namespace) -> int:
    """Take the steps that are left, and save the model."""
    plan, is_parallel = run.config.training, dist.is_initialized()
    is_first = not (is_parallel and dist.get_rank())
    if (run.folder / MODEL / "config.json").is_file() and run.step == plan.n_steps:
        print(f"{run.folder} is complete: {run.step} steps are done", file=sys.stderr)
        return 0
    model = run.start_model().to(device)
    if arguments.checkpoint_activations:
        checkpoint_activations(model)
    if arguments.onednn:
        multiply_in_onednn(model)
    _say_beginning(run, model, device)
    learn = train
    if is_parallel:
        learn = partial(train_in_parallel, strategy=arguments.strategy or "ddp")
    reports = learn(
        model,
        run.train_tokens,
        run.validation_tokens,
        plan,
        loss=chunked_loss,
        checkpoint=run.folder / CHECKPOINT,
        resume=run.step > 0,
    )
    with ExitStack() as closing:
        heard = closing.enter_context(_signals(is_parallel))
        logs: list[Log] = []
        if is_first:
            logs.append(JsonLines(run.folder / LOG, run.step))
        if is_first and arguments.tensorboard:
            logs.append(TensorBoard(run.folder / "tensorboard", run.step))
        if is_first and arguments.wandb:
            values, name = asdict(run.config), run.folder.name
            logs.append(WeightsAndBiases(run.folder, arguments.wandb, values, name))
        for log in logs:
            closing.callback(log.close)
        step = _follow(run, reports, logs, heard, is_parallel)
    if step < plan.n_steps:
        how = _how_to_go_on(run.folder, arguments)
        sys.stderr.write(f"stopped after step {step} of {plan.n_steps}; {how}\n")
        return 128 + heard[0]
    if is_first:
        _save(run, model, arguments.parser.program)
    return 0


def _follow(
    run: Run,
    reports: Generator[Report, None, None],
    logs: Sequence[Log],
    heard: list[int],
    is_parallel: bool,
) -> int:
    """Take the reports, show and keep them, until the end or a signal; return the last step."""
    n_steps, step = run.config.training.n_steps, run.step
    quiet = not sys.stderr.isatty()
    with tqdm(total=n_steps, initial=step, unit="step", disable=quiet, dynamic_ncols=True) as bar:
        for report in reports:
            record, step = asdict(report), report.step
            if report.validation_loss is not None:
                n_tokens = len(run.validation_tokens) - 1
                bits = bits_per_byte(report.validation_loss, n_tokens, run.validation_bytes)
                record["bits_per_byte"] = bits
                bar.write(
                    f"step {step}: loss {report.loss:.3f}, on the other part "
                    f"{report.validation_loss:.3f}, {bits:.3f} bits per byte",
                    file=sys.stderr,
                )
            for log in logs:
                log.write(record)
            bar.update(step - bar.n)
            speed = f"{report.tokens_per_second:,.0f} tokens/s"
            bar.set_postfix_str(f"loss {report.loss:.3f}, {speed}", refresh=False)
            if is_parallel and any_process(bool(heard)) and not heard:
                heard.append(signal.SIGINT)
            if heard and step < n_steps:
                reports.close()  # writes the checkpoint
                break
    return step


@contextmanager
def _signals(is_parallel: bool) -> Iterator[list[int]]:
    """Let Ctrl-C wait until the step is done; a second one interrupts as usual.

    Yields:
        The signal that was heard, if any.
    """
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        if not heard:
            heard.append(number)
            sys.stderr.write("\nstopping at the next report; Ctrl-C again ends at once, unsaved\n")
        elif not is_parallel:  # torchrun passes on what the terminal has sent already
            raise KeyboardInterrupt

    # torchrun ends the others by SIGTERM when one process was killed: no step can be finished
    numbers = [signal.SIGINT] if is_parallel else [signal.SIGINT, signal.SIGTERM]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_beginning(run: Run, model: GPT, device: torch.device) -> None:
    plan, n_tokens = run.config.training, len(run.train_tokens)
    step_tokens = plan.batch_size * plan.accumulation_steps * model.config.context_length
    passes = plan.n_steps * step_tokens / n_tokens
    sys.stderr.write(
        f"{run.folder}: {sum(p.numel() for p in model.parameters()):,} parameters on {device}, "
        f"{n_tokens:,} tokens to learn from, {len(run.validation_tokens):,} to judge by, "
        f"{plan.n_steps} steps ({passes:.1f} passes)"
        + (f", from step {run.step} on\n" if run.step else "\n")
    )
    if passes > 20:
        enough = max(1, round(plan.n_steps * 10 / passes))
        note(
            f"a text that is read {passes:.0f} times is learnt by heart; "
            f"--training.steps {enough} are 10 passes"
        )


def _save(run: Run, model: GPT, program: str) -> None:
    """Write the model in GPT-2's layout, and say what can be done with it."""
    if dist.is_initialized():  # a process may hold its share of the model only
        model, _ = load_model(run.folder)
    place = run.folder / MODEL
    save_gpt2(model.eval(), run.tokenizer, place)
    print(f"the model is in {place}; let it write: ", file=sys.stderr, end="")
    print(f'{program} generate --model {quoted(place)} --prompt "The"', file=sys.stderr)


def _how_to_go_on(folder: Path, arguments: argparse.Namespace) -> str:
    if not (folder / CONFIG).is_file():
        return "nothing was begun yet; the same command begins"
    step = checkpoint_step(folder)
    kept = f"a checkpoint of step {step} is in {folder}" if step else "no step is saved"
    is_parallel = "WORLD_SIZE" in os.environ
    how = "torchrun ... -m gptlib train" if is_parallel else arguments.parser.prog
    return f"{kept}. Go on with: {how} --resume --folder {quoted(folder)}"
