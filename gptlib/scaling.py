"""What to do when the model, the text or the patience outgrow one process (chapter 10).

The definitions stand in teaching order: where time and memory go (`model_flops_utilization`,
`activation_bytes`), how to keep less (`checkpoint_activations`, `chunked_loss`), several processes
(`processes`, `distribute`, `train_in_parallel`), a block cut in two (`split_block`), and what a
step costs on machines that you don't have (`Machine`, `parallel_step`).

Example:
    >>> from gptlib.gpt2 import GPT, GPTConfig
    >>> sizes = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
    >>> model = GPT(sizes, torch.Generator().manual_seed(0))
    >>> config = TrainingConfig(n_steps=60, batch_size=4, max_learning_rate=1e-2)
    >>> with processes("cpu"):  # one process; under torchrun as many as it started
    ...     reports = list(train_in_parallel(model, torch.arange(200) % 10, None, config))
    >>> reports[-1].step, reports[-1].loss < 1
    (60, True)
"""

import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint as recompute

from gptlib.gpt2 import GPT, Block, GPTConfig, flops_per_token, memory_bytes
from gptlib.training import (
    Loss,
    Report,
    TrainingConfig,
    TrainingState,
    check_run,
    draw_windows,
    evaluate,
    load_checkpoint,
    restore,
    run_steps,
    save_checkpoint,
    take_step,
    unwrap,
)


def model_flops_utilization(
    config: GPTConfig, tokens_per_second: float, peak: float, context_length: int | None = None
) -> float:
    """Say which share of a machine's arithmetic goes into a training run.

    Tokens are those of all devices together, and `peak` is the floating-point operations per second
    that they reach together in large matrix products. The share is from 0 to 1; work done twice, as
    by `checkpoint_activations`, doesn't count.

    Source:
        Chowdhery et al. 2022, "PaLM", appendix B.

    Example:
        >>> from gptlib.gpt2 import GPT2_SMALL
        >>> round(model_flops_utilization(GPT2_SMALL, 100_000, peak=312e12), 2)
        0.27
    """
    return tokens_per_second * flops_per_token(config, context_length)["training"] / peak


def activation_bytes(model: nn.Module, compute: Callable[[], Tensor]) -> int:
    """Measure what a forward pass keeps for the backward pass: the activations.

    Bytes, each piece of memory counted once. The model's parameters exist anyway and don't count;
    `compute` runs the forward pass and returns the loss.

    Example:
        >>> layer, x = nn.Linear(4, 4), torch.ones(2, 4)
        >>> activation_bytes(layer, lambda: layer(x).relu().sum())  # x and what relu returns
        64
    """
    kept: dict[int, Tensor] = {}
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        # Held, so that no address is used again for other memory.
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in known)


