"""Full fine-tuning against LoRA on the course's instructions, over several seeds.

    python tests/benchmarks/instructions.py [--seeds 0 1 2] [--model FOLDER] [--ways full LoRA]

Each seed draws other questions, another held-out part, another order of the batches and other
starting values of the adapters. Seconds are CPU time of one process, on one thread; memory is what
gradients and AdamW's two averages take. "unmasked" is full fine-tuning with the questions as
targets too. "new" questions have sentences, names or words that no lesson holds.
"""

import argparse
import random
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from gptlib.extras.datasets import instructions
from gptlib.extras.fast import fast
from gptlib.extras.fast.onednn import multiply_in_onednn
from gptlib.extras.models import load_model
from gptlib.extras.questions import KNOWN, NEW, TASKS, make_records
from gptlib.gpt2 import GPT
from gptlib.instructions import (
    CHAT,
    PROJECTIONS,
    LoRAConfig,
    Record,
    add_lora,
    encode_records,
    evaluate_responses,
    exact_match,
    pack,
    respond,
    tune,
)
from gptlib.tokenizer import Tokenizer
from gptlib.training import TrainingConfig

N_ROUNDS, N_PER_TASK = 2, 620
N_HELD_OUT = 160
N_FREE = 40
BASE = TrainingConfig(
    n_steps=21, batch_size=1, warmup_steps=20, weight_decay=0.01, report_every=1000
)
WAYS: dict[str, tuple[LoRAConfig | None, float, bool]] = {
    "full": (None, 5e-4, False),
    "unmasked": (None, 5e-4, True),
    "LoRA": (LoRAConfig(rank=8, projections=PROJECTIONS), 3e-3, False),
}
"""For each way: the adapters, the highest learning rate, whether questions are learnt."""

SEARCHED = [task for task in TASKS if task.startswith("find-")]
LISTED = ["first-word", "last-word", "longest-word"]
NEWS = {
    "new sentence": (replace(KNOWN, who=NEW.who, where=NEW.where), SEARCHED),
    "new name": (replace(KNOWN, names=NEW.names, cities=NEW.cities), SEARCHED),
    "new word": (replace(KNOWN, words=NEW.words), LISTED),
}
"""What is new, and the tasks in which it can be."""

Scores = dict[str, float]
note = partial(print, file=sys.stderr, flush=True)


def share(model: GPT, tokenizer: Tokenizer, records: list[Record]) -> dict[str, float]:
    """Find the share of right answers for each task, and of all under the name ""."""
    match = exact_match(respond(fast(model)[0], tokenizer, records, CHAT), records)
    right = {task: right / n for task, (right, n) in match.items()}
    return right | {"": sum(r for r, _ in match.values()) / sum(n for _, n in match.values())}


def measure(folder: str | None, way: str, seed: int) -> Scores:
    """Tune a fresh model one way, and return its scores and costs."""
    model, tokenizer = load_model(folder)
    made: list[Record] = [*make_records(N_PER_TASK, seed)]
    free: list[Record] = [*instructions()]
    random.Random(seed).shuffle(made)
    random.Random(seed).shuffle(free)
    held_out, lessons = made[:N_HELD_OUT], made[N_HELD_OUT:] + free[N_FREE:]
    context_length = model.config.context_length
    validation = encode_records(held_out + free[:N_FREE], tokenizer, CHAT, context_length)
    costs: Scores = {"seconds": 0, "trained": 0}
    if way != "untuned":
        lora, rate, learn_prompt = WAYS[way]
        examples = encode_records(lessons, tokenizer, CHAT, context_length)
        n_steps = N_ROUNDS * len(pack(examples, context_length)) // BASE.batch_size
        config = replace(BASE, n_steps=n_steps, max_learning_rate=rate, seed=seed)
        if lora is not None:
            add_lora(model, lora, torch.Generator().manual_seed(seed))
        if torch.backends.mkldnn.is_available():
            multiply_in_onednn(model)
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0  # as in the chapter
        costs["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        begin = time.process_time()
        for _ in tune(model, examples, None, config, learn_prompt=learn_prompt):
            pass
        costs["seconds"] = time.process_time() - begin
    right = share(model, tokenizer, held_out)
    news = {
        name: share(model, tokenizer, [*make_records(25, 1000 + seed, stock, tasks)])[""]
        for name, (stock, tasks) in NEWS.items()
    }
    return costs | {"loss": evaluate_responses(model, validation)} | right | news


def spread(values: list[float], form: str) -> str:
    """Write a mean and, with several values, their standard deviation."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--model", help="a folder, or what load_model takes; the shipped one if none"
    )
    parser.add_argument("--ways", nargs="+", default=["untuned", *WAYS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    names = ["response loss", "held out", *NEWS, "trained", "MB", "CPU seconds"]
    print(f"| way | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for way in arguments.ways:
        values = found[way] = defaultdict(list)
        for seed in arguments.seeds:
            scores = measure(arguments.model, way, seed)
            note(f"{way}, seed {seed}: {scores}")
            for name, value in scores.items():
                values[name].append(value)
        cells = [spread(values["loss"], ".2f")]
        cells += [spread(values[name], ".1%") for name in ("", *NEWS)]
        trained = int(values["trained"][0])
        cells += [f"{trained:,}", f"{12 * trained / 1e6:.1f}", spread(values["seconds"], ".0f")]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)
    print(f"\n| task | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for task in TASKS:
        shares = " | ".join(f"{statistics.mean(values[task]):.0%}" for values in found.values())
        print(f"| {task} | {shares} |")


if __name__ == "__main__":
    main()
