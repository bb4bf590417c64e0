"""The data written for this course is right: every answer that can be computed is computed."""

import copy
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from gptlib.extras import datasets
from gptlib.tokenizer import BPETokenizer

DATA = Path(__file__).resolve().parents[1] / "data"
Record = dict[str, str]

FIELDS = ("instruction", "input", "output", "task")
MOST_TOKENS = 200  # the small model's context of 256, less the prompt form of chapter 9
LEAST_PER_TASK = 40
LEAST_FREE = 150
MOST_WORDS = 30

IRREGULAR_PAST = """
    begin began, break broke, bring brought, come came, drink drank, eat ate, fall fell, feel felt,
    find found, give gave, go went, hear heard, keep kept, know knew, leave left, make made,
    ride rode, run ran, say said, see saw, send sent, sing sang, sit sat, sleep slept,
    speak spoke, stand stood, take took, tell told, think thought, write wrote
"""
IRREGULAR_PLURAL = """
    child children, foot feet, goose geese, knife knives, leaf leaves, life lives, man men,
    mouse mice, tooth teeth, wife wives, wolf wolves, woman women
"""
CONTRARIES = """
    above below, after before, bad good, begin end, big small, closed open, cold hot, dark light,
    day night, down up, dry wet, early late, empty full, enemy friend, far near, fast slow,
    first last, give take, happy sad, hard soft, hate love, high low, inside outside, long short,
    narrow wide, old young, peace war, poor rich, right wrong, strong weak
"""
PEOPLE = """
    Alexander Andrew Anna Boris Catherine Daniel Helen Ivan Julie Lise Mary Michael Nicholas Paul
    Peter Pierre Simon Sophie Thomas Vera
"""
TOWNS = """
    Berlin Kiev London Madrid Moscow Odessa Paris Petersburg Prague Riga Rome Smolensk Tula Venice
    Vienna Warsaw
"""


# How each answer is found, without a look at the script that made it


def table(text: str) -> dict[str, str]:
    """Read pairs of words, separated by commas."""
    pairs = (pair.split() for pair in text.split(","))
    return {pair[0]: pair[1] for pair in pairs}


def only(found: set[str]) -> str:
    """The one member; no answer matches when there are more or none."""
    return found.pop() if len(found) == 1 else f"one of {sorted(found)}"


def longest(words: list[str]) -> str:
    most = max(len(word) for word in words)
    return only({word for word in words if len(word) == most})


def past(verb: str) -> str:
    if verb in table(IRREGULAR_PAST):
        return table(IRREGULAR_PAST)[verb]
    if verb.endswith("e"):
        return verb + "d"
    if re.search("[^aeiou]y$", verb):
        return verb[:-1] + "ied"
    if verb in ("stop", "beg"):  # one syllable, one vowel, one consonant
        return verb + verb[-1] + "ed"
    return verb + "ed"