class CheckpointedBlock(Block):
    """A block that keeps only its input, and computes the rest again in the backward pass.

    It takes over another block's layers, so names in the state dict stay.

    Source:
        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)  # no new layers
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.wiring = type(block).forward  # it may be wired in another way

    def forward(self, *inputs: Any) -> Tensor:
        """Pass what a block takes through it, and keep that alone."""
        # The reentrant kind needs an input that has a gradient.
        return cast(Tensor, recompute(self.wiring, self, *inputs, use_reentrant=False))  # (B, T, C)


def checkpoint_activations(model: GPT) -> None:
    """Trade time for memory in every block of a model, in place.

    The backward pass runs a block's forward pass a second time, which costs a quarter to a third
    more time. Losses and gradients stay what they were; a second call changes nothing.
    """
    for number, block in enumerate(model.blocks):
        if not isinstance(block, CheckpointedBlock):
            cast(nn.ModuleList, model.blocks)[number] = CheckpointedBlock(block)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of many positions whose logits never exist all at once.

    The forward pass takes some positions at a time and computes their gradients at once, so it
    keeps those, as large as the input and the table, instead of the logits.
    """

    @staticmethod
    def part(logits: Tensor, answers: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Sum the loss of logits (n, P), of which `n_tokens` columns count; and its gradient."""
        p = logits.float()  # float32 logits are overwritten: (n, P) is large
        p[:, n_tokens:] = -math.inf  # padding gets no probability
        # Less the highest, exp can't overflow.
        right, highest = p.gather(1, answers), p.amax(1, keepdim=True)
        sums = p.sub_(highest).exp_().sum(1, keepdim=True)
        loss = (sums.log() + highest - right).sum()
        p.div_(sums)
        # The gradient of a logit is its probability, less 1 for the right token.
        if torch.compiler.is_compiling():  # compiled, the comparison joins the same kernel
            p = p - (torch.arange(p.size(1), device=p.device) == answers).float()
        else:
            p.scatter_add_(1, answers, torch.full_like(right, -1.0))
        return loss, p.to(logits.dtype)

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        targets: Tensor,
        linear: Callable[[Tensor, Tensor], Tensor] = F.linear,
    ) -> Tensor:
        """Return the mean loss of x, shape (N, C), with a table (V, C) and targets (N,)."""
        kind, n_tokens = x.device.type, len(table)
        at_once = 512 if kind == "cpu" else 8192  # larger products are faster, and take more room
        is_inside = torch.compiler.is_compiling()  # what is inside compiled code is compiled too
        measure = ChunkedCrossEntropy.part if is_inside else fastest_part(kind)
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        # Matrix units are fast where sizes are multiples of 64, and GPT-2's 50,257 is odd; a CPU
        # gains nothing by it in float32, and needs no copy of the table.
        extra = 0 if kind == "cpu" and dtype == torch.float32 else -n_tokens % 64
        padded = F.pad(table.to(dtype), (0, 0, 0, extra)) if extra else table.to(dtype)  # (P, C)
        x_grad, total = torch.empty_like(x), torch.zeros((), device=x.device)
        learns = ctx.needs_input_grad[1]  # a frozen table needs no gradient
        table_grad: Tensor | None = None
        # Splits are views: what is written to rows_grad is in x_grad.
        parts = (part.split(at_once) for part in (x.to(dtype), targets[:, None], x_grad))
        for rows, answers, rows_grad in zip(*parts, strict=True):
            loss, grad = measure(linear(rows, padded), answers, n_tokens)  # (n, P)
            total += loss
            rows_grad.copy_(linear(grad, padded.T))
            if not learns:
                continue
            if table_grad is None:
                # float32: in bfloat16 a sum of many parts would lose the small ones.
                table_grad = linear(grad.T, rows.T).float()
            elif dtype == torch.float32 and linear is F.linear:
                table_grad.addmm_(grad.T, rows)  # in place: no second table is made
            else:  # addmm_ can't add bfloat16 to float32, nor multiply by another `linear`
                table_grad += linear(grad.T, rows.T)
        ctx.save_for_backward(x_grad, table_grad if table_grad is None else table_grad[:n_tokens])
        return total / len(x)

    @staticmethod
    @once_differentiable  # what was kept is no graph, so there is no second derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that the forward pass computed, from a sum to a mean."""
        x_grad, table_grad = ctx.saved_tensors
        scale = grad / len(x_grad)
        return scale * x_grad, None if table_grad is None else scale * table_grad, None, None


@cache
def fastest_part(kind: str) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    """Compile `ChunkedCrossEntropy.part` for a GPU: one kernel in the place of ten passes."""
    can_compile = kind == "cuda" and find_spec("triton") is not None
    return torch.compile(ChunkedCrossEntropy.part) if can_compile else ChunkedCrossEntropy.part


def chunked_loss(
    model: GPT,
    inputs: Tensor,
    targets: Tensor,
    linear: Callable[[Tensor, Tensor], Tensor] = F.linear,
) -> Tensor:
    """Measure the loss of `next_token_loss`, in a fraction of the memory and faster on a GPU.

    Takes token ids of shape (B, T) and returns the mean cross-entropy over B·T positions, in nats
    per token. A processor may have a faster x Wᵀ than PyTorch's own `linear`.

    Example:
        >>> sizes = GPTConfig(vocab_size=10, context_length=4, n_layer=1, n_head=1, n_embd=4)
        >>> tokens = torch.tensor([[1, 2, 3, 4]])
        >>> abs(chunked_loss(GPT(sizes), tokens[:, :-1], tokens[:, 1:]) - math.log(10)) < 0.1
        tensor(True)
    """
    x = model.ln_f(model.stream(inputs)).flatten(0, 1)  # (B·T, C)
    loss: Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        x, model.head.weight, targets.flatten(), linear
    )
    return loss


