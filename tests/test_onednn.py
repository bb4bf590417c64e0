"""Products in oneDNN give what PyTorch's own give, forward and backward."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlib.extras.fast import onednn
from gptlib.extras.fast.onednn import multiply_in_onednn, onednn_loss, onednn_pays
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.scaling import ChunkedCrossEntropy, checkpoint_activations, chunked_loss
from gptlib.training import Loss, TrainingConfig, next_token_loss, train

SIZES = GPTConfig(vocab_size=50, context_length=16, n_layer=2, n_head=2, n_embd=32)


def twins() -> tuple[GPT, GPT]:
    plain = GPT(SIZES, torch.Generator().manual_seed(0))
    fast = copy.deepcopy(plain)
    multiply_in_onednn(fast)
    return plain, fast


def batch() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1], tokens[:, 1:]


def gradients(model: GPT, loss: Loss = next_token_loss) -> list[Tensor]:
    model.zero_grad()
    loss(model, *batch()).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_logits_and_gradients_are_those_of_the_plain_model() -> None:
    plain, fast = twins()
    torch.testing.assert_close(fast(batch()[0]), plain(batch()[0]))
    torch.testing.assert_close(gradients(fast), gradients(plain))
    assert plain.state_dict().keys() == fast.state_dict().keys()
    assert fast.head.weight is fast.embed.token_embedding.weight


def test_it_is_oneDNN_that_multiplies() -> None:
    _, fast = twins()
    with torch.autograd.profiler.profile() as profile:
        gradients(fast)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["mkldnn::_linear_pointwise"] == (2 * 4 + 1) * 3  # blocks, layers, products


def test_the_loss_in_chunks_multiplies_in_it_too() -> None:
    plain, fast = twins()
    torch.testing.assert_close(onednn_loss(fast, *batch()), next_token_loss(plain, *batch()))
    torch.testing.assert_close(gradients(fast, onednn_loss), gradients(plain))
    with torch.autograd.profiler.profile() as profile:
        gradients(fast, onednn_loss)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["mkldnn::_linear_pointwise"] == (2 * 4 + 1) * 3  # as in whole logits
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, gradients(fast, onednn_loss), gradients(plain, chunked_loss)))


def test_the_gradients_of_several_chunks_add_up() -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(1200, 8, generator=g, requires_grad=True)  # a chunk has 512 positions at most
    table = torch.randn(50, 8, generator=g, requires_grad=True)
    targets = torch.randint(50, (1200,), generator=g)
    in_chunks: Callable[..., Tensor] = ChunkedCrossEntropy.apply
    ours = in_chunks(x, table, targets, onednn.multiply)
    right = F.cross_entropy(x @ table.T, targets)
    torch.testing.assert_close(ours, right)
    slopes = [torch.autograd.grad(loss, (x, table)) for loss in (ours, right)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize(("n", "out"), [(7, 3), (3, 7), (5, 5), (1, 4), (4, 1)])
def test_transposed_matrices_give_the_same_product(n: int, out: int) -> None:
    g = torch.Generator().manual_seed(4)
    x, weight = torch.randn(6, n, generator=g).T, torch.randn(6, out, generator=g).T
    torch.testing.assert_close(onednn.multiply(x, weight), F.linear(x, weight))


def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*inputs: Any) -> Any:
        time.sleep(0.05)
        return function(*inputs)

    return slow


def test_a_measurement_finds_the_faster_way(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = (GPTConfig(50, 16, 1, 2, n_embd) for n_embd in (256, 64))
    with monkeypatch.context() as patch:
        patch.setattr(onednn, "multiply", slowed(onednn.multiply))
        assert not onednn_pays(wide)
    monkeypatch.setattr(F, "linear", slowed(F.linear))
    assert onednn_pays(wide)
    assert not onednn_pays(narrow)  # it is not even tried
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not onednn_pays(wide)


def test_a_second_call_changes_nothing_and_checkpointing_goes_with_it() -> None:
    plain, fast = twins()
    multiply_in_onednn(fast)
    checkpoint_activations(fast)
    torch.testing.assert_close(gradients(fast), gradients(plain))


def test_the_head_stays_tied_and_loads_what_plain_models_save() -> None:
    plain, fast = twins()
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    del state["head.weight"]  # as in files of the first edition
    for assign in (False, True):
        fast.load_state_dict(state, assign=assign)
        assert fast.head.weight is fast.embed.token_embedding.weight
        copied = copy.deepcopy(fast)
        assert copied.head.weight is copied.embed.token_embedding.weight
        torch.testing.assert_close(copied(batch()[0]), plain(batch()[0]))


def test_frozen_weights_get_no_gradient() -> None:
    _, fast = twins()
    fast.blocks[0].requires_grad_(False)
    gradients(fast)
    assert all(p.grad is None for p in fast.blocks[0].parameters())
    assert all(p.grad is not None for p in fast.blocks[1].parameters())


def test_half_precision_is_left_to_autocast() -> None:
    plain, fast = twins()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, gradients(fast), gradients(plain)))


def test_a_resumed_run_is_equal_to_the_bit(tmp_path: Path) -> None:
    tokens = torch.randint(50, (500,), generator=torch.Generator().manual_seed(2))
    plan = TrainingConfig(n_steps=6, batch_size=2, report_every=3, save_every=3)
    _, whole = twins()
    list(train(whole, tokens, None, plan))
    _, first = twins()
    run = train(first, tokens, None, plan, checkpoint=tmp_path / "run.pt")
    next(run)
    run.close()
    _, second = twins()
    list(train(second, tokens, None, plan, checkpoint=tmp_path / "run.pt", resume=True))
    assert all(map(torch.equal, whole.parameters(), second.parameters()))


def test_without_oneDNN_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="without oneDNN; train with --onednn=false"):
        twins()
