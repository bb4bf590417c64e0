"""Sort texts into classes with a language model, and know how well that works (chapter 8).

In teaching order: the data, the measures, the classifier, learning, use, a look inside. Any labels
will do, two or more.

Example:
    >>> from gptlib.gpt2 import GPTConfig
    >>> from gptlib.tokenizer import BPETokenizer
    >>> records = [("spam", f"win {n} pounds now") for n in range(9)]
    >>> records += [("ham", f"see you at {n}") for n in range(9)]
    >>> config = GPTConfig(vocab_size=257, context_length=32, n_layer=1, n_head=1, n_embd=32)
    >>> model = GPT(config, torch.Generator().manual_seed(0))
    >>> classifier = TextClassifier(model, BPETokenizer([]), ["ham", "spam"])
    >>> plan = FineTuning(n_epochs=12, batch_size=2, learning_rate=3e-3, frozen="nothing")
    >>> reports = list(fit(classifier, records, records, plan))
    >>> predict(classifier, ["win 77 pounds now", "see you at 88"])
    ['spam', 'ham']
"""

import json
import math
import random
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gptlib.generation import check_vocabulary
from gptlib.gpt2 import GPT, check_fields, initialize
from gptlib.tokenizer import Tokenizer, whole_file
from gptlib.training import (
    Report,
    TrainingConfig,
    TrainingState,
    load_checkpoint,
    run_steps,
    take_step,
)
from gptlib.weights import load_gpt2, read_json, save_gpt2

LabeledText = tuple[str, str]
"""A label and the text that it was given to."""


def normalize(text: str) -> str:
    """Make near-copies of a text equal: its words alone, in lower case, every digit as 0.

    Example:
        >>> normalize("WIN £1,000 now!!!"), normalize("win £2,500  NOW"), normalize(":-)")
        ('win 0 000 now', 'win 0 000 now', ':-)')
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\d", "0", " ".join(words)) or text.strip()


def remove_duplicates(records: Sequence[LabeledText]) -> list[LabeledText]:
    """Keep the first of all records whose texts are the same once they are normalised.

    Raises:
        ValueError: If one text comes with two labels.

    Example:
        >>> remove_duplicates([("ham", "Ok!"), ("ham", "ok"), ("spam", "Call 123")])
        [('ham', 'Ok!'), ('spam', 'Call 123')]
    """
    first: dict[str, LabeledText] = {}
    for label, text in records:
        kept = first.setdefault(normalize(text), (label, text))
        if kept[0] != label:
            raise ValueError(f"{text[:60]!r} is {kept[0]!r} and {label!r}; remove one of the two")
    return list(first.values())


def split_records(
    records: Sequence[LabeledText], validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> tuple[list[LabeledText], list[LabeledText], list[LabeledText]]:
    """Split records into three parts, each class in the same proportion ("stratified").

    Args:
        records: Without duplicates: those could fall into different parts.
        validation: Share of each class that is kept to choose with.
        test: Share of each class that is kept to judge with, once.
        seed: Fixes the split.

    Returns:
        The records for training, validation and test, each part shuffled.

    Raises:
        ValueError: If a share is not between 0 and 1, nothing is left to train on, or a class is
            missing from a part.

    Example:
        >>> records = [("ham", f"see you at {i}") for i in range(80)]
        >>> records += [("spam", f"win {i} pounds") for i in range(20)]
        >>> [sum(label == "spam" for label, _ in part) for part in split_records(records)]
        [14, 2, 4]
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(f"validation {validation}, test {test}: choose above 0, in sum below 1")
    generator = random.Random(seed)
    parts: tuple[list[LabeledText], list[LabeledText], list[LabeledText]] = ([], [], [])
    # Sorted: a set's order changes from run to run, whatever the seed.
    for label in sorted({label for label, _ in records}):
        same = [record for record in records if record[0] == label]
        generator.shuffle(same)
        first, second = round(len(same) * validation), round(len(same) * test)
        pieces = same[first + second :], same[:first], same[first : first + second]
        if not all(pieces):
            raise ValueError(f"{len(same)} records of class {label!r} are too few; collect more")
        for part, piece in zip(parts, pieces, strict=True):
            part.extend(piece)
    for part in parts:
        generator.shuffle(part)  # or each part would have its classes one after the other
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
        # 2 P R / (P + R) written with the counts: one division, and none by 0.
        found_or_sought = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / max(1, found_or_sought)


