"""Race generation against transformers' `generate` with its cache, and against the memory.

    python tests/benchmarks/generation.py

GPT-2's 124M shape with random weights, the same in all contestants; a prompt of 32 tokens and 128
greedy ones, for 1 text and for 8 at once. Writing a token reads every weight once, so the speed of
the memory is the limit; it is measured in the same run, with several ways to read a buffer much
larger than the caches, of which the fastest counts, in each round anew. The contestants take turns
round by round; medians are compared, and the process's CPU time stands beside the wall clock.
"Of the limit" is about the steps after the first, which reads the prompt; where a contestant shows
no steps, it is about the whole. "plain" is `generate` as chapter 6 teaches it, "fast" the twin of
`gptlib.extras.fast`. The compiled step is for one text at a time and is compiled before the race,
with a C++ compiler; the time that took is printed. What weights of 16 and 8 bits cost in bits per
byte is measured on War and Peace with the model that travels with the course.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import median

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from gptlib.embeddings import split_tokens
from gptlib.extras.datasets import war_and_peace
from gptlib.extras.fast import fast
from gptlib.extras.fast.onednn import multiply
from gptlib.extras.models import load_model
from gptlib.generation import (
    KeyValueCache,
    Sampling,
    Step,
    decode_step,
    generate_batch,
    prefill,
)
from gptlib.gpt2 import GPT, GPT2_SMALL
from gptlib.training import bits_per_byte, evaluate

N_PROMPT, N_NEW = 32, 128
GREEDY = Sampling(temperature=0)
THEIR_NAMES = {
    "embed.token_embedding": "transformer.wte",
    "embed.position_embedding": "transformer.wpe",
    "blocks": "transformer.h",
    "ln_f": "transformer.ln_f",
    "qkv": "c_attn",
    "expand": "c_fc",
    "proj": "c_proj",
}


def their_twin(model: GPT) -> GPT2LMHeadModel:
    """Give transformers' model the weights of ours; its Conv1D keeps a matrix as (in, out)."""
    theirs = GPT2LMHeadModel(GPT2Config(bos_token_id=None, eos_token_id=None)).eval()
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, value in model.named_parameters():
            is_matrix = value.dim() == 2 and "embed" not in name
            for ours, their in THEIR_NAMES.items():
                name = name.replace(ours, their)
            parameters[name].copy_(value.T if is_matrix else value)
    return theirs


def their_tokens(model: GPT2LMHeadModel, prompts: Tensor) -> list[list[int]]:
    """Let transformers write, with its cache."""
    output = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=N_NEW,
        do_sample=False,
        pad_token_id=0,
        use_cache=True,
    )
    tokens: list[list[int]] = output[:, N_PROMPT:].tolist()
    return tokens


def our_tokens(
    model: GPT, step: Step | None, prompts: Tensor, clock: list[float] | None = None
) -> list[list[int]]:
    """Let ours write, and note the time after each step."""
    written = []
    for tokens in generate_batch(model, prompts.tolist(), N_NEW, GREEDY, step=step):
        written.append(tokens)
        if clock is not None:
            clock.append(time.perf_counter())
    return [[tokens[row] or 0 for tokens in written] for row in range(len(prompts))]


def weight_bytes(model: GPT) -> int:
    """Count the bytes of weights that one step reads: all but the embedding tables' other rows."""
    norms_and_biases = sum(p.nbytes for p in model.parameters() if p.dim() == 1)
    matrices = 12 * model.config.n_layer * model.config.n_embd**2
    matrices += model.config.vocab_size * model.config.n_embd
    if not isinstance(
        model.head, nn.Linear
    ):  # int8: a byte per weight; per row of a matrix scale and bias
        rows = 9 * model.config.n_layer * model.config.n_embd
        return matrices + norms_and_biases + 8 * rows + 8 * model.config.vocab_size
    return 4 * matrices + norms_and_biases


