"""The widgets of chapter 9, without a browser: real models, real threads."""

import time
from collections.abc import Iterator

import pytest
import torch
from matplotlib import pyplot as plt

from gptlib.extras.chat import answer, fit_prompt
from gptlib.extras.widgets import instructions as module
from gptlib.extras.widgets.instructions import ChatBox, SideBySide
from gptlib.generation import Sampling
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.instructions import CHAT
from gptlib.tokenizer import BPETokenizer

BYTES = BPETokenizer([])


def model(seed: int = 0) -> GPT:
    sizes = GPTConfig(vocab_size=257, context_length=96, n_layer=1, n_head=1, n_embd=8)
    return GPT(sizes, torch.Generator().manual_seed(seed)).eval()


def box(remembered: int = 0, max_new_tokens: int = 8) -> ChatBox:
    return ChatBox(model(), BYTES, CHAT, remembered, max_new_tokens)


@pytest.fixture(autouse=True)
def no_open_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let answers go on for ever, slowly, with markup in them."""

    def write(*_: object, **named: object) -> Iterator[str]:
        while True:
            time.sleep(0.01)
            yield "<b>on</b> and\n"

    monkeypatch.setattr(module, "answer", write)


def test_a_question_gets_the_answer_that_the_library_gives() -> None:
    chat = box()
    chat.ask(" Say yes. ", "now")
    prompt, _ = fit_prompt("Say yes.", "now", BYTES, CHAT, 88)
    expected = "".join(answer(model(), BYTES, prompt, 8)).strip()
    assert chat.turns == [{"instruction": "Say yes.", "input": "now", "output": expected}]
    assert "Say yes. | now" in chat.conversation.value
    assert chat.instruction.value == chat.input.value == ""
    assert "Done." in chat.status.value
    assert (chat.send.disabled, chat.stop.disabled, chat.busy) == (False, True, False)


def test_the_buttons_send_and_clear() -> None:
    chat = box()
    chat.instruction.value = "Greet."
    chat.send.click()
    chat.wait()
    assert len(chat.turns) == 1
    chat.clear.click()
    assert chat.turns == []
    assert "Greet." not in chat.conversation.value
    assert "Forgotten." in chat.status.value


@pytest.mark.usefixtures("endless")
def test_stop_keeps_what_is_written_and_the_box_goes_on() -> None:
    chat = box()
    chat.instruction.value = "Talk."
    chat.send.click()
    while not (chat.turns and chat.turns[0]["output"]):
        time.sleep(0.01)
    assert chat.busy
    assert (chat.send.disabled, chat.stop.disabled) == (True, False)
    chat.send.click()  # a second question waits for the first
    chat.clear.click()
    chat.stop.click()
    chat.wait(10)
    assert not chat.busy
    assert len(chat.turns) == 1
    assert "Stopped by you." in chat.status.value
    assert "&lt;b&gt;on&lt;/b&gt; and<br>" in chat.conversation.value


def test_earlier_turns_go_with_a_question_if_asked_for() -> None:
    chat = box(remembered=0)
    for _ in range(3):
        chat.ask("Again.")
        assert chat.n_seen == 0
    chat.remembered.value = 2
    chat.ask("Again.")
    assert chat.n_seen == 2
    chat.remembered.value = 50
    chat.ask("Again.")
    assert 2 <= chat.n_seen <= 4  # as many as the context holds


def test_a_question_that_cannot_be_sent_is_explained() -> None:
    chat = box()
    chat.ask("  ")
    assert chat.problem == "the instruction is empty; write what to do"
    assert "Not sent: the instruction is empty" in chat.status.value
    assert chat.turns == []
    chat.ask("Sort.", "b a " * 60)
    assert chat.problem == ""
    assert "characters of the question had no place and were cut" in chat.status.value


def test_an_error_while_writing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **named: object) -> Iterator[str]:
        yield "so"
        raise FloatingPointError("the logits are not finite")

    monkeypatch.setattr(module, "answer", broken)
    chat = box()
    chat.ask("Say yes.")
    assert "Stopped by an error: the logits are not finite" in chat.status.value
    assert (chat.send.disabled, chat.stop.disabled) == (False, True)


@pytest.mark.parametrize("wrong", [0, 96])
def test_a_chat_without_room_for_a_question_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"max_new_tokens is {wrong}; choose from 1 to 95"):
        box(max_new_tokens=wrong)


def test_the_chat_has_a_name_and_a_picture() -> None:
    chat = box()
    assert repr(chat).startswith("ChatBox: write an instruction")
    assert chat.picture().axes[0].texts[2].get_text() == "no question yet"
    chat.ask("It costs $5 and $6.")
    assert "$5 and $6" in chat.picture().axes[0].texts[2].get_text()
    chat.picture().canvas.draw()
    assert "role='log'" in chat.conversation.value


def test_two_models_answer_the_same_question() -> None:
    pair = SideBySide(
        {"base": model(), "tuned": model(1)}, BYTES, CHAT, "Say yes.", max_new_tokens=8
    )
    prompt, _ = fit_prompt("Say yes.", "", BYTES, CHAT, 88)
    for seed, text in enumerate(pair.texts.values()):
        assert text == "".join(answer(model(seed), BYTES, prompt, 8)).strip()
    pair.ask("Greet.", "me")
    assert "Greet. | me" in pair.picture().axes[0].get_title(loc="left")
    assert "<b>base</b>" in pair.columns["base"].value
    assert "Done." in pair.status.value
    assert repr(pair) == "SideBySide: put one question to two models, watch both answers"


def test_both_columns_grow_together_and_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = SideBySide({"a": model(), "b": model(1)}, BYTES, CHAT, "Say yes.", max_new_tokens=8)

    def write(*_: object, **named: object) -> Iterator[str]:
        while True:
            time.sleep(0.01)
            yield "x"

    monkeypatch.setattr(module, "answer", write)
    pair.instruction.value = "Talk."
    pair.send.click()
    while len(pair.texts["b"]) < 3:
        time.sleep(0.01)
    pair.stop.click()
    pair.wait(10)
    assert len(pair.texts["a"]) == len(pair.texts["b"]) >= 3


def test_two_models_and_a_question_are_needed() -> None:
    with pytest.raises(ValueError, match="there are 1 models; pass two"):
        SideBySide({"one": model()}, BYTES, CHAT, "Say yes.")
    with pytest.raises(ValueError, match="the instruction is empty"):
        SideBySide({"a": model(), "b": model()}, BYTES, CHAT, " ")


def test_sampling_reaches_the_models() -> None:
    hot = Sampling(temperature=5.0)
    torch.manual_seed(0)
    texts = {said_once(hot) for _ in range(4)}
    assert len(texts) > 1


def said_once(sampling: Sampling) -> str:
    chat = ChatBox(model(), BYTES, CHAT, max_new_tokens=20, sampling=sampling)
    chat.ask("Say yes.")
    return chat.turns[0]["output"]
