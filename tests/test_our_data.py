"""The data written for this course has the form that it should have."""

import copy
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from gptlib.extras import datasets
from gptlib.tokenizer import BPETokenizer

DATA = Path(__file__).resolve().parents[1] / "data"
Record = dict[str, str]

FIELDS = ("instruction", "input", "output", "task")
MOST_TOKENS = 200  # the small model's context of 256, less the prompt form of chapter 9
LEAST = 150
MOST_WORDS = 30


# What must hold of the instructions


def form_faults(record: Record) -> list[str]:
    """What is wrong with one record."""
    if tuple(record) != FIELDS:
        return [f"fields {tuple(record)}"]
    faults = []
    for field in FIELDS:
        text = record[field]
        if not re.fullmatch(r"[A-Za-z0-9 .,;:!?'\"+-]*", text):
            faults.append(f"a character out of the ordinary in {field}: {text!r}")
        if text != " ".join(text.split()):
            faults.append(f"space too many in {field}: {text!r}")
        if not text and field != "input":
            faults.append(f"empty {field}")
    if record["task"] != "free":
        faults.append(f"unknown task {record['task']!r}")
    if len(record["output"].split()) > MOST_WORDS:
        faults.append(f"long answer: {record['output']!r}")
    text = "\n".join(record[field] for field in FIELDS[:3])
    if len(text) > MOST_TOKENS < len(tokenizer().encode(text)):  # a character is a token at most
        faults.append(f"long record: {record['instruction']!r}")
    return faults


def faults_of(records: list[Record]) -> list[str]:
    """Everything that is wrong, in words."""
    malformed = [fault for record in records for fault in form_faults(record)]
    if malformed:
        return malformed
    asked = Counter((record["instruction"], record["input"]) for record in records)
    faults = [f"twice: {each}" for each, times in asked.items() if times > 1]
    if len(records) < LEAST:
        faults.append(f"only {len(records)}")
    answers = Counter(record["output"] for record in records)
    for each, times in answers.items():
        if times > 1 and len(each.split()) > 3:  # "good news" may answer twice, a sentence not
            faults.append(f"{each!r} answers {times} records")
    return faults


@cache
def tokenizer() -> BPETokenizer:
    return BPETokenizer.load(DATA / "models" / "novels")


@pytest.fixture
def records() -> list[Record]:
    return copy.deepcopy(datasets.instructions())


def test_the_instructions_have_no_fault(records: list[Record]) -> None:
    assert faults_of(records) == []


# The checks can fail


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"output": ""}, "empty output"),
        ({"output": "a “word”"}, "a character out of the ordinary in output"),
        ({"input": " horse"}, "space too many in input"),
        ({"task": "sing"}, "unknown task 'sing'"),
        ({"output": "well " * 30 + "well"}, "long answer"),
        ({"input": "snow " * 250 + "snow"}, "long record"),
        ({"note": "one field too many"}, "fields ('instruction', 'input', 'output', 'task', 'n"),
    ],
)
def test_a_malformed_record_is_found(change: Record, fault: str, records: list[Record]) -> None:
    records[0].update(change)
    found = faults_of(records)
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_a_repeated_record_is_found(records: list[Record]) -> None:
    assert faults_of([*records, {**records[0]}])[0].startswith("twice: ")


def test_too_few_records_are_found(records: list[Record]) -> None:
    assert faults_of(records[:9]) == ["only 9"]


def test_one_answer_for_two_questions_is_found(records: list[Record]) -> None:
    records[0]["output"] = records[1]["output"]
    assert faults_of(records) == [f"{records[0]['output']!r} answers 2 records"]


# The messages that take the collection's place


LINE = re.compile(r"(ham|spam)\t([^\t]+)")
FICTION = re.compile(r"0808157\d{4}|0909879\d{4}|07700900\d{3}|555\d\d")


def messages() -> list[tuple[str, str]]:
    text = (DATA / "stand-in-sms-spam.tsv").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [(line.split("\t", 1)[0], line.split("\t", 1)[1]) for line in text[:-1].split("\n")]


def message_faults(pairs: list[tuple[str, str]]) -> list[str]:
    """What is wrong with the messages, in words."""
    faults = []
    for label, text in pairs:
        if not LINE.fullmatch(f"{label}\t{text}") or text != text.strip():
            faults.append(f"not a line of the collection: {label}, {text!r}")
        if not text.isascii() and not text.replace("£", "").isascii():
            faults.append(f"a character out of the ordinary: {text!r}")
        for number in re.findall(r"(?<![£\d,.])\d{5,}", text):
            if not FICTION.fullmatch(number):
                faults.append(f"a number that may be someone's: {number}")
        for address in re.findall(r"(?:www\.|http)\S+", text):
            if ".example" not in address:
                faults.append(f"an address that may be someone's: {address}")
    repeats = len(pairs) - len(set(pairs))
    if not 0.02 <= repeats / len(pairs) <= 0.05:
        faults.append(f"{repeats} repeats")
    if len({text for _, text in pairs}) != len(set(pairs)):
        faults.append("one message with two labels")
    spam = sum(label == "spam" for label, _ in pairs) / len(pairs)
    if not 0.15 <= spam <= 0.25:
        faults.append(f"{spam:.0%} spam")
    openings = Counter(tuple(text.lower().split()[:3]) for _, text in set(pairs))
    faults += [f"{times} begin {' '.join(each)}" for each, times in openings.items() if times > 3]
    return faults


def test_the_messages_have_no_fault() -> None:
    assert message_faults(messages()) == []
    assert len(messages()) >= 300


def test_the_messages_are_short_and_long_in_both_classes() -> None:
    for label, short, long in (("ham", 10, 160), ("spam", 45, 130)):
        lengths = sorted(len(text) for each, text in messages() if each == label)
        assert lengths[2] <= short
        assert lengths[-3] >= long


@pytest.mark.parametrize(
    ("pair", "fault"),
    [
        (("egg", "Hello there"), "not a line of the collection: egg"),
        (("ham", ""), "not a line of the collection: ham"),
        (("ham", "tab\tin it"), "not a line of the collection: ham"),
        (("ham", "smile 🙂"), "a character out of the ordinary"),
        (("spam", "Ring 09061701461 now"), "a number that may be someone's: 09061701461"),
        (("spam", "See www.prizes.com now"), "an address that may be someone's: www.prizes.com"),
        (("spam", "Ok"), "one message with two labels"),
    ],
)
def test_a_wrong_message_is_found(pair: tuple[str, str], fault: str) -> None:
    found = message_faults([*messages(), pair])
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_wrong_shares_of_the_messages_are_found() -> None:
    ham = [pair for pair in messages() if pair[0] == "ham"]
    assert message_faults(ham) == ["0% spam"]
    assert message_faults(list(dict.fromkeys(messages()))) == ["0 repeats"]
    alike = [("spam", f"Win a prize number {n}") for n in range(9)]
    assert message_faults([*messages(), *alike]) == ["9 begin win a prize"]
