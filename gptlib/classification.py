"""Sort texts into classes with a language model, and know how well that works (chapter 8).

The definitions stand in teaching order. The data: `read_records`, `remove_duplicates`,
`split_records`. The measures: `Confusion`, `confusion`, `threshold_curve`. A baseline that
counts words: `NaiveBayes`. The classifier: `pad_batch`, `pick_last`, `average_real`,
`TextClassifier`, `freeze`. Learning: `FineTuning`, `length_batches`, `fit`. Use:
`predict_probabilities`, `predict`, `save_classifier`, `load_classifier`. A look inside:
`leave_one_out`, `text_vectors`.

A record is a pair (label, text). The words "spam" and "ham" stand nowhere in this module: any
labels will do, two or more.

Example:
    >>> from gptlib.gpt2 import GPTConfig
    >>> from gptlib.tokenizer import BPETokenizer
    >>> records = [("spam", f"win {n} pounds now") for n in range(9)]
    >>> records += [("ham", f"see you at {n}") for n in range(9)]
    >>> config = GPTConfig(vocab_size=257, context_length=32, n_layer=1, n_head=1, n_embd=16)
    >>> model = GPT(config, torch.Generator().manual_seed(0))
    >>> classifier = TextClassifier(model, BPETokenizer([]), ["ham", "spam"])
    >>> plan = FineTuning(n_epochs=9, batch_size=2, learning_rate=1e-2, frozen="nothing")
    >>> reports = list(fit(classifier, records, records, plan))
    >>> predict(classifier, ["win 77 pounds now", "see you at 88"])
    ['spam', 'ham']
"""

import json
import math
import os
import random
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gptlib.generation import check_vocabulary
from gptlib.gpt2 import GPT, initialize
from gptlib.tokenizer import Tokenizer
from gptlib.training import TrainingConfig, learning_rate_at
from gptlib.weights import load_gpt2, save_gpt2

Record = tuple[str, str]
"""A label and the text that it was given to."""


def check_list(name: str, value: Iterable[str]) -> None:
    """Refuse one string in the place of a list of strings: its letters would be taken for them.

    Raises:
        ValueError: If `value` is a string.
    """
    if isinstance(value, str):
        raise ValueError(f"{name} is one string, {value[:40]!r}; put it into a list")


def read_records(
    lines: Iterable[str], labels: Sequence[str] | None = None, skip_broken: bool = False
) -> tuple[list[Record], dict[int, str]]:
    r"""Read lines of the form label, tab, text, and account for every line that is not one.

    Args:
        lines: The lines of a file, with or without their line ends.
        labels: The labels that may occur; None allows any.
        skip_broken: False refuses a file with a broken line; True leaves such lines out.

    Returns:
        The records in the file's order, and for each line left out its number, counted from 1,
        and what is wrong with it. Lines of white space alone are neither.

    Raises:
        ValueError: If a line is broken and `skip_broken` is False, no record is left, or `lines`
            or `labels` is one string.

    Example:
        >>> read_records(["ham\tHi there", "oops", "spam\t "], skip_broken=True)
        ([('ham', 'Hi there')], {2: 'no tab between label and text', 3: 'the text is empty'})
    """
    if isinstance(lines, str):
        raise ValueError(f"lines is one string, {lines[:40]!r}; pass an open file, or splitlines()")
    check_list("labels", labels or [])
    records: list[Record] = []
    broken: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        label, tab, text = line.strip("\r\n").partition("\t")
        if not line.strip():
            continue
        if not tab:
            broken[number] = "no tab between label and text"
        elif not label.strip():
            broken[number] = "the label is empty"
        elif labels is not None and label not in labels:
            broken[number] = f"the label {label[:40]!r} is none of {', '.join(labels)}"
        elif not text.strip():
            broken[number] = "the text is empty"
        else:
            records.append((label, text))
    if broken and not skip_broken:
        listed = [f"line {number}: {reason}" for number, reason in broken.items()]
        more = ["..."] if len(listed) > 3 else []
        raise ValueError(
            f"broken lines: {len(broken)} ({'; '.join(listed[:3] + more)}); mend them, or pass "
            "skip_broken=True"
        )
    if not records:
        raise ValueError("no line holds a record; a record is a label, a tab and a text")
    return records, broken


