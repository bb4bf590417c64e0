"""Chapter 10's module: token files, activation checkpointing, several processes, checkpoints."""

import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parallel_worker import PLAN, new_model, text
from torch import Tensor, nn

from gptlib.embeddings import TokenWindows, random_batch, split_tokens
from gptlib.extras.launch import launch
from gptlib.gpt2 import GPT, GPT2_SMALL, GPTConfig, count_parameters, flops_per_token, memory_bytes
from gptlib.scaling import (
    Machine,
    MappedTokens,
    TokenFile,
    activation_bytes,
    any_process,
    checkpoint_activations,
    load_together,
    model_flops_utilization,
    newest_checkpoint,
    open_tokens,
    parallel_step,
    prepare_tokens,
    processes,
    regroup,
    train_in_parallel,
)
from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer, gpt2_encoding
from gptlib.training import Report, next_token_loss, train

WORKER = Path(__file__).with_name("parallel_worker.py")
DOCUMENTS = ["to be or not to be", "that is the question", "", "whether ’tis nobler", "to suffer"]


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(" ".join(DOCUMENTS), 270)


# Where time and memory go.


def test_utilization_is_the_share_of_the_peak() -> None:
    peak = flops_per_token(GPT2_SMALL)["training"] * 1000.0
    assert model_flops_utilization(GPT2_SMALL, 250.0, peak) == pytest.approx(0.25)
    shorter = model_flops_utilization(GPT2_SMALL, 250.0, peak, context_length=16)
    assert shorter < 0.25


@pytest.mark.parametrize(("rate", "peak"), [(0, 1), (1, 0), (-1, 1)])
def test_a_rate_of_nothing_is_refused(rate: float, peak: float) -> None:
    with pytest.raises(ValueError, match="both must be above 0"):
        model_flops_utilization(GPT2_SMALL, rate, peak)


def test_kept_bytes_count_each_piece_of_memory_once_and_no_weights() -> None:
    layer, x = nn.Linear(8, 8), torch.ones(4, 8)
    assert activation_bytes(layer, lambda: layer(x).sum()) == x.nbytes
    assert activation_bytes(layer, lambda: layer(x).sum() + layer(x).sum()) == x.nbytes


# Activation checkpointing.


def gradients(model: GPT, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    model.zero_grad()
    next_token_loss(model, inputs, targets).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_checkpointing_keeps_less_and_changes_no_gradient_and_no_name() -> None:
    sizes = GPTConfig(vocab_size=20, context_length=32, n_layer=4, n_head=2, n_embd=32)
    model = GPT(sizes, torch.Generator().manual_seed(0))
    inputs, targets = random_batch(text(), 4, 32, torch.Generator().manual_seed(0))
    names = list(model.state_dict())
    before = gradients(model, inputs, targets)
    kept = activation_bytes(model, lambda: next_token_loss(model, inputs, targets))
    checkpoint_activations(model)
    checkpoint_activations(model)  # a second call changes nothing
    after = gradients(model, inputs, targets)
    assert all(map(torch.equal, before, after))
    assert activation_bytes(model, lambda: next_token_loss(model, inputs, targets)) < kept / 3
    assert list(model.state_dict()) == names
    again = new_model()
    checkpoint_activations(again)
    again.load_state_dict(new_model().state_dict())


def test_checkpointing_draws_the_same_dropout_twice() -> None:
    sizes = GPTConfig(20, 8, n_layer=2, n_head=2, n_embd=16, dropout=0.5)
    grads = []
    for wrap in (False, True):
        model = GPT(sizes, torch.Generator().manual_seed(0)).train()
        if wrap:
            checkpoint_activations(model)
        torch.manual_seed(5)
        grads.append(gradients(model, text()[None, :8], text()[None, 1:9]))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*grads, strict=True))


# Files of tokens.


def tokens_of(tokenizer: Tokenizer, documents: list[str], path: Path, **options: Any) -> list[int]:
    list(prepare_tokens(documents, tokenizer, path, **options))
    read: list[int] = open_tokens(path, verify=True).tolist()
    return read


