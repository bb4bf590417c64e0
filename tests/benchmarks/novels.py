"""Measure what the shipped model has learnt, or what any other model has: text, and copying.

    python tests/benchmarks/novels.py                      the shipped model
    python tests/benchmarks/novels.py novels runs/novels-cpu gpt2

- Bits per byte of two texts that no training saw, the last tenth of War and Peace and Treasure
  Island, which is fetched with the other 128 books if it is not here.
- The best induction score of a head: half a context of random tokens, twice.
- Names that no book has. A story says one twice: at what rank does the model expect its first piece
  the second time? In made stories nothing else can come there; in passages of the two texts, where
  a name was exchanged for a new one, much else can.
"""

import argparse
import random
import re
import statistics
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from gptlib.embeddings import split_tokens
from gptlib.extras.datasets import war_and_peace
from gptlib.extras.models import SHIPPED, load_model
from gptlib.gpt2 import GPT, attention_maps
from gptlib.tokenizer import Tokenizer
from gptlib.training import bits_per_byte, evaluate
from gptlib.weights import head_scores

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data" / "models"))
from make_library import HELD_OUT, library  # type: ignore[import-not-found]

STORIES = [
    "There lived in the town a clockmaker whose name was NAME. He was a quiet man, and his "
    "neighbours seldom saw him. One morning the postman brought a letter. It was addressed to Mr.",
    "Captain NAME stood on the deck and looked at the sea. The wind had risen, and the sailors "
    "were taking in the sails. “We shall have a storm before night,” said Captain",
    "“Who is that lady?” asked the young man.\n\n“That is Miss NAME,” answered his friend. “She "
    "came from London yesterday.”\n\nThe young man crossed the room and bowed. “I am happy to "
    "meet you, Miss",
    "Old NAME had two sons. The elder was a soldier and the younger kept the sheep. When winter "
    "came and there was no bread in the house, the boys went to the fire and sat down by old",
    "The princess had a little dog that was called NAME. It slept upon her bed and ate from her "
    "plate. One day the dog was gone. The princess ran into the garden. “Where are you,",
    "Prince NAME entered the drawing room, kissed the hand of his hostess, and sat down beside "
    "her. Everyone grew silent. “And what is the news from the army?” asked the hostess, turning "
    "to Prince",
    "My uncle NAME was the richest man in the county, and the meanest. My mother was afraid of "
    "him. When the carriage stopped at the gate she turned pale and whispered, “It is your uncle",
    "Doctor NAME took off his hat and felt the sick man’s pulse. Nobody spoke. The wife stood by "
    "the window and wept. “Is there any hope,” she asked at last, “is there any hope, Doctor",
    "“Come here, NAME!” cried the old woman. The boy came slowly out of the barn with straw in "
    "his hair. He was afraid of her stick. “Have you fed the horses,",
    "They walked all day and came at evening to the village of NAME. There was one inn, and it "
    "was full of soldiers. They asked an old man where they were. “This,” he said, “is the "
    "village of",
]

Case = tuple[str, str]
"""A text up to where a name comes again, and the name."""


def new_name(draw: random.Random, known: str) -> str:
    """Make a name of syllables that the known texts don't have."""
    first, last = "B Br D Dr F G Gl H K Kr L M N P Pr R S St T Tr V Z", "a e i o u ai ea oo"
    between, end = "b d g k l m n r s t v z", "b d ck l ll m n nd nt r rd rk s sk st t th v x"
    while True:
        parts = (draw.choice(part.split()) for part in (first, last, between, last, end))
        if (name := "".join(parts)) not in known:
            return name


def made_cases(known: str) -> list[Case]:
    """Make 200 cases: twenty names in each of ten stories."""
    draw = random.Random(1)
    named = [(story, new_name(draw, known)) for story in STORIES for _ in range(20)]
    return [(story.replace("NAME", name), name) for story, name in named]


