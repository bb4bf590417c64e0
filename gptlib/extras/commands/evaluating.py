"""The command `evaluate`: how well a model predicts texts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlib.extras.commands.base import (
    CommandParser,
    add_model_options,
    command_parser,
    commas,
    find_device,
    print_json,
    progress,
    read_standard_input,
    table,
)
from gptlib.extras.commands.tokenizing import add_text_options, say_empty
from gptlib.extras.options import whole
from gptlib.extras.texts import find_texts

if TYPE_CHECKING:  # PyTorch waits
    from torch import Tensor

    from gptlib.gpt2 import GPT
    from gptlib.tokenizer import Tokenizer

__all__ = ["evaluate_parser", "text_loss"]

_EVALUATE = """\
Measure how well a model predicts texts. Each token but the first is predicted from those before it
in its window; windows have the model's context length and don't overlap. The loss is in nats per
token; perplexity is e to its power. Bits per byte can be compared between models whose tokens
differ. Of a folder, the files are read one after the other, with the end-of-text token between
them if the model has one."""

_EXAMPLES = """\
examples:
  python -m gptlib evaluate war-and-peace my-book.txt
  python -m gptlib evaluate my-book.txt --model gpt2 --json
  fortune | python -m gptlib evaluate - --model runs/my-book

exit status: 0 if it is done, 2 if a value can't be used, 130 if Ctrl-C stopped it.
"""

_AT_ONCE = 64
"""Windows from one move of the bar to the next."""


def evaluate_parser() -> CommandParser:
    """Make the parser of `evaluate`."""
    parser = command_parser("evaluate", _evaluate, _EVALUATE, _EXAMPLES)
    add_text_options(parser)
    add_model_options(parser.add_argument_group("the model"))
    parser.add_argument(
        "--batch-size",
        type=whole(1),
        metavar="N",
        default=8,
        help="windows predicted at once; it changes speed and memory only (default: 8)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def text_loss(
    model: GPT,
    tokens: Tensor,
    batch_size: int = 8,
    advance: Callable[[int], object] = lambda _: None,
) -> float:
    """Measure the loss on a text of any length from two tokens on.

    Args:
        model: The model.
        tokens: Token ids, shape (n,), n at least 2.
        batch_size: Windows predicted at once.
        advance: Called with the number of tokens that were predicted since the last call.

    Returns:
        The mean cross-entropy over n - 1 tokens, in nats per token, as `gptlib.training.evaluate`
        gives it where the text is longer than a window.
    """
    import torch

    from gptlib.training import evaluate, next_token_loss

    length, device = model.config.context_length, model.ln_f.weight.device
    total, step = 0.0, _AT_ONCE * length
    for start in range(0, len(tokens) - 1, step):
        part = tokens[start : start + step + 1]
        if len(part) > length:
            loss = evaluate(model, part, batch_size)
        else:  # one window that is not full
            row = part[None].to(device)
            with torch.no_grad():
                loss = next_token_loss(model.eval(), row[:, :-1], row[:, 1:]).item()
        total += loss * (len(part) - 1)
        advance(len(part) - 1)
    return total / (len(tokens) - 1)


def _documents(name: str, pattern: str) -> Iterator[str]:
    if name == "-":
        yield read_standard_input()
    else:
        [text] = find_texts([name], pattern)
        say_empty([text])
        yield from text.documents()


def _measure(
    model: GPT, tokenizer: Tokenizer, name: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure one text, by the names that --json prints."""
    import torch

    from gptlib.tokenizer import end_of_text
    from gptlib.training import bits_per_byte, perplexity

    ends = sorted(end_of_text(tokenizer))
    tokens: list[int] = []
    for document in _documents(name, arguments.pattern):
        tokens += [*(ends if tokens else []), *tokenizer.encode_ordinary(document)]
    if len(tokens) < 2:
        raise ValueError(
            f"{name} has {len(tokens)} tokens, and the first can't be predicted; "
            "name a text of at least 2"
        )
    predicted = [token for token in tokens[1:] if token not in ends]
    n_bytes = len(tokenizer.decode_bytes(predicted))
    with progress(len(tokens) - 1, Path(name).name, "token") as advance:
        loss = text_loss(model, torch.tensor(tokens), arguments.batch_size, advance)
    return {
        "text": name,
        "bytes": n_bytes,
        "tokens": len(tokens) - 1,
        "loss": loss,
        "perplexity": perplexity(loss),
        "bits_per_byte": bits_per_byte(loss, len(tokens) - 1, n_bytes),
    }


def _evaluate(arguments: argparse.Namespace) -> int:
    for name in arguments.texts:
        if name != "-":
            find_texts([name], arguments.pattern)  # what is not there is told at once
    from gptlib.extras.models import default_model, load_model

    wanted = arguments.model or default_model()
    device = find_device(arguments.device)
    model, tokenizer = load_model(wanted)
    model.to(device)
    results = [_measure(model, tokenizer, name, arguments) for name in arguments.texts]
    if arguments.json:
        print_json({"model": str(wanted), "texts": results})
        return 0
    head = ("text", "bytes", "tokens", "nats per token", "perplexity", "bits per byte")
    rows = [
        (
            result["text"],
            commas(result["bytes"]),
            commas(result["tokens"]),
            f"{result['loss']:.4f}",
            commas(result["perplexity"], 2),
            f"{result['bits_per_byte']:.4f}",
        )
        for result in results
    ]
    print(table(head, rows))
    return 0
