"""Writing on a CUDA card: a whole step, its choice of a token included, captured and replayed.

    from gptlib.extras.fast.graph import GraphWriter
    step = GraphWriter(model)          # then generate(model, ..., step=step)

A decode step of GPT-2 is some 150 small kernels, and the choice of a token some 30 more. To start
them one by one takes a CPU several times as long as the card needs to run them. A CUDA graph
starts all of them at once. What is captured has fixed shapes and fixed addresses: keys and values
lie in memory that is taken once, numbers beside them say which of them count, and the token that
was chosen stays on the card, where the next step reads it. The CPU hears of it one step later.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import Field, fields
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.attention import Mix
from gptlib.extras.fast.compiled import OneRowLinear, compile_own
from gptlib.extras.fast.onednn import share_weights, swap_linears
from gptlib.generation import (
    KeyValueCache,
    Sampling,
    Step,
    count_tokens,
    decode_step,
    draw,
    keep_top_p,
    not_finite,
    prefill,
    window_start,
)
from gptlib.gpt2 import GPT

N_KEPT = 4
"""So many captured steps are kept, for other numbers of texts, lengths or settings."""


def sorted_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep what `keep_top_p` keeps, and never wait for a number, as a captured step must not."""
    best, tokens = logits.sort(dim=-1, descending=True)  # (B, V)
    share = best.softmax(dim=-1)
    before = share.cumsum(dim=-1) - share
    best = best.masked_fill(before >= p * (1 - 8 * torch.finfo(logits.dtype).eps), -math.inf)
    return torch.empty_like(logits).scatter_(-1, tokens, best)


def masked_look_back(position: Tensor, starts: Tensor, all_k: Tensor, all_v: Tensor) -> Mix:
    """Let one new token for each text look at those from its start on, itself included.

    Keys and values have shape (B, H, S, D), the position (1,), the starts (B,).
    """
    slots = torch.arange(all_k.size(2), device=position.device)  # (S,)
    allowed = (slots <= position) & (slots >= starts[:, None])  # (B, S)

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        all_k.index_copy_(2, position, k)
        all_v.index_copy_(2, position, v)
        return F.scaled_dot_product_attention(q, all_k, all_v, allowed[:, None, None])

    return mix


IN_GRAPHS: dict[Callable[..., Any], Callable[..., Any]] = {keep_top_p: sorted_top_p}
"""What takes the place of a function in a captured step."""

if torch.cuda.is_available() and find_spec("triton"):
    from gptlib.extras.fast.kernels import attend_once, draw_by_slices, search_top_p

    IN_GRAPHS |= {masked_look_back: attend_once, keep_top_p: search_top_p, draw: draw_by_slices}


class AlignedLinear(nn.Linear):
    """A linear layer for a width that is no multiple of 64, as GPT-2's 50,257 tokens.

    Matrix units are fast where sizes are such multiples, so the last few columns come by
    themselves, from the same memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (..., in), to (..., out); there is no bias."""
        n = self.out_features // 64 * 64
        parts = [part for part in (self.weight[:n], self.weight[n:]) if len(part)]
        return torch.cat([F.linear(x, part) for part in parts], dim=-1)


def capture(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record a step that reads and writes tensors in place, to be replayed as one CUDA graph."""
    if device.type != "cuda":
        return step
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):  # libraries take their workspaces in the first calls
        for _ in range(2):
            step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA card the current one, as graphs and kernels want it, without gradients."""
    stack = ExitStack()
    stack.enter_context(torch.inference_mode())
    if device.type == "cuda":
        stack.enter_context(torch.cuda.device(device))
    return stack


def begin_reading(tokens: Tensor) -> Callable[[], list[int]]:
    """Copy tokens to the CPU while the device goes on; the function returned waits for them."""
    if tokens.device.type != "cuda":
        return tokens.clone().tolist
    copied = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    copied.copy_(tokens, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tokens.device))

    def wait() -> list[int]:
        done.synchronize()
        numbers: list[int] = copied.tolist()
        return numbers

    return wait


def numbers_ahead(sources: Sequence[torch.Generator | None], n: int) -> Tensor:
    """Draw what each row's source is going to give in n steps, and leave the sources: (n, B)."""
    rows_of: dict[torch.Generator, list[int]] = {}
    for row, source in enumerate(sources):
        rows_of.setdefault(source or torch.default_generator, []).append(row)
    numbers = torch.empty(n, len(sources))
    for source, rows in rows_of.items():
        copied = torch.Generator().set_state(source.get_state())
        numbers[:, rows] = torch.rand(n, len(rows), generator=copied)
    return numbers


