"""Prompts, masked targets, packed rows, low-rank adapters and scores of `gptlib.instructions`."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from byte_model import BYTES, END, TOKENS, lora, small
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlib import instructions
from gptlib.gpt2 import GPT, attention_maps
from gptlib.instructions import (
    ALPACA,
    CHAT,
    IGNORED,
    PROJECTIONS,
    Batch,
    Example,
    LoRAConfig,
    LoRALinear,
    PromptForm,
    Record,
    add_lora,
    check_record,
    draw_rows,
    encode_records,
    evaluate_responses,
    exact_match,
    lora_layers,
    make_batch,
    merge_lora,
    pack,
    read_rows,
    record_mask,
    repetition,
    respond,
    response_loss,
    tune,
)
from gptlib.tokenizer import BPETokenizer
from gptlib.training import TrainingConfig, TrainingState, run_steps, take_step

RECORDS: list[dict[str, str]] = [
    {"instruction": "Say yes.", "input": "", "output": "yes", "task": "say"},
    {"instruction": "Say it.", "input": "no", "output": "no", "task": "say"},
    {"instruction": "Greet.", "output": "good day", "task": "free"},
]


def encoded(context_length: int = 64) -> list[Example]:
    return encode_records(RECORDS, BYTES, CHAT, context_length)


def read(model: GPT, batch: Batch) -> torch.Tensor:
    return read_rows(model, batch.inputs, batch.positions, batch.records)


# The forms and the records


def test_the_alpaca_form_is_the_published_one() -> None:
    with_input = (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort.\n\n### Input:\nb a\n\n### Response:"
    )
    plain = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSort.\n\n### Response:"
    )
    assert ALPACA.fill("Sort.", "b a") == with_input
    assert ALPACA.fill("Sort.") == ALPACA.fill(" Sort.\n", " \n") == plain


def test_the_chat_form_is_shorter() -> None:
    assert CHAT.fill("Sort.", "b a") == "Q: Sort.\nb a\nA:"
    assert CHAT.fill("Sort.") == "Q: Sort.\nA:"


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
        ({"instruction": "Do."}, "record 4 has nothing as its 'output'; write text, or leave"),
        ({"prompt": "a", "output": "b"}, "record 4 has nothing as its 'instruction'"),
        ({}, "record 4 has nothing as its 'instruction'"),
        ({"instruction": "Do.", "output": " \n"}, r"record 4 has ' \\n' as its 'output'"),
        ({"instruction": "", "output": "b"}, "record 4 has '' as its 'instruction'"),
        ({"instruction": "Do.", "output": 7}, "record 4 has 7 as its 'output'"),
        ({"instruction": "Do.", "output": "b", "input": None}, "record 4 has None as its 'input'"),
    ],
)
def test_a_record_that_teaches_nothing_is_refused_by_its_number(record: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_record(record, 4)
    with pytest.raises(ValueError, match=message):
        encode_records([*RECORDS, RECORDS[0], record], BYTES, CHAT, 64)


# Tokens


def test_an_example_is_what_the_model_reads_and_writes() -> None:
    first, second, third = encoded()
    assert BYTES.decode(second.prompt) == "Q: Say it.\nno\nA:"
    assert BYTES.decode(third.prompt) == "Q: Greet.\nA:"
    assert first.response == [*BYTES.encode(" yes"), END]
    assert {example.n_cut for example in encoded()} == {0}
    assert first.size == len(first.prompt) + 4


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
    message = rf"the prompt of record 1, {n} tokens, fills context_length={n - 1}"
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
    with pytest.raises(ValueError, match="takes 9 positions of a row's 8"):
        pack([Example([1] * 8, [2, 3])], 8)


# The loss


def test_the_loss_is_pytorch_s_with_ignored_targets() -> None:
    model = small()
    batch = make_batch([[example] for example in encoded()])
    loss = response_loss(model, *batch)
    expected = F.cross_entropy(
        model(batch.inputs).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED
    )
    n_targets = sum(len(example.response) for example in encoded())
    assert n_targets == (batch.targets != IGNORED).sum()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_packed_rows_are_read_like_single_ones(positions: str) -> None:
    model = small(positions=positions)
    one, two, three = encoded()
    packed = read(model, make_batch([[one, two, three], [three]]))
    places = [(0, 0), (0, one.size), (0, one.size + two.size), (1, 0)]
    for (row, start), example in zip(places, (one, two, three, three), strict=True):
        alone = read(model, make_batch([[example]]))
        found = packed[row, start : start + example.size]
        torch.testing.assert_close(found, alone[0], atol=1e-5, rtol=1e-5)


def test_packed_and_single_rows_give_the_same_loss_and_gradient() -> None:
    model = small()
    gradients = []
    for rows in ([encoded()], [[example] for example in encoded()]):
        model.zero_grad()
        response_loss(model, *make_batch(rows)).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for packed, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


def test_what_stands_in_one_record_cannot_be_seen_from_another() -> None:
    model, examples = small(), encoded()
    changed = [Example([7] * len(examples[0].prompt), examples[0].response), *examples[1:]]
    before, after = (read(model, make_batch([row])) for row in (examples, changed))
    border = examples[0].size
    assert not torch.allclose(before[0, :border], after[0, :border])
    assert torch.equal(before[0, border:], after[0, border:])
    joined = make_batch([examples])  # the same tokens as one record: now they are seen
    one = Batch(joined.inputs, joined.targets, joined.positions, torch.ones_like(joined.records))
    assert not torch.allclose(read(model, one)[0, border:], before[0, border:], atol=1e-3)


def test_an_evaluation_does_not_depend_on_rows_and_keeps_the_mode() -> None:
    model = small(dropout=0.5).train()
    once = evaluate_responses(model, encoded() * 5, batch_size=1)
    assert model.training
    assert evaluate_responses(model, encoded(), batch_size=3) == pytest.approx(once, rel=1e-5)
    model.eval()
    losses = [response_loss(model, *make_batch([[example]])).item() for example in encoded()]
    counts = [len(example.response) for example in encoded()]
    by_hand = sum(x * n for x, n in zip(losses, counts, strict=True)) / sum(counts)
    assert once == pytest.approx(by_hand, rel=1e-5)


# Tuning


def plan(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {"n_steps": 4, "batch_size": 2, "max_learning_rate": 3e-3}
    return TrainingConfig(**values | changes)


def test_every_example_comes_once_a_round_and_a_seed_fixes_the_order() -> None:
    examples = [Example([i], [END]) for i in range(10)]

    def begin(length: int | None, seed: int = 0) -> Iterator[list[list[Example]]]:
        return draw_rows(examples, 3, length, torch.Generator().manual_seed(seed))

    for length in (None, 3):
        dealt = begin(length)
        n_batches = 4 if length is None else 2
        rounds = [
            [e.prompt[0] for _ in range(n_batches) for row in next(dealt) for e in row]
            for _ in range(3)
        ]
        assert all(sorted(numbers) == list(range(10)) for numbers in rounds)
        assert rounds[0] != rounds[1]
        assert next(begin(length)) == next(begin(length)) != next(begin(length, seed=1))


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


@pytest.mark.parametrize("packed", [True, False])
def test_tuning_that_was_stopped_goes_on_to_the_bit(packed: bool, tmp_path: Path) -> None:
    config = plan(n_steps=9, report_every=1, batch_size=1 if packed else 2)
    wanted = [r.loss for r in tune(small(), encoded(), None, config, packed=packed)]
    path = tmp_path / "run.pt"
    run = tune(small(), encoded(), None, config, packed=packed, checkpoint=path)
    found = [next(run).loss for _ in range(4)]
    run.close()  # in the middle of a round
    rest = tune(small(5), encoded(), None, config, packed=packed, checkpoint=path, resume=True)
    assert found + [r.loss for r in rest] == wanted


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
        ([Example([1] * 70, [2])], {}, "takes 70 positions of a row's 64"),
        ([Example([1], [2])], {"accumulation_steps": 2}, "is 2; it must be 1, because"),
    ],
)
def test_what_cannot_be_tuned_on_is_refused_at_the_call(
    examples: list[Example], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tune(small(), examples, None, plan(**changes))


def test_an_empty_validation_part_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 0 examples; pass at least 1"):
        tune(small(), encoded(), [], plan())


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="all parameters are frozen; call add_lora"):
        tune(small().requires_grad_(False), encoded(), None, plan())


def test_a_loss_that_is_no_number_stops_the_run_with_its_step() -> None:
    reports = tune(model := small(), encoded(), encoded(), plan(report_every=1))
    next(reports)
    with torch.no_grad():
        model.ln_f.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="loss nan at step 2"):
        next(reports)


def test_a_tuning_step_is_the_step_of_chapter_5_with_another_loss() -> None:
    config = plan(n_steps=3, batch_size=9, report_every=1)  # a batch holds all records
    model, batch = small(), make_batch(pack(encoded(), 64))
    state = TrainingState.start(model, config)
    steps = run_steps(state, lambda state: take_step(state, lambda _: [batch], response_loss))
    by_hand = [report.loss for report in steps]
    tuned = [report.loss for report in tune(small(), encoded(), None, config)]
    assert tuned == pytest.approx(by_hand, rel=1e-4)  # the rows come in another order


def test_the_speed_counts_tokens_and_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def spy(state: TrainingState, step: Any, *rest: Any) -> Any:
        for _ in range(2):
            step(state)
            counted.append(state.n_tokens)

    monkeypatch.setattr(instructions, "run_steps", spy)
    tune(small(), encoded(), None, plan(batch_size=3), packed=False)
    n_tokens = sum(example.size for example in encoded())
    assert counted == [n_tokens, 2 * n_tokens]


# LoRA


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
    assert {name.rpartition(".")[0] for name in trained} == set(lora_layers(model))


def test_tuning_moves_the_adapters_alone() -> None:
    model = lora(small())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    list(tune(model, encoded(), None, plan()))
    for name, tensor in model.state_dict().items():
        is_added = name.endswith((".down", ".up"))
        assert torch.equal(tensor, before[name]) == (not is_added), name


def test_an_adapted_model_learns_and_writes_like_any_other() -> None:
    model = lora(small(n_embd=32), rank=8)
    list(tune(model, encoded(), None, plan(n_steps=300, max_learning_rate=2e-2)))
    answers = respond(model.eval(), BYTES, RECORDS, CHAT)
    assert answers == ["yes", "no", "good day"]
    assert respond(merge_lora(model), BYTES, RECORDS, CHAT) == answers
    assert attention_maps(lora(small()), TOKENS).shape == (2, 2, 2, 5, 5)


def test_the_head_stays_the_table_through_adding_tuning_and_merging() -> None:
    model = small(positions="sinusoidal")
    for change in (add_lora, lambda model: list(tune(model, encoded(), None, plan())), merge_lora):
        change(model)
        assert model.head.weight is model.embed.token_embedding.weight
    assert type(model) is GPT
    assert all(p.requires_grad for p in model.parameters())  # the positions are a buffer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be a whole number of at least 1"),
        ({"rank": -3}, "rank is -3"),
        ({"rank": 1.5}, "rank is 1.5"),
        ({"alpha": 0}, "alpha is 0; it must be above 0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"projections": ()}, r"projections is \(\); it must be one or more of attn.qkv"),
        ({"projections": ("attn.qkv", "attn.qkv")}, "attn.qkv, .*, each once"),
        ({"projections": ("attn.qkv", "ln_1")}, "it must be one or more of"),
    ],
)
def test_adapters_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**changes)


def test_a_rank_above_the_matrix_is_refused_and_the_model_stays_whole() -> None:
    model = small()
    with pytest.raises(ValueError, match="rank is 17; it must be at most 16, as a matrix of 48"):
        add_lora(model, LoRAConfig(rank=17))
    assert not lora_layers(model)


def test_adapters_on_adapters_and_merging_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="has adapters already; call merge_lora first"):
        add_lora(add_lora(small()))
    with pytest.raises(ValueError, match="the model has no adapters; call add_lora"):
        merge_lora(small())


# Answers and scores


def test_without_new_tokens_every_question_has_an_empty_answer() -> None:
    answers = respond(small().eval(), BYTES, RECORDS, CHAT, max_new_tokens=0, batch_size=2)
    assert answers == [""] * len(RECORDS)


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
    with pytest.raises(ValueError, match="zip"):
        exact_match(["a"], records)


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("two words", 0), ("a b c d", 0), ("a a a a", 0.5), ("go on go on go on", 0.5)],
)
def test_repetition_is_the_share_of_phrases_said_before(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


def test_scores_need_questions_and_examples() -> None:
    model = small().eval()
    with pytest.raises(ValueError, match="record 1 has nothing as its 'instruction'"):
        respond(model, BYTES, [RECORDS[0], {"input": "x"}], CHAT)
    with pytest.raises(ValueError, match="there are 0 examples; pass at least 1"):
        evaluate_responses(model, [])
