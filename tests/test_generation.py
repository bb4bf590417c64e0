"""Each knob does what its definition says, and no shortcut changes a token."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gpt2 import TINY, pair, perturbed, random_tokens, seeded
from torch import Tensor, nn
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gptlib.generation import (
    Beam,
    KeyValueCache,
    Sampling,
    apply_temperature,
    beam_search,
    decode_step,
    draw,
    extend,
    generate,
    generate_batch,
    generate_text,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    knob,
    penalize_frequency,
    penalize_presence,
    prefill,
    read_on,
    stages,
    stream_text,
    token_losses,
    window_start,
)
from gptlib.gpt2 import GPT, GPT2_SMALL, GPTConfig
from gptlib.tokenizer import BPETokenizer, end_of_text, gpt2_encoding

GREEDY = Sampling(temperature=0)
BYTES = BPETokenizer([])  # 256 bytes and the end of text

# 0.999 quantile of chi-square with 9 degrees of freedom: NIST/SEMATECH e-Handbook of Statistical
# Methods, table 1.3.6.7.4
CHI_SQUARE_9 = 27.877

distributions = st.lists(st.integers(1, 1000), min_size=1, max_size=8, unique=True).map(
    lambda weights: torch.tensor(weights, dtype=torch.float64).log()
)
prompts_of_tiny = st.lists(
    st.lists(st.integers(0, TINY.vocab_size - 1), min_size=1, max_size=16), min_size=1, max_size=4
)


def tiny(config: GPTConfig = TINY) -> GPT:
    model = perturbed(GPT(config, seeded()))
    assert isinstance(model, GPT)
    return model


MODEL, SPEAKER = tiny(), tiny(replace(TINY, vocab_size=257))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Work on tiny tensors with one thread: on a busy machine, two would wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def texts_of(prompts: Sequence[Sequence[int]], *arguments: Any, **options: Any) -> list[list[int]]:
    """Collect the rows of a batch, and check that a row that has ended stays silent."""
    rows: list[list[int | None]] = [[] for _ in prompts]
    for step in generate_batch(MODEL, prompts, *arguments, **options):
        for row, token in zip(rows, step, strict=True):
            row.append(token)
    written = [[token for token in row if token is not None] for row in rows]
    assert all(row[: len(text)] == text for row, text in zip(rows, written, strict=True))
    return written


def uncached_logits(model: GPT, text: Sequence[int]) -> Tensor:
    start = window_start(len(text), model.config.context_length)
    with torch.no_grad():
        return model(torch.tensor([text[start:]]))[0, -1]


def uncached_greedy(model: GPT, prompt: Sequence[int], n_new: int) -> list[int]:
    text = list(prompt)
    for _ in range(n_new):
        text.append(int(uncached_logits(model, text).argmax()))
    return text[len(prompt) :]


# Filters against their definitions


def filtered(logits: Tensor, sampling: Sampling, *texts: Any) -> Tensor:
    return [*stages(logits, sampling, *texts).values()][-1]


def kept(logits: Tensor) -> set[int]:
    return {i for i, value in enumerate(logits.tolist()) if value > -math.inf}


@given(distributions, st.integers(1, 8))
def test_top_k_keeps_the_k_likeliest(logits: Tensor, k: int) -> None:
    k = min(k, len(logits))
    assert kept(keep_top_k(logits, k)) == set(logits.argsort(descending=True)[:k].tolist())


@given(distributions, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: Tensor, p: float) -> None:
    probabilities = logits.softmax(-1).tolist()
    chosen, total = set(), 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if abs(total - p) < 1e-9:
            return  # the border is decided by rounding
        if total < p:
            chosen.add(i)
        total += probabilities[i]
    assert kept(keep_top_p(logits, p)) == chosen


@given(distributions, st.floats(0.001, 1))
def test_min_p_keeps_a_share_of_the_best(logits: Tensor, p: float) -> None:
    probabilities = logits.softmax(-1)
    share = (probabilities / probabilities.max()).tolist()
    if all(abs(value - p) > 1e-9 for value in share):
        assert kept(keep_min_p(logits, p)) == {i for i, value in enumerate(share) if value >= p}


@given(distributions, st.sampled_from([Sampling(top_p=0.5), Sampling(top_k=1), Sampling(min_p=1)]))
def test_a_filter_keeps_a_token_and_changes_no_ratio(logits: Tensor, sampling: Sampling) -> None:
    cut = filtered(logits, sampling)
    chosen = sorted(kept(cut))
    assert chosen
    torch.testing.assert_close(cut[chosen], logits[chosen], rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("spread", [0.1, 2.0, 6.0])
def test_top_p_finds_the_same_set_in_a_large_vocabulary(p: float, spread: float) -> None:
    logits = spread * torch.randn(2, 5000, generator=seeded(), dtype=torch.float64)
    for row, cut in zip(logits, keep_top_p(logits, p), strict=True):
        n = int(cut.isfinite().sum())
        ordered = row.softmax(-1).sort(descending=True).values
        assert float(ordered[: n - 1].sum()) < p <= float(ordered[:n].sum()) + 1e-12


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 100))
def test_top_p_keeps_the_smallest_set_where_tokens_are_equal_and_sums_meet_p(
    counts: list[int], percent: int
) -> None:
    logits = torch.tensor(counts).float().div(sum(counts)).log()
    likeliest = sorted(counts, reverse=True)
    # Whole numbers know no rounding: the fewest counts that reach this share of the sum.
    n = next(n for n in range(1, 99) if 100 * sum(likeliest[:n]) >= percent * sum(counts))
    cut = keep_top_p(logits, percent / 100)
    assert sorted((counts[i] for i in kept(cut)), reverse=True) == likeliest[:n]
    assert len(kept(keep_top_k(logits, n))) == n


def test_a_sum_that_rounding_leaves_short_of_p_reaches_it() -> None:
    assert kept(keep_top_p(torch.tensor([0.3, 0.1, 0.1, 0.5]).log(), 0.8)) == {0, 3}
    assert len(kept(keep_top_p(torch.zeros(4), 0.5))) == len(kept(keep_top_k(torch.zeros(4), 2)))
    assert kept(keep_min_p(torch.tensor([1.0, 2.0, 2.0, 0.0]), 1.0)) == {1, 2}


def test_the_defaults_change_nothing() -> None:
    logits = torch.randn(3, 20, generator=seeded())
    texts = [[1], [2, 3], []]
    for step in stages(logits, Sampling(), texts, texts).values():
        assert torch.equal(step, logits)


def test_temperature_zero_is_the_limit_of_small_temperatures() -> None:
    logits = torch.tensor([[0.3, 0.5, 0.1], [2.0, 1.0, 0.0]])
    limit = apply_temperature(logits, 0).softmax(-1)
    torch.testing.assert_close(apply_temperature(logits, 1e-3).softmax(-1), limit)
    assert torch.equal(apply_temperature(logits, 1e-40), apply_temperature(logits, 0))
    tie = apply_temperature(torch.tensor([1.0, 3.0, 3.0]), 0)
    assert kept(tie) == {1}


def test_the_stages_come_in_the_order_of_the_fields() -> None:
    sampling = Sampling(temperature=0.5, top_k=3, top_p=0.9, min_p=0.2, presence_penalty=1.0)
    logits = torch.tensor([[2.0, 1.9, 1.0, 0.0]])
    steps = stages(logits, sampling, new_texts=[[0, 0]])
    assert list(steps) == ["logits", *asdict(sampling)]
    torch.testing.assert_close(steps["presence_penalty"], torch.tensor([[1.0, 1.9, 1.0, 0.0]]))
    torch.testing.assert_close(steps["temperature"], torch.tensor([[2.0, 3.8, 2.0, 0.0]]))
    assert [len(kept(step[0])) for step in steps.values()] == [4, 4, 4, 4, 4, 3, 3, 1]
    assert torch.equal(steps["logits"], logits)


def cut_the_best(logits: Tensor, least: float, counts: Tensor) -> Tensor:
    """Cut the best token where it was written as often as `least` says."""
    best = logits.argmax(dim=-1, keepdim=True)
    return logits.masked_fill(
        (counts.gather(-1, best) >= least) & (logits == logits.amax()), -math.inf
    )


@dataclass(frozen=True, kw_only=True)
class Contrary(Sampling):
    """A filter of one function and one field, behind all others."""

    least: float = knob(math.inf, cut_the_best, "at least 0", lambda n: n >= 0, "texts")


def test_a_new_filter_is_one_function_and_one_field() -> None:
    logits, sampling = torch.tensor([[3.0, 2.0, 1.0]]), Contrary(min_p=0.2, least=1)
    steps = stages(logits, sampling, [[0, 1]], [[1]])
    assert list(steps)[-2:] == ["min_p", "least"]
    assert steps["min_p"].isfinite().tolist() == [[True, True, False]]
    assert steps["least"].isfinite().tolist() == [[False, True, False]]
    with pytest.raises(ValueError, match="least is -1; it must be at least 0"):
        Contrary(least=-1)
    ordinary = list(generate(MODEL, [1], 12, Contrary(top_k=2), generator=seeded()))
    assert ordinary == list(generate(MODEL, [1], 12, Sampling(top_k=2), generator=seeded()))
    contrary = list(generate(MODEL, [1], 12, Contrary(top_k=2, least=1), generator=seeded()))
    for place, token in enumerate(contrary):
        best = uncached_logits(MODEL, [1, *contrary[:place]]).topk(2).indices.tolist()
        assert token == best[1] if best[0] in [1, *contrary[:place]] else token in best


@settings(deadline=None)
@given(
    st.floats(0.1, 3), st.integers(1, 20), st.floats(0.05, 0.99), st.floats(0.01, 0.9),
    st.floats(0.3, 3), st.integers(0, 2**31),
)  # fmt: skip
def test_all_knobs_equal_those_of_transformers(
    temperature: float, k: int, p: float, min_p: float, repetition: float, seed: int
) -> None:
    logits = 3 * torch.randn(2, 20, generator=seeded(seed))
    seen = torch.randint(20, (2, 5), generator=seeded(seed))
    expected = logits.clone()
    for processor in (
        RepetitionPenaltyLogitsProcessor(repetition),
        TemperatureLogitsWarper(temperature),
        TopKLogitsWarper(k),
        TopPLogitsWarper(p),
        MinPLogitsWarper(min_p),
    ):
        expected = processor(seen, expected)
    sampling = Sampling(
        repetition_penalty=repetition, temperature=temperature, top_k=k, top_p=p, min_p=min_p
    )
    actual = filtered(logits, sampling, seen.tolist())
    torch.testing.assert_close(actual, expected)


def test_frequency_and_presence_penalties_follow_their_formula() -> None:
    logits, counts = torch.randn(2, 9, generator=seeded()), torch.arange(18).view(2, 9) % 4
    actual = penalize_presence(penalize_frequency(logits, 0.7, counts), -0.3, counts)
    for row in range(2):
        for token in range(9):
            c = int(counts[row, token])
            expected = logits[row, token] - 0.7 * c + 0.3 * (1 if c > 0 else 0)
            torch.testing.assert_close(actual[row, token], expected)


# Drawing


@given(distributions)
def test_a_token_gets_the_share_of_the_numbers_that_its_probability_says(logits: Tensor) -> None:
    n = 4000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = draw(logits.expand(n, -1), uniform)
    share = drawn.bincount(minlength=len(logits)) / n
    torch.testing.assert_close(share, logits.softmax(-1).float(), rtol=0, atol=1.1 / n)


def test_a_token_that_was_cut_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 1.0, -math.inf]])
    for number in (0.0, 0.25, 0.5, 0.75, 1 - 2**-24):
        assert int(draw(logits, torch.tensor([number]))) in (1, 3)
    for seed in range(50):  # the largest number below 1 finds the last token that is left
        row = torch.randn(1, 1000, generator=seeded(seed))
        row[:, 900:] = -math.inf
        assert int(draw(row, torch.tensor([1 - 2**-24]))) < 900


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7), Sampling(top_k=6), Sampling(top_p=0.8)]
)
def test_sampled_frequencies_fit_the_probabilities(sampling: Sampling) -> None:
    logits = torch.randn(10, generator=seeded(3))
    left = filtered(logits, sampling)
    n, generator = 20_000, seeded(7)
    drawn = draw(left.expand(n, -1), torch.rand(n, generator=generator))
    expected, observed = n * left.softmax(-1), drawn.bincount(minlength=10)
    possible = expected > 0
    assert not observed[~possible].any()
    chi_square = ((observed - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < CHI_SQUARE_9  # fewer than 9 degrees of freedom only make it stricter


def test_what_generate_writes_fits_the_probabilities_of_the_model() -> None:
    model = tiny(replace(TINY, vocab_size=10))
    nn.init.zeros_(model.ln_f.weight)  # the same distribution everywhere: the table times the bias
    expected = uncached_logits(model, [0]).softmax(-1)
    tokens = list(generate(model, [0], 3000, generator=seeded(11)))
    observed = torch.tensor(tokens).bincount(minlength=10)
    assert ((observed - 3000 * expected) ** 2 / (3000 * expected)).sum() < CHI_SQUARE_9


# The cache


def splits(length: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, length), max_size=length).map(
        lambda cuts: sorted({*cuts, length})
    )


@settings(deadline=None)
@given(splits(16), st.integers(1, 3), st.sampled_from(["learned", "sinusoidal"]))
def test_every_way_to_split_a_sequence_gives_the_same_logits(
    ends: list[int], batch: int, positions: Any
) -> None:
    model = tiny(replace(TINY, positions=positions))
    tokens = random_tokens(TINY, batch, 16)
    cache = KeyValueCache(model, batch, 16)
    parts = [
        extend(model, tokens[:, start:end], cache)
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-4, atol=1e-5)
    assert cache.length == 16


@settings(deadline=None)
@given(prompts_of_tiny, st.data())
def test_rows_of_different_lengths_get_the_logits_they_get_alone(
    prompts: list[list[int]], data: st.DataObject
) -> None:
    n_new = 16 - max(map(len, prompts))
    new = random_tokens(TINY, len(prompts), n_new)
    cache = KeyValueCache(MODEL, len(prompts), 16)
    logits = prefill(MODEL, prompts, cache)
    ends = data.draw(splits(n_new)) if n_new else []
    for start, end in zip([0, *ends], ends, strict=False):
        for row, prompt in enumerate(prompts):
            expected = uncached_logits(MODEL, [*prompt, *new[row, :start].tolist()])
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)
        logits = extend(MODEL, new[:, start:end], cache)[:, -1]


@settings(deadline=None)
@given(prompts_of_tiny, st.data())
def test_reordered_rows_go_on_as_what_they_have_become(
    prompts: list[list[int]], data: st.DataObject
) -> None:
    prompts = [prompt[:15] for prompt in prompts]
    rows = data.draw(st.lists(st.integers(0, len(prompts) - 1), min_size=1, max_size=5))
    cache = KeyValueCache(MODEL, len(prompts), 16)
    prefill(MODEL, prompts, cache)
    cache.reorder(rows)
    logits = decode_step(MODEL, torch.tensor([7] * len(rows)), cache)
    for place, row in enumerate(rows):
        expected = uncached_logits(MODEL, [*prompts[row], 7])
        torch.testing.assert_close(logits[place], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context_length", [1, 2, 3, 4, 7, 16])
def test_the_logits_stay_those_of_the_window_when_it_slides(context_length: int) -> None:
    config = replace(TINY, context_length=context_length)
    model, n = tiny(config), 3 * context_length + 5
    texts = random_tokens(config, 2, n).tolist()
    cache = KeyValueCache(model, 2, n)
    for length in range(1, n + 1):
        logits = read_on(model, [text[:length] for text in texts], cache)
        for row, text in enumerate(texts):
            expected = uncached_logits(model, text[:length])
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


def test_a_window_is_nearly_full_and_moves_by_a_quarter() -> None:
    for context_length in (1, 2, 3, 4, 5, 16, 128):
        starts = [window_start(n, context_length) for n in range(1, 6 * context_length)]
        sizes = [n - start for n, start in enumerate(starts, start=1)]
        quarter = max(1, context_length // 4)
        assert max(sizes) == context_length
        assert min(sizes[context_length:]) == context_length - quarter + 1
        assert {b - a for a, b in pairwise(starts)} <= {0, quarter}


def test_most_steps_read_one_token_only() -> None:
    read: list[int] = []

    def counted(tokens: Tensor) -> None:
        read.append(tokens.size(1))

    model = tiny()
    model.embed.register_forward_pre_hook(lambda _, inputs: counted(inputs[0]))
    list(generate(model, [1, 2, 3], 14 + 8, GREEDY))
    assert [n for n in read if n > 1] == [3, 13, 13]  # the prompt, then what a moved window leaves
    assert len(read) == 22


def test_the_memory_of_the_cache_is_what_is_computed() -> None:
    with torch.device("meta"):  # shapes without values
        model = GPT(GPT2_SMALL)
    cache = KeyValueCache(model, 2, 100)
    parts = [*cache.keys, *cache.values]
    measured = sum(part.untyped_storage().nbytes() for part in parts)
    assert cache.nbytes == measured == 2 * 2 * 12 * 768 * 100 * 4
    assert 2 * KeyValueCache(model.bfloat16(), 2, 100).nbytes == cache.nbytes
    assert KeyValueCache(model, 1, 5000).capacity == 1024


def test_a_step_takes_no_new_memory_for_keys_and_values() -> None:
    cache = KeyValueCache(MODEL, 1, 16)
    prefill(MODEL, [[1, 2, 3]], cache)
    before = [part.data_ptr() for part in (*cache.keys, *cache.values)]
    for _ in range(13):
        decode_step(MODEL, torch.tensor([5]), cache)
    assert [part.data_ptr() for part in (*cache.keys, *cache.values)] == before


# Writing


def their_tokens(model: Any, prompt: list[int], n_new: int, **options: Any) -> list[int]:
    """Let transformers write."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=n_new,
        do_sample=False,
        pad_token_id=0,
        **{"eos_token_id": None, **options},
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def until(tokens: list[int], end: int | None) -> list[int]:
    """Leave out the padding after an end token."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


OURS, THEIRS = pair(replace(TINY, context_length=40))
PROMPTS = random_tokens(TINY, 6, 5).tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_that_of_transformers(prompt: list[int]) -> None:
    expected = their_tokens(THEIRS, prompt, 30)
    assert list(generate(OURS, prompt, 30, GREEDY)) == expected
    end = expected[9]
    ours = list(generate(OURS, prompt, 30, GREEDY, end_tokens=[end]))
    assert ours == until(their_tokens(THEIRS, prompt, 30, eos_token_id=end), end)
    assert ours[-1] == end


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_repetition_penalty_is_that_of_transformers(prompt: list[int], penalty: float) -> None:
    expected = their_tokens(THEIRS, prompt, 30, repetition_penalty=penalty)
    sampling = replace(GREEDY, repetition_penalty=penalty)
    assert list(generate(OURS, prompt, 30, sampling)) == expected


@pytest.mark.parametrize("least", [1, 5, 30])
def test_end_tokens_are_forbidden_as_transformers_forbids_them(least: int) -> None:
    for prompt in PROMPTS:
        end = their_tokens(THEIRS, prompt, 1)[0]
        options = {"eos_token_id": end, "min_new_tokens": least}
        ours = list(generate(OURS, prompt, 30, GREEDY, end_tokens=[end], min_new_tokens=least))
        assert ours == until(their_tokens(THEIRS, prompt, 30, **options), end)
        assert len(ours) >= least


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("n_beams", [1, 2, 4, 7])
@pytest.mark.parametrize("ends", [False, True])
def test_beam_search_is_that_of_transformers(
    n_beams: int, length_penalty: float, ends: bool
) -> None:
    for prompt in PROMPTS[:3]:
        end = their_tokens(THEIRS, prompt, 6)[-1] if ends else None
        beams = beam_search(OURS, prompt, n_beams, 12, length_penalty=length_penalty, end_token=end)
        options: dict[str, Any] = {"eos_token_id": end}
        if n_beams > 1:
            options |= {"num_beams": n_beams, "length_penalty": length_penalty}
            options |= {"early_stopping": False}
        assert list(beams[0].tokens) == until(their_tokens(THEIRS, prompt, 12, **options), end)


def test_the_scores_of_all_beams_are_those_of_transformers() -> None:
    prompt, end = PROMPTS[0], their_tokens(THEIRS, PROMPTS[0], 6)[-1]
    output = THEIRS.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 5, dtype=torch.int64),
        max_new_tokens=12, do_sample=False, num_beams=4, num_return_sequences=4,
        pad_token_id=0, eos_token_id=end, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    beams = beam_search(OURS, prompt, 4, 12, end_token=end)
    assert [list(beam.tokens) for beam in beams] == [
        until(row[5:].tolist(), end) for row in output.sequences
    ]
    scores = torch.tensor([beam.score for beam in beams])
    torch.testing.assert_close(scores, output.sequences_scores, rtol=1e-4, atol=1e-5)


def test_a_score_is_the_mean_log_probability_also_beyond_the_context() -> None:
    for beam in beam_search(MODEL, [3, 4, 5], 3, 30):
        losses = token_losses(MODEL, [3, 4, 5, *beam.tokens])[2:]
        assert beam.score == pytest.approx(-float(losses.mean()), rel=1e-4)


def test_enough_beams_find_the_likeliest_text_of_all() -> None:
    model, prompt = tiny(replace(TINY, vocab_size=5)), [1, 2]
    texts = torch.cartesian_prod(*[torch.arange(5)] * 3)
    scores = [-float(token_losses(model, [*prompt, *text.tolist()])[1:].mean()) for text in texts]
    best = texts[max(range(125), key=scores.__getitem__)]
    beams = beam_search(model, prompt, 25, 3)
    assert list(beams[0].tokens) == best.tolist()
    assert beams[0].score == pytest.approx(max(scores), rel=1e-4)
    assert beam_search(model, prompt, 4, 0) == [Beam((), 0.0)]


def test_greedy_text_is_that_of_the_model_without_a_cache() -> None:
    for prompt in ([5], list(range(16))):
        assert list(generate(MODEL, prompt, 50, GREEDY)) == uncached_greedy(MODEL, prompt, 50)


@settings(deadline=None, max_examples=50)
@given(prompts_of_tiny, st.integers(0, 40), st.sets(st.integers(0, 49), max_size=6), st.booleans())
def test_a_batch_writes_what_each_prompt_alone_gets(
    prompts: list[list[int]], n_new: int, ends: set[int], is_greedy: bool
) -> None:
    sampling = Sampling(
        temperature=0 if is_greedy else 0.9, top_k=20, repetition_penalty=1.2, presence_penalty=0.3
    )
    together = texts_of(
        prompts,
        n_new,
        sampling,
        end_tokens=ends,
        min_new_tokens=min(n_new, 2),
        generators=[seeded(row) for row in range(len(prompts))],
    )
    for row, prompt in enumerate(prompts):
        alone = generate(
            MODEL, prompt, n_new, sampling,
            end_tokens=ends, min_new_tokens=min(n_new, 2), generator=seeded(row),
        )  # fmt: skip
        assert together[row] == list(alone)
        assert len(together[row]) == n_new or together[row][-1] in ends


def test_a_seed_gives_the_same_text_and_another_seed_another() -> None:
    first, same, other = (
        list(generate(MODEL, [1], 40, generator=seeded(seed))) for seed in (5, 5, 6)
    )
    assert first == same != other


def test_without_a_generator_the_global_one_decides() -> None:
    torch.manual_seed(3)
    first = list(generate(MODEL, [1], 40))
    torch.manual_seed(3)
    assert list(generate(MODEL, [1], 40)) == first


def test_greedy_takes_nothing_from_the_generator() -> None:
    generator = seeded(5)
    before = generator.get_state()
    list(generate(MODEL, [1], 5, GREEDY, generator=generator))
    assert torch.equal(generator.get_state(), before)


def test_a_callable_is_asked_after_each_token() -> None:
    asked: list[list[int]] = []

    def stop(new_tokens: Sequence[int]) -> bool:
        asked.append(list(new_tokens))
        return len(new_tokens) == 4

    tokens = list(generate(MODEL, [1, 2], 10, GREEDY, stop=stop))
    assert asked == [tokens[:n] for n in (1, 2, 3, 4)]


def test_nothing_more_is_computed_than_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = GPT.unembed

    def counted(self: GPT, x: Tensor) -> Tensor:
        calls.append(1)
        return original(self, x)

    monkeypatch.setattr(GPT, "unembed", counted)
    tokens = generate(MODEL, [1], 10, GREEDY)
    assert not calls
    next(tokens)
    next(tokens)
    assert len(calls) == 2
    tokens.close()
    assert list(tokens) == []


def test_zero_new_tokens_are_none() -> None:
    assert list(generate(MODEL, [1], 0)) == []
    assert list(generate_text(tiny(replace(TINY, vocab_size=257)), BYTES, "a", 0)) == []


@pytest.mark.parametrize("enabled", [True, False])
def test_the_grad_mode_is_the_callers_between_tokens(enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        for _ in generate_batch(MODEL, [[1], [2, 3]], 4):
            assert torch.is_grad_enabled() == enabled
            assert not torch.is_inference_mode_enabled()
            assert (MODEL.ln_f.weight * 2).requires_grad == enabled
        beam_search(MODEL, [1], 2, 3)
        assert torch.is_grad_enabled() == enabled
    logits = prefill(MODEL, [[1]], KeyValueCache(MODEL, 1, 4))
    logits[0, 0] = 1.0  # an ordinary tensor: it may be changed
    assert not logits.requires_grad


def test_the_losses_are_those_that_generate_saw() -> None:
    text = random_tokens(TINY, 1, 60)[0].tolist()
    losses = token_losses(MODEL, text)
    for place in range(1, 60):
        expected = -uncached_logits(MODEL, text[:place]).log_softmax(-1)[text[place]]
        torch.testing.assert_close(losses[place - 1], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(token_losses(MODEL, torch.tensor(text)), losses)


# Text


class Slowly:
    """Hand over tokens, and note how many were asked for."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens, self.n_taken = tokens, 0

    def __iter__(self) -> Iterator[int]:
        for token in self.tokens:
            self.n_taken += 1
            yield token


