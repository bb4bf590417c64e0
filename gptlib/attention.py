"""How every position looks back at the ones before it (chapter 3).

Example:
    >>> attention = CausalSelfAttention(n_embd=8, n_head=2)
    >>> x = torch.randn(1, 5, 8)
    >>> attention(x).shape  # (B, T, C)
    torch.Size([1, 5, 8])
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def causal_mask(
    n_queries: int, n_keys: int | None = None, device: torch.device | None = None
) -> Tensor:
    """Say which keys each query may look at, True: those at its own position and before; (T, S).

    With more keys than queries, the queries are the last positions of the sequence.

    Example:
        >>> causal_mask(3).int().tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
        >>> causal_mask(1, 3).int().tolist()
        [[1, 1, 1]]
    """
    n_keys = n_queries if n_keys is None else n_keys
    if n_keys < n_queries:
        raise ValueError(f"{n_queries} queries have only {n_keys} keys; pass at least as many")
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)  # (T, S)
    return mask.tril(diagonal=n_keys - n_queries)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mix the values by how well each query matches each key, and show the mixing weights.

    Computes softmax(q kᵀ / √D) v.

    Args:
        q: Queries, shape (..., T, D).
        k: Keys, shape (..., S, D).
        v: Values, shape (..., S, D); their last size may also be another one.
        mask: Booleans that broadcast to (..., T, S), True where a query may look; None lets every
            query look everywhere. A query that may look nowhere gets nan.

    Returns:
        The mixed values, shape (..., T, last size of v), and the weights, shape (..., T, S); each
        row of the weights sums to 1.

    Source:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1.
    """
    # A sum of D products spreads like √D; undivided, it would drive the softmax to 0 and 1.
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (..., T, S)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ValueError(f"mask has dtype {mask.dtype}; pass booleans, True = may look")
        scores = scores.masked_fill(~mask, -math.inf)  # before the softmax, so that rows sum to 1
    weights = scores.softmax(dim=-1)  # (..., T, S)
    return weights @ v, weights  # (..., T, D)


Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""How heads look back: from queries, keys and values (B, H, T, D) to results (B, H, T, D)."""


class CausalSelfAttention(nn.Module):
    """Let each position gather what it needs from itself and the positions before it.

    Args:
        n_embd: Channels, C.
        n_head: Heads, H; each works on D = C / H channels, so C must be divisible by H.
        dropout: The share of attention weights, and of output values, set to zero in training.
        qkv_bias: Whether `qkv` adds a bias; None follows `bias`.

    Attributes:
        qkv: One linear layer for the queries, keys and values of all heads, in this order; weight
            of shape (3C, C).
        proj: The linear layer that combines the heads' results; weight of shape (C, C).

    Source:
        Radford et al. 2019 (GPT-2), the function `attn` of OpenAI's src/model.py.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        dropout: float = 0.0,
        bias: bool = True,
        qkv_bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.n_head = n_head
        # One matrix for all three: one large product is faster than three small ones.
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=bias if qkv_bias is None else qkv_bias)
        self.proj = nn.Linear(n_embd, n_embd, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make each head's queries, keys and values, (B, H, T, D) each, from x (B, T, C)."""
        # (B, T, 3, H, D) to (3, B, H, T, D): heads stand in front, so each is a matrix of its own.
        # -1 finds D, also where scaling.py leaves `qkv` only some of the heads.
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v  # each (B, H, T, D)

    def merge(self, heads: Tensor) -> Tensor:
        """Lay the heads' results (B, H, T, D) side by side and apply `proj`: (B, T, C)."""
        return self.dropout(self.proj(heads.transpose(1, 2).flatten(2)))  # (B, T, C)

    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:
        """Attend over x, shape (B, T, C): causally, or as `mix` says; the shape stays."""
        q, k, v = self.project(x)
        if mix is not None:
            return self.merge(mix(q, k, v))  # (B, T, C)
        # The function can't see the mode. (A `mix` brings its own dropout, if it wants any.)
        dropout = self.dropout.p if self.training else 0.0
        # What `attend` computes, in one kernel that never stores the (T, T) weights.
        heads = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.merge(heads)  # (B, T, C)
