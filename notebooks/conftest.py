"""How pytest runs the notebooks, on top of nbval.

Three things nbval doesn't know: a cell tagged `real-data` is compared only where the real data is,
a picture in HTML is compared by its description, and a cell that is selected alone (by its node
id, say) needs the cells above it.
"""

from collections.abc import Generator
from queue import Empty

import psutil
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from gptlib.extras import datasets

LOADERS = {
    "war_and_peace(": "war-and-peace",
    "sms_spam(": "sms-spam",
    "alpaca(": "alpaca",
}

only_run: list[str] = []


def missing_data(book: IPyNbFile) -> list[str]:
    """Name the data sets that a notebook loads and that are replaced by a stand-in here."""
    source = "\n".join(cell.source for cell in book.nb.cells if cell.cell_type == "code")
    names = [name for call, name in LOADERS.items() if call in source]
    return [name for name in names if not datasets.is_real(name)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stop comparing cells whose data can't be had; leave out notebooks that need more memory."""
    free = psutil.virtual_memory().available
    small = pytest.mark.skip(reason=f"it needs 8 GB of free memory, and {free / 1e9:.1f} GB are")
    books: dict[IPyNbFile, list[str]] = {}
    for item in items:
        if isinstance(item, IPyNbCell):  # a picture's bytes differ, its description must not
            item.parent.sanitize_patterns[r"(?<=;base64,)[\w+/=]+"] = "PICTURE"
            if item.path.parent.name == "optional" and free < 8e9:
                item.add_marker(small)
        if isinstance(item, IPyNbCell) and "real-data" in item.cell.metadata.get("tags", []):
            book = item.parent
            if book not in books:
                books[book] = missing_data(book)
            if books[book]:
                item.options["check"] = False
                only_run.append(item.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cells were run without a comparison because of a stand-in."""
    if only_run:
        terminalreporter.write_line(
            f"cells tagged real-data that were run on a stand-in, not compared: {len(only_run)}"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Before a cell, run the cells above it that this kernel hasn't seen."""
    if isinstance(item, IPyNbCell):
        book = item.parent
        done = getattr(book, "cells_run", 0)
        above = [cell for cell in book.nb.cells if cell.cell_type == "code"][done : item.cell_num]
        for cell in above:
            message = book.kernel.execute_cell_input(cell.source, allow_stdin=False)
            try:
                book.kernel.await_reply(message, timeout=item.config.option.nbval_cell_timeout)
                book.kernel.await_idle(message, item.output_timeout)
            except Empty:
                pytest.fail(f"a cell above did not end in time:\n{cell.source}")
        book.cells_run = item.cell_num + 1
    return (yield)
