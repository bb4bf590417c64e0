"""From a stream of tokens to the vectors that enter the model (chapter 2)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

Positions = Literal["learned", "sinusoidal"]


def split_tokens(tokens: Tensor, validation_fraction: float = 0.1) -> tuple[Tensor, Tensor]:
    """Cut a token stream in two, so that validation text comes after all training text.

    A random choice of windows would put neighbours of the validation windows, which overlap
    them, into the training part; a contiguous tail can't leak.

    Args:
        tokens: Token ids, shape (n,).
        validation_fraction: The share of the stream, at its end, kept for validation; 0 < f < 1.

    Returns:
        The training part and the validation part, as views of `tokens`.

    Raises:
        ValueError: If the fraction is not between 0 and 1, or leaves one part empty.

    Example:
        >>> train, validation = split_tokens(torch.arange(10), validation_fraction=0.2)
        >>> train.tolist(), validation.tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9])
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction is {validation_fraction}; choose a share between 0 and 1, say 0.1"
        )
    n_train = round(len(tokens) * (1 - validation_fraction))
    if n_train in (0, len(tokens)):
        raise ValueError(
            f"{len(tokens)} tokens leave a part empty at validation_fraction "
            f"{validation_fraction}; pass a longer text"
        )
    return tokens[:n_train], tokens[n_train:]


class TokenWindows(Dataset[tuple[Tensor, Tensor]]):
    """Serve a token stream as windows, each with its targets: the same window one step later.

    Args:
        tokens: Token ids, shape (n,), dtype int64.
        context_length: Tokens per window, T.
        stride: Tokens from the start of one window to the start of the next; `context_length`
            (the default) makes windows that share no token as input.

    Raises:
        ValueError: If the stream is too short for one window and its last target, if it is not a
            flat int64 tensor, or if a length is below 1.

    Example:
        >>> windows = TokenWindows(torch.arange(10), context_length=4)
        >>> len(windows)
        2
        >>> inputs, targets = windows[1]
        >>> inputs.tolist(), targets.tolist()
        ([4, 5, 6, 7], [5, 6, 7, 8])
    """

    def __init__(self, tokens: Tensor, context_length: int, stride: int | None = None) -> None:
        stride = context_length if stride is None else stride
        if tokens.dim() != 1 or tokens.dtype != torch.int64:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; "
                "pass a flat tensor of dtype torch.int64"
            )
        if context_length < 1 or stride < 1:
            raise ValueError(
                f"context_length is {context_length} and stride {stride}; both must be at least 1"
            )
        if len(tokens) <= context_length:
            raise ValueError(
                f"{len(tokens)} tokens are too few for a window of {context_length} and its last "
                f"target; pass at least {context_length + 1} tokens or a shorter context_length"
            )
        self.tokens, self.context_length, self.stride = tokens, context_length, stride

    def __len__(self) -> int:
        """Return the number of whole windows."""
        return (len(self.tokens) - self.context_length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return window `index`: inputs and targets, each of shape (T,)."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} is outside 0..{len(self) - 1}")
        start = index * self.stride
        window = self.tokens[start : start + self.context_length + 1]  # (T + 1,)
        return window[:-1], window[1:]


