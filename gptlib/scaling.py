"""What to do when the model, the text or the patience outgrow one process (chapter 10).

The definitions stand in teaching order: where time and memory go (`model_flops_utilization`,
`activation_bytes`, `checkpoint_activations`), a text of any size (`prepare_tokens`, `open_tokens`),
several processes (`processes`, `distribute`, `train_in_parallel`), their checkpoints, a block cut
in two (`split_block`), and what a step costs on machines that you don't have (`Machine`,
`parallel_step`).

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

import hashlib
import json
import math
import os
import pickle
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import tiktoken
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint as recompute

from gptlib.embeddings import check_stream, random_batch
from gptlib.gpt2 import GPT, Block, GPTConfig, flops_per_token, memory_bytes
from gptlib.tokenizer import Tokenizer, end_of_text
from gptlib.training import (
    Precision,
    Report,
    TrainingConfig,
    TrainingState,
    check_finite,
    evaluate,
    learning_rate_at,
    next_token_loss,
)


def model_flops_utilization(
    config: GPTConfig, tokens_per_second: float, peak: float, context_length: int | None = None
) -> float:
    """Say which share of a machine's arithmetic goes into a training run.

    Args:
        config: The model.
        tokens_per_second: Training tokens per second, of all devices together.
        peak: Floating-point operations per second that the devices reach together in large
            matrix products.
        context_length: Tokens per window, T; the model's longest by default.

    Returns:
        The share, from 0 to 1. Work done twice, as by `checkpoint_activations`, doesn't count.

    Raises:
        ValueError: If a rate is not above 0.

    Source:
        Chowdhery et al. 2022, "PaLM", appendix B.

    Example:
        >>> from gptlib.gpt2 import GPT2_SMALL
        >>> round(model_flops_utilization(GPT2_SMALL, 100_000, peak=312e12), 2)
        0.27
    """
    if tokens_per_second <= 0 or peak <= 0:
        raise ValueError(
            f"tokens_per_second is {tokens_per_second} and peak {peak}; both must be above 0"
        )
    return tokens_per_second * flops_per_token(config, context_length)["training"] / peak


def activation_bytes(model: nn.Module, compute: Callable[[], Tensor]) -> int:
    """Measure what a forward pass keeps for the backward pass: the activations.

    Args:
        model: The model; its parameters exist anyway and don't count.
        compute: Runs the forward pass and returns the loss.

    Returns:
        Bytes, each piece of memory counted once.

    Example:
        >>> layer, x = nn.Linear(4, 4), torch.ones(2, 4)
        >>> activation_bytes(layer, lambda: layer(x).relu().sum())  # x and what relu returns
        64
    """
    kept: dict[int, Tensor] = {}
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()  # held until the sum is done, and with it all that was kept
    total = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in known)
    del result
    return total


def checkpoint_activations(model: GPT) -> None:
    """Keep only each block's input in the forward pass, and compute the rest again when needed.

    The backward pass runs a block's forward pass a second time, which costs a quarter to a third
    more time. Names in the state dict, losses and gradients stay what they were; a second call
    changes nothing.

    Args:
        model: The model, changed in place.

    Source:
        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".

    Example:
        >>> from gptlib.gpt2 import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=9, context_length=4, n_layer=1, n_head=1, n_embd=4))
        >>> checkpoint_activations(model)
        >>> model(torch.tensor([[1, 2]])).shape
        torch.Size([1, 2, 9])
    """
    for block in model.blocks:
        if not isinstance(block.forward, partial):
            again = partial(recompute, block.forward, use_reentrant=False)
            block.forward = again  # type: ignore[method-assign]


@dataclass
class TokenFile:
    """Say what a file of tokens holds; it stands beside the file as JSON.

    Example:
        >>> TokenFile("uint16", 4096, tokenizer="1f3a").n_tokens
        0
    """

    dtype: str
    """"uint16", or "int32" for vocabularies above 65,536."""
    vocab_size: int
    """Every id is below it."""
    tokenizer: str
    """A checksum of all that the tokenizer can say."""
    n_documents: int = 0
    """Documents done, each with the end-of-text token behind it if the tokenizer has one."""
    n_tokens: int = 0
    """Tokens in the file."""
    tokens_checksum: int = 0
    """CRC-32 of the file."""
    texts_checksum: int = 0
    """CRC-32 of the documents done."""
    complete: bool = False
    """Whether all documents are in it."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenFile":
        """Describe an empty file for the tokens of a tokenizer."""
        n = tokenizer.n_vocab if isinstance(tokenizer, tiktoken.Encoding) else tokenizer.vocab_size
        checksum = hashlib.sha256()
        for token in range(n):
            with suppress(KeyError):  # some of tiktoken's encodings leave ids out
                checksum.update(f"{token} {tokenizer.decode_bytes([token]).hex()} ".encode())
        return cls("uint16" if n <= 2**16 else "int32", n, checksum.hexdigest()[:16])

    @property
    def n_bytes(self) -> int:
        """Bytes that the file must have."""
        return self.n_tokens * np.dtype(self.dtype).itemsize

    def save(self, path: Path) -> None:
        """Write the description of the file at `path` in one move."""
        draft = described_in(path).with_suffix(".part")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(draft, described_in(path))

    @classmethod
    def load(cls, path: Path) -> "TokenFile":
        """Read the description of the file at `path`, and refuse one that can't be true."""
        found = path.stat().st_size
        try:
            header = cls(**json.loads(described_in(path).read_text(encoding="utf-8")))
            promised = header.n_bytes
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}'s .json describes no tokens; delete both files") from error
        if found < promised or (header.complete and found > promised):
            raise ValueError(
                f"{path} has {found} bytes, and {described_in(path).name} promises {promised}; "
                "delete both and prepare the tokens anew"
            )
        return header


