"""Text written a token at a time, and its description in words, for the sampling playground."""

import codecs
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from gptlib.extras.fast import fast
from gptlib.extras.widgets.attention import visible
from gptlib.generation import (
    Beam,
    KeyValueCache,
    Sampling,
    beam_search,
    draw,
    not_finite,
    read_new,
    stages,
    window_start,
)
from gptlib.gpt2 import GPT
from gptlib.tokenizer import Tokenizer
from gptlib.training import perplexity

N_ALTERNATIVES = 12
"""Tokens that get a bar of their own."""


@dataclass(frozen=True)
class Written:
    """One token of the text, and what was known when it was written."""

    token: int
    probability: float
    """What the model gave it, before penalties and filters."""
    kept: float
    """What the filters made of that; 0 if they had cut it."""
    entropy: float
    """Of the model's distribution, in nats."""
    kept_entropy: float
    """Likewise after the filters."""
    how: str
    """"drawn", "the best", "by hand" or "by beam search"."""


@dataclass(frozen=True)
class Search:
    """A beam search that grows by a token a step."""

    root: int
    """Tokens written before it began."""
    depth: int
    """Tokens that it has added."""
    beams: tuple[Beam, ...]
    """What it holds, best first."""


class Writer:
    """Write one text a token at a time, and look at the distribution at any of its places."""

    def __init__(self, model: GPT, prompt: Sequence[int]) -> None:
        self.model = model
        self.prompt = tuple(prompt)
        self.written: tuple[Written, ...] = ()
        self.search: Search | None = None
        self._reader, _ = fast(model)
        self._cache = KeyValueCache(model, 1, model.config.context_length)
        self._window: list[int] = []
        self._logits = torch.empty(0)

    @property
    def new_tokens(self) -> list[int]:
        """The text after the prompt."""
        return [written.token for written in self.written]

    @property
    def tokens(self) -> list[int]:
        """Prompt and text."""
        return [*self.prompt, *self.new_tokens]

    def logits(self, place: int) -> Tensor:
        """Return what the model says after the prompt and `place` tokens, shape (V,).

        What the cache holds already is not computed again: most often one token is new.
        """
        tokens = self.tokens[: len(self.prompt) + place]
        window = tokens[window_start(len(tokens), self.model.config.context_length) :]
        if window != self._window:
            same = self._cache.length = count_shared(window[:-1], self._window)
            self._window = []  # in case of an error
            new = torch.tensor([window[same:]], device=self._cache.starts.device)  # (1, T)
            with torch.no_grad():
                stream = read_new(self._reader, new, self._cache)  # (1, T, C)
                self._logits = self._reader.unembed(stream[:, -1])[0].float().cpu()
            if not self._logits.isfinite().all():
                raise not_finite(tokens)
            self._window = window
        return self._logits

    def stages(self, place: int, sampling: Sampling) -> dict[str, Tensor]:
        """Return the logits after the prompt and `place` tokens, filter by filter, each (V,)."""
        new = self.new_tokens[:place]
        steps = stages(self.logits(place)[None], sampling, [[*self.prompt, *new]], [new])
        return {name: logits[0] for name, logits in steps.items()}

    def step(self, sampling: Sampling, uniform: float) -> None:
        """Write the token that a uniform number in 0..1 picks from the filtered distribution."""
        last = [*self.stages(len(self.written), sampling).values()][-1]
        token = int(draw(last[None], torch.tensor([uniform]))[0])
        self.write(token, sampling, "the best" if sampling.temperature == 0 else "drawn")

    def write(self, token: int, sampling: Sampling, how: str) -> None:
        """Add a token, with what model and filters thought of it."""
        every = [*self.stages(len(self.written), sampling).values()]
        model, kept = (logits.double().softmax(-1) for logits in (every[0], every[-1]))
        chances = float(model[token]), float(kept[token])
        self.written += (Written(token, *chances, entropy(model), entropy(kept), how),)

    def cut(self, place: int) -> None:
        """Keep the first `place` tokens of the text."""
        self.written, self.search = self.written[:place], None

    def grow_beams(self, n_beams: int, end: int | None) -> None:
        """Lengthen the beam search by a token, and take its best beam as the text."""
        search = self.search
        if search is None or len(search.beams) != n_beams:
            search = Search(len(self.written), 0, ())
        prompt = self.tokens[: len(self.prompt) + search.root]
        depth = search.depth + 1
        beams = beam_search(self.model, prompt, n_beams, depth, end_token=end)
        search = Search(search.root, depth, tuple(beams))
        self.take(search, 0)
        self.search = search

    def take(self, search: Search, number: int) -> None:
        """Make one beam of a search the text; what it shares with the text before is kept."""
        new = search.beams[number].tokens
        same = count_shared(new, self.new_tokens[search.root :])
        self.cut(search.root + same)
        for token in new[same:]:
            self.write(token, Sampling(), "by beam search")


