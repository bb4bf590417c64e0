"""Figures of the chapter on the tokenizer: boxes are tokens, brackets are characters."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from gptlib.extras.figures import Picture, canvas, plain
from gptlib.extras.plots import COLORS

TINTS = ["#BFDDF0", "#F9D3A8", "#B8E3D3", "#F0CFE2", "#F4EFA0"]
"""Light versions of five colours of Okabe and Ito; black text stands on each with ease."""

WIDTH, LETTER, GAP = 9.0, 0.088, 0.06
"""In inches: a figure, a letter at 10 points, and the space between two boxes."""


def visible(token: bytes) -> str:
    r"""Write a token so that each part of it can be seen.

    A space is ·, a line end ⏎, a tab ⇥; bytes that are no whole character, and characters that
    can't be seen, are written as escapes.

    Example:
        >>> print(visible(b" caf\xc3\xa9\n"), visible(b"\xf0\x9f"))
        ·café⏎ \xf0\x9f
    """
    marks = {" ": "·", "\n": "⏎", "\t": "⇥"}
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


def character_ends(tokens: Sequence[bytes]) -> list[list[tuple[bool, bool]]]:
    r"""Say of each byte of each token whether a character begins with it, and whether one ends.

    Example:
        >>> character_ends([b"a\xc3", b"\xa9"])
        [[(True, True), (True, False)], [(False, True)]]
    """
    begins = [byte & 0xC0 != 0x80 for byte in b"".join(tokens)]
    pairs = iter(zip(begins, [*begins[1:], True], strict=True))
    return [[next(pairs) for _ in token] for token in tokens]


def token_boxes(
    rows: Mapping[str, Sequence[tuple[int, bytes]]], caption: str, *, show_bytes: bool = False
) -> Picture:
    """Draw a text once for each way to cut it: a box for each token, with its id.

    Args:
        rows: For each title the tokens, pairs of id and bytes.
        caption: What to look at.
        show_bytes: Write the bytes too, with a bracket below those of one character.
    """
    depth = 0.7 if show_bytes else 0.46
    lines = {title: _lines(row, show_bytes) for title, row in rows.items()}
    height = sum(0.4 + (depth + 0.1) * len(line) for line in lines.values())
    figure, ax = canvas(WIDTH, height)
    plain(ax, WIDTH, height)
    top = 0.0
    for title, row in lines.items():
        ax.text(0.02, top + 0.18, f"{title}: {len(rows[title])}", weight="bold", va="center")
        top += 0.36
        for line in row:
            for n, x, width, token, ends in line:
                _box(ax, (x, top), width, depth, n, token, ends)
            top += depth + 0.1
        top += 0.04
    cuts = "; ".join(
        f"{title}, {len(row)}: {' '.join(visible(token) for _, token in row)}"
        for title, row in rows.items()
    )
    brackets = " Brackets join the bytes of one character." if show_bytes else ""
    return Picture(figure, f"A text cut into pieces, each with its id. {cuts}.{brackets}", caption)


_Placed = tuple[int, float, float, tuple[int, bytes], list[tuple[bool, bool]]]


def _lines(row: Sequence[tuple[int, bytes]], show_bytes: bool) -> list[list[_Placed]]:
    """Place boxes in lines: number, x, width, token, and where its characters begin and end."""
    lines: list[list[_Placed]] = [[]]
    x = 0.02
    ends = character_ends([token for _, token in row])
    for n, (i, token) in enumerate(row):
        letters = max(len(_drawable(visible(token))), len(str(i)))
        width = LETTER * max(letters, 3 * len(token) - 1 if show_bytes else 0) + 0.12
        if x + width > WIDTH and lines[-1]:
            lines.append([])
            x = 0.02
        lines[-1].append((n, x, width, (i, token), ends[n] if show_bytes else []))
        x += width + GAP
    return lines


def _box(
    ax: Axes,
    at: tuple[float, float],
    width: float,
    depth: float,
    n: int,
    token: tuple[int, bytes],
    ends: list[tuple[bool, bool]],
) -> None:
    x, top = at
    style: dict[str, Any] = {"ha": "center", "va": "center", "family": "DejaVu Sans Mono"}
    shape = "round,pad=0,rounding_size=0.05"
    ax.add_patch(FancyBboxPatch(at, width, depth, shape, fc=TINTS[n % len(TINTS)], ec="0.45"))
    middle, shown = x + width / 2, _drawable(visible(token[1]))
    ax.text(middle, top + 0.14, shown, size=10, parse_math=False, **style)
    ax.text(middle, top + 0.34, str(token[0]), size=9, color="0.2", **style)
    left = middle - LETTER * (3 * len(ends) - 1) / 2
    for byte, (begins, stops) in zip(token[1], ends, strict=False):
        right = left + 2 * LETTER
        ax.text(left + LETTER, top + 0.53, f"{byte:02x}", size=9, color="0.2", **style)
        # A bracket that is open goes on in the byte, or in the box, beside it.
        near = (left, left - LETTER / 2 - GAP)[not begins], (right, right + LETTER / 2)[not stops]
        ax.plot(near, [top + 0.65] * 2, color="0.2", lw=1)
        for edge in [near[0]] * begins + [near[1]] * stops:
            ax.plot([edge, edge], [top + 0.6, top + 0.65], color="0.2", lw=1)
        left = right + LETTER


def _drawable(text: str) -> str:
    """Write characters that the figure's font lacks as their code points."""
    path = font_manager.findfont("DejaVu Sans Mono")
    known = font_manager.get_font(path).get_charmap()
    return "".join(c if ord(c) in known else f"U+{ord(c):X}" for c in text)


