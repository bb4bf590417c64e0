"""Checks of the exercises of chapter 2: each says what is right, or which step is off."""

from collections.abc import Callable

import torch
from torch import Tensor

from gptlib.embeddings import TokenWindows, sinusoidal_positions
from gptlib.extras.checks.answers import Answer, close, named, number_of, says, tensor_of


@says
def count_windows(answer: Answer) -> str:
    """Check `count_windows(n_tokens, context_length, stride)`, exercise 1."""
    wrong: tuple[int, int, int] | None = None
    results: dict[tuple[int, int, int], float] = {}
    for n_tokens in range(2, 40):
        for context_length in range(1, min(n_tokens, 9)):
            for stride in range(1, 7):
                case = (n_tokens, context_length, stride)
                results[case] = number_of(answer, *case, wanted="how many windows there are")
                if wrong is None and results[case] != _windows(*case):
                    wrong = case
    if wrong is None:
        return f"Correct: all {len(results)} combinations agree with len(TokenWindows(...))."
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
            return f"{text}. For example {_show_count(wrong, results[wrong])}"
    return f"Not yet: {_show_count(wrong, results[wrong])}"


def _windows(n_tokens: int, context_length: int, stride: int) -> int:
    return len(TokenWindows(torch.arange(n_tokens), context_length, stride))


def _show_count(case: tuple[int, int, int], got: float) -> str:
    n_tokens, context_length, stride = case
    return (
        f"{n_tokens} tokens, windows of {context_length}, stride {stride}: there are "
        f"{_windows(*case)}, you say {got:g}."
    )


@says
def lookup_gradient(answer: Answer) -> str:
    """Check `lookup_gradient(tokens, upstream, vocab_size)`, exercise 2."""
    tokens = torch.tensor([2, 0, 2, 5, 2])
    upstream = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    got = tensor_of(answer, tokens, upstream, 7, shape=(7, 3))
    right = torch.zeros(7, 3).index_add(0, tokens, upstream)
    last = torch.zeros(7, 3)
    for token, row in zip(tokens, upstream, strict=True):
        last[token] = row
    counts = torch.bincount(tokens, minlength=7).clamp(min=1)[:, None]
    if close(got, right):
        return (
            "Correct: rows add up where a token repeats, and rows that were not looked up stay "
            "zero. Autograd gives the same gradient."
        )
    if close(got, right / counts):
        return "You averaged the rows of a repeated token; the gradient is their sum."
    if close(got, last) or bool((got[2] == upstream[[0, 2, 4]]).all(1).any()):
        return (
            "You kept one row of a token that occurs three times; each occurrence adds its own "
            "row. `gradient[tokens] += upstream` has this fault too: it adds one of them."
        )
    row = int((got - right).abs().sum(1).argmax())
    return f"Not yet: row {row} is {_row(got[row])}, it should be {_row(right[row])}."


@says
def seen_share(answer: Answer) -> str:
    """Check `seen_share(train, validation, length)`, exercise 3."""
    train = torch.tensor([4, 1, 3, 1, 2, 3, 2, 3, 2, 3, 2, 2])
    validation = torch.tensor([1, 4, 2, 1, 3, 2, 2, 3, 2, 3, 2, 3, 2, 2, 1, 1, 5])
    value = number_of(answer, train, validation, 3, wanted="from 0 to 1")
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
    if not close(value, right):
        mistake = named(value, mistakes) or "Not yet"
        return f"{mistake}. The share here is {right:.2f}, you say {value:.2f}."
    same = number_of(answer, train, train, 4, wanted="from 0 to 1")
    none = number_of(answer, train, validation + 100, 3, wanted="from 0 to 1")
    if not close([same, none], [1, 0]):
        return (
            f"Not yet: a stream in itself must give 1 (you: {same:.2f}), a stream of other "
            f"tokens 0 (you: {none:.2f})."
        )
    return (
        f"Correct: {right:.2f} of the runs of the test stream were seen, all runs of a stream in "
        "itself, and none of a stream of other tokens."
    )


def _runs(tokens: Tensor, length: int) -> list[tuple[int, ...]]:
    values = tokens.tolist()
    return [tuple(values[i : i + length]) for i in range(len(values) - length + 1)]


@says
def shift_matrix(answer: Answer) -> str:
    """Check `shift_matrix(distance, n_embd)`, exercise 4."""
    n_embd = 8
    table = sinusoidal_positions(40, n_embd)
    for distance in (1, 3, 10):
        got = tensor_of(answer, distance, n_embd, shape=(n_embd, n_embd))
        before, after = table[:-distance], table[distance:]
        matrix = got.float()
        if torch.allclose(before @ matrix, after, atol=1e-4):
            continue
        return _shift_mistake(matrix, before, after, distance)
    return (
        "Correct: one matrix moves every position on by the same distance (tested: 1, 3 and 10), "
        "whichever position you start from."
    )


def _shift_mistake(matrix: Tensor, before: Tensor, after: Tensor, distance: int) -> str:
    n_embd = before.size(1)
    halves = [*range(0, n_embd, 2), *range(1, n_embd, 2)]
    if torch.allclose(after @ matrix, before, atol=1e-4):
        return "You turned the wrong way: swap the signs of the sines, or transpose the matrix."
    for direction in (matrix, matrix.T):
        unmixed = torch.zeros_like(direction)
        unmixed[torch.tensor(halves)[:, None], torch.tensor(halves)] = direction
        if torch.allclose(before @ unmixed, after, atol=1e-4):
            return "You put all sines first and all cosines last; channels 2i, 2i + 1 are a pair."
    blocks = [matrix[i : i + 2, i : i + 2] for i in range(0, n_embd, 2)]
    right = [_turn(distance, 2 * pair, n_embd) for pair in range(n_embd // 2)]
    if any(_symmetric(matrix, right, sign) for sign in (1, -1)):
        return "You gave both sines of a pair the same sign; the two sines need opposite signs."
    if _turned(blocks, [_turn(distance, 0, n_embd)] * (n_embd // 2)):
        return "You turned every pair by the same angle; it is distance / 10000^(2i / n_embd)."
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
    signs = flip * torch.tensor([[1, sign], [sign, 1]])
    return close(matrix, torch.block_diag(*(turn * signs for turn in turns)))


def _turned(blocks: list[Tensor], turns: list[Tensor]) -> bool:
    """Tell whether the blocks are the turns, all forwards or all backwards."""
    return close(blocks, turns) or close(blocks, [turn.T for turn in turns])


def _turn(distance: int, exponent: float, n_embd: int) -> Tensor:
    angle = torch.tensor(distance / 10_000 ** (exponent / n_embd))
    return torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])


def _row(values: Tensor) -> str:
    return "[" + ", ".join(f"{float(value):.2f}" for value in values) + "]"
