"""OpenAI's checkpoint of 2019, read without TensorFlow.

`model.ckpt.index` says what is where, `model.ckpt.data-00000-of-00001` holds the numbers. Four
small ideas make the format: a checksum (`crc32c`), numbers of varying length (`read_varint`),
messages (`read_message`), and a sorted table whose keys share their beginnings (`read_table`).
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlib.weights import damaged


@dataclass(frozen=True)
class StoredTensor:
    """Know where on the disk a tensor lies, without reading it."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Its first byte, counted from the beginning of the file."""
    checksum: int
    """The masked crc32c of its bytes."""

    @property
    def n_bytes(self) -> int:
        """Count its bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Map its bytes into memory, and compare their checksum; the file is never written."""
        content = np.memmap(self.path, np.uint8, mode="c", offset=self.start, shape=(self.n_bytes,))
        if mask_checksum(crc32c(content)) != self.checksum:
            raise ValueError(
                f"tensor {self.name} in {self.path.name} is damaged: its {self.n_bytes} bytes "
                "don't have the recorded crc32c; copy or download the file again"
            )
        return torch.from_numpy(content).view(self.dtype).view(self.shape)


def check_extents(tensors: Iterable[StoredTensor]) -> None:
    """Refuse tensors that overlap or reach beyond the end of their file."""
    ends: dict[Path, int] = {}
    for tensor in sorted(tensors, key=lambda tensor: (tensor.path, tensor.start)):
        end, size = tensor.start + tensor.n_bytes, tensor.path.stat().st_size
        if tensor.start < ends.get(tensor.path, 0):
            raise damaged(tensor.path, f"the bytes of {tensor.name} overlap another tensor's")
        if end > size:
            raise damaged(tensor.path, f"{tensor.name} ends at byte {end}, the file at {size}")
        ends[tensor.path] = end


Array = NDArray[np.uint32]
"""Numbers of 32 bits: remainders of the checksum."""


@cache
def skip_tables(power: int) -> tuple[Array, ...]:
    """Prepare what 2 ** power further bytes of zeros do to a remainder, lowest byte first.

    A checksum is linear: what a remainder becomes is the exclusive or of what its four bytes
    become. Doing it twice is the same for twice as many zeros.
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
    """Cut `size` bytes out of others, and refuse to read beyond their end (ValueError)."""
    if not 0 <= start <= start + size <= len(data):
        raise ValueError(f"bytes {start} to {start + size} were expected in {len(data)} bytes")
    return data[start : start + size]


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    r"""Read a whole number of as many bytes as it needs, 7 bits in each, and the place after it.

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
    """The fields of a protocol-buffer message, by their numbers."""

    numbers: dict[int, int]
    """Fields that are numbers; one that is left out means 0."""
    parts: dict[int, list[bytes]]
    """Fields that are bytes, as texts and messages inside the message are."""


def read_message(data: bytes) -> Message:
    r"""Take a protocol-buffer message apart; only its writer knows what the fields mean.

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
        content: The entry, a message: 1 data type, 2 shape, 3 number of the data file, 4 first
            byte, 5 size in bytes, 6 masked crc32c, 7 slices of a tensor saved in parts.
        index: Its path; the `n_files` data files stand beside it.

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
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape  # as OpenAI's matrices have
    return StoredTensor(name, path, dtypes[code], shape, start, checksum)


OPTIMIZER = re.compile(r"(^|/)(Adam(_\d+)?|Momentum|beta\d_power|global_step)$")
"""Names of what a training program keeps beside the weights."""


def read_checkpoint(index: Path) -> dict[str, StoredTensor]:
    """Find each tensor of a checkpoint, by GPT-2's name of today, in the files beside its index."""
    tensors: dict[str, StoredTensor] = {}
    try:
        with open(index, "rb") as file:
            entries = read_table(file.read(2**26))  # a wrong file of gigabytes is not read
        header = read_message(entries.pop(b"", b"")).numbers  # 1 number of files, 2 byte order
        if header.get(2):
            raise ValueError("its numbers are big-endian, GPT-2's are little-endian")
        for key, content in entries.items():
            name = key.decode("utf-8", "replace")
            if OPTIMIZER.search(name):
                continue
            if openai_name(name) in tensors:
                raise ValueError(f"two of its tensors are named {openai_name(name)}")
            tensors[openai_name(name)] = read_entry(name, content, index, header.get(1, 0))
    except ValueError as error:
        raise damaged(index, str(error)) from error
    check_extents(tensors.values())
    return tensors
