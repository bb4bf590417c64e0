"""Chapter 8: records, measures, the classifier, learning, files."""

import json
import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from gptlib.classification import (
    Confusion,
    FineTuning,
    LabeledText,
    TextClassifier,
    average_real,
    confusion,
    encode_texts,
    fit,
    freeze,
    leave_one_out,
    length_batches,
    load_classifier,
    normalize,
    pad_batch,
    pick_last,
    predict,
    predict_probabilities,
    read_ahead,
    remove_duplicates,
    save_classifier,
    score,
    split_records,
)
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer, gpt2_encoding
from gptlib.training import Report, TrainingConfig, TrainingState, save_checkpoint
from gptlib.weights import load_gpt2, save_gpt2

SIZES = GPTConfig(vocab_size=257, context_length=32, n_layer=3, n_head=2, n_embd=16)
BYTES = BPETokenizer([])


def classifier(**changes: Any) -> TextClassifier:
    model = GPT(SIZES, torch.Generator().manual_seed(0)).eval()
    given: dict[str, Any] = {"labels": ["ham", "spam"], "max_tokens": 32} | changes
    return TextClassifier(model, BYTES, **given, generator=torch.Generator().manual_seed(1)).eval()


def losses(reports: Iterable[Report]) -> list[float]:
    return [cast(float, report.validation_loss) for report in reports]


def messages(n: int, seed: int = 0) -> list[LabeledText]:
    draw = random.Random(seed)
    ham = [("ham", f"see you at {draw.randrange(10**6)}") for _ in range(n)]
    return ham + [("spam", f"win {draw.randrange(10**6)} pounds") for _ in range(n // 2)]


# Records


def test_one_string_is_not_taken_for_a_list_of_letters() -> None:
    for reading in (predict, predict_probabilities):
        with pytest.raises(ValueError, match=r"texts is one string, 'win now'; put it into a list"):
            reading(classifier(), "win now")
    with pytest.raises(ValueError, match="labels are 'ham'; give a list of at least two"):
        classifier(labels="ham")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Win £100!", "win  £999"),
        ("STRASSE", "straße"),
        ("ﬁne", "FINE"),
        ("call 0800", "CALL: 0808."),
        ("five ５", "five 7"),
    ],
)
def test_texts_that_differ_in_case_marks_or_digits_are_the_same(one: str, other: str) -> None:
    assert normalize(one) == normalize(other)
    assert remove_duplicates([("a", one), ("a", other)]) == [("a", one)]


def test_texts_without_words_are_not_all_the_same() -> None:
    records = [("ham", ":-)"), ("ham", ":-("), ("ham", " :-) ")]
    assert remove_duplicates(records) == [("ham", ":-)"), ("ham", ":-(")]


def test_one_text_under_two_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="'call 99!' is 'ham' and 'spam'; remove one"):
        remove_duplicates([("ham", "Call 12"), ("spam", "call 99!")])


def test_a_split_is_whole_stratified_seeded_and_shuffled() -> None:
    records = messages(200)
    parts = split_records(records, seed=3)
    assert sorted(record for part in parts for record in part) == sorted(records)
    assert [Counter(label for label, _ in part) for part in parts] == [
        {"ham": 140, "spam": 70},
        {"ham": 20, "spam": 10},
        {"ham": 40, "spam": 20},
    ]
    assert parts == split_records(records, seed=3)
    assert parts[2] != split_records(records, seed=4)[2]
    assert len({label for label, _ in parts[0][:20]}) == 2


def test_a_split_that_can_not_be_made_is_refused() -> None:
    for shares in ((0, 0.2), (0.1, 1.0), (0.5, 0.5), (math.nan, 0.2)):
        with pytest.raises(ValueError, match="choose above 0, in sum below 1"):
            split_records(messages(50), *shares)
    with pytest.raises(ValueError, match="10 records of class 'ham' are too few"):
        split_records(messages(10), validation=0.04)


# Measures


def test_the_measures_are_those_of_a_textbook() -> None:
    # Manning, Raghavan and Schütze, exercise 8.1: 8 relevant found, 10 not relevant, 12 missed.
    found = Confusion(8, 10, 12, 9_970)
    assert round(found.precision, 2) == 0.44
    assert found.recall == 0.4
    assert round(found.f1, 3) == round(2 * 0.4444 * 0.4 / 0.8444, 3)
    assert found.accuracy == 9_978 / 10_000


