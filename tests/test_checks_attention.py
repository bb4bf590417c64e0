"""The checks of the chapter on attention know the unfinished, each mistake, and the right."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.attention import CausalSelfAttention, Mix, attend, causal_mask
from gptlib.extras.checks import attention as checks
from gptlib.extras.checks import yours

Function = Callable[..., Any]


def said(check: Function, *answers: Any, capsys: pytest.CaptureFixture[str]) -> str:
    check(*answers)
    return capsys.readouterr().out


def tril(n: int, m: int | None = None, diagonal: int = 0) -> Tensor:
    return torch.ones(n, m or n, dtype=torch.bool).tril(diagonal)


MASKS: dict[str, Function] = {
    "Not written yet": lambda n, m=None: None,
    "Correct": lambda n, m=None: (
        torch.arange((m or n) - n, m or n)[:, None] >= torch.arange(m or n)
    ),
    "of dtype torch.float32": lambda n, m=None: tril(n, m).float(),
    "a mask to add": lambda n, m=None: torch.full((n, n), -math.inf).triu(1),
    "must be a tensor; you return list": lambda n, m=None: tril(n).tolist(),
    "upside down": lambda n, m=None: ~tril(n),
    "the past is not": lambda n, m=None: tril(n).T,
    "its own position too": lambda n, m=None: tril(n, diagonal=-1),
    "too far ahead": lambda n, m=None: tril(n, diagonal=1),
    "nothing is forbidden": lambda n, m=None: torch.ones(n, n, dtype=torch.bool),
    "*last* two positions": lambda n, m=None: tril(n, m),
    "n_queries rows and n_keys columns": lambda n, m=None: tril(m or n),
    "moves the wrong way": lambda n, m=None: tril(n, m, n - (m or n)),
    "must not see the last key": lambda n, m=None: tril(n, m, (m or n) - 1) if m else tril(n),
    "n_queries and n_keys": lambda n: tril(n),
    "its default is None": lambda n, m: tril(n, m),
    "causal_mask(6) must have shape": lambda n, m=None: tril(n, m or 4, (m or 4) - n),
    "causal_mask(3, 5) should hold": lambda n, m=None: tril(
        n, m, {1: 3, 2: 2}.get(n, 0) if m else 0
    ),
    "it then means n_queries": lambda n, m=None: torch.ones(n, m, dtype=torch.bool).tril(m - n),
}


@pytest.mark.parametrize("expected", MASKS)
def test_causal_mask(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.causal_mask, MASKS[expected], capsys=capsys)


def variant(
    scale: Callable[[Tensor, Tensor], float] = lambda q, k: math.sqrt(q.size(-1)),
    mask: Callable[[Tensor, Tensor], Tensor] = lambda s, m: s.masked_fill(~m, -math.inf),
    weigh: Callable[[Tensor, Tensor], Tensor] = lambda s, m: s.softmax(-1),
    mix: Callable[[Tensor, Tensor, Tensor], Any] = lambda w, k, v: (w @ v, w),
    score: Callable[[Tensor, Tensor], Tensor] = lambda q, k: q @ k.transpose(-2, -1),
) -> Function:
    """An attention with some of its steps exchanged for wrong ones."""

    def function(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Any:
        return mix(weigh(mask(score(q, k) / scale(q, k), m), m), k, v)

    return function


def keep(scores: Tensor, mask: Tensor) -> Tensor:
    return scores


def by_index(scores: Tensor, mask: Tensor) -> Tensor:
    scores[~mask] = -math.inf
    return scores


def mixed(scores: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return weights @ v, weights


ATTEND: dict[str, Function] = {
    "Not written yet": lambda q, k, v, m: None,
    "Correct": variant(),
    "return two things": lambda q, k, v, m: attend(q, k, v, m)[0],
    "Correct: weights, output": lambda q, k, v, m: [*attend(q, k, v, m)],
    "exp overflows for large ones": variant(
        weigh=lambda s, m: s.exp() / s.exp().sum(-1, keepdim=True)
    ),
    "the sums of the rows divide the columns": variant(
        weigh=lambda s, m: s.exp() / s.exp().sum(-1)
    ),
    "the mixed values come first": lambda q, k, v, m: attend(q, k, v, m)[::-1],
    "not divided by √D": variant(scale=lambda q, k: 1),
    "multiplied by √D": variant(scale=lambda q, k: 1 / math.sqrt(q.size(-1))),
    "the root of v's size": lambda q, k, v, m: attend(
        q * math.sqrt(q.size(-1) / v.size(-1)), k, v, m
    ),
    "divided by D, not by √D": variant(scale=lambda q, k: q.size(-1)),
    "divided by D/2, not by √D. In Python": variant(scale=lambda q, k: q.size(-1) ** 1 / 2),
    "divided by D/2, not by √D.": variant(scale=lambda q, k: q.size(-1) // 2),
    "divided by 2D": lambda q, k, v, m: mixed(q @ k.mT / q.size(-1) ** 1 / 2, v, m),
    "root of dimension 1, which here is the heads": variant(scale=lambda q, k: q.size(1) ** 0.5),
    "a reshape of k keeps": variant(
        score=lambda q, k: q @ k.reshape(*k.shape[:-2], k.size(-1), k.size(-2))
    ),
    "the softmax is applied twice.": variant(weigh=lambda s, m: s.softmax(-1).softmax(-1)),
    "mask the scores, then apply it once": lambda q, k, v, m: mixed(
        (q @ k.mT / q.size(-1) ** 0.5).softmax(-1), v, m
    ),
    "the mask comes after the softmax, so": variant(
        mask=keep, mix=lambda w, k, v: (w.tril() @ v, w)
    ),
    "put -inf into the scores, before it": variant(
        mask=keep, weigh=lambda s, m: s.softmax(-1).masked_fill(~m, -math.inf)
    ),
    "return the weights that mixed them": variant(mix=lambda w, k, v: (w @ v, w.transpose(-2, -1))),
    "you change the caller's q": lambda q, k, v, m: attend(q.div_(2), k, v, m),
    "divided by 8, which is GPT-2's": variant(scale=lambda q, k: 8),
    "that is the cosine": variant(
        score=lambda q, k: F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT,
        scale=lambda q, k: 1,
    ),
    "the mask that is given is not used": lambda q, k, v, m: attend(
        q, k, v, tril(q.size(-2), k.size(-2), k.size(-2) - q.size(-2)).bool()
    ),
    "Count dimensions from the end": variant(score=lambda q, k: q @ k.transpose(1, 2)),
    "root of the number of words": variant(scale=lambda q, k: math.sqrt(q.size(-2))),
    "over the queries": variant(weigh=lambda s, m: s.softmax(-2)),
    "the mask comes after the softmax": variant(mask=keep, weigh=lambda s, m: s.softmax(-1) * m),
    "the mask is not used": variant(mask=keep),
    "the mask is upside down": variant(mask=lambda s, m: s.masked_fill(m, -math.inf)),
    "forbidden scores are 0": variant(mask=lambda s, m: s.masked_fill(~m, 0)),
    "has nan in it": variant(mask=lambda s, m: s + (~m) * -math.inf),
    "the softmax is missing": variant(weigh=keep),
    "comes after the softmax; divide the scores": variant(
        scale=lambda q, k: 1, weigh=lambda s, m: s.softmax(-1) / math.sqrt(6)
    ),
    "a row must be a query": variant(score=lambda q, k: k @ q.transpose(-2, -1)),
    "mix the keys": variant(mix=lambda w, k, v: (w @ k, w)),
    "the weights are transposed": variant(mix=lambda w, k, v: (w.transpose(-2, -1) @ v, w)),
    "wrong for large ones": variant(mask=lambda s, m: s.masked_fill(~m, -100)),
    "divides 0 by 0": variant(
        mask=keep,
        weigh=lambda s, m: s.softmax(-1) * m / (s.softmax(-1) * m).sum(-1, keepdim=True),
    ),
    "(B, H, T, D)": variant(
        weigh=lambda s, m: s.softmax(1 if s.dim() == 2 else 2),
    ),
    "over dimension 1, which here is the heads": variant(weigh=lambda s, m: s.softmax(1)),
    "dim=-1": variant(
        mask=lambda s, m: s.masked_fill(~m, -1e9), weigh=lambda s, m: s.softmax(dim=1)
    ),
    "so it can't be an index": variant(mask=by_index),
    "raised RuntimeError": variant(score=lambda q, k: q @ k.t()),
    "k.transpose(-2, -1)": variant(score=lambda q, k: q @ k.T),
    "the last two dimensions alone": variant(score=lambda q, k: q @ k.transpose(0, 1)),
    "no gradient": lambda q, k, v, m: attend(q.detach(), k.detach(), v.detach(), m),
    "gradient with respect to k": lambda q, k, v, m: attend(q, k.detach(), v, m),
}


@pytest.mark.parametrize("expected", ATTEND)
def test_attend(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.attend, ATTEND[expected], capsys=capsys)


def by_loop(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Right in another style: no -inf, but the largest allowed score taken off."""
    scores = torch.einsum("...td,...sd->...ts", q, k) * q.size(-1) ** -0.5
    best = scores.where(m, torch.tensor(-1e30)).amax(-1, keepdim=True)
    parts = (scores - best).clamp(max=0).exp() * m
    weights = parts / parts.sum(-1, keepdim=True)
    return torch.einsum("...ts,...sd->...td", weights, v), weights


