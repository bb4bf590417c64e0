"""How a model learns from text, stops and goes on (chapter 5).

Example:
    >>> from gptlib.gpt2 import GPT, GPTConfig
    >>> sizes = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
    >>> model = GPT(sizes, torch.Generator().manual_seed(0))
    >>> config = TrainingConfig(n_steps=60, batch_size=4, max_learning_rate=1e-2)
    >>> reports = list(train(model, torch.arange(200) % 10, None, config))
    >>> reports[-1].step, reports[-1].loss < 1
    (60, True)
"""

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlib.embeddings import check_stream, random_batch
from gptlib.gpt2 import GPT, check_fields
from gptlib.tokenizer import whole_file

Loss = Callable[..., Tensor]
"""From a model and the tensors of one batch to a mean loss in nats, a scalar with a gradient."""


def next_token_loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Measure how well a model predicts `targets`, the token that follows each of `inputs`.

    Takes token ids of shape (B, T) and returns the mean cross-entropy over B·T positions, in nats
    per token. All logits are in memory at once, 4 B·T·V bytes of them, and as many for their
    gradient.
    """
    logits = model(inputs)  # (B, T, V)
    # float: a loss needs more digits than bfloat16 has.
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def perplexity(nats_per_token: float) -> float:
    """Turn a loss into the number of equally likely tokens that would be as hard to guess among."""
    return math.exp(nats_per_token)


def bits_per_byte(nats_per_token: float, n_tokens: int, n_bytes: int) -> float:
    """Turn a loss into a figure that doesn't depend on the tokenizer.

    That many bits the text would take if it were compressed with the model's guesses. `n_bytes`
    counts the UTF-8 of the `n_tokens` tokens that the loss is the mean of.

    Example:
        >>> bits_per_byte(math.log(256), n_tokens=10, n_bytes=10)  # bytes, all equally likely
        8.0
    """
    return nats_per_token / math.log(2) * n_tokens / n_bytes


@torch.no_grad()
def evaluate(model: GPT, tokens: Tensor, batch_size: int = 8) -> float:
    """Measure how well a model predicts a text, each token once, in the text's own order.

    The text is cut into windows whose targets don't overlap; what is left over makes a shorter one.

    Args:
        model: Dropout is off meanwhile, and its mode is restored.
        tokens: Token ids, shape (n,), more than the model's context length.
        batch_size: Windows predicted at once; it changes the speed and the memory only.

    Returns:
        The mean cross-entropy over all n - 1 tokens but the first, in nats per token.
    """
    length, device = model.config.context_length, model.ln_f.weight.device
    check_stream(tokens, length, "the text to evaluate")
    # The last target of a window is the first input of the next, so each token is judged once.
    windows = tokens.unfold(0, length + 1, length)  # (N, T + 1)
    rest = tokens[None, len(windows) * length :]  # (1, at most T)
    was_training, total = model.training, 0.0
    model.eval()
    try:
        for batch in (*windows.split(batch_size), rest):
            n_targets = batch[:, 1:].numel()  # the weight of a mean: the rest is shorter
            if n_targets:  # a rest of one token has none
                batch = batch.to(device, torch.int64)
                total += n_targets * next_token_loss(model, batch[:, :-1], batch[:, 1:]).item()
    finally:
        model.train(was_training)
    return total / (len(tokens) - 1)


@dataclass(frozen=True)
class TrainingConfig:
    """Plan a run: without dropout, the same model, text and plan give the same result."""

    n_steps: int
    """Optimizer steps in all."""
    batch_size: int = 8
    """Windows per forward pass, B."""
    accumulation_steps: int = 1
    """Forward and backward passes per optimizer step; their gradients are averaged."""
    max_learning_rate: float = 3e-3
    """The highest learning rate, reached when the warm-up ends."""
    min_learning_rate: float = 0.0
    """The learning rate of the last step, where the cosine ends."""
    warmup_steps: int = 0
    """Optimizer steps in which the learning rate rises in a straight line."""
    weight_decay: float = 0.1
    """How strongly matrices are pulled towards zero: this times the learning rate, per step."""
    # 0.99, not PyTorch's 0.999: in a short run an average over 1,000 steps lags behind.
    betas: tuple[float, float] = (0.9, 0.99)
    """How much AdamW's averages keep per step, of the gradient and of its square."""
    max_gradient_norm: float = 1.0
    """A longer gradient, over all parameters, is cut to this length; inf sets no limit."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """"float32", or "bfloat16" for matrix products in half the bits."""
    report_every: int = 10
    """Optimizer steps from one report to the next; fewer reports wait less for a GPU."""
    evaluate_every: int = 500
    """Optimizer steps from one evaluation to the next; the last step has one too."""
    save_every: int = 500
    """Optimizer steps from one checkpoint to the next; the last step has one too."""
    seed: int = 0
    """Fixes the order of the batches."""

    def __post_init__(self) -> None:
        every = ("report_every", "evaluate_every", "save_every")
        for name in ("n_steps", "batch_size", "accumulation_steps", *every):
            n, whole = getattr(self, name), "a whole number of at least 1"
            check_fields(self, {name: (whole, isinstance(n, int) and n >= 1)})
        low, high = self.min_learning_rate, self.max_learning_rate
        rules = {
            "warmup_steps": ("from 0 to n_steps - 1", self.warmup_steps in range(self.n_steps)),
            "max_learning_rate": ("above 0 and finite", 0 < high < math.inf),
            "min_learning_rate": ("from 0 to max_learning_rate", 0 <= low <= high),
            "max_gradient_norm": ("above 0; inf sets no limit", self.max_gradient_norm > 0),
            "precision": ("float32 or bfloat16", self.precision in ("float32", "bfloat16")),
        }
        check_fields(self, rules)


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Plan the learning rate: up in a straight line, then down half a cosine wave.

    Steps count from 0. The rate is `max_learning_rate` when the warm-up has ended, and
    `min_learning_rate` from the last step on.

    Source:
        Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts; warm-up, Goyal et al.
        2017, section 2.2.

    Example:
        >>> config = TrainingConfig(n_steps=101, warmup_steps=20, max_learning_rate=1.0)
        >>> [round(learning_rate_at(step, config), 2) for step in (0, 9, 20, 60, 100)]
        [0.05, 0.5, 1.0, 0.5, 0.0]
    """
    highest, lowest, last = config.max_learning_rate, config.min_learning_rate, config.n_steps - 1
    if step < config.warmup_steps:
        return highest * (step + 1) / config.warmup_steps  # + 1: at 0 the first step is lost
    if step >= last:  # else no step may be left for the cosine: 0 / 0
        return lowest
    progress = (step - config.warmup_steps) / (last - config.warmup_steps)  # 0 to 1
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Make AdamW, with weight decay on matrices and tables, and none on biases and norms.

    Frozen parameters are left out, and the model must be on its device already.

    Source:
        Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        >>> optimizer = make_optimizer(model, TrainingConfig(n_steps=1))
        >>> [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups]
        [(2, 0.1), (3, 0.0)]
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    # Gains belong near 1, not 0, and biases are few: only matrices and tables need decay.
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learned if p.dim() >= 2]},
        {"params": [p for p in learned if p.dim() < 2], "weight_decay": 0.0},
    ]
    # "fused": one pass over the memory for all parameters, not a dozen small operations for each.
    return torch.optim.AdamW(
        groups, config.max_learning_rate, config.betas, weight_decay=config.weight_decay, fused=True
    )


