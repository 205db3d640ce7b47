"""The Python format of CIFAR-10: read, and never run."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpucnn.data import DataError, load

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def python2_pickle(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """What Python 2's cPickle writes for such a batch, opcode by opcode."""
    rows, data = len(labels), images.tobytes()
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03",
            b"U\x06labelsq\x04]q\x05(" + b"".join(b"K" + bytes([v]) for v in labels) + b"e",
            b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07",
            b"cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01J" + struct.pack("<i", rows) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<i", len(data)) + data + b"tb",
            b"U\x09filenamesq\x0c]q\x0dU\x05a.pngq\x0eau.",
        ]
    )


def write(folder: Path, train: bytes, test: bytes | None = None) -> Path:
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(exist_ok=True)
    (inner / "data_batch_1").write_bytes(train)
    (inner / "test_batch").write_bytes(train if test is None else test)
    return folder


def python3_pickle(images: Any, labels: Any, protocol: int, **more: Any) -> bytes:
    return pickle.dumps({b"data": images, b"labels": labels, **more}, protocol)


def test_python2_batches(tmp_path: Path, cifar_arrays: Arrays) -> None:
    images, labels = cifar_arrays
    write(
        tmp_path, python2_pickle(images[:20], labels[:20]), python2_pickle(images[20:], labels[20:])
    )
    data = load("cifar10", tmp_path)
    np.testing.assert_array_equal(data.train.images, images[:20])
    np.testing.assert_array_equal(data.train.labels, labels[:20])
    np.testing.assert_array_equal(data.test.images, images[20:])


def test_our_python2_writer_is_right(cifar_arrays: Arrays) -> None:
    batch = pickle.loads(python2_pickle(*cifar_arrays), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"].reshape(-1, 3, 32, 32), cifar_arrays[0])
    assert batch[b"labels"] == cifar_arrays[1].tolist()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_python3_batches(tmp_path: Path, cifar_arrays: Arrays, protocol: int, order: Any) -> None:
    images, labels = cifar_arrays
    rows = np.array(images.reshape(len(labels), -1), order=order)
    write(tmp_path, python3_pickle(rows, labels.tolist(), protocol))
    data = load("cifar10", tmp_path)
    np.testing.assert_array_equal(data.train.images, images)
    np.testing.assert_array_equal(data.train.labels, labels)


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["alone", "inside"])
def test_hostile_pickle(tmp_path: Path, protocol: int, place: str) -> None:
    trace = tmp_path / "trace"
    attack = Hostile(os.system, f"touch {trace}")
    content = pickle.dumps(attack if place == "alone" else {"data": attack}, protocol)
    write(tmp_path, content)
    with pytest.raises(DataError, match=r"data_batch_1: byte \d+: .* asks for \w+\.system; it was"):
        load("cifar10", tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0bmemmap.open\x93.", "numpy.memmap.open"),
        (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "builtins.getattr"),
        (b"(S'/etc/passwd'\ninumpy\nfromfile\n.", "numpy.fromfile"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, content: bytes, name: str) -> None:
    write(tmp_path, content)
    with pytest.raises(DataError, match=f"asks for {name}; it was not run"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray\n}S'__call__'\nI1\nsb.",  # state for a name
        b"cnumpy\nndarray\n(N}S'name'\nS'os.system'\nstb.",  # attributes for a name
        b"cnumpy\nndarray\n)\x81.",  # NEWOBJ of what is no class
        b"Pid\n.",  # a persistent id
        b"\x80\x02r\xff\xff\xff\x7f.",  # a huge memo index on an empty stack
        b"\x80\x02\x8a\x05abcde.",  # an integer where a dictionary should be
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # 2^63 bytes announced
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        b"\x80\x63.",
        b"",
        b"hello",
        b"].",
        b"}.",
    ],
)
def test_damaged_pickles(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, content)
    with pytest.raises(DataError, match="data_batch_1: "):
        load("cifar10", tmp_path)


def test_every_truncation(tmp_path: Path, cifar_arrays: Arrays) -> None:
    whole = python2_pickle(cifar_arrays[0][:1], cifar_arrays[1][:1])
    for length in [*range(0, 330, 3), 2000, len(whole) - 30, len(whole) - 1]:
        write(tmp_path, whole[:length])
        with pytest.raises(DataError, match=r"byte \d+: expected a whole CIFAR-10 batch"):
            load("cifar10", tmp_path)


def test_wrong_content(tmp_path: Path, cifar_arrays: Arrays) -> None:
    images, labels = cifar_arrays
    rows = images.reshape(len(labels), -1)
    good = labels.tolist()
    cases: list[tuple[Any, Any, str]] = [
        (rows, good[:-1], r"expected 31 labels, found 30"),
        (rows, [*good[:-1], 10], r"label 30: expected 0..9, found 10"),
        (rows, [*good[:-1], -1], r"label 30: expected 0..9, found -1"),
        (rows, ["0"] * 31, r"expected a list of integers under 'labels'"),
        (rows, None, r"expected a list of integers under 'labels' \(keys: data, labels\)"),
        (rows[:, :-1], good, r"expected an array \(n, 3072\) under 'data', found \(31, 3071\)"),
        (rows.astype(np.float32), good, r"expected an array of uint8 under 'data'"),
        (rows.astype(object), good, r"expected an array of uint8 under 'data'"),
        (rows.tolist(), good, r"expected an array of uint8 under 'data'"),
    ]
    for data, names, message in cases:
        write(tmp_path, python3_pickle(data, names, 2))
        with pytest.raises(DataError, match=message):
            load("cifar10", tmp_path)


def test_array_shorter_than_its_shape(tmp_path: Path, cifar_arrays: Arrays) -> None:
    content = python2_pickle(*cifar_arrays)
    rows = b"J" + struct.pack("<i", 31)
    for lie in (32, 30, 2**31 - 1, -1):
        write(tmp_path, content.replace(rows, b"J" + struct.pack("<i", lie)))
        with pytest.raises(DataError, match=r"bytes for the array|an array \(n, 3072\)"):
            load("cifar10", tmp_path)
