"""The IDX format of MNIST: arrays with a header of big-endian words, plain or gzipped.

    byte 0, 1   zero
    byte 2      type of the elements: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64
    byte 3      rank
    4 bytes     for each dimension, its size
    elements    big-endian, the last dimension fastest

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section File Formats.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, corrupt

ELEMENTS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# Read in pieces: a lying header must not make us allocate what it claims.
_PIECE = 1 << 20


def read_idx(path: Path | str, dtype: str | None = None, rank: int | None = None) -> NDArray[Any]:
    """Reads one IDX file, gzipped or not (told by its first bytes, not by its name).

    Args:
        path: the file.
        dtype: the element type it must have, e.g. "uint8"; None takes any.
        rank: the number of dimensions it must have; None takes any.

    Returns:
        An array of the file's shape in the machine's byte order.

    Raises:
        DataError: not readable, not IDX, another type or rank, too short or too long.
    """
    try:
        with open(path, "rb") as file:
            unpacked = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not unpacked:
                return _Reader(file, path, unpacked).array(dtype, rank)
            with gzip.GzipFile(fileobj=file) as stream:
                return _Reader(stream, path, unpacked).array(dtype, rank)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Reader:
    """Takes a stream apart and knows where it is."""

    def __init__(self, stream: _Stream, path: Path | str, unpacked: bool) -> None:
        self.stream, self.path, self.unpacked = stream, path, unpacked
        self.offset = 0

    def error(self, offset: int, expected: str, found: str) -> DataError:
        return corrupt(self.path, offset, expected, found, unpacked=self.unpacked)

    def take(self, size: int) -> bytearray:
        """At most `size` bytes; fewer at the end of the file."""
        taken = bytearray()
        while len(taken) < size:
            try:
                piece = self.stream.read(min(size - len(taken), _PIECE))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                at = self.offset + len(taken)
                raise self.error(at, "valid gzip data", str(error)) from error
            if not piece:
                break
            taken += piece
        self.offset += len(taken)
        return taken

    def exactly(self, size: int, what: str) -> bytearray:
        start = self.offset
        taken = self.take(size)
        if len(taken) < size:
            raise self.error(start, f"{size} bytes of {what}", f"only {len(taken)}: truncated")
        return taken

    def array(self, dtype: str | None, rank: int | None) -> NDArray[Any]:
        magic = self.exactly(4, "header")
        if magic[:2] != b"\0\0":
            raise self.error(0, "an IDX header (00 00 type rank)", magic.hex(" "))
        if magic[2] not in ELEMENTS:
            known = ", ".join(f"{code:02x}" for code in ELEMENTS)
            raise self.error(2, f"an IDX element type ({known})", f"{magic[2]:02x}")
        element = np.dtype(ELEMENTS[magic[2]])
        if dtype is not None and element.name != dtype:
            raise self.error(2, f"elements of {dtype}", f"{element.name}")
        if rank is not None and magic[3] != rank:
            raise self.error(3, f"{rank} dimensions", f"{magic[3]}")
        sizes = self.exactly(4 * magic[3], "dimension sizes")
        shape = [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4)]
        count = 1
        for size in shape:
            count *= size
        data = self.exactly(count * element.itemsize, f"elements {tuple(shape)} {element.name}")
        if self.take(1):
            raise self.error(self.offset - 1, "the end of the file", "more bytes")
        array = np.frombuffer(data, element).reshape(shape)
        return array.astype(element.newbyteorder("="), copy=False)
