"""Compare attention by hand with PyTorch's fused kernel: time and memory, side by side.

    python tests/benchmarks/attention.py

Each length is measured in a process of its own for memory, and in turns for time (medians), on
the CPU and, where there is one, on the CUDA device. The CPU's memory is read as Linux tells it;
elsewhere it is nan.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlib.attention import attend, causal_mask

Function = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q, k, v, causal_mask(q.size(-2), device=q.device))[0]


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


FUNCTIONS: dict[str, Function] = {"by_hand": by_hand, "fused": fused}


def inputs(length: int, device: str) -> list[Tensor]:
    """Make q, k and v for 8 sequences, 12 heads of 64 channels."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(8, 12, length, 64, generator=generator).to(device).requires_grad_()
        for _ in range(3)
    ]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(function: Function, qkv: list[Tensor], device: str) -> tuple[float, float]:
    """Return the seconds of a forward and of a backward pass."""
    synchronize(device)
    start = time.perf_counter()
    output = function(*qkv)
    synchronize(device)
    middle = time.perf_counter()
    torch.autograd.grad(output.sum(), qkv)
    synchronize(device)
    return middle - start, time.perf_counter() - middle


def peak_mebibytes(name: str, length: int, device: str) -> float:
    """Return what forward and backward add to the peak of memory, in MiB."""
    qkv = inputs(length, device)
    if device == "cuda":
        allocated = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds(FUNCTIONS[name], qkv, device)
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    return measured_peak(FUNCTIONS[name], qkv)


def measured_peak(function: Function, qkv: list[Tensor]) -> float:
    """Return what forward and backward pass add to this process's peak on a CPU, in MiB."""
    few = [x[:, :, :16].detach().requires_grad_() for x in qkv]
    seconds(function, few, "cpu")  # load what the first call loads
    if sys.platform != "linux":
        return float("nan")
    before = resident_mebibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    seconds(function, qkv, "cpu")
    return resident_mebibytes("VmHWM") - before


def resident_mebibytes(field: str) -> float:
    """Read this process's memory, now (VmRSS) or at its peak (VmHWM), as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10


def in_own_process(name: str, length: int, device: str) -> float:
    command = [sys.executable, __file__, "--peak", name, str(length), device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(length: int, device: str, rounds: int) -> str:
    qkv = inputs(length, device)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in FUNCTIONS}
    for number in range(rounds + 1):
        for name, function in FUNCTIONS.items():
            taken = seconds(function, qkv, device)
            if number:  # the first round warms up
                times[name].append(taken)
    (hand_f, hand_b), (fused_f, fused_b) = (
        tuple(1000 * statistics.median(part) for part in zip(*taken, strict=True))
        for taken in times.values()
    )
    hand_m, fused_m = (in_own_process(name, length, device) for name in FUNCTIONS)
    return (
        f"{device:<4} {length:>5} | {hand_f:8.2f} {fused_f:8.2f} {hand_f / fused_f:6.1f} | "
        f"{hand_b:8.2f} {fused_b:8.2f} {hand_b / fused_b:6.1f} | "
        f"{hand_m:8.0f} {fused_m:8.0f} {hand_m / max(fused_m, 0.1):6.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", nargs=3, metavar=("NAME", "LENGTH", "DEVICE"))
    arguments = parser.parse_args()
    if arguments.peak:
        name, length, device = arguments.peak
        print(peak_mebibytes(name, int(length), device))
        return
    print("8 sequences, 12 heads of 64 channels, float32; by hand, fused, ratio")
    print("device   T |        forward, ms       |       backward, ms       |     peak memory, MiB")
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for length in (64, 128, 256, 512, 1024):
            print(compare(length, device, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
