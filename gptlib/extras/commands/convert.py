"""The command `convert`: a model of any form into a form that another program reads."""

import argparse
import re
from dataclasses import asdict, replace
from pathlib import Path

import huggingface_hub
import torch
from safetensors.torch import load_file

from gptlib.classification import save_classifier
from gptlib.extras.commands.base import add_special, new_folder
from gptlib.extras.formats.folders import load_their_classifier
from gptlib.extras.models import load_model, load_peft
from gptlib.extras.options import CommandParser
from gptlib.extras.special_tokens import add_special_tokens
from gptlib.extras.variants import refuse_variant
from gptlib.gpt2 import GPT
from gptlib.tokenizer import BPETokenizer, Tokenizer, whole_file
from gptlib.weights import TRANSPOSED, gpt2_view, save_gpt2

_CONVERT = """\
Write a model in another form. What is read: this course's folders, runs and checkpoints, folders of
transformers (whole, in shards, as pickles), OpenAI's TensorFlow checkpoints and those of
gpt-2-simple, nanoGPT's ckpt.pt, adapters of PEFT with their model, classifiers of transformers.
Pickles are opened for tensors and plain values alone, so that no code in them can run."""

_EXAMPLES = """\
forms:
  gpt2     GPT-2's layout, one model.safetensors: of this course and of transformers
  sharded  the same in several files and an index
  nanogpt  nanoGPT's ckpt.pt, with the tokenizer's files beside it

examples:
  python -m gptlib convert out/ckpt.pt my-model
  python -m gptlib convert my-model out --to nanogpt
  python -m gptlib convert my-model half --dtype bfloat16
  python -m gptlib convert my-model larger --special "<|user|>" --special "<|pad|>"
"""


def parser(prog: str) -> CommandParser:
    """Make the parser of `convert`."""
    parser = CommandParser(prog, _convert, _EXAMPLES, description=_CONVERT)
    parser.add_argument("source", metavar="SOURCE", help="a model's folder, file or name")
    parser.add_argument("folder", type=new_folder, metavar="FOLDER", help="folder to write to")
    parser.add_argument(
        "--to",
        choices=("gpt2", "sharded", "nanogpt"),
        default="gpt2",
        help="the form (default: gpt2)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="how the numbers are stored (default: float32)",
    )
    parser.add_argument(
        "--shard-size",
        type=_size,
        metavar="SIZE",
        default="1GB",
        help="with --to sharded: most bytes of a file, such as 500MB (default: 1GB)",
    )
    parser.add_argument("--base", metavar="DIR", help="of adapters: the model they belong to")
    add_special(parser, "which the model and its tokenizer get besides")
    return parser


def _size(text: str) -> str:
    """Read the value of `--shard-size`."""
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write one like 500MB, in KB to GB")
    return text


def as_gpt2(model: GPT) -> GPT:
    """Give a model the parts that GPT-2's layout asks for, with values that change nothing.

    A bias that is missing becomes zeros, fixed positions a table of the same values. A variant is
    refused (ValueError).
    """
    refuse_variant(model, "GPT-2's layout")
    config = replace(model.config, positions="learned", bias=True, qkv_bias=None)
    if config == model.config:
        return model
    whole = GPT(config).to(model.ln_f.weight)  # its biases are zeros
    whole.load_state_dict(model.state_dict(), strict=False)
    return whole.eval()


def _convert(arguments: argparse.Namespace) -> int:
    folder, dtype = Path(arguments.folder), getattr(torch, arguments.dtype)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    source = Path(arguments.source).expanduser()
    classifier = load_their_classifier(source) if source.exists() else None
    if classifier:
        if arguments.to != "gpt2":
            raise ValueError("a classifier has one form only; leave out --to")
        save_classifier(classifier, folder, dtype)
        print(f"a classifier of {', '.join(classifier.labels)} is in {folder}")
        return 0
    if arguments.base:
        model, tokenizer = load_peft(source, torch.float32, arguments.base)
    else:
        model, tokenizer = load_model(arguments.source)
    model = as_gpt2(model)
    if arguments.special:
        model, tokenizer = add_special_tokens(model, tokenizer, arguments.special)
    if arguments.to == "nanogpt":
        _write_nanogpt(model, tokenizer, folder, dtype)
    else:
        save_gpt2(model, tokenizer, folder, dtype)
    if arguments.to == "sharded":
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        huggingface_hub.save_torch_state_dict(tensors, folder, max_shard_size=arguments.shard_size)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{n_parameters:,} parameters in {arguments.dtype} are in {folder}")
    return 0


def _write_nanogpt(model: GPT, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype) -> None:
    """Write ckpt.pt as nanoGPT's train.py does, but for the optimizer, and the tokenizer."""
    if not model.config.tie_weights or model.config.hidden_size != 4 * model.config.n_embd:
        raise ValueError(
            "nanoGPT has no place for an output layer of its own, or for an MLP that is not four "
            "times as wide as the stream; leave out --to nanogpt"
        )
    state = {}
    for name, view in gpt2_view(model).items():
        matrix = view.T if name.endswith(TRANSPOSED) else view
        state[f"transformer.{name}"] = matrix.to("cpu", dtype).contiguous()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    names = ("vocab_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
    sizes = {name: value for name, value in asdict(model.config).items() if name in names}
    content = {
        "model": state,
        "model_args": sizes | {"block_size": model.config.context_length},
        "iter_num": 0,
        "best_val_loss": 1e9,
        "config": {},
    }
    if isinstance(tokenizer, BPETokenizer):  # GPT-2's own is what nanoGPT takes without any
        tokenizer.save(folder)
    with whole_file(folder / "ckpt.pt") as draft:
        torch.save(content, draft)
