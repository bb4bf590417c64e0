"""Record what transformers' GPT-2 computes, for `gptlib.weights.first_divergence`.

    python tests/golden/make_gpt2_reference.py

Made once with transformers 5.23.0 and torch 2.13.0 on a CPU, seed 7:

    hf-tiny/    a random GPT-2 of 3 layers that transformers itself saved (model.safetensors,
                config.json), and beside it
                activations.safetensors: the tokens, what each stage handed on by the names of
                `gptlib.weights.activations`, and 12 tokens of greedy text ("greedy")

`record(model, tokens)` works for any `GPT2LMHeadModel`, so the same can be made of the real ones:

    python tests/golden/make_gpt2_reference.py openai-community/gpt2 OUTPUT.safetensors
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).resolve().parent


def record(model: Any, tokens: Tensor) -> dict[str, Tensor]:
    """Record every stage of a transformers GPT-2 under the names of `activations`."""
    kept: dict[str, Tensor] = {}

    def keep_as(stage: str) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            kept[stage] = (output[0] if isinstance(output, tuple) else output).clone().contiguous()

        return keep

    stages = {"embed": model.transformer.drop, "ln_f": model.transformer.ln_f}
    for layer, block in enumerate(model.transformer.h):
        stages[f"blocks.{layer}"] = block
        for part in ("ln_1", "attn", "ln_2", "mlp"):
            stages[f"blocks.{layer}.{part}"] = getattr(block, part)
    hooks = [module.register_forward_hook(keep_as(stage)) for stage, module in stages.items()]
    with torch.no_grad():
        kept["logits"] = model.eval()(tokens).logits
    for hook in hooks:
        hook.remove()
    return kept


def main(arguments: list[str]) -> int:
    """Write hf-tiny/, or the record of a named model."""
    if arguments:
        model = GPT2LMHeadModel.from_pretrained(arguments[0], dtype=torch.float32)
        output = Path(arguments[1])
    else:
        torch.manual_seed(7)
        config = GPT2Config(
            vocab_size=262,
            n_positions=16,
            n_layer=3,
            n_head=2,
            n_embd=16,
            initializer_range=0.3,
            bos_token_id=261,
            eos_token_id=261,
        )
        model = GPT2LMHeadModel(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases start at 0 and 1, which hides mistakes
                torch.nn.init.normal_(parameter, float(parameter.detach().mean()), 0.2)
        output = HERE / "hf-tiny" / "activations.safetensors"
        model.save_pretrained(output.parent)
        (output.parent / "generation_config.json").unlink()
    length = min(14, model.config.n_positions)
    tokens = torch.randint(model.config.vocab_size, (2, length), generator=torch.Generator())
    greedy = model.eval().generate(tokens[:1, :4], max_length=16, do_sample=False, pad_token_id=0)
    save_file({"tokens": tokens, "greedy": greedy[0], **record(model, tokens)}, output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
