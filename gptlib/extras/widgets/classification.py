"""The widget of chapter 8: which word makes a text what the classifier says it is."""

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from gptlib.classification import (
    LabeledText,
    TextClassifier,
    encode_texts,
    leave_one_out,
    length_batches,
    pad_batch,
    predict_probabilities,
)
from gptlib.extras.plots import COLORS, png, style

FOR, AGAINST = COLORS[1], COLORS[0]
"""Vermilion speaks for the label, blue against it: told apart by all readers."""


@torch.no_grad()
def text_vectors(classifier: TextClassifier, texts: Sequence[str]) -> Tensor:
    """Return what the head sees of each text, scaled to length 1, shape (n, C).

    The product of two such vectors is the cosine of the angle between them. The classifier is put
    into evaluation mode.
    """
    classifier.eval()
    rows, _ = encode_texts(classifier, texts)
    vectors = classifier.head.weight.new_zeros(len(rows), classifier.head.in_features)
    for batch in length_batches([len(row) for row in rows], 32):
        tokens, last = pad_batch([rows[i] for i in batch])
        vectors[batch] = classifier.pool(classifier.run_stages(tokens), last)
    return F.normalize(vectors, dim=-1).cpu()


class MessageLens(widgets.VBox):
    """Type or pick a message; see what each word does, and which messages are like it.

    Results: `result`, a dictionary with "probability", "label" (the most probable one), "words"
    (pairs of word and what leaving it out takes away), "prefixes" (the probability if the text
    ended after each word), "nearest" (triples of cosine, label and text) and "cut" (tokens not
    read); empty while there is a problem, which `problem` then names.

    Args:
        classifier: In evaluation mode afterwards.
        examples: Messages to pick from, at least one.
        known: Records to look for the nearest ones in; they are read once, now.
    """

    def __init__(
        self,
        classifier: TextClassifier,
        examples: Sequence[str],
        known: Sequence[LabeledText] = (),
    ) -> None:
        if not examples:
            raise ValueError("there is no example; give at least one message to begin with")
        self.classifier, self.known = classifier, list(known)
        self._vectors = text_vectors(classifier, [text for _, text in self.known])
        self.result: dict[str, Any] = {}
        self.problem = ""
        words = {"description_width": "110px"}
        looks: Any = {"layout": {"width": "96%"}, "style": words}
        options = [(_short(text, 70), text) for text in examples]
        self.pick = widgets.Dropdown(options=options, description="Pick", **looks)
        self.message = widgets.Textarea(
            examples[0], description="or type", continuous_update=False, rows=3, **looks
        )
        self.label = widgets.Dropdown(
            options=classifier.labels,
            value=classifier.labels[-1],
            description="Probability of",
            style=words,
        )
        self.readout = widgets.HTML()
        self.colored = widgets.HTML()
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.nearest = widgets.HTML()
        parts = [self.pick, self.message, self.label, self.readout, self.colored]
        super().__init__([*parts, self.image, self.nearest])
        self._judge()
        if self.problem:
            raise ValueError(self.problem)
        self.pick.observe(self._picked, names="value")
        self.message.observe(self._typed, names="value")
        self.label.observe(lambda _: self._judge(), names="value")

    def __repr__(self) -> str:
        return "MessageLens: type or pick a message, see what each word does to its probability"

    def picture(self) -> Figure:
        """Draw what each word does, and the probability as it moves with each word."""
        style()
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 4.6), sharex=True)
        words, label = self.result.get("words", []), self.label.value
        changes = [change for _, change in words]
        places = range(1, len(words) + 1)
        top.bar(places, changes, color=[FOR if change > 0 else AGAINST for change in changes])
        top.axhline(0, color="k", linewidth=0.8)
        most = max([0.05, *map(abs, changes)])
        top.set_ylim(-1.1 * most, 1.1 * most)  # so that small changes look small
        top.set(ylabel="lost without it", title=f"What each word does for “{label}”")
        bottom.plot(places, self.result.get("prefixes", []), "o-", color="k", markersize=3)
        bottom.axhline(0.5, color="#555", linestyle="--", linewidth=1)
        bottom.set(ylim=(-0.03, 1.03), ylabel=f"probability of {label}")
        bottom.set(title="If the text ended here")
        size = 9 if len(words) <= 40 else 7
        shown = [_short(word.strip(), 16).replace("$", r"\$") for word, _ in words]
        bottom.set_xticks(places, labels=shown, rotation=90, fontsize=size)
        return figure

    def _picked(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            self.message.value = change["new"]

    def _typed(self, change: dict[str, Any]) -> None:
        if change["new"] != self.pick.value:
            self.pick.value = None  # so that the same example can be picked again
        self._judge()

    def _judge(self) -> None:
        text, label = self.message.value, self.label.value
        try:
            changes = leave_one_out(self.classifier, text, label)
        except ValueError as error:
            self.problem, self.result = str(error), {}
            self.readout.value = f"<p role='alert'>{html.escape(self.problem)}</p>"
            self.colored.value = self.nearest.value = ""
            self.image.value = png(self.picture())
            return
        words = [word for word, _ in changes]
        prefixes = ["".join(words[:n]).strip() for n in range(1, len(words))]
        probabilities = predict_probabilities(self.classifier, [*prefixes, text])  # (n, n_labels)
        said = probabilities[:, self.classifier.labels.index(label)].tolist()
        read, limit = self.classifier.tokenizer.encode_ordinary(text), self.classifier.max_tokens
        self.problem = ""
        self.result = {
            "probability": said[-1],
            "label": self.classifier.labels[int(probabilities[-1].argmax())],
            "words": changes,
            "prefixes": said,
            "nearest": self._find_nearest(text),
            "cut": max(0, len(read) - (limit or len(read))),
        }
        self.readout.value = f"<p aria-live='polite'>{html.escape(self.sentence)}</p>"
        self.colored.value = _paragraph(changes)
        self.nearest.value = _table(self.result["nearest"])
        self.image.value = png(self.picture())

    def _find_nearest(self, text: str) -> list[tuple[float, str, str]]:
        if not self.known:
            return []
        cosines = self._vectors @ text_vectors(self.classifier, [text])[0]
        values, places = cosines.topk(min(3, len(self.known)))
        found = [self.known[place] for place in places.tolist()]
        return [(v, *record) for v, record in zip(values.tolist(), found, strict=True)]

    @property
    def sentence(self) -> str:
        """What the picture shows, in words."""
        if self.problem:
            return self.problem
        label = self.label.value
        words = [
            f"This reads as {self.result['label']}: the probability of {label} is "
            f"{self.result['probability']:.3f}."
        ]
        order = sorted(self.result["words"], key=lambda pair: pair[1])
        for name, pairs in (("for", order[::-1]), ("against", order)):
            sign = 1 if name == "for" else -1
            told = [f"“{p.strip()}” ({c:+.3f})" for p, c in pairs[:3] if sign * c > 0.0005]
            if told:
                words.append(f"Most {name} {label}: {', '.join(told)}.")
        if self.result["cut"]:
            words.append(f"The last {self.result['cut']} tokens are not read.")
        return " ".join(words)


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _paragraph(words: Sequence[tuple[str, float]]) -> str:
    """Write the text in colours: the stronger a word, the fuller its colour; its figure in it."""
    most = max(0.02, *(abs(change) for _, change in words))
    spans = []
    for word, change in words:
        color, line = (FOR, "solid") if change > 0 else (AGAINST, "dotted")
        strength = round(85 * abs(change) / most)  # percent; the ink stays readable
        shade = f"color-mix(in srgb, {color} {strength // 2}%, transparent)"
        border = f"border-bottom:3px {line} {color if strength > 5 else 'transparent'}"
        shown = html.escape(word).replace("\n", "↵<br>")
        spans.append(
            f"<span title='{change:+.3f}' style='background:{shade};{border}'>{shown}</span>"
        )
    key = "orange, solid line: speaks for it; blue, dotted line: against it; fuller means more"
    text = "".join(spans)
    return f"<div style='line-height:1.9;white-space:pre-wrap'>{text}</div><small>{key}</small>"


def _table(nearest: Sequence[tuple[float, str, str]]) -> str:
    if not nearest:
        return ""
    rows = "".join(
        f"<tr><td>{cosine:.2f}</td><td>{html.escape(label)}</td>"
        f"<td style='text-align:left'>{html.escape(_short(text, 140))}</td></tr>"
        for cosine, label, text in nearest
    )
    head = "<tr><th scope='col'>cosine</th><th scope='col'>label</th><th scope='col'>text</th></tr>"
    return f"<table><caption>Nearest known messages</caption>{head}{rows}</table>"
