"""Matrix products in oneDNN: on some CPUs at three times the speed, for writing and for training.

    from gptlib.extras.fast.onednn import multiply_in_onednn, onednn_loss
    multiply_in_onednn(model)
    train(model, ..., loss=onednn_loss)

On x86, PyTorch leaves float32 products to MKL. MKL doesn't use the widest registers of other
makers' CPUs, and on some it reads a large matrix with one thread. oneDNN, which PyTorch brings as
well and uses for half precision, does both. Results agree up to rounding.
"""

import copy
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.gpt2 import GPT, MLP, GPTConfig
from gptlib.scaling import chunked_loss

LEAST = 2**18
"""Weights of a matrix from which on oneDNN is worth it; below, a call costs more than it saves."""


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x Wᵀ + b without gradients, in oneDNN if it is in float32 on the CPU."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    # oneDNN first copies a transposed x, so let that be the smaller one.
    if bias is None and x.dim() == 2 and x.stride(0) == 1 and x.numel() > weight.numel():
        return multiply(weight, x).T
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # no activation


class _Product(torch.autograd.Function):
    """Compute x Wᵀ + b in oneDNN, and both products of its backward pass too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map x, shape (..., in), to (..., out)."""
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, W and b, those that are asked for."""
        x, weight = ctx.saved_tensors
        gradient, wanted = gradients[0].contiguous(), ctx.needs_input_grad
        rows = gradient.flatten(0, -2)  # (n, out)
        return (
            multiply(gradient, weight.T) if wanted[0] else None,
            multiply(rows.T, x.flatten(0, -2).T) if wanted[1] else None,
            rows.sum(dim=0) if wanted[2] else None,
        )


class OneDNNLinear(nn.Linear):
    """A linear layer that multiplies in oneDNN where it can, and as any other where it can't."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (..., in), to (..., out)."""
        is_float32 = x.dtype == torch.float32 and x.device.type == "cpu"
        # The weights of a model in shards are no plain parameters; only PyTorch knows them.
        is_plain = is_float32 and type(self.weight) is nn.Parameter
        if not is_plain or torch.is_autocast_enabled("cpu"):
            return F.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return multiply(x, self.weight, self.bias)
        if torch.compiler.is_compiling():  # which knows no oneDNN where gradients are asked for
            return F.linear(x, self.weight, self.bias)
        product: Tensor = _Product.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product


def swap_linears(model: nn.Module, kind: type[nn.Linear], least: int = 0) -> None:
    """Put layers of another kind in the place of a model's linear layers; the weights stay.

    Layers with fewer weights than `least`, and the names in the state dictionary, stay as they are.
    """
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.Linear) and layer.weight.numel() >= least:
                has_bias = layer.bias is not None
                new = kind(layer.in_features, layer.out_features, has_bias, device="meta")
                new.weight, new.bias = layer.weight, layer.bias
                for hook in layer._forward_hooks.values():  # as that of a padded vocabulary
                    new.register_forward_hook(hook)
                setattr(parent, name, new.train(layer.training))


def share_weights(model: GPT) -> GPT:
    """Copy a model's modules for writing, but not its weights: the twin's are the model's own."""
    shared = {id(part): part for part in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared).eval()  # what is in `shared` is not copied


def onednn_twin(model: GPT) -> GPT:
    """Copy a model for writing, its weights shared and its large matrices multiplied in oneDNN."""
    twin, weight = share_weights(model), model.ln_f.weight
    is_float32_on_cpu = weight.dtype == torch.float32 and weight.device.type == "cpu"
    if is_float32_on_cpu and torch.backends.mkldnn.is_available():
        swap_linears(twin, OneDNNLinear, LEAST)
    return twin


def multiply_in_onednn(model: nn.Module, least: int = 0) -> None:
    """Let a model multiply by matrices of `least` weights or more in oneDNN, also backward.

    The model is changed in place; a second call changes nothing. Where oneDNN can't be used
    (another device or precision), the layers do what they did before. `onednn_loss` does the same
    for `chunked_loss`, which takes the output layer's weight for itself.
    """
    if not torch.backends.mkldnn.is_available():
        raise ValueError("this PyTorch was built without oneDNN; train with --onednn=false")
    swap_linears(model, OneDNNLinear, least)


def onednn_loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Measure `chunked_loss`, its products in oneDNN where it can."""
    linear = F.linear if torch.compiler.is_compiling() else multiply
    return chunked_loss(model, inputs, targets, linear)


def onednn_pays(sizes: GPTConfig) -> bool:
    """Measure whether a model of these sizes learns faster in oneDNN, in less than a second.

    256 tokens go through the output layer as `onednn_loss` takes it, and through an MLP if
    that is large; in turns by PyTorch's own products and by oneDNN's, and the quickest of three
    counts. oneDNN has to be a tenth faster, so that a model for which it is all the same gets the
    same numbers each time.
    """
    table, mlp = torch.ones(min(sizes.vocab_size, 8192), sizes.n_embd), MLP(sizes)
    has_large_layers = sizes.n_embd * sizes.hidden_size >= LEAST
    is_small = table.numel() < LEAST and not has_large_layers
    if is_small or not torch.backends.mkldnn.is_available():
        return False
    swapped = copy.deepcopy(mlp)
    multiply_in_onednn(swapped)
    x = torch.ones(256, sizes.n_embd)
    seconds: list[list[float]] = [[], []]
    for _ in range(4):  # the first time warms up
        for times, linear, layers in zip(
            seconds, (F.linear, multiply), (mlp, swapped), strict=True
        ):
            start = time.perf_counter()
            logits = linear(x, table)
            linear(logits, table.T)  # as for the gradient of x
            linear(logits.T, x.T)  # and for that of the table
            if has_large_layers:
                layers(x).sum().backward()
            times.append(time.perf_counter() - start)
    own, onednn = (min(times[1:]) for times in seconds)
    return own > 1.1 * onednn
