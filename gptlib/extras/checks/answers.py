"""What the checks of all chapters do with an answer: call it, read it, name a mistake.

A check is a function that returns what it has to say; `says` prints it. Where there is nothing to
judge, `run` and its kin end the check by raising `Wrong`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

from gptlib.extras.checks import yours

Answer = Callable[..., Any]
"""What the reader wrote."""

P = ParamSpec("P")


class Wrong(Exception):
    """Why an answer is not right yet, in a sentence for its writer."""


def says(judge: Callable[P, str]) -> Callable[P, None]:
    """Make a check that prints the verdict which the function returns."""

    @wraps(judge)
    def check(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            print(judge(*args, **kwargs))
        except Wrong as wrong:
            print(wrong)

    return check


def task(judge: Callable[..., str]) -> Callable[..., None]:
    """Make a check like `says` that keeps a right answer, for later chapters to build on."""
    chapter = judge.__module__.rpartition(".")[2]

    @says
    @wraps(judge)
    def check(*answers: Any) -> str:
        verdict = judge(*answers)  # raises what is not right
        kept = [yours.keep(chapter, answer) for answer in answers]
        return f"{verdict} Kept in work/yours." if all(kept) else verdict

    return check


VIEWED = "After a transpose use reshape or flatten: they copy, view never does."


def run(answer: Answer, *arguments: Any, hints: Mapping[str, str] = {}) -> Any:
    """Return what an answer returns; an unfinished or failing one is `Wrong`.

    Args:
        answer: What to call.
        arguments: What to call it with.
        hints: What to add to an error with this text in its message.
    """
    name = getattr(answer, "__name__", "your function")
    try:
        result = answer(*arguments)
    except NotImplementedError:
        result = None
    except Exception as error:
        reason = f"Not yet: {name} raised {type(error).__name__}: {error}"
        hints = {"view size is not compatible": VIEWED, **hints}
        found = (hint for part, hint in hints.items() if part in str(error))
        raise Wrong("\n".join([reason, *found])) from error
    if result is None or result is Ellipsis or result is NotImplemented:
        raise Wrong(f"Not written yet: {name} returns nothing.")
    return result


def number_of(answer: Answer, *arguments: Any, wanted: str) -> float:
    """Call an answer that gives one number; `wanted` tells the reader which."""
    result = run(answer, *arguments)
    value = number(result)
    if value is None:
        raise Wrong(f"Not yet: {what(result)}; return one number, {wanted}.")
    return value


def tensor_of(answer: Answer, *arguments: Any, shape: tuple[int, ...]) -> Tensor:
    """Call an answer that gives a tensor of this shape."""
    result = run(answer, *arguments)
    if not isinstance(result, Tensor) or result.shape != shape:
        raise Wrong(f"Not yet: {what(result)}; return a tensor of shape {shape}.")
    return result


def attempt(answer: Answer, *arguments: Any) -> Any:
    """Call an answer; None if it gives no result."""
    with suppress(Wrong):
        return run(answer, *arguments)
    return None


def number(value: Any) -> float | None:
    """Read a number or a tensor of one; None is anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, int | float) else None


def what(value: Any) -> str:
    """Say in words what was returned."""
    if isinstance(value, Tensor):
        return f"you return a tensor of shape {tuple(value.shape)}"
    return f"you return {type(value).__name__}"


def close(value: Any, expected: Any, atol: float = 1e-5) -> bool:
    """Compare a value with a number, a tensor or a list of them, up to rounding."""
    if isinstance(expected, Tensor):
        same_shape = isinstance(value, Tensor) and value.shape == expected.shape
        return same_shape and torch.allclose(
            value.double(), expected.double(), 1e-4, atol, equal_nan=True
        )
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(close, value, expected))
    found = number(value)
    return found is not None and math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-5)


def named(value: Any, mistakes: Mapping[str, Any]) -> str | None:
    """Find the mistake that leads to this value."""
    return next((text for text, wrong in mistakes.items() if close(value, wrong)), None)


def expect(
    value: Any,
    right: Tensor,
    causes: Mapping[str, Tensor],
    name: str,
    *,
    atol: float = 1e-5,
    otherwise: str = "Compare one row by hand.",
) -> None:
    """Raise `Wrong` unless a tensor is right, with the cause that leads to this very tensor."""
    if not isinstance(value, Tensor):
        raise Wrong(f"Not yet: {name} must be a tensor; {what(value)}.")
    if _same(value, right, atol):
        return
    for cause, wrong in causes.items():
        if _same(value, wrong, atol):
            raise Wrong(f"Not yet: {cause}.")
    if value.shape != right.shape:
        shapes = f"{tuple(right.shape)}, not {tuple(value.shape)}"
        raise Wrong(f"Not yet: {name} must have shape {shapes}.")
    if value.isnan().any():
        raise Wrong(f"Not yet: {name} has nan in it. 0 · ∞ is nan, and so is a row all of -∞.")
    raise Wrong(f"Not yet: {name} has the right shape but other numbers. {otherwise}")


def _same(value: Tensor, other: Tensor, atol: float) -> bool:
    same_kind = (value.dtype == torch.bool) == (other.dtype == torch.bool)
    return same_kind and close(value, other, atol)
