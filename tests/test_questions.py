"""`gptlib.extras.questions`: every answer is right, found here without a look at its maker."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from gptlib.extras.questions import KNOWN, NEW, TASKS, make_records

Record = dict[str, str]
NUMBERS = ["no", "one", "two", "three", "four", "five", "six"]


def only(found: set[str]) -> str:
    """The one member; no answer matches when there are more or none."""
    return found.pop() if len(found) == 1 else f"one of {sorted(found)}"


def words(record: Record) -> list[str]:
    return re.findall(r"[A-Za-z]+", record["input"])


def longest(record: Record) -> str:
    most = max(len(word) for word in words(record))
    return only({word for word in words(record) if len(word) == most})


SOLVERS: dict[str, Callable[[Record], str]] = {
    "first-word": lambda record: words(record)[0],
    "last-word": lambda record: words(record)[-1],
    "longest-word": longest,
    "count-words": lambda record: NUMBERS[len(words(record))],
    "find-name": lambda record: only({*KNOWN.names, *NEW.names} & {*words(record)}),
    "find-city": lambda record: only({*KNOWN.cities, *NEW.cities} & {*words(record)}),
}


@pytest.mark.parametrize("stock", [KNOWN, NEW], ids=["known", "new"])
def test_every_answer_is_right(stock: object) -> None:
    records = make_records(30, 0, KNOWN if stock is KNOWN else NEW)
    wrong = [record for record in records if SOLVERS[record["task"]](record) != record["output"]]
    assert wrong == []


def test_each_task_has_as_many_records_as_are_asked_for_and_no_input_twice() -> None:
    records = make_records(600, 1)
    assert Counter(record["task"] for record in records) == dict.fromkeys(TASKS, 600)
    assert len({(record["task"], record["input"]) for record in records}) == len(records)


def test_records_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert make_records(5, 3) == make_records(5, 3) != make_records(5, 4)


def test_a_task_has_several_wordings_of_its_own() -> None:
    asked = [wording for _, wordings in TASKS.values() for wording in wordings]
    assert len(asked) == len(set(asked)) >= 3 * len(TASKS)


def test_the_answers_of_a_task_are_not_all_alike() -> None:
    for task in TASKS:
        answers = Counter(r["output"] for r in make_records(200, 0) if r["task"] == task)
        assert max(answers.values()) <= 0.3 * answers.total(), task


def test_known_and_new_share_nothing() -> None:
    for field in fields(KNOWN):
        known, new = getattr(KNOWN, field.name), getattr(NEW, field.name)
        assert len({*known, *new}) == len(known) + len(new), field.name


def test_one_part_of_the_stock_can_be_new() -> None:
    records = make_records(20, 0, replace(KNOWN, names=NEW.names))
    answers = {record["output"] for record in records if record["task"] == "find-name"}
    assert answers <= {*NEW.names}


def test_a_stock_that_is_too_small_is_refused_instead_of_searched_for_ever() -> None:
    with pytest.raises(ValueError, match="the stock has too few different inputs for 600 of find-"):
        make_records(600, 0, replace(NEW, words=KNOWN.words))
