"""The fast twin of a model writes what the model writes; with int8 weights, nearly."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from test_gpt2 import TINY, perturbed, random_tokens, seeded
from torch import nn

from gptlib.extras.fast import fast
from gptlib.extras.fast.int8 import quantize
from gptlib.extras.fast.onednn import OneDNNLinear, multiply_in_onednn
from gptlib.generation import Sampling, beam_search, generate, generate_batch
from gptlib.gpt2 import GPT, GPTConfig

MODEL = cast(GPT, perturbed(GPT(replace(TINY, n_embd=64), seeded())))
WIDE = cast(
    GPT,
    perturbed(
        GPT(GPTConfig(vocab_size=600, context_length=16, n_layer=2, n_head=4, n_embd=512), seeded())
    ),
)
GREEDY = Sampling(temperature=0)


def test_the_twin_shares_the_weights_and_gives_the_same_logits() -> None:
    twin, step = fast(WIDE)
    mine, its = dict(WIDE.named_parameters()), dict(twin.named_parameters())
    assert step is None
    assert list(mine) == list(its)
    assert all(its[name] is value for name, value in mine.items())
    assert twin.head.weight is twin.embed.token_embedding.weight
    assert twin.state_dict().keys() == WIDE.state_dict().keys()
    assert type(WIDE.blocks[0].attn.qkv) is type(WIDE.head) is nn.Linear
    if torch.backends.mkldnn.is_available():
        assert sum(isinstance(layer, OneDNNLinear) for layer in twin.modules()) == 9
    tokens = random_tokens(WIDE.config, 2, 9)
    with torch.no_grad():
        torch.testing.assert_close(twin(tokens), WIDE(tokens), rtol=1e-4, atol=1e-3)


def test_the_twin_writes_the_same_tokens() -> None:
    twin, step = fast(WIDE)
    for sampling in (GREEDY, Sampling(temperature=0.8, top_k=40)):
        texts = [
            list(generate(model, [1, 2, 3], 40, sampling, generator=seeded(), step=step))
            for model in (WIDE, twin)
        ]
        assert texts[0] == texts[1]
    beams = [beam_search(model, [1, 2], 3, 6, step=step) for model in (WIDE, twin)]
    assert [beam.tokens for beam in beams[0]] == [beam.tokens for beam in beams[1]]


def test_the_twin_follows_its_model_and_loads_like_it() -> None:
    model = GPT(WIDE.config, seeded()).eval()
    twin, _ = fast(model)
    with torch.no_grad():
        model.ln_f.weight.neg_()
    tokens = random_tokens(WIDE.config, 1, 9)
    torch.testing.assert_close(twin(tokens), model(tokens), rtol=1e-4, atol=1e-3)
    twin.load_state_dict({name: v.clone() for name, v in WIDE.state_dict().items()}, assign=True)
    assert twin.head.weight is twin.embed.token_embedding.weight
    torch.testing.assert_close(twin(tokens), WIDE(tokens), rtol=1e-4, atol=1e-3)


def test_half_precision_and_autocast_keep_the_plain_products() -> None:
    half = GPT(WIDE.config, seeded()).eval().bfloat16()
    twin, step = fast(half)
    assert not any(isinstance(layer, OneDNNLinear) for layer in twin.modules())
    assert list(generate(twin, [1], 3, GREEDY, step=step)) == list(generate(half, [1], 3, GREEDY))
    with torch.autocast("cpu", torch.bfloat16):
        texts = [list(generate(m, [1, 2], 4, GREEDY)) for m in (WIDE, fast(WIDE)[0])]
    assert texts[0] == texts[1]


def test_a_model_that_multiplies_in_onednn_already_has_a_twin_too() -> None:
    model = GPT(WIDE.config, seeded()).eval()
    expected = list(generate(model, [1], 6, GREEDY))
    multiply_in_onednn(model)
    for int8 in (False, True):
        twin, step = fast(model, int8=int8)
        assert len(list(generate(twin, [1], 6, GREEDY, step=step))) == 6
        assert int8 or list(generate(twin, [1], 6, GREEDY, step=step)) == expected


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (1, 1, 8)])
def test_onednn_multiplies_as_pytorch_does(shape: tuple[int, ...]) -> None:
    for bias in (True, False):
        plain = nn.Linear(8, 5, bias=bias)
        layer = OneDNNLinear(8, 5, bias=bias)
        layer.load_state_dict(plain.state_dict())
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), plain(x))
        with torch.no_grad():
            torch.testing.assert_close(layer(x), plain(x))


# int8


def test_the_logits_are_nearly_the_same() -> None:
    small, tokens = quantize(MODEL), random_tokens(TINY, 2, 16)
    with torch.no_grad():
        expected, actual = MODEL(tokens), small(tokens)
    error = (actual - expected).square().mean().sqrt() / expected.std()
    assert 0 < error < 0.05


def test_no_linear_layer_is_left_in_float32() -> None:
    small = quantize(MODEL)
    assert type(small) is type(MODEL) is GPT
    assert not small.training
    assert not [m for m in small.modules() if isinstance(m, nn.Linear)]
    assert small.embed.token_embedding.weight is MODEL.embed.token_embedding.weight
    assert type(MODEL.blocks[0].attn.qkv) is type(MODEL.head) is nn.Linear


def test_it_generates_unchanged() -> None:
    small, step = fast(MODEL, int8=True)
    assert step is None
    text = [1, 2, 3]
    for token in generate(small, text[:], 12, GREEDY):
        with torch.no_grad():
            logits = small(torch.tensor([text]))[0, -1]
        assert logits[token] > logits.max() - 0.1 * logits.std()  # scales differ with the batch
        text.append(token)
    assert len(list(generate_batch(small, [[1], [2, 3]], 20))) == 20
    assert len(beam_search(small, [1], 3, 5)) == 3


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.bfloat16 on cpu; .*call model.float\(\).cpu\(\)"):
        fast(GPT(TINY).bfloat16(), int8=True)
    with pytest.raises(ValueError, match="compile and int8 don't go together"):
        fast(MODEL, compile=True, int8=True)
