"""Check the tasks and exercises of the chapter on attention."""

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gptlib import attention as taught
from gptlib.extras.checks.answers import POWER, Answer, Wrong, close, expect, run, says, task


@task
def causal_mask(function: Callable[..., Tensor]) -> str:
    """Check the mask: True at a query's own position and before."""
    right = taught.causal_mask(4)
    alone = "n_keys may be left out: its default is None, and it then means n_queries."
    mask = run(function, 4, hints={"positional argument": alone, "NoneType": alone})
    if isinstance(mask, Tensor) and mask.dtype != torch.bool:
        kind = "a mask to add to the scores" if mask.isinf().any() else f"of dtype {mask.dtype}"
        raise Wrong(f"Not yet: your mask is {kind}; return booleans, True = may look.")
    causes = {
        "it is upside down: True means may look": ~right,
        "the future is allowed and the past is not; a query is a row": right.T,
        "a query must see its own position too, the diagonal": right.tril(-1),
        "each query sees one position too far ahead": right | torch.ones(4, 4).tril(1).bool(),
        "nothing is forbidden": torch.ones_like(right),
    }
    expect(mask, right, causes, "causal_mask(4)")
    causes = {
        "two queries with four keys are the *last* two positions, not the first two": right[:2],
        "with n_keys the mask has n_queries rows and n_keys columns": right,
        "the diagonal moves the wrong way: with more keys, queries see more": torch.zeros(2, 4) > 0,
        "both queries see all keys; the first must not see the last key": torch.ones(2, 4) > 0,
    }
    both = {"positional argument": "It takes both numbers, n_queries and n_keys."}
    expect(run(function, 2, 4, hints=both), right[-2:], causes, "causal_mask(2, 4)")
    for sizes in ((1, 4), (3, 5), (6,)):
        name = f"causal_mask({', '.join(map(str, sizes))})"
        expect(run(function, *sizes), taught.causal_mask(*sizes), {}, name)
    return "Correct: four queries see 1, 2, 3 and 4 keys, and the last two of them alone 3 and 4."


@task
def attend(function: Callable[..., tuple[Tensor, Tensor]]) -> str:
    """Check attention: its weights, its output, its gradients, and batches of heads."""
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 5, 6, generator=generator)  # D = 6: with 4, D/2 would be √D
    v = torch.randn(5, 3, generator=generator)
    mask = taught.causal_mask(5)
    hints = {"Dimension out of range": _HEADS_IN_FRONT["Dimension out of range"]}
    before = q.clone()
    result = run(function, q, k, v, mask, hints=hints)
    if not torch.equal(q, before):
        raise Wrong("Not yet: you change the caller's q; write q / ..., not q /= ...")
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Not yet: return two things, the mixed values and the weights.")
    output, right = taught.attend(q, k, v, mask)
    given, weights = result
    if close(given, right):
        raise Wrong("Not yet: the mixed values come first, then the weights.")
    if close(given, (q @ k.T / math.sqrt(6)).softmax(-1) * mask @ v):
        raise Wrong("Not yet: the mask comes after the softmax, so rows no longer sum to 1.")
    if close(given, output) and not close(weights, right):
        raise Wrong("Not yet: the mixed values are right; return the weights that mixed them too.")
    expect(weights, right, _wrong_weights(q, k, v, mask), "the table of weights")
    causes = {
        "the weights mix the keys; they must mix the values": right @ k,
        "the weights are transposed: each *row* mixes the values for one query": right.T @ v,
    }
    expect(given, output, causes, "the output")
    odd = torch.rand(5, 5, generator=generator) < 0.5
    odd.fill_diagonal_(True)
    causes = {"the mask that is given is not used; don't make one yourself": output}
    other = run(function, q, k, v, odd)[0]
    expect(
        other, taught.attend(q, k, v, odd)[0], causes, "the output with a mask that is not causal"
    )
    if not run(function, 300 * k, k, v, torch.ones_like(mask))[0].isfinite().all():
        raise Wrong(
            "Not yet: right for small scores, but exp overflows for large ones; softmax doesn't, "
            "because it subtracts the largest first."
        )
    q = -300 * k  # each query's own key, which it may see, scores far below 0
    if not function(q, k, v, mask)[0].allclose(taught.attend(q, k, v, mask)[0], atol=1e-3):
        raise Wrong(
            "Not yet: right for small scores, wrong for large ones. Put -inf into the forbidden "
            "scores before the softmax; zeroing weights divides 0 by 0, and -100 is not enough."
        )
    q, k, v = torch.randn(3, 2, 3, 5, 4, generator=generator)  # (B, H, T, D) each
    many, table = run(function, q, k, v, mask, hints=_HEADS_IN_FRONT)
    if close(table[..., -1, :].sum(1), torch.ones(2, 5)):  # the last query, which sees every key
        raise Wrong(
            "Not yet: the softmax goes over dimension 1, which here is the heads; count from the "
            "end: dim=-1."
        )
    right = taught.attend(q, k, v, mask)[0]
    causes = {
        "the scores are divided by the root of dimension 1, which here is the heads; D is the last "
        "one, q.size(-1)": taught.attend(q * math.sqrt(4 / 3), k, v, mask)[0],
    }
    expect(many, right, causes, "the output for q of shape (B, H, T, D)")
    few = run(function, q[..., -2:, :], k, v, mask[-2:])[0]
    expect(few, many[..., -2:, :], {}, "the output for the last two queries alone")
    ways: list[Answer] = [function, taught.attend]
    found = []
    for way in ways:
        leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        loss = way(*leaves, mask)[0].square().sum()
        if not loss.requires_grad:
            raise Wrong("Not yet: right, but no gradient comes through; leave out detach, no_grad.")
        found.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    for mine, theirs, name in zip(*found, "qkv", strict=True):
        expect(mine, theirs, {}, f"the gradient with respect to {name}", atol=1e-4)
    return "Correct: weights, output and gradients, also with a batch and heads in front."


