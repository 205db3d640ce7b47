"""Automatic mutants of the kernels that use shared memory: at least 90 % must be exposed.

Each file's kernels run on a few small cases; every survivor is listed with the reason why it is
equivalent there, and a new survivor fails.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from emulator_helpers import MAJORS
from mutants import Recorded, Recorder, build, mutants, text_of

from gpucnn.backends.gpu import elementwise, gemm, reduce
from gpucnn.backends.gpu.kernel import Module


def matmul(recorder: Recorder) -> None:
    """Odd sizes past the tile's edges, three steps along the depth; and a vectorised one."""
    for m, k, n in ((67, 43, 70), (68, 48, 72), (5, 0, 6)):
        a, b = (recorder.from_host(RNG.standard_normal(s).astype("f4")) for s in ((m, k), (k, n)))
        bias = recorder.from_host(RNG.standard_normal(n).astype("f4"))
        gemm.matmul(recorder, a, b, bias, recorder.empty((m, n), np.float32))


def sums(recorder: Recorder) -> None:
    for shape, axes in (
        ((5, 700), (1,)),
        ((700, 5), (0,)),
        ((9, 3, 21), (0, 2)),
        ((2, 3840), (1,)),
    ):
        x = recorder.from_host(RNG.standard_normal(shape).astype("f4"))
        kept = [size for axis, size in enumerate(shape) if axis not in axes]
        for op in ("sum", "max", "min"):
            y = recorder.empty(kept, np.float32)
            reduce.reduce(recorder, x, y, op=op, axes=axes, keepdims=False)


def transposes(recorder: Recorder) -> None:
    for shape in ((37, 45), (2, 33, 64)):
        x = recorder.from_host(RNG.standard_normal(shape).astype("f4")).swapaxes(-1, -2)
        elementwise.copy(recorder, x, recorder.empty(x.shape, np.float32))


RNG = np.random.default_rng(0)
FILES: dict[str, Callable[[Recorder], None]] = {
    "gemm.cu": matmul,
    "reduce.cu": sums,
    "move.cu": transposes,
}
EQUIVALENT = {
    "gemm_tile.cuh:86: mask dropped: if (more) {": "stores zeros that no step reads",
    "reduce.cu:90: bound off by one: REDUCE_KERNELS(min, a < b || a != a ? a : b)": (
        "equal values are one value"
    ),
}


def record(file: str) -> dict[Module, list[Recorded]]:
    recorder = Recorder(MAJORS[0], [file])
    FILES[file](recorder)
    found: dict[Module, list[Recorded]] = {}
    for each in recorder.recorded:
        found.setdefault(each.kernel.module, []).append(each)
    return found


@pytest.mark.parametrize("file", FILES)
def test_mutants_are_exposed(file: str) -> None:
    if not MAJORS:
        pytest.skip("NVRTC is not installed")
    exposed: dict[str, str] = {}
    for module, launches in record(file).items():
        original = text_of(module.source, file, MAJORS[0])
        entries = {launch.kernel.entry for launch in launches}
        for mutant in mutants(file, module.source):
            if exposed.get(mutant.name):
                continue
            built = build(mutant, original, entries, MAJORS[0])
            if built is not None:
                reasons = (launch.replay(built) for launch in launches)
                exposed[mutant.name] = next((reason for reason in reasons if reason), "")
    survivors = {name for name, reason in exposed.items() if not reason}
    share = 1 - len(survivors) / len(exposed)
    print(f"{file}: {len(exposed)} mutants, {share:.0%} exposed")
    assert survivors <= set(EQUIVALENT), survivors - set(EQUIVALENT)
    assert len(exposed) >= 5 and share >= 0.9
