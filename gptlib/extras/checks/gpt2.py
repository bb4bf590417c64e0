"""Check the tasks and exercises of the chapter on the model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from gptlib.extras.checks.answers import (
    POWER,
    Answer,
    Wrong,
    attempt,
    close,
    expect,
    number_of,
    run,
    says,
    task,
)
from gptlib.extras.models import load_model
from gptlib.gpt2 import GPT, GPTConfig, count_parameters

CONFIG = GPTConfig(vocab_size=23, context_length=8, n_layer=3, n_head=2, n_embd=12)
WIDTH = "It is right for 8 channels; take their number from x, as x.size(-1) or mean(-1) does."
KEEPDIM = {"must match the size": "Keep the dimension when you take the mean: keepdim=True."}
SCALAR = {"converted to Python scalars": "math's functions take one number; torch's take a tensor."}
NUMPY = {"requires grad": "Stay in PyTorch: NumPy and Python numbers lose the gradient."}
IN_PLACE = (
    "+= or another change in place overwrites what the backward pass needs; make a new tensor, "
    "as x = x + ... does"
)


def golden() -> tuple[GPT, dict[str, Tensor]]:
    """Open a tiny GPT-2 of transformers, and what each of its stages handed on."""
    folder = Path(__file__).parents[3] / "tests" / "golden" / "hf-tiny"
    return load_model(folder)[0], load_file(folder / "activations.safetensors")


def _used(answer: Any) -> set[str]:
    return {*getattr(getattr(answer, "__code__", None), "co_names", ())}


def _by_hand(answer: Answer, *names: str) -> None:
    if _used(answer) & {*names}:
        raise Wrong("Not yet: write it by hand, without PyTorch's own.")


def _unchanged(given: Tensor, x: Tensor) -> None:
    if not torch.equal(given, x):
        raise Wrong("Not yet: you change the caller's x; make a new tensor, as x = x - ... does.")


def _shaken(module: Any, seed: int = 0) -> Any:
    """Move all parameters away from their start: biases of 0 and gains of 1 hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.4)
    return module.eval()


def _parts(module: nn.Module, *names: str) -> None:
    missing = set(names) - {name for name, _ in module.named_children()}
    if missing:
        raise Wrong(
            f"Not yet: {', '.join(sorted(missing))} is missing. Leave the lines of __init__ that "
            "are there: trained weights are found by these names."
        )


@task
def layer_norm(function: Callable[..., Tensor]) -> str:
    """Check layer normalisation in value and gradient, for usual and for tiny numbers."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(2, 5, 8, generator=generator)  # (B, T, C)
    gain, bias = torch.rand(2, 8, generator=generator) + 0.5

    def normed(*dims: int, more: float = 0) -> Tensor:
        centred = x - x.mean(dims, keepdim=True)
        n = centred.numel() / centred.mean(dims).numel()
        return centred / (centred.square().sum(dims, keepdim=True) / (n - more) + 1e-5).sqrt()

    y = normed(-1)
    centred = x - x.mean(-1, keepdim=True)
    square = centred.square().mean(-1, keepdim=True)
    own = "each token is normalised by itself: take mean and variance over the channels, dim=-1"
    causes = {
        "the variance is divided by C - 1; pass unbiased=False, or average the squares": (
            gain * normed(-1, more=1) + bias
        ),
        "gain and bias are missing": y,
        "the gain is missing": y + bias,
        "the bias is missing": gain * y,
        "the bias is added before the gain multiplies": gain * (y + bias),
        f"{own} (yours are over the positions)": gain * normed(1) + bias,
        f"{own} (yours are over the batch)": gain * normed(0) + bias,
        f"{own} (yours are over everything)": gain * normed(0, 1, 2) + bias,
        f"{own} (yours are over the positions too)": gain * normed(1, 2) + bias,
        f"{own} (yours are over the batch and the positions)": gain * normed(0, 1) + bias,
        "the mean is not subtracted": gain * x / (square + 1e-5).sqrt() + bias,
        "the mean is not subtracted, neither above the line nor in the variance": (
            gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() + bias
        ),
        "the variance is the mean of (x - μ)², not of x²": (
            gain * centred / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() + bias
        ),
        "gain and bias are swapped: the gain multiplies, the bias is added": bias * y + gain,
        "the gain multiplies as it is; don't add 1": (1 + gain) * y + bias,
        "the square root is missing": gain * centred / (square + 1e-5) + bias,
        f"you divide by half the variance, not by its root. {POWER}": (
            gain * centred / (square / 2 + 1e-5) + bias
        ),
        f"you divide by the variance and by 2, not by its root. {POWER}": (
            gain * centred / (square + 1e-5) / 2 + bias
        ),
        "the mean is subtracted, but nothing is divided": gain * centred + bias,
        "you multiply by the root; divide by it": gain * centred * (square + 1e-5).sqrt() + bias,
        "the squares are summed; the variance is their mean": (
            gain * centred / (8 * square + 1e-5).sqrt() + bias
        ),
    }
    right = F.layer_norm(x, (8,), gain, bias)
    given = x.clone()
    keep = {"positional argument": "layer_norm takes x, gain, bias, and eps, 1e-5 if left out."}
    got = run(function, given, gain, bias, hints=KEEPDIM | SCALAR | keep)
    _by_hand(function, "layer_norm", "LayerNorm", "native_layer_norm", "group_norm", "GroupNorm")
    _by_hand(function, "instance_norm", "InstanceNorm1d", "batch_norm", "BatchNorm1d")
    _unchanged(given, x)
    expect(got, right, causes, "the result for (2, 5, 8)")
    x = x / 1000
    centred = x - x.mean(-1, keepdim=True)
    square = centred.square().mean(-1, keepdim=True)
    tiny = "right for usual numbers, but for tiny ones"
    causes = {
        f"{tiny} eps is outside the root; add it to the variance": (
            gain * centred / (square.sqrt() + 1e-5) + bias
        ),
        f"{tiny} eps is missing": gain * centred / square.sqrt() + bias,
    }
    expect(run(function, x, gain, bias), F.layer_norm(x, (8,), gain, bias), causes, "a tiny x")
    far = 1e4 + 1000 * x
    if not close(run(function, far, gain, bias), F.layer_norm(far, (8,), gain, bias), 1e-2):
        raise Wrong(
            "Not yet: right for usual numbers, but for ones around 10,000 the mean of x² minus μ² "
            "is lost in rounding; average (x - μ)²."
        )
    own_x, torch_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    large = F.layer_norm(x, (8,), gain, bias, 0.5)
    causes = {"eps is given, and you don't use it": F.layer_norm(x, (8,), gain, bias)}
    expect(run(function, x, gain, bias, 0.5, hints=keep), large, causes, "the result for eps 0.5")
    right = F.layer_norm(torch_x, (8,), gain, bias)
    causes = _cut_statistics(torch_x, gain, bias)
    own = run(function, own_x, gain, bias, hints=NUMPY)
    _same_gradients(own, right, own_x, torch_x, causes=causes, atol=1e-2)
    x, gain, bias = 1000 * x[..., :6], gain[:6], bias[:6]
    got, right = run(function, x, gain, bias, hints={"": WIDTH}), F.layer_norm(x, (6,), gain, bias)
    expect(got, right, {}, "the result for 6 channels", otherwise=WIDTH)
    return "Correct: equal to PyTorch's in value and gradient, for usual and for tiny numbers."


def _same_gradients(
    own: Tensor,
    right: Tensor,
    *sources: Tensor,
    causes: Mapping[str, Tensor] = {},
    atol: float = 1e-5,
) -> None:
    """Compare the gradients that come back to the reader's x and to ours, a pair of sources."""
    mine, theirs = (
        _gradients(output, {"x": x})["x"] for output, x in zip((own, right), sources, strict=True)
    )
    expect(mine, theirs, causes, "the gradient of x", atol=atol)


