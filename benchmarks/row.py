"""What a row of a suite is: a call that can be timed, and the result that it must give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.core.device import Device

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Call:
    """Something ready to be called again and again.

    Attributes:
        run: what is timed.
        results: turns what `run` returned into arrays on the host, for verification.
    """

    run: Callable[[], Any]
    results: Callable[[Any], list[Array]]


@dataclass(frozen=True, kw_only=True)
class Row(ABC):
    """One line of the table.

    Attributes:
        suite: "ops", "layers" or "train".
        group: what several rows have in common, a heading: "conv2d 3x3, 64x64x32x32 -> 64".
        name: the row within its group: "forward".
        flops: floating point operations of a call, a multiply-add as two; 0 where they do not
            matter.
        bytes: the least that a call must read and write; 0 where that says little.
        images: images that a call works off, 0 where there are none.
        tolerance: largest error allowed in float32, relative to the largest entry of an array.
        cold: on a GPU, whether its L2 cache is flushed before each call.
    """

    suite: str
    group: str
    name: str
    flops: int = 0
    bytes: int = 0
    images: int = 0
    tolerance: float = 2e-5
    cold: bool = True

    @property
    def title(self) -> str:
        """The whole name, one of a kind within its suite."""
        return f"{self.group}, {self.name}"

    @abstractmethod
    def call(self, device: Device) -> Call:
        """The engine's call, its inputs made anew: the same ones each time."""

    @abstractmethod
    def expected(self) -> list[Array]:
        """What the first call must give, in float64 and by formulas that share no code with it."""
