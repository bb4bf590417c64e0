"""A model whose decode step is compiled: one text at nearly the speed of the memory.

    from gptlib.extras.compiled import compile_decode
    fast = compile_decode(model)       # half a minute; then generate(fast, ...) works as before

A decode step reads every weight once, but between its matrix products stand hundreds of small
operations, and each product costs a start of its own. `torch.compile` makes of the whole step a
few loops in C++ that all threads share. It needs a C++ compiler on this machine. Prompts, and
several texts at once, take the way of every other model.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.generation import KeyValueCache, decode, onednn_linear, share_weights, use_onednn
from gptlib.gpt2 import GPT

__all__ = ["CompiledGPT", "compile_decode"]

Step = Callable[[Tensor, Tensor, list[Tensor], list[Tensor]], Tensor]
"""From token (1,), position (1,), keys and values (1, H, S, D) per layer to logits (1, V)."""


class CompiledGPT(GPT):
    """A model for inference on a CPU; `gptlib.generation.decode` takes its compiled step."""

    step: Step

    def unembed(self, x: Tensor) -> Tensor:
        """Score every token of the vocabulary against the stream x (B, T, C)."""
        multiply = onednn_linear if torch.backends.mkldnn.is_available() else F.linear
        return multiply(self.ln_f(x), self.embed.token_embedding.weight)  # (B, T, V)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map one row, x (1, 1, in), to (1, 1, out), in a form that compiles to one loop over W."""
    row = x.as_strided((1, x.size(-1)), (x.size(-1), 1))  # the compiler stores x before such a view
    product = (weight * row).sum(dim=-1)  # (out,); else it would compute x anew for each output
    return (product if bias is None else product + bias)[None, None]


class _OneRowLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return _multiply(x, self.weight, self.bias)


class _OneRowGPT(GPT):
    def unembed(self, x: Tensor) -> Tensor:
        return _multiply(self.ln_f(x), self.embed.token_embedding.weight)

    def step(
        self, token: Tensor, position: Tensor, keys: list[Tensor], values: list[Tensor]
    ) -> Tensor:
        """Do for one token what `walk` and `unembed` do; see `Step`."""
        x = self.embed.token_embedding(token) + self.embed.position_embedding(position)  # (1, C)
        x = x[None]  # (1, 1, C)
        for block, all_k, all_v in zip(self.blocks, keys, values, strict=True):
            q, k, v = block.attn.project(block.ln_1(x))  # each (1, H, 1, D)
            all_k.index_copy_(2, position, k)
            all_v.index_copy_(2, position, v)
            scores = (q * all_k).sum(dim=-1) / math.sqrt(q.size(-1))  # (1, H, S)
            heads = (scores.softmax(dim=-1)[..., None] * all_v).sum(dim=2, keepdim=True)
            x = x + block.attn.merge(heads)
            x = x + block.mlp(block.ln_2(x))
        return self.unembed(x)[0]  # (1, V)


@decode.register
def _(model: CompiledGPT, tokens: Tensor, cache: KeyValueCache) -> Tensor:
    """Take the compiled step where there is one text, neither at its beginning nor at its end."""
    n_free = cache.capacity - cache.length
    if len(tokens) > 1 or cache.is_padded or cache.length == 0 or n_free <= 1:  # another layout
        return decode.dispatch(GPT)(model, tokens, cache)
    end = cache.length + 1
    keys, values = ([part[:, :, :end] for part in kept] for kept in (cache.keys, cache.values))
    with torch.inference_mode():  # tensors made outside of it would need a step of their own
        token, position = torch.tensor(tokens.tolist()), torch.tensor([cache.length])
        logits = model.step(token, position, keys, values)
    cache.length = end
    return logits


def compile_decode(model: GPT) -> CompiledGPT:
    """Make a twin of a model that writes one text nearly as fast as the memory gives its weights.

    The C++ is kept in PyTorch's cache on this machine, so that a second time takes a few seconds.
    Call `torch.set_num_threads` before, not after: another number of threads compiles anew.

    Args:
        model: The model in float32 on the CPU; it stays as it is, and shares its weights.

    Returns:
        The twin, in evaluation mode.

    Raises:
        ValueError: If the model is not in float32 on the CPU, or is of another class than `GPT`.
        RuntimeError: If the step can't be compiled, for want of a C++ compiler for example.

    Example:
        >>> from gptlib.generation import generate
        >>> fast = compile_decode(model)                # doctest: +SKIP
        >>> list(generate(fast, [464, 3290], 20))       # doctest: +SKIP
    """
    weight = model.ln_f.weight
    if type(model) is not GPT or weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(
            f"the model is a {type(model).__name__} in {weight.dtype} on {weight.device}; only a "
            "plain GPT in float32 on the CPU can be compiled: call model.float().cpu() first"
        )
    one_row = share_weights(model).eval()
    one_row.__class__ = _OneRowGPT
    for layer in one_row.modules():
        if type(layer) is nn.Linear:
            layer.__dict__.pop("forward", None)  # left there by `multiply_in_onednn`
            layer.__class__ = _OneRowLinear
    twin = use_onednn(share_weights(model).eval())  # for prompts, and several texts at once
    twin.__class__ = CompiledGPT
    twin = cast(CompiledGPT, twin)
    # Before each step PyTorch checks that all is as it was compiled; the layers of this copy are
    # nobody else's, and checking each of them would take some 0.3 ms.
    options = {"guard_filter_fn": torch.compiler.skip_guard_on_inbuilt_nn_modules_unsafe}
    twin.step = torch.compile(  # type: ignore[call-overload]
        cast(_OneRowGPT, one_row).step, fullgraph=True, isolate_recompiles=True, options=options
    )
    _compile_now(twin)
    return twin


def _compile_now(model: CompiledGPT) -> None:
    """Take one step with an empty cache, and say that the length and room of a cache vary."""
    config = model.config
    shape = (1, config.n_head, 7, config.head_size)
    rooms = [torch.zeros(shape) for _ in range(2 * config.n_layer)]
    parts = [room[:, :, :3] for room in rooms]
    for part in rooms + parts:
        torch._dynamo.mark_dynamic(part, 2)
    try:
        with torch.inference_mode():
            token, position = torch.tensor([0]), torch.tensor([0])
            model.step(token, position, parts[: config.n_layer], parts[config.n_layer :])
    except RuntimeError as error:
        raise RuntimeError(
            "the decode step could not be compiled; it needs a C++ compiler (Debian and Ubuntu: "
            "apt install g++; macOS: xcode-select --install). Without it, the model writes as it "
            f"is. PyTorch says: {' '.join(str(error).splitlines()[:2])}"
        ) from error
