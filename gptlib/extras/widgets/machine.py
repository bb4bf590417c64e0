"""One sentence on its way through a model: follow a token, and check each number by hand.

Python computes what the model computes; `machine.js` draws it, in JupyterLab or in a page of its
own that needs no Python. `python -m gptlib.extras.widgets.machine FILE` writes that page.
"""

import base64
import json
import string
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor, nn

from gptlib.attention import attend, causal_mask
from gptlib.extras.figures import Picture
from gptlib.extras.models import SHIPPED, load_model
from gptlib.extras.widgets.attention import HERE, SHARED, evaluating
from gptlib.extras.widgets.generation_writer import spell
from gptlib.extras.widgets.machine_picture import draw_way
from gptlib.gpt2 import GPT
from gptlib.tokenizer import Tokenizer

SENTENCE = (
    "Pierre had been educated abroad, and this reception at Anna Pávlovna’s "
    "was the first he had attended in Russia."
)
"""From War and Peace; chapters 1 to 4 follow it."""
PARTS = {
    "tokenizer": ("tokens", 3),
    "embeddings": ("vectors", 1),
    "attention": ("attention", 19),
    "gpt2": ("stream", 12),
    "generation": ("next", 12),
}
"""For each chapter's module the stage that is open at the start, and the token of `SENTENCE` that
is followed: one half of "educated", a "had" that comes twice, "was", the "Anna" of Pávlovna."""
MOST = 32
"""Tokens that can still be told apart; a longer text is refused."""
N_CHANNELS, N_UNITS, N_NEXT = 48, 6, 10
"""Of each vector, MLP and prediction, so many numbers travel to the browser."""
STOPS = [stop / 10 for stop in range(1, 21)]
"""The temperatures above 0 that the slider can take."""


@dataclass(frozen=True)
class Trace:
    """Everything that a model computes from T tokens; on the CPU, in float32."""

    ids: list[int]
    token_vectors: Tensor
    """Rows of the tokens' table, (T, C)."""
    position_vectors: Tensor
    """Rows of the positions' table, (T, C)."""
    stream: Tensor
    """The residual stream at the start and after each half of a block, (2L + 1, T, C)."""
    q: Tensor
    """Queries, (L, H, T, D)."""
    k: Tensor
    """Keys, (L, H, T, D)."""
    weights: Tensor
    """Attention weights, (L, H, T, T); rows sum to 1."""
    hidden: Tensor
    """The MLPs' hidden units after the activation function, (L, T, 4C)."""
    lens: Tensor
    """The likeliest next token if the model ended at each state of the stream, (2L + 1, T)."""
    logits: Tensor
    """Scores of the next token, (T, V)."""


def follow_tokens(model: GPT, ids: list[int]) -> Trace:
    """Run a model on tokens, and keep what it computes on the way."""
    heads: list[tuple[Tensor, ...]] = []
    stream: list[Tensor] = []
    hidden: list[Tensor] = []

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed, weights = attend(q, k, v, causal_mask(q.size(-2), device=q.device))
        heads.append((q[0], k[0], weights[0]))
        return mixed

    def keep(kept: list[Tensor], _: Any, inputs: tuple[Tensor]) -> None:
        kept.append(inputs[0][0])

    # Each norm reads the stream itself, and the MLP's last layer reads its hidden units.
    norms = [norm for block in model.blocks for norm in (block.ln_1, block.ln_2)]
    readers: list[tuple[nn.Module, list[Tensor]]] = [(norm, stream) for norm in norms]
    readers.append((model.ln_f, stream))
    readers += [(block.mlp.proj, hidden) for block in model.blocks]
    hooks = [module.register_forward_pre_hook(partial(keep, kept)) for module, kept in readers]
    with evaluating(model) as device:
        tokens = torch.tensor(ids, device=device)
        try:
            logits = model.unembed(model.stream(tokens[None], [mix] * len(model.blocks)))[0]
        finally:
            for hook in hooks:
                hook.remove()
        q, k, weights = (torch.stack(parts).float().cpu() for parts in zip(*heads, strict=True))
        return Trace(
            ids,
            model.embed.token_embedding.weight[tokens].float().cpu(),
            model.embed.position_embedding.weight.detach()[: len(ids)].float().cpu(),
            torch.stack(stream).float().cpu(),
            *(q, k, weights),
            torch.stack(hidden).float().cpu(),
            torch.stack([model.unembed(x).argmax(-1) for x in stream]).cpu(),
            logits.float().cpu(),
        )


