"""Examine this machine: can it run the course, and if not, what helps?"""

import hashlib
import importlib.metadata
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

DISK_BYTES = 2_000_000_000  # for data, models and checkpoints
MEMORY_BYTES = 2_000_000_000  # with less free, the longer chapters swap

NOVELS = {
    "model.safetensors": "f3c81eb1f1e670250ca148d4cc7c9c62f0bfddfd208cdd778766928a0307aafd",
    "config.json": "f972ce87e3f53fbaefff3e868e5983671136f9904829324e3e91f480eac57e29",
    "vocab.json": "b99ccb58483cdebaef091e25eaa2770bd7b38180eddd369e7109fb0209226bba",
    "merges.txt": "310ea6bfecc97af7f570fd488d10e33dee5efd9f581c36d9d1df4bb934fdc882",
    "tokenizer_config.json": "87a591a03593760f22646cb9191f876814541774c93775a4d335b36bdcacd47f",
}
BUNDLED = {
    "gpt2.tiktoken": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    **dict.fromkeys(("stand-in-war-and-peace.txt", "stand-in-sms-spam.tsv", "instructions.json")),
    **{f"models/novels/{name}": sha256 for name, sha256 in NOVELS.items()},
}
"""Files that travel with the course, with the sha256 of those that are not our own prose."""

Status = Literal["ok", "note", "problem"]
SEVERITIES = get_args(Status)
Found = tuple[Status, str] | tuple[Status, str, str]
"""Of a `Finding`, all but its topic."""

_COURSE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    topic: str
    status: Status
    """`ok`, `note` (works, but worth knowing) or `problem` (something will not work)."""
    what: str
    """What was found; may name folders of this machine."""
    remedy: str = ""
    """What to do about it; names no folders. Empty if all is well."""


def examine() -> list[Finding]:
    """Examine every topic; nothing is downloaded, and an examination that fails is a finding."""
    findings: list[Finding] = []
    for topic, look in _TOPICS.items():
        try:
            for found in look():
                findings.append(Finding(topic, *found))
        except Exception as error:  # a broken package must not silence the doctor
            remedy = _INSTALL if isinstance(error, ImportError) else _REINSTALL
            what = f"cannot be examined: {type(error).__name__}: {error}"
            findings.append(Finding(topic, "problem", what, remedy))
    return findings


def report(findings: list[Finding]) -> str:
    """Lay findings out: a row each, its remedy beneath after an arrow, and a line that sums up."""
    lines: list[str] = []
    for finding in findings:
        head = f"{finding.topic:<9} {finding.status:<8} "
        lines += _wrap(finding.what, head)
        if finding.remedy:
            lines += _wrap(finding.remedy, " " * len(head) + "-> ")
    counts = Counter(finding.status for finding in findings)
    verdict = "No problem found: the course will run."
    if counts["problem"]:
        verdict = f"{_plural('problem', counts['problem'])} to solve; see the arrows."
    if counts["note"]:
        verdict += f" {_plural('note', counts['note'])}."
    return "\n".join([*lines, "", verdict])


def short_report() -> str:
    """Sum up in one line a topic; the same text on every machine where all is well."""
    findings = examine()
    lines: list[str] = []
    for topic in _TOPICS:
        mine = [finding for finding in findings if finding.topic == topic]
        worst = max((finding.status for finding in mine), key=SEVERITIES.index, default="ok")
        lines.append(f"{topic:<9} {worst}")
        for remedy in dict.fromkeys(finding.remedy for finding in mine if finding.remedy):
            lines += _wrap(remedy, " " * 10 + "-> ")
    return "\n".join([*lines, "For details: python -m gptlib doctor"])


_INSTALL = "run: python -m pip install -r requirements.txt (in the course's folder)"
_REINSTALL = "run: python -m pip install --force-reinstall -r requirements.txt"


