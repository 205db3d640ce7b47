"""What a row of a suite is: a call that can be timed, and the result that it must give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.core.device import CPU, Device

Array = np.ndarray[Any, Any]

CLASSES = {"auto": "fp32", "3xtf32": "fp32"}
"""Precisions of gpucnn that are measured against another one of PyTorch: of like accuracy."""


@dataclass(frozen=True)
class Variant:
    """Whose call it is, and how it is made.

    Attributes:
        library: "gpucnn" or "PyTorch".
        mode: "eager"; of gpucnn also "captured"; of PyTorch on a GPU also "channels_last",
            "compile" and "graph".
        precision: of gpucnn one of `gpucnn.precision`; of PyTorch "fp32" (TF32 off), "tf32" (on),
            "bf16" or "fp16" (autocast).
    """

    library: str = "gpucnn"
    mode: str = "eager"
    precision: str = "auto"

    def __str__(self) -> str:
        return f"{self.library} {self.mode} {self.precision}"

    @property
    def accuracy(self) -> str:
        """The precision of PyTorch that this one is compared with."""
        return CLASSES.get(self.precision, self.precision)


EAGER, CAPTURED = Variant(), Variant(mode="captured")


@dataclass(frozen=True)
class Setup:
    """What the command line says of the rows.

    Attributes:
        data: the folder of the data set of the suite `epoch`.
        precisions: of gpucnn; the row's own choice where there are none.
        modes: of PyTorch on a GPU; all where there are none.
    """

    device: Device = CPU
    data: Path | None = None
    precisions: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """Something ready to be called again and again.

    Attributes:
        run: what is timed.
        results: turns what `run` returned into arrays on the host, for verification.
        setting: in which `run` is called: a number of threads, an arithmetic.
    """

    run: Callable[[], Any]
    results: Callable[[Any], list[Array]]
    setting: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True, kw_only=True)
class Row(ABC):
    """One line of the table.

    Attributes:
        suite: a key of `run.SUITES`.
        group: what several rows have in common, a heading: "conv2d 3x3, 64x64x32x32 -> 64".
        name: the row within its group: "forward".
        flops: floating point operations of a call, a multiply-add as two; 0 where they do not
            matter.
        bytes: the least that a call must read and write; 0 where that says little.
        images: images that a call works off, 0 where there are none.
        tolerance: largest error allowed in float32, relative to an array's norm.
        norm: a key of `verify.NORMS`.
        cold: on a GPU, whether its L2 cache is flushed before each call.
        together: rows that follow each other with the same text here are timed in turn.
        long: whether one call is a measurement by itself.
    """

    suite: str
    group: str
    name: str
    flops: int = 0
    bytes: int = 0
    images: int = 0
    tolerance: float = 2e-5
    norm: str = "largest entry"
    cold: bool = True
    together: str = field(default="", compare=False)
    long: bool = False

    @property
    def title(self) -> str:
        """The whole name, one of a kind within its suite."""
        return f"{self.group}, {self.name}"

    def variants(self, setup: Setup) -> Sequence[Variant]:
        """The ways in which the engine does it, the plain one first."""
        return (EAGER,)

    @abstractmethod
    def call(self, device: Device, variant: Variant = EAGER) -> Call:
        """The engine's call, its inputs made anew: the same ones each time."""

    @abstractmethod
    def expected(self) -> list[Array]:
        """What the first call must give, in float64 and by formulas that share no code with it."""

    def allowed(self, variant: Variant) -> float:
        """The largest error allowed of a variant."""
        return self.tolerance

    def algorithm(self, device: Device, variant: Variant) -> tuple[str, str]:
        """What the engine has chosen to do it with: in short, and in full."""
        return "", ""

    def figures(self, device: Device) -> dict[str, float]:
        """What else is measured of the row, by name."""
        return {}
