"""Tokenizers that Hugging Face's `tokenizers` library made or extended, read by that library."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tiktoken
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from gptlib.extras.formats.text_files import check_file
from gptlib.extras.tokens import QuickTokenizer, quick
from gptlib.tokenizer import (
    END_OF_TEXT,
    BPETokenizer,
    Tokenizer,
    byte_characters,
    end_of_text,
    gpt2_encoding,
    read_gpt2_ranks,
    vocabulary_size,
)
from gptlib.weights import damaged, read_json, read_tokenizer, require_files

FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "vocab.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
"""What a tokenizer is read from, and saved as again."""

MOST_IDS = 2**24
"""More would only be asked for by a damaged file, and fill the memory."""

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""GPT-2's two files, by their names of today and of 2019."""

ENDS = (END_OF_TEXT, "</s>", "<eos>", "[EOS]", "<|im_end|>", "[SEP]")
"""How end-of-text tokens are called where no file says which one it is."""


class LibraryTokenizer(BPETokenizer):
    """A tokenizer of the `tokenizers` library that is asked in the same words as ours.

    Args:
        library: The library's own.
        end: The token that ends a text; `END_OF_TEXT` stands for it here, whatever it is called.
        files: Its files by name, which `save` writes as they came.

    Attributes:
        library: The library's own.
        n_tokens: Ids from here on have no token, though a padded model may have rows for them.
        n_plain: How many tokens there were before any was added.
    """

    def __init__(
        self, library: tokenizers.Tokenizer, end: str | None, files: dict[str, bytes]
    ) -> None:
        library.no_truncation()
        library.no_padding()
        library.encode_special_tokens = True  # what a stranger types never ends a document
        if getattr(library.model, "dropout", None):  # a text has one way to be cut, not a random
            library.model.dropout = None
        self.library, self.files, self.merges = library, files, []
        vocabulary = library.get_vocab(with_added_tokens=True)
        added = library.get_added_tokens_decoder()
        self.special_tokens = {t.content: i for i, t in added.items() if t.special}
        if end in vocabulary:
            self.special_tokens[END_OF_TEXT] = vocabulary[end]
        self.vocab_size = self.n_tokens = 1 + max(vocabulary.values(), default=-1)
        self.n_plain = library.get_vocab_size(with_added_tokens=False)
        if self.n_tokens > MOST_IDS:
            raise ValueError(f"the tokenizer has an id of {self.n_tokens - 1}; GPT-2's are smaller")
        written = json.loads(library.to_str())
        steps = json.dumps([written["decoder"], written["pre_tokenizer"]])
        self.is_bytes = '"ByteLevel"' in steps
        self.tokens = [b""] * self.n_tokens
        byte_of = {character: byte for byte, character in byte_characters().items()}
        pieces = {} if self.is_bytes else self._find_pieces(list(vocabulary.values()))
        for name, token in vocabulary.items():
            if token in added:
                self.tokens[token] = added[token].content.encode()
            elif self.is_bytes and all(character in byte_of for character in name):
                self.tokens[token] = bytes(byte_of[character] for character in name)
            elif re.fullmatch("<0x[0-9A-F]{2}>", name) and '"ByteFallback"' in steps:
                self.tokens[token] = bytes([int(name[3:5], 16)])
            else:
                self.tokens[token] = pieces.get(token, name).encode()
        special = set(self.special_tokens.values())
        self.ids = {text: i for i, text in enumerate(self.tokens) if i not in special}

    def _find_pieces(self, tokens: list[int]) -> dict[int, str]:
        """Look up what each token adds to a text that has begun."""
        alone = self.library.decode(tokens[:1], skip_special_tokens=False)
        pairs = [[tokens[0], token] for token in tokens]
        texts = self.library.decode_batch(pairs, skip_special_tokens=False)
        return {t: text.removeprefix(alone) for t, text in zip(tokens, texts, strict=True)}

    def encode(self, text: str, allowed_special: Collection[str] = frozenset()) -> list[int]:
        """Turn a text into token ids, with what the tokenizer's template puts around it."""
        tokens = super().encode(text, allowed_special)
        plain, whole = (self.library.encode("a", add_special_tokens=s).ids for s in (False, True))
        place = next((i for i in range(len(whole)) if whole[i:][: len(plain)] == plain), 0)
        return [*whole[:place], *tokens, *whole[place + len(plain) :]]

    def encode_ordinary(self, text: str) -> list[int]:
        """Turn a text into token ids; added tokens count, names of special ones are plain text."""
        text.encode()  # fails at once at a lone surrogate
        ids: list[int] = self.library.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Any) -> str:
        """Turn token ids into text, as the library does it."""
        tokens = list(tokens)
        text = super().decode(tokens)
        return text if self.is_bytes else self.library.decode(tokens, skip_special_tokens=False)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files as they came."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "tokenizer_config.json").unlink(missing_ok=True)  # it would name GPT-2's class
        for name, content in self.files.items():
            Path(folder, name).write_bytes(content)


