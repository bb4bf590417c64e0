"""Options that several commands have, and what they are turned into."""

import argparse
import re
from pathlib import Path

from gptlib.extras.models import SHIPPED
from gptlib.extras.options import CommandParser
from gptlib.extras.texts import COURSE_TEXTS
from gptlib.tokenizer import find_data

DEVICE = "cpu, cuda, cuda:N or mps (default: the best that this machine has)"
"""The help of `--device`."""


def add_texts(parser: CommandParser) -> None:
    """Add the texts, and which files of a folder they are."""
    parser.add_argument(
        "texts",
        nargs="+",
        metavar="TEXT",
        help="a text file, a folder of text files, or a text of the course: "
        f"{', '.join(COURSE_TEXTS)}",
    )
    parser.add_argument(
        "--pattern",
        metavar="GLOB",
        default="*.txt",
        help="which files of a folder, and of folders in it, are texts (default: *.txt)",
    )
    add_encoding(parser)
    parser.add_argument(
        "--read-special",
        action="store_true",
        help="read <|endoftext|> and <|startoftext|> inside of lines as borders of documents",
    )


def add_encoding(group: argparse._ActionsContainer) -> None:
    """Add `--encoding`."""
    group.add_argument(
        "--encoding",
        metavar="NAME",
        help="what the file was written in, such as latin-1, cp1252 or utf-16 (default: utf-8)",
    )


def add_model(group: argparse._ArgumentGroup, which: str = "a model") -> None:
    """Add `--model` and `--device`; `which` says what the folder holds."""
    group.add_argument(
        "--model",
        type=model_name,
        metavar="DIR",
        help=f"folder of {which}, or of a training run, or gpt2, gpt2-medium, gpt2-large, gpt2-xl, "
        f"or {SHIPPED} "
        "(default: what the environment variable GPTLIB_MODEL names, else the model that comes "
        "with the course)",
    )
    group.add_argument("--device", metavar="NAME", help=DEVICE)


def add_json(group: argparse._ActionsContainer, what: str = "print JSON instead") -> None:
    """Add `--json`."""
    group.add_argument("--json", action="store_true", help=what)


def add_special(group: argparse._ActionsContainer, what: str) -> None:
    """Add `--special`, which names new special tokens."""
    group.add_argument(
        "--special",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a special token, such as '<|pad|>', {what}; give it once for each",
    )


def model_name(text: str) -> str:
    """Read the value of `--model`: a folder, or a name that `load_model` knows."""
    if re.fullmatch("gpt2(-medium|-large|-xl)?", text):
        return text
    folder = Path(text).expanduser()
    if text == SHIPPED and not folder.is_dir():
        folder = find_data(f"models/{SHIPPED}/model.safetensors").parent
    if not folder.exists() and not Path(f"{folder}.index").is_file():
        raise argparse.ArgumentTypeError(
            f"there is no folder {text!r}; name one that holds a model, or gpt2, or leave it out"
        )
    return str(folder)


def new_folder(text: str) -> Path:
    """Read the value of `--save`."""
    folder = Path(text).expanduser()
    if not text.strip() or (folder.exists() and not folder.is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r} can't be a folder; name a new one")
    return folder
