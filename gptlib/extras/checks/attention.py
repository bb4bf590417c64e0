"""Check the exercises of chapter 3."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gptlib.attention import attend, causal_mask


def row_entropy(function: Callable[[Tensor], Tensor | None]) -> None:
    """Check that a function returns the entropy of each row of weights, in nats."""
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.7, 0.2, 0.1]])
    answer = function(weights)
    expected = torch.special.entr(weights).sum(-1)
    if answer is None:
        print("Not done yet: row_entropy returns None. Return one number for each row.")
    elif _like(answer, expected):
        print(
            "Correct: 0 for a row that looks at one word, ln 2 = 0.69 for two words in equal "
            "parts, 0.80 for weights of 0.7, 0.2 and 0.1."
        )
    elif not isinstance(answer, Tensor):
        print(f"row_entropy returns a {type(answer).__name__}; return a tensor, one number a row.")
    elif answer.isnan().any():
        print("Some entropies are nan: 0 · ln 0 must count as 0, and 0 * log(0) is nan in torch.")
    elif _like(answer, -expected):
        print("The sign is wrong: logarithms of weights below 1 are negative, entropy is not.")
    elif _like(answer, expected / math.log(2)):
        print("Those are bits: use the natural logarithm, so that the unit is nats.")
    elif _like(answer, expected.mean()) or _like(answer, expected.sum()):
        print("That is one number for all rows: add up over the last dimension only.")
    elif _like(answer, expected[:, None]):
        print("The numbers are right, the shape (3, 1) is not: keepdim=True leaves a dimension.")
    elif _like(answer, torch.special.entr(weights).sum(-2)):
        print("You added up the columns: add up over the last dimension, the keys.")
    elif answer.shape != expected.shape:
        print(f"For weights of shape (3, 3) expected shape (3,), not {_shape(answer)}.")
    else:
        rows = "[1, 0, 0], [0.5, 0.5, 0] and [0.7, 0.2, 0.1]"
        print(
            f"Not yet: for the rows {rows} expected {_rounded(expected)}, not {_rounded(answer)}."
        )


def window_mask(function: Callable[[int, int], Tensor | None]) -> None:
    """Check a causal mask that looks back over a limited number of words."""
    answer = function(6, 3)
    behind = torch.arange(6)[:, None] - torch.arange(6)
    expected = (behind >= 0) & (behind < 3)
    if answer is None:
        print("Not done yet: window_mask returns None. Return booleans of shape (T, T).")
    elif not isinstance(answer, Tensor) or tuple(answer.shape) != (6, 6):
        print(f"window_mask(6, 3) must be a tensor of shape (6, 6), not {_shape(answer)}.")
    elif answer.dtype != torch.bool:
        print(f"The mask has dtype {answer.dtype}; attend takes booleans, True = may look.")
    elif torch.equal(answer, expected):
        wide = function(4, 9)
        if isinstance(wide, Tensor) and torch.equal(wide, causal_mask(4)):
            print(
                "Correct: each query sees itself and the two before it, at the start fewer, and "
                "a window wider than the sentence is the causal mask."
            )
        else:
            print("Almost: a window wider than the sentence must be the plain causal mask.")
    elif torch.equal(answer, ~expected):
        print("It is upside down: here True means may look.")
    elif torch.equal(answer, behind.abs() < 3):
        print("It looks ahead: nothing may stand above the diagonal.")
    elif torch.equal(answer, (behind >= 0) & (behind <= 3)):
        print("One too many: a window of 3 is the word itself and 2 words before it.")
    elif torch.equal(answer, (behind >= 0) & (behind < 2)):
        print("One too few: a window of 3 is the word itself and 2 words before it.")
    elif torch.equal(answer, (behind > 0) & (behind <= 3)):
        print("A query must see its own position; the window of 3 contains it.")
    elif torch.equal(answer, behind >= 0):
        print("That is the causal mask: the words further back than the window are missing.")
    else:
        print(f"Not yet: window_mask(6, 3) is\n{answer.int()}\nand should be\n{expected.int()}")


def split_heads(function: Callable[[Tensor, int], Tensor | None]) -> None:
    """Check that a function cuts channels into heads."""
    batch, positions, heads, size = 2, 3, 4, 5
    x = torch.arange(batch * positions * heads * size).view(batch, positions, heads * size)
    answer = function(x, heads)
    expected = x.view(batch, positions, heads, size).transpose(1, 2)
    every_other = x.view(batch, positions, size, heads).permute(0, 3, 1, 2)
    if answer is None:
        print("Not done yet: split_heads returns None. Return a tensor of shape (B, H, T, D).")
    elif _like(answer, expected):
        print("Correct: (2, 3, 20) became (2, 4, 3, 5), and head 0 holds the first 5 channels.")
    elif _shape(answer) == (batch, positions, heads, size):
        print("Close: the shape is (B, T, H, D); now swap positions and heads.")
    elif _shape(answer) != (batch, heads, positions, size):
        print(f"For x of shape (2, 3, 20) and 4 heads expected (2, 4, 3, 5), not {_shape(answer)}.")
    elif _like(answer, x.view(batch, heads, positions, size)):
        print(
            "The shape is right, the numbers are not: reshaping straight to (B, H, T, D) mixes "
            "positions. Cut the channels first, then swap two dimensions."
        )
    elif _like(answer, every_other):
        print("Each head has every fourth channel; it should have 5 neighbouring ones.")
    else:
        print("The shape is right, but the numbers are in the wrong places.")


def attend_in_pieces(function: Callable[[Tensor, Tensor, Tensor, int], Tensor | None]) -> None:
    """Check attention that reads keys and values piece by piece."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 10, 4, generator=generator, dtype=torch.float64)
    expected, _ = attend(q, k, v)
    answer = function(q, k, v, 4)
    if answer is None:
        print("Not done yet: attend_in_pieces returns None. Return a tensor of shape (T, D).")
        return
    scores = q @ k.T
    by_d = (scores / 4).softmax(-1) @ v
    pieces = [attend(q, keys, values)[0] for keys, values in _pieces(k, v, 4)]
    if _like(answer, expected):
        _check_large_scores(function, q, k, v)
    elif _like(answer, by_d):
        print("You divided by D, not by the square root of D.")
    elif _like(answer, scores.softmax(-1) @ v):
        print("The scores are not divided by the square root of D.")
    elif _like(answer, sum(pieces)) or _like(answer, sum(pieces) / len(pieces)):
        print(
            "Each piece has its own softmax; the denominators must be added up over all pieces "
            "before you divide once."
        )
    elif _like(answer, attend(q, k[:8], v[:8])[0]):
        print("The last piece is missing: 10 keys in pieces of 4 are 4, 4 and 2.")
    elif _shape(answer) != (10, 4):
        print(f"For q of shape (10, 4) expected a result of shape (10, 4), not {_shape(answer)}.")
    else:
        print(
            "Not yet. When a later piece brings a larger maximum, what you have summed so far "
            "must be multiplied by exp(old maximum - new maximum): both sums, top and bottom."
        )


