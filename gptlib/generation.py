"""How a distribution over the next token becomes text, and how that gets fast (chapter 6).

The definitions stand in teaching order. The knobs: `draw`, `apply_temperature`, `keep_top_k`,
`keep_top_p`, `keep_min_p`, `Sampling`, `penalize`, `stages`, `next_token_logits`. The cache:
`KeyValueCache`, `embed_next`, `allowed_keys`, `walk`, `extend`, `prefill`, `decode`; when the
context is full, `window_start`, `read_on`; matrices at the speed of the memory, `share_weights`,
`use_onednn`. Writing: `Bounds`, the checks, `count_tokens`, `forbid_end`, `next_tokens`,
`make_cache`, `write_batch`, `generate_batch`, `generate`. Text: `TextStream`, `end_of_text`,
`stream_text`, `generate_text`. Judging: `token_losses`. Searching: `Beam`, `grow_beams`,
`beam_search`.

Example:
    >>> sizes = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
    >>> model = GPT(sizes, torch.Generator().manual_seed(0)).eval()
    >>> seeded = torch.Generator().manual_seed(0)
    >>> tokens = list(generate(model, [1, 2, 3], 20, Sampling(top_k=5), generator=seeded))
    >>> len(tokens)
    20
"""

import codecs
import math
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlib.attention import Mix
from gptlib.gpt2 import GPT, GPTConfig
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
    total = ends[:, -1] * (1 - torch.finfo(ends.dtype).eps)  # a hair less, so that none is past it
    return torch.searchsorted(ends, (uniform * total)[:, None], right=True)[:, 0]  # (B,)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen the distribution (below 1), flatten it (above 1), or take the best token only (0).

    Args:
        logits: Shape (..., V).
        temperature: 0 or more. The limit at 0 leaves the likeliest token, the one with the lowest
            id if several are; so does a temperature too near to 0 to divide by.

    Returns:
        Logits, shape (..., V); with temperature 0 all but one are -∞.

    Example:
        >>> apply_temperature(torch.tensor([1.0, 3.0]), 0.5).tolist()
        [2.0, 6.0]
        >>> apply_temperature(torch.tensor([1.0, 3.0]), 0).tolist()
        [-inf, 3.0]
    """
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}; it must be at least 0; 0 is greedy")
    if temperature == 1:
        return logits
    if temperature > 1e-6:
        return logits / temperature
    best = logits.argmax(dim=-1, keepdim=True)  # (..., 1)
    nothing = torch.full_like(logits, -math.inf)
    return nothing.scatter(-1, best, logits.gather(-1, best))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Cut all but the k likeliest tokens.

    Args:
        logits: Shape (..., V).
        k: How many to keep, 1 to V. Tokens as likely as the last one kept stay as well.

    Returns:
        Logits, shape (..., V), -∞ for what is cut, so that a softmax renormalises the rest.

    Raises:
        ValueError: If k is below 1 or above V.

    Source:
        Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.1.

    Example:
        >>> keep_top_k(torch.tensor([1.0, 4.0, 3.0, 2.0]), 2).tolist()
        [-inf, 4.0, 3.0, -inf]
    """
    if not 1 <= k <= logits.size(-1):
        raise ValueError(f"top_k is {k}; keep 1 to {logits.size(-1)} tokens, or None for all")
    last = logits.topk(k, dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < last, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities sum to at least p, and cut the tail.

    Args:
        logits: Shape (..., V).
        p: Above 0 and at most 1. The likeliest token always stays; so do tokens as likely as the
            last one kept.

    Returns:
        Logits, shape (..., V), -∞ for what is cut.

    Source:
        Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.

    Example:
        >>> keep_top_p(torch.tensor([2.0, 1.0, 0.0]), 0.9).tolist()  # 0.67, 0.24, 0.09
        [2.0, 1.0, -inf]
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p is {p}; it must be above 0 and at most 1; 1 keeps all")
    if p == 1:
        return logits
    probabilities = logits.softmax(dim=-1)
    n = min(1000, logits.size(-1))  # nearly always enough, and ten times as fast as sorting all
    ordered = probabilities.topk(n, dim=-1).values  # (..., n)
    if bool((ordered.sum(dim=-1) < p).any()):
        ordered = probabilities.sort(dim=-1, descending=True).values  # (..., V)
    before = ordered.cumsum(dim=-1) - ordered  # what the likelier tokens sum to
    n_cut = (before >= p).sum(dim=-1, keepdim=True)  # (..., 1)
    last = ordered.gather(-1, ordered.size(-1) - 1 - n_cut)
    return logits.masked_fill(probabilities < last, -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens with at least p times the probability of the best: few where it is sure.

    Args:
        logits: Shape (..., V).
        p: The share, 0 to 1; 0 keeps all.

    Returns:
        Logits, shape (..., V), -∞ for what is cut.

    Source:
        Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling", section 3.

    Example:
        >>> keep_min_p(torch.tensor([2.0, 1.0, 0.0]), 0.3).tolist()  # 0.67, 0.24, 0.09
        [2.0, 1.0, -inf]
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p is {p}; it must be from 0 to 1; 0 keeps all")
    if p == 0:
        return logits
    least = logits.amax(dim=-1, keepdim=True) + math.log(p)  # a factor p is a difference of log p
    return logits.masked_fill(logits < least, -math.inf)


@dataclass(frozen=True)
class Sampling:
    """Choose how the next token is drawn; the defaults change nothing.

    Raises:
        ValueError: If a number lies outside its range; the message says which.

    Source:
        top-k, Fan et al. 2018, section 5.1; top-p, Holtzman et al. 2020, section 3.1; min-p,
        Nguyen et al. 2024; repetition penalty, Keskar et al. 2019 (CTRL), section 4.1; frequency
        and presence penalty, OpenAI's API reference.

    Example:
        >>> Sampling(temperature=0.8, top_k=40).top_p
        1.0
    """

    temperature: float = 1.0
    """Divides the logits, 0 or more: below 1 the likely gets likelier; 0 takes the best token."""
    top_k: int | None = None
    """Keep so many of the likeliest tokens, 1 to V; None keeps all."""
    top_p: float = 1.0
    """Keep the fewest likeliest tokens that sum to at least this, above 0 up to 1."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the best one's probability, 0 to 1."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens of the prompt and the text less likely, below 1 more; above 0."""
    frequency_penalty: float = 0.0
    """Subtracted from a logit for each time the token was written; any number."""
    presence_penalty: float = 0.0
    """Subtracted from a logit once if the token was written at all; any number."""

    def __post_init__(self) -> None:
        """Refuse a knob that is turned too far."""
        rules = {
            "temperature": ("at least 0; 0 is greedy", 0 <= self.temperature < math.inf),
            "top_k": ("at least 1, or None to keep all", self.top_k is None or self.top_k >= 1),
            "top_p": ("above 0 and at most 1; 1 keeps all", 0 < self.top_p <= 1),
            "min_p": ("from 0 to 1; 0 keeps all", 0 <= self.min_p <= 1),
            "repetition_penalty": ("above 0; 1 is none", 0 < self.repetition_penalty < math.inf),
            "frequency_penalty": ("finite; 0 is none", math.isfinite(self.frequency_penalty)),
            "presence_penalty": ("finite; 0 is none", math.isfinite(self.presence_penalty)),
        }
        for name, (rule, holds) in rules.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {rule}")


def penalize(
    logits: Tensor, seen_counts: Tensor | None, new_counts: Tensor | None, sampling: Sampling
) -> Tensor:
    """Make tokens that were there already less likely, so that a text doesn't go in circles.

    Args:
        logits: Shape (..., V).
        seen_counts: How often each token stands in the prompt and the text, shape (..., V), for
            the repetition penalty; None if nothing was seen.
        new_counts: The same for the text without the prompt, for the other two penalties.
        sampling: The three penalties.

    Returns:
        Logits, shape (..., V). The repetition penalty divides a seen token's logit if it is
        positive and multiplies it if it is negative: both make it smaller. The frequency penalty
        is subtracted for each time, the presence penalty once.

    Example:
        >>> logits, counts = torch.tensor([2.0, -2.0, 1.0]), torch.tensor([1, 3, 0])
        >>> penalize(logits, counts, None, Sampling(repetition_penalty=2.0)).tolist()
        [1.0, -4.0, 1.0]
        >>> penalize(logits, None, counts, Sampling(frequency_penalty=0.5)).tolist()
        [1.5, -3.5, 1.0]
    """
    repetition = sampling.repetition_penalty
    if seen_counts is not None and repetition != 1:
        smaller = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(seen_counts > 0, smaller, logits)
    if new_counts is not None and (sampling.frequency_penalty or sampling.presence_penalty):
        logits = logits - sampling.frequency_penalty * new_counts
        logits = logits - sampling.presence_penalty * (new_counts > 0)
    return logits


def stages(
    logits: Tensor,
    sampling: Sampling,
    seen_counts: Tensor | None = None,
    new_counts: Tensor | None = None,
) -> dict[str, Tensor]:
    """Turn all knobs one after the other, and keep what each of them leaves.

    Args:
        logits: Shape (..., V).
        sampling: The knobs.
        seen_counts: For the repetition penalty, see `penalize`.
        new_counts: For the frequency and presence penalty.

    Returns:
        The logits as they came and after each step, shape (..., V): "logits", "penalties",
        "temperature", "top-k", "top-p", "min-p", in the order in which they are applied.

    Raises:
        ValueError: If `top_k` is above V.

    Example:
        >>> cut = stages(torch.tensor([3.0, 2.0, 1.0]), Sampling(temperature=0.5, top_k=2))
        >>> cut["temperature"].tolist(), cut["top-k"].tolist()
        ([6.0, 4.0, 2.0], [6.0, 4.0, -inf])
    """
    steps = {"logits": logits}
    steps["penalties"] = logits = penalize(logits, seen_counts, new_counts, sampling)
    steps["temperature"] = logits = apply_temperature(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    steps["top-k"] = logits
    steps["top-p"] = logits = keep_top_p(logits, sampling.top_p)
    steps["min-p"] = keep_min_p(logits, sampling.min_p)
    return steps


def next_token_logits(
    logits: Tensor,
    sampling: Sampling,
    seen_counts: Tensor | None = None,
    new_counts: Tensor | None = None,
) -> Tensor:
    """Turn all knobs: penalties, temperature, top-k, top-p, min-p, in this order.

    Args:
        logits: Shape (..., V).
        sampling: The knobs.
        seen_counts: For the repetition penalty, see `penalize`.
        new_counts: For the frequency and presence penalty.

    Returns:
        Logits, shape (..., V), the last of the `stages`.

    Raises:
        ValueError: If `top_k` is above V.

    Example:
        >>> next_token_logits(torch.tensor([3.0, 2.0, 1.0]), Sampling(temperature=0)).tolist()
        [3.0, -inf, -inf]
    """
    return stages(logits, sampling, seen_counts, new_counts)["min-p"]


class KeyValueCache:
    """Keep the keys and values of all tokens read so far, so that each is computed only once.

    The memory is taken once, for `capacity` tokens per row. The rows are aligned at their ends:
    a row shorter than the longest one begins at a later slot.

    Args:
        config: The model's configuration.
        batch_size: Number of rows, B.
        capacity: Slots per row, 1 to the context length.
        device: Where the memory is taken.
        dtype: The type of the model's activations.

    Attributes:
        keys: One tensor per layer, shape (B, H, capacity, D).
        values: The same for the values.
        length: How many slots are filled.
        starts: The first slot of each row that holds a token of it, shape (B,).
        is_padded: Whether a row begins later than slot 0.

    Raises:
        ValueError: If a number lies outside its range.

    Example:
        >>> cache = KeyValueCache(GPTConfig(n_layer=2, n_head=2, n_embd=8), 1, capacity=16)
        >>> cache.keys[0].shape, cache.nbytes
        (torch.Size([1, 2, 16, 4]), 2048)
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        capacity: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch_size < 1 or not 1 <= capacity <= config.context_length:
            raise ValueError(
                f"batch_size is {batch_size} and capacity {capacity}; choose at least 1 row and "
                f"from 1 to {config.context_length} slots, the context length"
            )
        shape = (batch_size, config.n_head, capacity, config.head_size)
        layers = range(config.n_layer)
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in layers]
        self.capacity = capacity
        self.align([0] * batch_size)

    @property
    def nbytes(self) -> int:
        """The memory of all keys and values, filled or not, in bytes: 2 B L C capacity values."""
        return sum(part.nbytes for part in (*self.keys, *self.values))

    def align(self, lengths: Sequence[int]) -> None:
        """Forget everything and get ready for rows of these lengths, in tokens."""
        starts = [max(lengths) - length for length in lengths]
        self.starts = torch.tensor(starts, device=self.keys[0].device)  # (B,)
        self.is_padded, self.length = any(starts), 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values; return all of its filled slots, without a copy."""
        end = self.length + k.size(2)
        keys, values = self.keys[layer][:, :, :end], self.values[layer][:, :, :end]  # (B, H, S, D)
        keys[:, :, self.length :] = k
        values[:, :, self.length :] = v
        return keys, values

    def mix(self, layer: int, mask: Tensor | None) -> Mix:
        """Let one layer's new queries look at all keys so far, its own included."""

        def look_back(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.append(layer, k, v)  # each (B, H, S, D)
            is_causal = mask is None and q.size(-2) > 1  # only with an empty cache
            return F.scaled_dot_product_attention(q, keys, values, mask, is_causal=is_causal)

        return look_back

    def reorder(self, rows: Sequence[int]) -> None:
        """Make row i a copy of what is now row `rows[i]`; rows may be left out or repeated."""
        index = torch.tensor(rows, device=self.starts.device)
        self.keys = [part.index_select(0, index) for part in self.keys]
        self.values = [part.index_select(0, index) for part in self.values]
        self.starts = self.starts[index]


def allowed_keys(cache: KeyValueCache, n_new: int) -> Tensor | None:
    """Say which slots each new token may look at, if that needs saying.

    Args:
        cache: What is filled, and where each row begins.
        n_new: New tokens per row, T.

    Returns:
        None where no mask is needed: a single new token looks at everything, and with an empty
        cache the kernel's own causal rule is enough. Else booleans that broadcast to
        (B, H, T, S): not what comes later, not the padding before a row. A padding position
        may look at itself, because a softmax over nothing is no number.
    """
    if not cache.is_padded and (n_new == 1 or cache.length == 0):
        return None
    slots = torch.arange(cache.length + n_new, device=cache.starts.device)  # (S,)
    queries = slots[cache.length :, None]  # (T, 1)
    mask = slots <= queries  # (T, S)
    if cache.is_padded:
        mask = mask & (slots >= cache.starts[:, None, None, None])  # (B, 1, T, S)
        mask = mask | (slots == queries)
    return mask


@torch.no_grad()
def read_new(model: GPT, tokens: Tensor, cache: KeyValueCache) -> Tensor:
    """Pass new tokens through the blocks; what came before them is read from the cache.

    Args:
        model: The model, in evaluation mode.
        tokens: The new token ids, shape (B, T).
        cache: What was read before; it holds the new tokens as well afterwards.

    Returns:
        The stream after the last block, shape (B, T, C), before `model.unembed`.

    Raises:
        ValueError: If the cache has too few free slots.
    """
    n_new = tokens.size(1)
    if cache.length + n_new > cache.capacity:
        raise ValueError(
            f"{n_new} new tokens don't fit: {cache.length} of the cache's {cache.capacity} slots "
            "are filled; make it larger, or prefill it anew with the last tokens"
        )
    slots = torch.arange(cache.length, cache.length + n_new, device=tokens.device)  # (T,)
    # Positions count from each row's own first token; padding before it gets position 0.
    positions = (slots - cache.starts[:, None]).clamp(min=0) if cache.is_padded else slots
    mask = allowed_keys(cache, n_new)
    mixes = [cache.mix(layer, mask) for layer in range(len(model.blocks))]
    x = model.stream(model.embed(tokens, positions), mixes)  # (B, T, C)
    cache.length += n_new
    return x


@torch.no_grad()
def extend(model: GPT, tokens: Tensor, cache: KeyValueCache) -> Tensor:
    """Read any number of new tokens and predict what follows each.

    However a sequence is split into calls, the logits are those of `model(tokens)`.

    Args:
        model: The model, in evaluation mode.
        tokens: The new token ids, shape (B, T).
        cache: What was read before; it holds the new tokens as well afterwards.

    Returns:
        Logits, shape (B, T, V).

    Raises:
        ValueError: If the cache has too few free slots.

    Example:
        >>> config = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
        >>> model, tokens = GPT(config).eval(), torch.tensor([[1, 2, 3, 4]])
        >>> cache = KeyValueCache(config, batch_size=1, capacity=8)
        >>> first, rest = extend(model, tokens[:, :3], cache), extend(model, tokens[:, 3:], cache)
        >>> torch.allclose(torch.cat((first, rest), dim=1), model(tokens), atol=1e-6)
        True
    """
    return model.unembed(read_new(model, tokens, cache))


@torch.no_grad()
def prefill(model: GPT, prompts: Sequence[Sequence[int]], cache: KeyValueCache) -> Tensor:
    """Read whole prompts in one pass; only their last positions are turned into logits.

    Args:
        model: The model, in evaluation mode.
        prompts: Token ids of each row; the lengths may differ.
        cache: Where the keys and values go; what it held is forgotten.

    Returns:
        The logits of each row's next token, shape (B, V).

    Raises:
        ValueError: If a prompt is longer than the cache.
    """
    longest = max(map(len, prompts))
    cache.align([len(prompt) for prompt in prompts])
    padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    x = read_new(model, torch.tensor(padded, device=cache.starts.device), cache)  # (B, T, C)
    return model.unembed(x[:, -1:])[:, 0]  # (B, V)


@torch.no_grad()
def decode_step(model: GPT, tokens: Tensor, cache: KeyValueCache) -> Tensor:
    """Read one more token per row, shape (B,), and score what follows each: logits (B, V)."""
    return model.unembed(read_new(model, tokens[:, None], cache))[:, 0]  # (B, V)


Step = Callable[[Tensor, KeyValueCache], Tensor]
"""Read one more token per row, (B,), into the cache; return the next token's logits, (B, V)."""


def window_start(n_tokens: int, context_length: int) -> int:
    """Say which tokens the model still sees when a text outgrows its context.

    The window moves by a quarter of the context at a time. GPT-2's positions are absolute, so
    each move gives every token another position and all must be read anew; moving by one token
    would do that for each new token.

    Args:
        n_tokens: Length of the text.
        context_length: The most that the model can see.

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
    model: GPT,
    texts: Sequence[Sequence[int]],
    cache: KeyValueCache,
    step: Step | None = None,
) -> Tensor:
    """Read what is new in each text: its last token, or its whole window after the window moved.

    Args:
        model: The model, in evaluation mode.
        texts: All tokens of each row; since the last call with this cache each has one more.
        cache: Empty at first.
        step: Reads one more token in the place of `decode_step`.

    Returns:
        The logits of each row's next token, shape (B, V).
    """
    context_length = model.config.context_length
    starts = [window_start(len(text), context_length) for text in texts]
    before = [window_start(len(text) - 1, context_length) for text in texts]
    if 0 < cache.length < cache.capacity and starts == before:
        last = torch.tensor([text[-1] for text in texts], device=cache.starts.device)
        return decode_step(model, last, cache) if step is None else step(last, cache)
    windows = [text[start:] for text, start in zip(texts, starts, strict=True)]
    return prefill(model, windows, cache)


@dataclass(frozen=True)
class Bounds:
    """Say how long a text gets and what ends it.

    Raises:
        ValueError: If a length is below 0, or the least is above the most.

    Example:
        >>> Bounds(max_new_tokens=3, end_tokens=frozenset({0})).is_end([5, 0])
        True
    """

    max_new_tokens: int
    """The most tokens to write; 0 writes nothing."""
    min_new_tokens: int = 0
    """End tokens can't be drawn before so many tokens are written."""
    end_tokens: frozenset[int] = frozenset()
    """Each of these ends the text and is its last token."""
    stop: Callable[[Sequence[int]], bool] | None = None
    """Asked after each token with all new tokens so far; True ends the text."""

    def __post_init__(self) -> None:
        """Refuse lengths that no text can have."""
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 0")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}; it must be from 0 to max_new_tokens, "
                f"{self.max_new_tokens}"
            )

    def is_end(self, new_tokens: Sequence[int]) -> bool:
        """Say whether a text ends after these new tokens, of which there is at least one."""
        return (
            len(new_tokens) >= self.max_new_tokens
            or new_tokens[-1] in self.end_tokens
            or (self.stop is not None and self.stop(new_tokens))
        )


def check_mode(model: GPT) -> None:
    """Refuse a model whose dropout is on.

    Args:
        model: The model.

    Raises:
        ValueError: If it is in training mode.
    """
    if model.training:
        raise ValueError(
            "the model is in training mode, in which dropout disturbs it; call model.eval() first"
        )


def check_ids(tokens: Iterable[int], vocab_size: int) -> None:
    """Refuse tokens that the model has no vector for.

    Args:
        tokens: Token ids.
        vocab_size: They must lie in 0..vocab_size - 1.

    Raises:
        ValueError: If one does not.
    """
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"token id {token} is outside 0..{vocab_size - 1}; "
                "encode the text with the tokenizer that the model was made for"
            )


def check_prompts(prompts: Sequence[Sequence[int]], config: GPTConfig) -> None:
    """Refuse what a model can't go on from, and say what to pass instead.

    Args:
        prompts: Token ids of each row, 1 to the context length of them.
        config: The model's configuration.

    Raises:
        ValueError: If there is no prompt, or one is empty, too long or holds unknown ids.
    """
    if not prompts:
        raise ValueError("there are 0 prompts; pass at least 1")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(
                f"prompt {row} is empty; begin with at least 1 token, for example end-of-text"
            )
        if len(prompt) > config.context_length:
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens, more than the context length of "
                f"{config.context_length}; pass its last {config.context_length}, or fewer to "
                "leave room before the window moves"
            )
        check_ids(prompt, config.vocab_size)


def count_tokens(texts: Iterable[Sequence[int]], vocab_size: int) -> Tensor:
    """Count how often each token stands in each text.

    Args:
        texts: Token ids of each row, B rows.
        vocab_size: Number of different tokens, V.

    Returns:
        Counts, shape (B, V).

    Example:
        >>> count_tokens([[1, 1, 3], []], vocab_size=4).tolist()
        [[0, 2, 0, 1], [0, 0, 0, 0]]
    """
    rows = (torch.tensor(text, dtype=torch.int64) for text in texts)
    return torch.stack([row.bincount(minlength=vocab_size) for row in rows])  # (B, V)


def forbid_end(logits: Tensor, new_texts: Sequence[Sequence[int]], bounds: Bounds) -> Tensor:
    """Cut the end tokens in rows that are too short to end.

    Args:
        logits: Shape (B, V).
        new_texts: The tokens of each row without its prompt.
        bounds: The end tokens, and how many tokens must come first.

    Returns:
        Logits, shape (B, V), -∞ for what is cut.

    Example:
        >>> bounds = Bounds(max_new_tokens=9, min_new_tokens=1, end_tokens=frozenset({0}))
        >>> forbid_end(torch.zeros(2, 3), [[], [2]], bounds).tolist()
        [[-inf, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    short = [row for row, text in enumerate(new_texts) if len(text) < bounds.min_new_tokens]
    if not short or not bounds.end_tokens:
        return logits
    logits = logits.clone()
    logits[torch.tensor(short)[:, None], torch.tensor(list(bounds.end_tokens))] = -math.inf
    return logits


def not_finite(text: Sequence[int]) -> FloatingPointError:
    """Make the error for logits that are infinite or no numbers, after the tokens of a text."""
    return FloatingPointError(
        f"the logits after {len(text)} tokens, the last of them {text[-1]}, are not all finite; "
        "check the weights for nan and infinity, or use float32"
    )


def next_tokens(
    logits: Tensor,
    texts: Sequence[Sequence[int]],
    new_texts: Sequence[Sequence[int]],
    bounds: Bounds,
    sampling: Sampling,
    generators: Sequence[torch.Generator | None],
) -> list[int]:
    """Choose the next token of each row.

    Args:
        logits: The model's word on it, shape (B, V).
        texts: All tokens of each row, prompts included.
        new_texts: The tokens without the prompts.
        bounds: Which tokens end a text, and from when on they may.
        sampling: The knobs.
        generators: Each row's own source of randomness, on the CPU; nothing is taken from it
            with temperature 0.

    Returns:
        One token id per row.

    Raises:
        FloatingPointError: If logits are infinite or no numbers.
    """
    logits, seen, new = logits.float(), None, None
    is_finite = logits.amax(dim=-1).isfinite()  # (B,)
    if sampling.repetition_penalty != 1:
        seen = count_tokens(texts, logits.size(-1)).to(logits.device)
    if sampling.frequency_penalty or sampling.presence_penalty:
        new = count_tokens(new_texts, logits.size(-1)).to(logits.device)
    logits = forbid_end(logits, new_texts, bounds)
    if sampling.temperature == 0:  # the best token passes every filter
        chosen = penalize(logits, seen, new, sampling).argmax(dim=-1)  # (B,)
    else:
        uniform = torch.stack([torch.rand((), generator=source) for source in generators])
        logits = next_token_logits(logits, sampling, seen, new)
        chosen = draw(logits, uniform.to(logits.device))  # (B,)
    tokens: list[int] = chosen.where(is_finite, -1).tolist()  # the one wait for a GPU
    if -1 in tokens:
        raise not_finite(texts[tokens.index(-1)])
    return tokens


def make_cache(model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> KeyValueCache:
    """Take the memory for prompts and all that follows them, up to the context length.

    Args:
        model: Its configuration, device and type decide the cache's.
        prompts: Token ids of each row.
        max_new_tokens: The most tokens to write per row.

    Returns:
        The empty cache.
    """
    capacity = min(max(map(len, prompts)) + max_new_tokens, model.config.context_length)
    weight = model.ln_f.weight
    return KeyValueCache(model.config, len(prompts), capacity, weight.device, weight.dtype)


def write_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    bounds: Bounds,
    sampling: Sampling,
    generators: Sequence[torch.Generator | None],
    step: Step | None,
) -> Generator[list[int | None], None, None]:
    """Write token by token; `generate_batch` checks what comes in, and explains.

    Args:
        model: The model, in evaluation mode.
        prompts: Token ids of each row.
        bounds: How long the texts get and what ends them.
        sampling: The knobs.
        generators: Each row's own source of randomness.
        step: Reads one more token in the place of `decode_step`.

    Yields:
        The next token of each row, None for a row that has ended.
    """
    texts = [list(prompt) for prompt in prompts]
    new_texts: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(texts))) if bounds.max_new_tokens else []  # those still writing
    cache = make_cache(model, texts, bounds.max_new_tokens)
    while rows:
        active, new = [texts[row] for row in rows], [new_texts[row] for row in rows]
        with torch.inference_mode():  # left again before the caller gets its tokens
            logits = read_on(model, active, cache, step)  # (B, V)
            tokens = next_tokens(
                logits, active, new, bounds, sampling, [generators[row] for row in rows]
            )
        written: list[int | None] = [None] * len(texts)
        for row, token in zip(rows, tokens, strict=True):
            texts[row].append(token)
            new_texts[row].append(token)
            written[row] = token
        going = [place for place, row in enumerate(rows) if not bounds.is_end(new_texts[row])]
        if 0 < len(going) < len(rows):
            cache.reorder(going)
        rows = [rows[place] for place in going]
        yield written


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

    Example:
        >>> config = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
        >>> model = GPT(config, torch.Generator().manual_seed(0)).eval()
        >>> greedy = Sampling(temperature=0)
        >>> steps = list(generate_batch(model, [[1, 2, 3], [4]], 2, greedy))
        >>> len(steps), len(steps[0])
        (2, 2)
    """
    sampling = Sampling() if sampling is None else sampling
    rows = [[int(token) for token in prompt] for prompt in prompts]
    bounds = Bounds(max_new_tokens, min_new_tokens, frozenset(map(int, end_tokens)), stop)
    check_mode(model)
    check_prompts(rows, model.config)
    check_ids(bounds.end_tokens, model.config.vocab_size)
    if sampling.top_k is not None and sampling.top_k > model.config.vocab_size:
        raise ValueError(
            f"top_k is {sampling.top_k}, but the model knows {model.config.vocab_size} tokens; "
            "choose at most so many, or None for all"
        )
    if generators is not None and len(generators) != len(rows):
        raise ValueError(
            f"{len(generators)} generators for {len(rows)} prompts; pass one for each prompt"
        )
    return write_batch(model, rows, bounds, sampling, generators or [None] * len(rows), step)


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
    """Go on from a prompt, token by token, while you ask for the next one.

    Args:
        model: The model, in evaluation mode; gradients play no part.
        prompt: Token ids, 1 to the context length of them. The text may outgrow the context;
            the model then sees the part of it that `window_start` leaves.
        max_new_tokens: The most tokens to write.
        sampling: The knobs; `Sampling()`, the model's own distribution, if None.
        min_new_tokens: End tokens can't be drawn before so many tokens are written.
        end_tokens: Each of these ends the text and is its last token.
        stop: Asked after each token with all new tokens so far; True ends the text.
        generator: The source of randomness, on the CPU; PyTorch's global one if None.
        step: Reads one more token in the place of `decode_step`, a faster one for example.

    Returns:
        A generator of token ids; leaving the loop stops the work.

    Raises:
        ValueError: At the call, if a number lies outside its range, the prompt is empty, too
            long or holds unknown ids, or the model is in training mode.
        FloatingPointError: While writing, if logits are not finite.

    Example:
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


class TextStream:
    """Turn tokens into text as they come: no half characters, no part of a stop string.

    A character of several bytes can be cut between two tokens, and so can a stop string. What
    might be the beginning of either is held back until the next tokens decide it.

    Args:
        tokenizer: Gives the bytes of each token.
        stop: Strings that end the text and are not shown. If several occur, the one that is
            complete first counts.

    Attributes:
        is_stopped: Whether a stop string has come; nothing is shown after it.

    Raises:
        ValueError: If `stop` is a single string, or holds an empty one.

    Example:
        >>> stream = TextStream(BPETokenizer([]), stop=["END"])
        >>> [stream.add(token) for token in BPETokenizer([]).encode("añ EN")]
        ['a', '', 'ñ', ' ', '', '']
        >>> stream.close()
        'EN'
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str) or "" in stop:
            raise ValueError(f"stop is {stop!r}; pass a list of strings that are not empty")
        self.tokenizer, self.stop = tokenizer, stop
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.held, self.is_stopped = "", False

    def add(self, token: int) -> str:
        """Take a token; return the text that is certain now, which may be empty."""
        return self.release(self.decoder.decode(self.tokenizer.decode_bytes([token])))

    def close(self) -> str:
        """Return what was held back; half a character at the very end becomes U+FFFD."""
        text = self.release(self.decoder.decode(b"", final=True))
        rest, self.held = self.held, ""
        return text + rest

    def release(self, text: str) -> str:
        """Add characters to those held back; return the ones no stop string can begin in."""
        if self.is_stopped:
            return ""
        self.held += text
        found = [(self.held.find(word), word) for word in self.stop if word in self.held]
        if found:
            self.is_stopped = True
            _, end = min((start + len(word), start) for start, word in found)
        else:
            beginnings = (word[:n] for word in self.stop for n in range(len(word)))
            end = len(self.held) - max(
                (len(part) for part in beginnings if self.held.endswith(part)), default=0
            )
        shown, self.held = self.held[:end], "" if self.is_stopped else self.held[end:]
        return shown