def random_batch(
    tokens: Tensor, batch_size: int, context_length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw windows that start anywhere, so that no two passes over a text are alike.

    Args:
        tokens: Token ids, shape (n,).
        batch_size: Windows to draw, B.
        context_length: Tokens per window, T.
        generator: The source of the random starts; its state fixes the batch.

    Returns:
        Inputs and targets, each of shape (B, T).

    Raises:
        ValueError: If the stream is too short for one window and its last target.
    """
    n_starts = len(tokens) - context_length
    if n_starts < 1:
        raise ValueError(
            f"{len(tokens)} tokens are too few for a window of {context_length} and its last "
            f"target; pass at least {context_length + 1} tokens or a shorter context_length"
        )
    starts = torch.randint(n_starts, (batch_size, 1), generator=generator)  # (B, 1)
    windows = tokens[starts + torch.arange(context_length + 1)]  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]


def sinusoidal_positions(context_length: int, n_embd: int) -> Tensor:
    """Give each position a vector of sines and cosines, from fast waves to slow ones.

    Channel 2i is sin(t / 10000^(2i / C)) and channel 2i + 1 the cosine of the same angle.

    Args:
        context_length: Number of positions, T.
        n_embd: Channels, C; even.

    Returns:
        The table of positions, shape (T, C), values in -1..1.

    Raises:
        ValueError: If `n_embd` is odd.

    Source:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5.

    Example:
        >>> sinusoidal_positions(2, 4)[0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    if n_embd % 2:
        raise ValueError(f"n_embd is {n_embd}; sines and cosines come in pairs, so make it even")
    t = torch.arange(context_length, dtype=torch.float32)[:, None]  # (T, 1)
    pair = torch.arange(0, n_embd, 2, dtype=torch.float32)  # (C / 2,)
    angles = t * torch.exp(-math.log(10_000.0) * pair / n_embd)  # (T, C / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # (T, C)


def check_tokens(tokens: Tensor, vocab_size: int, context_length: int) -> None:
    """Refuse tokens that the embedding tables can't serve, and say what to do instead.

    On a GPU the range of the ids is not read, because that would make every step wait for it.

    Args:
        tokens: Token ids, shape (B, T), dtype int64.
        vocab_size: Ids must lie in 0..vocab_size - 1.
        context_length: T may be at most this.

    Raises:
        ValueError: If the shape, the dtype, the length or an id is wrong.
    """
    if tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise ValueError(
            f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; "
            "pass shape (batch, positions) and dtype torch.int64"
        )
    if tokens.size(1) > context_length:
        raise ValueError(
            f"{tokens.size(1)} tokens exceed the context length of {context_length}; "
            f"pass the last {context_length}"
        )
    if tokens.device.type == "cpu" and tokens.numel():
        low, high = (int(bound) for bound in tokens.aminmax())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"token id {low if low < 0 else high} is outside 0..{vocab_size - 1}; "
                "encode the text with the tokenizer that the model was made for"
            )


class InputEmbedding(nn.Module):
    """Turn tokens into vectors that say both what each token is and where it stands.

    Args:
        vocab_size: Number of different tokens, V.
        context_length: Number of positions.
        n_embd: Channels of a vector, C.
        dropout: The share of the sum's values set to zero in training.
        positions: "learned" (a table like the tokens') or "sinusoidal" (fixed waves).

    Raises:
        ValueError: If `positions` is neither of the two.

    Example:
        >>> embed = InputEmbedding(vocab_size=10, context_length=4, n_embd=6)
        >>> embed(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 6])
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
        if positions not in ("learned", "sinusoidal"):
            raise ValueError(f"positions is {positions!r}; choose 'learned' or 'sinusoidal'")
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(context_length, n_embd)
        if positions == "sinusoidal":
            waves = sinusoidal_positions(context_length, n_embd)
            self.position_embedding = nn.Embedding.from_pretrained(waves, freeze=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Embed tokens that stand at positions `start`, `start + 1`, and so on.

        Args:
            tokens: Token ids, shape (B, T), dtype int64.
            start: The position of the first token.

        Returns:
            Vectors, shape (B, T, C).

        Raises:
            ValueError: If the tokens don't fit the tables (see `check_tokens`).
        """
        n_positions = self.position_embedding.num_embeddings
        check_tokens(tokens, self.token_embedding.num_embeddings, n_positions - start)
        t = torch.arange(start, start + tokens.size(1), device=tokens.device)  # (T,)
        x = self.token_embedding(tokens) + self.position_embedding(t)  # (B, T, C)
        return self.dropout(x)
