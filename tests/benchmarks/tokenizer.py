"""Time the tokenizer beside Hugging Face's Rust code and tiktoken, on the whole of War and Peace.

Run it from the repository's root: `python tests/benchmarks/tokenizer.py`. Each round times every
contestant once, one after the other; medians of the rounds are printed, and ratios of them.
"""

import time
from collections.abc import Callable
from statistics import median

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from gptlib.extras.datasets import war_and_peace
from gptlib.tokenizer import (
    BPETokenizer,
    gpt2_encoding,
    read_gpt2_ranks,
    recover_merges,
    train_bpe,
)

ROUNDS = 7
VOCAB_SIZE = 4096


def train_with_huggingface(texts: list[str]) -> Tokenizer:
    """Train a byte-level BPE with Hugging Face's Rust trainer, on all cores it likes to use."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def measure(contestants: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Run all contestants in turn; return the medians of wall and process CPU time, seconds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            contestant()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (median(t[0] for t in pairs), median(t[1] for t in pairs))
        for name, pairs in times.items()
    }


def main() -> None:
    """Print a table of times and ratios."""
    book = war_and_peace()
    megabytes = len(book.encode()) / 1e6
    paragraphs = book.split("\n\n")
    merges = recover_merges(read_gpt2_ranks())
    warm, encoding = BPETokenizer(merges), gpt2_encoding()
    warm.encode(book)

    fresh = [BPETokenizer(merges) for _ in range(ROUNDS)]  # built before the clock starts
    results = measure(
        {
            f"train {VOCAB_SIZE}: Hugging Face, by paragraph": lambda: train_with_huggingface(
                paragraphs
            ),
            f"train {VOCAB_SIZE}: gptlib, whole book": lambda: train_bpe(book, VOCAB_SIZE),
            f"train {VOCAB_SIZE}: gptlib, by paragraph": lambda: train_bpe(paragraphs, VOCAB_SIZE),
            "encode, GPT-2's ranks: tiktoken": lambda: encoding.encode_ordinary(book),
            "encode, GPT-2's ranks: gptlib, empty cache": lambda: fresh.pop().encode(book),
            "encode, GPT-2's ranks: gptlib, warm cache": lambda: warm.encode(book),
        }
    )
    peers = {"train": next(iter(results)), "encode": "encode, GPT-2's ranks: tiktoken"}
    print(f"{megabytes:.2f} MB, medians of {ROUNDS} interleaved rounds")
    print("| what | wall s | CPU s | MB/s | wall, against the peer |")
    print("|---|---|---|---|---|")
    for name, (wall, cpu) in results.items():
        ratio = wall / results[peers[name.split()[0].strip(",")]][0]
        speed = megabytes / wall
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {speed:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
