"""Checks of the exercises of chapter 4: each says what is right, or which step is off."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlib.gpt2 import GPT, GPT2_SMALL, GPT2_XL, GPTConfig, count_parameters, flops_per_token

_UNFINISHED = "Not done yet: put your code in place of the dots, then run the cell again."


def _call(answer: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Return the answer and an empty text, or None and what went wrong."""
    try:
        result = answer(*arguments)
    except NotImplementedError:
        return None, _UNFINISHED
    except Exception as error:  # a learner's mistake is the thing to report
        return None, f"Not yet: your function stopped with {type(error).__name__}: {error}"
    if result is ... or result is NotImplemented:
        return None, _UNFINISHED
    return result, "Not done yet: your function returns None." if result is None else ""


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, int | float) and value == value else None


def _uses(answer: Callable[..., Any], name: str) -> bool:
    """Return whether the function's own code names `name`."""
    return name in getattr(getattr(answer, "__code__", None), "co_names", ())


def training_days(answer: Callable[[GPTConfig, float, float], float]) -> None:
    """Check `training_days(config, n_tokens, flops_per_second)`, exercise 1."""
    cases = [(GPT2_SMALL, 1e10, 1e14), (GPT2_XL, 4e10, 3e14)]
    for config, n_tokens, rate in cases:
        result, problem = _call(answer, config, n_tokens, rate)
        got = _number(result)
        if problem or got is None:
            print(problem or f"Not yet: {result!r} is not a number of days.")
            return
        flops = flops_per_token(config)
        right = flops["training"] * n_tokens / rate / 86_400
        rule = 6 * count_parameters(config)["total"] / flops["training"]
        mistakes = {
            "That is the forward pass alone; training costs three times as much": right / 3,
            "You left out the forward pass: the backward pass alone is two thirds": right * 2 / 3,
            "Those are seconds; a day has 86,400": right * 86_400,
            "Those are hours; a day has 24 of them": right * 24,
            "You left out the attention scores": right * flops["matrices"] / flops["forward"],
            "That is for one token; multiply by the number of tokens": right / n_tokens,
            "That is 6 times the parameters: a good rule, but without attention": right * rule,
            '"training" holds the factor 3 already; don\'t multiply by it again': right * 3,
            "flops_per_token is per token already; don't multiply by the length": right
            * config.context_length,
            "You divided the speed by the work": 1 / right,
            "You multiplied by the speed; divide by it": right * rate * rate,
        }
        if abs(got / right - 1) < 1e-6:
            continue
        for text, value in mistakes.items():
            if abs(got / value - 1) < 1e-6:
                print(f"{text}.")
                return
        print(f"Not yet: expected {right:.4g} days for {n_tokens:g} tokens, you say {got:.4g}.")
        return
    print("Correct: GPT-2 small and XL, two numbers of tokens and two speeds agree.")


