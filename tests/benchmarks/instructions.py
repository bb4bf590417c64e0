"""Full fine-tuning against LoRA on the course's instructions, over several seeds.

    python tests/benchmarks/instructions.py [--seeds 3] [--rounds 3] [--tasks]

Each seed draws another held-out part of 160 records, another order of the batches and other
starting values of the adapters. Seconds are CPU time of one process, on one thread, so other work
on the machine matters little; memory is what gradients and AdamW's two averages take. "unmasked"
is full fine-tuning with the questions as targets too.
"""

import argparse
import copy
import random
import statistics
import time
from collections import defaultdict
from dataclasses import replace

import torch
from torch import nn

from gptlib.extras.datasets import instructions
from gptlib.extras.fast import fast
from gptlib.extras.models import load_model
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
    repetition,
    respond,
    tune,
)
from gptlib.tokenizer import Tokenizer
from gptlib.training import TrainingConfig

HELD_OUT = 160
BASE = TrainingConfig(
    n_steps=21, batch_size=1, warmup_steps=20, weight_decay=0.01, report_every=1000
)
WAYS: dict[str, tuple[LoRAConfig | None, float, bool]] = {
    "full": (None, 1e-3, False),
    "unmasked": (None, 1e-3, True),
    "LoRA r=8, attention": (LoRAConfig(rank=8), 4e-3, False),
    "LoRA r=8, all": (LoRAConfig(rank=8, projections=PROJECTIONS), 4e-3, False),
}
"""For each way: the adapters, the highest learning rate, whether questions are learnt."""

Scores = dict[str, float]


def score(model: GPT, tokenizer: Tokenizer, records: list[Record]) -> Scores:
    """Measure a model on held-out records."""
    examples = encode_records(records, tokenizer, CHAT, model.config.context_length)
    answers = respond(fast(model)[0], tokenizer, records, CHAT)
    match = exact_match(answers, records)
    free = [text for text, r in zip(answers, records, strict=True) if r.get("task") == "free"]
    return {
        "loss": evaluate_responses(model, examples),
        "right": sum(right for right, _ in match.values()) / sum(n for _, n in match.values()),
        "words": statistics.mean(len(text.split()) for text in free),
        "repeated": statistics.mean(map(repetition, free)),
        **{f"task {task}": right / n for task, (right, n) in match.items()},
    }


def measure(way: str, seed: int, n_rounds: int, records: list[Record]) -> Scores:
    """Tune a fresh model one way, and return its scores and costs."""
    model, tokenizer = load_model()
    shuffled = random.Random(seed).sample(records, len(records))
    held_out, lessons = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    if way == "untuned":
        return score(model, tokenizer, held_out)
    lora, rate, learn_prompt = WAYS[way]
    examples = encode_records(lessons, tokenizer, CHAT, model.config.context_length)
    n_steps = n_rounds * len(pack(examples, model.config.context_length))
    config = replace(BASE, n_steps=n_steps, max_learning_rate=rate, seed=seed)
    if lora is not None:
        add_lora(model, lora, torch.Generator().manual_seed(seed))
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # as in the chapter
    begin = time.process_time()
    for _ in tune(model, examples, None, config, learn_prompt=learn_prompt):
        pass
    seconds = time.process_time() - begin
    costs = {"seconds": seconds, "trained": float(n_trained), "MB": 12 * n_trained / 1e6}
    return score(copy.deepcopy(model), tokenizer, held_out) | costs


def spread(values: list[float], form: str) -> str:
    """Write a mean and, with several values, their standard deviation."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", action="store_true", help="print every task as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records: list[Record] = [*instructions()]
    found: dict[str, dict[str, list[float]]] = {}
    print("| way | response loss | exact match | words | repeated | trained | MB | CPU seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for way in ("untuned", *WAYS):
        values = found[way] = defaultdict(list)
        for seed in range(arguments.seeds):
            for name, value in measure(way, seed, arguments.rounds, records).items():
                values[name].append(value)
        cells = [spread(values["loss"], ".2f"), spread(values["right"], ".1%")]
        cells += [spread(values["words"], ".1f"), spread(values["repeated"], ".0%")]
        if way == "untuned":
            cells += ["0", "0", "0"]
        else:
            cells += [f"{values['trained'][0]:,.0f}", f"{values['MB'][0]:.1f}"]
            cells.append(spread(values["seconds"], ".0f"))
        print(f"| {way} | {' | '.join(cells)} |", flush=True)
    if arguments.tasks:
        tasks = sorted({name for values in found.values() for name in values if "task " in name})
        print(f"\n| task | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
        for task in tasks:
            shares = " | ".join(f"{statistics.mean(values[task]):.0%}" for values in found.values())
            print(f"| {task.removeprefix('task ')} | {shares} |")


if __name__ == "__main__":
    main()