def count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens with which both texts begin."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def percent(p: float) -> str:
    """Spell a probability as the browser does: "12 %", "1.2 %", "<0.1 %"."""
    if p >= 0.0995:
        return f"{100 * p:.0f} %"
    return f"{100 * p:.1f} %" if p >= 0.001 else "<0.1 %" if p else "0 %"


def entropy(probabilities: Tensor) -> float:
    """Return the entropy of a distribution (V,) in nats."""
    return float(torch.special.entr(probabilities).sum())


def count_in_words(written: Sequence[Written]) -> str:
    """Say how long a text is, and how much it surprises the model."""
    n = len(written)
    if n == 0:
        return "No tokens yet."
    losses = [-math.log(max(one.probability, 1e-30)) for one in written]
    return f"{n} token{'' if n == 1 else 's'}, perplexity {perplexity(sum(losses) / n):,.1f}."


def spell(token: bytes) -> str:
    """Spell a token so that spaces, line ends and parts of characters can be seen."""
    with suppress(UnicodeDecodeError):
        shown = visible(token.decode())
        if shown.isprintable():
            return shown
    return f"<{token.hex(' ').upper()}>"


def pieces(tokenizer: Tokenizer, tokens: Collection[int]) -> list[str]:
    """Return the text that each token adds; a character belongs to the token that ends it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(tokenizer.decode_bytes([token])) for token in tokens]
    return [*texts, decoder.decode(b"", True)]


def shown_text(piece: str) -> str:
    """Mark line ends, control characters, and what is no character yet, in a piece of text."""
    pictures = {code: chr(0x2400 + code) for code in range(32)} | {10: "⏎\n"}
    return piece.translate(pictures) or "⋯"


def short_name(stage: str) -> str:
    """Name a stage or a knob in short: "logits" is "model", "top_k" is "top-k"."""
    return "model" if stage == "logits" else stage.removesuffix("_penalty").replace("_", "-")


def describe_stages(
    steps: dict[str, Tensor],
    sampling: Sampling,
    present: int | None,
    spell: Callable[[int], str],
) -> dict[str, Any]:
    """Collect the stages, and the likeliest tokens with logit and probability after each."""
    every = [logits.double() for logits in steps.values()]
    chances = [logits.softmax(-1) for logits in every]
    order = every[0].sort(descending=True, stable=True).indices.tolist()[:N_ALTERNATIVES]
    wanted = [int(chances[-1].argmax()), *([] if present is None else [present])]
    missing = [token for token in dict.fromkeys(wanted) if token not in order]
    shown = order[: len(order) - len(missing)] + missing
    shown.sort(key=lambda token: -float(every[0][token]))
    rows = []
    for token in shown:
        values = [
            (round(float(x[token]), 2) if x[token].isfinite() else None, round(float(p[token]), 5))
            for x, p in zip(every, chances, strict=True)
        ]
        first, (logit, last) = values[0][1], values[-1]
        after = "cut by the filters" if logit is None else f"{percent(last)} after the filters"
        rows.append(
            {
                "token": token,
                "label": spell(token),
                "values": values,
                "written": token == present,
                "said": f"{spell(token)}: {percent(first)} by the model, {after}; choose it",
            }
        )
    described = []
    for name, logits, p in zip(steps, every, chances, strict=True):
        left = int(logits.isfinite().sum())
        active, note = describe_stage(name, sampling)
        described.append(
            {
                "name": short_name(name),
                "note": note,
                "cuts": active and left < len(logits),
                "active": active,
                "numbers": left == len(logits),
                "left": left,
                "others": left - sum(bool(logits[token].isfinite()) for token in shown),
                "rest": round(max(0.0, 1 - float(p[shown].sum())), 5),
            }
        )
    entropies = [entropy(chances[0]), entropy(chances[-1])]
    return {"stages": described, "rows": rows, "entropies": entropies}


def describe_stage(name: str, sampling: Sampling) -> tuple[bool, str]:
    """Say whether a stage changes anything, and with what."""
    if name == "logits":
        return True, "softmax of logits"
    knob = next(each for each in fields(sampling) if each.name == name)
    value = getattr(sampling, name)
    active = value != knob.default
    if sampling.temperature == 0 and name != "temperature":  # what is left no filter can cut
        active = active and knob.metadata["counts"] is not None
    return active, f"{value:g}" if active else "off"


def entropy_in_words(entropies: list[list[float]]) -> str:
    """Describe the plot of the entropy for those who can't see it."""
    model = [pair[0] for pair in entropies]
    return (
        f"Entropy along the text, in nats, by number of tokens written: the model's from "
        f"{min(model):.2f} to {max(model):.2f}, now {model[-1]:.2f}; after the filters now "
        f"{entropies[-1][1]:.2f}."
    )
