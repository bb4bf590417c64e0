"""The command `classify`: sort messages with a classifier of chapter 8, or train one."""

import argparse
import io
import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gptlib.classification import (
    FineTuning,
    LabeledText,
    TextClassifier,
    confusion,
    encode_texts,
    fit,
    load_classifier,
    predict,
    predict_probabilities,
    save_classifier,
    split_records,
)
from gptlib.extras.commands.base import add_encoding, add_json, add_model, new_folder
from gptlib.extras.device import best_device
from gptlib.extras.formats.records import read_messages
from gptlib.extras.formats.text_files import read_whole
from gptlib.extras.interrupt import ways_on
from gptlib.extras.models import load_model
from gptlib.extras.options import CommandParser
from gptlib.extras.runs import CHECKPOINT, LOG, JsonLines
from gptlib.extras.terminal import note, print_json
from gptlib.extras.variants import refuse_variant
from gptlib.training import load_checkpoint

_CLASSIFY = """\
Sort messages into classes. With a classifier that chapter 8 or --train saved, one line is written
for each message: its label, how probable that is, and the message.

With --train, a classifier is made of a language model and records: a file of labels and texts, such
as a label, a tab and a text in each line, or a table with columns of any names. A tenth is kept to
stop by and two tenths to judge by."""

_EXAMPLES = """\
examples:
  python -m gptlib classify --train messages.tsv --save my-spam-filter
  python -m gptlib classify --train messages.tsv --save my-spam-filter --resume
  python -m gptlib classify --model my-spam-filter "WIN a prize now" "See you at five"
  python -m gptlib classify --model my-spam-filter --file messages.txt
  tail -f chat.log | python -m gptlib classify --model my-spam-filter
"""


def parser(prog: str) -> CommandParser:
    """Make the parser of `classify`."""
    parser = CommandParser(prog, _classify, _EXAMPLES, description=_CLASSIFY)
    parser.add_argument(
        "messages",
        nargs="*",
        metavar="MESSAGE",
        help="a message in quotes (default: each line of standard input is one)",
    )
    parser.add_argument("--file", metavar="FILE", help="a text file; each line is a message")
    add_json(parser, "a line of JSON for each message, or with --train one in the end")
    add_model(parser.add_argument_group("the classifier, or with --train its model"))
    training = parser.add_fields(FineTuning, "making a classifier")
    training.add_argument(
        "--train", metavar="FILE", help="messages and their classes: CSV, TSV, JSON or JSON lines"
    )
    columns = "the column of the {}, by its name or its number (default: what looks like it)"
    training.add_argument("--label-column", metavar="NAME", help=columns.format("classes"))
    training.add_argument("--text-column", metavar="NAME", help=columns.format("texts"))
    training.add_argument(
        "--delimiter",
        type=_delimiter,
        metavar="X",
        help="what stands between columns; tab for tabs",
    )
    training.add_argument(
        "--skip-contradictions", action="store_true", help="leave out texts with two classes"
    )
    add_encoding(training)
    training.add_argument(
        "--save", type=new_folder, metavar="DIR", help="with --train: the folder to write to"
    )
    training.add_argument(
        "--resume", action="store_true", help="go on after the last epoch that was finished"
    )
    return parser


def _delimiter(text: str) -> str:
    """Read the value of `--delimiter`."""
    character = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(character) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no character; write one, or tab")
    return character


def _classify(arguments: argparse.Namespace) -> int:
    wishes = arguments.given[FineTuning]
    if arguments.train is not None:
        return _train(arguments, FineTuning(**wishes))
    if arguments.save or arguments.resume or wishes:
        names = [name for name in ("save", "resume") if getattr(arguments, name)]
        name = [*names, *wishes][0].replace("_", "-")
        raise ValueError(f"--{name} belongs to --train; add the file of records, or leave it out")
    if not arguments.model or not Path(arguments.model).is_dir():
        raise ValueError(
            "name a classifier with --model DIR; one is made with --train FILE --save DIR"
        )
    if arguments.messages and arguments.file:
        raise ValueError("give messages or --file, not both")
    if not arguments.messages and not arguments.file and sys.stdin.isatty():
        raise ValueError('there is no message; write one in quotes, such as "See you at five"')
    return _sort(arguments)


