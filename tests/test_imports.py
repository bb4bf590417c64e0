"""A taught module imports only what was taught before it, and the check itself can fail."""

import pytest
from imports import forbidden_imports
from notebook_files import module_path, taught_stems


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
