"""GPT-2's released weights: found on this machine, or fetched once from one of several places."""

import hashlib
import os
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub  # it imports its parts, slow ones, when they are used

from gptlib.extras.datasets import data_folder, find_mirror
from gptlib.extras.formats import openai_release
from gptlib.extras.formats.openai_release import OPENAI_FILES
from gptlib.extras.terminal import note
from gptlib.weights import MODEL_FILES, VOCABULARY_SHA256, require_files

HUB = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
"""The hub, or what stands in for it, by the variable that its own programs read."""

SIZES = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
"""What OpenAI calls them."""

RELEASES: dict[str, tuple[str, dict[str, str]]] = {
    "gpt2": (
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        {
            "config.json": "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4",
            "model.safetensors": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
        },
    ),
    "gpt2-medium": ("6dcaa7a952f72f9298047fd5137cd6e4f05f41da", {}),
    "gpt2-large": ("32b71b12589c2f8d625668d2335a01cac3249519", {}),
    "gpt2-xl": (
        "15ea56dee5df4983c59b2538573817e1667135e2",
        {"model.safetensors": "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a"},
    ),
}
"""GPT-2's sizes at huggingface.co/openai-community: the commit, and sha256 where it is known."""


def find_cached(name: str) -> Path | None:
    """Look for the pinned commit of a size in the cache that all programs share."""
    for repository in (f"openai-community/{name}", name):  # the second was its name until 2024
        found = [
            huggingface_hub.try_to_load_from_cache(repository, file, revision=RELEASES[name][0])
            for file in MODEL_FILES
        ]
        if all(isinstance(path, str) for path in found):
            return Path(str(found[0])).parent
    return None


def find_release(name: str) -> Path:
    """Find a size of `RELEASES` on this machine or fetch it; it must be the published one.

    The cache comes first, then a mirror, if the environment variable GPTLIB_DATA_MIRROR names one,
    huggingface.co, and OpenAI's own files of 2019. What was tried is told in a line each.

    Returns:
        The folder: in GPT-2's layout, or OpenAI's TensorFlow checkpoint.
    """
    kept, mirrored = data_folder() / f"openai-{SIZES[name]}", data_folder() / name
    if folder := find_cached(name):
        return _published(folder, name)
    for folder, files in ((mirrored, MODEL_FILES), (kept, OPENAI_FILES)):
        if all((folder / file).is_file() for file in files):
            return _published(folder, name)
    address = openai_release.ADDRESS
    sources = {HUB: partial(_fetch, name)}
    sources[address] = partial(openai_release.download_openai, SIZES[name], kept)
    place = find_mirror()
    if isinstance(place, Path) and (place / name).is_dir():
        require_files(place / name)
        return _published(place / name, name)
    if isinstance(place, str) and place:
        sources = {place: partial(_from_mirror, f"{place.rstrip('/')}/{name}", mirrored)} | sources
    hosts = [urlsplit(source).netloc for source in sources]
    for host, (source, fetch) in zip(hosts, sources.items(), strict=True):
        try:
            # At once: the hub's own tries take half a minute.
            if reason := openai_release.why_unreachable(source):
                raise ConnectionError(reason)
            folder = fetch()
        except ConnectionError as error:
            note(f"{name} can't be had from {host}: {error}")
        else:
            note(f"{name} is from {host}, and lies in {folder}")
            return _published(folder, name)
    repository = f"https://huggingface.co/openai-community/{name}/tree/{RELEASES[name][0]}"
    raise ConnectionError(
        f"{name} is not on this machine and could not be fetched from {' or '.join(hosts)}. "
        "Connect to the internet and run this again: a download that broke off goes on. Or put "
        f"{', '.join(MODEL_FILES)} from {repository} into a folder, and pass that folder instead "
        f"of {name!r}"
    )


def _published(folder: Path, name: str) -> Path:
    """Refuse files that are not the published ones; a checkpoint has checksums of its own."""
    of_2019 = (folder / "hparams.json").is_file()
    names = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"} if of_2019 else {}
    known = VOCABULARY_SHA256 | ({} if of_2019 else RELEASES[name][1])
    for file, sha256 in known.items():
        path = folder / names.get(file, file)
        with open(path, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{path} is not the published file: its sha256 is {found[:12]}..., not "
                f"{sha256[:12]}...; delete {path.resolve()} and run this again"
            )
    return folder


def _fetch(name: str) -> Path:
    """Fetch a model from the hub into its cache, with a progress bar; what broke off goes on."""
    try:
        paths = [
            huggingface_hub.hf_hub_download(
                f"openai-community/{name}", file, revision=RELEASES[name][0], endpoint=HUB
            )
            for file in MODEL_FILES
        ]
    except Exception as error:  # huggingface_hub passes on the errors of several other packages
        said = " ".join(str(error).split())[:150]
        raise ConnectionError(f"{type(error).__name__}: {said}".removesuffix(": ")) from error
    return Path(paths[0]).parent


def _from_mirror(address: str, folder: Path) -> Path:
    """Fetch a model from a mirror on the web, which has it in a folder of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in MODEL_FILES:
        if not (folder / file).is_file():
            openai_release.fetch(f"{address}/{file}", folder / file)
    return folder
