"""Race training and writing on a CUDA card against nanoGPT and transformers.

    python tests/benchmarks/gpu.py --nanogpt path/to/nanoGPT/model.py

Each row runs in a process of its own, so that memory and compiled code are its own. Training:
GPT-2's 124M shape without biases and with 50,304 tokens, as nanoGPT has it, bfloat16, batch 32 ×
1,024, no dropout; and the sizes of the model that travels with the course, batch 256 × 256. "MFU"
is the share of what a large product reaches, measured in the same run. Writing: GPT-2's 124M shape
in bfloat16, a prompt of 32 tokens and 128 new ones, greedily and at temperature 0.8 and top-p 0.95.
"plain" is `generate` as chapter 6 teaches it, "graph" and "compiled" the step of
`gptlib.extras.fast`. Peers that aren't there are left out.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from torch import nn

from gptlib.embeddings import random_batch
from gptlib.extras.fast.graph import GraphWriter
from gptlib.extras.runs import READY_CONFIGS
from gptlib.generation import Sampling, generate_batch
from gptlib.gpt2 import GPT, GPT2_SMALL, GPTConfig, flops_per_token
from gptlib.scaling import chunked_loss
from gptlib.training import Loss, TrainingConfig, TrainingState, draw_windows, take_step

SIZES = GPTConfig(vocab_size=50_304, bias=False)
BATCH_SIZE = 32
N_PROMPT, N_NEW = 32, 128


def seconds_per_call(call: Callable[[], object], n: int, warm_up: int) -> float:
    """Time calls that follow each other without a wait, as in training."""
    for _ in range(warm_up):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / n


def measure_limits() -> dict[str, Any]:
    """Measure a large bfloat16 product and the reading of a large buffer."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = seconds_per_call(lambda: a @ b, 20, 5)
    buffer = torch.randn(2**30, device="cuda")
    read = seconds_per_call(buffer.amax, 10, 3)
    return {"tflops": 2 * 8192**3 / product / 1e12, "gb_per_s": 2**32 / read / 1e9}


def time_training(
    step: Callable[[], torch.Tensor], sizes: GPTConfig, n_tokens: int
) -> dict[str, Any]:
    """Time training steps that return their loss."""
    start = time.perf_counter()
    first = step().item()
    first_seconds = time.perf_counter() - start
    seconds = seconds_per_call(step, 15, 4)
    return {
        "tokens_per_s": n_tokens / seconds,
        "flops": n_tokens / seconds * flops_per_token(sizes)["training"],
        "ms": 1e3 * seconds,
        "gb": torch.cuda.max_memory_allocated() / 1e9,
        "first_s": first_seconds,
        "losses": [first, step().item()],
    }


def train_ours(
    loss: Loss, sizes: GPTConfig = SIZES, config: TrainingConfig | None = None
) -> dict[str, Any]:
    """Time the step of `train`."""
    model = GPT(sizes, torch.Generator().manual_seed(0)).cuda().train()
    config = config or TrainingConfig(
        n_steps=10**6, batch_size=BATCH_SIZE, max_learning_rate=6e-4, precision="bfloat16"
    )
    state = TrainingState.start(model, config)
    tokens = torch.randint(sizes.vocab_size, (10**6,))
    step = partial(take_step, state, partial(draw_windows, tokens), loss)
    return time_training(lambda: step()[0], sizes, config.batch_size * sizes.context_length)


def train_tf32() -> dict[str, Any]:
    """Time the step in float32, whose products are rounded to TF32."""
    torch.set_float32_matmul_precision("high")
    config = TrainingConfig(n_steps=10**6, batch_size=BATCH_SIZE, max_learning_rate=6e-4)
    return train_ours(chunked_loss, config=config)


def train_small(compiles: bool) -> dict[str, Any]:
    """Time the step of the configuration novels-gpu."""
    values = yaml.safe_load(READY_CONFIGS["novels-gpu"].read_text(encoding="utf-8"))
    sizes, config = GPTConfig(**values["model"]), TrainingConfig(**values["training"])
    loss = torch.compile(chunked_loss, mode="reduce-overhead") if compiles else chunked_loss
    return train_ours(loss, sizes, config)


