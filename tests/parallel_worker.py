"""What two processes do for tests/test_scaling.py: train each way, and write down what came out.

torchrun starts it with a folder; process 0 writes results.json there.
"""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from gptlib import scaling
from gptlib.embeddings import random_batch
from gptlib.gpt2 import GPT, Block, GPTConfig
from gptlib.scaling import (
    checkpoint_activations,
    processes,
    regroup,
    split_block,
    train_in_parallel,
)
from gptlib.training import TrainingConfig, next_token_loss

SIZES = GPTConfig(vocab_size=20, context_length=8, n_layer=2, n_head=2, n_embd=16)
STRATEGIES: tuple[Literal["ddp"], Literal["fsdp"]] = ("ddp", "fsdp")
PLAN = TrainingConfig(
    n_steps=8,
    batch_size=4,
    accumulation_steps=2,
    warmup_steps=2,
    report_every=2,
    evaluate_every=4,
    save_every=4,
)


def new_model() -> GPT:
    return GPT(SIZES, torch.Generator().manual_seed(0))


def text(n: int = 500) -> torch.Tensor:
    return torch.randint(20, (n,), generator=torch.Generator().manual_seed(1))


def tensor_parallel() -> dict[str, object]:
    """Train a model with its blocks cut in two for four steps; compare the first gradients."""
    model, whole = new_model(), new_model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        split_block(block, mesh)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5, foreach=False) for m in (model, whole)]
    generator, losses, difference = torch.Generator().manual_seed(0), [], 0.0
    for _ in range(4):
        inputs, targets = random_batch(text(), 4, 8, generator)
        pair = [next_token_loss(m, inputs, targets) for m in (model, whole)]
        for loss, optimizer in zip(pair, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
        for (name, cut), right in zip(model.named_parameters(), whole.parameters(), strict=True):
            grad, expected = cut.grad, right.grad
            assert grad is not None
            assert expected is not None
            if isinstance(grad, DTensor):
                grad = grad.full_tensor()
            if ".qkv." in name:
                grad = regroup(grad, mesh.size(), 3)
            difference = max(difference, (grad - expected).abs().max().item())
        for optimizer in optimizers:
            optimizer.step()
        losses.append([loss.item() for loss in pair])
    try:
        split_block(Block(replace(SIZES, n_head=1)), mesh)
    except ValueError as error:
        refused = str(error)
    return {"losses": losses, "difference": difference, "refused": refused}


def is_tied(model: GPT) -> bool:
    return model.head.weight is model.embed.token_embedding.weight


def said_by_all(message: str) -> list[str]:
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, message)
    return said


def stopped_by_nan(folder: Path, strategy: Any) -> list[str]:
    """Let one process's share of the validation text give nan from step 4 on; return errors."""
    path = folder / f"nan-{strategy}.pt"
    run = train_in_parallel(
        new_model(), text(), text(101), PLAN, strategy=strategy, checkpoint=path
    )
    next(report for report in run if report.step == 4)
    share = math.nan if dist.get_rank() else 1.0
    with patch.object(scaling, "evaluate", lambda *_: share):
        try:
            return said_by_all(f"it went on to step {list(run)[-1].step}")
        except FloatingPointError as error:
            return said_by_all(str(error))


def main(folder: Path) -> None:
    learn, judge, tied = text(), text(101), []
    results: dict[str, object] = {}
    for strategy in STRATEGIES:
        model = new_model()
        checkpoint_activations(model)
        path = folder / f"{strategy}.pt"
        run = train_in_parallel(model, learn, judge, PLAN, strategy=strategy, checkpoint=path)
        results[strategy] = [asdict(report) for report in run]
        tied.append(is_tied(model))
        results[f"nan {strategy}"] = stopped_by_nan(folder, strategy)
    chain, path = [], folder / "chain.pt"  # one process took its first two steps
    for strategy in STRATEGIES:
        model = new_model()
        run = train_in_parallel(
            model, learn, judge, PLAN, strategy=strategy, checkpoint=path, resume=True
        )
        chain.append(asdict(next(run)))
        run.close()
        tied.append(is_tied(model))
    results["chain"], results["tied"] = chain, tied
    try:
        train_in_parallel(new_model(), learn, judge, replace(PLAN, batch_size=3))
    except ValueError as error:
        results["odd batch"] = str(error)
    results["tensor"] = tensor_parallel()
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    with processes("cpu"):
        main(Path(sys.argv[1]))
