"""Train the model that travels with the course: 128 novels and nine tenths of War and Peace.

    python data/models/train_novels.py --minutes 8

It makes the texts and the tokens, compares a few shapes on equal time, trains the best one, lets it
end on three mixtures of the texts, and writes the folder of the best. The curve is in its log.
Meant for a GPU. --smoke tries all of it in two minutes, on a CPU too, with tiny models.
"""

import argparse
import json
import math
import multiprocessing as mp
import queue
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_library import HELD_OUT, library
from torch import Tensor

from gptlib.embeddings import split_tokens
from gptlib.extras.datasets import war_and_peace
from gptlib.generation import Sampling, generate_batch
from gptlib.gpt2 import GPT, GPTConfig, attention_maps
from gptlib.tokenizer import END_OF_TEXT, BPETokenizer, end_of_text
from gptlib.training import (
    Loss,
    Report,
    TrainingConfig,
    TrainingState,
    bits_per_byte,
    draw_windows,
    evaluate,
    next_token_loss,
    run_steps,
    take_step,
    train,
)
from gptlib.weights import head_scores, load_gpt2, save_gpt2

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOKENS_PER_STEP = 65_536 if DEVICE == "cuda" else 1024
DROPOUT = 0.1
WEIGHT_DECAY = 0.3
KEEP = 0.3
"""How much of the weights before the lesson in copying the model keeps."""


@dataclass(frozen=True)
class Shape:
    """One model of the search."""

    name: str
    n_layer: int = 6
    n_embd: int = 384
    n_head: int = 6
    vocab_size: int = 8192
    context_length: int = 512
    rate: float = 3e-3

    def config(self) -> GPTConfig:
        """Give the sizes as a model takes them."""
        sizes = asdict(self)
        return GPTConfig(
            **{k: v for k, v in sizes.items() if k not in ("name", "rate")}, dropout=DROPOUT
        )


SEARCH = (
    Shape("6 x 384"),
    Shape("6 x 384, 4096 tokens", vocab_size=4096),
    Shape("8 x 320", n_layer=8, n_embd=320, n_head=5),
    Shape("6 x 384, 12 heads", n_head=12),
    Shape("6 x 384, context 256", context_length=256),
    Shape("6 x 384, half the rate", rate=1.5e-3),
    Shape("6 x 256, 4096 tokens, context 256", 6, 256, 8, 4096, 256),
)
"""The first is the favourite; the last is the shape of the model before this one."""

SMALL = (
    Shape("2 x 32", 2, 32, 2, 512, 32),
    Shape("2 x 32, 384 tokens", 2, 32, 2, 384, 32),
    Shape("2 x 32, half the rate", 2, 32, 2, 512, 32, 1.5e-3),
)

BOOK_WEIGHTS = (1, 4, 12)
"""How often War and Peace counts in the last seconds of training, three ways."""


