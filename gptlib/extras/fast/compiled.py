"""A compiled decode step: one text at nearly the speed of the memory; and a compiled loss.

    from gptlib.extras.fast.compiled import compile_decode
    step = compile_decode(model)       # half a minute; then generate(model, ..., step=step)

A decode step reads every weight once, but between its matrix products stand hundreds of small
operations, and each product costs a start of its own. `torch.compile` makes of the whole step a
few loops in C++ that all threads share. It needs a C++ compiler on this machine. Prompts, and
several texts at once, take the way of every other model.
"""

import math
import time
from collections.abc import Callable
from itertools import count
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from gptlib.attention import Mix
from gptlib.extras.fast.onednn import onednn_twin, share_weights, swap_linears
from gptlib.generation import KeyValueCache, Step, decode_step
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.training import Loss, TrainingConfig, accumulate_gradients

_numbers = count()


class OneRowLinear(nn.Linear):
    """Map one row, x (1, 1, in), to (1, 1, out), in a form that compiles to one loop over W."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b."""
        # What is seen by such a view is stored first; else x were computed anew for each output,
        # and the result for each part of it that is used.
        row = x.as_strided((1, x.size(-1)), (x.size(-1), 1))
        result = (self.weight * row).sum(dim=-1)  # (out,)
        result = result if self.bias is None else result + self.bias
        return result.as_strided((1, 1, len(result)), (len(result), len(result), 1))


def look_back(position: Tensor, all_k: Tensor, all_v: Tensor) -> Mix:
    """Let one new query look at all keys, its own included, in a form that compiles to loops.

    Keys and values have shape (B, H, S, D).
    """

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # each (B, H, 1, D)
        all_k.index_copy_(2, position, k)
        all_v.index_copy_(2, position, v)
        scores = (q * all_k).sum(dim=-1) / math.sqrt(q.size(-1))  # (B, H, S)
        return (scores.softmax(dim=-1)[..., None] * all_v).sum(dim=2, keepdim=True)

    return mix


def compile_own(read: Callable[..., Tensor], dynamic: bool | None = None) -> Callable[..., Tensor]:
    """Compile a function that reads with a model's copy, which is nobody else's."""
    # PyTorch keeps what it compiled beside a function's code, for so many models and no more: each
    # model gets code of its own.
    function = cast(FunctionType, read)
    code = function.__code__.replace(co_name=f"read_{next(_numbers)}")
    own = FunctionType(code, function.__globals__, closure=function.__closure__)
    # Before each step it checks that all is as it was compiled. Checking each layer of the copy
    # would take some 0.3 ms, and does before PyTorch 2.8.
    skip = getattr(torch.compiler, "skip_guard_on_inbuilt_nn_modules_unsafe", None)
    options: Any = {"guard_filter_fn": skip} if skip else None
    return torch.compile(own, fullgraph=True, dynamic=dynamic, options=options)


def compile_decode(model: GPT) -> Step:
    """Make a decode step that writes one text nearly as fast as the memory gives the weights.

    The C++ is kept in PyTorch's cache on this machine, so that a second time takes a few seconds.
    Call `torch.set_num_threads` before, not after: another number of threads compiles anew.

    Args:
        model: In float32 on the CPU; it stays as it is, and shares its weights with the step.

    Raises:
        RuntimeError: If the step can't be compiled, for want of a C++ compiler for example.
    """
    weight = model.ln_f.weight
    precision = weight.dtype if isinstance(model.head, nn.Linear) else "int8"
    if weight.device.type != "cpu" or precision != torch.float32:
        raise ValueError(
            f"the model is in {precision} on {weight.device}; only float32 on the CPU can be "
            "compiled: call model.float().cpu() first"
        )
    one_row, several = share_weights(model), onednn_twin(model)
    swap_linears(one_row, OneRowLinear)

    def read(token: Tensor, position: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        mixes = [look_back(position, *both) for both in zip(keys, values, strict=True)]
        x = one_row.stream(token[None], mixes, position)  # (1, 1, C)
        return one_row.unembed(x)[0]  # (1, V)

    compiled = compile_own(read)
    _compile_now(compiled, model.config)

    def step(tokens: Tensor, cache: KeyValueCache) -> Tensor:
        n_free = cache.capacity - cache.length
        if len(tokens) > 1 or cache.is_padded or cache.length == 0 or n_free <= 1:
            return decode_step(several, tokens, cache)  # the compiled code is for another layout
        end = cache.length + 1
        parts = [[part[:, :, :end] for part in kept] for kept in (cache.keys, cache.values)]
        with torch.inference_mode():  # tensors made outside of it would need a step of their own
            logits: Tensor = compiled(
                torch.tensor(tokens.tolist()), torch.tensor([cache.length]), *parts
            )
        cache.length = end
        return logits

    return step


def _compile_now(compiled: Callable[..., Tensor], config: GPTConfig) -> None:
    """Take one step with an empty cache, and say that the length and room of a cache vary."""
    shape = (1, config.n_head, 7, config.head_size)
    rooms = [torch.zeros(shape) for _ in range(2 * config.n_layer)]
    parts = [room[:, :, :3] for room in rooms]
    for part in rooms + parts:
        torch._dynamo.mark_dynamic(part, 2)
    try:
        with torch.inference_mode():
            token, position = torch.tensor([0]), torch.tensor([0])
            compiled(token, position, parts[: config.n_layer], parts[config.n_layer :])
    except RuntimeError as error:
        raise RuntimeError(
            "the decode step could not be compiled; it needs a C++ compiler (Debian and Ubuntu: "
            "apt install g++; macOS: xcode-select --install). Without it, the model writes as it "
            f"is. PyTorch says: {' '.join(str(error).splitlines()[:2])}"
        ) from error


def compile_loss(model: GPT, config: TrainingConfig, loss: Loss) -> tuple[Loss, float, float]:
    """Compile a loss for `train`, and measure on random tokens what that costs and gains.

    On a CUDA card the compiled parts are replayed as CUDA graphs, unless gradients accumulate.

    Returns:
        The compiled loss, the seconds that it took, and the seconds by which each step is shorter.

    Raises:
        RuntimeError: If it can't be compiled, for want of a compiler for example.
    """
    is_graph = model.ln_f.weight.is_cuda and config.accumulation_steps == 1
    compiled = torch.compile(loss, mode="reduce-overhead" if is_graph else None)
    shape, device = (config.batch_size, model.config.context_length), model.ln_f.weight.device
    drawn = torch.randint(model.config.vocab_size, shape, generator=torch.Generator())
    tokens = drawn.to(device)
    batches = [(tokens, tokens)] * config.accumulation_steps

    def seconds(loss: Loss) -> float:
        start = time.perf_counter()
        accumulate_gradients(model, batches, loss, config.precision).item()
        model.zero_grad()
        return time.perf_counter() - start

    model.train()
    with torch.random.fork_rng():  # dropout draws here what it would draw in the first steps
        first, *later = (seconds(compiled) for _ in range(6))
        plain = [seconds(loss) for _ in range(4)]
    return compiled, first, min(plain) - min(later)