@given(st.text(max_size=20))
def test_streaming_shows_whole_characters_as_soon_as_they_are_there(text: str) -> None:
    shown, tokens = "", Slowly(BYTES.encode(text))
    for piece in stream_text(tokens, BYTES):
        shown += piece
        assert len(shown.encode()) == tokens.n_taken
        assert text.startswith(shown)
    assert shown == text


@given(st.lists(st.integers(0, 255), max_size=30))
def test_bytes_that_are_no_characters_become_what_decode_makes_of_them(tokens: list[int]) -> None:
    assert "".join(stream_text(tokens, BYTES)) == BYTES.decode(tokens)


def shown_by_character(text: str, stop: list[str]) -> str:
    """Stop where the first stop string is complete; of two that end there, leave out the longer."""
    for end in range(1, len(text) + 1):
        found = [word for word in stop if text[:end].endswith(word)]
        if found:
            return text[: end - max(map(len, found))]
    return text


@given(
    st.lists(st.text("abé", min_size=1, max_size=4), max_size=8),
    st.lists(st.text("abé", min_size=1, max_size=3), max_size=3),
)
def test_a_stop_string_ends_the_text_wherever_tokens_are_cut(
    pieces: list[str], stop: list[str]
) -> None:
    tokenizer = BPETokenizer.train("abé aébb béa " * 3, 265)
    text = "".join(pieces)
    for tokens in (
        [token for piece in pieces for token in tokenizer.encode(piece)],
        BYTES.encode(text),
    ):
        ends = end_of_text(tokenizer)
        shown, taken = "", Slowly([*tokens, *ends])
        for piece in stream_text(taken, tokenizer, stop, ends):
            assert piece
            shown += piece
            assert shown_by_character(text, stop).startswith(shown)
        assert shown == shown_by_character(text, stop)
        is_stopped = any(word in text for word in stop)
        assert taken.n_taken <= len(tokens) + (not is_stopped)  # nothing is read after a stop


