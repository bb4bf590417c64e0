"""The model equals GPT-2's reference, is causal, starts well, and its bill is right."""

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from gptlib.attention import attend
from gptlib.embeddings import sinusoidal_positions
from gptlib.gpt2 import (
    GPT,
    GPT2_LARGE,
    GPT2_MEDIUM,
    GPT2_SMALL,
    GPT2_XL,
    MLP,
    Block,
    GPTConfig,
    attention_maps,
    count_parameters,
    flops_per_token,
    initialize,
    memory_bytes,
)

SIZES = [GPT2_SMALL, GPT2_MEDIUM, GPT2_LARGE, GPT2_XL]
TINY = GPTConfig(vocab_size=50, context_length=16, n_layer=2, n_head=2, n_embd=16)

RENAMED = {
    "transformer.wte": "embed.token_embedding",
    "transformer.wpe": "embed.position_embedding",
    "transformer.h": "blocks",
    "transformer.ln_f": "ln_f",
    "c_attn": "qkv",
    "c_proj": "proj",
    "c_fc": "expand",
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_tokens(config: GPTConfig, batch: int, length: int) -> Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=seeded(1))


def reference_config(config: GPTConfig) -> Any:
    return GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_inner=config.d_ff,
        tie_word_embeddings=config.tie_weights,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
    )


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give transformers' weights our names; its Conv1D keeps a matrix as (in, out)."""
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        name = name.replace("lm_head", "head")
        turned = (
            value.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else value
        )
        for theirs, mine in RENAMED.items():
            name = name.replace(theirs, mine)
        ours[name] = turned
    return ours


def perturbed(module: nn.Module) -> nn.Module:
    """Move every parameter off its start, so that biases and gains are tested too."""
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=seeded(parameter.numel()))
            parameter.add_(noise, alpha=0.1)
    return module.eval()


def pair(config: GPTConfig) -> tuple[GPT, Any]:
    """Build ours and transformers' model with the same weights."""
    theirs = perturbed(GPT2LMHeadModel(reference_config(config)))
    ours = GPT(config).eval()
    ours.load_state_dict(renamed(theirs.state_dict()))
    return ours, theirs


@pytest.mark.parametrize(
    ("n_layer", "n_head", "n_embd", "vocab_size", "batch", "length"),
    [
        (1, 1, 1, 2, 1, 1),
        (1, 1, 8, 11, 1, 5),
        (2, 2, 16, 50, 3, 16),
        (2, 4, 32, 101, 2, 13),
        (3, 3, 15, 97, 2, 7),
        (4, 8, 64, 257, 1, 16),
        (5, 7, 21, 33, 4, 3),
    ],
)
def test_logits_equal_those_of_transformers(
    n_layer: int, n_head: int, n_embd: int, vocab_size: int, batch: int, length: int
) -> None:
    config = GPTConfig(vocab_size, 16, n_layer, n_head, n_embd)
    assert_equal_to_transformers(config, batch, length)


@pytest.mark.parametrize("d_ff", [None, 1, 50])
def test_a_model_with_an_output_layer_of_its_own_equals_that_of_transformers(
    d_ff: int | None,
) -> None:
    assert_equal_to_transformers(replace(TINY, d_ff=d_ff, tie_weights=False), 2, 9)


def assert_equal_to_transformers(config: GPTConfig, batch: int, length: int) -> None:
    ours, theirs = pair(config)
    tokens = random_tokens(config, batch, length)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tie_weights", [True, False])
