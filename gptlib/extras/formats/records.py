"""Files of records: labelled texts, and instructions with their answers."""

import json
from collections.abc import Iterable, Sequence

from gptlib.classification import LabeledText
from gptlib.extras.terminal import read_text

__all__ = ["read_instructions", "read_records"]


def read_records(
    lines: Iterable[str], labels: Sequence[str] | None = None, skip_broken: bool = False
) -> tuple[list[LabeledText], dict[int, str]]:
    r"""Read lines of the form label, tab, text, and account for every line that is not one.

    Args:
        lines: The lines of a file, with or without their line ends.
        labels: The labels that may occur; None allows any.
        skip_broken: False refuses a file with a broken line; True leaves such lines out.

    Returns:
        The records in the file's order, and for each line left out its number, counted from 1,
        and what is wrong with it. Lines of white space alone are neither.

    Raises:
        ValueError: If a line is broken and `skip_broken` is False, no record is left, or `lines`
            or `labels` is one string, whose letters would be taken for them.

    Example:
        >>> read_records(["ham\tHi there", "oops", "spam\t "], skip_broken=True)
        ([('ham', 'Hi there')], {2: 'no tab between label and text', 3: 'the text is empty'})
    """
    if isinstance(lines, str) or isinstance(labels, str):
        raise ValueError("lines or labels is one string; pass an open file, and a list of labels")
    records: list[LabeledText] = []
    broken: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        label, tab, text = line.strip("\r\n").partition("\t")
        if not line.strip():
            continue
        if not tab:
            broken[number] = "no tab between label and text"
        elif not label.strip():
            broken[number] = "the label is empty"
        elif labels is not None and label not in labels:
            broken[number] = f"the label {label[:40]!r} is none of {', '.join(labels)}"
        elif not text.strip():
            broken[number] = "the text is empty"
        else:
            records.append((label, text))
    if broken and not skip_broken:
        listed = [f"line {number}: {reason}" for number, reason in broken.items()]
        more = ["..."] if len(listed) > 3 else []
        raise ValueError(
            f"broken lines: {len(broken)} ({'; '.join(listed[:3] + more)}); repair them, or pass "
            "skip_broken=True"
        )
    if not records:
        raise ValueError("no line holds a record; a record is a label, a tab and a text")
    return records, broken


def read_instructions(file: str) -> list[dict[str, str]]:
    """Read instructions with their answers: a JSON list, or JSON lines.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is neither, or holds no record.
    """
    text = read_text(file).strip()
    try:
        is_list = text.startswith("[")
        records = json.loads(text) if is_list else [json.loads(x) for x in text.splitlines() if x]
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); fix it, or write JSON lines") from error
    if not records or not all(isinstance(record, dict) for record in records):
        raise ValueError(f'{file} holds no records; one is {{"instruction": ..., "output": ...}}')
    return list(records)
