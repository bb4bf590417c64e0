"""The checks of chapter 5's exercises: unfinished, each named mistake, correct."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gptlib.extras.checks import training as checks
from gptlib.training import learning_rate_at


def drop(step: int, c: Any) -> float:
    return 1.0 if step == 10 else (step + 1) / 10 if step < 10 else 0.4


def rising(step: int, c: Any) -> float:
    return (step + 1) / 10 if step < 10 else min(1.0, 0.1 + 0.9 * (step - 10) / 40)


def line(start: int = 10, end: float = 0.1, last: int = 50, first: int = 1) -> Callable[..., float]:
    def schedule(step: int, c: Any) -> float:
        if step < 10:
            return (step + first) / 10
        return max(end, 1.0 - (1 - end) * (step - start) / (last - start))

    return schedule


def total_length(gradients: Any) -> float:
    return math.sqrt(sum(float((g**2).sum()) for g in gradients))


CASES: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "stable_loss": [
        (lambda x, y: ..., "Not written yet"),
        (lambda x, y: x, r"Not yet: you return a tensor of shape \(6, 5\); return one number"),
        (lambda x, y: x.no_such_thing, "raised AttributeError"),
        (lambda x, y: -x.log_softmax(-1)[range(6), y].sum(), "You added the losses up"),
        (lambda x, y: x.log_softmax(-1)[range(6), y].mean(), "The sign is wrong"),
        (lambda x, y: -x.log_softmax(-1)[range(6), y].mean() / math.log(2), "in bits"),
        (lambda x, y: -x.softmax(-1)[range(6), y].mean().log(), "averaged the probabilities"),
        (lambda x, y: -x[range(6), y].mean(), "mean of the logits themselves"),
        (lambda x, y: -x.log_softmax(0)[range(6), y].mean(), "wrong axis"),
        (lambda x, y: (x.logsumexp(-1) - x[:, y]).mean(), r"logits\[:, targets\] is \(n, n\)"),
        (lambda x, y: -x.log_softmax(-1)[:, y].mean(), r"logits\[:, targets\] is \(n, n\)"),
        (lambda x, y: 7.0, "Not yet: the loss is"),
        (lambda x, y: -x.softmax(-1)[range(6), y].log().mean(), "Right for small logits"),
        (lambda x, y: nn.functional.cross_entropy(x, y), "you call F.cross_entropy"),
        (lambda x, y: nn.CrossEntropyLoss()(x, y), "you call F.cross_entropy"),
        (nn.functional.cross_entropy, "you call F.cross_entropy"),
        (lambda x, y: (x.logsumexp(-1) - x[range(6), y]).mean(), "Correct"),
    ],
    "clip_gradients": [
        (lambda g, m: None, "Not written yet"),
        (lambda g, m: g[0], "return a list with a tensor"),
        (lambda g, m: [1.0, 2.0, 3.0], "return a list with a tensor"),
        (lambda g, m: [t.flatten() for t in g], "return a list with a tensor"),
        (lambda g, m: [t * min(1.0, m / float(t.norm())) for t in g], "each tensor by itself"),
        (lambda g, m: [t.clamp(-m, m) for t in g], "clamped each value"),
        (lambda g, m: [t * m / total_length(g) for t in g], "a short one was stretched"),
        (lambda g, m: [t * m / (total_length(g) + 1e-9) for t in g], "a short one was stretched"),
        (lambda g, m: [t * m / total_length(g) ** 2 for t in g], "squared length"),
        (lambda g, m: g, "came back whole"),
        (lambda g, m: [t * 0.5 for t in g], "the length is 42.5"),
        (lambda g, m: [t * m / sum(u.norm() for u in g) for t in g], "added the lengths up"),
        (lambda g, m: [t * min(1.0, m / total_length(g)) for t in g], "all gradients are 0"),
        (lambda g, m: [t * min(1.0, m / (total_length(g) + 1e-9)) for t in g], "Correct"),
    ],
    "linear_schedule": [
        (lambda s, c: NotImplemented, "Not written yet"),
        (lambda s, c: "0.1", "Not yet: you return str"),
        (line(first=0), "The warm-up starts at 0"),
        (lambda s, c: 1.0, "Not yet: step 0 of a warm-up"),
        (line(start=0), "The line starts at step 0"),
        (line(end=0.0), "The line ends at 0"),
        (lambda s, c: line()(s, c) if s < 51 else 0.0, "Right until the last step"),
        (line(last=51), "The line ends one step late"),
        (learning_rate_at, "That is still the cosine"),
        (rising, "The line rises"),
        (drop, "Not yet: step 11 has 0.9775, you say 0.4000"),
        (line(), "Correct"),
    ],
    "loss_in_other_tokens": [
        (lambda *a: None, "Not written yet"),
        (lambda *a: [1], "Not yet: you return list"),
        (lambda x, n, m: x, "left the loss as it is"),
        (lambda x, n, m: x * m / n, "Upside down"),
        (lambda x, n, m: x * n / m / math.log(2), "nats into bits"),
        (lambda x, n, m: x * n / m * math.log(2), "bits into nats"),
        (lambda x, n, m: x * n, "total for the text"),
        (lambda x, n, m: 9.0, "Not yet: 3.0 nats become 2.0, you say 9.0000"),
        (lambda x, n, m: torch.tensor(x * n / m), "Correct: both losses are 0.866 bits per byte"),
    ],
}


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [(name, answer, expected) for name, cases in CASES.items() for answer, expected in cases],
)
def test_each_answer_gets_its_own_words(
    name: str, answer: Callable[..., Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(checks, name)(answer)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert re.search(expected, printed), printed


def test_a_stub_that_raises_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    def stub(*_: Any) -> None:
        raise NotImplementedError

    checks.stable_loss(stub)
    assert "Not written yet" in capsys.readouterr().out
