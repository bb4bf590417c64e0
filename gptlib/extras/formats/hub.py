"""GPT-2 from huggingface.co: found in the cache or fetched once, at a pinned commit."""

import hashlib
from pathlib import Path

import huggingface_hub  # it imports its parts, slow ones, when they are used

from gptlib.weights import MODEL_FILES, VOCABULARY_SHA256

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
    """Find a size of `RELEASES` in the cache or fetch it; it must be the published one."""
    revision, sha256_of = RELEASES[name]
    folder = find_cached(name) or _fetch(f"openai-community/{name}", revision)
    for file, sha256 in (sha256_of | VOCABULARY_SHA256).items():
        with open(folder / file, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{folder / file} is not the published file: its sha256 is {found[:12]}..., not "
                f"{sha256[:12]}...; delete {(folder / file).resolve()} and run this again"
            )
    return folder


def _fetch(repository: str, revision: str) -> Path:
    """Fetch a model into the cache, with a progress bar; what broke off goes on."""
    try:
        paths = [
            huggingface_hub.hf_hub_download(repository, file, revision=revision)
            for file in MODEL_FILES
        ]
    except Exception as error:  # huggingface_hub passes on the errors of several other packages
        name = repository.rpartition("/")[-1]
        raise ConnectionError(
            f"{name} is not on this machine and could not be fetched ({type(error).__name__}). "
            "Connect to the internet and run this again: a download that broke off goes on. Or "
            f"put {', '.join(MODEL_FILES)} from https://huggingface.co/{repository}/tree/"
            f"{revision} into a folder, and pass that folder instead of {name!r}"
        ) from error
    return Path(paths[0]).parent
