"""How a model that goes on from a text learns to answer (chapter 9).

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

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.attention import causal_mask
from gptlib.generation import Sampling, generate_batch
from gptlib.gpt2 import GPT, check_fields
from gptlib.tokenizer import Tokenizer, end_of_text
from gptlib.training import (
    Report,
    TrainingConfig,
    TrainingState,
    load_checkpoint,
    restore,
    run_steps,
    take_step,
    unwrap,
)

Record = Mapping[str, str]
"""What is asked and answered: "instruction", "output", and perhaps "input" and "task"."""


@dataclass(frozen=True)
class PromptForm:
    r"""Wrap a question in words that the model learns to take as "now answer".

    An answer begins where the form ends, with a space: the form should end without one.

    Example:
        >>> PromptForm("short", "Q: {instruction} A:", "Q: {instruction} {input} A:").fill("Hi")
        'Q: Hi A:'
    """

    name: str
    """What to call it."""
    plain: str
    """Text around an instruction alone, with {instruction} in its place."""
    with_input: str
    """Text around an instruction and what it is about, with {instruction} and {input}."""

    def __post_init__(self) -> None:
        for text, places in ((self.plain, 1), (self.with_input, 2)):
            for place in ("{instruction}", "{input}")[:places]:
                if text.count(place) != 1:
                    raise ValueError(f"the form {text!r} must hold {place} once; put it in")

    def fill(self, instruction: str, input: str = "") -> str:
        """Write the prompt of one question; an input of spaces alone counts as none."""
        text = self.with_input if input.strip() else self.plain
        before, after = text.split("{instruction}")
        # Fill the halves apart: the question itself may hold the letters "{input}".
        before, after = (half.replace("{input}", input.strip()) for half in (before, after))
        return before + instruction.strip() + after


ALPACA = PromptForm(
    "alpaca",
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:",
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
)
CHAT = PromptForm("chat", "Q: {instruction}\nA:", "Q: {instruction}\n{input}\nA:")


def check_record(
    record: Record, number: int, needed: tuple[str, ...] = ("instruction", "output")
) -> None:
    """Refuse a record from which nothing can be learnt.

    Args:
        record: What was read from somebody's file.
        number: Its place there, for the message.
        needed: The fields that must hold text; an "input" is optional.

    Example:
        >>> check_record({"instruction": "Say yes.", "output": ""}, number=7)
        Traceback (most recent call last):
        ValueError: record 7 has '' as its 'output'; write text, or leave the record out
    """
    for field in (*needed, "input"):
        text = record.get(field, "")
        if not isinstance(text, str) or (field in needed and not text.strip()):
            found = repr(text) if field in record else "nothing"
            odd = f"record {number} has {found} as its {field!r}"
            raise ValueError(f"{odd}; write text, or leave the record out")


class Example(NamedTuple):
    """Hold one record as tokens."""

    prompt: list[int]
    """The filled form."""
    response: list[int]
    """A space, the answer and the end-of-text token; without that token if the answer was cut."""
    n_cut: int = 0
    """Tokens of the response that the context had no room for."""

    @property
    def size(self) -> int:
        """Count the positions it takes in a row: the last token is a target only."""
        return len(self.prompt) + len(self.response) - 1


def encode_records(
    records: Iterable[Record], tokenizer: Tokenizer, form: PromptForm, context_length: int
) -> list[Example]:
    """Turn records into tokens, prompt and answer apart.

    An answer that is too long loses its end, and its example says how much in `n_cut`. A prompt
    that is too long is refused: a question without its end could have any answer.

    Raises:
        ValueError: If a record is not usable, its prompt leaves no room for an answer, or the
            tokenizer has no token to end one.

    Example:
        >>> from gptlib.tokenizer import BPETokenizer
        >>> record = {"instruction": "Say yes.", "output": "yes"}
        >>> encode_records([record], BPETokenizer([]), CHAT, context_length=99)[0].response
        [220, 88, 68, 82, 256]
    """
    examples, ends = [], end_of_text(tokenizer)
    if not ends:
        raise ValueError("the tokenizer has no end-of-text token for answers; train one with it")
    [end] = ends
    for number, record in enumerate(records):
        check_record(record, number)
        asked = form.fill(record["instruction"], record.get("input", ""))
        prompt = tokenizer.encode_ordinary(asked)  # a special token's name is plain text here
        said = " " + record["output"].strip("\n").removeprefix(" ")  # as a word in a text begins
        response = [*tokenizer.encode_ordinary(said), end]
        room = context_length + 1 - len(prompt)  # the last token is never read
        if room < 1:
            full = f"the prompt of record {number}, {len(prompt)} tokens, fills {context_length=}"
            raise ValueError(f"{full}; shorten its input, or leave it out")
        examples.append(Example(prompt, response[:room], max(0, len(response) - room)))
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
    """Counted from 0 in each record."""
    records: Tensor
    """Which record of its row a token belongs to, counted from 1; 0 in the padding."""

    def to(self, device: torch.device) -> "Batch":
        """Move all four to a device."""
        return Batch(*(part.to(device) for part in self))


def make_batch(rows: Sequence[Sequence[Example]], learn_prompt: bool = False) -> Batch:
    """Lay examples side by side in rows, and pad the rows at the right to one length.

    With `learn_prompt` the prompts' tokens are targets, too.

    Example:
        >>> batch = make_batch([[Example([5, 6], [7, 9]), Example([5], [9])], [Example([6], [9])]])
        >>> batch.inputs.tolist(), batch.records.tolist()
        ([[5, 6, 7, 5], [6, 0, 0, 0]], [[1, 1, 1, 2], [1, 0, 0, 0]])
        >>> batch.targets.tolist()
        [[-100, 7, 9, 9], [9, -100, -100, -100]]
    """
    laid = []
    for row in rows:
        cells: list[list[int]] = []
        for number, example in enumerate(row, start=1):
            tokens = [*example.prompt, *example.response]
            targets = tokens[1:]
            if not learn_prompt:  # the prompt's last token predicts the answer's first
                targets[: len(example.prompt) - 1] = [IGNORED] * (len(example.prompt) - 1)
            for position, target in enumerate(targets):
                cells.append([tokens[position], target, position, number])
        laid.append(cells)
    width = max(map(len, laid))
    table = [cells + [[0, IGNORED, 0, 0]] * (width - len(cells)) for cells in laid]  # (B, T, 4)
    return Batch(*torch.tensor(table).unbind(dim=-1))  # each (B, T)


def pack(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Put each example into the first row that has room for it ("first fit").

    A row has `length` positions, at most the context length.

    Raises:
        ValueError: If there is no example, or one is longer than a row.

    Example:
        >>> rows = pack([Example([1] * n, [2]) for n in (5, 6, 3, 2)], length=8)
        >>> [[example.size for example in row] for row in rows]
        [[5, 3], [6, 2]]
    """
    # Rows full of text leave little padding to compute.
    rows: list[list[Example]] = []
    room: list[int] = []  # positions that are left in each row
    if not examples:
        raise ValueError("there are 0 examples; pass at least 1")
    for example in examples:
        if example.size > length:
            long = f"an example takes {example.size} positions of a row's {length}"
            raise ValueError(f"{long}; encode the records with that context_length")
        place = next((i for i, free in enumerate(room) if free >= example.size), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(length)
        rows[place].append(example)
        room[place] -= example.size
    return rows


def record_mask(records: Tensor) -> Tensor:
    """Let each token look back within its own record only.

    Returns:
        From `records`, shape (B, T), booleans of shape (B, 1, T, S); True means "may look".
        Padding looks at padding.

    Example:
        >>> record_mask(torch.tensor([[1, 1, 2]])).int().tolist()
        [[[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]]
    """
    same = records[:, None, :, None] == records[:, None, None, :]  # (B, 1, T, S)
    return same & causal_mask(records.size(1), device=records.device)


def read_rows(model: GPT, inputs: Tensor, positions: Tensor, records: Tensor) -> Tensor:
    """Pass rows through the blocks as if each record stood alone.

    Returns:
        The stream after the last block, shape (B, T, C), before `model.unembed`.
    """
    if records.max() <= 1:  # one record a row: the causal rule is enough
        return model.stream(inputs, positions=positions)
    # Packed rows need another rule, or records would look at each other: a mask of ours.
    masked = partial(F.scaled_dot_product_attention, attn_mask=record_mask(records))
    # A mix takes the place of attention's own dropout, so it brings its own.
    dropouts = [block.attn.dropout.p if model.training else 0.0 for block in model.blocks]
    mixes = [partial(masked, dropout_p=dropout) for dropout in dropouts]
    return model.stream(inputs, mixes, positions)


def response_loss(
    model: GPT, inputs: Tensor, targets: Tensor, positions: Tensor, records: Tensor
) -> Tensor:
    """Measure how well a model predicts what is to be learnt in a `Batch`, and nothing else.

    Returns:
        The mean cross-entropy of the targets that count, in nats per token; a scalar with a
        gradient.
    """
    learnt = targets != IGNORED  # (B, T)
    x = read_rows(model, inputs, positions, records)[learnt]  # (n, C)
    logits = model.unembed(x)  # (n, V): only where there is something to learn
    # float: a loss needs more digits than bfloat16 has.
    return F.cross_entropy(logits.float(), targets[learnt])


@torch.no_grad()
def evaluate_responses(model: GPT, examples: Sequence[Example], batch_size: int = 8) -> float:
    """Measure how well a model predicts answers it is asked for.

    Returns:
        The mean cross-entropy over all tokens of all answers, ends included, in nats per token.
        Dropout is off meanwhile.
    """
    rows, device = pack(examples, model.config.context_length), model.ln_f.weight.device
    was_training, total, n_targets = model.training, 0.0, 0
    model.eval()
    for i in range(0, len(rows), batch_size):
        batch = make_batch(rows[i : i + batch_size])
        n_learnt = int((batch.targets != IGNORED).sum())
        total += response_loss(model, *batch.to(device)).item() * n_learnt
        n_targets += n_learnt
    model.train(was_training)
    return total / n_targets


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
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        records: Their "instruction" and "input" are asked; an "output" is not looked at.
        form: The form that the model was tuned with.
        max_new_tokens: Where an answer is cut off.
        batch_size: Questions answered together.

    Returns:
        The answers, without space around them.
    """
    ends, greedy = end_of_text(tokenizer), Sampling(temperature=0)
    answers: list[str] = []
    for number, record in enumerate(records):
        check_record(record, number, ("instruction",))
    asked = [form.fill(record["instruction"], record.get("input", "")) for record in records]
    prompts = [tokenizer.encode_ordinary(text) for text in asked]
    for i in range(0, len(prompts), batch_size):
        some = prompts[i : i + batch_size]
        rows: list[list[int]] = [[] for _ in some]
        for written in generate_batch(model, some, max_new_tokens, greedy, end_tokens=ends):
            for row, token in zip(rows, written, strict=True):
                if token is not None and token not in ends:  # None: the row had ended before
                    row.append(token)
        answers += [tokenizer.decode(row).strip() for row in rows]
    return answers


def exact_match(answers: Sequence[str], records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """Count the answers that are right to the letter, task by task.

    Args:
        answers: One for each record; how words are spaced plays no part.
        records: With "task" and "output"; those of the task "free" have no one right answer and
            are left out.

    Returns:
        For each task how many are right and how many were asked, in the order of their names.

    Example:
        >>> records = [{"task": "opposite", "output": word} for word in ("cold", "dark")]
        >>> exact_match(["cold", "light"], records)
        {'opposite': (1, 2)}
    """
    counts: dict[str, tuple[int, int]] = {}
    for text, record in zip(answers, records, strict=True):
        task = record.get("task", "free")
        if task != "free":
            right, asked = counts.get(task, (0, 0))
            is_right = text.split() == record["output"].split()
            counts[task] = (right + is_right, asked + 1)
    return dict(sorted(counts.items()))


def repetition(text: str, n: int = 3) -> float:
    """Measure which share of a text's runs of n words stood in it before.

    Example:
        >>> repetition("he went to war and he went to war")
        0.2857142857142857
    """
    words = text.split()
    phrases = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


def draw_rows(
    examples: Sequence[Example], batch_size: int, length: int | None, generator: torch.Generator
) -> Iterator[list[list[Example]]]:
    """Shuffle the examples, hand all of them out, and begin again, for ever.

    Args:
        examples: At least one.
        batch_size: Rows per batch; the last batch of a round may have fewer.
        length: Positions of a row into which examples are packed; None gives each its own row.
        generator: Decides the order.
    """
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        shuffled = [examples[i] for i in order]
        # Packed anew in each round, so that an example meets other neighbours in its batch.
        rows = [[example] for example in shuffled] if length is None else pack(shuffled, length)
        for i in range(0, len(rows), batch_size):
            yield rows[i : i + batch_size]


def tune(
    model: GPT,
    examples: Sequence[Example],
    validation: Sequence[Example] | None,
    config: TrainingConfig,
    *,
    packed: bool = True,
    learn_prompt: bool = False,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Generator[Report, None, None]:
    """Fine-tune a model on answers, and hand over a report from time to time.

    As with `train`, the work is done while you ask for the next report. Frozen parameters stay as
    they are, so this trains a whole model, or only what `add_lora` added.

    Args:
        model: On its device; it is trained in place, and in evaluation mode at every report.
        examples: What to learn from.
        validation: Examples that are not among them, for the validation loss; or None.
        config: The plan; `batch_size` counts rows.
        packed: Whether a row holds as many records as it has room for, or one.
        learn_prompt: Whether the questions are learnt like the answers.
        checkpoint: Where to save, every `save_every` steps and at the end. None saves nothing.
        resume: Whether to go on from the checkpoint that is there, as `train` does.

    Returns:
        A generator of reports; losses are in nats per token of the answers, tokens per second
        count prompts too and padding not.

    Raises:
        ValueError: If there is no example, one is too long, nothing is left to train, or the
            plan asks for accumulation.
        FloatingPointError: While running, at the first loss or gradient that is nan or infinite.
    """
    length, device = model.config.context_length, model.ln_f.weight.device
    for part in (examples, validation):
        if part is not None:  # pack the longest alone: an error should come now, not in mid-run
            # [-1:] leaves an empty list empty, which `pack` refuses, too.
            pack(sorted(part, key=lambda example: example.size)[-1:], length)
    rule = "1, because batches of answers differ in size; raise batch_size instead"
    check_fields(config, {"accumulation_steps": (rule, config.accumulation_steps == 1)})
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("all parameters are frozen; call add_lora, or unfreeze what should learn")
    state = TrainingState.start(model, config)
    if resume:
        if checkpoint is None:
            raise ValueError("resume is True without a checkpoint; pass checkpoint=PATH as well")
        restore(state, load_checkpoint(checkpoint))
    # A round's order is drawn at its beginning, so what was learnt is drawn again and left out.
    generator, width = state.generator.manual_seed(config.seed), length if packed else None
    rows = islice(draw_rows(examples, config.batch_size, width, generator), state.step, None)

    def draw(state: TrainingState) -> list[Batch]:
        batch = make_batch(next(rows), learn_prompt)
        state.n_tokens += int((batch.records > 0).sum())  # padding doesn't count
        return [batch.to(device)]

    step = partial(take_step, draw=draw, loss=response_loss)
    score = None if validation is None else partial(evaluate_responses, model, validation)
    return run_steps(state, step, score, checkpoint)


PROJECTIONS = ("attn.qkv", "attn.proj", "mlp.expand", "mlp.proj")
"""The matrices of a block."""


@dataclass(frozen=True)
class LoRAConfig:
    """Say which matrices get a low-rank addition, and how large it is.

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
        chosen, some = {*self.projections} & {*PROJECTIONS}, ", ".join(PROJECTIONS)
        all_fit = 0 < len(chosen) == len(self.projections)
        rules = {
            "rank": ("a whole number of at least 1", isinstance(self.rank, int) and self.rank >= 1),
            "alpha": ("above 0 and finite", 0 < self.alpha < math.inf),
            "projections": (f"one or more of {some}, each once", all_fit),
        }
        check_fields(self, rules)

    @property
    def scale(self) -> float:
        """What the product of the two small matrices is multiplied by."""
        return self.alpha / self.rank


class LoRALinear(nn.Module):
    """Add a trainable product of two thin matrices to a frozen linear layer.

    Computes W x + b + (alpha / rank) · up · down · x. `up` starts at zero, so at first nothing
    changes.

    Attributes:
        linear: The frozen layer.
        down: Shape (rank, in); its starting values come from `generator`.
        up: Shape (out, rank).

    Raises:
        ValueError: If the rank is above the layer's smaller side: more numbers, which say no more.

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
        side = min(n_out, n_in)
        rule = f"at most {side}, as a matrix of {n_out} × {n_in} has no higher rank"
        check_fields(config, {"rank": (rule, config.rank <= side)})
        self.linear, self.config = linear.requires_grad_(False), config
        down = torch.empty(config.rank, n_in)  # drawn on the CPU: the same on every device
        # nn.Linear's own range: what comes out is 1 / √3 as large as what goes in.
        nn.init.uniform_(down, -(n_in**-0.5), n_in**-0.5, generator=generator)
        self.down = nn.Parameter(down.to(linear.weight))
        # One of the two starts at zero, and only one: with both, neither would get a gradient.
        self.up = nn.Parameter(linear.weight.new_zeros(n_out, config.rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (..., in), to (..., out)."""
        # Two thin products: the (out, in) matrix up · down is never made.
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
        model: It is changed in place and returned. Its logits stay the same until it is trained.
        config: Which matrices, and how large an addition; `LoRAConfig()` if None.
        generator: The source of the starting values; PyTorch's global one if None.

    Raises:
        ValueError: If it has additions already, or the rank is too high for a matrix.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> sizes = GPTConfig(vocab_size=9, context_length=4, n_layer=2, n_head=1, n_embd=16)
        >>> model = add_lora(GPT(sizes), LoRAConfig(rank=1, projections=("attn.proj",)))
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # 2 · (16 + 16)
        64
    """
    model = unwrap(model)
    if lora_layers(model):
        raise ValueError("the model has adapters already; call merge_lora first, or load it anew")
    config = config or LoRAConfig()
    places = [
        (block.get_submodule(part), name)
        for block in model.blocks
        for part, name in (projection.split(".") for projection in config.projections)
    ]
    layers = [LoRALinear(getattr(part, name), config, generator) for part, name in places]
    model.requires_grad_(False)  # before the swap, so that the additions stay trainable
    for (part, name), layer in zip(places, layers, strict=True):
        setattr(part, name, layer)
    return model


def merge_lora(model: GPT) -> GPT:
    """Add the low-rank products to the matrices, and take the additions out.

    What is left, and returned, is a plain `GPT` of the same speed and size as before; it computes
    the same up to rounding. Its parameters can be trained again.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no adapters; call add_lora or load_adapters first")
    for name, layer in layers.items():
        part, _, place = name.rpartition(".")
        setattr(model.get_submodule(part), place, layer.merge())
    return model.requires_grad_(True)
