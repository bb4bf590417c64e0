"""Race GPT-2's wiring with others, and measure what attention costs in a long context.

    python tests/benchmarks/variants.py

The race is that of optimizers.py: the same small model, text and number of steps. The norms' rates
are tuned alike; window and strided attention learn at the rate of full attention.

In the long context, forward and backward pass of one attention are measured: medians of rounds in
turns for the time, and for the memory what a process of its own adds to its peak (on Linux).
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from attention import measured_peak, seconds
from optimizers import HEAD, SIZES, Contestant
from torch import Tensor

from gptlib.extras.variants import VariantConfig, may_look, mix_in_blocks

SMALL: dict[str, Any] = asdict(SIZES)
NORMS = {
    "pre": Contestant("pre norm, full attention", VariantConfig(**SMALL)),
    "post": Contestant("post norm, full attention", VariantConfig(**SMALL, norm="post")),
}
ATTENTIONS = [
    Contestant(f"pre norm, {kind} attention of 32", VariantConfig(**SMALL, attention=kind))
    for kind in ("window", "strided")
]
LENGTH, WINDOW = 2048, 64


def masked(config: VariantConfig, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as a variant does, by PyTorch's kernel with a mask."""
    places = torch.arange(q.size(-2))
    return F.scaled_dot_product_attention(q, k, v, may_look(config, places[:, None] - places))


WAYS: dict[str, Callable[..., Tensor]] = {
    "full, PyTorch's kernel": partial(F.scaled_dot_product_attention, is_causal=True)
}
for kind in ("window", "strided"):
    config = VariantConfig(attention=kind, window=WINDOW)
    WAYS[f"{kind}, PyTorch's kernel with a mask"] = partial(masked, config)
    WAYS[f"{kind}, in blocks"] = partial(mix_in_blocks, config, 0.0)


def inputs() -> list[Tensor]:
    """Make q, k and v for one sequence, 12 heads of 64 channels."""
    source = torch.Generator().manual_seed(0)
    shape = (1, 12, LENGTH, 64)
    return [torch.randn(shape, generator=source).requires_grad_() for _ in range(3)]


def compare(n_rounds: int, threads: int) -> str:
    """Write the table of times and memory."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    qkv = inputs()
    for number in range(n_rounds + 1):
        for name, way in WAYS.items():
            both = seconds(way, qkv, "cpu")
            times[name] += [both] if number else []  # the first round warms up
    lines = ["| attention | forward, ms | backward, ms | peak memory, MiB |\n|---|--:|--:|--:|"]
    for name, taken in times.items():
        command = [sys.executable, __file__, "--peak", name, "--threads", str(threads)]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        forward, backward = (1e3 * statistics.median(part) for part in zip(*taken, strict=True))
        lines.append(f"| {name} | {forward:.1f} | {backward:.1f} | {peak:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Race and measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(measured_peak(WAYS[arguments.peak], inputs()))
        return
    print(compare(arguments.rounds, arguments.threads), flush=True)
    rates = {name: norm.best_rate(1e-3, arguments.steps) for name, norm in NORMS.items()}
    rows = [norm.row(rates[name], arguments.seeds, arguments.steps) for name, norm in NORMS.items()]
    rows += [each.row(rates["pre"], arguments.seeds, arguments.steps) for each in ATTENTIONS]
    print("\n".join((HEAD, *rows)))


if __name__ == "__main__":
    main()