def load_nanogpt(path: str) -> Any:
    """Import nanoGPT's model.py."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    return module


def train_nanogpt(path: str, compiles: bool) -> dict[str, Any]:
    """Time nanoGPT's model in the step of its train.py."""
    module = load_nanogpt(path)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    model = module.GPT(module.GPTConfig(dropout=0.0, bias=False, vocab_size=50_304)).cuda()
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cuda")
    called = torch.compile(model) if compiles else model
    tokens, generator = torch.randint(50_304, (10**6,)), torch.Generator().manual_seed(0)

    def step() -> torch.Tensor:
        batch = random_batch(tokens, BATCH_SIZE, SIZES.context_length, generator)
        x, y = (part.pin_memory().to("cuda", non_blocking=True) for part in batch)
        with torch.autocast("cuda", torch.bfloat16):
            _, loss = called(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found: torch.Tensor = loss.detach()
        return found

    return time_training(step, SIZES, BATCH_SIZE * SIZES.context_length)


def time_writing(write: Callable[[list[list[int]], str], object]) -> dict[str, Any]:
    """Time texts for 1, 8 and 64 prompts at once; the first of each is not counted."""
    found: dict[str, Any] = {}
    for choice in ("greedy", "top-p"):
        for batch in (1, 8, 64):
            prompts = torch.randint(GPT2_SMALL.vocab_size, (batch, N_PROMPT)).tolist()
            times = []
            for _ in range(4):
                torch.cuda.synchronize()
                start = time.perf_counter()
                write(prompts, choice)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            found[f"{choice} {batch}"] = batch * N_NEW / median(times[1:])
            found[f"{choice} {batch}, first_s"] = times[0]
    return found


def write_ours(way: str) -> dict[str, Any]:
    """Time `generate_batch`."""
    model = GPT(GPT2_SMALL, torch.Generator().manual_seed(0)).cuda().eval().bfloat16()
    step = None if way == "plain" else GraphWriter(model, compile=way == "compiled")
    ways = {"greedy": Sampling(temperature=0), "top-p": Sampling(temperature=0.8, top_p=0.95)}

    def write(prompts: list[list[int]], choice: str) -> object:
        sources = [torch.Generator().manual_seed(row) for row in range(len(prompts))]
        options: Any = {"generators": sources, "step": step}
        return list(generate_batch(model, prompts, N_NEW, ways[choice], **options))

    return time_writing(write)


def write_transformers() -> dict[str, Any]:
    """Time transformers' `generate` with its cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).cuda().eval().bfloat16()
    length = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW, "pad_token_id": 0}
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"do_sample": False},
        "top-p": {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0},
    }

    def write(prompts: list[list[int]], choice: str) -> object:
        ids = torch.tensor(prompts, device="cuda")
        return model.generate(ids, attention_mask=torch.ones_like(ids), **length, **ways[choice])

    return time_writing(write)


def rows(nanogpt: str | None) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name all rows, in order; those of peers that are missing are left out."""
    found: dict[str, Callable[[], dict[str, Any]]] = {"limits": measure_limits}
    if importlib.util.find_spec("transformers"):
        found["write, transformers"] = write_transformers
    found |= {f"write, {way}": partial(write_ours, way) for way in ("plain", "graph", "compiled")}
    if nanogpt:
        found["train, nanoGPT"] = partial(train_nanogpt, nanogpt, False)
        found["train, nanoGPT compiled"] = partial(train_nanogpt, nanogpt, True)
    found["train, ours"] = partial(train_ours, chunked_loss)
    found["train, ours compiled"] = lambda: train_ours(torch.compile(chunked_loss))
    found["train, ours in TF32"] = train_tf32
    found["train, small"] = partial(train_small, False)
    found["train, small compiled"] = partial(train_small, True)
    return found


def print_tables(found: dict[str, dict[str, Any]]) -> None:
    """Print what was measured, with ratios to the peers."""
    limits = found.get("limits", {"tflops": float("nan"), "gb_per_s": float("nan")})
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}: a product reaches ", end=""
    )
    print(f"{limits['tflops']:.0f} TFLOP/s, reading {limits['gb_per_s']:.0f} GB/s\n")
    print("| training | tokens/s | ms | MFU | GB | first step, s |\n|---|---|---|---|---|---|")
    for name, row in found.items():
        if "ms" in row:
            mfu = row["flops"] / limits["tflops"] / 1e12
            print(f"| {name.removeprefix('train, ')} | {row['tokens_per_s']:,.0f} | ", end="")
            print(f"{row['ms']:.1f} | {mfu:.2f} | {row['gb']:.1f} | {row['first_s']:.0f} |")
    theirs = found.get("write, transformers")
    print("\n| writing, tokens/s | choice | batch 1 | 8 | 64 |\n|---|---|---|---|---|")
    for choice in ("greedy", "top-p"):
        for name, row in found.items():
            if name.startswith("write"):
                keys = [f"{choice} {batch}" for batch in (1, 8, 64)]
                ratios = [f" ({row[key] / theirs[key]:.1f} ×)" if theirs else "" for key in keys]
                cells = [f"{row[key]:,.0f}{r}" for key, r in zip(keys, ratios, strict=True)]
                print(f"| {name.removeprefix('write, ')} | {choice} | {' | '.join(cells)} |")


def main() -> None:
    """Run each row in a process of its own, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", metavar="FILE", help="nanoGPT's model.py")
    parser.add_argument("--row", action="append", help="only this row; may be given several times")
    parser.add_argument("--here", action="store_true", help="run the one row in this process")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA card here, so there is nothing to measure")
        return
    known = rows(arguments.nanogpt)
    if arguments.here:
        print(json.dumps(known[arguments.row[0]]()))
        return
    found = {}
    for name in arguments.row or known:
        words = [sys.executable, str(Path(__file__).resolve()), "--here", "--row", name]
        words += ["--nanogpt", arguments.nanogpt] if arguments.nanogpt else []
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name]}", flush=True)
    print_tables(found)


if __name__ == "__main__":
    main()
