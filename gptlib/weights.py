"""OpenAI's weights in, ours out, and the place where two models part (chapter 7).

The definitions stand in teaching order. One table of names: `NAMES`, `layout`. The file format
of today: `StoredTensor`, `read_header`, `read_folder`, `build_model`, and back,
`write_safetensors`. OpenAI's checkpoint of 2019: `crc32c`, `read_message`, `read_block`,
`read_checkpoint`. All of it together: `read_config`, `read_tokenizer`, `load_gpt2`, `save_gpt2`.
The proof: `activations`, `first_divergence`. A look inside: `head_scores`, `logit_lens`.

Example:
    >>> import tempfile
    >>> from gptlib.tokenizer import BPETokenizer
    >>> tokenizer = BPETokenizer.train("low lower lowest", vocab_size=262)
    >>> config = GPTConfig(vocab_size=262, context_length=8, n_layer=2, n_head=2, n_embd=4)
    >>> model = GPT(config).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_gpt2(model, tokenizer, folder)
    ...     same, _ = load_gpt2(folder)
    >>> first_divergence(model, same, torch.tensor([[1, 2, 3]])) is None
    True
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiktoken
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from numpy.typing import NDArray
from torch import Tensor, nn

from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import (
    END_OF_TEXT,
    BPETokenizer,
    Tokenizer,
    gpt2_encoding,
    read_gpt2_ranks,
    recover_merges,
)

NAMES = {
    "wte.weight": ("embed.token_embedding.weight", "V C"),
    "wpe.weight": ("embed.position_embedding.weight", "T C"),
    "h.*.ln_1.weight": ("blocks.*.ln_1.weight", "C"),
    "h.*.ln_1.bias": ("blocks.*.ln_1.bias", "C"),
    "h.*.attn.c_attn.weight": ("blocks.*.attn.qkv.weight", "C 3C"),
    "h.*.attn.c_attn.bias": ("blocks.*.attn.qkv.bias", "3C"),
    "h.*.attn.c_proj.weight": ("blocks.*.attn.proj.weight", "C C"),
    "h.*.attn.c_proj.bias": ("blocks.*.attn.proj.bias", "C"),
    "h.*.ln_2.weight": ("blocks.*.ln_2.weight", "C"),
    "h.*.ln_2.bias": ("blocks.*.ln_2.bias", "C"),
    "h.*.mlp.c_fc.weight": ("blocks.*.mlp.expand.weight", "C 4C"),
    "h.*.mlp.c_fc.bias": ("blocks.*.mlp.expand.bias", "4C"),
    "h.*.mlp.c_proj.weight": ("blocks.*.mlp.proj.weight", "4C C"),
    "h.*.mlp.c_proj.bias": ("blocks.*.mlp.proj.bias", "C"),
    "ln_f.weight": ("ln_f.weight", "C"),
    "ln_f.bias": ("ln_f.bias", "C"),
}
"""For each of GPT-2's published names ours, and the shape in GPT-2's file; * is the layer."""

TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""OpenAI's "Conv1D" keeps these as (in, out); our `nn.Linear` keeps its weight as (out, in)."""


class Place(NamedTuple):
    """Say where a tensor of GPT-2's file goes in our model."""

    ours: str
    """The name in our model's state dictionary."""
    shape: tuple[int, ...]
    """The shape in the file."""
    turned: bool
    """Whether ours is the transpose."""


def layout(config: GPTConfig) -> dict[str, Place]:
    """Write out the table of names for one model: every tensor that its file must hold.

    Args:
        config: The model.

    Returns:
        For each of GPT-2's names our name, the shape in the file, and whether to transpose.

    Raises:
        ValueError: If GPT-2's layout has no place for what the model has or lacks.

    Example:
        >>> layout(GPTConfig())["h.11.attn.c_attn.weight"]
        Place(ours='blocks.11.attn.qkv.weight', shape=(768, 2304), turned=True)
    """
    if config.positions != "learned" or not config.bias:
        raise ValueError(
            f"positions={config.positions!r} with bias={config.bias} has no place in GPT-2's "
            "layout; train with positions='learned' and bias=True, or use save_checkpoint"
        )
    c = config.n_embd
    sizes = {"V": config.vocab_size, "T": config.context_length, "C": c, "3C": 3 * c, "4C": 4 * c}
    places: dict[str, Place] = {}
    for theirs, (ours, letters) in NAMES.items():
        shape = tuple(sizes[letter] for letter in letters.split())
        for layer in map(str, range(config.n_layer)) if "*" in theirs else [""]:
            name = theirs.replace("*", layer)
            places[name] = Place(ours.replace("*", layer), shape, name.endswith(TURNED))
    return places


DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""The data types of a safetensors file by their names there."""

LARGEST_HEADER = 100_000_000
"""The most bytes of description (JSON, an index) that are read, whatever a file claims."""


@dataclass(frozen=True)
class StoredTensor:
    """Know where on the disk a tensor lies, without reading it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "numbers")
        ...     _ = path.write_bytes(bytes(4) + np.float32([1, 2, 3, 4]).tobytes())
        ...     StoredTensor("x", path, torch.float32, (2, 2), start=4).read().clone()
        tensor([[1., 2.],
                [3., 4.]])
    """

    name: str
    """Its name in the file."""
    path: Path
    """The file."""
    dtype: torch.dtype
    """How its numbers are written."""
    shape: tuple[int, ...]
    """Its sizes, each of at least 0."""
    start: int
    """The place of its first byte, counted from the beginning of the file."""
    checksum: int | None = None
    """The masked crc32c of its bytes, if the file keeps one."""

    @property
    def n_bytes(self) -> int:
        """Count its bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Map its bytes into memory: they are read as they are used, and never changed.

        Returns:
            A tensor of the stored type and shape; copy it before you keep it.

        Raises:
            ValueError: If its bytes do not have the checksum, or the shape has a size of 0.
        """
        content = np.memmap(self.path, np.uint8, mode="c", offset=self.start, shape=(self.n_bytes,))
        if self.checksum is not None and mask_checksum(crc32c(content)) != self.checksum:
            raise ValueError(
                f"tensor {self.name} in {self.path.name} is damaged: its {self.n_bytes} bytes "
                "don't have the recorded crc32c; copy or download the file again"
            )
        return torch.from_numpy(content).view(self.dtype).view(self.shape)


def damaged(path: Path, reason: str) -> ValueError:
    """Make the error for a file that can't be what it says it is.

    Args:
        path: The file.
        reason: What was found, as a clause.
    """
    return ValueError(f"{path} is damaged: {reason}; copy, download or save it again")


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object's dictionary; refuse a name that stands there twice (ValueError)."""
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return values


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """Read a JSON object, and refuse anything else with the file's name.

    Args:
        content: The text.
        path: Where it is from.

    Returns:
        The object as a dictionary.

    Raises:
        ValueError: If it is no JSON, or no object.
    """
    try:
        values = json.loads(content, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its {len(content)} bytes of JSON can't be read ({error})") from error
    if not isinstance(values, dict):
        raise damaged(path, f"its JSON is a {type(values).__name__}, not an object with names")
    return values


def read_small(path: Path) -> bytes:
    """Read a whole file that describes others; a wrong file of gigabytes is refused unread.

    Args:
        path: The file.

    Returns:
        Its bytes.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is larger than `LARGEST_HEADER`.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}; a model's folder holds config.json, "
            "model.safetensors, vocab.json and merges.txt: add it, or name another folder"
        )
    if path.stat().st_size > LARGEST_HEADER:
        raise damaged(path, f"{path.stat().st_size} bytes are far too many for such a file")
    return path.read_bytes()


def describe_tensor(name: str, entry: Any, path: Path, data_start: int) -> StoredTensor:
    """Turn one entry of a safetensors header into the place of a tensor, trusting nothing.

    Args:
        name: The tensor's name.
        entry: Its "dtype", "shape" and "data_offsets" (first byte, and the one after the last).
        path: The file.
        data_start: Where in the file the offsets count from.

    Returns:
        The tensor's place.

    Raises:
        ValueError: If something is missing, of another kind, or contradicts the rest.
    """
    try:
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        start, end = entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
        valid = whole and len(shape) <= 8 and end - start == math.prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise damaged(path, f"the entry of {name[:100]!r} contradicts itself, {str(entry)[:200]}")
    return StoredTensor(name, path, dtype, shape, data_start + start)


def check_extents(tensors: Iterable[StoredTensor]) -> None:
    """Refuse tensors that overlap or reach beyond the end of their file.

    Args:
        tensors: Places in one file or in several.

    Raises:
        ValueError: If a byte would be used twice, or is not there.
    """
    ends: dict[Path, int] = {}
    for tensor in sorted(tensors, key=lambda tensor: (tensor.path, tensor.start)):
        end = tensor.start + tensor.n_bytes
        if tensor.start < ends.get(tensor.path, 0):
            raise damaged(tensor.path, f"the bytes of {tensor.name} overlap another tensor's")
        if end > tensor.path.stat().st_size:
            size = tensor.path.stat().st_size
            raise damaged(tensor.path, f"{tensor.name} ends at byte {end}, the file at {size}")
        ends[tensor.path] = end


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read what a safetensors file holds: 8 bytes of length, a JSON header, then raw numbers.

    Args:
        path: The file.

    Returns:
        The place of each tensor by its name.

    Raises:
        ValueError: If the header is not whole, or does not describe every byte exactly once.

    Source: https://github.com/huggingface/safetensors, README, section "Format".
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, LARGEST_HEADER):
            raise damaged(path, f"its {size} bytes can't hold the header of {length} it announces")
        entries = parse_json(file.read(length), path)
    if not isinstance(entries.pop("__metadata__", {}), dict):  # texts about the file: unused
        raise damaged(path, "its __metadata__ is not an object")
    tensors = {n: describe_tensor(n, entry, path, 8 + length) for n, entry in entries.items()}
    described = sum(tensor.n_bytes for tensor in tensors.values())
    if described != size - 8 - length:
        held = size - 8 - length
        raise damaged(path, f"its header describes {described} bytes of numbers, it holds {held}")
    check_extents(tensors.values())
    return tensors


def read_shards(index: Path) -> dict[str, StoredTensor]:
    """Read what a model that was cut into several files holds.

    Args:
        index: The file model.safetensors.index.json, whose "weight_map" names each tensor's file.

    Returns:
        The place of each tensor by its name.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is named that is not in the folder, or the index is not the files'.
    """
    weight_map = parse_json(read_small(index), index).get("weight_map")
    weight_map = weight_map if isinstance(weight_map, dict) else {}
    files = list(weight_map.values())
    if not files or not all(isinstance(f, str) and re.fullmatch(r"[\w.-]{1,99}", f) for f in files):
        raise damaged(index, 'its "weight_map" does not give each tensor a file of this folder')
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(files)):
        if not (index.parent / file).is_file():
            raise FileNotFoundError(f"{index.parent} has no {file}, which {index.name} names")
        tensors |= read_header(index.parent / file)
    odd = sorted({(n, t.path.name) for n, t in tensors.items()} ^ set(weight_map.items()))
    if odd:
        names = ", ".join(f"{name} in {file}" for name, file in odd[:5])
        raise damaged(index, f"{len(odd)} of its entries are not what the files hold ({names})")
    return tensors


def read_folder(folder: Path) -> dict[str, StoredTensor]:
    """Find a model's tensors in the files of its folder, and never open a pickle.

    Args:
        folder: The folder.

    Returns:
        The place of each tensor by its name.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If there is only a pickle, or a file is damaged.
    """
    if (folder / "model.safetensors").is_file():
        return read_header(folder / "model.safetensors")
    if (folder / "model.safetensors.index.json").is_file():
        return read_shards(folder / "model.safetensors.index.json")
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if pickles:
        raise ValueError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which can run code when it "
            "is opened, so it was left alone; get the model's model.safetensors instead"
        )
    raise FileNotFoundError(f"{folder} has no model.safetensors; name a folder with weights in it")


def unify_names(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Apply the rules for files of all ages, so that one table of names fits them all.

    A prefix "transformer." is dropped. So are `attn.bias` and `attn.masked_bias`, the causal mask
    that older versions of transformers saved with every layer.

    Args:
        tensors: Places by the names in a file.

    Returns:
        Places by the names of `NAMES`, and what else there is.

    Raises:
        ValueError: If a name comes twice, with the prefix and without.
    """
    unified: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix("transformer.")
        if short in unified:
            raise damaged(tensor.path, f"it holds both {short} and transformer.{short}")
        if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", short):
            unified[short] = tensor
    return unified


def check_layout(tensors: Mapping[str, StoredTensor], config: GPTConfig, folder: Path) -> None:
    """Name what is missing, unexpected or wrongly shaped before any weight is read.

    Args:
        tensors: What was found.
        config: What the folder's configuration announces.
        folder: Where both are from.

    Raises:
        ValueError: If they differ; at most five names of each kind are told.
    """
    if config.n_layer > len(tensors):  # also: never write out a table of a billion layers
        raise ValueError(
            f"{folder} announces {config.n_layer} layers but holds {len(tensors)} tensors; copy "
            "or save all files of the model again"
        )
    places = layout(config)
    both = places.keys() & tensors.keys()
    found = {name: tensors[name] for name in sorted(both)}
    troubles = {
        "missing": sorted(places.keys() - both),
        "unexpected": sorted(tensors.keys() - both),
        "of another shape": [
            f"{name} {tensor.shape} instead of {places[name].shape}"
            for name, tensor in found.items()
            if tensor.shape != places[name].shape
        ],
        "not floats": [n for n, t in found.items() if not t.dtype.is_floating_point],
    }
    told = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
        for kind, names in troubles.items()
        if names
    ]
    if told:
        raise ValueError(
            f"the weights in {folder} are not those of its configuration: {'; '.join(told)}; copy "
            "or save all files of the model again"
        )


