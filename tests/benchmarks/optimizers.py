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
from functools import cache

import torch
from torch import Tensor, nn

from gptlib.embeddings import split_tokens
from gptlib.extras.datasets import war_and_peace
from gptlib.extras.optimizers import OPTIMIZERS
from gptlib.extras.tokens import quick
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer
from gptlib.training import TrainingConfig, bits_per_byte, evaluate, train

SIZES = GPTConfig(vocab_size=2048, context_length=128, n_layer=2, n_head=4, n_embd=128)
N_JUDGED = 30_000
FIRST_RATES = {"adamw": 1e-2, "sgd": 1.0, "lion": 1e-3, "muon": 1e-2}
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


def race(name: str, rate: float, seeds: Sequence[int], n_steps: int) -> list[tuple[float, float]]:
    """Run an optimizer with several seeds: bits per byte and CPU seconds of a step, for each."""
    results = []
    for seed in seeds:
        model = GPT(SIZES, torch.Generator().manual_seed(seed))
        results.append(run(model, plan_of(n_steps, rate, seed), OPTIMIZERS[name]))
        print(f"  {name} at {rate:g}, seed {seed}: {results[-1][0]:.3f}", flush=True)
    return results


def best_rate(name: str, n_steps: int) -> float:
    """Find the rate with the fewest bits per byte that has a worse one on either side."""
    place = RATES.index(FIRST_RATES[name])
    bits: dict[int, float] = {}
    while any(near not in bits for near in (place - 1, place, place + 1)):
        near = next(near for near in (place, place + 1, place - 1) if near not in bits)
        [(bits[near], _)] = race(name, RATES[near], [0], n_steps)
        place = min(bits, key=lambda at: bits[at])
    return RATES[place]


def main() -> None:
    """Tune, race and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in OPTIMIZERS:
        rate = best_rate(name, arguments.steps)
        results = race(name, rate, range(1, 1 + arguments.seeds), arguments.steps)
        bits, seconds = zip(*results, strict=True)
        spread = statistics.stdev(bits) if len(bits) > 1 else math.nan
        mean, step = statistics.mean(bits), 1e3 * statistics.median(seconds)
        rows.append(f"| {name} | {rate:g} | {mean:.3f} ± {spread:.3f} | {step:.0f} |")
    print("| optimizer | best rate | bits per byte | CPU ms a step |\n|---|--:|--:|--:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