def read_any_tokenizer(folder: Path, n_rows: int | None = None) -> Tokenizer:
    """Read the tokenizer of a folder of any age.

    Args:
        folder: With vocab.json and merges.txt, with OpenAI's encoder.json and vocab.bpe, with
            tokenizer.json, or with vocab.txt.
        n_rows: How many tokens its model has a row for, if there is a model.

    Returns:
        GPT-2's own as tiktoken's `Encoding`; one in our form as a `BPETokenizer`; any other as a
        `LibraryTokenizer`, which cuts texts as `transformers` does.

    Raises:
        FileNotFoundError: If there is no tokenizer.
        ValueError: If a file is damaged, or the files do not belong together.
    """
    for path in (folder / name for name in FILES):
        if path.is_file():
            check_file(path)
    config = {
        name: value
        for file in ("special_tokens_map.json", "tokenizer_config.json")
        for name, value in (read_json(folder / file) if (folder / file).is_file() else {}).items()
    }
    if not isinstance(config.get("added_tokens_decoder") or {}, dict):
        raise damaged(folder / "tokenizer_config.json", "its added tokens have no ids")
    plain = _read_plain(folder, config)
    if plain and n_rows in (None, vocabulary_size(plain)):
        return plain
    if plain and n_rows and end_of_text(plain):  # without one, transformers adds it
        return fit_tokenizer(plain, n_rows)
    library, end = _read_library(folder, config)
    files = {name: (folder / name) for name in FILES if (folder / name).is_file()}
    contents = {name: path.read_bytes() for name, path in files.items()}
    tokenizer = LibraryTokenizer(library, end, contents)
    found = gpt2_encoding() if _is_gpt2(tokenizer) else tokenizer
    return found if n_rows is None else fit_tokenizer(found, n_rows)


def _read_plain(folder: Path, config: dict[str, Any]) -> Tokenizer | None:
    """Read a tokenizer in our own form; None if it is another, or the library must say more."""
    extras = ("tokenizer.json", "added_tokens.json", "encoder.json", "special_tokens_map.json")
    if any((folder / name).is_file() for name in extras) or config.get("add_prefix_space"):
        return None
    try:
        plain = read_tokenizer(folder)
    except (ValueError, OSError):
        return None
    names = {_name(token) for token in (config.get("added_tokens_decoder") or {}).values()}
    ours = () if isinstance(plain, tiktoken.Encoding) else plain.special_tokens
    ends = END_OF_TEXT in ours or not ours  # else its end of text has another name
    ends &= _name(config.get("eos_token")) in (None, END_OF_TEXT)
    return plain if ends and names <= {END_OF_TEXT, *ours} else None


def _is_gpt2(tokenizer: LibraryTokenizer) -> bool:
    """Whether it is GPT-2's own in another file, so that tiktoken, which is faster, does it."""
    written = json.loads(tokenizer.library.to_str())
    way = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return (
        tokenizer.special_tokens == {END_OF_TEXT: 50256}
        and not written["normalizer"]
        and way.items() <= (written["pre_tokenizer"] or {"use_regex": True}).items()
        and tokenizer.tokens[:-1] == list(read_gpt2_ranks())
    )


