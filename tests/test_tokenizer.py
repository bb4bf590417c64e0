"""Our byte-pair encoding against a naive one, tiktoken, Hugging Face and OpenAI's own files."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import tiktoken
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public  # type: ignore[import-untyped]
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gptlib import tokenizer as module
from gptlib.extras.datasets import war_and_peace
from gptlib.tokenizer import (
    END_OF_TEXT,
    SPLIT_PATTERN,
    BPETokenizer,
    Merge,
    WordTokenizer,
    byte_characters,
    find_data,
    gpt2_encoding,
    join_pair,
    merge_word,
    read_gpt2_ranks,
    recover_merges,
    spell,
    split_words,
    train_bpe,
    whole_file,
)

SENTENCE = "Well, Prince, so Genoa and Lucca are now just family estates of the Buonapartes."


@cache
def book() -> str:
    return war_and_peace()


@cache
def gpt2() -> BPETokenizer:
    return BPETokenizer(recover_merges(read_gpt2_ranks()))


@cache
def small() -> BPETokenizer:
    return BPETokenizer.train(book()[:200_000], 600)


def naive_merges(text: str, n_merges: int) -> list[Merge]:
    """Learn merges the slow way: count everything anew before each merge."""
    words = [[bytes([byte]) for byte in word.encode()] for word in split_words(text)]
    known = [bytes([byte]) for byte in byte_characters()]
    merges: list[Merge] = []
    while len(merges) < n_merges:
        counts = Counter(pair for word in words for pair in pairwise(word))
        new = [pair for pair in counts if pair[0] + pair[1] not in known]
        if not new:
            break
        best = min(new, key=lambda p: (-counts[p], known.index(p[0]), known.index(p[1])))
        words = [join_pair(word, best) for word in words]
        known.append(best[0] + best[1])
        merges.append(best)
    return merges


def huggingface_trained(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


# A vocabulary of words


def test_a_vocabulary_of_words_begins_with_padding_the_unknown_and_the_most_frequent() -> None:
    words = WordTokenizer.build_vocab("the cat, the hat, the end")
    assert words.itos == ["<pad>", "<unk>", "the", ",", "cat", "hat", "end"]
    assert [words.stoi[token] for token in words.itos] == list(range(7))
    assert WordTokenizer.build_vocab("the cat, the hat, the end", 2).itos[2:] == ["the", ","]


def test_what_a_vocabulary_lacks_is_unknown_and_padding_is_left_out() -> None:
    words = WordTokenizer.build_vocab("the cat and the hat")
    assert words.encode("the dog and the hat") == [2, 1, 4, 2, 5]
    assert words.decode([2, 1, 4, 0, 0]) == "the <unk> and"


def test_a_vocabulary_of_characters_gives_back_the_text() -> None:
    letters = WordTokenizer.build_vocab(SENTENCE, characters=True)
    assert letters.decode(letters.encode(SENTENCE)) == SENTENCE
    assert letters.encode("é W") == [1, letters.stoi[" "], letters.stoi["W"]]


@pytest.mark.parametrize("characters", [False, True])
def test_a_vocabulary_is_saved_as_json_that_people_can_read(
    characters: bool, tmp_path: Path
) -> None:
    saved = WordTokenizer.build_vocab("“Où?” said Anna", characters=characters)
    saved.save(tmp_path / "words.json")
    assert '\n"“",\n' in (tmp_path / "words.json").read_text(encoding="utf-8")
    loaded = WordTokenizer.load(tmp_path / "words.json")
    assert vars(loaded) == vars(saved)


# Words


def test_words_joined_are_the_text() -> None:
    assert "".join(split_words(book())) == book()


@settings(deadline=None)
@given(st.text())
def test_words_joined_are_any_text(text: str) -> None:
    assert "".join(split_words(text)) == text


def test_the_pattern_cuts_as_gpt2s_original_one() -> None:
    original = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    part = book()[:300_000]
    assert split_words(part) == regex.findall(original, part)
    assert split_words("I'm  here,\n\n we'LL see ") == [
        *("I", "'m", " ", " here", ",", "\n\n", " we", "'", "LL", " see", " ")
    ]
    assert SPLIT_PATTERN.count("|") == 8


# Training


def test_the_textbook_example_gives_the_textbooks_merges() -> None:
    assert train_bpe("aaabdaaabac", 260) == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]
    ranks = {pair: i for i, pair in enumerate(train_bpe("aaabdaaabac", 260))}
    assert merge_word(b"aaabdaaabac", ranks) == [b"aaab", b"d", b"aaab", b"a", b"c"]


@settings(deadline=None)
@given(st.text("ab c", min_size=1, max_size=60) | st.text(min_size=1, max_size=20))
@example("aaaaaaaaaaaaaaa")
@example("ab ab abab ababab")
@example("🙂🙃🙂🙃 é́é")
def test_training_finds_the_merges_of_the_naive_way(text: str) -> None:
    expected = naive_merges(text, 30)
    assert train_bpe(text, 257 + len(expected)) == expected


def test_training_finds_the_merges_of_the_naive_way_on_prose() -> None:
    text = book()[:5_000]
    assert train_bpe(text, 357) == naive_merges(text, 100)


def test_training_finds_the_merges_of_hugging_faces_trainer_on_the_whole_book() -> None:
    paragraphs = book().split("\n\n")
    size = 4096 if len(book()) > 1_000_000 else 1024
    theirs = json.loads(huggingface_trained(paragraphs, size).to_str())["model"]["merges"]
    ours = [[spell(left), spell(right)] for left, right in train_bpe(paragraphs, size)]
    assert ours == theirs


def test_a_smaller_vocabulary_is_the_beginning_of_a_bigger_one() -> None:
    text = book()[:50_000]
    assert train_bpe(text, 400)[:43] == train_bpe(text, 300)


def test_among_equally_frequent_pairs_the_smallest_ids_win() -> None:
    assert train_bpe("cd ab", 258) == [(b"a", b"b")]


def test_texts_are_not_joined_before_training() -> None:
    assert train_bpe(["ab", "ab", "cd"], 258) == [(b"a", b"b")]
    assert (b"d", b"a") not in train_bpe(["abcd", "abcd"], 260)


def test_ids_run_from_0_and_end_of_text_is_the_last() -> None:
    assert small().vocab_size == 600
    assert small().special_tokens == {END_OF_TEXT: 599}
    assert max(small().encode(book()[:200_000])) < 599
    assert BPETokenizer.train("a", 257).encode("aé") == [64, 127, 102]


def test_the_words_of_training_are_cut_as_training_left_them() -> None:
    pairs = module.PairCounts(module.count_words(book()[:20_000]))
    tokens = list(map(bytes, ([byte] for byte in byte_characters())))
    for left, right in train_bpe(book()[:20_000], 457):
        pairs.merge(
            chr(tokens.index(left)) + chr(tokens.index(right)),
            chr(len(tokens)),
        )
        tokens.append(left + right)
    learnt = BPETokenizer(train_bpe(book()[:20_000], 457))
    for word, left_by_training in zip(
        module.count_words(book()[:20_000]), pairs.words, strict=True
    ):
        assert learnt.encode(word) == list(map(ord, left_by_training))


# Encoding and decoding

PIECES = st.sampled_from(
    [
        *(
            "🙂",
            "👩\u200d👩\u200d👧",
            "e\u0301",
            "\u0301",
            "नमस्ते",
            "四",
            "مرحبا",
            "ﬁ",
            "½",
            "\U000e0001",
        ),
        *("\x00", "\x1c", "\x7f", "\x85", "\u200b", "\ufeff", "\U0010ffff"),
        *(" ", "  ", "\n", "\r\n", "\t", "\u3000", "\xa0", "\u2028"),
        *("'s", "'LL", "’s", "12", "the", " Natasha", "...", "<|", "|>", END_OF_TEXT),
    ]
)


def classes(find: Callable[[str], set[str]]) -> dict[str, str]:
    """Sort the characters that some class of the split pattern holds."""
    return {c: name for name in (r"\p{L}", r"\p{N}", r"\s") for c in find(name)}


@cache
def disputed() -> dict[str, tuple[str | None, str | None]]:
    """Find the characters that `regex` and tiktoken, of other versions of Unicode, see otherwise.

    tiktoken drops what its pattern doesn't match, so with single bytes it gives back a class.
    """
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    byte_ranks = {bytes([byte]): byte for byte in range(256)}

    def with_tiktoken(name: str) -> set[str]:
        found = tiktoken.Encoding(
            "class", pat_str=f"{name}+", mergeable_ranks=byte_ranks, special_tokens={}
        )
        return set(bytes(found.encode_ordinary(every)).decode())

    ours, theirs = classes(lambda name: set(regex.findall(name, every))), classes(with_tiktoken)
    return {
        c: (ours.get(c), theirs.get(c))
        for c in ours.keys() | theirs.keys()
        if ours.get(c) != theirs.get(c)
    }


def known_to_both(text: str) -> str:
    return "".join(character for character in text if character not in disputed())


ANY_TEXT = st.text() | st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)


@settings(deadline=None)
@given(ANY_TEXT.map(known_to_both))
def test_text_of_characters_that_both_know_is_cut_as_tiktoken_cuts_it(text: str) -> None:
    tokens = gpt2().encode(text)
    assert tokens == ENCODING.encode(text, disallowed_special=())
    assert gpt2().decode(tokens) == text


@settings(deadline=None)
@given(ANY_TEXT.map(known_to_both))
def test_with_special_tokens_allowed_such_text_is_cut_as_tiktoken_cuts_it(text: str) -> None:
    tokens = gpt2().encode(text, allowed_special={END_OF_TEXT})
    assert tokens == ENCODING.encode(text, allowed_special="all")
    assert gpt2().decode(tokens) == text


def test_of_two_special_names_the_longer_one_is_found_in_whatever_order_they_come() -> None:
    short, long = "<|a|>", "<|a|>|>"
    tokenizer = BPETokenizer([], special=[short, long])
    for allowed in ([short, long], [long, short]):
        assert tokenizer.encode(long + short, allowed) == [257, 256]


@settings(deadline=None)
@given(ANY_TEXT)
def test_decoding_gives_back_any_text(text: str) -> None:
    assert small().decode(small().encode(text)) == text
    assert small().decode(small().encode(text, {END_OF_TEXT})) == text


@settings(deadline=None)
@given(st.lists(st.integers(0, 50256)))
def test_any_ids_are_decoded_as_tiktoken_decodes_them(tokens: list[int]) -> None:
    assert gpt2().decode_bytes(tokens) == ENCODING.decode_bytes(tokens)
    assert gpt2().decode(tokens) == ENCODING.decode(tokens)


def test_the_whole_book_is_cut_as_tiktoken_cuts_it() -> None:
    tokens = gpt2().encode(book())
    assert tokens == ENCODING.encode_ordinary(book())
    assert gpt2().decode(tokens) == book()


def test_a_character_is_seen_otherwise_only_by_the_library_that_does_not_know_it_yet() -> None:
    assert all(None in pair for pair in disputed().values())


def test_every_character_that_both_know_is_cut_as_tiktoken_cuts_it() -> None:
    """The planes left out hold Chinese characters, and what no script has."""
    points = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200), 0x10FFFF]
    text = "".join(f"a{c}1  {c}!" for c in map(chr, points) if c not in disputed())
    assert BPETokenizer(gpt2().merges).encode(text) == ENCODING.encode_ordinary(text)


def test_a_special_tokens_name_is_plain_text_unless_it_is_allowed() -> None:
    text = f"War{END_OF_TEXT}Peace"
    plain = gpt2().encode(text)
    assert 50256 not in plain
    assert gpt2().encode(text, {END_OF_TEXT}) == [13195, 50256, *gpt2().encode("Peace")]
    assert gpt2().decode(plain) == gpt2().decode(gpt2().encode(text, {END_OF_TEXT})) == text


def test_several_special_tokens_get_the_last_ids_in_order() -> None:
    chat = BPETokenizer(train_bpe(SENTENCE, 270), [END_OF_TEXT, "<|user|>", "<|bot|>"])
    assert chat.special_tokens == {END_OF_TEXT: 269, "<|user|>": 270, "<|bot|>": 271}
    text = "<|user|>Well<|bot|>"
    tokens = chat.encode(text, {"<|user|>"})
    assert tokens[0] == 270
    assert 271 not in tokens
    assert chat.decode(tokens) == text


def test_empty_text_gives_no_tokens_and_no_tokens_give_empty_text() -> None:
    assert gpt2().encode("") == []
    assert gpt2().decode([]) == ""


def test_a_cut_character_is_shown_as_unknown_and_kept_in_bytes() -> None:
    tokens = BPETokenizer([]).encode("é")
    assert BPETokenizer([]).decode(tokens[:1]) == "\ufffd"
    assert BPETokenizer([]).decode_bytes(tokens[:1]) == b"\xc3"


def test_the_cache_changes_nothing_and_is_emptied_when_it_is_full() -> None:
    learnt = BPETokenizer(small().merges)
    expected = learnt.encode(SENTENCE)
    learnt._cache.update({str(i): [] for i in range(500_001)})
    assert learnt.encode(SENTENCE) == expected
    assert len(learnt._cache) < 100


def test_gpt2s_merges_are_recovered_from_its_tokens() -> None:
    assert len(gpt2().merges) == 50_000
    assert gpt2().merges[:3] == [(b" ", b"t"), (b" ", b"a"), (b"h", b"e")]
    assert gpt2().ids == read_gpt2_ranks()


def test_our_own_merges_are_recovered_from_our_tokens() -> None:
    assert recover_merges(small().ids) == small().merges


# Files


def test_gpt2s_saved_files_are_openais_byte_for_byte(tmp_path: Path) -> None:
    gpt2().save(tmp_path)
    source = Path(openai_public.__file__).read_text(encoding="utf-8")
    for name in ("merges.txt", "vocab.json"):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() in source


def test_loading_gives_back_what_was_saved(tmp_path: Path) -> None:
    several = BPETokenizer(small().merges, [END_OF_TEXT, "<|user|>"])
    for name, saved in {"small": small(), "several": several, "none": BPETokenizer([])}.items():
        saved.save(tmp_path / name)
        loaded = BPETokenizer.load(tmp_path / name)
        assert loaded.merges == saved.merges
        assert loaded.tokens == saved.tokens
        assert loaded.special_tokens == saved.special_tokens
        assert loaded.encode(SENTENCE) == saved.encode(SENTENCE)


def huggingface(folder: Path) -> Tokenizer:
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize("ours", [small, gpt2])
def test_tokenizers_opens_our_files_and_encodes_the_same(
    ours: Callable[[], BPETokenizer], tmp_path: Path
) -> None:
    ours().save(tmp_path)
    theirs = huggingface(tmp_path)
    for part in (book()[:200_000], "e\u0301🙂\x00 \n\n  '12's", SENTENCE):
        assert theirs.encode(part).ids == ours().encode(part)
    assert theirs.decode(ours().encode(SENTENCE)) == SENTENCE


@pytest.mark.parametrize("ours", [small, gpt2])
def test_transformers_opens_our_files_and_encodes_the_same(
    ours: Callable[[], BPETokenizer], tmp_path: Path
) -> None:
    ours().save(tmp_path)
    theirs = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
    text = f"{SENTENCE}{END_OF_TEXT}  naïve 🙂\n\n"
    assert theirs(text)["input_ids"] == ours().encode(text, {END_OF_TEXT})
    assert theirs.eos_token_id == ours().special_tokens[END_OF_TEXT]


@cache
def huggingface_small() -> Tokenizer:
    vocabulary = {spell(token): i for token, i in small().ids.items()}
    merges = [(spell(left), spell(right)) for left, right in small().merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


@settings(deadline=None)
@given(ANY_TEXT)
def test_tokenizers_encodes_any_text_the_same(text: str) -> None:
    assert huggingface_small().encode(text).ids == small().encode(text)


def test_a_file_has_the_permissions_of_new_files_whatever_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    with whole_file(tmp_path / "written") as draft:
        draft.write_text("all of it")
        draft.chmod(0o600)  # as safetensors does
    modes = [(tmp_path / name).stat().st_mode for name in ("new", "written")]
    assert modes[0] == modes[1]


def test_a_failed_save_keeps_the_old_file_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small().save(tmp_path)
    before = (tmp_path / "merges.txt").read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        BPETokenizer([]).save(tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]


# GPT-2's encoding in tiktoken


@pytest.mark.usefixtures("socket_disabled")
def test_our_encoding_is_tiktokens_own_and_opens_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tiktoken's own is built from OpenAI's two files, which ours equal, put into its cache."""
    gpt2().save(tmp_path)
    address = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    for ours, theirs in {"merges.txt": "vocab.bpe", "vocab.json": "encoder.json"}.items():
        cached = hashlib.sha1(f"{address}{theirs}".encode()).hexdigest()
        (tmp_path / ours).rename(tmp_path / cached)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    original, built = tiktoken.get_encoding("gpt2"), gpt2_encoding()
    assert built.name == original.name
    assert built._pat_str == original._pat_str
    assert built._mergeable_ranks == original._mergeable_ranks
    assert built._special_tokens == original._special_tokens
    assert built.n_vocab == original.n_vocab == 50257
    assert built.eot_token == original.eot_token == 50256
    assert built.max_token_value == original.max_token_value
    assert built.encode(book()[:100_000]) == original.encode(book()[:100_000])


