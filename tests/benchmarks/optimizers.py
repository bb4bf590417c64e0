"""Race the optimizers that the command `train` can use, each at its best learning rate.

    python tests/benchmarks/optimizers.py

One small model learns War and Peace for the same number of steps. Each optimizer's rate is tuned
first, with one seed: rates three times apart, until the best has a worse one on either side. Then
other seeds, which draw the starting weights and the batches, are run at that rate. Everything else
is the same for all: warm-up, cosine, weight decay, betas and clipping.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from gptlib.embeddings import split_tokens
from gptlib.extras.datasets import war_and_peace
from gptlib.extras.optimizers import OPTIMIZERS
from gptlib.extras.tokens import quick
from gptlib.extras.variants import build
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer
from gptlib.training import TrainingConfig, bits_per_byte, evaluate, train

SIZES = GPTConfig(vocab_size=2048, context_length=128, n_layer=2, n_head=4, n_embd=128)
N_JUDGED = 30_000
FIRST_RATES = {"adamw": 1e-3, "sgd": 0.03, "lion": 1e-3, "muon": 1e-2}
RATES = [round(rate * 10.0**power, 9) for power in range(-6, 3) for rate in (1, 3)]
"""In order, and each some three times as high as the one before."""

Make = Callable[[nn.Module, TrainingConfig], torch.optim.Optimizer]


@cache
def book(vocab_size: int) -> tuple[Tensor, Tensor, int]:
    """Cut War and Peace into tokens: to learn from, to judge by, and the bytes of the latter."""
    text = war_and_peace()
    tokenizer = quick(BPETokenizer.train(text, vocab_size))
    learnt, rest = split_tokens(torch.tensor(tokenizer.encode(text)))
    judged = rest[:N_JUDGED]
    return learnt, judged, len(tokenizer.decode_bytes(judged[1:].tolist()))


def run(model: GPT, plan: TrainingConfig, optimizer: Make) -> tuple[float, float]:
    """Train a model; return its bits per byte and the CPU seconds of a step.

    A run that breaks off, because its loss is no number, ends at infinity.
    """
    learnt, judged, n_bytes = book(model.config.vocab_size)
    begin = time.process_time()
    try:
        for _ in train(model, learnt, None, plan, optimizer=optimizer):
            pass
    except FloatingPointError:
        return math.inf, math.nan
    seconds = (time.process_time() - begin) / plan.n_steps
    return bits_per_byte(evaluate(model, judged), len(judged) - 1, n_bytes), seconds


def plan_of(n_steps: int, rate: float, seed: int) -> TrainingConfig:
    """Plan a run."""
    return TrainingConfig(
        n_steps=n_steps,
        batch_size=4,
        max_learning_rate=rate,
        warmup_steps=n_steps // 10,
        report_every=50,
        evaluate_every=n_steps,
        save_every=n_steps,
        seed=seed,
    )


@dataclass(frozen=True)
class Contestant:
    """What is raced."""

    name: str
    """What the table calls it."""
    config: GPTConfig = SIZES
    """The model."""
    optimizer: str = "adamw"
    """What takes the steps."""

    def race(self, rate: float, seeds: Sequence[int], n_steps: int) -> list[tuple[float, float]]:
        """Run it with several seeds: bits per byte and CPU seconds of a step, for each."""
        results = []
        for seed in seeds:
            model = build(self.config, torch.Generator().manual_seed(seed))
            results.append(run(model, plan_of(n_steps, rate, seed), OPTIMIZERS[self.optimizer]))
            print(f"  {self.name} at {rate:g}, seed {seed}: {results[-1][0]:.3f}", flush=True)
        return results

    def best_rate(self, first: float, n_steps: int) -> float:
        """Find the rate with the fewest bits per byte that has a worse one on either side."""
        place, bits = RATES.index(first), dict[int, float]()
        while missing := [at for at in (place, place + 1, place - 1) if at not in bits]:
            [(bits[missing[0]], _)] = self.race(RATES[missing[0]], [0], n_steps)
            place = min(bits, key=lambda at: bits[at])
        return RATES[place]

    def row(self, rate: float, n_seeds: int, n_steps: int) -> str:
        """Run it with seeds 1, 2, ... and write the row of a table."""
        bits, seconds = zip(*self.race(rate, range(1, 1 + n_seeds), n_steps), strict=True)
        spread, step = statistics.stdev(bits), 1e3 * statistics.median(seconds)
        mean = statistics.mean(bits)
        return f"| {self.name} | {rate:g} | {mean:.3f} ± {spread:.3f} | {step:.0f} |"


HEAD = "| what | rate | bits per byte | CPU ms a step |\n|---|--:|--:|--:|"


def main() -> None:
    """Tune, race and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name, first in FIRST_RATES.items():
        contestant = Contestant(name, optimizer=name)
        rate = contestant.best_rate(first, arguments.steps)
        rows.append(contestant.row(rate, arguments.seeds, arguments.steps))
    print("\n".join((HEAD, *rows)))


if __name__ == "__main__":
    main()
