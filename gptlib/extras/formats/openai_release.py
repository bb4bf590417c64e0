"""Fetch GPT-2 as OpenAI published it in 2019, a TensorFlow checkpoint, on request.

`load_model(download_openai("124M", "gpt-2-124M"))` of `gptlib.extras.models` then reads it.
"""

import http.client
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/models"
"""Where OpenAI keeps the release."""

OPENAI_FILES = (
    "hparams.json",
    "encoder.json",
    "vocab.bpe",
    "model.ckpt.index",
    "model.ckpt.data-00000-of-00001",
)
"""What of the release `load_model` needs."""


def why_unreachable(address: str, seconds: float = 4.0) -> str:
    """Find out within seconds why a host can't be reached; "" if it can, or a proxy knows."""
    parts = urlsplit(address)
    if urllib.request.getproxies():
        return ""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), seconds).close()
    except OSError as error:
        return f"no connection ({error})"
    return ""


def fetch(address: str, path: Path) -> None:
    """Fetch a file with a progress bar; one that broke off goes on where it was."""
    try:
        continue_fetch(address, path)
    except (
        urllib.error.URLError,
        ConnectionResetError,
        ConnectionAbortedError,
        TimeoutError,
        http.client.HTTPException,
    ) as error:
        raise ConnectionError(
            f"{path.name} could not be fetched ({error}). Connect to the internet and run this "
            f"again; or save {address} as {path}"
        ) from error


def continue_fetch(address: str, path: Path) -> None:
    """Fetch what is missing of a file; it gets its name when it is whole."""
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        start = start if answer.status == 206 else 0  # 206: the server sends the rest only
        size = start + int(answer.headers["Content-Length"])
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(desc=path.name, initial=start, total=size, unit="B", unit_scale=True) as bar,
        ):
            while content := answer.read(1 << 20):
                bar.update(file.write(content))
    if part.stat().st_size != size:
        raise ConnectionError(
            f"{path.name} broke off after {part.stat().st_size} of {size} bytes; run this again, "
            "and it goes on from there"
        )
    part.replace(path)


def download_openai(size: str, folder: str | Path) -> Path:
    """Fetch GPT-2 as OpenAI published it in 2019: a TensorFlow checkpoint.

    The weights' own checksums are compared when `load_model` reads them.

    Args:
        size: "124M", "355M", "774M" or "1558M"; about 4 bytes are fetched for each parameter.
        folder: Where to put the files; those in it are kept.

    Raises:
        ConnectionError: If a file can't be fetched; the message says which to put where.
    """
    if size not in ("124M", "355M", "774M", "1558M"):
        raise ValueError(f"size is {size!r}; choose '124M', '355M', '774M' or '1558M'")
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for file in OPENAI_FILES:
        if not (folder / file).is_file():
            fetch(f"{ADDRESS}/{size}/{file}", folder / file)
    return folder
