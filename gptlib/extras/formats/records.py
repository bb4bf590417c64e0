"""Files of records in any usual form: messages with their classes, questions with their answers.

Python's `csv` and `json` take the files apart. What is decided here is which part is which, and
every line that is left out is accounted for.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gptlib.classification import LabeledText, normalize
from gptlib.extras.formats.text_files import read_whole

# What columns are called, in order of preference.
LABELS = ("label", "class", "category", "target", "v1", "sentiment", "type", "tag", "is_spam", "y")
TEXTS = ("text", "message", "sms", "v2", "content", "body",
         "review", "sentence", "tweet", "comment")  # fmt: skip
ASKED = ("instruction", "prompt", "question", "query", "input", "user", "human")
GIVEN = ("input", "context", "knowledge")
ANSWERED = ("output", "response", "completion", "answer", "answers",
            "chosen", "target", "assistant")  # fmt: skip
TALKS = ("messages", "conversations", "conversation", "dialog", "dialogue")

SPEAKERS = dict.fromkeys(("user", "human", "prompter"), "user")
SPEAKERS |= dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant")
SPEAKERS["system"] = "system"
"""Who speaks in a conversation, by the names of ShareGPT and others."""

DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}


class Found(NamedTuple):
    """The records of a file, and what was understood."""

    records: list[Any]
    """Messages: a label and a text each, none twice. Instructions: "instruction", "output", and
    perhaps "input" and "task"."""
    skipped: dict[int, str]
    """Why a record was left out, by its line or its number."""
    repeats: list[str]
    """Texts that came before, figures aside, in words."""
    understood: list[tuple[str, str]]
    """What was read as what, for a short table."""


class Row(NamedTuple):
    """A record, and the line it begins in or its number, counted from 1."""

    place: int
    values: list[Any]


@dataclass
class Table:
    """What a file says before anything is made of it."""

    columns: list[str]
    """Their names; "1", "2" ... if the file has none."""
    rows: list[Row]
    form: str
    """What it is, in words."""
    what: str = "line"
    """What a place counts."""
    notes: list[str] = field(default_factory=list)
    """What else was understood."""
    delimiter: str = ""
    """What stands between columns; "" in JSON."""
    n_named: int = 0
    """Columns before those that only have what was cut off by a delimiter inside a text."""


# Files into tables


def read_table(
    file: str,
    encoding: str | None = None,
    delimiter: str | None = None,
    names: Collection[str | None] = (),
) -> Table:
    """Read JSON, JSON lines, or lines with a delimiter; standard input if the file is "-".

    Args:
        encoding: None expects UTF-8.
        delimiter: What stands between columns; None finds it.
        names: Of columns that somebody asked for: a first line that has them names the columns.
    """
    text = read_whole(file, encoding)
    if not text.strip():
        raise ValueError(f"{file} is empty; name a file with records")
    if text.lstrip()[0] in "[{" or file.endswith((".json", ".jsonl")):
        try:
            return _read_json(file, text)
        except json.JSONDecodeError:  # a message may begin with a bracket, too
            if text.lstrip()[0] == "{" or file.endswith((".json", ".jsonl")):
                raise
    asked = {name.lower() for name in names if name and not name.isdecimal()}
    return _read_columns(file, text, delimiter, asked)


def _read_json(file: str, text: str) -> Table:
    """Read a list of objects, objects one a line, or objects of splits or of columns."""
    notes: list[str] = []
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{file} is JSON inside JSON without an end; name another file") from error
    except json.JSONDecodeError as whole:
        return _from_objects(file, _read_lines(file, text, whole), "JSON lines", "line", notes)
    if isinstance(content, dict):
        content = _open_object(content, notes)
    content = content if isinstance(content, list) else [content]
    found = list(enumerate(content, start=1))
    return _from_objects(file, found, "JSON", "record", notes)


def _read_lines(file: str, text: str, whole: json.JSONDecodeError) -> list[tuple[int, Any]]:
    """Read a value of JSON a line; returns each with its line."""
    found: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            found += [(number, json.loads(line))] if line.strip() else []
        except (json.JSONDecodeError, RecursionError) as error:
            said = f"line {number} of {file} is no JSON ({error}); repair it or take it out"
            if not found:
                said, error = f"{file} is no JSON ({whole}); repair it there", whole
            place = getattr(error, "pos", 0)
            raise json.JSONDecodeError(said, text[:place], place) from None
    return found


def _open_object(content: dict[str, Any], notes: list[str]) -> list[Any]:
    """Find the records in an object: splits, columns, or one list among other things."""
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    shown = [row["row"] for row in lists.get("rows", []) if isinstance(row, dict) and "row" in row]
    if shown and len(shown) == len(lists["rows"]):  # what a viewer of data sets hands out
        return shown
    if lists and all(value and isinstance(value[0], dict) for value in lists.values()):
        is_talk = len(lists) == 1 and next(iter(lists)) in TALKS
        if not is_talk:
            notes.append("parts: " + ", ".join(f"{n} ({len(v):,})" for n, v in lists.items()))
            return [record for part in lists.values() for record in part]
    elif lists and len({len(value) for value in lists.values()}) == 1 and len(lists) > 1:
        rows = zip(*lists.values(), strict=True)
        return [dict(zip(lists, row, strict=True)) for row in rows]  # columns
    values = list(content.values())
    if values and all(isinstance(value, dict) for value in values):
        if all(isinstance(part, list) for value in values for part in value.values()):
            notes.append("parts: " + ", ".join(content))  # each of splits or columns again
            return [record for value in values for record in _open_object(value, notes)]
        same = all(value.keys() == values[0].keys() for value in values)
        if same and len(values) > 1 and all(key.isdecimal() for key in values[0]):
            return [{n: column[key] for n, column in content.items()} for key in values[0]]
        return values  # records by their ids
    return [content]


def _from_objects(
    file: str, found: list[tuple[int, Any]], form: str, what: str, notes: list[str]
) -> Table:
    """Make a table of objects; the first has the columns, and later ones can add some."""
    if not found:
        raise ValueError(f"{file} holds no record; name a file with records")
    columns: dict[str, None] = {}
    for place, record in found:
        if not isinstance(record, dict):
            raise ValueError(
                f"record {place} of {file} is {_shown(record)}, not an object with names; write "
                "records such as {...}, one a line or in a list"
            )
        columns |= dict.fromkeys(record)
    rows = [Row(place, [record.get(name) for name in columns]) for place, record in found]
    return Table(list(columns), rows, form, what, notes)


def _read_columns(file: str, text: str, delimiter: str | None, names: set[str]) -> Table:
    """Read lines with a delimiter, quoted or not: whichever cuts them into equal rows."""
    csv.field_size_limit(2**31 - 1)  # a message may be a book
    delimiter = delimiter.replace("\\t", "\t") if delimiter else None
    if delimiter and (len(delimiter) > 1 or delimiter in '\r\n"'):
        raise ValueError(f"the delimiter is {delimiter!r}; write one character, or \\t for a tab")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if said := re.match("sep=(.)\n", text):  # Excel's
        delimiter, text = delimiter or said[1], text[said.end() - 1 :]
    if all(line.startswith("__label__") for line in text.split("\n") if line.strip()):  # fastText's
        delimiter, text = "\t", re.sub(r"(?m)^__label__(\S+)[ \t]+", r"\1\t", text)
    found = []
    for mark in [delimiter] if delimiter else DELIMITERS:
        ways = ((False, True) if mark == "\t" else (True, False)) if '"' in text else (False,)
        several = [(quoted, rows) for quoted in ways if (rows := _cut(text, mark, quoted))]
        # Quotes behind a blank, or a backslash before those inside: where they keep rows whole.
        rare: dict[str, dict[str, Any]] = {f'{mark} "': {"skipinitialspace": True}}
        rare['\\"'] = {"escapechar": "\\", "doublequote": False}
        for sign, options in rare.items():
            best_rank = max((_rank(rows) for _, rows in several), default=(0.0, 0))
            rows = _cut(text, mark, True, **options) if sign in text else []
            if rows and _rank(rows) > best_rank:
                several.insert(0, (True, rows))
        found += [(_rank(rows)[0], mark, quoted, rows) for quoted, rows in several]
    if not found:
        raise ValueError(f"{file} has a quote that is opened and never closed; close it")
    best = max(found, key=lambda way: way[0])  # of equals the first
    if not best[2] and _is_quoted(best[3]):
        quoted_too = (way for way in found if way[:2] == best[:2] and way[2])
        best = next(quoted_too, best)
    _, mark, quoted, rows = best
    width = Counter(len(row.values) for row in rows).most_common(1)[0][0]
    columns = [str(number) for number in range(1, max(width, 1) + 1)]
    between = f"{DELIMITERS[mark]}s" if mark in DELIMITERS else repr(mark)
    form = f"columns between {between}" + ", quoted" * quoted
    filled = [
        sum(len(row.values) > i and row.values[i] != "" for row in rows) for i in range(width)
    ]
    n_named = max((i for i in range(width) if filled[i] * 2 > len(rows)), default=0) + 1
    table = Table(columns, rows, form, delimiter=mark, n_named=n_named)
    first = [str(value).strip() for value in rows[0].values]
    numbers = [row.values[0] for row in rows[1:] if len(row.values) == width]
    if len(first) == width - 1 and all(number.isdecimal() for number in numbers):
        first = ["", *first]  # R's rows have a number before them, and its header nothing
    if _is_header(table, first, names):
        table.n_named = max(i for i, name in enumerate(first) if name) + 1
        width = max(width, table.n_named)
        table.columns, table.rows = _unique(first, width), rows[1:]
        table.notes.append(f"line {rows[0].place} names the columns")
    return table


def _cut(text: str, delimiter: str, quoted: bool, **options: Any) -> list[Row]:
    """Cut a text with Python's csv; nothing if quotes are used in another way."""
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=quoted, **options)
    rows, start = [], 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                rows.append(Row(start, list(values)))
            start = reader.line_num + 1
    except csv.Error:
        return []
    return rows


