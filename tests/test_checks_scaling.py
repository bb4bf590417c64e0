"""The checks of chapter 10: unfinished, each named mistake, correct."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlib.attention import causal_mask
from gptlib.extras.checks import scaling as checks

Check = Callable[[Callable[..., Any]], None]


def unfinished(*_: Any) -> Any:
    return ...


def not_implemented(*_: Any) -> Any:
    raise NotImplementedError


def mask(n: int, window: int) -> Tensor:
    return causal_mask(n).triu(1 - window)


def combine(gradients: list[Tensor], n_tokens: list[int]) -> Tensor:
    total = torch.zeros_like(gradients[0])
    for gradient, count in zip(gradients, n_tokens, strict=True):
        total += gradient * count
    return total / sum(n_tokens)


def rows(rank: int, n: int, n_head: int, size: int) -> list[int]:
    share, channels = n_head // n * size, n_head * size
    return [part * channels + rank * share + row for part in range(3) for row in range(share)]


def rental(tokens: float, speed: float, n: int, share: float) -> tuple[float, float]:
    hours = tokens / (n * share * speed) / 3600
    return hours, hours * n


ANSWERS: dict[Check, Callable[..., Any]] = {
    checks.sliding_window: mask,
    checks.combine_gradients: combine,
    checks.rows_of: rows,
    checks.rental: rental,
}


@pytest.mark.parametrize("check", ANSWERS, ids=lambda check: check.__name__)
def test_unfinished_and_correct_answers(check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    for stub in (unfinished, not_implemented):
        check(stub)
        assert capsys.readouterr().out.startswith("Not written yet: ")
    check(ANSWERS[check])
    assert capsys.readouterr().out.startswith("Correct: ")
    things: list[Any] = ["text", 3.5, [], torch.zeros(1)]
    for nonsense in things:
        check(lambda *_, result=nonsense: result)
        assert capsys.readouterr().out.startswith(("Not yet: ", "Those", "That"))
    check(lambda *_: 1 / 0)
    assert "raised ZeroDivisionError" in capsys.readouterr().out


MISTAKES: list[tuple[Check, Callable[..., Any], str]] = [
    (checks.sliding_window, lambda n, w: ~mask(n, w), "True means that a query may look"),
    (checks.sliding_window, lambda n, w: mask(n, w).int(), "wants booleans"),
    (checks.sliding_window, lambda n, w: torch.ones(n, n).bool().triu(1 - w), "must be causal"),
    (
        checks.sliding_window,
        lambda n, w: torch.ones(n, n).bool().triu(1 - w).tril(w - 1),
        "on both sides",
    ),
    (checks.sliding_window, lambda n, w: mask(n, w + 1), "one too long"),
    (checks.sliding_window, lambda n, w: mask(n, w - 1), "one too short"),
    (checks.sliding_window, lambda n, w: causal_mask(n), "nothing is too far away"),
    (checks.sliding_window, lambda n, w: mask(n, w).T, "you exchanged them"),
    (checks.sliding_window, lambda n, w: torch.eye(n).bool(), "entries are wrong"),
    (checks.combine_gradients, lambda g, n: sum(g) / len(g), "mean of the means"),
    (checks.combine_gradients, lambda g, n: sum(g), "sum of the gradients"),
    (checks.combine_gradients, lambda g, n: combine(g, n) * sum(n), "number of all tokens"),
    (
        checks.combine_gradients,
        lambda g, n: combine(g, n) * sum(n) / len(n),
        "number of processes",
    ),
    (checks.combine_gradients, lambda g, n: g[0], "weigh by the share of the tokens"),
    (checks.combine_gradients, lambda g, n: g[0].double(), "weigh by the share of the tokens"),
    (
        checks.rows_of,
        lambda r, n, h, d: list(range(r * 3 * h * d // n, (r + 1) * 3 * h * d // n)),
        "cuts the rows as they stand",
    ),
    (checks.rows_of, lambda r, n, h, d: rows(r, n, h, d)[: h * d // n], "queries alone"),
    (checks.rows_of, lambda r, n, h, d: rows(r, n, h, 1), "You count heads, not rows"),
    (checks.rows_of, lambda r, n, h, d: rows(r, n, h, d)[::-1], "wrong order"),
    (checks.rows_of, lambda r, n, h, d: [0], "the rows are"),
    (checks.rows_of, lambda r, n, h, d: [1, "a", None], "the rows are"),
    (checks.rental, lambda *a: tuple(3600 * x for x in rental(*a)), "Those are seconds"),
    (checks.rental, lambda *a: rental(*a)[::-1], "exchanged"),
    (checks.rental, lambda t, s, n, e: rental(t, s, n, 1.0), "leave the efficiency out"),
    (checks.rental, lambda t, s, n, e: rental(t, s, n, 1 / e), "efficiency lowers the speed"),
    (
        checks.rental,
        lambda t, s, n, e: (rental(t, s, n, e)[0], rental(t, s, n, e)[1] * e),
        "waiting is paid for",
    ),
    (
        checks.rental,
        lambda t, s, n, e: tuple(n * x for x in rental(t, s, n, e)),
        "speed of one device",
    ),
    (checks.rental, lambda *a: (rental(*a)[0], rental(*a)[0]), "multiply by n"),
    (checks.rental, lambda *a: tuple(60 * x for x in rental(*a)), "Those are minutes"),
    (checks.rental, lambda *a: (None, "a"), "two numbers"),
    (checks.rental, lambda *a: (1.0, 2.0), "Not yet: it is"),
]


@pytest.mark.parametrize(("check", "answer", "named"), MISTAKES)
def test_each_mistake_is_named(
    check: Check,
    answer: Callable[..., Any],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(answer)
    said = capsys.readouterr().out
    assert named in said
    assert "Correct" not in said