def described_in(path: Path) -> Path:
    """Name the JSON that stands beside a file of tokens.

    Args:
        path: The file of tokens.

    Returns:
        The same name with ".json" behind it.

    Example:
        >>> described_in(Path("book.tokens")).name
        'book.tokens.json'
    """
    return path.with_name(path.name + ".json")


def begin_tokens(path: Path, tokenizer: Tokenizer) -> TokenFile:
    """Make an empty file of tokens, or find out how far an earlier preparation came.

    Args:
        path: The file.
        tokenizer: Ours or tiktoken's.

    Returns:
        What is there already.

    Raises:
        ValueError: If the file is damaged, was begun with another tokenizer, or holds something
            else.
    """
    header = TokenFile.of(tokenizer)
    if path.exists() and described_in(path).exists():
        begun = TokenFile.load(path)
        if begun.tokenizer != header.tokenizer:
            raise ValueError(
                f"{path} was begun with another tokenizer, of {begun.vocab_size} tokens; use that "
                "one, or another path"
            )
        return begun
    if path.exists() and path.stat().st_size:
        raise ValueError(f"{path} holds something else than tokens; choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    header.save(path)
    return header


def prepare_tokens(
    texts: Iterable[str], tokenizer: Tokenizer, path: str | Path, save_every: int = 1_000_000
) -> Generator[int, None, None]:
    """Turn any number of documents into one flat file of tokens, and survive a kill.

    The work is done while you ask for the next number. Called again after a kill, it skips the
    documents that are done and goes on with the next; what was half written is cut off.

    Args:
        texts: The documents, the same ones in the same order each time; read one by one. A later
            call may have more at the end.
        tokenizer: Ours or tiktoken's; its end-of-text token, if any, follows each document.
        path: The file to write; its description goes to the same name with ".json" behind it.
        save_every: Tokens from one safe state to the next.

    Yields:
        The number of tokens so far, after each document, skipped ones included.

    Raises:
        ValueError: If the file was begun with another tokenizer or with other documents, or holds
            something else, or `texts` is one string.

    Example:
        >>> import tempfile
        >>> from gptlib.tokenizer import BPETokenizer
        >>> tokenizer = BPETokenizer.train("to be or not to be", 258)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     counts = list(prepare_tokens(["to be", "or not"], tokenizer, folder + "/a.tokens"))
        ...     open_tokens(folder + "/a.tokens").shape == (counts[-1],)
        True
    """
    if isinstance(texts, str):
        raise ValueError(f"texts is one string, {texts[:40]!r}; put it into a list")
    path, end = Path(path), sorted(end_of_text(tokenizer))
    header = begin_tokens(path, tokenizer)
    done, safe, number, checksum = header.n_documents, header.n_tokens, 0, 0
    with open(path, "r+b") as file:
        file.seek(file.truncate(header.n_bytes))
        for number, text in enumerate(texts, start=1):
            checksum = zlib.crc32(text.encode(), checksum)
            if number == done and checksum != header.texts_checksum:
                break
            if number > done:
                data = np.array(
                    [*tokenizer.encode_ordinary(text), *end], dtype=header.dtype
                ).tobytes()
                file.write(data)
                header.n_documents, header.texts_checksum = number, checksum
                header.n_tokens += len(data) // np.dtype(header.dtype).itemsize
                header.tokens_checksum = zlib.crc32(data, header.tokens_checksum)
            if header.n_tokens - safe >= save_every:
                safe = header.n_tokens
                flush(file)
                replace(header, complete=False).save(path)
            yield header.n_tokens
        flush(file)
    if number < done or (number == done and checksum != header.texts_checksum):
        raise ValueError(
            f"{path} was begun with other documents; pass the same {done} first, or another path"
        )
    replace(header, complete=True).save(path)


def flush(file: IO[bytes]) -> None:
    """Force what was written to a file onto the disk.

    Args:
        file: An open file.
    """
    file.flush()
    os.fsync(file.fileno())


class MappedTokens(Tensor):
    """Show a file of tokens as one flat int64 tensor, of which only what is used is read.

    Parts of it (slices, views) are mapped as well. Whatever computes with it, or picks from it by
    index, gets plain int64 tensors; so every function of the course that takes tokens takes it.
    `.to(device)` copies nothing: what is read later arrives on that device.

    Args:
        stored: The mapped ids, in 2 or 4 bytes each, on the CPU.
        device: Where what is read arrives; the CPU by default.

    Example:
        >>> tokens = MappedTokens(torch.arange(10).to(torch.uint16))
        >>> tokens.dtype, tokens[2:5].tolist()
        (torch.int64, [2, 3, 4])
    """

    VIEWS = (
        torch.ops.aten.select.int,
        torch.ops.aten.slice.Tensor,
        torch.ops.aten.view.default,
        torch.ops.aten.split.Tensor,
        torch.ops.aten.unsqueeze.default,
        torch.ops.aten.detach.default,
    )
    stored: Tensor

    def __new__(cls, stored: Tensor, device: torch.device | None = None) -> "MappedTokens":
        """Make a tensor that has a shape, a dtype and a device, and no memory."""
        return Tensor._make_wrapper_subclass(
            cls, stored.shape, dtype=torch.int64, device=device or stored.device
        )

    def __init__(self, stored: Tensor, device: torch.device | None = None) -> None:
        self.stored = stored

    def __repr__(self) -> str:  # type: ignore[override]
        return f"MappedTokens({tuple(self.shape)}, stored as {self.stored.dtype})"

    def tolist(self) -> Any:
        """Read all ids into Python's lists."""
        return self.stored.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do what PyTorch asks for: on the stored ids if it can be put off, else on read ones."""
        first, kwargs = args[0], kwargs or {}
        if function._schema.is_mutable and isinstance(first, cls):
            raise ValueError("mapped tokens can't be changed; clone() them, and change the clone")
        if function in cls.VIEWS and isinstance(first, cls):
            parts = function(first.stored, *args[1:], **kwargs)
            wrap = partial(cls, device=first.device)
            return wrap(parts) if isinstance(parts, Tensor) else [wrap(part) for part in parts]
        if function is torch.ops.aten._to_copy.default and kwargs.keys() == {"device"}:
            return cls(first.stored, kwargs["device"])
        if function is torch.ops.aten.index.Tensor and isinstance(first, cls):
            places = [None if i is None else i.cpu() for i in args[1]]
            return function(first.stored, places).to(first.device, torch.int64)
        read = partial(tree_map_only, cls, lambda x: x.stored.to(x.device, torch.int64))
        return function(*read(args), **read(kwargs))


def open_tokens(path: str | Path, verify: bool = False) -> Tensor:
    """Open a file of tokens of any size without reading it.

    Args:
        path: A file that `prepare_tokens` wrote.
        verify: Whether to read it once, in pieces, and compare its checksum and its largest id.

    Returns:
        Token ids, shape (n,), dtype int64, a `MappedTokens`.

    Raises:
        FileNotFoundError: If the file or its description is missing.
        ValueError: If its size, its checksum or an id is wrong, or its preparation was broken off.
    """
    path = Path(path)
    header = TokenFile.load(path)
    if not header.complete or not header.n_tokens:
        raise ValueError(
            f"the preparation of {path} was broken off after {header.n_documents} documents; "
            "run it again, and it goes on from there"
        )
    dtype = torch.uint16 if header.dtype == "uint16" else torch.int32
    stored = torch.from_file(str(path), size=header.n_tokens, dtype=dtype)
    if verify:
        checksum, largest = 0, 0
        for part in np.array_split(stored.numpy(), 1 + header.n_tokens // 2**20):
            checksum = zlib.crc32(part.tobytes(), checksum)
            largest = max(largest, int(part.max()))
        if checksum != header.tokens_checksum or largest >= header.vocab_size:
            raise ValueError(
                f"{path} is damaged: its checksum is {checksum:08x} and its largest id {largest}, "
                f"where {header.tokens_checksum:08x} and ids below {header.vocab_size} were "
                "written; delete it and prepare the tokens anew"
            )
    return MappedTokens(stored)


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


class NextTokenLoss(nn.Module):
    """Be a model whose forward pass is the loss, so that it can be wrapped.

    DDP and FSDP do their work in hooks around the forward pass of the module that they wrap;
    `next_token_loss` walks through a model's parts from outside, past those hooks.

    Args:
        model: The model.

    Example:
        >>> from gptlib.gpt2 import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=9, context_length=4, n_layer=1, n_head=1, n_embd=4))
        >>> NextTokenLoss(model)(torch.tensor([[1]]), torch.tensor([[2]])).shape
        torch.Size([])
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    @property
    def ln_f(self) -> nn.LayerNorm:
        """Show where the weights lie, as `evaluate` asks of a model."""
        return self.model.ln_f

    def forward(
        self, inputs: Tensor, targets: Tensor | None = None, precision: Precision = "float32"
    ) -> Tensor:
        """Return the mean loss; without targets the logits, as the model itself does."""
        if targets is None:
            return self.model(inputs)  # (B, T, V)
        return next_token_loss(self.model, inputs, targets, precision)


