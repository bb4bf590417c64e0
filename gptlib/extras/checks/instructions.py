"""Checks of the exercises of chapter 9: each says what is right, or which step is off."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gptlib.extras.checks.answers import (
    Answer,
    Wrong,
    attempt,
    close,
    named,
    number_of,
    run,
    says,
    tensor_of,
    what,
)
from gptlib.gpt2 import GPT2_SMALL, GPTConfig
from gptlib.instructions import IGNORED, PROJECTIONS, LoRAConfig


@says
def masked_targets(answer: Answer) -> str:
    """Check `masked_targets(prompt, response)`, exercise 1."""
    prompt, response = [11, 12, 13], [21, 22, 99]
    got = _integers(answer, prompt, response)
    no = IGNORED
    mistakes = {
        "These are the inputs' own tokens; the target of a position is the token after it.": (
            [no, no, no, 21, 22]
        ),
        "You ignore one position too many: the last token of the prompt predicts the first of "
        "the answer.": [no, no, no, 22, 99],
        "You ignore one position too few: the last target that stands in the prompt is 13, at "
        "the position of 12.": [no, 13, 21, 22, 99],
        "You ignore nothing; the prompt's own tokens are no targets.": [12, 13, 21, 22, 99],
        "You ignore the answer and keep the prompt: the other way round.": [12, 13, no, no, no],
        "The end of text is a target too, or the model never learns to stop.": [no, no, 21, 22, no],
        "There is one target for each input, and the last token is no input: 5 of 6 tokens.": (
            [no, no, no, 21, 22, 99]
        ),
        "The answer is right; the prompt's positions need a target too, IGNORED.": [21, 22, 99],
        "Use IGNORED, which is -100; 0 is a token.": [0, 0, 21, 22, 99],
    }
    if got != [no, no, 21, 22, 99]:
        return named(got, mistakes) or f"Not yet: for 3 + 3 tokens you return {got}."
    if _integers(answer, [5], [9]) != [9] or _integers(answer, [5, 6], [9]) != [no, 9]:
        return "Right here, but not for a prompt of one token, or an answer of one."
    return "Correct: every token of the answer is a target, its end included, and nothing else."


@says
def block_mask(answer: Answer) -> str:
    """Check `block_mask(sizes)`, exercise 2."""
    got = tensor_of(answer, [2, 1, 3], shape=(6, 6))
    if got.dtype != torch.bool:
        return "Return booleans, True = may look; a mask of numbers would be added to the scores."
    same = torch.block_diag(*(torch.ones(n, n) for n in (2, 1, 3))).bool()
    causal = torch.ones(6, 6).tril().bool()
    mistakes = {
        "Records are kept apart, but tokens may look ahead in their own.": same,
        "No token looks ahead, but records see each other.": causal,
        "A token may look where both conditions hold: & in place of |.": same | causal,
        "It is upside down: tokens look ahead and not back. Use tril, not triu.": (same & causal.T),
        "It is the opposite: True where a token must not look.": ~(same & causal),
        "A token may look at itself, too.": same & causal & ~torch.eye(6).bool(),
    }
    if not torch.equal(got, same & causal):
        return named(got, mistakes) or "Not yet: compare your mask with the picture, row by row."
    if not close(attempt(answer, [1, 1]), torch.eye(2)):
        return "Right for these sizes, but not for two records of one token each."
    return "Correct: each token looks back within its own record, checked for several sizes."


@says
def lora_parameters(answer: Answer) -> str:
    """Check `lora_parameters(config, lora)`, exercise 3."""
    config = GPTConfig(vocab_size=50, context_length=8, n_layer=3, n_head=2, n_embd=10)
    every = {"attn.qkv": (30, 10), "attn.proj": (10, 10), "mlp.expand": (40, 10)}
    sides = every | {"mlp.proj": (10, 40)}
    chosen = ("attn.qkv", "mlp.expand")
    lora = LoRAConfig(rank=2, projections=chosen)
    value = number_of(answer, config, lora, wanted="of all parameters that are trained")
    up, down = (3.0 * 2 * sum(sides[name][side] for name in chosen) for side in (0, 1))
    right = up + down
    mistakes = {
        "That is one block; every one of the n_layer blocks has adapters.": right / 3,
        "Multiply by the rank: `down` has rank rows and `up` has rank columns.": right / 2,
        "You took every matrix as C × C; qkv gives 3C numbers, and the MLP has 4C inside.": (
            3 * 2 * len(chosen) * 20
        ),
        "You counted the matrices that stay frozen; only `down` and `up` are trained.": (
            3.0 * sum(a * b for a, b in (sides[name] for name in chosen))
        ),
        "You counted all four matrices; only those in lora.projections have adapters.": (
            3.0 * 2 * sum(map(sum, sides.values()))
        ),
        "You counted `down` alone; `up` is trained too.": down,
        "You counted `up` alone; `down` is trained too.": up,
        "The scale alpha / rank changes the values, not how many there are.": right * 8,
    }
    if not close(value, right):
        return named(value, mistakes) or f"Not yet: there are {right:g}, you say {value:g}."
    lora = LoRAConfig(rank=8, projections=PROJECTIONS)
    full = number_of(answer, GPT2_SMALL, lora, wanted="of all parameters that are trained")
    if full != 12 * 8 * 768 * (4 + 2 + 5 + 5):
        return "Right for these two matrices, but not for all four of GPT-2; look at each shape."
    share = full / 124_439_808
    return f"Correct: rank 8 beside every matrix of GPT-2 trains {full:,.0f}, {share:.1%} of it."


@says
def factor(answer: Answer) -> str:
    """Check `factor(update, rank)`, exercise 4."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(6, 5, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    values = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])
    update = left * values @ right.T  # (6, 5)
    for rank in (2, 1, 4):
        got = run(answer, update.clone(), rank)
        if not isinstance(got, tuple) or len(got) != 2 or not all(map(torch.is_tensor, got)):
            return f"Not yet: {what(got)}; return two tensors, up and down."
        shapes = [tuple(part.shape) for part in got]
        if shapes == [(rank, 5), (6, rank)]:
            return "You return down first; return up, then down."
        if shapes != [(6, rank), (rank, 5)]:
            return (
                f"Not yet: for a 6 × 5 update and rank {rank}, up has shape (6, {rank}) and down "
                f"({rank}, 5); yours have {shapes[0]} and {shapes[1]}."
            )
        said = _name_product(got[0].float() @ got[1].float(), left, values, right, rank)
        if said:
            return said
    return "Correct: no other matrices of these sizes come nearer; checked for three ranks."