def many(noun: str) -> str:
    if noun in table(IRREGULAR_PLURAL):
        return table(IRREGULAR_PLURAL)[noun]
    if re.search("[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search("(s|x|ch|sh)$", noun) else "s")


def contrary(word: str) -> str:
    pairs = table(CONTRARIES).items()
    return only({other for pair in pairs if word in pair for other in pair if other != word})


def asked_word(record: Record) -> str:
    quoted = re.search(r'"(\w+)"', record["instruction"])
    present = quoted and re.search(rf"\b{quoted[1]}\b", record["input"], re.IGNORECASE)
    return "yes" if present else "no"


def of_a_woman(sentence: str) -> str:
    for he, she in (
        (r"\bhe\b", "she"),
        (r"\bHe\b", "She"),
        (r"\bhis\b", "her"),
        (r"\bHis\b", "Her"),
        (r"\bhimself\b", "herself"),
        (r"\bhim\b", "her"),
        (r"\bman\b", "woman"),
    ):
        sentence = re.sub(he, she, sentence)
    return sentence


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


NUMBERS = ["no", "one", "two", "three", "four", "five", "six"]
SOLVERS: dict[str, Callable[[Record], str]] = {
    "first-word": lambda record: words(record["input"])[0],
    "last-word": lambda record: words(record["input"])[-1],
    "longest-word": lambda record: longest(words(record["input"])),
    "opposite": lambda record: contrary(record["input"]),
    "past-tense": lambda record: past(record["input"]),
    "plural": lambda record: many(record["input"]),
    "count-words": lambda record: NUMBERS[len(words(record["input"]))],
    "add": lambda record: str(sum(int(each) for each in re.findall(r"\d+", record["input"]))),
    "next-number": lambda record: str(int(record["input"]) + 1),
    "sort-words": lambda record: " ".join(sorted(words(record["input"]))),
    "sort-numbers": lambda record: " ".join(sorted(record["input"].split(), key=int)),
    "reverse-words": lambda record: " ".join(reversed(words(record["input"]))),
    "upper-case": lambda record: record["input"].upper(),
    "find-name": lambda record: only(set(words(PEOPLE)) & set(words(record["input"]))),
    "find-city": lambda record: only(set(words(TOWNS)) & set(words(record["input"]))),
    "contains": asked_word,
    "he-to-she": lambda record: of_a_woman(record["input"]),
}


# What must hold of the instructions


def wording(record: Record) -> str:
    """The instruction with its gap open, so that one wording is one text."""
    return re.sub('"[^"]*"', '"..."', record["instruction"])


def form_faults(record: Record) -> list[str]:
    """What is wrong with one record, apart from its answer."""
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
    if record["task"] not in {*SOLVERS, "free"}:
        faults.append(f"unknown task {record['task']!r}")
    if len(record["output"].split()) > MOST_WORDS:
        faults.append(f"long answer: {record['output']!r}")
    text = "\n".join(record[field] for field in FIELDS[:3])
    if len(text) > MOST_TOKENS < len(tokenizer().encode(text)):  # a character is a token at most
        faults.append(f"long record: {record['instruction']!r}")
    return faults


def answer_fault(record: Record) -> list[str]:
    """What is wrong with a computable answer."""
    solve = SOLVERS.get(record["task"])
    if solve is None or solve(record) == record["output"]:
        return []
    return [
        f"{record['task']} of {record['input']!r} is {solve(record)!r} not {record['output']!r}"
    ]


def set_faults(records: list[Record]) -> list[str]:
    """What is wrong with the records together."""
    faults = []
    asked = Counter((record["instruction"], record["input"]) for record in records)
    faults += [f"twice: {each}" for each, times in asked.items() if times > 1]
    per_task = Counter(record["task"] for record in records)
    for task in SOLVERS:
        if per_task[task] < LEAST_PER_TASK:
            faults.append(f"only {per_task[task]} of {task}")
    if per_task["free"] < LEAST_FREE:
        faults.append(f"only {per_task['free']} of free")
    tasks_of: dict[str, set[str]] = {}
    for record in records:
        tasks_of.setdefault(wording(record), set()).add(record["task"])
    faults += [f"{each!r} in {sorted(of)}" for each, of in tasks_of.items() if len(of) > 1]
    for task in SOLVERS:
        used = Counter(wording(record) for record in records if record["task"] == task)
        if len(used) < 3:
            faults.append(f"only {len(used)} wordings of {task}")
    answers = Counter(record["output"] for record in records if record["task"] == "free")
    for each, times in answers.items():
        if times > 1 and len(each.split()) > 3:  # "good news" may answer twice, a sentence not
            faults.append(f"{each!r} answers {times} records")
    return faults


def faults_of(records: list[Record]) -> list[str]:
    """Everything that is wrong, in words."""
    malformed = [fault for record in records for fault in form_faults(record)]
    if malformed:
        return malformed
    return [fault for record in records for fault in answer_fault(record)] + set_faults(records)


@cache
def tokenizer() -> BPETokenizer:
    return BPETokenizer.load(DATA / "models" / "novels")


@cache
def script() -> ModuleType:
    """The script that made the templated records."""
    spec = importlib.util.spec_from_file_location(
        "make_instructions", DATA / "make_instructions.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def records() -> list[Record]:
    return copy.deepcopy(datasets.instructions())


def test_the_instructions_have_no_fault(records: list[Record]) -> None:
    assert faults_of(records) == []
    assert len(records) >= 600


def test_the_script_makes_the_templated_records_of_the_file(records: list[Record]) -> None:
    assert [record for record in records if record["task"] != "free"] == script().templated()


def test_the_script_writes_the_file_as_it_is_and_keeps_the_free_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = DATA / "instructions.json"
    free = [record for record in datasets.instructions() if record["task"] == "free"]
    (tmp_path / file.name).write_text(json.dumps(free), encoding="utf-8")
    monkeypatch.setattr(script(), "FILE", tmp_path / file.name)
    script().main()
    assert (tmp_path / file.name).read_text(encoding="utf-8") == file.read_text(encoding="utf-8")


def test_the_answers_of_a_task_are_not_all_alike(records: list[Record]) -> None:
    for task in SOLVERS:
        answers = Counter(record["output"] for record in records if record["task"] == task)
        share = max(answers.values()) / answers.total()
        assert share <= (0.5 if task == "contains" else 0.25), task


def test_every_wording_of_a_task_stands_before_different_answers(records: list[Record]) -> None:
    for task in SOLVERS:
        of_wording: dict[str, set[str]] = {}
        for record in records:
            if record["task"] == task:
                of_wording.setdefault(wording(record), set()).add(record["output"])
        assert all(len(answers) > 1 for answers in of_wording.values()), task


# The checks can fail


def first_of(records: list[Record], task: str) -> Record:
    return next(record for record in records if record["task"] == task)


@pytest.mark.parametrize("task", SOLVERS)
def test_a_wrong_answer_is_found(task: str, records: list[Record]) -> None:
    record = first_of(records, task)
    record["output"] = {"yes": "no", "no": "yes"}.get(record["output"], record["output"] + "s")
    found = faults_of(records)
    assert len(found) == 1
    assert found[0].startswith(f"{task} of ")


@pytest.mark.parametrize(
    ("task", "given", "answer"),
    [
        ("longest-word", "house river sun", "house"),
        ("find-name", "Anna wrote to Mary.", "Anna"),
        ("find-city", "The rain fell all day.", "Moscow"),
        ("opposite", "horse", "cow"),
        ("sort-numbers", "10 9 8", "10 8 9"),
        ("past-tense", "stop", "stoped"),
        ("plural", "army", "armys"),
    ],
)
def test_an_answer_that_only_looks_right_is_found(task: str, given: str, answer: str) -> None:
    record = {"instruction": "x", "input": given, "output": answer, "task": task}
    assert len(answer_fault(record)) == 1


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
    first_of(records, "free").update(change)
    found = faults_of(records)
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_a_repeated_record_is_found(records: list[Record]) -> None:
    copied = {**first_of(records, "add")}
    assert faults_of([*records, copied])[0].startswith("twice: ")


def test_a_task_with_too_few_records_is_found(records: list[Record]) -> None:
    kept = [record for record in records if record["task"] != "add"]
    assert faults_of(kept) == ["only 0 of add", "only 0 wordings of add"]
    kept = [record for record in records if record["task"] != "free"]
    assert faults_of(kept) == ["only 0 of free"]


def test_one_wording_for_two_tasks_is_found(records: list[Record]) -> None:
    record = first_of(records, "plural")
    record["instruction"] = first_of(records, "past-tense")["instruction"]
    assert faults_of(records) == [f"{record['instruction']!r} in ['past-tense', 'plural']"]


def test_one_free_answer_for_two_questions_is_found(records: list[Record]) -> None:
    free = [record for record in records if record["task"] == "free"]
    free[0]["output"] = free[1]["output"]
    assert faults_of(records) == [f"{free[0]['output']!r} answers 2 records"]


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