def check_head(head: StoredTensor | None, table: StoredTensor) -> None:
    """Accept an output layer in the file only if it is the token table, as in GPT-2.

    Args:
        head: The tensor lm_head.weight, None where a file leaves it out.
        table: The tensor wte.weight.

    Raises:
        ValueError: If the two differ.
    """
    if head is None:
        return
    alike = (head.shape, head.dtype) == (table.shape, table.dtype)
    if not alike or not torch.equal(head.read(), table.read()):
        raise ValueError(
            "lm_head.weight is not wte.weight: the model has an output layer of its own, which "
            "GPT-2 and this course's GPT don't have; use a model with tied embeddings"
        )


def build_model(config: GPTConfig, tensors: Mapping[str, StoredTensor], dtype: torch.dtype) -> GPT:
    """Put stored tensors into a new model, one at a time; starting weights are never drawn.

    The largest tensor comes first: while it is copied it is in memory twice, and so the peak
    stays near the size of the weights.

    Args:
        config: The model.
        tensors: Where each tensor of `layout(config)` lies.
        dtype: What the numbers become.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        ValueError: If a tensor's bytes do not have their checksum.
    """
    places = layout(config)
    state: dict[str, Tensor] = {}
    for name in sorted(places, key=lambda name: -tensors[name].n_bytes):
        stored = tensors[name].read()
        stored = stored.T if places[name].turned else stored
        state[places[name].ours] = torch.empty(stored.shape, dtype=dtype).copy_(stored)
    with torch.device("meta"):  # shapes without values
        model = GPT(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def write_safetensors(path: Path, model: GPT, dtype: torch.dtype) -> None:
    """Write a model's weights under GPT-2's names, one tensor at a time.

    Args:
        path: The file.
        model: The model, on any device.
        dtype: How the numbers are written: torch.float32, torch.float16 or torch.bfloat16.

    Raises:
        ValueError: If the model has no place in GPT-2's layout, or a value none in `dtype`.
    """
    places, state = layout(model.config), model.state_dict()
    code = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, place in places.items():
        start, end = end, end + math.prod(place.shape) * dtype.itemsize
        header[name] = {"dtype": code, "shape": place.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for place in places.values():
            tensor = state[place.ours].detach().to("cpu", dtype)
            if not tensor.isfinite().all():
                raise ValueError(
                    f"{place.ours} holds a value that {dtype} can't: infinite, not a number, or "
                    "too large; save with dtype=torch.float32, or look for what went wrong"
                )
            tensor = (tensor.T if place.turned else tensor).contiguous()
            file.write(tensor.view(torch.uint8).numpy().data)


Array = NDArray[np.uint32]
"""Numbers of 32 bits: remainders of the checksum."""


@cache
def skip_tables(power: int) -> tuple[Array, ...]:
    """Prepare what 2 ** power further bytes of zeros do to a remainder.

    A checksum is linear: what a remainder becomes is the exclusive or of what its four bytes
    become. Doing it twice is the same for twice as many zeros.

    Args:
        power: 0 for one byte, 1 for two, 2 for four, and so on.

    Returns:
        Four tables of 256 remainders, for the lowest byte first.
    """
    if power:
        half = skip_tables(power - 1)
        return tuple(skip_zeros(table, half) for table in half)
    table = numbers = np.arange(256, dtype=np.uint32)
    for _ in range(8):  # division by the polynomial of crc32c, bit by bit
        table = ((table >> 1) ^ (table & 1) * 0x82F63B78).astype(np.uint32)
    return table, numbers, numbers << np.uint32(8), numbers << np.uint32(16)


def skip_zeros(remainders: Array, tables: tuple[Array, ...]) -> Array:
    """Let zeros follow: look up each byte of the remainders in its table, and add up."""
    total = tables[0].take(remainders & 255)
    for shift, table in zip((8, 16, 24), tables[1:], strict=True):
        total ^= table.take(remainders >> shift & 255)
    return total


def crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """Compute the checksum that TensorFlow keeps of each tensor and of each part of an index.

    Neighbours are joined two by two, all pairs at once: the left part is followed by as many
    bytes as the right part has, so its remainder is moved on and the right one added.

    Args:
        data: Any bytes.

    Returns:
        The crc32c, 0 to 2³² - 1.

    Source: Castagnoli et al. 1993, and RFC 3720, appendix B.4.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    content = np.frombuffer(data, np.uint8)
    crc = np.array([0xFFFFFFFF], np.uint32)
    for start in range(0, len(content), 1 << 18):
        chunk = content[start : start + (1 << 18)]
        n_levels = (len(chunk) - 1).bit_length()
        remainders = np.zeros(1 << n_levels, np.uint32)  # zeros in front change nothing
        remainders[len(remainders) - len(chunk) :] = skip_tables(0)[0].take(chunk)
        for power in range(n_levels):
            remainders = skip_zeros(remainders[0::2], skip_tables(power)) ^ remainders[1::2]
        for power in range(len(chunk).bit_length()):
            if len(chunk) >> power & 1:
                crc = skip_zeros(crc, skip_tables(power))
        crc ^= remainders
    return int(crc[0]) ^ 0xFFFFFFFF


def mask_checksum(crc: int) -> int:
    """Disguise a checksum as TensorFlow stores it: a checksum of checksums would be a bad one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def take_bytes(data: bytes, start: int, size: int) -> bytes:
    """Cut bytes out of others, and refuse to read beyond their end.

    Args:
        data: The bytes.
        start: The first one wanted.
        size: How many.

    Returns:
        Exactly `size` bytes.

    Raises:
        ValueError: If they are not all there.
    """
    if not 0 <= start <= start + size <= len(data):
        raise ValueError(f"bytes {start} to {start + size} were expected in {len(data)} bytes")
    return data[start : start + size]


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    r"""Read a whole number that takes as many bytes as it needs: 7 bits in each, lowest first.

    Args:
        data: The bytes.
        position: Where the number begins.

    Returns:
        The number, and the position after it.

    Raises:
        ValueError: If it does not end within 10 bytes, or within the data.

    Example:
        >>> read_varint(b"\x96\x01", 0)
        (150, 2)
    """
    number = 0
    for length in range(10):
        (byte,) = take_bytes(data, position + length, 1)
        number |= (byte & 127) << 7 * length
        if byte < 128:
            return number, position + length + 1
    raise ValueError(f"the number at byte {position} does not end within 10 bytes")


class Message(NamedTuple):
    """Hold the fields of a protocol-buffer message by their numbers."""

    numbers: dict[int, int]
    """Fields that are numbers; one that is left out means 0."""
    parts: dict[int, list[bytes]]
    """Fields that are bytes (texts, messages inside the message), each as often as it came."""


def read_message(data: bytes) -> Message:
    r"""Take a protocol-buffer message apart; only its writer knows what the fields mean.

    Args:
        data: The message.

    Returns:
        Its fields.

    Raises:
        ValueError: If the message is not whole.

    Source: https://protobuf.dev/programming-guides/encoding/

    Example:
        >>> read_message(b"\x08\x96\x01\x12\x02hi")
        Message(numbers={1: 150}, parts={2: [b'hi']})
    """
    message, position = Message({}, {}), 0
    while position < len(data):
        tag, position = read_varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            message.numbers[number], position = read_varint(data, position)
        elif kind == 2:
            size, position = read_varint(data, position)
            message.parts.setdefault(number, []).append(take_bytes(data, position, size))
            position += size
        elif kind == 5:  # four bytes
            message.numbers[number] = int.from_bytes(take_bytes(data, position, 4), "little")
            position += 4
        else:
            raise ValueError(f"field {number} of a message is of the unknown kind {kind}")
    return message


def read_block(table: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Read one block of a sorted-string table: keys in order, each with a value.

    A key is stored as the number of bytes that it shares with the one before, and the rest.

    Args:
        table: The whole file.
        handle: Two numbers: where the block begins and how many bytes it has.

    Yields:
        Keys and values.

    Raises:
        ValueError: If the block's bytes do not have their checksum, or make no sense.

    Source: doc/table_format.md and table/block_builder.cc in https://github.com/google/leveldb
    """
    start, position = read_varint(handle, 0)
    size, _ = read_varint(handle, position)
    block, trailer = take_bytes(table, start, size + 1), take_bytes(table, start + size + 1, 4)
    if mask_checksum(crc32c(block)) != int.from_bytes(trailer, "little"):
        raise ValueError(f"the block at byte {start} does not have the recorded crc32c")
    if block[-1] != 0:
        raise ValueError(f"the block at byte {start} is compressed, which GPT-2's never are")
    n_restarts = int.from_bytes(take_bytes(block, size - 4, 4), "little")
    entries = take_bytes(block, 0, size - 4 - 4 * n_restarts)
    position, key = 0, b""
    while position < len(entries):
        n_shared, position = read_varint(entries, position)
        n_rest, position = read_varint(entries, position)
        n_value, position = read_varint(entries, position)
        if n_shared + n_rest > 1000:  # a small file could otherwise describe terabytes of keys
            raise ValueError(f"a key in the block at byte {start} has more than 1000 bytes")
        key = take_bytes(key, 0, n_shared) + take_bytes(entries, position, n_rest)
        yield key, take_bytes(entries, position + n_rest, n_value)
        position += n_rest + n_value


def read_table(table: bytes) -> dict[bytes, bytes]:
    """Read a sorted-string table: its last 48 bytes lead to an index block, that to the others.

    Args:
        table: The whole file.

    Returns:
        The value of each key, in order.

    Raises:
        ValueError: If it is no such table, or is not whole.

    Source: doc/table_format.md in https://github.com/google/leveldb, which TensorFlow took over
        in tensorflow/core/lib/io/table.
    """
    footer = take_bytes(table, len(table) - 48, 48)
    if footer[40:] != 0xDB4775248B80FB57.to_bytes(8, "little"):
        raise ValueError("its last 8 bytes are not those of a sorted-string table")
    _, position = read_varint(footer, 0)  # the first handle is that of a block without use
    _, position = read_varint(footer, position)
    entries: dict[bytes, bytes] = {}
    last: bytes | None = None
    for _, handle in read_block(table, footer[position:40]):
        for key, value in read_block(table, handle):
            if last is not None and key <= last:
                raise ValueError(f"its keys are not in order: {key!r} comes after {last!r}")
            entries[key], last = value, key
    return entries


def openai_name(name: str) -> str:
    """Give a tensor of OpenAI's checkpoint the name that it has in GPT-2's files of today.

    Args:
        name: The name in the checkpoint.

    Returns:
        A name of `NAMES`, if it is one of GPT-2's tensors.

    Example:
        >>> openai_name("model/h11/attn/c_attn/w"), openai_name("model/wte")
        ('h.11.attn.c_attn.weight', 'wte.weight')
    """
    *path, last = re.sub(r"^h(\d+)/", r"h/\1/", name.removeprefix("model/")).split("/")
    ending = {"w": "weight", "g": "weight", "b": "bias"}.get(last, f"{last}.weight")
    return ".".join([*path, ending])


def read_entry(name: str, content: bytes, index: Path, n_files: int) -> StoredTensor:
    """Turn one entry of a checkpoint's index into the place of a tensor, trusting nothing.

    Args:
        name: The tensor's name.
        content: The entry, a message: 1 data type, 2 shape, 3 number of the data file, 4 first
            byte, 5 size in bytes, 6 masked crc32c, 7 slices of a tensor saved in parts.
        index: The index; the data files stand beside it.
        n_files: How many data files there are.

    Returns:
        The tensor's place; the leading axis of 1 that OpenAI's matrices have is left out.

    Raises:
        FileNotFoundError: If the data file is not there.
        ValueError: If the entry makes no sense.

    Source: `BundleEntryProto` in tensorflow/core/protobuf/tensor_bundle.proto.
    """
    entry = read_message(content)
    code, number, start, size, checksum = (entry.numbers.get(i, 0) for i in (1, 3, 4, 5, 6))
    sizes = read_message(entry.parts.get(2, [b""])[-1]).parts.get(2, [])
    shape = tuple(read_message(axis).numbers.get(1, 0) for axis in sizes)
    dtypes = {1: torch.float32, 2: torch.float64, 14: torch.bfloat16, 19: torch.float16}
    if code not in dtypes or 7 in entry.parts or len(shape) > 8:
        raise ValueError(f"tensor {name} is not a whole tensor of floats (data type {code})")
    if size != math.prod(shape) * dtypes[code].itemsize or number >= n_files:
        raise ValueError(f"tensor {name} of shape {shape} can't be {size} bytes of file {number}")
    path = index.with_name(f"{index.stem}.data-{number:05d}-of-{n_files:05d}")
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {path.name}, where {name} is; add it")
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    return StoredTensor(name, path, dtypes[code], shape, start, checksum)


def read_checkpoint(index: Path) -> dict[str, StoredTensor]:
    """Read what a TensorFlow checkpoint holds, without TensorFlow.

    Args:
        index: The file model.ckpt.index; beside it stand one or more data files.

    Returns:
        The place of each tensor, by GPT-2's name of today.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If the index is damaged, or contradicts itself or the data files.
    """
    tensors: dict[str, StoredTensor] = {}
    try:
        entries = read_table(read_small(index))
        header = read_message(entries.pop(b"", b"")).numbers  # 1 number of files, 2 byte order
        if header.get(2):
            raise ValueError("its numbers are big-endian, GPT-2's are little-endian")
        for key, content in entries.items():
            name = key.decode("utf-8", "replace")
            if openai_name(name) in tensors:
                raise ValueError(f"two of its tensors are named {openai_name(name)}")
            tensors[openai_name(name)] = read_entry(name, content, index, header.get(1, 0))
    except ValueError as error:
        raise damaged(index, str(error)) from error
    check_extents(tensors.values())
    return tensors


CONFIG_NAMES = {
    "vocab_size": ("vocab_size", "n_vocab"),
    "context_length": ("n_positions", "n_ctx"),
    "n_layer": ("n_layer", "n_layer"),
    "n_head": ("n_head", "n_head"),
    "n_embd": ("n_embd", "n_embd"),
}
"""For each field of `GPTConfig` its name in config.json and in OpenAI's hparams.json."""

ARCHITECTURE = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
"""What config.json must say, where it says anything: anything else is another computation."""


def read_config(path: Path) -> GPTConfig:
    """Read a model's sizes, and refuse a model that computes something else than GPT-2.

    Args:
        path: The file config.json, or hparams.json of OpenAI's release.

    Returns:
        The configuration; its dropout is "resid_pdrop" of config.json, 0 in OpenAI's release.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no such file, or describes another architecture.
    """
    values = parse_json(read_small(path), path)
    is_openai = path.name == "hparams.json"
    for name, needed in ARCHITECTURE.items():
        value = values.get(name, needed if is_openai or name != "model_type" else None)
        same_as = {"gelu_pytorch_tanh": "gelu_new"}.get(str(value), value)
        if same_as != needed:
            raise ValueError(
                f"{path} has {name} {value!r} where GPT-2 has {needed!r}: this course's GPT would "
                "compute something else; choose a model of GPT-2's architecture"
            )
    keys = {ours: names[is_openai] for ours, names in CONFIG_NAMES.items()}
    missing = [key for key in keys.values() if key not in values]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; copy or save it again")
    sizes = {ours: values[key] for ours, key in keys.items()}
    try:
        config = GPTConfig(**sizes, dropout=values.get("resid_pdrop", 0.0 if is_openai else 0.1))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if values.get("n_inner") not in (None, 4 * config.n_embd):
        raise ValueError(
            f"{path} has n_inner {values['n_inner']!r}, not {4 * config.n_embd}, 4 times n_embd; "
            "choose a model of GPT-2's architecture"
        )
    return config


VOCABULARY_SHA256 = {
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
"""The sha256 of GPT-2's two files, which OpenAI named encoder.json and vocab.bpe."""


def split_tokenizer_json(path: Path) -> tuple[bytes, bytes]:
    """Take the vocabulary and the merges out of the one file that newer transformers write.

    Args:
        path: The file tokenizer.json.

    Returns:
        What vocab.json and merges.txt would hold.

    Raises:
        ValueError: If the file is damaged, or describes another kind of tokenizer.
    """
    values = parse_json(read_small(path), path)
    try:
        model, cutter = values["model"], values["pre_tokenizer"]
        kinds = (model["type"], cutter["type"], cutter["add_prefix_space"], values["normalizer"])
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        added = {token["content"]: token["id"] for token in values["added_tokens"]}
        ids = dict(sorted({**model["vocab"], **added}.items(), key=lambda item: item[1]))
    except (AttributeError, KeyError, TypeError) as error:
        raise damaged(path, f"it is not the file of a tokenizer ({error!r})") from error
    if kinds != ("BPE", "ByteLevel", False, None):
        raise ValueError(
            f"{path} describes a tokenizer of the kind {kinds}, which cuts texts in another way "
            "than GPT-2's; use a model with GPT-2's kind of tokenizer"
        )
    lines = "".join(f"{pair}\n" for pair in ["#version: 0.2", *pairs])
    return json.dumps(ids).encode(), lines.encode()


def read_vocabulary(folder: Path) -> tuple[bytes, bytes]:
    """Find a tokenizer's vocabulary and merges under any of the names that they go by.

    Args:
        folder: A model's folder.

    Returns:
        What vocab.json and merges.txt hold, or would hold.

    Raises:
        FileNotFoundError: If they are not there.
        ValueError: If a file is damaged.
    """
    if (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        return split_tokenizer_json(folder / "tokenizer.json")
    names = ("encoder.json", "vocab.bpe")  # OpenAI's release
    if not (folder / names[0]).is_file():
        names = ("vocab.json", "merges.txt")
    vocabulary, merges = (read_small(folder / name) for name in names)
    parse_json(vocabulary, folder / names[0])
    return vocabulary, merges


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a model's folder.

    Args:
        folder: The folder: with vocab.json and merges.txt, with encoder.json and vocab.bpe, or
            with tokenizer.json.

    Returns:
        GPT-2's own as tiktoken's `Encoding`, any other as a `BPETokenizer`.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged, or the files do not belong together.
    """
    files = dict(zip(VOCABULARY_SHA256, read_vocabulary(folder), strict=True))
    if all(hashlib.sha256(files[name]).hexdigest() == VOCABULARY_SHA256[name] for name in files):
        return gpt2_encoding()
    with tempfile.TemporaryDirectory() as draft:
        for name, content in files.items():
            Path(draft, name).write_bytes(content)
        return BPETokenizer.load(draft)


def check_vocabulary(tokenizer: Tokenizer, config: GPTConfig) -> None:
    """Refuse a tokenizer that was not made for the model.

    Args:
        tokenizer: The tokenizer.
        config: The model.

    Raises:
        ValueError: If the one has more or fewer tokens than the other.
    """
    match tokenizer:
        case tiktoken.Encoding():
            n_tokens = tokenizer.n_vocab
        case BPETokenizer():
            n_tokens = tokenizer.vocab_size
        case _:
            raise ValueError(f"{tokenizer!r} is no BPETokenizer and no tiktoken.Encoding")
    if n_tokens != config.vocab_size:
        raise ValueError(
            f"the tokenizer has {n_tokens} tokens and the model {config.vocab_size} (vocab_size); "
            "put the model and its own tokenizer together"
        )


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

MODEL_FILES = ("vocab.json", "merges.txt", "model.safetensors", "config.json")
"""What a model's folder holds."""


def find_cached(name: str) -> Path | None:
    """Look for a size of GPT-2 in the cache that all programs with huggingface_hub share.

    Args:
        name: A key of `RELEASES`.

    Returns:
        The folder that holds all its files at the pinned commit, None if there is none.
    """
    for repository in (f"openai-community/{name}", name):  # the second was its name until 2024
        found = [
            try_to_load_from_cache(repository, file, revision=RELEASES[name][0])
            for file in MODEL_FILES
        ]
        if all(isinstance(path, str) for path in found):
            return Path(str(found[0])).parent
    return None


def fetch_from_hub(name: str) -> Path:
    """Fetch a size of GPT-2 into the cache, with a progress bar; what broke off goes on.

    Args:
        name: A key of `RELEASES`.

    Returns:
        The folder that holds `MODEL_FILES`.

    Raises:
        ConnectionError: If it can't be fetched; the message says which files to put where.
    """
    revision, _ = RELEASES[name]
    repository = f"openai-community/{name}"
    try:
        paths = [hf_hub_download(repository, file, revision=revision) for file in MODEL_FILES]
    except Exception as error:  # huggingface_hub passes on the errors of several other packages
        raise ConnectionError(
            f"{name} is not on this machine and could not be fetched ({type(error).__name__}). "
            "Connect to the internet and run this again: a download that broke off goes on. Or "
            f"put {', '.join(MODEL_FILES)} from https://huggingface.co/{repository}/tree/"
            f"{revision} into a folder, and pass that folder instead of {name!r}"
        ) from error
    return Path(paths[0]).parent


def find_release(name: str) -> Path:
    """Find a size of GPT-2 in the cache or fetch it, and check that it is the published one.

    Args:
        name: A key of `RELEASES`.

    Returns:
        The folder that holds `MODEL_FILES`.

    Raises:
        ConnectionError: If it is not cached and can't be fetched.
        ValueError: If a file does not have the recorded sha256.
    """
    folder = find_cached(name) or fetch_from_hub(name)
    for file, sha256 in (RELEASES[name][1] | VOCABULARY_SHA256).items():
        with open(folder / file, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{folder / file} is not the published file: its sha256 is {found[:12]}..., not "
                f"{sha256[:12]}...; delete {(folder / file).resolve()} and run this again"
            )
    return folder


def load_gpt2(
    name_or_folder: str | Path = "gpt2", dtype: torch.dtype = torch.float32
) -> tuple[GPT, Tokenizer]:
    """Load GPT-2, or any model in its form, with its tokenizer.

    Args:
        name_or_folder: "gpt2" (124M), "gpt2-medium" (355M), "gpt2-large" (774M) or "gpt2-xl"
            (1558M), which are fetched once; or a folder: of `save_gpt2`, of transformers, or of
            OpenAI's release (which `gptlib.extras.openai_release` fetches). "./gpt2" is a folder.
        dtype: What the weights become, however they are stored.

    Returns:
        The model, in evaluation mode and on the CPU, and the tokenizer: GPT-2's own as tiktoken's
        `Encoding`, any other as a `BPETokenizer`. The peak of the memory is little above the
        weights.

    Raises:
        ConnectionError: If GPT-2 is not on this machine and can't be fetched.
        FileNotFoundError: If the folder or a file of it is not there.
        ValueError: If a file is damaged, is another model's or could run code.

    Example:
        >>> load_gpt2("my-model")
        Traceback (most recent call last):
        FileNotFoundError: there is no folder 'my-model'; pass one, or one of gpt2, gpt2-medium,
        gpt2-large, gpt2-xl
    """
    is_release = isinstance(name_or_folder, str) and name_or_folder in RELEASES
    folder = find_release(str(name_or_folder)) if is_release else Path(name_or_folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(name_or_folder)!r}; pass one, or one of {', '.join(RELEASES)}"
        )
    if (folder / "model.ckpt.index").is_file():
        config = read_config(folder / "hparams.json")
        tensors = read_checkpoint(folder / "model.ckpt.index")
    else:
        config = read_config(folder / "config.json")
        tensors = unify_names(read_folder(folder))
    head = tensors.pop("lm_head.weight", None)
    check_layout(tensors, config, folder)
    check_head(head, tensors["wte.weight"])
    tokenizer = read_tokenizer(folder)
    check_vocabulary(tokenizer, config)
    return build_model(config, tensors, dtype), tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Write a tokenizer as GPT-2's two files, and what transformers wants to know beside them.

    Args:
        folder: Where to write vocab.json, merges.txt and tokenizer_config.json.
        tokenizer: One of ours, or GPT-2's in tiktoken.

    Returns:
        The id of `END_OF_TEXT`, None if the tokenizer has none.

    Raises:
        ValueError: If it is another encoding of tiktoken's than GPT-2's.
    """
    if isinstance(tokenizer, tiktoken.Encoding):
        if tokenizer.name not in ("gpt2", "r50k_base"):
            raise ValueError(
                f"the tokenizer is tiktoken's {tokenizer.name!r}, which GPT-2's files can't hold; "
                "pass gpt2_encoding() or a BPETokenizer"
            )
        tokenizer = BPETokenizer(recover_merges(read_gpt2_ranks()))
    tokenizer.save(folder)
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    special = {
        str(token): {"content": name, "special": True, **plain}
        for name, token in tokenizer.special_tokens.items()
    }
    end = END_OF_TEXT if END_OF_TEXT in tokenizer.special_tokens else None
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    values = {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": special, **roles}
    text = json.dumps(values | {"add_prefix_space": False}, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    return tokenizer.special_tokens.get(END_OF_TEXT)


def write_config(path: Path, config: GPTConfig, dtype: torch.dtype, end: int | None) -> None:
    """Write a model's sizes, and that it computes what GPT-2 does.

    Args:
        path: The file config.json.
        config: The sizes.
        dtype: How the weights are stored.
        end: The id of `END_OF_TEXT`.
    """
    values: dict[str, Any] = {"architectures": ["GPT2LMHeadModel"], **ARCHITECTURE}
    for ours, (theirs, older) in CONFIG_NAMES.items():
        values[theirs] = getattr(config, ours)
        if ours == "context_length":
            values[older] = config.context_length
    values |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
    values |= {"bos_token_id": end, "eos_token_id": end}
    values["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def save_gpt2(
    model: GPT, tokenizer: Tokenizer, folder: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model and its tokenizer in GPT-2's form, which transformers and others open.

    The files are written whole in a place of their own and then moved. Another model's config.json
    and weights leave first, with the head and the form of prompts that chapters 8 and 9 put beside
    them; config.json comes last: no mixture of two models is ever loaded.

    Args:
        model: The model, on any device.
        tokenizer: The tokenizer whose ids it was trained on.
        folder: Where to write; it is made if it is not there.
        dtype: How the numbers are stored: torch.float32 exactly; torch.float16 or torch.bfloat16
            in half the space, with three to four digits of each number, or two to three.

    Raises:
        OSError: If the folder can't be written.
        ValueError: If the two do not belong together, GPT-2's form has no place for the model, a
            number has none in `dtype`, or files of another model there would be read first.
    """
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype is {dtype}; choose torch.float32, torch.float16 or torch.bfloat16")
    ours = {place.ours for place in layout(model.config).values()}  # refuses what has no place
    if odd := sorted(ours ^ model.state_dict().keys()):
        raise ValueError(
            f"the model has other tensors than GPT-2's layout ({len(odd)}, such as {odd[0]}); if "
            "they are adapters, call merge_lora first"
        )
    check_vocabulary(tokenizer, model.config)
    folder = Path(folder).expanduser()
    for name in ("encoder.json", "tokenizer.json", "added_tokens.json", "model.ckpt.index"):
        if (folder / name).exists():
            raise ValueError(f"{folder} holds another model's {name}; choose an empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as name:
            draft = Path(name)
            end = write_tokenizer(draft, tokenizer)
            write_config(draft / "config.json", model.config, dtype, end)
            write_safetensors(draft / "model.safetensors", model, dtype)
            added = ("head.safetensors", "prompt_form.json")  # of chapters 8 and 9
            for file in ("config.json", "model.safetensors", *added):
                (folder / file).unlink(missing_ok=True)  # from here to the end: no model
            for file in ("tokenizer_config.json", *MODEL_FILES):
                os.replace(draft / file, folder / file)
    except OSError as error:
        reason = f"{folder} can't be written ({error.strerror}); choose another folder"
        raise OSError(error.errno, reason) from error


Activations = Mapping[str, Tensor]
"""What each stage of a model hands on, by the stage's name, in the order of the computation."""


@torch.no_grad()
def activations(model: GPT, tokens: Tensor) -> dict[str, Tensor]:
    """Record what every stage of a model hands on while it computes its logits.

    Args:
        model: The model; it runs as it is, mistakes and all.
        tokens: Token ids, shape (B, T).

    Returns:
        By stage: "embed"; for each block "blocks.0.ln_1", "blocks.0.attn", "blocks.0.ln_2",
        "blocks.0.mlp" and "blocks.0", the stream after it; "ln_f", each (B, T, C); and "logits",
        (B, T, V).
    """
    record: dict[str, Tensor] = {}

    def keep_as(stage: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: record.update({stage: output.clone()})

    is_stage = re.compile(r"embed|blocks\.\d+(\.(ln_1|attn|ln_2|mlp))?|ln_f").fullmatch
    stages = [(name, module) for name, module in model.named_modules() if is_stage(name)]
    hooks = [module.register_forward_hook(keep_as(name)) for name, module in stages]
    try:
        logits = model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return record | {"logits": logits}


@dataclass(frozen=True)
class Difference:
    """Say how far two models are apart at one stage."""

    stage: str
    """The stage, a key of `activations`."""
    error: float
    """The length of the difference, as a share of the reference's length; not a number counts."""
    largest: float
    """The largest difference of two values."""
    position: tuple[int, ...]
    """Where that is: batch, position and channel (or token of the vocabulary)."""


@torch.no_grad()
def compare_stages(model: GPT, reference: GPT | Activations, tokens: Tensor) -> list[Difference]:
    """Measure at every stage how far a model is from one that is known to be right.

    Args:
        model: The model to test.
        reference: A model of ours, or the activations of any other program's model by the names
            of `activations`; it need not have all stages.
        tokens: Token ids, shape (B, T), the same that the activations were recorded with.

    Returns:
        A difference for each stage that both have, in the order of the computation.

    Raises:
        ValueError: If they have no stage in common, or a stage with different shapes.
    """
    right = activations(reference, tokens) if isinstance(reference, GPT) else reference
    differences = []
    for stage, mine in activations(model, tokens).items():
        if stage not in right:
            continue
        if mine.shape != right[stage].shape:
            raise ValueError(
                f"{stage} has shape {tuple(mine.shape)} and {tuple(right[stage].shape)} in the "
                "reference; compare models of one size on the same tokens"
            )
        theirs = right[stage].cpu().double()
        gap = (mine.cpu().double() - theirs).abs()
        error = float(gap.norm() / theirs.norm().clamp(min=1e-30))
        place = np.unravel_index(int(gap.argmax()), gap.shape)
        differences.append(Difference(stage, error, float(gap.max()), tuple(map(int, place))))
    if not differences:
        raise ValueError(f"the reference has no stage of this model, only {list(right)[:5]}")
    return differences


def first_divergence(
    model: GPT, reference: GPT | Activations, tokens: Tensor, tolerance: float = 1e-5
) -> Difference | None:
    """Find the first stage where a model computes something else than one known to be right.

    All stages before it agree, so the mistake is in this one, or in how its input is added up.

    Args:
        model: The model to test.
        reference: A model of ours, or recorded activations; see `compare_stages`.
        tokens: Token ids, shape (B, T); a few dozen varied ones show most mistakes.
        tolerance: The largest `Difference.error` that passes as rounding; in float32 two right
            programs differ by about 1e-6.

    Returns:
        The first difference above the tolerance, None if there is none.

    Raises:
        ValueError: If the two can't be compared.

    Example:
        >>> config = GPTConfig(vocab_size=9, context_length=8, n_layer=2, n_head=2, n_embd=4)
        >>> right, wrong = (GPT(config, torch.Generator().manual_seed(0)) for _ in range(2))
        >>> wrong.blocks[1].ln_2.eps = 1e-3
        >>> first_divergence(wrong, right, torch.tensor([[1, 2, 3]])).stage
        'blocks.1.ln_2'
    """
    differences = compare_stages(model, reference, tokens)
    return next((d for d in differences if not d.error <= tolerance), None)


@torch.no_grad()
def head_scores(maps: Tensor, period: int) -> dict[str, Tensor]:
    """Score every head for three habits that are known from trained models.

    Args:
        maps: Attention weights, shape (L, B, H, T, S) with S = T, from `attention_maps`, of a
            text that repeats itself after `period` tokens.
        period: Length of what is repeated, in tokens, 2 up to but not including T.

    Returns:
        Shares of attention from 0 to 1, each of shape (L, H), averaged over queries: "previous
        token"; "first token"; and "induction", from a token's second occurrence to the token that
        followed the first.

    Raises:
        ValueError: If `period` leaves nothing to repeat.

    Source:
        Olsson et al. 2022, "In-context Learning and Induction Heads".
    """
    if not 2 <= period < maps.size(-1):
        raise ValueError(f"period is {period}; choose 2 to {maps.size(-1) - 1}, below the length")
    induction = maps.diagonal(1 - period, dim1=-2, dim2=-1)[..., 1:]  # query t, key t - period + 1
    habits = {
        "previous token": maps.diagonal(-1, dim1=-2, dim2=-1),
        "first token": maps[..., 1:, 0],
        "induction": induction,
    }
    return {habit: weights.mean(dim=(1, -1)) for habit, weights in habits.items()}  # (L, H)


@torch.no_grad()
def logit_lens(model: GPT, tokens: Tensor) -> Tensor:
    """Ask after every layer which token the model would name if it stopped there.

    Args:
        model: The model, in evaluation mode.
        tokens: Token ids, shape (B, T).

    Returns:
        Logits, shape (L + 1, B, T, V): of the embedding, then after each block; the last are the
        model's own.

    Source:
        nostalgebraist 2020, "interpreting GPT: the logit lens".

    Example:
        >>> model = GPT(GPTConfig(vocab_size=9, context_length=4, n_layer=3, n_head=1, n_embd=4))
        >>> logit_lens(model, torch.tensor([[1, 2]])).shape
        torch.Size([4, 1, 2, 9])
    """
    streams = [model.embed(tokens)]
    for block in model.blocks:
        streams.append(block(streams[-1]))
    return torch.stack([model.unembed(stream) for stream in streams])  # (L + 1, B, T, V)
