"""Check the task of the welcome page."""

from gptlib.extras.checks.answers import Answer, Wrong, run, task


@task
def next_words(answer: Answer) -> str:
    """Check that a function pairs each beginning of a list of words with the word after it."""
    words = ["so", "it", "goes"]
    given = list(words)
    found = run(answer, given)
    if given != words:
        raise Wrong("Not yet: your function changes the list of words; slice it instead.")
    try:
        pairs = [(list(beginning), word) for beginning, word in found]
    except (TypeError, ValueError):
        raise Wrong(f"Not yet: return a list of pairs (words, word), not {found!r}.") from None
    right = [(["so"], "it"), (["so", "it"], "goes")]
    if pairs == right:
        return "Correct: 3 words give 2 pairs, and each answer is the word after its beginning."
    causes = {
        "there is nothing to read before the first word; begin with one word": ([], "so"),
        "after the last word there is nothing left to guess": (words, pairs[-1][1] if pairs else 0),
        "the answers are one word too early: after ['so'] comes 'it'": (["so"], "so"),
        "'goes' is missing; the last beginning is all words but one": None,
    }
    for cause, pair in causes.items():
        if pair in pairs or (pair is None and pairs == right[:1]):
            raise Wrong(f"Not yet: {cause}.")
    raise Wrong(f"Not yet: next_words({words}) gave {found}, expected {right}.")
