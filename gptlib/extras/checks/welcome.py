"""Check the exercise of the welcome page."""

from collections.abc import Callable


def next_words(function: Callable[[list[str]], list[tuple[list[str], str]] | None]) -> None:
    """Check that a function pairs each beginning of a list of words with the word after it."""
    words = ["so", "it", "goes"]
    answer = function(words)
    expected = [(["so"], "it"), (["so", "it"], "goes")]
    if answer is None:
        print("Not done yet: next_words returns None. Return a list of pairs.")
    elif [tuple(pair) for pair in answer] == expected:
        print("Correct: 3 words give 2 pairs, and each answer is the word after its context.")
    elif len(answer) == len(words):
        print("One pair too many: after the last word there is nothing left to guess.")
    elif [pair[1] for pair in answer] == words[:-1]:
        print("The answers are one word too early: after ['so'] comes 'it'.")
    else:
        print(f"Not yet: next_words({words}) gave {answer}, expected {expected}.")
