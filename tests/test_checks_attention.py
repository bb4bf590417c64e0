"""The checks of chapter 3 know the unfinished, each common mistake, and the right answer."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlib.attention import attend
from gptlib.extras.checks import attention as checks


def behind(n: int) -> Tensor:
    return torch.arange(n)[:, None] - torch.arange(n)


ENTROPY: dict[str, Callable[[Tensor], Tensor | None]] = {
    "Not done yet": lambda w: None,
    "Correct": lambda w: torch.special.entr(w).sum(-1),
    "nan": lambda w: -(w * w.log()).sum(-1),
    "sign": lambda w: torch.xlogy(w, w).sum(-1),
    "bits": lambda w: torch.special.entr(w).sum(-1) / math.log(2),
    "one number": lambda w: torch.special.entr(w).sum(-1).mean(),
    "tensor": lambda w: cast(Any, torch.special.entr(w).sum(-1).tolist()),
    "keepdim=True": lambda w: torch.special.entr(w).sum(-1, keepdim=True),
    "columns": lambda w: torch.special.entr(w).sum(-2),
    "expected shape (3,), not (3, 3)": lambda w: torch.special.entr(w),
    "expected [0.0, 0.69, 0.8], not [1.0, 1.0, 1.0]": lambda w: w.sum(-1),
}


@pytest.mark.parametrize("said", ENTROPY)
def test_row_entropy(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.row_entropy(ENTROPY[said])
    assert said in capsys.readouterr().out


WINDOW: dict[str, Callable[[int, int], Tensor | None]] = {
    "Not done yet": lambda n, w: None,
    "Correct": lambda n, w: (behind(n) >= 0) & (behind(n) < w),
    "shape (6, 6), not (1, 1)": lambda n, w: torch.ones(1, 1, dtype=torch.bool),
    "shape (6, 6), not int": lambda n, w: cast(Any, n),
    "dtype torch.int64": lambda n, w: ((behind(n) >= 0) & (behind(n) < w)).long(),
    "Almost": lambda n, w: (behind(n) >= 0) & (behind(n) < min(w, 3)),
    "upside down": lambda n, w: ~((behind(n) >= 0) & (behind(n) < w)),
    "looks ahead": lambda n, w: behind(n).abs() < w,
    "One too many": lambda n, w: (behind(n) >= 0) & (behind(n) <= w),
    "One too few": lambda n, w: (behind(n) >= 0) & (behind(n) < w - 1),
    "its own position": lambda n, w: (behind(n) > 0) & (behind(n) <= w),
    "That is the causal mask": lambda n, w: behind(n) >= 0,
    "Not yet": lambda n, w: behind(n) == 0,
}


@pytest.mark.parametrize("said", WINDOW)
def test_window_mask(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.window_mask(WINDOW[said])
    assert said in capsys.readouterr().out


SPLIT: dict[str, Callable[[Tensor, int], Tensor | None]] = {
    "Not done yet": lambda x, h: None,
    "Correct": lambda x, h: x.unflatten(-1, (h, -1)).transpose(1, 2),
    "(B, T, H, D)": lambda x, h: x.unflatten(-1, (h, -1)),
    "expected (2, 4, 3, 5)": lambda x, h: x,
    "mixes positions": lambda x, h: x.reshape(len(x), h, x.size(1), -1),
    "every fourth channel": lambda x, h: x.unflatten(-1, (-1, h)).permute(0, 3, 1, 2),
    "wrong places": lambda x, h: x.unflatten(-1, (h, -1)).transpose(1, 2).flip(1),
}


@pytest.mark.parametrize("said", SPLIT)
def test_split_heads(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.split_heads(SPLIT[said])
    assert said in capsys.readouterr().out


def in_pieces(
    q: Tensor, k: Tensor, v: Tensor, n: int, *, rescale: bool = True, stable: bool = True
) -> Tensor:
    top, bottom = torch.zeros(len(q), v.size(-1), dtype=v.dtype), torch.zeros(len(q), 1)
    best = torch.full((len(q), 1), -math.inf if stable else 0.0, dtype=q.dtype)
    for keys, values in zip(k.split(n), v.split(n), strict=True):
        scores = q @ keys.T / math.sqrt(q.size(-1))
        new = torch.maximum(best, scores.amax(-1, keepdim=True)) if stable else best
        old = (best - new).exp() if rescale else 1.0
        parts = (scores - new).exp()
        top, bottom = old * top + parts @ values, old * bottom + parts.sum(-1, keepdim=True)
        best = new
    return top / bottom


def pieces_of_queries(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return torch.cat([attend(piece, k, v)[0] for piece in q.split(n)])


def n_pieces(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return in_pieces(q, k, v, math.ceil(len(k) / n))


def one_query_at_a_time(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return torch.cat([in_pieces(one, k, v, n) for one in q.split(1)])


def only_by_four(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return in_pieces(q, k, v, n) if n == 4 else q


PIECES: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor | None]] = {
    "Not done yet": lambda q, k, v, n: None,
    "Correct": in_pieces,
    "by D, not by the square root": lambda q, k, v, n: attend(q / 2, k, v)[0],
    "not divided": lambda q, k, v, n: attend(q * 2, k, v)[0],
    "its own softmax": lambda q, k, v, n: torch.stack(
        [attend(q, a, b)[0] for a, b in zip(k.split(n), v.split(n), strict=True)]
    ).sum(0),
    "last piece is missing": lambda q, k, v, n: attend(q, k[:8], v[:8])[0],
    "not (4, 10)": lambda q, k, v, n: attend(q, k, v)[0].T,
    "exp(old maximum": lambda q, k, v, n: in_pieces(q, k, v, n, rescale=False),
    "exp overflows": lambda q, k, v, n: in_pieces(q, k, v, n, stable=False),
    "Right for pieces of 4": only_by_four,
}


NOT_IN_PIECES: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "all at once": lambda q, k, v, n: attend(q, k, v)[0],
    "the fused kernel": lambda q, k, v, n: F.scaled_dot_product_attention(q, k, v),
    "by products and sums": lambda q, k, v, n: (
        ((q[:, None] * k).sum(-1) / math.sqrt(q.size(-1))).softmax(-1) @ v
    ),
    "pieces of queries": pieces_of_queries,
    "n pieces": n_pieces,
}


@pytest.mark.parametrize("way", NOT_IN_PIECES)
def test_right_numbers_from_too_many_keys_at_a_time_are_not_accepted(
    way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.attend_in_pieces(NOT_IN_PIECES[way])
    keys = 4 if way == "n pieces" else 11
    assert f"but {keys} keys were compared at a time" in capsys.readouterr().out


def test_one_query_at_a_time_in_pieces_of_keys_is_correct(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks.attend_in_pieces(one_query_at_a_time)
    assert "Correct" in capsys.readouterr().out


@pytest.mark.parametrize("said", PIECES)
def test_attend_in_pieces(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.attend_in_pieces(PIECES[said])
    assert said in capsys.readouterr().out
