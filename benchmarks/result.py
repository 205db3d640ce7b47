"""What a row gave: times, and the figures made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpucnn.benchmarks.measure import Timing
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.row import Row, Variant

TO_BEFORE = "time_to_row_before"
"""The figure of a row that was timed in turn with others: its time by that of the row before."""


@dataclass(frozen=True)
class Entry:
    """One variant of a row: a verified time, or why there is none.

    Attributes:
        error: largest difference from the reference, relative to the norm of its array; None
            where it could not be compared.
        algorithm: what the engine did it with, in short and in full.
    """

    variant: Variant
    timing: Timing | None = None
    error: float | None = None
    failure: str = ""
    algorithm: tuple[str, str] = ("", "")

    @property
    def ours(self) -> bool:
        return self.variant.library == "gpucnn"


@dataclass(frozen=True)
class Result:
    """A row with its variants, and figures of their medians.

    Attributes:
        figures: what else was measured, by name.
    """

    row: Row
    peaks: Peaks
    entries: tuple[Entry, ...]
    figures: dict[str, float] = field(default_factory=dict)

    def find(self, library: str, mode: str = "eager") -> Entry | None:
        """The first entry of a library and mode; None where there is none with a time."""
        for entry in self.entries:
            v = entry.variant
            if (v.library, v.mode) == (library, mode) and entry.timing is not None:
                return entry
        return None

    def failed(self) -> list[Entry]:
        """The engine's own variants without a time."""
        return [entry for entry in self.entries if entry.ours and entry.timing is None]

    def opponent(self, entry: Entry) -> Entry | None:
        """PyTorch's quickest variant of like accuracy."""
        rivals = [
            each
            for each in self.entries
            if not each.ours
            and each.timing is not None
            and each.variant.precision == entry.variant.accuracy
        ]
        return min(rivals, key=lambda each: _median(each) or 0.0, default=None)

    def ratio(self, entry: Entry | None) -> float | None:
        """The entry's time by PyTorch's, of the medians: below 1 the engine is quicker."""
        if entry is None or not entry.ours:
            return None
        rival, own = self.opponent(entry), _median(entry)
        other = None if rival is None else _median(rival)
        return None if own is None or other is None else own / other

    def flops(self, entry: Entry | None) -> float | None:
        """Floating point operations a second."""
        return _rate(self.row.flops, entry)

    def bandwidth(self, entry: Entry | None) -> float | None:
        """Bytes a second, of the least that must move."""
        return _rate(self.row.bytes, entry)

    def images(self, entry: Entry | None) -> float | None:
        """Images a second."""
        return _rate(self.row.images, entry)

    def gemm_share(self, entry: Entry | None) -> float | None:
        """Of the machine's float32 matrix product."""
        found = self.flops(entry)
        return None if found is None else found / self.peaks.gemm

    def copy_share(self, entry: Entry | None) -> float | None:
        """Of the machine's copy of as many bytes."""
        found = self.bandwidth(entry)
        return None if found is None else found / self.peaks.copy_for(self.row.bytes)

    def as_dicts(self) -> list[dict[str, Any]]:
        """For JSON lines, one a variant: seconds, FLOP/s, bytes/s."""
        return [self._as_dict(entry) for entry in self.entries]

    def _as_dict(self, entry: Entry) -> dict[str, Any]:
        row, variant = self.row, entry.variant
        found: dict[str, Any] = {
            "suite": row.suite,
            "group": row.group,
            "name": row.name,
            "library": variant.library,
            "mode": variant.mode,
            "precision": variant.precision,
            "flops": row.flops,
            "bytes": row.bytes,
            "images": row.images,
        }
        if entry.timing is None:
            return {**found, "failure": entry.failure}
        timing, rival = entry.timing, self.opponent(entry) if entry.ours else None
        found.update(
            median=timing.median,
            minimum=timing.minimum,
            spread=list(timing.spread),
            run_medians=list(timing.medians),
            samples=timing.samples,
            flops_per_second=self.flops(entry),
            bytes_per_second=self.bandwidth(entry),
            images_per_second=self.images(entry),
            share_of_gemm_peak=self.gemm_share(entry),
            share_of_copy_peak=self.copy_share(entry),
            error=entry.error,
            tolerance=row.allowed(variant),
        )
        if entry.ours:
            found.update(self.figures)
            if entry.algorithm[1]:
                found["algorithm"] = entry.algorithm[1]
        if rival is not None:
            found.update(ratio=self.ratio(entry), ratio_to=str(rival.variant))
        return found


def _median(entry: Entry) -> float | None:
    return None if entry.timing is None else entry.timing.median


def _rate(work: int, entry: Entry | None) -> float | None:
    if entry is None or entry.timing is None or not work:
        return None
    return work / entry.timing.median
