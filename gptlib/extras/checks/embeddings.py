"""Checks of the exercises of chapter 2: each says what is right, or which step is off."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gptlib.embeddings import TokenWindows, sinusoidal_positions


def count_windows(answer: Callable[[int, int, int], int]) -> None:
    """Check `count_windows(n_tokens, context_length, stride)`, exercise 1."""
    wrong: tuple[int, int, int] | None = None
    got: Any = None
    results: dict[tuple[int, int, int], Any] = {}
    for n_tokens in range(2, 40):
        for context_length in range(1, min(n_tokens, 9)):
            for stride in range(1, 7):
                case = (n_tokens, context_length, stride)
                got, problem = _call(answer, *case)
                if problem:
                    print(problem)
                    return
                if isinstance(got, Tensor) or not isinstance(got, int | float):
                    print(f"Not yet: {_what(got)}; return a whole number.")
                    return
                results[case] = got
                if wrong is None and got != _windows(*case):
                    wrong = case
    if wrong is None:
        print(f"Correct: all {len(results)} combinations agree with len(TokenWindows(...)).")
        return
    mistakes: dict[str, Callable[[int, int, int], int]] = {
        "You left no token for the last target: a window needs context_length + 1 tokens": (
            lambda n, t, s: (n - t) // s + 1
        ),
        "You rounded up: a window that would run past the end doesn't count": (
            lambda n, t, s: -(-(n - t - 1) // s) + 1
        ),
        "You counted the steps, not the windows: the first window needs no step, so add 1": (
            lambda n, t, s: (n - t - 1) // s
        ),
        "You divided by the window's length, as if windows never overlapped; they are a stride "
        "apart": lambda n, t, s: (n - 1) // t,
        "You cut the stream into pieces of context_length: windows are a stride apart, and the "
        "last one needs room for its last target": lambda n, t, s: n // t,
        "You cut the whole stream by the stride; the last window can't start near its end": (
            lambda n, t, s: n // s
        ),
    }
    for text, mistake in mistakes.items():
        if all(value == mistake(*case) for case, value in results.items()):
            print(f"{text}. For example {_show_count(wrong, results[wrong])}")
            return
    print(f"Not yet: {_show_count(wrong, results[wrong])}")


def _windows(n_tokens: int, context_length: int, stride: int) -> int:
    return len(TokenWindows(torch.arange(n_tokens), context_length, stride))


def _show_count(case: tuple[int, int, int], got: Any) -> str:
    n_tokens, context_length, stride = case
    return (
        f"{n_tokens} tokens, windows of {context_length}, stride {stride}: there are "
        f"{_windows(*case)}, you say {got}."
    )


def lookup_gradient(answer: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Check `lookup_gradient(tokens, upstream, vocab_size)`, exercise 2."""
    tokens = torch.tensor([2, 0, 2, 5, 2])
    upstream = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    got, problem = _call(answer, tokens, upstream, 7)
    if problem:
        print(problem)
        return
    right = torch.zeros(7, 3).index_add(0, tokens, upstream)
    last = torch.zeros(7, 3)
    for token, row in zip(tokens, upstream, strict=True):
        last[token] = row
    counts = torch.bincount(tokens, minlength=7).clamp(min=1)[:, None]
    if not isinstance(got, Tensor) or got.shape != right.shape:
        print(f"Not yet: {_what(got)}; the gradient has the table's shape, (7, 3).")
    elif torch.allclose(got, right, atol=1e-6):
        print(
            "Correct: rows add up where a token repeats, and rows that were not looked up stay "
            "zero. Autograd gives the same gradient."
        )
    elif torch.allclose(got, right / counts, atol=1e-6):
        print("You averaged the rows of a repeated token; the gradient is their sum.")
    elif torch.allclose(got, last, atol=1e-6) or bool((got[2] == upstream[[0, 2, 4]]).all(1).any()):
        print(
            "You kept one row of a token that occurs three times; each occurrence adds its own "
            "row. `gradient[tokens] += upstream` has this fault too: it adds one of them."
        )
    else:
        row = int((got - right).abs().sum(1).argmax())
        print(f"Not yet: row {row} is {_row(got[row])}, it should be {_row(right[row])}.")


