"""Checks of the exercises of chapter 10: each says what is right, or which step is off."""

from typing import Any

import torch
from torch import Tensor

from gptlib.attention import causal_mask
from gptlib.extras.checks.answers import Answer, close, named, number, run, says, tensor_of, what


@says
def sliding_window(answer: Answer) -> str:
    """Check `sliding_window(n_positions, window)`, exercise 1."""
    for n, window in ((6, 3), (5, 1), (4, 9), (7, 2)):
        got = tensor_of(answer, n, window, shape=(n, n))
        if got.dtype != torch.bool:
            return f"Not yet: the mask has dtype {got.dtype}; `attend` wants booleans."
        causal = causal_mask(n)
        right = causal.triu(1 - window)
        if not torch.equal(got, right):
            mistakes = {
                "You forbid what may be seen: True means that a query may look.": ~right,
                "The future is visible: the mask must be causal as well.": (
                    torch.ones(n, n, dtype=torch.bool).triu(1 - window)
                ),
                "The future is visible: the window is on both sides.": (
                    torch.ones(n, n, dtype=torch.bool).triu(1 - window).tril(window - 1)
                ),
                "Your window is one too long: it holds the position itself and window - 1 before "
                "it.": causal.triu(-window),
                "Your window is one too short: the position itself counts as one of it.": (
                    causal.triu(2 - window)
                ),
                "That is the whole causal mask; nothing is too far away.": causal,
                "Rows are queries and columns are keys; you exchanged them.": right.T,
            }
            wrong = (got != right).sum()
            return named(got, mistakes) or f"Not yet: {wrong} entries are wrong for {n} positions."
    return "Correct: causal, and each position sees itself and window - 1 before it."


@says
def combine_gradients(answer: Answer) -> str:
    """Check `combine_gradients(gradients, n_tokens)`, exercise 2."""
    generator = torch.Generator().manual_seed(0)
    for counts in ([512, 512, 100], [1, 3]):
        parts = [torch.randn(2, 3, generator=generator) for _ in counts]
        got = tensor_of(answer, [part.clone() for part in parts], list(counts), shape=(2, 3))
        plain = torch.stack(parts)
        sums = (plain * torch.tensor(counts)[:, None, None]).sum(dim=0)
        right = sums / sum(counts)
        mistakes = {
            "That is the mean of the means: the short share weighs as much as a long one.": (
                plain.mean(dim=0)
            ),
            "That is the sum of the gradients; a mean over all tokens is smaller.": plain.sum(0),
            "You add up sums over tokens; divide by the number of all tokens.": sums,
            "You divide by the number of processes; divide by the number of all tokens.": (
                sums / len(counts)
            ),
        }
        if not close(got, right):
            return named(got, mistakes) or "Not yet: weigh by the share of the tokens."
    return "Correct: every token weighs the same, wherever it was."


@says
def rows_of(answer: Answer) -> str:
    """Check `rows_of(rank, n, n_head, head_size)`, exercise 3."""
    for rank, n, n_head, size in ((0, 2, 4, 2), (1, 2, 4, 2), (2, 3, 6, 1), (0, 1, 2, 3)):
        got = run(answer, rank, n, n_head, size)
        if isinstance(got, Tensor):
            got = got.tolist()
        if not isinstance(got, list | tuple | range):
            return f"Not yet: {what(got)}; return a list of row numbers."
        right = _rows(rank, n, n_head, size)
        if list(got) != right:
            return _rows_mistake(list(got), right, (rank, n, n_head, size))
    return "Correct: whole heads, their queries, their keys, their values."


def _rows(rank: int, n: int, n_head: int, size: int) -> list[int]:
    rows = torch.arange(3 * n_head * size).unflatten(0, (3, n, -1))
    chosen: list[int] = rows[:, rank].flatten().tolist()
    return chosen


def _rows_mistake(got: list[Any], right: list[int], case: tuple[int, int, int, int]) -> str:
    rank, n, n_head, size = case
    channels = n_head * size
    where = f"process {rank} of {n}, {n_head} heads of {size} rows"
    third = channels // n
    mistakes = {
        "That cuts the rows as they stand: some heads get queries without keys and values.": (
            list(range(rank * 3 * third, (rank + 1) * 3 * third))
        ),
        "Those are the queries alone; their keys and values belong to them.": right[:third],
        "You count heads, not rows: each head has head_size rows.": _rows(rank, n, n_head, 1),
    }
    if sorted(got, key=str) == sorted(right, key=str):
        return f"Right rows, wrong order, for {where}: queries first, then keys, then values."
    return named(got, mistakes) or f"Not yet: for {where}, the rows are {right}; you return {got}."


@says
def rental(answer: Answer) -> str:
    """Check `rental(n_tokens, tokens_per_second, n_devices, efficiency)`, exercise 4."""
    for tokens, speed, n, share in ((3.6e9, 1000.0, 10, 1.0), (2.5e9, 1e5, 8, 0.8)):
        got = run(answer, tokens, speed, n, share)
        if not isinstance(got, tuple | list) or len(got) != 2:
            return f"Not yet: {what(got)}; return a pair of hours and device-hours."
        hours = tokens / (n * share * speed) / 3600
        first, second = number(got[0]), number(got[1])
        if first is None or second is None:
            return "Not yet: hours and device-hours are two numbers."
        if not close([first, second], [hours, hours * n]):
            return _rental_mistake([first, second], hours, n, share)
    return "Correct: more devices shorten the wait, and what they lose in efficiency is paid for."


def _rental_mistake(got: list[float], hours: float, n: int, share: float) -> str:
    paid = hours * n
    mistakes = {
        "The hours are right; each device is paid for all of them: multiply by n.": [hours, hours],
        "Those are minutes; an hour has 60 of them.": [hours * 60, paid * 60],
        "Those are seconds; an hour has 3600 of them.": [hours * 3600, paid * 3600],
        "The two are exchanged: hours first, device-hours second.": [paid, hours],
        "You leave the efficiency out: the devices together do less than n single ones.": (
            [hours * share, paid * share]
        ),
        "You divide where you should multiply: efficiency lowers the speed.": (
            [hours * share**2, paid * share**2]
        ),
        "The hours are right; the waiting is paid for as well, so multiply by all devices.": (
            [hours, paid * share]
        ),
        "You use the speed of one device for the hours.": [hours * n, paid * n],
    }
    return named(got, mistakes) or f"Not yet: it is {hours:.3g} hours and {paid:.3g} device-hours."
