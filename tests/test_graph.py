"""The step that writes on a CUDA card, run on the CPU: all but the capture is the same code."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from test_gpt2 import TINY, perturbed, seeded

from gptlib.extras.fast.graph import N_KEPT, AlignedLinear, GraphWriter, numbers_ahead, sorted_top_p
from gptlib.generation import Sampling, beam_search, generate, generate_batch, keep_top_p
from gptlib.gpt2 import GPT

MODEL = cast(GPT, perturbed(GPT(replace(TINY, n_embd=64), seeded()))).eval()
LENGTH = TINY.context_length
GREEDY = Sampling(temperature=0)
MANY = Sampling(
    temperature=0.8,
    top_p=0.9,
    top_k=9,
    repetition_penalty=1.2,
    frequency_penalty=0.1,
    presence_penalty=0.1,
)


@pytest.fixture(scope="module")
def step() -> GraphWriter:
    return GraphWriter(MODEL)


def write(step: GraphWriter | None, prompts: list[list[int]], n: int, **more: Any) -> list[Any]:
    sources = [seeded() for _ in prompts]
    for number, source in enumerate(sources):
        source.manual_seed(number)
    return list(generate_batch(MODEL, prompts, n, generators=sources, step=step, **more))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), MANY], ids=["greedy", "all", "many"])
@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[1], [2, 3, 4], [5, 6]]], ids=["one", "three"])
@pytest.mark.parametrize("n_new", [0, 1, 5, 3 * LENGTH])
def test_a_seed_gives_the_text_of_the_plain_way(
    step: GraphWriter, sampling: Sampling, prompts: list[list[int]], n_new: int
) -> None:
    for more in ({}, {"end_tokens": [1, 2, 3, 4], "min_new_tokens": min(4, n_new)}):
        options: dict[str, Any] = {"sampling": sampling, **more}
        assert write(step, prompts, n_new, **options) == write(None, prompts, n_new, **options)


def test_a_generator_is_left_where_the_plain_way_leaves_it(step: GraphWriter) -> None:
    texts = []
    for one in (step, None):
        source = seeded()
        first = list(generate(MODEL, [1], 9, generator=source, end_tokens=[2, 3, 5], step=one))
        texts.append([first, list(generate(MODEL, [1], 9, generator=source, step=one))])
    assert texts[0] == texts[1]


def test_the_global_generator_serves_a_text_without_one(step: GraphWriter) -> None:
    texts = []
    for one in (step, None):
        torch.manual_seed(3)
        texts.append([list(generate(MODEL, [1], 9, step=one)), torch.rand(()).item()])
    assert texts[0] == texts[1]


def test_stop_is_asked_after_each_token(step: GraphWriter) -> None:
    options: dict[str, Any] = {"stop": lambda new: len(new) >= 3 or new[-1] == 7}
    assert write(step, [[1], [2]], 9, **options) == write(None, [[1], [2]], 9, **options)


def test_two_texts_that_are_written_in_turn_do_not_meet(step: GraphWriter) -> None:
    both = [generate(MODEL, [n], 9, GREEDY, step=step) for n in (1, 2)]
    pairs = list(zip(*both, strict=True))
    for n, column in zip((1, 2), zip(*pairs, strict=True), strict=True):
        assert list(column) == list(generate(MODEL, [n], 9, GREEDY))


def test_a_step_that_is_used_again_knows_nothing_of_the_text_before(step: GraphWriter) -> None:
    top = Sampling(top_k=3)
    options: dict[str, Any] = {"sampling": top, "min_new_tokens": 5, "end_tokens": [8]}
    expected = write(None, [[1, 2]], 40, **options)
    others = [token for (token,) in expected[:4] if token != 8]
    left = generate(MODEL, [1], 9, top, min_new_tokens=5, end_tokens=others, step=step)
    next(left)
    left.close()  # before the end tokens were let in
    assert write(step, [[1, 2]], 40, **options) == expected


def test_searches_go_the_plain_way(step: GraphWriter) -> None:
    assert beam_search(MODEL, [1, 2], 3, 6, step=step) == beam_search(MODEL, [1, 2], 3, 6)


def test_it_follows_its_model_and_names_logits_that_are_no_numbers(step: GraphWriter) -> None:
    with torch.no_grad():
        MODEL.ln_f.weight.neg_()
        try:
            after = list(generate(MODEL, [1], 9, GREEDY, step=step))
            assert after == list(generate(MODEL, [1], 9, GREEDY))
        finally:
            MODEL.ln_f.weight.neg_()
    broken = GPT(TINY, seeded()).eval()
    with torch.no_grad():
        broken.ln_f.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the logits after 2 tokens, the last of them 1"):
        list(generate(broken, [3, 1], 4, step=GraphWriter(broken)))


def test_few_captured_steps_are_kept_and_used_again() -> None:
    step = GraphWriter(MODEL)
    for k in (*range(1, 8), 7, 6):
        list(generate(MODEL, [1], 3, Sampling(top_k=k), step=step))
    kept = list(step._rooms)
    assert [key[2].top_k for key in kept] == [4, 5, 7, 6]
    assert len(kept) == N_KEPT


def test_numbers_are_drawn_ahead_and_not_taken() -> None:
    first, second = seeded(), torch.Generator().manual_seed(5)
    ahead = numbers_ahead([first, second, first], 20)
    drawn = [[torch.rand((), generator=one) for one in (first, second, first)] for _ in range(20)]
    assert torch.equal(ahead, torch.tensor(drawn))


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8, 0.95])
def test_the_sorted_filter_keeps_what_chapter_6_keeps(p: float) -> None:
    logits = 3 * torch.randn(4, 3000, generator=seeded())
    assert torch.equal(sorted_top_p(logits, p), keep_top_p(logits, p))
    cut = torch.tensor([[0.3, 0.1, 0.1, 0.5]]).log()
    assert sorted_top_p(cut, 0.8).isfinite().tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("width", [3, 64, 130])
def test_a_layer_in_two_parts_maps_as_one(width: int) -> None:
    plain = torch.nn.Linear(8, width, bias=False)
    parted = AlignedLinear(8, width, bias=False)
    parted.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(parted(x), plain(x))
