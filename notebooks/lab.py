"""Copy the chapters into work/, where what a reader writes is safe from updates of the course.

    python notebooks/lab.py             what work/ has no copy of yet
    python notebooks/lab.py --fresh 03  a new copy of chapter 3; the old one is set aside

In a copy, the outputs behind a prediction are gone until the reader runs the cell. The answers to
the tasks stay folded.
"""

import argparse
import json
import sys
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent
WORK = NOTEBOOKS.parent / "work"


def copy_chapter(chapter: Path, work: Path) -> Path:
    """Copy a chapter into a folder, unless it has one of that name; return the copy's path."""
    book = json.loads(chapter.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["metadata"].get("jupyter", {}).pop("outputs_hidden", False):
            cell.update(outputs=[], execution_count=None)
    work.mkdir(parents=True, exist_ok=True)
    copy = work / chapter.name
    try:
        with copy.open("x", encoding="utf-8") as file:  # "x": never over a file that is there
            json.dump(book, file, ensure_ascii=False, indent=1)
    except FileExistsError:
        return copy
    print(f"{copy.name} is new in {work.name}/")
    return copy


def set_aside(copy: Path) -> Path | None:
    """Rename a copy to NAME.old-1.ipynb, or the next free number; None if there is no copy."""
    if not copy.exists():
        return None
    number = 1
    while (aside := copy.with_name(f"{copy.stem}.old-{number}.ipynb")).exists():
        number += 1
    copy.rename(aside)
    print(f"{copy.name} is now {aside.name}")
    return aside


def main(arguments: list[str] | None = None, work: Path = WORK) -> int:
    """Copy all chapters, or a fresh one; return 1 if there is no such chapter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", metavar="CHAPTER", help="the number of a chapter, such as 03")
    fresh = parser.parse_args(arguments).fresh
    chapters = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if fresh is not None:
        chapters = [path for path in chapters if path.name.startswith(f"{fresh:0>2}_")]
        if not chapters:
            print(f"there is no chapter {fresh!r}; pass its number, such as 03", file=sys.stderr)
            return 1
        set_aside(work / chapters[0].name)
    else:
        chapters += sorted(NOTEBOOKS.glob("optional/*.ipynb"))
    for chapter in chapters:
        copy_chapter(chapter, work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