def ways_to_read(threads: int) -> dict[str, Callable[[], object]]:
    """Make ways to read 1 GiB: matrix-vector products of several shapes, and reductions."""
    buffer = torch.randn(2**20).repeat(2**8)  # 1 GiB; no cache holds a notable part of it
    ways: dict[str, Callable[[], object]] = {
        "maximum": buffer.amax,
        "dot product": lambda: torch.dot(buffer[: 2**27], buffer[2**27 :]),
    }
    for width in (1024, 16_384):
        matrix, x = buffer.view(-1, width), torch.randn(1, width)
        ways[f"F.linear, width {width}"] = partial(F.linear, x, matrix)
        ways[f"F.linear in {threads} bands, width {width}"] = partial(
            torch.bmm, x.expand(threads, 1, width), matrix.view(threads, -1, width).mT
        )
        if torch.backends.mkldnn.is_available():
            ways[f"oneDNN, width {width}"] = partial(multiply, x, matrix)
    return ways


def bandwidth(ways: dict[str, Callable[[], object]], tries: int = 3) -> dict[str, float]:
    """Measure what each way reads, in bytes per second, best of several tries."""
    speeds = {}
    for name, read in ways.items():
        times = []
        for _ in range(tries):
            start = time.perf_counter()
            read()
            times.append(time.perf_counter() - start)
        speeds[name] = 2**30 / min(times)
    return speeds


def largest_error(read: Callable[[Tensor], Tensor], reference: GPT, tokens: Tensor) -> float:
    """Compare logits, step by step, with those of the uncached float32 model.

    Returns:
        The largest difference, as a share of the standard deviation of the reference's logits.
    """
    with torch.no_grad():
        expected = reference(tokens)[:, N_PROMPT - 1 : -1]  # (B, N_NEW, V)
    return float((read(tokens) - expected).abs().max() / expected.std())


def cached_logits(model: GPT, step: Step | None) -> Callable[[Tensor], Tensor]:
    """Make a function that reads a text token by token through our cache."""

    def read(tokens: Tensor) -> Tensor:
        cache = KeyValueCache(model, len(tokens), N_PROMPT + N_NEW)
        logits = [prefill(model, tokens[:, :N_PROMPT].tolist(), cache)]
        go_on = partial(decode_step, model) if step is None else step
        logits += [go_on(column, cache) for column in tokens[:, N_PROMPT:-1].T]
        return torch.stack(logits, dim=1)  # (B, N_NEW, V)

    return read


def row_by_row(read: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a function that reads texts one after the other, not together."""
    return lambda tokens: torch.cat([read(row[None]) for row in tokens])


def their_cached_logits(model: GPT2LMHeadModel) -> Callable[[Tensor], Tensor]:
    """Make a function that reads a text token by token through transformers' cache."""

    @torch.no_grad()
    def read(tokens: Tensor) -> Tensor:
        output = model(tokens[:, :N_PROMPT], use_cache=True)
        logits = [output.logits[:, -1]]
        for column in tokens[:, N_PROMPT:-1].T:
            cache = output.past_key_values
            output = model(column[:, None], past_key_values=cache, use_cache=True)
            logits.append(output.logits[:, -1])
        return torch.stack(logits, dim=1)

    return read


@dataclass
class Contestant:
    """One way to write, and what was measured of it, one entry per round."""

    name: str
    batch: int
    write: Callable[[Tensor, list[float]], object]
    read: Callable[[Tensor], Tensor]
    bytes_per_step: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)

    def run(self, prompts: Tensor, keep: bool) -> None:
        """Write once; keep wall, CPU and (where there are steps) decode seconds per step."""
        clock: list[float] = []
        wall, cpu = time.perf_counter(), time.process_time()
        self.write(prompts, clock)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if keep:
            self.wall.append(wall / N_NEW)
            self.cpu.append(cpu / N_NEW)
            steps = [after - before for before, after in pairwise(clock)]
            self.step.append(median(steps) if steps else wall / N_NEW)


