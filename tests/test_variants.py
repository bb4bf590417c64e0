"""Variants: what each may look at, with a cache and without, and a run that keeps its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
import yaml
from command_line import call, refusal, short_text
from torch import Tensor, nn

from gptlib.extras.commands.convert import as_gpt2
from gptlib.extras.fast import fast
from gptlib.extras.models import load_model
from gptlib.extras.variants import (
    Attention,
    Norm,
    VariantConfig,
    VariantGPT,
    as_config,
    build,
    may_look,
    mix_in_blocks,
)
from gptlib.generation import KeyValueCache, Sampling, extend, generate, generate_batch
from gptlib.gpt2 import GPT, GPTConfig, attention_maps
from gptlib.scaling import checkpoint_activations, chunked_loss
from gptlib.tokenizer import BPETokenizer
from gptlib.training import (
    TrainingConfig,
    evaluate,
    load_checkpoint,
    next_token_loss,
    train,
)
from gptlib.weights import save_gpt2

SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "context_length": 24,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
}
GREEDY = Sampling(temperature=0)
every_norm = pytest.mark.parametrize("norm", get_args(Norm))
every_attention = pytest.mark.parametrize("attention", get_args(Attention))


def variant(norm: Norm = "pre", attention: Attention = "full", **more: Any) -> VariantGPT:
    config = VariantConfig(**SIZES | more, norm=norm, attention=attention, window=5)
    model = VariantGPT(config, torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # larger, so that a wrong key shows
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def some_tokens(n: int = 24, rows: int = 2) -> Tensor:
    return torch.randint(256, (rows, n), generator=torch.Generator().manual_seed(2))


# What attention looks at.


@pytest.mark.parametrize("attention", ["window", "strided"])
@pytest.mark.parametrize("window", [1, 2, 5, 8, 23, 40])
@pytest.mark.parametrize("length", [1, 7, 16, 23])
def test_in_blocks_equals_a_mask(attention: Attention, window: int, length: int) -> None:
    config = VariantConfig(attention=attention, window=window)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, length, 4, generator=generator, requires_grad=True) for _ in range(3)
    )
    places = torch.arange(length)
    mask = may_look(config, places[:, None] - places)
    whole = F.scaled_dot_product_attention(q, k, v, mask)
    parts = mix_in_blocks(config, 0.0, q, k, v)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    weights = torch.randn(whole.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad((parts * weights).sum(), (q, k, v)),
        torch.autograd.grad((whole * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("attention", "seen"),
    [
        ("full", list(range(12))),
        ("window", [7, 8, 9, 10, 11]),
        ("strided", [1, 6, 7, 8, 9, 10, 11]),
    ],
)
def test_one_layer_sees_what_it_may_and_nothing_after(
    attention: Attention, seen: list[int]
) -> None:
    model, tokens = variant(attention=attention, n_layer=1), some_tokens(14, rows=1)
    before = model(tokens)[0, 11]
    changed = []
    for place in range(14):
        other = tokens.clone()
        other[0, place] += 1 if other[0, place] < 255 else -1
        if not torch.allclose(model(other)[0, 11], before, atol=1e-6):
            changed.append(place)
    assert changed == seen


def test_dropout_acts_on_the_weights_in_training_only() -> None:
    model = variant(attention="window", dropout=0.5)
    assert torch.equal(model(some_tokens()), model(some_tokens()))
    config, ones = VariantConfig(attention="strided", window=3), torch.ones(1, 1, 9, 2)
    torch.manual_seed(0)
    assert len(mix_in_blocks(config, 0.5, ones, ones, ones).unique()) > 2
    torch.testing.assert_close(mix_in_blocks(config, 0.0, ones, ones, ones), ones)


@every_norm
@every_attention
@pytest.mark.parametrize("sizes", [[24], [1] * 24, [7, 1, 16], [3, 9, 12]])
def test_a_cache_equals_no_cache_for_every_split(
    norm: Norm, attention: Attention, sizes: list[int]
) -> None:
    model, tokens = variant(norm, attention), some_tokens()
    cache = KeyValueCache(model, 2, 24)
    parts = [extend(model, part, cache) for part in tokens.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=2e-4, rtol=1e-4)


@every_norm
@every_attention
def test_rows_of_several_lengths_write_what_they_write_alone(
    norm: Norm, attention: Attention
) -> None:
    model, rows = variant(norm, attention), [[1, 2, 3], [9] * 11 + [4], [7]]
    together = list(zip(*generate_batch(model, rows, 20, GREEDY), strict=True))
    for row, written in zip(rows, together, strict=True):
        assert list(generate(model, row, 20, GREEDY)) == list(written)
    text = [*rows[0]]
    for token in together[0][:20]:  # and anew each time, without a cache
        assert token == int(model(torch.tensor([text]))[0, -1].argmax())
        text.append(int(token or 0))


@every_attention
def test_the_fast_twin_writes_the_same(attention: Attention) -> None:
    model = variant("post", attention)
    twin, step = fast(model)
    expected = list(generate(model, [1, 2], 30, GREEDY))
    assert list(generate(twin, [1, 2], 30, GREEDY, step=step)) == expected
    if attention != "full":
        with pytest.raises(ValueError, match=f"attention '{attention}' can't be compiled"):
            fast(model, compile=True)


def test_a_mix_that_knows_nothing_of_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="'window', which goes with no mix but a KeyValueCache's"):
        attention_maps(variant(attention="window"), some_tokens())
    assert attention_maps(variant("post"), some_tokens()).shape == (2, 2, 2, 24, 24)


# Where the norms stand.


def test_post_norm_is_the_original_transformers_layer() -> None:
    model, x = variant("post", n_layer=1), torch.randn(2, 9, 16)
    block = model.blocks[0]
    theirs = nn.TransformerEncoderLayer(16, 2, 64, 0.0, batch_first=True, activation=gelu)
    pairs = {
        "self_attn.in_proj_weight": block.attn.qkv.weight,
        "self_attn.in_proj_bias": block.attn.qkv.bias,
        "self_attn.out_proj.weight": block.attn.proj.weight,
        "self_attn.out_proj.bias": block.attn.proj.bias,
        "linear1.weight": block.mlp.expand.weight,
        "linear1.bias": block.mlp.expand.bias,
        "linear2.weight": block.mlp.proj.weight,
        "linear2.bias": block.mlp.proj.bias,
        **{f"norm{n}.weight": norm.weight for n, norm in ((1, block.ln_1), (2, block.ln_2))},
        **{f"norm{n}.bias": norm.bias for n, norm in ((1, block.ln_1), (2, block.ln_2))},
    }
    theirs.load_state_dict(pairs)
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    expected = theirs(x, src_mask=mask, is_causal=True)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def test_a_variant_starts_with_a_gpts_weights_and_pre_and_full_is_one() -> None:
    config = GPTConfig(**SIZES)
    plain = GPT(config, torch.Generator().manual_seed(3))
    for norm in get_args(Norm):
        other = VariantGPT(VariantConfig(**SIZES, norm=norm), torch.Generator().manual_seed(3))
        ours, theirs = other.state_dict(), plain.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() - {"variant"})
        assert theirs.keys() - ours.keys() == {n for n in theirs if norm == "none" and ".ln_" in n}
        assert torch.equal(other(some_tokens()), plain(some_tokens())) == (norm == "pre")
    assert type(build(as_config({**SIZES, "norm": "pre", "window": 9}))) is GPT


@every_norm
@every_attention
def test_each_learns_and_resumes_to_the_bit(
    norm: Norm, attention: Attention, tmp_path: Path
) -> None:
    path, text = tmp_path / "run.pt", torch.arange(600) % 12
    plan = TrainingConfig(n_steps=60, batch_size=8, max_learning_rate=2e-2, save_every=25)
    config = VariantConfig(**SIZES, norm=norm, attention=attention, window=5)
    whole = build(config, torch.Generator().manual_seed(0))
    list(train(whole, text, None, plan))
    assert evaluate(whole, text) < 1
    run = train(build(config, torch.Generator().manual_seed(0)), text, None, plan, checkpoint=path)
    next(run)
    run.close()
    again = build(config)
    list(train(again, text, None, plan, checkpoint=path, resume=True))
    assert all(map(torch.equal, again.parameters(), whole.parameters()))
    assert as_config(load_checkpoint(path)["model_config"]) == as_config(vars(config))


@every_norm
def test_what_saves_memory_changes_no_loss(norm: Norm) -> None:
    model, tokens = variant(norm, "strided").train(), some_tokens()
    batch = tokens[:, :-1], tokens[:, 1:]
    plain = next_token_loss(model, *batch)
    torch.testing.assert_close(chunked_loss(model, *batch), plain)
    checkpoint_activations(model)
    torch.testing.assert_close(next_token_loss(model, *batch), plain)


# Nothing takes one for GPT-2.


@pytest.mark.parametrize(
    "model", [variant("post"), variant(attention="window"), variant("none", bias=False)]
)
def test_gpt2s_layout_and_gpt2_itself_refuse_it(model: VariantGPT, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no place for a model with .*its run's folder"):
        as_gpt2(model)
    with pytest.raises(ValueError, match="layout has no place for this model"):
        save_gpt2(model, BPETokenizer([]), tmp_path)
    plain = GPT(GPTConfig(**SIZES))
    with pytest.raises(RuntimeError, match="variant"):
        plain.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="variant"):
        model.load_state_dict(plain.state_dict())


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("norm", "posts", "norm is 'posts'; it must be one of pre, post, none"),
        ("attention", "local", "attention is 'local'; it must be one of full, window, strided"),
        ("window", 0, "window is 0; it must be a whole number of at least 1"),
        ("n_head", 3, "n_embd is 16; it must be divisible by n_head, 3"),
    ],
)
def test_a_wrong_field_gets_its_rule(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(VariantConfig(**SIZES), **{field: value})  # type: ignore[arg-type]


# By the command.

TINY = (
    *("--training.steps", 4, "--training.warmup-steps", 1, "--training.batch-size", 2),
    *("--model.vocab-size", 270, "--model.context-length", 16, "--model.n-embd", 16),
    *("--model.n-layer", 1, "--model.n-head", 2, "--device", "cpu"),
)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return short_text(tmp_path)


def test_a_run_keeps_its_variant_and_its_folder_is_the_model(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, given = tmp_path / "run", ("--model.norm", "post", "--model.attention", "window")
    words = ("train", book, *TINY, *given, "--model.window", 4, "--folder", folder)
    assert call(*words) == 0
    said = capsys.readouterr().err
    assert "no place for this variant; the run's folder itself is the model" in said
    assert f"the model is in {folder}; let it write" in said
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
    assert [saved[name] for name in ("norm", "attention", "window")] == ["post", "window", 4]
    assert call("train", "--resume", "--folder", folder, "--training.steps", 6) == 0
    assert call("train", "--resume", "--folder", folder) == 0
    assert "is complete: 6 steps are done" in capsys.readouterr().err
    model, _ = load_model(folder)
    assert isinstance(model, VariantGPT)
    assert (model.config.norm, model.config.window) == ("post", 4)  # type: ignore[attr-defined]
    assert torch.equal(
        model.state_dict()["ln_f.weight"],
        load_checkpoint(folder / "checkpoint.pt")["model"]["ln_f.weight"],
    )
    assert call("generate", "--model", folder, "--prompt", "It", "--max-new-tokens", 30) == 0
    assert call("evaluate", book, "--model", folder) == 0
    more = ("--training.steps", 2, "--training.warmup-steps", 0, "--training.batch-size", 2)
    assert call("train", book, "--init", folder, *more, "--folder", tmp_path / "on") == 0
    assert isinstance(load_model(tmp_path / "on")[0], VariantGPT)
    capsys.readouterr()
    said = refusal(capsys, "train", "--resume", "--folder", folder, "--model.norm", "pre")
    assert "was begun with model.norm 'post', not 'pre'; leave --model.norm out" in said
    said = refusal(capsys, "convert", folder, tmp_path / "other")
    assert "no place for a model with norm post, attention window, window 4" in said
    said = refusal(capsys, "tune", book, "--model", folder, "--folder", tmp_path / "tuned")
    assert "is a variant of GPT-2, which chat can't open" in said


def test_a_plain_run_names_no_variant_and_is_not_made_one(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert call("train", book, *TINY, "--model.norm", "pre", "--folder", folder) == 0
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
    assert "norm" not in saved
    assert (folder / "model" / "config.json").is_file()
    capsys.readouterr()
    said = refusal(capsys, "train", "--resume", "--folder", folder, "--model.norm", "post")
    assert "was begun with model.norm 'pre', not 'post'; leave --model.norm out" in said
    said = refusal(capsys, "train", book, "--model.norm", "posts")
    assert "'posts' can't be used; write pre, post or none" in said
