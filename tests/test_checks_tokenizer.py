"""The checks of the chapter on the tokenizer know the unfinished, each mistake, and the right."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, combinations, pairwise, product
from math import inf
from typing import Any

import pytest
import regex

from gptlib import tokenizer as taught
from gptlib.extras.checks import answers
from gptlib.extras.checks import tokenizer as checks
from gptlib.tokenizer import BPETokenizer, Merge, WordTokenizer, byte_characters

Function = Callable[..., Any]


def said(check: Function, answer: Any, capsys: pytest.CaptureFixture[str]) -> str:
    check(answer)
    return capsys.readouterr().out


def unfinished(*_: Any) -> Any: ...


def crashes(*_: Any) -> Any:
    raise KeyError("x")


FUNCTIONS = [
    *(checks.count_pairs, checks.join_pair, checks.learn_merges, checks.count_all),
    *(checks.merge_word, checks.decode, checks.bytes_per_token, checks.number_pattern),
]


@pytest.mark.parametrize("check", FUNCTIONS)
def test_what_is_unfinished_or_crashes_is_said(
    check: Function, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(check, unfinished, capsys) == "Not written yet: unfinished returns nothing.\n"
    assert "crashes raised KeyError: 'x'" in said(check, crashes, capsys)


# The tokenizer of words


class Unfinished(WordTokenizer):
    @classmethod
    def build_vocab(cls, *_: Any, **__: Any) -> Any: ...


def words_by(
    build: Function | None = None, encode: Function | None = None, decode: Function | None = None
) -> type[WordTokenizer]:
    """Make a tokenizer of words with other methods."""

    class Reader(WordTokenizer):
        pass

    for name, method in (("encode", encode), ("decode", decode)):
        if method:
            setattr(Reader, name, method)
    if build:
        Reader.build_vocab = classmethod(build)  # type: ignore[assignment]
    return Reader


def common(cls: Any, text: str, size: int | None, characters: bool) -> list[str]:
    return [t for t, _ in Counter(cls.split(text, characters)).most_common(size)]


def built(change: Callable[[list[str]], Iterable[Any]]) -> type[WordTokenizer]:
    def build(cls: Any, text: str, size: int | None = None, characters: bool = False) -> Any:
        return cls(change(common(cls, text, size, characters)), characters)

    return words_by(build)


def from_pieces(pieces: Callable[[Any, str], Iterable[Any]]) -> type[WordTokenizer]:
    return words_by(lambda cls, text, size=None, characters=False: cls(pieces(cls, text)))


def known(self: WordTokenizer, text: str) -> list[str]:
    return [token for token in self.split(text, self.characters) if token in self.stoi]


def small(cls: Any, text: str, size: int | None = None, characters: bool = False) -> Any:
    return cls(common(cls, text.lower(), size, characters), characters)


def with_all_ties(cls: Any, text: str, size: int | None = None, characters: bool = False) -> Any:
    counts = Counter(cls.split(text, characters)).most_common()
    least = 0 if size is None else counts[size - 1][1]
    return cls([token for token, count in counts if count >= least], characters)


def to_the_first_padding(self: WordTokenizer, tokens: Iterable[int]) -> str:
    words = []
    for i in tokens:
        if i == 0:
            break
        words.append(self.itos[i])
    return ("" if self.characters else " ").join(words)


def by_place(self: WordTokenizer, tokens: Any) -> str:
    words = [self.itos[tokens[n]] for n in range(len(tokens)) if tokens[n]]
    return ("" if self.characters else " ").join(words)


def in_two_rounds(self: WordTokenizer, tokens: Iterable[int]) -> str:
    known = max(tokens, default=0)
    words = [self.itos[i] for i in tokens if 0 < i <= known]
    return ("" if self.characters else " ").join(words)


WORDS: dict[str, type[WordTokenizer]] = {
    "more words than `size`": words_by(with_all_ties),
    "all letters small": words_by(
        small,
        lambda self, text: [self.stoi.get(t, 1) for t in self.split(text.lower(), self.characters)],
    ),
    "all letters small; War": words_by(
        encode=lambda self, text: [
            self.stoi.get(t, 1) for t in self.split(text.lower(), self.characters)
        ]
    ),
    "stop at the first padding": words_by(decode=to_the_first_padding),
    "raised TypeError: object of type 'generator' has no len()\nAn Iterable may": words_by(
        decode=by_place
    ),
    "from a generator became ''. An Iterable may": words_by(decode=in_two_rounds),
    "look the ids up in stoi": words_by(
        encode=lambda self, text: [
            max(self.stoi.get(t, 1) - 2, -1) % 10 if t in self.stoi else 1
            for t in self.split(text, self.characters)
        ]
    ),
    "'that is the question: to be' became [7], not [4, 5, 1, 1, 9, 2, 3]": words_by(
        encode=lambda self, text: [7]
    ),
    "Not written yet: build_vocab returns nothing": Unfinished,
    "Correct": words_by(),
    "return cls(tokens, ...)": words_by(lambda cls, text, size=None, c=False: [text]),
    "in alphabetical order": built(sorted),
    "in the order of the text": from_pieces(lambda c, t: dict.fromkeys(c.split(t, False))),
    "once for each time it occurs": from_pieces(lambda c, t: c.split(t, False)),
    "by itself": built(lambda tokens: ["<pad>", "<unk>", *tokens]),
    "the rarest token": built(lambda tokens: tokens[::-1]),
    "knows punctuation": from_pieces(lambda c, t: [w for w, _ in Counter(t.split()).most_common()]),
    "pairs of token and count": from_pieces(lambda c, t: Counter(c.split(t, False)).most_common()),
    "itos holds <pad>": built(lambda tokens: [token.upper() for token in tokens]),
    "ignores `size`": words_by(
        lambda cls, text, size=None, c=False: cls(common(cls, text, None, c), c)
    ),
    "come on top": words_by(
        lambda cls, text, size=None, c=False: cls(common(cls, text, size and size - 2, c), c)
    ),
    "of 999 different ones you take 100": words_by(
        lambda cls, text, size=100, c=False: cls(common(cls, text, size, c), c)
    ),
    "on to split": words_by(
        lambda cls, text, size=None, c=False: cls(common(cls, text, size, False), c)
    ),
    "on to cls": words_by(lambda cls, text, size=None, c=False: cls(common(cls, text, size, c))),
    "self.stoi.get(token, 1) is 1": words_by(
        encode=lambda self, text: [self.stoi[t] for t in self.split(text, self.characters)]
    ),
    "not 0, which is padding": words_by(
        encode=lambda self, text: [self.stoi.get(t, 0) for t in self.split(text, self.characters)]
    ),
    "unknown words are left out": words_by(
        encode=lambda self, text: [self.stoi[t] for t in known(self, text)]
    ),
    "(None)": words_by(
        encode=lambda self, text: [self.stoi.get(t) for t in self.split(text, False)]
    ),
    "the blanks cut": words_by(
        encode=lambda self, text: [self.stoi.get(t, 1) for t in text.split()]
    ),
    "by self.characters": words_by(
        encode=lambda self, text: [self.stoi.get(t, 1) for t in self.split(text, False)]
    ),
    "padding is left out": words_by(decode=lambda self, t: " ".join(self.itos[i] for i in t)),
    "words are joined by blanks": words_by(
        decode=lambda self, t: "".join(self.itos[i] for i in t if i)
    ),
    "you return a list": words_by(decode=lambda self, t: [self.itos[i] for i in t if i]),
    "<unk> stays": words_by(decode=lambda self, t: " ".join(self.itos[i] for i in t if i > 1)),
    "a blank at the end": words_by(
        decode=lambda self, t: "".join(f"{self.itos[i]} " for i in t if i)
    ),
    "a token again": words_by(
        encode=lambda self, text: [
            self.stoi.get(t, 1) for t in dict.fromkeys(self.split(text, self.characters))
        ]
    ),
    "a comma is a token like any other": words_by(
        decode=lambda self, t: " ".join(self.itos[i] for i in t if i).replace(" ,", ",")
    ),
    "leave out strip": words_by(
        decode=lambda self, t: (
            ("" if self.characters else " ").join(self.itos[i] for i in t if i).strip()
        )
    ),
    "characters are joined by nothing": words_by(
        decode=lambda self, t: " ".join(self.itos[i] for i in t if i)
    ),
}


@pytest.mark.parametrize("expected", WORDS)
def test_word_tokenizer(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.word_tokenizer, WORDS[expected], capsys)


# Training


def by_hand(parts: Sequence[bytes]) -> dict[Merge, int]:
    counts: dict[Merge, int] = {}
    for i in range(len(parts) - 1):
        counts[parts[i], parts[i + 1]] = counts.get((parts[i], parts[i + 1]), 0) + 1
    return counts


def without_overlap(parts: list[bytes]) -> Counter[Merge]:
    counts: Counter[Merge] = Counter()
    position = 0
    while position < len(parts) - 1:
        counts[parts[position], parts[position + 1]] += 1
        position += 1 + (parts[position] == parts[position + 1] == parts[min(position + 2, 10)])
    return counts


def emptied(parts: list[bytes]) -> Counter[Merge]:
    counts = Counter(pairwise(parts))
    parts.clear()
    return counts


def from_the_first(parts: list[bytes]) -> Counter[Merge]:
    """Remember the token before, beginning with one that may not be there."""
    counts: Counter[Merge] = Counter()
    left = parts[0]
    for right in parts[1:]:
        counts[left, right] += 1
        left = right
    return counts


PAIRS: dict[str, Function] = {
    "Correct": by_hand,
    "as most_common does": lambda parts: Counter(pairwise(parts)).most_common(),
    "a list of pairs; count them": lambda parts: list(pairwise(parts)),
    "paired with all behind it": lambda parts: Counter(combinations(parts, 2)),
    "paired with every token": lambda parts: Counter(product(parts, parts)),
    "has no first one": from_the_first,
    "you return int": lambda parts: len(parts),
    "you count tokens": Counter,
    "you glue the pair": lambda parts: Counter(a + b for a, b in pairwise(parts)),
    "only every second pair": lambda parts: Counter(zip(parts[::2], parts[1::2], strict=False)),
    "the last pair is missing": lambda parts: Counter(list(pairwise(parts))[:-1]),
    "paired it with the first": lambda p: Counter((p[i - 1], p[i]) for i in range(len(p))),
    "each pair counts once": lambda parts: Counter(set(pairwise(parts))),
    "swapped": lambda parts: Counter((b, a) for a, b in pairwise(parts)),
    "don't sort": lambda parts: Counter((min(p), max(p)) for p in pairwise(parts)),
    "overlaps too": without_overlap,
    "you say {}": lambda parts: {},
    "longer than one byte": lambda p: Counter(pairwise(p)) if len(p) == 11 else by_hand(p[1:]),
    "pairwise(parts) stops before it": lambda p: [p[i + 1] for i in range(len(p))],
    "your pairs hold numbers. Iterating": lambda parts: Counter(pairwise(b"".join(parts))),
    "which the caller still needs": emptied,
    "your keys hold strings": lambda parts: Counter(pairwise(b"".join(parts).decode())),
    "a pair is a tuple": lambda parts: Counter(parts[i : i + 2] for i in range(len(parts) - 1)),
}


@pytest.mark.parametrize("expected", PAIRS)
def test_count_pairs(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.count_pairs, PAIRS[expected], capsys)


def joiner(
    *,
    step: int = 2,
    put: Callable[[Merge], list[Any]] = lambda pair: [pair[0] + pair[1]],
    others: bool = True,
    stop: int = 0,
    most: float = inf,
    same: Callable[[Any, Merge], bool] = lambda two, pair: tuple(two) == pair,
) -> Function:
    """Join pairs in one of many ways."""

    def join(parts: list[bytes], pair: Merge) -> list[Any]:
        joined: list[Any] = []
        position = found = 0
        while position < len(parts) - stop:
            if found < most and same(parts[position : position + 2], pair):
                joined += put(pair)
                found += 1
                position += step
            else:
                joined += [parts[position]] if others else []
                position += 1
        return joined

    return join


def from_the_right(parts: list[bytes], pair: Merge) -> list[bytes]:
    backwards = taught.join_pair([part[::-1] for part in parts[::-1]], pair[::-1])
    return [part[::-1] for part in backwards[::-1]]


def in_place(parts: list[bytes], pair: Merge) -> None:
    parts[:] = taught.join_pair(parts, pair)


def in_place_too(parts: list[bytes], pair: Merge) -> list[bytes]:
    in_place(parts, pair)
    return parts


def no_end(parts: list[bytes], pair: Merge) -> list[bytes]:
    return [parts[i + 1] for i in range(len(parts))]


def standing_still(parts: list[bytes], pair: Merge) -> list[bytes]:
    joined: list[bytes] = []
    position = 0
    while position < len(parts):
        joined = [parts[position]]
    return joined


def pair_behind(parts: list[bytes], pair: Merge) -> list[bytes]:
    out, i = [], 0
    while i < len(parts) - 1:
        hit = (parts[i], parts[i + 1]) == pair and i + 2 < len(parts)
        out.append(pair[0] + pair[1] if hit else parts[i])
        i += 1 + hit
    return [*out, *parts[i:]]


def in_a_for_loop(
    parts: list[bytes], pair: Merge, last: int = 0, both: bool = False
) -> list[bytes]:
    """Go on by one place whatever was joined, and keep the token of a pair or not."""
    joined = []
    for i in range(len(parts) - last):
        hit = tuple(parts[i : i + 2]) == pair
        joined += [pair[0] + pair[1]] * hit + [parts[i]] * (both or not hit)
    return joined


def without_order(parts: list[bytes], pair: Merge, *, new: Function) -> list[bytes]:
    joined, i = [], 0
    while i < len(parts):
        hit = i + 1 < len(parts) and {*parts[i : i + 2]} == {*pair}
        joined.append(new(parts[i : i + 2], pair) if hit else parts[i])
        i += 1 + hit
    return joined


JOINS: dict[str, Function] = {
    "is joined again; go on two places": in_a_for_loop,
    "is joined again, and the last one is lost": partial(in_a_for_loop, last=1),
    "first token is still there": partial(in_a_for_loop, both=True),
    "the left token comes first": partial(without_order, new=lambda two, pair: b"".join(pair)),
    "compare left with left": partial(without_order, new=lambda two, pair: b"".join(two)),
    "c, ab, c became": lambda p, pair: p if p[0] == b"c" else taught.join_pair(p, pair),
    "Correct": joiner(),
    "nothing is joined": lambda parts, pair: list(parts),
    "A list equals no tuple": joiner(same=lambda two, pair: two == pair),
    "your list holds strings": lambda parts, pair: list(b"".join(parts).decode()),
    "only the first place": joiner(most=1),
    "is joined again": joiner(step=1),
    "from left to right": from_the_right,
    "are no part of the pair are lost": joiner(others=False),
    "the last token is lost": joiner(stop=1),
    "the pair stays a pair": joiner(put=lambda pair: [pair]),
    "the pair is lost": joiner(put=lambda pair: []),
    "second token is still there": joiner(put=lambda pair: [pair[0] + pair[1], pair[1]]),
    "compare the tokens": joiner(same=lambda two, pair: b"".join(two) == pair[0] + pair[1]),
    "the last pair of the list": pair_behind,
    "you make": lambda parts, pair: [b"x"],
    "one string of bytes": lambda parts, pair: b"".join(parts),
    "your list holds numbers": lambda parts, pair: list(b"".join(parts)),
    "you return int": lambda parts, pair: 3,
    "change what was passed in and return nothing": in_place,
    "which the caller still needs": in_place_too,
    "Compare a slice": no_end,
    "standing_still was stopped after 0.3 seconds": standing_still,
    " … ": lambda parts, pair: parts * 100,
}


@pytest.mark.parametrize("expected", JOINS)
def test_join_pair(
    expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SECONDS", 0.3)
    assert expected in said(checks.join_pair, JOINS[expected], capsys)


def loop(
    words: list[list[bytes]],
    n_merges: int,
    *,
    anew: bool = True,
    join: bool = True,
    number: bool = True,
    first_id: int = 256,
    further: int = 1,
    key: Function = lambda pair, counts, ids: (-counts[pair], ids[pair[0]], ids[pair[1]]),
    prepare: Function = lambda words: words,
    order: Iterable[int] = byte_characters(),
    left: slice = slice(None),
    give: Function = lambda merges: merges,
    pairs: Function = pairwise,
    onward: bool = True,
) -> Any:
    """Learn merges, with one step or the other left out."""
    words = first = prepare([list(word) for word in words])
    ids = {bytes([byte]): i for i, byte in enumerate(order)}
    counts: Counter[Merge] = Counter()
    merges: list[Merge] = []
    for _ in range(n_merges):
        counts = Counter() if anew else counts
        counts.update(pair for word in words for pair in pairs(word))
        best = min((p for p in counts if p[0] + p[1] not in ids), key=lambda p: key(p, counts, ids))
        words = words if onward else first
        words = [taught.join_pair(word, best) for word in words][left] if join else words
        if number:
            ids[best[0] + best[1]] = first_id + further * len(merges)
        merges.append(best)
    return give(merges)


def loop_with_a_name(words: list[list[bytes]], n_merges: int) -> list[Merge]:
    """Choose as the right loop does, but only give the joined word a name."""
    ids = {bytes([byte]): i for i, byte in enumerate(byte_characters())}
    merges: list[Merge] = []
    for _ in range(n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        new = [pair for pair in counts if pair[0] + pair[1] not in ids]
        best = min(new, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        for word in words:
            word = taught.join_pair(word, best)
        ids[best[0] + best[1]] = len(ids)
        merges.append(best)
    return merges


def most_common(words: list[list[bytes]], n_merges: int) -> list[Merge]:
    counts = Counter(pair for word in words for pair in pairwise(word))
    return [pair for pair, _ in counts.most_common(n_merges)]


def loop_in_place(words: list[list[bytes]], n_merges: int) -> list[Merge]:
    merges: list[Merge] = loop(words, n_merges)
    for pair in merges:
        words[:] = [taught.join_pair(word, pair) for word in words]
    return merges


def overwritten(words: list[list[bytes]], n_merges: int) -> list[Merge]:
    """Make a new Counter for each word, so that the last word's alone is left."""
    return loop(words, n_merges, prepare=lambda words: [words[-1]])


