"""GPT-2 wired in another way: where the layer norms stand, and which tokens attention looks at.

    python -m gptlib train my-book.txt --model.norm post
    python -m gptlib train my-book.txt --model.attention window --model.window 32

A variant is a `GPT` whose blocks are exchanged and whose `stream` has another mix; what takes a
`GPT` takes it too. GPT-2's layout has no place for it, so its run's folder is what is loaded.

Example:
    >>> sizes = dict(vocab_size=9, context_length=8, n_layer=1, n_head=1, n_embd=4)
    >>> model = build(VariantConfig(**sizes, attention="window", window=2))
    >>> model(torch.tensor([[1, 2, 3, 4]])).shape
    torch.Size([1, 4, 9])
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.attention import Mix
from gptlib.generation import KeyValueCache, allowed_keys
from gptlib.gpt2 import GPT, Block, GPTConfig, check_fields

Norm = Literal["pre", "post", "none"]
Attention = Literal["full", "window", "strided"]


@dataclass(frozen=True)
class VariantConfig(GPTConfig):
    """Describe a GPT-2 that is wired in another way."""

    norm: Norm = "pre"
    """Where the layer norms of a block stand: pre, before each part, as GPT-2's; post, after each
    addition; none."""
    attention: Attention = "full"
    """What a token looks at: full, all tokens before it; window, the nearest; strided, the nearest,
    and every window-th before them."""
    window: int = 32
    """How many tokens window and strided count as the nearest, its own included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_whole = isinstance(self.window, int) and self.window >= 1
        rules = {
            "norm": (f"one of {', '.join(get_args(Norm))}", self.norm in get_args(Norm)),
            "attention": (
                f"one of {', '.join(get_args(Attention))}",
                self.attention in get_args(Attention),
            ),
            "window": ("a whole number of at least 1", is_whole),
        }
        check_fields(self, rules)


DEFAULTS = {field.name: field.default for field in fields(VariantConfig)[len(fields(GPTConfig)) :]}
"""What GPT-2 has of these fields."""


def as_config(values: Mapping[str, Any]) -> GPTConfig:
    """Make a configuration of its fields: GPT-2's own kind unless they ask for a variant.

    Example:
        >>> type(as_config({"n_layer": 2, "norm": "pre"})).__name__
        'GPTConfig'
    """
    if any(values.get(name, DEFAULTS[name]) != DEFAULTS[name] for name in ("norm", "attention")):
        return VariantConfig(**values)
    return GPTConfig(**{name: value for name, value in values.items() if name not in DEFAULTS})


class PostNormBlock(Block):
    """Normalise the stream itself, after what each part has added to it.

    Source:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.1.
    """

    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:
        """Pass the stream x, shape (B, T, C), through the block; `mix` is attention's."""
        x = self.ln_1(x + self.attn(x, mix))
        return self.ln_2(x + self.mlp(x))  # (B, T, C)


class NoNormBlock(Block):
    """Leave the stream and its copies as they are."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.ln_1, self.ln_2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]


BLOCKS: dict[Norm, type[Block]] = {"pre": Block, "post": PostNormBlock, "none": NoNormBlock}
"""A block for each place of the norms."""


def may_look(config: VariantConfig, distance: Tensor) -> Tensor:
    """Say whether a token looks at one that stands so many places before it; 0 is itself.

    Example:
        >>> config = VariantConfig(attention="strided", window=3)
        >>> may_look(config, torch.arange(-1, 8)).int().tolist()
        [0, 1, 1, 1, 1, 0, 0, 1, 0]
    """
    if config.attention == "full":
        return distance >= 0
    near = distance < config.window
    if config.attention == "strided":
        near = near | (distance % config.window == 0)
    return near & (distance >= 0)


def mix_in_blocks(config: VariantConfig, dropout: float, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Look back through a window, or in strides too, without the scores that are not allowed.

    The sequence is cut into blocks of W = `window` tokens. The W nearest keys of a query lie in its
    own block and the one before; those that are a multiple of W away have the same place in other
    blocks. So T queries have 2 W scores each, and in strides T / W more, in the place of T.

    Args:
        config: With the attention "window" or "strided".
        dropout: The share of weights set to zero.
        q: Queries, shape (B, H, T, D).
        k: Keys, of the same shape.
        v: Values, of the same shape.

    Returns:
        The mixed values, shape (B, H, T, D).

    Source:
        Child et al. 2019, "Generating Long Sequences with Sparse Transformers", section 4.2; here
        each head looks at what two of theirs look at.
    """
    length = q.size(-2)
    width = min(config.window, length)
    padding = (0, 0, 0, -length % width)
    q, k, v = (F.pad(x, padding).unflatten(-2, (-1, width)) for x in (q, k, v))  # (B, H, N, W, D)
    # Beside each block's keys those of the block before; before the first one, zeros.
    near_k, near_v = (
        torch.cat((F.pad(x, (0, 0, 0, 0, 1, -1)), x), dim=-2) for x in (k, v)
    )  # (B, H, N, 2W, D)
    block, place = (torch.arange(n, device=q.device) for n in (q.size(2), 2 * width))
    distance = place[width:, None] - place  # (W, 2W)
    allowed = (distance >= 0) & (distance < width)
    allowed = allowed & ((block[:, None, None] > 0) | (place >= width))  # (N, W, 2W)
    scores = q @ near_k.mT  # (B, H, N, W, 2W)
    if config.attention == "strided":
        far = torch.einsum("bhnwd,bhmwd->bhnwm", q, k)  # (B, H, N, W, N)
        earlier = (block[:, None] > block)[:, None].expand(-1, width, -1)  # (N, W, N)
        scores, allowed = torch.cat((scores, far), dim=-1), torch.cat((allowed, earlier), dim=-1)
    scores = (scores / math.sqrt(q.size(-1))).masked_fill(~allowed, -math.inf)
    weights = F.dropout(scores.softmax(dim=-1), dropout)  # (B, H, N, W, 2W or 2W + N)
    heads = weights[..., : 2 * width] @ near_v  # (B, H, N, W, D)
    if config.attention == "strided":
        heads = heads + torch.einsum("bhnwm,bhmwd->bhnwd", weights[..., 2 * width :], v)
    return heads.flatten(2, 3)[:, :, :length]  # (B, H, T, D)