def test_gradients_equal_those_of_transformers(tie_weights: bool) -> None:
    ours, theirs = pair(replace(TINY, d_ff=20, tie_weights=tie_weights))
    tokens = random_tokens(TINY, 2, 9)
    ours(tokens).square().mean().backward()
    theirs(tokens).logits.square().mean().backward()
    expected = renamed({name: value.grad for name, value in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", SIZES, ids=["small", "medium", "large", "xl"])
def test_a_block_of_every_size_equals_that_of_transformers(config: GPTConfig) -> None:
    theirs = GPT2Block(reference_config(config), layer_idx=0).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            noise = torch.randn(parameter.shape, generator=seeded())
            parameter.add_(noise, alpha=0.02)
    ours = Block(config).eval()
    ours.load_state_dict(renamed(theirs.state_dict()))
    x = torch.randn(2, 12, config.n_embd, generator=seeded())
    mask = torch.full((12, 12), float("-inf")).triu(1)[None, None]
    with torch.no_grad():
        expected = theirs(x, attention_mask=mask)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


def test_the_full_124m_shape_equals_that_of_transformers() -> None:
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(reference_config(GPT2_SMALL))
    ours = GPT(GPT2_SMALL, seeded()).eval()
    theirs.to_empty(device="cpu")
    theirs.tie_weights()
    state = ours.state_dict()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            value = state[next(iter(renamed({name: parameter})))]
            parameter.copy_(value.T if "c_" in name and value.dim() == 2 else value)
    tokens = random_tokens(GPT2_SMALL, 1, 24)
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
        torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in theirs.parameters()) == count_parameters(GPT2_SMALL)["total"]


def test_the_mlp_is_gelu_between_two_matrices() -> None:
    mlp = MLP(replace(TINY, bias=False))
    x = torch.randn(3, TINY.n_embd, generator=seeded())
    hidden = nn.functional.gelu(x @ mlp.expand.weight.T, approximate="tanh")
    torch.testing.assert_close(mlp(x), hidden @ mlp.proj.weight.T)
    assert mlp.expand.weight.shape == (4 * TINY.n_embd, TINY.n_embd)


def test_a_block_whose_projections_are_zero_lets_the_stream_pass() -> None:
    block = Block(TINY)
    for part in (block.attn.proj, block.mlp.proj):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    x = torch.randn(2, 5, TINY.n_embd, generator=seeded())
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_later_token_changes_no_earlier_logit(positions: Any) -> None:
    config = replace(TINY, positions=positions)
    model = GPT(config, seeded()).eval()
    tokens = random_tokens(config, 2, 16)
    with torch.no_grad():
        before = model(tokens)
        for place in (1, 7, 15):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % config.vocab_size
            after = model(changed)
            torch.testing.assert_close(after[:, :place], before[:, :place])
            assert not torch.allclose(after[:, place], before[:, place])


def test_a_batch_is_its_rows_one_by_one() -> None:
    model = GPT(TINY, seeded()).eval()
    tokens = random_tokens(TINY, 3, 10)
    with torch.no_grad():
        one_by_one = torch.cat([model(row[None]) for row in tokens])
        torch.testing.assert_close(model(tokens), one_by_one)


def test_the_positions_are_added_to_the_tokens() -> None:
    model = GPT(TINY, seeded())
    tokens = random_tokens(TINY, 2, 6)
    embed = model.embed
    expected = embed.token_embedding.weight[tokens] + embed.position_embedding.weight[:6]
    assert torch.equal(embed(tokens), expected)


def test_the_order_of_the_tokens_matters() -> None:
    model = GPT(TINY, seeded()).eval()
    there, back = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 1, 3]])
    assert not torch.allclose(model(there)[:, -1], model(back)[:, -1])


def test_sinusoidal_positions_are_fixed() -> None:
    config = replace(TINY, positions="sinusoidal")
    model = GPT(config, seeded())
    table = model.embed.position_embedding.weight
    assert not table.requires_grad
    expected = sinusoidal_positions(config.context_length, config.n_embd)
    torch.testing.assert_close(table, expected)
    model(random_tokens(config, 1, 8)).sum().backward()
    assert table.grad is None


def test_without_bias_there_is_no_bias() -> None:
    names = [name for name, _ in GPT(replace(TINY, bias=False)).named_parameters()]
    assert not [name for name in names if "bias" in name]
    with_bias = [name for name, _ in GPT(TINY).named_parameters() if "bias" in name]
    assert len(with_bias) == 6 * TINY.n_layer + 1


def test_the_output_layer_is_the_token_embedding() -> None:
    model = GPT(TINY, seeded())
    x = torch.randn(1, 2, TINY.n_embd, generator=seeded())
    expected = model.ln_f(x) @ model.embed.token_embedding.weight.T
    torch.testing.assert_close(model.unembed(x), expected)
    assert not [name for name, _ in model.named_parameters() if "head" in name]


