"""How a model that goes on from a text learns to answer (chapter 9).

The definitions stand in teaching order. What is asked: `PromptForm`, `ALPACA`, `CHAT`,
`check_record`. What is learnt: `Example`, `encode_records`, `Batch`, `make_batch`, `pack`,
`record_mask`, `response_loss`. How good it is: `evaluate_responses`, `respond`, `exact_match`,
`repetition`. Learning: `tune`; with few numbers: `LoRAConfig`, `LoRALinear`, `add_lora`,
`merge_lora`, `save_adapters`, `load_adapters`. In use: `fit_prompt`, `remember`, `answer`,
`save_tuned`, `load_form`.

Example:
    >>> from gptlib.gpt2 import GPTConfig
    >>> from gptlib.tokenizer import BPETokenizer
    >>> tokenizer = BPETokenizer.train("Say yes. Say no.", vocab_size=258)
    >>> sizes = GPTConfig(vocab_size=258, context_length=48, n_layer=1, n_head=2, n_embd=16)
    >>> model = GPT(sizes, torch.Generator().manual_seed(0))
    >>> records = [{"instruction": f"Say {word}.", "output": word} for word in ("yes", "no")]
    >>> examples = encode_records(records, tokenizer, CHAT, model.config.context_length)
    >>> config = TrainingConfig(n_steps=60, max_learning_rate=1e-2)
    >>> [*tune(model, examples, None, config)][-1].loss < 0.5
    True
    >>> respond(model.eval(), tokenizer, records, CHAT)
    ['yes', 'no']
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gptlib.attention import causal_mask
from gptlib.generation import Sampling, TextStream, generate, generate_batch, stream_text
from gptlib.gpt2 import GPT
from gptlib.tokenizer import Tokenizer, end_of_text
from gptlib.training import Report, TrainingConfig, check_finite, learning_rate_at, make_optimizer
from gptlib.weights import damaged, read_json, save_gpt2

Record = Mapping[str, str]
"""What is asked and answered: "instruction", "output", and perhaps "input" and "task"."""


@dataclass(frozen=True)
class PromptForm:
    r"""Wrap a question in words that the model learns to take as "now answer".

    An answer begins where the form ends, so a form should end with a line break.

    Raises:
        ValueError: If a text lacks the place of what it should hold.

    Example:
        >>> PromptForm("short", "Q: {instruction}\n", "Q: {instruction} {input}\n").fill("Hi")
        'Q: Hi\n'
    """

    name: str
    """What to call it."""
    plain: str
    """Text around an instruction alone, with {instruction} in its place."""
    with_input: str
    """Text around an instruction and what it is about, with {instruction} and {input}."""

    def __post_init__(self) -> None:
        """Refuse a form that would lose the question."""
        for text, places in ((self.plain, 1), (self.with_input, 2)):
            for place in ("{instruction}", "{input}")[:places]:
                if text.count(place) != 1:
                    raise ValueError(f"the form {text!r} must hold {place} once; put it in")

    def fill(self, instruction: str, input: str = "") -> str:
        """Write the prompt of one question; an input of spaces alone counts as none."""
        text = self.with_input if input.strip() else self.plain
        parts = text.split("{instruction}")  # one by one: "{input}" may be asked about
        return instruction.strip().join(part.replace("{input}", input.strip()) for part in parts)


ALPACA = PromptForm(
    "alpaca",
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n",
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
)
CHAT = PromptForm("chat", "Q: {instruction}\nA:\n", "Q: {instruction}\n{input}\nA:\n")


def check_record(
    record: Record, number: int, needed: tuple[str, ...] = ("instruction", "output")
) -> None:
    """Refuse a record from which nothing can be learnt.

    Args:
        record: What should have an "instruction" and an "output"; an "input" is optional.
        number: Its place in the list, for the message.
        needed: The fields that it must have.

    Raises:
        ValueError: If a field is missing, is no text, or is empty.

    Example:
        >>> check_record({"instruction": "Say yes.", "output": ""}, number=7)
        Traceback (most recent call last):
        ValueError: record 7 has an empty 'output'; write one, or leave the record out
    """
    for field in needed:
        if field not in record:
            fields = ", ".join(map(repr, record)) or "nothing"
            raise ValueError(f"record {number} has no {field!r}, only {fields}; add one")
    for field in (*needed, "input"):
        if not isinstance(record.get(field, ""), str):
            kind = type(record[field]).__name__
            raise ValueError(f"the {field!r} of record {number} is of type {kind}; write text")
        if field in needed and not record[field].strip():
            raise ValueError(
                f"record {number} has an empty {field!r}; write one, or leave the record out"
            )


class Example(NamedTuple):
    """Hold one record as tokens."""

    prompt: list[int]
    """The filled form."""
    response: list[int]
    """The answer and the end-of-text token; without the latter if the answer was cut."""
    n_cut: int = 0
    """Tokens of the answer that the context had no room for."""

    @property
    def size(self) -> int:
        """Count the positions it takes in a row: the last token is a target only."""
        return len(self.prompt) + len(self.response) - 1


def ending_of(tokenizer: Tokenizer) -> int:
    """Look up the token that ends an answer.

    Args:
        tokenizer: Ours or tiktoken's.

    Raises:
        ValueError: If it has none.
    """
    ends = end_of_text(tokenizer)
    if not ends:
        raise ValueError(
            "the tokenizer has no end-of-text token, so no answer could end; train one with it"
        )
    return min(ends)


def encode_records(
    records: Iterable[Record], tokenizer: Tokenizer, form: PromptForm, context_length: int
) -> list[Example]:
    """Turn records into tokens, prompt and answer apart.

    An answer that is too long loses its end, and its example says how much in `n_cut`.

    Args:
        records: At least one.
        tokenizer: The model's own.
        form: How to ask.
        context_length: The model's, in tokens.

    Returns:
        An example for each record, in the same order.

    Raises:
        ValueError: If a record is not usable, or its prompt leaves no room for an answer.

    Example:
        >>> from gptlib.tokenizer import BPETokenizer
        >>> record = {"instruction": "Say yes.", "output": "yes"}
        >>> encode_records([record], BPETokenizer([]), CHAT, context_length=99)[0].response
        [88, 68, 82, 256]
    """
    examples, end = [], ending_of(tokenizer)
    for number, record in enumerate(records):
        check_record(record, number)
        asked = form.fill(record["instruction"], record.get("input", ""))
        prompt = tokenizer.encode_ordinary(asked)
        response = [*tokenizer.encode_ordinary(record["output"].strip()), end]
        room = context_length + 1 - len(prompt)  # the last token is never read
        if room < 1:
            raise ValueError(
                f"the prompt of record {number} has {len(prompt)} tokens and leaves the context of "
                f"{context_length} no room for an answer; shorten its input, or leave it out"
            )
        examples.append(Example(prompt, response[:room], max(0, len(response) - room)))
    if not examples:
        raise ValueError("there are 0 records; pass at least 1")
    return examples


IGNORED = -100
"""The target of a position from which nothing is learnt; PyTorch's cross-entropy skips it."""


