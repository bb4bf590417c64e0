"""How positions look back: gptlib/attention.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gptlib.attention import CausalSelfAttention, attend, causal_mask


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(n_embd: int = 12, n_head: int = 3, **options: float | bool) -> CausalSelfAttention:
    torch.manual_seed(0)
    return CausalSelfAttention(n_embd, n_head, **options)  # type: ignore[arg-type]


# The mask


@given(n=st.integers(1, 40))
def test_a_query_sees_itself_and_what_came_before(n: int) -> None:
    mask = causal_mask(n)
    assert mask.dtype == torch.bool
    assert all(mask[t].tolist() == [s <= t for s in range(n)] for t in range(n))


@given(n_keys=st.integers(1, 40), data=st.data())
def test_with_more_keys_than_queries_the_mask_is_the_tail_of_the_whole(
    n_keys: int, data: st.DataObject
) -> None:
    n_queries = data.draw(st.integers(1, n_keys))
    assert torch.equal(causal_mask(n_queries, n_keys), causal_mask(n_keys)[-n_queries:])


def test_the_mask_is_made_on_the_device_that_is_asked_for() -> None:
    assert causal_mask(3, device=torch.device("meta")).device.type == "meta"


def test_fewer_keys_than_queries_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 queries have only 2 keys; pass at least as many"):
        causal_mask(3, 2)


# One look


def test_attention_by_hand_on_a_textbook_example() -> None:
    q = torch.tensor([[2.0, 0.0]])
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    v = torch.tensor([[10.0], [20.0]])
    share = math.exp(2 / math.sqrt(2)) / (math.exp(2 / math.sqrt(2)) + 1)
    output, weights = attend(q, k, v)
    assert weights[0].tolist() == pytest.approx([share, 1 - share])
    assert output.item() == pytest.approx(10 * share + 20 * (1 - share))


@settings(deadline=None)
@given(t=st.integers(1, 12), extra=st.integers(0, 6), d=st.integers(1, 9), masked=st.booleans())
def test_attend_equals_the_fused_kernel_and_its_rows_sum_to_1(
    t: int, extra: int, d: int, masked: bool
) -> None:
    q, k, v = random(2, 3, t, d), random(2, 3, t + extra, d, seed=1), random(2, 3, t + extra, d)
    mask = causal_mask(t, t + extra) if masked else None
    output, weights = attend(q, k, v, mask)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.allclose(output, expected, atol=1e-5)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3, t), atol=1e-5)
    assert mask is None or not weights[..., ~mask].any()


def test_gradients_equal_those_of_the_fused_kernel() -> None:
    inputs = [random(2, 3, 10, 8, seed=seed).requires_grad_() for seed in range(3)]
    q, k, v = inputs
    ours = attend(q, k, v, causal_mask(10))[0]
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    pairs = zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        strict=True,
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_large_scores_give_no_nan() -> None:
    q = 1e4 * random(5, 8)
    output, weights = attend(q, q, q, causal_mask(5))
    assert output.isfinite().all()
    assert torch.allclose(weights.sum(-1), torch.ones(5))


def test_a_mask_of_numbers_is_refused() -> None:
    x = random(3, 4)
    with pytest.raises(ValueError, match=r"mask has dtype torch\.float32; pass booleans, True ="):
        attend(x, x, x, torch.ones(3, 3))


# The layer


@settings(deadline=None)
@given(length=st.integers(2, 20), data=st.data())
def test_a_changed_token_changes_nothing_before_it(length: int, data: st.DataObject) -> None:
    t = data.draw(st.integers(1, length - 1))
    attention, x = layer(), random(2, length, 12)
    changed = x.clone()
    changed[:, t:] += random(2, length - t, 12, seed=1)
    before, after = attention(x), attention(changed)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.allclose(before[:, t], after[:, t])


def test_no_gradient_comes_from_the_future() -> None:
    x = random(1, 8, 12).requires_grad_()
    (gradient,) = torch.autograd.grad(layer()(x)[:, 4].sum(), x)
    assert not gradient[:, 5:].any()
    assert gradient[:, :5].abs().amax(-1).all()


@pytest.mark.parametrize("n_head", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_layer_equals_a_list_of_heads(n_head: int, bias: bool) -> None:
    attention, x = layer(12, n_head, bias=bias), random(2, 7, 12)
    size = 12 // n_head
    q, k, v = attention.qkv(x).split(12, dim=-1)
    heads = []
    for h in range(n_head):
        part = slice(h * size, (h + 1) * size)
        heads.append(attend(q[..., part], k[..., part], v[..., part], causal_mask(7))[0])
    assert torch.allclose(attention(x), attention.proj(torch.cat(heads, -1)), atol=1e-6)


@pytest.mark.parametrize("n_head", [1, 3, 12])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_equals_torchs_multihead_attention(n_head: int, bias: bool) -> None:
    attention, x = layer(12, n_head, bias=bias), random(2, 7, 12)
    theirs = nn.MultiheadAttention(12, n_head, bias=bias, batch_first=True)
    names = {"in_proj_": attention.qkv, "out_proj.": attention.proj}
    theirs.load_state_dict(
        {prefix + name: p for prefix, part in names.items() for name, p in part.named_parameters()}
    )
    output, weights = theirs(x, x, x, attn_mask=~causal_mask(7), average_attn_weights=False)
    q, k, v = attention.project(x)
    assert torch.allclose(attention(x), output, atol=1e-6)
    assert torch.allclose(attend(q, k, v, causal_mask(7))[1], weights, atol=1e-6)


def test_project_attend_merge_is_the_forward_pass() -> None:
    attention, x = layer(), random(2, 7, 12)
    q, k, v = attention.project(x)
    assert q.shape == k.shape == v.shape == (2, 3, 7, 4)
    heads, _ = attend(q, k, v, causal_mask(7))
    assert torch.allclose(attention.merge(heads), attention(x), atol=1e-6)


def test_the_last_queries_alone_give_the_last_rows() -> None:
    attention, x = layer(), random(2, 9, 12)
    q, k, v = attention.project(x)
    for n in range(1, 10):
        heads, _ = attend(q[:, :, -n:], k, v, causal_mask(n, 9))
        assert torch.allclose(attention.merge(heads), attention(x)[:, -n:], atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    attention, x = layer(dropout=0.5), random(2, 7, 12)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    assert torch.equal(attention(x), layer(dropout=0.0)(x))


def test_dropout_reaches_the_weights_and_the_output() -> None:
    x = random(1, 64, 12)
    attention = layer(dropout=0.5)
    share = (attention(x) == 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.1)
    attention.merge = lambda heads: heads  # type: ignore[method-assign]
    assert not torch.allclose(attention(x), attention(x))


def test_bias_can_be_left_out() -> None:
    names = [name for name, _ in layer(bias=False).named_parameters()]
    assert names == ["qkv.weight", "proj.weight"]


@pytest.mark.parametrize(("n_embd", "n_head"), [(10, 3), (12, 8)])
def test_channels_that_do_not_make_equal_heads_are_refused(n_embd: int, n_head: int) -> None:
    with pytest.raises(RuntimeError, match=r"unflatten: Provided sizes .* don't multiply up"):
        CausalSelfAttention(n_embd, n_head)(random(1, 5, n_embd))


# Another way to look back


def test_a_mix_takes_the_place_of_looking_back_causally() -> None:
    attention, x = layer(dropout=0.5), random(2, 7, 12)

    def alike(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, causal_mask(q.size(-2)))[0]

    assert not torch.allclose(attention(x), attention(x, alike))  # dropout on the weights
    assert torch.allclose(attention.eval()(x), attention(x, alike), atol=1e-6)


def test_a_mix_gets_queries_keys_and_values_of_every_head() -> None:
    attention, x = layer(bias=False).eval(), random(2, 7, 12)
    seen: list[tuple[int, ...]] = []

    def only_oneself(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.extend(tuple(part.shape) for part in (q, k, v))
        return v

    values = attention.qkv(x).chunk(3, dim=-1)[2]
    assert torch.allclose(attention(x, only_oneself), attention.proj(values), atol=1e-6)
    assert seen == [(2, 3, 7, 4)] * 3