@pytest.mark.parametrize("vocab_size", [50, 1000, 5000])
def test_the_first_loss_is_about_the_logarithm_of_the_vocabulary_size(vocab_size: int) -> None:
    config = GPTConfig(vocab_size, context_length=32, n_layer=4, n_head=4, n_embd=64)
    tokens = random_tokens(config, 8, 33)
    logits = GPT(config, seeded())(tokens[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(vocab_size), abs=0.1)


def test_starting_weights_have_the_spread_of_gpt2() -> None:
    model = GPT(replace(TINY, n_layer=8, n_embd=128), seeded())
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert torch.equal(parameter, torch.full_like(parameter, float("weight" in name)))
        else:
            expected = 0.02 / 4 if name.endswith("proj.weight") else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name


def test_the_generator_alone_decides_the_weights() -> None:
    first = GPT(TINY, seeded(3)).state_dict()
    torch.rand(7)  # PyTorch's global source of randomness moves on
    second = GPT(TINY, seeded(3)).state_dict()
    other = GPT(TINY, seeded(4)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(first[name], other[name])


def test_initialize_leaves_frozen_tables_alone() -> None:
    model = GPT(replace(TINY, positions="sinusoidal"))
    before = model.embed.position_embedding.weight.clone()
    initialize(model, TINY.n_layer, seeded())
    assert torch.equal(model.embed.position_embedding.weight, before)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_state_dict_brings_the_model_back(positions: Any) -> None:
    config = replace(TINY, positions=positions)
    model, other = GPT(config, seeded(1)).eval(), GPT(config, seeded(2)).eval()
    other.load_state_dict(model.state_dict())
    tokens = random_tokens(config, 2, 8)
    assert torch.equal(model(tokens), other(tokens))


def test_dropout_acts_in_training_only() -> None:
    model = GPT(replace(TINY, dropout=0.5), seeded())
    tokens = random_tokens(TINY, 1, 8)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_attention_maps_show_every_layer_and_head() -> None:
    model = GPT(TINY, seeded()).eval()
    maps = attention_maps(model, random_tokens(TINY, 3, 7))
    assert maps.shape == (TINY.n_layer, 3, TINY.n_head, 7, 7)
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
    assert torch.equal(maps, maps.tril())


def test_attention_maps_equal_those_of_transformers() -> None:
    ours, theirs = pair(TINY)
    theirs.config._attn_implementation = "eager"
    tokens = random_tokens(TINY, 2, 9)
    with torch.no_grad():
        expected = torch.stack(theirs(tokens, output_attentions=True).attentions)
        torch.testing.assert_close(attention_maps(ours, tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, bias=False),
        replace(TINY, positions="sinusoidal"),
        replace(TINY, bias=False, qkv_bias=True, d_ff=20, tie_weights=False),
        replace(TINY, n_layer=5, n_head=3, n_embd=9, vocab_size=7),
    ],
)
def test_parameters_are_counted_as_a_real_model_has_them(config: GPTConfig) -> None:
    counts = count_parameters(config)
    model = GPT(config)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert counts["total"] == sum(parameter.numel() for parameter in learned)
    assert counts["total"] == sum(count for part, count in counts.items() if part != "total")
    attention = sum(p.numel() for block in model.blocks for p in block.attn.parameters())
    mlp = sum(p.numel() for block in model.blocks for p in block.mlp.parameters())
    parts = ("queries", "keys", "values", "attention output")
    assert (sum(counts[part] for part in parts), counts["mlp"]) == (attention, mlp)
    queries = sum(p[: config.n_embd].numel() for b in model.blocks for p in b.attn.qkv.parameters())
    assert counts["queries"] == counts["keys"] == counts["values"] == queries
    assert counts["output layer"] == (0 if config.tie_weights else model.head.weight.numel())
    assert counts["token embedding"] == model.embed.token_embedding.weight.numel()


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (GPT2_SMALL, 124_439_808),
        (GPT2_MEDIUM, 354_823_168),
        (GPT2_LARGE, 774_030_080),
        (GPT2_XL, 1_557_611_200),
    ],
)
def test_the_four_sizes_have_as_many_parameters_as_the_released_models(
    config: GPTConfig, total: int
) -> None:
    assert count_parameters(config)["total"] == total


def test_counting_leaves_the_global_randomness_alone() -> None:
    before = torch.get_rng_state()
    count_parameters(TINY)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("length", [1, 7, 16])