class Batch(NamedTuple):
    """Hold rows of tokens for one step; each tensor has shape (B, T)."""

    inputs: Tensor
    """Token ids; 0 in the padding."""
    targets: Tensor
    """The tokens that follow, `IGNORED` where nothing is learnt."""
    positions: Tensor
    """Places, counted from 0 in each record."""
    records: Tensor
    """Which record of its row a token belongs to, counted from 1; 0 in the padding."""

    def to(self, device: torch.device) -> "Batch":
        """Move all four to a device."""
        return Batch(*(part.to(device) for part in self))


def lay_out(example: Example, number: int, learn_prompt: bool) -> Tensor:
    """Write one example as columns: input, target, position and number of the record.

    Args:
        example: The tokens.
        number: What to call the record in its row.
        learn_prompt: Whether the prompt's own tokens are targets, too.

    Returns:
        Shape (size, 4).
    """
    tokens = torch.tensor([*example.prompt, *example.response])
    targets = tokens[1:].clone()
    if not learn_prompt:
        targets[: len(example.prompt) - 1] = IGNORED
    places = torch.arange(example.size)
    return torch.stack([tokens[:-1], targets, places, torch.full_like(places, number)], dim=1)


def make_batch(rows: Sequence[Sequence[Example]], learn_prompt: bool = False) -> Batch:
    """Lay examples side by side in rows, and pad the rows at the right to one length.

    Args:
        rows: For each row the examples that it holds.
        learn_prompt: Whether the prompts' tokens are targets, too.

    Returns:
        The batch, shape (B, T) with T the longest row.

    Example:
        >>> batch = make_batch([[Example([5, 6], [7, 9]), Example([5], [9])], [Example([6], [9])]])
        >>> batch.inputs.tolist(), batch.records.tolist()
        ([[5, 6, 7, 5], [6, 0, 0, 0]], [[1, 1, 1, 2], [1, 0, 0, 0]])
        >>> batch.targets.tolist()
        [[-100, 7, 9, 9], [9, -100, -100, -100]]
    """
    laid = [
        torch.cat([lay_out(example, i, learn_prompt) for i, example in enumerate(row, start=1)])
        for row in rows
    ]
    padding = torch.tensor([0, IGNORED, 0, 0])
    table = padding.repeat(len(laid), max(map(len, laid)), 1)  # (B, T, 4)
    for row, part in zip(table, laid, strict=True):
        row[: len(part)] = part
    return Batch(*table.unbind(dim=-1))  # each (B, T)


