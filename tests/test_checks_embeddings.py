"""The checks of chapter 2's exercises: unfinished, each named mistake, correct."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlib.extras.checks import embeddings as checks

Answer = Callable[..., Any]
ALL = (
    checks.count_windows,
    checks.lookup_gradient,
    checks.seen_share,
    checks.shift_matrix,
)


def said(capsys: pytest.CaptureFixture[str], check: Answer, answer: Answer) -> str:
    check(answer)
    return capsys.readouterr().out


def stub(*_: Any) -> None:
    return None


def unwritten(*_: Any) -> None:
    raise NotImplementedError


def broken(*_: Any) -> None:
    raise KeyError("pairs")


@pytest.mark.parametrize("check", ALL)
def test_an_unfinished_stub_is_called_unfinished(
    capsys: pytest.CaptureFixture[str], check: Answer
) -> None:
    assert said(capsys, check, stub) == "Not written yet: stub returns nothing.\n"
    assert said(capsys, check, unwritten).startswith("Not written yet: ")


@pytest.mark.parametrize("check", ALL)
def test_an_error_in_the_answer_is_reported_not_raised(
    capsys: pytest.CaptureFixture[str], check: Answer
) -> None:
    assert said(capsys, check, broken) == "Not yet: broken raised KeyError: 'pairs'\n"


@pytest.mark.parametrize("check", ALL)
@pytest.mark.parametrize("value", ["?", 3.14159, torch.zeros(2, 2), [1], float("nan")])
def test_a_value_of_the_wrong_kind_is_not_correct(
    capsys: pytest.CaptureFixture[str], check: Answer, value: Any
) -> None:
    text = said(capsys, check, lambda *_: value)
    assert text.startswith("Not yet") or "share here" in text
    assert "Correct" not in text


# Exercise 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda n, t, s: (n - t - 1) // s + 1, "Correct: all"),
        (lambda n, t, s: math.ceil((n - t) / s), "Correct: all"),
        (lambda n, t, s: (n - t) // s + 1, "no token for the last target"),
        (lambda n, t, s: math.ceil((n - t - 1) / s) + 1, "You rounded up"),
        (lambda n, t, s: (n - t - 1) // s, "the first window needs no step"),
        (lambda n, t, s: (n - 1) // t, "as if windows never overlapped"),
        (lambda n, t, s: n // t, "cut the stream into pieces of context_length"),
        (lambda n, t, s: n // s, "cut the whole stream by the stride"),
        (lambda n, t, s: 1, "Not yet: 3 tokens, windows of 1, stride 1: there are 2, you say 1."),
    ],
)
def test_counting_windows(capsys: pytest.CaptureFixture[str], answer: Answer, words: str) -> None:
    assert words in said(capsys, checks.count_windows, answer)


# Exercise 2


def summed(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Tensor:
    return torch.zeros(vocab_size, upstream.size(1)).index_add(0, tokens, upstream)


def assigned(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Tensor:
    gradient = torch.zeros(vocab_size, upstream.size(1))
    for token, row in zip(tokens, upstream, strict=True):
        gradient[token] = row
    return gradient


def added_at_once(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Tensor:
    gradient = torch.zeros(vocab_size, upstream.size(1))
    gradient[tokens] += upstream
    return gradient


def averaged(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Tensor:
    counts = torch.bincount(tokens, minlength=vocab_size).clamp(min=1)
    return summed(tokens, upstream, vocab_size) / counts[:, None]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (summed, "Correct: rows add up"),
        (assigned, "You kept one row"),
        (added_at_once, "You kept one row"),
        (averaged, "You averaged"),
        (lambda t, u, v: u, r"you return a tensor of shape (5, 3)"),
        (lambda t, u, v: 2 * summed(t, u, v), "Not yet: row 2 is ["),
    ],
)
def test_the_gradient_of_a_look_up(
    capsys: pytest.CaptureFixture[str], answer: Answer, words: str
) -> None:
    assert words in said(capsys, checks.lookup_gradient, answer)


# Exercise 3


def runs(tokens: Tensor, length: int, step: int = 1) -> list[tuple[int, ...]]:
    return [tuple(run) for run in tokens.unfold(0, length, step).tolist()]


def seen(train: Tensor, validation: Tensor, length: int) -> float:
    known = set(runs(train, length))
    found = [run in known for run in runs(validation, length)]
    return sum(found) / len(found)


def single(train: Tensor, validation: Tensor, length: int) -> float:
    return seen(train, validation, 1)


def different(train: Tensor, validation: Tensor, length: int) -> float:
    known, asked = set(runs(train, length)), set(runs(validation, length))
    return len(known & asked) / len(asked)


def swapped(train: Tensor, validation: Tensor, length: int) -> float:
    return seen(validation, train, length)


def unordered(train: Tensor, validation: Tensor, length: int) -> float:
    known = {tuple(sorted(run)) for run in runs(train, length)}
    found = [tuple(sorted(run)) in known for run in runs(validation, length)]
    return sum(found) / len(found)


def pieces(train: Tensor, validation: Tensor, length: int) -> float:
    known = set(runs(train, length, length))
    found = [run in known for run in runs(validation, length, length)]
    return sum(found) / len(found)


def without_the_last(train: Tensor, validation: Tensor, length: int) -> float:
    return seen(train[:-1], validation[:-1], length)


def per_token(train: Tensor, validation: Tensor, length: int) -> float:
    known = set(runs(train, length))
    return sum(run in known for run in runs(validation, length)) / len(validation)


def lucky(train: Tensor, validation: Tensor, length: int) -> float:
    return 7 / 15


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (seen, "Correct:"),
        (lambda *a: torch.tensor(seen(*a)), "Correct:"),
        (single, "You compared single tokens"),
        (different, "You counted each different run once"),
        (swapped, "You swapped the parts"),
        (unordered, "You ignored the order within a run"),
        (pieces, "pieces that don't overlap"),
        (without_the_last, "You missed the last run"),
        (per_token, "You divided by the number of tokens"),
        (lambda *a: 100 * seen(*a), "That is a percentage"),
        (lucky, "a stream in itself must give 1 (you: 0.47)"),
        (lambda *a: 0.123, "you say 0.12"),
    ],
)
def test_the_share_of_seen_runs(
    capsys: pytest.CaptureFixture[str], answer: Answer, words: str
) -> None:
    assert words in said(capsys, checks.seen_share, answer)


# Exercise 4


def turn(distance: int, n_embd: int, sign: int = 1, factor: int = 2, base: int = 10_000) -> Tensor:
    matrix = torch.zeros(n_embd, n_embd)
    for i in range(n_embd // 2):
        angle = sign * distance / base ** (factor * i / n_embd)
        sin, cos = math.sin(angle), math.cos(angle)
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[cos, -sin], [sin, cos]])
    return matrix


def same_signs(distance: int, n_embd: int, sign: int) -> Tensor:
    matrix = turn(distance, n_embd)
    sines = matrix - matrix.diag().diag()
    return matrix.diag().diag() + sign * (sines.tril() + sines.tril().T)


def in_halves(distance: int, n_embd: int) -> Tensor:
    order = [*range(0, n_embd, 2), *range(1, n_embd, 2)]
    return turn(distance, n_embd)[order][:, order]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (turn, "Correct: one matrix moves every position"),
        (lambda k, c: turn(k, c, sign=-1), "You turned the wrong way"),
        (lambda k, c: turn(k, c).T, "You turned the wrong way"),
        (lambda k, c: same_signs(k, c, 1), "the two sines need opposite signs"),
        (lambda k, c: same_signs(k, c, -1), "the two sines need opposite signs"),
        (in_halves, "all sines first and all cosines"),
        (lambda k, c: in_halves(k, c).T, "all sines first and all cosines"),
        (lambda k, c: turn(k, c, factor=0), "every pair by the same angle"),
        (lambda k, c: turn(k, c, factor=1), "it is 2i / n_embd"),
        (lambda k, c: turn(k, c, factor=1).T, "it is 2i / n_embd"),
        (lambda k, c: turn(k, c, base=1000), "Not yet: position 0 moved on by 1 should be [0.84,"),
        (lambda k, c: turn(1, c), "Not yet: position 0 moved on by 3"),
        (lambda k, c: torch.zeros(c), "shape (8,); return a tensor of shape (8, 8)"),
    ],
)
def test_the_matrix_that_moves_positions(
    capsys: pytest.CaptureFixture[str], answer: Answer, words: str
) -> None:
    assert words in said(capsys, checks.shift_matrix, answer)
