"""The command `tune`: teach a model to answer, from records of questions and answers."""

import os

from gptlib.extras.commands.base import model_name
from gptlib.extras.commands.train import RunParser, add_run_options, run_command
from gptlib.extras.models import SHIPPED
from gptlib.extras.runs import ADAMW, FORMS, START_STD

_TUNE = """\
Teach a model to answer: supervised fine-tuning on records of questions and answers,
or conversations, under any usual names: JSON, JSON lines, CSV or TSV. A share of them is kept to
judge by. It is a run like those of train: it can be stopped and resumed, and in the end the model
is in its folder, for chat."""

_EXAMPLES = """\
examples:
  python -m gptlib tune records.json
  python -m gptlib tune records.jsonl --model gpt2 --lora --training.steps 500 --folder runs/mine
  python -m gptlib tune --resume --folder runs/mine
  python -m gptlib chat --model runs/mine/model
"""


def parser(prog: str) -> RunParser:
    """Make the parser of `tune`."""
    usage = "%(prog)s [RECORDS] [--model NAME] [option ...]"
    parser = RunParser(prog, run_command, _EXAMPLES, description=_TUNE, usage=usage)
    parser.add_argument("text", nargs="*", metavar="RECORDS", help="JSON, JSON lines, CSV or TSV")
    start = parser.add_argument_group("the start")
    start.add_argument(
        "--init",
        "--model",
        type=model_name,
        default=os.environ.get("GPTLIB_MODEL", "").strip() or SHIPPED,
        metavar="MODEL",
        help="the model to begin with: a folder of any GPT-2, novels, gpt2, gpt2-medium, "
        "gpt2-large or gpt2-xl (default: what the environment variable GPTLIB_MODEL names, else "
        "the model that comes with the course)",
    )
    start.add_argument(
        "--form",
        choices=FORMS,
        metavar="|".join(FORMS),
        default="chat",
        help="the form of the prompts (default: chat)",
    )
    parser.set_defaults(start_std=START_STD, optimizer=ADAMW)
    add_run_options(parser)
    return parser
