"""What the checks of all chapters do with an answer: call it, read it, name a mistake.

A check is a function that returns what it has to say; `says` prints it. Where there is nothing to
judge, `run` and its kin end the check by raising `Wrong`.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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


class Endless(BaseException):
    """What stops an answer that goes on and on; its own `except Exception` doesn't hold it."""


SECONDS, MEGABYTES = 5, 1000
"""What a check may use: processor time, which a busy machine doesn't shorten, and memory."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise `Endless` above the limits: on the main thread, where the system has SIGALRM."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() != threading.main_thread():
        yield
        return
    import resource  # not on Windows

    def peak() -> int:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most >> (20 if sys.platform == "darwin" else 10)  # bytes, elsewhere KB

    end, full = time.thread_time() + SECONDS, peak() + MEGABYTES

    def look(*_: object) -> None:
        if peak() > full:
            raise Endless(f"was stopped at {MEGABYTES:,} MB. Does a list grow without end?")
        if time.thread_time() > end:
            raise Endless(f"was stopped after {SECONDS} seconds. Does its loop ever end?")

    before = signal.signal(signal.SIGALRM, look)
    timer = signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def says(judge: Callable[P, str]) -> Callable[P, None]:
    """Make a check that prints the verdict which the function returns, long lines cut."""

    @wraps(judge)
    def check(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with limited():
                verdict = judge(*args, **kwargs)
        except Wrong as wrong:
            verdict = str(wrong)
        except Endless as endless:
            verdict = f"Not yet: your code {endless}"
        for line in verdict.splitlines():
            print(line if len(line) <= 320 else f"{line[:160]} … {line[-100:]}")

    return check


def task(judge: Callable[..., str]) -> Callable[..., None]:
    """Make a check like `says` that keeps a right answer, for later chapters to build on."""
    chapter = judge.__module__.rpartition(".")[2]

    @says
    @wraps(judge)
    def check(*answers: Any) -> str:
        verdict = judge(*answers)  # raises what is not right
        if not all(yours.keep(chapter, answer) for answer in answers):
            return verdict
        strange = [name for a in answers for name in yours.from_other_cells(chapter, a)]
        but = f", but {', '.join(strange)} stands in another cell: copy it into this one"
        return f"{verdict} Kept in work/yours{but * bool(strange)}."

    return check


POWER = "In Python ** comes before /, so write ** 0.5, not ** 1/2"
"""What to say of a square root that came out as a half."""
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
    except NotImplementedError as error:
        if "[ModuleList]" in str(error):
            reason = "a ModuleList can't be called; go through what it holds with a loop."
            raise Wrong(f"Not yet: {reason}") from error
        result = None
    except (Exception, Endless) as error:
        raised = "" if isinstance(error, Endless) else f"raised {type(error).__name__}: "
        reason = f"Not yet: {name} {raised}{error}"
        hints = {"view size is not compatible": VIEWED, **hints}
        found = (hint for part, hint in hints.items() if part in str(error))
        raise Wrong("\n".join([reason, *found])) from error
    if result is None or result is Ellipsis or result is NotImplemented:
        printed = "print" in getattr(getattr(answer, "__code__", None), "co_names", ())
        more = " It prints; return the result instead." if printed else ""
        raise Wrong(f"Not written yet: {name} returns nothing.{more}")
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
    otherwise: str = "",
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
    more = otherwise or _first_difference(value, right, atol)
    raise Wrong(f"Not yet: the shape is right, but {name} should hold other numbers. {more}")


def _first_difference(value: Tensor, right: Tensor, atol: float) -> str:
    """Show the first row that is wrong beside the right one."""
    wrong = (value.double() - right.double()).abs() > atol + 1e-4 * right.double().abs()
    if not wrong.any():
        return f"They are of dtype {value.dtype}, and should be of {right.dtype}."
    if not right.dim():
        return f"It is {value:.4g}, and should be {right:.4g}."
    place = tuple(wrong.nonzero()[0, :-1].tolist())
    rows = ([f"{x:.4g}" for x in part[place].tolist()[:5]] for part in (value, right))
    mine, theirs = (", ".join(row) + " …" * (right.size(-1) > 5) for row in rows)
    where = f"[{', '.join(map(str, place))}]" if place else "it"
    return f"At {where} stands {mine}; it should be {theirs}."


def _same(value: Tensor, other: Tensor, atol: float) -> bool:
    same_kind = (value.dtype == torch.bool) == (other.dtype == torch.bool)
    return same_kind and close(value, other, atol)