def _plural(noun: str, number: int) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _wrap(text: str, head: str) -> list[str]:
    """Break a text into lines that hang under the end of their head."""
    return textwrap.wrap(
        text,
        88,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _python() -> Iterator[Found]:
    from packaging.specifiers import SpecifierSet

    try:
        needed = importlib.metadata.metadata("gptlib")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        needed = ">=3.11"
        yield "note", "gptlib is not installed, only found here", _INSTALL
    version = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(needed).contains(version, prereleases=True):
        yield "ok", f"{version} at {sys.executable}"
    else:
        remedy = f"install Python {needed}, delete .venv, and install the course again"
        yield "problem", f"{version} at {sys.executable}, but the course needs {needed}", remedy


def _requirements() -> tuple[str, list[str]]:
    """The tested set of a checkout, else the ranges that the installed package asks for."""
    file = _COURSE / "requirements.txt"
    if file.is_file():
        return "requirements.txt", file.read_text(encoding="utf-8").splitlines()
    with suppress(importlib.metadata.PackageNotFoundError):
        return "what gptlib asks for", importlib.metadata.requires("gptlib") or []
    return "what gptlib asks for", []


def _packages() -> Iterator[Found]:
    from packaging.requirements import Requirement

    name, lines = _requirements()
    agreeing = 0
    for line in lines:
        text = line.split(" #")[0].split(" --hash")[0].strip()
        if not text or text.startswith(("#", "-")):
            continue
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": "course"}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield "problem", f"{wanted.name} is not installed", _INSTALL
            continue
        if wanted.specifier.contains(version, prereleases=True):
            agreeing += 1
        else:
            remedy = f'if something misbehaves, run: python -m pip install "{text}"'
            yield "note", f"{wanted.name} is {version}, tested with {wanted.specifier}", remedy
    yield "ok", f"{_plural('package', agreeing)} as in {name}"


def _kernel() -> Iterator[Found]:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    register = "run: python -m ipykernel install --sys-prefix --name python3"
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except (NoSuchKernel, IndexError):
        remedy = f"{_INSTALL}, then {register}"
        yield "problem", "there is no kernel 'python3', so no notebook can run", remedy
        return
    ours = Path(sys.executable).parent
    bare = os.path.basename(command) == command  # which Jupyter replaces by its own Python
    program = Path(sys.executable if bare else command)
    if not program.exists():
        yield "problem", f"kernel 'python3' starts {program}, which is not there", register
    elif program.parent.resolve() != ours.resolve():
        what = f"kernel 'python3' starts {program}, not the Python of this environment ({ours})"
        yield "problem", what, register
    else:
        yield "ok", "kernel 'python3' runs in this environment"


def _data() -> Iterator[Found]:
    from gptlib.extras import datasets  # here, so that a missing package is itself a finding
    from gptlib.tokenizer import find_data

    for file, sha256 in BUNDLED.items():
        try:
            path = find_data(file)
        except FileNotFoundError:
            remedy = "restore it: git checkout data, or reinstall"
            yield "problem", f"{file}, which travels with the course, is missing", remedy
            continue
        if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            remedy = f"restore {file}: git checkout data"
            yield "problem", f"{path} is damaged (its sha256 differs)", remedy
        else:
            yield "ok", f"{file} is here" + (", sha256 right" if sha256 else "")
    mirror = os.environ.get("GPTLIB_DATA_MIRROR", "").strip()
    if mirror and "://" not in mirror and not Path(mirror).expanduser().is_dir():
        remedy = "set GPTLIB_DATA_MIRROR to a folder, or unset it"
        yield "note", f"GPTLIB_DATA_MIRROR is {mirror!r}, which is no folder here", remedy
    folder = _existing(datasets.data_folder())
    if not os.access(folder, os.W_OK):
        remedy = "set GPTLIB_DATA to a folder you may write to"
        yield "note", f"{folder} cannot be written to, so nothing can be kept there", remedy
    yield from (_data_set(name) for name, x in datasets.DATA_SETS.items() if x.in_chapters)


def _existing(folder: Path) -> Path:
    """Find the nearest folder that is there, from this one up."""
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path.cwd())


def _data_set(name: str) -> Found:
    from gptlib.extras import datasets

    record, state = datasets.DATA_SETS[name], datasets.state(name)
    place, file = datasets.data_folder() / record.file, record.file
    if where := {"ready": "here", "mirror": "in the mirror"}.get(state):
        return "ok", f"{file} is {where}, sha256 right"
    if state == "wrong":
        remedy = f"rename {file} if it is your own, delete it if it is damaged"
        return "problem", f"{place} is not the expected file; it is not used", remedy
    size = f"{record.size / 1e6:.1f} MB"
    remedy = f"nothing, if you are online: {size} of {file} are fetched when first used"
    return "note", f"{place} is not here yet", remedy


def _device() -> Iterator[Found]:
    from gptlib.extras.device import TOLERANCE, agrees_with_cpu, best_device

    try:
        device = best_device()
    except ValueError as error:
        yield "problem", str(error), "unset GPTLIB_DEVICE, or set it to cpu"
        return
    difference = agrees_with_cpu(device)
    what = f"{device}; differs from the CPU's numbers by {difference:.1g} at most"
    if difference <= TOLERANCE:
        yield "ok", what
    else:
        remedy = "update PyTorch and the driver; until then set GPTLIB_DEVICE=cpu"
        yield "problem", f"{what}; {TOLERANCE:g} is allowed", remedy


def _disk() -> Iterator[Found]:
    from gptlib.extras.datasets import data_folder

    folder = _existing(data_folder())
    free = shutil.disk_usage(folder).free
    what = f"{free / 1e9:.1f} GB free at {folder}"
    if free >= DISK_BYTES:
        yield "ok", what
    else:
        remedy = f"free {DISK_BYTES / 1e9:.0f} GB, or set GPTLIB_DATA to a folder on another disk"
        yield "problem", what, remedy


def _memory() -> Iterator[Found]:
    import psutil

    memory = psutil.virtual_memory()
    what = f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"
    if memory.available >= MEMORY_BYTES:
        yield "ok", what
    elif memory.available >= MEMORY_BYTES / 2:
        remedy = "close other programs and notebooks before the longer chapters"
        yield "note", what, remedy
    else:
        remedy = "close other programs and shut down unused kernels; 1 GB is the least"
        yield "problem", what, remedy


_TOPICS: dict[str, Callable[[], Iterator[Found]]] = {
    "python": _python,
    "packages": _packages,
    "kernel": _kernel,
    "data": _data,
    "device": _device,
    "disk": _disk,
    "memory": _memory,
}
