"""Train on a CPU with another library for the matrix products, which on some CPUs is twice as fast.

    from gptlib.extras.onednn import multiply_in_onednn
    multiply_in_onednn(model)          # then train(model, ...) as before

PyTorch leaves float32 products on x86 to MKL, which does not use the widest registers of other
makers' CPUs; oneDNN, which PyTorch brings as well and uses for half precision, does. Results agree
up to rounding. `python -m gptlib train --onednn` does the same.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.generation import onednn_linear
from gptlib.gpt2 import GPT

__all__ = ["multiply_in_onednn"]


class _Product(torch.autograd.Function):
    """Compute x Wᵀ + b in oneDNN, and both products of its backward pass too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map x, shape (..., in), to (..., out)."""
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, W and b, those that are asked for."""
        x, weight = ctx.saved_tensors
        gradient, wanted = gradients[0].contiguous(), ctx.needs_input_grad
        rows = gradient.flatten(0, -2)  # (n, out)
        return (
            onednn_linear(gradient, weight.T) if wanted[0] else None,
            onednn_linear(rows.T, x.flatten(0, -2).T) if wanted[1] else None,
            rows.sum(dim=0) if wanted[2] else None,
        )


def _multiply(layer: nn.Linear, x: Tensor) -> Tensor:
    plain = x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    if plain or type(layer.weight) is not nn.Parameter:  # sharded ones are of a class of their own
        return F.linear(x, layer.weight, layer.bias)
    product: Tensor = _Product.apply(x, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return product


def multiply_in_onednn(model: GPT) -> None:
    """Let the blocks of a model multiply in oneDNN, forward and backward.

    Names in the state dict stay what they were; a second call changes nothing. Where oneDNN can't
    be used (another device or precision), the layers do what they did before.

    Args:
        model: The model, changed in place.

    Raises:
        ValueError: If PyTorch was built without oneDNN.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=9, context_length=4, n_layer=1, n_head=1, n_embd=4))
        >>> multiply_in_onednn(model)
        >>> model(torch.tensor([[1, 2]])).shape
        torch.Size([1, 2, 9])
    """
    if not torch.backends.mkldnn.is_available():
        raise ValueError("this PyTorch was built without oneDNN; leave the option out")
    for layer in (part for block in model.blocks for part in block.modules()):
        if type(layer) is nn.Linear:
            layer.forward = partial(_multiply, layer)  # type: ignore[method-assign]
