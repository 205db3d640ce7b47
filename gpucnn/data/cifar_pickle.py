"""The Python format of CIFAR-10, read without running what a pickle may ask for.

A pickle is a program: it can name any function of any module and call it. The batches need four
names only, and even those are not handed out: each stands for a `_Name` whose call is written
down and nothing else, and the array is made here, from the noted arguments, after checking them.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, corrupt

PIXELS = 3 * 32 * 32

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_NAMES = (*_RECONSTRUCT, "numpy.ndarray", "numpy.dtype", "_codecs.encode")


def read_batch(path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Reads one `data_batch_N` or `test_batch`.

    Args:
        path: the file.
        classes: labels must be below this.

    Returns:
        images (n, 3072) and labels (n,).

    Raises:
        DataError: truncated, not such a batch, or a pickle that names anything else.
    """
    try:
        stream = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        batch = _Unpickler(stream, path).load()
    except DataError:
        raise
    # A damaged pickle fails in many ways: in the reader itself, in looking up what it never
    # stored, in hashing or in calling things that cannot be.
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise corrupt(
            path, stream.tell(), "a whole CIFAR-10 batch", f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(batch, dict):
        raise DataError(f"{path}: expected a dictionary, found {type(batch).__name__}")
    batch = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    images = _images(batch.get("data"), path)
    labels = batch.get("labels")
    if not isinstance(labels, list) or not all(type(v) is int for v in labels):
        keys = ", ".join(sorted(str(k) for k in batch))
        raise DataError(f"{path}: expected a list of integers under 'labels' (keys: {keys})")
    if len(labels) != len(images):
        raise DataError(f"{path}: expected {len(images)} labels, found {len(labels)}")
    for place, label in enumerate(labels):
        if not 0 <= label < classes:
            raise DataError(f"{path}: label {place}: expected 0..{classes - 1}, found {label}")
    return images, np.array(labels, np.uint8)


class _Name:
    """A global that a pickle asked for, by name only."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __call__(self, *arguments: Any) -> Any:
        if self.name == "_codecs.encode":
            # How Python 3 writes bytes in the old protocols.
            if len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
                return str(arguments[0]).encode("latin1")
            raise pickle.UnpicklingError(f"_codecs.encode of {arguments[1:]!r}")
        return _Call(self.name, arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"the pickle sets an attribute of {self.name}")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"the pickle sets the state of {self.name}")


class _Call:
    """A call that a pickle asked for, and the state it gives to the result."""

    __slots__ = ("name", "arguments", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream, encoding="bytes")
        self.stream, self.path = stream, path

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _NAMES:
            raise corrupt(
                self.path,
                self.stream.tell(),
                "a CIFAR-10 batch (a dictionary with one array)",
                f"a pickle that asks for {full}; it was not run",
            )
        return _Name(full)


def _images(value: Any, path: Path) -> NDArray[np.uint8]:
    """The array a noted `numpy.core.multiarray._reconstruct` call stands for."""
    shape, element, fortran, data = (), None, None, None
    if isinstance(value, _Call) and value.name in _RECONSTRUCT:
        state = value.state
        if isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, data = state
            if isinstance(dtype, _Call) and dtype.name == "numpy.dtype" and dtype.arguments:
                element = dtype.arguments[0]
    if element not in ("u1", b"u1") or not isinstance(data, bytes):
        raise DataError(f"{path}: expected an array of uint8 under 'data', found something else")
    rows = shape[0] if len(shape) == 2 and shape[1] == PIXELS else -1
    if not isinstance(rows, int) or rows < 0:
        raise DataError(f"{path}: expected an array (n, {PIXELS}) under 'data', found {shape}")
    if len(data) != rows * PIXELS:
        raise DataError(
            f"{path}: expected {rows * PIXELS} bytes for the array {shape}, found {len(data)}"
        )
    order: Literal["C", "F"] = "F" if fortran else "C"
    return np.frombuffer(data, np.uint8).reshape((rows, PIXELS), order=order)