@pytest.mark.parametrize("d_ff", [None, 40])
def test_flops_equal_those_that_pytorch_counts(length: int, d_ff: int | None) -> None:
    config = replace(TINY, n_layer=3, n_head=4, n_embd=32, d_ff=d_ff, bias=d_ff is None)
    model, tokens = GPT(config), random_tokens(config, 2, length)
    flops = flops_per_token(config, length)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            logits = model(tokens)
        assert counter.get_total_flops() == flops["forward"] * tokens.numel()
        with FlopCounterMode(display=False) as counter:
            logits.sum().backward()
        backward = flops["training"] - flops["forward"]
        assert counter.get_total_flops() == backward * tokens.numel()
    assert flops["forward"] == flops["matrices"] + flops["attention"]
    assert flops_per_token(config) == flops_per_token(config, config.context_length)


def kept_bytes(model: GPT, tokens: Tensor) -> int:
    """Sum the bytes of the tensors, parameters apart, that the backward pass will need."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(tokens)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert loss.requires_grad
    used = [t for address, t in kept.items() if address not in parameters]
    return sum(tensor.untyped_storage().nbytes() for tensor in used)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, n_layer=6, n_head=4, n_embd=64),
        replace(TINY, n_layer=6, n_head=4, n_embd=64, d_ff=500, tie_weights=False),
    ],
)
def test_activations_are_what_pytorch_keeps_for_the_backward_pass(config: GPTConfig) -> None:
    tokens = random_tokens(config, 4, 16)
    measured = kept_bytes(GPT(config, seeded()), tokens)
    expected = memory_bytes(config, tokens.numel())["activations"]
    assert measured == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "changes", [{}, {"positions": "sinusoidal"}, {"d_ff": 5, "tie_weights": False}]
)
def test_memory_is_that_of_a_real_model_and_its_optimizer(changes: dict[str, Any]) -> None:
    config = replace(TINY, **changes)
    model = GPT(config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(random_tokens(config, 1, 4)).sum().backward()
    optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    moments = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if value.dim()  # the step counter is a single number
    ]
    expected = memory_bytes(config)
    kept = [*model.parameters(), *model.buffers()]
    assert sum(t.nbytes for t in kept) == expected["weights"]
    assert sum(gradient.nbytes for gradient in gradients) == expected["gradients"]
    assert sum(moment.nbytes for moment in moments) == expected["optimizer"]


def test_keys_and_values_are_what_each_block_projects() -> None:
    model = GPT(TINY)
    x = torch.zeros(3, 5, TINY.n_embd)
    kept = 0
    for block in model.blocks:
        _, keys, values = block.attn.project(x)
        kept += keys.numel() + values.numel()
    assert memory_bytes(TINY, n_tokens=15, bytes_per_value=2)["keys and values"] == 2 * kept


def bad_settings() -> Iterator[tuple[dict[str, Any], str]]:
    for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
        yield {name: 0}, rf"{name} is 0; it must be a whole number of at least 1"
        yield {name: 2.5}, rf"{name} is 2\.5; it must be a whole number"
    yield {"n_layer": -3}, r"n_layer is -3"
    yield {"d_ff": 0}, r"d_ff is 0; it must be a whole number of at least 1"
    yield {"d_ff": 3.5}, r"d_ff is 3\.5; it must be a whole number"
    yield {"tie_weights": "no"}, r"tie_weights is 'no'; it must be True or False"
    yield (
        {"n_embd": 17},
        r"n_embd is 17; it must be divisible by n_head, 2: each",
    )
    yield {"dropout": 1.0}, r"dropout is 1\.0; it must be a share from 0 to below 1"
    yield {"dropout": -0.1}, r"dropout is -0\.1"
    yield {"dropout": math.nan}, r"dropout is nan"
    yield {"positions": "rotary"}, r"positions is 'rotary'; it must be 'learned' or 'sinusoidal'"


@pytest.mark.parametrize(("settings", "message"), list(bad_settings()))
def test_a_model_that_cannot_be_built_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPTConfig(**(asdict(TINY) | settings))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, 17, dtype=torch.int64), "17 tokens; pass the last 16"),
        (torch.tensor([[50]]), r"token id 50 is outside 0\.\.49"),
        (torch.tensor([[-1]]), r"token id -1 is outside 0\.\.49"),
        (
            torch.zeros(4, dtype=torch.int64),
            r"int64 ids \(batch, positions\), not tensor\(\[0, 0",
        ),
        (torch.zeros(1, 4), r"not tensor\(\[\[0\., 0\."),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPT(TINY)(tokens)


def test_sinusoidal_positions_of_odd_width_are_refused() -> None:
    config = GPTConfig(n_embd=9, n_head=3, positions="sinusoidal")
    with pytest.raises(ValueError, match="n_embd is 9; sines and cosines come in pairs"):
        GPT(config)


# The shared table, and other ways to look back


def is_tied(model: GPT) -> bool:
    return model.head.weight is model.embed.token_embedding.weight


def first_edition(model: GPT) -> dict[str, Tensor]:
    return {name: p.clone() for name, p in model.state_dict().items() if name != "head.weight"}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("has_head", [False, True])
def test_the_head_stays_tied_when_weights_are_loaded(assign: bool, has_head: bool) -> None:
    model, saved = GPT(TINY), GPT(TINY)
    state = saved.state_dict() if has_head else first_edition(saved)
    names = set(state)
    model.load_state_dict(state, assign=assign)
    assert is_tied(model)
    assert set(state) == names
    assert torch.equal(model.head.weight, saved.head.weight)


def test_the_head_stays_tied_without_memory_and_when_it_gets_some() -> None:
    with torch.device("meta"):
        model = GPT(TINY)
    assert is_tied(model)
    model.load_state_dict(first_edition(GPT(TINY)), assign=True)
    assert is_tied(model)


def test_the_head_stays_tied_in_copies_and_other_precisions() -> None:
    model = copy.deepcopy(GPT(TINY))
    assert is_tied(model)
    model.load_state_dict(first_edition(model), assign=True)
    assert is_tied(model.double())


def test_the_head_stays_tied_inside_another_module() -> None:
    outer = nn.ModuleDict({"model": GPT(TINY), "head": nn.Linear(2, 2)})
    state = {name: p for name, p in outer.state_dict().items() if name != "model.head.weight"}
    outer.load_state_dict(state, assign=True)
    assert is_tied(cast(GPT, outer["model"]))


def test_a_state_dict_without_a_table_is_refused_as_ever() -> None:
    state = first_edition(GPT(TINY))
    del state["embed.token_embedding.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*embed.token_embedding.weight"):
        GPT(TINY).load_state_dict(state)


@pytest.mark.parametrize("n_mixes", [0, 1, 3])
def test_another_number_of_mixes_than_blocks_is_refused_before_any_runs(n_mixes: int) -> None:
    ran: list[int] = []

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ran.append(1)
        return v

    model = GPT(TINY)
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"{n_mixes} mixes for 2 blocks; pass one for each"):
        model.stream(tokens, [mix] * n_mixes)
    assert not ran


def test_each_block_takes_its_own_mix() -> None:
    model, tokens = GPT(TINY).eval(), torch.tensor([[3, 1, 4, 1]])
    seen = []

    def see_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(q.shape)
        return attend(q, k, v)[0]

    whole = model.stream(tokens)
    assert torch.equal(whole, model.stream(tokens, [None, None]))
    assert not torch.allclose(whole, model.stream(tokens, [see_all, None]))
    assert seen == [(1, TINY.n_head, 4, TINY.head_size)]


@pytest.mark.parametrize(
    ("bias", "qkv_bias", "has_bias"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_queries_keys_and_values_have_the_bias_that_was_asked_for(
    bias: bool, qkv_bias: bool | None, has_bias: bool
) -> None:
    attention = GPT(replace(TINY, bias=bias, qkv_bias=qkv_bias)).blocks[0].attn
    assert (attention.qkv.bias is not None, attention.proj.bias is not None) == (has_bias, bias)


def test_an_output_layer_of_its_own_stays_apart_through_every_door() -> None:
    config = replace(TINY, tie_weights=False)
    model: Any = perturbed(GPT(config))
    copies: list[Any] = [copy.deepcopy(model), GPT(config), GPT(config)]
    copies[1].load_state_dict(model.state_dict())
    copies[2].load_state_dict(model.state_dict(), assign=True)
    for other in copies:
        assert other.head.weight is not other.embed.token_embedding.weight
        assert torch.equal(other.head.weight, model.head.weight)
    del (state := model.state_dict())["head.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*head\.weight"):
        GPT(config).load_state_dict(state)


def test_a_fresh_model_of_any_kind_starts_at_the_loss_of_guessing() -> None:
    config = replace(TINY, n_embd=64, n_head=4, d_ff=50, qkv_bias=False, tie_weights=False)
    tokens = random_tokens(config, 8, 16)
    loss = nn.functional.cross_entropy(GPT(config, seeded())(tokens).mT, tokens)
    assert loss.item() == pytest.approx(math.log(config.vocab_size), rel=0.03)
