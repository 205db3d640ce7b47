"""Reading IDX files: every element type, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpucnn.data import DataError, read_idx

Writer = Callable[[np.ndarray], bytes]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5), (0, 4), ()])
@pytest.mark.parametrize("packed", [False, True])
def test_round_trip(
    tmp_path: Path, idx: Writer, dtype: str, shape: tuple[int, ...], packed: bool
) -> None:
    array = np.random.default_rng(1).integers(-100, 100, shape).astype(dtype)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    result = read_idx(path)
    assert result.dtype == np.dtype(dtype) and result.dtype.isnative
    assert result.shape == shape
    np.testing.assert_array_equal(result, array)


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b"", r"byte 0: expected 4 bytes of header, found only 0: truncated"),
        (lambda b: b[:3], r"byte 0: expected 4 bytes of header, found only 3"),
        (lambda b: b"\x01" + b[1:], r"byte 0: expected an IDX header .*, found 01 00 08 03"),
        (lambda b: b[:2] + b"\x0a" + b[3:], r"byte 2: expected an IDX element type .*, found 0a"),
        (lambda b: b[:2] + b"\x0d" + b[3:], r"byte 2: expected elements of uint8, found float32"),
        (lambda b: b[:3] + b"\x01" + b[4:], r"byte 3: expected 3 dimensions, found 1"),
        (lambda b: b[:9], r"byte 4: expected 12 bytes of dimension sizes, found only 5"),
        (lambda b: b[:-1], r"byte 16: expected 24 bytes of elements .*, found only 23: truncated"),
        (lambda b: b + b"x", r"byte 40: expected the end of the file, found more bytes"),
        # A header that claims 2^96 elements must not make the reader allocate them.
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], r"byte 16: expected \d+ bytes .* only 24"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_corruption(
    tmp_path: Path, idx: Writer, change: Callable[[bytes], bytes], message: str, packed: bool
) -> None:
    path = tmp_path / "images-idx3-ubyte"
    content = change(idx(IMAGES))
    if packed:
        content = gzip.compress(content)
        message = message.replace(":", " after decompression:", 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: {message}"):
        read_idx(path, "uint8", rank=3)


def test_truncated_gzip(tmp_path: Path, idx: Writer) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    whole = gzip.compress(idx(noise))
    path = tmp_path / "file.gz"
    for length in (5, 12, 1000, len(whole) - 9, len(whole) - 4):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"after decompression: expected valid gzip data"):
            read_idx(path)


def test_damaged_gzip(tmp_path: Path, idx: Writer) -> None:
    whole = bytearray(gzip.compress(idx(IMAGES)))
    whole[-6] ^= 1  # the checksum
    path = tmp_path / "file.gz"
    path.write_bytes(whole)
    with pytest.raises(DataError, match="CRC"):
        read_idx(path)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: cannot be read: No such file"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"cannot be read"):
        read_idx(tmp_path)


def test_header_layout(tmp_path: Path) -> None:
    """Against the format's own words rather than our writer."""
    path = tmp_path / "file"
    path.write_bytes(b"\0\0\x0b\x02" + struct.pack(">II", 1, 2) + b"\x01\x02\xff\xfe")
    np.testing.assert_array_equal(read_idx(path), [[0x0102, -2]])
