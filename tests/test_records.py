"""Whatever a table holds and however it is written, it is read back as it was."""

import csv
import io
import json
import tempfile
from pathlib import Path

import fuzz_formats
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlib.classification import TextClassifier, encode_texts, normalize
from gptlib.extras.formats.records import read_messages, read_questions
from gptlib.extras.formats.text_files import decode
from gptlib.generation import generate
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer

LETTERS = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), include_characters="\n")
TEXTS = st.text(LETTERS, min_size=1, max_size=30).filter(lambda t: t.strip() and t == t.strip())
RECORDS = st.lists(
    st.tuples(st.sampled_from(["ham", "spam"]), TEXTS),
    min_size=1,
    max_size=9,
    unique_by=lambda record: normalize(record[1]),
)


def written(content: str | bytes, suffix: str = "txt") -> str:
    path = Path(tempfile.mkdtemp(), f"records.{suffix}")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@settings(max_examples=150, deadline=None)
@given(
    RECORDS,
    st.sampled_from(",;|\t"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
)
@example([("ham", '"Hi" she, said\n"so"'), ("spam", 'a "b"')], "\t", csv.QUOTE_MINIMAL, "\n")
def test_a_table_is_read_as_csv_wrote_it(
    records: list[tuple[str, str]], delimiter: str, quoting: int, end: str
) -> None:
    lines = io.StringIO()
    writer = csv.writer(lines, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerows([("label", "text"), *records])
    found = read_messages(written(lines.getvalue()), delimiter=delimiter)
    assert found.records == records
    assert not found.skipped
    assert not found.repeats


@settings(max_examples=60, deadline=None)
@given(RECORDS, st.booleans())
def test_json_is_read_as_it_was_written(records: list[tuple[str, str]], lines: bool) -> None:
    objects = [{"class": label, "message": text} for label, text in records]
    content = "\n".join(map(json.dumps, objects)) if lines else json.dumps(objects)
    assert read_messages(written(content)).records == records


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), st.booleans())
def test_questions_and_conversations_are_read_as_they_were_written(
    pairs: list[tuple[str, str]], is_talk: bool
) -> None:
    roles = ("user", "assistant")
    talk = [{"role": r, "content": t} for pair in pairs for r, t in zip(roles, pair, strict=True)]
    plain = [{"question": question, "answer": answer} for question, answer in pairs]
    content = json.dumps([{"messages": talk}] if is_talk else plain)
    expected = [{"instruction": question, "output": answer} for question, answer in pairs]
    assert read_questions(written(content)).records == expected


@settings(max_examples=100, deadline=None)
@given(st.text(), st.sampled_from(["utf-8", "utf-16"]))
def test_a_text_comes_back_in_the_encoding_that_is_named(text: str, encoding: str) -> None:
    assert decode("x", text.encode(encoding), encoding) == text.removeprefix("\ufeff")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_get_a_sentence(content: bytes) -> None:
    for suffix in ("txt", "json"):
        for read in (read_messages, read_questions):
            try:
                read(written(content, suffix))
            except ValueError as error:
                assert len(str(error)) > 10  # noqa: PT017


def test_the_fuzzer_runs_and_finds_only_our_errors(tmp_path: Path) -> None:
    results = fuzz_formats.run(tmp_path, cases=20, seed=0)
    assert sum(results.values()) == 20 * 10
    assert any(name.endswith("read") for name in results)


def test_a_delimiter_is_one_character() -> None:
    with pytest.raises(ValueError, match="write one character, or"):
        read_messages(written("a||b"), delimiter="||")


def test_a_text_that_is_nan_gets_a_sentence() -> None:
    config = GPTConfig(vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4)
    classifier = TextClassifier(GPT(config), BPETokenizer([]), ["ham", "spam"])
    with pytest.raises(ValueError, match="text 1 of 2 is nan, not a text; there is nothing"):
        encode_texts(classifier, ["Hi", float("nan")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="a prompt is a string; pass token ids, as"):
        list(generate(GPT(config).eval(), "the prince", 3))  # type: ignore[arg-type]
