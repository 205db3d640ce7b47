"""Results are compared before they are timed: a wrong answer has no speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpucnn.benchmarks.row import Array, Call, Row


class WrongResult(RuntimeError):
    """A row gave another result than the float64 reference."""


def error(results: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest difference, relative to the largest entry of its array; infinite for NaN.

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
        scale = float(np.abs(reference).max()) or 1.0
        difference = float(np.abs(array - reference).max()) / scale
        largest = max(largest, difference if np.isfinite(difference) else float("inf"))
    return largest


def verify(who: str, row: Row, call: Call, expected: Sequence[Array]) -> float:
    """Call once and compare; the error found.

    Raises:
        WrongResult: the row's tolerance is exceeded.
    """
    try:
        found = error(call.results(call.run()), expected)
    except WrongResult as problem:
        raise WrongResult(f"{row.suite}: {row.title}: {who} {problem}") from None
    if not found <= row.tolerance:
        raise WrongResult(
            f"{row.suite}: {row.title}: {who} is wrong by {found:.2g} of the largest entry "
            f"(allowed {row.tolerance:.2g}); a wrong result is not timed"
        )
    return found
