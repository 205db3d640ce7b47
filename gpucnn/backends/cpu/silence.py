"""Primitives without NumPy's warnings: infinity and NaN are results, not accidents."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _Silence(threading.local):
    """NumPy's settings in which overflow, division by zero and the like pass without a warning.

    Entering a context of variables that has them takes a twentieth of the time of `np.errstate`.
    """

    def __init__(self) -> None:
        self.inside = False
        self.run: Callable[..., Any] = _with_errstate
        if np.lib.NumpyVersion(np.__version__) >= "2.0.0":  # before, they are not such variables
            self.context = contextvars.Context()
            self.context.run(np.seterr, all="ignore")
            self.run = self._in_context

    def _in_context(self, function: Callable[..., Any], *inputs: Any, **attributes: Any) -> Any:
        # In a copy: a signal's handler may change what it finds.
        return self.context.copy().run(function, *inputs, **attributes)


def _with_errstate(function: Callable[..., Any], *inputs: Any, **attributes: Any) -> Any:
    with np.errstate(all="ignore"):
        return function(*inputs, **attributes)


_silence = _Silence()


def silent(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function` without NumPy's warnings about floating-point numbers (a decorator)."""

    @functools.wraps(function)
    def run(*inputs: _Arguments.args, **attributes: _Arguments.kwargs) -> _Result:
        if _silence.inside:
            return function(*inputs, **attributes)
        try:
            _silence.inside = True
            result: _Result = _silence.run(function, *inputs, **attributes)
            return result
        finally:
            _silence.inside = False

    return run
