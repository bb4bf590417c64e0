"""The package stays small and plain, and the counts that say so are right."""

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