def _sort(arguments: argparse.Namespace) -> int:
    """Sort the messages, each as it comes."""
    lines: Iterable[str] = arguments.messages
    if arguments.file:
        text = read_whole(arguments.file, arguments.encoding)
        lines = text.replace("\r\n", "\n").split("\n")
    elif not lines:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        lines = sys.stdin  # line by line, so that it can be a stream
    if not Path(arguments.model, "config.json").is_file():  # a run's folder has none
        raise ValueError(
            f"{arguments.model} is no classifier; one is made with --train FILE --save DIR"
        )
    classifier = load_classifier(arguments.model, load_model).to(best_device(arguments.device))
    for line in lines:
        message = line.strip("\r\n")
        if not message.strip():
            continue
        _, n_cut = encode_texts(classifier, [message])
        if n_cut:
            note(f"only the first {classifier.max_tokens} tokens are read of {message[:40]!r}...")
        [probabilities] = predict_probabilities(classifier, [message]).tolist()
        by_label = dict(zip(classifier.labels, probabilities, strict=True))
        label = max(by_label, key=by_label.__getitem__)
        if arguments.json:
            print_json({"label": label, "probabilities": by_label, "message": message})
        else:
            print(f"{label}\t{by_label[label]:.4f}\t{message}", flush=True)
    return 0


def _train(arguments: argparse.Namespace, config: FineTuning) -> int:
    """Make a classifier of records, and say how good it is on those it never saw."""
    if arguments.messages or arguments.file:
        raise ValueError("--train makes a classifier; sort messages with it afterwards")
    if not arguments.save:
        raise ValueError("--train needs a place for the classifier; add --save DIR")
    folder: Path = arguments.save
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} holds a model; name another folder, or delete it")
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists() != arguments.resume:
        raise ValueError(
            f"{folder} holds a training that was stopped; add --resume, or delete it"
            if checkpoint.exists()
            else f"{folder} holds nothing to resume; leave --resume out"
        )
    progress = sys.stderr if arguments.json else sys.stdout
    found = read_messages(
        arguments.train,
        arguments.encoding,
        arguments.delimiter,
        arguments.label_column,
        arguments.text_column,
        skip_contradictions=arguments.skip_contradictions,
    )
    for what, said in found.understood:
        print(f"{what + ':':<14} {said}", file=progress)
    unique = found.records
    train, validation, test = split_records(unique, seed=config.seed)
    labels = sorted({label for label, _ in unique})
    model, tokenizer = load_model(arguments.model)
    refuse_variant(model, "a classifier's file")
    model.to(best_device(arguments.device))
    generator = torch.Generator().manual_seed(config.seed)
    longest = model.config.context_length
    classifier = TextClassifier(model, tokenizer, labels, longest, "mean", generator)
    sizes = (
        f"{len(train)} records to learn from, {len(validation)} to stop by, {len(test)} to judge"
    )
    print(sizes, file=progress)
    ways_on.append(lambda: _how_to_go_on(checkpoint))
    step = load_checkpoint(checkpoint)["step"] if arguments.resume else 0
    kept: dict[str, Any] = {"checkpoint": checkpoint, "resume": arguments.resume}
    with closing(JsonLines(folder / LOG, step)) as log:
        losses = [line["validation_loss"] for line in log.read(folder / LOG)]
        best = min(losses, default=math.inf)
        for report in fit(classifier, train, validation, config, **kept):
            log.write(asdict(report))
            epoch = report.step // math.ceil(len(train) / config.batch_size)
            loss = report.validation_loss or 0.0
            mark, best = " (best)" if loss < best else "", min(best, loss)
            print(
                f"epoch {epoch}: loss {report.loss:.4f}, on the others {loss:.4f}{mark}, "
                f"{report.seconds:.0f} s",
                file=progress,
                flush=True,
            )
    save_classifier(classifier, folder)
    checkpoint.unlink()
    ways_on.clear()
    result = _judge(folder, test)
    if arguments.json:
        print_json(result)
        return 0
    share = result["accuracy"]
    print(f"{share:.1%} of {len(test)} messages that it never saw are sorted rightly")
    for label, found in result["labels"].items():
        print(f"  {label}: precision {found['precision']:.3f}, recall {found['recall']:.3f}")
    print(f"saved to {folder}")
    return 0


def _how_to_go_on(checkpoint: Path) -> str:
    if not checkpoint.exists():
        return "no epoch was finished; the same command begins anew"
    return "the same command with --resume goes on after the last epoch that was finished"


def _judge(folder: Path, test: Sequence[LabeledText]) -> dict[str, Any]:
    """Judge the saved classifier by records that it never saw, class by class."""
    classifier = load_classifier(folder, load_model)
    answers = predict(classifier, [text for _, text in test])
    right = sum(a == label for a, (label, _) in zip(answers, test, strict=True))
    labels = {}
    for label in classifier.labels:
        found = confusion([truth == label for truth, _ in test], [a == label for a in answers])
        labels[label] = {"precision": found.precision, "recall": found.recall}
    return {"folder": str(folder), "accuracy": right / len(test), "labels": labels}