def test_a_share_of_nothing_is_nothing() -> None:
    silent = confusion([True, False], [False, False])
    assert (silent.precision, silent.recall, silent.f1, silent.accuracy) == (0, 0, 0, 0.5)
    empty = confusion([], [])
    assert (empty.accuracy, empty.f1) == (0, 0)


def test_answers_and_truths_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        confusion([True, False], [True])


# The classifier


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_changes_nothing(pooling: str) -> None:
    c = classifier(pooling=pooling)
    rows, _ = encode_texts(c, ["a", "a longer text", "middling"])
    tokens, last = pad_batch(rows)
    together = c(tokens, last)
    alone = torch.cat([c(row[None], torch.tensor([len(row) - 1])) for row in rows])
    assert torch.allclose(together, alone, atol=1e-6)
    tokens[0, 1:] = 77  # whatever stands behind the end
    assert torch.allclose(c(tokens, last), together, atol=1e-6)


def test_the_first_token_and_the_last_place_are_wrong() -> None:
    c = classifier()
    one, other = (encode_texts(c, [text])[0][0] for text in ("win now", "win a lot"))
    x, last = pad_batch([one, other])
    states = c.run_stages(x)
    assert torch.allclose(states[0, 0], states[1, 0], atol=1e-6)  # both begin with w
    alone = c.run_stages(one[None])[0, -1]
    assert not torch.allclose(states[0, -1], alone, atol=1e-3)
    assert torch.allclose(pick_last(states, last)[0], alone, atol=1e-6)


def test_an_average_is_taken_over_real_tokens_alone() -> None:
    x = torch.randn(3, 7, 4)
    last = torch.tensor([6, 0, 3])
    by_hand = torch.stack([x[row, : end + 1].mean(dim=0) for row, end in enumerate(last)])
    assert torch.allclose(average_real(x, last), by_hand, atol=1e-6)
    x[1, 1:] = 1e6
    assert torch.allclose(average_real(x, last), by_hand, atol=1e-6)


def test_a_long_text_is_cut_only_with_leave_and_counted() -> None:
    rows, n_cut = encode_texts(classifier(max_tokens=5), ["12345", "123456", "ab"])
    assert [len(row) for row in rows] == [5, 5, 2]
    assert n_cut == 1
    strict = classifier(max_tokens=None)
    assert len(encode_texts(strict, ["x" * 32])[0][0]) == 32
    with pytest.raises(ValueError, match="text 1 has 40 of 32 tokens; cut it, or set max_tokens"):
        predict(strict, ["fine", "1234567890" * 3 + "1289012345"])


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_message_is_refused_by_number(text: str) -> None:
    with pytest.raises(ValueError, match="text 1 of 2 is empty"):
        predict(classifier(), ["Hi", text])


def test_no_texts_have_no_answers() -> None:
    assert predict(classifier(), []) == []
    assert predict_probabilities(classifier(), []).shape == (0, 2)


def test_a_classifier_that_can_not_be_is_refused() -> None:
    for labels in ([], ["ham"], ["ham", "ham"], ["a", "b", "a"]):
        with pytest.raises(ValueError, match="at least two, each once"):
            classifier(labels=labels)
    with pytest.raises(ValueError, match="pooling is 'first'; choose 'last' or 'mean'"):
        classifier(pooling="first")
    for limit in (0, -1, 33):
        with pytest.raises(ValueError, match=f"max_tokens is {limit}; choose from 1 to 32"):
            classifier(max_tokens=limit)
    with pytest.raises(ValueError, match="the tokenizer has 257 tokens and the model 99"):
        TextClassifier(GPT(GPTConfig(99, 8, 1, 1, 4)), BYTES, ["a", "b"])


def test_answers_do_not_depend_on_company_or_order() -> None:
    c = classifier()
    texts = [f"{'x' * (i * 7 % 20)} message {i}" for i in range(70)]
    together = predict_probabilities(c, texts)
    assert torch.allclose(together.sum(-1), torch.ones(70))
    assert torch.allclose(together.flip(0), predict_probabilities(c, texts[::-1]), atol=1e-6)
    assert torch.allclose(together[5:6], predict_probabilities(c, texts[5:6]), atol=1e-6)
    assert predict(c, texts) == [c.labels[i] for i in together.argmax(-1)]


def test_three_classes_work_as_two_do() -> None:
    records = [
        (label, f"{text} {i}")
        for i in range(20)
        for label, text in (("a", "aaa"), ("b", "bb bb"), ("c", "cc"))
    ]
    c = classifier(labels=["c", "a", "b"])
    plan = FineTuning(n_epochs=8, batch_size=4, learning_rate=5e-3, frozen="nothing")
    list(fit(c, records, records, plan))
    assert predict(c, ["aaa 99", "bb bb 7", "cc 55"]) == ["a", "b", "c"]


