"""How long loading takes and how much memory it needs at its peak, beside transformers.

    python tests/benchmarks/weights.py [gpt2 | gpt2-medium | gpt2-large | gpt2-xl]

A random model of that size (124M by default) is saved in a temporary folder; then each way to load
it runs in a fresh process, in turn, and the medians are printed. The peak is what the system calls
VmHWM, mapped files included, less what the process held before loading; Linux only.
"""

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tf_table import write_checkpoint

from gptlib.gpt2 import GPT, GPT2_LARGE, GPT2_MEDIUM, GPT2_SMALL, GPT2_XL, count_parameters
from gptlib.tokenizer import gpt2_encoding
from gptlib.weights import gpt2_view, save_gpt2

SIZES = {
    "gpt2": GPT2_SMALL,
    "gpt2-medium": GPT2_MEDIUM,
    "gpt2-large": GPT2_LARGE,
    "gpt2-xl": GPT2_XL,
}
ROUNDS = 3

CHILD = """
import sys, time
import torch
torch.set_num_threads(1)
{imports}
with torch.device("meta"):  # what PyTorch imports at the first model is not the loading
    torch.nn.Linear(1, 1)
    torch.nn.Embedding(1, 1)
def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))
before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
{load}
print(time.perf_counter() - wall, time.process_time() - cpu, memory("VmHWM") - before)
"""

WAYS = {
    "gptlib, load_gpt2, model.safetensors": (
        "from gptlib.weights import load_gpt2",
        "model = load_gpt2(sys.argv[1])",
    ),
    "gptlib, load_model, model.safetensors": (
        "from gptlib.extras.models import load_model",
        "model = load_model(sys.argv[1])",
    ),
    "gptlib, OpenAI's checkpoint, every crc32c compared": (
        "from gptlib.extras.models import load_model",
        "model = load_model(sys.argv[1] + '/openai')",
    ),
    "transformers, model.safetensors": (
        "from transformers import GPT2LMHeadModel",
        "model = GPT2LMHeadModel.from_pretrained(sys.argv[1])",
    ),
    "transformers, and every weight read once": (
        "from transformers import GPT2LMHeadModel",
        "model = GPT2LMHeadModel.from_pretrained(sys.argv[1])\n"
        "for p in model.parameters(): p.detach().sum()",
    ),
}


def write_models(folder: Path, name: str) -> None:
    """Write one random model in both forms."""
    model = GPT(SIZES[name], torch.Generator().manual_seed(0))
    save_gpt2(model, gpt2_encoding(), folder)
    tensors = dict[str, np.ndarray]()
    for theirs, view in gpt2_view(model).items():
        short = re.sub(r"^h\.(\d+)\.", r"h\1.", theirs).replace(".", "/")
        short = short.removesuffix("/weight") if short.startswith("w") else short
        short = re.sub(r"/weight$", "/g" if "ln" in short else "/w", short)
        tensors["model/" + re.sub(r"/bias$", "/b", short)] = view.contiguous().numpy()
    write_checkpoint(folder / "openai", tensors)
    names = dict(zip(("n_vocab", "n_ctx", "n_layer", "n_head", "n_embd"), (
        model.config.vocab_size, model.config.context_length, model.config.n_layer,
        model.config.n_head, model.config.n_embd,
    ), strict=True))  # fmt: skip
    (folder / "openai" / "hparams.json").write_text(str(names).replace("'", '"'))
    for ours, openai in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (folder / "openai" / openai).write_bytes((folder / ours).read_bytes())


def main(arguments: list[str]) -> int:
    """Write a model, load it in every way, and print a table."""
    name = arguments[0] if arguments else "gpt2"
    size = 4 * count_parameters(SIZES[name])["total"]
    results: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), name)
        for _ in range(ROUNDS):
            for way, (imports, load) in WAYS.items():
                script = CHILD.format(imports=imports, load=load)
                done = subprocess.run(
                    [sys.executable, "-c", script, folder],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                results[way].append([float(value) for value in done.stdout.split()[-3:]])
    print(f"{name}: {size / 1e6:.0f} MB of weights")
    print("| way | wall s | CPU s | peak, MB | peak / weights |")
    print("|---|---|---|---|---|")
    for way, rows in results.items():
        wall, cpu, peak = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {way} | {wall:.2f} | {cpu:.2f} | {peak / 1e6:.0f} | {peak / size:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
