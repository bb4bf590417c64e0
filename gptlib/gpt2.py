"""The whole model, and what it costs before it is built (chapter 4).

Example:
    >>> small = GPTConfig(vocab_size=100, context_length=16, n_layer=2, n_head=2, n_embd=32)
    >>> model = GPT(small, torch.Generator().manual_seed(0))
    >>> logits = model(torch.tensor([[5, 7, 9]]))
    >>> logits.shape  # (B, T, V)
    torch.Size([1, 3, 100])
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.attention import CausalSelfAttention, Mix, attend, causal_mask
from gptlib.embeddings import InputEmbedding, Positions


def check_fields(settings: object, rules: Mapping[str, tuple[str, bool]]) -> None:
    """Refuse settings whose fields break a rule: for each, what it must be, and whether it is."""
    for name, (rule, holds) in rules.items():
        if not holds:
            raise ValueError(f"{name} is {getattr(settings, name)!r}; it must be {rule}")


@dataclass(frozen=True)
class GPTConfig:
    """Describe a model completely; the defaults are GPT-2 with 124 million parameters.

    Raises:
        ValueError: If a field breaks its rule; the message names both.

    Source:
        Radford et al. 2019 (GPT-2), table 2, and the file `hparams.json` of each released model.
    """

    vocab_size: int = 50_257  # 256 bytes, 50,000 merges and the end of text
    """Number of different tokens, V."""
    context_length: int = 1024
    """The longest sequence, in tokens."""
    n_layer: int = 12
    """Number of blocks."""
    n_head: int = 12
    """Attention heads per block, H."""
    n_embd: int = 768
    """Channels of the residual stream, C."""
    dropout: float = 0.0
    """Share of values set to zero in training, 0 up to but not including 1."""
    bias: bool = True
    """Whether linear layers and layer norms add a bias, as GPT-2's do."""
    positions: Positions = "learned"
    """"learned", as GPT-2's, or "sinusoidal"."""
    qkv_bias: bool | None = None
    """Whether the layer that makes queries, keys and values adds a bias; None follows `bias`."""
    d_ff: int | None = None
    """Hidden channels of the MLP; None takes 4 C."""
    tie_weights: bool = True
    """Whether the output layer shares the token embedding's table, as GPT-2's does."""

    def __post_init__(self) -> None:
        # The sizes first, one by one: the rules below compute with them.
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            size = getattr(self, name)
            is_whole = isinstance(size, int) and size >= 1
            check_fields(self, {name: ("a whole number of at least 1", is_whole)})
        hidden = self.hidden_size
        each = f"divisible by n_head, {self.n_head}: each head gets the same number of channels"
        rules = {
            "n_embd": (each, self.n_embd % self.n_head == 0),
            "dropout": ("a share from 0 to below 1", 0 <= self.dropout < 1),
            "positions": ("'learned' or 'sinusoidal'", self.positions in get_args(Positions)),
            "d_ff": ("a whole number of at least 1", isinstance(hidden, int) and hidden >= 1),
            "tie_weights": ("True or False", isinstance(self.tie_weights, bool)),
        }
        check_fields(self, rules)

    @property
    def head_size(self) -> int:
        """Channels of one head, D."""
        return self.n_embd // self.n_head

    @property
    def hidden_size(self) -> int:
        """Channels inside the MLP."""
        return 4 * self.n_embd if self.d_ff is None else self.d_ff


GPT2_SMALL = GPTConfig()
# 355, 774 and 1,558 million parameters; the small one has 124
GPT2_MEDIUM = replace(GPT2_SMALL, n_layer=24, n_head=16, n_embd=1024)
GPT2_LARGE = replace(GPT2_SMALL, n_layer=36, n_head=20, n_embd=1280)
GPT2_XL = replace(GPT2_SMALL, n_layer=48, n_head=25, n_embd=1600)


class MLP(nn.Module):
    """Work on each position alone: widen, four times by default, apply GELU, narrow again.

    Source:
        Radford et al. 2019 (GPT-2), the function `mlp` of OpenAI's src/model.py; GELU in its tanh
        form, Hendrycks and Gimpel 2016, section 2.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.n_embd, config.hidden_size, bias=config.bias)
        self.proj = nn.Linear(config.hidden_size, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (B, T, C), to the same shape, position by position."""
        # The tanh form, because GPT-2's weights were trained with it.
        hidden = F.gelu(self.expand(x), approximate="tanh")  # (B, T, 4C)
        return self.dropout(self.proj(hidden))  # (B, T, C)