def _check_large_scores(
    function: Callable[[Tensor, Tensor, Tensor, int], Tensor | None],
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> None:
    q = 2000 * q
    answer = function(q, k, v, 4)
    if answer is None or not torch.as_tensor(answer).isfinite().all():
        print(
            "Right for small scores, but exp overflows for large ones: subtract the largest "
            "score seen so far before exp."
        )
    elif not all(_like(function(q, k, v, n), attend(q, k, v)[0]) for n in (1, 3, 10, 99)):
        print("Right for pieces of 4 keys, but not for pieces of 1, 3, 10 or 99.")
    else:
        _check_pieces(function)


def _check_pieces(function: Callable[[Tensor, Tensor, Tensor, int], Tensor | None]) -> None:
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(7, 5, generator=generator)
    k, v = torch.randn(2, 11, 5, generator=generator)  # 11 keys, 3 at a time
    with _KeysAtATime(not_keys=(1, 5, 7)) as seen:
        function(q, k, v, 3)
    if seen.most > 3:
        print(
            f"The numbers are right, but {seen.most} keys were compared at a time, where n = 3 "
            "allows 3. `k.split(n)` gives pieces of n keys (`k.chunk(n)` gives n pieces)."
        )
    else:
        print(
            "Correct: equal to attend for pieces of 1, 3, 4, 10 and 99 keys, and for scores in "
            "the thousands; with n = 3 never more than 3 keys at a time."
        )


class _KeysAtATime(TorchFunctionMode):
    """Watch torch's products and remember the largest number of keys in one of them.

    Attributes:
        most: The largest size in a product's result that is none of the known other sizes.
    """

    PRODUCTS = (
        *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "inner", "einsum"),
        *("tensordot", "linear", "addmm", "baddbmm", "mul", "__mul__", "__rmul__", "cdist"),
    )

    def __init__(self, not_keys: Sequence[int]) -> None:
        super().__init__()
        self.not_keys = not_keys
        self.most = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, and look at the sizes of what comes out."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        sizes: Sequence[int] = ()
        if name == "scaled_dot_product_attention":
            key = args[1] if len(args) > 1 else kwargs["key"]
            sizes = (key.size(-2),)
        elif name in self.PRODUCTS and isinstance(result, Tensor):
            sizes = result.shape
        keys = [size for size in sizes if size not in self.not_keys]
        self.most = max([self.most, *keys])
        return result


def _pieces(k: Tensor, v: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(k.split(n), v.split(n), strict=True))


def _shape(answer: object) -> tuple[int, ...] | str:
    return tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__


def _like(answer: object, expected: object) -> bool:
    if not isinstance(answer, Tensor) or not isinstance(expected, Tensor):
        return False
    same_shape = answer.shape == expected.shape
    return same_shape and torch.allclose(answer.double(), expected.double(), atol=1e-5)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 2) for value in values.tolist()]
