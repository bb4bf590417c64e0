"""Check the tasks and exercises of the chapter on the model."""

import math
from collections.abc import Callable
from functools import wraps
from itertools import combinations
from pathlib import Path
from typing import Any

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
from gptlib.gpt2 import GPT, Block, GPTConfig, count_parameters

CONFIG = GPTConfig(vocab_size=23, context_length=8, n_layer=3, n_head=2, n_embd=12)
WIDTH = "It is right for 8 channels; take their number from x, as x.size(-1) or mean(-1) does."
KEEPDIM = {"must match the size": "Keep the dimension when you take the mean: keepdim=True."}


def golden() -> tuple[GPT, dict[str, Tensor]]:
    """Open a tiny GPT-2 of transformers, and what each of its stages handed on."""
    folder = Path(__file__).parents[3] / "tests" / "golden" / "hf-tiny"
    return load_model(folder)[0], load_file(folder / "activations.safetensors")


def _by_hand(answer: Answer, *names: str) -> None:
    used = getattr(getattr(answer, "__code__", None), "co_names", ())
    if any(name in used for name in names):
        raise Wrong("Not yet: write it by hand, without PyTorch's own.")


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
    got = run(function, given, gain, bias, hints=KEEPDIM | keep)
    _by_hand(function, "layer_norm", "LayerNorm", "native_layer_norm")
    if not torch.equal(given, x):
        raise Wrong("Not yet: you change the caller's x; write x - ..., not x -= ...")
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
    own_x, torch_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    large = F.layer_norm(x, (8,), gain, bias, 0.5)
    causes = {"eps is given, and you don't use it": F.layer_norm(x, (8,), gain, bias)}
    expect(run(function, x, gain, bias, 0.5, hints=keep), large, causes, "the result for eps 0.5")
    right = F.layer_norm(torch_x, (8,), gain, bias)
    _same_gradients(run(function, own_x, gain, bias), right, own_x, torch_x, atol=1e-2)
    x, gain, bias = 1000 * x[..., :6], gain[:6], bias[:6]
    got, right = run(function, x, gain, bias, hints={"": WIDTH}), F.layer_norm(x, (6,), gain, bias)
    expect(got, right, {}, "the result for 6 channels", otherwise=WIDTH)
    return "Correct: equal to PyTorch's in value and gradient, for usual and for tiny numbers."


def _same_gradients(own: Tensor, right: Tensor, *sources: Tensor, atol: float = 1e-5) -> None:
    """Compare the gradients that come back to the reader's x and to ours, a pair of sources."""
    own_x, torch_x = sources
    if not own.requires_grad:
        raise Wrong(
            "Not yet: no gradient comes back to x; stay in PyTorch, without detach and no_grad."
        )
    for output in (own, right):
        output.square().sum().backward()
    assert torch_x.grad is not None
    expect(own_x.grad, torch_x.grad, {}, "the gradient of x", atol=atol)


