"""The command `info`: a model's configuration, and what it costs, before or after it is trained."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from gptlib.extras.commands.base import add_json, model_name
from gptlib.extras.models import default_model, load_model
from gptlib.extras.options import CommandParser, whole
from gptlib.extras.runs import READY_CONFIGS
from gptlib.extras.terminal import print_json, table
from gptlib.extras.variants import as_config, build
from gptlib.gpt2 import (
    GPT2_LARGE,
    GPT2_MEDIUM,
    GPT2_SMALL,
    GPT2_XL,
    GPTConfig,
    count_parameters,
    flops_per_token,
    memory_bytes,
)

_INFO = """\
Say what a model is made of and what it costs: its configuration, its parameters by part, the memory
that it takes to write and to train, and the operations that a token takes. Names of configurations
and of GPT-2's sizes are counted without building or fetching anything."""

_EXAMPLES = """\
examples:
  python -m gptlib info
  python -m gptlib info gpt2-xl
  python -m gptlib info gpt2-124M --batch-size 32 --json
  python -m gptlib info runs/mine
"""

_RELEASED = {
    "gpt2": GPT2_SMALL,
    "gpt2-medium": GPT2_MEDIUM,
    "gpt2-large": GPT2_LARGE,
    "gpt2-xl": GPT2_XL,
}


def parser(prog: str) -> CommandParser:
    """Make the parser of `info`."""
    parser = CommandParser(prog, _info, _EXAMPLES, description=_INFO)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"{', '.join(_RELEASED)}, a ready configuration ({', '.join(READY_CONFIGS)}), a YAML "
        "file, or a model's folder (default: the model that comes with the course)",
    )
    parser.add_argument(
        "--batch-size",
        type=whole(1),
        default=1,
        metavar="N",
        help="windows that are trained on, or texts that are written, at once (default: 1)",
    )
    add_json(parser)
    return parser


def _find_config(name: str) -> GPTConfig:
    """Find a model's configuration by its name, without its weights where there is a way."""
    if name in _RELEASED:
        return _RELEASED[name]
    file = READY_CONFIGS.get(name, Path(name).expanduser())
    if file.suffix not in (".yaml", ".yml"):
        try:
            return load_model(model_name(name))[0].config
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{error}; ready configurations: {', '.join(READY_CONFIGS)}") from None
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        return as_config(values["model"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} gives no sizes of a model under `model:` ({error}); see one that does with "
            "train --config war-and-peace-cpu --print-config"
        ) from None


def _info(arguments: argparse.Namespace) -> int:
    config = _find_config(arguments.model or default_model())
    n_tokens = arguments.batch_size * config.context_length
    costs = memory_bytes(config, n_tokens)
    half = memory_bytes(config, n_tokens, bytes_per_value=2)
    training = [costs[name] for name in ("weights", "gradients", "optimizer", "activations")]
    memory = {
        "weights": costs["weights"],
        "weights in bfloat16": half["weights"],
        "keys and values of full contexts": costs["keys and values"],
        "training, activations included": sum(training),
    }
    parameters, operations = count_parameters(config), flops_per_token(config)
    with torch.device("meta"):
        norms = sum(p.numel() for name, p in build(config).named_parameters() if "ln_" in name)
    if fewer := parameters["norms"] - norms:  # a variant's blocks may have none
        parameters["norms"], parameters["total"] = norms, parameters["total"] - fewer
        memory["weights"] -= 4 * fewer
        memory["weights in bfloat16"] -= 2 * fewer
        memory["training, activations included"] -= 16 * fewer  # a gradient, and AdamW's averages
    if arguments.json:
        print_json(
            {
                "config": asdict(config),
                "parameters": parameters,
                "bytes": memory,
                "flops_per_token": operations,
            }
        )
        return 0
    print(table(("configuration", ""), [(name, str(x)) for name, x in asdict(config).items()]))
    rows = [(name, f"{n:,}", f"{n / parameters['total']:.1%}") for name, n in parameters.items()]
    print(f"\n{table(('part', 'parameters', 'share'), rows)}")
    size = f"{arguments.batch_size} × {config.context_length:,} tokens"
    for head, unit, values in (
        (f"memory, {size}, float32", "MB", memory),
        ("operations per token", "millions", operations),
    ):
        print(f"\n{table((head, unit), [(name, f'{n / 1e6:,.1f}') for name, n in values.items()])}")
    return 0
