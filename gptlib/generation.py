"""How a distribution over the next token becomes text, and how that gets fast (chapter 6).

In teaching order: drawing a token; the filters and `Sampling`, their settings; the key-value cache;
the window of a full context; writing token by token; text; judging and searching.

Example:
    >>> from gptlib.gpt2 import GPTConfig
    >>> config = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
    >>> model = GPT(config, torch.Generator().manual_seed(0)).eval()
    >>> seeded = torch.Generator().manual_seed(0)
    >>> tokens = list(generate(model, [1, 2, 3], 20, Sampling(top_k=5), generator=seeded))
    >>> len(tokens)
    20
"""

import codecs
import math
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlib.embeddings import check_stream
from gptlib.gpt2 import GPT, check_fields
from gptlib.tokenizer import Tokenizer, end_of_text, vocabulary_size


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token per row: lay the probabilities end to end and see where a number falls.

    One random number per row fixes its token, so a row's text doesn't depend on its neighbours.

    Args:
        logits: Shape (B, V); -∞ for tokens that can't be drawn.
        uniform: One number per row, 0 up to but not including 1, shape (B,).

    Returns:
        Token ids, shape (B,).

    Example:
        >>> logits = torch.tensor([[0.5, 0.3, 0.2]] * 3).log()
        >>> draw(logits, torch.tensor([0.49, 0.51, 0.99])).tolist()
        [0, 1, 2]
    """
    ends = logits.softmax(dim=-1).cumsum(dim=-1)  # where each token's stretch ends, (B, V)
    # Slightly less than the last end, or rounding could give V, which is no token.
    total = ends[:, -1] * (1 - torch.finfo(ends.dtype).eps)
    # right=True: a token of probability 0 has no stretch, so even 0.0 can't fall on it.
    return torch.searchsorted(ends, (uniform * total)[:, None], right=True)[:, 0]  # (B,)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen the distribution (below 1), flatten it (above 1), or take the best token only (0).

    The limit at 0 leaves the likeliest token, of several the one with the lowest id; all others
    become -∞.

    Example:
        >>> apply_temperature(torch.tensor([1.0, 3.0]), 0.5).tolist()
        [2.0, 6.0]
        >>> apply_temperature(torch.tensor([1.0, 3.0]), 0).tolist()
        [-inf, 3.0]
    """
    if temperature > 1e-6:  # nearer to 0, a division would give infinities
        return logits / temperature
    best = logits.argmax(dim=-1, keepdim=True)  # (..., 1)
    nothing = torch.full_like(logits, -math.inf)
    return nothing.scatter(-1, best, logits.gather(-1, best))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens; the rest becomes -∞.

    Source:
        Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.1.

    Example:
        >>> keep_top_k(torch.tensor([1.0, 4.0, 3.0, 2.0]), 2).tolist()
        [-inf, 4.0, 3.0, -inf]
    """
    best = logits.topk(min(k, logits.size(-1)), dim=-1)  # (..., k); of equals, any
    return torch.full_like(logits, -math.inf).scatter(-1, best.indices, best.values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities sum to at least p, and cut the tail.

    Sums are compared with p up to what rounding adds, in float32 one part in a million.

    Source:
        Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.

    Example:
        >>> keep_top_p(torch.tensor([2.0, 1.0, 0.0]), 0.9).tolist()  # 0.67, 0.24, 0.09
        [2.0, 1.0, -inf]
    """
    total = logits.logsumexp(dim=-1, keepdim=True)  # (..., 1)
    n = min(1000, logits.size(-1))  # nearly always enough, and ten times as fast as sorting all
    best, tokens = logits.topk(n, dim=-1)  # (..., n)
    if bool(((best - total).exp().sum(dim=-1) < p).any()):
        best, tokens = logits.sort(dim=-1, descending=True)  # (..., V)
    share = (best - total).exp()
    before = share.cumsum(dim=-1) - share  # what the likelier tokens sum to
    reached = before >= p * (1 - 8 * torch.finfo(logits.dtype).eps)  # sums are rounded
    best = best.masked_fill(reached, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, tokens, best)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens with at least p times the probability of the best: few where it is sure.

    Source:
        Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling", section 3.

    Example:
        >>> keep_min_p(torch.tensor([2.0, 1.0, 0.0]), 0.3).tolist()  # 0.67, 0.24, 0.09
        [2.0, 1.0, -inf]
    """
    least = logits.amax(dim=-1, keepdim=True) + math.log(p)  # a factor p is a difference of log p
    return logits.masked_fill(logits < least, -math.inf)


def penalize_repetition(logits: Tensor, penalty: float, counts: Tensor) -> Tensor:
    """Divide the logits of tokens that were there before; multiply negative ones.

    Either makes a logit smaller if the penalty is above 1.

    Source:
        Keskar et al. 2019 (CTRL), section 4.1, which divides negative logits too.
    """
    smaller = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(counts > 0, smaller, logits)


def penalize_frequency(logits: Tensor, penalty: float, counts: Tensor) -> Tensor:
    """Subtract the penalty for each time that a token was written (OpenAI's API reference)."""
    return logits - penalty * counts


def penalize_presence(logits: Tensor, penalty: float, counts: Tensor) -> Tensor:
    """Subtract the penalty once if a token was written at all (OpenAI's API reference)."""
    return logits - penalty * (counts > 0)


def knob(
    default: Any,
    turn: Callable[..., Tensor],
    rule: str,
    holds: Callable[[Any], bool],
    counts: str | None = None,
) -> Any:
    """Make a field of `Sampling` that says what its value does to the logits.

    Args:
        default: The value that changes nothing; `turn` is not called with it.
        turn: From logits (..., V), the value and, if asked for, counts (..., V) to logits.
        rule: What a value must be, for the error.
        holds: Whether a value is that.
        counts: Which tokens are counted for `turn`: "texts" (prompt and text) or "new_texts".
    """
    return field(
        default=default, metadata={"turn": turn, "rule": rule, "holds": holds, "counts": counts}
    )


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Choose how the next token is drawn; the defaults change nothing.

    The order of the fields is the order in which they act. A new filter is one function and one
    field behind these, here or in a subclass.

    Raises:
        ValueError: If a number lies outside its range; the message says which.

    Example:
        >>> Sampling(temperature=0.8, top_k=40).top_p
        1.0
    """

    repetition_penalty: float = knob(
        1.0,
        penalize_repetition,
        "from 1e-30 to 1e30; 1 is none",
        lambda x: 1e-30 <= x <= 1e30,
        "texts",
    )
    """Above 1 makes tokens of the prompt and the text less likely, below 1 more; above 0."""
    frequency_penalty: float = knob(
        0.0,
        penalize_frequency,
        "from -1e30 to 1e30; 0 is none",
        lambda x: abs(x) <= 1e30,
        "new_texts",
    )
    """Subtracted from a logit for each time the token was written; -1e30 to 1e30."""
    presence_penalty: float = knob(
        0.0,
        penalize_presence,
        "from -1e30 to 1e30; 0 is none",
        lambda x: abs(x) <= 1e30,
        "new_texts",
    )
    """Subtracted from a logit once if the token was written at all; -1e30 to 1e30."""
    temperature: float = knob(
        1.0, apply_temperature, "at least 0 and finite; 0 is greedy", lambda x: 0 <= x < math.inf
    )
    """Divides the logits, 0 or more: below 1 the likely gets likelier; 0 takes the best token."""
    top_k: int | None = knob(
        None, keep_top_k, "at least 1, or None to keep all", lambda k: k is None or k >= 1
    )
    """Keep so many of the likeliest tokens, 1 or more; None keeps all."""
    top_p: float = knob(1.0, keep_top_p, "above 0 and at most 1; 1 keeps all", lambda p: 0 < p <= 1)
    """Keep the fewest likeliest tokens that sum to at least this, above 0 up to 1."""
    min_p: float = knob(0.0, keep_min_p, "from 0 to 1; 0 keeps all", lambda p: 0 <= p <= 1)
    """Keep tokens with at least this share of the best one's probability, 0 to 1."""

    def __post_init__(self) -> None:
        knobs = {each.name: (each.metadata, getattr(self, each.name)) for each in fields(self)}
        check_fields(
            self, {name: (how["rule"], how["holds"](x)) for name, (how, x) in knobs.items()}
        )


def count_tokens(texts: Iterable[Sequence[int]], vocab_size: int) -> Tensor:
    """Count how often each token stands in each text: shape (B, V).

    Example:
        >>> count_tokens([[1, 1, 3], []], vocab_size=4).tolist()
        [[0, 2, 0, 1], [0, 0, 0, 0]]
    """
    rows = (torch.tensor(text, dtype=torch.int64) for text in texts)
    return torch.stack([row.bincount(minlength=vocab_size) for row in rows])  # (B, V)


def stages(
    logits: Tensor,
    sampling: Sampling,
    texts: Sequence[Sequence[int]] = (),
    new_texts: Sequence[Sequence[int]] = (),
) -> dict[str, Tensor]:
    """Turn all knobs one after the other, and keep what each of them leaves.

    Args:
        logits: Shape (B, V); without penalties also (..., V).
        sampling: The knobs.
        texts: All tokens of each row, for the repetition penalty.
        new_texts: The same without the prompts, for the frequency and the presence penalty.

    Returns:
        The logits as they came, under "logits", and after each knob, under its field's name.

    Example:
        >>> cut = stages(torch.tensor([3.0, 2.0, 1.0]), Sampling(temperature=0.5, top_k=2))
        >>> cut["temperature"].tolist(), cut["top_k"].tolist()
        ([6.0, 4.0, 2.0], [6.0, 4.0, -inf])
    """
    countable = {"texts": texts, "new_texts": new_texts}
    steps = {"logits": logits}
    for each in fields(sampling):
        value, turn = getattr(sampling, each.name), each.metadata["turn"]
        if value != each.default:
            if counted := each.metadata["counts"]:
                counts = count_tokens(countable[counted], logits.size(-1))
                logits = turn(logits, value, counts.to(logits.device))
            else:
                logits = turn(logits, value)
        steps[each.name] = logits
    return steps


class KeyValueCache:
    """Keep the keys and values of all tokens read so far, so that each is computed only once.

    The memory is taken once. The rows are aligned at their ends: a row shorter than the longest
    one begins at a later slot.

    Args:
        model: Its sizes, device and precision are the cache's.
        batch_size: Number of rows, B.
        capacity: Slots per row; no more are taken than the context is long.

    Attributes:
        keys: One tensor per layer, shape (B, H, capacity, D).
        values: The same for the values.
        length: How many slots are filled.
        starts: The first slot of each row that holds a token of it, shape (B,).
        is_padded: Whether a row begins later than slot 0.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=10, n_layer=2, n_head=2, n_embd=8))
        >>> cache = KeyValueCache(model, 1, capacity=16)
        >>> cache.keys[0].shape, cache.nbytes
        (torch.Size([1, 2, 16, 4]), 2048)
    """

    def __init__(self, model: GPT, batch_size: int, capacity: int) -> None:
        config, weight = model.config, model.ln_f.weight
        self.capacity = min(capacity, config.context_length)
        shape = (batch_size, config.n_head, self.capacity, config.n_embd // config.n_head)
        self.keys = [weight.new_empty(shape) for _ in model.blocks]
        self.values = [weight.new_empty(shape) for _ in model.blocks]
        self.starts = torch.zeros(batch_size, dtype=torch.int64, device=weight.device)  # (B,)
        self.is_padded, self.length = False, 0

    @property
    def nbytes(self) -> int:
        """The memory of all keys and values, filled or not, in bytes: 2 B L C capacity values."""
        return sum(part.nbytes for part in (*self.keys, *self.values))

    def mix(self, layer: int, mask: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep one layer's new keys and values; let the queries look at all, old and new.

        q, k and v have shape (B, H, T, D); so has the result.
        """
        end = self.length + k.size(2)
        keys, values = self.keys[layer][:, :, :end], self.values[layer][:, :, :end]  # (B, H, S, D)
        keys[:, :, self.length :] = k  # views of the cache's own memory: nothing else is copied
        values[:, :, self.length :] = v
        # The kernel's causal rule aligns at slot 0; one query at the end looks at all anyway.
        is_causal = mask is None and q.size(2) > 1
        return F.scaled_dot_product_attention(q, keys, values, mask, is_causal=is_causal)

    def reorder(self, rows: Sequence[int]) -> None:
        """Make row i a copy of what is now row `rows[i]`; rows may be left out or repeated."""
        index = torch.tensor(rows, device=self.starts.device)
        self.keys = [part.index_select(0, index) for part in self.keys]
        self.values = [part.index_select(0, index) for part in self.values]
        # is_padded may stay true after its rows have left: that costs a mask and no more.
        self.starts = self.starts[index]


def allowed_keys(cache: KeyValueCache, n_new: int) -> Tensor:
    """Say which slots each of `n_new` new tokens may look at: booleans (B, 1, T, S)."""
    slots = torch.arange(cache.length + n_new, device=cache.starts.device)  # (S,)
    queries = slots[cache.length :, None]  # (T, 1)
    mask = (slots <= queries) & (slots >= cache.starts[:, None, None, None])  # (B, 1, T, S)
    return mask | (slots == queries)  # padding looks at itself: softmax needs something to sum


@torch.no_grad()
def read_new(model: GPT, tokens: Tensor, cache: KeyValueCache) -> Tensor:
    """Pass new tokens (B, T) through the blocks: the stream (B, T, C), before `model.unembed`.

    What came before them is read from the cache, which holds the new ones as well afterwards.

    Raises:
        ValueError: If the cache has too few free slots.
    """
    n_new, n_free = tokens.size(1), cache.capacity - cache.length
    if n_new > n_free:
        raise ValueError(f"{n_new} new tokens don't fit into {n_free} slots; make the cache larger")
    slots = torch.arange(cache.length, cache.length + n_new, device=tokens.device)  # (T,)
    # Positions count from each row's own first token; padding before it gets position 0.
    positions = (slots - cache.starts[:, None]).clamp(min=0)  # (B, T)
    # A single token looks at all slots, and in an empty cache the kernel's causal rule is enough.
    needs_mask = cache.is_padded or (n_new > 1 and cache.length > 0)
    mask = allowed_keys(cache, n_new) if needs_mask else None
    mixes = [partial(cache.mix, layer, mask) for layer in range(len(model.blocks))]
    x = model.stream(tokens, mixes, positions)  # (B, T, C)
    cache.length += n_new  # only now: all layers wrote behind the same length
    return x


@torch.no_grad()
def extend(model: GPT, tokens: Tensor, cache: KeyValueCache) -> Tensor:
    """Read any number of new tokens (B, T) and predict what follows each: logits (B, T, V).

    However a sequence is split into calls, the logits are those of `model(tokens)`.
    """
    return model.unembed(read_new(model, tokens, cache))


@torch.no_grad()
def prefill(model: GPT, prompts: Sequence[Sequence[int]], cache: KeyValueCache) -> Tensor:
    """Read whole prompts in one pass, and score what follows each of them: logits (B, V).

    Shorter rows are padded on the left. What the cache held is forgotten.
    """
    longest = max(map(len, prompts))
    starts = [longest - len(prompt) for prompt in prompts]
    cache.starts = torch.tensor(starts, device=cache.starts.device)  # (B,)
    cache.is_padded, cache.length = any(starts), 0
    # Rows end together, so the last column scores them all, and a new token takes one slot.
    padded = [[0] * start + list(prompt) for start, prompt in zip(starts, prompts, strict=True)]
    x = read_new(model, torch.tensor(padded, device=cache.starts.device), cache)  # (B, T, C)
    return model.unembed(x[:, -1:])[:, 0]  # (B, V)


@torch.no_grad()
def decode_step(model: GPT, tokens: Tensor, cache: KeyValueCache) -> Tensor:
    """Read one more token per row, shape (B,), and score what follows each: logits (B, V)."""
    return model.unembed(read_new(model, tokens[:, None], cache))[:, 0]  # (B, V)


Step = Callable[[Tensor, KeyValueCache], Tensor]
"""Read one more token per row, (B,), into the cache; return the next token's logits, (B, V).

One with a method `write_batch` chooses the tokens too, in the place of the function below.
"""


def window_start(n_tokens: int, context_length: int) -> int:
    """Say which tokens the model still sees when a text outgrows its context.

    The window moves by a quarter of the context at a time. GPT-2's positions are absolute, so
    each move gives every token another position and all must be read anew; moving by one token
    would do that for each new token.

    Returns:
        The index of the first token it sees: 0 while the text fits. From there to the end are
        at most `context_length` tokens and more than three quarters of it.

    Example:
        >>> [window_start(n, 8) for n in (1, 8, 9, 10, 11)]
        [0, 0, 2, 2, 4]
    """
    quarter = max(1, context_length // 4)
    excess = max(0, n_tokens - context_length)
    return math.ceil(excess / quarter) * quarter


def read_on(
    model: GPT, texts: Sequence[Sequence[int]], cache: KeyValueCache, step: Step | None = None
) -> Tensor:
    """Read what is new in each text: its last token, or its whole window after the window moved.

    `texts` are all tokens of each row; since the last call with this cache, which is empty at
    first, each has one more. Returns the logits of each row's next token, shape (B, V).
    """
    context_length = model.config.context_length
    starts = [window_start(len(text), context_length) for text in texts]
    before = [window_start(len(text) - 1, context_length) for text in texts]
    # Full though no window moved: the longest row has ended, and its slots are still in the cache.
    if 0 < cache.length < cache.capacity and starts == before:
        last = torch.tensor([text[-1] for text in texts], device=cache.starts.device)
        return decode_step(model, last, cache) if step is None else step(last, cache)
    windows = [text[start:] for text, start in zip(texts, starts, strict=True)]
    return prefill(model, windows, cache)


def check_prompts(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_tokens: Collection[int] = (),
) -> None:
    """Refuse what a model can't go on from, and say what to pass instead."""
    longest, vocab_size = model.config.context_length, model.config.vocab_size
    if model.training:
        raise ValueError("the model is in training mode, with dropout; call model.eval() first")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 0")
    if not prompts:
        raise ValueError("there are 0 prompts; pass at least 1")
    for row, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= longest:
            few = f"pass 1, such as end-of-text, to {longest}, the context"
            raise ValueError(f"prompt {row} has {len(prompt)} tokens; {few}")
    for token in chain(end_tokens, *prompts):
        if not 0 <= token < vocab_size:
            raise ValueError(f"token id {token} is outside 0..{vocab_size - 1}, the model's ids")


def not_finite(text: Sequence[int]) -> FloatingPointError:
    """Make the error for logits that are nan or infinite, after the tokens of a text."""
    return FloatingPointError(
        f"the logits after {len(text)} tokens, the last of them {text[-1]}, are not all finite; "
        "check the weights for nan and infinity, or use float32"
    )


def next_tokens(
    logits: Tensor,
    texts: Sequence[Sequence[int]],
    new_texts: Sequence[Sequence[int]],
    sampling: Sampling,
    generators: Sequence[torch.Generator | None],
) -> list[int]:
    """Choose the next token of each row.

    Args:
        logits: What the model says, shape (B, V).
        texts: All tokens of each row, prompts included.
        new_texts: The tokens without the prompts.
        sampling: The knobs.
        generators: Each row's own; nothing is taken from them with temperature 0.

    Raises:
        FloatingPointError: If a row's highest logit is nan or infinite.
    """
    logits = logits.float()
    # amax shows nan and +∞, and lets the -∞ of an end token that is barred pass.
    is_finite = logits.amax(dim=-1).isfinite()  # (B,)
    logits = [*stages(logits, sampling, texts, new_texts).values()][-1]
    if sampling.temperature == 0:
        # The one token left: drawing it would use up a random number.
        chosen = logits.argmax(dim=-1)  # (B,)
    else:
        uniform = torch.stack([torch.rand((), generator=source) for source in generators])
        chosen = draw(logits, uniform.to(logits.device))  # (B,)
    tokens: list[int] = chosen.where(is_finite, -1).tolist()  # the one wait for a GPU
    if -1 in tokens:
        raise not_finite(texts[tokens.index(-1)])
    return tokens


def write_batch(
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
    """Write token by token, as `generate_batch` says, which checks what comes in."""
    texts = [list(prompt) for prompt in prompts]
    new_texts: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(texts)))  # those still writing
    cache = KeyValueCache(model, len(texts), max(map(len, texts)) + max_new_tokens)
    for length in range(max_new_tokens):
        active, new = [texts[row] for row in rows], [new_texts[row] for row in rows]
        sources = [generators[row] for row in rows]
        with torch.inference_mode():  # left again before the caller gets its tokens
            if length == 0:
                logits = prefill(model, active, cache)  # (B, V)
            else:
                logits = read_on(model, active, cache, step)
            if length < min_new_tokens:
                logits[:, end_tokens] = -math.inf
            tokens = next_tokens(logits, active, new, sampling, sources)
        written: list[int | None] = [None] * len(texts)
        going = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            texts[row].append(token)
            new_texts[row].append(token)
            written[row] = token
            if token not in end_tokens and not (stop and stop(new_texts[row])):
                going.append(place)
        if 0 < len(going) < len(rows):
            cache.reorder(going)  # a row that has ended leaves the batch
        rows = [rows[place] for place in going]
        yield written
        if not rows:
            return


def generate_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling | None = None,
    *,
    min_new_tokens: int = 0,
    end_tokens: Collection[int] = (),
    stop: Callable[[Sequence[int]], bool] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    step: Step | None = None,
) -> Generator[list[int | None], None, None]:
    """Go on from several prompts at once: each weight is read once for all of them.

    Every row gets the tokens it would get alone (up to rounding: two tokens that are equally
    likely to seven digits may change places). A text longer than the context goes on with the
    part of it that `window_start` leaves.

    Args:
        model: The model, in evaluation mode; gradients play no part.
        prompts: Token ids of each row, 1 to the context length of them; lengths may differ.
        max_new_tokens: The most tokens to write per row.
        sampling: The knobs; `Sampling()`, the model's own distribution, if None.
        min_new_tokens: End tokens can't be drawn before so many tokens are written.
        end_tokens: Each of these ends its row and is the row's last token.
        stop: Asked after each token with the row's new tokens; True ends the row.
        generators: One source of randomness per row, on the CPU; each token but greedy ones takes
            one number from it, so a seed gives the same text on every device and in every
            batch. None draws from PyTorch's global generator, in the order of the rows.
        step: Reads one more token in the place of `decode_step`, a faster one for example.

    Returns:
        A generator of steps: the next token of each row, None for a row that has ended.

    Raises:
        ValueError: At the call, if a number lies outside its range, a prompt is empty, too long
            or holds unknown ids, or the model is in training mode.
        FloatingPointError: While writing, if logits are not finite.
    """
    if any(isinstance(prompt, str) for prompt in prompts):
        raise ValueError("a prompt is a string; pass token ids, as tokenizer.encode gives them")
    rows, ends = [[int(t) for t in prompt] for prompt in prompts], [int(t) for t in end_tokens]
    check_prompts(model, rows, max_new_tokens, ends)
    if not 0 <= min_new_tokens <= max_new_tokens:
        raise ValueError(f"min_new_tokens is {min_new_tokens}; choose from 0 to {max_new_tokens}")
    sources = [None] * len(rows) if generators is None else generators
    if len(sources) != len(rows):
        raise ValueError(f"{len(sources)} generators for {len(rows)} prompts; pass one for each")
    write = getattr(step, "write_batch", write_batch)  # a step may choose the tokens itself
    return write(
        model,
        rows,
        max_new_tokens,
        sampling or Sampling(),
        min_new_tokens,
        ends,
        stop,
        sources,
        step,
    )


def generate(
    model: GPT,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling | None = None,
    *,
    min_new_tokens: int = 0,
    end_tokens: Collection[int] = (),
    stop: Callable[[Sequence[int]], bool] | None = None,
    generator: torch.Generator | None = None,
    step: Step | None = None,
) -> Generator[int, None, None]:
    """Go on from one prompt, token by token, while you ask for the next one.

    The arguments are those of `generate_batch`; leaving the loop stops the work.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> config = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
        >>> model = GPT(config, torch.Generator().manual_seed(0)).eval()
        >>> stop_at_two = lambda new_tokens: len(new_tokens) == 2
        >>> len(list(generate(model, [1, 2, 3], 50, stop=stop_at_two)))
        2
    """
    steps = generate_batch(
        model,
        [prompt],
        max_new_tokens,
        sampling,
        min_new_tokens=min_new_tokens,
        end_tokens=end_tokens,
        stop=stop,
        generators=None if generator is None else [generator],
        step=step,
    )
    return (token for written in steps for token in written if token is not None)


def stream_text(
    tokens: Iterable[int],
    tokenizer: Tokenizer,
    stop: Sequence[str] = (),
    end_tokens: Collection[int] = (),
) -> Generator[str, None, None]:
    """Turn tokens into text as they come: no half characters, no part of a stop string.

    A character of several bytes can be cut between two tokens, and so can a stop string. What
    might be the beginning of either is held back until the next tokens decide it.

    Args:
        tokens: Token ids, taken one by one, no more of them than needed.
        tokenizer: Gives the bytes of each token.
        stop: Strings that end the text and are not shown. If several occur, the one that is
            complete first counts.
        end_tokens: Tokens that are not shown.

    Yields:
        Pieces of text, none of them empty. Half a character at the very end becomes U+FFFD.

    Example:
        >>> from gptlib.tokenizer import BPETokenizer
        >>> tokenizer = BPETokenizer([])
        >>> list(stream_text(tokenizer.encode("añ EN"), tokenizer, stop=["END"]))
        ['a', 'ñ', ' ', 'EN']
    """
    decoder, held = codecs.getincrementaldecoder("utf-8")(errors="replace"), ""
    beginnings = [word[:n] for word in stop for n in range(1, len(word))]
    for token in chain(tokens, [None]):  # None: the end, when all that was held back is shown
        shown = [] if token is None or token in end_tokens else [token]
        held += decoder.decode(tokenizer.decode_bytes(shown), final=token is None)
        found = [(held.find(word) + len(word), held.find(word)) for word in stop if word in held]
        n_shown = len(held)
        if found:
            _, n_shown = min(found)  # the one that is complete first
        elif token is not None:
            # What may be the start of a stop string waits.
            n_shown -= max((len(part) for part in beginnings if held.endswith(part)), default=0)
        if n_shown:
            yield held[:n_shown]
        if found:
            return
        held = held[n_shown:]


def check_vocabulary(tokenizer: Tokenizer, model: GPT) -> None:
    """Refuse a tokenizer that has not as many tokens as the model."""
    n_known = vocabulary_size(tokenizer)
    if n_known != model.config.vocab_size:
        both = f"the tokenizer has {n_known} tokens and the model {model.config.vocab_size}"
        raise ValueError(f"{both}; pass the tokenizer that the model was trained with")


def generate_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int = 100,
    sampling: Sampling | None = None,
    *,
    stop: Sequence[str] = (),
    end_tokens: Collection[int] | None = None,
    min_new_tokens: int = 0,
    generator: torch.Generator | None = None,
    step: Step | None = None,
) -> Generator[str, None, None]:
    """Go on from a text, and hand over more text while you ask for it.

    Args:
        model: The model, in evaluation mode.
        tokenizer: The one that the model was trained with, ours or tiktoken's.
        prompt: Text of at least one token and at most the context length of them. The name of a
            special token in it is plain text.
        max_new_tokens: The most tokens to write.
        sampling: The knobs; `Sampling()`, the model's own distribution, if None.
        stop: Strings that end the text, wherever the borders between tokens are; they are not
            shown. They act before `min_new_tokens` as well.
        end_tokens: Token ids that end the text and are not shown; the tokenizer's end-of-text
            token if None.
        min_new_tokens: As in `generate_batch`.
        generator: Likewise, one for the text.
        step: Likewise.

    Returns:
        A generator of pieces of text, without the prompt: whole characters, none empty. Bytes
        that are no character become U+FFFD.

    Raises:
        ValueError: At the call, if the tokenizer has not as many tokens as the model, `stop` is a
            single string or holds an empty one, and for all that `generate_batch` refuses.
    """
    check_vocabulary(tokenizer, model)
    if isinstance(stop, str) or "" in stop:
        raise ValueError(f"stop is {stop!r}; pass a list of strings that are not empty")
    ends = end_of_text(tokenizer) if end_tokens is None else frozenset(map(int, end_tokens))
    steps = generate_batch(
        model,
        [tokenizer.encode_ordinary(prompt)],
        max_new_tokens,
        sampling,
        min_new_tokens=min_new_tokens,
        end_tokens=ends,
        generators=None if generator is None else [generator],
        step=step,
    )
    tokens = (token for (token,) in steps if token is not None)  # the one row's
    return stream_text(tokens, tokenizer, stop, ends)


