"""Where the emulated device cannot be used, tests that need it are skipped."""

from __future__ import annotations

import pytest

from gpucnn import backends


@pytest.fixture
def emulated() -> None:
    reason = backends.why_unavailable("emulated")
    if reason is not None:
        pytest.skip(reason)