_LAST_TWO = "With heads in front transpose the last two dimensions alone: k.transpose(-2, -1)."
_HEADS_IN_FRONT = {
    "Dimension out of range": "Count dimensions from the end: k.transpose(-2, -1), or k.T.",
    "The shape of the mask": (
        "The scores have a batch and heads in front, the mask has not, so it can't be an index. "
        "scores.masked_fill(~mask, -math.inf) stretches it."
    ),
    **dict.fromkeys(("x.T", "t() expects", "size of tensor b"), _LAST_TWO),
}


def _wrong_weights(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> dict[str, Tensor]:
    raw = q @ k.T
    root = math.sqrt(q.size(-1))
    scores = raw / root
    hidden = scores.masked_fill(~mask, -math.inf)

    def masked(scores: Tensor, mask: Tensor = mask) -> Tensor:
        return scores.masked_fill(~mask, -math.inf).softmax(-1)

    return {
        "the scores are not divided by √D": masked(raw),
        "the scores are multiplied by √D; divide": masked(raw * root),
        "the scores are divided by √3, the root of v's size; take q's": (
            masked(raw / v.size(-1) ** 0.5)
        ),
        "the scores are divided by D, not by √D": masked(raw / q.size(-1)),
        f"the scores are divided by D/2, not by √D. {POWER}": masked(raw / (q.size(-1) / 2)),
        f"the scores are divided by 2D, not by √D. {POWER}": masked(raw / q.size(-1) / 2),
        "a reshape of k keeps the order of its numbers; transpose it, k.transpose(-2, -1)": masked(
            q @ k.reshape(k.T.shape) / root
        ),
        "the scores are divided by 8, which is GPT-2's √64; take the root of q's size": (
            masked(raw / 8)
        ),
        "that is the cosine; here the lengths count, and only √D divides": masked(
            raw / (q.norm(dim=-1)[:, None] * k.norm(dim=-1))
        ),
        "the scores are divided by the root of the number of words; D is the last size of q": (
            masked(raw / len(q) ** 0.5)
        ),
        "the sums of the rows divide the columns; keep the dimension, keepdim=True": (
            hidden.exp() / hidden.exp().sum(-1)
        ),
        "the softmax goes over the queries; each *row* must sum to 1": hidden.softmax(-2),
        "the softmax is applied twice": hidden.softmax(-1).softmax(-1),
        "the softmax is applied twice; mask the scores, then apply it once": masked(
            scores.softmax(-1)
        ),
        "the mask comes after the softmax; put -inf into the scores, before it": (
            scores.softmax(-1).masked_fill(~mask, -math.inf)
        ),
        "the mask is not used: a query sees the future": scores.softmax(-1),
        "the mask is upside down: True means may look, so fill where it is not (~mask)": (
            masked(scores, ~mask)
        ),
        "forbidden scores are 0, and e⁰ is 1; make them -inf": (scores * mask).softmax(-1),
        "these are the scores; the softmax is missing": hidden,
        "the division by √D comes after the softmax; divide the scores": masked(raw) / root,
        "the scores compare keys with queries; a row must be a query, so q comes first": (
            masked(scores.T)
        ),
    }


@task
def split_heads(function: Callable[[Tensor, int], Tensor]) -> str:
    """Check that a function cuts channels into heads."""
    batch, length, heads, size = 2, 3, 4, 5
    x = torch.arange(batch * length * heads * size).view(batch, length, heads * size)
    cut = x.unflatten(-1, (heads, size))
    causes = {
        "the shape is (B, T, H, D); now swap positions and heads": cut,
        "a view straight to (B, H, T, D) mixes positions; cut the channels, then swap": x.view(
            batch, heads, length, size
        ),
        "you swap positions and channels first, which mixes them; cut the channels, then swap": (
            x.mT.reshape(batch, heads, length, size)
        ),
        "each head has every fourth channel; it should have 5 neighbouring ones": (
            x.view(batch, length, size, heads).permute(0, 3, 1, 2)
        ),
        "positions come last; the shape is (B, H, T, D)": cut.permute(0, 2, 3, 1),
    }
    right = cut.transpose(1, 2)
    expect(run(function, x, heads), right, causes, "the result for (2, 3, 20)")
    causes = {"n_head is not used: there are always 4 heads": right}
    two = x.unflatten(-1, (2, 10)).transpose(1, 2)
    expect(run(function, x, 2), two, causes, "the result for 2 heads")
    return "Correct: (2, 3, 20) became (2, 4, 3, 5), and head 0 holds the first 5 channels."


@task
def merge_heads(function: Callable[[Tensor], Tensor]) -> str:
    """Check that a function lays heads side by side again."""
    x = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)  # (B, T, H, D)
    heads = x.transpose(1, 2).contiguous()  # (B, H, T, D)
    causes = {
        "a reshape alone mixes positions; swap positions and heads first": heads.reshape(2, 3, 20),
        "the shape is (B, T, H, D); now join the last two dimensions": x,
        "the channels of the heads alternate; they must lie side by side": x.mT.flatten(2),
        "this adds the heads up; lay them side by side": heads.sum(1),
    }
    expect(run(function, heads), x.flatten(2), causes, "the result for (2, 4, 3, 5)")
    return "Correct: (2, 4, 3, 5) became (2, 3, 20), what split_heads cut is whole again."