def _gradients(output: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Send a loss back from an output to each of the leaves; an output that hinders it is wrong."""
    loss = output.square().sum()
    found: Sequence[Tensor | None] = [None] * len(leaves)
    try:
        if loss.requires_grad:
            found = torch.autograd.grad(loss, [*leaves.values()], allow_unused=True)
    except RuntimeError as error:
        reason = IN_PLACE if "inplace" in str(error) else f"the backward pass raised {error}"
        raise Wrong(f"Not yet: {reason}.") from error
    lost = [name for name, gradient in zip(leaves, found, strict=True) if gradient is None]
    if lost:
        raise Wrong(
            f"Not yet: no gradient comes back to {lost[0]}; stay in PyTorch, without detach and "
            "no_grad."
        )
    return dict(zip(leaves, cast(Sequence[Tensor], found), strict=True))


def _cut_statistics(x: Tensor, gain: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return the gradients of x that a layer norm has whose statistics pass none on."""
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)

    def gradient(mean: Tensor, variance: Tensor) -> Tensor:
        return _gradients(gain * (x - mean) / (variance + 1e-5).sqrt() + bias, {"x": x})["x"]

    cut = "no gradient goes through the {}; leave out detach, no_grad and item"
    return {
        cut.format("variance"): gradient(mean, variance.detach()),
        cut.format("mean"): gradient(mean.detach(), variance),
        cut.format("mean and the variance"): gradient(mean.detach(), variance.detach()),
    }


@task
def gelu(function: Callable[[Tensor], Tensor]) -> str:
    """Check GELU in the form with tanh."""
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    causes = _gelu_slips(x)
    right = F.gelu(x, approximate="tanh")
    number = {
        "must be Tensor, not float": "torch.sqrt takes a tensor; write math.sqrt(2 / math.pi)."
    }
    given = x.clone()
    got = run(function, given, hints=SCALAR | number)
    _by_hand(function, "gelu", "GELU")
    _unchanged(given, x)
    otherwise = "gelu(1) is 0.8412: compare √(2/π), 0.044715 and the brackets."
    expect(got, right, causes, "gelu of the numbers from -4 to 4", otherwise=otherwise)
    own_x, torch_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    right = F.gelu(torch_x, approximate="tanh")
    _same_gradients(run(function, own_x, hints=NUMPY), right, own_x, torch_x)
    return "Correct: equal to PyTorch's from -4 to 4."