class Block(nn.Module):
    """Add to the residual stream what attention gathers, then what the MLP makes of it.

    Each part reads a normalised copy of the stream and adds its result to the stream itself
    ("pre-norm"), so an untouched path leads from the last layer back to the first.

    Source:
        Radford et al. 2019 (GPT-2), section 2.3 and the function `block` of OpenAI's src/model.py.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(
            config.n_embd, config.n_head, config.dropout, config.bias, config.qkv_bias
        )
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:
        """Pass the stream x, shape (B, T, C), through the block; `mix` is attention's."""
        x = x + self.attn(self.ln_1(x), mix)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


def initialize(model: nn.Module, n_layer: int, generator: torch.Generator | None = None) -> None:
    """Draw GPT-2's starting weights in place, so that a fresh model's loss is about ln V.

    Matrices come from a normal distribution with standard deviation 0.02. The two projections per
    block that add to the residual stream are scaled by 1 / √(2 n_layer), because that many of
    them add up. Biases are set to 0; gains stay 1. (OpenAI's code draws the positions' table with
    0.01.) Without a generator PyTorch's global one is used.

    Source:
        Radford et al. 2019 (GPT-2), section 2.3, for the scaling; the initializers of OpenAI's
        src/model.py for the rest.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            scale = 1 / math.sqrt(2 * n_layer) if name.endswith("proj.weight") else 1.0
            nn.init.normal_(parameter, std=0.02 * scale, generator=generator)


def tie_head(model: "GPT", *_: Any) -> None:
    """Let the output layer use the token embedding's table, unless it has one of its own."""
    # *_: it is also called as a hook, which gets more arguments.
    if model.config.tie_weights:
        model.head.weight = model.embed.token_embedding.weight


