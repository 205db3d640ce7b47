"""The families of primitives, one object a device, made when first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from gpucnn.core.device import Device


class Replay(Protocol):
    """A sequence of primitives that can run again, on the same memory.

    Attributes:
        launches: how many kernels, copies and fills it gives to the device; None where there is no
            such thing.
    """

    @property
    def launches(self) -> int | None: ...

    def __call__(self) -> None: ...


class Backend(Protocol):
    """What stands below `dispatch`: memory of one device and the primitives that work on it."""

    @property
    def primitives(self) -> dict[str, Callable[..., None]]:
        """Name -> function(*inputs, *outputs, **attributes); it writes the outputs in full."""

    def empty(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], order: tuple[int, ...] | None
    ) -> Any:
        """A new dense array whose axes lie in `order` (slowest first) in memory."""

    def from_host(self, array: np.ndarray[Any, Any]) -> Any:
        """A copy of a host array on this device, its memory order kept where it is dense."""

    def write(self, array: Any, values: np.ndarray[Any, Any]) -> None:
        """Copy host values of the same shape and dtype into a dense array of this device."""

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        """The array as a NumPy array; on the cpu the array itself."""

    def address(self, array: Any) -> int:
        """Where the first element of an array lies."""

    def capture(self, run: Callable[[], None]) -> Replay:
        """Run a fixed sequence of primitives once, and keep it so that it can run again."""

    def adopt(self, value: Any) -> Any:
        """An array of this device over the memory of another library's array, not copied."""

    def as_strided(self, array: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        """A view with these shape and strides (bytes), beginning where `array` begins."""

    def synchronize(self) -> None:
        """Wait until the device has done all work given to it."""

    def preferred_order(self, geometry: Any) -> tuple[int, ...] | None:
        """The memory order that this device likes for the output of a convolution or pool."""


_backends: dict[Device, Backend] = {}


def get(device: Device) -> Backend:
    """The backend of a device.

    Raises:
        RuntimeError: the device is not usable here; the text says why.
    """
    backend = _backends.get(device)
    if backend is None:
        backend = _backends[device] = _make(device)
    return backend


@contextmanager
def serving(device: Device, backend: Backend) -> Iterator[None]:
    """Let `backend` serve `device` within the context, and the one before it afterwards."""
    before = _backends.get(device)
    _backends[device] = backend
    try:
        yield
    finally:
        del _backends[device]
        if before is not None:
            _backends[device] = before


def why_unavailable(kind: str) -> str | None:
    """Why devices of this type cannot be used here, or None when they can."""
    if kind == "cuda":
        from gpucnn.backends.gpu import cuda

        return cuda.why_not()
    if kind == "emulated":
        from gpucnn.backends.gpu import emulated

        return emulated.why_not()
    return None


def _make(device: Device) -> Backend:
    if device.type == "cpu":
        from gpucnn.backends.cpu import CpuBackend

        return CpuBackend()
    reason = why_unavailable(device.type)
    if reason:
        raise RuntimeError(f"device {device} is not available: {reason}")
    from gpucnn.backends.gpu import GpuBackend

    if device.type == "emulated":
        from gpucnn.backends.gpu.emulated import EmulatedRuntime

        return GpuBackend(EmulatedRuntime())
    from gpucnn.backends.gpu.cuda import CudaRuntime

    return GpuBackend(CudaRuntime(device.index))
