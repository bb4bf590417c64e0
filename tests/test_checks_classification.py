"""The checks of chapter 8's exercises: unfinished, each named mistake, correct."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptlib.classification import average_real, confusion, normalize, pick_last
from gptlib.extras.checks import classification as checks


def threshold_curve(truth: Any, p: Any) -> Any:
    return [
        (t, confusion(truth, [value >= t for value in p])) for t in sorted(set(p), reverse=True)
    ]


def texts(records: Any) -> list[str]:
    return [normalize(text) for _, text in records]


def twins(train: Any, test: Any) -> int:
    return sum(text in set(texts(train)) for text in texts(test))


def labelled_twins(train: Any, test: Any) -> int:
    known = {(label, normalize(text)) for label, text in train}
    return sum((label, normalize(text)) in known for label, text in test)


def f(weight: Callable[[float], float], swap: bool = False, factor: bool = True) -> Any:
    def score(found: Any, beta: float) -> float:
        p, r = found.precision, found.recall
        if swap:
            p, r = r, p
        w = weight(beta)
        return (1 + w if factor else 1.0) * p * r / (w * p + r) if p + r else 0.0

    return score


def padding(x: Any, last: Any) -> Any:
    return (torch.arange(x.shape[1]) > last[:, None])[..., None]


def greatest(x: Any, last: Any) -> Any:
    return x.masked_fill(padding(x, last), -torch.inf).amax(1)


def cost(found: Any, alarm: float, miss: float) -> float:
    return alarm * found.false_positives + miss * found.false_negatives


def threshold(truth: Any, p: Any, alarm: float, miss: float) -> float:
    return min(threshold_curve(truth, p), key=lambda point: cost(point[1], alarm, miss))[0]


def lowest_cost(truth: Any, p: Any, alarm: float, miss: float) -> float:
    return min(cost(found, alarm, miss) for _, found in threshold_curve(truth, p))


def dearest(truth: Any, p: Any, alarm: float, miss: float) -> float:
    return max(threshold_curve(truth, p), key=lambda point: cost(point[1], alarm, miss))[0]


def priced_hits(truth: Any, p: Any, alarm: float, miss: float) -> float:
    def price(point: Any) -> float:
        return alarm * point[1].true_positives + miss * point[1].false_negatives

    return min(threshold_curve(truth, p), key=price)[0]


def best_f1(truth: Any, p: Any, alarm: float, miss: float) -> float:
    return max(p, key=lambda t: confusion(truth, [value >= t for value in p]).f1)


CASES: dict[str, list[tuple[Callable[..., Any], str]]] = {
    "count_twins": [
        (lambda a, b: ..., "Not written yet"),
        (lambda a, b: [], "you return list; return one number"),
        (lambda a, b: a.no_such_thing, "raised AttributeError"),
        (lambda a, b: sum(t in [x for _, x in a] for _, t in b), "as they are"),
        (lambda a, b: len(set(texts(a)) & set(texts(b))), "each different text once"),
        (lambda a, b: len(b) - twins(a, b), "those without a twin"),
        (lambda a, b: twins(a, b) / len(b), "You returned a share"),
        (labelled_twins, "compare the texts alone"),
        (lambda a, b: twins(a, b) if a else 9, "with no training records"),
        (lambda a, b: twins(b, a), "You counted the training records"),
        (lambda a, b: sum(t == u for t in texts(a) for u in texts(b)), "You counted pairs"),
        (lambda a, b: 77, "Not yet: 4 test records have a twin, you say 77"),
        (twins, "Correct"),
    ],
    "f_beta": [
        (lambda c, beta: None, "Not written yet"),
        (lambda c, beta: "x", "you return str"),
        (lambda c, beta: c.f1, "That is F1"),
        (f(lambda beta: beta), "beta as it is"),
        (f(lambda beta: beta**2, swap=True), "swapped"),
        (lambda c, beta: (c.precision + beta**2 * c.recall) / (1 + beta**2), "weighted mean"),
        (f(lambda beta: beta**2, factor=False), "forgot the factor"),
        (
            lambda c, beta: 1 + 4 * c.precision * c.recall / (4 * c.precision + c.recall),
            "Without brackets",
        ),
        (
            lambda c, beta: 5 * c.precision * c.recall / max(1, 4 * c.precision + c.recall),
            "except where precision and recall are small",
        ),
        (lambda c, beta: 0.1234, "Not yet: F2 is 0.6250 here, you say 0.1234"),
        (
            lambda c, beta: 5 * c.precision * c.recall / (4 * c.precision + c.recall),
            "where nothing was found",
        ),
        (f(lambda beta: beta**2), "Correct"),
    ],
    "max_states": [
        (lambda x, last: ..., "Not written yet"),
        (
            lambda x, last: x.mean(-1),
            r"you return a tensor of shape \(3, 5\); return a tensor of shape",
        ),
        (lambda x, last: x.amax(1), "You took padding in"),
        (pick_last, "You picked the last state"),
        (average_real, "You took the mean"),
        (lambda x, last: greatest(x, last - 1), "One token too few"),
        (lambda x, last: -greatest(-x, last), "the smallest value"),
        (lambda x, last: torch.zeros(3, 2) + 9, "Not yet: row 2 has one real token"),
        (greatest, "Correct"),
    ],
    "cheapest_threshold": [
        (lambda *given: ..., "Not written yet"),
        (lambda *given: [], "you return list; return one number, the threshold alone"),
        (lambda *given: (0.5, 1.0), "you return tuple; return one number, the threshold alone"),
        (lambda t, p, a, m: threshold(t, p, m, a), "The costs are swapped"),
        (lowest_cost, "You return the lowest cost"),
        (best_f1, "doesn't depend on the costs"),
        (dearest, "dearest threshold"),
        (lambda t, p, a, m: a / (a + m), "can be trusted"),
        (
            lambda t, p, a, m: confusion(t, t),
            "you return Confusion; return one number, the threshold alone",
        ),
        (priced_hits, "Not yet: with costs 3 and 2 it is 0.6"),
        (threshold, "Correct"),
    ],
}


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [(name, answer, expected) for name, cases in CASES.items() for answer, expected in cases],
)
def test_a_check_says_what_is_wrong(
    name: str, answer: Callable[..., Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(checks, name)(answer)
    said = capsys.readouterr().out
    assert re.search(expected, said), said
    assert len(said.strip().splitlines()) == 1
