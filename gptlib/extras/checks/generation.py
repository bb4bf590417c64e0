"""Checks of the exercises of chapter 6: each says what is right, or which step is off."""

import math

import torch
from torch import Tensor

from gptlib.extras.checks.answers import Answer, Wrong, close, named, number_of, says, tensor_of
from gptlib.gpt2 import GPTConfig


@says
def cache_bytes(answer: Answer) -> str:
    """Check `cache_bytes(config, n_tokens, n_key_heads, bytes_per_value)`, exercise 1."""
    config = GPTConfig(vocab_size=50, context_length=64, n_layer=3, n_head=8, n_embd=64)
    value = number_of(answer, config, 10, 2, 4, wanted="the bytes of the cache")
    right = 2 * 3 * 2 * 8 * 10 * 4
    mistakes = {
        "You counted the keys or the values; the cache holds both.": right / 2,
        "You counted numbers; each takes bytes_per_value bytes.": right / 4,
        "You counted one block; each of the n_layer blocks has its own keys and values.": right / 3,
        "That is the cache with keys and values for all heads; here groups of heads share "
        "them, and one head has C / n_head channels.": right * 4,
        "n_key_heads is how many sets of keys and values are kept, not how many heads share one.": (
            right * 2
        ),
        "You gave each head all C channels; one head has C / n_head, config.head_size.": right * 8,
        "That is one token; multiply by n_tokens.": right / 10,
        "You counted one channel of each head; there are D channels per head.": right / 8,
    }
    if not close(value, right):
        return named(value, mistakes) or f"Not yet: it takes {right} bytes, you say {value:g}."
    full = number_of(answer, GPTConfig(), 1024, 12, 2, wanted="the bytes of GPT-2's cache")
    shared = number_of(answer, GPTConfig(), 1024, 1, 2, wanted="the bytes of GPT-2's cache")
    if full != 2 * 12 * 12 * 64 * 1024 * 2 or shared != full / 12:
        return "Right for the small model, but not for GPT-2: take every size from config."
    return (
        f"Correct: GPT-2's 1,024 tokens in 2-byte numbers take {full / 2**20:.0f} MiB, and "
        f"{shared / 2**20:.0f} MiB if all twelve heads share one set of keys and values."
    )


@says
def block_repeats(answer: Answer) -> str:
    """Check `block_repeats(logits, tokens, n)`, exercise 2."""
    logits = torch.tensor([0.5, 1.0, -1.0, 2.0, 0.0, 1.5])
    text = [4, 1, 2, 3, 0, 1, 2, 5, 0, 1, 2]
    cases = [
        (3, text, {3, 5}),
        (2, text, {3, 5}),
        (4, text, {5}),
        (4, [0, 3, 1, 2, 4, 3, 1, 2], {4}),
        (2, [5, 5], {5}),
        (3, [1, 2, 1, 2], {1}),
        (3, [5, 5, 5], {5}),
        (1, [1, 2, 2], {1, 2}),
        (3, [4, 4], set()),
        (3, [4], set()),
        (2, [], set()),
    ]
    for n, tokens, banned in cases:
        given = logits.clone()
        try:
            got = tensor_of(answer, given, list(tokens), n, shape=(6,))
        except Wrong as problem:
            return (
                str(problem) if (n, tokens) == (3, text) else f"With n = {n}, {tokens}: {problem}"
            )
        if not torch.equal(given, logits):
            return "You changed the logits that were passed in; work on a copy (logits.clone())."
        cut = {i for i in range(6) if got[i] == -math.inf}
        if cut == banned:
            kept = [i for i in range(6) if i not in banned]
            if not torch.equal(got[kept], logits[kept]):
                return "Right what is cut, but the other logits must stay as they are."
            continue
        return _repeat_mistake(got, logits, n, tokens, cut, banned)
    return "Correct: no run of n tokens can occur twice; checked for n from 1 to 4 and short texts."


