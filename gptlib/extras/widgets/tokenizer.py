"""The widget of the chapter on the tokenizer: a text as coloured boxes, one a token."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from gptlib.extras.figures.tokenizer import TINTS, character_ends, visible
from gptlib.tokenizer import gpt2_encoding

MOST_BOXES = 400
"""So many tokens are drawn at most; a longer text only counts the rest."""


class Characters:
    """The tokenizer that has one token for each character: its id is its code point.

    Example:
        >>> Characters().encode_ordinary("Hé")
        [72, 233]
    """

    def encode_ordinary(self, text: str) -> list[int]:
        """Turn a text into the code points of its characters."""
        return [ord(character) for character in text]

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Turn code points into UTF-8."""
        return "".join(map(chr, tokens)).encode()


class TokenBoxes(widgets.VBox):
    """Type a text and see its tokens as coloured boxes, each with its id and its bytes.

    A bracket joins the bytes of one character; where a token ends inside of one, it stays open.

    Controls: `text` (a text area) and `kind` (buttons, one a tokenizer). Results: `tokens`, a
    list of (id, bytes), `bytes_per_token`, the boxes in `boxes` and the counts in `readout`.

    Args:
        encoders: The tokenizers by the names on their buttons, `BPETokenizer`s, `Characters` or
            `tiktoken.Encoding`s; by default characters and GPT-2.

    Raises:
        ValueError: If there is no tokenizer.

    Example:
        >>> boxes = TokenBoxes(text="War and Peace")
        >>> boxes.kind.value = "GPT-2"
        >>> boxes.tokens
        [(13195, b'War'), (290, b' and'), (12689, b' Peace')]
    """

    def __init__(
        self,
        encoders: Mapping[str, Any] | None = None,
        text: str = "Natasha's naïve smile, in 1812 🙂",
    ) -> None:
        if encoders is None:
            encoders = {"characters": Characters(), "GPT-2": gpt2_encoding()}
        if not encoders:
            raise ValueError("encoders is empty; pass at least one tokenizer with a name")
        self.encoders = dict(encoders)
        self.kind = widgets.ToggleButtons(options=list(self.encoders), description="Tokenizer")
        self.text = widgets.Textarea(
            text, description="Text", rows=3, layout=widgets.Layout(width="95%")
        )
        self.boxes = widgets.HTML()
        self.readout = widgets.HTML()
        self.tokens: list[tuple[int, bytes]] = []
        super().__init__([self.kind, self.text, self.boxes, self.readout])
        for control in (self.kind, self.text):
            control.observe(self._update, names="value")
        self._update()

    def __repr__(self) -> str:
        return "TokenBoxes: type a text, see its tokens as boxes, switch the tokenizer"

    @property
    def bytes_per_token(self) -> float:
        """How many bytes of the text stand in a token, on average; 0 for no text."""
        return sum(len(token) for _, token in self.tokens) / max(1, len(self.tokens))

    def _update(self, _: Any = None) -> None:
        try:
            self.tokens = cut(self.encoders[self.kind.value], self.text.value)
        except ValueError as error:
            self.tokens = []
            self.boxes.value = ""
            self.readout.value = f"<p aria-live='polite'>{html.escape(str(error))}</p>"
            return
        ends = character_ends([token for _, token in self.tokens])
        boxes = [_box(*self.tokens[n], n, ends[n]) for n in range(len(self.tokens))[:MOST_BOXES]]
        self.boxes.value = f"<div style='line-height: 1.25'>{''.join(boxes)}</div>"
        self.readout.value = f"<p aria-live='polite'>{html.escape(self._sentence())}</p>"

    def _sentence(self) -> str:
        n_tokens = len(self.tokens)
        n_bytes = sum(len(token) for _, token in self.tokens)
        if not n_tokens:
            return "No text, no tokens. Type something."
        rest = n_tokens - MOST_BOXES
        more = f" The first {MOST_BOXES} are drawn, {rest} more follow." if rest > 0 else ""
        sizes = f"{_count(len(self.text.value), 'character')} ({_count(n_bytes, 'byte')})"
        return (
            f"{self.kind.value}: {_count(n_tokens, 'token')} for {sizes}, "
            f"{self.bytes_per_token:.2f} bytes per token.{more}"
        )


def cut(encoder: Any, text: str) -> list[tuple[int, bytes]]:
    """Encode a text, special tokens' names as plain text; return each token's id and bytes."""
    return [(i, encoder.decode_bytes([i])) for i in encoder.encode_ordinary(text)]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _box(i: int, token: bytes, n: int, ends: Sequence[tuple[bool, bool]]) -> str:
    """Write a token, its id, and its bytes with a bracket below those of one character."""
    tint = TINTS[n % len(TINTS)]
    small = "font-size: 11px; color: #333"
    signs = "".join(
        f"<span style='display: inline-block'><span style='{small}; padding: 0 2px'>{byte:02x}"
        f"</span><span style='display: block; height: 4px; border: solid #555; border-width: "
        f"0 {int(stops)}px 1px {int(begins)}px; margin: 0 {int(stops)}px 0 {int(begins)}px'>"
        "</span></span>"
        for byte, (begins, stops) in zip(token, ends, strict=True)
    )
    return (
        f"<span style='display: inline-block; text-align: center; background: {tint}; color: #000; "
        "border: 1px solid #777; border-radius: 4px; margin: 2px; padding: 1px 5px 3px; "
        f"font-family: monospace; max-width: 95%; overflow-wrap: anywhere' title='token {n}'>"
        f"<b style='font-size: 15px; white-space: pre-wrap'>{html.escape(visible(token))}</b><br>"
        f"<span style='{small}'>{i}</span><br>{signs}</span>"
    )
