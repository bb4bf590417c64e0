"""Which modules a source imports, and whether a taught module may."""

import ast
import sys

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
