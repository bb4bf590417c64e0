"""Each chapter runs from top to bottom in JupyterLab, and its widget answers to the reader."""

import re

from conftest import Book, Lab, write_notebook
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


def test_attention_keys_and_clicks_move_the_query(book: Book) -> None:
    book.open("03_attention.ipynb")
    book.run_all()
    root = book.widget(".attention-map")
    query = int(root.get_attribute("data-query") or -1)
    root.focus()
    root.press("ArrowUp")
    expect(root).to_have_attribute("data-query", str(query - 1))
    book.widget('.attention-word[data-word="1"]').click()
    expect(root).to_have_attribute("data-query", "1")
    book.widget('.attention-cell[data-query="2"][data-key="0"]').click()
    expect(root).to_have_attribute("data-query", "2")
    status = book.widget(".attention-status")
    before = status.inner_text()
    book.widget(".attention-head[data-head='1']").click()
    expect(root).to_have_attribute("data-head", "1")
    expect(status).not_to_have_text(before)
    root.press("End")
    last = book.page.locator(".attention-map").first.locator(".attention-word").count() - 1
    expect(root).to_have_attribute("data-query", str(last))
    book.picture(root, "attention")


def test_gpt2_a_preset_changes_the_numbers_and_bad_sizes_are_explained(book: Book) -> None:
    book.open("04_gpt2.ipynb")
    book.run_all()
    readout = book.widget("p[aria-live]")
    preset = book.widget(".widget-dropdown select")
    preset.select_option("GPT-2 XL")
    expect(readout).to_contain_text("1,557,611,200 parameters")
    preset.select_option("GPT-2 small")
    expect(readout).to_contain_text("124,439,808 parameters")
    heads = book.page.locator(".widget-slider .noUi-handle").nth(1)
    heads.focus()
    heads.press("ArrowRight")
    expect(readout).to_contain_text("n_embd 768 is not divisible by n_head 13")


BOARD = """
import torch
from IPython.display import display
from gptlib.extras.datasets import bundled
from gptlib.extras.widgets.training import TrainingBoard
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.training import TrainingConfig, train
torch.set_num_threads(1)
tokens = torch.tensor(list(bundled("stand-in-war-and-peace.txt").read_bytes()))
frequency = tokens.bincount(minlength=256) / len(tokens)
unigram = -(frequency * (frequency + 1e-9).log()).sum().item()
sizes = GPTConfig(vocab_size=256, context_length=32, n_layer=1, n_head=4, n_embd=64)
model = GPT(sizes, torch.Generator().manual_seed(0))
config = TrainingConfig(n_steps=1500, warmup_steps=100, evaluate_every=250)
baselines = {"uniform": 5.55, "unigram": unigram}
def sample():
    text = tokens[:32].tolist()
    for _ in range(200):
        logits = model(torch.tensor([text[-32:]]))[0, -1]
        text.append(logits.softmax(-1).multinomial(1).item())
    return bytes(text[32:]).decode(errors="replace")
board = TrainingBoard(config.n_steps, baselines, sample)
display(board)
"""


def test_training_the_buttons_act_while_the_cell_runs(lab: Lab, book: Book) -> None:
    run = "reports = board.run(train(model, tokens[:70_000], tokens[70_000:], config))"
    write_notebook(lab.folder, "board.ipynb", BOARD, run, "print(board.state)")
    book.open("board.ipynb")
    book.start()
    readout = book.widget("p[aria-live]")
    expect(readout).to_contain_text("(running)")
    book.widget("button >> text=Pause").click()
    expect(readout).to_contain_text("(paused)")
    held = readout.inner_text()
    book.page.wait_for_timeout(1000)
    assert readout.inner_text() == held
    book.widget("button >> text=Resume").click()
    expect(readout).to_contain_text("(running)")
    expect(readout).to_contain_text(re.compile(r"Step 1,[01]\d\d"), timeout=120_000)
    book.widget("button >> text=Stop").click()
    expect(readout).to_contain_text("(stopped)")
    book.finish(60)
    expect(book.page.locator(".jp-OutputArea-output").last).to_contain_text("stopped")
    book.picture(book.widget(".widget-vbox"), "training")


def test_tokenizer_the_boxes_follow_the_text(book: Book) -> None:
    book.open("01_tokenizer.ipynb")
    book.run_all()
    readout = book.widget("p[aria-live]")
    book.widget(".widget-toggle-button >> text=GPT-2").click()
    book.widget(".widget-textarea textarea").fill("War and Peace <b>")
    expect(readout).to_contain_text("6 tokens")
    boxes = book.widget(".widget-html:has-text('13195')")
    expect(boxes).to_contain_text("290")
    book.widget(".widget-toggle-button >> text=characters").click()
    expect(readout).to_contain_text("17 tokens")


def test_training_the_chapter_runs_to_its_end(book: Book) -> None:
    book.open("05_training.ipynb")
    book.run_all(900)
    expect(book.widget("p[aria-live]")).to_contain_text("(finished)")
    root = book.widget(".attention-map")
    root.focus()
    root.press("Home")
    expect(root).to_have_attribute("data-query", "0")
