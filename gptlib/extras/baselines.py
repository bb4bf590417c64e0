"""What a network has to beat: classifiers that need none."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from gptlib.classification import LabeledText, normalize


class NaiveBayes:
    """Classify by counting words, as if each word were drawn by itself ("naive").

    The probability of a label is proportional to how common it is, times the product of the
    probabilities of the text's words in texts of that label. Words never seen say nothing.

    Args:
        records: What to count in.
        smoothing: Added to every count, so that no word is impossible.

    Attributes:
        labels: The labels, sorted.
        vocabulary: For each word of the records its column in `word_scores`.
        word_scores: ln p(word | label), shape (n_labels, n_words).
        label_scores: ln p(label), shape (n_labels,).

    Raises:
        ValueError: If the records have one class only, or `smoothing` is not above 0.

    Source:
        Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval", section 13.2.

    Example:
        >>> bayes = NaiveBayes([("ham", "see you"), ("spam", "win now"), ("spam", "win more")])
        >>> bayes.labels
        ['ham', 'spam']
        >>> [round(p, 2) for p in bayes.predict_probabilities(["you win"])[0].tolist()]
        [0.36, 0.64]
    """

    def __init__(self, records: Sequence[LabeledText], smoothing: float = 1.0) -> None:
        if not 0 < smoothing < math.inf:
            raise ValueError(f"smoothing is {smoothing}; it must be above 0")
        texts = Counter(label for label, _ in records)
        self.labels = sorted(texts)
        if len(self.labels) < 2:
            raise ValueError(f"the records have the labels {self.labels}; give at least two")
        words = {label: Counter[str]() for label in self.labels}
        for label, text in records:
            words[label].update(normalize(text).split())
        self.vocabulary = {word: i for i, word in enumerate(sorted(set().union(*words.values())))}
        counts = torch.tensor(
            [[words[label][word] for word in self.vocabulary] for label in self.labels]
        )
        smoothed = counts.double() + smoothing  # (n_labels, n_words)
        self.word_scores = (smoothed / smoothed.sum(dim=1, keepdim=True)).log()
        shares = torch.tensor([texts[label] for label in self.labels]).double() / len(records)
        self.label_scores = shares.log()  # (n_labels,)

    def predict_probabilities(self, texts: Sequence[str]) -> Tensor:
        """Return how probable each label is for each text, shape (n, n_labels)."""
        if isinstance(texts, str):
            raise ValueError(f"texts is one string, {texts[:40]!r}; put it into a list")
        rows = []
        for text in texts:
            words = normalize(text).split()
            known = [self.vocabulary[word] for word in words if word in self.vocabulary]
            # Logarithms, because the product of many small numbers would be 0.
            rows.append(self.label_scores + self.word_scores[:, known].sum(dim=1))
        return torch.stack(rows).softmax(dim=-1) if rows else torch.zeros(0, len(self.labels))
