"""The checks of chapter 6's exercises: unfinished, each named mistake, correct."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlib.extras.checks import generation as checks

INF = math.inf


def cache(
    both: float = 1, layers: bool = True, heads: str = "few", d: str = "D", scale: float = 1
) -> Callable[..., float]:
    def answer(c: Any, n: int, h: int, size: int) -> float:
        size_of = {"D": c.head_size, "C": c.n_embd, "1": 1}[d]
        n_heads = {"few": h, "all": c.n_head}[heads]
        return 2 * both * (c.n_layer if layers else 1) * n_heads * size_of * n * size * scale

    return answer


def repeats(
    tail: Callable[[list[int], int], list[int]], value: float = -INF, every: bool = False
) -> Callable[..., Tensor]:
    def answer(logits: Tensor, tokens: list[int], n: int) -> Tensor:
        new, last = logits.clone(), tail(tokens, n)
        m = len(last)
        for i in range(len(tokens) - m):
            if every or tokens[i : i + m] == last:
                new[tokens[i + m]] = value
        return new

    return answer


def right_tail(tokens: list[int], n: int) -> list[int]:
    return tokens[max(0, len(tokens) - n + 1) :] if len(tokens) >= n - 1 else [-1]


def in_place(logits: Tensor, tokens: list[int], n: int) -> Tensor:
    logits[3] = logits[5] = -INF
    return logits


def raises_late(logits: Tensor, tokens: list[int], n: int) -> Tensor:
    if n == 2:
        raise KeyError("oh")
    return repeats(right_tail)(logits, tokens, n)


def stops_early(logits: Tensor, tokens: list[int], n: int) -> Tensor:
    new, last = logits.clone(), right_tail(tokens, n)
    for i in range(len(tokens) - 2 * n + 2):
        if tokens[i : i + n - 1] == last:
            new[tokens[i + n - 1]] = -INF
    return new


def stops_at_once(logits: Tensor, tokens: list[int], n: int) -> Tensor:
    new, last = logits.clone(), right_tail(tokens, n)
    for i in range(len(tokens) - n + 1):
        if tokens[i : i + n - 1] == last:
            new[tokens[i + n - 1]] = -INF
            break
    return new


def typical_in_place(logits: Tensor, p: float) -> Tensor:
    return logits.copy_(typical()(logits, p))


def speculate_with_u(token: int, p: Tensor, q: Tensor, u: float, v: float) -> int:
    return speculate()(token, p, q, u, u)


def shifts(logits: Tensor, tokens: list[int], n: int) -> Tensor:
    return repeats(right_tail)(logits, tokens, n) + 1


def typical(
    distance: Callable[[Tensor, Tensor], Tensor] = lambda s, h: (s - h).abs(),
    crossing: bool = True,
    unsafe: bool = False,
    down: bool = False,
) -> Callable[..., Tensor]:
    def answer(logits: Tensor, p: float) -> Tensor:
        probabilities = logits.softmax(-1)
        surprise = -logits.log_softmax(-1)
        if unsafe:
            entropy = (probabilities * surprise).sum()
        else:
            entropy = torch.special.entr(probabilities).sum()
        order = distance(surprise, entropy).argsort(descending=down)
        total = probabilities[order].cumsum(0)
        cut = order[(total - probabilities[order] if crossing else total) >= p]
        return logits.index_fill(0, cut, -INF)

    return answer


def speculate(
    accept: Callable[[Tensor, Tensor], Tensor] = lambda p, q: p / q,
    left: Callable[[Tensor, Tensor], Tensor] = lambda p, q: (p - q).clamp(min=0),
    swap: bool = False,
) -> Callable[..., int]:
    def answer(token: int, p: Tensor, q: Tensor, u: float, v: float) -> int:
        if (u < accept(p, q)[token]) != swap:
            return token
        weights = left(p, q)
        return int((v * weights.sum() >= weights.cumsum(0)).sum())

    return answer


CASES: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "cache_bytes": [
        (lambda *a: ..., "Not written yet"),
        (lambda *a: "many", "Not yet: you return str"),
        (lambda c, *a: c.no_such_thing, "raised AttributeError"),
        (cache(both=0.5), "the cache holds both"),
        (cache(scale=0.25), "each takes bytes_per_value bytes"),
        (cache(layers=False), "You counted one block"),
        (cache(heads="all"), "keys and values for all heads"),
        (cache(d="C"), "all C channels"),
        (cache(scale=2), "not how many heads share one"),
        (cache(scale=0.1), "That is one token"),
        (cache(d="1"), "D channels per head"),
        (lambda *a: 7, "Not yet: it takes 3840 bytes, you say 7"),
        (lambda c, n, h, b: 3840 * (n * h * b) / 80, "not for GPT-2"),
        (cache(), r"Correct: GPT-2's 1,024 tokens in 2-byte numbers take 36 MiB, and 3 MiB"),
    ],
    "block_repeats": [
        (lambda *a: None, "Not written yet"),
        (lambda logits, *a: logits[:3], r"Not yet: you return a tensor of shape \(3,\)"),
        (in_place, "changed the logits that were passed in"),
        (raises_late, "With n = 2.*KeyError"),
        (shifts, "the other logits must stay"),
        (repeats(right_tail, value=0.0), "changed to 0; only -inf"),
        (repeats(right_tail, value=-1e9), r"changed to -1e\+09; only -inf"),
        (stops_early, "may overlap the end"),
        (stops_at_once, "stopped at the first place"),
        (repeats(lambda t, n: t[-(n - 1) :] if len(t) >= n - 1 else [-1]), "Right until n = 1"),
        (
            lambda x, t, n: x.index_fill(0, torch.LongTensor(t), -INF),
            "every token seen",
        ),
        (repeats(lambda t, n: t[-n:] if len(t) >= n else [-1]), "compare 2"),
        (repeats(lambda t, n: t[max(0, len(t) - n + 1) :], every=False), "Correct"),
        (lambda x, t, n: x.index_fill(0, torch.tensor([0]), -INF), r"\[3, 5\] must be cut; you"),
        (lambda x, t, n: x.clone(), r"must be cut; you cut nothing"),
        (repeats(right_tail), "Correct"),
    ],
    "keep_typical": [
        (lambda *a: NotImplemented, "Not written yet"),
        (lambda *a: 0.5, "Not yet: you return float"),
        (lambda x, p: x.softmax(-1), "must not change"),
        (typical_in_place, "changed the logits that were passed in"),
        (typical(lambda s, h: s), "That is top-p"),
        (typical(down=True), "farthest from the entropy"),
        (typical(lambda s, h: h - s), "with its sign"),
        (typical(lambda s, h: (-s - h).abs()), "minus the logarithm|That is top-p"),
        (typical(lambda s, h: (s - h / math.log(2)).abs()), "one in bits"),
        (typical(crossing=False), "left out the token"),
        (lambda x, p: x, r"Not yet: with p = 0.3 tokens \["),
        (typical(unsafe=True), "0 · ln 0 is nan"),
        (typical(), "Correct"),
    ],
    "accept_or_replace": [
        (lambda *a: None, "Not written yet"),
        (lambda *a: [1], "Not yet: you return list"),
        (lambda *a: 9, "Not yet: you return 9"),
        (lambda token, *a: token, "You accept every draft"),
        (speculate(left=lambda p, q: p), "you draw from p; that counts"),
        (speculate(left=lambda p, q: q), "you draw from q again"),
        (speculate_with_u, "with u; after a rejection"),
        (speculate(accept=lambda p, q: p), "You accept with probability p"),
        (speculate(accept=lambda p, q: q / p), "upside down"),
        (speculate(left=lambda p, q: (p - q).abs()), r"by \|p - q\|"),
        (speculate(swap=True), "accept when you should reject"),
        (lambda t, p, q, u, v: t if u < p[t] / q[t] else int(p.argmax()), "likeliest token"),
        (lambda t, p, q, u, v: int((v >= p.cumsum(0)).sum()), "The distribution is right"),
        (lambda *a: 3, "yours: 0.00, 0.00, 0.00, 1.00"),
        (lambda *a: torch.tensor(speculate()(*a)), "Correct: .* 70% of them"),
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

    checks.cache_bytes(stub)
    assert "Not written yet" in capsys.readouterr().out