# Freezing and learning


def test_only_what_is_not_frozen_learns() -> None:
    for frozen, changed in {
        "all": {"head"},
        "all but the last block": {"head", "blocks.2", "ln_f"},
        "nothing": {"head", "blocks.0", "blocks.1", "blocks.2", "ln_f", "embed"},
    }.items():
        c = classifier()
        before = {name: p.detach().clone() for name, p in c.named_parameters()}
        records = messages(12)
        list(fit(c, records, records, FineTuning(n_epochs=1, frozen=frozen)))  # type: ignore[arg-type]
        moved = {
            name.removeprefix("model.")
            for name, p in c.named_parameters()
            if not torch.equal(p, before[name])
        }
        for part in ("head", "blocks.0", "blocks.1", "blocks.2", "ln_f", "embed"):
            assert any(name.startswith(part) for name in moved) == (part in changed), (frozen, part)


def test_freezing_tells_the_stages_in_which_nothing_learns() -> None:
    c = classifier()
    head = 2 * 16 + 2
    block = sum(p.numel() for p in c.model.blocks[0].parameters())
    every = sum(p.numel() for p in c.parameters())
    for frozen, n_stages, n_learn in (
        ("all", 4, head),
        ("all but the last block", 3, head + block + 32),
        ("nothing", 0, every),
    ):
        assert freeze(c, frozen) == n_stages  # type: ignore[arg-type]
        assert sum(p.numel() for p in c.parameters() if p.requires_grad) == n_learn


def test_reading_ahead_gives_what_reading_at_once_gives() -> None:
    c = classifier()
    texts = [text for _, text in messages(40)]
    for stop in (0, 2, 4):
        states, targets = read_ahead(c, messages(40), stop)
        assert targets.tolist() == [0] * 40 + [1] * 20
        assert [len(state) for state in states] == [len(BYTES.encode(text)) for text in texts]
        probabilities = score(c, states, stop).softmax(-1)
        assert torch.allclose(probabilities, predict_probabilities(c, texts), atol=1e-6)


def test_every_text_is_in_one_batch_and_lengths_are_alike() -> None:
    draw = random.Random(0)
    lengths = [draw.randrange(1, 90) for _ in range(103)]
    for generator in (None, torch.Generator().manual_seed(0)):
        batches = length_batches(lengths, 8, generator)
        assert sorted(i for batch in batches for i in batch) == list(range(103))
        assert sum(max(lengths[i] for i in b) * len(b) for b in batches) < 1.15 * sum(lengths)
    other = length_batches(lengths, 8, torch.Generator().manual_seed(1))
    assert batches != other
    assert length_batches([], 8) == []


def test_a_classifier_learns_and_tells_how() -> None:
    c, records = classifier(max_tokens=12), messages(60)
    train, validation, test = split_records(records)
    plan = FineTuning(n_epochs=6, batch_size=4, learning_rate=3e-3, frozen="nothing")
    reports = list(fit(c, train, validation, plan))
    n_batches = math.ceil(len(train) / 4)
    assert [report.step for report in reports] == [n_batches * (n + 1) for n in range(len(reports))]
    assert losses(reports)[-1] < 0.2 < reports[0].loss
    assert reports[0].tokens_per_second > 0
    assert not c.training
    answers = predict(c, [text for _, text in test])
    assert [label for label, _ in test] == answers


def test_the_same_seed_learns_the_same_and_another_does_not() -> None:
    def learn(seed: int, dropout: float = 0.3) -> list[float]:
        model = GPT(GPTConfig(257, 32, 2, 2, 16, dropout), torch.Generator().manual_seed(0))
        c = TextClassifier(
            model, BYTES, ["ham", "spam"], 32, generator=torch.Generator().manual_seed(0)
        )
        torch.manual_seed(random.randrange(100))  # no matter
        plan = FineTuning(n_epochs=2, frozen="nothing", seed=seed)
        return losses(fit(c, messages(20), messages(20, seed=1), plan))

    assert learn(0) == learn(0)
    assert learn(0) != learn(1)


def test_learning_leaves_the_random_state_of_others_alone() -> None:
    c = classifier()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(fit(c, messages(6), messages(6), FineTuning(n_epochs=1)))
    assert torch.equal(torch.rand(3), expected)


