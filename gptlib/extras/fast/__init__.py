"""The same model, faster: oneDNN, a compiled decode step, int8 weights; on a GPU a CUDA graph.

    model, step = fast(model)
    for piece in generate_text(model, tokenizer, "It was", step=step): ...

In float32, the twin writes the tokens that the model itself writes.
"""

from gptlib.extras.fast.compiled import compile_decode
from gptlib.extras.fast.graph import GraphWriter
from gptlib.extras.fast.int8 import quantize
from gptlib.extras.fast.onednn import onednn_twin, share_weights
from gptlib.extras.variants import VariantConfig
from gptlib.generation import Step
from gptlib.gpt2 import GPT


def fast(model: GPT, compile: bool = False, int8: bool = False) -> tuple[GPT, Step | None]:
    """Make the twin of a model that writes as fast as this machine can.

    Args:
        model: Stays as it is. The twin shares its weights and follows them.
        compile: Compile the decode step; on a CPU it then serves one text at a time, in float32. It
            takes half a minute the first time, and a C++ compiler or, on a CUDA card, Triton.
        int8: Round the weights to 8 bits, on a CPU: another, nearly equal text.

    Returns:
        The twin, in evaluation mode, and a decode step of its own, None if it needs none; both for
        `generate(model, ..., step=step)`.

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=9, context_length=4, n_layer=1, n_head=1, n_embd=4))
        >>> twin, step = fast(model)
        >>> twin.head.weight is model.head.weight, step
        (True, None)
    """
    if compile and int8:
        raise ValueError("compile and int8 don't go together; choose one of them")
    config = model.config
    if isinstance(config, VariantConfig) and config.attention != "full" and not int8:
        if compile:  # what it compiles looks at all tokens
            raise ValueError(f"attention {config.attention!r} can't be compiled; leave compile out")
        return onednn_twin(model), None
    if int8:
        return quantize(model), None
    if model.ln_f.weight.is_cuda:
        return share_weights(model), GraphWriter(model, compile)
    return onednn_twin(model), compile_decode(model) if compile else None
