"""A model with int8 weights: a quarter of the bytes to read for each token that is written.

    from gptlib.extras.fast.int8 import quantize
    small = quantize(model)            # generate(small, ...) works as before

PyTorch's dynamic quantization does the work. Each row of a weight matrix becomes whole numbers of
-128 to 127 and one scale. Activations are rounded anew at each call, to 7 bits, with one scale and
one zero point for the whole batch. So a text can depend on its neighbours in the batch, and the
logits differ a little; measure on your own text what that costs.
"""

import warnings

import torch
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from gptlib.extras.fast.onednn import share_weights, swap_linears
from gptlib.gpt2 import GPT


def quantize(model: GPT) -> GPT:
    """Make a copy of a model with int8 weights, for inference on a CPU.

    The model stays as it is and shares its embeddings and norms with the copy. Looking up a token
    reads one row, so the table stays float32; the output layer reads all of it and gets int8.
    """
    weight = model.ln_f.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(
            f"the model is in {weight.dtype} on {weight.device}; int8 kernels need float32 on the "
            "CPU: call model.float().cpu() first"
        )
    twin = share_weights(model)
    swap_linears(twin, nn.Linear)  # PyTorch changes layers of this very class only
    with warnings.catch_warnings():  # PyTorch means to move this to torchao, which needs a compiler
        warnings.filterwarnings("ignore", message="torch.ao.quantization is deprecated")
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_")
        quantize_dynamic(twin, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)
    return twin