def loss_on(c: TextClassifier, records: list[LabeledText]) -> float:
    states, targets = read_ahead(c, records, 0)
    return F.cross_entropy(score(c, states), targets).item()


def test_learning_stops_early_and_goes_back_to_the_best_epoch() -> None:
    train = messages(30)
    wrong = [("spam" if label == "ham" else "ham", text) for label, text in messages(30, seed=1)]
    c = classifier()
    plan = FineTuning(n_epochs=20, learning_rate=5e-3, frozen="nothing", patience=3)
    found = losses(fit(c, train, wrong, plan))
    assert len(found) == found.index(min(found)) + 1 + 3 < 20
    assert loss_on(c, wrong) == pytest.approx(min(found), abs=1e-6)


def test_closing_a_run_leaves_the_best_epoch_so_far() -> None:
    c, records = classifier(), messages(30)
    run = fit(c, records, records, FineTuning(n_epochs=9, frozen="nothing"))
    first = next(run)
    run.close()
    assert loss_on(c, records) == pytest.approx(first.validation_loss, abs=1e-6)
    assert not c.training


def test_a_run_refuses_bad_records_before_it_starts() -> None:
    good, c = messages(6), classifier()
    before = [p.clone() for p in c.parameters()]
    for bad, message in (
        (
            [("ham", "a"), ("eggs", "b")],
            r"part has \['eggs', 'ham'\]; give two or more of",
        ),
        (
            [("ham", "a"), ("ham", "b")],
            r"part has \['ham'\]; give two or more of \['ham', ",
        ),
        ([("ham", ""), ("spam", "b")], "text 0 of 2 is empty"),
    ):
        for train, validation in ((bad, good), (good, bad)):
            with pytest.raises(ValueError, match=message):
                next(fit(c, train, validation))
    with pytest.raises(ValueError, match=r"the validation part has \[\]"):
        next(fit(c, good, []))
    assert all(torch.equal(p, old) for p, old in zip(c.parameters(), before, strict=True))


def test_only_a_classifier_s_own_checkpoint_is_resumed(tmp_path: Path) -> None:
    c, records = classifier(), messages(24)
    with pytest.raises(ValueError, match="resume is True without a checkpoint"):
        next(fit(c, records, records, resume=True))
    save_checkpoint(tmp_path / "run.pt", TrainingState.start(c.model, TrainingConfig(1)))
    with pytest.raises(ValueError, match="is of another plan or other records"):
        next(fit(c, records, records, checkpoint=tmp_path / "run.pt", resume=True))


def test_a_run_that_loses_its_numbers_says_so_and_goes_back() -> None:
    c, good = classifier(), messages(6)
    before = [p.clone() for p in c.parameters()]
    plan = FineTuning(learning_rate=1e30, head_learning_rate=1e30, frozen="nothing")
    with pytest.raises(FloatingPointError, match=r"(nan|inf) at step .*; lower"):
        next(fit(c, good, good, plan))
    assert all(torch.equal(p, old) for p, old in zip(c.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"n_epochs": 0},
        {"patience": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"head_learning_rate": math.nan},
        {"n_epochs": 1.5},
        {"batch_size": "16"},
        {"frozen": "the head"},
    ],
)
def test_a_plan_that_can_not_be_run_is_refused(change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be"):
        FineTuning(**change)


# Files


def test_a_saved_classifier_comes_back_the_same(tmp_path: Path) -> None:
    c = classifier(labels=["nein", "ja ☺"], max_tokens=9, pooling="mean")
    texts = ["win", "a longer message that is cut", "☺"]
    save_classifier(c, tmp_path / "new")
    same = load_classifier(tmp_path / "new")
    assert (same.labels, same.max_tokens) == (["nein", "ja ☺"], 9)
    assert (same.pooling, same.training) == ("mean", False)
    assert torch.equal(predict_probabilities(same, texts), predict_probabilities(c, texts))
    model, _ = load_gpt2(tmp_path / "new")  # the folder of a model, as chapter 7 writes it
    assert torch.equal(model.ln_f.weight, c.model.ln_f.weight)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "config.json",
        "head.safetensors",
        "merges.txt",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.json",
    ]
    save_classifier(classifier(), tmp_path / "new")
    assert load_classifier(tmp_path / "new").labels == ["ham", "spam"]


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_classifier(classifier(), tmp_path)
    path = tmp_path / "head.safetensors"
    tensors = load_file(path)
    facts = {"labels": json.dumps(["a", "b", "c"]), "max_tokens": "null", "pooling": '"last"'}
    save_file(tensors, path, metadata=facts)
    with pytest.raises(ValueError, match=r"(?s)of another model: .*size mismatch for weight"):
        load_classifier(tmp_path)
    other = {"weight": torch.zeros(3, 8), "bias": torch.zeros(3)}
    save_file(other, path, metadata=facts)
    with pytest.raises(ValueError, match=r"(?s)of another model: .*size mismatch for weight"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {"labels": '["a", "b"]'},
        {"labels": '["a", "b"]', "max_tokens": "null", "pooling": '"first"'},
        {"labels": '["a", ', "max_tokens": "null", "pooling": '"last"'},
        {"labels": "3", "max_tokens": "null", "pooling": '"last"'},
        {"labels": '["a", "a"]', "max_tokens": "null", "pooling": '"last"'},
        {"labels": '["a", "b"]', "max_tokens": '"x"', "pooling": '"last"'},
        {"labels": '["a", "b"]', "max_tokens": "999", "pooling": '"last"'},
    ],
)
def test_a_head_without_sound_facts_is_refused(tmp_path: Path, facts: dict[str, str]) -> None:
    save_classifier(classifier(), tmp_path)
    path = tmp_path / "head.safetensors"
    save_file(load_file(path), path, metadata=facts)
    with pytest.raises(ValueError, match=r"head\.safetensors is damaged"):
        load_classifier(tmp_path)


