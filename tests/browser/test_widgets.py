"""Each chapter runs from top to bottom in JupyterLab, and its widget answers to the reader."""

import math
import re

import pytest
from conftest import ROOT, Book, Lab, write_notebook
from playwright.sync_api import Browser, Locator, Page, expect


def test_welcome_the_model_writes_and_the_bars_follow(book: Book) -> None:
    book.open("00_welcome.ipynb")
    book.run_all()
    bars = book.widget(".next-tokens")
    expect(bars).to_contain_text("cap")
    before = bars.inner_text()
    handle = book.widget(".widget-slider .noUi-handle")
    handle.focus()
    handle.press("ArrowLeft")
    expect(bars).not_to_have_text(before)
    text = book.widget(".widget-textarea textarea")
    book.widget("button >> text=Twenty tokens").click()
    expect(text).to_have_value(re.compile("^The old man took off his .{20}", re.DOTALL))
    text.fill("Once upon a")
    text.press("Tab")
    expect(bars).to_contain_text("time")
    line = book.widget(".machine-line")
    expect(line).to_contain_text("After “·his” the model says “·cap”, 21 %")


def test_welcome_a_task_is_done_wrong_and_then_right(book: Book) -> None:
    book.open("00_welcome.ipynb")
    book.run_all()
    cell = book.page.locator(".jp-CodeCell", has_text="checks.next_words(next_words)")
    expect(cell.locator(".jp-OutputArea")).to_contain_text("Not written yet")
    stub = cell.locator(".cm-content").inner_text()
    for stop, said in (("len(words) + 1", "Not yet"), ("len(words)", "Correct")):
        answer = f"return [(words[:n], words[n]) for n in range(1, {stop})]"
        cell.locator(".cm-content").click()
        book.page.keyboard.press("ControlOrMeta+a")
        book.page.keyboard.insert_text(stub.replace("...  # your line here", answer))
        book.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-OutputArea")).to_contain_text(said)


