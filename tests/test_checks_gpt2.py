"""The checks of the chapter on the model know the unfinished, each mistake, and the right."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.extras.checks import gpt2 as checks
from gptlib.extras.checks import yours
from gptlib.extras.models import load_model
from gptlib.gpt2 import GPT, MLP, Block, GPTConfig, count_parameters, initialize

Function = Callable[..., Any]


def said(capsys: pytest.CaptureFixture[str], check: Function, answer: Any) -> str:
    check(answer)
    return capsys.readouterr().out


def normed(
    *dims: int, unbiased: bool = False, finish: Function | None = None, root: Function | None = None
) -> Function:
    """A layer normalisation with some of its steps exchanged for wrong ones."""
    root = root or (lambda variance, eps: (variance + eps).sqrt())
    finish = finish or (lambda y, gain, bias: gain * y + bias)

    def function(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
        over = dims or (-1,)
        variance = x.var(over, unbiased=unbiased, keepdim=True)
        y = (x - x.mean(over, keepdim=True)) / root(variance, eps)
        return finish(y, gain, bias)

    return function


def by_squares(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(dim=-1).unsqueeze(-1)
    variance = (x**2).mean(-1, True) - mean**2
    return (x - mean) * torch.rsqrt(variance + eps) * gain + bias


NORMS: dict[str, Function] = {
    "Not written yet": lambda x, g, b, eps=1e-5: None,
    "Correct": normed(),
    "write it by hand": lambda x, g, b, eps=1e-5: F.layer_norm(x, (8,), g, b, eps),
    "without PyTorch's own": lambda x, g, b, eps=1e-5: F.group_norm(
        x.reshape(-1, 8), 1, g, b, eps
    ).view_as(x),
    "by hand, without PyTorch's own": lambda x, g, b, eps=1e-5: g * F.instance_norm(x) + b,
    "average (x - μ)²": by_squares,
    "you change the caller's x": lambda x, g, b, eps=1e-5: (
        x.sub_(x.mean(-1, keepdim=True)) / (x.square().mean(-1, keepdim=True) + eps).sqrt() * g + b
    ),
    "you don't use it": lambda x, g, b, eps=1e-5: normed()(x, g, b),
    "divided by C - 1": normed(unbiased=True),
    "eps is outside the root": normed(root=lambda v, eps: v.sqrt() + eps),
    "eps is missing": normed(root=lambda v, eps: v.sqrt()),
    "the square root is missing": normed(root=lambda v, eps: v + eps),
    "divide by it": normed(root=lambda v, eps: 1 / (v + eps).sqrt()),
    "the variance is their mean": normed(root=lambda v, eps: (8 * v + eps).sqrt()),
    "but nothing is divided": normed(root=lambda v, eps: 1),
    "gain and bias are missing": normed(finish=lambda y, g, b: y),
    "the gain is missing": normed(finish=lambda y, g, b: y + b),
    "the bias is missing": normed(finish=lambda y, g, b: g * y),
    "before the gain multiplies": normed(finish=lambda y, g, b: g * (y + b)),
    "yours are over the positions)": normed(1),
    "yours are over the batch": normed(0),
    "yours are over everything": normed(0, 1, 2),
    "over the positions too": normed(1, 2),
    "over the batch and the positions": normed(0, 1),
    "(x - μ)², not of x²": lambda x, g, b, eps=1e-5: (
        g * (x - x.mean(-1, keepdim=True)) / (x.square().mean(-1, keepdim=True) + eps).sqrt() + b
    ),
    "gain and bias are swapped": normed(finish=lambda y, g, b: b * y + g),
    "half the variance, not by its root. In Python": normed(root=lambda v, eps: (v + eps) ** 1 / 2),
    "by the variance and by 2": lambda x, g, b, eps=1e-5: (
        g * (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps) ** 1 / 2
        + b
    ),
    "take their number from x": lambda x, g, b, eps=1e-5: by_eighths(x, g, b, eps),
    "raised RuntimeError": lambda x, g, b, eps=1e-5: normed()(x.view(-1, 5, 8), g, b, eps),
    "the mean is not subtracted": lambda x, g, b, eps=1e-5: (
        g * x / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt() + b
    ),
    "neither above the line": lambda x, g, b, eps=1e-5: (
        g * x / (x.square().mean(-1, keepdim=True) + eps).sqrt() + b
    ),
    "don't add 1": normed(finish=lambda y, g, b: (1 + g) * y + b),
    "layer_norm takes x, gain": lambda x, g, b: normed()(x, g, b),
    "keepdim=True": lambda x, g, b, eps=1e-5: g * (x - x.mean(-1)) / x.std(-1) + b,
    "no gradient comes back": lambda x, g, b, eps=1e-5: normed()(x.detach(), g, b, eps),
    "through the variance": normed(root=lambda v, eps: (v + eps).sqrt().detach()),
    "through the mean;": lambda x, g, b, eps=1e-5: (
        g * (x - x.mean(-1, True).detach()) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()
        + b
    ),
    "through the mean and the variance": lambda x, g, b, eps=1e-5: (
        g * (x - x.mean(-1, True).detach()) / (x.var(-1, False, True).detach() + eps).sqrt() + b
    ),
    "the gradient of x should hold": lambda x, g, b, eps=1e-5: (
        normed()(x, g, b, eps) + x - x.detach()
    ),
    "math's functions take one number": normed(root=lambda v, eps: math.sqrt(v + eps)),
    "NumPy and Python numbers": lambda x, g, b, eps=1e-5: torch.from_numpy(
        normed()(torch.from_numpy(x.numpy()), g, b, eps).numpy()
    ),
    "+= or another change in place": lambda x, g, b, eps=1e-5: narrowed(x, eps) * g + b,
    "must be a tensor; you return list": lambda x, g, b, eps=1e-5: x.tolist(),
    "must have shape": lambda x, g, b, eps=1e-5: x[0],
    "should hold other numbers": lambda x, g, b, eps=1e-5: 7 * x,
}


@pytest.mark.parametrize("expected", NORMS)
def test_layer_norm(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(capsys, checks.layer_norm, NORMS[expected])


def by_eighths(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Right for 8 channels alone."""
    centred = x - x.sum(-1, keepdim=True) / 8
    return gain * centred / (centred.square().sum(-1, keepdim=True) / 8 + eps).sqrt() + bias


