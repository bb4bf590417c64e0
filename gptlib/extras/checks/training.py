"""Checks of the exercises of chapter 5: each says what is right, or which step is off."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gptlib.extras.checks.answers import Answer, attempt, close, named, number_of, run, says, what
from gptlib.training import TrainingConfig, bits_per_byte


class _Called(TorchFunctionMode):
    """Note which of PyTorch's functions an answer calls, whatever names it has for them."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


@says
def stable_loss(answer: Answer) -> str:
    """Check `stable_loss(logits, targets)`, exercise 1."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator)
    targets = torch.tensor([0, 4, 2, 2, 1, 3])
    with _Called() as called:
        value = number_of(answer, logits.clone(), targets, wanted="the mean over the positions")
    if F.cross_entropy in called.functions:
        return "Not yet: you call F.cross_entropy; write it yourself, with logsumexp."
    right = F.cross_entropy(logits, targets).item()
    probabilities = logits.softmax(-1)[range(6), targets]
    mistakes = {
        "You added the losses up; the loss is their mean over the positions.": 6 * right,
        "The sign is wrong: a likely token must cost little, so the loss is minus the log.": -right,
        "You measured in bits; the loss here is in nats, so use the natural logarithm.": (
            right / math.log(2)
        ),
        "You averaged the probabilities and then took the log; take each log, then the mean.": (
            -math.log(probabilities.mean().item())
        ),
        "You took the mean of the logits themselves; subtract the log of the sum first.": (
            -logits[range(6), targets].mean().item()
        ),
        "You subtracted logsumexp over the wrong axis: each position has its own, so dim=-1.": (
            -(logits - logits.logsumexp(0))[range(6), targets].mean().item()
        ),
        "logits[:, targets] is (n, n); pick one per row with logits[range(n), targets].": (
            (logits.logsumexp(-1, keepdim=True) - logits[:, targets]).mean().item()
        ),
        "logits[:, targets] is (n, n): use logits[range(n), targets], one from each row.": (
            (logits.logsumexp(-1) - logits[:, targets]).mean().item()
        ),
    }
    if not close(value, right):
        return named(value, mistakes) or f"Not yet: the loss is {right:.4f}, you say {value:.4f}."
    large = attempt(answer, 1000 * logits, targets)
    expected = F.cross_entropy(1000 * logits, targets).item()
    if not close(large, expected):
        return f"Right for small logits, but in the thousands it gives {large}; use logsumexp."
    return "Correct: equal to F.cross_entropy, also with logits in the thousands."


@says
def clip_gradients(answer: Answer) -> str:
    """Check `clip_gradients(gradients, max_norm)`, exercise 2."""
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 12.0]]), torch.tensor(84.0)]
    length = 85.0

    def flat(tensors: Any) -> Tensor | None:
        shapes = [getattr(t, "shape", None) for t in tensors] if hasattr(tensors, "__len__") else []
        if shapes != [g.shape for g in gradients]:
            return None
        return torch.cat([t.flatten() for t in tensors])

    results = []
    for max_norm in (1.0, 100.0):
        got = run(answer, [g.clone() for g in gradients], max_norm)
        vector = flat(got)
        if vector is None:
            return f"Not yet: {what(got)}; return a list with a tensor for each gradient."
        results.append(vector)
    cut, untouched = results
    whole = torch.cat([g.flatten() for g in gradients])
    mistakes = {
        "You cut each tensor by itself, which bends the direction; take one length over all "
        "tensors together.": torch.cat([(g / g.norm()).flatten() for g in gradients]),
        "You clamped each value, which bends the direction; use one factor.": whole.clamp(-1, 1),
        "You divided by the squared length; take its square root.": whole / length**2,
        "You added the lengths up; take the square root of the sum of all squares.": (
            whole / sum(g.norm() for g in gradients)
        ),
        "Not yet: a gradient of length 85 came back whole with max_norm 1.": whole,
    }
    if close(cut, whole / length):
        if not close(untouched, whole):
            return "Long ones are right, but a short one was stretched; only scale above max_norm."
        zeros = flat(attempt(answer, [torch.zeros_like(g) for g in gradients], 1.0))
        if not close(zeros, torch.zeros_like(whole)):
            return "Right, except when all gradients are 0: you divide by their length, which is 0."
        return "Correct: a long gradient keeps its direction, a short one is left alone."
    return named(cut, mistakes) or f"Not yet: with max_norm 1 the length is {cut.norm():.4f}."


@says
def linear_schedule(answer: Answer) -> str:
    """Check `linear_schedule(step, config)`, exercise 3."""
    config = TrainingConfig(
        n_steps=51, warmup_steps=10, max_learning_rate=1.0, min_learning_rate=0.1
    )
    wanted = "the learning rate of the step"
    values = [number_of(answer, step, config, wanted=wanted) for step in range(55)]

    def follows(rule: Callable[[int], float], steps: range) -> bool:
        return all(close(values[step], rule(step)) for step in steps)

    def right(step: int) -> float:
        if step < 10:
            return (step + 1) / 10
        return max(0.1, 1.0 - 0.9 * (step - 10) / 40)

    if follows(lambda step: step / 10, range(10)):
        return "The warm-up starts at 0, and step 0 learns nothing; use (step + 1) / warmup_steps."
    if not follows(right, range(10)):
        return f"Not yet: step 0 of a warm-up of 10 is 0.1 of the maximum, you say {values[0]:.4f}."
    if follows(lambda step: 1.0 - 0.9 * step / 50, range(11, 50)):
        return "The line starts at step 0; it must start where the warm-up ends, or the rate jumps."
    if follows(lambda step: 1.0 - (step - 10) / 40, range(10, 46)):
        return "The line ends at 0; it must end at min_learning_rate."
    if follows(right, range(10, 51)) and not follows(right, range(51, 55)):
        return "Right until the last step; after it the rate must stay at min_learning_rate."
    if follows(lambda step: 1.0 - 0.9 * (step - 10) / 41, range(10, 50)):
        return "The line ends one step late: the last step is n_steps - 1."
    if follows(lambda step: 0.55 + 0.45 * math.cos(math.pi * (step - 10) / 40), range(10, 50)):
        return "That is still the cosine; between warm-up and end, let the rate fall in a line."
    if follows(lambda step: 0.1 + 0.9 * (step - 10) / 40, range(10, 50)):
        return "The line rises; progress 0 must give the highest rate, progress 1 the lowest."
    if follows(right, range(55)):
        return "Correct: up in a straight line, down in a straight line, and level after the end."
    wrong = next(step for step in range(55) if not close(values[step], right(step)))
    return f"Not yet: step {wrong} has {right(wrong):.4f}, you say {values[wrong]:.4f}."


@says
def loss_in_other_tokens(answer: Answer) -> str:
    """Check `loss_in_other_tokens(loss, n_tokens, n_other_tokens)`, exercise 4."""
    value = number_of(answer, 3.0, 1000, 1500, wanted="in nats per token")
    mistakes = {
        "You left the loss as it is; more tokens share the same total.": 3.0,
        "Upside down: the same total over more tokens is less per token.": 4.5,
        "You changed nats into bits on the way; both losses are in nats.": 2.0 / math.log(2),
        "You changed bits into nats on the way; both losses are in nats.": 2.0 * math.log(2),
        "That is the total for the text; divide it by the other number of tokens.": 3000.0,
    }
    if close(value, 2.0):
        same = bits_per_byte(3.0, 1000, 5000)
        return f"Correct: both losses are {same:.3f} bits per byte if the text has 5,000 bytes."
    return named(value, mistakes) or f"Not yet: 3.0 nats become 2.0, you say {value:.4f}."