class VariantGPT(GPT):
    """A `GPT` with other blocks and another way to look back.

    With post norm the last norm of a `GPT`, `ln_f`, stays; the original transformer has none there.

    Args:
        config: What to build.
        generator: The source of the starting weights, which are those of a `GPT` of these sizes;
            PyTorch's global one if None.

    Attributes:
        variant: Its kind in numbers, shape (3,), frozen: a parameter that a `GPT` has not, so that
            neither `load_state_dict` nor `save_gpt2` takes one for the other.
    """

    def __init__(self, config: VariantConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        for number, block in enumerate(self.blocks):
            other = BLOCKS[config.norm](config)
            other.load_state_dict(block.state_dict(), strict=False)
            cast(nn.ModuleList, self.blocks)[number] = other
        kind = get_args(Norm).index(config.norm), get_args(Attention).index(config.attention)
        numbers = torch.tensor([*map(float, kind), float(config.window)])
        self.variant = nn.Parameter(numbers, requires_grad=False)

    def stream(
        self,
        tokens: Tensor,
        mixes: Sequence[Mix | None] | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Pass tokens (B, T) through embedding and blocks, as `GPT.stream` does: (B, T, C).

        Of other mixes than None, window and strided attention know the cache's alone.
        """
        config = cast(VariantConfig, self.config)
        if config.attention == "full":
            return super().stream(tokens, mixes, positions)
        if mixes is None:
            dropout = config.dropout if self.training else 0.0
            own = [partial(mix_in_blocks, config, dropout)] * len(self.blocks)
            return super().stream(tokens, own, positions)
        within = [self._within(mix, tokens.size(1)) for mix in mixes]
        return super().stream(tokens, within, positions)

    def _within(self, mix: Mix | None, n_new: int) -> Mix:
        """Let a cache's mix look only where this model may."""
        config, cache = cast(VariantConfig, self.config), None
        if isinstance(mix, partial):
            cache = getattr(mix.func, "__self__", None)
        if not isinstance(cache, KeyValueCache):
            raise ValueError(
                f"this model's attention is {config.attention!r}, which goes with no mix but a "
                "KeyValueCache's; use a model of full attention"
            )
        layer, _ = cast(partial[Tensor], mix).args
        slots = torch.arange(cache.length + n_new, device=cache.starts.device)  # (S,)
        allowed = may_look(config, slots[cache.length :, None] - slots)  # (T, S)
        return partial(cache.mix, layer, allowed_keys(cache, n_new) & allowed)


def build(config: GPTConfig, generator: torch.Generator | None = None) -> GPT:
    """Build the model that a configuration describes, a variant or none."""
    if isinstance(config, VariantConfig):
        return VariantGPT(config, generator)
    return GPT(config, generator)


def refuse_variant(model: GPT, what: str) -> None:
    """Say of a variant that `what`, such as GPT-2's layout, has no place for it (ValueError)."""
    if isinstance(model.config, VariantConfig):
        theirs = asdict(model.config)
        odd = ", ".join(f"{n} {theirs[n]}" for n in DEFAULTS if theirs[n] != DEFAULTS[n])
        raise ValueError(f"{what} has no place for a model with {odd}; use its run's folder")