def test_the_table_is_found_in_a_clone_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "gptlib"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "tokenizer.py"))
    with pytest.raises(FileNotFoundError, match=r"gpt2.tiktoken is neither in .*copy it"):
        gpt2_encoding()
    for folder in (package / "data", package.parent / "data"):
        folder.mkdir()
        (folder / "gpt2.tiktoken").touch()
        assert find_data("gpt2.tiktoken") == folder / "gpt2.tiktoken"


# Bad input


@pytest.mark.parametrize("text", ["", [], ["", ""]])
def test_training_on_empty_text_is_refused(text: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"needs more text: this one is enough for 257"):
        BPETokenizer.train(text, 300)


@pytest.mark.parametrize("size", [256, 255, 0, -1])
def test_a_vocabulary_smaller_than_the_bytes_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"vocab_size={size} is below 257.*ask for more"):
        BPETokenizer.train("War and Peace", size)


def test_a_vocabulary_too_big_for_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocab_size=999 needs more text: .* for 259"):
        BPETokenizer.train("abc", 999)
    assert BPETokenizer.train("abc", 259).vocab_size == 259


@pytest.mark.parametrize("token", [300, 600, -1, 10**9])
def test_ids_out_of_range_are_refused(token: int) -> None:
    learnt = BPETokenizer(small().merges[:43])
    for decode in (learnt.decode, learnt.decode_bytes):
        with pytest.raises(ValueError, match=rf"token id {token} is not in 0..299; pass ids"):
            decode([5, token])
    with pytest.raises(ValueError, match=rf"token id {token} is not in 0..299"):
        learnt.token_bytes(token)