def fill_head(model: "GPT", state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Name the shared table in a state dictionary that names it as the token embedding alone."""
    # A file may hold the shared table once, and PyTorch asks for both names.
    table = f"{prefix}embed.token_embedding.weight"
    if model.config.tie_weights and table in state:
        state.setdefault(f"{prefix}head.weight", state[table])


class GPT(nn.Module):
    """Predict the next token at every position.

    The output layer shares the token embedding's table ("weight tying"), unless `tie_weights` is
    False. Dropout acts in training mode only; call `model.eval()` before you use the model.

    Args:
        config: What to build.
        generator: The source of the starting weights; PyTorch's global one if None.

    Attributes:
        embed: Tokens and positions to vectors, an `InputEmbedding`.
        blocks: The `n_layer` blocks.
        ln_f: The layer norm before the output.
        head: The output layer; its weight, shape (V, C), is `embed.token_embedding.weight` if tied.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3;
        weight tying, Press and Wolf 2017.
    """

    def __init__(self, config: GPTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = InputEmbedding(
            config.vocab_size,
            config.context_length,
            config.n_embd,
            config.dropout,
            config.positions,
        )
        blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.blocks = cast(Sequence[Block], blocks)  # a type checker now knows what is in it
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        # "meta": a layer without memory, because a tied weight is replaced at once.
        place = "meta" if config.tie_weights else None
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False, device=place)
        tie_head(self)
        # Before loading, the missing name; after it, the tie, which assign=True would undo.
        self.register_load_state_dict_pre_hook(fill_head)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(tie_head)  # type: ignore[no-untyped-call]
        initialize(self, config.n_layer, generator)

    def unembed(self, x: Tensor) -> Tensor:
        """Score every token: logits (B, T, V) of the stream (B, T, C) after the last block."""
        return self.head(self.ln_f(x))  # (B, T, V)

    def stream(
        self,
        tokens: Tensor,
        mixes: Sequence[Mix | None] | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Pass tokens (B, T) through embedding and blocks: the stream (B, T, C).

        Args:
            tokens: Token ids, shape (B, T).
            mixes: How each block's attention looks back, one for each block; causally if None.
            positions: As in `InputEmbedding.forward`.
        """
        mixes = [None] * len(self.blocks) if mixes is None else mixes
        if len(mixes) != len(self.blocks):
            raise ValueError(f"{len(mixes)} mixes for {len(self.blocks)} blocks; pass one for each")
        x = self.embed(tokens, positions)  # (B, T, C)
        for block, mix in zip(self.blocks, mixes, strict=True):
            x = block(x, mix)
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the token that follows each of `tokens`.

        Args:
            tokens: Token ids, shape (B, T), dtype int64, T at most the context length.

        Returns:
            Logits, shape (B, T, V); row t is about the token at position t + 1.
        """
        return self.unembed(self.stream(tokens))


def attention_maps(model: GPT, tokens: Tensor) -> Tensor:
    """Collect the attention weights of every layer and head for tokens of shape (B, T).

    Returns:
        Weights, shape (L, B, H, T, S) with L layers and S = T; each row sums to 1.
    """
    maps = []

    def attend_and_keep(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads, weights = attend(q, k, v, causal_mask(q.size(-2), device=q.device))
        maps.append(weights)  # (B, H, T, S)
        return heads

    model.stream(tokens, [attend_and_keep] * len(model.blocks))
    return torch.stack(maps)  # (L, B, H, T, S)


def count_parameters(config: GPTConfig) -> dict[str, int]:
    """Count a model's parameters by part without building it in memory.

    "token embedding", "position embedding" (0 if sinusoidal), attention's "queries", "keys",
    "values" and "attention output", "mlp", "output layer" (0 if it is the token embedding's table),
    "norms" and "total".
    """
    with torch.device("meta"):  # shapes without values
        model = GPT(config)
    parts_of = {
        "token_embedding": ["token embedding"],
        "position_embedding": ["position embedding"],
        "attn.qkv": ["queries", "keys", "values"],
        "attn.proj": ["attention output"],
        "mlp": ["mlp"],
        "head": ["output layer"],
        "ln_": ["norms"],
    }
    counts = {part: 0 for parts in parts_of.values() for part in parts}
    for name, parameter in model.named_parameters():  # a shared table comes once
        parts = next(parts for word, parts in parts_of.items() if word in name)
        for part in parts:
            counts[part] += parameter.numel() // len(parts)  # queries: a third of each `qkv`
    return counts | {"total": sum(counts.values())}


def flops_per_token(config: GPTConfig, context_length: int | None = None) -> dict[str, int]:
    """Count the floating-point operations that one token costs.

    A weight of a matrix product costs 2 per token, a multiplication and an addition: in each
    of L blocks 4 C² weights of attention and 2 C times its hidden channels of the MLP, 12 C² by
    default, and V C in the output layer. Attention adds 2 T C for the scores and 2 T C for mixing
    the values, in each block. The backward pass costs twice the forward pass. Norms, GELU and the
    softmax are left out, and so is what a kernel saves by skipping the keys that the causal mask
    forbids (up to half of "attention").

    Args:
        config: The model.
        context_length: Tokens in the sequence, T; the model's longest by default.

    Returns:
        Operations per token: "matrices", "attention", "forward" (their sum) and "training"
        (three times the forward pass).

    Source:
        Chowdhery et al. 2022, "PaLM", appendix B; Kaplan et al. 2020, "Scaling Laws for Neural
        Language Models", table 1, counts half of the attention.
    """
    length = config.context_length if context_length is None else context_length
    per_block = 4 * config.n_embd**2 + 2 * config.n_embd * config.hidden_size
    matrices = 2 * (config.n_layer * per_block + config.vocab_size * config.n_embd)
    attention = 4 * config.n_layer * length * config.n_embd
    forward = matrices + attention
    return {
        "matrices": matrices,
        "attention": attention,
        "forward": forward,
        "training": 3 * forward,  # backward, each product has two gradients: input's and weight's
    }


def memory_bytes(config: GPTConfig, n_tokens: int = 1, bytes_per_value: int = 4) -> dict[str, int]:
    """Count the bytes that a model needs, for its parameters and for the tokens it works on.

    Args:
        config: The model.
        n_tokens: Tokens worked on at once, batch size times sequence length.
        bytes_per_value: 4 for float32, 2 for bfloat16.

    Returns:
        Whatever the tokens: "weights", "gradients" and "optimizer" (AdamW keeps two values per
        parameter). Growing with `n_tokens`: "activations", what the forward pass keeps for the
        backward pass (per block 8 C values and twice the MLP's, 2 C at the end and V logits;
        without dropout), and "keys and values", what a model keeps of past tokens when it writes
        text (2 C values per block). Inference needs weights and keys and values; training all but
        the latter.
    """
    learned = count_parameters(config)["total"]
    frozen = config.context_length * config.n_embd if config.positions == "sinusoidal" else 0
    # 2 streams, 2 norms' results, q, k, v, the heads' results; the MLP's before and after GELU.
    per_block = 8 * config.n_embd + 2 * config.hidden_size
    kept = config.n_layer * per_block + 2 * config.n_embd + config.vocab_size
    values = {
        "weights": learned + frozen,
        "gradients": learned,
        "optimizer": 2 * learned,
        "activations": n_tokens * kept,
        "keys and values": n_tokens * 2 * config.n_layer * config.n_embd,
    }
    return {part: count * bytes_per_value for part, count in values.items()}