@task
def layer(kind: Callable[..., Any]) -> str:
    """Check the layer step by step, then against PyTorch's own in value and gradient."""
    torch_layer, yours = nn.MultiheadAttention(20, 4, batch_first=True), run(kind, 20, 4).eval()
    if {name for name, _ in yours.named_children()} != {"qkv", "proj", "dropout"}:
        raise Wrong("Not yet: leave __init__ as it is; trained weights are found by these names.")
    with torch.no_grad():
        torch_layer.in_proj_bias.normal_()  # PyTorch begins with 0, which would hide a mistake
        torch_layer.out_proj.bias.normal_()
        for mine, theirs in ((yours.qkv, "in_proj_"), (yours.proj, "out_proj.")):
            mine.weight.copy_(torch_layer.get_parameter(f"{theirs}weight"))
            mine.bias.copy_(torch_layer.get_parameter(f"{theirs}bias"))
    x = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(2))
    q, k, v = heads = _check_project(yours, x)
    merged = _check_merge(yours, v)
    hints = {
        "'tuple' object": "attend returns the values and the weights: heads, _ = attend(...).",
        "size of tensor b": (
            "The mask is (T, T), causal_mask(x.size(1)). In q the heads are dimension 1."
        ),
    }
    right, _ = torch_layer(x, x, x, attn_mask=~taught.causal_mask(6), need_weights=False)
    causes = {
        "the future is seen: the causal mask is missing": yours.merge(taught.attend(q, k, v)[0]),
        "the heads are not merged": taught.attend(q, k, v, taught.causal_mask(6))[0],
        "the values come back unmixed": merged,
        "x is added; a later chapter does that, the layer returns its own part": x + right,
    }
    for order, parts in _other_orders(q, k, v).items():
        wrong = yours.merge(taught.attend(*parts, taught.causal_mask(6))[0])
        causes[f"attend takes q, k, v in this order; you pass {order}"] = wrong
    expect(run(yours.forward, x, hints=hints), right, causes, "the layer's output")
    one = "mix returns one tensor, the heads' results, where attend returns two: take it whole."
    hints = dict.fromkeys(("values to unpack", "cannot be multiplied"), one)
    mixed = (q + 2 * k + 4 * v)[:1]
    own = run(yours.forward, x[:1], lambda q, k, v: q + 2 * k + 4 * v, hints=hints)
    causes = {
        "mix is not used: when it is given, it takes the place of attend": right[:1],
        "what mix returns must still be merged": mixed,
    }
    for order, (first, second, third) in _other_orders(q, k, v).items():
        wrong = yours.merge((first + 2 * second + 4 * third)[:1])
        causes[f"mix takes q, k, v in this order; you pass {order}"] = wrong
    expect(own, yours.merge(mixed), causes, "the output with a mix of our own")
    weights = (torch_layer.in_proj_weight, yours.qkv.weight)
    gradients = [
        torch.autograd.grad(out.square().sum(), weight, allow_unused=True)[0]
        for out, weight in zip((right, yours(x)), weights, strict=True)
    ]
    expect(gradients[1], gradients[0], {}, "the gradient of qkv.weight", atol=1e-3)
    _check_other_sizes(kind, x[:, :5, :12])
    careless = run(kind, 20, 4, 0.9).eval()
    if not torch.equal(careless(x), careless(x)):
        raise Wrong("Not yet: dropout acts outside training; use self.dropout, or self.training.")
    dropped, whole = careless.train().merge(heads[0]), careless.eval().merge(heads[0])
    if torch.equal(dropped, whole):
        raise Wrong("Not yet: dropout never acts in merge; its last step is self.dropout.")
    if not close(dropped, torch.where(dropped == 0, 0, 10 * whole)):  # a tenth is left, enlarged
        raise Wrong("Not yet: in merge, dropout must come after proj, and nowhere else.")
    if not torch.equal(careless.train().project(x)[0], careless.eval().project(x)[0]):
        raise Wrong("Not yet: project has a dropout; it acts in merge, after proj, and there only.")
    if not (careless.train()(x) == 0).any():
        raise Wrong("Not yet: forward passes merge's dropout by; end with self.merge(heads).")
    return "Correct: project, mix and merge, equal to nn.MultiheadAttention in value and gradient."