LOOPS: dict[str, Function] = {
    "your new tokens get wrong ids": partial(loop, first_id=0),
    "needs an id of its own, the next": partial(loop, further=0),
    "make one Counter before the loop": overwritten,
    "only the last word is left; collect": partial(loop, left=slice(-1, None)),
    "There is no pair to choose from. Each round": partial(loop, prepare=lambda words: []),
    "ids = byte_ids()": partial(loop, order=range(256)),
    "Correct": loop,
    "the same pair comes every time": partial(loop, join=False, number=False),
    "the pairs are chosen but not joined": partial(loop, join=False),
    "only gives a name": loop_with_a_name,
    "the counts pile up": partial(loop, anew=False),
    "behind those of all 256 bytes": partial(loop, first_id=255),
    "Correct: eight": partial(loop, first_id=257),
    "the counts are old": most_common,
    "the words are glued": partial(loop, prepare=lambda words: [list(chain.from_iterable(words))]),
    "each different word counts once": partial(
        loop, prepare=lambda words: [list(w) for w in dict.fromkeys(map(tuple, words))]
    ),
    "only the first word": lambda words, n: loop(words[:1], 2),
    "8 merges were asked for; you return 7": partial(loop, give=lambda merges: merges[:-1]),
    "the smallest ids wins": partial(loop, key=lambda p, c, i: (-c[p], -i[p[0]], -i[p[1]])),
    "return the pairs": partial(loop, give=lambda merges: [a + b for a, b in merges]),
    "each a pair (left, right)": partial(loop, give=len),
    "ids[left + right] = len(ids)": partial(loop, number=False),
    "which the caller still needs": loop_in_place,
    "at each of its places in a word": partial(loop, pairs=lambda word: set(pairwise(word))),
    "the rarest pair is taken": partial(loop, key=lambda p, c, i: (c[p], i[p[0]], i[p[1]])),
    "again with the words of the start": partial(loop, onward=False),
}