def print_table(
    contestants: Sequence[Contestant], errors: dict[str, float], limits: Sequence[float]
) -> None:
    """Print a row per contestant; ratios and shares are medians of the rounds' own."""
    heads = ["batch", "what", "tokens/s", "ms/step", "CPU ms/step", "times transformers"]
    heads += ["later steps, ms", "MB read", "of the limit", "largest error"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for one in sorted(contestants, key=lambda one: one.batch):
        theirs = next(o for o in contestants if o.batch == one.batch)
        ratio = median(t / m for t, m in zip(theirs.wall, one.wall, strict=True))
        pairs = zip(one.step, limits, strict=True)
        share = median(one.bytes_per_step / step / limit for step, limit in pairs)
        wall, cpu, step = median(one.wall), median(one.cpu), median(one.step)
        print(
            f"| {one.batch} | {one.name} | {one.batch / wall:.1f} | {1e3 * wall:.2f} | "
            f"{1e3 * cpu:.1f} | {ratio:.2f} | {1e3 * step:.2f} | {one.bytes_per_step / 1e6:.0f} | "
            f"{share:.2f} | {errors[one.name]:.1e} |"
        )


def cost_of_fewer_bits(name: str, n_tokens: int) -> str:
    """Measure a trained model on the end of War and Peace with weights of 32, 16 and 8 bits."""
    model, tokenizer = load_model(name)
    _, validation = split_tokens(torch.tensor(tokenizer.encode_ordinary(war_and_peace())))
    text = validation[: n_tokens + 1]
    n_bytes = len(tokenizer.decode_bytes(text[1:].tolist()))
    ways = {
        "float32": model,
        "bfloat16": copy.deepcopy(model).bfloat16(),
        "int8": fast(model, int8=True)[0],
    }
    bits = {
        way: bits_per_byte(evaluate(one, text), len(text) - 1, n_bytes) for way, one in ways.items()
    }
    told = ", ".join(f"{way} {value:.4f}" for way, value in bits.items())
    return f"War and Peace, {len(text) - 1} validation tokens, {name}: bits per byte {told}"


def main() -> None:
    """Measure the memory, check the logits, run the race, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="novels", help="whose bits per byte are measured")
    parser.add_argument("--n-tokens", type=int, default=50_000, help="of War and Peace")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{arguments.threads} threads; prompt {N_PROMPT}, {N_NEW} new tokens, greedy"
    )
    model = GPT(GPT2_SMALL, torch.Generator().manual_seed(0)).eval()
    theirs = their_twin(model)
    ours: dict[str, tuple[GPT, Step | None]] = {
        "plain": (model, None),
        "fast": fast(model),
        "fast, int8": fast(model, int8=True),
    }
    start = time.perf_counter()
    compiled, step = fast(model, compile=True)
    print(f"compiling the decode step took {time.perf_counter() - start:.0f} s")
    tokens = torch.randint(50_257, (8, N_PROMPT), generator=torch.Generator().manual_seed(1))
    prompts = {1: tokens[:1], 8: tokens}
    contestants = []
    for batch in (1, 8):
        contestants.append(
            Contestant(
                "transformers",
                batch,
                lambda tokens, _: their_tokens(theirs, tokens),
                their_cached_logits(theirs),
                weight_bytes(model),
            )
        )
        for name, both in ours.items():
            write, read = partial(our_tokens, *both), cached_logits(*both)
            contestants.append(Contestant(name, batch, write, read, weight_bytes(both[0])))
    write, read = partial(our_tokens, compiled, step), row_by_row(cached_logits(compiled, step))
    contestants.append(Contestant("fast, compiled", 1, write, read, weight_bytes(model)))
    expected = their_tokens(theirs, tokens)
    text = torch.cat((tokens, torch.tensor(expected)), dim=1)  # (8, 160)
    errors = {one.name: largest_error(one.read, model, text) for one in contestants}
    same = all(our_tokens(*ours[name], tokens) == expected for name in ("plain", "fast"))
    same &= all(
        our_tokens(compiled, step, row[None]) == [t]
        for row, t in zip(tokens, expected, strict=True)
    )
    print(f"plain, fast, compiled and transformers write the same tokens: {same}")
    ways, speeds = ways_to_read(arguments.threads), []
    for number in range(arguments.rounds + 1):
        for one in contestants:
            one.run(prompts[one.batch], keep=number > 0)  # the first round warms up
        if number:
            speeds.append(bandwidth(ways))
    for name in ways:
        print(f"read 1 GiB by {name}: {median(speed[name] for speed in speeds) / 1e9:.1f} GB/s")
    limits = [max(speed.values()) for speed in speeds]
    print(f"limit, the highest of each round: {median(limits) / 1e9:.1f} GB/s\n")
    print_table(contestants, errors, limits)
    print(cost_of_fewer_bits(arguments.model, arguments.n_tokens))


if __name__ == "__main__":
    main()
