"""What `torch.cuda` answers: is there a GPU, why not, which one."""

from __future__ import annotations

from gpucnn import backends
from gpucnn.core.device import Device


def is_available() -> bool:
    """Whether a GPU can be used here."""
    return why_not() is None


def why_not() -> str | None:
    """Why no GPU can be used (no CuPy, the wrong wheel, no driver, no device), or None."""
    return backends.why_unavailable("cuda")


def synchronize(device: str | Device = "cuda") -> None:
    """Wait until a GPU has done all work given to it."""
    backends.get(Device(device)).synchronize()
