"""The checks of chapter 7's exercises: unfinished, each named mistake, correct."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlib.extras.checks import weights as checks
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.weights import Difference, compare_stages, first_divergence

Answer = Callable[..., Any]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip()


def unfinished(*_: Any) -> Any:
    return ...


def raises(*_: Any) -> Any:
    raise KeyError("oh")


def not_implemented(*_: Any) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize("check", [checks.untangle, checks.wrong_blocks])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (unfinished, "Not written yet: unfinished returns nothing."),
        (not_implemented, "Not written yet: "),
        (raises, "Not yet: raises raised KeyError: 'oh'"),
        (lambda *_: "a text", "you return str"),
    ],
)
def test_no_answer_is_told_without_an_error(
    check: Callable[[Answer], None],
    answer: Answer,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(answer)
    assert words in said(capsys)


def untangle(weight: Tensor, n_head: int) -> Tensor:
    return weight.unflatten(0, (n_head, 3, -1)).transpose(0, 1).flatten(0, 2)


def tangle(weight: Tensor, n_head: int) -> Tensor:
    return weight.unflatten(0, (3, n_head, -1)).transpose(0, 1).flatten(0, 2)


def row_by_row(weight: Tensor, n_head: int) -> Tensor:
    return weight.unflatten(0, (n_head, -1, 3)).movedim(2, 0).flatten(0, 2)


def within_heads(weight: Tensor, n_head: int) -> Tensor:
    return weight.unflatten(0, (n_head, 3, -1)).transpose(1, 2).flatten(0, 2)


def only_matrices(weight: Tensor, n_head: int) -> Tensor:
    if weight.dim() == 1:
        raise IndexError("too few axes")
    return untangle(weight, n_head)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (untangle, "Correct: all queries"),
        (lambda weight, _: weight, "stand where they stood"),
        (tangle, "goes the other way"),
        (row_by_row, "row by row"),
        (within_heads, "within each head"),
        (
            only_matrices,
            "Right for the matrix, but with a bias: Not yet: only_matrices raised Index",
        ),
        (lambda weight, _: weight.T, "return a tensor of shape (24, 8)"),
        (lambda weight, _: weight.flip(0), "some rows are in a wrong place"),
        (lambda weight, _: untangle(weight, 2), "Not yet"),
    ],
)
def test_heads_in_another_order(
    answer: Answer, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.untangle(answer)
    assert words in said(capsys)


@pytest.fixture
def model() -> GPT:
    generator = torch.Generator().manual_seed(0)
    config = GPTConfig(vocab_size=30, context_length=16, n_layer=4, n_head=2, n_embd=8)
    model = GPT(config, generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


RIGHT = [
    ("blocks.1.mlp", "a bias is missing"),
    ("embed", "the positions are shifted by one"),
    ("blocks.2.ln_2", "a residual connection is missing"),
]


def test_the_suspects_are_what_the_check_takes_them_for(model: GPT) -> None:
    tokens = torch.randint(30, (1, 12), generator=torch.Generator().manual_seed(1))
    before = model(tokens)
    stages = []
    for suspect in checks.suspects(model):
        found = first_divergence(suspect, model, tokens)
        assert found is not None
        stages.append(found.stage)
    assert stages == [stage for stage, _ in RIGHT]
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["Correct, suspects[0]", "Correct, suspects[1]", "Correct, suspects[2]"]),
        ({0: ..., 1: None, 2: ...}, ["Not done yet: put a pair"]),
        ({1: ...}, ["suspects[1]: not done yet", "Correct, suspects[2]"]),
        ({0: "embed"}, ["suspects[0]: give a pair of stage and cause, not str"]),
        ({0: ("ln_f", RIGHT[0][1])}, ["suspects[0]: not 'ln_f'", "Correct, suspects[1]"]),
        ({0: (Difference("embed", 1.0, 1.0, (0,)), "")}, ["suspects[0]: give the stage's name"]),
        ({1: ("embed", "no idea")}, ["suspects[1]: the stage is right. Choose"]),
        (
            {0: (RIGHT[0][0], "a square matrix is not transposed")},
            ["same vector at every position"],
        ),
        ({1: ("embed", "a bias is missing")}, ["the right one at its neighbours"]),
        ({2: (RIGHT[2][0], "a bias is missing")}, ["the norm itself is right"]),
    ],
)
def test_three_mistakes(
    changes: dict[int, Any], words: list[str], model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    checks.three_mistakes([changes.get(i, pair) for i, pair in enumerate(RIGHT)], model)
    output = said(capsys)
    assert all(text in output for text in words), output


def test_a_list_of_another_length_is_told(model: GPT, capsys: pytest.CaptureFixture[str]) -> None:
    checks.three_mistakes(RIGHT[:2], model)
    assert "a list of three pairs" in said(capsys)


@torch.no_grad()
def wrong_blocks(model: GPT, reference: GPT, tokens: Tensor) -> list[int]:
    x, wrong = reference.embed(tokens), []
    for layer, (mine, right) in enumerate(zip(model.blocks, reference.blocks, strict=True)):
        gap = (mine(x) - right(x)).norm() / right(x).norm()
        if gap > 1e-5:
            wrong.append(layer)
        x = right(x)
    return wrong


def each_on_its_own(model: GPT, reference: GPT, tokens: Tensor) -> list[int]:
    ends = {f"blocks.{layer}": layer for layer in range(5)}
    both = compare_stages(model, reference, tokens)
    return [ends[d.stage] for d in both if d.stage in ends and d.error > 1e-5]


def without_the_first(model: GPT, reference: GPT, tokens: Tensor) -> list[int]:
    return [layer for layer in wrong_blocks(model, reference, tokens) if layer]


def to_the_last_bit(model: GPT, reference: GPT, tokens: Tensor) -> list[int]:
    pairs = zip(model.blocks, reference.blocks, strict=True)
    x = reference.embed(tokens)
    return [
        layer for layer, (mine, right) in enumerate(pairs) if not torch.equal(mine(x), right(x))
    ]


def by_weights(model: GPT, reference: GPT, _: Tensor) -> list[int]:
    wrong = set()
    for (name, mine), right in zip(model.named_parameters(), reference.parameters(), strict=True):
        if not torch.allclose(mine, right):
            wrong.add(int(name.split(".")[1]))
    return sorted(wrong)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (wrong_blocks, "Correct: two wrong blocks"),
        (lambda *given: set(wrong_blocks(*given)), "Correct"),
        (each_on_its_own, "Behind the first mistake everything differs"),
        (lambda *given: wrong_blocks(*given)[:1], "stop at the first one, [1]"),
        (lambda *given: [layer + 1 for layer in wrong_blocks(*given)], "Count the blocks from 0"),
        (without_the_first, "leave out block 0"),
        (to_the_last_bit, "differences of 1e-7 are rounding"),
        (by_weights, "Don't compare weights: block 2"),
        (lambda *given: wrong_blocks(*given) or [2], "Two models equal but for rounding"),
        (lambda *_: [True], "numbers of blocks"),
        (lambda *_: [4], "the wrong blocks are [1, 3]; you name [4]"),
    ],
)
def test_wrong_blocks(answer: Answer, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.wrong_blocks(answer)
    assert words in said(capsys)