class _Room:
    """The tensors of one captured step, which reads the token that it chose before."""

    def __init__(
        self,
        read: Callable[..., Tensor],
        cache: KeyValueCache,
        vocab_size: int,
        sampling: Sampling,
        bars_ends: bool,
    ) -> None:
        self.read, self.cache, self.sampling = read, cache, sampling
        device, n_rows = cache.starts.device, len(cache.starts)
        for part in (*cache.keys, *cache.values):
            part.zero_()  # a masked slot counts 0 times what is in it, and 0 · nan is nan
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.starts = torch.zeros_like(cache.starts)
        self.token, self.told = torch.zeros_like(cache.starts), torch.zeros_like(cache.starts)
        self.uniform = torch.zeros(n_rows, device=device)
        names = {each.metadata["counts"] for each in self._knobs()} - {None}
        self.counts = {
            name: torch.zeros(n_rows, vocab_size, dtype=torch.int64, device=device)
            for name in names
        }
        self.barred = torch.zeros(vocab_size * bars_ends, dtype=torch.bool, device=device)
        self.replay = capture(self.step, device)

    def _knobs(self) -> list[Field[Any]]:
        return [f for f in fields(self.sampling) if getattr(self.sampling, f.name) != f.default]

    def step(self) -> None:
        """Read the token of each row, and choose the next."""
        logits = self.read(
            self.token, self.position, self.starts, self.cache.keys, self.cache.values
        )
        self.position += 1
        self.choose(logits)

    def choose(self, logits: Tensor) -> None:
        """Choose the next token of each row by its logits, (B, V), as `next_tokens` does."""
        logits = logits.float()
        is_finite = logits.amax(dim=-1).isfinite()  # (B,)
        if len(self.barred):
            logits = logits.masked_fill(self.barred, -math.inf)
        for each in self._knobs():
            turn, counted = each.metadata["turn"], each.metadata["counts"]
            turn = IN_GRAPHS.get(turn, turn)
            counts = [self.counts[counted]] if counted else []
            logits = turn(logits, getattr(self.sampling, each.name), *counts)
        if self.sampling.temperature == 0:
            chosen = logits.argmax(dim=-1)  # (B,)
        else:
            chosen = IN_GRAPHS.get(draw, draw)(logits, self.uniform)
        self.token.copy_(chosen.where(is_finite, 0))
        self.told.copy_(chosen.where(is_finite, -1))
        new = self.token[:, None]
        for so_far in self.counts.values():
            so_far.scatter_add_(1, new, torch.ones_like(new))