@contextmanager
def processes(kind: Literal["cpu", "cuda"] | None = None) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, and part when the work is done.

    torchrun tells each process by environment variables who it is (RANK, LOCAL_RANK), how many
    there are (WORLD_SIZE), and where they meet (MASTER_ADDR, MASTER_PORT). Without torchrun there
    is one process, and the same code runs.

    When torchrun starts the processes again, its store still holds the addresses of the dead
    (PyTorch 2.13). On one machine this is taken care of here; on several, set
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, so that each start has a store of its own.

    Args:
        kind: "cuda" (each process takes the GPU of its local rank, and they talk through NCCL) or
            "cpu" (Gloo); CUDA by default where there is one.

    Yields:
        This process's device.

    Example:
        >>> with processes("cpu") as device:
        ...     device, dist.get_world_size()
        (device(type='cpu'), 1)
    """
    if kind not in ("cpu", "cuda", None):
        raise ValueError(f"kind is {kind!r}; choose 'cpu' or 'cuda', or None for what is there")
    on_gpu = kind == "cuda" or (kind is None and torch.cuda.is_available())
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ:
        store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    else:
        store, rank, size = dist.HashStore(), 0, 1  # type: ignore[attr-defined]
    if os.environ.get("GROUP_WORLD_SIZE") == "1":  # after a restart the store remembers the dead
        attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield device
    finally:
        dist.destroy_process_group()
        # Gloo's threads still give back their last tensors, which takes Python; asking for it while
        # Python ends aborts the process (PyTorch issue 190489)
        if not on_gpu:
            time.sleep(0.5)


class ForwardPass(nn.Module):
    """Run any function of a model as one forward pass, which is where DDP and FSDP have hooks.

    A loss that walks through a model's parts from outside would pass those hooks by.

    Example:
        >>> sizes = GPTConfig(vocab_size=9, context_length=4, n_layer=1, n_head=1, n_embd=4)
        >>> ForwardPass(GPT(sizes))(chunked_loss, torch.tensor([[1]]), torch.tensor([[2]])).shape
        torch.Size([])
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `compute` makes of the model and the arguments."""
        return compute(self.model, *arguments)


def distribute(model: GPT, strategy: Literal["ddp", "fsdp"]) -> nn.Module:
    """Let the processes share the work on a model, whose starting weights are rank 0's.

    Args:
        model: On this process's device; "fsdp" cuts it up in place.
        strategy: "ddp": every process holds all weights, and gradients are averaged while the
            backward pass runs. "fsdp": every process holds 1/n of each tensor of weights,
            gradients and optimizer; a block's weights are gathered when it is its turn.

    Returns:
        A `ForwardPass`, wrapped. Its gradients are means over the processes.

    Source:
        Li et al. 2020, "PyTorch Distributed" (DDP); Zhao et al. 2023, "PyTorch FSDP".
    """
    if strategy not in ("ddp", "fsdp"):
        raise ValueError(f"strategy is {strategy!r}; choose 'ddp' or 'fsdp'")
    if strategy == "ddp":
        return DistributedDataParallel(ForwardPass(model))
    # FSDP, unlike DDP, doesn't send rank 0's weights.
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)
    # Who shares: all, on the model's device; by default FSDP would take the machine's best.
    mesh = init_device_mesh(model.ln_f.weight.device.type, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return cast(nn.Module, fully_shard(ForwardPass(model), mesh=mesh))


def take_step_together(
    state: TrainingState, wrapped: nn.Module, tokens: Tensor, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Let all processes take one step; each computes its share of the batch.

    Args:
        state: The run, the same in all processes but for their shares of the weights.
        wrapped: What `distribute` made of its model.
        tokens: Token ids, shape (n,).
        loss: Takes the model, inputs and targets.

    Returns:
        The loss of this process's share, in nats per token, and the length of the whole gradient
        before it was cut.
    """
    n, rank, passes = dist.get_world_size(), dist.get_rank(), count(1)

    def draw_share(state: TrainingState) -> list[list[Tensor]]:
        # Everyone draws the batch that a single process would draw, and keeps its rows.
        batches = draw_windows(tokens, state)
        return [[part.chunk(n)[rank] for part in batch] for batch in batches]  # (B / n, T) each

    def compute(_: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        is_last = next(passes) == state.config.accumulation_steps  # gradients travel once
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(is_last)
        else:
            wrapped.require_backward_grad_sync = is_last  # type: ignore[assignment]
        # `wrapped`, not the model that comes in: the hooks are there.
        return cast(Tensor, wrapped(loss, inputs, targets))

    mean_loss, norm = take_step(state, draw_share, compute)
    return mean_loss, norm.full_tensor() if isinstance(norm, DTensor) else norm


def mean_over_processes(values: Tensor) -> Tensor:
    """Average a tensor, of the same shape everywhere, over all processes; each gets the result.

    Example:
        >>> with processes("cpu"):
        ...     mean_over_processes(torch.tensor([1.0, 3.0])).tolist()
        [1.0, 3.0]
    """
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


@torch.no_grad()
def evaluate_together(state: TrainingState, wrapped: nn.Module, tokens: Tensor) -> float:
    """Measure the loss on a text as `evaluate` does, each process on its share of the windows.

    `wrapped` is what `distribute` made of the run's model. All processes get the same result.
    """
    model, n, rank = cast(GPT, state.model), dist.get_world_size(), dist.get_rank()
    length, device, total = model.config.context_length, model.ln_f.weight.device, 0.0
    # Equal shares, as FSDP's passes must match; one window stays for the rest: `evaluate` needs it.
    share = ((len(tokens) - 1) // length - 1) // n * length  # targets for each process
    if share:
        mine = wrapped(evaluate, tokens[rank * share : (rank + 1) * share + 1])
        total = n * share * float(mean_over_processes(torch.tensor(mine, device=device)))
    rest = tokens[n * share :]  # at least one window, for all
    return (total + (len(rest) - 1) * wrapped(evaluate, rest)) / (len(tokens) - 1)


def save_together(path: Path, state: TrainingState) -> None:
    """Write a run to chapter 5's one file: all processes gather it, and the first one writes."""
    first = dist.get_rank() == 0

    def gather(share: DTensor) -> Tensor | None:
        whole = share.full_tensor()  # everyone must take part
        return whole.cpu() if first else None

    weights = state.model.state_dict()
    if unwrap(state.model).config.tie_weights:
        del weights["head.weight"]  # the embedding's table once more; loading fills it in
    gathered = tree_map_only(DTensor, gather, (weights, state.optimizer.state_dict()))
    if first:
        save_checkpoint(path, state, gathered)
    dist.barrier()  # nobody goes on, or ends, before the file is there


def load_together(state: TrainingState, checkpoint: dict[str, Any]) -> None:
    """Fill a run's model and optimizer, of which this process holds all or a share, from a file."""

    def cut(whole: Tensor, mine: Tensor) -> Tensor:
        if not isinstance(mine, DTensor) or not whole.dim():
            return whole  # AdamW's counts of steps, for example, are scalars
        return distribute_tensor(whole, mine.device_mesh, mine.placements)

    own, averages = state.model.state_dict(), checkpoint["optimizer"]
    weights = {name: cut(whole, own[name]) for name, whole in checkpoint["model"].items()}
    # The numbers in the optimizer's state count its parameters in this order.
    learned = [p for group in state.optimizer.param_groups for p in group["params"]]
    cut_averages = {
        number: {name: cut(whole, learned[number]) for name, whole in values.items()}
        for number, values in averages["state"].items()
    }
    state.model.load_state_dict(weights)
    state.optimizer.load_state_dict(averages | {"state": cut_averages})


def train_in_parallel(
    model: GPT,
    train_tokens: Tensor,
    validation_tokens: Tensor | None,
    config: TrainingConfig,
    *,
    loss: Loss = chunked_loss,
    strategy: Literal["ddp", "fsdp"] = "ddp",
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Generator[Report, None, None]:
    """Train a model with all processes that `torchrun` started; call it in each of them.

    The plan is the whole run's: a batch of `batch_size` windows is drawn as in a single process
    and shared out, so the losses are those of `gptlib.training.train` up to rounding, and either
    goes on with the other's checkpoint. (With dropout each process draws its own masks, and a
    resumed run draws new ones.)

    A caller that leaves the loop early must do so in all processes at the same report; ask with
    `any_process`.

    Args:
        model: On this process's device; trained in place. "fsdp" cuts it up.
        train_tokens: Token ids, shape (n,); a mapped file will do.
        validation_tokens: Token ids, shape (m,), or None.
        config: The plan of the whole run.
        loss: What to lower: takes the model, inputs and targets.
        strategy: "ddp" or "fsdp"; see `distribute`.
        checkpoint: The file for checkpoints, reached by all processes. None saves nothing.
        resume: Whether to go on from the checkpoint, of any number of processes.

    Raises:
        ValueError: If no processes have joined, the batch can't be shared out evenly, or for one
            of the reasons of `train`.
        FloatingPointError: As `train`, in all processes.
    """
    if not dist.is_initialized():
        raise ValueError("no processes have joined; call this inside `with processes():`")
    n = dist.get_world_size()
    if config.batch_size % n:
        raise ValueError(
            f"batch_size {config.batch_size} for {n} processes; pass a multiple of {n}"
        )
    path = check_run(model, train_tokens, validation_tokens, checkpoint, resume)
    wrapped = distribute(model, strategy)
    state = TrainingState.start(model, config)
    if resume and path is not None:
        restore(state, load_checkpoint(path), load_together)
    if model.config.dropout:  # each process its own masks
        torch.manual_seed(config.seed + n * state.step + dist.get_rank())
    step = partial(take_step_together, wrapped=wrapped, tokens=train_tokens, loss=loss)
    score = None
    if validation_tokens is not None:
        score = partial(evaluate_together, state, wrapped, validation_tokens)
    return run_steps(state, step, score, path, save=save_together, gather=mean_over_processes)


def any_process(answer: bool) -> bool:
    """Ask all processes one question; True, in all of them, if any of them says so.

    Example:
        >>> with processes("cpu"):
        ...     any_process(False)
        False
    """
    # NCCL sends from GPU memory only.
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(mean_over_processes(torch.tensor(float(answer), device=device)) > 0)


def regroup(rows: Tensor, outer: int, inner: int) -> Tensor:
    """Exchange two levels of grouping of a matrix's rows.

    Rows (outer · inner · m, ...), `outer` groups of `inner` groups of m, become `inner` groups of
    `outer` groups. Called again with the numbers exchanged, it brings them back.

    Example:
        >>> regroup(torch.tensor([1, 2, 10, 20, 100, 200]), 3, 2).tolist()
        [1, 10, 100, 2, 20, 200]
    """
    return rows.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


def split_block(block: Block, mesh: DeviceMesh) -> None:
    """Cut a block's matrices, so that each process computes its share of heads and hidden units.

    `qkv` and `expand` are cut by output, the two `proj` by input, so nothing has to travel between
    the first and the second of each pair; behind each pair the processes add up what they have.
    The rows of `qkv` are put into another order first: the queries, keys and values of the first
    process's heads, then those of the second's. `regroup(rows, n, 3)` undoes it.

    Source:
        Shoeybi et al. 2019, "Megatron-LM", section 3.
    """
    n, attn = mesh.size(), block.attn
    if attn.n_head % n:
        raise ValueError(f"{n} processes can't share {attn.n_head} heads evenly; start fewer")
    for parameter in attn.qkv.parameters():
        parameter.data = regroup(parameter.data, 3, n)
    plan = {
        "attn.qkv": ColwiseParallel(),
        "attn.proj": RowwiseParallel(),
        "mlp.expand": ColwiseParallel(),
        "mlp.proj": RowwiseParallel(),
    }
    parallelize_module(block, mesh, plan)
    attn.n_head //= n  # `qkv` now puts out this process's heads only


@dataclass(frozen=True)
class Machine:
    """Describe the devices that a run is planned for; take the figures from a measurement.

    Example:
        >>> Machine(flops=4e14, inside=4e11, between=5e10).devices
        8
    """

    flops: float
    """Operations per second that one device reaches in a training step."""
    inside: float
    """Bytes per second that a device sends to another of its machine."""
    between: float
    """Bytes per second that a device sends to another machine."""
    devices: int = 8
    """Devices per machine."""


@dataclass(frozen=True)
class StepCost:
    """Say what one optimizer step costs each device."""

    compute: float
    """Seconds of arithmetic."""
    communication: float
    """Seconds of sending."""
    seconds: float
    """Seconds of the step: the arithmetic, and the sending that nothing hides."""
    sent: float
    """Bytes sent."""
    memory: float
    """Bytes held."""


state_bytes = cache(memory_bytes)
"""`memory_bytes`, remembered for each model, because it builds the model's shapes to count."""


def parallel_step(
    config: GPTConfig,
    machine: Machine,
    n_devices: int,
    batch_tokens: int,
    strategy: Literal["ddp", "fsdp", "tensor"],
    windows_at_once: int = 1,
    checkpointed: bool = False,
) -> StepCost:
    """Estimate one optimizer step on many devices, by counting operations and bytes.

    Weights, gradients and optimizer are float32; what travels and what is kept for the backward
    pass is bfloat16. With several passes FSDP holds its gradient whole until the last one, as
    `take_step_together` does. All devices form one ring, whose slowest link counts. FSDP sends
    while it computes, DDP in the backward pass of its last pass alone, and tensor parallel has to
    wait. Latency, padding, uneven speed and the all-reduces that tensor parallel repeats
    in blocks that are computed twice are left out, so a real step takes longer.

    Args:
        config: The model.
        machine: The kind of device.
        n_devices: How many of them.
        batch_tokens: Tokens per optimizer step, of all devices together.
        strategy: "ddp", "fsdp" or "tensor", where every block is cut as by `split_block`, and the
            embedding and the output layer as well, as in Megatron-LM.
        windows_at_once: Windows per pass and device; more passes are accumulated.
        checkpointed: Whether blocks are computed twice, as by `checkpoint_activations`.

    Source:
        Rajbhandari et al. 2020, "ZeRO", section 7, for DDP and FSDP; Shoeybi et al. 2019 for
        tensor parallel.

    Example:
        >>> from gptlib.gpt2 import GPT2_SMALL
        >>> machine = Machine(flops=4e14, inside=4e11, between=5e10)
        >>> round(parallel_step(GPT2_SMALL, machine, 8, 2**19, "ddp").seconds, 2)
        0.14
    """
    if n_devices < 1 or windows_at_once < 1:
        raise ValueError(f"{n_devices=}, {windows_at_once=}: choose at least 1 of each")
    per_device = batch_tokens if strategy == "tensor" else batch_tokens / n_devices
    if per_device < config.context_length:
        few = f"{batch_tokens} tokens are no window of {config.context_length} for each"
        raise ValueError(f"{few} of {n_devices} devices; raise batch_tokens")
    at_once = min(windows_at_once * config.context_length, per_device)
    passes, inputs = math.ceil(per_device / at_once), config.n_layer * config.n_embd  # of blocks
    state, shards = state_bytes(config), 1 if strategy == "ddp" else n_devices
    weights = state["weights"] / 2  # as bfloat16, the way they travel
    volumes = {
        "ddp": 2 * weights,  # an all-reduce: reduce-scatter, then all-gather
        "fsdp": (2 * passes + 1) * weights,  # gathered twice per pass, gradients scattered once
        # 4 all-reduces a block, 2 forward and 2 backward, each sent twice, of 2 bytes a value
        "tensor": 4 * 2 * (2 * inputs * batch_tokens),
    }
    # A device need not send its own share to itself.
    sent = (n_devices - 1) / n_devices * volumes[strategy]
    bandwidth = machine.inside if n_devices <= machine.devices else machine.between
    # Computing again adds a second forward pass: 4 parts in the place of 3.
    work = flops_per_token(config)["training"] * batch_tokens * (4 / 3 if checkpointed else 1)
    compute, communication = work / n_devices / machine.flops, sent / bandwidth
    backward = compute * (3 / 4 if checkpointed else 2 / 3)  # computing again included
    overlap = {"ddp": backward / passes, "fsdp": compute, "tensor": 0.0}  # time to send in
    held = (state["weights"] + state["gradients"] + state["optimizer"]) / shards
    if strategy == "fsdp" and passes > 1:  # the gradient stays whole until the last pass
        held += (1 - 1 / n_devices) * state["gradients"]
    split = 1 / n_devices if strategy == "tensor" else 1
    # Whole on every device: 2 streams and 2 norms' results.
    # Cut by tensor parallel: q, k, v, the heads' results; the MLP's before and after GELU.
    whole, cut = 4 * config.n_embd, 4 * config.n_embd + 2 * config.hidden_size
    block = whole + cut * split
    kept = inputs + block if checkpointed else config.n_layer * block
    kept += 2 * config.n_embd + config.vocab_size * split
    return StepCost(
        compute,
        communication,
        compute + max(0.0, communication - overlap[strategy]),
        sent,
        held + 2 * at_once * kept,
    )
