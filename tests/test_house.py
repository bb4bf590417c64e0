"""The package stays small and plain, and the counts that say so are right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from house import (
    Weight,
    checkers,
    functions_called,
    taught_weights,
    tricks_in,
    weigh,
)
from notebook_files import ROOT
from rope import add_rotary_positions

MODULE = '''"""A module.

Two lines more.
"""

LIMIT = 3  # why three


def check_size(x: int) -> None:
    """Refuse."""
    if x > LIMIT:
        raise ValueError(
            "too large"
        )


def double(x: int) -> int:
    """Double."""
    check_size(x)
    # twice
    return 2 * x
'''


def test_lines_of_code_names_checks_docstrings_and_comments_are_counted() -> None:
    helpers = checkers([MODULE])
    assert helpers == {"check_size"}
    assert weigh(MODULE, helpers) == Weight(code=9, names=3, validation=5, docstrings=6, comments=2)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("model.__class__ = Other", "__class__ ="),
        ("from functools import singledispatch", "singledispatch"),
        ("layer.forward = faster", "patched forward"),
        ("class Mapped(Tensor): ...", "tensor subclass"),
        ("exec('x = 1')", "exec"),
    ],
)
def test_each_trick_is_found(line: str, name: str) -> None:
    assert [found for found, _ in tricks_in(line)] == [name]
    assert not list(tricks_in("class Layer(nn.Linear): ...\nlayer.weight = weight"))


def test_there_is_no_trick_in_the_package() -> None:
    for path in sorted((ROOT / "gptlib").rglob("*.py")):
        if "checks" not in path.parts:  # they plant mistakes on purpose
            assert list(tricks_in(path.read_text(encoding="utf-8"))) == [], path.name


def test_only_the_packages_own_functions_count_as_called() -> None:
    from gptlib.tokenizer import BPETokenizer

    called = functions_called(lambda: BPETokenizer([]).encode_ordinary("to be"))
    assert ("gptlib/tokenizer.py", "split_words") in called
    assert all(file == "gptlib/tokenizer.py" for file, _ in called)
    called = functions_called(lambda: BPETokenizer([]).encode("to be"), until="split_words")
    assert ("gptlib/tokenizer.py", "merge_word") not in called


def test_the_taught_modules_stay_small() -> None:
    total = sum(taught_weights().values(), Weight())
    assert total.code <= 2700
    assert total.names <= 210
    assert total.validation <= 0.12 * total.code
    assert total.docstrings <= 0.85 * total.code


ROTARY = """
import torch
from gptlib.generation import KeyValueCache, Sampling, extend, generate_batch
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.instructions import read_rows

sizes = GPTConfig(
    vocab_size=50, context_length=32, n_layer=2, n_head=2, n_embd=16, positions="rotary"
)
model = GPT(sizes, torch.Generator().manual_seed(0)).eval()
with torch.no_grad():
    for weight in model.parameters():
        weight.mul_(3)
tokens = torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(0))
whole = model(tokens)
first_two_changed = tokens[:, [1, 0, *range(2, 20)]]
assert not torch.allclose(model(first_two_changed)[:, -1], whole[:, -1], atol=1e-4)
moved = model.unembed(model.stream(tokens, positions=torch.arange(20) + 5))
assert torch.allclose(moved, whole, atol=1e-5)  # only distances count
cache = KeyValueCache(model, batch_size=3, capacity=32)
parts = [extend(model, part, cache) for part in tokens.split([7, 1, 12], dim=1)]
assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)
prompts = [row[:n] for row, n in zip(tokens.tolist(), (5, 9, 20), strict=True)]
write = lambda rows: list(zip(*generate_batch(model, rows, 8, Sampling(temperature=0))))
assert write(prompts) == [write([prompt])[0] for prompt in prompts]
records, places = torch.tensor([[1] * 8 + [2] * 12]), torch.arange(12)[None]
packed = read_rows(model, tokens[:1], torch.cat((places[:, :8], places), 1), records)
alone = read_rows(model, tokens[:1, 8:], places, torch.ones_like(places))
assert torch.allclose(packed[:, 8:], alone, atol=1e-5)
"""


def test_rotary_positions_touch_three_files_and_then_hold_everywhere(tmp_path: Path) -> None:
    assert add_rotary_positions(tmp_path) == ["embeddings.py", "attention.py", "gpt2.py"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", ROTARY], cwd=tmp_path, env=environment, check=True)
