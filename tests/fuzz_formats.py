"""Feed damaged tokenizers, tables and checkpoints to the readers: only our own errors may come out.

    python tests/fuzz_formats.py --cases 100000 --seed 5

Each case changes one file as `fuzz_weights.py` does, and reads it. What is checked: the error is a
ValueError, FileNotFoundError or UnicodeError raised by gptlib itself; no case takes longer than
`SLOWEST` seconds of CPU time; the process stays within `MEMORY` bytes above what it began with.
`--cases` is the number for each format.
"""

import json
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from fuzz_weights import CONFIG, DAMAGES, MEMORY, SLOWEST, TOKENIZER, fuzz, is_ours, memory
from tokenizers import ByteLevelBPETokenizer

from gptlib.extras.formats.records import read_messages, read_questions
from gptlib.extras.formats.tokenizer_files import read_any_tokenizer
from gptlib.extras.models import load_model
from gptlib.gpt2 import GPT
from gptlib.weights import TRANSPOSED, gpt2_view

Read = Callable[[], object]
PIECES = (b'"', b'""', b",", b"\t", b"\r", b"\n", b"\0", b"\xff", b"[", b"{", b"NaN", b"null", b"0")


def make_inputs(place: Path) -> dict[str, tuple[Path, Read]]:
    """Write a file of each format; returns it and its reader by the format's name."""
    library, pair, gpt = place / "library", place / "pair", place / "nanogpt"
    for folder in (library, pair, gpt):
        folder.mkdir()
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(["to be or not to be"], 270, special_tokens=["<s>", "<pad>"])
    made.save(str(library / "tokenizer.json"))
    made.save_model(str(pair))
    model = GPT(CONFIG, torch.Generator().manual_seed(0))
    state = {n: v.T if n.endswith(TRANSPOSED) else v for n, v in gpt2_view(model).items()}
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 2, "block_size": 4, "vocab_size": 258}
    torch.save({"model": state, "model_args": sizes}, gpt / "ckpt.pt")
    TOKENIZER.save(gpt)
    rows = [("ham", "see you"), ("spam", 'win "5", now'), ("ham", "two\nlines"), ("spam", "x,y")]
    objects = [{"label": label, "text": text} for label, text in rows]
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    asked = [{"instruction": "Add.", "input": "1 2", "output": "3"}, {"messages": talk}]
    quoted = "".join(f'{a},"{b.replace(chr(34), chr(34) * 2)}"\n' for a, b in rows)
    contents = {
        "messages.csv": "label,text\n" + quoted,
        "messages.tsv": "".join(f"{a}\t{b!r}\n" for a, b in rows),
        "messages.jsonl": "\n".join(map(json.dumps, objects)),
        "messages.json": json.dumps({"train": objects, "test": objects[:1]}),
        "questions.json": json.dumps(asked[:1] * 2),
        "questions.jsonl": "\n".join(json.dumps({"messages": talk}) for _ in range(3)),
    }
    found: dict[str, tuple[Path, Read]] = {
        "tokenizer.json": (library / "tokenizer.json", lambda: read_any_tokenizer(library)),
        "vocab.json": (pair / "vocab.json", lambda: read_any_tokenizer(pair)),
        "merges.txt": (pair / "merges.txt", lambda: read_any_tokenizer(pair)),
        "nanoGPT": (gpt / "ckpt.pt", lambda: load_model(gpt)),
    }
    for name, content in contents.items():
        (place / name).write_text(content, encoding="utf-8")
        found[name] = place / name, reader(place / name)
    return found


def reader(path: Path) -> Read:
    """Read a table, which fails in the same way for either use."""
    read = read_messages if path.name.startswith("messages") else read_questions
    return lambda: read(str(path))


def sprinkle(content: bytearray, dice: random.Random) -> None:
    """Put what means something to a reader where it means something else."""
    start = dice.randrange(len(content))
    content[start : start + dice.randrange(2)] = dice.choice(PIECES)


def run(place: Path, cases: int, seed: int) -> Counter[str]:
    """Run the cases; raises AssertionError with the seed of a case that misbehaves."""
    inputs = make_inputs(place)
    whole = {name: path.read_bytes() for name, (path, _) in inputs.items()}
    for _, read in inputs.values():
        read()
    begun, results = memory(), Counter[str]()
    for number in range(cases * len(inputs)):
        dice = random.Random(f"{seed}/{number}")
        name = list(inputs)[number % len(inputs)]
        path, read = inputs[name]
        content = bytearray(whole[name])
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            if content:
                dice.choice((*DAMAGES, sprinkle, sprinkle))(content, dice)
        path.write_bytes(content)
        start = time.process_time()
        where = f"seed {seed}, case {number} ({name})"
        try:
            read()
            results[f"{name}: read"] += 1
        except BaseException as error:  # the library's panics are no Exception
            if not (isinstance(error, Exception) and is_ours(error)):
                raise AssertionError(where) from error
            results[f"{name}: refused"] += 1
        seconds = time.process_time() - start
        assert seconds < SLOWEST, f"{where}: {seconds:.1f} s"
        grown = memory() - begun
        assert grown < MEMORY, f"{where}: {grown} bytes more"
        path.write_bytes(whole[name])
    return results


if __name__ == "__main__":
    warnings.simplefilter("error")
    sys.exit(fuzz(run, cases=1_000))