def fit_tokenizer(tokenizer: Tokenizer, n_rows: int) -> Tokenizer:
    """Let a tokenizer claim as many ids as a model has rows, if they differ as models' do.

    Rows are padded to a multiple of 8, or a few were added for tokens that nobody kept; or tokens
    were added that the model was not yet resized for. Any other is returned as it is.
    """
    n_tokens = vocabulary_size(tokenizer)
    more, tokenizer = n_rows - n_tokens, quick(tokenizer) if n_rows != n_tokens else tokenizer
    if more > 0 and more > max(8, n_tokens // 100) and (n_rows % 8 or more >= 1024):
        return tokenizer
    if isinstance(tokenizer, tiktoken.Encoding) and more > 0:
        padding = {f"<|padding {i}|>": i for i in range(n_tokens, n_rows)}
        return tiktoken.Encoding(
            tokenizer.name,
            pat_str=tokenizer._pat_str,
            mergeable_ranks=tokenizer._mergeable_ranks,
            special_tokens={**tokenizer._special_tokens, **padding},
        )
    if isinstance(tokenizer, LibraryTokenizer | QuickTokenizer) and tokenizer.n_plain <= n_rows:
        tokenizer.vocab_size, tokenizer.tokens = n_rows, tokenizer.tokens + [b""] * more
        kept = {name: i for name, i in tokenizer.special_tokens.items() if i < n_rows}
        tokenizer.special_tokens = kept
    return tokenizer


def from_characters(ids: dict[str, int]) -> LibraryTokenizer:
    """Make a tokenizer whose tokens are single characters, as nanoGPT's meta.pkl has them."""
    library = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[]))
    library.decoder = decoders.Fuse()
    return LibraryTokenizer(library, None, {"tokenizer.json": library.to_str().encode()})


def _read_library(folder: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, str | None]:
    """Let the library read a folder's tokenizer; says which token ends a text, too."""
    path, names = folder / "tokenizer.json", ""
    pair = next(((folder / v, folder / m) for v, m in PAIRS if (folder / v).is_file()), None)
    roles: dict[str, Any] = {}
    try:
        if path.is_file():
            library = tokenizers.Tokenizer.from_str(json.dumps(read_json(path)))
        elif pair:
            path, names = pair[0], f" with {pair[1].name}"
            require_files(folder, [pair[1].name])
            library = _read_pair(*pair, bool(config.get("add_prefix_space", False)))
            roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        elif (path := folder / "vocab.txt").is_file():
            small = config.get("do_lower_case", True) is True
            words = tokenizers.BertWordPieceTokenizer(str(path), lowercase=small)
            library = tokenizers.Tokenizer.from_str(words.to_str())
        elif pieces := sorted(file.name for file in folder.glob("*.model")):
            raise ValueError(
                f"{folder} has its tokenizer only as {pieces[0]}, a file of SentencePiece; write "
                "it as tokenizer.json with transformers: AutoTokenizer.from_pretrained(FOLDER)"
                ".save_pretrained(FOLDER)"
            )
        else:
            require_files(folder, ["vocab.json", "merges.txt"])
        _add_tokens(library, folder, roles | config)
    except (ValueError, OSError, KeyboardInterrupt):
        raise
    except BaseException as error:  # errors of no kind, and panics, which are no Exception
        raise ValueError(
            f"{path}{names} is not the file of a tokenizer that the tokenizers library "
            f"{tokenizers.__version__} reads ({error}); a newer one may, or it is another program's"
        ) from error
    ends = [_name((roles | config).get("eos_token"))]
    model = folder / "config.json"
    end = (read_json(model) if model.is_file() else {}).get("eos_token_id")
    ends += [library.id_to_token(end)] if type(end) is int and 0 <= end < MOST_IDS else []
    vocabulary = library.get_vocab()
    return library, next((name for name in [*ends, *ENDS] if name in vocabulary), None)


def _read_pair(vocab: Path, merges: Path, add_prefix_space: bool) -> tokenizers.Tokenizer:
    """Read GPT-2's two files, and see that the one makes what the other numbers."""
    read_json(vocab)  # says so if it is damaged
    ids, pairs = models.BPE.read_file(str(vocab), str(merges))
    library = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=pairs))
    made = {left + right for left, right in pairs}
    for name, token in ids.items():
        if len(name) > 1 and name not in made:
            parts = [part.id for part in library.model.tokenize(name)]
            if len(parts) == 2 and max(parts) < token:  # special tokens are of more, or come first
                raise damaged(
                    vocab,
                    f"no line of {merges.name} makes its token {name!r}, so one of the two files "
                    "is cut off or another tokenizer's",
                )
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    library.decoder = decoders.ByteLevel()
    return library


