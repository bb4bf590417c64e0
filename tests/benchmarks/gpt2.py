"""How long a forward pass and a training step take, ours against transformers' GPT-2.

    python tests/benchmarks/gpt2.py

Both models have the same small shape; their runs alternate, so that a busy machine slows both.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from gptlib.gpt2 import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=4096, context_length=128, n_layer=4, n_head=4, n_embd=128)
BATCH, ROUNDS, WARM_UP = 8, 30, 3


def seconds(run: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def step_of(
    model: torch.nn.Module, logits_of: Callable[[Tensor], Tensor], tokens: Tensor
) -> Callable[[], None]:
    """Make a training step with plain AdamW and the same loss for both models."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)

    def step() -> None:
        logits = logits_of(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    """Print the medians of alternating runs and their ratio."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UP + ROUNDS):
        for run, kept in zip((ours, theirs), times, strict=True):
            taken = seconds(run)
            if turn >= WARM_UP:
                kept.append(taken)
    mine, reference = (statistics.median(kept) for kept in times)
    print(
        f"{name}: ours {1e3 * mine:.1f} ms, transformers {1e3 * reference:.1f} ms, "
        f"ours is {reference / mine:.2f} times as fast"
    )


def main() -> int:
    """Compare forward passes, then training steps."""
    torch.manual_seed(0)
    ours = GPT(CONFIG)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=CONFIG.vocab_size,
            n_positions=CONFIG.context_length,
            n_layer=CONFIG.n_layer,
            n_head=CONFIG.n_head,
            n_embd=CONFIG.n_embd,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    tokens = torch.randint(CONFIG.vocab_size, (BATCH, CONFIG.context_length + 1))

    def their_logits(inputs: Tensor) -> Tensor:
        logits: Tensor = theirs(inputs, use_cache=False).logits
        return logits

    with torch.no_grad():
        compare("forward pass", lambda: ours(tokens[:, :-1]), lambda: their_logits(tokens[:, :-1]))
    compare("training step", step_of(ours, ours, tokens), step_of(theirs, their_logits, tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main())