def test_a_prepared_file_holds_every_document_and_the_end_after_each(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    end = [tokenizer.special_tokens[END_OF_TEXT]] if tokenizer.special_tokens else []
    expected = [t for document in DOCUMENTS for t in [*tokenizer.encode(document), *end]]
    assert tokens_of(tokenizer, DOCUMENTS, tmp_path / "deep" / "a.tokens") == expected
    assert (tmp_path / "deep" / "a.tokens").stat().st_size == 2 * len(expected)


def test_tiktokens_documents_end_with_its_end_of_text(tmp_path: Path) -> None:
    encoding = gpt2_encoding()
    read = tokens_of(encoding, ["a <|endoftext|> b", "c"], tmp_path / "a.tokens")
    assert read.count(encoding.eot_token) == 2
    assert encoding.decode(read[:-2]).startswith("a <|endoftext|> b")


def test_the_counts_that_are_yielded_grow_to_the_whole(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    counts = list(prepare_tokens(DOCUMENTS, tokenizer, tmp_path / "a"))
    assert len(counts) == len(DOCUMENTS)
    assert counts == sorted(counts)
    assert counts[-1] == len(open_tokens(tmp_path / "a"))


@pytest.mark.parametrize("done", range(5))
def test_a_preparation_that_was_killed_goes_on(
    tokenizer: BPETokenizer, tmp_path: Path, done: int
) -> None:
    whole = tokens_of(tokenizer, DOCUMENTS, tmp_path / "whole")
    path = tmp_path / "a"
    run = prepare_tokens(DOCUMENTS, tokenizer, path, save_every=1)
    for _ in range(done):
        next(run)
    run.close()
    if path.exists():
        with pytest.raises(ValueError, match="run it again, and it goes on"):
            open_tokens(path)
        with open(path, "ab") as file:
            file.write(b"half a docu")  # what a kill may leave behind the last safe state
    assert tokens_of(tokenizer, DOCUMENTS, path) == whole
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_more_documents_can_follow_later(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    whole = tokens_of(tokenizer, DOCUMENTS, tmp_path / "whole")
    tokens_of(tokenizer, DOCUMENTS[:2], tmp_path / "a")
    assert tokens_of(tokenizer, DOCUMENTS, tmp_path / "a") == whole


def test_other_documents_and_another_tokenizer_are_refused(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    whole = tokens_of(tokenizer, DOCUMENTS, path)
    for others in (["to see", *DOCUMENTS[1:]], DOCUMENTS[:3]):
        with pytest.raises(ValueError, match="pass the same 5 first"):
            list(prepare_tokens(others, tokenizer, path))
        assert open_tokens(path).tolist() == whole
    with pytest.raises(ValueError, match="another tokenizer, of 270 tokens"):
        list(prepare_tokens(DOCUMENTS, BPETokenizer.train("abc abc", 258), path))


def test_a_damaged_file_is_refused(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a"
    tokens_of(tokenizer, DOCUMENTS, path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="promises"):
        open_tokens(path)
    path.write_bytes(data + b"..")
    with pytest.raises(ValueError, match="promises"):
        open_tokens(path)
    path.write_bytes(data[:-2] + b"\xff\xff")
    open_tokens(path)
    with pytest.raises(ValueError, match="largest id 65535"):
        open_tokens(path, verify=True)
    path.with_name("a.json").write_text("{}")
    with pytest.raises(ValueError, match="describes no tokens; delete both files"):
        open_tokens(path)
    path.with_name("a.json").unlink()
    with pytest.raises(FileNotFoundError):
        open_tokens(path)


def test_large_vocabularies_take_four_bytes() -> None:
    class Large:
        vocab_size = 70_000

        def decode_bytes(self, tokens: list[int]) -> bytes:
            if tokens[0] % 1000 == 7:  # as in some of tiktoken's encodings
                raise KeyError("no such token")
            return str(tokens).encode()

    assert TokenFile.of(Large()).dtype == "int32"  # type: ignore[arg-type]


# Tensors whose numbers stay in the file.


def mapped(n: int = 500) -> MappedTokens:
    return MappedTokens(text(n).to(torch.uint16))


def test_a_mapped_tensor_is_used_like_any_other() -> None:
    tokens, plain = mapped(), text()
    assert tokens.dtype == torch.int64
    assert tokens.shape == plain.shape
    for generator_of in (torch.Generator(), torch.Generator()):
        generator_of.manual_seed(3)
    batches = [random_batch(t, 3, 8, torch.Generator().manual_seed(3)) for t in (tokens, plain)]
    assert all(map(torch.equal, *batches))
    assert type(batches[0][0]) is Tensor
    assert torch.equal(tokens[10:20] + 1, plain[10:20] + 1)
    inputs, targets = TokenWindows(tokens, 8)[2]
    assert inputs.tolist() == plain[16:24].tolist()
    assert targets.tolist() == plain[17:25].tolist()
    assert repr(tokens) == "MappedTokens((500,), stored as torch.uint16)"


def test_parts_of_a_mapped_tensor_are_mapped() -> None:
    tokens = mapped()
    learn, judge = split_tokens(tokens)
    assert isinstance(learn, MappedTokens)
    assert isinstance(judge, MappedTokens)
    assert isinstance(tokens[:496].view(-1, 8).split(4)[0], MappedTokens)
    assert isinstance(tokens.to("cpu"), MappedTokens)


def test_one_mapped_token_reads_only_itself_and_none_can_be_changed() -> None:
    tokens = mapped()
    assert isinstance(tokens[5], MappedTokens)
    assert int(tokens[5]) == int(text()[5])
    with pytest.raises(ValueError, match=r"mapped tokens can't be changed; clone\(\) them"):
        tokens[:3] = -100
    changed = tokens.clone()
    changed[:3] = -100
    assert changed[:4].tolist() == [-100, -100, -100, int(text()[3])]


def test_a_file_that_holds_something_else_is_left_alone(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    book = tmp_path / "book.txt"
    book.write_text("to be")
    with pytest.raises(ValueError, match=r"book\.txt holds something else than tokens; choose"):
        list(prepare_tokens(["a"], tokenizer, book))
    assert book.read_text() == "to be"
    with pytest.raises(ValueError, match="texts is one string, 'to be'; put it into a list"):
        list(prepare_tokens("to be", tokenizer, tmp_path / "a"))


def test_tokens_that_spell_no_character_tell_tokenizers_apart(tmp_path: Path) -> None:
    one, other = (BPETokenizer([(b"\xe4", end)]) for end in (b"\xb8", b"\xb9"))
    list(prepare_tokens(["中"], one, tmp_path / "a"))
    with pytest.raises(ValueError, match="was begun with another tokenizer"):
        list(prepare_tokens(["中"], other, tmp_path / "a"))


def test_a_new_run_does_not_begin_in_an_old_one_s_folder(tmp_path: Path) -> None:
    with processes("cpu"):
        list(train_in_parallel(new_model(), text(), None, PLAN, checkpoint=tmp_path))
        with pytest.raises(ValueError, match="holds checkpoints of a run; pass resume=True or an"):
            train_in_parallel(new_model(), text(), None, PLAN, checkpoint=tmp_path)


def test_what_needs_processes_says_so() -> None:
    with pytest.raises(ValueError, match=r"no processes have joined; call this inside `with pro"):
        train_in_parallel(new_model(), text(), None, PLAN)
    with pytest.raises(ValueError, match="kind is 'gpu'; choose 'cpu' or 'cuda', or None"):
        processes("gpu").__enter__()  # type: ignore[arg-type]


def test_training_from_a_file_is_training_from_memory(
    tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    list(prepare_tokens(DOCUMENTS * 20, tokenizer, tmp_path / "a"))
    tokens = open_tokens(tmp_path / "a")
    reports = []
    for stream in (tokens, torch.tensor(tokens.tolist())):
        sizes = GPTConfig(vocab_size=270, context_length=8, n_layer=1, n_head=2, n_embd=16)
        model = GPT(sizes, torch.Generator().manual_seed(0))
        learn, judge = split_tokens(stream)
        reports.append(without_times(list(train(model, learn, judge, PLAN))))
    assert reports[0] == reports[1]


# Several processes.


def without_times(reports: list[Report]) -> list[Report]:
    return [replace(report, tokens_per_second=0.0, seconds=0.0) for report in reports]


def assert_equal_runs(ours: list[Report], theirs: list[Report]) -> None:
    assert [report.step for report in ours] == [report.step for report in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)
        assert (a.validation_loss is None) == (b.validation_loss is None)
        if a.validation_loss is not None:
            assert a.validation_loss == pytest.approx(b.validation_loss, rel=1e-5)


@pytest.fixture(scope="module")
def single() -> tuple[GPT, list[Report]]:
    model = new_model()
    return model, list(train(model, text(), text(101), PLAN))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the worker in two processes, after one process wrote a checkpoint for each strategy."""
    folder = tmp_path_factory.mktemp("parallel")
    with processes("cpu"):
        for strategy in ("ddp", "fsdp"):
            run = train_in_parallel(
                new_model(),
                text(),
                text(101),
                PLAN,
                strategy=strategy,
                checkpoint=folder / f"one-{strategy}",
            )
            next(report for report in run if report.step == 4)
            run.close()
    launch(WORKER, str(folder))
    return folder


def results(folder: Path, name: str) -> list[Report]:
    rows = json.loads((folder / "results.json").read_text())[name]
    return [Report(**row) for row in rows]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(
    folder: Path, single: tuple[GPT, list[Report]], strategy: str
) -> None:
    model, reports = single
    assert_equal_runs(results(folder, strategy), reports)
    theirs = load_together(folder / strategy).state_dict()  # written by two, read by one
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_go_on_where_one_stopped(
    folder: Path, single: tuple[GPT, list[Report]], strategy: str
) -> None:
    assert_equal_runs(results(folder, f"{strategy} after one process"), single[1][2:])


@pytest.mark.parametrize("reader", ["ddp", "fsdp"])
@pytest.mark.parametrize("writer", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_stopped(
    folder: Path,
    single: tuple[GPT, list[Report]],
    tmp_path: Path,
    writer: str,
    reader: Any,
) -> None:
    shutil.copytree(folder / f"{writer}-half", tmp_path / "half")
    with processes("cpu"):
        run = train_in_parallel(
            new_model(),
            text(),
            text(101),
            PLAN,
            strategy=reader,
            checkpoint=tmp_path / "half",
            resume=True,
        )
        assert_equal_runs(list(run), single[1][3:])


def test_only_the_newest_checkpoint_is_kept(folder: Path) -> None:
    assert [path.name for path in (folder / "ddp").iterdir()] == ["step-8"]
    assert [path.name for path in (folder / "ddp-half").iterdir()] == ["step-6"]


def test_a_batch_that_two_processes_cannot_share_is_refused(folder: Path) -> None:
    said = json.loads((folder / "results.json").read_text())["odd batch"]
    assert said == "batch_size is 3 and there are 2 processes; pass a multiple of 2"


def test_a_checkpoint_of_another_plan_is_refused(folder: Path) -> None:
    with processes("cpu"):
        options: dict[str, Any] = {"checkpoint": folder / "ddp", "resume": True}
        with pytest.raises(ValueError, match="made with seed 0, this run has 7"):
            train_in_parallel(new_model(), text(), None, replace(PLAN, seed=7), **options)
        with pytest.raises(FileNotFoundError, match="start without resume"):
            train_in_parallel(
                new_model(), text(), None, PLAN, checkpoint=folder / "none", resume=True
            )
        with pytest.raises(ValueError, match="pass checkpoint=FOLDER"):
            train_in_parallel(new_model(), text(), None, PLAN, resume=True)
        with pytest.raises(ValueError, match="choose 'ddp' or 'fsdp'"):
            train_in_parallel(
                new_model(),
                text(),
                None,
                PLAN,
                strategy="both",  # type: ignore[arg-type]
            )


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 1",)


def test_a_checkpoint_that_could_run_code_is_refused_unread(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder / "ddp", bad)
    (bad / "step-8" / ".metadata").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=r"asks for \w+.system, which describes no tensor"):
        newest_checkpoint(bad)
    with pytest.raises(ValueError, match="nothing in it was run"):
        load_together(bad)


def test_a_vote_of_one_process_is_its_own() -> None:
    with processes("cpu"):
        assert any_process(True)
        assert not any_process(False)


DYING = """
import os, signal, sys
import torch
from pathlib import Path
from parallel_worker import PLAN, new_model, text
from gptlib.scaling import checkpoints_in, processes, train_in_parallel
import torch.distributed as dist

with processes("cpu"):
    attempt, folder = os.environ["TORCHELASTIC_RESTART_COUNT"], Path(sys.argv[1])
    run = train_in_parallel(new_model(), text(), None, PLAN, strategy="fsdp", checkpoint=folder,
                            resume=bool(checkpoints_in(folder)))
    for report in run:
        if dist.get_rank() == 0:
            print(attempt, report.step, report.loss, flush=True)
        dist.barrier()
        if (report.step, dist.get_rank(), attempt) == (6, 1, "0"):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_costs_the_steps_since_the_last_checkpoint_and_nothing_else(
    single: tuple[GPT, list[Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(WORKER.parent), *sys.path]))
    (tmp_path / "dying.py").write_text(DYING)
    said = launch(tmp_path / "dying.py", str(tmp_path / "run"), max_restarts=1)
    rows = [line.split() for line in said.splitlines()]
    assert [(row[0], int(row[1])) for row in rows] == [
        ("0", 2),
        ("0", 4),
        ("0", 6),
        ("1", 6),
        ("1", 8),
    ]
    expected = {report.step: report.loss for report in single[1]}
    for _, step, loss in rows:
        assert float(loss) == pytest.approx(expected[int(step)], rel=1e-5)


def test_a_launch_that_fails_or_hangs_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('no luck')")
    with pytest.raises(RuntimeError, match="no luck"):
        launch(script)
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(RuntimeError, match="did not end within 4 s"):
        launch(script, timeout=4)


# A block cut in two.


def test_regrouped_rows_come_back() -> None:
    rows = torch.randn(24, 5)
    for n in (1, 2, 4):
        assert torch.equal(regroup(regroup(rows, 3, n), n, 3), rows)


def test_two_halves_of_each_block_train_as_the_whole_does(folder: Path) -> None:
    found = json.loads((folder / "results.json").read_text())["tensor"]
    assert len(found["losses"]) == 4
    for halves, whole in found["losses"]:
        assert halves == pytest.approx(whole, rel=1e-5)
    assert found["difference"] < 1e-6
    assert found["refused"].startswith("n_head is 1 and there are 2 processes")


# What a step would cost.

MACHINE = Machine(flops=4e14, memory=80e9, inside=4e11, between=5e10)


def test_one_device_sends_nothing() -> None:
    for strategy in ("ddp", "fsdp", "tensor"):
        cost = parallel_step(GPT2_SMALL, MACHINE, 1, 2**15, strategy)
        assert cost.sent == cost.communication == 0
        assert cost.seconds == cost.compute
        assert cost.compute == pytest.approx(
            flops_per_token(GPT2_SMALL)["training"] * 2**15 / MACHINE.flops
        )


def test_volumes_are_those_of_the_literature() -> None:
    n, tokens = 8, 2**19
    weights = count_parameters(GPT2_SMALL)["total"] * 2  # bytes in bfloat16
    ring = (n - 1) / n
    options: dict[str, Any] = {"windows_at_once": tokens // 8 // 1024}
    assert parallel_step(GPT2_SMALL, MACHINE, n, tokens, "ddp").sent == pytest.approx(
        2 * ring * weights
    )
    assert parallel_step(GPT2_SMALL, MACHINE, n, tokens, "fsdp", **options).sent == pytest.approx(
        3 * ring * weights
    )
    assert parallel_step(GPT2_SMALL, MACHINE, n, tokens, "fsdp", 8).sent == pytest.approx(
        (2 * 8 + 1) * ring * weights
    )
    assert parallel_step(GPT2_SMALL, MACHINE, n, tokens, "tensor").sent == pytest.approx(
        12 * 4 * 2 * ring * tokens * 768 * 2
    )


def test_shards_take_a_share_of_the_memory_and_other_machines_are_slower() -> None:
    one = parallel_step(GPT2_SMALL, MACHINE, 1, 2**19, "ddp")
    ddp = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "ddp")
    fsdp = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "fsdp", 64)
    full = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "ddp", 64)
    passes = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "fsdp")
    far = parallel_step(GPT2_SMALL, MACHINE, 16, 2**19, "ddp")
    assert ddp.memory == one.memory
    total = count_parameters(GPT2_SMALL)["total"]
    assert full.memory - fsdp.memory == pytest.approx(7 / 8 * 16 * total)
    assert one.memory - passes.memory == pytest.approx(7 / 8 * 12 * total)  # a whole gradient
    assert ddp.compute == pytest.approx(one.compute / 8)
    assert far.communication > 8 * ddp.communication
    assert far.seconds == max(far.compute, far.communication)
    again = parallel_step(GPT2_SMALL, MACHINE, 8, 2**19, "fsdp", 64, checkpointed=True)
    assert again.compute == pytest.approx(4 / 3 * fsdp.compute)
    assert again.memory < fsdp.memory


def test_what_is_kept_for_the_backward_pass_is_what_the_estimate_says() -> None:
    sizes = GPTConfig(vocab_size=50, context_length=64, n_layer=3, n_head=2, n_embd=64)
    model = GPT(sizes, torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (4, 64))

    def loss() -> Tensor:
        return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_activations(model)
        cost = parallel_step(sizes, MACHINE, 1, 256, "ddp", 4, checkpointed)
        held = memory_bytes(sizes)
        state = held["weights"] + held["gradients"] + held["optimizer"]
        peak = 16 * 64 * 256 * 4 if checkpointed else 0  # one block at a time, computed again
        assert activation_bytes(model, loss) + peak == pytest.approx(
            2 * (cost.memory - state), rel=0.1
        )


@pytest.mark.parametrize(("n", "tokens", "at_once"), [(0, 2048, 1), (4, 2048, 1), (1, 2048, 0)])
def test_a_step_that_cannot_be_is_refused(n: int, tokens: int, at_once: int) -> None:
    with pytest.raises(ValueError, match="leave less"):
        parallel_step(GPT2_SMALL, MACHINE, n, tokens, "ddp", at_once)