def _add_tokens(library: tokenizers.Tokenizer, folder: Path, config: dict[str, Any]) -> None:
    """Add the tokens that stand beside the vocabulary, in the order in which transformers does."""
    roles = [f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    special = [config.get(role) for role in roles]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key) or []
        special += more.values() if isinstance(more, dict) else more
    names = {_name(token) for token in special}
    listed = {int(i): token for i, token in (config.get("added_tokens_decoder") or {}).items()}
    beside = folder / "added_tokens.json"
    if not listed and beside.is_file():
        listed = {int(i): name for name, i in read_json(beside).items()}
    for token in [*(listed[i] for i in sorted(listed)), *special]:
        name, flags = _name(token), dict(token) if isinstance(token, dict) else {}
        is_special = bool(flags.get("special", name in names))
        if not name or any(t.content == name for t in library.get_added_tokens_decoder().values()):
            continue
        given = {k: bool(flags[k]) for k in ("lstrip", "rstrip", "single_word") if k in flags}
        normalized = bool(flags.get("normalized", not is_special))
        added = AddedToken(name, normalized=normalized, special=is_special, **given)
        (library.add_special_tokens if is_special else library.add_tokens)([added])


def _name(token: Any) -> str | None:
    """Read the name of a token, which files write as a text or as an object."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None


UNKNOWN = "<|unk|>"
"""What stands for a character or a word that a tokenizer of `KINDS` has no token for."""

KINDS = ("wordpiece", "unigram", "word", "char")
"""The kinds that `train_library_tokenizer` trains."""


def train_library_tokenizer(
    texts: Iterable[str], kind: str, vocab_size: int, special: Sequence[str] = (END_OF_TEXT,)
) -> LibraryTokenizer:
    """Learn BERT's or SentencePiece's kind of tokenizer, or list words or characters.

    The `tokenizers` library does it. None of them works on bytes: what the texts lack becomes
    `UNKNOWN`, and "wordpiece" and "word" drop blanks and line breaks, so that a decoded text is not
    always the one that was encoded.

    Args:
        texts: Documents or lines.
        kind: "wordpiece" begins with characters and joins the most frequent pair, as BPE (BERT's
            own joined the pair that made the text likeliest), and cuts a word by the longest match;
            "unigram" begins with too many pieces, drops those whose loss costs least, and cuts a
            text where its pieces' probabilities multiply to the most; "word" and "char" number the
            most frequent words and punctuation marks, or characters, as chapter 1's
            `WordTokenizer`.
        vocab_size: Number of tokens at most, `UNKNOWN` and the special ones included.
        special: Names of special tokens; they get the ids behind `UNKNOWN`'s, 0.

    Raises:
        ValueError: If there are more characters than pieces can be made of, or no text.

    Source:
        Schuster and Nakajima 2012, Wu et al. 2016, section 4.1 (WordPiece); Kudo 2018, "Subword
        Regularization", section 3.2 (Unigram); Kudo and Richardson 2018 (SentencePiece).

    Example:
        >>> tokenizer = train_library_tokenizer(["low lower lowest"], "word", 16)
        >>> tokenizer.decode(tokenizer.encode("lower, lowest"))
        'lower <|unk|> lowest'
    """
    parts = [UNKNOWN, *special]
    trainer: Any
    if kind == "wordpiece":
        library = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer
    elif kind == "unigram":
        library = tokenizers.Tokenizer(models.Unigram())
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        library.decoder = decoders.Metaspace(prepend_scheme="never")
        trainer = partial(trainers.UnigramTrainer, unk_token=UNKNOWN)
    else:
        pattern = tokenizers.Regex(r"\w+|[^\w\s]" if kind == "word" else r"[\s\S]")
        library = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        library.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
        if kind == "char":
            library.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer
    plan = trainer(vocab_size=vocab_size, special_tokens=parts, show_progress=False)
    try:
        library.train_from_iterator(texts, plan)
    except Exception as error:
        raise ValueError(f"no {kind} tokenizer can be made of these texts: {error}") from error
    if (least := library.get_vocab_size()) > vocab_size:
        raise ValueError(f"{vocab_size=} is below {least}, characters and special tokens; raise it")
    if least <= len(parts):
        raise ValueError(f"no {kind} tokenizer can be made of texts that are empty; add some")
    return LibraryTokenizer(library, END_OF_TEXT, {"tokenizer.json": library.to_str().encode()})