def _is_quoted(rows: Sequence[Row]) -> bool:
    """Whether quotes around cells are no part of them: all have them, or double those inside."""
    cells = [cell.strip() for row in rows for cell in row.values]
    inside = [cell[1:-1] for cell in cells if len(cell) > 1 and cell[0] == cell[-1] == '"']
    return len(inside) == len(cells) or any('""' in cell for cell in inside)


def _rank(rows: Sequence[Row]) -> tuple[float, int]:
    """Say which share of rows have the commonest width, 0 if that is one column; and that width.

    The width is negative, so that of equals that of fewer columns is the greater.
    """
    widths = Counter(len(row.values) for row in rows)
    width, n_rows = max(widths.items(), key=lambda item: (item[0] > 1, item[1]))
    return n_rows / len(rows) if width > 1 else 0.0, -width


def _is_header(table: Table, first: list[str], asked: set[str]) -> bool:
    """Whether the first row names columns: known names, or words that are no record's values."""
    names = [name.lower() for name in first]
    if asked and asked <= {*names}:
        return True
    if any(name in LABELS for name in names) and any(name in TEXTS for name in names):
        return True
    if any(name in ASKED for name in names) and any(name in ANSWERED for name in names):
        return True
    others = [row.values for row in table.rows[1:]]
    if len(others) < 3 or len(set(filter(None, names))) < 2:
        return False
    if any(len(name.split()) > 3 or name.endswith((".", "!", "?")) for name in names):
        return False
    label, text = _find_pair(Table(table.columns, table.rows[1:], ""))
    seen = Counter(values[label].strip() for values in others if len(values) > label)
    is_new = first[label : label + 1] != [] and seen[first[label]] == 0
    return is_new and min(seen.values(), default=0) > 1 and len(first) > text


