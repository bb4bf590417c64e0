"""From a stream of tokens to the vectors that enter the model (chapter 2).

Example:
    >>> train, validation = split_tokens(torch.arange(100))
    >>> generator = torch.Generator().manual_seed(0)
    >>> tokens, targets = random_batch(train, batch_size=2, context_length=8, generator=generator)
    >>> embed = InputEmbedding(vocab_size=100, context_length=8, n_embd=16)
    >>> embed(tokens).shape  # (B, T, C)
    torch.Size([2, 8, 16])
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


def check_stream(tokens: Tensor, context_length: int, name: str = "tokens") -> None:
    """Refuse a token stream that gives no window, and say what to pass instead.

    Ids have shape (n,) and may be whole numbers of any size (a mapped file's have two bytes); n
    is more than `context_length`, because the last token of a window needs a target.
    """
    if not isinstance(tokens, Tensor) or tokens.dim() != 1 or tokens.is_floating_point():
        raise ValueError(f"{name}: pass one flat tensor of ids, not {tokens!r:.60}")
    if not 1 <= context_length < len(tokens):
        window = f"window of {context_length} and its last target"
        way = "pass more, or a shorter context_length"
        raise ValueError(f"{name}: {len(tokens)} tokens give no {window}; {way}")


class TokenWindows(Dataset[tuple[Tensor, Tensor]]):
    """Serve a token stream as windows, each with its targets: the same window one step later.

    Windows are views of the stream, so a thousand of them cost no more memory than one. Up to
    `stride - 1` tokens at the end, too few for another window, are left out.

    Args:
        tokens: Token ids, shape (n,); see `check_stream`.
        context_length: Tokens per window, T.
        stride: Tokens from the start of one window to the start of the next, at least 1; by
            default `context_length`, so that windows don't overlap.

    Example:
        >>> windows = TokenWindows(torch.arange(10), context_length=4)
        >>> inputs, targets = windows[1]
        >>> inputs.tolist(), targets.tolist()
        ([4, 5, 6, 7], [5, 6, 7, 8])
    """

    def __init__(self, tokens: Tensor, context_length: int, stride: int | None = None) -> None:
        check_stream(tokens, context_length)
        stride = context_length if stride is None else stride
        if stride < 1:
            raise ValueError(f"stride is {stride}; windows must move on by at least 1 token")
        self.tokens, self.context_length, self.stride = tokens, context_length, stride

    def __len__(self) -> int:
        # A window needs one token more than its length: the last one's target.
        return (len(self.tokens) - self.context_length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return window `index`, counted from 0: inputs and targets, each of shape (T,)."""
        if not 0 <= index < len(self):  # a loop over the windows ends at this error
            raise IndexError(f"window {index} does not exist; choose one of 0..{len(self) - 1}")
        start = index * self.stride
        window = self.tokens[start : start + self.context_length + 1]  # (T + 1,)
        return window[:-1], window[1:]  # (T,), (T,)


def random_batch(
    tokens: Tensor, batch_size: int, context_length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw windows that start anywhere, so that no two passes over a text are alike.

    Args:
        tokens: Token ids, shape (n,), on any device; see `check_stream`.
        batch_size: Windows to draw, B; at least 1. Two of them may overlap or be equal.
        context_length: Tokens per window, T.
        generator: The source of the random starts, on the CPU; its state fixes the batch, on
            every device.

    Returns:
        Inputs and targets, each of shape (B, T) and dtype int64, on the device of `tokens`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> inputs, targets = random_batch(torch.arange(50), 2, 3, generator)
        >>> bool((targets == inputs + 1).all())
        True
    """
    check_stream(tokens, context_length)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; draw at least 1 window")
    n_starts = len(tokens) - context_length  # the last start leaves room for a target
    starts = torch.randint(n_starts, (batch_size,), generator=generator)  # (B,)
    # Slices, not an index of all positions: of a mapped file only these pieces are read.
    windows = [tokens[i : i + context_length + 1] for i in starts.tolist()]
    batch = torch.stack(windows).long()  # (B, T + 1)
    return batch[:, :-1], batch[:, 1:]  # (B, T), (B, T)


def split_tokens(tokens: Tensor, validation_fraction: float = 0.1) -> tuple[Tensor, Tensor]:
    """Cut a token stream in two, so that validation text comes after all training text.

    A random choice of windows would put neighbours of the validation windows, which overlap
    them, into the training part; a contiguous tail can't leak.

    `validation_fraction` is the share kept for it, above 0 and below 1. Both are views of `tokens`.

    Example:
        >>> train, validation = split_tokens(torch.arange(10), validation_fraction=0.2)
        >>> train.tolist(), validation.tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9])
    """
    n_train = round(len(tokens) * (1 - validation_fraction))
    if not 0 < n_train < len(tokens):
        raise ValueError(
            f"{validation_fraction=} of {len(tokens)} tokens leaves a part empty; choose another"
        )
    return tokens[:n_train], tokens[n_train:]


def sinusoidal_positions(context_length: int, n_embd: int) -> Tensor:
    """Give each position a vector of sines and cosines, from fast waves to slow ones.

    Channel 2i is sin(t / 10000^(2i / C)) and channel 2i + 1 the cosine of the same angle. The dot
    product of two rows depends only on how far apart they are.

    Args:
        context_length: Number of positions, T.
        n_embd: Channels, C; even.

    Returns:
        Shape (T, C), dtype float32, values in -1..1; each row has the length √(C / 2).

    Source:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    if n_embd % 2:
        raise ValueError(f"n_embd is {n_embd}; sines and cosines come in pairs: pass an even one")
    t = torch.arange(context_length, dtype=torch.float32)[:, None]  # (T, 1)
    channel = torch.arange(0, n_embd, 2, dtype=torch.float32)  # (C / 2,)
    # t / 10000^(2i / C)
    angles = t * torch.exp(-math.log(10_000.0) * channel / n_embd)  # (T, C / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # (T, C)


