"""Texts of any size as files of tokens: prepared once, checked, and never read whole.

    for n_tokens in prepare_tokens(documents, tokenizer, "book.tokens"):
        ...                                # a bar; after a kill, the same call goes on
    tokens = open_tokens("book.tokens")    # a tensor like any other, of uint16 or int32

The ids are mapped into memory: the operating system fetches a page of the file when someone touches
it. Slices and splits stay in the file; `random_batch` and `evaluate` widen what they pick.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import models
from torch import Tensor

from gptlib.tokenizer import (
    BPETokenizer,
    Tokenizer,
    end_of_text,
    spell,
    split_words,
    vocabulary_size,
    whole_file,
)


@dataclass
class TokenFile:
    """Say what a file of tokens holds; it stands beside the file as JSON.

    Example:
        >>> TokenFile("uint16", 4096, tokenizer="1f3a").n_tokens
        0
    """

    dtype: str
    """"uint16", or "int32" for vocabularies above 65,536."""
    vocab_size: int
    """Every id is below it."""
    tokenizer: str
    """A checksum of all that the tokenizer can say."""
    n_documents: int = 0
    """Documents done, each with the end-of-text token behind it if the tokenizer has one."""
    n_tokens: int = 0
    """Tokens in the file."""
    tokens_checksum: int = 0
    """CRC-32 of the file."""
    texts_checksum: int = 0
    """CRC-32 of the documents done."""
    complete: bool = False
    """Whether all documents are in it."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenFile":
        """Describe an empty file for the tokens of a tokenizer."""
        n, checksum = vocabulary_size(tokenizer), hashlib.sha256()
        for token in range(n):
            with suppress(KeyError):  # some of tiktoken's encodings leave ids out
                checksum.update(f"{token} {tokenizer.decode_bytes([token]).hex()} ".encode())
        return cls("uint16" if n <= 2**16 else "int32", n, checksum.hexdigest()[:16])

    def save(self, path: Path) -> None:
        """Force the tokens at `path` to the disk, then say in one move how many they are."""
        with open(path, "r+b") as tokens:
            os.fsync(tokens.fileno())
        with whole_file(path.with_name(f"{path.name}.json")) as draft:
            draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "TokenFile":
        """Read the description of the file at `path`, and refuse one that can't be true."""
        found, text = path.stat().st_size, path.with_name(f"{path.name}.json").read_bytes()
        try:
            header = cls(**json.loads(text))
            promised = header.n_tokens * np.dtype(header.dtype).itemsize
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}'s .json describes no tokens; delete both files") from error
        if found < promised or (header.complete and found > promised):
            raise ValueError(
                f"{path} has {found} bytes, and its .json promises {promised}; delete both and "
                "prepare the tokens anew"
            )
        return header


def prepare_tokens(
    texts: Iterable[str], tokenizer: Tokenizer, path: str | Path, save_every: int = 1_000_000
) -> Generator[int, None, None]:
    """Turn any number of documents into one flat file of tokens, and survive a kill.

    The work is done while you ask for the next number. Called again after a kill, it skips the
    documents that are done and goes on with the next; what was half written is cut off.

    Args:
        texts: The documents, the same ones in the same order each time; read one by one. A later
            call may have more at the end.
        tokenizer: Ours or tiktoken's; its end-of-text token, if any, follows each document.
        path: The file to write; its description goes to the same name with ".json" behind it.
        save_every: Tokens from one safe state to the next.

    Yields:
        The number of tokens so far, after each document, skipped ones included.

    Raises:
        ValueError: If the file was begun with another tokenizer or with other documents, or holds
            something else, or `texts` is one string.

    Example:
        >>> import tempfile
        >>> from gptlib.tokenizer import BPETokenizer
        >>> tokenizer = BPETokenizer.train("to be or not to be", 258)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     counts = list(prepare_tokens(["to be", "or not"], tokenizer, folder + "/a.tokens"))
        ...     open_tokens(folder + "/a.tokens").shape == (counts[-1],)
        True
    """
    if isinstance(texts, str):
        raise ValueError(f"texts is one string, {texts[:40]!r}; put it into a list")
    path, end = Path(path), sorted(end_of_text(tokenizer))
    header = TokenFile.of(tokenizer)
    try:
        begun = TokenFile.load(path)
    except FileNotFoundError:  # of one of the two files
        if path.exists() and path.stat().st_size:
            what = f"{path} holds something else than tokens; choose another path"
            raise ValueError(what) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        header.save(path)
    else:
        if begun.tokenizer != header.tokenizer:
            raise ValueError(
                f"{path} was begun with another tokenizer, of {begun.vocab_size} tokens; use that "
                "one, or another path"
            )
        header = begun
    done, safe, number, checksum = header.n_documents, header.n_tokens, 0, 0
    with open(path, "r+b") as file:
        file.seek(file.truncate(header.n_tokens * np.dtype(header.dtype).itemsize))
        for number, text in enumerate(texts, start=1):
            checksum = zlib.crc32(text.encode(), checksum)
            if number == done and checksum != header.texts_checksum:
                break
            if number > done:
                ids = np.array([*tokenizer.encode_ordinary(text), *end], header.dtype).data
                file.write(ids)
                header.n_documents, header.texts_checksum = number, checksum
                header.n_tokens += len(ids)
                header.tokens_checksum = zlib.crc32(ids, header.tokens_checksum)
            if header.n_tokens - safe >= save_every:
                safe = header.n_tokens
                file.flush()
                replace(header, complete=False).save(path)
            yield header.n_tokens
    if number < done or (number == done and checksum != header.texts_checksum):
        raise ValueError(
            f"{path} was begun with other documents; pass the same {done} first, or another path"
        )
    replace(header, complete=True).save(path)