def _unique(names: list[str], width: int) -> list[str]:
    names = [*names, *[""] * (width - len(names))]
    return [name if name and name not in names[:i] else str(i + 1) for i, name in enumerate(names)]


# Messages


def read_messages(
    file: str,
    encoding: str | None = None,
    delimiter: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    skip_contradictions: bool = False,
) -> Found:
    """Read messages and their classes from CSV, TSV, JSON or JSON lines, see `read_table`.

    Args:
        label_column: The column of the classes, by its name or its number from 1; None finds it.
        text_column: That of the texts.
        skip_contradictions: Leave out texts that come with two classes instead of refusing them.
    """
    table = read_table(file, encoding, delimiter, (label_column, text_column))
    label, text = _find_pair(
        table,
        _find_column(file, table, label_column) if label_column else None,
        _find_column(file, table, text_column) if text_column else None,
    )
    if label == text or max(label, text) >= len(table.columns):
        asked = {*TALKS, *ASKED}.intersection(name.lower() for name in table.columns)
        raise ValueError(
            f"{file} has {_listed(table)}, and needs one of classes and one of texts; name them "
            "with --label-column and --text-column"
            + f", or what stands between them ({table.form}) with --delimiter"
            * bool(table.delimiter)
            + ", or learn to answer from it: python -m gptlib tune" * bool(asked)
        )
    kept: list[tuple[int, LabeledText]] = []
    joined: list[str] = []
    skipped: dict[int, str] = {}
    for place, values in table.rows:
        cells = [*values, *[None] * (len(table.columns) - len(values))]
        more = _surplus(table, values, max(label, text))
        if more and text == table.n_named - 1:  # a delimiter in the text, without quotes around it
            cells[text] = table.delimiter.join(values[text:]).rstrip(table.delimiter)
            joined.append(f"{table.what} {place} {_cut_short(cells[text])}")
            more = ""
        reasons = (more or _missing(cells[label], "label"), _missing(cells[text], "text"))
        if len(values) < 2 and table.what == "line":
            reasons = (f"no {_named(table.form)} between label and text", "")
        if reason := reasons[0] or reasons[1]:
            skipped[place] = reason
        else:
            kept.append((place, (_text(cells[label]).strip(), _text(cells[text]).strip("\r\n"))))
    records, repeats, contradictions = _sift(kept, table.what)
    if contradictions and not skip_contradictions:
        raise ValueError(
            f"{len(contradictions)} texts come with two classes: {_some(contradictions)}; correct "
            "them, or leave them all out with --skip-contradictions"
        )
    said = [f"{table.what} {place}: {reason}" for place, reason in skipped.items()]
    if not records:
        reason = _some(said) or f"only {_listed(table)} are named"
        raise ValueError(f"{file} holds no record: {reason}")
    classes = Counter(label for label, _ in records).most_common()
    named = ", ".join(f"{name[:30]} {n:,}" for name, n in classes[:9])
    others = [name for i, name in enumerate(table.columns) if i not in (label, text)]
    columns = f"{table.columns[label]}: class, {table.columns[text]}: text"
    columns += f"; left out: {', '.join(others[:5])}" if others else ""
    understood = [
        *_describe(table, columns),
        ("classes", named + f" and {len(classes) - 9} more" * (len(classes) > 9)),
        *_count({"joined again": joined, "left out": said, "repeated": repeats}),
        *_count({"contradictory": contradictions}),
    ]
    return Found(records, skipped, repeats, understood)


