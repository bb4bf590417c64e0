"""Checks of the exercises of chapter 1: each says what is right, or which step is off."""

from typing import Any

import regex

from gptlib.extras.checks.answers import Answer, Wrong, attempt, named, number_of, run, says
from gptlib.tokenizer import BPETokenizer

ALONE = "You decoded each token by itself; a character can lie in two. Join the bytes first."
SPACES = "You put spaces between the tokens; they carry their own. Join with b''.join."


@says
def most_frequent_pair(answer: Answer) -> str:
    """Check `most_frequent_pair(words)`, exercise 1."""
    words = {
        (b"r", b"u", b"n"): 2,
        (b"t", b"u", b"n", b"e"): 1,
        (b"t", b"u", b"n"): 1,
        (b" ", b"i", b"t"): 9,
        (b"s", b"i", b"t"): 1,
        (b"n", b" "): 1,
        (b"a", b"a", b"a", b"a"): 2,
    }
    got = run(answer, dict(words))
    if got == (b"i", b"t"):
        more = {(b"p", b"q"): 3, (b"q", b"r"): 4, (b"q",): 100}
        got = run(answer, dict(more))
        if got == (b"q", b"r"):
            return _most_frequent_pair_within_a_word(answer)
        return f"Not yet: in {more} the pair (b'q', b'r') occurs 4 times; you say {got!r}."
    if got in ((b"u", b"n"), (b"a", b"a")):
        return "You counted each different word once; one that occurs 9 times counts 9 times."
    if got == 10:
        return "You returned how often the pair occurs; return the pair itself."
    if got == b"it":
        return "You joined the pair; return its two tokens, as (left, right)."
    if got == (b"t", b"i"):
        return "You swapped left and right; return the pair as (left, right)."
    if got == [b"i", b"t"]:
        return "You returned a list; return a tuple, (left, right)."
    if isinstance(got, list) and got and got[0] == ((b"i", b"t"), 10):
        return "You returned the list that most_common gives; return the pair alone, its [0][0]."
    if isinstance(got, tuple) and got and got[0] == (b"i", b"t"):
        return "You returned the pair with its count, as most_common does; return the pair alone."
    if got in list(words) or (isinstance(got, tuple) and len(got) != 2):
        return f"You returned the word {got!r}; count the neighbours inside the words."
    return f"Not yet: the pair (b'i', b't') occurs 10 times, most of all; you say {got!r}."


def _most_frequent_pair_within_a_word(answer: Answer) -> str:
    """Check that a pair that occurs several times in one word counts each time."""
    words = {(b"a", b"a", b"a", b"a"): 2, (b"p", b"q"): 5}
    got = run(answer, dict(words))
    if got == (b"a", b"a"):
        return "Correct: the pair is counted once for each time its word occurs."
    if got == (b"p", b"q"):
        return "Nearly: you counted a pair once for each word; in b'aaaa' there are 3 (b'a', b'a')."
    return f"Not yet: in {words} the pair (b'a', b'a') occurs 6 times; you say {got!r}."


@says
def decode_tokens(answer: Answer) -> str:
    """Check `decode_tokens(tokens, vocabulary)`, exercise 2."""
    tokenizer = BPETokenizer([(b"t", b"h"), (b"th", b"e"), (b" ", b"\xc3")])
    for text in ("the café 🙂 é", "naïve", "Ж" * 3, ""):
        tokens = tokenizer.encode(text)
        try:
            got = run(answer, tokens, tokenizer.tokens)
        except Wrong as error:
            return _wrong_join(str(error))
        if isinstance(got, bytes):
            return "You returned bytes; turn them into text with bytes.decode."
        if got != text:
            return _wrong_text(text, got, [tokenizer.tokens[token] for token in tokens])
    if attempt(answer, tokenizer.encode("é")[:1], tokenizer.tokens) != "\ufffd":
        return "Nearly: half a character must become U+FFFD; decode with errors='replace'."
    return "Correct: whole texts come back, and half a character becomes U+FFFD."


def _wrong_join(problem: str) -> str:
    if "expected str instance, bytes found" in problem:
        return "You joined bytes with a string; join bytes with b''.join."
    if "UnicodeDecodeError" in problem and "invalid continuation byte" in problem:
        return SPACES
    if "UnicodeDecodeError" in problem:
        return ALONE
    return problem


