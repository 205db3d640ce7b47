"""How exactly convolutions and matrix products compute in float32: one name, per thread.

Tensors and parameters are float32 (or float64) whatever the precision; it says what the products
may round to. docs/precision.md says what each name means on each device, and how far off it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

PRECISIONS = ("auto", "fp32", "3xtf32", "tf32", "bf16", "fp16")

_Wrapped = TypeVar("_Wrapped", bound=Callable[..., Any])


class _State(threading.local):
    name: str | None = None  # within `precision`


_state = _State()
_default = "auto"


def checked(call: str, name: Any) -> str:
    """The name itself. Raises ValueError, in the name of `call`, when it is no precision."""
    if name not in PRECISIONS:
        raise ValueError(f"{call}: must be one of {', '.join(PRECISIONS)}, got {name!r}")
    return cast(str, name)


def current_precision() -> str:
    """The name in force in this thread: of the innermost `precision`, else the default."""
    return _state.name or _default


def get_precision() -> str:
    """The default: what is in force outside of any `precision`."""
    return _default


def set_precision(name: str) -> None:
    """Let `name` be the default, in every thread.

    Raises:
        ValueError: the name is none of `precision`'s.
    """
    global _default
    _default = checked("set_precision", name)


class precision:
    """Computes convolutions and matrix products inside by the named precision.

        with gpucnn.precision("tf32"):
            y = model(x)

    A context manager and a decorator. The backward pass of an operation takes the precision that
    its forward pass had. A model has one of its own by `model.precision = "bf16"`, which holds
    while the model is called, whatever is in force around it.

    Args:
        name: "auto" (near float32 by whatever is fastest), "fp32" (float32 multiply-adds alone),
            "3xtf32", "tf32", "bf16" or "fp16" (products of rounded operands, added in float32).

    Raises:
        ValueError: the name is none of these.
    """

    def __init__(self, name: str) -> None:
        self.name = checked("precision", name)
        self._saved: list[str | None] = []

    def __enter__(self) -> precision:
        self._saved.append(_state.name)
        _state.name = self.name
        return self

    def __exit__(self, *_: object) -> None:
        _state.name = self._saved.pop()

    def __call__(self, function: _Wrapped) -> _Wrapped:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with precision(self.name):
                return function(*args, **kwargs)

        return cast(_Wrapped, wrapper)
