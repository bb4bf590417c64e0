"""Checks of the exercises of chapter 8: each says what is right, or which step is off."""

from collections.abc import Sequence
from typing import Any

import torch

from gptlib.classification import Confusion, LabeledText, confusion
from gptlib.extras.checks.answers import Answer, attempt, close, named, number_of, says, tensor_of


@says
def count_twins(answer: Answer) -> str:
    """Check `count_twins(train, test)`, exercise 1."""
    train: list[LabeledText] = [
        ("spam", "WIN £100 now!"),
        ("ham", "ok"),
        ("ham", "See you at 8"),
        ("spam", "Call 0800 123"),
        ("spam", "win £500, now"),
        ("ham", "OK."),
    ]
    test: list[LabeledText] = [
        ("spam", "win £250 NOW"),
        ("spam", "Win £999 now"),
        ("ham", "ok"),
        ("spam", "See you at 9."),
        ("ham", "on my way"),
        ("ham", "lunch?"),
    ]
    value = number_of(answer, list(train), list(test), wanted="how many test records have a twin")
    mistakes = {
        "You compared the texts as they are; twins are the same only when normalised.": 1,
        "You counted each different text once; count every test record that has a twin.": 3,
        "You counted those without a twin.": len(test) - 4,
        "You returned a share; return the number of records.": 4 / len(test),
        "You counted the training records that have a twin; count the test records.": 5,
        "You counted pairs; a test record with two twins is one record.": 7,
    }
    if _without_label(answer) is False:
        return "Not yet: a twin with another label is a twin too; compare the texts alone."
    if close(value, 4):
        empty = attempt(answer, [], list(test))
        return (
            "Correct: 4 of the 6 test records have a twin."
            if close(empty, 0)
            else "Right, except that with no training records there is no twin: return 0."
        )
    return named(value, mistakes) or f"Not yet: 4 test records have a twin, you say {value:g}."


def _without_label(answer: Answer) -> bool | None:
    """Whether a twin with another label counts; None if plain twins are not found either."""
    plain = attempt(answer, [("ham", "ok")], [("ham", "OK")])
    mixed = attempt(answer, [("ham", "ok")], [("spam", "OK")])
    return close(mixed, 1) if close(plain, 1) else None


@says
def f_beta(answer: Answer) -> str:
    """Check `f_beta(found, beta)`, exercise 2."""
    found = Confusion(6, 2, 4, 88)
    p, r = found.precision, found.recall
    value = number_of(answer, found, 2.0, wanted="F for this beta")

    def formula(weight: float, a: float, b: float) -> float:
        return (1 + weight) * a * b / (weight * a + b)

    mistakes = {
        "That is F1; beta changes nothing in your formula.": found.f1,
        "You left beta as it is; the formula has its square.": formula(2, p, r),
        "Precision and recall are swapped: beta² multiplies the precision below the line.": (
            formula(4, r, p)
        ),
        "You took a weighted mean; this one is harmonic.": (p + 4 * r) / 5,
        "You forgot the factor 1 + beta² above the line.": formula(4, p, r) / 5,
        "Without brackets only beta² is a factor; write (1 + beta²).": 1 + formula(4, p, r) * 4 / 5,
    }
    right = formula(4, p, r)
    if not close(value, right):
        return named(value, mistakes) or f"Not yet: F2 is {right:.4f} here, you say {value:.4f}."
    if not close(attempt(answer, Confusion(0, 0, 3, 5), 2.0), 0):
        return "Right, except where nothing was found: precision and recall are 0, and so is F."
    if not close(attempt(answer, Confusion(1, 9, 9, 81), 2.0), 0.1):
        return "Right, except where precision and recall are small: divide by the sum as it is."
    return "Correct: beta 2 leans towards recall, beta 1 is F1, and finding nothing gives 0."


@says
def max_states(answer: Answer) -> str:
    """Check `max_states(x, last)`, exercise 3."""
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0)) - 2.0  # (B, T, C)
    last = torch.tensor([4, 2, 0])
    padding = torch.arange(5) > last[:, None]
    x[padding] = 0.0  # greater than nearly all that is real
    got = tensor_of(answer, x.clone(), last.clone(), shape=(3, 2))
    right = x.masked_fill(padding[..., None], -torch.inf).amax(dim=1)
    one_less = padding | (torch.arange(5) == last[:, None])
    mistakes = {
        "You took padding in; its zeros beat what is real and below 0.": x.amax(dim=1),
        "You picked the last state; take the greatest value of each channel over all real ones.": (
            x[torch.arange(3), last]
        ),
        "You took the mean; take the greatest value.": (
            (x * ~padding[..., None]).sum(dim=1) / (last + 1)[:, None]
        ),
        "One token too few: `last` is a place, and the token there is real.": (
            x.masked_fill(one_less[..., None], -torch.inf).amax(dim=1)
        ),
        "You took the smallest value; take the greatest.": (
            x.masked_fill(padding[..., None], torch.inf).amin(dim=1)
        ),
    }
    if close(got, right):
        return "Correct: the greatest value of each channel, whatever the padding holds."
    return named(got, mistakes) or "Not yet: row 2 has one real token; its state is the answer."


@says
def cheapest_threshold(answer: Answer) -> str:
    """Check `cheapest_threshold(truth, probabilities, alarm_cost, miss_cost)`, exercise 4."""
    truth = [True, False, True, True, False, True, False, False]
    probabilities = [0.95, 0.9, 0.8, 0.6, 0.5, 0.4, 0.2, 0.1]
    prices = [(1.0, 10.0), (10.0, 1.0), (3.0, 2.0)]
    results = []
    for alarm_cost, miss_cost in prices:
        case = (list(truth), list(probabilities), alarm_cost, miss_cost)
        results.append(number_of(answer, *case, wanted="the threshold alone"))
    tables = [_costs(truth, probabilities, *price) for price in prices]
    swapped = [_costs(truth, probabilities, miss, alarm) for alarm, miss in prices]
    best = [min(costs, key=lambda p: costs[p]) for costs in tables]
    mistakes = {
        "The costs are swapped: a false alarm is a false positive, a miss a false negative.": [
            min(costs, key=lambda p: costs[p]) for costs in swapped
        ],
        "You return the lowest cost; return the threshold that has it.": [
            min(costs.values()) for costs in tables
        ],
        "That is the dearest threshold; take the smallest cost.": [
            max(costs, key=lambda p: costs[p]) for costs in tables
        ],
        "That threshold is right where probabilities can be trusted; search these instead.": [
            alarm / (alarm + miss) for alarm, miss in prices
        ],
    }
    if close(results, best):
        return "Correct: dear misses lower the threshold, dear false alarms raise it."
    if mistake := named(results, mistakes):
        return mistake
    if close(results, [results[0]] * len(prices)):
        return "Your threshold doesn't depend on the costs; weigh the two kinds of error with them."
    told = zip(prices, best, results, strict=True)
    wrong = next(case for case in told if not close(case[1], case[2]))
    (alarm_cost, miss_cost), right, value = wrong
    return f"Not yet: with costs {alarm_cost:g} and {miss_cost:g} it is {right}, you say {value:g}."


def _costs(
    truth: Sequence[bool], probabilities: Sequence[float], alarm_cost: float, miss_cost: float
) -> dict[float, float]:
    costs: dict[float, float] = {}
    for threshold in probabilities:
        found: Any = confusion(truth, [p >= threshold for p in probabilities])
        costs[threshold] = alarm_cost * found.false_positives + miss_cost * found.false_negatives
    return costs