def accumulate_gradients(
    model: nn.Module,
    batches: Sequence[Sequence[Tensor]],
    loss: Loss = next_token_loss,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Tensor:
    """Add to the gradients what several batches say, as if they were one big batch.

    Args:
        model: Where the gradients are added.
        batches: What `loss` takes after the model, on the model's device; all of one size, so
            that the mean of their losses is the loss of the big batch.
        loss: Measures the mean loss of one batch.
        precision: "bfloat16" runs matrix products in half the bits; weights stay float32.

    Returns:
        The mean loss, in nats, on the device (nothing waits for it).
    """
    device = batches[0][0].device
    total = torch.zeros((), device=device)
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            value = loss(model, *batch) / len(batches)  # so that the gradients' sum is a mean
        value.backward()
        total += value.detach()
    return total


def unwrap(model: nn.Module) -> GPT:
    """Take a model out of the wrappers of DDP and `torch.compile`."""
    for wrapper in ("module", "_orig_mod"):
        model = getattr(model, wrapper, model)
    return cast(GPT, model)


@dataclass
class TrainingState:
    """Hold all that a run changes; restored, the run goes on bit for bit.

    Dropout draws from PyTorch's own random states, of which a checkpoint holds those of the CPU and
    of CUDA.
    """

    model: nn.Module
    """What learns: a `GPT`, or what a later chapter puts around one."""
    config: TrainingConfig
    """The plan."""
    optimizer: torch.optim.Optimizer
    """AdamW, for example, which keeps two averages per parameter."""
    generator: torch.Generator
    """Draws the batches, on the CPU."""
    step: int = 0
    """Optimizer steps done; it fixes the learning rate."""
    n_tokens: int = 0
    """Tokens drawn since the start or the resume; it gives the speed."""

    @classmethod
    def start(
        cls,
        model: nn.Module,
        config: TrainingConfig,
        optimizer: Callable[[nn.Module, TrainingConfig], torch.optim.Optimizer] = make_optimizer,
    ) -> "TrainingState":
        """Begin a run at step 0 with the model's weights as they are."""
        model.zero_grad()  # an interrupted step may have left half a gradient
        generator = torch.Generator().manual_seed(config.seed)
        return cls(model, config, optimizer(model, config), generator)


Draw = Callable[[TrainingState], Sequence[Sequence[Tensor]]]
"""Draw the batches of one step, `accumulation_steps` of them, and count their tokens."""


def draw_windows(tokens: Tensor, state: TrainingState) -> list[tuple[Tensor, Tensor]]:
    """Draw one step's windows at random.

    Args:
        tokens: Token ids, shape (n,), on any device; a file of them may be mapped into memory.
        state: Its generator and its count of tokens move on.

    Returns:
        For each pass of the step, inputs and targets of shape (B, T) on the model's device.
    """
    model, config = unwrap(state.model), state.config
    size, length = config.batch_size, model.config.context_length
    n_draws = config.accumulation_steps
    state.n_tokens += n_draws * size * length
    batches = [random_batch(tokens, size, length, state.generator) for _ in range(n_draws)]
    device = model.ln_f.weight.device
    on_card = device.type == "cuda"
    if on_card and tokens.device.type == "cpu":
        # From pinned memory a copy need not wait for the steps before it.
        batches = [(x.pin_memory(), y.pin_memory()) for x, y in batches]
    return [
        (x.to(device, non_blocking=on_card), y.to(device, non_blocking=on_card)) for x, y in batches
    ]


def take_step(state: TrainingState, draw: Draw, loss: Loss) -> tuple[Tensor, Tensor]:
    """Let the model learn from the next batches.

    Returns:
        The mean loss in nats, and the length of the gradient before it was cut; both stay on the
        device, so that a GPU need not be waited for.
    """
    model, config = state.model, state.config
    rate = learning_rate_at(state.step, config)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)  # some callers' parts learn faster
    mean_loss = accumulate_gradients(model, draw(state), loss, config.precision)
    # Cut, so that one odd batch can't throw the weights far off; and all parameters together, so
    # that the gradient keeps its direction.
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    return mean_loss, norm


