"""Write TensorFlow checkpoints, right or wrong on purpose, for tests of the reader."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from gptlib.extras.formats.tensorflow import crc32c, mask_checksum

CODES = {"float32": 1, "float64": 2, "int32": 3, "float16": 19}
MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
Pair = tuple[bytes, bytes]


def varint(number: int) -> bytes:
    """Spell a number in groups of 7 bits, the lowest first."""
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def message(fields: Iterable[tuple[int, int | bytes]]) -> bytes:
    """Spell a protocol-buffer message; field 6 takes four bytes, as a checksum does."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        elif number == 6:
            out += varint(number << 3 | 5) + value.to_bytes(4, "little")
        else:
            out += varint(number << 3) + varint(value)
    return out


def block(pairs: Iterable[Pair], restart: int = 16, kind: int = 0) -> bytes:
    """Lay out one block and its trailer."""
    out, last, starts = b"", b"", []
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % restart:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            starts.append(len(out))
        rest = key[shared:]
        out += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        last = key
    starts = starts or [0]
    for number in (*starts, len(starts)):
        out += number.to_bytes(4, "little")
    return sign(out + bytes([kind]))


def sign(content: bytes) -> bytes:
    """Add the checksum that a block ends with."""
    return content + mask_checksum(crc32c(content)).to_bytes(4, "little")


def table(pairs: Iterable[Pair], block_size: int = 4096, kind: int = 0) -> bytes:
    """Lay out a whole sorted-string table; keys stay in the order given."""
    out, waiting, size = b"", list[Pair](), 0
    handles: list[Pair] = []

    def flush() -> None:
        nonlocal out, waiting, size
        content = block(waiting, kind=kind)
        handles.append((waiting[-1][0], varint(len(out)) + varint(len(content) - 5)))
        out, waiting, size = out + content, [], 0

    for key, value in pairs:
        waiting.append((key, value))
        size += len(key) + len(value)
        if size >= block_size:
            flush()
    if waiting:
        flush()
    footer = b""
    for pairs_of in ([], handles):
        content = block(pairs_of, restart=1)
        footer += varint(len(out)) + varint(len(content) - 5)
        out += content
    return out + footer.ljust(40, b"\0") + MAGIC


def entry(
    array: np.ndarray, start: int, shard: int = 0, extra: Iterable[tuple[int, int | bytes]] = ()
) -> bytes:
    """Describe a tensor as `BundleEntryProto`."""
    content = array.tobytes()
    shape = message([(2, message([(1, size)])) for size in array.shape])
    checksum = mask_checksum(crc32c(content))
    code = CODES[array.dtype.name]
    fields: list[tuple[int, int | bytes]] = [(1, code), (2, shape), (3, shard), (4, start)]
    return message([*fields, (5, len(content)), (6, checksum), *extra])


def write_checkpoint(
    folder: Path, tensors: Mapping[str, np.ndarray], block_size: int = 4096
) -> Path:
    """Write a checkpoint of one data file; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs: list[Pair] = [(b"", message([(1, 1), (3, message([(1, 1)]))]))]
    with open(folder / "model.ckpt.data-00000-of-00001", "wb") as data:
        for name in sorted(tensors):
            pairs.append((name.encode(), entry(tensors[name], data.tell())))
            data.write(tensors[name].data)
    (folder / "model.ckpt.index").write_bytes(table(pairs, block_size))
    return folder / "model.ckpt.index"
