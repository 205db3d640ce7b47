"""What a training step would take on a named GPU: arithmetic on sizes and public figures.

Each primitive takes at least as long as its busiest resource: the units that its multiply-adds need
at the share of their peak that the score of selection grants, or the memory that all its launches
read and write, each array once a launch. Launch overhead, latency and what stays in the L2 cache
are not in it. It ranks and shows limits; it is an estimate, never a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpucnn.backends.gpu import select
from gpucnn.backends.gpu.estimate import properties
from gpucnn.backends.gpu.host import Launch
from gpucnn.backends.gpu.instances import Instance, instances
from gpucnn.cases.specialisations import is_of
from gpucnn.emulator.gpus import Gpu
from gpucnn.ops.geometry import Conv2dGeometry
from gpucnn.training.rehearsal import Call, bytes_of

DIRECTIONS = {
    "conv2d": "forward",
    "conv2d_statistics": "forward",
    "conv2d_max_pool": "forward",
    "conv2d_backward_input": "backward_input",
    "conv2d_backward_weight": "backward_weight",
}
"""Primitives that selection chooses an instance for -> its direction."""
PRODUCTS = ("matmul", "linear_backward_weight")


@dataclass(frozen=True)
class Prediction:
    """One primitive call on one GPU; an estimate.

    Attributes:
        call: what is computed.
        gpu: where.
        precision: as of `gpucnn.precision`.
    """

    call: Call
    gpu: Gpu
    precision: str

    @property
    def direction(self) -> str:
        """ "forward", "backward_input", "backward_weight", or "" of what is no convolution."""
        return DIRECTIONS.get(self.call.name, "")

    @property
    def geometry(self) -> Conv2dGeometry | None:
        found = self.call.attributes.get("geometry")
        return found if self.direction and isinstance(found, Conv2dGeometry) else None

    @cached_property
    def instance(self) -> Instance | None:
        """The instance of the table that was launched, or whose twin with a pool behind it was."""
        candidates = [one for one in instances() if one.direction == self.direction]
        for launch in self.call.launches:
            for instance in candidates:
                if is_of(instance, launch.kernel):
                    return instance
        for launch in self.call.launches:
            for instance in candidates:
                if instance.defines and _same_defines(instance, launch):
                    return instance
        return None

    @property
    def main_launch(self) -> Launch:
        """That of the instance, or else the largest."""
        own = [one for one in self.call.launches if self.instance and _runs(self.instance, one)]
        return max(own or self.call.launches, key=lambda launch: math.prod(launch.grid))

    @cached_property
    def scores(self) -> list[select.Scored]:
        """All instances that could compute it, the best first; empty for other primitives."""
        if self.geometry is None:
            return []
        return select.explain(
            self.direction,
            self.geometry,
            self.precision,
            properties(self.gpu),
            statistics=self.call.name == "conv2d_statistics",
        )

    @property
    def scored(self) -> select.Scored | None:
        """That of `instance`."""
        return next((s for s in self.scores if s.instance == self.instance), None)

    @property
    def title(self) -> str:
        """The instance's name, with the kernel's where it is its twin; else the kernel's alone."""
        entry = self.main_launch.kernel.entry
        if self.scored is None:
            return entry
        own = is_of(self.scored.instance, self.main_launch.kernel)
        return self.scored.instance.name + ("" if own else f" ({entry})")

    @property
    def runner_up(self) -> select.Scored | None:
        """The best of the others."""
        return next((s for s in self.scores if s.instance != self.instance), None)

    @property
    def flops(self) -> int:
        """Of the products alone; a multiply-add counts as two."""
        if self.geometry is not None:
            return self.geometry.flops
        if self.call.name not in PRODUCTS:
            return 0
        (*_, m, k), second = self.call.shapes[0] or (0, 0), self.call.shapes[1] or (0, 0)
        return 2 * m * k * second[-1] * math.prod((self.call.shapes[0] or ())[:-2])

    @property
    def bytes(self) -> int:
        """Read and written, each array once a launch."""
        return sum(map(_moved, self.call.launches))

    @cached_property
    def resources(self) -> dict[str, float]:
        """Resource -> microseconds it is busy."""
        scored = self.scored
        tensor = scored is not None and scored.instance.algorithm == "tensorcore"
        # Of a kernel without a score this much is sure: blocks that are not there do not work.
        blocks = math.prod(self.main_launch.grid)
        share = min(1.0, blocks / self.gpu.multiprocessors) if scored is None else scored.score
        return {
            "tensor cores" if tensor else "float32 units": (
                self.flops / (share * self.gpu.peak_float32 * 1e6) if self.flops else 0.0
            ),
            "global memory": self.bytes / (self.gpu.bandwidth * 1e3),
        }

    @property
    def limit(self) -> str:
        """The busiest resource."""
        return max(self.resources, key=self.resources.__getitem__)

    @property
    def microseconds(self) -> float:
        """The time of the busiest resource."""
        return self.resources[self.limit]

    @property
    def roofline(self) -> float:
        """Microseconds at the full peak of the units or of the memory, whichever is longer, with
        each array of the primitive moved once: the limit that a kernel is measured by."""
        peak = 1.0 if self.scored is None else self.scored.parts["peak"]
        math_time = self.flops / (peak * self.gpu.peak_float32 * 1e6)
        return max(math_time, self.call.bytes / (self.gpu.bandwidth * 1e3))

    @property
    def of_roofline(self) -> float:
        """0 to 1; Winograd, which saves arithmetic, may be above."""
        return self.roofline / self.microseconds if self.microseconds else 1.0

    def row(self) -> dict[str, Any]:
        """Plain data, for a line of JSON."""
        scored, other = self.scored, self.runner_up
        return {
            "primitive": self.call.name,
            "direction": self.direction or None,
            "problem": str(Problem.of(self.call)),
            "instance": None if scored is None else scored.instance.name,
            "kernels": [launch.kernel.entry for launch in self.call.launches],
            "score": None if scored is None else scored.score,
            "parts": None if scored is None else scored.parts,
            "runner_up": None if other is None else other.instance.name,
            "runner_up_score": None if other is None else other.score,
            "grid": self.main_launch.grid,
            "splits": None if scored is None else scored.plan.splits,
            "flops": self.flops,
            "bytes": self.bytes,
            "estimate, not a measurement": {
                "gpu": self.gpu.name,
                "microseconds": self.microseconds,
                "limit": self.limit,
                "resources": self.resources,
                "of_roofline": self.of_roofline,
            },
        }


