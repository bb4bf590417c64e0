"""What the checks of several chapters do with an answer: call it, read it, name a mistake."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gptlib.extras.checks import yours

Answer = Callable[..., Any]
"""What the reader wrote."""


def call(answer: Answer, *arguments: Any) -> tuple[Any, str]:
    """Return the answer's result, and a sentence if there is none."""
    try:
        result = answer(*arguments)
    except NotImplementedError:
        return None, "Not done yet: replace the `...` with your code."
    except Exception as error:
        return None, f"Not yet: your code raised {type(error).__name__}: {error}"
    if result is None or result is Ellipsis or result is NotImplemented:
        return None, "Not done yet: the function returns nothing so far."
    return result, ""


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


def close(value: float, expected: float) -> bool:
    """Compare two numbers up to rounding."""
    return math.isclose(value, expected, rel_tol=1e-4, abs_tol=1e-5)


def named(value: float, mistakes: dict[str, float]) -> str | None:
    """Find the mistake that leads to this number."""
    return next((text for text, wrong in mistakes.items() if close(value, wrong)), None)


class Wrong(Exception):
    """Why an answer is not right yet, in a sentence for its writer."""


def task(judge: Callable[..., str]) -> Callable[..., None]:
    """Make a check of a function that returns what is right, or raises `Wrong`.

    The check prints either, and keeps a right answer for later chapters.
    """

    @functools.wraps(judge)
    def check(*answers: Any) -> None:
        try:
            said = judge(*answers)
        except Wrong as wrong:
            print(wrong)
            return
        kept = [yours.keep(judge.__module__.rpartition(".")[2], answer) for answer in answers]
        print(f"Right: {said}{' Kept in work/yours.' if all(kept) else ''}")

    return check


def run(answer: Answer, *arguments: Any) -> Any:
    """Return what an answer returns; an unfinished or failing one is `Wrong`."""
    name = getattr(answer, "__name__", "your function")
    try:
        result = answer(*arguments)
    except Exception as error:
        text = f"Not yet: {name} raised {type(error).__name__}: {error}"
        if "view size is not compatible" in str(error):
            text += "\nAfter a transpose use reshape or flatten, which may copy; view never does."
        raise Wrong(text) from error
    if result is None or result is Ellipsis:
        raise Wrong(f"Not written yet: {name} returns nothing.")
    return result


def compare(
    value: Any, right: Tensor, causes: Mapping[str, Tensor | None], name: str, *, atol: float = 1e-5
) -> None:
    """Raise `Wrong` unless a tensor is right, with the cause that leads to this very tensor."""
    if not isinstance(value, Tensor):
        raise Wrong(f"Not yet: {name} must be a tensor; {what(value)}.")
    if _same(value, right, atol):
        return
    for cause, wrong in causes.items():
        if wrong is not None and _same(value, wrong, atol):
            raise Wrong(f"Not yet: {cause}.")
    if value.shape != right.shape:
        shapes = f"{tuple(right.shape)}, not {tuple(value.shape)}"
        raise Wrong(f"Not yet: {name} must have shape {shapes}.")
    if value.isnan().any():
        raise Wrong(f"Not yet: {name} has nan in it. 0 · ∞ is nan, and so is a row all of -∞.")
    raise Wrong(f"Not yet: {name} has the right shape but other numbers. Compare one row by hand.")


def _same(value: Tensor, other: Tensor, atol: float) -> bool:
    if value.shape != other.shape:
        return False
    close = torch.allclose(value.double(), other.double(), atol=atol, equal_nan=True)
    return close and (value.dtype == torch.bool) == (other.dtype == torch.bool)