def pack(examples: Iterable[Example], length: int) -> list[list[Example]]:
    """Put each example into the first row that has room for it ("first fit").

    Args:
        examples: In the order in which they look for a place.
        length: Positions of a row, at most the context length.

    Returns:
        The rows.

    Raises:
        ValueError: If an example is longer than a row.

    Example:
        >>> rows = pack([Example([1] * n, [2]) for n in (5, 6, 3, 2)], length=8)
        >>> [[example.size for example in row] for row in rows]
        [[5, 3], [6, 2]]
    """
    rows: list[list[Example]] = []
    room: list[int] = []
    for example in examples:
        if example.size > length:
            raise ValueError(
                f"an example takes {example.size} positions, more than the {length} of a row; "
                "encode the records with that context_length"
            )
        place = next((i for i, free in enumerate(room) if free >= example.size), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(length)
        rows[place].append(example)
        room[place] -= example.size
    return rows


def record_mask(records: Tensor) -> Tensor:
    """Let each token look back within its own record only.

    Args:
        records: The number of each token's record, shape (B, T).

    Returns:
        Booleans, shape (B, 1, T, S); True means "may look". Padding looks at padding.

    Example:
        >>> record_mask(torch.tensor([[1, 1, 2]])).int().tolist()
        [[[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]]
    """
    same = records[:, None, :, None] == records[:, None, None, :]  # (B, 1, T, S)
    return same & causal_mask(records.size(1), device=records.device)


def read_rows(model: GPT, batch: Batch) -> Tensor:
    """Pass rows through the blocks as if each record stood alone.

    The positions begin again with each record, and no attention crosses a border. The blocks know
    nothing of it: their parts are called one by one from outside.

    Args:
        model: The model.
        batch: The rows. With one record in each, the causal rule is enough.

    Returns:
        The stream after the last block, shape (B, T, C), before `model.unembed`.
    """
    embed = model.embed
    x = embed.token_embedding(batch.inputs) + embed.position_embedding(batch.positions)
    x = embed.dropout(x)  # (B, T, C)
    mask = record_mask(batch.records) if batch.records.max() > 1 else None
    for block in model.blocks:
        q, k, v = block.attn.project(block.ln_1(x))  # each (B, H, T, D)
        dropout = block.attn.dropout.p if model.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
        x = x + block.attn.merge(heads)  # (B, T, C)
        x = x + block.mlp(block.ln_2(x))
    return x


def response_loss(model: GPT, batch: Batch) -> tuple[Tensor, int]:
    """Measure how well the model predicts what is to be learnt, and nothing else.

    Logits are made for those positions alone.

    Args:
        model: The model.
        batch: The rows.

    Returns:
        The sum of the cross-entropies, in nats, with a gradient; and the number of targets.

    Raises:
        ValueError: If there is no target.
    """
    learnt = batch.targets != IGNORED  # (B, T)
    n_targets = int(learnt.sum())
    if n_targets == 0:
        raise ValueError("the batch has 0 targets, so its mean loss is no number; add an answer")
    logits = model.unembed(read_rows(model, batch)[learnt])  # (n_targets, V)
    return F.cross_entropy(logits.float(), batch.targets[learnt], reduction="sum"), n_targets


@torch.no_grad()
def evaluate_responses(model: GPT, examples: Sequence[Example], batch_size: int = 8) -> float:
    """Measure how well a model predicts answers it is asked for.

    Args:
        model: The model; dropout is off meanwhile, and its mode is restored.
        examples: At least one.
        batch_size: Rows of the context's length predicted at once.

    Returns:
        The mean cross-entropy over all tokens of all answers, ends included, in nats per token.

    Raises:
        ValueError: If there are no examples.
    """
    if not examples:
        raise ValueError("there are 0 examples; pass at least 1")
    rows, device = pack(examples, model.config.context_length), model.ln_f.weight.device
    was_training = model.training
    model.eval()
    sums = [
        response_loss(model, make_batch(rows[i : i + batch_size]).to(device))
        for i in range(0, len(rows), batch_size)
    ]
    model.train(was_training)
    return sum(loss.item() for loss, _ in sums) / sum(n for _, n in sums)


def respond(
    model: GPT,
    tokenizer: Tokenizer,
    records: Sequence[Record],
    form: PromptForm,
    max_new_tokens: int = 40,
    batch_size: int = 32,
) -> list[str]:
    """Answer many questions at once, always with the likeliest token.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        records: Their "instruction" and "input" are asked; an "output" is not looked at.
        form: The form that the model was tuned with.
        max_new_tokens: Where an answer is broken off.
        batch_size: Questions answered together.

    Returns:
        The answers, without space around them.

    Raises:
        ValueError: If the model is in training mode, a record has no instruction, or a prompt is
            longer than the context.
    """
    ends, answers = {ending_of(tokenizer)}, list[str]()
    for number, record in enumerate(records):
        check_record(record, number, ("instruction",))
    asked = [form.fill(record["instruction"], record.get("input", "")) for record in records]
    prompts = [tokenizer.encode_ordinary(text) for text in asked]
    greedy = Sampling(temperature=0)
    for i in range(0, len(prompts), batch_size):
        some = prompts[i : i + batch_size]
        steps = generate_batch(model, some, max_new_tokens, greedy, end_tokens=ends)
        for row in zip(*steps, strict=True):
            text = tokenizer.decode([t for t in row if t is not None and t not in ends])
            answers.append(text.strip())
    return answers


def exact_match(answers: Sequence[str], records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """Count the answers that are right to the letter, task by task.

    Args:
        answers: One for each record; how words are spaced plays no part.
        records: With "task" and "output"; those of the task "free" have no one right answer and
            are left out.

    Returns:
        For each task how many are right and how many were asked, in the order of their names.

    Raises:
        ValueError: If there are not as many answers as records.

    Example:
        >>> records = [{"task": "opposite", "output": word} for word in ("cold", "dark")]
        >>> exact_match(["cold", "light"], records)
        {'opposite': (1, 2)}
    """
    if len(answers) != len(records):
        raise ValueError(f"{len(answers)} answers to {len(records)} records; pass one for each")
    counts: dict[str, tuple[int, int]] = {}
    for answer, record in zip(answers, records, strict=True):
        task = record.get("task", "free")
        if task != "free":
            right, asked = counts.get(task, (0, 0))
            counts[task] = right + (answer.split() == record["output"].split()), asked + 1
    return dict(sorted(counts.items()))


def repetition(text: str, n: int = 3) -> float:
    """Measure how much of a text says again what it said before.

    Args:
        text: Any text.
        n: Words that count as one phrase.

    Returns:
        The share of its phrases of n words that stood in it before; 0 for a shorter text.

    Example:
        >>> repetition("he went to war and he went to war")
        0.2857142857142857
    """
    words = text.split()
    phrases = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


def draw_rows(
    examples: Sequence[Example], config: TrainingConfig, length: int | None
) -> Iterator[list[list[Example]]]:
    """Deal out the examples in random order, all of them before one comes again, for ever.

    Args:
        examples: At least one.
        config: Its batch size (in rows) and seed.
        length: Positions of a row into which examples are packed; None gives each its own row.

    Yields:
        The rows of a batch; fewer than the batch size at the end of a round.
    """
    generator = torch.Generator().manual_seed(config.seed)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        shuffled = [examples[i] for i in order]
        rows = [[example] for example in shuffled] if length is None else pack(shuffled, length)
        for i in range(0, len(rows), config.batch_size):
            yield rows[i : i + config.batch_size]


def tune_step(
    model: GPT, optimizer: torch.optim.Optimizer, batch: Batch, config: TrainingConfig
) -> tuple[float, float]:
    """Let the parameters that are not frozen learn from one batch.

    Args:
        model: The model, in training mode.
        optimizer: It holds the learning rate.
        batch: On the model's device.
        config: Its precision and its limit for the gradient.

    Returns:
        The mean loss in nats per target, and the gradient's length before it was cut.
    """
    is_low = config.precision == "bfloat16"
    with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=is_low):
        total, n_targets = response_loss(model, batch)
    (total / n_targets).backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    norm = nn.utils.clip_grad_norm_(learned, config.max_gradient_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total.item() / n_targets, norm.item()


def run_tuning(
    model: GPT,
    batches: Iterator[Batch],
    validation: Sequence[Example] | None,
    config: TrainingConfig,
) -> Generator[Report, None, None]:
    """Take the steps and report; `tune` checks what comes in, and explains.

    Args:
        model: The model.
        batches: One for each step.
        validation: Examples to evaluate on, or None.
        config: The plan.

    Yields:
        A `Report` at every multiple of `report_every` and `evaluate_every`, and at the end.
    """
    optimizer, seconds, losses, n_tokens = make_optimizer(model, config), 0.0, list[float](), 0
    begin = time.perf_counter()
    for step in range(1, config.n_steps + 1):
        rate = learning_rate_at(step - 1, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = next(batches)
        model.train()  # the caller may have looked at the model meanwhile
        loss, norm = tune_step(model, optimizer, batch, config)
        check_finite(step, [loss], "loss", None)
        losses.append(loss)
        n_tokens += int((batch.records > 0).sum())
        is_scored = step == config.n_steps or step % config.evaluate_every == 0
        if not is_scored and step % config.report_every:
            continue
        speed = n_tokens / (time.perf_counter() - begin)
        score = evaluate_responses(model, validation) if validation and is_scored else None
        seconds += time.perf_counter() - begin
        model.eval()
        yield Report(step, sum(losses) / len(losses), score, rate, norm, speed, seconds)
        losses, n_tokens, begin = [], 0, time.perf_counter()


def tune(
    model: GPT,
    examples: Sequence[Example],
    validation: Sequence[Example] | None,
    config: TrainingConfig,
    *,
    packed: bool = True,
    learn_prompt: bool = False,
) -> Generator[Report, None, None]:
    """Fine-tune a model on answers, and hand over a report from time to time.

    As with `train`, the work is done while you ask for the next report. Frozen parameters stay as
    they are, so this trains a whole model, or only what `add_lora` added.

    Args:
        model: The model, on its device; it is trained in place, and is in evaluation mode at every
            report.
        examples: What to learn from.
        validation: Examples that are not among them, for the validation loss; or None.
        config: The plan. `batch_size` counts rows; `save_every` plays no part.
        packed: Whether a row holds as many records as it has room for, or one.
        learn_prompt: Whether the questions are learnt like the answers.

    Returns:
        A generator of reports; losses are in nats per token of the answers, tokens per second
        count prompts too and padding not.

    Raises:
        ValueError: If there is no example, one is too long, nothing is left to train, or the
            plan asks for accumulation.
        FloatingPointError: While running, at the first loss that is no number.
    """
    length = model.config.context_length
    if not examples or validation == []:
        raise ValueError("there are 0 examples; pass at least 1, and None for no validation")
    longest = max([*examples, *(validation or [])], key=lambda example: example.size)
    pack([longest], length)  # refuses what is too long
    if config.accumulation_steps != 1:
        raise ValueError(
            f"accumulation_steps is {config.accumulation_steps}; batches of answers differ in "
            "size, so use 1 and a larger batch_size"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("all parameters are frozen; call add_lora, or unfreeze what should learn")
    device = model.ln_f.weight.device
    rows = draw_rows(examples, config, length if packed else None)
    batches = (make_batch(some, learn_prompt).to(device) for some in rows)
    return run_tuning(model, batches, validation, config)


PROJECTIONS = ("attn.qkv", "attn.proj", "mlp.expand", "mlp.proj")
"""The matrices of a block."""


@dataclass(frozen=True)
class LoRAConfig:
    """Say which matrices get a low-rank addition, and how large it is.

    Raises:
        ValueError: If the rank is below 1, the scale is not above 0, or a projection is unknown.

    Example:
        >>> LoRAConfig(rank=8, alpha=16).scale
        2.0
    """

    rank: int = 8
    """Columns of one small matrix and rows of the other, r."""
    alpha: float = 16.0
    """The addition is multiplied by alpha / rank, so that ranks can be compared."""
    projections: tuple[str, ...] = ("attn.qkv", "attn.proj")
    """Some of `PROJECTIONS`, in every block."""

    def __post_init__(self) -> None:
        """Refuse an addition that adds nothing or has no place."""
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank is {self.rank!r}; it must be a whole number of at least 1")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha!r}; it must be above 0")
        chosen = set(self.projections)
        if not chosen or not chosen <= {*PROJECTIONS} or len(chosen) < len(self.projections):
            raise ValueError(
                f"projections are {self.projections!r}; choose one or more of "
                f"{', '.join(PROJECTIONS)}, each once"
            )

    @property
    def scale(self) -> float:
        """What the product of the two small matrices is multiplied by."""
        return self.alpha / self.rank


class LoRALinear(nn.Module):
    """Add a trainable product of two thin matrices to a frozen linear layer.

    Computes W x + b + (alpha / rank) · up · down · x. `up` starts at zero, so at first nothing
    changes.

    Args:
        linear: The layer, which is frozen.
        config: Rank and scale.
        generator: The source of `down`'s starting values; PyTorch's global one if None.

    Attributes:
        linear: The frozen layer.
        down: Shape (rank, in).
        up: Shape (out, rank).

    Raises:
        ValueError: If the rank is above the layer's smaller side: two such matrices would hold
            more numbers than they replace, and say no more.

    Source:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.

    Example:
        >>> layer = LoRALinear(nn.Linear(6, 4), LoRAConfig(rank=2))
        >>> [tuple(p.shape) for p in layer.parameters() if p.requires_grad]
        [(2, 6), (4, 2)]
    """

    def __init__(
        self, linear: nn.Linear, config: LoRAConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        n_out, n_in = linear.weight.shape
        if config.rank > min(n_out, n_in):
            raise ValueError(
                f"rank {config.rank} is above {min(n_out, n_in)}, the smaller side of a matrix of "
                f"{n_out} × {n_in}; choose a lower one, or train the matrix itself"
            )
        self.linear = linear.requires_grad_(False)
        self.config, self.in_features = config, n_in  # attention asks for the latter
        down = torch.empty(config.rank, n_in)  # drawn on the CPU: the same on every device
        nn.init.uniform_(down, -(n_in**-0.5), n_in**-0.5, generator=generator)
        self.down = nn.Parameter(down.to(linear.weight))
        self.up = nn.Parameter(linear.weight.new_zeros(n_out, config.rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (..., in), to (..., out)."""
        added = F.linear(F.linear(x, self.down), self.up)  # (..., rank), then (..., out)
        return self.linear(x) + self.config.scale * added

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Add the product to the frozen weights, and return the plain layer."""
        self.linear.weight += self.config.scale * self.up @ self.down
        return self.linear


def lora_layers(model: GPT) -> dict[str, LoRALinear]:
    """Find the layers that `add_lora` put into a model, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, LoRALinear)}


def add_lora(
    model: GPT, config: LoRAConfig | None = None, generator: torch.Generator | None = None
) -> GPT:
    """Freeze a model, and put a trainable low-rank addition beside some of its matrices.

    Args:
        model: The model; it is changed in place. Its logits stay the same until it is trained.
        config: Which matrices, and how large an addition; `LoRAConfig()` if None.
        generator: The source of the starting values; PyTorch's global one if None.

    Returns:
        The same model.

    Raises:
        ValueError: If it has additions already, or the rank is too high for a matrix.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> sizes = GPTConfig(vocab_size=9, context_length=4, n_layer=2, n_head=1, n_embd=16)
        >>> model = add_lora(GPT(sizes), LoRAConfig(rank=1, projections=("attn.proj",)))
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # 2 · (16 + 16)
        64
    """
    if lora_layers(model):
        raise ValueError("the model has adapters already; call merge_lora first, or load it anew")
    config = LoRAConfig() if config is None else config
    paths = [name.split(".") for name in config.projections]
    places = [(getattr(block, part), name) for block in model.blocks for part, name in paths]
    layers = [LoRALinear(getattr(part, name), config, generator) for part, name in places]
    model.requires_grad_(False)
    for (part, name), layer in zip(places, layers, strict=True):
        layer.down.requires_grad_(True)
        layer.up.requires_grad_(True)
        setattr(part, name, layer)
    return model


def merge_lora(model: GPT) -> GPT:
    """Add the low-rank products to the matrices, and take the additions out.

    What is left is a plain `GPT` of the same speed and size as before; it computes the same up to
    rounding. Its parameters can be trained again.

    Args:
        model: The model; it is changed in place.

    Returns:
        The same model.

    Raises:
        ValueError: If there is nothing to merge.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no adapters; call add_lora or load_adapters first")
    for name, layer in layers.items():
        part, _, place = name.rpartition(".")
        setattr(model.get_submodule(part), place, layer.merge())
    for name, parameter in model.named_parameters():
        is_fixed = name.endswith("position_embedding.weight")  # sinusoidal waves stay as they are
        parameter.requires_grad_(not is_fixed or model.config.positions == "learned")
    return model


def adapter_tensors(model: GPT) -> dict[str, Tensor]:
    """Collect the numbers that `add_lora` added, by name."""
    layers = lora_layers(model)
    return {f"{n}.{part}": getattr(layers[n], part) for n in layers for part in ("down", "up")}


def fingerprint(model: GPT) -> str:
    """Compute a number that tells a model's own weights from all others.

    Args:
        model: The model; what `add_lora` added doesn't count.

    Returns:
        The sha256 of its weights, as 64 hexadecimal digits.
    """
    digest, added = hashlib.sha256(), adapter_tensors(model)
    for name, tensor in model.state_dict().items():
        if name not in added:
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_adapters(model: GPT, path: str | Path) -> None:
    """Write what was added to a model, and nothing of the model, to one safetensors file.

    Args:
        model: A model with adapters.
        path: The file; it appears under this name when it is whole.

    Raises:
        ValueError: If the model has no adapters.
    """
    layers, path = lora_layers(model), Path(path)
    if not layers:
        raise ValueError("the model has no adapters to save; call add_lora first")
    config = next(iter(layers.values())).config
    notes = {"lora": json.dumps(asdict(config)), "fingerprint": fingerprint(model)}
    tensors = {name: part.detach().cpu() for name, part in adapter_tensors(model).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    save_file(tensors, draft, notes)
    os.replace(draft, path)


def read_adapters(path: Path) -> tuple[dict[str, Tensor], LoRAConfig, str]:
    """Read a file of adapters, and trust nothing in it.

    Args:
        path: A file that `save_adapters` wrote.

    Returns:
        The tensors by name, the configuration, and the fingerprint of the model they belong to.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds something else.
    """
    try:
        with safe_open(path, "pt") as file:
            notes: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise damaged(path, f"it is no safetensors file that can be read ({error})") from error
    if "lora" not in notes:
        raise ValueError(f"{path} holds no adapters; name a file that save_adapters wrote")
    try:
        stored = json.loads(notes["lora"])
        config = LoRAConfig(**stored | {"projections": tuple(stored["projections"])})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"its configuration can't be read ({type(error).__name__}: {error})"
        raise damaged(path, reason) from error
    return tensors, config, str(notes.get("fingerprint"))


def load_adapters(model: GPT, path: str | Path) -> GPT:
    """Put saved adapters into the very model that they were trained for.

    Args:
        model: The base model, without adapters; it is changed in place, and frozen but for them.
        path: A file that `save_adapters` wrote.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds no adapters, or they were made for a model of other
            sizes or weights; the model is then unchanged.
    """
    path = Path(path)
    tensors, config, theirs = read_adapters(path)
    ours = fingerprint(model)
    if theirs != ours:
        raise ValueError(
            f"the adapters of {path.name} were made for another model: its weights have the sha256 "
            f"{theirs[:12]}..., these have {ours[:12]}...; load the model they belong to"
        )
    with torch.device("meta"):  # shapes without values
        expected = adapter_tensors(add_lora(GPT(model.config), config))
    if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in expected.items()}:
        raise damaged(path, f"its {len(tensors)} tensors are not those of {config}")
    added = adapter_tensors(add_lora(model, config))
    with torch.no_grad():
        for name, tensor in tensors.items():
            added[name].copy_(tensor)
    return model


def fit_prompt(
    instruction: str, input: str, tokenizer: Tokenizer, form: PromptForm, room: int
) -> tuple[list[int], str]:
    r"""Fill a form so that it fits; what is too long loses its end, and the form stays whole.

    Args:
        instruction: What to do; it is cut only if there is no input.
        input: What it is about.
        tokenizer: The model's own.
        form: How to ask.
        room: The most tokens.

    Returns:
        The prompt's tokens, and the text that was cut away, "" if none.

    Raises:
        ValueError: If the instruction is empty, or so long that nothing of the input fits beside
            it.

    Example:
        >>> from gptlib.tokenizer import BPETokenizer
        >>> tokens, cut = fit_prompt("Count.", "one two three", BPETokenizer([]), CHAT, room=21)
        >>> BPETokenizer([]).decode(tokens), cut
        ('Q: Count.\none two\nA:\n', ' three')
    """
    if not instruction.strip():
        raise ValueError("the instruction is empty; write what to do")
    text = (input if input.strip() else instruction).strip()
    body = tokenizer.encode_ordinary(text)
    kept = len(body)
    while kept > 0:
        part = tokenizer.decode_bytes(body[:kept]).decode(errors="ignore")  # no half character
        asked = (instruction, part) if input.strip() else (part, "")
        tokens = tokenizer.encode_ordinary(form.fill(*asked))
        if part and len(tokens) <= room:
            return tokens, text[len(part) :]
        kept -= max(1, len(tokens) - room)
    raise ValueError(
        f"the form {form.name!r} and the instruction leave no place in {room} tokens for what the "
        "question is about; shorten the instruction, or ask for fewer new tokens"
    )


def remember(
    prompt: list[int], history: Sequence[Record], tokenizer: Tokenizer, form: PromptForm, room: int
) -> tuple[list[int], int]:
    """Put earlier questions and their answers before a prompt, the latest ones that fit.

    Args:
        prompt: What `fit_prompt` returned.
        history: Earlier turns, with "instruction", "input" and "output"; the latest last.
        tokenizer: The model's own.
        form: How they were asked.
        room: The most tokens in all.

    Returns:
        The tokens, and how many turns are in them.
    """
    tokens, n_turns, end = prompt, 0, ending_of(tokenizer)
    for turn in reversed(history):
        text = form.fill(turn["instruction"], turn.get("input", "")) + turn["output"]
        earlier = [*tokenizer.encode_ordinary(text), end]
        if len(earlier) + len(tokens) > room:
            break
        tokens, n_turns = earlier + tokens, n_turns + 1
    return tokens, n_turns


def answer(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    max_new_tokens: int = 60,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
) -> Generator[str, None, None]:
    """Answer one prompt, and hand over the text while it is written; leaving the loop stops it.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        prompt: The tokens of a filled form.
        max_new_tokens: Where an answer is broken off.
        sampling: The knobs; the likeliest token each time if None.
        generator: The source of randomness, on the CPU; PyTorch's global one if None.

    Returns:
        A generator of pieces of text.

    Raises:
        ValueError: At the call, for all that `generate` refuses.
    """
    sampling = Sampling(temperature=0) if sampling is None else sampling
    ends = {ending_of(tokenizer)}
    tokens = generate(model, prompt, max_new_tokens, sampling, end_tokens=ends, generator=generator)
    return stream_text(tokens, TextStream(tokenizer), ends)


FORM_FILE = "prompt_form.json"
"""Where a tuned model's folder keeps the form that it answers to."""


def save_tuned(
    model: GPT,
    tokenizer: Tokenizer,
    form: PromptForm,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a tuned model in GPT-2's layout, and the form that it answers to beside it.

    Args:
        model: The model, its adapters merged.
        tokenizer: Its tokenizer.
        form: The form that it was tuned with.
        folder: Where to write; it is made if it is not there.
        dtype: How the numbers are stored.

    Raises:
        ValueError: If the model still has adapters, and for all that `save_gpt2` refuses.
    """
    if lora_layers(model):
        raise ValueError("the model has adapters, which GPT-2's layout can't hold; merge_lora it")
    save_gpt2(model, tokenizer, folder, dtype)
    draft = Path(folder).expanduser() / (FORM_FILE + ".part")
    draft.write_text(json.dumps(asdict(form), indent=2) + "\n", encoding="utf-8")
    os.replace(draft, draft.with_name(FORM_FILE))


def load_form(folder: str | Path) -> PromptForm | None:
    """Read the form that a model's folder says it answers to.

    Args:
        folder: A model's folder.

    Returns:
        The form; None if the folder names none, as that of a model that was never tuned.

    Raises:
        ValueError: If the file is there and is no form.
    """
    path = Path(folder).expanduser() / FORM_FILE
    if not path.is_file():
        return None
    values = read_json(path)
    with suppress(TypeError, ValueError, AttributeError):
        return PromptForm(**values)
    raise damaged(path, "it must hold the texts name, plain and with_input of a form")