def test_embeddings_the_picture_follows_the_position(book: Book) -> None:
    book.open("02_embeddings.ipynb")
    book.run_all()
    readout = book.widget(".widget-html p[aria-live]")
    expect(readout).to_contain_text("Position 20 in the learned table")
    picture = book.widget("img.widget-image")
    before = picture.get_attribute("src")
    handle = book.widget(".widget-slider .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    expect(readout).to_contain_text("Position 21 in the learned table")
    expect(picture).not_to_have_attribute("src", before or "")
    book.widget(".widget-toggle-button >> text=sinusoidal").click()
    expect(readout).to_contain_text("Position 21 in the sinusoidal table")


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
    expect(readout).to_contain_text("n_embd is 768; it must be divisible by n_head, 13")


BOARD = """
import torch
from IPython.display import display
from gptlib.tokenizer import find_data
from gptlib.extras.widgets.training import TrainingBoard
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.training import TrainingConfig, train
torch.set_num_threads(1)
tokens = torch.tensor(list(find_data("stand-in-war-and-peace.txt").read_bytes()))
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
    # Playwright looks once a second, and a fast machine takes 300 steps meanwhile.
    expect(readout).to_contain_text(re.compile(r"Step ([5-9]\d\d|1,\d\d\d) of"), timeout=120_000)
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


PLAYGROUND = """
import time
import torch
from IPython.display import display
from gptlib.extras.models import load_model
from gptlib.extras.widgets.generation import SamplingPlayground
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer, find_data
try:
    model, tokenizer = load_model()
except FileNotFoundError:  # the shipped one is not there: a small one that was never trained
    text = find_data("stand-in-war-and-peace.txt").read_text(encoding="utf-8")
    tokenizer = BPETokenizer.train(text[:40_000], 400)
    sizes = GPTConfig(vocab_size=400, context_length=64, n_layer=2, n_head=4, n_embd=64)
    model = GPT(sizes, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.ln_f.weight.mul_(5)
playground = SamplingPlayground(model, tokenizer, "The prince", seed=1)
display(playground)
"""
UNTIL_STOPPED = """
limit = time.monotonic() + 200
while playground.state != "stopped" and time.monotonic() < limit:
    time.sleep(0.05)
print(playground.state)
"""


def test_generation_the_playground_writes_stops_and_goes_back(lab: Lab, book: Book) -> None:
    write_notebook(lab.folder, "playground.ipynb", PLAYGROUND, UNTIL_STOPPED)
    book.open("playground.ipynb")
    book.start()  # the second cell is busy until Stop: everything else acts meanwhile
    tokens = book.page.locator(".sampling-tokens .sampling-token")
    expect(tokens).to_have_count(12, timeout=90_000)
    status = book.widget(".sampling-status")
    expect(status).to_contain_text("12 tokens, perplexity")
    prompt = book.widget(".widget-text input[type='text']")
    prompt.fill("The old count")
    prompt.press("Enter")
    expect(status).to_contain_text("A new prompt. No tokens yet.")
    expect(book.widget(".sampling-prompt")).to_have_text("The old count")

    divided = book.widget(".sampling-stages tbody tr >> nth=0 >> td >> nth=4")
    before = divided.inner_text()
    temperature = book.widget(".widget-slider:has-text('temperature') .noUi-handle")
    temperature.focus()
    temperature.press("ArrowRight")
    expect(book.widget(".sampling-stages thead")).to_contain_text("0.85")
    expect(divided).not_to_have_text(before)

    book.widget("button >> text=Step").click()
    expect(tokens).to_have_count(1)
    expect(status).to_contain_text("the model gave it")
    alternatives = book.page.locator(".sampling-alternative")
    label = alternatives.nth(2).get_attribute("data-label") or ""
    alternatives.nth(2).click()
    expect(tokens).to_have_count(2)
    expect(tokens.nth(1)).to_have_attribute("data-label", label)
    expect(status).to_contain_text(f"You wrote “{label}”.")
    label = alternatives.nth(1).get_attribute("data-label") or ""
    alternatives.nth(0).focus()
    book.page.keyboard.press("ArrowDown")
    book.page.keyboard.press("Enter")
    expect(tokens).to_have_count(3)
    expect(tokens.nth(2)).to_have_attribute("data-label", label)
    expect(alternatives.nth(1)).to_be_focused()
    book.page.keyboard.press("Space")
    expect(tokens).to_have_count(4)

    heading = book.widget(".sampling-heading")
    tokens.nth(1).click()
    expect(heading).to_contain_text("Token 2, ")
    book.page.keyboard.press("ArrowRight")
    book.page.keyboard.press("Enter")
    expect(heading).to_contain_text("Token 3, ")
    expect(book.widget(".sampling-written .sampling-alternative")).to_have_text(label)

    count = book.widget(".widget-text:has-text('tokens per Run') input")
    count.fill("5000")  # minutes, so that Stop comes while it writes
    count.press("Enter")
    book.widget("button >> text=Run").click()
    expect(tokens.nth(8)).to_be_attached()
    book.widget("button >> text=Stop").click()
    expect(book.widget(".sampling-view")).to_have_attribute("data-state", "stopped")
    expect(status).to_contain_text("Stopped. Wrote ")
    book.finish(60)
    expect(book.page.locator(".jp-OutputArea-output").last).to_have_text("stopped")
    n = tokens.count()
    assert n < 5000
    book.widget("button >> text=Undo").click()
    expect(tokens).to_have_count(n - 1)
    book.page.set_viewport_size({"width": 1200, "height": 1300})
    book.picture(book.widget(".sampling-playground"), "generation")

    top_k = book.widget(".widget-text:has-text('top-k') input")
    top_k.fill("-1")
    top_k.press("Enter")
    expect(status).to_have_text(re.compile("Not possible: top_k is -1; it must be at least 1"))
    expect(tokens).to_have_count(n - 1)
    top_k.fill("3")
    top_k.press("Enter")
    expect(status).not_to_contain_text("Not possible")
    book.widget("button >> text=Compare").click()
    expect(book.page.locator(".sampling-panel")).to_have_count(2)
    expect(tokens).to_have_count(2 * (n - 1))


def test_generation_the_chapter_runs_to_its_end(book: Book) -> None:
    book.open("06_generation.ipynb")
    book.run_all(600)
    expect(book.widget("[aria-live]")).to_contain_text("Next token")


def test_weights_the_chapter_runs_to_its_end(book: Book) -> None:
    book.open("07_weights.ipynb")
    book.run_all(600)


LENS = """
import torch
from IPython.display import display
from gptlib.classification import FineTuning, TextClassifier, fit
from gptlib.extras.models import load_model
from gptlib.extras.widgets.classification import MessageLens
torch.set_num_threads(1)
records = [("spam", f"Claim your prize number {n} now") for n in range(12)]
records += [("ham", f"Are we still on for lunch at {n}?") for n in range(12)]
model, tokenizer = load_model()
classifier = TextClassifier(model, tokenizer, ["ham", "spam"], 32, "mean")
list(fit(classifier, records, records, FineTuning(4, 8, head_learning_rate=0.05, frozen="all")))
display(MessageLens(classifier, ["Claim your prize", "Are we on?", "Lunch now"], records))
"""


def test_classification_the_lens_follows_the_message(lab: Lab, book: Book) -> None:
    write_notebook(lab.folder, "lens.ipynb", LENS)
    book.open("lens.ipynb")
    book.run_all()
    readout = book.page.locator(".widget-html p[aria-live]").first
    expect(readout).to_contain_text("This reads as spam: the probability of spam is")
    book.widget(".widget-dropdown select").select_option(index=1)
    text = book.widget(".widget-textarea textarea")
    expect(text).to_have_value("Are we on?")
    expect(readout).to_contain_text("This reads as ham")
    image = book.widget("img.widget-image")
    before = image.get_attribute("src") or ""
    text.fill("Claim lunch")
    text.press("Tab")
    expect(book.page.locator(".widget-html div:has(> span[title])").first).to_contain_text("lunch")
    expect(image).not_to_have_attribute("src", before)
    expect(book.page.locator(".widget-html table").first).to_contain_text("Nearest known")
    text.fill(" ")
    text.press("Tab")
    expect(book.page.locator(".widget-html p[role='alert']").first).to_contain_text("is empty")


CHAT_BOX = """
from IPython.display import display
from gptlib.extras.models import load_model
from gptlib.extras.widgets.instructions import ChatBox
from gptlib.instructions import CHAT
model, tokenizer = load_model()
box = ChatBox(model, tokenizer, CHAT, max_new_tokens=200)
display(box)
"""
UNTIL_ASKED = """
import time
limit = time.monotonic() + 200
while len(box.turns) < 2 and time.monotonic() < limit:
    time.sleep(0.05)
box.wait(60)
print(len(box.turns[0]["output"]) > 0, box.status.value)
"""


def test_instructions_the_chat_box_streams_stops_and_forgets(lab: Lab, book: Book) -> None:
    write_notebook(lab.folder, "chat.ipynb", CHAT_BOX, UNTIL_ASKED)
    book.open("chat.ipynb")
    book.start()  # the second cell is busy: Send and Stop act meanwhile
    status = book.page.locator("p[role='status']").first
    expect(status).to_contain_text("Write an instruction", timeout=90_000)
    instruction = book.widget(".widget-text input >> nth=0")
    talk = book.widget("div[role='log']")
    send, stop = book.widget("button >> text=Send"), book.widget("button >> text=Stop")
    send.click()
    expect(status).to_contain_text("Not sent: the instruction is empty")
    for n, question in enumerate(("Who came in?", "And then?"), start=1):
        instruction.fill(question)
        instruction.press("Tab")
        send.click()
        answered = talk.locator("p:has-text('Model:')").nth(n - 1)
        expect(answered).to_have_text(re.compile(r"Model: \S+"))  # it streams
        stop.evaluate("button => button.click()")  # a short answer may be done already
        expect(status).to_contain_text(re.compile("Stopped by you|Done"))
    expect(talk).to_contain_text("You: Who came in?")
    book.finish(60)
    book.widget("button >> text=Clear").click()
    expect(status).to_contain_text("Forgotten")
    expect(talk).to_have_text("")


SIDE_BY_SIDE = """
import copy
import torch
from IPython.display import display
from gptlib.extras.models import load_model
from gptlib.extras.widgets.instructions import SideBySide
from gptlib.instructions import CHAT
model, tokenizer = load_model()
other = copy.deepcopy(model)
with torch.no_grad():
    other.ln_f.weight.mul_(-1)  # it says the least likely thing
models = {"base": model, "other": other}
display(SideBySide(models, tokenizer, CHAT, "Say yes.", max_new_tokens=12))
"""


def test_instructions_two_models_answer_side_by_side(lab: Lab, book: Book) -> None:
    write_notebook(lab.folder, "side.ipynb", SIDE_BY_SIDE)
    book.open("side.ipynb")
    book.run_all()
    base, other = book.widget("div[aria-label='base'] p"), book.widget("div[aria-label='other'] p")
    before = base.inner_text()
    assert before
    assert before != other.inner_text()
    for place, words in enumerate(("Write the name of the person.", "Natasha laughed.")):
        field = book.widget(f".widget-text input >> nth={place}")
        field.fill(words)
        field.press("Tab")
    book.widget("button >> text=Send").click()
    status = book.page.locator("p[role='status']").first
    expect(base).not_to_have_text(before)
    expect(status).to_contain_text("Done.")
    expect(other).not_to_be_empty()


PLANNER = """
from IPython.display import display
from gptlib.extras.widgets.scaling import StepPlanner
display(StepPlanner())
"""


def test_scaling_the_planner_follows_its_sliders(lab: Lab, book: Book) -> None:
    write_notebook(lab.folder, "planner.ipynb", PLANNER)
    book.open("planner.ipynb")
    book.run_all()
    readout = book.page.locator(".widget-html p[aria-live]").first
    expect(readout).to_contain_text("GPT-2 XL, fsdp, 64 devices")
    image = book.widget("img.widget-image")
    before = image.get_attribute("src") or ""
    devices = book.widget(".widget-slider .noUi-handle >> nth=0")
    devices.focus()
    devices.press("ArrowRight")
    expect(readout).to_contain_text("GPT-2 XL, fsdp, 128 devices")
    expect(image).not_to_have_attribute("src", before)
    book.widget(".widget-dropdown select >> nth=0").select_option("7 billion")
    book.widget(".widget-dropdown select >> nth=1").select_option("ddp")
    expect(readout).to_contain_text("7 billion, ddp, 128 devices")


def move_through_the_machine(page: Page, machine: Locator) -> None:
    """Do what a reader does, with the keys and with the mouse, in a notebook or in a page."""
    tokens = machine.locator(".machine-token")
    line = machine.locator(".machine-line")
    expect(machine).to_have_attribute("data-stage", "attention")
    expect(line).to_have_text("Block 4, head 2: “·was” looks most at “ception”, weight 0.76.")
    tokens.nth(19).focus()
    page.keyboard.press("ArrowLeft")
    expect(machine).to_have_attribute("data-follow", "18")
    expect(tokens.nth(18)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(line).to_contain_text("“·was” looks most at “ception”")

    head = machine.locator(".machine-head").nth(3)
    head.focus()
    page.keyboard.press("Enter")
    expect(line).to_contain_text("Block 4, head 3:")
    expect(head).to_be_focused()
    machine.locator(".machine-keys tbody tr", has_text="Pierre").click()
    check = machine.locator(".machine-check")
    expect(check).to_contain_text("“·was” looks at “Pierre”")
    page.keyboard.press("ArrowDown")
    expect(check).to_contain_text("“·was” looks at “·had”")
    check.locator("summary").press("Enter")
    products = check.locator(".machine-products span")
    expect(products).to_have_count(64)
    spelled = [text.replace("−", "-") for text in products.all_inner_texts()]
    total = sum(float(text.split("= ")[1]) for text in spelled)
    row = machine.locator(".machine-keys tr.machine-here td")
    dot, score, weight = (float(row.nth(n).inner_text().replace("−", "-")) for n in (1, 2, 3))
    assert abs(total - dot) < 0.3
    assert abs(dot / 8 - score) < 0.01
    column = machine.locator(".machine-keys tbody tr td:nth-child(4)").all_inner_texts()
    powers = [math.exp(float(text.replace("−", "-"))) for text in column]
    assert abs(math.exp(score) / sum(powers) - weight) < 0.01

    machine.locator("select").focus()
    page.keyboard.press("ArrowUp")
    expect(line).to_contain_text("Block 3, head 3:")
    machine.locator("select").select_option("0")
    expect(line).to_contain_text("Block 0, head 3:")
    for stage, said in STAGES.items():
        button = machine.locator(f".machine-stage[data-stage={stage}]")
        button.focus()
        page.keyboard.press("Enter")
        expect(line).to_contain_text(said)
        expect(button).to_have_attribute("aria-pressed", "true")
    best = machine.locator(".machine-next tbody tr >> nth=0 >> td >> nth=2")
    expect(best).to_have_text("66 %")
    slider = machine.locator("input[type=range]")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    expect(machine.locator("output")).to_have_text("0.5")
    expect(best).to_have_text("96 %")
    page.keyboard.press("Home")
    expect(best).to_have_text("100 %")
    tokens.nth(12).click()
    expect(line).to_contain_text("After “·Anna” the model says “·P”")


STAGES = {
    "tokens": "“·was” is token 19, number 315",
    "vectors": "The vector of “·was” is a row of the tokens' table plus",
    "mlp": "of the neurons fire for “·was”",
    "stream": "The vector of “·was” grows from length 0.80",
    "next": "After “·was” the model says “⏎”, 66 %. The text goes on with “·the”",
}
MACHINE = """
from gptlib.extras.models import SHIPPED, load_model
from gptlib.extras.widgets.machine import SENTENCE, SentenceMachine
way = SentenceMachine("attention", SENTENCE, *load_model(SHIPPED))
way
"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_machine_a_sentence_is_followed(lab: Lab, book: Book, theme: str) -> None:
    write_notebook(lab.folder, "way.ipynb", MACHINE)
    book.open("way.ipynb")
    book.run_all()
    change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
    book.page.evaluate(change, theme)
    light = "true" if "Light" in theme else "false"
    expect(book.page.locator("body")).to_have_attribute("data-jp-theme-light", light)
    machine = book.widget(".sentence-machine")
    book.page.set_viewport_size({"width": 1200, "height": 1300})
    if "Light" in theme:
        book.picture(machine, "machine")
    move_through_the_machine(book.page, machine)
    text = machine.locator("input[type=text]")
    text.fill("Napoleon had taken Moscow")
    text.press("Enter")
    line = machine.locator(".machine-line")
    expect(line).to_contain_text("After “·Moscow” the model says")
    before = line.inner_text()
    text.fill("so " * 40)
    text.press("Enter")
    problem = machine.locator("[role=alert]")
    expect(problem).to_have_text(re.compile(r"The text has \d+ tokens, and 32 fit. Shorten it."))
    expect(line).to_have_text(before)
    text.fill("")
    text.press("Enter")
    expect(problem).to_have_text("The text is empty. Type at least one word.")
    text.fill("Napoleon")
    text.press("Tab")
    expect(problem).to_be_hidden()
    book.page.evaluate(change, "JupyterLab Light")


def test_machine_the_page_needs_no_kernel_and_no_network(browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 940, "height": 900}, offline=True)
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    address = (ROOT / "notebooks" / "sentence_machine.html").as_uri()
    page.goto(address)
    machine = page.locator(".sentence-machine")
    move_through_the_machine(page, machine)
    expect(machine.locator("input[type=text]")).to_have_count(0)
    page.set_viewport_size({"width": 600, "height": 900})
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 600
    assert troubles == []
    assert asked == [address]
    context.close()