def confusion(truth: Sequence[bool], answers: Sequence[bool]) -> Confusion:
    """Count how yes and no turned out.

    For each text `truth` says whether it belongs to the class, and `answers` whether it was said
    to. Labels or probabilities are refused (ValueError): each would count as yes.

    Example:
        >>> confusion([True, True, False], [True, False, False])
        Confusion(true_positives=1, false_positives=0, false_negatives=1, true_negatives=1)
    """
    if odd := [value for value in (*truth, *answers) if value not in (0, 1)]:
        raise ValueError(f"{odd[0]!r} is neither yes nor no; compare it with class or threshold")
    pairs = Counter((bool(t), bool(a)) for t, a in zip(truth, answers, strict=True))
    return Confusion(pairs[True, True], pairs[False, True], pairs[True, False], pairs[False, False])


def pad_batch(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Put rows of different lengths into one tensor, filled up behind with zeros.

    In a causal model no position looks at a later one, so padding behind a text can't change it.

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
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True), last


def pick_last(x: Tensor, last: Tensor) -> Tensor:
    """Pick each row's state at its last real token, the only one that has seen all of the text.

    From x, shape (B, T, C), and the places of those tokens, shape (B,): shape (B, C).
    """
    return x[torch.arange(len(x), device=x.device), last]  # (B, C)


def average_real(x: Tensor, last: Tensor) -> Tensor:
    """Average each row's states over its real tokens; shapes as in `pick_last`."""
    real = torch.arange(x.shape[1], device=x.device) <= last[:, None]  # (B, T)
    return (x * real[..., None]).sum(dim=1) / (last + 1)[:, None]  # (B, C)


Pooling = Literal["last", "mean"]
"""How a text's states become one: the last real token's, or the mean over all real tokens."""


class TextClassifier(nn.Module):
    """Sort texts into classes by the states of a language model and one linear layer.

    The model is a row of stages: stage 0 embeds the tokens, stage n is block n.

    Args:
        model: It learns with the head unless it is frozen.
        tokenizer: The tokenizer with the model's vocabulary.
        labels: The classes, in the order of the head's outputs.
        max_tokens: Read at most so many tokens of a text; the rest is cut off. None refuses texts
            that are longer than the context.
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
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling is {pooling!r}; choose 'last' or 'mean'")
        self.model, self.tokenizer, self.labels = model, tokenizer, list(labels)
        self.max_tokens, self.pooling = max_tokens, pooling
        self.head = nn.Linear(model.config.n_embd, len(labels))
        # Near zero, like a model's own layers; the 1 plays no part, as the head is no `proj`.
        initialize(self.head, 1, generator)
        self.head.to(model.ln_f.weight)  # its device and type

    @property
    def stages(self) -> list[nn.Module]:
        """The embedding and the blocks, in order."""
        return [self.model.embed, *self.model.blocks]

    def run_stages(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run some stages on tokens (B, T), or on states (B, T, C) that have passed `start`."""
        for stage in self.stages[start:stop]:
            x = stage(x)  # (B, T, C)
        return x

    def pool(self, x: Tensor, last: Tensor) -> Tensor:
        """Make one state, shape (B, C), of each row of the last block's states (B, T, C)."""
        pool = pick_last if self.pooling == "last" else average_real
        return pool(self.model.ln_f(x), last)

    def forward(self, x: Tensor, last: Tensor, start: int = 0) -> Tensor:
        """Score the classes, shape (B, n_labels), of padded rows after `start` stages."""
        return self.head(self.pool(self.run_stages(x, start), last))


