"""Results are compared before they are timed: a wrong answer has no speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpucnn.benchmarks.row import EAGER, Array, Call, Row, Variant


class NotTimed(RuntimeError):
    """Why a variant of a row has no time."""


class WrongResult(NotTimed):
    """A row gave another result than the float64 reference."""


NORMS: dict[str, Callable[[Array], Any]] = {
    "largest entry": lambda array: np.abs(array).max(),
    "Euclidean norm": np.linalg.norm,
}


def error(
    results: Sequence[Array], expected: Sequence[Array], norm: str = "largest entry"
) -> float:
    """The largest difference, relative to its array, both by a norm; infinite for NaN.

    Raises:
        WrongResult: another number of arrays, or other shapes.
    """
    shapes, wanted = [a.shape for a in results], [a.shape for a in expected]
    if shapes != wanted:
        raise WrongResult(f"gives arrays of shapes {shapes} instead of {wanted}")
    largest = 0.0
    for array, reference in zip(results, expected):
        if reference.size == 0:
            continue
        scale = float(NORMS[norm](reference)) or 1.0
        difference = float(NORMS[norm](array - reference)) / scale
        largest = max(largest, difference if np.isfinite(difference) else float("inf"))
    return largest


def verify(row: Row, call: Call, expected: Sequence[Array], variant: Variant = EAGER) -> float:
    """Call once and compare; the error found.

    Raises:
        WrongResult: the row's tolerance is exceeded.
    """
    with call.setting():
        results = call.results(call.run())
    found, allowed = error(results, expected, row.norm), row.allowed(variant)
    if not found <= allowed:
        raise WrongResult(f"wrong by {found:.2g} of the {row.norm}, allowed {allowed:.2g}")
    return found
