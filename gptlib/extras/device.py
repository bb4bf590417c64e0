"""Choose where tensors live: the graphics card if it can be trusted, else the CPU."""

import os
import re

import torch
import torch.nn.functional as F

TOLERANCE = 1e-3
"""Largest difference from the CPU's numbers, which are of the order of 1, that is accepted."""


def best_device(option: str | None = None) -> torch.device:
    """Pick the fastest device whose numbers can be relied on.

    CUDA comes first. Apple's MPS is taken only after a small forward pass on it agreed with
    the CPU's, because some releases of it computed attention wrongly. Else it is the CPU.
    The environment variable `GPTLIB_DEVICE` (`cpu`, `cuda`, `cuda:1`, `mps`) overrides this.

    Args:
        option: What a command's `--device` says, which overrides all else.

    Raises:
        ValueError: if one of them names no device, or one that this machine lacks.

    Example:
        >>> best_device("cpu")
        device(type='cpu')
    """
    name = (option or os.environ.get("GPTLIB_DEVICE", "")).strip().lower()
    if not name:
        if torch.cuda.is_available():
            return torch.device("cuda")
        is_mps = torch.backends.mps.is_available() and _is_reliable(torch.device("mps"))
        return torch.device("mps" if is_mps else "cpu")
    said = f"{'--device' if option else 'GPTLIB_DEVICE'} is {name!r}"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ValueError(
            f"{said}; use cpu, cuda, cuda:N with a card's number N, or mps, or unset it to have "
            "the best device chosen"
        )
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{said}, but PyTorch sees {torch.cuda.device_count()} CUDA cards here; unset it, or "
            "install a CUDA build of PyTorch (see README)"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"{said}, but PyTorch sees no Apple graphics here; unset it, or set it to cpu"
        )
    return device


def agrees_with_cpu(device: torch.device | str) -> float:
    """Measure how far a device's forward pass is from the CPU's.

    The pass holds what a GPT is made of: a table look-up, layer normalisation, a linear
    layer, causal attention, GELU and a softmax, all on the same small random numbers.

    Returns:
        The largest absolute difference; 0 for the CPU itself, below `TOLERANCE` for a
        device that can be relied on, infinity if it produced a value that is no number.

    Example:
        >>> agrees_with_cpu("cpu")
        0.0
    """
    difference = (_forward(torch.device(device)) - _forward(torch.device("cpu"))).abs().max()
    return float(difference) if bool(difference.isfinite()) else float("inf")


def _forward(device: torch.device) -> torch.Tensor:
    """Run a small block on the device and bring its result to the CPU, (2, 16, 64)."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    tokens = torch.arange(32).view(2, 16).to(device)
    with torch.no_grad():
        x = F.embedding(tokens, random(32, 64))  # (B, T, C)
        x = F.layer_norm(x, (64,), random(64), random(64))
        qkv = F.linear(x, random(192, 64) / 8)
        q, k, v = qkv.view(2, 16, 3, 4, 16).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.transpose(1, 2).reshape(2, 16, 64)  # (B, T, C)
        x = F.gelu(F.linear(x, random(64, 64) / 8), approximate="tanh")
        return (x + F.log_softmax(x, dim=-1)).cpu()


def _is_reliable(device: torch.device) -> bool:
    """Whether the device computes the small forward pass at all, and rightly."""
    try:
        return agrees_with_cpu(device) <= TOLERANCE
    except RuntimeError:  # also an operation that the device does not implement
        return False