def encode_texts(classifier: TextClassifier, texts: Sequence[str]) -> tuple[list[Tensor], int]:
    """Turn texts into rows of tokens, and say how much was cut off.

    Returns:
        A tensor of token ids for each text, shape (T_i,), and the number of texts that were cut.

    Raises:
        ValueError: If a text is empty, or longer than the context without leave to cut it, or
            `texts` is one string, whose letters would be taken for texts.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts is one string, {texts[:40]!r}; put it into a list")
    limit = classifier.max_tokens or classifier.model.config.context_length
    rows, n_cut = [], 0
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            kind = "empty" if isinstance(text, str) else f"{text!r:.20}, not a text"
            raise ValueError(f"text {number} of {len(texts)} is {kind}; there is nothing to judge")
        tokens = classifier.tokenizer.encode_ordinary(text)
        n = len(tokens)
        if n > limit and classifier.max_tokens is None:
            raise ValueError(f"text {number} has {n} of {limit} tokens; cut it, or set max_tokens")
        n_cut += n > limit
        rows.append(torch.tensor(tokens[:limit], device=classifier.head.weight.device))
    return rows, n_cut


Frozen = Literal["all", "all but the last block", "nothing"]
"""What of the language model stays as it is; the head always learns."""


def freeze(classifier: TextClassifier, frozen: Frozen) -> int:
    """Choose what learns: parameters that are frozen get no gradient and never change.

    The last norm learns with the last block, and the head always.

    Returns:
        How many of the first stages are frozen.
    """
    stages = classifier.stages
    n_frozen = {"all": len(stages), "all but the last block": len(stages) - 1, "nothing": 0}[frozen]
    for number, stage in enumerate(stages):
        stage.requires_grad_(number >= n_frozen)
    classifier.model.ln_f.requires_grad_(frozen != "all")
    return n_frozen


@dataclass(frozen=True)
class FineTuning:
    """Plan how a classifier learns."""

    n_epochs: int = 3
    """How often each record is learnt from, at most."""
    batch_size: int = 16
    """Records per optimizer step, B."""
    learning_rate: float = 5e-4
    """The highest learning rate of the language model's parameters."""
    head_learning_rate: float = 1e-3
    """The highest learning rate of the head, which begins from nothing."""
    weight_decay: float = 0.01
    """How strongly parameters are pulled towards zero: this times the learning rate, per step."""
    frozen: Frozen = "all but the last block"
    """What of the language model stays as it is."""
    patience: int = 2
    """Epochs without a better validation loss after which learning ends."""
    seed: int = 0
    """Fixes the order of the batches and what dropout drops."""

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("n_epochs", "batch_size", "patience")}
        whole = "a whole number, at least 1"
        rules = {name: (whole, isinstance(n, int) and n >= 1) for name, n in counts.items()}
        rules["learning_rate"] = ("above 0 and finite", 0 < self.learning_rate < math.inf)
        rules["head_learning_rate"] = ("above 0 and finite", 0 < self.head_learning_rate < math.inf)
        rules["frozen"] = (f"one of {get_args(Frozen)}", self.frozen in get_args(Frozen))
        check_fields(self, rules)


