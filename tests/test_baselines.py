"""Naive Bayes: the figures of a textbook, and texts that it has never seen."""

import random

import pytest

from gptlib.classification import LabeledText
from gptlib.extras.baselines import NaiveBayes


def messages(n: int) -> list[LabeledText]:
    draw = random.Random(0)
    ham = [("ham", f"see you at {draw.randrange(10**6)}") for _ in range(n)]
    return ham + [("spam", f"win {draw.randrange(10**6)} pounds") for _ in range(n // 2)]


def test_naive_bayes_gives_the_figures_of_the_textbook() -> None:
    # Manning, Raghavan and Schütze, example 13.1: about China or not.
    records = [
        ("yes", "Chinese Beijing Chinese"),
        ("yes", "Chinese Chinese Shanghai"),
        ("yes", "Chinese Macao"),
        ("no", "Tokyo Japan Chinese"),
    ]
    bayes = NaiveBayes(records)
    p = bayes.predict_probabilities(["Chinese Chinese Chinese Tokyo Japan"])[0]
    yes, no = 3 / 4 * (3 / 7) ** 3 / 14 / 14, 1 / 4 * (2 / 9) ** 3 * 2 / 9 * 2 / 9
    assert p.tolist() == pytest.approx([no / (yes + no), yes / (yes + no)])


def test_unknown_words_leave_the_share_of_the_classes() -> None:
    bayes = NaiveBayes(messages(20))
    for text in ("zebra", "", "?!"):
        assert bayes.predict_probabilities([text])[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert bayes.predict_probabilities([]).shape == (0, 2)


def test_a_long_text_does_not_underflow() -> None:
    p = NaiveBayes(messages(20)).predict_probabilities(["win pounds " * 5000])[0]
    assert p[1] == 1


def test_naive_bayes_refuses_what_it_can_not_count_in() -> None:
    with pytest.raises(ValueError, match=r"labels \['ham'\]; give at least two"):
        NaiveBayes([("ham", "a")])
    with pytest.raises(ValueError, match="smoothing is 0; it must be above 0"):
        NaiveBayes(messages(4), smoothing=0)
    with pytest.raises(ValueError, match="texts is one string, 'win now'; put it into a list"):
        NaiveBayes(messages(4)).predict_probabilities("win now")


def test_three_classes_work_as_two_do() -> None:
    records = [("a", "aaa"), ("b", "bb bb"), ("c", "cc")]
    assert NaiveBayes(records).predict_probabilities(["bb 0"]).argmax() == 1
