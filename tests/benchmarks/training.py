"""Compare a training step of ours with transformers' GPT2LMHeadModel under a plain AdamW loop.

    python tests/benchmarks/training.py --nanogpt path/to/nanoGPT/model.py

Both models have the shape of chapter 5's preset for a CPU, no dropout, and float32. Ours learns by
the plain loss, which holds all logits, by the loss in chunks, by the same with its products in
oneDNN, and by the first two in bfloat16, which pays on CPUs that have it. nanoGPT's model learns in
the step of its train.py, where its file is named. All take turns round by round, so that whatever
else the machine does disturbs them alike; medians are compared.
The process's CPU time stands beside the wall clock, for machines that are busy.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from gpu import load_nanogpt
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from gptlib.embeddings import random_batch
from gptlib.extras.fast.onednn import LEAST, multiply_in_onednn, onednn_loss
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.scaling import chunked_loss
from gptlib.training import (
    Loss,
    TrainingConfig,
    TrainingState,
    draw_windows,
    next_token_loss,
    take_step,
)

SIZES = GPTConfig(vocab_size=4096, context_length=128, n_layer=2, n_head=4, n_embd=128)
BATCH_SIZE = 4


def our_step(
    tokens: Tensor, loss: Loss, precision: Literal["float32", "bfloat16"] = "float32"
) -> Callable[[], object]:
    """Return a function that takes one step of ours."""
    model = GPT(SIZES, torch.Generator().manual_seed(0)).train()
    if loss is onednn_loss:
        multiply_in_onednn(model, LEAST)
    config = TrainingConfig(n_steps=10**6, batch_size=BATCH_SIZE, precision=precision)
    state = TrainingState.start(model, config)
    return lambda: take_step(state, partial(draw_windows, tokens), loss)


def their_step(tokens: Tensor) -> Callable[[], object]:
    """Return a function that takes one step of transformers' model, as most loops do it."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=SIZES.vocab_size,
            n_positions=SIZES.context_length,
            n_layer=SIZES.n_layer,
            n_head=SIZES.n_head,
            n_embd=SIZES.n_embd,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        inputs, _ = random_batch(tokens, BATCH_SIZE, SIZES.context_length, generator)
        optimizer.zero_grad()
        loss = model(input_ids=inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def nanogpt_step(tokens: Tensor, path: str) -> Callable[[], object]:
    """Return a function that takes one step of nanoGPT's model, as its train.py does."""
    nanogpt = load_nanogpt(path)
    sizes = nanogpt.GPTConfig(
        block_size=SIZES.context_length,
        vocab_size=SIZES.vocab_size,
        n_layer=SIZES.n_layer,
        n_head=SIZES.n_head,
        n_embd=SIZES.n_embd,
        dropout=0.0,
    )
    model = nanogpt.GPT(sizes).train()
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        inputs, targets = random_batch(tokens, BATCH_SIZE, SIZES.context_length, generator)
        _, loss = model(inputs, targets.contiguous())  # which it looks at as one row
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(step: Callable[[], object], n_steps: int) -> tuple[float, float]:
    """Return milliseconds per step, by the wall clock and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(n_steps):
        step()
    return (
        1e3 * (time.perf_counter() - wall) / n_steps,
        1e3 * (time.process_time() - cpu) / n_steps,
    )


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="per round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nanogpt", metavar="FILE", help="nanoGPT's model.py")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokens = torch.randint(SIZES.vocab_size, (100_000,))
    steps = {
        "plain loss": our_step(tokens, next_token_loss),
        "loss in chunks": our_step(tokens, chunked_loss),
        "loss in chunks, oneDNN": our_step(tokens, onednn_loss),
        "plain loss, bfloat16": our_step(tokens, next_token_loss, "bfloat16"),
        "loss in chunks, bfloat16": our_step(tokens, chunked_loss, "bfloat16"),
        "transformers": their_step(tokens),
    }
    if arguments.nanogpt:
        steps["nanoGPT"] = nanogpt_step(tokens, arguments.nanogpt)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for step in steps.values():
        measure(step, arguments.steps)  # warm up
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            times[name].append(measure(step, arguments.steps))
    for kind, unit in enumerate(("ms by the clock", "ms of CPU time")):
        medians = {name: statistics.median(pair[kind] for pair in times[name]) for name in steps}
        for name, median in medians.items():
            ratio = medians["transformers"] / median
            print(f"{name:>24}: {median:6.1f} {unit} per step, {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
