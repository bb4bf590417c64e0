"""The numbers that `add_lora` adds to a model, in a file of their own.

A file of adapters is small, and one base model serves many of them. But they are a difference:
beside other weights they mean nothing, though every shape fits. So the file holds a fingerprint of
the weights that it belongs to.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gptlib.gpt2 import GPT
from gptlib.instructions import LoRAConfig, add_lora
from gptlib.tokenizer import whole_file
from gptlib.training import unwrap
from gptlib.weights import damaged, open_weights


def adapter_tensors(model: GPT) -> dict[str, Tensor]:
    """Collect the numbers that `add_lora` added, by name: no other part has a `down` or an `up`."""
    parts = unwrap(model).named_parameters()
    return {name: part for name, part in parts if name.endswith((".down", ".up"))}


def fingerprint(model: GPT) -> str:
    """Compute the sha256 of a model's own weights, as 64 hexadecimal digits.

    What `add_lora` added doesn't count, and a table that the head shares counts once.
    """
    model = unwrap(model)
    digest, left_out = hashlib.sha256(), {*adapter_tensors(model)}
    left_out |= {"head.weight"} if model.config.tie_weights else set()
    for name, tensor in model.state_dict().items():
        if name not in left_out:
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_adapters(model: GPT, path: str | Path) -> None:
    """Write what was added to a model, and nothing of the model, to one safetensors file."""
    tensors = {name: part.detach().cpu() for name, part in adapter_tensors(model).items()}
    if not tensors:
        raise ValueError("the model has no adapters to save; call add_lora first")
    layer: Any = unwrap(model).get_submodule(next(iter(tensors)).rpartition(".")[0])
    notes = {"lora": json.dumps(asdict(layer.config)), "fingerprint": fingerprint(model)}
    with whole_file(Path(path)) as draft:
        save_file(tensors, draft, notes)


def load_adapters(model: GPT, path: str | Path) -> GPT:
    """Put saved adapters into the very model that they were trained for.

    Args:
        model: The base model, without adapters; it is changed in place, and frozen but for them.

    Raises:
        ValueError: If the file holds no adapters, or they were made for a model of other sizes or
            weights; the model is then unchanged.
    """
    path = Path(path)
    with open_weights(path) as file:
        notes: dict[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "lora" not in notes:
        raise ValueError(f"{path} holds no adapters; name a file that save_adapters wrote")
    try:
        stored = json.loads(notes["lora"])
        config = LoRAConfig(**stored | {"projections": tuple(stored["projections"])})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"its configuration can't be read ({type(error).__name__}: {error})"
        raise damaged(path, reason) from error
    theirs, ours = str(notes.get("fingerprint")), fingerprint(model)
    if theirs != ours:
        raise ValueError(
            f"the adapters of {path.name} were made for another model: its weights have the sha256 "
            f"{theirs[:12]}..., these have {ours[:12]}...; load the model they belong to"
        )
    with torch.device("meta"):  # shapes without values
        expected = adapter_tensors(add_lora(GPT(unwrap(model).config), config))
    if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in expected.items()}:
        raise damaged(path, f"its {len(tensors)} tensors are not those of {config}")
    added = adapter_tensors(add_lora(model, config))
    with torch.no_grad():
        for name, tensor in tensors.items():
            added[name].copy_(tensor)
    return model