def seen_share(answer: Callable[[Tensor, Tensor, int], float]) -> None:
    """Check `seen_share(train, validation, length)`, exercise 3."""
    train = torch.tensor([4, 1, 3, 1, 2, 3, 2, 3, 2, 3, 2, 2])
    validation = torch.tensor([1, 4, 2, 1, 3, 2, 2, 3, 2, 3, 2, 3, 2, 2, 1, 1, 5])
    got, problem = _call(answer, train, validation, 3)
    if problem:
        print(problem)
        return
    seen, runs = _runs(train, 3), _runs(validation, 3)
    right = sum(run in set(seen) for run in runs) / len(runs)
    mistakes = {
        "You compared single tokens; compare runs of `length` tokens in a row": (
            sum(int(t) in train.tolist() for t in validation) / len(validation)
        ),
        "You counted each different run once; count every run of the validation part": (
            len(set(runs) & set(seen)) / len(set(runs))
        ),
        "You swapped the parts: the question is what validation shares with training": (
            sum(run in set(runs) for run in seen) / len(seen)
        ),
        "You ignored the order within a run: 3, 2, 1 is not 1, 2, 3": (
            sum(sorted(run) in [sorted(s) for s in seen] for run in runs) / len(runs)
        ),
        "You cut the parts into pieces that don't overlap; a run can start at every token": (
            sum(run in set(seen[::3]) for run in runs[::3]) / len(runs[::3])
        ),
        "You missed the last run of each part; there are len - length + 1 of them": (
            sum(run in set(seen[:-1]) for run in runs[:-1]) / len(runs[:-1])
        ),
        "You divided by the number of tokens; there are len - length + 1 runs": (
            sum(run in set(seen) for run in runs) / len(validation)
        ),
        "That is a percentage; give the share, from 0 to 1": 100 * right,
    }
    if not isinstance(got, float | int | Tensor) or (isinstance(got, Tensor) and got.numel() != 1):
        print(f"Not yet: {_what(got)}; return one number from 0 to 1.")
        return
    value = float(got)
    if abs(value - right) < 1e-6:
        same, _ = _call(answer, train, train, 4)
        none, _ = _call(answer, train, validation + 100, 3)
        if abs(float(same) - 1) < 1e-6 and abs(float(none)) < 1e-6:
            print(
                f"Correct: {right:.2f} of the runs of the test stream were seen, all runs of a "
                "stream in itself, and none of a stream of other tokens."
            )
        else:
            print(
                f"Not yet: a stream in itself must give 1 (you: {float(same):.2f}), a stream of "
                f"other tokens 0 (you: {float(none):.2f})."
            )
        return
    for text, mistaken in mistakes.items():
        if abs(value - mistaken) < 1e-6:
            print(f"{text}. The share here is {right:.2f}, you say {value:.2f}.")
            return
    print(f"Not yet: the share in the test stream is {right:.2f}, you say {value:.2f}.")


def _runs(tokens: Tensor, length: int) -> list[tuple[int, ...]]:
    values = tokens.tolist()
    return [tuple(values[i : i + length]) for i in range(len(values) - length + 1)]


def shift_matrix(answer: Callable[[int, int], Tensor]) -> None:
    """Check `shift_matrix(distance, n_embd)`, exercise 4."""
    n_embd = 8
    table = sinusoidal_positions(40, n_embd)
    for distance in (1, 3, 10):
        got, problem = _call(answer, distance, n_embd)
        if problem:
            print(problem)
            return
        if not isinstance(got, Tensor) or got.shape != (n_embd, n_embd):
            print(f"Not yet: {_what(got)}; return a tensor of shape ({n_embd}, {n_embd}).")
            return
        before, after = table[:-distance], table[distance:]
        matrix = got.float()
        if torch.allclose(before @ matrix, after, atol=1e-4):
            continue
        print(_shift_mistake(matrix, before, after, distance))
        return
    print(
        "Correct: one matrix moves every position on by the same distance (tested: 1, 3 and 10), "
        "whichever position you start from."
    )


