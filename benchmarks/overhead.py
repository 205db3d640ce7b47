"""The suite `overhead`: Python's time above the primitives, at sizes where little else counts.

It is measured by itself: the same calls again, their primitives replaced by functions that do
nothing. What is left is checks, the graph, `dispatch` and the making of outputs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gpucnn import backends
from gpucnn.benchmarks.case_row import CaseRow
from gpucnn.benchmarks.measure import HostClock
from gpucnn.benchmarks.row import EAGER, Array, Call, Row, Setup, Variant
from gpucnn.benchmarks.train import net_row
from gpucnn.cases.case import Case, Input
from gpucnn.core.device import Device

_SAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class OverheadRow(Row):
    """Another row, eagerly, with the time of its Python.

    Attributes:
        inner: what is called.
    """

    inner: Row

    @classmethod
    def of(cls, inner: Row) -> OverheadRow:
        """A row of the suite `overhead` around another one."""
        return cls(
            suite="overhead",
            group=inner.group,
            name=inner.name,
            images=inner.images,
            tolerance=inner.tolerance,
            norm=inner.norm,
            cold=False,
            inner=inner,
        )

    def call(self, device: Device, variant: Variant = EAGER) -> Call:
        return self.inner.call(device, variant)

    def expected(self) -> list[Array]:
        return self.inner.expected()

    def figures(self, device: Device) -> dict[str, float]:
        """`primitive_calls` of a call, and `python_per_primitive_call` in seconds."""
        call = self.inner.call(device)
        call.run()  # what is made lazily is there
        calls = _count(call, device)
        with call.setting(), _replaced(device, lambda name, primitive: _nothing):
            call.run()
            taken = HostClock().samples(call.run, 1, _SAMPLES, cold=False)
        return {
            "primitive_calls": calls,
            "python_per_primitive_call": statistics.median(taken) / max(calls, 1),
        }


def _nothing(*arrays: Any, **attributes: Any) -> None:
    pass


def _count(call: Call, device: Device) -> int:
    calls = 0

    def counted(name: str, primitive: Callable[..., None]) -> Callable[..., None]:
        def run(*arrays: Any, **attributes: Any) -> None:
            nonlocal calls
            calls += 1
            primitive(*arrays, **attributes)

        return run

    with call.setting(), _replaced(device, counted):
        call.run()
    return calls


@contextmanager
def _replaced(
    device: Device, by: Callable[[str, Callable[..., None]], Callable[..., None]]
) -> Iterator[None]:
    """Within it every primitive of the device is what `by` makes of it."""
    primitives = backends.get(device).primitives
    originals = dict(primitives)
    primitives.update({name: by(name, each) for name, each in originals.items()})
    try:
        yield
    finally:
        primitives.update(originals)


def rows(setup: Setup) -> list[Row]:
    """The steps of the smallest nets, then single operations at the sizes of 8 x 8 digits."""
    nets = [
        net_row("overhead", "digits_net", 16, training=True),
        net_row("overhead", "digits_net", 16, training=False),
        net_row("overhead", "lenet5", 1, training=False),
    ]
    return [OverheadRow.of(row) for row in (*nets, *_operations())]


def _operations() -> Sequence[Row]:
    maps, rows_ = Input((16, 16, 8, 8), layout="channels_last"), Input((16, 64))
    channels = Input((16,)), Input((16,), "positive"), Input((16,), "positive"), Input((16,))
    filters = Input((32, 16, 3, 3), layout="channels_last"), Input((32,))
    cases = {
        "add": (Case("add", (maps, maps)), (0, 1)),
        "relu": (Case("relu", (maps,)), (0,)),
        "max pool 2 x 2": (Case("max_pool2d", (maps,), {"kernel_size": 2}), (0,)),
        "batch norm": (Case("batch_norm", (maps, *channels), {"training": True}), (0, 3, 4)),
        "conv2d 3 x 3": (Case("conv2d", (maps, *filters), {"padding": 1}), (0, 1, 2)),
        "linear 64 -> 10": (Case("linear", (rows_, Input((10, 64)), Input((10,)))), (0, 1, 2)),
        "cross entropy": (
            Case("cross_entropy", (Input((16, 10)), Input((16,), "classes:10"))),
            (0,),
        ),
    }
    found: list[Row] = []
    for title, (case, wanted) in cases.items():
        first = case.inputs[0]
        shape = " x ".join(map(str, first.shape)) if first else ""
        forward = CaseRow(suite="overhead", group=f"{title} of {shape}", name="forward", case=case)
        found += [forward, replace(forward, name="backward", wanted=wanted)]
    return found
