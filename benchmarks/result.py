"""What a row gave: times, and the figures made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpucnn.benchmarks.measure import Timing
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.row import Row


@dataclass(frozen=True)
class Result:
    """A verified and timed row; derived figures are those of the median.

    Attributes:
        error: largest difference from the reference, relative to the largest entry.
        timing: the engine's.
        torch: PyTorch's, from the same run.
    """

    row: Row
    error: float
    timing: Timing
    peaks: Peaks
    torch: Timing | None = None

    @property
    def flops(self) -> float | None:
        """Floating point operations a second."""
        return self.row.flops / self.timing.median if self.row.flops else None

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second, of the least that must move."""
        return self.row.bytes / self.timing.median if self.row.bytes else None

    @property
    def images(self) -> float | None:
        """Images a second."""
        return self.row.images / self.timing.median if self.row.images else None

    @property
    def gemm_share(self) -> float | None:
        """Of the machine's matrix product."""
        return None if self.flops is None else self.flops / self.peaks.gemm

    @property
    def copy_share(self) -> float | None:
        """Of the machine's copy of as many bytes."""
        if self.bandwidth is None:
            return None
        return self.bandwidth / self.peaks.copy_for(self.row.bytes)

    @property
    def ratio(self) -> float | None:
        """The engine's time by PyTorch's, of the medians: below 1 the engine is quicker."""
        return None if self.torch is None else self.timing.median / self.torch.median

    def as_dict(self) -> dict[str, Any]:
        """For a JSON line: seconds, FLOP/s, bytes/s."""
        row = self.row
        found: dict[str, Any] = {
            "suite": row.suite,
            "group": row.group,
            "name": row.name,
            **_times("", self.timing),
            "flops": row.flops,
            "bytes": row.bytes,
            "images": row.images,
            "flops_per_second": self.flops,
            "bytes_per_second": self.bandwidth,
            "images_per_second": self.images,
            "share_of_gemm_peak": self.gemm_share,
            "share_of_copy_peak": self.copy_share,
            "error": self.error,
            "tolerance": row.tolerance,
        }
        if self.torch is not None:
            found.update(_times("torch_", self.torch), ratio=self.ratio)
        return found


def _times(prefix: str, timing: Timing) -> dict[str, Any]:
    first, third = timing.quartiles
    return {
        f"{prefix}median": timing.median,
        f"{prefix}minimum": timing.minimum,
        f"{prefix}quartiles": [first, third],
        f"{prefix}samples": len(timing.samples),
    }
