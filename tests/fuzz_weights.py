"""Feed damaged model files to the reader: only its own errors may come out.

    python tests/fuzz_weights.py --cases 1000000 --seed 5

Each case changes one file of a small whole model (bytes flipped, cut, doubled, numbers replaced)
and loads the folder. The checksums of a TensorFlow index are ignored in most of its cases, since
they would catch every change before the rest of the reader saw it. What is checked: the error is
a ValueError or FileNotFoundError raised by gptlib itself; no case takes longer than `SLOWEST`
seconds of CPU time; the process stays within `MEMORY` bytes above what it began with.
"""

import argparse
import faulthandler
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tf_table import write_checkpoint

import gptlib
from gptlib.extras.formats import tensorflow
from gptlib.extras.models import load_model
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer
from gptlib.weights import gpt2_view, load_gpt2, save_gpt2

CONFIG = GPTConfig(vocab_size=258, context_length=4, n_layer=1, n_head=1, n_embd=2)
TOKENIZER = BPETokenizer.train("to be or not to be", 258)
MEMORY = 256 * 2**20
SLOWEST = 2.0
NUMBERS = ("-1", "0", "1", "3", "255", "65536", "4294967295", "9223372036854775807", "1e400")
WORDS = ('"x"', "null", "true", "[]", "{}", "NaN", "1.5", "9" * 40, '"F64"', '"F16"', '"I8"')


class AnyChecksum(int):
    """Equal to every number."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def any_checksum(_crc: int) -> int:
    """Stand in for `mask_checksum`: whatever was recorded is right."""
    return AnyChecksum()


def make_models(place: Path) -> dict[str, Path]:
    """Write a model in each form; returns the file to damage by the name of its kind."""
    model = GPT(CONFIG, torch.Generator().manual_seed(0))
    single, sharded, openai = place / "single", place / "sharded", place / "openai"
    for folder in (single, sharded):
        save_gpt2(model, TOKENIZER, folder)
    arrays = {name: view.contiguous().numpy() for name, view in gpt2_view(model).items()}
    write_sharded(sharded)
    renamed: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        short = re.sub(r"^h\.(\d+)\.", r"h\1.", name).replace(".", "/")
        short = short.removesuffix("/weight") if short.startswith("w") else short
        short = re.sub(r"/weight$", "/g" if "ln" in short else "/w", short)
        renamed["model/" + re.sub(r"/bias$", "/b", short)] = array
    write_checkpoint(openai, renamed, block_size=200)
    sizes = {"n_vocab": 258, "n_ctx": 4, "n_embd": 2, "n_head": 1, "n_layer": 1}
    (openai / "hparams.json").write_text(json.dumps(sizes))
    TOKENIZER.save(openai)
    return {
        "weights": single / "model.safetensors",
        "config": single / "config.json",
        "shard": sharded / "model-00002-of-00002.safetensors",
        "shards' index": sharded / "model.safetensors.index.json",
        "checkpoint's index": openai / "model.ckpt.index",
        "checkpoint's index, checksums ignored": openai / "model.ckpt.index",
        "checkpoint's data": openai / "model.ckpt.data-00000-of-00001",
        "hparams": openai / "hparams.json",
    }


def write_sharded(folder: Path) -> None:
    """Cut the weights of a folder into two files with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def flip(content: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        content[dice.randrange(len(content))] = dice.choice(
            (0, 1, 127, 128, 255, dice.getrandbits(8))
        )


def cut(content: bytearray, dice: random.Random) -> None:
    del content[dice.randrange(len(content)) :]


def remove(content: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(content))
    del content[start : start + dice.choice((1, 2, 8, 40))]


def double(content: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(content))
    part = content[start : start + dice.choice((1, 4, 8, 100))]
    place = dice.choice((start, dice.randrange(len(content)), len(content)))
    content[place:place] = part


def claim(content: bytearray, dice: random.Random) -> None:
    """Replace the 8 bytes of a length, at the front or anywhere."""
    length = dice.choice((0, 1, 2**31, 2**63, 2**64 - 1, dice.randrange(len(content) + 9)))
    start = dice.choice((0, 0, dice.randrange(len(content))))
    content[start : start + 8] = length.to_bytes(8, "little")


def replace_number(content: bytearray, dice: random.Random) -> None:
    """Put another number, or no number, where JSON has one; a header keeps its right length."""
    is_header = content[8:9] == b"{"
    found = list(re.finditer(rb'(?<=[\[:, ])(-?\d+(\.\d+)?|"F32"|true|false|null)', content))
    if not found:
        flip(content, dice)
        return
    spot = dice.choice(found)
    content[spot.start() : spot.end()] = dice.choice((*NUMBERS, *WORDS)).encode()
    if is_header and dice.random() < 0.9:
        content[:8] = header_length(content).to_bytes(8, "little")


def header_length(content: bytearray) -> int:
    """Find where the JSON header of a changed file ends."""
    depth = 0
    for position, byte in enumerate(content[8:]):
        depth += (byte == ord("{")) - (byte == ord("}"))
        if depth == 0:
            return position + 1
    return len(content) - 8


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, flip, cut, remove, double, claim, replace_number, replace_number,
)  # fmt: skip