def normalize(text: str) -> str:
    """Keep of a text what tells it from others: its words in lower case, every digit as 0.

    Args:
        text: Any text.

    Returns:
        The words, one space between them; the text itself if it has no words.

    Example:
        >>> normalize("WIN £1,000 now!!!"), normalize("win £2,500  NOW"), normalize(":-)")
        ('win 0 000 now', 'win 0 000 now', ':-)')
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\d", "0", " ".join(words)) or text.strip()


def remove_duplicates(records: Sequence[Record]) -> list[Record]:
    """Keep the first of all records whose texts are the same once they are normalised.

    Args:
        records: Labels and texts.

    Returns:
        The records that are left, in their order.

    Raises:
        ValueError: If one text stands there under two labels.

    Example:
        >>> remove_duplicates([("ham", "Ok!"), ("ham", "ok"), ("spam", "Call 123")])
        [('ham', 'Ok!'), ('spam', 'Call 123')]
    """
    first: dict[str, Record] = {}
    for label, text in records:
        kept = first.setdefault(normalize(text), (label, text))
        if kept[0] != label:
            raise ValueError(
                f"{text[:60]!r} stands there as {kept[0]!r} and as {label!r}; remove one of the two"
            )
    return list(first.values())


def check_records(
    records: Sequence[Record], labels: Sequence[str] | None = None, part: str = "the set"
) -> None:
    """Refuse records that nothing can be learnt from.

    Args:
        records: Labels and texts.
        labels: The labels that may occur; None allows any.
        part: What to call the records in a message.

    Raises:
        ValueError: If there is no record, a text is empty, a label is not one of `labels`, or all
            records have the same label.
    """
    for number, (label, text) in enumerate(records):
        if labels is not None and label not in labels:
            raise ValueError(
                f"record {number} of {part} has the label {label!r}, never seen before; "
                f"known are {', '.join(map(repr, labels))}"
            )
        if not text.strip():
            raise ValueError(f"record {number} of {part} has an empty text; leave it out")
    found = sorted({label for label, _ in records})
    if len(found) < 2:
        raise ValueError(
            f"{part} has {len(records)} records and the labels {found}; give at least two classes"
        )


def split_records(
    records: Sequence[Record], validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> tuple[list[Record], list[Record], list[Record]]:
    """Deal records into three parts, each class in the same proportion ("stratified").

    Args:
        records: Labels and texts, without duplicates: those could fall into different parts.
        validation: Share of each class that is kept to choose with.
        test: Share of each class that is kept to judge with, once.
        seed: Another one deals differently.

    Returns:
        The records for training, validation and test, each shuffled.

    Raises:
        ValueError: If a share is not between 0 and 1, little is left to train on, a class is
            missing from a part, or there is only one class.

    Example:
        >>> records = [("ham", f"see you at {i}") for i in range(80)]
        >>> records += [("spam", f"win {i} pounds") for i in range(20)]
        >>> [len(part) for part in split_records(records)]
        [70, 10, 20]
        >>> [sum(label == "spam" for label, _ in part) for part in split_records(records)]
        [14, 2, 4]
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            f"validation is {validation} and test {test}; choose shares above 0, in sum below 1"
        )
    check_records(records)
    generator = random.Random(seed)
    parts: tuple[list[Record], list[Record], list[Record]] = ([], [], [])
    for label in sorted({label for label, _ in records}):
        same = [record for record in records if record[0] == label]
        generator.shuffle(same)
        first, second = round(len(same) * validation), round(len(same) * test)
        pieces = same[first + second :], same[:first], same[first : first + second]
        if not all(pieces):
            raise ValueError(
                f"{len(same)} records of class {label!r} are too few for three parts of "
                f"{1 - validation - test:.0%}, {validation:.0%} and {test:.0%}; collect more"
            )
        for part, piece in zip(parts, pieces, strict=True):
            part.extend(piece)
    for part in parts:
        generator.shuffle(part)
    return parts


