"""The widget of chapter 1: a text as coloured boxes, one a token."""

import html
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from gptlib.extras.plots import style
from gptlib.tokenizer import gpt2_encoding

TINTS = ["#BFDDF0", "#F9D3A8", "#B8E3D3", "#F0CFE2", "#F4EFA0"]
"""Light versions of five colours of Okabe and Ito; black text stands on each with ease."""

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

    def picture(self) -> Figure:
        """Draw the boxes of every tokenizer, one below the other."""
        style()
        rows = {
            name: [(i, visible(token)) for i, token in cut(encoder, self.text.value)[:120]]
            for name, encoder in self.encoders.items()
        }
        lines = {name: _lines(row) for name, row in rows.items()}
        height = sum(0.34 + 0.56 * len(line) for line in lines.values())
        figure, ax = plt.subplots(figsize=(_WIDTH, height), layout="none")
        figure.subplots_adjust(0, 0, 1, 1)
        ax.set(xlim=(0, _WIDTH), ylim=(height, 0))
        ax.axis("off")
        top = 0.0
        for name, line in lines.items():
            ax.text(0.05, top + 0.2, f"{name}: {len(rows[name])} tokens", weight="bold")
            _draw_boxes(ax, line, top + 0.34)
            top += 0.34 + 0.56 * len(line)
        return figure

    def _update(self, _: Any = None) -> None:
        try:
            self.tokens = cut(self.encoders[self.kind.value], self.text.value)
        except ValueError as error:
            self.tokens = []
            self.boxes.value = ""
            self.readout.value = f"<p aria-live='polite'>{html.escape(str(error))}</p>"
            return
        boxes = [_box(i, token, n) for n, (i, token) in enumerate(self.tokens[:MOST_BOXES])]
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


def visible(token: bytes) -> str:
    r"""Write a token so that each part of it can be seen.

    A space is ␣, a line end ⏎, a tab ⇥; bytes that are no whole character, and characters that
    can't be seen, are written as escapes.

    Example:
        >>> print(visible(b" caf\xc3\xa9\n"), visible(b"\xf0\x9f"))
        ␣café⏎ \xf0\x9f
    """
    marks = {" ": "␣", "\n": "⏎", "\t": "⇥"}
    shown = ""
    for character in token.decode("utf-8", "backslashreplace"):
        if character in marks:
            shown += marks[character]
        elif not character.isprintable():
            shown += character.encode("unicode_escape").decode()
        elif unicodedata.combining(character) and not shown:
            shown += f"◌{character}"
        else:
            shown += character
    return shown


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _box(i: int, token: bytes, n: int) -> str:
    tint = TINTS[n % len(TINTS)]
    small = "font-size: 11px; color: #333"
    return (
        f"<span style='display: inline-block; text-align: center; background: {tint}; color: #000; "
        "border: 1px solid #777; border-radius: 4px; margin: 2px; padding: 1px 5px; "
        f"font-family: monospace; max-width: 95%; overflow-wrap: anywhere' title='token {n}'>"
        f"<b style='font-size: 15px; white-space: pre-wrap'>{html.escape(visible(token))}</b><br>"
        f"<span style='{small}'>{i}</span><br><span style='{small}'>{token.hex(' ')}</span></span>"
    )


_WIDTH, _LETTER, _GAP = 8.6, 0.088, 0.06
"""Of the picture, in inches: its width, a letter's width at 10 points, space between boxes."""


def _lines(row: list[tuple[int, str]]) -> list[list[tuple[float, float, int, str]]]:
    """Place boxes in lines: (x, width, id, text), in inches."""
    lines: list[list[tuple[float, float, int, str]]] = [[]]
    x = 0.05
    for i, token in row:
        shown = _drawable(token)
        width = _LETTER * max(len(shown), len(str(i))) + 0.1
        if x + width > _WIDTH - 0.05 and lines[-1]:
            lines.append([])
            x = 0.05
        lines[-1].append((x, width, i, shown))
        x += width + _GAP
    return lines


def _drawable(token: str) -> str:
    """Write characters that the picture's font lacks as their code points."""
    path = font_manager.findfont("DejaVu Sans Mono")
    known = font_manager.get_font(path).get_charmap()
    return "".join(c if ord(c) in known else f"U+{ord(c):X}" for c in token)


def _draw_boxes(ax: Any, lines: list[list[tuple[float, float, int, str]]], top: float) -> None:
    n = 0
    for line in lines:
        for x, width, i, token in line:
            tint = TINTS[n % len(TINTS)]
            box = FancyBboxPatch(
                (x, top), width, 0.46, "round,pad=0,rounding_size=0.05", fc=tint, ec="0.45"
            )
            ax.add_patch(box)
            kind: dict[str, Any] = {"ha": "center", "va": "center", "family": "DejaVu Sans Mono"}
            ax.text(x + width / 2, top + 0.14, token, fontsize=10, parse_math=False, **kind)
            ax.text(x + width / 2, top + 0.34, str(i), fontsize=9, color="0.2", **kind)
            n += 1
        top += 0.56