def stream_text(
    tokens: Iterable[int], stream: TextStream, end_tokens: Collection[int]
) -> Generator[str, None, None]:
    """Turn a stream of tokens into a stream of text.

    Args:
        tokens: Token ids, taken one by one, no more of them than needed.
        stream: Decides what can be shown.
        end_tokens: Tokens that are not shown.

    Yields:
        Pieces of text, none of them empty.
    """
    for token in tokens:
        piece = "" if token in end_tokens else stream.add(token)
        if piece:
            yield piece
        if stream.is_stopped:
            return
    rest = stream.close()
    if rest:
        yield rest


def check_vocabulary(tokenizer: Tokenizer, model: GPT) -> None:
    """Refuse a tokenizer and a model that don't belong together.

    Raises:
        ValueError: If the tokenizer has not as many tokens as the model.
    """
    n_known = vocabulary_size(tokenizer)
    if n_known != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {n_known} tokens and the model {model.config.vocab_size}; pass the "
            "tokenizer that the model was trained with"
        )


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
    r"""Go on from a text, and hand over more text while you ask for it.

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
        min_new_tokens: End tokens can't be drawn before so many tokens are written.
        generator: The source of randomness, on the CPU; PyTorch's global one if None.
        step: Reads one more token in the place of `decode_step`, a faster one for example.

    Returns:
        A generator of pieces of text, without the prompt: whole characters, none empty. Bytes
        that are no character become U+FFFD.

    Raises:
        ValueError: At the call, if the tokenizer has not as many tokens as the model, and for all
            that `generate` refuses.
        FloatingPointError: While writing, if logits are not finite.

    Example:
        >>> config = GPTConfig(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=16)
        >>> model = GPT(config, torch.Generator().manual_seed(0)).eval()
        >>> seeded = torch.Generator().manual_seed(0)
        >>> pieces = generate_text(model, BPETokenizer([]), "War", 10, generator=seeded)
        >>> len("".join(pieces)) <= 10
        True
    """
    check_vocabulary(tokenizer, model)
    ends = end_of_text(tokenizer) if end_tokens is None else frozenset(end_tokens)
    stream = TextStream(tokenizer, stop)
    tokens = generate(
        model,
        tokenizer.encode_ordinary(prompt),
        max_new_tokens,
        sampling,
        min_new_tokens=min_new_tokens,
        end_tokens=ends,
        generator=generator,
        step=step,
    )
    return stream_text(tokens, stream, ends)


