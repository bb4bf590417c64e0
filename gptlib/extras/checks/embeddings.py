"""Check the tasks and exercises of the chapter on embeddings."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gptlib.extras.checks.answers import (
    Wrong,
    attempt,
    close,
    expect,
    named,
    number,
    number_of,
    run,
    says,
    task,
    what,
)


@contextmanager
def _kept(**tensors: Tensor) -> Iterator[None]:
    """Refuse an answer that changes the caller's tensors."""
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    yield
    for name, tensor in tensors.items():
        if not torch.equal(tensor, before[name]):
            raise Wrong(
                f"Not yet: your function changes the caller's {name}. /=, zero_() and [i] = work "
                f"in place, on a row or a slice of it too; work on {name}.clone()."
            )


@task
def nearest(function: Callable[[Tensor, Tensor, int], Any]) -> str:
    """Check the ids of the rows that point most nearly where a vector points."""
    table = torch.tensor(
        [[8.0, 6], [0.5, 0.6], [1, 1], [0, 2], [-5, -5], [6, -4], [2, -1], [-1, 0.5]]
    )
    vector, n = torch.tensor([1.0, 0.9]), 3  # no row of the table
    hints = {
        "size of tensor": "A matrix of shape (V, C) times a vector of shape (C,): table @ vector.",
        "out of range": "There is one cosine for each of the V rows: compare along dim=-1.",
        **dict.fromkeys(
            ("converted to Python scalars", "converted to Scalar"),
            "Only a tensor of one number becomes an int; topk(n).indices.tolist() is a list.",
        ),
    }
    with _kept(table=table, vector=vector):
        said = run(function, table, vector, n, hints=hints)
    ids = said.tolist() if isinstance(said, Tensor) else said
    found: Any = ids if isinstance(ids, list | tuple) else [None]
    if found and attempt(lambda: all(list(row) in table.tolist() for row in found)):
        raise Wrong("Not yet: these are rows; return their ids, topk(n).indices.tolist().")
    ids = [int(i) if isinstance(i, Integral) else i for i in found]  # NumPy's too
    if None in (numbers := [number(i) for i in ids]):
        raise Wrong(f"Not yet: {what(said)}; return a list of {n} ids, topk(n).indices.tolist().")
    cosines = torch.cosine_similarity(table, vector, dim=-1)
    products, distances = table @ vector, (table - vector).norm(dim=-1)

    def first(scores: Tensor, count: int = n) -> list[int]:
        return scores.argsort(descending=True).tolist()[:count]

    right = first(cosines)
    causes: dict[str, list[Any]] = {
        "dot products favour long rows, also when all are divided by the same number; divide each "
        "by the length of its own row, table.norm(dim=-1)": first(products),
        "the mean of the rows is subtracted; the cosine takes them as they are": first(
            torch.cosine_similarity(table - table.mean(0), vector, dim=-1)
        ),
        "each column is divided by its length; divide each row by its own, "
        "table.norm(dim=-1, keepdim=True)": first(table / table.norm(dim=0) @ vector),
        "these are the nearest by distance; the cosine forgets the lengths": first(-distances),
        "these are the rows that point away most; the largest cosine comes first": first(-cosines),
        "the best comes last; turn the list round": right[::-1],
        "the closest row is missing; the caller leaves out what is not wanted": (
            first(cosines, n + 1)[1:]
        ),
        "the ids are sorted by number; sort them by cosine, largest first": sorted(right),
        "these are all rows; return the first n": first(cosines, len(table)),
        "the cosine of opposite vectors is -1, so take it with its sign": first(cosines.abs()),
        "the products are divided by the squared lengths of the rows, so short rows win": first(
            products / table.square().sum(-1)
        ),
    }
    if numbers == right:
        if isinstance(said, Tensor):
            raise Wrong("Not yet: the right ids, but in a tensor; .tolist() makes a list of it.")
        if not all(isinstance(i, int) for i in ids):
            kind = type(ids[0]).__name__
            raise Wrong(f"Not yet: the right ids, but each is a {kind}; .tolist() makes them int.")
        one = run(function, table, table[4], 1)
        if not attempt(lambda: list(one) == [4]):
            raise Wrong(
                "Not yet: right for n = 3, but the row nearest to row 4 is row 4 itself: [4]."
            )
        return "Correct: the largest cosine first, whatever the lengths of the rows."
    if any(i not in range(len(table)) for i in numbers):
        raise Wrong("Not yet: these are cosines or vectors; return the ids, topk(n).indices.")
    for cause, wrong in causes.items():
        if numbers == wrong:
            raise Wrong(f"Not yet: {cause}.")
    raise Wrong(f"Not yet: for a test table the {n} nearest are {right}, you say {ids}.")