def check_tokens(tokens: Tensor, vocab_size: int, context_length: int) -> None:
    """Refuse tokens, int64 of shape (B, T), that the embedding tables can't serve.

    Off the CPU and in compiled code the ids are not read, because every step would have to wait for
    them; a wrong id then fails inside PyTorch.
    """
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise ValueError(f"tokens: pass int64 ids (batch, positions), not {tokens!r:.60}")
    if tokens.size(1) > context_length:
        raise ValueError(f"{tokens.size(1)} tokens; pass the last {context_length}, the context")
    if tokens.device.type == "cpu" and tokens.numel() and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in tokens.aminmax())
        if low < 0 or high >= vocab_size:
            odd = low if low < 0 else high
            raise ValueError(
                f"token id {odd} is outside 0..{vocab_size - 1}; use the model's tokenizer"
            )


Positions = Literal["learned", "sinusoidal"]
"""Where the vector of a position comes from: a trained table, or fixed sines and cosines."""


class InputEmbedding(nn.Module):
    """Turn tokens into vectors that say both what each token is and where it stands.

    Args:
        vocab_size: Number of different tokens, V.
        context_length: Number of positions, the longest sequence.
        n_embd: Channels of a vector, C; even if `positions` is "sinusoidal".
        dropout: The share of the sum's values set to zero in training.
        positions: "learned" (a table like the tokens') or "sinusoidal" (nothing to train).

    Attributes:
        token_embedding: The table of the tokens, weight of shape (V, C).
        position_embedding: The table of the positions, weight of shape (context_length, C); a
            buffer if sinusoidal.

    Source:
        Radford et al. 2018 (GPT-1), section 3.1: h0 = U We + Wp.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        n_embd: int,
        dropout: float = 0.0,
        positions: Positions = "learned",
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(context_length, n_embd)
        if positions == "sinusoidal":
            # A buffer of the same name: never trained, but looked up and saved like a table.
            del self.position_embedding.weight
            table = sinusoidal_positions(context_length, n_embd)
            self.position_embedding.register_buffer("weight", table)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Embed tokens (B, T) that stand at positions 0 to T - 1, or where `positions` says.

        Args:
            tokens: Token ids, shape (B, T), dtype int64; see `check_tokens`.
            positions: The position of each token, shape (T,) or (B, T), for callers that know
                where their tokens stand; ids and positions are then not checked.

        Returns:
            Vectors, shape (B, T, C).
        """
        if positions is None:
            n_tokens, n_positions = (
                table.num_embeddings for table in (self.token_embedding, self.position_embedding)
            )
            check_tokens(tokens, n_tokens, n_positions)
            positions = torch.arange(tokens.size(1), device=tokens.device)  # (T,)
        x = self.token_embedding(tokens) + self.position_embedding(positions)  # (B, T, C)
        return self.dropout(x)  # (B, T, C)
