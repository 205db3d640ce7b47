"""Every row of the table of cases on the emulated device, all checks on.

The kernels are what both compilers make of them; a finding of a check fails its row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpucnn import backends
from gpucnn.backends.gpu import GpuBackend, nvrtc
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.cases import CASES, Case, Outcome, run
from gpucnn.cases.compare import assert_close
from gpucnn.cases.coverage import coverage
from gpucnn.core.device import Device
from gpucnn.emulator import LOWEST_FIRST, RandomSchedule, Schedule

EMULATED = Device("emulated")
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

OLDEST = EmulatedRuntime(next(iter(nvrtc.compilers().values())))
NEWEST = EmulatedRuntime(list(nvrtc.compilers().values())[-1])


def emulated(
    case: Case, dtype: object, runtime: EmulatedRuntime, schedule: Schedule = LOWEST_FIRST
) -> Outcome:
    runtime.schedule = schedule
    with backends.serving(EMULATED, GpuBackend(runtime)):
        return run(case, EMULATED, dtype)


def assert_agree(ours: Outcome, expected: Outcome, tolerance: float) -> None:
    for number, (y, e) in enumerate(zip(ours.outputs, expected.outputs)):
        assert_close(y, e, tolerance, f"output {number}")
    for number, (g, h) in enumerate(zip(ours.gradients, expected.gradients)):
        assert (g is None) == (h is None)
        if g is not None and h is not None:
            assert_close(g, h, tolerance, f"gradient {number}")


def test_every_kernel_is_executed(say: Callable[[str], None]) -> None:
    """All kernels run over the table; and the lines that no thread reached, printed.

    First of all here, as one test that takes long.
    """
    runtime = EmulatedRuntime(OLDEST.compiler, counters=True)
    runtime.launches = []
    for case in CASES:
        emulated(case, np.float32, runtime)
    covered = coverage(runtime.launches, runtime)
    say(covered.report())
    assert covered.left == []


@by_name
def test_both_precisions_with_the_older_compiler(case: Case) -> None:
    expected = run(case, "cpu", np.float64)
    assert_agree(emulated(case, np.float32, OLDEST), expected, case.tolerance)
    assert_agree(emulated(case, np.float64, OLDEST), expected, 1e-10)


@by_name
def test_any_order_with_the_newer_compiler(case: Case) -> None:
    """Warps and blocks in order, then in random order by a seed of the row: the same bits."""
    first = emulated(case, np.float32, NEWEST)
    assert_agree(first, run(case, "cpu", np.float64), case.tolerance)
    schedule = RandomSchedule(int(case.rng.integers(1 << 30)))
    second = emulated(case, np.float32, NEWEST, schedule)
    for a, b in zip(first.outputs + first.gradients, second.outputs + second.gradients):
        if a is not None and b is not None:
            assert a.tobytes() == b.tobytes()
