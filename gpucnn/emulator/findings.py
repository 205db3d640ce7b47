"""What a launch did wrong, and which checks look for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

Dimensions = tuple[int, int, int]


@dataclass(frozen=True)
class Checks:
    """Which checks a launch makes; bounds and alignment are always checked, since the emulator
    never touches memory it does not own.

    uninitialised: reads of shared and local memory that nothing wrote.
    races: shared and global races, missing `__syncwarp`, `cp.async` misuse, red zones.
    overflow: 32-bit index arithmetic that wraps and reaches an address.
    unwritten: output buffers with elements that no thread wrote (named by `outputs` of a launch).
    """

    uninitialised: bool = True
    races: bool = True
    overflow: bool = True
    unwritten: bool = True


ALL = Checks()
NONE = Checks(False, False, False, False)


@dataclass(frozen=True)
class Finding:
    """One defect, with the first thread it was seen in and how many accesses showed it.

    kind: "bounds", "alignment", "uninitialised", "red zone", "race", "syncwarp", "global race",
        "read-only load", "barrier", "warp mask", "deadlock", "async copy", "overflow",
        "unwritten", "trap", "shared size".
    where: source line of the .cu, "" when the PTX has no line marks; `ptx_line` in the PTX.
    other: source line of the other party of a race.
    """

    kind: str
    kernel: str
    message: str
    where: str = ""
    ptx_line: int = 0
    block: Dimensions | None = None
    thread: Dimensions | None = None
    address: int | None = None
    other: str = ""
    other_thread: Dimensions | None = None
    other_block: Dimensions | None = None
    count: int = 1

    def __str__(self) -> str:
        place = self.where or f"PTX line {self.ptx_line}"
        parts = [f"{self.kernel} {place}: {self.kind}: {self.message}"]
        if self.block is not None:
            parts.append(f"block {self.block}")
        if self.thread is not None:
            parts.append(f"thread {self.thread}")
        if self.address is not None:
            parts.append(f"address {self.address:#x}")
        if self.other:
            party = f"the other access at {self.other}"
            if self.other_thread is not None:
                party += f" by thread {self.other_thread}"
            if self.other_block is not None:
                party += f" of block {self.other_block}"
            parts.append(party)
        if self.count > 1:
            parts.append(f"{self.count} times")
        return ", ".join(parts)


class Findings:
    """Collects findings; the same defect at the same place is kept once and counted."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self._found: dict[tuple[Any, ...], Finding] = {}

    def add(self, kind: str, message: str, count: int = 1, **more: Any) -> None:
        key: tuple[Any, ...] = (kind, more.get("ptx_line"), more.get("where"), more.get("other"))
        if kind in ("unwritten", "deadlock"):
            key = (*key, message)
        known = self._found.get(key)
        if known is not None:
            self._found[key] = replace(known, count=known.count + count)
        else:
            self._found[key] = Finding(kind, self.kernel, message, count=count, **more)

    def tuple(self) -> tuple[Finding, ...]:
        return tuple(self._found.values())
