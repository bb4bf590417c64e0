"""The whole model (chapter 4)."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.attention import CausalSelfAttention, attention_weights
from gptlib.embeddings import InputEmbedding, Positions


@dataclass(frozen=True)
class GPTConfig:
    """Describe a model completely; the defaults are GPT-2 with 124 million parameters.

    Raises:
        ValueError: If a size is below 1, `n_embd` is not divisible by `n_head`, `dropout` is
            outside 0..1, or `positions` is unknown.

    Example:
        >>> GPTConfig(n_layer=2, n_head=2, n_embd=64).head_size
        32
    """

    vocab_size: int = 50_257
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

    def __post_init__(self) -> None:
        """Refuse a model that can't be built."""
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}; "
                "each head needs the same whole number of channels"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; choose a share from 0 to below 1")
        if self.positions not in ("learned", "sinusoidal"):
            raise ValueError(f"positions is {self.positions!r}; choose 'learned' or 'sinusoidal'")

    @property
    def head_size(self) -> int:
        """Channels of one head, D."""
        return self.n_embd // self.n_head


GPT2_SMALL = GPTConfig()
GPT2_MEDIUM = replace(GPT2_SMALL, n_layer=24, n_head=16, n_embd=1024)
GPT2_LARGE = replace(GPT2_SMALL, n_layer=36, n_head=20, n_embd=1280)
GPT2_XL = replace(GPT2_SMALL, n_layer=48, n_head=25, n_embd=1600)


class MLP(nn.Module):
    """Let each position think for itself: widen four times, bend with GELU, narrow again.

    Args:
        config: The model's configuration.

    Source:
        Radford et al. 2019 (GPT-2), the function `mlp` of OpenAI's src/model.py; GELU in its tanh
        form, Hendrycks and Gimpel 2016.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (B, T, C), to the same shape, position by position."""
        hidden = F.gelu(self.expand(x), approximate="tanh")  # (B, T, 4C)
        return self.dropout(self.proj(hidden))  # (B, T, C)


class Block(nn.Module):
    """Add to the residual stream what attention gathers, then what the MLP makes of it.

    Each part reads a normalised copy of the stream and adds its result to the stream itself.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config.n_embd, config.n_head, config.dropout, config.bias)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Pass the stream x, shape (B, T, C), through the block."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


def initialize(model: nn.Module, n_layer: int, generator: torch.Generator | None = None) -> None:
    """Draw GPT-2's starting weights, so that a fresh model's loss is about ln V.

    Matrices come from a normal distribution with standard deviation 0.02. The two projections per
    block that add to the residual stream are scaled by 1 / √(2 n_layer), because that many of
    them add up. Biases start at 0, gains at 1; frozen tables are left alone.

    Args:
        model: The model to fill.
        n_layer: Its number of blocks.
        generator: The source of randomness; PyTorch's global one if None.

    Source:
        Radford et al. 2019 (GPT-2), section 2.3.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or not parameter.requires_grad:
            continue
        scale = 1 / math.sqrt(2 * n_layer) if name.endswith("proj.weight") else 1.0
        nn.init.normal_(parameter, std=0.02 * scale, generator=generator)


class GPT(nn.Module):
    """Predict the next token at every position.

    Args:
        config: What to build.
        generator: The source of the starting weights; PyTorch's global one if None.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

    Example:
        >>> model = GPT(GPTConfig(vocab_size=10, context_length=8, n_layer=2, n_head=2, n_embd=4))
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 10])
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
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        initialize(self, config.n_layer, generator)

    def unembed(self, x: Tensor) -> Tensor:
        """Score every token against the stream x (B, T, C) with the embedding's own table."""
        return F.linear(self.ln_f(x), self.embed.token_embedding.weight)  # (B, T, V)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, T, V) of the token after each of `tokens` (B, T)."""
        x = self.embed(tokens)  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.unembed(x)


def attention_maps(model: GPT, tokens: Tensor) -> Tensor:
    """Collect the attention weights of every layer and head for one input.

    Args:
        model: The model, in evaluation mode if its dropout should be off.
        tokens: Token ids, shape (B, T).

    Returns:
        Weights, shape (L, B, H, T, S) with L layers and S = T.
    """
    x, maps = model.embed(tokens), []
    for block in model.blocks:
        maps.append(attention_weights(block.attn, block.ln_1(x)))  # (B, H, T, S)
        x = block(x)
    return torch.stack(maps)  # (L, B, H, T, S)


def count_parameters(config: GPTConfig) -> dict[str, int]:
    """Count a model's parameters by part without building it in memory.

    Args:
        config: The model; sinusoidal positions are fixed and don't count.

    Returns:
        The numbers for "token embedding", "position embedding", "attention", "mlp", "norms" and
        "total". The output layer is the token embedding, so it adds nothing.

    Example:
        >>> count_parameters(GPT2_SMALL)["total"]
        124439808
    """
    with torch.device("meta"):
        model = GPT(config)
    part_of = {"token_embedding": "token embedding", "position_embedding": "position embedding"}
    part_of |= {
        "attn": "attention",
        "mlp": "mlp",
        "ln_1": "norms",
        "ln_2": "norms",
        "ln_f": "norms",
    }
    counts = dict.fromkeys(part_of.values(), 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = next(part for key, part in part_of.items() if key in name.split("."))
            counts[part] += parameter.numel()
    return counts | {"total": sum(counts.values())}