def _shift_mistake(matrix: Tensor, before: Tensor, after: Tensor, distance: int) -> str:
    n_embd = before.size(1)
    halves = [*range(0, n_embd, 2), *range(1, n_embd, 2)]
    if torch.allclose(after @ matrix, before, atol=1e-4):
        return (
            "You turned the wrong way: your matrix moves positions back. Swap the signs of the "
            "two sines, or transpose the matrix (the row stands on the left of the product)."
        )
    for direction in (matrix, matrix.T):
        unmixed = torch.zeros_like(direction)
        unmixed[torch.tensor(halves)[:, None], torch.tensor(halves)] = direction
        if torch.allclose(before @ unmixed, after, atol=1e-4):
            return (
                "You put all sines first and all cosines after them; here they alternate: "
                "channels 2i and 2i + 1 are a pair."
            )
    blocks = [matrix[i : i + 2, i : i + 2] for i in range(0, n_embd, 2)]
    right = [_turn(distance, 2 * pair, n_embd) for pair in range(n_embd // 2)]
    if any(_symmetric(matrix, right, sign) for sign in (1, -1)):
        return (
            "You gave both sines of a pair the same sign; the two sines need opposite signs, as "
            "cos(a + b) = cos a cos b - sin a sin b has a minus."
        )
    if _turned(blocks, [_turn(distance, 0, n_embd)] * (n_embd // 2)):
        return (
            "You turned every pair by the same angle; pair i turns by "
            "distance / 10000^(2i / n_embd)."
        )
    if _turned(blocks, [_turn(distance, pair, n_embd) for pair in range(n_embd // 2)]):
        return "You gave pair i the exponent i / n_embd; it is 2i / n_embd."
    error = float((before @ matrix - after).abs().max())
    return (
        f"Not yet: position 0 moved on by {distance} should be {_row(after[0])}; you get "
        f"{_row(before[0] @ matrix)}. The largest error is {error:.2f}."
    )


def _symmetric(matrix: Tensor, turns: list[Tensor], sign: int) -> bool:
    """Tell whether the blocks are the turns with both sines of the given sign."""
    flip = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    return torch.allclose(
        matrix,
        torch.block_diag(*(turn * flip * torch.tensor([[1, sign], [sign, 1]]) for turn in turns)),
        atol=1e-4,
    )


def _turned(blocks: list[Tensor], turns: list[Tensor]) -> bool:
    """Tell whether the blocks are the turns, all forwards or all backwards."""
    return any(
        all(torch.allclose(b, t, atol=1e-4) for b, t in zip(blocks, way, strict=True))
        for way in (turns, [turn.T for turn in turns])
    )


def _turn(distance: int, exponent: float, n_embd: int) -> Tensor:
    angle = torch.tensor(distance / 10_000 ** (exponent / n_embd))
    return torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])


def _call(answer: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    try:
        result = answer(*arguments)
    except NotImplementedError:
        result = None
    except Exception as error:
        return None, f"Your function stops with {type(error).__name__}: {error}"
    if result is None or result is NotImplemented or result is ...:
        name = getattr(answer, "__name__", "your function")
        return None, f"Not done yet: {name} returns nothing so far."
    return result, ""


def _what(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"you return a tensor of shape {tuple(value.shape)}"
    return f"you return a value of type {type(value).__name__}"


def _row(values: Tensor) -> str:
    return "[" + ", ".join(f"{float(value):.2f}" for value in values) + "]"