def pack(trace: Trace, tokenizer: Tokenizer) -> tuple[bytes, dict[str, Any]]:
    """Choose what the browser needs: numbers as float16, one after the other, and facts as JSON.

    The weights stay here: the script computes them anew from q and k. Logits are sent less the
    largest; sums over all V of them, which it needs for a softmax, for each temperature.
    """

    def spelled(ids: Tensor) -> list[list[str]]:
        return [[spell_token(tokenizer, i) for i in row] for row in ids.tolist()]

    following = torch.tensor(trace.ids[1:])
    best = trace.logits.topk(min(N_NEXT, trace.logits.size(1)))
    low = trace.logits - best.values[:, :1]  # (T, V)
    goes_on = low[:-1].gather(1, following[:, None])  # (T - 1, 1)
    units = trace.hidden.topk(min(N_UNITS, trace.hidden.size(-1)))
    arrays = {
        "token": trace.token_vectors[:, :N_CHANNELS],
        "position": trace.position_vectors[:, :N_CHANNELS],
        "q": trace.q,
        "k": trace.k,
        "length": trace.stream.norm(dim=-1),
        "added": trace.stream.diff(dim=0).norm(dim=-1),
        "fired": units.values,
        "share": (trace.hidden > 0).float().mean(-1),
        "best": best.values[:, 0],
        "low": best.values - best.values[:, :1],
        "follows": torch.cat((goes_on[:, 0], torch.zeros(1))),
        "sums": torch.stack([(low / stop).logsumexp(-1) for stop in STOPS], dim=-1),
    }
    numbers = [array.clamp(-6e4, 6e4).half().numpy().astype("<f2") for array in arrays.values()]
    facts = {
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "ids": trace.ids,
        "labels": [spell_token(tokenizer, i) for i in trace.ids],
        "bytes": [tokenizer.decode_bytes([i]).hex(" ").upper() for i in trace.ids],
        "vocabulary": trace.logits.size(1),
        "width": trace.token_vectors.size(1),
        "hidden": trace.hidden.size(-1),
        "units": units.indices.tolist(),
        "lens": spelled(trace.lens),
        "next": spelled(best.indices),
        "ranks": ((low[:-1] > goes_on).sum(-1) + 1).tolist(),
    }
    return b"".join(array.tobytes() for array in numbers), facts


def spell_token(tokenizer: Tokenizer, token: int) -> str:
    """Spell a token so that blanks and parts of characters can be seen."""
    return spell(tokenizer.decode_bytes([token]))


PAGE = string.Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>A sentence through the machine</title>
<style>$css</style>
<body class="machine-page">
<h1>A sentence through the machine</h1>
<div id="machine"></div>
<noscript>This page draws with JavaScript, which is switched off.</noscript>
<script type="module">
$script
render({ model: frozen($state, "$data"), el: document.getElementById("machine") });
</script>
""")
"""The page without a kernel; its policy lets it load nothing from anywhere."""


class SentenceMachine(anywidget.AnyWidget):
    """See a sentence go through a model: tokens, vectors, attention, MLP, stream, next token.

    Traits that the browser and Python share: `text`; `stage`, one of `PARTS` or "mlp"; `follow`,
    the place of the followed token; `block` and `head`, all three counted from 0; `temperature`;
    and `problem`, why a text can't be shown. `trace` holds the numbers.

    Args:
        part: The stage to open, named after the module of its chapter.
        text: At most 32 tokens.
        model: Any that opens; the one of the course if None.
        tokenizer: Its own.

    Raises:
        ValueError: If the part is unknown, or the text is empty or too long.
    """

    _esm = SHARED + (HERE / "machine.js").read_text(encoding="utf-8")
    _css = (HERE / "machine.css").read_text(encoding="utf-8")
    text = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)
    stage = traitlets.Unicode().tag(sync=True)
    follow = traitlets.Int(0).tag(sync=True)
    block = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    temperature = traitlets.Float(1.0).tag(sync=True)
    facts = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)

    def __init__(
        self,
        part: str = "tokenizer",
        text: str = SENTENCE,
        model: GPT | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        if part not in PARTS:
            raise ValueError(f"part is {part!r}; choose one of {', '.join(PARTS)}")
        if (model is None) != (tokenizer is None):
            raise ValueError("pass a model together with its own tokenizer, or neither")
        stage, follow = PARTS[part]
        super().__init__(stage=stage)
        self.model, self.tokenizer = (model, tokenizer) if model and tokenizer else load_model()
        self._show(text)
        # The head that finds the subject of "was" in chapter 3, where there is such a head.
        n_layer, n_head, length, _ = self.trace.q.shape
        self.block, self.head = min(4, n_layer - 1), min(2, n_head - 1)
        self.follow = min(follow if text == SENTENCE else MOST, length - 1)
        self.observe(self._type, "text")

    def __repr__(self) -> str:
        return "SentenceMachine: type a sentence and follow a token through the model"

    def picture(self) -> Picture:
        """Draw the way of the followed token as a figure, with the open stage marked."""
        return draw_way(self)

    def export(self, path: str | Path) -> None:
        """Write the sentence and all that is shown of it as one HTML page that needs no Python."""
        names = ("text", "stage", "follow", "block", "head", "temperature", "facts")
        state = json.dumps({name: getattr(self, name) for name in names}, separators=(",", ":"))
        page = PAGE.substitute(
            css=self._css,
            script=self._esm,
            state=state.replace("<", r"\u003c"),  # no label may end the script
            data=base64.b64encode(self.data).decode(),
        )
        Path(path).write_text(page, encoding="utf-8")

    def _show(self, text: str) -> None:
        """Send a text's numbers to the browser; a ValueError says why that can't be."""
        ids = list(self.tokenizer.encode_ordinary(text))
        most = min(MOST, self.model.config.context_length)
        if not ids:
            raise ValueError("The text is empty. Type at least one word.")
        if len(ids) > most:
            raise ValueError(f"The text has {len(ids)} tokens, and {most} fit. Shorten it.")
        self.trace = follow_tokens(self.model, ids)
        data, facts = pack(self.trace, self.tokenizer)
        with self.hold_sync():
            self.data, self.facts, self.text, self.problem = data, facts, text, ""
            self.follow = len(ids) - 1

    def _type(self, _: object) -> None:
        try:
            self._show(self.text)
        except ValueError as error:
            self.problem = str(error)


if __name__ == "__main__":
    SentenceMachine("attention", SENTENCE, *load_model(SHIPPED)).export(sys.argv[1])
