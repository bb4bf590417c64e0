"""The command `train`: from text files to a model's folder, with a stop at any time.

`tune` is the same on records of questions and answers.
"""

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

from gptlib.extras.chat import save_tuned
from gptlib.extras.commands.base import DEVICE, model_name
from gptlib.extras.commands.convert import as_gpt2
from gptlib.extras.commands.plot import draw_runs
from gptlib.extras.device import best_device
from gptlib.extras.fast.compiled import compile_loss
from gptlib.extras.fast.onednn import LEAST, multiply_in_onednn, onednn_loss
from gptlib.extras.interrupt import end_at_once, ways_on
from gptlib.extras.models import load_model
from gptlib.extras.optimizers import OPTIMIZERS, check_muon
from gptlib.extras.options import TRUE_OR_FALSE, CommandParser, quoted, truth
from gptlib.extras.run_logs import Log, TensorBoard, WeightsAndBiases, check_installed
from gptlib.extras.runs import (
    ADAMW,
    CHECKPOINT,
    CONFIG,
    DEFAULT_CONFIG,
    FINE_TUNE,
    FORMS,
    LOG,
    MODEL,
    PICTURE,
    READY_CONFIGS,
    SECTIONS,
    START_STD,
    JsonLines,
    Run,
    RunConfig,
    checkpoint_step,
    open_run,
    read_config,
    to_yaml,
    want_run,
    with_start,
)
from gptlib.extras.terminal import note, print_json
from gptlib.extras.variants import VariantConfig, VariantGPT, as_config
from gptlib.gpt2 import GPT
from gptlib.instructions import LoRAConfig, merge_lora, tune
from gptlib.scaling import (
    any_process,
    checkpoint_activations,
    chunked_loss,
    processes,
    train_in_parallel,
)
from gptlib.training import Loss, Report, TrainingConfig, bits_per_byte, train
from gptlib.weights import save_gpt2

_TRAIN = """\
Train a model on texts: any UTF-8 text file, a folder of them, or a folder of prepared tokens. With
--init it goes on from a trained model instead of nothing. The run keeps all it needs in a folder of
its own, and in the end the model in GPT-2's layout is there. Ctrl-C goes on to the next report
(--training.report-every), writes a checkpoint and says how to go on; a second one ends at once.

Fields of the configuration are options, such as --training.n-steps 500; the n- of a number may be
left out, so --training.steps 500 is the same. Options win over --config. With --resume, steps,
rates, batches, intervals, precision and --onednn may be others than the run was begun with."""

_EXAMPLES = """\
examples:
  python -m gptlib train my-book.txt
  python -m gptlib train my-book.txt notes/ --training.steps 2000 --folder runs/mine
  python -m gptlib train my-book.txt --init novels --lora --folder runs/tuned
  python -m gptlib train my-book.txt --optimizer lion --training.max-learning-rate 0.001
  python -m gptlib train my-book.txt --model.norm post --model.attention window
  python -m gptlib train --config war-and-peace-cpu --training.steps 500
  python -m gptlib train --resume --folder runs/mine --training.steps 4000
  python -m gptlib train --config war-and-peace-cpu --print-config > my.yaml
  torchrun --nproc-per-node 2 -m gptlib train my-book.txt --strategy fsdp
"""

_SCALED = ("warmup_steps", "evaluate_every", "save_every")
"""What a ready configuration shortens in a run of fewer steps than its own."""

_KEPT_WITH_INIT = ("--model.dropout", "--model.context-length")