class GraphWriter:
    """A step for `generate(model, ..., step=step)` that writes whole texts on a CUDA card.

    It chooses the tokens as well, by the same numbers of the same generators, so that a seed gives
    the text that it gives elsewhere. One captured step serves as many texts as are written in
    batches of one size, with one `Sampling` and about one length; others are captured when they
    are first asked for, which takes a tenth of a second, or half a minute if compiled.

    Args:
        model: On a CUDA card, in float32 or bfloat16; it stays as it is and shares its weights.
        compile: Compile the step before it is captured.
    """

    def __init__(self, model: GPT, compile: bool = False) -> None:
        self.model, self.compile = share_weights(model), compile
        self._readers: dict[bool, Callable[..., Tensor]] = {}
        self._rooms: OrderedDict[Any, _Room] = OrderedDict()

    def __call__(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Read one more token per row, as `decode_step` does: for searches, which reorder rows."""
        return decode_step(self.model, tokens, cache)

    def _reader(self, n_rows: int) -> Callable[..., Tensor]:
        if (n_rows == 1) not in self._readers:
            self._readers[n_rows == 1] = _make_reader(self.model, self.compile, n_rows == 1)
        return self._readers[n_rows == 1]

    def _take_room(self, n_rows: int, length: int, sampling: Sampling, bars_ends: bool) -> Any:
        """Take a captured step that nobody is writing with, or capture one; return its key too."""
        capacity = min(math.ceil(length / 64) * 64, self.model.config.context_length)
        address = self.model.ln_f.weight.data_ptr()  # another one after model.to(...)
        key = (n_rows, capacity, sampling, bars_ends, address)
        room = self._rooms.pop(key, None)
        if room is None:
            cache = KeyValueCache(self.model, n_rows, capacity)
            vocab_size = self.model.config.vocab_size
            room = _Room(self._reader(n_rows), cache, vocab_size, sampling, bars_ends)
        return key, room

    def write_batch(
        self,
        model: GPT,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling,
        min_new_tokens: int,
        end_tokens: Sequence[int],
        stop: Callable[[Sequence[int]], bool] | None,
        generators: Sequence[torch.Generator | None],
        step: Step | None,
    ) -> Generator[list[int | None], None, None]:
        """Write what `gptlib.generation.write_batch` writes, in its place.

        A step begins before the one before it is read, so that the card never waits. Rows that
        have ended stay in the batch, and what is written there is dropped. Where rows share a
        generator, the ended ones go on taking their numbers.
        """
        texts, n_rows = [list(prompt) for prompt in prompts], len(prompts)
        new_texts: list[list[int]] = [[] for _ in prompts]
        rows = list(range(n_rows))  # those still writing
        context_length, lengths = model.config.context_length, list(map(len, texts))
        bars_ends = bool(end_tokens) and min_new_tokens > 0
        device = self.model.ln_f.weight.device
        with on_device(device):
            key, room = self._take_room(n_rows, max(lengths) + max_new_tokens, sampling, bars_ends)
            numbers = numbers_ahead(generators, max_new_tokens).to(device)
            for name, counts in room.counts.items():
                counted = texts if name == "texts" else new_texts
                counts.copy_(count_tokens(counted, counts.size(1)))
            room.barred.zero_()
            if bars_ends:
                room.barred[end_tokens] = True

        def goes_on(n: int) -> bool:
            """Whether token n is the next in windows that stay where they are."""
            starts = [
                [window_start(lengths[row] + n - back, context_length) for row in rows]
                for back in (0, 1)
            ]
            return n > 0 and room.cache.length < room.cache.capacity and starts[0] == starts[1]

        def begin(n: int) -> Callable[[], list[int]]:
            """Let the device choose token n of each row."""
            with on_device(device):
                if n == min_new_tokens:
                    room.barred.zero_()
                room.uniform.copy_(numbers[n])
                if goes_on(n):
                    room.replay()
                    room.cache.length += 1
                else:
                    starts = [window_start(len(text), context_length) for text in texts]
                    windows = [
                        text[starts[row] :] if row in rows else text[-1:]
                        for row, text in enumerate(texts)
                    ]
                    logits = prefill(self.model, windows, room.cache)
                    room.starts.copy_(room.cache.starts)
                    room.position.fill_(room.cache.length)
                    room.choose(logits)
                return begin_reading(room.told)

        try:
            begun = None
            for n in range(max_new_tokens):
                reading = begun or begin(n)
                ahead = n + 1 < max_new_tokens and goes_on(n + 1)
                begun = begin(n + 1) if ahead else None
                tokens = reading()
                written: list[int | None] = [None] * n_rows
                for row in tuple(rows):
                    token = tokens[row]
                    if token == -1:
                        raise not_finite(texts[row])
                    if sampling.temperature:
                        torch.rand((), generator=generators[row])  # as was drawn ahead
                    texts[row].append(token)
                    new_texts[row].append(token)
                    written[row] = token
                    if token in end_tokens or (stop and stop(new_texts[row])):
                        rows.remove(row)
                yield written
                if not rows:
                    return
        finally:
            self._rooms[key] = room
            while len(self._rooms) > N_KEPT:
                self._rooms.popitem(last=False)


def _make_reader(model: GPT, compiles: bool, one_row: bool) -> Callable[..., Tensor]:
    """Make a function that reads one token per row into keys and values of fixed memory."""
    twin, look = share_weights(model), IN_GRAPHS.get(masked_look_back, masked_look_back)
    if not one_row:
        head = AlignedLinear(twin.config.n_embd, twin.config.vocab_size, False, device="meta")
        head.weight = twin.head.weight
        twin.head = head
    elif compiles:
        swap_linears(twin, OneRowLinear)

    def read(
        token: Tensor,
        position: Tensor,
        starts: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        mixes = [look(position, starts, *both) for both in zip(keys, values, strict=True)]
        x = twin.stream(token[:, None], mixes, (position - starts)[:, None])  # (B, 1, C)
        return twin.unembed(x)[:, 0]  # (B, V)

    # once for one row, and once for all larger batches
    return compile_own(read, dynamic=None if one_row else True) if compiles else read
