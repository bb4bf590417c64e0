"""From a stream of tokens to vectors: gptlib/embeddings.py."""

from math import ceil, pi, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from gptlib.embeddings import (
    InputEmbedding,
    TokenWindows,
    check_tokens,
    random_batch,
    sinusoidal_positions,
    split_tokens,
)

STREAM = torch.arange(100)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Windows


@settings(deadline=None)  # a busy machine is no failure
@given(n=st.integers(2, 300), context_length=st.integers(1, 60), stride=st.integers(1, 80))
def test_targets_are_the_inputs_one_step_later_for_every_stride(
    n: int, context_length: int, stride: int
) -> None:
    context_length = min(context_length, n - 1)
    tokens = torch.randint(1000, (n,), generator=generator(n))
    windows = TokenWindows(tokens, context_length, stride)
    for index in range(len(windows)):
        inputs, targets = windows[index]
        assert len(inputs) == len(targets) == context_length
        assert torch.equal(inputs[1:], targets[:-1])
        assert torch.equal(inputs, tokens[index * stride : index * stride + context_length])
        assert targets[-1] == tokens[index * stride + context_length]


@settings(deadline=None)  # a busy machine is no failure
@given(n=st.integers(2, 300), context_length=st.integers(1, 60), stride=st.integers(1, 80))
def test_no_further_window_would_fit(n: int, context_length: int, stride: int) -> None:
    context_length = min(context_length, n - 1)
    count = len(TokenWindows(torch.arange(n), context_length, stride))
    assert count == len(range(0, n - context_length, stride))


@settings(deadline=None)  # a busy machine is no failure
@given(n=st.integers(2, 300), context_length=st.integers(1, 60), data=st.data())
def test_windows_that_leave_no_gap_cover_the_stream_up_to_less_than_a_stride(
    n: int, context_length: int, data: st.DataObject
) -> None:
    context_length = min(context_length, n - 1)
    stride = data.draw(st.integers(1, context_length))
    windows = TokenWindows(torch.arange(n), context_length, stride)
    targets = {int(t) for index in range(len(windows)) for t in windows[index][1]}
    last = (len(windows) - 1) * stride + context_length
    assert targets == set(range(1, last + 1))
    assert n - 1 - last < stride


def test_by_default_each_token_but_the_first_is_a_target_once() -> None:
    windows = TokenWindows(STREAM, context_length=9)
    targets = torch.cat([windows[index][1] for index in range(len(windows))])
    assert targets.tolist() == list(range(1, 100))


def test_windows_share_the_memory_of_the_stream() -> None:
    inputs, targets = TokenWindows(STREAM, context_length=4)[3]
    assert inputs.data_ptr() == STREAM[12:].data_ptr()
    assert targets.data_ptr() == STREAM[13:].data_ptr()


def test_windows_work_with_a_data_loader() -> None:
    batches = list(DataLoader(TokenWindows(STREAM, context_length=8), batch_size=5))
    assert [tuple(inputs.shape) for inputs, _ in batches] == [(5, 8), (5, 8), (2, 8)]
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in batches)


@pytest.mark.parametrize("index", [-1, 12])
def test_a_window_that_does_not_exist_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=rf"window {index} does not exist; choose one of 0\.\.11"):
        TokenWindows(STREAM, context_length=8)[index]


def test_a_stream_shorter_than_a_window_is_refused() -> None:
    message = (
        "8 tokens give no window of 8 and its last target; pass more, or a shorter context_length"
    )
    with pytest.raises(ValueError, match=message):
        TokenWindows(STREAM[:8], context_length=8)
    with pytest.raises(ValueError, match=message):
        random_batch(STREAM[:8], 2, 8, generator())


def test_a_stream_of_exactly_one_window_and_its_target_is_enough() -> None:
    assert len(TokenWindows(STREAM[:9], context_length=8)) == 1
    inputs, targets = random_batch(STREAM[:9], 2, 8, generator())
    assert inputs.tolist() == [list(range(8))] * 2
    assert targets.tolist() == [list(range(1, 9))] * 2


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        (STREAM.float(), r"flat tensor of ids, not tensor\(\[ *0\., +1\."),
        (STREAM.view(10, 10), r"flat tensor of ids, not tensor\(\[\[ *0,"),
    ],
)
def test_a_stream_of_wrong_shape_or_dtype_is_refused(tokens: torch.Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TokenWindows(tokens, context_length=4)
    with pytest.raises(ValueError, match=complaint):
        random_batch(tokens, 2, 4, generator())


def test_lengths_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="give no window of 0"):
        TokenWindows(STREAM, context_length=0)
    with pytest.raises(ValueError, match="stride is 0; windows must move on by at least 1 token"):
        TokenWindows(STREAM, context_length=4, stride=0)
    with pytest.raises(ValueError, match="batch_size is 0; draw at least 1 window"):
        random_batch(STREAM, 0, 4, generator())
    with pytest.raises(ValueError, match="give no window of -3"):
        random_batch(STREAM, 1, -3, generator())