def open_tokens(path: str | Path, verify: bool = False) -> Tensor:
    """Open a file of tokens of any size without reading it.

    Args:
        path: A file that `prepare_tokens` wrote.
        verify: Whether to read it once, in pieces, and compare its checksum and its largest id.

    Returns:
        Token ids, shape (n,), dtype uint16 or int32; changing them doesn't change the file.

    Raises:
        FileNotFoundError: If the file or its description is missing.
        ValueError: If its size, its checksum or an id is wrong, or its preparation was broken off.
    """
    path = Path(path)
    header = TokenFile.load(path)
    if not header.complete or not header.n_tokens:
        raise ValueError(
            f"the preparation of {path} was broken off after {header.n_documents} documents; "
            "run it again, and it goes on from there"
        )
    dtype = torch.uint16 if header.dtype == "uint16" else torch.int32
    tokens = torch.from_file(str(path), size=header.n_tokens, dtype=dtype)
    if verify:
        checksum, largest = 0, 0
        for part in np.array_split(tokens.numpy(), 1 + header.n_tokens // 2**20):
            checksum = zlib.crc32(part.tobytes(), checksum)
            largest = max(largest, int(part.max()))
        if checksum != header.tokens_checksum or largest >= header.vocab_size:
            raise ValueError(
                f"{path} is damaged: its checksum is {checksum:08x} and its largest id {largest}, "
                f"where {header.tokens_checksum:08x} and ids below {header.vocab_size} were "
                "written; delete it and prepare the tokens anew"
            )
    return tokens


# Words of thousands of letters

LONG_WORD = re.compile(r"\S{500}|\s{500}")
"""What no language has: DNA, coded pictures, lines of dashes."""


def cut_long_words(documents: Iterable[str]) -> Iterator[str]:
    """Cut long words into pieces to train a tokenizer on.

    Each merge goes through all words that hold its pair, so the time grows with the square of a
    word's length. Of the pairs in such a word, one in 64 isn't counted.
    """
    for document in documents:
        if LONG_WORD.search(document):
            for word in split_words(document):
                yield from (word[i : i + 64] for i in range(0, len(word), 64))
        else:
            yield document


class QuickTokenizer(BPETokenizer):
    """Our tokenizer, whose long words the `tokenizers` library cuts: in n log n steps, not n²."""

    @property
    def n_plain(self) -> int:
        """How many tokens there were before special ones were added."""
        return 256 + len(self.merges)

    @property
    def n_tokens(self) -> int:
        """Ids from here on have no token, though a padded model may have rows for them."""
        return self.n_plain + sum(token != b"" for token in self.tokens[self.n_plain :])

    def save(self, folder: str | Path) -> None:
        """Write vocab.json and merges.txt, without the ids that a padded model has besides."""
        special = [token.decode() for token in self.tokens[self.n_plain : self.n_tokens]]
        BPETokenizer(self.merges, special).save(folder)

    @cached_property
    def _library(self) -> Any:
        """The same merges, which begin with one pair and keep the others in a heap."""
        ids = {spell(token): i for token, i in self.ids.items()}
        return models.BPE(vocab=ids, merges=[(spell(a), spell(b)) for a, b in self.merges])

    def encode_ordinary(self, text: str) -> list[int]:
        """Turn a text without special tokens into token ids, the same as ours."""
        if LONG_WORD.search(text):
            for word in set(split_words(text)) - self._cache.keys():
                if len(word) > 100:
                    parts = self._library.tokenize(spell(word.encode()))
                    self._cache[word] = [part.id for part in parts]
        return super().encode_ordinary(text)


def quick(tokenizer: Tokenizer) -> Tokenizer:
    """Let a tokenizer of ours cut long words quickly; others do."""
    if type(tokenizer) is BPETokenizer:
        return QuickTokenizer(tokenizer.merges, tokenizer.special_tokens)
    return tokenizer