@dataclass(frozen=True)
class Problem:
    """The size of a layer, by which equal layers are put together."""

    kind: str
    sizes: tuple[Any, ...]

    @classmethod
    def of(cls, call: Call) -> Problem:
        """That of a call; of one which is no layer, the name alone."""
        geometry = call.attributes.get("geometry")
        if call.name in DIRECTIONS and isinstance(geometry, Conv2dGeometry):
            return cls("conv", (geometry,))
        if call.name in PRODUCTS:
            return cls(call.name, (call.shapes[0], call.shapes[1]))
        return cls(call.name, ())

    def __str__(self) -> str:
        if self.kind == "conv":
            g = self.sizes[0]
            groups = f" groups {g.groups}" if g.groups > 1 else ""
            return (
                f"conv {g.c} -> {g.k}, {g.r}x{g.s} stride {g.stride_h}, "
                f"{g.h}x{g.w} -> {g.p}x{g.q}{groups}"
            )
        if self.sizes:
            a, b = (" x ".join(map(str, shape)) for shape in self.sizes)
            return f"{self.kind} {a}, {b}"
        return self.kind


def predict(calls: Iterable[Call], gpu: Gpu, precision: str) -> list[Prediction]:
    """A prediction of each call that launches something."""
    return [Prediction(call, gpu, precision) for call in calls if call.launches]


def grouped(found: Sequence[Prediction]) -> Mapping[tuple[Problem, str], list[Prediction]]:
    """Equal calls together; the directions of a layer follow each other, in the order of layers."""
    order: dict[Problem, int] = {}
    groups: dict[tuple[Problem, str], list[Prediction]] = {}
    for each in found:
        problem = Problem.of(each.call)
        order.setdefault(problem, len(order))
        groups.setdefault((problem, each.direction), []).append(each)
    return dict(sorted(groups.items(), key=lambda item: order[item[0][0]]))


def _runs(instance: Instance, launch: Launch) -> bool:
    return is_of(instance, launch.kernel) or _same_defines(instance, launch)


def _same_defines(instance: Instance, launch: Launch) -> bool:
    return set(instance.defines) == set(launch.kernel.module.defines)


def _moved(launch: Launch) -> int:
    """Bytes that a launch reads and writes, each array once."""
    return bytes_of(
        value
        for parameter, value in zip(launch.kernel.signature, launch.arguments, strict=True)
        if parameter.pointer and value is not None
    )
