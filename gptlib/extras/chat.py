"""A tuned model in use: questions that fit, earlier turns, an answer that streams, its folder."""

import json
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from gptlib.extras.adapters import adapter_tensors
from gptlib.generation import Sampling, Step, generate, stream_text
from gptlib.gpt2 import GPT
from gptlib.instructions import PromptForm, Record
from gptlib.tokenizer import Tokenizer, end_of_text, whole_file
from gptlib.weights import damaged, read_json, save_gpt2


def fit_prompt(
    instruction: str, input: str, tokenizer: Tokenizer, form: PromptForm, room: int
) -> tuple[list[int], str]:
    r"""Fill a form so that it fits; what is too long loses its end, and the form stays whole.

    Args:
        instruction: It is cut only if there is no input.
        room: The most tokens.

    Returns:
        The prompt's tokens, and the text that was cut away, "" if none.

    Example:
        >>> from gptlib.instructions import CHAT
        >>> from gptlib.tokenizer import BPETokenizer
        >>> tokens, cut = fit_prompt("Count.", "one two three", BPETokenizer([]), CHAT, room=20)
        >>> BPETokenizer([]).decode(tokens), cut
        ('Q: Count.\none two\nA:', ' three')
    """
    if not instruction.strip():
        raise ValueError("the instruction is empty; write what to do")
    text = (input if input.strip() else instruction).strip()
    body = tokenizer.encode_ordinary(text)
    kept = len(body)
    while kept > 0:
        part = tokenizer.decode_bytes(body[:kept]).decode(errors="ignore")  # no half character
        asked = (instruction, part) if input.strip() else (part, "")
        tokens = tokenizer.encode_ordinary(form.fill(*asked))
        if part and len(tokens) <= room:
            return tokens, text[len(part) :]
        kept -= max(1, len(tokens) - room)  # cut as much as is too much, and count again
    raise ValueError(
        f"the form {form.name!r} and the instruction leave no place in {room} tokens for what the "
        "question is about; shorten the instruction, or ask for fewer new tokens"
    )


def remember(
    prompt: list[int], history: Sequence[Record], tokenizer: Tokenizer, form: PromptForm, room: int
) -> tuple[list[int], int]:
    """Put earlier questions and their answers before a prompt, the latest ones that fit.

    Args:
        history: Earlier turns, with "instruction", "input" and "output"; the latest last.
        room: The most tokens in all.

    Returns:
        The tokens, and how many turns are in them.
    """
    tokens, n_turns, end = prompt, 0, sorted(end_of_text(tokenizer))[:1]
    for turn in reversed(history):
        text = form.fill(turn["instruction"], turn.get("input", "")) + " " + turn["output"]
        earlier = [*tokenizer.encode_ordinary(text), *end]
        if len(earlier) + len(tokens) > room:
            break
        tokens, n_turns = earlier + tokens, n_turns + 1
    return tokens, n_turns


def answer(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    max_new_tokens: int = 60,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
    step: Step | None = None,
) -> Generator[str, None, None]:
    """Answer one prompt in pieces of text, as they are written; leaving the loop stops it.

    Args:
        sampling: The likeliest token each time if None.
        step: What `gptlib.extras.fast` made for this model, if anything.
    """
    sampling, ends = sampling or Sampling(temperature=0), end_of_text(tokenizer)
    tokens = generate(
        model, prompt, max_new_tokens, sampling, end_tokens=ends, generator=generator, step=step
    )
    return stream_text(tokens, tokenizer, end_tokens=ends)


FORM_FILE = "prompt_form.json"
"""Where a tuned model's folder keeps the form that it answers to."""


def save_tuned(model: GPT, tokenizer: Tokenizer, form: PromptForm, folder: str | Path) -> None:
    """Write a tuned model in GPT-2's layout, as `save_gpt2` does, and its form beside it."""
    if adapter_tensors(model):
        raise ValueError("the model has adapters, which GPT-2's layout can't hold; merge_lora it")
    save_gpt2(model, tokenizer, folder, beside=(FORM_FILE,))
    with whole_file(Path(folder).expanduser() / FORM_FILE) as draft:
        draft.write_text(json.dumps(asdict(form), indent=2) + "\n", encoding="utf-8")


def load_form(folder: str | Path) -> PromptForm | None:
    """Read the form that a model's folder says it answers to; None if it names none."""
    path = Path(folder).expanduser() / FORM_FILE
    if not path.is_file():
        return None
    config = read_json(path.with_name("config.json"))
    with suppress(TypeError, ValueError, AttributeError):
        if FORM_FILE not in config.get("beside", [FORM_FILE]):  # older folders have no such list
            return None  # what another model left behind
        return PromptForm(**read_json(path))
    raise damaged(path, "it must hold the texts name, plain and with_input of a form")
