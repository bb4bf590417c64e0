"""The command `classify`: sort messages with a classifier of chapter 8, or train one."""

from __future__ import annotations

import argparse
import io
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlib.extras.commands.base import (
    CommandParser,
    add_model_options,
    command_parser,
    find_device,
    new_folder,
    note,
    print_json,
    read_standard_input,
)
from gptlib.extras.options import Options, read_options

if TYPE_CHECKING:  # PyTorch waits
    from collections.abc import Sequence

    from gptlib.classification import LabeledText

__all__ = ["classify_parser"]

_CLASSIFY = """\
Sort messages into classes. With a classifier that chapter 8 or --train saved, one line is written
for each message: its label, how probable that is, and the message.

With --train, a classifier is made of a language model and records: a file in which each line is a
label, a tab and a text. A tenth is kept to stop by and two tenths to judge by."""

_EXAMPLES = """\
examples:
  python -m gptlib classify --train messages.tsv --save my-spam-filter
  python -m gptlib classify --model my-spam-filter "WIN a prize now" "See you at five"
  python -m gptlib classify --model my-spam-filter --file messages.txt
  tail -f chat.log | python -m gptlib classify --model my-spam-filter

exit status: 0 if it is done, 2 if a value can't be used, 130 if Ctrl-C stopped it.
"""


def classify_parser() -> CommandParser:
    """Make the parser of `classify`."""
    parser = command_parser("classify", _classify, _CLASSIFY, _EXAMPLES)
    parser.add_argument(
        "messages",
        nargs="*",
        metavar="MESSAGE",
        help="a message in quotes (default: each line of standard input is one)",
    )
    parser.add_argument("--file", metavar="FILE", help="a text file; each line is a message")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each message")
    add_model_options(parser.add_argument_group("the classifier, or with --train its model"))
    training = parser.add_argument_group("making a classifier")
    training.add_argument("--train", metavar="FILE", help="records: label, tab and text in a line")
    training.add_argument(
        "--save", type=new_folder, metavar="DIR", help="with --train: the folder to write to"
    )
    options = read_options("gptlib.classification", "FineTuning")
    options.add_to(training)
    parser.set_defaults(options=options)
    return parser


def _classify(arguments: argparse.Namespace) -> int:
    options: Options = arguments.options
    given = options.given(arguments)
    if arguments.train is not None:
        return _train(arguments, given)
    if arguments.save or given:
        name = "save" if arguments.save else next(iter(given)).replace("_", "-")
        raise ValueError(f"--{name} belongs to --train; add the file of records, or leave it out")
    if not isinstance(arguments.model, Path):
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
    lines = _lines(arguments)
    from gptlib.classification import encode_texts, load_classifier, predict_probabilities

    classifier = load_classifier(arguments.model).to(find_device(arguments.device))
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


def _lines(arguments: argparse.Namespace) -> Sequence[str] | io.TextIOWrapper:
    """Find the messages; standard input is read line by line, so that it can be a stream."""
    if arguments.messages:
        return list(arguments.messages)
    if arguments.file:
        return _read_lines(arguments.file)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        return sys.stdin
    return read_standard_input().splitlines()


def _read_lines(file: str) -> list[str]:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {file!r}; name one that is there") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is no UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}; "
            "save it as UTF-8"
        ) from None


def _train(arguments: argparse.Namespace, given: dict[str, Any]) -> int:
    """Make a classifier of records, and say how good it is on those it never saw."""
    if arguments.messages or arguments.file:
        raise ValueError("--train makes a classifier; sort messages with it afterwards")
    if not arguments.save:
        raise ValueError("--train needs a place for the classifier; add --save DIR")
    folder: Path = arguments.save
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} holds a model; name another folder, or delete it")
    lines = _read_lines(arguments.train)
    import torch

    from gptlib.classification import (
        FineTuning,
        TextClassifier,
        fit,
        remove_duplicates,
        save_classifier,
        split_records,
    )
    from gptlib.extras.formats.records import read_records
    from gptlib.extras.models import load_model

    config = FineTuning(**given)
    records, broken = read_records(lines, skip_broken=True)
    if broken:
        number, reason = next(iter(broken.items()))
        note(f"{len(broken)} broken lines are left out; the first is line {number}: {reason}")
    unique = remove_duplicates(records)
    if len(unique) < len(records):
        note(
            f"{len(records) - len(unique)} records repeat another, figures aside; they are left out"
        )
    train, validation, test = split_records(unique, seed=config.seed)
    labels = sorted({label for label, _ in unique})
    model, tokenizer = load_model(arguments.model)
    model.to(find_device(arguments.device))
    generator = torch.Generator().manual_seed(config.seed)
    longest = model.config.context_length
    classifier = TextClassifier(model, tokenizer, labels, longest, "mean", generator)
    print(f"{len(train)} records to learn from, {len(validation)} to stop by, {len(test)} to judge")
    best = math.inf
    for epoch, report in enumerate(fit(classifier, train, validation, config), start=1):
        loss = report.validation_loss or 0.0
        mark, best = " (best)" if loss < best else "", min(best, loss)
        print(
            f"epoch {epoch}: loss {report.loss:.4f}, on the others {loss:.4f}{mark}, "
            f"{report.seconds:.0f} s",
            flush=True,
        )
    save_classifier(classifier, folder)
    _judge(folder, test)
    return 0


def _judge(folder: Path, test: Sequence[LabeledText]) -> None:
    """Say how the saved classifier does on records that it never saw, class by class."""
    from gptlib.classification import confusion, load_classifier, predict

    classifier = load_classifier(folder)
    answers = predict(classifier, [text for _, text in test])
    right = sum(a == label for a, (label, _) in zip(answers, test, strict=True))
    print(f"{right / len(test):.1%} of {len(test)} messages that it never saw are sorted rightly")
    for label in classifier.labels:
        found = confusion([truth == label for truth, _ in test], [a == label for a in answers])
        print(f"  {label}: precision {found.precision:.3f}, recall {found.recall:.3f}")
    print(f"saved to {folder}")