def test_a_damaged_or_missing_head_is_told_from_a_model(tmp_path: Path) -> None:
    save_classifier(classifier(), tmp_path)
    path = tmp_path / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"head\.safetensors is damaged"):
        load_classifier(tmp_path)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has no head\.safetensors: a model, but no classifier; fit one"
    ):
        load_classifier(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_classifier(tmp_path / "nowhere")


# A look inside


def test_leaving_a_word_out_is_reading_the_text_without_it() -> None:
    c = classifier()
    parts = leave_one_out(c, " win a\nprize! ", "spam")
    assert [word for word, _ in parts] == ["win ", "a\n", "prize!"]
    p = predict_probabilities(c, [" win a\nprize! ", "a\nprize!", "win prize!", "win a"])[:, 1]
    assert [change for _, change in parts] == pytest.approx((p[0] - p[1:]).tolist(), abs=1e-6)
    opposite = [change for _, change in leave_one_out(c, " win a\nprize! ", "ham")]
    assert opposite == pytest.approx([-change for _, change in parts], abs=1e-6)


def test_a_single_word_has_no_without() -> None:
    assert leave_one_out(classifier(), "win!", "ham") == [("win!", 0.0)]
    with pytest.raises(ValueError, match="'eggs' is not in list"):
        leave_one_out(classifier(), "x", "eggs")
    with pytest.raises(ValueError, match="is empty"):
        leave_one_out(classifier(), " ", "ham")


def test_a_stranger_s_end_of_text_is_only_text() -> None:
    model = GPT(replace(SIZES, vocab_size=50_257)).eval()
    c = TextClassifier(model, gpt2_encoding(), ["ham", "spam"])
    assert predict(c, ["hello <|endoftext|>"])[0] in ("ham", "spam")


def test_a_classifier_on_a_model_in_half_precision_can_be_used() -> None:
    model = GPT(SIZES, torch.Generator().manual_seed(0)).bfloat16().eval()
    probabilities = predict_probabilities(TextClassifier(model, BYTES, ["ham", "spam"]), ["hi"])
    assert probabilities.float().sum().item() == pytest.approx(1, abs=0.02)


def test_probabilities_are_no_answers() -> None:
    with pytest.raises(ValueError, match=r"0\.9 is neither yes nor no; compare it with"):
        confusion([True, False], [0.9, 0.2])  # type: ignore[list-item]


def test_another_model_in_the_folder_takes_the_head_away(tmp_path: Path) -> None:
    save_classifier(classifier(), tmp_path)
    save_gpt2(GPT(SIZES), BYTES, tmp_path)
    with pytest.raises(FileNotFoundError, match="a model, but no classifier"):
        load_classifier(tmp_path)


def test_a_head_counts_only_beside_its_own_model(tmp_path: Path) -> None:
    save_classifier(classifier(), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"beside": []}))  # another model's, with a head left over
    with pytest.raises(FileNotFoundError, match="a model, but no classifier"):
        load_classifier(tmp_path)
    del config["beside"]  # as folders of the first edition have it
    path.write_text(json.dumps(config))
    assert load_classifier(tmp_path).labels == ["ham", "spam"]