@torch.no_grad()
def token_losses(model: GPT, tokens: Sequence[int] | Tensor) -> Tensor:
    """Measure how much each token of a text surprises the model.

    Each is predicted from the tokens before it that `window_start` leaves, exactly as `generate`
    sees them, however long the text is.

    Returns:
        The losses of all tokens but the first, shape (n - 1,), in nats per token; their mean is
        what `perplexity` takes.

    Raises:
        ValueError: If there are fewer than 2 tokens, an id is unknown, or the model is in training
            mode.
    """
    text = torch.as_tensor(tokens, dtype=torch.int64, device=model.ln_f.weight.device)  # (n,)
    check_stream(text, 1)
    # All ids go in as end tokens, because a prompt may be no longer than the context.
    check_prompts(model, [text.tolist()[:1]], 0, text.tolist())
    length, losses, done = model.config.context_length, [], 1
    while done < len(text):  # all tokens that are predicted from the same window, in one pass
        start = window_start(done, length)
        end = min(len(text) - 1, start + length)
        logits = model(text[None, start:end])[0, done - 1 - start :]  # (end - done + 1, V)
        losses.append(F.cross_entropy(logits.float(), text[done : end + 1], reduction="none"))
        done = end + 1
    return torch.cat(losses)  # (n - 1,)