def bytes_of(text: str) -> Picture:
    """Draw the bytes of a text, and a bracket over those of one character."""
    data = text.encode()
    figure, ax = canvas(WIDTH, 1.3)
    plain(ax, len(data) + 0.2, 2.2)
    x = 0.1
    for character in text:
        size = len(character.encode())
        color = "0.93" if size == 1 else TINTS[size - 2]
        for byte in character.encode():
            ax.add_patch(Rectangle((x, 1.2), 1, 0.8, fc=color, ec="white", lw=2))
            ax.text(x + 0.5, 1.6, str(byte), ha="center", va="center", size=10)
            x += 1
        left, right = x - size + 0.12, x - 0.12
        ax.plot([left, left, right, right], [1.1, 0.9, 0.9, 1.1], color="0.3", lw=1.2)
        name = _drawable(visible(character.encode()))
        ax.text((left + right) / 2, 0.5, name, ha="center", va="center", size=12)
    sizes = [f"{visible(c.encode())} {len(c.encode())}" for c in text if len(c.encode()) > 1]
    alt = (
        f"The {len(text)} characters of “{text}” over their {len(data)} bytes. More than one byte "
        f"have: {', '.join(sizes)}."
    )
    caption = "Each bracket is a character. Plain English letters have one byte."
    codes = {_drawable(c): c for c in text if _drawable(c) != c}
    caption += "".join(f" {code} is {character}." for code, character in codes.items())
    return Picture(figure, alt, caption)


def unknown_words(sizes: Sequence[int], shares: Sequence[float]) -> Picture:
    """Draw the share of words outside of the vocabulary by its size."""
    figure, ax = canvas(7.5, 3)
    ax.plot(sizes, [100 * share for share in shares], "o-")
    for place in (0, -1):
        near = (10, -2) if place == 0 else (-6, 8)
        ax.annotate(
            f"{100 * shares[place]:.0f} %",
            (sizes[place], 100 * shares[place]),
            near,
            textcoords="offset points",
        )
    ax.set(xlabel="words in the vocabulary", ylabel="unknown words, %", ylim=(0, None))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    alt = (
        f"Unknown words in the last tenth of the book fall from {100 * shares[0]:.0f} % with "
        f"{sizes[0]:,} words to {100 * shares[-1]:.0f} % with {sizes[-1]:,}, and never reach zero."
    )
    return Picture(figure, alt, "Each further thousand of words helps less than the one before.")


def merge_steps(steps: Mapping[str, Sequence[bytes]]) -> Picture:
    """Draw a short text as tokens after each merge, one row a step."""
    figure, ax = canvas(8, 0.6 * len(steps))
    for row, parts in enumerate(steps.values()):
        x = 0
        for part in parts:
            color = "0.93" if len(part) == 1 else COLORS[{2: 5, 3: 2}.get(len(part), 4)]
            ax.barh(row, len(part) - 0.08, left=x, height=0.72, color=color)
            ax.text(x + len(part) / 2 - 0.04, row, part.decode(), ha="center", va="center")
            x += len(part)
    labels = [f"{title}: {len(parts)}" for title, parts in steps.items()]
    ax.set_yticks(range(len(steps)), labels=labels)
    ax.invert_yaxis()
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    rows = "; ".join(f"{t}, {b' '.join(parts).decode()}" for t, parts in steps.items())
    alt = f"A text as tokens, one row after each merge, with the number of tokens. {rows}."
    return Picture(figure, alt, "Grey is a single byte. The text stays the same, its list shrinks.")


def compression(sizes: Sequence[int], rates: Sequence[float], other: tuple[int, float]) -> Picture:
    """Draw bytes per token by the size of the vocabulary, beside GPT-2's (size, rate)."""
    figure, ax = canvas(7.5, 3.3)
    ax.plot(sizes, rates, "o-")
    ax.plot(*other, "s", color=COLORS[1])
    ax.text(sizes[-1] * 0.8, rates[-1] + 0.15, "trained on this book", color=COLORS[0], ha="right")
    ax.text(other[0], other[1] - 0.4, "GPT-2's", color=COLORS[1], ha="right")
    ax.set(xscale="log", xlabel="vocabulary size, tokens", ylabel="bytes per token")
    ax.set_ylim(0.8, max(*rates, other[1]) + 0.6)
    ax.set_xticks(ticks := [256, 1024, 4096, 16384, 65536], labels=[f"{t:,}" for t in ticks])
    ax.minorticks_off()
    alt = (
        f"Bytes per token over the size of the vocabulary: {rates[0]:.2f} with {sizes[0]:,} "
        f"tokens, {rates[-1]:.2f} with {sizes[-1]:,}; GPT-2's {other[0]:,} give {other[1]:.2f}."
    )
    return Picture(figure, alt, "Each doubling of the vocabulary adds less than the one before.")


def scripts(counts: Mapping[str, Mapping[str, int]]) -> Picture:
    """Draw how many tokens one sentence costs, by language and tokenizer."""
    figure, ax = canvas(7.5, 0.55 * len(counts) + 0.9)
    names = list(next(iter(counts.values())))
    for shift, (name, color) in enumerate(zip(names, COLORS, strict=False)):
        places = [row + 0.38 * (shift - 0.5) for row in range(len(counts))]
        bars = ax.barh(places, [n[name] for n in counts.values()], 0.36, color=color, label=name)
        ax.bar_label(bars, padding=3)
    ax.set_yticks(range(len(counts)), labels=list(counts))
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("tokens for the same sentence")
    ax.legend(loc="upper right")
    rows = [
        f"{language} {', '.join(f'{name} {n[name]}' for name in names)}"
        for language, n in counts.items()
    ]
    alt = f"Bars: how many tokens one sentence costs. {'; '.join(rows)}."
    return Picture(figure, alt, "The sentence says the same in each language.")
