"""The widget of chapter 6, without a browser: it writes, stops, goes back and loses nothing."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from matplotlib import pyplot as plt

from gptlib.extras.widgets.generation import SamplingPlayground
from gptlib.extras.widgets.generation_writer import Writer, percent, spell
from gptlib.generation import Sampling, beam_search, generate_text, knob
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer

TOKENIZER = BPETokenizer.train("so it was and so it is, and it was so. " * 3, 266)
CONFIG = GPTConfig(
    vocab_size=TOKENIZER.vocab_size, context_length=32, n_layer=2, n_head=2, n_embd=16
)
NAMES = ["model", "repetition", "frequency", "presence", "temperature", "top-k", "top-p", "min-p"]
FILTERED = Sampling(temperature=0.9, top_k=20, top_p=0.8, min_p=0.01, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def model() -> GPT:
    """Give a model whose distributions are neither flat nor certain."""
    model = GPT(CONFIG, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.ln_f.weight.mul_(12)
    return model


@pytest.fixture
def playground(model: GPT) -> Iterator[SamplingPlayground]:
    playground = SamplingPlayground(model, TOKENIZER, "so it", FILTERED, seed=3, n_tokens=4)
    playground.pace.value = 1000
    yield playground
    playground.close()


def written_by_the_library(
    model: GPT, n: int, sampling: Sampling, seed: int, prompt: str = "so it"
) -> str:
    generator = torch.Generator().manual_seed(seed)
    return "".join(generate_text(model, TOKENIZER, prompt, n, sampling, generator=generator))


def alternatives(playground: SamplingPlayground, column: int = 0) -> list[int]:
    return [row["token"] for row in playground.view.panels[column]["rows"]]


def hear(playground: SamplingPlayground, **message: Any) -> None:
    """Send what the browser sends at a click."""
    playground.view._handle_custom_msg(message, [])


def test_an_example_is_there_at_once_and_can_be_read(playground: SamplingPlayground) -> None:
    assert len(playground.tokens) == 4
    assert playground.text == TOKENIZER.decode(playground.tokens)
    assert "4 tokens, perplexity" in playground.summary
    assert "Next token: entropy" in playground.summary
    assert f"of {CONFIG.vocab_size} tokens left; likeliest" in playground.summary
    assert repr(playground) == (
        "SamplingPlayground: write token by token, see what each setting does to the bars"
    )
    assert playground.stop.disabled
    assert not playground.run.disabled


@pytest.mark.parametrize("sampling", [Sampling(), FILTERED, Sampling(temperature=0)])
@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_writes_what_generate_text_writes_beyond_the_context_too(
    model: GPT, sampling: Sampling, seed: int
) -> None:
    playground = SamplingPlayground(model, TOKENIZER, "so it", sampling, seed, n_tokens=60)
    n = len(playground.tokens)
    assert n == 60 or playground.tokens[-1] in playground.end_tokens
    tokens = [token for token in playground.tokens if token not in playground.end_tokens]
    assert TOKENIZER.decode(tokens) == written_by_the_library(model, n, sampling, seed)


def test_steps_and_a_run_write_the_same_as_one_call(
    model: GPT, playground: SamplingPlayground
) -> None:
    playground.step.click()
    playground.count.value = 10
    playground.run.click()
    assert playground.wait(60)
    assert len(playground.tokens) == 15
    assert playground.state == "ready"
    assert playground.text == written_by_the_library(model, 15, FILTERED, 3)
    assert playground.summary.startswith("Wrote 10 tokens of 10. 15 tokens, perplexity")


def test_the_probabilities_are_the_models(model: GPT, playground: SamplingPlayground) -> None:
    tokens = [*TOKENIZER.encode("so it"), *playground.tokens]
    with torch.no_grad():
        chances = model(torch.tensor([tokens]))[0].softmax(-1)
    for place, written in enumerate(playground.written, start=len(tokens) - 4):
        p = chances[place - 1]
        assert written.probability == pytest.approx(float(p[written.token]), rel=1e-4)
        assert written.entropy == pytest.approx(float(torch.special.entr(p).sum()), rel=1e-4)
        assert written.kept > written.probability > 0
        assert written.kept_entropy < written.entropy


def test_the_cache_gives_what_the_whole_text_gives_wherever_one_looks(model: GPT) -> None:
    writer = Writer(model, TOKENIZER.encode("so it was and"))
    for number in range(20):
        writer.step(Sampling(), (number * 0.37) % 1)
    for place in (20, 3, 9, 0, 20, 19):
        whole = torch.tensor([writer.tokens[: len(writer.prompt) + place]])
        with torch.no_grad():
            expected = model(whole)[0, -1]
        torch.testing.assert_close(writer.logits(place), expected, atol=1e-4, rtol=1e-4)
    writer.cut(5)
    with torch.no_grad():
        expected = model(torch.tensor([writer.tokens]))[0, -1]
    torch.testing.assert_close(writer.logits(5), expected, atol=1e-4, rtol=1e-4)


def test_the_bars_show_what_each_filter_cuts_and_how_the_rest_grows(
    playground: SamplingPlayground,
) -> None:
    panel = playground.view.panels[0]
    names = [stage["name"] for stage in panel["stages"]]
    assert names == NAMES
    assert [stage["active"] for stage in panel["stages"]] == [True, True, False, False] + [True] * 4
    left = [stage["left"] for stage in panel["stages"]]
    assert left[:6] == [CONFIG.vocab_size] * 5 + [20]
    assert 20 > left[6] >= left[7] >= 1
    for number, stage in enumerate(panel["stages"]):
        shown = sum(row["values"][number][1] for row in panel["rows"])
        assert shown + stage["rest"] == pytest.approx(1, abs=1e-3)
        for row in panel["rows"]:
            logit, p = row["values"][number]
            assert (logit is None) == (p == 0 and number > 4)
            if number > 5 and logit is not None:
                assert p >= row["values"][number - 1][1]  # what is left shares what was cut
    assert len(panel["rows"]) == 12


def test_settings_that_are_off_are_said_to_be_off(playground: SamplingPlayground) -> None:
    playground.first.top_k.value = 0
    playground.first.min_p.value = 0.0
    stages = {stage["name"]: stage for stage in playground.view.panels[0]["stages"]}
    assert (stages["top-k"]["active"], stages["top-k"]["note"]) == (False, "off")
    assert not stages["min-p"]["active"]
    assert (stages["top-p"]["note"], stages["top-p"]["cuts"]) == ("0.8", True)


def test_a_moved_knob_moves_the_bars_at_once_and_keeps_the_text(
    playground: SamplingPlayground,
) -> None:
    before, text = playground.view.panels[0]["rows"], playground.text
    playground.first.temperature.value = 2.0
    after = playground.view.panels[0]["rows"]
    assert after[0]["values"][0] == before[0]["values"][0]
    assert after[0]["values"][4][1] < before[0]["values"][4][1]
    assert playground.text == text


def test_greedy_takes_the_best_and_the_bars_say_so(
    model: GPT, playground: SamplingPlayground
) -> None:
    playground.restart.click()
    playground.first.strategy.value = "greedy"
    assert playground.first.temperature.disabled
    assert not playground.first.repetition_penalty.disabled
    playground.first.repetition_penalty.value = 1.0
    assert playground.view.panels[0]["stages"][-1]["left"] == 1
    for _ in range(5):
        playground.step.click()
    assert playground.text == written_by_the_library(model, 5, Sampling(temperature=0), 0)


def test_an_alternative_is_written_and_the_text_goes_on_from_it(
    playground: SamplingPlayground,
) -> None:
    token = alternatives(playground)[3]
    hear(playground, do="choose", panel=0, token=token, place=4)
    assert playground.tokens[-1] == token
    assert playground.written[-1].how == "by hand"
    assert playground.summary.startswith(f"You wrote “{spell(TOKENIZER.token_bytes(token))}”.")
    assert playground.view.panels[0]["tokens"][-1][-1] is True
    playground.step.click()
    assert len(playground.tokens) == 6


def test_an_alternative_at_an_earlier_place_replaces_what_stood_there(
    playground: SamplingPlayground,
) -> None:
    before = playground.tokens
    hear(playground, do="look", panel=0, place=1)
    assert playground.view.panels[0]["place"] == 1
    assert playground.view.panels[0]["heading"].startswith("Token 2, “")
    assert "At the marked place" in playground.summary
    marked = [row["token"] for row in playground.view.panels[0]["rows"] if row["written"]]
    assert marked == [before[1]]
    token = next(token for token in alternatives(playground) if token != before[1])
    hear(playground, do="choose", panel=0, token=token, place=1)
    assert playground.tokens == [before[0], token]
    assert playground.view.panels[0]["place"] == 2
    playground.undo.click()
    assert playground.tokens == before


def test_looking_past_the_end_looks_at_the_next_token(playground: SamplingPlayground) -> None:
    playground.look(2)
    playground.look(4)
    assert playground.view.panels[0]["place"] == 4
    assert playground.view.panels[0]["heading"] == "The next token, number 5"


def test_stop_acts_within_one_token(model: GPT, playground: SamplingPlayground) -> None:
    playground.count.value, playground.pace.value = 10_000, 50
    playground.run.click()
    while len(playground.tokens) < 8:
        time.sleep(0.005)
    assert playground.state == "writing"
    assert playground.run.disabled
    assert not playground.stop.disabled
    playground.stop.click()
    n = len(playground.tokens)
    assert playground.wait(60)
    assert len(playground.tokens) - n <= 1
    assert playground.state == "stopped"
    assert playground.summary.startswith("Stopped. Wrote ")
    assert playground.text == written_by_the_library(model, len(playground.tokens), FILTERED, 3)
    assert playground.stop.disabled


def test_a_run_leaves_the_caller_free_and_takes_new_settings_at_the_next_token(
    playground: SamplingPlayground,
) -> None:
    playground.count.value, playground.pace.value = 10_000, 100
    playground.run.click()
    playground.first.top_k.value = 1
    n = len(playground.tokens)
    while len(playground.tokens) < n + 4:
        time.sleep(0.005)
    playground.stop.click()
    playground.wait()
    assert playground.written[-1].kept == 1
    assert playground.view.panels[0]["stages"][5]["note"] == "1"


def test_choosing_while_it_writes_stops_it_first(playground: SamplingPlayground) -> None:
    playground.count.value, playground.pace.value = 10_000, 100
    playground.run.click()
    playground.choose(5)
    assert playground.wait(0)
    assert playground.tokens[-1] == 5


def test_settings_that_turn_bad_while_it_writes_end_it_with_their_error(
    playground: SamplingPlayground,
) -> None:
    playground.count.value, playground.pace.value = 10_000, 100
    playground.run.click()
    playground.first.top_p.value = 0.0
    assert playground.wait(60)
    assert playground.summary.startswith("Not possible: top_p is 0.0; it must be above 0")
    assert len(playground.tokens) >= 4


def test_undo_goes_back_to_the_prompt_a_token_at_a_time(playground: SamplingPlayground) -> None:
    playground.count.value = 5
    playground.run.click()
    playground.wait()
    before = playground.tokens
    for n in reversed(range(9)):
        playground.undo.click()
        assert playground.tokens == before[:n]
    assert playground.undo.disabled
    assert playground.summary.startswith("Undone. No tokens yet. Next token")
    playground.step.click()
    assert playground.tokens == before[:1]  # the seed's sequence is tied to the place


def test_back_to_the_prompt_can_be_undone(playground: SamplingPlayground) -> None:
    before = playground.tokens
    playground.restart.click()
    assert playground.tokens == []
    playground.undo.click()
    assert playground.tokens == before


def test_a_new_prompt_begins_anew_and_undo_brings_the_old_one_back(
    model: GPT, playground: SamplingPlayground
) -> None:
    before = playground.text
    playground.prompt.value = "and"
    assert playground.tokens == []
    for _ in range(3):
        playground.step.click()
    assert playground.text == written_by_the_library(model, 3, FILTERED, 3, "and")
    for _ in range(4):
        playground.undo.click()
    assert playground.prompt.value == "so it"
    assert playground.text == before


@pytest.mark.parametrize("prompt", ["", "so it is " * 100])
def test_a_prompt_that_can_not_be_gone_on_from_is_refused_and_nothing_lost(
    playground: SamplingPlayground, prompt: str
) -> None:
    before = playground.text
    playground.prompt.value = prompt
    assert playground.summary.startswith("Not possible: prompt")
    assert playground.view.problem
    assert playground.text == before
    playground.step.click()
    assert playground.text.startswith(before)
    assert not playground.view.problem


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("top_p", 0.0, "top_p is 0.0; it must be above 0"),
        ("top_k", -1, "top_k is -1; it must be at least 1"),
        ("repetition_penalty", 0.0, "repetition_penalty is 0.0; it must be from 1e-30"),
    ],
)
def test_bad_settings_show_the_librarys_error_and_lose_nothing(
    playground: SamplingPlayground, knob: str, value: float, message: str
) -> None:
    before = playground.text
    good = getattr(playground.first, knob).value
    getattr(playground.first, knob).value = value
    for button in (playground.step, playground.run):
        button.click()
        playground.wait()
        assert f"Not possible: {message}" in playground.summary
        assert playground.text == before
    playground.undo.click()  # also the text that is taken back is shown
    assert len(playground.view.panels[0]["tokens"]) == 3
    getattr(playground.first, knob).value = good
    assert "Not possible" not in playground.summary
    playground.step.click()
    assert playground.text == before


def test_beam_search_grows_by_a_token_and_is_the_librarys(
    model: GPT, playground: SamplingPlayground
) -> None:
    playground.restart.click()
    playground.first.strategy.value = "beam search"
    playground.first.n_beams.value = 3
    assert playground.first.temperature.disabled
    assert not playground.first.n_beams.disabled
    for _ in range(5):
        playground.step.click()
    end = next(iter(playground.end_tokens))
    prompt = TOKENIZER.encode("so it")
    beams = beam_search(model, prompt, 3, 5, end_token=end)
    assert tuple(playground.tokens) == beams[0].tokens
    shown = playground.view.panels[0]["beams"]
    assert [score for _, score in shown] == [pytest.approx(b.score, abs=1e-3) for b in beams]
    hear(playground, do="beam", panel=0, beam=1)
    assert tuple(playground.tokens) == beams[1].tokens
    assert playground.summary.startswith("Beam 2 is the text now.")
    playground.step.click()
    again = beam_search(model, [*prompt, *beams[1].tokens], 3, 1, end_token=end)
    assert tuple(playground.tokens) == beams[1].tokens + again[0].tokens
    for _ in range(3):
        playground.undo.click()
    assert tuple(playground.tokens) == beam_search(model, prompt, 3, 4, end_token=end)[0].tokens


def test_two_settings_write_from_one_prompt_and_seed(model: GPT) -> None:
    playground = SamplingPlayground(
        model, TOKENIZER, "so it", FILTERED, 3, compare=Sampling(temperature=1.5), n_tokens=6
    )
    playground.step.click()
    first, second = playground.texts
    assert first == written_by_the_library(model, 7, FILTERED, 3)
    assert second == written_by_the_library(model, 7, Sampling(temperature=1.5), 3)
    assert [panel["title"][:9] for panel in playground.view.panels] == ["A: sample", "B: sample"]
    assert "A: 7 tokens" in playground.summary
    assert "B: 7 tokens" in playground.summary
    token = alternatives(playground, 1)[2]
    hear(playground, do="choose", panel=1, token=token, place=7)
    assert playground.texts[0] == first
    assert playground.texts[1] == second + TOKENIZER.decode([token])
    playground.undo.click()
    assert playground.texts == [first, second]
    playground.second.top_p.value = 0.0
    assert playground.summary.startswith("Not possible: B: top_p is 0.0")
    assert playground.texts == [first, second]


def test_compare_lets_the_second_column_catch_up(
    model: GPT, playground: SamplingPlayground
) -> None:
    text = playground.text
    playground.compare.value = True
    assert playground.wait(60)
    assert playground.texts == [text, written_by_the_library(model, 4, Sampling(), 3)]
    assert playground.second.layout.display is None
    playground.compare.value = False
    assert playground.texts == [text]
    assert playground.second.layout.display == "none"
    playground.choose(5, column=1)
    assert playground.summary.startswith("Not possible: column 1 is not shown")


def test_a_text_that_has_ended_says_so_and_can_go_on_with_a_choice(
    playground: SamplingPlayground,
) -> None:
    end = next(iter(playground.end_tokens))
    playground.choose(end)
    playground.step.click()
    assert playground.summary.startswith("Not possible: the text has ended; press Undo or choose")
    playground.run.click()
    playground.wait()
    assert playground.summary.startswith("The text has ended.")
    assert playground.tokens[-1] == end
    playground.choose(alternatives(playground)[0], place=4)
    assert playground.tokens[-1] != end
    playground.step.click()
    assert len(playground.tokens) == 6


def test_a_choice_that_is_none_is_refused(playground: SamplingPlayground) -> None:
    before = playground.tokens
    for token, place in ((10**6, None), (-1, None), (5, 99)):
        playground.choose(token, place)
        assert playground.summary.startswith("Not possible: ")
    playground.choose_beam(0)
    assert playground.summary == "Not possible: there is no beam 0; press Step to search"
    assert playground.tokens == before


def test_weights_that_are_not_finite_end_a_run_with_words(model: GPT) -> None:
    broken = GPT(CONFIG, torch.Generator().manual_seed(0)).eval()
    playground = SamplingPlayground(broken, TOKENIZER, "so it", n_tokens=2)
    with torch.no_grad():
        broken.ln_f.weight.fill_(float("nan"))
    playground.step.click()
    assert "are not all finite;" in playground.summary
    playground.run.click()
    assert playground.wait(60)
    assert "are not all finite;" in playground.summary
    assert len(playground.tokens) in (2, 3)  # one distribution was known already


@pytest.mark.parametrize(
    ("prompt", "training", "message"),
    [("", False, "prompt 0 has 0 tokens"), ("so", True, "training mode")],
)
def test_what_the_library_refuses_is_refused_at_once(
    prompt: str, training: bool, message: str
) -> None:
    model = GPT(CONFIG, torch.Generator().manual_seed(0)).train(training)
    with pytest.raises(ValueError, match=message):
        SamplingPlayground(model, TOKENIZER, prompt)


def test_a_tokenizer_of_another_size_is_refused(model: GPT) -> None:
    with pytest.raises(ValueError, match="the tokenizer has 257 tokens and the model 266"):
        SamplingPlayground(model, BPETokenizer([]), "so it")


def test_characters_cut_between_tokens_are_shown_whole_in_the_text(model: GPT) -> None:
    bytes_only = BPETokenizer([])
    small = GPT(
        GPTConfig(vocab_size=257, context_length=16, n_layer=1, n_head=1, n_embd=8),
        torch.Generator().manual_seed(0),
    ).eval()
    playground = SamplingPlayground(small, bytes_only, "so", n_tokens=0)
    for token in bytes_only.encode("é\n \x01"):
        playground.choose(token)
    shown = [(token[0], token[1]) for token in playground.view.panels[0]["tokens"]]
    assert shown == [("⋯", "<C3>"), ("é", "<A9>"), ("⏎\n", "⏎"), (" ", "·"), ("␁", "<01>")]
    assert playground.text == "é\n \x01"


def test_every_token_says_its_probability_and_entropy_in_words(
    playground: SamplingPlayground,
) -> None:
    for shown, name, p, said, by_hand in playground.view.panels[0]["tokens"]:
        assert said.startswith(f"“{name}”: the model gave it {percent(p)}")
        assert "nats; drawn" in said
        assert shown
        assert by_hand is False
    assert "Entropy along the text, in nats" in playground.view.panels[0]["entropySaid"]
    assert len(playground.view.panels[0]["entropy"]) == 5


def test_percentages_are_spelled_by_size() -> None:
    assert [percent(p) for p in (1.0, 0.123, 0.0123, 0.0001, 0.0)] == [
        "100 %",
        "12 %",
        "1.2 %",
        "<0.1 %",
        "0 %",
    ]


def test_the_picture_shows_stages_text_and_entropy(playground: SamplingPlayground) -> None:
    titles = [ax.get_title(loc="left") for ax in playground.picture().axes]
    names = [title.partition("\n")[0] for title in titles[:6]]
    assert names == ["model", "repetition", "temperature", "top-k", "top-p", "min-p"]
    assert titles[6].startswith("The text; the darker, the less probable")
    playground.compare.value = True
    playground.wait()
    assert len(playground.picture().axes) == 8 + 5  # the second has one stage, in a row of three
    plt.close("all")


def test_nothing_is_left_running(playground: SamplingPlayground) -> None:
    playground.count.value = 10_000
    playground.run.click()
    playground.close()
    assert playground.wait(0)


def test_an_error_in_one_column_leaves_both_as_they_were(model: GPT) -> None:
    playground = SamplingPlayground(model, TOKENIZER, "so it", compare=Sampling(), n_tokens=3)
    before = playground.texts
    playground.second.top_k.value = -1
    playground.step.click()
    playground.choose(5, place=1, column=1)
    assert playground.summary.startswith("Not possible: ")
    assert playground.texts == before
    assert len(playground.view.panels[1]["tokens"]) == 3


def keep_even(logits: torch.Tensor, rest: float) -> torch.Tensor:
    """Cut tokens with an odd id."""
    return logits.masked_fill(torch.arange(logits.size(-1)) % 2 >= rest, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class Even(Sampling):
    """A filter of one function and one field, behind all others."""

    odd_penalty: float = knob(2.0, keep_even, "1 or 2", lambda n: n in (1, 2))


def test_a_new_filter_gets_a_control_and_a_bar(model: GPT) -> None:
    sampling = Even(temperature=1.2, odd_penalty=1)
    playground = SamplingPlayground(model, TOKENIZER, "so it", sampling, n_tokens=8)
    assert all(token % 2 == 0 for token in playground.tokens)
    assert playground.text == written_by_the_library(model, 8, sampling, 0)
    last = playground.view.panels[0]["stages"][-1]
    assert (last["name"], last["note"], last["left"]) == ("odd", "1", CONFIG.vocab_size / 2)
    assert playground.first.odd_penalty in playground.first.controls
    assert playground.first.odd_penalty.value == 1
    playground.first.odd_penalty.value = 2
    assert not playground.view.panels[0]["stages"][-1]["active"]
    playground.first.odd_penalty.value = 3
    assert "odd_penalty is 3.0; it must be 1 or 2" in playground.summary
    playground.compare.value = True
    assert playground.wait(60)
    assert [len(panel["stages"]) for panel in playground.view.panels] == [9, 9]
    plt.close("all")
