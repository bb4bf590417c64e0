"""Check the tasks and exercises of the chapter on the tokenizer."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, pairwise, product
from typing import Any

import regex

from gptlib import tokenizer as taught
from gptlib.extras.checks.answers import Answer, Wrong, attempt, named, number_of, run, says, task
from gptlib.tokenizer import BPETokenizer, Merge, byte_characters

LETTERS = "Iterating over bytes gives numbers; bytes([number]) makes a token of one."
STRINGS = "A token is bytes, b'a', not a string."
LIST_KEY = {"unhashable type: 'list'": "A list can't be a key; a pair is a tuple, (left, right)."}


def _tokens(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


def _pick(got: Any, right: Any, causes: Mapping[str, Any], otherwise: str) -> None:
    """Raise `Wrong` unless an answer is right, with the cause that leads to this very answer."""
    if got == right:
        return
    for cause, wrong in causes.items():
        if got == wrong:
            raise Wrong(f"Not yet: {cause}.")
    raise Wrong(f"Not yet: {otherwise}")


def _run_on_copies(answer: Answer, *arguments: Any, hints: Mapping[str, str] = {}) -> Any:
    """Call an answer, and refuse one that changes what it was given."""
    given = copy.deepcopy(arguments)
    try:
        result = run(answer, *given, hints=hints)
    except Wrong as wrong:
        if str(wrong).startswith("Not written yet") and given != arguments:
            raise Wrong(
                "Not yet: you change what was passed in and return nothing; build something new, "
                "and return it."
            ) from None
        raise
    if given != arguments:
        raise Wrong("Not yet: you change what was passed in, which the caller still needs.")
    return result


def _as_counts(got: Any) -> dict[Any, int]:
    """Read counts of pairs, zeros left out."""
    if isinstance(got, list) and got and isinstance(got[0], tuple):
        if isinstance(got[0][-1], int):
            raise Wrong("Not yet: you return a list, as most_common does; return the Counter.")
        raise Wrong("Not yet: you return a list of pairs; count them in a Counter.")
    if not isinstance(got, Mapping):
        raise Wrong(f"Not yet: you return {type(got).__name__}; return a Counter of pairs.")
    if any(isinstance(key, tuple) and isinstance(key[0], int) for key in got):
        raise Wrong(f"Not yet: your pairs hold numbers. {LETTERS}")
    if any(isinstance(part, str) for key in got for part in _parts(key)):
        raise Wrong(f"Not yet: your keys hold strings. {STRINGS}")
    if got and all(isinstance(key, bytes) for key in got):
        if all(len(key) == 1 for key in got):
            raise Wrong("Not yet: you count tokens; count pairs of neighbours, (left, right).")
        raise Wrong("Not yet: you glue the pair; its key is (left, right), two tokens.")
    return {key: count for key, count in got.items() if count}


def _parts(key: Any) -> Sequence[Any]:
    return key if isinstance(key, tuple) else (key,)


@task
def word_tokenizer(kind: Any) -> str:
    """Check a vocabulary of words or characters: building it, encoding, decoding."""
    text = "that is to be, or not to be: to be"
    given = run(kind.build_vocab, text, hints={"unhashable": _PAIRS})
    if not isinstance(given, kind):
        raise Wrong(
            f"Not yet: build_vocab returns {type(given).__name__}; return cls(tokens, ...)."
        )
    words = ["to", "be", "that", "is", ",", "or", "not", ":"]
    _pick(given.itos, ["<pad>", "<unk>", *words], _wrong_vocabularies(words, text), _ORDER)
    causes: dict[str, Any] = {
        "build_vocab ignores `size`": ["<pad>", "<unk>", *words],
        "`size` counts the words of the text; <pad> and <unk> come on top": ["<pad>", "<unk>"],
    }
    _pick(run(kind.build_vocab, text, 2).itos, ["<pad>", "<unk>", "to", "be"], causes, _ORDER)
    causes = {
        "more words than `size`: of equally frequent ones only the earliest are taken": [
            *("<pad>", "<unk>", *words)
        ]
    }
    _pick(run(kind.build_vocab, text, 3).itos, ["<pad>", "<unk>", *words[:3]], causes, _ORDER)
    many = run(kind.build_vocab, " ".join(map(str, range(999)))).itos
    if len(many) != 1001:
        taken = f"of 999 different ones you take {len(many) - 2}"
        raise Wrong(f"Not yet: without `size` all tokens are taken; {taken}.")
    cased = run(kind.build_vocab, "War war Peace war")
    causes = {
        "you write all letters small; War and war are two words": ["<pad>", "<unk>", "war", "peace"]
    }
    _pick(cased.itos, ["<pad>", "<unk>", "war", "War", "Peace"], causes, _ORDER)
    letters = run(kind.build_vocab, "a b a", None, True)
    causes = {
        "pass `characters` on to split, or it cuts into words": ["<pad>", "<unk>", "a", "b"],
        "a blank is a character too": ["<pad>", "<unk>", "a", "b"],
    }
    _pick(letters.itos, ["<pad>", "<unk>", "a", " ", "b"], causes, _ORDER)
    if not letters.characters:
        raise Wrong("Not yet: pass `characters` on to cls, or encode will cut into words.")
    hints = dict.fromkeys(("'the'", "not in list"), "self.stoi.get(token, 1) is 1 for it.")
    got = run(given.encode, "that is the question: to be", hints=hints)
    causes = {
        "an unknown word gets id 1, not 0, which is padding": [4, 5, 0, 0, 9, 2, 3],
        "unknown words are left out; they get id 1": [4, 5, 9, 2, 3],
        "an unknown word has no id for you (None); it gets 1": [4, 5, None, None, 9, 2, 3],
        "the blanks cut the text; use split, which knows punctuation": [4, 5, 1, 1, 2, 3],
        "the words' ids begin with 2; 0 is <pad> and 1 is <unk>, so look the ids up in stoi": [
            *(2, 3, 1, 1, 7, 0, 1)
        ],
    }
    right = [4, 5, 1, 1, 9, 2, 3]
    _pick(got, right, causes, f"'that is the question: to be' became {got}, not {right}.")
    causes = {
        "you write all letters small; War and war are two words": [2, 1, 2, 2],
        "a word that comes again is a token again; go through all of them": [3, 1, 2],
    }
    got = run(cased.encode, "War and war war", hints=hints)
    _pick(got, [3, 1, 2, 2], causes, f"'War and war war' became {got}, not [3, 1, 2, 2].")
    _pick(run(letters.encode, "ab c"), [2, 4, 3, 1], {}, "encode must split by self.characters.")
    ids = [4, 5, 1, 9, 2, 3, 0, 0]
    got = run(given.decode, ids)
    causes = {
        "padding is left out, id 0": "that is <unk> : to be <pad> <pad>",
        "words are joined by blanks": "thatis<unk>:tobe",
        "you return a list; join it": ["that", "is", "<unk>", ":", "to", "be"],
        "<unk> stays visible; only padding is left out": "that is : to be",
        "there is a blank at the end": "that is <unk> : to be ",
    }
    _pick(got, "that is <unk> : to be", causes, f"{ids} became {got!r}.")
    got = run(given.decode, [4, 0, 5])
    causes = {"you stop at the first padding; leave it out and go on": "that"}
    _pick(got, "that is", causes, f"[4, 0, 5] became {got!r}, not 'that is'.")
    hints = dict.fromkeys(("has no len()", "not subscriptable", "no attribute"), _ONE_BY_ONE)
    got = run(given.decode, (token for token in (4, 6, 5)), hints=hints)
    otherwise = f"ids 4, 6 and 5 from a generator became {got!r}. {_ONE_BY_ONE}"
    causes = {"a comma is a token like any other, with a blank on each side": "that, is"}
    _pick(got, "that , is", causes, otherwise)
    causes = {
        "characters are joined by nothing, words by blanks": "a b   a  ",
        "blanks at the ends are characters too; leave out strip": "ab a",
    }
    got = run(letters.decode, [2, 4, 3, 2, 3])
    _pick(got, "ab a ", causes, "characters are joined by nothing.")
    return "Correct: known words come back, unknown ones are <unk>, padding is gone."


_ONE_BY_ONE = "An Iterable may be a generator: it can be read once, in a loop, and has no length."
_PAIRS = "most_common gives pairs of token and count; the tokens alone go to cls."
_ORDER = (
    "itos holds <pad>, <unk>, then the tokens, the most frequent first, of equals the earliest."
)


def _wrong_vocabularies(words: list[str], text: str) -> dict[str, list[Any]]:
    parts = regex.findall(r"\w+|[^\w\s]", text)
    wrong = {
        "the tokens are in alphabetical order; the most frequent comes first": sorted(words),
        "the tokens are in the order of the text; the most frequent comes first": [
            *dict.fromkeys(parts)
        ],
        "each token stands there once for each time it occurs; take each once": parts,
        "cls adds <pad> and <unk> by itself": ["<pad>", "<unk>", *words],
        "the rarest token comes first; the most frequent should": words[::-1],
        "the blanks cut the text; use split, which knows punctuation": [
            word for word, _ in Counter(text.split()).most_common()
        ],
        "pass the tokens alone to cls, not the pairs of token and count": [
            *Counter(parts).most_common()
        ],
    }
    return {cause: ["<pad>", "<unk>", *tokens] for cause, tokens in wrong.items()}


@task
def count_pairs(answer: Callable[[list[bytes]], Mapping[Merge, int]]) -> str:
    """Check the counts of neighbours in one list of tokens."""
    parts = _tokens("aaabdaaabac")
    pairs = list(pairwise(parts))
    hints = {"index out of range": _AT_THE_END, **LIST_KEY}
    got = _as_counts(_run_on_copies(answer, parts, hints=hints))
    apart = Counter({**Counter(pairs), (b"a", b"a"): 2})
    causes = {
        "tokens 0 and 1, then 2 and 3, are only every second pair; neighbours overlap": Counter(
            zip(parts[::2], parts[1::2], strict=False)
        ),
        "the last pair is missing": Counter(pairs[:-1]),
        "the last token has no right neighbour; you paired it with the first one": Counter(
            [*pairs, (parts[-1], parts[0])]
        ),
        "each token is paired with all behind it; count neighbours only": Counter(
            combinations(parts, 2)
        ),
        "each token is paired with every token; count neighbours only": Counter(
            product(parts, parts)
        ),
        "each pair counts once for you; count all its places": Counter(set(pairs)),
        "left and right are swapped": Counter((right, left) for left, right in pairs),
        "(a, b) and (b, a) are two different pairs; don't sort": Counter(
            (min(pair), max(pair)) for pair in pairs
        ),
        "aaa holds the pair a, a twice: count all neighbours, overlaps too": apart,
    }
    _pick(got, dict(Counter(pairs)), causes, f"a, a occurs 4 times in aaabdaaabac; you say {got}.")
    got = _as_counts(_run_on_copies(answer, [b"th", b"e", b"th", b"e"]))
    _pick(got, {(b"th", b"e"): 2, (b"e", b"th"): 1}, {}, "tokens may be longer than one byte.")
    _pick(_as_counts(_run_on_copies(answer, [b"a"])), {}, {}, "one token alone has no pair.")
    hints = {"index out of range": "A list without tokens has no first one, and no pair."}
    _pick(_as_counts(_run_on_copies(answer, [], hints=hints)), {}, {}, "no token, no pair.")
    return "Correct: six different pairs in aaabdaaabac, and a, a four times."


_AT_THE_END = "The last token has no right neighbour; pairwise(parts) stops before it."


@task
def join_pair(answer: Callable[[list[bytes], Merge], list[bytes]]) -> str:
    """Check one merge in one list of tokens."""
    parts, pair = _tokens("aaabdaaabac"), (b"a", b"a")
    got = _listed(_run_on_copies(answer, parts, pair, hints={"index out of range": _SLICE}))
    right = taught.join_pair(parts, pair)
    overlapping = [
        left + after if (left, after) == pair else left for left, after in pairwise([*parts, b""])
    ]
    causes = {
        "nothing is joined. A list equals no tuple: compare tuple(parts[i : i + 2]) with pair": (
            parts
        ),
        "only the first place is joined; go on to the end": [b"aa", *parts[2:]],
        "the token after a joined pair is joined again; go on two places": overlapping,
        "the token after a joined pair is joined again, and the last one is lost; go on two "
        "places after a pair, else one, to the end": overlapping[:-1],
        "the pair's first token is still there; after a joined pair go on two places": [
            token
            for left, after in pairwise([*parts, b""])
            for token in ([left + after, left] if (left, after) == pair else [left])
        ],
        "go from left to right: the first two of aaa are joined": [
            part[::-1] for part in reversed(taught.join_pair(parts[::-1], pair))
        ],
        "the tokens that are no part of the pair are lost": [b"aa", b"aa"],
        "the last token is lost": right[:-1],
        "the pair stays a pair; put the one token left + right in its place": [
            pair if part == b"aa" else part for part in right
        ],
        "the pair is lost; put the one token left + right in its place": [
            part for part in right if part != b"aa"
        ],
        "the pair's second token is still there; go on two places": _stale(parts, pair),
    }
    _pick(got, right, causes, f"aaabdaaabac becomes {_shown(right)}; you make {_shown(got)}.")
    parts, pair = [b"a", b"bc", b"ab", b"c", b"ab", b"c"], (b"ab", b"c")
    causes = {
        "a, bc spells the same as ab, c, and is another pair; compare the tokens": [b"abc"] * 3,
        "the last pair of the list is not joined": [b"a", b"bc", b"abc", b"ab", b"c"],
        "the last token is lost": [b"a", b"bc", b"abc"],
    }
    got = _listed(_run_on_copies(answer, parts, pair))
    _pick(got, [*parts[:2], b"abc", b"abc"], causes, f"a, bc, ab, c, ab, c became {_shown(got)}.")
    causes = {
        "c, ab is not the pair ab, c; the left token comes first": [b"abc", b"c"],
        "c, ab is not the pair ab, c; compare left with left and right with right": [b"cab", b"c"],
    }
    got = _listed(_run_on_copies(answer, [b"c", b"ab", b"c"], pair))
    _pick(got, [b"c", b"abc"], causes, f"c, ab, c became {_shown(got)}.")
    for short in ([], [b"a"]):
        got = _listed(_run_on_copies(answer, short, pair, hints={"index": _SLICE}))
        _pick(got, short, {}, f"{short} has no pair and stays as it is; you make {got}.")
    return "Correct: aaabdaaabac became aa a b d aa a b a c, from left to right."


_SLICE = "Compare a slice: tuple(parts[i : i + 2]) is short at the end, and no error."


def _stale(parts: Sequence[bytes], pair: Merge) -> list[bytes]:
    """Join pairs and go on one place only, so that the right token stays."""
    out, skip = [], False
    for place, part in enumerate(parts):
        if not skip and tuple(parts[place : place + 2]) == pair:
            out += [pair[0] + pair[1], pair[1]]
            skip = True
        else:
            out += [] if skip else [part]
            skip = False
    return out


def _listed(got: Any) -> list[Any]:
    """Read a list of tokens."""
    if isinstance(got, bytes):
        raise Wrong("Not yet: you return one string of bytes; return a list of tokens.")
    if not isinstance(got, list | tuple):
        raise Wrong(f"Not yet: you return {type(got).__name__}; return a list of tokens.")
    if any(isinstance(part, int) for part in got):
        raise Wrong(f"Not yet: your list holds numbers. {LETTERS}")
    if any(isinstance(part, str) for part in got):
        raise Wrong(f"Not yet: your list holds strings. {STRINGS}")
    return list(got)


def _shown(parts: Iterable[Any]) -> str:
    return " ".join(p.decode(errors="replace") if isinstance(p, bytes) else str(p) for p in parts)


@task
def learn_merges(answer: Callable[[list[list[bytes]], int], list[Merge]]) -> str:
    """Check the loop of training, merge by merge."""
    text = "low low low low low lower lower newest newest newest newest newest newest widespread"
    words = [_tokens(word) for word in text.split()]
    hints = {"b'": _NO_ID, "min()": _NO_PAIR, **LIST_KEY}
    got = _run_on_copies(answer, words, 8, hints=hints)
    right = _learn(words, 8)
    if isinstance(got, list) and got and all(isinstance(merge, bytes) for merge in got):
        raise Wrong("Not yet: you return the new tokens; return the pairs, (left, right).")
    if not isinstance(got, list) or any(not isinstance(merge, tuple) for merge in got):
        raise Wrong("Not yet: return the list of merges, each a pair (left, right).")
    counts = _count(words)
    causes = {
        "the same pair comes every time; join it in every word before you count again": right[:1]
        * 8,
        "the pairs are chosen but not joined; make new words, each of them join_pair(word, best). "
        "In a loop, word = join_pair(word, best) only gives a name": _learn(words, 8, join=False),
        "the counts pile up; begin each round with a new Counter": _learn(words, 8, anew=False),
        "the counts are old; count anew after each merge": [p for p, _ in counts.most_common(8)],
        "the words are glued together; no merge crosses from one word to the next": _learn(
            [[part for word in words for part in word]], 8
        ),
        "each different word counts once for you; one that stands six times counts six times": (
            _learn([list(word) for word in dict.fromkeys(map(tuple, words))], 8)
        ),
        "each round begins again with the words of the start; go on with the joined ones": (
            _learn(words, 8, onward=False)
        ),
        "only the first word is counted": _learn(words[:1], 8),
        "only the last word is counted, or the rarest pair is taken; make one Counter before the "
        "loop over the words, and take the most frequent pair": _learn(words[-1:], 8),
        "after a merge only the last word is left; collect all joined words in a new list": _learn(
            words, 8, keep=slice(-1, None)
        ),
    }
    for cause, wrong in causes.items():
        if got == wrong:
            raise Wrong(f"Not yet: {cause}.")
    if got != right and got in [_learn(words, 8, number=number) for number in _WRONG_IDS]:
        raise Wrong(f"Not yet: your new tokens get wrong ids. {_NO_ID}")
    if got[:8] == right or got == right[: len(got)]:
        if len(got) != 8:
            raise Wrong(f"Not yet: 8 merges were asked for; you return {len(got)}.")
        words = [[b"a", b"b"]] * 2 + [[b"a", b"b", b"c"], [b"\xad", b"c"]] * 2
        if _run_on_copies(answer, words, 2) != _learn(words, 2):
            raise Wrong(f"Not yet: a new token's id comes behind those of all 256 bytes. {_NO_ID}")
        words = [*map(_tokens, ("cde", "cde", "abe", "abe", "ab", "ab", "cd"))]
        if _run_on_copies(answer, words, 3) != _learn(words, 3):
            raise Wrong(f"Not yet: each new token needs an id of its own, the next. {_NO_ID}")
        words = [*map(_tokens, ("ababab", "cd", "cd"))]
        if _run_on_copies(answer, words, 1) == [(b"c", b"d")]:
            raise Wrong("Not yet: a pair counts at each of its places in a word, also in ababab.")
        words = [*map(_tokens, ("ab", " a"))]
        if _run_on_copies(answer, words, 1) == [(b" ", b"a")]:
            raise Wrong(
                "Not yet: a, b and blank, a are equally frequent, and a, b has the smaller ids. "
                "Take GPT-2's numbers of the bytes: ids = byte_ids()."
            )
        return "Correct: eight merges, each the most frequent pair of its moment."
    rank = next(i for i, merge in enumerate(got) if i >= 8 or merge != right[i])
    raise Wrong(
        f"Not yet: merge {rank} should be {right[rank]}, you choose {got[rank]}. Of equally "
        "frequent pairs the one with the smallest ids wins: most_frequent(counts, ids) knows."
    )


_NO_ID = "A new token needs an id, the next number: ids[left + right] = len(ids)."
_NO_PAIR = (
    "There is no pair to choose from. Each round counts the pairs of all words, in one Counter, "
    "and hands all words on to the next round."
)
_WRONG_IDS: list[Callable[[int], int]] = [
    *(lambda n: n, lambda n: n + 1, lambda n: n + 255),
    *(lambda n: 0, lambda n: 1, lambda n: 255, lambda n: 256),
]
"""Wrong ids of the new token of round n, from 0: counted from 0, 1 or 255, or always the same."""


def _count(words: Iterable[Sequence[bytes]]) -> Counter[Merge]:
    return Counter(pair for word in words for pair in pairwise(word))


def _learn(
    words: list[list[bytes]],
    n_merges: int,
    *,
    join: bool = True,
    anew: bool = True,
    number: Callable[[int], int] = lambda n: 256 + n,
    keep: slice = slice(None),
    onward: bool = True,
) -> list[Merge]:
    ids = {bytes([byte]): i for i, byte in enumerate(byte_characters())}
    merges, first = list[Merge](), words
    counts: Counter[Merge] = Counter()
    while len(merges) < n_merges:
        counts = _count(words) if anew else counts + _count(words)
        new = [pair for pair in counts if pair[0] + pair[1] not in ids]
        if not new:
            break
        best = min(new, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        words = words if onward else first
        words = [taught.join_pair(word, best) for word in words][keep] if join else words
        ids[best[0] + best[1]] = number(len(merges))
        merges.append(best)
    return merges


@task
def count_all(answer: Callable[[list[list[bytes]], list[int]], Mapping[Merge, int]]) -> str:
    """Check counts in which each different word is stored once."""
    words = [_tokens(word) for word in ("run", "tune", "aaaa", "it")]
    times = [2, 1, 3, 9]
    alone = {"positional argument": "It takes the words and how often each occurs.", **LIST_KEY}
    got = _as_counts(_run_on_copies(answer, words, times, hints=alone))

    def weighted(pairs: Callable[[list[bytes]], Iterable[Merge]]) -> dict[Merge, int]:
        counts: Counter[Merge] = Counter()
        for word, n in zip(words, times, strict=True):
            for pair in pairs(word):
                counts[pair] += n
        return dict(counts)

    right = weighted(pairwise)
    last = {pair: n for word, n in zip(words, times, strict=True) for pair in pairwise(word)}
    multiplied: dict[Merge, int] = {}
    for word, n in zip(words, times, strict=True):
        multiplied = {p: n * k for p, k in (Counter(multiplied) + _count([word])).items()}
    causes = {
        "each different word counts once for you; add the number of times it occurs": dict(
            _count(words)
        ),
        "a pair counts once for each word; in aaaa there are three pairs a, a": weighted(
            lambda word: set(pairwise(word))
        ),
        "the later word overwrites the earlier one; add up, with +=": last,
        "a later word overwrites what an earlier one counted; add the two, with +=": {
            pair: n * k
            for word, n in zip(words, times, strict=True)
            for pair, k in Counter(pairwise(word)).items()
        },
        "each word is counted with the numbers of all words; zip(words, times) gives its own": {
            pair: k * sum(times) for pair, k in _count(words).items()
        },
        "each word's number multiplies what earlier words counted too; add n at each place": (
            multiplied
        ),
        "the number of times is added once for each word; add it at each place": {
            pair: sum(
                Counter(pairwise(word))[pair] + n
                for word, n in zip(words, times, strict=True)
                if pair in pairwise(word)
            )
            for pair in right
        },
        "the words are glued together; no pair crosses from one word to the next": dict(
            _count([[part for word in words for part in word]])
        ),
        "only the first word is counted; return stands inside a loop": dict.fromkeys(
            pairwise(words[0]), times[0]
        ),
        "only the first pair is counted; return stands inside the loops": {(b"r", b"u"): times[0]},
        "only the last word is counted; make the Counter before the loop": {
            (b"i", b"t"): times[-1]
        },
        "a word is repeated, and a pair stands at each seam; count the pairs of one word": dict(
            _count(word * n for word, n in zip(words, times, strict=True))
        ),
    }
    _pick(got, right, causes, f"i, t occurs 9 times and u, n 3 times; you say {got}.")
    return "Correct: a pair counts at each of its places, times the number of its word."


@task
def merge_word(answer: Callable[[bytes, Mapping[Merge, int]], list[bytes]]) -> str:
    """Check how a word is cut: the merges are replayed in their order."""
    merges = [(b"s", b"t"), (b"l", b"o"), (b"w", b"e"), (b"we", b"r"), (b"lo", b"w")]
    merges += [(b"low", b"e"), (b"e", b"st"), (b"t", b"e"), (b"te", b"r"), (b"t", b"est")]
    merges += [(b"e", b"e"), (b"\xe2", b"\x80")]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    shuffled = {pair: ranks[pair] for pair in sorted(merges, reverse=True)}
    hints = {
        "was stopped": "Stop when no pair of the word has a rank.",
        "(b'": "Most pairs have no rank: ranks.get(pair, inf) gives infinity.",
        "empty": "A word of one token has no pair: stop before you look for the smallest.",
        "concat": LETTERS,
        "no attribute 'encode'": (
            "The word is bytes already: [word[i : i + 1] for i in range(len(word))] cuts it."
        ),
    }
    words = [b"lower", b"lowest", b"testers", b"lox", b"west", b"xyz", b"a", "🙂".encode()]
    cut = [_listed(_run_on_copies(answer, w, dict(shuffled), hints=hints)) for w in words]
    right = [taught.merge_word(word, ranks) for word in words]
    ways: dict[str, Callable[[bytes], list[bytes]]] = {
        "you begin with characters; begin with bytes, of which 🙂 has four": (
            lambda word: _replay(word, lambda pairs: min(pairs, key=ranks.__getitem__), ranks, str)
        ),
        "rank 0 is false in an if; ask whether the pair is in ranks": lambda word: _replay(
            word,
            lambda pairs: min(pairs, key=ranks.__getitem__),
            {pair: rank for pair, rank in ranks.items() if rank},
        ),
        "rank 0 is false in an if; stop when the pair is not in ranks": lambda word: (
            [bytes([byte]) for byte in word]
            if merges[0] in pairwise(bytes([byte]) for byte in word)
            else taught.merge_word(word, ranks)
        ),
        "the first known pair of the alphabet is joined; give min a key, the rank": (
            lambda word: _replay(word, min, ranks)
        ),
        "min without a key takes the first pair of the alphabet; the key is the rank": (
            lambda word: _replay(word, min, ranks, stop=True)
        ),
        "the longest token that fits is taken; replay the merges in their order": (
            lambda word: _longest_first(word, merges)
        ),
        "the pair furthest to the left comes first for you; the lowest rank is next": (
            lambda word: _replay(word, lambda pairs: pairs[0], ranks)
        ),
        "the known pair furthest to the left is joined first; the lowest rank is next": (
            lambda word: _leftmost(word, ranks)
        ),
        "the pair with the highest rank comes first for you; the lowest is next": (
            lambda word: _replay(word, lambda pairs: max(pairs, key=ranks.__getitem__), ranks)
        ),
        "you go through the dictionary in its order; the rank says which merge is next": (
            lambda word: _in_order(word, shuffled)
        ),
        "one merge is not enough; go on while a pair has a rank": (
            lambda word: _in_order(word, _first(word, ranks))
        ),
        "pairs that no merge knows are joined; stop when no pair has a rank": lambda word: [word],
        "nothing is joined; a pair without a rank must come last, ranks.get(pair, inf)": (
            lambda word: [bytes([byte]) for byte in word]
        ),
    }
    causes = {cause: list(map(way, words)) for cause, way in ways.items()}
    n = next((n for n in range(len(words)) if cut[n] != right[n]), 0)
    said = f"{words[n].decode()} is cut into {_shown(right[n])}; you cut it into {_shown(cut[n])}."
    _pick(cut, right, causes, said)
    hints = {"codec can't": "A word may be half a character; cut it into bytes without decoding."}
    for odd in (b"eee", b"\xe2\x80"):  # merges go from left to right, and half characters occur
        mine, theirs = run(answer, odd, ranks, hints=hints), taught.merge_word(odd, ranks)
        _pick(mine, theirs, {}, f"{odd!r} is cut into {theirs}; you cut it into {mine}.")
    return "Correct: lower becomes lo wer, because w, e was learnt before lo, w."


def _replay(
    word: bytes,
    choose: Callable[[list[Merge]], Merge],
    ranks: Mapping[Merge, int],
    begin: type[str] | type[bytes] = bytes,
    *,
    stop: bool = False,
) -> list[bytes]:
    """Join one known pair after the other, or choose of all pairs and stop at an unknown one."""
    parts = [bytes([byte]) for byte in word]
    if begin is str:
        parts = [character.encode() for character in word.decode()]
    while pairs := [pair for pair in pairwise(parts) if stop or pair in ranks]:
        pair = choose(pairs)
        if pair not in ranks:
            break
        parts = taught.join_pair(parts, pair)
    return parts


def _leftmost(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    parts = [bytes([byte]) for byte in word]
    while place := next((i for i, pair in enumerate(pairwise(parts), 1) if pair in ranks), 0):
        parts[place - 1 : place + 1] = [parts[place - 1] + parts[place]]
    return parts


def _first(word: bytes, ranks: Mapping[Merge, int]) -> list[Merge]:
    pairs = [pair for pair in pairwise(bytes([byte]) for byte in word) if pair in ranks]
    return [min(pairs, key=ranks.__getitem__)] if pairs else []


def _in_order(word: bytes, merges: Iterable[Merge]) -> list[bytes]:
    parts = [bytes([byte]) for byte in word]
    for pair in merges:
        parts = taught.join_pair(parts, pair)
    return parts


def _longest_first(word: bytes, merges: Iterable[Merge]) -> list[bytes]:
    known = {left + right for left, right in merges}
    parts = []
    while word:
        end = next(n for n in range(len(word), 0, -1) if n == 1 or word[:n] in known)
        parts.append(word[:end])
        word = word[end:]
    return parts


@task
def decode(answer: Callable[[list[int], list[bytes]], str]) -> str:
    """Check that ids become text again."""
    tokenizer = BPETokenizer([(b"t", b"h"), (b"th", b"e"), (b" ", b"\xc3"), (b"\xc3", b"\xa9")])
    hints = {
        "'ascii' codec": ASCII,
        "expected str instance, bytes found": "You join bytes with a string; use b''.join.",
        "invalid continuation byte": SPACES,
        "unexpected end of data": ALONE,
        **dict.fromkeys(
            ("list indices must be", "range(0, 256)"),
            "vocabulary[token] gives the bytes of one id.",
        ),
    }
    for text in ("the café 🙂 é", "naïve", "Ж" * 3, "", "the!", " the "):
        tokens = tokenizer.encode(text)
        got = run(answer, list(tokens), list(tokenizer.tokens), hints=hints)
        parts = [tokenizer.tokens[token] for token in tokens]
        if got == "the" and text == "the!":
            raise Wrong("Not yet: id 0 is lost; here it is the byte of !, not padding.")
        if got == text.strip() != text:
            raise Wrong("Not yet: the blanks at the ends are lost; leave out strip.")
        if got != text:
            raise Wrong(f"Not yet: {_wrong_text(text, got, parts)}")
    first = tokenizer.ids[b"\xc3"]
    half = attempt(answer, [first], list(tokenizer.tokens))
    if half != "\ufffd":
        raise Wrong("Not yet: half a character must become �; decode with errors='replace'.")
    the = tokenizer.encode("the")
    got = attempt(answer, [*the, first, *the], list(tokenizer.tokens))
    causes = {
        "one broken byte costs you the whole text": "\ufffd",
        "what stands behind a broken byte is lost": got if got in ("the", "the\ufffd") else "the",
    }
    otherwise = f"half a character between the and the becomes the�the; you say {got!r}."
    causes = {f"{cause}; decode once, with errors='replace'": c for cause, c in causes.items()}
    _pick(got, "the\ufffdthe", causes, otherwise)
    return "Correct: whole texts come back, and half a character becomes �."


ASCII = "You decode with ascii; the bytes are UTF-8."
ALONE = "You decode each token by itself; a character can lie in two. Join the bytes first."
SPACES = "You put spaces between the tokens; they carry their own. Join with b''.join."


def _wrong_text(text: str, got: Any, parts: list[bytes]) -> str:
    if isinstance(got, bytes):
        return "you return bytes; turn them into text with bytes.decode."
    if got in [b"".join(parts).decode("ascii", how) for how in _ERRORS]:
        return ASCII
    if got in ["".join(part.decode("utf-8", how) for part in parts) for how in _ERRORS]:
        return ALONE
    if got == b"".join(parts).decode("latin-1"):
        return "you decode with latin-1; the bytes are UTF-8."
    if isinstance(got, str) and got.startswith("b'"):
        return "you write the bytes with str(); use bytes.decode."
    spaced = [b" ".join(parts).decode("utf-8", how) for how in _ERRORS]
    spaced += [" ".join(part.decode("utf-8", how) for part in parts) for how in _ERRORS]
    if got in spaced or (isinstance(got, str) and got.replace(" ", "") == text.replace(" ", "")):
        return SPACES
    return f"the tokens stand for {text!r}, you say {got!r}."


_ERRORS = ("replace", "ignore")


@says
def bytes_per_token(answer: Answer) -> str:
    """Check how well a tokenizer shortens a text."""
    tokenizer = BPETokenizer.train("the café on the corner, the café at the end", 270)
    text = "the café on the corner, the cafés 🙂 the"
    tokens = tokenizer.encode(text)
    n_bytes, n_tokens = len(text.encode()), len(tokens)
    got = number_of(answer, tokenizer, text, wanted="bytes per token")
    same = attempt(answer, BPETokenizer([]), text) == got

    def average(words: list[str]) -> float:
        rates = [len(word.encode()) / len(tokenizer.encode(word)) for word in words]
        return sum(rates) / len(rates)

    mistakes = {
        "you count characters; count the bytes of text.encode()": len(text) / n_tokens,
        "the fraction is upside down: these are tokens per byte": n_tokens / n_bytes,
        "you round down: use /, not //": n_bytes // n_tokens,
        "you count each different token once; count every token of the text": (
            n_bytes / len(set(tokens))
        ),
        "you divide by the size of the vocabulary; divide by the tokens of this text": (
            n_bytes / tokenizer.vocab_size
        ),
        "you divide by the number of words; divide by the number of tokens": (
            n_bytes / len(text.split())
        ),
        "these are tokens per character; divide the bytes by the tokens": n_tokens / len(text),
        "you average over the different tokens; count every token of the text": (
            sum(len(tokenizer.token_bytes(token)) for token in set(tokens)) / len(set(tokens))
        ),
        **{
            f"you average over {kind}; divide all bytes by all tokens": average(words)
            for kind, words in (
                ("the words", taught.split_words(text)),
                ("the parts between blanks", text.split()),
            )
        },
    }
    if abs(got - n_bytes / n_tokens) < 1e-9 and not same:
        return f"Correct: {n_bytes} bytes in {n_tokens} tokens are {got:.2f} bytes per token."
    if mistake := named(got, mistakes):
        raise Wrong(f"Not yet: {mistake}.")
    if same:
        raise Wrong(
            "Not yet: a tokenizer without merges gets the same number from you; use the one that "
            "is passed in, `tokenizer`."
        )
    if any(got == round(n_bytes / n_tokens, digits) for digits in range(1, 9)):
        raise Wrong("Not yet: you round; return the number as it is, and round when you print.")
    raise Wrong(f"Not yet: {n_bytes} bytes in {n_tokens} tokens; you say {got:.3f}.")


@says
def number_pattern(answer: Answer) -> str:
    """Check a split pattern that cuts numbers into groups of at most three digits."""
    pattern = run(answer)
    if isinstance(pattern, regex.Pattern):
        raise Wrong("Not yet: you return a compiled pattern; return its text, as SPLIT_PATTERN is.")
    try:
        groups = regex.compile(pattern).groups
    except (regex.error, TypeError) as error:
        raise Wrong(f"Not yet: {pattern!r} is no pattern ({error}).") from error
    if groups:
        raise Wrong(
            "Not yet: round brackets make a group, and findall then returns the group instead of "
            "the word, so that most words are lost; leave them out, or write (?:...)."
        )
    cases = {
        "in 1812": ["in", " ", "181", "2"],
        "1000000": ["100", "000", "0"],
        "x = 42;": ["x", " =", " ", "42", ";"],
        "We'll see ٣٤٥٦   now\n": ["We", "'ll", " see", " ", "٣٤٥", "٦", "  ", " now", "\n"],
        "3½ 12³": ["3½", " ", "12³"],
        "WE'LL (go)": ["WE", "'", "LL", " (", "go", ")"],
    }
    for text, expected in cases.items():
        got = regex.findall(pattern, text)
        if got != expected:
            raise Wrong(f"Not yet: {_wrong_cut(text, expected, got)}")
    return f"Correct: all {len(cases)} texts are cut as they should be, and nothing is lost."


def _wrong_cut(text: str, expected: list[str], got: list[str]) -> str:
    example = f"{text!r} became {got}, it should be {expected}."
    if "٣" in text and not any(word.startswith("٣٤") for word in got):
        return f"only the digits 0 to 9 are cut; \\p{{N}} knows those of every script. {example}"
    if "½" in text and "3½" not in got:
        return f"\\d knows digits only; \\p{{N}} also ½ and ³. {example}"
    if "'LL" in got:
        return f"GPT-4 cuts off capital endings, 'LL, too; here only numbers change. {example}"
    if "".join(got) != text:
        return f"your pattern loses characters: every one must be in some word. {example}"
    if "" in got:
        return f"your pattern also fits the empty text, as {{0,3}} does; ask for a digit. {example}"
    if any(regex.fullmatch(r" \p{N}+", word) for word in got):
        return f"a space is still joined to the digits after it. {example}"
    if any(regex.fullmatch(r"\p{N}{4,}", word) for word in got):
        return f"there are still words of more than three digits. {example}"
    numbers = [word for word in got if regex.fullmatch(r"\p{N}+", word)]
    if numbers == ["1", "812"]:
        return f"you group the digits from the right; begin at the left. {example}"
    if len(numbers) > 1 and max(map(len, numbers)) == 1:
        return f"you cut digits one by one; up to three stay together. {example}"
    return example
