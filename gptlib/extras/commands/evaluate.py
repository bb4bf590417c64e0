"""The command `evaluate`: how well a model predicts texts."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gptlib.extras.commands.base import add_json, add_model, add_texts
from gptlib.extras.device import best_device
from gptlib.extras.models import default_model, load_model
from gptlib.extras.options import CommandParser, whole
from gptlib.extras.terminal import print_json, read_text, table
from gptlib.extras.texts import find_texts, read_documents
from gptlib.gpt2 import GPT
from gptlib.tokenizer import Tokenizer, end_of_text
from gptlib.training import bits_per_byte, evaluate, next_token_loss, perplexity

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
"""

_AT_ONCE = 64
"""Windows from one move of the bar to the next."""


def parser(prog: str) -> CommandParser:
    """Make the parser of `evaluate`."""
    parser = CommandParser(prog, _evaluate, _EXAMPLES, description=_EVALUATE)
    add_texts(parser)
    add_model(parser.add_argument_group("the model"))
    parser.add_argument(
        "--batch-size",
        type=whole(1),
        metavar="N",
        default=8,
        help="windows predicted at once; it changes speed and memory only (default: 8)",
    )
    add_json(parser)
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


def _measure(
    model: GPT, tokenizer: Tokenizer, name: str, documents: Iterable[str], batch_size: int
) -> dict[str, Any]:
    """Measure one text, by the names that --json prints."""
    ends = sorted(end_of_text(tokenizer))
    tokens: list[int] = []
    for document in documents:
        tokens += [*(ends if tokens else []), *tokenizer.encode_ordinary(document)]
    if len(tokens) < 2:
        raise ValueError(
            f"{name} has {len(tokens)} tokens, and the first can't be predicted; "
            "name a text of at least 2"
        )
    n_predicted, what, quiet = len(tokens) - 1, Path(name).name, not sys.stderr.isatty()
    begin = time.perf_counter()
    with tqdm(total=n_predicted, desc=what, unit="token", leave=False, disable=quiet) as bar:
        loss = text_loss(model, torch.tensor(tokens), batch_size, bar.update)
    seconds = time.perf_counter() - begin
    n_bytes = len(tokenizer.decode_bytes([token for token in tokens[1:] if token not in ends]))
    return {
        "text": name,
        "bytes": n_bytes,
        "tokens": n_predicted,
        "loss": loss,
        "perplexity": perplexity(loss),
        "bits_per_byte": bits_per_byte(loss, n_predicted, n_bytes),
        "seconds": seconds,
        "tokens_per_second": n_predicted / seconds,
    }


def _evaluate(arguments: argparse.Namespace) -> int:
    names = [name for name in arguments.texts if name != "-"]
    files = find_texts(names, arguments.pattern, arguments.encoding, arguments.read_special)
    texts = {text.name: text for text in files}
    wanted = arguments.model or default_model()
    model, tokenizer = load_model(wanted)
    model.to(best_device(arguments.device))
    results = []
    for name in arguments.texts:
        documents = [read_text("-")] if name == "-" else read_documents([texts[name]])
        results.append(_measure(model, tokenizer, name, documents, arguments.batch_size))
    if arguments.json:
        print_json({"model": str(wanted), "texts": results})
        return 0
    head = ["text", "bytes", "tokens", "nats per token", "perplexity", "bits per byte"]
    head += ["seconds", "tokens per second"]
    formats = ("", ",", ",", ".4f", ",.2f", ".4f", ".1f", ",.0f")
    rows = [list(map(format, result.values(), formats)) for result in results]
    print(table(head, rows))
    return 0
