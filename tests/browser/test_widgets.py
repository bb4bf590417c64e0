"""Each chapter runs from top to bottom in JupyterLab, and its widget answers to the reader."""

import re

from conftest import Book
from playwright.sync_api import expect


def test_welcome_the_slider_moves_with_the_arrow_keys(book: Book) -> None:
    book.open("00_welcome.ipynb")
    book.run_all()
    line = book.widget(".next-word")
    expect(line).to_have_text(re.compile(r"mountains \?$"))
    handle = book.widget(".widget-slider .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    expect(line).to_have_text(re.compile(r"mountains and \?$"))
    book.widget(".widget-checkbox input").check()
    expect(line).to_have_text(re.compile(r"mountains and the$"))


def test_embeddings_the_picture_follows_the_position(book: Book) -> None:
    book.open("02_embeddings.ipynb")
    book.run_all()
    readout = book.widget(".widget-html p[aria-live]")
    expect(readout).to_contain_text("Position 20 in the sinusoidal table")
    picture = book.widget("img.widget-image")
    before = picture.get_attribute("src")
    handle = book.widget(".widget-slider .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    expect(readout).to_contain_text("Position 21 in the sinusoidal table")
    expect(picture).not_to_have_attribute("src", before or "")
    book.widget(".widget-toggle-button >> text=learned").click()
    expect(readout).to_contain_text("Position 21 in the learned table")