def _name_product(
    product: Tensor, left: Tensor, values: Tensor, right: Tensor, rank: int
) -> str | None:
    """Say what is wrong with a product that should be the best of its rank; None if nothing."""

    def made(weights: Tensor, kept: slice) -> Tensor:
        return left[:, kept] * weights[kept] @ right[:, kept].T

    first, last = slice(0, rank), slice(5 - rank, 5)
    if close(product, made(values, first)):
        return None
    mistakes = {
        "You left the singular values out; give them to one of the two, or a root to each.": (
            made(torch.ones(5), first)
        ),
        "You multiplied with the singular values twice; a root for each, or all for one.": (
            made(values**2, first)
        ),
        "You gave only a root of the singular values in all; both parts need it, or one the "
        "whole.": made(values.sqrt(), first),
        "You kept the smallest singular values; the largest come first.": made(values, last),
    }
    return named(product, mistakes) or (
        "Not yet: up @ down is not the nearest matrix of its rank. torch.linalg.svd gives U, S and "
        "V already transposed (Vh): keep columns of U and rows of Vh."
    )


def _integers(answer: Answer, *arguments: Any) -> list[int]:
    got = run(answer, *arguments)
    if isinstance(got, Tensor):
        got = got.tolist()
    if not isinstance(got, Sequence) or not all(type(one) is int for one in got):
        raise Wrong(f"Not yet: {what(got)}; return a list of token ids.")
    return list(got)
