"""Fixtures of the emulator's tests."""

from __future__ import annotations

import pytest
from emulator_helpers import MAJORS


@pytest.fixture(
    params=MAJORS or [pytest.param(0, marks=pytest.mark.skip("NVRTC is not installed"))]
)
def major(request: pytest.FixtureRequest) -> int:
    """The CUDA major version of the compiler: both PTX dialects."""
    return int(request.param)
