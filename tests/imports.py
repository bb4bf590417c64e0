"""Which modules a source imports and names, and whether it may."""

import ast
import re
import sys

from notebook_files import public_names

THIRD_PARTY = {"numpy", "regex", "safetensors", "tiktoken", "torch"}


def imported_modules(source: str) -> list[str]:
    """List the modules that a source imports anywhere, "gptlib.gpt2" for a part of ours."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.module == "gptlib" or node.level:
                modules += [f"gptlib.{alias.name}" for alias in node.names]
            elif node.module:
                modules.append(node.module)
    return modules


def forbidden_imports(source: str, earlier: list[str]) -> list[str]:
    """List what a taught module imports beside earlier taught modules and the few packages."""
    allowed = {f"gptlib.{name}" for name in earlier}
    return [
        module
        for module in imported_modules(source)
        if module not in allowed
        and module.split(".")[0] not in THIRD_PARTY | set(sys.stdlib_module_names)
    ]


def later_names(source: str, known: set[str], later: dict[str, str]) -> list[str]:
    """List what a taught module names that only a later one brings, in code, text or strings.

    Args:
        source: The module.
        known: The public names of this module and of those before it.
        later: For each later module, its source.
    """
    brought = {name for text in later.values() for name in public_names(text)} - known
    names = {name for name in brought if re.search("[a-z]_[a-z]|[a-z][A-Z]", name)}
    names |= {f"gptlib.{module}" for module in later}
    names |= {"head.safetensors", "prompt_form.json"}  # files of chapters 8 and 9
    return sorted(name for name in names if re.search(rf"(?<![\w.]){re.escape(name)}\b", source))