def test_what_is_right_in_another_style_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Correct" in said(checks.attend, by_loop, capsys=capsys)
    huge = variant(mask=lambda s, m: s.masked_fill(~m, torch.finfo(s.dtype).min))
    assert "Correct" in said(checks.attend, huge, capsys=capsys)


SPLIT: dict[str, Function] = {
    "Not written yet": lambda x, h: None,
    "Correct": lambda x, h: torch.stack(x.chunk(h, -1), 1),
    "(B, T, H, D)": lambda x, h: x.unflatten(-1, (h, -1)),
    "must have shape (2, 4, 3, 5)": lambda x, h: x,
    "mixes positions": lambda x, h: x.reshape(len(x), h, x.size(1), -1),
    "there are always 4 heads": lambda x, h: x.unflatten(-1, (4, -1)).transpose(1, 2),
    "positions and channels first": lambda x, h: x.mT.reshape(len(x), h, x.size(1), -1),
    "every fourth channel": lambda x, h: x.unflatten(-1, (-1, h)).permute(0, 3, 1, 2),
    "positions come last": lambda x, h: x.unflatten(-1, (h, -1)).permute(0, 2, 3, 1),
    "other numbers": lambda x, h: x.unflatten(-1, (h, -1)).transpose(1, 2).flip(1),
}


