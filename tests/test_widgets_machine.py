"""A sentence through the machine, without a browser: its numbers are the model's own."""

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from notebook_files import NOTEBOOKS
from tiny_gpt2 import TEXT, TOKENIZER, tiny
from torch import Tensor

from gptlib.extras.models import SHIPPED, load_model
from gptlib.extras.widgets.machine import (
    MOST,
    N_CHANNELS,
    PARTS,
    SENTENCE,
    STOPS,
    SentenceMachine,
    follow_tokens,
)
from gptlib.gpt2 import GPT, GPTConfig, attention_maps

WORDS = "the prince said"


@pytest.fixture
def model() -> GPT:
    return tiny(GPTConfig(270, 40, n_layer=2, n_head=2, n_embd=8, dropout=0.5))


@pytest.fixture
def machine(model: GPT) -> SentenceMachine:
    return SentenceMachine("attention", WORDS, model, TOKENIZER)


@pytest.fixture(scope="module")
def shipped() -> SentenceMachine:
    return SentenceMachine("attention", SENTENCE, *load_model(SHIPPED))


def decoded(data: bytes, facts: dict[str, Any]) -> dict[str, Tensor]:
    """Read the float16 numbers as the script does."""
    arrays, at = {}, 0
    for name, shape in facts["shapes"].items():
        size = math.prod(shape)
        values = np.frombuffer(data, "<f2", size, at).astype("float32").reshape(shape)
        arrays[name], at = torch.from_numpy(values), at + 2 * size
    assert at == len(data)
    return arrays


