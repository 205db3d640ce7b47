"""Every row of the table of cases on the emulated device, all checks on.

The kernels are what both compilers make of them; a finding of a check fails its row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gpucnn import backends
from gpucnn.backends.gpu import GpuBackend, nvrtc
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.cases import CASES, Case, Outcome, run
from gpucnn.cases.compare import assert_close
from gpucnn.core.device import Device
from gpucnn.emulator import LOWEST_FIRST, RandomSchedule, Schedule

EMULATED = Device("emulated")
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

RUNTIMES = {major: EmulatedRuntime(compiler) for major, compiler in nvrtc.compilers().items()}


def emulated(case: Case, dtype: object, runtime: EmulatedRuntime, schedule: Schedule) -> Outcome:
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


@pytest.mark.parametrize("major", RUNTIMES)
@by_name
def test_float32_against_the_cpu(case: Case, major: int) -> None:
    ours = emulated(case, np.float32, RUNTIMES[major], LOWEST_FIRST)
    assert_agree(ours, run(case, "cpu", np.float64), case.tolerance)


@by_name
def test_float64_against_the_cpu(case: Case) -> None:
    ours = emulated(case, np.float64, next(iter(RUNTIMES.values())), LOWEST_FIRST)
    assert_agree(ours, run(case, "cpu", np.float64), 1e-10)


@by_name
def test_the_same_bits_in_another_order(case: Case) -> None:
    """Warps and blocks in random order, by a seed of the row's own."""
    runtime = list(RUNTIMES.values())[-1]
    first = emulated(case, np.float32, runtime, LOWEST_FIRST)
    second = emulated(case, np.float32, runtime, RandomSchedule(int(case.rng.integers(1 << 30))))
    for a, b in zip(first.outputs + first.gradients, second.outputs + second.gradients):
        if a is not None and b is not None:
            assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module", autouse=True)
def modules_are_dropped() -> Iterator[None]:
    yield
    for runtime in RUNTIMES.values():
        runtime.schedule = LOWEST_FIRST
