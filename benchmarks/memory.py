"""The suite `memory`: what training steps need, gpucnn beside PyTorch, each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpucnn.benchmarks.net_row import NETS
from gpucnn.benchmarks.row import CAPTURED, EAGER, Variant

BATCHES = {"lenet5": 128, "convnet": 128, "resnet18_cifar": 64}
STEPS = 5

_PYTORCH = Variant("PyTorch", "eager", "fp32")
_HEAD = ("peak", "growth", "ratio", "arrays", "MiB", "held", "faults")
_WIDTHS = (27, 8)
LEGEND = (
    "MiB; of a training step after warm-up, each variant in a process of its own:",
    "peak    of the process, libraries included; growth: by net, batch and steps; to PyTorch's",
    "arrays  outputs of 64 KiB and more that a step allocated, and their sum",
    "held    the most memory of arrays that a step had beyond what it began with",
    "faults  pages of 4 KiB that the system handed out anew in a step",
)


@dataclass(frozen=True)
class Memory:
    """One variant of a net's step.

    Attributes:
        figures: as `memory_child` has them; empty where it failed.
    """

    net: str
    batch: int
    variant: Variant
    figures: dict[str, float]
    failure: str = ""

    @property
    def growth(self) -> float:
        """Bytes that the process grew by for net, batch and steps."""
        return self.figures["peak_rss"] - self.figures["rss_before"]

    @property
    def title(self) -> str:
        return f"{NETS[self.net]}, training step, batch {self.batch}"

    def as_dict(self) -> dict[str, Any]:
        """For a JSON line; sizes in bytes."""
        found: dict[str, Any] = {
            "suite": "memory",
            "group": NETS[self.net],
            "name": f"training step, batch {self.batch}",
            "library": self.variant.library,
            "mode": self.variant.mode,
            "precision": self.variant.precision,
        }
        if not self.figures:
            return {**found, "failure": self.failure}
        return {**found, **self.figures, "growth": self.growth}


def tasks(only: str, compared: bool) -> list[Memory]:
    """What is to be measured: the nets whose title contains `only`.

    Raises:
        ValueError: none does, or this is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise ValueError("--suite memory reads /proc, which only Linux has")
    variants = [EAGER, CAPTURED]
    if compared:
        variants.insert(0, _PYTORCH)
    found = [Memory(net, batch, v, {}) for net, batch in BATCHES.items() for v in variants]
    chosen = [task for task in found if only.lower() in task.title.lower()]
    if not chosen:
        raise ValueError(f"no row of the suite memory contains {only!r}")
    return chosen


def measured(task: Memory, threads: int, steps: int = STEPS) -> Memory:
    """The task with its figures."""
    asked = {
        "library": task.variant.library,
        "mode": task.variant.mode,
        "net": task.net,
        "batch": task.batch,
        "threads": threads,
        "steps": steps,
    }
    command = [sys.executable, "-m", "gpucnn.benchmarks.memory_child", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Memory(task.net, task.batch, task.variant, {}, last)
    figures = json.loads(done.stdout.splitlines()[-1])
    return Memory(task.net, task.batch, task.variant, figures)


def head() -> str:
    """The titles above `line`."""
    return _line("memory", _HEAD)


def line(found: Memory, others: list[Memory]) -> str:
    """A line of the table; `others` has PyTorch's if it is known."""
    name = f"  {found.variant}"
    if not found.figures:
        return f"{name.ljust(_WIDTHS[0])}  {found.failure}"[:100]
    rivals = [
        each
        for each in others
        if each.net == found.net and each.variant.library == "PyTorch" and each.figures
    ]
    ratio = f"{found.growth / rivals[0].growth:.2f}" if rivals and found not in rivals else ""
    f = found.figures
    cells = [_mib(f["peak_rss"]), _mib(found.growth), ratio]
    cells += [f"{f['large_arrays']:.0f}" if "large_arrays" in f else ""]
    cells += [_mib(f[name]) if name in f else "" for name in ("large_bytes", "temporaries")]
    cells.append(f"{f['page_faults']:,.0f}")
    return _line(name, cells)


def _line(name: str, cells: Sequence[str]) -> str:
    first, other = _WIDTHS
    return "  ".join([name.ljust(first), *(cell.rjust(other) for cell in cells)]).rstrip()


def _mib(size: float) -> str:
    return f"{size / (1 << 20):.1f}"