def is_ours(error: Exception) -> bool:
    """Whether the error is of a documented kind, and raised by a line of gptlib."""
    frames = traceback.extract_tb(error.__traceback__)
    home = str(Path(gptlib.__file__).parent)
    return isinstance(error, ValueError | FileNotFoundError) and frames[-1].filename.startswith(
        home
    )


def memory() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(place: Path, cases: int, seed: int) -> Counter[str]:
    """Run the cases; raises AssertionError with the seed of a case that misbehaves."""
    targets = make_models(place)
    whole = {name: path.read_bytes() for name, path in targets.items()}
    for path in targets.values():
        load_model(path.parent)
    honest, begun, results = tensorflow.mask_checksum, memory(), Counter[str]()
    for number in range(cases):
        dice = random.Random(f"{seed}/{number}")
        name = list(targets)[number % len(targets)]
        content = bytearray(whole[name])
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            if content:
                dice.choice(DAMAGES)(content, dice)
        targets[name].write_bytes(content)
        vars(tensorflow)["mask_checksum"] = any_checksum if "ignored" in name else honest
        start = time.process_time()
        try:
            loader = load_gpt2 if name in ("weights", "config") and number % 3 else load_model
            loader(targets[name].parent)
            results[f"{name}: loaded"] += 1
        except Exception as error:
            if not is_ours(error):
                raise AssertionError(f"seed {seed}, case {number} ({name})") from error
            results[f"{name}: refused"] += 1
        seconds = time.process_time() - start
        assert seconds < SLOWEST, f"seed {seed}, case {number} ({name}): {seconds:.1f} s"
        grown = memory() - begun
        assert grown < MEMORY, f"seed {seed}, case {number} ({name}): {grown} bytes more"
        targets[name].write_bytes(whole[name])
    vars(tensorflow)["mask_checksum"] = honest
    return results


def fuzz(run: Callable[[Path, int, int], Counter[str]], cases: int) -> int:
    """Run as many cases as the command asks for, in memory, and say how they went.

    Args:
        run: From a folder, a number of cases and a seed to the counts of what happened.
        cases: How many without the option.
    """
    parser = argparse.ArgumentParser(description="Feed damaged files to the readers.")
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faulthandler.enable()
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # spares the disk
    place = Path(tempfile.mkdtemp(dir=in_memory))
    start = time.process_time()
    try:
        results = run(place, options.cases, options.seed)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    for name, count in sorted(results.items()):
        print(f"{count:8d}  {name}")
    print(f"{options.cases} cases, seed {options.seed}, {time.process_time() - start:.0f} s of CPU")
    return 0


if __name__ == "__main__":
    sys.exit(fuzz(run, cases=20_000))
