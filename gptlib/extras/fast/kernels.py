"""What a CUDA card needs kernels of its own for when it writes text.

They need Triton, which PyTorch's builds for CUDA on Linux bring along.

Attention: one new token for each text looks back. PyTorch takes four kernels or more for what
is less work than to start them; here one program for each head puts the token's key and value
among the others, and goes through them once, in blocks, as FlashAttention does.

Top-p and the draw, without a sort: to sort GPT-2's 50,257 logits for each row takes as long as the
model's own step. Here the border of top-p is searched for: 8 levels at a time, of which the two
stay between which the probabilities above reach p. Positive floats have the order of their bits,
so ten rounds of 8 find the border exactly. Each row is cut into slices that many programs work on
at once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptlib.attention import Mix

SLICE, LEVELS, ROUNDS = 1024, 8, 10


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q, k, v, q_row, q_head, k_row, k_head, v_row, v_head,
    keys, values, position, starts, mixed, capacity,
    D: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head, channel = tl.program_id(0), tl.program_id(1), tl.arange(0, CHANNELS)
    exists = channel < D
    query = tl.load(q + row * q_row + head * q_head + channel, exists, 0.0).to(tl.float32) * D**-0.5
    key = tl.load(k + row * k_row + head * k_head + channel, exists, 0.0)
    value = tl.load(v + row * v_row + head * v_head + channel, exists, 0.0)
    first, now = tl.load(starts + row).to(tl.int32), tl.load(position).to(tl.int32)
    text = (row * tl.num_programs(1) + head).to(tl.int64) * capacity * D
    tl.store(keys + text + now * D + channel, key, exists)
    tl.store(values + text + now * D + channel, value, exists)
    # The softmax goes along: the highest score so far, the sum of exp(score - highest), and the
    # values mixed by these. The new token is the first; no slot of its own need be read.
    highest = tl.sum(query * key.to(tl.float32))
    total, result = tl.exp(highest - highest), value.to(tl.float32)
    for begin in range(first, now, BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        at = text + slot[:, None] * D + channel[None, :]
        is_old = (slot < now)[:, None] & exists[None, :]
        old_keys = tl.load(keys + at, is_old, 0.0).to(tl.float32)
        old_values = tl.load(values + at, is_old, 0.0).to(tl.float32)
        scores = tl.where(slot < now, tl.sum(query[None, :] * old_keys, axis=1), -float("inf"))
        higher = tl.maximum(highest, tl.max(scores))
        weights, shrinks = tl.exp(scores - higher), tl.exp(highest - higher)
        total = shrinks * total + tl.sum(weights)
        result = shrinks * result + tl.sum(weights[:, None] * old_values, axis=0)
        highest = higher
    tl.store(mixed + (row * tl.num_programs(1) + head) * D + channel, result / total, exists)


@triton.jit
def _load(logits, row, part, n, SLICE: tl.constexpr):  # type: ignore[no-untyped-def]
    at = part * SLICE + tl.arange(0, SLICE)
    return at, tl.load(logits + row.to(tl.int64) * n + at, mask=at < n, other=-float("inf"))


@triton.jit
def _sum_slices(logits, sums, n, n_slices, SLICE: tl.constexpr):  # type: ignore[no-untyped-def]
    row, part = tl.program_id(0), tl.program_id(1)
    _, x = _load(logits, row, part, n, SLICE)
    highest = tl.max(x)
    share = tl.where(x > -float("inf"), tl.exp(x - highest), 0.0)
    tl.store(sums + 2 * (row * n_slices + part), highest)
    tl.store(sums + 2 * (row * n_slices + part) + 1, tl.sum(share))


@triton.jit
def _add_slices(sums, row, n_slices, SLICES: tl.constexpr):  # type: ignore[no-untyped-def]
    # the highest logit of a row, and the sum of exp(x - highest) in each slice
    at = tl.arange(0, SLICES)
    each = sums + 2 * (row * n_slices + at)
    highs = tl.load(each, mask=at < n_slices, other=-float("inf"))
    highest = tl.max(highs)
    parts = tl.load(each + 1, mask=at < n_slices, other=0.0)
    return highest, parts * tl.exp(highs - highest)


@triton.jit
def _narrow(  # type: ignore[no-untyped-def]
    logits, sums, p, old_bounds, old_above, bounds, above, n, n_slices,
    IS_FIRST: tl.constexpr, SLICE: tl.constexpr, SLICES: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(0), tl.program_id(1)
    highest, parts = _add_slices(sums, row, n_slices, SLICES)
    level = tl.arange(0, LEVELS)
    if IS_FIRST:
        low, high = 0, 0x3F800000  # the bits of 0.0, and of 1.0, the likeliest token's
    else:
        low, high = tl.load(old_bounds + 2 * row), tl.load(old_bounds + 2 * row + 1)
        each = tl.arange(0, SLICES)[:, None] * LEVELS + level[None, :]
        of_slices = tl.load(
            old_above + row * n_slices * LEVELS + each, mask=each < n_slices * LEVELS, other=0.0
        )
        # What is likelier than `low` reaches p, what is likelier than `high` doesn't.
        n_reached = tl.sum((tl.sum(of_slices, axis=0) >= p * tl.sum(parts)).to(tl.int32))
        width = (high - low + LEVELS - 1) // LEVELS
        low += width * (tl.maximum(n_reached, 1) - 1)
        high = tl.minimum(high, low + width)
    if part == 0:
        tl.store(bounds + 2 * row, low)
        tl.store(bounds + 2 * row + 1, high)
    levels = low + (high - low + LEVELS - 1) // LEVELS * level
    _, x = _load(logits, row, part, n, SLICE)
    share = tl.exp(x - highest)
    is_above = share.to(tl.int32, bitcast=True)[None, :] > levels[:, None]
    found = tl.sum(tl.where(is_above, share[None, :], 0.0), axis=1)
    tl.store(above + (row * n_slices + part) * LEVELS + level, found)


@triton.jit
def _keep(  # type: ignore[no-untyped-def]
    logits, sums, p, bounds, above, kept, n, n_slices,
    SLICE: tl.constexpr, SLICES: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(0), tl.program_id(1)
    highest, parts = _add_slices(sums, row, n_slices, SLICES)
    border = tl.load(bounds + 2 * row + 1)
    at = tl.arange(0, SLICES)
    each = above + (row * n_slices + at) * LEVELS  # above the level below the border, and above it
    reached = tl.load(each, mask=at < n_slices, other=0.0)
    beyond = tl.load(each + 1, mask=at < n_slices, other=0.0)
    # Of equals at the border the first ones stay, as few as reach p.
    value = border.to(tl.float32, bitcast=True)
    n_equal = tl.ceil((p * tl.sum(parts) - tl.sum(beyond)) / value)
    n_before = tl.floor(tl.sum(tl.where(at < part, reached - beyond, 0.0)) / value + 0.5)
    at, x = _load(logits, row, part, n, SLICE)
    bits = tl.exp(x - highest).to(tl.int32, bitcast=True)
    place = n_before + tl.cumsum((bits == border).to(tl.float32))  # 1 for the first of the equals
    stays = (bits > border) | ((bits == border) & (place <= n_equal))
    tl.store(kept + row.to(tl.int64) * n + at, tl.where(stays, x, -float("inf")), mask=at < n)


@triton.jit
def _pick(  # type: ignore[no-untyped-def]
    logits, sums, uniform, tokens, n, n_slices, SLICE: tl.constexpr, SLICES: tl.constexpr
):
    row, slices = tl.program_id(0), tl.arange(0, SLICES)
    highest, parts = _add_slices(sums, row, n_slices, SLICES)
    goal = tl.load(uniform + row) * tl.sum(parts)
    # Sums are rounded: if none is past the goal, the last that is likely at all is meant.
    first = tl.min(tl.where((tl.cumsum(parts) > goal) & (parts > 0), slices, SLICES))
    part = tl.minimum(first, tl.max(tl.where(parts > 0, slices, 0)))
    at, x = _load(logits, row, part, n, SLICE)
    share = tl.exp(x - highest)
    ends = tl.sum(tl.where(slices < part, parts, 0.0)) + tl.cumsum(share)
    first = tl.min(tl.where((ends > goal) & (share > 0), at, n))
    tl.store(tokens + row, tl.minimum(first, tl.max(tl.where(share > 0, at, 0))).to(tl.int64))


def attend_once(position: Tensor, starts: Tensor, keys: Tensor, values: Tensor) -> Mix:
    """Let one new token for each text look back, as `graph.masked_look_back` does."""

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n_rows, n_head, capacity, size = keys.shape
        mixed = q.new_empty(n_rows, n_head, 1, size)
        strides = [stride for part in (q, k, v) for stride in part.stride()[:2]]
        _attend[(n_rows, n_head)](
            q, k, v, *strides, keys, values, position, starts, mixed, capacity,
            D=size, CHANNELS=triton.next_power_of_2(size), BLOCK=256, num_warps=8,
        )  # fmt: skip
        return mixed

    return mix


def _sum(logits: Tensor) -> tuple[Tensor, int, dict[str, int]]:
    n_slices = triton.cdiv(logits.size(1), SLICE)
    sums = logits.new_empty(len(logits), n_slices, 2)
    _sum_slices[(len(logits), n_slices)](logits, sums, logits.size(1), n_slices, SLICE=SLICE)
    return sums, n_slices, {"SLICE": SLICE, "SLICES": triton.next_power_of_2(n_slices)}


def search_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep what `gptlib.generation.keep_top_p` keeps of logits (B, V) in float32."""
    logits, (n_rows, n) = logits.contiguous(), logits.shape
    sums, n_slices, sizes = _sum(logits)
    sizes["LEVELS"] = LEVELS
    p *= 1 - 8 * torch.finfo(logits.dtype).eps  # sums are rounded
    bounds = torch.empty(ROUNDS + 1, n_rows, 2, dtype=torch.int32, device=logits.device)
    above = logits.new_empty(ROUNDS + 1, n_rows, n_slices, LEVELS)
    for i in range(ROUNDS + 1):  # the last one measures the border that was found
        old, new = (bounds[i - 1], above[i - 1]), (bounds[i], above[i])
        _narrow[(n_rows, n_slices)](
            logits, sums, p, *old, *new, n, n_slices, IS_FIRST=i == 0, **sizes
        )
    kept = torch.empty_like(logits)
    _keep[(n_rows, n_slices)](logits, sums, p, bounds[-1], above[-1], kept, n, n_slices, **sizes)
    return kept


def draw_by_slices(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw what `gptlib.generation.draw` draws from logits (B, V) in float32: tokens (B,)."""
    logits, (n_rows, n) = logits.contiguous(), logits.shape
    sums, n_slices, sizes = _sum(logits)
    tokens = torch.empty(n_rows, dtype=torch.int64, device=logits.device)
    _pick[(n_rows,)](logits, sums, uniform, tokens, n, n_slices, **sizes)
    return tokens
