"""A tiny GPT-2 of ours and of transformers, and how the two are compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from gptlib.generation import Sampling, generate
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer

GOLDEN = Path(__file__).parent / "golden"
TEXT = "the prince said that the princess had said so to the prince, and “that” was 1812! "
TOKENIZER = BPETokenizer.train(TEXT, 270)
CONFIG = GPTConfig(vocab_size=270, context_length=16, n_layer=2, n_head=2, n_embd=8)


def tiny(config: GPTConfig = CONFIG, seed: int = 0) -> GPT:
    """A model whose norms and biases are no longer at 1 and 0, where mistakes don't show."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens_for(model: GPT, n_tokens: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, (2, n_tokens), generator=generator)


def assert_same_weights(one: GPT, other: GPT) -> None:
    state = other.state_dict()
    assert state.keys() == one.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def transformers_model(config: GPTConfig = CONFIG, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    sizes = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_inner=config.d_ff,
        tie_word_embeddings=config.tie_weights,
        bos_token_id=config.vocab_size - 1,
        eos_token_id=config.vocab_size - 1,
    )
    model: Any = GPT2LMHeadModel(sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def assert_same_logits(ours: GPT, theirs: Any, n_tokens: int = 12) -> None:
    tokens = tokens_for(ours, n_tokens)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)


def greedy(model: GPT, prompt: list[int], n_tokens: int) -> list[int]:
    return prompt + list(generate(model, prompt, n_tokens, Sampling(temperature=0)))


def their_greedy(model: Any, prompt: list[int], n_tokens: int) -> list[int]:
    written = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=n_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    ids: list[int] = written[0].tolist()
    return ids


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a folder and write them again."""
    tensors = dict(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rewrite_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value != "gone"}))
