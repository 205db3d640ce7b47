"""The project's kernels on the emulator: both PTX dialects, all checks, against the cpu."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from emulated_runtime import EmulatedRuntime
from emulator_helpers import MAJORS

from gpucnn import backends
from gpucnn.backends.gpu import GpuBackend
from gpucnn.cases import CASES, Case, run
from gpucnn.cases.case import Outcome
from gpucnn.core.device import Device
from gpucnn.emulator import LOWEST_FIRST, RandomSchedule, Schedule

DEVICE = Device("emulated")


def cost(case: Case) -> int:
    return sum(int(np.prod(i.shape)) for i in case.inputs if i is not None)


def chosen(per_op: int) -> list[Case]:
    """The smallest rows of each operation that are not trivial, and an odd convolution of each
    kind.
    """
    rows: dict[str, list[Case]] = {}
    for case in sorted((c for c in CASES if cost(c) > 20), key=cost):
        rows.setdefault(case.op, []).append(case)
    return [case for each in rows.values() for case in each[:per_op]]


@contextmanager
def emulated(major: int, schedule: Schedule = LOWEST_FIRST) -> Iterator[EmulatedRuntime]:
    runtime = EmulatedRuntime(major, schedule)
    backends.register(DEVICE, GpuBackend(runtime))
    try:
        yield runtime
    finally:
        backends._backends.pop(DEVICE)


def results(outcome: Outcome) -> list[np.ndarray]:
    return [a for a in outcome.outputs + outcome.gradients if a is not None]


def compare(case: Case, ours: Outcome, expected: Outcome, tolerance: float) -> None:
    for got, want in zip(results(ours), results(expected)):
        got, want = got.astype(np.float64), want.astype(np.float64)
        assert np.array_equal(np.isnan(got), np.isnan(want))
        finite = np.isfinite(want)
        assert np.array_equal(got[~finite & ~np.isnan(want)], want[~finite & ~np.isnan(want)])
        size = np.abs(want[finite]).max(initial=1e-30)
        assert np.abs(got[finite] - want[finite]).max(initial=0) <= tolerance * size


@pytest.mark.parametrize("case", chosen(2), ids=lambda case: case.name)
def test_float32(case: Case, major: int) -> None:
    with emulated(major) as runtime:
        ours = run(case, DEVICE, np.float32)
    findings = [str(f) for _, report in runtime.reports for f in report.findings]
    assert not findings, findings
    compare(case, ours, run(case, "cpu", np.float64), case.tolerance)


@pytest.mark.parametrize("case", chosen(1), ids=lambda case: case.name)
def test_float64(case: Case) -> None:
    with emulated(MAJORS[-1]) as runtime:
        ours = run(case, DEVICE, np.float64)
    assert not [str(f) for _, report in runtime.reports for f in report.findings]
    compare(case, ours, run(case, "cpu", np.float64), 1e-10)


SYNCHRONISED = (
    "conv2d",
    "linear",
    "cross_entropy",
    "batch_norm_train",
    "sum",
    "max",
    "softmax",
    "argmax",
)


@pytest.mark.parametrize(
    "case", [c for c in chosen(1) if c.op in SYNCHRONISED], ids=lambda case: case.name
)
def test_same_bits_under_every_schedule(case: Case) -> None:
    outcomes = []
    for schedule in (LOWEST_FIRST, RandomSchedule(1), RandomSchedule(2)):
        with emulated(MAJORS[0], schedule) as runtime:
            outcomes.append(results(run(case, DEVICE, np.float32)))
        assert not [str(f) for _, report in runtime.reports for f in report.findings]
    for other in outcomes[1:]:
        for a, b in zip(outcomes[0], other):
            assert a.tobytes() == b.tobytes()