def _wrong_text(text: str, got: Any, parts: list[bytes]) -> str:
    if got == "".join(part.decode("utf-8", "replace") for part in parts) or got == "".join(
        part.decode("utf-8", "ignore") for part in parts
    ):
        return ALONE
    if got == b"".join(parts).decode("latin-1"):
        return "You decoded with latin-1; the bytes are UTF-8."
    if isinstance(got, str) and got.startswith("b'"):
        return "You wrote the bytes with str(); use bytes.decode."
    spaced = (
        b" ".join(parts).decode("utf-8", "replace"),
        b" ".join(parts).decode("utf-8", "ignore"),
        " ".join(part.decode("utf-8", "replace") for part in parts),
        " ".join(part.decode("utf-8", "ignore") for part in parts),
    )
    if got in spaced or (isinstance(got, str) and got.replace(" ", "") == text.replace(" ", "")):
        return SPACES
    return f"Not yet: the tokens stand for {text!r}, you say {got!r}."


@says
def bytes_per_token(answer: Answer) -> str:
    """Check `bytes_per_token(tokenizer, text)`, exercise 3."""
    tokenizer = BPETokenizer.train("the café on the corner, the café at the end", 270)
    text = "the café on the corner, the cafés 🙂 the"
    tokens = tokenizer.encode(text)
    n_bytes, n_tokens = len(text.encode()), len(tokens)
    got = number_of(answer, tokenizer, text, wanted="bytes per token")
    mistakes = {
        "You counted characters; count the bytes of text.encode()": len(text) / n_tokens,
        "You turned the fraction over: these are tokens per byte": n_tokens / n_bytes,
        "You rounded down: use /, not //": n_bytes // n_tokens,
        "You counted each different token once; count every token of the text": (
            n_bytes / len(set(tokens))
        ),
        "You divided by the size of the vocabulary; divide by the tokens of this text": (
            n_bytes / tokenizer.vocab_size
        ),
        "You divided by the number of words; divide by the number of tokens": (
            n_bytes / len(text.split())
        ),
        "These are tokens per character; divide the bytes by the tokens": n_tokens / len(text),
        "You averaged over the different tokens; count every token of the text": (
            sum(len(tokenizer.token_bytes(token)) for token in set(tokens)) / len(set(tokens))
        ),
    }
    if abs(got - n_bytes / n_tokens) < 1e-9:
        return f"Correct: {n_bytes} bytes in {n_tokens} tokens are {got:.2f} bytes per token."
    if mistake := named(got, mistakes):
        return f"{mistake}."
    if any(got == round(n_bytes / n_tokens, digits) for digits in range(1, 9)):
        return "You rounded the number; return it as it is, and round only when you print."
    return f"Not yet: {n_bytes} bytes in {n_tokens} tokens; you say {got:.3f}."


@says
def number_pattern(answer: Answer) -> str:
    """Check `number_pattern()`, exercise 4."""
    pattern = run(answer)
    try:
        regex.compile(pattern)
    except (regex.error, TypeError) as error:
        return f"Not yet: {pattern!r} is no pattern ({error})."
    cases = {
        "in 1812": ["in", " ", "181", "2"],
        "1000000": ["100", "000", "0"],
        "x = 42;": ["x", " =", " ", "42", ";"],
        "We'll see ٣٤٥٦   now\n": ["We", "'ll", " see", " ", "٣٤٥", "٦", "  ", " now", "\n"],
        "3½ 12³": ["3½", " ", "12³"],
    }
    for text, expected in cases.items():
        got = [match.group() for match in regex.finditer(pattern, text)]
        if got != expected:
            return _wrong_cut(text, expected, got)
    return f"Correct: all {len(cases)} texts are cut as they should be, and nothing is lost."


def _wrong_cut(text: str, expected: list[str], got: list[str]) -> str:
    example = f"{text!r} became {got}, it should be {expected}."
    if "٣" in text and not any(word.startswith("٣٤") for word in got):
        return f"Only the digits 0 to 9 are cut; \\p{{N}} knows those of every script. {example}"
    if "½" in text and "3½" not in got:
        return f"\\d knows digits only; \\p{{N}} also ½ and ³. {example}"
    if "".join(got) != text:
        return f"Your pattern loses characters: every one must be in some word. {example}"
    if any(regex.fullmatch(r" \p{N}+", word) for word in got):
        return f"A space is still joined to the digits after it. {example}"
    if any(regex.fullmatch(r"\p{N}{4,}", word) for word in got):
        return f"There are still words of more than three digits. {example}"
    numbers = [word for word in got if regex.fullmatch(r"\p{N}+", word)]
    if len(numbers) > 1 and max(map(len, numbers)) == 1:
        return f"You cut digits one by one; up to three stay together. {example}"
    return f"Not yet: {example}"