Strategy = Literal["ddp", "fsdp"]
"""Whether each process holds the whole model, or its share of every tensor."""


def distribute(model: GPT, strategy: Strategy) -> nn.Module:
    """Let the processes share the work on a model, whose starting weights are rank 0's.

    Args:
        model: The model, on this process's device; "fsdp" cuts it up in place.
        strategy: "ddp": every process holds all weights, and gradients are averaged while the
            backward pass runs. "fsdp": every process holds 1/n of each tensor of weights,
            gradients and optimizer; a block's weights are gathered when it is its turn.

    Returns:
        A `NextTokenLoss`, wrapped. Its gradients are means over the processes.

    Raises:
        ValueError: If the strategy is unknown.

    Source:
        Li et al. 2020, "PyTorch Distributed" (DDP); Zhao et al. 2023, "PyTorch FSDP".
    """
    if strategy not in ("ddp", "fsdp"):
        raise ValueError(f"strategy is {strategy!r}; choose 'ddp' or 'fsdp'")
    if strategy == "ddp":
        return DistributedDataParallel(NextTokenLoss(model))
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)
    for block in model.blocks:
        fully_shard(block)
    return cast(nn.Module, fully_shard(NextTokenLoss(model)))


def share_of_batch(tokens: Tensor, state: TrainingState) -> list[tuple[Tensor, Tensor]]:
    """Draw the batches that a single process would draw, and keep this process's rows of each.

    Args:
        tokens: Token ids, shape (n,).
        state: The run; its generator moves on as in a single process.

    Returns:
        For each pass, inputs and targets of shape (B / n, T) with n processes.
    """
    sizes = state.config.batch_size, state.model.config.context_length
    n, rank, share = dist.get_world_size(), dist.get_rank(), []
    for _ in range(state.config.accumulation_steps):
        inputs, targets = random_batch(tokens, *sizes, state.generator)  # (B, T)
        share.append((inputs.chunk(n)[rank], targets.chunk(n)[rank]))  # (B / n, T)
    return share


