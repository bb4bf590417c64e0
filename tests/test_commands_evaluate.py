"""`evaluate` measures what the library measures, on any text, as a table and as JSON."""

import json
import math
from pathlib import Path

import pytest
import torch
from command_line import pipe_in, refusal, written

from gptlib.extras.commands.evaluate import text_loss
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer
from gptlib.training import bits_per_byte, evaluate
from gptlib.weights import load_gpt2, save_gpt2

TEXT = "the prince said that the princess had said so and went. " * 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = BPETokenizer.train(TEXT, 270)
    config = GPTConfig(vocab_size=270, context_length=8, n_layer=1, n_head=2, n_embd=16)
    save_gpt2(GPT(config, torch.Generator().manual_seed(0)), tokenizer, place)
    return place


def test_the_table_and_the_json_say_what_the_library_measures(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.txt").write_text("só", encoding="utf-8")
    names = [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path]
    table = written(capsys, "evaluate", *names, "--model", model).splitlines()
    result = json.loads(written(capsys, "evaluate", *names, "--model", model, "--json"))
    gpt, tokenizer = load_gpt2(model)
    tokens = tokenizer.encode(TEXT)
    loss = evaluate(gpt, torch.tensor(tokens))
    n_bytes = len(tokenizer.decode_bytes(tokens[1:]))
    first = result["texts"][0]
    assert first["loss"] == pytest.approx(loss, rel=1e-6)
    assert first["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    bits = bits_per_byte(loss, len(tokens) - 1, n_bytes)
    assert first["bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert (first["tokens"], first["bytes"]) == (len(tokens) - 1, n_bytes)
    assert table[0].split("  ")[0] == "text"
    assert len(table) == 4
    speed = first["tokens"] / first["seconds"]
    assert first["tokens_per_second"] == pytest.approx(speed)
    assert table[1].split()[-6:-2] == [
        str(len(tokens) - 1),
        f"{loss:.4f}",
        f"{math.exp(loss):.2f}",
        f"{bits:.4f}",
    ]
    short = gpt(torch.tensor([tokenizer.encode("só")])).log_softmax(-1)[0]
    wanted = -short[range(2), tokenizer.encode("só")[1:]].mean().item()
    assert result["texts"][1]["loss"] == pytest.approx(wanted, rel=1e-5)
    assert result["texts"][2]["tokens"] == len(tokens) - 1 + 1 + 3, "an end of text between files"


def test_a_text_in_several_moves_of_the_bar_has_the_same_loss(model: Path) -> None:
    gpt, _ = load_gpt2(model)
    for n_tokens in (2, 8, 9, 64 * 8, 64 * 8 + 1, 64 * 8 + 2, 1300):
        tokens = torch.randint(0, 270, (n_tokens,), generator=torch.Generator().manual_seed(1))
        moves: list[int] = []
        loss = text_loss(gpt, tokens, 4, moves.append)
        assert sum(moves) == n_tokens - 1
        if n_tokens > 8:
            assert loss == pytest.approx(evaluate(gpt, tokens), rel=1e-6)


def test_standard_input_can_be_measured(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe_in(monkeypatch, TEXT.encode())
    result = json.loads(written(capsys, "evaluate", "-", "--model", model, "--json"))
    assert result["texts"][0]["text"] == "-"
    assert 0 < len(TEXT) - result["texts"][0]["bytes"] < 5, "all but the first token"


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["nowhere.txt"], b"", "there is no file or folder 'nowhere.txt'"),
        (["-"], b"t", "- has 1 tokens, and the first can't be predicted; name a text of at least"),
        (["-"], b"\xff", "standard input is no UTF-8 text (byte 0)"),
        (["-", "--model", "nowhere"], b"", "there is no folder 'nowhere'"),
        (["-", "--batch-size", "0"], b"", "--batch-size: 0 is too small; write 1 or more"),
        (["-", "--device", "cuda:99"], b"", "--device is 'cuda:99', but PyTorch sees"),
        ([], b"", "the following arguments are required: TEXT"),
    ],
)
def test_bad_values_of_evaluate_are_told_in_one_line(
    words: list[str],
    content: bytes,
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe_in(monkeypatch, content)
    assert message in refusal(capsys, "evaluate", "--model", model, *words)