def _repeat_mistake(
    got: Tensor, logits: Tensor, n: int, tokens: list[int], cut: set[int], banned: set[int]
) -> str:
    changed = {i for i in range(6) if got[i] != logits[i]}
    if changed == banned and not cut:
        value = got[min(banned)].item()
        return f"The right tokens, but changed to {value:g}; only -inf gives a probability of 0."
    if n == 1 and tokens:
        return "Right until n = 1: tokens[-0:] is the text; use tokens[len(tokens) - n + 1 :]."
    if cut == set(tokens) and tokens:
        return "You cut every token seen; cut only those that would repeat a whole run of n tokens."
    if len(tokens) < n:
        return f"A text of {len(tokens)} tokens holds no run of {n}; leave the logits as they are."
    tail = tokens[len(tokens) - n + 1 :]
    followers = [
        tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tokens[i : i + n - 1] == tail
    ]
    if len(banned) > 1 and cut == {followers[0]}:
        return "You stopped at the first place where the run begins; go through the whole text."
    if followers and not cut and 2 * n > len(tokens):
        return f"You stopped too early: in {tokens} a run of n = {n} may overlap the end."
    starts = range(len(tokens) - n)
    longer = {tokens[i + n] for i in starts if tokens[i : i + n] == tokens[-n:]}
    if longer and cut == longer and n > 1:
        return f"You compared the last n = {n} tokens; the new one is the n-th, compare {n - 1}."
    names = [str(sorted(ids)) if ids else "nothing" for ids in (banned, cut)]
    return f"Not yet: after {tokens} with n = {n}, {names[0]} must be cut; you cut {names[1]}."


@says
def keep_typical(answer: Answer) -> str:
    """Check `keep_typical(logits, p)`, exercise 3."""
    probabilities = torch.tensor([0.5, 0.12, 0.11, 0.1, 0.09, 0.05, 0.03])
    surprise = -probabilities.log()
    entropy = (probabilities * surprise).sum()
    orders = {
        "right": (surprise - entropy).abs().argsort(),
        "That is top-p: you sorted by probability. Sort by the distance of each token's "
        "surprise from the entropy.": surprise.argsort(),
        "You kept the tokens farthest from the entropy; sort the distances upwards.": (
            (surprise - entropy).abs().argsort(descending=True)
        ),
        "You took the difference with its sign; the distance is its absolute value.": (
            (entropy - surprise).argsort()
        ),
        "The surprise is minus the logarithm: your distance is |ln p - H|, it must be "
        "|-ln p - H|.": (probabilities.log() - entropy).abs().argsort(),
        "Measure surprise and entropy in the same unit; one of yours is in nats, one in bits.": (
            (surprise - entropy / math.log(2)).abs().argsort()
        ),
    }

    def kept(order: Tensor, p: float, crossing: bool = True) -> set[int]:
        before = probabilities[order].cumsum(0) - probabilities[order]
        reached = before if crossing else before + probabilities[order]
        return set(order[reached < p - 1e-6].tolist())

    shares = (0.15, 0.3, 0.45, 0.7, 0.99)
    sets = []
    logits = probabilities.log() + 3.0
    for p in shares:
        given = logits.clone()
        got = tensor_of(answer, given, p, shape=(7,))
        if not torch.equal(given, logits):
            return "You changed the logits that were passed in; work on a copy (logits.clone())."
        sets.append({i for i in range(7) if got[i] != -math.inf})
        stays = sorted(sets[-1])
        if not torch.equal(got[stays], logits[stays]):
            return "The logits of the tokens that stay must not change; cut the others to -inf."
    names = {name: [kept(order, p) for p in shares] for name, order in orders.items()}
    if sets == names.pop("right"):
        return _typical_edges(answer)
    if sets == [kept(orders["right"], p, crossing=False) for p in shares]:
        return "You left out the token with which the sum reaches p; the set could be empty."
    mistake = next((name for name, expected in names.items() if sets == expected), None)
    expected = sorted(kept(orders["right"], 0.3))
    shown = sorted(sets[1])
    return mistake or f"Not yet: with p = 0.3 tokens {expected} stay; you keep {shown}."