class Log:
    """Keep a file of JSON lines, and count the seconds."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.start, self.seconds, self.path = time.time(), minutes * 60, path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def left(self, reserve: float = 0.0) -> float:
        """Count the seconds until the end, less those that are kept for later."""
        return self.start + self.seconds - time.time() - reserve

    def __call__(self, **values: Any) -> None:
        """Write one line."""
        line = json.dumps({"seconds": round(time.time() - self.start, 1)} | values)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


# The text as tokens


def encode(folder: Path, text: str) -> np.ndarray:
    """Turn one text into tokens; it runs in a process of its own."""
    return np.array(BPETokenizer.load(folder).encode(text), dtype=np.uint16)


def prepare(work: Path, shapes: tuple[Shape, ...], smoke: bool, log: Log) -> None:
    """Write the tokens of library, book and held-out book for each size of vocabulary."""
    texts, book = library(), war_and_peace()
    if smoke:
        texts = {name: text[:20_000] for name, text in texts.items() if name[0] in "jr"}
        book = book[:200_000]
    held_out = texts.pop(HELD_OUT)
    sizes = sorted({shape.vocab_size for shape in shapes})
    if not (work / f"tokenizer-{sizes[-1]}").is_dir():  # 20 seconds; the last tenth stays unseen
        trained = BPETokenizer.train([*texts.values(), book[: len(book) * 9 // 10]], sizes[-1])
        for size in sizes:  # a smaller vocabulary is the beginning of a larger one
            BPETokenizer(trained.merges[: size - 257]).save(work / f"tokenizer-{size}")
    log(event="texts", books=len(texts), bytes=sum(len(text.encode()) for text in texts.values()))
    with ProcessPoolExecutor(8, mp.get_context("spawn")) as pool:
        for size in sizes:
            folder = work / f"tokenizer-{size}"
            parts = pool.map(encode, [folder] * (len(texts) + 2), [book, held_out, *texts.values()])
            book_tokens, held_out_tokens = next(parts), next(parts)
            end = np.array([BPETokenizer.load(folder).special_tokens[END_OF_TEXT]], dtype=np.uint16)
            stream = np.concatenate(list(chain.from_iterable((part, end) for part in parts)))
            arrays = {"library": stream, "book": book_tokens, "held-out": held_out_tokens}
            for name, tokens in arrays.items():
                np.save(work / f"{name}-{size}.npy", tokens)
            log(event="tokens", vocab_size=size, **{n: len(tokens) for n, tokens in arrays.items()})


@dataclass(frozen=True)
class Data:
    """Hold all tokens on the device."""

    tokenizer: BPETokenizer
    library: Tensor
    book: Tensor
    last_tenth: Tensor
    held_out: Tensor

    @classmethod
    def read(cls, work: Path, vocab_size: int) -> "Data":
        """Read what `prepare` wrote."""
        arrays = [np.load(work / f"{n}-{vocab_size}.npy") for n in ("library", "book", "held-out")]
        stream, whole, held_out = (torch.from_numpy(a.astype(np.int32)).to(DEVICE) for a in arrays)
        book, last_tenth = split_tokens(whole)
        return cls(
            BPETokenizer.load(work / f"tokenizer-{vocab_size}"), stream, book, last_tenth, held_out
        )

    def mixture(self, weight: int) -> Tensor:
        """Lay the library and so many copies of the book end to end."""
        end = self.book.new_tensor([self.tokenizer.special_tokens[END_OF_TEXT]])
        return torch.cat([self.library, *[self.book, end] * weight])

    def figures(self, model: GPT) -> dict[str, float]:
        """Measure bits per byte on the two texts that no training sees, and on one that it sees."""
        texts = {"last_tenth": self.last_tenth, "held_out": self.held_out}
        texts["seen"] = self.library[: len(self.last_tenth)]
        found = {}
        for name, tokens in texts.items():
            n_bytes = len(self.tokenizer.decode_bytes(tokens.tolist()))
            loss = evaluate(model, tokens, batch_size=32)
            found[name] = round(bits_per_byte(loss, len(tokens) - 1, n_bytes), 4)
        return found


@torch.no_grad()
def induction(model: GPT) -> float:
    """Find the best induction score of all heads: random tokens, half a context of them, twice."""
    period = model.config.context_length // 2
    source = torch.Generator().manual_seed(0)
    once = torch.randint(model.config.vocab_size - 1, (8, period), generator=source)
    maps = attention_maps(model, once.repeat(1, 2).to(DEVICE))
    return round(head_scores(maps, period)["induction"].max().item(), 3)


# One run of training


def build(config: GPTConfig) -> GPT:
    """Make a model with starting weights that suit its width (chapter 5)."""
    torch.manual_seed(0)  # dropout draws from PyTorch's own generator
    model = GPT(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(math.sqrt(768 / config.n_embd))
    for block in model.blocks:
        block.attn.dropout.p = 0.0  # attention itself is faster without
    return model.to(DEVICE)


def plan(config: GPTConfig, n_steps: int, **changes: Any) -> TrainingConfig:
    """Plan a run in which a step has the same number of tokens for every context."""
    return TrainingConfig(
        n_steps=n_steps,
        batch_size=max(1, TOKENS_PER_STEP // config.context_length),
        weight_decay=WEIGHT_DECAY,
        precision="bfloat16",
        **changes,
    )


def compiled_loss(model: GPT, log: Log | None = None) -> Loss:
    """Compile the loss and try it on a batch; where that fails, take it as it is."""
    length = model.config.context_length
    shape = (max(1, TOKENS_PER_STEP // length), length + 1)
    windows = torch.randint(model.config.vocab_size, shape, device=DEVICE)
    fast = torch.compile(next_token_loss, dynamic=False)
    for loss in (fast, fast, next_token_loss):  # a second try where others filled the memory
        try:
            model.train()
            with torch.autocast(DEVICE, torch.bfloat16):
                value = loss(model, windows[:, :-1], windows[:, 1:])
            value.backward()
            model.zero_grad()
            return loss
        except Exception as error:
            if log is not None:
                log(event="not compiled", error=f"{type(error).__name__}: {error}"[:500])
            time.sleep(3)
    raise RuntimeError("the loss can't be computed")


def measure_speed(model: GPT, tokens: Tensor, loss: Loss, n_steps: int) -> float:
    """Measure steps per second; the model's weights are put back."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    small = plan(model.config, 2 * n_steps, report_every=n_steps, max_learning_rate=1e-6)
    reports = list(train(model, tokens, None, small, loss=loss))
    model.load_state_dict(kept)
    return reports[-1].tokens_per_second / (small.batch_size * model.config.context_length)


