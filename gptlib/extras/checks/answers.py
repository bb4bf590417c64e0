"""What the checks of several chapters do with an answer: call it, read it, name a mistake."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

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
