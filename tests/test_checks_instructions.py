"""The checks of chapter 9 know the right answer, name common mistakes, and never raise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlib.extras.checks import instructions as checks
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.instructions import IGNORED, LoRAConfig, add_lora, record_mask

CHECKS = [checks.masked_targets, checks.block_mask, checks.lora_parameters, checks.factor]


def unfinished(*_: Any) -> Any:
    return None


def todo(*_: Any) -> Any:
    raise NotImplementedError


def broken(*_: Any) -> Any:
    raise IndexError("oh")


def said(check: Callable[[Any], None], answer: Any, capsys: pytest.CaptureFixture[str]) -> str:
    check(answer)
    return capsys.readouterr().out


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_unfinished_or_broken_is_told(
    check: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(check, unfinished, capsys).startswith("Not written yet")
    assert said(check, todo, capsys).startswith("Not written yet")
    assert "IndexError: oh" in said(check, broken, capsys)
    wrong: Any
    for wrong in ("text", [1.5], torch.zeros(3), (1, 2), 7, {}):
        assert said(check, lambda *_, wrong=wrong: wrong, capsys).startswith("Not yet")


def targets(prompt: list[int], response: list[int]) -> list[int]:
    return [IGNORED] * (len(prompt) - 1) + response


TARGETS: dict[str, Callable[[list[int], list[int]], Any]] = {
    "the token after it": lambda p, r: [IGNORED] * len(p) + r[:-1],
    "one position too many": lambda p, r: [IGNORED] * len(p) + r[1:],
    "one position too few": lambda p, r: [IGNORED] * (len(p) - 2) + p[-1:] + r,
    "You ignore nothing": lambda p, r: [*p, *r][1:],
    "other way round": lambda p, r: p[1:] + [IGNORED] * len(r),
    "never learns to stop": lambda p, r: [*targets(p, r)[:-1], IGNORED],
    "the last token is no input": lambda p, r: [IGNORED] * len(p) + r,
    "need a target too": lambda p, r: r,
    "which is -100": lambda p, r: [0] * (len(p) - 1) + r,
    "answer of one": lambda p, r: targets(p, r) if len(p) > 1 < len(r) else [],
    "Not yet: for 3 + 3": lambda p, r: [1, 2, 3],
}


@pytest.mark.parametrize("words", TARGETS)
def test_mistakes_in_targets_are_named(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in said(checks.masked_targets, TARGETS[words], capsys)


def test_right_targets_pass_as_list_or_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(checks.masked_targets, targets, capsys).startswith("Correct")
    as_tensor = said(checks.masked_targets, lambda p, r: torch.tensor(targets(p, r)), capsys)
    assert as_tensor.startswith("Correct")


def mask(sizes: list[int]) -> Tensor:
    numbers = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return record_mask(numbers[None])[0, 0]


def same(sizes: list[int]) -> Tensor:
    return torch.block_diag(*(torch.ones(n, n) for n in sizes)).bool()


MASKS: dict[str, Callable[[list[int]], Any]] = {
    "look ahead in their own": same,
    "records see each other": lambda s: torch.ones(sum(s), sum(s)).tril().bool(),
    "Use tril": lambda s: mask(s).T,
    "the opposite": lambda s: ~mask(s),
    "at itself, too": lambda s: mask(s) & ~torch.eye(sum(s)).bool(),
    "Return booleans": lambda s: mask(s).float(),
    "shape (6, 6)": lambda s: mask(s)[None],
    "one token each": lambda s: mask(s) if len(s) == 3 else mask([3]),
    "row by row": lambda s: torch.zeros(sum(s), sum(s)).bool(),
}


@pytest.mark.parametrize("words", MASKS)
def test_mistakes_in_masks_are_named(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in said(checks.block_mask, MASKS[words], capsys)


def test_the_right_mask_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(checks.block_mask, mask, capsys).startswith("Correct")


def sides(config: GPTConfig) -> dict[str, tuple[int, int]]:
    n = config.n_embd
    return {
        "attn.qkv": (3 * n, n),
        "attn.proj": (n, n),
        "mlp.expand": (4 * n, n),
        "mlp.proj": (n, 4 * n),
    }


def counted(config: GPTConfig, lora: LoRAConfig) -> int:
    per_block = sum(sum(sides(config)[name]) for name in lora.projections)
    return config.n_layer * lora.rank * per_block


Count = Callable[[GPTConfig, LoRAConfig], float]
COUNTS: dict[str, Count] = {
    "That is one block": lambda c, r: counted(c, r) / c.n_layer,
    "Multiply by the rank": lambda c, r: counted(c, r) / r.rank,
    "as C × C": lambda c, r: c.n_layer * r.rank * len(r.projections) * 2 * c.n_embd,
    "that stay frozen": lambda c, r: c.n_layer * sum(
        a * b for a, b in (sides(c)[name] for name in r.projections)
    ),
    "all four matrices": lambda c, r: c.n_layer * r.rank * sum(map(sum, sides(c).values())),
    "`down` alone": lambda c, r: c.n_layer * r.rank * sum(sides(c)[n][1] for n in r.projections),
    "`up` alone": lambda c, r: c.n_layer * r.rank * sum(sides(c)[n][0] for n in r.projections),
    "changes the values": lambda c, r: counted(c, r) * r.scale,
    "but not for all four": lambda c, r: counted(c, r) if len(r.projections) == 2 else 0,
    "you say 1": lambda c, r: 1,
}  # fmt: skip


@pytest.mark.parametrize("words", COUNTS)
def test_mistakes_in_the_count_are_named(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in said(checks.lora_parameters, COUNTS[words], capsys)


def test_the_right_count_passes_and_is_what_add_lora_makes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said(checks.lora_parameters, counted, capsys).startswith("Correct")
    config = GPTConfig(vocab_size=50, context_length=8, n_layer=3, n_head=2, n_embd=10)
    lora = LoRAConfig(rank=2, projections=("attn.qkv", "mlp.proj"))
    model = add_lora(GPT(config), lora)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == counted(config, lora)


def split(update: Tensor, rank: int, power: float = 1.0, last: bool = False) -> Any:
    u, s, vh = torch.linalg.svd(update, full_matrices=False)
    kept = slice(5 - rank, 5) if last else slice(rank)
    return u[:, kept] * s[kept] ** power, vh[kept]


FACTORS: dict[str, Callable[[Tensor, int], Any]] = {
    "left the singular values out": lambda w, r: split(w, r, 0),
    "twice": lambda w, r: split(w, r, 2),
    "only a root": lambda w, r: split(w, r, 0.5),
    "kept the smallest": lambda w, r: split(w, r, last=True),
    "down first": lambda w, r: split(w, r)[::-1],
    "up has shape (6, 2)": lambda w, r: split(w, 3),
    "return two tensors": lambda w, r: split(w, r)[0],
    "not the nearest": lambda w, r: (torch.ones(6, r), torch.ones(r, 5)),
}


@pytest.mark.parametrize("words", FACTORS)
def test_mistakes_in_factors_are_named(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in said(checks.factor, FACTORS[words], capsys)


def test_the_right_factors_pass_wherever_the_values_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(checks.factor, split, capsys).startswith("Correct")

    def roots(update: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(update)
        root = s[:rank].sqrt()
        return u[:, :rank] * root, root[:, None] * vh[:rank]

    assert said(checks.factor, roots, capsys).startswith("Correct")

    def exact(update: Tensor, rank: int) -> Any:
        return split(update.double(), rank)

    assert said(checks.factor, exact, capsys).startswith("Correct")