class RunParser(CommandParser):
    """A parser that reads a configuration's options before those typed, into a `RunConfig`."""

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Understand words; where none names a configuration, it is a resumed run's or our own."""
        first = CommandParser(self.prog, add_help=False)
        first.add_argument("--config", action="append", default=[])
        first.add_argument("--init", "--model", dest="init", default=self.get_default("init"))
        asked = first.parse_known_args(words)[0]
        try:
            default = FINE_TUNE if asked.init else DEFAULT_CONFIG
            known = self._read_over(asked.config or [default], words)
            # torchrun calls the same words again when a process was killed: they go on, then
            restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
            goes_on, folder = known.resume or restarts > 0, known.folder
            if goes_on and folder and (folder / CONFIG).is_file() and not known.print_config:
                known = self._read_over([str(folder / CONFIG), *asked.config], words, is_run=True)
            known.goes_on, known.folder = goes_on, folder
        except ValueError as error:
            self.error(str(error))
        return known

    def _read_over(
        self, configs: Sequence[str], words: Sequence[str], is_run: bool = False
    ) -> argparse.Namespace:
        """Understand words as changes of configurations, the first of them a run's own or not."""
        options = [option for name in configs for option in read_config(name)]
        chosen = {option.partition("=")[0] for option in options}
        is_tune, is_answers = "--form" in self._option_string_actions, "--form" in chosen
        # a run of answers names their form, and tune has no option for the two others
        is_texts = (is_run and not is_answers) or bool(chosen & {"--start-std", "--optimizer"})
        if is_texts if is_tune else is_answers:
            theirs, ours = ("train", "tune") if is_tune else ("tune", "train")
            raise ValueError(f"{configs[0]} is for {theirs}; write {theirs} instead of {ours}")
        known = super().read([*options, *words])
        typed = {self.spellings.get(n, n) for n in (word.partition("=")[0] for word in words)}
        plan = known.given[TrainingConfig]
        if "--training.n-steps" in typed and all(name in READY_CONFIGS for name in configs):
            n_steps = [o.partition("=")[2] for o in options if o.startswith("--training.n-steps=")]
            share = min(1, plan["n_steps"] / int(n_steps[-1]))
            for name in _SCALED:
                if f"--training.{name.replace('_', '-')}" not in typed:
                    plan[name] = max(int(name != "warmup_steps"), round(plan.get(name, 0) * share))
        starts = [o for o in sorted(typed) if o.startswith(("--model.", "--start-", "--data.tok"))]
        if known.init and not known.resume and {*starts} - {*_KEPT_WITH_INIT}:
            [wrong, *_] = [option for option in starts if option not in _KEPT_WITH_INIT]
            raise ValueError(
                f"{wrong} is for a model that begins from nothing; leave it out, or leave out "
                f"{'--model' if known.form else '--init'}"
            )
        parts = {
            part: kind(**known.given[kind])
            for part, kind in SECTIONS.items()
            if kind is not LoRAConfig or known.lora or known.given[kind]
        }
        parts["model"] = as_config(asdict(parts["model"]))
        if known.text:
            parts["data"] = replace(parts["data"], texts=tuple(known.text))
        for name in ("start_std", "form", "optimizer", "onednn"):
            parts[name] = vars(known)[name]
        known.run = RunConfig(**parts, init=known.init or "")
        if known.folder == "":
            raise ValueError("--folder is empty; name the run's folder, or leave it out")
        if known.folder:
            known.folder = Path(known.folder).expanduser()
        elif named := [*known.text[:1], *(known.config or [])[-1:]]:
            runs = Path(os.environ.get("GPTLIB_RUNS", "runs")).expanduser()
            known.folder = runs / Path(named[0]).resolve().stem
        return known


def parser(prog: str) -> RunParser:
    """Make the parser of `train`."""
    usage = "%(prog)s [TEXT ...] [--config NAME] [option ...]"
    parser = RunParser(prog, run_command, _EXAMPLES, description=_TRAIN, usage=usage)
    parser.add_argument(
        "text", nargs="*", metavar="TEXT", help="text files, folders, or prepared tokens"
    )
    start = parser.add_argument_group("the start")
    start.add_argument(
        "--init",
        type=model_name,
        metavar="MODEL",
        help="begin with this model, its sizes and its tokenizer: a folder of any GPT-2, novels "
        "for the model that comes with the course, gpt2, gpt2-medium, gpt2-large or gpt2-xl "
        "(default: begin from nothing)",
    )
    start.add_argument(
        "--start-std",
        type=float,
        default=START_STD,
        metavar="X",
        help="standard deviation of the starting weights; narrow models want more than GPT-2's "
        f"(default: {START_STD})",
    )
    parser.add_argument_group("the optimizer (optimizer in YAML)").add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default=ADAMW,
        metavar="|".join(OPTIMIZERS),
        help="what takes the steps; each wants a learning rate of its own (default: adamw)",
    )
    parser.set_defaults(form="")
    run = add_run_options(parser)
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
        "--compile",
        action="store_true",
        help="compile a step first, for up to a minute, and say after how many steps that pays; "
        "needs a C++ compiler on a CPU, Triton on a GPU, and one process; dropout then draws "
        "other values",
    )
    return parser


