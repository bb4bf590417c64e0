"""Compare a training step with a big vocabulary with transformers' GPT2LMHeadModel.

    python tests/benchmarks/scaling.py

6 layers, 6 heads, width 384, context 256, GPT-2's 50,257 tokens, batch 8, no dropout, float32.
Each peer lives in a process of its own, so that each has its own peak memory; they take turns
round by round, and medians are compared. `chunked_loss` never holds the logits of all positions,
which are the largest tensor of such a step; chapter 5's loss (the row "whole logits") and
transformers' do. In the row with oneDNN it does the matrix products instead of MKL.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import torch
from torch import Tensor

PEERS = ("gptlib", "gptlib, oneDNN", "gptlib, whole logits", "transformers")
VOCAB_SIZE, CONTEXT, LAYERS, HEADS, WIDTH, BATCH_SIZE = 50_257, 256, 6, 6, 384, 8


def our_step(tokens: Tensor, peer: str) -> Callable[[], object]:
    """Return a function that takes one step of ours."""
    from gptlib.extras.fast.onednn import LEAST, multiply_in_onednn, onednn_loss
    from gptlib.gpt2 import GPT, GPTConfig
    from gptlib.scaling import chunked_loss
    from gptlib.training import (
        TrainingConfig,
        TrainingState,
        draw_windows,
        next_token_loss,
        take_step,
    )

    sizes = GPTConfig(VOCAB_SIZE, CONTEXT, LAYERS, HEADS, WIDTH)
    model = GPT(sizes, torch.Generator().manual_seed(0)).train()
    if peer.endswith("oneDNN"):
        multiply_in_onednn(model, LEAST)
    state = TrainingState.start(model, TrainingConfig(n_steps=10**6, batch_size=BATCH_SIZE))
    losses = {"gptlib, oneDNN": onednn_loss, "gptlib, whole logits": next_token_loss}
    loss = losses.get(peer, chunked_loss)
    return lambda: take_step(state, partial(draw_windows, tokens), loss)


def their_step(tokens: Tensor) -> Callable[[], object]:
    """Return a function that takes one step of transformers' model, as most loops do it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from gptlib.embeddings import random_batch

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB_SIZE,
            n_positions=CONTEXT,
            n_layer=LAYERS,
            n_head=HEADS,
            n_embd=WIDTH,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        inputs, _ = random_batch(tokens, BATCH_SIZE, CONTEXT, generator)
        optimizer.zero_grad()
        model(input_ids=inputs, labels=inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def peak_bytes() -> int:
    """Return the most that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(peer: str, threads: int, pipe: Connection) -> None:
    """Take as many steps as the parent asks for, and answer with seconds and the peak."""
    torch.set_num_threads(threads)
    tokens = torch.randint(VOCAB_SIZE, (50_000,), generator=torch.Generator().manual_seed(1))
    step = their_step(tokens) if peer == "transformers" else our_step(tokens, peer)
    while n_steps := pipe.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(n_steps):
            step()
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        pipe.send((seconds[0] / n_steps, seconds[1] / n_steps, peak_bytes()))


def main() -> None:
    """Print tokens per second and peak memory, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="per round")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, answers = {}, {peer: [] for peer in PEERS}  # type: ignore[var-annotated]
    for peer in PEERS:
        pipes[peer], theirs = context.Pipe()
        worker = context.Process(target=serve, args=(peer, arguments.threads, theirs), daemon=True)
        worker.start()
    for number in range(arguments.rounds + 1):
        for peer, pipe in pipes.items():
            pipe.send(arguments.steps)
            answer = pipe.recv()
            if number:  # the first round warms up
                answers[peer].append(answer)
    for pipe in pipes.values():
        pipe.send(0)
    rows = {
        peer: [statistics.median(column) for column in zip(*answers[peer], strict=True)]
        for peer in PEERS
    }
    tokens, base = BATCH_SIZE * CONTEXT, rows["transformers"]
    print("| step | wall s | CPU s | tokens/s | times transformers | peak, GB | of transformers |")
    print("|---|---|---|---|---|---|---|")
    for peer, (wall, cpu, peak) in rows.items():
        print(
            f"| {peer} | {wall:.2f} | {cpu:.2f} | {tokens / wall:,.0f} | {base[0] / wall:.2f} "
            f"| {peak / 1e9:.2f} | {peak / base[2]:.2f} |"
        )
    shares = (f"{peer} {base[1] / row[1]:.2f}" for peer, row in rows.items())
    print(f"times transformers, by CPU time: {', '.join(shares)}")


if __name__ == "__main__":
    main()
