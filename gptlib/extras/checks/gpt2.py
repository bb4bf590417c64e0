"""Checks of the exercises of chapter 4: each says what is right, or which step is off."""

from collections.abc import Callable
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlib.extras.checks.answers import (
    Answer,
    Wrong,
    close,
    named,
    number_of,
    run,
    says,
    tensor_of,
    what,
)
from gptlib.gpt2 import GPT, GPT2_SMALL, GPT2_XL, GPTConfig, count_parameters, flops_per_token


def _uses(answer: Answer, name: str) -> bool:
    return name in getattr(getattr(answer, "__code__", None), "co_names", ())


@says
def training_days(answer: Answer) -> str:
    """Check `training_days(config, n_tokens, flops_per_second)`, exercise 1."""
    cases = [(GPT2_SMALL, 1e10, 1e14), (GPT2_XL, 4e10, 3e14)]
    for config, n_tokens, rate in cases:
        got = number_of(answer, config, n_tokens, rate, wanted="of days")
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
            "flops_per_token is per token already; don't multiply by the length": (
                right * config.context_length
            ),
            "You divided the speed by the work": 1 / right,
            "You multiplied by the speed; divide by it": right * rate * rate,
        }
        if abs(got / right - 1) < 1e-6:
            continue
        for text, value in mistakes.items():
            if abs(got / value - 1) < 1e-6:
                return f"{text}."
        return f"Not yet: expected {right:.4g} days for {n_tokens:g} tokens, you say {got:.4g}."
    return "Correct: GPT-2 small and XL, two numbers of tokens and two speeds agree."