@pytest.mark.parametrize("allowed", [{"<|user|>"}, [END_OF_TEXT, "x"], "<|endoftext|>"])
def test_unknown_special_tokens_are_refused(allowed: set[str]) -> None:
    with pytest.raises(ValueError, match=r"is not one of .*endoftext.*; pass a set"):
        small().encode("War", allowed)


@pytest.mark.parametrize("names", [["end"], ["<|a b|>"], [END_OF_TEXT, END_OF_TEXT], ["<||>"]])
def test_special_tokens_with_impossible_names_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is not like <\|name\|>, or is there"):
        BPETokenizer([], names)


def test_a_special_token_that_merges_make_is_refused() -> None:
    merges = [(b"<", b"|"), (b"<|", b"a"), (b"<|a", b"|"), (b"<|a|", b">")]
    with pytest.raises(ValueError, match=r"special '<\|a\|>' is not"):
        BPETokenizer(merges, ["<|a|>"])


@pytest.mark.parametrize(
    "merges",
    [[(b"th", b"e")], [(b"t", b"h"), (b"t", b"h")], [(b"", b"a")], [(b"a", b"b"), (b"c", b"xy")]],
)
def test_impossible_merges_are_refused(merges: list[Merge]) -> None:
    with pytest.raises(ValueError, match=r"merge \d, .* is out of order"):
        BPETokenizer(merges, [])