def take_step_together(
    wrapped: nn.Module, state: TrainingState, train_tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Let all processes take one step; each computes its share of the batch.

    Args:
        wrapped: What `distribute` made of the run's model.
        state: The run, the same in all processes but for their shares of the weights.
        train_tokens: Token ids, shape (n,).

    Returns:
        The loss of this process's share, in nats per token, and the length of the whole gradient
        before it was cut.
    """
    config, model = state.config, state.model
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(state.step, config)
    batches = share_of_batch(train_tokens, state)
    total = torch.zeros((), device=batches[0][0].device)
    for number, (inputs, targets) in enumerate(batches, start=1):
        exchange = number == len(batches)  # gradients travel once per step
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(exchange)
        else:
            wrapped.require_backward_grad_sync = exchange  # type: ignore[assignment]
        loss = wrapped(inputs, targets, config.precision) / len(batches)
        loss.backward()
        total += loss.detach()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return total, norm


def mean_over_processes(values: Tensor) -> Tensor:
    """Average a tensor over all processes; each of them gets the result.

    Args:
        values: Numbers of any shape, the same shape everywhere.

    Returns:
        The means.

    Example:
        >>> with processes("cpu"):
        ...     mean_over_processes(torch.tensor([1.0, 3.0])).tolist()
        [1.0, 3.0]
    """
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def evaluate_together(wrapped: nn.Module, tokens: Tensor) -> float:
    """Measure the loss on a text as `evaluate` does, each process on its share of the windows.

    Args:
        wrapped: What `distribute` made of a model.
        tokens: Token ids, shape (n,), more than the model's context length.

    Returns:
        The mean cross-entropy over n - 1 tokens, in nats per token, the same in all processes.
    """
    inner = wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped
    model = cast(GPT, inner)
    length, n, rank = model.config.context_length, dist.get_world_size(), dist.get_rank()
    share = ((len(tokens) - 1) // length - 1) // n * length  # targets for each process
    total = 0.0
    if share:
        mine = evaluate(model, tokens[rank * share : (rank + 1) * share + 1])
        device = model.ln_f.weight.device
        total = n * share * float(mean_over_processes(torch.tensor(mine, device=device)))
    rest = tokens[n * share :]  # at least one window, for all
    return (total + (len(rest) - 1) * evaluate(model, rest)) / (len(tokens) - 1)


def run_state(state: TrainingState) -> dict[str, Any]:
    """Collect what a run changes, as tensors by name; each process has its part of them.

    Args:
        state: The run.

    Returns:
        "model", "optimizer", "step" and "batch_random", for `torch.distributed.checkpoint`.
    """
    weights, optimizer = get_state_dict(state.model, state.optimizer)
    return {
        "model": weights,
        "optimizer": optimizer["state"],
        "step": torch.tensor(state.step),
        "batch_random": state.generator.get_state(),
    }


def checkpoints_in(folder: Path) -> list[Path]:
    """List the whole checkpoints in a folder, the oldest first.

    Args:
        folder: Where `train_in_parallel` saves.

    Returns:
        Folders named "step-" and the number of steps done.
    """
    found = [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def save_together(folder: Path, state: TrainingState) -> None:
    """Write a checkpoint from all processes at once, each its part.

    It is written to a folder of its own, "step-20.part", which is renamed when all is there; then
    older ones go. A kill at any moment leaves a whole checkpoint.

    Args:
        folder: The folder of the run's checkpoints.
        state: The run.
    """
    done = folder / f"step-{state.step}"
    draft = done.with_suffix(".part")
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    dist.barrier()
    save(run_state(state), checkpoint_id=draft)
    if first:
        plan = {"model": asdict(state.model.config), "training": asdict(state.config)}
        (draft / "plan.json").write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(done, ignore_errors=True)
        os.replace(draft, done)
        for old in checkpoints_in(folder)[:-1]:
            shutil.rmtree(old)
    dist.barrier()


DESCRIBES_TENSORS = {
    "torch.distributed.checkpoint.metadata": "Metadata TensorStorageMetadata TensorProperties "
    "ChunkStorageMetadata MetadataIndex StorageMeta _MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem": "_StorageInfo",
    "torch.serialization": "_get_layout",
    "torch": "Size float32 bfloat16 float16 int64 uint8",
    "pathlib": "Path PosixPath WindowsPath",
    "pathlib._local": "Path PosixPath WindowsPath",
}
"""What the table of contents of a checkpoint may ask for, by module."""


class TensorsOnly(pickle.Unpickler):
    """Read the table of contents of a checkpoint, and refuse whatever could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Allow what describes tensors and nothing else."""
        if name not in DESCRIBES_TENSORS.get(module, "").split():
            raise ValueError(
                f"the checkpoint asks for {module}.{name}, which describes no tensor, so nothing "
                "in it was run; load a checkpoint that train_in_parallel wrote"
            )
        return super().find_class(module, name)


def newest_checkpoint(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """Find a run's last whole checkpoint, and refuse one that could run code.

    Args:
        folder: Where `train_in_parallel` saves.

    Returns:
        The folder of the checkpoint, and its plan: the configurations "model" and "training".

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it holds more than tensors.
    """
    found = checkpoints_in(Path(folder))
    if not found:
        raise FileNotFoundError(f"{folder} holds no checkpoint; start without resume")
    with open(found[-1] / ".metadata", "rb") as file:
        TensorsOnly(file).load()
    return found[-1], json.loads((found[-1] / "plan.json").read_text(encoding="utf-8"))


def restore_together(folder: Path, state: TrainingState) -> None:
    """Put a run back to its last checkpoint, whatever number of processes wrote it.

    Args:
        folder: The folder of the run's checkpoints.
        state: A run with the same model configuration and the same plan.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it belongs to another configuration, or holds more than tensors.
    """
    path, plan = newest_checkpoint(folder)
    for kind, mine in (("model", state.model.config), ("training", state.config)):
        for name, value in json.loads(json.dumps(asdict(mine))).items():
            if plan[kind].get(name) != value:
                raise ValueError(
                    f"the checkpoint was made with {name} {plan[kind].get(name)!r}, this run has "
                    f"{value!r}; use the values in {path.name}/plan.json, or start anew elsewhere"
                )
    _, optimizer = get_state_dict(state.model, state.optimizer)  # its groups are the plan's
    saved = run_state(state)
    load(saved, checkpoint_id=path)
    optimizer["state"] = saved["optimizer"]
    set_state_dict(
        state.model, state.optimizer, model_state_dict=saved["model"], optim_state_dict=optimizer
    )
    state.generator.set_state(saved["batch_random"])
    state.step = int(saved["step"])


def load_together(folder: str | Path) -> GPT:
    """Read the model of a run's last checkpoint whole, in one process, to use it.

    Args:
        folder: Where `train_in_parallel` saves.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it holds more than tensors.
    """
    path, plan = newest_checkpoint(folder)
    model = GPT(GPTConfig(**plan["model"]))
    saved = {"model": model.state_dict()}  # the weights themselves, filled in place
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(saved, checkpoint_id=path, no_dist=True)
    return model.eval()


def run_steps_together(
    wrapped: nn.Module,
    state: TrainingState,
    train_tokens: Tensor,
    validation_tokens: Tensor | None,
    folder: Path | None,
) -> Generator[Report, None, None]:
    """Take the steps that are left and report, as `gptlib.training.run_steps` does, together.

    Args:
        wrapped: What `distribute` made of the run's model.
        state: The run.
        train_tokens: Token ids, shape (n,).
        validation_tokens: Token ids, shape (m,), or None.
        folder: Where checkpoints go, or None.

    Yields:
        In each process the same `Report`.
    """
    config, seconds, clock = state.config, 0.0, time.perf_counter
    step_tokens = config.batch_size * config.accumulation_steps * state.model.config.context_length
    intervals = (config.report_every, config.evaluate_every, config.save_every)
    while state.step < config.n_steps:
        first, begin, score = state.step, clock(), None
        stop = min(config.n_steps, *(first + every - first % every for every in intervals))
        wrapped.train()
        step = partial(take_step_together, wrapped, state, train_tokens)
        steps = [torch.stack(step()) for _ in range(first, stop)]
        losses, norms = mean_over_processes(torch.stack(steps, dim=1)).tolist()
        check_finite(first + 1, losses, "loss", folder)
        check_finite(first + 1, norms, "gradient norm", folder)
        speed = len(losses) * step_tokens / (clock() - begin)
        last = stop == config.n_steps
        if validation_tokens is not None and (last or stop % config.evaluate_every == 0):
            score = evaluate_together(wrapped, validation_tokens)
        saved = folder is not None and (last or stop % config.save_every == 0)
        if folder is not None and saved:
            save_together(folder, state)
        seconds += clock() - begin
        rate = learning_rate_at(stop - 1, config)
        try:
            yield Report(stop, sum(losses) / len(losses), score, rate, norms[-1], speed, seconds)
        except GeneratorExit:  # all processes must stop at the same report
            if folder is not None and not saved:
                save_together(folder, state)
            raise


def train_in_parallel(
    model: GPT,
    train_tokens: Tensor,
    validation_tokens: Tensor | None,
    config: TrainingConfig,
    *,
    strategy: Strategy = "ddp",
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Generator[Report, None, None]:
    """Train a model with all processes that `torchrun` started; call it in each of them.

    The plan is the whole run's: a batch of `batch_size` windows is drawn as in a single process
    and shared out, so the losses are those of `gptlib.training.train` up to rounding. (With
    dropout each process draws its own masks, and a resumed run draws new ones.)

    A caller that leaves the loop early must do so in all processes at the same report; ask with
    `any_process`.

    Args:
        model: The model, on this process's device; trained in place. "fsdp" cuts it up.
        train_tokens: Token ids, shape (n,), dtype int64; a mapped file will do.
        validation_tokens: Token ids, shape (m,), or None.
        config: The plan of the whole run.
        strategy: "ddp" or "fsdp"; see `distribute`.
        checkpoint: The folder for checkpoints, reached by all processes. None saves nothing.
        resume: Whether to go on from the newest checkpoint, of any number of processes.

    Returns:
        A generator of reports, equal in all processes but for the times.

    Raises:
        ValueError: If no processes have joined, the batch can't be shared out evenly, a split is
            shorter than a window, or the checkpoint is of another configuration, unsafe, missing
            from the call, or of another run that would not be resumed.
        FileNotFoundError: If there is no checkpoint to resume from.
        FloatingPointError: While running, at the first loss or gradient that is no number.
    """
    if not dist.is_initialized():
        raise ValueError("no processes have joined; call this inside `with processes():`")
    n = dist.get_world_size()
    if config.batch_size % n:
        raise ValueError(
            f"batch_size is {config.batch_size} and there are {n} processes; pass a multiple of {n}"
        )
    check_stream(train_tokens, model.config.context_length, "the training split")
    if validation_tokens is not None:
        check_stream(validation_tokens, model.config.context_length, "the validation split")
    folder = None if checkpoint is None else Path(checkpoint)
    if resume and folder is None:
        raise ValueError("resume is True without a checkpoint; pass checkpoint=FOLDER as well")
    if folder is not None and not resume and checkpoints_in(folder):
        raise ValueError(f"{folder} holds checkpoints of a run; pass resume=True or another folder")
    wrapped = distribute(model, strategy)
    state = TrainingState.start(model, config)
    if resume and folder is not None:
        restore_together(folder, state)
    if model.config.dropout:
        torch.manual_seed(config.seed + n * state.step + dist.get_rank())
    device = model.ln_f.weight.device
    return run_steps_together(wrapped, state, train_tokens.to(device), validation_tokens, folder)


def any_process(answer: bool) -> bool:
    """Ask all processes one question, so that they all do the same.

    Args:
        answer: This process's answer, say, whether it was asked to stop.

    Returns:
        True, in all processes, if any of them says so.

    Example:
        >>> with processes("cpu"):
        ...     any_process(False)
        False
    """
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    votes = torch.tensor(float(answer), device=device)
    dist.all_reduce(votes)
    return bool(votes > 0)


def regroup(rows: Tensor, outer: int, inner: int) -> Tensor:
    """Exchange two levels of grouping of a matrix's rows.

    Args:
        rows: Shape (outer · inner · m, ...): `outer` groups of `inner` groups of m rows.
        outer: Number of large groups.
        inner: Number of small groups in each.

    Returns:
        The same rows, as `inner` groups of `outer` groups. Called again with the numbers
        exchanged, it brings them back.

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

    Args:
        block: The block, the same in all processes; changed in place.
        mesh: The n processes.

    Raises:
        ValueError: If the heads can't be shared out evenly.

    Source:
        Shoeybi et al. 2019, "Megatron-LM", section 3.
    """
    n, attn = mesh.size(), block.attn
    if attn.n_head % n:
        raise ValueError(
            f"n_head is {attn.n_head} and there are {n} processes; each needs the same number of "
            "whole heads"
        )
    for parameter in attn.qkv.parameters():
        parameter.data = regroup(parameter.data, 3, n)
    plan = {
        "attn.qkv": ColwiseParallel(),
        "attn.proj": RowwiseParallel(),
        "mlp.expand": ColwiseParallel(),
        "mlp.proj": RowwiseParallel(),
    }
    parallelize_module(block, mesh, plan)
    attn.n_head //= n


@dataclass(frozen=True)
class Machine:
    """Describe the devices that a run is planned for; take the figures from a measurement.

    Example:
        >>> Machine(flops=4e14, memory=80e9, inside=4e11, between=5e10).devices
        8
    """

    flops: float
    """Operations per second that one device reaches in a training step."""
    memory: float
    """Bytes per device."""
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
    """Seconds of the step: of the slower of the two if they overlap, else of both."""
    sent: float
    """Bytes sent."""
    memory: float
    """Bytes held."""


state_bytes = cache(memory_bytes)
"""`memory_bytes`, which builds a model's shapes to count them, once for each model."""


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
    `take_step_together` does. All devices form one ring, whose slowest link counts. DDP and FSDP
    send while they compute; tensor parallel has to wait. Latency, padding and uneven speed are
    left out, so a real step takes longer.

    Args:
        config: The model.
        machine: The devices.
        n_devices: How many, n.
        batch_tokens: Tokens per optimizer step, of all devices together.
        strategy: "ddp", "fsdp" or "tensor", where every block is cut as by `split_block`, and the
            embedding and the output layer as well, as in Megatron-LM.
        windows_at_once: Windows per pass and device; more passes are accumulated.
        checkpointed: Whether blocks are computed twice, as by `checkpoint_activations`.

    Returns:
        The cost for each device.

    Raises:
        ValueError: If a number is below 1, or there are fewer tokens than one window each.

    Source:
        Rajbhandari et al. 2020, "ZeRO", section 7, for DDP and FSDP; Shoeybi et al. 2019 for
        tensor parallel.

    Example:
        >>> from gptlib.gpt2 import GPT2_SMALL
        >>> machine = Machine(flops=4e14, memory=80e9, inside=4e11, between=5e10)
        >>> round(parallel_step(GPT2_SMALL, machine, 8, 2**19, "ddp").seconds, 2)
        0.14
    """
    per_device = batch_tokens if strategy == "tensor" else batch_tokens / max(1, n_devices)
    if min(n_devices, windows_at_once) < 1 or per_device < config.context_length:
        raise ValueError(
            f"{batch_tokens} tokens on {n_devices} devices leave less than one window of "
            f"{config.context_length} each; raise batch_tokens or use fewer devices"
        )
    at_once = min(windows_at_once * config.context_length, per_device)
    passes, stream = math.ceil(per_device / at_once), config.n_layer * config.n_embd
    state, shards = state_bytes(config), 1 if strategy == "ddp" else n_devices
    weights = state["weights"] / 2  # as bfloat16, the way they travel
    values = {
        "ddp": 2 * weights,  # an all-reduce: reduce-scatter, then all-gather
        "fsdp": (2 * passes + 1) * weights,  # gathered twice per pass, gradients scattered once
        "tensor": 4 * 2 * (2 * stream * batch_tokens),  # 4 all-reduces of the stream per block
    }
    sent = (n_devices - 1) / n_devices * values[strategy]
    bandwidth = machine.inside if n_devices <= machine.devices else machine.between
    work = flops_per_token(config)["training"] * batch_tokens * (4 / 3 if checkpointed else 1)
    compute, communication = work / n_devices / machine.flops, sent / bandwidth
    held = (state["weights"] + state["gradients"] + state["optimizer"]) / shards
    if strategy == "fsdp" and passes > 1:  # the gradient stays whole until the last pass
        held += (1 - 1 / n_devices) * state["gradients"]
    split = 1 / n_devices if strategy == "tensor" else 1
    kept = stream * (1 if checkpointed else 4 + 12 * split)  # values per token
    kept += (16 * config.n_embd if checkpointed else 0) + 2 * config.n_embd + config.vocab_size
    return StepCost(
        compute,
        communication,
        compute + communication if strategy == "tensor" else max(compute, communication),
        sent,
        held + 2 * at_once * kept,
    )