def save_checkpoint(path: str | Path, state: TrainingState, gathered: Any = None) -> None:
    """Write all of a run to one file: a kill leaves the old file or the new one, never half.

    Args:
        path: The file; its folder is made.
        state: The run.
        gathered: The state dictionaries of the model and of the optimizer, a pair, where the run's
            own hold only a part, because the model is spread over several processes.
    """
    model = unwrap(state.model)
    weights, averages = gathered or (model.state_dict(), state.optimizer.state_dict())
    cuda = torch.cuda.get_rng_state_all() if model.ln_f.weight.is_cuda else []
    checkpoint = {
        "model": weights,
        "optimizer": averages,
        "optimizer_kind": type(state.optimizer).__name__,
        "step": state.step,
        "batch_random": state.generator.get_state(),
        "dropout_random": [torch.get_rng_state(), *cuda],
        "model_config": asdict(model.config),
        "training_config": asdict(state.config),
    }
    with whole_file(Path(path)) as draft:
        torch.save(checkpoint, draft)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `save_checkpoint` wrote, and run no code that a file may hold.

    Returns:
        "model", "optimizer", "optimizer_kind" (its class's name), "step", "batch_random",
        "dropout_random", "model_config" and "training_config"; tensors on the CPU, configurations
        as plain dictionaries. Files of older runs have no "optimizer_kind": theirs is AdamW.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut off, or holds anything but tensors and plain values.
    """
    with open(path, "rb") as file:  # a missing file keeps Python's own error
        try:
            # A pickle can hold code that runs while it is read; weights_only allows none.
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load has many of them for a broken file
            why = "cut off, or more than tensors and plain values (no code in it was run)"
            raise ValueError(f"{path} is no checkpoint: {why}; use a copy") from error
    if not isinstance(checkpoint, dict) or "training_config" not in checkpoint:
        raise ValueError(f"{path} holds no training run; pass a file that save_checkpoint wrote")
    return checkpoint


def restore(
    state: TrainingState,
    checkpoint: dict[str, Any],
    load: Callable[[TrainingState, dict[str, Any]], None] | None = None,
) -> None:
    """Put a run back to where a checkpoint was made, random states included.

    Args:
        state: A run of the same model configuration, kind of optimizer, weight decay, betas and
            seed; steps, rates, batches and intervals may be others from here on.
        checkpoint: What `load_checkpoint` returned.
        load: Fills the model and the optimizer, where the run's own hold only a part; by default
            each loads its state dictionary.

    Raises:
        ValueError: If the checkpoint belongs to another configuration.
    """
    # Compared before anything changes, so that a refused checkpoint does no harm.
    ours = asdict(unwrap(state.model).config) | asdict(state.config)
    theirs = checkpoint["model_config"] | checkpoint["training_config"]
    ours["optimizer"] = type(state.optimizer).__name__
    theirs["optimizer"] = checkpoint.get("optimizer_kind", "AdamW")  # as older files don't say
    # Weights must fit the model; an optimizer's and a seed's old values would silently come back.
    for name in (*checkpoint["model_config"], "weight_decay", "betas", "seed", "optimizer"):
        if theirs.get(name) != ours.get(name):
            other = f"{theirs.get(name)!r} in the checkpoint and {ours.get(name)!r} in this run"
            raise ValueError(f"{name} is {other}; use the checkpoint's, or start anew elsewhere")
    if load is None:  # the whole model is here
        unwrap(state.model).load_state_dict(checkpoint["model"])
        state.optimizer.load_state_dict(checkpoint["optimizer"])
    else:
        load(state, checkpoint)
    state.step = checkpoint["step"]
    state.generator.set_state(checkpoint["batch_random"])
    cpu, *cuda = checkpoint["dropout_random"]
    torch.set_rng_state(cpu)
    torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])  # none on a CPU


@dataclass(frozen=True)
class Report:
    """Say how a run is doing."""

    step: int
    """Optimizer steps done so far."""
    loss: float
    """Mean training loss of the steps since the last report, in nats per token."""
    validation_loss: float | None
    """Loss on the whole validation text, in nats per token; None between evaluations."""
    learning_rate: float
    """Learning rate of the last step."""
    gradient_norm: float
    """Length of the last step's gradient before it was cut."""
    tokens_per_second: float
    """Training tokens per second since the last report, evaluations not counted."""
    seconds: float
    """Seconds of work in this call so far, evaluations counted, the caller's time not."""


def run_steps(
    state: TrainingState,
    step: Callable[[TrainingState], tuple[Tensor, Tensor]],
    score: Callable[[], float] | None = None,
    path: Path | None = None,
    *,
    save: Callable[[Path, TrainingState], None] = save_checkpoint,
    gather: Callable[[Tensor], Tensor] = lambda values: values,
) -> Generator[Report, None, None]:
    """Take the steps that are left and report: the one loop of all that learns.

    Args:
        state: What moves on.
        step: Takes one step; returns its loss and the length of its gradient.
        score: Measures the validation loss, in nats; None for no evaluations.
        path: Where `save` writes checkpoints; None saves nothing.
        save: Writes one.
        gather: Makes of this process's losses and lengths, shape (2, steps), those of all.

    Yields:
        A `Report` at every multiple of `report_every`, `evaluate_every` and `save_every`, with the
        model in evaluation mode.

    Raises:
        FloatingPointError: At the first loss or gradient that is nan or infinite.
    """

    def check(values: Sequence[float], name: str) -> None:
        # nan and infinity stop the run before it is saved: the last checkpoint stays good.
        for at, value in enumerate(values, start=state.step + 1 - len(values)):
            if not math.isfinite(value):
                kept = f"{path} keeps the last good" if path and path.exists() else "there is no"
                ways = "lower the learning rate, warm up for longer, or use float32"
                raise FloatingPointError(f"{name} {value} at step {at}; {kept} checkpoint; {ways}")

    config, clock = state.config, time.perf_counter
    seconds = 0.0
    intervals = (config.report_every, config.evaluate_every, config.save_every)
    while state.step < config.n_steps:
        begin, first, drawn = clock(), state.step, state.n_tokens
        validation_loss = None
        # A group of steps ends where the first of report, evaluation and checkpoint is due.
        stop = min(config.n_steps, *((first // every + 1) * every for every in intervals))
        state.model.train()  # the caller may have looked at the model meanwhile
        steps = [torch.stack(step(state)) for _ in range(first, stop)]
        losses, norms = gather(torch.stack(steps, dim=1)).tolist()  # only here a GPU is waited for
        check(losses, "loss")
        check(norms, "gradient norm")
        speed = (state.n_tokens - drawn) / (clock() - begin)
        state.model.eval()  # for the score, and for a caller who looks at the model
        last = stop == config.n_steps
        if score is not None and (last or stop % config.evaluate_every == 0):
            validation_loss = score()
            check([validation_loss], "validation loss")
        saved = path is not None and (last or stop % config.save_every == 0)
        if path is not None and saved:
            save(path, state)
        seconds += clock() - begin
        mean_loss, rate = sum(losses) / len(losses), learning_rate_at(stop - 1, config)
        try:
            yield Report(stop, mean_loss, validation_loss, rate, norms[-1], speed, seconds)
        except GeneratorExit:  # the caller stops here: nothing that was learnt is lost
            if path is not None and not saved:
                save(path, state)
            raise


def check_run(
    model: GPT,
    train_tokens: Tensor,
    validation_tokens: Tensor | None,
    checkpoint: str | Path | None,
    resume: bool,
) -> Path | None:
    """Refuse what a run would fail on later, and return the path of its checkpoint."""
    check_stream(train_tokens, model.config.context_length, "the training split")
    if validation_tokens is not None:
        check_stream(validation_tokens, model.config.context_length, "the validation split")
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.is_dir():
        raise ValueError(f"checkpoint is a folder, {path}; pass a file in it: {path / 'run.pt'}")
    if resume and path is None:
        raise ValueError("resume is True without a checkpoint; pass checkpoint=PATH as well")
    return path


def train(
    model: GPT,
    train_tokens: Tensor,
    validation_tokens: Tensor | None,
    config: TrainingConfig,
    *,
    loss: Loss = next_token_loss,
    optimizer: Callable[[nn.Module, TrainingConfig], torch.optim.Optimizer] = make_optimizer,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Generator[Report, None, None]:
    """Train a model, and hand over a report from time to time.

    The work is done while you ask for the next report, so a loop over the reports trains, and
    leaving the loop stops. Closing the generator (`.close()`, or a `break` once nothing refers to
    it any more) saves a checkpoint if a path was given. An interrupt in the middle of a step
    saves nothing, because the step is half done; the file then holds the last whole checkpoint.

    A resumed run is equal to the last bit to one that was never stopped, on the same machine and
    with the same number of threads; on a GPU up to rounding, where a kernel adds in no fixed order.
    With dropout this also needs that the caller draws no numbers from PyTorch's global generator
    between the reports; give your own generator to what you draw.

    Args:
        model: On its device; it is trained in place.
        train_tokens: Token ids, shape (n,), more than the context length.
        validation_tokens: Token ids, shape (m,), or None to train without evaluations.
        config: The plan.
        loss: What to lower: takes the model, inputs and targets.
        optimizer: Makes what takes the steps, from the model and the plan; each of its groups
            learns at the plan's rate, times its "scale" if it has one.
        checkpoint: Where to save, every `save_every` steps and at the end; replaces an older file.
        resume: Whether to go on from the checkpoint that is there.

    Raises:
        ValueError: If a split is shorter than a window, or the checkpoint damaged or another's.
        FloatingPointError: While running, at the first loss or gradient that is nan or infinite;
            the checkpoint stays as it was.
    """
    # All is checked here at the call: a generator's body would wait for the first report.
    inside = unwrap(model)
    path = check_run(inside, train_tokens, validation_tokens, checkpoint, resume)
    state = TrainingState.start(model, config, optimizer)
    if resume and path is not None:
        restore(state, load_checkpoint(path))
    step = partial(take_step, draw=partial(draw_windows, train_tokens), loss=loss)
    # `inside`: compiled, the model would be compiled again for evaluation and its shorter rest.
    score = None if validation_tokens is None else partial(evaluate, inside, validation_tokens)
    return run_steps(state, step, score, path)
