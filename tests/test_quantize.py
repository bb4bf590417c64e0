"""A model with int8 weights writes as before, nearly the same."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from test_gpt2 import TINY, perturbed, random_tokens, seeded

from gptlib.extras.quantize import QuantizedGPT, quantize
from gptlib.generation import Sampling, beam_search, generate, generate_batch, use_onednn
from gptlib.gpt2 import GPT

MODEL = cast(GPT, perturbed(GPT(replace(TINY, n_embd=64), seeded())))


def test_the_logits_are_nearly_the_same() -> None:
    small, tokens = quantize(MODEL), random_tokens(TINY, 2, 16)
    with torch.no_grad():
        expected, actual = MODEL(tokens), small(tokens)
    error = (actual - expected).square().mean().sqrt() / expected.std()
    assert 0 < error < 0.05


def test_no_linear_layer_is_left_in_float32() -> None:
    small = quantize(MODEL)
    assert isinstance(small, QuantizedGPT)
    assert not small.training
    assert not [m for m in small.modules() if type(m) is torch.nn.Linear]
    assert small.embed.token_embedding.weight is MODEL.embed.token_embedding.weight
    assert type(MODEL) is GPT
    assert type(MODEL.blocks[0].attn.qkv) is torch.nn.Linear


def test_it_generates_unchanged() -> None:
    small, greedy = quantize(MODEL), Sampling(temperature=0)
    assert use_onednn(small) is small
    text = [1, 2, 3]
    for token in generate(small, text[:], 12, greedy):
        with torch.no_grad():
            logits = small(torch.tensor([text]))[0, -1]
        assert logits[token] > logits.max() - 0.1 * logits.std()  # scales differ with the batch
        text.append(token)
    assert len(list(generate_batch(small, [[1], [2, 3]], 20))) == 20
    assert len(beam_search(small, [1], 3, 5)) == 3


def test_a_model_in_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.bfloat16 on cpu; .*call model.float\(\).cpu\(\)"):
        quantize(GPT(TINY).bfloat16())