@task
def look_up(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check that rows are picked by a product with one-hot rows, and not by indexing."""
    table = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7.5, 9], [-1, 0]])
    tokens = torch.tensor([3, 0, 3])
    rows = torch.nn.functional.one_hot(tokens, len(table)).float()
    hints = {
        "shapes cannot be multiplied": "The one-hot rows are (T, V) and the table (V, C).",
        "(3x4 and": (
            "Without a number of classes, F.one_hot makes only as many columns as the largest id "
            "needs."
        ),
        "(5x3 and": "Yours are transposed, (V, T).",
        **dict.fromkeys(
            ("same dtype", "expected scalar type", "not implemented for 'Long'"),
            "F.one_hot gives whole numbers; a product needs .float() on them.",
        ),
        "size of tensor": "* multiplies number by number; the matrix product is @.",
        "num_classes": "The table has a row for each of the V tokens: len(table) classes.",
        "non-negative": "A token can be 0; token t has column t, counted from 0.",
    }
    causes = {
        "these are the one-hot rows; multiply them with the table": rows,
        "the one-hot rows are transposed: one row for each token": rows.T,
        "the result is transposed: one row for each token, (T, C)": table[tokens].T,
        "one token is looked up; return a row for each": table[tokens[0]],
        "the rows are added up; return one for each token": table[tokens].sum(0),
        "the table is cut to whole numbers; leave it, and take .float() of the one-hot rows": (
            table[tokens].trunc()
        ),
        "each 1 stands a column too early; token t has column t, counted from 0": table[tokens - 1],
        "each 1 stands a column too late; token t has column t, counted from 0": table[tokens + 1],
        "each row has a 1 for every token; row i has a single 1, in column tokens[i]": (
            table[tokens.unique()].sum(0).expand(3, 2)
        ),
    }
    with _Products() as products:
        picked = run(function, tokens, table, hints=hints)
    if isinstance(picked, Tensor) and picked.layout != torch.strided:
        raise Wrong("Not yet: the result is a sparse tensor; .to_dense() makes a common one.")
    expect(picked, table[tokens], causes, "the result for three tokens")
    unused = table.clone()
    unused[1] = torch.nan  # 0 · nan is nan: a product can't pass over a row
    if not (products.sparse or run(function, tokens, unused).isnan().any()):
        raise Wrong(
            "Not yet: the right rows, but looked up. Multiply the one-hot rows with the table, "
            "zeros included."
        )
    return "Correct: a row of zeros with a single 1 picks one row of the table."


class _Products(TorchFunctionMode):
    """Note whether a sparse matrix is multiplied: it is a product, though it leaves zeros out."""

    sparse = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        product = getattr(func, "__name__", "").strip("_") in PRODUCTS
        if product and any(isinstance(a, Tensor) and a.layout != torch.strided for a in args):
            self.sparse = True
        return func(*args, **(kwargs or {}))


PRODUCTS = {"matmul", "rmatmul", "mm", "sparse_mm"}


@task
def windows(kind: Callable[..., Any]) -> str:
    """Check the number of windows, then the windows and their targets."""
    counts: dict[tuple[int, int, int], float] = {}
    for n in range(2, 24):
        for length in range(1, min(n, 7)):
            for stride in range(1, 6):
                yours = run(kind, torch.arange(n), length, stride)
                counts[n, length, stride] = number_of(yours.__len__, wanted="how many windows fit")
    _check_counts(counts)
    stream = torch.arange(30) * 7 % 31
    yours = run(kind, stream, 5, 3)
    hints = {"too many indices": "A window is one slice: tokens[start : end]."}
    for index in (1, 0, len(yours) - 1):
        start = 3 * index
        pair = run(yours.__getitem__, index, hints=hints)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise Wrong("Not yet: __getitem__ returns two tensors, the inputs and the targets.")
        inputs, targets = pair
        window = stream[start : start + 5]
        causes = {
            "the window has one token too many; the last one is a target only": (
                stream[start : start + 6]
            ),
            "the window starts at its index; it starts at index · stride": stream[index:][:5],
            "windows lie a stride apart, not a context length": stream[5 * index :][:5],
            "the targets come second, the inputs first"
            if close(targets, window)
            else "the window starts a token too late; it starts at index · stride": (
                stream[start + 1 : start + 6]
            ),
        }
        expect(inputs, window, causes, f"the inputs of window {index}")
        causes = {
            "the targets are the inputs; move them on by one token": window,
            "only the last token has a target; each token has one": stream[start + 5 : start + 6],
            "the target is one number; each token has a target": stream[start + 5],
            "the targets are one token short: the last one lies just behind the window": (
                stream[start + 1 : start + 5]
            ),
            "the last target is the window's first token, as roll brings it round; it is the token "
            "behind the window": stream[start : start + 5].roll(-1),
            "the targets are moved on by two": stream[start + 2 : start + 7],
            "the targets come *before* the inputs": stream[max(start - 1, 0) :][:5],
            "the targets are the next window; move on by one token": stream[start + 3 :][:5],
            "the targets begin behind the window; each token has one, the token after it": (
                stream[start + 5 : start + 10]
            ),
        }
        expect(targets, stream[start + 1 : start + 6], causes, f"the targets of window {index}")
        _check_ids(inputs, targets)
    _check_ends(yours)
    return f"Correct: {len(counts)} counts of windows, and the targets one token on."


def _check_ids(*parts: Tensor) -> None:
    for part in parts:
        if part.dtype != torch.int64:
            raise Wrong(f"Not yet: the ids became {part.dtype}; leave them torch.int64.")


def _check_ends(yours: Any) -> None:
    def at(index: int) -> Any:
        try:
            return yours[index]
        except Exception as error:
            return error

    n = len(yours)
    if not isinstance(at(n), IndexError):
        raise Wrong(
            f"Not yet: of {n} windows the last is {n - 1}; window {n} must raise an IndexError, at "
            "which a loop over the windows ends."
        )
    before, last = at(-1), list(at(n - 1))
    counted_back = isinstance(before, list | tuple) and close(before, last)
    if not isinstance(before, Exception) and not counted_back:
        raise Wrong(
            "Not yet: there is no window -1, but you return one; refuse it too, 0 <= index."
        )


FIT = (
    "with its last target a window takes T + 1 tokens, so the last start is n - T - 1; "
    "count the strides up to it, and add 1 for the first window"
)


def _check_counts(counts: Mapping[tuple[int, int, int], float]) -> None:
    def right(n: int, length: int, stride: int) -> int:
        return (n - length - 1) // stride + 1

    mistakes: dict[str, Callable[[int, int, int], int]] = {
        "there is no token left for the last target: a window needs context_length + 1": (
            lambda n, t, s: (n - t) // s + 1
        ),
        "rounded up; a window that would run past the end doesn't count": (
            lambda n, t, s: -(-(n - t - 1) // s) + 1
        ),
        "these are the steps; the first window needs none, so add 1": (
            lambda n, t, s: (n - t - 1) // s
        ),
        "windows are a stride apart, not a context length": lambda n, t, s: (n - 1) // t,
        "the stream is cut into pieces of context_length; windows are a stride apart, and the "
        "last one needs room for its last target": lambda n, t, s: n // t,
        "the stream is cut by the stride; the last window can't start near its end": (
            lambda n, t, s: n // s
        ),
        f"the last window is lost unless the stride divides n - T: {FIT}": (
            lambda n, t, s: (n - t) // s
        ),
        f"the length of a window is left out: {FIT}": lambda n, t, s: (n - 1) // s,
        "that is the number of tokens": lambda n, t, s: n,
        "that is right for a stride of 1 only": lambda n, t, s: n - t,
        "the stream is cut into pieces of context_length + 1; windows are a stride apart": (
            lambda n, t, s: n // (t + 1)
        ),
    }
    wrong = next((case for case, count in counts.items() if count != right(*case)), None)
    if wrong is None:
        return
    fits = (
        text
        for text, mistake in mistakes.items()
        if all(count == mistake(*case) for case, count in counts.items())
    )
    whole = all(count == int(count) for count in counts.values())
    cause = next(fits, "the number of windows is off" if whole else "round down: use //, not /")
    example = "{} tokens, windows of {}, stride {}".format(*wrong)
    said = f"{example}: there are {right(*wrong)}, you say {counts[wrong]:g}"
    raise Wrong(f"Not yet: {cause}. For example {said}.")


@task
def random_batch(function: Callable[..., tuple[Tensor, Tensor]]) -> str:
    """Check the batch: windows of the stream, their targets, and where they may start."""
    stream = torch.arange(100, 112)  # 12 tokens: windows of 4 can start at 8 places
    hints = {
        "equal size": (
            "A window too near the end is shorter than the others. The last start leaves room for "
            "the last target."
        ),
        "less than 'to'": "Each window has a start of its own: draw batch_size of them.",
        **dict.fromkeys(
            ("out of bounds", "out of range"),
            "The last start leaves room for the window and for its last target, which is one on.",
        ),
    }

    def draw(batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pair = run(function, stream, batch_size, 4, generator, hints=hints)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise Wrong("Not yet: return two tensors, the inputs and the targets.")
        for name, part in zip(("inputs", "targets"), pair, strict=True):
            if not isinstance(part, Tensor):
                raise Wrong(f"Not yet: the {name} must be a tensor; {what(part)}; see torch.stack.")
            _check_shape(name, part)
        return pair[0], pair[1]

    def fresh(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    inputs, targets = draw(400, fresh(0))
    if not set(inputs.flatten().tolist()) <= set(stream.tolist()):
        raise Wrong("Not yet: these are places in the stream; return the tokens that stand there.")
    if not torch.equal(inputs, inputs[:, :1] + torch.arange(4)):
        raise Wrong("Not yet: a row must hold 4 tokens that follow each other in the stream.")
    causes = {
        "the targets are the inputs; move them on by one token": inputs,
        "the targets come second, the inputs first": inputs - 1,
        "the targets are moved on by two": inputs + 2,
        "the last target is the window's first token, as roll brings it round; it is the token "
        "behind the window": inputs.roll(-1, 1),
    }
    if (
        torch.equal(targets, targets[:, :1] + torch.arange(4))
        and len((targets - inputs).unique()) > 2
    ):
        raise Wrong(
            "Not yet: the targets come from other places than the inputs. Draw the starts once, "
            "and cut both there."
        )
    expect(targets, inputs + 1, causes, "the targets")
    _check_ids(inputs, targets)
    _check_starts((inputs[:, 0] - 100).tolist())
    if not torch.equal(inputs, draw(400, fresh(0))[0]):
        raise Wrong("Not yet: the same seed gives another batch; draw with generator=generator.")
    generator = fresh(0)
    if torch.equal(draw(400, generator)[0], draw(400, generator)[0]):
        raise Wrong("Not yet: two draws with one generator are the same; don't seed it again.")
    drawn = torch.cat([draw(400, generator)[0][:, 0] for _ in range(20)]).tolist()
    shares = {start: drawn.count(100 + start) / len(drawn) for start in range(8)}
    odd = max(shares, key=lambda start: abs(shares[start] - 1 / 8))
    if abs(shares[odd] - 1 / 8) > 0.03:  # 8 standard deviations
        raise Wrong(
            f"Not yet: start {odd} is drawn in {shares[odd]:.0%} of the windows, and each of the 8 "
            "should be in 12.5%. Draw whole numbers below 8; clamp, % and round favour some."
        )
    return "Correct: windows from every place that has room, and the generator repeats them."


def _check_shape(name: str, part: Tensor) -> None:
    causes = {
        (400, 5): f"the {name} have T + 1 columns; cut off the last or the first",
        (4, 400): f"the {name} are transposed; one window in each row",
        (8, 4): "each start is drawn once; draw with torch.randint, so that one may come again",
        (4,): "this is one window; stack batch_size of them",
        (1600,): "the windows are joined; stack them, one in each row",
    }
    shape = tuple(part.shape)
    if shape != (400, 4):
        cause = causes.get(shape, f"the {name} have shape {shape}, and (B, T) is (400, 4)")
        raise Wrong(f"Not yet: {cause}.")


def _check_starts(starts: list[int]) -> None:
    found = sorted(set(starts))
    if len(found) == 1:
        raise Wrong("Not yet: all windows start at the same place; draw one start for each.")
    if found == list(range(7)):
        raise Wrong(
            "Not yet: the last window is never drawn. 12 tokens have 12 - 4 starts, and randint "
            "leaves its upper end out by itself."
        )
    if found == list(range(1, 8)):
        raise Wrong("Not yet: the first window is never drawn; starts begin at 0.")
    if all(start % 4 == 0 for start in found):
        raise Wrong("Not yet: windows start at multiples of T only; let them start anywhere.")
    if found != list(range(8)):
        raise Wrong(f"Not yet: of 8 possible starts only {found} are drawn.")
    if starts[:16] == [*range(8)] * 2:
        raise Wrong("Not yet: the windows come in order; draw their starts at random.")


@task
def seen_share(function: Callable[[Tensor, Tensor, int], float]) -> str:
    """Check the share of the validation windows' runs that stand in a training window."""
    train, held_out = TRAIN, HELD_OUT
    hints = {
        "unhashable": "A list can't be in a set, a tuple can: tuple(run).",
        "Dimension out of range": "The windows are rows: unfold dimension 1.",
        **dict.fromkeys(
            ("maximum size for tensor", "division by zero"),
            "Runs have `length` tokens, here 3, and windows 7. Is an 8 or a 64 fixed in your code?",
        ),
    }
    answer = run(function, train, held_out, 3, hints=hints)
    value = number(answer)
    if value is None:
        raise Wrong(f"Not yet: {what(answer)}; return one number, from 0 to 1.")
    runs = _runs(held_out, 3)
    right = sum(run in _runs(train, 3) for run in runs) / len(runs)
    mistakes = _share_mistakes(train, held_out)
    if not close(value, right):
        mistake = named(value, mistakes) or "compare a short example by hand"
        raise Wrong(f"Not yet: {mistake}. The share here is {right:.2f}, you say {value:.2f}.")
    for what_is, part, share in (("itself", train, 1), ("other tokens", train + 100, 0)):
        found = number_of(function, train, part, 4, wanted="from 0 to 1")
        if not close(found, share):
            raise Wrong(f"Not yet: of windows and {what_is} {share} is seen, you say {found:.2f}.")
    a, b = torch.tensor([[1, 23, 4]]), torch.tensor([[12, 3, 4]])
    if number_of(function, a, b, 3, wanted="from 0 to 1"):
        raise Wrong(
            "Not yet: the run 1, 23, 4 counts as 12, 3, 4: their digits are the same when joined "
            "without a separator. Make tuples."
        )
    return f"Correct: {right:.2f} of the test's runs, all of a text in itself, none of another's."


TRAIN = torch.tensor(
    [[1, 1, 4, 1, 2, 1, 1], [1, 1, 3, 4, 1, 2, 1], [2, 3, 3, 1, 2, 1, 1], [2, 3, 4, 3, 2, 1, 3]]
)
HELD_OUT = torch.tensor(
    [
        *([1, 3, 4, 1, 2, 1, 3], [4, 3, 3, 3, 3, 4, 2], [3, 4, 1, 2, 1, 2, 1]),
        *([3, 2, 3, 3, 1, 1, 3], [1, 1, 4, 1, 2, 1, 1]),
    ]
)
"""Windows for which each mistake below gives another share."""


def _share_mistakes(train: Tensor, held_out: Tensor) -> dict[str, float]:
    seen, runs = _runs(train, 3), _runs(held_out, 3)
    joined, joined_runs = _runs(train.view(1, -1), 3), _runs(held_out.view(1, -1), 3)
    each = held_out.size(1) - 2  # runs in a window
    known = [run in seen for run in runs]
    by_window = [known[i : i + each] for i in range(0, len(runs), each)]

    def kept(rows: list[Any], step: int) -> list[Any]:
        return [row for place, row in enumerate(rows) if place % each % step == 0]

    def share(asked: list[Any], where: list[Any]) -> float:
        return sum(run in where for run in asked) / len(asked)

    right = share(runs, seen)
    short, short_runs = _runs(train[:, :-1], 3), _runs(held_out[:, :-1], 3)
    return {
        "single tokens are compared; compare runs of `length` tokens": (
            share(held_out.flatten().tolist(), train.flatten().tolist())
        ),
        "each different run is counted once; count every run": share(list(set(runs)), seen),
        "the seen runs are counted once each, and divided by all runs; count every run": (
            len({*runs} & {*seen}) / len(runs)
        ),
        "a run counts only as often as training has it, as by & of two Counters; count each time "
        "it comes": (Counter(runs) & Counter(seen)).total() / len(runs),
        "the parts are swapped; ask what validation shares with training": share(seen, runs),
        "the order within a run is ignored; 3, 2, 1 is not 1, 2, 3": (
            share([sorted(run) for run in runs], [sorted(run) for run in seen])
        ),
        "the windows are cut into pieces; a run can start at every token": (
            share(kept(runs, 3), kept(seen, 3))
        ),
        "the windows are joined, and runs reach from one into the next": share(joined_runs, joined),
        "the validation windows are joined, and runs reach from one into the next": (
            share(joined_runs, seen)
        ),
        "the training windows are joined, and runs reach from one into the next": (
            share(runs, joined)
        ),
        "the last run of each window is missing; a window has T - length + 1": (
            share(short_runs, short)
        ),
        "divided by the number of tokens; divide by the number of runs": (
            sum(known) / held_out.numel()
        ),
        "divided by the number of training runs; divide by that of the validation runs": (
            sum(known) / len(seen)
        ),
        "windows with a seen run are counted; count the runs": (
            sum(map(any, by_window)) / len(by_window)
        ),
        "only windows with all their runs seen are counted; count the runs": (
            sum(map(all, by_window)) / len(by_window)
        ),
        "only the first run of each window is counted; a run can start at every token": (
            sum(window[0] for window in by_window) / len(by_window)
        ),
        "tensors with the same numbers are different members of a set; make tuples: "
        "tuple(run.tolist())": 0,
        "whole windows are compared; compare runs of `length` tokens": (
            share(held_out.tolist(), train.tolist())
        ),
        "a run counts only at the same place of a window; it may stand anywhere in it": (
            sum(run in seen[place % each :: each] for place, run in enumerate(runs)) / len(runs)
        ),
        "a run is compared only with the run at the same place of the same row; look in all": (
            sum(a == b for a, b in zip(runs, seen, strict=False)) / len(runs)
        ),
        "that is a count; divide it by the number of runs": right * len(runs),
        "that is the share of runs that were *not* seen": 1 - right,
        "that is a percentage; give the share, from 0 to 1": 100 * right,
    }


def _runs(rows: Tensor, length: int) -> list[tuple[int, ...]]:
    return [tuple(run) for run in rows.unfold(1, length, 1).flatten(0, 1).tolist()]


@task
def split_tokens(function: Callable[..., tuple[Tensor, Tensor]]) -> str:
    """Check the contiguous split of a stream."""
    stream = torch.arange(40) * 3 % 41
    only = "validation_fraction may be left out; its default is 0.1."
    hints = {"slice indices": "A cut is a whole number of tokens: round(…)."}
    with _kept(tokens=stream):
        parts = run(function, stream, 0.25, hints=hints)
    if not isinstance(parts, tuple | list) or len(parts) != 2:
        raise Wrong("Not yet: return two tensors, the training and the validation part.")
    train, validation = parts
    for name, part in (("training", train), ("validation", validation)):
        if not isinstance(part, Tensor):
            raise Wrong(f"Not yet: the {name} part must be a tensor; {what(part)}.")
    causes = {
        "the validation part comes second": stream[30:],
        "0.25 is the share of the validation part": stream[:10],
        "the validation part is taken from the start; take the end": stream[10:],
        "0.9 is fixed in your code; use validation_fraction, here 0.25": stream[:36],
        "0.1 is fixed in your code; use validation_fraction, here 0.25": stream[:4],
        "the training part is the whole stream, and so contains the validation part": stream,
    }
    first, second = train.tolist(), validation.tolist()
    in_order = stream.tolist() in (first + second, second + first)
    if sorted(first + second) == sorted(stream.tolist()) and not in_order:
        if all([x for x in stream.tolist() if x in part] == part for part in (first, second)):
            raise Wrong(
                "Not yet: validation tokens are taken from the midst of the training text; cut "
                "once, and take its end."
            )
        raise Wrong("Not yet: the tokens are shuffled; keep their order, and cut once.")
    if second == stream[30:].tolist():
        causes["a token at the cut is in both parts"] = stream[:31]
        causes["a token at the cut is lost"] = stream[:29]
    expect(train, stream[:30], causes, "the training part")
    causes = {
        "a token at the cut is in both parts": stream[29:],
        "a token at the cut is lost": stream[31:],
    }
    expect(validation, stream[30:], causes, "the validation part")
    _check_ids(train, validation)
    tenth = run(function, torch.arange(100), hints={"positional argument": only})
    expect(tenth[1], torch.arange(90, 100), {}, "the validation part of 100 tokens by default")
    few = attempt(function, stream[:4], 0.1)  # may be refused
    if few is not None and len(few[0]) == 0:
        raise Wrong(
            "Not yet: a tenth of 4 tokens is rounded to 0, and then the training part is empty: "
            "tokens[:-0] is tokens[:0]. Cut at len(tokens) - n."
        )
    return "Correct: the last part of the text, cut once, and no token twice."


@task
def layer(kind: Callable[..., Any]) -> str:
    """Check the sum of two rows, positions of one's own, and dropout."""
    yours = run(kind, 11, 6, 8).eval()
    names = {"token_embedding", "position_embedding", "dropout"}
    if {name for name, _ in yours.named_children()} != names:
        raise Wrong("Not yet: leave __init__ as it is; trained weights are found by these names.")
    tokens = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    rows, places = yours.token_embedding.weight, yours.position_embedding.weight
    hints = {
        "index out of range": "A position is a place, 0 to T - 1, not a token and not the batch.",
        "size of tensor": "One position for each column: torch.arange(tokens.size(1)).",
        "must be Tensor, not NoneType": (
            "positions is None when it is left out. Then, and only then, count: "
            "if positions is None: positions = torch.arange(tokens.size(1))."
        ),
        **dict.fromkeys(
            ("Tensor, not int", "Tensor, not list", "Tensor, not range"),
            "A table is asked with a tensor: torch.arange(tokens.size(1)).",
        ),
    }
    causes = {
        "the positions are missing": rows[tokens],
        "the tokens are missing": places[:4].expand(2, 4, 8),
        "every token gets the vector of position 0": rows[tokens] + places[0],
        **{
            f"every token gets the vector of position {t}; each column has its own": (
                rows[tokens] + places[t]
            )
            for t in range(1, 6)
        },
        "positions count from 0, not from 1": rows[tokens] + places[1:5],
        "the positions run backwards": rows[tokens] + places[:4].flip(0),
        "the number of the position is added; add its vector, position_embedding's row": (
            rows[tokens] + torch.arange(4)[:, None]
        ),
        "each *row* gets a position; each column should": rows[tokens] + places[:2, None],
        "the vectors are multiplied; add them": rows[tokens] * places[:4],
        "the vectors stand side by side; add them": torch.cat(
            (rows[tokens], places[:4].expand(2, 4, 8)), -1
        ),
        "the sum is halved; add the vectors as they are": (rows[tokens] + places[:4]) / 2,
        "the token vectors are multiplied by √C; that belongs to sines and cosines": (
            rows[tokens] * 8**0.5 + places[:4]
        ),
    }
    out = run(yours.forward, tokens, hints=hints)
    expect(out, rows[tokens] + places[:4], causes, "the output")
    tables = (rows, places) if out.requires_grad else ()
    found = torch.autograd.grad(out.sum(), tables, allow_unused=True) if tables else (None,)
    if any(gradient is None for gradient in found):
        raise Wrong("Not yet: right, but no gradient comes through; use the layers themselves.")
    third = torch.tensor([2, 5, 0, 1])
    own = "forward takes positions too: forward(self, tokens, positions=None)."
    hints = {
        "positional argument": own,
        "Boolean value": "Ask: if positions is None.",
        "index out of range": "Given positions [2, 5, 0, 1] are rows of the table; add nothing.",
    }
    given = run(yours.forward, tokens, third, hints=hints)
    causes = {
        "positions is not used: when it is given, tokens stand there": out,
        "only the first of the positions is used; they need not be neighbours": (
            rows[tokens] + places[2:6]
        ),
    }
    expect(given, rows[tokens] + places[third], causes, "the output for positions [2, 5, 0, 1]")
    careless = run(kind, 11, 6, 8, 0.9).eval()
    whole = careless(tokens)
    if not torch.equal(whole, careless(tokens)):
        raise Wrong("Not yet: dropout acts outside training too; use self.dropout.")
    dropped = careless.train()(tokens.repeat(100, 1))
    left = (dropped / whole.repeat(100, 1, 1))[dropped != 0]  # a tenth, ten times as large
    if close(left, torch.ones_like(left)):
        raise Wrong("Not yet: dropout never acts; the last step is self.dropout.")
    if close(left, torch.full_like(left, 100)):
        raise Wrong("Not yet: dropout acts twice; it acts once, on the sum.")
    if not close(left, left[:1].expand_as(left)):
        raise Wrong("Not yet: dropout must act on the sum, once.")
    if not close(left, torch.full_like(left, 10)):
        raise Wrong(
            "Not yet: dropout leaves another share of the numbers than it should; the last step is "
            "self.dropout, once."
        )
    return "Correct: what a token is and where it stands, added."


@says
def lookup_gradient(function: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Check the gradient of a look-up, computed without autograd."""
    tokens = torch.tensor([2, 0, 2, 5, 2, 1, 4])
    upstream = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    by_hand = "That is autograd's answer. Write your own: zeros, then add row by row."
    sizes = "T is 7 here, V 8 and C 3; the gradient is (V, C), a row of C numbers for each id."
    hints = {
        **dict.fromkeys(("does not require grad", "requires_grad"), by_hand),
        **dict.fromkeys(("out of bounds", "size of tensor"), sizes),
        "shapes cannot be multiplied": f"{sizes} Transpose the one-hot rows.",
    }
    ready_made = ((torch.autograd, "grad"), (torch.func, "vjp"), (torch.func, "grad"))
    zeros = torch.zeros(8, 3)
    right = zeros.index_add(0, tokens, upstream)
    with (
        torch.inference_mode(),  # autograd has nothing to work on here
        _kept(tokens=tokens, upstream=upstream),
        ExitStack() as stack,
    ):
        for module, name in ready_made:
            refuse = patch.object(module, name, side_effect=RuntimeError("requires_grad"))
            stack.enter_context(refuse)
        got = run(function, tokens, upstream, 8, hints=hints)
    if not isinstance(got, Tensor) or got.shape != (8, 3):
        shapes: dict[tuple[int, ...], str] = {
            (7, 3): " upstream has a row for each place; the table has one for each of the V ids.",
            (6, 3): " The table has vocab_size rows, not only as many as the largest id needs.",
        }
        more = shapes.get(tuple(got.shape), "") if isinstance(got, Tensor) else ""
        raise Wrong(f"Not yet: {what(got)}; return a tensor of shape (8, 3), the table's.{more}")
    if close(got, right):
        return "Correct: a repeated token's rows add up, and rows without a token stay zero."
    counts = torch.bincount(tokens, minlength=8)[:, None]
    causes = {
        "all is zero. index_add returns a new tensor; index_add_ changes it": zeros,
        "the rows of a repeated token are averaged; they add up": right / counts.clamp(min=1),
        "row i of upstream goes to row i of the table; it belongs to row tokens[i]": (
            zeros.index_add(0, torch.arange(7), upstream)
        ),
        "each occurrence adds 1; add its row of upstream": counts.expand(8, 3),
        "the sign is wrong; add the rows, don't subtract them": -right,
        "upstream is read at the token; its row i belongs to place i: upstream[i]": (
            zeros.index_add(0, tokens, upstream[tokens])
        ),
        "the gradient starts with ones; start with zeros": right + 1,
    }
    if cause := named(got, causes):
        raise Wrong(f"Not yet: {cause}.")
    others = [0, 1, 3, 4, 5, 6, 7]
    if close(got[others], right[others]) and (got[2] == upstream[[0, 2, 4]]).all(1).any():
        raise Wrong(
            "Not yet: one row of a token that occurs three times is left; each occurrence adds "
            "its own. `gradient[tokens] += upstream` has this fault too."
        )
    row = int((got - right).abs().sum(1).argmax())
    raise Wrong(f"Not yet: row {row} is {_row(got[row])}, it should be {_row(right[row])}.")


def _row(values: Tensor) -> str:
    return "[" + ", ".join(f"{float(value):.2f}" for value in values) + "]"
