"""Files of tokens: restartable, checked, and tensors like any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_worker import PLAN, text

from gptlib.embeddings import TokenWindows, random_batch, split_tokens
from gptlib.extras.tokens import TokenFile, open_tokens, prepare_tokens
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer, gpt2_encoding
from gptlib.training import evaluate, train

DOCUMENTS = ["to be or not to be", "that is the question", "", "whether ’tis nobler", "to suffer"]


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(" ".join(DOCUMENTS), 270)


def tokens_of(tokenizer: Tokenizer, documents: list[str], path: Path, **options: Any) -> list[int]:
    list(prepare_tokens(documents, tokenizer, path, **options))
    read: list[int] = open_tokens(path, verify=True).tolist()
    return read


def test_a_prepared_file_holds_every_document_and_the_end_after_each(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    end = [tokenizer.special_tokens[END_OF_TEXT]] if tokenizer.special_tokens else []
    expected = [t for document in DOCUMENTS for t in [*tokenizer.encode(document), *end]]
    assert tokens_of(tokenizer, DOCUMENTS, tmp_path / "deep" / "a.tokens") == expected
    assert (tmp_path / "deep" / "a.tokens").stat().st_size == 2 * len(expected)


def test_tiktokens_documents_end_with_its_end_of_text(tmp_path: Path) -> None:
    encoding = gpt2_encoding()
    read = tokens_of(encoding, ["a <|endoftext|> b", "c"], tmp_path / "a.tokens")
    assert read.count(encoding.eot_token) == 2
    assert encoding.decode(read[:-2]).startswith("a <|endoftext|> b")


def test_the_counts_that_are_yielded_grow_to_the_whole(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    counts = list(prepare_tokens(DOCUMENTS, tokenizer, tmp_path / "a"))
    assert len(counts) == len(DOCUMENTS)
    assert counts == sorted(counts)
    assert counts[-1] == len(open_tokens(tmp_path / "a"))


@pytest.mark.parametrize("done", range(5))
def test_a_preparation_that_was_killed_goes_on(
    tokenizer: BPETokenizer, tmp_path: Path, done: int
) -> None:
    whole = tokens_of(tokenizer, DOCUMENTS, tmp_path / "whole")
    path = tmp_path / "a"
    run = prepare_tokens(DOCUMENTS, tokenizer, path, save_every=1)
    for _ in range(done):
        next(run)
    run.close()
    if path.exists():
        with pytest.raises(ValueError, match="run it again, and it goes on"):
            open_tokens(path)
        with open(path, "ab") as file:
            file.write(b"half a docu")  # what a kill may leave behind the last safe state
    assert tokens_of(tokenizer, DOCUMENTS, path) == whole
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_more_documents_can_follow_later(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    whole = tokens_of(tokenizer, DOCUMENTS, tmp_path / "whole")
    tokens_of(tokenizer, DOCUMENTS[:2], tmp_path / "a")
    assert tokens_of(tokenizer, DOCUMENTS, tmp_path / "a") == whole


def test_other_documents_and_another_tokenizer_are_refused(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    whole = tokens_of(tokenizer, DOCUMENTS, path)
    for others in (["to see", *DOCUMENTS[1:]], DOCUMENTS[:3]):
        with pytest.raises(ValueError, match="pass the same 5 first"):
            list(prepare_tokens(others, tokenizer, path))
        assert open_tokens(path).tolist() == whole
    with pytest.raises(ValueError, match="another tokenizer, of 270 tokens"):
        list(prepare_tokens(DOCUMENTS, BPETokenizer.train("abc abc", 258), path))


def test_a_damaged_file_is_refused(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a"
    tokens_of(tokenizer, DOCUMENTS, path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="promises"):
        open_tokens(path)
    path.write_bytes(data + b"..")
    with pytest.raises(ValueError, match="promises"):
        open_tokens(path)
    path.write_bytes(data[:-2] + b"\xff\xff")
    open_tokens(path)
    with pytest.raises(ValueError, match="largest id 65535"):
        open_tokens(path, verify=True)
    path.with_name("a.json").write_text("{}")
    with pytest.raises(ValueError, match="describes no tokens; delete both files"):
        open_tokens(path)
    path.with_name("a.json").unlink()
    with pytest.raises(FileNotFoundError):
        open_tokens(path)


def test_large_vocabularies_take_four_bytes() -> None:
    class Large:
        vocab_size = 70_000

        def decode_bytes(self, tokens: list[int]) -> bytes:
            if tokens[0] % 1000 == 7:  # as in some of tiktoken's encodings
                raise KeyError("no such token")
            return str(tokens).encode()

    assert TokenFile.of(Large()).dtype == "int32"  # type: ignore[arg-type]


def test_a_file_that_holds_something_else_is_left_alone(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    book = tmp_path / "book.txt"
    book.write_text("to be")
    with pytest.raises(ValueError, match=r"book\.txt holds something else than tokens; choose"):
        list(prepare_tokens(["a"], tokenizer, book))
    assert book.read_text() == "to be"
    with pytest.raises(ValueError, match="texts is one string, 'to be'; put it into a list"):
        list(prepare_tokens("to be", tokenizer, tmp_path / "a"))


def test_tokens_that_spell_no_character_tell_tokenizers_apart(tmp_path: Path) -> None:
    one, other = (BPETokenizer([(b"\xe4", end)]) for end in (b"\xb8", b"\xb9"))
    list(prepare_tokens(["中"], one, tmp_path / "a"))
    with pytest.raises(ValueError, match="was begun with another tokenizer"):
        list(prepare_tokens(["中"], other, tmp_path / "a"))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int32])
def test_small_ids_are_used_like_any_other(dtype: torch.dtype, tmp_path: Path) -> None:
    plain = text()
    (tmp_path / "a").write_bytes(plain.to(dtype).numpy().tobytes())
    tokens = torch.from_file(str(tmp_path / "a"), size=500, dtype=dtype)
    batches = [random_batch(t, 3, 8, torch.Generator().manual_seed(3)) for t in (tokens, plain)]
    assert all(map(torch.equal, *batches))
    assert batches[0][0].dtype == torch.int64
    inputs, targets = TokenWindows(tokens, 8)[2]
    assert inputs.tolist() == plain[16:24].tolist()
    assert targets.tolist() == plain[17:25].tolist()
    for part, right in zip(split_tokens(tokens), split_tokens(plain), strict=True):
        assert part.tolist() == right.tolist()
    assert tokens.split(100)[1].tolist() == plain[100:200].tolist()
    sizes = GPTConfig(vocab_size=20, context_length=8, n_layer=1, n_head=2, n_embd=16)
    model = GPT(sizes, torch.Generator().manual_seed(0))
    assert evaluate(model, tokens) == evaluate(model, plain)


def test_what_is_opened_is_mapped_and_changing_it_leaves_the_file(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    whole = tokens_of(tokenizer, DOCUMENTS, path)
    before, tokens = path.read_bytes(), open_tokens(path)
    assert tokens.dtype == torch.uint16
    assert tokens[3:9].untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr()
    tokens[0] = 7
    assert path.read_bytes() == before
    assert open_tokens(path).tolist() == whole


def test_training_from_a_file_is_training_from_memory(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    list(prepare_tokens(DOCUMENTS * 20, tokenizer, tmp_path / "a"))
    tokens = open_tokens(tmp_path / "a")
    reports = []
    for stream in (tokens, torch.tensor(tokens.tolist())):
        sizes = GPTConfig(vocab_size=270, context_length=8, n_layer=1, n_head=2, n_embd=16)
        model = GPT(sizes, torch.Generator().manual_seed(0))
        learn, judge = split_tokens(stream)
        rows = list(train(model, learn, judge, PLAN))
        reports.append([(row.step, row.loss, row.validation_loss) for row in rows])
    assert reports[0] == reports[1]