@torch.no_grad()
def token_losses(model: GPT, tokens: Sequence[int] | Tensor) -> Tensor:
    """Measure how much each token of a text surprises the model.

    Each is predicted from the tokens before it that `window_start` leaves, exactly as `generate`
    sees them, however long the text is.

    Args:
        model: The model, in evaluation mode.
        tokens: Token ids, shape (n,), at least 2.

    Returns:
        The losses of all tokens but the first, shape (n - 1,), in nats per token; their mean is
        what `perplexity` takes.

    Raises:
        ValueError: If there are fewer than 2 tokens, an id is unknown, or the model is in training
            mode.

    Example:
        >>> config = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
        >>> token_losses(GPT(config).eval(), [1, 2, 3]).shape
        torch.Size([2])
    """
    text = torch.as_tensor(tokens, dtype=torch.int64, device=model.ln_f.weight.device)  # (n,)
    if text.dim() != 1 or len(text) < 2:
        raise ValueError(f"tokens have shape {tuple(text.shape)}; pass one text of 2 or more")
    length, losses, done = model.config.context_length, [], 1
    check_mode(model)
    check_ids(text.tolist(), model.config.vocab_size)
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

    Args:
        logits: The next token's of each beam, shape (B, V).
        scores: The sum of each beam's log-probabilities so far, shape (B,).
        n_best: How many to find; fewer are found if there are fewer.

    Returns:
        For each, best first: the new sum, the beam that is lengthened, and the token.

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

    Example:
        >>> config = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
        >>> beams = beam_search(GPT(config).eval(), [1, 2], n_beams=3, max_new_tokens=4)
        >>> len(beams), beams[0].score >= beams[1].score
        (3, True)
    """
    if n_beams < 1 or not math.isfinite(length_penalty):
        raise ValueError(
            f"n_beams is {n_beams} and length_penalty {length_penalty}; keep at least 1 beam, and "
            "choose a finite penalty"
        )
    Bounds(max_new_tokens)  # refuses a number below 0
    text = [int(token) for token in prompt]
    check_mode(model)
    check_prompts([text], model.config)
    check_ids([] if end_token is None else [end_token], model.config.vocab_size)
    texts, scores, finished = [text], torch.zeros(1), [Beam((), 0.0)] * (max_new_tokens == 0)
    cache = make_cache(model, texts, max_new_tokens)
    for length in range(1, max_new_tokens + 1):
        logits = read_on(model, texts, cache, step)  # (B, V)
        found = grow_beams(logits, scores.to(logits.device), 2 * n_beams)
        if not math.isfinite(found[0][0]):
            raise not_finite(texts[0])
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
