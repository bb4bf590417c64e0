"""The checks of chapter 4's exercises name the mistakes that learners make."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlib.extras.checks import gpt2 as checks
from gptlib.gpt2 import GPT, GPTConfig, count_parameters, flops_per_token

CHECKS = [checks.training_days, checks.rms_norm, checks.parameters, checks.logits_by_depth]


def unfinished(*_: Any) -> Any:
    return ...


def raises_unfinished(*_: Any) -> Any:
    raise NotImplementedError


def said(capsys: pytest.CaptureFixture[str], check: Callable[..., None], answer: Any) -> str:
    check(answer)
    return capsys.readouterr().out


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("stub", [unfinished, raises_unfinished, lambda *_: None])
def test_an_unfinished_exercise_is_not_a_wrong_one(
    check: Callable[..., None], stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, check, stub).startswith("Not written yet: ")


@pytest.mark.parametrize("check", CHECKS)
def test_an_answer_that_stops_or_is_of_another_kind_is_reported(
    check: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, check, lambda *_: 1 / 0)
    assert "raised ZeroDivisionError" in text
    assert said(capsys, check, lambda *_: "a text").startswith("Not yet: ")


def days(config: GPTConfig, n_tokens: float, rate: float) -> float:
    return flops_per_token(config)["training"] * n_tokens / rate / 86_400


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (days, "Correct: "),
        (lambda c, n, r: days(c, n, r) / 3, "forward pass alone"),
        (lambda c, n, r: days(c, n, r) * 2 / 3, "left out the forward pass"),
        (lambda c, n, r: days(c, n, r) * 86_400, "Those are seconds"),
        (lambda c, n, r: days(c, n, r) * 24, "Those are hours"),
        (lambda c, n, r: 3 * flops_per_token(c)["matrices"] * n / r / 86_400, "attention scores"),
        (lambda c, n, r: days(c, 1, r), "for one token"),
        (lambda c, n, r: 1 / days(c, n, r), "divided the speed by the work"),
        (lambda c, n, r: days(c, n, 1 / r), "divide by it"),
        (
            lambda c, n, r: 6 * count_parameters(c)["total"] * n / r / 86_400,
            "a good rule, but without attention",
        ),
        (lambda c, n, r: 3 * days(c, n, r), "holds the factor 3 already"),
        (lambda c, n, r: c.context_length * days(c, n, r), "don't multiply by the length"),
        (lambda c, n, r: 7.0, "expected"),
    ],
)
def test_days_of_training(answer: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in said(capsys, checks.training_days, answer)


def mean_square(x: Tensor, *dims: int) -> Tensor:
    return x.square().mean(dims or None, keepdim=True)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, g, e: g * x / (mean_square(x, -1) + e).sqrt(), "Correct: "),
        (lambda x, g, e: F.layer_norm(x, (8,), g, None, e), "subtracted the mean"),
        (lambda x, g, e: g * x / (mean_square(x, -1) + e), "take its root"),
        (lambda x, g, e: x / (mean_square(x, -1) + e).sqrt(), "forgot the gain"),
        (lambda x, g, e: g * x / (8 * mean_square(x, -1) + e).sqrt(), "take their mean"),
        (lambda x, g, e: g * x / (mean_square(x) + e).sqrt(), "over the whole tensor"),
        (lambda x, g, e: g * x / (mean_square(x, -2) + e).sqrt(), "over the positions"),
        (
            lambda x, g, e: g * x / (x.var(-1, unbiased=False, keepdim=True) + e).sqrt(),
            "standard deviation",
        ),
        (lambda x, g, e: g * x / (mean_square(x, -1).sqrt() + e), "eps inside the root"),
        (lambda x, g, e: g * x / (x.std(-1, keepdim=True) + e), "divides by C - 1"),
        (
            lambda x, g, e: g * (x - x.mean(-1, keepdim=True)) / (mean_square(x, -1) + e).sqrt(),
            "above the line",
        ),
        (lambda x, g, e: g * x * (mean_square(x, -1) + e).sqrt(), "divide by it"),
        (lambda x, g, e: g * x / (x.square().mean(-1) + e).sqrt(), "keepdim=True"),
        (lambda x, g, e: F.rms_norm(x, (8,), g, e), "from its parts"),
        (lambda x, g, e: x[0], "return a tensor of shape (2, 5, 8)"),
        (lambda x, g, e: x, "differ from F.rms_norm"),
    ],
)
def test_a_simpler_norm(answer: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in said(capsys, checks.rms_norm, answer)


def total(config: GPTConfig) -> int:
    return count_parameters(config)["total"]


def by_formula(c: GPTConfig) -> int:
    per_block = 12 * c.n_embd**2 + 13 * c.n_embd
    return c.n_layer * per_block + (c.vocab_size + c.context_length + 2) * c.n_embd


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (by_formula, "Correct: "),
        (total, "without count_parameters"),
        (lambda c: total(c) + c.vocab_size * c.n_embd, "counted the output layer too"),
        (lambda c: total(c) - c.context_length * c.n_embd, "forgot the table of positions"),
        (lambda c: total(c) - 2 * c.n_embd, "forgot the last norm"),
        (lambda c: total(c) - 4 * c.n_layer * c.n_embd, "forgot the norms in the blocks"),
        (lambda c: total(c) - (4 * c.n_layer + 2) * c.n_embd, "forgot all norms"),
        (lambda c: total(c) - 9 * c.n_layer * c.n_embd, "biases of the four matrices"),
        (lambda c: total(c) - (2 * c.n_layer + 1) * c.n_embd, "norms' biases"),
        (
            lambda c: total(c) - (c.n_layer - 1) * (12 * c.n_embd**2 + 13 * c.n_embd),
            "one block only",
        ),
        (lambda c: total(c) - c.n_layer * c.n_embd**2, "output projection"),
        (lambda c: total(c) - 2 * c.n_layer * c.n_embd**2, "you counted C²"),
        (lambda c: total(c) - 3 * c.n_layer * c.n_embd**2, "qkv's 3C² weights"),
        (lambda c: total(c) - 3 * c.n_layer * c.n_embd, "qkv's 3C biases"),
        (lambda c: total(c) - 2 * c.n_layer * c.n_embd, "2C are missing in each block"),
        (
            lambda c: total(c) - (11 * c.n_layer + 1) * c.n_embd,
            "Two slips. You forgot the biases of the four matrices. You forgot the norms' biases",
        ),
        (
            lambda c: total(c) - (c.context_length + 2) * c.n_embd,
            "Two slips. You forgot the table of positions. You forgot the last norm",
        ),
        (lambda c: total(c) + 7 * c.n_layer * c.n_embd, "more: 7C in each block"),
        (lambda c: total(c) + 4 * c.n_layer * c.n_embd**2, "more: 4C² in each block"),
        (lambda c: total(c) + 5, "you say 124,439,813, 5 more"),
    ],
)
def test_count_by_formula(answer: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in said(capsys, checks.parameters, answer)


def streams(model: GPT, tokens: Tensor) -> list[Tensor]:
    stream = [model.embed(tokens)]
    for block in model.blocks:
        stream.append(block(stream[-1]))
    return stream


def lens(model: GPT, tokens: Tensor) -> Tensor:
    return torch.stack([model.unembed(x) for x in streams(model, tokens)])


def without_norm(model: GPT, tokens: Tensor) -> Tensor:
    table = model.embed.token_embedding.weight
    return torch.stack([x @ table.T for x in streams(model, tokens)])


def without_chain(model: GPT, tokens: Tensor) -> Tensor:
    x = model.embed(tokens)
    return torch.stack([model.unembed(x), *(model.unembed(block(x)) for block in model.blocks)])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lens, "Correct: "),
        (lambda m, t: lens(m, t)[1:], "left out the first entry"),
        (lambda m, t: lens(m, t)[:-1], "left out the last entry"),
        (without_norm, "without ln_f"),
        (without_chain, "gave every block the embedding"),
        (lambda m, t: torch.stack(streams(m, t)), "vectors of the stream"),
        (lambda m, t: lens(m, t).softmax(-1), "Those are probabilities"),
        (lambda m, t: lens(m, t).log_softmax(-1), "logarithms of probabilities"),
        (
            lambda m, t: torch.stack([m.unembed(m.ln_f(x)) for x in streams(m, t)]),
            "applied ln_f twice",
        ),
        (lambda m, t: torch.cat([m.unembed(x) for x in streams(m, t)]), "with torch.stack"),
        (lambda m, t: list(lens(m, t)), "torch.stack"),
        (lambda m, t: m(t), "a tensor of shape (2, 6, 23); (L + 1, B, T, V) is (4, 2, 6, 23)"),
        (lambda m, t: lens(m, t) + 1, "the logits differ"),
    ],
)
def test_look_into_the_stream(
    answer: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in said(capsys, checks.logits_by_depth, answer)