def passages(text: str, known: str, draw: random.Random) -> Iterator[Case]:
    """Find passages in which a name comes twice and not before, and exchange it for a new one."""
    small = {word for word in re.findall(r"[^\W\d_]+", text) if word[0].islower()}
    inside: dict[str, list[int]] = {}  # where names stand that don't begin a sentence
    for found in re.finditer(r"(?<=[a-z,;] )[A-Z][^\W\d_]{3,}\b", text):
        if found[0].lower() not in small and found[0].isascii():
            inside.setdefault(found[0], []).append(found.start())
    places = []
    for name, starts in inside.items():
        all_starts = [found.start() for found in re.finditer(rf"\b{name}\b", text)]
        if len(all_starts) < 3:
            continue
        for first, second in pairwise(all_starts):
            begin = first - 250
            is_first = not any(begin - 20 <= start < first for start in all_starts)
            near = 40 < second - first < 400
            if first in starts and second in starts and near and begin > 0 and is_first:
                places.append((name, text.index(" ", begin) + 1, second))
    draw.shuffle(places)
    for name, begin, second in places:
        new = new_name(draw, known)
        yield re.sub(rf"\b{name}\b", new, text[begin : second - 1]), new


def found_cases(book: str, held_out: str, known: str) -> list[Case]:
    """Take 200 passages, up to 100 of them from the held-out book."""
    draw = random.Random(0)
    cases = [case for case, _ in zip(passages(held_out, known, draw), range(100), strict=False)]
    rest = passages(book[len(book) * 9 // 10 :], known, draw)
    return cases + [case for case, _ in zip(rest, range(200 - len(cases)), strict=False)]


@torch.no_grad()
def median_rank(model: GPT, tokenizer: Tokenizer, cases: list[Case]) -> float:
    """Measure at what rank the first piece of a name is expected, 1 the best."""
    ranks = []
    for text, name in cases:
        tokens = tokenizer.encode(text)[-model.config.context_length :]
        logits = model(torch.tensor([tokens]))[0, -1]  # (V,)
        ranks.append(int((logits > logits[tokenizer.encode(" " + name)[0]]).sum()) + 1)
    return statistics.median(ranks)


@torch.no_grad()
def best_induction(model: GPT) -> float:
    """Measure the best induction score of all heads, on 8 rows of random tokens."""
    period = model.config.context_length // 2
    source = torch.Generator().manual_seed(0)
    once = torch.randint(model.config.vocab_size - 1, (8, period), generator=source)
    return head_scores(attention_maps(model, once.repeat(1, 2)), period)["induction"].max().item()


def bits(model: GPT, tokenizer: Tokenizer, tokens: Tensor) -> float:
    """Measure bits per byte."""
    n_bytes = len(tokenizer.decode_bytes(tokens.tolist()))
    return bits_per_byte(evaluate(model, tokens), len(tokens) - 1, n_bytes)


def main() -> None:
    """Print the figures of each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", default=[SHIPPED], help="folders, or names of models")
    names = parser.parse_args().model
    book, books = war_and_peace(), library()
    held_out = books.pop(HELD_OUT)
    known = " ".join([book, held_out, *books.values()])
    made, found = made_cases(known), found_cases(book, held_out, known)

    def tell(what: str, figure: float) -> None:
        print(f"  {what:<44}{figure:8.3f}", flush=True)

    for name in names:
        model, tokenizer = load_model(name)
        print(f"{name}, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
        tell("best induction score of a head", best_induction(model))
        tell(f"rank of a new name, {len(made)} made stories", median_rank(model, tokenizer, made))
        tell(f"rank of a new name, {len(found)} passages", median_rank(model, tokenizer, found))
        _, last_tenth = split_tokens(torch.tensor(tokenizer.encode(book)))
        tell("bits per byte, last tenth of War and Peace", bits(model, tokenizer, last_tenth))
        tokens = torch.tensor(tokenizer.encode(held_out))
        tell("bits per byte, Treasure Island", bits(model, tokenizer, tokens))


if __name__ == "__main__":
    main()