@pytest.mark.parametrize("expected", LOOPS)
def test_learn_merges(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.learn_merges, LOOPS[expected], capsys)


def weighted(
    words: list[list[bytes]],
    times: list[int],
    pairs: Function = pairwise,
    add: Function = lambda old, n: old + n,
) -> dict[Merge, int]:
    counts: Counter[Merge] = Counter()
    for word, n in zip(words, times, strict=True):
        for pair in pairs(word):
            counts[pair] = add(counts[pair], n)
    return counts


def once_a_word(words: list[list[bytes]], times: list[int]) -> Counter[Merge]:
    counts: Counter[Merge] = Counter()
    for word, n in zip(words, times, strict=True):
        for pair, k in Counter(pairwise(word)).items():
            counts[pair] += k + n
    return counts


def first_word(words: list[list[bytes]], times: list[int]) -> Counter[Merge]:
    counts: Counter[Merge] = Counter()
    for word, n in zip(words, times, strict=True):
        for pair in pairwise(word):
            counts[pair] += n
        return counts
    return counts


def first_pair(words: list[list[bytes]], times: list[int]) -> Counter[Merge]:
    counts: Counter[Merge] = Counter()
    for word, n in zip(words, times, strict=True):
        for pair in pairwise(word):
            counts[pair] += n
            return counts
    return counts


