"""The checks of the chapter on embeddings know the unfinished, each mistake, and the right."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.embeddings import InputEmbedding, TokenWindows
from gptlib.extras.checks import embeddings as checks

Function = Callable[..., Any]


def said(check: Function, answer: Function, capsys: pytest.CaptureFixture[str]) -> str:
    check(answer)
    return capsys.readouterr().out


def cosines(table: Tensor, vector: Tensor) -> Tensor:
    return F.cosine_similarity(table, vector, dim=-1)


def top(scores: Tensor, n: int) -> list[int]:
    ids: list[int] = scores.topk(n).indices.tolist()
    return ids


def in_place(table: Tensor, vector: Tensor, n: int) -> list[int]:
    table /= table.norm(dim=-1, keepdim=True)
    return top(table @ vector, n)


def vector_in_place(table: Tensor, vector: Tensor, n: int) -> list[int]:
    vector /= vector.norm()
    return top(F.normalize(table) @ vector, n)


def by_numpy(table: Tensor, vector: Tensor, n: int) -> Any:
    return np.argsort(-(table @ vector).numpy() / np.linalg.norm(table, axis=1))[:n]


NEAREST: dict[str, Function] = {
    "Not written yet: <lambda> returns nothing.": lambda e, v, n: None,
    "Correct": lambda e, v, n: top(cosines(e, v), n),
    "dot products favour long rows": lambda e, v, n: top(e @ v, n),
    "nearest by distance": lambda e, v, n: (e - v).norm(dim=-1).argsort().tolist()[:n],
    "point away most": lambda e, v, n: cosines(e, v).argsort().tolist()[:n],
    "the best comes last": lambda e, v, n: cosines(e, v).argsort().tolist()[-n:],
    "the closest row is missing": lambda e, v, n: top(cosines(e, v), n + 1)[1:],
    "sorted by number": lambda e, v, n: sorted(top(cosines(e, v), n)),
    "return the first n": lambda e, v, n: top(cosines(e, v), len(e)),
    "take it with its sign": lambda e, v, n: top(cosines(e, v).abs(), n),
    "squared lengths": lambda e, v, n: top(e @ v / e.square().sum(-1), n),
    "these are cosines": lambda e, v, n: cosines(e, v).topk(n).values.tolist(),
    "return a list of 3 ids": lambda e, v, n: cosines(e, v).topk(n),
    "these are rows; return their ids": lambda e, v, n: e[cosines(e, v).topk(n).indices].tolist(),
    "rows; return their ids, topk": lambda e, v, n: list(e[cosines(e, v).topk(n).indices]),
    "you return int": lambda e, v, n: int(cosines(e, v).argmax()),
    "changes the caller's table": in_place,
    "changes the caller's vector": vector_in_place,
    "you return ndarray": by_numpy,
    "you return list; return a list of 3 ids": lambda e, v, n: list(cosines(e, v).numpy()),
    "you return tuple": lambda e, v, n: tuple([part] for part in cosines(e, v).topk(2)),
    "the mean of the rows is subtracted": lambda e, v, n: top(cosines(e - e.mean(0), v), n),
    "compare along dim=-1": lambda e, v, n: top(F.cosine_similarity(e, v, dim=0), n),
    "table @ vector": lambda e, v, n: top(v + e.T, n),
    "Only a tensor of one number": lambda e, v, n: int(cosines(e, v).topk(n).indices),
    "you say [0, 1, 5]": lambda e, v, n: [0, 1, 5],
    "in a tensor; .tolist()": lambda e, v, n: cosines(e, v).topk(n).indices,
    "each is a Tensor; .tolist()": lambda e, v, n: list(cosines(e, v).topk(n).indices),
    "each is a float": lambda e, v, n: cosines(e, v).topk(n).indices.double().tolist(),
    "divided by the same number": lambda e, v, n: top(e / e.norm() @ v, n),
    "each column is divided by its length": lambda e, v, n: top(e / e.norm(dim=0) @ v, n),
    "row nearest to row 4": lambda e, v, n: [2, 0, 1] if n == 3 else [5],
    "row 4 itself: [4]": lambda e, v, n: top(cosines(e, v), n) if n > 1 else 4,
}


@pytest.mark.parametrize("expected", NEAREST)
def test_nearest(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected.lower() in said(checks.nearest, NEAREST[expected], capsys).lower()


def test_nearest_in_another_style(capsys: pytest.CaptureFixture[str]) -> None:
    def by_sorting(table: Tensor, vector: Tensor, n: int) -> list[int]:
        unit = F.normalize(table, dim=1) @ F.normalize(vector, dim=0)
        return sorted(range(len(table)), key=lambda i: -float(unit[i]))[:n]

    assert "Correct" in said(checks.nearest, by_sorting, capsys)
    assert "Correct" in said(checks.nearest, lambda e, v, n: list(by_numpy(e, v, n)), capsys)
    ids = lambda e, v, n: [int(i) for i in (e @ v / e.norm(dim=1)).topk(n).indices]  # noqa: E731
    assert "Correct" in said(checks.nearest, ids, capsys)


def hot_rows(tokens: Tensor, table: Tensor, place: Function) -> Tensor:
    hot = torch.zeros(len(tokens), len(table))
    for i, t in enumerate(tokens):
        hot[place(i, t)] = 1
    return hot @ table


LOOK_UP: dict[str, Function] = {
    "Not written yet": lambda t, e: ...,
    "Correct": lambda t, e: F.one_hot(t, len(e)).float() @ e,
    "but looked up": lambda t, e: e[t],
    "zeros included": lambda t, e: F.embedding(t, e),
    "multiply them with the table": lambda t, e: F.one_hot(t, len(e)).float(),
    "one-hot rows are transposed": lambda t, e: F.one_hot(t, len(e)).float().T,
    "the result is transposed": lambda t, e: e.T @ F.one_hot(t, len(e)).float().T,
    "one token is looked up": lambda t, e: e[t[0]],
    "return one for each": lambda t, e: F.one_hot(t, len(e)).float().sum(0) @ e,
    "as many columns as the largest id needs": lambda t, e: F.one_hot(t).float() @ e,
    "the matrix product is @": lambda t, e: F.one_hot(t, len(e)) * e,
    "len(table) classes": lambda t, e: F.one_hot(t, e.size(1)).float() @ e,
    "needs .float()": lambda t, e: F.one_hot(t, len(e)) @ e,
    "cut to whole numbers": lambda t, e: F.one_hot(t, len(e)) @ e.long(),
    "leave it, and take .float() of": lambda t, e: (F.one_hot(t, len(e)) @ e.long()).float(),
    ".to_dense() makes": lambda t, e: (F.one_hot(t, len(e)).float() @ e).to_sparse(),
    "Yours are transposed": lambda t, e: F.one_hot(t, len(e)).float().T @ e,
    "A token can be 0": lambda t, e: F.one_hot(t - 1, len(e)).float() @ e,
    "a column too late": lambda t, e: F.one_hot(t + 1, len(e)).float() @ e,
    "a column too early": lambda t, e: hot_rows(t, e, lambda i, t: (i, t - 1)),
    "a 1 for every token": lambda t, e: hot_rows(t, e, lambda i, t: (slice(None), t)),
    "other numbers": lambda t, e: 2 * e[t],
}


@pytest.mark.parametrize("expected", LOOK_UP)
def test_look_up(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.look_up, LOOK_UP[expected], capsys)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # PyTorch 2.11's own
def test_a_product_in_another_style_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    def by_hand(tokens: Tensor, table: Tensor) -> Tensor:
        rows = [[float(v == t) * row for v, row in enumerate(table)] for t in tokens]
        return torch.stack([torch.stack(row).sum(0) for row in rows])

    def by_comparison(tokens: Tensor, table: Tensor) -> Tensor:
        return (tokens[:, None] == torch.arange(len(table))).float() @ table

    def sparse(tokens: Tensor, table: Tensor) -> Tensor:
        at = torch.stack((torch.arange(len(tokens)), tokens))
        ones, shape = torch.ones(len(tokens)), (len(tokens), len(table))
        return torch.sparse_coo_tensor(at, ones, shape, check_invariants=True) @ table

    assert "Correct" in said(checks.look_up, by_hand, capsys)
    assert "Correct" in said(checks.look_up, sparse, capsys)
    by_mm = lambda t, e: torch.sparse.mm(F.one_hot(t, len(e)).float().to_sparse(), e)  # noqa: E731
    assert "Correct" in said(checks.look_up, by_mm, capsys)
    made_dense = lambda t, e: e.to_sparse().index_select(0, t).to_dense()  # noqa: E731
    assert "but looked up" in said(checks.look_up, made_dense, capsys)
    assert "Correct" in said(checks.look_up, by_comparison, capsys)
    assert "Correct" in said(checks.look_up, lambda t, e: torch.eye(len(e))[t] @ e, capsys)


class Windows(TokenWindows):
    """The class of the chapter, to exchange a method for a wrong one."""


def windows(
    length: Function | None = None,
    item: Function | None = None,
    first: int = 0,
    end: type[Exception] = IndexError,
) -> type[Windows]:
    """Make a class whose number of windows, or whose window number i, may be wrong."""
    methods: dict[str, Any] = {}
    if length:
        methods["__len__"] = lambda self: length(len(self.tokens), self.context_length, self.stride)
    if item:

        def guarded(self: Any, i: int) -> Any:
            if not first <= i < len(self):
                raise end
            return item(self.tokens, i * self.stride, self.context_length, i)

        methods["__getitem__"] = guarded
    for name, method in methods.items():
        method.__name__ = name
    return type("Windows", (Windows,), methods)


def cut(x: Tensor, a: int, t: int, i: int) -> tuple[Tensor, Tensor]:
    return x[a : a + t], x[a + 1 : a + 1 + t]


WINDOWS: dict[str, type[Windows]] = {
    "Correct: 585 counts": windows(lambda n, t, s: len(range(0, n - t, s))),
    "Not written yet: __len__ returns nothing.": windows(lambda n, t, s: None),
    "no token left for the last target": windows(lambda n, t, s: (n - t) // s + 1),
    "rounded up": windows(lambda n, t, s: -(-(n - t - 1) // s) + 1),
    "these are the steps": windows(lambda n, t, s: (n - t - 1) // s),
    "a stride apart, not a context length. For": windows(lambda n, t, s: (n - 1) // t),
    "cut into pieces": windows(lambda n, t, s: n // t),
    "cut by the stride": windows(lambda n, t, s: n // s),
    "the last window is lost": windows(lambda n, t, s: (n - t) // s),
    "the last start is n - T - 1": windows(lambda n, t, s: (n - t) // s),
    "the length of a window is left out": windows(lambda n, t, s: (n - 1) // s),
    "that is the number of tokens": windows(lambda n, t, s: n),
    "a stride of 1 only": windows(lambda n, t, s: n - t),
    "pieces of context_length + 1": windows(lambda n, t, s: n // (t + 1)),
    "use //, not /": windows(lambda n, t, s: (n - t - 1) / s + 1),
    "2 tokens, windows of 1, stride 1: there are 1, you say 9": windows(lambda n, t, s: 9),
    "return one number": windows(lambda n, t, s: [n]),
    "Not written yet: __getitem__": windows(item=lambda x, a, t, i: None),
    "Correct": windows(item=lambda x, a, t, i: [x[a : a + t], x[a + 1 : a + 1 + t]]),
    "returns two tensors": windows(item=lambda x, a, t, i: x[a : a + t + 1]),
    "one token too many": windows(item=lambda x, a, t, i: (x[a : a + t + 1], x[a + 1 :][:t])),
    "starts at index · stride": windows(item=lambda x, a, t, i: (x[i:][:t], x[i + 1 :][:t])),
    "not a context length.": windows(item=lambda x, a, t, i: (x[i * t :][:t], x[i * t + 1 :][:t])),
    "the inputs first": windows(item=lambda x, a, t, i: (x[a + 1 :][:t], x[a:][:t])),
    "starts a token too late": windows(item=lambda x, a, t, i: cut(x, a + 1, t, i)),
    "leave them torch.int64": windows(item=lambda x, a, t, i: cut(x.float(), a, t, i)),
    "move them on": windows(item=lambda x, a, t, i: (x[a:][:t], x[a:][:t])),
    "only the last token": windows(item=lambda x, a, t, i: (x[a:][:t], x[a + t :][:1])),
    "the target is one number": windows(item=lambda x, a, t, i: (x[a:][:t], x[a + t])),
    "one token short": windows(item=lambda x, a, t, i: (x[a:][:t], x[a + 1 : a + t])),
    "as roll brings it round": windows(item=lambda x, a, t, i: (x[a:][:t], x[a:][:t].roll(-1))),
    "moved on by two": windows(item=lambda x, a, t, i: (x[a:][:t], x[a + 2 :][:t])),
    "*before*": windows(item=lambda x, a, t, i: (x[a:][:t], x[a - 1 :][:t])),
    "the targets begin behind": windows(item=lambda x, a, t, i: (x[a:][:t], x[a + t :][:t])),
    "the next window": windows(item=lambda x, a, t, i: (x[a:][:t], x[a + 3 :][:t])),
    "A window is one slice": windows(item=lambda x, a, t, i: (x[a, a + t], x)),
}


def endless(self: Windows, i: int) -> tuple[Tensor, Tensor]:
    return cut(self.tokens, i * self.stride, self.context_length, i)


def counted_back(self: Windows, i: int) -> tuple[Tensor, Tensor]:
    return endless(self, range(len(self))[i])


WINDOWS |= {
    "window 9 must raise an IndexError": type("Windows", (Windows,), {"__getitem__": endless}),
    "of 9 windows the last is 8; window 9": windows(item=cut, end=ValueError),
    "there is no window -1": windows(item=cut, first=-99),
    "Correct: 585 counts of windows, and": type(
        "Windows", (Windows,), {"__getitem__": counted_back}
    ),
}


@pytest.mark.parametrize("expected", WINDOWS)
def test_windows(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.windows, WINDOWS[expected], capsys)


def draw(
    starts: Function = lambda n, b, t, g: torch.randint(n - t, (b,), generator=g),
    cut: Function = lambda x, i, t: (x[i : i + t], x[i + 1 : i + 1 + t]),
    lay: Function = torch.stack,
) -> Function:
    """A random batch with some of its steps exchanged for wrong ones."""

    def function(x: Tensor, b: int, t: int, g: torch.Generator) -> Any:
        pairs = [cut(x, int(i), t) for i in starts(len(x), b, t, g)]
        inputs, targets = zip(*pairs, strict=True)
        return lay(inputs), lay(targets)

    return function


def by_grid(x: Tensor, b: int, t: int, g: torch.Generator) -> Any:
    places = torch.randint(len(x) - t, (b, 1), generator=g) + torch.arange(t)
    return x[places], x[places + 1]


def seeded_again(x: Tensor, b: int, t: int, g: torch.Generator) -> Any:
    return by_grid(x, b, t, torch.Generator().manual_seed(g.initial_seed()))


def places_only(x: Tensor, b: int, t: int, g: torch.Generator) -> Any:
    places = torch.randint(len(x) - t, (b, 1), generator=g) + torch.arange(t)
    return places, places + 1


def scattered(x: Tensor, b: int, t: int, g: torch.Generator) -> Any:
    places = torch.randint(len(x) - 1, (b, t), generator=g)
    return x[places], x[places + 1]


def drawn_twice(x: Tensor, b: int, t: int, g: torch.Generator) -> Any:
    return by_grid(x, b, t, g)[0], by_grid(x, b, t, g)[1]


BATCH: dict[str, Function] = {
    "Not written yet": lambda x, b, t, g: None,
    "Correct": draw(),
    "return two tensors": lambda x, b, t, g: by_grid(x, b, t, g)[0],
    "see torch.stack": draw(lay=list),
    "the inputs have T + 1 columns": lambda x, b, t, g: (by_grid(x, b, t + 1, g)[0],) * 2,
    "the inputs are transposed": draw(lay=lambda rows: torch.stack(rows, dim=1)),
    "draw with torch.randint": draw(lambda n, b, t, g: torch.randperm(n - t, generator=g)[:b]),
    "stack batch_size of them": draw(lay=lambda rows: rows[0]),
    "the windows are joined": draw(lay=torch.cat),
    "(B, T) is (400, 4)": draw(lay=lambda rows: torch.stack(rows)[1:]),
    "these are places": places_only,
    "follow each other": scattered,
    "the targets are the inputs": draw(cut=lambda x, i, t: (x[i : i + t], x[i : i + t])),
    "but the targets should hold other numbers": draw(
        cut=lambda x, i, t: (x[i : i + t], x[i : i + t] + 7)
    ),
    "a start of its own": lambda x, b, t, g: by_grid(x, b, int(torch.randint(len(x) - b, (1,))), g),
    "the inputs first": draw(cut=lambda x, i, t: (x[i + 1 : i + 1 + t], x[i : i + t])),
    "moved on by two": draw(
        lambda n, b, t, g: torch.randint(n - t - 1, (b,), generator=g),
        lambda x, i, t: (x[i : i + t], x[i + 2 : i + 2 + t]),
    ),
    "start at the same place": draw(
        lambda n, b, t, g: torch.randint(n - t, (1,), generator=g).expand(b)
    ),
    "the last window is never drawn": draw(
        lambda n, b, t, g: torch.randint(n - t - 1, (b,), generator=g)
    ),
    "the first window is never drawn": draw(
        lambda n, b, t, g: torch.randint(1, n - t, (b,), generator=g)
    ),
    "multiples of T only": draw(
        lambda n, b, t, g: t * torch.randint((n - 1) // t, (b,), generator=g)
    ),
    "only [0, 1, 2] are drawn": draw(lambda n, b, t, g: torch.randint(3, (b,), generator=g)),
    "start 7 is drawn in 4": draw(
        lambda n, b, t, g: torch.randint(n, (b,), generator=g).clamp(max=n - t - 1)
    ),
    "clamp, % and round favour": draw(
        lambda n, b, t, g: torch.randint(n, (b,), generator=g) % (n - t)
    ),
    "and each of the 8 should": draw(
        lambda n, b, t, g: (torch.rand(b, generator=g) * (n - t - 1)).round()
    ),
    "the windows come in order": draw(lambda n, b, t, g: torch.arange(b) % (n - t)),
    "gives another batch": draw(lambda n, b, t, g: torch.randint(n - t, (b,))),
    "draw with generator": draw(lambda n, b, t, g: [random.randrange(n - t) for _ in range(b)]),
    "don't seed it again": seeded_again,
    "from other places than the inputs": drawn_twice,
    "as roll brings it round": draw(cut=lambda x, i, t: (x[i : i + t], x[i : i + t].roll(-1))),
    "leave them torch.int64": lambda x, b, t, g: by_grid(x.float(), b, t, g),
    "room for the last target": draw(lambda n, b, t, g: torch.randint(n - 1, (b,), generator=g)),
    "and for its last target": lambda x, b, t, g: by_grid(x[torch.arange(len(x) + 3)], b, t, g),
}


@pytest.mark.parametrize("expected", BATCH)
def test_random_batch(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.random_batch, BATCH[expected], capsys)


def test_a_batch_by_one_index_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Correct" in said(checks.random_batch, by_grid, capsys)
    by_rand = draw(lambda n, b, t, g: (torch.rand(b, generator=g) * (n - t)).long())
    assert "Correct" in said(checks.random_batch, by_rand, capsys)


def cut_runs(rows: Tensor, length: int, step: int = 1) -> list[tuple[int, ...]]:
    return [tuple(run) for row in rows.tolist() for run in runs_of(row, length, step)]


def runs_of(row: list[int], length: int, step: int = 1) -> list[list[int]]:
    return [row[i : i + length] for i in range(0, len(row) - length + 1, step)]


def share(
    known: Function = cut_runs,
    asked: Function = cut_runs,
    whole: Function = lambda runs, rows: len(runs),
) -> Function:
    """The share of seen runs, with some of its steps exchanged for wrong ones."""

    def function(train: Tensor, held_out: Tensor, length: int) -> float:
        seen, runs = set(known(train, length)), list(asked(held_out, length))
        return sum(run in seen for run in runs) / whole(runs, held_out)

    return function


def joined(rows: Tensor, length: int) -> list[tuple[int, ...]]:
    return cut_runs(rows.view(1, -1), length)


def in_pieces(rows: Tensor, length: int) -> list[tuple[int, ...]]:
    return cut_runs(rows, length, length)


def without_order(rows: Tensor, length: int) -> list[tuple[int, ...]]:
    return [tuple(sorted(run)) for run in cut_runs(rows, length)]


def without_the_last(rows: Tensor, length: int) -> list[tuple[int, ...]]:
    return cut_runs(rows[:, :-1], length)


def tensors(rows: Tensor, length: int) -> list[Tensor]:
    return list(rows.unfold(1, length, 1).flatten(0, 1))


def without_separator(rows: Tensor, length: int) -> list[str]:
    return ["".join(map(str, run)) for run in cut_runs(rows, length)]


def with_places(rows: Tensor, length: int) -> list[tuple[int, ...]]:
    runs = cut_runs(rows, length)
    return [(place % (rows.size(1) - length + 1), *run) for place, run in enumerate(runs)]


def by_window(count: Function) -> Function:
    """The share of windows of which some run is seen, or all, or the first."""

    def function(train: Tensor, held_out: Tensor, length: int) -> float:
        seen = cut_runs(train, length)
        rows = [[run in seen for run in cut_runs(row[None], length)] for row in held_out]
        return sum(map(count, rows)) / len(held_out)

    return function


def row_by_row(train: Tensor, held_out: Tensor, length: int) -> float:
    runs = cut_runs(held_out, length)
    return sum(a == b for a, b in zip(cut_runs(train, length), runs, strict=False)) / len(runs)


SHARE: dict[str, Function] = {
    "Not written yet": lambda a, b, n: None,
    "Correct": share(),
    "single tokens": lambda a, b, n: share()(a, b, 1),
    "each different run is counted once": share(asked=lambda b, n: set(cut_runs(b, n))),
    "counted once each, and divided by all": lambda a, b, n: (
        len({*cut_runs(a, n)} & {*cut_runs(b, n)}) / len(cut_runs(b, n))
    ),
    "by & of two Counters": lambda a, b, n: (
        (Counter(cut_runs(a, n)) & Counter(cut_runs(b, n))).total() / len(cut_runs(b, n))
    ),
    "compare a short example": lambda a, b, n: (
        len({*cut_runs(a, n)} & {*cut_runs(b, n)}) / len({*cut_runs(a, n)} | {*cut_runs(b, n)})
    ),
    "the parts are swapped": lambda a, b, n: share()(b, a, n),
    "the order within a run": share(without_order, without_order),
    "cut into pieces": share(in_pieces, in_pieces),
    "the windows are joined": share(joined, joined),
    "the validation windows are joined": share(asked=joined),
    "the training windows are joined": share(joined),
    "the last run of each window": share(without_the_last, without_the_last),
    "divided by the number of tokens": share(whole=lambda runs, b: b.numel()),
    "that is a count": share(whole=lambda runs, b: 1),
    "*not* seen": lambda a, b, n: 1 - share()(a, b, n),
    "that is a percentage": lambda a, b, n: 100 * share()(a, b, n),
    "you say 0.12": lambda a, b, n: 0.123,
    "return one number": lambda a, b, n: [share()(a, b, n)],
    "a tuple can": lambda a, b, n: share(lambda a, n: runs_of(a.tolist()[0], n))(a, b, n),
    "unfold dimension 1": lambda a, b, n: a.unfold(2, n, 1),
    "of windows and itself 1 is seen": lambda a, b, n: 17 / 25,
    "make tuples": lambda a, b, n: share(tensors, tensors)(a, b, n),
    "whole windows are compared": lambda a, b, n: share()(a, b, b.size(1)),
    "windows with a seen run": by_window(any),
    "all their runs": by_window(all),
    "only the first run of each window": by_window(lambda known: known[0]),
    "divided by the number of training runs": lambda a, b, n: share(
        whole=lambda runs, rows: len(cut_runs(a, n))
    )(a, b, n),
    "same place of the same row": row_by_row,
    "Is an 8": lambda a, b, n: share()(a, b, 8),
    "a 64 fixed in your code": lambda a, b, n: a.unfold(1, 8, 1),
    "at the same place": share(with_places, with_places),
    "the run 1, 23, 4 counts as 12, 3, 4": share(without_separator, without_separator),
}


@pytest.mark.parametrize("expected", SHARE)
def test_seen_share(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.seen_share, SHARE[expected], capsys)


def test_each_mistake_gives_a_share_of_its_own() -> None:
    shares = checks._share_mistakes(checks.TRAIN, checks.HELD_OUT).values()
    right = share()(checks.TRAIN, checks.HELD_OUT, 3)
    assert len({round(number, 3) for number in (*shares, right)}) == len(shares) + 1


def test_a_share_without_a_set_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    def by_comparison(train: Tensor, held_out: Tensor, length: int) -> Tensor:
        seen = train.unfold(1, length, 1).flatten(0, 1)
        runs = held_out.unfold(1, length, 1).flatten(0, 1)
        return (runs[:, None] == seen).all(-1).any(1).float().mean()

    assert "Correct" in said(checks.seen_share, by_comparison, capsys)


def by_mask(x: Tensor, f: float = 0.1) -> tuple[Tensor, Tensor]:
    held_out = torch.arange(len(x)) % round(1 / f) == 0
    return x[~held_out], x[held_out]


def zeroed(x: Tensor, f: float = 0.1) -> tuple[Tensor, Tensor]:
    kept = x.clone()
    x.zero_()
    return kept[:30], kept[30:]


SPLIT: dict[str, Function] = {
    "from the midst of the training text": by_mask,
    "cut once, and take its end": lambda x, f=0.1: (torch.cat((x[:10], x[20:])), x[10:20]),
    "Not written yet": lambda x, f=0.1: None,
    "Correct": lambda x, f=0.1: (x[: len(x) - round(f * len(x))], x[len(x) - round(f * len(x)) :]),
    "return two tensors": lambda x, f=0.1: x[:30],
    "the training part must be a tensor": lambda x, f=0.1: (30, x[30:]),
    "the validation part comes second": lambda x, f=0.1: (x[30:], x[:30]),
    "the share of the validation part": lambda x, f=0.1: (x[:10], x[10:]),
    "taken from the start": lambda x, f=0.1: (x[10:], x[:10]),
    "contains the validation part": lambda x, f=0.1: (x, x[30:]),
    "shuffled": lambda x, f=0.1: x[torch.arange(40) * 7 % 40].split([30, 10]),
    "in both parts": lambda x, f=0.1: (x[:30], x[29:]),
    "is lost": lambda x, f=0.1: (x[:30], x[31:]),
    "0.9 is fixed in your code": lambda x, f=0.1: (
        x[: round(len(x) * 0.9)],
        x[round(len(x) * 0.9) :],
    ),
    "0.1 is fixed": lambda x, f=0.1: (x[: len(x) // 10], x[len(x) // 10 :]),
    "the cut is in both parts": lambda x, f=0.1: (x[:31], x[30:]),
    "at the cut is lost": lambda x, f=0.1: (x[:29], x[30:]),
    "A cut is a whole number": lambda x, f=0.1: (x[: len(x) * (1 - f)], x[len(x) * (1 - f) :]),
    "then the training part is empty": lambda x, f=0.1: (
        x[: -round(len(x) * f)],
        x[-round(len(x) * f) :],
    ),
    "changes the caller's tokens": zeroed,
    "leave them torch.int64": lambda x, f=0.1: x.float().split([30, 10]),
    "its default is 0.1": lambda x, f: x.split([30, 10]),
    "must have shape (10,), not (25,)": lambda x, f=0.25: x.split([len(x) * 3 // 4, len(x) // 4]),
}


@pytest.mark.parametrize("expected", SPLIT)
def test_split_tokens(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.split_tokens, SPLIT[expected], capsys)


class Simple(nn.Module):
    """The layer as readers write it."""

    def __init__(self, v: int, t: int, c: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(v, c)
        self.position_embedding = nn.Embedding(t, c)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Any:
        if positions is None:
            positions = torch.arange(tokens.size(1))
        return self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))


def layer(forward: Function) -> type[nn.Module]:
    """A layer with its forward exchanged for a wrong one."""

    def method(self: Simple, tokens: Tensor, positions: Tensor | None = None) -> Any:
        places = torch.arange(tokens.size(1)) if positions is None else positions
        return forward(self, tokens, places)

    method.__name__ = "forward"
    return type("Layer", (Simple,), {"forward": method})


def tokens_of(self: Simple, tokens: Tensor) -> Tensor:
    found: Tensor = self.token_embedding(tokens)
    return found


def with_another_name(self: Simple, *sizes: Any) -> None:
    Simple.__init__(self, *sizes)
    self.wte = nn.Embedding(3, 3)


def takes_no_positions(self: Simple, tokens: Tensor) -> Any:
    return Simple.forward(self, tokens)


def ignores_positions(self: Simple, tokens: Tensor, positions: Tensor | None = None) -> Any:
    return Simple.forward(self, tokens)


def or_else(self: Simple, tokens: Tensor, positions: Tensor | None = None) -> Any:
    return Simple.forward(self, tokens, positions or torch.arange(tokens.size(1)))


def turned_round(self: Simple, tokens: Tensor, positions: Tensor | None = None) -> Any:
    if positions is not None:
        positions = torch.arange(tokens.size(1))
    return tokens_of(self, tokens) + self.position_embedding(positions)


LAYER: dict[str, type[nn.Module]] = {
    "Correct": Simple,
    "Not written yet: forward returns nothing.": layer(lambda s, x, p: None),
    "leave __init__ as it is": type("Layer", (Simple,), {"__init__": with_another_name}),
    "the positions are missing": layer(lambda s, x, p: s.token_embedding(x)),
    "the tokens are missing": layer(lambda s, x, p: s.position_embedding(p).expand(len(x), -1, -1)),
    "the vector of position 0": layer(
        lambda s, x, p: tokens_of(s, x) + s.position_embedding(torch.zeros_like(p))
    ),
    "count from 0, not from 1": layer(
        lambda s, x, p: tokens_of(s, x) + s.position_embedding(p + 1)
    ),
    "run backwards": layer(lambda s, x, p: tokens_of(s, x) + s.position_embedding(p.flip(0))),
    "the number of the position is added": layer(lambda s, x, p: tokens_of(s, x) + p[:, None]),
    "the vector of position 3; each": layer(
        lambda s, x, p: tokens_of(s, x) + s.position_embedding(torch.tensor(x.size(1) - 1))
    ),
    "Then, and only then, count": type("Layer", (Simple,), {"forward": turned_round}),
    "Ask: if positions is None.": type("Layer", (Simple,), {"forward": or_else}),
    "each *row* gets a position": layer(
        lambda s, x, p: tokens_of(s, x) + s.position_embedding(torch.arange(len(x)))[:, None]
    ),
    "the vectors are multiplied": layer(lambda s, x, p: tokens_of(s, x) * s.position_embedding(p)),
    "stand side by side": layer(
        lambda s, x, p: torch.cat((tokens_of(s, x), s.position_embedding(p).expand(2, 4, 8)), -1)
    ),
    "the sum is halved": layer(lambda s, x, p: (tokens_of(s, x) + s.position_embedding(p)) / 2),
    "multiplied by √C": layer(lambda s, x, p: tokens_of(s, x) * 8**0.5 + s.position_embedding(p)),
    "not a token and not the batch": layer(
        lambda s, x, p: tokens_of(s, x) + s.position_embedding(x)
    ),
    "One position for each column": layer(
        lambda s, x, p: tokens_of(s, x) + s.position_embedding(torch.arange(3))
    ),
    "asked with a tensor": layer(lambda s, x, p: tokens_of(s, x) + s.position_embedding(4)),
    "no gradient": layer(lambda s, x, p: (tokens_of(s, x) + s.position_embedding(p)).detach()),
    "gradient comes through; use the layers": layer(
        lambda s, x, p: s.token_embedding.weight.data[x] + s.position_embedding(p)
    ),
    "only the first of the positions": layer(
        lambda s, x, p: s.dropout(
            tokens_of(s, x) + s.position_embedding(p[0] + torch.arange(x.size(1)))
        )
    ),
    "forward takes positions too": type("Layer", (Simple,), {"forward": takes_no_positions}),
    "are rows of the table; add nothing": layer(
        lambda s, x, p: (
            tokens_of(s, x) + s.position_embedding(p if p[0] == 0 else p + torch.arange(x.size(1)))
        )
    ),
    "positions is not used": type("Layer", (Simple,), {"forward": ignores_positions}),
    "outside training": layer(
        lambda s, x, p: F.dropout(tokens_of(s, x) + s.position_embedding(p), s.dropout.p)
    ),
    "dropout never acts": layer(lambda s, x, p: tokens_of(s, x) + s.position_embedding(p)),
    "dropout acts twice": layer(lambda s, x, p: s.dropout(Simple.forward(s, x, p))),
    "leaves another share of the numbers": layer(
        lambda s, x, p: F.dropout(tokens_of(s, x) + s.position_embedding(p), 0.5, s.training)
    ),
    "than it should; the last": layer(
        lambda s, x, p: s.dropout(s.dropout(Simple.forward(s, x, p)))
    ),
    "must act on the sum": layer(
        lambda s, x, p: s.dropout(tokens_of(s, x)) + s.position_embedding(p)
    ),
    "on the sum, once": layer(
        lambda s, x, p: s.dropout(tokens_of(s, x)) + s.dropout(s.position_embedding(p))
    ),
}


@pytest.mark.parametrize("expected", LAYER)
def test_layer(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.layer, LAYER[expected], capsys)


def test_the_layer_of_the_chapter_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Correct" in said(checks.layer, InputEmbedding, capsys)


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


def by_autograd(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Any:
    table = torch.zeros(vocab_size, upstream.size(1), requires_grad=True)
    table[tokens].backward(upstream)
    return table.grad


def by_grad(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Any:
    with torch.enable_grad():
        table = nn.Embedding(vocab_size, upstream.size(1))
        return torch.autograd.grad(table(tokens), table.weight, upstream)[0]


def by_vjp(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Any:
    table = torch.zeros(vocab_size, upstream.size(1))
    return torch.func.vjp(lambda table: table[tokens], table)[1](upstream)[0]


def by_functional_grad(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Any:
    table = torch.zeros(vocab_size, upstream.size(1))
    return torch.func.grad(lambda table: (table[tokens] * upstream).sum())(table)


def discarded(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Tensor:
    gradient = torch.zeros(vocab_size, upstream.size(1))
    gradient.index_add(0, tokens, upstream)
    return gradient


def zeroing(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Tensor:
    gradient = summed(tokens, upstream, vocab_size)
    upstream.zero_()
    return gradient


def in_a_dict(tokens: Tensor, upstream: Tensor, vocab_size: int) -> Tensor:
    rows: dict[int, Tensor] = {}
    for token, row in zip(tokens.tolist(), upstream, strict=True):
        if token in rows:
            rows[token] += row
        else:
            rows[token] = row
    zero = torch.zeros(upstream.size(1))
    return torch.stack([rows.get(token, zero) for token in range(vocab_size)])


GRADIENT: dict[str, Function] = {
    "Not written yet": lambda t, u, v: None,
    "Correct": lambda t, u, v: F.one_hot(t, v).float().T @ u,
    "changes the caller's upstream": zeroing,
    "a row or a slice of it too": in_a_dict,
    "one row of a token": assigned,
    "+= upstream` has this fault": added_at_once,
    "averaged": lambda t, u, v: summed(t, u, v) / t.bincount(minlength=v).clamp(min=1)[:, None],
    "you return a tensor of shape (7, 3)": lambda t, u, v: u,
    "one for each of the V ids": lambda t, u, v: torch.zeros_like(u).index_add(0, t, u),
    "only as many as the largest id": lambda t, u, v: F.one_hot(t).float().T @ u,
    "it belongs to row tokens[i]": lambda t, u, v: summed(torch.arange(len(t)), u, v),
    "each occurrence adds 1": lambda t, u, v: summed(t, torch.ones_like(u), v),
    "don't subtract": lambda t, u, v: -summed(t, u, v),
    "upstream is read at the token": lambda t, u, v: summed(t, u[t], v),
    "start with zeros": lambda t, u, v: 1 + summed(t, u, v),
    "row 2 is [": lambda t, u, v: 2 * summed(t, u, v),
    "V 8 and C 3; the gradient is (V, C)": lambda t, u, v: summed(t, u, u.size(1)),
    "a row of C numbers for each id": lambda t, u, v: torch.zeros(v, v)[t] + u,
    "Transpose the one-hot rows": lambda t, u, v: F.one_hot(t, v).float() @ u,
    "That is autograd's answer": by_autograd,
    "then add row by row": by_grad,
    "Write your own": by_vjp,
    "autograd's answer": by_functional_grad,
    "index_add returns a new tensor": discarded,
}


@pytest.mark.parametrize("expected", GRADIENT)
def test_lookup_gradient(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.lookup_gradient, GRADIENT[expected], capsys)