@pytest.mark.parametrize("expected", SPLIT)
def test_split_heads(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.split_heads, SPLIT[expected], capsys=capsys)


MERGE: dict[str, Function] = {
    "Not written yet": lambda h: None,
    "Correct": lambda h: torch.cat(h.unbind(1), -1),
    "a reshape alone mixes": lambda h: h.reshape(2, 3, 20),
    "join the last two": lambda h: h.transpose(1, 2),
    "alternate": lambda h: h.permute(0, 2, 3, 1).flatten(2),
    "adds the heads up": lambda h: h.sum(1),
    "reshape or flatten": lambda h: h.transpose(1, 2).view(2, 3, 20),
}


@pytest.mark.parametrize("expected", MERGE)
def test_merge_heads(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.merge_heads, MERGE[expected], capsys=capsys)


class Plain(CausalSelfAttention):
    """The layer as readers write it first: chunk, split, attend, merge."""

    order = (0, 1, 2)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (self.split(parts[n]) for n in self.order)
        return q, k, v

    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:
        q, k, v = self.project(x)
        heads = mix(q, k, v) if mix else attend(q, k, v, causal_mask(x.size(1)))[0]
        return self.merge(heads)


def layer(**methods: Any) -> type[nn.Module]:
    """A layer with some of its methods exchanged for wrong ones."""
    for name, method in methods.items():
        if callable(method):
            method.__name__ = name
    return type("Layer", (Plain,), methods)


def by_head(self: Plain, x: Tensor) -> Any:
    return self.qkv(x).unflatten(-1, (4, 3, 5)).permute(3, 0, 2, 1, 4)


def unmasked(self: Plain, x: Tensor, mix: Mix | None = None) -> Tensor:
    q, k, v = self.project(x)
    return self.merge(mix(q, k, v) if mix else attend(q, k, v)[0])