def last_word(words: list[list[bytes]], times: list[int]) -> Counter[Merge]:
    for word, n in zip(words, times, strict=True):
        counts: Counter[Merge] = Counter()
        for pair in pairwise(word):
            counts[pair] += n
    return counts


def in_nested_loops(words: list[list[bytes]], times: list[int]) -> Counter[Merge]:
    counts: Counter[Merge] = Counter()
    for word, n in product(words, times):
        for pair in pairwise(word):
            counts[pair] += n
    return counts


def multiplied(words: list[list[bytes]], times: list[int]) -> Counter[Merge]:
    counts: Counter[Merge] = Counter()
    for word, n in zip(words, times, strict=True):
        counts.update(pairwise(word))
        for pair in counts:
            counts[pair] *= n
    return counts


TIMES: dict[str, Function] = {
    "with the numbers of all words": in_nested_loops,
    "multiplies what earlier words counted": multiplied,
    "Correct": weighted,
    "each different word counts once": partial(weighted, add=lambda old, n: old + 1),
    "once for each word; in aaaa": partial(weighted, pairs=lambda word: set(pairwise(word))),
    "overwrites": partial(weighted, add=lambda old, n: n),
    "added once for each word": once_a_word,
    "overwrites what an earlier one counted": lambda words, times: Counter(
        {
            pair: n * k
            for word, n in zip(words, times, strict=True)
            for pair, k in Counter(pairwise(word)).items()
        }
    ),
    "the words are glued": lambda words, times: Counter(pairwise(list(chain.from_iterable(words)))),
    "only the first word is counted": first_word,
    "only the first pair is counted": first_pair,
    "make the Counter before the loop": last_word,
    "a pair stands at each seam": lambda words, times: Counter(
        pair for word, n in zip(words, times, strict=True) for pair in pairwise(word * n)
    ),
    "you say": lambda words, times: {},
    "how often each occurs": lambda words: Counter(pairwise(list(chain.from_iterable(words)))),
}