def length_batches(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator | None = None
) -> list[list[int]]:
    """Group texts of nearly the same length, so that little is spent on padding.

    The generator mixes texts of the same length, and the order of the batches; None mixes nothing.

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
def read_ahead(
    classifier: TextClassifier, records: Sequence[LabeledText], stop: int
) -> tuple[list[Tensor], Tensor]:
    """Pass records through the first stages once, so that no epoch has to do it again.

    Returns:
        For each text its states after `stop` stages, shape (T_i, C), 4 C bytes per token, or its
        tokens if that is 0; and the numbers of the labels, shape (n,).
    """
    classifier.eval()  # what never changes is read without dropout
    rows, _ = encode_texts(classifier, [text for _, text in records])
    for batch in length_batches([len(row) for row in rows], 32):
        tokens, last = pad_batch([rows[i] for i in batch])
        x = classifier.run_stages(tokens, 0, stop)  # (B, T, C)
        for i, state, end in zip(batch, x, last.tolist(), strict=True):
            # Without its padding, and a copy: a view would keep the whole batch in memory.
            rows[i] = state[: end + 1].clone()
    numbers = [classifier.labels.index(label) for label, _ in records]
    return rows, torch.tensor(numbers, device=classifier.head.weight.device)


@torch.no_grad()
def score(classifier: TextClassifier, states: Sequence[Tensor], start: int = 0) -> Tensor:
    """Return the logits, shape (n, n_labels), of texts that have passed `start` stages."""
    classifier.eval()
    logits = classifier.head.bias.new_zeros(len(states), len(classifier.labels))
    for batch in length_batches([len(state) for state in states], 32):
        scores = classifier(*pad_batch([states[i] for i in batch]), start)
        logits[batch] = scores.to(logits.dtype)  # autocast's may be shorter
    return logits


def start_run(classifier: TextClassifier, config: FineTuning, n_batches: int) -> TrainingState:
    """Begin a run with `n_batches` steps per epoch, and two learning rates.

    The schedule rises to 1 and falls to 0; each group's "scale" makes a learning rate of it.
    """
    n_steps = n_batches * config.n_epochs
    schedule = TrainingConfig(
        n_steps,
        max_learning_rate=1.0,
        warmup_steps=n_steps // 16,
        report_every=n_batches,
        evaluate_every=n_batches,
        save_every=n_batches,
    )
    body = [p for p in classifier.model.parameters() if p.requires_grad]
    groups = [
        {"params": list(classifier.head.parameters()), "scale": config.head_learning_rate},
        {"params": body, "scale": config.learning_rate},
    ]
    # Biases and norms decay too: by default, all lose less than 1 % in a thousand steps.
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    # Nothing is drawn with this generator: the batches of all epochs are fixed.
    return TrainingState(classifier, schedule, optimizer, torch.Generator())


def fit(
    classifier: TextClassifier,
    train: Sequence[LabeledText],
    validation: Sequence[LabeledText],
    config: FineTuning | None = None,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Generator[Report, None, None]:
    """Teach a classifier from records, and stop when the validation part says so.

    However it ends, also when you stop taking reports and close it, the classifier is left as it
    was after its best epoch, in evaluation mode.

    Args:
        classifier: It is changed, on its device.
        train: What it learns from.
        validation: What it is stopped by; no duplicates of `train`.
        config: The plan; the default one if None.
        checkpoint: Where to save after each epoch. None saves nothing.
        resume: Whether to go on from the checkpoint that is there, with the same plan, records and
            first weights.

    Yields:
        A report after each epoch: losses in nats per text, seconds with the time of reading ahead,
        and the learning rate as a share of the highest.

    Raises:
        ValueError: If a text is empty or too long, a label is not one of the classifier's, a part
            has one class only, or there is no checkpoint to resume, or one of something else.
        FloatingPointError: At the first loss or gradient that is nan or infinite.
    """
    config, begin = config or FineTuning(), time.perf_counter()
    known = classifier.labels
    for part, records in (("training", train), ("validation", validation)):
        found = {label for label, _ in records}
        if len(found) < 2 or not found <= set(known):
            raise ValueError(f"the {part} part has {sorted(found)}; give two or more of {known}")
    start = freeze(classifier, config.frozen)
    states, targets = read_ahead(classifier, train, start)
    others, answers = read_ahead(classifier, validation, start)
    lengths, epochs = [len(row) for row in states], range(1, config.n_epochs + 1)
    # Each epoch goes through all texts in an order of its own; the step alone finds its batch, so a
    # resume needs no random state. Times 1000: no two seeds share an epoch's order.
    orders = [torch.Generator().manual_seed(config.seed * 1000 + epoch) for epoch in epochs]
    batches = [b for order in orders for b in length_batches(lengths, config.batch_size, order)]
    n_batches = len(batches) // config.n_epochs

    def draw(state: TrainingState) -> list[tuple[Tensor, Tensor, Tensor]]:
        batch = batches[state.step]
        state.n_tokens += sum(lengths[i] for i in batch)
        return [(*pad_batch([states[i] for i in batch]), targets[batch])]

    def loss(model: nn.Module, x: Tensor, last: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(x, last, start), targets)

    def validate() -> float:
        return F.cross_entropy(score(classifier, others, start), answers).item()

    state, step = start_run(classifier, config, n_batches), partial(take_step, draw=draw, loss=loss)
    learned = [p for p in classifier.parameters() if p.requires_grad]
    best, best_epoch, kept = math.inf, 0, [p.detach().clone() for p in learned]
    if resume:
        if checkpoint is None:
            raise ValueError("resume is True without a checkpoint; pass checkpoint=PATH as well")
        saved = load_checkpoint(checkpoint)
        if (saved["training_config"], saved.get("lengths")) != (asdict(config), lengths):
            raise ValueError(f"{checkpoint} is of another plan or other records; begin anew")
        for parameter, value in zip(learned, saved["model"], strict=True):
            parameter.data.copy_(value)
        state.optimizer.load_state_dict(saved["optimizer"])
        state.step, (best, best_epoch, kept) = saved["step"], saved["best"]
    # Without a path: what is saved below holds the best weights, too.
    run, ahead = run_steps(state, step, validate), time.perf_counter() - begin
    try:
        for epoch in epochs[state.step // n_batches :]:
            if epoch - 1 - best_epoch >= config.patience:
                return
            with torch.random.fork_rng():  # dropout draws from PyTorch's own state; put it back
                # After a resume, too, an epoch drops the same.
                torch.manual_seed(config.seed * 1000 + epoch)
                report = next(run)
            validation_loss = cast(float, report.validation_loss)  # every report has one
            if validation_loss < best:
                best, best_epoch = validation_loss, epoch
                kept = [p.detach().clone() for p in learned]
            if checkpoint is not None:
                progress = {
                    "model": learned,
                    "optimizer": state.optimizer.state_dict(),
                    "step": state.step,
                    "best": (best, best_epoch, kept),
                    "lengths": lengths,
                    "training_config": asdict(config),
                }
                with whole_file(checkpoint) as draft:
                    torch.save(progress, draft)
            yield replace(report, seconds=ahead + report.seconds)
    finally:
        for parameter, value in zip(learned, kept, strict=True):
            parameter.data.copy_(value)
        classifier.eval()


def predict_probabilities(classifier: TextClassifier, texts: Sequence[str]) -> Tensor:
    """Say how probable each label is for each text.

    Returns:
        Probabilities, shape (n, n_labels), in the order of `classifier.labels`, on the CPU.

    Raises:
        ValueError: If a text is empty, or longer than the context without leave to cut it.
    """
    rows, _ = encode_texts(classifier, texts)
    return score(classifier, rows).softmax(dim=-1).cpu()


def predict(classifier: TextClassifier, texts: Sequence[str]) -> list[str]:
    """Say which label is the most probable for each text, as `predict_probabilities` does."""
    best = predict_probabilities(classifier, texts).argmax(dim=-1)
    return [classifier.labels[i] for i in best.tolist()]


def save_classifier(
    classifier: TextClassifier, folder: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write the model in GPT-2's form, and the head with its labels beside it.

    `dtype` is that of the model's numbers, as in `save_gpt2`; the head keeps its own.
    """
    path = Path(folder).expanduser() / "head.safetensors"
    save_gpt2(classifier.model, classifier.tokenizer, path.parent, dtype, beside=[path.name])
    names = ("labels", "max_tokens", "pooling")
    facts = {name: json.dumps(getattr(classifier, name)) for name in names}
    head = {name: value.detach().cpu() for name, value in classifier.head.state_dict().items()}
    with whole_file(path) as draft:
        save_file(head, draft, metadata=facts)


