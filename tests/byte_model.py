"""A small model over bytes, its tokenizer, and adapters as if they had been trained."""

from typing import Any

import torch

from gptlib.gpt2 import GPT, GPTConfig
from gptlib.instructions import PROJECTIONS, LoRAConfig, add_lora, lora_layers
from gptlib.tokenizer import BPETokenizer

BYTES = BPETokenizer([])
END = 256
TOKENS = torch.tensor([[5, 7, 9, 11, 200], [1, 2, 3, 4, 5]])


def small(seed: int = 0, **changes: Any) -> GPT:
    """Make a model over bytes whose weights are large enough for its parts to matter."""
    sizes: dict[str, Any] = {"vocab_size": 257, "context_length": 64}
    sizes |= {"n_layer": 2, "n_head": 2, "n_embd": 16}
    model = GPT(GPTConfig(**sizes | changes), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "blocks" in name:
                parameter.mul_(10)
    return model.eval()


def lora(model: GPT, seed: int = 1, **changes: Any) -> GPT:
    """Add adapters, and give them values as if they had been trained."""
    values: dict[str, Any] = {"rank": 2, "projections": PROJECTIONS}
    generator = torch.Generator().manual_seed(seed)
    add_lora(model, LoRAConfig(**values | changes), generator)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.up, generator=generator)
    return model
