"""A real JupyterLab in a real browser, on copies of the notebooks.

Playwright drives Debian's Chromium, or the Chrome or Chromium that the reader has.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "tests" / "browser" / "pictures"
TOKEN = "course"
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}

expect.set_options(timeout=30_000)

READY = """() => {
    const session = window.jupyterapp?.shell.currentWidget?.sessionContext?.session;
    return session?.kernel?.status === "idle";
}"""
WAKE = """() => {
    // What reaches ipykernel 7.3 while it answers lies unread, with all that follows, until
    // somebody else connects (its issue 1554, mended in 7.4, which the widgets can't use yet).
    // That befalls JupyterLab's first question to a new kernel, too.
    setInterval(() => {
        const session = window.jupyterapp?.shell.currentWidget?.sessionContext?.session;
        const other = session?.kernel?.clone();
        setTimeout(() => other?.dispose(), 2000);
    }, 5000);
}"""
START = """() => {
    window.ended = null;
    window.jupyterapp.commands.execute("notebook:run-all-cells").then(
        succeeded => window.ended = succeeded ? "whole" : "interrupted",
        error => window.ended = String(error));
}"""
WHERE = """() => Array.from(document.querySelectorAll(".jp-CodeCell"))
    .filter(cell => cell.querySelector(".jp-InputPrompt").textContent.includes("*"))
    .map(cell => cell.querySelector(".cm-content").textContent.slice(0, 200))"""


@dataclass
class Lab:
    """A running JupyterLab."""

    address: str
    """Where it answers, such as http://127.0.0.1:8900."""
    folder: Path
    """The folder that it shows: a copy of notebooks/."""


def chrome() -> str:
    """Find a browser, or say how to get one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    places = (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    )
    found = [os.environ.get("CHROME"), *map(shutil.which, names), *filter(os.path.exists, places)]
    if browser := next(filter(None, found), None):
        return browser
    raise FileNotFoundError(
        "no Chromium or Chrome was found; install one (Debian: apt-get install chromium) or set "
        "CHROME to the program"
    )


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start JupyterLab on a copy of the notebooks, with nothing of the user's own settings."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".*", "*.py"))
    shutil.copytree(ROOT / "tests" / "golden", home / "tests" / "golden")  # chapter 7 reads them
    for path in folder.rglob("*.ipynb"):
        _clear_outputs(path)
    for name, text in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "GPTLIB_RUNS": str(home / "runs"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    address = f"http://127.0.0.1:{port}"
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            _wait_until_it_answers(f"{address}/api/status?token={TOKEN}", server, home / "log")
            yield Lab(address, folder)
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:  # a kernel that is deep in work holds it up
                server.kill()


def _clear_outputs(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, path)


def _wait_until_it_answers(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start the browser once for all tests; it reaches nothing but this machine."""
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chrome(), args=quiet)
        yield browser
        browser.close()


def _ask(lab: Lab, method: str, path: str) -> Any:
    address = f"{lab.address}/api/{path}?token={TOKEN}"
    with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=30) as got:
        text = got.read()
    return json.loads(text) if text else None


class Book:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page: Page, lab: Lab, pictures: Path) -> None:
        self.page = page
        self.lab = lab
        self.pictures = pictures

    def open(self, name: str) -> None:
        """Open a notebook and wait for its first cell."""
        self.page.goto(f"{self.lab.address}/lab/tree/{name}?token={TOKEN}&reset")
        expect(self.page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=60_000)
        self.page.evaluate(WAKE)

    def start(self) -> None:
        """Begin to run every cell, and don't wait for the end."""
        self.page.wait_for_function(READY, timeout=60_000)
        self.page.evaluate(START)

    def finish(self, seconds: float = 240) -> None:
        """Wait until every cell has run, and fail if one of them failed or is too slow."""
        try:
            self.page.wait_for_function("() => window.ended", timeout=1000 * seconds, polling=100)
        except TimeoutError:
            pytest.fail(
                f"not at the end after {seconds} s; cells that run or wait: "
                f"{self.page.evaluate(WHERE)}; kernels: {_ask(self.lab, 'GET', 'kernels')}"
            )
        errors = self.page.locator("[data-mime-type='application/vnd.jupyter.error']")
        assert errors.count() == 0, errors.first.inner_text()
        assert self.page.evaluate("window.ended") == "whole"

    def run_all(self, seconds: float = 240) -> None:
        """Run every cell and wait for the last."""
        self.start()
        self.finish(seconds)

    def widget(self, css: str) -> Locator:
        """Find a part of a widget in the outputs, brought into view."""
        part = self.page.locator(f".jp-OutputArea {css}").first
        part.scroll_into_view_if_needed(timeout=30_000)
        return part

    def picture(self, part: Locator, name: str) -> None:
        """Take a picture of a widget: the README's, if KEEP_PICTURES is set."""
        part.scroll_into_view_if_needed()
        part.screenshot(path=self.pictures / f"{name}.png")


@pytest.fixture
def book(lab: Lab, browser: Browser, tmp_path: Path) -> Iterator[Book]:
    """Give a fresh page, on which JavaScript errors fail the test."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield Book(page, lab, PICTURES if os.environ.get("KEEP_PICTURES") else tmp_path)
    page.close()
    for session in _ask(lab, "GET", "sessions"):  # a kernel left over would hold its memory
        _ask(lab, "DELETE", f"sessions/{session['id']}")
    assert not errors, errors


def write_notebook(folder: Path, name: str, *sources: str) -> None:
    """Write a notebook of a few code cells into JupyterLab's folder."""
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = spec
    nbformat.write(notebook, folder / name)
