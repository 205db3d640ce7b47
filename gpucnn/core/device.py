"""Devices by name, and which one is the default.

A device is `cpu` (NumPy), `cuda:N` (CUDA kernels on a GPU) or `emulated` (the same CUDA kernels
executed on the host). Devices are interned: two with the same name are the same object.
"""

from __future__ import annotations

import os
from typing import Any

TYPES = ("cpu", "cuda", "emulated")


class Device:
    """A place where tensors live: `Device("cpu")`, `Device("cuda")`, `Device("cuda", 1)`.

    Args:
        spec: a device, or one of `"cpu"`, `"cuda"`, `"cuda:N"`, `"emulated"`.
        index: the GPU's number, where `spec` does not hold it (default 0).

    Raises:
        ValueError: the name is not one of these.
    """

    __slots__ = ("type", "index")
    _interned: dict[tuple[str, int], Device] = {}

    type: str
    index: int

    def __new__(cls, spec: str | Device, index: int | None = None) -> Device:
        if isinstance(spec, Device):
            return spec
        if not isinstance(spec, str):
            raise TypeError(f"device: expected a name such as 'cpu' or 'cuda:0', got {spec!r}")
        name, colon, number = spec.partition(":")
        valid = name in TYPES and (not colon or number.isdecimal())
        if not valid or (colon and index is not None):
            raise ValueError(f"device: {spec!r} is not one of 'cpu', 'cuda', 'cuda:N', 'emulated'")
        if name != "cuda" and int(number or index or 0) != 0:
            raise ValueError(f"device: {name} has no index, got {spec!r}")
        key = (name, int(number) if colon else index or 0)
        if key not in cls._interned:
            device = object.__new__(cls)
            device.type, device.index = key
            cls._interned[key] = device
        return cls._interned[key]

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.type == "cuda" else self.type

    def __repr__(self) -> str:
        return f"device('{self}')"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Device, (str(self),))


CPU = Device("cpu")
_default: Device | None = None


def default_device() -> Device:
    """The device of tensors made without `device=`.

    That of `set_default_device`, else the environment variable `GPUCNN_DEVICE`, else `cuda` where
    a usable GPU is present, else `cpu`. Decided once, at the first use.

    Raises:
        ValueError: `GPUCNN_DEVICE` is not a device's name.
    """
    global _default
    if _default is None:
        name = os.environ.get("GPUCNN_DEVICE", "").strip()
        if name:
            try:
                _default = Device(name)
            except ValueError as error:
                raise ValueError(f"GPUCNN_DEVICE: {error}") from None
        else:
            from gpucnn import backends

            _default = CPU if backends.why_unavailable("cuda") else Device("cuda")
    return _default


def set_default_device(device: str | Device | None) -> None:
    """Make `device` the default; `None` returns to the automatic choice."""
    global _default
    _default = None if device is None else Device(device)


def resolve(device: str | Device | None) -> Device:
    """`device` itself, or the default device for `None`."""
    return default_device() if device is None else Device(device)