def without_mix(self: Plain, x: Tensor, mix: Mix | None = None) -> Tensor:
    return self.merge(attend(*self.project(x), causal_mask(x.size(1)))[0])


def unmerged(self: Plain, x: Tensor, mix: Mix | None = None) -> Tensor:
    return attend(*self.project(x), causal_mask(x.size(1)))[0]


def mix_unmerged(self: Plain, x: Tensor, mix: Mix | None = None) -> Tensor:
    return mix(*self.project(x)) if mix else without_mix(self, x)


def with_three_linears(self: Plain, *sizes: Any) -> None:
    CausalSelfAttention.__init__(self, *sizes)
    self.key = nn.Linear(12, 12)


def attend_mask_of(size: Callable[[Plain, Tensor], int], take: Any = 0) -> Function:
    """A forward with a mask of the wrong size, or one that takes the wrong part of attend's."""

    def forward(self: Plain, x: Tensor, mix: Mix | None = None) -> Tensor:
        q, k, v = self.project(x)
        pair: Any = attend(q, k, v, causal_mask(size(self, x)))
        return self.merge(mix(q, k, v) if mix else pair[take] if take is not None else pair)

    return forward


def attend_causally(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q, k, v, causal_mask(q.size(-2)))[0]


def mixed_by(mix: Mix, heads: Any, order: tuple[int, int, int]) -> Tensor:
    a, b, c = (heads[n] for n in order)
    return mix(a, b, c)


def mix_unpacked(self: Plain, x: Tensor, mix: Mix | None = None) -> Tensor:
    if not mix:
        return Plain.forward(self, x)
    heads, _ = mix(*self.project(x))
    return self.merge(heads)


def first_of_mix(self: Plain, x: Tensor, mix: Mix | None = None) -> Tensor:
    return self.merge(mix(*self.project(x))[0]) if mix else Plain.forward(self, x)


LAYERS: dict[str, type[nn.Module]] = {
    "Not written yet: project": layer(project=lambda self, x: None),
    "Not written yet: merge": layer(merge=lambda self, heads: None),
    "Not written yet: forward": layer(forward=lambda self, x, mix=None: None),
    "leave __init__ as it is": layer(__init__=with_three_linears),
    "Correct": Plain,
    "three tensors": layer(project=lambda self, x: self.qkv(x)),
    "does not cut q, k and v into heads": layer(project=lambda self, x: self.qkv(x).chunk(3, -1)),
    "swap positions and heads": layer(split=lambda self, x: x.unflatten(-1, (4, -1))),
    "cut into three first": layer(project=by_head),
    "your q is k": layer(order=(1, 0, 2)),
    "your k is v": layer(order=(0, 2, 1)),
    "a view straight to heads": layer(split=lambda self, x: x.reshape(2, 4, 6, 5)),
    "x is added": layer(forward=lambda self, x, mix=None: x + Plain.forward(self, x, mix)),
    "you took every third": layer(
        project=lambda self, x: [
            self.qkv(x)[..., n::3].unflatten(-1, (4, -1)).transpose(1, 2) for n in range(3)
        ]
    ),
    "use reshape or flatten": layer(
        merge=lambda self, h: self.dropout(self.proj(h.transpose(1, 2).view(len(h), -1, 20)))
    ),
    "proj is missing": layer(merge=lambda self, h: h.transpose(1, 2).flatten(2)),
    "merge mixes positions": layer(merge=lambda self, h: self.proj(h.reshape(2, 6, 20))),
    "merge raised": layer(merge=lambda self, h: self.proj(h)),
    "the causal mask is missing": layer(forward=unmasked),
    "the heads are not merged": layer(forward=unmerged),
    "come back unmixed": layer(forward=lambda self, x, mix=None: self.merge(self.project(x)[2])),
    "attend takes q, k, v in this order; you pass k, q, v": layer(
        forward=lambda self, x, mix=None: self.merge(
            mixed_by(attend_causally, self.project(x), (1, 0, 2))
        )
    ),
    "mix takes q, k, v in this order; you pass k, q, v": layer(
        forward=lambda self, x, mix=None: (
            self.merge(mixed_by(mix, self.project(x), (1, 0, 2))) if mix else Plain.forward(self, x)
        )
    ),
    "mix takes q, k, v in this order; you pass v, q, k": layer(
        forward=lambda self, x, mix=None: (
            self.merge(mixed_by(mix, self.project(x), (2, 0, 1))) if mix else Plain.forward(self, x)
        )
    ),
    "there are 4 heads, whatever n_head is": layer(
        split=lambda self, x: x.unflatten(-1, (4, -1)).transpose(1, 2)
    ),
    "this layer has 2 of 6": layer(
        split=lambda self, x: x.unflatten(-1, (self.n_head, 5)).transpose(1, 2)
    ),
    "and 5 words": layer(forward=attend_mask_of(lambda self, x: 6)),
    "mix is not used": layer(forward=without_mix),
    "must still be merged": layer(forward=mix_unmerged),
    "attend returns the values and the weights": layer(
        forward=attend_mask_of(lambda self, x: x.size(1), take=None)
    ),
    "In q the heads are dimension 1": layer(forward=attend_mask_of(lambda self, x: self.n_head)),
    "The mask is (T, T)": layer(forward=attend_mask_of(lambda self, x: len(x))),
    "mix returns one tensor": layer(forward=mix_unpacked),
    "take it whole": layer(forward=first_of_mix),
    "acts outside training": layer(
        merge=lambda self, h: F.dropout(Plain.merge(self, h), self.dropout.p)
    ),
    "dropout never acts": layer(merge=lambda self, h: self.proj(h.transpose(1, 2).flatten(2))),
    "must come after proj": layer(
        merge=lambda self, h: self.proj(self.dropout(h.transpose(1, 2).flatten(2)))
    ),
    "and nowhere else": layer(
        merge=lambda self, h: self.dropout(self.proj(self.dropout(h.transpose(1, 2).flatten(2))))
    ),
    "project has a dropout": layer(
        project=lambda self, x: Plain.project(self, self.dropout(x)),
    ),
    "end with self.merge(heads)": layer(
        forward=lambda self, x, mix=None: self.proj(
            (mix or attend_causally)(*self.project(x)).transpose(1, 2).flatten(2)
        )
    ),
    "gradient of qkv.weight": layer(
        forward=lambda self, x, mix=None: (
            without_mix(self, x).detach() + 0 * Plain.forward(self, x)
            if mix is None
            else Plain.forward(self, x, mix)
        )
    ),
}