def _other_orders(q: Tensor, k: Tensor, v: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return q, k and v in each wrong order, by its name."""
    parts = {"q": q, "k": k, "v": v}
    orders = [(a, b, c) for a, b, c in permutations(parts) if (a, b, c) != ("q", "k", "v")]
    return {f"{a}, {b}, {c}": (parts[a], parts[b], parts[c]) for a, b, c in orders}


def _check_other_sizes(kind: Callable[..., Any], x: Tensor) -> None:
    """See that a layer takes its sizes from its arguments: 2 heads, other widths and lengths."""
    yours = run(kind, 12, 2).eval()
    of_two, of_four = (taught.CausalSelfAttention(12, n_head) for n_head in (2, 4))
    for other in (of_two, of_four):
        other.load_state_dict(yours.state_dict(), strict=False)
    hints = {"": "It is right for 4 heads of 5 channels; this layer has 2 of 6, and 5 words."}
    causes = {"there are 4 heads, whatever n_head is; cut into self.n_head": of_four(x)}
    expect(run(yours.forward, x, hints=hints), of_two(x), causes, "the output with 2 heads of 6")


def _check_project(yours: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads = run(yours.project, x)
    if not isinstance(heads, tuple | list | Tensor) or len(heads) != 3:
        raise Wrong("Not yet: project returns three tensors, q, k and v.")
    stacked = yours.qkv(x)  # (B, T, 3C)
    q, k, v = parts = [part.unflatten(-1, (4, 5)).transpose(1, 2) for part in stacked.chunk(3, -1)]
    by_head = stacked.unflatten(-1, (4, 3, 5)).permute(3, 0, 2, 1, 4)
    for n, (name, value, right) in enumerate(zip("qkv", heads, parts, strict=True)):
        causes = {
            "project does not cut q, k and v into heads": stacked.chunk(3, -1)[n],
            "q, k and v have shape (B, T, H, D); swap positions and heads": right.transpose(1, 2),
            "the 3C channels are all q, then all k, then all v; cut into three first": by_head[n],
            "the 3C channels are all q, then all k, then all v; you took every third": (
                stacked[..., n::3].unflatten(-1, (4, 5)).transpose(1, 2)
            ),
            "a view straight to heads mixes positions": stacked.chunk(3, -1)[n].reshape(2, 4, 6, 5),
        }
        for other, part in zip("qkv", parts, strict=True):
            causes[f"your {name} is {other}; first come the C channels of q, then k, then v"] = part
        expect(value, right, causes, f"{name} from project")
    return q, k, v


def _check_merge(yours: Any, heads: Tensor) -> Tensor:
    heads = heads.contiguous()  # as what attention makes: a view is no way to join them
    side_by_side = heads.transpose(1, 2).flatten(2)
    right = yours.proj(side_by_side)
    causes = {
        "merge lays the heads side by side, but proj is missing": side_by_side,
        "merge mixes positions: swap heads and positions before you flatten": yours.proj(
            heads.reshape(right.shape)
        ),
    }
    expect(run(yours.merge, heads), right, causes, "what merge returns")
    return right


@says
def window_mask(function: Callable[[int, int], Tensor]) -> str:
    """Check a causal mask that looks back over a limited number of words."""
    behind = torch.arange(6)[:, None] - torch.arange(6)
    right = (behind >= 0) & (behind < 3)
    mask = run(function, 6, 3)
    if isinstance(mask, Tensor) and mask.dtype != torch.bool:
        raise Wrong(f"Not yet: the mask has dtype {mask.dtype}; return booleans, True = may look.")
    causes = {
        "it is upside down: here True means may look": ~right,
        "it looks ahead: nothing may be allowed above the diagonal": behind.abs() < 3,
        "one too many: a window of 3 is the word and 2 before it": (behind >= 0) & (behind <= 3),
        "one too few: a window of 3 is the word and 2 before it": (behind >= 0) & (behind < 2),
        "a query must see its own position; the window contains it": (behind > 0) & (behind <= 3),
        "all later words are allowed; a query must not see the future": behind < 3,
        "it looks 3 words ahead and back to the start; positive diagonals are above the main one": (
            behind >= -3
        ),
        "it is transposed: a query is a row, and looks back": right.T,
        "nobody may look anywhere; what is too far back lies *below* the diagonal, where the "
        "numbers of diagonals are negative": behind > 6,
        "that is the causal mask; words further back than the window are allowed": behind >= 0,
        "only words *further back* than the window are allowed": behind >= 3,
        "the sentence is cut into blocks; each word looks back from its own place": (
            (behind >= 0) & (torch.arange(6)[:, None] // 3 == torch.arange(6) // 3)
        ),
    }
    expect(mask, right, causes, "window_mask(6, 3)")
    expect(run(function, 4, 9), taught.causal_mask(4), {}, "a window wider than the sentence")
    return "Correct: each query sees itself and the two before it, at the start fewer."


@says
def attend_in_pieces(function: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> str:
    """Check attention that reads keys and values piece by piece."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 10, 6, generator=generator, dtype=torch.float64)
    raw = q @ k.T
    pieces = [taught.attend(q, *piece)[0] for piece in zip(k.split(4), v.split(4), strict=True)]
    own = "each piece has its own softmax; add up the denominators, and divide once"
    causes = {
        "the scores are divided by D, not by √D": (raw / 6).softmax(-1) @ v,
        "the scores are not divided by √D": raw.softmax(-1) @ v,
        f"the scores are divided by D/2, not by √D. {POWER}": (raw / 3).softmax(-1) @ v,
        f"the scores are divided by 2D, not by √D. {POWER}": (raw / 12).softmax(-1) @ v,
        "the scores are divided by the root of k.size(0), the number of keys; D is the last size": (
            (raw / 10**0.5).softmax(-1) @ v
        ),
        "the scores are divided by the root of q.size(0), the number of queries; D is the last "
        "size": (raw / 7**0.5).softmax(-1) @ v,
        "the scores are divided by the root of the number of keys in a piece; D is the last size": (
            (raw / torch.tensor([4] * 8 + [2] * 2).sqrt()).softmax(-1) @ v
        ),
        f"{own} (you added them up)": torch.stack(pieces).sum(0),
        f"{own} (you averaged them)": torch.stack(pieces).mean(0),
        "the last piece is missing: 10 keys in pieces of 4 are 4, 4 and 2": (
            taught.attend(q, k[:8], v[:8])[0]
        ),
    }
    causes |= _wrong_sums(raw / 6**0.5, v)
    right = taught.attend(q, k, v)[0]
    expect(run(function, q, k, v, 4), right, causes, "the result for q of shape (7, 6)")
    large, positive = 2000 * q.abs(), k.abs()
    if not run(function, large, positive, v, 4).isfinite().all():
        raise Wrong(
            "Not yet: right for small scores, but exp overflows for large ones: for each query, "
            "subtract the largest of its own scores so far before exp."
        )
    if not run(function, large, -positive, v, 4).isfinite().all():
        raise Wrong(
            "Not yet: right, but not where all scores lie far below 0: there every exp is 0, and "
            "0 / 0 is nan. Start the largest score at -math.inf."
        )
    q = 2000 * q
    if not all(close(function(q, k, v, n), taught.attend(q, k, v)[0]) for n in (1, 3, 10, 99)):
        raise Wrong("Not yet: right for pieces of 4 keys, but not for pieces of 1, 3, 10 or 99.")
    q = torch.randn(7, 5, generator=generator)
    k, v = torch.randn(2, 11, 5, generator=generator)  # 11 keys, 3 at a time
    with _KeysAtATime(q, k) as seen:
        function(q, k, v, 3)
    if seen.most > 3:
        raise Wrong(
            f"Not yet: the numbers are right, but {seen.most} keys were compared at a time, where "
            "n = 3 allows 3. `k.split(n)` gives pieces of n keys (`k.chunk(n)` gives n pieces)."
        )
    if seen.has_table:
        raise Wrong(
            "Not yet: the numbers are right, but the scores of all 11 keys are in one tensor: the "
            "table again. Of each piece keep the largest score and the two sums alone."
        )
    return "Correct: equal to attend for pieces of any size, with at most n keys at a time."


def _wrong_sums(scores: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Go through the keys four at a time with the usual slips in the loop."""
    factor = "e^(old maximum - new maximum) when a larger score comes"
    largest = scores.new_full((len(scores), 1), -math.inf)
    top = bottom = raw_top = raw_bottom = own_top = own_bottom = early = scores.new_zeros(1)
    for piece, values in zip(scores.split(4, dim=-1), v.split(4), strict=True):
        best = piece.amax(-1, keepdim=True)
        new = torch.maximum(largest, best)
        old, parts, own = (largest - new).exp(), (piece - new).exp(), (piece - best).exp()
        top, raw_top = old * top + parts @ values, raw_top + parts @ values
        bottom, raw_bottom = old * bottom + parts.sum(-1, True), raw_bottom + parts.sum(-1, True)
        own_top, own_bottom = own_top + own @ values, own_bottom + own.sum(-1, True)
        early = (old * early + parts @ values) / bottom
        largest = new
    return {
        f"multiply both sums by {factor}": raw_top / raw_bottom,
        f"each piece subtracts its own maximum alone; multiply both sums by {factor}": (
            own_top / own_bottom
        ),
        f"multiply the sum with the values too by {factor}": raw_top / bottom,
        f"multiply the sum of the exponentials too by {factor}": top / raw_bottom,
        "the division is missing: at the end divide by the sum of the exponentials": top,
        "you divide in each piece; divide once, after the last": early,
        "each piece takes the first values; it must take its own, as v.split(n) gives them": (
            scores.softmax(-1) @ v[torch.arange(len(v)) % 4]
        ),
        "only the last piece is left: add its sums to those so far, and carry the largest on": (
            scores[:, 8:].softmax(-1) @ v[8:]
        ),
    }


class _KeysAtATime(TorchFunctionMode):
    """Watch what torch computes for the number of keys that are compared at a time.

    In products it is the largest size that is none of the known others. A table of all scores may
    also be put together from pieces, so it is looked for in every result.
    """

    PRODUCTS = (
        *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "inner", "einsum"),
        *("tensordot", "linear", "addmm", "baddbmm", "mul", "__mul__", "__rmul__", "cdist"),
    )

    def __init__(self, q: Tensor, k: Tensor) -> None:
        super().__init__()
        self.n_queries, self.n_keys, self.not_keys = len(q), len(k), {1, *q.shape}
        self.most, self.has_table = 0, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        sizes: Sequence[int] = ()
        if name == "scaled_dot_product_attention":
            key = args[1] if len(args) > 1 else kwargs["key"]
            sizes = (key.size(-2),)
        elif name in self.PRODUCTS and isinstance(result, Tensor):
            sizes = result.shape
        if isinstance(result, Tensor) and result.dim() > 1 and self.n_keys in result.shape:
            self.has_table |= {1, self.n_queries, self.n_keys}.issuperset(result.shape)
        keys = [size for size in sizes if size not in self.not_keys]
        self.most = max([self.most, *keys])
        return result
