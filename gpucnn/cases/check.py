"""The table of cases on one device, against the cpu's float64: what `gpucnn check` runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpucnn.cases.case import Case, run
from gpucnn.cases.compare import compare
from gpucnn.core.device import CPU, Device


@dataclass(frozen=True)
class Verdict:
    """What came of one case.

    Attributes:
        name, op, note: of the case.
        passed: whether outputs and gradients agree.
        error: the largest relative error of an output or gradient; None where the case failed
            before there was one.
        tolerance: what the case allows.
        message: why it failed.
        seconds: time on the device, compilation included; no benchmark.
    """

    name: str
    op: str
    note: str
    passed: bool
    error: float | None
    tolerance: float
    message: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(cases: Iterable[Case], device: str | Device) -> Iterator[Verdict]:
    """Run each case in float32 on `device` and compare it with float64 on the cpu."""
    where = Device(device)
    for case in cases:
        began = time.perf_counter()
        error, message = None, ""
        try:
            ours = run(case, where, np.float32)
            elapsed = time.perf_counter() - began
            expected = run(case, CPU, np.float64)
            error = _error(ours.outputs, expected.outputs, "output")
            error = max(error, _error(ours.gradients, expected.gradients, "gradient"))
            if not error <= case.tolerance:
                message = f"error {error:.3g} above {case.tolerance:.3g}"
        except (AssertionError, RuntimeError, ValueError, TypeError, MemoryError) as failure:
            elapsed = time.perf_counter() - began
            message = " ".join(f"{type(failure).__name__}: {failure}".split())
        yield Verdict(
            case.name, case.op, case.note, not message, error, case.tolerance, message, elapsed
        )


def _error(ours: list[Any], expected: list[Any], what: str) -> float:
    worst = 0.0
    for number, (a, b) in enumerate(zip(ours, expected)):
        if (a is None) != (b is None):
            raise AssertionError(f"{what} {number}: only one of the two exists")
        if a is not None:
            worst = max(worst, compare(a, b, f"{what} {number}"))
    return worst