@pytest.mark.parametrize("expected", TIMES)
def test_count_all(expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.count_all, TIMES[expected], capsys)


# Encoding and decoding


def in_the_order_of_ranks(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    parts = [bytes([byte]) for byte in word]
    for pair in sorted(ranks, key=ranks.__getitem__):
        parts = taught.join_pair(parts, pair)
    return parts


def in_the_order_of_the_dictionary(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    parts = [bytes([byte]) for byte in word]
    for pair in ranks:
        parts = taught.join_pair(parts, pair)
    return parts


def replayed(
    word: bytes,
    ranks: Mapping[Merge, int],
    *,
    choose: Function = lambda pairs, ranks: min(pairs, key=lambda p: ranks.get(p, inf)),
    more: Function = lambda parts: len(parts) > 1,
    stop: bool = True,
    rounds: float = inf,
) -> list[bytes]:
    parts = [bytes([byte]) for byte in word]
    while more(parts) and rounds:
        rounds -= 1
        pair = choose(list(pairwise(parts)), ranks)
        if pair not in ranks and stop:
            break
        parts = taught.join_pair(parts, pair)
    return parts


def leftmost(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    """Join the first known pair, at its place alone, and begin again."""
    parts = [bytes([byte]) for byte in word]
    known = True
    while known:
        known = False
        for i in range(len(parts) - 1):
            if (parts[i], parts[i + 1]) in ranks:
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
                known = True
                break
    return parts


def for_ever(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 1:
        pair = min(pairwise(parts), key=lambda pair: ranks.get(pair, inf))
        parts = taught.join_pair(parts, pair) if pair in ranks else parts
    return parts


def greedy(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    known = {left + right for left, right in ranks}
    end = next(n for n in range(len(word), 0, -1) if n == 1 or word[:n] in known)
    return [word[:end], *greedy(word[end:], ranks)] if word[end:] else [word]


def characters(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    parts = [character.encode() for character in word.decode()]
    while known := [pair for pair in pairwise(parts) if pair in ranks]:
        parts = taught.join_pair(parts, min(known, key=ranks.__getitem__))
    return parts


def of_known(choose: Function, known: Function = lambda pair, ranks: pair in ranks) -> Function:
    """Choose of the pairs that have a rank until none is left."""

    def cut(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
        parts = [bytes([byte]) for byte in word]
        while pairs := [pair for pair in pairwise(parts) if known(pair, ranks)]:
            parts = taught.join_pair(parts, choose(pairs, ranks))
        return parts

    return cut


def stops_at_rank_0(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 1:
        pair = min(pairwise(parts), key=lambda pair: ranks.get(pair, inf))
        if not ranks.get(pair):
            break
        parts = taught.join_pair(parts, pair)
    return parts


def last_two_first(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    """Join of three equal tokens the last two."""
    parts = in_the_order_of_ranks(word, ranks)
    return parts[::-1] if word == b"eee" else parts


WORD_CUTS: dict[str, Function] = {
    "begin with bytes, of which": characters,
    "known pair of the alphabet": of_known(lambda pairs, ranks: min(pairs)),
    "min without a key": partial(replayed, choose=lambda pairs, ranks: min(pairs)),
    "ask whether the pair is in ranks": of_known(
        lambda pairs, ranks: min(pairs, key=ranks.__getitem__), lambda pair, ranks: ranks.get(pair)
    ),
    "stop when the pair is not in ranks": stops_at_rank_0,
    "The word is bytes already": lambda word, ranks: word.encode(),
    "Correct": in_the_order_of_ranks,
    "longest token": greedy,
    "furthest to the left": partial(
        replayed, choose=lambda pairs, ranks: next((p for p in pairs if p in ranks), pairs[0])
    ),
    "the known pair furthest to the left": leftmost,
    "must come last, ranks.get(pair, inf)": partial(
        replayed, choose=lambda p, r: min(p, key=lambda pair: r.get(pair, 0))
    ),
    "highest rank": partial(
        replayed, choose=lambda pairs, ranks: max(pairs, key=lambda p: ranks.get(p, -1))
    ),
    "in its order": in_the_order_of_the_dictionary,
    "one merge is not enough": partial(replayed, rounds=1),
    "no merge knows": partial(replayed, stop=False),
    "nothing is joined": lambda word, ranks: [bytes([byte]) for byte in word],
    "you cut it into": lambda word, ranks: [b"x"],
    "gives numbers": lambda word, ranks: list(word),
    "one string of bytes": lambda word, ranks: word,
    "ranks.get(pair, inf)": partial(replayed, choose=lambda p, r: min(p, key=r.__getitem__)),
    "has no pair: stop": partial(replayed, more=lambda parts: True),
    "Stop when no pair": for_ever,
    "b'eee' is cut into": last_two_first,
    "into bytes without decoding": lambda word, ranks: (
        word.decode() and in_the_order_of_ranks(word, ranks)
    ),
}


@pytest.mark.parametrize("expected", WORD_CUTS)
def test_merge_word(
    expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SECONDS", 0.3)
    assert expected in said(checks.merge_word, WORD_CUTS[expected], capsys)


def joined(tokens: Sequence[int], vocabulary: Sequence[bytes]) -> bytes:
    return b"".join(vocabulary[token] for token in tokens)


def all_or_nothing(tokens: Sequence[int], vocabulary: Sequence[bytes]) -> str:
    try:
        return joined(tokens, vocabulary).decode()
    except UnicodeDecodeError:
        return "\ufffd"


def shortened(tokens: Sequence[int], vocabulary: Sequence[bytes], end: str = "\ufffd") -> str:
    """Take bytes away at the end until the rest is whole characters."""
    text = joined(tokens, vocabulary)
    for n in range(len(text), 0, -1):
        try:
            return text[:n].decode() + ("" if n == len(text) else end)
        except UnicodeDecodeError:
            pass
    return "\ufffd" if text else ""


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda t, v: joined(t, v).decode("utf-8", "replace"), "Correct"),
        (lambda t, v: joined([i for i in t if i], v).decode("utf-8", "replace"), "id 0 is lost"),
        (lambda t, v: joined(t, v).decode("utf-8", "replace").strip(), "leave out strip"),
        (all_or_nothing, "one broken byte costs you the whole text"),
        (shortened, "what stands behind a broken byte is lost"),
        (partial(shortened, end=""), "what stands behind a broken byte is lost"),
        (lambda t, v: joined(t, v).decode("ascii", "replace"), "You decode with ascii"),
        (lambda t, v: joined(t, v).decode("ascii"), "You decode with ascii"),
        (lambda t, v: joined(t, v).decode(), "half a character must become �"),
        (lambda t, v: joined(t, v).decode("utf-8", "ignore"), "half a character must become"),
        (lambda t, v: "".join(v[i].decode() for i in t), "decode each token by itself"),
        (
            lambda t, v: "".join(v[i].decode("utf-8", "replace") for i in t),
            "decode each token by itself",
        ),
        (lambda t, v: joined(t, v), "you return bytes"),
        (lambda t, v: joined(t, v).decode("latin-1"), "the bytes are UTF-8"),
        (lambda t, v: str(joined(t, v)), "with str()"),
        (lambda t, v: joined(t, v).decode() + " ", "spaces between the tokens"),
        (lambda t, v: b" ".join(v[i] for i in t).decode(), "spaces between the tokens"),
        (
            lambda t, v: b" ".join(v[i] for i in t).decode("utf-8", "replace"),
            "spaces between the tokens",
        ),
        (
            lambda t, v: " ".join(v[i].decode("utf-8", "replace") for i in t),
            "spaces between the tokens",
        ),
        (lambda t, v: "".join(v[i] for i in t), "use b''.join"),
        (lambda t, v: v[t], "vocabulary[token] gives the bytes"),
        (lambda t, v: bytes(t).decode(errors="replace"), "vocabulary[token] gives the bytes"),
        (lambda t, v: "War", "the tokens stand for"),
    ],
)
def test_decode(answer: Function, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.decode, answer, capsys)


# The exercises


def n_tokens(tokenizer: BPETokenizer, text: str) -> int:
    return len(tokenizer.encode(text))


def mean_rate(tokenizer: BPETokenizer, words: list[str]) -> float:
    return sum(len(word.encode()) / n_tokens(tokenizer, word) for word in words) / len(words)


OF_THE_CHAPTER = BPETokenizer.train("the café on the corner, the café at the end", 270)
"""A tokenizer that cuts the check's text as the check's own does."""


def mean_length(tokenizer: BPETokenizer, text: str) -> float:
    different = set(tokenizer.encode(text))
    return sum(len(tokenizer.token_bytes(token)) for token in different) / len(different)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda t, x: len(x.encode()) / n_tokens(t, x), "Correct"),
        (lambda t, x: len(x) / n_tokens(t, x), "you count characters"),
        (lambda t, x: n_tokens(t, x) / len(x.encode()), "tokens per byte"),
        (lambda t, x: len(x.encode()) // n_tokens(t, x), "you round down"),
        (lambda t, x: len(x.encode()) / len(set(t.encode(x))), "each different token once"),
        (lambda t, x: len(x.encode()) / t.vocab_size, "size of the vocabulary"),
        (lambda t, x: len(x.encode()) / len(x.split()), "number of words"),
        (lambda t, x: n_tokens(t, x) / len(x), "tokens per character"),
        (mean_length, "over the different tokens"),
        (lambda t, x: round(len(x.encode()) / n_tokens(t, x), 2), "Not yet: you round;"),
        (lambda t, x: mean_rate(t, taught.split_words(x)), "over the words"),
        (lambda t, x: mean_rate(t, x.split()), "over the parts between blanks"),
        (lambda t, x: len(x.encode()) / n_tokens(OF_THE_CHAPTER, x), "the one that is passed in"),
        (lambda t, x: 5.0 * n_tokens(t, x), "you say 95.000"),
        (lambda t, x: "two", "return one number, bytes per token"),
    ],
)
def test_bytes_per_token(
    answer: Function, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in said(checks.bytes_per_token, answer, capsys)


START = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|"
END = r"| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (START + r"\p{N}{1,3}" + END, "Correct"),
        (START + r"(?:\p{N}{1,3})" + END, "Correct"),
        (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}{1,3}" + END, "capital endings"),
        (START + r"(\p{N}{1,3})" + END, "round brackets make a group"),
        (START + r" ?\p{N}{1,3}" + END, "a space is still joined to the digits"),
        (START + r"\p{N}+" + END, "more than three digits"),
        (START + r"\p{N}" + END, "one by one"),
        (START + r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))" + END, "from the right"),
        (START + r"\p{N}{0,3}" + END, "fits the empty text, as {0,3} does"),
        (START + r"\p{N}{1,2}" + END, "Not yet: 'in 1812' became ['in', ' ', '18', '12']"),
        (regex.compile(START + r"\p{N}{1,3}" + END), "return its text, as SPLIT_PATTERN is"),
        (START + r"[0-9]{1,3}|\p{N}+" + END, "more than three digits"),
        (START + r"[0-9]{1,3}|\p{N}" + END, "only the digits 0 to 9"),
        (START + r"[0-9]{1,3}" + END, "only the digits 0 to 9"),
        (START + r"\d{1,3}" + END, "digits only"),
        (START + r"\p{N}{3}" + END, "loses characters"),
        (START + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s", "Not yet: "),
        ("(", "is no pattern"),
        (3, "is no pattern"),
    ],
)
def test_number_pattern(pattern: Any, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(checks.number_pattern, lambda: pattern, capsys)


def test_a_pattern_with_a_group_would_lose_words_in_the_chapter() -> None:
    assert "".join(regex.findall(START + r"(\p{N}{1,3})" + END, "in 1812")) != "in 1812"
