"""A training without a device: which kernels will it launch, and so which modules does it need?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gpucnn
from gpucnn import backends
from gpucnn.backends.gpu.host import A100, Launch, RecordingRuntime, recording
from gpucnn.backends.gpu.kernel import Module
from gpucnn.backends.gpu.runtime import DeviceProperties
from gpucnn.core.device import Device
from gpucnn.core.precision import precision as in_precision
from gpucnn.models import Model
from gpucnn.training.callbacks import Callback
from gpucnn.training.recipes import make_optimizer
from gpucnn.training.trainer import Trainer

STEPS = 2
"""Of a rehearsal: the first update makes the momentum buffers, the others use them."""
CAPTURED_STEPS = 3
"""With capture: the first runs as it is, the second is recorded, the third is the fused one."""


@dataclass(frozen=True)
class Call:
    """One primitive with what it launched.

    Attributes:
        name: of the primitive.
        shapes: of its arrays, inputs before outputs; None for a number or what is absent.
        attributes: its other arguments, such as `geometry`.
        bytes: of its arrays, each once.
        launches: in order.
    """

    name: str
    shapes: tuple[tuple[int, ...] | None, ...]
    attributes: dict[str, Any]
    bytes: int
    launches: list[Launch]


@dataclass
class Rehearsal(Callback):
    """What a training would do.

    Attributes:
        calls: all of them, in order.
        step: those of the last training step.
    """

    calls: list[Call] = field(default_factory=list)
    step: list[Call] = field(default_factory=list)
    _began: int = 0

    @property
    def launches(self) -> list[Launch]:
        return [launch for call in self.calls for launch in call.launches]

    @property
    def modules(self) -> dict[Module, set[str]]:
        """What must be compiled, in the order of first use, and the entries launched of each."""
        return modules(self.calls)

    def on_batch_end(self, trainer: Trainer) -> None:
        """Keep the step's calls."""
        self.step = self.calls[self._began :]
        self._began = len(self.calls)


def modules(calls: Iterable[Call]) -> dict[Module, set[str]]:
    """The modules that calls need, in the order of first use, and their launched entries."""
    found: dict[Module, set[str]] = {}
    for call in calls:
        for launch in call.launches:
            found.setdefault(launch.kernel.module, set()).add(launch.kernel.entry)
    return found


def rehearse(
    model: Model,
    batch: int,
    properties: DeviceProperties = A100,
    *,
    optimizer: str = "sgd",
    precision: str = "auto",
    evaluate: bool = True,
    capture: bool = False,
) -> Rehearsal:
    """Train `model` for a few steps on a device that keeps launches instead of running them.

    Args:
        model: moved to the device `emulated`; its values mean nothing afterwards.
        batch: images of a step.
        properties: of the device that kernels are chosen for.
        optimizer: "sgd" (with momentum), "adam" or "adamw".
        precision: as of `gpucnn.precision`.
        evaluate: whether a validation follows, as after each epoch.
        capture: as of `Trainer`; `step` is then the fused one.

    Raises:
        ValueError: an unknown optimizer or precision, or `batch` is not positive.
    """
    if batch < 1:
        raise ValueError(f"rehearse: batch must be at least 1, got {batch}")
    found = Rehearsal()
    with recording(properties) as runtime, in_precision(precision):
        model = model.to("emulated")
        # Moving the parameters is no part of the training.
        _observe(runtime, found.calls)
        update = make_optimizer(optimizer, model, 0.1, 0.9, 5e-4)
        trainer = Trainer(model, update, callbacks=[found], capture=capture)
        batches = [_batch(model, batch)]
        steps = CAPTURED_STEPS if capture else STEPS
        trainer.fit(batches * steps, batches if evaluate else None, epochs=1)
    return found


def bytes_of(arrays: Iterable[Any]) -> int:
    """Bytes of the arrays' own elements: an array given twice, or repeated by a stride of 0, counts
    once."""
    sizes = {}
    for array in arrays:
        own = (size for size, stride in zip(array.shape, array.strides, strict=True) if stride)
        sizes[array.__array_interface__["data"][0]] = math.prod(own) * array.itemsize
    return sum(sizes.values())


def _batch(model: Model, size: int) -> tuple[gpucnn.Tensor, gpucnn.Tensor]:
    images = np.zeros((size, *model.input_shape), np.float32)
    return gpucnn.tensor(images), gpucnn.tensor(np.zeros(size, np.int64))


def _observe(runtime: RecordingRuntime, calls: list[Call]) -> None:
    """Let the primitives of the recording device leave a `Call` each."""
    primitives = backends.get(Device("emulated")).primitives

    def observed(name: str, primitive: Callable[..., None]) -> Callable[..., None]:
        def call(*arrays: Any, **attributes: Any) -> None:
            first = len(runtime.launches)
            primitive(*arrays, **attributes)
            shapes = tuple(getattr(array, "shape", None) for array in arrays)
            size = bytes_of(array for array in arrays if runtime.owns(array))
            calls.append(Call(name, shapes, attributes, size, runtime.launches[first:]))

        return call

    primitives.update({name: observed(name, each) for name, each in primitives.items()})