def rms_norm(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Check `rms_norm(x, gain, eps)`, exercise 2."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(2, 5, 8, generator=generator)  # (B, T, C)
    gain, eps = torch.rand(8, generator=generator) + 0.5, 1e-5
    got, problem = _call(answer, x.clone(), gain, eps)
    if "must match the size of tensor" in problem:
        problem += "\nKeep the dimension when you take the mean: keepdim=True."
    if problem or not isinstance(got, Tensor):
        print(problem or f"Not yet: return a tensor, not {type(got).__name__}.")
        return
    if _uses(answer, "rms_norm") or _uses(answer, "RMSNorm"):
        print("Not yet: build it from its parts; PyTorch's own is what the check compares with.")
        return
    if got.shape != x.shape:
        print(f"Not yet: the result has shape {tuple(got.shape)}, x has {tuple(x.shape)}.")
        return
    small = x * 1e-3
    mean_square = x.square().mean(-1, keepdim=True)
    root = (mean_square + eps).sqrt()
    deviation = "You divided by the standard deviation, which subtracts the mean inside"
    mistakes = {
        "You subtracted the mean; RMSNorm doesn't": F.layer_norm(x, (8,), gain, None, eps),
        "You divided by the mean of the squares; take its root": gain * x / (mean_square + eps),
        "You forgot the gain": F.rms_norm(x, (8,), None, eps),
        "You summed the squares; take their mean": gain * x / (mean_square * 8 + eps).sqrt(),
        "You took the mean over the whole tensor; take it over the channels, dim=-1": gain
        * x
        / (x.square().mean() + eps).sqrt(),
        "You took the mean over the positions; take it over the channels, dim=-1": gain
        * x
        / (x.square().mean(-2, keepdim=True) + eps).sqrt(),
        deviation: gain * x / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt(),
        f"{deviation} (and divides by C - 1)": gain * x / (x.var(-1, keepdim=True) + eps).sqrt(),
        "You subtracted the mean above the line; RMSNorm doesn't": gain
        * (x - x.mean(-1, keepdim=True))
        / root,
        "You multiplied by the root; divide by it": gain * x * root,
    }
    if not torch.allclose(got, F.rms_norm(x, (8,), gain, eps), atol=1e-5):
        for text, value in mistakes.items():
            if torch.allclose(got, value, atol=1e-4):  # wherever eps stands
                print(f"{text}.")
                return
        print("Not yet: the values differ from F.rms_norm(x, (8,), gain, eps).")
        return
    got, _ = _call(answer, small.clone(), gain, eps)
    if not torch.allclose(got, F.rms_norm(small, (8,), gain, eps), atol=1e-5):
        print("Nearly: for small x you differ from PyTorch; add eps inside the root.")
        return
    print("Correct: equal to F.rms_norm for numbers of usual size and for very small ones.")


def parameters(answer: Callable[[GPTConfig], int]) -> None:
    """Check `parameters(config)`, exercise 3."""
    configs = [
        GPTConfig(),
        GPTConfig(vocab_size=1000, context_length=64, n_layer=3, n_head=2, n_embd=48),
        GPTConfig(vocab_size=77, context_length=10, n_layer=5, n_head=1, n_embd=6),
    ]
    results = []
    for config in configs:
        result, problem = _call(answer, config)
        got = _number(result)
        if problem or got is None:
            print(problem or f"Not yet: {result!r} is not a number.")
            return
        results.append(got)
    offs: list[tuple[str, Callable[[GPTConfig], int]]] = [
        (
            "You counted the output layer too; it is the token embedding's own table",
            lambda c: c.vocab_size * c.n_embd,
        ),
        ("You forgot the table of positions", lambda c: -c.context_length * c.n_embd),
        ("You forgot the last norm, ln_f", lambda c: -2 * c.n_embd),
        ("You forgot the norms in the blocks", lambda c: -4 * c.n_layer * c.n_embd),
        (
            "You forgot all norms: a gain and a bias each, two in a block and ln_f",
            lambda c: -(4 * c.n_layer + 2) * c.n_embd,
        ),
        ("You forgot the biases of the four matrices", lambda c: -9 * c.n_layer * c.n_embd),
        (
            "You forgot the norms' biases; each norm has a gain and a bias",
            lambda c: -(2 * c.n_layer + 1) * c.n_embd,
        ),
        (
            "You counted one block only; multiply by n_layer",
            lambda c: -(c.n_layer - 1) * (12 * c.n_embd**2 + 13 * c.n_embd),
        ),
        ("You forgot attention's output projection", lambda c: -c.n_layer * c.n_embd**2),
        (
            "qkv makes three vectors, so it has 3C² weights; you counted C²",
            lambda c: -2 * c.n_layer * c.n_embd**2,
        ),
        ("You forgot qkv's 3C² weights", lambda c: -3 * c.n_layer * c.n_embd**2),
        ("You forgot qkv's 3C biases", lambda c: -3 * c.n_layer * c.n_embd),
        (
            "2C are missing in each block: its two norms' biases, or two of qkv's three",
            lambda c: -2 * c.n_layer * c.n_embd,
        ),
    ]
    expected = [count_parameters(config)["total"] for config in configs]
    if _uses(answer, "count_parameters"):
        print("Not yet: compute it from the configuration's numbers, without count_parameters.")
        return
    if results == expected:
        print("Correct: GPT-2 small and two small models have exactly as many.")
        return
    pairs = list(zip(configs, expected, results, strict=True))
    for text, off in offs:
        if all(got == right + off(config) for config, right, got in pairs):
            print(f"{text}.")
            return
    for (text, off), (other, off_too) in combinations(offs, 2):
        if all(got == right + off(config) + off_too(config) for config, right, got in pairs):
            print(f"Two slips. {text}. {other}.")
            return
    config, right, got = next(pair for pair in pairs if pair[1] != pair[2])
    gap = f"{abs(got - right):,.0f} {'more' if got > right else 'fewer'}"
    print(
        f"Not yet: {config.n_layer} layers of width {config.n_embd} need {right:,}; "
        f"you say {got:,.0f}, {gap}{_in_terms_of_c(pairs)}."
    )


def _in_terms_of_c(pairs: list[tuple[GPTConfig, int, float]]) -> str:
    """Say what the gap is in each block, if it is a whole number of C or of C² everywhere."""
    for unit, power in (("C²", 2), ("C", 1)):
        shares = {(got - right) / (c.n_layer * c.n_embd**power) for c, right, got in pairs}
        share = shares.pop()
        if not shares and share == int(share):
            return f": {abs(share):.0f}{unit} in each block"
    return ""


def logits_by_depth(answer: Callable[[GPT, Tensor], Tensor]) -> None:
    """Check `logits_by_depth(model, tokens)`, exercise 4."""
    config = GPTConfig(vocab_size=23, context_length=8, n_layer=3, n_head=2, n_embd=12)
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(23, (2, 6), generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        got, problem = _call(answer, model, tokens)
        stream = [model.embed(tokens)]
        for block in model.blocks:
            stream.append(block(stream[-1]))
        right = torch.stack([model.unembed(x) for x in stream])  # (L + 1, B, T, V)
        twice = [model.unembed(model.ln_f(x)) for x in stream]
        no_norm = torch.stack([x @ model.embed.token_embedding.weight.T for x in stream])
        no_chain = torch.stack(
            [right[0], *(model.unembed(block(stream[0])) for block in model.blocks)]
        )
    if problem:
        print(problem)
        return
    if isinstance(got, list | tuple) and got and all(isinstance(x, Tensor) for x in got):
        print("Nearly: stack your list into one tensor with torch.stack.")
        return
    if not isinstance(got, Tensor):
        print(f"Not yet: return a tensor, not {type(got).__name__}.")
        return
    named = {
        "You left out the first entry, the logits straight after the embedding": right[1:],
        "You left out the last entry, the logits after the last block": right[:-1],
        "You multiplied by the table without ln_f; use model.unembed": no_norm,
        "You gave every block the embedding; each block reads what the one before made": no_chain,
        "You applied ln_f twice; model.unembed holds it already": torch.stack(twice),
        "Those are logarithms of probabilities; return the logits": right.log_softmax(-1),
        "Joined end to end; give the depth its own dimension with torch.stack": right.flatten(0, 1),
        "Those are vectors of the stream; turn each into logits with model.unembed": torch.stack(
            stream
        ),
        "Those are probabilities; return the logits": right.softmax(-1),
    }
    for text, value in named.items():
        if got.shape == value.shape and torch.allclose(got, value, atol=1e-5):
            print(f"{text}.")
            return
    if got.shape != right.shape:
        print(f"Not yet: the shape is {tuple(got.shape)}; (L + 1, B, T, V) is "
              f"{tuple(right.shape)} here.")  # fmt: skip
    elif not torch.allclose(got, right, atol=1e-5):
        print("Not yet: the shape is right, the logits differ from those of the model's stream.")
    else:
        print("Correct: one row of logits per depth, and the last equals model(tokens).")
