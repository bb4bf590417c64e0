"""Turn text into tokens and tokens into text: byte-pair encoding as GPT-2 does it.

A token is a string of bytes. Its id is a whole number below the vocabulary size. Ids follow
GPT-2: the 256 single bytes first (in the order of `byte_characters`), then one id for each
merge in the order of training, then the special tokens.

Example:
    >>> tokenizer = BPETokenizer.train("low lower lowest", vocab_size=262)
    >>> [tokenizer.token_bytes(token) for token in tokenizer.encode("lowest low")]
    [b'low', b'e', b'st', b' low']
"""

import base64
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import inf
from operator import add
from pathlib import Path

import regex
import tiktoken


class WordTokenizer:
    """Number the words of a text, or its characters; what it has never seen becomes `<unk>`.

    Args:
        tokens: The vocabulary; its first token gets id 2, after padding and the unknown.
        characters: Cut a text into characters instead of words and punctuation marks.

    Attributes:
        itos: The token of each id.
        stoi: The id of each token.

    Example:
        >>> tokenizer = WordTokenizer.build_vocab("the cat and the hat")
        >>> tokenizer.encode("the dog and the cat")
        [2, 1, 4, 2, 3]
    """

    def __init__(self, tokens: Iterable[str], characters: bool = False) -> None:
        self.characters = characters
        self.itos = ["<pad>", "<unk>", *tokens]
        self.stoi = {token: i for i, token in enumerate(self.itos)}

    @staticmethod
    def split(text: str, characters: bool) -> list[str]:
        """Cut a text into characters, or into words and punctuation marks."""
        return list(text) if characters else regex.findall(r"\w+|[^\w\s]", text)

    @classmethod
    def build_vocab(
        cls, text: str, size: int | None = None, characters: bool = False
    ) -> "WordTokenizer":
        """Take the most frequent tokens of a text, `size` of them or all, in that order."""
        counts = Counter(cls.split(text, characters))
        return cls([token for token, _ in counts.most_common(size)], characters)

    def encode(self, text: str) -> list[int]:
        """Turn a text into ids, 1 for what is not in the vocabulary."""
        return [self.stoi.get(token, 1) for token in self.split(text, self.characters)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Turn ids into text, padding left out; words are joined by blanks."""
        return ("" if self.characters else " ").join(self.itos[i] for i in tokens if i != 0)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, the tokens in the order of their ids."""
        content = {"characters": self.characters, "itos": self.itos}
        with whole_file(Path(path)) as draft:
            draft.write_text(json.dumps(content, ensure_ascii=False, indent=0), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "WordTokenizer":
        """Read a vocabulary that `save` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(content["itos"][2:], content["characters"])


Merge = tuple[bytes, bytes]
"""Two neighbouring tokens, left and right, that a merge joins into one new token."""


def join_pair(parts: Sequence[bytes], pair: Merge) -> list[bytes]:
    """Join every occurrence of a pair of neighbours, from left to right, without overlap.

    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
        Units", algorithm 1.

    Example:
        >>> join_pair([b"a", b"a", b"a", b"b"], (b"a", b"a"))
        [b'aa', b'a', b'b']
    """
    joined: list[bytes] = []
    position = 0
    while position < len(parts):
        # A slice at the end holds one part and equals no pair.
        if tuple(parts[position : position + 2]) == pair:
            joined.append(pair[0] + pair[1])
            position += 2
        else:
            joined.append(parts[position])
            position += 1
    return joined


@cache
def byte_characters() -> Mapping[int, str]:
    """Give each byte the visible character that stands for it in GPT-2's files.

    Returns:
        One printable character for each of the 256 bytes, in GPT-2's order: their ids are 0 to 255
        in it. 188 bytes stand for themselves.

    Source: `bytes_to_unicode` in https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    # What Latin-1 can print; the gap at 0xAD is the soft hyphen, which is invisible.
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    characters = {byte: chr(byte) for byte in visible}
    return characters | {byte: chr(256 + index) for index, byte in enumerate(hidden)}


# `\s+(?!\S)` leaves the last space of a run to the word behind it; `\s+` takes what is left.
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's rule for cutting a text into words, which no token may cross."""


def split_words(text: str) -> list[str]:
    """Cut a text into GPT-2's words; joined together they are the text again.

    A space belongs to the word after it.

    Raises:
        UnicodeEncodeError: If the text holds a lone surrogate; `text.encode("utf-8", "replace")`
            puts question marks there.

    Source: `pat` in https://github.com/openai/gpt-2/blob/master/src/encoder.py

    Example:
        >>> split_words("We'll meet in 1812, Natasha!")
        ['We', "'ll", ' meet', ' in', ' 1812', ',', ' Natasha', '!']
    """
    text.encode()  # fails at once at a lone surrogate, half a character, which has no UTF-8
    words: list[str] = regex.findall(SPLIT_PATTERN, text)
    return words


def count_words(text: str | Iterable[str]) -> Counter[str]:
    """Count how often each word occurs, so that training looks at each one only once.

    Args:
        text: One text, or several (documents, lines); no word spans two of them.
    """
    counts: Counter[str] = Counter()
    for part in [text] if isinstance(text, str) else text:
        counts.update(split_words(part))
    return counts


def merge_word(word: bytes, ranks: Mapping[Merge, int]) -> list[bytes]:
    """Cut one word into tokens by replaying the merges in the order they were learnt.

    Args:
        word: The bytes of one word of `split_words`.
        ranks: For each merge its place in the order of training, 0 for the first.

    Source: `bpe` in https://github.com/openai/gpt-2/blob/master/src/encoder.py

    Example:
        >>> merge_word(b"abab", {(b"a", b"b"): 0, (b"ab", b"ab"): 1})
        [b'abab']
    """
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 1:
        pair = min(pairwise(parts), key=lambda pair: ranks.get(pair, inf))
        if pair not in ranks:
            break
        parts = join_pair(parts, pair)
    return parts


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all, whenever the process is killed.

    The folder is made. What is written to the temporary name that it yields is forced to the disk
    and moved in the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps apart two processes that write the same file.
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.touch()
    mode = draft.stat().st_mode  # what a new file gets here; some writers narrow it
    try:
        yield draft
        draft.chmod(mode)
        with open(draft, "r+b") as file:
            # On the disk before the move, or a power cut could leave the name with no content.
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


END_OF_TEXT = "<|endoftext|>"
"""GPT-2's one special token: it stands between two documents, and no merge can make it."""


def can_be_special(name: str) -> bool:
    """Whether a name, such as <|pad|>, is no word: `split_words` cuts it, so no merge makes it.

    The characters allowed stand for themselves in vocab.json, so a name is found there as it is.

    Example:
        >>> can_be_special("<|pad|>"), can_be_special("pad")
        (True, False)
    """
    return bool(regex.fullmatch("[!-~]+", name)) and len(split_words(name)) > 1


def spell(token: bytes) -> str:
    r"""Write a token with the visible characters that stand for its bytes in GPT-2's files.

    Example:
        >>> spell(b" Natasha\n")
        'ĠNatashaĊ'
    """
    characters = byte_characters()
    return "".join(characters[byte] for byte in token)


def read_merges(path: Path) -> list[Merge]:
    """Read the merges from GPT-2's merges.txt, in the order of training.

    A version line comes first, then one merge a line: two tokens spelled with `byte_characters`,
    and one space between them.

    Raises:
        ValueError: If a line is not two tokens (for example because the file was cut off).
    """
    byte_of = {character: byte for byte, character in byte_characters().items()}
    merges: list[Merge] = []
    # A broken byte becomes a character that is no byte's, as a space is: an error names its line.
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#version"):
            try:
                left, right = (bytes(byte_of[x] for x in s or " ") for s in line.split(" "))
            except (KeyError, ValueError):
                line = f"line {number} of {path.name}, {line!r},"
                raise ValueError(f"{line} is not two tokens; copy or save it again") from None
            merges.append((left, right))
    return merges


class BPETokenizer:
    """Turn text into token ids and back, with your own merges or with GPT-2's.

    Args:
        merges: In the order of training: from `train_bpe`, `recover_merges` or `read_merges`.
        special: Names of special tokens, such as <|pad|>; they get the last ids.

    Attributes:
        tokens: The bytes of each token; the place in the list is the id.
        vocab_size: The number of tokens, special ones included: ids lie below it.
        ids: The id of each token that is not special, by its bytes.
        special_tokens: The id of each special token, by its name.
        ranks: The place of each merge in the order of training.

    Example:
        >>> tokenizer = BPETokenizer([(b"t", b"h"), (b"th", b"e")])
        >>> tokenizer.encode("the<|endoftext|>", allowed_special={"<|endoftext|>"})
        [257, 258]
        >>> tokenizer.decode([257, 258])
        'the<|endoftext|>'
    """

    def __init__(self, merges: Iterable[Merge], special: Iterable[str] = (END_OF_TEXT,)) -> None:
        self.merges = list(merges)
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self.tokens = [bytes([byte]) for byte in byte_characters()]
        known = set(self.tokens)
        for rank, (left, right) in enumerate(self.merges):
            if left not in known or right not in known or left + right in known:
                raise ValueError(f"merge {rank}, {left!r} {right!r} is out of order; pass them all")
            known.add(left + right)
            self.tokens.append(left + right)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.special_tokens: dict[str, int] = {}
        for name in special:
            if not can_be_special(name) or name.encode() in known:
                raise ValueError(f"special {name!r} is not like <|name|>, or is there; rename it")
            known.add(name.encode())
            self.special_tokens[name] = len(self.tokens)
            self.tokens.append(name.encode())
        self.vocab_size = len(self.tokens)
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls, text: str | Iterable[str], vocab_size: int, special: Sequence[str] = (END_OF_TEXT,)
    ) -> "BPETokenizer":
        """Learn a tokenizer from a text: ids 0 to vocab_size - 1, the special tokens' the last.

        See `train_bpe`.
        """
        cls([], special)  # a name that is refused is refused before the work
        return cls(train_bpe(text, vocab_size, len(special)), special)

    def encode(self, text: str, allowed_special: Collection[str] = frozenset()) -> list[int]:
        """Turn a text into token ids.

        The name of a special token inside the text is plain text, cut like any other, unless
        `allowed_special` holds it: what a stranger types can then never end a document.
        (tiktoken raises an error by default; this is its `disallowed_special=()`.)

        Raises:
            ValueError: If `allowed_special` holds a name that is no special token, or the
                text a lone surrogate.

        Example:
            >>> BPETokenizer([]).encode("Hi!")
            [39, 72, 0]
        """
        for name in allowed_special:
            if name not in self.special_tokens:
                raise ValueError(f"{name!r} is not one of {set(self.special_tokens)}; pass a set")
        # The longest first: one name may begin another.
        pattern = "|".join(map(regex.escape, sorted(allowed_special, key=len, reverse=True)))
        tokens: list[int] = []
        # The parentheses make split return the special tokens, too, not only what is between.
        for part in regex.split(f"({pattern})", text) if pattern else [text]:
            special = part in allowed_special
            tokens += [self.special_tokens[part]] if special else self.encode_ordinary(part)
        return tokens

    def encode_ordinary(self, text: str) -> list[int]:
        """Turn a text without special tokens into token ids; each new word is cut only once."""
        words = split_words(text)
        if len(self._cache) > 500_000:  # keep the memory bounded on endless text
            self._cache.clear()
        for word in set(words).difference(self._cache):
            self._cache[word] = [self.ids[t] for t in merge_word(word.encode(), self.ranks)]
        return [token for word in words for token in self._cache[word]]

    def token_bytes(self, token: int) -> bytes:
        """Look up the bytes of one token; they need not be whole characters."""
        return self.decode_bytes([token])

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Turn token ids into the bytes they stand for, exactly; an unknown id is a ValueError."""
        tokens, most = list(tokens), self.vocab_size - 1
        for token in tokens:
            if not 0 <= token <= most:  # Python would take -1 for the last token
                raise ValueError(f"token id {token} is not in 0..{most}; pass ids that encode gave")
        return b"".join(self.tokens[token] for token in tokens)

    def decode(self, tokens: Iterable[int]) -> str:
        """Turn token ids into text; bytes that are no whole character become U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def save(self, folder: str | Path) -> None:
        """Write vocab.json and merges.txt, GPT-2's two files, which other libraries read too.

        Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py, which reads such files
            under the names encoder.json and vocab.bpe.
        """
        lines = [f"{spell(left)} {spell(right)}\n" for left, right in self.merges]
        ids = {spell(token): i for i, token in enumerate(self.tokens)}
        with whole_file(Path(folder) / "merges.txt") as draft:
            draft.write_bytes(("#version: 0.2\n" + "".join(lines)).encode())
        with whole_file(Path(folder) / "vocab.json") as draft:
            draft.write_bytes(json.dumps(ids).encode())

    @classmethod
    def load(cls, folder: str | Path) -> "BPETokenizer":
        """Read a tokenizer from GPT-2's two files, and compare the files with each other.

        Raises:
            FileNotFoundError: If one of the files is not there.
            ValueError: If a file is cut off, or the two do not belong together.
        """
        merges = read_merges(Path(folder) / "merges.txt")
        content = (Path(folder) / "vocab.json").read_bytes()
        try:
            # By id, so that the special tokens come last and in their order.
            vocabulary = dict(sorted(json.loads(content).items(), key=lambda item: item[1]))
        except (AttributeError, TypeError, ValueError):
            vocabulary = {}  # equals no table, so the error below is raised
        # An odd name is left out here, so that the tables differ and the error below is raised.
        tokenizer = cls(merges, filter(can_be_special, [*vocabulary][256 + len(merges) :]))
        if vocabulary != {spell(token): i for i, token in enumerate(tokenizer.tokens)}:
            what = f"{len(content)} bytes, doesn't number the {256 + len(merges)} tokens"
            raise ValueError(f"vocab.json, {what} of merges.txt: copy or save both again")
        return tokenizer


def find_data(name: str) -> Path:
    """Find a file that is shipped with the course.

    Returns:
        Its path: in `data/` beside the package (a clone), or inside it (an installed wheel).

    Raises:
        FileNotFoundError: If it is in neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "data", package / "data"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{name} is neither in {package.parent / 'data'} nor in {package / 'data'}; copy it "
        "there from the course's repository, or install the package again"
    )


def read_gpt2_ranks(path: str | Path | None = None) -> dict[bytes, int]:
    """Read GPT-2's 50,256 tokens and their ids from the file that tiktoken uses.

    Args:
        path: The file; None finds the one that is shipped with the course.

    Returns:
        The id of each token, by its bytes, in the order of the ids.
    """
    path = find_data("gpt2.tiktoken") if path is None else Path(path)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    # One wrong line would give some words other ids, and nothing would crash.
    if sha256 != "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930":
        raise ValueError(f"{path.name} is not GPT-2's: sha256 {sha256[:8]}...; copy it again")
    lines = (line.split() for line in content.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def recover_merges(ranks: Mapping[bytes, int]) -> list[Merge]:
    """Find the merges behind a table of tokens: cut each token with the merges before it.

    Args:
        ranks: The id of each token by its bytes; merged tokens numbered in the order of training.

    Example:
        >>> recover_merges({b"t": 0, b"h": 1, b"e": 2, b"th": 3, b"the": 4})
        [(b't', b'h'), (b'th', b'e')]
    """
    merges: dict[Merge, int] = {}
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            # Every merge but the token's own is known by now, so two parts are left.
            parts = merge_word(token, merges)
            if len(parts) != 2:
                raise ValueError(f"{token!r} is no pair of earlier tokens; pass a whole table")
            merges[parts[0], parts[1]] = len(merges)
    return list(merges)


def gpt2_encoding() -> tiktoken.Encoding:
    """Build GPT-2's tokenizer in tiktoken, written in Rust, without any download.

    Example:
        >>> gpt2_encoding().encode("War and Peace")
        [13195, 290, 12689]
    """
    return tiktoken.Encoding(
        "gpt2",
        # SPLIT_PATTERN in the form that tiktoken has: it cuts the same way and runs faster
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        mergeable_ranks=read_gpt2_ranks(),
        special_tokens={END_OF_TEXT: 50256},
        explicit_n_vocab=50257,
    )


Tokenizer = BPETokenizer | tiktoken.Encoding
"""What turns text into tokens and back: ours, or tiktoken's."""


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Count the tokens, special ones included: all ids lie below it."""
    if isinstance(tokenizer, tiktoken.Encoding):
        return tokenizer.n_vocab
    return tokenizer.vocab_size


def end_of_text(tokenizer: Tokenizer) -> frozenset[int]:
    """Look up the id of `END_OF_TEXT`; empty if the tokenizer has no such token.

    Example:
        >>> end_of_text(BPETokenizer([]))
        frozenset({256})
    """
    if isinstance(tokenizer, tiktoken.Encoding):
        return frozenset({tokenizer.eot_token})
    return frozenset(i for name, i in tokenizer.special_tokens.items() if name == END_OF_TEXT)


class PairCounts:
    """Keep the count of every pair of neighbouring tokens up to date while pairs are merged.

    Each token is one character, `chr(id)`: a word is then a short string, a pair a string of
    two characters, and a merge is `str.replace`. Three things make it fast: each different
    word is stored once with its count, a merge visits only the words that hold its pair, and a
    heap gives the most frequent pair without a search.

    Attributes:
        words: Each different word, from `count_words`, as a string of tokens.
        word_counts: How often each of `words` occurs.
        counts: How often each pair occurs in the whole text.
        places: For each pair, indices into `words`; at least all words that hold the pair.
        heap: One entry (-count, pair) per pair; the count may be too high (it is checked when
            the entry comes out), never too low.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        # The keys of byte_characters are the bytes in the order of their ids.
        id_of_byte = bytes.maketrans(bytes(byte_characters()), bytes(range(256)))
        self.words = [word.encode().translate(id_of_byte).decode("latin-1") for word in words]
        self.word_counts = list(words.values())
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.places: defaultdict[str, set[int]] = defaultdict(set)
        for index, (word, count) in enumerate(zip(self.words, self.word_counts, strict=True)):
            for pair in map(add, word, word[1:]):  # overlaps, too: "aaa" holds "aa" twice
                self.counts[pair] += count
                self.places[pair].add(index)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapify(self.heap)

    def pop_most_frequent(self) -> str | None:
        """Take out the most frequent pair (of equals the smallest ids), or None at the end."""
        while self.heap:
            count, pair = heappop(self.heap)
            if -count == self.counts[pair]:
                return pair
            if self.counts[pair] > 0:  # the entry was too high: put it back where it belongs
                heappush(self.heap, (-self.counts[pair], pair))
        return None

    def merge(self, pair: str, token: str) -> None:
        """Replace a pair by a new token, which no word holds yet, and correct the counts."""
        new_pairs: set[str] = set()
        for index in self.places.pop(pair):
            old, count = self.words[index], self.word_counts[index]
            if pair not in old:  # an earlier merge took the pair from this word
                continue
            self.words[index] = new = old.replace(pair, token)
            for lost in map(add, old, old[1:]):
                self.counts[lost] -= count
            for found in map(add, new, new[1:]):
                self.counts[found] += count
                if token in found:  # others only got rarer: corrected when they come out
                    self.places[found].add(index)
                    new_pairs.add(found)
        for found in new_pairs:
            heappush(self.heap, (-self.counts[found], found))


def train_bpe(text: str | Iterable[str], vocab_size: int, n_special: int = 1) -> list[Merge]:
    """Learn the merges of byte-pair encoding: join the most frequent pair, again and again.

    Among equally frequent pairs the one with the smallest ids wins (left id first), so that
    the same text always gives the same merges. A pair whose joined bytes are a token already
    is passed over: each merge makes one new token. Merges are learnt in order, so the first n
    are what a smaller vocabulary would have learnt.

    Args:
        text: One text, or several (documents, lines). Special tokens in it are plain text.
        vocab_size: Number of tokens wanted: 256 bytes, the merges, and the special ones.
        n_special: How many of them are special; `END_OF_TEXT` alone by default.

    Source: Sennrich et al. 2016, algorithm 1, on bytes as in Radford et al. 2019 (GPT-2),
        section 2.2.

    Example:
        >>> train_bpe("aaabdaaabac", vocab_size=260)
        [(b'a', b'a'), (b'a', b'b'), (b'aa', b'ab')]
    """
    if vocab_size < 256 + n_special:
        raise ValueError(f"{vocab_size=} is below {256 + n_special}; ask for more")
    pairs = PairCounts(count_words(text))
    vocabulary = [bytes([byte]) for byte in byte_characters()]
    known = set(vocabulary)
    merges: list[Merge] = []
    while len(merges) < vocab_size - 256 - n_special:
        pair = pairs.pop_most_frequent()
        if pair is None:
            most = 256 + n_special + len(merges)
            raise ValueError(f"{vocab_size=} needs more text: this one is enough for {most}")
        left, right = (vocabulary[ord(token)] for token in pair)
        if left + right not in known:
            pairs.merge(pair, chr(len(vocabulary)))
            merges.append((left, right))
            vocabulary.append(left + right)
            known.add(left + right)
    return merges