@dataclass(frozen=True)
class Beam:
    """Hold one of the texts that a beam search finds."""

    tokens: tuple[int, ...]
    """The new tokens, an end token included."""
    score: float
    """The sum of their log-probabilities in nats, divided by (their number) ** length_penalty."""


def grow_beams(logits: Tensor, scores: Tensor, n_best: int) -> list[tuple[float, int, int]]:
    """Find the best ways to lengthen any of the beams by one token.

    From each beam's next logits, shape (B, V), and the sum of its log-probabilities so far, shape
    (B,), to `n_best` triples, best first: the new sum, the beam that is lengthened, the token.

    Example:
        >>> logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
        >>> best, second = grow_beams(logits, torch.tensor([0.4, 0.6]).log(), 2)
        >>> round(math.exp(best[0]), 2), best[1:]
        (0.36, (0, 0))
    """
    totals = (scores[:, None] + logits.float().log_softmax(dim=-1)).flatten()  # (B · V,)
    best = totals.topk(min(n_best, totals.numel()))
    rows, tokens = best.indices // logits.size(-1), best.indices % logits.size(-1)
    return list(zip(best.values.tolist(), rows.tolist(), tokens.tolist(), strict=True))


@torch.inference_mode()
def beam_search(
    model: GPT,
    prompt: Sequence[int],
    n_beams: int,
    max_new_tokens: int,
    *,
    length_penalty: float = 1.0,
    end_token: int | None = None,
    step: Step | None = None,
) -> list[Beam]:
    """Look for likely texts by keeping the best few beginnings at each length.

    The search ends when no beginning, at its present length, could beat the worst finished text.

    Args:
        model: The model, in evaluation mode.
        prompt: Token ids, 1 to the context length of them.
        n_beams: How many beginnings are kept, and the most texts returned; 1 is greedy.
        max_new_tokens: The most tokens to write.
        length_penalty: The power of the length that a score is divided by: 0 compares sums, which
            favours short texts, 1 the mean per token; above 1 favours long ones.
        end_token: A token that ends a text; None lets all grow to `max_new_tokens`.
        step: Reads one more token in the place of `decode_step`, a faster one for example.

    Returns:
        The finished texts, best first.

    Raises:
        ValueError: If a number lies outside its range, the prompt is empty, too long or holds
            unknown ids, or the model is in training mode.
        FloatingPointError: If logits are not finite.

    Source:
        The scores and the rule to stop are those of transformers' `generate(num_beams=...)` with
        `early_stopping=False`.
    """
    texts = [[int(token) for token in prompt]]
    check_prompts(model, texts, max_new_tokens, [] if end_token is None else [end_token])
    if n_beams < 1 or not math.isfinite(length_penalty):
        raise ValueError(f"n_beams {n_beams} must be at least 1, {length_penalty=} finite")
    scores, finished = torch.zeros(1), [Beam((), 0.0)] if max_new_tokens == 0 else []
    cache = KeyValueCache(model, 1, len(texts[0]) + max_new_tokens)
    for length in range(1, max_new_tokens + 1):
        logits = read_on(model, texts, cache, step)  # (B, V)
        # Twice as many: each beam can end once, and n_beams must be left to go on.
        found = grow_beams(logits, scores.to(logits.device), 2 * n_beams)
        if not math.isfinite(found[0][0]):
            raise not_finite(texts[0])
        # An end counts only if it is among the n_beams best, as in transformers.
        for score, row, token in found[:n_beams]:
            if token == end_token or length == max_new_tokens:
                tokens = (*texts[row][len(prompt) :], token)
                finished.append(Beam(tokens, score / length**length_penalty))
        finished = sorted(finished, key=lambda beam: -beam.score)[:n_beams]
        going = [beam for beam in found if beam[2] != end_token][:n_beams]
        best = going[0][0] / length**length_penalty if going else -math.inf
        if len(finished) == n_beams and best <= finished[-1].score:
            break
        texts = [[*texts[row], token] for _, row, token in going]
        scores = torch.tensor([score for score, _, _ in going])  # (B,)
        cache.reorder([row for _, row, _ in going])
    return finished