def _typical_edges(answer: Answer) -> str:
    given = torch.tensor([-math.inf, 0.0, -math.inf, 1.0])
    expected = torch.tensor([-math.inf, -math.inf, -math.inf, 1.0])
    if not torch.equal(tensor_of(answer, given, 0.5, shape=(4,)), expected):
        return "Right, but not for logits of -inf: 0 · ln 0 is nan, and torch.special.entr says 0."
    return "Correct: the tokens whose surprise is nearest to the entropy stay; checked for five p."


@says
def accept_or_replace(answer: Answer) -> str:
    """Check `accept_or_replace(token, p, q, u, v)`, exercise 4."""
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.25, 0.25, 0.25, 0.25])
    counts = torch.zeros(4, 4)  # (drafted, returned)
    for token in range(4):
        for i in range(20):
            for j in range(60):
                case = (token, p, q, (i + 0.5) / 20, (j + 0.5) / 60)
                value = number_of(answer, *case, wanted="a token id")
                if value not in (0, 1, 2, 3):
                    return f"Not yet: you return {value:g}; return one token id."
                counts[token, int(value)] += 1
    table = counts / 1200
    result = q @ table
    residual = (p - q).clamp(min=0) / (p - q).clamp(min=0).sum()

    def rule(accept: Tensor, replace: Tensor) -> Tensor:
        return torch.diag(accept) + (1 - accept)[:, None] * replace

    ratio = (p / q).clamp(max=1)
    u = (torch.arange(20) + 0.5) / 20
    again = (u[:, None] >= residual.cumsum(0)).sum(dim=-1).clamp(max=3)  # drawn with u itself
    reused = torch.stack(
        [again.where(u >= ratio[i], i).bincount(minlength=4) / 20 for i in range(4)]
    )
    differs = (p - q).abs() / (p - q).abs().sum()
    mistakes = {
        "You accept every draft: the text is the small model's, not the large one's.": (
            torch.eye(4)
        ),
        "After a rejection you draw from p; that counts the likely tokens twice. Draw from "
        "what the drafts left over, max(0, p - q), made to sum to 1.": rule(ratio, p.expand(4, 4)),
        "After a rejection you draw from q again; draw from max(0, p - q), made to sum to 1.": (
            rule(ratio, q.expand(4, 4))
        ),
        "You accept with probability p; take p / q, at most 1.": rule(p, residual.expand(4, 4)),
        "Your ratio is upside down: accept with probability p / q, at most 1.": (
            rule((q / p).clamp(max=1), residual.expand(4, 4))
        ),
        "You draw the other token with u; after a rejection u is large and no longer uniform. "
        "Use v.": reused,
        "You replace by |p - q|; tokens that the drafts bring too often must not come back. "
        "Use max(0, p - q).": rule(ratio, differs.expand(4, 4)),
        "You accept when you should reject: accept if u is below p / q.": (
            rule(1 - ratio, residual.expand(4, 4))
        ),
        "After a rejection you always take the likeliest token; draw from max(0, p - q).": (
            rule(ratio, torch.eye(4)[0].expand(4, 4))
        ),
    }
    if torch.allclose(table, rule(ratio, residual.expand(4, 4)), atol=0.02):
        accepted = (q * ratio).sum().item()
        return (
            f"Correct: drafts from q come out as p exactly, and {accepted:.0%} of them are "
            "accepted here."
        )
    if mistake := next(
        (text for text, wrong in mistakes.items() if torch.allclose(table, wrong, atol=0.02)), None
    ):
        return mistake
    if torch.allclose(result, p, atol=0.02):
        return "The distribution is right, but a draft with p at least q must always be accepted."
    shares = ", ".join(f"{share:.2f}" for share in result.tolist())
    return f"Not yet: the tokens must come out as 0.50, 0.30, 0.20, 0.00; yours: {shares}."