# Random batches


@settings(deadline=None)  # a busy machine is no failure
@given(n=st.integers(2, 200), context_length=st.integers(1, 60), batch_size=st.integers(1, 9))
def test_a_random_batch_holds_windows_of_the_stream(
    n: int, context_length: int, batch_size: int
) -> None:
    context_length = min(context_length, n - 1)
    inputs, targets = random_batch(torch.arange(n), batch_size, context_length, generator(n))
    assert inputs.shape == targets.shape == (batch_size, context_length)
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(context_length))
    assert int(targets.max()) < n


def test_every_start_is_drawn_the_last_one_too() -> None:
    inputs, targets = random_batch(torch.arange(12), 500, 4, generator())
    assert set(inputs[:, 0].tolist()) == set(range(8))
    assert int(targets.max()) == 11


def test_the_generator_fixes_the_batch() -> None:
    first, again, other = (random_batch(STREAM, 8, 4, generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Split


@settings(deadline=None)  # a busy machine is no failure
@given(n=st.integers(2, 500), fraction=st.floats(0.01, 0.99))
def test_a_split_keeps_every_token_in_order(n: int, fraction: float) -> None:
    tokens = torch.arange(n)
    if not 0 < round(n * (1 - fraction)) < n:
        with pytest.raises(ValueError, match="leaves a part empty"):
            split_tokens(tokens, fraction)
        return
    train, validation = split_tokens(tokens, fraction)
    assert torch.equal(torch.cat([train, validation]), tokens)
    assert abs(len(validation) - n * fraction) <= 0.5 + 1e-9


def test_the_split_copies_nothing() -> None:
    train, validation = split_tokens(STREAM)
    assert len(validation) == 10
    assert train.data_ptr() == STREAM.data_ptr()
    assert validation.data_ptr() == STREAM[90:].data_ptr()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(
        ValueError, match=f"validation_fraction={fraction} of 100 tokens leaves a part empty"
    ):
        split_tokens(STREAM, fraction)


def test_a_split_that_leaves_a_part_empty_is_refused() -> None:
    message = "validation_fraction=0.1 of 3 tokens leaves a part empty; choose another"
    with pytest.raises(ValueError, match=message):
        split_tokens(STREAM[:3])
    with pytest.raises(ValueError, match="of 0 tokens leaves a part empty"):
        split_tokens(STREAM[:0], 0.5)


def test_a_validation_part_shorter_than_a_window_is_refused_where_it_is_cut() -> None:
    _, validation = split_tokens(STREAM)
    with pytest.raises(ValueError, match="10 tokens give no window of 16"):
        TokenWindows(validation, context_length=16)


# Sinusoidal positions


def test_the_waves_equal_the_formula_of_the_paper() -> None:
    table = sinusoidal_positions(50, 12).double()
    for t in range(50):
        for i in range(6):
            angle = torch.tensor(t / 10_000 ** (2 * i / 12), dtype=torch.float64)
            assert table[t, 2 * i] == pytest.approx(float(angle.sin()), abs=1e-5)
            assert table[t, 2 * i + 1] == pytest.approx(float(angle.cos()), abs=1e-5)


@settings(deadline=None)  # a busy machine is no failure
@given(context_length=st.integers(2, 200), pairs=st.integers(1, 40), distance=st.integers(0, 199))
def test_the_dot_product_of_two_positions_depends_on_their_distance_only(
    context_length: int, pairs: int, distance: int
) -> None:
    distance = min(distance, context_length - 1)
    table = sinusoidal_positions(context_length, 2 * pairs)
    products = (table @ table.T).diagonal(distance)
    assert float(products.max() - products.min()) < 1e-3 * pairs
    if distance == 0:
        torch.testing.assert_close(table.norm(dim=1), torch.full((context_length,), sqrt(pairs)))


def test_positions_up_to_gpt2s_context_are_all_different() -> None:
    table = sinusoidal_positions(1024, 768)
    distances = torch.cdist(table, table) + 99 * torch.eye(1024)
    assert float(distances.min()) > 1


def test_a_longer_table_begins_with_the_shorter_one() -> None:
    assert torch.equal(sinusoidal_positions(90, 8)[:40], sinusoidal_positions(40, 8))


def test_the_first_pair_turns_once_in_two_pi_positions() -> None:
    sines = sinusoidal_positions(100, 4)[:, 0]
    turns = int(((sines[:-1] < 0) & (sines[1:] >= 0)).sum())
    assert turns == int(99 / (2 * pi))


@pytest.mark.parametrize("n_embd", [7, 1])
def test_waves_need_an_even_number_of_channels(n_embd: int) -> None:
    with pytest.raises(ValueError, match=f"n_embd is {n_embd}; sines and cosines come in pairs"):
        sinusoidal_positions(4, n_embd)


# The sum


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_input_is_the_sum_of_two_rows(positions: str) -> None:
    embed = InputEmbedding(11, 6, 8, positions=positions)  # type: ignore[arg-type]
    tokens = torch.tensor([[3, 1, 4], [1, 5, 9]])
    x = embed(tokens)
    for b in range(2):
        for t in range(3):
            row = embed.token_embedding.weight[tokens[b, t]] + embed.position_embedding.weight[t]
            assert torch.equal(x[b, t], row)


def test_a_start_continues_where_earlier_tokens_ended() -> None:
    embed = InputEmbedding(11, 9, 8)
    tokens = torch.randint(11, (2, 9), generator=generator())
    for cut in range(10):
        parts = (embed(tokens[:, :cut]), embed(tokens[:, cut:], torch.arange(cut, tokens.size(1))))
        assert torch.equal(torch.cat(parts, dim=1), embed(tokens))


def test_learned_positions_are_trained_and_waves_are_not() -> None:
    learned, waves = InputEmbedding(5, 4, 6), InputEmbedding(5, 4, 6, positions="sinusoidal")
    assert [name for name, p in learned.named_parameters() if p.requires_grad] == [
        "token_embedding.weight",
        "position_embedding.weight",
    ]
    assert [name for name, p in waves.named_parameters() if p.requires_grad] == [
        "token_embedding.weight"
    ]
    assert torch.equal(waves.position_embedding.weight, sinusoidal_positions(4, 6))


def test_only_rows_that_were_looked_up_get_a_gradient_and_repeats_add_up() -> None:
    embed = InputEmbedding(5, 4, 2)
    embed(torch.tensor([[3, 1, 3]])).sum().backward()
    gradient = embed.token_embedding.weight.grad
    assert gradient is not None
    assert gradient[:, 0].tolist() == [0, 1, 0, 2, 0]


def test_dropout_acts_in_training_only_and_keeps_the_mean() -> None:
    embed = InputEmbedding(5, 400, 100, dropout=0.25)
    nn.init.ones_(embed.token_embedding.weight)
    nn.init.zeros_(embed.position_embedding.weight)
    tokens = torch.zeros(1, 400, dtype=torch.int64)
    x = embed(tokens).detach()
    assert float((x == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(x.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(embed.eval()(tokens), torch.ones(1, 400, 100))


def test_an_empty_batch_gives_an_empty_result() -> None:
    assert InputEmbedding(5, 4, 6)(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 6)


@pytest.mark.parametrize(("token", "named"), [(11, 11), (-1, -1), (50256, 50256)])
def test_an_id_out_of_range_is_named(token: int, named: int) -> None:
    embed = InputEmbedding(11, 6, 8)
    message = rf"token id {named} is outside 0\.\.10; use the model's tokenizer"
    with pytest.raises(ValueError, match=message):
        embed(torch.tensor([[1, token, 2]]))


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    embed = InputEmbedding(11, 16, 8)
    message = "^17 tokens; pass the last 16, the context$"
    with pytest.raises(ValueError, match=message):
        embed(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        (
            torch.zeros(3, dtype=torch.int64),
            r"pass int64 ids \(batch, positions\), not tensor\(\[0, 0, 0\]\)",
        ),
        (torch.zeros(1, 2, 3, dtype=torch.int64), r"not tensor\(\[\[\[0"),
        (torch.zeros(1, 3), r"not tensor\(\[\[0\., 0\., 0\.\]\]\)"),
        (torch.zeros(1, 3, dtype=torch.int32), r"dtype=torch.int32"),
    ],
)
def test_tokens_of_wrong_shape_or_dtype_are_refused(tokens: torch.Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        InputEmbedding(11, 6, 8)(tokens)


def test_ids_are_not_read_from_another_device() -> None:
    check_tokens(torch.zeros(1, 3, dtype=torch.int64, device="meta"), 11, 6)


def test_waves_with_an_odd_number_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="n_embd is 7; sines and cosines come in pairs"):
        InputEmbedding(11, 6, 7, positions="sinusoidal")


def test_the_number_of_windows_matches_the_rule_of_the_chapter() -> None:
    for stride in (1, 3, 8):
        assert len(TokenWindows(STREAM, 8, stride)) == ceil((100 - 8) / stride)


def test_ids_in_a_list_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"tokens: pass one flat tensor of ids, not \[1, 2, 3\]"):
        TokenWindows([1, 2, 3], 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pass int64 ids .* not \[1, 2\]"):
        check_tokens([1, 2], 5, 5)  # type: ignore[arg-type]