def narrowed(x: Tensor, eps: float) -> Tensor:
    """Right in value; the backward pass needs what the division overwrites."""
    centred = x - x.mean(-1, keepdim=True)
    centred /= (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred


ROOT = math.sqrt(2 / math.pi)


def tanh_form(
    inner: Function = lambda x: ROOT * (x + 0.044715 * x**3),
    outer: Function = lambda x, t: x / 2 * (1 + t),
) -> Function:
    return lambda x: outer(x, torch.tanh(inner(x)))


GELUS: dict[str, Function] = {
    "Not written yet": lambda x: ...,
    "Correct": lambda x: x * (2 * ROOT * (x + 0.044715 * x * x * x)).sigmoid(),
    "write it by hand": lambda x: F.gelu(x, approximate="tanh"),
    "the exact GELU": lambda x: x / 2 * (1 + torch.erf(x / 2**0.5)),
    "that is ReLU": lambda x: x.clamp(min=0),
    "the half is missing": tanh_form(outer=lambda x, t: x * (1 + t)),
    "the 1 + is missing": tanh_form(outer=lambda x, t: x / 2 * t),
    "factor √(2/π) is missing": tanh_form(lambda x: x + 0.044715 * x**3),
    "must multiply x³ too": tanh_form(lambda x: ROOT * x + 0.044715 * x**3),
    "the root of 2/π": tanh_form(lambda x: 2 / math.pi * (x + 0.044715 * x**3)),
    "2/π is halved": tanh_form(lambda x: (2 / math.pi) ** 1 / 2 * (x + 0.044715 * x**3)),
    "the x³ is missing": tanh_form(lambda x: ROOT * x),
    "multiplies x³, not x": tanh_form(lambda x: ROOT * (0.044715 * x + x**3)),
    "you took x²": tanh_form(lambda x: ROOT * (x + 0.044715 * x**2)),
    "you took 3x": tanh_form(lambda x: ROOT * (x + 0.044715 * x * 3)),
    "is cubed too": tanh_form(lambda x: ROOT * (x + (0.044715 * x) ** 3)),
    "the whole sum is cubed": tanh_form(lambda x: ROOT * (x + 0.044715 * x) ** 3),
    "multiplies x³ alone": tanh_form(lambda x: ROOT * (x + 0.044715) * x**3),
    "0.044715 x³; you subtract": tanh_form(lambda x: ROOT * (x - 0.044715 * x**3)),
    "1 + tanh; you subtract": tanh_form(outer=lambda x, t: x / 2 * (1 - t)),
    "the 1 and the tanh": tanh_form(outer=lambda x, t: x / 2 * 1 + t),
    "multiplies the tanh too": tanh_form(outer=lambda x, t: x / 2 * t + 1),
    "the tanh is missing": lambda x: x / 2 * (1 + ROOT * (x + 0.044715 * x**3)),
    "not √(π/2)": tanh_form(lambda x: math.sqrt(math.pi / 2) * (x + 0.044715 * x**3)),
    "not of 2 alone": tanh_form(lambda x: math.sqrt(2) / math.pi * (x + 0.044715 * x**3)),
    "not of π alone": tanh_form(lambda x: 2 / math.sqrt(math.pi) * (x + 0.044715 * x**3)),
    "it is 0.044715, not 0.44715": tanh_form(lambda x: ROOT * (x + 0.44715 * x**3)),
    "it is 0.044715, not 0.0044715": tanh_form(lambda x: ROOT * (x + 0.0044715 * x**3)),
    "√(2/π) is not 0.8;": tanh_form(lambda x: 0.8 * (x + 0.044715 * x**3)),
    "√(2/π) is not 0.798;": tanh_form(lambda x: 0.798 * (x + 0.044715 * x**3)),
    "π is not 3.14;": tanh_form(lambda x: math.sqrt(2 / 3.14) * (x + 0.044715 * x**3)),
    "it is 0.044715, not 0.04715": tanh_form(lambda x: ROOT * (x + 0.04715 * x**3)),
    "+= or another change in place": lambda x: x / 2 * (1 + torch.tanh(ROOT * risen(x))),
    "the x in front is missing": tanh_form(outer=lambda x, t: (1 + t) / 2),
    "form with a sigmoid": lambda x: x * (1.702 * x).sigmoid(),
    "that is SiLU": lambda x: x * x.sigmoid(),
    "torch's take a tensor": lambda x: math.tanh(x),
    "write math.sqrt(2 / math.pi)": lambda x: torch.sqrt(cast(Any, 2 / math.pi)) * x,
    "lose the gradient": lambda x: torch.from_numpy(
        x.numpy() / 2 * (1 + np.tanh(ROOT * (x.numpy() + 0.044715 * x.numpy() ** 3)))
    ),
    "you change the caller's x": lambda x: bent(x) + 0 * x.mul_(1.1),
    "no gradient comes back": lambda x: torch.tensor([bent(y).item() for y in x]),
    "compare √(2/π), 0.044715": tanh_form(outer=lambda x, t: 2 * x * (1 + t)),
    "should hold other numbers": lambda x: x + 1,
}


@pytest.mark.parametrize("expected", GELUS)
def test_gelu(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(capsys, checks.gelu, GELUS[expected])


def risen(x: Tensor) -> Tensor:
    y = x.clone()
    cube = y**3
    y += 0.044715 * cube
    return y


def bent(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def with_forward(base: type, forward: Function, **methods: Function) -> type:
    return type(base.__name__, (base,), {"forward": forward, **methods})


MLPS: dict[str, Function] = {
    "Not written yet": lambda self, x: ...,
    "Correct": lambda self, x: self.dropout(self.proj(nn.GELU("tanh")(self.expand(x)))),
    "the exact GELU": lambda self, x: self.dropout(self.proj(F.gelu(self.expand(x)))),
    "that is ReLU": lambda self, x: self.dropout(self.proj(self.expand(x).relu())),
    "that is SiLU": lambda self, x: self.dropout(self.proj(F.silu(self.expand(x)))),
    "the form with a sigmoid": lambda self, x: self.dropout(
        self.proj(self.expand(x) * (1.702 * self.expand(x)).sigmoid())
    ),
    "that is tanh alone": lambda self, x: self.proj(self.expand(x).tanh()),
    "that is the sigmoid": lambda self, x: self.proj(self.expand(x).sigmoid()),
    "+= or another change in place": lambda self, x: self.proj(
        bent(h := self.expand(x)) + 0 * h.mul_(1)
    ),
    "raised AttributeError": lambda self, x: self.proj(
        F.dropout(bent(self.expand(x)), self.rate) if self.training else bent(self.expand(x))
    ),
    "no activation function": lambda self, x: self.proj(self.expand(x)),
    "comes before expand": lambda self, x: self.proj(self.expand(bent(x))),
    "comes after proj": lambda self, x: bent(self.proj(self.expand(x))),
    "nothing comes after proj": lambda self, x: bent(self.proj(bent(self.expand(x)))),
    "proj is missing": lambda self, x: bent(self.expand(x)),
    "proj and the activation": lambda self, x: self.expand(x),
    "the block will do that": lambda self, x: x + self.proj(bent(self.expand(x))),
    "you change the caller's x": lambda self, x: self.proj(
        bent(self.expand(x.sub_(x.mean(-1, keepdim=True))))
    ),
    "expand first": lambda self, x: self.expand(bent(self.proj(x))),
    "dropout acts outside training": lambda self, x: (
        F.dropout(self.proj(bent(self.expand(x))), self.dropout.p)
        if self.dropout.p
        else self.proj(bent(self.expand(x)))
    ),
    "proj's bias is missing": lambda self, x: bent(self.expand(x)) @ self.proj.weight.T,
    "expand's bias is missing": lambda self, x: self.proj(bent(x @ self.expand.weight.T)),
    "acts outside training; use self": lambda self, x: F.dropout(self.proj(bent(self.expand(x)))),
    "no gradient comes back": lambda self, x: self.proj(bent(self.expand(x))).detach(),
    "dropout never acts": lambda self, x: self.proj(bent(self.expand(x))),
    "after proj, and nowhere else": lambda self, x: self.proj(self.dropout(bent(self.expand(x)))),
    "should hold other numbers": lambda self, x: 3 * x,
}


@pytest.mark.parametrize("expected", MLPS)
def test_mlp(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(capsys, checks.mlp, with_forward(MLP, MLPS[expected]))


class Narrow(MLP):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.expand = nn.Linear(config.n_embd, config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)


class Renamed(MLP):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.widen = self.expand
        del self.expand


def test_changed_layers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "4 C channels" in said(capsys, checks.mlp, Narrow)
    assert "expand is missing" in said(capsys, checks.mlp, Renamed)


def in_place(self: Any, x: Tensor, mix: Any = None) -> Tensor:
    x += self.attn(self.ln_1(x), mix)
    x += self.mlp(self.ln_2(x))
    return x


def second_in_place(self: Any, x: Tensor, mix: Any = None) -> Tensor:
    x = x + self.attn(self.ln_1(x), mix)
    x += self.mlp(self.ln_2(x))
    return x


def copied(self: Any, x: Tensor, mix: Any = None) -> Tensor:
    x = self.ln_1(x)
    x = x + self.attn(x, mix)
    x = self.ln_2(x)
    return x + self.mlp(x)


def wired(
    first: Function = lambda b, x, m: x + b.attn(b.ln_1(x), m),
    second: Function = lambda b, y: y + b.mlp(b.ln_2(y)),
) -> Function:
    return lambda self, x, mix=None: second(self, first(self, x, mix))


BLOCKS: dict[str, Function] = {
    "Not written yet": lambda self, x, mix=None: ...,
    "Correct": wired(),
    "(post-norm)": wired(
        lambda b, x, m: b.ln_1(x + b.attn(x, m)), lambda b, y: b.ln_2(y + b.mlp(y))
    ),
    "the norms are missing": wired(lambda b, x, m: x + b.attn(x, m), lambda b, y: y + b.mlp(y)),
    "nothing is added": wired(lambda b, x, m: b.attn(b.ln_1(x), m), lambda b, y: b.mlp(b.ln_2(y))),
    "attention replaces the stream": wired(lambda b, x, m: b.attn(b.ln_1(x), m)),
    "the MLP replaces the stream": wired(second=lambda b, y: b.mlp(b.ln_2(y))),
    "you add to the normalised copy": copied,
    "added to the normalised copy; add it to x": wired(
        lambda b, x, m: b.ln_1(x) + b.attn(b.ln_1(x), m)
    ),
    "the MLP's result is added to the normalised copy": wired(
        second=lambda b, y: b.ln_2(y) + b.mlp(b.ln_2(y))
    ),
    "ln_1 serves both": wired(second=lambda b, y: y + b.mlp(b.ln_1(y))),
    "ln_2 serves both": wired(lambda b, x, m: x + b.attn(b.ln_2(x), m)),
    "are swapped": wired(
        lambda b, x, m: x + b.attn(b.ln_2(x), m), lambda b, y: y + b.mlp(b.ln_1(y))
    ),
    "without ln_1": wired(lambda b, x, m: x + b.attn(x, m)),
    "without ln_2": wired(second=lambda b, y: y + b.mlp(y)),
    "reads the old stream": lambda b, x, mix=None: x + b.attn(b.ln_1(x), mix) + b.mlp(b.ln_2(x)),
    "is lost in the end": lambda b, x, mix=None: x + b.mlp(b.ln_2(x + b.attn(b.ln_1(x), mix))),
    "after attention, not before": wired(
        lambda b, x, m: x + b.mlp(b.ln_2(x)), lambda b, y: y + b.attn(b.ln_1(y))
    ),
    "come after the parts": wired(
        lambda b, x, m: x + b.ln_1(b.attn(x, m)), lambda b, y: y + b.ln_2(b.mlp(y))
    ),
    "ln_1 comes after attention": wired(lambda b, x, m: x + b.ln_1(b.attn(x, m))),
    "ln_2 comes after the MLP": wired(second=lambda b, y: y + b.ln_2(b.mlp(y))),
    "what attention added alone": lambda b, x, mix=None: (
        x + (a := b.attn(b.ln_1(x), mix)) + b.mlp(b.ln_2(a))
    ),
    "add none here": wired(second=lambda b, y: y + F.dropout(b.mlp(b.ln_2(y)), 0.5, b.training)),
    "the gradient of x should": wired(second=lambda b, y: y + b.mlp(b.ln_2(y.detach()))),
    "no gradient comes back to x": wired(
        lambda b, x, m: x.detach() + b.attn(b.ln_1(x.detach()), m)
    ),
    "+= or another change in place": second_in_place,
    "overwrites what the backward pass needs": lambda b, x, mix=None: in_place(b, x.clone(), mix),
    "raised AttributeError": wired(
        second=lambda b, y: F.dropout(y, b.rate) if b.training else y + b.mlp(b.ln_2(y))
    ),
    "the MLP is missing": wired(second=lambda b, y: y),
    "attention is missing": wired(lambda b, x, m: x),
    "once more at the end": wired(second=lambda b, y: b.ln_2(y + b.mlp(b.ln_2(y)))),
    "+= changes the caller's x": in_place,
    "the MLP takes the stream": lambda b, x, mix=None: x + b.mlp(b.ln_2(x), mix),
    "mix is not passed on": lambda b, x, mix=None: wired()(b, x),
    "forward takes x and mix": lambda b, x: wired()(b, x),
    "should hold other numbers": lambda b, x, mix=None: 3 * x,
}


@pytest.mark.parametrize("expected", BLOCKS)
def test_block(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(capsys, checks.block, with_forward(Block, BLOCKS[expected]))


def drawing(
    proj: Function = lambda n: 1 / math.sqrt(2 * n),
    std: float = 0.02,
    matrix: Function = lambda name, p: p.dim() == 2,
    scaled: Function = lambda name: name.endswith("proj.weight"),
    bias: Function = nn.init.zeros_,
    draw: Function = lambda p, s, g: nn.init.normal_(p, std=s, generator=g),
) -> Function:
    """An initialisation with some of its steps exchanged for wrong ones."""

    def function(model: nn.Module, n_layer: int, generator: Any = None) -> None:
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                bias(parameter)
            elif matrix(name, parameter):
                scale = proj(n_layer) if scaled(name) else 1.0
                draw(parameter, std * scale, generator)

    return function


def by_modules(model: nn.Module, n_layer: int, generator: Any = None) -> None:
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                scale = (2 * n_layer) ** -0.5 if name.endswith("proj") else 1
                module.weight.normal_(0, 0.02 * scale, generator=generator)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()


def evenly(p: Tensor, s: float, g: Any) -> None:
    nn.init.uniform_(p, -s * 3**0.5, s * 3**0.5, generator=g)


def rebound(model: nn.Module, n_layer: int, generator: Any = None) -> None:
    p: Tensor
    for p in model.parameters():
        p = torch.zeros_like(p)


def layers_alone(model: nn.Module, n_layer: int, generator: Any = None) -> None:
    """Right too: the norms start with biases of 0 and gains of 1."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            scale = (2 * n_layer) ** -0.5 if name.endswith("proj") else 1
            nn.init.normal_(module.weight, std=0.02 * scale, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


INITIAL: dict[str, Function] = {
    "Not written yet": lambda model, n_layer, generator=None: None,
    "Correct": drawing(),
    "p.zero_() does": rebound,
    "set them to 0. Write into them, as p.zero_() does; p = ... would": drawing(
        bias=lambda p: None
    ),
    "you divide the others": drawing(
        scaled=lambda name: not name.endswith("proj.weight"),
    ),
    "0.02 became the mean": drawing(draw=lambda p, s, g: nn.init.normal_(p, s, generator=g)),
    "standard deviation 1.0": drawing(std=1.0),
    "is scaled too": drawing(scaled=lambda name: True),
    "attn.proj is not scaled": drawing(scaled=lambda name: name.endswith("mlp.proj.weight")),
    "mlp.proj is not scaled": drawing(scaled=lambda name: name.endswith("attn.proj.weight")),
    "divided by √L;": drawing(lambda n: n**-0.5),
    "divided by 2L": drawing(lambda n: 1 / (2 * n)),
    "divided by L;": drawing(lambda n: 1 / n),
    "divided by 4L": drawing(lambda n: 1 / (2 * n) ** 1 / 2),
    "multiplied by √(2L)": drawing(lambda n: (2 * n) ** 0.5),
    "divided by √2;": drawing(lambda n: 2**-0.5),
    "not the variance": drawing(std=0.02**0.5),
    "not 0.02": drawing(std=0.05),
    "left as they were": drawing(bias=lambda p: None),
    "the biases are drawn": drawing(bias=lambda p: nn.init.normal_(p, std=0.02)),
    "must stay 1": drawing(matrix=lambda name, p: True),
    "the token table is not drawn": drawing(
        matrix=lambda n, p: "proj" in n or "qkv" in n or "expand" in n
    ),
    "generator is not used": drawing(draw=lambda p, s, g: nn.init.normal_(p, std=s)),
    "use the generator that is given": drawing(
        draw=lambda p, s, g: nn.init.normal_(
            p, std=s, generator=torch.Generator().manual_seed(p.numel() + p.size(0))
        )
    ),
    "drawn evenly": drawing(draw=evenly),
    "the mean of attn.proj is not 0": drawing(
        draw=lambda p, s, g: nn.init.normal_(p, mean=s, std=s, generator=g)
    ),
    "don't count the blocks": lambda model, n_layer, generator=None: drawing()(
        model, len(model.blocks) if hasattr(model, "blocks") else 1, generator
    ),
    "Wrap it in torch.no_grad()": drawing(draw=lambda p, s, g: p.normal_(0, s, generator=g)),
}


@pytest.mark.parametrize("expected", INITIAL)
def test_initialize(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(capsys, checks.initialize, INITIAL[expected])


def test_initialising_by_modules_is_right_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Correct" in said(capsys, checks.initialize, by_modules)
    assert "Correct" in said(capsys, checks.initialize, layers_alone)


def test_initialising_the_blocks_alone_by_their_place_is_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def placed(model: nn.Module, n_layer: int, generator: torch.Generator) -> None:
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                in_block = name.startswith("blocks") and name.endswith("proj.weight")
                std = 0.02 / math.sqrt(2 * n_layer) if in_block else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    assert "Correct" in said(capsys, checks.initialize, placed)


def gpt(**methods: Function) -> type:
    for name, method in methods.items():
        method.__name__ = name if method.__name__ == "<lambda>" else method.__name__
    return type("GPT", (GPT,), methods)


def unembedded(self: Any, x: Tensor) -> Tensor:
    x = self.ln_f(x)
    logits = self.head(x)
    x += 0
    return logits


class Untied(GPT):
    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)


class Spare(GPT):
    """It has a layer that nothing uses."""

    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.spare = nn.Linear(2, 2)


class CopiedHead(GPT):
    """Its head holds equal numbers, as a parameter of its own."""

    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head.weight = nn.Parameter(self.embed.token_embedding.weight.detach().clone())

    def eval(self) -> Any:
        with torch.no_grad():
            self.head.weight.copy_(self.embed.token_embedding.weight)
        return super().eval()


class HeadOfItsOwn(GPT):
    """Its tie is a copy, which is drawn anew like any parameter."""

    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head.weight = nn.Parameter(self.embed.token_embedding.weight.clone())
        initialize(self, config.n_layer, generator)


class CopiedData(Untied):
    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head.weight.data.copy_(self.embed.token_embedding.weight.data)


class PositionsAsHead(GPT):
    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head.weight = self.embed.position_embedding.weight


class Undrawn(GPT):
    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.reset_parameters()


def through(self: Any, tokens: Tensor, mixes: Any = None, blocks: Any = None) -> Tensor:
    x = self.embed(tokens)
    blocks = self.blocks if blocks is None else blocks
    for block, mix in zip(blocks, mixes or [None] * len(self.blocks), strict=False):
        x = block(x, mix)
    return x


class AssignedLayer(GPT):
    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head.weight = cast(Any, self.embed.token_embedding)


class TableAsHead(GPT):
    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head = cast(Any, self.embed.token_embedding)


class WeightAsHead(GPT):
    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head = cast(Any, self.embed.token_embedding.weight)


class TransposedHead(GPT):
    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.head.weight = nn.Parameter(self.embed.token_embedding.weight.T)


class TiedTable(GPT):
    """Right too: the embedding takes the head's table."""

    def __init__(self, config: GPTConfig, generator: Any = None) -> None:
        super().__init__(config, generator)
        self.embed.token_embedding.weight = self.head.weight


def embedding_of(model: Any) -> Tensor:
    return model.embed.token_embedding.weight


def by_mixes(self: Any, tokens: Tensor, mixes: Any) -> Tensor:
    x = self.embed(tokens)
    for block, mix in zip(self.blocks, mixes, strict=True):
        x = block(x, mix)
    return x


def without_positions(self: Any, tokens: Tensor, mixes: Any = None) -> Tensor:
    x = self.embed.token_embedding(tokens)
    for block in self.blocks:
        x = block(x)
    return x


def each_the_embedding(self: Any, tokens: Tensor, mixes: Any = None) -> Tensor:
    x = self.embed(tokens)
    for block in self.blocks:
        y = block(x)
    return y


def without_dropout(self: Any, tokens: Tensor, mixes: Any = None) -> Tensor:
    x = embedding_of(self)[tokens] + self.embed.position_embedding.weight[: tokens.size(1)]
    for block, mix in zip(self.blocks, mixes or [None] * len(self.blocks), strict=True):
        x = block(x, mix)
    return x


def without_embed(self: Any, tokens: Tensor, mixes: Any = None) -> Tensor:
    """Right too: it does by itself what embed does."""
    there = torch.arange(tokens.size(1))
    x = self.embed.token_embedding(tokens) + self.embed.position_embedding(there)
    x = self.embed.dropout(x)
    for block, mix in zip(self.blocks, mixes or [None] * len(self.blocks), strict=True):
        x = block(x, mix)
    return x


def nested(self: Any, tokens: Tensor, mixes: Any = None) -> Tensor:
    x = self.embed(tokens)
    for block in self.blocks:
        for mix in mixes or [None] * len(self.blocks):
            x = block(x, mix)
    return x


def blind(self: Any, tokens: Tensor, mixes: Any = None) -> Tensor:
    for block in self.blocks:
        x = block(tokens)
    return x


def added_again(self: Any, tokens: Tensor, mixes: Any = None) -> Tensor:
    x = self.embed(tokens)
    for block in self.blocks:
        x = x + block(x)
    return x


GPTS: dict[str, type] = {
    "Not written yet: unembed": gpt(unembed=lambda self, x: ...),
    "Not written yet: stream": gpt(stream=lambda self, tokens, mixes=None: ...),
    "Not written yet: forward": gpt(forward=lambda self, tokens: ...),
    "Correct": gpt(stream=through),
    "ln_f is missing": gpt(unembed=lambda self, x: self.head(x)),
    "ln_f is in stream": gpt(
        unembed=lambda self, x: self.head(x),
        stream=lambda self, t, mixes=None: self.ln_f(through(self, t, mixes)),
    ),
    "a ModuleList can't be called": gpt(stream=lambda self, t, mixes=None: self.blocks(t)),
    "ln_f is applied twice.": gpt(unembed=lambda self, x: self.head(self.ln_f(self.ln_f(x)))),
    "the head is missing": gpt(unembed=lambda self, x: self.ln_f(x)),
    "those are probabilities": gpt(unembed=lambda self, x: self.head(self.ln_f(x)).softmax(-1)),
    "those are logarithms": gpt(unembed=lambda self, x: self.head(self.ln_f(x)).log_softmax(-1)),
    "only the last position is scored; score all T": gpt(
        unembed=lambda self, x: self.head(self.ln_f(x))[:, -1]
    ),
    "the positions are missing": gpt(stream=without_positions),
    "the blocks run backwards": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes, list(self.blocks)[::-1])
    ),
    "only the first block runs": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes, self.blocks[:1])
    ),
    "the last block is skipped": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes, list(self.blocks)[:-1])
    ),
    "the first block is skipped": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes, list(self.blocks)[1:])
    ),
    "each block reads the embedding": gpt(stream=each_the_embedding),
    "the blocks are missing": gpt(stream=lambda self, t, mixes=None: self.embed(t)),
    "a block adds by itself": gpt(stream=added_again),
    "ln_f comes too early": gpt(stream=lambda self, t, mixes=None: self.ln_f(through(self, t))),
    "stream returns the stream": gpt(
        stream=lambda self, t, mixes=None: self.unembed(through(self, t))
    ),
    "the mixes are ignored": gpt(stream=lambda self, t, mixes=None: through(self, t)),
    "every block gets the first mix": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes and mixes[:1] * 3)
    ),
    "every block gets the last mix": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes and mixes[-1:] * 3)
    ),
    "only the first block gets its mix": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes and [mixes[0], None, None])
    ),
    "only the last block gets its mix": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes and [None, None, mixes[2]])
    ),
    "every block runs once for each mix": gpt(stream=nested),
    "self.embed makes them of tokens": gpt(stream=blind),
    "ln_f first": gpt(unembed=lambda self, x: self.ln_f(self.head(x))),
    "forward calls it once": gpt(forward=lambda self, t: self.head(self.unembed(self.stream(t)))),
    "those are the likeliest tokens": gpt(
        unembed=lambda self, x: self.head(self.ln_f(x)).argmax(-1)
    ),
    "likeliest tokens; return the logits": gpt(
        forward=lambda self, t: self.unembed(self.stream(t)).argmax(-1)
    ),
    "no gradient comes back to embed.token_embedding.weight": gpt(
        forward=torch.no_grad()(lambda self, t: self.unembed(self.stream(t)))
    ),
    "no gradient comes back to embed.position_embedding.weight": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes).detach()
    ),
    "the gradient of embed.token_embedding.weight should": gpt(
        unembed=lambda self, x: F.linear(self.ln_f(x), self.head.weight.detach())
    ),
    "the embedding's dropout never acts": gpt(stream=without_dropout),
    "Correct: tokens": gpt(stream=without_embed),
    "Correct: tokens to stream to": Spare,
    "embed and blocks have dropout of their own": gpt(
        stream=lambda self, t, mixes=None: F.dropout(through(self, t, mixes), 0.5, self.training)
    ),
    "raised AttributeError": gpt(
        stream=lambda self, t, mixes=None: (
            through(self, t, mixes) * (self.rate if self.training else 1)
        )
    ),
    "+= or another change in place": gpt(unembed=lambda self, x: unembedded(self, x)),
    "the mixes come backwards": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes and mixes[::-1])
    ),
    "stream takes tokens and mixes": gpt(stream=lambda self, t: through(self, t)),
    "forward returns the stream": gpt(forward=lambda self, t: self.stream(t)),
    "unembed holds it": gpt(forward=lambda self, t: self.unembed(self.ln_f(self.stream(t)))),
    "score all of them": gpt(forward=lambda self, t: self.unembed(self.stream(t))[:, -1:]),
    "the blocks are skipped": gpt(forward=lambda self, t: self.unembed(self.embed(t))),
    "the head has a table of its own; one line": Untied,
    "a copy is not enough": CopiedHead,
    "a copy is not enough: both": HeadOfItsOwn,
    "a copy is not enough: both must": CopiedData,
    "take self.embed.token_embedding's": PositionsAsHead,
    "the number of blocks is config's": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes or [None] * 12)
    ),
    "leave eval() and train() to the caller": gpt(
        forward=lambda self, t: self.eval().unembed(self.stream(t))
    ),
    "dropout must act in training and only there": gpt(
        stream=lambda self, t, mixes=None: through(self.train(), t, mixes)
    ),
    "leave eval()": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes) + self.eval().ln_f.bias * 0
    ),
    "tie the head in __init__": type(
        "GPT", (Untied,), {"unembed": lambda self, x: self.ln_f(x) @ embedding_of(self).T}
    ),
    "Assign the parameter": AssignedLayer,
    "assign to self.head.weight, not self.head": TableAsHead,
    "head must stay a layer": WeightAsHead,
    "don't transpose it": TransposedHead,
    "Correct: tokens to stream": TiedTable,
    "ln_f is missing; call unembed": gpt(forward=lambda self, t: self.head(self.stream(t))),
    "the first block runs each time": gpt(
        stream=lambda self, t, mixes=None: through(self, t, mixes, [self.blocks[0]] * 3)
    ),
    "mixes may be None": gpt(stream=lambda self, t, mixes=None: by_mixes(self, t, mixes)),
    "the starting weights are PyTorch's": Undrawn,
}