class Confusion(NamedTuple):
    """Count the four ways in which a yes or no can turn out, and measure with the counts.

    A share of nothing (precision where nothing was found) is 0.

    Example:
        >>> found = Confusion(true_positives=6, false_positives=2, false_negatives=4,
        ...     true_negatives=88)
        >>> found.accuracy, found.precision, found.recall, round(found.f1, 3)
        (0.94, 0.75, 0.6, 0.667)
    """

    true_positives: int
    """Yes, and rightly."""
    false_positives: int
    """Yes, and wrongly: a false alarm."""
    false_negatives: int
    """No, and wrongly: a miss."""
    true_negatives: int
    """No, and rightly."""

    @property
    def accuracy(self) -> float:
        """Share of all answers that are right."""
        return (self.true_positives + self.true_negatives) / max(1, sum(self))

    @property
    def precision(self) -> float:
        """Share of the alarms that are right."""
        return self.true_positives / max(1, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of what was to be found that was found."""
        return self.true_positives / max(1, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; near the worse of the two."""
        found_or_sought = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / max(1, found_or_sought)


def check_answers(truth: Sequence[bool], answers: Sequence[float]) -> None:
    """Refuse answers that can't be held against the truth.

    Raises:
        ValueError: If the one has more entries than the other, or holds labels, each of which
            would count as yes.
    """
    if len(truth) != len(answers):
        raise ValueError(f"{len(truth)} truths and {len(answers)} answers; give one for each")
    for value in (*truth, *answers):
        if isinstance(value, str):
            raise ValueError(f"{value!r} is a label; say yes or no to it: label == {value!r}")


def confusion(truth: Sequence[bool], answers: Sequence[bool]) -> Confusion:
    """Count how yes and no turned out.

    Args:
        truth: For each text, whether it belongs to the class.
        answers: For each text, whether it was said to.

    Returns:
        The four counts.

    Raises:
        ValueError: If the one has more entries than the other, or holds labels or probabilities.

    Example:
        >>> confusion([True, True, False], [True, False, False])
        Confusion(true_positives=1, false_positives=0, false_negatives=1, true_negatives=1)
    """
    check_answers(truth, answers)
    if odd := [a for a in answers if a not in (0, 1)]:
        raise ValueError(
            f"{odd[0]!r} is neither yes nor no; compare probabilities with a threshold"
        )
    pairs = Counter((bool(t), bool(a)) for t, a in zip(truth, answers, strict=True))
    return Confusion(pairs[True, True], pairs[False, True], pairs[True, False], pairs[False, False])


def threshold_curve(
    truth: Sequence[bool], probabilities: Sequence[float]
) -> list[tuple[float, Confusion]]:
    """Count the outcomes for every threshold that makes a difference.

    Args:
        truth: For each text, whether it belongs to the class.
        probabilities: For each text, how probable that was said to be.

    Returns:
        For each different probability, highest first: that probability as the threshold, and the
        outcomes if "yes" is said from there on.

    Raises:
        ValueError: If the one has more entries than the other, or holds labels.

    Example:
        >>> curve = threshold_curve([True, False, True], [0.9, 0.6, 0.2])
        >>> [(threshold, round(c.precision, 2), c.recall) for threshold, c in curve]
        [(0.9, 1.0, 0.5), (0.6, 0.5, 0.5), (0.2, 0.67, 1.0)]
    """
    check_answers(truth, probabilities)
    order = sorted(zip(probabilities, truth, strict=True), reverse=True)
    hits, positives, points = 0, sum(map(bool, truth)), {}
    for alarms, (p, is_positive) in enumerate(order, start=1):
        hits += bool(is_positive)
        misses = positives - hits
        rest = len(order) - alarms - misses
        points[float(p)] = Confusion(hits, alarms - hits, misses, rest)  # of ties, the last stays
    return list(points.items())


class NaiveBayes:
    """Classify by counting words, as if each word were drawn by itself ("naive").

    The probability of a label is proportional to how common it is, times the product of the
    probabilities of the text's words in texts of that label. Words never seen say nothing.

    Args:
        records: What to count in.
        smoothing: Added to every count, so that no word is impossible.

    Raises:
        ValueError: If the records have one class only or an empty text, or `smoothing` is not
            above 0.

    Source:
        Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval", section 13.2.

    Example:
        >>> bayes = NaiveBayes([("ham", "see you"), ("spam", "win now"), ("spam", "win more")])
        >>> bayes.labels
        ['ham', 'spam']
        >>> [round(p, 2) for p in bayes.predict_probabilities(["you win"])[0].tolist()]
        [0.36, 0.64]
    """

    def __init__(self, records: Sequence[Record], smoothing: float = 1.0) -> None:
        check_records(records)
        if not 0 < smoothing < math.inf:
            raise ValueError(f"smoothing is {smoothing}; it must be above 0")
        self.labels = sorted({label for label, _ in records})
        texts = Counter(label for label, _ in records)
        words = {label: Counter[str]() for label in self.labels}
        for label, text in records:
            words[label].update(normalize(text).split())
        self.vocabulary = {word: i for i, word in enumerate(sorted(set().union(*words.values())))}
        counts = torch.tensor(
            [[words[label][word] for word in self.vocabulary] for label in self.labels]
        )
        smoothed = counts.double() + smoothing  # (n_labels, n_words)
        self.word_scores = (smoothed / smoothed.sum(dim=1, keepdim=True)).log()
        shares = torch.tensor([texts[label] for label in self.labels]).double() / len(records)
        self.label_scores = shares.log()  # (n_labels,)

    def predict_probabilities(self, texts: Sequence[str]) -> Tensor:
        """Return how probable each label is for each text, shape (n, n_labels)."""
        check_list("texts", texts)
        rows = []
        for text in texts:
            words = normalize(text).split()
            known = [self.vocabulary[word] for word in words if word in self.vocabulary]
            rows.append(self.label_scores + self.word_scores[:, known].sum(dim=1))
        return torch.stack(rows).softmax(dim=-1) if rows else torch.zeros(0, len(self.labels))


def pad_batch(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Put rows of different lengths into one tensor, filled up behind with zeros.

    In a causal model no position looks at a later one, so what stands behind a text can't change
    it; id 0 is a token like any other, and what the model makes of it is never looked at.

    Args:
        rows: B tensors of shape (T_i,) or (T_i, C), none of them empty.

    Returns:
        The batch, shape (B, T) or (B, T, C) with the largest T, and the place of the last real
        token of each row, shape (B,).

    Example:
        >>> tokens, last = pad_batch([torch.tensor([5, 6, 7]), torch.tensor([8])])
        >>> tokens.tolist(), last.tolist()
        ([[5, 6, 7], [8, 0, 0]], [2, 0])
    """
    last = torch.tensor([len(row) - 1 for row in rows], device=rows[0].device)
    return pad_sequence(list(rows), batch_first=True), last


def pick_last(x: Tensor, last: Tensor) -> Tensor:
    """Pick each row's state at its last real token, the only one that has seen all of the text.

    Args:
        x: States, shape (B, T, C).
        last: Places of the last real tokens, shape (B,).

    Returns:
        One state a row, shape (B, C).

    Example:
        >>> pick_last(torch.arange(12.0).view(2, 3, 2), torch.tensor([2, 0]))
        tensor([[4., 5.],
                [6., 7.]])
    """
    return x[torch.arange(len(x), device=x.device), last]  # (B, C)


def average_real(x: Tensor, last: Tensor) -> Tensor:
    """Average each row's states over its real tokens; padding has no part in it.

    Args:
        x: States, shape (B, T, C).
        last: Places of the last real tokens, shape (B,).

    Returns:
        One state a row, shape (B, C).

    Example:
        >>> average_real(torch.arange(12.0).view(2, 3, 2), torch.tensor([2, 0]))
        tensor([[2., 3.],
                [6., 7.]])
    """
    real = torch.arange(x.shape[1], device=x.device) <= last[:, None]  # (B, T)
    return (x * real[..., None]).sum(dim=1) / (last + 1)[:, None]  # (B, C)


Pooling = Literal["last", "mean"]
"""How a text's states become one: the last real token's, or the mean over all real tokens."""


class TextClassifier(nn.Module):
    """Sort texts into classes by the states of a language model and one linear layer.

    Args:
        model: A causal model; it learns with the head unless it is frozen.
        tokenizer: The tokenizer with the model's vocabulary.
        labels: The classes, in the order of the head's outputs.
        max_tokens: Only so many first tokens of a text are read, which says that you want the
            rest cut off. None refuses texts that are longer than the context.
        pooling: Which state the head reads: "last" or "mean".
        generator: The source of the head's starting weights.

    Attributes:
        head: One linear layer from a text's state to a score for each class.

    Raises:
        ValueError: If there are fewer than two labels, or one comes twice, `max_tokens` is outside
            1..context_length, `pooling` is another word, or the tokenizer is another model's.

    Source:
        Radford et al. 2018 (GPT-1), section 3.2: a linear layer on the last token's state.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> from gptlib.tokenizer import BPETokenizer
        >>> config = GPTConfig(vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4)
        >>> classifier = TextClassifier(GPT(config), BPETokenizer([]), ["ham", "spam"])
        >>> tokens, last = pad_batch([torch.tensor([1, 2, 3]), torch.tensor([4])])
        >>> classifier(tokens, last).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_tokens: int | None = None,
        pooling: Pooling = "last",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_vocabulary(tokenizer, model)
        longest = model.config.context_length
        if isinstance(labels, str) or not 2 <= len(labels) == len(set(labels)):
            raise ValueError(f"labels are {labels!r}; give a list of at least two, each once")
        if max_tokens is not None and not 1 <= max_tokens <= longest:
            raise ValueError(f"max_tokens is {max_tokens}; choose from 1 to {longest}, the context")
        if pooling not in ("last", "mean"):
            raise ValueError(f"pooling is {pooling!r}; choose 'last' or 'mean'")
        self.model, self.tokenizer, self.labels = model, tokenizer, list(labels)
        self.max_tokens, self.pooling = max_tokens, pooling
        self.head = nn.Linear(model.config.n_embd, len(labels))
        initialize(self.head, 1, generator)  # as a model's own layers: near zero
        self.head.to(model.ln_f.weight)  # its device and type

    def walk(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Pass x through some stages: stage 0 embeds tokens, stage n is block n."""
        for stage in [self.model.embed, *self.model.blocks][start:stop]:
            x = stage(x)  # (B, T, C)
        return x

    def pool(self, x: Tensor, last: Tensor) -> Tensor:
        """Make one state, shape (B, C), of each row of the last block's states (B, T, C)."""
        pool = pick_last if self.pooling == "last" else average_real
        return pool(self.model.ln_f(x), last)

    def judge(self, x: Tensor, last: Tensor) -> Tensor:
        """Score the classes, shape (B, n_labels), from the last block's states (B, T, C)."""
        return self.head(self.pool(x, last))

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """Score the classes, shape (B, n_labels), of padded tokens (B, T)."""
        return self.judge(self.walk(tokens), last)


def encode_texts(classifier: TextClassifier, texts: Sequence[str]) -> tuple[list[Tensor], int]:
    """Turn texts into rows of tokens, and say how much was cut off.

    Args:
        classifier: Its tokenizer encodes; its `max_tokens` cuts.
        texts: The texts.

    Returns:
        A tensor of token ids for each text, shape (T_i,), and the number of texts that were cut.

    Raises:
        ValueError: If a text is empty, or longer than the context without leave to cut it, or
            `texts` is one string.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> from gptlib.tokenizer import BPETokenizer
        >>> config = GPTConfig(vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4)
        >>> classifier = TextClassifier(GPT(config), BPETokenizer([]), ["a", "b"], max_tokens=4)
        >>> rows, n_cut = encode_texts(classifier, ["low", "lowest"])
        >>> [len(row) for row in rows], n_cut
        ([3, 4], 1)
    """
    check_list("texts", texts)
    limit = classifier.max_tokens or classifier.model.config.context_length
    rows, n_cut = [], 0
    for number, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {number} of {len(texts)} is empty; there is nothing to judge")
        tokens = classifier.tokenizer.encode_ordinary(text)
        too_many = len(tokens) - limit
        if too_many > 0 and classifier.max_tokens is None:
            start = classifier.tokenizer.decode(tokens[limit : limit + 8])
            raise ValueError(
                f"text {number} has {len(tokens)} tokens, more than the context length of "
                f"{limit}; its last {too_many} ({start!r}...) can't be read: "
                f"shorten it, or make the classifier with max_tokens={limit} to cut them off"
            )
        n_cut += too_many > 0
        rows.append(torch.tensor(tokens[:limit], device=classifier.head.weight.device))
    return rows, n_cut


Frozen = Literal["all", "all but the last block", "nothing"]
"""What of the language model stays as it is; the head always learns."""


def freeze(classifier: TextClassifier, frozen: Frozen) -> int:
    """Choose what learns: parameters that are frozen get no gradient and never change.

    Args:
        classifier: The classifier; only `requires_grad` of its parameters changes.
        frozen: "all" of the model, "all but the last block" (and the last norm), or "nothing".

    Returns:
        How many numbers can still learn, those of the head included.

    Raises:
        ValueError: If `frozen` is another word.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> from gptlib.tokenizer import BPETokenizer
        >>> config = GPTConfig(vocab_size=257, context_length=8, n_layer=2, n_head=1, n_embd=4)
        >>> classifier = TextClassifier(GPT(config), BPETokenizer([]), ["ham", "spam"])
        >>> freeze(classifier, "all"), freeze(classifier, "all but the last block")
        (10, 262)
    """
    model = classifier.model
    learned: dict[str, list[nn.Module]] = {
        "all": [],
        "all but the last block": [model.blocks[-1], model.ln_f],
        "nothing": [model],
    }
    if frozen not in learned:
        raise ValueError(f"frozen is {frozen!r}; choose one of {', '.join(map(repr, learned))}")
    model.requires_grad_(False)
    for part in learned[frozen]:
        part.requires_grad_(True)
    if model.config.positions == "sinusoidal":  # the waves stay as they are
        model.embed.position_embedding.requires_grad_(False)
    return sum(p.numel() for p in classifier.parameters() if p.requires_grad)


def count_frozen(classifier: TextClassifier) -> int:
    """Count the first stages in which nothing learns (stage 0 embeds, stage n is block n)."""
    stages = [classifier.model.embed, *classifier.model.blocks]
    learns = [any(p.requires_grad for p in stage.parameters()) for stage in stages]
    return learns.index(True) if any(learns) else len(learns)


@dataclass(frozen=True)
class FineTuning:
    """Plan how a classifier learns.

    Raises:
        ValueError: If a value is not one that can be used; the message says which.

    Example:
        >>> FineTuning(n_epochs=5, frozen="all").head_learning_rate
        0.001
    """

    n_epochs: int = 3
    """How often each record is learnt from, at most."""
    batch_size: int = 16
    """Records per optimizer step, B."""
    learning_rate: float = 5e-4
    """The highest learning rate of the language model's parameters."""
    head_learning_rate: float = 1e-3
    """The highest learning rate of the head, which begins from nothing."""
    weight_decay: float = 0.01
    """How strongly matrices are pulled towards zero: this times the learning rate, per step."""
    frozen: Frozen = "all but the last block"
    """What of the language model stays as it is."""
    patience: int = 2
    """Epochs without a better validation loss after which learning ends."""
    seed: int = 0
    """Fixes the order of the batches and what dropout drops."""

    def __post_init__(self) -> None:
        """Refuse a plan that can't be run."""
        counts = {name: getattr(self, name) for name in ("n_epochs", "batch_size", "patience")}
        whole = "a whole number, at least 1"
        rules = {
            **{name: (whole, isinstance(n, int) and n >= 1) for name, n in counts.items()},
            "learning_rate": ("above 0", 0 < self.learning_rate < math.inf),
            "head_learning_rate": ("above 0", 0 < self.head_learning_rate < math.inf),
            "weight_decay": ("at least 0", 0 <= self.weight_decay < math.inf),
            "frozen": (f"one of {get_args(Frozen)}", self.frozen in get_args(Frozen)),
        }
        for name, (rule, holds) in rules.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {rule}")


def length_batches(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator | None = None
) -> list[list[int]]:
    """Group texts of nearly the same length, so that little is spent on padding.

    Args:
        lengths: Tokens of each text.
        batch_size: Texts per batch; the last one may have fewer.
        generator: Mixes texts of the same length, and the order of the batches; None mixes nothing.

    Returns:
        Lists of the texts' numbers; each number stands in one of them.

    Example:
        >>> length_batches([3, 90, 4, 88, 2], batch_size=2)
        [[4, 0], [2, 3], [1]]
    """

    def mixed(n: int) -> list[int]:
        return torch.randperm(n, generator=generator).tolist() if generator else list(range(n))

    order = sorted(mixed(len(lengths)), key=lambda i: lengths[i])  # equal lengths stay mixed
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in mixed(len(batches))]


@torch.no_grad()
def read_ahead(classifier: TextClassifier, rows: Sequence[Tensor], stop: int) -> list[Tensor]:
    """Pass texts through the first stages once, so that no epoch has to do it again.

    Args:
        classifier: The classifier, in evaluation mode.
        rows: Token ids of each text, shape (T_i,).
        stop: How many stages to pass; 0 leaves the tokens as they are.

    Returns:
        For each text its states after those stages, shape (T_i, C); 4 C bytes per token.
    """
    if stop == 0:
        return list(rows)
    states = list(rows)
    for batch in length_batches([len(row) for row in rows], 32):
        tokens, last = pad_batch([rows[i] for i in batch])
        x = classifier.walk(tokens, 0, stop)  # (B, T, C)
        for i, state, end in zip(batch, x, last.tolist(), strict=True):
            states[i] = state[: end + 1].clone()
    return states


def prepare(
    classifier: TextClassifier, records: Sequence[Record], stop: int
) -> tuple[list[Tensor], Tensor, int]:
    """Turn records into what an epoch needs.

    Args:
        classifier: The classifier; it is put into evaluation mode.
        records: Labels and texts.
        stop: How many stages the texts pass now, once for all epochs.

    Returns:
        The texts after those stages, the numbers of their labels, shape (n,), and how many texts
        were cut.
    """
    classifier.eval()
    rows, n_cut = encode_texts(classifier, [text for _, text in records])
    numbers = [classifier.labels.index(label) for label, _ in records]
    targets = torch.tensor(numbers, device=classifier.head.weight.device)
    return read_ahead(classifier, rows, stop), targets, n_cut


@torch.no_grad()
def read_texts(classifier: TextClassifier, states: Sequence[Tensor], start: int = 0) -> Tensor:
    """Return what the head sees, shape (n, C), of texts that have passed `start` stages."""
    classifier.eval()
    weight = classifier.head.weight  # (n_labels, C)
    seen = weight.new_zeros(len(states), weight.shape[1])
    for batch in length_batches([len(state) for state in states], 32):
        x, last = pad_batch([states[i] for i in batch])
        seen[batch] = classifier.pool(classifier.walk(x, start), last)
    return seen


@torch.no_grad()
def score(classifier: TextClassifier, states: Sequence[Tensor], start: int = 0) -> Tensor:
    """Return the logits, shape (n, n_labels), of texts that have passed `start` stages."""
    return classifier.head(read_texts(classifier, states, start))


@dataclass
class FitState:
    """Hold what one epoch of `fit` needs from the one before."""

    classifier: TextClassifier
    """What learns."""
    config: FineTuning
    """The plan."""
    optimizer: torch.optim.AdamW
    """Two groups of parameters: the model's and the head's."""
    schedule: TrainingConfig
    """How the learning rates rise and fall, as shares of the highest."""
    start: int
    """Stages that nothing learns in; the texts have passed them already."""
    step: int = 0
    """Optimizer steps done."""

    @classmethod
    def begin(cls, classifier: TextClassifier, config: FineTuning, n_train: int) -> "FitState":
        """Freeze, and make an optimizer for what is left."""
        freeze(classifier, config.frozen)
        body = [p for p in classifier.model.parameters() if p.requires_grad]
        groups = [
            {"params": list(classifier.head.parameters()), "peak": config.head_learning_rate},
            {"params": body, "peak": config.learning_rate},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=config.weight_decay
        )
        n_steps = math.ceil(n_train / config.batch_size) * config.n_epochs
        schedule = TrainingConfig(n_steps, warmup_steps=n_steps // 16, max_learning_rate=1.0)
        return cls(classifier, config, optimizer, schedule, count_frozen(classifier))


def learn_epoch(state: FitState, states: Sequence[Tensor], targets: Tensor, epoch: int) -> float:
    """Learn once from every text.

    Args:
        state: The run so far; it is changed.
        states: The texts after the frozen stages, shapes (T_i, C), or (T_i,) if there are none.
        targets: The numbers of their labels, shape (n,).
        epoch: Which epoch it is, from 1; with the seed it fixes all that is random.

    Returns:
        The mean loss over the texts, in nats per text.
    """
    classifier, total = state.classifier, torch.zeros((), device=targets.device)
    generator = torch.Generator().manual_seed(state.config.seed * 1000 + epoch)
    lengths = [len(row) for row in states]
    with torch.random.fork_rng():  # dropout draws from PyTorch's own state; put it back
        torch.manual_seed(state.config.seed * 1000 + epoch)
        classifier.train()
        for batch in length_batches(lengths, state.config.batch_size, generator):
            for group in state.optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_at(state.step, state.schedule)
            x, last = pad_batch([states[i] for i in batch])
            logits = classifier.judge(classifier.walk(x, state.start), last)  # (B, n_labels)
            loss = F.cross_entropy(logits, targets[batch])
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            state.step += 1
            total += loss.detach() * len(batch)
    return total.item() / len(states)


@dataclass(frozen=True)
class EpochReport:
    """Tell how one epoch went."""

    epoch: int
    """Which one, from 1."""
    train_loss: float
    """Mean over the epoch, in nats per text; dropout was on."""
    validation_loss: float
    """After the epoch, in nats per text."""
    validation_probabilities: Tensor
    """Of each label for each validation record, shape (n, n_labels)."""
    is_best: bool
    """Whether every epoch before had a higher validation loss."""
    n_cut: int
    """Training records of which only the first `max_tokens` tokens are read."""
    seconds: float
    """Since the call of `fit`."""


def fit(
    classifier: TextClassifier,
    train: Sequence[Record],
    validation: Sequence[Record],
    config: FineTuning | None = None,
) -> Generator[EpochReport, None, None]:
    """Teach a classifier from records, and stop when the validation part says so.

    However it ends, also when you stop taking reports and close it, the classifier is left as it
    was after its best epoch, in evaluation mode.

    Args:
        classifier: The classifier, on its device; it is changed.
        train: What it learns from.
        validation: What it is stopped by; no duplicates of `train`.
        config: The plan; the default one if None.

    Yields:
        A report after each epoch.

    Raises:
        ValueError: If a text is empty or too long, a label is not one of the classifier's, a
            part has one class only, or the loss grows beyond all numbers.
    """
    config, begin = config or FineTuning(), time.perf_counter()
    check_records(train, classifier.labels, "the training part")
    check_records(validation, classifier.labels, "the validation part")
    state = FitState.begin(classifier, config, len(train))
    states, targets, n_cut = prepare(classifier, train, state.start)
    others, answers, _ = prepare(classifier, validation, state.start)
    learned = [p for p in classifier.parameters() if p.requires_grad]
    best, best_epoch, kept = math.inf, 0, [p.detach().clone() for p in learned]
    try:
        for epoch in range(1, config.n_epochs + 1):
            train_loss = learn_epoch(state, states, targets, epoch)
            logits = score(classifier, others, state.start)
            loss = F.cross_entropy(logits, answers).item()
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss} after epoch {epoch}; lower the learning rates"
                )
            if loss < best:
                best, best_epoch, kept = loss, epoch, [p.detach().clone() for p in learned]
            is_best, seconds = epoch == best_epoch, time.perf_counter() - begin
            probabilities = logits.softmax(dim=-1).cpu()
            yield EpochReport(epoch, train_loss, loss, probabilities, is_best, n_cut, seconds)
            if epoch - best_epoch >= config.patience:
                return
    finally:
        for parameter, value in zip(learned, kept, strict=True):
            parameter.data.copy_(value)
        classifier.eval()


def predict_probabilities(classifier: TextClassifier, texts: Sequence[str]) -> Tensor:
    """Say how probable each label is for each text.

    Args:
        classifier: The classifier; it is put into evaluation mode.
        texts: The texts.

    Returns:
        Probabilities, shape (n, n_labels), in the order of `classifier.labels`, on the CPU.

    Raises:
        ValueError: If a text is empty, or longer than the context without leave to cut it.
    """
    rows, _ = encode_texts(classifier, texts)
    return score(classifier, rows).softmax(dim=-1).cpu()


def predict(classifier: TextClassifier, texts: Sequence[str]) -> list[str]:
    """Say which label is the most probable for each text.

    Args:
        classifier: The classifier; it is put into evaluation mode.
        texts: The texts.

    Returns:
        A label for each text.

    Raises:
        ValueError: If a text is empty, or longer than the context without leave to cut it.
    """
    best = predict_probabilities(classifier, texts).argmax(dim=-1)
    return [classifier.labels[i] for i in best.tolist()]


HEAD_FILE = "head.safetensors"
"""What a classifier's folder holds beside a model's files."""


def save_classifier(
    classifier: TextClassifier, folder: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write the model in GPT-2's form, and the head with its labels beside it.

    Args:
        classifier: The classifier.
        folder: Where to write; it is made if it is not there.
        dtype: How the model's numbers are stored, as in `save_gpt2`; the head keeps its own.

    Raises:
        OSError: If the folder can't be written.
        ValueError: If GPT-2's form has no place for the model.
    """
    folder = Path(folder).expanduser()
    save_gpt2(classifier.model, classifier.tokenizer, folder, dtype)
    names = ("labels", "max_tokens", "pooling")
    facts = {name: json.dumps(getattr(classifier, name)) for name in names}
    head = {name: value.detach().cpu() for name, value in classifier.head.state_dict().items()}
    draft = folder / f".draft-{HEAD_FILE}"
    save_file(head, draft, metadata=facts)
    os.replace(draft, folder / HEAD_FILE)


def load_classifier(folder: str | Path) -> TextClassifier:
    """Load a classifier that `save_classifier` wrote.

    Args:
        folder: Its folder.

    Returns:
        The classifier, in evaluation mode and on the CPU.

    Raises:
        FileNotFoundError: If the folder or a file of it is not there.
        ValueError: If a file is damaged, or the head is of another number of classes or of
            another model.
    """
    path = Path(folder).expanduser() / HEAD_FILE
    model, tokenizer = load_gpt2(Path(folder).expanduser())
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {HEAD_FILE}; it holds a model without a head: teach a TextClassifier "
            "with it, and save that"
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            head = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if missing := {"labels", "max_tokens", "pooling"} - set(facts):
            raise ValueError(f"it says nothing of {', '.join(sorted(missing))}")
        classifier = TextClassifier(model, tokenizer, **facts)
    except (SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the classifier anew") from error
    wanted = {name: tuple(value.shape) for name, value in classifier.head.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in head.items()}
    if found != wanted:
        raise ValueError(
            f"{path} holds a head of shapes {found}; {len(classifier.labels)} labels on a model of "
            f"width {model.config.n_embd} need {wanted}: put a model and its own head together"
        )
    classifier.head.load_state_dict(head)
    return classifier.eval()


def leave_one_out(classifier: TextClassifier, text: str, label: str) -> list[tuple[str, float]]:
    """Measure what each token does for a label: leave it out, and see the probability change.

    Args:
        classifier: The classifier.
        text: The text, of at least one token.
        label: The label whose probability is looked at.

    Returns:
        For each token its piece of the text, and the probability with it minus that without it:
        above 0 if it speaks for the label. A text's only token can't be left out; it gets 0.

    Raises:
        ValueError: If the label is none of the classifier's, or the text is empty or too long.

    Source:
        Li, Monroe and Jurafsky 2016, "Understanding Neural Networks through Representation
        Erasure", section 3.
    """
    if label not in classifier.labels:
        raise ValueError(f"{label!r} is none of the labels {', '.join(classifier.labels)}")
    (row,), _ = encode_texts(classifier, [text])
    rows = [torch.cat([row[:i], row[i + 1 :]]) for i in range(len(row))] if len(row) > 1 else [row]
    scores = score(classifier, [row, *rows]).softmax(dim=-1)[:, classifier.labels.index(label)]
    pieces = [classifier.tokenizer.decode([token]) for token in row.tolist()]
    return list(zip(pieces, (scores[0] - scores[1:]).tolist(), strict=True))


def text_vectors(classifier: TextClassifier, texts: Sequence[str]) -> Tensor:
    """Return what the head sees of each text, scaled to length 1, shape (n, C).

    Args:
        classifier: The classifier; it is put into evaluation mode.
        texts: The texts.

    Returns:
        Unit vectors; the product of two is the cosine of the angle between them.

    Raises:
        ValueError: If a text is empty, or longer than the context without leave to cut it.
    """
    rows, _ = encode_texts(classifier, texts)
    return F.normalize(read_texts(classifier, rows), dim=-1).cpu()
