"""Compare the classifier of chapter 8 with naive Bayes and the majority class, over seeds.

    python tests/benchmarks/classification.py                 the shipped model, five seeds
    python tests/benchmarks/classification.py --seeds 10 --model gpt2
    python tests/benchmarks/classification.py --bfloat16      half the time, where the CPU has it

Each seed splits the deduplicated messages anew into training, validation and test part, and all
classifiers see the same split. A row gives the mean over the seeds and its 95 % confidence interval
by Student's t. The last column but one is the difference from naive Bayes seed by seed, which is
far surer than the two means apart, since a hard split is hard for both. Seconds are CPU time.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from gptlib.classification import (
    Confusion,
    FineTuning,
    LabeledText,
    Pooling,
    TextClassifier,
    confusion,
    fit,
    predict_probabilities,
    remove_duplicates,
    split_records,
)
from gptlib.extras.baselines import NaiveBayes
from gptlib.extras.datasets import DATA_SETS, is_real, sms_spam
from gptlib.extras.device import best_device
from gptlib.extras.models import load_model
from gptlib.gpt2 import GPT

STUDENT = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 14: 2.145, 19: 2.093}
"""Student's t for a two-sided interval of 95 %, by degrees of freedom."""

MAX_TOKENS = 128
HEAD = FineTuning(n_epochs=20, batch_size=32, head_learning_rate=3e-3, frozen="all", patience=4)
LAST_BLOCK = FineTuning(n_epochs=4, learning_rate=1e-3, head_learning_rate=3e-3)
ALL = FineTuning(n_epochs=2, learning_rate=3e-4, head_learning_rate=3e-3, frozen="nothing")
ROWS: dict[str, tuple[Pooling, FineTuning]] = {
    "last token, all frozen": ("last", HEAD),
    "mean, all frozen": ("mean", HEAD),
    "last token, last block learns": ("last", LAST_BLOCK),
    "mean, last block learns": ("mean", LAST_BLOCK),
    "last token, nothing frozen": ("last", ALL),
    "mean, nothing frozen": ("mean", ALL),
    "last token, random weights": ("last", ALL),
}
RANDOM = "last token, random weights"
"""The row whose model has read nothing: what is left of the others is the classifier's own."""

Parts = tuple[list[LabeledText], list[LabeledText], list[LabeledText]]


def is_spam(records: Sequence[LabeledText]) -> list[bool]:
    """Say which records are spam."""
    return [label == "spam" for label, _ in records]


def judge(answers: Sequence[bool], test: Sequence[LabeledText]) -> Confusion:
    """Count the outcomes on the test part."""
    return confusion(is_spam(test), answers)


def count_words(parts: Parts) -> Confusion:
    """Judge naive Bayes."""
    p = NaiveBayes(parts[0]).predict_probabilities([text for _, text in parts[2]])[:, 1]
    return judge((p >= 0.5).tolist(), parts[2])


def fine_tune(
    parts: Parts, model: str | None, row: str, seed: int, bfloat16: bool = False
) -> Confusion:
    """Judge a fresh copy of the model after `fit`."""
    pooling, plan = ROWS[row]
    plan = replace(plan, seed=seed)
    gpt, tokenizer = load_model(model)
    draw = torch.Generator().manual_seed(seed)
    if row == RANDOM:
        gpt = GPT(gpt.config, draw)
        with torch.no_grad():
            for parameter in gpt.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(math.sqrt(768 / gpt.config.n_embd))  # as the model was begun
    gpt.to(best_device())
    labels = ["ham", "spam"]
    classifier = TextClassifier(gpt, tokenizer, labels, MAX_TOKENS, pooling, draw)
    with torch.autocast(best_device().type, torch.bfloat16, enabled=bfloat16):
        for _ in fit(classifier, parts[0], parts[1], plan):
            pass
    p = predict_probabilities(classifier, [text for _, text in parts[2]])[:, 1]
    return judge((p >= 0.5).tolist(), parts[2])


def interval(values: Sequence[float]) -> str:
    """Write the mean and half the width of its 95 % interval."""
    t = STUDENT.get(len(values) - 1, 1.96)
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.3f} ± {half:.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default=None)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("an interval needs at least 2 seeds")
    records = remove_duplicates(sms_spam())
    source = DATA_SETS["sms-spam"].title if is_real("sms-spam") else "messages of our own"
    print(f"{source}: {len(records):,} messages without copies")
    runs: dict[str, Callable[[Parts, int], Confusion]] = {
        "majority class": lambda parts, seed: judge([False] * len(parts[2]), parts[2]),
        "naive Bayes": lambda parts, seed: count_words(parts),
    }
    for name in arguments.rows:
        runs[name] = lambda parts, seed, name=name: fine_tune(  # type: ignore[misc]
            parts, arguments.model, name, seed, arguments.bfloat16
        )
    found: dict[str, list[Confusion]] = {name: [] for name in runs}
    seconds = dict.fromkeys(runs, 0.0)
    for seed in range(arguments.seeds):
        parts = split_records(records, seed=seed)
        for name, run in runs.items():
            begin = time.process_time()
            found[name].append(run(parts, seed))
            seconds[name] += time.process_time() - begin
            print(f"  seed {seed}, {name}: F1 {found[name][-1].f1:.3f}", flush=True)
    print(f"{'':<30}  F1               accuracy         F1 minus Bayes    CPU s a seed")
    bayes = [c.f1 for c in found["naive Bayes"]]
    for name, outcomes in found.items():
        difference = [c.f1 - b for c, b in zip(outcomes, bayes, strict=True)]
        f1 = interval([c.f1 for c in outcomes])
        accuracy = interval([c.accuracy for c in outcomes])
        print(
            f"{name:<30}  {f1}  {accuracy}  {interval(difference)}  "
            f"{seconds[name] / arguments.seeds:8.1f}"
        )


if __name__ == "__main__":
    main()