@task
def gelu(function: Callable[[Tensor], Tensor]) -> str:
    """Check GELU in the form with tanh."""
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    c = math.sqrt(2 / math.pi)
    inner = x + 0.044715 * x**3
    causes = {
        "that is the exact GELU, with erf; GPT-2 has the form with tanh": F.gelu(x),
        "that is ReLU": x.relu(),
        "the half is missing": x * (1 + torch.tanh(c * inner)),
        "the 1 + is missing": x / 2 * torch.tanh(c * inner),
        "the factor √(2/π) is missing": x / 2 * (1 + torch.tanh(inner)),
        "√(2/π) must multiply x³ too; mind the brackets": (
            x / 2 * (1 + torch.tanh(c * x + 0.044715 * x**3))
        ),
        "the root of 2/π is missing": x / 2 * (1 + torch.tanh(2 / math.pi * inner)),
        f"2/π is halved; take its root. {POWER}": x / 2 * (1 + torch.tanh(inner / math.pi)),
        "the x³ is missing": x / 2 * (1 + torch.tanh(c * x)),
        "0.044715 multiplies x³, not x": x / 2 * (1 + torch.tanh(c * (0.044715 * x + x**3))),
        "it must be x³; you took x²": x / 2 * (1 + torch.tanh(c * (x + 0.044715 * x**2))),
        "the x in front is missing": (1 + torch.tanh(c * inner)) / 2,
        "that is the form with a sigmoid; GPT-2 has the one with tanh": x * (1.702 * x).sigmoid(),
        "that is SiLU; GPT-2 has the form with tanh": F.silu(x),
    }
    right = F.gelu(x, approximate="tanh")
    hints = {
        "converted to Python scalars": "math.tanh takes one number; torch.tanh takes a tensor.",
        "must be Tensor, not float": "torch.sqrt takes a tensor; write math.sqrt(2 / math.pi).",
    }
    given = x.clone()
    got = run(function, given, hints=hints)
    _by_hand(function, "gelu", "GELU")
    if not torch.equal(given, x):
        raise Wrong("Not yet: you change the caller's x; make a new tensor.")
    otherwise = "gelu(1) is 0.8412: compare √(2/π), 0.044715 and the brackets."
    expect(got, right, causes, "gelu of the numbers from -4 to 4", otherwise=otherwise)
    own_x, torch_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    hints = {"requires grad": "Stay in PyTorch: NumPy and Python numbers lose the gradient."}
    right = F.gelu(torch_x, approximate="tanh")
    _same_gradients(run(function, own_x, hints=hints), right, own_x, torch_x)
    return "Correct: equal to PyTorch's from -4 to 4."


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
    if not torch.equal(run(yours.forward, x, hints=hints), run(yours.forward, x)):
        raise Wrong("Not yet: dropout acts outside training; use self.dropout.")
    expect(run(yours.forward, x, hints=hints), right, causes, "the output for (2, 5, 12)")
    own_x, torch_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    bent = F.gelu(yours.expand(torch_x), approximate="tanh")
    _same_gradients(run(yours.forward, own_x), yours.proj(bent), own_x, torch_x)
    careless = run(kind, GPTConfig(n_head=2, n_embd=12, dropout=0.9)).eval()
    if not torch.equal(careless(x), careless(x)):
        raise Wrong("Not yet: dropout acts outside training; use self.dropout.")
    whole, dropped = careless(x), careless.train()(x)
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
        yours,
        lambda x: (y := x + yours.attn(yours.ln_1(x))) + yours.mlp(yours.ln_2(y)),
    ):
        torch.manual_seed(0)
        outputs.append(forward(x))
    torch.set_rng_state(state)
    if not close(*outputs):
        raise Wrong("Not yet: attention and the MLP have dropout of their own; add none here.")


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
                parameter.fill_(1 if name.endswith("weight") and parameter.dim() == 1 else 0.5)
        hint = "Wrap it in torch.no_grad(), or use nn.init, which does."
        before = torch.get_rng_state()
        hints = {"leaf Variable": hint, "leaf variable": hint}
        run(applied, model, torch.Generator().manual_seed(seed), hints=hints)
        untouched = torch.equal(before, torch.get_rng_state())
        return {name: value.detach() for name, value in model.named_parameters()}, untouched

    values, untouched = drawn(1)
    kinds = _kinds(values)
    if all((value == 0.5).all() for name, value in values.items() if "ln" not in name):
        raise Wrong("Not written yet: initialize changes nothing.")
    for name, value in kinds.items():
        if value.isnan().any():
            raise Wrong(f"Not yet: there is nan in {name}.")
    _judge_biases(values)
    _judge_spread(kinds)
    short = Block(GPTConfig(n_head=4, n_embd=64))
    attempt(function, short, 2, torch.Generator().manual_seed(0))
    if abs(short.mlp.proj.weight.std().item() / 0.01 - 1) > 0.1:
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
        raise Wrong("Not yet: some biases are left as they were; set them to 0.")
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

    for kind, s in plain.items():
        if s == 0:
            raise Wrong(f"Not yet: {kind} is not drawn.")
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
        raise Wrong("Not yet: the head's weight is (V, C) as the table is; don't transpose it.")
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
    }
    scores, early = run(yours.unembed, x), attempt(yours.stream, tokens)
    if close(scores, yours.head(x)) and isinstance(early, Tensor):
        normed = yours.ln_f(_through(yours.embed(tokens), yours.blocks))
        if close(early, normed):
            raise Wrong("Not yet: ln_f is in stream; it belongs to unembed, before the head.")
    expect(scores, logits, causes, "what unembed returns")
    stream = _check_stream(yours, tokens)
    right = yours.unembed(stream)
    causes = {
        "forward returns the stream; unembed makes logits of it": stream,
        "ln_f is missing; call unembed, which holds it": yours.head(stream),
        "ln_f is applied twice; unembed holds it": yours.unembed(yours.ln_f(stream)),
        "those are probabilities; return the logits": right.softmax(-1),
        "only the last position is scored; score all T": right[:, -1],
        "only the last position is scored; score all of them": right[:, -1:],
        "the blocks are skipped": yours.unembed(yours.embed(tokens)),
    }
    expect(run(yours.forward, tokens), right, causes, "the logits")
    if yours.head.weight is not table:
        same = torch.equal(yours.head.weight, table)
        more = "a copy is not enough: both must be one parameter" if same else "one line ties them"
        raise Wrong(
            f"Not yet: the head has a table of its own; {more}. In __init__ assign the embedding's "
            "weight to self.head.weight."
        )
    if (yours.head.weight.detach() == run(kind, CONFIG).head.weight).all():
        raise Wrong("Not yet: two models of the class share their weights.")
    if run(kind, CONFIG).head.weight.std() > 0.1:
        raise Wrong("Not yet: the starting weights are PyTorch's; leave the call of initialize.")
    return "Correct: tokens to stream to logits, with one table at both ends."


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
    without = {"'NoneType' object is not": "mixes may be None: then every block gets None."}
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
    got = run(answer, x.clone(), gain, eps, hints=KEEPDIM)
    _by_hand(answer, "rms_norm", "RMSNorm")
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
        "you square the mean; take the mean of the squares": gain * x / (mean**2 + eps).sqrt(),
        "the gain is missing": F.rms_norm(x, (8,), None, eps),
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
    results = [number_of(answer, config, wanted="of parameters") for config in configs]
    offs: dict[str, Callable[[GPTConfig], int]] = {
        "You counted a bias of the output layer; it has none": lambda c: c.vocab_size,
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
        "You forgot one of the MLP's two matrices": lambda c: -4 * c.n_layer * c.n_embd**2,
        "A matrix has a bias for each of its outputs: 3C, C, 4C and C": (
            lambda c: -5 * c.n_layer * c.n_embd
        ),
        "You forgot attention's output projection": lambda c: -c.n_layer * c.n_embd**2,
        "qkv makes three vectors, so it has 3C² weights; you counted C²": (
            lambda c: -2 * c.n_layer * c.n_embd**2
        ),
        "You forgot qkv's 3C² weights": lambda c: -3 * c.n_layer * c.n_embd**2,
        "You forgot qkv's 3C biases": lambda c: -3 * c.n_layer * c.n_embd,
        "2C are missing in each block: one of its norms, both norms' biases, or two of qkv's": (
            lambda c: -2 * c.n_layer * c.n_embd
        ),
    }
    expected = [count_parameters(config)["total"] for config in configs]
    used = getattr(getattr(answer, "__code__", None), "co_names", ())
    if {"count_parameters", "GPT", "numel"} & {*used}:
        return "Not yet: compute it from the configuration's numbers, without building a model."
    if results == expected:
        if isinstance(run(answer, configs[0]), float):
            return "Not yet: the numbers are right; return them as int, a float may round."
        return "Correct: GPT-2 small and two small models have exactly as many."
    pairs = list(zip(configs, expected, results, strict=True))
    for text, off in offs.items():
        if all(got == right + off(config) for config, right, got in pairs):
            return f"Not yet: {text[0].lower()}{text[1:]}."
    for (text, off), (other, off_too) in combinations(offs.items(), 2):
        if all(got == right + off(config) + off_too(config) for config, right, got in pairs):
            return f"Not yet: two slips. {text}. {other}."
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
