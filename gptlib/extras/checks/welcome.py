"""Check the task of the welcome page."""

from contextlib import suppress
from typing import Any

from gptlib.extras.checks.answers import Answer, Wrong, run, task


@task
def next_words(answer: Answer) -> str:
    """Check that a function pairs each beginning of a list of words with the word after it."""
    words = ["so", "it", "goes"]
    given = list(words)
    returned = run(answer, given)
    if given != words:
        raise Wrong("Not yet: your function changes the list of words; slice it instead.")
    found = _pairs(returned)
    if len({id(beginning) for beginning, _ in found}) < len(found):
        raise Wrong("Not yet: all your beginnings are one list, changed later; copy it.")
    right = [(["so"], "it"), (["so", "it"], "goes")]
    pairs = [(list(beginning), word) for beginning, word in found]
    inside = all(beginning[-1:] == [word] for beginning, word in pairs)
    causes = {
        "there is nothing to read before the first word; begin with one word": ([], "so"),
        "your beginning contains its own answer; after ['so'] comes 'it'": (
            pairs[0] if pairs and inside else (["so"], "so")
        ),
        "after the last word there is nothing left to guess": (words, pairs[-1][1] if pairs else 0),
        "'goes' is missing; the last beginning is all words but one": None,
    }
    for cause, pair in causes.items():
        if pair in pairs or (pair is None and pairs == right[:1]):
            raise Wrong(f"Not yet: {cause}.")
    if pairs != right:
        raise Wrong(f"Not yet: next_words({words}) is {right}, not {pairs}.")
    if not isinstance(returned, list | tuple):
        kind = type(returned).__name__
        raise Wrong(f"Not yet: the right pairs, but in a {kind}; list(...) makes a list of it.")
    words = ["so", "it", "is", "so", "it"]
    pairs = [(list(beginning), word) for beginning, word in _pairs(run(answer, list(words)))]
    first, last = {"so": 0, "it": 1, "is": 2}, {"is": 2, "so": 3, "it": 4}
    if pairs in [[(words[: at[word]], word) for word in words[1:]] for at in (first, last)]:
        raise Wrong(
            f"Not yet: a word that comes twice in {words} gets the same beginning both times; go "
            "through the places, not the words."
        )
    if pairs != [(words[:n], words[n]) for n in range(1, 5)]:
        raise Wrong(f"Not yet: right for three words, but next_words({words}) is not {pairs}.")
    return "Correct: 3 words give 2 pairs, and each answer is the word after its beginning."


def _pairs(found: Any) -> list[tuple[Any, Any]]:
    """Read pairs of a beginning and a word."""
    with suppress(TypeError, ValueError):
        pairs = [(beginning, word) for beginning, word in found]
        if all(isinstance(beginning, list | tuple) for beginning, _ in pairs):
            return pairs
    raise Wrong(f"Not yet: return a list of pairs (words, word), not {found!r}.")
