"""Every kernel, with the defines under which the table of cases asks for it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gpucnn.backends.gpu.host import Launch, recording
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.cases.case import Case, run


def launches(cases: Iterable[Case]) -> list[Launch]:
    """What the cases would launch on a GPU, forward and backward, in float32 and float64."""
    with recording() as runtime:
        for case in cases:
            for dtype in (np.float32, np.float64):
                run(case, "emulated", dtype)
    return runtime.launches


def specialisations(cases: Iterable[Case]) -> dict[Kernel, int]:
    """Each kernel that the cases need, with the largest block that it is launched with."""
    found: dict[Kernel, int] = {}
    for launch in launches(cases):
        threads = int(np.prod(launch.block))
        found[launch.kernel] = max(threads, found.get(launch.kernel, 0))
    return dict(sorted(found.items(), key=lambda item: (str(item[0].module), item[0].entry)))
