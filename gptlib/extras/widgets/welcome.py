"""A first widget: guess the next word."""

import html

import ipywidgets as widgets


class NextWord(widgets.VBox):
    """Uncover a sentence word by word, as a language model reads it."""

    def __init__(self, text: str) -> None:
        self.words = text.split()
        if len(self.words) < 2:
            raise ValueError(f"{text!r} has no next word to guess; pass at least two words")
        self.known = widgets.IntSlider(
            value=1, min=1, max=len(self.words) - 1, description="words read"
        )
        self.reveal = widgets.Checkbox(value=False, description="show the next word")
        self.line = widgets.HTML()
        self.known.observe(self._hide, "value")
        self.reveal.observe(self._draw, "value")
        self._draw()
        super().__init__([self.known, self.reveal, self.line])

    def __repr__(self) -> str:
        return "NextWord: uncover a sentence word by word"

    @property
    def context(self) -> list[str]:
        """The words read so far."""
        return self.words[: self.known.value]

    @property
    def target(self) -> str:
        """The word to guess."""
        return self.words[self.known.value]

    def _hide(self, _: object) -> None:
        self.reveal.value = False
        self._draw()

    def _draw(self, _: object = None) -> None:
        shown = html.escape(self.target) if self.reveal.value else "?"
        self.line.value = (
            f'<p class="next-word" style="font-size: 1.2em">{html.escape(" ".join(self.context))} '
            f"<b>{shown}</b></p>"
        )
