"""Tokens of one's own, such as <|pad|> or <|user|>, for a model that is trained already."""

from collections.abc import Sequence
from dataclasses import replace

import tiktoken
import torch

from gptlib.generation import check_vocabulary
from gptlib.gpt2 import GPT
from gptlib.tokenizer import BPETokenizer, Tokenizer, read_gpt2_ranks, recover_merges


def add_special_tokens(
    model: GPT, tokenizer: Tokenizer, names: Sequence[str]
) -> tuple[GPT, BPETokenizer]:
    """Give a model and its tokenizer more special tokens; what they did before stays as it is.

    Each new token begins as the mean of all others, in the token embedding and in an output layer
    of its own: the model gives it an ordinary score until it has learnt what it is for.

    Args:
        model: The model; it is not changed.
        tokenizer: Its own: GPT-2's, or a `BPETokenizer`.
        names: Of the new tokens, such as "<|pad|>"; they get the next ids.

    Returns:
        A larger model, which is a copy, in evaluation mode, and the tokenizer with the new tokens.

    Raises:
        ValueError: If a name is there already or could be a word, or the tokenizer is of another
            program.

    Source:
        Hewitt 2021, "Initializing new word embeddings for pretrained language models".

    Example:
        >>> from gptlib.gpt2 import GPTConfig
        >>> model = GPT(GPTConfig(257, context_length=8, n_layer=1, n_head=1, n_embd=4))
        >>> larger, tokenizer = add_special_tokens(model, BPETokenizer([]), ["<|pad|>"])
        >>> larger.config.vocab_size, tokenizer.encode("<|pad|>", {"<|pad|>"})
        (258, [257])
    """
    check_vocabulary(tokenizer, model)
    if isinstance(tokenizer, tiktoken.Encoding):
        merges = recover_merges(read_gpt2_ranks())
        tokenizer = BPETokenizer(merges, tokenizer.special_tokens_set)
    n_plain = 256 + len(tokenizer.merges)
    if n_plain + len(tokenizer.special_tokens) != model.config.vocab_size:
        raise ValueError(
            "the tokenizer is another program's, or the model has rows without a token; add the "
            "tokens where it was made, with tokenizer.add_special_tokens and "
            "model.resize_token_embeddings of transformers"
        )
    larger_tokenizer = BPETokenizer(tokenizer.merges, [*tokenizer.special_tokens, *names])
    larger = GPT(replace(model.config, vocab_size=larger_tokenizer.vocab_size))
    state = dict(model.state_dict())
    for name in ("embed.token_embedding.weight", "head.weight"):
        table = state[name]  # (V, C)
        state[name] = torch.cat([table, table.mean(0, keepdim=True).expand(len(names), -1)])
    larger.load_state_dict(state)
    return larger.to(model.ln_f.weight).eval(), larger_tokenizer