@says
def rms_norm(answer: Answer) -> str:
    """Check `rms_norm(x, gain, eps)`, exercise 2."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(2, 5, 8, generator=generator)  # (B, T, C)
    gain, eps = torch.rand(8, generator=generator) + 0.5, 1e-5
    try:
        got = tensor_of(answer, x.clone(), gain, eps, shape=(2, 5, 8))
    except Wrong as problem:
        hint = "\nKeep the dimension when you take the mean: keepdim=True."
        return f"{problem}{hint if 'must match the size of tensor' in str(problem) else ''}"
    if _uses(answer, "rms_norm") or _uses(answer, "RMSNorm"):
        return "Not yet: build it from its parts; PyTorch's own is what the check compares with."
    mean_square = x.square().mean(-1, keepdim=True)
    root, centred = (mean_square + eps).sqrt(), x - x.mean(-1, keepdim=True)
    deviation = "You divided by the standard deviation, which subtracts the mean inside"
    mistakes = {
        "You subtracted the mean; RMSNorm doesn't": F.layer_norm(x, (8,), gain, None, eps),
        "You divided by the mean of the squares; take its root": gain * x / (mean_square + eps),
        "You forgot the gain": F.rms_norm(x, (8,), None, eps),
        "You summed the squares; take their mean": gain * x / (mean_square * 8 + eps).sqrt(),
        "You took the mean over the whole tensor; take it over the channels, dim=-1": (
            gain * x / (x.square().mean() + eps).sqrt()
        ),
        "You took the mean over the positions; take it over the channels, dim=-1": (
            gain * x / (x.square().mean(-2, keepdim=True) + eps).sqrt()
        ),
        deviation: gain * x / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt(),
        f"{deviation} (and divides by C - 1)": gain * x / (x.var(-1, keepdim=True) + eps).sqrt(),
        "You subtracted the mean above the line; RMSNorm doesn't": gain * centred / root,
        "You multiplied by the root; divide by it": gain * x * root,
    }
    if not close(got, F.rms_norm(x, (8,), gain, eps)):
        mistake = named(got, mistakes)
        return f"{mistake or 'Not yet: the values differ from F.rms_norm(x, (8,), gain, eps)'}."
    small = x * 1e-3
    if not close(run(answer, small.clone(), gain, eps), F.rms_norm(small, (8,), gain, eps)):
        return "Nearly: for small x you differ from PyTorch; add eps inside the root."
    return "Correct: equal to F.rms_norm for numbers of usual size and for very small ones."


@says
def parameters(answer: Answer) -> str:
    """Check `parameters(config)`, exercise 3."""
    configs = [
        GPTConfig(),
        GPTConfig(vocab_size=1000, context_length=64, n_layer=3, n_head=2, n_embd=48),
        GPTConfig(vocab_size=77, context_length=10, n_layer=5, n_head=1, n_embd=6),
    ]
    results = [number_of(answer, config, wanted="of parameters") for config in configs]
    offs: dict[str, Callable[[GPTConfig], int]] = {
        "You counted the output layer too; it is the token embedding's own table": (
            lambda c: c.vocab_size * c.n_embd
        ),
        "You forgot the table of positions": lambda c: -c.context_length * c.n_embd,
        "You forgot the last norm, ln_f": lambda c: -2 * c.n_embd,
        "You forgot the norms in the blocks": lambda c: -4 * c.n_layer * c.n_embd,
        "You forgot all norms: a gain and a bias each, two in a block and ln_f": (
            lambda c: -(4 * c.n_layer + 2) * c.n_embd
        ),
        "You forgot the biases of the four matrices": lambda c: -9 * c.n_layer * c.n_embd,
        "You forgot the norms' biases; each norm has a gain and a bias": (
            lambda c: -(2 * c.n_layer + 1) * c.n_embd
        ),
        "You counted one block only; multiply by n_layer": (
            lambda c: -(c.n_layer - 1) * (12 * c.n_embd**2 + 13 * c.n_embd)
        ),
        "You forgot attention's output projection": lambda c: -c.n_layer * c.n_embd**2,
        "qkv makes three vectors, so it has 3C² weights; you counted C²": (
            lambda c: -2 * c.n_layer * c.n_embd**2
        ),
        "You forgot qkv's 3C² weights": lambda c: -3 * c.n_layer * c.n_embd**2,
        "You forgot qkv's 3C biases": lambda c: -3 * c.n_layer * c.n_embd,
        "2C are missing in each block: its two norms' biases, or two of qkv's three": (
            lambda c: -2 * c.n_layer * c.n_embd
        ),
    }
    expected = [count_parameters(config)["total"] for config in configs]
    if _uses(answer, "count_parameters"):
        return "Not yet: compute it from the configuration's numbers, without count_parameters."
    if results == expected:
        return "Correct: GPT-2 small and two small models have exactly as many."
    pairs = list(zip(configs, expected, results, strict=True))
    for text, off in offs.items():
        if all(got == right + off(config) for config, right, got in pairs):
            return f"{text}."
    for (text, off), (other, off_too) in combinations(offs.items(), 2):
        if all(got == right + off(config) + off_too(config) for config, right, got in pairs):
            return f"Two slips. {text}. {other}."
    config, right, got = next(pair for pair in pairs if pair[1] != pair[2])
    gap = f"{abs(got - right):,.0f} {'more' if got > right else 'fewer'}"
    return (
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


@says
def logits_by_depth(answer: Answer) -> str:
    """Check `logits_by_depth(model, tokens)`, exercise 4."""
    config = GPTConfig(vocab_size=23, context_length=8, n_layer=3, n_head=2, n_embd=12)
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(23, (2, 6), generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        got = run(answer, model, tokens)
        stream = [model.embed(tokens)]
        for block in model.blocks:
            stream.append(block(stream[-1]))
        right = torch.stack([model.unembed(x) for x in stream])  # (L + 1, B, T, V)
        twice = [model.unembed(model.ln_f(x)) for x in stream]
        no_norm = torch.stack([x @ model.embed.token_embedding.weight.T for x in stream])
        no_chain = torch.stack(
            [right[0], *(model.unembed(block(stream[0])) for block in model.blocks)]
        )
    if isinstance(got, list | tuple) and got and all(isinstance(x, Tensor) for x in got):
        return "Nearly: stack your list into one tensor with torch.stack."
    if not isinstance(got, Tensor):
        return f"Not yet: {what(got)}; return a tensor."
    mistakes = {
        "You left out the first entry, the logits straight after the embedding": right[1:],
        "You left out the last entry, the logits after the last block": right[:-1],
        "You multiplied by the table without ln_f; use model.unembed": no_norm,
        "You gave every block the embedding; each block reads what the one before made": no_chain,
        "You applied ln_f twice; model.unembed holds it already": torch.stack(twice),
        "Those are logarithms of probabilities; return the logits": right.log_softmax(-1),
        "Joined end to end; give the depth its own dimension with torch.stack": right.flatten(0, 1),
        "Those are vectors of the stream; make logits with model.unembed": torch.stack(stream),
        "Those are probabilities; return the logits": right.softmax(-1),
    }
    if mistake := named(got, mistakes):
        return f"{mistake}."
    if got.shape != right.shape:
        return f"Not yet: {what(got)}; (L + 1, B, T, V) is {tuple(right.shape)} here."
    if not close(got, right):
        return "Not yet: the shape is right, the logits differ from those of the model's stream."
    return "Correct: one row of logits per depth, and the last equals model(tokens)."
