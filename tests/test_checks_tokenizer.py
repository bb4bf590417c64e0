"""The checks of chapter 1's exercises name each common mistake, and never crash."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from gptlib.extras.checks import tokenizer as checks
from gptlib.tokenizer import BPETokenizer

Word = tuple[bytes, ...]


def unfinished(*_: Any) -> Any:
    return ...


def raises(*_: Any) -> Any:
    raise NotImplementedError


def crashes(*_: Any) -> Any:
    raise KeyError("b")


@pytest.mark.parametrize(
    "check",
    [
        checks.most_frequent_pair,
        checks.decode_tokens,
        checks.bytes_per_token,
        checks.number_pattern,
    ],
)
def test_what_is_unfinished_or_crashes_is_said(
    check: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for answer, expected in {unfinished: "Not written yet", raises: "Not written yet"}.items():
        check(answer)
        assert capsys.readouterr().out.startswith(expected)
    check(crashes)
    assert "raised KeyError: 'b'" in capsys.readouterr().out


def count_pairs(words: Mapping[Word, int]) -> Counter[tuple[bytes, bytes]]:
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            counts[pair] += count
    return counts


def unweighted(words: Mapping[Word, int]) -> Any:
    return Counter(pair for word in words for pair in pairwise(word)).most_common(1)[0][0]


def once_a_word(words: Mapping[Word, int]) -> Any:
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for word, count in words.items():
        for pair in set(pairwise(word)):
            counts[pair] += count
    return max(counts, key=counts.__getitem__)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda w: count_pairs(w).most_common(1)[0][0], "Correct"),
        (lambda w: max(count_pairs(w), key=count_pairs(w).__getitem__), "Correct"),
        (unweighted, "counted each different word once"),
        (lambda w: count_pairs(w).most_common(1)[0][1], "how often the pair occurs"),
        (lambda w: count_pairs(w).most_common(1)[0], "the pair with its count"),
        (lambda w: count_pairs(w).most_common(1), "the list that most_common gives"),
        (lambda w: count_pairs(w).most_common(), "the list that most_common gives"),
        (lambda w: count_pairs(w).most_common(1)[0][0][::-1], "You swapped left and right"),
        (lambda w: list(count_pairs(w).most_common(1)[0][0]), "return a tuple"),
        (once_a_word, "once for each word"),
        (lambda w: count_pairs(w).most_common(1)[0][0] if len(w) > 2 else 7, "occurs 6 times"),
        (lambda w: b"".join(count_pairs(w).most_common(1)[0][0]), "You joined the pair"),
        (lambda w: max(w, key=w.__getitem__), "You returned the word"),
        (lambda w: (b"i", b"t"), "the pair (b'q', b'r') occurs 4 times"),
        (lambda w: (b"x", b"y"), "Not yet: the pair (b'i', b't') occurs 10 times"),
        (lambda w: [1], "Not yet: the pair"),
    ],
)
def test_the_most_frequent_pair(
    answer: Callable[..., Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.most_frequent_pair(answer)
    assert expected in capsys.readouterr().out


def joined(tokens: Sequence[int], vocabulary: Sequence[bytes]) -> bytes:
    return b"".join(vocabulary[token] for token in tokens)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda t, v: joined(t, v).decode("utf-8", "replace"), "Correct"),
        (lambda t, v: joined(t, v).decode(), "half a character must become U+FFFD"),
        (lambda t, v: joined(t, v).decode("utf-8", "ignore"), "half a character must become"),
        (lambda t, v: "".join(v[i].decode() for i in t), "decoded each token by itself"),
        (
            lambda t, v: "".join(v[i].decode("utf-8", "replace") for i in t),
            "decoded each token by itself",
        ),
        (lambda t, v: joined(t, v), "You returned bytes"),
        (lambda t, v: joined(t, v).decode("latin-1"), "the bytes are UTF-8"),
        (lambda t, v: str(joined(t, v)), "with str()"),
        (lambda t, v: b" ".join([joined(t, v)]).decode() + " ", "spaces between the tokens"),
        (lambda t, v: b" ".join(v[i] for i in t).decode(), "spaces between the tokens"),
        (
            lambda t, v: b" ".join(v[i] for i in t).decode("utf-8", "replace"),
            "spaces between the tokens",
        ),
        (
            lambda t, v: " ".join(v[i].decode("utf-8", "replace") for i in t),
            "spaces between the tokens",
        ),
        (lambda t, v: "".join(v[i] for i in t), "join bytes with b''.join"),
        (lambda t, v: "War", "Not yet: the tokens stand for"),
    ],
)
def test_decode_tokens(
    answer: Callable[..., Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.decode_tokens(answer)
    assert expected in capsys.readouterr().out


def n_tokens(tokenizer: BPETokenizer, text: str) -> int:
    return len(tokenizer.encode(text))


def mean_length(tokenizer: BPETokenizer, text: str) -> float:
    different = set(tokenizer.encode(text))
    return sum(len(tokenizer.token_bytes(token)) for token in different) / len(different)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda t, x: len(x.encode()) / n_tokens(t, x), "Correct"),
        (lambda t, x: len(x) / n_tokens(t, x), "You counted characters"),
        (lambda t, x: n_tokens(t, x) / len(x.encode()), "tokens per byte"),
        (lambda t, x: len(x.encode()) // n_tokens(t, x), "You rounded down"),
        (lambda t, x: len(x.encode()) / len(set(t.encode(x))), "each different token once"),
        (lambda t, x: len(x.encode()) / t.vocab_size, "size of the vocabulary"),
        (lambda t, x: len(x.encode()) / len(x.split()), "number of words"),
        (lambda t, x: n_tokens(t, x) / len(x), "tokens per character"),
        (lambda t, x: mean_length(t, x), "over the different tokens"),
        (lambda t, x: round(len(x.encode()) / n_tokens(t, x), 2), "You rounded the number"),
        (lambda t, x: 99.0, "you say 99.000"),
        (lambda t, x: "two", "return one number, bytes per token"),
    ],
)
def test_bytes_per_token(
    answer: Callable[..., Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.bytes_per_token(answer)
    assert expected in capsys.readouterr().out


START = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|"
END = r"| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (START + r"\p{N}{1,3}" + END, "Correct"),
        (START + r" ?\p{N}{1,3}" + END, "A space is still joined to the digits"),
        (START + r"\p{N}+" + END, "more than three digits"),
        (START + r"\p{N}" + END, "one by one"),
        (START + r"[0-9]{1,3}|\p{N}+" + END, "more than three digits"),
        (START + r"[0-9]{1,3}|\p{N}" + END, "Only the digits 0 to 9"),
        (START + r"[0-9]{1,3}" + END, "Only the digits 0 to 9"),
        (START + r"\d{1,3}" + END, "digits only"),
        (START + r"\p{N}{3}" + END, "loses characters"),
        (START + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s", "Not yet: "),
        ("(", "is no pattern"),
        (3, "is no pattern"),
    ],
)
def test_number_pattern(pattern: Any, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.number_pattern(lambda: pattern)
    assert expected in capsys.readouterr().out