def _gelu_slips(x: Tensor) -> dict[str, Tensor]:
    c, cube = math.sqrt(2 / math.pi), 0.044715 * x**3
    tanh = torch.tanh(c * (x + cube))

    def shaped(inside: Tensor) -> Tensor:
        return x / 2 * (1 + torch.tanh(inside))

    return {
        "that is the exact GELU, with erf; GPT-2 has the form with tanh": F.gelu(x),
        "that is ReLU": x.relu(),
        "that is the form with a sigmoid; GPT-2 has the one with tanh": x * (1.702 * x).sigmoid(),
        "that is SiLU; GPT-2 has the form with tanh": F.silu(x),
        "the half is missing": x * (1 + tanh),
        "the 1 + is missing": x / 2 * tanh,
        "it is 1 + tanh; you subtract": x / 2 * (1 - tanh),
        "x / 2 multiplies the 1 and the tanh; mind the brackets": x / 2 + tanh,
        "x / 2 multiplies the tanh too; mind the brackets": x / 2 * tanh + 1,
        "the x in front is missing": (1 + tanh) / 2,
        "the tanh is missing": x / 2 * (1 + c * (x + cube)),
        "the factor √(2/π) is missing": shaped(x + cube),
        "√(2/π) must multiply x³ too; mind the brackets": shaped(c * x + cube),
        "the root of 2/π is missing": shaped(2 / math.pi * (x + cube)),
        f"2/π is halved; take its root. {POWER}": shaped((x + cube) / math.pi),
        "it is √(2/π), not √(π/2)": shaped((x + cube) / c),
        "the root is of 2/π, not of 2 alone": shaped(math.sqrt(2) / math.pi * (x + cube)),
        "the root is of 2/π, not of π alone": shaped(2 / math.sqrt(math.pi) * (x + cube)),
        "the x³ is missing": shaped(c * x),
        "0.044715 multiplies x³, not x": shaped(c * (0.044715 * x + x**3)),
        "it is x + 0.044715 x³; you subtract": shaped(c * (x - cube)),
        "it must be x³; you took x²": shaped(c * (x + 0.044715 * x**2)),
        "it must be x³, x**3 in Python; you took 3x": shaped(c * (x + 0.044715 * 3 * x)),
        "0.044715 is cubed too; write 0.044715 * x**3": shaped(c * (x + (0.044715 * x) ** 3)),
        "the whole sum is cubed; write x + 0.044715 * x**3": shaped(c * (x + 0.044715 * x) ** 3),
        "0.044715 multiplies x³ alone; mind the brackets": shaped(c * (x + 0.044715) * x**3),
        **{
            f"it is 0.044715, not {wrong}": shaped(c * (x + wrong * x**3))
            for wrong in (0.44715, 0.0044715, 0.04715)
        },
        **{
            f"√(2/π) is not {wrong}; write math.sqrt(2 / math.pi)": shaped(wrong * (x + cube))
            for wrong in (0.8, 0.798)
        },
        "π is not 3.14; write math.pi": shaped(math.sqrt(2 / 3.14) * (x + cube)),
    }


@task
def mlp(kind: Callable[..., Any]) -> str:
    """Check the feed-forward part, and where its dropout acts."""
    yours = _shaken(run(kind, CONFIG))
    _parts(yours, "expand", "proj", "dropout")
    if yours.expand.weight.shape != (48, 12):
        raise Wrong("Not yet: expand must make 4 C channels of C; leave __init__ as it was.")
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    hidden = yours.expand(x)
    bent = F.gelu(hidden, approximate="tanh")
    right = yours.proj(bent)
    causes = {
        "that is the exact GELU; GPT-2 has the form with tanh": yours.proj(F.gelu(hidden)),
        "that is ReLU; GPT-2 has GELU": yours.proj(hidden.relu()),
        "that is SiLU; GPT-2 has GELU": yours.proj(F.silu(hidden)),
        "that is the form with a sigmoid; GPT-2 has the one with tanh": (
            yours.proj(hidden * (1.702 * hidden).sigmoid())
        ),
        "that is tanh alone; GPT-2 has GELU": yours.proj(hidden.tanh()),
        "that is the sigmoid; GPT-2 has GELU": yours.proj(hidden.sigmoid()),
        "there is no activation function between the two matrices": yours.proj(hidden),
        "the activation comes before expand; it belongs between the two matrices": (
            yours.proj(yours.expand(F.gelu(x, approximate="tanh")))
        ),
        "the activation comes after proj; it belongs between the two matrices": (
            F.gelu(yours.proj(hidden), approximate="tanh")
        ),
        "nothing comes after proj but dropout": F.gelu(right, approximate="tanh"),
        "proj is missing: C channels must come out": bent,
        "proj and the activation are missing": hidden,
        "x is added; the block will do that, the MLP returns its own part": x + right,
        "proj's bias is missing; call self.proj": right - yours.proj.bias,
        "expand's bias is missing; call self.expand": yours.proj(
            F.gelu(hidden - yours.expand.bias, approximate="tanh")
        ),
    }
    hints = {"cannot be multiplied": "expand takes C channels and proj takes 4 C: expand first."}
    given = x.clone()
    got = run(yours.forward, given, hints=hints)
    _unchanged(given, x)
    if not torch.equal(got, run(yours.forward, x)):
        raise Wrong("Not yet: dropout acts outside training; use self.dropout.")
    expect(got, right, causes, "the output for (2, 5, 12)")
    own_x, torch_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    bent = F.gelu(yours.expand(torch_x), approximate="tanh")
    _same_gradients(run(yours.forward, own_x), yours.proj(bent), own_x, torch_x)
    careless = run(kind, GPTConfig(n_head=2, n_embd=12, dropout=0.9)).eval()
    if not torch.equal(careless(x), careless(x)):
        raise Wrong("Not yet: dropout acts outside training; use self.dropout.")
    whole, dropped = careless(x), run(careless.train().forward, x)
    if torch.equal(whole, dropped):
        raise Wrong("Not yet: dropout never acts; the last step is self.dropout.")
    if not close(dropped, torch.where(dropped == 0, 0, 10 * whole)):
        raise Wrong("Not yet: dropout must come after proj, and nowhere else.")
    return "Correct: widen, GELU, narrow, dropout."