@pytest.mark.parametrize("expected", GPTS)
def test_gpt(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(capsys, checks.gpt, GPTS[expected])


TASKS = [checks.layer_norm, checks.gelu, checks.mlp, checks.block, checks.initialize, checks.gpt]


@pytest.mark.parametrize("check", [*TASKS, checks.rms_norm, checks.parameters])
def test_an_answer_that_stops_is_reported(
    check: Function, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "raised ZeroDivisionError" in said(capsys, check, lambda *_: 1 / 0)


def test_the_golden_model_of_transformers_is_at_hand() -> None:
    model, stages = checks.golden()
    with torch.no_grad():
        torch.testing.assert_close(model(stages["tokens"]), stages["logits"], rtol=0, atol=1e-5)


# The model of the reader's own parts


OWN_EMBEDDING = """
class InputEmbedding(nn.Module):
    def __init__(self, vocab_size, context_length, n_embd, dropout=0.0):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(context_length, n_embd)
        self.dropout = nn.Dropout(dropout)
        SEEN.append("embedding")

    def forward(self, tokens):
        there = torch.arange(tokens.size(1))
        return self.dropout(self.token_embedding(tokens) + self.position_embedding(there))

SEEN = []
"""
OWN_MLP = """
class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.expand = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.proj(gelu(self.expand(x)))
"""
OWN_GELU = "gelu = nn.GELU('tanh')"
OWN_INITIALIZE = """
def initialize(model, n_layer, generator=None):
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
"""


@pytest.mark.parametrize("kept", [{}, {"embeddings/InputEmbedding": OWN_EMBEDDING},
                                  {"gpt2/MLP": OWN_MLP},
                                  {"gpt2/MLP": OWN_MLP, "gpt2/gelu": OWN_GELU}])  # fmt: skip
def test_the_trained_weights_run_in_the_readers_own_parts(
    kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, source in kept.items():
        path = tmp_path / "work" / "yours" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    kind, parts = yours.assemble()
    assert {name for name, own in parts.items() if own} == {
        name.split("/")[1] for name in kept
    } & set(parts)
    model, tokens = load_model()[0], torch.tensor([[1, 2, 3]])
    own = kind(model.config).eval()
    own.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(own(tokens), model(tokens), rtol=0, atol=1e-4)
    assert type(own.blocks[0].mlp).__module__ == "yours"
    assert "yours" not in sys.modules


def test_parts_that_do_not_run_together_give_way_to_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "work/yours/gpt2/MLP.py"
    path.parent.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    path.write_text(OWN_MLP.replace("gelu", "from_another_cell"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work/yours/gpt2/f.py").write_text("1 / 0")
    (tmp_path / "work/yours/gpt2/initialize.py").write_text(OWN_INITIALIZE)
    kind, parts = yours.assemble()
    assert [name for name, own in parts.items() if own] == ["initialize"]
    assert kind(GPTConfig(9, 4, 1, 1, 4)).head.weight.unique().tolist() == [0.5]
    told = "place of your MLP, which raises NameError(\"name 'from_another_cell' is not defined\")"
    assert told in capsys.readouterr().out


CELL = """
import torch.nn as layers

def helper(x): return [y for y in x]

def MLP(x):
    z = helper(x)
    return math.tanh(layers, z, F, spread, len(z))
"""


def test_names_of_other_cells_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "work/yours/gpt2/MLP.py"
    path.parent.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    path.write_text(CELL)
    path.with_name("spread.py").write_text("spread = 1")
    part = SimpleNamespace(__name__="MLP")
    assert yours.from_other_cells("gpt2", part) == []
    path.with_name("spread.py").unlink()
    assert yours.from_other_cells("gpt2", part) == ["spread"]


# The exercises


@pytest.mark.parametrize("check", [checks.rms_norm, checks.parameters])
@pytest.mark.parametrize("stub", [lambda *_: ..., lambda *_: None])
def test_an_unfinished_exercise_is_not_a_wrong_one(
    check: Function, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, check, stub).startswith("Not written yet: ")


def mean_square(x: Tensor, *dims: int) -> Tensor:
    return x.square().mean(dims or None, keepdim=True)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, g, e: g * x / (mean_square(x, -1) + e).sqrt(), "Correct: "),
        (lambda x, g, e: F.layer_norm(x, (8,), g, None, e), "you subtract the mean; RMS"),
        (lambda x, g, e: g * x / (mean_square(x, -1) + e), "take its root"),
        (lambda x, g, e: x / (mean_square(x, -1) + e).sqrt(), "the gain is missing"),
        (lambda x, g, e: g * x / (8 * mean_square(x, -1) + e).sqrt(), "take their mean"),
        (lambda x, g, e: g * x / (mean_square(x) + e).sqrt(), "over the whole tensor"),
        (lambda x, g, e: g * x / (mean_square(x, -2) + e).sqrt(), "over the positions"),
        (
            lambda x, g, e: g * x / (x.var(-1, unbiased=False, keepdim=True) + e).sqrt(),
            "standard deviation",
        ),
        (lambda x, g, e: g * x / (mean_square(x, -1).sqrt() + e), "eps is outside the root"),
        (lambda x, g, e: g * x / (x.std(-1, keepdim=True) + e), "divides by C - 1"),
        (
            lambda x, g, e: g * (x - x.mean(-1, keepdim=True)) / (mean_square(x, -1) + e).sqrt(),
            "above the line",
        ),
        (lambda x, g, e: g * x * (mean_square(x, -1) + e).sqrt(), "divide by it"),
        (lambda x, g, e: g * x / (x.square().mean(-1) + e).sqrt(), "keepdim=True"),
        (lambda x, g, e: g * x / (x.abs().mean(-1, True) + e), "the mean of |x|"),
        (lambda x, g, e: g * x / math.sqrt(mean_square(x, -1) + e), "torch's take a tensor"),
        (lambda x, g, e: g * x / (mean_square(x, -1) + e).sqrt().detach(), "through the root"),
        (
            lambda x, g, e: (g * x / (mean_square(x, -1) + e).sqrt()).detach(),
            "no gradient comes back to x",
        ),
        (lambda x, g, e: g * x / mean_square(x, -1).sqrt(), "eps is missing"),
        (lambda x, g, e: g * x / ((mean_square(x, -1) + e) ** 1 / 2), "half the mean"),
        (lambda x, g, e: g * x / (mean_square(x, -1) + e) ** 1 / 2, "and by 2, not by its root"),
        (lambda x, g, e: g * x / (x.mean(-1, True) ** 2 + e).sqrt(), "you square the mean"),
        (
            lambda x, g, e: g * x / (x.square().sum(-1, keepdim=True) / 8 + e).sqrt(),
            "take their number from x",
        ),
        (lambda x, g, e: F.rms_norm(x, (8,), g, e), "write it by hand"),
        (lambda x, g, e: g * x.div_((mean_square(x, -1) + e).sqrt()), "change the caller's x"),
        (lambda x, g, e: (1 + g) * x / (mean_square(x, -1) + e).sqrt(), "don't add 1"),
        (lambda x, g, e: x[0], "must have shape (2, 5, 8)"),
        (lambda x, g, e: x, "should hold other numbers"),
        (lambda x, g, e: g * x / (mean_square(x, -1) + 1e-5).sqrt(), "you don't use it"),
    ],
)
def test_a_simpler_norm(answer: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in said(capsys, checks.rms_norm, answer)


def total(config: GPTConfig) -> int:
    return count_parameters(config)["total"]


def by_formula(c: GPTConfig) -> int:
    per_block = 12 * c.n_embd**2 + 13 * c.n_embd
    return c.n_layer * per_block + (c.vocab_size + c.context_length + 2) * c.n_embd


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (by_formula, "Correct: "),
        (total, "without building a model"),
        (lambda c: sum(p.numel() for p in GPT(c).parameters()), "without building a model"),
        (lambda c: total(c) - 4 * c.n_layer * c.n_embd**2, "one of the MLP's two matrices"),
        (lambda c: total(c) - 5 * c.n_layer * c.n_embd, "3C, C, 4C and C"),
        (lambda c: total(c) + c.vocab_size * c.n_embd, "counted the output layer too"),
        (lambda c: total(c) - c.context_length * c.n_embd, "forgot the table of positions"),
        (lambda c: total(c) - 2 * c.n_embd, "forgot the last norm"),
        (
            lambda c: total(c) - 4 * c.n_layer * c.n_embd,
            "4C are missing in each block: both norms, expand's biases, or attention's",
        ),
        (
            lambda c: total(c) - (4 * c.n_layer + 2) * c.n_embd,
            "all norms are missing, it seems: 4C in each block, 2C outside",
        ),
        (lambda c: total(c) - 9 * c.n_layer * c.n_embd, "as many as the four matrices have biases"),
        (lambda c: total(c) - (2 * c.n_layer + 1) * c.n_embd, "norms' biases"),
        (
            lambda c: total(c) - (c.n_layer - 1) * (12 * c.n_embd**2 + 13 * c.n_embd),
            "one block only",
        ),
        (lambda c: total(c) - c.n_layer * c.n_embd**2, "output projection"),
        (lambda c: total(c) - 2 * c.n_layer * c.n_embd**2, "so it has 3C² weights"),
        (
            lambda c: total(c) - 3 * c.n_layer * c.n_embd**2,
            "qkv's weights, or three of an MLP matrix's 4C²",
        ),
        (lambda c: total(c) - 3 * c.n_layer * c.n_embd, "qkv's biases, or three of expand's 4C"),
        (
            lambda c: total(c) - 2 * c.n_layer * c.n_embd,
            "in each block: a norm, both norms' biases",
        ),
        (lambda c: float(by_formula(c)), "return them as int"),
        (
            lambda c: total(c) - (11 * c.n_layer + 1) * c.n_embd,
            "11C are missing in each block, C outside, as many as all biases",
        ),
        (
            lambda c: total(c) - (c.context_length + 2) * c.n_embd,
            "two slips: (1) you forgot the table of positions; (2) you forgot the last norm",
        ),
        (lambda c: total(c) + 7 * c.n_layer * c.n_embd, "7C too many in each block"),
        (lambda c: total(c) + 4 * c.n_layer * c.n_embd**2, "4C² too many in each block"),
        (lambda c: total(c) - 6 * c.n_layer * c.n_embd, "6C too few in each block; the biases"),
        (lambda c: total(c) - c.n_layer * c.n_embd, "a proj's biases, or half a norm"),
        (lambda c: total(c) + 2 * (c.n_layer - 1) * c.n_embd, "you count it in each"),
        (lambda c: total(c) - c.n_embd, "ln_f has a gain and a bias"),
        (lambda c: total(replace(c, n_layer=12)), "you count 12 blocks whatever"),
        (
            lambda c: total(c) - (c.vocab_size + c.context_length) * c.n_embd,
            "the two tables are missing",
        ),
        (lambda c: total(c) - c.vocab_size * c.n_embd, "forgot the table of tokens"),
        (
            lambda c: total(c) + (c.n_layer - 1) * (c.vocab_size + c.context_length) * c.n_embd,
            "the two tables are counted in each block",
        ),
        (
            lambda c: total(c) + (c.n_layer - 1) * (c.vocab_size + c.context_length + 2) * c.n_embd,
            "mind the brackets",
        ),
        (lambda c: total(c) - c.vocab_size * (c.n_embd - 1), "table of tokens has C numbers"),
        (lambda c: total(c) - c.context_length * (c.n_embd - 1), "of positions has C numbers"),
        (lambda c: total(c) - 8 * c.n_layer * c.n_embd**2, "the MLP's two matrices"),
        (lambda c: total(c) + c.n_embd**2, "C² too many outside the blocks"),
        (lambda c: math.inf, "you say inf"),
        (lambda c: c.vocab_size * 2, "need 124,439,808; you say 100,514"),
        (lambda c: total(c) + c.vocab_size, "a bias of the output layer; it has none"),
        (lambda c: total(c) + 5, "you say 124,439,813, 5 more"),
    ],
)
def test_count_by_formula(answer: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in said(capsys, checks.parameters, answer)
