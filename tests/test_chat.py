"""Questions that fit, answers that stream and a tuned model's folder, of `gptlib.extras.chat`."""

import json
from pathlib import Path

import pytest
import torch
from byte_model import BYTES, END, TOKENS, small

from gptlib.extras.chat import FORM_FILE, answer, fit_prompt, load_form, remember, save_tuned
from gptlib.generation import Sampling, generate
from gptlib.instructions import CHAT, PromptForm, add_lora, respond
from gptlib.weights import load_gpt2, save_gpt2

RECORDS: list[dict[str, str]] = [
    {"instruction": "Say yes.", "input": "", "output": "yes"},
    {"instruction": "Say it.", "input": "no", "output": "no"},
    {"instruction": "Greet.", "output": "good day"},
]
# Questions that are too long, and earlier turns


def test_a_question_that_fits_is_not_cut() -> None:
    whole = BYTES.encode(CHAT.fill("Sort.", "b a"))
    assert fit_prompt(" Sort.", "b a ", BYTES, CHAT, len(whole)) == (whole, "")


@pytest.mark.parametrize(
    "text",
    ["b a c " * 40, "é" * 90, "🙂" * 50, "a" * 300],
    ids=["words", "accents", "emoji", "one word"],
)
@pytest.mark.parametrize("room", [20, 33, 50])
def test_what_is_too_long_loses_its_end_and_the_form_stays(text: str, room: int) -> None:
    text = text.strip()
    tokens, cut = fit_prompt("Sort.", text, BYTES, CHAT, room)
    assert room - 4 <= len(tokens) <= room
    assert cut
    assert text.endswith(cut)
    assert tokens == BYTES.encode(CHAT.fill("Sort.", text[: -len(cut)]))
    tokens, cut = fit_prompt(text, "", BYTES, CHAT, room)
    assert tokens == BYTES.encode(CHAT.fill(text[: -len(cut)]))
    assert len(tokens) <= room


def test_a_question_without_room_or_words_is_refused() -> None:
    with pytest.raises(ValueError, match="form 'chat' and the instruction leave no place in 12"):
        fit_prompt("Sort these words.", "b a", BYTES, CHAT, 12)
    with pytest.raises(ValueError, match="leave no place in 3 tokens"):
        fit_prompt("Sort.", "", BYTES, CHAT, 3)
    with pytest.raises(ValueError, match="the instruction is empty; write what to do"):
        fit_prompt(" \n", "b a", BYTES, CHAT, 64)


def test_as_many_earlier_turns_come_back_as_fit_the_latest_first() -> None:
    prompt, _ = fit_prompt("Again.", "", BYTES, CHAT, 64)
    asked = [CHAT.fill(record["instruction"], record.get("input", "")) for record in RECORDS]
    answers = [record["output"] for record in RECORDS]
    turns = [[*BYTES.encode(f"{q} {a}"), END] for q, a in zip(asked, answers, strict=True)]
    sizes = [len(turn) for turn in turns]
    everything = [*turns[0], *turns[1], *turns[2], *prompt]
    assert remember(prompt, RECORDS, BYTES, CHAT, 999) == (everything, 3)
    two = sizes[1] + sizes[2] + len(prompt)
    assert remember(prompt, RECORDS, BYTES, CHAT, two) == ([*turns[1], *turns[2], *prompt], 2)
    assert remember(prompt, RECORDS, BYTES, CHAT, two - 1) == ([*turns[2], *prompt], 1)
    assert remember(prompt, RECORDS, BYTES, CHAT, len(prompt)) == (prompt, 0)
    assert remember(prompt, [], BYTES, CHAT, 64) == (prompt, 0)


def test_an_answer_streams_until_the_end_or_until_nobody_asks() -> None:
    model = small(3)
    stream = answer(model, BYTES, [5], max_new_tokens=50)
    assert next(stream)
    stream.close()
    ids = list(
        generate(model, [5], 8, end_tokens={END}, generator=torch.Generator().manual_seed(2))
    )

    seeded = torch.Generator().manual_seed(2)
    text = "".join(answer(model, BYTES, [5], 8, Sampling(), seeded))
    assert text == BYTES.decode([token for token in ids if token != END])


def test_answers_in_a_batch_are_those_given_alone() -> None:
    model = small(3)
    ours = respond(model, BYTES, RECORDS, CHAT, max_new_tokens=9, batch_size=2)
    for record, found in zip(RECORDS, ours, strict=True):
        prompt = BYTES.encode(CHAT.fill(record["instruction"], record.get("input", "")))
        pieces = answer(model, BYTES, prompt, max_new_tokens=9)
        assert "".join(pieces).strip() == found


# A tuned model's folder


def test_a_tuned_model_s_folder_names_its_form(tmp_path: Path) -> None:
    form = PromptForm("mine", "{instruction} »\n", "{instruction}: {input} »\n")
    save_tuned(small(), BYTES, form, tmp_path / "tuned")
    assert load_form(tmp_path / "tuned") == form
    model, _ = load_gpt2(tmp_path / "tuned")
    assert torch.equal(model(TOKENS), small()(TOKENS))
    assert not list((tmp_path / "tuned").glob("*.part"))
    save_gpt2(small(), BYTES, tmp_path / "tuned")  # another model, which has no form
    assert load_form(tmp_path / "tuned") is None


def test_a_model_that_was_never_tuned_names_no_form(tmp_path: Path) -> None:
    save_gpt2(small(), BYTES, tmp_path)
    assert load_form(tmp_path) is None


def test_a_form_counts_if_the_model_s_own_config_lists_it(tmp_path: Path) -> None:
    save_tuned(small(), BYTES, CHAT, tmp_path)
    form, config = tmp_path / FORM_FILE, tmp_path / "config.json"
    kept = form.read_bytes()
    described = json.loads(config.read_text())
    assert described["beside"] == [FORM_FILE]
    save_gpt2(small(), BYTES, tmp_path)
    form.write_bytes(kept)  # as if a save had been stopped before it left
    assert load_form(tmp_path) is None
    del described["beside"]  # a folder of the first edition
    config.write_text(json.dumps(described))
    assert load_form(tmp_path) == CHAT
    config.write_text('{"beside": 7}')
    with pytest.raises(ValueError, match=r"prompt_form\.json is damaged"):
        load_form(tmp_path)


def test_a_model_with_adapters_is_not_saved_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the model has adapters.*merge_lora it"):
        save_tuned(add_lora(small()), BYTES, CHAT, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"name": "x", "plain": "Q", "with_input": "Q"}',
        '{"name": "x", "plain": 1, "with_input": 2}', "\ufffe",
    ],
)  # fmt: skip
def test_a_damaged_form_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / FORM_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"prompt_form\.json is damaged"):
        load_form(tmp_path)