def _surplus(table: Table, values: list[Any], last: int) -> str:
    """Say that a row has values behind the last named column, where nothing should be."""
    if not table.delimiter or last >= table.n_named or not any(values[table.n_named :]):
        return ""
    return f"it has {len(values)} columns instead of {table.n_named}; put quotes around its text"


def _describe(table: Table, columns: str) -> list[tuple[str, str]]:
    form = "; ".join([table.form, *table.notes])
    return [("form", form), ("rows", f"{len(table.rows):,}"), ("columns", columns)]


def _count(kinds: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Count what was left out, and show the first three of each kind."""
    return [(kind, f"{len(said):,}: {_some(said)}") for kind, said in kinds.items() if said]


def _find_column(file: str, table: Table, name: str) -> int:
    lower = [column.lower() for column in table.columns]
    if name.lower() in lower:
        return lower.index(name.lower())
    if name.isdecimal() and 1 <= int(name) <= len(table.columns):
        return int(name) - 1
    raise ValueError(f"{file} has no column {name!r}; it has {_listed(table)}")


def _find_pair(table: Table, label: int | None = None, text: int | None = None) -> tuple[int, int]:
    """Find the columns of classes and of texts: by their names, else by what is in them."""
    lower = [column.lower() for column in table.columns]
    if label is None:
        label = next((i for n in LABELS if n in lower and (i := lower.index(n)) != text), None)
    if text is None:
        text = next((i for n in TEXTS if n in lower and (i := lower.index(n)) != label), None)
    if label is not None and text is not None:
        return label, text
    some = [row.values for row in table.rows[:1000]]
    kinds: dict[int, tuple[int, float]] = {}
    for i in range(len(table.columns)):
        values = [str(v[i]).strip() for v in some if len(v) > i and v[i] not in (None, "")]
        if len(values) * 2 > len(some):  # columns that are all but empty are none
            kinds[i] = len(set(values)), sum(map(len, values)) / len(values)
    if len(kinds) < 2:
        return 0, 0 if len(table.columns) < 2 else 1
    if label is None:  # values that come again, and more than one; of equals the first
        odd = {i: 2 * (kinds[i][0] == len(some)) or kinds[i][0] == 1 for i in kinds}
        rank, _, label = min((odd[i], kinds[i][0], i) for i in kinds if i != text)
        if rank == 2 and not table.delimiter:  # of JSON, whose names say what is what
            return 0, 0
    if text is None:
        text = max((i for i in kinds if i != label), key=lambda i: kinds[i][1])
    return label, text


def _missing(value: Any, name: str) -> str:
    """Say why a value is no text, "" if it is one."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"the {name} is empty"
    if isinstance(value, float) and math.isnan(value):
        return f"the {name} is nan, not a text"
    if isinstance(value, list | dict):
        return f"the {name} is {_shown(value)}, not a text"
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        return f"the {name} has half an emoji (\\ud800 to \\udfff alone), which is no character"
    return ""


def _text(value: Any) -> str:
    """Write what JSON has as a number."""
    return value if isinstance(value, str) else json.dumps(value)


def _sift(
    kept: Iterable[tuple[int, LabeledText]], what: str
) -> tuple[list[LabeledText], list[str], list[str]]:
    """Keep the first of all records with one text, and tell repeats from contradictions."""
    first: dict[str, tuple[int, LabeledText]] = {}
    repeats, contradictions, bad = [], [], set()
    for place, (label, text) in kept:
        key = normalize(text)
        where, (other, before) = first.setdefault(key, (place, (label, text)))
        if where == place:
            continue
        said = f"{what} {where} {_cut_short(before)} and {what} {place} {_cut_short(text)}"
        if other == label:
            repeats.append(said)
        else:
            contradictions.append(f"{said} are {other!r} and {label!r}")
            bad.add(key)
    return [record for key, (_, record) in first.items() if key not in bad], repeats, contradictions


def _some(said: Sequence[str]) -> str:
    """Show the first three of many."""
    return "; ".join(said[:3]) + "; ..." * (len(said) > 3)


def _cut_short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _shown(value: Any) -> str:
    return _cut_short(json.dumps(value, ensure_ascii=False, default=str))


def _listed(table: Table) -> str:
    names = [name[:30] for name in table.columns[:9]]
    columns = "columns" if len(table.columns) > 1 else "column"
    return f"{len(table.columns)} {columns} ({', '.join(names)})"


def _named(form: str) -> str:
    return next((name for name in DELIMITERS.values() if name in form), "delimiter")


# Instructions


def read_questions(
    file: str,
    encoding: str | None = None,
    fields: Mapping[str, str] | None = None,
    skip_broken: bool = False,
) -> Found:
    """Read instructions and answers, under any usual names, or the turns of conversations.

    An answer keeps its own spaces and line breaks. Of a conversation each answer is a record with
    the question before it; what the system says stands before the first.

    Args:
        fields: The file's names for "instruction", "input" and "output", where they aren't clear.
        skip_broken: Leave out records without a question or an answer instead of refusing them.
    """
    table = read_table(file, encoding, names=(fields or {}).values())
    columns = {what: _find_column(file, table, name) for what, name in (fields or {}).items()}
    fields = {what: table.columns[i] for what, i in columns.items()}
    known = {column.strip().lower(): column for column in table.columns}
    talk = next((known[name] for name in TALKS if name in known), "")
    asked = fields.get("instruction") or next((known[n] for n in ASKED if n in known), "")
    rest = [name for name in GIVEN if known.get(name) not in (asked, None)]
    given = fields.get("input") or next((known[name] for name in rest), "")
    found = (known[n] for n in ANSWERED if n in known and known[n] not in (asked, given))
    answered = fields.get("output") or next(found, "")
    if not (asked and answered) and not talk:
        raise ValueError(
            f"record {table.rows[0].place if table.rows else 1} of {file} has the keys "
            f"{', '.join(table.columns[:9])}, and it isn't clear which are the question and the "
            "answer; say it with --fields instruction=KEY,output=KEY (and input=KEY)"
        )
    records: list[dict[str, str]] = []
    skipped: dict[int, str] = {}
    n_talks = 0
    for place, values in table.rows:
        row = dict(zip(table.columns, values, strict=False))
        if talk and not fields and (isinstance(row[talk], list) or not (asked and answered)):
            turns, n_talks = row[talk] if isinstance(row[talk], list) else [], n_talks + 1
            pairs, first = _read_talk(turns), turns[0] if turns else row[talk]
            keys = ", ".join(map(str, first)) if isinstance(first, dict) else _shown(first)
            reason = "its conversation has no question with an answer: a turn has role and content"
            reason += f", or from and value, and its first is {keys[:99]}"
            reason *= not pairs
        else:
            pairs = [{"instruction": row.get(asked), "output": row.get(answered)}]
            pairs[0] |= {"input": row[given]} if row.get(given) not in (None, "") else {}
            pairs[0] |= {"task": row["task"]} if isinstance(row.get("task"), str) else {}
            reasons = [_surplus(table, values, table.n_named - 1)]
            reasons += [_missing(value, name) for name, value in pairs[0].items()]
            reason = next(filter(None, reasons), "")
            reason += f" (keys: {', '.join(map(str, row))[:99]})" if reason else ""
        if reason:
            skipped[place] = reason
        else:
            records += [{name: _text(value) for name, value in pair.items()} for pair in pairs]
    said = [f"{table.what} {place}: {reason}" for place, reason in skipped.items()]
    if skipped and (not skip_broken or not records):
        raise ValueError(
            f"{len(skipped)} of {len(table.rows)} records of {file} can't be learnt from: "
            f"{_some(said)}; complete them, or map their keys with --fields"
            + ", or leave them out with skip_broken=True"
            * (not skip_broken)
        )
    if not records:
        raise ValueError(f"{file} holds no record; name a file with records")
    used = f"{asked}: question, {answered}: answer" + f", {given}: input" * bool(given)
    understood = _describe(table, f"{talk}: conversations" if n_talks else used)
    understood += [("records", f"{len(records):,}"), *_count({"left out": said})]
    return Found(records, skipped, [], understood)


def _read_talk(turns: list[Any]) -> list[dict[str, Any]]:
    """Find the questions and answers of a conversation."""
    pairs: list[dict[str, Any]] = []
    before, question = "", ""
    for turn in turns:
        if not isinstance(turn, dict):
            continue
        speaker = SPEAKERS.get(str(turn.get("role", turn.get("from", ""))).lower(), "")
        text = turn.get("content", turn.get("value", turn.get("text")))
        if isinstance(text, list):  # of parts, as newer programs have it
            parts = [part.get("text") for part in text if isinstance(part, dict)]
            text = "".join(part for part in parts if isinstance(part, str))
        if not isinstance(text, str) or not text.strip():
            continue
        if speaker == "system":
            before = text + "\n\n"
        elif speaker == "user":
            question = question + "\n" + text if question else text
        elif speaker == "assistant" and question:
            pairs.append({"instruction": before + question, "output": text})
            before = question = ""
    return pairs