@task
def block(kind: Callable[..., Any]) -> str:
    """Check how a block reads the stream and adds to it."""
    yours = _shaken(run(kind, CONFIG))
    _parts(yours, "ln_1", "attn", "ln_2", "mlp")
    x = 2 * torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(1))
    one, attn, two, work = yours.ln_1, yours.attn, yours.ln_2, yours.mlp

    def wired(
        first: Callable[[Tensor], Tensor] = lambda x: x + attn(one(x)),
        second: Callable[[Tensor], Tensor] = lambda y: y + work(two(y)),
    ) -> Tensor:
        return second(first(x))

    y = x + attn(one(x))
    right = wired()
    causes = {
        "the norms come after the additions (post-norm); normalise what each part reads": wired(
            lambda x: one(x + attn(x)), lambda y: two(y + work(y))
        ),
        "the norms are missing": wired(lambda x: x + attn(x), lambda y: y + work(y)),
        "nothing is added: each part replaces the stream": wired(
            lambda x: attn(one(x)), lambda y: work(two(y))
        ),
        "attention replaces the stream; add its result": wired(lambda x: attn(one(x))),
        "the MLP replaces the stream; add its result": wired(second=lambda y: work(two(y))),
        "you add to the normalised copy; add to the stream itself": wired(
            lambda x: one(x) + attn(one(x)), lambda y: two(y) + work(two(y))
        ),
        "attention's result is added to the normalised copy; add it to x": wired(
            lambda x: one(x) + attn(one(x))
        ),
        "the MLP's result is added to the normalised copy": wired(
            second=lambda y: two(y) + work(two(y))
        ),
        "ln_1 serves both; the MLP reads through ln_2": wired(second=lambda y: y + work(one(y))),
        "ln_2 serves both; attention reads through ln_1": wired(lambda x: x + attn(two(x))),
        "ln_1 and ln_2 are swapped": wired(lambda x: x + attn(two(x)), lambda y: y + work(one(y))),
        "attention reads the stream without ln_1": wired(lambda x: x + attn(x)),
        "the MLP reads the stream without ln_2": wired(second=lambda y: y + work(y)),
        "the MLP reads the old stream; it must see what attention added": y + work(two(x)),
        "what attention added is lost in the end; the MLP adds to it": x + work(two(y)),
        "the MLP comes after attention, not before": wired(
            lambda x: x + work(two(x)), lambda y: y + attn(one(y))
        ),
        "the norms come after the parts; each part reads a normalised copy": wired(
            lambda x: x + one(attn(x)), lambda y: y + two(work(y))
        ),
        "ln_1 comes after attention; attention reads a normalised copy": wired(
            lambda x: x + one(attn(x))
        ),
        "ln_2 comes after the MLP; the MLP reads a normalised copy": wired(
            second=lambda y: y + two(work(y))
        ),
        "the MLP reads what attention added alone; it must read the whole stream": (
            y + work(two(attn(one(x))))
        ),
        "the MLP is missing": y,
        "attention is missing": x + work(two(x)),
        "the stream is normalised once more at the end; the model does that": two(right),
    }
    given = x.clone()
    hints = {"MLP.forward() takes": "mix is for attention alone; the MLP takes the stream."}
    expect(run(yours.forward, given, hints=hints), right, causes, "the block's output")
    if not torch.equal(given, x):
        raise Wrong("Not yet: += changes the caller's x too; write x = x + ...")

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q + 2 * k + 4 * v

    mixed = x + attn(one(x), mix)
    causes = {"mix is not passed on to attention": right}
    hints = {"positional argument": "forward takes x and mix, which is None if left out."}
    own = run(yours.forward, x, mix, hints=hints)
    expect(own, mixed + work(two(mixed)), causes, "the output with a mix of our own")
    own_x, torch_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = torch_x + attn(one(torch_x))
    _same_gradients(run(yours.forward, own_x), y + work(two(y)), own_x, torch_x)
    _judge_dropout(run(kind, GPTConfig(n_head=2, n_embd=12, dropout=0.5)), x)
    return "Correct: it reads normalised copies, adds to the stream, and passes mix on."


def _judge_dropout(yours: Any, x: Tensor) -> None:
    """See that a block in training drops what its two parts drop, and nothing else."""
    state = torch.get_rng_state()
    outputs = []
    for forward in (
        yours.forward,
        lambda x: (y := x + yours.attn(yours.ln_1(x))) + yours.mlp(yours.ln_2(y)),
    ):
        torch.manual_seed(0)
        outputs.append(run(forward, x))
    torch.set_rng_state(state)
    if not close(*outputs):
        raise Wrong("Not yet: attention and the MLP have dropout of their own; add none here.")


INTO = "Write into them, as p.zero_() does; p = ... would only give the name p to another tensor."


