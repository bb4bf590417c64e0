"""Checks of the exercises of chapter 7: each says what is right, or which step is off."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from gptlib.attention import Mix
from gptlib.extras.checks.answers import Answer, Wrong, close, named, run, says, tensor_of, what
from gptlib.gpt2 import GPT, Block, GPTConfig
from gptlib.weights import Difference

CAUSES = (
    "a bias is missing",
    "the positions are shifted by one",
    "the causal mask is missing",
    "a residual connection is missing",
    "the heads are in another order",
    "the last norm is missing",
    "a square matrix is not transposed",
)
"""What exercise 2 offers to choose from."""


@says
def untangle(answer: Answer) -> str:
    """Check `untangle(weight, n_head)`, exercise 1."""
    for n_head, size in ((2, 4), (3, 2), (1, 5)):
        channels = n_head * size
        weight = torch.arange(3.0 * channels * channels).view(3 * channels, channels)
        for theirs in (weight, weight[:, 0]):
            try:
                got = tensor_of(answer, theirs.clone(), n_head, shape=tuple(theirs.shape))
            except Wrong as problem:
                of_bias = theirs.dim() == 1 and n_head == 2
                before = "Right for the matrix, but with a bias: " if of_bias else ""
                return f"{before}{problem}"
            by_head = theirs.unflatten(0, (n_head, 3, size))
            if not close(got, by_head.transpose(0, 1).flatten(0, 2)):
                return _untangle_mistake(got, theirs, n_head, size)
    return (
        "Correct: all queries, then all keys, then all values; matrices and biases, 1 to 3 heads."
    )


def _untangle_mistake(got: Tensor, theirs: Tensor, n_head: int, size: int) -> str:
    mistakes = {
        "Not yet: the rows stand where they stood.": theirs,
        "That goes the other way, from our order to theirs: it is the heads that come first in "
        "their rows.": theirs.unflatten(0, (3, n_head, size)).transpose(0, 1).flatten(0, 2),
        "You took query, key and value row by row; within a head they come one after the other, "
        f"{size} rows each.": (theirs.unflatten(0, (n_head, size, 3)).movedim(2, 0).flatten(0, 2)),
        "You exchanged the rows within each head; the axes to exchange are those of the heads and "
        "of query, key, value.": (
            theirs.unflatten(0, (n_head, 3, size)).transpose(1, 2).flatten(0, 2)
        ),
    }
    return named(got, mistakes) or f"Not yet: with {n_head} heads, some rows are in a wrong place."


def suspects(model: GPT) -> list[GPT]:
    """Copy a model three times and plant a mistake in each copy, exercise 2.

    Args:
        model: A trained model of at least three blocks.

    Returns:
        The copies.
    """
    one, two, three = (deepcopy(model) for _ in range(3))
    one.blocks[model.config.n_layer // 3].mlp.proj.bias.data.zero_()
    table = two.embed.position_embedding.weight
    table.data = table.data.roll(1, 0)
    half = model.config.n_layer // 2
    forgetful = _Forgetful(model.config)
    forgetful.load_state_dict(three.blocks[half].state_dict())
    setattr(three.blocks, str(half), forgetful.eval())
    return [one, two, three]


class _Forgetful(Block):
    """A block whose attention replaces the stream instead of adding to it."""

    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:
        x = self.attn(self.ln_1(x), mix)
        return x + self.mlp(self.ln_2(x))


@says
def three_mistakes(found: Sequence[Any], model: GPT) -> str:
    """Check the three pairs of stage and cause, exercise 2."""
    third, half = model.config.n_layer // 3, model.config.n_layer // 2
    right = [
        (f"blocks.{third}.mlp", CAUSES[0]),
        ("embed", CAUSES[1]),
        (f"blocks.{half}.ln_2", CAUSES[3]),
    ]
    hints = (
        "the difference is the same vector at every position; what adds the same everywhere?",
        "compare its embedding at position t with the right one at its neighbours.",
        "the norm itself is right, so look at what went into it: the stream after attention.",
    )
    if not isinstance(found, list | tuple) or len(found) != 3:
        return "Not yet: `found` must be a list of three pairs, one for each suspect."
    if all(pair is ... or pair is None for pair in found):
        return "Not done yet: put a pair (stage, cause) in place of each `...`."
    return "\n".join(
        _about_suspect(f"suspects[{number}]", pair, stage, cause, hints[number])
        for number, (pair, (stage, cause)) in enumerate(zip(found, right, strict=True))
    )


def _about_suspect(name: str, pair: Any, stage: str, cause: str, hint: str) -> str:
    if pair is ... or pair is None:
        return f"{name}: not done yet."
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return f"{name}: give a pair of stage and cause, not {what(pair)[11:]}."
    if isinstance(pair[0], Difference):
        return f"{name}: give the stage's name, the `.stage` of what first_divergence returns."
    if pair[0] != stage:
        return f"{name}: not {pair[0]!r}; first_divergence({name}, model, page) names the stage."
    if pair[1] not in CAUSES:
        return f"{name}: the stage is right. Choose the cause among those printed above."
    if pair[1] != cause:
        return f"{name}: the stage is right, the cause another: {hint}"
    return f"Correct, {name}: at {stage}, {cause}."


@says
def wrong_blocks(answer: Answer) -> str:
    """Check `wrong_blocks(model, reference, tokens)`, exercise 3."""
    config = GPTConfig(vocab_size=50, context_length=16, n_layer=5, n_head=2, n_embd=16)
    generator = torch.Generator().manual_seed(0)
    reference = GPT(config, generator).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    tokens = torch.randint(config.vocab_size, (2, 12), generator=generator)
    for planted in ([1, 3], [0, 4], [2], []):
        model = deepcopy(reference)
        _plant(model, planted)
        got = run(answer, model, reference, tokens)
        if not isinstance(got, list | tuple | set):
            return f"Not yet: {what(got)}; return a list of block numbers."
        if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in got):
            return "Not yet: the list must hold the numbers of blocks, such as [1, 3]."
        if sorted(got) != planted:
            return _blocks_mistake(sorted(got), planted)
    return (
        "Correct: two wrong blocks of five, the first and the last block, one whose weights are "
        "right, and none at all; rounding does not count."
    )


def _plant(model: GPT, planted: list[int]) -> None:
    """Plant mistakes in blocks: in attention, in the MLP, and one that no parameter shows."""
    for layer, parameter in enumerate(block.attn.proj.weight for block in model.blocks):
        if layer not in planted:
            parameter.data *= 1 + 1e-7  # rounding, far below the tolerance
    if planted == [2]:
        model.blocks[2].ln_2.eps = 1e-2
    for layer in planted[:1] if planted != [2] else []:
        attn = model.blocks[layer].attn
        attn.qkv.bias.data = attn.qkv.bias.data.roll(1)
    for layer in planted[1:]:
        model.blocks[layer].mlp.proj.bias.data.zero_()


def _blocks_mistake(got: list[int], planted: list[int]) -> str:
    if planted == [2] and 2 not in got:
        return "Don't compare weights: block 2 has the reference's, and another epsilon in a norm."
    if len(got) == 5:
        return "You name all blocks; differences of 1e-7 are rounding, an error is above 1e-5."
    if not planted:
        return f"Two models equal but for rounding have no wrong block; you name {got}."
    if got == planted[:1]:
        return f"You stop at the first one, {got}; go on to the end."
    if got == list(range(planted[0], 5)):
        return "Behind the first mistake everything differs: give both blocks the same input."
    if got == [layer + 1 for layer in planted]:
        return "Count the blocks from 0."
    if got == [layer for layer in planted if layer] and planted[0] == 0:
        return 'You leave out block 0; what goes into it is "embed".'
    return f"Not yet: the wrong blocks are {planted}; you name {got}."