@pytest.mark.parametrize("expected", LAYERS)
def test_layer(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.layer, LAYERS[expected], capsys=capsys)


def split_before_chunk(self: Plain, x: Tensor) -> Any:
    heads = self.qkv(x).unflatten(-1, (3 * self.n_head, -1)).transpose(1, 2)  # (B, 3H, T, D)
    return heads.chunk(3, dim=1)


def test_heads_may_be_cut_first_and_parted_then(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Correct" in said(checks.layer, layer(project=split_before_chunk), capsys=capsys)


class Buffered(CausalSelfAttention):
    """It keeps something that the course's doesn't."""

    def __init__(self, *sizes: Any, **more: Any) -> None:
        super().__init__(*sizes, **more)
        self.register_buffer("mask", torch.ones(6, 6).tril().bool())


@pytest.mark.parametrize("layer", [CausalSelfAttention, Buffered])
def test_the_taught_layer_is_right(
    layer: type[CausalSelfAttention], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Correct" in said(checks.layer, layer, capsys=capsys)


CELL = """import math
LIMIT = 3

def attend(q, k, v, mask):
    return helper(q, k, v, mask)

def helper(q, k, v, mask):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return weights @ v, weights

class Layer(nn.Module):
    def forward(self, x):
        return attend(x, x, x, causal_mask(len(x)))[0]

checks.attend(attend)
"""


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a notebook's cell has defined; the folder is one of a reader."""
    path = tmp_path / "cell.py"
    path.write_text(CELL)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    names: dict[str, Any] = {"__name__": "__main__", "nn": nn, "checks": checks}
    exec(compile(CELL, str(path), "exec"), names)
    return names


def test_a_right_answer_is_kept_and_can_be_built_on(
    cell: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    checks.attend(cell["attend"])
    assert capsys.readouterr().out.endswith("in front. Kept in work/yours.\n")
    assert (tmp_path / "work" / "yours" / "attention" / "attend.py").is_file()
    assert yours.keep("attention", cell["Layer"])
    x = torch.randn(4, 2)
    recalled = yours.recall("attention", "Layer")  # uses the reader's attend, our causal_mask
    assert torch.equal(recalled()(x), attend(x, x, x, causal_mask(4))[0])
    assert yours.recall("attention", "attend").__module__ == "yours"


def test_a_wrong_answer_is_not_kept(cell: dict[str, Any], tmp_path: Path) -> None:
    checks.causal_mask(cell["attend"])
    assert yours.recall("attention", "causal_mask") is None


def test_what_no_notebook_defines_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not yours.keep("attention", by_loop)
    monkeypatch.setattr(by_loop, "__module__", "__main__")
    monkeypatch.setattr(by_loop, "__name__", "another")
    assert not yours.keep("attention", by_loop)
    assert not yours.keep("attention", sys)
    assert list(tmp_path.iterdir()) == []


def behind(n: int) -> Tensor:
    return torch.arange(n)[:, None] - torch.arange(n)


WINDOW: dict[str, Function] = {
    "is cut into blocks": lambda n, w: (
        (behind(n) >= 0) & (torch.arange(n)[:, None] // w == torch.arange(n) // w)
    ),
    "Not written yet": lambda n, w: None,
    "Correct": lambda n, w: (behind(n) >= 0) & (behind(n) < w),
    "shape (6, 6), not (1, 1)": lambda n, w: torch.ones(1, 1, dtype=torch.bool),
    "must be a tensor; you return int": lambda n, w: n,
    "dtype torch.int64": lambda n, w: ((behind(n) >= 0) & (behind(n) < w)).long(),
    "wider than the sentence": lambda n, w: (behind(n) >= 0) & (behind(n) < min(w, 3)),
    "upside down": lambda n, w: ~((behind(n) >= 0) & (behind(n) < w)),
    "looks ahead": lambda n, w: behind(n).abs() < w,
    "one too many": lambda n, w: (behind(n) >= 0) & (behind(n) <= w),
    "one too few": lambda n, w: (behind(n) >= 0) & (behind(n) < w - 1),
    "its own position": lambda n, w: (behind(n) > 0) & (behind(n) <= w),
    "must not see the future": lambda n, w: behind(n) < w,
    "it looks 3 words ahead": lambda n, w: tril(n, diagonal=w),
    "it is transposed": lambda n, w: (behind(n) <= 0) & (behind(n) > -w),
    "where the numbers of diagonals are negative": lambda n, w: tril(n) & ~tril(n, diagonal=w),
    "that is the causal mask": lambda n, w: behind(n) >= 0,
    "*further back*": lambda n, w: behind(n) >= w,
    "other numbers": lambda n, w: behind(n) == 0,
}


@pytest.mark.parametrize("expected", WINDOW)
def test_window_mask(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.window_mask, WINDOW[expected], capsys=capsys)


def in_pieces(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    n: int,
    *,
    start: float = -math.inf,
    stable: bool = True,
    rescale: tuple[bool, bool] = (True, True),
    size: Callable[[Tensor, Tensor], float] = lambda q, keys: math.sqrt(q.size(-1)),
    own: bool = False,
    first: bool = False,
    early: bool = False,
    end: bool = True,
) -> Tensor:
    """Attention in pieces of keys, with some of its steps left out."""
    top, bottom = torch.zeros(len(q), v.size(-1), dtype=v.dtype), torch.zeros(len(q), 1)
    best = torch.full((len(q), 1), start if stable else 0.0, dtype=q.dtype)
    for keys, values in zip(k.split(n), v.split(n), strict=True):
        scores = q @ keys.T / size(q, keys)
        new = torch.maximum(best, scores.amax(-1, keepdim=True)) if stable else best
        old = (best - new).exp()
        parts = (scores - (scores.amax(-1, keepdim=True) if own else new)).exp()
        top = (old if rescale[0] else 1.0) * top + parts @ (v[: len(keys)] if first else values)
        bottom = (old if rescale[1] else 1.0) * bottom + parts.sum(-1, keepdim=True)
        top = top / bottom if early else top
        best = new
    return top / bottom if end else top


def pieces(**steps: Any) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    return lambda q, k, v, n: in_pieces(q, k, v, n, **steps)


def pieces_of_queries(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return torch.cat([attend(piece, k, v)[0] for piece in q.split(n)])


def n_pieces(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return in_pieces(q, k, v, math.ceil(len(k) / n))


def one_query_at_a_time(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return torch.cat([in_pieces(one, k, v, n) for one in q.split(1)])


def only_by_four(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return in_pieces(q, k, v, n) if n == 4 else q


PIECES: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor | None]] = {
    "Not written yet": lambda q, k, v, n: None,
    "Correct": in_pieces,
    "by D, not by √D": pieces(size=lambda q, keys: q.size(-1)),
    "not divided": pieces(size=lambda q, keys: 1),
    "by D/2, not by √D. In Python": pieces(size=lambda q, keys: q.size(-1) ** 1 / 2),
    "by 2D": lambda q, k, v, n: (q @ k.T / q.size(-1) ** 1 / 2).softmax(-1) @ v,
    "the number of keys;": lambda q, k, v, n: (q @ k.T / k.size(0) ** 0.5).softmax(-1) @ v,
    "the number of queries": pieces(size=lambda q, keys: math.sqrt(len(q))),
    "number of keys in a piece": pieces(size=lambda q, keys: math.sqrt(len(keys))),
    "you added them up": lambda q, k, v, n: torch.stack(
        [attend(q, a, b)[0] for a, b in zip(k.split(n), v.split(n), strict=True)]
    ).sum(0),
    "you averaged them": lambda q, k, v, n: torch.stack(
        [attend(q, a, b)[0] for a, b in zip(k.split(n), v.split(n), strict=True)]
    ).mean(0),
    "last piece is missing": lambda q, k, v, n: attend(q, k[:8], v[:8])[0],
    "not (6, 7)": lambda q, k, v, n: attend(q, k, v)[0].T,
    "multiply both sums by e^(old maximum - new maximum)": pieces(rescale=(False, False)),
    "its own maximum alone": pieces(rescale=(False, False), own=True),
    "multiply the sum with the values too": pieces(rescale=(False, True)),
    "multiply the sum of the exponentials too": pieces(rescale=(True, False)),
    "the division is missing": pieces(end=False),
    "you divide in each piece": pieces(early=True, end=False),
    "each piece takes the first values": pieces(first=True),
    "only the last piece is left": lambda q, k, v, n: attend(q, k[8:], v[8:])[0],
    "should hold other numbers. At [0]": pieces(size=lambda q, keys: 7),
    "exp overflows": pieces(stable=False),
    "Start the largest score at -math.inf": pieces(start=0.0),
    "right for pieces of 4": only_by_four,
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


def joined(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    scores = torch.cat([q @ keys.T for keys in k.split(n)], dim=1) / math.sqrt(q.size(-1))
    parts = scores.softmax(-1).split(n, dim=1)
    return torch.stack([p @ values for p, values in zip(parts, v.split(n), strict=True)]).sum(0)


def filled_in(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    table = q.new_empty(len(q), len(k))
    for start in range(0, len(k), n):
        table[:, start : start + n] = q @ k[start : start + n].T / math.sqrt(q.size(-1))
    parts = table.softmax(-1).split(n, dim=1)
    return torch.stack([p @ values for p, values in zip(parts, v.split(n), strict=True)]).sum(0)


def joined_row_by_row(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    return torch.cat([joined(row, k, v, n) for row in q.split(1)])


@pytest.mark.parametrize("way", [joined, filled_in, joined_row_by_row])
def test_a_table_put_together_from_pieces_is_not_accepted(
    way: Callable[[Tensor, Tensor, Tensor, int], Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    checks.attend_in_pieces(way)
    assert "the scores of all 11 keys are in one tensor" in capsys.readouterr().out


def test_a_largest_score_that_starts_very_low_is_correct(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "Correct" in said(checks.attend_in_pieces, pieces(start=-1e9), capsys=capsys)


def test_one_query_at_a_time_in_pieces_of_keys_is_correct(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks.attend_in_pieces(one_query_at_a_time)
    assert "Correct" in capsys.readouterr().out


@pytest.mark.parametrize("expected", PIECES)
def test_attend_in_pieces(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.attend_in_pieces, PIECES[expected], capsys=capsys)