@pytest.mark.parametrize("bad", ["\ud83d", "War \udc80 Peace"])
def test_a_lone_surrogate_is_refused_and_can_be_replaced(bad: str) -> None:
    for use in (small().encode, lambda text: train_bpe(text, 258)):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            use(bad)
    cleaned = bad.encode("utf-8", "replace").decode()
    assert small().decode(small().encode(cleaned)) == cleaned


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    small().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        BPETokenizer.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.998])
@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_file_that_was_cut_off_is_refused(name: str, share: float, tmp_path: Path) -> None:
    small().save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"(vocab.json|merges.txt).*(copy|save)"):
        BPETokenizer.load(tmp_path)


def test_merges_cut_off_at_any_byte_are_refused(tmp_path: Path) -> None:
    learnt = BPETokenizer(small().merges[:20])
    learnt.save(tmp_path)
    content = (tmp_path / "merges.txt").read_bytes()
    for length in range(len(content) - 1):  # without its last line end alone, it is still whole
        (tmp_path / "merges.txt").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"vocab.json|merges.txt"):
            BPETokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "doesn't number the 599 tokens"),
        ('{"a": 0}', "doesn't number the 599 tokens"),
        ("5", "doesn't number the 599 tokens"),
        ("{", "doesn't number the 599 tokens"),
    ],
)
def test_a_vocabulary_of_another_kind_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    small().save(tmp_path)
    (tmp_path / "vocab.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"vocab.json.*{message}"):
        BPETokenizer.load(tmp_path)


def test_a_vocabulary_with_other_ids_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    for name, value in {"a": "b", "b": "a", "!": None, END_OF_TEXT: 0, "a b": 600}.items():
        changed = vocabulary | {name: vocabulary.get(str(value), value)}
        (tmp_path / "vocab.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ValueError, match=r"vocab.json, .* doesn't number the 599 tokens"):
            BPETokenizer.load(tmp_path)


@pytest.mark.parametrize("line", ["Ġa", "a b c", "a  b", "a 日"])
def test_a_line_that_is_no_merge_is_named(line: str, tmp_path: Path) -> None:
    small().save(tmp_path)
    with (tmp_path / "merges.txt").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    number = len(small().merges) + 2
    with pytest.raises(ValueError, match=rf"line {number} of merges.txt, '{line}', is not two"):
        BPETokenizer.load(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 400_000, 835_553])
def test_a_cut_off_table_of_gpt2_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "gpt2.tiktoken"
    path.write_bytes(find_data("gpt2.tiktoken").read_bytes()[:length])
    with pytest.raises(ValueError, match=r"gpt2.tiktoken is not GPT-2's: sha256 .*copy"):
        read_gpt2_ranks(path)


def test_a_changed_or_missing_table_of_gpt2_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gpt2.tiktoken"
    with pytest.raises(FileNotFoundError, match=r"gpt2\.tiktoken"):
        read_gpt2_ranks(path)
    path.write_bytes(find_data("gpt2.tiktoken").read_bytes().replace(b"IQ== 0", b"IQ== 1"))
    with pytest.raises(ValueError, match=r"is not GPT-2's: sha256 "):
        read_gpt2_ranks(path)


def test_a_table_without_the_parts_of_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b'the' is no pair of earlier tokens; pass"):
        recover_merges({b"t": 0, b"h": 1, b"e": 2, b"the": 3})


ENCODING = gpt2_encoding()


def test_files_with_windows_line_ends_or_sorted_names_are_read(tmp_path: Path) -> None:
    plain = BPETokenizer.train("the cat and the hat " * 9, 262)
    tokenizer = BPETokenizer(plain.merges, ["<|z|>", "<|a|>"])
    tokenizer.save(tmp_path)
    merges, names = tmp_path / "merges.txt", tmp_path / "vocab.json"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))
    names.write_text(json.dumps(json.loads(names.read_text()), sort_keys=True))
    back = BPETokenizer.load(tmp_path)
    assert (back.merges, back.special_tokens) == (tokenizer.merges, tokenizer.special_tokens)
