"""Imports go one way, in the order of the chapters, and each check can fail."""

import pytest
from imports import forbidden_imports, imported_modules, later_names
from notebook_files import ROOT, module_path, public_names, taught_stems


@pytest.mark.parametrize("name", taught_stems())
def test_a_taught_module_imports_only_earlier_ones(name: str) -> None:
    earlier = taught_stems()[: taught_stems().index(name)]
    source = module_path(name).read_text(encoding="utf-8")
    assert forbidden_imports(source, earlier) == []


@pytest.mark.parametrize(
    "line",
    [
        "from gptlib.gpt2 import GPT",
        "import gptlib.gpt2",
        "from gptlib import gpt2",
        "from . import gpt2",
        "from gptlib.extras.plots import show",
        "from gptlib.extras import plots",
        "import pooch",
        "def late():\n    from gptlib.gpt2 import GPT",
    ],
)
def test_a_later_module_extras_and_other_packages_are_found(line: str) -> None:
    allowed = "import math\nimport torch\nfrom gptlib.embeddings import InputEmbedding\n"
    assert forbidden_imports(allowed, ["embeddings"]) == []
    assert len(forbidden_imports(allowed + line, ["embeddings"])) == 1


@pytest.mark.parametrize("name", taught_stems())
def test_a_taught_module_names_nothing_of_a_later_one(name: str) -> None:
    stems = taught_stems()
    here = stems.index(name) + 1
    sources = {stem: module_path(stem).read_text(encoding="utf-8") for stem in stems}
    known = {found for stem in stems[:here] for found in public_names(sources[stem])}
    files_known = {"head.safetensors"} if name == "classification" else set()
    later = {stem: sources[stem] for stem in stems[here:]}
    assert set(later_names(sources[name], known, later)) <= files_known


@pytest.mark.parametrize(
    "line",
    [
        'raise ValueError("call merge_lora first")',
        "# as in gptlib.instructions",
        '"""See `LoRAConfig`."""',
        'FILE = "head.safetensors"',
    ],
)
def test_a_later_name_is_found_in_code_and_strings(line: str) -> None:
    later = {"instructions": "class LoRAConfig: ...\ndef merge_lora(): ...\ndef tune(): ..."}
    assert later_names("def tune(): ...  # merge", {"tune"}, later) == []
    assert len(later_names(line, set(), later)) == 1
    assert later_names('"merge_lora"', {"merge_lora"}, later) == []


def test_only_the_command_line_imports_the_commands() -> None:
    extras = ROOT / "gptlib" / "extras"
    for path in extras.rglob("*.py"):
        inside = path.parent.name == "commands"
        modules = imported_modules(path.read_text(encoding="utf-8"))
        found = [module for module in modules if module.startswith("gptlib.extras.commands")]
        assert not found or inside or path.name == "cli.py", f"{path.name} imports {found}"
