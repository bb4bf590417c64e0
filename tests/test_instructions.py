"""Prompts, masked targets, packed rows, low-rank adapters and answers of `gptlib.instructions`."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gptlib.attention import attention_weights
from gptlib.generation import generate
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.instructions import (
    ALPACA,
    CHAT,
    FORM_FILE,
    IGNORED,
    PROJECTIONS,
    Batch,
    Example,
    LoRAConfig,
    LoRALinear,
    PromptForm,
    Record,
    adapter_tensors,
    add_lora,
    answer,
    check_record,
    draw_rows,
    encode_records,
    evaluate_responses,
    exact_match,
    fingerprint,
    fit_prompt,
    load_adapters,
    load_form,
    lora_layers,
    make_batch,
    merge_lora,
    pack,
    read_rows,
    record_mask,
    remember,
    repetition,
    respond,
    response_loss,
    run_tuning,
    save_adapters,
    save_tuned,
    tune,
)
from gptlib.tokenizer import BPETokenizer
from gptlib.training import TrainingConfig
from gptlib.weights import load_gpt2, save_gpt2

BYTES = BPETokenizer([])
END = 256
RECORDS: list[dict[str, str]] = [
    {"instruction": "Say yes.", "input": "", "output": "yes", "task": "say"},
    {"instruction": "Say it.", "input": "no", "output": "no", "task": "say"},
    {"instruction": "Greet.", "output": "good day", "task": "free"},
]


def small(seed: int = 0, **changes: Any) -> GPT:
    """Make a model over bytes whose weights are large enough for its parts to matter."""
    sizes: dict[str, Any] = {
        "vocab_size": 257,
        "context_length": 64,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
    }
    model = GPT(GPTConfig(**sizes | changes), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and parameter.requires_grad and "blocks" in name:
                parameter.mul_(10)
    return model.eval()


def encoded(context_length: int = 64) -> list[Example]:
    return encode_records(RECORDS, BYTES, CHAT, context_length)


# The forms and the records


def test_the_alpaca_form_is_the_published_one() -> None:
    with_input = (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort.\n\n### Input:\nb a\n\n### Response:\n"
    )
    plain = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSort.\n\n### Response:\n"
    )
    assert ALPACA.fill("Sort.", "b a") == with_input
    assert ALPACA.fill("Sort.") == ALPACA.fill(" Sort.\n", " \n") == plain


def test_the_chat_form_is_shorter() -> None:
    assert CHAT.fill("Sort.", "b a") == "Q: Sort.\nb a\nA:\n"
    assert CHAT.fill("Sort.") == "Q: Sort.\nA:\n"


@pytest.mark.parametrize("form", [ALPACA, CHAT])
@pytest.mark.parametrize("text", ["{input}", "{instruction}", "{}", "{0}", "}{", "{input!r:>9}"])
def test_braces_in_a_question_are_only_text(form: PromptForm, text: str) -> None:
    asked = form.fill(text, "the input")
    assert asked.count(text) == 1
    assert asked.count("the input") == 1
    assert form.fill("do it", text).count(text) == 1


def test_the_input_may_stand_before_the_question() -> None:
    form = PromptForm("first", "{instruction}\n", "Text: {input}\nQ: {instruction}\nA:\n")
    assert form.fill("Say {input}.", "Hallo") == "Text: Hallo\nQ: Say {input}.\nA:\n"


@pytest.mark.parametrize(
    ("plain", "with_input"),
    [
        ("Q:", "{instruction} {input}"),
        ("{instruction}", "{instruction}"),
        ("{instruction}", "{input}"),
        ("{instruction} {instruction}", "{instruction} {input}"),
    ],
)
def test_a_form_that_would_lose_the_question_is_refused(plain: str, with_input: str) -> None:
    with pytest.raises(ValueError, match=r"must hold \{(instruction|input)\} once; put it in"):
        PromptForm("bad", plain, with_input)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"instruction": "Do."}, "record 4 has no 'output', only 'instruction'; add one"),
        ({"prompt": "a", "output": "b"}, "has no 'instruction', only 'prompt', 'output'"),
        ({}, "record 4 has no 'instruction', only nothing; add one"),
        ({"instruction": "Do.", "output": " \n"}, "record 4 has an empty 'output'; write one, or"),
        ({"instruction": "", "output": "b"}, "record 4 has an empty 'instruction'"),
        ({"instruction": "Do.", "output": 7}, "'output' of record 4 is of type int; write"),
        ({"instruction": "Do.", "output": "b", "input": None}, "record 4 is of type NoneType"),
    ],
)
def test_a_record_that_teaches_nothing_is_refused_by_its_number(record: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_record(record, 4)
    with pytest.raises(ValueError, match=message):
        encode_records([*RECORDS, RECORDS[0], record], BYTES, CHAT, 64)


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 0 records; pass at least 1"):
        encode_records([], BYTES, CHAT, 64)


# Tokens


def test_an_example_is_what_the_model_reads_and_writes() -> None:
    first, second, third = encoded()
    assert BYTES.decode(second.prompt) == "Q: Say it.\nno\nA:\n"
    assert BYTES.decode(third.prompt) == "Q: Greet.\nA:\n"
    assert first.response == [*BYTES.encode("yes"), END]
    assert {example.n_cut for example in encoded()} == {0}
    assert first.size == len(first.prompt) + 3


def test_the_name_of_a_special_token_in_a_record_is_plain_text() -> None:
    record = {"instruction": "Say <|endoftext|>", "output": "<|endoftext|>"}
    (example,) = encode_records([record], BYTES, CHAT, 64)
    assert END not in example.prompt
    assert example.response.count(END) == 1
    assert example.response[-1] == END


def test_an_answer_that_is_too_long_loses_its_end_and_that_is_counted() -> None:
    exact = encoded()[2].size
    assert encoded(exact)[2] == encoded()[2]
    (cut,) = encode_records(RECORDS[2:], BYTES, CHAT, exact - 2)
    assert cut.n_cut == 2
    assert cut.response == encoded()[2].response[:-2]
    assert cut.size == exact - 2


def test_a_prompt_without_room_for_an_answer_is_refused_by_its_number() -> None:
    n = len(encoded()[1].prompt)
    assert [len(e.response) for e in encode_records(RECORDS[:2], BYTES, CHAT, n)] == [3, 1]
    message = rf"the prompt of record 1 has {n} tokens and leaves the context of {n - 1} no room"
    with pytest.raises(ValueError, match=message):
        encode_records(RECORDS, BYTES, CHAT, n - 1)


def test_a_tokenizer_that_can_end_nothing_is_refused() -> None:
    tokenizer = BPETokenizer([], special=[])
    with pytest.raises(ValueError, match="has no end-of-text token"):
        encode_records(RECORDS, tokenizer, CHAT, 64)


# Batches


def test_only_answers_are_targets() -> None:
    batch = make_batch([[example] for example in encoded()])
    for row, example in enumerate(encoded()):
        text = [*example.prompt, *example.response]
        first = len(example.prompt) - 1  # the last token of the prompt predicts the answer's first
        assert batch.inputs[row, : example.size].tolist() == text[:-1]
        assert batch.targets[row, :first].eq(IGNORED).all()
        assert batch.targets[row, first : example.size].tolist() == example.response
        assert batch.targets[row, example.size :].eq(IGNORED).all()
        assert batch.records[row].tolist() == [1] * example.size + [0] * (
            batch.inputs.size(1) - example.size
        )


def test_prompts_are_targets_when_they_are_to_be_learnt() -> None:
    (example, *_) = encoded()
    batch = make_batch([[example]], learn_prompt=True)
    assert batch.targets.tolist() == [[*example.prompt, *example.response][1:]]


def test_positions_begin_again_and_no_target_crosses_a_border() -> None:
    examples = [Example([1, 2], [3, 9]), Example([4], [5, 6, 9])]
    batch = make_batch([examples], learn_prompt=True)
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert batch.records.tolist() == [[1, 1, 1, 2, 2, 2]]
    assert batch.inputs.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert batch.targets.tolist() == [[2, 3, 9, 5, 6, 9]]


def test_the_mask_is_that_of_two_loops() -> None:
    records = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 3, 0, 0, 0]])
    mask = record_mask(records)
    assert mask.shape == (2, 1, 6, 6)
    for row in range(2):
        for t in range(6):
            for s in range(6):
                same = bool(records[row, t] == records[row, s])
                assert bool(mask[row, 0, t, s]) == (same and s <= t)
    assert mask.any(dim=-1).all()  # a softmax over nothing would be no number


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=30), st.integers(8, 12))
def test_packing_loses_nothing_and_fills_no_row_too_far(sizes: list[int], length: int) -> None:
    examples = [Example([i] * size, [9]) for i, size in enumerate(sizes)]
    rows = pack(examples, length)
    assert Counter(e.prompt[0] for row in rows for e in row) == Counter(range(len(sizes)))
    filled = [sum(example.size for example in row) for row in rows]
    assert max(filled) <= length
    for later in range(1, len(rows)):  # no row was opened while an earlier one had room
        assert all(total + rows[later][0].size > length for total in filled[:later])


def test_an_example_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 9 positions, more than the 8 of a row"):
        pack([Example([1] * 8, [2, 3])], 8)


# The loss


def test_the_loss_is_pytorch_s_with_ignored_targets() -> None:
    model = small()
    batch = make_batch([[example] for example in encoded()])
    total, n_targets = response_loss(model, batch)
    expected = F.cross_entropy(
        model(batch.inputs).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED
    )
    assert n_targets == sum(len(example.response) for example in encoded())
    torch.testing.assert_close(total / n_targets, expected)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_packed_rows_are_read_like_single_ones(positions: str) -> None:
    model = small(positions=positions)
    one, two, three = encoded()
    packed = read_rows(model, make_batch([[one, two, three], [three]]))
    places = [(0, 0), (0, one.size), (0, one.size + two.size), (1, 0)]
    for (row, start), example in zip(places, (one, two, three, three), strict=True):
        alone = read_rows(model, make_batch([[example]]))
        found = packed[row, start : start + example.size]
        torch.testing.assert_close(found, alone[0], atol=1e-5, rtol=1e-5)


def test_packed_and_single_rows_give_the_same_loss_and_gradient() -> None:
    model = small()
    gradients = []
    for rows in ([encoded()], [[example] for example in encoded()]):
        model.zero_grad()
        total, n_targets = response_loss(model, make_batch(rows))
        (total / n_targets).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for packed, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


def test_what_stands_in_one_record_cannot_be_seen_from_another() -> None:
    model, examples = small(), encoded()
    changed = [Example([7] * len(examples[0].prompt), examples[0].response), *examples[1:]]
    before, after = (read_rows(model, make_batch([row])) for row in (examples, changed))
    border = examples[0].size
    assert not torch.allclose(before[0, :border], after[0, :border])
    assert torch.equal(before[0, border:], after[0, border:])
    joined = make_batch([examples])  # the same tokens as one record: now they are seen
    one = Batch(joined.inputs, joined.targets, joined.positions, torch.ones_like(joined.records))
    assert not torch.allclose(read_rows(model, one)[0, border:], before[0, border:], atol=1e-3)


def test_a_batch_without_targets_is_refused() -> None:
    batch = make_batch([[Example([1, 2], [3])]])
    nothing = batch._replace(targets=torch.full_like(batch.targets, IGNORED))
    with pytest.raises(ValueError, match="the batch has 0 targets"):
        response_loss(small(), nothing)


def test_an_evaluation_does_not_depend_on_rows_and_keeps_the_mode() -> None:
    model = small(dropout=0.5).train()
    once = evaluate_responses(model, encoded() * 5, batch_size=1)
    assert model.training
    assert evaluate_responses(model, encoded(), batch_size=3) == pytest.approx(once, rel=1e-5)
    model.eval()
    losses = [response_loss(model, make_batch([[example]])) for example in encoded()]
    by_hand = sum(total.item() for total, _ in losses) / sum(n for _, n in losses)
    assert once == pytest.approx(by_hand, rel=1e-5)


# Tuning


def plan(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {"n_steps": 4, "batch_size": 2, "max_learning_rate": 3e-3}
    return TrainingConfig(**values | changes)


def test_every_example_comes_once_a_round_and_a_seed_fixes_the_order() -> None:
    examples = [Example([i], [END]) for i in range(10)]
    for length in (None, 3):
        dealt = draw_rows(examples, plan(batch_size=3), length)
        n_batches = 4 if length is None else 2
        rounds = [
            [e.prompt[0] for _ in range(n_batches) for row in next(dealt) for e in row]
            for _ in range(3)
        ]
        assert all(sorted(numbers) == list(range(10)) for numbers in rounds)
        assert rounds[0] != rounds[1]
        again = next(draw_rows(examples, plan(batch_size=3), length))
        assert again == next(draw_rows(examples, plan(batch_size=3), length))
        assert again != next(draw_rows(examples, plan(batch_size=3, seed=1), length))


def test_a_few_answers_are_learnt_by_heart() -> None:
    model = small(n_embd=32)
    reports = list(tune(model, encoded(), encoded(), plan(n_steps=150, max_learning_rate=1e-2)))
    assert reports[-1].validation_loss is not None
    assert reports[-1].validation_loss < 0.05 < reports[0].loss
    assert respond(model.eval(), BYTES, RECORDS, CHAT) == ["yes", "no", "good day"]


def test_reports_come_when_they_are_due() -> None:
    config = plan(n_steps=7, report_every=3, evaluate_every=5)
    reports = list(tune(small(), encoded(), encoded(), config))
    assert [report.step for report in reports] == [3, 5, 6, 7]
    assert [report.validation_loss is None for report in reports] == [True, False, True, False]
    assert all(report.tokens_per_second > 0 for report in reports)
    assert reports[-1].seconds >= reports[0].seconds > 0
    silent = list(tune(small(), encoded(), None, config))
    assert [report.validation_loss for report in silent] == [None] * 4


def test_the_same_plan_gives_the_same_model() -> None:
    states = []
    for seed in (0, 0, 1):
        model = small(dropout=0.1)
        torch.manual_seed(0)
        list(tune(model, encoded(), encoded(), plan(seed=seed, batch_size=1)))
        states.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_rows_packed_or_not_are_the_same_lesson() -> None:
    losses = []
    for packed in (True, False):
        config = plan(n_steps=3, batch_size=3, report_every=1)  # a batch holds all records
        reports = tune(small(context_length=80), encoded(), None, config, packed=packed)
        losses.append([report.loss for report in reports])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_caller_may_look_at_the_model_between_reports() -> None:
    model = small(dropout=0.5)
    expected = []
    for look in (False, True):
        model = small(dropout=0.5)
        torch.manual_seed(0)
        for report in tune(model, encoded(), None, plan(report_every=1)):
            assert not model.training
            if look:
                model.eval()
            expected.append(report.loss)
    assert expected[:4] == expected[4:]


def test_learning_the_prompts_takes_their_loss_in() -> None:
    model, config = small(), plan(n_steps=1, batch_size=9)
    (masked,) = tune(small(), encoded(), None, config)
    (whole,) = tune(small(), encoded(), None, config, learn_prompt=True)
    tokens = [torch.tensor([[*e.prompt, *e.response]]) for e in encoded()]
    sums = [F.cross_entropy(model(t[:, :-1])[0], t[0, 1:], reduction="sum") for t in tokens]
    n_targets = sum(t.size(1) - 1 for t in tokens)
    assert whole.loss == pytest.approx(torch.stack(sums).sum().item() / n_targets, rel=1e-4)
    assert masked.loss == pytest.approx(evaluate_responses(model, encoded()), rel=1e-4)


def test_half_precision_learns_too() -> None:
    reports = list(tune(small(), encoded(), None, plan(n_steps=20, precision="bfloat16")))
    assert math.isfinite(reports[-1].loss)
    assert reports[-1].loss < reports[0].loss


@pytest.mark.parametrize(
    ("examples", "changes", "message"),
    [
        ([], {}, "there are 0 examples; pass at least 1"),
        ([Example([1] * 70, [2])], {}, "takes 70 positions, more than the 64"),
        ([Example([1], [2])], {"accumulation_steps": 2}, "accumulation_steps is 2"),
    ],
)
def test_what_cannot_be_tuned_on_is_refused_at_the_call(
    examples: list[Example], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tune(small(), examples, None, plan(**changes))


def test_an_empty_validation_part_is_refused() -> None:
    with pytest.raises(ValueError, match="and None for no validation"):
        tune(small(), encoded(), [], plan())


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="all parameters are frozen; call add_lora"):
        tune(small().requires_grad_(False), encoded(), None, plan())


def test_a_loss_that_is_no_number_stops_the_run_with_its_step() -> None:
    model = small()
    good, bad = make_batch([encoded()[:1]]), make_batch([encoded()[1:2]])

    def batches() -> Any:
        yield good
        with torch.no_grad():
            model.ln_f.weight.fill_(math.nan)
        yield bad

    with pytest.raises(FloatingPointError, match="the loss is nan at step 2"):
        list(run_tuning(model, batches(), None, plan()))


# LoRA


def lora(model: GPT, seed: int = 1, **changes: Any) -> GPT:
    """Add adapters, and give them values as if they had been trained."""
    values: dict[str, Any] = {"rank": 2, "projections": PROJECTIONS}
    generator = torch.Generator().manual_seed(seed)
    add_lora(model, LoRAConfig(**values | changes), generator)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.up, generator=generator)
    return model


TOKENS = torch.tensor([[5, 7, 9, 11, 200], [1, 2, 3, 4, 5]])


def test_fresh_adapters_change_nothing() -> None:
    model = small()
    before = model(TOKENS)
    assert torch.equal(add_lora(model)(TOKENS), before)


def test_an_adapted_layer_computes_the_formula() -> None:
    linear = torch.nn.Linear(6, 4)
    layer = LoRALinear(linear, LoRAConfig(rank=3, alpha=6))
    torch.nn.init.normal_(layer.up)
    x = torch.randn(5, 6)
    weight = linear.weight + 6 / 3 * layer.up @ layer.down
    torch.testing.assert_close(layer(x), x @ weight.T + linear.bias)
    assert layer.down.abs().max() <= 6**-0.5


@pytest.mark.parametrize("projections", [("attn.qkv",), ("mlp.expand", "mlp.proj"), PROJECTIONS])
def test_merged_and_unmerged_models_agree(projections: tuple[str, ...]) -> None:
    model = lora(small(), projections=projections)
    before = model(TOKENS)
    assert not torch.allclose(before, small()(TOKENS), atol=1e-2)
    merged = merge_lora(model)
    assert (merged(TOKENS) - before).abs().max() < 1e-5 * before.abs().max()
    assert merged.state_dict().keys() == small().state_dict().keys()
    assert all(p.requires_grad for p in merged.parameters())
    assert not lora_layers(merged)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [1, 3, 16])
def test_the_trained_parameters_are_those_of_the_thin_matrices(rank: int, bias: bool) -> None:
    config = LoRAConfig(rank=rank, projections=("attn.qkv", "mlp.proj"))
    model = add_lora(small(bias=bias), config)
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == 2 * rank * ((16 + 48) + (64 + 16))
    assert set(trained) == set(adapter_tensors(model))


def test_tuning_moves_the_adapters_alone() -> None:
    model = lora(small())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    list(tune(model, encoded(), None, plan()))
    added = adapter_tensors(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in added), name


def test_an_adapted_model_learns_and_writes_like_any_other() -> None:
    model = lora(small(n_embd=32), rank=8)
    list(tune(model, encoded(), None, plan(n_steps=200, max_learning_rate=2e-2)))
    answers = respond(model.eval(), BYTES, RECORDS, CHAT)
    assert answers == ["yes", "no", "good day"]
    assert respond(merge_lora(model), BYTES, RECORDS, CHAT) == answers
    x = torch.randn(1, 3, 32)
    assert attention_weights(lora(small(n_embd=32)).blocks[0].attn, x).shape == (1, 2, 3, 3)


def test_sinusoidal_waves_stay_frozen_after_a_merge() -> None:
    model = merge_lora(lora(small(positions="sinusoidal")))
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["embed.position_embedding.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be a whole number of at least 1"),
        ({"rank": -3}, "rank is -3"),
        ({"rank": 1.5}, "rank is 1.5"),
        ({"alpha": 0}, "alpha is 0; it must be above 0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"projections": ()}, r"projections are \(\); choose one or more of attn.qkv"),
        ({"projections": ("attn.qkv", "attn.qkv")}, "attn.qkv, .*, each once"),
        ({"projections": ("attn.qkv", "ln_1")}, "choose one or more of"),
    ],
)
def test_adapters_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**changes)


def test_a_rank_above_the_matrix_is_refused_and_the_model_stays_whole() -> None:
    model = small()
    with pytest.raises(ValueError, match="rank 17 is above 16, the smaller side of a matrix of 48"):
        add_lora(model, LoRAConfig(rank=17))
    assert not lora_layers(model)


def test_adapters_on_adapters_and_merging_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="has adapters already; call merge_lora first"):
        add_lora(add_lora(small()))
    with pytest.raises(ValueError, match="the model has no adapters; call add_lora"):
        merge_lora(small())


# Adapters alone in a file


def test_adapters_come_back_from_their_file(tmp_path: Path) -> None:
    model = lora(small(), alpha=3.0)
    path = tmp_path / "new" / "adapters.safetensors"
    save_adapters(model, path)
    back = load_adapters(small(), path)
    assert torch.equal(back(TOKENS), model(TOKENS))
    assert next(iter(lora_layers(back).values())).config == LoRAConfig(2, 3.0, PROJECTIONS)
    assert [p.name for p in path.parent.iterdir()] == ["adapters.safetensors"]
    n_bytes = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert n_bytes < path.stat().st_size < n_bytes + 8_000
    assert load_file(path).keys() == adapter_tensors(model).keys()


def test_the_fingerprint_is_the_base_model_s_alone() -> None:
    assert fingerprint(lora(small())) == fingerprint(small())
    assert fingerprint(small(1)) != fingerprint(small())
    assert fingerprint(merge_lora(lora(small()))) != fingerprint(small())


@pytest.mark.parametrize("other", [{"seed": 1}, {"n_layer": 3}, {"n_embd": 32}])
def test_adapters_of_another_model_are_refused_and_it_stays_as_it_was(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    path = tmp_path / "adapters.safetensors"
    save_adapters(lora(small()), path)
    model = small(**other)
    with pytest.raises(ValueError, match=r"adapters.safetensors were made for another model: its"):
        load_adapters(model, path)
    assert not lora_layers(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_without_adapters_has_none_to_save(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no adapters to save; call add_lora first"):
        save_adapters(small(), tmp_path / "a")


def test_another_safetensors_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"model\.safetensors holds no adapters; name a file that"):
        load_adapters(small(), path)


def test_scores_need_questions_and_examples() -> None:
    model = small().eval()
    with pytest.raises(ValueError, match="record 1 has no 'instruction', only 'input'; add one"):
        respond(model, BYTES, [RECORDS[0], {"input": "x"}], CHAT)
    with pytest.raises(ValueError, match="there are 0 examples; pass at least 1"):
        evaluate_responses(model, [])


def test_no_file_of_adapters_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_adapters(small(), tmp_path / "none.safetensors")


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    model = lora(small())
    save_adapters(model, path)
    whole = path.read_bytes()
    tensors = {name: tensor.detach() for name, tensor in adapter_tensors(model).items()}
    notes = {"fingerprint": fingerprint(model)}
    good = {"rank": 2, "alpha": 16.0, "projections": PROJECTIONS}
    contents: list[bytes | dict[str, str]] = [
        b"", b"text", whole[:-1], whole[:40], whole[8:],
        {"lora": "{"}, {"lora": "[]"}, {"lora": "{}"},
        {"lora": json.dumps(good | {"rank": 0})}, {"lora": json.dumps(good | {"more": 1})},
    ]  # fmt: skip
    for content in contents:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(tensors, path, notes | content)
        with pytest.raises(ValueError, match=r"is damaged: it.* (that can|can't) be read"):
            load_adapters(small(), path)
    for wrong in (good | {"rank": 3}, good | {"projections": ["attn.qkv"]}):
        save_file(tensors, path, notes | {"lora": json.dumps(wrong)})
        fresh = small()
        with pytest.raises(ValueError, match="tensors are not those of LoRAConfig"):
            load_adapters(fresh, path)
        assert not lora_layers(fresh)


# Answers and scores


def test_answers_in_a_batch_are_those_given_alone() -> None:
    model = small(3)
    ours = respond(model, BYTES, RECORDS, CHAT, max_new_tokens=9, batch_size=2)
    for record, found in zip(RECORDS, ours, strict=True):
        prompt = BYTES.encode(CHAT.fill(record["instruction"], record.get("input", "")))
        pieces = answer(model, BYTES, prompt, max_new_tokens=9)
        assert "".join(pieces).strip() == found


def test_answering_needs_a_model_that_is_not_in_training() -> None:
    with pytest.raises(ValueError, match=r"in training mode.*call model.eval\(\) first"):
        respond(small().train(), BYTES, RECORDS, CHAT)


def test_exact_match_counts_by_task_and_leaves_free_answers_out() -> None:
    records: list[Record] = [
        {"task": "sort", "output": "a b"},
        {"task": "sort", "output": "b c"},
        {"task": "add", "output": "14"},
        {"task": "free", "output": "who knows"},
        {"output": "no task"},
    ]
    answers = [" a\nb", "c b", "14.", "who knows", "no task"]
    assert exact_match(answers, records) == {"add": (0, 1), "sort": (1, 2)}
    assert exact_match([], []) == {}
    with pytest.raises(ValueError, match="1 answers to 5 records; pass one for each"):
        exact_match(["a"], records)


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("two words", 0), ("a b c d", 0), ("a a a a", 0.5), ("go on go on go on", 0.5)],
)
def test_repetition_is_the_share_of_phrases_said_before(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


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
    turns = [[*BYTES.encode(CHAT.fill(r["instruction"], r.get("input", "")) + r["output"]), END]
             for r in RECORDS]  # fmt: skip
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
    from gptlib.generation import Sampling

    seeded = torch.Generator().manual_seed(2)
    text = "".join(answer(model, BYTES, [5], 8, Sampling(), seeded))
    assert text == BYTES.decode([token for token in ids if token != END])


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
    (tmp_path / FORM_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"prompt_form\.json is damaged"):
        load_form(tmp_path)