def byte_model(script: list[int]) -> GPT:
    """Make a model that writes a script: position t has the one logit that counts."""
    config = GPTConfig(vocab_size=257, context_length=64, n_layer=1, n_head=1, n_embd=320)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.ln_f.weight.fill_(1)
        for position, token in enumerate(script):
            model.embed.position_embedding.weight[position, token] = 100
        model.embed.token_embedding.weight[:, :257] = torch.eye(257)
    return model


@pytest.mark.parametrize(
    ("written", "stop", "expected"),
    [
        ("Natásha smiled.", [], "Natásha smiled."),
        ("Natásha smiled.", [" sm", "x"], "Natásha"),
        ("Natásha smiled.", ["Natásha"], ""),
        ("日本 END", ["END"], "日本 "),
    ],
)
def test_text_is_streamed_up_to_a_stop_string(written: str, stop: list[str], expected: str) -> None:
    tokens = BYTES.encode(written)
    model = byte_model([*tokens, 256])
    pieces = list(generate_text(model, BYTES, "x", 50, GREEDY, stop=stop))
    assert "".join(pieces) == expected
    assert "" not in pieces
    assert "\ufffd" not in "".join(pieces)


def test_the_end_token_is_not_shown_and_half_a_character_at_the_end_is_marked() -> None:
    model = byte_model([*BYTES.encode("é"), *BYTES.encode("日")[:2], 256])
    assert "".join(generate_text(model, BYTES, "x", 50, GREEDY)) == "é\ufffd"
    assert "".join(generate_text(model, BYTES, "x", 1, GREEDY)) == "\ufffd"