def load_classifier(
    folder: str | Path, load: Callable[[Path], tuple[GPT, Tokenizer]] = load_gpt2
) -> TextClassifier:
    """Load a classifier that `save_classifier` wrote, in evaluation mode and on the CPU.

    Args:
        folder: The classifier's.
        load: Opens its model; another one than `load_gpt2` if its tokenizer is in another form.

    Raises:
        FileNotFoundError: If the folder or a file of it is not there.
        ValueError: If a file is damaged, or the head is of other labels or of another model.
    """
    path = Path(folder).expanduser() / "head.safetensors"
    model, tokenizer = load(path.parent)
    # A head that config.json doesn't list was left there by another model.
    listed = read_json(path.parent / "config.json").get("beside", [path.name])
    if path.name not in listed or not path.is_file():
        raise FileNotFoundError(f"{folder} has no {path.name}: a model, but no classifier; fit one")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
        given = (json.loads(facts[name]) for name in ("labels", "max_tokens", "pooling"))
        classifier = TextClassifier(model, tokenizer, *given)
        classifier.head.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or of another model: {error}") from error
    return classifier.eval()


def leave_one_out(classifier: TextClassifier, text: str, label: str) -> list[tuple[str, float]]:
    """Measure what each word does for a label: leave it out, and see the probability change.

    Returns:
        For each word, with the space behind it, the probability with it minus that without it:
        above 0 if it speaks for the label; 0 for a text's only word.

    Source:
        Li, Monroe and Jurafsky 2016, "Understanding Neural Networks through Representation
        Erasure", section 3.
    """
    words = re.findall(r"\S+\s*", text.strip())
    rest = ["".join(words[:i] + words[i + 1 :]).strip() for i in range(len(words))]
    texts = [text, *(rest if len(words) > 1 else [text])]  # an only word can't be left out
    p = predict_probabilities(classifier, texts)[:, classifier.labels.index(label)]
    return list(zip(words, (p[0] - p[1:]).tolist(), strict=True))