@task
def initialize(function: Callable[..., None]) -> str:
    """Check the spread of each kind of weight, the biases, the gains and the generator."""

    @wraps(function)
    def applied(model: nn.Module, generator: torch.Generator) -> nn.Module:
        function(model, 8, generator)
        return model

    def drawn(seed: int) -> tuple[dict[str, Tensor], bool]:
        model = GPT(GPTConfig(300, 40, 8, 4, 64), torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "ln" not in name:  # the norms start as PyTorch makes them, and so they may stay
                    parameter.fill_(0.5)
        hint = "Wrap it in torch.no_grad(), or use nn.init, which does."
        before = torch.get_rng_state()
        hints = {"leaf Variable": hint, "leaf variable": hint}
        run(applied, model, torch.Generator().manual_seed(seed), hints=hints)
        untouched = torch.equal(before, torch.get_rng_state())
        return {name: value.detach() for name, value in model.named_parameters()}, untouched

    values, untouched = drawn(1)
    kinds = _kinds(values)
    if all((value == 0.5).all() for name, value in values.items() if "ln" not in name):
        if not _used(function):
            raise Wrong("Not written yet: initialize changes nothing.")
        raise Wrong(f"Not yet: the parameters are as they were. {INTO}")
    for name, value in kinds.items():
        if value.isnan().any():
            raise Wrong(f"Not yet: there is nan in {name}.")
    _judge_biases(values)
    _judge_spread(kinds)
    short = GPT(GPTConfig(9, 4, n_layer=1, n_head=4, n_embd=64))
    attempt(function, short, 2, torch.Generator().manual_seed(0))
    if abs(short.blocks[0].mlp.proj.weight.std().item() / 0.01 - 1) > 0.1:
        raise Wrong("Not yet: L is n_layer, which is given; don't count the blocks of the model.")
    if not untouched:
        raise Wrong("Not yet: the spread is right, but generator is not used; pass it on.")
    if any(not torch.equal(value, values[name]) for name, value in drawn(1)[0].items()):
        raise Wrong("Not yet: the same seed must draw the same weights.")
    if all(torch.equal(value, values[name]) for name, value in drawn(2)[0].items()):
        raise Wrong("Not yet: another seed must draw others; use the generator that is given.")
    return "Correct: 0.02 for the matrices, less for both proj, biases 0, gains 1."


def _kinds(values: dict[str, Tensor]) -> dict[str, Tensor]:
    ends = {
        "attn.proj": "attn.proj.weight",
        "mlp.proj": "mlp.proj.weight",
        "qkv": "qkv.weight",
        "expand": "expand.weight",
        "the token table": "token_embedding.weight",
        "the position table": "position_embedding.weight",
    }
    return {
        kind: torch.cat([v.flatten() for name, v in values.items() if name.endswith(end)])
        for kind, end in ends.items()
    }


def _judge_biases(values: dict[str, Tensor]) -> None:
    biases = torch.cat([v.flatten() for name, v in values.items() if name.endswith("bias")])
    gains = torch.cat([v.flatten() for n, v in values.items() if "ln" in n and "weight" in n])
    if (biases == 0.5).any():
        raise Wrong(f"Not yet: some biases are left as they were; set them to 0. {INTO}")
    if (biases != 0).any():
        raise Wrong("Not yet: the biases are drawn; set them to 0.")
    if (gains != 1).any():
        raise Wrong(
            "Not yet: the gains of the norms must stay 1. They end with weight too, but have one "
            "dimension: a matrix has parameter.dim() == 2."
        )


def _judge_spread(kinds: dict[str, Tensor]) -> None:
    spread = {kind: value.std().item() / 0.02 for kind, value in kinds.items()}
    plain = {kind: s for kind, s in spread.items() if not kind.endswith("proj")}

    def near(value: float, other: float) -> bool:
        return abs(value / other - 1) < 0.1

    if all(near(s, 1 if kind.endswith("proj") else 0.25) for kind, s in spread.items()):
        raise Wrong("Not yet: the two proj of a block are divided by √(2L); you divide the others.")
    for kind, s in plain.items():
        if s == 0:
            raise Wrong(f"Not yet: {kind} is not drawn.")
        if near(s, 1 / 0.02) and abs(kinds[kind].mean() - 0.02) < 0.01:
            raise Wrong("Not yet: 0.02 became the mean; give it by name, std=0.02.")
        if near(s, 0.25):
            raise Wrong(f"Not yet: {kind} is scaled too; only the two proj of a block are.")
        if near(s, math.sqrt(0.02) / 0.02) or near(s, 0.02):
            raise Wrong("Not yet: 0.02 is the standard deviation, not the variance.")
        if not near(s, 1):
            raise Wrong(f"Not yet: {kind} has standard deviation {0.02 * s:.4f}, not 0.02.")
    causes = {
        1.0: "is not scaled; it writes to the stream, so divide by √(2L)",
        1 / math.sqrt(8): "is divided by √L; two parts of each block write, so it is √(2L)",
        1 / 16: "is divided by 2L; take the root",
        1 / 8: "is divided by L; it must be √(2L)",
        1 / 32: f"is divided by 4L, not by √(2L). {POWER}",
        4.0: "is multiplied by √(2L); divide",
        1 / math.sqrt(2): "is divided by √2; L counts too: √(2L)",
    }
    for kind in ("attn.proj", "mlp.proj"):
        if not near(spread[kind], 0.25):
            found = (text for s, text in causes.items() if near(spread[kind], s))
            measured = f"has standard deviation {0.02 * spread[kind]:.4f}, not 0.02 / √(2L)"
            raise Wrong(f"Not yet: {kind} {next(found, measured)}.")
    for kind, value in kinds.items():
        if value.mean().abs() > 0.2 * value.std():
            raise Wrong(f"Not yet: the mean of {kind} is not 0.")
        if (value.abs() > 2 * value.std()).float().mean() < 0.01:
            raise Wrong(f"Not yet: {kind} is drawn evenly; take a normal distribution.")


@task
def gpt(kind: Callable[..., Any]) -> str:
    """Check the model step by step: head, stream, logits, and that head and table are one."""
    hints = {"cannot assign": "Assign the parameter: ... = self.embed.token_embedding.weight"}
    yours = _shaken(run(kind, CONFIG, hints=hints))
    if isinstance(getattr(yours, "head", None), nn.Embedding | Tensor):
        raise Wrong("Not yet: head must stay a layer; assign to self.head.weight, not self.head.")
    _parts(yours, "embed", "blocks", "ln_f", "head")
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(23, (2, 6), generator=generator)
    x = 2 * torch.randn(2, 6, 12, generator=generator)
    table = yours.embed.token_embedding.weight
    if yours.head.weight.shape != table.shape:
        flipped = yours.head.weight.shape == table.T.shape
        do = "don't transpose it" if flipped else "take self.embed.token_embedding's"
        raise Wrong(f"Not yet: the head's weight is (V, C) as the table of tokens is; {do}.")
    logits = yours.head(yours.ln_f(x))
    causes = {
        "you score with the embedding's table; tie the head in __init__, and use self.head": (
            yours.ln_f(x) @ table.T
        ),
        "ln_f is missing: the head reads a normalised copy": yours.head(x),
        "ln_f is applied twice": yours.head(yours.ln_f(yours.ln_f(x))),
        "the head is missing: V scores must come out": yours.ln_f(x),
        "those are probabilities; return the logits": logits.softmax(-1),
        "those are logarithms of probabilities; return the logits": logits.log_softmax(-1),
        "only the last position is scored; score all T": logits[:, -1],
        "only the last position is scored; score all of them": logits[:, -1:],
        "those are the likeliest tokens; return the logits": logits.argmax(-1),
    }
    order = {"normalized_shape": "ln_f takes C channels, and head makes V of them: ln_f first."}
    scores, early = run(yours.unembed, x, hints=order), attempt(yours.stream, tokens)
    if close(scores, yours.head(x)) and isinstance(early, Tensor):
        normed = yours.ln_f(_through(yours.embed(tokens), yours.blocks))
        if close(early, normed):
            raise Wrong("Not yet: ln_f is in stream; it belongs to unembed, before the head.")
    expect(scores, logits, causes, "what unembed returns")
    stream = _check_stream(yours, tokens)
    deep = _shaken(run(kind, replace(CONFIG, n_layer=13)))
    through = _through(deep.embed(tokens), deep.blocks, [None] * 13)
    if not close(run(deep.stream, tokens), through, 1e-3):
        raise Wrong("Not yet: the number of blocks is config's; take len(self.blocks).")
    right = yours.unembed(stream)
    causes = {
        "forward returns the stream; unembed makes logits of it": stream,
        "ln_f is missing; call unembed, which holds it": yours.head(stream),
        "ln_f is applied twice; unembed holds it": yours.unembed(yours.ln_f(stream)),
        "those are probabilities; return the logits": right.softmax(-1),
        "only the last position is scored; score all T": right[:, -1],
        "only the last position is scored; score all of them": right[:, -1:],
        "those are the likeliest tokens; return the logits": right.argmax(-1),
        "the blocks are skipped": yours.unembed(yours.embed(tokens)),
    }
    once = {
        "cannot be multiplied": "unembed holds ln_f and head: forward calls it once, at the end."
    }
    expect(run(yours.forward, tokens, hints=once), right, causes, "the logits")
    if yours.head.weight is not table:
        copied = "token_embedding" in _used(kind.__init__)
        more = (
            "a copy is not enough: both must be one parameter" if copied else "one line ties them"
        )
        raise Wrong(
            f"Not yet: the head has a table of its own; {more}. In __init__ assign the embedding's "
            "weight to self.head.weight."
        )
    _judge_training(yours, tokens, run(kind, replace(CONFIG, dropout=0.9)))
    if (yours.head.weight.detach() == run(kind, CONFIG).head.weight).all():
        raise Wrong("Not yet: two models of the class share their weights.")
    if run(kind, CONFIG).head.weight.std() > 0.1:
        raise Wrong("Not yet: the starting weights are PyTorch's; leave the call of initialize.")
    return "Correct: tokens to stream to logits, with one table at both ends."


def _judge_training(yours: Any, tokens: Tensor, careless: Any) -> None:
    """See that the loss reaches all parameters, and that only embed and the blocks drop values."""
    right = yours.head(yours.ln_f(_through(yours.embed(tokens), yours.blocks)))
    parameters = dict(yours.named_parameters())
    found = torch.autograd.grad(
        right.sum(), [*parameters.values()], allow_unused=True, retain_graph=True
    )
    used = {name for name, gradient in zip(parameters, found, strict=True) if gradient is not None}
    parameters = {name: value for name, value in parameters.items() if name in used}
    theirs = _gradients(right, parameters)
    for name, gradient in _gradients(yours(tokens), parameters).items():
        expect(gradient, theirs[name], {}, f"the gradient of {name}", atol=1e-2)
    for on in (True, False):
        same = torch.equal(*(run(careless.train(on).forward, tokens) for _ in range(2)))
        if same == on or careless.blocks[0].training != on:
            raise Wrong(
                "Not yet: dropout must act in training and only there; leave eval() and train() to "
                "the caller."
            )
    for name, parameter in careless.named_parameters():
        if ".proj." in name:
            nn.init.zeros_(parameter)  # the blocks add nothing: the stream is what embed made
    whole, dropped = (run(careless.train(on).stream, tokens) for on in (False, True))
    if torch.equal(whole, dropped):
        raise Wrong("Not yet: the embedding's dropout never acts; call self.embed(tokens).")
    if not close(dropped, torch.where(dropped == 0, 0, 10 * whole)):
        raise Wrong("Not yet: embed and blocks have dropout of their own; add none here.")


def _through(x: Tensor, blocks: Any, mixes: Any = (None, None, None)) -> Tensor:
    for each, mix in zip(blocks, mixes, strict=False):
        x = each(x, mix)
    return x


def _check_stream(yours: Any, tokens: Tensor) -> Tensor:
    embedded = yours.embed(tokens)

    blocks = list(yours.blocks)
    right = _through(embedded, blocks)
    causes = {
        "the positions are missing; self.embed adds them": _through(
            yours.embed.token_embedding(tokens), blocks
        ),
        "the blocks run backwards": _through(embedded, blocks[::-1]),
        "only the first block runs": _through(embedded, blocks[:1]),
        "the first block runs each time": _through(embedded, blocks[:1] * 3),
        "every block runs once for each mix; zip goes through both in step": _through(
            embedded, [each for each in blocks for _ in blocks], [None] * 9
        ),
        "the last block is skipped": _through(embedded, blocks[:2]),
        "the first block is skipped": _through(embedded, blocks[1:]),
        "each block reads the embedding; it must read what the one before it made": (
            blocks[-1](embedded)
        ),
        "the blocks are missing": embedded,
        "each block's output is added once more; a block adds by itself": _twice(embedded, blocks),
        "ln_f comes too early; it belongs to unembed": yours.ln_f(right),
        "stream returns the stream (B, T, C); unembed makes logits of it": yours.unembed(right),
    }
    without = {
        "'NoneType' object is not": "mixes may be None: then every block gets None.",
        "mixed dtype": "The blocks take vectors; self.embed makes them of tokens.",
    }
    expect(run(yours.stream, tokens, hints=without), right, causes, "what stream returns")
    scales = (1.0, 2.0, 4.0)
    mixes = [lambda q, k, v, s=s: s * (q + v) for s in scales]
    causes = {
        "the mixes are ignored; each block gets its own": right,
        "every block gets the first mix; block and mix go in step": _through(
            embedded, blocks, mixes[:1] * 3
        ),
        "every block gets the last mix; block and mix go in step": _through(
            embedded, blocks, mixes[-1:] * 3
        ),
        "the mixes come backwards": _through(embedded, blocks, mixes[::-1]),
        "only the first block gets its mix": _through(embedded, blocks, [*mixes[:1], None, None]),
        "only the last block gets its mix": _through(embedded, blocks, [None, None, *mixes[2:]]),
    }
    hints = {
        "positional argument": "stream takes tokens and mixes, which is None if left out.",
        "not callable": "mixes is a list; each block gets one of its functions.",
    }
    own = run(yours.stream, tokens, mixes, hints=hints)
    expect(own, _through(embedded, blocks, mixes), causes, "the stream with a mix for each block")
    return right


def _twice(x: Tensor, blocks: Any) -> Tensor:
    for each in blocks:
        x = x + each(x)
    return x


@says
def rms_norm(answer: Answer) -> str:
    """Check `rms_norm(x, gain, eps)`, exercise 1."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(2, 5, 8, generator=generator)  # (B, T, C)
    gain, eps = torch.rand(8, generator=generator) + 0.5, 1e-5
    given = x.clone()
    got = run(answer, given, gain, eps, hints=KEEPDIM | SCALAR)
    _by_hand(answer, "rms_norm", "RMSNorm")
    _unchanged(given, x)
    mean_square = x.square().mean(-1, keepdim=True)
    root, mean = (mean_square + eps).sqrt(), x.mean(-1, keepdim=True)
    deviation = "you divide by the standard deviation, which subtracts the mean inside"
    causes = {
        "you subtract the mean; RMSNorm doesn't": F.layer_norm(x, (8,), gain, None, eps),
        "you divide by the mean of the squares; take its root": gain * x / (mean_square + eps),
        f"you divide by half the mean of the squares, not by its root. {POWER}": (
            gain * x / (mean_square + eps) * 2
        ),
        f"you divide by the mean of the squares and by 2, not by its root. {POWER}": (
            gain * x / (mean_square + eps) / 2
        ),
        "you divide by the mean of |x|; take the root of the mean of x²": (
            gain * x / (x.abs().mean(-1, keepdim=True) + eps)
        ),
        "you square the mean; take the mean of the squares": gain * x / (mean**2 + eps).sqrt(),
        "the gain is missing": F.rms_norm(x, (8,), None, eps),
        "the gain multiplies as it is; don't add 1": F.rms_norm(x, (8,), 1 + gain, eps),
        "you sum the squares; take their mean": gain * x / (mean_square * 8 + eps).sqrt(),
        "you take the mean over the whole tensor; take it over the channels, dim=-1": (
            gain * x / (x.square().mean() + eps).sqrt()
        ),
        "you take the mean over the positions; take it over the channels, dim=-1": (
            gain * x / (x.square().mean(-2, keepdim=True) + eps).sqrt()
        ),
        deviation: gain * x / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt(),
        f"{deviation} (and divides by C - 1)": gain * x / (x.var(-1, keepdim=True) + eps).sqrt(),
        "you subtract the mean above the line; RMSNorm doesn't": gain * (x - mean) / root,
        "you multiply by the root; divide by it": gain * x * root,
    }
    expect(got, F.rms_norm(x, (8,), gain, eps), causes, "the result for (2, 5, 8)")
    small = x / 1000
    mean_square = small.square().mean(-1, keepdim=True)
    tiny = "right for usual numbers, but for tiny ones"
    causes = {
        f"{tiny} eps is outside the root; add it to the mean": (
            gain * small / (mean_square.sqrt() + eps)
        ),
        f"{tiny} eps is missing": gain * small / mean_square.sqrt(),
    }
    got = run(answer, small.clone(), gain, eps)
    expect(got, F.rms_norm(small, (8,), gain, eps), causes, "a tiny x")
    causes = {"eps is given, and you don't use it": F.rms_norm(x, (8,), gain, eps)}
    got = run(answer, x.clone(), gain, 0.5)
    expect(got, F.rms_norm(x, (8,), gain, 0.5), causes, "the result for eps 0.5")
    own_x, torch_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    root = (torch_x.square().mean(-1, keepdim=True) + eps).sqrt().detach()
    cut = "no gradient goes through the root; leave out detach, no_grad and item"
    causes = {cut: _gradients(gain * torch_x / root, {"x": torch_x})["x"]}
    own, right = run(answer, own_x, gain, eps, hints=NUMPY), F.rms_norm(torch_x, (8,), gain, eps)
    _same_gradients(own, right, own_x, torch_x, causes=causes)
    x, gain = x[..., :6], gain[:6]
    got, right = run(answer, x, gain, eps, hints={"": WIDTH}), F.rms_norm(x, (6,), gain, eps)
    expect(got, right, {}, "the result for 6 channels", otherwise=WIDTH)
    return "Correct: equal to F.rms_norm for numbers of usual size and for very small ones."


@says
def parameters(answer: Answer) -> str:
    """Check `parameters(config)`, exercise 2."""
    configs = [
        GPTConfig(),
        GPTConfig(vocab_size=1000, context_length=64, n_layer=3, n_head=2, n_embd=48),
        GPTConfig(vocab_size=77, context_length=10, n_layer=5, n_head=1, n_embd=6),
    ]
    gaps = [_gap(answer, config) for config in configs]
    if _used(answer) & {"count_parameters", "GPT", "numel"}:
        return "Not yet: compute it from the configuration's numbers, without building a model."
    if not any(gaps):
        if isinstance(run(answer, configs[0]), float):
            return "Not yet: the numbers are right; return them as int, a float may round."
        return "Correct: GPT-2 small and two small models have exactly as many."
    slips = _slips(_shares(answer))
    if len(slips) == 1:
        return f"Not yet: {slips[0]}."
    if len(slips) == 2:
        return f"Not yet: two slips: (1) {slips[0]}; (2) {slips[1]}."
    config, gap = next(pair for pair in zip(configs, gaps, strict=True) if pair[1])
    right = count_parameters(config)["total"]
    return (
        f"Not yet: {config.n_layer} layers of width {config.n_embd} need {right:,}; you say "
        f"{right + gap:,.0f}, {abs(gap):,.0f} {'more' if gap > 0 else 'fewer'}."
    )


def _gap(answer: Answer, config: GPTConfig) -> float:
    """Say how many parameters too many an answer counts; below 0 it is too few."""
    return number_of(answer, config, wanted="of parameters") - count_parameters(config)["total"]


TERMS: dict[str, Callable[[GPTConfig], int]] = {
    "LC²": lambda c: c.n_layer * c.n_embd**2,
    "LC": lambda c: c.n_layer * c.n_embd,
    "C²": lambda c: c.n_embd**2,
    "C": lambda c: c.n_embd,
    "VC": lambda c: c.vocab_size * c.n_embd,
    "TC": lambda c: c.context_length * c.n_embd,
    "LVC": lambda c: c.n_layer * c.vocab_size * c.n_embd,
    "LTC": lambda c: c.n_layer * c.context_length * c.n_embd,
    "V": lambda c: c.vocab_size,
    "T": lambda c: c.context_length,
}
"""What the number of parameters may be a sum of."""


def _shares(answer: Answer) -> dict[str, int]:
    """Find how many of each term too many an answer counts; none if it is no such sum."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 9, (20, 4), generator=draw).tolist()
    configs = [GPTConfig(v, t, n, 1, c) for v, t, n, c in sizes]
    rows = torch.tensor([[term(c) for term in TERMS.values()] for c in configs]).double()
    gaps = torch.tensor([_gap(answer, config) for config in configs], dtype=torch.float64)
    if not gaps.isfinite().all():
        return {}
    shares = torch.linalg.lstsq(rows, gaps).solution.round()
    found = dict(zip(TERMS, map(int, shares.tolist()), strict=True))
    return {name: s for name, s in found.items() if s} if torch.equal(rows @ shares, gaps) else {}


SLIPS: dict[str, dict[str, int]] = {
    "what is outside the blocks is counted in each; mind the brackets": {
        "LVC": 1,
        "VC": -1,
        "LTC": 1,
        "TC": -1,
        "LC": 2,
        "C": -2,
    },
    "the two tables are counted in each block; they come once": {
        "LVC": 1,
        "VC": -1,
        "LTC": 1,
        "TC": -1,
    },
    "you counted one block only; multiply by n_layer": {"LC²": -12, "LC": -13, "C²": 12, "C": 13},
    "ln_f comes once, after the blocks; you count it in each": {"LC": 2, "C": -2},
    "all norms are missing, it seems: 4C in each block, 2C outside": {"LC": -4, "C": -2},
    "2C are missing in each block, C outside, as many as the norms' biases": {"LC": -2, "C": -1},
    "11C are missing in each block, C outside, as many as all biases": {"LC": -11, "C": -1},
    "the two tables are missing, of tokens and of positions": {"VC": -1, "TC": -1},
    "the table of tokens has C numbers a row; you counted one": {"VC": -1, "V": 1},
    "the table of positions has C numbers a row; you counted one": {"TC": -1, "T": 1},
    "you forgot the table of tokens": {"VC": -1},
    "you forgot the table of positions": {"TC": -1},
    "you counted a bias of the output layer; it has none": {"V": 1},
    "you counted the output layer too; it is the token embedding's own table": {"VC": 1},
    "you forgot the last norm, ln_f": {"C": -2},
    "C is missing outside the blocks: ln_f has a gain and a bias": {"C": -1},
    "C is missing in each block: a proj's biases, or half a norm": {"LC": -1},
    "2C are missing in each block: a norm, both norms' biases, both proj's, or two of qkv's": {
        "LC": -2
    },
    "3C are missing in each block: qkv's biases, or three of expand's 4C": {"LC": -3},
    "4C are missing in each block: both norms, expand's biases, or attention's": {"LC": -4},
    "5C are missing in each block: the MLP's biases, or you counted C for each matrix; the four "
    "have 3C, C, 4C and C": {"LC": -5},
    "9C are missing in each block, as many as the four matrices have biases": {"LC": -9},
    "C² is missing in each block: attention's output projection, or a slip in 3 + 1 + 4 + 4": {
        "LC²": -1
    },
    "2C² are missing in each block: qkv makes three vectors, so it has 3C² weights": {"LC²": -2},
    "3C² are missing in each block: qkv's weights, or three of an MLP matrix's 4C²": {"LC²": -3},
    "4C² are missing in each block: one of the MLP's two matrices, or both of attention's": {
        "LC²": -4
    },
    "8C² are missing in each block: the MLP's two matrices": {"LC²": -8},
}
"""What leads to which shares: those of several terms first."""
UNITS = {
    "LC²": "C²{} in each block; the matrices have 3C², C², 4C² and 4C²",
    "LC": "C{} in each block; the biases are 3C, C, 4C and C, and a norm has 2C",
    "LVC": "VC{} in each block",
    "LTC": "TC{} in each block",
}


def _slips(shares: dict[str, int]) -> list[str]:
    """Say in words where the shares of an answer come from."""
    k = shares.get("C²", 0) // 12
    if k > 1 and shares == {"LC²": -12, "LC": -13, "C²": 12 * k, "C": 13 * k}:
        return [f"you count {k} blocks whatever the configuration says; take n_layer"]
    slips = []
    for text, pattern in SLIPS.items():
        if pattern.items() <= shares.items():
            slips.append(text)
            shares = {term: share for term, share in shares.items() if term not in pattern}
    for term, share in shares.items():
        unit = UNITS.get(term, f"{term}{{}} outside the blocks")
        times = abs(share) if abs(share) > 1 else ""
        slips.append(f"{times}{unit.format(' too many' if share > 0 else ' too few')}")
    return slips