def add_run_options(parser: RunParser) -> argparse._ArgumentGroup:
    """Add the options of all runs; returns the group of those for the run itself."""
    parser.add_argument(
        "--config",
        action="append",
        metavar="NAME",
        help=f"a ready configuration ({', '.join(READY_CONFIGS)}) or a YAML file "
        f"(default: {DEFAULT_CONFIG}, and {FINE_TUNE} where a model goes on)",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration as YAML and end"
    )
    titles = {"data": "what to learn from", "training": "the plan", "lora": "low-rank additions"}
    for section, made_by in SECTIONS.items():
        title = f"{titles.get(section, section)} ({section} in YAML)"
        group = parser.add_fields(made_by, title, f"{section}.")
    for name in ("encoding", "read-special", "fields"):  # as other commands call them
        parser.spellings[f"--{name}"] = f"--data.{name}"
    group.add_argument(
        "--lora", action="store_true", help="train low-rank additions, and nothing else"
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
    run.add_argument(
        "--onednn",
        type=truth,
        metavar=TRUE_OR_FALSE,
        help="on a CPU in float32: multiply with oneDNN, on some CPUs in half the time (default: "
        "if it is faster in a short measurement when the run begins)",
    )
    run.add_argument("--tensorboard", action="store_true", help="also write curves for TensorBoard")
    run.add_argument(
        "--wandb",
        choices=("online", "offline"),
        metavar="online|offline",
        help="also send curves to Weights & Biases, or keep them for wandb sync",
    )
    run.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(strategy=None, checkpoint_activations=False, compile=False)
    return run


def run_command(arguments: argparse.Namespace) -> int:
    """Begin or go on as the words say, take the steps, and keep the model."""
    if arguments.print_config:
        print(to_yaml(with_start(arguments.run) if arguments.run.init else arguments.run), end="")
        return 0
    is_parallel = "WORLD_SIZE" in os.environ
    if arguments.strategy and not is_parallel:
        raise ValueError("--strategy is for several processes; start them with torchrun")
    if is_parallel and (arguments.run.form or (arguments.run.lora and arguments.strategy)):
        raise ValueError("tune and --lora are for one process; leave out torchrun or --strategy")
    if is_parallel and arguments.compile:
        raise ValueError("--compile is for one process; leave it out, or leave out torchrun")
    if is_parallel and arguments.run.optimizer != ADAMW:
        raise ValueError("--optimizer is for one process; leave it out, or leave out torchrun")
    if arguments.run.optimizer == "muon":
        check_muon()
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume goes on and --overwrite begins anew; leave one of them out")
    for package in ("tensorboard", "wandb"):
        if getattr(arguments, package):
            check_installed(package)
    folder: Path | None = arguments.folder
    if folder is None and arguments.resume:
        raise ValueError("--resume needs to know which run goes on; add --folder DIR")
    if folder is None:
        raise ValueError(
            "there is nothing to learn from; name a text, such as my-book.txt, or a "
            "configuration, such as --config war-and-peace-cpu"
        )
    ways_on.append(partial(_how_to_go_on, folder, arguments))
    wanted = (arguments.goes_on, arguments.overwrite)
    try:
        if not is_parallel:
            device = best_device(arguments.device)  # refused before a run is replaced
            return _learn(*want_run(folder, arguments.run, device, *wanted), device, arguments)
        kind: Any = (arguments.device or "").partition(":")[0] or None
        with processes(kind) as device:
            is_first = dist.get_rank() == 0
            found = want_run(folder, arguments.run, device, *wanted) if is_first else None
            dist.barrier()  # the first process prepares, the others find it done
            if found is None:
                known = arguments.parser.read(["--config", f"{folder / CONFIG}"])
                found = open_run(folder, known.run), {}
            return _learn(*found, device, arguments)
    except FloatingPointError as error:
        rate = min(0.1, arguments.run.training.max_learning_rate) / 10  # 1e299 is no help
        step = checkpoint_step(folder)
        how = f"{arguments.parser.prog} --resume --folder {quoted(folder)}"
        way = f"go on from step {step} with: {how}" if step else "begin anew with the same command"
        more = f" --training.max-learning-rate {rate:g}"
        way += (" and" * (not step)) + more + (", or begin anew with --overwrite" * bool(step))
        raise FloatingPointError(f"{error}; {way}") from error
    except (RuntimeError, TypeError) as error:
        marks = ("out of memory", "can't allocate memory", "verflow")
        if not any(mark in str(error) for mark in marks):
            raise
        raise ValueError(
            "there is not enough memory for a step; lower the model's sizes, or lower "
            "--training.batch-size and raise --training.accumulation-steps as much, or add "
            "--checkpoint-activations"
        ) from error


def _learn(
    run: Run, changes: dict[str, Any], device: torch.device, arguments: argparse.Namespace
) -> int:
    """Take the steps that are left, and save the model."""
    plan, is_parallel = run.config.training, dist.is_initialized()
    is_first = not (is_parallel and dist.get_rank())
    has_model = (run.folder / MODEL / "config.json").is_file()
    if run.step == plan.n_steps and (has_model or isinstance(run.config.model, VariantConfig)):
        print(f"{run.folder} is complete: {run.step} steps are done", file=sys.stderr)
        return 0
    if has_model and is_first:  # the checkpoint has the same weights, and soon better ones
        (run.folder / MODEL / "config.json").unlink()
    model = run.start_model().to(device)
    if arguments.checkpoint_activations:
        checkpoint_activations(model)
    loss: Loss = chunked_loss
    _say_beginning(run, changes, model, device)
    can_use_onednn = device.type == "cpu" and plan.precision == "float32"
    if run.config.onednn and can_use_onednn and not arguments.compile:
        multiply_in_onednn(model, LEAST)
        loss = onednn_loss
        note("matrices are multiplied in oneDNN; with --onednn=false they are not")
    parts = (model, run.train_part, run.validation_part, plan)
    kept: dict[str, Any] = {"checkpoint": run.folder / CHECKPOINT, "resume": run.step > 0}
    if run.config.form:
        reports = tune(*parts, **kept)
    elif is_parallel:
        strategy: Any = arguments.strategy or "ddp"
        reports = train_in_parallel(*parts, loss=loss, strategy=strategy, **kept)
    else:
        if arguments.compile:
            loss = _compiled_loss(model, plan, loss)
        optimizer = OPTIMIZERS[run.config.optimizer]
        reports = train(*parts, loss=loss, optimizer=optimizer, **kept)
    with ExitStack() as closing:
        heard = closing.enter_context(_signals(is_parallel))
        logs: list[Log] = []
        if is_first:
            logs.append(JsonLines(run.folder / LOG, run.step, changes))
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
        _save(run, model, arguments)
    return 0


def _compiled_loss(model: GPT, plan: TrainingConfig, loss: Loss) -> Loss:
    """Compile the loss, and say what that is worth."""
    note("compiling ...")
    try:
        loss, took, gained = compile_loss(model, plan, loss)
    except RuntimeError as error:
        raise ValueError(f"leave out --compile: {' '.join(str(error).split())[:300]}") from error
    if gained > 0:
        pays = (
            f"a step is {1e3 * gained:.3g} ms shorter: that pays after {took / gained:,.0f} steps"
        )
    else:
        pays = "a step is no shorter here; leave out --compile"
    note(f"compiled in {took:.0f} s; {pays}")
    return loss


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
                bits = bits_per_byte(report.validation_loss, *run.validation_size)
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
    """Let Ctrl-C wait until the step is done; a second one ends at once.

    Yields:
        The signal that was heard, if any.
    """
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        if not heard:
            heard.append(number)
            sys.stderr.write("\nstopping at the next report; Ctrl-C again ends at once, unsaved\n")
        elif not is_parallel:  # torchrun passes on what the terminal has sent already
            end_at_once()

    # torchrun ends the others by SIGTERM when one process was killed: no step can be finished
    numbers = [signal.SIGINT] if is_parallel else [signal.SIGINT, signal.SIGTERM]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_beginning(run: Run, changes: dict[str, Any], model: GPT, device: torch.device) -> None:
    plan, sizes, answers = run.config.training, model.config, bool(run.config.form)
    what = "answers" if answers else "tokens"
    step_size = plan.batch_size * plan.accumulation_steps * (1 if answers else sizes.context_length)
    n_learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    passes = plan.n_steps * step_size / len(run.train_part)
    at_least = "at least " * answers  # a row holds several answers
    sys.stderr.write(
        f"{run.folder}: {n_learnt:,} parameters learn on {device}, {len(run.train_part):,} {what} "
        f"to learn from, {len(run.validation_part):,} to judge by, {plan.n_steps} steps "
        f"({at_least}{passes:.1f} passes)" + (f", from step {run.step} on\n" if run.step else "\n")
    )
    for name, (before, now) in changes.items():
        note(f"{name} was {before} and is {now} from here on")
    if not sizes.bias or sizes.qkv_bias is False or sizes.positions != "learned":
        note("in GPT-2's layout, biases of zero or a table of positions will be added")
    if passes > 20:
        enough = max(1, round(plan.n_steps * 10 / passes))
        note(
            f"a text that is read {passes:.0f} times is learnt by heart; "
            f"--training.steps {enough} are 10 passes"
        )


def _save(run: Run, model: GPT, arguments: argparse.Namespace) -> None:
    """Write the model, in GPT-2's layout if it can, and say what can be done with it."""
    config, place = run.config, run.folder / MODEL
    if dist.is_initialized():  # a process may hold its share of the model only
        model, _ = load_model(run.folder)
    elif config.lora:
        merge_lora(model)
    if isinstance(model, VariantGPT):
        place = run.folder
        note("GPT-2's layout has no place for this variant; the run's folder itself is the model")
    elif config.form:
        save_tuned(as_gpt2(model.eval()), run.tokenizer, FORMS[config.form], place)
    else:
        save_gpt2(as_gpt2(model.eval()), run.tokenizer, place)
    draw_runs([run.folder], run.folder / PICTURE)
    lines = [line for line in JsonLines.read(run.folder / LOG) if "loss" in line]
    if arguments.json:
        last = {name: lines[-1][name] for name in ("step", "loss", "validation_loss")}
        best = min(line["validation_loss"] for line in lines if line["validation_loss"])
        print_json({"run": str(run.folder), "model": str(place), **last, "best_loss": best})
    how = "chat" if config.form else "generate"
    more = "" if config.form else ' --prompt "The"'
    words = f"{arguments.parser.program} {how} --model {quoted(place)}{more}"
    print(f"the model is in {place}; let it write: {words}", file=sys.stderr)


def _how_to_go_on(folder: Path, arguments: argparse.Namespace) -> str:
    if not (folder / CONFIG).is_file():
        return "nothing was begun yet; the same command begins"
    step = checkpoint_step(folder)
    kept = f"a checkpoint of step {step} is in {folder}" if step else "no step is saved"
    is_parallel = "WORLD_SIZE" in os.environ
    how = "torchrun ... -m gptlib train" if is_parallel else arguments.parser.prog
    return f"{kept}. Go on with: {how} --resume --folder {quoted(folder)}"
