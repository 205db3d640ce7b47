"""Model files: safetensors with the architecture in the metadata.

A file holds the tensors of a `state_dict`, readable by anything that reads safetensors, and in its
metadata "gpucnn" (the version of this layout), "architecture" (JSON, see
`gpucnn.models.architecture`) and what the user added. Reading executes nothing from the file.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.core.autograd import no_grad
from gpucnn.core.device import CPU, Device, resolve
from gpucnn.core.memory import DTYPES
from gpucnn.core.tensor import Tensor
from gpucnn.models import architecture
from gpucnn.nn.building import TooLargeError, building
from gpucnn.nn.convert import move_tensor
from gpucnn.nn.module import Module
from gpucnn.ops.creation import tensor

_VERSION = "1"
_RESERVED = ("gpucnn", "architecture", "format")
_MAX_ARCHITECTURE = 10_000_000  # characters


class FormatError(ValueError):
    """A file that is not a whole, honest model file; the text names the file and the reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")


# ---- writing


def save(
    model_or_state_dict: Module | Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a net with its architecture, or a dictionary of tensors without one.

    The file appears whole or not at all: it is written beside its place and then renamed.

    Args:
        model_or_state_dict: a model of `gpucnn.models`, or a Sequential of standard layers (or of
            those); or a dictionary of tensors.
        metadata: strings to keep in the file.

    Raises:
        ValueError: the net is of a class that cannot be rebuilt, or was changed after it was made.
        TypeError: metadata other than strings, or a value that is not a tensor.
        OSError: the file cannot be written.
    """
    texts = _checked_metadata(metadata or {})
    texts.update(format="np", gpucnn=_VERSION)
    if isinstance(model_or_state_dict, Module):
        state: Mapping[str, Any] = model_or_state_dict.state_dict()
        texts["architecture"] = _architecture_of(model_or_state_dict, state)
    else:
        state = model_or_state_dict
    from safetensors.numpy import save as to_bytes

    write_atomically(path, to_bytes(_host_arrays(state), metadata=texts))


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, whole."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The new name, too, must survive a power cut; not every system lets a folder be opened.
    with contextlib.suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished(path: str | os.PathLike[str]) -> None:
    """Delete what writers of `path` that were killed left beside it (and those still at work)."""
    target = Path(path)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        leftover.unlink(missing_ok=True)


def _checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"save: metadata must be strings, got {key!r}: {value!r}")
        if key in _RESERVED:
            raise ValueError(f"save: metadata key {key!r} is used by the file itself")
    return dict(metadata)


def _architecture_of(model: Module, state: Mapping[str, Any]) -> str:
    """The architecture as JSON, after a look whether it makes this net."""
    try:
        text = json.dumps(architecture.describe(model))
    except architecture.ArchitectureError as error:
        raise ValueError(f"save: {error}") from None
    shapes = {key: value.shape for key, value in state.items()}
    try:
        with building(sum(value.numel() for value in state.values()), CPU):
            again = architecture.build(json.loads(text))
        same = repr(again) == repr(model) and shapes == {
            key: value.shape for key, value in again.state_dict().items()
        }
    except (architecture.ArchitectureError, TooLargeError):
        same = False
    if not same:
        raise ValueError(
            f"save: the {type(model).__name__} was changed after it was made, so its architecture "
            "does not describe it; save model.state_dict() instead"
        )
    return text


def _host_arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {}
    for key, value in state.items():
        if not isinstance(value, (Tensor, np.ndarray)):
            raise TypeError(f"save: {key!r} must be a tensor, got {type(value).__name__}")
        array = np.asarray(value)
        if array.dtype not in DTYPES:
            raise TypeError(f"save: {key!r} has dtype {array.dtype}")
        arrays[str(key)] = np.asarray(array, order="C")
    return arrays


# ---- reading


def load(path: str | os.PathLike[str], device: str | Device | None = None) -> Module:
    """The net of a file that `save` wrote, in evaluation mode, on `device` (the default one).

    Raises:
        FormatError: the file is truncated, foreign or tampered with, or has no architecture.
        OSError: it cannot be read.
    """
    where = resolve(device)
    arrays, metadata = _read(path)
    text = metadata.get("architecture")
    if text is None:
        raise FormatError(
            path, "the file has no architecture; gpucnn.serialization.load_state reads its tensors"
        )
    if metadata.get("gpucnn") != _VERSION:
        raise FormatError(
            path, f"layout version {metadata.get('gpucnn')!r}, this gpucnn reads {_VERSION!r}"
        )
    try:
        if len(text) > _MAX_ARCHITECTURE:
            raise ValueError(f"{len(text)} characters")
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"the architecture is not valid JSON ({error})") from None
    try:
        with building(sum(array.size for array in arrays.values()), where):
            model = architecture.build(described)
    except (architecture.ArchitectureError, TooLargeError) as error:
        raise FormatError(path, f"architecture: {error}") from None
    _fill(path, model, arrays)
    return model.eval()


def load_state(
    path: str | os.PathLike[str], device: str | Device | None = None
) -> dict[str, Tensor]:
    """The tensors of any safetensors file of the engine's dtypes, by name.

    Raises:
        FormatError: the file is truncated or not a safetensors file, or has another dtype.
        OSError: it cannot be read.
    """
    where = resolve(device)
    arrays, _ = _read(path)
    return {key: tensor(array, device=where) for key, array in arrays.items()}


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings in the file's header, the file's own among them; errors as `load_state`."""
    from safetensors import SafetensorError, safe_open

    _check_readable(path)
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise FormatError(path, f"not a safetensors file, or truncated ({error})") from None


def _check_readable(path: str | os.PathLike[str]) -> None:
    # The plain errors of the system: no such file, a folder, no permission.
    with open(path, "rb"):
        pass


def _read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """All arrays and the metadata, or a FormatError."""
    from safetensors import SafetensorError, safe_open

    metadata = load_metadata(path)
    arrays = {}
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            for key in file.keys():
                kind = file.get_slice(key).get_dtype()
                if kind not in ("F32", "F64", "I64", "I32", "U8", "BOOL"):
                    raise FormatError(path, f"tensor {key!r} has dtype {kind}, which is not read")
                arrays[key] = file.get_tensor(key)
    except SafetensorError as error:
        raise FormatError(path, f"not a safetensors file, or truncated ({error})") from None
    return arrays, metadata


def _fill(
    path: str | os.PathLike[str], model: Module, arrays: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Give the net the file's values, and their dtypes."""
    expected = model.state_dict(keep_vars=True)
    for key in expected:
        if key not in arrays:
            raise FormatError(path, f"tensor {key!r} is missing")
    for key, array in arrays.items():
        if key not in expected:
            raise FormatError(path, f"tensor {key!r} has no place in the architecture")
        target = expected[key]
        if array.shape != target.shape:
            raise FormatError(
                path, f"tensor {key!r} has shape {array.shape}, the architecture {target.shape}"
            )
        if array.dtype.kind != target.dtype.kind:
            raise FormatError(
                path, f"tensor {key!r} has dtype {array.dtype}, the architecture {target.dtype}"
            )
    with no_grad():
        for key, array in arrays.items():
            move_tensor(expected[key], None, array.dtype)
            expected[key].copy_(tensor(array, device=expected[key].device))