class Average:
    """Keep the mean of a model's weights at several moments."""

    def __init__(self, model: GPT) -> None:
        self.n, self.weights = 0, [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def add(self, model: GPT) -> None:
        """Let the weights of this moment count."""
        self.n += 1
        for mean, parameter in zip(self.weights, model.parameters(), strict=True):
            mean.lerp_(parameter, 1 / self.n)

    @torch.no_grad()
    def copy_to(self, model: GPT) -> None:
        """Give a model the mean weights."""
        for mean, parameter in zip(self.weights, model.parameters(), strict=True):
            parameter.copy_(mean)


# The search


def try_shape(
    shape: Shape, work: Path, seconds: float, ready: Event, go: Event, results: "Queue[Any]"
) -> None:
    """Train one shape for so many seconds; all compile at once, then each has the GPU alone."""
    torch.set_float32_matmul_precision("high")
    model = build(shape.config())
    loss = compiled_loss(model)
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    ready.set()
    go.wait()
    data = Data.read(work, shape.vocab_size)
    tokens = data.mixture(1)
    speed = measure_speed(model, tokens, loss, 10)
    n_steps = max(20, int(seconds * speed))
    run = plan(
        model.config,
        n_steps,
        max_learning_rate=shape.rate,
        warmup_steps=n_steps // 5,
        report_every=50,
    )
    torch.manual_seed(0)
    *_, last = train(model, tokens, None, run, loss=loss)
    scores = data.figures(model) | {"induction": induction(model)}
    results.put(
        {
            "shape": shape.name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "rate": shape.rate,
            "steps": n_steps,
            "tokens_per_second": round(last.tokens_per_second),
            "compiled": loss is not next_token_loss,
            "loss": round(last.loss, 4),
            **scores,
        }
    )


def search(shapes: tuple[Shape, ...], work: Path, seconds: float, smoke: bool, log: Log) -> Shape:
    """Compare the shapes on equal time and choose one; tokens are made while they compile."""
    context = mp.get_context("spawn")
    results: Queue[Any] = context.Queue()
    runs = []
    for shape in shapes:
        ready, go = context.Event(), context.Event()
        arguments = (shape, work, seconds, ready, go, results)
        process = context.Process(target=try_shape, args=arguments)
        process.start()
        runs.append((shape, process, ready, go))
    found: dict[str, dict[str, Any]] = {}
    try:
        prepare(work, shapes, smoke, log)
        deadline = time.time() + 60
        late = [s.name for s, _, ready, _ in runs if not ready.wait(max(1, deadline - time.time()))]
        log(event="compiled", late=late)
        for shape, process, _, go in runs:
            if shape.name in late:
                continue
            go.set()
            try:
                found[shape.name] = results.get(timeout=2 * seconds + 15)
                log(event="search", **found[shape.name])
            except queue.Empty:
                log(event="no result", shape=shape.name)
            process.join(3)
            process.terminate()
    finally:
        for _, process, *_ in runs:
            process.terminate()
    return choose(shapes, found)


def choose(shapes: tuple[Shape, ...], found: dict[str, dict[str, Any]]) -> Shape:
    """Take the best mean of the two texts.

    A smaller vocabulary learns faster and is passed by later, so it must lead by 0.02 bits; the
    last of the shapes is there to compare with.
    """
    *choice, _ = shapes
    favourite = shapes[0]

    def bits(shape: Shape) -> float:
        result = found.get(shape.name)
        if result is None:
            return math.inf
        smaller = shape.vocab_size < favourite.vocab_size
        return (result["last_tenth"] + result["held_out"]) / 2 + (0.02 if smaller else 0.0)

    best = min((shape for shape in choice if shape.rate == favourite.rate), key=bits)
    slower = next((shape for shape in choice if shape.rate != favourite.rate), favourite)
    rate = min((favourite, slower), key=bits).rate
    return replace(best, rate=rate)


# The long run


def report_line(report: Report) -> dict[str, Any]:
    """Shorten a report for the log."""
    return {
        "step": report.step,
        "loss": round(report.loss, 4),
        "rate": float(f"{report.learning_rate:.3g}"),
        "norm": round(report.gradient_norm, 3),
        "tokens_per_second": round(report.tokens_per_second),
    }


def repeated_passages(tokens: Tensor, n: int, length: int) -> Tensor:
    """Make passages of the text that are said twice in a row, n of them end to end."""
    starts = torch.randint(len(tokens) - length, (n, 1), generator=torch.Generator().manual_seed(1))
    passages = tokens[(starts + torch.arange(length)).to(tokens.device)]  # (n, length)
    return torch.cat([passages, passages], dim=1).flatten()


def long_run(
    model: GPT, data: Data, loss: Loss, shape: Shape, folder: Path, end_seconds: float, log: Log
) -> int:
    """Train from scratch until `end_seconds` are left; return the steps taken."""
    tokens = data.mixture(1)
    speed = measure_speed(model, tokens, loss, 30)
    n_evaluations = 16
    n_steps = max(50, int((log.left(end_seconds) - n_evaluations * 0.8) * speed * 0.97))
    log(
        event="long run",
        shape=asdict(shape),
        steps=n_steps,
        speed=round(speed, 2),
        tokens=len(tokens),
    )
    run = plan(
        model.config,
        n_steps,
        max_learning_rate=shape.rate,
        min_learning_rate=shape.rate / 10,  # what follows goes on from there, down to 0
        warmup_steps=min(300, n_steps // 5),
        report_every=max(1, n_steps // (n_evaluations * 4)),
    )
    torch.manual_seed(0)
    reports = train(model, tokens, None, run, loss=loss)
    saved = time.time()
    for i, report in enumerate(reports, start=1):
        line = report_line(report)
        if i % 4 == 0 or report.step == n_steps:
            line |= data.figures(model) | {"induction": induction(model)}
        log(event="train", passes=round(report.step * TOKENS_PER_STEP / len(tokens), 2), **line)
        if time.time() - saved > 60:
            save_gpt2(model, data.tokenizer, folder, torch.float16)
            saved = time.time()
        if log.left(end_seconds) < -8:
            log(event="out of time", step=report.step)
            break
    return report.step


def finish(
    model: GPT, data: Data, loss: Loss, shape: Shape, seconds: float, speed: float, log: Log
) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """End the run in several ways from the same weights; give each one's figures and weights."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    copies_badly = induction(model) < 0.5
    n_steps = max(20, int(seconds * speed))
    run = plan(
        model.config,
        n_steps,
        max_learning_rate=shape.rate / 10,
        warmup_steps=n_steps // 20,
        report_every=max(1, n_steps // 40),
        seed=1,
    )
    for weight in BOOK_WEIGHTS:
        model.load_state_dict(start)
        tokens = data.mixture(weight)
        if copies_badly:
            n = len(tokens) // 32 // 128
            tokens = torch.cat([tokens, repeated_passages(data.library, n, 64)])
        average = Average(model)
        torch.manual_seed(1)
        for report in train(model, tokens, None, run, loss=loss):
            if report.step > n_steps * 0.7:
                average.add(model)
        for weights in ("last", "average"):
            if weights == "average":
                average.copy_to(model)
            with torch.no_grad():
                for parameter in model.parameters():  # judged as it will be stored
                    parameter.copy_(parameter.half())
            model.eval()
            found: dict[str, Any] = {
                "book_weight": weight,
                "weights": weights,
                "repeats": copies_badly,
            }
            found |= {"steps": n_steps, "loss": round(report.loss, 4)}
            found |= data.figures(model) | {"induction": induction(model)}
            log(event="finish", **found)
            yield found, {name: value.clone() for name, value in model.state_dict().items()}


# Copying


def repeats(n: int, config: GPTConfig, source: torch.Generator) -> Tensor:
    """Make windows (n, T + 1) of random tokens that repeat after a period of their own."""
    length = config.context_length
    once = torch.randint(config.vocab_size - 1, (n, length + 1), generator=source)
    period = torch.randint(16, length // 2 + 1, (n, 1), generator=source)
    return once.gather(1, torch.arange(length + 1) % period)


def name_tokens(data: Data) -> Tensor:
    """Find the tokens that begin a name: a capital after a blank, where a small letter is rare."""
    counts = torch.bincount(data.library, minlength=data.tokenizer.vocab_size).tolist()
    ids = data.tokenizer.ids
    found = []
    for token, i in ids.items():
        letters = token.decode("utf-8", "ignore")
        if letters[:1] == " " and letters[1:2].isupper() and letters[1:].isalpha():
            small = ids.get(letters.lower().encode())
            if token != b" I" and (small is None or counts[small] < counts[i]):
                found.append(i)
    return torch.tensor(found)


def exchange(n: int, names: Tensor, vocab_size: int, source: torch.Generator) -> Tensor:
    """Make a table for each of n windows that says which token takes a token's place.

    Beginnings of names are exchanged for others at random; all other tokens stay.
    """
    tables = torch.arange(vocab_size, dtype=torch.int32).repeat(n, 1)
    tables[:, names] = names[torch.rand(n, len(names), generator=source).argsort(dim=1)].int()
    return tables  # (n, V)


def teach_copying(model: GPT, data: Data, loss: Loss, rate: float, log: Log) -> dict[str, Any]:
    """Go on for the time that is left with windows in which only the context tells what comes.

    After thirty passes a model remembers its books and hardly looks back. In an eighth of the
    windows random tokens repeat, and in a quarter names are exchanged: both can only be copied.
    """
    names = name_tokens(data)
    tokens = data.mixture(4)

    def draw(state: TrainingState) -> list[tuple[Tensor, Tensor]]:
        source, sizes, n = state.generator, model.config, run.batch_size // 8
        copies = repeats(n, sizes, source)  # made while the GPU is still busy with the last step
        tables = exchange(2 * n, names, sizes.vocab_size, source)
        ((inputs, targets),) = draw_windows(tokens, state)
        windows = torch.cat([inputs, targets[:, -1:]], dim=1)  # (B, T + 1)
        windows[:n] = copies.to(DEVICE)
        windows[n : 3 * n] = tables.to(DEVICE).gather(1, windows[n : 3 * n])
        return [(windows[:, :-1], windows[:, 1:])]

    speed = measure_speed(model, tokens, loss, 20)
    n_steps = max(20, int(log.left(9) * speed * 0.93))
    run = plan(
        model.config,
        n_steps,
        max_learning_rate=rate,
        warmup_steps=n_steps // 20,
        report_every=max(1, n_steps // 12),
        evaluate_every=n_steps,
        save_every=n_steps,
        seed=2,
    )
    log(event="copying", steps=n_steps, speed=round(speed, 2), names=len(names))
    torch.manual_seed(2)
    state = TrainingState.start(model, run)
    for report in run_steps(state, partial(take_step, draw=draw, loss=loss)):
        line = report_line(report) | data.figures(model) | {"induction": induction(model)}
        log(event="copying", **line)
        if log.left(7) < 0:
            log(event="out of time", step=report.step)
            break
    return {"steps": n_steps, "rate": rate, "repeats": 1 / 8, "renamed": 1 / 4}


def samples(folder: Path) -> list[str]:
    """Write 20 texts of 100 tokens, each with a seed of its own, from the start of a document."""
    model, tokenizer = load_gpt2(folder)
    model = model.to(DEVICE)
    prompt = [*end_of_text(tokenizer)]
    prompts = [[*prompt, *tokenizer.encode(text)] for text in SAMPLE_PROMPTS]
    steps = generate_batch(
        model,
        prompts,
        100,
        Sampling(temperature=0.8, top_p=0.95),
        generators=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
    )
    rows = list(zip(*steps, strict=True))
    return [text + tokenizer.decode(row) for text, row in zip(SAMPLE_PROMPTS, rows, strict=True)]


SAMPLE_PROMPTS = [
    "CHAPTER I\n\n",
    "“Well, Prince,",
    "Natasha",
    "The old man",
    "It was",
    "“What do you mean?”",
    "In the evening",
    "Pierre",
    "She opened the letter",
    "The horses",
    "“I never",
    "One day",
    "When the ship",
    "He had not slept",
    "“Tell me,”",
    "Behind the house",
    "The general",
    "My mother",
    "At last",
    "The rain",
]


def go_on(folder: Path, work: Path, smoke: bool, log: Log) -> None:
    """Teach copying to the model that the folder holds, and write it again."""
    record = json.loads((folder / "config.json").read_text())["training"]
    model, _ = load_gpt2(folder)
    sizes = model.config
    model = build(sizes)
    model.load_state_dict(load_gpt2(folder)[0].state_dict())
    with ThreadPoolExecutor() as pool:  # the tokens are made meanwhile
        shape = Shape("as it is", vocab_size=sizes.vocab_size)
        tokens = pool.submit(prepare, work, (shape,), smoke, log)
        loss = compiled_loss(model, log)
        log(event="compiled")
        tokens.result()
    data = Data.read(work, sizes.vocab_size)
    log(event="before", **data.figures(model.eval()), induction=induction(model))
    start = [p.detach().clone() for p in model.parameters()]
    how = teach_copying(model, data, loss, 1e-3, log)
    with torch.no_grad():
        for learnt, before in zip(model.parameters(), start, strict=True):
            learnt.lerp_(before, KEEP)
    save_gpt2(model.eval(), data.tokenizer, folder, torch.float16)
    kept = load_gpt2(folder)[0].to(DEVICE)  # judged as it is stored
    record["copying"] = (
        how | {"kept_before": KEEP} | data.figures(kept) | {"induction": induction(kept)}
    )
    record["copying"]["minutes"] = round((time.time() - log.start) / 60, 1)
    file = folder / "config.json"
    content = json.loads(file.read_text()) | {"training": record}
    file.write_text(json.dumps(content, indent=2) + "\n")
    log(event="saved", **record)
    (work / "samples.json").write_text(json.dumps(samples(folder), indent=1, ensure_ascii=False))
    log(event="done")


def main() -> None:
    """Search, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "novels")
    parser.add_argument("--work", type=Path, default=Path("runs/novels"), help="tokens and log")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument(
        "--copying", action="store_true", help="go on from the folder: copying only"
    )
    parser.add_argument("--smoke", action="store_true", help="try the script with tiny models")
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    work, folder = arguments.work, arguments.folder
    work.mkdir(parents=True, exist_ok=True)
    log = Log(work / "log.jsonl", arguments.minutes)
    log(event="start", torch=torch.__version__, device=DEVICE)
    if arguments.copying:
        go_on(folder, work, arguments.smoke, log)
        return
    share = arguments.minutes / 8
    shape = search(SMALL if arguments.smoke else SEARCH, work, 8 * share, arguments.smoke, log)
    log(event="chosen", **asdict(shape))

    data = Data.read(work, shape.vocab_size)
    model = build(shape.config())
    loss = compiled_loss(model, log)
    per_finish = 17 * share
    end_seconds = len(BOOK_WEIGHTS) * (per_finish + 1.5) + 15
    n_steps = long_run(model, data, loss, shape, folder, end_seconds, log)
    save_gpt2(model, data.tokenizer, folder, torch.float16)
    speed = measure_speed(model, data.library, loss, 10)
    ends = list(finish(model, data, loss, shape, per_finish, speed, log))
    best, weights = min(ends, key=lambda end: end[0]["last_tenth"])
    model.load_state_dict(weights)
    save_gpt2(model, data.tokenizer, folder, torch.float16)

    file = folder / "config.json"
    record = {
        "text": f"128 novels and stories (books.tsv without {HELD_OUT}) and the first nine tenths "
        "of War and Peace",
        "tokens": len(data.library) + len(data.book),
        "steps": n_steps,
        "tokens_per_step": TOKENS_PER_STEP,
        "rate": shape.rate,
        "weight_decay": WEIGHT_DECAY,
        "precision": "bfloat16",
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU",
        "minutes": round((time.time() - log.start) / 60, 1),
        "finish": best,
    }
    content = json.loads(file.read_text()) | {"training": record}
    file.write_text(json.dumps(content, indent=2) + "\n")
    log(event="saved", **record)
    (work / "samples.json").write_text(json.dumps(samples(folder), indent=1, ensure_ascii=False))
    log(event="done")


if __name__ == "__main__":
    main()
