"""The first widget: let the model that travels with the course write, token by token."""

import html

import ipywidgets as widgets
import torch
from torch import Tensor

from gptlib.gpt2 import GPT
from gptlib.tokenizer import Tokenizer

N_BARS = 8
"""How many of the likeliest next tokens are shown."""


class NextToken(widgets.VBox):
    """Show what may come next after a text, and append what is drawn.

    Args:
        model: In evaluation mode.
        tokenizer: Its own.
        text: What the text begins with; it can be changed in its box.
        seed: Fixes what is drawn.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, text: str, seed: int = 0) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.generator = torch.Generator().manual_seed(seed)
        self.tokens: list[int] = []
        wide = widgets.Layout(width="98%")
        self.text = widgets.Textarea(text, description="text", rows=4, layout=wide)
        self.temperature = widgets.FloatSlider(
            0.8, min=0, max=1.5, step=0.1, description="temperature", readout_format=".1f"
        )
        self.one = widgets.Button(description="One token")
        self.many = widgets.Button(description="Twenty tokens", button_style="primary")
        self.bars = widgets.HTML()
        self.one.on_click(lambda _: self.write(1))
        self.many.on_click(lambda _: self.write(20))
        for control in (self.text, self.temperature):
            control.observe(self._draw, "value")
        self._draw()
        buttons = widgets.HBox([self.temperature, self.one, self.many])
        super().__init__([self.text, buttons, self.bars])

    def __repr__(self) -> str:
        return "NextToken: type a beginning, move the temperature, and let the model go on"

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """Compute how likely each token is to come next, shape (V,)."""
        tokens = self.tokens or self.tokenizer.encode_ordinary("\n")  # an empty text is a new page
        logits = self.model(torch.tensor([tokens[-self.model.config.context_length :]]))[0, -1]
        if not self.temperature.value:
            return (logits == logits.max()).float()
        return (logits / self.temperature.value).softmax(dim=-1)

    def write(self, n_tokens: int) -> None:
        """Draw tokens one after the other, and append them to the text."""
        for _ in range(n_tokens):
            token = torch.multinomial(self.probabilities(), 1, generator=self.generator).item()
            self.tokens.append(int(token))
            self.text.value = self.tokenizer.decode(self.tokens)

    def _draw(self, _: object = None) -> None:
        if self.text.value != self.tokenizer.decode(self.tokens):  # typed, not written
            self.tokens = self.tokenizer.encode_ordinary(self.text.value)
        top = self.probabilities().topk(N_BARS)
        rows = []
        for p, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            piece = html.escape(self.tokenizer.decode([token]).replace("\n", "↵"))
            bar = f'<div style="background: #0072B2; height: 0.8em; width: {12 * p:.2f}em"></div>'
            rows.append(
                f'<tr><td style="white-space: pre; text-align: right"><code>{piece}</code></td>'
                f"<td>{p:.0%}</td><td>{bar}</td></tr>"
            )
        self.bars.value = f'<table class="next-tokens" aria-live="polite">{"".join(rows)}</table>'