def test_tiktoken_writes_as_our_tokenizer_does() -> None:
    config = replace(TINY, vocab_size=50_257)
    model, pieces = tiny(config), []
    for tokenizer in (gpt2_encoding(), gpt2_encoding()):
        stream = generate_text(model, tokenizer, "War and", 30, generator=seeded(1))
        pieces.append("".join(stream))
    expected = gpt2_encoding().decode(
        list(generate(model, [13195, 290], 30, generator=seeded(1), end_tokens=[50256]))
    )
    assert pieces == [expected, expected]
    assert end_of_text(gpt2_encoding()) == {50256}
    assert end_of_text(BPETokenizer([], special=())) == frozenset()


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, r"temperature is -0.1; it must be at least 0"),
        ({"temperature": math.nan}, r"temperature is nan; it must be at least 0"),
        ({"temperature": math.inf}, r"temperature is inf; it must be at least 0"),
        ({"top_k": 0}, r"top_k is 0; it must be at least 1, or None"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.1}, r"top_p is 1.1; it must be above 0 and at most 1"),
        ({"min_p": -0.1}, r"min_p is -0.1; it must be from 0 to 1"),
        ({"min_p": 1.5}, r"min_p is 1.5; it must be from 0 to 1"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty is 0.0; it must be from 1e-30"),
        ({"repetition_penalty": -1.0}, r"repetition_penalty is -1.0; it must be from 1e-30"),
        ({"frequency_penalty": math.inf}, r"frequency_penalty is inf; it must be from -1e30"),
        ({"presence_penalty": math.nan}, r"presence_penalty is nan; it must be from -1e30"),
    ],
)
def test_a_knob_turned_too_far_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)
    assert asdict(Sampling()).keys() >= options.keys()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate(MODEL, [], 5), r"prompt 0 has 0 tokens; pass 1"),
        (lambda: generate_batch(MODEL, [[1], []], 5), r"prompt 1 has 0 tokens"),
        (lambda: generate_batch(MODEL, [], 5), r"there are 0 prompts; pass at least 1"),
        (lambda: generate(MODEL, [1] * 17, 5), r"prompt 0 has 17 tokens; .* to 16"),
        (lambda: generate(MODEL, [1, 50], 5), r"token id 50 is outside 0..49, the model's ids"),
        (lambda: generate(MODEL, [-1], 5), r"token id -1 is outside 0..49"),
        (lambda: generate(MODEL, [1], 5, end_tokens=[99]), r"token id 99 is outside 0..49"),
        (lambda: generate(MODEL, [1], -1), r"max_new_tokens is -1; it must be at least 0"),
        (
            lambda: generate(MODEL, [1], 5, min_new_tokens=6),
            r"min_new_tokens is 6; choose from 0 to 5",
        ),
        (lambda: generate(MODEL, [1], 5, min_new_tokens=-1), r"min_new_tokens is -1"),
        (
            lambda: generate_batch(MODEL, [[1], [2]], 5, generators=[seeded()]),
            r"1 generators for 2 prompts; pass one for each",
        ),
        (lambda: generate(GPT(TINY), [1], 5), r"in training mode.*call model.eval\(\) first"),
        (lambda: beam_search(GPT(TINY), [1], 2, 5), r"in training mode"),
        (lambda: token_losses(GPT(TINY), [1, 2]), r"in training mode"),
        (lambda: beam_search(MODEL, [1], 0, 5), r"n_beams 0 must be at least 1"),
        (lambda: beam_search(MODEL, [1], 2, -5), r"max_new_tokens is -5"),
        (lambda: beam_search(MODEL, [], 2, 5), r"prompt 0 has 0 tokens"),
        (lambda: beam_search(MODEL, [1], 2, 5, end_token=50), r"token id 50 is outside"),
        (
            lambda: beam_search(MODEL, [1], 2, 5, length_penalty=math.nan),
            r"length_penalty=nan finite",
        ),
        (lambda: token_losses(MODEL, [1]), r"1 tokens give no window of 1"),
        (lambda: token_losses(MODEL, [1, 50]), r"token id 50 is outside 0..49"),
        (
            lambda: extend(MODEL, torch.zeros(1, 5, dtype=torch.int64), KeyValueCache(MODEL, 1, 4)),
            r"5 new tokens don't fit into 4 slots; make the cache larger",
        ),
        (
            lambda: generate_text(SPEAKER, BYTES, "a", stop="END"),
            r"stop is 'END'; pass a list of strings",
        ),
        (
            lambda: generate_text(SPEAKER, BYTES, "a", stop=["a", ""]),
            r"stop is \['a', ''\]; pass a list",
        ),
        (
            lambda: generate_text(MODEL, BYTES, "a"),
            r"the tokenizer has 257 tokens and the model 50; pass the tokenizer",
        ),
        (
            lambda: generate_text(MODEL, gpt2_encoding(), "a"),
            r"the tokenizer has 50257 tokens and the model 50",
        ),
    ],
)
def test_bad_input_is_refused_at_the_call(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt 0 has 0 tokens"):
        generate_text(SPEAKER, BYTES, "")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [Sampling(), GREEDY, Sampling(top_k=3, top_p=0.5)])
def test_logits_that_are_no_numbers_are_an_error(bad: float, sampling: Sampling) -> None:
    model = tiny()
    with torch.no_grad():
        model.embed.token_embedding.weight[7] = bad
    message = r"the logits after 2 tokens, the last of them 4, are not all finite"
    with pytest.raises(FloatingPointError, match=message):
        list(generate(model, [3, 4], 5, sampling))
    with pytest.raises(FloatingPointError, match=message):
        beam_search(model, [3, 4], 2, 5)


def test_end_tokens_may_be_a_tensor() -> None:
    ends = torch.arange(TINY.vocab_size)
    assert len(list(generate(MODEL, [1], 50, end_tokens=ends))) == 1


def test_it_writes_under_autocast_too() -> None:
    wide = GPT(replace(TINY, n_embd=512), seeded()).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert len(list(generate(wide, [1, 2], 4))) == 4
