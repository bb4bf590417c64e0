"""Special tokens of one's own: trained, added, grown into a model, kept by files and others."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import refusal, written
from tiny_gpt2 import CONFIG, TEXT, TOKENIZER, assert_same_logits, assert_same_weights, tiny
from transformers import AutoTokenizer, GPT2LMHeadModel

from gptlib.extras.special_tokens import add_special_tokens
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, gpt2_encoding
from gptlib.weights import load_gpt2, save_gpt2

NAMES = ["<|pad|>", "[UNK]", "<s>", "</s>"]


@pytest.mark.parametrize("tie_weights", [True, False])
def test_a_model_grows_and_says_what_it_said(tie_weights: bool, tmp_path: Path) -> None:
    model = tiny(replace(CONFIG, tie_weights=tie_weights))
    larger, tokenizer = add_special_tokens(model, TOKENIZER, NAMES)
    assert larger.config == replace(model.config, vocab_size=274)
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        before, after = model(tokens), larger(tokens)
        torch.testing.assert_close(after[..., :270], before)
        torch.testing.assert_close(
            after[..., 270:], before.mean(-1, keepdim=True).expand(-1, -1, 4)
        )
    is_tied = larger.head.weight is larger.embed.token_embedding.weight
    assert is_tied == tie_weights
    assert model.config.vocab_size == 270  # it is as it was
    save_gpt2(larger, tokenizer, tmp_path)
    back, same = load_gpt2(tmp_path)
    assert_same_weights(back, larger)
    assert isinstance(same, BPETokenizer)
    assert same.special_tokens == dict(zip([END_OF_TEXT, *NAMES], range(269, 274), strict=True))
    assert_same_logits(larger, GPT2LMHeadModel.from_pretrained(tmp_path).eval())


def test_transformers_reads_new_tokens_as_one_each(tmp_path: Path) -> None:
    larger, tokenizer = add_special_tokens(tiny(), TOKENIZER, NAMES)
    save_gpt2(larger, tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = f"the prince{''.join(NAMES)}said{END_OF_TEXT}"
    ours = tokenizer.encode(text, {END_OF_TEXT, *NAMES})
    assert theirs.encode(text) == ours
    assert {270, 271, 272, 273} < set(ours)
    assert theirs.decode(ours, skip_special_tokens=True) == "the princesaid"


def test_gpt2s_own_tokenizer_can_have_more() -> None:
    model = GPT(GPTConfig(50_257, 8, 1, 1, 4))
    larger, tokenizer = add_special_tokens(model, gpt2_encoding(), ["<|user|>"])
    assert larger.config.vocab_size == tokenizer.vocab_size == 50_258
    assert tokenizer.encode(f"Hi<|user|>{END_OF_TEXT}", {"<|user|>", END_OF_TEXT}) == [
        *gpt2_encoding().encode("Hi"),
        50_257,
        50_256,
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([END_OF_TEXT], "is there"),
        (["<s>", "<s>"], "is there"),
        (["pad"], "not like <|name|>"),
        (["<a b>"], "not like <|name|>"),
        (["<é>"], "not like <|name|>"),
        ([""], "not like <|name|>"),
    ],
)
def test_names_that_are_no_special_ones_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        add_special_tokens(tiny(), TOKENIZER, names)


def test_rows_without_a_token_are_refused_with_a_way(tmp_path: Path) -> None:
    save_gpt2(tiny(), TOKENIZER, tmp_path)
    model = tiny(replace(CONFIG, vocab_size=272))
    tokenizer = BPETokenizer(TOKENIZER.merges, [END_OF_TEXT])
    tokenizer.vocab_size = 272
    with pytest.raises(ValueError, match="resize_token_embeddings"):
        add_special_tokens(model, tokenizer, ["<s>"])


def test_a_tokenizer_is_trained_with_them_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 9, encoding="utf-8")
    options = ("--vocab-size", 275, "--special", "<|pad|>", "--special", "[UNK]")
    folder = tmp_path / "mine"
    assert "275" in written(
        capsys, "tokenizer", "train", tmp_path / "text.txt", *options, "--save", folder
    )
    back = BPETokenizer.load(folder)
    assert back.special_tokens == {END_OF_TEXT: 272, "<|pad|>": 273, "[UNK]": 274}
    assert back.tokens == BPETokenizer.train(TEXT * 9, 275, list(back.special_tokens)).tokens
    said = refusal(
        capsys, "tokenizer", "train", tmp_path / "text.txt", "--special", "pad", "--save", "x"
    )
    assert "rename it" in said
    said = refusal(capsys, "tokenizer", "train", tmp_path / "text.txt", "--special", "[B]",
                   "--vocab-size", 999, "--save", "x")  # fmt: skip
    [most] = re.findall(r"enough for (\d+)", said)
    written(capsys, "tokenizer", "train", tmp_path / "text.txt", "--special", "[B]",
            "--vocab-size", most, "--save", tmp_path / "most")  # fmt: skip
    assert BPETokenizer.load(tmp_path / "most").vocab_size == int(most)


def test_convert_gives_a_saved_model_more_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_gpt2(tiny(), TOKENIZER, tmp_path / "old")
    written(capsys, "convert", tmp_path / "old", tmp_path / "new", "--special", "<|user|>")
    larger, tokenizer = load_gpt2(tmp_path / "new")
    assert larger.config.vocab_size == 271
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.special_tokens["<|user|>"] == 270
    assert_same_logits(larger, GPT2LMHeadModel.from_pretrained(tmp_path / "new").eval())
