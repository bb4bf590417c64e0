"""Compare a chapter's cells tagged `promote` with the module that they become."""

import ast
import difflib
from typing import cast

from notebook_files import Notebook, code_cells, tags


class _WithoutDocstrings(ast.NodeTransformer):
    """Remove docstrings: strings that stand alone as statements, also under a field."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.body:
            node.body = [ast.Pass()]
        return node


def definitions(source: str) -> str:
    """Return the definitions in a source, in one fixed spelling.

    Comments, docstrings, imports and the layout are gone; names, order and syntax tree are kept.
    """
    tree = cast(ast.Module, _WithoutDocstrings().visit(ast.parse(source)))
    kept = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n\n".join(ast.unparse(node) for node in kept) + "\n"


def promoted_source(book: Notebook) -> str:
    """Join the cells of a notebook that are tagged `promote`."""
    return "\n".join(cell["source"] for cell in code_cells(book) if "promote" in tags(cell))


def promotion_diff(notebook_source: str, module_source: str, name: str) -> str:
    """Return a unified diff from a chapter's definitions to its module's; empty if they agree."""
    return "\n".join(
        difflib.unified_diff(
            definitions(notebook_source).splitlines(),
            definitions(module_source).splitlines(),
            fromfile=f"cells of {name} tagged promote",
            tofile=f"gptlib/{name}.py",
            lineterm="",
        )
    )