def state_of(page: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the sentence and its numbers out of an exported page."""
    found = re.search(r'frozen\((\{.*\}), "([A-Za-z0-9+/=]+)"\)', page)
    assert found
    state = json.loads(found.group(1))
    return state, decoded(base64.b64decode(found.group(2)), state["facts"])


def test_the_trace_is_the_models_own_forward_pass(model: GPT) -> None:
    model.train()
    ids = TOKENIZER.encode(TEXT)[:12]
    trace = follow_tokens(model, ids)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.eval()
    tokens = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(trace.logits, model(tokens)[0])
        torch.testing.assert_close(trace.weights, attention_maps(model, tokens)[:, 0])
        torch.testing.assert_close(trace.stream[0], model.embed(tokens)[0])
        torch.testing.assert_close(trace.stream[-1], model.stream(tokens)[0])
        x = trace.stream[2]
        for half, part in enumerate((model.blocks[1].attn, model.blocks[1].mlp)):
            norm = (model.blocks[1].ln_1, model.blocks[1].ln_2)[half]
            x = x + part(norm(x[None]))[0]
            torch.testing.assert_close(trace.stream[3 + half], x)
        torch.testing.assert_close(trace.token_vectors + trace.position_vectors, trace.stream[0])
        mlp = model.blocks[1].mlp
        torch.testing.assert_close(trace.stream[3] + mlp.proj(trace.hidden[1]), trace.stream[4])
    assert trace.lens[-1].tolist() == trace.logits.argmax(-1).tolist()


def test_queries_and_keys_make_the_weights(machine: SentenceMachine) -> None:
    trace = machine.trace
    scores = trace.q @ trace.k.mT / math.sqrt(trace.q.size(-1))
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    torch.testing.assert_close(weights, trace.weights)
    torch.testing.assert_close(trace.weights.sum(-1), torch.ones(trace.weights.shape[:-1]))


def assert_same_numbers(arrays: dict[str, Tensor], machine: SentenceMachine) -> None:
    """Compare what the browser gets with the trace, within what 16 bits round."""
    trace, facts = machine.trace, machine.facts
    near: Any = {"rtol": 2e-3, "atol": 2e-3}
    torch.testing.assert_close(arrays["token"], trace.token_vectors[:, :N_CHANNELS], **near)
    torch.testing.assert_close(arrays["position"], trace.position_vectors[:, :N_CHANNELS], **near)
    torch.testing.assert_close(arrays["length"], trace.stream.norm(dim=-1), **near)
    scores = arrays["q"] @ arrays["k"].mT / math.sqrt(arrays["q"].size(-1))
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    torch.testing.assert_close(weights, trace.weights, rtol=0, atol=0.01)
    for stop, temperature in enumerate(STOPS):
        sums = arrays["sums"][:, stop : stop + 1]
        chances = (arrays["low"] / temperature - sums).exp()
        exact = (trace.logits / temperature).softmax(-1)
        torch.testing.assert_close(chances, exact.topk(chances.size(1)).values, rtol=0, atol=0.02)
    follows = (arrays["follows"] - arrays["sums"][:, 9]).exp()[:-1]
    exact = trace.logits.softmax(-1)[range(len(trace.ids) - 1), trace.ids[1:]]
    torch.testing.assert_close(follows, exact, rtol=0, atol=0.01)
    for block, rows in enumerate(facts["units"]):
        for place, units in enumerate(rows):
            fired = trace.hidden[block, place, units]
            torch.testing.assert_close(arrays["fired"][block, place], fired, **near)


def test_the_browser_gets_the_numbers_of_the_trace(machine: SentenceMachine) -> None:
    assert_same_numbers(decoded(machine.data, machine.facts), machine)
    trace, facts = machine.trace, machine.facts
    assert facts["ids"] == TOKENIZER.encode(WORDS)
    assert "".join(facts["labels"]) == WORDS.replace(" ", "·")
    assert facts["bytes"][0] == TOKENIZER.decode_bytes([trace.ids[0]]).hex(" ").upper()
    best = trace.logits[3].argmax().item()
    assert facts["next"][3][0] == facts["lens"][-1][3]
    order = trace.logits[3].argsort(descending=True).tolist()
    assert facts["ranks"][3] == order.index(trace.ids[4]) + 1
    assert order[0] == best


def test_the_trained_models_sentence_fits_and_16_bits_are_enough(shipped: SentenceMachine) -> None:
    assert_same_numbers(decoded(shipped.data, shipped.facts), shipped)
    assert (shipped.block, shipped.head, shipped.follow) == (4, 2, 19)
    assert shipped.facts["labels"][19] == "·was"


@pytest.mark.parametrize("part", PARTS)
def test_each_part_opens_its_stage(part: str, model: GPT) -> None:
    machine = SentenceMachine(part, WORDS, model, TOKENIZER)
    assert machine.stage == PARTS[part][0]
    assert machine.follow == len(machine.trace.ids) - 1
    assert (machine.block, machine.head) == (1, 1)  # the last ones that this small model has


def test_a_reader_types_a_text(machine: SentenceMachine) -> None:
    machine.text = "the princess"
    assert machine.facts["ids"] == TOKENIZER.encode("the princess")
    assert machine.follow == len(machine.facts["ids"]) - 1
    assert machine.problem == ""


def test_a_text_that_does_not_fit_is_explained_and_never_cut(machine: SentenceMachine) -> None:
    before = machine.facts
    machine.text = ""
    assert machine.problem == "The text is empty. Type at least one word."
    machine.text = TEXT * 3
    n = len(TOKENIZER.encode(TEXT * 3))
    assert machine.problem == f"The text has {n} tokens, and {MOST} fit. Shorten it."
    assert machine.facts == before
    machine.text = WORDS
    assert machine.problem == ""


def test_a_short_context_allows_no_more(model: GPT) -> None:
    with pytest.raises(ValueError, match=r"The text has \d+ tokens, and 16 fit"):
        SentenceMachine("attention", TEXT, tiny(), TOKENIZER)
    with pytest.raises(ValueError, match="The text is empty"):
        SentenceMachine("attention", "", model, TOKENIZER)


def test_an_unknown_part_and_half_a_model_are_refused(model: GPT) -> None:
    with pytest.raises(ValueError, match="part is 'head'; choose one of tokenizer, embeddings"):
        SentenceMachine("head")
    with pytest.raises(ValueError, match="pass a model together with its own tokenizer"):
        SentenceMachine("attention", WORDS, model)


def test_one_token_and_parts_of_characters_are_shown(model: GPT) -> None:
    machine = SentenceMachine("gpt2", "é", model, TOKENIZER)
    assert machine.facts["labels"] == ["<C3>", "<A9>"]
    machine.text = "t"
    assert machine.trace.weights.flatten().tolist() == [1, 1, 1, 1]  # two layers of two heads
    assert machine.facts["ranks"] == []
    assert "“t”, token 0" in machine.picture().alt


def test_the_page_holds_script_and_numbers_and_nothing_from_elsewhere(
    machine: SentenceMachine, tmp_path: Path
) -> None:
    machine.text = "said </script>"
    machine.export(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    state, arrays = state_of(page)
    assert state["text"] == "said </script>"
    assert page.count("</script>") == 1
    assert state["facts"] == machine.facts
    assert_same_numbers(arrays, machine)
    assert "https://" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in page


def test_the_stored_page_is_what_would_be_written_today(shipped: SentenceMachine) -> None:
    """Renew it with `python -m gptlib.extras.widgets.machine notebooks/sentence_machine.html`."""
    path = NOTEBOOKS / "sentence_machine.html"
    page = path.read_text(encoding="utf-8")
    assert SentenceMachine._esm in page
    assert SentenceMachine._css in page
    state, arrays = state_of(page)
    assert state["text"] == SENTENCE
    assert state["facts"]["ids"] == shipped.facts["ids"]
    assert state["facts"]["shapes"] == shipped.facts["shapes"]
    today = decoded(shipped.data, shipped.facts)
    for name in arrays.keys() - {"fired"}:
        torch.testing.assert_close(arrays[name], today[name], rtol=0.01, atol=0.03)
    torch.testing.assert_close(arrays["fired"], today["fired"], rtol=0.01, atol=0.03)
    assert path.stat().st_size < 420_000


def test_the_picture_says_what_is_followed(shipped: SentenceMachine) -> None:
    picture = shipped.picture()
    assert "“·was”, token 19 with id 315" in picture.alt
    assert "head 2 looks at “ception” 0.76, “·this” 0.23" in picture.alt
    assert [ax.get_title() for ax in picture.figure.axes][
        1
    ] == "attention: who looks at whom\n(block 4, head 2)"


def test_the_output_of_the_cell_is_always_the_same(machine: SentenceMachine) -> None:
    assert repr(machine) == "SentenceMachine: type a sentence and follow a token through the model"
